//go:build unix && !linux

package process

import (
	"slices"
	"strconv"

	"github.com/shirou/gopsutil/v4/process"
)

// pids lists all processes.
func pids() ([]int, error) {
	all, err := process.Pids()
	out := make([]int, len(all))
	for i, p := range all {
		out[i] = int(p)
	}
	return out, err
}

// inspect reads a process' facts.
func inspect(pid int) (facts, error) {
	p, err := process.NewProcess(int32(pid))
	if err != nil {
		return facts{}, err
	}
	created, err := p.CreateTime()
	if err != nil {
		return facts{}, err
	}
	parent, err := p.Ppid()
	if err != nil {
		return facts{}, err
	}
	status, err := p.Status()
	if err != nil {
		return facts{}, err
	}
	return facts{start: strconv.FormatInt(created, 10), parent: int(parent), zombie: slices.Contains(status, process.Zombie)}, nil
}

// environ reads a process' environment.
func environ(pid int) ([]string, error) {
	p, err := process.NewProcess(int32(pid))
	if err != nil {
		return nil, err
	}
	return p.Environ()
}

// rss is a process' resident memory in bytes, 0 if unknown.
func rss(pid int) int64 {
	p, err := process.NewProcess(int32(pid))
	if err != nil {
		return 0
	}
	m, err := p.MemoryInfo()
	if err != nil {
		return 0
	}
	return int64(m.RSS)
}

// ended returns at once: there is no way here to wait without reaping.
func ended(int) bool { return false }

// ownFiles does nothing here.
func ownFiles() {}
