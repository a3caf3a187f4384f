package command_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
)

// TestMain makes this binary its own set of small programs.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || os.Args[1] != "helper" {
		os.Exit(m.Run())
	}
	args := os.Args[3:]
	switch os.Args[2] {
	case "fail": // fail CODE LINES...
		for _, l := range args[1:] {
			fmt.Fprintln(os.Stderr, l)
		}
		code, _ := strconv.Atoi(args[0])
		os.Exit(code)
	case "cat":
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "env":
		wd, _ := os.Getwd()
		fmt.Println(os.Getenv("GREETING"), wd)
	case "stubborn": // ignores SIGTERM, as does its child; both say their pid
		signal.Ignore(syscall.SIGTERM)
		if len(args) == 0 {
			child := exec.Command(os.Args[0], "helper", "stubborn", "leaf")
			child.Stdout, child.Stderr = os.Stdout, os.Stderr
			_ = child.Start()
		}
		fmt.Println(os.Getpid())
		_, _ = io.Copy(io.Discard, blocked{})
	case "polite": // ends with 7 on SIGTERM
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println(os.Getpid())
		<-c
		fmt.Fprintln(os.Stderr, "asked to end")
		os.Exit(7)
	case "parent": // runs "stubborn leaf" by Local
		_, _ = command.Local{}.Run(context.Background(), command.Cmd{
			Argv: []string{os.Args[0], "helper", "stubborn", "leaf"}, Stdout: os.Stdout})
	}
	os.Exit(0)
}

// blocked is a Reader that never returns.
type blocked struct{}

func (blocked) Read([]byte) (int, error) { <-make(chan struct{}); return 0, io.EOF }

func helper(args ...string) []string {
	return append([]string{os.Args[0], "helper"}, args...)
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		name string
		cmd  command.Cmd
		want string
		code int
		err  []string // parts of the error
	}{
		{name: "stdin to stdout", cmd: command.Cmd{Argv: helper("cat"), Stdin: strings.NewReader("hello\n")}, want: "hello\n"},
		{name: "no stdin is empty", cmd: command.Cmd{Argv: helper("cat")}},
		{name: "env and dir", cmd: command.Cmd{Argv: helper("env"), Env: []string{"GREETING=a", "GREETING=b"}, Dir: dir}, want: "b " + dir + "\n"},
		{name: "error has arguments, code and lines", cmd: command.Cmd{Argv: helper("fail", "3", "first", "last words")}, code: 3,
			err: []string{"helper fail 3 first \"last words\": exit status 3", "first\nlast words"}},
		{name: "no such program", cmd: command.Cmd{Argv: []string{"no-such-program-here", "x"}}, code: -1,
			err: []string{"no-such-program-here x: ", "not found"}},
		{name: "no such folder", cmd: command.Cmd{Argv: helper("cat"), Dir: dir + "/none"}, code: -1, err: []string{"/none", "no such file"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res, err := command.Local{}.Run(t.Context(), tc.cmd)
			if diff := cmp.Diff(tc.want, string(res.Stdout)); diff != "" {
				t.Errorf("stdout (-want +got):\n%s", diff)
			}
			if tc.err == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var e *command.Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v, want a *command.Error", err)
			}
			if e.Code != tc.code {
				t.Errorf("code %d, want %d", e.Code, tc.code)
			}
			for _, part := range tc.err {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not hold %q", err, part)
				}
			}
		})
	}
}

func TestRunWithoutProgram(t *testing.T) {
	if _, err := (command.Local{}).Run(t.Context(), command.Cmd{}); err == nil {
		t.Error("ran nothing without an error")
	}
}

func TestMissingProgramIsNotFound(t *testing.T) {
	_, err := command.Local{}.Run(t.Context(), command.Cmd{Argv: []string{"no-such-program-here"}})
	if !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("got %v, want exec.ErrNotFound in it", err)
	}
}

func TestTailOfLongOutput(t *testing.T) {
	argv := helper("fail", "1")
	for i := range 300 {
		argv = append(argv, fmt.Sprintf("line %d %s", i, strings.Repeat("x", 300)))
	}
	var live bytes.Buffer
	res, err := command.Local{}.Run(t.Context(), command.Cmd{Argv: argv, Stderr: &live})
	var e *command.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a *command.Error", err)
	}
	if n := strings.Count(e.Tail, "\n") + 1; n != 20 || !strings.HasPrefix(e.Tail, "line 280 ") {
		t.Errorf("tail has %d lines and begins with %.9s, want 20 from line 280", n, e.Tail)
	}
	if len(res.Stderr) != 64<<10 {
		t.Errorf("kept %d bytes of stderr, want 64 KiB", len(res.Stderr))
	}
	if n := strings.Count(live.String(), "\n"); n != 300 {
		t.Errorf("live writer got %d lines, want 300", n)
	}
}

func TestCancelAsksFirst(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	pr, pw := io.Pipe()
	reason := errors.New("no longer wanted")
	go func() { _ = pid(t, bufio.NewScanner(pr)); cancel(reason) }()
	_, err := command.Local{Grace: time.Minute}.Run(ctx, command.Cmd{Argv: helper("polite"), Stdout: pw})
	if !errors.Is(err, reason) || !strings.Contains(err.Error(), "asked to end") {
		t.Errorf("got %v, want the cause and the last words", err)
	}
}

func TestCancelKillsTheGroup(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	pr, pw := io.Pipe()
	pids := make(chan [2]int, 1)
	go func() {
		s := bufio.NewScanner(pr)
		pids <- [2]int{pid(t, s), pid(t, s)}
		cancel()
	}()
	_, err := command.Local{Grace: 50 * time.Millisecond}.Run(ctx, command.Cmd{Argv: helper("stubborn"), Stdout: pw})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	for _, p := range <-pids {
		gone(t, p)
	}
}

func TestCancelledBeforeStart(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (command.Local{}).Run(ctx, command.Cmd{Argv: helper("cat")}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// A command does not outlive a runner that is killed without a chance to act.
func TestDiesWithItsRunner(t *testing.T) {
	parent := exec.Command(os.Args[0], "helper", "parent")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	child := pid(t, bufio.NewScanner(out))
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	gone(t, child)
}

func TestFake(t *testing.T) {
	boom := errors.New("boom")
	f := &command.Fake{Answer: func(_ context.Context, c command.Cmd) (command.Result, error) {
		if c.Argv[1] == "bad" {
			return command.Result{Stderr: []byte("what happened\n")}, boom
		}
		return command.Result{Stdout: []byte("ok")}, nil
	}}
	var r command.Runner = f
	if res, err := r.Run(t.Context(), command.Cmd{Argv: []string{"x", "good"}}); err != nil || string(res.Stdout) != "ok" {
		t.Errorf("got %q, %v", res.Stdout, err)
	}
	_, err := r.Run(t.Context(), command.Cmd{Argv: []string{"x", "bad"}})
	if diff := cmp.Diff("x bad: boom:\nwhat happened", fmt.Sprint(err)); diff != "" || !errors.Is(err, boom) {
		t.Error(diff)
	}
	var got [][]string
	for _, c := range f.Calls() {
		got = append(got, c.Argv)
	}
	if diff := cmp.Diff([][]string{{"x", "good"}, {"x", "bad"}}, got); diff != "" {
		t.Error(diff)
	}
}

// pid reads a process id from the next line.
func pid(t *testing.T, s *bufio.Scanner) int {
	if !s.Scan() {
		t.Errorf("no pid: %v", s.Err())
		return 0
	}
	n, err := strconv.Atoi(s.Text())
	if err != nil {
		t.Error(err)
	}
	return n
}

// gone waits until process pid has ended (init may take a moment to reap it).
func gone(t *testing.T, pid int) {
	t.Helper()
	if pid == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("process %d still runs: %s", pid, stat)
		}
	}
}
