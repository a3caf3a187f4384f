package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fluidos-edge/testbed/scenarios/ledger"
)

// Parts that DataPaths play in the multicast scenario.
const (
	partS1      = "s1"
	partS3      = "s3"
	partWitness = "witness"
)

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
func (e *Env) multicast(ctx context.Context) (*session, cast, error) {
	c, err := e.cast()
	if err != nil {
		return nil, c, err
	}
	s, err := e.open(ctx, Multicast, func() (arrangement, error) {
		a := arrangement{question: c.sets.all()}
		a.wishes = byUID(partS1, "m-"+e.Run+"-s1", c.first.Name, c.first.own(), c.sets.s1)
		for _, o := range c.others {
			a.wishes = append(a.wishes, byUID(partS1, "m-"+e.Run+"-s1", o.Name, o.own()[:1], c.sets.s1)...)
		}
		if c.second.Name != "" {
			a.wishes = append(a.wishes, byUID(partS3, "m-"+e.Run+"-s3", c.second.Name, c.second.own()[:1], c.sets.s3)...)
		}
		return e.withWitnesses("m-"+e.Run+"-witness", a)
	})
	return s, c, err
}

// withWitnesses adds what the fence stands on.
func (e *Env) withWitnesses(name string, a arrangement) (arrangement, error) {
	for _, c := range e.Consumers {
		w, ok := c.witness()
		if !ok {
			return a, fmt.Errorf("the sink of %s has no witness endpoint", c.Name)
		}
		a.wishes = append(a.wishes, byUID(partWitness, name, c.Name, []Endpoint{w}, a.question)...)
	}
	return a, nil
}

// window is the first window of a session: of all its sensors, streams and endpoints.
// Assertions that need no other share it.
func (s *session) window(ctx context.Context, id string) (*judged, error) {
	if s.firstBy == "" {
		s.firstBy = id
		after := time.Now()
		sp, err := s.observe(ctx, s.question, after, s.env.Samples)
		if err == nil {
			s.first, err = s.judge(ctx, sp, after, streams(s.asked()), s.env.endpointsOf(s.env.Consumers...))
		}
		s.firstErr = err
	}
	return s.first, s.firstErr
}

// asked are the session's DataPaths without those of the witnesses.
func (s *session) asked() []*wish {
	return slices.DeleteFunc(slices.Clone(s.wishes), func(w *wish) bool { return w.is(partWitness) })
}

// byWindow judges some of a session's DataPaths by its first window: their streams that
// concern the assertion, and whatever was delivered that nobody asked for.
func (s *session) byWindow(ctx context.Context, id string, wishes []*wish, concerns func(ledger.Account) bool) (Result, error) {
	r := Result{since: s.began}
	s.selection(&r, wishes)
	if !s.served {
		return s.unserved(r, wishes)
	}
	j, err := s.window(ctx, id)
	if err != nil {
		return r, err
	}
	if s.firstBy != id {
		r.SharesWindow = s.firstBy
	}
	own := streams(wishes)
	r.take(s.env, j, func(a ledger.Account) bool {
		return !a.Expected || concerns(a) && slices.Contains(own, a.Stream)
	})
	if len(r.Expected.Streams) == 0 {
		return r, errors.New("not judged: no stream was expected")
	}
	return r.verdict(), nil
}

// selection of some DataPaths, as it should be and as it is.
func (s *session) selection(r *Result, wishes []*wish) {
	for _, w := range wishes {
		for _, sensor := range w.want {
			r.Expected.Sensors = append(r.Expected.Sensors, s.env.sensorName(sensor.UID))
		}
		r.Observed.Sensors = append(r.Observed.Sensors, s.env.selected(w)...)
		if w.problem != "" {
			r.problem(w.problem)
		}
	}
	for _, o := range []*Observation{&r.Expected, &r.Observed} {
		slices.SortFunc(o.Sensors, func(a, b SensorName) int { return strings.Compare(a.Sensor, b.Sensor) })
		o.Sensors = slices.Compact(o.Sensors)
	}
}

// unserved is the verdict on DataPaths of a session that was not served as a whole: those
// that select wrongly fail, the others cannot be judged.
func (s *session) unserved(r Result, wishes []*wish) (Result, error) {
	if r.Reason != "" && slices.ContainsFunc(wishes, func(w *wish) bool { return w.problem != "" }) {
		return r.verdict(), nil
	}
	for _, w := range s.wishes {
		if !w.served() {
			return r, errors.New("not judged: another DataPath of the scenario is not served: " + joinLines(w.problem, w.describe()))
		}
	}
	return r, errors.New("not judged: another DataPath of the scenario is not served")
}

// selected sensors of a DataPath as its status lists them.
func (e *Env) selected(w *wish) []SensorName {
	var out []SensorName
	if w.seen == nil {
		return nil
	}
	if st := w.seen.Status; st.Matched > len(st.Sensors) && w.problem == "" {
		for _, s := range w.want { // the list is cut off, and what there is of it is right
			out = append(out, e.sensorName(s.UID))
		}
		return out
	}
	for _, name := range w.seen.Status.Sensors {
		n := SensorName{Sensor: name}
		for _, s := range e.Sensors {
			if s.Provider == w.provider && s.name() == name {
				n = e.sensorName(s.UID)
			}
		}
		out = append(out, n)
	}
	return out
}

// problem adds a line to what is wrong.
func (r *Result) problem(line string) { r.Reason = joinLines(r.Reason, line) }

// take in the accounts of a window that concern the result.
func (r *Result) take(e *Env, j *judged, concerns func(ledger.Account) bool) {
	for _, a := range j.verdict.Streams {
		if !concerns(a) {
			continue
		}
		s := Stream{Endpoint: a.Endpoint, SensorName: e.sensorName(a.UID), From: clock(a.From), To: clock(a.To), Count: a.Count,
			Doubled: a.Doubled, Unexpected: a.Unexpected}
		for _, t := range a.Missing {
			s.Missing = append(s.Missing, clock(t))
		}
		r.Observed.Streams = append(r.Observed.Streams, s)
		if a.Expected {
			s.Count, s.Missing, s.Doubled, s.Unexpected = j.windows[a.UID].Size(), nil, 0, 0
			r.Expected.Streams = append(r.Expected.Streams, s)
		}
		if p := a.Problem(); p != "" {
			r.problem(fmt.Sprintf("%s of %s, %s to %s: %s", a.Endpoint, e.label(a.UID), ledger.Clock(a.From), ledger.Clock(a.To), p))
		}
	}
	for _, note := range j.notes {
		if !slices.Contains(r.Notes, note) {
			r.Notes = append(r.Notes, note)
		}
	}
}

func clock(ns int64) time.Time { return time.Unix(0, ns).UTC() }

// verdict is a pass if there is no problem.
func (r Result) verdict() Result {
	r.Status = Pass
	if r.Reason != "" {
		r.Status = Fail
	}
	return r
}

func judgeM1(ctx context.Context, e *Env) (Result, error) {
	if c, err := e.cast(); err == nil && len(c.first.own()) < 2 {
		return Result{}, skipped("no consumer has two endpoints")
	}
	s, c, err := e.multicast(ctx)
	if err != nil {
		return Result{}, err
	}
	return s.byWindow(ctx, "M1", s.named(partS1, c.first.Name), func(a ledger.Account) bool {
		return strings.HasPrefix(a.Endpoint, c.first.Name+"/")
	})
}

func judgeM2(ctx context.Context, e *Env) (Result, error) {
	if len(e.Consumers) < 2 {
		return Result{}, skipped("there is only one consumer")
	}
	s, c, err := e.multicast(ctx)
	if err != nil {
		return Result{}, err
	}
	// One endpoint of each consumer: the others are M1's.
	at := []string{c.first.Name + "/" + c.first.own()[0].Name}
	for _, o := range c.others {
		at = append(at, o.Name+"/"+o.own()[0].Name)
	}
	return s.byWindow(ctx, "M2", s.named(partS1, ""), func(a ledger.Account) bool { return slices.Contains(at, a.Endpoint) })
}

func judgeM3(ctx context.Context, e *Env) (Result, error) {
	if len(e.Consumers) < 2 {
		return Result{}, skipped("there is only one consumer")
	}
	s, c, err := e.multicast(ctx)
	if err != nil {
		return Result{}, err
	}
	return s.byWindow(ctx, "M3", s.named(partS3, c.second.Name), func(ledger.Account) bool { return true })
}

// parting is a multicast session from which the first consumer has left.
type parting struct {
	*session
	cast cast
	// wishes that left.
	gone []*wish
}

// parting has the first consumer leave, unless it has.
func (e *Env) parting(ctx context.Context) (parting, error) {
	if len(e.Consumers) < 2 {
		return parting{}, skipped("there is only one consumer")
	}
	s, c, err := e.multicast(ctx)
	if err != nil {
		return parting{}, err
	}
	p := parting{session: s, cast: c}
	if !s.served {
		_, err := s.unserved(Result{}, nil)
		return p, err
	}
	p.gone = byUID(partS1, "m-"+e.Run+"-s1", c.first.Name, c.first.own(), c.sets.s1)
	if s.leftAt.IsZero() {
		s.leaving = time.Now()
		if err := s.leave(ctx, s.named(partS1, c.first.Name)); err != nil {
			return p, err
		}
		s.leftAt = time.Now()
	}
	return p, nil
}

// undisturbed judges that the other consumers lost nothing since a moment.
func (p parting) undisturbed(ctx context.Context, sp span, since time.Time, r *Result) error {
	var theirs []*wish
	for _, w := range p.asked() {
		if w.consumer != p.cast.first.Name {
			theirs = append(theirs, w)
		}
	}
	j, err := p.judge(ctx, sp, since, streams(theirs), p.env.endpointsOf(p.cast.others...))
	if err != nil {
		return err
	}
	r.take(p.env, j, func(ledger.Account) bool { return true })
	return nil
}

func judgeM4(ctx context.Context, e *Env) (Result, error) {
	r := Result{since: time.Now()}
	p, err := e.parting(ctx)
	if err != nil {
		return r, err
	}
	after := p.leftAt.Add(e.LeaveGrace)
	sp, err := p.observe(ctx, p.question, after, e.Samples)
	if err != nil {
		return r, err
	}
	// From the grace's end on nothing at the endpoints of who left.
	j, err := p.judge(ctx, sp, after, nil, e.endpointsOf(p.cast.first))
	if err != nil {
		return r, err
	}
	r.take(e, j, func(ledger.Account) bool { return true })
	if err := p.undisturbed(ctx, sp, p.leaving, &r); err != nil {
		return r, err
	}
	r.Notes = append(r.Notes, fmt.Sprintf("%s had left at %s; judged from %s on", p.cast.first.Name, ledger.Clock(p.leftAt.UnixNano()), ledger.Clock(after.UnixNano())))
	return r.verdict(), nil
}

func judgeM5(ctx context.Context, e *Env) (Result, error) {
	r := Result{since: time.Now()}
	p, err := e.parting(ctx)
	if err != nil {
		return r, err
	}
	since, asked := p.leftAt, time.Now()
	if err := p.join(ctx, p.gone); err != nil {
		return r, err
	}
	p.leftAt = time.Time{}
	if err := e.await(ctx, p.wishes); err != nil {
		return r, err
	}
	p.selection(&r, p.gone)
	if !slices.ContainsFunc(p.gone, func(w *wish) bool { return !w.served() }) {
		took, err := p.resumed(ctx, streams(p.gone), asked)
		if err != nil {
			return r, err
		}
		r.Notes = append(r.Notes, fmt.Sprintf("its data had resumed %.1f s after it asked again", took.Seconds()))
	} else {
		return p.unserved(r, p.gone)
	}
	after := time.Now()
	sp, err := p.observe(ctx, p.question, after, e.Samples)
	if err != nil {
		return r, err
	}
	j, err := p.judge(ctx, sp, after, streams(p.asked()), e.endpointsOf(e.Consumers...))
	if err != nil {
		return r, err
	}
	r.take(e, j, func(ledger.Account) bool { return true })
	if err := p.undisturbed(ctx, sp, since, &r); err != nil {
		return r, err
	}
	return r.verdict(), nil
}

// resumed waits until something that was emitted after a moment has arrived in every
// stream, and returns how long after it that was.
func (s *session) resumed(ctx context.Context, all []ledger.Stream, after time.Time) (time.Duration, error) {
	var took time.Duration
	err := poll(ctx, lookEvery, deadline(s.question, 1), "data to resume", func(context.Context) (bool, string, error) {
		if err := s.reader.read(); err != nil {
			return false, "", err
		}
		for _, stream := range all {
			if s.reader.last[stream] <= after.UnixNano() {
				return false, fmt.Sprintf("nothing yet of %s at %s", s.env.label(stream.UID), stream.Endpoint), nil
			}
		}
		took = time.Since(after)
		return true, "", nil
	})
	return took, err
}
