package hollowedge

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"github.com/fluidos-edge/testbed/simulators/hollowedge/internal/devicecontroller"
	"github.com/fluidos-edge/testbed/simulators/hollowedge/internal/devicetwin"
)

// reconnectEvery is how often EdgeHub tries after a cut: twice its heartbeat.
const reconnectEvery = 30 * time.Second

// alwaysSubscribed is what EventBus uploads without any Rule.
var alwaysSubscribed = [...]string{"$hw/events/upload/#", "SYS/dis/upload_records", "+/user/#"}

// edge is one EdgeCore: EventBus with its subscriptions, EdgeHub with its
// throttle, the node's heartbeat and, if it has a socket for mappers, DeviceTwin.
// It has a goroutine only while messages wait.
type edge struct {
	r       *Runtime
	index   int
	node    Node
	limiter *rate.Limiter
	twin    *devicetwin.Node // nil: no mapper comes
	counts  counts           // of messages
	reports counts
	refused atomic.Int64 // requests of mappers

	mu        sync.Mutex
	router    *router
	devices   *devicecontroller.Controller
	connected bool                // the session with the cloud is up
	linkCut   bool                // by Disconnect
	cutAt     time.Time           // of the last cut
	attempt   int                 // counts cuts and mends; a reconnect of an older one is void
	loseNext  bool                // the next send fails, and its message is lost
	draining  bool                // a goroutine empties the queue
	queue     []message           // for the cloud
	exact     map[string]struct{} // subscribed topics
	wild      map[string]struct{} // subscribed filters with wildcards
	addr      net.Addr
	restored  func() // tells the heartbeats
}

// message is what a node uploads: what a client published, or a mapper's report.
type message struct {
	topic   string
	payload []byte
	report  *devicetwin.Report
	offline bool // queued while the node was cut off
}

// count is where a message counts.
func (e *edge) count(m message) *counts {
	if m.report != nil {
		return &e.reports
	}
	return &e.counts
}

func newEdge(r *Runtime, index int, n Node) *edge {
	e := &edge{
		r: r, index: index, node: n,
		limiter: rate.NewLimiter(rate.Limit(r.config.MessageQPS), r.config.MessageBurst),
		exact:   map[string]struct{}{},
		wild:    map[string]struct{}{},
	}
	for _, t := range alwaysSubscribed {
		e.filters(t)[t] = struct{}{}
	}
	return e
}

// attach is called once, before anything can be published or connected.
func (e *edge) attach(router *router, devices *devicecontroller.Controller, restored func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.router, e.devices, e.restored = router, devices, restored
}

func (e *edge) setAddress(a net.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.addr = a
}

// filters is the set that a filter belongs to.
func (e *edge) filters(filter string) map[string]struct{} {
	if strings.ContainsAny(filter, "+#") {
		return e.wild
	}
	return e.exact
}

// subscribe and unsubscribe are what the cloud says to a node. Either is lost
// while the node is cut off. There is one subscription for a filter, no matter
// how often it was subscribed.
func (e *edge) subscribe(filter string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.connected {
		e.filters(filter)[filter] = struct{}{}
	}
}

func (e *edge) unsubscribe(filter string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.connected {
		delete(e.filters(filter), filter)
	}
}

// publish takes what a client published at the node's broker.
func (e *edge) publish(topic string, payload []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.counts.published.Add(1)
	if !e.subscribed(topic) {
		e.counts.drop(dropUnsubscribed)
		return
	}
	e.enqueue(message{topic: topic, payload: asText(payload)})
}

// Report takes what a mapper reported. Unlike EventBus, DeviceTwin sends nothing
// once it knows that the node is cut off.
func (e *edge) Report(r devicetwin.Report) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reports.published.Add(1)
	if !e.connected && !e.loseNext {
		e.reports.drop(dropCut)
		return
	}
	e.enqueue(message{report: &r})
}

// Drop counts a report that goes nowhere.
func (e *edge) Drop(why devicetwin.Drop) {
	e.reports.published.Add(1)
	if why == devicetwin.DropUnknown {
		e.reports.drop(dropUnknown)
	} else {
		e.reports.drop(dropInvalid)
	}
}

// Refuse counts a mapper's request that came too soon.
func (e *edge) Refuse() { e.refused.Add(1) }

// Spawn runs a function in a goroutine that ends with the runtime.
func (e *edge) Spawn(f func(context.Context)) bool { return e.r.tasks.spawn(f) }

// enqueue is called with mu.
func (e *edge) enqueue(m message) {
	if len(e.queue) >= e.r.limit {
		e.count(m).drop(dropQueueFull)
		return
	}
	m.offline = !e.connected
	e.count(m).queued.Add(1)
	e.queue = append(e.queue, m)
	e.drain()
}

// asText copies a payload as EdgeHub uploads it: each byte that is not UTF-8
// becomes U+FFFD.
func asText(payload []byte) []byte {
	if utf8.Valid(payload) {
		return bytes.Clone(payload)
	}
	return []byte(string([]rune(string(payload))))
}

func (e *edge) subscribed(topic string) bool {
	if _, ok := e.exact[topic]; ok {
		return true
	}
	for f := range e.wild {
		if matches(f, topic) {
			return true
		}
	}
	return false
}

// matches tells whether an MQTT filter with wildcards covers a topic.
func matches(filter, topic string) bool {
	for {
		f, frest, fmore := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		t, trest, tmore := strings.Cut(topic, "/")
		if f != "+" && f != t {
			return false
		}
		if !fmore || !tmore {
			return fmore == tmore || (fmore && frest == "#")
		}
		filter, topic = frest, trest
	}
}

// drain sees to it that the queue is being emptied if it can be. Called with mu.
func (e *edge) drain() {
	if e.draining || len(e.queue) == 0 || (!e.connected && !e.loseNext) {
		return
	}
	e.draining = e.r.tasks.spawn(e.upload)
}

// upload sends what waits, one after the other and no faster than the throttle
// allows, until nothing waits or nothing can be sent.
func (e *edge) upload(ctx context.Context) {
	for {
		m, ok := e.next()
		if !ok {
			return
		}
		err := e.throttle(ctx)
		counts := e.count(m)
		counts.queued.Add(-1)
		switch {
		case err != nil:
			counts.drop(dropStopped)
			return
		case !e.sent():
			counts.drop(dropCut)
		case m.report != nil:
			e.devices.Report(*m.report)
			counts.forwarded.Add(1)
		default:
			e.router.message(e, m)
		}
	}
}

// next takes the first message off the queue. It counts as queued until the
// throttle lets it pass.
func (e *edge) next() (message, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.queue) == 0 || (!e.connected && !e.loseNext) {
		e.draining = false
		return message{}, false
	}
	m := e.queue[0]
	e.queue[0] = message{}
	e.queue = e.queue[1:]
	if len(e.queue) == 0 {
		e.queue = nil
	}
	return m, true
}

// sent tells whether a message that is sent now gets through. The first one
// after a cut does not, and with that EdgeHub knows.
func (e *edge) sent() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.connected {
		e.loseNext = false
	}
	return e.connected
}

func (e *edge) throttle(ctx context.Context) error {
	now := e.r.clock.Now()
	return wait(ctx, e.r, e.limiter.ReserveN(now, 1).DelayFrom(now))
}

// wait blocks for d on the runtime's clock.
func wait(ctx context.Context, r *Runtime, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := r.clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// cut takes the link away.
func (e *edge) cut() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.attempt++
	if e.linkCut {
		return
	}
	e.linkCut = true
	e.cutAt = e.r.clock.Now()
	if e.connected {
		e.connected, e.loseNext = false, true
	}
}

// mend gives the link back; the session follows when EdgeHub next tries.
func (e *edge) mend() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.linkCut {
		return
	}
	e.linkCut = false
	e.attempt++
	attempt := e.attempt
	since := e.r.clock.Since(e.cutAt)
	delay := reconnectEvery - since%reconnectEvery
	e.r.tasks.spawn(func(ctx context.Context) {
		if wait(ctx, e.r, delay) != nil {
			return
		}
		e.mu.Lock()
		current := e.attempt == attempt
		e.mu.Unlock()
		if current {
			e.connect()
		}
	})
}

// connect brings the session up, unless the link is cut. What was queued
// meanwhile comes out in no order.
func (e *edge) connect() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.linkCut || e.connected {
		return
	}
	e.connected, e.loseNext = true, false
	first := len(e.queue)
	for first > 0 && e.queue[first-1].offline {
		first--
	}
	late := e.queue[first:]
	random := rand.New(rand.NewPCG(e.r.seed, uint64(e.index)))
	random.Shuffle(len(late), func(i, j int) { late[i], late[j] = late[j], late[i] })
	e.drain()
	if !e.cutAt.IsZero() {
		e.restored()
	}
}

func (e *edge) isConnected() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.connected
}
