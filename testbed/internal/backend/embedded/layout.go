// Package embedded runs a testbed as plain processes on loopback, without a
// container engine: for each cluster etcd, kube-apiserver and
// kube-controller-manager; for each consumer a sink; for each provider a hollow
// edge, boards, mappers and our controllers. All of them are under one
// supervisor (package process), which outlives the command that brought the
// testbed up.
//
// Everything is derived from the record (package state): the same record gives
// the same files and the same specs, so that bringing up what runs changes
// nothing, and a changed topology becomes additions and removals.
package embedded

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"

	"github.com/fluidos-edge/testbed/testbed/internal/kube"
	"github.com/fluidos-edge/testbed/testbed/internal/state"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// Names of components within their cluster.
const (
	etcd       = "etcd"
	apiserver  = "kube-apiserver"
	manager    = "kube-controller-manager"
	influxdb   = "influxdb"
	telegraf   = "telegraf"
	hollowedge = "hollowedge"
	boards     = "boards"
	mapper     = "mapper"
	erm        = "erm"
	router     = "router"
	relay      = "relay"
)

// layout says where everything of one testbed is: files, sockets, addresses.
type layout struct {
	rec *state.Record
}

func (l layout) dir(parts ...string) string {
	return filepath.Join(append([]string{state.Dir(l.rec.Name)}, parts...)...)
}

// etcdPKI is apart from the cluster's: no certificate that a cluster's CA
// signed, a consumer's say, opens its etcd.
func (l layout) clusterPKI(cluster string) string { return l.dir("pki", cluster) }
func (l layout) etcdPKI(cluster string) string    { return l.dir("pki", cluster, "etcd") }

func (l layout) adminKubeconfig(cluster string) string {
	return l.dir("kubeconfigs", cluster+".yaml")
}

func (l layout) componentKubeconfig(cluster, component string) string {
	return l.dir("kubeconfigs", cluster, component+".yaml")
}

func (l layout) consumerKubeconfig(consumer, provider string) string {
	return l.dir("kubeconfigs", consumer+"@"+provider+".yaml")
}

func (l layout) config(cluster, file string) string    { return l.dir("config", cluster, file) }
func (l layout) data(cluster, component string) string { return l.dir("data", cluster, component) }

func (l layout) mapperJournal(provider, node string) string {
	return l.dir("journals", provider, "mapper-"+node+".lp")
}

func (l layout) sinkJournal(consumer string) string { return l.dir("journals", consumer, "sink.lp") }

func (l layout) radioSocket(provider, node string) string {
	return filepath.Join(l.rec.RunDir, provider, node, "radio.sock")
}

func (l layout) boardsSocket(provider string) string {
	return filepath.Join(l.rec.RunDir, provider, "boards.sock")
}

// port is the key of a component's port in the record; with "" for purpose the
// component's main one.
func port(cluster, component, purpose string) string {
	k := cluster + "/" + component
	if purpose != "" {
		k += "#" + purpose
	}
	return k
}

func (l layout) addr(cluster, component, purpose string) string {
	p := l.rec.Ports[port(cluster, component, purpose)]
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(p))
}

func (l layout) server(cluster string) string { return "https://" + l.addr(cluster, apiserver, "") }

func (l layout) endpointURL(consumer, endpoint string) string {
	return "http://" + l.addr(consumer, telegraf, endpoint) + "/telegraf"
}

// endpoints of a sink, its witness last.
func endpoints(c topology.Consumer) []string {
	var names []string
	for _, e := range c.Endpoints {
		names = append(names, e.Name)
	}
	return append(names, topology.WitnessEndpoint)
}

// clusters of a topology, providers first: they take longest to be of use.
func clusters(t *topology.Topology) []string {
	var names []string
	for _, p := range t.Providers {
		names = append(names, p.Name)
	}
	for _, c := range t.Consumers {
		names = append(names, c.Name)
	}
	return names
}

// ports lists every port that a topology needs.
func ports(t *topology.Topology) []string {
	var all []string
	for _, c := range clusters(t) {
		all = append(all, port(c, etcd, ""), port(c, etcd, "peer"), port(c, apiserver, ""), port(c, manager, ""))
	}
	for _, c := range t.Consumers {
		all = append(all, port(c.Name, influxdb, ""), port(c.Name, influxdb, "rpc"))
		for _, e := range endpoints(c) {
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

// identity of a provider as a FLUIDOS node.
func (l layout) identity(provider string) kube.Identity {
	return kube.Identity{NodeID: provider, Domain: l.rec.Name + ".testbed.fluidos.eu", IP: "127.0.0.1",
		Port: strconv.Itoa(l.rec.Ports[port(provider, apiserver, "")])}
}

// services are disjoint among clusters: 10.96+n.0.0/16.
func serviceRange(n int) string { return fmt.Sprintf("10.%d.0.0/16", 96+n%128) }
