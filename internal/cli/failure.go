package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/fluidos-edge/testbed/testbed"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotUp       = 3
	exitAbsent      = 4
	exitInterrupted = 130
)

var errTimeout = errors.New("the time given with --timeout is over")

// failure is an error with its exit code and remedy. Code is for programs:
// usage, input, not-up, absent, interrupted, timeout or failed.
type failure struct {
	exit    int
	code    string
	message string
	fix     string
	causes  []topology.Problem
	lines   []string // causes for people, if not their own text
	err     error
}

func (f *failure) Error() string { return f.message }
func (f *failure) Unwrap() error { return f.err }

// verdictError ends a command that has its result and an exit code other than
// 0: a failed assertion, a degraded testbed, kubectl's own.
type verdictError struct {
	exit int
	// why is for people, if the result does not show it.
	why *failure
}

func (e *verdictError) Error() string { return fmt.Sprintf("exit code %d", e.exit) }

func usage(fix, format string, args ...any) error {
	return &failure{exit: exitUsage, code: "usage", message: fmt.Sprintf(format, args...), fix: fix}
}

func badInput(fix, format string, args ...any) error {
	return &failure{exit: exitUsage, code: "input", message: fmt.Sprintf(format, args...), fix: fix}
}

// notUp is the failure of what brings something up or builds it.
func (a *app) notUp(err error, what, fix string) error {
	if err == nil || errors.Is(err, testbed.ErrAbsent) || errors.As(err, new(*testbed.InputError)) || errors.As(err, new(topology.Problems)) {
		return err
	}
	message, known := remedy(err)
	if known != "" {
		fix = known
	}
	return &failure{exit: exitNotUp, code: "not-up", message: what + ": " + message, fix: fix, err: err}
}

// remedy takes an error and what its maker knows to do about it apart; "" if nothing.
func remedy(err error) (message, fix string) {
	var known interface{ Fix() string }
	if !errors.As(err, &known) {
		return err.Error(), ""
	}
	fix = known.Fix()
	return strings.Replace(err.Error(), "\nfix: "+fix, "", 1), fix
}

// classify gives any error an exit code and a remedy.
func (a *app) classify(ctx context.Context, err error) *failure {
	var f *failure
	var problems topology.Problems
	var input *testbed.InputError
	known := errors.As(err, &f)
	switch {
	case ctx.Err() != nil:
		return &failure{exit: exitInterrupted, code: "interrupted", message: "interrupted: " + err.Error(),
			fix: "`" + a.command("status") + "` shows what runs, `" + a.command("down") + "` removes it", err: err}
	case errors.Is(err, errTimeout) || a.timeout > 0 && errors.Is(err, context.DeadlineExceeded):
		exit := exitFailed
		if known {
			exit = f.exit
		}
		return &failure{exit: exit, code: "timeout", message: fmt.Sprintf("not done within --timeout %s: %v", a.timeout, err),
			fix: "give it more time, or see `" + a.command("status") + "`", err: err}
	case known:
		return f
	case errors.As(err, &problems):
		file := ""
		if len(problems) > 0 {
			file = problems[0].File + ": "
		}
		return &failure{exit: exitUsage, code: "input", message: file + count(len(problems), "problem"), causes: problems,
			fix: "correct what is listed; nothing was begun", err: err}
	case errors.As(err, &input):
		return &failure{exit: exitUsage, code: "input", message: err.Error(), fix: "give " + input.Field + " " + input.Want,
			causes: []topology.Problem{{Field: input.Field, Value: input.Value, Want: input.Want}}, err: err}
	case errors.Is(err, testbed.ErrAbsent):
		return &failure{exit: exitAbsent, code: "absent", message: "testbed " + a.name + " is not up", fix: "`" + a.command("up") + "`", err: err}
	}
	message, fix := remedy(err)
	if fix == "" {
		fix = "see `" + a.command("status") + "`; -v logs what is done"
	}
	return &failure{exit: exitFailed, code: "failed", message: message, fix: fix, err: err}
}

// report writes a failure to stderr and returns its exit code.
func (a *app) report(ctx context.Context, err error) int {
	f := a.classify(ctx, err)
	if a.json() {
		causes := f.causes
		if causes == nil {
			causes = []topology.Problem{}
		}
		b, err := json.Marshal(map[string]any{"error": struct {
			Code    string             `json:"code"`
			Message string             `json:"message"`
			Fix     string             `json:"fix"`
			Causes  []topology.Problem `json:"causes"`
		}{f.code, f.message, f.fix, causes}})
		if err != nil {
			b = []byte(`{"error":{"code":"failed","message":"the error could not be written as JSON","fix":"","causes":[]}}`)
		}
		fmt.Fprintf(a.stderr, "%s\n", b)
		return f.exit
	}
	a.explain(f)
	return f.exit
}

// explain a failure to people.
func (a *app) explain(f *failure) {
	fmt.Fprintf(a.stderr, "error: %s\n", strings.TrimSpace(f.message))
	for _, c := range f.causes {
		if f.lines == nil && c.File != "" {
			fmt.Fprintf(a.stderr, "  %s\n", c)
		}
	}
	for _, l := range f.lines {
		fmt.Fprintf(a.stderr, "  %s\n", l)
	}
	if f.fix != "" {
		fmt.Fprintf(a.stderr, "fix: %s\n", f.fix)
	}
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
