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
	consoleMTU = maxFrame
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
	return v.b.advert, v.b.link == nil && !v.b.gone(v.b.now())
}

func (v via) Connect(l *radio.Link) error {
	b := v.b
	b.mu.Lock()
	switch {
	case b.gone(b.now()):
		defer b.mu.Unlock()
		return radio.ErrUnknown
	case b.link != nil:
		defer b.mu.Unlock()
		return radio.ErrBusy
	}
	b.link, b.node = l, v.node
	b.note(b.now(), EventConnected, v.node)
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
	b.disconnect(l.Ended())
	b.mu.Unlock()
	b.opts.Announce(b)
}

func (v via) Characteristics() []radio.Characteristic { return v.b.variety.gatt }

// Read takes a reading; it does not count as a sample.
func (v via) Read(characteristic string) ([]byte, error) {
	b := v.b
	ch := b.variety.channel(characteristic)
	if ch < 0 {
		return nil, radio.ErrUnknown
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.frame(ch, b.now()), nil
}

// Write a command, one a write, to the console or the configuration.
func (v via) Write(l *radio.Link, characteristic string, value []byte) error {
	b := v.b
	var do func([]byte) error
	switch characteristic {
	case bluest.ConsoleUUID:
		do = b.ask
	case bluest.ConfigUUID:
		do = b.configure
	default:
		return radio.ErrUnknown
	}
	b.mu.Lock()
	err := radio.ErrDisconnected
	if b.link == l {
		err = do(value)
	}
	b.mu.Unlock()
	b.opts.Wake(b)
	return err
}

// ask the console. b.mu is held.
func (b *Board) ask(value []byte) error {
	switch command := strings.TrimSpace(string(value)); command {
	case "uid":
		b.print(b.id(b.now()))
	case "sensors":
		sensors, err := json.Marshal(b.declare())
		if err != nil {
			return fmt.Errorf("sensors: %w", err)
		}
		b.print(string(sensors))
	case "info":
		b.print(b.variety.firmware)
	default:
		b.print(fmt.Sprintf("unknown command %.40q, want uid, sensors or info", command))
	}
	return nil
}

// configure a characteristic by a bluest.Command. b.mu is held.
func (b *Board) configure(value []byte) error {
	c, err := bluest.DecodeCommand(value)
	if err != nil {
		return err
	}
	ch := b.variety.feature(c.Feature)
	if ch < 0 {
		return fmt.Errorf("command: feature %08x is in no characteristic of a %s", uint32(c.Feature), b.spec.Model)
	}
	if c.ID == bluest.CommandRate {
		hz, err := c.Rate()
		if err == nil {
			err = checkRate(hz)
		}
		if err == nil {
			b.redeclare(func() { b.setRate(ch, hz) })
			b.noteSet(ch, fmt.Sprintf("rate=%v", hz), 0)
		}
		return err
	}
	if b.streams[ch].disabled = c.ID == bluest.CommandDisable; b.streams[ch].disabled {
		b.noteSet(ch, "disabled", b.recall(ch))
	} else {
		b.noteSet(ch, "enabled", 0)
	}
	b.schedule(ch)
	return nil
}

// noteSet adds an event of what a central set of a channel, and of the frames under way
// that were lost by it. b.mu is held.
func (b *Board) noteSet(ch int, what string, frames int) {
	b.note(b.now(), EventChanged, "over the air: "+b.variety.channels[ch].key+" "+what+lost(frames))
}

// recall the frames of a channel that are under way, and return how many. b.mu is held.
func (b *Board) recall(ch int) int {
	all := len(b.flight)
	b.flight = slices.DeleteFunc(b.flight, func(f frame) bool { return f.channel == ch })
	return all - len(b.flight)
}

func (v via) Subscribe(l *radio.Link, characteristic string, on bool) error {
	b := v.b
	b.mu.Lock()
	if b.link != l {
		defer b.mu.Unlock()
		return radio.ErrDisconnected
	}
	ch := b.variety.channel(characteristic)
	switch {
	case characteristic == bluest.ConsoleUUID:
		b.console, b.output = on, nil
	case ch < 0:
		defer b.mu.Unlock()
		return radio.ErrUnknown
	default:
		if b.streams[ch].subscribed = on; !on {
			if frames := b.recall(ch); frames > 0 {
				b.noteSet(ch, "unsubscribed", frames)
			}
		}
		b.schedule(ch)
	}
	b.mu.Unlock()
	b.opts.Wake(b)
	return nil
}

// print a line on the console, if somebody listens. b.mu is held.
func (b *Board) print(line string) {
	if b.console && len(b.output)+len(line)+2 <= consoleBuffer {
		if len(b.output) == 0 {
			b.talkAt = max(b.talkAt, b.now())
		}
		b.output = append(append(b.output, line...), '\r', '\n')
	}
}

// talk sends a burst of the console's output. Each line begins in a notification of
// its own. b.mu is held.
func (b *Board) talk(now time.Duration) {
	emitted, wall := b.stamps(now)
	for i := 0; i < consoleBurst && len(b.output) > 0; i++ {
		n := min(consoleMTU, bytes.IndexByte(b.output, '\n')+1)
		b.link.Notify(bluest.ConsoleUUID, slices.Clone(b.output[:n]), emitted, wall)
		b.output = b.output[n:]
	}
	if b.talkAt = now + consolePause; len(b.output) == 0 {
		b.output, b.talkAt = nil, now
	}
}
