package mapper

import (
	"context"
	"time"
)

// backoff is how long to pause after a failure: first, doubled up to max with each
// failure in a row.
type backoff struct {
	first, max time.Duration
	next       time.Duration
}

func (b *backoff) reset() { b.next = 0 }

// pause is the next one.
func (b *backoff) pause() time.Duration {
	if b.next == 0 {
		b.next = min(b.first, b.max)
	}
	d := b.next
	b.next = min(2*d, b.max)
	return d
}

// wait for the next pause, or for ctx to end.
func (b *backoff) wait(ctx context.Context) {
	t := time.NewTimer(b.pause())
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
