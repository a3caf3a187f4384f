package kind

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	kindconfig "sigs.k8s.io/kind/pkg/apis/config/v1alpha4"

	"github.com/fluidos-edge/testbed/testbed/internal/backend"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
	"github.com/fluidos-edge/testbed/testbed/internal/kube"
	"github.com/fluidos-edge/testbed/testbed/internal/release"
)

// maxClusters is given by the ranges below.
const maxClusters = 32

// podRange and serviceRange are disjoint among the clusters of a testbed; package
// testbed has the doctor look for the whole of both, 10.160.0.0/11 and 10.96.0.0/11.
func podRange(n int) string     { return fmt.Sprintf("10.%d.0.0/16", 160+n) }
func serviceRange(n int) string { return fmt.Sprintf("10.%d.0.0/16", 96+n) }

// Labels of FLUIDOS on nodes.
const (
	roleWorker    = "node-role.fluidos.eu/worker"
	roleResources = "node-role.fluidos.eu/resources"
)

// cluster is one cluster of a testbed.
type cluster struct {
	b    *Backend
	name string
	n    int // among the clusters of the testbed

	client   client.Client
	releases *release.Client
}

func (c *cluster) provider() bool {
	for _, p := range c.b.rec.Topology.Providers {
		if p.Name == c.name {
			return true
		}
	}
	return false
}

// up makes the cluster and all that its Pods need: images, network, DNS.
func (c *cluster) up(ctx context.Context, step backend.Step) error {
	return step(ctx, "cluster "+c.name, func(say func(string)) error {
		if err := c.ensure(ctx, say); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, clusterDeadline)
		defer cancel()
		kubeconfig := c.b.Layout().AdminKubeconfig(c.name)
		var err error
		if c.client, err = kube.Client(kubeconfig); err != nil {
			return err
		}
		c.releases = &release.Client{Kubeconfig: kubeconfig, Log: c.b.cfg.Log}
		say("API server")
		if err := c.awaitServer(ctx); err != nil {
			return err
		}
		say("system Pods off edge nodes")
		if err := c.keepOffEdgeNodes(ctx); err != nil {
			return err
		}
		say("Pod network")
		if err := c.podNetwork(ctx, map[string]string{c.b.node(c.name): c.b.node(c.name)}); err != nil {
			return err
		}
		if err := c.load(ctx, c.b.node(c.name), c.b.images.of(c.provider(), c.b.kubeEdge()), say); err != nil {
			return err
		}
		return c.awaitSystem(ctx, say)
	})
}

// config is what kind is asked for.
func (c *cluster) config() *kindconfig.Cluster {
	l := c.b.Layout()
	node := kindconfig.Node{
		Role: kindconfig.ControlPlaneRole, Image: c.b.images.node.Ref,
		Labels: map[string]string{roleWorker: "true", roleResources: "true"},
		ExtraMounts: []kindconfig.Mount{
			{HostPath: l.Journals(c.name), ContainerPath: l.Journals(c.name)},
			{HostPath: c.b.podLogs(c.name, "control-plane"), ContainerPath: "/var/log/pods"},
		},
	}
	if c.provider() {
		node.ExtraMounts = append(node.ExtraMounts, kindconfig.Mount{HostPath: l.RunDir(c.name), ContainerPath: l.RunDir(c.name)})
	} else {
		node.ExtraPortMappings = []kindconfig.PortMapping{{
			ListenAddress: "127.0.0.1", HostPort: int32(c.b.rec.Ports[backend.Port(c.name, backend.InfluxDB, "")]), ContainerPort: portInfluxDB,
		}}
	}
	cfg := &kindconfig.Cluster{
		TypeMeta: kindconfig.TypeMeta{Kind: "Cluster", APIVersion: "kind.x-k8s.io/v1alpha4"},
		Name:     clusterName(c.b.rec.Name, c.name),
		Nodes:    []kindconfig.Node{node},
		Networking: kindconfig.Networking{
			DisableDefaultCNI: true, PodSubnet: podRange(c.n), ServiceSubnet: serviceRange(c.n),
			APIServerAddress: "127.0.0.1", APIServerPort: int32(c.b.rec.Ports[backend.Port(c.name, backend.APIServer, "")]),
		},
	}
	if restricted() {
		// containerd may not lower what it may not raise again.
		cfg.ContainerdConfigPatches = []string{restrictOOM}
	}
	return cfg
}

// restrictOOM is for both versions of containerd's configuration.
const restrictOOM = `[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
`

// ensure makes the cluster's container, or starts or keeps the one that is there.
func (c *cluster) ensure(ctx context.Context, say func(string)) error {
	l, node := c.b.Layout(), c.b.node(c.name)
	have, err := c.b.engine.Containers(ctx, "network="+c.b.network(), "name=^"+node+"$")
	if err != nil {
		return err
	}
	whole := false
	if _, err := os.Stat(l.AdminKubeconfig(c.name)); err == nil {
		whole = len(have) == 1
	}
	if whole {
		if have[0].State != "running" {
			say("starting the node, which is " + have[0].State)
			_, err = c.b.engine.Output(ctx, "start", have[0].ID)
		}
		return err
	}
	if len(have) > 0 {
		say("removing a node that was not finished")
		if err := c.b.engine.Remove(ctx, ids(have)...); err != nil {
			return err
		}
	}
	// What another cluster of this name left would be taken for this one's.
	if err := errors.Join(os.RemoveAll(l.PKI(c.name)), os.RemoveAll(c.b.podLogs(c.name, "control-plane"))); err != nil {
		return err
	}
	if err := os.MkdirAll(c.b.podLogs(c.name, "control-plane"), 0o700); err != nil {
		return err
	}
	say("creating the node")
	partial := l.Dir("kubeconfigs", "."+c.name+".new")
	if err := os.MkdirAll(filepath.Dir(partial), 0o700); err != nil {
		return err
	}
	if err := c.create(ctx, c.config(), partial, say); err != nil {
		return err
	}
	if err := os.Chmod(partial, 0o600); err != nil {
		return err
	}
	return os.Rename(partial, l.AdminKubeconfig(c.name))
}

// awaitServer waits until the API server answers.
func (c *cluster) awaitServer(ctx context.Context) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, 90*time.Second, true, func(ctx context.Context) (bool, error) {
		last = c.client.Get(ctx, client.ObjectKey{Name: "kube-system"}, &corev1.Namespace{})
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("API server of %s does not answer: %w", c.name, errors.Join(last, context.Cause(ctx)))
	}
	return nil
}

// offEdge is what a Pod template gets that must not run on an edge node: there
// is no kube-proxy there, and a hollow node runs nothing.
const offEdge = `{"spec":{"template":{"spec":{"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":` +
	`{"nodeSelectorTerms":[{"matchExpressions":[{"key":"node-role.kubernetes.io/edge","operator":"DoesNotExist"}]}]}}}}}}}`

func (c *cluster) keepOffEdgeNodes(ctx context.Context) error {
	if !c.provider() {
		return nil
	}
	patch := client.RawPatch(types.StrategicMergePatchType, []byte(offEdge))
	for _, o := range []client.Object{&appsv1.DaemonSet{}, &appsv1.Deployment{}} {
		o.SetNamespace("kube-system")
		o.SetName("kube-proxy")
		if _, ok := o.(*appsv1.Deployment); ok {
			o.SetName("coredns")
		}
		if err := c.client.Patch(ctx, o, patch); err != nil {
			return fmt.Errorf("keep %s off edge nodes: %w", o.GetName(), err)
		}
	}
	return nil
}

// awaitSystem waits until Services and DNS work: Pods that ask the API server
// before kube-proxy leads them there would end and be started again.
func (c *cluster) awaitSystem(ctx context.Context, say func(string)) error {
	return c.await(ctx, say, func(ctx context.Context) (string, error) {
		var nodes corev1.NodeList
		var proxy appsv1.DaemonSet
		var dns appsv1.Deployment
		if err := errors.Join(c.client.List(ctx, &nodes),
			c.client.Get(ctx, client.ObjectKey{Namespace: "kube-system", Name: "kube-proxy"}, &proxy),
			c.client.Get(ctx, client.ObjectKey{Namespace: "kube-system", Name: "coredns"}, &dns)); err != nil {
			return "", err
		}
		var missing []string
		for _, n := range nodes.Items {
			if n.Name == c.b.node(c.name) && !nodeReady(n) {
				missing = append(missing, "node "+n.Name)
			}
		}
		s := proxy.Status
		if s.ObservedGeneration < proxy.Generation || s.UpdatedNumberScheduled < s.DesiredNumberScheduled || s.NumberReady < s.DesiredNumberScheduled || s.DesiredNumberScheduled == 0 {
			missing = append(missing, "kube-proxy")
		}
		if dns.Status.ObservedGeneration < dns.Generation || dns.Status.AvailableReplicas == 0 || dns.Status.UpdatedReplicas == 0 {
			missing = append(missing, "coredns")
		}
		return strings.Join(missing, ", "), nil
	})
}

// await polls until nothing is missing, and says what is.
func (c *cluster) await(ctx context.Context, say func(string), look func(context.Context) (missing string, err error)) error {
	var missing string
	err := wait.PollUntilContextCancel(ctx, 250*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		now, err := look(ctx)
		if err != nil {
			now = err.Error() // it may be about to answer
		}
		if missing = now; missing != "" {
			say("waiting for " + missing)
		}
		return missing == "", nil
	})
	if err != nil {
		return fmt.Errorf("%s: not ready: %s: %w", c.name, missing, context.Cause(ctx))
	}
	return nil
}

func nodeReady(n corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// load takes images into the containerd of a node, unless they are there.
func (c *cluster) load(ctx context.Context, node string, images []loadable, say func(string)) error {
	have, err := c.b.engine.Exec(ctx, node, "ctr", "--namespace=k8s.io", "images", "list", "--quiet")
	if err != nil {
		return fmt.Errorf("images of node %s: %w", node, err)
	}
	there := strings.Fields(have)
	for _, i := range images {
		if slices.Contains(there, fullRef(i.found.Ref)) {
			continue
		}
		say("image " + i.found.Ref)
		if err := c.b.loadOne(ctx, node, i); err != nil {
			return err
		}
	}
	return nil
}

func (b *Backend) loadOne(ctx context.Context, node string, i loadable) error {
	archive, err := i.archive(ctx)
	if err != nil {
		return err
	}
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := b.engine.Pipe(ctx, f, node, "ctr", "--namespace=k8s.io", "images", "import", "--digests", "-"); err != nil {
		return fmt.Errorf("load image %s into node %s: %w", i.found.Ref, node, err)
	}
	return nil
}

// containerOf gives the container of this testbed with a name.
func (b *Backend) containerOf(ctx context.Context, name string) (engine.Container, bool, error) {
	all, err := b.engine.Containers(ctx, "network="+b.network(), "name=^"+name+"$")
	if err != nil || len(all) == 0 {
		return engine.Container{}, false, err
	}
	return all[0], true, nil
}
