package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// undoWithin is what an interrupted program gets to remove what it made.
const undoWithin = 4 * time.Minute

// program runs a program to its end and gives what it wrote to stdout. It is
// interrupted once when ctx ends, as by Ctrl-C, and awaited; a terminal's own
// Ctrl-C does not reach it, since a second one would keep it from cleaning up.
func program(ctx context.Context, argv ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = undoWithin
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w%s", strings.Join(argv, " "), err, tail(stderr.String()))
	}
	return stdout.Bytes(), err
}

// tail gives the last lines of what a program wrote, for an error.
func tail(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if lines = lines[max(0, len(lines)-10):]; lines[0] == "" {
		return ""
	}
	return ":\n" + strings.Join(lines, "\n")
}

// exitCode is that of a program that ended by itself, else -1.
func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// commit is that of the testbed program, which is what is measured.
func commit(ctx context.Context, o options) string {
	out, err := program(ctx, o.testbed, "version", "-o", "json")
	var v struct{ Commit string }
	if err != nil || json.Unmarshal(out, &v) != nil || v.Commit == "" {
		return "unknown"
	}
	return v.Commit
}

// engineProgram is the container engine's command line.
const engineProgram = "docker"

// engine runs the container engine's command line.
func engine(ctx context.Context, args ...string) (string, error) {
	out, err := program(ctx, slices.Concat([]string{engineProgram}, args)...)
	return strings.TrimSpace(string(out)), err
}

// engineAnswers is a skip if no engine does.
func engineAnswers(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(limited, engineProgram, "info", "--format", "{{.ServerVersion}}")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return skip{"there is no container engine: " + engineProgram + " is not installed"}
	case err != nil:
		return skip{fmt.Sprintf("no container engine answers: %v%s", err, tail(string(out)))}
	}
	return nil
}
