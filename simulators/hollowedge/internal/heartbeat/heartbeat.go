// Package heartbeat makes Nodes look alive: it registers them, renews their
// Leases every 10 s and posts their status every 5 minutes, as EdgeCore does for
// one node, for thousands: a heap of what is due when, one goroutine that waits
// for it, and a few workers that ask the API server.
//
// A Node is registered once. If somebody deletes it, it stays away until the
// process starts again, as with EdgeCore.
package heartbeat

import (
	"container/heap"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	leaseDuration = 40 * time.Second
	renewEvery    = 10 * time.Second
	statusEvery   = 5 * time.Minute
	// retryAfter is the pause after a request that the API server refused.
	retryAfter = 2 * time.Second
	// registerWithin is how long registration may take.
	registerWithin = 2 * time.Minute
	// workers talk to the API server at the same time.
	workers = 16
	// requestTimeout is for all requests of one beat.
	requestTimeout = 15 * time.Second
)

// Fleet is all nodes of a process.
type Fleet struct {
	client    client.Client
	clock     clock.Clock
	log       *slog.Logger
	connected func(node string) bool
	nodes     map[string]*node
	order     []*node

	mu         sync.Mutex
	heap       dueHeap
	registered int
	failing    int
	woken      chan struct{}
}

// node is one Node. The Fleet's mutex guards due, position, hurried and
// failing; the rest belongs to the one goroutine that registers or beats it.
type node struct {
	name  string
	index int

	due      time.Time
	position int  // in the heap, -1 if not
	hurried  bool // is due at once when it comes into the heap again
	failing  bool

	uid       types.UID
	statusDue time.Time
	renewed   time.Time // last
}

// New starts nothing. connected says whether a node can reach the cloud; one
// that cannot has no heartbeat.
func New(c client.Client, clk clock.Clock, log *slog.Logger, names []string, connected func(node string) bool) *Fleet {
	f := &Fleet{client: c, clock: clk, log: log, connected: connected, nodes: map[string]*node{}, woken: make(chan struct{}, 1)}
	for i, name := range names {
		n := &node{name: name, index: i, position: -1}
		f.nodes[name] = n
		f.order = append(f.order, n)
	}
	return f
}

// Register registers every node, reports its progress, and calls registered for
// each once. It tries again what the API server refuses, for two minutes.
func (f *Fleet) Register(ctx context.Context, progress func(error), registered func(node string)) error {
	deadline := f.clock.Now().Add(registerWithin)
	tell := func(done int, last error) {
		f.mu.Lock()
		f.registered += done
		registered := f.registered
		f.mu.Unlock()
		err := fmt.Errorf("registered %d of %d nodes", registered, len(f.order))
		if last != nil {
			err = fmt.Errorf("%w: %w", err, last)
		}
		progress(err)
	}
	tell(0, nil)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for _, n := range f.order {
		g.Go(func() error {
			for {
				err := f.register(ctx, n)
				if err == nil {
					break
				}
				if ctx.Err() != nil {
					return ctx.Err()
				}
				err = fmt.Errorf("node %s: %w", n.name, err)
				if !f.clock.Now().Before(deadline) {
					return fmt.Errorf("not registered within %s: %w", registerWithin, err)
				}
				tell(0, err)
				if err := f.wait(ctx, retryAfter); err != nil {
					return err
				}
			}
			registered(n.name)
			f.push(n, n.due)
			tell(1, nil)
			return nil
		})
	}
	return g.Wait()
}

func (f *Fleet) wait(ctx context.Context, d time.Duration) error {
	t := f.clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// register makes the Node, or takes the one that is there over, with its status
// and Lease. It may be repeated. Nodes are spread over the intervals.
func (f *Fleet) register(ctx context.Context, n *node) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	obj := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: labels(n.name)}}
	setStatus(obj, f.clock.Now())
	switch err := f.client.Create(ctx, obj); {
	case err == nil:
		n.uid = obj.UID
		err := f.makeLease(ctx, n)
		if apierrors.IsAlreadyExists(err) {
			err = f.renew(ctx, n)
		}
		if err != nil {
			return err
		}
	case apierrors.IsAlreadyExists(err):
		if err := f.postStatus(ctx, n); err != nil {
			return err
		}
		if err := f.renew(ctx, n); err != nil {
			return err
		}
	default:
		return fmt.Errorf("create: %w", err)
	}
	spread := func(d time.Duration) time.Duration {
		return d/2 + d/2*time.Duration(n.index+1)/time.Duration(len(f.order))
	}
	n.due, n.statusDue = n.renewed.Add(spread(renewEvery)), n.renewed.Add(spread(statusEvery))
	return nil
}

// postStatus writes the Node's status, and its labels if one is missing. Others'
// labels, conditions and fields stay.
func (f *Fleet) postStatus(ctx context.Context, n *node) error {
	now := f.clock.Now()
	got := &corev1.Node{}
	if err := f.client.Get(ctx, types.NamespacedName{Name: n.name}, got); err != nil {
		return fmt.Errorf("get: %w", err)
	}
	n.uid = got.UID
	want := got.DeepCopy()
	if want.Labels == nil {
		want.Labels = map[string]string{}
	}
	maps.Copy(want.Labels, labels(n.name))
	if !maps.Equal(want.Labels, got.Labels) {
		if err := f.client.Patch(ctx, want, client.MergeFrom(got)); err != nil {
			return fmt.Errorf("patch labels: %w", err)
		}
		got = want.DeepCopy()
	}
	setStatus(want, now)
	if err := f.client.Status().Patch(ctx, want, client.StrategicMergeFrom(got)); err != nil {
		return fmt.Errorf("patch status: %w", err)
	}
	n.statusDue = now.Add(statusEvery)
	return nil
}

// renew renews the node's Lease. One that is not there is made, unless the Node
// is gone too; then the error is NotFound.
func (f *Fleet) renew(ctx context.Context, n *node) error {
	now := f.clock.Now()
	lease := f.lease(n, now)
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"ownerReferences": lease.OwnerReferences},
		"spec":     lease.Spec,
	})
	if err != nil {
		return err
	}
	err = f.client.Patch(ctx, lease, client.RawPatch(types.MergePatchType, patch))
	if apierrors.IsNotFound(err) {
		owner := &corev1.Node{}
		if err := f.client.Get(ctx, types.NamespacedName{Name: n.name}, owner); err != nil {
			return fmt.Errorf("get: %w", err)
		}
		n.uid = owner.UID
		return f.makeLease(ctx, n)
	}
	if err != nil {
		return fmt.Errorf("patch lease: %w", err)
	}
	n.renewed = now
	return nil
}

func (f *Fleet) makeLease(ctx context.Context, n *node) error {
	now := f.clock.Now()
	if err := f.client.Create(ctx, f.lease(n, now)); err != nil {
		return fmt.Errorf("create lease: %w", err)
	}
	n.renewed = now
	return nil
}

func (f *Fleet) lease(n *node, now time.Time) *coordinationv1.Lease {
	holder, seconds := n.name, int32(leaseDuration/time.Second)
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       corev1.NamespaceNodeLease,
			Name:            n.name,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.name, UID: n.uid}},
		},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity:       &holder,
			LeaseDurationSeconds: &seconds,
			RenewTime:            &metav1.MicroTime{Time: now},
		},
	}
}

// Hurry makes a registered node due at once: it has been away.
func (f *Fleet) Hurry(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[name]
	if n.position < 0 {
		n.hurried = true
		return
	}
	n.due = f.clock.Now()
	heap.Fix(&f.heap, n.position)
	f.wake()
}

func (f *Fleet) push(n *node, due time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n.hurried {
		n.hurried, due = false, f.clock.Now()
	}
	n.due = due
	heap.Push(&f.heap, n)
	if n.position == 0 {
		f.wake()
	}
}

func (f *Fleet) wake() {
	select {
	case f.woken <- struct{}{}:
	default:
	}
}

// next takes a node that is due off the heap, or says how long to wait for one.
func (f *Fleet) next() (*node, time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.heap) == 0 {
		return nil, time.Hour
	}
	if d := f.heap[0].due.Sub(f.clock.Now()); d > 0 {
		return nil, d
	}
	return heap.Pop(&f.heap).(*node), 0
}

// Run keeps the heartbeats of registered nodes until ctx ends.
func (f *Fleet) Run(ctx context.Context) error {
	due := make(chan *node)
	g, ctx := errgroup.WithContext(ctx)
	for range min(workers, len(f.order)) {
		g.Go(func() error {
			for n := range due {
				f.push(n, f.beat(ctx, n))
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(due)
		for {
			n, d := f.next()
			if n != nil {
				select {
				case due <- n:
					continue
				case <-ctx.Done():
					return nil
				}
			}
			t := f.clock.NewTimer(d)
			select {
			case <-t.C():
			case <-f.woken:
			case <-ctx.Done():
				t.Stop()
				return nil
			}
			t.Stop()
		}
	})
	return g.Wait()
}

// beat does what is due for a node and returns when something is next.
func (f *Fleet) beat(ctx context.Context, n *node) time.Time {
	start := f.clock.Now()
	if !f.connected(n.name) {
		return start.Add(renewEvery)
	}
	reqs, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	// A node that was late may have been called NotReady: say that it is not.
	late := start.Sub(n.renewed) > leaseDuration/2
	var err error
	if late || !start.Before(n.statusDue) {
		err = f.postStatus(reqs, n)
	}
	if err == nil {
		err = f.renew(reqs, n)
	}
	if ctx.Err() != nil {
		return start.Add(renewEvery)
	}
	f.report(n, err)
	if err != nil && !apierrors.IsNotFound(err) {
		return start.Add(retryAfter)
	}
	return start.Add(renewEvery)
}

// report logs when heartbeats begin and cease to fail, not each one that does.
func (f *Fleet) report(n *node, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err != nil && !n.failing:
		n.failing = true
		f.failing++
		level := slog.LevelDebug
		if f.failing == 1 {
			level = slog.LevelWarn
		}
		f.log.Log(context.Background(), level, "heartbeats fail", "node", n.name, "err", err)
	case err == nil && n.failing:
		n.failing = false
		f.failing--
		if f.failing == 0 {
			f.log.Info("heartbeats work again")
		}
	}
}

// dueHeap is a heap of nodes, first due first.
type dueHeap []*node

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].position, h[j].position = i, j
}

func (h *dueHeap) Push(x any) {
	n := x.(*node)
	n.position = len(*h)
	*h = append(*h, n)
}

func (h *dueHeap) Pop() any {
	old := *h
	n := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	n.position = -1
	return n
}
