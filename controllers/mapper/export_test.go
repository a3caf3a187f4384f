package mapper

import (
	"context"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/dmi"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/publish"
	"github.com/fluidos-edge/testbed/internal/journal"
	"github.com/fluidos-edge/testbed/simulators/radio"
)

// What the tests, which are outside the package, see of its inside.

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

// KeepWishes of users in a Device.
var KeepWishes = keepWishes

// Allows is what an allow list says of a board, and whether it is one.
func Allows(list []string, model string, mac radio.Address) (bool, error) {
	err := allowList(list).check()
	return allowList(list).allows(model, mac), err
}

// Announcement stands in for that of a board with these characteristics.
func Announcement(model string, features []string, rate float64) []nodecore.Characteristics {
	return announcement(identity{model: model, features: features}, rate)
}

// Times of a notification that is taken in when the clocks show these.
func Times(n radio.Notification, now, monotonic int64) (at int64, latency time.Duration) {
	s := session{now: func() time.Time { return time.Unix(0, now) }, monotonic: func() int64 { return monotonic }}
	return s.times(n)
}

// Restarted judges by two stamps, each with the times of its frame, in ns.
func Restarted(before, after radio.Notification, tsBefore, tsAfter uint16, unit time.Duration) bool {
	period := unit << 16
	return bootAt(before, tsBefore, unit, period).restarted(bootAt(after, tsAfter, unit, period), period)
}

var (
	ParseRate = parseRate
	Plain     = plain
)

// Shadow of a Device.
type Shadow struct{ s shadow }

func (s *Shadow) Take(d dmi.Device, now time.Time) { s.s.take(d, now) }
func (s *Shadow) Drop()                            { s.s.drop() }
func (s *Shadow) Collect(property string, value float64, now time.Time) bool {
	return s.s.collect(property, value, now)
}
func (s *Shadow) State(property string, value float64, now time.Time) {
	s.s.state(property, value, now)
}
func (s *Shadow) Hurry(now time.Time)            { s.s.hurry(now) }
func (s *Shadow) Next() time.Time                { return s.s.next() }
func (s *Shadow) Twins(now time.Time) []dmi.Twin { return s.s.twins(now) }

// Reporter is where states and properties go.
type Reporter = reporter

// Mapper is a whole one, but for broker and edge runtime.
type Mapper struct{ m *mapper }

// NewMapper with a broker and an edge runtime that are a test's. monotonic is the
// clock of its radio.
func NewMapper(o Options, b publish.Broker, r Reporter, monotonic func() int64, ready func(error)) (*Mapper, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	j, err := journal.Open(o.Journal)
	if err != nil {
		return nil, err
	}
	counts := newMetrics()
	if _, err := counts.register(o.Registerer); err != nil {
		return nil, err
	}
	m := newMapper(o, slog.New(slog.DiscardHandler), counts, b, j, ready)
	m.leaves.report, m.monotonic = r, monotonic
	return &Mapper{m}, nil
}

func (m *Mapper) Run(ctx context.Context) error    { return m.m.serveAll(ctx) }
func (m *Mapper) Changed(d dmi.Device)             { m.m.leaves.changed(d) }
func (m *Mapper) Removed(namespace, device string) { m.m.leaves.removed(namespace, device) }
func (m *Mapper) Knows(device string) bool {
	m.m.leaves.mu.Lock()
	defer m.m.leaves.mu.Unlock()
	return m.m.leaves.all[device] != nil
}
