// Package testbed brings a whole testbed up, says what runs, and takes it down.
// It is the façade over the backends; programs and tests use this package, and
// nothing below it.
//
//	status, err := testbed.Up(ctx, testbed.Options{Name: "default"})
//	defer testbed.Down(context.WithoutCancel(ctx), testbed.Options{Name: "default"})
//
// A testbed belongs to the user who brought it up: its state is under
// $XDG_STATE_HOME/testbed/<name>, what it has built under
// $XDG_CACHE_HOME/testbed. Up is idempotent: what runs as asked is kept. A
// failed or cancelled Up undoes what it made.
package testbed

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/fluidos-edge/testbed/testbed/topology"
)

// DefaultName is the testbed that is meant when none is named.
const DefaultName = "default"

// ErrAbsent says that there is no testbed of this name.
var ErrAbsent = errors.New("no such testbed")

// InputError is bad input: nothing was begun.
type InputError struct {
	Field, Value, Want string
}

func (e *InputError) Error() string {
	return fmt.Sprintf("%s: %q: want %s", e.Field, e.Value, e.Want)
}

// Options say which testbed is meant and how to bring it up.
type Options struct {
	// Name of the testbed, a DNS label; default DefaultName.
	Name string
	// Topology that Up brings about. Nil means what runs already, or
	// topology.Default.
	Topology *topology.Topology
	// Backend is what clusters run on, "embedded" or "kind", and Edge the edge
	// runtime, "hollow" or "kubeedge". Empty or "auto": what the testbed has
	// already, or what Choose chooses.
	Backend, Edge string
	// Chosen is told which backend and edge runtime it is, before anything is done.
	Chosen func(Choice)
	// Images is a folder with archives of images, looked into before any registry.
	Images string
	// BinDir holds our binaries; default the folder of this executable.
	BinDir string
	// Retain leaves what a failed Up made, to look at.
	Retain bool
	// External names components that somebody else runs, in a debugger or a
	// test: they are given ports, credentials and arguments, but not started.
	External []string
	// Progress is told of every phase; nil tells nobody. It must not block.
	Progress func(Event)
	// Log is for the curious; nil discards.
	Log *slog.Logger
}

// Event is the progress of one phase of Up or Down.
type Event struct {
	Phase string
	// State is start, progress, done or fail.
	State  string
	Detail string
	// Fraction done, 0 to 1; negative if unknown.
	Fraction float64
	// Left is the time that is left, zero if unknown.
	Left time.Duration
	// Seconds since the phase started.
	Seconds float64
}

// Phases of a testbed.
const (
	PhaseReady    = "Ready"
	PhaseStarting = "Starting"
	PhaseDegraded = "Degraded"
	PhaseAbsent   = "Absent"
)

// Status is what runs and how to reach it.
type Status struct {
	Name       string      `json:"name"`
	Phase      string      `json:"phase"`
	Backend    string      `json:"backend"`
	Edge       string      `json:"edge"`
	Clusters   []Cluster   `json:"clusters"`
	Components []Component `json:"components"`
	Phases     []PhaseTime `json:"phases"`

	// What programs need, and people do not read.
	Topology  *topology.Topology `json:"-"`
	StateDir  string             `json:"-"`
	Consumers []ConsumerAccess   `json:"-"`
	Providers []ProviderAccess   `json:"-"`
}

// Cluster is one Kubernetes cluster.
type Cluster struct {
	Name       string `json:"name"`
	Role       string `json:"role"`
	Ready      bool   `json:"ready"`
	Server     string `json:"server"`
	Kubeconfig string `json:"kubeconfig"`
}

// Component is one running piece.
type Component struct {
	Name     string `json:"name"`
	Ready    bool   `json:"ready"`
	PID      int    `json:"pid"`
	URL      string `json:"url"`
	Log      string `json:"log"`
	RSSBytes int64  `json:"rssBytes"`
	Reason   string `json:"reason"`

	// Args are the component's arguments; External is true if somebody else runs it.
	Args     []string `json:"-"`
	External bool     `json:"-"`
	// Restarts counts starts beyond the first, of what restarts by itself.
	Restarts int `json:"-"`
	// StartedAt is when its present run began; zero if that is not known.
	StartedAt time.Time `json:"startedAt,omitzero"`
	// LastEnd is how its last run ended, "ended with signal: killed after 3s"; empty if
	// it is the first, or that is not known.
	LastEnd string `json:"lastEnd,omitempty"`
}

// PhaseTime is how long one phase of the last Up took.
type PhaseTime struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// ConsumerAccess is how to reach a consumer's sink with the consumer's own credentials.
type ConsumerAccess struct {
	Name      string
	InfluxDB  InfluxDBAccess
	Endpoints []EndpointAccess
	// Journal is the file with a line for each arrival at any of the endpoints.
	Journal string
}

// InfluxDBAccess is what influxdb-client-go wants; Token may only read.
type InfluxDBAccess struct {
	URL, Token, Org, Bucket string
}

// EndpointAccess is one listener of a sink.
type EndpointAccess struct {
	Name, URL string
}

// ProviderAccess is how to reach a provider.
type ProviderAccess struct {
	Name string
	// Namespace of Devices, Flavors and Rules.
	Namespace       string
	AdminKubeconfig string
	// ConsumerKubeconfigs by consumer: each can do nothing but keep DataPaths in
	// the namespace of that consumer's name.
	ConsumerKubeconfigs map[string]string
	Mappers             []MapperAccess
	// BoardsJournal is the file with what the boards measured and emitted, and
	// BoardsControl the unix socket of their control API.
	BoardsJournal, BoardsControl string
}

// MapperAccess is one mapper's journal of what it published.
type MapperAccess struct {
	Node, Journal string
}
