package board_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	testingclock "k8s.io/utils/clock/testing"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/board"
	"github.com/fluidos-edge/testbed/simulators/radio"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func kt1b() topology.Board {
	return topology.Board{Name: "kt", Model: topology.STWINKT1B, MAC: "c0:83:2a:00:00:01", ID: "0123456789abcdef01234567",
		Nodes: []string{"edge-1"}, Rate: 2, Latency: topology.Latency{Median: topology.Duration(5 * time.Millisecond), Jitter: topology.Duration(time.Millisecond)}}
}

func bx1() topology.Board {
	b := kt1b()
	b.Name, b.Model, b.MAC, b.ID = "bx", topology.STWINBX1, "c0:83:2a:00:00:02", "0123456789abcdef01234568"
	return b
}

// bench is a board on a fake clock, connected over a real radio.
type bench struct {
	t     *testing.T
	clk   *testingclock.FakeClock
	board *board.Board
	conn  *radio.Conn
	// inRange is what the board told of that.
	inRange []bool
}

func newBench(t *testing.T, spec topology.Board) *bench {
	t.Helper()
	return newJournaled(t, spec, nil)
}

// newJournaled is a bench whose board keeps a journal.
func newJournaled(t *testing.T, spec topology.Board, j *board.Journal) *bench {
	t.Helper()
	s := &bench{t: t, clk: testingclock.NewFakeClock(start)}
	s.board = newBoard(t, spec, board.Options{Clock: s.clk, Journal: j, Monotonic: func() int64 { return s.clk.Since(start).Nanoseconds() },
		InRange: func(_ *board.Board, ok bool) { s.inRange = append(s.inRange, ok) }})
	s.conn = connect(t, s.board)
	return s
}

func newBoard(t testing.TB, spec topology.Board, opts board.Options) *board.Board {
	t.Helper()
	opts.Seed = 7
	b, err := board.New(spec, opts)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func connect(t *testing.T, b *board.Board) *radio.Conn {
	t.Helper()
	p := b.Via("edge-1")
	path := filepath.Join(t.TempDir(), "r")
	srv, err := radio.Listen(path, []radio.Heard{{Peripheral: p}}, radio.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	c, err := radio.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	k, err := c.Connect(t.Context(), p.Address())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (s *bench) subscribe(characteristic string) <-chan radio.Notification {
	s.t.Helper()
	ch, err := s.conn.Subscribe(s.t.Context(), characteristic)
	if err != nil {
		s.t.Fatal(err)
	}
	return ch
}

// run steps the board for as long on its clock.
func (s *bench) run(d time.Duration) {
	end := s.clk.Now().Add(d)
	for {
		next := s.board.Step()
		if next.IsZero() || next.After(end) {
			s.clk.SetTime(end)
			return
		}
		s.clk.SetTime(next)
	}
}

func (s *bench) next(ch <-chan radio.Notification) radio.Notification {
	s.t.Helper()
	select {
	case n, ok := <-ch:
		if !ok {
			s.t.Fatalf("connection is gone: %v", s.conn.Err())
		}
		return n
	case <-time.After(20 * time.Second):
		s.t.Fatal("nothing came within 20 s")
		return radio.Notification{}
	}
}

// line reads the console to the next line's end.
func (s *bench) line(ch <-chan radio.Notification) string {
	s.t.Helper()
	var b strings.Builder
	for !strings.HasSuffix(b.String(), "\r\n") {
		n := s.next(ch)
		if len(n.Value) > 20 {
			s.t.Fatalf("notification of %d bytes", len(n.Value))
		}
		b.Write(n.Value)
	}
	return strings.TrimSuffix(b.String(), "\r\n")
}

func (s *bench) ask(ch <-chan radio.Notification, command string) string {
	s.t.Helper()
	if err := s.conn.Write(s.t.Context(), bluest.ConsoleUUID, []byte(command)); err != nil {
		s.t.Fatal(err)
	}
	s.run(time.Second)
	return s.line(ch)
}

func TestFrames(t *testing.T) {
	for _, tt := range []struct {
		spec topology.Board
		mask bluest.Mask
		unit time.Duration
	}{{kt1b(), bluest.EnvironmentalKT1B, 8 * time.Millisecond}, {bx1(), bluest.EnvironmentalBX1, 10 * time.Millisecond}} {
		t.Run(tt.spec.Model, func(t *testing.T) {
			s := newBench(t, tt.spec)
			ch := s.subscribe(tt.mask.UUID())
			s.run(100 * time.Second)
			line := bluest.NewTimeline(tt.unit)
			var first, last time.Duration
			for i := range 200 {
				n := s.next(ch)
				f, err := bluest.Decode(n.Characteristic, n.Value)
				if err != nil {
					t.Fatal(err)
				}
				if got := time.Duration(f.TSUnitMs) * time.Millisecond; got != tt.unit {
					t.Fatalf("unit %s, want %s", got, tt.unit)
				}
				uptime, restarted := line.Uptime(f.TS, time.Duration(n.Emitted))
				if restarted {
					t.Fatalf("frame %d: uptime starts anew", i)
				}
				if i == 0 {
					first = uptime - time.Duration(n.Emitted)
				}
				if off := uptime - time.Duration(n.Emitted) - first; off < -tt.unit || off > tt.unit {
					t.Fatalf("frame %d: uptime is off by %s", i, off)
				}
				if e := time.Duration(n.Emitted); i > 0 && e-last != 500*time.Millisecond {
					t.Fatalf("frame %d is %s after its predecessor, want 500ms", i, e-last)
				}
				last = time.Duration(n.Emitted)
				for q, limits := range map[string][2]float64{bluest.Pressure: {1000, 1026}, bluest.Humidity: {30, 62}, bluest.Temperature: {17, 27}, bluest.Temperature2: {17, 27}} {
					if v, ok := f.Value(q); ok && (v < limits[0] || v > limits[1]) {
						t.Fatalf("frame %d: %s %v is not plausible", i, q, v)
					}
				}
				a, _ := f.Value(bluest.Temperature)
				if b, ok := f.Value(bluest.Temperature2); ok && math.Abs(a-b) > 1.1 {
					t.Fatalf("frame %d: temperatures %v and %v, each within 0.5 degC of the truth", i, a, b)
				}
			}
		})
	}
}

// The same seed and clock give the same frames.
func TestFramesAreRepeatable(t *testing.T) {
	var got [2][]string
	for i := range got {
		s := newBench(t, kt1b())
		ch := s.subscribe(bluest.EnvironmentalKT1B.UUID())
		s.run(10 * time.Second)
		for range 20 {
			n := s.next(ch)
			got[i] = append(got[i], string(n.Value))
		}
	}
	if d := cmp.Diff(got[0], got[1]); d != "" {
		t.Error(d)
	}
	distinct := map[string]bool{}
	for _, v := range got[0] {
		distinct[v] = true
	}
	if len(distinct) != 20 {
		t.Errorf("%d distinct frames of 20", len(distinct))
	}
}

// How late frames are delivered, and that none overtakes another.
func TestLatency(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name           string
		rate           float64
		median, jitter time.Duration
		frames         int
	}{
		{"jitter far below the period", 2, 5 * ms, ms, 60},
		{"jitter far above the period", 100, 40 * ms, 40 * ms, 500},
		{"none", 10, 0, 0, 50},
		{"longer than the period", 10, time.Second, 0, 50},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := bx1()
			spec.Rate = tt.rate
			spec.Latency = topology.Latency{Median: topology.Duration(tt.median), Jitter: topology.Duration(tt.jitter)}
			s := newBench(t, spec)
			ch := s.subscribe(bluest.EnvironmentalBX1.UUID())
			var last time.Duration
			var below, above int
			for got := 0; got < tt.frames; {
				next := s.board.Step()
				if next.IsZero() || next.Before(s.clk.Now()) {
					t.Fatalf("at %s wants to go on at %s", s.clk.Now(), next)
				}
				// what a radio answers comes behind what the board sent before
				if _, err := s.conn.Read(t.Context(), bluest.EnvironmentalBX1.UUID()); err != nil {
					t.Fatal(err)
				}
				for len(ch) > 0 {
					emitted := time.Duration((<-ch).Emitted)
					got++
					if emitted <= last {
						t.Fatalf("frame %d was emitted at %s, its predecessor at %s", got, emitted, last)
					}
					last = emitted
					latency := s.clk.Since(start) - emitted
					if latency < tt.median-tt.jitter || latency > tt.median+tt.jitter {
						t.Fatalf("frame %d was delivered after %s, want %s +- %s", got, latency, tt.median, tt.jitter)
					}
					if latency < tt.median {
						below++
					} else if latency > tt.median {
						above++
					}
				}
				s.clk.SetTime(next)
			}
			if tt.jitter > 0 && (below < tt.frames/10 || above < tt.frames/10) {
				t.Errorf("of %d frames %d came before the median and %d after", tt.frames, below, above)
			}
		})
	}
}

func TestConsole(t *testing.T) {
	spec := kt1b()
	latency := "16"
	spec.Parts = map[string]topology.Declared{"hts221": {Latency: &latency}}
	s := newBench(t, spec)
	console := s.subscribe(bluest.ConsoleUUID)
	if got := s.ask(console, "uid\r\n"); got != spec.ID {
		t.Errorf("uid: %q", got)
	}
	if got, want := s.ask(console, "info"), "STEVAL-STWINKT1B, x-cube-ble2 SensorDemo"; got != want {
		t.Errorf("info: %q, want %q", got, want)
	}
	if got := s.ask(console, "reboot"); !strings.Contains(got, `unknown command "reboot"`) {
		t.Errorf("reboot: %q", got)
	}
	want := []nodecore.Characteristics{
		characteristics("HTS221", "HTS221 humidity and temperature sensor", "16", "2", []string{"Humidity", "Temperature"}, []string{"3.5", "0.5"}, []string{"%RH", "degC"}),
		characteristics("LPS22HH", "LPS22HH pressure sensor", "12", "4", []string{"Pressure"}, []string{"0.5"}, []string{"hPa"}),
		characteristics("STTS751", "STTS751 temperature sensor", "12", "50", []string{"Temperature"}, []string{"0.5"}, []string{"degC"}),
	}
	sensors := func() (got []nodecore.Characteristics) {
		t.Helper()
		if err := json.Unmarshal([]byte(s.ask(console, "sensors\r\n")), &got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if d := cmp.Diff(want, sensors()); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(want, s.board.State().Parts); d != "" {
		t.Error(d)
	}

	unit, none := "s", ""
	if err := s.board.Set(board.Patch{Parts: map[string]topology.Declared{"hts221": {LatencyUnit: &unit, Market: &none}}}); err != nil {
		t.Fatal(err)
	}
	s.run(time.Second)
	if got := s.line(console); got != "sensors changed" {
		t.Errorf("after a change: %q", got)
	}
	want[0].Properties.Unit.Latency, want[0].Market = "s", ""
	if d := cmp.Diff(want, sensors()); d != "" {
		t.Error(d)
	}

	rate := 4.0
	if err := s.board.Set(board.Patch{Rate: &rate}); err != nil {
		t.Fatal(err)
	}
	s.run(time.Second)
	if got := s.line(console); got != "sensors changed" {
		t.Errorf("after a change of rate: %q", got)
	}
	// behaviour is not declared, and what is declared already is no change
	median := topology.Duration(30 * time.Millisecond)
	if err := s.board.Set(board.Patch{Latency: &board.LatencyPatch{Median: &median}, Parts: map[string]topology.Declared{"hts221": {LatencyUnit: &unit}}}); err != nil {
		t.Fatal(err)
	}
	if got := s.ask(console, "uid"); got != spec.ID {
		t.Errorf("after nothing that is declared changed: %q", got)
	}
}

func characteristics(model, name, latency, consumption string, types, accuracy, units []string) nodecore.Characteristics {
	return nodecore.Characteristics{
		Name: name, Model: model, Manufacturer: "STMicroelectronics", Market: "Industrial",
		Type:         nodecore.SensorType{SensorCategory: "environmental", SensorType: types},
		SamplingRate: "2", Accuracy: accuracy, Consumption: consumption, Latency: latency,
		Properties: nodecore.SensorProperties{Unit: nodecore.SensorUnits{Measurement: units, Consumption: "uA", SamplingRate: "Hz", Latency: "ms"}},
	}
}

func TestConsoleWithLongDeclarations(t *testing.T) {
	spec := kt1b()
	long := strings.Repeat("\x01", 256) // six characters each in JSON
	all := topology.Declared{Latency: &long, LatencyUnit: &long, Manufacturer: &long, Market: &long}
	spec.Parts = map[string]topology.Declared{"hts221": all, "lps22hh": all, "stts751": all}
	s := newBench(t, spec)
	console := s.subscribe(bluest.ConsoleUUID)
	if err := s.conn.Write(t.Context(), bluest.ConsoleUUID, []byte("sensors")); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for !strings.HasSuffix(got.String(), "\r\n") {
		at := s.board.Step()
		for i := 0; i < 32 && !strings.HasSuffix(got.String(), "\r\n"); i++ {
			got.Write(s.next(console).Value)
		}
		if !at.IsZero() {
			s.clk.SetTime(at)
		}
	}
	if got.Len() < 18_000 {
		t.Errorf("answer of %d bytes", got.Len())
	}
}

func TestOneConnection(t *testing.T) {
	announced := make(chan bool, 10)
	clk := testingclock.NewFakeClock(start)
	b, err := board.New(bx1(), board.Options{Clock: clk, Announce: func(b *board.Board) {
		_, connectable := b.Via("edge-2").Advertise()
		announced <- connectable
	}})
	if err != nil {
		t.Fatal(err)
	}
	k := connect(t, b)
	if <-announced {
		t.Error("connected, and still connectable")
	}
	if got := b.State(); got.ConnectedTo != "edge-1" || got.Device != "stwinbx1-c0832a000002" {
		t.Errorf("state %+v", got)
	}
	other := &radio.Link{}
	if err := b.Via("edge-2").Connect(other); !errors.Is(err, radio.ErrBusy) {
		t.Errorf("second connection: %v", err)
	}
	if err := b.Via("edge-2").Write(other, bluest.ConsoleUUID, []byte("uid")); !errors.Is(err, radio.ErrDisconnected) {
		t.Errorf("write over a link that is none: %v", err)
	}
	b.Via("edge-2").Disconnected(other)
	if b.State().ConnectedTo != "edge-1" {
		t.Error("somebody else's disconnection ended the connection")
	}
	if _, err := k.Subscribe(t.Context(), bluest.EnvironmentalBX1.UUID()); err != nil {
		t.Fatal(err)
	}
	if b.Step().IsZero() {
		t.Error("subscribed, and nothing to do")
	}
	_ = k.Close()
	if !<-announced {
		t.Error("disconnected, and not connectable")
	}
	if !b.Step().IsZero() || b.State().ConnectedTo != "" {
		t.Error("goes on after its connection is gone")
	}
}

func TestRead(t *testing.T) {
	s := newBench(t, bx1())
	v, err := s.conn.Read(t.Context(), bluest.EnvironmentalBX1.UUID())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bluest.Decode(bluest.EnvironmentalBX1.UUID(), v); err != nil {
		t.Error(err)
	}
	for _, m := range []bluest.Mask{bluest.Inertial, bluest.Battery, bluest.Microphone} {
		v, err := s.conn.Read(t.Context(), m.UUID())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bluest.Decode(m.UUID(), v); err != nil || len(v) > 20 {
			t.Errorf("%d bytes, %v", len(v), err)
		}
	}
	for what, err := range map[string]error{
		"read of the console":        func() error { _, err := s.conn.Read(t.Context(), bluest.ConsoleUUID); return err }(),
		"subscription to the config": func() error { _, err := s.conn.Subscribe(t.Context(), bluest.ConfigUUID); return err }(),
		"read of another layout":     func() error { _, err := s.conn.Read(t.Context(), bluest.EnvironmentalKT1B.UUID()); return err }(),
		"write of a reading":         s.conn.Write(t.Context(), bluest.EnvironmentalBX1.UUID(), []byte("x")),
		"subscription to nothing": func() error {
			_, err := s.conn.Subscribe(t.Context(), bluest.EnvironmentalKT1B.UUID())
			return err
		}(),
	} {
		if !errors.Is(err, radio.ErrUnknown) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*topology.Board)
		want string
	}{
		{"address", func(b *topology.Board) { b.MAC = "c0:83" }, "mac: "},
		{"id", func(b *topology.Board) { b.ID = "xyz" }, "id: "},
		{"model", func(b *topology.Board) { b.Model = "STWINKT1" }, "model: "},
		{"unknown model", func(b *topology.Board) { b.Model = "toaster" }, "model: "},
		{"rate", func(b *topology.Board) { b.Rate = math.NaN() }, "rate: "},
		{"part that is not on offer", func(b *topology.Board) {
			b.Offers, b.Parts = []string{"lps22hh"}, map[string]topology.Declared{"hts221": {}}
		}, "parts.hts221: not on offer, want one of lps22hh"},
		{"offer", func(b *topology.Board) { b.Offers = []string{"stts22h"} }, `offers: "stts22h", want parts of a STWINKT1B, each once: hts221, lps22hh, stts751, ism330dhcx, iis2mdc, imp34dt05`},
		{"offer twice", func(b *topology.Board) { b.Offers = []string{"hts221", "hts221"} }, `offers: "hts221", want parts`},
		{"replay", func(b *topology.Board) { b.Replay, b.ReplayCSV = "x.csv", "seconds\n" }, "replay x.csv: line 1, column 1: "},
		{"part", func(b *topology.Board) { b.Parts = map[string]topology.Declared{"stts22h": {}} }, "parts.stts22h: "},
	} {
		spec := kt1b()
		tt.edit(&spec)
		if _, err := board.New(spec, board.Options{Clock: testingclock.NewFakeClock(start)}); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s...", tt.name, err, tt.want)
		}
	}
	b, err := board.New(kt1b(), board.Options{Clock: testingclock.NewFakeClock(start)})
	if err != nil {
		t.Fatal(err)
	}
	before := b.State()
	rate, low, long := 4.0, 0.05, strings.Repeat("x", 257)
	median, jitter := topology.Duration(2*time.Minute), topology.Duration(10*time.Millisecond)
	for _, tt := range []struct {
		patch board.Patch
		want  string
	}{
		{board.Patch{Rate: &low}, "rate: 0.05 Hz, want 0.1 to 100"},
		{board.Patch{Rate: &rate, Latency: &board.LatencyPatch{Median: &median}}, "latency.median: 2m0s"},
		{board.Patch{Rate: &rate, Latency: &board.LatencyPatch{Jitter: &jitter}}, "latency.jitter: 10ms, want 0s to the median, 5ms"},
		{board.Patch{Rate: &rate, Parts: map[string]topology.Declared{"hts222": {}}}, "parts.hts222: no such part on a STWINKT1B, want one of hts221, lps22hh, stts751"},
		{board.Patch{Rate: &rate, Parts: map[string]topology.Declared{"hts221": {Market: &long}}}, "parts.hts221.market: 257 bytes"},
	} {
		if err := b.Set(tt.patch); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%v, want %s", err, tt.want)
		}
	}
	if d := cmp.Diff(before, b.State()); d != "" {
		t.Errorf("a refused patch changed something: %s", d)
	}
}
