package testbed_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fluidos-edge/testbed/testbed/internal/gobuild"
	"github.com/fluidos-edge/testbed/testbed/internal/state"
)

// moments of one up at which it is ended, drawn by seed.
const moments, seed = 5, 20261122

// TestNothingIsLeft ends `up` at seeded moments, politely and not, and then
// looks at the machine, not at our own records: after `down` no process, no
// listener and no file may be left but the cache.
func TestNothingIsLeft(t *testing.T) {
	bin := binaries(t)
	h := newHome(t, bin)
	began := time.Now()
	h.up = []string{"up", "--backend", "embedded"}
	h.run(t, 0, h.up...)
	whole := time.Since(began)
	t.Logf("a whole up takes %.1f s", whole.Seconds())
	h.run(t, 0, h.up...) // adopts
	h.rememberPorts(t)
	h.run(t, 0, "down")
	h.mustBeClean(t)
	h.run(t, 4, "down")

	draw := rand.New(rand.NewPCG(seed, 1))
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		for i := range moments {
			after := time.Duration(draw.Int64N(int64(whole)))
			t.Run(fmt.Sprintf("%v %d", signal, i), func(t *testing.T) {
				up := h.up
				h := newHome(t, bin)
				h.up = up
				h.interrupt(t, signal, after)
				if signal == syscall.SIGINT {
					h.mustBeClean(t) // the cancelled up has undone itself
				}
				h.run(t, -1, "down") // 0, or 4 where nothing was there yet
				h.mustBeClean(t)
			})
		}
	}
}

// home is a user of this machine: state and sockets of their own, the cache shared.
type home struct {
	bin, state, sockets string
	// name of the testbed, and the arguments that bring it up.
	name string
	up   []string
	// ports that the testbed kept when it was last looked at
	ports map[string]int
}

func binaries(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("brings up whole testbeds; not with -short")
	}
	if _, missing, err := gobuild.Locate(state.Cache()); err != nil || len(missing) > 0 {
		t.Fatalf("assets are missing: %v (%v); run `make build && bin/testbed assets build`", missing, err)
	}
	bin := t.TempDir()
	if err := gobuild.Own(t.Context(), "..", bin); err != nil {
		t.Fatal(err)
	}
	return bin
}

func newHome(t *testing.T, bin string) *home {
	t.Helper()
	// Not t.TempDir: its path is too long for a socket.
	sockets, err := os.MkdirTemp("", "tb")
	if err != nil {
		t.Fatal(err)
	}
	h := &home{bin: bin, state: t.TempDir(), sockets: sockets, name: "default"}
	t.Cleanup(func() {
		_ = h.command(context.WithoutCancel(t.Context()), "down", "--name", h.name).Run()
		_ = os.RemoveAll(sockets)
	})
	return h
}

func (h *home) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(h.bin, "testbed"), args...)
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+h.state, "XDG_RUNTIME_DIR="+h.sockets)
	return cmd
}

func (h *home) run(t *testing.T, want int, args ...string) {
	t.Helper()
	var out bytes.Buffer
	cmd := h.command(t.Context(), args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); want >= 0 && code != want {
		t.Fatalf("testbed %s ended with %d, want %d:\n%s", strings.Join(args, " "), code, want, out.String())
	}
}

// interrupt starts up and signals it after a while. Its exit code is judged
// only if the signal found it running.
func (h *home) interrupt(t *testing.T, signal syscall.Signal, after time.Duration) {
	t.Helper()
	var out bytes.Buffer
	cmd := h.command(t.Context(), h.up...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-time.After(after):
		if err := cmd.Process.Signal(signal); err != nil {
			t.Logf("up had ended before %v", after)
		}
		<-done
	case <-done:
		t.Logf("up had ended before %v", after)
	}
	h.rememberPorts(t)
	t.Logf("%v after %.2f s; up ended with %d", signal, after.Seconds(), cmd.ProcessState.ExitCode())
	if code := cmd.ProcessState.ExitCode(); signal == syscall.SIGINT && code != 130 && code != 0 {
		t.Errorf("interrupted up ended with %d, want 130:\n%s", code, out.String())
	}
	if cmd.ProcessState.ExitCode() == 0 {
		h.run(t, 0, "down", "--name", h.name)
	}
}

// mustBeClean looks at all processes, listeners and files of this user home.
func (h *home) mustBeClean(t *testing.T) {
	t.Helper()
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range environs {
		// The supervisor has our folders in its environment, components in their arguments.
		environ, _ := os.ReadFile(file)
		cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		ours := bytes.Contains(environ, []byte(h.state)) || bytes.Contains(cmdline, []byte(h.state))
		if ours && len(cmdline) > 0 { // without arguments it has ended and is being reaped
			t.Errorf("process %s is left: %s", filepath.Base(filepath.Dir(file)), bytes.ReplaceAll(cmdline, []byte{0}, []byte(" ")))
		}
	}
	for purpose, port := range h.ports {
		if c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), time.Second); err == nil {
			_ = c.Close()
			t.Errorf("port %d of %s still answers", port, purpose)
		}
	}
	for _, dir := range []string{h.state, h.sockets} {
		_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && path != dir {
				t.Errorf("file is left: %s", path)
			}
			return nil
		})
	}
}

// rememberPorts reads which ports the testbed keeps, if it has a record.
func (h *home) rememberPorts(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(h.state, "testbed", h.name, "testbed.json"))
	if err != nil {
		return
	}
	var r struct{ Ports map[string]int }
	if err := json.Unmarshal(b, &r); err != nil {
		t.Error(err)
	}
	h.ports = r.Ports
}
