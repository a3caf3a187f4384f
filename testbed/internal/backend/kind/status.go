package kind

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fluidos-edge/testbed/testbed/internal/backend"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
	"github.com/fluidos-edge/testbed/testbed/internal/kube"
)

// statusDeadline bounds the look into one cluster.
const statusDeadline = 10 * time.Second

// Status implements backend.Backend: a component is a container of a Pod, named
// as its container, or a node, with all the memory that it uses.
func (b *Backend) Status(ctx context.Context) (backend.Status, error) {
	s := backend.Status{Ready: map[string]bool{}}
	e, err := engine.Find(ctx, b.cfg.Runner)
	var unavailable *engine.Unavailable
	if errors.As(err, &unavailable) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	nodes, err := b.containers(ctx, e)
	if err != nil || len(nodes) == 0 {
		return s, err
	}
	s.Running = true
	memory, err := e.Memory(ctx, running(nodes)...)
	if err != nil {
		return s, err
	}
	containers := map[string]engine.Container{}
	for _, n := range nodes {
		containers[n.Name] = n
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	for _, name := range backend.Clusters(b.rec.Topology) {
		g.Go(func() error {
			ready, components := b.statusOf(ctx, name, containers, memory)
			mu.Lock()
			defer mu.Unlock()
			s.Ready[name] = ready
			s.Components = append(s.Components, components...)
			return nil
		})
	}
	return s, g.Wait()
}

func running(all []engine.Container) []string {
	var out []string
	for _, c := range all {
		if c.State == "running" {
			out = append(out, c.ID)
		}
	}
	return out
}

// statusOf looks into one cluster. What cannot be asked is not ready, with the reason.
func (b *Backend) statusOf(ctx context.Context, cluster string, containers map[string]engine.Container, memory map[string]int64) (bool, []backend.Component) {
	ctx, cancel := context.WithTimeout(ctx, statusDeadline)
	defer cancel()
	var nodes corev1.NodeList
	var pods corev1.PodList
	c, err := kube.Client(b.Layout().AdminKubeconfig(cluster))
	if err == nil {
		err = errors.Join(c.List(ctx, &nodes), c.List(ctx, &pods, client.InNamespace("")))
	}
	ready := map[string]string{} // "" if it is, by node
	for _, n := range nodes.Items {
		ready[n.Name] = "not Ready"
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status != corev1.ConditionTrue {
				ready[n.Name] = cond.Reason + ": " + cond.Message
			}
		}
		if nodeReady(n) {
			ready[n.Name] = ""
		}
	}
	var out []backend.Component
	node := func(short, name, container string) {
		have, ok := containers[container]
		reason, known := ready[name]
		switch {
		case !ok:
			reason = "container " + container + " is gone"
		case have.State != "running":
			reason = "container " + container + " is " + have.State
		case err != nil:
			reason = err.Error()
		case !known:
			reason = "not registered"
		}
		out = append(out, backend.Component{Name: cluster + "/node/" + short, Ready: reason == "", RSSBytes: memory[have.ID],
			Reason: reason, Restarts: have.Restarts, StartedAt: have.Started, Log: b.podLogs(cluster, short)})
	}
	node("control-plane", b.node(cluster), b.node(cluster))
	edges := map[string]bool{}
	for _, p := range b.rec.Topology.Providers {
		for _, n := range p.EdgeNodes {
			if p.Name == cluster && b.kubeEdge() {
				edges[n.Name] = true
				node(n.Name, n.Name, edgeContainer(b.rec.Name, cluster, n.Name))
			}
		}
	}
	address := containers[b.node(cluster)].IPs[b.network()]
	for _, p := range latest(pods.Items) {
		for _, s := range p.Status.ContainerStatuses {
			out = append(out, b.component(cluster, address, p, s))
		}
		if len(p.Status.ContainerStatuses) == 0 {
			out = append(out, backend.Component{Name: cluster + "/" + cmp.Or(p.Labels["app.kubernetes.io/name"], p.Name), Reason: pending(p)})
		}
	}
	up := slices.ContainsFunc(out, func(c backend.Component) bool { return c.Name == cluster+"/node/control-plane" && c.Ready })
	return up && err == nil, out
}

// latest leaves out Pods that are going or have ended.
func latest(pods []corev1.Pod) []corev1.Pod {
	return slices.DeleteFunc(slices.Clone(pods), func(p corev1.Pod) bool {
		return p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
}

func pending(p corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Status == corev1.ConditionFalse && c.Message != "" {
			return c.Reason + ": " + c.Message
		}
	}
	return "Pod is " + string(p.Status.Phase)
}

func (b *Backend) component(cluster, address string, p corev1.Pod, s corev1.ContainerStatus) backend.Component {
	c := backend.Component{Name: cluster + "/" + s.Name, Ready: s.Ready, Restarts: int(s.RestartCount)}
	where := "control-plane"
	if node, ok := strings.CutPrefix(p.Labels["app.kubernetes.io/instance"], s.Name+"-"); ok {
		c.Name += "/" + node
		if p.Spec.NodeName == node {
			where = node
		}
	} else if s.Name == "coredns" {
		c.Name += "/" + p.Name[max(0, len(p.Name)-5):] // there are two
	}
	c.Log = filepath.Join(b.podLogs(cluster, where), p.Namespace+"_"+p.Name+"_"+logID(p), s.Name, fmt.Sprintf("%d.log", s.RestartCount))
	switch state := s.State; {
	case state.Waiting != nil:
		c.Reason = state.Waiting.Reason + " " + state.Waiting.Message
	case state.Terminated != nil:
		c.Reason = ended(state.Terminated)
	case !s.Ready:
		c.Reason = "not ready"
	}
	if s.State.Running != nil {
		c.StartedAt = s.State.Running.StartedAt.Time
	}
	if last := cmp.Or(s.State.Terminated, s.LastTerminationState.Terminated); last != nil {
		c.LastEnd = ended(last)
	}
	l := b.Layout()
	switch s.Name {
	case backend.InfluxDB:
		c.URL, _, _ = l.InfluxDB(cluster)
	case backend.Telegraf:
		for _, consumer := range b.rec.Topology.Consumers {
			if consumer.Name == cluster {
				c.URL = l.Endpoint(cluster, backend.Endpoints(consumer)[0])
			}
		}
	case backend.Etcd:
		c.URL = (&url.URL{Scheme: "https", Host: address + ":2379"}).String()
		c.Args = []string{"--trusted-ca-file=" + filepath.Join(l.EtcdPKI(cluster), etcdCA)}
	case backend.APIServer:
		c.URL = l.Server(cluster)
		c.Args = []string{"--etcd-certfile=" + filepath.Join(l.EtcdPKI(cluster), etcdCert), "--etcd-keyfile=" + filepath.Join(l.EtcdPKI(cluster), etcdKey)}
	case backend.Boards:
		c.Args = []string{"--control=" + l.BoardsSocket(cluster)}
	}
	return c
}

// ended says how a container ended, in the words of package process.
func ended(t *corev1.ContainerStateTerminated) string {
	how := fmt.Sprintf("ended with exit status %d", t.ExitCode)
	if t.Signal != 0 {
		how = fmt.Sprintf("ended with signal %d", t.Signal)
	}
	if t.Reason != "" {
		how += " (" + t.Reason + ")"
	}
	if !t.StartedAt.IsZero() && !t.FinishedAt.IsZero() {
		how += " after " + t.FinishedAt.Sub(t.StartedAt.Time).String()
	}
	if !t.FinishedAt.IsZero() {
		how += " at " + t.FinishedAt.UTC().Format(time.RFC3339)
	}
	return how
}

// logID is how the kubelet names the Pod's folder: a static Pod by the hash of its manifest.
func logID(p corev1.Pod) string {
	return cmp.Or(p.Annotations["kubernetes.io/config.mirror"], p.Annotations["kubernetes.io/config.hash"], string(p.UID))
}
