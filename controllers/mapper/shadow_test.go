package mapper_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/controllers/mapper"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/dmi"
	"github.com/fluidos-edge/testbed/simulators/radio"
)

var morning = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// wish is a Device with properties that go to the cloud.
func wish(collect, report time.Duration, properties ...string) dmi.Device {
	d := dmi.Device{Namespace: "fluidos", Name: "stwinbx1-c0832a000001", Properties: map[string]dmi.Property{}}
	for _, p := range properties {
		d.Properties[p] = dmi.Property{Collect: collect, Report: report, ToCloud: true}
	}
	return d
}

// twins as "property=reported/desired@seconds".
func twins(all []dmi.Twin) string {
	var out []string
	for _, t := range all {
		out = append(out, fmt.Sprintf("%s=%s/%s@%g", t.Property, t.Reported, t.Desired, t.At.Sub(morning).Seconds()))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// A life of a Device: what is reported of it, and when.
func TestShadow(t *testing.T) {
	const s = time.Second
	at := func(seconds float64) time.Time { return morning.Add(time.Duration(seconds * float64(s))) }
	type step struct {
		seconds float64
		do      func(x *mapper.Shadow, now time.Time)
	}
	take := func(seconds float64, d dmi.Device) []step {
		return []step{{seconds, func(x *mapper.Shadow, now time.Time) { x.Take(d, now) }}}
	}
	drop := func(seconds float64) []step {
		return []step{{seconds, func(x *mapper.Shadow, _ time.Time) { x.Drop() }}}
	}
	hurry := func(seconds float64) []step {
		return []step{{seconds, func(x *mapper.Shadow, now time.Time) { x.Hurry(now) }}}
	}
	state := func(p string, v, seconds float64) []step {
		return []step{{seconds, func(x *mapper.Shadow, now time.Time) { x.State(p, v, now) }}}
	}
	collect := func(p string, v, seconds float64) []step {
		return []step{{seconds, func(x *mapper.Shadow, now time.Time) { x.Collect(p, v, now) }}}
	}
	// stream collects as a board at 10 Hz does: the value is the second.
	stream := func(p string, from, to float64) (out []step) {
		for i := from * 10; i < to*10; i++ {
			out = append(out, collect(p, i/10, i/10)...)
		}
		return out
	}
	desired := func(d dmi.Device, p, v string) dmi.Device {
		q := d.Properties[p]
		q.Desired, q.HasDesired = v, true
		d.Properties[p] = q
		return d
	}
	silent := wish(s, 10*s, "a", "b")
	silent.Properties["b"] = dmi.Property{Collect: s, Report: 10 * s}

	for _, tt := range []struct {
		name  string
		steps [][]step
		want  []string // "<seconds>: <twins>"
	}{
		{"no Device, no report", [][]step{stream("a", 0, 50)}, nil},
		{"first values at once", [][]step{take(0, wish(s, 10*s, "a", "b")), collect("a", 1, 0), collect("b", 2, 0)}, []string{"0: a=1/@0 b=2/@0"}},
		{"values that were there before the Device", [][]step{stream("a", 0, 3), take(3, wish(s, 10*s, "a"))}, []string{"3: a=2/@2"}},
		{"a property that the Device does not have", [][]step{take(0, wish(s, 10*s, "a")), collect("b", 1, 0)}, nil},
		{"a property that is not for the cloud", [][]step{take(0, silent), collect("a", 1, 0), collect("b", 2, 0)}, []string{"0: a=1/@0"}},
		{"nothing new, nothing reported", [][]step{take(0, wish(s, 10*s, "a")), collect("a", 1, 0), collect("a", 1, 1)}, []string{"0: a=1/@0", "10: a=1/@1"}},
		{"a Device that says nothing of cycles", [][]step{take(0, wish(0, 0, "a")), stream("a", 0, 25)}, []string{"0: a=0/@0", "10: a=10/@10", "20: a=20/@20", "30: a=24/@24"}},
		{"a collect cycle longer than the board's", [][]step{take(0, wish(4*s, 10*s, "a")), stream("a", 0, 19)}, []string{"0: a=0/@0", "10: a=8/@8", "20: a=16/@16"}},
		{"a Device that is gone", [][]step{take(0, wish(s, 10*s, "a")), stream("a", 0, 15), drop(15)}, []string{"0: a=0/@0", "10: a=10/@10"}},
		{"gone and back: everything anew", [][]step{take(0, wish(s, 10*s, "a")), collect("a", 1, 0), drop(3), take(5, wish(s, 10*s, "a"))}, []string{"0: a=1/@0", "5: a=1/@0"}},
		{"desired goes along, as plain text", [][]step{take(0, desired(wish(s, 10*s, "a"), "a", " 4 Hz ")), collect("a", 2, 0)}, []string{"0: a=2/4_Hz@0"}},
		{"a new wish is reported at once", [][]step{take(0, wish(s, 10*s, "a", "b")), collect("a", 2, 0), collect("b", 2, 0), take(3, desired(wish(s, 10*s, "a", "b"), "a", "4"))}, []string{"0: a=2/@0 b=2/@0", "3: a=2/4@0"}},
		{"a state that changes is reported at once", [][]step{take(0, wish(s, 10*s, "a")), state("a", 2, 0), state("a", 2, 0.1), state("a", 4, 0.2)}, []string{"0: a=2/@0", "0.2: a=4/@0.2"}},
		{"in a hurry everything new is due", [][]step{take(0, wish(s, 10*s, "a", "b")), collect("a", 1, 0), collect("b", 2, 0), collect("a", 3, 1), hurry(2)}, []string{"0: a=1/@0 b=2/@0", "2: a=3/@1"}},
		{"numbers without exponent", [][]step{take(0, wish(s, 10*s, "a", "b")), collect("a", 1e7, 0), collect("b", -0.00001, 0)}, []string{"0: a=10000000/@0 b=-0.00001/@0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := &mapper.Shadow{}
			var got []string
			report := func(until time.Time) { // what is due before
				for {
					next := x.Next()
					if next.IsZero() || !next.Before(until) {
						return
					}
					due := x.Twins(next)
					if len(due) == 0 {
						t.Fatalf("nothing is due at %v, when it was to be", next)
					}
					got = append(got, fmt.Sprintf("%g: %s", next.Sub(morning).Seconds(), twins(due)))
				}
			}
			for _, st := range slices.Concat(tt.steps...) {
				report(at(st.seconds))
				st.do(x, at(st.seconds))
			}
			report(at(1000))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Reports of one Device keep to one beat, so that they are one request and not many.
func TestReportsOfABoardComeTogether(t *testing.T) {
	x := &mapper.Shadow{}
	d := wish(time.Second, 10*time.Second, "a", "b", "c")
	d.Properties["c"] = dmi.Property{Collect: time.Second, Report: 5 * time.Second, ToCloud: true}
	x.Take(d, morning)
	var got []string
	for tick := range 300 { // 10 Hz; b begins 3.5 s late
		now := morning.Add(time.Duration(tick) * 100 * time.Millisecond)
		x.Collect("a", 1, now)
		x.Collect("c", 3, now)
		if tick >= 35 {
			x.Collect("b", 2, now)
		}
		var names []string
		for _, due := range x.Twins(now) {
			names = append(names, due.Property)
		}
		if slices.Sort(names); len(names) > 0 {
			got = append(got, fmt.Sprintf("%g:%s", now.Sub(morning).Seconds(), strings.Join(names, "")))
		}
	}
	if diff := cmp.Diff([]string{"0:ac", "3.5:b", "5:c", "10:abc", "15:c", "20:abc", "25:c"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAllowList(t *testing.T) {
	mac, err := radio.ParseAddress("c0:83:2a:10:20:30")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		list  []string
		want  bool
		valid bool
	}{
		{nil, true, true},
		{[]string{"c0:83:2a:10:20:30"}, true, true},
		{[]string{"C0832A102030"}, true, true},
		{[]string{"c0:83:2a:10:20:31"}, false, true},
		{[]string{"c0:83:2a:*"}, true, true},
		{[]string{"C0:83:*"}, true, true},
		{[]string{"c0:83:2a:1*"}, true, true},
		{[]string{"c0:84:*"}, false, true},
		{[]string{"*"}, true, true},
		{[]string{"STWINKT1B"}, true, true},
		{[]string{"stwinkt1b"}, true, true},
		{[]string{"STWINBX1"}, false, true},
		{[]string{"STWINBX1", "c0:83:2a:10:20:31", "c0:83:2a:10:*"}, true, true},
		{[]string{"toaster"}, false, false},
		{[]string{"c0:83"}, false, false},
		{[]string{"c083*"}, false, false},
		{[]string{"c0:83:2a:10:20:30:*"}, false, false},
		{[]string{""}, false, false},
	} {
		got, err := mapper.Allows(tt.list, "STWINKT1B", mac)
		if got != tt.want || (err == nil) != tt.valid {
			t.Errorf("%q: %v, %v; want %v, valid %v", tt.list, got, err, tt.want, tt.valid)
		}
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]float64{
		"4": 4, "0.1": 0.1, "100": 100, " 2.5 ": 2.5, "1e1": 10,
		"": 0, "0": 0, "0.09": 0, "100.1": 0, "-4": 0, "NaN": 0, "Inf": 0, "4 Hz": 0, "four": 0,
	} {
		got, err := mapper.ParseRate(text)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
}

// FuzzDesired: whatever somebody wishes can be told the edge runtime, and a rate
// is one that a board may have.
func FuzzDesired(f *testing.F) {
	for _, seed := range []string{"4", "4 Hz", "+Inf", "0x1p-2", "1_0", "\x00\xff", "ä", strings.Repeat("9", 600)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if hz, err := mapper.ParseRate(text); err == nil && !(hz >= 0.1 && hz <= 100) {
			t.Errorf("%q is %v Hz", text, hz)
		}
		plain := mapper.Plain(text)
		if err := dmi.New(dmi.Options{}).ReportTwins(t.Context(), "n", "d", []dmi.Twin{{Property: "sampling-rate", Reported: "2", Desired: plain}}); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	})
}

func TestWhetherABoardHasRestarted(t *testing.T) {
	const unit = 10 * time.Millisecond
	for _, tt := range []struct {
		name           string
		ts             [2]uint16
		sent, received [2]time.Duration // sent 0: not known
		want           bool
	}{
		{"counts on", [2]uint16{1000, 1500}, [2]time.Duration{time.Hour, time.Hour + 5*time.Second}, [2]time.Duration{}, false},
		{"counts on over a wrap", [2]uint16{65000, 0}, [2]time.Duration{time.Hour, time.Hour + 5360*time.Millisecond}, [2]time.Duration{}, false},
		{"counts on over many", [2]uint16{1000, 1500}, [2]time.Duration{time.Hour, time.Hour + 7*655360*time.Millisecond + 5*time.Second}, [2]time.Duration{}, false},
		{"counts on, a bit slow", [2]uint16{1000, 1520}, [2]time.Duration{time.Hour, time.Hour + 5*time.Second}, [2]time.Duration{}, false},
		{"starts anew", [2]uint16{1000, 20}, [2]time.Duration{time.Hour, time.Hour + 5*time.Second}, [2]time.Duration{}, true},
		{"starts anew shortly before a wrap would be", [2]uint16{64000, 20}, [2]time.Duration{time.Hour, time.Hour + 5*time.Second}, [2]time.Duration{}, true},
		{"starts anew when it would have wrapped, nearly", [2]uint16{65436, 90}, [2]time.Duration{time.Hour, time.Hour + 2*time.Second}, [2]time.Duration{}, true},
		{"counts on, late by seconds", [2]uint16{1000, 1500}, [2]time.Duration{}, [2]time.Duration{time.Hour, time.Hour + 9*time.Second}, false},
		{"starts anew, when was it sent?", [2]uint16{3000, 20}, [2]time.Duration{}, [2]time.Duration{time.Hour, time.Hour + 5*time.Second}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var n [2]radio.Notification
			for i := range n {
				n[i] = radio.Notification{Emitted: int64(tt.sent[i]), Received: max(int64(tt.received[i]), int64(tt.sent[i]))}
			}
			if got := mapper.Restarted(n[0], n[1], tt.ts[0], tt.ts[1], unit); got != tt.want {
				t.Errorf("restarted %v, want %v", got, tt.want)
			}
		})
	}
}
