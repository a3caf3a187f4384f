// Package kind runs a testbed on kind clusters: each cluster is one control-plane
// node that runs the cluster's Pods; with real KubeEdge each edge node is one
// more container of the node image, with EdgeCore in it.
//
// What holds:
//   - All containers of a testbed are on one network of its own, which is named
//     and recorded before it is made. What is on that network is the testbed's, and
//     nothing else is; Down removes it, also after a killed Up.
//   - kind's library takes no context: each create runs in a child process of
//     our own program, whose process group is ended on cancel.
//   - A cluster was created whole once its kubeconfig is in the state folder; one
//     that was not is made anew.
//   - Journals, sockets and the logs of Pods are folders of this host, mounted into nodes
//     at the paths that package backend gives.
//   - Pod and service ranges are disjoint among clusters, so that nodes can have
//     routes to one another's Pods.
//
// docs/kind.md has the picture. Try it with `bin/testbed up --backend kind`.
package kind

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/fluidos-edge/testbed/testbed/internal/backend"
	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
	"github.com/fluidos-edge/testbed/testbed/internal/gobuild"
	"github.com/fluidos-edge/testbed/testbed/internal/process"
	"github.com/fluidos-edge/testbed/testbed/internal/state"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// Deadlines of single waits, for a busy machine of two cores.
const (
	createDeadline    = 6 * time.Minute
	clusterDeadline   = 4 * time.Minute
	componentDeadline = 4 * time.Minute
	removeDeadline    = 90 * time.Second
)

// createAtOnce is how many clusters are created at a time: more do not come up sooner.
const createAtOnce = 3

// Ports of components on the nodes of a cluster, in the node's own network.
const (
	portInfluxDB    = 8086
	portInfluxRPC   = 8088
	portTelegraf    = 8186 // and up, one for each endpoint
	portRelay       = 8180
	portRelayAdmin  = 8181
	portRelayHealth = 8182
	portRouter      = 8183
	portBoards      = 8184
	portHollow      = 8185
	portMapper      = 8300  // and up, one for each edge node
	portBroker      = 18840 // and up, one for each hollow edge node
	portKubeEdge    = 1884  // EdgeCore's broker, on its own node
)

// Labels of what a testbed makes in the engine.
const (
	labelID   = "testbed.fluidos.eu/id"
	labelName = "testbed.fluidos.eu/name"
	labelNode = "testbed.fluidos.eu/edge-node"
	// kind's own: its tools find edge nodes as workers of their cluster.
	labelKindCluster = "io.x-k8s.kind.cluster"
	labelKindRole    = "io.x-k8s.kind.role"
)

// Config is what a backend works with.
type Config struct {
	Runner command.Runner
	// Assets builds the programs that images are made of, where none can be had.
	Assets func(ctx context.Context, progress func(gobuild.Progress)) (gobuild.Assets, error)
	Cache  string
	Log    *slog.Logger
}

// Backend brings one testbed about.
type Backend struct {
	rec *state.Record
	cfg Config

	engine *engine.Engine // once Up has begun
	images pods
}

// New is a backend for the testbed of a record. It starts nothing.
func New(rec *state.Record, cfg Config) *Backend {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Backend{rec: rec, cfg: cfg}
}

// Layout implements backend.Backend.
func (b *Backend) Layout() backend.Layout {
	return backend.Layout{Rec: b.rec, Endpoint: func(consumer, endpoint string) string {
		port := portTelegraf
		for _, c := range b.rec.Topology.Consumers {
			if c.Name == consumer {
				port += max(0, slices.Index(backend.Endpoints(c), endpoint))
			}
		}
		return fmt.Sprintf("http://%s:%d/telegraf", b.node(consumer), port)
	}}
}

// Ports lists every port of this host that a topology needs, for Record.ChoosePorts.
func Ports(t *topology.Topology) []string {
	var all []string
	for _, c := range backend.Clusters(t) {
		all = append(all, backend.Port(c, backend.APIServer, ""))
	}
	for _, c := range t.Consumers {
		all = append(all, backend.Port(c.Name, backend.InfluxDB, ""))
	}
	return all
}

// Problem is something in a topology that kind clusters cannot have.
type Problem struct{ Field, Value, Want string }

// Check says what of a topology this backend cannot bring about.
func Check(name string, t *topology.Topology, external []string) *Problem {
	for _, c := range backend.Clusters(t) {
		// A node's name is a host name.
		if node := nodeName(name, c); len(node) > 63 {
			return &Problem{Field: "name", Value: c, Want: fmt.Sprintf("a name so short that node %s has at most 63 letters", node)}
		}
	}
	for _, p := range t.Providers {
		for _, n := range p.EdgeNodes {
			if c := edgeContainer(name, p.Name, n.Name); len(c) > 63 {
				return &Problem{Field: "providers[].edgeNodes[].name", Value: n.Name, Want: fmt.Sprintf("a name so short that container %s has at most 63 letters", c)}
			}
			// Helm's limit.
			if r := backend.Mapper + "-" + n.Name; len(r) > 53 {
				return &Problem{Field: "providers[].edgeNodes[].name", Value: n.Name, Want: fmt.Sprintf("a name so short that release %s has at most 53 letters", r)}
			}
		}
	}
	if len(backend.Clusters(t)) > maxClusters {
		return &Problem{Field: "clusters", Value: fmt.Sprint(len(backend.Clusters(t))), Want: fmt.Sprintf("at most %d: each has address ranges of its own", maxClusters)}
	}
	if len(external) > 0 {
		return &Problem{Field: "external", Value: strings.Join(external, ","), Want: "--backend embedded: a process of this host cannot stand in for a Pod"}
	}
	return nil
}

func clusterName(testbed, cluster string) string { return testbed + "-" + cluster }
func nodeName(testbed, cluster string) string {
	return clusterName(testbed, cluster) + "-control-plane"
}
func edgeContainer(testbed, provider, node string) string {
	return clusterName(testbed, provider) + "-" + node
}

func (b *Backend) node(cluster string) string { return nodeName(b.rec.Name, cluster) }
func (b *Backend) network() string            { return "testbed-" + b.rec.ID }
func (b *Backend) kubeEdge() bool             { return b.rec.Edge == "kubeedge" }

// Up implements backend.Backend.
func (b *Backend) Up(ctx context.Context, step backend.Step) error {
	var err error
	if b.engine, err = engine.Find(ctx, b.cfg.Runner); err != nil {
		return err
	}
	t := b.rec.Topology
	for _, c := range t.Consumers {
		if err := b.Layout().MakeSecrets(c.Name); err != nil {
			return err
		}
	}
	for _, p := range t.Providers {
		if _, err := b.Layout().CapabilityKey(p.Name); err != nil {
			return err
		}
	}
	if err := errors.Join(b.rec.Save(), b.folders()); err != nil {
		return err
	}
	err = step(ctx, "images", func(say func(string)) error {
		var err error
		b.images, err = b.resolve(ctx, say)
		return err
	})
	if err != nil {
		return err
	}
	err = step(ctx, "network", func(say func(string)) error {
		if err := b.notTaken(ctx); err != nil {
			return err
		}
		if err := b.engine.CreateNetwork(ctx, b.network(), map[string]string{labelID: b.rec.ID, labelName: b.rec.Name}); err != nil {
			return err
		}
		return b.removeOthers(ctx)
	})
	if err != nil {
		return err
	}
	creating := semaphore.NewWeighted(createAtOnce)
	g, ctx := errgroup.WithContext(ctx)
	for n, c := range backend.Clusters(t) {
		cl := &cluster{b: b, name: c, n: n}
		g.Go(func() error {
			if err := creating.Acquire(ctx, 1); err != nil {
				return err
			}
			err := cl.up(ctx, step)
			creating.Release(1)
			if err != nil {
				return err
			}
			if i := slices.IndexFunc(t.Providers, func(p topology.Provider) bool { return p.Name == c }); i >= 0 {
				return cl.upProvider(ctx, t.Providers[i], step)
			}
			i := slices.IndexFunc(t.Consumers, func(a topology.Consumer) bool { return a.Name == c })
			return cl.upSink(ctx, t.Consumers[i], step)
		})
	}
	return g.Wait()
}

// folders makes the folders that nodes and Pods find on this host. Pods run as
// the user of this process, or as nobody in particular if that is root.
func (b *Backend) folders() error {
	own := func(dir string) error {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		user, group := runAs()
		return os.Chown(dir, user, group)
	}
	var dirs []string
	for _, c := range backend.Clusters(b.rec.Topology) {
		dirs = append(dirs, b.Layout().Journals(c))
	}
	for _, p := range b.rec.Topology.Providers {
		dirs = append(dirs, b.Layout().RunDir(p.Name))
		for _, n := range p.EdgeNodes {
			dirs = append(dirs, filepath.Dir(b.Layout().RadioSocket(p.Name, n.Name)))
		}
	}
	for _, d := range dirs {
		if err := own(d); err != nil {
			return err
		}
	}
	for _, c := range backend.Clusters(b.rec.Topology) {
		if err := os.MkdirAll(b.podLogs(c, "control-plane"), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// podLogs is the folder of this host that holds the logs of the Pods on a node.
func (b *Backend) podLogs(cluster, node string) string { return b.Layout().Dir("logs", cluster, node) }

// runAs is the user of our Pods on this host's files.
func runAs() (user, group int) {
	if os.Getuid() == 0 {
		return 65532, 65532
	}
	return os.Getuid(), os.Getgid()
}

// notTaken refuses names that containers of somebody else have.
func (b *Backend) notTaken(ctx context.Context) error {
	all, err := b.engine.Containers(ctx, "name=^"+b.rec.Name+"-")
	if err != nil {
		return err
	}
	ours := map[string]bool{}
	for _, c := range backend.Clusters(b.rec.Topology) {
		ours[b.node(c)] = true
	}
	for _, c := range all {
		if _, on := c.IPs[b.network()]; !on && ours[c.Name] {
			return fmt.Errorf("container %s is there already and is not of this testbed; use another --name, or remove it: `docker rm -f -v %s`", c.Name, c.Name)
		}
	}
	return nil
}

// containers of this testbed, running or not.
func (b *Backend) containers(ctx context.Context, e *engine.Engine) ([]engine.Container, error) {
	return e.Containers(ctx, "network="+b.network())
}

// removeOthers removes nodes that the topology no longer describes.
func (b *Backend) removeOthers(ctx context.Context) error {
	wanted := map[string]bool{}
	for _, c := range backend.Clusters(b.rec.Topology) {
		wanted[b.node(c)] = true
	}
	if b.kubeEdge() {
		for _, p := range b.rec.Topology.Providers {
			for _, n := range p.EdgeNodes {
				wanted[edgeContainer(b.rec.Name, p.Name, n.Name)] = true
			}
		}
	}
	all, err := b.containers(ctx, b.engine)
	if err != nil {
		return err
	}
	var others []string
	for _, c := range all {
		if !wanted[c.Name] {
			others = append(others, c.ID)
			if cluster, ok := strings.CutPrefix(c.Labels[labelKindCluster], b.rec.Name+"-"); ok && c.Labels[labelNode] == "" {
				_ = os.Remove(b.Layout().AdminKubeconfig(cluster))
			}
		}
	}
	return b.engine.Remove(ctx, others...)
}

// Down implements backend.Backend. A killed Up may have left children that still
// talk to the engine, and the engine may still be doing what they asked for.
func (b *Backend) Down(ctx context.Context) error {
	if err := process.Reap(ctx, b.rec.ID); err != nil {
		return err
	}
	e, err := engine.Find(ctx, b.cfg.Runner)
	if err != nil {
		var gone *engine.Unavailable
		if errors.As(err, &gone) && !b.made() {
			return nil // it ended before it asked the engine for anything
		}
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, removeDeadline)
	defer cancel()
	if err := b.emptyLogs(ctx, e); err != nil {
		b.cfg.Log.Debug("logs of Pods", "err", err)
	}
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	var left error
	for quiet := 0; quiet < 2; {
		all, err := b.containers(ctx, e)
		if err == nil {
			err = e.Remove(ctx, ids(all)...)
		}
		if err == nil && len(all) == 0 {
			var networks []string
			if networks, err = e.Networks(ctx, "label="+labelID+"="+b.rec.ID); err == nil {
				for _, n := range networks {
					err = errors.Join(err, e.RemoveNetwork(ctx, n))
				}
				if err == nil && len(networks) == 0 {
					quiet++
				}
			}
		}
		if err != nil || len(all) > 0 {
			quiet = 0
			left = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("containers and network %s are not gone: %w", b.network(), errors.Join(left, context.Cause(ctx)))
		case <-tick.C:
		}
	}
	return nil
}

// made tells whether an Up came as far as the engine: kind writes a log folder first.
func (b *Backend) made() bool {
	entries, err := os.ReadDir(b.Layout().Dir("logs"))
	return err == nil && len(entries) > 0
}

// emptyLogs removes the logs of Pods, which belong to root, where this user is not.
func (b *Backend) emptyLogs(ctx context.Context, e *engine.Engine) error {
	if os.Getuid() == 0 {
		return nil
	}
	all, err := b.containers(ctx, e)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, c := range all {
		g.Go(func() error {
			if _, err := e.Exec(ctx, c.ID, "systemctl", "stop", "kubelet", "edgecore"); err != nil {
				b.cfg.Log.Debug("stop kubelet", "err", err)
			}
			_, err := e.Exec(ctx, c.ID, "find", "/var/log/pods", "-mindepth", "1", "-delete")
			return err
		})
	}
	return g.Wait()
}

func ids(all []engine.Container) []string {
	var out []string
	for _, c := range all {
		out = append(out, c.ID)
	}
	return out
}
