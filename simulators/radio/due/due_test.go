package due_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	testingclock "k8s.io/utils/clock/testing"

	"github.com/fluidos-edge/testbed/simulators/radio/due"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// A queue against a list that is sorted anew each time.
func TestQueue(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var q due.Queue[int]
	items := make([]due.Item[int], 50)
	at := map[int]int{}
	for i := range items {
		items[i].Value = i
	}
	for range 5000 {
		i := rng.IntN(len(items))
		switch when := rng.IntN(100); {
		case when < 20:
			q.Put(&items[i], time.Time{})
			delete(at, i)
		default:
			q.Put(&items[i], start.Add(time.Duration(when)*time.Second))
			at[i] = when
		}
		if q.Len() != len(at) {
			t.Fatalf("%d items, want %d", q.Len(), len(at))
		}
		first := 1000
		for _, when := range at {
			first = min(first, when)
		}
		want := start.Add(time.Duration(first) * time.Second)
		if got := q.Next(); len(at) > 0 && !got.Equal(want) || len(at) == 0 && !got.IsZero() {
			t.Fatalf("next %s, want %s", got, want)
		}
		if it := q.Due(want.Add(-1)); it != nil {
			t.Fatalf("%d is due before its time", it.Value)
		}
		if it := q.Due(want); len(at) > 0 && (it == nil || at[it.Value] != first) {
			t.Fatalf("due %+v, want one of %d", it, first)
		}
	}
	var order []int
	for end := start.Add(time.Hour); q.Len() > 0; {
		it := q.Due(end)
		order = append(order, at[it.Value])
		q.Put(it, time.Time{})
	}
	if !slices.IsSorted(order) {
		t.Errorf("taken out in the order %v", order)
	}
}

func TestTimer(t *testing.T) {
	clk := testingclock.NewFakeClock(start)
	timer := due.NewTimer(clk)
	fires := func(want bool) {
		t.Helper()
		select {
		case <-timer.C():
			if !want {
				t.Error("fired")
			}
		default:
			if want {
				t.Error("did not fire")
			}
		}
	}
	clk.Step(2 * time.Hour)
	fires(false)
	timer.Set(clk.Now().Add(time.Second))
	clk.Step(time.Second)
	timer.Set(clk.Now().Add(time.Second)) // nobody took what came
	fires(false)
	clk.Step(time.Second)
	fires(true)
	timer.Set(clk.Now().Add(-time.Second))
	clk.Step(0)
	fires(true)
	timer.Set(clk.Now().Add(time.Second))
	timer.Set(time.Time{})
	clk.Step(time.Hour)
	fires(false)
}
