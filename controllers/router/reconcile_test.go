package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	rules "github.com/fluidos-edge/testbed/controllers/api/rules/v1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

// fakeReconciler has a fake client, one sensor, one DataPath, and a relay that
// has answered.
func fakeReconciler(t *testing.T, logs *strings.Builder, funcs interceptor.Funcs) (*reconciler, *clocktesting.FakeClock, *events.FakeRecorder) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), sensors.AddToScheme(scheme), nodecore.AddToScheme(scheme), rules.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	flavor, path, node := FlavorOf(1, "p", "edge-1", "12"), PathOf("c", "x", "", "a"), readyNode("edge-1", "n", start)
	flavor.ResourceVersion, path.ResourceVersion = "", ""
	c := fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&sensors.DataPath{}).
		WithObjects(flavor, path, &node).WithInterceptorFuncs(funcs).Build()
	clk, recorder := clocktesting.NewFakeClock(start), events.NewFakeRecorder(10)
	r := &reconciler{
		namespace: "fluidos", client: c, recorder: recorder, clock: clk, ready: func(error) {},
		log:     slog.New(slog.NewTextHandler(logs, nil)),
		planner: newPlanner("fluidos", "http://relay", []byte("key"), sensor.Select),
	}
	s := sim{planner: r.planner, instance: "one", synced: true}
	s.flavors, s.world.paths = []nodecore.Flavor{*flavor}, []sensors.DataPath{*path}
	p := newPoller("http://admin", "token", &http.Client{Transport: canned("no accounts")}, clk, func() {})
	p.last = s.relay()
	r.pollers = []*poller{p}
	return r, clk, recorder
}

func (r *reconciler) list(t *testing.T) []rules.Rule {
	t.Helper()
	var list rules.RuleList
	if err := r.client.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func (r *reconciler) status(t *testing.T) sensors.DataPathStatus {
	t.Helper()
	var dp sensors.DataPath
	if err := r.client.Get(t.Context(), client.ObjectKey{Namespace: "c", Name: "x"}, &dp); err != nil {
		t.Fatal(err)
	}
	return dp.Status
}

func TestReconcile(t *testing.T) {
	var logs strings.Builder
	r, clk, recorder := fakeReconciler(t, &logs, interceptor.Funcs{})
	ready := errors.New("never called")
	r.ready = func(err error) { ready = err }
	reconcileOnce := func() {
		t.Helper()
		if _, err := r.Reconcile(t.Context(), reconcile.Request{}); err != nil {
			t.Fatal(err)
		}
	}
	reconcileOnce() // makes RuleEndpoints
	if n := len(r.list(t)); n != 0 {
		t.Fatalf("%d Rules at once with their RuleEndpoints", n)
	}
	reconcileOnce()
	clk.Step(pause)
	reconcileOnce()
	list := r.list(t)
	expect(t, len(list), 1)
	expect(t, ready, error(nil))
	st := r.status(t)
	expect(t, st.Matched, 1)
	expect(t, st.Total, sensors.Total{Endpoints: 1})
	expect(t, len(st.Conditions), 4)
	if strings.Contains(logs.String(), sensor.Capability([]byte("key"), keyFor(1))) || !strings.Contains(logs.String(), "rule created") {
		t.Errorf("log:\n%s", logs.String())
	}

	// No sample: an Event, and another Rule.
	clk.Step(window)
	reconcileOnce()
	expect(t, len(r.list(t)), 0)
	if e := <-recorder.Events; !strings.HasPrefix(e, "Warning NoSample ") {
		t.Errorf("event %q", e)
	}
	reconcileOnce()
	clk.Step(pause)
	reconcileOnce()
	again := r.list(t)
	expect(t, len(again), 1)

	r.pollers[0].last.err = errors.New("refused")
	reconcileOnce()
	if ready == nil || ready.Error() != "relay http://admin: refused" {
		t.Errorf("ready: %v", ready)
	}
}

// What fails is returned, does not keep the rest from being done, and is done
// the next time.
func TestReconcileErrors(t *testing.T) {
	var logs strings.Builder
	broken := map[string]bool{}
	fail := func(verb string, o client.Object) error {
		if broken[fmt.Sprintf("%s %T", verb, o)] {
			return errors.New("boom")
		}
		return nil
	}
	r, clk, _ := fakeReconciler(t, &logs, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if err := fail("create", o); err != nil {
				return err
			}
			return c.Create(ctx, o, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			if err := fail("delete", o); err != nil {
				return err
			}
			return c.Delete(ctx, o, opts...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			if err := fail("patch", o); err != nil {
				return err
			}
			return c.SubResource(sub).Patch(ctx, o, p, opts...)
		},
	})
	step := func(want ...string) {
		t.Helper()
		_, err := r.Reconcile(t.Context(), reconcile.Request{})
		if (err == nil) != (len(want) == 0) {
			t.Errorf("error %v, want %q", err, want)
		}
		for _, w := range want {
			if err != nil && !strings.Contains(err.Error(), w) {
				t.Errorf("error %v, want %q", err, w)
			}
		}
		clear(broken)
	}
	broken["create *v1.RuleEndpoint"] = true
	broken["patch *v1alpha1.DataPath"] = true
	step("create RuleEndpoint eventbus-fluidos: boom", "create RuleEndpoint relay: boom", "status of DataPath c/x: boom")
	broken["create *v1.RuleEndpoint"] = true
	step("create RuleEndpoint relay: boom")
	expect(t, r.status(t).Matched, 1) // written although the rest failed
	step()
	step()
	clk.Step(pause)
	broken["create *v1.Rule"] = true
	step("create Rule d-1-000000000000000000000001-p: boom")
	step()
	expect(t, len(r.list(t)), 1)
	if err := r.client.Delete(t.Context(), PathOf("c", "x", "")); err != nil {
		t.Fatal(err)
	}
	broken["delete *v1.Rule"] = true
	step("delete Rule d-1-000000000000000000000001-p: boom")
	step()
	expect(t, len(r.list(t)), 0)
	if err := r.client.Delete(t.Context(), FlavorOf(1, "p", "", "")); err != nil {
		t.Fatal(err)
	}
	step()
	clk.Step(pause)
	broken["delete *v1.RuleEndpoint"] = true
	step("delete RuleEndpoint relay: boom")
	step()
	var endpoints rules.RuleEndpointList
	if err := r.client.List(t.Context(), &endpoints); err != nil || len(endpoints.Items) != 0 {
		t.Errorf("RuleEndpoints %v, %v; want none", endpoints.Items, err)
	}
}

// Only what changes readiness is an event of a Node.
func TestReadinessChanged(t *testing.T) {
	is := func(change func(*corev1.Node)) bool {
		before := readyNode("n", "u", start)
		after := before.DeepCopy()
		change(after)
		return readinessChanged(event.UpdateEvent{ObjectOld: &before, ObjectNew: after})
	}
	expect(t, is(func(n *corev1.Node) { n.Status.Conditions[0].LastHeartbeatTime.Time = start.Add(time.Hour) }), false)
	expect(t, is(func(n *corev1.Node) { n.Labels = map[string]string{"a": "b"} }), false)
	expect(t, is(func(n *corev1.Node) { n.Status.Conditions[0].Status = "Unknown" }), true)
	expect(t, is(func(n *corev1.Node) { n.UID = "v" }), true)
	expect(t, is(func(n *corev1.Node) { n.Status.Conditions[0].LastTransitionTime.Time = start.Add(time.Hour) }), true)
}

// What the planner takes as the beginning of a Rule is what a relay counts then, not
// what it counted when it was last asked.
func TestRefresh(t *testing.T) {
	var arrivals atomic.Int64
	relay := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"instance": "i", "sensors": [{"namespace": "n", "device": "d", "part": "p", "arrivals": %d}]}`, arrivals.Load())
	}))
	defer relay.Close()
	news := 0
	p := newPoller(relay.URL, "token", relay.Client(), clock.RealClock{}, func() { news++ })
	count := func(r replica) int64 {
		counts, _ := countArrivals([]replica{r})
		return counts["i"][sensor.Key{Namespace: "n", Device: "d", Part: "p"}]
	}
	for _, n := range []int64{1, 3} {
		arrivals.Store(n)
		expect(t, count(p.refresh(t.Context())), n)
		expect(t, count(p.state()), n)
	}
	expect(t, news, 2) // run would not tell of what refresh has taken
	relay.Close()
	expect(t, count(p.refresh(t.Context())), int64(3))
}

func TestPoller(t *testing.T) {
	var answer atomic.Pointer[string] // code, space, body
	set := func(s string) { answer.Store(&s) }
	set("200 " + `{"instance": "i", "synced": true}`)
	queries := make(chan string, 100)
	relay := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		select {
		case queries <- req.URL.RawQuery:
		default:
		}
		code, body, _ := strings.Cut(*answer.Load(), " ")
		if req.Header.Get("Authorization") != "Bearer token" {
			code = "401"
		}
		w.Header().Set("X-Revision", "r7")
		var n int
		_, _ = fmt.Sscan(code, &n)
		w.WriteHeader(n)
		_, _ = w.Write([]byte(body))
	}))
	defer relay.Close()
	news := make(chan struct{}, 100)
	p := newPoller(relay.URL+"/", "token", relay.Client(), clock.RealClock{}, func() { news <- struct{}{} })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.run(ctx) }()
	<-news
	if s := p.state(); s.err != nil || s.accounts.Instance != "i" {
		t.Errorf("%+v", s)
	}
	expect(t, <-queries, "")
	p.setUrgent(true) // does not wait for the idle time
	expect(t, <-queries, "after=r7&wait=2s")
	for _, tc := range []struct{ answer, want string }{
		{"401 no token", "accounts: 401 Unauthorized: no token"},
		{"200 {", "accounts: unexpected end of JSON input"},
		{"200 {}", "accounts: no instance in 2 bytes: not a relay"},
	} {
		set(tc.answer)
		<-news
		if s := p.state(); s.err == nil || s.err.Error() != tc.want || s.accounts.Instance != "i" {
			t.Errorf("%s: %+v, want error %s and the last answer", tc.answer, s, tc.want)
		}
	}
	set("200 " + `{"instance": "j"}`)
	<-news
	if s := p.state(); s.err != nil || s.accounts.Instance != "j" {
		t.Errorf("%+v", s)
	}
	cancel()
	<-done

	relay.Close()
	p = newPoller(relay.URL, "token", &http.Client{}, clock.RealClock{}, func() {})
	_, _, _, err := p.fetch(t.Context(), "x")
	if err == nil || err.Error() != "accounts: dial: connect: connection refused" {
		t.Errorf("error %v, want one that names no port of ours", err)
	}
}

func FuzzAccounts(f *testing.F) {
	for _, s := range []string{`{"instance": "i"}`, `{}`, `[]`, `{"instance": "i", "sensors": [{"device": "d-1", "part": "p", "namespace": "fluidos", "arrivals": -1}], "dataPaths": [{"uid": "path-c-x", "generation": 1, "matched": 1, "endpoints": [{"name": "a", "dropped": {"": -9223372036854775808}}]}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		p := newPoller("http://relay", "", &http.Client{Transport: canned(body)}, clock.RealClock{}, func() {})
		a, _, _, err := p.fetch(t.Context(), "")
		if (a == nil) != (err != nil) {
			t.Fatalf("accounts %v, error %v", a, err)
		}
		if err != nil {
			return
		}
		s := newSim()
		s.offer(1, "edge-1", "12")
		s.ask("x", "")
		s.world.relays = []replica{{url: "u", accounts: a}}
		s.plan(s.world)
	})
}

// canned answers every request with 200 and the same body.
type canned []byte

func (c canned) RoundTrip(*http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	_, _ = w.Write(c)
	return w.Result(), nil
}

// Run says which setting is wrong.
func TestRunSettings(t *testing.T) {
	dir := t.TempDir()
	short, good := filepath.Join(dir, "short"), filepath.Join(dir, "good")
	for name, content := range map[string]string{short: "  short \n", good: "0123456789abcdef"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	admin := []string{"http://127.0.0.1:1"}
	for _, tc := range []struct {
		opts Options
		want string
	}{
		{Options{RelayURL: "", RelayAdmin: admin, CapabilityKey: good}, "--relay-url: "},
		{Options{RelayURL: "http://user:secret@h", RelayAdmin: admin, CapabilityKey: good}, `--relay-url: "http://user:xxxxx@h" is not http://HOST:PORT`},
		{Options{RelayURL: "http://h", CapabilityKey: good}, "--relay-admin: at least one"},
		{Options{RelayURL: "http://h", RelayAdmin: []string{"h"}, CapabilityKey: good}, "--relay-admin: "},
		{Options{RelayURL: "http://h", RelayAdmin: admin, CapabilityKey: short}, "holds 5 bytes, want at least 16"},
		{Options{RelayURL: "http://h", RelayAdmin: admin, CapabilityKey: good, Kubeconfig: filepath.Join(dir, "none")}, "--kubeconfig: "},
	} {
		err := Run(t.Context(), slog.New(slog.DiscardHandler), func(error) {}, &tc.opts)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("error %v, want %q", err, tc.want)
		}
	}
}
