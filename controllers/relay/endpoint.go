package relay

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net/http"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/fluidos-edge/testbed/controllers/api/accounts"
)

// Why a sample was dropped; see EndpointStatus.
const (
	droppedOverflow = "overflow"
	droppedRefused  = "refused"
	droppedRemoved  = "removed"
)

const (
	batchLines = 500
	batchBytes = 256 << 10
	// postTimeout ends an attempt, and backoffMax is the longest pause after one. An
	// endpoint that returns is posted to after at most the sum of both, which leaves
	// the router time to show it as delivering within 15 s.
	postTimeout = 7 * time.Second
	backoffMin  = 100 * time.Millisecond
	backoffMax  = 2 * time.Second
)

// endpoint is the queue and the account of one endpoint of one DataPath. Its
// worker (run) is the only one that delivers, in the order of the queue.
// At any time accepted = delivered + queued + dropped.
type endpoint struct {
	path, name string // for logs: "<namespace>/<name>" of the DataPath, name of the endpoint
	limit      int
	clock      clock.WithTicker
	wake       chan struct{} // something is waiting
	settled    chan<- struct{}
	news       chan<- struct{}    // health has changed
	cancel     context.CancelFunc // ends the worker; nil until it runs

	mu         sync.Mutex
	url        string
	generation int64         // of the DataPath
	urlChanged chan struct{} // closed when url changes
	waiting    ring
	inFlight   int // lines taken from waiting and not settled
	accepted   int64
	delivered  int64
	dropped    map[string]int64
	health     health
	closed     bool
}

// newEndpoint returns an endpoint that nothing was posted to. It continues the
// counts of a predecessor of the same name, if there is one.
func (r *Relay) newEndpoint(path, name, url string, generation int64, before *endpoint) *endpoint {
	e := &endpoint{
		path: path, name: name, limit: r.cfg.Queue, clock: r.cfg.Clock, settled: r.settled, news: r.news,
		url: url, generation: generation, urlChanged: make(chan struct{}),
		wake: make(chan struct{}, 1), dropped: map[string]int64{},
	}
	if before != nil {
		before.mu.Lock()
		defer before.mu.Unlock()
		e.accepted, e.delivered, e.dropped = before.accepted, before.delivered, maps.Clone(before.dropped)
	}
	return e
}

// push queues lines; of what does not fit, the oldest waiting lines go.
func (e *endpoint) push(lines [][]byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	e.accepted += int64(len(lines))
	for _, l := range lines {
		if e.waiting.len() >= e.limit {
			e.waiting.pop()
			e.dropped[droppedOverflow]++
		}
		e.waiting.push(l)
	}
	signal(e.wake)
}

// update takes up a generation of the DataPath. What waits goes to its URL, a
// batch that is being retried at once. Nothing counts as delivered until a batch
// that is posted from now on was taken; what is known to be wrong with a URL
// stays known while the URL stays.
func (e *endpoint) update(url string, generation int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.generation != generation {
		e.generation, e.health.lastDelivery = generation, time.Time{}
	}
	if e.url != url {
		e.url, e.health = url, health{}
		close(e.urlChanged)
		e.urlChanged = make(chan struct{})
	}
}

// close drops what waits or is in flight and ends the worker. It returns how
// many samples were dropped.
func (e *endpoint) close() int {
	e.mu.Lock()
	n := e.waiting.len() + e.inFlight
	if n > 0 {
		e.dropped[droppedRemoved] += int64(n)
	}
	e.waiting, e.inFlight, e.closed = ring{}, 0, true
	cancel := e.cancel
	e.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	return n
}

func (e *endpoint) pending() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.waiting.len() + e.inFlight
}

func (e *endpoint) account() accounts.Endpoint {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := accounts.Endpoint{
		Name: e.name, URL: e.url, Accepted: e.accepted, Delivered: e.delivered,
		Queued: int64(e.waiting.len() + e.inFlight), Dropped: maps.Clone(e.dropped),
		LastDelivery: e.health.lastDelivery, LastError: e.health.cause.text,
	}
	if f, since := e.health.failing(e.clock.Now()); f.reason != "" {
		a.FailingSince, a.Reason, a.LastError = since, f.reason, f.text
	}
	return a
}

// take begins a batch with what waits; it is empty if nothing does.
func (e *endpoint) take() [][]byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	var batch [][]byte
	for size := 0; e.waiting.len() > 0 && len(batch) < batchLines; {
		if size += len(e.waiting.first()) + 1; size > batchBytes && len(batch) > 0 {
			break
		}
		batch = append(batch, e.waiting.pop())
	}
	e.inFlight = len(batch)
	return batch
}

// settle ends n lines of a batch: delivered, or dropped because they were refused.
func (e *endpoint) settle(n int, refused bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed { // counted as removed already
		return
	}
	e.inFlight -= n
	if refused {
		e.dropped[droppedRefused] += int64(n)
	} else {
		e.delivered += int64(n)
	}
	if e.inFlight == 0 && e.waiting.len() == 0 {
		signal(e.settled)
	}
}

// run delivers until ctx ends. Lines that come while a POST is in flight go with
// the next one.
func (e *endpoint) run(ctx context.Context, transport http.RoundTripper) {
	for ctx.Err() == nil {
		batch := e.take()
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
			case <-e.wake:
			}
			continue
		}
		e.deliver(ctx, transport, batch)
	}
}

// deliver posts a batch and, where the endpoint refuses it for its content, its
// halves, first half first, so that one bad line costs one line.
func (e *endpoint) deliver(ctx context.Context, transport http.RoundTripper, batch [][]byte) {
	whole, last := true, target{}
	for todo := [][][]byte{batch}; len(todo) > 0; {
		lines := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		to, err := e.postUntilSettled(ctx, transport, append(bytes.Join(lines, newline), '\n'))
		last = to
		var f failure
		switch {
		case err == nil:
			e.settle(len(lines), false)
		case !errors.As(err, &f):
			return // ctx ended
		case len(lines) == 1:
			e.settle(1, true)
			e.refused(to, f)
			whole = false
		default:
			half := len(lines) / 2
			todo = append(todo, lines[half:], lines[:half])
		}
	}
	e.endBatch(last, whole)
}

// target is where one attempt goes, and for which generation of the DataPath.
type target struct {
	url        string
	generation int64
}

// postUntilSettled posts the same bytes until the endpoint takes them (no error)
// or refuses them for their content (a failure), and returns the target of the
// last attempt. Any other error means that ctx ended.
func (e *endpoint) postUntilSettled(ctx context.Context, transport http.RoundTripper, body []byte) (target, error) {
	for wait := backoffMin; ; wait = min(2*wait, backoffMax) {
		to, urlChanged := e.beginAttempt()
		err := post(ctx, transport, to.url, body)
		var f failure
		if settled := !errors.As(err, &f) || f.reason == accounts.ReasonRefusesSamples; settled {
			e.endBody(to)
			return to, err
		}
		if ctx.Err() != nil {
			return to, ctx.Err()
		}
		e.failedAttempt(to, f)
		timer := e.clock.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return to, ctx.Err()
		case <-urlChanged:
			timer.Stop()
			wait = backoffMin / 2
		case <-timer.C():
		}
	}
}

// ring is a queue of lines that keeps no line after its pop.
type ring struct {
	lines [][]byte
	head  int
}

func (r *ring) len() int      { return len(r.lines) - r.head }
func (r *ring) first() []byte { return r.lines[r.head] }
func (r *ring) push(l []byte) { r.lines = append(r.lines, l) }

func (r *ring) pop() []byte {
	l := r.lines[r.head]
	r.lines[r.head] = nil
	r.head++
	if r.head > 64 && 2*r.head >= len(r.lines) {
		n := copy(r.lines, r.lines[r.head:])
		clear(r.lines[n:])
		r.lines, r.head = r.lines[:n], 0
	}
	return l
}

// signal wakes a waiter if it does not know yet.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
