package radio

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"

	"github.com/fluidos-edge/testbed/simulators/radio/socket"
)

const (
	// unsent is how many responses and notifications wait for one client.
	unsent = 1024
	// supervision is how long a client may take nothing at all while something
	// waits for it, as BLE's supervision timeout.
	supervision = 6 * time.Second
	// advertisingInterval between two advertisements of one board.
	advertisingInterval = time.Second
)

// Peripheral is a board as a radio sees it. The methods are called from several
// goroutines and must not block.
type Peripheral interface {
	Address() Address
	// Advertise is the advertising data, and whether the board would accept a
	// connection now.
	Advertise() (payload []byte, connectable bool)
	// Connect takes the board's only connection; ErrBusy if it has one.
	Connect(*Link) error
	// Disconnected says that a link is gone. It is called once for each Connect
	// that went well, unless the board dropped the link itself.
	Disconnected(*Link)
	Characteristics() []Characteristic
	// Read, Write and Subscribe get UUIDs in lower case with dashes. ErrUnknown:
	// there is no such characteristic, or it cannot do that.
	Read(characteristic string) ([]byte, error)
	Write(l *Link, characteristic string, value []byte) error
	Subscribe(l *Link, characteristic string, on bool) error
}

// Heard is a board in reach of a radio.
type Heard struct {
	Peripheral
	// RSSI in dBm.
	RSSI int8
}

// Server is the boards' side of one radio.
type Server struct {
	l         net.Listener
	clock     clock.WithTicker
	log       *slog.Logger
	order     []Heard
	boards    map[Address]Heard
	overflows atomic.Int64

	mu      sync.Mutex
	clients map[*peer]struct{}
}

// Listen opens a radio that hears the given boards. Nobody is answered before
// Run.
func Listen(path string, boards []Heard, clk clock.WithTicker, log *slog.Logger) (*Server, error) {
	s := &Server{clock: clk, log: log, order: boards, boards: map[Address]Heard{}, clients: map[*peer]struct{}{}}
	for _, b := range boards {
		if _, twice := s.boards[b.Address()]; twice {
			return nil, fmt.Errorf("radio %s: address %s twice", path, b.Address())
		}
		s.boards[b.Address()] = b
	}
	l, err := socket.Listen(path)
	if err != nil {
		return nil, fmt.Errorf("radio: %w", err)
	}
	s.l = l
	return s, nil
}

// Close stops listening and removes the socket. It is for a Server that does not
// come to Run, which does the same at its end.
func (s *Server) Close() error { return s.l.Close() }

// Overflows is how many clients were dropped because they did not read.
func (s *Server) Overflows() int64 { return s.overflows.Load() }

// Run serves clients until ctx ends, then disconnects them all and returns nil.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() { _ = s.l.Close() })()
	g.Go(func() error {
		for {
			nc, err := s.l.Accept()
			switch {
			case ctx.Err() != nil:
				if err == nil {
					_ = nc.Close()
				}
				return nil
			case err != nil:
				return fmt.Errorf("radio %s: %w", s.l.Addr(), err)
			}
			g.Go(func() error {
				s.serve(ctx, nc)
				return nil
			})
		}
	})
	return g.Wait()
}

// Announce makes a board's next advertisement come at once, for it has become
// connectable or busy.
func (s *Server) Announce(a Address) {
	b, ok := s.boards[a]
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		c.announce(b)
	}
}

// peer is one client, from the server's side.
type peer struct {
	s     *Server
	nc    net.Conn
	queue chan pdu // never waited for: full means dropped
	air   chan pdu // advertisements, sent when nothing else is to be sent
	wake  chan struct{}

	scanning context.CancelFunc // of the reader alone

	mu      sync.Mutex
	dropped bool
	links   map[uint32]*Link
	changed map[Address]Heard
}

func (s *Server) serve(ctx context.Context, nc net.Conn) {
	c := &peer{s: s, nc: nc, queue: make(chan pdu, unsent), air: make(chan pdu), wake: make(chan struct{}, 1),
		scanning: func() {}, links: map[uint32]*Link{}, changed: map[Address]Heard{}}
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { _ = nc.Close() })()
	var wg sync.WaitGroup
	wg.Go(func() { c.write(ctx) })
	s.mu.Lock()
	s.clients[c] = struct{}{}
	s.mu.Unlock()

	err := c.read(ctx, &wg)

	s.mu.Lock()
	delete(s.clients, c)
	s.mu.Unlock()
	c.mu.Lock()
	dropped, links := c.dropped, c.links
	c.dropped, c.links = true, nil
	c.mu.Unlock()
	switch {
	case dropped:
		s.log.Warn("radio client dropped: it does not read", "socket", s.l.Addr(), "connections", len(links), "unsent", unsent)
	case ctx.Err() == nil && !errors.Is(err, io.EOF):
		s.log.Warn("radio client gone", "socket", s.l.Addr(), "connections", len(links), "err", err)
	}
	cancel()
	_ = nc.Close()
	for _, l := range links {
		l.board.Disconnected(l)
	}
	wg.Wait()
}

// drop ends a client that does not read.
func (c *peer) drop() {
	c.mu.Lock()
	first := !c.dropped
	c.dropped = true
	c.mu.Unlock()
	if first {
		c.s.overflows.Add(1)
		_ = c.nc.Close() // the reader cleans up
	}
}

// put queues p, or drops the client.
func (c *peer) put(p pdu) bool {
	select {
	case c.queue <- p:
		return true
	default:
		c.drop()
		return false
	}
}

func (c *peer) write(ctx context.Context) {
	const batch = 16 << 10
	var b []byte
	for {
		var p pdu
		select {
		case p = <-c.queue:
		default:
			select {
			case p = <-c.queue:
			case p = <-c.air:
			case <-ctx.Done():
				return
			}
		}
		b = p.append(b[:0])
		for more := true; more && len(b) < batch; {
			select {
			case p = <-c.queue:
				b = p.append(b)
			default:
				more = false
			}
		}
		_ = c.nc.SetWriteDeadline(time.Now().Add(supervision))
		if _, err := c.nc.Write(b); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.drop()
			}
			_ = c.nc.Close()
			return
		}
	}
}

func (c *peer) read(ctx context.Context, wg *sync.WaitGroup) error {
	defer func() { c.scanning() }()
	r := bufio.NewReader(c.nc)
	for {
		p, err := readPDU(r)
		if err != nil {
			return err
		}
		if p.kind == kindScan {
			c.scanning()
			c.scanning = func() {}
			if p.flags&flagOn != 0 {
				var scan context.Context
				scan, c.scanning = context.WithCancel(ctx)
				wg.Go(func() { c.advertise(scan) })
			}
			c.respond(p, nil, nil)
			continue
		}
		if err := c.handle(p); err != nil {
			return err
		}
	}
}

// respond answers a request that wants an answer.
func (c *peer) respond(p pdu, value []byte, err error) {
	if p.ref == 0 {
		return
	}
	r := pdu{kind: kindResponse, ref: p.ref, conn: p.conn, value: value}
	if err != nil {
		r.status, r.value = statusRefused, []byte(err.Error())
		for s, base := range map[status]error{statusBusy: ErrBusy, statusUnknown: ErrUnknown, statusDisconnected: ErrDisconnected} {
			if errors.Is(err, base) {
				r.status, r.value = s, nil
			}
		}
	}
	c.put(r)
}

// handle one request; an error is a breach of protocol and ends the client.
func (c *peer) handle(p pdu) error {
	if p.kind == kindConnect {
		return c.connect(p)
	}
	c.mu.Lock()
	l := c.links[p.conn]
	if p.kind == kindDisconnect {
		delete(c.links, p.conn)
	}
	c.mu.Unlock()
	if l == nil {
		c.respond(p, nil, ErrDisconnected)
		return nil
	}
	switch id := p.uuid.String(); p.kind {
	case kindDisconnect:
		l.board.Disconnected(l)
		c.respond(p, nil, nil)
	case kindDiscover:
		v, err := appendCharacteristics(nil, l.board.Characteristics())
		c.respond(p, v, err)
	case kindRead:
		v, err := l.board.Read(id)
		c.respond(p, v, err)
	case kindWrite:
		c.respond(p, nil, l.board.Write(l, id, p.value))
	case kindSubscribe:
		c.respond(p, nil, l.board.Subscribe(l, id, p.flags&flagOn != 0))
	default:
		return fmt.Errorf("unexpected pdu of kind %d", p.kind)
	}
	return nil
}

func (c *peer) connect(p pdu) error {
	b, ok := c.s.boards[p.address]
	if !ok {
		c.respond(p, nil, ErrUnknown)
		return nil
	}
	l := &Link{peer: c, handle: p.conn, board: b.Peripheral}
	c.mu.Lock()
	used := c.links[p.conn] != nil
	if !used {
		c.links[p.conn] = l
	}
	c.mu.Unlock()
	if used {
		return fmt.Errorf("connection %d twice", p.conn)
	}
	err := b.Connect(l)
	if err != nil {
		c.mu.Lock()
		delete(c.links, p.conn)
		c.mu.Unlock()
	}
	c.respond(p, nil, err)
	return nil
}

func (c *peer) announce(b Heard) {
	c.mu.Lock()
	c.changed[b.Address()] = b
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// advertise sends every board's advertisement once an interval, and those that
// changed at once. It is held up by a client that does not read, and then leaves
// out rounds; each round starts at another board, so that all get through.
func (c *peer) advertise(ctx context.Context) {
	t := c.s.clock.NewTicker(advertisingInterval)
	defer t.Stop()
	n := len(c.s.order)
	for round := 0; ; round++ {
		for i := range n {
			if !c.offer(ctx, c.s.order[(round*61+i)%n]) {
				return
			}
		}
		for due := false; !due; {
			select {
			case <-ctx.Done():
				return
			case <-t.C():
				due = true
			case <-c.wake:
				c.mu.Lock()
				changed := c.changed
				c.changed = map[Address]Heard{}
				c.mu.Unlock()
				for _, b := range changed {
					if !c.offer(ctx, b) {
						return
					}
				}
			}
		}
	}
}

func (c *peer) offer(ctx context.Context, b Heard) bool {
	p := pdu{kind: kindAdvertisement, address: b.Address(), rssi: b.RSSI}
	var connectable bool
	if p.value, connectable = b.Advertise(); connectable {
		p.flags = flagOn
	}
	select {
	case c.air <- p:
		return true
	case <-ctx.Done():
		return false
	}
}

// Link is a connection, from the board's side.
type Link struct {
	peer   *peer
	handle uint32
	board  Peripheral
}

// Notify sends a notification without waiting. It reports false when the link is
// gone, also because the client has not read enough; the board is told by
// Disconnected.
func (l *Link) Notify(characteristic string, value []byte, emitted int64) bool {
	id, err := uuid.Parse(characteristic)
	if err != nil || len(value) > maxValue {
		return false
	}
	return l.up() && l.peer.put(pdu{kind: kindNotification, conn: l.handle, emitted: emitted, uuid: id, value: value})
}

// Drop ends the connection from the board's side; the client is told why.
func (l *Link) Drop(why string) {
	l.peer.mu.Lock()
	up := l.peer.links[l.handle] == l
	if up {
		delete(l.peer.links, l.handle)
	}
	l.peer.mu.Unlock()
	if up {
		l.peer.put(pdu{kind: kindDisconnected, conn: l.handle, value: []byte(why)})
	}
}

func (l *Link) up() bool {
	l.peer.mu.Lock()
	defer l.peer.mu.Unlock()
	return !l.peer.dropped && l.peer.links[l.handle] == l
}
