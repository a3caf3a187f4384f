package embedded

import (
	"github.com/fluidos-edge/testbed/testbed/internal/kube"
	"github.com/fluidos-edge/testbed/testbed/internal/state"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// Access tells where things are in the testbed of a record, whether or not they run.
type Access struct{ layout layout }

// NewAccess for the testbed of a record.
func NewAccess(rec *state.Record) Access { return Access{layout{rec}} }

// Server is the URL of a cluster's API server.
func (a Access) Server(cluster string) string { return a.layout.server(cluster) }

// AdminKubeconfig of a cluster.
func (a Access) AdminKubeconfig(cluster string) string { return a.layout.adminKubeconfig(cluster) }

// ComponentKubeconfig is what one component of a cluster logs in with.
func (a Access) ComponentKubeconfig(cluster, component string) string {
	return a.layout.componentKubeconfig(cluster, component)
}

// ConsumerKubeconfig is what a consumer logs in to a provider with.
func (a Access) ConsumerKubeconfig(consumer, provider string) string {
	return a.layout.consumerKubeconfig(consumer, provider)
}

// Namespace of Devices, Flavors and Rules in a provider.
func (a Access) Namespace() string { return kube.Namespace }

// InfluxDB of a consumer: its URL, the consumer's token, the bucket.
func (a Access) InfluxDB(consumer string) (url, token, bucketName string) {
	return "http://" + a.layout.addr(consumer, influxdb, ""),
		consumer + ":" + a.layout.rec.Secrets["influxdb/"+consumer+"/"+consumer], bucket
}

// Endpoints of a consumer's sink, name and URL, the witness last.
func (a Access) Endpoints(c topology.Consumer) [][2]string {
	var all [][2]string
	for _, e := range endpoints(c) {
		all = append(all, [2]string{e, a.layout.endpointURL(c.Name, e)})
	}
	return all
}

// SinkJournal of a consumer.
func (a Access) SinkJournal(consumer string) string { return a.layout.sinkJournal(consumer) }

// MapperJournal of one edge node.
func (a Access) MapperJournal(provider, node string) string {
	return a.layout.mapperJournal(provider, node)
}

// BoardsSocket is the control API of a provider's boards.
func (a Access) BoardsSocket(provider string) string { return a.layout.boardsSocket(provider) }
