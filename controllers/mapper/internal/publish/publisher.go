// Package publish hands the samples of sensors to an MQTT broker as lines of line
// protocol, and keeps a journal of what the broker acknowledged.
//
// What holds:
//   - A sample is (uid, epoch, seq), seq from 1 without gaps within an epoch over
//     what was handed over. A sample that is dropped before takes no number.
//   - Samples of one sensor are published in order, with timestamps that strictly
//     increase. After a broken connection a message may be sent a second time, byte
//     for byte the same.
//   - The journal holds every line that was acknowledged, no other, in the order of
//     seq for each (uid, epoch).
//   - Whoever pushes a sample never waits, and no sensor waits for another.
//
// To try it: publisher_test.go, against a broker that a test plays.
package publish

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fluidos-edge/testbed/internal/journal"
)

// Reasons why a sample was dropped before it was numbered.
const (
	Overflow  = "overflow"  // the sensor's queue was full; the oldest went
	Malformed = "malformed" // a reading that is no number, or a frame that is none
	Stopped   = "stopped"   // the publisher stopped, or has more sensors than it serves
)

// MaxGather is the longest time to gather.
const MaxGather = 10 * time.Second

// Bounds of the publisher.
const (
	maxStreams = 4096
	// graceful is how long a line that was handed over may wait for its
	// acknowledgement after the mapper was told to stop, so that it is in the
	// journal.
	graceful = 2 * time.Second
	// A message holds no more lines, and no more bytes unless one line has them.
	maxLines   = 512
	maxMessage = 64 << 10
)

// Options of a Publisher.
type Options struct {
	Broker Broker
	// Journal gets a line once the broker has acknowledged it. Lines of one sensor
	// stand in the order of their numbers.
	Journal *journal.File
	Log     *slog.Logger
	// Namespace is the first level of every topic.
	Namespace string
	// Queue is how many samples of one sensor wait while the broker is away.
	Queue int
	// Gather is how long the lines of one sensor are collected into one message, up to
	// MaxGather.
	Gather time.Duration
	// Published is told how many samples were acknowledged, and Dropped how many
	// were dropped for a reason.
	Published func(samples int)
	Dropped   func(reason string, samples int)
}

// Publisher numbers samples and hands them to the broker. Each sensor has a
// queue of its own and at most one line under way, so nothing reorders its
// samples: not a lost connection and not a slow acknowledgement. A line is sent,
// byte for byte the same, until it is acknowledged. A sample gets its number
// only when it is handed over: one dropped from a full queue leaves no gap.
//
// With gather, lines of one sensor are collected for that long and then sent as one
// message. All of this holds of each line of it; that it waits is no loss.
type Publisher struct {
	o Options

	mu      sync.Mutex
	streams map[string]*stream
	start   func(*stream) // nil unless running
	stopped bool
}

// New is a Publisher that publishes nothing before Run.
func New(o Options) *Publisher { return &Publisher{o: o, streams: map[string]*stream{}} }

// stream is the queue of one sensor.
type stream struct {
	mu    sync.Mutex
	queue []Sample
	wake  chan struct{}
}

// Run publishes until ctx ends; an error is the journal's.
func (p *Publisher) Run(ctx context.Context) error {
	group, gctx := errgroup.WithContext(ctx)
	late, cancel := linger(gctx, graceful)
	defer cancel()
	p.mu.Lock()
	p.start = func(st *stream) { group.Go(func() error { return p.serve(gctx, late, st) }) }
	for _, st := range p.streams { // of samples that came before
		p.start(st)
	}
	p.mu.Unlock()
	<-gctx.Done()
	p.mu.Lock()
	p.start, p.stopped = nil, true
	p.mu.Unlock()
	err := group.Wait()
	left := 0
	for _, st := range p.streams {
		left += st.len()
	}
	if left > 0 {
		p.o.Dropped(Stopped, left)
		p.o.Log.Warn("samples were left when the mapper stopped", "samples", left)
	}
	return err
}

// Push queues a sample and never blocks.
func (p *Publisher) Push(s Sample) {
	st := p.stream(s.UID)
	if st == nil {
		p.o.Dropped(Stopped, 1)
		return
	}
	st.mu.Lock()
	over := len(st.queue) >= p.o.Queue
	if over {
		st.queue = st.queue[1:]
	}
	st.queue = append(st.queue, s)
	st.mu.Unlock()
	if over {
		p.o.Dropped(Overflow, 1)
	}
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// stream of a sensor, made if there is room; nil if not or when stopped.
func (p *Publisher) stream(uid string) *stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	if st, ok := p.streams[uid]; ok {
		return st
	}
	if p.stopped || len(p.streams) >= maxStreams {
		return nil
	}
	st := &stream{wake: make(chan struct{}, 1)}
	p.streams[uid] = st
	if p.start != nil {
		p.start(st)
	}
	return st
}

// waiting blocks until the stream has a sample.
func (st *stream) waiting(ctx context.Context) error {
	for {
		if st.len() > 0 {
			return ctx.Err()
		}
		select {
		case <-st.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// more blocks until the stream may have another sample; false once time is up.
func (st *stream) more(ctx context.Context, up <-chan time.Time) bool {
	select {
	case <-st.wake:
		return true
	case <-up:
		return false
	case <-ctx.Done():
		return false
	}
}

func (st *stream) len() int {
	st.mu.Lock()
	defer st.mu.Unlock()
	return len(st.queue)
}

func (st *stream) pop() (Sample, bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.queue) == 0 {
		return Sample{}, false
	}
	s := st.queue[0]
	st.queue = st.queue[1:]
	return s, true
}

// message is lines of one sensor that are sent together.
type message struct {
	uid   string
	topic string
	text  []byte
	lines int
}

func (m *message) fits(line []byte) bool {
	return m.lines == 0 || m.lines < maxLines && len(m.text)+len(line) <= maxMessage
}

func (m *message) add(line []byte) {
	m.text = append(m.text, line...)
	m.lines++
}

// serve one stream until ctx ends, and then what is under way until late does.
func (p *Publisher) serve(ctx, late context.Context, st *stream) error {
	var epoch, seq, last int64
	var m message
	// send what was gathered; false if there is no time left.
	send := func() (bool, error) {
		sent := m
		m = message{}
		if sent.lines == 0 {
			return true, nil
		}
		if !p.deliver(late, sent.topic, sent.text) {
			p.o.Log.Warn("stopped before the broker acknowledged a message", "sensor", sent.uid, "lines", sent.lines, "epoch", epoch, "seq", seq)
			return false, nil
		}
		p.o.Published(sent.lines)
		if err := p.o.Journal.Append(sent.text); err != nil {
			// A published line that is missing in the journal would make
			// every judgement on it wrong: better to stop.
			return false, fmt.Errorf("after sample %d of %s: %w", seq, sent.uid, err)
		}
		return true, nil
	}
	for {
		if st.waiting(ctx) != nil || p.o.Broker.Await(ctx) != nil {
			return nil
		}
		until := time.NewTimer(p.o.Gather)
		for full := false; !full; {
			s, ok := st.pop()
			if !ok {
				full = !st.more(ctx, until.C)
				continue
			}
			if s.Epoch != epoch {
				epoch, seq = s.Epoch, 0
			}
			at := max(s.At, last+1)
			line, err := s.Encode(seq+1, at)
			if err != nil {
				p.o.Dropped(Malformed, 1)
				p.o.Log.Warn("sample dropped", "err", err)
				full = p.o.Gather == 0
				continue
			}
			topic := p.o.Namespace + "/" + s.Topic
			if m.topic != topic || !m.fits(line) {
				if ok, err := send(); !ok {
					return err
				}
				m.uid, m.topic = s.UID, topic
			}
			seq, last = seq+1, at
			m.add(line)
			full = p.o.Gather == 0 || m.lines == maxLines
		}
		until.Stop()
		if ok, err := send(); !ok {
			return err
		}
	}
}

// deliver hands a line over until it is acknowledged; false if it was not
// before ctx ended.
func (p *Publisher) deliver(ctx context.Context, topic string, line []byte) bool {
	for {
		err := p.o.Broker.Publish(ctx, topic, line)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		p.o.Log.Debug("line will be sent again", "err", err)
		if p.o.Broker.Await(ctx) != nil {
			return false
		}
	}
}

// linger is a context that outlives ctx by d.
func linger(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(d, cancel)
		context.AfterFunc(longer, func() { t.Stop() })
	})
	return longer, func() { stop(); cancel() }
}
