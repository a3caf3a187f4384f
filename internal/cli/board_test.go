package cli_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fluidos-edge/testbed/internal/cli"
	"github.com/fluidos-edge/testbed/simulators/fleet"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// boards runs the default testbed's boards in this process.
func boards(t *testing.T) cli.Fake {
	t.Helper()
	dir, err := os.MkdirTemp("", "cli") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	p := topology.Default().Providers[0]
	config := map[string]any{"seed": 1, "boards": p.Boards, "radios": map[string]string{
		"edge-1": filepath.Join(dir, "1.sock"), "edge-2": filepath.Join(dir, "2.sock")}}
	b, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	o := &fleet.Options{Config: filepath.Join(dir, "boards.json"), Control: filepath.Join(dir, "control.sock"), Metrics: prometheus.NewRegistry()}
	if err := os.WriteFile(o.Config, b, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}, 8), make(chan error, 1)
	go func() {
		done <- fleet.Run(ctx, slog.New(slog.DiscardHandler), func(err error) {
			if err == nil {
				ready <- struct{}{}
			}
		}, o)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("boards: %v", err)
		}
		os.RemoveAll(dir)
	})
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		t.Fatalf("boards: %v", err)
	}
	return cli.Fake{
		Controls: func(string) ([]string, error) { return []string{o.Control}, nil },
		Control:  func(string, string) (string, error) { return o.Control, nil },
	}
}

func TestBoards(t *testing.T) {
	f := boards(t)
	ctx := context.Background()
	do := func(code int, args ...string) (stdout, stderr string) {
		t.Helper()
		got, stdout, stderr := runFake(ctx, f, args...)
		if got != code {
			t.Fatalf("%q: exit code %d, want %d, stderr %q", args, got, code, stderr)
		}
		return stdout, stderr
	}
	show := func(name string) (b fleet.Board) {
		t.Helper()
		out, _ := do(0, "board", "show", name, "-o", "json")
		if err := json.Unmarshal([]byte(out), &b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	out, _ := do(0, "board", "list")
	golden(t, "boards.golden", out)
	out, _ = do(0, "board", "list", "-o", "json")
	var all []fleet.Board
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 6 {
		t.Fatalf("%d boards, %v", len(all), err)
	}

	// What a part declares and how the board behaves are apart.
	before := show("stwinkt1b-1")
	do(0, "board", "set", "stwinkt1b-1", "--part", "hts221", "--latency", "0.015s")
	after := show("stwinkt1b-1")
	if got := after.Parts[0]; got.Latency != "0.015" || got.Properties.Unit.Latency != "s" {
		t.Errorf("declared latency %q %q", got.Latency, got.Properties.Unit.Latency)
	}
	if diff := cmp.Diff(before.Latency, after.Latency); diff != "" {
		t.Errorf("behaviour changed: %s", diff)
	}
	do(0, "board", "set", "stwinkt1b-1", "--part", "hts221", "--latency", "12", "--manufacturer", "STMicroelecronics")
	if got := show("stwinkt1b-1").Parts[0]; got.Latency != "12" || got.Properties.Unit.Latency != "" || got.Manufacturer != "STMicroelecronics" {
		t.Errorf("declared %q %q by %q", got.Latency, got.Properties.Unit.Latency, got.Manufacturer)
	}
	if diff := cmp.Diff(show("stwinkt1b-1").Parts[1:], before.Parts[1:]); diff != "" {
		t.Errorf("other parts changed: %s", diff)
	}
	out, _ = do(0, "board", "set", "stwinkt1b-1", "--rate", "4", "--latency", "30ms")
	if !strings.Contains(out, "4 Hz") || !strings.Contains(out, "30ms ± 1ms") {
		t.Errorf("after set: %s", out)
	}

	// A refusal is bad input; a silent process is a testbed that is not there.
	_, stderr := do(2, "board", "set", "stwinkt1b-1", "--rate", "1000")
	if !strings.Contains(stderr, "rate") {
		t.Errorf("refused: %s", stderr)
	}
	do(2, "board", "set", "stwinbx1-1", "--part", "hts221", "--latency", "1ms")
	f.Control = func(string, string) (string, error) { return filepath.Join(t.TempDir(), "x"), nil }
	if _, stderr = do(4, "board", "show", "stwinkt1b-1"); !strings.Contains(stderr, "fix: ") {
		t.Errorf("unreachable: %s", stderr)
	}
}
