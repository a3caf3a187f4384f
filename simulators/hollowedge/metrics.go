package hollowedge

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// drop is a reason why a message did not reach its target, or a report not the cloud.
type drop int

const (
	dropUnsubscribed drop = iota // no Rule made the node subscribe
	dropQueueFull                // Options.QueueLimit messages waited already
	dropCut                      // sent while the node was cut off
	dropUnrouted                 // no listener in the cloud
	dropTaken                    // topic of another part of KubeEdge
	dropEmpty                    // empty payload
	dropRefused                  // the target did not answer
	dropStopped                  // the runtime ended
	dropUnknown                  // report of a Device that is no member of the node
	dropInvalid                  // report that KubeEdge does not take
	drops
)

var dropNames = [drops]string{"unsubscribed", "queue_full", "cut", "unrouted", "taken", "empty", "refused", "stopped", "unknown", "invalid"}

var (
	messageDrops = []drop{dropUnsubscribed, dropQueueFull, dropCut, dropUnrouted, dropTaken, dropEmpty, dropRefused, dropStopped}
	reportDrops  = []drop{dropQueueFull, dropCut, dropStopped, dropUnknown, dropInvalid}
)

// counts are one node's messages or reports.
type counts struct {
	published, forwarded, queued atomic.Int64
	dropped                      [drops]atomic.Int64
}

func (c *counts) drop(why drop) { c.dropped[why].Add(1) }

var (
	connectedDesc = prometheus.NewDesc("hollowedge_node_connected",
		"Whether the node's session with the cloud is up.", []string{"node"}, nil)
	messages = newDescs("messages", "Messages that clients published at the node's broker.",
		"Messages that a target answered, with whatever status.", "Messages that reached no target, by reason.")
	reports = newDescs("reports", "Twins and states that mappers reported at the node.",
		"Twins and states that got to the cloud.", "Twins and states that did not get to the cloud, by reason.")
	requestsRefusedDesc = prometheus.NewDesc("hollowedge_dmi_requests_refused_total",
		"Requests of mappers that came too soon.", []string{"node"}, nil)
)

// descs describe counts.
type descs struct{ published, forwarded, queued, dropped *prometheus.Desc }

func newDescs(of, published, forwarded, dropped string) descs {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("hollowedge_"+of+"_"+name, help, append([]string{"node"}, labels...), nil)
	}
	return descs{
		published: desc("published_total", published),
		forwarded: desc("forwarded_total", forwarded),
		queued:    desc("queued", "What waits at the node for its throttle or its connection, of "+of+"."),
		dropped:   desc("dropped_total", dropped, "reason"),
	}
}

// collector turns counts into metrics when asked.
type collector struct{ edges []*edge }

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{connectedDesc, requestsRefusedDesc,
		messages.published, messages.forwarded, messages.queued, messages.dropped,
		reports.published, reports.forwarded, reports.queued, reports.dropped} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, t prometheus.ValueType, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, t, float64(v), labels...)
	}
	sendCounts := func(d descs, c *counts, node string, reasons []drop) {
		send(d.published, prometheus.CounterValue, c.published.Load(), node)
		send(d.forwarded, prometheus.CounterValue, c.forwarded.Load(), node)
		send(d.queued, prometheus.GaugeValue, c.queued.Load(), node)
		for _, why := range reasons {
			send(d.dropped, prometheus.CounterValue, c.dropped[why].Load(), node, dropNames[why])
		}
	}
	for _, e := range c.edges {
		name := e.node.Name
		up := int64(0)
		if e.isConnected() {
			up = 1
		}
		send(connectedDesc, prometheus.GaugeValue, up, name)
		sendCounts(messages, &e.counts, name, messageDrops)
		if e.node.DMI != "" {
			sendCounts(reports, &e.reports, name, reportDrops)
			send(requestsRefusedDesc, prometheus.CounterValue, e.refused.Load(), name)
		}
	}
}
