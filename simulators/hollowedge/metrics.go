package hollowedge

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// drop is a reason why a message did not reach its target.
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
	drops
)

var dropNames = [drops]string{"unsubscribed", "queue_full", "cut", "unrouted", "taken", "empty", "refused", "stopped"}

// counts are one node's messages.
type counts struct {
	published, forwarded, queued atomic.Int64
	dropped                      [drops]atomic.Int64
}

func (c *counts) drop(why drop) { c.dropped[why].Add(1) }

var (
	connectedDesc = prometheus.NewDesc("hollowedge_node_connected",
		"Whether the node's session with the cloud is up.", []string{"node"}, nil)
	publishedDesc = prometheus.NewDesc("hollowedge_messages_published_total",
		"Messages that clients published at the node's broker.", []string{"node"}, nil)
	forwardedDesc = prometheus.NewDesc("hollowedge_messages_forwarded_total",
		"Messages that a target answered, with whatever status.", []string{"node"}, nil)
	queuedDesc = prometheus.NewDesc("hollowedge_messages_queued",
		"Messages that wait at the node for its throttle or its connection.", []string{"node"}, nil)
	droppedDesc = prometheus.NewDesc("hollowedge_messages_dropped_total",
		"Messages that reached no target, by reason.", []string{"node", "reason"}, nil)
)

// collector turns counts into metrics when asked.
type collector struct{ edges []*edge }

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{connectedDesc, publishedDesc, forwardedDesc, queuedDesc, droppedDesc} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, t prometheus.ValueType, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, t, float64(v), labels...)
	}
	for _, e := range c.edges {
		name := e.node.Name
		up := int64(0)
		if e.isConnected() {
			up = 1
		}
		send(connectedDesc, prometheus.GaugeValue, up, name)
		send(publishedDesc, prometheus.CounterValue, e.counts.published.Load(), name)
		send(forwardedDesc, prometheus.CounterValue, e.counts.forwarded.Load(), name)
		send(queuedDesc, prometheus.GaugeValue, e.counts.queued.Load(), name)
		for why := range drops {
			send(droppedDesc, prometheus.CounterValue, e.counts.dropped[why].Load(), name, dropNames[why])
		}
	}
}
