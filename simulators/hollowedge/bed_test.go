package hollowedge_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	devicesv1 "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	rulesv1 "github.com/fluidos-edge/testbed/controllers/api/rules/v1"
	"github.com/fluidos-edge/testbed/simulators/hollowedge"
)

// patience is how long a test waits for what must come.
const patience = time.Minute

// eventually waits until holds reports nothing to complain about.
func eventually(t *testing.T, holds func() error) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		err := holds()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("after %s: %v", patience, err)
		}
	}
}

// bed is a runtime that runs, with a cluster and a clock that are not real, and
// brokers and targets that are.
type bed struct {
	*testing.T
	client  client.WithWatch
	objects []client.Object  // that are there before
	cluster client.WithWatch // instead of one of its own
	runtime *hollowedge.Runtime
	clock   *clocktesting.FakeClock
	reg     *prometheus.Registry
	log     *lines
	stop    func() error
}

type bedOption func(*bed, *hollowedge.Options, *interceptor.Funcs)

func withConfig(c hollowedge.Config) bedOption {
	return func(_ *bed, o *hollowedge.Options, _ *interceptor.Funcs) { o.Config = &c }
}

func withQueueLimit(n int) bedOption {
	return func(_ *bed, o *hollowedge.Options, _ *interceptor.Funcs) { o.QueueLimit = n }
}

func withOrder(order func(hollowedge.Event)) bedOption {
	return func(_ *bed, o *hollowedge.Options, _ *interceptor.Funcs) { o.Order = order }
}

func withObjects(objs ...client.Object) bedOption {
	return func(b *bed, _ *hollowedge.Options, _ *interceptor.Funcs) { b.objects = objs }
}

// withCluster has the runtime in another bed's cluster.
func withCluster(c client.WithWatch) bedOption {
	return func(b *bed, _ *hollowedge.Options, _ *interceptor.Funcs) { b.cluster = c }
}

// withRuleWatch gives the watch on Rules into the test's hands.
func withRuleWatch(w watch.Interface) bedOption {
	return func(_ *bed, _ *hollowedge.Options, f *interceptor.Funcs) {
		pass := f.Watch
		f.Watch = func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) (watch.Interface, error) {
			own, err := pass(ctx, c, l, opts...)
			if _, ok := l.(*rulesv1.RuleList); !ok || err != nil {
				return own, err
			}
			own.Stop()
			return w, nil
		}
	}
}

func scheme(t testing.TB) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, coordinationv1.AddToScheme, rulesv1.AddToScheme, devicesv1.AddToScheme} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func newClient(t testing.TB, objs ...client.Object) client.WithWatch {
	t.Helper()
	return fake.NewClientBuilder().WithScheme(scheme(t)).WithStatusSubresource(&corev1.Node{}).WithObjects(objs...).Build()
}

func newSlog() *slog.Logger { return slog.New(slog.DiscardHandler) }

// start returns when the runtime is ready and hears of every change to come.
func start(t *testing.T, options ...bedOption) *bed {
	t.Helper()
	b := &bed{
		T:     t,
		clock: clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)),
		reg:   prometheus.NewRegistry(),
		log:   &lines{changed: make(chan struct{})},
	}
	watching := map[reflect.Type]func(){}
	var watches []<-chan struct{}
	for _, l := range []client.ObjectList{&rulesv1.RuleList{}, &rulesv1.RuleEndpointList{}, &devicesv1.DeviceList{}, &devicesv1.DeviceModelList{}, &devicesv1.DeviceStatusList{}} {
		begun := make(chan struct{})
		watching[reflect.TypeOf(l)] = sync.OnceFunc(func() { close(begun) })
		watches = append(watches, begun)
	}
	funcs := interceptor.Funcs{
		Watch: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) (watch.Interface, error) {
			w, err := c.Watch(ctx, l, opts...)
			watching[reflect.TypeOf(l)]()
			return w, err
		},
	}
	opts := &hollowedge.Options{
		Config:     &hollowedge.Config{Nodes: []hollowedge.Node{{Name: "edge-1", MQTT: "127.0.0.1:0"}, {Name: "edge-2", MQTT: "127.0.0.1:0"}}},
		Clock:      b.clock,
		Registerer: b.reg,
		Seed:       1,
	}
	for _, o := range options {
		o(b, opts, &funcs)
	}
	if b.cluster == nil {
		b.cluster = newClient(t, b.objects...)
	}
	b.client = interceptor.NewClient(b.cluster, funcs)
	opts.Client = b.client
	r, err := hollowedge.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	b.runtime = r

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var ended error
	ready := make(chan struct{})
	var readyOnce sync.Once
	go func() {
		defer close(done)
		ended = r.Run(ctx, slog.New(b.log), func(reason error) {
			if reason == nil {
				readyOnce.Do(func() { close(ready) })
			}
		})
	}()
	b.stop = func() error {
		cancel()
		select {
		case <-done:
			return ended
		case <-time.After(patience):
			return fmt.Errorf("still running %s after its context ended", patience)
		}
	}
	t.Cleanup(func() {
		if err := b.stop(); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	for _, c := range append(watches, ready) {
		select {
		case <-c:
		case <-done:
			t.Fatalf("run ended: %v", ended)
		case <-time.After(patience):
			t.Fatalf("not ready after %s: %v", patience, b.log)
		}
	}
	return b
}

func (b *bed) create(objs ...client.Object) {
	b.Helper()
	for _, o := range objs {
		if err := b.client.Create(context.Background(), o); err != nil {
			b.Fatal(err)
		}
	}
}

func (b *bed) delete(objs ...client.Object) {
	b.Helper()
	for _, o := range objs {
		if err := b.client.Delete(context.Background(), o); err != nil {
			b.Fatal(err)
		}
	}
}

// endpoints are the two RuleEndpoints that Rules of this test use.
func endpoints(namespace string) []client.Object {
	return []client.Object{endpoint(namespace, "bus", rulesv1.TypeEventBus), endpoint(namespace, "web", rulesv1.TypeREST)}
}

func endpoint(namespace, name, typ string) *rulesv1.RuleEndpoint {
	return &rulesv1.RuleEndpoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       rulesv1.RuleEndpointSpec{RuleEndpointType: typ},
	}
}

func rule(namespace, name, node, topic, url string) *rulesv1.Rule {
	return &rulesv1.Rule{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: rulesv1.RuleSpec{
			Source: "bus", SourceResource: map[string]string{rulesv1.SourceTopic: topic, rulesv1.SourceNodeName: node},
			Target: "web", TargetResource: map[string]string{rulesv1.TargetResource: url},
		},
	}
}

// add creates Rules, one after the other, and waits until the router has each.
func (b *bed) add(rules ...*rulesv1.Rule) {
	b.Helper()
	for _, r := range rules {
		n := b.log.count("rule added", "rule", r.Namespace+"/"+r.Name)
		b.create(r)
		b.awaitLog(n+1, "rule added", "rule", r.Namespace+"/"+r.Name)
	}
}

// remove deletes Rules, one after the other, and waits until the router knows.
func (b *bed) remove(rules ...*rulesv1.Rule) {
	b.Helper()
	for _, r := range rules {
		n := b.log.count("rule deleted", "rule", r.Namespace+"/"+r.Name)
		b.delete(r)
		b.awaitLog(n+1, "rule deleted", "rule", r.Namespace+"/"+r.Name)
	}
}

// addEndpoints makes the RuleEndpoints and waits until the router has them.
func (b *bed) addEndpoints(namespace string) {
	b.Helper()
	eps := endpoints(namespace)
	b.create(eps...)
	for _, ep := range eps {
		b.awaitLog(1, "rule endpoint added", "endpoint", ep.GetNamespace()+"/"+ep.GetName())
	}
}

func (b *bed) removeEndpoint(namespace, name string) {
	b.Helper()
	b.delete(endpoint(namespace, name, ""))
	b.awaitLog(1, "rule endpoint deleted", "endpoint", namespace+"/"+name)
}

// awaitLog waits for the nth line with that message and attributes.
func (b *bed) awaitLog(n int, msg string, attrs ...any) {
	b.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		changed := b.log.wait()
		if b.log.count(msg, attrs...) >= n {
			return
		}
		select {
		case <-changed:
		case <-deadline.C:
			b.Fatalf("no line %q %v (%d times) within %s in:\n%v", msg, attrs, n, patience, b.log)
		}
	}
}

// publish publishes at a node's broker and returns when the broker has all.
func (b *bed) publish(node string, messages ...[2]string) {
	b.Helper()
	c := b.dial(node)
	defer c.Disconnect(0)
	for _, m := range messages {
		tok := c.Publish(m[0], 1, false, m[1])
		if !tok.WaitTimeout(patience) || tok.Error() != nil {
			b.Fatalf("publish to %s: %v", m[0], tok.Error())
		}
	}
}

func (b *bed) dial(node string) paho.Client {
	b.Helper()
	addr := b.runtime.BrokerAddr(node)
	if addr == nil {
		b.Fatalf("node %s has no broker", node)
	}
	c := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + addr.String()).SetAutoReconnect(false).SetClientID("test"))
	if tok := c.Connect(); !tok.WaitTimeout(patience) || tok.Error() != nil {
		b.Fatalf("connect to the broker of %s: %v", node, tok.Error())
	}
	return c
}

// metric is the sum of what a metric says of a node, for one reason if given.
func (b *bed) metric(name, node, reason string) int {
	b.Helper()
	families, err := b.reg.Gather()
	if err != nil {
		b.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != "hollowedge_"+name {
			continue
		}
	metrics:
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "node" && l.GetValue() != node || l.GetName() == "reason" && reason != "" && l.GetValue() != reason {
					continue metrics
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return int(sum)
}

func (b *bed) dropped(node, reason string, want int) {
	b.Helper()
	eventually(b.T, func() error {
		if got := b.metric("messages_dropped_total", node, reason); got != want {
			return fmt.Errorf("node %s dropped %d messages as %s, want %d", node, got, reason, want)
		}
		return nil
	})
}

// accounted checks that no message of a node is missing from its metrics.
func (b *bed) accounted(node string, published int) {
	b.Helper()
	eventually(b.T, func() error {
		p, f := b.metric("messages_published_total", node, ""), b.metric("messages_forwarded_total", node, "")
		d, q := b.metric("messages_dropped_total", node, ""), b.metric("messages_queued", node, "")
		if p != published || p != f+d+q {
			return fmt.Errorf("node %s: published %d, want %d = forwarded %d + dropped %d + queued %d", node, p, published, f, d, q)
		}
		return nil
	})
}

// waiters waits until so many goroutines wait for the clock. One is always the
// heartbeats'.
func (b *bed) waiters(n int) {
	b.Helper()
	eventually(b.T, func() error {
		if got := b.clock.Waiters(); got != n {
			return fmt.Errorf("%d wait for the clock, want %d", got, n)
		}
		return nil
	})
}

// request is what a target got.
type request struct {
	Method, Path, Body, From string
	Header                   http.Header
}

// sink is a target that answers with a status.
type sink struct {
	*httptest.Server
	t   *testing.T
	got chan request
}

func newSink(t *testing.T, status int) *sink {
	s := &sink{t: t, got: make(chan request, 10_000)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.got <- request{Method: r.Method, Path: r.URL.RequestURI(), Body: string(body), From: r.RemoteAddr, Header: r.Header}
		w.WriteHeader(status)
	}))
	t.Cleanup(s.Close)
	return s
}

// next is the next request; it waits for it.
func (s *sink) next() request {
	s.t.Helper()
	select {
	case r := <-s.got:
		return r
	case <-time.After(patience):
		s.t.Fatalf("nothing arrived within %s", patience)
		return request{}
	}
}

// bodies are the bodies of the next n requests.
func (s *sink) bodies(n int) []string {
	s.t.Helper()
	var out []string
	for range n {
		out = append(out, s.next().Body)
	}
	return out
}

// nothing checks that no request is there that was not asked for. What was
// published before must have been fenced.
func (s *sink) nothing() {
	s.t.Helper()
	select {
	case r := <-s.got:
		s.t.Errorf("arrived at %s, and should not: %q", s.URL, r.Body)
	default:
	}
}

// lines is a log that a test can wait on.
type lines struct {
	mu      sync.Mutex
	text    bytes.Buffer
	records []slog.Record
	changed chan struct{}
}

func (l *lines) Enabled(context.Context, slog.Level) bool { return true }

func (l *lines) Handle(ctx context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, r)
	if err := slog.NewTextHandler(&l.text, &slog.HandlerOptions{Level: slog.LevelDebug}).Handle(ctx, r); err != nil {
		return err
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

func (l *lines) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *lines) WithGroup(string) slog.Handler      { return l }

func (l *lines) wait() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) count(msg string, attrs ...any) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, r := range l.records {
		if r.Message != msg {
			continue
		}
		found := 0
		r.Attrs(func(a slog.Attr) bool {
			for i := 0; i < len(attrs); i += 2 {
				if a.Key == attrs[i] && a.Value.String() == fmt.Sprint(attrs[i+1]) {
					found++
				}
			}
			return true
		})
		if found == len(attrs)/2 {
			n++
		}
	}
	return n
}
