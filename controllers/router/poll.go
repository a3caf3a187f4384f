package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/fluidos-edge/testbed/controllers/api/accounts"
)

const (
	pollIdle    = 2 * time.Second        // between two requests when nothing is awaited
	pollFast    = 200 * time.Millisecond // ... from a relay that does not wait itself
	pollWait    = 2 * time.Second        // how long a relay is asked to wait
	pollTimeout = 5 * time.Second
	// refreshTimeout bounds how long the planner waits for what is only a safeguard.
	refreshTimeout = time.Second
	maxAccounts    = 64 << 20
	revisionName   = "X-Revision"
)

// poller asks one relay for its accounts: every pollIdle, or, while urgent,
// again and again, each request answered when something has changed.
type poller struct {
	url    string
	token  string
	client *http.Client
	clock  clock.WithTicker
	notify func() // the answer is another one
	kick   chan struct{}

	mu       sync.Mutex
	urgent   bool
	last     replica
	body     string
	revision string
}

func newPoller(url, token string, client *http.Client, clk clock.WithTicker, notify func()) *poller {
	return &poller{
		url: strings.TrimRight(url, "/"), token: token, client: client, clock: clk, notify: notify,
		kick: make(chan struct{}, 1), last: replica{url: url},
	}
}

// state is what the relay said last.
func (p *poller) state() replica {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

func (p *poller) setUrgent(urgent bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if urgent && !p.urgent {
		select {
		case p.kick <- struct{}{}:
		default:
		}
	}
	p.urgent = urgent
}

// run asks until ctx ends.
func (p *poller) run(ctx context.Context) {
	retry := pollFast
	for {
		p.mu.Lock()
		urgent, after := p.urgent, p.revision
		p.mu.Unlock()
		if !urgent {
			after = ""
		}
		began := p.clock.Now()
		a, body, revision, err := p.fetch(ctx, after)
		if ctx.Err() != nil {
			return
		}
		if p.store(a, body, revision, err) {
			p.notify()
		}
		var rest time.Duration
		switch {
		case err != nil:
			rest = retry
			retry = min(2*retry, pollIdle)
		case !urgent:
			rest = pollIdle
		case revision == "" || revision == after && p.clock.Since(began) < pollFast:
			rest = pollFast
		}
		if err == nil {
			retry = pollFast
		}
		if rest == 0 {
			continue
		}
		timer := p.clock.NewTimer(rest)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-p.kick:
			timer.Stop()
		case <-timer.C():
		}
	}
}

// refresh asks for the accounts as they are now, beside run. A relay that does not
// answer at once is left to run.
func (p *poller) refresh(ctx context.Context) replica {
	if p.state().err == nil {
		ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
		defer cancel()
		if a, body, revision, err := p.fetch(ctx, ""); err == nil && p.store(a, body, revision, nil) {
			p.notify()
		}
	}
	return p.state()
}

// store an answer; true if it is another one.
func (p *poller) store(a *accounts.Accounts, body, revision string, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.last
	p.last.err = err
	if err != nil {
		return before.err == nil || before.err.Error() != err.Error()
	}
	changed := before.err != nil || p.body != body
	p.last.accounts, p.body, p.revision = a, body, revision
	return changed
}

func (p *poller) fetch(ctx context.Context, after string) (*accounts.Accounts, string, string, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	target := p.url + "/v1/accounts"
	if after != "" {
		target += "?" + url.Values{"after": {after}, "wait": {pollWait.String()}}.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, "", "", err
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, "", "", fmt.Errorf("accounts: %w", cause(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAccounts))
	if err != nil {
		return nil, "", "", fmt.Errorf("accounts: %w", cause(err))
	}
	if resp.StatusCode != http.StatusOK {
		return nil, "", "", fmt.Errorf("accounts: %s: %s", resp.Status, strings.TrimSpace(string(body[:min(len(body), 200)])))
	}
	var a accounts.Accounts
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, "", "", fmt.Errorf("accounts: %w", err)
	}
	if a.Instance == "" {
		return nil, "", "", fmt.Errorf("accounts: no instance in %d bytes: not a relay", len(body))
	}
	return &a, string(body), resp.Header.Get(revisionName), nil
}

// cause is an error without what differs between two tries that fail for one
// reason: the query and our own port.
func cause(err error) error {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		err = e.Err
	}
	if e := (*net.OpError)(nil); errors.As(err, &e) {
		err = fmt.Errorf("%s: %w", e.Op, e.Err)
	}
	return err
}
