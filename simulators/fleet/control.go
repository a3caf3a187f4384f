package fleet

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/fluidos-edge/testbed/simulators/board"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// Types of the control API.
type (
	// Board is a board as it is now.
	Board = board.State
	// Patch changes a board; what is nil stays.
	Patch = board.Patch
	// LatencyPatch changes how a board behaves.
	LatencyPatch = board.LatencyPatch
)

const (
	maxPatch = 64 << 10
	maxBoard = 8 << 20 // with what it replays
)

func (f *fleet) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/boards", func(w http.ResponseWriter, _ *http.Request) {
		all := []Board{}
		for _, m := range f.all() {
			all = append(all, m.State())
		}
		answer(w, http.StatusOK, all)
	})
	mux.HandleFunc("POST /v1/boards", func(w http.ResponseWriter, r *http.Request) {
		spec, ok := read(w, r, maxBoard, parseBoard)
		if !ok {
			return
		}
		m, err := f.join(spec)
		switch {
		case errors.Is(err, errTaken):
			refuse(w, http.StatusConflict, err)
		case err != nil:
			refuse(w, http.StatusBadRequest, err)
		default:
			f.log.Info("board added", "board", m.name, "model", m.model, "mac", m.address, "nodes", m.nodes)
			answer(w, http.StatusCreated, m.State())
		}
	})
	named := func(h func(http.ResponseWriter, *http.Request, *member)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			m, err := f.board(r.PathValue("name"))
			if err != nil {
				refuse(w, http.StatusNotFound, err)
				return
			}
			h(w, r, m)
		}
	}
	mux.HandleFunc("GET /v1/boards/{name}", named(func(w http.ResponseWriter, _ *http.Request, m *member) {
		answer(w, http.StatusOK, m.State())
	}))
	mux.HandleFunc("PATCH /v1/boards/{name}", named(func(w http.ResponseWriter, r *http.Request, m *member) {
		p, ok := read(w, r, maxPatch, parsePatch)
		if !ok {
			return
		}
		if err := m.Set(p); err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		state := m.State()
		f.log.Info("board changed", "board", state.Name, "rate", state.Rate, "latency", state.Latency, "parts", len(p.Parts))
		answer(w, http.StatusOK, state)
	}))
	mux.HandleFunc("DELETE /v1/boards/{name}", named(func(w http.ResponseWriter, _ *http.Request, m *member) {
		if err := f.remove(m.name); err != nil {
			refuse(w, http.StatusNotFound, err)
			return
		}
		f.log.Info("board removed", "board", m.name)
		w.WriteHeader(http.StatusNoContent)
	}))
	mux.HandleFunc("POST /v1/boards/{name}/faults", named(func(w http.ResponseWriter, r *http.Request, m *member) {
		fault, ok := read(w, r, maxPatch, parseFault)
		if !ok {
			return
		}
		if _, err := f.fault(m.name, fault); err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		f.log.Info("fault", "board", m.name, "fault", fault.Kind, "part", fault.Part, "for", time.Duration(fault.For))
		answer(w, http.StatusOK, m.State())
	}))
	mux.HandleFunc("DELETE /v1/boards/{name}/faults", named(func(w http.ResponseWriter, r *http.Request, m *member) {
		kind := r.URL.Query().Get("kind")
		if err := m.Clear(kind); err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		f.log.Info("faults cleared", "board", m.name, "fault", kind)
		answer(w, http.StatusOK, m.State())
	}))
	return mux
}

// join is add for a board that may leave something open: its name is then the
// next of its model, and one node hears it, in turn.
func (f *fleet) join(spec topology.Board) (*member, error) {
	f.joining.Lock()
	defer f.joining.Unlock()
	nodes := slices.Sorted(maps.Keys(f.radios))
	if len(nodes) == 0 {
		return nil, errors.New("nodes: there is no radio")
	}
	node := nodes[len(f.list())%len(nodes)]
	for n := 1; ; n++ {
		b := spec
		b.SetDefaults(f.seed, n, node)
		if spec.Name == "" {
			if _, err := f.board(b.Name); err == nil {
				continue
			}
		}
		return f.add(b)
	}
}

// read a request's body; if it cannot be read, that is answered.
func read[T any](w http.ResponseWriter, r *http.Request, most int64, parse func([]byte) (T, error)) (v T, ok bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	code := http.StatusBadRequest
	if over := (*http.MaxBytesError)(nil); errors.As(err, &over) {
		code = http.StatusRequestEntityTooLarge
	}
	if err == nil {
		v, err = parse(body)
	}
	if err != nil {
		refuse(w, code, err)
	}
	return v, err == nil
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // or the client is gone
}

func refuse(w http.ResponseWriter, code int, err error) {
	answer(w, code, map[string]string{"error": err.Error()})
}
