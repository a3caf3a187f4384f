package board_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/board"
	"github.com/fluidos-edge/testbed/simulators/radio"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

const (
	second = topology.Duration(time.Second)
	minute = topology.Duration(time.Minute)
)

// twins are two boards that differ in nothing, of which the first gets a fault: so
// the second shows what the first would have done.
type twins struct {
	ill, well *bench
	frames    map[string][2]<-chan radio.Notification // by mask
	masks     []bluest.Mask
}

func newTwins(t *testing.T, spec topology.Board) *twins {
	t.Helper()
	w := &twins{ill: newBench(t, spec), well: newBench(t, spec), frames: map[string][2]<-chan radio.Notification{}, masks: masks(spec)}
	for _, m := range w.masks {
		w.frames[key(m)] = [2]<-chan radio.Notification{w.ill.subscribe(m.UUID()), w.well.subscribe(m.UUID())}
	}
	return w
}

// run both for as long and hand over what each characteristic sent.
func (w *twins) run(d time.Duration, judge func(m bluest.Mask, ill, well []radio.Notification)) {
	w.ill.run(d)
	w.well.run(d)
	for _, m := range w.masks {
		ch := w.frames[key(m)]
		judge(m, w.ill.waiting(ch[0]), w.well.waiting(ch[1]))
	}
}

// same runs both and has them send the same.
func (w *twins) same(t *testing.T, when string, d time.Duration) {
	t.Helper()
	w.run(d, func(m bluest.Mask, ill, well []radio.Notification) {
		t.Helper()
		if len(well) == 0 {
			t.Fatalf("%s: nothing of %s", when, key(m))
		}
		for i := range ill {
			ill[i].Received, well[i].Received = 0, 0
		}
		if diff := cmp.Diff(well, ill); diff != "" {
			t.Fatalf("%s: %s: %s", when, key(m), diff)
		}
	})
}

func (w *twins) fault(t *testing.T, f topology.Fault) {
	t.Helper()
	if err := w.ill.board.Fault(f, ""); err != nil {
		t.Fatal(err)
	}
}

func decode(t *testing.T, n radio.Notification) bluest.Frame {
	t.Helper()
	f, err := bluest.Decode(n.Characteristic, n.Value)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// other readings of two frames than some differ in nothing.
func others(t *testing.T, ill, well bluest.Frame, quantities ...string) {
	t.Helper()
	but := func(f bluest.Frame) bluest.Frame {
		f.Readings = slices.Clone(f.Readings)
		f.Readings = slices.DeleteFunc(f.Readings, func(r bluest.Reading) bool { return slices.Contains(quantities, r.Quantity) })
		return f
	}
	if d := cmp.Diff(but(well), but(ill)); d != "" {
		t.Fatal(d)
	}
}

func TestSilence(t *testing.T) {
	w := newTwins(t, kt1b())
	w.same(t, "before", 5*time.Second)
	w.fault(t, topology.Fault{Kind: topology.FaultSilence, For: 10 * second})
	console := w.ill.subscribe(bluest.ConsoleUUID)
	w.run(9*time.Second, func(m bluest.Mask, ill, well []radio.Notification) {
		if len(ill) != 0 || len(well) == 0 {
			t.Errorf("%s: %d notifications, %d of its twin", key(m), len(ill), len(well))
		}
		if _, err := w.ill.conn.Read(t.Context(), m.UUID()); err != nil {
			t.Errorf("read: %v", err)
		}
	})
	if got := w.ill.ask(console, "uid"); got != kt1b().ID {
		t.Errorf("uid: %q", got)
	}
	w.well.run(time.Second)
	for _, ch := range w.frames {
		w.well.waiting(ch[1])
	}
	w.same(t, "after", 5*time.Second)
	if st := w.ill.board.State(); st.ConnectedTo != "edge-1" || len(st.Faults) != 0 {
		t.Errorf("connected to %q, faults %v", st.ConnectedTo, st.Faults)
	}
}

func TestStuck(t *testing.T) {
	for _, part := range []string{"hts221", "iis2mdc", ""} {
		t.Run(part, func(t *testing.T) {
			w := newTwins(t, kt1b())
			var stuck []string
			for _, p := range bluest.Parts(topology.STWINKT1B) {
				for _, f := range p.Feeds {
					if part == "" || p.Name == part {
						stuck = append(stuck, f.Quantity)
					}
				}
			}
			w.same(t, "before", 3300*time.Millisecond)
			frozen := map[string]float64{}
			for _, readings := range w.ill.board.State().Readings {
				for _, r := range readings {
					frozen[r.Quantity] = r.Value
				}
			}
			w.fault(t, topology.Fault{Kind: topology.FaultStuck, Part: part})
			for range 10 {
				w.run(6*time.Second, func(m bluest.Mask, ill, well []radio.Notification) {
					if len(ill) != len(well) {
						t.Fatalf("%s: %d frames, %d of its twin", key(m), len(ill), len(well))
					}
					for i := range ill {
						f := decode(t, ill[i])
						others(t, f, decode(t, well[i]), stuck...)
						for _, q := range stuck {
							if v, ok := f.Value(q); ok && v != frozen[q] {
								t.Fatalf("%s is %v, want %v as at the beginning", q, v, frozen[q])
							}
						}
					}
				})
			}
			if err := w.ill.board.Clear(topology.FaultStuck); err != nil {
				t.Fatal(err)
			}
			w.same(t, "after", 5*time.Second)
		})
	}
}

func TestDrift(t *testing.T) {
	for _, tt := range []struct {
		fault topology.Fault
		drift []string
		slope float64
		step  float64
	}{
		{topology.Fault{Kind: topology.FaultDrift, Part: "stts751", Slope: 6, For: 2 * minute}, []string{bluest.Temperature2}, 6, 0.1},
		{topology.Fault{Kind: topology.FaultDrift, Part: "lps22hh", Slope: -30, For: 2 * minute}, []string{bluest.Pressure}, -30, 0.01},
		{topology.Fault{Kind: topology.FaultDrift, Part: "hts221", For: 2 * minute}, []string{bluest.Humidity, bluest.Temperature}, 1, 0.1},
	} {
		t.Run(tt.fault.Part, func(t *testing.T) {
			w := newTwins(t, kt1b())
			w.same(t, "before", 5*time.Second)
			began := time.Duration(w.ill.clk.Now().Sub(start))
			w.fault(t, tt.fault)
			for range 12 {
				w.run(9*time.Second, func(m bluest.Mask, ill, well []radio.Notification) {
					if len(ill) != len(well) {
						t.Fatalf("%s: %d frames, %d of its twin", key(m), len(ill), len(well))
					}
					for i := range ill {
						f, g := decode(t, ill[i]), decode(t, well[i])
						others(t, f, g, tt.drift...)
						want := tt.slope * (time.Duration(ill[i].Emitted) - began).Minutes()
						for _, q := range tt.drift {
							a, ok := f.Value(q)
							if b, _ := g.Value(q); ok && (a-b < want-tt.step || a-b > want+tt.step) {
								t.Fatalf("%s after %s is off by %v, want %v", q, time.Duration(ill[i].Emitted)-began, a-b, want)
							}
						}
					}
				})
			}
			w.ill.run(12 * time.Second)
			w.well.run(12 * time.Second)
			for _, ch := range w.frames {
				w.ill.waiting(ch[0])
				w.well.waiting(ch[1])
			}
			w.same(t, "after", 5*time.Second)
		})
	}
}

// A value that runs away stops where its frame's integer does.
func TestDriftSaturates(t *testing.T) {
	clk := testingclock.NewFakeClock(start)
	b := newBoard(t, kt1b(), board.Options{Clock: clk})
	if err := b.Fault(topology.Fault{Kind: topology.FaultDrift, Slope: -1e300}, ""); err != nil {
		t.Fatal(err)
	}
	clk.Step(time.Hour)
	for _, readings := range b.State().Readings {
		for _, r := range readings {
			least, _, _ := bluest.Limits(r.Quantity)
			if battery := r.Quantity == bluest.Level || r.Quantity == bluest.Voltage || r.Quantity == bluest.Status; (r.Value == least) == battery {
				t.Errorf("%s is %v", r.Quantity, r.Value)
			}
		}
	}
}

func TestGarbage(t *testing.T) {
	w := newTwins(t, bx1())
	w.same(t, "before", 5*time.Second)
	w.fault(t, topology.Fault{Kind: topology.FaultGarbage, For: minute})
	var short, long, distinct int
	for range 6 {
		w.run(9900*time.Millisecond, func(m bluest.Mask, ill, well []radio.Notification) {
			if len(ill) != len(well) {
				t.Fatalf("%s: %d frames, %d of its twin", key(m), len(ill), len(well))
			}
			for i, n := range ill {
				if _, err := bluest.Decode(n.Characteristic, n.Value); err == nil || len(n.Value) == 0 || len(n.Value) > 20 {
					t.Fatalf("%s: frame % x: %v", key(m), n.Value, err)
				}
				switch d := len(n.Value) - len(well[i].Value); {
				case d > 0:
					long++
				case d < 0:
					short++
				}
				if !strings.HasPrefix(string(well[i].Value), string(n.Value)) && !strings.HasPrefix(string(n.Value), string(well[i].Value)) {
					distinct++
				}
			}
			v, err := w.ill.conn.Read(t.Context(), m.UUID())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := bluest.Decode(m.UUID(), v); err != nil {
				t.Errorf("a read answers % x: %v", v, err)
			}
		})
	}
	if short < 100 || long < 50 || distinct < 100 {
		t.Errorf("%d frames too short, %d too long, %d of noise", short, long, distinct)
	}
	w.ill.run(time.Second)
	w.well.run(time.Second)
	for _, ch := range w.frames {
		w.ill.waiting(ch[0])
		w.well.waiting(ch[1])
	}
	w.same(t, "after", 5*time.Second)
}

func TestBatteryLow(t *testing.T) {
	w := newTwins(t, kt1b())
	w.same(t, "before", 5*time.Second)
	w.fault(t, topology.Fault{Kind: topology.FaultBatteryLow})
	w.run(5*time.Second, func(m bluest.Mask, ill, well []radio.Notification) {
		for i := range well {
			f, g := decode(t, ill[i]), decode(t, well[i])
			others(t, f, g, bluest.Level, bluest.Voltage, bluest.Status)
			if m != bluest.Battery {
				continue
			}
			level, _ := f.Value(bluest.Level)
			voltage, _ := f.Value(bluest.Voltage)
			if status, _ := f.Value(bluest.Status); level != 5 || status != 0 || voltage < 3340 || voltage > 3350 {
				t.Errorf("battery %+v", f.Readings)
			}
		}
	})
	if got := w.ill.board.State().Battery; got != 5 {
		t.Errorf("battery %v", got)
	}
	if err := w.ill.board.Clear(topology.FaultBatteryLow); err != nil {
		t.Fatal(err)
	}
	w.same(t, "after", 5*time.Second)
}

// gone waits for the end of the connection and returns why.
func (s *bench) gone(ch <-chan radio.Notification) string {
	s.t.Helper()
	for {
		select {
		case _, ok := <-ch:
			if !ok {
				return fmt.Sprint(s.conn.Err())
			}
		case <-time.After(20 * time.Second):
			s.t.Fatal("still connected after 20 s")
		}
	}
}

func TestReboot(t *testing.T) {
	s := newBench(t, kt1b())
	ch := s.subscribe(bluest.EnvironmentalKT1B.UUID())
	for _, m := range []bluest.Mask{bluest.EnvironmentalKT1B, bluest.Inertial} {
		c, err := bluest.RateCommand(m, 50)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.conn.Write(t.Context(), bluest.ConfigUUID, c.Encode()); err != nil {
			t.Fatal(err)
		}
	}
	off := bluest.Command{Feature: bluest.Battery, ID: bluest.CommandDisable}
	if err := s.conn.Write(t.Context(), bluest.ConfigUUID, off.Encode()); err != nil {
		t.Fatal(err)
	}
	rate := 4.0 // set by whoever owns the board, which is not forgotten
	if err := s.board.Set(board.Patch{Rate: &rate}); err != nil {
		t.Fatal(err)
	}
	s.run(time.Second)
	if err := s.board.Fault(topology.Fault{Kind: topology.FaultReboot}, ""); err != nil {
		t.Fatal(err)
	}
	if why := s.gone(ch); !strings.Contains(why, "reboot") {
		t.Errorf("the connection ended: %s", why)
	}
	p := s.board.Via("edge-1")
	if _, connectable := p.Advertise(); connectable {
		t.Error("connectable while it restarts")
	}
	if err := p.Connect(&radio.Link{}); !errors.Is(err, radio.ErrUnknown) {
		t.Errorf("connect while it restarts: %v", err)
	}
	want := []board.FaultState{{Kind: topology.FaultReboot, Since: start.Add(time.Second), Until: start.Add(3 * time.Second)}}
	if d := cmp.Diff(want, s.board.State().Faults); d != "" {
		t.Error(d)
	}
	if next := s.board.Step(); !next.Equal(start.Add(3 * time.Second)) {
		t.Errorf("back at %s, want after 2 s", next)
	}
	s.run(2500 * time.Millisecond)
	if d := cmp.Diff([]bool{false, true}, s.inRange); d != "" {
		t.Error(d)
	}
	st := s.board.State()
	if st.Uptime != 2500*second/1000 || len(st.Faults) != 0 || st.ConnectedTo != "" {
		t.Errorf("uptime %s, faults %v, connected to %q", time.Duration(st.Uptime), st.Faults, st.ConnectedTo)
	}
	if d := cmp.Diff(map[string]float64{"001d0000": 4, "00e00000": 20, "00020000": 1, "04000000": 2}, st.Rates); d != "" {
		t.Error(d)
	}
	s.conn = connect(t, s.board)
	ch = s.subscribe(bluest.EnvironmentalKT1B.UUID())
	s.run(time.Second)
	if f := decode(t, s.next(ch)); time.Duration(f.TS)*8*time.Millisecond > 3500*time.Millisecond {
		t.Errorf("time stamp %d after 2.5 to 3.5 s", f.TS)
	}
}

func TestClone(t *testing.T) {
	s := newBench(t, kt1b())
	ch := s.subscribe(bluest.EnvironmentalKT1B.UUID())
	const other = "fedcba9876543210fedcba98"
	clone := topology.Fault{Kind: topology.FaultClone, Of: "bx"}
	for _, of := range []string{"", "xyz", kt1b().ID, "00112233"} {
		if err := s.board.Fault(clone, of); err == nil || !strings.HasPrefix(err.Error(), "of: id ") {
			t.Errorf("of %q: %v", of, err)
		}
	}
	if err := s.board.Fault(clone, strings.ToUpper(other)); err != nil {
		t.Fatal(err)
	}
	if why := s.gone(ch); !strings.Contains(why, "clone") {
		t.Errorf("the connection ended: %s", why)
	}
	uid := func() string {
		t.Helper()
		s.conn = connect(t, s.board)
		ch = s.subscribe(bluest.ConsoleUUID)
		return s.ask(ch, "uid")
	}
	if got := uid(); got != other {
		t.Errorf("uid: %q, want that of the other", got)
	}
	if st := s.board.State(); st.ID != other || st.MAC != kt1b().MAC || st.Device != "stwinkt1b-c0832a000001" {
		t.Errorf("id %s, MAC %s, device %s", st.ID, st.MAC, st.Device)
	}
	if err := s.board.Clear(""); err != nil {
		t.Fatal(err)
	}
	s.gone(ch)
	if got := uid(); got != kt1b().ID || s.board.State().ID != got {
		t.Errorf("uid after it: %q", got)
	}
	if len(s.inRange) > 0 {
		t.Errorf("in range: %v", s.inRange)
	}
}

func TestOutOfRange(t *testing.T) {
	s := newBench(t, bx1())
	ch := s.subscribe(bluest.EnvironmentalBX1.UUID())
	s.run(3 * time.Second)
	uptime := s.board.State().Uptime
	if err := s.board.Fault(topology.Fault{Kind: topology.FaultOutOfRange, For: minute}, ""); err != nil {
		t.Fatal(err)
	}
	if why := s.gone(ch); !strings.Contains(why, "out-of-range") {
		t.Errorf("the connection ended: %s", why)
	}
	p := s.board.Via("edge-1")
	s.run(59 * time.Second)
	if _, connectable := p.Advertise(); connectable {
		t.Error("connectable")
	}
	if err := p.Connect(&radio.Link{}); !errors.Is(err, radio.ErrUnknown) {
		t.Errorf("connect: %v", err)
	}
	// a reboot meanwhile does not bring it back
	if err := s.board.Fault(topology.Fault{Kind: topology.FaultReboot}, ""); err != nil {
		t.Fatal(err)
	}
	s.run(time.Second)
	if d := cmp.Diff([]bool{false}, s.inRange); d != "" {
		t.Error(d)
	}
	s.run(time.Second) // until the reboot is over too
	if d := cmp.Diff([]bool{false, true}, s.inRange); d != "" {
		t.Error(d)
	}
	if st := s.board.State(); st.Uptime != 2*second || uptime < 3*second {
		t.Errorf("uptime %s, before %s", time.Duration(st.Uptime), time.Duration(uptime))
	}
	s.conn = connect(t, s.board)
	ch = s.subscribe(bluest.EnvironmentalBX1.UUID())

	// until it is cleared
	if err := s.board.Fault(topology.Fault{Kind: topology.FaultOutOfRange}, ""); err != nil {
		t.Fatal(err)
	}
	s.gone(ch)
	s.run(time.Hour)
	if err := s.board.Clear(topology.FaultOutOfRange); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]bool{false, true, false, true}, s.inRange); d != "" {
		t.Error(d)
	}
	connect(t, s.board)
}

func TestFaultsRefused(t *testing.T) {
	clk := testingclock.NewFakeClock(start)
	b := newBoard(t, bx1(), board.Options{Clock: clk})
	for _, tt := range []struct {
		fault topology.Fault
		want  string
	}{
		{topology.Fault{Kind: "quiet"}, `kind: value "quiet": want one of silence, stuck, `},
		{topology.Fault{Kind: topology.FaultStuck, Part: "hts221"}, `part: value "hts221": want a part of STWINBX1: stts22h, `},
		{topology.Fault{Kind: topology.FaultSilence, For: -second}, `for: value "-1s": want at least 0s`},
	} {
		if err := b.Fault(tt.fault, ""); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %s...", tt.fault, err, tt.want)
		}
	}
	if err := b.Clear(""); err != nil {
		t.Errorf("clear of nothing: %v", err)
	}
	if err := b.Clear(topology.FaultStuck); err == nil || err.Error() != `kind: "stuck", but nothing is wrong with the board` {
		t.Errorf("clear of nothing: %v", err)
	}
	// one of a kind; the others stay
	for _, f := range []topology.Fault{
		{Kind: topology.FaultStuck, Part: "stts22h"}, {Kind: topology.FaultSilence, For: second}, {Kind: topology.FaultStuck, Part: "ilps22qs", For: minute},
	} {
		if err := b.Fault(f, ""); err != nil {
			t.Fatal(err)
		}
		clk.Step(100 * time.Millisecond)
	}
	if err := b.Clear(topology.FaultDrift); err == nil || err.Error() != `kind: "drift", but the board has only silence, stuck` {
		t.Errorf("clear of what is not: %v", err)
	}
	at := func(d time.Duration) time.Time { return start.Add(d) }
	stuck := board.FaultState{Kind: topology.FaultStuck, Part: "ilps22qs", Since: at(200 * time.Millisecond), Until: at(time.Minute + 200*time.Millisecond)}
	if d := cmp.Diff([]board.FaultState{{Kind: topology.FaultSilence, Since: at(100 * time.Millisecond), Until: at(1100 * time.Millisecond)}, stuck}, b.State().Faults); d != "" {
		t.Error(d)
	}
	clk.SetTime(at(1100 * time.Millisecond))
	if d := cmp.Diff([]board.FaultState{stuck}, b.State().Faults); d != "" {
		t.Error(d)
	}
	if err := b.Clear(topology.FaultSilence); err == nil || err.Error() != `kind: "silence", but the board has only stuck` {
		t.Errorf("clear of what is over: %v", err)
	}
}

// Whoever is told of the range is told of each change once and in order, also when
// faults come and end in several goroutines at a time.
func TestFaultsConcurrently(t *testing.T) {
	clk := testingclock.NewFakeClock(start)
	var told []bool
	var b *board.Board
	b = newBoard(t, kt1b(), board.Options{Clock: clk, InRange: func(_ *board.Board, ok bool) {
		told = append(told, ok)
		_ = b.State() // no lock is held
	}})
	kinds := []string{topology.FaultOutOfRange, topology.FaultReboot, topology.FaultDrift, topology.FaultOutOfRange}
	var all sync.WaitGroup
	for i, kind := range kinds {
		all.Go(func() {
			for range 300 {
				f := topology.Fault{Kind: kind}
				if i == 0 {
					f.For = second
				}
				if err := b.Fault(f, ""); err != nil {
					t.Error(err)
				}
				b.Step()
				_ = b.Clear(kind) // another may have been faster
			}
		})
		all.Go(func() {
			for range 300 {
				clk.Step(100 * time.Millisecond)
				b.Step()
				if l, err := radio.Discard(b.Via("edge-1")); err == nil {
					_ = b.Via("edge-1").Subscribe(l, bluest.Inertial.UUID(), true)
				}
			}
		})
	}
	all.Wait()
	if err := b.Clear(""); err != nil {
		t.Fatal(err)
	}
	if len(told)%2 != 0 {
		t.Errorf("told %d times", len(told))
	}
	for i, ok := range told {
		if ok != (i%2 == 1) {
			t.Fatalf("told %v as number %d", ok, i)
		}
	}
	if err := b.Via("edge-1").Connect(&radio.Link{}); err != nil && !errors.Is(err, radio.ErrBusy) {
		t.Errorf("connect in the end: %v", err)
	}
}
