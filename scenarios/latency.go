package scenarios

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	rules "github.com/fluidos-edge/testbed/controllers/api/rules/v1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/scenarios/ledger"
)

// Bounds of the latency filter.
const (
	lowBound  = 16 * time.Millisecond
	highBound = 25 * time.Millisecond
	// noneBound is below what any sensor of a usual topology declares.
	noneBound = 5 * time.Millisecond
	// between is declared for a while by a board of L1's set: above the low bound and
	// below the high one.
	between = 20 * time.Millisecond
)

const (
	// percentile of L3, and how many readings of a sensor it is of at least.
	percentile        = 0.95
	percentileSamples = 60
	// maxMachineDelay in ms is how much later than the board's own delay a reading may reach the
	// mapper and still count for L3.
	maxMachineDelay = 6.0
	// maxSetAside is the share of readings that may be set aside for that.
	maxSetAside = 1.0 / 3
	// percentileExtra is for how many times as many readings L3 waits where some were
	// late, and percentilePatience for how long at least.
	percentileExtra    = 2
	percentilePatience = 30 * time.Second
)

// Parts that DataPaths play in the latency filter.
const (
	partL1 = "l1"
	partL2 = "l2"
	partL4 = "l4"
)

// filter of the latency scenario.
func filter(bound time.Duration) []sensors.Requirement {
	maker, lt := manufacturer, fmt.Sprintf("%gms", float64(bound)/float64(time.Millisecond))
	return []sensors.Requirement{
		{Field: "type.sensorType", In: []string{"Humidity"}},
		{Field: "manufacturer", Equals: &maker},
		{Field: "latency", Lt: &lt},
	}
}

// filtering is one DataPath at each provider.
func (e *Env) filtering(part, consumer string, endpoint Endpoint, bound time.Duration) []*wish {
	var out []*wish
	for _, p := range e.Providers {
		out = append(out, &wish{
			part: part, name: "l-" + e.Run + "-" + part, provider: p.Name, consumer: consumer, endpoints: []Endpoint{endpoint},
			requirements: filter(bound), want: where(e.Sensors, func(s Sensor) bool { return s.Provider == p.Name && s.filtered(bound) }),
		})
	}
	return out
}

// place is where a bound's data goes.
type place struct {
	consumer string
	endpoint Endpoint
}

func (p place) String() string { return p.consumer + "/" + p.endpoint.Name }

// latencyFilter asks for both bounds, if there are two endpoints to tell them apart;
// otherwise for the one of an assertion.
func (e *Env) latencyFilter(ctx context.Context, part string) (*session, map[string]place, error) {
	bounds := map[string]time.Duration{partL1: lowBound, partL2: highBound}
	if len(where(e.Sensors, func(s Sensor) bool { return s.filtered(bounds[part]) })) == 0 {
		return nil, nil, skipped(fmt.Sprintf("no humidity sensor of %s declares a latency below %s", manufacturer, bounds[part]))
	}
	var places []place
	for _, c := range e.Consumers {
		places = append(places, place{c.Name, c.own()[0]})
	}
	for _, c := range e.Consumers {
		for _, ep := range c.own()[1:] {
			places = append(places, place{c.Name, ep})
		}
	}
	at, key := map[string]place{part: places[0]}, LatencyFilter+" "+part
	if len(places) > 1 {
		at, key = map[string]place{partL1: places[0], partL2: places[1]}, LatencyFilter
	}
	s, err := e.open(ctx, key, func() (a arrangement, err error) {
		needed := func(s Sensor) bool { return s.measures("Humidity") }
		if a.question, err = watched(e.Topology, e.Sensors, needed); err != nil {
			return a, err
		}
		for _, p := range sortedKeys(at) {
			a.wishes = append(a.wishes, e.filtering(p, at[p].consumer, at[p].endpoint, bounds[p])...)
		}
		return e.withWitnesses("l-"+e.Run+"-witness", a)
	})
	return s, at, err
}

func (e *Env) latency(ctx context.Context, id, part string) (Result, error) {
	s, _, err := e.latencyFilter(ctx, part)
	if err != nil {
		return Result{}, err
	}
	return s.byWindow(ctx, id, s.named(part, ""), func(ledger.Account) bool { return true })
}

func judgeL1(ctx context.Context, e *Env) (Result, error) { return e.latency(ctx, "L1", partL1) }

func judgeL2(ctx context.Context, e *Env) (Result, error) { return e.latency(ctx, "L2", partL2) }

// judgeL3 looks at what the sensors that L1 selects really take.
func judgeL3(ctx context.Context, e *Env) (Result, error) {
	s, _, err := e.latencyFilter(ctx, partL1)
	if err != nil {
		return Result{}, err
	}
	r := Result{since: s.began}
	if !s.served {
		return s.unserved(r, nil)
	}
	// The sensors that L1 should select; whether it does is L1's.
	var judged []Sensor
	for _, w := range s.named(partL1, "") {
		judged = append(judged, w.want...)
	}
	for _, sensor := range judged {
		r.Expected.Sensors = append(r.Expected.Sensors, e.sensorName(sensor.UID))
	}
	if len(judged) == 0 {
		return r, errors.New("not judged: L1 has no sensor")
	}
	r.Observed.Sensors = r.Expected.Sensors
	// A witness has their data, whatever L1 and L2 select.
	witness, _ := e.Consumers[0].witness()
	endpoints := []string{e.Consumers[0].Name + "/" + witness.Name}
	bound := float64(lowBound) / float64(time.Millisecond)
	if _, err := s.observe(ctx, judged, s.began, percentileSamples); err != nil {
		return r, err
	}
	// What a busy machine hands over late says nothing about a board: it is set aside, and
	// more readings are waited for.
	extra := percentilePatience
	for _, sensor := range judged {
		extra = max(extra, time.Duration(percentileExtra*percentileSamples/sensor.Rate*float64(time.Second)))
	}
	prompt, all := map[string][]float64{}, 0
	err = poll(ctx, 10*lookEvery, extra, fmt.Sprintf("%d readings of each sensor that the machine did not hand over late", percentileSamples), func(ctx context.Context) (bool, string, error) {
		windows, err := s.reader.windows(judged, s.began, nil)
		if err != nil {
			return false, "", err
		}
		stored, err := e.stored(ctx, s.began, endpoints)
		if err != nil {
			return false, err.Error(), nil
		}
		all = 0
		for _, sensor := range judged {
			prompt[sensor.UID] = nil
			said := 0
			for _, l := range ledger.Latencies([]ledger.Window{windows[sensor.UID]}, stored, latencyRounding) {
				said += len(l.Said)
				for i, ms := range l.Said {
					if ms-l.Delays[i] <= maxMachineDelay {
						prompt[sensor.UID] = append(prompt[sensor.UID], ms)
					}
				}
			}
			all += said
			if n := len(prompt[sensor.UID]); n < percentileSamples || float64(said-n) > maxSetAside*float64(said) {
				return false, fmt.Sprintf("%d of %d readings of %s; the others came more than %g ms later than the board's own delay", n, said, sensor, maxMachineDelay), nil
			}
		}
		return true, "", nil
	})
	if err != nil {
		return r, fmt.Errorf("not judged: %w", err)
	}
	worst, kept := 0.0, 0
	for _, sensor := range judged {
		p95 := ledger.Percentile(prompt[sensor.UID], percentile)
		worst, kept = max(worst, p95), kept+len(prompt[sensor.UID])
		if p95 >= bound {
			r.problem(fmt.Sprintf("%s declares %s %s and takes %.1f ms (p95 of %d readings), the bound is %g ms",
				sensor, sensor.Latency, sensor.LatencyUnit, p95, len(prompt[sensor.UID]), bound))
		}
	}
	r.Notes = append(r.Notes, fmt.Sprintf("the worst p95 of %d sensors is %.1f ms, the bound %g ms; of %d readings %d were set aside, which the machine handed over more than %g ms late",
		len(judged), worst, bound, all, all-kept, maxMachineDelay))
	return r.verdict(), nil
}

// judgeL5 sets what a board of L1's set declares above L1's bound, and back.
func judgeL5(ctx context.Context, e *Env) (r Result, err error) {
	r.since = time.Now()
	s, at, err := e.latencyFilter(ctx, partL1)
	if err != nil {
		return r, err
	}
	if !s.served {
		s.selection(&r, s.named(partL1, ""))
		return s.unserved(r, s.named(partL1, ""))
	}
	victim, control := Sensor{}, BoardControl(nil)
	for _, w := range s.named(partL1, "") {
		if len(w.want) > 0 && control == nil {
			victim, control = w.want[0], e.providerNamed(w.provider).Boards
		}
	}
	if control == nil {
		return r, skipped("the boards cannot be told to declare something else")
	}
	before := time.Now()
	undo, err := e.change(ctx, control, victim, fmt.Sprint(between.Milliseconds()), "ms")
	if err != nil {
		return r, err
	}
	l1 := s.named(partL1, "")
	selected := func(but string) { // what L1 should select
		for _, w := range l1 {
			w.want = where(e.Sensors, func(o Sensor) bool { return o.Provider == w.provider && o.filtered(lowBound) && o.UID != but })
		}
	}
	restored := false
	defer func() {
		if !restored {
			selected("")
			err = errors.Join(err, undo())
		}
	}()

	// It leaves L1's set, and after the grace no data of it goes there.
	selected(victim.UID)
	if err := e.await(ctx, l1); err != nil {
		return r, fmt.Errorf("after %s declares %s: %w", victim, between, err)
	}
	s.selection(&r, l1)
	if r.Reason != "" {
		return r.verdict(), nil
	}
	left := time.Now()
	after := left.Add(e.LeaveGrace)
	sp, err := s.observe(ctx, s.question, after, e.Samples)
	if err != nil {
		return r, err
	}
	j, err := s.judge(ctx, sp, after, streams(s.asked()), e.endpointsOf(e.Consumers...))
	if err != nil {
		return r, err
	}
	r.take(e, j, func(ledger.Account) bool { return true })

	// It returns, and its data follows.
	restored = true
	if err := undo(); err != nil {
		return r, err
	}
	asked := time.Now()
	selected("")
	if err := e.await(ctx, l1); err != nil {
		return r, fmt.Errorf("after %s declares %s %s again: %w", victim, victim.Latency, victim.LatencyUnit, err)
	}
	back := Result{}
	s.selection(&back, l1)
	if back.Reason != "" {
		r.problem(back.Reason)
		return r.verdict(), nil
	}
	returned := time.Since(asked)
	if _, err := s.resumed(ctx, []ledger.Stream{{Endpoint: at[partL1].String(), UID: victim.UID}}, asked); err != nil {
		return r, err
	}
	after = time.Now()
	if sp, err = s.observe(ctx, s.question, after, e.Samples); err != nil {
		return r, err
	}
	if j, err = s.judge(ctx, sp, after, streams(s.asked()), e.endpointsOf(e.Consumers...)); err != nil {
		return r, err
	}
	r.take(e, j, func(ledger.Account) bool { return true })

	if l2 := s.named(partL2, ""); len(l2) > 0 {
		if j, err = s.judge(ctx, sp, before, streams(l2), []string{at[partL2].String()}); err != nil {
			return r, err
		}
		r.take(e, j, func(ledger.Account) bool { return true })
	} else {
		r.Notes = append(r.Notes, "not judged: that L2 loses nothing, for there is one endpoint only")
	}
	r.Notes = append(r.Notes, fmt.Sprintf("%s was set to %d ms and back: it had left L1's set after %.1f s and was in it again after %.1f s",
		victim, between.Milliseconds(), left.Sub(before).Seconds(), returned.Seconds()))
	return r.verdict(), nil
}

// judgeL4 asks for what nothing meets, while nobody else of this run asks.
func judgeL4(ctx context.Context, e *Env) (Result, error) {
	bound := noneBound
	for _, s := range e.Sensors {
		if d, ok := s.latency(); ok && s.candidate() {
			bound = min(bound, d)
		}
	}
	r := Result{since: time.Now()}
	s, err := e.open(ctx, partL4, func() (arrangement, error) {
		return arrangement{wishes: e.filtering(partL4, e.Consumers[0].Name, e.Consumers[0].own()[0], bound)}, nil
	})
	if err != nil {
		return r, err
	}
	s.selection(&r, s.wishes)
	for _, w := range s.wishes {
		if w.problem == "" {
			for _, p := range e.misses(w, bound) {
				r.problem(p)
			}
		}
	}
	left, note, err := e.awaitNoRules(ctx)
	if err != nil {
		return r, err
	}
	if note != "" {
		r.Notes = append(r.Notes, note)
	}
	for _, p := range left {
		r.problem(p)
	}
	return r.verdict(), nil
}

// nearness of a sensor to a DataPath that it misses: how many requirements it misses,
// and how far it is from the bound, where that can be said.
type nearness struct {
	missed   int
	distance float64
}

func (n nearness) String() string {
	if math.IsInf(n.distance, 1) {
		return fmt.Sprintf("%d missed", n.missed)
	}
	return fmt.Sprintf("%d missed by %.0f %%", n.missed, 100*n.distance)
}

// misses says what is wrong with the nearest misses of a DataPath that selects
// nothing: they must be those that miss fewest of its requirements and, of these, the
// nearest to the bound, each with the reason.
func (e *Env) misses(w *wish, bound time.Duration) []string {
	const most = 5
	near := map[string]nearness{}
	var best, got []nearness
	for _, s := range where(e.Sensors, of(w.provider)) {
		var n nearness
		d, ok := s.latency()
		switch {
		case !ok:
			n = nearness{1, math.Inf(1)}
		case d >= bound:
			n = nearness{1, float64(d-bound) / float64(bound)}
		}
		for _, holds := range []bool{s.measures("Humidity"), strings.EqualFold(s.Manufacturer, manufacturer)} {
			if !holds {
				n.missed++
				n.distance = math.Inf(1)
			}
		}
		near[s.name()] = n
		best = append(best, n)
	}
	byNearness := func(a, b nearness) int {
		switch {
		case a.missed != b.missed:
			return a.missed - b.missed
		case a.distance < b.distance:
			return -1
		case a.distance > b.distance:
			return 1
		}
		return 0
	}
	slices.SortFunc(best, byNearness)
	best = best[:min(most, len(best))]
	var problems, listed []string
	for _, m := range w.seen.Status.Misses {
		n, ok := near[m.Sensor]
		if !ok {
			n = nearness{math.MaxInt, math.Inf(1)}
		}
		got = append(got, n)
		listed = append(listed, e.labelName(w.provider, m.Sensor))
		i := slices.IndexFunc(e.Sensors, func(s Sensor) bool { return s.Provider == w.provider && s.name() == m.Sensor })
		switch {
		case i < 0 || m.Reason == "":
			problems = append(problems, fmt.Sprintf("DataPath %s lists the miss %s because of %q", w, e.labelName(w.provider, m.Sensor), m.Reason))
		case e.Sensors[i].candidate() && !strings.Contains(m.Reason, "latency"):
			problems = append(problems, fmt.Sprintf("DataPath %s refuses %s, but not for its latency: %s", w, e.Sensors[i], m.Reason))
		}
	}
	if !slices.IsSortedFunc(got, byNearness) || !slices.Equal(got, best) {
		problems = append(problems, fmt.Sprintf("DataPath %s lists as nearest misses %s (requirements missed and distance to the bound: %v); the nearest have %v",
			w, strings.Join(listed, ", "), got, best))
	}
	return problems
}

// awaitNoRules waits until there are no Rules but those that other people's
// DataPaths need, and returns those that stay. note says what could not be judged: where
// a DataPath's status does not list all that it selects, any sensor on offer may have its
// Rule, but only one.
func (e *Env) awaitNoRules(ctx context.Context) (left []string, note string, err error) {
	err = poll(ctx, 2*lookEvery, e.RuleGrace, "Rules to go", func(ctx context.Context) (bool, string, error) {
		selected, unlisted, err := e.selectedByOthers(ctx)
		if err != nil {
			return false, err.Error(), nil
		}
		if note = ""; unlisted != "" {
			note = fmt.Sprintf("not judged: that no Rule is left of sensors on offer, for the status of DataPath %s does not list all that it selects", unlisted)
			for _, s := range e.Sensors {
				selected[s.Provider+"/"+s.name()] = true
			}
		}
		now := []string{}
		for _, p := range e.Providers {
			var list rules.RuleList
			if err := p.Admin.List(ctx, &list, client.InNamespace(p.Namespace)); err != nil {
				return false, fmt.Sprintf("rules of %s: %v", p.Name, err), nil
			}
			first := map[string]string{}
			for _, rule := range list.Items {
				name := rule.Labels[nodecore.LabelDevice] + "/" + rule.Labels[nodecore.LabelPart]
				switch other := first[name]; {
				case name == "/": // somebody else's
				case !selected[p.Name+"/"+name]:
					now = append(now, fmt.Sprintf("%s has Rule %s for %s, which nobody selects", p.Name, rule.Name, e.labelName(p.Name, name)))
				case other != "":
					now = append(now, fmt.Sprintf("%s has the Rules %s and %s for %s", p.Name, other, rule.Name, e.labelName(p.Name, name)))
				default:
					first[name] = rule.Name
				}
			}
		}
		left = now
		return len(left) == 0, strings.Join(left, "; "), nil
	})
	if err != nil && (left == nil || ctx.Err() != nil) {
		return nil, note, err
	}
	return left, note, nil
}
