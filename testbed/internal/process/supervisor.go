package process

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/gofrs/flock"
)

// lockTimeout is how long a supervisor waits for one that is about to end.
const lockTimeout = 60 * time.Second

// supervisor is the state of a running Serve.
type supervisor struct {
	dirs   Dirs
	id     string
	log    *slog.Logger
	hasher hasher
	quiet  chan struct{} // closed when stopping begins
	ended  chan struct{} // closed when Shutdown has stopped everything

	mu       sync.Mutex
	slots    map[string]*slot
	order    int // of the next slot
	stopping bool
}

// slot is the place of one name. Whoever changes what runs there holds op.
type slot struct {
	order int

	op   sync.Mutex
	gone bool // removed, a later Apply needs a new slot

	mu sync.Mutex
	c  *component // nil: not started yet
}

func (s *slot) component() *component {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.c
}

// Serve is the supervisor of testbed id. It first ends what an earlier, killed
// supervisor left running and starts all recorded components again; then it
// serves clients until Shutdown or the end of ctx. Both stop all components, the
// last applied first; after Shutdown nothing is recorded any more, after the end
// of ctx the next Serve starts them again. It returns an error at once if
// another supervisor serves this testbed, or if its folders, which Start makes,
// are not there.
func Serve(ctx context.Context, d Dirs, id string, log *slog.Logger) (err error) {
	if id == "" {
		return errors.New("supervise: no id given")
	}
	// Start makes the folders. If they are gone, so is the testbed: a supervisor
	// that comes up late, after a killed Start and a Reap, must not bring it back.
	for _, p := range []string{d.State, d.Run} {
		if _, err := os.Stat(p); err != nil {
			return fmt.Errorf("supervise: %w", err)
		}
	}
	if err := d.make(); err != nil {
		return err
	}
	lock := flock.New(d.lock(), flock.SetPermissions(0o600))
	if err := acquire(ctx, d, lock); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()

	if left, err := Owned(id); err == nil && len(left) > 0 {
		log.Warn("an earlier supervisor left processes, ending them", "pids", left)
	}
	if err := Reap(ctx, id); err != nil {
		return err
	}
	s := &supervisor{dirs: d, id: id, log: log, slots: map[string]*slot{},
		quiet: make(chan struct{}), ended: make(chan struct{})}
	recs, err := d.records(id)
	if err != nil {
		log.Warn("some records cannot be used", "err", err)
	}
	defer s.stop(false)
	for _, r := range recs {
		if _, err := s.apply(ctx, r.Spec); err != nil {
			log.Warn("recorded component does not start", "name", r.Spec.Name, "err", err)
		}
	}

	if err := os.Remove(d.socket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", d.socket())
	if err != nil {
		return err
	}
	defer l.Close() // removes the socket
	if err := os.Chmod(d.socket(), 0o600); err != nil {
		return err
	}
	srv := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	log.Info("supervisor serves", "socket", d.socket(), "pid", os.Getpid(), "recorded", len(recs))
	select {
	case err = <-failed:
		return fmt.Errorf("supervise: %w", err)
	case <-ctx.Done():
		s.stop(false)
	case <-s.ended:
	}
	// Answers under way, that to Shutdown among them, get out.
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := srv.Shutdown(ending); err != nil {
		_ = srv.Close()
	}
	<-failed
	log.Info("supervisor ends")
	return nil
}

// acquire takes the lock, waiting for a supervisor that is about to end but not
// for one that serves.
func acquire(ctx context.Context, d Dirs, lock *flock.Flock) error {
	ctx, cancel := context.WithTimeoutCause(ctx, lockTimeout,
		fmt.Errorf("another process holds %s since more than %s and does not answer", d.lock(), lockTimeout))
	defer cancel()
	for {
		ok, err := lock.TryLock()
		if err != nil {
			return fmt.Errorf("supervise: lock: %w", err)
		}
		if ok {
			return nil
		}
		if c, err := Connect(ctx, d); err == nil {
			return fmt.Errorf("supervise: %w, pid %d", errRunning, c.pid)
		}
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("supervise: %w", err)
		}
	}
}

var (
	errRunning  = errors.New("another supervisor already runs")
	errStopping = errors.New("the supervisor is stopping")
	errUnknown  = errors.New("no such component")
)

// get gives the slot of a name, a new one if there is none.
func (s *supervisor) get(name string) (*slot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return nil, errStopping
	}
	if sl := s.slots[name]; sl != nil {
		return sl, nil
	}
	for other := range s.slots {
		if s.dirs.log(other) == s.dirs.log(name) {
			return nil, fmt.Errorf("%w %q: its log would be that of %s", errBadSpec, name, other)
		}
	}
	s.order++
	sl := &slot{order: s.order}
	s.slots[name] = sl
	return sl, nil
}

// list gives all slots in the order of their first Apply.
func (s *supervisor) list() []*slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*slot, 0, len(s.slots))
	for _, sl := range s.slots {
		out = append(out, sl)
	}
	slices.SortFunc(out, func(a, b *slot) int { return cmp.Compare(a.order, b.order) })
	return out
}

// apply makes spec run: it starts it, restarts it if its hash differs, or keeps
// it. It waits for the start, not for readiness. With an error of the start the
// component stays, and is tried again.
func (s *supervisor) apply(ctx context.Context, spec Spec) (changed bool, err error) {
	if err := spec.check(); err != nil {
		return false, err
	}
	hash, err := s.hasher.spec(spec)
	if err != nil {
		return false, fmt.Errorf("%w %q: %w", errBadSpec, spec.Name, err)
	}
	for {
		sl, err := s.get(spec.Name)
		if err != nil {
			return false, err
		}
		sl.op.Lock()
		if !sl.gone {
			defer sl.op.Unlock()
			return s.replace(ctx, sl, spec, hash)
		}
		sl.op.Unlock()
	}
}

// replace is apply within a slot whose op is held.
func (s *supervisor) replace(ctx context.Context, sl *slot, spec Spec, hash string) (bool, error) {
	s.mu.Lock()
	stopping := s.stopping
	s.mu.Unlock()
	if stopping { // stop may have passed this slot already
		return false, errStopping
	}
	if c := sl.component(); c != nil {
		if r := c.report(); r.Hash == hash && r.Spec.External == spec.External {
			if err := c.update(spec); err != nil {
				return false, fmt.Errorf("write record of %s: %w", spec.Name, err)
			}
			select {
			case c.kick <- struct{}{}: // it waits for its next start
			default:
			}
			return false, nil
		}
		c.stop()
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &component{dirs: s.dirs, id: s.id, order: sl.order, hasher: &s.hasher, log: s.log, quiet: s.quiet,
		cancel: cancel, done: make(chan struct{}), first: make(chan error, 1), kick: make(chan struct{}),
		spec: spec, status: Status{Hash: hash, Reason: "starting"}}
	sl.mu.Lock()
	sl.c = c
	sl.mu.Unlock()
	if spec.External {
		if err := s.dirs.save(record{ID: s.id, Order: sl.order, Spec: spec}); err != nil {
			s.log.Warn("external component is not recorded", "name", spec.Name, "err", err)
		}
	}
	go c.run(running)
	if err := <-c.first; err != nil {
		return true, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	return true, nil
}

// remove stops a component and forgets it.
func (s *supervisor) remove(name string) error {
	s.mu.Lock()
	sl := s.slots[name]
	s.mu.Unlock()
	if sl == nil {
		return nil // as wanted
	}
	sl.op.Lock()
	defer sl.op.Unlock()
	if sl.gone {
		return nil
	}
	if c := sl.component(); c != nil {
		c.stop()
	}
	if err := s.dirs.forget(name); err != nil {
		return err
	}
	sl.gone = true
	s.mu.Lock()
	delete(s.slots, name)
	s.mu.Unlock()
	return nil
}

// stop stops all components, the last applied first, and forgets them if told so.
func (s *supervisor) stop(forget bool) {
	s.mu.Lock()
	if !s.stopping {
		s.stopping = true
		close(s.quiet)
	}
	s.mu.Unlock()
	for _, sl := range slices.Backward(s.list()) {
		sl.op.Lock()
		if c := sl.component(); c != nil {
			c.stop()
		}
		sl.op.Unlock()
	}
	if forget {
		if err := s.dirs.forgetAll(); err != nil {
			s.log.Warn("records stay", "err", err)
		}
	}
}

// about is what a supervisor says of itself.
type about struct {
	ID       string `json:"id"`
	PID      int    `json:"pid"`
	Stopping bool   `json:"stopping"`
}

// handler serves clients.
func (s *supervisor) handler() http.Handler {
	mux := http.NewServeMux()
	var shutdown sync.Once
	mux.HandleFunc("GET /v1/supervisor", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		a := about{ID: s.id, PID: os.Getpid(), Stopping: s.stopping}
		s.mu.Unlock()
		answer(w, a, nil)
	})
	mux.HandleFunc("GET /v1/components", func(w http.ResponseWriter, _ *http.Request) {
		out := []Status{}
		for _, sl := range s.list() {
			if c := sl.component(); c != nil {
				out = append(out, c.report())
			}
		}
		answer(w, out, nil)
	})
	mux.HandleFunc("POST /v1/components", func(w http.ResponseWriter, r *http.Request) {
		var spec Spec
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<20))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&spec); err != nil {
			answer(w, nil, fmt.Errorf("%w: %w", errBadSpec, err))
			return
		}
		changed, err := s.apply(r.Context(), spec)
		answer(w, applied{Changed: changed}, err)
	})
	mux.HandleFunc("DELETE /v1/components", func(w http.ResponseWriter, r *http.Request) {
		names := r.URL.Query()["name"]
		errs := make([]error, len(names))
		var wg sync.WaitGroup
		for i, n := range names {
			wg.Go(func() { errs[i] = s.remove(n) })
		}
		wg.Wait()
		answer(w, struct{}{}, errors.Join(errs...))
	})
	mux.HandleFunc("POST /v1/shutdown", func(w http.ResponseWriter, _ *http.Request) {
		s.stop(true)
		shutdown.Do(func() { close(s.ended) })
		answer(w, struct{}{}, nil)
	})
	return mux
}

type applied struct {
	Changed bool `json:"changed"`
}

type failure struct {
	Error string `json:"error"`
}

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		code := http.StatusInternalServerError
		switch {
		case errors.Is(err, errStopping):
			code = http.StatusServiceUnavailable
		case errors.Is(err, errBadSpec):
			code = http.StatusBadRequest
		}
		w.WriteHeader(code)
		v = failure{Error: err.Error()}
	}
	_ = json.NewEncoder(w).Encode(v)
}
