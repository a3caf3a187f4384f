package cli_test

import (
	"context"
	"encoding/json"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fluidos-edge/testbed/controllers/mapper"
	"github.com/fluidos-edge/testbed/internal/cli"
	"github.com/fluidos-edge/testbed/simulators/board"
	"github.com/fluidos-edge/testbed/simulators/fleet"
	"github.com/fluidos-edge/testbed/testbed"
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
		Control: func(_, board string) (string, error) {
			if !slices.ContainsFunc(p.Boards, func(b topology.Board) bool { return b.Name == board }) {
				return "", &testbed.InputError{Field: "board", Value: board, Want: "one of " + p.Boards[0].Name + ", ..."}
			}
			return o.Control, nil
		},
		Describe: func(context.Context, testbed.Options) (*testbed.Status, error) {
			return &testbed.Status{Topology: topology.Default()}, nil
		},
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

// Boards come, go, and get faults.
func TestBoardChanges(t *testing.T) {
	f := boards(t)
	dir := t.TempDir()
	csv := filepath.Join(dir, "r.csv")
	if err := os.WriteFile(csv, []byte("seconds,temperature\n0,-7\n60,-7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		code   int
		stdout string // what it contains
		stderr string
	}{
		{[]string{"list", "-o", "json"}, 0, `"stwinbx1-3"`, ""},
		{[]string{"show", "extra-1"}, 2, "", `error: board: "extra-1": want one of stwinkt1b-1, ...`},
		{[]string{"add", "extra-1"}, 0, "extra-1", ""},
		{[]string{"show", "extra-1"}, 0, "none, advertising to edge-", ""},
		{[]string{"list"}, 0, "extra-1", ""},
		{[]string{"add", "extra-1"}, 2, "", `extra-1`},
		{[]string{"add", "extra-2", "--model", "STWINBX2"}, 2, "", "STWINBX2"},
		{[]string{"add", "extra-2", "--node", "edge-9"}, 2, "", "edge-9"},
		{[]string{"add", "extra-2", "--rate", "1000"}, 2, "", "rate"},
		{[]string{"add", "extra-2", "--offers", "hts222"}, 2, "", "hts222"},
		{[]string{"add", "extra-2", "--provider", "nowhere"}, 2, "", `error: --provider: there is no "nowhere"`},
		{[]string{"add", "extra-2", "--provider", "provider-1", "--model", "STWINBX1", "--node", "edge-2", "--rate", "10", "--offers", "stts22h,iis2mdc", "--mac", "c0:83:2a:10:20:30"},
			0, "stwinbx1-c0832a102030", ""},
		{[]string{"add", "cellar", "--replay", csv}, 0, "cellar", ""},
		{[]string{"show", "cellar"}, 0, "temperature     -7", ""},
		{[]string{"fault", "extra-1", "stuck", "--part", "hts221"}, 0, "! stuck hts221", ""},
		{[]string{"fault", "extra-1", "battery-low", "--for", "1h"}, 0, "! battery-low", ""},
		{[]string{"show", "extra-1", "-o", "json"}, 0, `"kind": "battery-low"`, ""},
		{[]string{"fault", "extra-1", "stuck", "--part", "hts222"}, 2, "", "hts222"},
		{[]string{"fault", "extra-1", "silence", "--part", "hts221"}, 2, "", "part"},
		{[]string{"fault", "extra-1", "clone"}, 2, "", "of"},
		{[]string{"fault", "extra-1", "clone", "--of", "nobody"}, 2, "", "nobody"},
		{[]string{"fault", "extra-1", "silence", "--clear"}, 2, "", "silence"},
		{[]string{"fault", "extra-1", "stuck", "--clear"}, 0, "! battery-low", ""},
		{[]string{"fault", "extra-1", "--clear"}, 0, "advertising", ""},
		{[]string{"fault", "nobody", "silence"}, 2, "", "nobody"},
		{[]string{"remove", "extra-1"}, 0, "board extra-1 is removed", ""},
		{[]string{"remove", "extra-2", "-o", "json"}, 0, `"name": "extra-2"`, ""},
		{[]string{"remove", "extra-1"}, 2, "", "extra-1"},
	} {
		code, stdout, stderr := runFake(context.Background(), f, append([]string{"board"}, c.args...)...)
		if code != c.code || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) || (code == 0) != (stderr == "") {
			t.Fatalf("%q: exit code %d, stdout %q, stderr %q", c.args, code, stdout, stderr)
		}
	}
}

// A board goes to the provider that is named, or that has its nodes.
func TestBoardAddChoosesProvider(t *testing.T) {
	a, b := boards(t), boards(t)
	first, _ := a.Controls("")
	second, _ := b.Controls("")
	top := topology.Custom(1, 2)
	for i := range top.Providers[1].EdgeNodes {
		top.Providers[1].EdgeNodes[i].Name = "far-" + top.Providers[1].EdgeNodes[i].Name
	}
	a.Controls = func(string) ([]string, error) { return []string{first[0], second[0]}, nil }
	a.Describe = func(context.Context, testbed.Options) (*testbed.Status, error) {
		return &testbed.Status{Topology: top}, nil
	}
	has := func(f cli.Fake, name string) bool {
		code, _, _ := runFake(context.Background(), f, "board", "show", name)
		return code == 0
	}
	for _, c := range []struct {
		args   []string
		code   int
		stderr string
	}{
		{[]string{"one", "--node", "edge-1"}, 0, ""},
		{[]string{"two", "--provider", "provider-2", "--node", "edge-1"}, 0, ""},
		{[]string{"three"}, 2, "fix: add --provider, one of provider-1, provider-2"},
		{[]string{"three", "--node", "edge-1,far-edge-1"}, 2, "--node: no provider has edge-1 and far-edge-1"},
		{[]string{"three", "--provider", "provider-3"}, 2, "fix: use one of provider-1, provider-2"},
	} {
		code, _, stderr := runFake(context.Background(), a, append([]string{"board", "add"}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%q: exit code %d, stderr %q", c.args, code, stderr)
		}
	}
	a.Controls = func(string) ([]string, error) { return first, nil }
	if !has(a, "one") || has(b, "one") || has(a, "two") || !has(b, "two") {
		t.Error("the boards are at the wrong provider")
	}
}

func TestBoardCompletion(t *testing.T) {
	f := boards(t)
	const all = "stwinkt1b-1 stwinkt1b-2 stwinkt1b-3 stwinbx1-1 stwinbx1-2 stwinbx1-3 :4"
	kinds := strings.Join(topology.FaultKinds, " ") + " :4"
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"show", ""}, all}, {[]string{"set", ""}, all}, {[]string{"remove", ""}, all}, {[]string{"fault", ""}, all},
		{[]string{"show", "stwinbx1-1", ""}, ":4"},
		{[]string{"add", ""}, ":4"},
		{[]string{"fault", "stwinbx1-1", ""}, kinds},
		{[]string{"fault", "stwinbx1-1", "stuck", "--part", ""}, "stts22h ilps22qs ism330dhcx iis2mdc imp34dt05 :4"},
		{[]string{"set", "stwinbx1-1", "--part", ""}, "stts22h ilps22qs ism330dhcx iis2mdc imp34dt05 :4"},
		{[]string{"fault", "--part", ""}, "hts221 lps22hh stts751 ism330dhcx iis2mdc imp34dt05 stts22h ilps22qs :4"},
		{[]string{"fault", "stwinbx1-1", "clone", "--of", ""}, strings.Replace(all, "stwinbx1-1 ", "", 1)},
		{[]string{"add", "x", "--model", ""}, "STWINKT1B STWINBX1 :4"},
		{[]string{"add", "x", "--node", ""}, "edge-1 edge-2 :4"},
		{[]string{"add", "x", "--provider", ""}, "provider-1 :4"},
		{[]string{"add", "x", "--model", "STWINBX1", "--offers", "stts22h,"}, "stts22h,stts22h stts22h,ilps22qs stts22h,ism330dhcx stts22h,iis2mdc stts22h,imp34dt05 :4"},
		{[]string{"show", "stwinbx1-1", "--plot", ""}, "pressure temperature accelerationX accelerationY accelerationZ angularRateX angularRateY angularRateZ " +
			"magneticFieldX magneticFieldY magneticFieldZ level voltage current status soundLevel1 :4"},
	} {
		code, out, _ := runFake(context.Background(), f, append([]string{"__complete", "board"}, c.args...)...)
		if got := strings.Join(strings.Fields(out), " "); code != 0 || got != c.want {
			t.Errorf("%q: exit code %d, %q, want %q", c.args, code, got, c.want)
		}
	}
	f.Controls = func(string) ([]string, error) { return []string{filepath.Join(t.TempDir(), "x")}, nil }
	if code, out, _ := runFake(context.Background(), f, "__complete", "board", "show", ""); code != 0 || strings.TrimSpace(out) != ":4" {
		t.Errorf("nobody answers: exit code %d, %q", code, out)
	}
}

// Every command, topology and file of docs/boards.md is right: commands of boards are
// run, in their order, on the default testbed's.
func TestBoardsDocument(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "boards.md"))
	if err != nil {
		t.Fatal(err)
	}
	f := boards(t)
	words := regexp.MustCompile(`"[^"]*"|[^\s"]+`)
	ran := 0
	for _, block := range regexp.MustCompile("(?s)```(\\w+)\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		switch language, body := block[1], block[2]; language {
		case "yaml":
			if _, err := topology.Load("boards.md", []byte(body)); err != nil {
				t.Errorf("%v in\n%s", err, body)
			}
		case "csv":
			if _, err := board.ParseReplay(topology.STWINKT1B, body); err != nil {
				t.Errorf("%v in\n%s", err, body)
			}
		case "sh":
			for line := range strings.Lines(body) {
				line, _, _ = strings.Cut(line, " #")
				var args []string
				for _, w := range words.FindAllString(line, -1) {
					args = append(args, strings.Trim(w, `"`))
				}
				fs := flag.NewFlagSet("", flag.ContinueOnError)
				switch {
				case len(args) < 2:
				case args[0] == "bin/boards":
					(&fleet.Options{}).AddFlags(fs)
					if err := fs.Parse(args[1:]); err != nil {
						t.Errorf("%s: %v", line, err)
					}
				case args[0] == "bin/mapper":
					(&mapper.Options{}).AddFlags(fs)
					if err := fs.Parse(args[1:]); err != nil {
						t.Errorf("%s: %v", line, err)
					}
				case args[0] == "bin/testbed" && args[1] == "board":
					if slices.Contains(args, "--watch") || slices.Contains(args, "--plot") {
						args = append(args, "--count", "1")
					}
					if code, _, stderr := runFake(t.Context(), f, args[1:]...); code != 0 {
						t.Errorf("%s: exit code %d, %s", line, code, stderr)
					}
					ran++
				}
			}
		}
	}
	if ran < 20 {
		t.Errorf("only %d commands of boards", ran)
	}
}
