package mapper_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/mapper"
	"github.com/fluidos-edge/testbed/controllers/sensor"
	"github.com/fluidos-edge/testbed/simulators/bluest"
)

const (
	macKT1B   = "C0832A001122"
	idKT1B    = "0034003e3137510732393432"
	topicKT1B = "sensor/C0832A001122/001d0000000111e1ac360002a5d5c51b/"
)

// kt1b is a STWINKT1B that announces two of its parts.
func kt1b() mapper.Board {
	return mapper.Board{
		Model: "STWINKT1B", MAC: macKT1B, ID: idKT1B, Node: "edge-1", Stream: bluest.EnvironmentalKT1B.UUID(),
		Announced: []nodecore.Characteristics{
			{
				Name: "humidity", Model: "HTS221", Manufacturer: "STMicroelectronics", Latency: "12",
				Type:       nodecore.SensorType{SensorCategory: "Environmental", SensorType: []string{"Humidity", "Temperature"}},
				Properties: nodecore.SensorProperties{Unit: nodecore.SensorUnits{Measurement: []string{"%", "Celsius"}, Latency: "ms"}},
			},
			{Model: "LPS22HH", Type: nodecore.SensorType{SensorCategory: "Environmental", SensorType: []string{"Pressure"}}},
		},
	}
}

func decodeAnnotation(t *testing.T, text string, into any) {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		t.Fatalf("annotation: %v", err)
	}
}

// offered is what the annotation of kt1b says.
func offered(node string) []nodecore.Characteristics {
	want := kt1b().Announced
	for i, part := range []string{"hts221", "lps22hh"} {
		want[i].UID = sensor.UID(idKT1B, macKT1B, part)
		want[i].Node = node
		want[i].Access = nodecore.SensorAccess{
			Type: "mqtt", Source: "ble-bluest",
			Resource: nodecore.SensorResource{Topic: topicKT1B + part, Node: node},
		}
	}
	return want
}

// cluster is a fake API server that tells of every apply.
func cluster(t *testing.T, funcs interceptor.Funcs, objects ...client.Object) (client.Client, <-chan string) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(devices.AddToScheme(scheme), corev1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	applied := make(chan string, 1000)
	before := funcs.Apply
	funcs.Apply = func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
		if before != nil {
			if err := before(ctx, c, o, opts...); err != nil {
				return err
			}
		}
		text, err := json.Marshal(o)
		if err != nil {
			return err
		}
		var m metav1.PartialObjectMetadata
		if err := json.Unmarshal(text, &m); err != nil {
			return err
		}
		if err := c.Apply(ctx, o, opts...); err != nil {
			return err
		}
		applied <- m.Kind + " " + m.Namespace + "/" + m.Name
		return nil
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithReturnManagedFields().WithInterceptorFuncs(funcs).Build(), applied
}

func all(applied <-chan string) (out []string) {
	for len(applied) > 0 {
		out = append(out, <-applied)
	}
	return out
}

func TestRegister(t *testing.T) {
	ctx := t.Context()
	c, applied := cluster(t, interceptor.Funcs{})
	const name = "stwinkt1b-c0832a001122"
	step := func(what string, b mapper.Board, want ...string) {
		t.Helper()
		changed, err := mapper.Register(ctx, c, "fluidos", b)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if diff := cmp.Diff(want, all(applied)); diff != "" || changed != (len(want) > 0) {
			t.Fatalf("%s: changed %v, applied (-want +got):\n%s", what, changed, diff)
		}
	}
	get := func() (d devices.Device) {
		t.Helper()
		if err := c.Get(ctx, client.ObjectKey{Namespace: "fluidos", Name: name}, &d); err != nil {
			t.Fatal(err)
		}
		return d
	}
	step("a new board", kt1b(), "DeviceModel fluidos/stwinkt1b", "Device fluidos/"+name)

	d := get()
	var got []nodecore.Characteristics
	decodeAnnotation(t, d.Annotations[devices.AnnotationSensors], &got)
	if diff := cmp.Diff(offered("edge-1"), got); diff != "" {
		t.Errorf("annotation (-want +got):\n%s", diff)
	}
	visitor := func(quantity string) devices.ProtocolConfig {
		return devices.ProtocolConfig{ProtocolName: "ble-bluest", ConfigData: &runtime.RawExtension{
			Raw: []byte(`{"characteristicUUID":"001d0000-0001-11e1-ac36-0002a5d5c51b","quantity":"` + quantity + `"}`),
		}}
	}
	readable := func(name, quantity string) devices.DeviceProperty {
		return devices.DeviceProperty{Name: name, Visitors: visitor(quantity), CollectCycle: 1000, ReportCycle: 10000, ReportToCloud: true}
	}
	want := devices.DeviceSpec{
		DeviceModelRef: &devices.ObjectRef{Name: "stwinkt1b"},
		NodeName:       "edge-1",
		Protocol:       devices.ProtocolConfig{ProtocolName: "ble-bluest", ConfigData: &runtime.RawExtension{Raw: []byte(`{"macAddress":"c0:83:2a:00:11:22"}`)}},
		Properties: []devices.DeviceProperty{
			readable("hts221-humidity", "humidity"),
			readable("hts221-temperature", "temperature"),
			readable("lps22hh-pressure", "pressure"),
		},
	}
	if diff := cmp.Diff(want, d.Spec); diff != "" {
		t.Errorf("Device (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{devices.LabelBoardID: idKT1B}, d.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if len(d.ManagedFields) != 1 || d.ManagedFields[0].Manager != "mapper" || d.ManagedFields[0].Operation != metav1.ManagedFieldsOperationApply {
		t.Errorf("managed fields %+v", d.ManagedFields)
	}
	var m devices.DeviceModel
	if err := c.Get(ctx, client.ObjectKey{Namespace: "fluidos", Name: "stwinkt1b"}, &m); err != nil {
		t.Fatal(err)
	}
	property := func(name, unit string) devices.ModelProperty {
		return devices.ModelProperty{Name: name, Type: "FLOAT", AccessMode: "ReadOnly", Unit: unit}
	}
	if diff := cmp.Diff(devices.DeviceModelSpec{Protocol: "ble-bluest", Properties: []devices.ModelProperty{
		property("hts221-humidity", "%RH"), property("hts221-temperature", "degC"),
		property("lps22hh-pressure", "hPa"), property("stts751-temperature", "degC"),
		property("ism330dhcx-accelerationx", "mg"), property("ism330dhcx-accelerationy", "mg"), property("ism330dhcx-accelerationz", "mg"),
		property("ism330dhcx-angularratex", "dps"), property("ism330dhcx-angularratey", "dps"), property("ism330dhcx-angularratez", "dps"),
		property("iis2mdc-magneticfieldx", "mGauss"), property("iis2mdc-magneticfieldy", "mGauss"), property("iis2mdc-magneticfieldz", "mGauss"),
		property("imp34dt05-soundlevel", "dB"),
		property("battery-level", "%"),
		{
			Name: "sampling-rate", Description: "notifications a second of the environmental characteristic",
			Type: "FLOAT", AccessMode: "ReadWrite", Minimum: "0.1", Maximum: "100", Unit: "Hz",
		},
	}}, m.Spec); diff != "" {
		t.Errorf("DeviceModel (-want +got):\n%s", diff)
	}

	step("nothing new", kt1b())

	d.Labels["mine"], d.Annotations["mine"] = "1", "1"
	if err := c.Update(ctx, &d); err != nil {
		t.Fatal(err)
	}
	step("others' labels and annotations", kt1b())

	changed := kt1b()
	changed.Announced[0].Latency = "20"
	step("another latency", changed, "Device fluidos/"+name)
	decodeAnnotation(t, get().Annotations[devices.AnnotationSensors], &got)
	if got[0].Latency != "20" {
		t.Errorf("latency %q, want 20", got[0].Latency)
	}
	if get().Labels["mine"] != "1" {
		t.Error("another's label is gone")
	}

	moved := kt1b()
	moved.Node = "edge-2"
	step("heard on another node", moved, "Device fluidos/"+name)
	decodeAnnotation(t, get().Annotations[devices.AnnotationSensors], &got)
	if diff := cmp.Diff(offered("edge-2"), got); diff != "" || get().Spec.NodeName != "edge-2" {
		t.Errorf("node %q, annotation (-want +got):\n%s", get().Spec.NodeName, diff)
	}

	d = get()
	d.Annotations[devices.AnnotationSensors] = "W10="
	if err := c.Update(ctx, &d); err != nil {
		t.Fatal(err)
	}
	step("somebody wrote the annotation", moved, "Device fluidos/"+name)

	if err := c.Delete(ctx, &d); err != nil {
		t.Fatal(err)
	}
	step("somebody deleted the Device", moved, "Device fluidos/"+name)
}

// What users wish of a property stays when the mapper applies, whoever wrote it
// how; what is the mapper's does not.
func TestWishesAreKept(t *testing.T) {
	const name = "stwinkt1b-c0832a001122"
	desired := func(v string) map[string]any { return map[string]any{"value": v} }
	for _, tt := range []struct {
		name string
		live []any // of the properties, as users left them
		want []any
	}{
		{"nothing wished", []any{
			map[string]any{"name": "hts221-humidity"},
		}, []any{
			map[string]any{"name": "hts221-humidity", "collectCycle": int64(1000), "reportCycle": int64(10000), "reportToCloud": true},
			map[string]any{"name": "hts221-temperature", "collectCycle": int64(1000), "reportCycle": int64(10000), "reportToCloud": true},
		}},
		{"everything wished", []any{
			map[string]any{"name": "hts221-humidity", "collectCycle": int64(50), "reportCycle": int64(500), "desired": desired("47"),
				"visitors": map[string]any{"protocolName": "modbus"}},
		}, []any{
			map[string]any{"name": "hts221-humidity", "collectCycle": int64(50), "reportCycle": int64(500), "desired": desired("47")},
			map[string]any{"name": "hts221-temperature", "collectCycle": int64(1000), "reportCycle": int64(10000), "reportToCloud": true},
		}},
		{"switched off by a client that leaves out what is false", []any{
			map[string]any{"name": "hts221-humidity", "collectCycle": int64(1000), "reportCycle": int64(10000)},
		}, []any{
			map[string]any{"name": "hts221-humidity", "collectCycle": int64(1000), "reportCycle": int64(10000)},
			map[string]any{"name": "hts221-temperature", "collectCycle": int64(1000), "reportCycle": int64(10000), "reportToCloud": true},
		}},
		{"in another order, and one that the board does not have", []any{
			map[string]any{"name": "smell", "desired": desired("roses")},
			map[string]any{"name": "hts221-temperature", "desired": desired("21"), "reportToCloud": true},
			map[string]any{"name": "hts221-humidity", "reportCycle": int64(7)},
		}, []any{
			map[string]any{"name": "hts221-humidity", "collectCycle": int64(1000), "reportCycle": int64(7)},
			map[string]any{"name": "hts221-temperature", "collectCycle": int64(1000), "reportCycle": int64(10000), "reportToCloud": true, "desired": desired("21")},
		}},
		{"no list at all", nil, []any{
			map[string]any{"name": "hts221-humidity", "collectCycle": int64(1000), "reportCycle": int64(10000), "reportToCloud": true},
			map[string]any{"name": "hts221-temperature", "collectCycle": int64(1000), "reportCycle": int64(10000), "reportToCloud": true},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			live := &unstructured.Unstructured{Object: map[string]any{}}
			live.SetGroupVersionKind(devices.GroupVersion.WithKind("Device"))
			live.SetNamespace("fluidos")
			live.SetName(name)
			if tt.live != nil {
				if err := unstructured.SetNestedSlice(live.Object, tt.live, "spec", "properties"); err != nil {
					t.Fatal(err)
				}
			}
			c, applied := cluster(t, interceptor.Funcs{}, live)
			b := kt1b()
			b.Announced = b.Announced[:1]
			for range 2 { // the second time nothing is to be done
				if _, err := mapper.Register(t.Context(), c, "fluidos", b); err != nil {
					t.Fatal(err)
				}
			}
			if got := all(applied); len(got) != 2 {
				t.Errorf("applied %q", got)
			}
			got := &unstructured.Unstructured{}
			got.SetGroupVersionKind(live.GroupVersionKind())
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(live), got); err != nil {
				t.Fatal(err)
			}
			properties, _, err := unstructured.NestedSlice(got.Object, "spec", "properties")
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range properties {
				if protocol, _, _ := unstructured.NestedString(p.(map[string]any), "visitors", "protocolName"); protocol != "ble-bluest" {
					t.Errorf("visitors of %v", p)
				}
				delete(p.(map[string]any), "visitors")
			}
			if diff := cmp.Diff(tt.want, properties); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What this package has no types for stays as well, and what is false.
func TestWishesOfAnyForm(t *testing.T) {
	theirs := map[string]any{"name": "a", "reportToCloud": false, "pushMethod": map[string]any{"mqtt": map[string]any{"topic": "t"}}, "visitors": "theirs", "more": "theirs"}
	device := func(property map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"properties": []any{"nonsense", property}}}}
	}
	want := device(map[string]any{"name": "a", "reportToCloud": true, "collectCycle": int64(1000), "visitors": "ours"})
	mapper.KeepWishes(want, device(theirs))
	got := device(map[string]any{"name": "a", "reportToCloud": false, "collectCycle": int64(1000), "visitors": "ours", "pushMethod": map[string]any{"mqtt": map[string]any{"topic": "t"}}})
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A wish that comes between looking and applying is not lost either.
func TestAWishIsNotOverwritten(t *testing.T) {
	const name = "stwinkt1b-c0832a001122"
	var racing atomic.Bool
	var c client.Client
	wish := func(ctx context.Context) error {
		var d devices.Device
		if err := c.Get(ctx, client.ObjectKey{Namespace: "fluidos", Name: name}, &d); err != nil {
			return err
		}
		d.Spec.Properties[0].Desired = &devices.TwinProperty{Value: "47"}
		return c.Update(ctx, &d)
	}
	c, _ = cluster(t, interceptor.Funcs{Apply: func(ctx context.Context, _ client.WithWatch, o runtime.ApplyConfiguration, _ ...client.ApplyOption) error {
		if racing.CompareAndSwap(true, false) {
			return wish(ctx)
		}
		return nil
	}})
	if _, err := mapper.Register(t.Context(), c, "fluidos", kt1b()); err != nil {
		t.Fatal(err)
	}
	b := kt1b()
	b.Announced[0].Latency = "20"
	racing.Store(true)
	if _, err := mapper.Register(t.Context(), c, "fluidos", b); !apierrors.IsConflict(err) {
		t.Errorf("error %v, want a conflict", err)
	}
	if _, err := mapper.Register(t.Context(), c, "fluidos", b); err != nil {
		t.Fatal(err)
	}
	var d devices.Device
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: "fluidos", Name: name}, &d); err != nil {
		t.Fatal(err)
	}
	var offered []nodecore.Characteristics
	decodeAnnotation(t, d.Annotations[devices.AnnotationSensors], &offered)
	if p := d.Spec.Properties[0]; p.Desired == nil || p.Desired.Value != "47" || offered[0].Latency != "20" {
		t.Errorf("property %+v, latency %q", p, offered[0].Latency)
	}
}

func objectMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: "fluidos"}
}
