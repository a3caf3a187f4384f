package board

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/radio"
)

const (
	// consoleMTU is the payload of a notification with BLE's default MTU of 23.
	consoleMTU = 20
	// A console sends consoleBurst notifications, then pauses. What it cannot hold
	// is lost, a line at a time.
	consoleBurst  = 32
	consolePause  = 10 * time.Millisecond
	consoleBuffer = 64 << 10
)

// Via is the board as the radio of one edge node hears it. However many hear it,
// it has one connection.
func (b *Board) Via(node string) radio.Peripheral { return via{b, node} }

type via struct {
	b    *Board
	node string
}

func (v via) Address() radio.Address { return v.b.mac }

func (v via) Advertise() ([]byte, bool) {
	v.b.mu.Lock()
	defer v.b.mu.Unlock()
	return v.b.advert, v.b.link == nil
}

func (v via) Connect(l *radio.Link) error {
	b := v.b
	b.mu.Lock()
	if b.link != nil {
		defer b.mu.Unlock()
		return radio.ErrBusy
	}
	b.link, b.node = l, v.node
	b.mu.Unlock()
	b.opts.Announce(b)
	return nil
}

func (v via) Disconnected(l *radio.Link) {
	b := v.b
	b.mu.Lock()
	if b.link != l {
		b.mu.Unlock()
		return
	}
	b.link, b.node, b.console, b.sampling, b.flight, b.output = nil, "", false, false, nil, nil
	b.mu.Unlock()
	b.opts.Announce(b)
}

func (v via) Characteristics() []radio.Characteristic {
	return []radio.Characteristic{
		{UUID: v.b.stream, Read: true, Notify: true},
		{UUID: bluest.ConsoleUUID, Write: true, Notify: true},
	}
}

// Read takes a reading; it does not count as a sample.
func (v via) Read(characteristic string) ([]byte, error) {
	if characteristic != v.b.stream {
		return nil, radio.ErrUnknown
	}
	return v.b.measure(v.b.opts.Clock.Now()), nil
}

// Write a command, one a write, to the console.
func (v via) Write(l *radio.Link, characteristic string, value []byte) error {
	b := v.b
	if characteristic != bluest.ConsoleUUID {
		return radio.ErrUnknown
	}
	b.mu.Lock()
	if b.link != l {
		defer b.mu.Unlock()
		return radio.ErrDisconnected
	}
	switch command := strings.TrimSpace(string(value)); command {
	case "uid":
		b.print(b.spec.ID)
	case "sensors":
		sensors, err := json.Marshal(declare(b.spec, b.parts))
		if err != nil {
			defer b.mu.Unlock()
			return fmt.Errorf("sensors: %w", err)
		}
		b.print(string(sensors))
	default:
		b.print(fmt.Sprintf("unknown command %.40q, want uid or sensors", command))
	}
	b.mu.Unlock()
	b.opts.Wake(b)
	return nil
}

func (v via) Subscribe(l *radio.Link, characteristic string, on bool) error {
	b := v.b
	b.mu.Lock()
	if b.link != l {
		defer b.mu.Unlock()
		return radio.ErrDisconnected
	}
	switch characteristic {
	case bluest.ConsoleUUID:
		b.console, b.output = on, nil
	case b.stream:
		b.sampling = on
		if b.due = (time.Time{}); on {
			b.due = b.next(b.opts.Clock.Now())
		} else {
			b.flight = nil
		}
	default:
		defer b.mu.Unlock()
		return radio.ErrUnknown
	}
	b.mu.Unlock()
	b.opts.Wake(b)
	return nil
}

// print a line on the console, if somebody listens. b.mu is held.
func (b *Board) print(line string) {
	if b.console && len(b.output)+len(line)+2 <= consoleBuffer {
		b.output = append(append(b.output, line...), '\r', '\n')
	}
}

// talk sends a burst of the console's output and returns when to go on, the zero
// time if nothing is left. Each line begins in a notification of its own. b.mu is
// held.
func (b *Board) talk(now time.Time) time.Time {
	if now.Before(b.talkAt) {
		return b.talkAt
	}
	emitted := b.opts.Monotonic()
	for i := 0; i < consoleBurst && len(b.output) > 0; i++ {
		n := min(consoleMTU, bytes.IndexByte(b.output, '\n')+1)
		b.link.Notify(bluest.ConsoleUUID, slices.Clone(b.output[:n]), emitted)
		b.output = b.output[n:]
	}
	if len(b.output) == 0 {
		b.output, b.talkAt = nil, time.Time{}
	} else {
		b.talkAt = now.Add(consolePause)
	}
	return b.talkAt
}
