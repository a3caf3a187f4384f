//go:build bluetooth

package bluetooth_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/fluidos-edge/testbed/controllers/mapper/bluetooth"
	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/radio"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	environmental = "00140000-0001-11e1-ac36-0002a5d5c51b"
	console       = bluest.ConsoleUUID
)

var (
	macA = radio.Address{0xc0, 0x83, 0x2a, 0, 0, 0x0a}
	macB = radio.Address{0xc0, 0x83, 0x2a, 0, 0, 0x0b}
	macC = radio.Address{0xc0, 0x83, 0x2a, 0, 0, 0x0c}
)

// host is a Bluetooth stack that does what a test says.
type host struct {
	link func(radio.Address)
	gone func(error)

	mu       sync.Mutex
	boards   map[radio.Address]*board
	heard    func(bluetooth.Sighting) // nil: nobody scans
	scans    int
	scanErr  error // of the next scan
	overlaps int   // connections during a scan
	closed   bool
}

func newHost(macs ...radio.Address) *host {
	h := &host{boards: map[radio.Address]*board{}}
	for _, mac := range macs {
		h.boards[mac] = &board{mac: mac}
	}
	return h
}

func (h *host) open(t *testing.T) *bluetooth.Central {
	t.Helper()
	c, err := bluetooth.OpenStack(t.Context(), slog.New(slog.DiscardHandler), func(link func(radio.Address), gone func(error)) (bluetooth.Stack, error) {
		h.link, h.gone = link, gone
		return h, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (h *host) Scan(ctx context.Context, heard func(bluetooth.Sighting)) error {
	h.mu.Lock()
	h.scans++
	if err := h.scanErr; err != nil {
		defer h.mu.Unlock()
		h.scanErr = nil
		return err
	}
	h.heard = heard
	h.mu.Unlock()
	<-ctx.Done()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heard = nil
	return ctx.Err()
}

// advertise reports whether anybody scanned.
func (h *host) advertise(mac radio.Address, rssi int16) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.heard != nil {
		h.heard(bluetooth.Sighting{Address: mac, RSSI: rssi, Name: "STWINBX",
			Manufacturer: map[uint16][]byte{0x0030: append([]byte{2, 0x0e, 0x27, 1, 0, 0}, mac[:]...)}})
	}
	return h.heard != nil
}

func (h *host) Connect(mac radio.Address) (bluetooth.Device, error) {
	h.mu.Lock()
	b := h.boards[mac]
	if h.heard != nil {
		h.overlaps++
	}
	h.mu.Unlock()
	if b == nil {
		return nil, fmt.Errorf("no such object: %w", radio.ErrUnknown)
	}
	b.log("connect")
	b.mu.Lock()
	hang := b.hangConnect
	b.mu.Unlock()
	if hang != nil {
		if err := <-hang; err != nil {
			return nil, err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.connected = !b.lostAtOnce
	return b, nil
}

func (h *host) Abort(mac radio.Address) error {
	b := h.boards[mac]
	b.log("abort")
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.abortable {
		b.hangConnect <- errors.New("aborted")
	}
	return nil
}

func (h *host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	return nil
}

// board is a device with a console and an environmental characteristic.
type board struct {
	mac radio.Address

	mu          sync.Mutex
	calls       []string
	connected   bool
	lostAtOnce  bool
	hangConnect chan error // Connect waits for what comes from here
	abortable   bool       // unless Abort ends it
	hang        chan error // so do Read, Write and Notify
	panics      bool
	notify      map[string]func([]byte)
}

func (b *board) log(call string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, call)
}

func (b *board) called() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.calls)
}

func (b *board) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

func (b *board) Connected() (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.connected, nil
}

func (b *board) Disconnect() error {
	b.log("disconnect")
	b.set(func() { b.connected = false })
	return nil
}

func (b *board) Discover() ([]bluetooth.Characteristic, error) {
	b.log("discover")
	return []bluetooth.Characteristic{
		&attribute{b, radio.Characteristic{UUID: environmental, Read: true, Notify: true}},
		&attribute{b, radio.Characteristic{UUID: console, Write: true, Notify: true}},
	}, nil
}

// send a notification; it reports whether somebody is told.
func (b *board) send(uuid string, value byte) bool {
	b.mu.Lock()
	f := b.notify[uuid]
	b.mu.Unlock()
	if f != nil {
		f([]byte{value})
	}
	return f != nil
}

type attribute struct {
	b *board
	radio.Characteristic
}

func (a *attribute) call(name string) error {
	a.b.log(name)
	a.b.mu.Lock()
	hang, panics, connected := a.b.hang, a.b.panics, a.b.connected
	a.b.mu.Unlock()
	switch {
	case panics:
		panic("close of closed channel")
	case hang != nil:
		return <-hang
	case !connected:
		return errors.New("not connected")
	}
	return nil
}

func (a *attribute) Describe() radio.Characteristic { return a.Characteristic }
func (a *attribute) Read() ([]byte, error)          { return []byte{42}, a.call("read") }
func (a *attribute) Write(value []byte) error       { return a.call("write " + string(value)) }

func (a *attribute) Notify(f func([]byte)) error {
	if err := a.call("notify"); err != nil {
		return err
	}
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	if a.b.notify == nil {
		a.b.notify = map[string]func([]byte){}
	}
	if a.b.notify[a.UUID] != nil {
		return errors.New("notifies already")
	}
	a.b.notify[a.UUID] = f
	return nil
}

func (a *attribute) Silence() error {
	a.b.log("silence")
	a.b.set(func() { delete(a.b.notify, a.UUID) })
	return nil
}

func connect(t *testing.T, c *bluetooth.Central, mac radio.Address) *bluetooth.Peer {
	t.Helper()
	p, err := c.Connect(t.Context(), mac)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestScan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(macA)
		c := h.open(t)
		defer c.Close()
		h.scanErr = errors.New("not ready")
		ctx, cancel := context.WithCancel(t.Context())
		heard, err := c.Scan(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Scan(ctx); err == nil {
			t.Error("two scans at a time")
		}
		synctest.Wait()
		if h.advertise(macA, -60) {
			t.Error("heard by a scan that has failed")
		}
		<-time.After(time.Second)
		synctest.Wait()
		for rssi, want := range map[int16]int8{-60: -60, 4: 4, -300: -128, 300: 127} {
			if !h.advertise(macA, rssi) {
				t.Fatal("a scan that has failed is not taken up again")
			}
			a := <-heard
			if said, err := bluest.DecodeAdvertisement(a.Payload); err != nil || said.MAC != macA || said.Model() != "STWINBX1" {
				t.Errorf("said %+v, %v", said, err)
			}
			if a.Address != macA || a.RSSI != want || !a.Connectable {
				t.Errorf("%+v, want RSSI %d and connectable", a, want)
			}
		}
		p := connect(t, c, macA)
		synctest.Wait()
		h.advertise(macA, -60) // as BlueZ says of a connected board when a scan begins
		if a := <-heard; a.Connectable {
			t.Error("a connected board is connectable")
		}
		p.Close()
		synctest.Wait()
		h.advertise(macA, -60)
		if a := <-heard; !a.Connectable {
			t.Error("a board that was let go is not connectable")
		}
		for range 2000 { // nobody reads
			h.advertise(macA, -60)
		}
		cancel()
		n := 0
		for range heard {
			n++
		}
		if n != 1024 {
			t.Errorf("%d advertisements waited, want 1024", n)
		}
		if heard, err = c.Scan(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.gone(errors.New("unplugged"))
		if _, ok := <-heard; ok {
			t.Error("heard without an adapter")
		}
		if _, err := c.Scan(t.Context()); !errors.Is(err, radio.ErrDisconnected) || !strings.Contains(err.Error(), "unplugged") {
			t.Errorf("scan without an adapter: %v", err)
		}
	})
}

func TestScanAndConnectInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(macA, macB, macC)
		c := h.open(t)
		defer c.Close()
		if _, err := c.Scan(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		hang := make(chan error)
		h.boards[macB].hangConnect = hang
		start := time.Now()
		var boards sync.WaitGroup
		for _, mac := range []radio.Address{macA, macB, macC} {
			boards.Go(func() { connect(t, c, mac) })
		}
		go func() {
			<-time.After(5 * time.Second)
			hang <- nil
		}()
		boards.Wait()
		if took := time.Since(start); took < 5*time.Second || took > 8*time.Second {
			t.Errorf("three boards connected in %s", took)
		}
		synctest.Wait()
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.overlaps != 0 {
			t.Errorf("%d connections during a scan", h.overlaps)
		}
		if h.heard == nil || h.scans < 2 {
			t.Errorf("%d scans, under way %v: not taken up again", h.scans, h.heard != nil)
		}
	})
}

// Boards that cannot be connected, tried without a pause, do not keep others from
// being heard.
func TestScanIsNotStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(macA)
		c := h.open(t)
		defer c.Close()
		heard, err := c.Scan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var tries sync.WaitGroup
		defer tries.Wait()
		defer cancel()
		for i := range byte(5) {
			tries.Go(func() {
				for ctx.Err() == nil {
					_, _ = c.Connect(ctx, radio.Address{i})
				}
			})
		}
		tries.Go(func() {
			for ctx.Err() == nil {
				h.advertise(macA, -60)
				<-time.After(100 * time.Millisecond)
			}
		})
		for range 30 {
			<-heard
		}
	})
}

func TestConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(macA, macB)
		c := h.open(t)
		p := connect(t, c, macA)
		if p.Address() != macA || p.Err() != nil {
			t.Errorf("%s, %v", p.Address(), p.Err())
		}
		if _, err := c.Connect(t.Context(), macA); !errors.Is(err, radio.ErrBusy) {
			t.Errorf("a second connection: %v", err)
		}
		if _, err := c.Connect(t.Context(), macC); !errors.Is(err, radio.ErrUnknown) {
			t.Errorf("a board out of reach: %v", err)
		}
		h.boards[macB].lostAtOnce = true
		if _, err := c.Connect(t.Context(), macB); !errors.Is(err, radio.ErrDisconnected) {
			t.Errorf("a connection that is lost at once: %v", err)
		}
		h.boards[macB].set(func() { h.boards[macB].lostAtOnce = false })
		connect(t, c, macB)

		p.Close()
		p.Close()
		<-p.Done()
		if !errors.Is(p.Err(), radio.ErrDisconnected) {
			t.Errorf("after Close: %v", p.Err())
		}
		again := connect(t, c, macA) // waits until the first is let go
		if d := cmp.Diff([]string{"connect", "disconnect", "connect"}, h.boards[macA].called()); d != "" {
			t.Error(d)
		}
		c.Close()
		c.Close()
		<-c.Done()
		<-again.Done()
		for _, err := range []error{c.Err(), again.Err()} {
			if !errors.Is(err, radio.ErrDisconnected) {
				t.Errorf("after Close: %v", err)
			}
		}
		if _, err := c.Connect(t.Context(), macA); !errors.Is(err, radio.ErrDisconnected) {
			t.Errorf("connect after Close: %v", err)
		}
		if h.boards[macA].connected || h.boards[macB].connected || !h.closed {
			t.Error("Close leaves a board connected")
		}
	})
}

func TestLateConnect(t *testing.T) {
	brief := func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		t.Cleanup(cancel)
		return ctx
	}
	t.Run("is aborted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(macA)
			c := h.open(t)
			defer c.Close()
			b := h.boards[macA]
			b.hangConnect, b.abortable = make(chan error, 1), true
			if _, err := c.Connect(brief(t), macA); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("connect: %v", err)
			}
			synctest.Wait()
			b.set(func() { b.hangConnect = nil })
			connect(t, c, macA)
			if d := cmp.Diff([]string{"connect", "abort", "connect"}, b.called()); d != "" {
				t.Error(d)
			}
		})
	})
	t.Run("succeeds and is undone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(macA)
			c := h.open(t)
			defer c.Close()
			b, hang := h.boards[macA], make(chan error)
			b.hangConnect = hang
			if _, err := c.Connect(brief(t), macA); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("connect: %v", err)
			}
			if _, err := c.Connect(brief(t), macA); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "still let go") {
				t.Errorf("a second attempt beside the first: %v", err)
			}
			hang <- nil
			b.set(func() { b.hangConnect = nil })
			connect(t, c, macA)
			if d := cmp.Diff([]string{"connect", "abort", "disconnect", "connect"}, b.called()); d != "" {
				t.Error(d)
			}
		})
	})
	t.Run("much later", func(t *testing.T) {
		for _, taken := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				h := newHost(macA)
				c := h.open(t)
				b, hang := h.boards[macA], make(chan error)
				b.hangConnect = hang
				if _, err := c.Connect(brief(t), macA); !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("connect: %v", err)
				}
				b.set(func() { b.hangConnect = nil })
				want := []string{"connect", "abort", "disconnect"}
				if taken {
					connect(t, c, macA) // not held up for ever
					want = []string{"connect", "abort", "connect"}
				} else {
					<-time.After(time.Minute)
				}
				hang <- nil
				synctest.Wait()
				if d := cmp.Diff(want, b.called()); d != "" {
					t.Errorf("taken by another %v: %s", taken, d)
				}
				c.Close()
			})
		}
	})
	t.Run("after the adapter is gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(macA)
			c := h.open(t)
			b := h.boards[macA]
			b.hangConnect = make(chan error, 1)
			failed := make(chan error)
			go func() {
				_, err := c.Connect(t.Context(), macA)
				failed <- err
			}()
			synctest.Wait()
			h.gone(errors.New("the Bluetooth daemon has stopped"))
			if err := <-failed; !errors.Is(err, radio.ErrDisconnected) || !strings.Contains(err.Error(), "has stopped") {
				t.Errorf("connect: %v", err)
			}
			b.hangConnect <- nil
			c.Close()
			if b.connected {
				t.Error("left connected")
			}
		})
	})
}

func TestLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(macA, macB)
		c := h.open(t)
		defer c.Close()
		a, b := connect(t, c, macA), connect(t, c, macB)
		sub, err := a.Subscribe(t.Context(), environmental)
		if err != nil {
			t.Fatal(err)
		}
		h.boards[macA].send(environmental, 1)
		h.link(macA) // an old one: of a connection before
		h.link(macC) // nobody's
		synctest.Wait()
		if err := a.Err(); err != nil {
			t.Fatalf("ended, though the host says that it is connected: %v", err)
		}
		h.boards[macA].set(func() { h.boards[macA].connected = false })
		h.link(macA)
		<-a.Done()
		if err := a.Err(); !errors.Is(err, radio.ErrDisconnected) || !strings.Contains(err.Error(), "connection lost") {
			t.Errorf("lost: %v", err)
		}
		if n, ok := <-sub; !ok || n.Value[0] != 1 || n.Emitted != 0 || n.Received == 0 || n.Characteristic != environmental {
			t.Errorf("what came before the loss: %+v, %v", n, ok)
		}
		if _, ok := <-sub; ok {
			t.Error("a notification after the loss")
		}
		for name, call := range map[string]func() error{
			"discover":  func() error { _, err := a.Discover(t.Context()); return err },
			"read":      func() error { _, err := a.Read(t.Context(), environmental); return err },
			"write":     func() error { return a.Write(t.Context(), console, []byte("uid\r\n")) },
			"subscribe": func() error { _, err := a.Subscribe(t.Context(), environmental); return err },
		} {
			if err := call(); !errors.Is(err, radio.ErrDisconnected) {
				t.Errorf("%s after the loss: %v", name, err)
			}
		}
		synctest.Wait()
		if d := cmp.Diff([]string{"connect", "discover", "notify", "disconnect", "silence"}, h.boards[macA].called()); d != "" {
			t.Error(d)
		}

		// without a word: the next call notices
		h.boards[macB].set(func() { h.boards[macB].connected = false })
		if _, err := b.Read(t.Context(), environmental); err == nil {
			t.Error("read without a connection")
		}
		<-b.Done()
		if err := b.Err(); !errors.Is(err, radio.ErrDisconnected) {
			t.Errorf("lost: %v", err)
		}
		connect(t, c, macA)
	})
}

func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(macA)
		c := h.open(t)
		defer c.Close()
		p := connect(t, c, macA)
		sub, err := p.Subscribe(t.Context(), strings.ToUpper(environmental))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Subscribe(t.Context(), environmental); err == nil {
			t.Error("two subscriptions at a time")
		}
		for i := range 256 {
			h.boards[macA].send(environmental, byte(i))
		}
		for i := range 256 {
			if n := <-sub; n.Value[0] != byte(i) {
				t.Fatalf("notification %d is %d", i, n.Value[0])
			}
		}
	})
}

func TestOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(macA, macB)
		c := h.open(t)
		defer c.Close()
		p, other := connect(t, c, macA), connect(t, c, macB)
		sub, err := p.Subscribe(t.Context(), environmental)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 257 {
			h.boards[macA].send(environmental, byte(i))
		}
		<-p.Done()
		if err := p.Err(); !errors.Is(err, radio.ErrDisconnected) || !strings.Contains(err.Error(), "256 notifications") {
			t.Errorf("overflow: %v", err)
		}
		n := 0
		for range sub {
			n++
		}
		if n != 256 {
			t.Errorf("%d notifications, want 256", n)
		}
		synctest.Wait()
		if h.boards[macA].connected {
			t.Error("still connected")
		}
		if other.Err() != nil {
			t.Errorf("another board: %v", other.Err())
		}
	})
}

func TestContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(macA)
		c := h.open(t)
		defer c.Close()
		p, b := connect(t, c, macA), h.boards[macA]
		if got, err := p.Discover(t.Context()); err != nil || len(got) != 2 || got[0].UUID != environmental || !got[0].Notify {
			t.Fatalf("discover: %+v, %v", got, err)
		}
		hang := make(chan error)
		b.set(func() { b.hang = hang })
		brief, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.Read(brief, environmental); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("read that the host does not answer: %v", err)
		}
		brief, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Write(brief, console, []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("write behind it: %v", err)
		}
		hang <- nil // answered late, to nobody
		// a subscription that succeeds late is undone
		brief, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := p.Subscribe(brief, environmental); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("subscribe: %v after %s", err, time.Since(start))
		}
		b.set(func() { b.hang = nil })
		hang <- nil
		synctest.Wait()
		if b.send(environmental, 1) {
			t.Error("a subscription that was given up stays")
		}
		if v, err := p.Read(t.Context(), environmental); err != nil || v[0] != 42 {
			t.Errorf("read after that: %v, %v", v, err)
		}
		if err := p.Write(t.Context(), console, []byte("uid\r\n")); err != nil {
			t.Error(err)
		}
		want := []string{"connect", "discover", "read", "notify", "silence", "read", "write uid\r\n"}
		if d := cmp.Diff(want, b.called()); d != "" {
			t.Error(d)
		}
		if err := p.Err(); err != nil {
			t.Errorf("a call that was given up ended the connection: %v", err)
		}
	})
}

func TestUnsubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(macA)
		c := h.open(t)
		defer c.Close()
		p, b := connect(t, c, macA), h.boards[macA]
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			sub, err := p.Subscribe(ctx, environmental)
			if err != nil {
				t.Fatal(err)
			}
			cancel()
			if _, ok := <-sub; ok {
				t.Error("a notification after the end")
			}
			// and again at once, however far the end has got
		}
		synctest.Wait()
		if b.send(environmental, 1) || p.Err() != nil {
			t.Errorf("notifications after the end, or %v", p.Err())
		}
	})
}

func TestRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(macA)
		c := h.open(t)
		defer c.Close()
		p := connect(t, c, macA)
		for name, call := range map[string]func() error{
			"read":      func() error { _, err := p.Read(t.Context(), "001d0000-0001-11e1-ac36-0002a5d5c51b"); return err },
			"write":     func() error { return p.Write(t.Context(), "001d0000-0001-11e1-ac36-0002a5d5c51b", nil) },
			"subscribe": func() error { _, err := p.Subscribe(t.Context(), "001d0000-0001-11e1-ac36-0002a5d5c51b"); return err },
		} {
			if err := call(); !errors.Is(err, radio.ErrUnknown) {
				t.Errorf("%s what the board does not have: %v", name, err)
			}
		}
		if _, err := p.Read(t.Context(), "environmental"); err == nil || !strings.Contains(err.Error(), "invalid UUID") {
			t.Errorf("no UUID: %v", err)
		}
		if err := p.Write(t.Context(), console, make([]byte, 513)); err == nil || !strings.Contains(err.Error(), "at most 512") {
			t.Errorf("too long: %v", err)
		}
		b := h.boards[macA]
		b.set(func() { b.panics = true })
		if _, err := p.Read(t.Context(), environmental); err == nil || !strings.Contains(err.Error(), "close of closed channel") {
			t.Errorf("a library that panics: %v", err)
		}
		b.set(func() { b.panics = false })
		if _, err := p.Read(t.Context(), environmental); err != nil {
			t.Error(err)
		}
	})
}

func TestOpenEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, hang := newHost(), make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := bluetooth.OpenStack(ctx, slog.New(slog.DiscardHandler), func(func(radio.Address), func(error)) (bluetooth.Stack, error) {
			<-hang
			return h, nil
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("open: %v", err)
		}
		close(hang)
		synctest.Wait()
		if !h.closed {
			t.Error("a stack that opens late is not closed")
		}
	})
}
