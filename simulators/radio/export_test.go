package radio

import (
	"context"
	"io"
	"net"
)

// Pipe is a radio without a socket, so that it runs where time is a test's: dial
// is a client of it, and Run serves as always.
func Pipe(boards []Heard, o Options) (s *Server, dial func() *Client, err error) {
	s, err = newServer(boards, o)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &pipes{ctx: ctx, cancel: cancel, conns: make(chan net.Conn)}
	s.l = l
	return s, func() *Client {
		near, far := net.Pipe()
		l.conns <- far
		return newClient("pipe", near)
	}, nil
}

type pipes struct {
	ctx    context.Context
	cancel func()
	conns  chan net.Conn
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error   { l.cancel(); return nil }
func (l *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// Reencode reads PDUs from r until the first error and appends each to b again.
func Reencode(r io.Reader, b []byte) ([]byte, error) {
	for {
		p, err := readPDU(r)
		if err != nil {
			return b, err
		}
		b = p.append(b)
	}
}

// ReencodeCharacteristics is the same for the answer to discover.
func ReencodeCharacteristics(b []byte) ([]byte, error) {
	cs, err := parseCharacteristics(b)
	if err != nil {
		return nil, err
	}
	return appendCharacteristics(nil, cs)
}

// NotificationBytes are what a radio sends for a notification of connection 1.
func NotificationBytes(id [16]byte, value []byte, emitted, wall int64) []byte {
	return pdu{kind: kindNotification, conn: 1, uuid: id, value: value, emitted: emitted, wall: wall}.append(nil)
}

// SubscribeBytes are what a client sends to connect to a board, as connection 1,
// and to subscribe to a characteristic without reading any answer.
func SubscribeBytes(mac Address, id [16]byte) []byte {
	b := pdu{kind: kindConnect, ref: 1, conn: 1, address: mac}.append(nil)
	return pdu{kind: kindSubscribe, ref: 2, conn: 1, uuid: id, flags: flagOn}.append(b)
}
