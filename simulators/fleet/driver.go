package fleet

import (
	"context"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/fluidos-edge/testbed/simulators/board"
	"github.com/fluidos-edge/testbed/simulators/radio/due"
)

// grain is the shortest time between two turns of the driver that nobody asked
// for: with thousands of boards each turn serves many. Timers are no finer anyway.
const grain = time.Millisecond

// driver calls each board when it is due. It has one timer, whatever the number
// of boards, and keeps nothing of a board that has nothing to do.
type driver struct {
	clock clock.Clock
	woken chan struct{}
	// turned is called at the end of each turn; its error ends the driver.
	turned func() error

	mu   sync.Mutex
	asks []*board.Board // want Step now
}

func newDriver(clk clock.Clock) *driver {
	return &driver{clock: clk, woken: make(chan struct{}, 1), turned: func() error { return nil }}
}

// wake has a board stepped as soon as possible. It does not wait.
func (d *driver) wake(b *board.Board) {
	d.mu.Lock()
	d.asks = append(d.asks, b)
	d.mu.Unlock()
	d.nudge()
}

// nudge has a turn come as soon as possible. It does not wait.
func (d *driver) nudge() {
	select {
	case d.woken <- struct{}{}:
	default:
	}
}

// run drives the boards until ctx ends.
func (d *driver) run(ctx context.Context) error {
	var q due.Queue[*board.Board]
	items := map[*board.Board]*due.Item[*board.Board]{}
	step := func(it *due.Item[*board.Board]) {
		at := it.Value.Step()
		q.Put(it, at)
		if at.IsZero() {
			delete(items, it.Value)
		}
	}
	timer := due.NewTimer(d.clock)
	defer timer.Stop()
	for {
		d.mu.Lock()
		asks := d.asks
		d.asks = nil
		d.mu.Unlock()
		for _, b := range asks {
			it := items[b]
			if it == nil {
				it = &due.Item[*board.Board]{Value: b}
				items[b] = it
			}
			step(it)
		}
		now := d.clock.Now()
		for it := q.Due(now); it != nil; it = q.Due(now) {
			step(it)
		}
		if err := d.turned(); err != nil {
			return err
		}
		next := q.Next()
		if soon := now.Add(grain); !next.IsZero() && next.Before(soon) {
			next = soon
		}
		timer.Set(next)
		select {
		case <-ctx.Done():
			return nil
		case <-d.woken:
		case <-timer.C():
		}
	}
}
