package mapper

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fluidos-edge/testbed/controllers/mapper/internal/publish"
)

// metrics of one mapper.
type metrics struct {
	published prometheus.Counter
	dropped   *prometheus.CounterVec
	boards    prometheus.Gauge
	events    *prometheus.CounterVec
	lost      prometheus.Counter // events that were not written
	dmi       prometheus.Gauge
}

func newMetrics() *metrics {
	m := &metrics{
		published: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mapper_samples_published_total", Help: "Samples that the broker acknowledged.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mapper_samples_dropped_total", Help: "Samples that were dropped before they were numbered, by reason.",
		}, []string{"reason"}),
		boards: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mapper_boards_connected", Help: "Boards that are connected.",
		}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mapper_events_total", Help: "Events that were written to Devices, by reason.",
		}, []string{"reason"}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mapper_events_dropped_total", Help: "Events that could not be written in time.",
		}),
		dmi: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mapper_dmi_registered", Help: "Whether the mapper is registered with the node's edge runtime: 1, else 0.",
		}),
	}
	for _, r := range []string{publish.Overflow, publish.Malformed, publish.Stopped} {
		m.dropped.WithLabelValues(r)
	}
	return m
}

// drop counts samples that were dropped.
func (m *metrics) drop(reason string, samples int) {
	m.dropped.WithLabelValues(reason).Add(float64(samples))
}

// register at r until the function that it returns is called.
func (m *metrics) register(r prometheus.Registerer) (func(), error) {
	all := []prometheus.Collector{m.published, m.dropped, m.boards, m.events, m.lost, m.dmi}
	undo := func() {
		for _, c := range all {
			r.Unregister(c)
		}
	}
	for _, c := range all {
		if err := r.Register(c); err != nil {
			undo()
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return undo, nil
}
