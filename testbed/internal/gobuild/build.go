package gobuild

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
)

// needFree is the disk space below which a build is not even tried.
const needFree = 4 << 30

// Progress is how far a Build is. Fraction never goes back; Left is a guess from
// what builds cost and how fast this one has been so far.
type Progress struct {
	Asset    string // set that is being built; empty while waiting or checking
	Done     int    // binaries
	Total    int
	Fraction float64 // 0 to 1
	Left     time.Duration
	Detail   string // what is going on
}

// Error is a failure that the user can mend.
type Error struct {
	Err    error
	Remedy string
}

// Error gives the cause and the remedy.
func (e *Error) Error() string { return e.Err.Error() + "\nfix: " + e.Remedy }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Fix is the remedy alone.
func (e *Error) Fix() string { return e.Remedy }

// Builder is a Build with everything given. Cache must be set, the rest has
// defaults.
type Builder struct {
	Group    Group
	Cache    string
	Log      *slog.Logger
	Progress func(Progress) // called by one goroutine at a time, every second and at each step
	Runner   command.Runner
	Clock    clock.WithTicker
	Free     func(path string) (uint64, error) // bytes that we may still write at path
}

// Build makes sure that all assets are in the cache, and returns their folder. It
// builds what is missing, which may take many minutes from nothing, and does
// nothing if nothing is. Cancelled, it keeps what it finished.
func Build(ctx context.Context, cache string, log *slog.Logger, progress func(Progress)) (Assets, error) {
	return (&Builder{Cache: cache, Log: log, Progress: progress}).Build(ctx)
}

// Build is the function Build.
func (b *Builder) Build(ctx context.Context) (Assets, error) {
	p, err := b.Group.locate(b.Cache)
	if err != nil {
		return Assets{}, err
	}
	missing, err := p.missing()
	if err != nil || len(missing) == 0 {
		return p.all, err
	}
	w := &work{
		place:  p,
		log:    cmp.Or(b.Log, slog.New(slog.DiscardHandler)),
		runner: b.Runner, clock: b.Clock, free: b.Free,
	}
	if w.runner == nil {
		w.runner = command.Local{}
	}
	if w.clock == nil {
		w.clock = clock.RealClock{}
	}
	if w.free == nil {
		w.free = free
	}
	w.meter = &meter{clock: w.clock, report: b.Progress}
	if err := w.run(ctx); err != nil {
		return Assets{}, fmt.Errorf("assets: %w", explain(err))
	}
	return p.all, nil
}

// Own builds the programs of this project, ./cmd/... of moduleRoot, into outDir,
// with the flags of `make build` so that both share what is compiled.
func Own(ctx context.Context, moduleRoot, outDir string) error {
	out, err := filepath.Abs(outDir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	_, err = command.Local{}.Run(ctx, command.Cmd{
		Argv: []string{"go", "build", "-o", out + "/", "./cmd/..."},
		Dir:  moduleRoot, Env: []string{"CGO_ENABLED=0"},
	})
	if err != nil {
		return fmt.Errorf("build own programs: %w", explain(err))
	}
	return nil
}

// work is one Build under way.
type work struct {
	place
	log    *slog.Logger
	runner command.Runner
	clock  clock.WithTicker
	free   func(string) (uint64, error)
	meter  *meter
}

// job is what has to be built of one set, by one invocation of go.
type job struct {
	set
	dir     string
	missing []binary
}

func (j job) cost() time.Duration {
	var d time.Duration
	for _, b := range j.missing {
		d += b.cost
	}
	return d
}

func (w *work) run(ctx context.Context) error {
	if err := os.MkdirAll(w.root, 0o755); err != nil {
		return err
	}
	unlock, err := w.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	jobs, err := w.jobs() // another build may have done all of it
	if err != nil {
		return err
	}
	if len(jobs) > 0 {
		w.meter.plan(jobs)
		w.meter.say("checking go and disk space")
		if err := w.check(ctx, jobs[0]); err != nil {
			return err
		}
	}
	for _, j := range jobs {
		if err := w.build(ctx, j); err != nil {
			return fmt.Errorf("build %s %s: %w", names(j.missing), j.version, err)
		}
	}
	return w.link()
}

// lock makes us the only build in this cache.
func (w *work) lock(ctx context.Context) (unlock func(), err error) {
	path := filepath.Join(w.root, ".lock")
	l := flock.New(path)
	tick := w.clock.NewTicker(time.Second)
	defer tick.Stop()
	for {
		ok, err := l.TryLock()
		if err != nil {
			return nil, fmt.Errorf("lock: %w", err)
		}
		if ok {
			return func() { _ = l.Unlock() }, nil
		}
		w.meter.say("waiting for another build, which holds " + path)
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for another build, which holds %s: %w", path, context.Cause(ctx))
		case <-tick.C():
		}
	}
}

// jobs gives what is missing, in the order of sets.
func (w *work) jobs() ([]job, error) {
	var out []job
	for _, s := range w.group.sets() {
		j := job{set: s, dir: w.sets[s.name]}
		for _, b := range s.binaries {
			ok, err := built(filepath.Join(j.dir, b.name))
			if err != nil {
				return nil, err
			}
			if !ok {
				j.missing = append(j.missing, b)
			}
		}
		if len(j.missing) > 0 {
			out = append(out, j)
		}
	}
	return out, nil
}

// environment is what makes go build the same whatever is set around it. (An empty
// GOFLAGS would not do: go takes the user's default then.)
func environment() []string {
	return []string{"CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off", "GO111MODULE=on",
		"GOOS=" + runtime.GOOS, "GOARCH=" + runtime.GOARCH}
}

// check finds out early what would break the build late.
func (w *work) check(ctx context.Context, j job) error {
	dir, err := w.source(j)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	res, err := w.runner.Run(ctx, command.Cmd{
		Argv: []string{"go", "env", "-json", "GOVERSION", "GOCACHE", "GOMODCACHE"}, Dir: dir, Env: environment()})
	if err != nil {
		return err
	}
	var env struct{ GOVERSION, GOCACHE, GOMODCACHE string }
	if err := json.Unmarshal(res.Stdout, &env); err != nil {
		return fmt.Errorf("go env: %w", err)
	}
	w.log.Debug("go found", "version", env.GOVERSION, "cache", env.GOCACHE)
	for _, at := range []string{w.root, env.GOCACHE, env.GOMODCACHE} {
		if at == "" || at == "off" {
			continue
		}
		n, err := w.free(at)
		if err != nil {
			return err
		}
		if n < needFree {
			return &Error{
				Err:    fmt.Errorf("%.1f GB are free at %s, %d GB are needed", float64(n)/(1<<30), at, needFree>>30),
				Remedy: "free disk space there (`go clean -cache` may help), or move it: XDG_CACHE_HOME for the assets, GOCACHE and GOMODCACHE for go",
			}
		}
	}
	return nil
}

// free is the space on the disk of path, or of the nearest folder above that exists.
func free(path string) (uint64, error) {
	var s unix.Statfs_t
	err := unix.Statfs(path, &s)
	for errors.Is(err, unix.ENOENT) && path != filepath.Dir(path) {
		path = filepath.Dir(path)
		err = unix.Statfs(path, &s)
	}
	if err != nil {
		return 0, fmt.Errorf("free space at %s: %w", path, err)
	}
	return s.Bavail * uint64(s.Bsize), nil
}

// source writes a set's pins into a new folder within that of the set, after
// removing those of killed builds.
func (w *work) source(j job) (string, error) {
	if err := os.MkdirAll(j.dir, 0o755); err != nil {
		return "", err
	}
	old, err := filepath.Glob(filepath.Join(j.dir, ".build-*"))
	if err != nil {
		return "", err
	}
	for _, o := range old {
		if err := os.RemoveAll(o); err != nil {
			return "", err
		}
	}
	dir, err := os.MkdirTemp(j.dir, ".build-")
	if err != nil {
		return "", err
	}
	mod, sum, err := j.pin()
	if err != nil {
		return "", err
	}
	return dir, errors.Join(
		os.WriteFile(filepath.Join(dir, "go.mod"), mod, 0o644),
		os.WriteFile(filepath.Join(dir, "go.sum"), sum, 0o644),
		os.Mkdir(filepath.Join(dir, "out"), 0o755))
}

// build makes a job's binaries in one invocation, so that they share what is
// compiled, and moves them to their place when all are whole.
func (w *work) build(ctx context.Context, j job) (err error) {
	dir, err := w.source(j)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	out := filepath.Join(dir, "out")
	to := out + "/"
	if len(j.missing) == 1 {
		to += j.missing[0].name // a package's own name may be another
	}
	argv := append([]string{"go", "build", "-v", "-trimpath", "-o", to}, j.args...)
	for _, b := range j.missing {
		argv = append(argv, b.pkg)
	}
	began := w.clock.Now()
	w.log.Info("building", "set", j.name, "version", j.version, "binaries", names(j.missing))
	w.meter.begin(j)
	stop := w.meter.tick()
	_, err = w.runner.Run(ctx, command.Cmd{Argv: argv, Dir: dir, Env: environment(), Stderr: &command.Lines{Each: func(l string) { w.meter.line(strings.TrimSpace(l)) }}})
	stop()
	if err != nil {
		return err
	}
	for _, b := range j.missing {
		if err := os.Rename(filepath.Join(out, b.name), filepath.Join(j.dir, b.name)); err != nil {
			return err
		}
	}
	w.meter.end()
	w.log.Info("built", "set", j.name, "took", w.clock.Since(began).Round(time.Second))
	return nil
}

// explain adds the remedy to failures of go whose cause is known.
func explain(err error) error {
	var known *Error
	var failed *command.Error
	if errors.As(err, &known) || !errors.As(err, &failed) {
		return err
	}
	if errors.Is(err, exec.ErrNotFound) {
		return &Error{Err: fmt.Errorf("go is not installed, or not in PATH: %w", err),
			Remedy: "install Go 1.21 or later (https://go.dev/dl, or `apt install golang-go` where that is new enough)"}
	}
	for _, k := range []struct {
		what, remedy string
		signs        []string
	}{
		{"go is too old", "install the Go version that it asks for (https://go.dev/dl), or let Go 1.21 and later fetch it: `go env -w GOTOOLCHAIN=auto`",
			[]string{"requires go >=", "invalid go version", "unknown directive: toolchain", "toolchain not available"}},
		{"the disk is full", "free disk space, or move XDG_CACHE_HOME, GOCACHE, GOMODCACHE or TMPDIR elsewhere, and run it again: what is built stays",
			[]string{"no space left on device", "disk quota exceeded"}},
		{"memory ran out", "free about 4 GB of memory, and run it again: what is built stays",
			[]string{"signal: killed", "cannot allocate memory", "out of memory"}},
		{"the Go module proxy cannot be reached", "check the network, or name a proxy that can be reached (`go env -w GOPROXY=...`), and run it again: what is built stays",
			[]string{"dial tcp", "no such host", "connection refused", "connection reset", "i/o timeout", "TLS handshake timeout", "proxyconnect",
				"network is unreachable", "Client.Timeout", "disabled by GOPROXY=off", "Bad Gateway", "Service Unavailable", "tls: failed to verify"}},
	} {
		for _, s := range k.signs {
			if strings.Contains(failed.Tail, s) {
				return &Error{Err: fmt.Errorf("%s: %w", k.what, err), Remedy: k.remedy}
			}
		}
	}
	return err
}
