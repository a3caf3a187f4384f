// Package scenarios proves with assertions on delivered data that the two demo
// scenarios hold: multicast (one sensor's samples at several endpoints and
// consumers, and nowhere else) and latency-filter (exactly the sensors that
// declare a latency below a bound).
//
// Invariants:
//   - What should be delivered is worked out from the topology, and from the
//     mapper's own journal of what it published; never from what arrived or
//     from what a controller wrote.
//   - Data is judged only behind a fence: a witness endpoint that selects all
//     sensors in question has stored what was published after the last judged
//     sample.
//   - A run's DataPaths carry its id, and are removed, also those of a run that
//     was killed. Other people's DataPaths and data are left alone and not judged.
//   - What could not be judged is an error, neither a pass nor a fail.
//
// To try it: bin/testbed demo, or go test ./scenarios -testbed default.
package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The scenarios.
const (
	Multicast     = "multicast"
	LatencyFilter = "latency-filter"
)

// What a Result's Status may be.
const (
	Pass  = "pass"
	Fail  = "fail"
	Error = "error" // could not be judged
	Skip  = "skip"  // the topology has nothing to show it with
)

// Assertion is one requirement on what is delivered.
type Assertion struct {
	ID, Scenario, Title string
	// Run judges it. Assertions of one scenario that run one after the other in
	// one Env share one window of data. It removes what it made in the
	// testbed, also if ctx ends.
	Run func(ctx context.Context, env *Env) Result
}

// Result is a verdict with what it stands on.
type Result struct {
	Scenario  string      `json:"scenario"`
	Assertion string      `json:"assertion"`
	Title     string      `json:"title"`
	Status    string      `json:"status"`
	Expected  Observation `json:"expected"`
	Observed  Observation `json:"observed"`
	// Reason says why it is no pass.
	Reason  string  `json:"reason"`
	Backend string  `json:"backend"`
	Edge    string  `json:"edge"`
	Testbed string  `json:"testbed"`
	Run     string  `json:"run"`
	Seconds float64 `json:"seconds"`
}

// Observation is which sensors are selected, and what of them is delivered where.
type Observation struct {
	// Sensors by uid; one that the topology does not know by "<device>/<part>".
	Sensors []string `json:"sensors"`
	Streams []Stream `json:"streams"`
}

// Stream is the data of one sensor at one endpoint.
type Stream struct {
	// Endpoint is "<consumer>/<endpoint>", Sensor a uid.
	Endpoint string `json:"endpoint"`
	Sensor   string `json:"sensor"`
	// From and To are the first and last seq that are judged.
	From int64 `json:"from"`
	To   int64 `json:"to"`
	// Count of samples that are stored as published.
	Count      int     `json:"count"`
	Missing    []int64 `json:"missing"`
	Doubled    int     `json:"doubled"`
	Unexpected int     `json:"unexpected"`
}

// All assertions, in the order in which they run best.
func All() []Assertion {
	define := func(id, scenario, title string, judge func(context.Context, *Env) (Result, error)) Assertion {
		a := Assertion{ID: id, Scenario: scenario, Title: title}
		a.Run = func(ctx context.Context, env *Env) Result {
			start := time.Now()
			var r Result
			err := ctx.Err()
			if err == nil {
				r, err = judge(ctx, env)
			}
			if err != nil {
				r.Status, r.Reason = Error, err.Error()
				var skip skipped
				switch {
				case errors.As(err, &skip):
					r.Status = Skip
				case ctx.Err() != nil:
					r.Reason = "interrupted: " + r.Reason
				}
			}
			r.Scenario, r.Assertion, r.Title = a.Scenario, a.ID, a.Title
			r.Backend, r.Edge, r.Testbed, r.Run = env.Backend, env.Edge, env.Testbed, env.Run
			r.Seconds = time.Since(start).Seconds()
			r.Expected.fill()
			r.Observed.fill()
			return r
		}
		return a
	}
	return []Assertion{
		define("M1", Multicast, "one consumer receives S1 at two endpoints: every sample at each, once", judgeM1),
		define("M2", Multicast, "several consumers share S1: every sample at each, once", judgeM2),
		define("M3", Multicast, "S3 goes to the consumer that asked for it, and S2 to nobody", judgeM3),
		define("L1", LatencyFilter, "humidity, STMicroelectronics, latency < 16 ms: exactly these sensors", judgeL1),
		define("L2", LatencyFilter, "the same with latency < 25 ms: exactly the larger set", judgeL2),
		define("L4", LatencyFilter, "nothing matches: said with the nearest misses and why, and no Rule", judgeL4),
	}
}

// skipped says why the topology has nothing to show an assertion with.
type skipped string

func (s skipped) Error() string { return string(s) }

// Select the assertions of a scenario, "all", or one by its ID.
func Select(name string) ([]Assertion, error) {
	all := All()
	chosen := slices.DeleteFunc(slices.Clone(all), func(a Assertion) bool {
		return name != "all" && name != a.Scenario && !strings.EqualFold(name, a.ID)
	})
	if len(chosen) == 0 {
		var ids []string
		for _, a := range all {
			ids = append(ids, a.ID)
		}
		return nil, fmt.Errorf("no scenario %q: want %s, %s, all or one of %s", name, Multicast, LatencyFilter, strings.Join(ids, ", "))
	}
	return chosen, nil
}

// Run assertions in their order, as one run with an id of its own. progress, if
// not nil, is told each result at once. After ctx ends, what is left is an error.
func Run(ctx context.Context, env *Env, as []Assertion, progress func(Result)) []Result {
	env.begin()
	results := make([]Result, 0, len(as))
	for _, a := range as {
		r := a.Run(ctx, env)
		results = append(results, r)
		if progress != nil {
			progress(r)
		}
	}
	return results
}

// fill makes empty lists of absent ones: JSON then has [] and not null.
func (o *Observation) fill() {
	if o.Sensors == nil {
		o.Sensors = []string{}
	}
	if o.Streams == nil {
		o.Streams = []Stream{}
	}
	for i := range o.Streams {
		if o.Streams[i].Missing == nil {
			o.Streams[i].Missing = []int64{}
		}
	}
}
