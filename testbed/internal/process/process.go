// Package process keeps a testbed's components running after the command that
// started them has ended.
//
// One supervisor per testbed, a detached process in a session of its own, starts
// components, restarts them with backoff (200 ms to 10 s), probes whether they
// are ready, and answers on a unix socket. Clients say what should run; the
// supervisor writes it down before it acts.
//
// Invariants:
//   - Supervisor and components have TESTBED_ID=<id> in their environment, and so
//     has whatever they start: Reap finds all of it, whoever died and when.
//     An id belongs to one testbed in one place; the caller makes it so.
//   - A process is ours only if its pid, its start time and TESTBED_ID agree.
//     A signal never reaches a process that merely got a pid of ours again.
//   - A lock in Dirs.State makes two supervisors of one testbed impossible.
//   - Components go on when a supervisor is killed. The next one ends what is
//     left and starts the components again from their records, in the order in
//     which they were first applied.
//   - A component's output goes to its log file by itself, not through the
//     supervisor. A log over 8 MiB is renamed to *.log.1 at the next start.
//
// A component's environment is Spec.Env and TESTBED_ID, upon PATH, HOME, USER,
// TMPDIR, TZ and LANG of the supervisor. It reads from /dev/null.
//
// Try it with `go test -v ./testbed/internal/process`; in a testbed,
// `curl --unix-socket <run>/supervisor.sock http://supervisor/v1/components`.
package process

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// EnvID is the variable that marks a testbed's processes.
const EnvID = "TESTBED_ID"

// ErrNotRunning says that no supervisor of the testbed answers.
var ErrNotRunning = errors.New("no supervisor runs")

// Dirs are the folders of one testbed.
type Dirs struct {
	State string // records and logs: persistent, 0700
	Run   string // sockets: a short path, 0700
}

func (d Dirs) socket() string     { return filepath.Join(d.Run, "supervisor.sock") }
func (d Dirs) lock() string       { return filepath.Join(d.State, "supervisor.lock") }
func (d Dirs) logs() string       { return filepath.Join(d.State, "logs") }
func (d Dirs) components() string { return filepath.Join(d.State, "components") }
func (d Dirs) log(name string) string {
	return filepath.Join(d.logs(), strings.ReplaceAll(name, "/", "-")+".log")
}

// record is the path of a component's record. No name holds an underscore.
func (d Dirs) record(name string) string {
	return filepath.Join(d.components(), strings.ReplaceAll(name, "/", "_")+".json")
}

// maxSocketPath is what fits into a sockaddr_un on every system, without its
// final zero.
const maxSocketPath = 103

// make makes the folders.
func (d Dirs) make() error {
	if d.State == "" || d.Run == "" {
		return fmt.Errorf("process: folders for state %q and sockets %q must both be given", d.State, d.Run)
	}
	if n := len(d.socket()); n > maxSocketPath {
		return fmt.Errorf("process: socket path %s has %d bytes, at most %d work: choose a shorter run folder", d.socket(), n, maxSocketPath)
	}
	for _, p := range []string{d.State, d.Run, d.logs(), d.components()} {
		if err := os.MkdirAll(p, 0o700); err != nil {
			return fmt.Errorf("process: %w", err)
		}
	}
	return nil
}

// Probe says when a component is ready. At most one of URL, Unix and TCP is set;
// with none it is ready when it has run for 200 ms.
type Probe struct {
	URL                       string `json:"url,omitempty"`  // ready when GET answers 200
	CAFile, CertFile, KeyFile string `json:",omitempty"`     // for an https URL; PEM
	Unix                      string `json:"unix,omitempty"` // ready when this socket accepts
	TCP                       string `json:"tcp,omitempty"`  // ready when this host:port accepts
}

// Spec is what should run.
type Spec struct {
	Name string   `json:"name"` // <cluster>/<name>[/<node>]
	Path string   `json:"path,omitempty"`
	Args []string `json:"args,omitempty"` // without the program's name
	Env  []string `json:"env,omitempty"`  // NAME=value, the last of a name counts
	Dir  string   `json:"dir,omitempty"`  // working directory; empty is Dirs.State

	Probe Probe  `json:"probe"`
	URL   string `json:"url,omitempty"` // how people reach it

	// External: somebody else runs it. It is recorded and probed, never started
	// nor stopped.
	External bool `json:"external,omitempty"`

	// ConfigHash stands for the content of the files that it reads at its start.
	ConfigHash string `json:"configHash,omitempty"`

	StopTimeout time.Duration `json:"stopTimeout,omitempty"` // from SIGTERM to SIGKILL; 0 is 5 s
}

var (
	goodName   = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[a-z0-9]([a-z0-9.-]*[a-z0-9])?){1,2}$`)
	errBadSpec = errors.New("bad component")
)

// check names everything that is wrong with a spec.
func (s Spec) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !goodName.MatchString(s.Name) || len(s.Name) > 200 {
		bad("name must be <cluster>/<name> or <cluster>/<name>/<node>, of lower-case letters, digits, dots and dashes, at most 200 long")
	}
	if !s.External && !filepath.IsAbs(s.Path) {
		bad("path %q must be absolute", s.Path)
	}
	if s.Dir != "" && !filepath.IsAbs(s.Dir) {
		bad("dir %q must be absolute", s.Dir)
	}
	for _, e := range s.Env {
		if i := strings.IndexByte(e, '='); i < 1 || strings.ContainsRune(e, 0) {
			bad("env must hold NAME=value only") // not the value: it may be secret
		} else if e[:i] == EnvID {
			bad("env must not set %s", EnvID)
		}
	}
	n := 0
	for _, v := range []string{s.Probe.URL, s.Probe.Unix, s.Probe.TCP} {
		if v != "" {
			n++
		}
	}
	if n > 1 {
		bad("probe must have at most one of url, unix and tcp")
	}
	if s.External && n == 0 {
		bad("probe of an external component must have one of url, unix and tcp")
	}
	if s.StopTimeout < 0 {
		bad("stop timeout %s must not be negative", s.StopTimeout)
	}
	if len(errs) > 0 {
		return fmt.Errorf("%w %q: %w", errBadSpec, s.Name, errors.Join(errs...))
	}
	return nil
}

func (s Spec) stopTimeout() time.Duration { return cmp.Or(s.StopTimeout, 5*time.Second) }

// Status is what a component does.
type Status struct {
	Name      string    `json:"name"`
	PID       int       `json:"pid"` // 0: does not run
	Ready     bool      `json:"ready"`
	Reason    string    `json:"reason,omitempty"` // why it is not ready: what was last observed
	Restarts  int       `json:"restarts"`         // since it was applied with this hash
	Log       string    `json:"log"`
	RSSBytes  int64     `json:"rssBytes"`
	Hash      string    `json:"hash"` // of binary content, arguments, environment, folder and ConfigHash, at its start
	Spec      Spec      `json:"spec"`
	StartedAt time.Time `json:"startedAt"`
	// LastEnd is how its last run ended, "ended with signal: killed after 3s"; empty if
	// it runs for the first time since it was applied with this hash.
	LastEnd string `json:"lastEnd,omitempty"`
}

// hasher computes what decides about a restart. It remembers the binaries that
// it has read, by path, size and time.
type hasher struct {
	mu    sync.Mutex
	known map[binary]string
}

type binary struct {
	path        string
	dev, ino    uint64
	size, mtime int64
}

// spec gives the hash of all that a component is made from.
func (h *hasher) spec(s Spec) (string, error) {
	sum := sha256.New()
	put := func(parts ...string) {
		fmt.Fprintf(sum, "%d", len(parts))
		for _, p := range parts {
			fmt.Fprintf(sum, " %d %s", len(p), p)
		}
	}
	bin := "external"
	if !s.External {
		var err error
		if bin, err = h.file(s.Path); err != nil {
			return "", err
		}
	}
	put(bin, s.Path, s.Dir, s.ConfigHash)
	put(s.Args...)
	put(s.Env...)
	return hex.EncodeToString(sum.Sum(nil)[:16]), nil
}

func (h *hasher) file(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	key := binary{path: path, size: info.Size(), mtime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		key.dev, key.ino = uint64(st.Dev), uint64(st.Ino)
	}
	h.mu.Lock()
	known, ok := h.known[key]
	h.mu.Unlock()
	if ok {
		return known, nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	out := hex.EncodeToString(sum.Sum(nil))
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known == nil {
		h.known = map[binary]string{}
	}
	h.known[key] = out
	return out, nil
}

// wait waits for d or the end of ctx.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
