package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fluidos-edge/testbed/scenarios"
	"github.com/fluidos-edge/testbed/testbed"
)

// allScenarios is what demo takes for all scenarios.
const allScenarios = "all"

// scenarioWords are the names of scenarios that demo takes; it also takes the IDs of
// assertions.
func scenarioWords() []string { return append(scenarios.Names(), allScenarios) }

// scenarioHelp says in a line what each scenario is about.
func scenarioHelp() map[string]string {
	return map[string]string{
		scenarios.Multicast:     "some sensors' readings at several endpoints and consumers, and nowhere else",
		scenarios.LatencyFilter: "exactly the sensors whose declared latency is below a bound",
		scenarios.Truth:         "what is stored is what the boards measured, and sensor_latency_ms what it took",
	}
}

// assertions are all of them.
func assertions() []scenarios.Assertion {
	all, err := scenarios.Select(allScenarios)
	if err != nil {
		panic(err)
	}
	return all
}

// demoFlags are the flags of a command that runs scenarios.
type demoFlags struct {
	strict bool
	junit  string // file, or ""
}

func (f *demoFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.strict, "strict", false, "exit with 1 also if an assertion is skipped")
	cmd.Flags().StringVar(&f.junit, "junit", "", "write the results to this `file` too, as JUnit XML")
	if err := cmd.MarkFlagFilename("junit", "xml"); err != nil {
		panic(err)
	}
}

// check judges the flags before anything runs.
func (f *demoFlags) check(cmd *cobra.Command) error {
	if !cmd.Flags().Changed("junit") {
		return nil
	}
	return checkJUnit(f.junit)
}

func (a *app) demoCommand() *cobra.Command {
	var f demoFlags
	var about, ids []string
	help := scenarioHelp()
	for _, name := range scenarios.Names() {
		about = append(about, fmt.Sprintf("  %-16s %s", name, help[name]))
	}
	for _, as := range assertions() {
		ids = append(ids, as.ID)
	}
	cmd := &cobra.Command{
		Use:   "demo [" + strings.Join(scenarioWords(), "|") + "|ID]",
		Short: "Run the scenarios: PASS or FAIL on delivered data",
		Long: "demo runs assertions against a testbed that is up and judges what was delivered:\n" + strings.Join(about, "\n") +
			"\nOne assertion runs by its ID: " + strings.Join(ids, ", ") + `.

Exit code 0 if something was judged, and all of it held; 1 if an assertion failed or could
not be judged, if all were skipped, and with --strict if one was. An assertion is skipped
if the topology has nothing to show it with.`,
		Example: `  testbed demo                         # all scenarios
  testbed demo M3 -o json              # one assertion, with everything that is known of it
  testbed demo --strict --junit r.xml  # for CI`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("name one scenario, or all", "%s: one argument too many: %q", cmd.CommandPath(), args[1])
			}
			if len(args) == 1 {
				if _, err := scenarios.Select(args[0]); err != nil {
					return usage("use one of "+strings.Join(scenarioWords(), ", ")+", or the ID of an assertion", "%v", err)
				}
			}
			return nil
		},
		ValidArgsFunction: completeScenario,
		RunE: func(cmd *cobra.Command, args []string) error {
			scenario := allScenarios
			if len(args) == 1 {
				scenario = args[0]
			}
			if err := f.check(cmd); err != nil {
				return err
			}
			ctx, cancel := a.deadline(cmd.Context())
			defer cancel()
			s, err := a.describe(ctx, a.options())
			if err != nil {
				return caused(ctx, err)
			}
			results, verdict := a.runDemo(ctx, s, scenario, f)
			switch {
			case results == nil:
			case a.json():
				err = a.printJSON(results)
			default:
				a.printResults(results, f)
			}
			return cmp.Or(err, verdict)
		},
	}
	f.add(cmd)
	return cmd
}

// completeScenario suggests what demo takes.
func completeScenario(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var words []string
	if len(args) == 0 {
		help := scenarioHelp()
		for _, name := range scenarios.Names() {
			words = append(words, cobra.CompletionWithDesc(name, help[name]))
		}
		words = append(words, cobra.CompletionWithDesc(allScenarios, "all scenarios"))
		for _, as := range assertions() {
			words = append(words, cobra.CompletionWithDesc(as.ID, as.Title))
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

// runDemo runs a scenario on a testbed that lives. Besides the results, if there are any,
// it returns what they come to: nil, a verdictError, or why a run has no verdict.
func (a *app) runDemo(ctx context.Context, s *testbed.Status, scenario string, f demoFlags) ([]scenarios.Result, error) {
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
	verdict := judge(results, f.strict)
	var unwritten error
	if f.junit != "" && (err == nil || len(results) > 0) { // of a run that was interrupted, too
		unwritten = a.keepJUnit(f.junit, results, verdict)
	}
	if err != nil {
		return nil, errors.Join(caused(ctx, fmt.Errorf("demo: %w", err)), unwritten)
	}
	if results == nil {
		results = []scenarios.Result{}
	}
	return results, cmp.Or(unwritten, verdict)
}

// keepJUnit writes the file of --junit. Without it, the exit code still tells whether an
// assertion failed.
func (a *app) keepJUnit(path string, results []scenarios.Result, verdict error) error {
	err := writeJUnit(path, results)
	if err == nil {
		return nil
	}
	exit := exitNotUp
	if verdict != nil {
		exit = exitFailed
	}
	return &failure{exit: exit, code: "failed", message: "--junit: " + err.Error(),
		fix: "mend that, then `" + a.command("demo --junit "+path) + "`", err: err}
}

// judge tells what results come to: nil if something passed and nothing failed or was left
// unjudged, and with strict nothing was skipped either. The error says why where the
// results do not show it.
func judge(results []scenarios.Result, strict bool) error {
	counts := map[string]int{}
	for _, r := range results {
		counts[r.Status]++
	}
	skipped := counts[scenarios.Skip]
	message, fix := "", "use a topology that has what they need, such as the default one"
	switch {
	case counts[scenarios.Fail]+counts[scenarios.Error] > 0:
		return &verdictError{exit: exitFailed}
	case counts[scenarios.Pass] == 0:
		message = "nothing was judged"
	case strict && skipped > 0:
		message, fix = "--strict", fix+", or leave --strict out"
	default:
		return nil
	}
	why := &failure{message: fmt.Sprintf("%s: %d of %s skipped", message, skipped, count(len(results), "assertion")), fix: fix}
	for _, same := range fold(results, func(r scenarios.Result) []string {
		if r.Status != scenarios.Skip {
			return nil
		}
		return []string{r.Reason}
	}) {
		why.lines = append(why.lines, same.String())
	}
	return &verdictError{exit: exitFailed, why: why}
}

// runScenarios is the real demo.
func runScenarios(ctx context.Context, s *testbed.Status, scenario string, tell func(testbed.Event)) ([]scenarios.Result, error) {
	env, err := scenarios.NewEnv(s)
	if err != nil {
		return nil, err
	}
	chosen, err := scenarios.Select(scenario)
	if err != nil {
		return nil, err
	}
	return scenarios.Run(ctx, env, chosen, scenarios.Observer{
		Begin: func(as scenarios.Assertion) { tell(testbed.Event{Phase: as.ID, State: "start", Fraction: -1}) },
		End:   func(r scenarios.Result) { tell(resultEvent(r)) },
	}), nil
}

// resultEvent is how progress shows a verdict.
func resultEvent(r scenarios.Result) testbed.Event {
	e := testbed.Event{Phase: r.Assertion, State: "done", Detail: r.Title, Fraction: 1, Seconds: r.Seconds}
	switch {
	case r.Status == scenarios.Fail || r.Status == scenarios.Error:
		e.State, e.Detail = "fail", r.Reason
	case r.Status == scenarios.Skip:
		e.Detail = "skipped: " + r.Reason
	case r.Window() != "":
		e.Detail = r.Window() + ": " + r.Title
	}
	return e
}
