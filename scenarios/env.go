package scenarios

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	rules "github.com/fluidos-edge/testbed/controllers/api/rules/v1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/scenarios/boards"
	"github.com/fluidos-edge/testbed/scenarios/ledger"
	"github.com/fluidos-edge/testbed/scenarios/sink"
	"github.com/fluidos-edge/testbed/testbed"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// Env is what assertions run against. Its fields may be changed between NewEnv
// and the first Run, to put something between the parts of a testbed. It is not
// for concurrent use.
type Env struct {
	Testbed, Backend, Edge string
	// Run is the id that labels the DataPaths of this run; Run makes a new one.
	Run      string
	Topology *topology.Topology
	// Sensors on offer. Run takes them from the boards, where these answer.
	Sensors   []Sensor
	Consumers []Consumer
	Providers []Provider
	// Components tells what runs, for results that are no pass; nil tells nothing.
	Components func(context.Context) ([]testbed.Component, error)
	// LockFile keeps two runs on one testbed apart, so that a DataPath of
	// another run is one that a killed run left. Empty: no lock.
	LockFile string
	// Samples of each stream that are judged at least; default 20.
	Samples int
	// Patience is how long what looks wrong must last to count; default 5 s.
	Patience time.Duration
	// LeaveGrace is how long after it left a consumer may still get what was emitted
	// meanwhile; default 5 s.
	LeaveGrace time.Duration
	// RuleGrace is how long Rules that nobody needs any more may stay; default 20 s.
	RuleGrace time.Duration
	// Flush is how often the sinks' Telegraf writes; default 200 ms. A verdict that holds
	// is looked at again after two of it.
	Flush time.Duration

	// What belongs to one run.
	session  *session
	unlock   func()
	failed   map[string]error // why sessions could not be opened, by key
	unjudged []string         // IDs of assertions that could not be judged
	judged   []judged         // all windows
	warnings []string         // what went wrong with boards before anything was judged
	events   []boards.Line    // of the boards' journals, from sessions that are closed
}

// Consumer is one consumer's sink.
type Consumer struct {
	Name string
	// Endpoints are all of its listeners, the witness included.
	Endpoints []Endpoint
	// Journal is the file with a line for each arrival.
	Journal string
	Store   Store
}

// Endpoint is one listener of a sink.
type Endpoint struct {
	Name, URL string
}

// Store is what a sink has stored.
type Store interface {
	// Stored returns the samples at some endpoints with a time from since on.
	Stored(ctx context.Context, since time.Time, endpoints ...string) ([]ledger.Sample, error)
	// Last returns by uid the time in ns of the last sample at an endpoint, of those with
	// a time from since on.
	Last(ctx context.Context, endpoint string, since time.Time) (map[string]int64, error)
}

// BoardControl is the control API of a provider's boards.
type BoardControl interface {
	Boards(ctx context.Context) ([]boards.State, error)
	Declare(ctx context.Context, board, part string, d boards.Declared) error
}

// Provider is one provider's cluster.
type Provider struct {
	Name string
	// Namespace of Flavors and Rules.
	Namespace string
	// Admin reads Flavors, Rules and Nodes.
	Admin client.Reader
	// DataPaths is by consumer what writes DataPaths with that consumer's rights.
	DataPaths map[string]client.Client
	// Journals of the provider's mappers, by node.
	Journals map[string]string
	// BoardsJournal is the file with what its boards measured and emitted.
	BoardsJournal string
	// Boards is nil if the boards cannot be asked.
	Boards BoardControl
}

// witness of a consumer; false if its sink has none.
func (c Consumer) witness() (Endpoint, bool) { return c.endpoint(topology.WitnessEndpoint) }

func (c Consumer) endpoint(name string) (Endpoint, bool) {
	i := slices.IndexFunc(c.Endpoints, func(e Endpoint) bool { return e.Name == name })
	if i < 0 {
		return Endpoint{}, false
	}
	return c.Endpoints[i], true
}

// own endpoints of a consumer, without the witness.
func (c Consumer) own() []Endpoint {
	return slices.DeleteFunc(slices.Clone(c.Endpoints), func(e Endpoint) bool { return e.Name == topology.WitnessEndpoint })
}

const (
	// leastSamples of each stream are judged.
	leastSamples = 20
	// patience is how long what looks wrong may turn right: a selection, or a
	// sample that another endpoint's queue holds when the witness has seen it.
	patience = 5 * time.Second
	// leaveGrace is what a consumer that left is promised.
	leaveGrace = 5 * time.Second
	// ruleGrace bounds how long Rules of an earlier session may stay.
	ruleGrace = 20 * time.Second
	// flushInterval of the sinks' Telegraf, as testbeds configure it.
	flushInterval = 200 * time.Millisecond
)

// NewEnv prepares assertions against a testbed that runs.
func NewEnv(s *testbed.Status) (*Env, error) {
	if s.Topology == nil {
		return nil, fmt.Errorf("testbed %s: its topology is not known", s.Name)
	}
	e := &Env{
		Testbed: s.Name, Backend: s.Backend, Edge: s.Edge,
		Topology: s.Topology, Sensors: sensorsOf(s.Topology), Samples: leastSamples, Patience: patience, LeaveGrace: leaveGrace, RuleGrace: ruleGrace, Flush: flushInterval,
		Components: func(ctx context.Context) ([]testbed.Component, error) {
			now, err := testbed.Describe(ctx, testbed.Options{Name: s.Name})
			if err != nil {
				return nil, err
			}
			return now.Components, nil
		},
	}
	if s.StateDir != "" {
		e.LockFile = filepath.Join(s.StateDir, "scenarios.lock")
	}
	for _, c := range s.Consumers {
		own := Consumer{
			Name: c.Name, Journal: c.Journal,
			Store: sink.NewStore(c.InfluxDB.URL, c.InfluxDB.Token, c.InfluxDB.Org, c.InfluxDB.Bucket),
		}
		for _, a := range c.Endpoints {
			own.Endpoints = append(own.Endpoints, Endpoint{Name: a.Name, URL: a.URL})
		}
		e.Consumers = append(e.Consumers, own)
	}
	for _, a := range s.Providers {
		p := Provider{Name: a.Name, Namespace: a.Namespace, DataPaths: map[string]client.Client{}, Journals: map[string]string{},
			BoardsJournal: a.BoardsJournal, Boards: boards.NewControl(a.BoardsControl)}
		for _, m := range a.Mappers {
			p.Journals[m.Node] = m.Journal
		}
		admin, err := newClient(a.AdminKubeconfig)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.Name, err)
		}
		p.Admin = admin
		for consumer, kubeconfig := range a.ConsumerKubeconfigs {
			if p.DataPaths[consumer], err = newClient(kubeconfig); err != nil {
				return nil, fmt.Errorf("%s at %s: %w", consumer, a.Name, err)
			}
		}
		e.Providers = append(e.Providers, p)
	}
	return e, nil
}

// begin a new run, once no other is under way on this testbed: what another run sets on
// a board must not be taken for what the board declares.
func (e *Env) begin(ctx context.Context) (err error) {
	id := make([]byte, 4)
	_, _ = rand.Read(id) // never fails
	e.Run, e.failed = hex.EncodeToString(id), map[string]error{}
	e.unjudged, e.judged, e.warnings, e.events = nil, nil, nil, nil
	if e.unlock, err = e.lock(ctx); err != nil {
		return err
	}
	if err := e.undoKilledRun(ctx); err != nil {
		e.warnings = append(e.warnings, err.Error())
	}
	e.askBoards(ctx)
	return nil
}

// end of a run.
func (e *Env) end(ctx context.Context) error {
	defer func() {
		if e.unlock != nil {
			e.unlock()
		}
		e.unlock = nil
	}()
	if e.session == nil {
		return nil
	}
	return e.session.close(ctx)
}

// askBoards takes up what the boards of each provider offer and declare now: some may
// have joined, and somebody may have set something, since the topology was written.
// Without an answer the topology counts; if the boards are gone, there will be no data
// either.
func (e *Env) askBoards(ctx context.Context) {
	all := sensorsOf(e.Topology)
	for _, spec := range e.Topology.Providers {
		p := e.providerNamed(spec.Name)
		if p.Boards == nil {
			continue
		}
		told, err := p.Boards.Boards(ctx)
		if err != nil {
			e.warnings = append(e.warnings, fmt.Sprintf("the boards of %s were not asked what they offer, the topology counts: %v", p.Name, err))
			continue
		}
		all = slices.DeleteFunc(all, func(s Sensor) bool { return s.Provider == p.Name })
		all = append(all, sensorsAsTold(spec, told)...)
	}
	e.Sensors = inOrder(all)
}

// sensor by its uid.
func (e *Env) sensor(uid string) (Sensor, bool) {
	i := slices.IndexFunc(e.Sensors, func(s Sensor) bool { return s.UID == uid })
	if i < 0 {
		return Sensor{}, false
	}
	return e.Sensors[i], true
}

// label of a sensor for people, by its uid.
func (e *Env) label(uid string) string {
	if s, ok := e.sensor(uid); ok {
		return s.String()
	}
	return "the unknown sensor " + uid
}

// labelName of a sensor for people, by the name that a provider's objects have for it.
func (e *Env) labelName(provider, name string) string {
	for _, s := range e.Sensors {
		if s.Provider == provider && s.name() == name {
			return s.String()
		}
	}
	return name
}

// sensorName of a uid.
func (e *Env) sensorName(uid string) SensorName {
	if s, ok := e.sensor(uid); ok {
		return SensorName{Sensor: s.Board + "/" + s.Part, Device: s.Device, UID: uid}
	}
	return SensorName{Sensor: "unknown", UID: uid}
}

func newClient(kubeconfig string) (client.Client, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", kubeconfig, err)
	}
	cfg.QPS, cfg.Burst = 100, 200
	cfg.Timeout = 20 * time.Second
	cfg.UserAgent = "scenarios"
	cfg.WarningHandler = rest.NoWarnings{}
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), sensors.AddToScheme(scheme), nodecore.AddToScheme(scheme), rules.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", kubeconfig, err)
	}
	return c, nil
}
