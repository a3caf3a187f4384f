// Package backend is what all backends of a testbed have in common: what the
// façade asks of one, where a testbed's things are on this host, what a sink and
// the boards read, and how to tell that every sensor is on offer. A backend
// itself is a package below this one.
//
// Invariants:
//   - Everything is derived from the record (package state): the same record
//     gives the same files, so that bringing up what runs changes nothing.
//   - Journals, sockets and kubeconfigs lie at the same path on every backend, for
//     the scenarios read them from this host.
package backend

import (
	"context"
	"time"
)

// Backend brings one testbed about on one kind of cluster.
type Backend interface {
	// Up starts what is missing, restarts what differs, stops what is no longer
	// described, and returns once every sensor is on offer. Each phase goes through step.
	Up(ctx context.Context, step Step) error
	// Down ends all of it, also after a killed Up. It is no error if nothing is there.
	Down(ctx context.Context) error
	// Status says what runs. It changes nothing.
	Status(ctx context.Context) (Status, error)
	// Layout says where things are, whether or not they run.
	Layout() Layout
}

// Step runs one phase of Up and reports it; say replaces its detail. ctx is
// what the phase runs under: if it has ended, the phase was stopped, and is not
// to blame.
type Step func(ctx context.Context, phase string, run func(say func(string)) error) error

// Status is what runs of a testbed.
type Status struct {
	// Running is false if nothing of the testbed is there.
	Running bool
	// Ready tells of each cluster whether its control plane is.
	Ready      map[string]bool
	Components []Component
}

// Component is one running piece.
type Component struct {
	Name     string // <cluster>/<name>[/<node>]
	Ready    bool
	PID      int // 0 if it is no process of this host's own
	URL      string
	Log      string
	RSSBytes int64
	Reason   string
	Args     []string
	External bool
	Restarts int
	// StartedAt is when its present run began, zero if it does not run or is External.
	StartedAt time.Time
	// LastEnd is how its last run ended, "ended with signal: killed after 3s"; empty if
	// that is not known.
	LastEnd string
}
