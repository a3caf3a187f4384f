// Package ledger judges what was delivered against what was published. It is
// pure: no clock, no network, no files.
//
// Invariants:
//   - What is expected comes from what the mapper says that it published, never
//     from what arrived.
//   - A sample is (uid, epoch, seq), and only whole if everything in it is as
//     published: a sample with another's readings is missing, and an unexpected
//     one stands in its place.
//   - What was stored tells what is missing; what arrived tells what is doubled.
//     Where the two sources disagree, the verdict does not hold.
//   - Only what lies in a sensor's window is judged: in its epoch from From to
//     To, or in the time between those two samples. What is outside, from
//     before a run say, changes no verdict.
//
// To try it: go test ./scenarios/ledger.
package ledger

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Sample is one sample at one place on its way.
type Sample struct {
	// Endpoint that it arrived at, empty where it was published.
	Endpoint string
	UID      string
	// Epoch is the start of the sensor's stream, ns; Seq counts from 1 in it.
	Epoch, Seq int64
	// Time of the sample, ns.
	Time int64
	// Body is all else in it, in a form that is the same wherever it is the same.
	Body string
}

// Stream is one sensor's data at one endpoint.
type Stream struct {
	Endpoint, UID string
}

// Window is what one sensor published and is judged by.
type Window struct {
	UID             string
	Epoch, From, To int64
	published       map[int64]Sample
	start, end      int64 // times of From and To
}

// Size is the number of samples in the window.
func (w Window) Size() int { return len(w.published) }

// covers tells whether a sample claims to be of the window.
func (w Window) covers(s Sample) bool {
	return s.Epoch == w.Epoch && w.From <= s.Seq && s.Seq <= w.To || w.start <= s.Time && s.Time <= w.end
}

// RestartError says that a sensor's stream began anew while it was looked at.
type RestartError struct {
	UID      string
	Old, New int64 // epochs
}

func (e *RestartError) Error() string {
	return fmt.Sprintf("the stream of sensor %s began anew (epoch %d, then %d)", e.UID, e.Old, e.New)
}

// Open makes the window of one sensor from the samples that it published, in
// the order of the journal: all of those after a time (ns). An empty window is
// no error. A stream that began anew (RestartError) or that has a gap cannot be
// judged by.
func Open(uid string, published []Sample, after int64) (Window, error) {
	w := Window{UID: uid, published: map[int64]Sample{}}
	for _, s := range published {
		if s.UID != uid || s.Time <= after {
			continue
		}
		switch {
		case len(w.published) == 0:
			w.Epoch, w.From, w.start = s.Epoch, s.Seq, s.Time
		case s.Epoch != w.Epoch:
			return w, &RestartError{UID: uid, Old: w.Epoch, New: s.Epoch}
		case s.Seq != w.To+1:
			return w, fmt.Errorf("the journal of sensor %s has %d after %d", uid, s.Seq, w.To)
		case s.Time <= w.end:
			return w, fmt.Errorf("samples %d and %d of sensor %s have times in the wrong order", w.To, s.Seq, uid)
		}
		w.To, w.end = s.Seq, s.Time
		w.published[s.Seq] = s
	}
	return w, nil
}

// Question is what should have been delivered.
type Question struct {
	// Windows of all sensors in question, one for each.
	Windows []Window
	// Endpoints that are looked at. What arrived at others is nobody's business here.
	Endpoints []string
	// Expected streams must be whole; any other must be empty.
	Expected []Stream
	// Shared tells that somebody else has asked for a stream as well: doubles and
	// unexpected samples in it are not judged. Nil: none is shared.
	Shared func(Stream) bool
}

// Account is what became of one stream.
type Account struct {
	Stream
	// Expected is false for a stream that should not be.
	Expected bool
	// From and To are the window; of a stream that should not be, what was seen.
	From, To int64
	// Count of samples that were stored as published.
	Count int
	// Missing were published and not stored as published.
	Missing []int64
	// Doubled counts arrivals of a sample beyond its first.
	Doubled int
	// Unexpected counts samples that were not published, or not for this stream.
	Unexpected int
	// Altered arrived or were stored with another body or time.
	Altered []int64
	// Unstored are among Missing: they arrived as published and were not stored.
	Unstored []int64
	// Unrecorded were stored, and no arrival of them is known.
	Unrecorded []int64
}

// Holds tells whether the stream is as it should be.
func (a Account) Holds() bool {
	return len(a.Missing) == 0 && a.Doubled == 0 && a.Unexpected == 0 && len(a.Altered) == 0 && len(a.Unrecorded) == 0
}

// Problem says in one line what is wrong, "" if nothing is.
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
		what string
		seqs []int64
	}{
		{"missing", a.Missing}, {"altered", a.Altered}, {"of the missing arrived but not stored", a.Unstored},
		{"stored without an arrival", a.Unrecorded},
	} {
		if len(l.seqs) > 0 {
			what = append(what, fmt.Sprintf("%d %s (seq %s)", len(l.seqs), l.what, list(l.seqs)))
		}
	}
	if a.Doubled > 0 {
		what = append(what, fmt.Sprintf("%d doubled", a.Doubled))
	}
	return fmt.Sprintf("%s, sensor %s, seq %d to %d: %s", a.Endpoint, a.UID, a.From, a.To, strings.Join(what, ", "))
}

// list shows the first few numbers.
func list(seqs []int64) string {
	const most = 5
	var texts []string
	for _, s := range seqs[:min(len(seqs), most)] {
		texts = append(texts, fmt.Sprint(s))
	}
	if len(seqs) > most {
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

// Problems says what is wrong, a line for each stream.
func (v Verdict) Problems() []string {
	var lines []string
	for _, a := range v.Streams {
		if p := a.Problem(); p != "" {
			lines = append(lines, p)
		}
	}
	return lines
}

// Judge what was stored and what arrived. The order of both does not matter.
func Judge(q Question, stored, arrived []Sample) Verdict {
	l := &ledger{
		windows: map[string]Window{}, judged: map[string]bool{}, shared: q.Shared,
		expected: map[Stream]*pages{}, others: map[Stream]*pages{},
	}
	for i, w := range q.Windows {
		l.windows[w.UID] = w
		if i == 0 || w.start < l.start {
			l.start = w.start
		}
		if i == 0 || w.end > l.end {
			l.end = w.end
		}
	}
	for _, e := range q.Endpoints {
		l.judged[e] = true
	}
	for _, s := range q.Expected {
		l.expected[s] = newPages()
	}
	for _, s := range stored {
		if p, ok := l.page(s); ok {
			p.stored.add(s, l.published(s))
		}
	}
	for _, s := range arrived {
		if p, ok := l.page(s); ok {
			p.arrived.add(s, l.published(s))
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
	windows    map[string]Window
	start, end int64 // of all windows
	judged     map[string]bool
	shared     func(Stream) bool
	expected   map[Stream]*pages
	others     map[Stream]*pages
}

// pages are what is known of one stream, by source.
type pages struct {
	stored, arrived page
}

type page struct {
	// whole counts samples as published, altered those with another body.
	whole, altered map[int64]int
	// strange are samples that were never published; all is everything.
	strange, all map[Sample]int
}

func newPages() *pages {
	return &pages{stored: newPage(), arrived: newPage()}
}

func newPage() page {
	return page{whole: map[int64]int{}, altered: map[int64]int{}, strange: map[Sample]int{}, all: map[Sample]int{}}
}

// state of a sample against what was published.
type state int

const (
	strange state = iota
	altered
	whole
)

func (p page) add(s Sample, st state) {
	p.all[s]++
	switch st {
	case whole:
		p.whole[s.Seq]++
	case altered:
		p.altered[s.Seq]++
	default:
		p.strange[s]++
	}
}

// page of a sample's stream; none if the sample is not judged.
func (l *ledger) page(s Sample) (*pages, bool) {
	if !l.judged[s.Endpoint] {
		return nil, false
	}
	if w, ok := l.windows[s.UID]; ok && !w.covers(s) {
		return nil, false
	} else if !ok && (s.Time < l.start || s.Time > l.end) {
		return nil, false
	}
	stream := Stream{s.Endpoint, s.UID}
	if p, ok := l.expected[stream]; ok {
		return p, true
	}
	if l.isShared(stream) {
		return nil, false
	}
	p, ok := l.others[stream]
	if !ok {
		p = newPages()
		l.others[stream] = p
	}
	return p, true
}

func (l *ledger) isShared(s Stream) bool { return l.shared != nil && l.shared(s) }

// published compares a sample with the one of its number.
func (l *ledger) published(s Sample) state {
	w, ok := l.windows[s.UID]
	if !ok || s.Epoch != w.Epoch {
		return strange
	}
	p, ok := w.published[s.Seq]
	switch {
	case !ok:
		return strange
	case p.Body != s.Body || p.Time != s.Time:
		return altered
	}
	return whole
}

// whole accounts for an expected stream.
func (l *ledger) whole(s Stream, p *pages) Account {
	w := l.windows[s.UID]
	a := Account{Stream: s, Expected: true, From: w.From, To: w.To}
	for _, seq := range slices.Sorted(maps.Keys(w.published)) {
		isStored, isArrived := p.stored.whole[seq] > 0, p.arrived.whole[seq] > 0
		if isStored {
			a.Count++
			if !isArrived {
				a.Unrecorded = append(a.Unrecorded, seq)
			}
		} else {
			a.Missing = append(a.Missing, seq)
			if isArrived {
				a.Unstored = append(a.Unstored, seq)
			}
		}
		if p.stored.altered[seq] > 0 || p.arrived.altered[seq] > 0 {
			a.Altered = append(a.Altered, seq)
		}
		a.Doubled += max(0, p.arrived.whole[seq]+p.arrived.altered[seq]-1)
	}
	a.Unexpected = max(len(p.stored.strange), len(p.arrived.strange)) + len(a.Altered)
	if l.isShared(s) {
		a.Doubled, a.Unexpected = 0, len(a.Altered)
	}
	return a
}

// empty accounts for a stream that should be.
func (p *pages) empty(s Stream) Account {
	a := Account{Stream: s, Unexpected: max(total(p.stored.all), total(p.arrived.all))}
	seqs := map[int64]bool{}
	for _, samples := range []map[Sample]int{p.stored.all, p.arrived.all} {
		for sample := range samples {
			seqs[sample.Seq] = true
		}
	}
	ordered := slices.Sorted(maps.Keys(seqs))
	a.From, a.To = ordered[0], ordered[len(ordered)-1]
	return a
}

func total(m map[Sample]int) int {
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
