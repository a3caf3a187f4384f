package fleet_test

import (
	"context"
	"encoding/hex"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/fleet"
	"github.com/fluidos-edge/testbed/simulators/radio"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

func journaled(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A frame's lines are in the file when a radio gets it, and why a board sent nothing
// is there, too.
func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "boards.lp")
	if err := os.WriteFile(path, []byte("event kind=\"started\" 1\ntor"), 0o600); err != nil {
		t.Fatal(err)
	}
	all := boards(2, "edge-1")
	for i := range all {
		// Longer than a turn of the driver, also on a busy machine.
		all[i].Latency = topology.Latency{Median: topology.Duration(100 * time.Millisecond)}
	}
	p := launch(t, fleet.Config{Seed: 1, Boards: all}, fleet.Options{Journal: path}, "edge-1")
	ctx := t.Context()
	c := dial(t, p.radios["edge-1"])
	var frames [2]<-chan radio.Notification
	for i, m := range []bluest.Mask{bluest.EnvironmentalKT1B, bluest.EnvironmentalBX1} {
		k, err := c.Connect(ctx, address(t, all[i].MAC))
		if err != nil {
			t.Fatal(err)
		}
		if frames[i], err = k.Subscribe(ctx, m.UUID()); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		for i, parts := range [][]string{{"hts221", "lps22hh", "stts751"}, {"stts22h", "ilps22qs"}} {
			text := hex.EncodeToString(next(t, frames[i]).Value)
			lines := journaled(t, path)
			for _, part := range parts {
				line := regexp.MustCompile(`(?m)^environmental,board=` + all[i].Name + `,device=stwin[-a-z0-9]*,node=edge-1,part=` + part + ` .*,latency_ms=100,frame="` + text + `" \d+$`)
				if n := len(line.FindAllString(lines, -1)); n != 1 {
					t.Fatalf("%d lines of %s for frame %s in:\n%s", n, part, text, lines)
				}
			}
		}
	}
	added, err := p.client.Add(ctx, topology.Board{Model: topology.STWINBX1, Nodes: []string{"edge-1"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.client.Fault(ctx, added.Name, topology.Fault{Kind: topology.FaultStuck, Part: "stts22h"}); err != nil {
		t.Fatal(err)
	}
	if err := p.client.Remove(ctx, added.Name); err != nil {
		t.Fatal(err)
	}
	if err := p.client.Remove(ctx, all[1].Name); err != nil {
		t.Fatal(err)
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}

	text := journaled(t, path)
	if !strings.HasPrefix(text, "event kind=\"started\" 1\ntor\nevent kind=\"started\",detail=\"2 boards\" ") {
		t.Errorf("it begins with %.100q", text)
	}
	var told []string
	stamp := regexp.MustCompile(` \d+$`)
	for line := range strings.Lines(text) {
		if event, ok := strings.CutPrefix(strings.TrimSpace(line), "event"); ok {
			event = stamp.ReplaceAllString(strings.TrimPrefix(event, ","), "")
			// How many frames were under way depends on the moment.
			told = append(told, regexp.MustCompile(`; \d frames? under way (was|were) lost`).ReplaceAllString(event, ""))
		}
	}
	want := []string{
		` kind="started"`,
		` kind="started",detail="2 boards"`,
		`board=board-0,device=stwinkt1b-c0832a000000 kind="connected",detail="edge-1"`,
		`board=board-1,device=stwinbx1-c0832a000001 kind="connected",detail="edge-1"`,
		`board=stwinbx1-1,device=` + added.Device + ` kind="added",detail="STWINBX1 at edge-1"`,
		`board=stwinbx1-1,device=` + added.Device + ` kind="fault",detail="stuck part=stts22h"`,
		`board=stwinbx1-1,device=` + added.Device + ` kind="cleared",detail="stuck part=stts22h: cleared"`,
		`board=stwinbx1-1,device=` + added.Device + ` kind="removed",detail=""`,
		`board=board-1,device=stwinbx1-c0832a000001 kind="disconnected",detail="the board is gone"`,
		`board=board-1,device=stwinbx1-c0832a000001 kind="removed",detail=""`,
		`board=board-0,device=stwinkt1b-c0832a000000 kind="disconnected",detail="the radio is closed"`,
	}
	if d := cmp.Diff(want, told); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
}

// Boards whose journal cannot be opened or written do not begin.
func TestNoBoardsWithoutTheirJournal(t *testing.T) {
	dir := t.TempDir()
	config := write(t, dir, fleet.Config{Boards: boards(1, "edge-1"), Radios: map[string]string{"edge-1": filepath.Join(dir, "r")}})
	for _, path := range []string{"/dev/full", filepath.Join(dir, "none", "j")} {
		ready := false
		err := fleet.Run(context.Background(), slog.New(slog.DiscardHandler), func(error) { ready = true },
			&fleet.Options{Config: config, Control: filepath.Join(dir, "c"), Journal: path})
		if err == nil || !strings.HasPrefix(err.Error(), "journal: ") || ready {
			t.Errorf("%s: %v, ready %v", path, err, ready)
		}
	}
}

// Boards end when their journal can no longer be written, as on a full disk.
func TestBoardsEndWithTheirJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "boards.lp")
	dir := t.TempDir()
	socket := filepath.Join(dir, "r")
	config := write(t, dir, fleet.Config{Boards: boards(1, "edge-1"), Radios: map[string]string{"edge-1": socket}})
	up, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- fleet.Run(context.Background(), slog.New(slog.DiscardHandler), func(error) { close(up) },
			&fleet.Options{Config: config, Control: filepath.Join(dir, "c"), Journal: path, Metrics: prometheus.NewRegistry()})
	}()
	<-up
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	const most = 1000
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: most, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
			t.Error(err)
		}
	}()
	k, err := dial(t, socket).Connect(t.Context(), address(t, "c0:83:2a:00:00:00"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Subscribe(t.Context(), bluest.EnvironmentalKT1B.UUID()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil || !strings.HasPrefix(err.Error(), "journal: ") {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("still there after 20 s")
	}
	if n := len(journaled(t, path)); n != most {
		t.Errorf("%d bytes in the journal, want %d", n, most)
	}
}
