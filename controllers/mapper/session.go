package mapper

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fluidos-edge/testbed/controllers/mapper/internal/backoff"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/health"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/publish"
	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/radio"
)

const (
	// gattTimeout bounds one request to a board.
	gattTimeout = 10 * time.Second
	// consoleTimeout bounds the answer to one command.
	consoleTimeout = 5 * time.Second
	// maxAge is how old a notification may be by its envelope, on either clock. One
	// that claims more, or to come from the future, has no usable emission time.
	maxAge = 10 * time.Minute
	// maxAhead is how far in the future an emission may seem to be on the wall clock,
	// which may have been set back since.
	maxAhead = time.Second
)

// session is the connection of one board.
type session struct {
	peer      Peer
	leaf      *leaf
	board     identity
	unit      time.Duration // of time stamps
	epoch     func() int64  // a new one, later than any before
	publisher *publish.Publisher
	registrar registrar
	metrics   *metrics
	now       func() time.Time
	monotonic func() int64 // the clock of notifications
	log       *slog.Logger

	console  bool          // there is one
	lines    chan string   // of the console
	changed  chan struct{} // the board said that its sensors changed, or should be asked
	latest   chan declaration
	declared atomic.Pointer[declaration]
	// announces says that the board answered what it has.
	announces atomic.Bool
	tuned     atomic.Uint64 // sampling rate that was set, bits of a float64
	streams   map[string]*subscription
}

// subscription of one characteristic.
type subscription struct {
	stop context.CancelFunc
	done chan struct{} // closed when its last frame was taken in
}

// run asks the board who it is and what it has, then registers it and publishes
// its samples until the connection or ctx ends. The error says why it ended.
func (s *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.lines, s.changed, s.latest = make(chan string, 64), make(chan struct{}, 1), make(chan declaration, 1)
	s.streams = map[string]*subscription{}
	if err := s.discover(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	if s.console {
		console, err := s.peer.Subscribe(ctx, bluest.ConsoleUUID)
		if err != nil {
			return fmt.Errorf("subscribe to the console: %w", err)
		}
		g.Go(func() error {
			s.assemble(console)
			return s.ended()
		})
	}
	g.Go(func() error { return s.announce(ctx, g) })
	return g.Wait()
}

// ended is why a channel of the connection was closed.
func (s *session) ended() error {
	if err := s.peer.Err(); err != nil {
		return err
	}
	return context.Canceled
}

// discover finds the characteristics that matter.
func (s *session) discover(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, gattTimeout)
	defer cancel()
	all, err := s.peer.Discover(ctx)
	if err != nil {
		return fmt.Errorf("discover: %w", err)
	}
	known := map[bluest.Mask]bool{}
	for _, p := range bluest.Parts(s.board.model) {
		known[p.Characteristic] = true
	}
	var first, others []string
	for _, c := range all {
		m, err := bluest.ParseMask(c.UUID)
		switch {
		case c.UUID == bluest.ConsoleUUID:
			s.console = c.Write && c.Notify
		case c.UUID == bluest.ConfigUUID:
			s.board.config = c.Write
		case err != nil || !c.Notify:
		case m == bluest.Battery:
			s.board.battery = c.UUID
		case environmental(m):
			first = append(first, c.UUID)
		case known[m]:
			others = append(others, c.UUID)
		}
	}
	if len(first) > 1 { // of several layouts the first is taken
		first = first[:1]
	}
	if s.board.features = append(first, others...); len(s.board.features) == 0 {
		return fmt.Errorf("discover: %d characteristics, none of which carries values of a part of a %s", len(all), s.board.model)
	}
	return nil
}

// announce asks the board for its id and its sensors, then has it registered and
// its frames read, and asks again whenever its sensors change.
func (s *session) announce(ctx context.Context, g *errgroup.Group) error {
	if s.console {
		err := s.ask(ctx, commandUID, func(line string) (ok bool) {
			s.board.id, ok = parseUID(line)
			return ok
		})
		if err != nil {
			return err
		}
	}
	announced, err := s.declare(ctx)
	if err != nil {
		return err
	}
	g.Go(func() error {
		s.registrar.run(ctx, s.latest)
		return nil
	})
	if err := s.follow(ctx, g); err != nil {
		return err
	}
	g.Go(func() error { return s.tune(ctx) })
	retry := backoff.Backoff{First: s.registrar.pause, Max: maxRetry}
	settle := backoff.Backoff{First: s.registrar.pause, Max: s.registrar.pause} // however often it says so
	for {
		again := time.NewTimer(askAgain)
		if announced {
			again.Stop()
		}
		select {
		case <-s.changed:
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return ctx.Err()
		}
		again.Stop()
		for {
			if announced, err = s.declare(ctx); err == nil {
				break
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s.log.Warn("what the board offered before still stands", "err", err)
			retry.Wait(ctx)
		}
		retry.Reset()
		if err := s.follow(ctx, g); err != nil {
			return err
		}
		notify(s.leaf.wished) // what is desired may be what it no longer has
		settle.Wait(ctx)
	}
}

// offer replaces what the board offered before.
func (s *session) offer(d declaration) {
	s.declared.Store(&d)
	select {
	case <-s.latest:
	default:
	}
	s.latest <- d
	var streams []health.Stream
	var parts []health.Part
	periods := map[string]time.Duration{}
	for _, p := range d.parts {
		if len(p.feeds) == 0 {
			continue
		}
		rate := p.rate
		if m, err := bluest.ParseMask(p.stream); rate == 0 && err == nil {
			rate = m.NominalRate()
		}
		periods[p.stream] = max(periods[p.stream], time.Duration(float64(time.Second)/rate))
		parts = append(parts, health.Part{Name: p.name, Stream: p.stream, Accuracy: p.accuracy})
	}
	for uuid, period := range periods {
		streams = append(streams, health.Stream{Name: uuid, Period: period})
	}
	s.leaf.do(func(now time.Time) {
		s.leaf.health.Expect(now, streams, parts)
		if rate := s.rate(); rate > 0 && s.leaf.shadow.readings[propertyRate] != nil {
			s.leaf.shadow.state(propertyRate, rate, now)
		}
	})
}

// rate is the board's sampling rate: as it declares it, else as it was set, else
// the nominal one; 0 if it has none.
func (s *session) rate() float64 {
	m, ok := s.board.rateFeature()
	if !ok {
		return 0
	}
	if d := s.declared.Load(); d != nil && d.rate() > 0 {
		return d.rate()
	}
	if set := s.wasTuned(); set > 0 {
		return set
	}
	return m.NominalRate()
}

// follow subscribes to what carries the parts that are offered now, and to nothing
// else. The battery is followed while anything is.
func (s *session) follow(ctx context.Context, g *errgroup.Group) error {
	wanted := map[string]bool{}
	for _, p := range s.declared.Load().parts {
		if len(p.feeds) > 0 {
			wanted[p.stream] = true
		}
	}
	if len(wanted) > 0 && s.board.battery != "" {
		wanted[s.board.battery] = true
	}
	for uuid, f := range s.streams {
		if wanted[uuid] {
			continue
		}
		f.stop()
		select {
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		delete(s.streams, uuid)
	}
	for uuid := range wanted {
		if s.streams[uuid] != nil {
			continue
		}
		following, stop := context.WithCancel(ctx)
		frames, err := s.peer.Subscribe(following, uuid)
		if err != nil {
			stop()
			if uuid == s.board.battery && s.peer.Err() == nil && ctx.Err() == nil {
				s.log.Warn("the battery is not followed", "err", err)
				continue
			}
			return fmt.Errorf("subscribe to %s: %w", uuid, err)
		}
		f := &subscription{stop, make(chan struct{})}
		s.streams[uuid] = f
		g.Go(func() error {
			defer stop()
			s.frames(uuid, frames)
			close(f.done)
			if following.Err() != nil {
				return nil // nobody wants it any more
			}
			return s.ended()
		})
	}
	return nil
}

// frames takes in a characteristic's frames until they end. A board that began to
// count anew has restarted without a word: that is a new epoch.
func (s *session) frames(uuid string, frames <-chan radio.Notification) {
	epoch, bad, first := s.epoch(), false, true
	clock, period := bluest.NewTimeline(s.unit), s.unit<<16
	for n := range frames {
		f, err := bluest.Decode(uuid, n.Value)
		if err != nil {
			s.metrics.drop(publish.Malformed, 1)
			if !bad { // once in a row: a board may send nothing else
				s.log.Warn("frames dropped", "err", err)
			}
			bad = true
			s.leaf.do(func(now time.Time) { s.leaf.health.Malformed(now, uuid, err) })
			continue
		}
		bad = false
		booted := bootAt(n, f.TS, s.unit, period)
		_, restarted := clock.Uptime(f.TS, time.Duration(n.Received))
		if restarted {
			epoch = s.epoch()
		}
		s.leaf.do(func(now time.Time) {
			before, known := s.leaf.booted[uuid]
			if known && first && before.restarted(booted, period) {
				restarted = true
			}
			if known && restarted { // the other characteristics say so later
				s.leaf.health.Restart(now)
				clear(s.leaf.booted)
			}
			s.leaf.booted[uuid] = booted
		})
		if restarted {
			s.log.Warn("board counts anew", "characteristic", uuid, "ts", f.TS)
			if !first { // what was set over the air is forgotten, too
				s.tuned.Store(0)
				notify(s.changed)
			}
		}
		first = false
		if uuid == s.board.battery {
			s.battery(f)
		} else {
			s.frame(uuid, f, n, epoch)
		}
	}
}

// Codes of the battery's status.
const (
	batteryLow     = 0
	batteryMissing = 2
)

// battery takes in a frame of the battery's characteristic.
func (s *session) battery(f bluest.Frame) {
	level, _ := f.Value(bluest.Level)
	status, _ := f.Value(bluest.Status)
	s.leaf.do(func(now time.Time) {
		if status != batteryMissing {
			s.leaf.health.Battery(now, level, status == batteryLow)
		}
		s.leaf.shadow.collect(propertyBattery, level, now)
	})
}

// times are when a notification was emitted, Unix ns, and how long it took from
// then to here, negative if that is not known. What the board says counts where it is
// plausible: its own record has the same time. A real adapter does not know; then the
// time of receipt stands for that of the emission.
func (s *session) times(n radio.Notification) (at int64, latency time.Duration) {
	// The wall clock is read last: an interruption between the two makes a time of
	// receipt late, never early.
	monotonic := s.monotonic()
	at, latency = s.now().UnixNano(), time.Duration(-1)
	if age := time.Duration(monotonic - n.Emitted); n.Emitted > 0 && age >= 0 && age <= maxAge && n.Received >= n.Emitted {
		latency = time.Duration(n.Received - n.Emitted)
	}
	if age := time.Duration(at - n.EmittedWall); n.EmittedWall > 0 && age >= -maxAhead && age <= maxAge {
		return n.EmittedWall, latency
	}
	if waited := time.Duration(monotonic - n.Received); n.Received > 0 && waited >= 0 && waited <= maxAge {
		at -= int64(waited)
	}
	return at, latency
}

// frame takes in a sample of each part in one frame.
func (s *session) frame(uuid string, f bluest.Frame, n radio.Notification, epoch int64) {
	at, latency := s.times(n)
	d := s.declared.Load()
	var measured []health.Sample
	for _, p := range d.parts {
		if p.stream != uuid {
			continue
		}
		values := p.values(f)
		if len(values) == 0 {
			continue
		}
		s.publisher.Push(publish.Sample{
			Category: p.category, Device: d.device(), Node: d.node, Part: p.name, UID: p.uid, Topic: p.topic,
			Values: values, Latency: latency, Epoch: epoch, At: at,
		})
		measured = append(measured, p.measured(f))
	}
	s.leaf.do(func(now time.Time) {
		s.leaf.health.Frame(now, uuid, measured)
		for _, p := range d.parts {
			if p.stream != uuid {
				continue
			}
			for _, feed := range p.feeds {
				if v, ok := f.Value(feed.Quantity); ok {
					s.leaf.shadow.collect(feed.property, v, now)
				}
			}
		}
		if uuid == s.board.features[0] && s.board.config {
			if rate := s.rate(); rate > 0 {
				s.leaf.shadow.collect(propertyRate, rate, now)
			}
		}
	})
}
