package radio

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/fluidos-edge/testbed/simulators/radio/socket"
)

// TappedNotification is a notification that a Tap sends to a mapper. Received does not
// count.
type TappedNotification struct {
	// Board is the one on whose connection it is sent.
	Board Address
	Notification
}

// Tap stands between mappers and a radio: to watch what they say, as btmon does, or to
// be a mapper's faulty Bluetooth stack in a test. It passes everything on as it is and in
// order, but for notifications, which a function may alter. A mapper and its connection
// to the radio end together.
type Tap struct {
	l     net.Listener
	radio string

	calling sync.Mutex // alter
	alter   func(board Address, n Notification) []TappedNotification
}

// ListenTap opens a tap at path to the radio behind a socket, which is dialled for each
// mapper. Nobody is answered before Run.
//
// alter is called for each notification, with the board that sent it, and returns what
// the mapper gets in its place, in order: nothing, the same, something else, or more
// than one. Calls do not overlap, and mappers wait for them. What is for a board that
// this mapper is not connected with, or is no value of a characteristic, is dropped. A
// nil alter passes notifications on.
func ListenTap(path, radio string, alter func(board Address, n Notification) []TappedNotification) (*Tap, error) {
	l, err := socket.Listen(path)
	if err != nil {
		return nil, fmt.Errorf("tap: %w", err)
	}
	if alter == nil {
		alter = func(board Address, n Notification) []TappedNotification { return []TappedNotification{{board, n}} }
	}
	return &Tap{l: l, radio: radio, alter: alter}, nil
}

// Close stops listening and removes the socket. It is for a Tap that does not come to
// Run, which does the same at its end.
func (t *Tap) Close() error { return t.l.Close() }

// Run serves mappers until ctx ends, then disconnects them all and returns nil.
func (t *Tap) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() { _ = t.l.Close() })()
	g.Go(func() error {
		for {
			nc, err := t.l.Accept()
			switch {
			case ctx.Err() != nil:
				if err == nil {
					_ = nc.Close()
				}
				return nil
			case err != nil:
				return fmt.Errorf("tap %s: %w", t.l.Addr(), err)
			}
			g.Go(func() error {
				t.serve(ctx, nc)
				return nil
			})
		}
	})
	return g.Wait()
}

// serve one mapper until it or its connection to the radio ends.
func (t *Tap) serve(ctx context.Context, mapper net.Conn) {
	defer mapper.Close()
	var d net.Dialer
	radio, err := d.DialContext(ctx, "unix", t.radio)
	if err != nil {
		return // to the mapper, the radio is gone
	}
	c := &tapped{tap: t, requests: map[uint32]connection{}, boards: map[uint32]Address{}}
	end := func() {
		_ = mapper.Close()
		_ = radio.Close()
	}
	defer context.AfterFunc(ctx, end)()
	var wg sync.WaitGroup
	for _, way := range []struct {
		from, to net.Conn
		pass     func(b []byte, p pdu) []byte
	}{{mapper, radio, c.up}, {radio, mapper, c.down}} {
		wg.Go(func() {
			defer end()
			r := bufio.NewReader(way.from)
			for p, err := readPDU(r); err == nil; p, err = readPDU(r) {
				_ = way.to.SetWriteDeadline(time.Now().Add(supervision))
				if _, err := way.to.Write(way.pass(nil, p)); err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
}

// tapped is one mapper's connection to the radio.
type tapped struct {
	tap *Tap

	mu       sync.Mutex
	requests map[uint32]connection // for a connection, by their numbers
	boards   map[uint32]Address    // that are connected
}

// connection that a mapper asks for.
type connection struct {
	handle uint32
	board  Address
}

// up appends what the radio gets of a PDU of the mapper.
func (c *tapped) up(b []byte, p pdu) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch p.kind {
	case kindConnect:
		c.requests[p.ref] = connection{p.conn, p.address}
	case kindDisconnect:
		delete(c.boards, p.conn)
	}
	return p.append(b)
}

// down appends what the mapper gets of a PDU of the radio.
func (c *tapped) down(b []byte, p pdu) []byte {
	c.mu.Lock()
	board, connected := c.boards[p.conn]
	switch p.kind {
	case kindResponse:
		if asked, ok := c.requests[p.ref]; ok {
			delete(c.requests, p.ref)
			if p.status == statusOK {
				c.boards[asked.handle] = asked.board
			}
		}
	case kindDisconnected:
		delete(c.boards, p.conn)
	}
	c.mu.Unlock()
	if p.kind != kindNotification || !connected {
		return p.append(b)
	}
	c.tap.calling.Lock()
	defer c.tap.calling.Unlock()
	for _, n := range c.tap.alter(board, Notification{
		Characteristic: p.uuid.String(), Value: p.value, Emitted: p.emitted, EmittedWall: p.wall, Received: Now(),
	}) {
		if q, ok := c.notification(n); ok {
			b = q.append(b)
		}
	}
	return b
}

// notification as a PDU, if it can be one.
func (c *tapped) notification(n TappedNotification) (pdu, bool) {
	id, err := uuid.Parse(n.Characteristic)
	if err != nil || len(n.Value) > maxValue {
		return pdu{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for handle, board := range c.boards {
		if board == n.Board {
			return pdu{kind: kindNotification, conn: handle, uuid: id, value: n.Value, emitted: n.Emitted, wall: n.EmittedWall}, true
		}
	}
	return pdu{}, false
}
