package hollowedge_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	devicesv1 "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	"github.com/fluidos-edge/testbed/simulators/hollowedge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Not parallel: it counts goroutines.
func TestThousandNodes(t *testing.T) {
	const nodes = 1000
	dir := folder(t)
	config := hollowedge.Config{}
	for i := range nodes {
		n := hollowedge.Node{Name: fmt.Sprintf("edge-%d", i)}
		if i%100 == 0 {
			n.MQTT = "127.0.0.1:0"
		} else {
			n.DMI = fmt.Sprintf("%s/%d.sock", dir, i)
		}
		config.Nodes = append(config.Nodes, n)
	}
	before := runtime.NumGoroutine()
	b := start(t, withConfig(config))
	s := newSink(t, 204)
	if got := runtime.NumGoroutine() - before; got > nodes+150 {
		t.Errorf("%d goroutines for %d nodes with 10 brokers and 990 sockets for mappers, want at most 150 and one for each", got, nodes)
	}
	var list corev1.NodeList
	var leases coordinationv1.LeaseList
	if err := b.client.List(context.Background(), &list); err != nil {
		t.Fatal(err)
	}
	if err := b.client.List(context.Background(), &leases); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != nodes || len(leases.Items) != nodes {
		t.Errorf("%d Nodes and %d Leases, want %d of each", len(list.Items), len(leases.Items), nodes)
	}
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "a", "edge-900", "a", s.URL))
	b.publish("edge-900", msg("fluidos/a", "1"))
	s.next()
}

func TestThousandDevices(t *testing.T) {
	t.Parallel()
	const devices, without = 1000, 20
	sockets, path := withSockets(t)
	objects := []client.Object{deviceModel("board")}
	for i := range devices {
		d := device(fmt.Sprintf("d-%d", i), "edge-1")
		objects = append(objects, d)
		if i >= without {
			objects = append(objects, &devicesv1.DeviceStatus{ObjectMeta: metav1.ObjectMeta{Namespace: d.Namespace, Name: d.Name}})
		}
	}
	b := start(t, sockets, withObjects(objects...))
	m := newMapper(t, path("edge-1"))
	if got := len(m.register("bluest")); got != devices {
		t.Errorf("registered with %d Devices, want %d", got, devices)
	}
	for i := range 2 * without {
		m.mustState(fmt.Sprintf("d-%d", i), "online")
	}
	for i := range 2 * without {
		b.awaitStatus(fmt.Sprintf("d-%d", i), devicesv1.DeviceStatusStatus{State: "online", LastOnlineTime: b.clock.Now().UTC().Format(time.RFC3339)})
	}
	var list devicesv1.DeviceStatusList
	if err := b.client.List(context.Background(), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != devices {
		t.Errorf("%d DeviceStatuses, want %d", len(list.Items), devices)
	}
}

// What is reported while a write is on its way is one more write, not as many.
func TestReportsAreWrittenTogether(t *testing.T) {
	t.Parallel()
	patches, release := make(chan string, 100), make(chan struct{})
	b, m := startOne(t, func(_ *bed, _ *hollowedge.Options, f *interceptor.Funcs) {
		f.Patch = func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			if _, ok := o.(*devicesv1.DeviceStatus); ok {
				body, err := p.Data(o)
				if err != nil {
					return err
				}
				patches <- string(body)
				<-release
			}
			return c.Patch(ctx, o, p, opts...)
		}
	})
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{})
	m.mustState("a", "unhealthy")
	<-patches
	for i := range 20 {
		m.mustReport("a", [3]string{"rate", fmt.Sprint(i), ""})
	}
	m.mustState("a", "online")
	m.mustState("a", "offline")
	eventually(t, func() error {
		if n := b.metric("reports_forwarded_total", "edge-1", ""); n != 23 {
			return fmt.Errorf("%d reports forwarded, want 23", n)
		}
		return nil
	})
	close(release)
	b.awaitStatus("a", devicesv1.DeviceStatusStatus{
		Twins: []devicesv1.Twin{twin("rate", "19", "", b.clock.Now())}, State: "offline", LastOnlineTime: b.clock.Now().UTC().Format(time.RFC3339),
	})
	if n := len(patches); n != 1 {
		t.Errorf("%d more patches, want 1", n)
	}
}
