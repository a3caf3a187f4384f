// Package fleet is all simulated boards of a provider in one process: a radio for
// each edge node that hears them, and an API to watch and change them.
//
// One goroutine and one timer drive all boards. A board costs nothing while
// nobody is subscribed to it.
//
// To try it, with a file boards.json of the form of [Config]:
//
//	boards --config boards.json --control /tmp/boards.sock
//	curl --unix-socket /tmp/boards.sock http://boards/v1/boards
package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"

	"github.com/fluidos-edge/testbed/simulators/board"
	"github.com/fluidos-edge/testbed/simulators/radio"
	"github.com/fluidos-edge/testbed/simulators/radio/socket"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// Config is the content of the file of --config. Boards must be complete, as
// topology.Load leaves them.
type Config struct {
	Seed   uint64           `json:"seed"`
	Boards []topology.Board `json:"boards"`
	// Radios are the sockets of edge nodes by node name.
	Radios map[string]string `json:"radios"`
}

// Options of the process.
type Options struct {
	// Config is the path of the configuration, JSON.
	Config string
	// Control is the socket of the API.
	Control string
	// Metrics takes the process's metrics; nil means prometheus.DefaultRegisterer.
	Metrics prometheus.Registerer
	// Clock of boards and radios; nil means the host's.
	Clock clock.WithTicker
}

// AddFlags declares one flag for each setting.
func (o *Options) AddFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.Config, "config", "", "`file` that describes boards and radios, JSON")
	fs.StringVar(&o.Control, "control", "", "unix `socket` to serve the control API on")
}

// Run simulates the boards until ctx ends. It is ready when every socket takes
// connections; at the end no socket is left.
func Run(ctx context.Context, log *slog.Logger, ready func(error), o *Options) error {
	if o.Config == "" || o.Control == "" {
		return errors.New("--config and --control are both needed")
	}
	cfg, err := load(o.Config)
	if err != nil {
		return err
	}
	clk := o.Clock
	if clk == nil {
		clk = clock.RealClock{}
	}
	f, err := build(cfg, clk, log)
	if err != nil {
		return fmt.Errorf("config %s: %w", o.Config, err)
	}
	defer f.close()
	if err := f.listen(cfg.Radios, clk, log); err != nil {
		return err
	}
	control, err := socket.Listen(o.Control)
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	defer control.Close()
	metrics := o.Metrics
	if metrics == nil {
		metrics = prometheus.DefaultRegisterer
	}
	if err := metrics.Register(f); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	defer metrics.Unregister(f)

	g, ctx := errgroup.WithContext(ctx)
	for _, r := range f.radios {
		g.Go(func() error { return r.Run(ctx) })
	}
	g.Go(func() error {
		f.drive.run(ctx)
		return nil
	})
	api := &http.Server{Handler: f.handler(log), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
	g.Go(func() error {
		if err := api.Serve(control); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("control: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		return api.Close()
	})
	log.Info("boards are up", "boards", len(f.names), "radios", len(f.radios), "control", o.Control)
	ready(nil)
	return g.Wait()
}

func load(path string) (Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("config: %w", err)
	}
	var cfg Config
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&cfg); err != nil {
		return Config{}, fmt.Errorf("config %s: %w", path, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Config{}, fmt.Errorf("config %s: more after the first value", path)
	}
	return cfg, nil
}

// fleet is what Run runs.
type fleet struct {
	names  []string // in the order of the configuration
	boards map[string]*board.Board
	nodes  map[*board.Board][]string // that hear it
	radios map[string]*radio.Server  // by node
	drive  *driver
}

func build(cfg Config, clk clock.WithTicker, log *slog.Logger) (*fleet, error) {
	f := &fleet{boards: map[string]*board.Board{}, nodes: map[*board.Board][]string{}, radios: map[string]*radio.Server{}, drive: newDriver(clk)}
	var all []error
	for i, spec := range cfg.Boards {
		bad := func(err error) { all = append(all, fmt.Errorf("boards[%d] (%s): %w", i, spec.Name, err)) }
		if _, twice := f.boards[spec.Name]; spec.Name == "" || twice {
			bad(errors.New("name: want one that no other board has"))
			continue
		}
		for _, n := range spec.Nodes {
			if _, ok := cfg.Radios[n]; !ok {
				bad(fmt.Errorf("nodes: there is no radio for %q", n))
			}
		}
		b, err := board.New(spec, board.Options{Seed: cfg.Seed, Clock: clk, Wake: f.drive.wake, Announce: f.announce})
		if err != nil {
			bad(err)
			continue
		}
		f.names = append(f.names, spec.Name)
		f.boards[spec.Name] = b
		f.nodes[b] = spec.Nodes
	}
	return f, errors.Join(all...)
}

func (f *fleet) listen(radios map[string]string, clk clock.WithTicker, log *slog.Logger) error {
	heard := map[string][]radio.Heard{}
	for _, name := range f.names {
		b := f.boards[name]
		for _, node := range f.nodes[b] {
			p := b.Via(node)
			heard[node] = append(heard[node], radio.Heard{Peripheral: p, RSSI: rssi(node, p.Address())})
		}
	}
	for _, node := range slices.Sorted(maps.Keys(radios)) {
		r, err := radio.Listen(radios[node], heard[node], radio.Options{Clock: clk, Log: log.With("node", node)})
		if err != nil {
			return fmt.Errorf("node %s: %w", node, err)
		}
		f.radios[node] = r
	}
	return nil
}

// rssi is between -40 and -89 dBm, the same each time: boards and nodes do not move.
func rssi(node string, mac radio.Address) int8 {
	h := fnv.New32a()
	_, _ = h.Write(append(mac[:], node...))
	return int8(-40 - int(h.Sum32()%50))
}

// close removes sockets of radios that were not run; for others it has no effect.
func (f *fleet) close() {
	for _, r := range f.radios {
		_ = r.Close()
	}
}

// announce tells every radio in reach that a board became connectable or busy.
func (f *fleet) announce(b *board.Board) {
	for _, node := range f.nodes[b] {
		f.radios[node].Announce(b.Via(node).Address())
	}
}

var (
	overflows = prometheus.NewDesc("boards_radio_overflows_total", "Radio clients dropped because they did not read.", []string{"node"}, nil)
	connected = prometheus.NewDesc("boards_connected", "Boards that have a connection.", []string{"node"}, nil)
)

// Describe implements prometheus.Collector.
func (f *fleet) Describe(ch chan<- *prometheus.Desc) { ch <- overflows; ch <- connected }

// Collect implements prometheus.Collector.
func (f *fleet) Collect(ch chan<- prometheus.Metric) {
	count := map[string]int{}
	for _, b := range f.boards {
		count[b.State().ConnectedTo]++
	}
	for node, r := range f.radios {
		ch <- prometheus.MustNewConstMetric(overflows, prometheus.CounterValue, float64(r.Overflows()), node)
		ch <- prometheus.MustNewConstMetric(connected, prometheus.GaugeValue, float64(count[node]), node)
	}
}
