// Package broker is a node's MQTT broker as in KubeEdge's mqttMode 0: open to
// everyone on this machine, and it tells its owner what clients publish.
package broker

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Open listens on addr. published is called for each message that a
// client publishes, before the client gets its acknowledgement.
func Open(ctx context.Context, addr string, log *slog.Logger, published func(topic string, payload []byte)) (*Broker, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	b := &Broker{
		listener: &tracking{Listener: l, conns: map[net.Conn]struct{}{}},
		server: mqtt.New(&mqtt.Options{
			Logger: slog.New(quiet{log.Handler()}),
			// Nobody reads the $SYS topics; once an hour is the least effort.
			SysTopicResendInterval: 3600,
		}),
	}
	for _, h := range []mqtt.Hook{new(auth.AllowHook), &publishHook{published: published}} {
		if err := b.server.AddHook(h, nil); err != nil {
			_ = l.Close()
			return nil, fmt.Errorf("hook %s: %w", h.ID(), err)
		}
	}
	if err := b.server.AddListener(listeners.NewNet("mqtt", b.listener)); err != nil {
		_ = l.Close()
		return nil, err
	}
	if err := b.server.Serve(); err != nil {
		_ = l.Close()
		return nil, err
	}
	return b, nil
}

// Broker is an open broker, by mochi-mqtt.
type Broker struct {
	listener *tracking
	server   *mqtt.Server
}

// Addr is where it listens.
func (b *Broker) Addr() net.Addr { return b.listener.Addr() }

// Close disconnects all clients and waits for them.
func (b *Broker) Close() error { return b.server.Close() }

// publishHook reports what clients publish.
type publishHook struct {
	mqtt.HookBase
	published func(topic string, payload []byte)
}

func (h *publishHook) ID() string { return "published" }

func (h *publishHook) Provides(b byte) bool { return b == mqtt.OnPublish }

func (h *publishHook) OnPublish(_ *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	h.published(pk.TopicName, pk.Payload)
	return pk, nil
}

// tracking is a listener that closes its connections with itself. The server
// only closes those that have said CONNECT, and would wait for the others.
type tracking struct {
	net.Listener
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

func (t *tracking) Accept() (net.Conn, error) {
	c, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	tc := &trackedConn{Conn: c, of: t}
	t.conns[tc] = struct{}{}
	return tc, nil
}

func (t *tracking) Close() error {
	t.mu.Lock()
	t.closed = true
	conns := t.conns
	t.conns = map[net.Conn]struct{}{}
	t.mu.Unlock()
	for c := range conns {
		_ = c.Close()
	}
	return t.Listener.Close()
}

type trackedConn struct {
	net.Conn
	of *tracking
}

func (c *trackedConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// quiet turns the broker's chatter about clients that come and go into debug
// messages; only errors keep their level.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return q.Handler.Enabled(ctx, quieter(l))
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = quieter(r.Level)
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(a []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(a)} }
func (q quiet) WithGroup(name string) slog.Handler   { return quiet{q.Handler.WithGroup(name)} }

func quieter(l slog.Level) slog.Level {
	if l >= slog.LevelError {
		return l
	}
	return slog.LevelDebug
}
