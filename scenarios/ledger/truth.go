package ledger

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
)

// Mismatch is one difference between what a board measured and what is stored.
type Mismatch struct {
	Stream
	// Time of the emission, or of the sample that no board emitted, ns.
	Time int64
	// Field whose value differs, "" where it is not about one value.
	Field string
	// Problem says what differs, with the expected and the stored value.
	Problem string
}

// Step is how a frame holds a field: in steps, from the least to the most. A value
// beyond that is sent as the nearest that fits.
type Step struct{ Size, Least, Most float64 }

// Steps tells how a frame holds a field of a part; false for a field that the part does
// not have.
type Steps func(part, field string) (step Step, ok bool)

// tolerance of a comparison, of the step, for what floating point rounds.
const tolerance = 1e-6

// Truth compares what is stored with what the boards measured: every reading of a
// window is stored at each endpoint that expects it, each of its values is within half
// a step of what was measured, and nothing is stored in a window that no board
// emitted. A sensor without a window may be stored only where somebody else asks for
// it. Mismatches are in the order of endpoint, uid and time.
func Truth(q Question, stored []Sample, steps Steps) []Mismatch {
	l := newLedger(q)
	expected := map[Stream]map[int64]bool{} // and whether it is there, by time
	for _, s := range q.Expected {
		expected[s] = map[int64]bool{}
	}
	var out []Mismatch
	seen := map[Stream]map[identity]bool{}
	for _, s := range stored {
		if !l.inWindow(s) {
			continue
		}
		stream := Stream{s.Endpoint, s.UID}
		if seen[stream] == nil {
			seen[stream] = map[identity]bool{}
		}
		if seen[stream][s.identity()] {
			continue
		}
		seen[stream][s.identity()] = true
		w, inQuestion := l.windows[s.UID]
		if !inQuestion {
			if !q.isShared(stream) {
				out = append(out, Mismatch{Stream: stream, Time: s.Time, Problem: fmt.Sprintf("stored with the time %s: nobody asked for data of this sensor here", Clock(s.Time))})
			}
			continue
		}
		r, ok := w.at[s.Time]
		if !ok {
			out = append(out, Mismatch{Stream: stream, Time: s.Time, Problem: fmt.Sprintf("stored with the time %s (%d): no board emitted it", Clock(s.Time), s.Time)})
			continue
		}
		if there, ok := expected[stream]; ok {
			there[s.Time] = true
		}
		for _, m := range compare(r, s, steps) {
			m.Stream = stream
			out = append(out, m)
		}
	}
	for stream, there := range expected {
		for _, r := range l.windows[stream.UID].readings {
			if !there[r.Time] {
				out = append(out, Mismatch{Stream: stream, Time: r.Time, Problem: fmt.Sprintf("emitted at %s with %s, and not stored", Clock(r.Time), show(r.Values))})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Mismatch) int {
		return cmp.Or(cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.UID, b.UID), cmp.Compare(a.Time, b.Time), cmp.Compare(a.Field, b.Field))
	})
	return out
}

// compare one stored sample with its reading.
func compare(r Reading, s Sample, steps Steps) []Mismatch {
	var out []Mismatch
	differs := func(field, format string, args ...any) {
		out = append(out, Mismatch{Time: r.Time, Field: field, Problem: fmt.Sprintf("emitted at %s: ", Clock(r.Time)) + fmt.Sprintf(format, args...)})
	}
	for _, tag := range []struct{ name, emitted, stored string }{
		{"category", r.Category, s.Category}, {"device", r.Device, s.Device}, {"node", r.Node, s.Node}, {"part", r.Part, s.Part},
	} {
		if tag.emitted != tag.stored {
			differs(tag.name, "%s %s, stored with %s", tag.name, tag.emitted, tag.stored)
		}
	}
	stored := map[string]float64{}
	for _, v := range s.Values {
		stored[v.Field] = v.Number
	}
	for _, v := range r.Values {
		got, ok := stored[v.Field]
		delete(stored, v.Field)
		step, known := steps(r.Part, v.Field)
		switch {
		case !known:
			differs(v.Field, "%s is no field of a %s", v.Field, r.Part)
		case !ok:
			differs(v.Field, "%s %s was measured, and is not stored", v.Field, number(v.Number))
		case math.IsNaN(got) || math.Abs(got-min(max(v.Number, step.Least), step.Most)) > (0.5+tolerance)*step.Size:
			differs(v.Field, "%s %s was measured, %s is stored (half a step is %s)", v.Field, number(v.Number), number(got), number(step.Size/2))
		}
	}
	for _, field := range slices.Sorted(maps.Keys(stored)) {
		differs(field, "%s %s is stored, and was not measured", field, number(stored[field]))
	}
	return out
}

// Latency is what the samples of one sensor say of the way from the board to the
// mapper, in ms.
type Latency struct {
	UID string
	// Samples that were looked at, each once however often it is stored.
	Samples int
	// Absent samples have no sensor_latency_ms.
	Absent int
	// Early are the times of samples that say less than the board took to hand their
	// frame over.
	Early []int64
	// LeastExcess is the smallest of what samples say beyond the board's delay.
	LeastExcess float64
	// Said is what they say, in the order of emission, and Delays the boards' delays
	// beside it.
	Said, Delays []float64
}

// Latencies compares sensor_latency_ms of what is stored with the delays that the
// boards drew, for each window that has stored samples. slack in ms is what rounding
// may take away.
func Latencies(windows []Window, stored []Sample, slack float64) []Latency {
	type key struct {
		uid  string
		time int64
	}
	of := map[key]Sample{}
	for _, s := range stored {
		if _, ok := of[key{s.UID, s.Time}]; !ok {
			of[key{s.UID, s.Time}] = s
		}
	}
	var out []Latency
	for _, w := range windows {
		l := Latency{UID: w.UID}
		least := math.Inf(1)
		for _, r := range w.readings {
			s, ok := of[key{w.UID, r.Time}]
			if !ok {
				continue
			}
			l.Samples++
			if !s.HasLatency {
				l.Absent++
				continue
			}
			over := s.Latency - r.Delay
			if over < -slack {
				l.Early = append(l.Early, r.Time)
			}
			least = min(least, over)
			l.Said, l.Delays = append(l.Said, s.Latency), append(l.Delays, r.Delay)
		}
		if l.Samples == 0 {
			continue
		}
		if len(l.Said) > 0 {
			l.LeastExcess = least
		}
		out = append(out, l)
	}
	return out
}

// Percentile is the smallest of some values that at least a share p of them do not
// exceed; 0 for none.
func Percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return 0
	}
	ordered := slices.Sorted(slices.Values(values))
	i := int(math.Ceil(p*float64(len(ordered)))) - 1
	return ordered[min(max(i, 0), len(ordered)-1)]
}

func show(values []Value) string {
	text := ""
	for i, v := range values {
		if i > 0 {
			text += ", "
		}
		text += v.Field + " " + number(v.Number)
	}
	return text
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 7, 64) }
