package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/internal/cli"
	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/board"
	"github.com/fluidos-edge/testbed/simulators/fleet"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.Local)

// kt1b is a board in a fixed state, with every characteristic.
func kt1b() fleet.Board {
	part := func(model, kind, accuracy, unit string) nodecore.Characteristics {
		c := nodecore.Characteristics{Model: model, Manufacturer: "STMicroelectronics", Market: "Industrial", SamplingRate: "3", Consumption: "2", Latency: "12"}
		c.Type.SensorType, c.Accuracy = strings.Split(kind, ","), strings.Split(accuracy, ",")
		c.Properties.Unit = nodecore.SensorUnits{Consumption: "uA", SamplingRate: "Hz", Latency: "ms", Measurement: strings.Split(unit, ",")}
		return c
	}
	r := func(quantity string, value float64, unit string) bluest.Reading {
		return bluest.Reading{Quantity: quantity, Value: value, Unit: unit}
	}
	notify := []string{"read", "notify"}
	return fleet.Board{
		Name: "stwinkt1b-1", Model: "STWINKT1B", MAC: "c0:b5:4d:30:f9:0f", ID: "0034003e3137510732393432", Device: "stwinkt1b-c0b54d30f90f",
		Nodes: []string{"edge-1", "edge-2"}, ConnectedTo: "edge-1", Rate: 3,
		Latency: topology.Latency{Median: topology.Duration(5 * time.Millisecond), Jitter: topology.Duration(time.Millisecond)},
		Offers:  []string{"hts221", "lps22hh", "stts751"},
		Parts: []nodecore.Characteristics{
			part("HTS221", "Humidity,Temperature", "3.5,0.5", "%RH,degC"), part("LPS22HH", "Pressure", "0.5", "hPa"), part("STTS751", "Temperature", "0.5", "degC")},
		Rates:   map[string]float64{"001d0000": 3, "00e00000": 20, "00020000": 1},
		Battery: 87.5, Uptime: topology.Duration(12*time.Minute + 3*time.Second),
		Faults: []board.FaultState{
			{Kind: topology.FaultStuck, Part: "hts221", Since: noon.Add(-time.Minute)},
			{Kind: topology.FaultBatteryLow, Since: noon.Add(-time.Hour), Until: noon.Add(time.Hour)}},
		Advertisement: "020a000809535457494e4b540dff0109001d0000c0b54d30f90f",
		Services: []board.Service{
			{UUID: "00000000-0001-11e1-9ab4-0002a5d5c51b", Name: "features", Characteristics: []board.Characteristic{
				{UUID: bluest.EnvironmentalKT1B.UUID(), Name: "environmental", Properties: notify},
				{UUID: bluest.Inertial.UUID(), Name: "inertial", Properties: notify},
				{UUID: bluest.Battery.UUID(), Name: "battery", Properties: notify},
				{UUID: bluest.Microphone.UUID(), Name: "microphone", Properties: notify}}},
			{UUID: "00000000-000e-11e1-9ab4-0002a5d5c51b", Name: "console", Characteristics: []board.Characteristic{
				{UUID: bluest.ConsoleUUID, Name: "debug console", Properties: []string{"write", "notify"}}}},
			{UUID: "00000000-000f-11e1-9ab4-0002a5d5c51b", Name: "configuration", Characteristics: []board.Characteristic{
				{UUID: bluest.ConfigUUID, Name: "configuration", Properties: []string{"write"}}}}},
		Readings: map[string][]bluest.Reading{
			"001d0000": {r(bluest.Pressure, 1013.25, "hPa"), r(bluest.Humidity, 46.1, "%RH"), r(bluest.Temperature, 21.9, "degC"), r(bluest.Temperature2, 22.2, "degC")},
			"00e00000": {r("accelerationX", 3, "mg"), r("accelerationY", -12, "mg"), r("accelerationZ", 1001, "mg"),
				r("angularRateX", 0.1, "dps"), r("angularRateY", 0, "dps"), r("angularRateZ", -0.3, "dps"),
				r("magneticFieldX", 201, "mGauss"), r("magneticFieldY", -20, "mGauss"), r("magneticFieldZ", 430, "mGauss")},
			"00020000": {r("level", 87.5, "%"), r("voltage", 3950, "mV"), r("status", 1, "code")},
			"04000000": {r("soundLevel1", 41, "dB")},
		},
	}
}

// serve answers for boards as the control API does: state is asked each time.
func serve(t *testing.T, state func() fleet.Board) cli.Fake {
	t.Helper()
	dir, err := os.MkdirTemp("", "cli") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/boards", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode([]fleet.Board{state()}) })
	mux.HandleFunc("GET /v1/boards/{name}", func(w http.ResponseWriter, r *http.Request) {
		b := state()
		if r.PathValue("name") != b.Name {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprintf(w, `{"error":"no board %q; there are %s"}`, r.PathValue("name"), b.Name)
			return
		}
		_ = json.NewEncoder(w).Encode(b)
	})
	s := &http.Server{Handler: mux}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-ended
		_ = os.RemoveAll(dir)
	})
	return cli.Fake{
		Controls: func(string) ([]string, error) { return []string{socket}, nil },
		Control:  func(string, string) (string, error) { return socket, nil },
		Now:      func() time.Time { return noon },
	}
}

func TestBoardShow(t *testing.T) {
	f := serve(t, kt1b)
	code, out, stderr := runFake(context.Background(), f, "board", "show", "stwinkt1b-1")
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	golden(t, "board-show.golden", out)
	code, out, stderr = runFake(context.Background(), f, "board", "show", "stwinkt1b-1", "-o", "json")
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	var got fleet.Board
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(kt1b(), got); diff != "" {
		t.Error(diff)
	}
	if code, out, stderr = runFake(context.Background(), f, "board", "list"); code != 0 || stderr != "" {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	golden(t, "board-list.golden", out)
	for line := range strings.Lines(out) {
		if n := len([]rune(line)); n > 120 {
			t.Errorf("line of %d columns: %s", n, line)
		}
	}
}

// A board that is not there, off the air, or says what nobody understands.
func TestBoardShowOdd(t *testing.T) {
	var b fleet.Board
	f := serve(t, func() fleet.Board { return b })
	for _, c := range []struct {
		name string
		edit func(*fleet.Board)
		want string
	}{
		{"advertising", func(b *fleet.Board) { b.ConnectedTo, b.Faults = "", nil }, "connection   none, advertising to edge-1, edge-2\n"},
		{"no faults", func(b *fleet.Board) { b.Faults = nil }, "faults       none\n"},
		{"out of range", func(b *fleet.Board) {
			b.ConnectedTo, b.Faults = "", []board.FaultState{{Kind: topology.FaultOutOfRange, Since: noon}}
		}, "connection   none, off the air\n"},
		{"no hex", func(b *fleet.Board) { b.Advertisement = "x" }, "advertisement \"x\"\n"},
		{"no BlueST", func(b *fleet.Board) { b.Advertisement = "0201" }, "only 1 left\n"},
		{"nothing parallel", func(b *fleet.Board) { b.Parts[0].Accuracy, b.Parts[0].Properties.Unit.Measurement = nil, nil }, "hts221     Humidity"},
		{"nothing at all", func(b *fleet.Board) { *b = fleet.Board{Name: b.Name} }, "board        stwinkt1b-1\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b = kt1b()
			c.edit(&b)
			code, out, stderr := runFake(context.Background(), f, "board", "show", b.Name)
			if code != 0 || stderr != "" || !strings.Contains(out, c.want) {
				t.Errorf("exit code %d, stderr %q, %q not in:\n%s", code, stderr, c.want, out)
			}
		})
	}
	if code, out, stderr := runFake(context.Background(), f, "board", "show", "other"); code != 2 || out != "" || !strings.Contains(stderr, `no board "other"`) {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, out, stderr)
	}
}

// waves has a temperature that goes up and down from reading to reading.
func waves() func() fleet.Board {
	var n atomic.Int64
	return func() fleet.Board {
		b := kt1b()
		b.Readings["001d0000"][2].Value = math.Round(220+20*math.Sin(float64(n.Add(1))/3)) / 10
		return b
	}
}

// seconds is a clock that is a second later each time.
func seconds() func() time.Time {
	var n atomic.Int64
	return func() time.Time { return noon.Add(time.Duration(n.Add(1)-1) * time.Second) }
}

func TestBoardWatch(t *testing.T) {
	ctx := context.Background()
	f := serve(t, waves())
	f.Now = seconds()
	code, out, stderr := runFake(ctx, f, "board", "show", "stwinkt1b-1", "--watch", "--interval", "100ms", "--count", "3")
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	golden(t, "board-watch.golden", out)

	f = serve(t, waves())
	code, out, _ = runFake(ctx, f, "board", "show", "stwinkt1b-1", "--interval", "100ms", "--count", "2", "-o", "json")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != 0 || len(lines) != 2 {
		t.Fatalf("exit code %d, %d lines", code, len(lines))
	}
	for _, l := range lines {
		if err := json.Unmarshal([]byte(l), &fleet.Board{}); err != nil {
			t.Errorf("%v: %s", err, l)
		}
	}
}

func TestBoardPlot(t *testing.T) {
	ctx := context.Background()
	f := serve(t, waves())
	f.Now = seconds()
	code, out, stderr := runFake(ctx, f, "board", "show", "stwinkt1b-1", "--plot", "temperature", "--interval", "100ms", "--count", "4")
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	golden(t, "board-plot.golden", out)

	f = serve(t, waves())
	f.Now = seconds()
	code, out, _ = runFake(ctx, f, "board", "show", "stwinkt1b-1", "--plot", "temperature", "--interval", "100ms", "--count", "2", "-o", "json")
	var doc struct {
		Board, Quantity, Unit string
		Points                []cli.Point
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v: %s", code, err, out)
	}
	if doc.Board != "stwinkt1b-1" || doc.Quantity != "temperature" || doc.Unit != "degC" || len(doc.Points) != 2 || doc.Points[0].Value != 22.7 || !doc.Points[1].At.Equal(noon.Add(time.Second)) {
		t.Errorf("%+v", doc)
	}
	code, out, stderr = runFake(ctx, f, "board", "show", "stwinkt1b-1", "--plot", "temprature")
	if code != 2 || out != "" || !strings.Contains(stderr, `has no quantity "temprature"`) || !strings.Contains(stderr, "fix: use one of pressure, humidity, temperature, ") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, out, stderr)
	}
}

// Ctrl-C is the usual way out: 130, and not a word; what was drawn so far is shown.
func TestBoardWatchInterrupted(t *testing.T) {
	for _, args := range [][]string{{"--watch"}, {"--plot", "humidity"}} {
		ctx, cancel := context.WithCancel(context.Background())
		f := serve(t, kt1b)
		f.Now = func() time.Time {
			cancel() // while the first reading is shown
			return noon
		}
		code, out, stderr := runFake(ctx, f, append([]string{"board", "show", "stwinkt1b-1"}, args...)...)
		if code != 130 || stderr != "" || !strings.Contains(out, "humidity") {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", args, code, out, stderr)
		}
		cancel()
	}
	f := serve(t, kt1b)
	if code, _, stderr := runFake(context.Background(), f, "board", "show", "stwinkt1b-1", "--watch", "--timeout", "50ms"); code != 1 || !strings.Contains(stderr, "--timeout 50ms") {
		t.Errorf("timeout: exit code %d, stderr %q", code, stderr)
	}
}

func TestScreen(t *testing.T) {
	var b bytes.Buffer
	rows := 4
	draw := cli.NewScreen(&b, func() (int, int) { return 10, rows })
	for _, text := range []string{"one\ntwo\n", "a line too long\nb\nc\nno room\n", "x"} {
		if err := draw(text); err != nil {
			t.Fatal(err)
		}
	}
	want := "\r\x1b[Jone\ntwo\n" + "\x1b[2A\r\x1b[Ja line...\nb\nc\n" + "\x1b[3A\r\x1b[Jx\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}
