// Package scenarios proves with assertions on delivered data that the demo scenarios
// hold: multicast (one sensor's samples at several endpoints and consumers, and nowhere
// else), latency-filter (exactly the sensors that declare a latency below a bound), and
// truth (what is stored is what the boards measured). docs/assertions.md says what each
// assertion rests on and what it cannot see.
//
// Invariants:
//   - What should be delivered is what the boards' journal says was emitted, of the
//     sensors that the boards say they offer; never what arrived, or what a component
//     under test wrote. The mapper's journal is a second account that must agree.
//   - Data is judged only behind a fence: a witness endpoint that selects all
//     sensors in question has stored what was emitted after the last judged reading.
//     A verdict that holds is looked at again after two flush intervals.
//   - A run's DataPaths carry its id, and are removed, also those of a run that
//     was killed; what a run sets on a board it sets back. Other people's DataPaths and
//     data are left alone and not judged, and the result says so.
//   - What could not be judged is an error, neither a pass nor a fail. A fail and an
//     error say what happened to the testbed meanwhile.
//
// To try it: bin/testbed demo, or go test ./scenarios -testbed default.
package scenarios

import (
	"cmp"
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
	Truth         = "truth"
)

// Names of the scenarios, in their order.
func Names() []string { return []string{Multicast, LatencyFilter, Truth} }

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

	judge func(context.Context, *Env) (Result, error)
}

// Result is a verdict with what it stands on.
type Result struct {
	Scenario  string `json:"scenario"`
	Assertion string `json:"assertion"`
	Title     string `json:"title"`
	Status    string `json:"status"`
	// SharesWindow is the assertion whose window of data this one is judged by too, or
	// "all"; "" for an assertion with a window of its own.
	SharesWindow string      `json:"sharesWindow,omitempty"`
	Expected     Observation `json:"expected"`
	Observed     Observation `json:"observed"`
	// Reason says why it is no pass, a line for each problem.
	Reason string `json:"reason"`
	// Notes say what was not judged, whatever the status, and figures that people want.
	Notes []string `json:"notes"`
	// Incidents are what happened to the testbed in the time that was judged, if it is no
	// pass.
	Incidents []Incident `json:"incidents"`
	Backend   string     `json:"backend"`
	Edge      string     `json:"edge"`
	Testbed   string     `json:"testbed"`
	Run       string     `json:"run"`
	Seconds   float64    `json:"seconds"`

	since time.Time // the time that was judged began
}

// SensorName names a sensor for people and for programs.
type SensorName struct {
	// Sensor is "<board>/<part>"; of one that no board offers, what its DataPath says.
	Sensor string `json:"sensor"`
	Device string `json:"device,omitempty"`
	UID    string `json:"uid,omitempty"`
}

// Observation is which sensors are selected, and what of them is delivered where.
type Observation struct {
	Sensors []SensorName `json:"sensors"`
	Streams []Stream     `json:"streams"`
}

// Stream is the data of one sensor at one endpoint.
type Stream struct {
	// Endpoint is "<consumer>/<endpoint>".
	Endpoint string `json:"endpoint"`
	SensorName
	// From and To are the emissions of the first and the last reading that are judged.
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	// Count of readings that are stored as published.
	Count int `json:"count"`
	// Missing are the emissions of readings that are not.
	Missing    []time.Time `json:"missing"`
	Doubled    int         `json:"doubled"`
	Unexpected int         `json:"unexpected"`
	// Values that are stored and were not measured.
	Wrong int `json:"wrong"`
}

// All assertions, in the order in which they run best: those that share a window of data
// stand together.
func All() []Assertion {
	return []Assertion{
		{"M1", Multicast, "one consumer receives S1 at two endpoints: every reading at each, once", judgeM1},
		{"M2", Multicast, "several consumers share S1: every reading at each, once", judgeM2},
		{"M3", Multicast, "S3 goes to the consumer that asked for it, and S2 to nobody", judgeM3},
		{"M4", Multicast, "a consumer leaves: 5 s later nothing reaches it, and the others lose nothing", judgeM4},
		{"M5", Multicast, "it comes back: its data resumes, and the others lose nothing", judgeM5},
		{"L1", LatencyFilter, "humidity, STMicroelectronics, latency < 16 ms: exactly these sensors", judgeL1},
		{"L2", LatencyFilter, "the same with latency < 25 ms: exactly the larger set", judgeL2},
		{"L5", LatencyFilter, "a board's latency goes to 20 ms and back: it leaves L1's set and returns, L2 loses nothing", judgeL5},
		{"L3", LatencyFilter, "the latency that L1's sensors show (p95 of 60 readings) is below the bound as well", judgeL3},
		{"L4", LatencyFilter, "nothing matches: said with the nearest misses and why, and no Rule", judgeL4},
		{"T1", Truth, "what is stored is what the boards measured: every reading, no wrong value, nothing else", judgeT1},
		{"T2", Truth, "sensor_latency_ms is what the boards' way to the mapper took", judgeT2},
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
		return nil, fmt.Errorf("no scenario %q: want %s, all or one of %s", name, strings.Join(Names(), ", "), strings.Join(ids, ", "))
	}
	return chosen, nil
}

// Observer is told of a run as it goes on. Its functions may be nil.
type Observer struct {
	Begin func(Assertion)
	End   func(Result)
}

// Run assertions in their order, as one run with an id of its own. When it returns,
// what it made in the testbed is removed, also if ctx has ended; what is left is an error
// in the last result. T1 and T2 judge all windows of the run.
func Run(ctx context.Context, env *Env, as []Assertion, o Observer) []Result {
	began := env.begin(ctx)
	results := make([]Result, 0, len(as))
	for i, a := range as {
		if o.Begin != nil {
			o.Begin(a)
		}
		start := time.Now()
		r := env.run(ctx, a, began)
		if i == len(as)-1 { // the last one pays for the clearing up
			if err := env.end(ctx); err != nil {
				r.Status, r.Reason = Error, joinLines(r.Reason, err.Error())
			}
		}
		r.Seconds = time.Since(start).Seconds()
		results = append(results, r)
		if o.End != nil {
			o.End(r)
		}
	}
	return results
}

// run one assertion of a run that has begun, or could not.
func (e *Env) run(ctx context.Context, a Assertion, began error) Result {
	start := time.Now()
	var r Result
	err := cmp.Or(began, ctx.Err())
	if err == nil {
		r, err = a.judge(ctx, e)
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
	if r.Status == Error {
		e.unjudged = append(e.unjudged, a.ID)
	}
	r.Scenario, r.Assertion, r.Title = a.Scenario, a.ID, a.Title
	r.Backend, r.Edge, r.Testbed, r.Run = e.Backend, e.Edge, e.Testbed, e.Run
	if r.Status == Fail || r.Status == Error && ctx.Err() == nil {
		if r.since.IsZero() || r.since.After(start) {
			r.since = start
		}
		r.Incidents = e.incidents(ctx, r.since)
	}
	if r.Notes == nil {
		r.Notes = []string{}
	}
	if r.Incidents == nil {
		r.Incidents = []Incident{}
	}
	r.Expected.fill()
	r.Observed.fill()
	return r
}

// fill makes empty lists of absent ones: JSON then has [] and not null.
func (o *Observation) fill() {
	if o.Sensors == nil {
		o.Sensors = []SensorName{}
	}
	if o.Streams == nil {
		o.Streams = []Stream{}
	}
	for i := range o.Streams {
		if o.Streams[i].Missing == nil {
			o.Streams[i].Missing = []time.Time{}
		}
	}
}

// Differences between what was expected and what was observed that the reason does not
// name, a line each: sensors first, then streams.
func (r Result) Differences() []string {
	var lines []string
	lack := func(side string, of, in []SensorName) {
		for _, s := range of {
			if !slices.Contains(in, s) && !strings.Contains(r.Reason, s.String()) {
				lines = append(lines, side+" "+s.String())
			}
		}
	}
	lack("expected, not selected:", r.Expected.Sensors, r.Observed.Sensors)
	lack("selected, not expected:", r.Observed.Sensors, r.Expected.Sensors)
	type window struct {
		endpoint, sensor string
		from             time.Time
	}
	expected := map[window]Stream{}
	for _, s := range r.Expected.Streams {
		expected[window{s.Endpoint, s.Sensor, s.From}] = s
	}
	for _, s := range r.Observed.Streams {
		want, ok := expected[window{s.Endpoint, s.Sensor, s.From}]
		name := fmt.Sprintf("%s of %s", s.Endpoint, s.SensorName)
		if ok && s.Count == want.Count && len(s.Missing)+s.Doubled+s.Unexpected+s.Wrong == 0 || s.Wrong == 0 && strings.Contains(r.Reason, name) {
			continue
		}
		text := name + ": "
		if ok {
			text += fmt.Sprintf("%d of %d readings", s.Count, want.Count)
		} else {
			text += "nothing expected"
		}
		for _, n := range []struct {
			count int
			what  string
		}{{len(s.Missing), "missing"}, {s.Doubled, "doubled"}, {s.Unexpected, "unexpected"}, {s.Wrong, "with a wrong value"}} {
			if n.count > 0 {
				text += fmt.Sprintf(", %d %s", n.count, n.what)
			}
		}
		lines = append(lines, text)
	}
	return lines
}

// String is "<board>/<part> (<device>)".
func (n SensorName) String() string {
	if n.Device == "" {
		return n.Sensor
	}
	return n.Sensor + " (" + n.Device + ")"
}

func joinLines(a, b string) string {
	if a == "" {
		return b
	}
	return a + "\n" + b
}
