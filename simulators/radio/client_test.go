package radio_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.uber.org/goleak"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/fluidos-edge/testbed/simulators/radio"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	environmental = "00140000-0001-11e1-ac36-0002a5d5c51b"
	console       = "00000001-000e-11e1-ac36-0002a5d5c51b"
)

var (
	macA = radio.Address{0xc0, 0x83, 0x2a, 0, 0, 0x0a}
	macB = radio.Address{0xc0, 0x83, 0x2a, 0, 0, 0x0b}
)

// peripheral is a board that does what a test says and reports what happens to it.
type peripheral struct {
	mac    radio.Address
	events chan string

	mu   sync.Mutex
	link *radio.Link
}

func newPeripheral(mac radio.Address) *peripheral {
	return &peripheral{mac: mac, events: make(chan string, 100)}
}

func (p *peripheral) Address() radio.Address { return p.mac }

func (p *peripheral) Advertise() ([]byte, bool) {
	return []byte("adv"), p.current() == nil
}

func (p *peripheral) current() *radio.Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link
}

func (p *peripheral) Connect(l *radio.Link) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link != nil {
		return radio.ErrBusy
	}
	p.link = l
	p.events <- "connected"
	return nil
}

func (p *peripheral) Disconnected(l *radio.Link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link == l {
		p.link = nil
		p.events <- "disconnected"
	}
}

func (p *peripheral) Characteristics() []radio.Characteristic {
	return []radio.Characteristic{{UUID: environmental, Read: true, Notify: true}, {UUID: console, Write: true, Notify: true}}
}

func (p *peripheral) Read(c string) ([]byte, error) {
	if c != environmental {
		return nil, radio.ErrUnknown
	}
	return []byte("value"), nil
}

func (p *peripheral) Write(_ *radio.Link, c string, v []byte) error {
	if c != console {
		return errors.New("read-only")
	}
	p.events <- "wrote " + string(v)
	return nil
}

func (p *peripheral) Subscribe(_ *radio.Link, c string, on bool) error {
	if c != environmental && c != console {
		return radio.ErrUnknown
	}
	p.events <- fmt.Sprint("subscribed ", on)
	return nil
}

// open runs a radio with the given boards and returns its socket, and how to
// stop it.
func open(t *testing.T, o radio.Options, boards ...*peripheral) (socket string, s *radio.Server, stop func()) {
	t.Helper()
	var heard []radio.Heard
	for i, b := range boards {
		heard = append(heard, radio.Heard{Peripheral: b, RSSI: int8(-40 - i)})
	}
	socket = filepath.Join(t.TempDir(), "r")
	s, err := radio.Listen(socket, heard, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return socket, s, stop
}

func dial(t *testing.T, socket string) *radio.Client {
	t.Helper()
	c, err := radio.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func connect(t *testing.T, c *radio.Client, mac radio.Address) *radio.Conn {
	t.Helper()
	k, err := c.Connect(t.Context(), mac)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// next takes one value from ch, within the deadline of every wait here.
func next[T any](t *testing.T, ch <-chan T) (v T, ok bool) {
	t.Helper()
	select {
	case v, ok = <-ch:
		return v, ok
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came within 20 s")
		return v, false
	}
}

func expect(t *testing.T, p *peripheral, events ...string) {
	t.Helper()
	for _, want := range events {
		if got, _ := next(t, p.events); got != want {
			t.Fatalf("board %s: %q, want %q", p.mac, got, want)
		}
	}
}

func TestConversation(t *testing.T) {
	board := newPeripheral(macA)
	socket, _, _ := open(t, radio.Options{}, board)
	c := dial(t, socket)
	ctx := t.Context()

	adverts, err := c.Scan(ctx)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := next(t, adverts)
	if d := cmp.Diff(radio.Advertisement{Address: macA, RSSI: -40, Payload: []byte("adv"), Connectable: true}, a); d != "" {
		t.Error(d)
	}
	if _, err := c.Scan(ctx); err == nil {
		t.Error("two scans at a time")
	}

	k := connect(t, c, macA)
	expect(t, board, "connected")
	cs, err := k.Discover(ctx)
	if d := cmp.Diff(board.Characteristics(), cs); err != nil || d != "" {
		t.Errorf("discover: %v %s", err, d)
	}
	if v, err := k.Read(ctx, strings.ReplaceAll(environmental, "-", "")); err != nil || string(v) != "value" {
		t.Errorf("read: %q, %v", v, err)
	}
	if _, err := k.Read(ctx, console); !errors.Is(err, radio.ErrUnknown) {
		t.Errorf("read of what cannot be read: %v", err)
	}
	if err := k.Write(ctx, environmental, []byte("x")); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("refused write: %v", err)
	}
	if err := k.Write(ctx, console, []byte("uid\r\n")); err != nil {
		t.Error(err)
	}
	expect(t, board, "wrote uid\r\n")
	if err := k.Write(ctx, console, make([]byte, 513)); err == nil {
		t.Error("a value of 513 bytes was written")
	}

	subscribed, unsubscribe := context.WithCancel(ctx)
	ch, err := k.Subscribe(subscribed, environmental)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, board, "subscribed true")
	if _, err := k.Subscribe(ctx, environmental); err == nil {
		t.Error("two subscriptions at a time")
	}
	before := radio.Now()
	for i := range 100 {
		if !board.current().Notify(environmental, []byte{byte(i)}, before-int64(i), 7+int64(i)) {
			t.Fatal("link is gone")
		}
	}
	for i := range 100 {
		n, _ := next(t, ch)
		if n.Characteristic != environmental || len(n.Value) != 1 || n.Value[0] != byte(i) || n.Emitted != before-int64(i) || n.EmittedWall != 7+int64(i) || n.Received < before {
			t.Fatalf("notification %d: %+v", i, n)
		}
	}
	unsubscribe()
	expect(t, board, "subscribed false")
	if _, ok := next(t, ch); ok {
		t.Error("a notification after unsubscribing")
	}
	if _, err := k.Subscribe(ctx, environmental); err != nil {
		t.Errorf("subscribe again: %v", err)
	}
	expect(t, board, "subscribed true")

	if err := k.Close(); err != nil {
		t.Error(err)
	}
	expect(t, board, "disconnected")
	if _, err := k.Read(ctx, environmental); !errors.Is(err, radio.ErrDisconnected) {
		t.Errorf("read after close: %v", err)
	}
	if k2 := connect(t, c, macA); k2.Err() != nil {
		t.Errorf("connected again: %v", k2.Err())
	}
}

func TestOneConnectionOverAllRadios(t *testing.T) {
	board := newPeripheral(macA)
	first, _, _ := open(t, radio.Options{}, board)
	second, radio2, _ := open(t, radio.Options{Clock: testingclock.NewFakeClock(time.Unix(0, 0))}, board) // no round but the first
	k := connect(t, dial(t, first), macA)
	c := dial(t, second)
	if _, err := c.Connect(t.Context(), macA); !errors.Is(err, radio.ErrBusy) {
		t.Errorf("connect to a busy board: %v", err)
	}
	if _, err := c.Connect(t.Context(), macB); !errors.Is(err, radio.ErrUnknown) {
		t.Errorf("connect to nobody: %v", err)
	}
	adverts, err := c.Scan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if a, _ := next(t, adverts); a.Connectable {
		t.Error("a busy board is seen as connectable")
	}
	_ = k.Close()
	expect(t, board, "connected", "disconnected")
	radio2.Announce(macA)
	if a, _ := next(t, adverts); !a.Connectable {
		t.Error("a free board is seen as busy")
	}
	connect(t, c, macA)
}

func TestClientGoesAway(t *testing.T) {
	board := newPeripheral(macA)
	socket, _, _ := open(t, radio.Options{}, board)
	nc, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Write(radio.SubscribeBytes(macA, uuid.MustParse(environmental))); err != nil {
		t.Fatal(err)
	}
	expect(t, board, "connected", "subscribed true")
	_ = nc.Close() // as the kernel does for a process that dies
	expect(t, board, "disconnected")
	connect(t, dial(t, socket), macA)
}

func TestRadioGoesAway(t *testing.T) {
	board := newPeripheral(macA)
	socket, _, stop := open(t, radio.Options{}, board)
	c := dial(t, socket)
	adverts, err := c.Scan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k := connect(t, c, macA)
	ch, err := k.Subscribe(t.Context(), environmental)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	expect(t, board, "connected", "subscribed true", "disconnected")
	next(t, c.Done())
	next(t, k.Done())
	for range ch {
	}
	for range adverts {
	}
	for what, err := range map[string]error{"client": c.Err(), "connection": k.Err()} {
		if !errors.Is(err, radio.ErrDisconnected) || !strings.Contains(err.Error(), socket) {
			t.Errorf("%s: %v, want disconnected, naming the socket", what, err)
		}
	}
	if _, err := c.Connect(t.Context(), macA); !errors.Is(err, radio.ErrDisconnected) {
		t.Errorf("connect: %v", err)
	}
	if _, err := c.Scan(t.Context()); !errors.Is(err, radio.ErrDisconnected) {
		t.Errorf("scan: %v", err)
	}
	if _, err := radio.Dial(t.Context(), socket); err == nil {
		t.Error("the socket is still there")
	}
}

func TestBoardDropsLink(t *testing.T) {
	board := newPeripheral(macA)
	socket, _, _ := open(t, radio.Options{}, board)
	k := connect(t, dial(t, socket), macA)
	l := board.current()
	l.Drop("battery is empty")
	next(t, k.Done())
	if err := k.Err(); !errors.Is(err, radio.ErrDisconnected) || !strings.Contains(err.Error(), "battery is empty") {
		t.Errorf("err %v", err)
	}
	if l.Notify(environmental, nil, 0, 0) {
		t.Error("notified over a link that is gone")
	}
}

// A client that does not read loses its connections; nobody else notices.
func TestSlowClient(t *testing.T) {
	slow, other := newPeripheral(macA), newPeripheral(macB)
	socket, s, _ := open(t, radio.Options{}, slow, other)
	k := connect(t, dial(t, socket), macB)
	ch, err := k.Subscribe(t.Context(), environmental)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Write(radio.SubscribeBytes(macA, uuid.MustParse(environmental))); err != nil {
		t.Fatal(err)
	}
	expect(t, slow, "connected", "subscribed true")
	l, sent := slow.current(), 0
	for l.Notify(environmental, make([]byte, 512), 0, 0) {
		sent++
	}
	expect(t, slow, "disconnected")
	if s.Overflows() != 1 {
		t.Errorf("%d overflows, want 1", s.Overflows())
	}
	if sent < 1000 || sent > 20_000 {
		t.Errorf("%d notifications were taken for a client that reads none", sent)
	}
	if !other.current().Notify(environmental, []byte("still"), 1, 0) {
		t.Error("the other board's link is gone")
	}
	if n, ok := next(t, ch); !ok || string(n.Value) != "still" {
		t.Errorf("the other client got %+v", n)
	}
}

// Whoever does not read one subscription loses that board only.
func TestSlowReader(t *testing.T) {
	slow, other := newPeripheral(macA), newPeripheral(macB)
	socket, _, _ := open(t, radio.Options{}, slow, other)
	c := dial(t, socket)
	k, k2 := connect(t, c, macA), connect(t, c, macB)
	ch, err := k.Subscribe(t.Context(), environmental)
	if err != nil {
		t.Fatal(err)
	}
	for range 257 {
		slow.current().Notify(environmental, []byte("x"), 0, 0)
	}
	next(t, k.Done())
	if err := k.Err(); !errors.Is(err, radio.ErrDisconnected) || !strings.Contains(err.Error(), "not read in time") {
		t.Errorf("err %v", err)
	}
	n := 0
	for range ch {
		n++
	}
	if n != 256 {
		t.Errorf("%d notifications before the end, want 256", n)
	}
	if _, err := k2.Read(t.Context(), environmental); err != nil {
		t.Errorf("the other board: %v", err)
	}
	expect(t, slow, "connected", "subscribed true", "disconnected")
}

func TestGarbage(t *testing.T) {
	board := newPeripheral(macA)
	socket, _, _ := open(t, radio.Options{}, board)
	k := connect(t, dial(t, socket), macA)
	for _, garbage := range []string{"\x00\x01", "\xff\xff" + strings.Repeat("x", 100), "GET / HTTP/1.1\r\n\r\n"} {
		nc, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(nc, garbage); err != nil {
			t.Fatal(err)
		}
		_ = nc.SetReadDeadline(time.Now().Add(20 * time.Second))
		var ne net.Error
		if _, err := io.ReadAll(nc); errors.As(err, &ne) && ne.Timeout() {
			t.Errorf("%q: the connection stays", garbage)
		}
		_ = nc.Close()
	}
	if _, err := k.Read(t.Context(), environmental); err != nil {
		t.Errorf("a well-behaved client: %v", err)
	}
}

func TestCancelledCalls(t *testing.T) {
	socket, _, _ := open(t, radio.Options{}, newPeripheral(macA))
	c := dial(t, socket)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Connect(ctx, macA); !errors.Is(err, context.Canceled) {
		t.Errorf("connect: %v", err)
	}
	if _, err := c.Scan(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("scan: %v", err)
	}
	k := connect(t, c, macA)
	if _, err := k.Subscribe(ctx, environmental); !errors.Is(err, context.Canceled) {
		t.Errorf("subscribe: %v", err)
	}
	if _, err := k.Subscribe(t.Context(), environmental); err != nil {
		t.Errorf("subscribe: %v", err)
	}
	if _, err := radio.Dial(t.Context(), socket+"x"); err == nil {
		t.Error("dialled a radio that is not there")
	}
}

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{
		"c0:83:2a:00:00:0a": "c0832a00000a", "C0832A00000A": "c0832a00000a",
		"c0832a": "", "": "", "c0:83:2a:00:00:0g": "", "c0832a00000a00000": "", "c0832a00000a0a": "",
	} {
		a, err := radio.ParseAddress(in)
		if got := a.Hex(); (err != nil) != (want == "") || err == nil && got != want {
			t.Errorf("ParseAddress(%q) = %s, %v; want %q", in, got, err, want)
		}
	}
	if got := macA.String(); got != "c0:83:2a:00:00:0a" {
		t.Error(got)
	}
}

func FuzzPDU(f *testing.F) {
	f.Add(radio.SubscribeBytes(macA, uuid.MustParse(environmental)))
	f.Add(append(binary.BigEndian.AppendUint16(nil, 50), make([]byte, 50)...))
	f.Add(radio.NotificationBytes(uuid.MustParse(environmental), []byte("value"), 1, 1_690_000_000_000_000_000))
	f.Add([]byte{0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		again, err := radio.Reencode(r, nil)
		if err == nil {
			t.Fatal("read on for ever")
		}
		if !bytes.HasPrefix(b, again) || err == io.EOF && len(again) != len(b) {
			t.Fatalf("% x became % x (%v)", b, again, err)
		}
	})
}

func FuzzCharacteristics(f *testing.F) {
	id := uuid.MustParse(environmental)
	f.Add(append(id[:], 10))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 512 {
			return // no PDU carries more
		}
		again, err := radio.ReencodeCharacteristics(b)
		if err != nil {
			return
		}
		if len(again) != len(b) {
			t.Fatalf("%d bytes became %d", len(b), len(again))
		}
	})
}
