package scenarios

import (
	"context"
	"errors"
	"fmt"
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
)

// ruleDeadline bounds how long Rules of an earlier arrangement may stay.
const ruleDeadline = 20 * time.Second

// judge an assertion by its own DataPaths and by the streams that concern it.
func (ev *evidence) judge(wishes []*wish, concerns func(ledger.Account) bool) (Result, error) {
	var r Result
	var problems []string
	expected := map[ledger.Stream]bool{}
	for _, w := range wishes {
		r.Expected.Sensors = append(r.Expected.Sensors, uids(w.want)...)
		r.Observed.Sensors = append(r.Observed.Sensors, w.selected()...)
		if w.problem != "" {
			problems = append(problems, w.problem)
		}
		for _, s := range w.streams() {
			expected[s] = true
		}
	}
	for _, o := range []*Observation{&r.Expected, &r.Observed} {
		slices.Sort(o.Sensors)
		o.Sensors = slices.Compact(o.Sensors)
	}
	if !ev.complete {
		if len(problems) == 0 {
			for _, w := range ev.wishes {
				if !w.served() {
					return r, errors.New("not judged: another DataPath of the scenario is not served: " + w.problem)
				}
			}
		}
		return r.verdict(problems), nil
	}
	for _, a := range ev.verdict.Streams {
		if !concerns(a) || a.Expected && !expected[a.Stream] {
			continue
		}
		s := Stream{Endpoint: a.Endpoint, Sensor: a.UID, From: a.From, To: a.To, Count: a.Count,
			Missing: a.Missing, Doubled: a.Doubled, Unexpected: a.Unexpected}
		r.Observed.Streams = append(r.Observed.Streams, s)
		if a.Expected {
			s.Count, s.Missing, s.Doubled, s.Unexpected = ev.windows[a.UID].Size(), nil, 0, 0
			r.Expected.Streams = append(r.Expected.Streams, s)
		}
		if p := a.Problem(); p != "" {
			problems = append(problems, p)
		}
	}
	if len(r.Expected.Streams) == 0 {
		return r, errors.New("not judged: no stream was expected")
	}
	return r.verdict(problems), nil
}

func (r Result) verdict(problems []string) Result {
	r.Status, r.Reason = Pass, ""
	if len(problems) > 0 {
		r.Status, r.Reason = Fail, strings.Join(problems, "\n")
	}
	return r
}

// selected sensors by uid, those that the topology knows.
func (w *wish) selected() []string {
	var out []string
	if w.seen == nil {
		return nil
	}
	if st := w.seen.Status; st.Matched > len(st.Sensors) && w.problem == "" {
		return uids(w.want) // the list is cut off, and what there is of it is right
	}
	for _, name := range w.seen.Status.Sensors {
		i := slices.IndexFunc(w.want, func(s Sensor) bool { return s.name() == name })
		if i >= 0 {
			name = w.want[i].UID
		}
		out = append(out, name)
	}
	return out
}

// cast is who plays what in the multicast scenario.
type cast struct {
	first  Consumer // with several endpoints if there is such a one
	second Consumer // gets S3
	others []Consumer
	sets   sets
}

func (e *Env) cast() (cast, error) {
	c := cast{sets: disjoint(e.Topology, e.Sensors)}
	i := max(0, slices.IndexFunc(e.Consumers, func(c Consumer) bool { return len(c.own()) > 1 }))
	for j, consumer := range e.Consumers {
		if j == i {
			c.first = consumer
		} else {
			c.others = append(c.others, consumer)
		}
	}
	if len(c.others) > 0 {
		c.second = c.others[0]
	}
	if len(c.sets.s1) == 0 || len(c.sets.s2) == 0 || len(c.sets.s3) == 0 {
		return c, skipped(fmt.Sprintf("three disjoint sets need three sensors; %d can be had within the nodes' throttles", len(c.sets.all())))
	}
	return c, nil
}

// multicast asks for S1 everywhere, for S3 at the second consumer, and for
// nothing of S2.
func (e *Env) multicast(ctx context.Context) (*evidence, cast, error) {
	c, err := e.cast()
	if err != nil {
		return nil, c, err
	}
	ev, err := e.gather(ctx, Multicast, func() (arrangement, error) {
		a := arrangement{question: c.sets.all()}
		a.wishes = byUID("m-"+e.Run+"-s1", c.first.Name, c.first.own(), c.sets.s1)
		for _, o := range c.others {
			a.wishes = append(a.wishes, byUID("m-"+e.Run+"-s1", o.Name, o.own()[:1], c.sets.s1)...)
		}
		if c.second.Name != "" {
			a.wishes = append(a.wishes, byUID("m-"+e.Run+"-s3", c.second.Name, c.second.own()[:1], c.sets.s3)...)
		}
		return e.withWitnesses("m-"+e.Run+"-witness", a)
	})
	return ev, c, err
}

// withWitnesses adds what the fence stands on.
func (e *Env) withWitnesses(name string, a arrangement) (arrangement, error) {
	for _, c := range e.Consumers {
		w, ok := c.witness()
		if !ok {
			return a, fmt.Errorf("the sink of %s has no witness endpoint", c.Name)
		}
		a.wishes = append(a.wishes, byUID(name, c.Name, []Endpoint{w}, a.question)...)
	}
	return a, nil
}

// named wishes of a consumer, of any consumer if that is "".
func (ev *evidence) named(suffix, consumer string) []*wish {
	var out []*wish
	for _, w := range ev.wishes {
		if strings.Contains(w.name, suffix) && (consumer == "" || consumer == w.consumer) {
			out = append(out, w)
		}
	}
	return out
}

func judgeM1(ctx context.Context, e *Env) (Result, error) {
	if c, err := e.cast(); err == nil && len(c.first.own()) < 2 {
		return Result{}, skipped("no consumer has two endpoints")
	}
	ev, c, err := e.multicast(ctx)
	if err != nil {
		return Result{}, err
	}
	return ev.judge(ev.named("-s1", c.first.Name), func(a ledger.Account) bool {
		return a.Expected && strings.HasPrefix(a.Endpoint, c.first.Name+"/")
	})
}

func judgeM2(ctx context.Context, e *Env) (Result, error) {
	if len(e.Consumers) < 2 {
		return Result{}, skipped("there is only one consumer")
	}
	ev, c, err := e.multicast(ctx)
	if err != nil {
		return Result{}, err
	}
	// One endpoint of each consumer: the others are M1's.
	at := []string{c.first.Name + "/" + c.first.own()[0].Name}
	for _, o := range c.others {
		at = append(at, o.Name+"/"+o.own()[0].Name)
	}
	return ev.judge(ev.named("-s1", ""), func(a ledger.Account) bool { return a.Expected && slices.Contains(at, a.Endpoint) })
}

func judgeM3(ctx context.Context, e *Env) (Result, error) {
	if len(e.Consumers) < 2 {
		return Result{}, skipped("there is only one consumer")
	}
	ev, c, err := e.multicast(ctx)
	if err != nil {
		return Result{}, err
	}
	// What is nowhere expected concerns this one, wherever it is: S2 at
	// anybody's, S3 at other consumers'.
	return ev.judge(ev.named("-s3", c.second.Name), func(ledger.Account) bool { return true })
}

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
func (e *Env) filtering(name, consumer string, endpoint Endpoint, bound time.Duration) []*wish {
	var out []*wish
	for _, p := range e.Providers {
		out = append(out, &wish{
			name: name, provider: p.Name, consumer: consumer, endpoints: []Endpoint{endpoint}, requirements: filter(bound),
			want: where(e.Sensors, func(s Sensor) bool { return s.Provider == p.Name && s.filtered(bound) }),
		})
	}
	return out
}

// latency judges one bound of the filter. Both bounds share an arrangement if
// there are two endpoints to tell them apart.
func (e *Env) latency(ctx context.Context, id string, bound time.Duration) (Result, error) {
	if len(where(e.Sensors, func(s Sensor) bool { return s.filtered(bound) })) == 0 {
		return Result{}, skipped(fmt.Sprintf("no humidity sensor of %s declares a latency below %s", manufacturer, bound))
	}
	type place struct {
		consumer string
		endpoint Endpoint
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
	at, key := map[string]place{"L1": places[0], "L2": places[0]}, id
	if len(places) > 1 {
		at["L2"], key = places[1], LatencyFilter
	}
	ev, err := e.gather(ctx, key, func() (a arrangement, err error) {
		needed := func(s Sensor) bool { return s.measures("Humidity") }
		if a.question, err = watched(e.Topology, e.Sensors, needed); err != nil {
			return a, err
		}
		for other, b := range map[string]time.Duration{"L1": lowBound, "L2": highBound} {
			if other == id || key == LatencyFilter {
				p := at[other]
				a.wishes = append(a.wishes, e.filtering("l-"+e.Run+"-"+strings.ToLower(other), p.consumer, p.endpoint, b)...)
			}
		}
		return e.withWitnesses("l-"+e.Run+"-witness", a)
	})
	if err != nil {
		return Result{}, err
	}
	endpoint := at[id].consumer + "/" + at[id].endpoint.Name
	return ev.judge(ev.named("-"+strings.ToLower(id), ""), func(a ledger.Account) bool { return a.Endpoint == endpoint })
}

func judgeL1(ctx context.Context, e *Env) (Result, error) { return e.latency(ctx, "L1", lowBound) }

func judgeL2(ctx context.Context, e *Env) (Result, error) { return e.latency(ctx, "L2", highBound) }

// judgeL4 asks for what nothing meets, while nobody else of this run asks.
func judgeL4(ctx context.Context, e *Env) (Result, error) {
	bound := noneBound
	for _, s := range e.Sensors {
		if d, ok := s.latency(); ok && s.candidate() {
			bound = min(bound, d)
		}
	}
	wishes := e.filtering("l-"+e.Run+"-l4", e.Consumers[0].Name, e.Consumers[0].own()[0], bound)
	var r Result
	err := e.withPaths(ctx, wishes, func(ctx context.Context) error {
		if err := e.await(ctx, wishes); err != nil {
			return err
		}
		var problems []string
		for _, w := range wishes {
			r.Observed.Sensors = append(r.Observed.Sensors, w.selected()...)
			if w.problem != "" {
				problems = append(problems, w.problem)
				continue
			}
			problems = append(problems, w.misses(e.Sensors, bound)...)
		}
		left, err := e.awaitNoRules(ctx)
		if err != nil {
			return err
		}
		r = r.verdict(append(problems, left...))
		return nil
	})
	return r, err
}

// misses says what is wrong with the nearest misses of a DataPath that selects
// nothing: they must be those that meet most of the filter, with the reason.
func (w *wish) misses(all []Sensor, bound time.Duration) []string {
	const most = 5
	met := map[string]int{}
	var best, got []int
	for _, s := range where(all, of(w.provider)) {
		d, ok := s.latency()
		for _, holds := range []bool{s.measures("Humidity"), strings.EqualFold(s.Manufacturer, manufacturer), ok && d < bound} {
			if holds {
				met[s.name()]++
			}
		}
		best = append(best, met[s.name()])
	}
	slices.SortFunc(best, func(a, b int) int { return b - a })
	best = best[:min(most, len(best))]
	var problems, listed []string
	for _, m := range w.seen.Status.Misses {
		got = append(got, met[m.Sensor])
		listed = append(listed, m.Sensor)
		i := slices.IndexFunc(all, func(s Sensor) bool { return s.Provider == w.provider && s.name() == m.Sensor })
		switch {
		case i < 0 || m.Reason == "":
			problems = append(problems, fmt.Sprintf("DataPath %s lists the miss %q because of %q", w, m.Sensor, m.Reason))
		case all[i].candidate() && !strings.Contains(m.Reason, "latency"):
			problems = append(problems, fmt.Sprintf("DataPath %s refuses %s, but not for its latency: %s", w, m.Sensor, m.Reason))
		}
	}
	slices.SortFunc(got, func(a, b int) int { return b - a })
	if !slices.Equal(got, best) {
		problems = append(problems, fmt.Sprintf("DataPath %s lists misses that meet %v of its requirements (%s); the nearest meet %v",
			w, got, strings.Join(listed, ", "), best))
	}
	return problems
}

// awaitNoRules waits until there are no Rules but those that other people's
// DataPaths need, and returns those that stay.
func (e *Env) awaitNoRules(ctx context.Context) ([]string, error) {
	var left []string
	err := poll(ctx, 2*lookEvery, ruleDeadline, "Rules to go", func(ctx context.Context) (bool, string, error) {
		selected, all, err := e.selectedByOthers(ctx)
		if err != nil {
			return false, err.Error(), nil
		}
		if all {
			return true, "", nil // any Rule may be theirs
		}
		now := []string{}
		for _, p := range e.Providers {
			var list rules.RuleList
			if err := p.Admin.List(ctx, &list, client.InNamespace(p.Namespace)); err != nil {
				return false, fmt.Sprintf("rules of %s: %v", p.Name, err), nil
			}
			for _, rule := range list.Items {
				name := rule.Labels[nodecore.LabelDevice] + "/" + rule.Labels[nodecore.LabelPart]
				if name != "/" && !selected[p.Name+"/"+name] {
					now = append(now, fmt.Sprintf("%s has Rule %s for %s, which nobody selects", p.Name, rule.Name, name))
				}
			}
		}
		left = now
		return len(left) == 0, strings.Join(left, "; "), nil
	})
	if err != nil && (left == nil || ctx.Err() != nil) {
		return nil, err
	}
	return left, nil
}
