// Package mapper is the agent on one edge node. It connects the boards that the
// node's radio hears, registers each as a KubeEdge Device, and publishes what
// their sensors measure to the node's MQTT broker as line protocol.
//
// What holds:
//   - A sample is (uid, epoch, seq). epoch is new for each connection of a board,
//     so also after a restart of mapper or board; seq counts from 1 without gaps over
//     what was handed to the broker. A sample dropped before that is counted
//     and takes no seq.
//   - A sample has the time at which its board emitted it on the host's wall clock, as
//     the board's own journal has it; where that is not known, the time of receipt.
//   - Samples of one sensor are published in order, with timestamps that
//     strictly increase. After a broken connection one line may be sent a second
//     time, byte for byte the same.
//   - The journal holds every line that the broker acknowledged, no other, in the
//     order of seq for each (uid, epoch). A line under way when the mapper was
//     killed may have been published without being in it.
//   - Radio, boards, broker and API server may come and go, each without stopping
//     what does not need it. What a board announces is checked and bounded; a
//     board that talks nonsense is disconnected and tried again later, and no
//     other board notices.
//   - The Device's `sensors` annotation is the mapper's: it follows what the
//     board announces, and a Device follows its board to another node. What users
//     wish in a Device's properties stays theirs.
//   - States and properties of a board go to the node's edge runtime over DMI, as
//     its Device wishes; the samples go over MQTT and do not wait for that. Neither
//     does readiness: without DMI everything else works.
//   - Users are told once of each thing that goes wrong with a board, as an Event on
//     its Device (package internal/health has the rules). For as long as something
//     speaks against a board, its Device has it in an annotation, too, which outlives
//     Events (package internal/problems). A board that moves to another node is that
//     node's: nothing is said of it here any more.
//
// To try it: `mapper --node edge-1 --kubeconfig FILE --radio radio.sock --mqtt
// tcp://127.0.0.1:1883 --journal published.lp` beside a boards process;
// mapper_test.go runs all of it in one process.
package mapper

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/backoff"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/dmi"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/events"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/problems"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/publish"
	"github.com/fluidos-edge/testbed/internal/journal"
	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/radio"
)

// What the mapper may do to the API server.
//
// +kubebuilder:rbac:groups=devices.kubeedge.io,resources=devices;devicemodels,namespace=fluidos,verbs=get;create;patch

const (
	// maxBoards bounds the boards that a mapper serves at one time.
	maxBoards = 256
	// maxPause is the longest between two tries to reach the radio.
	maxPause = 10 * time.Second
)

// Options of a mapper.
type Options struct {
	// Node is the edge node's name.
	Node string
	// Kubeconfig is a file; empty means the cluster that the mapper runs in.
	Kubeconfig string
	// Namespace of Devices, and the first level of every topic.
	Namespace string
	// Radio is the unix socket of a simulated radio, or bluetooth:ADAPTER for a real
	// one, in a mapper that was built with -tags bluetooth.
	Radio string
	// MQTT is the broker, tcp://HOST:PORT.
	MQTT string
	// Journal is the file that published lines are appended to; empty keeps none.
	Journal string
	// Queue is how many samples of one sensor wait while the broker is away.
	Queue int
	// Gather is how long the lines of one sensor are collected before they are
	// published as one message, 0 to 10s: 0 publishes each at once.
	Gather time.Duration
	// DMISocket is the edge runtime's and DMIListen the mapper's own, which the edge
	// runtime must reach at the same path; both empty does without DMI.
	DMISocket, DMIListen string
	// Allow lists the boards that are connected: addresses, beginnings of addresses
	// with a star, models; empty allows all.
	Allow []string

	// Pause after a first failure to reach the radio, a board, the broker or the
	// API server, doubled with each further one; default 500 ms.
	Pause time.Duration
	// Central opens the radio instead of what Radio names.
	Central func(context.Context) (Central, error)
	// Client replaces the one made from Kubeconfig.
	Client client.Client
	// Registerer of the metrics, default Prometheus's own.
	Registerer prometheus.Registerer
	// Now is the wall clock, default time.Now.
	Now func() time.Time
}

// AddFlags declares a flag for each setting of a mapper process.
func (o *Options) AddFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.Node, "node", "", "`name` of the edge node")
	fs.StringVar(&o.Kubeconfig, "kubeconfig", "", "`file` to reach the API server with; empty means the cluster that the mapper runs in")
	fs.StringVar(&o.Namespace, "namespace", "fluidos", "`namespace` of Devices")
	fs.StringVar(&o.Radio, "radio", "", "the node's `radio`: the unix socket of a simulated one, or bluetooth:hci0 in a build with -tags bluetooth")
	fs.StringVar(&o.MQTT, "mqtt", "", "`URL` of the node's broker, tcp://HOST:PORT")
	fs.StringVar(&o.Journal, "journal", "", "`file` to append every published line to; empty keeps none")
	fs.IntVar(&o.Queue, "queue", 4096, "`samples` of one sensor that wait while the broker is away; then the oldest is dropped")
	fs.DurationVar(&o.Gather, "gather", 0, "how long the lines of one sensor are collected into one message, at most 10s; 0 publishes each at once")
	fs.StringVar(&o.DMISocket, "dmi-socket", "", "unix `socket` of the node's edge runtime for mappers; empty does without DMI")
	fs.StringVar(&o.DMIListen, "dmi-listen", "", "unix `socket` to make for the edge runtime, which must reach it at the same path")
	fs.Func("allow", "comma separated `list` of boards to connect: addresses (c0:83:2a:10:20:30), beginnings of addresses (c0:83:2a:*), models (STWINKT1B); default all", func(list string) error {
		o.Allow = nil
		for _, entry := range strings.Split(list, ",") {
			if entry = strings.TrimSpace(entry); entry != "" {
				o.Allow = append(o.Allow, entry)
			}
		}
		return allowList(o.Allow).check()
	})
}

// complete fills in defaults and says everything that is wrong at once.
func (o *Options) complete() error {
	if o.Pause <= 0 {
		o.Pause = 500 * time.Millisecond
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.DefaultRegisterer
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Queue == 0 {
		o.Queue = 4096
	}
	var errs []error
	for _, f := range []struct{ name, value string }{{"node", o.Node}, {"namespace", o.Namespace}, {"radio", o.Radio}, {"mqtt", o.MQTT}} {
		if f.value == "" && (f.name != "radio" || o.Central == nil) {
			errs = append(errs, fmt.Errorf("--%s: missing", f.name))
		}
	}
	if u, err := url.Parse(o.MQTT); o.MQTT != "" && (err != nil || u.Scheme != "tcp" || u.Port() == "") {
		errs = append(errs, fmt.Errorf("--mqtt %q: want tcp://HOST:PORT", o.MQTT))
	}
	for _, problem := range validation.IsDNS1123Subdomain(o.Node) {
		if o.Node != "" {
			errs = append(errs, fmt.Errorf("--node %q: %s", o.Node, problem))
		}
	}
	if o.Queue < 1 {
		errs = append(errs, fmt.Errorf("--queue %d: want at least 1", o.Queue))
	}
	if o.Gather < 0 || o.Gather > publish.MaxGather {
		errs = append(errs, fmt.Errorf("--gather %v: want 0 to %v", o.Gather, publish.MaxGather))
	}
	if (o.DMISocket == "") != (o.DMIListen == "") {
		errs = append(errs, fmt.Errorf("--dmi-socket %q and --dmi-listen %q: want both or neither", o.DMISocket, o.DMIListen))
	}
	errs = append(errs, allowList(o.Allow).check())
	return errors.Join(errs...)
}

// Run is a mapper. It blocks until ctx ends and returns nil then; it gives up
// only where going on would be of no use: wrong options, or a journal that cannot
// be written. It is ready while radio and broker are connected.
func Run(ctx context.Context, log *slog.Logger, ready func(error), o Options) (err error) {
	if err := o.complete(); err != nil {
		return err
	}
	if o.Central == nil {
		if o.Central, err = opener(o.Radio, log); err != nil {
			return err
		}
	}
	if o.Client == nil {
		if o.Client, err = newClient(o.Kubeconfig); err != nil {
			return err
		}
	}
	j, err := journal.Open(o.Journal)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	counts := newMetrics()
	unregister, err := counts.register(prometheus.WrapRegistererWith(prometheus.Labels{"node": o.Node}, o.Registerer))
	if err != nil {
		return err
	}
	defer unregister()

	health := &readiness{report: ready, radio: errors.New("radio: not connected yet"), broker: errors.New("broker: not connected yet")}
	b := publish.NewMQTT(o.MQTT, "mapper-"+o.Node, o.Pause, log, health.setBroker)
	m := newMapper(o, log, counts, b, j, health.setRadio)

	// The broker stays connected until the last line that was handed over is
	// acknowledged, and the publisher until no board can add a sample.
	brokerCtx, stopBroker := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBroker()
	brokerDone := make(chan struct{})
	go func() {
		defer close(brokerDone)
		b.Run(brokerCtx)
	}()
	err = m.serveAll(ctx)
	stopBroker()
	<-brokerDone
	return err
}

// readiness puts the states of radio and broker together.
type readiness struct {
	mu            sync.Mutex
	report        func(error)
	radio, broker error
}

func (r *readiness) setRadio(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.radio = err
	r.report(errors.Join(r.radio, r.broker))
}

func (r *readiness) setBroker(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broker = err
	r.report(errors.Join(r.radio, r.broker))
}

// mapper is the radio's side: which boards are served.
type mapper struct {
	Options
	log       *slog.Logger
	metrics   *metrics
	publisher *publish.Publisher
	leaves    *leaves
	events    *events.Recorder
	problems  *problems.Writer
	agent     *dmi.Agent // nil without DMI
	state     func(error)
	monotonic func() int64

	mu        sync.Mutex
	lastEpoch int64
}

func newMapper(o Options, log *slog.Logger, counts *metrics, b publish.Broker, j *journal.File, state func(error)) *mapper {
	m := &mapper{
		Options: o, log: log, metrics: counts, state: state, monotonic: radio.Now,
		publisher: publish.New(publish.Options{
			Broker: b, Journal: j, Log: log, Namespace: o.Namespace, Queue: o.Queue, Gather: o.Gather,
			Published: func(n int) { counts.published.Add(float64(n)) }, Dropped: counts.drop,
		}),
		events: events.New(events.Options{
			Client: o.Client, Namespace: o.Namespace, Node: o.Node, Log: log, Pause: o.Pause,
			Written: func(reason string) { counts.events.WithLabelValues(reason).Inc() },
			Dropped: func(string) { counts.lost.Inc() },
		}),
		problems: problems.New(problems.Options{Client: o.Client, Namespace: o.Namespace, Node: o.Node, Log: log, Pause: o.Pause}),
		leaves:   newLeaves(o.Node, o.Namespace, log),
	}
	m.leaves.record, m.leaves.owner = m.events.Record, m.owner
	m.leaves.setProblem, m.leaves.dropProblem = m.problems.Set, m.problems.Drop
	if o.DMISocket != "" {
		m.agent = dmi.New(dmi.Options{
			Protocol: protocolName, Node: o.Node, Edge: o.DMISocket, Listen: o.DMIListen, Pause: o.Pause, Log: log,
			Changed: m.leaves.changed, Removed: m.leaves.removed, State: m.registered,
		})
		m.leaves.report = m.agent
	}
	return m
}

// registered is told whether the edge runtime knows the mapper; the agent logs it.
func (m *mapper) registered(err error) {
	if err != nil {
		m.metrics.dmi.Set(0)
		return
	}
	m.metrics.dmi.Set(1)
}

// owner is the node that a Device belongs to.
func (m *mapper) owner(ctx context.Context, device string) (string, error) {
	var d devices.Device
	if err := m.Client.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: device}, &d); err != nil {
		return "", err
	}
	return d.Spec.NodeName, nil
}

// serveAll runs all of the mapper but its broker until ctx ends, and longer for
// lines that were handed over. An error is the journal's, or that of wrong options.
func (m *mapper) serveAll(ctx context.Context) error {
	publishCtx, stopPublisher := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPublisher()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.publisher.Run(publishCtx) })
	g.Go(func() error {
		defer stopPublisher()
		m.run(gctx)
		return nil
	})
	g.Go(func() error {
		m.leaves.run(gctx)
		return nil
	})
	g.Go(func() error {
		m.events.Run(gctx)
		return nil
	})
	g.Go(func() error {
		m.problems.Run(gctx)
		return nil
	})
	if m.agent != nil {
		g.Go(func() error { return m.agent.Run(gctx) })
	}
	return g.Wait()
}

// epoch is the time now, in ns, and later than any epoch before.
func (m *mapper) epoch() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lastEpoch = max(m.Now().UnixNano(), m.lastEpoch+1)
	return m.lastEpoch
}

// run serves the radio, again and again, until ctx ends.
func (m *mapper) run(ctx context.Context) {
	pause := backoff.Backoff{First: m.Pause, Max: maxPause}
	for ctx.Err() == nil {
		err := m.serve(ctx, func() {
			pause.Reset()
			m.log.Info("radio connected", "socket", m.Radio)
			m.state(nil)
		})
		err = fmt.Errorf("radio %s: %w", m.Radio, err)
		m.state(err)
		if ctx.Err() == nil {
			m.log.Warn("radio not connected", "err", err)
		}
		pause.Wait(ctx)
	}
}

// serve one connection of the radio until it or ctx ends; connected is called
// once it is there.
func (m *mapper) serve(ctx context.Context, connected func()) error {
	dialCtx, cancel := context.WithTimeout(ctx, gattTimeout)
	defer cancel()
	c, err := m.Central(dialCtx)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel = context.WithCancel(ctx)
	defer cancel()
	heard, err := c.Scan(ctx)
	if err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	connected()

	// served boards with what they said last if they seem to be free again, and those
	// that failed with the time of the next try.
	served := map[radio.Address]*bluest.Advertisement{}
	isServed := func(mac radio.Address) bool {
		_, ok := served[mac]
		return ok
	}
	failed := map[radio.Address]*failure{}
	refused := map[radio.Address]bool{}
	full := false // as was said once
	again := time.NewTimer(0)
	defer again.Stop()
	type end struct {
		board radio.Address
		err   error
	}
	ends := make(chan end)
	var boards sync.WaitGroup
	defer boards.Wait()
	defer cancel()
	start := func(said bluest.Advertisement) {
		mac := radio.Address(said.MAC)
		served[mac] = nil
		if f := failed[mac]; f != nil {
			f.heard = nil
		}
		boards.Go(func() {
			err := m.board(ctx, c, said)
			select {
			case ends <- end{mac, err}:
			case <-ctx.Done():
			}
		})
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.Done():
			return c.Err()
		case a, ok := <-heard:
			if !ok {
				if err := c.Err(); err != nil {
					return err
				}
				return ctx.Err()
			}
			said, err := bluest.DecodeAdvertisement(a.Payload)
			if err != nil || said.Model() == "" || said.MAC != a.Address {
				m.log.Debug("not a board that this mapper knows", "mac", a.Address, "said", said, "err", err)
				continue
			}
			if !allowList(m.Allow).allows(said.Model(), a.Address) {
				if !refused[a.Address] && len(refused) < 4*maxBoards {
					refused[a.Address] = true
					m.log.Info("board is not on the allow list", "mac", a.Address, "model", said.Model())
				}
				continue
			}
			f := failed[a.Address]
			switch {
			case isServed(a.Address):
				// The end of its connection may be known here after it is on the air
				// again, and advertisements may be far apart.
				if served[a.Address] = nil; a.Connectable {
					served[a.Address] = &said
				}
			case !a.Connectable:
				if f != nil {
					f.heard = nil
				}
				m.leaves.heardElsewhere(deviceName(said.Model(), a.Address.Hex()))
			case f != nil && time.Now().Before(f.until):
				f.heard = &said
				again.Reset(time.Until(soonest(failed)))
			case len(served) < maxBoards:
				start(said)
			case !full:
				full = true
				m.log.Warn("more boards are heard than are served", "most", maxBoards)
			}
		case <-again.C:
			now := time.Now()
			for mac, f := range failed {
				if f.heard == nil || now.Before(f.until) {
					continue
				}
				said := *f.heard
				if f.heard = nil; !isServed(mac) && len(served) < maxBoards {
					start(said)
				}
			}
			if at := soonest(failed); !at.IsZero() {
				again.Reset(time.Until(at))
			}
		case e := <-ends:
			heard := served[e.board]
			delete(served, e.board)
			if len(failed) >= 4*maxBoards {
				clear(failed)
			}
			f := failed[e.board]
			if f == nil {
				f = &failure{Backoff: backoff.Backoff{First: m.Pause, Max: maxRetry}}
				failed[e.board] = f
			}
			if errors.Is(e.err, errServed) || errors.Is(e.err, radio.ErrBusy) {
				f.Reset()
			}
			pause := f.Pause()
			f.until, f.heard = time.Now().Add(pause), heard
			if heard != nil {
				again.Reset(time.Until(soonest(failed)))
			}
			m.log.Warn("board not connected", "mac", e.board, "err", e.err, "again in", pause)
		}
	}
}

// soonest is when a board that was heard since it failed is to be tried again, the
// zero time if none was.
func soonest(failed map[radio.Address]*failure) (at time.Time) {
	for _, f := range failed {
		if f.heard != nil && (at.IsZero() || f.until.Before(at)) {
			at = f.until
		}
	}
	return at
}

// failure of a board, when to try it again, and what it said of itself since.
type failure struct {
	backoff.Backoff
	until time.Time
	heard *bluest.Advertisement
}

// errServed marks the end of a session that had got as far as data.
var errServed = errors.New("was served")

// board connects one board and serves it until it goes.
func (m *mapper) board(ctx context.Context, c Central, said bluest.Advertisement) error {
	mac := radio.Address(said.MAC)
	connectCtx, cancel := context.WithTimeout(ctx, gattTimeout)
	defer cancel()
	peer, err := c.Connect(connectCtx, mac)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer peer.Close()
	b := identity{model: said.Model(), mac: strings.ToUpper(mac.Hex()), node: m.Node}
	leaf, err := m.leaves.join(b.device())
	if err != nil {
		return err
	}
	m.metrics.boards.Inc()
	defer m.metrics.boards.Dec()
	log := m.log.With("board", b.device())
	log.Info("board connected")
	s := &session{
		peer: peer, leaf: leaf, board: b,
		epoch: m.epoch, unit: said.Firmware.TSUnit(),
		publisher: m.publisher, metrics: m.metrics, now: m.Now, monotonic: m.monotonic, log: log,
		registrar: registrar{client: m.Client, namespace: m.Namespace, pause: m.Pause, log: log},
	}
	err = s.run(ctx)
	leaf.unlink(err)
	if s.declared.Load() != nil {
		return fmt.Errorf("%w: %w", errServed, err)
	}
	return err
}
