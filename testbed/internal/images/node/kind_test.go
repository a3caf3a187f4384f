package node_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	kindconfig "sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	kindcluster "sigs.k8s.io/kind/pkg/cluster"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
	"github.com/fluidos-edge/testbed/testbed/internal/images/node"
)

// image is made for real: TESTBED_KIND=1 says that it may be, and TESTBED_BUILD_CACHE
// where the parts are kept.
func image(t *testing.T) (*engine.Engine, node.Image) {
	t.Helper()
	cache := os.Getenv("TESTBED_BUILD_CACHE")
	if os.Getenv("TESTBED_KIND") == "" || cache == "" {
		t.Skip("TESTBED_KIND and TESTBED_BUILD_CACHE are not set: nothing is really built")
	}
	e, err := engine.Find(t.Context(), command.Local{})
	if err != nil {
		t.Fatal(err)
	}
	return e, node.Image{Cache: cache, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

// built is the image in the engine; TESTBED_NODE_IMAGE names another.
func built(t *testing.T) (*engine.Engine, string) {
	t.Helper()
	e, i := image(t)
	if other := os.Getenv("TESTBED_NODE_IMAGE"); other != "" {
		return e, other
	}
	ref, err := i.Ref()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := e.Image(t.Context(), ref); err != nil || ok {
		return e, ref
	}
	began := time.Now()
	if err := i.Make(t.Context(), e, func(s string) { t.Log(time.Since(began).Round(time.Second), s) }); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, e, i.Cache)
	return e, ref
}

// nothingLeft holds after each build.
func nothingLeft(t *testing.T, e *engine.Engine, cache string) {
	t.Helper()
	mine := []string{"--quiet", "--filter", "label=testbed.fluidos.eu/build=node", "--filter", "label=testbed.fluidos.eu/build.cache=" + cache}
	for _, args := range [][]string{{"ps", "--all"}, {"images"}} {
		if left, err := e.Output(t.Context(), append(args, mine...)...); err != nil || left != "" {
			t.Errorf("%v: %s is left, %v", args, left, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "node", ".build-*")); len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
}

func TestCancelledBuildLeavesNothing(t *testing.T) {
	e, i := image(t)
	built(t) // the parts
	for _, at := range []string{"root of the node", "files of the node", "images into the node"} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err := i.Make(ctx, e, func(s string) {
			if strings.Contains(s, at) {
				time.AfterFunc(time.Second, cancel) // while its command runs
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled at %s: %v", at, err)
		}
		nothingLeft(t, e, i.Cache)
	}
}

// until waits for a command in a container to succeed and say what it should.
func until(t *testing.T, e *engine.Engine, container string, says func(string) bool, argv ...string) {
	t.Helper()
	var out string
	var last error
	began := time.Now()
	if err := wait.PollUntilContextTimeout(t.Context(), 500*time.Millisecond, 4*time.Minute, true, func(ctx context.Context) (bool, error) {
		out, last = e.Exec(ctx, container, argv...)
		return last == nil && says(out), nil
	}); err != nil {
		t.Fatalf("%v in the node: %v; last it said %q, %v", argv, err, out, last)
	}
	t.Log("after", time.Since(began).Round(100*time.Millisecond), strings.Join(argv, " "))
}

func anything(string) bool { return true }

// A node boots, and has in its containerd what kubeadm asks for.
func TestBoot(t *testing.T) {
	e, ref := built(t)
	id, err := e.Output(t.Context(), "run", "--detach", "--privileged", "--cgroupns=private", "--security-opt", "seccomp=unconfined",
		"--tmpfs", "/tmp", "--tmpfs", "/run", "--volume", "/var", "--hostname", "boot", ref)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Remove(context.WithoutCancel(t.Context()), id); err != nil {
			t.Error(err)
		}
	}()
	until(t, e, id, anything, "ctr", "version")
	until(t, e, id, anything, "systemctl", "is-active", "multi-user.target")
	if out, err := e.Exec(t.Context(), id, "systemctl", "list-units", "--failed", "--no-legend"); err != nil || out != "" {
		t.Errorf("units that failed: %s, %v", out, err)
	}
	out, err := e.Exec(t.Context(), id, "ctr", "--namespace=k8s.io", "images", "list", "--quiet")
	if err != nil {
		t.Fatal(err)
	}
	want, err := e.Exec(t.Context(), id, "kubeadm", "config", "images", "list", "--kubernetes-version", kubernetes(t, e, id))
	if err != nil {
		t.Fatal(err)
	}
	have := strings.Fields(out)
	for _, w := range strings.Fields(want) {
		found := false
		for _, h := range have {
			found = found || h == w
		}
		if !found {
			t.Errorf("%s is not in the node, but %v", w, have)
		}
	}
	for _, file := range []string{"/opt/cni/bin/ptp", "/opt/cni/bin/host-local", "/opt/cni/bin/portmap", "/opt/cni/bin/loopback", "/etc/containerd/cri-base.json"} {
		if _, err := e.Exec(t.Context(), id, "test", "-s", file); err != nil {
			t.Error(err)
		}
	}
}

func kubernetes(t *testing.T, e *engine.Engine, id string) string {
	t.Helper()
	v, err := e.Exec(t.Context(), id, "cat", "/kind/version")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// kind makes a cluster of it, whose Pods have a network, Services and DNS.
func TestCluster(t *testing.T) {
	e, ref := built(t)
	name := fmt.Sprintf("node-test-%d", os.Getpid())
	t.Setenv("KIND_EXPERIMENTAL_DOCKER_NETWORK", name)
	p := kindcluster.NewProvider(kindcluster.ProviderWithDocker())
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	defer func() {
		if err := p.Delete(name, kubeconfig); err != nil {
			t.Error(err)
		}
		if err := e.RemoveNetwork(context.WithoutCancel(t.Context()), name); err != nil {
			t.Error(err)
		}
	}()
	began := time.Now()
	err := p.Create(name, kindcluster.CreateWithKubeconfigPath(kubeconfig), kindcluster.CreateWithRetain(true),
		kindcluster.CreateWithV1Alpha4Config(&kindconfig.Cluster{
			Nodes:                   []kindconfig.Node{{Role: kindconfig.ControlPlaneRole, Image: ref}},
			Networking:              kindconfig.Networking{DisableDefaultCNI: true, PodSubnet: "10.200.0.0/16", ServiceSubnet: "10.201.0.0/16"},
			ContainerdConfigPatches: []string{"[plugins.\"io.containerd.grpc.v1.cri\"]\n  restrict_oom_score_adj = true\n"},
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Log("kind create cluster took", time.Since(began).Round(100*time.Millisecond))
	id := name + "-control-plane"
	kubectl := func(args ...string) []string {
		return append([]string{"kubectl", "--kubeconfig=/etc/kubernetes/admin.conf"}, args...)
	}
	const podRange = "10.200.0.0/24"
	until(t, e, id, func(s string) bool { return s == podRange }, kubectl("get", "nodes", "--output", "jsonpath={.items[*].spec.podCIDR}")...)
	if err := e.WriteFile(t.Context(), id, "/etc/cni/net.d/10-test.conflist", "0644", []byte(`{"cniVersion":"0.4.0","name":"test","plugins":[
{"type":"ptp","ipMasq":true,"ipam":{"type":"host-local","dataDir":"/run/cni-ipam-state","routes":[{"dst":"0.0.0.0/0"}],"ranges":[[{"subnet":"`+podRange+`"}]]}},
{"type":"portmap","capabilities":{"portMappings":true}}]}`)); err != nil {
		t.Fatal(err)
	}
	until(t, e, id, anything, kubectl("wait", "--for=condition=Ready", "--timeout=5s", "nodes", "--all")...)
	t.Log("Ready after", time.Since(began).Round(100*time.Millisecond))
	until(t, e, id, anything, kubectl("--namespace=kube-system", "rollout", "status", "daemonset/kube-proxy", "--timeout=5s")...)
	// CoreDNS is ready when it has reached the API server by its Service.
	until(t, e, id, anything, kubectl("--namespace=kube-system", "rollout", "status", "deployment/coredns", "--timeout=5s")...)
	t.Log("CoreDNS and kube-proxy after", time.Since(began).Round(100*time.Millisecond))
	out, err := e.Exec(t.Context(), id, kubectl("get", "pods", "--all-namespaces", "--no-headers")...)
	if err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + out)
	if out, err := e.Exec(t.Context(), id, kubectl("get", "storageclass", "standard", "--output", "jsonpath={.provisioner}")...); err != nil || out != "kubernetes.io/no-provisioner" {
		t.Errorf("storage class: %q, %v", out, err)
	}
	for _, dir := range []string{"/var/lib/containerd/io.containerd.content.v1.content", "/var/lib/containerd"} {
		if out, err := e.Exec(t.Context(), id, "du", "-sm", dir); err == nil {
			t.Log(out)
		}
	}
}
