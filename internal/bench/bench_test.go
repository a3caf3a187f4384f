package bench_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/internal/bench"
	"github.com/fluidos-edge/testbed/internal/daemon"
	"github.com/fluidos-edge/testbed/simulators/fleet"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

func TestMeasure(t *testing.T) {
	broken := errors.New("broken")
	tests := []struct {
		name   string
		n      int
		values map[int]float64 // by run; others are the number of the run
		fail   int             // this run
		order  string
		pairs  []bench.Pair
		err    string
	}{
		{name: "one pair", n: 1, order: "AB AB", pairs: []bench.Pair{{3, 4}}},
		{name: "sides alternate", n: 4, order: "AB ABBA ABBA", pairs: []bench.Pair{{3, 4}, {6, 5}, {7, 8}, {10, 9}}},
		{name: "warm-up fails", n: 2, fail: 1, order: "A", err: "row: warm-up: ours: broken"},
		{name: "peer fails", n: 2, fail: 5, order: "AB ABB", err: "row: pair 2 of 2: peer: broken"},
		{name: "nothing measured", n: 1, values: map[int]float64{4: 0}, order: "AB AB", err: "row: pair 1 of 1: peer: measured 0 s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			order, runs := "", 0
			arm := func(side string) bench.Arm {
				return func(context.Context) (float64, error) {
					order += side
					if runs++; runs == tt.fail {
						return 0, broken
					}
					if v, ok := tt.values[runs]; ok {
						return v, nil
					}
					return float64(runs), nil
				}
			}
			c := bench.Comparison{Name: "row", Unit: "s", Ours: arm("A"), Theirs: arm("B")}
			pairs, err := bench.Measure(t.Context(), c, tt.n, func(string) {})
			if tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) || tt.err == "" && err != nil {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if want := strings.ReplaceAll(tt.order, " ", ""); order != want {
				t.Errorf("order %s, want %s", order, want)
			}
			if diff := cmp.Diff(tt.pairs, pairs); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestMeasureEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("Ctrl-C")
	runs := 0
	arm := func(context.Context) (float64, error) {
		if runs++; runs == 3 {
			cancel(stop)
		}
		return 1, nil
	}
	pairs, err := bench.Measure(ctx, bench.Comparison{Name: "row", Ours: arm, Theirs: arm}, 5, func(string) {})
	if !errors.Is(err, stop) || pairs != nil || runs != 3 {
		t.Errorf("%d runs, pairs %v, error %v", runs, pairs, err)
	}
}

var (
	met, missed = true, false
	// Ratios 1.2, 1.4, 1.6, 1, 1.3: one bad pair does not decide.
	five = []bench.Pair{{12, 10}, {14, 10}, {16, 10}, {20, 20}, {13, 10}}
)

func TestJudge(t *testing.T) {
	base := bench.Row{Name: "row", Unit: "s", Op: "<=", N: 5, Commit: "c",
		Value: 14, PeerValue: 10, Ratio: 1.3, RatioMin: 1, RatioMax: 1.6}
	row := func(change func(*bench.Row)) bench.Row {
		r := base
		change(&r)
		return r
	}
	tests := []struct {
		name  string
		op    string
		goal  float64
		pairs []bench.Pair
		want  bench.Row
	}{
		{"met", "<=", 1.5, five, row(func(r *bench.Row) { r.Goal, r.Met = 1.5, &met })},
		{"just met", "<=", 1.3, five, row(func(r *bench.Row) { r.Goal, r.Met = 1.3, &met })},
		{"missed", "<=", 1.25, five, row(func(r *bench.Row) { r.Goal, r.Met = 1.25, &missed })},
		{"more is better", ">=", 1.25, five, row(func(r *bench.Row) { r.Op, r.Goal, r.Met = ">=", 1.25, &met })},
		{"more is better, missed", ">=", 10, five, row(func(r *bench.Row) { r.Op, r.Goal, r.Met = ">=", 10, &missed })},
		{"too few", "<=", 1.5, five[:4], row(func(r *bench.Row) {
			r.Goal, r.N, r.Value, r.Ratio = 1.5, 4, 15, (1.2+1.4)/2
		})},
		{"paired ratios, not the ratio of medians", "<=", 1.5, []bench.Pair{{10, 20}, {30, 10}, {40, 60}},
			bench.Row{Name: "row", Unit: "s", Op: "<=", Goal: 1.5, N: 3, Commit: "c",
				Value: 30, PeerValue: 20, Ratio: 40.0 / 60, RatioMin: 0.5, RatioMax: 3}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := bench.Judge(bench.Comparison{Name: "row", Unit: "s", Op: tt.op, Goal: tt.goal}, tt.pairs, "c")
			near := cmp.Comparer(func(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 })
			if diff := cmp.Diff(tt.want, got, near); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestOutput(t *testing.T) {
	c := bench.Comparison{Name: "kind-up", Params: map[string]any{"edge": "hollow", "consumers": 1}, Unit: "s",
		Peer: "bare clusters", Op: "<=", Goal: 1.5}
	rows := []bench.Row{
		bench.Judge(c, []bench.Pair{{61.234, 50}, {60, 50}, {62, 50}, {60, 40}, {163, 160}}, "abc"),
		bench.Judge(c, []bench.Pair{{100, 50}, {100, 50}, {100, 50}, {100, 50}, {100, 50}}, "abc"),
		bench.Judge(c, []bench.Pair{{75, 50}}, "abc"),
	}
	want := `ROW       OURS     PEER   RATIO   RANGE        GOAL     VERDICT                        PAIRS
kind-up   61.2 s   50 s   1.22    1.02..1.5    <= 1.5   met                            5
kind-up   100 s    50 s   2       2..2         <= 1.5   missed                         5
kind-up   75 s     50 s   1.5     1.5..1.5     <= 1.5   undecided: fewer than 5 pairs   1
`
	table, _, _ := strings.Cut(bench.Table(rows), "\n\n")
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	if diff := cmp.Diff(squeeze(want), squeeze(table)); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, table)
	}
	if !strings.Contains(bench.Table(rows), "kind-up: peer: bare clusters; consumers=1 edge=hollow; commit abc\n") {
		t.Errorf("no peer, parameters and commit:\n%s", bench.Table(rows))
	}

	file := filepath.Join(t.TempDir(), "bench.json")
	if err := bench.WriteFile(file, rows[1:]); err != nil {
		t.Fatal(err)
	}
	wantJSON := `[
  {"name": "kind-up", "params": {"consumers": 1, "edge": "hollow"}, "value": 100, "unit": "s", "peer": "bare clusters", "peer_value": 50,
   "ratio": 2, "ratio_min": 2, "ratio_max": 2, "goal": 1.5, "op": "<=", "met": false, "n": 5, "commit": "abc"},
  {"name": "kind-up", "params": {"consumers": 1, "edge": "hollow"}, "value": 75, "unit": "s", "peer": "bare clusters", "peer_value": 50,
   "ratio": 1.5, "ratio_min": 1.5, "ratio_max": 1.5, "goal": 1.5, "op": "<=", "met": null, "n": 1, "commit": "abc"}
]`
	if diff := cmp.Diff(generic(t, []byte(wantJSON)), generic(t, read(t, file))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if entries, err := os.ReadDir(filepath.Dir(file)); err != nil || len(entries) != 1 {
		t.Errorf("left %v, %v", entries, err)
	}
}

func TestPickNodeImage(t *testing.T) {
	const others = `{"ref":"testbed/components:1","source":"built"},{"ref":"docker.io/kubeedge/cloudcore:v1.23.1","source":""}`
	tests := []struct{ name, list, chosen, edge, want, err string }{
		{name: "chosen", chosen: "lab/node:1", list: `[{"ref":"lab/node:1","source":"engine"},` + others + `]`, want: "lab/node:1"},
		{name: "built by us", list: `[{"ref":"testbed/node:v1.34.4-abc","source":"engine"},` + others + `]`, want: "testbed/node:v1.34.4-abc"},
		{name: "published", list: `[` + others + `,{"ref":"docker.io/kindest/node:v1.30.13","source":"engine"}]`, want: "docker.io/kindest/node:v1.30.13"},
		{name: "as the engine has it", list: `[{"ref":"kindest/node:v1.30.13","source":"engine"}]`, want: "kindest/node:v1.30.13"},
		{name: "not here", list: `[{"ref":"testbed/node:1","source":""}]`, err: "testbed/node:1 is not in the container engine"},
		{name: "KubeEdge is not here", edge: "kubeedge", list: `[{"ref":"testbed/node:1","source":"engine"},` + others + `]`, err: "kubeedge/cloudcore:v1.23.1 is not here"},
		{name: "none", list: `[` + others + `]`, err: "no node image"},
		{name: "no list", list: `{}`, err: "list of images"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := bench.PickNodeImage([]byte(tt.list), tt.chosen, tt.edge)
			if got != tt.want || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) || tt.err == "" && err != nil {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestRun(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // no engine
	t.Setenv("HOME", t.TempDir())
	file := filepath.Join(t.TempDir(), "bench.json")
	tests := []struct {
		name   string
		args   []string
		code   int
		stderr string
		json   string
	}{
		{name: "unknown row", args: []string{"-row", "fast"}, code: 2, stderr: "-row fast: there are kind-up, boards"},
		{name: "no pairs", args: []string{"-n", "0"}, code: 2, stderr: "want 1 or more"},
		{name: "unknown edge", args: []string{"-edge", "k3s"}, code: 2, stderr: "want hollow or kubeedge"},
		{name: "argument", args: []string{"kind-up"}, code: 2, stderr: `argument "kind-up"`},
		{name: "unknown flag", args: []string{"-m", "1"}, code: 2, stderr: "-m"},
		{name: "no boards program", args: []string{"-row", "boards", "-boards", file + ".none", "-o", file}, code: 1, stderr: "the boards program: ", json: "[]"},
		{name: "no engine", args: []string{"-row", "kind-up", "-o", file}, stderr: "skipped: kind-up: there is no container engine", json: "[]"},
		{name: "no folder", args: []string{"-row", "kind-up", "-o", filepath.Join(file, "x.json")}, code: 1, stderr: "error: write "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := bench.Run(t.Context(), tt.args, &stdout, &stderr); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if !strings.Contains(stderr.String(), tt.stderr) || stdout.Len() > 0 {
				t.Errorf("stdout %q, stderr %q", &stdout, &stderr)
			}
			if tt.json != "" {
				if diff := cmp.Diff(generic(t, []byte(tt.json)), generic(t, read(t, file))); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
		})
	}
}

// TestPeer makes two clusters, which takes a minute: only on request, with the
// node image that TESTBED_NODE_IMAGE names.
func TestPeer(t *testing.T) {
	image := os.Getenv("TESTBED_NODE_IMAGE")
	if image == "" {
		t.Skip("TESTBED_NODE_IMAGE names no image of kind's nodes in the engine")
	}
	t.Run("up", func(t *testing.T) {
		seconds, err := bench.PeerUp(t.Context(), image, t.TempDir())
		if err != nil || seconds < 1 {
			t.Errorf("%g s, %v", seconds, err)
		}
		t.Logf("%.1f s", seconds)
		nothingLeft(t)
	})
	t.Run("interrupted", func(t *testing.T) {
		// Long enough for its nodes to be there, and too short for them to be ready.
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		if _, err := bench.PeerUp(ctx, image, t.TempDir()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		nothingLeft(t)
	})
}

// boardsProgram has this test program be the boards program.
const boardsProgram = "TESTBED_TEST_BOARDS"

func TestMain(m *testing.M) {
	if os.Getenv(boardsProgram) != "" {
		o := &fleet.Options{}
		daemon.Main("boards", o, func(ctx context.Context, log *slog.Logger, ready func(error)) error {
			return fleet.Run(ctx, log, ready, o)
		})
	}
	os.Exit(m.Run())
}

func TestBoards(t *testing.T) {
	t.Setenv(boardsProgram, "1")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var rows []bench.Row
	for _, c := range bench.Boards(self, 1000, 5000) {
		pairs, err := bench.Measure(t.Context(), c, 1, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, bench.Judge(c, pairs, "c"))
	}
	t.Log("\n" + bench.Table(rows))
	if len(rows) != 2 || rows[0].Value > 10 || rows[0].PeerValue > 10 || rows[1].PeerValue != 32<<10 || rows[1].Ratio > 1 {
		t.Errorf("rows %+v", rows)
	}
}

func TestBoardsAreRefused(t *testing.T) {
	for _, tt := range []struct{ name, script, err string }{
		{"fails", "echo broken >&2; exit 1", "broken"},
		{"no JSON", "echo nothing", "what "},
		{"another number of frames", `echo '{"sent": 4000, "cpuSeconds": 1, "bytesPerBoard": 1}'`, "4000 frames were sent, want 5000"},
		{"nothing measured", `echo '{"sent": 5000, "cpuSeconds": 0, "bytesPerBoard": 1}'`, "measured 0 s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "boards")
			if err := os.WriteFile(program, []byte("#!/bin/sh\n"+tt.script+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			if _, err := bench.Measure(t.Context(), bench.Boards(program, 100, 5000)[0], 1, func(string) {}); err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%v, want %q", err, tt.err)
			}
		})
	}
}

func nothingLeft(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{
		{"ps", "--all", "--quiet", "--filter", "label=io.x-k8s.kind.cluster=bench-b-1"},
		{"ps", "--all", "--quiet", "--filter", "label=io.x-k8s.kind.cluster=bench-b-2"},
		{"network", "ls", "--quiet", "--filter", "name=testbed-bench-b"},
	} {
		out, err := exec.CommandContext(t.Context(), "docker", args...).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("docker %s: %v %s", strings.Join(args, " "), err, out)
		}
	}
}

func TestTopology(t *testing.T) {
	got, err := topology.Load("one.yaml", read(t, "testdata/one.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Consumers) != 1 || len(got.Providers) != 1 || len(got.Providers[0].EdgeNodes) != 1 || len(got.Providers[0].Boards) != 2 {
		t.Errorf("%+v", got)
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func generic(t *testing.T, text []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}
