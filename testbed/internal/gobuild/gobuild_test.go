package gobuild_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/gobuild"
)

var binaries = []string{"etcd", "influxd", "kube-apiserver", "kube-controller-manager", "kubectl", "telegraf"}

// fakeGo plays the go command: it "builds" every package unless fail says not to.
func fakeGo(fail func(argv []string) error) *command.Fake {
	return &command.Fake{Answer: func(_ context.Context, c command.Cmd) (command.Result, error) {
		if c.Argv[1] == "env" {
			return command.Result{Stdout: []byte(`{"GOVERSION":"go1.26.0","GOCACHE":"/","GOMODCACHE":"/nowhere/yet"}`)}, nil
		}
		for _, f := range []string{"go.mod", "go.sum"} {
			if _, err := os.Stat(filepath.Join(c.Dir, f)); err != nil {
				return command.Result{}, err
			}
		}
		out := c.Argv[slices.Index(c.Argv, "-o")+1]
		if fail != nil {
			if err := fail(c.Argv); err != nil {
				_ = os.WriteFile(filepath.Join(filepath.Dir(out), "half"), []byte("x"), 0o600)
				return command.Result{Stderr: []byte(err.Error())}, errors.New("exit status 1")
			}
		}
		for _, a := range c.Argv {
			if !strings.Contains(a, "/cmd/kube") && !strings.HasSuffix(a, "/server/v3") && !strings.HasSuffix(a, "/cmd/telegraf") && !strings.HasSuffix(a, "/cmd/influxd") && a != "github.com/coredns/coredns" {
				continue
			}
			_, _ = fmt.Fprintf(c.Stderr, "go: downloading x v1\nfmt\n%s\n", a)
			to := out
			if strings.HasSuffix(out, "/") {
				to = filepath.Join(out, path.Base(a))
			}
			if err := os.WriteFile(to, []byte("program "+a), 0o755); err != nil {
				return command.Result{}, err
			}
		}
		return command.Result{}, nil
	}}
}

func plenty(string) (uint64, error) { return 100 << 30, nil }

// builds counts the invocations of go build.
func builds(f *command.Fake) int {
	n := 0
	for _, c := range f.Calls() {
		if c.Argv[1] == "build" {
			n++
		}
	}
	return n
}

func TestBuild(t *testing.T) {
	cache := t.TempDir()
	a, missing, err := gobuild.Locate(cache)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(missing)
	if diff := cmp.Diff(binaries, missing); diff != "" {
		t.Errorf("missing at first (-want +got):\n%s", diff)
	}
	var got []gobuild.Progress
	run := fakeGo(nil)
	b := &gobuild.Builder{Cache: cache, Runner: run, Free: plenty, Progress: func(p gobuild.Progress) { got = append(got, p) }}
	at, err := b.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if at != a {
		t.Errorf("built into %s, located at %s", at.Dir, a.Dir)
	}
	for _, n := range binaries {
		text, err := os.ReadFile(at.Path(n))
		if err != nil || !strings.HasPrefix(string(text), "program ") {
			t.Errorf("%s: %q, %v", n, text, err)
		}
	}
	if _, missing, err = gobuild.Locate(cache); err != nil || len(missing) > 0 {
		t.Errorf("missing afterwards: %v, %v", missing, err)
	}
	if n := builds(run); n != 4 {
		t.Errorf("%d builds, want one for each set", n)
	}
	last := got[len(got)-1]
	if last.Done != 6 || last.Total != 6 || last.Fraction != 1 || last.Left != 0 {
		t.Errorf("last progress: %+v", last)
	}
	if !slices.IsSortedFunc(got, func(a, b gobuild.Progress) int {
		return int((a.Fraction - b.Fraction) * 1e6)
	}) {
		t.Errorf("progress goes back: %+v", got)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "assets", "*", ".build-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}

	// Again: nothing to do, go is not even called.
	again := fakeGo(nil)
	if _, err := (&gobuild.Builder{Cache: cache, Runner: again, Free: plenty}).Build(t.Context()); err != nil || len(again.Calls()) != 0 {
		t.Errorf("second build: %d calls, %v", len(again.Calls()), err)
	}
}

func TestGroups(t *testing.T) {
	cache := t.TempDir()
	full, err := gobuild.Node.Estimate(cache)
	if err != nil || full < time.Minute {
		t.Errorf("a build from nothing takes %s, %v", full, err)
	}
	run := fakeGo(nil)
	var last gobuild.Progress
	a, err := (&gobuild.Builder{Group: gobuild.Node, Cache: cache, Runner: run, Free: plenty, Progress: func(p gobuild.Progress) { last = p }}).Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"coredns", "kube-proxy", "kube-scheduler", "kubeadm", "kubelet"} {
		if text, err := os.ReadFile(a.Path(n)); err != nil || !strings.HasPrefix(string(text), "program ") {
			t.Errorf("%s: %q, %v", n, text, err)
		}
	}
	if last.Done != 5 || last.Total != 5 || last.Fraction != 1 {
		t.Errorf("last progress: %+v", last)
	}
	if left, err := gobuild.Node.Estimate(cache); err != nil || left != 0 {
		t.Errorf("what is built takes %s, %v", left, err)
	}
	// Neither has anything of the other.
	if _, missing, err := gobuild.Locate(cache); err != nil || len(missing) != len(binaries) {
		t.Errorf("the embedded backend lacks %v, %v", missing, err)
	}
	run = fakeGo(nil)
	if _, err := (&gobuild.Builder{Cache: cache, Runner: run, Free: plenty}).Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range run.Calls() {
		if argv := strings.Join(c.Argv, " "); strings.Contains(argv, "kubelet") || strings.Contains(argv, "coredns") {
			t.Errorf("the embedded backend builds what it does not run: %s", argv)
		}
	}
}

func TestEnvironmentOfGo(t *testing.T) {
	run := fakeGo(nil)
	if _, err := (&gobuild.Builder{Cache: t.TempDir(), Runner: run, Free: plenty}).Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range run.Calls() {
		for _, want := range []string{"CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-buildvcs=false"} {
			if !slices.Contains(c.Env, want) {
				t.Errorf("%v without %s: %v", c.Argv, want, c.Env)
			}
		}
		for _, e := range c.Env {
			if strings.HasPrefix(e, "GOTOOLCHAIN=") {
				t.Errorf("%v overrides the user's %s", c.Argv, e)
			}
		}
	}
}

func TestResume(t *testing.T) {
	cache := t.TempDir()
	broken := fakeGo(func(argv []string) error {
		if strings.Contains(fmt.Sprint(argv), "k8s.io/kubernetes") {
			return errors.New("boom")
		}
		return nil
	})
	if _, err := (&gobuild.Builder{Cache: cache, Runner: broken, Free: plenty}).Build(t.Context()); err == nil || !strings.Contains(err.Error(), "kube-apiserver, kube-controller-manager, kubectl v1.34.4") {
		t.Fatalf("got %v, want the names of what was not built", err)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "assets", "*", ".build-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	// A killed build leaves its folder.
	dirs, err := filepath.Glob(filepath.Join(cache, "assets", "kubernetes-*"))
	if err != nil || len(dirs) != 1 {
		t.Fatal(dirs, err)
	}
	if err := os.MkdirAll(filepath.Join(dirs[0], ".build-1", "out"), 0o755); err != nil {
		t.Fatal(err)
	}
	run := fakeGo(nil)
	a, err := (&gobuild.Builder{Cache: cache, Runner: run, Free: plenty}).Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := builds(run); n != 1 {
		t.Errorf("%d builds, want that of kubernetes only", n)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "assets", "*", ".build-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}

	// One lost binary is one built binary.
	real, err := filepath.EvalSymlinks(a.Path("kubectl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(real); err != nil {
		t.Fatal(err)
	}
	if _, missing, err := gobuild.Locate(cache); err != nil || !slices.Equal(missing, []string{"kubectl"}) {
		t.Errorf("missing %v, %v", missing, err)
	}
	run = fakeGo(nil)
	if _, err := (&gobuild.Builder{Cache: cache, Runner: run, Free: plenty}).Build(t.Context()); err != nil || builds(run) != 1 {
		t.Errorf("%d builds, %v", builds(run), err)
	}
	if argv := fmt.Sprint(run.Calls()[1].Argv); strings.Contains(argv, "kube-apiserver") {
		t.Errorf("built more than kubectl: %s", argv)
	}
}

func TestLock(t *testing.T) {
	cache := t.TempDir()
	if err := os.Mkdir(filepath.Join(cache, "assets"), 0o755); err != nil {
		t.Fatal(err)
	}
	other := flock.New(filepath.Join(cache, "assets", ".lock"))
	if err := other.Lock(); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 100)
	run := fakeGo(nil)
	b := &gobuild.Builder{Cache: cache, Runner: run, Free: plenty, Progress: func(p gobuild.Progress) {
		select {
		case said <- p.Detail:
		default:
		}
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := b.Build(ctx); done <- err }()
	if s := <-said; !strings.Contains(s, "waiting for another build") {
		t.Errorf("said %q", s)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || len(run.Calls()) != 0 {
		t.Errorf("got %v after %d calls, want the cancellation and none", err, len(run.Calls()))
	}
	if err := other.Unlock(); err != nil {
		t.Fatal(err)
	}

	// Two at once build everything once.
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if _, err := (&gobuild.Builder{Cache: cache, Runner: run, Free: plenty}).Build(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := builds(run); n != 4 {
		t.Errorf("%d builds, want 4", n)
	}
}

func TestErrorsNameTheFix(t *testing.T) {
	for name, tc := range map[string]struct {
		run  command.Runner
		free func(string) (uint64, error)
		want []string
	}{
		"no go": {run: &command.Fake{Answer: func(_ context.Context, c command.Cmd) (command.Result, error) {
			return command.Result{}, &exec.Error{Name: "go", Err: exec.ErrNotFound}
		}}, want: []string{"go is not installed", "install Go"}},
		"old go": {run: &command.Fake{Answer: func(_ context.Context, c command.Cmd) (command.Result, error) {
			return command.Result{Stderr: []byte("go: go.mod requires go >= 1.25.5 (running go 1.22.1; GOTOOLCHAIN=local)")}, errors.New("exit status 1")
		}}, want: []string{"go is too old", "requires go >= 1.25.5", "GOTOOLCHAIN=auto"}},
		"no network": {run: fakeGo(func([]string) error {
			return errors.New("go: k8s.io/api@v0.34.4: Get \"https://proxy.golang.org/...\": dial tcp: lookup proxy.golang.org: no such host")
		}), want: []string{"module proxy cannot be reached", "proxy.golang.org", "GOPROXY", "what is built stays"}},
		"full disk": {run: fakeGo(func([]string) error { return errors.New("write x: no space left on device") }), want: []string{"the disk is full", "XDG_CACHE_HOME"}},
		"short disk": {run: fakeGo(nil), free: func(p string) (uint64, error) {
			if p == "/" {
				return 1 << 30, nil
			}
			return 100 << 30, nil
		}, want: []string{"1.0 GB are free at /, 4 GB are needed", "GOCACHE"}},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.free == nil {
				tc.free = plenty
			}
			_, err := (&gobuild.Builder{Cache: t.TempDir(), Runner: tc.run, Free: tc.free}).Build(t.Context())
			var known *gobuild.Error
			if !errors.As(err, &known) || known.Fix() == "" {
				t.Fatalf("got %v, want an error with a fix", err)
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not hold %q", err, w)
				}
			}
		})
	}
	_, err := (&gobuild.Builder{Cache: t.TempDir(), Runner: fakeGo(func([]string) error { return errors.New("undefined: x") }), Free: plenty}).Build(t.Context())
	var known *gobuild.Error
	if err == nil || errors.As(err, &known) || !strings.Contains(err.Error(), "undefined: x") {
		t.Errorf("a failure of unknown cause: %v", err)
	}
	if _, _, err := gobuild.Locate("relative"); err == nil {
		t.Error("a relative cache is accepted")
	}
}

func TestFree(t *testing.T) {
	n, err := gobuild.Free(filepath.Join(t.TempDir(), "not", "there", "yet"))
	if err != nil || n == 0 {
		t.Errorf("%d, %v", n, err)
	}
}

func TestKeys(t *testing.T) {
	key := func(change func(mod, sum *[]byte, args *[]string, platform *string)) string {
		return gobuild.KeyWith("etcd", change)
	}
	base := key(func(_, _ *[]byte, _ *[]string, _ *string) {})
	if again := key(func(_, _ *[]byte, _ *[]string, _ *string) {}); again != base {
		t.Errorf("key is %s, then %s", base, again)
	}
	for what, other := range map[string]string{
		"go.mod":   key(func(mod, _ *[]byte, _ *[]string, _ *string) { *mod = append(slices.Clone(*mod), '\n') }),
		"go.sum":   key(func(_, sum *[]byte, _ *[]string, _ *string) { *sum = append(slices.Clone(*sum), '\n') }),
		"flags":    key(func(_, _ *[]byte, args *[]string, _ *string) { *args = append(slices.Clone(*args), "-race") }),
		"platform": key(func(_, _ *[]byte, _ *[]string, p *string) { *p = "linux/arm64" }),
	} {
		if other == base {
			t.Errorf("another %s gives the same key", what)
		}
	}
}

// The version is said in several places; all must agree.
func TestPins(t *testing.T) {
	own, err := os.ReadFile(filepath.Join("..", "..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(own), "\ngo ")
	goVersion, _, _ := strings.Cut(rest, "\n")
	versions := gobuild.Versions()
	if len(versions) != 6 {
		t.Errorf("versions %v", versions)
	}
	for name, v := range versions {
		module, version, mod, args := gobuild.Pin(name)
		if version != v || !strings.Contains(mod, "\nrequire "+module+" "+v+"\n") {
			t.Errorf("%s.mod does not require %s %s", name, module, v)
		}
		// One toolchain for all, or a user with an older Go would fetch several.
		if !strings.Contains(mod, "\ntoolchain go"+goVersion+"\n") {
			t.Errorf("%s.mod does not name the toolchain of this project, go%s", name, goVersion)
		}
		flags := strings.Join(args, " ")
		for _, f := range strings.Fields(flags) {
			at, set, ok := strings.Cut(f, "=")
			if ok && strings.HasSuffix(strings.ToLower(at), "version") && strings.TrimPrefix(set, "v") != strings.TrimPrefix(v, "v") {
				t.Errorf("%s is built as %s, pinned at %s", name, f, v)
			}
		}
	}
}

func TestEstimate(t *testing.T) {
	const s = time.Second
	for _, tc := range []struct {
		what                                 string
		total, done, doneTook, cost, running time.Duration
		packages, expected                   int
		fraction                             float64
		left                                 time.Duration
	}{
		{what: "nothing known", total: 100 * s, cost: 20 * s, fraction: 0, left: 100 * s},
		{what: "by time", total: 100 * s, cost: 20 * s, running: 10 * s, fraction: 0.1, left: 90 * s},
		{what: "by packages", total: 100 * s, cost: 20 * s, running: 1 * s, packages: 30, expected: 40, fraction: 0.15, left: 85 * s},
		{what: "slow machine", total: 100 * s, done: 20 * s, doneTook: 40 * s, cost: 80 * s, fraction: 0.2, left: 160 * s},
		{what: "warm cache", total: 100 * s, done: 20 * s, doneTook: 2 * s, cost: 80 * s, fraction: 0.2, left: 8 * s},
		{what: "overdue", total: 100 * s, cost: 100 * s, running: 500 * s, fraction: 0.97, left: 3 * s},
		{what: "all done", total: 100 * s, done: 100 * s, doneTook: 100 * s, fraction: 1, left: 0},
	} {
		f, left := gobuild.Estimate(tc.total, tc.done, tc.doneTook, tc.cost, tc.running, tc.packages, tc.expected)
		if f < tc.fraction-1e-9 || f > tc.fraction+1e-9 || left.Round(time.Millisecond) != tc.left {
			t.Errorf("%s: %.3f, %s; want %.3f, %s", tc.what, f, left, tc.fraction, tc.left)
		}
	}
}

// TestRealBuild fills a real cache: TESTBED_BUILD_CACHE names it.
func TestRealBuild(t *testing.T) {
	cache := os.Getenv("TESTBED_BUILD_CACHE")
	if cache == "" {
		t.Skip("TESTBED_BUILD_CACHE is not set: nothing is really built")
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	a, err := gobuild.Build(t.Context(), cache, log, func(p gobuild.Progress) { _, _ = fmt.Fprintf(io.Writer(t.Output()), "%+v\n", p) })
	if err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{"etcd": {"--version"}, "kube-apiserver": {"--version"}, "kube-controller-manager": {"--version"},
		"kubectl": {"version", "--client"}, "telegraf": {"version"}, "influxd": {"version"}} {
		res, err := command.Local{}.Run(t.Context(), command.Cmd{Argv: append([]string{a.Path(name)}, args...)})
		if err != nil {
			t.Error(err)
		}
		for set, v := range gobuild.Versions() {
			if strings.HasPrefix(name, "kube") && set == "kubernetes" || name == set || name == "influxd" && set == "influxdb" {
				if !strings.Contains(string(res.Stdout), strings.TrimPrefix(v, "v")) {
					t.Errorf("%s says it is %s, want %s", name, res.Stdout, v)
				}
			}
		}
	}
	t.Log("assets in", a.Dir)
}
