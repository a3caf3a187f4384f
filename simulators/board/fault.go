package board

import (
	"encoding/hex"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/fluidos-edge/testbed/simulators/radio"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

const (
	// restart is how long a board that reboots is off the air.
	restart      = 2 * time.Second
	defaultSlope = 1
)

// fault that a board has; times are since it was made.
type fault struct {
	topology.Fault
	id           string // of a clone
	since, until time.Duration
	// frozen values by channel and gauge if it is stuck, NaN for what is not.
	frozen *[channels][maxValues]float64
}

// Fault makes something go wrong with the board from now on. It replaces one of its
// kind; its For counts from now. of is the 96-bit id that a clone carries, nothing
// otherwise. The error names the field.
//
// What is read once in a connection, the id, changes with the connection: a clone
// drops its own, when it begins and when it ends.
func (b *Board) Fault(f topology.Fault, of string) error {
	b.mu.Lock()
	model := b.spec.Model
	b.mu.Unlock()
	if err := f.Check(model); err != nil {
		return err
	}
	n := fault{Fault: f, until: never}
	switch f.Kind {
	case topology.FaultClone:
		id, err := hex.DecodeString(of)
		if err != nil || len(id) != idBytes {
			return fmt.Errorf("of: id %q, want 24 hex digits", of)
		}
		n.id = hex.EncodeToString(id)
	case topology.FaultReboot:
		n.For = topology.Duration(restart)
	case topology.FaultDrift:
		if f.Slope == 0 {
			n.Slope = defaultSlope
		}
	}
	b.mu.Lock()
	if n.id == b.spec.ID {
		b.mu.Unlock()
		return fmt.Errorf("of: id %s is the board's own, want another board's", n.id)
	}
	now := b.now()
	n.since = now
	if n.For > 0 {
		if n.until = now + time.Duration(n.For); n.until < now {
			n.until = never
		}
	}
	var end aftermath
	b.expire(now, &end)
	b.remove(func(old *fault) bool { return old.Kind == f.Kind }, now, "replaced", &end)
	switch f.Kind {
	case topology.FaultStuck:
		n.frozen = b.freeze(f.Part, now)
	case topology.FaultReboot:
		b.reboot(now)
	}
	b.faults = append(b.faults, n)
	b.note(now, EventFault, n.detail())
	b.changed(f.Kind, true, &end)
	b.mu.Unlock()
	b.conclude(end)
	b.opts.Wake(b)
	return nil
}

// Clear ends the fault of a kind; "" ends all. A kind that the board does not have
// is an error, but for "".
func (b *Board) Clear(kind string) error {
	b.mu.Lock()
	var end aftermath
	now := b.now()
	b.expire(now, &end)
	if kind != "" && !b.suffers(kind, now) {
		has := make([]string, len(b.faults))
		for i := range b.faults {
			has[i] = b.faults[i].Kind
		}
		b.mu.Unlock()
		b.conclude(end)
		if len(has) == 0 {
			return fmt.Errorf("kind: %q, but nothing is wrong with the board", kind)
		}
		return fmt.Errorf("kind: %q, but the board has only %s", kind, strings.Join(has, ", "))
	}
	b.remove(func(f *fault) bool { return kind == "" || f.Kind == kind }, now, "cleared", &end)
	b.mu.Unlock()
	b.conclude(end)
	b.opts.Wake(b)
	return nil
}

// aftermath is what is to be done without the lock after faults came or went.
type aftermath struct {
	link *radio.Link // to drop
	why  string
	air  bool // who hears the board has changed
}

// changed notes what follows from a fault that came or went. b.mu is held.
func (b *Board) changed(kind string, came bool, end *aftermath) {
	switch kind {
	case topology.FaultClone:
	case topology.FaultReboot, topology.FaultOutOfRange:
		end.air = true
		if !came {
			return // a connection that there is now is one of after it
		}
	default:
		return
	}
	if b.link != nil {
		end.link, end.why = b.link, "the board is gone: "+kind
		b.disconnect(end.why)
	}
}

// conclude does what is left. b.mu is not held.
func (b *Board) conclude(end aftermath) {
	if end.link != nil {
		end.link.Drop(end.why)
	}
	switch {
	case end.air:
		b.tell()
	case end.link != nil:
		b.opts.Announce(b)
	}
}

// tell whoever cares whether the board is on the air, once for each change.
func (b *Board) tell() {
	b.telling.Lock()
	defer b.telling.Unlock()
	b.mu.Lock()
	gone := b.gone(b.now())
	b.mu.Unlock()
	if gone == b.toldGone {
		return
	}
	b.toldGone = gone
	b.opts.InRange(b, !gone)
	if !gone {
		b.opts.Announce(b)
	}
}

// gone is whether no radio hears the board. b.mu is held.
func (b *Board) gone(at time.Duration) bool {
	return b.suffers(topology.FaultOutOfRange, at) || b.suffers(topology.FaultReboot, at)
}

// suffers tells whether the board has a fault at a time. b.mu is held.
func (b *Board) suffers(kind string, at time.Duration) bool {
	for i := range b.faults {
		if f := &b.faults[i]; f.Kind == kind && at < f.until {
			return true
		}
	}
	return false
}

// expire removes faults that are over. b.mu is held.
func (b *Board) expire(now time.Duration, end *aftermath) {
	b.remove(func(f *fault) bool { return f.until <= now }, now, "expired", end)
}

// remove faults; how says why. b.mu is held.
func (b *Board) remove(which func(*fault) bool, now time.Duration, how string, end *aftermath) {
	left := b.faults[:0]
	for i := range b.faults {
		if f := b.faults[i]; which(&f) {
			b.note(min(f.until, now), EventCleared, f.detail()+": "+how)
			b.changed(f.Kind, false, end)
		} else {
			left = append(left, f)
		}
	}
	clear(b.faults[len(left):])
	if b.faults = left; len(left) == 0 {
		b.faults = nil
	}
}

// reboot forgets what was set over the air, and counts time anew. b.mu is held.
func (b *Board) reboot(now time.Duration) {
	b.booted = now
	for i := range b.streams {
		b.streams[i].disabled = false
		b.setRate(i, b.nominalRate(i))
	}
}

// freeze what a part shows now; "" is every part. b.mu is held.
func (b *Board) freeze(part string, now time.Duration) *[channels][maxValues]float64 {
	frozen := &[channels][maxValues]float64{}
	for ch := range b.variety.channels {
		values := b.measure(ch, now, &frozen[ch])
		for i, g := range b.variety.channels[ch].gauges {
			if !g.of(part) {
				values[i] = math.NaN()
			}
		}
	}
	return frozen
}

// of tells whether a gauge is a part's, or any part's if that is "".
func (g *gauge) of(part string) bool { return g.part != "" && (part == "" || g.part == part) }

// distort measured values by faults. b.mu is held.
func (b *Board) distort(ch int, at time.Duration, values []float64) {
	gauges := b.variety.channels[ch].gauges
	for i := range b.faults {
		f := &b.faults[i]
		if f.Kind != topology.FaultDrift || at >= f.until {
			continue
		}
		for j := range values {
			if gauges[j].of(f.Part) {
				values[j] += f.Slope * (at - f.since).Minutes()
			}
		}
	}
	for i := range b.faults {
		f := &b.faults[i]
		if f.frozen == nil || at >= f.until {
			continue
		}
		for j := range values {
			if v := f.frozen[ch][j]; !math.IsNaN(v) {
				values[j] = v
			}
		}
	}
}

// spoil makes of a frame something of a length that no frame of its channel has: a
// piece of it, more than it, or noise, in turn. b.mu is held.
func (b *Board) spoil(ch int, frame []byte) []byte {
	shortest, longest := len(frame), len(frame)
	if ch == microphone {
		longest += maxMicrophones - microphones
	}
	n := b.frames
	piece := func(most int) int { return 1 + int(b.chance.bits(forGarbage, n)%uint64(most)) }
	room := maxFrame - longest
	turn := n % 3
	if turn == 1 && room == 0 {
		turn = 0
	}
	switch turn {
	case 0:
		return frame[:piece(shortest-1)]
	case 1:
		n := longest + piece(room)
		for len(frame) < n {
			frame = append(frame, byte(b.chance.bits(forGarbage, uint64(len(frame)))))
		}
		return frame
	}
	noise := frame[:piece(shortest-1)]
	for i := range noise {
		noise[i] = byte(b.chance.bits(forGarbage, n<<8|uint64(i)))
	}
	return noise
}
