// Package backoff is the pause between tries: doubled with each, up to a longest.
package backoff

import (
	"context"
	"time"
)

// Backoff of one thing that is tried again. The first pause is First. It is not
// safe for concurrent use.
type Backoff struct {
	First, Max time.Duration
	next       time.Duration
}

// Reset makes the next pause the first again.
func (b *Backoff) Reset() { b.next = 0 }

// Pause is the next one.
func (b *Backoff) Pause() time.Duration {
	if b.next == 0 {
		b.next = min(b.First, b.Max)
	}
	d := b.next
	b.next = min(2*d, b.Max)
	return d
}

// Wait for the next pause, or for ctx to end.
func (b *Backoff) Wait(ctx context.Context) {
	t := time.NewTimer(b.Pause())
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
