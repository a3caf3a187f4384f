package health_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/fluidos-edge/testbed/controllers/mapper/internal/health"
	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/board"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const (
	env      = "001d0000"
	inertial = "00e00000"
)

// life of a board, on a clock that only its steps move.
type life struct {
	t   *testing.T
	b   *health.Board
	now time.Time
	n   int
	got []string
}

// told notes what the board has to say: "reason -> state", or the new state alone.
func (l *life) told(before string) {
	state := l.b.State()
	events := l.b.Take()
	for _, e := range events {
		l.got = append(l.got, e.Reason)
	}
	if state != before {
		l.got = append(l.got, "-> "+state)
	}
	bad := state == "unhealthy" || state == "offline"
	if problems := l.b.Problems(); bad != (len(problems) > 0) {
		l.t.Errorf("state %q with problems %+v, after %q", state, problems, l.got)
	}
}

// problems that hold: "reason: message".
func (l *life) problems() (out []string) {
	for _, p := range l.b.Problems() {
		out = append(out, p.Reason+": "+p.Message)
	}
	return out
}

func (l *life) do(f func()) {
	before := l.b.State()
	f()
	l.told(before)
}

// step of a life.
type step func(l *life)

// pass lets time go by, and the board is checked whenever it asked for that.
func pass(d time.Duration) step {
	return func(l *life) {
		for end := l.now.Add(d); ; {
			next := l.b.Next()
			if next.IsZero() || next.After(end) {
				l.now = end
				return
			}
			if next.After(l.now) {
				l.now = next
			}
			l.do(func() { l.b.Check(l.now) })
		}
	}
}

func link(l *life)   { l.do(func() { l.b.Link(l.now) }) }
func unlink(l *life) { l.do(func() { l.b.Unlink(l.now, "the board is gone") }) }

// expect the environmental stream at a rate.
func expect(hz float64) step {
	return func(l *life) {
		l.do(func() {
			l.b.Expect(l.now, []health.Stream{{Name: env, Period: time.Duration(float64(time.Second) / hz)}}, []health.Part{
				{Name: "hts221", Stream: env, Accuracy: 0.5}, {Name: "lps22hh", Stream: env}, {Name: "stts751", Stream: env, Accuracy: 0.5},
			})
		})
	}
}

// both expects the inertial stream as well.
func both(l *life) {
	l.b.Expect(l.now, []health.Stream{{Name: env, Period: time.Second / 2}, {Name: inertial, Period: time.Second / 20}},
		[]health.Part{{Name: "hts221", Stream: env, Accuracy: 0.5}, {Name: "iis2mdc", Stream: inertial}})
}

// reading makes a sample of a frame.
type reading func(n int) health.Sample

func temperature(part string, celsius float64) reading {
	return func(n int) health.Sample {
		v := celsius + 0.1*float64(n%3)
		return health.Sample{Part: part, Values: []float64{v}, Temperature: v, HasTemperature: true}
	}
}

func stuck(part string) reading {
	return func(int) health.Sample { return health.Sample{Part: part, Values: []float64{42}} }
}

// halfStuck is a part with two values, of which one moves.
func halfStuck(part string) reading {
	return func(n int) health.Sample { return health.Sample{Part: part, Values: []float64{42, float64(n)}} }
}

// frames come, each a period after what was before.
func frames(n int, period time.Duration, readings ...reading) step {
	return of(env, n, period, readings...)
}

func of(stream string, n int, period time.Duration, readings ...reading) step {
	return func(l *life) {
		for range n {
			pass(period)(l)
			l.n++
			var samples []health.Sample
			for _, r := range readings {
				samples = append(samples, r(l.n))
			}
			l.do(func() { l.b.Frame(l.now, stream, samples) })
		}
	}
}

func garbage(n int, period time.Duration) step {
	return func(l *life) {
		for range n {
			pass(period)(l)
			l.do(func() { l.b.Malformed(l.now, env, errors.New("frame of 3 bytes, want 12")) })
		}
	}
}

func battery(level float64, low bool) step {
	return func(l *life) { l.do(func() { l.b.Battery(l.now, level, low) }) }
}

func restart(l *life) { l.do(func() { l.b.Restart(l.now) }) }

func TestLives(t *testing.T) {
	const half = 500 * time.Millisecond
	warm := temperature("hts221", 23)
	well := func(l *life) { // connected and sending for a while
		link(l)
		expect(2)(l)
		frames(5, half, warm)(l)
	}
	for _, tt := range []struct {
		name  string
		steps []step
		want  []string
	}{
		{"connected, nothing heard yet", []step{link, expect(2), pass(9 * time.Second)}, nil},
		{"a first frame", []step{link, expect(2), frames(1, half, warm)}, []string{"-> online"}},
		{"never heard since the start", []step{pass(29 * time.Second), pass(time.Second), pass(time.Hour)}, []string{"BoardLost", "-> offline"}},
		{"not heard at the start, then there", []step{pass(time.Minute), well}, []string{"BoardLost", "-> offline", "BoardRecovered", "-> online"}},

		{"silent", []step{well, pass(9900 * time.Millisecond)}, []string{"-> online"}},
		{"silent for 10 s, told once", []step{well, pass(time.Hour)}, []string{"-> online", "BoardSilent", "-> unhealthy"}},
		{"silent, and back", []step{well, pass(time.Minute), frames(3, half, warm)}, []string{"-> online", "BoardSilent", "-> unhealthy", "BoardRecovered", "-> online"}},
		{"silent from the first on", []step{link, expect(2), pass(10 * time.Second), frames(1, half, warm)}, []string{"BoardSilent", "-> unhealthy", "BoardRecovered", "-> online"}},
		{"5 periods of a slow board", []step{link, expect(0.1), frames(3, 10*time.Second, warm), pass(49 * time.Second)}, []string{"-> online"}},
		{"more than 5 periods of a slow board", []step{link, expect(0.1), frames(3, 10*time.Second, warm), pass(50 * time.Second)}, []string{"-> online", "BoardSilent", "-> unhealthy"}},
		{"a board that is slower than it says", []step{link, expect(2), frames(1, half, warm), frames(20, 9*time.Second, warm), frames(1, 44*time.Second, warm)}, []string{"-> online"}},
		{"a board that is told to be slower", []step{well, expect(0.1), pass(49 * time.Second)}, []string{"-> online"}},
		{"asked again and again while it is silent", []step{well, pass(6 * time.Second), expect(2), pass(4 * time.Second)}, []string{"-> online", "BoardSilent", "-> unhealthy"}},
		{"one of two characteristics is silent", []step{link, both, frames(4, half, warm), of(inertial, 1, half), frames(20, half, warm)}, []string{"-> online", "BoardSilent", "-> unhealthy"}},
		{"both are silent, told once", []step{link, both, of(inertial, 1, half), frames(1, half, warm), pass(time.Hour)}, []string{"-> online", "BoardSilent", "-> unhealthy"}},
		{"the silent one is not offered any more", []step{link, both, of(inertial, 1, half), frames(20, half, warm), expect(2)}, []string{"-> online", "BoardSilent", "-> unhealthy", "BoardRecovered", "-> online"}},
		{"a reconnection is no silence", []step{well, pass(8 * time.Second), unlink, pass(3 * time.Second), link, pass(8 * time.Second), frames(1, half, warm)}, []string{"-> online"}},
		{"silent over a reconnection", []step{well, pass(11 * time.Second), unlink, pass(time.Second), link, pass(11 * time.Second), frames(1, half, warm)}, []string{"-> online", "BoardSilent", "-> unhealthy", "BoardRecovered", "-> online"}},

		{"the same value in 19 frames", []step{well, frames(19, time.Second, stuck("lps22hh"))}, []string{"-> online"}},
		{"the same value in 20 frames", []step{well, frames(20, time.Second, stuck("lps22hh"))}, []string{"-> online", "ValueStuck", "-> unhealthy"}},
		{"the same value in 20 frames, but not for 10 s", []step{well, frames(100, 100*time.Millisecond, stuck("lps22hh"))}, []string{"-> online"}},
		{"and then for 10 s", []step{well, frames(101, 100*time.Millisecond, stuck("lps22hh"))}, []string{"-> online", "ValueStuck", "-> unhealthy"}},
		{"one of two values moves", []step{well, frames(500, half, halfStuck("hts221"))}, []string{"-> online"}},
		{"two parts at once, told once", []step{well, frames(100, half, stuck("lps22hh"), stuck("stts751"))}, []string{"-> online", "ValueStuck", "-> unhealthy"}},
		{"stuck, and then not", []step{well, frames(30, half, stuck("lps22hh"), warm), frames(1, half, halfStuck("lps22hh"), warm)}, []string{"-> online", "ValueStuck", "-> unhealthy", "BoardRecovered", "-> online"}},
		{"stuck over a reconnection", []step{well, frames(30, half, stuck("lps22hh")), unlink, pass(time.Second), link, frames(5, half, stuck("lps22hh"))}, []string{"-> online", "ValueStuck", "-> unhealthy"}},
		{"stuck, lost and back, still stuck", []step{well, frames(30, half, stuck("lps22hh")), unlink, pass(6 * time.Second), link, frames(5, half, stuck("lps22hh"))},
			[]string{"-> online", "ValueStuck", "-> unhealthy", "BoardLost", "-> offline", "-> unhealthy"}},
		{"a part that is not offered", []step{well, frames(100, half, stuck("imp34dt05"))}, []string{"-> online"}},

		{"temperatures apart in 4 frames", []step{well, frames(4, half, warm, temperature("stts751", 26.5)), frames(4, half, warm, temperature("stts751", 24))}, []string{"-> online"}},
		{"temperatures within both accuracies and 2 degC", []step{well, frames(100, half, warm, temperature("stts751", 25.7))}, []string{"-> online"}},
		{"temperatures apart in 5 frames", []step{well, frames(50, half, warm, temperature("stts751", 26.5))}, []string{"-> online", "ReadingsDisagree", "-> unhealthy"}},
		{"apart, and together again", []step{well, frames(50, half, warm, temperature("stts751", 19)), frames(5, half, warm, temperature("stts751", 23))},
			[]string{"-> online", "ReadingsDisagree", "-> unhealthy", "BoardRecovered", "-> online"}},
		{"together in 4 frames do not count", []step{well, frames(5, half, warm, temperature("stts751", 29)), frames(4, half, warm, temperature("stts751", 23)), frames(5, half, warm, temperature("stts751", 29))},
			[]string{"-> online", "ReadingsDisagree", "-> unhealthy"}},

		{"4 frames of garbage", []step{well, garbage(4, half), frames(1, half, warm), garbage(4, half)}, []string{"-> online"}},
		{"5 frames of garbage, told once", []step{well, garbage(500, half)}, []string{"-> online", "GarbageFrames", "-> unhealthy"}},
		{"garbage is over after 5 good frames", []step{well, garbage(9, half), frames(4, half, warm), garbage(1, half), frames(5, half, warm)},
			[]string{"-> online", "GarbageFrames", "-> unhealthy", "BoardRecovered", "-> online"}},
		{"garbage is not silence, nor does it say that a board is well", []step{link, expect(2), garbage(100, half)}, []string{"GarbageFrames", "-> unhealthy"}},
		{"garbage does not end silence", []step{well, pass(10 * time.Second), garbage(4, half), frames(1, half, warm)},
			[]string{"-> online", "BoardSilent", "-> unhealthy", "BoardRecovered", "-> online"}},

		{"battery low, by its status", []step{well, battery(50, true), battery(50, true)}, []string{"-> online", "BatteryLow"}},
		{"battery low, by its level, told once though it wavers", []step{well, battery(9.9, false), battery(10.1, false), battery(9.9, false)}, []string{"-> online", "BatteryLow"}},
		{"battery charged and low again", []step{well, battery(9, false), battery(12, false), battery(9, false)}, []string{"-> online", "BatteryLow", "BatteryLow"}},

		{"restarted, seen on two characteristics", []step{well, restart, pass(time.Second), restart}, []string{"-> online", "BoardRestarted"}},
		{"restarted twice", []step{well, restart, frames(30, half, warm), restart}, []string{"-> online", "BoardRestarted", "BoardRestarted"}},

		{"away for less than 5 s", []step{well, unlink, pass(4900 * time.Millisecond), link, frames(1, half, warm), pass(9 * time.Second)}, []string{"-> online"}},
		{"away for 5 s, told once", []step{well, unlink, pass(time.Hour)}, []string{"-> online", "BoardLost", "-> offline"}},
		{"away, and back with its first frame", []step{well, unlink, pass(time.Hour), link, expect(2), pass(time.Second), frames(1, half, warm)},
			[]string{"-> online", "BoardLost", "-> offline", "BoardRecovered", "-> online"}},
		{"connections that come to nothing do not keep it", []step{well, unlink, pass(2 * time.Second), link, pass(2 * time.Second), unlink, pass(time.Second)}, []string{"-> online", "BoardLost", "-> offline"}},
		{"back, but silent", []step{well, unlink, pass(6 * time.Second), link, pass(10 * time.Second)}, []string{"-> online", "BoardLost", "-> offline", "BoardSilent", "-> unhealthy"}},
		{"silent, lost, and back as silent", []step{well, pass(11 * time.Second), unlink, pass(6 * time.Second), link, pass(11 * time.Second)},
			[]string{"-> online", "BoardSilent", "-> unhealthy", "BoardLost", "-> offline", "-> unhealthy"}},
		{"given more time", []step{well, unlink, pass(4 * time.Second), func(l *life) { l.b.Wait(l.now.Add(30 * time.Second)) }, pass(29 * time.Second)}, []string{"-> online"}},
		{"frames without a connection say nothing", []step{well, unlink, frames(2, half, warm), pass(5 * time.Second)}, []string{"-> online", "BoardLost", "-> offline"}},

		{"two faults, and one of them over", []step{well, garbage(5, half), frames(5, half, warm, temperature("stts751", 29)), frames(20, half, warm, temperature("stts751", 29))},
			[]string{"-> online", "GarbageFrames", "-> unhealthy", "ReadingsDisagree"}},
		{"a clock that goes back", []step{well, func(l *life) { l.now = l.now.Add(-time.Hour) }, frames(5, half, warm)}, []string{"-> online"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := &life{t: t, b: health.New(start, 30*time.Second), now: start}
			for _, s := range tt.steps {
				s(l)
			}
			if diff := cmp.Diff(tt.want, l.got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What holds is named with the words of its Event, for as long as it holds.
func TestProblems(t *testing.T) {
	const half = 500 * time.Millisecond
	warm, hot := temperature("hts221", 23), temperature("stts751", 29)
	well := func(l *life) {
		link(l)
		expect(2)(l)
		frames(5, half, warm)(l)
	}
	lost := func(l *life) {
		unlink(l)
		pass(6 * time.Second)(l)
	}
	const (
		silent    = "BoardSilent: connected, but no frame for 10s of 001d0000 (due every 500ms)"
		garbled   = "GarbageFrames: 5 frames in a row cannot be read, the last: frame of 3 bytes, want 12"
		same      = "ValueStuck: the same values of lps22hh in 21 frames, for 10s"
		disagrees = "ReadingsDisagree: hts221 measures 23.1 degC and stts751 29.1, more than 3.0 apart, in 5 frames in a row"
		away      = "BoardLost: no connection: the board is gone"
	)
	for _, tt := range []struct {
		name  string
		steps []step
		want  []string
	}{
		{"nothing heard yet", []step{link, expect(2), pass(9 * time.Second)}, nil},
		{"well", []step{well}, nil},
		{"a low battery and a restart take no board off offer", []step{well, battery(5, true), restart}, nil},
		{"silent", []step{well, pass(time.Minute)}, []string{silent}},
		{"silent, and over", []step{well, pass(time.Minute), frames(1, half, warm)}, nil},
		{"two silent streams", []step{link, both, of(inertial, 1, half), frames(1, half, warm), pass(time.Minute)},
			[]string{"BoardSilent: connected, but no frame for 10s of 001d0000 (due every 500ms), 00e00000 (due every 50ms)"}},
		{"two silent streams, and one is back", []step{link, both, of(inertial, 1, half), frames(1, half, warm), pass(time.Minute), frames(1, half, warm)},
			[]string{"BoardSilent: connected, but no frame for 10s of 00e00000 (due every 50ms)"}},
		{"garbage", []step{well, garbage(50, half)}, []string{garbled}},
		{"stuck", []step{well, frames(100, half, stuck("lps22hh"))}, []string{same}},
		{"two stuck parts", []step{well, frames(10, half, stuck("lps22hh")), frames(100, half, stuck("lps22hh"), stuck("stts751"))},
			[]string{"ValueStuck: the same values of lps22hh, stts751 in 21 frames, for 10s"}},
		{"two stuck parts, and one is not any more", []step{well, frames(100, half, stuck("lps22hh"), stuck("stts751")), frames(5, half, stuck("lps22hh"), warm, temperature("stts751", 23))},
			[]string{same}},
		{"disagree", []step{well, frames(100, half, warm, hot)}, []string{disagrees}},
		{"lost", []step{well, lost}, []string{away}},
		{"never heard", []step{pass(time.Minute)}, []string{"BoardLost: no connection: it was not heard since the mapper started"}},
		{"lost, for whatever reason it cannot be connected since", []step{well, lost, link, pass(time.Second),
			func(l *life) { l.do(func() { l.b.Unlink(l.now, "another reason") }) }, pass(time.Minute)}, []string{away}},

		{"two faults", []step{well, frames(50, half, warm, hot, stuck("lps22hh"))}, []string{same, disagrees}},
		{"two faults, and one is over", []step{well, frames(50, half, warm, hot, stuck("lps22hh")), frames(5, half, warm, temperature("stts751", 23), stuck("lps22hh"))}, []string{same}},
		{"stuck and lost", []step{well, frames(50, half, warm, stuck("lps22hh")), lost}, []string{away, same}},
		{"silent and lost", []step{well, pass(time.Minute), lost}, []string{away}},
		{"silent, lost and back as silent", []step{well, pass(time.Minute), lost, link, pass(time.Minute)}, []string{silent}},
		{"garbage, then silence", []step{well, garbage(5, half), pass(time.Minute)}, []string{silent, garbled}},
		{"all that can be", []step{well, frames(50, half, warm, hot, stuck("lps22hh")), garbage(5, half), pass(time.Minute)}, []string{silent, garbled, same, disagrees}},

		{"still offline until a frame says more", []step{well, lost, link, garbage(1, half)}, []string{away}},
		{"what was silent is not offered any more, and nothing else was heard yet", []step{link, both, frames(1, half, warm), pass(time.Minute), unlink, link,
			func(l *life) {
				l.do(func() { l.b.Expect(l.now, []health.Stream{{Name: "02000000", Period: half}}, nil) })
			}},
			[]string{"BoardSilent: connected, but no frame for 10s of 001d0000 (due every 500ms), 00e00000 (due every 50ms)"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := &life{t: t, b: health.New(start, 30*time.Second), now: start}
			for _, s := range tt.steps {
				s(l)
			}
			if diff := cmp.Diff(tt.want, l.problems()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestMessages(t *testing.T) {
	const half = 500 * time.Millisecond
	l := &life{t: t, b: health.New(start, 30*time.Second), now: start}
	var got []string
	told := func(s step) {
		s(l)
		for _, e := range l.b.Take() {
			got = append(got, fmt.Sprintf("%s %v: %s", e.Reason, e.Normal, e.Message))
		}
	}
	// life would take the Events first.
	frame := func(n int, samples ...health.Sample) step {
		return func(l *life) {
			for range n {
				l.now = l.now.Add(half)
				l.b.Frame(l.now, env, samples)
			}
		}
	}
	at := func(part string, v float64) health.Sample {
		return health.Sample{Part: part, Values: []float64{v}, Temperature: v, HasTemperature: true}
	}
	told(func(l *life) { l.b.Link(l.now); expect(2)(l) })
	told(frame(5, at("hts221", 23.4), at("stts751", 31)))
	told(frame(16, at("hts221", 23.4), at("stts751", 23)))
	told(frame(1, at("hts221", 23.5)))
	told(func(l *life) { l.now = l.now.Add(12 * time.Second); l.b.Check(l.now) })
	told(func(l *life) {
		for range 5 {
			l.b.Malformed(l.now, env, errors.New("frame of 3 bytes, want 12"))
		}
		l.b.Battery(l.now, 5, true)
		l.b.Restart(l.now)
		l.b.Unlink(l.now, "the board is gone: reboot")
		l.now = l.now.Add(5 * time.Second)
		l.b.Check(l.now)
	})
	want := []string{
		"ReadingsDisagree false: hts221 measures 23.4 degC and stts751 31.0, more than 3.0 apart, in 5 frames in a row",
		"BoardRecovered true: online again after 2.5s unhealthy",
		"ValueStuck false: the same values of hts221 in 21 frames, for 10s",
		"BoardRecovered true: online again after 500ms unhealthy",
		"BoardSilent false: connected, but no frame for 12s of 001d0000 (due every 500ms)",
		"GarbageFrames false: 5 frames in a row cannot be read, the last: frame of 3 bytes, want 12",
		"BatteryLow false: the battery is at 5 %",
		"BoardRestarted false: the board counts its uptime anew",
		"BoardLost false: no connection: the board is gone: reboot",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Nothing is ever said of a board that is well: a million frames as boards send
// them, at all rates and of all their parts, each with the jitter of its latency.
func TestABoardThatIsWellIsLeftAlone(t *testing.T) {
	total := 1_000_000
	if testing.Short() {
		total /= 20
	}
	rates := []float64{0.1, 0.5, 1, 2, 5, 20, 100}
	models := []string{topology.STWINKT1B, topology.STWINBX1}
	each := total / len(rates) / len(models)
	for _, model := range models {
		for i, hz := range rates {
			t.Run(fmt.Sprintf("%s at %g Hz", model, hz), func(t *testing.T) {
				t.Parallel()
				clk := testingclock.NewFakePassiveClock(start)
				sim, err := board.New(topology.Board{
					Name: "b", Model: model, MAC: fmt.Sprintf("c0:83:2a:00:00:%02x", i+1), ID: strings.Repeat("0a", 12), Nodes: []string{"edge-1"}, Rate: hz,
				}, board.Options{Seed: uint64(i), Clock: clk})
				if err != nil {
					t.Fatal(err)
				}
				air := sim.Via("edge-1")
				streams := map[string]health.Stream{}
				var parts []health.Part
				for _, p := range bluest.Parts(model) {
					uuid := p.Characteristic.UUID()
					streams[uuid] = health.Stream{Name: uuid, Period: time.Duration(float64(time.Second) / hz)}
					parts = append(parts, health.Part{Name: p.Name, Stream: uuid, Accuracy: 0.5})
				}
				b := health.New(start, time.Minute)
				b.Link(start)
				var all []health.Stream
				for _, s := range streams {
					all = append(all, s)
				}
				b.Expect(start, all, parts)
				period := time.Duration(float64(time.Second) / hz)
				for n := range each / len(all) {
					emitted := start.Add(time.Duration(n+1) * period)
					clk.SetTime(emitted)
					received := emitted.Add(time.Duration(n%7) * time.Millisecond)
					if at := b.Next(); !at.After(received) {
						b.Check(received)
					}
					for _, s := range all {
						value, err := air.Read(s.Name)
						if err != nil {
							t.Fatal(err)
						}
						f, err := bluest.Decode(s.Name, value)
						if err != nil {
							t.Fatal(err)
						}
						b.Frame(received, s.Name, samples(model, s.Name, f))
					}
					if events := b.Take(); len(events) > 0 || b.State() != "online" {
						t.Fatalf("after %d frames: %s, %+v", n+1, b.State(), events)
					}
				}
			})
		}
	}
}

func samples(model, stream string, f bluest.Frame) (out []health.Sample) {
	for _, p := range bluest.Parts(model) {
		if p.Characteristic.UUID() != stream {
			continue
		}
		s := health.Sample{Part: p.Name}
		for _, feed := range p.Feeds {
			v, _ := f.Value(feed.Quantity)
			s.Values = append(s.Values, v)
			if feed.SensorType == "Temperature" {
				s.Temperature, s.HasTemperature = v, true
			}
		}
		out = append(out, s)
	}
	return out
}
