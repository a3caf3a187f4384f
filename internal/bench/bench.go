// Package bench measures what the project promises to be quick at, each time
// beside a peer that does the least that could be asked for, on the same
// machine in the same minutes.
//
// Invariants:
//   - A comparison is decided by the median of paired ratios: machines differ,
//     and drift, more than what is compared.
//   - Both sides run once before anything counts, then alternate A B B A, so
//     that a drift meets both.
//   - Fewer than MinPairs pairs decide nothing, and the row says so.
//   - A goal that was missed is a result, not an error.
//   - What a side makes it removes, outside of the time that counts, also when
//     it is interrupted or fails.
//
// It measures from outside: programs are run as a user runs them, and nothing of
// ours is imported.
//
// Try it with `make bench BENCH='-row kind-up -n 1'`.
package bench

import (
	"context"
	"fmt"
	"math"
	"slices"
)

// MinPairs is how many pairs a verdict takes.
const MinPairs = 5

// Arm measures one side once, in the unit of its comparison.
type Arm func(ctx context.Context) (float64, error)

// Comparison is one row to be: ours beside a peer.
type Comparison struct {
	Name   string
	Params map[string]any
	Unit   string
	Peer   string // what the peer is, in a few words
	// Goal bounds the ratio of ours to the peer's: Op is "<=" or ">=".
	Op           string
	Goal         float64
	Ours, Theirs Arm
}

// Pair is one measurement of each side.
type Pair struct{ Ours, Theirs float64 }

// Row is one row of bench.json.
type Row struct {
	Name      string         `json:"name"`
	Params    map[string]any `json:"params"`
	Value     float64        `json:"value"` // median of ours
	Unit      string         `json:"unit"`
	Peer      string         `json:"peer"`
	PeerValue float64        `json:"peer_value"` // median of the peer's
	Ratio     float64        `json:"ratio"`      // median of paired ratios, ours to the peer's
	RatioMin  float64        `json:"ratio_min"`
	RatioMax  float64        `json:"ratio_max"`
	Goal      float64        `json:"goal"`
	Op        string         `json:"op"`
	Met       *bool          `json:"met"` // null if there were too few pairs to decide
	N         int            `json:"n"`   // pairs
	Commit    string         `json:"commit"`
}

// Measure runs both sides, discards the first run of each, and returns n pairs.
// Say is told how far it is.
func Measure(ctx context.Context, c Comparison, n int, say func(string)) ([]Pair, error) {
	run := func(what, side string, arm Arm) (float64, error) {
		say(fmt.Sprintf("%s: %s: %s", c.Name, what, side))
		v, err := arm(ctx)
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err == nil && (v <= 0 || math.IsInf(v, 0) || math.IsNaN(v)) {
			err = fmt.Errorf("measured %g %s", v, c.Unit)
		}
		if err != nil {
			return 0, fmt.Errorf("%s: %s: %s: %w", c.Name, what, side, err)
		}
		say(fmt.Sprintf("%s: %s: %s: %s %s", c.Name, what, side, figures(v), c.Unit))
		return v, nil
	}
	var pairs []Pair
	for i := range n + 1 {
		what := fmt.Sprintf("pair %d of %d", i, n)
		if i == 0 {
			what = "warm-up"
		}
		var p Pair
		sides := []struct {
			name  string
			arm   Arm
			value *float64
		}{{"ours", c.Ours, &p.Ours}, {"peer", c.Theirs, &p.Theirs}}
		if i > 0 && i%2 == 0 {
			slices.Reverse(sides)
		}
		for _, s := range sides {
			var err error
			if *s.value, err = run(what, s.name, s.arm); err != nil {
				return nil, err
			}
		}
		if i > 0 {
			pairs = append(pairs, p)
		}
	}
	return pairs, nil
}

// Judge makes a row of at least one pair.
func Judge(c Comparison, pairs []Pair, commit string) Row {
	var ours, theirs, ratios []float64
	for _, p := range pairs {
		ours, theirs, ratios = append(ours, p.Ours), append(theirs, p.Theirs), append(ratios, p.Ours/p.Theirs)
	}
	r := Row{
		Name: c.Name, Params: c.Params, Unit: c.Unit, Peer: c.Peer, Goal: c.Goal, Op: c.Op, N: len(pairs), Commit: commit,
		Value: median(ours), PeerValue: median(theirs),
		Ratio: median(ratios), RatioMin: slices.Min(ratios), RatioMax: slices.Max(ratios),
	}
	if len(pairs) >= MinPairs {
		met := r.Ratio <= r.Goal
		if r.Op == ">=" {
			met = r.Ratio >= r.Goal
		}
		r.Met = &met
	}
	return r
}

func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}
