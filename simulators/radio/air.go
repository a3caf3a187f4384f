package radio

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"k8s.io/utils/clock"

	"github.com/fluidos-edge/testbed/simulators/radio/due"
)

const (
	defaultInterval          = time.Second
	minInterval, maxInterval = 20 * time.Millisecond, 10240 * time.Millisecond
	// advertisingDelay is what BLE adds to each interval at most, by chance, lest
	// two boards meet each time.
	advertisingDelay = 10 * time.Millisecond
	// slot is the grain of advertising times: one turn serves all boards of a slot.
	slot    = 5 * time.Millisecond
	maxLoss = 0.9
	// A notification that was lost is sent again after one connection interval of
	// these.
	minEvent, maxEvent = 7500 * time.Microsecond, 30 * time.Millisecond
)

// Quality of the air.
type Quality struct {
	// Interval between two advertisements of a board, 20 ms to 10.24 s, to which
	// up to 10 ms are added by chance each time; 0 means 1 s.
	Interval time.Duration
	// Loss is the share of advertisements that are lost, and of notifications that
	// need another try, 0 to 0.9. Each further try comes a connection interval of
	// 7.5 to 30 ms later and may be lost as well.
	Loss float64
}

func (q Quality) check() error {
	if q.Interval < minInterval || q.Interval > maxInterval {
		return fmt.Errorf("interval: %s, want %s to %s", q.Interval, minInterval, maxInterval)
	}
	if !(q.Loss >= 0 && q.Loss <= maxLoss) {
		return fmt.Errorf("loss: %v, want 0 to %v", q.Loss, maxLoss)
	}
	return nil
}

// between draws a time.
func between(rng *rand.Rand, low, high time.Duration) time.Duration {
	return low + time.Duration(rng.Float64()*float64(high-low))
}

// chance is a source of random numbers for one purpose of one board.
func (s *Server) chance(what string, a Address, n uint64) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write(binary.BigEndian.AppendUint64(append(a[:], what...), n))
	return rand.New(rand.NewPCG(s.seed, h.Sum64()))
}

// news has a peer that scans hear of a change on the air at once. The Server's
// mutex is held.
func (c *peer) news(st *station) {
	c.mu.Lock()
	if c.changed != nil {
		c.changed[st] = struct{}{}
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// changes since the last call.
func (c *peer) changes() map[*station]struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.changed
	c.changed = map[*station]struct{}{}
	return all
}

// listener is what one peer hears of one board.
type listener struct {
	st  *station
	rng *rand.Rand
}

// advertise sends every board's advertisement at once, then once an interval, and
// those that changed at once. It is held up by a client that does not read, and then
// leaves out what it missed; who waits longest comes first, so that all get through.
func (c *peer) advertise(ctx context.Context) {
	s := c.s
	timer := due.NewTimer(s.clock)
	defer timer.Stop()
	began := s.clock.Now()
	heard := map[*station]*due.Item[listener]{}
	var q due.Queue[listener]
	later := func(it *due.Item[listener], d time.Duration) {
		q.Put(it, began.Add((s.clock.Since(began)+d+slot-1)/slot*slot))
	}
	// tell of one board that is heard now, whether or not it was heard before.
	tell := func(st *station) bool {
		it := heard[st]
		if it == nil {
			it = &due.Item[listener]{Value: listener{st, s.chance("advertise", st.Address(), c.number)}}
			heard[st] = it
			later(it, between(it.Value.rng, 0, s.quality.Interval))
		}
		return c.offer(ctx, it.Value)
	}
	c.changes() // all are told now anyway
	s.mu.Lock()
	all := slices.Clone(s.order)
	s.mu.Unlock()
	for _, st := range all {
		if !tell(st) {
			return
		}
	}
	for {
		now := s.clock.Now()
		for it := q.Due(now); it != nil; it = q.Due(now) {
			if s.gone(it.Value.st) {
				delete(heard, it.Value.st)
				q.Put(it, time.Time{})
				continue
			}
			if !c.offer(ctx, it.Value) {
				return
			}
			later(it, s.quality.Interval+between(it.Value.rng, 0, advertisingDelay))
		}
		timer.Set(q.Next())
		select {
		case <-ctx.Done():
			return
		case <-timer.C():
		case <-c.wake:
			for st := range c.changes() {
				if !tell(st) {
					return
				}
			}
		}
	}
}

// offer one advertisement to the client, if the board can be heard and the air
// lets it through.
func (c *peer) offer(ctx context.Context, l listener) bool {
	if !c.s.audible(l.st) || c.s.quality.Loss > 0 && l.rng.Float64() < c.s.quality.Loss {
		return ctx.Err() == nil
	}
	p := pdu{kind: kindAdvertisement, address: l.st.Address(), rssi: l.st.RSSI}
	var connectable bool
	if p.value, connectable = l.st.Advertise(); connectable {
		p.flags = flagOn
	}
	select {
	case c.air <- p:
		return true
	case <-ctx.Done():
		return false
	}
}

// air is what a connection has on its way through air that loses something. The
// mutex of resend guards it.
type air struct {
	item    due.Item[*Link]
	rng     *rand.Rand
	pending []late
}

type late struct {
	pdu
	at time.Time
}

// resend holds the notifications of all connections that were lost on their
// first try, and those behind them.
type resend struct {
	woken chan struct{}

	mu    sync.Mutex // before peer.mu
	queue due.Queue[*Link]
}

// send a notification now, or later if it needs more tries or others wait before
// it. It reports false if the link is gone.
func (r *resend) send(l *Link, p pdu, s *Server) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !l.up() {
		return false
	}
	var delay time.Duration
	for l.air.rng.Float64() < s.quality.Loss {
		delay += between(l.air.rng, minEvent, maxEvent)
	}
	n := len(l.air.pending)
	switch {
	case n == 0 && delay == 0:
		return l.peer.put(p)
	case n == unsent:
		l.peer.drop()
		return false
	}
	at := s.clock.Now().Add(delay)
	if n > 0 && at.Before(l.air.pending[n-1].at) {
		at = l.air.pending[n-1].at
	}
	l.air.pending = append(l.air.pending, late{pdu: p, at: at})
	if n == 0 {
		r.queue.Put(&l.air.item, at)
		select {
		case r.woken <- struct{}{}:
		default:
		}
	}
	return true
}

// forget what waits of a characteristic.
func (r *resend) forget(l *Link, id uuid.UUID) {
	if l.air == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l.air.pending = slices.DeleteFunc(l.air.pending, func(w late) bool { return w.uuid == id })
	r.book(l)
}

// book a link for the first of what it has pending. r.mu is held.
func (r *resend) book(l *Link) {
	if len(l.air.pending) == 0 {
		l.air.pending = nil
		r.queue.Put(&l.air.item, time.Time{})
		return
	}
	r.queue.Put(&l.air.item, l.air.pending[0].at)
}

// run sends what is due until ctx ends.
func (r *resend) run(ctx context.Context, clk clock.Clock) {
	timer := due.NewTimer(clk)
	defer timer.Stop()
	for {
		r.mu.Lock()
		now := clk.Now()
		for it := r.queue.Due(now); it != nil; it = r.queue.Due(now) {
			l, sent := it.Value, 0
			up := l.up()
			for _, w := range l.air.pending {
				if up && w.at.After(now) {
					break
				}
				up = up && l.peer.put(w.pdu)
				sent++
			}
			l.air.pending = l.air.pending[sent:]
			r.book(l)
		}
		next := r.queue.Next()
		r.mu.Unlock()
		timer.Set(next)
		select {
		case <-ctx.Done():
			return
		case <-r.woken:
		case <-timer.C():
		}
	}
}
