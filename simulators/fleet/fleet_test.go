package fleet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/fleet"
	"github.com/fluidos-edge/testbed/simulators/radio"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func boards(n int, nodes ...string) []topology.Board {
	all := make([]topology.Board, n)
	for i := range all {
		model := topology.STWINKT1B
		if i%2 == 1 {
			model = topology.STWINBX1
		}
		all[i] = topology.Board{Name: fmt.Sprintf("board-%d", i), Model: model, MAC: fmt.Sprintf("c0:83:2a:00:%02x:%02x", i>>8, i&0xff),
			ID: fmt.Sprintf("%024x", i), Nodes: nodes, Rate: 10,
			Latency: topology.Latency{Median: topology.Duration(2 * time.Millisecond), Jitter: topology.Duration(time.Millisecond)}}
	}
	return all
}

// process is a running fleet.
type process struct {
	dir     string
	radios  map[string]string
	control string
	client  *fleet.Client
	metrics *prometheus.Registry
	log     *lines
	stop    func() error
}

func start(t *testing.T, all []topology.Board, nodes ...string) *process {
	t.Helper()
	return launch(t, fleet.Config{Seed: 1, Boards: all}, fleet.Options{}, nodes...)
}

// still is a fleet whose clock stands still until the test steps it.
func still(t *testing.T, cfg fleet.Config, nodes ...string) (*process, *testingclock.FakeClock) {
	t.Helper()
	clk := testingclock.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	return launch(t, cfg, fleet.Options{Clock: clk}, nodes...), clk
}

func launch(t *testing.T, cfg fleet.Config, o fleet.Options, nodes ...string) *process {
	t.Helper()
	dir := t.TempDir()
	p := &process{dir: dir, radios: map[string]string{}, control: filepath.Join(dir, "control"), metrics: prometheus.NewRegistry(), log: &lines{}}
	for _, n := range nodes {
		p.radios[n] = filepath.Join(dir, n)
	}
	cfg.Radios = p.radios
	o.Control, o.Metrics = p.control, p.metrics
	if o.Radio == "" {
		o.Config = write(t, dir, cfg)
	}
	p.client = fleet.NewClient(p.control)
	ctx, cancel := context.WithCancel(context.Background())
	up, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- fleet.Run(ctx, slog.New(slog.NewTextHandler(p.log, nil)), func(err error) {
			if err == nil {
				close(up)
			}
		}, &o)
	}()
	stopped := false
	p.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-up:
	case err := <-ended:
		stopped = true
		t.Fatalf("Run: %v", err)
	}
	return p
}

// lines is a log.
type lines struct {
	mu  sync.Mutex
	all strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(b)
}

func (l *lines) has(what string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.all.String(), what)
}

func write(t *testing.T, dir string, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "boards.json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func dial(t *testing.T, socket string) *radio.Client {
	t.Helper()
	c, err := radio.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func next[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-ch:
		if !ok {
			t.Fatal("closed")
		}
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came within 20 s")
		panic("unreachable")
	}
}

func line(t *testing.T, ch <-chan radio.Notification) string {
	t.Helper()
	var b strings.Builder
	for !strings.HasSuffix(b.String(), "\r\n") {
		b.Write(next(t, ch).Value)
	}
	return strings.TrimSpace(b.String())
}

// What a mapper does, over one radio of two that hear the same boards.
func TestMappersDay(t *testing.T) {
	p := start(t, boards(2, "edge-1", "edge-2"), "edge-1", "edge-2")
	ctx := t.Context()
	c := dial(t, p.radios["edge-1"])
	adverts, err := c.Scan(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var kt radio.Advertisement
	for kt.Payload == nil {
		a := next(t, adverts)
		ad, err := bluest.DecodeAdvertisement(a.Payload)
		if err != nil || ad.MAC != a.Address || !a.Connectable || a.RSSI > -40 || a.RSSI < -89 {
			t.Fatalf("heard %+v, %v", a, err)
		}
		if ad.Model() == topology.STWINKT1B {
			kt = a
		}
	}
	k, err := c.Connect(ctx, kt.Address)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := p.client.Board(ctx, "board-0"); err != nil || got.ConnectedTo != "edge-1" {
		t.Errorf("connected to %q, %v", got.ConnectedTo, err)
	}
	console, err := k.Subscribe(ctx, bluest.ConsoleUUID)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Write(ctx, bluest.ConsoleUUID, []byte("uid\r\n")); err != nil {
		t.Fatal(err)
	}
	if got := line(t, console); got != strings.Repeat("0", 24) {
		t.Errorf("uid: %q", got)
	}
	frames, err := k.Subscribe(ctx, bluest.EnvironmentalKT1B.UUID())
	if err != nil {
		t.Fatal(err)
	}
	var last int64
	for i := range 10 {
		n := next(t, frames)
		if _, err := bluest.Decode(n.Characteristic, n.Value); err != nil {
			t.Fatal(err)
		}
		if n.Emitted <= last || n.Received-n.Emitted < int64(time.Millisecond) {
			t.Fatalf("frame %d: emitted at %d, the one before at %d, received at %d", i, n.Emitted, last, n.Received)
		}
		last = n.Emitted
	}

	// the other radio hears that the board is busy, and gets it when it is free
	other := dial(t, p.radios["edge-2"])
	heard, err := other.Scan(ctx)
	if err != nil {
		t.Fatal(err)
	}
	seen := func(connectable bool) {
		t.Helper()
		for {
			if a := next(t, heard); a.Address == kt.Address && a.Connectable == connectable {
				return
			}
		}
	}
	seen(false)
	if _, err := other.Connect(ctx, kt.Address); !errors.Is(err, radio.ErrBusy) {
		t.Errorf("connect to a busy board: %v", err)
	}

	latency := "20"
	changed, err := p.client.Patch(ctx, "board-0", fleet.Patch{Parts: map[string]topology.Declared{"hts221": {Latency: &latency}}})
	if err != nil || changed.Parts[0].Latency != "20" {
		t.Errorf("patched: %+v, %v", changed, err)
	}
	if got := line(t, console); got != "sensors changed" {
		t.Errorf("after a change: %q", got)
	}

	_ = c.Close() // the mapper is gone
	seen(true)
	if _, err := other.Connect(ctx, kt.Address); err != nil {
		t.Errorf("connect to a board that is free again: %v", err)
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	<-other.Done()
	left, err := filepath.Glob(filepath.Join(p.dir, "*"))
	if d := cmp.Diff([]string{filepath.Join(p.dir, "boards.json")}, left); err != nil || d != "" {
		t.Errorf("left behind: %s %v", d, err)
	}
}

func TestControl(t *testing.T) {
	p, _ := still(t, fleet.Config{Seed: 1, Boards: boards(2, "edge-1")}, "edge-1")
	ctx := t.Context()
	for _, s := range []string{p.control, p.radios["edge-1"]} {
		if info, err := os.Lstat(s); err != nil || info.Mode() != fs.ModeSocket|0o600 {
			t.Errorf("%s: %v, %v", s, info.Mode(), err)
		}
	}
	all, err := p.client.Boards(ctx)
	if err != nil || len(all) != 2 || all[0].Name != "board-0" || all[1].Name != "board-1" {
		t.Fatalf("boards: %+v, %v", all, err)
	}
	if one, err := p.client.Board(ctx, "board-1"); err != nil || cmp.Diff(all[1], one) != "" {
		t.Errorf("board: %v %s", err, cmp.Diff(all[1], one))
	}
	rate, median := 4.0, topology.Duration(5*time.Millisecond)
	got, err := p.client.Patch(ctx, "board-1", fleet.Patch{Rate: &rate, Latency: &fleet.LatencyPatch{Median: &median}})
	if err != nil {
		t.Fatal(err)
	}
	want := all[1]
	want.Rate, want.Latency.Median, want.Rates["00140000"] = 4, median, 4
	for i := range want.Parts {
		want.Parts[i].SamplingRate = "4"
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := p.client.Board(ctx, "board-7"); err == nil || !strings.Contains(err.Error(), `no board "board-7"; there are board-0, board-1`) {
		t.Errorf("board that is not there: %v", err)
	}
	bad := 0.0
	if _, err := p.client.Patch(ctx, "board-1", fleet.Patch{Rate: &bad}); err == nil || !strings.Contains(err.Error(), "rate: 0 Hz") {
		t.Errorf("refused patch: %v", err)
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.client.Boards(ctx); err == nil || !strings.Contains(err.Error(), p.control) {
		t.Errorf("boards after the end: %v", err)
	}
}

// The API as it is on the wire. Each line finds what those before it left.
func TestControlJSON(t *testing.T) {
	p, _ := still(t, fleet.Config{Seed: 1, Boards: boards(2, "edge-1")}, "edge-1", "edge-2")
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", p.control)
	}}}
	const one, faults = "/v1/boards/board-1", "/v1/boards/board-1/faults"
	for _, tt := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", one, "", 200, `{"name":"board-1","model":"STWINBX1","mac":"c0:83:2a:00:00:01","id":"000000000000000000000001","device":"stwinbx1-c0832a000001","nodes":["edge-1"],"connectedTo":"","rate":10,"latency":{"median":"2ms","jitter":"1ms"},`},
		{"PATCH", one, `{"rate": 4, "latency": {"median": "5ms"}, "parts": {"stts22h": {"latency": "0.015", "latencyUnit": "s"}}}`, 200, `"latency":"0.015"`},
		{"PATCH", one, `{"rate": "fast"}`, 400, `{"error":"rate: \"fast\", want a number`},
		{"PATCH", one, `{"latency": {"median": 5}}`, 400, `{"error":"latency.median: 5, want a duration`},
		{"PATCH", one, `{"latency": "5ms"}`, 400, `{"error":"latency: want an object`},
		{"PATCH", one, `{"parts": {"stts22h": {"colour": "red"}}}`, 400, `{"error":"parts.stts22h.colour: unknown field, want one of latency, latencyUnit, manufacturer, market"}`},
		{"PATCH", one, `{"parts": {"hts221": {"latency": "5"}}}`, 400, `{"error":"parts.hts221: no such part on a STWINBX1`},
		{"PATCH", one, `{"rate": 4} {}`, 400, `{"error":`},
		{"PATCH", one, ``, 400, `{"error":`},
		{"PATCH", one, strings.Repeat(" ", 70_000), 413, `{"error":`},
		{"PATCH", "/v1/boards/nobody", `{}`, 404, `{"error":"no board`},
		{"PUT", one, `{}`, 405, ``},

		{"POST", "/v1/boards", `{"model": "STWINKT1B"}`, 201, `{"name":"stwinkt1b-1","model":"STWINKT1B","mac":"c0:`},
		{"POST", "/v1/boards", `{"model": "STWINKT1B", "nodes": null, "rate": 5, "latency": {"median": "7ms"}}`, 201, `{"name":"stwinkt1b-2",`},
		{"GET", "/v1/boards/stwinkt1b-2", ``, 200, `"nodes":["edge-2"],"connectedTo":"","rate":5,"latency":{"median":"7ms","jitter":"1.4ms"}`},
		{"POST", "/v1/boards", `{"name": "b", "model": "STWINBX1", "mac": "C0:83:2A:00:00:99", "id": "0000000000000000000000AA", "nodes": ["edge-2", "edge-1"], "offers": ["ism330dhcx"], "parts": {"ism330dhcx": {"market": "x"}}, "replayCSV": "seconds,temperature\n0,20\n1,21\n"}`,
			201, `"mac":"c0:83:2a:00:00:99","id":"0000000000000000000000aa",`},
		{"POST", "/v1/boards", `{"model": "STWINBX1", "name": "board-1"}`, 409, `{"error":"name: \"board-1\": another board has it"}`},
		{"POST", "/v1/boards", `{"model": "STWINBX1", "mac": "c0832a000099"}`, 409, `{"error":"mac: c0:83:2a:00:00:99: another board has it, b"}`},
		{"POST", "/v1/boards", `{"model": "STWINBX1", "id": "0000000000000000000000aa"}`, 409, `{"error":"id: 0000000000000000000000aa: another board has it, b"}`},
		{"POST", "/v1/boards", `{}`, 400, `{"error":"model: want STWINKT1B or STWINBX1"}`},
		{"POST", "/v1/boards", `[]`, 400, `{"error":"want an object: `},
		{"POST", "/v1/boards", `{"model": "toaster"}`, 400, `{"error":"model: `},
		{"POST", "/v1/boards", `{"model": 7}`, 400, `{"error":"model: 7, want a string`},
		{"POST", "/v1/boards", `{"model": "STWINBX1", "name": "A b"}`, 400, `{"error":"name: \"A b\": `},
		{"POST", "/v1/boards", `{"model": "STWINBX1", "mac": "c0"}`, 400, `{"error":"mac: `},
		{"POST", "/v1/boards", `{"model": "STWINBX1", "id": "xyz"}`, 400, `{"error":"id: `},
		{"POST", "/v1/boards", `{"model": "STWINBX1", "rate": 1000}`, 400, `{"error":"rate: 1000 Hz, want 0.1 to 100`},
		{"POST", "/v1/boards", `{"model": "STWINBX1", "nodes": []}`, 400, `{"error":"nodes: none, want at least one`},
		{"POST", "/v1/boards", `{"model": "STWINBX1", "nodes": ["edge-9"]}`, 400, `{"error":"nodes: there is no radio for \"edge-9\"`},
		{"POST", "/v1/boards", `{"model": "STWINBX1", "nodes": ["edge-1", "edge-1"]}`, 400, `{"error":"nodes: \"edge-1\" twice`},
		{"POST", "/v1/boards", `{"model": "STWINBX1", "latency": {"mean": "1ms"}}`, 400, `{"error":"latency.mean: unknown field, want one of jitter, median"}`},
		{"POST", "/v1/boards", `{"model": "STWINBX1", "offers": ["hts221"]}`, 400, `{"error":"offers`},
		{"POST", "/v1/boards", `{"model": "STWINBX1", "replay": "x.csv"}`, 400, `{"error":"replay: want the content as replayCSV`},
		{"POST", "/v1/boards", `{"model": "STWINBX1", "replayCSV": "x"}`, 400, `{"error":"replay`},
		{"POST", "/v1/boards", `{"model": "STWINBX1", "color": "red"}`, 400, `{"error":"color: unknown field, want one of id, latency, mac,`},
		{"POST", "/v1/boards", strings.Repeat(" ", 8<<20+1), 413, `{"error":`},

		{"POST", faults, `{"kind": "drift", "part": "stts22h", "slope": -2, "for": "30s"}`, 200, `"faults":[{"kind":"drift","part":"stts22h","since":"2026-01-02T03:04:05Z","until":"2026-01-02T03:04:35Z"}]`},
		{"POST", faults, `{"kind": "silence"}`, 200, `{"kind":"silence",`},
		{"POST", faults, `{"kind": "clone", "of": "board-0"}`, 200, `{"kind":"clone",`},
		{"DELETE", faults + "?kind=drift", ``, 200, `"faults":[{"kind":"silence",`},
		{"DELETE", faults + "?kind=drift", ``, 400, `{"error":"kind: \"drift\", `},
		{"DELETE", faults, ``, 200, `"faults":[]`},
		{"DELETE", faults, ``, 200, `"faults":[]`},
		{"POST", faults, `{}`, 400, `{"error":"kind: want one of silence, stuck,`},
		{"POST", faults, `{"kind": "fire"}`, 400, `{"error":"kind: `},
		{"POST", faults, `{"kind": "silence", "for": 5}`, 400, `{"error":"for: 5, want a duration`},
		{"POST", faults, `{"kind": "silence", "for": "-5s"}`, 400, `{"error":"for: `},
		{"POST", faults, `{"kind": "silence", "of": "board-0"}`, 400, `{"error":"of: `},
		{"POST", faults, `{"kind": "silence", "since": "now"}`, 400, `{"error":"since: unknown field, want one of for, kind, of, part, slope"}`},
		{"POST", faults, `{"kind": "stuck", "part": "hts221"}`, 400, `{"error":"part: `},
		{"POST", faults, `{"kind": "drift", "slope": 1e400}`, 400, `{"error":"slope: 1e400, want a number`},
		{"POST", faults, `{"kind": "clone"}`, 400, `{"error":"of: `},
		{"POST", faults, `{"kind": "clone", "of": "board-1"}`, 400, `{"error":"of: `},
		{"POST", faults, `{"kind": "clone", "of": "nobody"}`, 400, `{"error":"of: no board \"nobody\"; there are board-0, board-1,`},
		{"POST", "/v1/boards/nobody/faults", `{}`, 404, `{"error":"no board`},

		{"DELETE", one, ``, 204, ``},
		{"DELETE", one, ``, 404, `{"error":"no board`},
		{"DELETE", faults, ``, 404, `{"error":"no board`},
		{"POST", "/v1/boards", `{"name": "board-1", "model": "STWINKT1B", "mac": "c0:83:2a:00:00:01", "id": "000000000000000000000001"}`, 201, `{"name":"board-1","model":"STWINKT1B"`},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://boards"+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := web.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != tt.code || !strings.Contains(string(b), tt.want) {
			t.Errorf("%s %s %.60s: %s %.300s (%v), want %d %s", tt.method, tt.path, tt.body, resp.Status, b, err, tt.code, tt.want)
		}
	}
}

func TestRunRefuses(t *testing.T) {
	one := boards(1, "edge-1")
	for _, tt := range []struct {
		name   string
		config string
		want   []string
	}{
		{"no JSON", `{`, []string{"unexpected EOF"}},
		{"unknown field", `{"sead": 1}`, []string{`"sead"`}},
		{"two values", `{} {}`, []string{"more after the first value"}},
		{"unknown node, twice the name and a bad model", `{"radios": {"edge-1": "SOCKET"}, "boards": [
			{"name": "a", "model": "STWINBX1", "mac": "c0:83:2a:00:00:01", "id": "000000000000000000000001", "nodes": ["edge-9"], "rate": 1},
			{"name": "a"}, {"name": "b", "model": "toaster", "mac": "c0:83:2a:00:00:02", "id": "000000000000000000000002", "rate": 1}]}`,
			[]string{`boards[0] (a): nodes: there is no radio for "edge-9"`, "boards[1] (a): ", "boards[2] (b): model: "}},
		{"twice the address", string(marshal(t, fleet.Config{Boards: []topology.Board{one[0], named(one[0], "b")}, Radios: map[string]string{"edge-1": "SOCKET"}})),
			[]string{"boards[1] (b): mac: c0:83:2a:00:00:00: another board has it, board-0"}},
		{"twice the name", string(marshal(t, fleet.Config{Boards: []topology.Board{one[0], named(boards(2, "edge-1")[1], "board-0")}, Radios: map[string]string{"edge-1": "SOCKET"}})),
			[]string{`boards[1] (board-0): name: "board-0": another board has it`}},
		{"no name", string(marshal(t, fleet.Config{Boards: []topology.Board{named(one[0], "")}, Radios: map[string]string{"edge-1": "SOCKET"}})),
			[]string{"boards[0] (): name: want one"}},
		{"bad air", `{"radios": {"edge-1": "SOCKET"}, "radio": {"interval": "1ms", "loss": 0.1}}`, []string{"node edge-1: radio ", "interval: 1ms, want 20ms to 10.24s"}},
		{"bad faults", `{"radios": {"edge-1": "SOCKET"}, "faults": [{"kind": "fire", "at": "-1s"}, {"kind": "clone", "of": "x", "board": "y", "every": "1ms"}]}`,
			[]string{"faults[0]: ", "kind: fire, want one of silence,", "at: -1s, want 0s or more", "faults[1]: ", `board: no board "y"; there are none`, `of: no board "x"`, "every: 1ms, want at least 1s"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "c.json")
			if err := os.WriteFile(path, []byte(strings.ReplaceAll(tt.config, "SOCKET", filepath.Join(dir, "r"))), 0o600); err != nil {
				t.Fatal(err)
			}
			err := fleet.Run(t.Context(), slog.New(slog.DiscardHandler), func(error) { t.Error("ready") },
				&fleet.Options{Config: path, Control: filepath.Join(dir, "control"), Metrics: prometheus.NewRegistry()})
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want an error with %q", err, want)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "[rc]*")); len(left) != 1 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
	for _, o := range []fleet.Options{{}, {Config: "c"}, {Control: "c"}, {Count: 1}, {Config: "c", Control: "c", Radio: "r"}, {Count: 1_000_000, Radio: "r"}, {Count: -1, Radio: "r"}} {
		if err := fleet.Run(t.Context(), slog.New(slog.DiscardHandler), func(error) {}, &o); err == nil || !strings.Contains(err.Error(), "--") {
			t.Errorf("%+v: %v, want an error that names flags", o, err)
		}
	}
}

func named(b topology.Board, name string) topology.Board { b.Name = name; return b }

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Ten thousand boards need no configuration, are up at once, and cost no goroutines.
func TestManyBoards(t *testing.T) {
	const n = 10_000
	before := runtime.NumGoroutine()
	socket := filepath.Join(t.TempDir(), "r")
	p := launch(t, fleet.Config{}, fleet.Options{Count: n, Radio: socket})
	c := dial(t, socket)
	adverts, err := c.Scan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	models := map[radio.Address]string{}
	for len(models) < n {
		a := next(t, adverts)
		ad, err := bluest.DecodeAdvertisement(a.Payload)
		if err != nil {
			t.Fatal(err)
		}
		models[a.Address] = ad.Model()
	}
	count := map[string]int{}
	var streams []<-chan radio.Notification
	for mac, model := range models {
		if count[model]++; count[model] > 10 {
			continue
		}
		k, err := c.Connect(t.Context(), mac)
		if err != nil {
			t.Fatal(err)
		}
		m := bluest.EnvironmentalKT1B
		if model == topology.STWINBX1 {
			m = bluest.EnvironmentalBX1
		}
		ch, err := k.Subscribe(t.Context(), m.UUID())
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, ch)
	}
	if count[topology.STWINKT1B] != n/2 || count[topology.STWINBX1] != n/2 {
		t.Errorf("models %v", count)
	}
	for _, ch := range streams {
		for range 3 {
			next(t, ch)
		}
	}
	if n := runtime.NumGoroutine() - before; n > 60 {
		t.Errorf("%d goroutines for 10,000 boards, 20 of them connected", n)
	}
	if got := p.metric(t, "boards_connected", "edge-1"); got != 20 {
		t.Errorf("%v connected, want 20", got)
	}
	if got := p.metric(t, "boards_notifications_total", topology.STWINKT1B); got < 30 {
		t.Errorf("%v notifications, want 30 at least", got)
	}
}

// metric is the value with a label.
func (p *process) metric(t *testing.T, name, label string) float64 {
	t.Helper()
	families, err := p.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s of %s", name, label)
	return 0
}

// What the arms of the bench measure: the same frames, within what a board may take.
func TestMeasure(t *testing.T) {
	for _, arm := range []string{"fleet", "loop"} {
		o := &fleet.Options{}
		fs := flag.NewFlagSet("boards", flag.ContinueOnError)
		o.AddFlags(fs)
		if err := fs.Parse([]string{"-measure", "boards=10000,frames=30000,arm=" + arm}); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		o.Output = &out
		if err := fleet.Run(t.Context(), slog.New(slog.DiscardHandler), func(error) { t.Error("ready") }, o); err != nil {
			t.Fatal(err)
		}
		var got struct {
			Arm                       string
			Boards, Frames, Sent      int
			CPUSeconds, BytesPerBoard float64
		}
		d := json.NewDecoder(&out)
		d.DisallowUnknownFields()
		if err := d.Decode(&got); err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", got)
		if got.Arm != arm || got.Boards != 10_000 || got.Frames != 30_000 || got.Sent < 29_000 || got.Sent > 30_500 || got.CPUSeconds <= 0 {
			t.Errorf("measured %+v", got)
		}
		if got.BytesPerBoard < 100 || got.BytesPerBoard > 32<<10 {
			t.Errorf("%s: %.0f bytes a board", arm, got.BytesPerBoard)
		}
	}
	for _, bad := range []string{"arm=nobody", "boards=x", "frames=1,boards=2", "boards=0", "speed=1", "", "boards=1000000,frames=10000000"} {
		if err := new(fleet.Measurement).Set(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func FuzzParsePatch(f *testing.F) {
	f.Add([]byte(`{"rate": 4, "latency": {"median": "5ms", "jitter": null}, "parts": {"hts221": {"latency": "", "market": "x"}}}`))
	f.Add([]byte(`{"rate": 1e400}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := fleet.ParsePatch(b)
		if err != nil {
			return
		}
		if p.Rate != nil && (math.IsNaN(*p.Rate) || math.IsInf(*p.Rate, 0)) {
			t.Fatalf("rate %v", *p.Rate)
		}
		again(t, b, fleet.ParsePatch)
	})
}

func FuzzParseBoard(f *testing.F) {
	f.Add([]byte(`{"model": "STWINKT1B"}`))
	f.Add([]byte(`{"name": "b", "model": "STWINBX1", "mac": "c0:83:2a:00:00:99", "id": "0000000000000000000000aa", "nodes": ["edge-1"], "rate": 2, "offers": ["ism330dhcx"],
		"latency": {"median": "5ms", "jitter": null}, "parts": {"ism330dhcx": {"market": "x"}}, "replayCSV": "seconds,temperature\n0,20\n"}`))
	f.Add([]byte(`{"model": "x", "replay": "y", "rate": 1e400}`))
	f.Fuzz(func(t *testing.T, b []byte) { again(t, b, fleet.ParseBoard) })
}

func FuzzParseFault(f *testing.F) {
	f.Add([]byte(`{"kind": "drift", "part": "hts221", "slope": -1.5, "for": "30s"}`))
	f.Add([]byte(`{"kind": "clone", "of": "board-0", "for": null}`))
	f.Add([]byte(`{"kind": "", "slope": 1e400}`))
	f.Fuzz(func(t *testing.T, b []byte) { again(t, b, fleet.ParseFault) })
}

// again parses b, and what it became must stay what it is.
func again[T any](t *testing.T, b []byte, parse func([]byte) (T, error)) {
	v, err := parse(b)
	if err != nil {
		return
	}
	first, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	w, err := parse(first)
	if err != nil {
		t.Fatalf("%s became %s: %v", b, first, err)
	}
	if second, _ := json.Marshal(w); !bytes.Equal(first, second) {
		t.Fatalf("%s became %s, then %s", b, first, second)
	}
}
