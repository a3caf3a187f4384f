//go:build bluetooth

package bluetooth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/fluidos-edge/testbed/simulators/radio"
)

const (
	// unreadNotifications is how many notifications of one subscription, and
	// unreadAdvertisements how many advertisements, wait for their reader.
	unreadNotifications  = 256
	unreadAdvertisements = 1024
	// patience with the host where no caller's context bounds a call.
	patience = 10 * time.Second
	// leastScan is how long a scan may go on before it pauses for a connection,
	// so that boards that cannot be connected do not hide the others. It is the
	// pause after a scan that failed, too.
	leastScan = time.Second
)

// Central is one adapter as the mapper uses it. It is safe for concurrent use.
type Central struct {
	log   *slog.Logger
	stack stack
	air   *air
	done  chan struct{}
	tasks sync.WaitGroup // the scan, and each peer until it is let go

	mu       sync.Mutex
	err      error // why the adapter is gone
	scanning bool
	peers    map[radio.Address]*Peer // until they are let go
}

// Open takes an adapter, by its name as in `bluetoothctl list` or `hciconfig`;
// "" is hci0. It must be powered. ctx bounds the opening only; the Central lives
// until Close or until the adapter, the Bluetooth daemon or the bus goes away.
func Open(ctx context.Context, adapter string, log *slog.Logger) (*Central, error) {
	return open(ctx, log, func(n news) (stack, error) { return openBlueZ(adapter, n) })
}

func open(ctx context.Context, log *slog.Logger, dial func(news) (stack, error)) (*Central, error) {
	c := &Central{
		log: log, air: newAir(), done: make(chan struct{}), peers: map[radio.Address]*Peer{},
	}
	n := news{link: c.link, gone: c.end}
	s, err := within(ctx, nil, func() (stack, error) { return dial(n) }, func(s stack, err error) {
		if err == nil {
			_ = s.Close()
		}
	})
	if err != nil {
		return nil, fmt.Errorf("bluetooth: %w", err)
	}
	c.stack = s
	return c, nil
}

// Done is closed when the adapter is gone; every Peer is gone then too.
func (c *Central) Done() <-chan struct{} { return c.done }

// Err says why the adapter is gone, nil while it is there. It wraps
// radio.ErrDisconnected.
func (c *Central) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends every connection, and waits until the boards are let go. It may be
// called again.
func (c *Central) Close() error {
	c.end(errors.New("closed"))
	c.tasks.Wait()
	return c.stack.Close()
}

// end makes the adapter gone for everyone; the first reason stays.
func (c *Central) end(reason error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = fmt.Errorf("%w: %w", radio.ErrDisconnected, reason)
	peers := make([]*Peer, 0, len(c.peers))
	for _, p := range c.peers {
		peers = append(peers, p)
	}
	c.mu.Unlock()
	for _, p := range peers {
		p.end(c.err)
	}
	close(c.done)
}

// link is told that a board may have lost its connection.
func (c *Central) link(mac radio.Address) {
	c.mu.Lock()
	p := c.peers[mac]
	c.mu.Unlock()
	if p != nil {
		p.hint()
	}
}

// Scan yields advertisements until ctx ends or the adapter goes away; then the
// channel is closed. It pauses while a board is being connected, and is taken up
// again by itself when it fails. Advertisements that are not read in time are
// lost. There is one scan at a time.
func (c *Central) Scan(ctx context.Context) (<-chan radio.Advertisement, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return nil, fmt.Errorf("scan: %w", c.err)
	case c.scanning:
		return nil, errors.New("scan: one is under way already")
	}
	c.scanning = true
	found := make(chan radio.Advertisement, unreadAdvertisements)
	c.tasks.Go(func() {
		c.scan(ctx, found)
		c.mu.Lock()
		c.scanning = false
		c.mu.Unlock()
		close(found)
	})
	return found, nil
}

func (c *Central) scan(ctx context.Context, found chan<- radio.Advertisement) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.tasks.Go(func() {
		select {
		case <-c.done:
			cancel()
		case <-ctx.Done():
		}
	})
	var last string
	for ctx.Err() == nil {
		err := c.air.listen(ctx, func(ctx context.Context) error {
			_, err := guard(plain(func() error {
				return c.stack.Scan(ctx, func(s sighting) {
					select {
					case found <- c.advertisement(s):
					default: // or it is lost in the air
					}
				})
			}))
			return err
		})
		if err == nil || ctx.Err() != nil {
			last = ""
			continue
		}
		if text := err.Error(); text != last { // once in a row
			c.log.Warn("scan is taken up again", "err", err)
			last = text
		}
		select {
		case <-time.After(leastScan):
		case <-ctx.Done():
		}
	}
}

func (c *Central) advertisement(s sighting) radio.Advertisement {
	c.mu.Lock()
	defer c.mu.Unlock()
	return radio.Advertisement{
		Address: s.Address, RSSI: int8(min(max(s.RSSI, -128), 127)),
		Payload: payload(s.Name, s.Manufacturer), Connectable: c.peers[s.Address] == nil,
	}
}

// Connect takes the connection of one board. radio.ErrBusy: this Central has
// connected it already. radio.ErrUnknown: the adapter has not heard it. The Peer
// lives until its Close, the loss of its connection, or the adapter's end; ctx
// bounds the connecting only, including the wait for other boards that are being
// connected and for an earlier connection of this board that is still let go.
func (c *Central) Connect(ctx context.Context, mac radio.Address) (*Peer, error) {
	p, err := c.reserve(ctx, mac)
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", mac, err)
	}
	if err := p.connect(ctx); err != nil {
		p.end(err) // or it has ended already, and knows better why
		select {
		case <-p.gone:
		case <-ctx.Done():
		case <-c.done:
		}
		return nil, fmt.Errorf("connect %s: %w", mac, p.Err())
	}
	return p, nil
}

// reserve a board for one Peer.
func (c *Central) reserve(ctx context.Context, mac radio.Address) (*Peer, error) {
	for {
		c.mu.Lock()
		if c.err != nil {
			defer c.mu.Unlock()
			return nil, c.err
		}
		old := c.peers[mac]
		if old == nil {
			defer c.mu.Unlock()
			p := newPeer(c, mac)
			c.peers[mac] = p
			c.tasks.Add(1) // until it is let go
			return p, nil
		}
		c.mu.Unlock()
		if old.Err() == nil {
			return nil, radio.ErrBusy
		}
		select {
		case <-old.gone:
		case <-ctx.Done():
			return nil, fmt.Errorf("its earlier connection is still let go: %w", ctx.Err())
		}
	}
}

// forget a peer: its board may be connected anew.
func (c *Central) forget(p *Peer) {
	c.mu.Lock()
	delete(c.peers, p.mac)
	c.mu.Unlock()
	close(p.gone)
	c.tasks.Done()
}

// air is what the scan and those who connect share, one at a time and in turn:
// BlueZ refuses some connections during a scan, and loses others.
type air struct {
	token  chan struct{} // room for one
	wanted chan struct{} // room for one: look at waiting

	mu      sync.Mutex
	waiting int // who want to connect
}

func newAir() *air {
	return &air{token: make(chan struct{}, 1), wanted: make(chan struct{}, 1)}
}

// take the air to connect, until it is released.
func (a *air) take(ctx context.Context, ended <-chan struct{}) (release func(), err error) {
	a.wait(1)
	defer a.wait(-1)
	select {
	case a.wanted <- struct{}{}:
	default:
	}
	select {
	case a.token <- struct{}{}:
		return func() { <-a.token }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("other boards are being connected: %w", ctx.Err())
	case <-ended:
		return nil, errEnded
	}
}

func (a *air) wait(n int) (waiting int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting += n
	return a.waiting
}

// listen has the air while scan runs. When somebody wants to connect, it ends the
// context of scan and returns nil.
func (a *air) listen(ctx context.Context, scan func(context.Context) error) error {
	select {
	case a.token <- struct{}{}:
		defer func() { <-a.token }()
	case <-ctx.Done():
		return ctx.Err()
	}
	scanCtx, cancel := context.WithCancel(ctx)
	var yielding sync.WaitGroup
	yielding.Go(func() {
		defer cancel()
		select {
		case <-time.After(leastScan):
		case <-scanCtx.Done():
			return
		}
		for a.wait(0) == 0 {
			select {
			case <-a.wanted:
			case <-scanCtx.Done():
				return
			}
		}
	})
	err := scan(scanCtx)
	yielded := scanCtx.Err() != nil && ctx.Err() == nil
	cancel()
	yielding.Wait()
	switch {
	case yielded:
		return nil
	case err == nil:
		return errors.New("scan: ended by the host")
	}
	return err
}
