package process_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/testbed/internal/process"
)

// TestMain makes this binary its own supervisor and its own components.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || os.Args[1] != "helper" {
		os.Exit(m.Run())
	}
	args := os.Args[3:]
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	switch os.Args[2] {
	case "supervise": // supervise STATE RUN ID
		log := slog.New(slog.NewTextHandler(os.Stderr, nil))
		if err := process.Serve(ctx, process.Dirs{State: args[0], Run: args[1]}, args[2], log); err != nil {
			log.Error("supervisor", "err", err)
			os.Exit(1)
		}
	case "start": // start STATE RUN ID: what a user's command does
		_, err := process.Start(ctx, process.Dirs{State: args[0], Run: args[1]}, args[2], superviseArgv(args[0], args[1], args[2]))
		fmt.Println(err)
	case "run": // run FILE: notes start and end in FILE
		note(args[0], "start "+os.Getenv("COLOUR"))
		<-ctx.Done()
		note(args[0], "end "+os.Getenv("COLOUR"))
	case "run-with-child": // its child ignores SIGTERM and is left behind
		child := exec.Command(os.Args[0], "helper", "stubborn")
		child.SysProcAttr = &syscall.SysProcAttr{}
		if err := child.Start(); err != nil {
			os.Exit(9)
		}
		fmt.Println("child", child.Process.Pid)
		<-ctx.Done()
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ignores")
		<-make(chan struct{})
	case "fail":
		fmt.Println("cannot find my keys")
		os.Exit(3)
	case "inspect": // prints what it inherited
		fmt.Println("id", os.Getenv(process.EnvID), "secret", os.Getenv("SECRET"))
		<-ctx.Done()
	}
	os.Exit(0)
}

func note(file, text string) {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		os.Exit(8)
	}
	_, _ = fmt.Fprintln(f, text)
	_ = f.Close()
}

func superviseArgv(state, run, id string) []string {
	return []string{os.Args[0], "helper", "supervise", state, run, id}
}

var ids atomic.Int64

// bed is one testbed's place.
type bed struct {
	process.Dirs
	id string
}

// newBed gives an empty place and ends, after the test, all that ran there.
func newBed(t *testing.T) bed {
	t.Helper()
	run, err := os.MkdirTemp("", "tb") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	b := bed{Dirs: process.Dirs{State: filepath.Join(t.TempDir(), "state"), Run: run},
		id: fmt.Sprintf("process-test-%d-%d", os.Getpid(), ids.Add(1))}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := process.Reap(ctx, b.id); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(run); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(b.State, "logs", "supervisor.log"))
			t.Logf("supervisor.log:\n%s", log)
		}
	})
	return b
}

func (b bed) start(t *testing.T) *process.Client {
	t.Helper()
	c, err := process.Start(deadline(t), b.Dirs, b.id, superviseArgv(b.State, b.Run, b.id))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// until polls until ok; what is the text of the failure.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx := deadline(t)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never came: %s", what)
		}
	}
}

// spec is a helper as a component.
func spec(name string, args ...string) process.Spec {
	return process.Spec{Name: name, Path: os.Args[0], Args: append([]string{"helper"}, args...)}
}

func apply(t *testing.T, c *process.Client, s process.Spec, want bool) {
	t.Helper()
	changed, err := c.Apply(deadline(t), s)
	if err != nil {
		t.Fatal(err)
	}
	if changed != want {
		t.Fatalf("apply %s: changed %t, want %t", s.Name, changed, want)
	}
}

func status(t *testing.T, c *process.Client, name string) process.Status {
	t.Helper()
	all, err := c.List(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Name == name {
			return s
		}
	}
	return process.Status{}
}

func waitReady(t *testing.T, c *process.Client, names ...string) {
	t.Helper()
	if err := c.Wait(deadline(t), names...); err != nil {
		t.Fatal(err)
	}
}

func lines(t *testing.T, file string) []string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Fields(strings.ReplaceAll(strings.TrimSpace(string(b)), " ", "_"))
}

func running(pid int) bool {
	_, _, zombie, err := statOf(pid)
	return err == nil && !zombie
}

func statOf(pid int) (string, int, bool, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0, false, err
	}
	return process.ParseStat(string(b))
}

// supervisorPID reads it from the supervisor itself.
func supervisorPID(t *testing.T, b bed) int {
	t.Helper()
	h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(b.Run, "supervisor.sock"))
	}}}
	res, err := h.Get("http://supervisor/v1/supervisor")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var a struct{ PID int }
	if err := json.NewDecoder(res.Body).Decode(&a); err != nil {
		t.Fatal(err)
	}
	return a.PID
}

func TestConnectWithoutSupervisor(t *testing.T) {
	b := newBed(t)
	if _, err := process.Connect(deadline(t), b.Dirs); !errors.Is(err, process.ErrNotRunning) {
		t.Errorf("got %v, want ErrNotRunning", err)
	}
}

func TestKeepsWhatIsTheSameAndRestartsWhatDiffers(t *testing.T) {
	b := newBed(t)
	c := b.start(t)
	file := filepath.Join(t.TempDir(), "notes")
	one, two := spec("c-1/one", "run", file), spec("c-1/two/edge-1", "run", file)
	one.Env, two.Env = []string{"COLOUR=red"}, []string{"COLOUR=blue"}
	apply(t, c, one, true)
	apply(t, c, two, true)
	waitReady(t, c)
	before1, before2 := status(t, c, one.Name), status(t, c, two.Name)
	if before1.RSSBytes < 1<<16 || before1.PID == 0 || before1.StartedAt.IsZero() {
		t.Errorf("status tells too little: %+v", before1)
	}
	if want := filepath.Join(b.State, "logs", "c-1-two-edge-1.log"); before2.Log != want {
		t.Errorf("log %s, want %s", before2.Log, want)
	}

	// Another client, and settings that need no restart.
	c2, err := process.Connect(deadline(t), b.Dirs)
	if err != nil {
		t.Fatal(err)
	}
	one.URL = "http://127.0.0.1:1"
	apply(t, c2, one, false)
	apply(t, c2, two, false)
	if s := status(t, c2, one.Name); s.PID != before1.PID || s.Spec.URL != one.URL {
		t.Errorf("pid %d, url %q; want %d, %q", s.PID, s.Spec.URL, before1.PID, one.URL)
	}
	one.Env = []string{"COLOUR=green"}
	apply(t, c, one, true)
	two.ConfigHash = "other"
	apply(t, c, two, true)
	waitReady(t, c, one.Name, two.Name)
	after1, after2 := status(t, c, one.Name), status(t, c, two.Name)
	if after1.PID == before1.PID || after1.Hash == before1.Hash || after2.PID == before2.PID {
		t.Error("a changed component was not restarted")
	}
	apply(t, c, one, false)
	if s := status(t, c, two.Name); s.PID != after2.PID {
		t.Error("an unchanged component was restarted")
	}
}

func TestHashOfTheBinaryDecides(t *testing.T) {
	b := newBed(t)
	c := b.start(t)
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	s := spec("c-1/one", "run", filepath.Join(t.TempDir(), "notes"))
	s.Path = filepath.Join(t.TempDir(), "binary")
	install := func(b []byte) {
		if err := errors.Join(os.WriteFile(s.Path+".new", b, 0o700), os.Rename(s.Path+".new", s.Path)); err != nil {
			t.Fatal(err)
		}
	}
	install(self)
	apply(t, c, s, true)
	install(self) // the same content
	apply(t, c, s, false)
	install(append(self, "trailer"...))
	apply(t, c, s, true)
}

func TestRestartsWithBackoff(t *testing.T) {
	b := newBed(t)
	c := b.start(t)
	s := spec("c-1/one", "fail")
	began := time.Now()
	apply(t, c, s, true)
	until(t, "third restart", func() bool { return status(t, c, s.Name).Restarts >= 3 })
	if took := time.Since(began); took < 7*process.BackoffMin {
		t.Errorf("three restarts within %s: no backoff", took)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := c.Wait(ctx)
	for _, part := range []string{"c-1/one is not ready", "exit status 3", "restarts ", "c-1-one.log", "cannot find my keys"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error of wait %v does not say %q", err, part)
		}
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline in it", err)
	}

	// A killed component comes back on its own.
	file := filepath.Join(t.TempDir(), "notes")
	two := spec("c-1/two", "run", file)
	apply(t, c, two, true)
	waitReady(t, c, two.Name)
	first := status(t, c, two.Name)
	old := first.PID
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "a new process", func() bool { p := status(t, c, two.Name).PID; return p != 0 && p != old })
	waitReady(t, c, two.Name)
	s2 := status(t, c, two.Name)
	if s2.Restarts != 1 || !s2.StartedAt.After(first.StartedAt) || !strings.HasPrefix(s2.LastEnd, "ended with signal: killed after ") || first.LastEnd != "" {
		t.Errorf("%d restarts, started at %s, before at %s; its last run %q, before %q", s2.Restarts, s2.StartedAt, first.StartedAt, s2.LastEnd, first.LastEnd)
	}
}

func TestNextBackoff(t *testing.T) {
	var got []time.Duration
	var d time.Duration
	for range 8 {
		d = process.NextBackoff(d, time.Second)
		got = append(got, d/time.Millisecond)
	}
	if diff := cmp.Diff([]time.Duration{200, 400, 800, 1600, 3200, 6400, 10000, 10000}, got); diff != "" {
		t.Error(diff)
	}
	if d := process.NextBackoff(d, process.BackoffReset); d != process.BackoffMin {
		t.Errorf("after a long run %s, want %s", d, process.BackoffMin)
	}
}

func TestRefusesBadSpecs(t *testing.T) {
	b := newBed(t)
	c := b.start(t)
	apply(t, c, spec("a/b-c", "run", filepath.Join(t.TempDir(), "notes")), true)
	for name, tc := range map[string]struct {
		spec process.Spec
		want string
	}{
		"no cluster":    {spec("erm", "run"), "<cluster>/<name>"},
		"way out":       {spec("../erm", "run"), "<cluster>/<name>"},
		"relative path": {process.Spec{Name: "a/b", Path: "bin/erm"}, "must be absolute"},
		"no binary":     {process.Spec{Name: "a/b", Path: "/no/such/binary"}, "no such file"},
		"stolen id":     {process.Spec{Name: "a/b", Path: os.Args[0], Env: []string{"TESTBED_ID=x"}}, "must not set TESTBED_ID"},
		"no variable":   {process.Spec{Name: "a/b", Path: os.Args[0], Env: []string{"hush"}}, "NAME=value"},
		"two probes":    {process.Spec{Name: "a/b", Path: os.Args[0], Probe: process.Probe{TCP: "x", Unix: "y"}}, "at most one"},
		"same log":      {spec("a-b/c", "run"), "its log would be that of a/b-c"},
		"not probed":    {process.Spec{Name: "a/b", External: true}, "one of url, unix and tcp"},
	} {
		if _, err := c.Apply(deadline(t), tc.spec); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q in it", name, err, tc.want)
		}
	}
	all, err := c.List(deadline(t))
	if err != nil || len(all) != 1 {
		t.Errorf("bad specs left something: %+v, %v", all, err)
	}
	if err := c.Wait(deadline(t), "a/none"); err == nil || !strings.Contains(err.Error(), "no such component: a/none") {
		t.Errorf("wait for an unknown component: %v", err)
	}
}

func TestProbes(t *testing.T) {
	b := newBed(t)
	c := b.start(t)
	var healthy atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !healthy.Load() {
			http.Error(w, "caches are not synced", http.StatusServiceUnavailable)
		}
	}))
	defer srv.Close()
	sock := filepath.Join(b.Run, "x.sock")
	notes := filepath.Join(t.TempDir(), "notes")
	url, unix, tcp := spec("c/url", "run", notes), spec("c/unix", "run", notes), process.Spec{Name: "c/external", External: true}
	url.Probe.URL, unix.Probe.Unix, tcp.Probe.TCP = srv.URL, sock, srv.Listener.Addr().String()
	for _, s := range []process.Spec{url, unix, tcp} {
		apply(t, c, s, true)
	}
	waitReady(t, c, tcp.Name)
	if s := status(t, c, tcp.Name); s.PID != 0 || s.Log != "" {
		t.Errorf("an external component has process or log: %+v", s)
	}
	apply(t, c, tcp, false)
	until(t, "reason of the url", func() bool { return strings.Contains(status(t, c, url.Name).Reason, "caches are not synced") })
	until(t, "reason of the socket", func() bool { return strings.Contains(status(t, c, unix.Name).Reason, "no such file") })
	healthy.Store(true)
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	waitReady(t, c)
	healthy.Store(false)
	until(t, "not ready again", func() bool { return !status(t, c, url.Name).Ready })
}

func TestProbeOverTLS(t *testing.T) {
	b := newBed(t)
	c := b.start(t)
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s := process.Spec{Name: "c/tls", External: true, Probe: process.Probe{URL: srv.URL}}
	apply(t, c, s, true)
	until(t, "distrust", func() bool { return strings.Contains(status(t, c, s.Name).Reason, "certificate") })
	s.Probe.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(s.Probe.CAFile, pemOf(srv.Certificate().Raw), 0o600); err != nil {
		t.Fatal(err)
	}
	apply(t, c, s, false)
	until(t, "trust, and the server's answer", func() bool { return strings.Contains(status(t, c, s.Name).Reason, "404 Not Found") })
}

func TestRemove(t *testing.T) {
	b := newBed(t)
	c := b.start(t)
	notes := filepath.Join(t.TempDir(), "notes")
	for _, n := range []string{"c/one", "c/two"} {
		apply(t, c, spec(n, "run", notes), true)
	}
	waitReady(t, c)
	one, two := status(t, c, "c/one"), status(t, c, "c/two")
	if err := c.Remove(deadline(t), "c/one", "c/never"); err != nil {
		t.Fatal(err)
	}
	if running(one.PID) || !running(two.PID) {
		t.Errorf("removed still runs: %t, other still runs: %t", running(one.PID), running(two.PID))
	}
	recs, err := filepath.Glob(filepath.Join(b.State, "components", "*"))
	if err != nil || len(recs) != 1 {
		t.Errorf("records %v, %v: want that of c/two", recs, err)
	}
	if _, err := os.Stat(one.Log); err != nil {
		t.Errorf("the log of what is removed: %v", err)
	}
	apply(t, c, spec("c/one", "run", notes), true)
}

// What a component started goes with it, though it ignores SIGTERM.
func TestStopTakesTheGroup(t *testing.T) {
	b := newBed(t)
	c := b.start(t)
	s := spec("c/one", "run-with-child")
	apply(t, c, s, true)
	child := 0
	until(t, "the child's pid", func() bool {
		for _, l := range lines(t, status(t, c, s.Name).Log) {
			if v, ok := strings.CutPrefix(l, "child_"); ok {
				child, _ = strconv.Atoi(v)
			}
		}
		return child != 0
	})
	stubborn := spec("c/stubborn", "stubborn")
	stubborn.StopTimeout = 50 * time.Millisecond
	apply(t, c, stubborn, true)
	pid := status(t, c, stubborn.Name).PID
	if err := c.Remove(deadline(t), s.Name, stubborn.Name); err != nil {
		t.Fatal(err)
	}
	if running(pid) {
		t.Error("a component that ignores SIGTERM still runs")
	}
	until(t, "end of the child", func() bool { return !running(child) })
}

func TestShutdownInReverseOrder(t *testing.T) {
	b := newBed(t)
	c := b.start(t)
	notes := filepath.Join(t.TempDir(), "notes")
	for _, n := range []string{"a", "b", "c", "d"} {
		s := spec("c/"+n, "run", notes)
		s.Env = []string{"COLOUR=" + n}
		apply(t, c, s, true)
		until(t, "start of "+n, func() bool { return strings.Contains(fmt.Sprint(lines(t, notes)), "start_"+n) })
	}
	// A changed component keeps its place.
	s := spec("c/b", "run", notes)
	s.Env = []string{"COLOUR=B"}
	apply(t, c, s, true)
	until(t, "new start", func() bool { return strings.Contains(fmt.Sprint(lines(t, notes)), "start_B") })
	if err := c.Shutdown(deadline(t)); err != nil {
		t.Fatal(err)
	}
	want := []string{"start_a", "start_b", "start_c", "start_d", "end_b", "start_B", "end_d", "end_c", "end_B", "end_a"}
	if diff := cmp.Diff(want, lines(t, notes)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if left, err := process.Owned(b.id); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	for _, pattern := range []string{filepath.Join(b.Run, "*"), filepath.Join(b.State, "components", "*")} {
		if files, _ := filepath.Glob(pattern); len(files) > 0 {
			t.Errorf("left: %v", files)
		}
	}
	if _, err := c.List(deadline(t)); !errors.Is(err, process.ErrNotRunning) {
		t.Errorf("list after shutdown: %v", err)
	}
	if _, err := process.Connect(deadline(t), b.Dirs); !errors.Is(err, process.ErrNotRunning) {
		t.Errorf("connect after shutdown: %v", err)
	}
}

// SIGTERM stops everything, but the testbed is not forgotten.
func TestTerminatedSupervisorIsContinued(t *testing.T) {
	b := newBed(t)
	c := b.start(t)
	notes := filepath.Join(t.TempDir(), "notes")
	apply(t, c, spec("c/a", "run", notes), true)
	waitReady(t, c)
	pid := status(t, c, "c/a").PID
	sup := supervisorPID(t, b)
	if err := syscall.Kill(sup, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	until(t, "end of the supervisor", func() bool { return !running(sup) })
	if running(pid) {
		t.Error("a component runs on")
	}
	c = b.start(t)
	apply(t, c, spec("c/a", "run", notes), false)
	waitReady(t, c, "c/a")
}

func TestKilledSupervisor(t *testing.T) {
	b := newBed(t)
	c := b.start(t)
	notes := filepath.Join(t.TempDir(), "notes")
	for _, n := range []string{"z", "a", "m"} {
		s := spec("c/"+n, "run", notes)
		s.Env = []string{"COLOUR=" + n}
		apply(t, c, s, true)
		until(t, "start", func() bool { return strings.Contains(fmt.Sprint(lines(t, notes)), "start_"+n) })
	}
	old := status(t, c, "c/z").PID
	kill(t, supervisorPID(t, b))
	if !running(old) {
		t.Error("a component ended with its supervisor")
	}
	if _, err := process.Connect(deadline(t), b.Dirs); !errors.Is(err, process.ErrNotRunning) {
		t.Errorf("connect: %v", err)
	}

	// The next supervisor takes over, in the old order.
	c = b.start(t)
	if running(old) {
		t.Error("the leftover still runs")
	}
	waitReady(t, c)
	all, err := c.List(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	if diff := cmp.Diff([]string{"c/z", "c/a", "c/m"}, names); diff != "" {
		t.Error(diff)
	}

	// And without a next one, Reap leaves nothing.
	kill(t, supervisorPID(t, b))
	if left, err := process.Owned(b.id); err != nil || len(left) != 3 {
		t.Errorf("components that outlive their supervisor: %v, %v; want 3", left, err)
	}
	if err := process.Reap(deadline(t), b.id); err != nil {
		t.Fatal(err)
	}
	if left, err := process.Owned(b.id); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "death of the supervisor", func() bool { return !running(pid) })
}

// Reap ends a supervisor with all it keeps alive, stubborn ones too, and nobody else.
func TestReapRunningTestbed(t *testing.T) {
	b, other := newBed(t), newBed(t)
	c := b.start(t)
	notes := filepath.Join(t.TempDir(), "notes")
	for i := range 5 {
		apply(t, c, spec(fmt.Sprintf("c/n%d", i), "run", notes), true)
	}
	apply(t, c, spec("c/stubborn", "stubborn"), true)
	oc := other.start(t)
	apply(t, oc, spec("c/one", "run", notes), true)
	if err := process.Reap(deadline(t), b.id); err != nil {
		t.Fatal(err)
	}
	if left, err := process.Owned(b.id); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	waitReady(t, oc, "c/one")
	if err := process.Reap(t.Context(), ""); err == nil {
		t.Error("reaped without an id")
	}
}

func TestReapSaysWhoIsLeft(t *testing.T) {
	b := newBed(t)
	cmd := exec.Command(os.Args[0], "helper", "stubborn")
	cmd.Env = append(os.Environ(), process.EnvID+"="+b.id)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if !bufio.NewScanner(out).Scan() {
		t.Fatal("the process says nothing")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := process.Reap(ctx, b.id); err == nil || !strings.Contains(err.Error(), strconv.Itoa(cmd.Process.Pid)) {
		t.Errorf("got %v, want pid %d in it", err, cmd.Process.Pid)
	}
}

// A record's pid may belong to somebody else by now.
func TestReusedPIDIsLeftAlone(t *testing.T) {
	b := newBed(t)
	stranger := exec.Command(os.Args[0], "helper", "run", filepath.Join(t.TempDir(), "notes"))
	stranger.Env = append(os.Environ(), process.EnvID+"="+b.id+"-other")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stranger.Process.Kill(); _ = stranger.Wait() })
	pid := stranger.Process.Pid
	start, err := process.StartOf(pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		what, start, id string
	}{
		{"another start time", start + "0", b.id + "-other"},
		{"another testbed", start, b.id},
	} {
		if err := process.SignalIf(pid, tc.start, tc.id, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		if !running(pid) {
			t.Fatalf("%s: killed", tc.what)
		}
	}

	rec := map[string]any{"id": b.id, "order": 1, "pid": pid, "start": start, "spec": spec("c/one", "run", filepath.Join(t.TempDir(), "notes"))}
	raw, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(b.State, "components")
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "c_one.json"), raw, 0o600),
		os.WriteFile(filepath.Join(dir, "c_two.json"), raw[:20], 0o600), os.WriteFile(filepath.Join(dir, ".new-1"), raw, 0o600)); err != nil {
		t.Fatal(err)
	}
	c := b.start(t)
	waitReady(t, c, "c/one")
	if err := c.Shutdown(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if err := process.Reap(deadline(t), b.id); err != nil {
		t.Fatal(err)
	}
	if !running(pid) {
		t.Error("a stranger with a pid of ours was ended")
	}
	if err := process.SignalIf(pid, start, b.id+"-other", syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	until(t, "end of what is really meant", func() bool { return !running(pid) })
}

func TestStartsRace(t *testing.T) {
	b := newBed(t)
	var wg sync.WaitGroup
	pids := make([]int, 6)
	for i := range pids {
		wg.Go(func() {
			c, err := process.Start(deadline(t), b.Dirs, b.id, superviseArgv(b.State, b.Run, b.id))
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := c.List(deadline(t)); err != nil {
				t.Error(err)
			}
			pids[i] = supervisorPID(t, b)
		})
	}
	wg.Wait()
	for _, p := range pids {
		if p != pids[0] || p == 0 {
			t.Fatalf("supervisors %v, want one", pids)
		}
	}
	until(t, "end of the losers", func() bool { left, _ := process.Owned(b.id); return len(left) == 1 })
	var log bytes.Buffer
	err := process.Serve(deadline(t), b.Dirs, b.id, slog.New(slog.NewTextHandler(&log, nil)))
	if !errors.Is(err, process.ErrRunning) {
		t.Errorf("second supervisor: %v", err)
	}
	if _, err := process.Start(deadline(t), b.Dirs, b.id+"-other", []string{os.Args[0]}); err == nil || !strings.Contains(err.Error(), "not of") {
		t.Errorf("start of another testbed in the same place: %v", err)
	}
}

func TestStartFailures(t *testing.T) {
	b := newBed(t)
	long := b.Dirs
	long.Run = filepath.Join(b.Run, strings.Repeat("x", 100))
	for name, tc := range map[string]struct {
		dirs process.Dirs
		argv []string
		want []string
	}{
		"ends at once":  {b.Dirs, []string{os.Args[0], "helper", "fail"}, []string{"exit status 3", "supervisor.log", "cannot find my keys"}},
		"no program":    {b.Dirs, []string{"no-such-program-here"}, []string{"not found"}},
		"too long":      {long, superviseArgv("x", "y", "z"), []string{"choose a shorter run folder"}},
		"nothing given": {b.Dirs, nil, []string{"command must be given"}},
	} {
		_, err := process.Start(deadline(t), tc.dirs, b.id, tc.argv)
		for _, want := range tc.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q in it", name, err, want)
			}
		}
	}
	// Cancelled, it leaves nothing.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := process.Start(ctx, b.Dirs, b.id, []string{os.Args[0], "helper", "run", filepath.Join(t.TempDir(), "notes")}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
	until(t, "end of the child", func() bool { left, _ := process.Owned(b.id); return len(left) == 0 })
}

// Whenever the command that starts a supervisor is killed, Reap finds all of it,
// and what comes up after the folders are gone ends by itself.
func TestKilledStart(t *testing.T) {
	for _, moment := range []string{"", "state/logs/supervisor.log", "state/supervisor.lock", "run/supervisor.sock"} {
		b := newBed(t)
		cli := exec.Command(os.Args[0], "helper", "start", b.State, b.Run, b.id)
		if err := cli.Start(); err != nil {
			t.Fatal(err)
		}
		if moment != "" {
			path := strings.Replace(strings.Replace(moment, "state", b.State, 1), "run/", b.Run+"/", 1)
			until(t, moment, func() bool { _, err := os.Stat(path); return err == nil })
		}
		_ = cli.Process.Kill()
		_ = cli.Wait()
		if err := errors.Join(process.Reap(deadline(t), b.id), os.RemoveAll(b.State)); err != nil {
			t.Fatal(err)
		}
		until(t, "nothing left", func() bool { left, err := process.Owned(b.id); return err == nil && len(left) == 0 })
	}
	b := newBed(t)
	if err := process.Serve(deadline(t), b.Dirs, b.id, slog.New(slog.DiscardHandler)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("supervisor of a removed testbed: %v", err)
	}
}

// The supervisor outlives the command that started it, has a session of its own
// and none of its files; a component has an environment of its own.
func TestDetached(t *testing.T) {
	b := newBed(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cli := exec.Command(os.Args[0], "helper", "start", b.State, b.Run, b.id)
	cli.ExtraFiles = []*os.File{w} // as a job server's
	cli.Env = append(os.Environ(), "SECRET=of the shell")
	out, err := cli.Output()
	if err != nil || strings.TrimSpace(string(out)) != "<nil>" {
		t.Fatalf("start said %q, %v", out, err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("somebody holds the starter's file: %v", err)
	}
	pid := supervisorPID(t, b)
	if sid, _, errno := syscall.Syscall(syscall.SYS_GETSID, uintptr(pid), 0, 0); errno != 0 || int(sid) != pid {
		t.Errorf("session %d (%v), want %d", sid, errno, pid)
	}
	c, err := process.Connect(deadline(t), b.Dirs)
	if err != nil {
		t.Fatal(err)
	}
	s := spec("c/one", "inspect")
	apply(t, c, s, true)
	waitReady(t, c)
	var log string
	until(t, "what the component says", func() bool {
		log = strings.Join(lines(t, status(t, c, s.Name).Log), " ")
		return strings.Contains(log, "secret")
	})
	if !strings.Contains(log, "id_"+b.id+"_secret") || strings.Contains(log, "secret_of") {
		t.Errorf("environment: %s", log)
	}
	pgid, err := syscall.Getpgid(status(t, c, s.Name).PID)
	if err != nil || pgid != status(t, c, s.Name).PID {
		t.Errorf("process group %d, %v", pgid, err)
	}
	for path, want := range map[string]os.FileMode{
		filepath.Join(b.Run, "supervisor.sock"):            0o600,
		filepath.Join(b.State, "components", "c_one.json"): 0o600,
		filepath.Join(b.State, "logs", "c-one.log"):        0o600,
		filepath.Join(b.State, "logs"):                     0o700,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
}

func TestLogIsPutAway(t *testing.T) {
	b := newBed(t)
	c := b.start(t)
	log := filepath.Join(b.State, "logs", "c-one.log")
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(log, process.MaxLog+1); err != nil {
		t.Fatal(err)
	}
	apply(t, c, spec("c/one", "run", filepath.Join(t.TempDir(), "notes")), true)
	old, err := os.Stat(log + ".1")
	if err != nil || old.Size() != process.MaxLog+1 {
		t.Errorf("old log: %v, %v", old, err)
	}
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if s := bufio.NewScanner(f); !s.Scan() || !strings.HasPrefix(s.Text(), "--- ") {
		t.Errorf("new log begins with %q", s.Text())
	}
}
