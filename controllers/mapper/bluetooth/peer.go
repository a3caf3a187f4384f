//go:build bluetooth

package bluetooth

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/google/uuid"

	"github.com/fluidos-edge/testbed/simulators/radio"
)

// maxValue is the longest value of a characteristic.
const maxValue = 512

// Peer is the connection of one board. It is safe for concurrent use.
type Peer struct {
	c     *Central
	mac   radio.Address
	done  chan struct{} // the connection is gone
	gone  chan struct{} // and let go: the board may be connected again
	turn  chan struct{} // room for one: the call under way
	hints chan struct{} // room for one: the connection may be lost

	mu     sync.Mutex
	err    error         // why the connection is gone
	trying chan struct{} // closed when the attempt to connect is over; nil before it began
	device device        // nil if there never was a connection
	failed error         // why not
	found  map[string]characteristic
	subs   map[string]*subscription

	// notifying are those whose Notify is on. It belongs to whoever has the turn.
	notifying map[string]characteristic
}

type subscription struct {
	ch chan radio.Notification
	// unwatch lets go of the reader's context; nil before the board is told.
	unwatch func() bool
}

func (s *subscription) close() {
	if s.unwatch != nil {
		s.unwatch()
	}
	close(s.ch)
}

func newPeer(c *Central, mac radio.Address) *Peer {
	return &Peer{
		c: c, mac: mac, done: make(chan struct{}), gone: make(chan struct{}),
		turn: make(chan struct{}, 1), hints: make(chan struct{}, 1),
		subs: map[string]*subscription{}, notifying: map[string]characteristic{},
	}
}

// Address of the board.
func (p *Peer) Address() radio.Address { return p.mac }

// Done is closed when the connection is gone.
func (p *Peer) Done() <-chan struct{} { return p.done }

// Err says why the connection is gone, nil while it is there. It wraps
// radio.ErrDisconnected.
func (p *Peer) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Close ends the connection; the board advertises again. It may be called again.
func (p *Peer) Close() error {
	p.end(fmt.Errorf("%w: closed", radio.ErrDisconnected))
	return nil
}

// connect makes the connection.
func (p *Peer) connect(ctx context.Context) error {
	release, err := p.c.air.take(ctx, p.done)
	if err != nil {
		return err
	}
	defer release()
	if !p.try() {
		return errEnded
	}
	select {
	case <-p.trying:
	case <-ctx.Done():
		return ctx.Err()
	case <-p.done:
		return errEnded
	}
	if p.failed != nil {
		return p.failed
	}
	// From here on a loss is noticed; what was lost before is seen now.
	go p.watch()
	up, err := within(ctx, p.done, p.device.Connected, nil)
	if err == nil && !up {
		err = fmt.Errorf("%w: lost again at once", radio.ErrDisconnected)
	}
	return err
}

// try begins the attempt to connect unless the peer has ended.
func (p *Peer) try() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return false
	}
	trying := make(chan struct{})
	p.trying = trying
	go func() {
		defer close(trying)
		d, err := guard(func() (device, error) { return p.c.stack.Connect(p.mac) })
		p.mu.Lock()
		defer p.mu.Unlock()
		if err != nil {
			p.failed = err
			return
		}
		p.device = d
	}()
	return true
}

// hint says that the connection may be lost.
func (p *Peer) hint() {
	select {
	case p.hints <- struct{}{}:
	default:
	}
}

// watch ends the peer when its connection is lost. A hint may be an old one, of
// the connection before: the host is asked.
func (p *Peer) watch() {
	for {
		select {
		case <-p.hints:
		case <-p.done:
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		up, err := within(ctx, p.done, p.device.Connected, nil)
		cancel()
		switch {
		case err != nil:
			p.end(fmt.Errorf("%w: asked for its connection: %w", radio.ErrDisconnected, err))
		case !up:
			p.end(fmt.Errorf("%w: connection lost", radio.ErrDisconnected))
		}
	}
}

// end makes the connection gone for everyone here; the first reason stays. It
// never blocks: the board is let go beside.
func (p *Peer) end(reason error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return
	}
	p.err = reason
	for _, sub := range p.subs {
		sub.close()
	}
	p.subs = nil
	close(p.done)
	go p.letGo()
}

// letGo waits for the attempt to connect, if one is under way, ends the
// connection on the host, and then what the host kept for it.
func (p *Peer) letGo() {
	defer p.c.forget(p)
	p.mu.Lock()
	trying := p.trying
	p.mu.Unlock()
	if trying == nil {
		return
	}
	log := p.c.log.With("mac", p.mac)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	select {
	case <-trying:
	default:
		if _, err := within(ctx, nil, plain(func() error { return p.c.stack.Abort(p.mac) }), nil); err != nil {
			log.Debug("attempt to connect was not aborted", "err", err)
		}
		select {
		case <-trying:
		case <-ctx.Done():
			log.Warn("attempt to connect does not end", "after", patience)
			go p.orphan()
			return
		}
	}
	if p.device == nil {
		return
	}
	if _, err := within(ctx, nil, plain(p.device.Disconnect), nil); err != nil {
		log.Debug("board was not disconnected", "err", err)
	}
	select {
	case p.turn <- struct{}{}: // and keep it: there are no calls any more
	case <-ctx.Done():
		log.Warn("call to a board does not end", "after", patience)
		return
	}
	for _, c := range p.notifying {
		if _, err := within(ctx, nil, plain(c.Silence), nil); err != nil {
			log.Debug("notifications were not ended", "err", err)
		}
	}
}

// orphan waits for an attempt to connect that was given up, and undoes it unless
// the board is somebody else's by then.
func (p *Peer) orphan() {
	<-p.trying
	p.c.mu.Lock()
	other := p.c.peers[p.mac]
	p.c.mu.Unlock()
	if p.device != nil && (other == nil || other == p) {
		_, _ = guard(plain(p.device.Disconnect))
	}
}

// perform makes a call to the board when it is its turn. It also ends with the
// connection. A call that was given up keeps the turn until it is over.
func perform[T any](ctx context.Context, p *Peer, call func() (T, error)) (T, error) {
	var zero T
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return zero, ctx.Err()
	case <-p.done:
		return zero, p.Err()
	}
	if err := p.Err(); err != nil {
		<-p.turn
		return zero, err
	}
	v, err := within(ctx, p.done, func() (T, error) {
		defer func() { <-p.turn }()
		return call()
	}, nil)
	if err == nil {
		return v, nil
	}
	if why := p.Err(); why != nil {
		return zero, why // it knows why better than the call
	}
	if ctx.Err() == nil {
		p.hint()
	}
	return zero, err
}

// Discover lists the board's characteristics.
func (p *Peer) Discover(ctx context.Context) ([]radio.Characteristic, error) {
	all, err := perform(ctx, p, func() ([]characteristic, error) { return p.device.Discover() })
	if err != nil {
		return nil, fmt.Errorf("discover %s: %w", p.mac, err)
	}
	found := make(map[string]characteristic, len(all))
	described := make([]radio.Characteristic, len(all))
	for i, c := range all {
		described[i] = c.Describe()
		found[described[i].UUID] = c
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.found == nil { // those that are used keep what they know
		p.found = found
	}
	return described, nil
}

// characteristic by its UUID, in any form; the board is asked once.
func (p *Peer) characteristic(ctx context.Context, id string) (characteristic, string, error) {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return nil, "", err
	}
	p.mu.Lock()
	known := p.found != nil
	p.mu.Unlock()
	if !known {
		if _, err := p.Discover(ctx); err != nil {
			return nil, "", err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.found[parsed.String()]
	if c == nil {
		return nil, "", radio.ErrUnknown
	}
	return c, parsed.String(), nil
}

// Read a characteristic's value.
func (p *Peer) Read(ctx context.Context, characteristic string) ([]byte, error) {
	c, _, err := p.characteristic(ctx, characteristic)
	var value []byte
	if err == nil {
		value, err = perform(ctx, p, c.Read)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", characteristic, p.mac, err)
	}
	return value, nil
}

// Write value, at most 512 bytes, and wait until the board has taken it, or, if
// the characteristic takes commands only, the host. What a console answers comes
// as notifications.
func (p *Peer) Write(ctx context.Context, characteristic string, value []byte) error {
	if len(value) > maxValue {
		return fmt.Errorf("write %s of %s: %d bytes, at most %d", characteristic, p.mac, len(value), maxValue)
	}
	c, _, err := p.characteristic(ctx, characteristic)
	if err == nil {
		value := append([]byte(nil), value...) // it may be written after ctx has ended
		_, err = perform(ctx, p, plain(func() error { return c.Write(value) }))
	}
	if err != nil {
		return fmt.Errorf("write %s of %s: %w", characteristic, p.mac, err)
	}
	return nil
}

// Subscribe yields the characteristic's notifications until ctx ends (then it is
// unsubscribed) or the connection goes; then the channel is closed. Whoever does
// not read 256 of them loses the connection. There is one subscription of a
// characteristic at a time.
func (p *Peer) Subscribe(ctx context.Context, characteristic string) (<-chan radio.Notification, error) {
	sub, err := p.subscribe(ctx, characteristic)
	if err != nil {
		return nil, fmt.Errorf("subscribe %s of %s: %w", characteristic, p.mac, err)
	}
	return sub.ch, nil
}

func (p *Peer) subscribe(ctx context.Context, characteristic string) (*subscription, error) {
	c, id, err := p.characteristic(ctx, characteristic)
	if err != nil {
		return nil, err
	}
	sub := &subscription{ch: make(chan radio.Notification, unreadNotifications)}
	p.mu.Lock()
	switch {
	case p.err != nil:
		defer p.mu.Unlock()
		return nil, p.err
	case p.subs[id] != nil:
		defer p.mu.Unlock()
		return nil, errors.New("subscribed already")
	}
	p.subs[id] = sub // before the board is told: the first notification may follow at once
	p.mu.Unlock()
	stop := func() {
		p.mu.Lock()
		mine := p.subs[id] == sub
		if mine {
			delete(p.subs, id)
			sub.close()
		}
		p.mu.Unlock()
		if mine {
			go p.silence(id)
		}
	}
	_, err = perform(ctx, p, plain(func() error {
		if p.notifying[id] != nil { // of a subscription that has just ended
			if err := c.Silence(); err != nil {
				return err
			}
			delete(p.notifying, id)
		}
		if err := c.Notify(func(value []byte) { p.deliver(id, sub, value) }); err != nil {
			return err
		}
		p.notifying[id] = c
		return nil
	}))
	if err != nil {
		stop()
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.subs[id] == sub {
		sub.unwatch = context.AfterFunc(ctx, stop)
	}
	return sub, nil
}

// silence tells the board that nobody wants the characteristic's notifications,
// if that is still so when it is its turn.
func (p *Peer) silence(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := perform(ctx, p, plain(func() error {
		p.mu.Lock()
		wanted := p.subs[id] != nil
		p.mu.Unlock()
		c := p.notifying[id]
		if wanted || c == nil {
			return nil
		}
		delete(p.notifying, id)
		return c.Silence()
	}))
	if err != nil && p.Err() == nil {
		p.c.log.Debug("notifications were not ended", "mac", p.mac, "characteristic", id, "err", err)
	}
}

// deliver a notification to its reader.
func (p *Peer) deliver(id string, sub *subscription, value []byte) {
	n := radio.Notification{Characteristic: id, Value: value, Received: radio.Now()}
	p.mu.Lock()
	room := true
	if p.subs[id] == sub { // or it was unsubscribed just now
		select {
		case sub.ch <- n:
		default:
			room = false
		}
	}
	p.mu.Unlock()
	if !room {
		p.end(fmt.Errorf("%w: %d notifications of %s were not read in time", radio.ErrDisconnected, unreadNotifications, id))
	}
}
