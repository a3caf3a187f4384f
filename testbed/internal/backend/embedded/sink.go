package embedded

import (
	"os"
	"path/filepath"

	"github.com/fluidos-edge/testbed/testbed/internal/backend"
	"github.com/fluidos-edge/testbed/testbed/internal/process"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// sink writes the configuration of one consumer's InfluxDB and Telegraf, and specifies their processes.
func (b *Backend) sink(c topology.Consumer) ([]process.Spec, error) {
	l := b.layout
	if err := l.MakeSecrets(c.Name); err != nil {
		return nil, err
	}
	config, err := backend.InfluxConfig(l.Addr(c.Name, influxdb, ""), l.Addr(c.Name, influxdb, "rpc"), l.Data(c.Name, influxdb))
	if err != nil {
		return nil, err
	}
	influxFile, influxHash, err := b.configFile(c.Name, "influxdb.conf", config)
	if err != nil {
		return nil, err
	}
	var listeners []backend.Listener
	for _, e := range backend.Endpoints(c) {
		listeners = append(listeners, backend.Listener{Addr: l.Addr(c.Name, telegraf, e), Endpoint: e})
	}
	if err := os.MkdirAll(filepath.Dir(l.SinkJournal(c.Name)), 0o700); err != nil {
		return nil, err
	}
	influxURL := "http://" + l.Addr(c.Name, influxdb, "")
	if config, err = l.TelegrafConfig(c.Name, influxURL, listeners); err != nil {
		return nil, err
	}
	telegrafFile, telegrafHash, err := b.configFile(c.Name, "telegraf.conf", config)
	if err != nil {
		return nil, err
	}
	return []process.Spec{
		{
			Name: c.Name + "/" + influxdb, Path: b.assets.Path("influxd"), Args: []string{"-config", influxFile},
			ConfigHash: influxHash, URL: influxURL, Probe: process.Probe{URL: influxURL + "/health"},
		},
		{
			Name: c.Name + "/" + telegraf, Path: b.assets.Path("telegraf"), Args: []string{"--config", telegrafFile},
			ConfigHash: telegrafHash, URL: l.Endpoint(c.Name, listeners[0].Endpoint),
			Probe: process.Probe{TCP: listeners[0].Addr},
		},
	}, nil
}
