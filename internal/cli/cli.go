// Package cli is the command line: arguments in, tables or JSON out. It decides
// nothing about testbeds; package testbed and the others do.
//
// Invariants:
//   - Results go to stdout in one write at the end, everything else to stderr:
//     `-o json` is one document or nothing. `board show --watch` alone writes as it
//     goes, with `-o json` one document a line.
//   - A failure says what is wrong (`error:`) and what to do (`fix:`); with
//     `-o json` it is the last line of stderr as {"error": ...} and stdout is empty.
//   - A verdict is a result: it goes to stdout whatever it is. What it does not show by
//     itself, such as that nothing was judged, goes to stderr as text.
//   - The exit code is 0 it held, 1 an assertion failed, nothing was judged or a testbed
//     is degraded, 2 bad usage, file or input, 3 could not be brought up, 4 no such
//     testbed, 130 interrupted; kubectl's own code for `testbed kubectl`.
//
// Try it with `go run ./cmd/testbed --help`; tests are testdata/*.txtar.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/fluidos-edge/testbed/scenarios"
	"github.com/fluidos-edge/testbed/testbed"
)

// Run is the program. It returns the exit code.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return run(ctx, realEngine(), args, stdin, stdout, stderr)
}

// engine is what the commands drive.
type engine struct {
	up          func(context.Context, testbed.Options) (*testbed.Status, error)
	down        func(context.Context, testbed.Options) error
	describe    func(context.Context, testbed.Options) (*testbed.Status, error)
	buildAssets func(context.Context, testbed.Options) error
	supervise   func(ctx context.Context, name string) error
	kubeconfig  func(name, which string) (string, error)
	kubectl     func() (string, error)
	controls    func(name string) ([]string, error)
	control     func(name, board string) (string, error)
	images      func(context.Context, testbed.Options) ([]testbed.Image, error)
	buildNode   func(context.Context, testbed.Options) (*testbed.Image, error)
	prune       func(context.Context, testbed.Options) (int64, error)
	doctor      func(context.Context, testbed.DoctorOptions) ([]testbed.Check, error)
	now         func() time.Time
	// columns of the terminal that output goes to; 0 if it is none.
	columns func(io.Writer) int
	// demo runs the assertions of a scenario, or of all.
	demo func(ctx context.Context, s *testbed.Status, scenario string, tell func(testbed.Event)) ([]scenarios.Result, error)
}

func realEngine() engine {
	return engine{
		up: testbed.Up, down: testbed.Down, describe: testbed.Describe, buildAssets: testbed.BuildAssets,
		supervise: testbed.Supervise, kubeconfig: testbed.Kubeconfig, kubectl: testbed.Kubectl,
		controls: testbed.BoardControls, control: testbed.BoardControl, demo: runScenarios, doctor: testbed.Doctor,
		now: time.Now, columns: terminalColumns, images: testbed.Images, buildNode: testbed.BuildNodeImage, prune: testbed.PruneCache,
	}
}

// app is one run of the program.
type app struct {
	engine
	stdin          io.Reader
	stdout, stderr io.Writer
	out            strings.Builder // what goes to stdout at the end

	parsed bool // the flags were accepted

	// Global flags.
	name    string
	file    string
	output  string
	quiet   bool
	verbose bool
	timeout time.Duration
}

func run(ctx context.Context, e engine, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{engine: e, stdin: stdin, stdout: stdout, stderr: &lockedWriter{w: stderr}}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	if !a.parsed && wantsJSON(args) {
		a.output = outputJSON // the flags did not parse as far as -o
	}
	var verdict *verdictError
	held := err == nil || errors.As(err, &verdict)
	if held || !a.json() { // what a table has before an error still helps
		if _, werr := io.WriteString(stdout, a.out.String()); werr != nil && held {
			err, held = fmt.Errorf("write result: %w", werr), false
		}
	}
	switch {
	case !held:
		return a.report(ctx, err)
	case verdict != nil:
		if verdict.why != nil {
			a.explain(verdict.why)
		}
		return verdict.exit
	}
	return exitOK
}

const (
	outputTable = "table"
	outputJSON  = "json"
)

func (a *app) json() bool { return a.output == outputJSON }

// wantsJSON looks for -o json where the flags could not be parsed.
func wantsJSON(args []string) bool {
	for i, arg := range args {
		switch {
		case arg == "--":
			return false
		case arg == "-ojson", arg == "-o=json", arg == "--output=json":
			return true
		case (arg == "-o" || arg == "--output") && i+1 < len(args) && args[i+1] == outputJSON:
			return true
		}
	}
	return false
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "testbed",
		Short: "A cloud-edge-IoT testbed: consumer and provider clusters, edge nodes, sensor boards",
		Long: `testbed stands up a whole cloud-edge-IoT testbed from one file - consumer and provider
Kubernetes clusters, edge nodes, simulated sensor boards and the controllers between
them - and proves with assertions on delivered data that its scenarios hold.

Results go to stdout, progress to stderr. Exit codes: 0 it held, 1 an assertion failed,
or nothing was judged, 2 bad usage, file or input, 3 could not be brought up, 4 no such
testbed, 130 interrupted.`,
		Example: `  testbed up                                   # the default testbed
  testbed demo                                 # all scenarios, PASS or FAIL
  testbed kubectl provider-1 -- get flavors -A
  testbed down`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.check() },
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.name, "name", testbed.DefaultName, "`name` of the testbed; several can run at once")
	flags.StringVarP(&a.file, "file", "f", "", "topology `file` for up, - for standard input; default: what runs, or the default testbed")
	flags.StringVarP(&a.output, "output", "o", outputTable, "`format` of the result: table or json")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "no progress")
	flags.BoolVarP(&a.verbose, "verbose", "v", false, "log what is done")
	flags.DurationVar(&a.timeout, "timeout", 0, "give up after this `duration`, such as 10m; default: each step's own limit")
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(a.upCommand(), a.downCommand(), a.statusCommand(), a.demoCommand(), a.assetsCommand(),
		a.kubeconfigCommand(), a.kubectlCommand(), a.boardCommand(), a.sensorsCommand(), a.versionCommand(), a.superviseCommand(), a.createClusterCommand(),
		a.imagesCommand(), a.cacheCommand())
	root.AddCommand(a.doctorCommand())
	fixedWords(root, "output", outputTable, outputJSON)
	return root
}

// check judges the global flags.
func (a *app) check() error {
	a.parsed = true
	if a.output != outputTable && a.output != outputJSON {
		bad := a.output
		a.output = outputTable
		return usage("use -o table or -o json", "--output: no such format %q", bad)
	}
	if len(validation.IsDNS1123Label(a.name)) > 0 {
		return usage("use a name such as --name lab-1", `--name: %q is not 1 to 63 of a-z, 0-9 and "-"`, a.name)
	}
	if a.timeout < 0 {
		return usage("use a duration such as --timeout 10m", "--timeout: %s is negative", a.timeout)
	}
	return nil
}

// deadline applies --timeout.
func (a *app) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if a.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, a.timeout, errTimeout)
}

func (a *app) options() testbed.Options {
	o := testbed.Options{Name: a.name}
	if a.verbose {
		o.Log = slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return o
}

// work runs what takes its time under --timeout, with progress.
func (a *app) work(ctx context.Context, run func(context.Context, testbed.Options) error) error {
	ctx, cancel := a.deadline(ctx)
	defer cancel()
	p := a.progress()
	o := a.options()
	o.Progress = p.tell
	err := run(ctx, o)
	p.end()
	return caused(ctx, err)
}

// command is this program as a user would type it for the same testbed.
func (a *app) command(args string) string {
	if a.name != testbed.DefaultName {
		args = "--name " + a.name + " " + args
	}
	return "testbed " + args
}

// group is a command that only holds others.
func group(c *cobra.Command, children ...*cobra.Command) *cobra.Command {
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return usage("run `"+cmd.CommandPath()+" --help`", "%s needs a command: %s", cmd.CommandPath(), strings.Join(names(cmd), ", "))
	}
	c.AddCommand(children...)
	return c
}

func names(cmd *cobra.Command) []string {
	var out []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			out = append(out, c.Name())
		}
	}
	return out
}

func unknownCommand(cmd *cobra.Command, name string) error {
	fix := "run `" + cmd.CommandPath() + " --help` for the commands"
	if cmd.SuggestionsMinimumDistance == 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	near := cmd.SuggestionsFor(name)
	if other, ok := otherWords()[name]; ok {
		near = []string{other}
	}
	if len(near) > 0 {
		fix = "did you mean `" + cmd.CommandPath() + " " + near[0] + "`?"
	}
	return usage(fix, "%s has no command %q", cmd.CommandPath(), name)
}

// otherWords are what people type who know other tools.
func otherWords() map[string]string {
	return map[string]string{
		"start": "up", "create": "up", "deploy": "up", "run": "demo", "test": "demo",
		"stop": "down", "delete": "down", "destroy": "down", "rm": "down",
		"ps": "status", "ls": "status", "get": "kubectl NAME -- get", "describe": "kubectl NAME -- describe",
		"boards": "board", "sensor": "sensors", "build": "assets build",
	}
}

// flagError adds a remedy to what pflag has to say.
func flagError(cmd *cobra.Command, err error) error {
	fix := "run `" + cmd.CommandPath() + " --help` for its flags"
	if unknown := (*pflag.NotExistError)(nil); errors.As(err, &unknown) {
		given := unknown.GetSpecifiedName()
		best := ""
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if len(given) > 1 && best == "" && !f.Hidden && (strings.HasPrefix(f.Name, given) || strings.HasPrefix(given, f.Name) || oneOff(given, f.Name)) {
				best = f.Name
			}
		})
		if best != "" {
			fix = "did you mean --" + best + "?"
		}
	}
	return usage(fix, "%s: %s", cmd.CommandPath(), err)
}

// oneOff tells whether b is a with one letter wrong, missing, too many or two swapped.
func oneOff(a, b string) bool {
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return len(a) <= 1 && len(b) <= 1 || len(a) == 2 && len(b) == 2 && a[0] == b[1] && a[1] == b[0]
}

// exactly is cobra.ExactArgs with names and a remedy.
func exactly(words ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		fix := "run `" + cmd.CommandPath() + " " + strings.Join(words, " ") + "`"
		switch {
		case len(args) > len(words) && len(words) == 0:
			return usage(fix, "%s takes no arguments, not %q", cmd.CommandPath(), args[0])
		case len(args) > len(words):
			return usage(fix, "%s: one argument too many: %q", cmd.CommandPath(), args[len(words)])
		case len(args) < len(words):
			return usage(fix, "%s: %s is missing", cmd.CommandPath(), words[len(args)])
		}
		return nil
	}
}

// complete suggests words for the first argument; what fails suggests nothing.
func (a *app) complete(words func(*testbed.Status) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 3*time.Second) // a shell waits
		defer cancel()
		s, err := a.describe(ctx, testbed.Options{Name: a.name})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return words(s), cobra.ShellCompDirectiveNoFileComp
	}
}

// fixedWords are what a flag takes. It fails only for a flag that does not exist.
func fixedWords(cmd *cobra.Command, flag string, words ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err)
	}
}

func componentNames(s *testbed.Status) []string {
	var out []string
	for _, c := range s.Components {
		out = append(out, c.Name)
	}
	return out
}

// kubeconfigNames are clusters, and consumers at providers.
func kubeconfigNames(s *testbed.Status) []string {
	var out []string
	for _, c := range s.Clusters {
		out = append(out, c.Name)
	}
	for _, p := range s.Providers {
		for _, c := range slices.Sorted(maps.Keys(p.ConsumerKubeconfigs)) {
			out = append(out, c+"@"+p.Name)
		}
	}
	return out
}

// lockedWriter is shared by progress, log and messages. It stays a terminal if it is one.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// terminalColumns is the width of the terminal that w is; 0 if it is none.
func terminalColumns(w io.Writer) int {
	f := terminal(w, term.IsTerminal)
	if f == nil {
		return 0
	}
	columns, _ := terminalSize(f)
	return columns
}

// terminal is the file behind w if it is a terminal that understands cursor movement.
func terminal(w io.Writer, isTerminal func(int) bool) *os.File {
	if l, ok := w.(*lockedWriter); ok {
		w = l.w
	}
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" || !isTerminal(int(f.Fd())) {
		return nil
	}
	return f
}
