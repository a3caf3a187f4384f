package node_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
	"github.com/fluidos-edge/testbed/testbed/internal/images/node"
)

func TestReferenceChangesWithEveryPart(t *testing.T) {
	seen := map[string]string{}
	for name, ref := range map[string]string{
		"as it is":       node.Reference("a", "b", []string{"p", "q"}),
		"other programs": node.Reference("x", "b", []string{"p", "q"}),
		"other kubelet":  node.Reference("a", "x", []string{"p", "q"}),
		"other packages": node.Reference("a", "b", []string{"p", "q", "r"}),
	} {
		if !strings.HasPrefix(ref, "testbed/node:v1.") {
			t.Errorf("%s: %s does not name the version of Kubernetes", name, ref)
		}
		if other, taken := seen[ref]; taken {
			t.Errorf("%s and %s are both %s", name, other, ref)
		}
		seen[ref] = name
	}
}

func TestKindVersionIsThatOfTheLibrary(t *testing.T) {
	mod, err := os.ReadFile("../../../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(mod), "sigs.k8s.io/kind "+node.KindVersion+"\n") {
		t.Errorf("go.mod does not require kind %s: move both together", node.KindVersion)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	for path, text := range map[string]string{
		"usr/local/bin/entrypoint":           "#!/bin/bash\n",
		"kind/bin/mount-product-files.sh":    "#!/bin/bash\n",
		"etc/containerd/config.toml":         "[plugins]\n  sandbox_image = \"registry.k8s.io/pause:3.10\"\n  restrict_oom_score_adj = false\n",
		"etc/systemd/system/kubelet.service": "[Unit]\n",
		"etc/sysctl.d/10-network-magic.conf": "x=1\n",
	} {
		file := filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o444)); err != nil {
			t.Fatal(err)
		}
	}
	content, modes, err := node.Files(dir, "registry.k8s.io/pause:3.10.1")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]uint32{"usr/local/bin/entrypoint": 0o755, "kind/bin/mount-product-files.sh": 0o755, "etc/systemd/system/kubelet.service": 0o644, "usr/bin/kubelet": 0o755}
	for path, mode := range want {
		if modes[path] != mode {
			t.Errorf("%s has mode %o, want %o", path, modes[path], mode)
		}
	}
	if diff := cmp.Diff("[plugins]\n  sandbox_image = \"registry.k8s.io/pause:3.10.1\"\n  restrict_oom_score_adj = false\n", content["etc/containerd/config.toml"]); diff != "" {
		t.Error(diff)
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/containerd/other"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if _, _, err := node.Files(dir, "no-pause"); err == nil || !strings.Contains(err.Error(), "pause image") {
		t.Errorf("got %v, want an error for a kubeadm without a pause image", err)
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

func TestWithoutMmdebstrap(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := node.Image{Cache: t.TempDir()}.Make(t.Context(), &engine.Engine{Runner: &command.Fake{}}, func(string) {})
	var fix interface{ Fix() string }
	if !errors.As(err, &fix) || !strings.Contains(fix.Fix(), "apt-get install mmdebstrap") {
		t.Errorf("got %v, want the remedy", err)
	}
}
