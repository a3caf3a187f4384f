// Package doctor says what a host lacks for a testbed, and mends what can be
// mended safely: limits of inotify, and a container engine that cannot start
// privileged containers because the host lacks a capability.
//
// Invariants:
//   - Looking changes nothing, and what cannot be seen is said, not guessed.
//   - Mending is idempotent. It raises limits and never lowers one; what a
//     configuration says of other things stays, and a copy of it is kept.
//   - An engine that runs is stopped only if that was asked for.
//
// Try it with `go test -v ./testbed/internal/doctor`: the test with a real engine
// runs one of its own, and says why where it cannot.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/fluidos-edge/testbed/internal/ociruntime"
	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
)

// What a check found.
const (
	OK   = "ok"
	Warn = "warn" // it works, but not everywhere, or not well
	Fail = "fail" // what needs it does not work
)

// Runtime is the name that our OCI runtime is registered by.
const Runtime = "testbed"

// Check is one thing that a testbed needs of its host.
type Check struct {
	Check    string `json:"check"`
	Status   string `json:"status"`
	Observed string `json:"observed"`
	Want     string `json:"want"`
	// Fix is what to do; empty if there is nothing to do.
	Fix string `json:"fix"`
	// Fixable says that Fix can do it.
	Fixable bool `json:"fixable"`
	// NeededBy are backends and edge runtimes.
	NeededBy []string `json:"neededBy"`
}

// Range is a range of addresses that clusters use among themselves.
type Range struct {
	Name   string
	Prefix netip.Prefix
}

// Host is the machine that is looked at and mended.
type Host struct {
	Root     string // "/", or a folder that looks like it; all paths but Cache and Program are below it
	OS       string // as GOOS has it
	UID      int
	Runner   command.Runner
	LookPath func(program string) (string, error)
	// Free bytes for unprivileged users where a folder is.
	Free func(dir string) (int64, error)

	Cache   string  // where testbeds keep what they build
	Ranges  []Range // of clusters
	Program string  // our OCI runtime, as it was built

	Sys       string // what /proc/sys is
	Installed string // where the OCI runtime goes
	Config    string // of the engine, unless the engine that runs was told another
	PIDFile   string // of the engine
	Log       string // of an engine that we start
}

// Local is this machine. Its engine is where Debian, Fedora and Docker put it.
func Local() Host {
	return Host{
		Root: "/", OS: runtime.GOOS, UID: os.Geteuid(), Runner: command.Local{}, LookPath: lookPath, Free: free,
		Sys: "/proc/sys", Installed: "/usr/local/libexec/testbed/ociruntime", Config: "/etc/docker/daemon.json",
		PIDFile: "/var/run/docker.pid", Log: "/var/log/testbed-dockerd.log",
	}
}

// lookPath looks where administrators' programs are, too.
func lookPath(program string) (string, error) {
	file, err := exec.LookPath(program)
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if err == nil {
			break
		}
		if other, lerr := exec.LookPath(filepath.Join(dir, program)); lerr == nil {
			return other, nil
		}
	}
	return file, err
}

func free(dir string) (int64, error) {
	for {
		var s syscall.Statfs_t
		err := syscall.Statfs(dir, &s)
		if err == nil {
			return int64(s.Bavail) * int64(s.Bsize), nil
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return 0, fmt.Errorf("statfs %s: %w", dir, err)
		}
		dir = filepath.Dir(dir) // it will be made there
	}
}

func (h Host) path(name string) string { return filepath.Join(h.Root, name) }

// read a small file as one line.
func (h Host) read(name string) (string, error) {
	b, err := os.ReadFile(h.path(name))
	return strings.TrimSpace(string(b)), err
}

func (h Host) number(name string) (int64, error) {
	text, err := h.read(name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// exists tells whether there is such a file.
func (h Host) exists(name string) bool {
	_, err := os.Stat(h.path(name))
	return err == nil
}

// view is what several checks look at.
type view struct {
	Host
	engine    *engine.Engine // nil if none answers
	engineErr error
	daemon    daemon
	lack      []string // capabilities
	lackErr   error
}

func look(ctx context.Context, h Host) *view {
	v := &view{Host: h, daemon: h.findDaemon()}
	v.engine, v.engineErr = engine.Find(ctx, h.Runner)
	v.lack, v.lackErr = h.lacking(v.daemon)
	return v
}

// lacking are the capabilities that the engine, or else this program, has not got.
func (h Host) lacking(d daemon) ([]string, error) {
	last, err := h.read(filepath.Join(h.Sys, "kernel/cap_last_cap"))
	if err != nil {
		return nil, err
	}
	of := "self"
	if d.pid > 0 {
		of = strconv.Itoa(d.pid)
	}
	status, err := h.read(filepath.Join("proc", of, "status"))
	if err != nil {
		return nil, err
	}
	return ociruntime.Lacking(status, last)
}

// active tells whether the engine starts containers by our runtime.
func (v *view) active() bool { return v.engine != nil && v.engine.Info.DefaultRuntime == Runtime }

// installedEngine tells whether there is an engine to start.
func (v *view) installedEngine() bool {
	_, err := v.LookPath(daemonProgram)
	return err == nil
}

// Run looks at everything.
func Run(ctx context.Context, h Host) []Check {
	v := look(ctx, h)
	var all []Check
	for _, check := range []func(context.Context, *view) Check{
		system, goToolchain, cacheSpace, memory, rights,
		engineAnswers, capabilities, storage, engineSpace, inotify, cgroup, overlay, forwarding, subnets, builder,
	} {
		c := check(ctx, v)
		if c.Status == OK {
			c.Fix, c.Fixable = "", false
		}
		all = append(all, c)
	}
	return all
}

// Ready tells whether nothing fails that a backend or edge runtime needs.
func Ready(all []Check, by string) bool {
	return !slices.ContainsFunc(all, func(c Check) bool { return c.Status == Fail && slices.Contains(c.NeededBy, by) })
}
