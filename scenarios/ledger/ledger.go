// Package ledger judges what was delivered against what boards emitted. It is
// pure: no clock, no network, no files.
//
// Invariants:
//   - What is expected is what the board's journal says was measured and emitted;
//     never what arrived, and never what the mapper says.
//   - The mapper's journal is a second account: epoch and seq without gaps, and one
//     sample for each reading. Where it differs from the board's, the verdict does
//     not hold.
//   - A sample is whole only if everything in it is as the mapper published it. A
//     sample with another's values is missing, and an unexpected one stands in its
//     place. Whether the values are those that were measured is for Truth.
//   - What was stored tells what is missing; what arrived tells what is doubled.
//     Where the two sources disagree, the verdict does not hold.
//   - Only what lies in a sensor's window is judged: from the emission of its first
//     reading to that of its last, or numbered between those two by the mapper. What
//     is outside, from before a run say, changes no verdict.
//
// To try it: go test ./scenarios/ledger.
package ledger

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Value is one field of a reading or a sample.
type Value struct {
	Field  string
	Number float64
}

// Reading is what one part of a board measured at a moment, and emitted.
type Reading struct {
	UID string
	// Category, Device, Node and Part as the measurement and the tags of a sample name
	// them; Node is the one with the board's connection.
	Category, Device, Node, Part string
	// Time of the emission, wall clock in ns.
	Time int64
	// Values before they were encoded, by the name of their field.
	Values []Value
	// Delay in ms from the emission to the hand-over to the radio, as the board's
	// behaviour drew it.
	Delay float64
}

// Sample is one sample at one place on its way.
type Sample struct {
	// Endpoint that it arrived at, empty where it was published.
	Endpoint string
	UID      string
	// Category is its measurement; Device, Node and Part are its tags.
	Category, Device, Node, Part string
	// Epoch is the start of the sensor's stream, ns; Seq counts from 1 in it.
	Epoch, Seq int64
	// Time of the sample, ns.
	Time int64
	// Body is all else in it, in a form that is the same wherever it is the same.
	Body string
	// Values are its readings, in the order of their fields.
	Values []Value
	// Latency is sensor_latency_ms; HasLatency is false for a sample without it.
	Latency    float64
	HasLatency bool
}

// identity is what tells a sample from all others.
type identity struct {
	epoch, seq, time int64
	body             string
}

func (s Sample) identity() identity { return identity{s.Epoch, s.Seq, s.Time, s.Body} }

// Stream is one sensor's data at one endpoint.
type Stream struct {
	Endpoint, UID string
}

// Window is what a board emitted of one sensor in the time that is judged, with the
// mapper's account of the same time.
type Window struct {
	UID string
	// From and To are the emission times of the first and the last reading, ns.
	From, To int64
	// Unpublished are the times of readings that the mapper's journal does not have.
	Unpublished []int64
	// Invented are samples of the mapper's journal that no board emitted.
	Invented []Sample
	// Repeated are the times of readings that the mapper published more than once.
	Repeated []int64
	// Gaps are the places where the mapper's numbers do not follow one another, as text.
	Gaps []string

	readings         []Reading
	at               map[int64]Reading
	published        map[int64]Sample // by time
	numbered         map[int64]Sample // by seq
	epoch            int64
	firstSeq, toSeq  int64
	hasPublished     bool
	lastPublishedSeq int64
}

// Size is the number of readings in the window.
func (w Window) Size() int { return len(w.readings) }

// Emitted tells whether a reading of the window was emitted at a time.
func (w Window) Emitted(at int64) bool {
	_, ok := w.at[at]
	return ok
}

// Readings of the window, in the order of emission.
func (w Window) Readings() []Reading { return slices.Clone(w.readings) }

// Disagreement says in one line how the mapper's account differs from the board's
// journal, "" if it does not.
func (w Window) Disagreement() string {
	var what []string
	if n := len(w.Unpublished); n > 0 {
		what = append(what, fmt.Sprintf("%d of %d emitted readings are not in the mapper's journal (emitted at %s)", n, w.Size(), times(w.Unpublished)))
	}
	if n := len(w.Invented); n > 0 {
		at := make([]int64, n)
		for i, s := range w.Invented {
			at[i] = s.Time
		}
		what = append(what, fmt.Sprintf("%d published samples were emitted by no board (at %s)", n, times(at)))
	}
	if n := len(w.Repeated); n > 0 {
		what = append(what, fmt.Sprintf("%d readings were published more than once (emitted at %s)", n, times(w.Repeated)))
	}
	if n := len(w.Gaps); n > 0 {
		what = append(what, fmt.Sprintf("the mapper's numbers have %d gaps (%s)", n, w.Gaps[0]))
	}
	return strings.Join(what, ", ")
}

// covers tells whether a sample claims to be of the window.
func (w Window) covers(s Sample) bool {
	return w.From <= s.Time && s.Time <= w.To ||
		w.hasPublished && s.Epoch == w.epoch && w.firstSeq <= s.Seq && s.Seq <= w.toSeq
}

// RestartError says that the mapper's stream of a sensor began anew while it was
// looked at.
type RestartError struct {
	UID      string
	Old, New int64 // epochs
}

func (e *RestartError) Error() string {
	return fmt.Sprintf("the stream of sensor %s began anew (epoch %d, then %d)", e.UID, e.Old, e.New)
}

// Open makes the window of one sensor: the readings that its board emitted after a
// time and until another (ns; 0 means all), both in the order of their journals,
// beside what the mapper published of the same time. A window without readings is no
// error. A mapper's stream that began anew (*RestartError), and a board's journal
// whose times do not grow, cannot be judged by.
func Open(uid string, readings []Reading, published []Sample, after, until int64) (Window, error) {
	w := Window{UID: uid, at: map[int64]Reading{}, published: map[int64]Sample{}, numbered: map[int64]Sample{}}
	for _, r := range readings {
		if r.UID != uid || r.Time <= after || until > 0 && r.Time > until {
			continue
		}
		if len(w.readings) == 0 {
			w.From = r.Time
		} else if r.Time <= w.To {
			return w, fmt.Errorf("the board's journal of sensor %s has times in the wrong order: %d, then %d", uid, w.To, r.Time)
		}
		w.To = r.Time
		w.readings = append(w.readings, r)
		w.at[r.Time] = r
	}
	if len(w.readings) == 0 {
		return w, nil
	}
	for _, s := range published {
		if s.UID != uid || s.Time < w.From || s.Time > w.To {
			continue
		}
		switch {
		case !w.hasPublished:
			w.hasPublished, w.epoch, w.firstSeq = true, s.Epoch, s.Seq
		case s.Epoch != w.epoch:
			return w, &RestartError{UID: uid, Old: w.epoch, New: s.Epoch}
		case s.Seq != w.lastPublishedSeq+1:
			w.Gaps = append(w.Gaps, fmt.Sprintf("%d after %d", s.Seq, w.lastPublishedSeq))
		}
		w.lastPublishedSeq, w.toSeq = s.Seq, max(w.toSeq, s.Seq)
		w.numbered[s.Seq] = s
		if _, ok := w.at[s.Time]; !ok {
			w.Invented = append(w.Invented, s)
			continue
		}
		if _, ok := w.published[s.Time]; ok {
			w.Repeated = append(w.Repeated, s.Time)
		}
		w.published[s.Time] = s
	}
	for _, r := range w.readings {
		if _, ok := w.published[r.Time]; !ok {
			w.Unpublished = append(w.Unpublished, r.Time)
		}
	}
	return w, nil
}

// Question is what should have been delivered.
type Question struct {
	// Windows of all sensors in question, one for each.
	Windows []Window
	// Endpoints that are looked at. What arrived at others is not judged.
	Endpoints []string
	// Expected streams must be whole; any other must be empty.
	Expected []Stream
	// Shared tells that somebody else has asked for a stream as well: doubles and
	// unexpected samples in it are not judged. Nil: none is shared.
	Shared func(Stream) bool
}

func (q Question) isShared(s Stream) bool { return q.Shared != nil && q.Shared(s) }

// Account is what became of one stream. Readings and samples are named by their
// times, in ns.
type Account struct {
	Stream
	// Expected is false for a stream that should not be.
	Expected bool
	// From and To are the window; of a stream that should not be, what was seen.
	From, To int64
	// Count of readings that were stored as published.
	Count int
	// Missing were emitted and not stored as published.
	Missing []int64
	// Unpublished are among Missing: the mapper's journal does not have them.
	Unpublished []int64
	// Unstored are among Missing: they arrived as published and were not stored.
	Unstored []int64
	// Doubled counts arrivals of a sample beyond its first.
	Doubled int
	// Unexpected counts samples that were not published, or not for this stream.
	Unexpected int
	// Altered arrived or were stored with another body or time.
	Altered []int64
	// Unrecorded were stored, and no arrival of them is known.
	Unrecorded []int64
	// Disagreement says how the mapper's account differs from the board's journal.
	Disagreement string
}

// Holds tells whether the stream is as it should be.
func (a Account) Holds() bool {
	return len(a.Missing) == 0 && a.Doubled == 0 && a.Unexpected == 0 && len(a.Altered) == 0 && len(a.Unrecorded) == 0 && a.Disagreement == ""
}

// Problem says in one line what is wrong, without naming the stream; "" if nothing is.
func (a Account) Problem() string {
	if a.Holds() {
		return ""
	}
	var what []string
	if !a.Expected {
		what = append(what, fmt.Sprintf("%d samples that should not be there", a.Unexpected))
	} else if a.Unexpected > 0 {
		what = append(what, fmt.Sprintf("%d samples that were not published like this", a.Unexpected))
	}
	for _, l := range []struct {
		what  string
		times []int64
	}{
		{"missing", a.Missing}, {"of the missing not published by the mapper", a.Unpublished},
		{"of the missing arrived but not stored", a.Unstored}, {"altered", a.Altered},
		{"stored without an arrival", a.Unrecorded},
	} {
		if len(l.times) > 0 {
			what = append(what, fmt.Sprintf("%d %s (emitted at %s)", len(l.times), l.what, times(l.times)))
		}
	}
	if a.Doubled > 0 {
		what = append(what, fmt.Sprintf("%d doubled", a.Doubled))
	}
	if a.Disagreement != "" && len(a.Unpublished) == 0 {
		what = append(what, a.Disagreement)
	}
	return strings.Join(what, ", ")
}

// Clock shows a time of the ledger as people read it: UTC, in ms.
func Clock(ns int64) string { return time.Unix(0, ns).UTC().Format("15:04:05.000") }

// times shows the first few.
func times(all []int64) string {
	const most = 3
	var texts []string
	for _, t := range all[:min(len(all), most)] {
		texts = append(texts, Clock(t))
	}
	if len(all) > most {
		texts = append(texts, "...")
	}
	return strings.Join(texts, ", ")
}

// Verdict is an account of each expected stream, and after those of each that
// should not be; both in the order of endpoint and uid.
type Verdict struct {
	Streams []Account
}

// Holds tells whether all is as it should be.
func (v Verdict) Holds() bool {
	return !slices.ContainsFunc(v.Streams, func(a Account) bool { return !a.Holds() })
}

// Judge what was stored and what arrived. The order of both does not matter.
func Judge(q Question, stored, arrived []Sample) Verdict {
	l := newLedger(q)
	for _, s := range stored {
		if p, ok := l.page(s); ok {
			p.stored.add(s, l.state(s))
		}
	}
	for _, s := range arrived {
		if p, ok := l.page(s); ok {
			p.arrived.add(s, l.state(s))
		}
	}
	var v Verdict
	for _, s := range sorted(l.expected) {
		v.Streams = append(v.Streams, l.whole(s, l.expected[s]))
	}
	for _, s := range sorted(l.others) {
		v.Streams = append(v.Streams, l.others[s].empty(s))
	}
	return v
}

// ledger sorts samples into the streams that they were seen in.
type ledger struct {
	question   Question
	windows    map[string]Window
	start, end int64 // of all windows
	judged     map[string]bool
	expected   map[Stream]*pages
	others     map[Stream]*pages
}

func newLedger(q Question) *ledger {
	l := &ledger{question: q, windows: map[string]Window{}, judged: map[string]bool{}, expected: map[Stream]*pages{}, others: map[Stream]*pages{}}
	for i, w := range q.Windows {
		l.windows[w.UID] = w
		if i == 0 || w.From < l.start {
			l.start = w.From
		}
		if i == 0 || w.To > l.end {
			l.end = w.To
		}
	}
	for _, e := range q.Endpoints {
		l.judged[e] = true
	}
	for _, s := range q.Expected {
		l.expected[s] = newPages()
	}
	return l
}

// pages are what is known of one stream, by source.
type pages struct {
	stored, arrived page
}

type page struct {
	// whole counts samples as published, altered those with another body; by the time
	// of their reading.
	whole, altered map[int64]int
	// strange are samples that were never published; all is everything.
	strange, all map[identity]int
}

func newPages() *pages {
	return &pages{stored: newPage(), arrived: newPage()}
}

func newPage() page {
	return page{whole: map[int64]int{}, altered: map[int64]int{}, strange: map[identity]int{}, all: map[identity]int{}}
}

// state of a sample against what was published.
type state int

const (
	strange state = iota
	altered
	whole
)

// verdict on one sample: its state, and the time of the reading that it is of.
type verdict struct {
	state
	time int64
}

func (p page) add(s Sample, v verdict) {
	p.all[s.identity()]++
	switch v.state {
	case whole:
		p.whole[v.time]++
	case altered:
		p.altered[v.time]++
	default:
		p.strange[s.identity()]++
	}
}

// inWindow tells whether a sample is judged.
func (l *ledger) inWindow(s Sample) bool {
	if !l.judged[s.Endpoint] {
		return false
	}
	if w, ok := l.windows[s.UID]; ok {
		return w.covers(s)
	}
	return l.start <= s.Time && s.Time <= l.end
}

// page of a sample's stream; none if the sample is not judged.
func (l *ledger) page(s Sample) (*pages, bool) {
	if !l.inWindow(s) {
		return nil, false
	}
	stream := Stream{s.Endpoint, s.UID}
	if p, ok := l.expected[stream]; ok {
		return p, true
	}
	if l.question.isShared(stream) {
		return nil, false
	}
	p, ok := l.others[stream]
	if !ok {
		p = newPages()
		l.others[stream] = p
	}
	return p, true
}

// state compares a sample with what the mapper published of its reading.
func (l *ledger) state(s Sample) verdict {
	w, ok := l.windows[s.UID]
	if !ok {
		return verdict{}
	}
	if _, emitted := w.at[s.Time]; emitted {
		p, published := w.published[s.Time]
		if published && p.identity() != s.identity() {
			if s.Epoch != p.Epoch {
				return verdict{}
			}
			return verdict{altered, s.Time}
		}
		// What the mapper has not written down counts, and its account disagrees.
		return verdict{whole, s.Time}
	}
	if p, ok := w.numbered[s.Seq]; ok && p.Epoch == s.Epoch && p.Time != s.Time {
		return verdict{altered, p.Time}
	}
	return verdict{}
}

// whole accounts for an expected stream.
func (l *ledger) whole(s Stream, p *pages) Account {
	w := l.windows[s.UID]
	a := Account{Stream: s, Expected: true, From: w.From, To: w.To, Disagreement: w.Disagreement()}
	for _, r := range w.readings {
		isStored, isArrived := p.stored.whole[r.Time] > 0, p.arrived.whole[r.Time] > 0
		if isStored {
			a.Count++
			if !isArrived {
				a.Unrecorded = append(a.Unrecorded, r.Time)
			}
		} else {
			a.Missing = append(a.Missing, r.Time)
			if _, published := w.published[r.Time]; !published {
				a.Unpublished = append(a.Unpublished, r.Time)
			} else if isArrived {
				a.Unstored = append(a.Unstored, r.Time)
			}
		}
		if p.stored.altered[r.Time] > 0 || p.arrived.altered[r.Time] > 0 {
			a.Altered = append(a.Altered, r.Time)
		}
		a.Doubled += max(0, p.arrived.whole[r.Time]+p.arrived.altered[r.Time]-1)
	}
	a.Unexpected = max(len(p.stored.strange), len(p.arrived.strange)) + len(a.Altered)
	if l.question.isShared(s) {
		a.Doubled, a.Unexpected = 0, len(a.Altered)
	}
	return a
}

// empty accounts for a stream that should be.
func (p *pages) empty(s Stream) Account {
	a := Account{Stream: s, Unexpected: max(total(p.stored.all), total(p.arrived.all))}
	first := true
	for _, samples := range []map[identity]int{p.stored.all, p.arrived.all} {
		for sample := range samples {
			if first || sample.time < a.From {
				a.From = sample.time
			}
			if first || sample.time > a.To {
				a.To = sample.time
			}
			first = false
		}
	}
	return a
}

func total(m map[identity]int) int {
	n := 0
	for _, c := range m {
		n += c
	}
	return n
}

func sorted(m map[Stream]*pages) []Stream {
	return slices.SortedFunc(maps.Keys(m), func(a, b Stream) int {
		return cmp.Or(cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.UID, b.UID))
	})
}
