package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fluidos-edge/testbed/scenarios/ledger"
	"github.com/fluidos-edge/testbed/scenarios/sink"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

const (
	// leastSamples of each stream are judged.
	leastSamples = 20
	// behind is how many samples after the last judged one the fence stands.
	behind = 3
	// dataDeadline bounds waits for data, besides the time that its rate takes.
	dataDeadline = 30 * time.Second
	// patience is how long what looks wrong may turn right: a selection, or a
	// sample that another endpoint's queue holds when the witness has seen it.
	patience = 5 * time.Second
)

// arrangement is what a scenario asks for: DataPaths, and the sensors in
// question, whose data all witnesses get.
type arrangement struct {
	wishes   []*wish
	question []Sensor
}

// evidence is what was seen of an arrangement.
type evidence struct {
	arrangement
	// complete is false if the data was not looked at, because a DataPath that
	// selects wrongly was not served.
	complete bool
	windows  map[string]ledger.Window // by uid
	verdict  ledger.Verdict           // on all endpoints but witnesses
	err      error
}

// gather evidence on an arrangement, once in a run.
func (e *Env) gather(ctx context.Context, key string, arrange func() (arrangement, error)) (*evidence, error) {
	ev := e.gathered[key]
	if ev == nil {
		ev = &evidence{}
		ev.arrangement, ev.err = arrange()
		if ev.err == nil {
			ev.err = e.withPaths(ctx, ev.wishes, func(ctx context.Context) error { return e.look(ctx, ev) })
		}
		if e.gathered == nil {
			e.gathered = map[string]*evidence{}
		}
		e.gathered[key] = ev
	}
	return ev, ev.err
}

// withPaths runs f while the wishes' DataPaths are there. No other run is under
// way then, and what earlier runs left is gone.
func (e *Env) withPaths(ctx context.Context, wishes []*wish, f func(context.Context) error) (err error) {
	unlock, err := e.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := e.removeRuns(ctx); err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*removeDeadline)
		defer cancel()
		err = errors.Join(err, e.removeRuns(end))
	}()
	if err := e.create(ctx, wishes); err != nil {
		return err
	}
	return f(ctx)
}

// look at what is selected and delivered.
func (e *Env) look(ctx context.Context, ev *evidence) error {
	shared, err := e.others(ctx)
	if err != nil {
		return err
	}
	if err := e.await(ctx, ev.wishes); err != nil {
		return err
	}
	for _, w := range ev.wishes {
		if !w.served() {
			return nil // its problem is the verdict
		}
	}
	r, err := e.follow()
	if err != nil {
		return err
	}
	// A sample from now on goes through everything that is ready, into journals
	// that are followed already.
	if err := r.open(ctx, ev.question, time.Now()); err != nil {
		return err
	}
	if err := r.fence(ctx); err != nil {
		return err
	}
	late, err := e.others(ctx)
	if err != nil {
		return err
	}
	for s := range late {
		shared[s] = true
	}
	ev.windows, ev.complete = r.windows, true
	ev.verdict, err = r.judge(ctx, ev.wishes, func(s ledger.Stream) bool {
		return shared[s] || shared[ledger.Stream{Endpoint: s.Endpoint}]
	})
	return err
}

// reader follows all journals from one moment on.
type reader struct {
	env       *Env
	mappers   map[string]*sink.Journal // by "<provider>/mapper/<node>"
	sinks     map[string]*sink.Journal // by consumer
	published map[string][]ledger.Sample
	from      map[string]string // mapper by uid
	arrived   []ledger.Sample
	last      map[ledger.Stream]ledger.Sample // that arrived

	sensors []Sensor
	after   int64
	windows map[string]ledger.Window
}

func (e *Env) follow() (*reader, error) {
	r := &reader{
		env: e, mappers: map[string]*sink.Journal{}, sinks: map[string]*sink.Journal{},
		published: map[string][]ledger.Sample{}, from: map[string]string{}, last: map[ledger.Stream]ledger.Sample{},
	}
	for _, p := range e.Providers {
		for node, path := range p.Journals {
			j, err := sink.Tail(path)
			if err != nil {
				return nil, err
			}
			r.mappers[p.Name+"/mapper/"+node] = j
		}
	}
	for _, c := range e.Consumers {
		j, err := sink.Tail(c.Journal)
		if err != nil {
			return nil, err
		}
		r.sinks[c.Name] = j
	}
	return r, nil
}

// read what was published and arrived since the last time.
func (r *reader) read() error {
	for name, j := range r.mappers {
		samples, err := j.Read()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, s := range samples {
			r.published[s.UID] = append(r.published[s.UID], s)
			r.from[s.UID] = name
		}
	}
	for consumer, j := range r.sinks {
		samples, err := j.Read()
		if err != nil {
			return fmt.Errorf("sink of %s: %w", consumer, err)
		}
		for _, s := range samples {
			s.Endpoint = consumer + "/" + s.Endpoint
			r.arrived = append(r.arrived, s)
			stream := ledger.Stream{Endpoint: s.Endpoint, UID: s.UID}
			if old := r.last[stream]; s.Epoch > old.Epoch || s.Epoch == old.Epoch && s.Seq > old.Seq {
				r.last[stream] = s
			}
		}
	}
	return nil
}

// refresh windows of all sensors up to now.
func (r *reader) refresh() (map[string]ledger.Window, error) {
	windows := map[string]ledger.Window{}
	for _, s := range r.sensors {
		w, err := ledger.Open(s.UID, r.published[s.UID], r.after)
		var restart *ledger.RestartError
		if errors.As(err, &restart) {
			return nil, fmt.Errorf("not judged, because %s restarted: %w", r.restarted(s), err)
		}
		if err != nil {
			return nil, fmt.Errorf("not judged: %w", err)
		}
		windows[s.UID] = w
	}
	return windows, nil
}

// restarted is the component whose restart a new epoch of a sensor shows: its
// mapper if boards other than its own have one as well.
func (r *reader) restarted(s Sensor) string {
	for _, other := range r.sensors {
		if other.Board == s.Board || r.from[other.UID] != r.from[s.UID] {
			continue
		}
		var restart *ledger.RestartError
		if _, err := ledger.Open(other.UID, r.published[other.UID], r.after); errors.As(err, &restart) {
			return r.from[s.UID]
		}
	}
	return "board " + s.Board + " (or its connection to " + r.from[s.UID] + ")"
}

// deadline for data: its rate is what it takes.
func (r *reader) deadline(samples int) time.Duration {
	d := dataDeadline
	for _, s := range r.sensors {
		d = max(d, dataDeadline+time.Duration(2*float64(samples)/s.Rate*float64(time.Second)))
	}
	return d
}

// open the windows: every sensor has published enough after a moment.
func (r *reader) open(ctx context.Context, question []Sensor, after time.Time) error {
	r.sensors, r.after = question, after.UnixNano()
	least := r.env.Samples
	what := fmt.Sprintf("%d samples of each of %d sensors to be published", least, len(question))
	return poll(ctx, lookEvery, r.deadline(least), what, func(context.Context) (bool, string, error) {
		if err := r.read(); err != nil {
			return false, "", err
		}
		windows, err := r.refresh()
		if err != nil {
			return false, "", err
		}
		for _, s := range question {
			if n := windows[s.UID].Size(); n < least {
				return false, fmt.Sprintf("%d of %s (board %s)", n, s.name(), s.Board), nil
			}
		}
		r.windows = windows
		return true, "", nil
	})
}

// fence: every witness has recorded, and stored, what came after the windows.
func (r *reader) fence(ctx context.Context) error {
	since := r.since()
	return poll(ctx, 2*lookEvery, r.deadline(2*behind), "the witnesses to store what came after", func(ctx context.Context) (bool, string, error) {
		if err := r.read(); err != nil {
			return false, "", err
		}
		if _, err := r.refresh(); err != nil {
			return false, "", err
		}
		for _, c := range r.env.Consumers {
			for _, s := range r.sensors {
				w := r.windows[s.UID]
				last := r.last[ledger.Stream{Endpoint: c.Name + "/" + topology.WitnessEndpoint, UID: s.UID}]
				if last.Epoch != w.Epoch || last.Seq < w.To+behind {
					return false, fmt.Sprintf("%s's witness has recorded %d of %s, %d is wanted", c.Name, last.Seq, s.name(), w.To+behind), nil
				}
			}
		}
		for _, c := range r.env.Consumers {
			last, err := c.Store.Last(ctx, topology.WitnessEndpoint, since)
			if err != nil {
				return false, fmt.Sprintf("sink of %s: %v", c.Name, err), nil
			}
			for _, s := range r.sensors {
				if w := r.windows[s.UID]; last[s.UID] < w.To+behind {
					return false, fmt.Sprintf("%s's witness has stored %d of %s, %d is wanted", c.Name, last[s.UID], s.name(), w.To+behind), nil
				}
			}
		}
		return true, "", nil
	})
}

// since is a little before the first judged sample.
func (r *reader) since() time.Time { return time.Unix(0, r.after).Add(-time.Second) }

// judge all endpoints but the witnesses. A verdict that does not hold is judged
// again for a while.
func (r *reader) judge(ctx context.Context, wishes []*wish, shared func(ledger.Stream) bool) (ledger.Verdict, error) {
	q := ledger.Question{Shared: shared}
	for _, s := range r.sensors {
		q.Windows = append(q.Windows, r.windows[s.UID])
	}
	for _, c := range r.env.Consumers {
		for _, e := range c.own() {
			q.Endpoints = append(q.Endpoints, c.Name+"/"+e.Name)
		}
	}
	for _, w := range wishes {
		q.Expected = append(q.Expected, w.streams()...)
	}
	q.Expected = slices.DeleteFunc(q.Expected, func(s ledger.Stream) bool {
		return strings.HasSuffix(s.Endpoint, "/"+topology.WitnessEndpoint)
	})
	var verdict ledger.Verdict
	var first time.Time
	err := poll(ctx, 3*lookEvery, dataDeadline+r.env.Patience, "what is stored to be read", func(ctx context.Context) (bool, string, error) {
		if err := r.read(); err != nil {
			return false, "", err
		}
		var stored []ledger.Sample
		for _, c := range r.env.Consumers {
			var endpoints []string
			for _, e := range c.own() {
				endpoints = append(endpoints, e.Name)
			}
			samples, err := c.Store.Stored(ctx, r.since(), endpoints...)
			if err != nil {
				return false, fmt.Sprintf("sink of %s: %v", c.Name, err), nil
			}
			for _, s := range samples {
				s.Endpoint = c.Name + "/" + s.Endpoint
				stored = append(stored, s)
			}
		}
		verdict = ledger.Judge(q, stored, r.arrived)
		if first.IsZero() {
			first = time.Now()
		}
		return verdict.Holds() || time.Since(first) >= r.env.Patience, "", nil
	})
	return verdict, err
}

// streams that a wish should bring about.
func (w *wish) streams() []ledger.Stream {
	var out []ledger.Stream
	for _, e := range w.endpoints {
		for _, s := range w.want {
			out = append(out, ledger.Stream{Endpoint: w.consumer + "/" + e.Name, UID: s.UID})
		}
	}
	return out
}
