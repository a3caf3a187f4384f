// Package health judges one board by what comes from it. It is pure: whoever
// uses it says what happened and when, and reads the verdict; it has no clock, no
// network and no goroutine.
//
// What holds:
//   - Each fault gives one Event when it begins, and the board's return to online
//     one when nothing is wrong any more. Whatever lasts is not told again.
//   - Only evidence ends a fault: a stuck part's value must change, readings must
//     agree again, frames must be readable again. That a board was away and came
//     back is none.
//   - The state is "" until a readable frame or a fault says something, then as in
//     package devices.
//   - Problems says why the state is unhealthy or offline: there is at least one
//     then, and none in any other state. It changes only when the reasons do, not
//     with each frame, so that it can be written down whenever it changes.
//   - Times only grow; one that is behind its predecessor is taken as that.
//
// To try it: health_test.go tells it the lives of boards.
package health

import (
	"fmt"
	"slices"
	"strings"
	"time"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
)

// Reasons of Events.
const (
	BoardSilent      = "BoardSilent"
	ValueStuck       = "ValueStuck"
	ReadingsDisagree = "ReadingsDisagree"
	GarbageFrames    = "GarbageFrames"
	BatteryLow       = "BatteryLow"
	BoardRestarted   = "BoardRestarted"
	BoardLost        = "BoardLost"
	BoardRecovered   = "BoardRecovered"
)

// LostAfter is how long a board may be without a connection before it is lost.
const LostAfter = 5 * time.Second

const (
	// A characteristic is silent without a frame for silentFor and for
	// silentPeriods of its periods.
	silentFor     = 10 * time.Second
	silentPeriods = 5
	// A part is stuck when all its values were the same in stuckFrames frames in a
	// row, and for stuckFor.
	stuckFrames = 20
	stuckFor    = 10 * time.Second
	// Two temperatures disagree when they were further apart than both accuracies
	// and disagreeMargin in disagreeFrames frames in a row; as many that are not end it.
	disagreeFrames = 5
	disagreeMargin = 2.0 // degC
	// garbageFrames that cannot be read, in a row; as many that can end it.
	garbageFrames = 5
	// A battery is low below lowLevel, and is not from fullLevel on.
	lowLevel  = 10.0
	fullLevel = 12.0
	// restarts closer than this are one, seen on several characteristics.
	sameRestart = 10 * time.Second
)

// Event is a change that users are told of.
type Event struct {
	Reason, Message string
	// Normal is false for what is wrong.
	Normal bool
}

// Stream is a characteristic that frames are expected of, every Period.
type Stream struct {
	Name   string
	Period time.Duration
}

// Part is a sensor whose values come in the frames of a stream.
type Part struct {
	Name, Stream string
	// Accuracy of its temperature, degC.
	Accuracy float64
}

// Sample is what one part measured in one frame.
type Sample struct {
	Part   string
	Values []float64
	// Temperature is one of the values; HasTemperature says that there is one.
	Temperature    float64
	HasTemperature bool
}

// Board is what is known of one board. It is not safe for concurrent use.
type Board struct {
	state  string
	events []Event
	now    time.Time

	streams map[string]*stream
	parts   map[string]*part

	linked bool
	heard  bool      // a readable frame since it was linked
	lostAt time.Time // when it is lost unless it is heard; zero: no question of that
	why    string    // it was disconnected
	lost   bool
	since  time.Time // of the state

	apart, together int // frames in a row
	disagree        bool
	low             bool

	// Messages of the Events of the last loss, garbage and disagreement.
	lostMessage, garbageMessage, disagreeMessage string
	problems                                     []Event
	restarted                                    time.Time
}

type stream struct {
	period  time.Duration
	last    time.Time
	gaps    [2]time.Duration // between the last three frames
	bad     int              // frames in a row
	good    int
	silent  bool
	quiet   time.Duration // without a frame, when it was found silent
	garbage bool
}

type part struct {
	Part
	values []float64
	frames int // with these values, in a row
	since  time.Time
	stuck  bool
	// sameFrames and sameFor are frames and their duration when it was found stuck.
	sameFrames int
	sameFor    time.Duration
}

// New is a board of which nothing is known, not even that it is there: it is lost
// unless it is heard within grace.
func New(now time.Time, grace time.Duration) *Board {
	return &Board{
		now: now, since: now, lostAt: now.Add(grace), why: "it was not heard since the mapper started",
		streams: map[string]*stream{}, parts: map[string]*part{},
	}
}

// State of the board, "" as long as it is not known.
func (b *Board) State() string { return b.state }

// Problems returns the Events that still hold, the one that says most first, each
// with its reason and a message. The caller must not change the slice.
func (b *Board) Problems() []Event { return b.problems }

// Take returns the Events since the last call.
func (b *Board) Take() []Event {
	events := b.events
	b.events = nil
	return events
}

// Next is when Check may change something though nothing happens, the zero time
// if never.
func (b *Board) Next() time.Time {
	if !b.linked {
		return b.lostAt
	}
	var next time.Time
	for _, s := range b.streams {
		if at := s.deadline(); (!s.silent || b.lost) && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// Link says that the board is connected, as yet without a frame.
func (b *Board) Link(now time.Time) {
	now = b.at(now)
	b.linked, b.heard = true, false
	for _, s := range b.streams {
		s.last, s.gaps = now, [2]time.Duration{}
	}
}

// Unlink says that the connection is gone, and why. The board is lost unless it is
// heard again within LostAfter.
func (b *Board) Unlink(now time.Time, why string) {
	now = b.at(now)
	b.linked, b.heard, b.why = false, false, why
	if b.lostAt.IsZero() && !b.lost {
		b.lostAt = now.Add(LostAfter)
	}
}

// Wait gives an unlinked board more time.
func (b *Board) Wait(until time.Time) {
	if !b.linked && !b.lostAt.IsZero() {
		b.lostAt = until
	}
}

// Expect says what the board offers now. What it offered before and still does
// keeps its history.
func (b *Board) Expect(now time.Time, streams []Stream, parts []Part) {
	now = b.at(now)
	before := b.streams
	b.streams = map[string]*stream{}
	for _, s := range streams {
		known := before[s.Name]
		if known == nil {
			known = &stream{last: now}
		}
		known.period = s.Period
		b.streams[s.Name] = known
	}
	old := b.parts
	b.parts = map[string]*part{}
	for _, p := range parts {
		known := old[p.Name]
		if known == nil || known.Stream != p.Stream {
			known = &part{}
		}
		known.Part = p
		b.parts[p.Name] = known
	}
	b.settle(now)
}

// Frame says that a readable frame of a stream came, and what was in it.
func (b *Board) Frame(now time.Time, name string, samples []Sample) {
	now = b.at(now)
	s := b.arrived(now, name)
	if s == nil {
		return
	}
	b.heard, s.silent = true, false
	s.good, s.bad = s.good+1, 0
	if s.good >= garbageFrames {
		s.garbage = false
	}
	stuck := false // a part that was not
	for _, m := range samples {
		p := b.parts[m.Part]
		if p == nil || len(m.Values) == 0 {
			continue
		}
		if !slices.Equal(p.values, m.Values) {
			p.values = append(p.values[:0], m.Values...)
			p.frames, p.since, p.stuck = 0, now, false
		}
		p.frames++
		if !p.stuck && p.frames >= stuckFrames && now.Sub(p.since) >= stuckFor {
			p.stuck, p.sameFrames, p.sameFor = true, p.frames, now.Sub(p.since)
			stuck = true
		}
	}
	if stuck {
		b.tell(ValueStuck, b.stuckMessage())
	}
	b.compare(samples)
	b.settle(now)
}

// compare the temperatures of a frame.
func (b *Board) compare(samples []Sample) {
	pairs, far, allowed := 0, [2]Sample{}, 0.0
	apart := false
	for i, x := range samples {
		for _, y := range samples[i+1:] {
			p, q := b.parts[x.Part], b.parts[y.Part]
			if !x.HasTemperature || !y.HasTemperature || p == nil || q == nil {
				continue
			}
			pairs++
			limit := p.Accuracy + q.Accuracy + disagreeMargin
			if d := x.Temperature - y.Temperature; d > limit || d < -limit {
				apart, far, allowed = true, [2]Sample{x, y}, limit
			}
		}
	}
	switch {
	case pairs == 0:
	case apart:
		b.apart, b.together = b.apart+1, 0
		if !b.disagree && b.apart >= disagreeFrames {
			b.disagree = true
			b.disagreeMessage = fmt.Sprintf("%s measures %.1f degC and %s %.1f, more than %.1f apart, in %d frames in a row",
				far[0].Part, far[0].Temperature, far[1].Part, far[1].Temperature, allowed, b.apart)
			b.tell(ReadingsDisagree, b.disagreeMessage)
		}
	default:
		b.apart, b.together = 0, b.together+1
		if b.together >= disagreeFrames {
			b.disagree = false
		}
	}
}

// Malformed says that a frame of a stream came which cannot be read.
func (b *Board) Malformed(now time.Time, name string, err error) {
	now = b.at(now)
	s := b.arrived(now, name)
	if s == nil {
		return
	}
	s.bad, s.good = s.bad+1, 0
	if !s.garbage && s.bad >= garbageFrames {
		already := b.any(func(s *stream) bool { return s.garbage })
		if s.garbage = true; !already {
			b.garbageMessage = fmt.Sprintf("%d frames in a row cannot be read, the last: %v", s.bad, err)
			b.tell(GarbageFrames, b.garbageMessage)
		}
	}
	b.settle(now)
}

// Battery says what the board told of its battery.
func (b *Board) Battery(now time.Time, level float64, low bool) {
	b.at(now)
	switch {
	case !b.low && (low || level < lowLevel):
		b.low = true
		b.tell(BatteryLow, fmt.Sprintf("the battery is at %.0f %%", level))
	case !low && level >= fullLevel:
		b.low = false
	}
}

// Restart says that the board began to count its uptime anew.
func (b *Board) Restart(now time.Time) {
	now = b.at(now)
	if b.restarted.IsZero() || now.Sub(b.restarted) >= sameRestart {
		b.tell(BoardRestarted, "the board counts its uptime anew")
	}
	b.restarted = now
}

// Check looks what time alone has changed.
func (b *Board) Check(now time.Time) {
	now = b.at(now)
	switch {
	case !b.linked && !b.lostAt.IsZero() && !now.Before(b.lostAt):
		b.lostAt, b.lost = time.Time{}, true
		b.lostMessage = "no connection: " + b.why
		b.tell(BoardLost, b.lostMessage)
	case b.linked:
		silent := false // a stream that was not
		already := b.any(func(s *stream) bool { return s.silent })
		for _, s := range b.streams {
			if now.Before(s.deadline()) {
				continue
			}
			b.lost, b.lostAt = false, time.Time{} // it is there, and says nothing
			if !s.silent {
				s.silent, s.quiet = true, now.Sub(s.last)
				silent = true
			}
		}
		if silent && !already {
			b.tell(BoardSilent, b.silentMessage())
		}
	}
	b.settle(now)
}

// arrived is the stream of a frame, nil if none is expected of it.
func (b *Board) arrived(now time.Time, name string) *stream {
	s := b.streams[name]
	if s == nil || !b.linked {
		return nil
	}
	if b.heard {
		s.gaps[0], s.gaps[1] = s.gaps[1], now.Sub(s.last)
	}
	s.last, b.lost, b.lostAt = now, false, time.Time{}
	return s
}

// deadline of the next frame. A board that is slower than it was said to be is not
// silent for that.
func (s *stream) deadline() time.Time {
	return s.last.Add(max(silentFor, silentPeriods*max(s.period, min(s.gaps[0], s.gaps[1]))))
}

// settle draws the conclusion.
func (b *Board) settle(now time.Time) {
	next := b.state
	defer b.explain()
	switch {
	case b.lost:
		next = devices.StateOffline
	case b.faulty():
		next = devices.StateUnhealthy
	case b.heard:
		next = devices.StateOnline
	}
	if next == b.state {
		return
	}
	if b.state != "" && next == devices.StateOnline {
		b.events = append(b.events, Event{Reason: BoardRecovered, Normal: true,
			Message: fmt.Sprintf("online again after %s %s", brief(now.Sub(b.since)), b.state)})
	}
	b.state, b.since = next, now
}

// explain brings the problems in line with the state. A reason that is gone while
// nothing says yet that the board is well, as after a reconnection, still explains
// the state.
func (b *Board) explain() {
	if b.state != devices.StateUnhealthy && b.state != devices.StateOffline {
		b.problems = nil
		return
	}
	var now []Event
	add := func(reason, message string) { now = append(now, Event{Reason: reason, Message: message}) }
	lost := b.state == devices.StateOffline
	if lost {
		add(BoardLost, b.lostMessage)
	}
	if !lost && b.any(func(s *stream) bool { return s.silent }) {
		add(BoardSilent, b.silentMessage())
	}
	if b.any(func(s *stream) bool { return s.garbage }) {
		add(GarbageFrames, b.garbageMessage)
	}
	if len(b.stuck()) > 0 {
		add(ValueStuck, b.stuckMessage())
	}
	if b.disagree {
		add(ReadingsDisagree, b.disagreeMessage)
	}
	if len(now) > 0 && !slices.Equal(now, b.problems) {
		b.problems = now
	}
}

// silentMessage names the silent streams, with the period that each should have.
func (b *Board) silentMessage() string {
	var names []string
	var longest time.Duration
	for name, s := range b.streams {
		if s.silent {
			mask, _, _ := strings.Cut(name, "-")
			names = append(names, fmt.Sprintf("%s (due every %s)", mask, s.period.Round(time.Millisecond)))
			longest = max(longest, s.quiet)
		}
	}
	slices.Sort(names)
	return fmt.Sprintf("connected, but no frame for %s of %s", brief(longest), strings.Join(names, ", "))
}

// stuckMessage names the stuck parts, with what is true of all of them.
func (b *Board) stuckMessage() string {
	names := b.stuck()
	frames, lasting := b.parts[names[0]].sameFrames, b.parts[names[0]].sameFor
	for _, name := range names[1:] {
		frames, lasting = min(frames, b.parts[name].sameFrames), min(lasting, b.parts[name].sameFor)
	}
	return fmt.Sprintf("the same values of %s in %d frames, for %s", strings.Join(names, ", "), frames, brief(lasting))
}

func (b *Board) faulty() bool {
	return b.disagree || b.any(func(s *stream) bool { return s.silent || s.garbage }) || len(b.stuck()) > 0
}

func (b *Board) any(is func(*stream) bool) bool {
	for _, s := range b.streams {
		if is(s) {
			return true
		}
	}
	return false
}

// stuck parts, by name.
func (b *Board) stuck() (names []string) {
	for name, p := range b.parts {
		if p.stuck {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (b *Board) tell(reason, message string) {
	b.events = append(b.events, Event{Reason: reason, Message: message})
}

func (b *Board) at(now time.Time) time.Time {
	if now.Before(b.now) {
		return b.now
	}
	b.now = now
	return now
}

// brief is a duration for people.
func brief(d time.Duration) string { return d.Round(100 * time.Millisecond).String() }
