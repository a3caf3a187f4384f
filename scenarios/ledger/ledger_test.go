package ledger_test

import (
	"errors"
	"fmt"
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
		out = append(out, ledger.Sample{UID: uid, Epoch: epoch, Seq: seq, Time: 10 * seq, Body: fmt.Sprintf("%s reads %d", uid, seq)})
	}
	return out
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
}, uid string, samples []ledger.Sample) ledger.Window {
	t.Helper()
	w, err := ledger.Open(uid, samples, 0)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestOpen(t *testing.T) {
	samples := append(published("s", 5, 6), published("other", 1, 3)...)
	tests := []struct {
		name     string
		samples  []ledger.Sample
		after    int64
		from, to int64
		size     int
		err      string
	}{
		{name: "all", samples: samples, from: 5, to: 10, size: 6},
		{name: "only later ones", samples: samples, after: 70, from: 8, to: 10, size: 3},
		{name: "none yet", samples: samples, after: 100},
		{name: "another sensor only", samples: published("other", 1, 3)},
		{name: "gap", samples: append(published("s", 5, 2), published("s", 8, 1)...), err: "8 after 6"},
		{name: "twice", samples: append(published("s", 5, 2), published("s", 6, 1)...), err: "6 after 6"},
		{name: "new epoch", samples: append(published("s", 5, 2), ledger.Sample{UID: "s", Epoch: 2000, Seq: 1, Time: 99}), err: "began anew"},
		{name: "new epoch before", after: 60, samples: append(published("s", 5, 2), ledger.Sample{UID: "s", Epoch: 2000, Seq: 1, Time: 99}), from: 1, to: 1, size: 1},
		{name: "time stands still", samples: append(published("s", 5, 1), ledger.Sample{UID: "s", Epoch: epoch, Seq: 6, Time: 50}), err: "wrong order"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, err := ledger.Open("s", tt.samples, tt.after)
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
		})
	}
}

func TestJudge(t *testing.T) {
	s, other := published("s", 5, 4), published("other", 7, 4)
	window, otherWindow := open(t, "s", s), open(t, "other", other)
	stream := ledger.Stream{Endpoint: "c/a", UID: "s"}
	whole := ledger.Account{Stream: stream, Expected: true, From: 5, To: 8, Count: 4}
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
		{name: "nothing", want: []ledger.Account{with(func(a *ledger.Account) { a.Count, a.Missing = 0, []int64{5, 6, 7, 8} })}},
		{name: "lost on the way", stored: at("c/a", without(s, 1)...), arrived: at("c/a", without(s, 1)...),
			want: []ledger.Account{with(func(a *ledger.Account) { a.Count, a.Missing = 3, []int64{6} })}},
		{name: "lost in the sink", stored: at("c/a", without(s, 1)...), arrived: at("c/a", s...),
			want: []ledger.Account{with(func(a *ledger.Account) { a.Count, a.Missing, a.Unstored = 3, []int64{6}, []int64{6} })}},
		{name: "stored without an arrival", stored: at("c/a", s...), arrived: at("c/a", without(s, 1)...),
			want: []ledger.Account{with(func(a *ledger.Account) { a.Unrecorded = []int64{6} })}},
		{name: "doubled", stored: at("c/a", s...), arrived: append(at("c/a", s...), at("c/a", s[1], s[1], s[2])...),
			want: []ledger.Account{with(func(a *ledger.Account) { a.Doubled = 3 })}},
		{name: "readings of another", stored: append(at("c/a", without(s, 1)...), at("c/a", altered)...), arrived: append(at("c/a", without(s, 1)...), at("c/a", altered)...),
			want: []ledger.Account{with(func(a *ledger.Account) {
				a.Count, a.Missing, a.Altered, a.Unexpected = 3, []int64{6}, []int64{6}, 1
			})}},
		{name: "another time", stored: append(at("c/a", s...), at("c/a", moved)...), arrived: at("c/a", s...),
			want: []ledger.Account{with(func(a *ledger.Account) { a.Altered, a.Unexpected = []int64{6}, 1 })}},
		{name: "another epoch in the window's time", stored: append(at("c/a", s...), at("c/a", forged)...), arrived: append(at("c/a", s...), at("c/a", forged)...),
			want: []ledger.Account{with(func(a *ledger.Account) { a.Unexpected = 1 })}},
		{name: "before and after the window", stored: append(at("c/a", s...), at("c/a", append(published("s", 1, 4), published("s", 9, 3)...)...)...),
			arrived: append(at("c/a", s...), at("c/a", published("s", 9, 3)...)...), want: []ledger.Account{whole}, holds: true},
		{name: "another sensor's", stored: append(at("c/a", s...), at("c/a", other[0], other[2])...), arrived: append(at("c/a", s...), at("c/a", other[0])...),
			want: []ledger.Account{whole, {Stream: ledger.Stream{Endpoint: "c/a", UID: "other"}, From: 7, To: 9, Unexpected: 2}}},
		{name: "at another endpoint", stored: at("c/a", s...), arrived: append(at("c/a", s...), at("c/b", s[0])...),
			want: []ledger.Account{whole, {Stream: ledger.Stream{Endpoint: "c/b", UID: "s"}, From: 5, To: 5, Unexpected: 1}}},
		{name: "at an endpoint that is not looked at", stored: at("c/a", s...), arrived: append(at("c/a", s...), at("c/witness", other...)...),
			want: []ledger.Account{whole}, holds: true},
		{name: "of nobody", stored: at("c/a", s...), arrived: append(at("c/a", s...), ledger.Sample{Endpoint: "c/a", UID: "x", Epoch: 1, Seq: 1, Time: 60}),
			want: []ledger.Account{whole, {Stream: ledger.Stream{Endpoint: "c/a", UID: "x"}, From: 1, To: 1, Unexpected: 1}}},
		{name: "of nobody at another time", stored: at("c/a", s...), arrived: append(at("c/a", s...), ledger.Sample{Endpoint: "c/a", UID: "x", Epoch: 1, Seq: 1, Time: 1}),
			want: []ledger.Account{whole}, holds: true},
		{name: "somebody else asked too", shared: true, stored: append(at("c/a", s...), at("c/b", s...)...),
			arrived: slices.Concat(at("c/a", s...), at("c/a", s...), at("c/b", s...)), want: []ledger.Account{whole}, holds: true},
		{name: "somebody else asked too, and yet lost", shared: true, stored: at("c/a", without(s, 1)...), arrived: at("c/a", without(s, 1)...),
			want: []ledger.Account{with(func(a *ledger.Account) { a.Count, a.Missing = 3, []int64{6} })}},
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
			if got := len(v.Problems()) == 0; got != tt.holds {
				t.Errorf("problems %q", v.Problems())
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
		samples := published(uid, rapid.Int64Range(1, 50).Draw(t, "first"), rapid.Int64Range(1, 12).Draw(t, "count"))
		w.published[uid] = samples
		w.question.Windows = append(w.question.Windows, open(t, uid, samples))
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
			t.Fatalf("does not hold: %q", v.Problems())
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
			check = func(a ledger.Account) bool { return cmp.Equal(a.Missing, []int64{hit.Seq}) }
		case "double":
			arrived = append(arrived, hit)
			check = func(a ledger.Account) bool { return a.Doubled == 1 && len(a.Missing) == 0 }
		case "alter":
			stored[i].Body, arrived[i].Body = "altered", "altered"
			check = func(a ledger.Account) bool { return cmp.Equal(a.Altered, []int64{hit.Seq}) && a.Unexpected == 1 }
		case "unstored":
			stored = slices.Delete(stored, i, i+1)
			check = func(a ledger.Account) bool { return cmp.Equal(a.Unstored, []int64{hit.Seq}) }
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
			seq := rapid.SampledFrom([]int64{win.From - 1, win.To + 1, win.To + 9}).Draw(t, "seq")
			all = append(all, ledger.Sample{Endpoint: rapid.SampledFrom(w.endpoints).Draw(t, "at"), UID: win.UID, Epoch: epoch, Seq: seq, Time: 10 * seq})
		}
		if v := ledger.Judge(w.question, all, all); !v.Holds() {
			t.Fatalf("does not hold: %q", v.Problems())
		}
	})
}
