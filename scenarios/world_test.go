package scenarios_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	rules "github.com/fluidos-edge/testbed/controllers/api/rules/v1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/sensor"
	"github.com/fluidos-edge/testbed/scenarios"
	"github.com/fluidos-edge/testbed/scenarios/ledger"
	"github.com/fluidos-edge/testbed/scenarios/sink"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// world stands in for a testbed, in this process: boards that publish, somebody
// who selects and reports, sinks that store. What it does wrong is up to a test.
type world struct {
	t   *testing.T
	env *scenarios.Env
	dir string

	// choose is how it selects; sensor.Select if nil.
	choose sensor.SelectFunc
	// deliver says where a sample goes that should go to one endpoint.
	deliver func(to string, line sample) []delivery
	// restartAfter is when all of a board's streams begin anew; 0: never.
	restartAfter int64
	// mute keeps a status from being written.
	mute bool
	// badMisses names the farthest misses.
	badMisses bool
	// rule keeps Rules that nobody needs.
	rule bool

	mu     sync.Mutex
	stored map[string][]ledger.Sample // by consumer
}

// sample of the world; reading is what a swap exchanges.
type sample struct {
	scenarios.Sensor
	epoch, seq, time int64
	reading          float64
}

type delivery struct {
	to string // "<consumer>/<endpoint>"
	sample
}

func (s sample) line(endpoint string) string {
	tag := ""
	if endpoint != "" {
		tag = ",endpoint=" + endpoint
	}
	return fmt.Sprintf("environmental,device=%s,node=%s,part=%s,uid=%s%s value=%v,epoch=%di,seq=%di %d\n",
		s.Device, s.Nodes[0], s.Part, s.UID, tag, s.reading, s.epoch, s.seq, s.time)
}

func extended(t *testing.T, file string) *topology.Topology {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	top, err := topology.Load(file, text)
	if err != nil {
		t.Fatal(err)
	}
	return top
}

// newWorld is faultless.
func newWorld(t *testing.T, top *topology.Topology) *world {
	t.Helper()
	if *attach != "" {
		t.Skip("it needs no testbed: run it without -testbed")
	}
	w := &world{t: t, dir: t.TempDir(), stored: map[string][]ledger.Sample{}}
	w.env = &scenarios.Env{
		Testbed: "world", Backend: "none", Edge: "none", Topology: top, Sensors: scenarios.SensorsOf(top),
		LockFile: filepath.Join(w.dir, "lock"), Samples: 20, Patience: time.Second,
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{sensors.AddToScheme, nodecore.AddToScheme, rules.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range top.Consumers {
		own := scenarios.Consumer{Name: c.Name, Journal: filepath.Join(w.dir, c.Name+".lp"), Store: store{w, c.Name}}
		for _, e := range append(slices.Clone(c.Endpoints), topology.Endpoint{Name: topology.WitnessEndpoint}) {
			own.Endpoints = append(own.Endpoints, scenarios.Endpoint{Name: e.Name, URL: "http://" + c.Name + "/" + e.Name})
		}
		w.env.Consumers = append(w.env.Consumers, own)
	}
	for _, p := range top.Providers {
		objects := fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&sensors.DataPath{}).Build()
		own := scenarios.Provider{Name: p.Name, Namespace: "fluidos", Admin: objects, DataPaths: map[string]client.Client{}, Journals: map[string]string{}}
		for _, c := range top.Consumers {
			own.DataPaths[c.Name] = objects
		}
		for _, n := range p.EdgeNodes {
			own.Journals[n.Name] = filepath.Join(w.dir, p.Name+"-"+n.Name+".lp")
		}
		w.env.Providers = append(w.env.Providers, own)
		for _, s := range w.env.Sensors {
			if s.Provider == p.Name {
				w.offer(own, s, s.Nodes[0], s.Device+"-"+s.Part)
			}
		}
	}
	return w
}

func (w *world) offer(p scenarios.Provider, s scenarios.Sensor, node, name string) {
	w.t.Helper()
	f := &nodecore.Flavor{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fluidos", Name: name, Labels: map[string]string{
			nodecore.LabelDevice: s.Device, nodecore.LabelPart: s.Part, nodecore.LabelNode: node}},
		Spec: nodecore.FlavorSpec{FlavorType: nodecore.FlavorType{TypeIdentifier: nodecore.TypeSensor, TypeData: runtime.RawExtension{Raw: []byte("{}")}}},
	}
	if err := p.Admin.(client.Client).Create(w.t.Context(), f); err != nil {
		w.t.Fatal(err)
	}
}

// run until the test ends.
func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for seq := int64(1); ; seq++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := w.step(ctx, seq); err != nil && ctx.Err() == nil {
				w.t.Errorf("world: %v", err)
				return
			}
		}
	}()
	w.t.Cleanup(func() { cancel(); <-done })
}

func (w *world) step(ctx context.Context, seq int64) error {
	for _, p := range w.env.Providers {
		objects := p.Admin.(client.Client)
		routes, err := w.report(ctx, p, objects)
		if err != nil {
			return err
		}
		if err := w.keepRules(ctx, objects, routes); err != nil {
			return err
		}
		for i, s := range w.env.Sensors {
			if s.Provider != p.Name {
				continue
			}
			now := sample{Sensor: s, epoch: 7, seq: seq, time: time.Now().UnixNano(), reading: float64(seq) + float64(i)/64}
			if w.restartAfter > 0 && seq > w.restartAfter && s.Board == w.env.Sensors[0].Board {
				now.epoch, now.seq = 8, seq-w.restartAfter
			}
			if err := appendTo(p.Journals[s.Nodes[0]], now.line("")); err != nil {
				return err
			}
			for _, to := range routes[scenarios.Name(s)] {
				all := []delivery{{to, now}}
				if w.deliver != nil {
					all = w.deliver(to, now)
				}
				for _, d := range all {
					if err := w.arrive(d); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// report on all DataPaths, and say where each sensor's samples go.
func (w *world) report(ctx context.Context, p scenarios.Provider, objects client.Client) (map[string][]string, error) {
	choose := w.choose
	if choose == nil {
		choose = sensor.Select
	}
	var list sensors.DataPathList
	if err := objects.List(ctx, &list); err != nil {
		return nil, err
	}
	routes := map[string][]string{}
	for _, dp := range list.Items {
		st := sensors.DataPathStatus{}
		type near struct {
			sensors.Miss
			met int
		}
		var misses []near
		for _, s := range w.env.Sensors {
			if s.Provider != p.Name {
				continue
			}
			o := sensor.Offer{Key: sensor.Key{Namespace: "fluidos", Device: s.Device, Part: s.Part}, UID: s.UID}
			o.Characteristics.Type.SensorType, o.Characteristics.Manufacturer = s.Types, s.Manufacturer
			o.Characteristics.Latency, o.Characteristics.Properties.Unit.Latency = s.Latency, s.LatencyUnit
			v, err := choose(dp.Spec.Sensors, o)
			if err != nil {
				return nil, err
			}
			if v.Selected {
				st.Matched++
				if len(st.Sensors) < 20 {
					st.Sensors = append(st.Sensors, scenarios.Name(s))
				}
				for _, e := range dp.Spec.Endpoints {
					routes[scenarios.Name(s)] = append(routes[scenarios.Name(s)], strings.TrimPrefix(e.URL, "http://"))
				}
			} else {
				misses = append(misses, near{sensors.Miss{Sensor: scenarios.Name(s), Reason: v.Reason}, v.Met})
			}
		}
		if len(dp.Status.Conditions) > 0 || w.mute {
			continue
		}
		slices.SortStableFunc(misses, func(a, b near) int { return b.met - a.met })
		if w.badMisses {
			slices.Reverse(misses)
		}
		for _, m := range misses[:min(5, len(misses))] {
			st.Misses = append(st.Misses, m.Miss)
		}
		is := metav1.ConditionFalse
		if st.Matched > 0 {
			is = metav1.ConditionTrue
		}
		for _, c := range []string{sensors.ConditionMatched, sensors.ConditionReady} {
			st.Conditions = append(st.Conditions, metav1.Condition{Type: c, Status: is, Reason: "World", ObservedGeneration: dp.Generation, LastTransitionTime: metav1.Now()})
		}
		dp.Status = st
		if err := objects.Status().Update(ctx, &dp); client.IgnoreNotFound(err) != nil {
			return nil, err
		}
	}
	return routes, nil
}

func (w *world) keepRules(ctx context.Context, objects client.Client, routes map[string][]string) error {
	var list rules.RuleList
	if err := objects.List(ctx, &list); err != nil {
		return err
	}
	there := map[string]bool{}
	for _, r := range list.Items {
		name := r.Labels[nodecore.LabelDevice] + "/" + r.Labels[nodecore.LabelPart]
		there[name] = true
		if routes[name] == nil && !w.rule {
			if err := objects.Delete(ctx, &r); err != nil {
				return err
			}
		}
	}
	for name := range routes {
		device, part, _ := strings.Cut(name, "/")
		if there[name] {
			continue
		}
		r := &rules.Rule{ObjectMeta: metav1.ObjectMeta{Namespace: "fluidos", Name: device + "-" + part,
			Labels: map[string]string{nodecore.LabelDevice: device, nodecore.LabelPart: part}}}
		if err := objects.Create(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) arrive(d delivery) error {
	consumer, endpoint, _ := strings.Cut(d.to, "/")
	line := d.line(endpoint)
	s, err := sink.ParseLine([]byte(line))
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.stored[consumer] = append(w.stored[consumer], s)
	w.mu.Unlock()
	return appendTo(filepath.Join(w.dir, consumer+".lp"), line)
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// store is one consumer's InfluxDB: a double overwrites.
type store struct {
	w        *world
	consumer string
}

func (s store) Stored(_ context.Context, since time.Time, endpoints ...string) ([]ledger.Sample, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	type row struct {
		endpoint, uid string
		time          int64
	}
	rows := map[row]ledger.Sample{}
	for _, one := range s.w.stored[s.consumer] {
		if one.Time >= since.UnixNano() && slices.Contains(endpoints, one.Endpoint) {
			rows[row{one.Endpoint, one.UID, one.Time}] = one
		}
	}
	var out []ledger.Sample
	for _, one := range rows {
		out = append(out, one)
	}
	return out, nil
}

func (s store) Last(ctx context.Context, endpoint string, since time.Time) (map[string]int64, error) {
	all, err := s.Stored(ctx, since, endpoint)
	out := map[string]int64{}
	for _, one := range all {
		out[one.UID] = max(out[one.UID], one.Seq)
	}
	return out, err
}

// statuses of all assertions that are not pass, by ID.
func statuses(results []scenarios.Result) map[string]string {
	out := map[string]string{}
	for _, r := range results {
		if r.Status != scenarios.Pass {
			out[r.Assertion] = r.Status
		}
	}
	return out
}

func reasons(results []scenarios.Result) string {
	var b strings.Builder
	for _, r := range results {
		if r.Status != scenarios.Pass {
			fmt.Fprintf(&b, "%s %s: %s\n", r.Assertion, r.Status, r.Reason)
		}
	}
	return b.String()
}

// inclusive reads every "<" as "<=".
func inclusive(reqs []sensors.Requirement, o sensor.Offer) (sensor.Verdict, error) {
	reqs = slices.Clone(reqs)
	for i, r := range reqs {
		if r.Lt != nil {
			reqs[i].Lt, reqs[i].Le = nil, r.Lt
		}
	}
	return sensor.Select(reqs, o)
}

// textual compares bounds as text, as one would who forgets about units.
func textual(reqs []sensors.Requirement, o sensor.Offer) (sensor.Verdict, error) {
	var rest []sensors.Requirement
	for _, r := range reqs {
		if r.Lt == nil {
			rest = append(rest, r)
		}
	}
	v, err := sensor.Select(rest, o)
	for _, r := range reqs {
		if r.Lt == nil {
			continue
		}
		if latency := o.Characteristics.Latency; latency < *r.Lt {
			v.Met++
		} else if v.Reason == "" {
			v.Reason = "latency " + latency + " is not < " + *r.Lt
		}
	}
	v.Selected = v.Met == len(reqs)
	return v, err
}

// to applies a fault to one endpoint, to every seventh sample.
func to(endpoint string, fault func(delivery) []delivery) func(string, sample) []delivery {
	return func(to string, s sample) []delivery {
		d := delivery{to, s}
		if to == endpoint && s.seq%7 == 0 {
			return fault(d)
		}
		return []delivery{d}
	}
}

func fails(ids ...string) map[string]string {
	out := map[string]string{}
	for _, id := range ids {
		out[id] = scenarios.Fail
	}
	return out
}

func TestAssertionsTellFaultsApart(t *testing.T) {
	drop := func(delivery) []delivery { return nil }
	double := func(d delivery) []delivery { return []delivery{d, d} }
	alter := func(d delivery) []delivery { d.reading = -1; return []delivery{d} }
	move := func(where string) func(delivery) []delivery {
		return func(d delivery) []delivery { d.to = where; return []delivery{d} }
	}
	copied := func(where string) func(delivery) []delivery {
		return func(d delivery) []delivery { return []delivery{d, {where, d.sample}} }
	}
	tests := []struct {
		name  string
		fault func(*world)
		want  map[string]string
	}{
		{name: "none", fault: func(*world) {}, want: fails()},
		{name: "drop at b", fault: func(w *world) { w.deliver = to("consumer-1/b", drop) }, want: fails("M1")},
		{name: "double at b", fault: func(w *world) { w.deliver = to("consumer-1/b", double) }, want: fails("M1")},
		{name: "other readings at b", fault: func(w *world) { w.deliver = to("consumer-1/b", alter) }, want: fails("M1")},
		{name: "drop at a", fault: func(w *world) { w.deliver = to("consumer-1/a", drop) }, want: fails("M1", "M2", "L1")},
		{name: "double at the second consumer", fault: func(w *world) { w.deliver = to("consumer-2/a", double) }, want: fails("M2", "M3", "L2")},
		{name: "misrouted to another consumer", fault: func(w *world) { w.deliver = to("consumer-2/a", move("consumer-1/a")) }, want: fails("M1", "M2", "M3", "L1", "L2")},
		{name: "copied from the witness", fault: func(w *world) { w.deliver = to("consumer-2/witness", copied("consumer-1/b")) }, want: fails("M1", "M3")},
		{name: "drop at the witness", fault: func(w *world) { w.deliver = to("consumer-1/witness", drop) }, want: fails()},
		{name: "inclusive bound", fault: func(w *world) { w.choose = inclusive }, want: fails("L1", "L2")},
		{name: "text comparison", fault: func(w *world) { w.choose = textual }, want: fails("L1", "L2", "L4")},
		{name: "farthest misses", fault: func(w *world) { w.badMisses = true }, want: fails("L4")},
		{name: "a Rule too many", fault: func(w *world) { w.rule = true }, want: fails("L4")},
		{name: "offered twice", fault: func(w *world) {
			_, s2, s3 := scenarios.Disjoint(w.env)
			for _, s := range append(s2, s3...) {
				w.offer(w.env.Providers[0], s, "elsewhere", s.Device+"-"+s.Part+"-elsewhere")
			}
		}, want: fails("M3")},
		{name: "nobody reports", fault: func(w *world) { w.mute = true }, want: map[string]string{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, extended(t, "tamper.yaml"))
			tt.fault(w)
			w.run()
			if w.mute {
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				for _, r := range scenarios.Run(ctx, w.env, scenarios.All(), nil) {
					if r.Status != scenarios.Error || r.Reason == "" {
						t.Errorf("%s: %s: %s", r.Assertion, r.Status, r.Reason)
					}
				}
				w.nothingLeft()
				return
			}
			var told []string
			results := scenarios.Run(t.Context(), w.env, scenarios.All(), func(r scenarios.Result) { told = append(told, r.Assertion) })
			if diff := cmp.Diff(tt.want, statuses(results)); diff != "" {
				t.Errorf("statuses (-want +got):\n%s\n%s", diff, reasons(results))
			}
			if diff := cmp.Diff([]string{"M1", "M2", "M3", "L1", "L2", "L4"}, told); diff != "" {
				t.Errorf("progress (-want +got):\n%s", diff)
			}
			w.nothingLeft()
		})
	}
}

// A person's own DataPath to the same endpoint neither fails nor goes; one that
// a killed run left goes.
func TestOthersAreLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, extended(t, "tamper.yaml"))
	objects := w.env.Providers[0].Admin.(client.Client)
	path := func(name, run string) *sensors.DataPath {
		dp := &sensors.DataPath{ObjectMeta: metav1.ObjectMeta{Namespace: "consumer-1", Name: name}}
		if run != "" {
			dp.Labels = map[string]string{sensors.LabelRun: run}
		}
		for _, e := range w.env.Consumers[0].Endpoints {
			dp.Spec.Endpoints = append(dp.Spec.Endpoints, sensors.Endpoint{Name: e.Name, URL: e.URL})
		}
		if err := objects.Create(t.Context(), dp); err != nil {
			t.Fatal(err)
		}
		return dp
	}
	mine := path("mine", "")
	path("left", "deadbeef")
	w.run()
	results := scenarios.Run(t.Context(), w.env, scenarios.All(), nil)
	if diff := cmp.Diff(fails(), statuses(results)); diff != "" {
		t.Errorf("statuses (-want +got):\n%s\n%s", diff, reasons(results))
	}
	w.nothingLeft()
	if err := objects.Get(t.Context(), client.ObjectKeyFromObject(mine), mine); err != nil {
		t.Errorf("a person's own DataPath: %v", err)
	}
}

func TestRestartIsNoVerdict(t *testing.T) {
	t.Parallel()
	w := newWorld(t, extended(t, "tamper.yaml"))
	w.env.Samples, w.restartAfter = 200, 100
	w.run()
	as, err := scenarios.Select(scenarios.Multicast)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range scenarios.Run(t.Context(), w.env, as, nil) {
		if r.Status != scenarios.Error || !strings.Contains(r.Reason, "board "+w.env.Sensors[0].Board) {
			t.Errorf("%s: %s: %s", r.Assertion, r.Status, r.Reason)
		}
	}
	w.nothingLeft()
}

// One assertion alone shows what it is about, and skips what a topology lacks.
func TestAssertionsAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, extended(t, "tamper.yaml"))
	w.run()
	s1, _, s3 := scenarios.Disjoint(w.env)
	for _, tt := range []struct {
		id      string
		streams int
	}{{"M1", 2 * len(s1)}, {"M2", 2 * len(s1)}, {"M3", len(s3)}, {"L1", 2}, {"L2", 3}, {"L4", 0}} {
		as, err := scenarios.Select(strings.ToLower(tt.id))
		if err != nil {
			t.Fatal(err)
		}
		r := scenarios.Run(t.Context(), w.env, as, nil)[0]
		if r.Status != scenarios.Pass {
			t.Errorf("%s: %s: %s", tt.id, r.Status, r.Reason)
		}
		if diff := cmp.Diff(r.Expected, r.Observed); diff != "" {
			t.Errorf("%s (-expected +observed):\n%s", tt.id, diff)
		}
		if len(r.Expected.Streams) != tt.streams || r.Expected.Sensors == nil {
			t.Errorf("%s: %d streams, want %d; sensors %v", tt.id, len(r.Expected.Streams), tt.streams, r.Expected.Sensors)
		}
		for _, s := range r.Expected.Streams {
			if s.Count < 20 || s.Count != int(s.To-s.From)+1 {
				t.Errorf("%s: %+v", tt.id, s)
			}
		}
	}
}

func TestOneConsumerWithOneEndpoint(t *testing.T) {
	t.Parallel()
	top := extended(t, "tamper.yaml")
	top.Consumers = top.Consumers[1:]
	w := newWorld(t, top)
	w.run()
	results := scenarios.Run(t.Context(), w.env, scenarios.All(), nil)
	want := map[string]string{"M1": scenarios.Skip, "M2": scenarios.Skip, "M3": scenarios.Skip}
	if diff := cmp.Diff(want, statuses(results)); diff != "" {
		t.Errorf("statuses (-want +got):\n%s\n%s", diff, reasons(results))
	}
}

func TestSelect(t *testing.T) {
	for name, want := range map[string]int{"all": 6, "multicast": 3, "latency-filter": 3, "L4": 1} {
		if as, err := scenarios.Select(name); err != nil || len(as) != want {
			t.Errorf("%s: %d assertions, %v", name, len(as), err)
		}
	}
	if _, err := scenarios.Select("L3"); err == nil || !strings.Contains(err.Error(), "L4") {
		t.Errorf("L3: error %v", err)
	}
}

func TestExpectedSensors(t *testing.T) {
	all := scenarios.SensorsOf(extended(t, "extended.yaml"))
	for bound, want := range map[time.Duration][]string{
		5 * time.Millisecond:  nil,
		16 * time.Millisecond: {"ms-12", "ms-15-9", "ms-9", "s-0-015"},
		25 * time.Millisecond: {"ms-12", "ms-15-9", "ms-16", "ms-20", "ms-24-9", "ms-9", "s-0-015"},
	} {
		var got []string
		for _, s := range all {
			if scenarios.Filtered(s, bound) {
				got = append(got, s.Board)
			}
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", bound, diff)
		}
	}
	nodes := map[string]bool{}
	seen := map[string]bool{}
	s1, s2, s3 := scenarios.Disjoint(&scenarios.Env{Topology: topology.Default(), Sensors: scenarios.SensorsOf(topology.Default())})
	for _, set := range [][]scenarios.Sensor{s1, s2, s3} {
		on := map[string]bool{}
		for _, s := range set {
			if seen[s.UID] {
				t.Errorf("%s is in two sets", s.UID)
			}
			seen[s.UID], nodes[s.Nodes[0]], on[s.Nodes[0]] = true, true, true
		}
		if len(on) != 2 {
			t.Errorf("a set over %d nodes", len(on))
		}
	}
	if len(seen) != 15 {
		t.Errorf("%d sensors in all", len(seen))
	}
}

// nothingLeft of a run's DataPaths.
func (w *world) nothingLeft() {
	w.t.Helper()
	for _, p := range w.env.Providers {
		var list sensors.DataPathList
		if err := p.Admin.List(w.t.Context(), &list, client.HasLabels{sensors.LabelRun}); err != nil {
			w.t.Error(err)
		}
		if len(list.Items) > 0 {
			w.t.Errorf("%d DataPaths left, the first %s/%s", len(list.Items), list.Items[0].Namespace, list.Items[0].Name)
		}
	}
}
