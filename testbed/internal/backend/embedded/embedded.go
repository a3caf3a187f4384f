package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fluidos-edge/testbed/testbed/internal/backend"
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
)

// Backend brings one testbed about.
type Backend struct {
	layout backend.Layout
	dirs   process.Dirs
	assets gobuild.Assets
	log    *slog.Logger

	sup *process.Client // once Up has begun
}

// New is a backend for the testbed of a record. It starts nothing.
func New(rec *state.Record, assets gobuild.Assets, log *slog.Logger) *Backend {
	return &Backend{layout: newLayout(rec), dirs: Dirs(rec), assets: assets, log: log}
}

// Dirs are the folders of a testbed's supervisor.
func Dirs(rec *state.Record) process.Dirs {
	return process.Dirs{State: state.Dir(rec.Name), Run: rec.RunDir}
}

// Layout implements backend.Backend.
func (b *Backend) Layout() backend.Layout { return b.layout }

// Down implements backend.Backend.
func (b *Backend) Down(ctx context.Context) error {
	if sup, err := process.Connect(ctx, b.dirs); err == nil {
		// Reap does what this does not manage to.
		_ = sup.Shutdown(ctx)
	}
	return process.Reap(ctx, b.layout.Rec.ID)
}

// Status implements backend.Backend.
func (b *Backend) Status(ctx context.Context) (backend.Status, error) {
	s := backend.Status{Ready: map[string]bool{}}
	sup, err := process.Connect(ctx, b.dirs)
	if errors.Is(err, process.ErrNotRunning) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	components, err := sup.List(ctx)
	if err != nil {
		return s, err
	}
	s.Running = true
	ready := map[string]bool{}
	for _, c := range components {
		ready[c.Name] = c.Ready
		if c.PID == 0 {
			c.StartedAt = time.Time{} // of a run that has ended
		}
		s.Components = append(s.Components, backend.Component{
			Name: c.Name, Ready: c.Ready, PID: c.PID, URL: c.Spec.URL, Log: c.Log, RSSBytes: c.RSSBytes, Reason: c.Reason,
			Args: c.Spec.Args, External: c.Spec.External, Restarts: c.Restarts,
			StartedAt: c.StartedAt, LastEnd: c.LastEnd,
		})
	}
	if t := b.layout.Rec.Topology; t != nil {
		for _, c := range backend.Clusters(t) {
			s.Ready[c] = ready[c+"/"+apiserver] && ready[c+"/"+manager] && ready[c+"/"+etcd]
		}
	}
	return s, nil
}

// Up implements backend.Backend.
func (b *Backend) Up(ctx context.Context, step backend.Step) error {
	t := b.layout.Rec.Topology
	var err error
	argv := []string{filepath.Join(b.layout.Rec.BinDir, "testbed"), "supervise", "--name", b.layout.Rec.Name}
	if b.sup, err = process.Start(ctx, b.dirs, b.layout.Rec.ID, argv); err != nil {
		return err
	}
	plan, err := b.plan()
	if err != nil {
		return err
	}
	if err := b.layout.Rec.Save(); err != nil { // secrets were made
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
	t := b.layout.Rec.Topology
	plan := map[string][]process.Spec{}
	add := func(part string, specs []process.Spec, err error) error {
		for i := range specs {
			specs[i].External = slices.Contains(b.layout.Rec.External, specs[i].Name)
		}
		plan[part] = specs
		return err
	}
	for n, c := range backend.Clusters(t) {
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

func (b *Backend) upCluster(ctx context.Context, cluster string, plan map[string][]process.Spec, step backend.Step) error {
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

func (b *Backend) upSink(ctx context.Context, c topology.Consumer, plan map[string][]process.Spec, step backend.Step) error {
	return step(ctx, "sink of "+c.Name, func(say func(string)) error {
		ctx, cancel := context.WithTimeout(ctx, componentDeadline)
		defer cancel()
		specs := plan[c.Name+"/sink"]
		if err := b.start(ctx, specs[:1], say); err != nil {
			return err
		}
		say("users and database")
		if err := b.layout.SetUpInflux(ctx, c.Name); err != nil {
			return err
		}
		return b.start(ctx, specs[1:], say)
	})
}

func (b *Backend) upProvider(ctx context.Context, p topology.Provider, plan map[string][]process.Spec, step backend.Step) error {
	if err := b.upCluster(ctx, p.Name, plan, step); err != nil {
		return err
	}
	t := b.layout.Rec.Topology
	var c client.Client
	err := step(ctx, "definitions of "+p.Name, func(func(string)) error {
		ctx, cancel := context.WithTimeout(ctx, componentDeadline)
		defer cancel()
		var err error
		if c, err = kube.Client(b.layout.AdminKubeconfig(p.Name)); err != nil {
			return err
		}
		var consumers []string
		for _, c := range t.Consumers {
			consumers = append(consumers, c.Name)
		}
		if err := kube.InstallProvider(ctx, c, b.layout.Identity(p.Name), consumers, kube.Users); err != nil {
			return err
		}
		return backend.RemoveUndescribed(ctx, c, t, p)
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
		return backend.AwaitOffers(ctx, c, p, say)
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
