package charts_test

import (
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/fluidos-edge/testbed/charts"
)

var update = flag.Bool("update", false, "rewrite golden files")

// TestColumns shows what a person sees: kubectl's tables of our definitions,
// as a real API server renders them.
func TestColumns(t *testing.T) {
	assets := os.Getenv("TESTBED_ASSETS")
	if assets == "" {
		t.Skip("TESTBED_ASSETS names no folder with etcd, kube-apiserver and kubectl; `make test` sets it")
	}
	env := &envtest.Environment{BinaryAssetsDirectory: assets, CRDDirectoryPaths: []string{"crds"}, ErrorIfCRDPathMissing: true}
	if _, err := env.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, env.KubeConfig, 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), filepath.Join(assets, "kubectl"), append([]string{"--kubeconfig", kubeconfig}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	kubectl("create", "namespace", "fluidos")
	kubectl("create", "namespace", "consumer-1")
	kubectl("apply", "--server-side", "-f", "testdata/objects.yaml")
	kubectl("apply", "--server-side", "--subresource=status", "-f", "testdata/datapath-status.yaml")

	got := kubectl("get", "flavors,datapaths,devices,devicemodels,rules,ruleendpoints", "-A") + "\n" + kubectl("get", "datapaths", "-A", "-o", "wide")
	got = regexp.MustCompile(`(?m)[0-9]+s *$`).ReplaceAllString(got, "AGE")
	golden := filepath.Join("testdata", "columns.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("tables differ (-want +got); run with -update if that is meant:\n%s", d)
	}
}

// TestEveryComponentHasRights holds what generation gives: a role for each
// component that speaks to a cluster, and never a wildcard.
func TestEveryComponentHasRights(t *testing.T) {
	for _, component := range []string{"erm", "hollowedge", "mapper", "relay", "router"} {
		b, err := fs.ReadFile(charts.FS, "rbac/"+component+"/role.yaml")
		if err != nil {
			t.Error(err)
			continue
		}
		if strings.Contains(string(b), `'*'`) {
			t.Errorf("%s is given a wildcard", component)
		}
		if !strings.Contains(string(b), "name: "+component+"\n") {
			t.Errorf("the role of %s has another name", component)
		}
	}
}
