package scenarios_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/sensor"
	"github.com/fluidos-edge/testbed/scenarios/boards"
	"github.com/fluidos-edge/testbed/scenarios/ledger"
	"github.com/fluidos-edge/testbed/scenarios/sink"
	"github.com/fluidos-edge/testbed/scenarios/tail"
	"github.com/fluidos-edge/testbed/testbed"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

var leaf = flag.Bool("leaf", false, "let TestLeafDevices and TestGathering work on the testbed of -testbed: they change its boards and kill its edge runtime")

const (
	// seenWithin bounds every wait for something that a user would see; reports
	// come every 10 s, and a sensor counts as silent after 30.
	seenWithin = 2 * time.Minute
	lookEvery  = 200 * time.Millisecond
)

// leafTestbed is the testbed that a test of leaf devices works on.
func leafTestbed(t *testing.T, kind, file string) *testbed.Status {
	t.Helper()
	switch {
	case *attach == "":
		return bringUp(t, kind, extended(t, file))
	case !*leaf:
		t.Skip("it changes boards and kills the edge runtime: add -leaf if testbed " + *attach + " is there for that")
	}
	status, err := testbed.Describe(t.Context(), testbed.Options{Name: *attach})
	if err != nil {
		t.Fatalf("%v; `bin/testbed up --name %s` brings it up", err, *attach)
	}
	return status
}

// TestLeafDevices shows what a user sees of boards: Devices with what the edge reports
// of them, desired values that reach a board, an edge runtime that is killed, and every
// fault. On an attached testbed one fault stands for all.
func TestLeafDevices(t *testing.T) {
	status := leafTestbed(t, "leaf", "leaf.yaml")
	ctx, cancel := withDeadline(t)
	defer cancel()
	p := newBench(ctx, t, status)

	t.Run("every board is a Device and its status is reported", func(t *testing.T) {
		for _, b := range p.boards {
			p.await(ctx, t, "DeviceStatus of "+b.Name+" to say online, with its rate and its readings", func() (bool, string) {
				st, text := p.deviceStatus(ctx, b)
				rate, _ := strconv.ParseFloat(reported(st, "sampling-rate"), 64)
				return st.Status.State == devices.StateOnline && rate == b.Rate && numbers(st) >= 2, text
			})
		}
	})

	tuned := p.boards[min(2, len(p.boards)-1)]
	t.Run("a desired value reaches the board, and its rate changes", func(t *testing.T) {
		p.setRate(ctx, t, tuned, tuned.Rate+1) // what the throttle of a default testbed still lets through
	})

	t.Run("the edge runtime is killed and everything goes on", func(t *testing.T) {
		before := time.Now()
		p.killEdge(ctx, t)
		arrivals := p.follow(t)
		p.await(ctx, t, "new samples of every sensor to arrive", func() (bool, string) {
			return arrivals.all(t, before)
		})
		for _, b := range p.boards {
			p.await(ctx, t, "DeviceStatus of "+b.Name+" to be written again", func() (bool, string) {
				st, text := p.deviceStatus(ctx, b)
				return st.Status.State == devices.StateOnline && reportedAt(st).After(before), text
			})
		}
		p.awaitReady(ctx, t)
		p.setRate(ctx, t, tuned, tuned.Rate)
	})

	t.Run("faults", func(t *testing.T) { p.faults(ctx, t) })
}

// symptoms are what a fault shows itself by.
type symptoms struct {
	fault topology.Fault
	// event on the board's Device, and the one when it is over, if any.
	event, over string
	// state of the DeviceStatus while it lasts; "" if it does not tell.
	state string
	// available: the board's Flavors stay so; else the DataPath says so with this reason,
	// and why is in its Flavors' annotation and, unless the DataPath has lost its sensors,
	// in the DataPath's message.
	available bool
	reason    string
	why       string
	// twin is a property whose reported value tells, and value what it is.
	twin  string
	value func(float64) bool
}

var allSymptoms = []symptoms{
	{fault: topology.Fault{Kind: topology.FaultSilence}, event: "BoardSilent", over: "BoardRecovered", state: devices.StateUnhealthy,
		why: "BoardSilent: connected, but no frame for"},
	{fault: topology.Fault{Kind: topology.FaultStuck, Part: "hts221"}, event: "ValueStuck", over: "BoardRecovered", state: devices.StateUnhealthy,
		why: "ValueStuck: the same values of hts221"},
	{fault: topology.Fault{Kind: topology.FaultDrift, Part: "stts751", Slope: 300}, event: "ReadingsDisagree", over: "BoardRecovered", state: devices.StateUnhealthy,
		why: "ReadingsDisagree: "},
	{fault: topology.Fault{Kind: topology.FaultGarbage}, event: "GarbageFrames", over: "BoardRecovered", state: devices.StateUnhealthy,
		why: "GarbageFrames: "},
	{fault: topology.Fault{Kind: topology.FaultBatteryLow}, event: "BatteryLow", available: true, state: devices.StateOnline,
		twin: "battery-level", value: func(v float64) bool { return v < 10 }},
	{fault: topology.Fault{Kind: topology.FaultReboot}, event: "BoardRestarted", available: true},
	// With the id of another board its sensors are others: a DataPath that asked for them by uid has none.
	{fault: topology.Fault{Kind: topology.FaultClone, Of: "steady-2"}, event: "DuplicateBoardID", reason: "NoSensors",
		why: "DuplicateBoardID: "},
	{fault: topology.Fault{Kind: topology.FaultOutOfRange}, event: "BoardLost", over: "BoardRecovered", state: devices.StateOffline,
		why: "BoardLost: "},
}

// faults befall a board each, all at a time: so each must show on its own board and on
// no other, and the boards that nothing befalls must not lose a sample.
func (p *leafBench) faults(ctx context.Context, t *testing.T) {
	victims := map[string]leafBoard{}
	var steady []leafBoard
	for _, b := range p.boards {
		if slices.Contains(topology.FaultKinds, b.Name) {
			victims[b.Name] = b
		} else {
			steady = append(steady, b)
		}
	}
	if len(victims) == 0 {
		victims[topology.FaultOutOfRange] = p.boards[0]
		steady = p.boards[1:]
	}
	began := time.Now()
	p.eventsSeen(ctx, t) // what was before does not count
	arrivals := p.follow(t)

	var all sync.WaitGroup
	for _, s := range allSymptoms {
		victim, ok := victims[s.fault.Kind]
		if !ok {
			continue
		}
		all.Go(func() { p.suffer(ctx, t, victim, s) })
	}
	all.Wait()
	if t.Failed() {
		return
	}
	p.awaitReady(ctx, t)
	arrivals.undisturbed(ctx, t, p, steady, began)

	for _, e := range p.eventsSeen(ctx, t) {
		for _, s := range allSymptoms {
			victim := victims[s.fault.Kind]
			on, kind := e.InvolvedObject.Name, s.fault.Kind
			// A clone restarts as one; and who lost its connection may be back too late.
			also := kind == topology.FaultReboot && on == victims[topology.FaultClone].device ||
				kind == topology.FaultOutOfRange && (on == victims[topology.FaultReboot].device || on == victims[topology.FaultClone].device)
			if e.Reason == s.event && on != victim.device && !also {
				t.Errorf("event %s on %s: %s; nothing of that kind befell it", e.Reason, on, e.Message)
			}
		}
	}
}

// suffer one fault, from its begin until its board is as before. It reports with
// t.Errorf: it runs beside others.
func (p *leafBench) suffer(ctx context.Context, t *testing.T, b leafBoard, s symptoms) {
	since := metav1.NewTime(time.Now().Truncate(time.Second))
	fail := func(err error) bool {
		if err != nil {
			t.Errorf("fault %s of %s: %v", s.fault.Kind, b.Name, err)
		}
		return err != nil
	}
	if fail(p.control(ctx, http.MethodPost, "/v1/boards/"+b.Name+"/faults", s.fault, nil)) {
		return
	}
	if fail(p.see(ctx, "event "+s.event, func() (bool, string) { return p.event(ctx, b, s.event, since) })) {
		return
	}
	if s.state != "" && fail(p.see(ctx, "state "+s.state, func() (bool, string) {
		st, text := p.deviceStatus(ctx, b)
		return st.Status.State == s.state, text
	})) {
		return
	}
	if s.twin != "" && fail(p.see(ctx, "twin "+s.twin, func() (bool, string) {
		st, text := p.deviceStatus(ctx, b)
		v, err := strconv.ParseFloat(reported(st, s.twin), 64)
		return err == nil && s.value(v), text
	})) {
		return
	}
	if !s.available {
		if fail(p.see(ctx, "no Flavor of it to be available", func() (bool, string) { return p.available(ctx, b, false) })) ||
			fail(p.see(ctx, "its DataPath to say so", func() (bool, string) {
				return p.condition(ctx, b, metav1.ConditionFalse, cmp.Or(s.reason, "SensorUnavailable"))
			})) ||
			fail(p.see(ctx, "its Flavors to say why: "+s.why, func() (bool, string) { return p.unavailable(ctx, b, s.why) })) ||
			s.reason == "" && fail(p.see(ctx, "its DataPath to say why: "+s.why, func() (bool, string) {
				_, text := p.condition(ctx, b, metav1.ConditionFalse, "")
				return strings.Contains(text, s.why), text
			})) {
			return
		}
	}
	if s.fault.Kind != topology.FaultReboot && fail(p.control(ctx, http.MethodDelete, "/v1/boards/"+b.Name+"/faults", nil, nil)) {
		return
	}
	if s.over != "" && fail(p.see(ctx, "event "+s.over, func() (bool, string) { return p.event(ctx, b, s.over, since) })) {
		return
	}
	if fail(p.see(ctx, "state online again", func() (bool, string) {
		st, text := p.deviceStatus(ctx, b)
		return st.Status.State == devices.StateOnline, text
	})) || fail(p.see(ctx, "its Flavors to be available again", func() (bool, string) { return p.available(ctx, b, true) })) ||
		fail(p.see(ctx, "nothing to be said of it any more", func() (bool, string) { return p.unavailable(ctx, b, "") })) {
		return
	}
	fail(p.see(ctx, "its DataPath to be Ready again", func() (bool, string) { return p.condition(ctx, b, metav1.ConditionTrue, "") }))
}

// leafBoard is a board of the first provider.
type leafBoard struct {
	topology.Board
	device string
}

// leafBench is the first provider of a testbed, with a DataPath for each of its boards.
type leafBench struct {
	status   *testbed.Status
	provider testbed.ProviderAccess
	consumer testbed.ConsumerAccess
	boards   []leafBoard
	admin    client.Client
	http     *http.Client
	seen     map[string]int32 // events, by UID, with their counts
}

func newBench(ctx context.Context, t *testing.T, status *testbed.Status) *leafBench {
	t.Helper()
	p := &leafBench{status: status, provider: status.Providers[0], consumer: status.Consumers[0], seen: map[string]int32{}}
	for _, b := range status.Topology.Providers[0].Boards {
		p.boards = append(p.boards, leafBoard{b, strings.ToLower(b.Model) + "-" + strings.ReplaceAll(b.MAC, ":", "")})
	}
	p.admin = clientOf(t, p.provider.AdminKubeconfig)
	socket := ""
	for _, c := range status.Components {
		for _, a := range c.Args {
			if c.Name != p.provider.Name+"/boards" {
				continue
			}
			if value, ok := strings.CutPrefix(strings.TrimLeft(a, "-"), "control="); ok {
				socket = value
			} else if strings.TrimLeft(a, "-") == "control" {
				socket = c.Args[slices.Index(c.Args, a)+1]
			}
		}
	}
	if socket == "" {
		t.Fatalf("component %s/boards has no --control", p.provider.Name)
	}
	p.http = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	consumer := clientOf(t, p.provider.ConsumerKubeconfigs[p.consumer.Name])
	for _, b := range p.boards {
		dp := &sensors.DataPath{ObjectMeta: metav1.ObjectMeta{Namespace: p.consumer.Name, Name: p.path(b)}}
		if err := client.IgnoreNotFound(consumer.Delete(ctx, dp)); err != nil {
			t.Fatal(err)
		}
		var uids []string
		p.await(ctx, t, "Flavors of "+b.Name, func() (bool, string) {
			uids = p.uids(ctx, t, b)
			return len(uids) >= 2, fmt.Sprintf("%d Flavors", len(uids))
		})
		dp.Spec.Sensors = []sensors.Requirement{{Field: "uid", In: uids}}
		dp.Spec.Endpoints = []sensors.Endpoint{{Name: p.consumer.Endpoints[0].Name, URL: p.consumer.Endpoints[0].URL}}
		p.await(ctx, t, "DataPath of "+b.Name+" to be made", func() (bool, string) {
			err := consumer.Create(ctx, dp.DeepCopy())
			return err == nil, fmt.Sprint(err)
		})
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			_ = consumer.Delete(ctx, &sensors.DataPath{ObjectMeta: dp.ObjectMeta})
		})
	}
	p.awaitReady(ctx, t)
	return p
}

func clientOf(t *testing.T, kubeconfig string) client.Client {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS, cfg.Burst, cfg.Timeout = 100, 200, 20*time.Second
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, devices.AddToScheme, nodecore.AddToScheme, sensors.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (p *leafBench) path(b leafBoard) string { return "leaf-" + b.Name }

// see waits for something that a user would see; the error says what was there instead.
func (p *leafBench) see(ctx context.Context, what string, look func() (bool, string)) error {
	var last string
	began := time.Now()
	err := wait.PollUntilContextTimeout(ctx, lookEvery, seenWithin, true, func(context.Context) (ok bool, _ error) {
		ok, last = look()
		return ok, nil
	})
	if err != nil {
		return fmt.Errorf("waited %.0f s for %s: %s", time.Since(began).Seconds(), what, last)
	}
	return nil
}

func (p *leafBench) await(ctx context.Context, t *testing.T, what string, look func() (bool, string)) {
	t.Helper()
	if err := p.see(ctx, what, look); err != nil {
		t.Fatal(err)
	}
}

func (p *leafBench) awaitReady(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, b := range p.boards {
		p.await(ctx, t, "DataPath of "+b.Name+" to be Ready", func() (bool, string) {
			return p.condition(ctx, b, metav1.ConditionTrue, "")
		})
	}
}

// condition of a board's DataPath: Ready has a status, and a reason if one is given.
func (p *leafBench) condition(ctx context.Context, b leafBoard, status metav1.ConditionStatus, reason string) (bool, string) {
	var dp sensors.DataPath
	if err := p.admin.Get(ctx, client.ObjectKey{Namespace: p.consumer.Name, Name: p.path(b)}, &dp); err != nil {
		return false, err.Error()
	}
	c := apimeta.FindStatusCondition(dp.Status.Conditions, sensors.ConditionReady)
	if c == nil || c.ObservedGeneration != dp.Generation {
		return false, "no condition Ready yet"
	}
	return c.Status == status && (reason == "" || c.Reason == reason), fmt.Sprintf("Ready is %s: %s: %s", c.Status, c.Reason, c.Message)
}

func (p *leafBench) flavors(ctx context.Context, b leafBoard) ([]nodecore.Flavor, error) {
	var list nodecore.FlavorList
	err := p.admin.List(ctx, &list, client.InNamespace(p.provider.Namespace), client.MatchingLabels{nodecore.LabelDevice: b.device})
	return list.Items, err
}

func (p *leafBench) uids(ctx context.Context, t *testing.T, b leafBoard) []string {
	t.Helper()
	flavors, err := p.flavors(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range flavors {
		out = append(out, characteristics(t, f).UID)
	}
	return out
}

func characteristics(t *testing.T, f nodecore.Flavor) nodecore.Characteristics {
	t.Helper()
	var data nodecore.SensorTypeData
	if err := json.Unmarshal(f.Spec.FlavorType.TypeData.Raw, &data); err != nil {
		t.Fatal(err)
	}
	return data.Characteristics
}

// available tells whether all Flavors of a board are, or none.
func (p *leafBench) available(ctx context.Context, b leafBoard, want bool) (bool, string) {
	flavors, err := p.flavors(ctx, b)
	if err != nil {
		return false, err.Error()
	}
	n := 0
	for _, f := range flavors {
		if f.Spec.Availability {
			n++
		}
	}
	return len(flavors) > 0 && (want && n == len(flavors) || !want && n == 0), fmt.Sprintf("%d of %d Flavors are available", n, len(flavors))
}

// unavailable tells whether all Flavors of a board say why they are not available, with a
// text in it; "" means that neither they nor the Device say anything.
func (p *leafBench) unavailable(ctx context.Context, b leafBoard, why string) (bool, string) {
	flavors, err := p.flavors(ctx, b)
	if err != nil {
		return false, err.Error()
	}
	var d devices.Device
	if err := p.admin.Get(ctx, client.ObjectKey{Namespace: p.provider.Namespace, Name: b.device}, &d); err != nil {
		return false, err.Error()
	}
	said := []string{d.Annotations[devices.AnnotationProblem]}
	ok := why != "" || said[0] == ""
	for _, f := range flavors {
		text := f.Annotations[sensor.AnnotationUnavailable]
		ok = ok && (why == "" && text == "" || why != "" && strings.Contains(text, why))
		said = append(said, text)
	}
	return ok && len(flavors) > 0, fmt.Sprintf("Device and Flavors say %q", said)
}

func (p *leafBench) deviceStatus(ctx context.Context, b leafBoard) (devices.DeviceStatus, string) {
	var st devices.DeviceStatus
	if err := p.admin.Get(ctx, client.ObjectKey{Namespace: p.provider.Namespace, Name: b.device}, &st); err != nil {
		return st, err.Error()
	}
	text, _ := json.Marshal(st.Status)
	return st, string(text)
}

func twin(st devices.DeviceStatus, property string) devices.TwinProperty {
	for _, tw := range st.Status.Twins {
		if tw.PropertyName == property && tw.Reported != nil {
			return *tw.Reported
		}
	}
	return devices.TwinProperty{}
}

func reported(st devices.DeviceStatus, property string) string { return twin(st, property).Value }

// numbers is how many readings are reported, the rate aside.
func numbers(st devices.DeviceStatus) (n int) {
	for _, tw := range st.Status.Twins {
		if tw.Reported == nil || tw.PropertyName == "sampling-rate" {
			continue
		}
		if _, err := strconv.ParseFloat(tw.Reported.Value, 64); err == nil {
			n++
		}
	}
	return n
}

// reportedAt is when the rate was last reported.
func reportedAt(st devices.DeviceStatus) time.Time {
	ms, err := strconv.ParseInt(twin(st, "sampling-rate").Metadata["timestamp"], 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// event tells whether a board's Device has an Event of a reason since a moment.
func (p *leafBench) event(ctx context.Context, b leafBoard, reason string, since metav1.Time) (bool, string) {
	var list corev1.EventList
	if err := p.admin.List(ctx, &list, client.InNamespace(p.provider.Namespace)); err != nil {
		return false, err.Error()
	}
	var others []string
	for _, e := range list.Items {
		if e.InvolvedObject.Kind != "Device" || e.InvolvedObject.Name != b.device {
			continue
		}
		if e.Reason == reason && !e.LastTimestamp.Before(&since) {
			return true, ""
		}
		others = append(others, e.Reason)
	}
	return false, "events of its Device: " + cmp.Or(strings.Join(others, ", "), "none")
}

// eventsSeen are those of Devices that are new, or have come again, since the last call.
func (p *leafBench) eventsSeen(ctx context.Context, t *testing.T) []corev1.Event {
	t.Helper()
	var list corev1.EventList
	if err := p.admin.List(ctx, &list, client.InNamespace(p.provider.Namespace)); err != nil {
		t.Fatal(err)
	}
	var out []corev1.Event
	for _, e := range list.Items {
		if e.InvolvedObject.Kind == "Device" && e.Count > p.seen[string(e.UID)] {
			p.seen[string(e.UID)] = e.Count
			out = append(out, e)
		}
	}
	return out
}

// control is a call of the boards' control API.
func (p *leafBench) control(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://boards"+path, body)
	if err != nil {
		return err
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

// setRate asks for a sampling rate in the Device, as a user of KubeEdge does, and waits
// until the board has it, its status and its offer say so, and data comes at that rate.
func (p *leafBench) setRate(ctx context.Context, t *testing.T, b leafBoard, hz float64) {
	t.Helper()
	text := strconv.FormatFloat(hz, 'f', -1, 64)
	p.await(ctx, t, "the Device to take the desired rate", func() (bool, string) {
		var d devices.Device
		if err := p.admin.Get(ctx, client.ObjectKey{Namespace: p.provider.Namespace, Name: b.device}, &d); err != nil {
			return false, err.Error()
		}
		i := slices.IndexFunc(d.Spec.Properties, func(q devices.DeviceProperty) bool { return q.Name == "sampling-rate" })
		if i < 0 {
			return false, "it has no property sampling-rate"
		}
		d.Spec.Properties[i].Desired = &devices.TwinProperty{Value: text}
		err := p.admin.Update(ctx, &d)
		return err == nil, fmt.Sprint(err)
	})
	p.await(ctx, t, "board "+b.Name+" to sample at "+text+" Hz", func() (bool, string) {
		var state struct{ Rate float64 }
		err := p.control(ctx, http.MethodGet, "/v1/boards/"+b.Name, nil, &state)
		return err == nil && state.Rate == hz, fmt.Sprintf("%v Hz, %v", state.Rate, err)
	})
	p.await(ctx, t, "DeviceStatus to report "+text+" Hz", func() (bool, string) {
		st, all := p.deviceStatus(ctx, b)
		got, err := strconv.ParseFloat(reported(st, "sampling-rate"), 64)
		return err == nil && got == hz, all
	})
	p.await(ctx, t, "its Flavors to declare "+text+" Hz", func() (bool, string) {
		flavors, err := p.flavors(ctx, b)
		if err != nil || len(flavors) == 0 {
			return false, fmt.Sprint(err)
		}
		got := characteristics(t, flavors[0]).SamplingRate
		return got == text, got
	})
	uid := p.uids(ctx, t, b)[0]
	j := p.journal(t, b)
	var got []ledger.Sample
	p.await(ctx, t, "twenty samples to be published", func() (bool, string) {
		more, err := j.Read()
		if err != nil {
			return false, err.Error()
		}
		for _, s := range more {
			if s.UID == uid {
				got = append(got, s)
			}
		}
		return len(got) > 20, fmt.Sprintf("%d", len(got))
	})
	var gaps []float64
	for i := 1; i < len(got); i++ {
		gaps = append(gaps, float64(got[i].Time-got[i-1].Time)/1e9)
	}
	slices.Sort(gaps)
	// A loaded machine leaves samples out and never adds any.
	if least := gaps[len(gaps)/4]; least < 0.8/hz || least > 1.2/hz {
		t.Errorf("samples come every %.3f s at %s Hz", least, text)
	}
}

// journal of what the mapper of a board publishes from now on.
func (p *leafBench) journal(t *testing.T, b leafBoard) *sink.Journal {
	t.Helper()
	for _, m := range p.provider.Mappers {
		if m.Node == b.Nodes[0] {
			j, err := sink.Tail(m.Journal)
			if err != nil {
				t.Fatal(err)
			}
			return j
		}
	}
	t.Fatalf("no mapper on %s", b.Nodes[0])
	return nil
}

// killEdge kills what stands for EdgeCore, with no chance to say a word.
func (p *leafBench) killEdge(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, c := range p.status.Components {
		if c.Name == p.provider.Name+"/hollowedge" && c.PID > 0 {
			if err := syscall.Kill(c.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	containers, program := []string{p.status.Name + "-" + p.provider.Name + "-control-plane"}, "hollowedge"
	if p.status.Edge == testbed.EdgeKubeEdge {
		containers, program = nil, "edgecore"
		for _, m := range p.provider.Mappers {
			containers = append(containers, p.status.Name+"-"+p.provider.Name+"-"+m.Node)
		}
	}
	for _, c := range containers {
		if out, err := exec.CommandContext(ctx, "docker", "exec", c, "pkill", "-KILL", "-x", program).CombinedOutput(); err != nil {
			t.Fatalf("kill %s in %s: %v: %s", program, c, err, out)
		}
	}
}

// arrivals follow a sink, all mappers and the boards from one moment on.
type arrivals struct {
	consumer  string
	endpoint  string
	sink      *sink.Journal
	mappers   []*sink.Journal
	boards    *tail.Journal[boards.Line]
	uids      map[string]string    // board by uid
	named     map[[2]string]string // uid by device and part
	arrived   map[string][]ledger.Sample
	published map[string][]ledger.Sample
	emitted   map[string][]ledger.Reading
}

func (p *leafBench) follow(t *testing.T) *arrivals {
	t.Helper()
	a := &arrivals{consumer: p.consumer.Name, endpoint: p.consumer.Endpoints[0].Name, uids: map[string]string{}, named: map[[2]string]string{},
		arrived: map[string][]ledger.Sample{}, published: map[string][]ledger.Sample{}, emitted: map[string][]ledger.Reading{}}
	var err error
	if a.sink, err = sink.Tail(p.consumer.Journal); err != nil {
		t.Fatal(err)
	}
	for _, m := range p.provider.Mappers {
		j, err := sink.Tail(m.Journal)
		if err != nil {
			t.Fatal(err)
		}
		a.mappers = append(a.mappers, j)
	}
	if a.boards, err = boards.Tail(p.provider.BoardsJournal); err != nil {
		t.Fatal(err)
	}
	for _, b := range p.boards {
		flavors, err := p.flavors(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range flavors {
			uid := characteristics(t, f).UID
			a.uids[uid] = b.Name
			a.named[[2]string{f.Labels[nodecore.LabelDevice], f.Labels[nodecore.LabelPart]}] = uid
		}
	}
	return a
}

func (a *arrivals) read() error {
	samples, err := a.sink.Read()
	if err != nil {
		return err
	}
	for _, s := range samples {
		if s.Endpoint == a.endpoint {
			a.arrived[s.UID] = append(a.arrived[s.UID], s)
		}
	}
	for _, j := range a.mappers {
		more, err := j.Read()
		if err != nil {
			return err
		}
		for _, s := range more {
			a.published[s.UID] = append(a.published[s.UID], s)
		}
	}
	lines, err := a.boards.Read()
	if err != nil {
		return err
	}
	for _, l := range lines {
		if uid := a.named[[2]string{l.Device, l.Part}]; uid != "" && l.Kind == "" && !l.Garbage {
			a.emitted[uid] = append(a.emitted[uid], ledger.Reading{UID: uid, Device: l.Device, Part: l.Part, Time: l.Time.UnixNano(), Values: l.Values, Delay: l.Delay})
		}
	}
	return nil
}

// all tells whether something newer than a moment has arrived of every sensor.
func (a *arrivals) all(t *testing.T, since time.Time) (bool, string) {
	t.Helper()
	if err := a.read(); err != nil {
		return false, err.Error()
	}
	var missing []string
	for uid, board := range a.uids {
		if n := len(a.arrived[uid]); n == 0 || a.arrived[uid][n-1].Time < since.UnixNano() {
			missing = append(missing, board)
		}
	}
	slices.Sort(missing)
	return len(missing) == 0, "nothing of " + strings.Join(slices.Compact(missing), ", ")
}

// undisturbed judges that the mappers published, without a break, what boards have
// emitted since a moment, and that every reading arrived, once.
func (a *arrivals) undisturbed(ctx context.Context, t *testing.T, p *leafBench, boards []leafBoard, since time.Time) {
	t.Helper()
	until := time.Now()
	for uid, name := range a.uids {
		if !slices.ContainsFunc(boards, func(b leafBoard) bool { return b.Name == name }) {
			continue
		}
		p.await(ctx, t, "a later sample of "+name+" to arrive", func() (bool, string) {
			err := a.read()
			n := len(a.arrived[uid])
			return n > 0 && a.arrived[uid][n-1].Time > until.UnixNano(), fmt.Sprintf("%d samples, %v", n, err)
		})
		w, err := ledger.Open(uid, a.emitted[uid], a.published[uid], since.UnixNano(), until.UnixNano())
		if err != nil {
			t.Errorf("board %s was disturbed: %v", name, err)
			continue
		}
		if w.Size() < 10 {
			t.Errorf("board %s emitted %d readings only", name, w.Size())
		}
		if d := w.Disagreement(); d != "" {
			t.Errorf("board %s was disturbed: %s", name, d)
		}
		count := map[int64]int{}
		for _, s := range a.arrived[uid] {
			count[s.Time]++
		}
		for _, r := range w.Readings() {
			if count[r.Time] != 1 {
				t.Errorf("what board %s emitted at %s arrived %d times", name, ledger.Clock(r.Time), count[r.Time])
			}
		}
	}
}

// TestGathering shows that one edge node carries ten times the samples when its mapper
// gathers lines: what KubeEdge counts is messages.
func TestGathering(t *testing.T) {
	status := leafTestbed(t, "gather", "gather.yaml")
	if !slices.ContainsFunc(status.Topology.Providers, func(p topology.Provider) bool { return p.Gather > 0 }) {
		t.Skip("no provider of testbed " + status.Name + " gathers")
	}
	ctx, cancel := withDeadline(t)
	defer cancel()
	consumer := status.Consumers[0]
	j, err := sink.Tail(consumer.Journal)
	if err != nil {
		t.Fatal(err)
	}
	of := map[string]string{} // provider by uid
	for _, p := range status.Providers {
		admin, own := clientOf(t, p.AdminKubeconfig), clientOf(t, p.ConsumerKubeconfigs[consumer.Name])
		var list nodecore.FlavorList
		if err := admin.List(ctx, &list, client.InNamespace(p.Namespace)); err != nil {
			t.Fatal(err)
		}
		for _, f := range list.Items {
			of[characteristics(t, f).UID] = p.Name
		}
		dp := &sensors.DataPath{ObjectMeta: metav1.ObjectMeta{Namespace: consumer.Name, Name: "gathering"}}
		dp.Spec.Sensors = []sensors.Requirement{{Field: "manufacturer", In: []string{"STMicroelectronics"}}}
		dp.Spec.Endpoints = []sensors.Endpoint{{Name: consumer.Endpoints[0].Name, URL: consumer.Endpoints[0].URL}}
		_ = own.Delete(ctx, dp.DeepCopy()) // of a run that was killed
		err := wait.PollUntilContextTimeout(ctx, lookEvery, time.Minute, true, func(ctx context.Context) (bool, error) {
			err = own.Create(ctx, dp.DeepCopy())
			return err == nil, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			_ = own.Delete(ctx, &sensors.DataPath{ObjectMeta: dp.ObjectMeta})
		})
	}
	arrived := map[string]int{}
	read := func() {
		samples, err := j.Read()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range samples {
			if s.Endpoint == consumer.Endpoints[0].Name {
				arrived[of[s.UID]]++
			}
		}
	}
	// The burst is spent, and more, before anything is counted.
	err = wait.PollUntilContextTimeout(ctx, lookEvery, seenWithin, true, func(context.Context) (bool, error) {
		read()
		for _, p := range status.Topology.Providers {
			if arrived[p.Name] < 2*p.MessageBurst {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		t.Fatalf("samples that arrived, by provider: %v: %v", arrived, err)
	}
	read()
	first, began := map[string]int{}, time.Now()
	for name, n := range arrived {
		first[name] = n
	}
	const counted = 10 * time.Second
	if err := wait.PollUntilContextTimeout(ctx, lookEvery, seenWithin, true, func(context.Context) (bool, error) {
		return time.Since(began) >= counted, nil
	}); err != nil {
		t.Fatal(err)
	}
	read()
	rate := map[bool]float64{}
	for _, p := range status.Topology.Providers {
		rate[p.Gather > 0] = float64(arrived[p.Name]-first[p.Name]) / time.Since(began).Seconds()
	}
	t.Logf("%.1f samples/s gathered, %.1f as they come: %.1f times as many", rate[true], rate[false], rate[true]/rate[false])
	if rate[false] == 0 {
		t.Fatal("nothing arrived as it comes: there is nothing to compare with")
	}
	if rate[true] < 10*rate[false] {
		t.Error("gathering carries less than ten times the samples")
	}
}
