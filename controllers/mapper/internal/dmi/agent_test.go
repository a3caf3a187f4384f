package dmi_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	kubeedge "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	api "github.com/fluidos-edge/testbed/controllers/api/dmi/v1beta1"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/dmi"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/dmi/fakeedge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node has an edge runtime and the options of a mapper.
type node struct {
	t      *testing.T
	ctx    context.Context
	edge   *fakeedge.Edge
	mapper dmi.Options
	// What was told: +NAME, -NAME, and states as "" or an error.
	told   chan string
	states chan string
}

func newNode(t *testing.T) *node {
	t.Parallel()
	// A socket's address is short, so the name of the test may not be in it.
	dir, err := os.MkdirTemp("", "dmi")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	n := &node{
		t: t, ctx: ctx,
		edge: fakeedge.New(filepath.Join(dir, "dmi.sock")),
		told: make(chan string, 100), states: make(chan string, 1000),
	}
	t.Cleanup(n.edge.Stop)
	n.mapper = dmi.Options{
		Protocol: "bluetooth", Node: "edge-1",
		Edge: filepath.Join(dir, "dmi.sock"), Listen: filepath.Join(dir, "mapper.sock"),
		Pause:   time.Millisecond,
		Changed: func(d dmi.Device) { n.told <- "+" + d.Name },
		Removed: func(_, name string) { n.told <- "-" + name },
		State: func(err error) {
			// Failures repeat for as long as they last.
			if err == nil {
				n.states <- ""
			} else if len(n.states) < 100 {
				n.states <- err.Error()
			}
		},
	}
	return n
}

func (n *node) startEdge() {
	n.t.Helper()
	must(n.t, n.edge.Start())
}

// run a mapper until the test ends, or until the function that it returns is
// called.
func (n *node) run() (*dmi.Agent, func()) {
	ctx, cancel := context.WithCancel(n.ctx)
	a := dmi.New(n.mapper)
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("the agent ended with %v, want nil", err)
		}
	}
	n.t.Cleanup(stop)
	return a, stop
}

func (n *node) put(name string, properties ...string) {
	n.t.Helper()
	must(n.t, n.edge.PutModel(n.ctx, "bluetooth", &api.DeviceModel{Namespace: "fluidos", Name: "model"}))
	must(n.t, n.edge.Put(n.ctx, edgeDevice(name, properties...)))
}

func edgeDevice(name string, properties ...string) *api.Device {
	d := &api.Device{Namespace: "fluidos", Name: name, Spec: &api.DeviceSpec{
		DeviceModelReference: "model",
		Protocol:             &api.ProtocolConfig{ProtocolName: "bluetooth"},
	}}
	for _, p := range properties {
		d.Spec.Properties = append(d.Spec.Properties, &api.DeviceProperty{Name: p, ReportToCloud: true})
	}
	return d
}

// tells waits for these calls, in this order and no other between.
func (n *node) tells(want ...string) {
	n.t.Helper()
	for _, w := range want {
		select {
		case got := <-n.told:
			if got != w {
				n.t.Fatalf("told %s, want %s", got, w)
			}
		case <-n.ctx.Done():
			n.t.Fatalf("not told %s", w)
		}
	}
}

// becomes waits until the state is one that holds part; "" is registered.
func (n *node) becomes(part string) {
	n.t.Helper()
	var last string
	for {
		select {
		case last = <-n.states:
			if last == part || part != "" && strings.Contains(last, part) {
				return
			}
		case <-n.ctx.Done():
			n.t.Fatalf("the state is %q, and did not become %q", last, part)
		}
	}
}

func (n *node) await(what string, ok func() bool) {
	n.t.Helper()
	must(n.t, n.edge.Await(n.ctx, what, ok))
}

func TestRegistersAndTakesDevices(t *testing.T) {
	n := newNode(t)
	n.startEdge()
	n.put("a", "x")
	must(t, n.edge.Put(n.ctx, &api.Device{Namespace: "fluidos", Name: "foreign", Spec: &api.DeviceSpec{
		DeviceModelReference: "model", Protocol: &api.ProtocolConfig{ProtocolName: "modbus"},
	}}))
	devices := make(chan dmi.Device, 10)
	n.mapper.Changed = func(d dmi.Device) { devices <- d }
	n.run()
	n.becomes("")
	check(t, "Device", <-devices, device("a", "x"))
	m := n.edge.Mapper("bluetooth")
	check(t, "mapper", []string{m.GetName(), m.GetApiVersion(), string(m.GetAddress())}, []string{"bluetooth-edge-1", "v1beta1", n.mapper.Listen})

	// What the edge runtime calls.
	b := edgeDevice("b")
	b.Spec.Protocol.ConfigData = &api.CustomizedValue{Data: map[string]*anypb.Any{"mac": wrap(t, wrapperspb.String("c0:01")), "odd": nil}}
	b.Spec.Properties = []*api.DeviceProperty{{Name: "rate", Desired: &api.TwinProperty{Value: "5"}, CollectCycle: 1000, ReportCycle: 10000}}
	must(t, n.edge.Put(n.ctx, b))
	want := device("b")
	want.Config["mac"] = "c0:01"
	want.Properties["rate"] = dmi.Property{Collect: time.Second, Report: 10 * time.Second, Desired: "5", HasDesired: true}
	check(t, "Device with a wish", <-devices, want)
	b.Spec.Properties[0].Desired.Value = "10"
	must(t, n.edge.Put(n.ctx, b))
	want.Properties["rate"] = dmi.Property{Collect: time.Second, Report: 10 * time.Second, Desired: "10", HasDesired: true}
	check(t, "Device with another wish", <-devices, want)
	must(t, n.edge.Remove(n.ctx, "fluidos", "b"))
	n.tells("-b")

	for _, wrong := range []*api.Device{nil, edgeDevice(""), {Namespace: "fluidos", Name: "foreign"}} {
		if _, err := call(t, n, func(ctx context.Context, m api.DeviceMapperServiceClient) (*api.RegisterDeviceResponse, error) {
			return m.RegisterDevice(ctx, &api.RegisterDeviceRequest{Device: wrong})
		}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("register %v: %v, want InvalidArgument", wrong, err)
		}
	}
}

func TestReportsReachTheEdgeRuntime(t *testing.T) {
	n := newNode(t)
	n.startEdge()
	n.put("a", "x", "y")
	a, _ := n.run()
	// Before it is registered, too.
	must(t, a.ReportState(n.ctx, "fluidos", "a", kubeedge.StateOnline))
	must(t, a.ReportTwins(n.ctx, "fluidos", "a", []dmi.Twin{{Property: "x", Reported: "1.5", Desired: "2", At: start, Type: "float"}}))
	n.await("state and property", func() bool {
		d := n.edge.Reported("fluidos", "a")
		return d.State == kubeedge.StateOnline && d.Twins["x"].GetReported().GetValue() == "1.5"
	})
	x := n.edge.Reported("fluidos", "a").Twins["x"]
	meta := map[string]string{"timestamp": "1795852800000", "type": "float"}
	check(t, "metadata", []any{x.GetReported().GetMetadata(), x.GetObservedDesired().GetMetadata(), x.GetObservedDesired().GetValue()}, []any{meta, meta, "2"})

	got, err := n.edge.Get(n.ctx, "bluetooth", "fluidos", "a")
	must(t, err)
	check(t, "twins when asked", []any{len(got.GetStatus().GetTwins()), got.GetStatus().GetTwins()[0].GetReported().GetValue()}, []any{1, "1.5"})
	if _, err := n.edge.Get(n.ctx, "bluetooth", "fluidos", "none"); status.Code(err) != codes.NotFound {
		t.Errorf("asked for a Device that there is not: %v, want NotFound", err)
	}

	ended, cancel := context.WithCancel(n.ctx)
	cancel()
	if err := a.ReportTwins(ended, "fluidos", "a", nil); err == nil {
		t.Error("report with a context that has ended: no error")
	}
	if err := a.ReportState(n.ctx, "fluidos", "a", "fine"); err == nil || !strings.Contains(err.Error(), "state of fluidos/a") {
		t.Errorf("wrong state: %v, want an error that names the Device", err)
	}
}

func TestEdgeRuntimeIsStartedAnew(t *testing.T) {
	n := newNode(t)
	a, _ := n.run()
	n.becomes("no such file")
	n.startEdge()
	n.becomes("")
	n.put("a", "x")
	n.put("b", "x")
	n.tells("+a", "+b")
	must(t, a.ReportState(n.ctx, "fluidos", "a", kubeedge.StateUnhealthy))
	n.await("state", func() bool { return n.edge.Reported("fluidos", "a").State == kubeedge.StateUnhealthy })

	n.edge.Stop()
	n.becomes("connection refused")
	n.edge.Forget("fluidos", "b")
	must(t, a.ReportTwins(n.ctx, "fluidos", "a", []dmi.Twin{{Property: "x", Reported: "1"}}))
	must(t, a.ReportTwins(n.ctx, "fluidos", "a", []dmi.Twin{{Property: "x", Reported: "2"}}))
	n.startEdge()
	n.becomes("")
	n.tells("-b")
	n.put("c")
	n.tells("+c")
	n.await("the state again, and what was reported meanwhile in one", func() bool {
		d := n.edge.Reported("fluidos", "a")
		return d.States == 2 && d.Reports == 1 && d.Twins["x"].GetReported().GetValue() == "2"
	})
}

func TestMapperIsStartedAnew(t *testing.T) {
	n := newNode(t)
	n.startEdge()
	n.put("a", "x")
	_, stop := n.run()
	n.becomes("")
	n.tells("+a")
	stop()
	if _, err := os.Lstat(n.mapper.Listen); !os.IsNotExist(err) {
		t.Errorf("own socket after the end: %v, want none", err)
	}
	if err := n.edge.Put(n.ctx, edgeDevice("b", "x")); err == nil {
		t.Error("the edge runtime reached a mapper that had ended")
	}
	n.run()
	n.becomes("")
	n.tells("+a", "+b")
}

func TestRefusedReportsArriveLater(t *testing.T) {
	n := newNode(t)
	n.startEdge()
	n.put("a", "x")
	a, _ := n.run()
	n.becomes("")
	n.edge.Limit(0, 0)
	must(t, a.ReportState(n.ctx, "fluidos", "a", kubeedge.StateOnline))
	n.await("refusals", func() bool { _, refused := n.edge.Calls(); return refused >= 3 })
	must(t, a.ReportState(n.ctx, "fluidos", "a", kubeedge.StateOffline))
	n.edge.Limit(rate.Inf, 1)
	n.await("state", func() bool { return n.edge.Reported("fluidos", "a").State == kubeedge.StateOffline })
	if registrations, _ := n.edge.Calls(); registrations != 1 {
		t.Errorf("%d registrations, want 1: the connection was never lost", registrations)
	}
}

func TestRefusedRegistrationIsTriedAgain(t *testing.T) {
	n := newNode(t)
	n.edge.Limit(0, 0)
	n.startEdge()
	n.run()
	n.becomes("too many request")
	n.edge.Limit(rate.Inf, 1)
	n.becomes("")
}

func TestCallbacksMayCallTheAgent(t *testing.T) {
	n := newNode(t)
	n.startEdge()
	var a *dmi.Agent
	ready := make(chan struct{})
	n.mapper.Changed = func(d dmi.Device) {
		<-ready
		if err := a.ReportState(n.ctx, d.Namespace, d.Name, kubeedge.StateOnline); err != nil {
			t.Error(err)
		}
		d.Properties["x"] = dmi.Property{}
		n.told <- "+" + d.Name
	}
	a, _ = n.run()
	n.becomes("")
	// While the first call blocks, the edge runtime is served.
	var want []string
	for i := range 10 {
		n.put(fmt.Sprint("d", i), "x")
		want = append(want, fmt.Sprint("+d", i))
	}
	must(t, n.edge.Remove(n.ctx, "fluidos", "d5"))
	close(ready)
	n.tells(append(want, "-d5")...)
	n.await("states", func() bool {
		return n.edge.Reported("fluidos", "d0").State == kubeedge.StateOnline && n.edge.Reported("fluidos", "d9").State == kubeedge.StateOnline
	})
}

func TestModelsGiveTypes(t *testing.T) {
	n := newNode(t)
	n.startEdge()
	a, _ := n.run()
	n.becomes("")
	model := &api.DeviceModel{Namespace: "fluidos", Name: "model"}
	kind := func(want string) {
		t.Helper()
		must(t, a.ReportTwins(n.ctx, "fluidos", "a", []dmi.Twin{{Property: "x", Reported: "1"}}))
		n.await("type "+want, func() bool {
			return n.edge.Reported("fluidos", "a").Twins["x"].GetReported().GetMetadata()["type"] == want
		})
	}
	n.put("a", "x")
	kind("string")
	model.Spec = &api.DeviceModelSpec{Properties: []*api.ModelProperty{{Name: "x", Type: "DOUBLE"}}}
	must(t, n.edge.PutModel(n.ctx, "bluetooth", model))
	kind("double")
	_, err := call(t, n, func(ctx context.Context, m api.DeviceMapperServiceClient) (*api.RemoveDeviceModelResponse, error) {
		return m.RemoveDeviceModel(ctx, &api.RemoveDeviceModelRequest{ModelNamespace: "fluidos", ModelName: "model"})
	})
	must(t, err)
	kind("string")
}

func TestOwnSocket(t *testing.T) {
	t.Run("is for its user only", func(t *testing.T) {
		n := newNode(t)
		n.startEdge()
		n.run()
		n.becomes("")
		is, err := os.Lstat(n.mapper.Listen)
		must(t, err)
		if is.Mode() != os.ModeSocket|0o600 {
			t.Errorf("own socket is %v, want a socket of mode 0600", is.Mode())
		}
		entries, err := os.ReadDir(filepath.Dir(n.mapper.Listen))
		must(t, err)
		if len(entries) != 2 {
			t.Errorf("the folder has %v, want two sockets", entries)
		}
	})
	t.Run("of a killed mapper is replaced", func(t *testing.T) {
		n := newNode(t)
		n.startEdge()
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: n.mapper.Listen, Net: "unix"})
		must(t, err)
		l.SetUnlinkOnClose(false)
		l.Close()
		n.run()
		n.becomes("")
		n.put("a")
		n.tells("+a")
	})
	t.Run("of a mapper that lives is left alone", func(t *testing.T) {
		n := newNode(t)
		n.startEdge()
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: n.mapper.Listen, Net: "unix"})
		must(t, err)
		n.run()
		n.becomes("somebody else serves it")
		if m := n.edge.Mapper("bluetooth"); m != nil {
			t.Errorf("registered as %v without a socket", m)
		}
		l.Close()
		n.becomes("")
	})
	t.Run("is nothing else", func(t *testing.T) {
		n := newNode(t)
		must(t, os.WriteFile(n.mapper.Listen, []byte("mine"), 0o600))
		n.run()
		n.becomes("is there and no socket")
		b, err := os.ReadFile(n.mapper.Listen)
		must(t, err)
		check(t, "file", string(b), "mine")
	})
	t.Run("that was removed is made anew", func(t *testing.T) {
		n := newNode(t)
		n.startEdge()
		n.run()
		n.becomes("")
		must(t, n.edge.PutModel(n.ctx, "bluetooth", &api.DeviceModel{Namespace: "fluidos", Name: "model"}))
		must(t, os.Remove(n.mapper.Listen))
		_ = n.edge.Put(n.ctx, edgeDevice("missed")) // it may be there again already
		n.tells("+missed")
		n.put("a")
		n.tells("+a")
	})
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		options dmi.Options
		want    []string
	}{
		{dmi.Options{}, []string{"protocol: missing", "node: missing", "the edge runtime's socket: missing", "own socket: missing"}},
		{dmi.Options{Protocol: "b", Node: "n", Edge: "e", Listen: "m.sock"}, []string{`own socket "m.sock": want an absolute path`}},
		{dmi.Options{Protocol: "b", Node: "n", Edge: "e", Listen: "/" + strings.Repeat("m", 100)}, []string{"at most 100 bytes"}},
	} {
		err := dmi.New(tt.options).Run(context.Background())
		for _, part := range tt.want {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%+v: %v, want an error with %q", tt.options, err, part)
			}
		}
	}
}

// call the mapper as nothing in fakeedge does.
func call[R any](t *testing.T, n *node, f func(context.Context, api.DeviceMapperServiceClient) (R, error)) (R, error) {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+n.mapper.Listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer conn.Close()
	return f(n.ctx, api.NewDeviceMapperServiceClient(conn))
}
