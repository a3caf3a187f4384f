package mapper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/radio"
)

const (
	// gattTimeout bounds one request to a board.
	gattTimeout = 10 * time.Second
	// consoleTimeout bounds the answer to one command.
	consoleTimeout = 5 * time.Second
	// maxAge is how old a notification may be by its envelope. One that claims
	// more, or to come from the future, has no usable emission time.
	maxAge = 10 * time.Minute
)

// session is the connection of one board.
type session struct {
	conn      *radio.Conn
	board     identity
	epoch     func() int64 // a new one, later than any before
	clock     *bluest.Timeline
	publisher *publisher
	registrar registrar
	metrics   *metrics
	now       func() time.Time
	log       *slog.Logger

	lines    chan string   // of the console
	changed  chan struct{} // the board said that its sensors changed
	declared atomic.Pointer[declaration]
}

// run asks the board who it is and what it has, then registers it and publishes
// its samples until the connection or ctx ends. The error says why it ended.
func (s *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.lines, s.changed = make(chan string, 64), make(chan struct{}, 1)
	if err := s.discover(ctx); err != nil {
		return err
	}
	console, err := s.conn.Subscribe(ctx, bluest.ConsoleUUID)
	if err != nil {
		return fmt.Errorf("subscribe to the console: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		s.assemble(console)
		return s.ended()
	})
	g.Go(func() error { return s.announce(ctx, g) })
	return g.Wait()
}

// ended is why a channel of the connection was closed.
func (s *session) ended() error {
	if err := s.conn.Err(); err != nil {
		return err
	}
	return context.Canceled
}

// discover finds the characteristic that carries the samples.
func (s *session) discover(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, gattTimeout)
	defer cancel()
	all, err := s.conn.Discover(ctx)
	if err != nil {
		return fmt.Errorf("discover: %w", err)
	}
	var console bool
	for _, c := range all {
		switch {
		case c.UUID == bluest.ConsoleUUID:
			console = c.Write && c.Notify
		case s.board.stream == "" && c.Notify && environmental(c.UUID):
			s.board.stream = c.UUID
		}
	}
	if !console || s.board.stream == "" {
		return fmt.Errorf("discover: %d characteristics without a console or an environmental one", len(all))
	}
	return nil
}

// environmental reports whether a characteristic carries environmental frames.
func environmental(uuid string) bool {
	m, err := bluest.ParseMask(uuid)
	return err == nil && (m == bluest.EnvironmentalBX1 || m == bluest.Environmental || m == bluest.EnvironmentalKT1B)
}

// assemble reads the console to its end.
func (s *session) assemble(console <-chan radio.Notification) {
	var a assembler
	for n := range console {
		a.feed(n.Value, func(line string) {
			if line == lineChanged {
				select {
				case s.changed <- struct{}{}:
				default:
				}
				return
			}
			select {
			case s.lines <- line:
			default: // nobody asked: a board may print what it likes
			}
		})
	}
}

// ask writes a command to the console and hands the lines that follow to answer,
// until it is content. Lines from before the command are not looked at.
func (s *session) ask(ctx context.Context, command string, answer func(line string) bool) error {
	ctx, cancel := context.WithTimeout(ctx, consoleTimeout)
	defer cancel()
	for stale := true; stale; {
		select {
		case <-s.lines:
		default:
			stale = false
		}
	}
	if err := s.conn.Write(ctx, bluest.ConsoleUUID, []byte(command+"\r\n")); err != nil {
		return fmt.Errorf("write %q to the console: %w", command, err)
	}
	last, count := "", 0
	for {
		select {
		case line := <-s.lines:
			if answer(line) {
				return nil
			}
			last, count = line, count+1
		case <-ctx.Done():
			return fmt.Errorf("no answer to %q on the console, %d lines, the last %.40q: %w", command, count, last, ctx.Err())
		}
	}
}

// announce asks the board for its id and its sensors, then has it registered and
// its frames read, and asks again whenever its sensors change.
func (s *session) announce(ctx context.Context, g *errgroup.Group) error {
	err := s.ask(ctx, commandUID, func(line string) (ok bool) {
		s.board.id, ok = parseUID(line)
		return ok
	})
	if err != nil {
		return err
	}
	latest := make(chan declaration, 1)
	if err := s.declare(ctx, latest); err != nil {
		return err
	}
	g.Go(func() error {
		s.registrar.run(ctx, latest)
		return nil
	})
	frames, err := s.conn.Subscribe(ctx, s.board.stream)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", s.board.stream, err)
	}
	g.Go(func() error {
		s.frames(frames)
		return s.ended()
	})
	retry := backoff{first: s.registrar.pause, max: maxRetry}
	settle := backoff{first: s.registrar.pause, max: s.registrar.pause} // however often it says so
	for {
		select {
		case <-s.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		for err := s.declare(ctx, latest); err != nil; err = s.declare(ctx, latest) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s.log.Warn("what the board offered before still stands", "err", err)
			retry.wait(ctx)
		}
		retry.reset()
		settle.wait(ctx)
	}
}

// declare asks for the board's sensors and replaces what is in latest by them.
func (s *session) declare(ctx context.Context, latest chan declaration) error {
	var bad error
	err := s.ask(ctx, commandSensors, func(line string) bool {
		announced, problems, err := parseSensors(line)
		if err != nil {
			bad = err
			return false
		}
		for _, p := range problems {
			s.log.Warn("sensor is not offered", "element", p)
		}
		d := declare(s.board, announced)
		s.declared.Store(&d)
		select {
		case <-latest:
		default:
		}
		latest <- d
		return true
	})
	if err != nil {
		return errors.Join(err, bad)
	}
	return nil
}

// frames publishes the samples in the board's frames until they end. A board
// that began to count anew has restarted without a word: that is a new epoch.
func (s *session) frames(frames <-chan radio.Notification) {
	epoch, bad := s.epoch(), false
	for n := range frames {
		f, err := bluest.Decode(n.Characteristic, n.Value)
		if err != nil {
			s.metrics.dropped.WithLabelValues(reasonMalformed).Inc()
			if !bad { // once in a row: a board may send nothing else
				s.log.Warn("frames dropped", "err", err)
			}
			bad = true
			continue
		}
		bad = false
		if _, restarted := s.clock.Uptime(f.TS, time.Duration(n.Received)); restarted {
			s.log.Warn("board counts anew", "ts", f.TS)
			epoch = s.epoch()
		}
		s.frame(f, n, epoch)
	}
}

// frame publishes a sample for each part in one frame.
func (s *session) frame(f bluest.Frame, n radio.Notification, epoch int64) {
	// The time of a sample is that of its emission: the wall clock now, less
	// what has passed since on the monotonic clock.
	at, latency := s.now().UnixNano(), time.Duration(-1)
	if age := time.Duration(radio.Now() - n.Emitted); age >= 0 && age <= maxAge && n.Received >= n.Emitted {
		at -= int64(age)
		latency = time.Duration(n.Received - n.Emitted)
	}
	d := s.declared.Load()
	for _, p := range d.parts {
		if values := p.values(f); len(values) > 0 {
			s.publisher.push(sample{
				part: p, device: d.device(), node: d.node,
				values: values, latency: latency, epoch: epoch, at: at,
			})
		}
	}
}
