// Package mapper is the agent on one edge node. It connects the boards that the
// node's radio hears, registers each as a KubeEdge Device, and publishes what
// their sensors measure to the node's MQTT broker as line protocol.
//
// What holds:
//   - A sample is (uid, epoch, seq). epoch is new for each connection of a board,
//     so also after a restart of mapper or board; seq counts from 1 without gaps over
//     what was handed to the broker. A sample dropped before that is counted
//     and takes no seq.
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
//     board announces, and a Device follows its board to another node.
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

	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/radio"
)

// What the mapper may do to the API server.
//
// +kubebuilder:rbac:groups=devices.kubeedge.io,resources=devices;devicemodels,namespace=fluidos,verbs=get;create;patch

// maxBoards bounds the boards that a mapper serves at one time.
const maxBoards = 256

// Options of a mapper.
type Options struct {
	// Node is the edge node's name.
	Node string
	// Kubeconfig is a file; empty means the cluster that the mapper runs in.
	Kubeconfig string
	// Namespace of Devices, and the first level of every topic.
	Namespace string
	// Radio is the unix socket of the node's radio.
	Radio string
	// MQTT is the broker, tcp://HOST:PORT.
	MQTT string
	// Journal is the file that published lines are appended to; empty keeps none.
	Journal string
	// Queue is how many samples of one sensor wait while the broker is away.
	Queue int

	// Pause after a first failure to reach the radio, a board, the broker or the
	// API server, doubled with each further one; default 500 ms.
	Pause time.Duration
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
	fs.StringVar(&o.Radio, "radio", "", "unix `socket` of the node's radio")
	fs.StringVar(&o.MQTT, "mqtt", "", "`URL` of the node's broker, tcp://HOST:PORT")
	fs.StringVar(&o.Journal, "journal", "", "`file` to append every published line to; empty keeps none")
	fs.IntVar(&o.Queue, "queue", 4096, "`samples` of one sensor that wait while the broker is away; then the oldest is dropped")
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
		if f.value == "" {
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
	return errors.Join(errs...)
}

// Run is a mapper. It blocks until ctx ends and returns nil then; it gives up
// only where going on would be of no use: wrong options, or a journal that cannot
// be written. It is ready while radio and broker are connected.
func Run(ctx context.Context, log *slog.Logger, ready func(error), o Options) (err error) {
	if err := o.complete(); err != nil {
		return err
	}
	if o.Client == nil {
		if o.Client, err = newClient(o.Kubeconfig); err != nil {
			return err
		}
	}
	j, err := openJournal(o.Journal)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.close()) }()
	counts := newMetrics()
	unregister, err := counts.register(prometheus.WrapRegistererWith(prometheus.Labels{"node": o.Node}, o.Registerer))
	if err != nil {
		return err
	}
	defer unregister()

	health := &readiness{report: ready, radio: errors.New("radio: not connected yet"), broker: errors.New("broker: not connected yet")}
	b := newMQTTBroker(o.MQTT, "mapper-"+o.Node, o.Pause, log, health.setBroker)
	p := &publisher{
		broker: b, journal: j, metrics: counts, log: log,
		namespace: o.Namespace, queue: o.Queue, streams: map[string]*stream{},
	}
	m := &mapper{Options: o, log: log, metrics: counts, publisher: p, state: health.setRadio}

	// The broker stays connected until the last line that was handed over is
	// acknowledged, and the publisher until no board can add a sample.
	brokerCtx, stopBroker := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBroker()
	brokerDone := make(chan struct{})
	go func() {
		defer close(brokerDone)
		b.run(brokerCtx)
	}()
	publishCtx, stopPublisher := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPublisher()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.run(publishCtx) })
	g.Go(func() error {
		defer stopPublisher()
		m.run(gctx)
		return nil
	})
	err = g.Wait()
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
	publisher *publisher
	state     func(error)

	mu        sync.Mutex
	lastEpoch int64
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
	pause := backoff{first: m.Pause, max: maxPause}
	for ctx.Err() == nil {
		err := m.serve(ctx, func() {
			pause.reset()
			m.log.Info("radio connected", "socket", m.Radio)
			m.state(nil)
		})
		err = fmt.Errorf("radio %s: %w", m.Radio, err)
		m.state(err)
		if ctx.Err() == nil {
			m.log.Warn("radio not connected", "err", err)
		}
		pause.wait(ctx)
	}
}

// serve one connection of the radio until it or ctx ends; connected is called
// once it is there.
func (m *mapper) serve(ctx context.Context, connected func()) error {
	dialCtx, cancel := context.WithTimeout(ctx, gattTimeout)
	defer cancel()
	c, err := radio.Dial(dialCtx, m.Radio)
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

	// served boards, and those that failed with the time of the next try.
	served := map[radio.Address]bool{}
	failed := map[radio.Address]*failure{}
	type end struct {
		board radio.Address
		err   error
	}
	ends := make(chan end)
	var boards sync.WaitGroup
	defer boards.Wait()
	defer cancel()
	for {
		select {
		case a, ok := <-heard:
			if !ok {
				if err := c.Err(); err != nil {
					return err
				}
				return ctx.Err()
			}
			f := failed[a.Address]
			switch {
			case !a.Connectable || served[a.Address]:
				continue
			case f != nil && time.Now().Before(f.until):
				continue
			case len(served) >= maxBoards:
				continue
			}
			said, err := bluest.DecodeAdvertisement(a.Payload)
			if err != nil || said.Model() == "" || said.MAC != a.Address {
				m.log.Debug("not a board that this mapper knows", "mac", a.Address, "said", said, "err", err)
				continue
			}
			served[a.Address] = true
			boards.Go(func() {
				err := m.board(ctx, c, said)
				select {
				case ends <- end{a.Address, err}:
				case <-ctx.Done():
				}
			})
		case e := <-ends:
			delete(served, e.board)
			if len(failed) >= 4*maxBoards {
				clear(failed)
			}
			f := failed[e.board]
			if f == nil {
				f = &failure{backoff: backoff{first: m.Pause, max: maxRetry}}
				failed[e.board] = f
			}
			if errors.Is(e.err, errServed) || errors.Is(e.err, radio.ErrBusy) {
				f.reset()
			}
			pause := f.pause()
			f.until = time.Now().Add(pause)
			m.log.Warn("board not connected", "mac", e.board, "err", e.err, "again in", pause)
		}
	}
}

// failure of a board, and when to try it again.
type failure struct {
	backoff
	until time.Time
}

// errServed marks the end of a session that had got as far as data.
var errServed = errors.New("was served")

// board connects one board and serves it until it goes.
func (m *mapper) board(ctx context.Context, c *radio.Client, said bluest.Advertisement) error {
	mac := radio.Address(said.MAC)
	connectCtx, cancel := context.WithTimeout(ctx, gattTimeout)
	defer cancel()
	conn, err := c.Connect(connectCtx, mac)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	m.metrics.boards.Inc()
	defer m.metrics.boards.Dec()
	log := m.log.With("board", strings.ToLower(said.Model())+"-"+mac.Hex())
	log.Info("board connected")
	s := &session{
		conn:  conn,
		board: identity{model: said.Model(), mac: strings.ToUpper(mac.Hex()), node: m.Node},
		epoch: m.epoch, clock: bluest.NewTimeline(said.Firmware.TSUnit()),
		publisher: m.publisher, metrics: m.metrics, now: m.Now, log: log,
		registrar: registrar{client: m.Client, namespace: m.Namespace, pause: m.Pause, log: log},
	}
	err = s.run(ctx)
	if s.declared.Load() != nil {
		return fmt.Errorf("%w: %w", errServed, err)
	}
	return err
}
