// Package relay is the data plane of DataPaths: what arrives of a sensor goes
// to every endpoint of every DataPath that selects the sensor.
//
// Invariants:
//   - The relay selects by itself, from DataPaths and Flavors, with
//     controllers/sensor: nothing that the router writes steers it.
//   - A sample that was answered with 204 is, for each endpoint, delivered,
//     queued, or dropped and counted: accepted = delivered + queued + dropped.
//   - Each endpoint has its own bounded queue and its own worker: none delays
//     another, and the order of arrival is kept. Delivery is at least once; a
//     retry is byte-identical.
//   - A request is of one sensor, proven by the capability in its URL and by
//     the tags of every line.
//   - Accounts only grow until the relay restarts. An endpoint's counts go on
//     when its URL changes, and when it is removed and added again while its
//     DataPath lives. Its health does not: it is that of the present URL, and
//     nothing counts as delivered before a batch of the present generation was
//     taken.
//   - No byte of an endpoint's answer is in an account or a log: a consumer may
//     name any URL, and must not read through the relay what the relay can reach.
//
// A DataPath with a requirement that can never be judged is served nothing
// new. A sensor that is not available is relayed if its data comes anyway.
//
// To try it without a cluster, see Relay: Set gives it DataPaths and Flavors,
// and its handlers work in an httptest.Server.
package relay

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/fluidos-edge/testbed/controllers/api/accounts"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

// drainTime is how long queues may empty themselves when the relay ends.
const drainTime = 2 * time.Second

// pulse is the shortest time between two changes of the revision that arrivals
// and endpoints make.
const pulse = 100 * time.Millisecond

// Config of a Relay; Key alone is required.
type Config struct {
	// Key signs capabilities and the admin token.
	Key []byte
	// Queue is how many samples may wait for one endpoint; default 4096.
	Queue int
	// Select defaults to sensor.Select.
	Select sensor.SelectFunc
	Clock  clock.WithTicker
	Log    *slog.Logger
}

// Relay is one replica, without its listeners and informers.
type Relay struct {
	cfg       Config
	log       *slog.Logger
	instance  string
	transport *http.Transport
	routes    atomic.Pointer[routes]
	settled   chan struct{} // an endpoint's queue became empty
	news      chan struct{} // something arrived, or the health of an endpoint changed

	mu       sync.Mutex
	synced   bool
	stopping bool
	inFlight int // requests between begin and end
	start    func(*endpoint)
	offers   map[string]offer
	paths    map[types.UID]*path
	counts   map[sensor.Key]*accounts.Sensor
	refused  map[string]int64
	revision int64
	changed  chan struct{} // closed when revision grows
}

// routes is where the samples of each known sensor go; it is never changed.
type routes struct{ byKey map[sensor.Key]route }

type route struct {
	uid       string
	endpoints []*endpoint
}

// offer is a Flavor as selection sees it.
type offer struct {
	sensor.Offer
	id      string // UID and resourceVersion of the Flavor
	flavor  string
	problem bool
}

// path is a DataPath that is served.
type path struct {
	accounts.DataPath
	verdicts  map[string]bool // by offer.id, for this generation
	endpoints map[string]*endpoint
	order     []string
}

// New returns a relay that has not synced.
func New(cfg Config) *Relay {
	if cfg.Queue <= 0 {
		cfg.Queue = 4096
	}
	if cfg.Select == nil {
		cfg.Select = sensor.Select
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Relay{
		cfg: cfg, log: cfg.Log, instance: uuid.NewString(),
		transport: newTransport(),
		settled:   make(chan struct{}, 1),
		news:      make(chan struct{}, 1),
		offers:    map[string]offer{},
		paths:     map[types.UID]*path{},
		counts:    map[sensor.Key]*accounts.Sensor{},
		refused:   map[string]int64{},
		changed:   make(chan struct{}),
	}
	r.routes.Store(&routes{})
	return r
}

// Run delivers until ctx ends, then refuses requests, gives the queues two
// seconds to empty themselves and returns nil.
func (r *Relay) Run(ctx context.Context) error {
	hideUnsolicited()
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer r.transport.CloseIdleConnections()
	var group errgroup.Group
	group.Go(func() error { r.beat(work); return nil })
	r.mu.Lock()
	r.start = func(e *endpoint) {
		var own context.Context
		own, e.cancel = context.WithCancel(work)
		group.Go(func() error { e.run(own, r.transport); return nil })
	}
	for _, p := range r.paths {
		for _, name := range p.order {
			r.start(p.endpoints[name])
		}
	}
	r.mu.Unlock()

	<-ctx.Done()
	r.mu.Lock()
	r.stopping, r.start = true, nil
	r.bump()
	r.mu.Unlock()
	deadline := r.cfg.Clock.NewTimer(drainTime)
	defer deadline.Stop()
	left := r.left()
	for late := false; left > 0 && !late; left = r.left() {
		select {
		case <-r.settled:
		case <-deadline.C():
			late = true
		}
	}
	stop()
	_ = group.Wait() // workers return nil
	if left > 0 {
		r.log.Warn("stopped with undelivered samples", "queued", left)
	}
	return nil
}

// left counts what shutting down still waits for.
func (r *Relay) left() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.inFlight
	for _, p := range r.paths {
		for _, e := range p.endpoints {
			n += e.pending()
		}
	}
	return n
}

// beat lets arrivals and endpoints change the revision, at most once a pulse.
func (r *Relay) beat(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.news:
		}
		r.mu.Lock()
		r.bump()
		r.mu.Unlock()
		timer := r.cfg.Clock.NewTimer(pulse)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C():
		}
	}
}

// Set replaces everything that the relay serves: all DataPaths and all Flavors.
// From the first call on the relay is synced. It keeps neither slice.
func (r *Relay) Set(paths []sensors.DataPath, flavors []nodecore.Flavor) {
	r.mu.Lock()
	defer r.mu.Unlock()
	offers := r.readOffers(flavors)
	next := map[types.UID]*path{}
	changed := !r.synced
	for i := range paths {
		dp := &paths[i]
		if dp.DeletionTimestamp != nil {
			continue
		}
		before := r.paths[dp.UID]
		p := r.serve(dp, before, offers)
		changed = changed || before == nil || before.Generation != p.Generation || before.Matched != p.Matched
		next[dp.UID] = p
	}
	for uid, p := range r.paths {
		if next[uid] == nil {
			changed = true
			for _, name := range slices.Sorted(maps.Keys(p.endpoints)) {
				r.drop(p.endpoints[name])
			}
		}
	}
	table := &routes{byKey: make(map[sensor.Key]route, len(offers))}
	for key, o := range offers {
		table.byKey[key] = route{uid: o.UID}
	}
	for _, p := range next {
		for key, o := range offers {
			if !p.verdicts[o.id] {
				continue
			}
			way := table.byKey[key]
			for _, name := range p.order {
				way.endpoints = append(way.endpoints, p.endpoints[name])
			}
			table.byKey[key] = way
		}
	}
	r.paths, r.synced = next, true
	r.routes.Store(table)
	if changed {
		r.bump()
	}
}

// readOffers returns the sensors on offer. Of two Flavors of one sensor the
// available one counts, then the one whose name sorts first; the router
// decides the same.
func (r *Relay) readOffers(flavors []nodecore.Flavor) map[sensor.Key]offer {
	known := make(map[string]offer, len(flavors))
	byKey := make(map[sensor.Key]offer, len(flavors))
	for i := range flavors {
		f := &flavors[i]
		if f.DeletionTimestamp != nil || f.Spec.FlavorType.TypeIdentifier != nodecore.TypeSensor {
			continue
		}
		id := string(f.UID) + "/" + f.ResourceVersion
		o, ok := r.offers[id]
		if !ok {
			read, err := sensor.FromFlavor(f)
			if err != nil {
				r.log.Warn("flavor is not served", "flavor", f.Namespace+"/"+f.Name, "err", err)
			}
			o = offer{Offer: read, id: id, flavor: f.Name, problem: err != nil}
		}
		known[id] = o
		if o.problem {
			continue
		}
		if other, ok := byKey[o.Key]; ok && precedence(other, o) <= 0 {
			continue
		}
		byKey[o.Key] = o
	}
	r.offers = known
	return byKey
}

func precedence(a, b offer) int {
	if a.Available != b.Available {
		if a.Available {
			return -1
		}
		return 1
	}
	return cmp.Compare(a.flavor, b.flavor)
}

// serve takes up a DataPath: what it selects and which endpoints it has.
func (r *Relay) serve(dp *sensors.DataPath, before *path, offers map[sensor.Key]offer) *path {
	p := &path{
		DataPath: accounts.DataPath{
			Namespace: dp.Namespace, Name: dp.Name, UID: string(dp.UID), Generation: dp.Generation,
		},
		verdicts:  make(map[string]bool, len(offers)),
		endpoints: map[string]*endpoint{},
	}
	var cached map[string]bool
	if before != nil {
		maps.Copy(p.endpoints, before.endpoints)
		if before.Generation == dp.Generation {
			cached = before.verdicts
		}
	}
	for _, o := range offers {
		selected, ok := cached[o.id]
		if !ok {
			v, err := r.cfg.Select(dp.Spec.Sensors, o.Offer)
			selected = err == nil && v.Selected
		}
		p.verdicts[o.id] = selected
		if selected {
			p.Matched++
		}
	}
	full := dp.Namespace + "/" + dp.Name
	for _, spec := range dp.Spec.Endpoints {
		if slices.Contains(p.order, spec.Name) {
			continue // the API server admits no two of one name
		}
		p.order = append(p.order, spec.Name)
		e := p.endpoints[spec.Name]
		if e != nil && !e.closed {
			e.update(spec.URL, dp.Generation)
			continue
		}
		e = r.newEndpoint(full, spec.Name, spec.URL, dp.Generation, e)
		p.endpoints[spec.Name] = e
		if r.start != nil {
			r.start(e)
		}
	}
	for name, e := range p.endpoints {
		if !slices.Contains(p.order, name) && !e.closed {
			r.drop(e)
		}
	}
	return p
}

// drop ends an endpoint that no DataPath names any more.
func (r *Relay) drop(e *endpoint) {
	if n := e.close(); n > 0 {
		r.log.Warn("endpoint removed with undelivered samples", "datapath", e.path, "endpoint", e.name, "dropped", n)
	}
}

// serving is true once Set was called and until Run ends.
func (r *Relay) serving() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.synced && !r.stopping
}

func (r *Relay) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping {
		return false
	}
	r.inFlight++
	return true
}

func (r *Relay) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inFlight--; r.inFlight == 0 && r.stopping {
		signal(r.settled)
	}
}

func (r *Relay) arrived(key sensor.Key, samples int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.counts[key]
	if c == nil {
		c = &accounts.Sensor{Namespace: key.Namespace, Device: key.Device, Part: key.Part}
		r.counts[key] = c
	}
	c.Arrivals++
	c.Samples += int64(samples)
	c.LastArrival = r.cfg.Clock.Now()
	signal(r.news)
}

func (r *Relay) refuse(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused[reason]++
}

// bump changes the revision. The caller holds mu.
func (r *Relay) bump() {
	r.revision++
	close(r.changed)
	r.changed = make(chan struct{})
}

var errNotSynced = errors.New("waiting for DataPaths and Flavors")
