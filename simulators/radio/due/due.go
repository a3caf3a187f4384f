// Package due says what is to be done when: a queue by time, and the one timer
// that waits for its front. Thousands of boards share one of each.
//
// Neither is safe for concurrent use.
package due

import (
	"time"

	"k8s.io/utils/clock"
)

// Item is something that may be in one Queue, at one time. Its zero value is in
// none.
type Item[T any] struct {
	Value T

	place int // in the queue, from 1
}

// Queue has its items in the order of their times; its zero value is empty.
type Queue[T any] struct {
	epoch time.Time
	heap  []entry[T]
}

// entry has the time beside the pointer, for what is compared most should be near.
type entry[T any] struct {
	at   time.Duration // since the epoch, so that the host's clock may be set
	item *Item[T]
}

// Put moves an item to a time, or out of the queue if that is the zero time.
func (q *Queue[T]) Put(it *Item[T], at time.Time) {
	i := it.place - 1
	if at.IsZero() {
		if i >= 0 {
			last := len(q.heap) - 1
			moved := q.heap[last]
			q.heap[last] = entry[T]{}
			q.heap = q.heap[:last]
			it.place = 0
			if i < last {
				q.settle(i, moved)
			}
		}
		return
	}
	if q.epoch.IsZero() {
		q.epoch = at
	}
	if i < 0 {
		i = len(q.heap)
		q.heap = append(q.heap, entry[T]{})
	}
	q.settle(i, entry[T]{at: at.Sub(q.epoch), item: it})
}

// settle puts an entry into the gap at i, or where it belongs from there.
func (q *Queue[T]) settle(i int, e entry[T]) {
	for i > 0 {
		parent := (i - 1) / 2
		if q.heap[parent].at <= e.at {
			break
		}
		q.set(i, q.heap[parent])
		i = parent
	}
	for {
		child := 2*i + 1
		if child >= len(q.heap) {
			break
		}
		if next := child + 1; next < len(q.heap) && q.heap[next].at < q.heap[child].at {
			child = next
		}
		if q.heap[child].at >= e.at {
			break
		}
		q.set(i, q.heap[child])
		i = child
	}
	q.set(i, e)
}

func (q *Queue[T]) set(i int, e entry[T]) {
	q.heap[i] = e
	e.item.place = i + 1
}

// Len is how many items are in the queue.
func (q *Queue[T]) Len() int { return len(q.heap) }

// Due is an item whose time has come, the one that waits longest, or nil. It
// stays in the queue until it is Put elsewhere.
func (q *Queue[T]) Due(now time.Time) *Item[T] {
	if len(q.heap) == 0 || q.heap[0].at > now.Sub(q.epoch) {
		return nil
	}
	return q.heap[0].item
}

// Next is when the first item is due, the zero time if there is none.
func (q *Queue[T]) Next() time.Time {
	if len(q.heap) == 0 {
		return time.Time{}
	}
	return q.epoch.Add(q.heap[0].at)
}

// Timer fires once for each Set.
type Timer struct {
	clock clock.Clock
	timer clock.Timer
}

// NewTimer is a timer that is not set.
func NewTimer(clk clock.Clock) *Timer {
	t := &Timer{clock: clk, timer: clk.NewTimer(time.Hour)}
	t.Stop()
	return t
}

// C gets a value when the time has come.
func (t *Timer) C() <-chan time.Time { return t.timer.C() }

// Set has the timer fire at a time, at once if that is past, and never if it is
// the zero time. What was set before counts no more.
func (t *Timer) Set(at time.Time) {
	t.Stop()
	if !at.IsZero() {
		t.timer.Reset(max(at.Sub(t.clock.Now()), 0))
	}
}

// Stop has the timer not fire.
func (t *Timer) Stop() {
	if !t.timer.Stop() {
		select {
		case <-t.timer.C():
		default:
		}
	}
}
