package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gofrs/flock"
)

// Exit codes of Run, as the testbed's own.
const (
	exitError       = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// options are what rows may ask for.
type options struct {
	testbed, boards string // our programs
	edge            string
	say             func(string)
}

// preparation readies the comparisons of a row and says how that is undone, which
// is called whatever happens after.
type preparation func(ctx context.Context, o options) (all []Comparison, undo func() error, err error)

// rows are all that can be measured, in the order of the table.
var rows = []struct {
	name    string
	prepare preparation
}{
	{"kind-up", prepareKindUp},
	{"boards", prepareBoards},
}

// skip is why a row cannot be measured here; it is no error.
type skip struct{ reason string }

func (s skip) Error() string { return s.reason }

// Run is the command: it measures, prints a table to stdout and writes JSON. It
// returns the exit code, 0 also for goals that were missed.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	o := options{say: func(s string) { fmt.Fprintln(stderr, s) }}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	row := flags.String("row", strings.Join(names, ","), "rows to measure")
	n := flags.Int("n", MinPairs, fmt.Sprintf("pairs of runs; fewer than %d decide nothing", MinPairs))
	flags.StringVar(&o.edge, "edge", "hollow", "edge runtime of kind-up: hollow or kubeedge")
	file := flags.String("o", "bench.json", "`file` for the rows as JSON")
	flags.StringVar(&o.testbed, "testbed", beside("testbed"), "the testbed `program`")
	flags.StringVar(&o.boards, "boards", beside("boards"), "the boards `program`")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return exitUsage
	}
	wanted := strings.Split(*row, ",")
	usage := ""
	for _, w := range wanted {
		if !slices.Contains(names, w) {
			usage = fmt.Sprintf("-row %s: there are %s", w, strings.Join(names, ", "))
		}
	}
	switch {
	case flags.NArg() > 0:
		usage = fmt.Sprintf("argument %q: there are only flags", flags.Arg(0))
	case *n < 1:
		usage = fmt.Sprintf("-n %d: want 1 or more", *n)
	case o.edge != "hollow" && o.edge != "kubeedge":
		usage = fmt.Sprintf("-edge %s: want hollow or kubeedge", o.edge)
	}
	if usage != "" {
		fmt.Fprintln(stderr, "error: "+usage)
		return exitUsage
	}
	var measured []Row
	err := alone(func() error {
		var errs []error
		for _, r := range rows {
			if !slices.Contains(wanted, r.name) || ctx.Err() != nil {
				continue
			}
			done, err := measure(ctx, r.prepare, *n, o)
			measured = append(measured, done...)
			switch reason := (skip{}); {
			case errors.As(err, &reason):
				o.say("skipped: " + r.name + ": " + reason.reason)
			case err != nil:
				errs = append(errs, err)
			}
		}
		// What was measured is kept, whatever became of the rest.
		return errors.Join(append(errs, WriteFile(*file, measured))...)
	})
	if len(measured) > 0 {
		fmt.Fprint(stdout, Table(measured))
	}
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "interrupted:", err)
		return exitInterrupted
	case err != nil:
		fmt.Fprintln(stderr, "error:", err)
		return exitError
	}
	return 0
}

func measure(ctx context.Context, prepare preparation, n int, o options) (rows []Row, err error) {
	all, undo, err := prepare(ctx, o)
	if undo != nil {
		defer func() { err = errors.Join(err, undo()) }()
	}
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		pairs, err := Measure(ctx, c, n, o.say)
		if err != nil {
			return rows, err
		}
		rows = append(rows, Judge(c, pairs, commit(ctx, o)))
	}
	return rows, nil
}

// alone runs f unless this user measures already: two at once measure each
// other, and remove each other's clusters. The lock is the home folder itself,
// so it leaves nothing behind.
func alone(f func() error) error {
	home, err := os.UserHomeDir()
	if err != nil {
		return err
	}
	l := flock.New(home, flock.SetFlag(os.O_RDONLY))
	got, err := l.TryLock()
	if err != nil {
		return fmt.Errorf("lock %s: %w", home, err)
	}
	if !got {
		return errors.New("another bench is running")
	}
	defer l.Close()
	return f()
}

// beside is a program in the folder of this one.
func beside(name string) string {
	self, err := os.Executable()
	if err != nil {
		return name
	}
	return filepath.Join(filepath.Dir(self), name)
}
