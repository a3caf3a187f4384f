package fleet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

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
	stop    func() error
}

func start(t *testing.T, all []topology.Board, nodes ...string) *process {
	t.Helper()
	dir := t.TempDir()
	p := &process{dir: dir, radios: map[string]string{}, control: filepath.Join(dir, "control")}
	for _, n := range nodes {
		p.radios[n] = filepath.Join(dir, n)
	}
	opts := &fleet.Options{Config: write(t, dir, fleet.Config{Seed: 1, Boards: all, Radios: p.radios}), Control: p.control, Metrics: prometheus.NewRegistry()}
	p.client = fleet.NewClient(p.control)
	ctx, cancel := context.WithCancel(context.Background())
	up, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- fleet.Run(ctx, slog.New(slog.DiscardHandler), func(err error) {
			if err == nil {
				close(up)
			}
		}, opts)
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
	p := start(t, boards(2, "edge-1"), "edge-1")
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
	want.Rate, want.Latency.Median = 4, median
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

// The API as it is on the wire.
func TestControlJSON(t *testing.T) {
	p := start(t, boards(2, "edge-1"), "edge-1")
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", p.control)
	}}}
	for _, tt := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", "/v1/boards/board-1", "", 200, `{"name":"board-1","model":"STWINBX1","mac":"c0:83:2a:00:00:01","id":"000000000000000000000001","device":"stwinbx1-c0832a000001","nodes":["edge-1"],"connectedTo":"","rate":10,"latency":{"median":"2ms","jitter":"1ms"},"parts":[{"uid":""`},
		{"PATCH", "/v1/boards/board-1", `{"rate": 4, "latency": {"median": "5ms"}, "parts": {"stts22h": {"latency": "0.015", "latencyUnit": "s"}}}`, 200, `"latency":"0.015"`},
		{"PATCH", "/v1/boards/board-1", `{"rate": "fast"}`, 400, `{"error":"rate: \"fast\", want a number`},
		{"PATCH", "/v1/boards/board-1", `{"latency": {"median": 5}}`, 400, `{"error":"latency.median: 5, want a duration`},
		{"PATCH", "/v1/boards/board-1", `{"latency": "5ms"}`, 400, `{"error":"latency: want an object`},
		{"PATCH", "/v1/boards/board-1", `{"parts": {"stts22h": {"colour": "red"}}}`, 400, `{"error":"parts.stts22h.colour: unknown field, want one of latency, latencyUnit, manufacturer, market"}`},
		{"PATCH", "/v1/boards/board-1", `{"parts": {"hts221": {"latency": "5"}}}`, 400, `{"error":"parts.hts221: no such part on a STWINBX1`},
		{"PATCH", "/v1/boards/board-1", `{"rate": 4} {}`, 400, `{"error":`},
		{"PATCH", "/v1/boards/board-1", ``, 400, `{"error":`},
		{"PATCH", "/v1/boards/board-1", strings.Repeat(" ", 70_000), 413, `{"error":`},
		{"PATCH", "/v1/boards/nobody", `{}`, 404, `{"error":"no board`},
		{"DELETE", "/v1/boards/board-1", ``, 405, ``},
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
			[]string{`boards[0] (a): nodes: there is no radio for "edge-9"`, "boards[1] (a): name: ", "boards[2] (b): model: "}},
		{"twice the address", string(marshal(t, fleet.Config{Boards: []topology.Board{one[0], named(one[0], "b")}, Radios: map[string]string{"edge-1": "SOCKET"}})),
			[]string{"node edge-1: ", "address c0:83:2a:00:00:00 twice"}},
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
	if err := fleet.Run(t.Context(), slog.New(slog.DiscardHandler), func(error) {}, &fleet.Options{}); err == nil {
		t.Error("ran without a configuration")
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

// Boards do not cost goroutines.
func TestManyBoards(t *testing.T) {
	before := runtime.NumGoroutine()
	p := start(t, boards(2000, "edge-1"), "edge-1")
	c := dial(t, p.radios["edge-1"])
	adverts, err := c.Scan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[radio.Address]bool{}
	for len(seen) < 2000 {
		seen[next(t, adverts).Address] = true
	}
	var streams []<-chan radio.Notification
	for i := range 20 {
		mac, err := radio.ParseAddress(fmt.Sprintf("c0832a00%04x", i))
		if err != nil {
			t.Fatal(err)
		}
		k, err := c.Connect(t.Context(), mac)
		if err != nil {
			t.Fatal(err)
		}
		m := bluest.EnvironmentalKT1B
		if i%2 == 1 {
			m = bluest.EnvironmentalBX1
		}
		ch, err := k.Subscribe(t.Context(), m.UUID())
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, ch)
	}
	for _, ch := range streams {
		for range 3 {
			next(t, ch)
		}
	}
	if n := runtime.NumGoroutine() - before; n > 40 {
		t.Errorf("%d goroutines for 2000 boards, 20 of them connected", n)
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
		again, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		q, err := fleet.ParsePatch(again)
		if err != nil {
			t.Fatalf("%s became %s: %v", b, again, err)
		}
		if once, _ := json.Marshal(q); !bytes.Equal(once, again) {
			t.Fatalf("%s became %s", again, once)
		}
	})
}
