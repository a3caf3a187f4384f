package board_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/fluidos-edge/testbed/simulators/board"
	"github.com/fluidos-edge/testbed/simulators/radio"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

var update = flag.Bool("update", false, "write golden files")

// A board as a phone app would show it.
func TestState(t *testing.T) {
	clk := testingclock.NewFakeClock(start)
	spec := bx1()
	latency := "0.015"
	spec.Offers = []string{"imp34dt05", "ism330dhcx", "stts22h"}
	spec.Parts = map[string]topology.Declared{"stts22h": {Latency: &latency}}
	b := newBoard(t, spec, board.Options{Clock: clk})
	clk.Step(90 * time.Minute)
	for _, f := range []topology.Fault{{Kind: topology.FaultStuck, Part: "stts22h"}, {Kind: topology.FaultDrift, Part: "iis2mdc", Slope: 2, For: minute}} {
		if err := b.Fault(f, ""); err != nil {
			t.Fatal(err)
		}
	}
	clk.Step(30 * time.Second)
	if _, err := radio.Discard(b.Via("edge-1")); err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(b.State(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := filepath.Join("testdata", "state.json")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s differs (-want +got), -update writes it:\n%s", path, d)
	}
	var back board.State
	d := json.NewDecoder(bytes.NewReader(got))
	d.DisallowUnknownFields()
	if err := d.Decode(&back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(b.State(), back); d != "" {
		t.Errorf("read back: %s", d)
	}
}

// What a board keeps for itself, connected and sending everything.
func TestSmall(t *testing.T) {
	const boards, most = 5000, 4 << 10
	clk := testingclock.NewFakeClock(start)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	all := make([]*board.Board, boards)
	for i := range all {
		spec := topology.Board{Model: []string{topology.STWINKT1B, topology.STWINBX1}[i%2]}
		spec.SetDefaults(1, i+1, "edge-1")
		all[i] = newBoard(t, spec, board.Options{Clock: clk, Monotonic: func() int64 { return 0 }})
		p := all[i].Via("edge-1")
		l, err := radio.Discard(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range masks(spec) {
			if err := p.Subscribe(l, m.UUID(), true); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 2 {
		to := clk.Now().Add(time.Second)
		for _, b := range all {
			b.Advance(to)
		}
		clk.SetTime(to)
	}
	if after := heap(); after > before+boards*most {
		t.Errorf("%d bytes a board, want at most %d", (after-before)/boards, most)
	} else {
		t.Logf("%d bytes a board", (after-before)/boards)
	}
	runtime.KeepAlive(all)
}
