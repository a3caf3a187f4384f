package router

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/fluidos-edge/testbed/controllers/api/accounts"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	rules "github.com/fluidos-edge/testbed/controllers/api/rules/v1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

// lagging is an API server whose Rules and RuleEndpoints reach the router's
// cache late; it checks what it is told to do.
type lagging struct {
	*rapid.T
	planner *planner
	now     time.Time
	world   // what is true; world.rules and world.endpoints are the API server's
	cached  world
	n       int
	counts  map[sensor.Key]int64
	ended   map[topicKey]time.Time // of Rules, since the router started

	instance int                  // of the relay
	broken   map[string]time.Time // endpoints that take nothing, by name, and since when
	took     map[string]bool      // by earning: the present relay delivered there
	said     map[string]health    // by earning: what a relay said last
	forgot   map[types.UID]int64  // generation of DataPaths that were not Delivering when the router restarted
}

// earning is an endpoint of one generation of a DataPath.
func earning(dp *sensors.DataPath, endpoint string) string {
	return fmt.Sprint(dp.UID, "/", dp.Generation, "/", endpoint)
}

// sample of a board reaches the relay, which delivers it.
func (l *lagging) sample(board int) {
	l.counts[keyFor(board)]++
	for i := range l.paths {
		for j := range l.flavors {
			o, err := sensor.FromFlavor(&l.flavors[j])
			if err != nil || o.Key != keyFor(board) {
				continue
			}
			if v, err := sensor.Select(l.paths[i].Spec.Sensors, o); err != nil || !v.Selected {
				continue
			}
			for _, e := range l.paths[i].Spec.Endpoints {
				if l.broken[e.Name].IsZero() {
					l.took[earning(&l.paths[i], e.Name)] = true
				}
			}
		}
	}
}

// accounts of the relay.
func (l *lagging) accounts() replica {
	s := sim{world: l.world, arrivals: l.counts, instance: fmt.Sprint(l.instance), synced: true}
	r := s.relay()
	for i, d := range r.accounts.DataPaths {
		for j := range d.Endpoints {
			e, key := &d.Endpoints[j], earning(&l.paths[i], d.Endpoints[j].Name)
			e.LastDelivery = time.Time{}
			if l.took[key] {
				e.LastDelivery = start
				l.said[key] = health{}
			}
			if since := l.broken[e.Name]; !since.IsZero() {
				e.FailingSince, e.Reason, e.LastError = since, accounts.ReasonConnectionRefused, "connection refused"
				l.said[key] = health{failingSince: since}
			}
		}
	}
	return r
}

// checkConditions holds what is true after every plan.
func (l *lagging) checkConditions() {
	for i := range l.paths {
		dp := &l.paths[i]
		checkConditions(l, dp)
		all := true
		for _, e := range dp.Spec.Endpoints {
			h, ok := l.said[earning(dp, e.Name)]
			all = all && ok && !h.fails()
		}
		c := conditionOf(dp.Status, sensors.ConditionDelivering, dp.Generation)
		if is := c.Status == metav1.ConditionTrue; is && !all || !is && all && l.forgot[dp.UID] != dp.Generation {
			l.Fatalf("DataPath %s: relays said last that all endpoints take samples: %v; Delivering is %+v", dp.Name, all, c)
		}
		if c.Status == metav1.ConditionTrue {
			delete(l.forgot, dp.UID)
		}
	}
}

func (l *lagging) sync() {
	l.cached.rules, l.cached.endpoints = slices.Clone(l.rules), slices.Clone(l.endpoints)
}

func (l *lagging) restart() {
	l.sync() // a new cache begins with a list
	l.planner = newPlanner("fluidos", "http://relay", []byte("key"), sensor.Select)
	l.ended = map[topicKey]time.Time{}
	for i := range l.paths {
		dp := &l.paths[i]
		if c := conditionOf(dp.Status, sensors.ConditionDelivering, dp.Generation); c == nil || c.Status != metav1.ConditionTrue {
			l.forgot[dp.UID] = dp.Generation
		}
	}
}

func (l *lagging) step() (idle bool) {
	w := l.world
	w.now, w.rules, w.endpoints = l.now, l.cached.rules, l.cached.endpoints
	w.relays = []replica{l.accounts()}
	a := l.planner.plan(w)
	for _, e := range a.createEndpoints {
		if !slices.ContainsFunc(l.endpoints, func(x rules.RuleEndpoint) bool { return x.Name == e.Name }) {
			l.n++
			e.UID = types.UID(fmt.Sprint("endpoint-", l.n))
			l.endpoints = append(l.endpoints, e)
		}
	}
	for _, d := range a.deleteRules {
		if !ours(&d.rule) {
			l.Fatalf("deletes Rule %s, which is not the router's", d.rule.Name)
		}
		if d.unconfirmed {
			for i := range l.flavors {
				if o, err := sensor.FromFlavor(&l.flavors[i]); err == nil && o.Unavailable != "" && l.flavors[i].Name == d.rule.Name {
					l.Fatalf("deletes Rule %s for silence, although %s", d.rule.Name, o.Unavailable)
				}
			}
		}
		for _, r := range l.rules {
			if r.UID == d.rule.UID {
				l.end(r)
			}
		}
	}
	for _, r := range a.createRules {
		if slices.ContainsFunc(l.rules, func(x rules.Rule) bool { return x.Name == r.Name }) {
			continue // 409
		}
		for _, x := range l.rules {
			if keyOf(x) == keyOf(r) {
				l.Fatalf("Rule %s is made beside %s of the same node and topic", r.Name, x.Name)
			}
		}
		if since := l.now.Sub(l.ended[keyOf(r)]); since < pause {
			l.Fatalf("Rule %s is made %s after one of its key ended", r.Name, since)
		}
		if _, why := readiness(nodeMap(l.nodes), keyOf(r).node); why != "" {
			l.Fatalf("Rule %s is made although %s", r.Name, why)
		}
		l.checkEndpoints("a Rule is made")
		l.n++
		r.UID = types.UID(fmt.Sprint("rule-", l.n))
		l.rules = append(l.rules, r)
		l.planner.created(r, w)
	}
	for _, e := range a.deleteEndpoints {
		l.endpoints = slices.DeleteFunc(l.endpoints, func(x rules.RuleEndpoint) bool { return x.UID == e.UID })
		l.planner.dropped[e.UID] = true
	}
	for _, r := range l.rules {
		if ours(&r) {
			l.checkEndpoints("a Rule is there")
		}
	}
	for _, st := range a.statuses {
		l.planner.wrote(st, w.now)
		for i := range l.paths {
			if l.paths[i].UID == st.path.UID {
				l.paths[i].Status = st.status
				l.paths[i].ResourceVersion += "+"
			}
		}
	}
	l.checkConditions()
	return len(a.createEndpoints)+len(a.deleteRules)+len(a.createRules)+len(a.deleteEndpoints) == 0
}

func (l *lagging) end(r rules.Rule) {
	l.rules = slices.DeleteFunc(l.rules, func(x rules.Rule) bool { return x.UID == r.UID })
	l.ended[keyOf(r)] = l.now
}

func (l *lagging) checkEndpoints(when string) {
	for _, want := range []string{endpointEventBus, endpointRelay} {
		if !slices.ContainsFunc(l.endpoints, func(e rules.RuleEndpoint) bool { return e.Name == want }) {
			l.Fatalf("no RuleEndpoint %s while %s", want, when)
		}
	}
}

func nodeMap(nodes []corev1.Node) map[string]*corev1.Node {
	m := map[string]*corev1.Node{}
	for i := range nodes {
		m[nodes[i].Name] = &nodes[i]
	}
	return m
}

// rest lets plans pass, half a second and a sample of every sensor apart, and checks
// that nothing is left to be done then.
func (l *lagging) rest(plans int) {
	for range plans {
		l.now = l.now.Add(500 * time.Millisecond)
		for b := 1; b <= 3; b++ {
			l.sample(b)
		}
		l.sync()
		l.step()
	}
	if l.sync(); !l.step() {
		l.Fatalf("still at work after %d plans", plans)
	}
}

// reasons of Ready, by the DataPath's name.
func (l *lagging) reasons() map[string]string {
	out := map[string]string{}
	for i, dp := range l.paths {
		s := sim{world: l.world}
		out[dp.Name], _, _ = strings.Cut(s.ready(i), ":")
	}
	return out
}

func (l *lagging) uids() (out []types.UID) {
	for _, r := range l.rules {
		out = append(out, r.UID)
	}
	return out
}

// Whatever happens in whatever order, with a cache that lags: never two Rules
// of one node and topic, never a Rule without its RuleEndpoints; Ready is what the
// other conditions say, and Delivering what the relays said last; and at rest there
// is a Rule for exactly the selected sensors of Ready nodes, whether their boards
// are away or not.
func TestPlanProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &lagging{T: t, now: start, counts: map[sensor.Key]int64{},
			broken: map[string]time.Time{}, took: map[string]bool{}, said: map[string]health{}, forgot: map[types.UID]int64{}}
		l.restart()
		version := 0
		board := func() int { return rapid.IntRange(1, 3).Draw(t, "board") }
		node := func() string { return rapid.SampledFrom([]string{"edge-1", "edge-2"}).Draw(t, "node") }
		setNode := func(name string, ready, replace bool) {
			version++
			n := readyNode(name, fmt.Sprint("node-", name), start.Add(time.Duration(version)*time.Second))
			if !ready {
				n.Status.Conditions[0].Status = corev1.ConditionUnknown
			}
			for i := range l.nodes {
				if l.nodes[i].Name == name {
					if n.UID = l.nodes[i].UID; replace {
						n.UID += "+"
					}
					l.nodes[i] = n
					return
				}
			}
			l.nodes = append(l.nodes, n)
		}
		foreign := func(b int, n string) *rules.Rule {
			f := FlavorOf(b, "p", n, "1")
			o, _ := sensor.FromFlavor(f)
			return &rules.Rule{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("foreign-%d-%s", b, n), UID: types.UID(fmt.Sprintf("foreign-%d-%s", b, n))},
				Spec: rules.RuleSpec{Source: "a", Target: "b", SourceResource: map[string]string{"node_name": n, "topic": o.Topic}}}
		}
		t.Repeat(map[string]func(*rapid.T){
			"ask": func(*rapid.T) {
				name := rapid.SampledFrom([]string{"x", "y"}).Draw(t, "name")
				l.paths = slices.DeleteFunc(l.paths, func(p sensors.DataPath) bool { return p.Name == name })
				if bound := rapid.SampledFrom([]string{"off", "", "15ms", "25ms", "nonsense"}).Draw(t, "bound"); bound != "off" {
					version++
					dp := PathOf("c", name, bound, name+"-a", name+"-b")
					dp.UID = types.UID(fmt.Sprint("path-", version))
					l.paths = append(l.paths, *dp)
				}
			},
			"offer": func(*rapid.T) {
				b := board()
				l.flavors = slices.DeleteFunc(l.flavors, func(f nodecore.Flavor) bool { return f.Labels["sensors.fluidos.eu/device"] == fmt.Sprint("d-", b) })
				if rapid.Bool().Draw(t, "offered") {
					version++
					f := FlavorOf(b, "p", node(), rapid.SampledFrom([]string{"10", "20", "30"}).Draw(t, "latency"))
					f.ResourceVersion = fmt.Sprint(version)
					if rapid.Bool().Draw(t, "renamed") {
						f.Name = strings.Replace(f.Name, "-0000", "-ffff", 1)
					}
					SetFault(f, rapid.SampledFrom([]string{"", "", "its board is offline"}).Draw(t, "fault"))
					l.flavors = append(l.flavors, *f)
				}
			},
			"board": func(*rapid.T) {
				b, fault := board(), rapid.SampledFrom([]string{"", "its board is offline", "its board is unhealthy"}).Draw(t, "fault")
				for i := range l.flavors {
					if f := &l.flavors[i]; f.Labels["sensors.fluidos.eu/device"] == keyFor(b).Device {
						version++
						f.ResourceVersion = fmt.Sprint(version)
						SetFault(f, fault)
					}
				}
			},
			"node": func(*rapid.T) {
				setNode(node(), rapid.Bool().Draw(t, "ready"), rapid.Bool().Draw(t, "replaced"))
			},
			"foreign": func(*rapid.T) {
				r := foreign(board(), node())
				if i := slices.IndexFunc(l.rules, func(x rules.Rule) bool { return x.UID == r.UID }); i >= 0 {
					l.end(l.rules[i])
				} else {
					l.rules = append(l.rules, *r)
				}
				l.sync() // nobody can know of it before the cache does
			},
			"somebody deletes a Rule": func(*rapid.T) {
				if len(l.rules) > 0 {
					l.end(rapid.SampledFrom(l.rules).Draw(t, "rule"))
				}
			},
			"samples": func(*rapid.T) { l.sample(board()) },
			"endpoint": func(*rapid.T) {
				name := rapid.SampledFrom([]string{"x-a", "x-b", "y-a"}).Draw(t, "endpoint")
				if l.broken[name].IsZero() {
					l.broken[name] = l.now
				} else {
					delete(l.broken, name)
				}
			},
			"another generation": func(*rapid.T) {
				if len(l.paths) > 0 {
					dp := &l.paths[rapid.IntRange(0, len(l.paths)-1).Draw(t, "path")]
					dp.Generation++
					dp.ResourceVersion += "+"
					switch rapid.IntRange(0, 2).Draw(t, "change") {
					case 0:
						dp.Spec.Endpoints[0].URL += "+"
					case 1:
						dp.Spec.Endpoints = dp.Spec.Endpoints[:1:1]
					case 2:
						dp.Spec.Sensors = nil
					}
				}
			},
			"the relay restarts": func(*rapid.T) {
				l.instance++
				l.counts, l.took = map[sensor.Key]int64{}, map[string]bool{}
			},
			"time": func(*rapid.T) {
				l.now = l.now.Add(time.Duration(rapid.SampledFrom([]int{1, 100, 1100, 31000}).Draw(t, "ms")) * time.Millisecond)
				l.sync() // a cache lags for less than the pauses
			},
			"sync":    func(*rapid.T) { l.sync() },
			"restart": func(*rapid.T) { l.restart() },
			"":        func(*rapid.T) { l.step() },
		})

		// Then everything comes to rest.
		setNode("edge-1", true, false)
		l.rest(100)
		want, keys := map[string]bool{}, map[topicKey]bool{}
		for _, r := range l.rules {
			if !ours(&r) {
				keys[keyOf(r)] = true
			}
		}
		ready := map[types.UID]bool{}
		for _, dp := range l.paths {
			ready[dp.UID] = true
			any := false
			for i := range l.flavors {
				o, err := sensor.FromFlavor(&l.flavors[i])
				if err != nil {
					t.Fatal(err)
				}
				v, err := sensor.Select(dp.Spec.Sensors, o)
				if err != nil || !v.Selected {
					continue
				}
				any = true
				_, away := readiness(nodeMap(l.nodes), o.Node)
				name := l.flavors[i].Name
				has := slices.ContainsFunc(l.rules, func(r rules.Rule) bool { return r.Name == name })
				if away == "" && !keys[topicKey{o.Node, o.Topic}] || has {
					want[name] = true
				}
				if away != "" || o.Unavailable != "" || keys[topicKey{o.Node, o.Topic}] {
					ready[dp.UID] = false
				}
			}
			ready[dp.UID] = ready[dp.UID] && any
			for _, e := range dp.Spec.Endpoints {
				ready[dp.UID] = ready[dp.UID] && l.broken[e.Name].IsZero()
			}
		}
		got := map[string]bool{}
		for _, r := range l.rules {
			if ours(&r) {
				got[r.Name] = true
			}
		}
		if !maps.Equal(want, got) {
			t.Fatalf("Rules at rest: %v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
		}
		for i, dp := range l.paths {
			s := sim{world: l.world}
			if isReady := strings.HasPrefix(s.ready(i), reasonServed+":"); isReady != ready[dp.UID] {
				t.Fatalf("DataPath %s at rest: %s; want Ready %v", dp.Name, s.ready(i), ready[dp.UID])
			}
		}
		if n, needed := len(l.endpoints), len(l.paths)+len(l.flavors) > 0; n != 2 && needed || n != 0 && !needed {
			t.Fatalf("%d RuleEndpoints at rest, needed %v", n, needed)
		}

		// All boards go away, for long, and return: every Rule is the one that it was, and
		// the DataPaths are as they are with no board away.
		setFaults := func(fault string, plans int) {
			for i := range l.flavors {
				version++
				l.flavors[i].ResourceVersion = fmt.Sprint(version)
				SetFault(&l.flavors[i], fault)
			}
			l.rest(plans)
		}
		setFaults("", 5)
		before, made := l.reasons(), l.uids()
		setFaults("its board is offline", 3)
		l.now = l.now.Add(time.Hour)
		l.rest(3)
		for name, reason := range l.reasons() {
			want := before[name]
			if want == reasonServed || want == accounts.ReasonConnectionRefused {
				want = reasonUnavailable
			}
			if reason != want {
				t.Fatalf("DataPath %s is %s with its boards away, want %s", name, reason, want)
			}
		}
		setFaults("", 5)
		if after := l.reasons(); !maps.Equal(before, after) {
			t.Fatalf("DataPaths are %v after their boards returned, want %v", after, before)
		}
		if after := l.uids(); !slices.Equal(made, after) {
			t.Fatalf("Rules are %v after the boards returned, want %v", after, made)
		}
	})
}
