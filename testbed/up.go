package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/fluidos-edge/testbed/testbed/internal/backend"
	"github.com/fluidos-edge/testbed/testbed/internal/backend/embedded"
	"github.com/fluidos-edge/testbed/testbed/internal/backend/kind"
	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/gobuild"
	"github.com/fluidos-edge/testbed/testbed/internal/process"
	"github.com/fluidos-edge/testbed/testbed/internal/state"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

var nameFormat = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$`)

// normalize fills in defaults and checks the name, which becomes a folder.
func (o *Options) normalize() error {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if !nameFormat.MatchString(o.Name) {
		return &InputError{Field: "name", Value: o.Name, Want: "lower-case letters, digits and -, at most 40, such as \"demo-1\""}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(Event) {}
	}
	return nil
}

// BuildAssets builds what the embedded backend runs, unless it is in the cache.
func BuildAssets(ctx context.Context, o Options) error {
	if err := o.normalize(); err != nil {
		return err
	}
	_, err := newPhases(o.Progress).assets(ctx, o.Log)
	return err
}

// Up brings a testbed about, or makes one that runs as described. It undoes
// what it made if it fails or ctx ends, unless Retain.
func Up(ctx context.Context, o Options) (*Status, error) {
	if err := o.normalize(); err != nil {
		return nil, err
	}
	if err := o.checkPair(); err != nil {
		return nil, err
	}
	binDir, err := findBinaries(o.BinDir)
	if err != nil {
		return nil, err
	}
	o.BinDir = binDir
	choice, err := Choose(ctx, o)
	if err != nil {
		return nil, err
	}
	if o.Chosen != nil {
		o.Chosen(choice)
	}
	ph := newPhases(o.Progress)
	if choice.Backend == BackendEmbedded {
		// Before the lock: this may take many minutes, and changes no testbed.
		if _, err := ph.assets(ctx, o.Log); err != nil {
			return nil, err
		}
	}
	unlock, err := state.Lock(ctx, o.Name, func() { o.Log.Info("waiting for another command on this testbed") })
	if err != nil {
		return nil, err
	}
	defer unlock()

	rec, err := state.Load(o.Name)
	switch {
	case state.Absent(err):
		if rec, err = state.New(o.Name); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, fmt.Errorf("%w; `testbed down --name %s` removes it", err, o.Name)
	}
	adopted := rec.Complete
	if err := describe(rec, choice, o); err != nil {
		if !adopted && rec.Topology == nil {
			_ = state.Remove(o.Name) // nothing was begun
		}
		return nil, err
	}
	// From here on, what this run makes can be found again.
	if err := rec.Save(); err != nil {
		return nil, err
	}
	b, err := newBackend(rec, o)
	if err == nil {
		err = b.Up(ctx, ph.step)
	}
	if err == nil {
		rec.Complete, rec.Phases = true, ph.times()
		err = rec.Save()
	}
	if err != nil {
		if o.Retain || adopted {
			// What ran before this run goes on; a second Up continues.
			return nil, err
		}
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoDeadline)
		defer cancel()
		if uerr := ph.step(undo, "undo", func(func(string)) error { return remove(undo, rec, o) }); uerr != nil {
			return nil, errors.Join(err, fmt.Errorf("undo: %w; `testbed down --name %s` tries again", uerr, o.Name))
		}
		return nil, err
	}
	return status(ctx, rec, b)
}

// undoDeadline bounds the removal of a testbed that did not come up.
const undoDeadline = 3 * time.Minute

// describe brings the record in line with what is asked for.
func describe(rec *state.Record, c Choice, o Options) error {
	t := rec.Topology
	if o.Topology != nil {
		t = o.Topology
	} else if t == nil {
		t = topology.Default()
	}
	if c.Backend == BackendKind {
		if err := kind.Check(rec.Name, t, o.External); err != nil {
			return &InputError{Field: err.Field, Value: err.Value, Want: err.Want}
		}
	}
	rec.Topology, rec.Backend, rec.Edge, rec.BinDir = t, c.Backend, c.Edge, o.BinDir
	rec.External, rec.Images = o.External, o.Images
	if err := os.MkdirAll(rec.RunDir, 0o700); err != nil {
		return err
	}
	// The parent may be in a folder that everybody can write to.
	for _, dir := range []string{filepath.Dir(rec.RunDir), rec.RunDir} {
		if err := private(dir); err != nil {
			return err
		}
	}
	if c.Backend == BackendKind {
		return rec.ChoosePorts(kind.Ports(t))
	}
	return rec.ChoosePorts(embedded.Ports(t))
}

// newBackend is the backend of a record's testbed.
func newBackend(rec *state.Record, o Options) (backend.Backend, error) {
	if rec.Backend == BackendKind {
		return kind.New(rec, kind.Config{Runner: command.Local{}, Assets: buildAssets(o), Cache: state.Cache(), Log: o.Log}), nil
	}
	assets, _, err := gobuild.Locate(state.Cache())
	if err != nil {
		return nil, err
	}
	return embedded.New(rec, assets, o.Log), nil
}

// Supervise is the supervisor's own process; it ends with the testbed.
func Supervise(ctx context.Context, name string) error {
	o := Options{Name: name}
	if err := o.normalize(); err != nil {
		return err
	}
	rec, err := state.Load(o.Name)
	if err != nil {
		return err
	}
	return process.Serve(ctx, embedded.Dirs(rec), rec.ID, slog.New(slog.NewTextHandler(os.Stderr, nil)))
}

// CreateKindCluster is the process in which kind's library creates one cluster,
// as its standard input says.
func CreateKindCluster(stdin io.Reader, stderr io.Writer) error { return kind.Create(stdin, stderr) }

// Down removes a testbed: its processes, and all of its files but caches.
func Down(ctx context.Context, o Options) error {
	if err := o.normalize(); err != nil {
		return err
	}
	if _, err := os.Stat(state.Dir(o.Name)); state.Absent(err) {
		return ErrAbsent
	}
	unlock, err := state.Lock(ctx, o.Name, func() { o.Log.Info("waiting for another command on this testbed") })
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := state.Load(o.Name)
	if err != nil {
		// Killed before it recorded anything, and so before it made anything.
		o.Log.Debug("no record", "err", err)
		return state.Remove(o.Name)
	}
	return newPhases(o.Progress).step(ctx, "down", func(say func(string)) error { return remove(ctx, rec, o) })
}

func remove(ctx context.Context, rec *state.Record, o Options) error {
	b, err := newBackend(rec, o)
	if err == nil {
		err = b.Down(ctx)
	}
	if err != nil {
		return err
	}
	return state.Remove(rec.Name)
}

// findBinaries returns the folder of our own programs.
func findBinaries(dir string) (string, error) {
	if dir == "" {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		dir = filepath.Dir(self)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for _, name := range []string{"testbed", "erm", "router", "relay", "mapper", "boards", "hollowedge"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("program %s is not in %s: %w; `make build` puts all of them into bin/", name, dir, err)
		}
	}
	return dir, nil
}

func private(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() || !ownedByUs(info) || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s is not a folder that only you can use: remove it, or set XDG_RUNTIME_DIR", dir)
	}
	return nil
}

// phases reports and times what Up does. Steps may run at once.
type phases struct {
	report func(Event)
	mu     sync.Mutex
	done   []PhaseTime
}

func newPhases(report func(Event)) *phases { return &phases{report: report} }

func (p *phases) step(ctx context.Context, name string, run func(say func(string)) error) error {
	start := time.Now()
	seconds := func() float64 { return time.Since(start).Seconds() }
	p.send(Event{Phase: name, State: "start", Fraction: -1})
	err := run(func(detail string) {
		p.send(Event{Phase: name, State: "progress", Detail: detail, Fraction: -1, Seconds: seconds()})
	})
	if err != nil {
		detail := err.Error()
		if ctx.Err() != nil {
			detail = "stopped"
		}
		p.send(Event{Phase: name, State: "fail", Detail: detail, Fraction: -1, Seconds: seconds()})
		return err
	}
	p.mu.Lock()
	p.done = append(p.done, PhaseTime{name, seconds()})
	p.mu.Unlock()
	p.send(Event{Phase: name, State: "done", Fraction: 1, Seconds: seconds()})
	return nil
}

func (p *phases) send(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report(e)
}

func (p *phases) times() []state.Phase {
	var all []state.Phase
	for _, t := range p.done {
		all = append(all, state.Phase(t))
	}
	return all
}

func (p *phases) assets(ctx context.Context, log *slog.Logger) (gobuild.Assets, error) {
	a, missing, err := gobuild.Locate(state.Cache())
	if err == nil && len(missing) == 0 {
		return a, nil
	}
	start := time.Now()
	err = p.step(ctx, "assets", func(func(string)) error {
		var err error
		a, err = gobuild.Build(ctx, state.Cache(), log, func(g gobuild.Progress) {
			p.send(Event{Phase: "assets", State: "progress", Detail: fmt.Sprintf("%s (%d of %d) %s", g.Asset, g.Done+1, g.Total, g.Detail),
				Fraction: g.Fraction, Left: g.Left, Seconds: time.Since(start).Seconds()})
		})
		return err
	})
	return a, err
}
