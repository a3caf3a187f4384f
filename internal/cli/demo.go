package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fluidos-edge/testbed/scenarios"
	"github.com/fluidos-edge/testbed/testbed"
)

// scenarioNames are what demo takes, besides the IDs of assertions.
func scenarioNames() []string { return []string{scenarios.Multicast, scenarios.LatencyFilter, "all"} }

func (a *app) demoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo [multicast|latency-filter|all]",
		Short: "Run the scenarios: PASS or FAIL on delivered data",
		Long: `demo runs assertions against a testbed that is up and judges what was delivered:
multicast        one sensor's samples at several endpoints and consumers, and nowhere else
latency-filter   exactly the sensors whose declared latency is within a bound
One assertion runs by its ID, such as M1. Exit code 0 if all hold, 1 if one fails or could not be judged.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("name one scenario, or all", "%s: one argument too many: %q", cmd.CommandPath(), args[1])
			}
			if len(args) == 1 {
				if _, err := scenarios.Select(args[0]); err != nil {
					return usage("use one of "+strings.Join(scenarioNames(), ", ")+", or the ID of an assertion", "%v", err)
				}
			}
			return nil
		},
		ValidArgs: scenarioNames(),
		RunE: func(cmd *cobra.Command, args []string) error {
			scenario := "all"
			if len(args) == 1 {
				scenario = args[0]
			}
			ctx, cancel := a.deadline(cmd.Context())
			defer cancel()
			s, err := a.describe(ctx, a.options())
			if err != nil {
				return caused(ctx, err)
			}
			results, err := a.runDemo(ctx, s, scenario)
			if err != nil {
				return err
			}
			if a.json() {
				err = a.printJSON(results)
			} else {
				a.printResults(results)
			}
			if code := judge(results); err == nil && code != exitOK {
				err = &verdictError{code}
			}
			return err
		},
	}
}

// runDemo runs a scenario on a testbed that lives.
func (a *app) runDemo(ctx context.Context, s *testbed.Status, scenario string) ([]scenarios.Result, error) {
	if s.Phase == testbed.PhaseDegraded || s.Phase == testbed.PhaseStarting {
		var down []string
		for _, c := range s.Components {
			if !c.Ready && !c.External {
				down = append(down, strings.TrimSuffix(c.Name+": "+firstLine(c.Reason), ": "))
			}
		}
		if len(s.Components) == 0 {
			return nil, &failure{exit: exitAbsent, code: "absent", message: "testbed " + a.name + " is dead: nothing of it runs", fix: "`" + a.command("up") + "` starts it again"}
		}
		if len(down) > 0 {
			fmt.Fprintf(a.stderr, "warning: testbed %s is %s: %s\n", a.name, s.Phase, strings.Join(down, "; "))
		}
	}
	p := a.progress()
	defer p.end()
	defer p.whenInterrupted(ctx, "removing what this run made")()
	results, err := a.demo(ctx, s, scenario, p.tell)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, caused(ctx, fmt.Errorf("demo: %w", err))
	}
	if results == nil {
		results = []scenarios.Result{}
	}
	return results, nil
}

// judge is 1 unless everything passed or was skipped.
func judge(results []scenarios.Result) int {
	for _, r := range results {
		if r.Status != scenarios.Pass && r.Status != scenarios.Skip {
			return exitFailed
		}
	}
	return exitOK
}

func (a *app) printResults(results []scenarios.Result) {
	rows := make([][]string, len(results))
	counts := map[string]int{}
	total := 0.0
	var where string
	for i, r := range results {
		status := r.Status
		counts[status]++
		total += r.Seconds
		where = r.Backend + ", " + r.Edge
		code := map[string]int{"pass": green, "skip": yellow}[status]
		if code == 0 {
			code = red
		}
		rows[i] = []string{r.Assertion, a.colour(code, strings.ToUpper(status)), strconv.FormatFloat(r.Seconds, 'f', 1, 64), r.Scenario, r.Title}
	}
	a.printTable([]string{"ASSERTION", "VERDICT", "SECONDS", "SCENARIO", "TITLE"}, rows)
	for _, r := range results {
		if r.Status == scenarios.Pass {
			continue
		}
		a.printf("\n%s %s: %s\n", r.Assertion, strings.ToUpper(r.Status), strings.TrimSpace(r.Reason))
		if r.Status == scenarios.Fail {
			a.printObservation("expected", r.Expected)
			a.printObservation("observed", r.Observed)
		}
	}
	var sum []string
	for _, status := range []string{"pass", "fail", "error", "skip"} {
		if n := counts[status]; n > 0 {
			sum = append(sum, fmt.Sprintf("%d %s", n, map[string]string{"pass": "passed", "fail": "failed", "error": "not judged", "skip": "skipped"}[status]))
		}
	}
	if len(results) > 0 {
		a.printf("\n%s in %s (%s)\n", strings.Join(sum, ", "), short(time.Duration(total*float64(time.Second))), where)
	}
}

// printObservation shows one side of a failed assertion.
func (a *app) printObservation(side string, o scenarios.Observation) {
	a.printf("  %s: %s\n", side, count(len(o.Sensors), "sensor"))
	for _, uid := range o.Sensors {
		a.printf("    %s\n", uid)
	}
	for _, s := range o.Streams {
		a.printf("    %s of %s: seq %d to %d, %d samples", s.Endpoint, s.Sensor, s.From, s.To, s.Count)
		if n := len(s.Missing); n > 0 {
			a.printf(", missing %d (first %v)", n, s.Missing[:min(n, 5)])
		}
		if s.Doubled > 0 {
			a.printf(", doubled %d", s.Doubled)
		}
		if s.Unexpected > 0 {
			a.printf(", unexpected %d", s.Unexpected)
		}
		a.printf("\n")
	}
}

// runScenarios is the real demo.
func runScenarios(ctx context.Context, s *testbed.Status, scenario string, tell func(testbed.Event)) ([]scenarios.Result, error) {
	env, err := scenarios.NewEnv(ctx, s)
	if err != nil {
		return nil, err
	}
	chosen, err := scenarios.Select(scenario)
	if err != nil {
		return nil, err
	}
	for i := range chosen {
		id, judge := chosen[i].ID, chosen[i].Run
		chosen[i].Run = func(ctx context.Context, env *scenarios.Env) scenarios.Result {
			tell(testbed.Event{Phase: id, State: "start", Fraction: -1})
			return judge(ctx, env)
		}
	}
	return scenarios.Run(ctx, env, chosen, func(r scenarios.Result) { tell(resultEvent(r)) }), nil
}

// resultEvent is how progress shows a verdict.
func resultEvent(r scenarios.Result) testbed.Event {
	e := testbed.Event{Phase: r.Assertion, State: "done", Detail: r.Title, Fraction: 1, Seconds: r.Seconds}
	switch r.Status {
	case scenarios.Fail, scenarios.Error:
		e.State, e.Detail = "fail", r.Reason
	case scenarios.Skip:
		e.Detail = "skipped: " + r.Reason
	}
	return e
}
