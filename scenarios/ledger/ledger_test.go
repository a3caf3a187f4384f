package ledger_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/fluidos-edge/testbed/scenarios/ledger"
)

const epoch = 1000

// published samples of a sensor, from seq first on; sample n has the time 10 n.
func published(uid string, first, count int64) []ledger.Sample {
	var out []ledger.Sample
	for seq := first; seq < first+count; seq++ {
		out = append(out, ledger.Sample{UID: uid, Device: "d-" + uid, Part: "p", Epoch: epoch, Seq: seq, Time: 10 * seq, Body: fmt.Sprintf("%s reads %d", uid, seq),
			Values: []ledger.Value{{Field: "x", Number: math.Round(value(seq)*10) / 10}}, Latency: delay + 0.25, HasLatency: true})
	}
	return out
}

// emitted readings that become those samples.
func emitted(uid string, first, count int64) []ledger.Reading {
	var out []ledger.Reading
	for n := first; n < first+count; n++ {
		out = append(out, ledger.Reading{UID: uid, Device: "d-" + uid, Part: "p", Time: 10 * n, Values: []ledger.Value{{Field: "x", Number: value(n)}}, Delay: delay})
	}
	return out
}

const delay = 5.0

// value measured; between two steps of a tenth.
func value(n int64) float64 { return float64(n) + 0.03 }

func steps(part, field string) (ledger.Step, bool) {
	return ledger.Step{Size: 0.1, Least: -10, Most: 100}, part == "p" && field == "x"
}

func at(endpoint string, samples ...ledger.Sample) []ledger.Sample {
	out := slices.Clone(samples)
	for i := range out {
		out[i].Endpoint = endpoint
	}
	return out
}

func open(t interface {
	Helper()
	Fatal(...any)
}, uid string, first, count int64) ledger.Window {
	t.Helper()
	w, err := ledger.Open(uid, emitted(uid, first, count), published(uid, first, count), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestOpen(t *testing.T) {
	readings := append(emitted("s", 5, 6), emitted("other", 1, 3)...)
	samples := append(published("s", 5, 6), published("other", 1, 3)...)
	without := func(i int) []ledger.Sample { return slices.Delete(published("s", 5, 6), i, i+1) }
	tests := []struct {
		name         string
		readings     []ledger.Reading
		samples      []ledger.Sample
		after, until int64
		from, to     int64
		size         int
		unpublished  []int64
		invented     int
		repeated     int
		gaps         int
		err          string
	}{
		{name: "all", readings: readings, samples: samples, from: 50, to: 100, size: 6},
		{name: "only later ones", readings: readings, samples: samples, after: 70, from: 80, to: 100, size: 3},
		{name: "only earlier ones", readings: readings, samples: samples, until: 70, from: 50, to: 70, size: 3},
		{name: "none yet", readings: readings, samples: samples, after: 100},
		{name: "another sensor only", readings: emitted("other", 1, 3), samples: samples},
		{name: "the mapper published nothing", readings: readings, from: 50, to: 100, size: 6, unpublished: []int64{50, 60, 70, 80, 90, 100}},
		{name: "the mapper dropped one before counting", readings: readings, samples: without(2), from: 50, to: 100, size: 6, unpublished: []int64{70}, gaps: 1},
		{name: "the mapper counted one twice", readings: readings, samples: append(published("s", 5, 6), published("s", 10, 1)...), from: 50, to: 100, size: 6, repeated: 1, gaps: 1},
		{name: "the mapper published one reading twice", readings: readings, from: 50, to: 100, size: 6, repeated: 1,
			samples: append(published("s", 5, 6), ledger.Sample{UID: "s", Epoch: epoch, Seq: 11, Time: 100})},
		{name: "the mapper made one up", readings: readings, from: 50, to: 100, size: 6, invented: 1, gaps: 2, unpublished: []int64{70},
			samples: append(without(2), ledger.Sample{UID: "s", Epoch: epoch, Seq: 7, Time: 71})},
		{name: "new epoch", readings: readings, samples: append(published("s", 5, 2), ledger.Sample{UID: "s", Epoch: 2000, Seq: 1, Time: 99}), err: "began anew"},
		{name: "new epoch before", readings: readings, samples: append(published("s", 5, 2), ledger.Sample{UID: "s", Epoch: 2000, Seq: 1, Time: 100}), after: 90, from: 100, to: 100, size: 1},
		{name: "time stands still", readings: append(emitted("s", 5, 1), emitted("s", 5, 1)...), err: "wrong order"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, err := ledger.Open("s", tt.readings, tt.samples, tt.after, tt.until)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				var restart *ledger.RestartError
				if got, want := errors.As(err, &restart), tt.err == "began anew"; got != want {
					t.Errorf("is a RestartError: %t, want %t", got, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, want := []int64{w.From, w.To, int64(w.Size())}, []int64{tt.from, tt.to, int64(tt.size)}; !cmp.Equal(got, want) {
				t.Errorf("window %v, want %v", got, want)
			}
			if !slices.Equal(w.Unpublished, tt.unpublished) || len(w.Invented) != tt.invented || len(w.Repeated) != tt.repeated || len(w.Gaps) != tt.gaps {
				t.Errorf("unpublished %v, invented %v, gaps %v", w.Unpublished, w.Invented, w.Gaps)
			}
			if agrees := w.Disagreement() == ""; agrees != (len(tt.unpublished)+tt.invented+tt.repeated+tt.gaps == 0) {
				t.Errorf("disagreement %q", w.Disagreement())
			}
		})
	}
}

func TestJudge(t *testing.T) {
	s, other := published("s", 5, 4), published("other", 7, 4)
	window, otherWindow := open(t, "s", 5, 4), open(t, "other", 7, 4)
	stream := ledger.Stream{Endpoint: "c/a", UID: "s"}
	whole := ledger.Account{Stream: stream, Expected: true, From: 50, To: 80, Count: 4}
	altered := s[1]
	altered.Body = other[1].Body
	moved := s[1]
	moved.Time++
	forged := s[1]
	forged.Epoch = 3

	without := func(samples []ledger.Sample, i int) []ledger.Sample {
		return slices.Delete(slices.Clone(samples), i, i+1)
	}
	with := func(f func(*ledger.Account)) ledger.Account { a := whole; f(&a); return a }

	tests := []struct {
		name            string
		stored, arrived []ledger.Sample
		shared          bool
		want            []ledger.Account
		holds           bool
	}{
		{name: "whole", stored: at("c/a", s...), arrived: at("c/a", s...), want: []ledger.Account{whole}, holds: true},
		{name: "in any order", stored: at("c/a", s[3], s[0], s[2], s[1]), arrived: at("c/a", s[1], s[3], s[0], s[2]), want: []ledger.Account{whole}, holds: true},
		{name: "nothing", want: []ledger.Account{with(func(a *ledger.Account) { a.Count, a.Missing = 0, []int64{50, 60, 70, 80} })}},
		{name: "lost on the way", stored: at("c/a", without(s, 1)...), arrived: at("c/a", without(s, 1)...),
			want: []ledger.Account{with(func(a *ledger.Account) { a.Count, a.Missing = 3, []int64{60} })}},
		{name: "lost in the sink", stored: at("c/a", without(s, 1)...), arrived: at("c/a", s...),
			want: []ledger.Account{with(func(a *ledger.Account) { a.Count, a.Missing, a.Unstored = 3, []int64{60}, []int64{60} })}},
		{name: "stored without an arrival", stored: at("c/a", s...), arrived: at("c/a", without(s, 1)...),
			want: []ledger.Account{with(func(a *ledger.Account) { a.Unrecorded = []int64{60} })}},
		{name: "doubled", stored: at("c/a", s...), arrived: append(at("c/a", s...), at("c/a", s[1], s[1], s[2])...),
			want: []ledger.Account{with(func(a *ledger.Account) { a.Doubled = 3 })}},
		{name: "readings of another", stored: append(at("c/a", without(s, 1)...), at("c/a", altered)...), arrived: append(at("c/a", without(s, 1)...), at("c/a", altered)...),
			want: []ledger.Account{with(func(a *ledger.Account) {
				a.Count, a.Missing, a.Altered, a.Unexpected = 3, []int64{60}, []int64{60}, 1
			})}},
		{name: "another time", stored: append(at("c/a", s...), at("c/a", moved)...), arrived: at("c/a", s...),
			want: []ledger.Account{with(func(a *ledger.Account) { a.Altered, a.Unexpected = []int64{60}, 1 })}},
		{name: "another epoch in the window's time", stored: append(at("c/a", s...), at("c/a", forged)...), arrived: append(at("c/a", s...), at("c/a", forged)...),
			want: []ledger.Account{with(func(a *ledger.Account) { a.Unexpected = 1 })}},
		{name: "before and after the window", stored: append(at("c/a", s...), at("c/a", append(published("s", 1, 4), published("s", 9, 3)...)...)...),
			arrived: append(at("c/a", s...), at("c/a", published("s", 9, 3)...)...), want: []ledger.Account{whole}, holds: true},
		{name: "another sensor's", stored: append(at("c/a", s...), at("c/a", other[0], other[2])...), arrived: append(at("c/a", s...), at("c/a", other[0])...),
			want: []ledger.Account{whole, {Stream: ledger.Stream{Endpoint: "c/a", UID: "other"}, From: 70, To: 90, Unexpected: 2}}},
		{name: "at another endpoint", stored: at("c/a", s...), arrived: append(at("c/a", s...), at("c/b", s[0])...),
			want: []ledger.Account{whole, {Stream: ledger.Stream{Endpoint: "c/b", UID: "s"}, From: 50, To: 50, Unexpected: 1}}},
		{name: "at an endpoint that is not looked at", stored: at("c/a", s...), arrived: append(at("c/a", s...), at("c/witness", other...)...),
			want: []ledger.Account{whole}, holds: true},
		{name: "of nobody", stored: at("c/a", s...), arrived: append(at("c/a", s...), ledger.Sample{Endpoint: "c/a", UID: "x", Epoch: 1, Seq: 1, Time: 60}),
			want: []ledger.Account{whole, {Stream: ledger.Stream{Endpoint: "c/a", UID: "x"}, From: 60, To: 60, Unexpected: 1}}},
		{name: "of nobody at another time", stored: at("c/a", s...), arrived: append(at("c/a", s...), ledger.Sample{Endpoint: "c/a", UID: "x", Epoch: 1, Seq: 1, Time: 1}),
			want: []ledger.Account{whole}, holds: true},
		{name: "somebody else asked too", shared: true, stored: append(at("c/a", s...), at("c/b", s...)...),
			arrived: slices.Concat(at("c/a", s...), at("c/a", s...), at("c/b", s...)), want: []ledger.Account{whole}, holds: true},
		{name: "somebody else asked too, and yet lost", shared: true, stored: at("c/a", without(s, 1)...), arrived: at("c/a", without(s, 1)...),
			want: []ledger.Account{with(func(a *ledger.Account) { a.Count, a.Missing = 3, []int64{60} })}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q := ledger.Question{Windows: []ledger.Window{window, otherWindow}, Endpoints: []string{"c/a", "c/b"}, Expected: []ledger.Stream{stream}}
			if tt.shared {
				q.Shared = func(ledger.Stream) bool { return true }
			}
			v := ledger.Judge(q, tt.stored, tt.arrived)
			if diff := cmp.Diff(tt.want, v.Streams); diff != "" {
				t.Errorf("accounts (-want +got):\n%s", diff)
			}
			if v.Holds() != tt.holds {
				t.Errorf("holds: %t, want %t", v.Holds(), tt.holds)
			}
			for _, a := range v.Streams {
				if got := a.Problem() == ""; got != a.Holds() {
					t.Errorf("problem %q", a.Problem())
				}
			}
		})
	}
}

// world is drawn: what is published, what should go where.
type world struct {
	question  ledger.Question
	published map[string][]ledger.Sample
	endpoints []string
}

func drawWorld(t *rapid.T) world {
	w := world{published: map[string][]ledger.Sample{}}
	for i := range rapid.IntRange(1, 4).Draw(t, "sensors") {
		uid := fmt.Sprintf("s%d", i)
		first, count := rapid.Int64Range(1, 50).Draw(t, "first"), rapid.Int64Range(1, 12).Draw(t, "count")
		w.published[uid] = published(uid, first, count)
		w.question.Windows = append(w.question.Windows, open(t, uid, first, count))
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "endpoints") {
		e := fmt.Sprintf("c%d/a", i)
		w.endpoints = append(w.endpoints, e)
		for _, win := range w.question.Windows {
			if rapid.Bool().Draw(t, "expected") {
				w.question.Expected = append(w.question.Expected, ledger.Stream{Endpoint: e, UID: win.UID})
			}
		}
	}
	w.question.Endpoints = w.endpoints
	return w
}

// delivered is what a faultless testbed delivers.
func (w world) delivered() []ledger.Sample {
	var out []ledger.Sample
	for _, s := range w.question.Expected {
		out = append(out, at(s.Endpoint, w.published[s.UID]...)...)
	}
	return out
}

func TestFaultlessDeliveryHoldsInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		stored := rapid.Permutation(w.delivered()).Draw(t, "stored")
		arrived := rapid.Permutation(w.delivered()).Draw(t, "arrived")
		v := ledger.Judge(w.question, stored, arrived)
		if !v.Holds() {
			t.Fatalf("does not hold: %+v", v)
		}
		if m := ledger.Truth(w.question, stored, steps); len(m) > 0 {
			t.Fatalf("not true: %+v", m)
		}
		if len(v.Streams) != len(w.question.Expected) {
			t.Fatalf("%d accounts of %d streams", len(v.Streams), len(w.question.Expected))
		}
	})
}

func TestAnySingleFaultIsSeenWhereItIs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		all := w.delivered()
		if len(all) == 0 {
			t.Skip("nothing is expected")
		}
		i := rapid.IntRange(0, len(all)-1).Draw(t, "sample")
		hit := all[i]
		stream := ledger.Stream{Endpoint: hit.Endpoint, UID: hit.UID}
		stored, arrived := slices.Clone(all), slices.Clone(all)
		check := func(ledger.Account) bool { return false }
		switch rapid.SampledFrom([]string{"drop", "double", "alter", "unstored", "leak"}).Draw(t, "fault") {
		case "drop":
			stored, arrived = slices.Delete(stored, i, i+1), slices.Delete(arrived, i, i+1)
			check = func(a ledger.Account) bool { return cmp.Equal(a.Missing, []int64{hit.Time}) }
		case "double":
			arrived = append(arrived, hit)
			check = func(a ledger.Account) bool { return a.Doubled == 1 && len(a.Missing) == 0 }
		case "alter":
			stored[i].Body, arrived[i].Body = "altered", "altered"
			check = func(a ledger.Account) bool { return cmp.Equal(a.Altered, []int64{hit.Time}) && a.Unexpected == 1 }
		case "unstored":
			stored = slices.Delete(stored, i, i+1)
			check = func(a ledger.Account) bool { return cmp.Equal(a.Unstored, []int64{hit.Time}) }
		case "leak":
			win := rapid.SampledFrom(w.question.Windows).Draw(t, "leaking")
			stream = ledger.Stream{Endpoint: rapid.SampledFrom(w.endpoints).Draw(t, "to"), UID: win.UID}
			if slices.Contains(w.question.Expected, stream) {
				t.Skip("that one is expected")
			}
			arrived = append(arrived, at(stream.Endpoint, rapid.SampledFrom(w.published[win.UID]).Draw(t, "leaked"))...)
			check = func(a ledger.Account) bool { return !a.Expected && a.Unexpected == 1 }
		}
		v := ledger.Judge(w.question, stored, arrived)
		if v.Holds() {
			t.Fatal("holds")
		}
		for _, a := range v.Streams {
			if a.Stream == stream != !a.Holds() {
				t.Fatalf("account of %v: holds is %t; the fault is at %v", a.Stream, a.Holds(), stream)
			}
			if a.Stream == stream && !check(a) {
				t.Fatalf("account %+v", a)
			}
		}
	})
}

// What lies outside of the windows changes no verdict.
func TestOutsideIsNotJudged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		all := w.delivered()
		for range rapid.IntRange(0, 10).Draw(t, "strangers") {
			win := rapid.SampledFrom(w.question.Windows).Draw(t, "of")
			seq := rapid.SampledFrom([]int64{win.From/10 - 1, win.To/10 + 1, win.To/10 + 9}).Draw(t, "seq")
			all = append(all, ledger.Sample{Endpoint: rapid.SampledFrom(w.endpoints).Draw(t, "at"), UID: win.UID, Epoch: epoch, Seq: seq, Time: 10 * seq})
		}
		if v := ledger.Judge(w.question, all, all); !v.Holds() {
			t.Fatalf("does not hold: %+v", v)
		}
		if m := ledger.Truth(w.question, all, steps); len(m) > 0 {
			t.Fatalf("not true: %+v", m)
		}
	})
}

func TestTruth(t *testing.T) {
	s := published("s", 5, 4)
	change := func(i int, f func(*ledger.Sample)) []ledger.Sample {
		out := at("c/a", s...)
		out[i].Values = slices.Clone(out[i].Values)
		f(&out[i])
		return out
	}
	tests := []struct {
		name   string
		stored []ledger.Sample
		shared bool
		want   []string // parts of the problems
	}{
		{name: "as measured", stored: at("c/a", s...)},
		{name: "half a step off", stored: change(1, func(x *ledger.Sample) { x.Values[0].Number = value(6) + 0.05 })},
		{name: "more than half a step off", stored: change(1, func(x *ledger.Sample) { x.Values[0].Number = value(6) - 0.0501 }), want: []string{"x 6.03 was measured, 5.9799 is stored"}},
		{name: "scaled", stored: change(2, func(x *ledger.Sample) { x.Values[0].Number *= 1.5 }), want: []string{"x 7.03 was measured, 10.5 is stored"}},
		{name: "no number", stored: change(2, func(x *ledger.Sample) { x.Values[0].Number = math.NaN() }), want: []string{"NaN is stored"}},
		{name: "not stored", stored: at("c/a", s[0], s[1], s[3]), want: []string{"emitted at 00:00:00.000 with x 7.03, and not stored"}},
		{name: "stored and not emitted", stored: append(at("c/a", s...), at("c/a", ledger.Sample{UID: "s", Device: "d-s", Part: "p", Time: 61})...), want: []string{"no board emitted it"}},
		{name: "of a sensor that there is not", stored: append(at("c/a", s...), at("c/a", ledger.Sample{UID: "x", Time: 61})...), want: []string{"nobody asked for data of this sensor here"}},
		{name: "of a sensor that somebody else asks for", shared: true, stored: append(at("c/a", s...), at("c/a", ledger.Sample{UID: "x", Time: 61})...)},
		{name: "at another endpoint, wrong", stored: append(at("c/a", s...), change(1, func(x *ledger.Sample) { x.Endpoint, x.Values[0].Number = "c/b", 0 })[1]), want: []string{"x 6.03 was measured, 0 is stored"}},
		{name: "at the witness, wrong", stored: append(at("c/a", s...), change(1, func(x *ledger.Sample) { x.Endpoint, x.Values[0].Number = "c/witness", 0 })[1])},
		{name: "another identity", stored: change(1, func(x *ledger.Sample) { x.Device = "d-other" }), want: []string{"device d-s, stored with d-other"}},
		{name: "another node and category", stored: change(1, func(x *ledger.Sample) { x.Node, x.Category = "edge-9", "audio" }), want: []string{"category , stored with audio", "node , stored with edge-9"}},
		{name: "a field too many", stored: change(1, func(x *ledger.Sample) { x.Values = append(x.Values, ledger.Value{Field: "y", Number: 3}) }), want: []string{"y 3 is stored, and was not measured"}},
		{name: "a field too few", stored: change(1, func(x *ledger.Sample) { x.Values = nil }), want: []string{"x 6.03 was measured, and is not stored"}},
		{name: "outside of the window", stored: append(at("c/a", s...), at("c/a", ledger.Sample{UID: "s", Time: 49}, ledger.Sample{UID: "s", Time: 81})...)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q := ledger.Question{Windows: []ledger.Window{open(t, "s", 5, 4)}, Endpoints: []string{"c/a", "c/b"}, Expected: []ledger.Stream{{Endpoint: "c/a", UID: "s"}}}
			if tt.shared {
				q.Shared = func(ledger.Stream) bool { return true }
			}
			got := ledger.Truth(q, tt.stored, steps)
			if len(got) != len(tt.want) {
				t.Fatalf("%d mismatches, want %d: %+v", len(got), len(tt.want), got)
			}
			for i, want := range tt.want {
				if !strings.Contains(got[i].Problem, want) {
					t.Errorf("problem %q, want %q in it", got[i].Problem, want)
				}
			}
		})
	}
	t.Run("more than a frame can hold", func(t *testing.T) {
		for stored, holds := range map[float64]bool{100: true, 99.9: false, 6553: false} {
			readings, samples := emitted("s", 5, 1), at("c/a", published("s", 5, 1)...)
			readings[0].Values[0].Number, samples[0].Values[0].Number = 6553, stored
			w, err := ledger.Open("s", readings, published("s", 5, 1), 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			q := ledger.Question{Windows: []ledger.Window{w}, Endpoints: []string{"c/a"}, Expected: []ledger.Stream{{Endpoint: "c/a", UID: "s"}}}
			if got := ledger.Truth(q, samples, steps); (len(got) == 0) != holds {
				t.Errorf("%v stored of a measured 6553: %+v", stored, got)
			}
		}
	})
	t.Run("a field that the part does not have", func(t *testing.T) {
		q := ledger.Question{Windows: []ledger.Window{open(t, "s", 5, 1)}, Endpoints: []string{"c/a"}, Expected: []ledger.Stream{{Endpoint: "c/a", UID: "s"}}}
		got := ledger.Truth(q, at("c/a", s[:1]...), func(string, string) (ledger.Step, bool) { return ledger.Step{}, false })
		if len(got) != 1 || !strings.Contains(got[0].Problem, "x is no field of a p") {
			t.Errorf("%+v", got)
		}
	})
}

func TestLatencies(t *testing.T) {
	s := published("s", 1, 60)
	lie := func(f func(i int, x *ledger.Sample)) []ledger.Sample {
		out := at("c/a", s...)
		for i := range out {
			f(i, &out[i])
		}
		return out
	}
	tests := []struct {
		name   string
		stored []ledger.Sample
		want   ledger.Latency
	}{
		{"as it was", lie(func(int, *ledger.Sample) {}), ledger.Latency{Samples: 60, LeastExcess: 0.25}},
		{"at two endpoints", append(at("c/a", s...), at("c/b", s...)...), ledger.Latency{Samples: 60, LeastExcess: 0.25}},
		{"some are late", lie(func(i int, x *ledger.Sample) {
			if i%20 == 19 {
				x.Latency = 100
			}
		}), ledger.Latency{Samples: 60, LeastExcess: 0.25}},
		{"more are late", lie(func(i int, x *ledger.Sample) {
			if i%15 == 0 {
				x.Latency = 100
			}
		}), ledger.Latency{Samples: 60, LeastExcess: 0.25}},
		{"one is earlier than it can be", lie(func(i int, x *ledger.Sample) {
			if i == 3 {
				x.Latency = 4.5
			}
		}), ledger.Latency{Samples: 60, Early: []int64{40}, LeastExcess: -0.5}},
		{"all are later", lie(func(_ int, x *ledger.Sample) { x.Latency += 8 }), ledger.Latency{Samples: 60, LeastExcess: 8.25}},
		{"none says", lie(func(_ int, x *ledger.Sample) { x.HasLatency = false }), ledger.Latency{Samples: 60, Absent: 60}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.UID = "s"
			got := ledger.Latencies([]ledger.Window{open(t, "s", 1, 60), open(t, "other", 1, 2)}, tt.stored, 0.002)
			said := got[0].Said
			got[0].Said, got[0].Delays = nil, nil
			if diff := cmp.Diff([]ledger.Latency{tt.want}, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(said) != tt.want.Samples-tt.want.Absent || len(said) > 0 && said[10] != tt.stored[10].Latency {
				t.Errorf("said %v", said)
			}
		})
	}
	busy := append(slices.Repeat([]float64{5}, 57), 100, 100, 100)
	if got := ledger.Percentile(busy, 0.95); got != 5 {
		t.Errorf("with one in twenty late: %v", got)
	}
	if got := ledger.Percentile(append(busy, 100), 0.95); got != 100 {
		t.Errorf("with more than one in twenty late: %v", got)
	}
	if got := ledger.Percentile([]float64{4, 1, 3, 2}, 0.5); got != 2 {
		t.Errorf("the median of 1 to 4 is %v", got)
	}
	if got := ledger.Percentile(nil, 0.95); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}
