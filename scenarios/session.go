package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fluidos-edge/testbed/scenarios/ledger"
)

// arrangement is what a scenario asks for: DataPaths, and the sensors in question, whose
// data all witnesses get.
type arrangement struct {
	wishes   []*wish
	question []Sensor
}

// session is an arrangement that is up: its DataPaths are there, and everything is
// followed. There is one at a time; assertions that follow one
// another and need the same arrangement share it.
type session struct {
	arrangement
	env    *Env
	key    string
	reader *reader
	began  time.Time
	// served is false if a DataPath that selects wrongly was not served: then the data
	// is not looked at.
	served bool
	// others are the DataPaths of other people that ask for a stream too, by stream.
	others map[ledger.Stream][]string

	// first is the window that several assertions are judged by, or why there is none;
	// firstBy is the assertion that opened it.
	first    *judged
	firstErr error
	firstBy  string
	// leaving is when the first consumer began to leave, and leftAt when it had; zero
	// while it has not.
	leaving, leftAt time.Time
}

// open a session, or go on with the one that is open.
func (e *Env) open(ctx context.Context, key string, arrange func() (arrangement, error)) (*session, error) {
	if err := e.failed[key]; err != nil {
		return nil, err
	}
	if e.session != nil && e.session.key == key {
		return e.session, nil
	}
	s, err := e.newSession(ctx, key, arrange)
	if err != nil {
		e.failed[key] = err
	}
	return s, err
}

func (e *Env) newSession(ctx context.Context, key string, arrange func() (arrangement, error)) (_ *session, err error) {
	if e.session != nil {
		if err := e.session.close(ctx); err != nil {
			return nil, err
		}
	}
	s := &session{env: e, key: key, began: time.Now()}
	if s.arrangement, err = arrange(); err != nil {
		return nil, err
	}
	e.session = s
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(ctx))
		}
	}()
	if err := e.removeRuns(ctx); err != nil {
		return nil, err
	}
	if s.reader, err = e.follow(); err != nil {
		return nil, err
	}
	if err := e.create(ctx, s.wishes); err != nil {
		return nil, err
	}
	if s.others, err = e.others(ctx); err != nil {
		return nil, err
	}
	if err := e.await(ctx, s.wishes); err != nil {
		return nil, err
	}
	s.served = !slices.ContainsFunc(s.wishes, func(w *wish) bool { return !w.served() })
	return s, nil
}

// close removes the session's DataPaths, also when ctx has ended.
func (s *session) close(ctx context.Context) error {
	if s.env.session != s {
		return nil
	}
	s.env.session = nil
	if s.reader != nil {
		_ = s.reader.read() // for the events; what it says has been said
		s.env.events = append(s.env.events, s.reader.events...)
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*removeDeadline)
	defer cancel()
	return s.env.removeRuns(end)
}

// leave removes some of the session's DataPaths, and returns when it is known that they
// are gone.
func (s *session) leave(ctx context.Context, wishes []*wish) error {
	if err := s.env.remove(ctx, wishes); err != nil {
		return err
	}
	s.wishes = slices.DeleteFunc(s.wishes, func(w *wish) bool { return slices.Contains(wishes, w) })
	return nil
}

// join makes some DataPaths again that left.
func (s *session) join(ctx context.Context, wishes []*wish) error {
	s.wishes = append(s.wishes, wishes...)
	return s.env.create(ctx, wishes)
}

// named wishes of a consumer, of any consumer if that is "".
func (s *session) named(part, consumer string) []*wish {
	return slices.DeleteFunc(slices.Clone(s.wishes), func(w *wish) bool {
		return !w.is(part) || consumer != "" && consumer != w.consumer
	})
}

// streams that some wishes should bring about.
func streams(wishes []*wish) []ledger.Stream {
	var out []ledger.Stream
	for _, w := range wishes {
		out = append(out, w.streams()...)
	}
	return out
}

// judged is one stretch of time with the verdict on it.
type judged struct {
	question   ledger.Question
	windows    map[string]ledger.Window // by uid
	verdict    ledger.Verdict
	mismatches []ledger.Mismatch
	latencies  []ledger.Latency
	strange    []string // lines of journals that are no samples, as text
	notes      []string
	since      time.Time
}

// span is a stretch of time up to the last judged reading of each sensor, all of it
// behind the fence.
type span struct {
	sensors []Sensor
	until   map[string]int64 // by uid
}

// observe waits until the boards have emitted enough of some sensors after a moment, and
// the fence stands behind that.
func (s *session) observe(ctx context.Context, sensors []Sensor, after time.Time, least int) (span, error) {
	sp := span{sensors: sensors, until: map[string]int64{}}
	r := s.reader
	what := fmt.Sprintf("%d readings of each of %d sensors to be emitted", least, len(sensors))
	err := poll(ctx, lookEvery, deadline(sensors, least), what, func(context.Context) (bool, string, error) {
		windows, err := r.windows(sensors, after, nil)
		if err != nil {
			return false, "", err
		}
		for _, sensor := range sensors {
			w := windows[sensor.UID]
			if n := w.Size(); n < least {
				return false, fmt.Sprintf("%d of %s", n, sensor), nil
			}
			sp.until[sensor.UID] = w.To
		}
		return true, "", nil
	})
	if err != nil {
		return sp, err
	}
	return sp, s.fence(ctx, sp, after)
}

// fence waits until every witness has recorded, and stored, what was emitted after the
// span.
func (s *session) fence(ctx context.Context, sp span, after time.Time) error {
	r := s.reader
	since := after.Add(-time.Second)
	return poll(ctx, 2*lookEvery, deadline(sp.sensors, 2*fenceReadings), "the witnesses to store what came after", func(ctx context.Context) (bool, string, error) {
		if _, err := r.windows(sp.sensors, after, sp.until); err != nil {
			return false, "", err
		}
		fenceTime := map[string]int64{}
		for _, sensor := range sp.sensors {
			t, ok := r.emittedAfter(sensor.UID, sp.until[sensor.UID], fenceReadings)
			if !ok {
				return false, fmt.Sprintf("%s has emitted nothing more", sensor), nil
			}
			fenceTime[sensor.UID] = t
		}
		for _, c := range s.env.Consumers {
			w, _ := c.witness()
			for _, sensor := range sp.sensors {
				if r.last[ledger.Stream{Endpoint: c.Name + "/" + w.Name, UID: sensor.UID}] < fenceTime[sensor.UID] {
					return false, fmt.Sprintf("%s's witness has not recorded %s of %s", c.Name, ledger.Clock(fenceTime[sensor.UID]), sensor), nil
				}
			}
		}
		for _, c := range s.env.Consumers {
			w, _ := c.witness()
			last, err := c.Store.Last(ctx, w.Name, since)
			if err != nil {
				return false, fmt.Sprintf("sink of %s: %v", c.Name, err), nil
			}
			for _, sensor := range sp.sensors {
				if last[sensor.UID] < fenceTime[sensor.UID] {
					return false, fmt.Sprintf("%s's witness has not stored %s of %s", c.Name, ledger.Clock(fenceTime[sensor.UID]), sensor), nil
				}
			}
		}
		return true, "", nil
	})
}

// judge a span from a moment on: these streams must be whole, and all others at these
// endpoints ("<consumer>/<endpoint>") empty. A verdict that does not hold is judged again
// for a while; one that does is looked at once more after two flush intervals, for a
// double may be late.
func (s *session) judge(ctx context.Context, sp span, after time.Time, expected []ledger.Stream, endpoints []string) (*judged, error) {
	now, err := s.env.others(ctx)
	if err != nil {
		return nil, err
	}
	for stream, names := range now {
		s.others[stream] = names
	}
	j := &judged{since: after}
	j.question = ledger.Question{Endpoints: endpoints, Expected: expected, Shared: func(stream ledger.Stream) bool {
		return len(s.others[stream]) > 0 || len(s.others[ledger.Stream{Endpoint: stream.Endpoint}]) > 0
	}}
	var stored []ledger.Sample
	look := func(ctx context.Context) (bool, string, error) {
		windows, err := s.reader.windows(sp.sensors, after, sp.until)
		if err != nil {
			return false, "", err
		}
		j.windows, j.question.Windows = windows, nil
		for _, sensor := range sp.sensors {
			j.question.Windows = append(j.question.Windows, windows[sensor.UID])
		}
		if stored, err = s.env.stored(ctx, after, endpoints); err != nil {
			return false, err.Error(), nil
		}
		j.verdict = ledger.Judge(j.question, stored, s.reader.arrived)
		j.mismatches = ledger.Truth(j.question, stored, stepOf)
		// A wrong value stays wrong; what is not stored yet may come.
		return j.verdict.Holds() && !slices.ContainsFunc(j.mismatches, func(m ledger.Mismatch) bool { return m.Field == "" }), "", nil
	}
	var first time.Time
	err = poll(ctx, 3*lookEvery, dataDeadline+s.env.Patience, "what is stored to be read", func(ctx context.Context) (bool, string, error) {
		ok, observed, err := look(ctx)
		if first.IsZero() && observed == "" {
			first = time.Now()
		}
		return ok || observed == "" && time.Since(first) >= s.env.Patience, observed, err
	})
	if err != nil {
		return nil, err
	}
	if j.verdict.Holds() {
		again := time.Now().Add(2 * s.env.Flush)
		err = poll(ctx, lookEvery, dataDeadline, "what is stored to be read again", func(ctx context.Context) (bool, string, error) {
			if time.Now().Before(again) {
				return false, "", nil
			}
			_, observed, err := look(ctx)
			return observed == "", observed, err
		})
		if err != nil {
			return nil, err
		}
	}
	j.latencies = ledger.Latencies(j.question.Windows, stored, latencyRounding)
	j.strange = s.reader.strange()
	j.notes = s.notes(j)
	s.env.judged = append(s.env.judged, *j)
	return j, nil
}

// stored is what the sinks have at some endpoints.
func (e *Env) stored(ctx context.Context, after time.Time, endpoints []string) ([]ledger.Sample, error) {
	var all []ledger.Sample
	for _, c := range e.Consumers {
		var own []string
		for _, ep := range c.Endpoints {
			if slices.Contains(endpoints, c.Name+"/"+ep.Name) {
				own = append(own, ep.Name)
			}
		}
		if len(own) == 0 {
			continue
		}
		samples, err := c.Store.Stored(ctx, after.Add(-time.Second), own...)
		if err != nil {
			return nil, fmt.Errorf("sink of %s: %w", c.Name, err)
		}
		for _, sample := range samples {
			sample.Endpoint = c.Name + "/" + sample.Endpoint
			all = append(all, sample)
		}
	}
	return all, nil
}

// notes say what was not judged of a window.
func (s *session) notes(j *judged) []string {
	notes := slices.Clone(s.env.warnings)
	byName := map[string]int{}
	for stream, names := range s.others {
		if !slices.Contains(j.question.Endpoints, stream.Endpoint) {
			continue
		}
		for _, name := range names {
			if stream.UID == "" {
				byName[name] = -1
			} else if byName[name] >= 0 {
				byName[name]++
			}
		}
	}
	for _, name := range sortedKeys(byName) {
		if n := byName[name]; n < 0 {
			notes = append(notes, fmt.Sprintf("DataPath %s asks for data at the same endpoints, and its status does not list all of it: doubles and unasked data are not judged there", name))
		} else {
			notes = append(notes, fmt.Sprintf("DataPath %s asks for %d of these streams too: doubles and unasked data are not judged in them", name, n))
		}
	}
	for _, w := range s.wishes {
		if w.seen != nil && w.seen.Status.Matched > len(w.seen.Status.Sensors) {
			notes = append(notes, fmt.Sprintf("the status of DataPath %s lists %d of its %d sensors; the others are judged by their number and their data", w, len(w.seen.Status.Sensors), w.seen.Status.Matched))
		}
	}
	return notes
}

// endpointsOf all consumers, without the witnesses, as "<consumer>/<endpoint>".
func (e *Env) endpointsOf(consumers ...Consumer) []string {
	var out []string
	for _, c := range consumers {
		for _, ep := range c.own() {
			out = append(out, c.Name+"/"+ep.Name)
		}
	}
	return out
}
