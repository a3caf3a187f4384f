package fleet

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fluidos-edge/testbed/simulators/radio"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// counted is a board on a radio, with an account of what it sends.
type counted struct {
	radio.Peripheral
	m *member
}

func (c counted) Connect(l *radio.Link) error {
	if err := c.Peripheral.Connect(l); err != nil {
		return err
	}
	c.m.counting.Lock()
	defer c.m.counting.Unlock()
	if c.m.link != nil {
		c.m.sent += c.m.link.Notified()
	}
	c.m.link = l
	return nil
}

// notifications that the board has sent.
func (m *member) notifications() int64 {
	m.counting.Lock()
	defer m.counting.Unlock()
	if m.link == nil {
		return m.sent
	}
	return m.sent + m.link.Notified()
}

var (
	known         = prometheus.NewDesc("boards_known", "Boards of the process.", []string{"model"}, nil)
	connected     = prometheus.NewDesc("boards_connected", "Boards that have a connection.", []string{"node"}, nil)
	notifications = prometheus.NewDesc("boards_notifications_total", "Notifications that boards sent.", []string{"model"}, nil)
	faults        = prometheus.NewDesc("boards_faults", "Boards that have a fault.", []string{"kind"}, nil)
	overflows     = prometheus.NewDesc("boards_radio_overflows_total", "Radio clients dropped because they did not read.", []string{"node"}, nil)
)

// Describe implements prometheus.Collector.
func (f *fleet) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{known, connected, notifications, faults, overflows} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (f *fleet) Collect(ch chan<- prometheus.Metric) {
	models, nodes, kinds := map[string]int{}, map[string]int{}, map[string]int{}
	f.mu.RLock()
	sent := map[string]int64{topology.STWINKT1B: 0, topology.STWINBX1: 0}
	for model, n := range f.sent {
		sent[model] += n
	}
	f.mu.RUnlock()
	for _, m := range f.all() {
		models[m.model]++
		sent[m.model] += m.notifications()
		state := m.State()
		nodes[state.ConnectedTo]++
		for _, fault := range state.Faults {
			kinds[fault.Kind]++
		}
	}
	for model, n := range sent {
		ch <- prometheus.MustNewConstMetric(known, prometheus.GaugeValue, float64(models[model]), model)
		ch <- prometheus.MustNewConstMetric(notifications, prometheus.CounterValue, float64(n), model)
	}
	for _, kind := range topology.FaultKinds {
		ch <- prometheus.MustNewConstMetric(faults, prometheus.GaugeValue, float64(kinds[kind]), kind)
	}
	for node, r := range f.radios {
		ch <- prometheus.MustNewConstMetric(overflows, prometheus.CounterValue, float64(r.Overflows()), node)
		ch <- prometheus.MustNewConstMetric(connected, prometheus.GaugeValue, float64(nodes[node]), node)
	}
}
