package scenarios

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	rules "github.com/fluidos-edge/testbed/controllers/api/rules/v1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
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
	Run       string
	Topology  *topology.Topology
	Sensors   []Sensor
	Consumers []Consumer
	Providers []Provider
	// LockFile keeps two runs on one testbed apart, so that a DataPath of
	// another run is one that a killed run left. Empty: no lock.
	LockFile string
	// Samples of each stream that are judged at least; default 20.
	Samples int
	// Patience is how long what looks wrong must last to count; default 5 s.
	Patience time.Duration

	gathered map[string]*evidence
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
	// Last returns by uid the last seq at an endpoint with a time from since on.
	Last(ctx context.Context, endpoint string, since time.Time) (map[string]int64, error)
}

// Provider is one provider's cluster.
type Provider struct {
	Name string
	// Namespace of Flavors and Rules.
	Namespace string
	// Admin reads Flavors and Rules.
	Admin client.Reader
	// DataPaths is by consumer what writes DataPaths with that consumer's rights.
	DataPaths map[string]client.Client
	// Journals of the provider's mappers, by node.
	Journals map[string]string
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

// NewEnv prepares assertions against a testbed that runs.
func NewEnv(ctx context.Context, s *testbed.Status) (*Env, error) {
	if s.Topology == nil {
		return nil, fmt.Errorf("testbed %s: its topology is not known", s.Name)
	}
	e := &Env{
		Testbed: s.Name, Backend: s.Backend, Edge: s.Edge,
		Topology: s.Topology, Sensors: sensorsOf(s.Topology), Samples: leastSamples, Patience: patience,
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
		p := Provider{Name: a.Name, Namespace: a.Namespace, DataPaths: map[string]client.Client{}, Journals: map[string]string{}}
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
	for _, c := range s.Components {
		if provider, ok := strings.CutSuffix(c.Name, "/boards"); ok {
			e.readBoards(ctx, provider, flagValue(c.Args, "control"))
		}
	}
	e.begin()
	return e, nil
}

// begin a new run.
func (e *Env) begin() {
	id := make([]byte, 4)
	_, _ = rand.Read(id) // never fails
	e.Run, e.gathered = hex.EncodeToString(id), map[string]*evidence{}
}

// readBoards takes up what the boards of a provider declare now: a person may
// have set something since the topology was written. Without an answer the
// topology counts; if the boards are gone, there will be no data either.
func (e *Env) readBoards(ctx context.Context, provider, socket string) {
	if socket == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://boards/v1/boards", nil)
	if err != nil {
		return
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	var boards []struct {
		Name  string                     `json:"name"`
		Parts []nodecore.Characteristics `json:"parts"`
	}
	if resp.StatusCode != http.StatusOK || json.NewDecoder(resp.Body).Decode(&boards) != nil {
		return
	}
	for i := range e.Sensors {
		s := &e.Sensors[i]
		for _, b := range boards {
			if s.Provider != provider || s.Board != b.Name {
				continue
			}
			for _, c := range b.Parts {
				if strings.EqualFold(c.Model, s.Part) {
					if rate, err := strconv.ParseFloat(c.SamplingRate, 64); err == nil && rate > 0 {
						s.Rate = rate
					}
					s.Manufacturer, s.Latency, s.LatencyUnit = c.Manufacturer, c.Latency, c.Properties.Unit.Latency
				}
			}
		}
	}
}

// flagValue is the value of a flag in an argument vector, "" if it is not there.
func flagValue(args []string, name string) string {
	for i, a := range args {
		a = strings.TrimLeft(a, "-")
		if value, ok := strings.CutPrefix(a, name+"="); ok {
			return value
		}
		if a == name && i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
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
	for _, add := range []func(*runtime.Scheme) error{sensors.AddToScheme, nodecore.AddToScheme, rules.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", kubeconfig, err)
	}
	return c, nil
}
