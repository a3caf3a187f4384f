package board_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/board"
	"github.com/fluidos-edge/testbed/simulators/radio"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// masks of a board's characteristics that notify.
func masks(spec topology.Board) []bluest.Mask {
	return []bluest.Mask{bluest.Parts(spec.Model)[0].Characteristic, bluest.Inertial, bluest.Battery, bluest.Microphone}
}

func key(m bluest.Mask) string { return fmt.Sprintf("%08x", uint32(m)) }

// waiting are the notifications that have arrived.
func (s *bench) waiting(ch <-chan radio.Notification) []radio.Notification {
	s.t.Helper()
	// what a radio answers comes behind what the board sent before
	if _, err := s.conn.Discover(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	var all []radio.Notification
	for len(ch) > 0 {
		all = append(all, <-ch)
	}
	return all
}

// Each characteristic has its rate and phase, and all count the same time.
func TestStreams(t *testing.T) {
	for _, spec := range []topology.Board{kt1b(), bx1()} {
		t.Run(spec.Model, func(t *testing.T) {
			spec.Rate = 4
			s := newBench(t, spec)
			var streams []<-chan radio.Notification
			for _, m := range masks(spec) {
				streams = append(streams, s.subscribe(m.UUID()))
			}
			s.run(10 * time.Second)
			rates := map[string]float64{}
			var phases []time.Duration
			var uptimes []time.Duration
			for i, m := range masks(spec) {
				rate := m.NominalRate()
				if i == 0 {
					rate = 4
				}
				rates[key(m)] = rate
				all := s.waiting(streams[i])
				if n := int(10 * rate); len(all) != n {
					t.Fatalf("%s: %d frames in 10 s, want %d", key(m), len(all), n)
				}
				period := time.Duration(float64(time.Second) / rate)
				for j, n := range all {
					f, err := bluest.Decode(m.UUID(), n.Value)
					if err != nil || len(n.Value) > 20 {
						t.Fatalf("%s, frame %d: %d bytes, %v", key(m), j, len(n.Value), err)
					}
					if j > 0 && n.Emitted-all[j-1].Emitted != int64(period) {
						t.Fatalf("%s, frame %d: %s after its predecessor, want %s", key(m), j, time.Duration(n.Emitted-all[j-1].Emitted), period)
					}
					unit := 10 * time.Millisecond
					if spec.Model == topology.STWINKT1B {
						unit = 8 * time.Millisecond
					}
					uptimes = append(uptimes, time.Duration(f.TS)*unit-time.Duration(n.Emitted))
				}
				phases = append(phases, time.Duration(all[0].Emitted)%(50*time.Millisecond))
			}
			if d := slices.Max(uptimes) - slices.Min(uptimes); d > 10*time.Millisecond {
				t.Errorf("time stamps differ by %s beyond what was between them", d)
			}
			if slices.Sort(phases); len(slices.Compact(phases)) != 4 {
				t.Errorf("phases %v", phases)
			}
			if d := cmp.Diff(rates, s.board.State().Rates); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	spec := kt1b()
	spec.Offers = []string{"hts221", "iis2mdc"}
	s := newBench(t, spec)
	console := s.subscribe(bluest.ConsoleUUID)
	env, inertial := s.subscribe(bluest.EnvironmentalKT1B.UUID()), s.subscribe(bluest.Inertial.UUID())
	write := func(c bluest.Command) error {
		t.Helper()
		return s.conn.Write(t.Context(), bluest.ConfigUUID, c.Encode())
	}
	rate := func(m bluest.Mask, hz float64) bluest.Command {
		t.Helper()
		c, err := bluest.RateCommand(m, hz)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	frames := func(wantEnv, wantInertial int) {
		t.Helper()
		s.run(10 * time.Second)
		if e, i := len(s.waiting(env)), len(s.waiting(inertial)); e != wantEnv || i != wantInertial {
			t.Fatalf("in 10 s %d environmental frames and %d inertial ones, want %d and %d", e, i, wantEnv, wantInertial)
		}
	}
	frames(20, 200)

	if err := write(rate(bluest.EnvironmentalKT1B, 2.5)); err != nil {
		t.Fatal(err)
	}
	frames(25, 200)
	if got := s.line(console); got != "sensors changed" {
		t.Errorf("after a change of rate: %q", got)
	}
	if st := s.board.State(); st.Rate != 2.5 || st.Rates["001d0000"] != 2.5 || st.Parts[0].SamplingRate != "2.5" || st.Parts[1].SamplingRate != "20" {
		t.Errorf("rate %v, rates %v, declared %+v", st.Rate, st.Rates, st.Parts)
	}

	// one feature names the characteristic that carries it
	if err := write(rate(0x00200000, 0.5)); err != nil {
		t.Fatal(err)
	}
	frames(25, 5)
	if got := s.line(console); got != "sensors changed" {
		t.Errorf("after a change of rate: %q", got)
	}

	// what is not on offer is nothing that a board would declare
	for _, c := range []bluest.Command{rate(bluest.Battery, 0.1), rate(bluest.EnvironmentalKT1B, 2.5), {Feature: bluest.EnvironmentalKT1B, ID: bluest.CommandDisable}} {
		if err := write(c); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.ask(console, "uid"); got != spec.ID {
		t.Errorf("after nothing that is declared changed: %q", got)
	}
	frames(0, 5)
	if got := s.board.State(); got.Rates["00020000"] != 0.1 || got.Rate != 2.5 || len(got.Rates) != 3 {
		t.Errorf("rates %v", got.Rates)
	}
	if _, err := s.conn.Read(t.Context(), bluest.EnvironmentalKT1B.UUID()); err != nil {
		t.Errorf("read of what is disabled: %v", err)
	}
	if err := write(bluest.Command{Feature: bluest.EnvironmentalKT1B, ID: bluest.CommandEnable}); err != nil {
		t.Fatal(err)
	}
	frames(25, 5)

	before := s.board.State().Rates
	for _, tt := range []struct {
		command []byte
		want    string
	}{
		{rate(bluest.EnvironmentalKT1B, 100.1).Encode(), "rate: 100.1 Hz, want 0.1 to 100"},
		{bluest.Command{Feature: bluest.Battery, ID: bluest.CommandRate, Data: []byte{0, 0}}.Encode(), "rate: 0 Hz, want 0.1 to 100"},
		{rate(0x00008000, 1).Encode(), "feature 00008000 is in no characteristic of a STWINKT1B"},
		{rate(bluest.Battery|bluest.Inertial, 1).Encode(), "feature 00e20000 is in no characteristic"},
		{rate(0, 1).Encode(), "feature 00000000 is in no characteristic"},
		{[]byte("rate"), "command of 4 bytes"},
	} {
		if err := s.conn.Write(t.Context(), bluest.ConfigUUID, tt.command); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("% x: %v, want an error with %q", tt.command, err, tt.want)
		}
	}
	if d := cmp.Diff(before, s.board.State().Rates); d != "" {
		t.Errorf("a refused command changed something: %s", d)
	}
}

// Readings over four days: what part of the world they show, and how they vary.
func TestReadings(t *testing.T) {
	within := map[string][2]float64{
		bluest.Pressure: {1007.5, 1019}, bluest.Humidity: {33, 59}, bluest.Temperature: {18, 26}, bluest.Temperature2: {18, 26}, "soundLevel1": {38, 45},
		"accelerationX": {-98, 98}, "accelerationY": {-98, 98}, "accelerationZ": {986, 1010}, "angularRateX": {-1, 1}, "angularRateY": {-1, 1}, "angularRateZ": {-1, 1},
		"magneticFieldX": {-301, 301}, "magneticFieldY": {-301, 301}, "magneticFieldZ": {-476, -355},
		bluest.Level: {20, 100}, bluest.Voltage: {3476, 4203}, bluest.Current: {-25, 193}, bluest.Status: {1, 3},
	}
	for _, spec := range []topology.Board{kt1b(), bx1()} {
		t.Run(spec.Model, func(t *testing.T) {
			clk := testingclock.NewFakeClock(start)
			p := newBoard(t, spec, board.Options{Clock: clk}).Via("edge-1")
			same, longest := map[string]int{}, map[string]int{} // frames in a row, by part
			last := map[string]string{}
			least, most := map[string]float64{}, map[string]float64{}
			var alike, frames int
			for range 20_000 {
				clk.Step(17280 * time.Millisecond)
				var env string
				for _, m := range masks(spec) {
					v, err := p.Read(m.UUID())
					if err != nil {
						t.Fatal(err)
					}
					f, err := bluest.Decode(m.UUID(), v)
					if err != nil {
						t.Fatal(err)
					}
					for _, r := range f.Readings {
						if l, ok := within[r.Quantity]; !ok || r.Value < l[0] || r.Value > l[1] {
							t.Fatalf("%s: %s is %v, want %v", clk.Now(), r.Quantity, r.Value, l)
						}
						if low, ok := least[r.Quantity]; !ok || r.Value < low {
							least[r.Quantity] = r.Value
						}
						if high, ok := most[r.Quantity]; !ok || r.Value > high {
							most[r.Quantity] = r.Value
						}
					}
					if m == masks(spec)[0] {
						env = fmt.Sprint(f.Readings)
					}
					a, _ := f.Value(bluest.Temperature)
					if b, ok := f.Value(bluest.Temperature2); ok && math.Abs(a-b) > 1.1 {
						t.Fatalf("%s: temperatures %v and %v, each within 0.5 degC of the truth", clk.Now(), a, b)
					}
					for _, part := range bluest.Parts(spec.Model) {
						if part.Characteristic != m {
							continue
						}
						var values []float64
						for _, feed := range part.Feeds {
							v, _ := f.Value(feed.Quantity)
							values = append(values, v)
						}
						if text := fmt.Sprint(values); text == last[part.Name] {
							same[part.Name]++
							longest[part.Name] = max(longest[part.Name], same[part.Name])
						} else {
							same[part.Name], last[part.Name] = 1, text
						}
					}
				}
				if frames++; env == last["environmental"] {
					alike++
				}
				last["environmental"] = env
			}
			for part, n := range longest {
				if n >= 15 {
					t.Errorf("%s shows the same %d times in a row", part, n)
				}
			}
			if alike > frames/40 {
				t.Errorf("of %d environmental frames %d are as the one before", frames, alike)
			}
			for q, swing := range map[string]float64{bluest.Temperature: 5, bluest.Pressure: 9, bluest.Level: 79, "soundLevel1": 4} {
				if got := most[q] - least[q]; got < swing {
					t.Errorf("%s varies by %v in four days, want at least %v", q, got, swing)
				}
			}
			if _, ok := most[bluest.Current]; ok != (spec.Model == topology.STWINBX1) {
				t.Errorf("battery has a current: %v", ok)
			}
		})
	}
}

// At rest a board feels gravity and the earth's field, whichever way it lies.
func TestVectors(t *testing.T) {
	spec := bx1()
	for i := range 50 {
		spec.MAC = fmt.Sprintf("c0:83:2a:00:01:%02x", i)
		b := newBoard(t, spec, board.Options{Clock: testingclock.NewFakeClock(start)})
		values := map[string]float64{}
		for _, r := range b.State().Readings["00e00000"] {
			values[r.Quantity] = r.Value
		}
		length := func(q string) float64 {
			return math.Sqrt(values[q+"X"]*values[q+"X"] + values[q+"Y"]*values[q+"Y"] + values[q+"Z"]*values[q+"Z"])
		}
		if a, m := length("acceleration"), length("magneticField"); math.Abs(a-1000) > 20 || math.Abs(m-480) > 105 {
			t.Errorf("%s: acceleration of %v mg, field of %v mGauss", spec.MAC, a, m)
		}
	}
}

func TestBattery(t *testing.T) {
	clk := testingclock.NewFakeClock(start)
	b := newBoard(t, bx1(), board.Options{Clock: clk})
	for _, tt := range []struct {
		after          time.Duration
		level, voltage float64
		current        float64
		status         float64
	}{
		{0, 100, 4200, -24, 1}, {5 * time.Hour, 75, 3975, -24, 1}, {16*time.Hour - time.Second, 20, 3480, -24, 1},
		{16 * time.Hour, 20, 3480, 192, 3}, {17 * time.Hour, 60, 3840, 192, 3}, {18 * time.Hour, 100, 4200, -24, 1}, {23 * time.Hour, 75, 3975, -24, 1},
	} {
		clk.SetTime(start.Add(tt.after))
		st := b.State()
		got := map[string]float64{}
		for _, r := range st.Readings["00020000"] {
			got[r.Quantity] = r.Value
		}
		if got[bluest.Level] != tt.level || st.Battery != tt.level || math.Abs(got[bluest.Voltage]-tt.voltage) > 3 ||
			math.Abs(got[bluest.Current]-tt.current) > 1 || got[bluest.Status] != tt.status {
			t.Errorf("after %s: %v, battery %v; want %+v", tt.after, got, st.Battery, tt)
		}
	}
}

// Whoever advances a board in strides gets what it would have sent step by step.
func TestAdvance(t *testing.T) {
	var got [2][]string
	for i := range got {
		s := newBench(t, kt1b())
		streams := []<-chan radio.Notification{s.subscribe(bluest.EnvironmentalKT1B.UUID()), s.subscribe(bluest.Inertial.UUID()), s.subscribe(bluest.ConsoleUUID)}
		if err := s.board.Fault(topology.Fault{Kind: topology.FaultStuck, Part: "hts221", For: topology.Duration(5 * time.Second)}, ""); err != nil {
			t.Fatal(err)
		}
		if err := s.conn.Write(t.Context(), bluest.ConsoleUUID, []byte("sensors")); err != nil {
			t.Fatal(err)
		}
		for range 4 {
			if i == 0 {
				s.run(3 * time.Second)
			} else {
				to := s.clk.Now().Add(3 * time.Second)
				s.board.Advance(to)
				s.clk.SetTime(to)
			}
		}
		// the last are still on their way
		s.board.Advance(s.clk.Now().Add(10 * time.Millisecond))
		for _, ch := range streams {
			for _, n := range s.waiting(ch) {
				got[i] = append(got[i], string(n.Value))
			}
		}
		if len(s.board.State().Faults) != 0 {
			t.Errorf("faults %+v", s.board.State().Faults)
		}
	}
	if d := cmp.Diff(got[0], got[1]); d != "" || len(got[0]) < 264 {
		t.Errorf("%d notifications: %s", len(got[0]), d)
	}
}

// The parts that a topology may name are those that boards have, and by default it
// offers what a board offers by default.
func TestPartsOfTopology(t *testing.T) {
	for _, spec := range []topology.Board{kt1b(), bx1()} {
		clk := testingclock.NewFakeClock(start)
		byTopology := topology.Board{Model: spec.Model}
		byTopology.SetDefaults(1, 1, "edge-1")
		b := newBoard(t, spec, board.Options{Clock: clk})
		if d := cmp.Diff(byTopology.Offers, b.State().Offers); d != "" {
			t.Error(d)
		}
		var names []string
		for _, p := range bluest.Parts(spec.Model) {
			names = append(names, p.Name)
			if err := (topology.Fault{Kind: topology.FaultStuck, Part: p.Name}).Check(spec.Model); err != nil {
				t.Error(err)
			}
			// what a topology reckons with is what the board does by itself
			file := fmt.Sprintf("apiVersion: %s\nkind: %s\nconsumers: [{}]\nproviders: [{messageQPS: 1, boards: [{model: %s, rate: 7, offers: [%s]}]}]\n",
				topology.APIVersion, topology.Kind, spec.Model, p.Name)
			got, err := topology.Load("t.yaml", []byte(file))
			if err != nil {
				t.Fatal(err)
			}
			st := newBoard(t, got.Providers[0].Boards[0], board.Options{Clock: clk}).State()
			want := fmt.Sprintf("can send %v messages/s", st.Rates[key(p.Characteristic)])
			if w := got.Warnings(); len(w) != 1 || !strings.Contains(w[0], want) || st.Parts[0].SamplingRate != fmt.Sprint(st.Rates[key(p.Characteristic)]) {
				t.Errorf("%s: %q, declared %s Hz; want %s", p.Name, w, st.Parts[0].SamplingRate, want)
			}
		}
		err := topology.Fault{Kind: topology.FaultStuck, Part: "x"}.Check(spec.Model)
		if err == nil || !strings.Contains(err.Error(), "a part of "+spec.Model+": "+strings.Join(names, ", ")+",") {
			t.Errorf("%v, want exactly %v", err, names)
		}
		spec.Offers = names
		if got := newBoard(t, spec, board.Options{Clock: clk}).State(); len(got.Parts) != len(names) {
			t.Errorf("declares %+v", got.Parts)
		}
	}
}
