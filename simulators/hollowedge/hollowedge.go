// Package hollowedge is a hollow edge runtime: one process that behaves like
// KubeEdge's CloudCore router and many EdgeCores (v1.23) for one provider
// cluster. What another program can observe through the API server, MQTT and
// HTTP is the same, quirks included; no container ever runs on its nodes.
//
// The way of a message: an MQTT client publishes at its node's broker; if the
// node is subscribed to the topic, the message goes into the node's queue,
// through the node's throttle and to the cloud; if a listener is registered for
// exactly that node and topic, it is POSTed to the Rule's URL. The way of a Device:
// the cloud tells its node, and the node the mapper of its protocol; what the
// mapper reports goes through the same queue and throttle into its DeviceStatus.
//
// What KubeEdge does with Rules and so does this:
//   - Sources are of type eventbus and targets of type rest. A client publishes
//     to exactly "<namespace of the Rule>/<topic of the Rule>". A topic with
//     wildcards subscribes at the edge, and what matches is uploaded, and then
//     finds no listener.
//   - A listener's key is (node_name, namespace, topic), cleaned as a path: "/a"
//     and "a" are one. Of two Rules with one key the last wins; deleting either
//     silences both. Topics that begin with "volume/" go elsewhere.
//   - Updates of Rules and RuleEndpoints are ignored. Delete and create within
//     one gap of the watch arrive as an update, and so are ignored too.
//   - A Rule captures its target when it is added. If its source endpoint is
//     gone when the Rule is deleted, the listener stays and keeps forwarding.
//   - A Rule whose endpoints are missing is tried at 0, 5, 15 and 30 s, then
//     dropped. Deleted in between, it can still be added afterwards.
//   - Every event of a Rule or RuleEndpoint runs in its own goroutine, in no
//     order (Options.Order states one). So a create soon after the delete of
//     the same key can end without a listener.
//   - Subscribing and unsubscribing is lost, without a word, while the node is
//     cut off. An unsubscribe that was lost leaves the node uploading into its
//     throttle.
//   - The throttle from edge to cloud holds for each node (30/s, burst 60) and
//     makes messages wait in memory. While a node is cut off they wait there too
//     and come out in no order; the one that EdgeHub tries to send first after
//     the cut is lost; what waits is lost with the process. After a cut, EdgeHub
//     tries again every 30 s.
//   - POST with the payload byte for byte if it is UTF-8; else each byte that is
//     not becomes U+FFFD. No Content-Type, a connection for each message, a
//     goroutine for each message, no order, no retry, any status is fine.
//     Redirects are followed. An empty payload is not posted.
//   - A Node is registered once, at start, and left at shutdown. Leases are
//     renewed while the process lives and the node is connected; the rest is the
//     node lifecycle controller's.
//
// What KubeEdge does with Devices and so does this (internal/devicecontroller and
// internal/devicetwin say it in full):
//   - A mapper registers at its node's socket and gets the Devices of its protocol;
//     then it is called at its own: Devices and DeviceModels that come, change in
//     their spec and go, in order, once, with 10 s for each call. What it could not be
//     told it learns when it registers again; but a Device whose end it could not be
//     told is among those then, and one whose DeviceModel is missing, or whose
//     configData holds lists, objects or null, is not.
//   - What happens to a Device while its node is cut off reaches the mapper only with
//     the Device's next change or a restart. A Device that is created meanwhile can
//     never be reported, until it is created anew.
//   - A mapper has one request/s, 100 at once. Each twin and each state that it reports
//     is a message. Once EdgeCore knows that the node is cut off it drops them: nothing
//     waits, and nobody is told, so a state must be reported again.
//   - A Device has a DeviceStatus of its name and its own, from the beginning. The
//     first report of a property leaves an empty twin there, the second fills it,
//     with the time at which EdgeCore got it and type "string". A value with other
//     letters than a-z A-Z 0-9 - _ . , : / @ # is dropped without a word.
//     reportToCloud plays no part: it is for the mapper to heed.
//
// Deliberate differences: TLS is verified (CloudCore switches that off); URLs
// are never logged (CloudCore logs them, userinfo included); the queue of a node
// holds 100,000 messages and drops, and counts, what comes beyond (EdgeCore has
// no bound); other types of RuleEndpoint are refused like unknown ones;
// subscriptions are not kept over a restart, but all nodes connect before the
// Rules are read, so that each Rule that exists subscribes again; a hollow node
// says that it is one (kubeletVersion) and takes no pods.
//
// Those of Devices: a restart is one of CloudCore and of every EdgeCore, which read
// what EdgeCore has on disk from the API server, so it mends what a cut has lost,
// and mappers have to register again (EdgeCore remembers them); what takes EdgeCore
// or CloudCore down is refused or ignored, with a word about it; what was lost is
// lost (EdgeCore may send a report again when nothing was reported for a minute);
// DeviceStatuses are written as often as the API server keeps up, the latest report
// winning, and again if it refuses; twins can be reported over DMI only, not over
// the topics $hw/events/device/#; what the testbed's CRDs lack (methods, push
// methods, defaults in a DeviceModel) is not passed on.
//
// What real KubeEdge did when it was tried is in conformance/testdata; what is said
// here of Devices was read in its source.
//
// Invariant, for each node and at any time: published = forwarded + dropped (by
// reason) + queued + being forwarded, of messages and of reports. /metrics tells
// each.
//
// To try it:
//
//	echo '{"nodes": [{"name": "edge-1", "mqtt": "127.0.0.1:1884", "dmi": "/tmp/dmi.sock"}]}' >edge.json
//	hollowedge --kubeconfig kubeconfig --config edge.json --health 127.0.0.1:9090
package hollowedge

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	devicesv1 "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	rulesv1 "github.com/fluidos-edge/testbed/controllers/api/rules/v1"
	"github.com/fluidos-edge/testbed/simulators/hollowedge/internal/broker"
	"github.com/fluidos-edge/testbed/simulators/hollowedge/internal/devicecontroller"
	"github.com/fluidos-edge/testbed/simulators/hollowedge/internal/devicetwin"
	"github.com/fluidos-edge/testbed/simulators/hollowedge/internal/heartbeat"
)

// Options are the runtime's settings. Flags fill in the first two; the rest is
// for programs that run it in their own process, and may be left empty.
type Options struct {
	// Kubeconfig is the provider cluster's; empty means the cluster this runs in.
	Kubeconfig string
	// ConfigFile is a Config as JSON. Not read if Config is set.
	ConfigFile string

	Config *Config
	// Client is used instead of Kubeconfig.
	Client client.WithWatch
	// Clock is the time that throttle, retries and Leases go by.
	Clock clock.Clock
	// Order decides when the router handles each event. It must not block, and
	// may drop the event. Default: each at once, in its own goroutine.
	Order func(Event)
	// Registerer gets the metrics. Default prometheus.DefaultRegisterer.
	Registerer prometheus.Registerer
	// QueueLimit is how many messages a node holds for the cloud. Default 100,000.
	QueueLimit int
	// Seed decides the order in which messages come out after a cut.
	Seed uint64
}

// AddFlags implements daemon.Options.
func (o *Options) AddFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.Kubeconfig, "kubeconfig", "", "kubeconfig `file` of the provider cluster; empty means the cluster this runs in")
	fs.StringVar(&o.ConfigFile, "config", "", "JSON `file` with nodes, messageQPS and messageBurst")
}

// Run is New and Runtime.Run in one.
func Run(ctx context.Context, log *slog.Logger, ready func(error), opts *Options) error {
	r, err := New(opts)
	if err != nil {
		return err
	}
	return r.Run(ctx, log, ready)
}

// Runtime is a hollow edge runtime. Its methods may be called at any time,
// by any goroutine.
type Runtime struct {
	config Config
	client client.WithWatch
	clock  clock.Clock
	order  func(Event)
	reg    prometheus.Registerer
	limit  int
	seed   uint64
	edges  map[string]*edge
	sorted []*edge // in the order of the config
	tasks  tasks
}

// New checks opts and starts nothing.
func New(opts *Options) (*Runtime, error) {
	config := opts.Config
	if config == nil {
		c, err := loadConfig(opts.ConfigFile)
		if err != nil {
			return nil, err
		}
		config = &c
	}
	r := &Runtime{
		config: *config,
		client: opts.Client,
		clock:  opts.Clock,
		order:  opts.Order,
		reg:    opts.Registerer,
		limit:  opts.QueueLimit,
		seed:   opts.Seed,
		edges:  map[string]*edge{},
	}
	if err := r.config.complete(); err != nil {
		return nil, err
	}
	if r.client == nil {
		c, err := connect(opts.Kubeconfig, len(r.config.Nodes))
		if err != nil {
			return nil, err
		}
		r.client = c
	}
	if r.clock == nil {
		r.clock = clock.RealClock{}
	}
	if r.order == nil {
		r.order = func(e Event) { go e.Handle() }
	}
	if r.limit <= 0 {
		r.limit = 100_000
	}
	if r.reg == nil {
		r.reg = prometheus.DefaultRegisterer
	}
	for i, n := range r.config.Nodes {
		e := newEdge(r, i, n)
		r.edges[n.Name] = e
		r.sorted = append(r.sorted, e)
	}
	return r, nil
}

func loadConfig(file string) (Config, error) {
	if file == "" {
		return Config{}, errors.New("flag --config is missing: it names a JSON file like {\"nodes\": [{\"name\": \"edge-1\", \"mqtt\": \"127.0.0.1:1884\"}]}")
	}
	f, err := os.Open(file)
	if err != nil {
		return Config{}, fmt.Errorf("config: %w", err)
	}
	defer f.Close()
	c, err := DecodeConfig(f)
	if err != nil {
		return Config{}, fmt.Errorf("config %s: %w", file, err)
	}
	return c, nil
}

// connect makes a client that so many nodes can share: each renews its Lease
// every 10 s, which takes a fifth of this; the rest is for registration and for
// DeviceStatuses.
func connect(kubeconfig string, nodes int) (client.WithWatch, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %q: %w", kubeconfig, err)
	}
	cfg.QPS = float32(max(100, nodes/2))
	cfg.Burst = 2 * int(cfg.QPS)
	cfg.WarningHandler = rest.NoWarnings{}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, coordinationv1.AddToScheme, rulesv1.AddToScheme, devicesv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	c, err := client.NewWithWatch(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("client of %s: %w", cfg.Host, err)
	}
	return c, nil
}

// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;create;patch
// +kubebuilder:rbac:groups="",resources=nodes/status,verbs=patch
// +kubebuilder:rbac:groups=coordination.k8s.io,resources=leases,namespace=kube-node-lease,verbs=create;patch
// +kubebuilder:rbac:groups=rules.kubeedge.io,resources=rules;ruleendpoints,verbs=get;list;watch
// +kubebuilder:rbac:groups=devices.kubeedge.io,resources=devices;devicemodels,verbs=list;watch
// +kubebuilder:rbac:groups=devices.kubeedge.io,resources=devicestatuses,verbs=list;watch;create;patch

// Run opens the brokers and the mappers' sockets, registers the nodes, follows
// the Rules and Devices, and blocks until ctx ends. It is ready once all nodes are
// registered and connected, the Rules and Devices that exist have been read, and
// all brokers and sockets are served. A Runtime runs once.
func (r *Runtime) Run(ctx context.Context, log *slog.Logger, ready func(error)) error {
	metrics := &collector{edges: r.sorted}
	if err := r.reg.Register(metrics); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	defer r.reg.Unregister(metrics)

	g, ctx := errgroup.WithContext(ctx)
	defer r.tasks.stop()
	router := newRouter(r, log)
	if !r.tasks.start(ctx) {
		return errors.New("a Runtime runs once")
	}
	names := make([]string, len(r.sorted))
	for i, e := range r.sorted {
		names[i] = e.node.Name
	}
	beats := heartbeat.New(r.client, r.clock, log, names, func(node string) bool { return r.edges[node].isConnected() })
	devices := devicecontroller.New(r.client, r.clock, log, func(node string) (*devicetwin.Node, bool) {
		e, ok := r.edges[node]
		if !ok {
			return nil, false
		}
		return e.twin, e.isConnected()
	})
	for _, e := range r.sorted {
		e.attach(router, devices, func() { beats.Hurry(e.node.Name) })
	}
	for _, e := range r.sorted {
		if e.node.DMI == "" {
			continue
		}
		e.twin = devicetwin.New(e, r.clock, log.With("node", e.node.Name))
		if err := e.twin.Open(e.node.DMI); err != nil {
			return fmt.Errorf("dmi of node %s: %w", e.node.Name, err)
		}
		defer e.twin.Close()
	}
	for _, e := range r.sorted {
		if e.node.MQTT == "" {
			continue
		}
		b, err := broker.Open(ctx, e.node.MQTT, log, e.publish)
		if err != nil {
			return fmt.Errorf("broker of node %s: %w", e.node.Name, err)
		}
		defer b.Close()
		e.setAddress(b.Addr())
	}
	g.Go(func() error { return beats.Run(ctx) })
	g.Go(func() error {
		if err := beats.Register(ctx, ready, func(node string) { r.edges[node].connect() }); err != nil {
			return err
		}
		if err := router.run(ctx, g, ready); err != nil {
			return err
		}
		if err := devices.Run(ctx, g, ready); err != nil {
			return err
		}
		for _, e := range r.sorted {
			if e.twin != nil {
				e.twin.Serve()
			}
		}
		log.Info("hollow edge runtime is ready", "nodes", len(r.sorted))
		ready(nil)
		<-ctx.Done()
		return nil
	})
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Disconnect cuts a node off the cloud: nothing is uploaded, what the cloud sends
// to the node is lost, its Lease is not renewed. Its broker and its socket for
// mappers keep serving.
func (r *Runtime) Disconnect(node string) error {
	e, err := r.edge(node)
	if err != nil {
		return err
	}
	e.cut()
	return nil
}

// Connect mends a node's connection. As EdgeHub does, the node takes it up
// again at the next multiple of 30 s after the cut, not before.
func (r *Runtime) Connect(node string) error {
	e, err := r.edge(node)
	if err != nil {
		return err
	}
	e.mend()
	return nil
}

// BrokerAddr is the address of a node's broker; nil before it listens, or if
// the node has none.
func (r *Runtime) BrokerAddr(node string) net.Addr {
	e, err := r.edge(node)
	if err != nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.addr
}

func (r *Runtime) edge(node string) (*edge, error) {
	e, ok := r.edges[node]
	if !ok {
		return nil, fmt.Errorf("no node %q in this runtime", node)
	}
	return e, nil
}

// tasks are the goroutines that nobody waits for but the end of Run. None starts
// before start or after stop.
type tasks struct {
	mu      sync.Mutex
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	stopped bool
}

// start reports whether this is the first start.
func (t *tasks) start(ctx context.Context) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx != nil {
		return false
	}
	t.ctx, t.cancel = context.WithCancel(ctx)
	return true
}

// begin counts one more task in, unless none may start any more. Who got true
// calls done.
func (t *tasks) begin() (ctx context.Context, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx == nil || t.stopped || t.ctx.Err() != nil {
		return nil, false
	}
	t.wg.Add(1)
	return t.ctx, true
}

func (t *tasks) done() { t.wg.Done() }

// spawn runs f in a goroutine of its own and reports whether it does.
func (t *tasks) spawn(f func(context.Context)) bool {
	ctx, ok := t.begin()
	if !ok {
		return false
	}
	go func() {
		defer t.done()
		f(ctx)
	}()
	return true
}

// stop ends all tasks and waits for them.
func (t *tasks) stop() {
	t.mu.Lock()
	t.stopped = true
	if t.cancel != nil {
		t.cancel()
	}
	t.mu.Unlock()
	t.wg.Wait()
}
