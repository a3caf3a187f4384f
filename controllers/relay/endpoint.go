package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
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
	batchLines  = 500
	batchBytes  = 256 << 10
	postTimeout = 10 * time.Second
	backoffMin  = 100 * time.Millisecond
	backoffMax  = 5 * time.Second
)

// endpoint is the queue and the account of one endpoint of one DataPath. Its
// worker (run) is the only one that delivers, in the order of the queue.
// At any time accepted = delivered + queued + dropped.
type endpoint struct {
	path, name string // for logs: "<namespace>/<name>" of the DataPath, name of the endpoint
	limit      int
	wake       chan struct{} // something is waiting
	settled    chan<- struct{}
	cancel     context.CancelFunc // ends the worker; nil until it runs

	mu        sync.Mutex
	url       string
	moved     chan struct{} // closed when url changes
	waiting   ring
	underway  int // lines taken from waiting and not settled
	accepted  int64
	delivered int64
	dropped   map[string]int64
	lastError string
	closed    bool
}

// newEndpoint continues the account of a predecessor of the same name, if any.
func newEndpoint(path, name, url string, limit int, settled chan<- struct{}, before *endpoint) *endpoint {
	e := &endpoint{
		path: path, name: name, url: url, limit: limit, settled: settled,
		wake: make(chan struct{}, 1), moved: make(chan struct{}), dropped: map[string]int64{},
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

// move changes where the queue goes. A batch that is being retried goes there
// at once.
func (e *endpoint) move(url string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.url == url {
		return
	}
	e.url = url
	close(e.moved)
	e.moved = make(chan struct{})
}

// close drops what waits or is under way and ends the worker. It returns how
// many samples were dropped.
func (e *endpoint) close() int {
	e.mu.Lock()
	n := e.waiting.len() + e.underway
	if n > 0 {
		e.dropped[droppedRemoved] += int64(n)
	}
	e.waiting, e.underway, e.closed = ring{}, 0, true
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
	return e.waiting.len() + e.underway
}

func (e *endpoint) account() accounts.Endpoint {
	e.mu.Lock()
	defer e.mu.Unlock()
	return accounts.Endpoint{
		Name: e.name, URL: e.url, Accepted: e.accepted, Delivered: e.delivered,
		Queued: int64(e.waiting.len() + e.underway), Dropped: maps.Clone(e.dropped), LastError: e.lastError,
	}
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
	e.underway = len(batch)
	return batch
}

// settle ends n lines of a batch: delivered, or refused for a reason.
func (e *endpoint) settle(n int, refused string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed { // counted as removed already
		return
	}
	e.underway -= n
	e.lastError = refused
	if refused != "" {
		e.dropped[droppedRefused] += int64(n)
	} else {
		e.delivered += int64(n)
	}
	if e.underway == 0 && e.waiting.len() == 0 {
		signal(e.settled)
	}
}

// run delivers until ctx ends. Lines that come while a POST is under way go
// with the next one.
func (e *endpoint) run(ctx context.Context, client *http.Client, clk clock.WithTicker) {
	for ctx.Err() == nil {
		batch := e.take()
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
			case <-e.wake:
			}
			continue
		}
		e.deliver(ctx, client, clk, batch)
	}
}

// deliver posts a batch and, where the endpoint refuses it for its content, its
// halves, first half first, so that one bad line costs one line.
func (e *endpoint) deliver(ctx context.Context, client *http.Client, clk clock.WithTicker, batch [][]byte) {
	for todo := [][][]byte{batch}; len(todo) > 0; {
		lines := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		err := e.insist(ctx, client, clk, append(bytes.Join(lines, newline), '\n'))
		var r refusal
		switch {
		case err == nil:
			e.settle(len(lines), "")
		case !errors.As(err, &r):
			return // ctx ended
		case len(lines) == 1:
			e.settle(1, r.Error())
		default:
			half := len(lines) / 2
			todo = append(todo, lines[half:], lines[:half])
		}
	}
}

// insist posts the same bytes until the endpoint takes or refuses them. Any
// error other than a refusal means that ctx ended.
func (e *endpoint) insist(ctx context.Context, client *http.Client, clk clock.WithTicker, body []byte) error {
	for wait := backoffMin; ; wait = min(2*wait, backoffMax) {
		e.mu.Lock()
		url, moved := e.url, e.moved
		e.mu.Unlock()
		err := post(ctx, client, url, body)
		var r refusal
		if err == nil || errors.As(err, &r) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		e.mu.Lock()
		e.lastError = err.Error()
		e.mu.Unlock()
		timer := clk.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-moved:
			timer.Stop()
			wait = backoffMin / 2
		case <-timer.C():
		}
	}
}

// refusal is an endpoint's judgement of the content that it was sent: sending
// the same again cannot help.
type refusal string

func (r refusal) Error() string { return string(r) }

func post(ctx context.Context, client *http.Client, url string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, postTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<10)) // also lets the connection be used again
	if resp.StatusCode/100 == 2 {
		return nil
	}
	text := strings.ToValidUTF8(strings.TrimSpace(string(said[:min(len(said), 200)])), "?")
	msg := strings.TrimSuffix(fmt.Sprintf("POST %s: %s: %s", url, resp.Status, text), ": ")
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return refusal(msg)
	}
	// Everything else is about the endpoint (its credentials, its path, its
	// load), which people and time mend: the samples wait.
	return errors.New(msg)
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
