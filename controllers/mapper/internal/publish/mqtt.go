package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/fluidos-edge/testbed/controllers/mapper/internal/backoff"
)

// Broker is what the publisher needs of an MQTT client.
type Broker interface {
	// Await blocks until the broker is connected, or ctx ends.
	Await(ctx context.Context) error
	// Publish returns nil once the broker has acknowledged the message. After
	// an error it may or may not have it.
	Publish(ctx context.Context, topic string, payload []byte) error
}

const (
	brokerTimeout = 10 * time.Second // for connecting and for an acknowledgement
	maxPause      = 10 * time.Second
	qos           = 1
)

// MQTT is a broker that is connected for as long as Run runs, again and
// again. A connection on which anything went wrong is given up, and nothing is
// sent on the next one but what its caller sends again: so the order of
// messages is the caller's alone.
type MQTT struct {
	url, clientID string
	name          string // url without a password
	pause         time.Duration
	log           *slog.Logger
	// state is told nil when connected, else the reason why not.
	state func(error)

	mu      sync.Mutex
	current *connection
	changed chan struct{} // closed when current changes
}

// connection is one MQTT connection.
type connection struct {
	client mqtt.Client
	up     atomic.Bool
	once   sync.Once
	lost   chan struct{} // closed when it is of no use any more
	why    error
}

func (c *connection) fail(err error) {
	c.once.Do(func() {
		c.why = err
		close(c.lost)
	})
}

// NewMQTT is the broker at an address, tcp://HOST:PORT; pause follows a first
// failure, and is doubled with each further one. state is told nil when it is
// connected, else why not.
func NewMQTT(address, clientID string, pause time.Duration, log *slog.Logger, state func(error)) *MQTT {
	b := &MQTT{url: address, name: address, clientID: clientID, pause: pause, log: log, state: state, changed: make(chan struct{})}
	if u, err := url.Parse(address); err == nil {
		b.name = u.Redacted()
	}
	return b
}

// Run keeps the broker connected until ctx ends.
func (b *MQTT) Run(ctx context.Context) {
	pause := backoff.Backoff{First: b.pause, Max: maxPause}
	for ctx.Err() == nil {
		c, err := b.connect(ctx)
		if err == nil {
			pause.Reset()
			b.log.Info("broker connected", "url", b.name)
			b.set(c)
			b.state(nil)
			select {
			case <-c.lost:
				err = c.why
			case <-ctx.Done():
				err = ctx.Err()
			}
			b.set(nil)
			c.client.Disconnect(100)
		}
		err = fmt.Errorf("broker %s: %w", b.name, err)
		b.state(err)
		if ctx.Err() == nil {
			b.log.Warn("broker not connected", "err", err)
		}
		pause.Wait(ctx)
	}
}

func (b *MQTT) connect(ctx context.Context) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, brokerTimeout)
	defer cancel()
	c := &connection{lost: make(chan struct{})}
	// The client knows no context: its connection is closed when ctx ends.
	open := func(u *url.URL, _ mqtt.ClientOptions) (net.Conn, error) {
		var d net.Dialer
		nc, err := d.DialContext(ctx, "tcp", u.Host)
		if err == nil {
			context.AfterFunc(ctx, func() {
				if !c.up.Load() {
					_ = nc.Close()
				}
			})
		}
		return nc, err
	}
	c.client = mqtt.NewClient(mqtt.NewClientOptions().
		AddBroker(b.url).SetClientID(b.clientID).SetProtocolVersion(4).
		SetCleanSession(true).SetAutoReconnect(false).SetConnectRetry(false).
		SetCustomOpenConnectionFn(open).
		SetConnectTimeout(brokerTimeout).SetWriteTimeout(brokerTimeout).SetKeepAlive(brokerTimeout).SetPingTimeout(brokerTimeout).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { c.fail(err) }))
	t := c.client.Connect()
	<-t.Done()
	if err := t.Error(); err != nil {
		return nil, err
	}
	c.up.Store(true)
	return c, nil
}

func (b *MQTT) set(c *connection) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = c
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *MQTT) get() (*connection, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.current, b.changed
}

func (b *MQTT) Await(ctx context.Context) error {
	for {
		c, changed := b.get()
		if c != nil {
			select {
			case <-c.lost: // Run has yet to notice
			default:
				return ctx.Err()
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (b *MQTT) Publish(ctx context.Context, topic string, payload []byte) error {
	c, _ := b.get()
	if c == nil {
		return errors.New("broker not connected")
	}
	t := c.client.Publish(topic, qos, false, payload)
	timer := time.NewTimer(brokerTimeout)
	defer timer.Stop()
	var err error
	select {
	case <-t.Done():
		if err = t.Error(); err == nil {
			return nil
		}
	case <-c.lost:
		err = c.why
	case <-timer.C:
		err = fmt.Errorf("no acknowledgement within %v", brokerTimeout)
	case <-ctx.Done():
		return ctx.Err()
	}
	c.fail(err)
	return fmt.Errorf("publish to %s: %w", topic, err)
}
