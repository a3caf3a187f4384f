package router

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fluidos-edge/testbed/controllers/api/accounts"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

var (
	takes   = accounts.Endpoint{LastDelivery: start, Delivered: 1}
	nothing = accounts.Endpoint{}
	refuses = accounts.Endpoint{LastDelivery: start, Delivered: 1, FailingSince: start.Add(1500 * time.Millisecond),
		Reason: accounts.ReasonConnectionRefused, LastError: "connection refused"}
	hangs = accounts.Endpoint{FailingSince: start.Add(time.Second), Reason: accounts.ReasonNoAnswer, LastError: "no answer within 5s"}
)

// delivers is a sim with one sensor that arrives and one DataPath with endpoints
// "a", "b", ..., of which the relay says what is given.
func delivers(t *testing.T, said ...accounts.Endpoint) *sim {
	t.Helper()
	s := newSim()
	s.offer(1, "edge-1", "12")
	var names []string
	s.says = map[string]accounts.Endpoint{}
	for i, e := range said {
		names = append(names, string(rune('a'+i)))
		s.says[names[i]] = e
	}
	s.world.paths = []sensors.DataPath{*PathOf("c", "x", "16ms", names...)}
	s.settle(2 * time.Second)
	s.arrivals[keyFor(1)]++
	s.step()
	expect(t, s.condition(0, sensors.ConditionSourced), "SensorsArrive: 1 sensors arrive")
	return s
}

func (s *sim) delivering() string { return s.condition(0, sensors.ConditionDelivering) }

// restartRelay makes the relay one that has posted nothing.
func (s *sim) restartRelay() {
	s.instance += "+"
	for name := range s.says {
		s.says[name] = nothing
	}
}

func (s *sim) restartRouter() {
	s.planner = newPlanner("fluidos", "http://relay", []byte("key"), sensor.Select)
}

const (
	taken1  = "SamplesDelivered: 1 endpoints took their last batch"
	none1   = "NothingDelivered: 1 of 1 endpoints have taken no samples yet: a"
	refused = "EndpointConnectionRefused: 1 of 1 endpoints do not take samples: a (connection refused, since 2026-01-02T03:04:06Z)"
)

func TestDelivering(t *testing.T) {
	many := func(n int, e accounts.Endpoint) (out []accounts.Endpoint) {
		for range n {
			out = append(out, e)
		}
		return out
	}
	other := refuses
	other.Reason = "AReasonOfALaterRelay"
	elsewhere := takes
	elsewhere.URL = "http://127.0.0.1:9/other"
	for _, tc := range []struct {
		name string
		says []accounts.Endpoint
		want string
	}{
		{"taken", many(1, takes), taken1},
		{"taken by all", many(3, takes), "SamplesDelivered: 3 endpoints took their last batch"},
		{"nothing yet", many(1, nothing), none1},
		{"nothing yet at one", []accounts.Endpoint{takes, nothing, takes}, "NothingDelivered: 1 of 3 endpoints have taken no samples yet: b"},
		{"nothing yet at many", many(7, nothing), "NothingDelivered: 7 of 7 endpoints have taken no samples yet: a, b, c, d, e, 2 more"},
		{"taken at another URL", many(1, elsewhere), none1},
		{"failing", many(1, refuses), refused},
		{"one fails", []accounts.Endpoint{takes, hangs}, "EndpointNoAnswer: 1 of 2 endpoints do not take samples: b (no answer within 5s, since 2026-01-02T03:04:06Z)"},
		{"failing and awaited", []accounts.Endpoint{nothing, takes, hangs, refuses}, "EndpointNoAnswer: 3 of 4 endpoints do not take samples: " +
			"c (no answer within 5s, since 2026-01-02T03:04:06Z), d (connection refused, since 2026-01-02T03:04:06Z), a (nothing taken yet)"},
		{"many fail", many(8, refuses), "EndpointConnectionRefused: 8 of 8 endpoints do not take samples: " +
			strings.Join([]string{"a", "b", "c", "d", "e"}, " (connection refused, since 2026-01-02T03:04:06Z), ") + " (connection refused, since 2026-01-02T03:04:06Z), 3 more"},
		{"for a reason that is not known", many(1, other), strings.Replace(refused, "EndpointConnectionRefused", "EndpointFailing", 1)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := delivers(t, tc.says...)
			expect(t, s.delivering(), tc.want)
			ready := "Served: "
			if !strings.HasPrefix(tc.want, "SamplesDelivered") {
				ready = tc.want
			}
			if !strings.HasPrefix(s.ready(0), ready) {
				t.Errorf("Ready is %q, want %q", s.ready(0), ready)
			}
			s.checkConditions(t)
			for i, e := range s.world.paths[0].Status.Endpoints {
				said := tc.says[i]
				if since := e.FailingSince; (since == nil) != said.FailingSince.IsZero() || since != nil && !since.Equal(new(metav1.NewTime(said.FailingSince.Truncate(time.Second)))) {
					t.Errorf("endpoint %s fails since %v, want %s", e.Name, since, said.FailingSince)
				}
				expect(t, e.LastError, said.LastError)
			}
		})
	}
}

// fataler is a testing.T or a rapid.T.
type fataler interface {
	Helper()
	Fatalf(string, ...any)
}

// checkConditions holds what is true of every status: all four conditions are of
// this generation, and Ready is made of the others.
func (s *sim) checkConditions(t fataler) {
	t.Helper()
	for _, dp := range s.world.paths {
		checkConditions(t, &dp)
	}
}

func checkConditions(t fataler, dp *sensors.DataPath) {
	t.Helper()
	var first *metav1.Condition
	for _, name := range []string{sensors.ConditionMatched, sensors.ConditionSourced, sensors.ConditionDelivering} {
		c := conditionOf(dp.Status, name, dp.Generation)
		if c == nil {
			t.Fatalf("DataPath %s has no condition %s of generation %d: %+v", dp.Name, name, dp.Generation, dp.Status.Conditions)
			return
		}
		if first == nil && c.Status != metav1.ConditionTrue {
			first = c
		}
	}
	ready := conditionOf(dp.Status, sensors.ConditionReady, dp.Generation)
	switch {
	case ready == nil || len(dp.Status.Conditions) != 4:
		t.Fatalf("conditions of DataPath %s: %+v", dp.Name, dp.Status.Conditions)
	case first == nil && (ready.Status != metav1.ConditionTrue || ready.Reason != reasonServed):
		t.Fatalf("DataPath %s: all is well, but Ready is %+v", dp.Name, ready)
	case first != nil && (ready.Status != metav1.ConditionFalse || ready.Reason != first.Reason || ready.Message != first.Message):
		t.Fatalf("DataPath %s: Ready is %+v, want that of %+v", dp.Name, ready, first)
	}
}

// What is missing first is what Ready tells.
func TestReadyTellsTheFirst(t *testing.T) {
	s := delivers(t, refuses)
	expect(t, s.ready(0), refused)
	s.fault(1, "its board is offline")
	s.step()
	expect(t, s.ready(0), "SensorUnavailable: 1 of 1 sensors are not available: d-1/p (its board is offline)")
	expect(t, s.condition(0, sensors.ConditionSourced), s.ready(0))
	expect(t, s.delivering(), refused)
	s.flavors = nil
	s.step()
	expect(t, s.ready(0), "NoSensors: no sensor is on offer")
	expect(t, s.condition(0, sensors.ConditionMatched), s.ready(0))
	expect(t, s.condition(0, sensors.ConditionSourced), "NoSensors: no sensor is selected")
	expect(t, s.delivering(), refused)
	s.world.paths[0].Spec.Sensors[0].Lt = new("16")
	s.world.paths[0].Generation++
	s.step()
	if reason := s.condition(0, sensors.ConditionSourced); reason != "InvalidSelection: no sensor is selected" || !strings.HasPrefix(s.ready(0), "InvalidSelection: spec.sensors[0].lt: ") {
		t.Errorf("Sourced is %q, Ready %q", reason, s.ready(0))
	}
	s.checkConditions(t)
}

// Silence of the sensors says nothing of the endpoints.
func TestDeliveringWhileSilent(t *testing.T) {
	for name, said := range map[string]accounts.Endpoint{taken1: takes, refused: refuses, none1: nothing} {
		s := delivers(t, said)
		s.settle(3 * time.Hour)
		expect(t, s.delivering(), name)
		expect(t, s.ready(0), "SensorsSilent: 1 of 1 sensors no longer arrive: d-1/p (silent for more than 30s)")
	}
}

// A restart of the relay, of the router, or of both says nothing of the endpoints;
// what the relay says from then on counts.
func TestDeliveringOverRestarts(t *testing.T) {
	for _, restart := range []struct {
		name string
		do   func(*sim)
	}{
		{"relay", (*sim).restartRelay},
		{"router", (*sim).restartRouter},
		{"router and relay", func(s *sim) { s.restartRelay(); s.restartRouter() }},
		{"relay, which is behind", func(s *sim) { s.restartRelay(); s.behind = true }},
		{"relay, which has not synced", func(s *sim) { s.restartRelay(); s.synced = false }},
		{"relay, which does not answer", func(s *sim) { s.restartRelay(); s.down = errors.New("connection refused") }},
		{"router and relay, which does not answer", func(s *sim) { s.restartRelay(); s.restartRouter(); s.down = errors.New("connection refused") }},
	} {
		for want, said := range map[string]accounts.Endpoint{taken1: takes, refused: refuses, none1: nothing} {
			t.Run(restart.name+", "+want, func(t *testing.T) {
				s := delivers(t, said)
				before := *apimeta.FindStatusCondition(s.world.paths[0].Status.Conditions, sensors.ConditionDelivering)
				endpoint := s.world.paths[0].Status.Endpoints[0]
				restart.do(s)
				s.settle(20 * time.Second)
				expect(t, *apimeta.FindStatusCondition(s.world.paths[0].Status.Conditions, sensors.ConditionDelivering), before)
				after := s.world.paths[0].Status.Endpoints[0]
				expect(t, after.FailingSince, endpoint.FailingSince)
				expect(t, after.LastError, endpoint.LastError)

				s.behind, s.synced, s.down = false, true, nil
				s.says["a"] = hangs
				s.step()
				expect(t, s.delivering(), "EndpointNoAnswer: 1 of 1 endpoints do not take samples: a (no answer within 5s, since 2026-01-02T03:04:06Z)")
				s.says["a"] = takes
				s.step()
				expect(t, s.delivering(), taken1)
				s.checkConditions(t)
			})
		}
	}
	// Of two that were trusted over the restart, the one that fails is named alone.
	s := delivers(t, takes, takes)
	s.restartRelay()
	s.restartRouter()
	s.step()
	s.says["b"] = hangs
	s.step()
	expect(t, s.delivering(), "EndpointNoAnswer: 1 of 2 endpoints do not take samples: b (no answer within 5s, since 2026-01-02T03:04:06Z)")
}

// A new generation must earn its delivery, whoever restarts meanwhile.
func TestDeliveringOfAGeneration(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*sensors.DataPath)
	}{
		{"another URL", func(dp *sensors.DataPath) { dp.Spec.Endpoints[0].URL += "/other" }},
		{"another selection", func(dp *sensors.DataPath) { dp.Spec.Sensors = nil }},
		{"another endpoint", func(dp *sensors.DataPath) {
			dp.Spec.Endpoints = append(dp.Spec.Endpoints, sensors.Endpoint{Name: "b", URL: "http://b"})
		}},
	} {
		for _, restarts := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restarts %v", tc.name, restarts), func(t *testing.T) {
				s := delivers(t, takes)
				expect(t, s.delivering(), taken1)
				s.world.relays = []replica{s.relay()} // which says what it said of generation 1
				old := s.world.relays
				tc.change(&s.world.paths[0])
				s.world.paths[0].Generation++
				if restarts {
					s.restartRouter()
				}
				w := s.world
				w.relays = old
				a := s.plan(w)
				if len(a.statuses) != 1 {
					t.Fatalf("%d statuses written, want 1", len(a.statuses))
				}
				c := conditionOf(a.statuses[0].status, sensors.ConditionDelivering, 2)
				if c == nil || c.Status != metav1.ConditionFalse || c.Reason != reasonNothingDelivered {
					t.Fatalf("Delivering is %+v", c)
				}
				s.says = map[string]accounts.Endpoint{"a": nothing, "b": nothing}
				s.settle(time.Minute)
				if got := s.delivering(); !strings.HasPrefix(got, "NothingDelivered: ") {
					t.Errorf("Delivering is %q before a batch was taken", got)
				}
				if restarts {
					s.restartRouter()
				}
				s.says = map[string]accounts.Endpoint{"a": takes, "b": takes}
				s.step()
				if got := s.delivering(); !strings.HasPrefix(got, "SamplesDelivered: ") {
					t.Errorf("Delivering is %q after a batch was taken", got)
				}
			})
		}
	}
	// A failure that the relay still knows of its URL is told of the new generation
	// too.
	s := delivers(t, refuses)
	s.world.paths[0].Spec.Sensors = nil
	s.world.paths[0].Generation++
	s.step()
	expect(t, s.delivering(), refused)
	// A DataPath that is made again is another one.
	again := PathOf("c", "x", "16ms", "a")
	again.UID = "another"
	s.world.paths[0], s.says["a"] = *again, nothing
	s.step()
	expect(t, s.delivering(), none1)
}

// Of several relays one suffices to fail an endpoint, and one that has posted
// nothing says nothing.
func TestDeliveringReplicas(t *testing.T) {
	later := refuses
	later.FailingSince = start.Add(time.Minute)
	for _, tc := range []struct {
		one, two accounts.Endpoint
		want     string
	}{
		{takes, takes, taken1},
		{takes, nothing, taken1},
		{nothing, takes, taken1},
		{nothing, nothing, none1},
		{takes, refuses, refused},
		{refuses, takes, refused},
		{refuses, nothing, refused},
		{nothing, refuses, refused},
		{later, refuses, refused},
		{refuses, later, refused},
		{hangs, refuses, strings.Replace(strings.Replace(refused, "EndpointConnectionRefused", "EndpointNoAnswer", 1), "connection refused", "no answer within 5s", 1)},
	} {
		s := delivers(t, nothing)
		// say plans with two relays.
		say := func(instances string, one, two accounts.Endpoint) string {
			w := s.world
			w.relays = nil
			for i, said := range []accounts.Endpoint{one, two} {
				s.says["a"], s.instance = said, instances[i:i+1]
				r := s.relay()
				r.url = fmt.Sprint("http://relay-", i)
				w.relays = append(w.relays, r)
			}
			for _, st := range s.plan(w).statuses {
				s.wrote(st, w.now)
				s.world.paths[0].Status = st.status
			}
			return s.delivering()
		}
		expect(t, say("12", tc.one, tc.two), tc.want)
		expect(t, say("32", nothing, tc.two), tc.want) // the first restarted
		expect(t, say("34", nothing, nothing), tc.want)
		if tc.want != none1 {
			expect(t, say("34", takes, takes), taken1)
		}
	}
}

// A failing endpoint costs one write when it begins to fail, and one when that
// ends, however often the relays are asked; and what is written stays small.
func TestDeliveringWrites(t *testing.T) {
	s := delivers(t, takes)
	writes := 0
	pass := func(d time.Duration) int {
		writes = 0
		for end := s.now.Add(d); s.now.Before(end); s.now = s.now.Add(500 * time.Millisecond) {
			s.arrivals[keyFor(1)]++
			writes += len(s.step().statuses)
		}
		return writes
	}
	expect(t, pass(time.Minute), 0)
	s.says["a"] = refuses
	expect(t, pass(10*time.Minute), 1)
	s.says["a"] = takes
	expect(t, pass(10*time.Minute), 1)

	s = newSim()
	s.offer(1, "edge-1", "12")
	var names []string
	s.says = map[string]accounts.Endpoint{}
	for i := range 32 {
		name := fmt.Sprintf("%s-%d", strings.Repeat("n", 60), i)
		names = append(names, name)
		e := refuses
		e.LastError = strings.Repeat("é", 100_000)
		s.says[name] = e
	}
	s.world.paths = []sensors.DataPath{*PathOf("c", "x", "", names...)}
	s.settle(2 * time.Second)
	text, err := json.Marshal(s.world.paths[0].Status)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > 32<<10 {
		t.Errorf("a status of %d bytes", len(text))
	}
}

// Nothing of an endpoint's URL is in a status.
func TestDeliveringSecrecy(t *testing.T) {
	s := newSim()
	s.offer(1, "edge-1", "12")
	s.world.paths = []sensors.DataPath{*PathOf("c", "x", "", "a", "b")}
	for i := range s.world.paths[0].Spec.Endpoints {
		s.world.paths[0].Spec.Endpoints[i].URL = "http://h0st.invalid/write?token=s3cret"
	}
	s.says = map[string]accounts.Endpoint{"a": refuses, "b": nothing}
	s.settle(2 * time.Second)
	s.arrivals[keyFor(1)]++
	s.step()
	text, err := json.Marshal(s.world.paths[0].Status)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"s3cret", "h0st", "http:"} {
		if strings.Contains(string(text), secret) {
			t.Errorf("%s is in the status: %s", secret, text)
		}
	}
}
