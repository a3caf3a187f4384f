package mapper_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	api "github.com/fluidos-edge/testbed/controllers/api/dmi/v1beta1"
	"github.com/fluidos-edge/testbed/controllers/mapper"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/dmi/fakeedge"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// node is an edge node with an edge runtime, a mapper and simulated boards, all
// over real sockets.
type node struct {
	t    *testing.T
	ctx  context.Context
	edge *fakeedge.Edge
	api  client.Client
}

// asked is the Device that the mapper applied as the edge runtime passes it on,
// with a desired sampling rate and a report cycle that is for tests.
func (n *node) asked(name, desired string) *api.Device {
	n.t.Helper()
	var d devices.Device
	if err := n.api.Get(n.ctx, client.ObjectKey{Namespace: "fluidos", Name: name}, &d); err != nil {
		n.t.Fatal(err)
	}
	mac, err := anypb.New(wrapperspb.String("c0:83:2a:00:11:22"))
	if err != nil {
		n.t.Fatal(err)
	}
	out := &api.Device{
		Name: d.Name, Namespace: d.Namespace,
		Spec: &api.DeviceSpec{
			DeviceModelReference: d.Spec.DeviceModelRef.Name,
			Protocol:             &api.ProtocolConfig{ProtocolName: d.Spec.Protocol.ProtocolName, ConfigData: &api.CustomizedValue{Data: map[string]*anypb.Any{"macAddress": mac}}},
		},
	}
	for _, p := range d.Spec.Properties {
		q := &api.DeviceProperty{Name: p.Name, CollectCycle: 10, ReportCycle: 100, ReportToCloud: p.ReportToCloud}
		if p.Name == "sampling-rate" {
			q.Desired = &api.TwinProperty{Value: desired}
		}
		out.Spec.Properties = append(out.Spec.Properties, q)
	}
	return out
}

// until the edge runtime knows something of a Device.
func (n *node) until(name, what string, ok func(fakeedge.Device) bool) {
	n.t.Helper()
	err := n.edge.Await(n.ctx, what, func() bool { return ok(n.edge.Reported("fluidos", name)) })
	if err != nil {
		n.t.Fatalf("%v; reported: %v", err, n.edge.Reported("fluidos", name))
	}
}

// event waits for one on a Device.
func (n *node) event(written <-chan *corev1.Event, name, reason string) {
	n.t.Helper()
	for {
		e := take(n.t, written, "event "+reason)
		if e.InvolvedObject.Name == name && e.Reason == reason {
			return
		}
	}
}

// problem waits until a Device is given one that is as wanted.
func (n *node) problem(written <-chan *devices.Device, name string, wanted func(string) bool) {
	n.t.Helper()
	for last := ""; ; {
		d := take(n.t, written, fmt.Sprintf("problem of %s that is wanted, the last was %q", name, last))
		if d.Name != name {
			n.t.Errorf("problem of %s: %s", d.Name, d.Annotations[devices.AnnotationProblem])
		} else if last = d.Annotations[devices.AnnotationProblem]; wanted(last) {
			return
		}
	}
}

func reportedNumber(d fakeedge.Device, property string) (reported float64, desired string) {
	v, err := strconv.ParseFloat(d.Twins[property].GetReported().GetValue(), 64)
	if err != nil {
		v = -1
	}
	return v, d.Twins[property].GetObservedDesired().GetValue()
}

// With an edge runtime: it is told how boards are and what they measure, it says how
// fast they shall be, and it may come and go. Then things go wrong with a board.
func TestWithAnEdgeRuntime(t *testing.T) {
	const kt1b, bx1 = "stwinkt1b-c0832a001122", "stwinbx1-c0832a000001"
	dir, err := os.MkdirTemp("", "m") // a socket's address is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	socket := filepath.Join(dir, "r")
	control := boards(t, socket, 20, "hts221", "lps22hh", "stts751", "ism330dhcx", "iis2mdc", "imp34dt05")
	b := newTestBroker(t)
	b.start(t)
	written, problems := make(chan *corev1.Event, 1000), make(chan *devices.Device, 1000)
	c, applied := cluster(t, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			err := c.Create(ctx, o, opts...)
			if e, ok := o.(*corev1.Event); ok && err == nil {
				written <- e
			}
			return err
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			err := c.Patch(ctx, o, p, opts...)
			if d, ok := o.(*devices.Device); ok && err == nil {
				problems <- d.DeepCopy()
			}
			return err
		},
	})
	n := &node{t: t, ctx: ctx, api: c, edge: fakeedge.New(filepath.Join(dir, "dmi.sock"))}
	n.edge.Limit(1000, 1000)
	t.Cleanup(n.edge.Stop)

	// Without an edge runtime everything else works.
	run(t, socket, b, c, func(o *mapper.Options) {
		o.DMISocket, o.DMIListen = filepath.Join(dir, "dmi.sock"), filepath.Join(dir, "mapper.sock")
	})
	for missing := map[string]bool{"Device fluidos/" + kt1b: true, "Device fluidos/" + bx1: true}; len(missing) > 0; {
		delete(missing, take(t, applied, fmt.Sprintf("registration, of %v", slices.Collect(maps.Keys(missing)))))
	}
	seen := map[string]bool{}
	for len(seen) < 8 { // parts
		seen[path.Base(take(t, b.messages, fmt.Sprintf("message of all parts, got %v", seen)).topic)] = true
	}

	if err := n.edge.Start(); err != nil {
		t.Fatal(err)
	}
	put := func(name, desired string) {
		t.Helper()
		if err := n.edge.Put(ctx, n.asked(name, desired)); err != nil {
			t.Log(err) // it is there when the mapper registers
		}
	}
	for _, model := range []string{"stwinkt1b", "stwinbx1"} {
		if err := n.edge.PutModel(ctx, "ble-bluest", &api.DeviceModel{Name: model, Namespace: "fluidos"}); err != nil {
			t.Log(err)
		}
	}
	put(kt1b, "")
	put(bx1, "")
	for _, name := range []string{kt1b, bx1} {
		want := 5 // with battery and rate
		if name == kt1b {
			want = 16
		}
		n.until(name, fmt.Sprintf("online with %d properties", want), func(d fakeedge.Device) bool {
			hz, _ := reportedNumber(d, "sampling-rate")
			return d.State == devices.StateOnline && hz == 20 && len(d.Twins) >= want-1
		})
	}

	rate := func(name, board string, hz float64) {
		t.Helper()
		text := strconv.FormatFloat(hz, 'f', -1, 64)
		put(name, text)
		n.until(name, "rate "+text, func(d fakeedge.Device) bool {
			got, desired := reportedNumber(d, "sampling-rate")
			return got == hz && desired == text
		})
		if state, err := control.Board(ctx, board); err != nil || state.Rate != hz {
			t.Errorf("board %s: %v Hz, %v; want %v", board, state.Rate, err, hz)
		}
	}
	rate(kt1b, "kt1b", 50)

	// An edge runtime that was killed is found again, and told everything anew.
	registrations, _ := n.edge.Calls()
	n.edge.Stop()
	if err := n.edge.Start(); err != nil {
		t.Fatal(err)
	}
	before := n.edge.Reported("fluidos", kt1b)
	n.until(kt1b, "reports after a restart of the edge runtime", func(d fakeedge.Device) bool {
		again, _ := n.edge.Calls()
		return again > registrations && d.States > before.States && d.Reports > before.Reports
	})
	rate(kt1b, "kt1b", 25)

	// A rate that cannot be.
	put(bx1, "1000")
	n.event(written, bx1, "InvalidDesired")
	n.until(bx1, "the difference", func(d fakeedge.Device) bool {
		got, desired := reportedNumber(d, "sampling-rate")
		return got == 20 && desired == "1000"
	})

	for _, f := range []struct {
		fault  topology.Fault
		event  string
		state  string
		over   string
		symbol func(fakeedge.Device) bool
	}{
		{topology.Fault{Kind: topology.FaultBatteryLow}, "BatteryLow", devices.StateOnline, "", func(d fakeedge.Device) bool {
			v, _ := reportedNumber(d, "battery-level")
			return v == 5
		}},
		{topology.Fault{Kind: topology.FaultDrift, Part: "stts751", Slope: 1000}, "ReadingsDisagree", devices.StateUnhealthy, "BoardRecovered", nil},
		{topology.Fault{Kind: topology.FaultGarbage}, "GarbageFrames", devices.StateUnhealthy, "", nil},
		{topology.Fault{Kind: topology.FaultReboot}, "BoardRestarted", devices.StateOnline, "", func(d fakeedge.Device) bool {
			hz, desired := reportedNumber(d, "sampling-rate")
			return hz == 25 && desired == "25"
		}},
		{topology.Fault{Kind: topology.FaultOutOfRange}, "BoardLost", devices.StateOffline, "", nil},
	} {
		if _, err := control.Fault(ctx, "kt1b", f.fault); err != nil {
			t.Fatal(err)
		}
		n.event(written, kt1b, f.event)
		n.until(kt1b, f.fault.Kind, func(d fakeedge.Device) bool {
			return d.State == f.state && (f.symbol == nil || f.symbol(d))
		})
		if f.state != devices.StateOnline {
			n.problem(problems, kt1b, func(text string) bool { return strings.HasPrefix(text, f.event+": ") })
		}
		if f.fault.Kind != topology.FaultReboot {
			if _, err := control.Clear(ctx, "kt1b", ""); err != nil {
				t.Fatal(err)
			}
		}
		if f.over != "" {
			n.event(written, kt1b, f.over)
		}
		n.until(kt1b, "the end of "+f.fault.Kind, func(d fakeedge.Device) bool { return d.State == devices.StateOnline })
		if f.state != devices.StateOnline {
			n.problem(problems, kt1b, func(text string) bool { return text == "" })
		}
	}
	if state := n.edge.Reported("fluidos", bx1).State; state != devices.StateOnline {
		t.Errorf("the other board is %s", state)
	}
	for len(written) > 0 {
		if e := <-written; e.InvolvedObject.Name == bx1 {
			t.Errorf("event %s of the other board: %s", e.Reason, e.Message)
		}
	}
	if _, refused := n.edge.Calls(); refused > 0 {
		t.Errorf("%d calls were refused", refused)
	}
}
