package scenarios

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fluidos-edge/testbed/scenarios/boards"
	"github.com/fluidos-edge/testbed/scenarios/ledger"
	"github.com/fluidos-edge/testbed/scenarios/sink"
	"github.com/fluidos-edge/testbed/scenarios/tail"
)

const (
	// fenceReadings is how many readings after the last judged one the fence stands.
	fenceReadings = 3
	// dataDeadline bounds waits for data, besides the time that its rate takes.
	dataDeadline = 30 * time.Second
)

// reader follows all journals from one moment on.
type reader struct {
	env     *Env
	boards  map[string]*tail.Journal[boards.Line] // by provider
	mappers map[string]*sink.Journal              // by "<provider>/mapper/<node>"
	sinks   map[string]*sink.Journal              // by consumer

	emitted   map[string][]ledger.Reading // by uid
	published map[string][]ledger.Sample  // by uid
	from      map[string]string           // mapper by uid
	arrived   []ledger.Sample
	last      map[ledger.Stream]int64 // time of the last arrival
	events    []boards.Line
}

func (e *Env) follow() (*reader, error) {
	r := &reader{
		env: e, boards: map[string]*tail.Journal[boards.Line]{}, mappers: map[string]*sink.Journal{}, sinks: map[string]*sink.Journal{},
		emitted: map[string][]ledger.Reading{}, published: map[string][]ledger.Sample{}, from: map[string]string{}, last: map[ledger.Stream]int64{},
	}
	for _, p := range e.Providers {
		j, err := boards.Tail(p.BoardsJournal)
		if err != nil {
			return nil, err
		}
		r.boards[p.Name] = j
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

// read what was emitted, published and has arrived since the last time. Sinks and
// mappers are read before the boards: what they have was emitted earlier, so that its
// reading is in the boards' journal by then.
func (r *reader) read() error {
	for consumer, j := range r.sinks {
		samples, err := j.Read()
		if err != nil {
			return fmt.Errorf("sink of %s: %w", consumer, err)
		}
		for _, s := range samples {
			s.Endpoint = consumer + "/" + s.Endpoint
			r.arrived = append(r.arrived, s)
			stream := ledger.Stream{Endpoint: s.Endpoint, UID: s.UID}
			r.last[stream] = max(r.last[stream], s.Time)
		}
	}
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
	for provider, j := range r.boards {
		lines, err := j.Read()
		if err != nil {
			return fmt.Errorf("boards of %s: %w", provider, err)
		}
		if n := j.Skipped(); n > 0 {
			return fmt.Errorf("boards of %s: %d lines of their journal cannot be read", provider, n)
		}
		for _, l := range lines {
			r.take(provider, l)
		}
	}
	return nil
}

// strange are lines in journals of mappers and sinks that are no samples, a text for each
// journal that has some.
func (r *reader) strange() []string {
	var out []string
	for _, name := range sortedKeys(r.mappers) {
		if n := r.mappers[name].Skipped(); n > 0 {
			out = append(out, fmt.Sprintf("%s published %d lines that are no samples", name, n))
		}
	}
	for _, name := range sortedKeys(r.sinks) {
		if n := r.sinks[name].Skipped(); n > 0 {
			out = append(out, fmt.Sprintf("the sink of %s recorded %d lines that are no samples", name, n))
		}
	}
	return out
}

// take in one line of a boards journal.
func (r *reader) take(provider string, l boards.Line) {
	if l.Kind != "" {
		r.events = append(r.events, l)
		return
	}
	if l.Garbage {
		return // a frame that a fault spoiled is no reading
	}
	i := slices.IndexFunc(r.env.Sensors, func(s Sensor) bool {
		return s.Provider == provider && s.Device == l.Device && s.Part == l.Part
	})
	if i < 0 {
		return
	}
	uid := r.env.Sensors[i].UID
	r.emitted[uid] = append(r.emitted[uid], ledger.Reading{
		UID: uid, Category: l.Category, Device: l.Device, Node: l.Node, Part: l.Part, Time: l.Time.UnixNano(), Values: l.Values, Delay: l.Delay,
	})
}

// windows of some sensors after a moment, read anew: until is by uid, nil for all that
// there is. A stream that began anew is an error that names who restarted.
func (r *reader) windows(sensors []Sensor, after time.Time, until map[string]int64) (map[string]ledger.Window, error) {
	if err := r.read(); err != nil {
		return nil, err
	}
	out := make(map[string]ledger.Window, len(sensors))
	for _, s := range sensors {
		w, err := r.window(s, after.UnixNano(), until[s.UID])
		var restart *ledger.RestartError
		if errors.As(err, &restart) {
			return nil, fmt.Errorf("not judged, because %s began anew in the window of %s", r.restarted(sensors, s, after.UnixNano(), until), s)
		}
		if err != nil {
			return nil, fmt.Errorf("not judged: %s: %w", s, err)
		}
		out[s.UID] = w
	}
	return out, nil
}

func (r *reader) window(s Sensor, after, until int64) (ledger.Window, error) {
	return ledger.Open(s.UID, r.emitted[s.UID], r.published[s.UID], after, until)
}

// restarted is what a new epoch of a sensor shows: the boards' process, if its journal
// says so; its mapper, if boards other than its own have a new one as well.
func (r *reader) restarted(sensors []Sensor, s Sensor, after int64, until map[string]int64) string {
	for _, l := range r.events {
		if l.Kind == boards.Started && l.Time.UnixNano() > after {
			return s.Provider + "/boards"
		}
	}
	for _, other := range sensors {
		if other.Board == s.Board || r.from[other.UID] != r.from[s.UID] {
			continue
		}
		var restart *ledger.RestartError
		if _, err := r.window(other, after, until[other.UID]); errors.As(err, &restart) {
			return r.from[s.UID]
		}
	}
	return "board " + s.Board + " (or its connection to " + r.from[s.UID] + ")"
}

// emittedAfter is the emission time of the nth reading of a sensor after a time.
func (r *reader) emittedAfter(uid string, after int64, n int) (int64, bool) {
	all := r.emitted[uid]
	i, _ := slices.BinarySearchFunc(all, after+1, func(a ledger.Reading, t int64) int { return cmp.Compare(a.Time, t) })
	if i += n - 1; i >= len(all) {
		return 0, false
	}
	return all[i].Time, true
}

// deadline for data: its rate is what it takes.
func deadline(sensors []Sensor, samples int) time.Duration {
	d := dataDeadline
	for _, s := range sensors {
		d = max(d, dataDeadline+time.Duration(2*float64(samples)/s.Rate*float64(time.Second)))
	}
	return d
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
