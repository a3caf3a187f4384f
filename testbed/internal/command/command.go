// Package command runs programs: by argument vector, never by a shell, and
// never beyond their time.
//
// Invariants:
//   - Nothing outlives its context: a cancelled command and everything in its
//     process group gets SIGTERM, and SIGKILL after a grace.
//   - On Linux a command dies with us even if we are killed with SIGKILL.
//     (That holds for the command itself, not for what it started.)
//   - A command has no terminal: without Stdin it reads from /dev/null, and
//     Ctrl-C reaches it only through the context.
//   - An error names the arguments and holds the last lines of output.
//
// Try it with `go test -v ./testbed/internal/command`.
package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Cmd is one command.
type Cmd struct {
	Argv  []string  // program, looked up in PATH, and its arguments
	Env   []string  // NAME=value, added to our environment, the last of a name counts
	Dir   string    // working directory; empty is ours
	Stdin io.Reader // nil is /dev/null

	// Stdout and Stderr, if set, get the output while it is written.
	// They are written to by one goroutine each, before Run returns.
	Stdout, Stderr io.Writer
}

// Result is what a command wrote.
type Result struct {
	Stdout []byte // all of it; nil where Cmd.Stdout took it
	Stderr []byte // the last 64 KiB
}

// Runner runs commands. The error of a command that ran, or could not be
// started, is an *Error; it is also returned with what was written until then.
type Runner interface {
	Run(ctx context.Context, c Cmd) (Result, error)
}

// Error is the failure of one command.
type Error struct {
	Argv []string
	Dir  string
	Code int    // exit code; -1 if it did not exit by itself
	Tail string // last lines of stderr, or of stdout if it wrote none
	Err  error  // the cause: *exec.ExitError, exec.ErrNotFound, the context's cause, ...
}

// Error gives arguments, cause and the last lines of output.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(quote(e.Argv))
	if e.Dir != "" {
		fmt.Fprintf(&b, " (in %s)", e.Dir)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	if e.Tail != "" {
		b.WriteString(":\n" + e.Tail)
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// quote renders arguments for people: those with anything unusual in them in
// Go's quotes.
func quote(argv []string) string {
	out := make([]string, len(argv))
	for i, a := range argv {
		out[i] = a
		if a == "" || strings.ContainsAny(a, " \t\n\"'`$\\") {
			out[i] = strconv.Quote(a)
		}
	}
	return strings.Join(out, " ")
}

const (
	tailBytes = 64 << 10
	tailLines = 20
)

// Tail gives the last n lines of text, without blank lines at the end.
func Tail(text []byte, n int) string {
	lines := strings.Split(strings.TrimRight(string(text), " \t\r\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

// Local runs commands on this machine. Its zero value is ready for use.
type Local struct {
	Grace time.Duration // between SIGTERM and SIGKILL; 0 is 5 s
}

// Run runs c to its end, or ends it when ctx does.
func (l Local) Run(ctx context.Context, c Cmd) (Result, error) {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return Result{}, errors.New("command: no program given")
	}
	fail := func(code int, out, errOut []byte, err error) error {
		if len(bytes.TrimSpace(errOut)) == 0 {
			errOut = out
		}
		return &Error{Argv: c.Argv, Dir: c.Dir, Code: code, Tail: Tail(errOut, tailLines), Err: err}
	}
	if ctx.Err() != nil {
		return Result{}, fail(-1, nil, nil, context.Cause(ctx))
	}
	grace := l.Grace
	if grace <= 0 {
		grace = 5 * time.Second
	}
	cmd := exec.Command(c.Argv[0], c.Argv[1:]...)
	cmd.Dir, cmd.Stdin = c.Dir, c.Stdin
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.SysProcAttr = attributes()
	// What the command left behind may hold the pipes open: don't wait for it.
	cmd.WaitDelay = grace
	var stdout bytes.Buffer
	stderr := &tail{max: tailBytes, next: c.Stderr}
	cmd.Stdout, cmd.Stderr = &stdout, stderr
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}

	started, done := make(chan error, 1), make(chan error, 1)
	go func() {
		// The child gets its signal when the *thread* that forked it ends, so
		// that thread has to stay until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			done <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return Result{}, fail(-1, nil, nil, err)
	}
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		end(cmd.Process.Pid, grace, done)
		err = context.Cause(ctx)
	}
	res := Result{Stderr: stderr.bytes()}
	if c.Stdout == nil {
		res.Stdout = stdout.Bytes()
	}
	if err == nil {
		return res, nil
	}
	code := -1
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	}
	return res, fail(code, res.Stdout, res.Stderr, err)
}

// end ends the process group pid and waits for its leader.
func end(pid int, grace time.Duration, done <-chan error) {
	_ = syscall.Kill(-pid, syscall.SIGTERM)
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-done:
		_ = syscall.Kill(-pid, syscall.SIGKILL) // what the leader left
		return
	case <-t.C:
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	<-done
}

// tail keeps the last max bytes written to it, and passes all on to next.
type tail struct {
	max  int
	next io.Writer

	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	t.buf = append(t.buf, p...)
	if len(t.buf) > 2*t.max {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-t.max:]...)
	}
	t.mu.Unlock()
	if t.next != nil {
		return t.next.Write(p)
	}
	return len(p), nil
}

func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.buf
	if len(b) > t.max {
		b = b[len(b)-t.max:]
	}
	return bytes.Clone(b)
}
