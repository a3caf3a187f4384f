package erm_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/erm"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

const (
	boardID = "0123456789abcdef01234567"
	hts221  = `{"uid":"u-hts","name":"hall","model":"HTS221","manufacturer":"STMicroelecronics","latency":"12","properties":{"unit":{"latency":"ms"}},
		"type":{"sensorCategory":"Environmental","sensorType":["Humidity"]},"access":{"type":"mqtt","resource":{"topic":"sensors/one/humidity"}}}`
	lps22hh = `{"uid":"u-lps","model":"LPS22HH","type":{"sensorCategory":"Barometric","sensorType":["Pressure"]},"access":{"resource":{"topic":"sensor/two/pressure"}}}`
)

func annotation(elements ...string) map[string]string {
	return map[string]string{devices.AnnotationSensors: base64.StdEncoding.EncodeToString([]byte("[" + strings.Join(elements, ",") + "]"))}
}

// idOf is the board id of a Device of a test.
func idOf(name string) string {
	if name == "b1" {
		return boardID
	}
	return fmt.Sprintf("%x", sha256.Sum256([]byte(name)))[:24]
}

func device(name, node string, elements ...string) *devices.Device {
	return &devices.Device{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fluidos", Name: name, UID: types.UID("uid-of-" + name),
			Labels: map[string]string{devices.LabelBoardID: idOf(name)}, Annotations: annotation(elements...)},
		Spec: devices.DeviceSpec{NodeName: node},
	}
}

func node(name string, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
}

func identity() *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "fluidos", Name: "fluidos-node-identity"},
		Data: map[string]string{"nodeID": "provider-1", "domain": "fluidos.eu", "ip": "127.0.0.1", "port": "30001"}}
}

// cluster is a fake API server that counts writes.
type cluster struct {
	t *testing.T
	client.Client
	writes []string
	fail   func(verb string, o any) error
	opts   erm.Options
	blind  bool // no DeviceStatuses are defined
	erm    interface {
		Reconcile(context.Context, ctrl.Request) (ctrl.Result, error)
	}
}

func newCluster(t *testing.T, opts erm.Options, objects ...client.Object) *cluster {
	t.Helper()
	scheme, err := erm.NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, opts: opts, fail: func(string, any) error { return nil }}
	write := func(verb string, o client.Object) error {
		c.writes = append(c.writes, fmt.Sprintf("%s %T %s", verb, o, o.GetName()))
		return c.fail(verb, o)
	}
	c.Client = fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).
		WithIndex(&nodecore.Flavor{}, erm.ByDevice, erm.IndexDevice).WithIndex(&devices.Device{}, erm.ByBoard, erm.IndexBoard).
		WithInterceptorFuncs(interceptor.Funcs{
			List: func(ctx context.Context, w client.WithWatch, list client.ObjectList, o ...client.ListOption) error {
				if err := c.fail("list", list); err != nil {
					return err
				}
				return w.List(ctx, list, o...)
			},
			Create: func(ctx context.Context, w client.WithWatch, obj client.Object, o ...client.CreateOption) error {
				if err := write("create", obj); err != nil {
					return err
				}
				return w.Create(ctx, obj, o...)
			},
			Update: func(ctx context.Context, w client.WithWatch, obj client.Object, o ...client.UpdateOption) error {
				if err := write("update", obj); err != nil {
					return err
				}
				return w.Update(ctx, obj, o...)
			},
			Delete: func(ctx context.Context, w client.WithWatch, obj client.Object, o ...client.DeleteOption) error {
				if err := write("delete", obj); err != nil {
					return err
				}
				return w.Delete(ctx, obj, o...)
			},
		}).Build()
	c.restart()
	return c
}

// restart forgets all that ERM has in memory.
func (c *cluster) restart() {
	r := erm.NewReconciler(c.Client, slog.New(slog.DiscardHandler), c.opts, func() time.Time { return time.Unix(1e9, 0) })
	erm.SeeStatuses(r, !c.blind)
	c.erm = r
}

// reconcile Devices by name; it returns what was written meanwhile.
func (c *cluster) reconcile(names ...string) []string {
	c.t.Helper()
	c.writes = nil
	for _, name := range names {
		if _, err := c.erm.Reconcile(c.t.Context(), request(name)); err != nil {
			c.t.Fatal(err)
		}
	}
	return c.writes
}

func request(name string) ctrl.Request {
	return ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "fluidos", Name: name}}
}

func (c *cluster) flavors() map[string]nodecore.Flavor {
	c.t.Helper()
	var list nodecore.FlavorList
	if err := c.List(c.t.Context(), &list); err != nil {
		c.t.Fatal(err)
	}
	out := map[string]nodecore.Flavor{}
	for _, f := range list.Items {
		out[f.Name] = f
	}
	return out
}

func (c *cluster) names() []string {
	c.t.Helper()
	var out []string
	for name := range c.flavors() {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func (c *cluster) events() []string {
	c.t.Helper()
	var list corev1.EventList
	if err := c.List(c.t.Context(), &list); err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, e := range list.Items {
		out = append(out, fmt.Sprintf("%s %s %s: %s", e.Type, e.InvolvedObject.Name, e.Reason, e.Message))
	}
	slices.Sort(out)
	return out
}

// change a Device, Node, Flavor or ConfigMap as somebody else.
func change[T client.Object](c *cluster, o T, how func(T)) {
	c.t.Helper()
	if err := c.Get(c.t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
		c.t.Fatal(err)
	}
	how(o)
	if err := c.Update(c.t.Context(), o); err != nil {
		c.t.Fatal(err)
	}
}

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

const (
	offerHTS = "b1-" + boardID + "-hts221"
	offerLPS = "b1-" + boardID + "-lps22hh"
)

func offerOf(device, part string) string { return device + "-" + idOf(device) + "-" + part }

// The nine faults are those of the ERM that this one replaces.

func TestFault1NothingToOffer(t *testing.T) {
	bare := device("b1", "edge-1")
	bare.Annotations, bare.Labels = nil, nil
	c := newCluster(t, erm.Options{}, identity(), node("edge-1", corev1.ConditionTrue), bare,
		device("b2", "", hts221), device("b3", "edge-1"), device("b4", "no-such-node", hts221),
		device("b5", "edge-1", `{"uid":"u","model":"m"}`, hts221, `7`), device("b6", "edge-1", `{`))
	b7 := device("b7", "edge-1")
	b7.Annotations[devices.AnnotationSensors] = "not base64"
	if err := c.Create(t.Context(), b7); err != nil {
		t.Fatal(err)
	}
	c.reconcile("b1", "b2", "b3", "b4", "b5", "b6", "b7", "never-was")
	same(t, "flavors", []string{offerOf("b4", "hts221"), offerOf("b5", "hts221")}, c.names())
	same(t, "events", []string{
		"Warning b5 BadSensor: $[0].type.sensorType is missing or empty",
		"Warning b5 BadSensor: $[2] is a number, must be an object",
		"Warning b6 BadSensor: $ is not JSON: invalid character ']' looking for beginning of object key string",
		"Warning b7 BadSensor: $ is not base64: illegal base64 data at input byte 8",
	}, c.events())
	if c.flavors()[offerOf("b4", "hts221")].Spec.Availability {
		t.Error("a sensor on a node that does not exist is available")
	}
}

func TestFault2EachNodeItsOwn(t *testing.T) {
	objects := []client.Object{identity(), node("edge-1", corev1.ConditionTrue), node("edge-2", corev1.ConditionFalse),
		device("b1", "edge-1", hts221), device("b2", "edge-2", hts221)}
	c := newCluster(t, erm.Options{}, objects...)
	c.reconcile("b1", "b2")
	got := map[string]string{}
	for name, f := range c.flavors() {
		got[name] = fmt.Sprint(f.Labels[nodecore.LabelNode], " ", f.Spec.Availability)
	}
	same(t, "nodes", map[string]string{offerHTS: "edge-1 true", offerOf("b2", "hts221"): "edge-2 false"}, got)

	t.Run("as a fault to test with", func(t *testing.T) {
		c := newCluster(t, erm.Options{Nodes: func(d *devices.Device, all []corev1.Node) []string {
			out := []string{d.Spec.NodeName}
			for _, n := range all {
				if n.Name != d.Spec.NodeName {
					out = append(out, n.Name)
				}
			}
			return out
		}}, objects...)
		c.reconcile("b1")
		same(t, "flavors", []string{offerHTS, offerHTS + "-edge-2"}, c.names())
		f := c.flavors()[offerHTS+"-edge-2"]
		o, err := sensor.FromFlavor(&f)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "nodes of the second", []string{"edge-2", "edge-2", "edge-2"},
			[]string{f.Labels[nodecore.LabelNode], o.Characteristics.Node, o.Characteristics.Access.Resource.Node})
	})
}

func TestFault3LaterChanges(t *testing.T) {
	c := newCluster(t, erm.Options{}, identity(), node("edge-1", corev1.ConditionTrue), node("edge-2", corev1.ConditionTrue), device("b1", "edge-1", hts221))
	c.reconcile("b1")
	if err := c.Create(t.Context(), device("b2", "edge-1", lps22hh)); err != nil {
		t.Fatal(err)
	}
	c.reconcile("b2")
	same(t, "a Device added later", []string{offerHTS, offerOf("b2", "lps22hh")}, c.names())

	change(c, device("b1", ""), func(d *devices.Device) { d.Annotations = annotation(hts221, lps22hh) })
	same(t, "a sensor added", []string{"create *v1alpha1.Flavor " + offerLPS}, c.reconcile("b1"))

	change(c, device("b1", ""), func(d *devices.Device) {
		d.Annotations = annotation(strings.Replace(hts221, `"12"`, `"20"`, 1), lps22hh)
	})
	same(t, "a value changed", []string{"update *v1alpha1.Flavor " + offerHTS}, c.reconcile("b1"))
	same(t, "latency for people", "20 ms", c.flavors()[offerHTS].Annotations[nodecore.AnnotationLatency])

	change(c, device("b1", ""), func(d *devices.Device) { d.Spec.NodeName = "edge-2" })
	c.reconcile("b1")
	f := c.flavors()[offerHTS]
	o, _ := sensor.FromFlavor(&f)
	same(t, "moved to another node", []string{"edge-2", "edge-2", "edge-2"}, []string{o.Node, o.Characteristics.Node, o.Characteristics.Access.Resource.Node})

	change(c, device("b1", ""), func(d *devices.Device) { d.Annotations = annotation(lps22hh) })
	same(t, "a sensor removed", []string{"delete *v1alpha1.Flavor " + offerHTS}, c.reconcile("b1"))

	change(c, device("b1", ""), func(d *devices.Device) { d.Annotations = nil })
	c.reconcile("b1")
	if err := c.Delete(t.Context(), device("b2", "")); err != nil {
		t.Fatal(err)
	}
	c.reconcile("b2")
	same(t, "after the annotation and the Device are gone", []string(nil), c.names())
}

func TestFault4Owner(t *testing.T) {
	c := newCluster(t, erm.Options{}, identity(), device("b1", "edge-1", hts221))
	c.reconcile("b1")
	yes, no := true, false
	want := []metav1.OwnerReference{{APIVersion: "devices.kubeedge.io/v1beta1", Kind: "Device", Name: "b1", UID: "uid-of-b1", Controller: &yes, BlockOwnerDeletion: &no}}
	same(t, "owners", want, c.flavors()[offerHTS].OwnerReferences)

	// Another Device of the same name: the garbage collector must not take its Flavor for the old one's.
	if err := c.Delete(t.Context(), device("b1", "")); err != nil {
		t.Fatal(err)
	}
	again := device("b1", "edge-1", hts221)
	again.UID = "another"
	if err := c.Create(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	c.reconcile("b1")
	want[0].UID = "another"
	same(t, "owners after the Device was made anew", want, c.flavors()[offerHTS].OwnerReferences)
}

func TestFault5NamesAreKept(t *testing.T) {
	nameless := device("b2", "edge-1", hts221, lps22hh)
	nameless.Labels = nil
	c := newCluster(t, erm.Options{}, identity(), device("b1", "edge-1", hts221, lps22hh), nameless)
	// Stopped after the first write.
	n := 0
	c.fail = func(verb string, o any) error {
		if _, ok := o.(*nodecore.Flavor); ok && verb == "create" {
			if n++; n > 1 {
				return errors.New("connection refused")
			}
		}
		return nil
	}
	if _, err := c.erm.Reconcile(t.Context(), request("b1")); err == nil {
		t.Error("a failed write is not an error")
	}
	c.fail = func(string, any) error { return nil }
	c.restart()
	same(t, "writes after the restart", []string{"create *v1alpha1.Flavor " + offerLPS}, c.reconcile("b1"))
	c.reconcile("b2")
	before := c.names()
	if len(before) != 4 {
		t.Errorf("flavors: %v, want 4", before)
	}
	c.restart()
	same(t, "writes after another restart", []string(nil), c.reconcile("b1", "b2"))
	same(t, "flavors", before, c.names())
}

func TestFault6And7WhatTheAnnotationSays(t *testing.T) {
	odd := strings.Replace(lps22hh, `"uid"`, `"batch":12345678901234567890,"calibrated":{"by":"<me>","on":null},"uid"`, 1)
	opts := erm.Options{
		Price:    nodecore.Price{Amount: "3", Currency: "CHF", Period: "daily"},
		Location: nodecore.Location{Latitude: "45.07", Longitude: "7.69", Country: "Italy", City: "Turin"},
	}
	c := newCluster(t, opts, identity(), node("edge-1", corev1.ConditionTrue), device("b1", "edge-1", hts221, odd))
	c.reconcile("b1")
	topics := map[string]string{}
	for _, f := range c.flavors() {
		o, err := sensor.FromFlavor(&f)
		if err != nil {
			t.Fatal(err)
		}
		topics[o.Key.Part] = o.Topic
	}
	same(t, "topics", map[string]string{"hts221": "sensors/one/humidity", "lps22hh": "sensor/two/pressure"}, topics)
	f := c.flavors()[offerHTS]
	o, _ := sensor.FromFlavor(&f)
	same(t, "name", "hall", o.Characteristics.Name)
	same(t, "price", opts.Price, f.Spec.Price)
	same(t, "location", &opts.Location, f.Spec.Location)
	same(t, "owner", nodecore.NodeIdentity{Domain: "fluidos.eu", NodeID: "provider-1", IP: "127.0.0.1"}, f.Spec.Owner)
	same(t, "provider", "provider-1", f.Spec.ProviderID)
	same(t, "status", nodecore.FlavorStatus{}, f.Status)
	same(t, "labels", map[string]string{nodecore.LabelDevice: "b1", nodecore.LabelPart: "hts221", nodecore.LabelNode: "edge-1"}, f.Labels)
	raw := string(c.flavors()[offerLPS].Spec.FlavorType.TypeData.Raw)
	for _, want := range []string{`"batch":12345678901234567890`, `"on":null`} {
		if !strings.Contains(raw, want) {
			t.Errorf("unknown field is lost: no %s in %s", want, raw)
		}
	}
	same(t, "events", []string{"Warning b1 UnknownField: kept, but not known: $[1].batch, $[1].calibrated"}, c.events())
}

func TestFault8ErrorsAreReturned(t *testing.T) {
	c := newCluster(t, erm.Options{}, identity(), device("b1", "edge-1", hts221))
	c.fail = func(verb string, o any) error {
		if _, ok := o.(*corev1.NodeList); ok {
			return errors.New("connection refused")
		}
		return nil
	}
	if _, err := c.erm.Reconcile(t.Context(), request("b1")); err == nil || err.Error() != "list nodes: connection refused" {
		t.Errorf("got %v", err)
	}
	c.fail = func(string, any) error { return nil }
	c.reconcile("b1")
	same(t, "flavors after the error", []string{offerHTS}, c.names())
}

func TestFault9ReadBack(t *testing.T) {
	c := newCluster(t, erm.Options{}, identity(), node("edge-1", corev1.ConditionTrue), device("b1", "edge-1", hts221))
	c.reconcile("b1")
	f := c.flavors()[offerHTS]
	got, err := sensor.FromFlavor(&f)
	if err != nil {
		t.Fatal(err)
	}
	want := sensor.Offer{
		Key:     sensor.Key{Namespace: "fluidos", Device: "b1", Part: "hts221"},
		BoardID: boardID, Node: "edge-1", Topic: "sensors/one/humidity", Available: true, UID: "u-hts", Category: "Environmental",
		Characteristics: nodecore.Characteristics{
			UID: "u-hts", Node: "edge-1", Name: "hall", Model: "HTS221", Manufacturer: "STMicroelecronics", Latency: "12",
			Type:       nodecore.SensorType{SensorCategory: "Environmental", SensorType: []string{"Humidity"}},
			Properties: nodecore.SensorProperties{Unit: nodecore.SensorUnits{Latency: "ms"}},
			Access:     nodecore.SensorAccess{Type: "mqtt", Resource: nodecore.SensorResource{Topic: "sensors/one/humidity", Node: "edge-1"}},
		},
	}
	same(t, "offer", want, got)
	same(t, "type", nodecore.TypeSensor, f.Spec.FlavorType.TypeIdentifier)
}

func TestSteadyStateWritesNothing(t *testing.T) {
	c := newCluster(t, erm.Options{}, identity(), node("edge-1", corev1.ConditionTrue),
		device("b1", "edge-1", hts221, lps22hh, `{"bad":1}`, `{"uid":"x","model":"x","type":{"sensorType":["x"]},"odd":1.50}`))
	c.reconcile("b1")
	for range 3 {
		same(t, "writes", []string(nil), c.reconcile("b1"))
	}
	if n := len(c.events()); n != 4 {
		t.Errorf("%d events, want 3 bad and 1 for unknown fields: %v", n, c.events())
	}
	c.restart()
	c.reconcile("b1")
	if n := len(c.events()); n != 4 {
		t.Errorf("a restart added events: %v", c.events())
	}
}

// TestEvents: one for each problem, again when it comes back, not when something else changes.
func TestEvents(t *testing.T) {
	const bad = `{"uid":"u","model":"x","type":{}}`
	c := newCluster(t, erm.Options{}, identity(), device("b1", "edge-1", bad, hts221))
	c.reconcile("b1")
	count := func(when string, want int) {
		t.Helper()
		if got := c.events(); len(got) != want {
			t.Errorf("%s: %d events, want %d: %v", when, len(got), want, got)
		}
	}
	count("bad", 1)
	change(c, device("b1", ""), func(d *devices.Device) { d.Annotations = annotation(bad, hts221, lps22hh) })
	c.reconcile("b1")
	count("something else changed", 1)
	change(c, device("b1", ""), func(d *devices.Device) { d.Annotations = annotation(hts221) })
	c.reconcile("b1")
	change(c, device("b1", ""), func(d *devices.Device) { d.Annotations = annotation(bad) })
	c.reconcile("b1")
	count("mended and bad again", 2)

	c.fail = func(verb string, o any) error {
		if _, ok := o.(*corev1.Event); ok {
			return errors.New("refused")
		}
		return nil
	}
	change(c, device("b1", ""), func(d *devices.Device) { d.Annotations = annotation(`3`, hts221) })
	if _, err := c.erm.Reconcile(t.Context(), request("b1")); err == nil {
		t.Error("an event that could not be written is not an error")
	}
	same(t, "a failed event keeps nothing off offer", []string{offerHTS}, c.names())
	c.fail = func(string, any) error { return nil }
	c.reconcile("b1")
	count("written at the second try", 3)

	many := make([]string, 200)
	for i := range many {
		many[i] = `{"` + strings.Repeat("ö", 100) + `":1}`
	}
	change(c, device("b1", ""), func(d *devices.Device) { d.Annotations = annotation(many...) })
	c.reconcile("b1")
	count("very many problems", 3+21+1)
	var list corev1.EventList
	if err := c.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Items {
		if len(e.Message) > 1024 {
			t.Errorf("an API server refuses a message of %d bytes", len(e.Message))
		}
	}
}

func TestAvailability(t *testing.T) {
	c := newCluster(t, erm.Options{}, identity(), node("edge-1", corev1.ConditionUnknown), device("b1", "edge-1", hts221))
	c.reconcile("b1")
	for _, s := range []struct {
		status corev1.ConditionStatus
		want   bool
	}{{corev1.ConditionUnknown, false}, {corev1.ConditionTrue, true}, {corev1.ConditionFalse, false}, {corev1.ConditionTrue, true}} {
		n := node("edge-1", "")
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(n), n); err != nil {
			t.Fatal(err)
		}
		n.Status.Conditions[0].Status = s.status
		if err := c.Status().Update(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		c.reconcile("b1")
		same(t, "available, Ready="+string(s.status), s.want, c.flavors()[offerHTS].Spec.Availability)
	}
	if err := c.Delete(t.Context(), node("edge-1", "")); err != nil {
		t.Fatal(err)
	}
	c.reconcile("b1")
	same(t, "available, no node", false, c.flavors()[offerHTS].Spec.Availability)
}

func TestOthersEdits(t *testing.T) {
	mine := &nodecore.Flavor{ObjectMeta: metav1.ObjectMeta{Namespace: "fluidos", Name: "k8slice", Labels: map[string]string{nodecore.LabelDevice: "b1"}}}
	c := newCluster(t, erm.Options{}, identity(), node("edge-1", corev1.ConditionTrue), device("b1", "edge-1", hts221), mine)
	c.reconcile("b1")
	want := c.flavors()[offerHTS]
	for _, e := range []struct {
		name string
		how  func(*nodecore.Flavor)
	}{
		{"availability", func(f *nodecore.Flavor) { f.Spec.Availability = false }},
		{"price", func(f *nodecore.Flavor) { f.Spec.Price.Amount = "1000" }},
		{"an added field", func(f *nodecore.Flavor) { f.Spec.Location = &nodecore.Location{City: "Atlantis"} }},
		{"data", func(f *nodecore.Flavor) {
			f.Spec.FlavorType.TypeData.Raw = []byte(strings.Replace(string(f.Spec.FlavorType.TypeData.Raw), `"12"`, `"1"`, 1))
		}},
		{"a label", func(f *nodecore.Flavor) { delete(f.Labels, nodecore.LabelPart) }},
		{"the annotation", func(f *nodecore.Flavor) { f.Annotations[nodecore.AnnotationLatency] = "0" }},
		{"all labels and annotations", func(f *nodecore.Flavor) { f.Labels, f.Annotations = nil, nil }},
		{"the owner", func(f *nodecore.Flavor) { f.OwnerReferences = nil }},
	} {
		change(c, &nodecore.Flavor{ObjectMeta: metav1.ObjectMeta{Namespace: "fluidos", Name: offerHTS}}, e.how)
		same(t, e.name, []string{"update *v1alpha1.Flavor " + offerHTS}, c.reconcile("b1"))
		got := c.flavors()[offerHTS]
		got.ResourceVersion = want.ResourceVersion
		same(t, e.name, want, got)
	}
	change(c, &nodecore.Flavor{ObjectMeta: metav1.ObjectMeta{Namespace: "fluidos", Name: offerHTS}}, func(f *nodecore.Flavor) {
		f.Labels["team"], f.Annotations["note"], f.Finalizers = "a", "b", []string{"example.org/keep"}
	})
	same(t, "labels, annotations and finalizers of others stay", []string(nil), c.reconcile("b1"))

	change(c, device("b1", ""), func(d *devices.Device) { d.Annotations = nil })
	c.reconcile("b1")
	same(t, "a Flavor held by a finalizer is deleted once", []string(nil), c.reconcile("b1"))
	change(c, &nodecore.Flavor{ObjectMeta: metav1.ObjectMeta{Namespace: "fluidos", Name: offerHTS}}, func(f *nodecore.Flavor) { f.Finalizers = nil })
	same(t, "Flavors that are not of a Device stay", []string{"k8slice"}, c.names())
}

func TestNameTaken(t *testing.T) {
	yes := true
	other := &nodecore.Flavor{ObjectMeta: metav1.ObjectMeta{Namespace: "fluidos", Name: offerHTS,
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "example.org/v1", Kind: "Thing", Name: "x", UID: "y", Controller: &yes}}}}
	c := newCluster(t, erm.Options{}, identity(), device("b1", "edge-1", hts221, lps22hh), other)
	c.reconcile("b1")
	same(t, "flavors", []string{offerHTS, offerLPS}, c.names())
	same(t, "owner", other.OwnerReferences, c.flavors()[offerHTS].OwnerReferences)
	same(t, "events", []string{"Warning b1 BadSensor: flavor " + offerHTS + " exists and belongs to Thing x"}, c.events())
}

func TestIdentity(t *testing.T) {
	c := newCluster(t, erm.Options{}, device("b1", "edge-1", hts221))
	same(t, "without an identity", []string(nil), c.reconcile("b1"))
	half := identity()
	half.Data["nodeID"] = ""
	if err := c.Create(t.Context(), half); err != nil {
		t.Fatal(err)
	}
	same(t, "with half of one", []string(nil), c.reconcile("b1"))
	change(c, identity(), func(m *corev1.ConfigMap) { m.Data["nodeID"] = "provider-1" })
	c.reconcile("b1")
	same(t, "with one", "provider-1", c.flavors()[offerHTS].Spec.ProviderID)
	change(c, identity(), func(m *corev1.ConfigMap) { m.Data["nodeID"] = "provider-2" })
	c.reconcile("b1")
	same(t, "with another", "provider-2", c.flavors()[offerHTS].Spec.Owner.NodeID)
	if err := c.Delete(t.Context(), identity()); err != nil {
		t.Fatal(err)
	}
	same(t, "lost again, offers stay", []string(nil), c.reconcile("b1"))
	same(t, "flavors", []string{offerHTS}, c.names())
	change(c, device("b1", ""), func(d *devices.Device) { d.Annotations = nil })
	c.reconcile("b1")
	same(t, "but what is gone goes", []string(nil), c.names())
}

// TestDesiredIsPure: neither the Device nor the Nodes change, and names that
// cannot be labels are told.
func TestDesiredIsPure(t *testing.T) {
	d := device("b1", "edge-1", hts221, lps22hh)
	before := d.DeepCopy()
	a, _ := erm.Desired(d, []corev1.Node{*node("edge-1", corev1.ConditionTrue)}, "", nodecore.NodeIdentity{}, erm.Options{})
	b, _ := erm.Desired(d, []corev1.Node{*node("edge-1", corev1.ConditionTrue)}, "", nodecore.NodeIdentity{}, erm.Options{})
	same(t, "twice", a, b)
	same(t, "the Device", before, d)

	long := strings.Repeat("x", 64)
	for _, d := range []*devices.Device{device(long, "edge-1", hts221), device("b1", long, hts221)} {
		flavors, problems := erm.Desired(d, nil, "", nodecore.NodeIdentity{}, erm.Options{})
		if len(flavors) != 0 || len(problems) != 1 || !strings.Contains(problems[0].Message, "cannot be a label") {
			t.Errorf("%s on %s: %d flavors, %v", d.Name, d.Spec.NodeName, len(flavors), problems)
		}
	}
	d.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	if flavors, _ := erm.Desired(d, nil, "", nodecore.NodeIdentity{}, erm.Options{}); len(flavors) != 0 {
		t.Error("a Device that is being deleted has something on offer")
	}
}
