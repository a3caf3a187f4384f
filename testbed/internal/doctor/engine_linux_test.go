package doctor_test

import (
	"archive/tar"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/doctor"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
)

// at speaks to one engine, whichever is this machine's own.
type at string

func (a at) Run(ctx context.Context, c command.Cmd) (command.Result, error) {
	c.Env = append(c.Env, "DOCKER_HOST="+string(a))
	return command.Local{}.Run(ctx, c)
}

// inside is the folder of a test that has namespaces of its own.
const inside = "DOCTOR_ENGINE_DIR"

// TestFixARealEngine runs an engine of its own, in namespaces for network and mounts:
// an engine takes the bridge of another for its own. On a host that lacks a
// capability no privileged container starts before Fix, and after it one does. On
// others Fix has nothing to do.
func TestFixARealEngine(t *testing.T) {
	if dir := os.Getenv(inside); dir != "" {
		fixARealEngine(t, dir)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("running an engine takes root")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFixARealEngine$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), inside+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, syscall.EPERM):
		t.Skipf("no namespaces for an engine here: %v", err)
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP"):
		t.Skipf("%s", out)
	default:
		t.Logf("%s", out)
	}
}

func fixARealEngine(t *testing.T, dir string) {
	local := doctor.Local()
	for _, p := range []string{"dockerd", "docker", "runc"} {
		if _, err := local.LookPath(p); err != nil {
			t.Skipf("no engine to run: %v", err)
		}
	}
	image := probe(t, dir)
	h := local
	h.Program = compile(t, filepath.Join(dir, "ociruntime"), "github.com/fluidos-edge/testbed/cmd/ociruntime")
	h.Installed, h.Config = filepath.Join(dir, "libexec", "ociruntime"), filepath.Join(dir, "daemon.json")
	h.PIDFile, h.Log, h.Cache = filepath.Join(dir, "pid"), filepath.Join(dir, "log"), dir
	// The limits of inotify are this machine's, and not ours to change.
	h.Sys = filepath.Join(dir, "sys")
	for name, value := range map[string]string{"kernel/cap_last_cap": "", "fs/inotify/max_user_instances": "512", "fs/inotify/max_user_watches": "524288"} {
		if value == "" {
			value = text(t, local, filepath.Join(local.Sys, name))
		}
		write(t, doctor.Host{Root: h.Sys}, name, value)
	}
	socket := "unix://" + filepath.Join(dir, "s")
	h.Runner = at(socket)
	h.LookPath = func(p string) (string, error) { // the engine of this machine is not ours to start
		if p == "dockerd" {
			return "", exec.ErrNotFound
		}
		return local.LookPath(p)
	}

	program, err := local.LookPath("dockerd")
	if err != nil {
		t.Fatal(err)
	}
	dockerd := exec.Command(program, "--host", socket, "--config-file", h.Config, "--pidfile", h.PIDFile, "--data-root", filepath.Join(dir, "data"),
		"--exec-root", filepath.Join(dir, "exec"), "--bridge", "none", "--iptables=false", "--ip-forward=false", "--ip-masq=false")
	if err := os.WriteFile(h.Config, []byte(`{"debug": false}`), 0o644); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(h.Log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	dockerd.Stdout, dockerd.Stderr = log, log
	if err := dockerd.Start(); err != nil {
		t.Skipf("no engine can be started here: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- dockerd.Wait() }()
	t.Cleanup(func() { stop(t, h) })
	e := answer(t, h, ended)

	ctx := t.Context()
	if _, err := e.Runner.Run(ctx, command.Cmd{Argv: []string{"docker", "import", "--change", `ENTRYPOINT ["/cat"]`, image, "probe"}}); err != nil {
		t.Fatal(err)
	}
	privileged := func() (string, error) {
		return e.Output(ctx, "run", "--rm", "--privileged", "--network", "none", "probe", "/proc/self/status")
	}
	out, before := privileged()
	row := func() doctor.Check {
		for _, c := range doctor.Run(ctx, h) {
			if c.Check == "capabilities" {
				return c
			}
		}
		t.Fatal("no such row")
		return doctor.Check{}
	}
	if before == nil {
		if c := row(); c.Status != doctor.OK {
			t.Errorf("a privileged container starts, but %+v", c)
		}
		t.Skip("this host lacks nothing: there is nothing to mend")
	}
	if !strings.Contains(before.Error(), "unable to apply caps") {
		t.Skipf("no container starts here, for another reason: %v %s", before, out)
	}
	if c := row(); c.Status != doctor.Fail || !c.Fixable {
		t.Errorf("no privileged container starts, but %+v", c)
	}

	var changed []string
	if err := doctor.Fix(ctx, h, doctor.FixOptions{RestartEngine: true, Changed: func(what string) { changed = append(changed, what) }}); err != nil {
		t.Fatalf("%v, after %q", err, changed)
	}
	t.Log(strings.Join(changed, "\n"))
	if c := row(); c.Status != doctor.OK {
		t.Errorf("after: %+v", c)
	}
	out, err = privileged()
	if err != nil || !strings.Contains(out, "CapBnd:") {
		t.Errorf("after: %v %s", err, out)
	}
	t.Log(out[strings.Index(out, "CapInh"):])
}

// compile a package of this module, or a file, into one static program.
func compile(t *testing.T, out, what string) string {
	t.Helper()
	_, err := command.Local{}.Run(t.Context(), command.Cmd{Argv: []string{"go", "build", "-o", out, what}, Env: []string{"CGO_ENABLED=0"}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// probe is the file system of a container with one program, which prints a file.
func probe(t *testing.T, dir string) string {
	t.Helper()
	source := filepath.Join(dir, "cat.go")
	err := os.WriteFile(source, []byte(`package main

import "os"

func main() {
	b, err := os.ReadFile(os.Args[1])
	if err != nil {
		panic(err)
	}
	os.Stdout.Write(b)
}
`), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(compile(t, filepath.Join(dir, "cat"), source))
	if err != nil {
		t.Fatal(err)
	}
	archive, err := os.Create(filepath.Join(dir, "probe.tar"))
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(archive)
	err = w.WriteHeader(&tar.Header{Name: "cat", Mode: 0o755, Size: int64(len(b))})
	_, werr := w.Write(b)
	if err := errors.Join(err, werr, w.Close(), archive.Close()); err != nil {
		t.Fatal(err)
	}
	return archive.Name()
}

// answer waits until the engine answers, and skips if it cannot run here.
func answer(t *testing.T, h doctor.Host, ended <-chan error) *engine.Engine {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		e, err := engine.Find(ctx, h.Runner)
		if err == nil {
			return e
		}
		select {
		case <-tick.C:
		case end := <-ended:
			t.Skipf("no engine stays up here: %v\n%s", end, command.Tail([]byte(text(t, doctor.Host{}, h.Log)), 10))
		case <-ctx.Done():
			t.Fatalf("the engine does not answer: %v", err)
		}
	}
}

// stop ends the engine, whichever process it is by now.
func stop(t *testing.T, h doctor.Host) {
	b, err := os.ReadFile(h.PIDFile)
	if err != nil {
		return // it did not stay up
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for syscall.Kill(pid, 0) == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the engine, process %d, does not end", pid)
		}
	}
}
