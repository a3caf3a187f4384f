// Package embedded runs a testbed as plain processes on loopback, without a
// container engine: for each cluster etcd, kube-apiserver and
// kube-controller-manager; for each consumer a sink; for each provider a hollow
// edge, boards, mappers and our controllers. All of them are under one
// supervisor (package process), which outlives the command that brought the
// testbed up.
//
// The same record gives the same specs, so that bringing up what runs changes
// nothing, and a changed topology becomes additions and removals.
package embedded

import (
	"fmt"

	"github.com/fluidos-edge/testbed/testbed/internal/backend"
	"github.com/fluidos-edge/testbed/testbed/internal/state"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// Names of components within their cluster.
const (
	etcd       = backend.Etcd
	apiserver  = backend.APIServer
	manager    = backend.Manager
	influxdb   = backend.InfluxDB
	telegraf   = backend.Telegraf
	hollowedge = backend.HollowEdge
	boards     = backend.Boards
	mapper     = backend.Mapper
	erm        = backend.ERM
	router     = backend.Router
	relay      = backend.Relay
)

func newLayout(rec *state.Record) backend.Layout {
	l := backend.Layout{Rec: rec}
	l.Endpoint = func(consumer, endpoint string) string {
		return "http://" + l.Addr(consumer, telegraf, endpoint) + "/telegraf"
	}
	return l
}

// Ports lists every port that a topology needs, for Record.ChoosePorts.
func Ports(t *topology.Topology) []string {
	port := backend.Port
	var all []string
	for _, c := range backend.Clusters(t) {
		all = append(all, port(c, etcd, ""), port(c, etcd, "peer"), port(c, apiserver, ""), port(c, manager, ""))
	}
	for _, c := range t.Consumers {
		all = append(all, port(c.Name, influxdb, ""), port(c.Name, influxdb, "rpc"))
		for _, e := range backend.Endpoints(c) {
			all = append(all, port(c.Name, telegraf, e))
		}
	}
	for _, p := range t.Providers {
		all = append(all, port(p.Name, relay, ""), port(p.Name, relay, "admin"))
		for _, c := range []string{hollowedge, boards, erm, router, relay} {
			all = append(all, port(p.Name, c, "health"))
		}
		for _, n := range p.EdgeNodes {
			all = append(all, port(p.Name, hollowedge, "mqtt/"+n.Name), port(p.Name, mapper+"/"+n.Name, "health"))
		}
	}
	return all
}

// services are disjoint among clusters: 10.96+n.0.0/16.
func serviceRange(n int) string { return fmt.Sprintf("10.%d.0.0/16", 96+n%128) }
