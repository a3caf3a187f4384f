//go:build bluetooth

package bluetooth

import (
	"context"
	"errors"
	"fmt"

	"github.com/fluidos-edge/testbed/simulators/radio"
)

// stack is the host's Bluetooth as a Central needs it. Calls without a context
// block for as long as the host likes, and may panic.
type stack interface {
	// Scan until ctx ends. heard does not block.
	Scan(ctx context.Context, heard func(sighting)) error
	// Connect returns when the board is connected; if it is already, at once.
	Connect(mac radio.Address) (device, error)
	// Abort makes a Connect under way return.
	Abort(mac radio.Address) error
	// Close lets go of everything but devices.
	Close() error
}

// device is a connected board. Only one of its calls is made at a time, and those
// of its characteristics count as its own; Connected and Disconnect may be called
// beside them.
type device interface {
	Connected() (bool, error)
	Discover() ([]characteristic, error)
	Disconnect() error
}

type characteristic interface {
	Describe() radio.Characteristic
	Read() ([]byte, error)
	Write(value []byte) error
	// Notify hands notifications to f, in order and one at a time; f does not
	// block. It leaves nothing behind when it fails.
	Notify(f func(value []byte)) error
	// Silence ends Notify. It works without a connection too.
	Silence() error
}

// news is what a stack tells without being asked, from any goroutine. Neither
// blocks.
type news struct {
	// link: the connection of a board may have been lost.
	link func(radio.Address)
	// gone: the stack is of no use any more.
	gone func(error)
}

// sighting of a board: an advertisement as BlueZ has taken it apart.
type sighting struct {
	Address      radio.Address
	RSSI         int16
	Name         string
	Manufacturer map[uint16][]byte
}

// errEnded: within was left because of its second argument.
var errEnded = errors.New("ended")

// within makes a call that takes no context and waits for it until ctx ends or
// ended is closed. What the call returns after that is handed to late, if there
// is one. A panic of the call is an error.
func within[T any](ctx context.Context, ended <-chan struct{}, call func() (T, error), late func(T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	answer := make(chan result)
	go func() {
		var r result
		r.v, r.err = guard(call)
		// Both sides see ctx and ended alike: the answer is either taken or late.
		select {
		case answer <- r:
			return
		case <-ctx.Done():
		case <-ended:
		}
		if late != nil {
			late(r.v, r.err)
		}
	}()
	var zero T
	select {
	case r := <-answer:
		return r.v, r.err
	case <-ctx.Done():
		return zero, ctx.Err()
	case <-ended:
		return zero, errEnded
	}
}

// guard turns a panic of call into an error: tinygo panics when the bus is closed
// under it.
func guard[T any](call func() (T, error)) (v T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("bluetooth library: %v", p)
		}
	}()
	return call()
}

// plain is a call without a value as within and guard take it.
func plain(call func() error) func() (struct{}, error) {
	return func() (struct{}, error) { return struct{}{}, call() }
}
