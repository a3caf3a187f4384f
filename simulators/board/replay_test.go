package board_test

import (
	"math"
	"strings"
	"testing"
	"time"

	testingclock "k8s.io/utils/clock/testing"

	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/board"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

func TestReplay(t *testing.T) {
	spec := kt1b()
	spec.ReplayCSV = "# from the roof\nseconds, humidity,temperature2,level\n10,40,20,100\n20,50,20,90\n20.5,30,-10,90\n"
	clk := testingclock.NewFakeClock(start)
	b := newBoard(t, spec, board.Options{Clock: clk})
	spec.ReplayCSV = ""
	twin := newBoard(t, spec, board.Options{Clock: clk})
	value := func(b *board.Board, quantity string) float64 {
		t.Helper()
		for _, readings := range b.State().Readings {
			for _, r := range readings {
				if r.Quantity == quantity {
					return r.Value
				}
			}
		}
		t.Fatalf("no %s", quantity)
		return 0
	}
	for _, tt := range []struct {
		after                        time.Duration
		humidity, temperature, level float64
	}{
		{0, 40, 20, 100}, {2500 * time.Millisecond, 42.5, 20, 97.5}, {10 * time.Second, 50, 20, 90}, {10250 * time.Millisecond, 40, 5, 90},
		{10499 * time.Millisecond, 30, -9.9, 90}, {10500 * time.Millisecond, 40, 20, 100}, {1050*time.Second + 5*time.Second, 45, 20, 95},
	} {
		clk.SetTime(start.Add(tt.after))
		if h, c, l := value(b, bluest.Humidity), value(b, bluest.Temperature2), value(b, bluest.Level); h != tt.humidity || c != tt.temperature || l != tt.level {
			t.Errorf("after %s: humidity %v, temperature %v, level %v; want %+v", tt.after, h, c, l, tt)
		}
		for _, q := range []string{bluest.Temperature, bluest.Pressure, "accelerationX", bluest.Voltage} {
			if got, want := value(b, q), value(twin, q); got != want {
				t.Errorf("%s is %v, by the model %v", q, got, want)
			}
		}
	}
	if err := b.Fault(topology.Fault{Kind: topology.FaultDrift, Part: "stts751", Slope: 60}, ""); err != nil {
		t.Fatal(err)
	}
	clk.Step(time.Second)
	if got := value(b, bluest.Temperature2); got != 21 {
		t.Errorf("drifting for a second, temperature %v", got)
	}

	spec.ReplayCSV = "seconds,humidity\n5,77\n"
	b = newBoard(t, spec, board.Options{Clock: clk})
	for range 3 {
		if got := value(b, bluest.Humidity); got != 77 {
			t.Errorf("humidity %v, want 77 for ever", got)
		}
		clk.Step(time.Hour)
	}
}

func TestParseReplayRefuses(t *testing.T) {
	for _, tt := range []struct{ model, csv, want string }{
		{"toaster", "seconds,temperature\n0,1\n", `model "toaster": not simulated`},
		{topology.STWINBX1, "", "line 1, column 1: want a header and at least one row"},
		{topology.STWINBX1, "# nothing\nseconds,temperature\n", "line 1, column 1: want a header and at least one row"},
		{topology.STWINBX1, "time,temperature\n0,1\n", `line 1, column 1: header "time,temperature", want seconds, then the quantities`},
		{topology.STWINBX1, "seconds\n0\n", `line 1, column 1: header "seconds", want seconds, then the quantities`},
		{topology.STWINBX1, "\n\nseconds,temperature,humidity\n0,1,2\n",
			`line 3, column 21: "humidity" is nothing that a STWINBX1 sends, want one of pressure, temperature, accelerationX, accelerationY, accelerationZ, ` +
				"angularRateX, angularRateY, angularRateZ, magneticFieldX, magneticFieldY, magneticFieldZ, level, voltage, current, status, soundLevel1"},
		{topology.STWINBX1, "seconds,temperature,temperature\n0,1,2\n", `line 1, column 21: "temperature" twice`},
		{topology.STWINBX1, "seconds,seconds\n0,1\n", `line 1, column 9: "seconds" twice`},
		{topology.STWINBX1, "seconds,temperature\n0,1\n1\n", "line 3, column 1: want as many fields as in the header"},
		{topology.STWINBX1, "seconds,temperature\n0,1\n1,warm\n", `line 3, column 3 (temperature): "warm", want a number from -3276.8 to 3276.7`},
		{topology.STWINBX1, "seconds,temperature\n0,4000\n", `line 2, column 3 (temperature): "4000", want a number from -3276.8 to 3276.7`},
		{topology.STWINBX1, "seconds,temperature\n0,NaN\n", `line 2, column 3 (temperature): "NaN", want a number`},
		{topology.STWINBX1, "seconds,temperature\n-1,1\n", `line 2, column 1 (seconds): "-1", want a number from 0`},
		{topology.STWINBX1, "seconds,temperature\n0,1\n5,1\n5,1\n", "line 4, column 1 (seconds): 5, want more than in the row before, 5"},
		{topology.STWINBX1, "seconds,\"temperature\n0,1\n", "line 2, column 5: "},
		{topology.STWINBX1, strings.Repeat("#", 5<<20), "5242880 bytes, want at most 4194304"},
	} {
		if _, err := board.ParseReplay(tt.model, tt.csv); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%.60q: %v, want %s", tt.csv, err, tt.want)
		}
	}
}

func FuzzParseReplay(f *testing.F) {
	f.Add("seconds,temperature\n0,1\n1.5,2\n")
	f.Add("seconds,humidity,level,status\n10,40,20,3\n# c\n20,\"50\",-0,0\n1e9,0x1p-2,1_0,3\n")
	f.Add("\ufeffseconds,temperature\r\n0,1")
	f.Add("seconds,temperature\n0,1\n5e-324,2\n")
	f.Add("seconds,\"a\nb\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := board.ParseReplay(topology.STWINKT1B, text); err != nil {
			if !strings.Contains(err.Error(), "line ") && !strings.Contains(err.Error(), "bytes") {
				t.Fatalf("%v does not say where", err)
			}
			return
		}
		spec := kt1b()
		spec.ReplayCSV = text
		clk := testingclock.NewFakeClock(start)
		b := newBoard(t, spec, board.Options{Clock: clk})
		for _, after := range []time.Duration{0, time.Millisecond, time.Hour, math.MaxInt64 / 4} {
			clk.SetTime(start.Add(after))
			b.State()
		}
	})
}
