package embedded

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/testbed/internal/gobuild"
	"github.com/fluidos-edge/testbed/testbed/internal/kube"
	"github.com/fluidos-edge/testbed/testbed/internal/process"
	"github.com/fluidos-edge/testbed/testbed/internal/state"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// Deadlines of single waits. A cluster on a busy machine of two cores takes 10 s.
const (
	clusterDeadline   = 3 * time.Minute
	componentDeadline = 2 * time.Minute
	offersDeadline    = 2 * time.Minute
)

// Backend brings one testbed about.
type Backend struct {
	layout layout
	assets gobuild.Assets
	sup    *process.Client
	log    *slog.Logger
}

// New is a backend for the testbed of a record. It starts nothing.
func New(rec *state.Record, assets gobuild.Assets, sup *process.Client, log *slog.Logger) *Backend {
	return &Backend{layout: layout{rec}, assets: assets, sup: sup, log: log}
}

// Ports lists the ports that a topology needs, for Record.ChoosePorts.
func Ports(t *topology.Topology) []string { return ports(t) }

// Step runs one phase of Up and reports it; say replaces its detail. ctx is
// what the phase runs under: if it has ended, the phase was stopped, and is not
// to blame.
type Step func(ctx context.Context, phase string, run func(say func(string)) error) error

// Up starts what is missing, restarts what differs, stops what is no longer
// described, and returns once every sensor is on offer.
func (b *Backend) Up(ctx context.Context, step Step) error {
	t := b.layout.rec.Topology
	plan, err := b.plan()
	if err != nil {
		return err
	}
	if err := b.layout.rec.Save(); err != nil { // secrets were made
		return err
	}
	if err := b.removeOthers(ctx, plan); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range t.Providers {
		g.Go(func() error { return b.upProvider(ctx, p, plan, step) })
	}
	for _, c := range t.Consumers {
		g.Go(func() error { return b.upCluster(ctx, c.Name, plan, step) })
		g.Go(func() error { return b.upSink(ctx, c, plan, step) })
	}
	return g.Wait()
}

// plan is every process of the testbed, by its cluster's part: "<cluster>", or
// "<cluster>/sink" and "<cluster>/components".
func (b *Backend) plan() (map[string][]process.Spec, error) {
	t := b.layout.rec.Topology
	plan := map[string][]process.Spec{}
	add := func(part string, specs []process.Spec, err error) error {
		for i := range specs {
			specs[i].External = slices.Contains(b.layout.rec.External, specs[i].Name)
		}
		plan[part] = specs
		return err
	}
	for n, c := range clusters(t) {
		specs, err := b.controlPlane(c, n)
		if err := add(c, specs, err); err != nil {
			return nil, fmt.Errorf("%s: %w", c, err)
		}
	}
	for _, c := range t.Consumers {
		specs, err := b.sink(c)
		if err := add(c.Name+"/sink", specs, err); err != nil {
			return nil, fmt.Errorf("sink of %s: %w", c.Name, err)
		}
	}
	for _, p := range t.Providers {
		specs, err := b.provider(p, t.Consumers)
		if err := add(p.Name+"/components", specs, err); err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	return plan, nil
}

// removeOthers stops what runs and is not in the plan.
func (b *Backend) removeOthers(ctx context.Context, plan map[string][]process.Spec) error {
	wanted := map[string]bool{}
	for _, specs := range plan {
		for _, s := range specs {
			wanted[s.Name] = true
		}
	}
	running, err := b.sup.List(ctx)
	if err != nil {
		return err
	}
	var others []string
	for _, c := range running {
		if !wanted[c.Name] {
			others = append(others, c.Name)
		}
	}
	if len(others) == 0 {
		return nil
	}
	return b.sup.Remove(ctx, others...)
}

func (b *Backend) upCluster(ctx context.Context, cluster string, plan map[string][]process.Spec, step Step) error {
	return step(ctx, "cluster "+cluster, func(say func(string)) error {
		ctx, cancel := context.WithTimeout(ctx, clusterDeadline)
		defer cancel()
		// The manager gives up on an API server that is not there yet, so it starts last.
		specs := plan[cluster]
		for _, group := range [][]process.Spec{specs[:2], specs[2:]} {
			if err := b.start(ctx, group, say); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *Backend) upSink(ctx context.Context, c topology.Consumer, plan map[string][]process.Spec, step Step) error {
	return step(ctx, "sink of "+c.Name, func(say func(string)) error {
		ctx, cancel := context.WithTimeout(ctx, componentDeadline)
		defer cancel()
		specs := plan[c.Name+"/sink"]
		if err := b.start(ctx, specs[:1], say); err != nil {
			return err
		}
		say("users and database")
		if err := b.setUpInflux(ctx, c.Name); err != nil {
			return err
		}
		return b.start(ctx, specs[1:], say)
	})
}

func (b *Backend) upProvider(ctx context.Context, p topology.Provider, plan map[string][]process.Spec, step Step) error {
	if err := b.upCluster(ctx, p.Name, plan, step); err != nil {
		return err
	}
	t := b.layout.rec.Topology
	var c client.Client
	err := step(ctx, "definitions of "+p.Name, func(func(string)) error {
		ctx, cancel := context.WithTimeout(ctx, componentDeadline)
		defer cancel()
		var err error
		if c, err = kube.Client(b.layout.adminKubeconfig(p.Name)); err != nil {
			return err
		}
		var consumers []string
		for _, c := range t.Consumers {
			consumers = append(consumers, c.Name)
		}
		if err := kube.InstallProvider(ctx, c, b.layout.identity(p.Name), consumers); err != nil {
			return err
		}
		return b.removeUndescribed(ctx, c, p)
	})
	if err != nil {
		return err
	}
	err = step(ctx, "components of "+p.Name, func(say func(string)) error {
		ctx, cancel := context.WithTimeout(ctx, componentDeadline)
		defer cancel()
		return b.start(ctx, plan[p.Name+"/components"], say)
	})
	if err != nil {
		return err
	}
	return step(ctx, "sensors of "+p.Name, func(say func(string)) error {
		for _, name := range []string{hollowedge, boards, mapper, erm} {
			for _, s := range plan[p.Name+"/components"] {
				if s.External && strings.HasPrefix(s.Name, p.Name+"/"+name) {
					say("not awaited: " + s.Name + " is run by somebody else")
					return nil
				}
			}
		}
		return awaitOffers(ctx, c, p, say)
	})
}

// start applies specs and waits until all of them are ready.
func (b *Backend) start(ctx context.Context, specs []process.Spec, say func(string)) error {
	var names []string
	for _, s := range specs {
		changed, err := b.sup.Apply(ctx, s)
		if err != nil {
			return err
		}
		b.log.Debug("applied", "component", s.Name, "changed", changed)
		if !s.External {
			names = append(names, s.Name)
		}
	}
	say(strings.Join(names, ", "))
	return b.sup.Wait(ctx, names...)
}

// removeUndescribed removes nodes, boards and consumers that an earlier
// topology described and this one does not.
func (b *Backend) removeUndescribed(ctx context.Context, c client.Client, p topology.Provider) error {
	wanted := map[string]bool{}
	for _, n := range p.EdgeNodes {
		wanted["node/"+n.Name] = true
	}
	for _, board := range p.Boards {
		wanted["device/"+deviceName(board)] = true
	}
	for _, consumer := range b.layout.rec.Topology.Consumers {
		wanted["consumer/"+consumer.Name] = true
	}
	var nodes corev1.NodeList
	if err := c.List(ctx, &nodes, client.MatchingLabels{"node-role.fluidos.eu/sensors": "true"}); err != nil {
		return err
	}
	for i := range nodes.Items {
		if !wanted["node/"+nodes.Items[i].Name] {
			if err := c.Delete(ctx, &nodes.Items[i]); client.IgnoreNotFound(err) != nil {
				return err
			}
		}
	}
	var devs devices.DeviceList
	if err := c.List(ctx, &devs, client.InNamespace(kube.Namespace)); err != nil {
		return err
	}
	for i := range devs.Items {
		d := &devs.Items[i]
		// Only what a mapper registered has this label: other people's Devices stay.
		if d.Labels[devices.LabelBoardID] != "" && !wanted["device/"+d.Name] {
			if err := c.Delete(ctx, d); client.IgnoreNotFound(err) != nil {
				return err
			}
		}
	}
	var spaces corev1.NamespaceList
	if err := c.List(ctx, &spaces, client.HasLabels{sensors.LabelConsumer}); err != nil {
		return err
	}
	for _, ns := range spaces.Items {
		if consumer := ns.Labels[sensors.LabelConsumer]; !wanted["consumer/"+consumer] {
			if err := kube.RemoveConsumer(ctx, c, consumer); err != nil {
				return err
			}
		}
	}
	return nil
}

// awaitOffers waits until every edge node is Ready and every board has at least
// one available Flavor.
func awaitOffers(ctx context.Context, c client.Client, p topology.Provider, say func(string)) error {
	var missing []string
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, offersDeadline, true, func(ctx context.Context) (bool, error) {
		var nodes corev1.NodeList
		var flavors nodecore.FlavorList
		if err := c.List(ctx, &nodes); err != nil {
			return false, err
		}
		if err := c.List(ctx, &flavors, client.InNamespace(kube.Namespace)); err != nil {
			return false, err
		}
		ready := map[string]bool{}
		for _, n := range nodes.Items {
			for _, cond := range n.Status.Conditions {
				ready[n.Name] = ready[n.Name] || cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue
			}
		}
		offered := map[string]bool{}
		for _, f := range flavors.Items {
			offered[f.Labels[nodecore.LabelDevice]] = offered[f.Labels[nodecore.LabelDevice]] || f.Spec.Availability
		}
		missing = missing[:0]
		for _, n := range p.EdgeNodes {
			if !ready[n.Name] {
				missing = append(missing, "node "+n.Name)
			}
		}
		for _, board := range p.Boards {
			if !offered[deviceName(board)] {
				missing = append(missing, "board "+board.Name)
			}
		}
		sort.Strings(missing)
		say(fmt.Sprintf("%d flavors; waiting for %s", len(flavors.Items), strings.Join(missing, ", ")))
		return len(missing) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("not on offer: %s: %w", strings.Join(missing, ", "), err)
	}
	return nil
}

// deviceName is the Device that a mapper registers for a board.
func deviceName(b topology.Board) string {
	return strings.ToLower(b.Model) + "-" + strings.ToLower(strings.ReplaceAll(b.MAC, ":", ""))
}

func fileName(user string) string { return strings.ReplaceAll(user, ":", "-") }

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
