package router_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/fluidos-edge/testbed/controllers/api/accounts"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	rules "github.com/fluidos-edge/testbed/controllers/api/rules/v1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/router"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

const capabilityKey = "0123456789abcdef0123456789abcdef"

// provider is an API server with a router, a relay that says what the test
// wants, and no edge.
type provider struct {
	*testing.T
	ctx    context.Context
	client client.Client
	dir    string // with files kubeconfig and key
	relay  *fakeRelay
}

func newProvider(t *testing.T, crds ...string) *provider {
	p := newCluster(t, crds...)
	p.relay = &fakeRelay{paths: p.served, changed: make(chan struct{}), counts: map[sensor.Key]int64{}}
	admin := httptest.NewServer(p.relay)
	t.Cleanup(admin.Close)
	p.route("http://127.0.0.1:8180", admin.URL)
	return p
}

// newCluster is a provider without router and relay.
func newCluster(t *testing.T, crds ...string) *provider {
	assets := os.Getenv("TESTBED_ASSETS")
	if assets == "" {
		t.Skip("skipped: TESTBED_ASSETS does not point to a folder with etcd and kube-apiserver")
	}
	env := &envtest.Environment{BinaryAssetsDirectory: assets, CRDDirectoryPaths: crds, ErrorIfCRDPathMissing: true,
		ControlPlaneStartTimeout: time.Minute}
	config, err := env.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), sensors.AddToScheme(scheme), nodecore.AddToScheme(scheme), rules.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{T: t, ctx: t.Context(), client: client.WithFieldValidation(c, metav1.FieldValidationStrict)}
	for _, ns := range []string{"fluidos", "consumer-1"} {
		p.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
	}
	p.dir = t.TempDir()
	for name, content := range map[string][]byte{"kubeconfig": env.KubeConfig, "key": []byte(capabilityKey + "\n")} {
		if err := os.WriteFile(filepath.Join(p.dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// route starts the router.
func (p *provider) route(relay, admin string) {
	p.start("router", func(ctx context.Context, log *slog.Logger) error {
		return router.Run(ctx, log, func(error) {}, &router.Options{
			Kubeconfig: filepath.Join(p.dir, "kubeconfig"), Namespace: "fluidos", RelayURL: relay,
			RelayAdmin: []string{admin}, CapabilityKey: filepath.Join(p.dir, "key"),
		})
	})
}

// start something that runs until the test ends.
func (p *provider) start(what string, run func(context.Context, *slog.Logger) error) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx, slog.New(slog.NewTextHandler(p.Output(), nil)).With("of", what)) }()
	p.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			p.Errorf("%s: %v", what, err)
		}
	})
}

func (p *provider) create(o client.Object) {
	p.Helper()
	o.SetUID("")
	o.SetResourceVersion("")
	if err := p.client.Create(p.ctx, o); err != nil {
		p.Fatal(err)
	}
}

func (p *provider) delete(o client.Object) {
	p.Helper()
	if err := p.client.Delete(p.ctx, o); err != nil {
		p.Fatal(err)
	}
}

func (p *provider) node(name string, ready bool) *corev1.Node {
	p.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.create(n)
	p.setReady(n, ready)
	return n
}

func (p *provider) setReady(n *corev1.Node, ready bool) {
	p.Helper()
	c := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now()}
	if ready {
		c.Status = corev1.ConditionTrue
	}
	n.Status.Conditions = []corev1.NodeCondition{c}
	if err := p.client.Status().Update(p.ctx, n); err != nil {
		p.Fatal(err)
	}
}

// fault of a board, as ERM tells of it; "" for none.
func (p *provider) fault(device, fault string) {
	p.Helper()
	var list nodecore.FlavorList
	if err := p.client.List(p.ctx, &list, client.MatchingLabels{nodecore.LabelDevice: device}); err != nil {
		p.Fatal(err)
	}
	if len(list.Items) == 0 {
		p.Fatalf("no Flavor of %s", device)
	}
	for i := range list.Items {
		router.SetFault(&list.Items[i], fault)
		if err := p.client.Update(p.ctx, &list.Items[i]); err != nil {
			p.Fatal(err)
		}
	}
}

// until waits for a function to return "", which else says what it sees.
func (p *provider) until(see func() string) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		last := see()
		if last == "" {
			return
		}
		select {
		case <-ctx.Done():
			p.Fatalf("waited 30s; last seen: %s", last)
		case <-tick.C:
		}
	}
}

func (p *provider) rules() []rules.Rule {
	p.Helper()
	var list rules.RuleList
	if err := p.client.List(p.ctx, &list, client.InNamespace("fluidos")); err != nil {
		p.Fatal(err)
	}
	return list.Items
}

func (p *provider) untilRules(n int) []rules.Rule {
	p.Helper()
	var list []rules.Rule
	p.until(func() string {
		if list = p.rules(); len(list) != n {
			return fmt.Sprintf("%d Rules, want %d", len(list), n)
		}
		return ""
	})
	return list
}

func (p *provider) endpoints() []rules.RuleEndpoint {
	p.Helper()
	var list rules.RuleEndpointList
	if err := p.client.List(p.ctx, &list, client.InNamespace("fluidos")); err != nil {
		p.Fatal(err)
	}
	return list.Items
}

// untilReady waits for a condition Ready with a reason and returns the DataPath.
func (p *provider) untilReady(path client.Object, reason string) *sensors.DataPath {
	p.Helper()
	var dp sensors.DataPath
	p.until(func() string {
		if err := p.client.Get(p.ctx, client.ObjectKeyFromObject(path), &dp); err != nil {
			return err.Error()
		}
		c := apimeta.FindStatusCondition(dp.Status.Conditions, sensors.ConditionReady)
		if c == nil || c.Reason != reason || c.ObservedGeneration != dp.Generation {
			return fmt.Sprintf("condition Ready is %+v, want reason %s", c, reason)
		}
		return ""
	})
	return &dp
}

// served is what a relay that has taken up everything says.
func (p *provider) served() []accounts.DataPath {
	var paths sensors.DataPathList
	var flavors nodecore.FlavorList
	if err := errors.Join(p.client.List(p.ctx, &paths), p.client.List(p.ctx, &flavors)); err != nil {
		return nil // the test is over
	}
	var out []accounts.DataPath
	for _, dp := range paths.Items {
		a := accounts.DataPath{Namespace: dp.Namespace, Name: dp.Name, UID: string(dp.UID), Generation: dp.Generation}
		for i := range flavors.Items {
			o, err := sensor.FromFlavor(&flavors.Items[i])
			if err != nil {
				continue
			}
			if v, err := sensor.Select(dp.Spec.Sensors, o); err == nil && v.Selected {
				a.Matched++
			}
		}
		for _, e := range dp.Spec.Endpoints {
			a.Endpoints = append(a.Endpoints, accounts.Endpoint{Name: e.Name, URL: e.URL, Accepted: 7, Delivered: 5, Queued: 1,
				Dropped: map[string]int64{"overflow": 1}, LastDelivery: time.Unix(1700000000, 0)})
		}
		out = append(out, a)
	}
	return out
}

// fakeRelay serves accounts as a relay does.
type fakeRelay struct {
	paths func() []accounts.DataPath

	mu      sync.Mutex
	changed chan struct{}
	counts  map[sensor.Key]int64
	n       int
}

func (f *fakeRelay) arrive(list ...rules.Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range list {
		f.counts[sensor.Key{Namespace: r.Namespace, Device: r.Labels[nodecore.LabelDevice], Part: r.Labels[nodecore.LabelPart]}]++
	}
	f.n++
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeRelay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path != "/v1/accounts" || req.Header.Get("Authorization") != "Bearer "+sensor.AdminToken([]byte(capabilityKey)) {
		http.Error(w, "no", http.StatusUnauthorized)
		return
	}
	revision := func() string { return fmt.Sprintf("one.%d", f.n) }
	f.mu.Lock()
	same, changed := req.URL.Query().Get("after") == revision(), f.changed
	f.mu.Unlock()
	if wait, err := time.ParseDuration(req.URL.Query().Get("wait")); same && err == nil {
		timer := time.NewTimer(min(wait, 100*time.Millisecond))
		defer timer.Stop()
		select {
		case <-changed:
		case <-timer.C:
		case <-req.Context().Done():
		}
	}
	a := accounts.Accounts{Instance: "one", Synced: true, DataPaths: f.paths()}
	f.mu.Lock()
	for k, n := range f.counts {
		a.Sensors = append(a.Sensors, accounts.Sensor{Namespace: k.Namespace, Device: k.Device, Part: k.Part, Arrivals: n})
	}
	w.Header().Set("X-Revision", revision())
	f.mu.Unlock()
	_ = json.NewEncoder(w).Encode(a)
}

func TestAPIServer(t *testing.T) {
	p := newProvider(t, "../../charts/crds")
	edge1 := p.node("edge-1", true)
	edge2 := p.node("edge-2", false)
	p.create(router.FlavorOf(1, "hts221", "edge-1", "12"))
	p.create(router.FlavorOf(2, "hts221", "edge-1", "16"))
	p.create(router.FlavorOf(3, "hts221", "edge-1", "20"))
	p.create(router.FlavorOf(4, "hts221", "edge-2", "24"))

	t.Run("both RuleEndpoints are there before any Rule", func(t *testing.T) {
		p := p.with(t)
		p.until(func() string { return cmp.Diff(2, len(p.endpoints())) })
	})

	low := router.PathOf("consumer-1", "low", "17ms", "a", "b")
	t.Run("a DataPath gets a Rule for each sensor and is Ready when they arrive", func(t *testing.T) {
		p := p.with(t)
		began := time.Now()
		p.create(low)
		list := p.untilRules(2)
		var got []rules.RuleSpec
		for _, r := range list {
			got = append(got, r.Spec)
		}
		spec := func(board int) rules.RuleSpec {
			key := sensor.Key{Namespace: "fluidos", Device: fmt.Sprintf("d-%d", board), Part: "hts221"}
			return rules.RuleSpec{
				Source: "eventbus-fluidos", Target: "relay",
				SourceResource: map[string]string{
					"topic": fmt.Sprintf("sensor/%012X/00140000000111e1ac360002a5d5c51b/hts221", board), "node_name": "edge-1",
				},
				TargetResource: map[string]string{
					"resource": "http://127.0.0.1:8180/v1/samples/" + key.String() + "?c=" + sensor.Capability([]byte(capabilityKey), key),
				},
			}
		}
		if d := cmp.Diff([]rules.RuleSpec{spec(1), spec(2)}, got); d != "" {
			t.Error(d)
		}
		if want, got := router.FlavorOf(1, "hts221", "edge-1", "").Name, list[0].Name; got != want {
			t.Errorf("Rule is named %s, want %s", got, want)
		}
		var dp *sensors.DataPath
		p.until(func() string {
			dp = p.untilReady(low, "SensorsNotArrived")
			c := apimeta.FindStatusCondition(dp.Status.Conditions, sensors.ConditionReady)
			return cmp.Diff("2 of 2 sensors have not arrived yet: d-1/hts221, d-2/hts221", c.Message)
		})
		p.relay.arrive(list...)
		dp = p.untilReady(low, "Served")
		t.Logf("created to Ready in %s", time.Since(began))
		want := sensors.DataPathStatus{
			Conditions: []metav1.Condition{
				{Type: "Matched", Status: "True", Reason: "SensorsMatched", ObservedGeneration: 1, Message: "2 of 4 sensors on offer"},
				{Type: "Sourced", Status: "True", Reason: "SensorsArrive", ObservedGeneration: 1, Message: "2 sensors arrive"},
				{Type: "Delivering", Status: "True", Reason: "SamplesDelivered", ObservedGeneration: 1, Message: "2 endpoints took their last batch"},
				{Type: "Ready", Status: "True", Reason: "Served", ObservedGeneration: 1, Message: "2 sensors arrive, 2 endpoints are served"},
			},
			Matched: 2, Sensors: []string{"d-1/hts221", "d-2/hts221"},
			Misses: []sensors.Miss{
				{Sensor: "d-3/hts221", Reason: reason(t, low, router.FlavorOf(3, "hts221", "edge-1", "20"))},
				{Sensor: "d-4/hts221", Reason: reason(t, low, router.FlavorOf(4, "hts221", "edge-2", "24"))},
			},
			Endpoints: []sensors.EndpointStatus{
				{Name: "a", Accepted: 7, Delivered: 5, Queued: 1, Dropped: map[string]int64{"overflow": 1}},
				{Name: "b", Accepted: 7, Delivered: 5, Queued: 1, Dropped: map[string]int64{"overflow": 1}},
			},
			Total: sensors.Total{Endpoints: 2, Delivered: 10, Dropped: 2},
		}
		if d := cmp.Diff(want, dp.Status, cmpopts.IgnoreTypes(metav1.Time{})); d != "" {
			t.Error(d)
		}
	})

	t.Run("a second DataPath shares the Rules and is Ready without a new sample", func(t *testing.T) {
		p := p.with(t)
		before := p.rules()
		same := router.PathOf("consumer-1", "same", "17ms", "c")
		p.create(same)
		p.untilReady(same, "Served")
		if d := cmp.Diff(before, p.rules()); d != "" {
			t.Error(d)
		}
		p.delete(same)
	})

	t.Run("nothing matches", func(t *testing.T) {
		p := p.with(t)
		none := router.PathOf("consumer-1", "none", "5ms", "a")
		p.create(none)
		dp := p.untilReady(none, "NoSensors")
		want := "none of the 4 sensors on offer meets every requirement; nearest: d-1/hts221: " +
			reason(t, none, router.FlavorOf(1, "hts221", "edge-1", "12"))
		if c := apimeta.FindStatusCondition(dp.Status.Conditions, sensors.ConditionMatched); c.Status != "False" || c.Message != want {
			t.Errorf("condition Matched is %+v, want message %s", c, want)
		}
		if len(dp.Status.Misses) != 4 {
			t.Errorf("misses %+v", dp.Status.Misses)
		}
		p.delete(none)
	})

	t.Run("a requirement that can never be judged", func(t *testing.T) {
		p := p.with(t)
		bad := router.PathOf("consumer-1", "bad", "16", "a")
		p.create(bad)
		dp := p.untilReady(bad, "InvalidSelection")
		if c := apimeta.FindStatusCondition(dp.Status.Conditions, sensors.ConditionMatched); c.Status != "False" || !strings.HasPrefix(c.Message, "spec.sensors[0].lt: ") {
			t.Errorf("condition Matched is %+v", c)
		}
		p.delete(bad)
		p.untilRules(2)
	})

	t.Run("a node that is not ready gets its Rule when it is", func(t *testing.T) {
		p := p.with(t)
		far := router.PathOf("consumer-1", "far", "", "a")
		far.Spec.Sensors = []sensors.Requirement{{Field: "node", Equals: new("edge-2")}}
		p.create(far)
		dp := p.untilReady(far, "NodeNotReady")
		if c := apimeta.FindStatusCondition(dp.Status.Conditions, sensors.ConditionReady); c.Message != "1 of 1 sensors have not arrived yet: d-4/hts221 (node edge-2 is not ready)" {
			t.Errorf("message %q", c.Message)
		}
		p.untilRules(2)
		p.setReady(edge2, true)
		p.untilRules(3)
		p.delete(far)
		p.untilRules(2)
	})

	t.Run("a board that goes away and returns keeps its Rule", func(t *testing.T) {
		p := p.with(t)
		before, began := p.rules(), time.Now()
		p.fault("d-2", "its board is unhealthy")
		dp := p.untilReady(low, "SensorUnavailable")
		t.Logf("availability of a Flavor to condition of its DataPath in %s", time.Since(began))
		want := []metav1.Condition{
			{Type: "Matched", Status: "True", Reason: "SensorsMatched", ObservedGeneration: 1, Message: "2 of 4 sensors on offer"},
			{Type: "Sourced", Status: "False", Reason: "SensorUnavailable", ObservedGeneration: 1, Message: "1 of 2 sensors are not available: d-2/hts221 (its board is unhealthy)"},
			{Type: "Delivering", Status: "True", Reason: "SamplesDelivered", ObservedGeneration: 1, Message: "2 endpoints took their last batch"},
			{Type: "Ready", Status: "False", Reason: "SensorUnavailable", ObservedGeneration: 1, Message: "1 of 2 sensors are not available: d-2/hts221 (its board is unhealthy)"},
		}
		if d := cmp.Diff(want, dp.Status.Conditions, cmpopts.IgnoreTypes(metav1.Time{})); d != "" {
			t.Error(d)
		}
		p.fault("d-2", "")
		p.untilReady(low, "SensorsNotArrived")
		p.relay.arrive(before...)
		p.untilReady(low, "Served")
		if d := cmp.Diff(before, p.rules()); d != "" {
			t.Error(d)
		}
	})

	t.Run("another node of the same name gets new Rules", func(t *testing.T) {
		p := p.with(t)
		old := map[types.UID]bool{}
		for _, r := range p.rules() {
			old[r.UID] = true
		}
		p.delete(edge1)
		p.node("edge-1", true)
		p.until(func() string {
			list := p.rules()
			for _, r := range list {
				if old[r.UID] {
					return "an old Rule is still there"
				}
			}
			return cmp.Diff(2, len(list))
		})
		p.untilReady(low, "SensorsNotArrived")
		p.relay.arrive(p.rules()...)
		p.untilReady(low, "Served")
	})

	t.Run("another's Rule in the way stays, and is named", func(t *testing.T) {
		p := p.with(t)
		foreign := &rules.Rule{ObjectMeta: metav1.ObjectMeta{Namespace: "fluidos", Name: "mine"}, Spec: rules.RuleSpec{
			Source: "x", Target: "y", TargetResource: map[string]string{"resource": "http://127.0.0.1:9"},
			SourceResource: map[string]string{"node_name": "edge-1", "topic": "/sensor/000000000003/00140000000111e1ac360002a5d5c51b/hts221"},
		}}
		p.create(foreign)
		// The router has seen it once it has seen what came after it.
		ours := p.rules()[0]
		p.delete(&ours)
		p.until(func() string {
			for _, r := range p.rules() {
				if r.Name == ours.Name && r.UID != ours.UID {
					return ""
				}
			}
			return "Rule " + ours.Name + " is not there again"
		})
		third := router.PathOf("consumer-1", "third", "", "a")
		third.Spec.Sensors = []sensors.Requirement{{Field: "device", Equals: new("d-3")}}
		p.create(third)
		dp := p.untilReady(third, "RuleConflict")
		if c := apimeta.FindStatusCondition(dp.Status.Conditions, sensors.ConditionReady); !strings.Contains(c.Message, "Rule mine, which is not the router's") {
			t.Errorf("message %q", c.Message)
		}
		p.untilRules(3)
		p.delete(foreign)
		p.untilReady(third, "SensorsNotArrived")
		p.untilRules(3)
		p.delete(third)
	})

	t.Run("RuleEndpoints go after the last Rule", func(t *testing.T) {
		p := p.with(t)
		p.delete(low)
		p.untilRules(0)
		if n := len(p.endpoints()); n != 2 {
			t.Errorf("%d RuleEndpoints while sensors are on offer, want 2", n)
		}
		if err := p.client.DeleteAllOf(p.ctx, &nodecore.Flavor{}, client.InNamespace("fluidos")); err != nil {
			t.Fatal(err)
		}
		p.until(func() string { return cmp.Diff(0, len(p.endpoints())) })
	})
}

// reason why a DataPath does not select a sensor.
func reason(t *testing.T, dp *sensors.DataPath, f *nodecore.Flavor) string {
	t.Helper()
	o, err := sensor.FromFlavor(f)
	if err != nil {
		t.Fatal(err)
	}
	v, err := sensor.Select(dp.Spec.Sensors, o)
	if err != nil || v.Selected {
		t.Fatalf("selected %v, error %v; want neither", v.Selected, err)
	}
	return v.Reason
}

func (p *provider) with(t *testing.T) *provider {
	q := *p
	q.T, q.ctx = t, t.Context()
	return &q
}

// TestConformance writes to KubeEdge's and FLUIDOS's own CRDs.
func TestConformance(t *testing.T) {
	dir := os.Getenv("TESTBED_CONFORMANCE")
	if dir == "" {
		t.Skip("skipped: TESTBED_CONFORMANCE does not point to a folder with the CRDs of KubeEdge and FLUIDOS")
	}
	p := newProvider(t, filepath.Join(dir, "kubeedge"), filepath.Join(dir, "fluidos"), "../../charts/crds/sensors.fluidos.eu_datapaths.yaml")
	p.node("edge-1", true)
	p.create(router.FlavorOf(1, "hts221", "edge-1", "12"))
	dp := router.PathOf("consumer-1", "all", "", "a")
	p.create(dp)
	list := p.untilRules(1)
	p.relay.arrive(list...)
	p.untilReady(dp, "Served")

	// What the router wrote lost nothing there, and is valid by every field.
	written := []client.Object{&list[0]}
	for _, e := range p.endpoints() {
		written = append(written, &e)
	}
	if len(written) != 3 {
		t.Fatalf("%d objects, want a Rule and 2 RuleEndpoints", len(written))
	}
	for _, o := range written {
		again := o.DeepCopyObject().(client.Object)
		again.SetName("again-" + o.GetName())
		again.SetUID("")
		again.SetResourceVersion("")
		again.SetManagedFields(nil)
		if err := p.client.Create(p.ctx, again, client.DryRunAll); err != nil {
			t.Errorf("%T %s: %v", o, o.GetName(), err)
			continue
		}
		ignore := cmpopts.IgnoreTypes(metav1.ObjectMeta{}, metav1.TypeMeta{})
		if d := cmp.Diff(o, again, ignore); d != "" {
			t.Errorf("%T %s: %s", o, o.GetName(), d)
		}
	}
}
