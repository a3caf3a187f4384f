package mapper

import (
	"context"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/prometheus/client_golang/prometheus"
)

// What the tests, which are outside the package, see of its inside.

type (
	Broker  = broker
	Sample  = sample
	Metrics = metrics
)

var (
	ParseUID     = parseUID
	ParseSensors = parseSensors
)

const MaxLine = maxLine

// Assemble feeds the pieces to one assembler.
func Assemble(pieces ...[]byte) (lines []string) {
	var a assembler
	for _, p := range pieces {
		a.feed(p, func(l string) { lines = append(lines, l) })
	}
	return lines
}

// Board is a declaration of one board.
type Board struct {
	Model, MAC, ID, Node, Stream string
	Announced                    []nodecore.Characteristics
}

func (b Board) declare() declaration {
	return declare(identity{model: b.Model, mac: b.MAC, id: b.ID, node: b.Node, features: []string{b.Stream}}, b.Announced)
}

// Objects are the DeviceModel and the Device of the board.
func (b Board) Objects(namespace string) (model, device *unstructured.Unstructured, err error) {
	if model, err = b.declare().modelObject(namespace); err != nil {
		return nil, nil, err
	}
	device, err = b.declare().deviceObject(namespace)
	return model, device, err
}

// Register the board once.
func Register(ctx context.Context, c client.Client, namespace string, b Board) (bool, error) {
	return registrar{client: c, namespace: namespace, log: slog.New(slog.DiscardHandler)}.register(ctx, b.declare())
}

// NewSample of a temperature.
func NewSample(uid string, epoch, at int64, celsius float64) Sample {
	return sample{
		part:   part{name: "hts221", uid: uid, category: "environmental", topic: "sensor/" + uid},
		device: "stwinkt1b-c0832a001122", node: "edge-1",
		values:  []value{{"temperature_celsius", celsius}},
		latency: 12*time.Millisecond + 345678*time.Nanosecond, epoch: epoch, at: at,
	}
}

// NewSampleWithoutLatency has two fields and another category.
func NewSampleWithoutLatency(uid, category string) Sample {
	s := NewSample(uid, 7, 0, 0)
	s.category, s.latency = category, -1
	s.values = []value{{"humidity_percent", 47}, {"temperature_celsius", 23.4}}
	return s
}

// Line of the sample.
func (s sample) Line(seq, at int64) ([]byte, error) { return s.encode(seq, at) }

// Publisher for a test.
type Publisher struct {
	p       *publisher
	Metrics prometheus.Gatherer
}

// NewPublisher to b, with a journal at path.
func NewPublisher(b Broker, path string, queue int) (*Publisher, error) {
	j, err := openJournal(path)
	if err != nil {
		return nil, err
	}
	reg := prometheus.NewRegistry()
	m := newMetrics()
	if _, err := m.register(reg); err != nil {
		return nil, err
	}
	return &Publisher{Metrics: reg, p: &publisher{
		broker: b, journal: j, metrics: m, log: slog.New(slog.DiscardHandler),
		namespace: "fluidos", queue: queue, streams: map[string]*stream{},
	}}, nil
}

func (p *Publisher) Run(ctx context.Context) error { return p.p.run(ctx) }
func (p *Publisher) Push(s Sample)                 { p.p.push(s) }
func (p *Publisher) Close() error                  { return p.p.journal.close() }

// NewBroker is the real client and its Run.
func NewBroker(url string, state func(error)) (Broker, func(context.Context)) {
	b := newMQTTBroker(url, "mapper-test", 5*time.Millisecond, slog.New(slog.DiscardHandler), state)
	return b, b.run
}
