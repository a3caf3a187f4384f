package hollowedge_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/testing/protocmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	devicesv1 "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	dmi "github.com/fluidos-edge/testbed/controllers/api/dmi/v1beta1"
	"github.com/fluidos-edge/testbed/simulators/hollowedge"
)

// TestDeviceQuirks states what KubeEdge does with Devices, each as a requirement.
// That a mapper is not called is judged by the calls that follow: they come in
// order.
func TestDeviceQuirks(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"a mapper that registers gets the Devices of its node and protocol, and each one's model":         registerWithData,
		"a mapper that registers without data gets nothing and is not called":                             registerWithoutData,
		"a mapper without a protocol is refused":                                                          registerWithoutProtocol,
		"of two mappers of one protocol the last one is called":                                           lastMapper,
		"a new Device comes after its model, the next one of that model alone":                            newDevice,
		"a desired value gets to the mapper, and nothing but what changes the spec":                       desired,
		"a Device whose properties change places is not told":                                             reordered,
		"a changed DeviceModel comes with a Device's change within 5 s, and after that never":             changedModel,
		"a Device that goes to another node is removed here and registered there":                         otherNode,
		"a deleted Device is removed, its model before it if it was the last one of it":                   deletedDevice,
		"a Device that its mapper could not be told the end of comes back to the next mapper":             deletedUnheard,
		"a Device whose mapper does not answer is told of when a mapper registers, not before":            mapperDown,
		"a Device whose configData holds more than strings, numbers and booleans is not told":             nested,
		"a Device without its DeviceModel holds up all others for 9 s and is not told":                    withoutModel,
		"a DeviceModel that is deleted stays with its nodes, and holds up its Devices' changes":           deletedModel,
		"what changed more than 5 s before CloudCore comes to it is lost":                                 late,
		"a Device without deviceModelRef is ignored":                                                      withoutModelRef,
		"what happens while a node is cut off is never told":                                              cutOffDevices,
		"a Device of the time when its node was cut off is told when it changes, but never reported":      cutOffMember,
		"a Device deleted in a gap of the watch is not told":                                              tombstone,
		"a Device deleted and made again in a gap of the watch is an update":                              madeAgain,
		"a Device has a DeviceStatus of its name that it owns before anybody reports":                     ownStatus,
		"a Device without a node has a DeviceStatus too":                                                  withoutNode,
		"the first report of a property leaves an empty twin, the second fills it":                        firstReport,
		"a report counts whatever reportToCloud says":                                                     reportToCloud,
		"a report of what is not there is answered and dropped":                                           unknownReport,
		"a value with other letters is answered and dropped":                                              otherLetters,
		"a report without twins is refused":                                                               withoutTwins,
		"a twin without observedDesired, which takes EdgeCore down, is refused":                           withoutDesired,
		"a state comes as it was written, with lastOnlineTime, which stays":                               states,
		"a twin of a property that the Device has no longer goes with the next report":                    formerProperty,
		"a DeviceStatus that somebody deletes comes back with the next report":                            deletedStatus,
		"one request/s is served, 100 at once, more are refused":                                          tooMany,
		"each twin is a message, and shares the node's throttle with MQTT":                                sharedThrottle,
		"a node that is cut off loses one report, keeps what came before it knew, and drops what follows": cutOffReports,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

func registerWithData(t *testing.T) {
	sockets, path := withSockets(t)
	modbus, desired := device("modbus", "edge-1"), device("b", "edge-1")
	modbus.Spec.Protocol.ProtocolName = "modbus"
	desired.Spec.Properties[0].Desired = &devicesv1.TwinProperty{Value: "5", Metadata: map[string]string{"type": "float"}}
	b := start(t, sockets, withObjects(deviceModel("board"), device("a", "edge-1"), desired, device("far", "edge-2"), device("nowhere", ""), modbus))
	m := newMapper(t, path("edge-1"))
	got, err := m.MapperRegister(m.context(), &dmi.MapperRegisterRequest{WithData: true, Mapper: &dmi.MapperInfo{
		Name: "mapper", Version: "v1", ApiVersion: "v1beta1", Protocol: "bluest", Address: []byte(m.socket)}})
	if err != nil {
		t.Fatal(err)
	}
	want := func(name string, desired *dmi.TwinProperty) *dmi.Device {
		return &dmi.Device{Name: name, Namespace: "fluidos", Status: &dmi.DeviceStatus{}, Spec: &dmi.DeviceSpec{
			DeviceModelReference: "board",
			Protocol:             &dmi.ProtocolConfig{ProtocolName: "bluest", ConfigData: got.DeviceList[0].Spec.Protocol.ConfigData},
			Properties: []*dmi.DeviceProperty{
				{Name: "rate", CollectCycle: 1000, ReportCycle: 10_000, ReportToCloud: true, Desired: desired, Visitors: &dmi.VisitorConfig{}},
				{Name: "level", Desired: &dmi.TwinProperty{}, Visitors: &dmi.VisitorConfig{}},
			},
		}}
	}
	devices := []*dmi.Device{want("a", &dmi.TwinProperty{}), want("b", &dmi.TwinProperty{Value: "5", Metadata: map[string]string{"type": "float"}})}
	if diff := cmp.Diff(devices, got.DeviceList, protocmp.Transform()); diff != "" {
		t.Errorf("devices: -want +got:\n%s", diff)
	}
	if diff := cmp.Diff(map[string]any{"mac": "c0:ff:ee:00:00:01", "rssi": -61.5, "random": true}, config(t, got.DeviceList[0])); diff != "" {
		t.Errorf("configData: -want +got:\n%s", diff)
	}
	model := &dmi.DeviceModel{Name: "board", Namespace: "fluidos", Spec: &dmi.DeviceModelSpec{Properties: []*dmi.ModelProperty{
		{Name: "rate", Type: "FLOAT", AccessMode: "ReadWrite", Minimum: "0.1", Maximum: "100", Unit: "Hz"},
	}}}
	if diff := cmp.Diff([]*dmi.DeviceModel{model, model}, got.ModelList, protocmp.Transform()); diff != "" {
		t.Errorf("models: -want +got:\n%s", diff)
	}
	// Another protocol is another mapper's, and is told to that one only.
	o := newMapper(t, path("edge-1"))
	if diff := cmp.Diff([]string{"modbus"}, names(o.register("modbus"))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	b.desire("modbus", "1")
	b.desire("a", "1")
	o.gets("UpdateDevice fluidos/modbus")
	m.gets("UpdateDevice fluidos/a")
}

func registerWithoutData(t *testing.T) {
	b, path := startDevices(t)
	b.create(device("a", "edge-1"))
	b.awaitLog(1, "mapper not told", "device", "fluidos/a")
	m := newMapper(t, path("edge-1"))
	out, err := m.MapperRegister(m.context(), &dmi.MapperRegisterRequest{Mapper: &dmi.MapperInfo{Name: "mapper", Protocol: "bluest", Address: []byte(m.socket)}})
	if err != nil || len(out.DeviceList)+len(out.ModelList) > 0 {
		t.Errorf("got %v and %v, want nothing", err, out)
	}
	b.desire("a", "1")
	b.awaitLog(2, "mapper not told", "device", "fluidos/a")
	m.nothing()
}

func registerWithoutProtocol(t *testing.T) {
	_, path := startDevices(t)
	m := newMapper(t, path("edge-1"))
	_, err := m.MapperRegister(m.context(), &dmi.MapperRegisterRequest{WithData: true, Mapper: &dmi.MapperInfo{Name: "mapper"}})
	refused(t, err, "fail to register mapper mapper because the protocol is nil")
	_, err = m.MapperRegister(m.context(), &dmi.MapperRegisterRequest{WithData: true})
	refused(t, err, "mapper is missing: EdgeCore would crash")
}

func lastMapper(t *testing.T) {
	b, path := startDevices(t)
	first, last := newMapper(t, path("edge-1")), newMapper(t, path("edge-1"))
	first.register("bluest")
	b.create(device("a", "edge-1"))
	first.gets("CreateDeviceModel fluidos/board", "RegisterDevice fluidos/a")
	if diff := cmp.Diff([]string{"a"}, names(last.register("bluest"))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	b.desire("a", "1")
	last.gets("UpdateDevice fluidos/a")
	first.nothing()
}

func newDevice(t *testing.T) {
	b, path := startDevices(t)
	m := newMapper(t, path("edge-1"))
	if got := m.register("bluest"); len(got) > 0 {
		t.Errorf("got %v, want none", got)
	}
	b.create(device("a", "edge-1"))
	calls := m.gets("CreateDeviceModel fluidos/board", "RegisterDevice fluidos/a")
	if got := calls[0].model.Spec.Properties[0].Name; got != "rate" {
		t.Errorf("model's property %q, want rate", got)
	}
	if got := config(t, calls[1].device)["mac"]; got != "c0:ff:ee:00:00:01" {
		t.Errorf("mac %v", got)
	}
	b.create(device("b", "edge-1"))
	m.gets("RegisterDevice fluidos/b")
}

func desired(t *testing.T) {
	b, path := startDevices(t)
	m := newMapper(t, path("edge-1"))
	m.register("bluest")
	b.create(device("a", "edge-1"))
	m.gets("CreateDeviceModel fluidos/board", "RegisterDevice fluidos/a")
	b.change("a", func(d *devicesv1.Device) {
		d.Labels, d.Annotations = map[string]string{"a": "b"}, map[string]string{"c": "d"}
	})
	b.desire("a", "7.5")
	p := m.gets("UpdateDevice fluidos/a")[0].device.Spec.Properties[0]
	if p.Name != "rate" || p.Desired.Value != "7.5" {
		t.Errorf("property %q desired %q, want rate desired 7.5", p.Name, p.Desired.Value)
	}
	b.change("a", func(d *devicesv1.Device) {
		d.Spec.Properties[0].ReportCycle, d.Spec.Properties[0].ReportToCloud = 500, false
	})
	p = m.gets("UpdateDevice fluidos/a")[0].device.Spec.Properties[0]
	if p.ReportCycle != 500 || p.ReportToCloud {
		t.Errorf("report cycle %d, to cloud %v, want 500, false", p.ReportCycle, p.ReportToCloud)
	}
}

func reordered(t *testing.T) {
	b, path := startDevices(t)
	m := newMapper(t, path("edge-1"))
	m.register("bluest")
	b.create(device("a", "edge-1"))
	m.gets("CreateDeviceModel fluidos/board", "RegisterDevice fluidos/a")
	b.change("a", func(d *devicesv1.Device) {
		p := d.Spec.Properties
		p[0], p[1] = p[1], p[0]
	})
	b.create(device("fence", "edge-1"))
	m.gets("RegisterDevice fluidos/fence")
}

func changedModel(t *testing.T) {
	b, path := startDevices(t)
	m := newMapper(t, path("edge-1"))
	m.register("bluest")
	b.create(device("a", "edge-1"))
	m.gets("CreateDeviceModel fluidos/board", "RegisterDevice fluidos/a")
	changed := func(n int, unit string) {
		dm := &devicesv1.DeviceModel{}
		if err := b.client.Get(context.Background(), types.NamespacedName{Namespace: "fluidos", Name: "board"}, dm); err != nil {
			t.Fatal(err)
		}
		dm.Spec.Properties[0].Unit = unit
		if err := b.client.Update(context.Background(), dm); err != nil {
			t.Fatal(err)
		}
		b.awaitLog(n, "device model seen", "model", "fluidos/board")
	}
	changed(2, "kHz")
	b.create(device("b", "edge-1")) // the model is there already
	m.gets("RegisterDevice fluidos/b")
	b.desire("a", "1")
	if got := m.gets("UpdateDeviceModel fluidos/board", "UpdateDevice fluidos/a")[0].model.Spec.Properties[0].Unit; got != "kHz" {
		t.Errorf("unit %q, want kHz", got)
	}
	changed(3, "MHz")
	b.clock.Step(5 * time.Second)
	b.desire("a", "2")
	m.gets("UpdateDevice fluidos/a")
	o := newMapper(t, path("edge-1"))
	out, err := o.MapperRegister(o.context(), &dmi.MapperRegisterRequest{WithData: true, Mapper: &dmi.MapperInfo{Name: "o", Protocol: "bluest", Address: []byte(o.socket)}})
	if err != nil || out.ModelList[0].Spec.Properties[0].Unit != "kHz" {
		t.Errorf("%v: the model at registration is %v, want one in kHz", err, out)
	}
}

func otherNode(t *testing.T) {
	b, path := startDevices(t)
	here, there := newMapper(t, path("edge-1")), newMapper(t, path("edge-2"))
	here.register("bluest")
	there.register("bluest")
	b.create(device("a", "edge-1"))
	here.gets("CreateDeviceModel fluidos/board", "RegisterDevice fluidos/a")
	b.change("a", func(d *devicesv1.Device) { d.Spec.NodeName = "edge-2" })
	here.gets("RemoveDeviceModel fluidos/board", "RemoveDevice fluidos/a")
	there.gets("CreateDeviceModel fluidos/board", "RegisterDevice fluidos/a")
	here.mustReport("a", [3]string{"rate", "1", ""})
	b.reportsDropped("edge-1", "unknown", 1)
	there.mustReport("a", [3]string{"rate", "1", ""})
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{Twins: []devicesv1.Twin{emptyTwin("rate")}})
	// And to no node at all.
	b.change("a", func(d *devicesv1.Device) { d.Spec.NodeName = "" })
	there.gets("RemoveDeviceModel fluidos/board", "RemoveDevice fluidos/a")
	here.nothing()
}

func deletedDevice(t *testing.T) {
	b, path := startDevices(t)
	m := newMapper(t, path("edge-1"))
	m.register("bluest")
	b.create(device("a", "edge-1"))
	m.gets("CreateDeviceModel fluidos/board", "RegisterDevice fluidos/a")
	b.create(device("b", "edge-1"))
	m.gets("RegisterDevice fluidos/b")
	b.delete(device("a", ""))
	m.gets("RemoveDevice fluidos/a")
	b.delete(device("b", ""))
	m.gets("RemoveDeviceModel fluidos/board", "RemoveDevice fluidos/b")
	// Its DeviceStatus goes by ownership; nobody else takes it away, and nobody
	// reports into it.
	m.mustReport("b", [3]string{"rate", "1", ""})
	b.reportsDropped("edge-1", "unknown", 1)
	if s := b.deviceStatus("b"); s == nil || len(s.Status.Twins) > 0 || s.OwnerReferences[0].UID != "uid-b" {
		t.Errorf("got %+v, want an empty one of uid-b", s)
	}
}

func deletedUnheard(t *testing.T) {
	b, path := startDevices(t)
	m := newMapper(t, path("edge-1"))
	m.register("bluest")
	b.create(device("a", "edge-1"))
	m.gets("CreateDeviceModel fluidos/board", "RegisterDevice fluidos/a")
	m.stop()
	b.delete(device("a", ""))
	b.awaitLog(1, "mapper not told", "model", "fluidos/board")
	b.awaitLog(1, "mapper not told", "device", "fluidos/a")
	next := newMapper(t, path("edge-1"))
	if diff := cmp.Diff([]string{"a"}, names(next.register("bluest"))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	// Made anew and deleted, it goes.
	b.create(device("a", "edge-1"))
	next.gets("CreateDeviceModel fluidos/board", "RegisterDevice fluidos/a")
	b.delete(device("a", ""))
	next.gets("RemoveDeviceModel fluidos/board", "RemoveDevice fluidos/a")
	if got := next.register("bluest"); len(got) > 0 {
		t.Errorf("got %v, want none", got)
	}
}

func mapperDown(t *testing.T) {
	b, path := startDevices(t)
	m := newMapper(t, path("edge-1"))
	m.register("bluest")
	m.stop()
	b.create(device("a", "edge-1"))
	b.awaitLog(1, "mapper not told", "device", "fluidos/a")
	again := newMapper(t, path("edge-1"))
	b.create(device("b", "edge-1"))
	b.awaitLog(1, "mapper not told", "device", "fluidos/b")
	again.nothing()
	if diff := cmp.Diff([]string{"a", "b"}, names(again.register("bluest"))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func nested(t *testing.T) {
	b, path := startDevices(t)
	m := newMapper(t, path("edge-1"))
	m.register("bluest")
	b.create(device("a", "edge-1"))
	m.gets("CreateDeviceModel fluidos/board", "RegisterDevice fluidos/a")
	for i, raw := range []string{`{"a": {"b": "c"}}`, `{"a": ["b"]}`, `{"a": null}`, `{"Data": "x"}`} {
		b.change("a", func(d *devicesv1.Device) { d.Spec.Protocol.ConfigData = &runtime.RawExtension{Raw: []byte(raw)} })
		b.awaitLog(i+1, "mapper not told", "device", "fluidos/a")
	}
	if got := m.register("bluest"); len(got) > 0 {
		t.Errorf("got %v, want none", got)
	}
	b.change("a", func(d *devicesv1.Device) { d.Spec.Protocol.ConfigData = nil })
	if got := m.gets("UpdateDevice fluidos/a")[0].device.Spec.Protocol.ConfigData; got != nil {
		t.Errorf("configData %v, want none", got)
	}
}

// pass lets so many seconds pass, each when the Device without a model waits.
func (b *bed) pass(seconds int) {
	b.Helper()
	for range seconds {
		b.waiters(2)
		b.clock.Step(time.Second)
	}
}

func withoutModel(t *testing.T) {
	b, path := startDevices(t)
	m := newMapper(t, path("edge-1"))
	m.register("bluest")
	lost := device("lost", "edge-1")
	lost.Spec.DeviceModelRef.Name = "missing"
	b.create(lost)
	b.awaitLog(1, "device seen", "device", "fluidos/lost")
	b.create(device("a", "edge-1"))
	b.pass(8)
	b.waiters(2)
	if n := b.log.count("device goes without its model, which does not exist"); n != 0 {
		t.Error("given up before 9 s")
	}
	m.nothing()
	b.clock.Step(time.Second)
	b.awaitLog(1, "device goes without its model, which does not exist", "device", "fluidos/lost")
	m.gets("CreateDeviceModel fluidos/board", "RegisterDevice fluidos/a")
	b.awaitLog(1, "mapper not told", "device", "fluidos/lost")
	if diff := cmp.Diff([]string{"a"}, names(m.register("bluest"))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	// With its model there, its next change brings both.
	b.addModel("missing")
	b.desire("lost", "1")
	m.gets("UpdateDeviceModel fluidos/missing", "UpdateDevice fluidos/lost")
}

func deletedModel(t *testing.T) {
	b, m := startOne(t)
	b.delete(deviceModel("board"))
	b.awaitLog(1, "device model gone", "model", "fluidos/board")
	b.desire("a", "1")
	b.pass(9)
	b.awaitLog(1, "change did not reach the node's mapper", "device", "fluidos/a")
	if diff := cmp.Diff([]string{"a"}, names(m.register("bluest"))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	m.nothing()
}

func late(t *testing.T) {
	b, path := startDevices(t)
	m := newMapper(t, path("edge-1"))
	m.register("bluest")
	b.create(device("a", "edge-1"))
	m.gets("CreateDeviceModel fluidos/board", "RegisterDevice fluidos/a")
	lost := device("lost", "edge-1")
	lost.Spec.DeviceModelRef.Name = "missing"
	b.create(lost)
	b.awaitLog(1, "device seen", "device", "fluidos/lost")
	b.desire("a", "1")
	b.pass(9)
	b.awaitLog(1, "change did not reach the node's mapper", "device", "fluidos/a")
	b.change("a", func(d *devicesv1.Device) { d.Spec.Properties[0].ReportCycle = 1 })
	p := m.gets("UpdateDevice fluidos/a")[0].device.Spec.Properties[0]
	if p.Desired.Value != "1" || p.ReportCycle != 1 {
		t.Errorf("desired %q, report cycle %d, want 1, 1", p.Desired.Value, p.ReportCycle)
	}
}

func withoutModelRef(t *testing.T) {
	b, path := startDevices(t)
	m := newMapper(t, path("edge-1"))
	m.register("bluest")
	d := device("a", "edge-1")
	d.Spec.DeviceModelRef = nil
	b.create(d)
	b.awaitLog(1, "device ignored: it has no deviceModelRef, which takes CloudCore down", "device", "fluidos/a")
	b.delete(d)
	b.awaitLog(2, "device ignored: it has no deviceModelRef, which takes CloudCore down", "device", "fluidos/a")
	b.create(device("fence", "edge-1"))
	m.gets("CreateDeviceModel fluidos/board", "RegisterDevice fluidos/fence")
}

func cutOffDevices(t *testing.T) {
	b, path := startDevices(t)
	m := newMapper(t, path("edge-1"))
	m.register("bluest")
	b.create(device("a", "edge-1"), device("b", "edge-1"))
	for range 3 {
		m.next()
	}
	b.cut("edge-1")
	b.desire("a", "1")
	b.delete(device("b", ""))
	b.create(device("c", "edge-1"))
	for _, name := range []string{"a", "b", "c"} {
		b.awaitLog(1, "change did not reach the node's mapper", "device", "fluidos/"+name)
	}
	// A mapper may register meanwhile; the node has what it had.
	if diff := cmp.Diff([]string{"a", "b"}, names(m.register("bluest"))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	b.reconnect("edge-1")
	devices := m.register("bluest")
	if diff := cmp.Diff([]string{"a", "b"}, names(devices)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := devices[0].Spec.Properties[0].Desired.Value; got != "" {
		t.Errorf("desired %q, want none", got)
	}
	b.change("a", func(d *devicesv1.Device) { d.Spec.Properties[0].ReportCycle = 1 })
	if got := m.gets("UpdateDevice fluidos/a")[0].device.Spec.Properties[0].Desired.Value; got != "1" {
		t.Errorf("desired %q, want 1", got)
	}
}

func cutOffMember(t *testing.T) {
	b, path := startDevices(t)
	m := newMapper(t, path("edge-1"))
	m.register("bluest")
	b.create(device("before", "edge-1"))
	m.gets("CreateDeviceModel fluidos/board", "RegisterDevice fluidos/before")
	b.cut("edge-1")
	b.create(device("a", "edge-1"))
	b.awaitLog(1, "change did not reach the node's mapper", "device", "fluidos/a")
	b.reconnect("edge-1")
	b.desire("a", "1")
	m.gets("UpdateDevice fluidos/a")
	m.mustReport("a", [3]string{"rate", "1", ""})
	m.mustState("a", "online")
	b.reportsDropped("edge-1", "unknown", 2)
	b.delete(device("a", ""))
	m.gets("RemoveDevice fluidos/a")
	b.create(device("a", "edge-1"))
	m.gets("RegisterDevice fluidos/a")
	m.mustReport("a", [3]string{"rate", "1", ""})
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{Twins: []devicesv1.Twin{emptyTwin("rate")}})
}

// withFirstWatch gives the first watch on Devices into the test's hands.
func withFirstWatch(w watch.Interface) bedOption {
	return func(_ *bed, _ *hollowedge.Options, f *interceptor.Funcs) {
		pass, given := f.Watch, false
		f.Watch = func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) (watch.Interface, error) {
			own, err := pass(ctx, c, l, opts...)
			if _, ok := l.(*devicesv1.DeviceList); !ok || err != nil || given {
				return own, err
			}
			given = true
			own.Stop()
			return w, nil
		}
	}
}

func tombstone(t *testing.T) {
	w := watch.NewRaceFreeFake()
	sockets, path := withSockets(t)
	b := start(t, sockets, withFirstWatch(w), withObjects(deviceModel("board"), device("a", "edge-1"), device("b", "edge-1")))
	m := newMapper(t, path("edge-1"))
	m.register("bluest")
	b.delete(device("a", ""))
	w.Error(&metav1.Status{Status: metav1.StatusFailure, Code: 410, Reason: metav1.StatusReasonExpired})
	// The list that follows is without it.
	b.desire("b", "1")
	m.gets("UpdateDevice fluidos/b")
	if diff := cmp.Diff([]string{"a", "b"}, names(m.register("bluest"))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func madeAgain(t *testing.T) {
	w := watch.NewRaceFreeFake()
	sockets, path := withSockets(t)
	b := start(t, sockets, withFirstWatch(w), withObjects(deviceModel("board"), device("a", "edge-1")))
	m := newMapper(t, path("edge-1"))
	m.register("bluest")
	again := func(version, desired string) *devicesv1.Device {
		d := device("a", "edge-1")
		d.UID, d.ResourceVersion = types.UID(version), version
		if desired != "" {
			d.Spec.Properties[0].Desired = &devicesv1.TwinProperty{Value: desired}
		}
		return d
	}
	w.Modify(again("2001", ""))
	w.Modify(again("2003", "1"))
	m.gets("UpdateDevice fluidos/a")
	b.awaitLog(3, "device seen", "device", "fluidos/a")
}

func ownStatus(t *testing.T) {
	b, _ := startDevices(t)
	b.create(device("a", "edge-1"))
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{})
	yes := true
	want := []metav1.OwnerReference{{APIVersion: "devices.kubeedge.io/v1beta1", Kind: "Device", Name: "a", UID: "uid-a",
		Controller: &yes, BlockOwnerDeletion: &yes}}
	if diff := cmp.Diff(want, b.deviceStatus("a").OwnerReferences); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func withoutNode(t *testing.T) {
	sockets, _ := withSockets(t)
	b := start(t, sockets, withObjects(device("before", "")))
	b.create(device("a", ""), device("b", "edge-99"))
	for _, name := range []string{"before", "a"} {
		b.awaitStatus(name, devicesv1.DeviceStatusStatus{})
	}
}

// startOne has one Device "a" on edge-1, and its mapper.
func startOne(t *testing.T, options ...bedOption) (*bed, *mapper) {
	t.Helper()
	b, path := startDevices(t, options...)
	m := newMapper(t, path("edge-1"))
	m.register("bluest")
	b.create(device("a", "edge-1"))
	m.gets("CreateDeviceModel fluidos/board", "RegisterDevice fluidos/a")
	return b, m
}

func firstReport(t *testing.T) {
	b, m := startOne(t)
	m.mustReport("a", [3]string{"rate", "1", "5"})
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{Twins: []devicesv1.Twin{emptyTwin("rate")}})
	b.clock.Step(time.Second)
	m.mustReport("a", [3]string{"rate", "2", "5"}, [3]string{"level", "99.5", ""})
	at := b.clock.Now()
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{Twins: []devicesv1.Twin{twin("rate", "2", "5", at), emptyTwin("level")}})
	b.clock.Step(time.Second)
	m.mustReport("a", [3]string{"level", "99", ""})
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{Twins: []devicesv1.Twin{twin("rate", "2", "5", at), twin("level", "99", "", b.clock.Now())}})
}

func reportToCloud(t *testing.T) {
	b, m := startOne(t)
	for range 2 {
		m.mustReport("a", [3]string{"level", "1", ""}) // reportToCloud is false
	}
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{Twins: []devicesv1.Twin{twin("level", "1", "", b.clock.Now())}})
}

func unknownReport(t *testing.T) {
	b, m := startOne(t)
	m.mustReport("nobody", [3]string{"rate", "1", ""})
	m.mustState("nobody", "online")
	b.reportsDropped("edge-1", "unknown", 2)
	m.mustReport("a", [3]string{"colour", "1", ""}, [3]string{"rate", "1", ""}) // no such property
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{Twins: []devicesv1.Twin{emptyTwin("rate")}})
}

func otherLetters(t *testing.T) {
	b, m := startOne(t)
	twins := [][3]string{
		{"rate", "1 Hz", ""}, {"rate", "+1", ""}, {"rate", "50%", ""}, {"rate", "1", "ü"}, {"rate", strings.Repeat("1", 513), ""},
		{"ra te", "1", ""}, {strings.Repeat("r", 129), "1", ""}, {"", "1", ""},
	}
	m.mustReport("a", append(twins, [3]string{"rate", strings.Repeat("1", 512), "aZ9-_.,:/@#"})...)
	b.reportsDropped("edge-1", "invalid", len(twins))
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{Twins: []devicesv1.Twin{emptyTwin("rate")}})
	if n := b.metric("reports_published_total", "edge-1", ""); n != len(twins)+1 {
		t.Errorf("%d reports, want %d", n, len(twins)+1)
	}
}

func withoutTwins(t *testing.T) {
	_, m := startOne(t)
	refused(t, m.reports("a"), "ReportDeviceStatusRequest does not have twin data")
	_, err := m.ReportDeviceStatus(m.context(), &dmi.ReportDeviceStatusRequest{DeviceName: "a", DeviceNamespace: "fluidos"})
	refused(t, err, "ReportDeviceStatusRequest does not have twin data")
	refused(t, m.state("a", ""), "ReportDeviceStatesRequest is invalid data")
	refused(t, m.state("", "online"), "ReportDeviceStatesRequest is invalid data")
}

func withoutDesired(t *testing.T) {
	b, m := startOne(t)
	for _, last := range []*dmi.Twin{{PropertyName: "level", Reported: &dmi.TwinProperty{}}, {PropertyName: "level", ObservedDesired: &dmi.TwinProperty{}}} {
		_, err := m.ReportDeviceStatus(m.context(), &dmi.ReportDeviceStatusRequest{DeviceName: "a", DeviceNamespace: "fluidos",
			ReportedDevice: &dmi.DeviceStatus{Twins: []*dmi.Twin{
				{PropertyName: "rate", Reported: &dmi.TwinProperty{}, ObservedDesired: &dmi.TwinProperty{}}, last,
			}}})
		refused(t, err, `property "level" of device a lacks observedDesired or reported: EdgeCore would crash`)
	}
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{Twins: []devicesv1.Twin{twin("rate", "", "", b.clock.Now())}})
}

func states(t *testing.T) {
	b, m := startOne(t)
	online := ""
	for _, test := range []struct {
		state  string
		online bool
	}{{"unknown", false}, {"Online", true}, {"unhealthy", false}, {"ok", true}, {"OFFLINE", false}} {
		b.clock.Step(time.Second)
		m.mustState("a", test.state)
		if test.online {
			online = b.clock.Now().UTC().Format(time.RFC3339)
		}
		b.awaitStatus("a", devicesv1.DeviceStatusStatus{State: test.state, LastOnlineTime: online})
	}
	m.mustState("a", "tired")
	b.reportsDropped("edge-1", "invalid", 1)
	if got := b.deviceStatus("a").Status.State; got != "OFFLINE" {
		t.Errorf("state %q, want OFFLINE", got)
	}
}

func formerProperty(t *testing.T) {
	b, m := startOne(t)
	m.mustReport("a", [3]string{"rate", "1", ""}, [3]string{"level", "1", ""})
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{Twins: []devicesv1.Twin{emptyTwin("rate"), emptyTwin("level")}})
	b.change("a", func(d *devicesv1.Device) { d.Spec.Properties = d.Spec.Properties[1:] })
	m.gets("UpdateDevice fluidos/a")
	n := b.log.count("device status seen", "device", "fluidos/a")
	online := b.clock.Now().UTC().Format(time.RFC3339)
	m.mustState("a", "online") // changes the DeviceStatus, and CloudCore sees it
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{State: "online", LastOnlineTime: online, Twins: []devicesv1.Twin{emptyTwin("rate"), emptyTwin("level")}})
	b.awaitLog(n+1, "device status seen", "device", "fluidos/a")
	b.clock.Step(time.Second)
	m.mustReport("a", [3]string{"rate", "2", ""}, [3]string{"level", "2", ""})
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{State: "online", LastOnlineTime: online, Twins: []devicesv1.Twin{twin("level", "2", "", b.clock.Now())}})
}

func deletedStatus(t *testing.T) {
	b, m := startOne(t)
	m.mustReport("a", [3]string{"rate", "1", ""})
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{Twins: []devicesv1.Twin{emptyTwin("rate")}})
	b.delete(b.deviceStatus("a"))
	m.mustState("a", "ok")
	eventually(t, func() error {
		if s := b.deviceStatus("a"); s == nil || s.Status.State != "ok" {
			return fmt.Errorf("DeviceStatus %+v, want state ok", s)
		}
		return nil
	})
}

func tooMany(t *testing.T) {
	b, path := startDevices(t)
	m := newMapper(t, path("edge-1"))
	m.register("bluest")
	for range 99 {
		m.mustState("nobody", "online")
	}
	refused(t, m.state("nobody", "online"), "fail to report device states because of too many request: nobody")
	refused(t, m.reports("nobody"), "fail to report device status because of too many request: nobody")
	register := &dmi.MapperRegisterRequest{WithData: true, Mapper: &dmi.MapperInfo{Name: "mapper-2", Protocol: "bluest"}}
	_, err := m.MapperRegister(m.context(), register)
	refused(t, err, "fail to register mapper because of too many request: mapper-2")
	b.clock.Step(time.Second)
	m.mustState("nobody", "online")
	refused(t, m.state("nobody", "online"), "fail to report device states because of too many request: nobody")
	if n := b.metric("dmi_requests_refused_total", "edge-1", ""); n != 4 {
		t.Errorf("%d requests counted as refused, want 4", n)
	}
	// Each node serves its own.
	newMapper(t, path("edge-2")).register("bluest")
}

func sharedThrottle(t *testing.T) {
	b, m := startOne(t)
	s := newSink(t, 204)
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "a", "edge-1", "a", s.URL))
	queued := func(want int) {
		t.Helper()
		eventually(t, func() error {
			if n := b.metric("reports_queued", "edge-1", ""); n != want {
				return fmt.Errorf("%d reports queued, want %d", n, want)
			}
			return nil
		})
	}
	for range 35 {
		m.mustReport("a", [3]string{"rate", "1", ""}, [3]string{"level", "1", ""})
	}
	queued(10)
	b.publish("edge-1", msg("fluidos/a", "after the reports"))
	b.waiters(2)
	s.nothing()
	b.clock.Step(time.Second)
	queued(0)
	s.next()
	if n := b.metric("reports_forwarded_total", "edge-1", ""); n != 70 {
		t.Errorf("%d reports forwarded, want 70", n)
	}
}

func cutOffReports(t *testing.T) {
	sockets, path := withSockets(t)
	b := start(t, sockets, func(_ *bed, o *hollowedge.Options, _ *interceptor.Funcs) {
		o.Config.MessageQPS, o.Config.MessageBurst = 1, 2
	}, withObjects(deviceModel("board"), device("a", "edge-1")))
	m := newMapper(t, path("edge-1"))
	m.register("bluest")
	for range 2 {
		m.mustReport("a", [3]string{"rate", "1", ""})
	}
	first := twin("rate", "1", "", b.clock.Now())
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{Twins: []devicesv1.Twin{first}})
	b.cut("edge-1")
	m.mustState("a", "unhealthy") // waits for the throttle, and then is lost
	b.waiters(2)
	m.mustState("a", "offline") // waits
	b.clock.Step(time.Second)
	b.reportsDropped("edge-1", "cut", 1)
	b.waiters(1)
	m.mustState("a", "online") // EdgeCore knows by now
	m.mustReport("a", [3]string{"rate", "2", ""})
	b.reportsDropped("edge-1", "cut", 3)
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{Twins: []devicesv1.Twin{first}})
	b.reconnect("edge-1")
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{Twins: []devicesv1.Twin{first}, State: "offline"})
	b.clock.Step(time.Second)
	m.mustReport("a", [3]string{"rate", "3", ""})
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{Twins: []devicesv1.Twin{twin("rate", "3", "", b.clock.Now())}, State: "offline"})
}

func TestDevicesAfterRestart(t *testing.T) {
	t.Parallel()
	sockets, path := withSockets(t)
	b := start(t, sockets, withObjects(deviceModel("board"), device("a", "edge-1")))
	m := newMapper(t, path("edge-1"))
	m.register("bluest")
	for range 2 {
		m.mustReport("a", [3]string{"rate", "1", ""})
	}
	m.mustState("a", "offline")
	want := devicesv1.DeviceStatusStatus{Twins: []devicesv1.Twin{twin("rate", "1", "", b.clock.Now())}, State: "offline"}
	b.awaitStatus("a", want)
	b.cut("edge-1")
	b.create(device("b", "edge-1"))
	b.awaitLog(1, "change did not reach the node's mapper", "device", "fluidos/b")
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path("edge-1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	if err := m.state("a", "online"); err == nil {
		t.Error("a report after the end")
	}
	// All nodes know all Devices then, also those of a cut; no mapper is known.
	again := start(t, sockets, withCluster(b.cluster))
	again.desire("a", "1")
	again.awaitLog(1, "mapper not told", "device", "fluidos/a")
	m.nothing()
	next := newMapper(t, path("edge-1"))
	if diff := cmp.Diff([]string{"a", "b"}, names(next.register("bluest"))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	again.awaitStatus("a", want)
	next.mustState("b", "online")
	again.awaitStatus("b", devicesv1.DeviceStatusStatus{State: "online", LastOnlineTime: again.clock.Now().UTC().Format(time.RFC3339)})
	next.mustReport("a", [3]string{"rate", "2", "1"})
	want.Twins[0] = twin("rate", "2", "1", again.clock.Now())
	again.awaitStatus("a", want)
}

func TestDeviceStatusIsWrittenUntilItIs(t *testing.T) {
	t.Parallel()
	outage := apierrors.NewServiceUnavailable("out")
	var refuse func(error)
	b, m := startOne(t, func(_ *bed, _ *hollowedge.Options, f *interceptor.Funcs) { refuse = refuseStatuses(f) })
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{})
	refuse(outage)
	m.mustState("a", "online")
	b.awaitLog(1, "device status not written, trying again", "device", "fluidos/a")
	b.create(device("b", "edge-1")) // goes to its node all the same
	m.gets("RegisterDevice fluidos/b")
	b.awaitLog(1, "device status not written, trying again", "device", "fluidos/b")
	m.mustState("a", "offline")
	refuse(nil)
	at := b.clock.Now().UTC().Format(time.RFC3339)
	eventually(t, func() error { // of four writers one or more pause
		b.clock.Step(2 * time.Second)
		s := b.deviceStatus("a")
		if want := (devicesv1.DeviceStatusStatus{State: "offline", LastOnlineTime: at}); !reflect.DeepEqual(want, s.Status) || b.deviceStatus("b") == nil {
			return fmt.Errorf("DeviceStatus a is %+v, want %+v", s.Status, want)
		}
		return nil
	})
	b.awaitLog(1, "device statuses are written again")
}

func TestSocketInUse(t *testing.T) {
	t.Parallel()
	sockets, path := withSockets(t)
	b := start(t, sockets)
	if info, err := os.Stat(path("edge-1")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v: mode %s, want 0600", err, info.Mode())
	}
	for name, test := range map[string]struct{ path, want string }{
		"in use":         {path("edge-1"), "another process listens"},
		"without folder": {folder(t) + "/none/dmi.sock", "there is no folder"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := hollowedge.New(&hollowedge.Options{
				Config: &hollowedge.Config{Nodes: []hollowedge.Node{{Name: "edge-3", DMI: test.path}}}, Client: b.cluster, Registerer: prometheus.NewRegistry(),
			})
			if err != nil {
				t.Fatal(err)
			}
			err = r.Run(context.Background(), newSlog(), func(error) {})
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "edge-3") || !strings.Contains(err.Error(), test.path) {
				t.Errorf("got %v, want an error with %q, node and path", err, test.want)
			}
			if err := b.client.Get(context.Background(), types.NamespacedName{Name: "edge-3"}, &corev1.Node{}); !apierrors.IsNotFound(err) {
				t.Errorf("registered all the same: %v", err)
			}
		})
	}
}
