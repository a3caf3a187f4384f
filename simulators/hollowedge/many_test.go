package hollowedge_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"go.uber.org/goleak"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/fluidos-edge/testbed/simulators/hollowedge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Not parallel: it counts goroutines.
func TestThousandNodes(t *testing.T) {
	const nodes = 1000
	config := hollowedge.Config{}
	for i := range nodes {
		n := hollowedge.Node{Name: fmt.Sprintf("edge-%d", i)}
		if i%100 == 0 {
			n.MQTT = "127.0.0.1:0"
		}
		config.Nodes = append(config.Nodes, n)
	}
	before := runtime.NumGoroutine()
	b := start(t, withConfig(config))
	s := newSink(t, 204)
	if got := runtime.NumGoroutine() - before; got > 150 {
		t.Errorf("%d goroutines for %d nodes and 10 brokers, want at most 150", got, nodes)
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
