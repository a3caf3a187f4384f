package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// identity is a process that cannot be mistaken for another one: its pid, and
// when it started.
type identity struct {
	pid   int
	start string
}

// facts are what the system says about a process.
type facts struct {
	start  string // start time, equal only for the same process
	parent int
	zombie bool
}

const (
	reapGrace = 5 * time.Second // from SIGTERM to SIGKILL
	reapEvery = 25 * time.Millisecond
)

// Reap ends every process with TESTBED_ID=id in its environment, the supervisor
// and processes of other sessions of this user included, but not the caller and
// its parents: SIGTERM, and SIGKILL 5 s later. It needs no supervisor. It returns
// when none is left; the error names those that are.
func Reap(ctx context.Context, id string) error {
	if id == "" {
		return errors.New("reap: no id given")
	}
	type seen struct {
		since  time.Time
		killed bool
	}
	found := map[identity]*seen{}
	for clean := 0; ; {
		left, err := owned(id)
		if err != nil {
			return fmt.Errorf("reap: %w", err)
		}
		// Twice, as a process may have been between fork and exec.
		if len(left) > 0 {
			clean = 0
		} else if clean++; clean == 2 {
			return nil
		}
		for _, p := range left {
			s := found[p]
			if s == nil {
				s = &seen{since: time.Now()}
				found[p] = s
				err = signal(p, id, syscall.SIGTERM)
			} else if !s.killed && time.Since(s.since) > reapGrace {
				s.killed = true
				err = signal(p, id, syscall.SIGKILL)
			}
			if err != nil {
				return fmt.Errorf("reap: %w", err)
			}
		}
		if err := wait(ctx, reapEvery); err != nil {
			pids := make([]string, len(left))
			for i, p := range left {
				pids[i] = fmt.Sprint(p.pid)
			}
			return fmt.Errorf("reap: processes of %s still run: %s: %w", id, strings.Join(pids, ", "), err)
		}
	}
}

// Owned gives the pids of the processes that Reap would end.
func Owned(id string) ([]int, error) {
	found, err := owned(id)
	pids := make([]int, len(found))
	for i, p := range found {
		pids[i] = p.pid
	}
	return pids, err
}

// owned finds testbed id's processes, except for us and our parents: with the
// variable set in a shell, that shell must survive.
func owned(id string) ([]identity, error) {
	all, err := pids()
	if err != nil {
		return nil, err
	}
	mine := map[int]bool{}
	for p := os.Getpid(); p > 1 && !mine[p]; {
		mine[p] = true
		f, err := inspect(p)
		if err != nil {
			break
		}
		p = f.parent
	}
	var out []identity
	for _, p := range all {
		if mine[p] || !marked(p, id) {
			continue
		}
		// Other users' processes cannot be read, and ended ones no longer.
		if f, err := inspect(p); err == nil && !f.zombie {
			out = append(out, identity{pid: p, start: f.start})
		}
	}
	return out, nil
}

// marked reports whether process pid belongs to testbed id.
func marked(pid int, id string) bool {
	env, err := environ(pid)
	if err != nil {
		return false
	}
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, EnvID+"="); ok {
			return v == id // the first counts, as for getenv
		}
	}
	return false
}

// alive reports whether p still runs and belongs to testbed id.
func (p identity) alive(id string) bool {
	f, err := inspect(p.pid)
	return err == nil && !f.zombie && f.start == p.start && marked(p.pid, id)
}

// signal sends sig to p if it still is what it was. It is no error if it is not.
func signal(p identity, id string, sig syscall.Signal) error {
	h, err := os.FindProcess(p.pid) // a handle of the process, not only its number, where the system has that
	if err != nil {
		return err
	}
	defer func() { _ = h.Release() }()
	if !p.alive(id) {
		return nil
	}
	if err := h.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %d to process %d: %w", sig, p.pid, err)
	}
	return nil
}
