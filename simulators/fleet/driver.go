package fleet

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/fluidos-edge/testbed/simulators/board"
)

// driver calls each board when it is due. It has one timer, whatever the number
// of boards.
type driver struct {
	clock clock.WithTicker
	woken chan struct{}

	mu   sync.Mutex
	asks []*board.Board // want Step now
}

func newDriver(clk clock.WithTicker) *driver {
	return &driver{clock: clk, woken: make(chan struct{}, 1)}
}

// wake has a board stepped as soon as possible. It does not wait.
func (d *driver) wake(b *board.Board) {
	d.mu.Lock()
	d.asks = append(d.asks, b)
	d.mu.Unlock()
	select {
	case d.woken <- struct{}{}:
	default:
	}
}

func (d *driver) run(ctx context.Context) {
	q := queue{}
	entries := map[*board.Board]*entry{}
	timer := d.clock.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		d.mu.Lock()
		asks := d.asks
		d.asks = nil
		d.mu.Unlock()
		for _, b := range asks {
			e := entries[b]
			if e == nil {
				e = &entry{board: b, index: -1}
				entries[b] = e
			}
			q.put(e, b.Step())
		}
		now := d.clock.Now()
		for len(q) > 0 && !q[0].at.After(now) {
			q.put(q[0], q[0].board.Step())
		}
		wait := time.Hour
		if len(q) > 0 {
			wait = q[0].at.Sub(d.clock.Now())
		}
		// A timer of length 0 is due at once; a stale one only costs a turn.
		timer.Reset(max(wait, 0))
		select {
		case <-ctx.Done():
			return
		case <-d.woken:
		case <-timer.C():
		}
	}
}

// entry is a board in the queue, or out of it with index -1.
type entry struct {
	board *board.Board
	at    time.Time
	index int
}

// queue is a heap by time.
type queue []*entry

// put moves e to a time, or out of the queue if that is zero.
func (q *queue) put(e *entry, at time.Time) {
	e.at = at
	switch {
	case at.IsZero() && e.index >= 0:
		heap.Remove(q, e.index)
	case at.IsZero():
	case e.index >= 0:
		heap.Fix(q, e.index)
	default:
		heap.Push(q, e)
	}
}

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *queue) Push(x any) {
	e := x.(*entry)
	e.index = len(*q)
	*q = append(*q, e)
}
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	e.index = -1
	return e
}
