package backend

import (
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/fluidos-edge/testbed/testbed/internal/kube"
	"github.com/fluidos-edge/testbed/testbed/internal/state"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// Names of components within their cluster.
const (
	Etcd       = "etcd"
	APIServer  = "kube-apiserver"
	Manager    = "kube-controller-manager"
	InfluxDB   = "influxdb"
	Telegraf   = "telegraf"
	HollowEdge = "hollowedge"
	Boards     = "boards"
	Mapper     = "mapper"
	ERM        = "erm"
	Router     = "router"
	Relay      = "relay"
)

// Layout says where everything of one testbed is on this host.
type Layout struct {
	Rec *state.Record
	// Endpoint is the URL of one listener of a sink as the relay reaches it.
	Endpoint func(consumer, endpoint string) string
}

// Dir is a path in the testbed's state folder.
func (l Layout) Dir(parts ...string) string {
	return filepath.Join(append([]string{state.Dir(l.Rec.Name)}, parts...)...)
}

// PKI holds keys and certificates of one cluster.
func (l Layout) PKI(cluster string) string { return l.Dir("pki", cluster) }

// EtcdPKI is apart from the cluster's: no certificate that a cluster's CA
// signed, a consumer's say, opens its etcd.
func (l Layout) EtcdPKI(cluster string) string { return l.Dir("pki", cluster, "etcd") }

// AdminKubeconfig has all rights in a cluster.
func (l Layout) AdminKubeconfig(cluster string) string {
	return l.Dir("kubeconfigs", cluster+".yaml")
}

// ComponentKubeconfig has the rights of one component of a cluster.
func (l Layout) ComponentKubeconfig(cluster, component string) string {
	return l.Dir("kubeconfigs", cluster, component+".yaml")
}

// ConsumerKubeconfig is what a consumer logs in to a provider with.
func (l Layout) ConsumerKubeconfig(consumer, provider string) string {
	return l.Dir("kubeconfigs", consumer+"@"+provider+".yaml")
}

// Config is a file that a component of a cluster reads.
func (l Layout) Config(cluster, file string) string { return l.Dir("config", cluster, file) }

// Data is a folder that a component of a cluster keeps its data in.
func (l Layout) Data(cluster, component string) string { return l.Dir("data", cluster, component) }

// Journals is the folder of the journals of one cluster.
func (l Layout) Journals(cluster string) string { return l.Dir("journals", cluster) }

// MapperJournal has what the mapper of one edge node published.
func (l Layout) MapperJournal(provider, node string) string {
	return filepath.Join(l.Journals(provider), "mapper-"+node+".lp")
}

// BoardsJournal has what the boards of one provider measured and emitted.
func (l Layout) BoardsJournal(provider string) string {
	return filepath.Join(l.Journals(provider), "boards.lp")
}

// SinkJournal has a line for each arrival at a consumer's sink.
func (l Layout) SinkJournal(consumer string) string {
	return filepath.Join(l.Journals(consumer), "sink.lp")
}

// RunDir holds the sockets of one provider.
func (l Layout) RunDir(provider string) string { return filepath.Join(l.Rec.RunDir, provider) }

// RadioSocket is the radio of one edge node.
func (l Layout) RadioSocket(provider, node string) string {
	return filepath.Join(l.RunDir(provider), node, "radio.sock")
}

// DMISocket is where the edge runtime of one edge node takes mappers.
func (l Layout) DMISocket(provider, node string) string {
	return filepath.Join(l.RunDir(provider), node, "dmi.sock")
}

// MapperSocket is where the edge runtime of one edge node reaches its mapper.
func (l Layout) MapperSocket(provider, node string) string {
	return filepath.Join(l.RunDir(provider), node, "mapper.sock")
}

// BoardsSocket is the control API of a provider's boards.
func (l Layout) BoardsSocket(provider string) string {
	return filepath.Join(l.RunDir(provider), "boards.sock")
}

// Port is the key of a component's port in the record; with "" for purpose the
// component's main one.
func Port(cluster, component, purpose string) string {
	k := cluster + "/" + component
	if purpose != "" {
		k += "#" + purpose
	}
	return k
}

// Addr is where this host reaches a port of a component.
func (l Layout) Addr(cluster, component, purpose string) string {
	p := l.Rec.Ports[Port(cluster, component, purpose)]
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(p))
}

// Server is the URL of a cluster's API server.
func (l Layout) Server(cluster string) string { return "https://" + l.Addr(cluster, APIServer, "") }

// Endpoints of a sink, its witness last.
func Endpoints(c topology.Consumer) []string {
	var names []string
	for _, e := range c.Endpoints {
		names = append(names, e.Name)
	}
	return append(names, topology.WitnessEndpoint)
}

// Clusters of a topology, providers first: they take longest to be of use.
func Clusters(t *topology.Topology) []string {
	var names []string
	for _, p := range t.Providers {
		names = append(names, p.Name)
	}
	for _, c := range t.Consumers {
		names = append(names, c.Name)
	}
	return names
}

// Identity of a provider as a FLUIDOS node.
func (l Layout) Identity(provider string) kube.Identity {
	return kube.Identity{NodeID: provider, Domain: l.Rec.Name + ".testbed.fluidos.eu", IP: "127.0.0.1",
		Port: strconv.Itoa(l.Rec.Ports[Port(provider, APIServer, "")])}
}

// UserFile is the name of a user's files in PKI.
func UserFile(user string) string { return "user-" + strings.ReplaceAll(user, ":", "-") }
