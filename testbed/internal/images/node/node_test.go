package node_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gofrs/flock"
	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
	"github.com/fluidos-edge/testbed/testbed/internal/images/node"
)

var update = flag.Bool("update", false, "write testdata")

func TestReferenceChangesWithEveryPart(t *testing.T) {
	seen := map[string]string{}
	for name, ref := range node.References() {
		if !strings.HasPrefix(ref, "testbed/node:v1.") {
			t.Errorf("%s: %s does not name the version of Kubernetes", name, ref)
		}
		if other, taken := seen[ref]; taken {
			t.Errorf("%s and %s are both %s", name, other, ref)
		}
		seen[ref] = name
	}
	a, err := node.Image{Cache: "/a"}.Ref() // the cache is no part
	if err != nil {
		t.Fatal(err)
	}
	if b, err := (node.Image{Cache: "/b"}).Ref(); err != nil || a != b {
		t.Errorf("got %s, %v in another cache, want %s", b, err, a)
	}
	if _, err := (node.Image{Cache: "relative"}).Ref(); err == nil {
		t.Error("a relative cache is accepted")
	}
}

func TestRootChangesWithItsPackages(t *testing.T) {
	base := node.RootOf([]string{"a", "b"}, []string{"/c"})
	for _, other := range []string{node.RootOf([]string{"a"}, []string{"/c"}), node.RootOf([]string{"a", "b"}, nil), node.RootOf([]string{"a"}, []string{"b", "/c"})} {
		if other == base {
			t.Errorf("two roots are in %s", base)
		}
	}
}

func TestEstimate(t *testing.T) {
	if got := (node.Image{Cache: t.TempDir()}).Estimate(); got < node.Estimate*3/4 || got > node.Estimate*5/4 {
		t.Errorf("a build from nothing takes %s, and about %s", got, node.Estimate)
	}
}

func TestKindVersionIsThatOfTheLibrary(t *testing.T) {
	for file, line := range map[string]string{
		"go.mod": "sigs.k8s.io/kind " + node.KindVersion + "\n",
		"go.sum": "sigs.k8s.io/kind " + node.KindVersion + " " + node.KindSum + "\n",
	} {
		text, err := os.ReadFile("../../../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), line) {
			t.Errorf("%s has no %q: move both together", file, line)
		}
	}
}

// The golden file is a reminder: what changes it needs another recipe.
func TestLayout(t *testing.T) {
	res, err := command.Local{}.Run(t.Context(), command.Cmd{Argv: []string{"go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kind"}})
	kind := strings.TrimSpace(string(res.Stdout))
	if err != nil || kind == "" {
		t.Skip("kind's module is not here:", err)
	}
	lines, _, err := node.Files(filepath.Join(kind, "images", "base", "files"), "registry.k8s.io/etcd:3.6.5-0", "registry.k8s.io/pause:3.10.1")
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(lines, "\n") + "\n"
	const golden = "testdata/layout.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("change the recipe, and run with -update (-want +got):\n%s", diff)
	}
}

func TestSandboxImage(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "etc", "containerd", "config.toml")
	write := func(text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("[plugins]\n  sandbox_image = \"registry.k8s.io/pause:3.10\"\n  restrict_oom_score_adj = false\n")
	_, content, err := node.Files(dir, "registry.k8s.io/etcd:1", "registry.k8s.io/pause:3.10.1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("[plugins]\n  sandbox_image = \"registry.k8s.io/pause:3.10.1\"\n  restrict_oom_score_adj = false\n", content["etc/containerd/config.toml"]); diff != "" {
		t.Error(diff)
	}
	if _, _, err := node.Files(dir, "registry.k8s.io/etcd:1"); err == nil || !strings.Contains(err.Error(), "pause image") {
		t.Errorf("got %v, want an error for a kubeadm without a pause image", err)
	}
	write("[plugins]\n")
	if _, _, err := node.Files(dir, "registry.k8s.io/pause:3.10.1"); err == nil || !strings.Contains(err.Error(), "names no sandbox image") {
		t.Errorf("got %v, want an error for a configuration without a sandbox image", err)
	}
}

func TestWriteTar(t *testing.T) {
	var out bytes.Buffer
	if err := node.WriteTar(&out, map[string]string{"usr/bin/a": "program"}); err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(&out)
	h, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil || string(text) != "program" || h.Name != "usr/bin/a" || h.Mode != 0o755 || h.Uid != 0 {
		t.Errorf("%+v %q %v", h, text, err)
	}
}

func TestRuntimeSpec(t *testing.T) {
	got, err := node.RuntimeSpec([]byte(`{"ociVersion":"1","process":{"args":["sh"],"rlimits":[{"type":"RLIMIT_NOFILE"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	var spec map[string]any
	if err := json.Unmarshal(got, &spec); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"ociVersion": "1", "process": map[string]any{"args": []any{"sh"}},
		"hooks": map[string]any{"createContainer": []any{map[string]any{"path": "/kind/bin/mount-product-files.sh"}}},
	}
	if diff := cmp.Diff(want, spec); diff != "" {
		t.Error(diff)
	}
}

func TestMissingTools(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	for _, tc := range []struct {
		there, fix string
		missing    []string
	}{
		{"", "apt-get install mmdebstrap`, or install Go", []string{"mmdebstrap", "go"}},
		{"go", "apt-get install mmdebstrap", []string{"mmdebstrap"}},
	} {
		if tc.there != "" {
			if err := os.WriteFile(filepath.Join(bin, tc.there), []byte("#!/bin/false\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		i := node.Image{Cache: t.TempDir()}
		if diff := cmp.Diff(tc.missing, i.Missing()); diff != "" {
			t.Error(diff)
		}
		run := &command.Fake{}
		err := i.Make(t.Context(), &engine.Engine{Runner: run}, func(string) {})
		var fix interface{ Fix() string }
		if !errors.As(err, &fix) || !strings.Contains(fix.Fix(), tc.fix) || !strings.Contains(err.Error(), strings.Join(tc.missing, ", ")) {
			t.Errorf("got %v, want the remedy %q", err, tc.fix)
		}
		if len(run.Calls()) > 0 {
			t.Errorf("the engine was asked: %v", run.Calls())
		}
	}
}

func TestOneBuildAtATime(t *testing.T) {
	bin, cache := t.TempDir(), t.TempDir()
	for _, p := range []string{"mmdebstrap", "go"} {
		if err := os.WriteFile(filepath.Join(bin, p), []byte("#!/bin/false\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	if err := os.Mkdir(filepath.Join(cache, "node"), 0o755); err != nil {
		t.Fatal(err)
	}
	other := flock.New(filepath.Join(cache, "node", ".lock"))
	if err := other.Lock(); err != nil {
		t.Fatal(err)
	}
	defer other.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	run := &command.Fake{}
	err := node.Image{Cache: cache}.Make(ctx, &engine.Engine{Runner: run}, func(s string) {
		if !strings.Contains(s, "waiting for another build") {
			t.Errorf("said %q", s)
		}
		cancel()
	})
	if !errors.Is(err, context.Canceled) || len(run.Calls()) > 0 {
		t.Errorf("got %v after %d commands", err, len(run.Calls()))
	}
}

// What a killed build left is found by its labels, and only that of this cache.
func TestClean(t *testing.T) {
	var removed []string
	run := &command.Fake{Answer: func(_ context.Context, c command.Cmd) (command.Result, error) {
		line := strings.Join(c.Argv[1:], " ")
		labelled := strings.Contains(line, "label=testbed.fluidos.eu/build=node") && strings.Contains(line, "label=testbed.fluidos.eu/build.cache=/my cache")
		switch {
		case strings.HasPrefix(line, "ps ") && labelled:
			return command.Result{Stdout: []byte("c1\n")}, nil
		case strings.HasPrefix(line, "container inspect"):
			return command.Result{Stdout: []byte(`[{"ID":"c1","Name":"/x"}]`)}, nil
		case strings.HasPrefix(line, "images ") && labelled:
			return command.Result{Stdout: []byte("sha256:1\n")}, nil
		}
		removed = append(removed, line)
		return command.Result{}, nil
	}}
	if err := node.Clean(t.Context(), &engine.Engine{Runner: run}, "/my cache"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"rm --force --volumes c1", "image rm sha256:1"}, removed); diff != "" {
		t.Error(diff)
	}
}
