package fleet_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/fleet"
	"github.com/fluidos-edge/testbed/simulators/radio"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

func address(t *testing.T, s string) radio.Address {
	t.Helper()
	a, err := radio.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// scan of a radio, to wait in for one board.
func scan(t *testing.T, c *radio.Client) func(radio.Address) radio.Advertisement {
	t.Helper()
	adverts, err := c.Scan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return func(mac radio.Address) radio.Advertisement {
		t.Helper()
		for {
			if a := next(t, adverts); a.Address == mac {
				return a
			}
		}
	}
}

// ended waits for the end of a connection.
func ended(t *testing.T, k *radio.Conn) {
	t.Helper()
	select {
	case <-k.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("still connected after 20 s")
	}
}

func TestAddAndRemove(t *testing.T) {
	p := start(t, boards(1, "edge-1"), "edge-1", "edge-2")
	ctx := t.Context()
	c := dial(t, p.radios["edge-2"])
	wait := scan(t, c)
	added, err := p.client.Add(ctx, topology.Board{Model: topology.STWINBX1, Nodes: []string{"edge-1", "edge-2"}})
	if err != nil {
		t.Fatal(err)
	}
	if added.Name != "stwinbx1-1" || added.Rate != 2 || cmp.Diff([]string{"edge-1", "edge-2"}, added.Nodes) != "" {
		t.Errorf("added %+v", added)
	}
	mac := address(t, added.MAC)
	wait(mac)
	k, err := c.Connect(ctx, mac)
	if err != nil {
		t.Fatal(err)
	}
	frames, err := k.Subscribe(ctx, bluest.EnvironmentalBX1.UUID())
	if err != nil {
		t.Fatal(err)
	}
	next(t, frames)
	if all, err := p.client.Boards(ctx); err != nil || len(all) != 2 || all[1].ConnectedTo != "edge-2" {
		t.Errorf("%d boards, %v", len(all), err)
	}

	if err := p.client.Remove(ctx, added.Name); err != nil {
		t.Fatal(err)
	}
	ended(t, k)
	if !errors.Is(k.Err(), radio.ErrDisconnected) {
		t.Errorf("connection: %v", k.Err())
	}
	if _, err := c.Connect(ctx, mac); !errors.Is(err, radio.ErrUnknown) {
		t.Errorf("connect to a board that is gone: %v", err)
	}
	if all, err := p.client.Boards(ctx); err != nil || len(all) != 1 {
		t.Errorf("%d boards, %v", len(all), err)
	}
	if err := p.client.Remove(ctx, added.Name); err == nil || !strings.Contains(err.Error(), `no board "stwinbx1-1"`) {
		t.Errorf("removed twice: %v", err)
	}
	if n := p.metric(t, "boards_notifications_total", topology.STWINBX1); n < 1 {
		t.Error("the notifications of a board that is gone are forgotten")
	}
	if n := p.metric(t, "boards_known", topology.STWINBX1); n != 0 {
		t.Errorf("%v boards known", n)
	}

	// the same again: the seed and its name draw what it leaves open
	second, err := p.client.Add(ctx, topology.Board{Model: topology.STWINBX1, Nodes: []string{"edge-2"}})
	if err != nil || second.MAC != added.MAC || second.ID != added.ID {
		t.Errorf("added again: %+v, %v", second, err)
	}
	wait(mac)
	if _, err := c.Connect(ctx, mac); err != nil {
		t.Error(err)
	}
}

func TestOutOfRange(t *testing.T) {
	p := start(t, boards(2, "edge-1", "edge-2"), "edge-1", "edge-2")
	ctx := t.Context()
	near, far := address(t, "c0:83:2a:00:00:00"), address(t, "c0:83:2a:00:00:01")
	first, second := dial(t, p.radios["edge-1"]), dial(t, p.radios["edge-2"])
	k, err := first.Connect(ctx, far)
	if err != nil {
		t.Fatal(err)
	}
	other, err := second.Connect(ctx, near)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := p.client.Fault(ctx, "board-1", topology.Fault{Kind: topology.FaultOutOfRange}); err != nil || len(b.Faults) != 1 || b.ConnectedTo != "" {
		t.Errorf("%+v, %v", b, err)
	}
	ended(t, k)
	if !errors.Is(k.Err(), radio.ErrDisconnected) {
		t.Errorf("connection: %v", k.Err())
	}
	for _, c := range []*radio.Client{first, second} {
		if _, err := c.Connect(ctx, far); !errors.Is(err, radio.ErrUnknown) {
			t.Errorf("connect to a board out of range: %v", err)
		}
	}
	if n := p.metric(t, "boards_faults", topology.FaultOutOfRange); n != 1 {
		t.Errorf("%v boards out of range", n)
	}
	wait := scan(t, second)
	wait(near) // the first round is over, or on its way, without the other board
	if b, err := p.client.Clear(ctx, "board-1", topology.FaultOutOfRange); err != nil || len(b.Faults) != 0 {
		t.Errorf("%+v, %v", b, err)
	}
	if a := wait(far); !a.Connectable {
		t.Error("back in range, and not connectable")
	}
	if _, err := second.Connect(ctx, far); err != nil {
		t.Error(err)
	}
	if other.Err() != nil {
		t.Errorf("another board: %v", other.Err())
	}
}

func TestReboot(t *testing.T) {
	p, clk := still(t, fleet.Config{Seed: 1, Boards: boards(1, "edge-1")}, "edge-1")
	ctx := t.Context()
	mac := address(t, "c0:83:2a:00:00:00")
	c := dial(t, p.radios["edge-1"])
	if _, err := c.Connect(ctx, mac); err != nil {
		t.Fatal(err)
	}
	if _, err := p.client.Fault(ctx, "board-0", topology.Fault{Kind: topology.FaultReboot}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Connect(ctx, mac); !errors.Is(err, radio.ErrUnknown) {
		t.Errorf("connect to a board that starts: %v", err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		clk.Step(time.Second) // the driver may not wait for it yet
		_, err := c.Connect(ctx, mac)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("does not come back: %v", err)
		}
	}
	if b, err := p.client.Board(ctx, "board-0"); err != nil || len(b.Faults) != 0 || b.ConnectedTo != "edge-1" {
		t.Errorf("%+v, %v", b, err)
	}
}

func TestClone(t *testing.T) {
	p := start(t, boards(2, "edge-1"), "edge-1")
	ctx := t.Context()
	if _, err := p.client.Fault(ctx, "board-1", topology.Fault{Kind: topology.FaultClone, Of: "board-0"}); err != nil {
		t.Fatal(err)
	}
	k, err := dial(t, p.radios["edge-1"]).Connect(ctx, address(t, "c0:83:2a:00:00:01"))
	if err != nil {
		t.Fatal(err)
	}
	console, err := k.Subscribe(ctx, bluest.ConsoleUUID)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Write(ctx, bluest.ConsoleUUID, []byte("uid\r\n")); err != nil {
		t.Fatal(err)
	}
	if got := line(t, console); got != strings.Repeat("0", 24) {
		t.Errorf("uid: %q, want that of board-0", got)
	}
	// the id is still its own in the fleet
	if _, err := p.client.Add(ctx, topology.Board{Model: topology.STWINBX1, ID: strings.Repeat("0", 23) + "1"}); err == nil || !strings.Contains(err.Error(), "id: ") {
		t.Errorf("added with the id of board-1: %v", err)
	}
}

// occurrence of a scheduled fault.
type occurrence struct {
	At    time.Duration
	Board string
	Fault topology.Fault
}

func occurrences(t *testing.T, seed uint64, within time.Duration, faults []topology.ScheduledFault, names ...string) (all []occurrence) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		began := time.Now()
		fleet.Befall(ctx, seed, faults, names, func(board string, f topology.Fault) {
			all = append(all, occurrence{time.Since(began), board, f})
		})
	})
	return all
}

func TestSchedule(t *testing.T) {
	second := topology.Duration(time.Second)
	silence := topology.Fault{Kind: topology.FaultSilence, For: 5 * second}
	clone := topology.Fault{Kind: topology.FaultClone}
	faults := []topology.ScheduledFault{
		{Fault: silence, Board: "b", At: 10 * second, Every: 60 * second},
		{Fault: topology.Fault{Kind: topology.FaultReboot}, Board: "a", At: 70 * second},
		{Fault: clone},
		{Fault: silence, Every: 100 * second},
	}
	names := []string{"a", "b", "c"}
	got := occurrences(t, 7, time.Hour, faults, names...)
	kinds := map[string][]occurrence{}
	drawn := map[string]int{}
	last := time.Duration(0)
	for _, o := range got {
		if o.At < last {
			t.Errorf("%+v comes behind one at %s", o, last)
		}
		last = o.At
		key := o.Fault.Kind
		if o.Fault.Kind == topology.FaultSilence && (o.At-10*time.Second)%time.Minute != 0 {
			key = "drawn"
			drawn[o.Board]++
		}
		kinds[key] = append(kinds[key], o)
	}
	if n := kinds[topology.FaultSilence]; len(n) != 60 || n[0].At != 10*time.Second || n[59].At != 59*time.Minute+10*time.Second || n[59].Board != "b" || n[59].Fault != silence {
		t.Errorf("every minute: %+v", n)
	}
	if n := kinds[topology.FaultReboot]; len(n) != 1 || n[0] != (occurrence{70 * time.Second, "a", topology.Fault{Kind: topology.FaultReboot}}) {
		t.Errorf("once: %+v", n)
	}
	if n := kinds[topology.FaultClone]; len(n) != 1 || n[0].At < 30*time.Second || n[0].At > 5*time.Minute || n[0].Board == n[0].Fault.Of || n[0].Fault.Of == "" {
		t.Errorf("drawn: %+v", n)
	}
	if n := kinds["drawn"]; len(n) < 33 || len(n) > 36 || len(drawn) != len(names) {
		t.Errorf("every 100s: %d, of boards %v", len(n), drawn)
	}
	if d := cmp.Diff(got, occurrences(t, 7, time.Hour, faults, names...)); d != "" {
		t.Errorf("the same seed gave another schedule: %s", d)
	}
	if slices.Equal(got, occurrences(t, 8, time.Hour, faults, names...)) {
		t.Error("another seed gave the same schedule")
	}
	if alone := occurrences(t, 7, time.Hour, []topology.ScheduledFault{{Fault: clone}}, "a"); len(alone) != 1 || alone[0].Fault.Of != "" {
		t.Errorf("a clone of nobody: %+v", alone)
	}
	if none := occurrences(t, 7, time.Hour, []topology.ScheduledFault{{Fault: silence}}); len(none) != 1 || none[0].Board != "" {
		t.Errorf("without boards: %+v", none)
	}
}

// Faults of the configuration befall boards that are there; others are passed over.
func TestScheduledFaults(t *testing.T) {
	second := topology.Duration(time.Second)
	cfg := fleet.Config{Seed: 1, Boards: boards(2, "edge-1"), Radio: topology.Radio{Interval: topology.Duration(100 * time.Millisecond), Loss: 0.1},
		Faults: []topology.ScheduledFault{
			{Fault: topology.Fault{Kind: topology.FaultDrift}, Board: "board-1", At: 20 * second},
			{Fault: topology.Fault{Kind: topology.FaultSilence}, Board: "board-0", At: 30 * second},
		}}
	p, clk := still(t, cfg, "edge-1")
	if err := p.client.Remove(t.Context(), "board-1"); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for seconds := 1; ; seconds++ {
		clk.Step(time.Second)
		b, err := p.client.Board(t.Context(), "board-0")
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Faults) == 1 && b.Faults[0].Kind == topology.FaultSilence {
			if seconds < 30 {
				t.Errorf("silent after %d s", seconds)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no fault came")
		}
	}
	if !p.log.has("scheduled fault passed over") || !p.log.has(`no board \"board-1\"`) {
		t.Error("what was passed over is not in the log")
	}
	if n := p.metric(t, "boards_faults", topology.FaultSilence); n != 1 {
		t.Errorf("%v silent boards", n)
	}
}
