package fleet

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"k8s.io/utils/clock"

	"github.com/fluidos-edge/testbed/simulators/radio/due"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

const (
	// A fault that leaves it open begins between these.
	minAt, maxAt = 30 * time.Second, 5 * time.Minute
	minEvery     = time.Second
)

// schedule is what befalls whom and when, decided by the seed, the faults and the
// boards' names alone: what happens meanwhile changes nothing in it.
type schedule struct {
	queue due.Queue[*recurring]
	items []*due.Item[*recurring]
}

// recurring is one scheduled fault, with a source of random numbers of its own.
type recurring struct {
	topology.ScheduledFault
	rng    *rand.Rand
	boards []string
	at     time.Duration // of its next occurrence, since the start
}

func newSchedule(seed uint64, faults []topology.ScheduledFault, boards []string) *schedule {
	s := &schedule{}
	for i, f := range faults {
		r := &recurring{ScheduledFault: f, rng: rand.New(rand.NewPCG(seed, uint64(i))), boards: boards, at: time.Duration(f.At)}
		if r.at == 0 {
			r.at = minAt + time.Duration(r.rng.Int64N(int64(maxAt-minAt))).Round(time.Millisecond)
		}
		s.items = append(s.items, &due.Item[*recurring]{Value: r})
	}
	return s
}

// draw what happens this time.
func (r *recurring) draw() (board string, f topology.Fault) {
	board, f = r.Board, r.Fault
	if board == "" {
		board = r.any("")
	}
	if f.Kind == topology.FaultClone && f.Of == "" {
		f.Of = r.any(board)
	}
	return board, f
}

// any board but one; "" if there is none.
func (r *recurring) any(but string) string {
	others := r.boards
	if i := slices.Index(others, but); i >= 0 {
		others = slices.Concat(others[:i], others[i+1:])
	}
	if len(others) == 0 {
		return ""
	}
	return others[r.rng.IntN(len(others))]
}

// run tells of every fault when its time since the start has come, until ctx ends.
func (s *schedule) run(ctx context.Context, clk clock.Clock, start time.Time, befall func(board string, f topology.Fault)) {
	for _, it := range s.items {
		s.queue.Put(it, start.Add(it.Value.at))
	}
	timer := due.NewTimer(clk)
	defer timer.Stop()
	for s.queue.Len() > 0 {
		for it := s.queue.Due(clk.Now()); it != nil; it = s.queue.Due(clk.Now()) {
			befall(it.Value.draw())
			next := time.Time{}
			if every := time.Duration(it.Value.Every); every > 0 && it.Value.at+every > it.Value.at {
				it.Value.at += every
				next = start.Add(it.Value.at)
			}
			s.queue.Put(it, next)
		}
		timer.Set(s.queue.Next())
		select {
		case <-ctx.Done():
			return
		case <-timer.C():
		}
	}
}

// befall has a scheduled fault happen. One that does not apply, since the board is
// gone, say, is passed over.
func (f *fleet) befall(board string, fault topology.Fault) {
	log := f.log.With("board", board, "fault", fault.Kind)
	if _, err := f.fault(board, fault); err != nil {
		log.Warn("scheduled fault passed over", "err", err)
		return
	}
	log.Info("scheduled fault", "part", fault.Part, "for", time.Duration(fault.For))
}

// check what can be known of a scheduled fault before its time.
func (f *fleet) check(s topology.ScheduledFault) error {
	var all []error
	bad := func(field string, value any, want string) {
		all = append(all, fmt.Errorf("%s: %v, want %s", field, value, want))
	}
	if !slices.Contains(topology.FaultKinds, s.Kind) {
		bad("kind", s.Kind, "one of "+strings.Join(topology.FaultKinds, ", "))
	}
	for _, n := range []struct{ field, board string }{{"board", s.Board}, {"of", s.Of}} {
		if n.board != "" {
			if _, err := f.board(n.board); err != nil {
				all = append(all, fmt.Errorf("%s: %w", n.field, err))
			}
		}
	}
	for _, d := range []struct {
		field string
		topology.Duration
	}{{"at", s.At}, {"for", s.For}, {"every", s.Every}} {
		if d.Duration < 0 {
			bad(d.field, time.Duration(d.Duration), "0s or more")
		}
	}
	if every := time.Duration(s.Every); every > 0 && every < minEvery {
		bad("every", every, "at least "+minEvery.String())
	}
	if math.IsNaN(s.Slope) || math.IsInf(s.Slope, 0) {
		bad("slope", s.Slope, "a number")
	}
	return errors.Join(all...)
}
