package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pids lists all processes.
func pids() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var out []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			out = append(out, pid)
		}
	}
	return out, nil
}

// inspect reads a process' facts. Its start time is in clock ticks since boot:
// unlike a time of day it does not move when the clock is set.
func inspect(pid int) (facts, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return facts{}, err
	}
	return parseStat(string(b))
}

// parseStat reads /proc/<pid>/stat, proc(5): pid, name in parentheses (it may hold
// any character), state (field 3), parent (4), ..., start time (22).
func parseStat(s string) (facts, error) {
	i := strings.LastIndexByte(s, ')')
	if i < 0 {
		return facts{}, errors.New("stat: no process name")
	}
	f := strings.Fields(s[i+1:])
	if len(f) < 20 {
		return facts{}, fmt.Errorf("stat: %d fields after the name, want at least 20", len(f))
	}
	parent, err := strconv.Atoi(f[1])
	if err != nil {
		return facts{}, fmt.Errorf("stat: parent: %w", err)
	}
	if _, err := strconv.ParseUint(f[19], 10, 64); err != nil {
		return facts{}, fmt.Errorf("stat: start time: %w", err)
	}
	return facts{start: f[19], parent: parent, zombie: f[0] == "Z" || f[0] == "X"}, nil
}

// environ reads a process' environment as it was at its exec.
func environ(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return nil, err
	}
	return strings.Split(string(b), "\x00"), nil
}

// rss is a process' resident memory in bytes, 0 if unknown.
func rss(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// ended waits until our child pid has ended, and leaves it unreaped: until it is
// reaped nobody else can get its pid. It reports whether it could.
func ended(pid int) bool {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
}

// ownFiles keeps what we have open, beyond stdin, stdout and stderr, from our
// children. What Go opened never gets there; what we inherited (a job server of
// make, a terminal) would.
func ownFiles() {
	files, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		return
	}
	for _, f := range files {
		if fd, err := strconv.Atoi(filepath.Base(f)); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}
