package router

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fluidos-edge/testbed/controllers/api/accounts"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	rules "github.com/fluidos-edge/testbed/controllers/api/rules/v1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

// The tests of plan are inside the package: plan is not for others.

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func readyNode(name, uid string, since time.Time) corev1.Node {
	return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(uid)}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(since)}},
	}}
}

// sim is a provider in memory that does at once what a plan says.
type sim struct {
	*planner
	world
	uids     int
	done     []string // what was done, in order
	arrivals map[sensor.Key]int64
	instance string
	synced   bool
	down     error
	behind   bool // the relay does not take up DataPaths
	// says is what the relay says of the endpoints of a name. Of the others it says
	// that they took their last batch, once there is a sample.
	says map[string]accounts.Endpoint
}

func newSim() *sim {
	return &sim{
		planner:  newPlanner("fluidos", "http://relay/", []byte("key"), sensor.Select),
		world:    world{now: start, nodes: []corev1.Node{readyNode("edge-1", "n1", start)}},
		arrivals: map[sensor.Key]int64{}, instance: "one", synced: true,
	}
}

// step plans once and does it.
func (s *sim) step() actions {
	s.world.relays = []replica{s.relay()}
	a := s.plan(s.world)
	w := s.world
	for _, e := range a.createEndpoints {
		s.uids++
		e.UID = types.UID(fmt.Sprint("endpoint-", s.uids))
		s.endpoints = append(s.endpoints, e)
		s.done = append(s.done, "create endpoint "+e.Name)
	}
	for _, d := range a.deleteRules {
		s.world.rules = slices.DeleteFunc(s.world.rules, func(r rules.Rule) bool { return r.UID == d.rule.UID })
		s.done = append(s.done, fmt.Sprintf("delete %s: %s", short(d.rule.Name), d.why))
	}
	for _, r := range a.createRules {
		s.uids++
		r.UID = types.UID(fmt.Sprint("rule-", s.uids))
		s.world.rules = append(s.world.rules, r)
		s.created(r, w)
		s.done = append(s.done, "create "+short(r.Name))
	}
	for _, e := range a.deleteEndpoints {
		s.endpoints = slices.DeleteFunc(s.endpoints, func(x rules.RuleEndpoint) bool { return x.Name == e.Name })
		s.dropped[e.UID] = true
		s.done = append(s.done, "delete endpoint "+e.Name)
	}
	for _, st := range a.statuses {
		s.wrote(st, w.now)
		for i := range s.world.paths {
			if s.world.paths[i].UID == st.path.UID {
				s.world.paths[i].Status = st.status
			}
		}
	}
	return a
}

func short(rule string) string {
	parts := strings.Split(rule, "-")
	return strings.Join(parts[:2], "-")
}

// settle lets d pass: it plans when a plan asked for it, and 100 ms after
// something was done.
func (s *sim) settle(d time.Duration) {
	for end := s.now.Add(d); ; {
		n := len(s.done)
		a := s.step()
		next := s.now.Add(a.after)
		switch {
		case len(s.done) > n || len(a.statuses) > 0:
			next = s.now.Add(100 * time.Millisecond)
		case a.after == 0:
			next = end.Add(1)
		}
		if next.After(end) {
			s.now = end
			return
		}
		s.now = next
	}
}

// take returns what was done since the last call.
func (s *sim) take() []string {
	done := s.done
	s.done = nil
	return done
}

func (s *sim) relay() replica {
	if s.down != nil {
		return replica{url: "http://admin", err: s.down}
	}
	a := &accounts.Accounts{Instance: s.instance, Synced: s.synced}
	for k, n := range s.arrivals {
		a.Sensors = append(a.Sensors, accounts.Sensor{Namespace: k.Namespace, Device: k.Device, Part: k.Part, Arrivals: n})
	}
	for _, dp := range s.world.paths {
		if s.behind {
			break
		}
		d := accounts.DataPath{Namespace: dp.Namespace, Name: dp.Name, UID: string(dp.UID), Generation: dp.Generation}
		for i := range s.flavors {
			o, err := sensor.FromFlavor(&s.flavors[i])
			if err != nil {
				continue
			}
			if v, err := sensor.Select(dp.Spec.Sensors, o); err == nil && v.Selected {
				d.Matched++
			}
		}
		for _, e := range dp.Spec.Endpoints {
			a := accounts.Endpoint{Delivered: s.arrivals[keyFor(1)]}
			if said, ok := s.says[e.Name]; ok {
				a = said
			} else if len(s.arrivals) > 0 {
				a.LastDelivery = start
			}
			if a.Name = e.Name; a.URL == "" {
				a.URL = e.URL
			}
			d.Endpoints = append(d.Endpoints, a)
		}
		a.DataPaths = append(a.DataPaths, d)
	}
	return replica{url: "http://admin", accounts: a}
}

func keyFor(board int) sensor.Key {
	return sensor.Key{Namespace: "fluidos", Device: fmt.Sprint("d-", board), Part: "p"}
}

func (s *sim) offer(board int, node, latency string) *nodecore.Flavor {
	s.flavors = append(s.flavors, *FlavorOf(board, "p", node, latency))
	return &s.flavors[len(s.flavors)-1]
}

// fault of a board, of whose sensors ERM says that they are not available; "" for none.
func (s *sim) fault(board int, fault string) {
	for i := range s.flavors {
		if f := &s.flavors[i]; f.Labels[nodecore.LabelDevice] == keyFor(board).Device {
			SetFault(f, fault)
			f.ResourceVersion += "+"
		}
	}
}

func (s *sim) ask(name, bound string) *sensors.DataPath {
	s.world.paths = append(s.world.paths, *PathOf("c", name, bound, "a"))
	return &s.world.paths[len(s.world.paths)-1]
}

func (s *sim) ready(i int) string { return s.condition(i, sensors.ConditionReady) }

// condition of the i-th DataPath, as "<reason>: <message>".
func (s *sim) condition(i int, name string) string {
	c := apimeta.FindStatusCondition(s.world.paths[i].Status.Conditions, name)
	if c == nil {
		return ""
	}
	return c.Reason + ": " + c.Message
}

func expect(t *testing.T, got any, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// served is a sim with one sensor, one DataPath and a Rule that is confirmed.
func served(t *testing.T) *sim {
	t.Helper()
	s := newSim()
	s.offer(1, "edge-1", "12")
	s.ask("x", "16ms")
	s.settle(2 * time.Second)
	expect(t, s.take(), []string{"create endpoint eventbus-fluidos", "create endpoint relay", "create d-1"})
	expect(t, s.ready(0), "SensorsNotArrived: 1 of 1 sensors have not arrived yet: d-1/p")
	s.arrivals[keyFor(1)]++
	s.step()
	expect(t, s.ready(0), "Served: 1 sensors arrive, 1 endpoints are served")
	return s
}

func TestPlan(t *testing.T) {
	again := func(why string) []string { return []string{"delete d-1: " + why, "create d-1"} }
	for _, tc := range []struct {
		name   string
		change func(*sim)
		within time.Duration
		want   []string // done
		ready  string   // afterwards
	}{
		{"nothing happens", func(*sim) {}, 20 * time.Second, nil, "Served: "},
		{"topic changes", func(s *sim) {
			s.flavors[0].Spec.FlavorType.TypeData.Raw = []byte(strings.ReplaceAll(string(s.flavors[0].Spec.FlavorType.TypeData.Raw), "/p\"", "/q\""))
			s.flavors[0].ResourceVersion = "2"
		}, 3 * time.Second, again("the sensor's topic changed"), "SensorsNotArrived"},
		{"board moves to another node", func(s *sim) {
			s.nodes = append(s.nodes, readyNode("edge-2", "n2", start))
			s.flavors = nil
			s.offer(1, "edge-2", "12")
			s.flavors[0].ResourceVersion = "2"
		}, 3 * time.Second, again("the sensor's node changed"), "SensorsNotArrived"},
		{"URL changes", func(s *sim) { s.relayURL = "http://other" }, 3 * time.Second, again("its target changed"), "SensorsNotArrived"},
		{"key changes", func(s *sim) { s.key = []byte("other") }, 3 * time.Second, again("its target changed"), "SensorsNotArrived"},
		{"node is replaced", func(s *sim) { s.nodes[0].UID = "other" }, 3 * time.Second, again("its node is a new one"), "SensorsNotArrived"},
		{"node came back", func(s *sim) { s.nodes[0] = readyNode("edge-1", "n1", start.Add(time.Minute)) }, 3 * time.Second, again("its node came back"), "SensorsNotArrived"},
		{"node goes away", func(s *sim) { s.nodes[0].Status.Conditions[0].Status = corev1.ConditionUnknown }, time.Hour, nil,
			"NodeNotReady: 1 of 1 sensors have not arrived yet: d-1/p (node edge-1 is not ready)"},
		{"node is deleted", func(s *sim) { s.nodes = nil }, time.Minute, nil,
			"NodeNotReady: 1 of 1 sensors have not arrived yet: d-1/p (node edge-1 does not exist)"},
		{"sensor is not available any more", func(s *sim) {
			s.flavors[0].Spec.Availability = false
			s.flavors[0].ResourceVersion = "2"
		}, 10 * time.Second, nil, "Served: "},
		{"board is away", func(s *sim) { s.fault(1, "its board is offline") }, 3 * time.Hour, nil,
			"SensorUnavailable: 1 of 1 sensors are not available: d-1/p (its board is offline)"},
		{"board and node are away", func(s *sim) {
			s.fault(1, "its board is offline")
			s.nodes[0].Status.Conditions[0].Status = corev1.ConditionUnknown
		}, time.Hour, nil, "NodeNotReady: 1 of 1 sensors have not arrived yet: d-1/p (node edge-1 is not ready)"},
		{"board is away and its node came back", func(s *sim) {
			s.fault(1, "its board is offline")
			s.nodes[0] = readyNode("edge-1", "n1", start.Add(time.Minute))
		}, time.Hour, again("its node came back"), "SensorUnavailable: 1 of 1 sensors are not available: d-1/p (its board is offline)"},
		{"board is away and the router restarts", func(s *sim) {
			s.fault(1, "its board is offline")
			s.planner = newPlanner("fluidos", "http://relay", []byte("key"), sensor.Select)
		}, time.Hour, nil, "SensorUnavailable: 1 of 1 sensors are not available: d-1/p (its board is offline)"},
		{"board is away and the relay does not answer", func(s *sim) {
			s.fault(1, "its board is offline")
			s.down = errors.New("connection refused")
		}, time.Hour, nil, "RelayUnreachable: relay http://admin: connection refused"},
		{"board is away and somebody deletes the Rule", func(s *sim) {
			s.fault(1, "its board is offline")
			s.world.rules = nil
		}, time.Hour, []string{"create d-1"}, "SensorUnavailable: 1 of 1 sensors are not available: d-1/p (its board is offline)"},
		{"sensor goes off offer", func(s *sim) { s.flavors = nil }, 3 * time.Second,
			[]string{"delete d-1: no DataPath selects its sensor"}, "NoSensors: no sensor is on offer"},
		{"Flavor gets another name", func(s *sim) { // a board-id label came: the same topic, another Rule
			s.flavors[0].Name = "d-1-" + strings.Repeat("f", 24) + "-p"
			s.flavors[0].ResourceVersion = "2"
		}, 3 * time.Second, again("no DataPath selects its sensor"), "SensorsNotArrived"},
		{"somebody deletes the Rule", func(s *sim) { s.world.rules = nil }, 3 * time.Second, []string{"create d-1"}, "SensorsNotArrived"},
		{"DataPath goes", func(s *sim) { s.world.paths = nil }, 3 * time.Second, []string{"delete d-1: no DataPath selects its sensor"}, ""},
		{"everything goes", func(s *sim) { s.world.paths, s.flavors = nil, nil }, 3 * time.Second,
			[]string{"delete d-1: no DataPath selects its sensor", "delete endpoint eventbus-fluidos", "delete endpoint relay"}, ""},
		{"DataPath is being deleted", func(s *sim) { s.world.paths[0].DeletionTimestamp = &metav1.Time{Time: s.now} }, 3 * time.Second,
			[]string{"delete d-1: no DataPath selects its sensor"}, "Served"},
		{"requirement becomes nonsense", func(s *sim) {
			s.world.paths[0].Spec.Sensors[0].Lt = new("16")
			s.world.paths[0].Generation++
		}, 3 * time.Second, []string{"delete d-1: no DataPath selects its sensor"}, "InvalidSelection: spec.sensors[0].lt: "},
		{"second sensor has the same topic", func(s *sim) {
			f := FlavorOf(1, "p", "edge-1", "12")
			f.Name, f.UID = "d-0-"+strings.Repeat("0", 24)+"-p", "other"
			f.Labels[nodecore.LabelDevice] = "d-0"
			s.flavors = append(s.flavors, *f)
		}, 10 * time.Second, nil, "SensorsNotArrived: 1 of 2 sensors have not arrived yet: d-0/p (Rule d-1-000000000000000000000001-p still has its node and topic)"},
		{"Flavor that is not of a sensor, and one that names no topic", func(s *sim) {
			s.offer(2, "edge-1", "12").Spec.FlavorType.TypeIdentifier = "K8Slice"
			f := s.offer(3, "edge-1", "12")
			f.Spec.FlavorType.TypeData.Raw = []byte(strings.ReplaceAll(string(f.Spec.FlavorType.TypeData.Raw), `"topic"`, `"other"`))
		}, 10 * time.Second, nil, "NoSource: 1 of 2 sensors have not arrived yet: d-3/p (its Flavor names no node or no topic)"},
		{"relay does not answer", func(s *sim) { s.down = errors.New("connection refused") }, time.Hour, nil, "RelayUnreachable: relay http://admin: connection refused"},
		{"relay restarts and has not synced", func(s *sim) { s.instance, s.arrivals, s.synced = "two", map[sensor.Key]int64{}, false }, time.Hour, nil,
			"RelayNotSynced: relay http://admin has not seen all DataPaths and Flavors yet"},
		{"relay restarts", func(s *sim) { s.instance, s.arrivals = "two", map[sensor.Key]int64{} }, 10 * time.Second, nil, "Served"},
		{"relay restarts and does not serve", func(s *sim) { s.instance, s.behind = "two", true }, 10 * time.Second, nil,
			"RelayBehind: relay http://admin does not serve generation 1 yet"},
		{"router restarts", func(s *sim) { s.planner = newPlanner("fluidos", "http://relay", []byte("key"), sensor.Select) }, 20 * time.Second, nil,
			"SensorsNotArrived"}, // until the next sample
		{"sensor falls silent", func(*sim) {}, time.Hour, nil, "SensorsSilent: 1 of 1 sensors no longer arrive: d-1/p (silent for more than 30s)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := served(t)
			tc.change(s)
			s.settle(tc.within)
			expect(t, s.take(), tc.want)
			if len(s.world.paths) > 0 && !strings.HasPrefix(s.ready(0), tc.ready) {
				t.Errorf("Ready is %q, want %q", s.ready(0), tc.ready)
			}
		})
	}
}

// A Rule that must be made again is made a pause after it was seen to be gone.
func TestPlanPause(t *testing.T) {
	s := served(t)
	s.relayURL = "http://other"
	s.step()
	gone := s.now.Add(100 * time.Millisecond)
	s.now = gone
	s.take()
	for s.step(); len(s.world.rules) == 0; s.step() {
		s.now = s.now.Add(50 * time.Millisecond)
	}
	if got := s.now.Sub(gone); got != pause {
		t.Errorf("made again after %s, want %s", got, pause)
	}
	// What arrived before does not confirm the new Rule.
	s.step()
	if !strings.HasPrefix(s.ready(0), "SensorsNotArrived") {
		t.Errorf("Ready is %q before a sample", s.ready(0))
	}
	s.arrivals[keyFor(1)]++
	s.step()
	if !strings.HasPrefix(s.ready(0), "Served") {
		t.Errorf("Ready is %q after a sample", s.ready(0))
	}
}

// A Rule that KubeEdge lost is made again, each time with twice the patience;
// time in which nothing could arrive does not count.
func TestPlanUnconfirmed(t *testing.T) {
	s := newSim()
	s.offer(1, "edge-1", "12")
	s.ask("x", "")
	s.settle(1200 * time.Millisecond)
	made := func() time.Time {
		t.Helper()
		for end := s.now.Add(2 * time.Hour); s.now.Before(end); s.settle(500 * time.Millisecond) {
			if slices.Contains(s.take(), "create d-1") {
				return s.now
			}
		}
		t.Fatal("not made again within two hours")
		return time.Time{}
	}
	s.take()
	last := s.now
	var waits []time.Duration
	for range 3 {
		at := made()
		waits = append(waits, at.Sub(last).Round(5*time.Second))
		last = at
	}
	expect(t, waits, []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute})

	s.take()
	s.down = errors.New("down")
	s.settle(time.Hour)
	s.down = nil
	s.nodes[0].Status.Conditions[0].Status = corev1.ConditionFalse
	s.settle(time.Hour)
	expect(t, s.take(), []string(nil))

	s.nodes[0].Status.Conditions[0].Status = corev1.ConditionTrue
	s.arrivals[keyFor(1)]++
	s.settle(time.Second)
	expect(t, s.ready(0), "Served: 1 sensors arrive, 1 endpoints are served")
	expect(t, len(s.failures), 0)
}

// A board that goes away and returns keeps its Rule, and its DataPath is Ready once a
// sample has come since.
func TestPlanBoardReturns(t *testing.T) {
	const away, awaited, arrives = "SensorUnavailable: 1 of 1 sensors are not available: d-1/p (its board is unhealthy)",
		"SensorsNotArrived: 1 of 1 sensors have not arrived yet: d-1/p", "Served: 1 sensors arrive, 1 endpoints are served"
	s := served(t)
	matched := *apimeta.FindStatusCondition(s.world.paths[0].Status.Conditions, sensors.ConditionMatched)
	for range 2 {
		s.fault(1, "its board is unhealthy")
		s.step()
		expect(t, s.ready(0), away)
		for range 10 { // samples are not why it is unavailable
			s.settle(500 * time.Millisecond)
			s.arrivals[keyFor(1)]++
		}
		s.settle(time.Hour)
		expect(t, s.ready(0), away)
		expect(t, s.world.paths[0].Status.Matched, 1)

		s.fault(1, "")
		s.settle(2 * time.Second)
		expect(t, s.ready(0), awaited)
		s.arrivals[keyFor(1)]++
		s.step()
		expect(t, s.ready(0), arrives)
	}
	expect(t, *apimeta.FindStatusCondition(s.world.paths[0].Status.Conditions, sensors.ConditionMatched), matched)

	// Available again, but silent: that is what it then is.
	s.fault(1, "its board is offline")
	s.settle(time.Hour)
	s.fault(1, "")
	s.settle(window - time.Second)
	expect(t, s.ready(0), awaited)
	s.settle(2 * time.Second)
	expect(t, s.ready(0), "SensorsSilent: 1 of 1 sensors no longer arrive: d-1/p (silent for more than 30s)")
	s.arrivals[keyFor(1)]++
	s.step()
	expect(t, s.ready(0), arrives)
	expect(t, s.take(), []string(nil))
}

// A board that is away when a DataPath selects it gets its Rule, which is not made
// again and again while nothing can come.
func TestPlanBoardAwayFromTheStart(t *testing.T) {
	s := newSim()
	s.offer(1, "edge-1", "12")
	s.fault(1, "its board is offline")
	s.ask("x", "16ms")
	s.step()
	expect(t, s.ready(0), "SensorUnavailable: 1 of 1 sensors are not available: d-1/p (its board is offline)")
	s.settle(3 * time.Hour)
	expect(t, s.take(), []string{"create endpoint eventbus-fluidos", "create endpoint relay", "create d-1"})
	expect(t, s.ready(0), "SensorUnavailable: 1 of 1 sensors are not available: d-1/p (its board is offline)")

	// From when it is there a sample must come, as through any new Rule.
	s.fault(1, "")
	s.settle(window - time.Second)
	expect(t, s.take(), []string(nil))
	expect(t, s.ready(0), "SensorsNotArrived: 1 of 1 sensors have not arrived yet: d-1/p")
	s.settle(3 * time.Second)
	expect(t, s.take(), []string{"delete d-1: no sample arrived", "create d-1"})
	s.arrivals[keyFor(1)]++
	s.step()
	expect(t, s.ready(0), "Served: 1 sensors arrive, 1 endpoints are served")
}

// One board that is away takes nothing from the others, and is named before those
// that merely do not arrive.
func TestPlanBoardsAway(t *testing.T) {
	s := newSim()
	for i := 1; i <= 8; i++ {
		s.offer(i, "edge-1", fmt.Sprint(i))
	}
	s.ask("all", "")
	s.ask("one", "2ms")
	s.settle(2 * time.Second)
	s.take()
	for i := 1; i <= 7; i++ {
		s.arrivals[keyFor(i)]++
	}
	s.fault(3, "its board has the id of Device d-1")
	s.step()
	expect(t, s.ready(0), "SensorUnavailable: 1 of 8 sensors are not available: d-3/p (its board has the id of Device d-1); 1 more do not arrive")
	expect(t, s.ready(1), "Served: 1 sensors arrive, 1 endpoints are served")
	for i := 2; i <= 8; i++ {
		s.fault(i, "its board is offline")
	}
	s.step()
	expect(t, s.ready(0), "SensorUnavailable: 7 of 8 sensors are not available: d-2/p (its board is offline), d-3/p (its board is offline), "+
		"d-4/p (its board is offline), d-5/p (its board is offline), d-6/p (its board is offline), 2 more")
	expect(t, s.ready(1), "Served: 1 sensors arrive, 1 endpoints are served")
	s.nodes = append(s.nodes, readyNode("edge-2", "n2", start))
	s.nodes[1].Status.Conditions[0].Status = corev1.ConditionFalse
	s.offer(9, "edge-2", "9")
	s.step()
	expect(t, s.ready(0), "NodeNotReady: 8 of 9 sensors have not arrived yet: d-9/p (node edge-2 is not ready), d-2/p (its board is offline), "+
		"d-3/p (its board is offline), d-4/p (its board is offline), d-5/p (its board is offline), 3 more")
	expect(t, s.world.paths[0].Status.Matched, 9)
	expect(t, s.take(), []string(nil))
}

// A slow sensor gets five periods.
func TestPatience(t *testing.T) {
	for _, tc := range []struct {
		rate, unit string
		failures   int
		want       time.Duration
	}{
		{"2", "Hz", 0, 30 * time.Second}, {"0.1", "hz", 0, 50 * time.Second}, {"0.1 Hz", "", 0, 50 * time.Second},
		{"", "", 0, 30 * time.Second}, {"nonsense", "Hz", 0, 30 * time.Second}, {"0", "Hz", 0, 30 * time.Second},
		{"-1", "Hz", 0, 30 * time.Second}, {"NaN", "Hz", 0, 30 * time.Second}, {"2", "furlong", 0, 30 * time.Second},
		{"2", "Hz", 2, 2 * time.Minute}, {"2", "Hz", 1000, 30 * time.Minute}, {"0.001", "Hz", 3, 5000 * time.Second},
	} {
		o := sensor.Offer{}
		o.Characteristics.SamplingRate, o.Characteristics.Properties.Unit.SamplingRate = tc.rate, tc.unit
		if got := patience(o, tc.failures); got != tc.want {
			t.Errorf("patience(%q %q, %d) = %s, want %s", tc.rate, tc.unit, tc.failures, got, tc.want)
		}
	}
}

func TestPlanForeignRules(t *testing.T) {
	foreign := rules.Rule{ObjectMeta: metav1.ObjectMeta{Namespace: "fluidos", Name: "mine", UID: "f"}, Spec: rules.RuleSpec{
		SourceResource: map[string]string{"node_name": "edge-1", "topic": "/" + sensor.Topic("000000000001", "00140000000111e1ac360002a5d5c51b", "p")},
	}}
	t.Run("before ours", func(t *testing.T) {
		s := newSim()
		s.offer(1, "edge-1", "12")
		s.ask("x", "")
		s.world.rules = []rules.Rule{foreign}
		s.settle(time.Minute)
		expect(t, s.take(), []string{"create endpoint eventbus-fluidos", "create endpoint relay"})
		expect(t, s.ready(0), "RuleConflict: 1 of 1 sensors have not arrived yet: d-1/p (Rule mine, which is not the router's, has its node and topic)")
		s.world.rules = nil
		s.settle(2 * time.Second)
		expect(t, s.take(), []string{"create d-1"})
	})
	t.Run("after ours", func(t *testing.T) { // KubeEdge gives the data to the last one, and to none once one ends
		s := served(t)
		s.world.rules = append(s.world.rules, foreign)
		s.settle(time.Minute)
		expect(t, s.take(), []string(nil))
		expect(t, s.ready(0), "RuleConflict: 1 of 1 sensors have not arrived yet: d-1/p (Rule mine has the same node and topic)")
		s.world.rules = s.world.rules[:1]
		s.settle(3 * time.Second)
		expect(t, s.take(), []string{"delete d-1: another Rule had its node and topic", "create d-1"})
	})
	t.Run("of our name", func(t *testing.T) {
		s := newSim()
		other := foreign
		other.Name, other.Spec = s.offer(1, "edge-1", "12").Name, rules.RuleSpec{}
		s.ask("x", "")
		s.world.rules = []rules.Rule{other}
		s.settle(time.Minute)
		expect(t, s.take(), []string{"create endpoint eventbus-fluidos", "create endpoint relay"})
		expect(t, s.ready(0), "RuleConflict: 1 of 1 sensors have not arrived yet: d-1/p (Rule "+other.Name+" is not the router's)")
	})
	t.Run("a RuleEndpoint of another type", func(t *testing.T) {
		s := newSim()
		s.endpoints = []rules.RuleEndpoint{{ObjectMeta: metav1.ObjectMeta{Name: "relay"}, Spec: rules.RuleEndpointSpec{RuleEndpointType: "servicebus"}}}
		s.offer(1, "edge-1", "12")
		s.ask("x", "")
		s.settle(time.Minute)
		expect(t, s.take(), []string{"create endpoint eventbus-fluidos"})
		expect(t, s.ready(0), "SensorsNotArrived: 1 of 1 sensors have not arrived yet: d-1/p (RuleEndpoint relay is of type servicebus, not rest)")
	})
}

// Totals alone are written at most every ten seconds, and with every condition.
func TestPlanTotals(t *testing.T) {
	s := served(t)
	var writes []string
	for end := s.now.Add(25 * time.Second); s.now.Before(end); s.now = s.now.Add(500 * time.Millisecond) {
		s.arrivals[keyFor(1)]++
		for _, st := range s.step().statuses {
			writes = append(writes, fmt.Sprintf("%s %d", s.now.Sub(start).Round(time.Second), st.status.Total.Delivered))
		}
	}
	if len(writes) != 2 {
		t.Errorf("writes of totals within 25 s: %q, want 2", writes)
	}
	s.arrivals[keyFor(1)] = 1000
	s.nodes = nil
	a := s.step()
	if len(a.statuses) != 1 || a.statuses[0].status.Total.Delivered != 1000 {
		t.Errorf("with a condition: %+v, want totals too", a.statuses)
	}
	if a := s.step(); len(a.statuses) != 0 {
		t.Errorf("nothing changed, but written: %+v", a.statuses)
	}
}

// The cache lags: nothing is made or written twice.
func TestPlanStaleCache(t *testing.T) {
	s := newSim()
	s.offer(1, "edge-1", "12")
	s.ask("x", "")
	s.settle(900 * time.Millisecond)
	s.now = start.Add(1100 * time.Millisecond)
	s.world.relays = []replica{s.relay()}
	stale := s.world
	stale.rules = nil
	a := s.step()
	if len(a.createRules) != 1 {
		t.Fatalf("%d Rules made, want 1", len(a.createRules))
	}
	stale.now = s.now.Add(time.Second)
	if a := s.plan(stale); len(a.createRules)+len(a.statuses) != 0 {
		t.Errorf("again: %+v", a)
	}
	stale.now = s.now.Add(unseen + pause)
	s.plan(stale)
	stale.now = stale.now.Add(pause)
	if a := s.plan(stale); len(a.createRules) != 1 {
		t.Errorf("a Rule that never appeared is not made again: %+v", a)
	}
}

func TestPlanSelection(t *testing.T) {
	s := newSim()
	for i := 1; i <= 30; i++ {
		s.offer(i, "edge-1", fmt.Sprint(i))
	}
	dp := s.ask("x", "24ms")
	dp.Spec.Sensors = append(dp.Spec.Sensors, sensors.Requirement{Field: "device", Matches: new("d-.*")})
	s.world.paths = append(s.world.paths, *PathOf("c", "y", "3ms", "a", "b"))
	s.settle(2 * time.Second)
	st := s.world.paths[0].Status
	expect(t, st.Matched, 23)
	expect(t, len(st.Sensors), 20)
	if !slices.IsSorted(st.Sensors) {
		t.Errorf("names are not sorted: %q", st.Sensors)
	}
	var misses []string
	for _, m := range st.Misses {
		misses = append(misses, m.Sensor)
	}
	expect(t, misses, []string{"d-24/p", "d-25/p", "d-26/p", "d-27/p", "d-28/p"})
	expect(t, len(s.world.rules), 23)
	expect(t, s.world.paths[1].Status.Matched, 2)
	expect(t, strings.HasSuffix(s.ready(0), ", 18 more"), true)

	t.Run("a mutant of selection decides", func(t *testing.T) {
		m := newSim()
		m.choose = func([]sensors.Requirement, sensor.Offer) (sensor.Verdict, error) {
			return sensor.Verdict{Selected: true}, nil
		}
		m.offer(1, "edge-1", "99")
		m.ask("x", "3ms")
		m.settle(2 * time.Second)
		expect(t, m.world.paths[0].Status.Matched, 1)
		expect(t, m.ready(0), "SensorsNotArrived: 1 of 1 sensors have not arrived yet: d-1/p")
		m.arrivals[keyFor(1)]++
		m.step()
		expect(t, m.ready(0), "RelayBehind: relay http://admin selects 0 sensors, the router 1")
	})
}

// The misses are the nearest: fewest requirements missed, then the smallest
// distance to the bounds, then the name.
func TestPlanMisses(t *testing.T) {
	requirement := map[string]sensors.Requirement{
		"humidity":   {Field: "type.sensorType", Equals: new("humidity")},
		"< 16 ms":    {Field: "latency", Lt: new("16ms")},
		"< 1 ms":     {Field: "latency", Lt: new("1ms")},
		"> 0.02 s":   {Field: "latency", Gt: new("0.02s")},
		">= 4 Hz":    {Field: "samplingRate", Ge: new("4Hz")},
		"edge-2":     {Field: "node", Equals: new("edge-2")},
		"impossible": {Field: "accuracy[Sound]", Le: new("1dB")},
	}
	for _, tc := range []struct {
		requirements []string
		// sensors are "<type> <latency in ms>", of board 1, 2, ...
		sensors []string
		want    []string
	}{
		{[]string{"humidity", "< 16 ms"}, []string{"Pressure 9", "Pressure 12", "Pressure 20", "Humidity 16", "Humidity 40", "Pressure 1", "Pressure 2"},
			[]string{"d-4", "d-5", "d-1", "d-2", "d-6"}},
		{[]string{"< 1 ms"}, []string{"Humidity 18", "Humidity 9", "Humidity 100", "Humidity 9"}, []string{"d-2", "d-4", "d-1", "d-3"}},
		{[]string{"> 0.02 s"}, []string{"Humidity 9", "Humidity 20", "Humidity 18"}, []string{"d-2", "d-3", "d-1"}},
		{[]string{"< 1 ms", ">= 4 Hz"}, []string{"Humidity 1.5", "Humidity 0.5", "Humidity 1.2"}, []string{"d-2", "d-3", "d-1"}},
		{[]string{"< 16 ms"}, []string{"Humidity ", "Humidity fast", "Humidity 1e90"}, []string{"d-3", "d-1", "d-2"}},
		{[]string{"edge-2"}, []string{"Humidity 3", "Humidity 2", "Pressure 1"}, []string{"d-1", "d-2", "d-3"}},
		{[]string{"impossible", "< 1 ms"}, []string{"Humidity 9", "Humidity 0.5", "Humidity 2"}, []string{"d-2", "d-1", "d-3"}},
	} {
		t.Run(strings.Join(tc.requirements, " and "), func(t *testing.T) {
			s := newSim()
			for i, of := range tc.sensors {
				measured, latency, _ := strings.Cut(of, " ")
				f := s.offer(i+1, "edge-1", latency)
				f.Spec.FlavorType.TypeData.Raw = bytes.ReplaceAll(f.Spec.FlavorType.TypeData.Raw, []byte("Humidity"), []byte(measured))
			}
			dp := s.ask("x", "")
			for _, r := range tc.requirements {
				dp.Spec.Sensors = append(dp.Spec.Sensors, requirement[r])
			}
			s.step()
			var got []string
			for _, m := range s.world.paths[0].Status.Misses {
				got = append(got, strings.TrimSuffix(m.Sensor, "/p"))
			}
			expect(t, got, tc.want)
			if message := s.ready(0); !strings.Contains(message, "; nearest: "+tc.want[0]+"/p: ") {
				t.Errorf("message %q does not name %s", message, tc.want[0])
			}
		})
	}
}

// An answer that was overtaken by a later one takes nothing back: the samples that
// came before a Rule was made do not confirm it when they are told again.
func TestPlanOvertakenAnswer(t *testing.T) {
	s := newSim()
	s.offer(1, "edge-1", "12")
	s.arrivals[keyFor(1)] = 3
	s.ask("x", "16ms")
	s.settle(2 * time.Second)
	for _, told := range []int64{2, 3} {
		s.arrivals[keyFor(1)] = told
		s.step()
		expect(t, s.ready(0), "SensorsNotArrived: 1 of 1 sensors have not arrived yet: d-1/p")
	}
	s.arrivals[keyFor(1)] = 4
	s.step()
	expect(t, s.ready(0), "Served: 1 sensors arrive, 1 endpoints are served")
}

// Of two replicas, arrivals at either count, both must serve, and totals add up.
func TestPlanReplicas(t *testing.T) {
	s := served(t)
	one, two := s.relay(), s.relay()
	two.url = "http://second"
	two.accounts.Instance = "two"
	w := s.world
	w.relays = []replica{one, two}
	a := s.plan(w)
	expect(t, len(a.statuses), 0) // totals alone wait
	w.now = w.now.Add(totalsEvery)
	a = s.plan(w)
	expect(t, a.statuses[0].status.Total, sensors.Total{Endpoints: 1, Delivered: 2})
	w.relays[1].err = errors.New("gone")
	a = s.plan(w)
	expect(t, apimeta.FindStatusCondition(a.statuses[0].status.Conditions, "Ready").Message, "relay http://second: gone")
	expect(t, a.statuses[0].status.Total, sensors.Total{Endpoints: 1, Delivered: 2})
}
