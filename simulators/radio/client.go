package radio

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	// unreadNotifications is how many notifications of one subscription, and
	// unreadAdvertisements how many advertisements, wait for their reader.
	unreadNotifications  = 256
	unreadAdvertisements = 1024
	// writeTimeout bounds a write to a radio that has stopped reading.
	writeTimeout = 5 * time.Second
)

// Advertisement is one advertisement of one board, as heard by this radio.
type Advertisement struct {
	Address Address
	// RSSI in dBm.
	RSSI int8
	// Payload is the advertising data (AD structures), see package bluest.
	Payload []byte
	// Connectable is false while the board has a connection, over whichever radio.
	Connectable bool
}

// Notification is one value of a characteristic that was subscribed to.
type Notification struct {
	// Characteristic is its UUID in lower case with dashes.
	Characteristic string
	Value          []byte
	// Emitted is when the board took the value and Received when this process got
	// it, both host monotonic ns (see Now).
	Emitted  int64
	Received int64
	// EmittedWall is when the board took the value on the host's wall clock, Unix ns,
	// as the board itself records it; 0 if that is not known.
	EmittedWall int64
}

// Client is the mapper's side of one radio. It is safe for concurrent use.
type Client struct {
	socket string
	nc     net.Conn
	done   chan struct{}

	wmu   sync.Mutex // serialises writes to nc
	order sync.Mutex // keeps the end of a scan before the start of the next on the wire

	mu    sync.Mutex
	err   error // why the radio is gone
	ref   uint32
	calls map[uint32]chan pdu
	conns map[uint32]*Conn
	scan  *stream[Advertisement]
}

// stream is what a reader of a Client or Conn gets. Its owner's mutex guards it.
type stream[T any] struct {
	ch chan T
	// unwatch lets go of the reader's context; nil before the request is answered.
	unwatch func() bool
}

// put reports whether there was room.
func (s *stream[T]) put(v T) bool {
	select {
	case s.ch <- v:
		return true
	default:
		return false
	}
}

func (s *stream[T]) close() {
	if s.unwatch != nil {
		s.unwatch()
	}
	close(s.ch)
}

// Dial opens the radio behind a unix socket. ctx bounds the dialling only; the
// client lives until Close or until the radio goes away.
func Dial(ctx context.Context, socket string) (*Client, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("radio: %w", err)
	}
	return newClient(socket, nc), nil
}

func newClient(socket string, nc net.Conn) *Client {
	c := &Client{socket: socket, nc: nc, done: make(chan struct{}),
		calls: map[uint32]chan pdu{}, conns: map[uint32]*Conn{}}
	go c.read()
	return c
}

// Done is closed when the radio is gone; every Conn is gone then too.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err says why the radio is gone, nil while it is there. It wraps ErrDisconnected.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends every connection and the radio, and waits until nothing of the
// client runs any more. It may be called again.
func (c *Client) Close() error {
	c.end(fmt.Errorf("%w: closed", ErrDisconnected))
	<-c.done
	return nil
}

// Scan yields advertisements until ctx ends or the radio goes away; then the
// channel is closed. Every board in reach is heard at once, then once an
// advertising interval, and whenever it becomes connectable or busy. Advertisements
// that are not read in time are lost. There is one scan at a time.
func (c *Client) Scan(ctx context.Context) (<-chan Advertisement, error) {
	scan := &stream[Advertisement]{ch: make(chan Advertisement, unreadAdvertisements)}
	c.order.Lock()
	defer c.order.Unlock()
	c.mu.Lock()
	switch {
	case c.err != nil:
		defer c.mu.Unlock()
		return nil, fmt.Errorf("scan: %w", c.err)
	case c.scan != nil:
		defer c.mu.Unlock()
		return nil, errors.New("scan: one is under way already")
	}
	c.scan = scan
	c.mu.Unlock()
	stop := func() {
		c.mu.Lock()
		mine := c.scan == scan
		if mine {
			c.scan = nil
			scan.close()
		}
		c.mu.Unlock()
		if mine {
			_ = c.send(pdu{kind: kindScan})
		}
	}
	if _, err := c.call(ctx, pdu{kind: kindScan, flags: flagOn}); err != nil {
		stop()
		return nil, fmt.Errorf("scan: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.scan == scan {
		scan.unwatch = context.AfterFunc(ctx, func() {
			c.order.Lock()
			defer c.order.Unlock()
			stop()
		})
	}
	return scan.ch, nil
}

// Connect takes the connection of one board. ErrBusy: the board has one already.
// ErrUnknown: this radio does not hear it. The Conn lives until its Close,
// the board's leaving, or the radio's end; ctx bounds the connecting only.
func (c *Client) Connect(ctx context.Context, mac Address) (*Conn, error) {
	k := &Conn{c: c, mac: mac, done: make(chan struct{}), subs: map[uuid.UUID]*stream[Notification]{}}
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return nil, fmt.Errorf("connect %s: %w", mac, c.err)
	}
	c.ref++
	k.handle = c.ref
	c.conns[k.handle] = k // before the response: what follows it at once must find k
	c.mu.Unlock()
	if _, err := c.call(ctx, pdu{kind: kindConnect, conn: k.handle, address: mac}); err != nil {
		k.drop(err)
		return nil, fmt.Errorf("connect %s: %w", mac, err)
	}
	return k, nil
}

// call sends a request and waits for its response.
func (c *Client) call(ctx context.Context, p pdu) (pdu, error) {
	if err := ctx.Err(); err != nil {
		return pdu{}, err
	}
	ch := make(chan pdu, 1)
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return pdu{}, c.err
	}
	c.ref++
	p.ref = c.ref
	c.calls[p.ref] = ch
	c.mu.Unlock()
	if err := c.send(p); err != nil {
		return pdu{}, err
	}
	select {
	case r, ok := <-ch:
		if !ok {
			return pdu{}, c.Err()
		}
		return r, r.err()
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.calls, p.ref)
		c.mu.Unlock()
		return pdu{}, ctx.Err()
	}
}

// send writes p; if that cannot be done, the radio is gone.
func (c *Client) send(p pdu) error {
	b := p.append(nil)
	c.wmu.Lock()
	_ = c.nc.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := c.nc.Write(b)
	c.wmu.Unlock()
	if err != nil {
		c.end(fmt.Errorf("%w: radio %s: %w", ErrDisconnected, c.socket, err))
		return c.Err()
	}
	return nil
}

func (c *Client) read() {
	defer close(c.done)
	r := bufio.NewReader(c.nc)
	for {
		p, err := readPDU(r)
		if err == nil {
			err = c.handle(p)
		}
		if err == io.EOF {
			err = errors.New("the other side closed the socket")
		}
		if err != nil {
			c.end(fmt.Errorf("%w: radio %s: %w", ErrDisconnected, c.socket, err))
			return
		}
	}
}

// handle never blocks but for a write.
func (c *Client) handle(p pdu) error {
	switch p.kind {
	case kindResponse:
		c.mu.Lock()
		ch := c.calls[p.ref]
		delete(c.calls, p.ref)
		c.mu.Unlock()
		if ch != nil {
			ch <- p // room for one, and it is the only one
		}
	case kindAdvertisement:
		a := Advertisement{Address: p.address, RSSI: p.rssi, Payload: p.value, Connectable: p.flags&flagOn != 0}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.scan != nil {
			c.scan.put(a) // or it is lost in the air
		}
	case kindNotification:
		if k := c.conn(p.conn); k != nil && !k.deliver(p) {
			k.drop(fmt.Errorf("%w: %d notifications of %s were not read in time",
				ErrDisconnected, unreadNotifications, p.uuid))
		}
	case kindDisconnected:
		if k := c.conn(p.conn); k != nil {
			k.end(fmt.Errorf("%w: %s", ErrDisconnected, p.value))
		}
	default:
		return fmt.Errorf("unexpected pdu of kind %d", p.kind)
	}
	return nil
}

func (c *Client) conn(handle uint32) *Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conns[handle]
}

// end makes the radio gone for everyone; the first reason stays.
func (c *Client) end(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	calls, conns := c.calls, c.conns
	c.calls, c.conns = nil, nil
	if c.scan != nil {
		c.scan.close()
		c.scan = nil
	}
	c.mu.Unlock()
	_ = c.nc.Close()
	for _, ch := range calls {
		close(ch)
	}
	for _, k := range conns {
		k.end(err)
	}
}

// Conn is the connection of one board. It is safe for concurrent use.
type Conn struct {
	c      *Client
	handle uint32
	mac    Address
	done   chan struct{}

	order sync.Mutex // keeps unsubscribing before subscribing again on the wire

	mu   sync.Mutex
	err  error // why the connection is gone
	subs map[uuid.UUID]*stream[Notification]
}

// Address of the board.
func (k *Conn) Address() Address { return k.mac }

// Done is closed when the connection is gone.
func (k *Conn) Done() <-chan struct{} { return k.done }

// Err says why the connection is gone, nil while it is there. It wraps
// ErrDisconnected.
func (k *Conn) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// Close ends the connection; the board advertises again. It may be called again.
func (k *Conn) Close() error {
	k.drop(fmt.Errorf("%w: closed", ErrDisconnected))
	return nil
}

// Discover lists the board's characteristics.
func (k *Conn) Discover(ctx context.Context) ([]Characteristic, error) {
	r, err := k.call(ctx, pdu{kind: kindDiscover})
	if err != nil {
		return nil, fmt.Errorf("discover %s: %w", k.mac, err)
	}
	cs, err := parseCharacteristics(r.value)
	if err != nil {
		return nil, fmt.Errorf("discover %s: %w", k.mac, err)
	}
	return cs, nil
}

// Read a characteristic's value.
func (k *Conn) Read(ctx context.Context, characteristic string) ([]byte, error) {
	r, err := k.on(ctx, characteristic, pdu{kind: kindRead})
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", characteristic, k.mac, err)
	}
	return r.value, nil
}

// Write value, at most 512 bytes, and wait until the board has taken it. What a
// console answers comes as notifications.
func (k *Conn) Write(ctx context.Context, characteristic string, value []byte) error {
	if len(value) > maxValue {
		return fmt.Errorf("write %s of %s: %d bytes, at most %d", characteristic, k.mac, len(value), maxValue)
	}
	if _, err := k.on(ctx, characteristic, pdu{kind: kindWrite, value: value}); err != nil {
		return fmt.Errorf("write %s of %s: %w", characteristic, k.mac, err)
	}
	return nil
}

// Subscribe yields the characteristic's notifications until ctx ends (then it is
// unsubscribed) or the connection goes; then the channel is closed. Whoever does
// not read 256 of them loses the connection. There is one subscription of a
// characteristic at a time.
func (k *Conn) Subscribe(ctx context.Context, characteristic string) (<-chan Notification, error) {
	id, err := uuid.Parse(characteristic)
	if err != nil {
		return nil, fmt.Errorf("subscribe %q of %s: %w", characteristic, k.mac, err)
	}
	sub := &stream[Notification]{ch: make(chan Notification, unreadNotifications)}
	k.order.Lock()
	defer k.order.Unlock()
	k.mu.Lock()
	switch {
	case k.err != nil:
		defer k.mu.Unlock()
		return nil, fmt.Errorf("subscribe %s of %s: %w", characteristic, k.mac, k.err)
	case k.subs[id] != nil:
		defer k.mu.Unlock()
		return nil, fmt.Errorf("subscribe %s of %s: subscribed already", characteristic, k.mac)
	}
	k.subs[id] = sub // before the response: the first notification may follow it at once
	k.mu.Unlock()
	stop := func() {
		k.mu.Lock()
		mine := k.subs[id] == sub
		if mine {
			delete(k.subs, id)
			sub.close()
		}
		k.mu.Unlock()
		if mine {
			_ = k.c.send(pdu{kind: kindSubscribe, conn: k.handle, uuid: id})
		}
	}
	if _, err := k.call(ctx, pdu{kind: kindSubscribe, uuid: id, flags: flagOn}); err != nil {
		stop()
		return nil, fmt.Errorf("subscribe %s of %s: %w", characteristic, k.mac, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.subs[id] == sub {
		sub.unwatch = context.AfterFunc(ctx, func() {
			k.order.Lock()
			defer k.order.Unlock()
			stop()
		})
	}
	return sub.ch, nil
}

func (k *Conn) on(ctx context.Context, characteristic string, p pdu) (pdu, error) {
	id, err := uuid.Parse(characteristic)
	if err != nil {
		return pdu{}, err
	}
	p.uuid = id
	return k.call(ctx, p)
}

// call is Client.call on this connection; it also ends with the connection.
func (k *Conn) call(ctx context.Context, p pdu) (pdu, error) {
	if err := k.Err(); err != nil {
		return pdu{}, err
	}
	p.conn = k.handle
	r, err := k.c.call(ctx, p)
	if err != nil && k.Err() != nil {
		return pdu{}, k.Err() // it knows why better than the response
	}
	return r, err
}

// deliver reports whether there was room for the notification.
func (k *Conn) deliver(p pdu) bool {
	n := Notification{Characteristic: p.uuid.String(), Value: p.value, Emitted: p.emitted, EmittedWall: p.wall, Received: Now()}
	k.mu.Lock()
	defer k.mu.Unlock()
	sub := k.subs[p.uuid]
	return sub == nil || sub.put(n) // nil: unsubscribed just now
}

// drop ends the connection from this side.
func (k *Conn) drop(err error) {
	if k.end(err) {
		_ = k.c.send(pdu{kind: kindDisconnect, conn: k.handle})
	}
}

// end makes the connection gone for everyone here; the first reason stays.
func (k *Conn) end(err error) bool {
	k.c.mu.Lock()
	delete(k.c.conns, k.handle)
	k.c.mu.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		return false
	}
	k.err = err
	for _, sub := range k.subs {
		sub.close()
	}
	k.subs = nil
	close(k.done)
	return true
}
