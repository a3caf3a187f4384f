package mapper

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/fluidos-edge/testbed/simulators/radio"
)

// Central is a node's radio as the mapper uses it. Its methods may be called from
// several goroutines.
type Central interface {
	// Scan yields advertisements until ctx ends or the radio goes away; then the
	// channel is closed.
	Scan(ctx context.Context) (<-chan radio.Advertisement, error)
	// Connect takes a board's connection, which lives until its Close, the board's
	// leaving or the radio's end; ctx bounds the connecting only. An error wraps
	// radio.ErrBusy if the board has a connection already.
	Connect(ctx context.Context, mac radio.Address) (Peer, error)
	// Done is closed when the radio is gone; Err says why then.
	Done() <-chan struct{}
	Err() error
	// Close ends every connection and the radio.
	Close() error
}

// Peer is the connection of one board. UUIDs are in lower case with dashes.
type Peer interface {
	// Discover lists the board's characteristics.
	Discover(ctx context.Context) ([]radio.Characteristic, error)
	// Write a value and wait until the board has taken it, or refused it.
	Write(ctx context.Context, characteristic string, value []byte) error
	// Subscribe yields notifications in order until ctx ends or the connection goes;
	// then the channel is closed. Notification.Received is on a clock that never
	// steps; Emitted is the board's time of emission on the same clock, and EmittedWall
	// on the wall clock; 0 if they are not known.
	Subscribe(ctx context.Context, characteristic string) (<-chan radio.Notification, error)
	// Err says why the connection is gone, nil while it is there.
	Err() error
	Close() error
}

// connector is a Central whose connections have a type of their own.
type connector[P Peer] interface {
	Scan(ctx context.Context) (<-chan radio.Advertisement, error)
	Connect(ctx context.Context, mac radio.Address) (P, error)
	Done() <-chan struct{}
	Err() error
	Close() error
}

// central makes it one.
type central[P Peer] struct{ connector[P] }

func (c central[P]) Connect(ctx context.Context, mac radio.Address) (Peer, error) {
	p, err := c.connector.Connect(ctx, mac)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// adapterPrefix of --radio names a Bluetooth adapter instead of a socket.
const adapterPrefix = "bluetooth:"

// opener of the radio that --radio names.
func opener(name string, log *slog.Logger) (func(context.Context) (Central, error), error) {
	adapter, real := strings.CutPrefix(name, adapterPrefix)
	if !real {
		return func(ctx context.Context) (Central, error) {
			c, err := radio.Dial(ctx, name)
			if err != nil {
				return nil, err
			}
			return central[*radio.Conn]{c}, nil
		}, nil
	}
	open, err := adapterOpener(adapter, log)
	if err != nil {
		return nil, fmt.Errorf("--radio %q: %w", name, err)
	}
	return open, nil
}
