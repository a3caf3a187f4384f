package hollowedge_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	devicesv1 "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	dmi "github.com/fluidos-edge/testbed/controllers/api/dmi/v1beta1"
	"github.com/fluidos-edge/testbed/simulators/hollowedge"
)

// folder is a folder whose name leaves room for a socket's.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hollow")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// withSockets gives edge-1 and edge-2 sockets for mappers, and edge-1 a broker.
func withSockets(t *testing.T) (bedOption, func(node string) string) {
	dir := folder(t)
	path := func(node string) string { return filepath.Join(dir, node+".sock") }
	return withConfig(hollowedge.Config{Nodes: []hollowedge.Node{
		{Name: "edge-1", MQTT: "127.0.0.1:0", DMI: path("edge-1")}, {Name: "edge-2", DMI: path("edge-2")},
	}}), path
}

// startDevices has edge-1 and edge-2 with sockets, and the DeviceModel "board".
func startDevices(t *testing.T, options ...bedOption) (*bed, func(node string) string) {
	t.Helper()
	sockets, path := withSockets(t)
	b := start(t, append(options, sockets)...)
	b.addModel("board")
	return b, path
}

// deviceModel is a DeviceModel with one property.
func deviceModel(name string) *devicesv1.DeviceModel {
	return &devicesv1.DeviceModel{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fluidos", Name: name},
		Spec: devicesv1.DeviceModelSpec{Protocol: "bluest", Properties: []devicesv1.ModelProperty{
			{Name: "rate", Type: "FLOAT", AccessMode: "ReadWrite", Minimum: "0.1", Maximum: "100", Unit: "Hz"},
		}},
	}
}

// device is a Device of model "board" with the properties rate and level.
func device(name, node string) *devicesv1.Device {
	return &devicesv1.Device{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "fluidos", Name: name, UID: types.UID("uid-" + name),
			Annotations: map[string]string{devicesv1.AnnotationSensors: "W10="},
		},
		Spec: devicesv1.DeviceSpec{
			DeviceModelRef: &devicesv1.ObjectRef{Name: "board"},
			NodeName:       node,
			Protocol: devicesv1.ProtocolConfig{ProtocolName: "bluest",
				ConfigData: &runtime.RawExtension{Raw: []byte(`{"mac":"c0:ff:ee:00:00:01","rssi":-61.5,"random":true}`)}},
			Properties: []devicesv1.DeviceProperty{
				{Name: "rate", CollectCycle: 1000, ReportCycle: 10_000, ReportToCloud: true},
				{Name: "level"},
			},
		},
	}
}

// addModel makes a DeviceModel and waits until the cloud has it.
func (b *bed) addModel(name string) {
	b.Helper()
	b.create(deviceModel(name))
	b.awaitLog(1, "device model seen", "model", "fluidos/"+name)
}

// change changes a Device and waits until the cloud has seen it.
func (b *bed) change(name string, f func(*devicesv1.Device)) {
	b.Helper()
	d := &devicesv1.Device{}
	if err := b.client.Get(context.Background(), types.NamespacedName{Namespace: "fluidos", Name: name}, d); err != nil {
		b.Fatal(err)
	}
	n := b.log.count("device seen", "device", "fluidos/"+name)
	f(d)
	if err := b.client.Update(context.Background(), d); err != nil {
		b.Fatal(err)
	}
	b.awaitLog(n+1, "device seen", "device", "fluidos/"+name)
}

// desire sets the desired value of a Device's rate.
func (b *bed) desire(name, value string) {
	b.Helper()
	b.change(name, func(d *devicesv1.Device) { d.Spec.Properties[0].Desired = &devicesv1.TwinProperty{Value: value} })
}

// deviceStatus is nil if it is not there.
func (b *bed) deviceStatus(name string) *devicesv1.DeviceStatus {
	b.Helper()
	s := &devicesv1.DeviceStatus{}
	err := b.client.Get(context.Background(), types.NamespacedName{Namespace: "fluidos", Name: name}, s)
	if client.IgnoreNotFound(err) != nil {
		b.Fatal(err)
	}
	if err != nil {
		return nil
	}
	return s
}

// awaitStatus waits until a DeviceStatus is like that.
func (b *bed) awaitStatus(name string, want devicesv1.DeviceStatusStatus) {
	b.Helper()
	eventually(b.T, func() error {
		got := b.deviceStatus(name)
		if got == nil {
			return fmt.Errorf("there is no DeviceStatus %s", name)
		}
		if diff := cmp.Diff(want, got.Status); diff != "" {
			return fmt.Errorf("DeviceStatus %s: -want +got:\n%s", name, diff)
		}
		return nil
	})
}

// twin is a property as CloudCore writes it.
func twin(property, reported, desired string, at time.Time) devicesv1.Twin {
	value := func(v string) *devicesv1.TwinProperty {
		return &devicesv1.TwinProperty{Value: v, Metadata: map[string]string{"timestamp": fmt.Sprint(at.UnixMilli()), "type": "string"}}
	}
	return devicesv1.Twin{PropertyName: property, Reported: value(reported), ObservedDesired: value(desired)}
}

// emptyTwin is a property after its first report.
func emptyTwin(property string) devicesv1.Twin {
	return devicesv1.Twin{PropertyName: property, Reported: &devicesv1.TwinProperty{}, ObservedDesired: &devicesv1.TwinProperty{}}
}

// reportsDropped waits until so many reports of a node were dropped for a reason.
func (b *bed) reportsDropped(node, reason string, want int) {
	b.Helper()
	eventually(b.T, func() error {
		if got := b.metric("reports_dropped_total", node, reason); got != want {
			return fmt.Errorf("node %s dropped %d reports as %s, want %d", node, got, reason, want)
		}
		return nil
	})
}

// mapper is a mapper: a server that EdgeCore calls, and a client of EdgeCore.
type mapper struct {
	dmi.UnimplementedDeviceMapperServiceServer
	dmi.DeviceManagerServiceClient
	t      *testing.T
	socket string
	calls  chan mapperCall
	stop   func()
}

// mapperCall is a call of EdgeCore's.
type mapperCall struct {
	what   string // "RegisterDevice fluidos/a"
	device *dmi.Device
	model  *dmi.DeviceModel
}

// newMapper starts a mapper for the node behind a socket; it does not register.
func newMapper(t *testing.T, edge string) *mapper {
	t.Helper()
	m := &mapper{t: t, socket: filepath.Join(folder(t), "mapper.sock"), calls: make(chan mapperCall, 10_000)}
	l, err := net.Listen("unix", m.socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	dmi.RegisterDeviceMapperServiceServer(s, m)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	conn, err := grpc.NewClient("unix:"+edge, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	m.DeviceManagerServiceClient = dmi.NewDeviceManagerServiceClient(conn)
	stopped := false
	m.stop = func() {
		if stopped {
			return
		}
		stopped = true
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(m.stop)
	return m
}

func (m *mapper) called(what, namespace, name string, d *dmi.Device, dm *dmi.DeviceModel) {
	m.calls <- mapperCall{what: what + " " + namespace + "/" + name, device: d, model: dm}
}

func (m *mapper) RegisterDevice(_ context.Context, in *dmi.RegisterDeviceRequest) (*dmi.RegisterDeviceResponse, error) {
	m.called("RegisterDevice", in.Device.Namespace, in.Device.Name, in.Device, nil)
	return &dmi.RegisterDeviceResponse{}, nil
}

func (m *mapper) UpdateDevice(_ context.Context, in *dmi.UpdateDeviceRequest) (*dmi.UpdateDeviceResponse, error) {
	m.called("UpdateDevice", in.Device.Namespace, in.Device.Name, in.Device, nil)
	return &dmi.UpdateDeviceResponse{}, nil
}

func (m *mapper) RemoveDevice(_ context.Context, in *dmi.RemoveDeviceRequest) (*dmi.RemoveDeviceResponse, error) {
	m.called("RemoveDevice", in.DeviceNamespace, in.DeviceName, nil, nil)
	return &dmi.RemoveDeviceResponse{}, nil
}

func (m *mapper) CreateDeviceModel(_ context.Context, in *dmi.CreateDeviceModelRequest) (*dmi.CreateDeviceModelResponse, error) {
	m.called("CreateDeviceModel", in.Model.Namespace, in.Model.Name, nil, in.Model)
	return &dmi.CreateDeviceModelResponse{}, nil
}

func (m *mapper) UpdateDeviceModel(_ context.Context, in *dmi.UpdateDeviceModelRequest) (*dmi.UpdateDeviceModelResponse, error) {
	m.called("UpdateDeviceModel", in.Model.Namespace, in.Model.Name, nil, in.Model)
	return &dmi.UpdateDeviceModelResponse{}, nil
}

func (m *mapper) RemoveDeviceModel(_ context.Context, in *dmi.RemoveDeviceModelRequest) (*dmi.RemoveDeviceModelResponse, error) {
	m.called("RemoveDeviceModel", in.ModelNamespace, in.ModelName, nil, nil)
	return &dmi.RemoveDeviceModelResponse{}, nil
}

// register registers the mapper for a protocol and returns its Devices.
func (m *mapper) register(protocol string) []*dmi.Device {
	m.t.Helper()
	out, err := m.MapperRegister(m.context(), &dmi.MapperRegisterRequest{WithData: true,
		Mapper: &dmi.MapperInfo{Name: "mapper-" + protocol, Protocol: protocol, Address: []byte(m.socket)}})
	if err != nil {
		m.t.Fatal(err)
	}
	return out.DeviceList
}

func (m *mapper) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	m.t.Cleanup(cancel)
	return ctx
}

func (m *mapper) next() mapperCall {
	m.t.Helper()
	select {
	case c := <-m.calls:
		return c
	case <-time.After(patience):
		m.t.Fatalf("no call within %s", patience)
		return mapperCall{}
	}
}

// gets checks the next calls.
func (m *mapper) gets(want ...string) []mapperCall {
	m.t.Helper()
	var calls []mapperCall
	var got []string
	for range want {
		c := m.next()
		calls, got = append(calls, c), append(got, c.what)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		m.t.Fatalf("calls: -want +got:\n%s", diff)
	}
	return calls
}

// nothing checks that no call has come. What may have made one must be fenced.
func (m *mapper) nothing() {
	m.t.Helper()
	select {
	case c := <-m.calls:
		m.t.Errorf("called %s, and should not have been", c.what)
	default:
	}
}

// reports reports twins, as "property", "reported", "desired".
func (m *mapper) reports(device string, twins ...[3]string) error {
	status := &dmi.DeviceStatus{}
	for _, t := range twins {
		status.Twins = append(status.Twins, &dmi.Twin{
			PropertyName: t[0], Reported: &dmi.TwinProperty{Value: t[1]}, ObservedDesired: &dmi.TwinProperty{Value: t[2]},
		})
	}
	_, err := m.ReportDeviceStatus(m.context(), &dmi.ReportDeviceStatusRequest{DeviceNamespace: "fluidos", DeviceName: device, ReportedDevice: status})
	return err
}

func (m *mapper) mustReport(device string, twins ...[3]string) {
	m.t.Helper()
	if err := m.reports(device, twins...); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mapper) state(device, state string) error {
	_, err := m.ReportDeviceStates(m.context(), &dmi.ReportDeviceStatesRequest{DeviceNamespace: "fluidos", DeviceName: device, State: state})
	return err
}

func (m *mapper) mustState(device, state string) {
	m.t.Helper()
	if err := m.state(device, state); err != nil {
		m.t.Fatal(err)
	}
}

// refused checks that an error has this text, as EdgeCore gives it.
func refused(t *testing.T, err error, want string) {
	t.Helper()
	if got := status.Convert(err).Message(); err == nil || got != want {
		t.Errorf("got %v, want %q", err, want)
	}
}

func names(devices []*dmi.Device) []string {
	out := []string{}
	for _, d := range devices {
		out = append(out, d.Name)
	}
	slices.Sort(out)
	return out
}

// config is what came of configData.
func config(t *testing.T, d *dmi.Device) map[string]any {
	t.Helper()
	out := map[string]any{}
	for name, a := range d.Spec.Protocol.ConfigData.Data {
		m, err := a.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var v struct{ Value any }
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		out[name] = v.Value
	}
	return out
}

// refuseStatuses returns what sets the answer to all writes of DeviceStatuses; nil
// lets them through.
func refuseStatuses(f *interceptor.Funcs) func(error) {
	var mu sync.Mutex
	var answer error
	refusing := func(o client.Object) error {
		mu.Lock()
		defer mu.Unlock()
		if _, ok := o.(*devicesv1.DeviceStatus); !ok {
			return nil
		}
		return answer
	}
	f.Create = func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
		if err := refusing(o); err != nil {
			return err
		}
		return c.Create(ctx, o, opts...)
	}
	f.Patch = func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
		if err := refusing(o); err != nil {
			return err
		}
		return c.Patch(ctx, o, p, opts...)
	}
	return func(err error) {
		mu.Lock()
		defer mu.Unlock()
		answer = err
	}
}
