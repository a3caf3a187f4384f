package scenarios_test

import (
	stdcmp "cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	rules "github.com/fluidos-edge/testbed/controllers/api/rules/v1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/sensor"
	"github.com/fluidos-edge/testbed/scenarios"
	"github.com/fluidos-edge/testbed/scenarios/boards"
	"github.com/fluidos-edge/testbed/scenarios/ledger"
	"github.com/fluidos-edge/testbed/scenarios/sink"
	"github.com/fluidos-edge/testbed/testbed"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// world stands in for a testbed, in this process: boards that measure and emit, a mapper
// that publishes, somebody who selects and reports, sinks that store. What it does wrong
// is up to a test.
type world struct {
	t       *testing.T
	env     *scenarios.Env
	dir     string
	sensors []scenarios.Sensor // as the boards have them; Declare changes them

	// choose is how it selects; sensor.Select if nil.
	choose sensor.SelectFunc
	// publish is what the mapper makes of a reading; the rounded sample if nil.
	publish func(sample) []sample
	// latency is what a sample says that its way took; the board's delay and a little if nil.
	latency func(sample) float64
	// behaves is by board the delay in ms that it really has; 5 by default.
	behaves map[string]float64
	// deliver says where a sample goes that should go to one endpoint.
	deliver func(to string, line sample) []delivery
	// late delivers what it returns a while later.
	late   func(to string, line sample) []delivery
	lateBy time.Duration
	// restartAfter is when all of a board's streams begin anew; 0: never.
	restartAfter int64
	// mute keeps a status from being written.
	mute bool
	// nearest orders misses wrongly.
	misorder func(a, b near) int
	// rule keeps Rules that nobody needs.
	rule bool
	// deaf says that a DataPath is gone, and goes on to serve it.
	deaf bool

	mu     sync.Mutex
	stored map[string][]ledger.Sample // by consumer
	seen   map[string]sensors.DataPath
	seqs   map[string]int64
	queue  []timed
}

// lateBy is more than what the fence waits for, and less than two flush intervals.
const lateBy = 150 * time.Millisecond

// timed is a delivery that waits for its time.
type timed struct {
	at time.Time
	delivery
}

// near is a sensor that is not selected.
type near struct {
	sensors.Miss
	met      int
	distance float64
}

// sample of the world; values are by field.
type sample struct {
	scenarios.Sensor
	epoch, seq, time int64
	values           map[string]float64
	delay            float64
}

type delivery struct {
	to string // "<consumer>/<endpoint>"
	sample
	latency float64
}

// fieldsOf parts, with a typical value and the step of a frame.
var fieldsOf = map[string]map[string][2]float64{
	"hts221":   {"humidity_percent": {46, 0.1}, "temperature_celsius": {22, 0.1}},
	"stts751":  {"temperature_celsius": {22.4, 0.1}},
	"stts22h":  {"temperature_celsius": {21.7, 0.1}},
	"lps22hh":  {"pressure_hpa": {1013, 0.01}},
	"ilps22qs": {"pressure_hpa": {1012, 0.01}},
}

// measure what a part shows; never on a step.
func measure(s scenarios.Sensor, n int64) map[string]float64 {
	out := map[string]float64{}
	for field, f := range fieldsOf[s.Part] {
		out[field] = f[0] + math.Sin(float64(n)/3+float64(len(s.UID)))*2 + float64(s.UID[0])/64
	}
	return out
}

// encoded is a sample as a frame carries it.
func encoded(s sample) sample {
	out := map[string]float64{}
	for field, v := range s.values {
		step := fieldsOf[s.Part][field][1]
		out[field] = math.Round(v/step) * step
	}
	s.values = out
	return s
}

func (s sample) fields() string {
	var out []string
	for _, field := range slices.Sorted(maps.Keys(s.values)) {
		out = append(out, field+"="+strconv.FormatFloat(s.values[field], 'f', -1, 64))
	}
	return strings.Join(out, ",")
}

// line as a mapper publishes it, or as it arrives at an endpoint.
func (s sample) line(endpoint string, latency float64) string {
	tag := ""
	if endpoint != "" {
		tag = ",endpoint=" + endpoint
	}
	return fmt.Sprintf("environmental,device=%s,node=%s,part=%s,uid=%s%s %s,sensor_latency_ms=%v,epoch=%di,seq=%di %d\n",
		s.Device, s.Nodes[0], s.Part, s.UID, tag, s.fields(), latency, s.epoch, s.seq, s.time)
}

// journal line of the board.
func (s sample) journal() string {
	return fmt.Sprintf("environmental,board=%s,device=%s,node=%s,part=%s %s,latency_ms=%v,frame=\"0000\" %d\n",
		s.Board, s.Device, s.Nodes[0], s.Part, s.fields(), s.delay, s.time)
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
	w := &world{t: t, dir: t.TempDir(), sensors: scenarios.SensorsOf(top), stored: map[string][]ledger.Sample{},
		seen: map[string]sensors.DataPath{}, seqs: map[string]int64{}, behaves: map[string]float64{}}
	w.env = &scenarios.Env{
		Testbed: "world", Backend: "none", Edge: "none", Topology: top, Sensors: scenarios.SensorsOf(top),
		LockFile: filepath.Join(w.dir, "lock"), Samples: 20, Patience: time.Second / 2, LeaveGrace: 100 * time.Millisecond, RuleGrace: 3 * time.Second, Flush: 100 * time.Millisecond,
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, sensors.AddToScheme, nodecore.AddToScheme, rules.AddToScheme} {
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
		own := scenarios.Provider{Name: p.Name, Namespace: "fluidos", Admin: objects, DataPaths: map[string]client.Client{}, Journals: map[string]string{},
			BoardsJournal: filepath.Join(w.dir, p.Name+"-boards.lp"), Boards: control{w, p}}
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

// control is the control API of one provider's boards.
type control struct {
	w *world
	p topology.Provider
}

func (c control) Boards(context.Context) ([]boards.State, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	var out []boards.State
	for _, b := range c.p.Boards {
		st := boards.State{Name: b.Name, Model: b.Model, MAC: b.MAC, ID: b.ID, Nodes: b.Nodes, ConnectedTo: b.Nodes[0], Rate: b.Rate, Offers: b.Offers}
		for _, s := range c.w.sensors {
			if s.Provider == c.p.Name && s.Board == b.Name {
				part := nodecore.Characteristics{Model: strings.ToUpper(s.Part), Manufacturer: s.Manufacturer, Latency: s.Latency, SamplingRate: fmt.Sprint(s.Rate)}
				part.Properties.Unit.Latency = s.LatencyUnit
				st.Parts = append(st.Parts, part)
			}
		}
		out = append(out, st)
	}
	return out, nil
}

func (c control) Declare(_ context.Context, board, part string, d boards.Declared) error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	for i := range c.w.sensors {
		if s := &c.w.sensors[i]; s.Provider == c.p.Name && s.Board == board && s.Part == part {
			s.Latency, s.LatencyUnit = *d.Latency, *d.LatencyUnit
			return nil
		}
	}
	return fmt.Errorf("no part %s on board %s", part, board)
}

// offered are the sensors as the boards declare them now.
func (w *world) offered() []scenarios.Sensor {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.sensors)
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

func (w *world) step(ctx context.Context, n int64) error {
	if err := w.deliverLate(); err != nil {
		return err
	}
	all := w.offered()
	for _, p := range w.env.Providers {
		objects := p.Admin.(client.Client)
		routes, err := w.report(ctx, p, objects, all)
		if err != nil {
			return err
		}
		if err := w.keepRules(ctx, objects, routes); err != nil {
			return err
		}
		for _, s := range all {
			if s.Provider != p.Name {
				continue
			}
			now := sample{Sensor: s, epoch: 7, time: time.Now().UnixNano(), values: measure(s, n), delay: 5}
			if d, ok := w.behaves[s.Board]; ok {
				now.delay = d
			}
			if w.restartAfter > 0 && n > w.restartAfter && s.Board == w.env.Sensors[0].Board {
				now.epoch = 8
			}
			if err := appendTo(p.BoardsJournal, now.journal()); err != nil {
				return err
			}
			if err := w.mapper(p, now, n, routes); err != nil {
				return err
			}
		}
	}
	return nil
}

// mapper publishes what it makes of a reading, and has it delivered.
func (w *world) mapper(p scenarios.Provider, emitted sample, n int64, routes map[string][]string) error {
	emitted.seq = n
	published := []sample{encoded(emitted)}
	if w.publish != nil {
		published = w.publish(encoded(emitted))
	}
	for _, now := range published {
		key := fmt.Sprint(now.UID, now.epoch)
		w.seqs[key]++
		now.seq = w.seqs[key]
		latency := now.delay + 0.3
		if w.latency != nil {
			latency = w.latency(now)
		}
		if err := appendTo(p.Journals[now.Nodes[0]], now.line("", latency)); err != nil {
			return err
		}
		for _, to := range routes[scenarios.Name(now.Sensor)] {
			all := []delivery{{to, now, latency}}
			if w.deliver != nil {
				all = w.deliver(to, now)
			}
			for _, d := range all {
				d.latency = latency
				if err := w.arrive(d); err != nil {
					return err
				}
			}
			if w.late != nil {
				for _, d := range w.late(to, now) {
					d.latency = latency
					w.queue = append(w.queue, timed{time.Now().Add(stdcmp.Or(w.lateBy, lateBy)), d})
				}
			}
		}
	}
	return nil
}

func (w *world) deliverLate() error {
	for len(w.queue) > 0 && time.Now().After(w.queue[0].at) {
		if err := w.arrive(w.queue[0].delivery); err != nil {
			return err
		}
		w.queue = w.queue[1:]
	}
	return nil
}

// report on all DataPaths, and say where each sensor's samples go.
func (w *world) report(ctx context.Context, p scenarios.Provider, objects client.Client, all []scenarios.Sensor) (map[string][]string, error) {
	choose := w.choose
	if choose == nil {
		choose = sensor.Select
	}
	var list sensors.DataPathList
	if err := objects.List(ctx, &list); err != nil {
		return nil, err
	}
	served := list.Items
	if w.deaf {
		for _, dp := range list.Items {
			w.seen[dp.Namespace+"/"+dp.Name] = dp
		}
		for _, key := range slices.Sorted(maps.Keys(w.seen)) {
			gone := !slices.ContainsFunc(list.Items, func(dp sensors.DataPath) bool { return dp.Namespace+"/"+dp.Name == key })
			run := w.seen[key].Labels[sensors.LabelRun]
			if gone && strings.Contains(key, "/m-"+run+"-s1") && slices.ContainsFunc(list.Items, func(dp sensors.DataPath) bool {
				return strings.HasPrefix(dp.Name, "m-"+run+"-witness")
			}) {
				served = append(served, w.seen[key])
			}
		}
	}
	routes := map[string][]string{}
	for i := range served {
		dp := &served[i]
		st := sensors.DataPathStatus{}
		var misses []near
		for _, s := range all {
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
				misses = append(misses, near{sensors.Miss{Sensor: scenarios.Name(s), Reason: v.Reason}, v.Met, v.Distance})
			}
		}
		if w.mute || i >= len(list.Items) {
			continue
		}
		misorder := w.misorder
		if misorder == nil {
			misorder = func(a, b near) int { return stdcmp.Or(b.met-a.met, stdcmp.Compare(a.distance, b.distance)) }
		}
		slices.SortStableFunc(misses, misorder)
		for _, m := range misses[:min(5, len(misses))] {
			st.Misses = append(st.Misses, m.Miss)
		}
		is := metav1.ConditionFalse
		if st.Matched > 0 {
			is = metav1.ConditionTrue
		}
		for _, c := range []string{sensors.ConditionMatched, sensors.ConditionReady} {
			st.Conditions = append(st.Conditions, metav1.Condition{Type: c, Status: is, Reason: "World", ObservedGeneration: dp.Generation, LastTransitionTime: metav1.NewTime(time.Unix(1, 0))})
		}
		if equality.Semantic.DeepEqual(dp.Status, st) {
			continue
		}
		dp.Status = st
		if err := objects.Status().Update(ctx, dp); client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
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
	line := d.line(endpoint, d.latency)
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
		out[one.UID] = max(out[one.UID], one.Time)
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
		d := delivery{to: to, sample: s}
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

// everySeventh applies a fault of the mapper to every seventh sample.
func everySeventh(fault func(sample) []sample) func(sample) []sample {
	return func(s sample) []sample {
		if s.seq%7 == 0 {
			return fault(s)
		}
		return []sample{s}
	}
}

// scaled multiplies every value.
func scaled(by float64) func(sample) []sample {
	return func(s sample) []sample {
		for field := range s.values {
			s.values[field] *= by
		}
		return []sample{s}
	}
}

func TestAssertionsTellFaultsApart(t *testing.T) {
	drop := func(delivery) []delivery { return nil }
	double := func(d delivery) []delivery { return []delivery{d, d} }
	alter := func(d delivery) []delivery {
		d.values = map[string]float64{}
		for field := range fieldsOf[d.Part] {
			d.values[field] = -1
		}
		return []delivery{d}
	}
	move := func(where string) func(delivery) []delivery {
		return func(d delivery) []delivery { d.to = where; return []delivery{d} }
	}
	copied := func(where string) func(delivery) []delivery {
		return func(d delivery) []delivery { return []delivery{d, {to: where, sample: d.sample}} }
	}
	delivered := []string{"M1", "M2", "M3", "M4", "M5", "L1", "L2", "L5"}
	everything := append(slices.Clone(delivered), "T1")
	tests := []struct {
		name  string
		fault func(*world)
		want  map[string]string
		// also may fail, by what comes late into a later window.
		also []string
	}{
		{name: "none", fault: func(*world) {}, want: fails()},
		{name: "drop at b", fault: func(w *world) { w.deliver = to("consumer-1/b", drop) }, want: fails("M1", "M5", "T1")},
		{name: "double at b", fault: func(w *world) { w.deliver = to("consumer-1/b", double) }, want: fails("M1", "M5")},
		{name: "late double at b", fault: func(w *world) {
			w.late = func(to string, s sample) []delivery {
				if to == "consumer-1/b" && s.seq%7 == 0 {
					return []delivery{{to: to, sample: s}}
				}
				return nil
			}
		}, want: fails("M1", "M5")},
		{name: "copied elsewhere when all is judged", fault: func(w *world) {
			w.lateBy = 600 * time.Millisecond
			w.late = func(to string, s sample) []delivery {
				if to == "consumer-2/a" {
					return []delivery{{to: "consumer-1/b", sample: s}}
				}
				return nil
			}
		}, want: fails("T1"), also: delivered},
		{name: "other readings at b", fault: func(w *world) { w.deliver = to("consumer-1/b", alter) }, want: fails("M1", "M5", "T1")},
		{name: "drop at a", fault: func(w *world) { w.deliver = to("consumer-1/a", drop) }, want: fails("M1", "M2", "M5", "L1", "L5", "T1")},
		{name: "double at the second consumer", fault: func(w *world) { w.deliver = to("consumer-2/a", double) }, want: fails("M2", "M3", "M4", "M5", "L2", "L5")},
		{name: "misrouted to another consumer", fault: func(w *world) { w.deliver = to("consumer-2/a", move("consumer-1/a")) }, want: fails(everything...)},
		{name: "copied from the witness", fault: func(w *world) { w.deliver = to("consumer-2/witness", copied("consumer-1/b")) }, want: fails(delivered...)},
		{name: "drop at the witness", fault: func(w *world) { w.deliver = to("consumer-1/witness", drop) }, want: fails()},
		{name: "inclusive bound", fault: func(w *world) { w.choose = inclusive }, want: fails("L1", "L2", "L5")},
		{name: "text comparison", fault: func(w *world) { w.choose = textual }, want: fails("L1", "L2", "L4", "L5", "T1")},
		{name: "farthest misses", fault: func(w *world) {
			w.misorder = func(a, b near) int { return a.met - b.met }
		}, want: fails("L4")},
		{name: "misses by name", fault: func(w *world) {
			w.misorder = func(a, b near) int { return stdcmp.Or(b.met-a.met, strings.Compare(b.Sensor, a.Sensor)) }
		}, want: fails("L4")},
		{name: "a Rule too many", fault: func(w *world) { w.rule = true }, want: fails("L4")},
		{name: "offered twice", fault: func(w *world) {
			_, s2, s3 := scenarios.Disjoint(w.env)
			for _, s := range append(s2, s3...) {
				w.offer(w.env.Providers[0], s, "elsewhere", s.Device+"-"+s.Part+"-elsewhere")
			}
		}, want: map[string]string{"M3": scenarios.Fail}},
		{name: "goes on to serve who left", fault: func(w *world) { w.deaf = true }, want: map[string]string{"M4": scenarios.Fail}},
		{name: "scaled values", fault: func(w *world) { w.publish = scaled(1.5) }, want: fails("T1")},
		{name: "values half a percent off", fault: func(w *world) { w.publish = scaled(1.005) }, want: fails("T1")},
		{name: "one in five frames dropped before counting", fault: func(w *world) {
			w.publish = func(s sample) []sample {
				if s.seq%5 == 0 {
					return nil
				}
				return []sample{s}
			}
		}, want: fails(everything...)},
		{name: "a frame counted twice", fault: func(w *world) {
			w.publish = everySeventh(func(s sample) []sample {
				again := s
				again.time++
				return []sample{s, again}
			})
		}, want: fails(everything...)},
		{name: "a latency that is too small", fault: func(w *world) { w.latency = func(s sample) float64 { return s.delay / 2 } }, want: fails("T2")},
		{name: "a latency that is too large", fault: func(w *world) { w.latency = func(s sample) float64 { return s.delay + 4 } }, want: fails("T2")},
		{name: "a latency that is wrong in half of the samples", fault: func(w *world) {
			w.latency = func(s sample) float64 { return s.delay + 0.3 + float64(s.seq%2)*100 }
		}, want: map[string]string{"T2": scenarios.Fail, "L3": scenarios.Error}},
		{name: "slow boards", fault: func(w *world) {
			for _, s := range w.sensors {
				w.behaves[s.Board] = 40
			}
		}, want: fails("L3")},
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
				for _, r := range scenarios.Run(ctx, w.env, scenarios.All(), scenarios.Observer{}) {
					if r.Status != scenarios.Error || r.Reason == "" {
						t.Errorf("%s: %s: %s", r.Assertion, r.Status, r.Reason)
					}
				}
				w.nothingLeft()
				return
			}
			var told []string
			results := scenarios.Run(t.Context(), w.env, scenarios.All(), scenarios.Observer{End: func(r scenarios.Result) { told = append(told, r.Assertion) }})
			got := statuses(results)
			for _, id := range tt.also {
				delete(got, id)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("statuses (-want +got):\n%s\n%s", diff, reasons(results))
			}
			if diff := cmp.Diff([]string{"M1", "M2", "M3", "M4", "M5", "L1", "L2", "L5", "L3", "L4", "T1", "T2"}, told); diff != "" {
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
	results := scenarios.Run(t.Context(), w.env, scenarios.All(), scenarios.Observer{})
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
	for _, r := range scenarios.Run(t.Context(), w.env, as, scenarios.Observer{}) {
		// M4 and M5 have windows of their own, after that.
		if own := r.Assertion == "M4" || r.Assertion == "M5"; own && r.Status != scenarios.Pass ||
			!own && (r.Status != scenarios.Error || !strings.Contains(r.Reason, "board "+w.env.Sensors[0].Board)) {
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
	}{
		{"M1", 2 * len(s1)}, {"M2", 2 * len(s1)}, {"M3", len(s3)}, {"M4", len(s1) + len(s3)}, {"M5", 4*len(s1) + 2*len(s3)},
		{"L1", 2}, {"L2", 3}, {"L5", 1 + 3 + 2 + 3 + 3}, {"L3", 0}, {"L4", 0}, {"T1", 3*len(s1) + len(s3)}, {"T2", 0},
	} {
		as, err := scenarios.Select(strings.ToLower(tt.id))
		if err != nil {
			t.Fatal(err)
		}
		r := scenarios.Run(t.Context(), w.env, as, scenarios.Observer{})[0]
		if r.Status != scenarios.Pass {
			t.Errorf("%s: %s: %s", tt.id, r.Status, r.Reason)
		}
		if r.SharesWindow != "" {
			t.Errorf("%s: shares the window of %s", tt.id, r.SharesWindow)
		}
		if diff := cmp.Diff(r.Expected, r.Observed); diff != "" {
			t.Errorf("%s (-expected +observed):\n%s", tt.id, diff)
		}
		if diff := r.Differences(); len(diff) > 0 {
			t.Errorf("%s: differences %q", tt.id, diff)
		}
		if len(r.Expected.Streams) != tt.streams || r.Expected.Sensors == nil {
			t.Errorf("%s: %d streams, want %d; sensors %v", tt.id, len(r.Expected.Streams), tt.streams, r.Expected.Sensors)
		}
		for _, s := range r.Expected.Streams {
			if s.Count < 20 || !s.From.Before(s.To) || s.Sensor == "" || s.UID == "" {
				t.Errorf("%s: %+v", tt.id, s)
			}
		}
	}
	w.nothingChanged()
}

// With one consumer what nobody asked for still fails what is judged of it.
func TestOneConsumer(t *testing.T) {
	t.Parallel()
	top := extended(t, "tamper.yaml")
	top.Consumers = top.Consumers[:1]
	w := newWorld(t, top)
	_, s2, _ := scenarios.Disjoint(w.env)
	w.deliver = func(to string, s sample) []delivery {
		all := []delivery{{to: to, sample: s}}
		if to == "consumer-1/witness" && s.UID == s2[0].UID {
			all = append(all, delivery{to: "consumer-1/a", sample: s})
		}
		return all
	}
	w.run()
	as, err := scenarios.Select(scenarios.Multicast)
	if err != nil {
		t.Fatal(err)
	}
	results := scenarios.Run(t.Context(), w.env, as, scenarios.Observer{})
	want := map[string]string{"M1": scenarios.Fail, "M2": scenarios.Skip, "M3": scenarios.Skip, "M4": scenarios.Skip, "M5": scenarios.Skip}
	if diff := cmp.Diff(want, statuses(results)); diff != "" {
		t.Errorf("statuses (-want +got):\n%s\n%s", diff, reasons(results))
	}
}

func TestOneConsumerWithOneEndpoint(t *testing.T) {
	t.Parallel()
	top := extended(t, "tamper.yaml")
	top.Consumers = top.Consumers[1:]
	w := newWorld(t, top)
	w.run()
	results := scenarios.Run(t.Context(), w.env, scenarios.All(), scenarios.Observer{})
	want := map[string]string{"M1": scenarios.Skip, "M2": scenarios.Skip, "M3": scenarios.Skip, "M4": scenarios.Skip, "M5": scenarios.Skip}
	if diff := cmp.Diff(want, statuses(results)); diff != "" {
		t.Errorf("statuses (-want +got):\n%s\n%s", diff, reasons(results))
	}
}

// A board that joined since the topology was written is part of what is expected.
func TestBoardsThatJoinedAreExpected(t *testing.T) {
	t.Parallel()
	top := extended(t, "tamper.yaml")
	joined := top.Providers[0].Boards[0]
	top.Providers[0].Boards = top.Providers[0].Boards[1:]
	w := newWorld(t, top)
	before := len(w.sensors)
	late := *top
	late.Providers = slices.Clone(top.Providers)
	late.Providers[0].Boards = append(slices.Clone(top.Providers[0].Boards), joined)
	w.sensors = scenarios.SensorsOf(&late)
	w.env.Providers[0].Boards = control{w, late.Providers[0]}
	for _, s := range w.sensors {
		if s.Board == joined.Name {
			w.offer(w.env.Providers[0], s, s.Nodes[0], s.Device+"-"+s.Part)
		}
	}
	w.run()
	results := scenarios.Run(t.Context(), w.env, scenarios.All(), scenarios.Observer{})
	if diff := cmp.Diff(fails(), statuses(results)); diff != "" {
		t.Errorf("statuses (-want +got):\n%s\n%s", diff, reasons(results))
	}
	if n := len(w.env.Sensors); n != before+3 {
		t.Errorf("%d sensors, %d were there before it joined", n, before)
	}
	for _, r := range results {
		if r.Assertion == "L1" && !slices.ContainsFunc(r.Expected.Sensors, func(s scenarios.SensorName) bool { return s.Sensor == joined.Name+"/hts221" }) {
			t.Errorf("L1 expects %v", r.Expected.Sensors)
		}
	}
}

// A run that ends while a board declares something else sets it back.
func TestInterruptedRunSetsBoardsBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, extended(t, "tamper.yaml"))
	w.env.LeaveGrace = time.Hour
	w.run()
	as, err := scenarios.Select("L5")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan []scenarios.Result)
	go func() { done <- scenarios.Run(ctx, w.env, as, scenarios.Observer{}) }()
	for !w.changed() {
		select {
		case r := <-done:
			t.Fatalf("ended by itself: %+v", r)
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	if r := (<-done)[0]; r.Status != scenarios.Error || !strings.Contains(r.Reason, "interrupted") {
		t.Errorf("%s: %s", r.Status, r.Reason)
	}
	w.nothingChanged()
	w.nothingLeft()
}

// A run that is killed there leaves the next one to set the board back.
func TestKilledRunIsUndone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, extended(t, "tamper.yaml"))
	w.run()
	victim := w.env.Sensors[slices.IndexFunc(w.env.Sensors, func(s scenarios.Sensor) bool { return s.Part == "hts221" })]
	was := fmt.Sprintf(`{"provider":%q,"board":%q,"part":%q,"latency":%q,"latencyUnit":%q}`, victim.Provider, victim.Board, victim.Part, victim.Latency, victim.LatencyUnit)
	if err := os.WriteFile(w.env.LockFile+".undo", []byte(was), 0o600); err != nil {
		t.Fatal(err)
	}
	latency, unit := "20", "ms"
	if err := w.env.Providers[0].Boards.Declare(t.Context(), victim.Board, victim.Part, boards.Declared{Latency: &latency, LatencyUnit: &unit}); err != nil {
		t.Fatal(err)
	}
	as, err := scenarios.Select("L1")
	if err != nil {
		t.Fatal(err)
	}
	if r := scenarios.Run(t.Context(), w.env, as, scenarios.Observer{})[0]; r.Status != scenarios.Pass {
		t.Errorf("%s: %s", r.Status, r.Reason)
	}
	w.nothingChanged()
	if _, err := os.Stat(w.env.LockFile + ".undo"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is to be undone is still written down: %v", err)
	}
}

// What befell the testbed is named where something is wrong.
func TestIncidents(t *testing.T) {
	t.Parallel()
	w := newWorld(t, extended(t, "tamper.yaml"))
	w.deliver = to("consumer-1/a", func(delivery) []delivery { return nil })
	began := time.Now()
	w.env.Components = func(context.Context) ([]testbed.Component, error) {
		return []testbed.Component{
			{Name: "provider-1/relay", Ready: true, Restarts: 1, StartedAt: time.Now(), LastEnd: "ended with signal: killed"},
			{Name: "provider-1/erm", Ready: true, Restarts: 3, StartedAt: began.Add(-time.Hour)},
			{Name: "provider-1/router", Reason: "connection refused"},
			{Name: "consumer-1/telegraf", Ready: true, StartedAt: began.Add(-time.Hour)},
		}, nil
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "edge-1"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: "NodeStatusUnknown", LastTransitionTime: metav1.Now()}}}}
	if err := w.env.Providers[0].Admin.(client.Client).Create(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	w.env.Providers[0].Boards = faulty{control{w, w.env.Topology.Providers[0]}}
	w.run()
	as, err := scenarios.Select("M1")
	if err != nil {
		t.Fatal(err)
	}
	r := scenarios.Run(t.Context(), w.env, as, scenarios.Observer{Begin: func(scenarios.Assertion) {
		// Read by who follows, for it stands behind what was there at the beginning.
		w.event(`event,board=stwinkt1b-2,device=d kind="fault",detail="reboot"`)
	}})[0]
	if r.Status != scenarios.Fail {
		t.Fatalf("%s: %s", r.Status, r.Reason)
	}
	var got []string
	for _, i := range r.Incidents {
		got = append(got, i.Subject+" "+i.What)
	}
	slices.Sort(got)
	want := []string{
		"board stwinkt1b-1 has fault stuck hts221",
		"board stwinkt1b-2 has fault reboot",
		"provider-1/node edge-1 is cut off: NodeStatusUnknown",
		"provider-1/relay restarted: its last run ended with signal: killed",
		"provider-1/router is not ready: connection refused",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("incidents (-want +got):\n%s", diff)
	}
}

// faulty boards.
type faulty struct{ control }

func (f faulty) Boards(ctx context.Context) ([]boards.State, error) {
	all, err := f.control.Boards(ctx)
	all[0].Faults = []boards.Fault{{Kind: "stuck", Part: "hts221", Since: time.Unix(1, 0)}}
	return all, err
}

// event is written into the journal of the boards a while after it is asked for.
func (w *world) event(line string) {
	time.AfterFunc(300*time.Millisecond, func() {
		if err := appendTo(w.env.Providers[0].BoardsJournal, fmt.Sprintf("%s %d\n", line, time.Now().UnixNano())); err != nil {
			w.t.Error(err)
		}
	})
}

// changed tells whether a board declares something else than at the beginning.
func (w *world) changed() bool {
	return !cmp.Equal(w.offered(), scenarios.SensorsOf(w.env.Topology))
}

func (w *world) nothingChanged() {
	w.t.Helper()
	if diff := cmp.Diff(scenarios.SensorsOf(w.env.Topology), w.offered()); diff != "" {
		w.t.Errorf("boards declare something else (-before +now):\n%s", diff)
	}
}

func TestSelect(t *testing.T) {
	for name, want := range map[string]int{"all": 12, "multicast": 5, "latency-filter": 5, "truth": 2, "L4": 1} {
		if as, err := scenarios.Select(name); err != nil || len(as) != want {
			t.Errorf("%s: %d assertions, %v", name, len(as), err)
		}
	}
	if _, err := scenarios.Select("L6"); err == nil || !strings.Contains(err.Error(), "L4") {
		t.Errorf("L6: error %v", err)
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
