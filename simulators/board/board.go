// Package board is one simulated STWIN board: what it measures, announces and
// sends over the radio, and how fast.
//
// A board starts nothing and keeps no timer. Whoever runs it calls [Board.Step]
// when the board has asked for it, and is told by Wake when that has become
// earlier; one goroutine can run thousands.
//
// What holds:
//   - Readings, time stamps, jitter and the phase of sampling depend on nothing
//     but the seed, the board's MAC and the clock.
//   - The time stamp of a frame is the board's uptime in the unit of its firmware,
//     16 bits, wrapping. Boards have been up for up to ten minutes when they start
//     here, so wraps do not wait for the end of a demo.
//   - Frames of a board never overtake each other, whatever their latency.
//   - Losing its connection, a board forgets what was subscribed and on its way,
//     and advertises again.
//
// To try it: board_test.go runs one on a fake clock.
package board

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/radio"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

const maxUptime = 10 * time.Minute // at the start

// Options are what a board gets from where it runs.
type Options struct {
	Seed  uint64
	Clock clock.PassiveClock
	// Monotonic stamps emissions; nil means radio.Now.
	Monotonic func() int64
	// Wake says that Step is wanted earlier than the last Step said, and Announce
	// that the board has become connectable or busy. Both are called without any
	// lock, possibly from several goroutines; nil means nobody cares.
	Wake, Announce func(*Board)
	// InRange says that the board has left the air, or is back on it. It is called
	// without the board's lock, in the order of what happened; nil means nobody
	// cares.
	InRange func(b *Board, ok bool)
}

// Board is one simulated board. It is safe for concurrent use.
type Board struct {
	opts   Options
	mac    radio.Address
	unit   time.Duration // of time stamps
	advert []byte
	parts  []bluest.Part
	stream string // UUID of the environmental characteristic
	chance chance
	booted time.Time

	mu       sync.Mutex
	spec     topology.Board // rate, latency and parts change
	link     *radio.Link
	node     string // of link
	console  bool   // subscribed
	sampling bool   // subscribed
	due      time.Time
	frames   uint64  // emitted since the start
	flight   []frame // emitted, not yet delivered; in order of both
	output   []byte  // of the console, not yet sent
	talkAt   time.Time
}

type frame struct {
	value   []byte
	emitted int64
	deliver time.Time
}

// New is the board that a complete topology describes, switched on.
func New(spec topology.Board, opts Options) (*Board, error) {
	mac, err := radio.ParseAddress(spec.MAC)
	if err != nil {
		return nil, fmt.Errorf("mac: %w", err)
	}
	if id, err := hex.DecodeString(spec.ID); err != nil || len(id) != 12 {
		return nil, fmt.Errorf("id: %q, want 24 hex digits", spec.ID)
	}
	ad, err := bluest.NewAdvertisement(spec.Model, mac)
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	payload, err := ad.Encode()
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	parts := slices.DeleteFunc(bluest.Parts(spec.Model), func(p bluest.Part) bool { return p.Category != category })
	if len(parts) == 0 {
		return nil, fmt.Errorf("model: %q has no parts that are simulated", spec.Model)
	}
	if opts.Monotonic == nil {
		opts.Monotonic = radio.Now
	}
	for _, f := range []*func(*Board){&opts.Wake, &opts.Announce} {
		if *f == nil {
			*f = func(*Board) {}
		}
	}
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(mac[:], opts.Seed))
	b := &Board{
		opts: opts, mac: mac, unit: ad.Firmware.TSUnit(), advert: payload, parts: parts,
		stream: parts[0].Characteristic.UUID(), chance: chance(binary.BigEndian.Uint64(sum[:])),
	}
	if err := check(spec, parts); err != nil {
		return nil, err
	}
	spec.ID = strings.ToLower(spec.ID)
	spec.MAC = mac.String()
	b.spec = spec
	b.booted = opts.Clock.Now().Add(-time.Duration(b.chance.unit("uptime", 0) * float64(maxUptime)))
	return b, nil
}

// State is a board as its control API shows it.
type State struct {
	Name string `json:"name"`
	// Model is STWINKT1B or STWINBX1, MAC has colons, ID is the 96-bit id.
	Model string `json:"model"`
	MAC   string `json:"mac"`
	ID    string `json:"id"`
	// Device is the name that the board's mapper gives it in Kubernetes.
	Device string `json:"device"`
	// Nodes hear the board; ConnectedTo is the one with its connection, or "".
	Nodes       []string         `json:"nodes"`
	ConnectedTo string           `json:"connectedTo"`
	Rate        float64          `json:"rate"`
	Latency     topology.Latency `json:"latency"`
	// Offers are the parts that it declares, Parts what it declares of them now.
	Offers []string                   `json:"offers"`
	Parts  []nodecore.Characteristics `json:"parts"`
	// Rates of what notifies, in Hz, by the mask of the characteristic in hex:
	// "00140000". One that was disabled is left out.
	Rates map[string]float64 `json:"rates"`
	// Battery is its level in percent.
	Battery float64 `json:"battery"`
	// Faults that the board has.
	Faults []FaultState `json:"faults"`
	// Uptime since it was switched on or restarted.
	Uptime topology.Duration `json:"uptime"`
	// Advertisement is its advertising data in hex, Services its GATT table.
	Advertisement string    `json:"advertisement"`
	Services      []Service `json:"services"`
	// Readings are what a read of each characteristic would give now, by mask as
	// Rates.
	Readings map[string][]bluest.Reading `json:"readings"`
}

// FaultState is a fault that a board has.
type FaultState struct {
	Kind string `json:"kind"`
	Part string `json:"part,omitempty"`
	// Since it began; Until is when it ends by itself, zero if it does not.
	Since time.Time `json:"since"`
	Until time.Time `json:"until,omitzero"`
}

// Service is a GATT service of a board.
type Service struct {
	UUID            string           `json:"uuid"`
	Name            string           `json:"name"`
	Characteristics []Characteristic `json:"characteristics"`
}

// Characteristic is a GATT characteristic as people see it.
type Characteristic struct {
	UUID string `json:"uuid"`
	Name string `json:"name"`
	// Properties are of read, write and notify.
	Properties []string `json:"properties"`
}

// State of the board now.
func (b *Board) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return State{
		Name: b.spec.Name, Model: b.spec.Model, MAC: b.spec.MAC, ID: b.spec.ID,
		Device: strings.ToLower(b.spec.Model) + "-" + b.mac.Hex(),
		Nodes:  append([]string{}, b.spec.Nodes...), ConnectedTo: b.node,
		Rate: b.spec.Rate, Latency: b.spec.Latency, Parts: declare(b.spec, b.parts),
	}
}

// next multiple of the sampling period after now. Every board samples in a phase
// of its own.
func (b *Board) next(now time.Time) time.Time {
	period := time.Duration(float64(time.Second) / b.spec.Rate)
	first := b.booted.Add(time.Duration(b.chance.unit("phase", 0) * float64(period)))
	n := now.Sub(first) / period
	if now.Before(first) {
		n--
	}
	return first.Add((n + 1) * period)
}

// Step does what is due and returns when to call it again, the zero time if only
// Wake will tell. Sampling times that were missed are left out, as by a busy
// microcontroller.
func (b *Board) Step() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.opts.Clock.Now()
	if b.sampling && !b.due.After(now) {
		b.emit(now)
		b.due = b.next(now)
	}
	sent := 0
	for _, f := range b.flight {
		if f.deliver.After(now) {
			break
		}
		b.link.Notify(b.stream, f.value, f.emitted) // if it is gone, Disconnected follows
		sent++
	}
	if b.flight = b.flight[sent:]; len(b.flight) == 0 {
		b.flight = nil
	}
	var next time.Time
	earliest := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	if b.sampling {
		earliest(b.due)
	}
	if len(b.flight) > 0 {
		earliest(b.flight[0].deliver)
	}
	if len(b.output) > 0 {
		if at := b.talk(now); !at.IsZero() {
			earliest(at)
		}
	}
	return next
}

func (b *Board) emit(now time.Time) {
	b.frames++
	l := b.spec.Latency
	spread := (2*b.chance.unit("latency", b.frames) - 1) * float64(l.Jitter)
	deliver := now.Add(time.Duration(l.Median) + time.Duration(spread))
	if n := len(b.flight); n > 0 && deliver.Before(b.flight[n-1].deliver) {
		deliver = b.flight[n-1].deliver
	}
	b.flight = append(b.flight, frame{value: b.measure(now), emitted: b.opts.Monotonic(), deliver: deliver})
}

// measure is a frame of the environmental characteristic.
func (b *Board) measure(now time.Time) []byte {
	f := bluest.Frame{Characteristic: b.stream, TS: uint16(now.Sub(b.booted) / b.unit)}
	for _, p := range b.parts {
		for _, feed := range p.Feeds {
			f.Readings = append(f.Readings, bluest.Reading{Quantity: feed.Quantity, Value: b.reading(p.Name, feed.SensorType, now), Unit: feed.Unit})
		}
	}
	v, err := bluest.Encode(f)
	if err != nil {
		panic("board: its own readings do not fit its frame: " + err.Error()) // a test has all models
	}
	return v
}
