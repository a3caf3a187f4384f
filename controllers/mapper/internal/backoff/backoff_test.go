package backoff_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fluidos-edge/testbed/controllers/mapper/internal/backoff"
)

func TestPauses(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name       string
		first, max time.Duration
		resetAt    int
		want       []time.Duration
	}{
		{"doubled up to the longest", 500 * ms, 3000 * ms, -1, []time.Duration{500 * ms, 1000 * ms, 2000 * ms, 3000 * ms, 3000 * ms}},
		{"reset", 500 * ms, 3000 * ms, 2, []time.Duration{500 * ms, 1000 * ms, 500 * ms, 1000 * ms, 2000 * ms}},
		{"always the same", 500 * ms, 500 * ms, -1, []time.Duration{500 * ms, 500 * ms, 500 * ms}},
		{"a first one that is too long", 9000 * ms, 3000 * ms, -1, []time.Duration{3000 * ms, 3000 * ms}},
	} {
		b := backoff.Backoff{First: tt.first, Max: tt.max}
		var got []time.Duration
		for i := range tt.want {
			if i == tt.resetAt {
				b.Reset()
			}
			got = append(got, b.Pause())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := backoff.Backoff{First: time.Minute, Max: time.Hour}
		began := time.Now()
		b.Wait(t.Context())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		b.Wait(ctx)
		if took := time.Since(began); took != time.Minute+time.Second {
			t.Errorf("waited %v, want 1m1s", took)
		}
	})
}
