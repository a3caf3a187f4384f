// Package board is one simulated STWIN board: what it measures, announces and
// sends over the radio, how fast, and what can go wrong with it.
//
// A board starts nothing and keeps no timer. Whoever runs it calls [Board.Step]
// when the board has asked for it, and is told by Wake when that has become
// earlier; one goroutine can run thousands.
//
// What holds:
//   - Readings, time stamps, jitter and the phase of sampling depend on nothing
//     but the seed, the board's MAC, the clock and, of what is replayed, the file.
//   - A part's readings stay within the accuracy of its datasheet, unless it has a
//     fault, and vary by more than one step of their frame.
//   - The time stamp of a frame is the board's uptime in the unit of its firmware,
//     16 bits, wrapping. Boards have been up for up to ten minutes when they start
//     here, so wraps do not wait for the end of a demo.
//   - Frames of a board never overtake each other, whatever their latency and
//     characteristic.
//   - Losing its connection, a board forgets what was subscribed and on its way,
//     and advertises again. What was set over the air it forgets when it restarts.
//   - A frame has its lines in the journal before it is handed to the radio.
//   - A fault changes what it is for and nothing else; once over, the board is as
//     it would have been without it.
//
// To try it: board_test.go runs one on a fake clock.
package board

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/radio"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

const (
	maxUptime = 10 * time.Minute // at the start
	idBytes   = 12
)

// Options are what a board gets from where it runs.
type Options struct {
	Seed  uint64
	Clock clock.PassiveClock
	// Monotonic stamps emissions; nil means radio.Now.
	Monotonic func() int64
	// Journal gets what the board measures and what happens to it; nil keeps none.
	Journal *Journal
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
	opts    Options
	variety *variety
	mac     radio.Address
	device  string
	unit    time.Duration // of time stamps
	advert  []byte
	chance  chance
	place   place
	replay  *Replay // nil for none

	// Times of a board are since it was made, so that they do not follow the host's
	// clock where that is set.
	made   time.Time
	origin int64 // made, in Unix ns

	telling  sync.Mutex // before mu
	toldGone bool

	mu      sync.Mutex
	spec    topology.Board // rate, latency and parts change
	booted  time.Duration
	streams [channels]stream
	link    *radio.Link
	node    string  // of link
	frames  uint64  // since it was made
	flight  []frame // emitted, not yet delivered; in order of both
	faults  []fault

	console bool   // subscribed
	output  []byte // of the console, not yet sent
	talkAt  time.Duration
}

// never is a time that does not come.
const never time.Duration = math.MaxInt64

// stream is a channel of one board.
type stream struct {
	rate                 float64
	period               time.Duration
	disabled, subscribed bool
	due                  time.Duration // never if it does not send
	wall                 int64         // of the last emission, Unix ns
}

type frame struct {
	channel       int
	value         []byte
	emitted, wall int64 // monotonic, and Unix ns
	deliver       time.Duration
}

// New is the board that a complete topology describes, switched on. Offers default to
// the environmental parts.
func New(spec topology.Board, opts Options) (*Board, error) {
	mac, err := radio.ParseAddress(spec.MAC)
	if err != nil {
		return nil, fmt.Errorf("mac: %w", err)
	}
	if id, err := hex.DecodeString(spec.ID); err != nil || len(id) != idBytes {
		return nil, fmt.Errorf("id: %q, want 24 hex digits", spec.ID)
	}
	v, ok := varieties[spec.Model]
	if !ok {
		return nil, fmt.Errorf("model: %q is not simulated", spec.Model)
	}
	ad, err := bluest.NewAdvertisement(spec.Model, mac)
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	payload, err := ad.Encode()
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	for i, name := range spec.Offers {
		if !v.has(name) || slices.Index(spec.Offers, name) != i {
			return nil, fmt.Errorf("offers: %q, want parts of a %s, each once: %s", name, spec.Model, v.known())
		}
	}
	if len(spec.Offers) == 0 {
		for _, p := range v.parts {
			if p.Characteristic == v.channels[environmental].mask {
				spec.Offers = append(spec.Offers, p.Name)
			}
		}
	}
	if err := v.check(spec); err != nil {
		return nil, err
	}
	var replay *Replay
	if spec.ReplayCSV != "" {
		if replay, err = ParseReplay(spec.Model, spec.ReplayCSV); err != nil {
			return nil, fmt.Errorf("replay %s: %w", spec.Replay, err)
		}
		spec.ReplayCSV = ""
	}
	if opts.Monotonic == nil {
		opts.Monotonic = radio.Now
	}
	for _, f := range []*func(*Board){&opts.Wake, &opts.Announce} {
		if *f == nil {
			*f = func(*Board) {}
		}
	}
	if opts.InRange == nil {
		opts.InRange = func(*Board, bool) {}
	}
	spec.ID = strings.ToLower(spec.ID)
	spec.MAC = mac.String()
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(mac[:], opts.Seed))
	seed := chance(binary.BigEndian.Uint64(sum[:]))
	b := &Board{
		opts: opts, variety: v, mac: mac, device: strings.ToLower(spec.Model) + "-" + mac.Hex(), unit: ad.Firmware.TSUnit(), advert: payload, chance: seed, place: newPlace(seed),
		replay: replay, made: opts.Clock.Now(), spec: spec,
	}
	b.origin = b.made.UnixNano()
	b.reboot(-time.Duration(seed.unit(forUptime, 0) * float64(maxUptime)))
	return b, nil
}

// Device is the name that the board's mapper gives it in Kubernetes.
func (b *Board) Device() string { return b.device }

// now on the board's clock. b.mu need not be held.
func (b *Board) now() time.Duration { return b.opts.Clock.Now().Sub(b.made) }

// nominalRate is that of a channel before anybody sets another. b.mu is held.
func (b *Board) nominalRate(ch int) float64 {
	if ch == environmental {
		return b.spec.Rate
	}
	return b.variety.channels[ch].mask.NominalRate()
}

// setRate of a channel. b.mu is held.
func (b *Board) setRate(ch int, hz float64) {
	b.streams[ch].rate, b.streams[ch].period = hz, time.Duration(float64(time.Second)/hz)
	b.schedule(ch)
}

// schedule the next sample of a channel. Every board and channel samples in a phase
// of its own. b.mu is held.
func (b *Board) schedule(ch int) {
	s := &b.streams[ch]
	if s.due = never; !s.subscribed || s.disabled {
		return
	}
	s.due = b.next(ch, b.now())
}

// next time at which a channel samples, after now.
func (b *Board) next(ch int, now time.Duration) time.Duration {
	period := b.streams[ch].period
	first := b.booted + time.Duration(b.chance.unit(forPhase, uint64(ch))*float64(period))
	n := (now - first) / period
	if now < first {
		n--
	}
	return first + (n+1)*period
}

// Step does what is due and returns when to call it again, the zero time if only
// Wake will tell. Sampling times that were missed are left out, as by a busy
// microcontroller.
func (b *Board) Step() time.Time {
	var end aftermath
	b.mu.Lock()
	b.step(b.now(), &end)
	next := b.due()
	b.mu.Unlock()
	b.conclude(end)
	if next == never {
		return time.Time{}
	}
	return b.made.Add(next)
}

// Advance does everything that is due until a time, and then, each thing at its own
// time whatever the board's clock says: Step for whoever has many boards and a clock
// of its own, without a queue of what is due when. Subscriptions and faults take their
// times from the board's clock; so that it may not lag, advance the boards first, then
// the clock.
func (b *Board) Advance(to time.Time) {
	until := to.Sub(b.made)
	var end aftermath
	b.mu.Lock()
	for at := b.due(); at <= until; at = b.due() {
		b.step(at, &end)
	}
	b.mu.Unlock()
	b.conclude(end)
}

// due is when there is something to do next. b.mu is held.
func (b *Board) due() time.Duration {
	next := never
	for i := range b.streams {
		next = min(next, b.streams[i].due)
	}
	if len(b.flight) > 0 {
		next = min(next, b.flight[0].deliver)
	}
	if len(b.output) > 0 {
		next = min(next, b.talkAt)
	}
	for i := range b.faults {
		next = min(next, b.faults[i].until)
	}
	return next
}

// step does what is due now. b.mu is held.
func (b *Board) step(now time.Duration, end *aftermath) {
	if len(b.faults) > 0 {
		b.expire(now, end)
	}
	for ch := range b.streams {
		if b.streams[ch].due <= now {
			b.emit(ch, now)
			b.streams[ch].due = b.next(ch, now)
		}
	}
	sent := 0
	for sent < len(b.flight) && b.flight[sent].deliver <= now {
		f := &b.flight[sent]
		b.link.Notify(b.variety.channels[f.channel].uuid, f.value, f.emitted, f.wall) // if it is gone, Disconnected follows
		sent++
	}
	if sent > 0 {
		left := copy(b.flight, b.flight[sent:])
		clear(b.flight[left:])
		b.flight = b.flight[:left]
	}
	if len(b.output) > 0 && b.talkAt <= now {
		b.talk(now)
	}
}

// emit a frame. b.mu is held.
func (b *Board) emit(ch int, now time.Duration) {
	b.frames++
	if len(b.faults) > 0 && b.suffers(topology.FaultSilence, now) {
		return
	}
	l := b.spec.Latency
	deliver := now + time.Duration(l.Median) + time.Duration(b.chance.sign(forLatency, b.frames)*float64(l.Jitter))
	if n := len(b.flight); n > 0 {
		deliver = max(deliver, b.flight[n-1].deliver)
	}
	var measured [maxValues]float64
	values := b.measure(ch, now, &measured)
	value := b.encode(ch, now, values)
	spoiled := len(b.faults) > 0 && b.suffers(topology.FaultGarbage, now)
	if spoiled {
		value = b.spoil(ch, value)
	}
	f := frame{channel: ch, value: value, deliver: deliver}
	f.emitted, f.wall = b.stamps(now)
	// The host's clock may have been set back; the times of a part increase all the same.
	f.wall = max(f.wall, b.streams[ch].wall+1)
	b.streams[ch].wall = f.wall
	b.flight = append(b.flight, f)
	b.opts.Journal.readings(b, ch, values, &f, deliver-now, spoiled)
}

// stamps are what the host's clocks, the monotonic one and the wall clock in Unix ns,
// show at a time of the board's, however long it took to get here. The wall clock is
// read each time: it may be set, and a monotonic clock stands still while the host sleeps.
func (b *Board) stamps(at time.Duration) (monotonic, wall int64) {
	monotonic = b.opts.Monotonic()
	now := b.opts.Clock.Now()
	late := int64(now.Sub(b.made) - at)
	return monotonic - late, now.UnixNano() - late
}

// offers reports whether a part is on offer. Offers do not change.
func (b *Board) offers(part string) bool { return slices.Contains(b.spec.Offers, part) }

// frame that a channel would send at a time. b.mu is held.
func (b *Board) frame(ch int, at time.Duration) []byte {
	var values [maxValues]float64
	return b.encode(ch, at, b.measure(ch, at, &values))
}

// encode what a channel's sensors show at a time as a frame. b.mu is held.
func (b *Board) encode(ch int, at time.Duration, values []float64) []byte {
	encoder := b.variety.channels[ch].encoder
	return encoder.Append(make([]byte, 0, encoder.Bytes()), uint16((at-b.booted)/b.unit), values)
}

// disconnect forgets the connection, which is gone for a reason. b.mu is held.
func (b *Board) disconnect(why string) {
	b.note(b.now(), EventDisconnected, why+lost(len(b.flight)))
	b.link, b.node, b.flight, b.console, b.output = nil, "", nil, false, nil
	for i := range b.streams {
		b.streams[i].subscribed, b.streams[i].due = false, never
	}
}
