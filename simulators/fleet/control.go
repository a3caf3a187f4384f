package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
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
	maxPatch  = 64 << 10
	maxAnswer = 64 << 20
)

func (f *fleet) handler(log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/boards", func(w http.ResponseWriter, _ *http.Request) {
		all := make([]Board, len(f.names))
		for i, name := range f.names {
			all[i] = f.boards[name].State()
		}
		answer(w, http.StatusOK, all)
	})
	named := func(h func(http.ResponseWriter, *http.Request, *board.Board)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			b := f.boards[r.PathValue("name")]
			if b == nil {
				refuse(w, http.StatusNotFound, fmt.Errorf("no board %q; there are %s", r.PathValue("name"), some(f.names)))
				return
			}
			h(w, r, b)
		}
	}
	mux.HandleFunc("GET /v1/boards/{name}", named(func(w http.ResponseWriter, _ *http.Request, b *board.Board) {
		answer(w, http.StatusOK, b.State())
	}))
	mux.HandleFunc("PATCH /v1/boards/{name}", named(func(w http.ResponseWriter, r *http.Request, b *board.Board) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPatch))
		if err != nil {
			code := http.StatusBadRequest
			if over := (*http.MaxBytesError)(nil); errors.As(err, &over) {
				code = http.StatusRequestEntityTooLarge
			}
			refuse(w, code, err)
			return
		}
		p, err := parsePatch(body)
		if err == nil {
			err = b.Set(p)
		}
		if err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		state := b.State()
		log.Info("board changed", "board", state.Name, "rate", state.Rate, "latency", state.Latency, "parts", len(p.Parts))
		answer(w, http.StatusOK, state)
	}))
	return mux
}

// some of many names, for an error.
func some(names []string) string {
	const n = 10
	if len(names) > n {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
	}
	return strings.Join(names, ", ")
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // or the client is gone
}

func refuse(w http.ResponseWriter, code int, err error) {
	answer(w, code, map[string]string{"error": err.Error()})
}

// parsePatch reads a Patch strictly: every error names its field.
func parsePatch(body []byte) (Patch, error) {
	var p Patch
	err := fields("", body, map[string]func(string, []byte) error{
		"rate": value(&p.Rate, "a number of Hz"),
		"latency": func(at string, raw []byte) error {
			p.Latency = &LatencyPatch{}
			return fields(at, raw, map[string]func(string, []byte) error{
				"median": value(&p.Latency.Median, `a duration such as "5ms"`),
				"jitter": value(&p.Latency.Jitter, `a duration such as "1ms"`),
			})
		},
		"parts": func(at string, raw []byte) error {
			var parts map[string]json.RawMessage
			if err := json.Unmarshal(raw, &parts); err != nil {
				return fmt.Errorf("%s: %w", at, err)
			}
			p.Parts = map[string]topology.Declared{}
			for name, raw := range parts {
				var d topology.Declared
				if err := fields(at+"."+name, raw, map[string]func(string, []byte) error{
					"latency": value(&d.Latency, "a string"), "latencyUnit": value(&d.LatencyUnit, "a string"),
					"manufacturer": value(&d.Manufacturer, "a string"), "market": value(&d.Market, "a string"),
				}); err != nil {
					return err
				}
				p.Parts[name] = d
			}
			return nil
		},
	})
	return p, err
}

// fields hands each field of an object to its reader.
func fields(at string, raw []byte, known map[string]func(at string, raw []byte) error) error {
	prefix := at
	if at != "" {
		prefix, at = at+": ", at+"."
	}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(raw, &given); err != nil {
		return fmt.Errorf("%swant an object: %w", prefix, err)
	}
	for name, raw := range given {
		read, ok := known[name]
		if !ok {
			names := make([]string, 0, len(known))
			for k := range known {
				names = append(names, k)
			}
			slices.Sort(names)
			return fmt.Errorf("%s%s: unknown field, want one of %s", at, name, strings.Join(names, ", "))
		}
		if string(raw) == "null" {
			continue
		}
		if err := read(at+name, raw); err != nil {
			return err
		}
	}
	return nil
}

func value[T any](into **T, want string) func(string, []byte) error {
	return func(at string, raw []byte) error {
		if err := json.Unmarshal(raw, into); err != nil {
			return fmt.Errorf("%s: %.100s, want %s: %w", at, raw, want, err)
		}
		return nil
	}
}

// Client of the control API.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient is for the API on a unix socket; nothing is dialled yet, and nothing
// is kept open between calls.
func NewClient(socket string) *Client {
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", socket)
		},
	}}}
}

// Boards are all boards of the process.
func (c *Client) Boards(ctx context.Context) ([]Board, error) {
	var all []Board
	err := c.do(ctx, http.MethodGet, "", nil, &all)
	return all, err
}

// Board is one of them.
func (c *Client) Board(ctx context.Context, name string) (Board, error) {
	var b Board
	err := c.do(ctx, http.MethodGet, "/"+url.PathEscape(name), nil, &b)
	return b, err
}

// Patch changes one and returns it as it is then. The error of a patch that the
// board refused names the field.
func (c *Client) Patch(ctx context.Context, name string, p Patch) (Board, error) {
	var b Board
	err := c.do(ctx, http.MethodPatch, "/"+url.PathEscape(name), p, &b)
	return b, err
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("boards: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://boards/v1/boards"+path, body)
	if err != nil {
		return fmt.Errorf("boards: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("boards at %s: %w", c.socket, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("boards at %s: %w", c.socket, err)
	}
	if resp.StatusCode != http.StatusOK {
		var e struct {
			Error string `json:"error"`
		}
		if json.Unmarshal(b, &e) != nil || e.Error == "" {
			e.Error = fmt.Sprintf("%s: %.200s", resp.Status, b)
		}
		return fmt.Errorf("boards: %s", e.Error)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("boards at %s: %w", c.socket, err)
	}
	return nil
}
