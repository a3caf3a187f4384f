package heartbeat_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/fluidos-edge/testbed/simulators/hollowedge/internal/heartbeat"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a fleet in a synctest bubble, with an API server that counts and can
// be out.
type world struct {
	*testing.T
	client client.Client
	fleet  *heartbeat.Fleet
	cancel context.CancelFunc
	ended  chan error

	mu       sync.Mutex
	out      error           // what the API server answers instead
	cut      map[string]bool // nodes
	renewals map[string]int
	statuses map[string]int
	progress []string
}

func newWorld(t *testing.T, names []string, objs ...client.Object) *world {
	t.Helper()
	scheme := k8sruntime.NewScheme()
	for _, add := range []func(*k8sruntime.Scheme) error{corev1.AddToScheme, coordinationv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{T: t, cut: map[string]bool{}, renewals: map[string]int{}, statuses: map[string]int{}, ended: make(chan error, 1)}
	inner := fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&corev1.Node{}).WithObjects(objs...).Build()
	w.client = interceptor.NewClient(inner, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if err := w.answer(); err != nil {
				return err
			}
			if n, ok := o.(*corev1.Node); ok {
				n.UID = types.UID("uid-" + n.Name)
			}
			return c.Create(ctx, o, opts...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			if err := w.answer(); err != nil {
				return err
			}
			if _, ok := o.(*coordinationv1.Lease); ok {
				w.mu.Lock()
				w.renewals[o.GetName()]++
				w.mu.Unlock()
			}
			return c.Patch(ctx, o, p, opts...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			if err := w.answer(); err != nil {
				return err
			}
			w.mu.Lock()
			w.statuses[o.GetName()]++
			w.mu.Unlock()
			return c.SubResource(sub).Patch(ctx, o, p, opts...)
		},
	})
	w.fleet = heartbeat.New(w.client, clock.RealClock{}, slog.New(slog.DiscardHandler), names, func(n string) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return !w.cut[n]
	})
	var ctx context.Context
	ctx, w.cancel = context.WithCancel(t.Context())
	go func() { w.ended <- w.fleet.Run(ctx) }()
	return w
}

func (w *world) answer() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out
}

func (w *world) setOut(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out = err
}

func (w *world) setCut(node string, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[node] = cut
}

func (w *world) register() error {
	return w.fleet.Register(w.Context(), func(err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.progress = append(w.progress, err.Error())
	}, func(string) {})
}

func (w *world) mustRegister() {
	w.Helper()
	if err := w.register(); err != nil {
		w.Fatal(err)
	}
}

// counts resets and returns how often each node's Lease and status were written.
func (w *world) counts() (renewals, statuses map[string]int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	renewals, statuses = w.renewals, w.statuses
	w.renewals, w.statuses = map[string]int{}, map[string]int{}
	return renewals, statuses
}

func (w *world) node(name string) *corev1.Node {
	w.Helper()
	n := &corev1.Node{}
	if err := w.client.Get(context.Background(), types.NamespacedName{Name: name}, n); err != nil {
		w.Fatal(err)
	}
	return n
}

func (w *world) lease(name string) *coordinationv1.Lease {
	w.Helper()
	l := &coordinationv1.Lease{}
	if err := w.client.Get(context.Background(), types.NamespacedName{Namespace: "kube-node-lease", Name: name}, l); err != nil {
		w.Fatal(err)
	}
	return l
}

func (w *world) stop() {
	w.cancel()
	if err := <-w.ended; err != nil {
		w.Error(err)
	}
}

// pass lets time pass and everything happen that is due by then.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func conditions(n *corev1.Node) map[corev1.NodeConditionType]corev1.ConditionStatus {
	out := map[corev1.NodeConditionType]corev1.ConditionStatus{}
	for _, c := range n.Status.Conditions {
		out[c.Type] = c.Status
	}
	return out
}

var healthy = map[corev1.NodeConditionType]corev1.ConditionStatus{
	corev1.NodeReady: "True", corev1.NodeMemoryPressure: "False", corev1.NodeDiskPressure: "False", corev1.NodePIDPressure: "False",
}

func TestRegisteredNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, []string{"edge-1"})
		defer w.stop()
		w.mustRegister()
		n := w.node("edge-1")
		want := map[string]string{
			"node-role.kubernetes.io/agent": "", "node-role.kubernetes.io/edge": "", "node-role.fluidos.eu/sensors": "true",
			"kubernetes.io/hostname": "edge-1", "kubernetes.io/os": runtime.GOOS, "kubernetes.io/arch": runtime.GOARCH,
			"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
		}
		if diff := cmp.Diff(want, n.Labels); diff != "" {
			t.Errorf("labels: -want +got:\n%s", diff)
		}
		if diff := cmp.Diff(healthy, conditions(n)); diff != "" {
			t.Errorf("conditions: -want +got:\n%s", diff)
		}
		if got := n.Status.NodeInfo.KubeletVersion; got != "v1.34.4-kubeedge-hollow" {
			t.Errorf("kubeletVersion %s", got)
		}
		if pods := n.Status.Allocatable.Pods(); !pods.IsZero() || n.Status.Allocatable.Cpu().IsZero() {
			t.Errorf("allocatable %v: pods must not fit", n.Status.Allocatable)
		}
		l := w.lease("edge-1")
		if *l.Spec.HolderIdentity != "edge-1" || *l.Spec.LeaseDurationSeconds != 40 || !l.Spec.RenewTime.Time.Equal(time.Now()) {
			t.Errorf("lease %+v", l.Spec)
		}
		owner := []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "edge-1", UID: "uid-edge-1"}}
		if diff := cmp.Diff(owner, l.OwnerReferences); diff != "" {
			t.Errorf("owner: -want +got:\n%s", diff)
		}
	})
}

func TestNodeThatIsThereIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		since := metav1.NewTime(time.Now().Add(-time.Hour).Truncate(time.Second))
		w := newWorld(t, []string{"edge-1"}, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "edge-1", UID: "old", Labels: map[string]string{"mine": "stays"}},
			Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: "mine", Effect: corev1.TaintEffectNoSchedule}}},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
				{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, LastTransitionTime: since},
				{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, LastTransitionTime: since},
				{Type: "Mine", Status: corev1.ConditionTrue, LastTransitionTime: since},
			}},
		})
		defer w.stop()
		w.mustRegister()
		n := w.node("edge-1")
		if n.Labels["mine"] != "stays" || n.Labels["node-role.fluidos.eu/sensors"] != "true" || len(n.Spec.Taints) != 1 {
			t.Errorf("labels %v, taints %v", n.Labels, n.Spec.Taints)
		}
		for _, c := range n.Status.Conditions {
			moved := !c.LastTransitionTime.Time.Equal(since.Time)
			if want := c.Type == corev1.NodeReady || c.Type == corev1.NodeMemoryPressure || c.Type == corev1.NodePIDPressure; moved != want {
				t.Errorf("condition %s: last transition moved %v, want %v", c.Type, moved, want)
			}
		}
		if got := conditions(n); got["Mine"] != "True" || got[corev1.NodeReady] != "True" {
			t.Errorf("conditions %v", got)
		}
		if got := w.lease("edge-1").OwnerReferences[0].UID; got != "old" {
			t.Errorf("lease is owned by %s, want old", got)
		}
	})
}

func TestHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var names []string
		for i := range 20 {
			names = append(names, fmt.Sprintf("edge-%d", i))
		}
		w := newWorld(t, names)
		defer w.stop()
		w.mustRegister()
		pass(time.Second)
		w.setCut("edge-7", true)
		w.counts()
		pass(10 * time.Minute)
		renewals, statuses := w.counts()
		for _, name := range names {
			wantR, wantS := 60, 2
			if name == "edge-7" {
				wantR, wantS = 0, 0
			}
			if renewals[name] != wantR || statuses[name] != wantS {
				t.Errorf("%s: %d renewals and %d statuses in 10 min, want %d and %d", name, renewals[name], statuses[name], wantR, wantS)
			}
		}
		// The node lifecycle controller has called it NotReady meanwhile.
		n := w.node("edge-7")
		n.Status.Conditions[3].Status = corev1.ConditionUnknown
		if err := w.client.Status().Update(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		w.setCut("edge-7", false)
		w.fleet.Hurry("edge-7")
		synctest.Wait()
		if diff := cmp.Diff(healthy, conditions(w.node("edge-7"))); diff != "" {
			t.Errorf("back again: -want +got:\n%s", diff)
		}
		if got := w.lease("edge-7").Spec.RenewTime.Time; !got.Equal(time.Now()) {
			t.Errorf("back again, lease renewed %s ago", time.Since(got))
		}
		w.counts()
		w.cancel()
		pass(10 * time.Minute)
		if renewals, statuses := w.counts(); len(renewals) != 0 || len(statuses) != 0 {
			t.Errorf("after the end: %v and %v", renewals, statuses)
		}
	})
}

func TestAPIServerOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, []string{"edge-1"})
		defer w.stop()
		w.mustRegister()
		w.setOut(errors.New("connection refused"))
		pass(time.Minute)
		w.setOut(nil)
		w.counts()
		pass(2 * time.Second)
		renewals, statuses := w.counts()
		if renewals["edge-1"] != 1 || statuses["edge-1"] != 1 {
			t.Errorf("2 s after the API server is back: %d renewals and %d statuses, want one of each", renewals["edge-1"], statuses["edge-1"])
		}
	})
}

func TestNodeThatWasDeletedStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, []string{"edge-1"})
		defer w.stop()
		w.mustRegister()
		// The garbage collector takes the Lease along.
		for _, o := range []client.Object{w.node("edge-1"), w.lease("edge-1")} {
			if err := w.client.Delete(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
		pass(10 * time.Minute)
		for _, o := range []client.Object{&corev1.Node{}, &coordinationv1.Lease{}} {
			err := w.client.Get(t.Context(), types.NamespacedName{Name: "edge-1"}, o)
			if client.IgnoreNotFound(err) != nil || err == nil {
				t.Errorf("get %T: %v, want not found", o, err)
			}
		}
		// Somebody makes it again: it gets a Lease of its own.
		if err := w.client.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "edge-1"}}); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Second)
		w.lease("edge-1")
	})
}

func TestRegistrationIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, []string{"edge-1", "edge-2"})
		defer w.stop()
		w.setOut(errors.New("connection refused"))
		go func() {
			<-time.After(30 * time.Second)
			w.setOut(nil)
		}()
		begin := time.Now()
		w.mustRegister()
		if took := time.Since(begin); took > 32*time.Second {
			t.Errorf("registered %s after the API server came", took-30*time.Second)
		}
		all := strings.Join(w.progress, "\n")
		for _, want := range []string{"registered 0 of 2 nodes: node edge-1: create: connection refused", "registered 2 of 2 nodes"} {
			if !strings.Contains(all, want) {
				t.Errorf("progress does not say %q:\n%s", want, all)
			}
		}
	})
}

func TestRegistrationGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, []string{"edge-1"})
		defer w.stop()
		w.setOut(errors.New("connection refused"))
		begin := time.Now()
		err := w.register()
		if err == nil || !strings.Contains(err.Error(), "node edge-1: create: connection refused") || time.Since(begin) != 2*time.Minute {
			t.Errorf("after %s: %v, want an error after 2m0s that says what was refused", time.Since(begin), err)
		}
	})
}

func TestRegistrationEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, []string{"edge-1"})
		defer w.stop()
		w.setOut(errors.New("connection refused"))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		begin := time.Now()
		err := w.fleet.Register(ctx, func(error) {}, func(string) { t.Error("registered") })
		if err == nil || time.Since(begin) != 5*time.Second {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
	})
}
