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
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"

	"github.com/fluidos-edge/testbed/simulators/radio/due"
	"github.com/fluidos-edge/testbed/simulators/radio/socket"
)

const (
	// unsent is how many responses and notifications wait for one client, and how
	// many notifications of one connection wait to be sent again.
	unsent = 1024
	// supervision is how long a client may take nothing at all while something
	// waits for it, as BLE's supervision timeout.
	supervision = 6 * time.Second
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

// Options of a radio; the zero value is a good one.
type Options struct {
	// Clock of what the radio does by itself; nil means the host's.
	Clock clock.Clock
	// Log; nil means none.
	Log     *slog.Logger
	Quality Quality
	// Seed makes everything that is drawn by chance repeatable: on a stepped clock
	// the same boards and clients see the same delays and losses.
	Seed uint64
}

// Server is the boards' side of one radio.
type Server struct {
	l         net.Listener
	clock     clock.Clock
	log       *slog.Logger
	quality   Quality
	seed      uint64
	resend    resend
	overflows atomic.Int64

	mu      sync.Mutex // before peer.mu and resend.mu
	boards  map[Address]*station
	order   []*station
	clients map[*peer]struct{}
	count   uint64 // of clients so far
}

// station is a board on the air of one radio. The Server's mutex guards it.
type station struct {
	Heard
	// unheard while it is out of range, removed once it is taken off the air.
	unheard, removed bool
	links            []*Link
	count            uint64 // of links so far
}

// Listen opens a radio that hears the given boards. Nobody is answered before
// Run.
func Listen(path string, boards []Heard, o Options) (*Server, error) {
	s, err := newServer(boards, o)
	if err != nil {
		return nil, fmt.Errorf("radio %s: %w", path, err)
	}
	l, err := socket.Listen(path)
	if err != nil {
		return nil, fmt.Errorf("radio: %w", err)
	}
	s.l = l
	return s, nil
}

func newServer(boards []Heard, o Options) (*Server, error) {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Quality.Interval == 0 {
		o.Quality.Interval = defaultInterval
	}
	if err := o.Quality.check(); err != nil {
		return nil, err
	}
	s := &Server{clock: o.Clock, log: o.Log, quality: o.Quality, seed: o.Seed, resend: resend{woken: make(chan struct{}, 1)},
		boards: map[Address]*station{}, clients: map[*peer]struct{}{}}
	for _, b := range boards {
		if err := s.Add(b); err != nil {
			return nil, err
		}
	}
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
	if s.quality.Loss > 0 {
		g.Go(func() error {
			s.resend.run(ctx, s.clock)
			return nil
		})
	}
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

// Add puts a board on the air; its first advertisement comes at once.
func (s *Server) Add(b Heard) error {
	a := b.Address()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.boards[a] != nil {
		return fmt.Errorf("address %s twice", a)
	}
	st := &station{Heard: b}
	s.boards[a] = st
	s.order = append(s.order, st)
	for c := range s.clients {
		c.news(st)
	}
	return nil
}

// Remove takes a board off the air and ends its connection.
func (s *Server) Remove(a Address) {
	s.mu.Lock()
	st := s.boards[a]
	if st == nil {
		s.mu.Unlock()
		return
	}
	st.removed = true
	delete(s.boards, a)
	s.order = slices.DeleteFunc(s.order, func(o *station) bool { return o == st })
	links := slices.Clone(st.links)
	s.mu.Unlock()
	for _, l := range links {
		l.lose("the board is gone")
	}
}

// SetReach says whether the radio hears a board. One that it hears no more is
// neither advertised nor connectable, and loses its connection as by a
// supervision timeout; one that it hears again is advertised at once.
func (s *Server) SetReach(a Address, ok bool) {
	s.mu.Lock()
	st := s.boards[a]
	if st == nil || st.unheard == !ok {
		s.mu.Unlock()
		return
	}
	st.unheard = !ok
	links := slices.Clone(st.links)
	s.mu.Unlock()
	if ok {
		s.Announce(a)
		return
	}
	for _, l := range links {
		l.lose("supervision timeout: the board is out of range")
	}
}

// Announce makes a board's next advertisement come at once, for it has become
// connectable or busy.
func (s *Server) Announce(a Address) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.boards[a]
	if st == nil {
		return
	}
	for c := range s.clients {
		c.news(st)
	}
}

// audible reports whether a board can be heard.
func (s *Server) audible(st *station) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !st.unheard && !st.removed
}

// gone reports whether a board was taken off the air.
func (s *Server) gone(st *station) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return st.removed
}

// attach books a link on its board. It reports false if the board cannot be
// heard any more.
func (s *Server) attach(l *Link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := l.station
	if st.unheard || st.removed {
		return false
	}
	if l.up() { // or the board dropped it already
		st.links = append(st.links, l)
	}
	return true
}

func (s *Server) detach(l *Link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.station.links = slices.DeleteFunc(l.station.links, func(o *Link) bool { return o == l })
}

// peer is one client, from the server's side.
type peer struct {
	s      *Server
	nc     net.Conn
	queue  chan pdu // never waited for: full means dropped
	air    chan pdu // advertisements, sent when nothing else is to be sent
	wake   chan struct{}
	number uint64 // of the client

	scanning func() // ends the scan and waits for it; of the reader alone

	mu      sync.Mutex
	dropped bool
	links   map[uint32]*Link
	changed map[*station]struct{} // on the air; nil if nobody scans
}

func (s *Server) serve(ctx context.Context, nc net.Conn) {
	c := &peer{s: s, nc: nc, queue: make(chan pdu, unsent), air: make(chan pdu), wake: make(chan struct{}, 1),
		scanning: func() {}, links: map[uint32]*Link{}}
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { _ = nc.Close() })()
	var wg sync.WaitGroup
	wg.Go(func() { c.write(ctx) })
	s.mu.Lock()
	s.clients[c] = struct{}{}
	s.count++
	c.number = s.count
	s.mu.Unlock()

	err := c.read(ctx)

	s.mu.Lock()
	delete(s.clients, c)
	s.mu.Unlock()
	c.mu.Lock()
	dropped, links := c.dropped, c.links
	c.dropped, c.links = true, nil
	why := "the central is gone"
	switch {
	case dropped:
		why = "the central does not read"
	case ctx.Err() != nil:
		why = "the radio is closed"
	case !errors.Is(err, io.EOF):
		why += ": " + err.Error()
	}
	for _, l := range links {
		l.ended = why
	}
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
		s.detach(l)
		l.station.Disconnected(l)
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

func (c *peer) read(ctx context.Context) error {
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
				c.scan(ctx)
			}
			c.respond(p, nil, nil)
			continue
		}
		if err := c.handle(p); err != nil {
			return err
		}
	}
}

func (c *peer) scan(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.advertise(ctx)
		c.mu.Lock()
		c.changed = nil
		c.mu.Unlock()
	}()
	c.scanning = func() { cancel(); <-ended }
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
	if p.kind == kindDisconnect && l != nil {
		delete(c.links, p.conn)
		l.ended = "the central disconnected"
	}
	c.mu.Unlock()
	if l == nil {
		c.respond(p, nil, ErrDisconnected)
		return nil
	}
	switch id := p.uuid.String(); p.kind {
	case kindDisconnect:
		c.s.detach(l)
		l.station.Disconnected(l)
		c.respond(p, nil, nil)
	case kindDiscover:
		v, err := appendCharacteristics(nil, l.station.Characteristics())
		c.respond(p, v, err)
	case kindRead:
		v, err := l.station.Read(id)
		c.respond(p, v, err)
	case kindWrite:
		c.respond(p, nil, l.station.Write(l, id, p.value))
	case kindSubscribe:
		on := p.flags&flagOn != 0
		err := l.station.Subscribe(l, id, on)
		if !on {
			c.s.resend.forget(l, p.uuid)
		}
		c.respond(p, nil, err)
	default:
		return fmt.Errorf("unexpected pdu of kind %d", p.kind)
	}
	return nil
}

func (c *peer) connect(p pdu) error {
	s := c.s
	s.mu.Lock()
	st := s.boards[p.address]
	if st == nil || st.unheard {
		s.mu.Unlock()
		c.respond(p, nil, ErrUnknown)
		return nil
	}
	st.count++
	l := &Link{peer: c, handle: p.conn, station: st}
	if s.quality.Loss > 0 {
		l.air = &air{item: due.Item[*Link]{Value: l}, rng: s.chance("notify", p.address, st.count)}
	}
	s.mu.Unlock()
	c.mu.Lock()
	used := c.links[p.conn] != nil
	if !used {
		c.links[p.conn] = l
	}
	c.mu.Unlock()
	if used {
		return fmt.Errorf("connection %d twice", p.conn)
	}
	err := st.Connect(l)
	if err == nil && !s.attach(l) { // it went out of range meanwhile
		if l.end("the board is out of range") {
			st.Disconnected(l)
		}
		err = ErrUnknown
	} else if err != nil {
		l.end(err.Error())
	}
	c.respond(p, nil, err)
	return nil
}
