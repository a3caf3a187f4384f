package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/fluidos-edge/testbed/internal/cli"
	"github.com/fluidos-edge/testbed/scenarios"
	"github.com/fluidos-edge/testbed/testbed"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

var update = flag.Bool("update", false, "write golden files")

// exits is `exits CODE PROGRAM ARGUMENT...` for scripts.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

func fakeKubectl(args []string) {
	fmt.Printf("KUBECONFIG=%s %q\n", os.Getenv("KUBECONFIG"), args)
	os.Exit(7)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got), -update writes it:\n%s", path, diff)
	}
}

func runFake(ctx context.Context, f cli.Fake, args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = cli.RunFake(ctx, f, args, strings.NewReader(""), &out, &err)
	return code, out.String(), err.String()
}

func ready() *testbed.Status {
	return &testbed.Status{
		Name: "default", Phase: testbed.PhaseReady, Backend: "embedded", Edge: "hollow",
		Clusters: []testbed.Cluster{
			{Name: "consumer-1", Role: "consumer", Ready: true, Server: "https://127.0.0.1:40001", Kubeconfig: "/s/default/consumer-1.kubeconfig"},
			{Name: "provider-1", Role: "provider", Ready: true, Server: "https://127.0.0.1:40002", Kubeconfig: "/s/default/provider-1.kubeconfig"},
		},
		Components: []testbed.Component{
			{Name: "consumer-1/influxdb", Ready: true, PID: 12, URL: "http://127.0.0.1:40003", Log: "/s/default/consumer-1/influxdb.log", RSSBytes: 50 << 20},
			{Name: "provider-1/erm", Ready: false, Log: "/s/default/provider-1/erm.log", Reason: "connect: refused\nand more", Restarts: 2},
			{Name: "provider-1/mapper/edge-1", External: true, Args: []string{"mapper", "--node", "edge-1", "--say", "it's"}},
		},
		Phases:    []testbed.PhaseTime{{Name: "provider-1/etcd", Seconds: 1.25}, {Name: "provider-1/kube-apiserver", Seconds: 12}},
		Topology:  topology.Default(),
		Providers: []testbed.ProviderAccess{{Name: "provider-1", ConsumerKubeconfigs: map[string]string{"consumer-1": "x", "consumer-2": "y"}}},
	}
}

func TestStatus(t *testing.T) {
	ctx := context.Background()
	var s *testbed.Status
	f := cli.Fake{Describe: func(context.Context, testbed.Options) (*testbed.Status, error) {
		if s == nil {
			return nil, fmt.Errorf("%w: default", testbed.ErrAbsent)
		}
		return s, nil
	}}
	s = ready()
	code, out, _ := runFake(ctx, f, "status")
	golden(t, "status.golden", out)
	if code != 0 {
		t.Errorf("exit code %d of a Ready testbed", code)
	}
	s.Phase = testbed.PhaseDegraded
	code, out, stderr := runFake(ctx, f, "status", "-o", "json")
	golden(t, "status.json", out)
	if code != 1 || stderr != "" {
		t.Errorf("exit code %d of a Degraded testbed, stderr %q", code, stderr)
	}
	s = nil
	code, out, stderr = runFake(ctx, f, "--name", "lab", "status")
	if want := "error: testbed lab is not up\nfix: `testbed --name lab up`\n"; code != 4 || out != "" || stderr != want {
		t.Errorf("absent: exit code %d, stdout %q, stderr %q", code, out, stderr)
	}
	code, out, _ = runFake(ctx, f, "status", "-o", "json")
	var got struct{ Name, Phase string }
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 4 || got.Phase != testbed.PhaseAbsent {
		t.Errorf("absent: exit code %d, %q, %v", code, out, err)
	}
}

func TestUp(t *testing.T) {
	ctx := context.Background()
	var got testbed.Options
	var fail error
	f := cli.Fake{
		Up: func(_ context.Context, o testbed.Options) (*testbed.Status, error) {
			got = o
			o.Progress(testbed.Event{Phase: "assets", State: "start"})
			o.Progress(testbed.Event{Phase: "assets", State: "progress", Detail: "etcd (1 of 6)", Fraction: 0.4, Left: 90 * time.Second, Seconds: 31})
			o.Progress(testbed.Event{Phase: "assets", State: "progress", Detail: "etcd (1 of 6)", Fraction: 0.5, Left: 80 * time.Second, Seconds: 33})
			if fail != nil {
				o.Progress(testbed.Event{Phase: "assets", State: "fail", Detail: fail.Error(), Seconds: 33})
				return nil, fail
			}
			o.Progress(testbed.Event{Phase: "assets", State: "done", Seconds: 125})
			return ready(), nil
		},
		Demo: func(context.Context, *testbed.Status, string, func(testbed.Event)) ([]scenarios.Result, error) {
			return results(scenarios.Fail), nil
		},
	}
	code, out, stderr := runFake(ctx, f, "up", "--external", "provider-1/erm", "--external", "provider-1/relay", "--retain", "--backend", "embedded")
	golden(t, "up.golden", out+"--- stderr\n"+stderr)
	if diff := cmp.Diff([]string{"provider-1/erm", "provider-1/relay"}, got.External); code != 0 || !got.Retain || got.Topology != nil || got.Name != "default" || diff != "" {
		t.Errorf("exit code %d, options %+v %s", code, got, diff)
	}
	if code, _, _ = runFake(ctx, f, "up", "--consumers", "3", "-q"); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if diff := cmp.Diff(topology.Custom(3, 1), got.Topology); diff != "" {
		t.Error(diff)
	}
	code, out, _ = runFake(ctx, f, "up", "--demo", "-q", "-o", "json")
	var doc struct {
		Status struct{ Phase string }
		Demo   []scenarios.Result
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || code != 1 || doc.Status.Phase != "Ready" || len(doc.Demo) != 3 {
		t.Errorf("up --demo: exit code %d, %v: %s", code, err, out)
	}
	code, out, _ = runFake(ctx, f, "up", "--demo", "-q")
	golden(t, "up-demo.golden", out)
	if code != 1 {
		t.Errorf("up --demo: exit code %d", code)
	}
	if code, _, _ = runFake(ctx, f, "up", "-q"); code != 0 {
		t.Errorf("up without --demo: exit code %d", code)
	}

	fail = errors.New("provider-1/etcd: not ready in 60s: connection refused")
	code, out, stderr = runFake(ctx, f, "up", "-o", "json")
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	var e struct {
		Error struct {
			Code, Message, Fix string
			Causes             []any
		}
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &e); err != nil || code != 3 || out != "" || e.Error.Code != "not-up" ||
		!strings.Contains(e.Error.Message, "connection refused") || e.Error.Fix == "" || e.Error.Causes == nil {
		t.Errorf("exit code %d, stdout %q, %v: %s", code, out, err, stderr)
	}
	fail = &testbed.InputError{Field: "external", Value: "erm", Want: "a component of this testbed"}
	if code, _, stderr = runFake(ctx, f, "up", "-q"); code != 2 || stderr != "error: external: \"erm\": want a component of this testbed\nfix: give external a component of this testbed\n" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
}

// Whatever a cancelled command returns, the exit code says interrupted.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	f := cli.Fake{Up: func(ctx context.Context, _ testbed.Options) (*testbed.Status, error) {
		cancel()
		<-ctx.Done()
		return nil, fmt.Errorf("wait for etcd: %w", ctx.Err())
	}}
	code, out, stderr := runFake(ctx, f, "up", "-o", "json", "-q")
	if code != 130 || out != "" || !strings.HasPrefix(stderr, `{"error":{"code":"interrupted"`) {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, out, stderr)
	}
}

// What a first Ctrl-C does is said at once, before the command has undone anything.
func TestInterruptedSays(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	said := make(chan string, 1)
	stderr := writer(func(p []byte) (int, error) {
		select {
		case said <- string(p):
		default:
		}
		return len(p), nil
	})
	f := cli.Fake{Up: func(ctx context.Context, _ testbed.Options) (*testbed.Status, error) {
		cancel()
		<-said // the test's own deadline ends a wait for nothing
		return nil, ctx.Err()
	}}
	if code := cli.RunFake(ctx, f, []string{"up", "--backend", "embedded"}, nil, io.Discard, stderr); code != 130 {
		t.Errorf("exit code %d", code)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func TestTimeout(t *testing.T) {
	wait := func(ctx context.Context, _ testbed.Options) error { <-ctx.Done(); return ctx.Err() }
	f := cli.Fake{
		Up:   func(ctx context.Context, o testbed.Options) (*testbed.Status, error) { return nil, wait(ctx, o) },
		Down: wait,
	}
	for _, c := range []struct {
		command string
		code    int
	}{{"up", 3}, {"down", 1}} {
		code, out, stderr := runFake(context.Background(), f, c.command, "--timeout", "1ms", "-q")
		if code != c.code || out != "" || !strings.Contains(stderr, "not done within --timeout 1ms") {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", c.command, code, out, stderr)
		}
	}
}

// A signal is how a supervisor ends.
func TestSupervise(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f := cli.Fake{Supervise: func(ctx context.Context, name string) error { return ctx.Err() }}
	if code, _, stderr := runFake(ctx, f, "supervise", "--name", "x"); code != 0 || stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
}

// kubectl gets its arguments as they are and gives back its exit code.
func TestKubectl(t *testing.T) {
	program, err := exec.LookPath("fakekubectl")
	if err != nil {
		t.Fatal(err)
	}
	f := cli.Fake{
		Kubeconfig: func(name, which string) (string, error) { return "/k/" + name + "/" + which, nil },
		Kubectl:    func() (string, error) { return program, nil },
	}
	for _, args := range [][]string{
		{"kubectl", "provider-1", "--", "get", "pods", "-A", "-o", "json"},
		{"kubectl", "provider-1", "get", "pods", "-A", "-o", "json"},
	} {
		code, out, stderr := runFake(context.Background(), f, append([]string{"--name", "lab"}, args...)...)
		if want := "KUBECONFIG=/k/lab/provider-1 [\"get\" \"pods\" \"-A\" \"-o\" \"json\"]\n"; code != 7 || out != want || stderr != "" {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", args, code, out, stderr)
		}
	}
}

func TestCompletion(t *testing.T) {
	f := cli.Fake{Describe: func(context.Context, testbed.Options) (*testbed.Status, error) { return ready(), nil }}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"kubeconfig", ""}, "consumer-1 provider-1 consumer-1@provider-1 consumer-2@provider-1 :4"},
		{[]string{"kubectl", ""}, "consumer-1 provider-1 consumer-1@provider-1 consumer-2@provider-1 :4"},
		{[]string{"up", "--external", ""}, "consumer-1/influxdb provider-1/erm provider-1/mapper/edge-1 :4"},
		{[]string{"demo", "multicast", ""}, ":4"},
		{[]string{"up", "--junit", ""}, "xml :8"},
		{[]string{"up", "--edge", ""}, "auto hollow kubeedge :4"},
	} {
		code, out, _ := runFake(context.Background(), f, append([]string{"__complete"}, c.args...)...)
		if got := strings.Join(strings.Fields(out), " "); code != 0 || got != c.want {
			t.Errorf("%q: exit code %d, %q, want %q", c.args, code, got, c.want)
		}
	}
}

func TestProgressOnTerminal(t *testing.T) {
	var b bytes.Buffer
	now := time.Unix(100, 0)
	tell, end := cli.NewProgress(&b, func() time.Time { return now }, 60)
	tell(testbed.Event{Phase: "assets", State: "start", Fraction: -1})
	now = now.Add(65 * time.Second)
	tell(testbed.Event{Phase: "assets", State: "progress", Detail: "etcd, a long story that does not fit", Fraction: 0.25, Left: time.Hour, Seconds: 65})
	tell(testbed.Event{Phase: "sinks", State: "start", Fraction: -1, Seconds: 0})
	tell(testbed.Event{Phase: "assets", State: "done", Fraction: 1, Seconds: 66})
	tell(testbed.Event{Phase: "sinks", State: "fail", Detail: "no\nway", Fraction: -1, Seconds: 1})
	end()
	want := "\r\x1b[J|    assets                          0.0s\n" +
		"\x1b[1A\r\x1b[J|    assets                         1m05s  etcd, a long ...\n" +
		"\x1b[1A\r\x1b[J|    assets                         1m05s  etcd, a long ...\n|    sinks                           0.0s\n" +
		"\x1b[2A\r\x1b[Jok   assets                         1m06s\n|    sinks                           0.0s\n" +
		"\x1b[1A\r\x1b[JFAIL sinks                           1.0s  no\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestSplitUnit(t *testing.T) {
	for in, want := range map[string][2]string{
		"20ms": {"20", "ms"}, "0.015 s": {"0.015", "s"}, "12": {"12", ""}, "": {"", ""}, "soon": {"soon", ""}, "-1us": {"-1", "us"},
	} {
		value, unit := cli.SplitUnit(in)
		if got := [2]string{value, unit}; got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
