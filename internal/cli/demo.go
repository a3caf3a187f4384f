package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fluidos-edge/testbed/scenarios"
	"github.com/fluidos-edge/testbed/testbed"
)

// scenarioNames are what demo takes.
func scenarioNames() []string { return []string{"multicast", "latency-filter", "all"} }

func (a *app) demoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo [multicast|latency-filter|all]",
		Short: "Run the scenarios: PASS or FAIL on delivered data",
		Long: `demo runs assertions against a testbed that is up and judges what was delivered:
multicast        one sensor's samples at several endpoints and consumers, and nowhere else
latency-filter   exactly the sensors whose declared latency is within a bound
Exit code 0 if all hold, 1 if one fails or could not be judged.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("name one scenario, or all", "%s: one argument too many: %q", cmd.CommandPath(), args[1])
			}
			if len(args) == 1 && !slices.Contains(scenarioNames(), args[0]) {
				return usage("use one of "+strings.Join(scenarioNames(), ", "), "there is no scenario %q", args[0])
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
		status := string(r.Status)
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
		a.printf("\n%s %s: %s\n", r.Assertion, strings.ToUpper(string(r.Status)), strings.TrimSpace(r.Reason))
		if r.Status == scenarios.Fail {
			a.printStreams("expected", r.Expected)
			a.printStreams("observed", r.Observed)
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

// printStreams shows one side of a failed assertion, a line for each stream.
func (a *app) printStreams(side string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		return
	}
	a.printf("  %s: %s\n", side, b)
}

// runScenarios is the real demo.
func runScenarios(ctx context.Context, s *testbed.Status, scenario string, tell func(testbed.Event)) ([]scenarios.Result, error) {
	env, err := scenarios.NewEnv(ctx, s)
	if err != nil {
		return nil, err
	}
	chosen := slices.DeleteFunc(scenarios.All(), func(x scenarios.Assertion) bool { return scenario != "all" && x.Scenario != scenario })
	return scenarios.Run(ctx, env, chosen, tell), nil
}
