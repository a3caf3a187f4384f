package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/fluidos-edge/testbed/scenarios/ledger"
)

const (
	// latencyRounding in ms is what sensor_latency_ms may say less than the board's delay:
	// it is rounded to a thousandth.
	latencyRounding = 0.002
	// maxLeastExcess in ms is how much later than the board's delay the promptest of a
	// sensor's samples may reach the mapper: the machine may be busy while others come.
	maxLeastExcess = 2.0
	// maxUsualExcess in ms is what three of four samples must not exceed.
	maxUsualExcess = 20.0
	usualShare     = 0.75
)

// allWindows are those of this run, or one that is opened now.
func (e *Env) allWindows(ctx context.Context, id string) ([]judged, Result, error) {
	var r Result
	if len(e.judged) == 0 {
		var skip skipped
		s, _, err := e.multicast(ctx)
		if errors.As(err, &skip) {
			s, _, err = e.latencyFilter(ctx, partL2)
		}
		if err != nil {
			return nil, r, err
		}
		r.since = s.began
		if !s.served {
			_, err := s.unserved(r, nil)
			return nil, r, err
		}
		if _, err := s.window(ctx, id); err != nil {
			return nil, r, err
		}
	} else {
		r.SharesWindow = "all"
	}
	for _, key := range sortedKeys(e.failed) {
		r.Notes = append(r.Notes, fmt.Sprintf("without the windows of %s, which could not be opened", key))
	}
	if len(e.unjudged) > 0 {
		r.Notes = append(r.Notes, "without windows of "+strings.Join(e.unjudged, ", ")+", which could not be judged")
	}
	for _, j := range e.judged {
		if r.since.IsZero() || j.since.Before(r.since) {
			r.since = j.since
		}
		for _, note := range j.notes {
			if !slices.Contains(r.Notes, note) {
				r.Notes = append(r.Notes, note)
			}
		}
	}
	return e.judged, r, nil
}

// judgeT1 compares what is stored with what the boards measured, in all windows.
func judgeT1(ctx context.Context, e *Env) (Result, error) {
	all, r, err := e.allWindows(ctx, "T1")
	if err != nil {
		return r, err
	}
	readings, values := 0, 0
	total := map[ledger.Stream]*Stream{}
	expected := map[ledger.Stream]int{}
	at := func(s ledger.Stream) *Stream {
		if total[s] == nil {
			total[s] = &Stream{Endpoint: s.Endpoint, SensorName: e.sensorName(s.UID)}
		}
		return total[s]
	}
	var grouped mismatches
	strange := map[string]bool{}
	for _, j := range all {
		for _, text := range j.strange {
			strange[text] = true
		}
		for _, stream := range j.question.Expected {
			w, ok := j.windows[stream.UID]
			if !ok {
				continue
			}
			s := at(stream)
			if s.From.IsZero() || clock(w.From).Before(s.From) {
				s.From = clock(w.From)
			}
			if clock(w.To).After(s.To) {
				s.To = clock(w.To)
			}
			s.Count += w.Size()
			expected[stream] += w.Size()
			readings += w.Size()
			for _, reading := range w.Readings() {
				values += len(reading.Values)
			}
		}
		seen := map[ledger.Stream]map[int64]bool{}
		for _, m := range j.mismatches {
			s := at(m.Stream)
			if seen[m.Stream] == nil {
				seen[m.Stream] = map[int64]bool{}
			}
			if !seen[m.Stream][m.Time] {
				seen[m.Stream][m.Time] = true
				switch w := j.windows[m.UID]; {
				case m.Field != "":
					s.Wrong++
				case !w.Emitted(m.Time):
					s.Unexpected++
				default:
					s.Count--
					s.Missing = append(s.Missing, clock(m.Time))
				}
			}
			grouped.add(m)
		}
	}
	for _, line := range append(grouped.lines(e), sortedKeys(strange)...) {
		r.problem(line)
	}
	for _, stream := range sortedStreams(total) {
		s := *total[stream]
		r.Observed.Streams = append(r.Observed.Streams, s)
		if n, ok := expected[stream]; ok {
			s.Count, s.Missing, s.Doubled, s.Unexpected, s.Wrong = n, nil, 0, 0, 0
			r.Expected.Streams = append(r.Expected.Streams, s)
		}
	}
	if readings == 0 {
		return r, errors.New("not judged: no reading was expected anywhere")
	}
	late, err := e.late(ctx)
	if err != nil {
		return r, err
	}
	for _, line := range late {
		r.problem(line)
	}
	r.Notes = append(r.Notes, fmt.Sprintf("%d readings with %d values compared, in %d windows", readings, values, len(all)))
	return r.verdict(), nil
}

// late are streams of windows of this run that nobody asked for, and that have more
// stored now than when the window was judged.
func (e *Env) late(ctx context.Context) ([]string, error) {
	var out []string
	for _, j := range e.judged {
		stored, err := e.stored(ctx, j.since, j.question.Endpoints)
		if err != nil {
			return nil, err
		}
		before := map[ledger.Stream]int{}
		for _, a := range j.verdict.Streams {
			before[a.Stream] = a.Unexpected
		}
		for _, a := range ledger.Judge(j.question, stored, nil).Streams {
			if !a.Expected && a.Unexpected > before[a.Stream] {
				out = append(out, fmt.Sprintf("%s of %s: %d samples that nobody asked for came after the window of %s was judged",
					a.Endpoint, e.label(a.UID), a.Unexpected-before[a.Stream], ledger.Clock(j.since.UnixNano())))
			}
		}
	}
	return out, nil
}

// mismatches of a run, for people: one line for each sensor and field, with the first
// mismatch, the endpoints that have it, and how many there are.
type mismatches struct {
	order []mismatchKey
	of    map[mismatchKey]*mismatchLine
}

type mismatchKey struct{ uid, field, endpoint string }

type mismatchLine struct {
	first     ledger.Mismatch
	endpoints []string
	count     int
}

func (l *mismatches) add(m ledger.Mismatch) {
	key := mismatchKey{uid: m.UID, field: m.Field}
	if m.Field == "" { // what is missing or too much is of one endpoint
		key.endpoint = m.Endpoint
	}
	if l.of == nil {
		l.of = map[mismatchKey]*mismatchLine{}
	}
	line := l.of[key]
	if line == nil {
		line = &mismatchLine{first: m}
		l.of[key] = line
		l.order = append(l.order, key)
	}
	line.count++
	if !slices.Contains(line.endpoints, m.Endpoint) {
		line.endpoints = append(line.endpoints, m.Endpoint)
	}
}

func (l *mismatches) lines(e *Env) []string {
	var out []string
	for _, key := range l.order {
		line := l.of[key]
		text := fmt.Sprintf("%s at %s: %s", e.label(key.uid), strings.Join(line.endpoints, ", "), line.first.Problem)
		if line.count > 1 {
			text += fmt.Sprintf(" (the first of %d)", line.count)
		}
		out = append(out, text)
	}
	return out
}

func sortedStreams(m map[ledger.Stream]*Stream) []ledger.Stream {
	var out []ledger.Stream
	for s := range m {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b ledger.Stream) int {
		return strings.Compare(a.Endpoint+" "+a.UID, b.Endpoint+" "+b.UID)
	})
	return out
}

// judgeT2 compares sensor_latency_ms with what the boards' behaviour drew, in all
// windows: no sample may say less, the promptest of each sensor not much more, and three
// of four not more than a busy machine explains.
func judgeT2(ctx context.Context, e *Env) (Result, error) {
	all, r, err := e.allWindows(ctx, "T2")
	if err != nil {
		return r, err
	}
	of := map[string]ledger.Latency{} // of all windows, by uid
	samples := 0
	excess := map[string][]float64{} // of all samples, by uid
	for _, j := range all {
		for _, l := range j.latencies {
			for i, said := range l.Said {
				excess[l.UID] = append(excess[l.UID], said-l.Delays[i])
			}
			sum, ok := of[l.UID]
			if !ok {
				sum = ledger.Latency{UID: l.UID, LeastExcess: l.LeastExcess}
			}
			sum.Samples, sum.Absent, sum.Early = sum.Samples+l.Samples, sum.Absent+l.Absent, append(sum.Early, l.Early...)
			sum.LeastExcess = min(sum.LeastExcess, l.LeastExcess)
			of[l.UID] = sum
			samples += l.Samples
		}
	}
	least, usual := 0.0, 0.0
	for _, uid := range sortedKeys(of) {
		l := of[uid]
		most := ledger.Percentile(excess[uid], usualShare)
		least, usual = max(least, l.LeastExcess), max(usual, most)
		switch {
		case l.Absent > 0:
			r.problem(fmt.Sprintf("%s: %d of %d stored samples have no sensor_latency_ms", e.label(uid), l.Absent, l.Samples))
		case len(l.Early) > 0:
			r.problem(fmt.Sprintf("%s: %d of %d samples say less than the board's delay before it sent their frame; the worst is %.3f ms less, the first was emitted at %s",
				e.label(uid), len(l.Early), l.Samples, -l.LeastExcess, ledger.Clock(l.Early[0])))
		case most > maxUsualExcess:
			r.problem(fmt.Sprintf("%s: one in four of %d samples says more than %.1f ms beyond the board's delay, and up to %.1f ms", e.label(uid), l.Samples, most, slices.Max(excess[uid])))
		case l.LeastExcess > maxLeastExcess:
			r.problem(fmt.Sprintf("%s: even the promptest of %d samples says %.1f ms more than the board's delay", e.label(uid), l.Samples, l.LeastExcess))
		}
	}
	if samples == 0 {
		return r, errors.New("not judged: nothing is stored that says what it took")
	}
	r.Notes = append(r.Notes, fmt.Sprintf("%d samples; beyond the boards' delay at most %.2f ms for the promptest of a sensor, and %.2f ms for three of four", samples, least, usual))
	return r.verdict(), nil
}

// Window of a result for people: "as M1" where it has none of its own.
func (r Result) Window() string {
	if r.SharesWindow == "" {
		return ""
	}
	return "as " + r.SharesWindow
}
