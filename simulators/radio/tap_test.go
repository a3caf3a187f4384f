package radio_test

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/simulators/radio"
)

// tap runs a tap to the radio behind a socket until the test ends, or stop.
func tap(t *testing.T, radioSocket string, alter func(radio.Address, radio.Notification) []radio.TappedNotification) (socket string, stop func()) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "t")
	tap, err := radio.ListenTap(socket, radioSocket, alter)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- tap.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return socket, stop
}

// Through a tap that alters nothing, mapper and board are as they are without it.
func TestTapPassesEverythingOn(t *testing.T) {
	board := newPeripheral(macA)
	direct, _, _ := open(t, radio.Options{}, board)
	socket, _ := tap(t, direct, nil)
	ctx := t.Context()
	c := dial(t, socket)
	adverts, err := c.Scan(ctx)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := next(t, adverts)
	if d := cmp.Diff(radio.Advertisement{Address: macA, RSSI: -40, Payload: []byte("adv"), Connectable: true}, a); d != "" {
		t.Error(d)
	}
	if _, err := c.Connect(ctx, macB); !errors.Is(err, radio.ErrUnknown) {
		t.Errorf("connect to nobody: %v", err)
	}
	k := connect(t, c, macA)
	expect(t, board, "connected")
	if _, err := dial(t, direct).Connect(ctx, macA); !errors.Is(err, radio.ErrBusy) {
		t.Errorf("connect to a board that is connected through the tap: %v", err)
	}
	cs, err := k.Discover(ctx)
	if d := cmp.Diff(board.Characteristics(), cs); err != nil || d != "" {
		t.Errorf("discover: %v %s", err, d)
	}
	if v, err := k.Read(ctx, environmental); err != nil || string(v) != "value" {
		t.Errorf("read: %q, %v", v, err)
	}
	if err := k.Write(ctx, environmental, []byte("x")); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("refused write: %v", err)
	}
	ch, err := k.Subscribe(ctx, environmental)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, board, "subscribed true")
	for i := range 100 {
		board.current().Notify(environmental, []byte{byte(i)}, int64(i), int64(-i))
	}
	for i := range 100 {
		if n, _ := next(t, ch); n.Value[0] != byte(i) || n.Emitted != int64(i) || n.EmittedWall != int64(-i) {
			t.Fatalf("notification %d: %+v", i, n)
		}
	}
	board.current().Drop("battery is empty")
	next(t, k.Done())
	if err := k.Err(); !strings.Contains(err.Error(), "battery is empty") {
		t.Errorf("err %v", err)
	}
}

func TestTapAlters(t *testing.T) {
	a, b := newPeripheral(macA), newPeripheral(macB)
	direct, _, _ := open(t, radio.Options{}, a, b)
	type seen struct {
		board radio.Address
		n     radio.Notification
	}
	var asked []seen
	var mu sync.Mutex
	socket, _ := tap(t, direct, func(board radio.Address, n radio.Notification) []radio.TappedNotification {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, seen{board, n})
		same := radio.TappedNotification{Board: board, Notification: n}
		with := func(change func(*radio.TappedNotification)) []radio.TappedNotification {
			change(&same)
			return []radio.TappedNotification{same}
		}
		switch string(n.Value) {
		case "drop":
			return nil
		case "double":
			return []radio.TappedNotification{same, same}
		case "value":
			return with(func(n *radio.TappedNotification) { n.Value = []byte("another") })
		case "times":
			return with(func(n *radio.TappedNotification) { n.Emitted, n.EmittedWall = n.Emitted+1, n.EmittedWall+2 })
		case "board":
			return with(func(n *radio.TappedNotification) { n.Board = macB })
		case "characteristic":
			return with(func(n *radio.TappedNotification) { n.Characteristic = console })
		case "nobody":
			return with(func(n *radio.TappedNotification) { n.Board = radio.Address{1} })
		case "nonsense":
			return with(func(n *radio.TappedNotification) { n.Characteristic = "nonsense" })
		case "long":
			return with(func(n *radio.TappedNotification) { n.Value = make([]byte, 513) })
		}
		return []radio.TappedNotification{same}
	})
	c := dial(t, socket)
	ka, kb := connect(t, c, macA), connect(t, c, macB)
	subscribe := func(k *radio.Conn, characteristic string) <-chan radio.Notification {
		ch, err := k.Subscribe(t.Context(), characteristic)
		if err != nil {
			t.Fatal(err)
		}
		return ch
	}
	env, text, others := subscribe(ka, environmental), subscribe(ka, console), subscribe(kb, environmental)
	for i, v := range []string{"same", "drop", "double", "value", "times", "board", "characteristic", "nobody", "nonsense", "long", "end"} {
		a.current().Notify(environmental, []byte(v), int64(100+i), int64(200+i))
	}
	want := func(ch <-chan radio.Notification, characteristic, value string, emitted, wall int64) {
		t.Helper()
		n, _ := next(t, ch)
		n.Received = 0
		if d := cmp.Diff(radio.Notification{Characteristic: characteristic, Value: []byte(value), Emitted: emitted, EmittedWall: wall}, n); d != "" {
			t.Error(d)
		}
	}
	want(env, environmental, "same", 100, 200)
	want(env, environmental, "double", 102, 202)
	want(env, environmental, "double", 102, 202)
	want(env, environmental, "another", 103, 203)
	want(env, environmental, "times", 105, 206)
	want(others, environmental, "board", 105, 205)
	want(text, console, "characteristic", 106, 206)
	want(env, environmental, "end", 110, 210)
	if len(env)+len(text)+len(others) > 0 {
		t.Error("the mapper gets what is for nobody")
	}
	mu.Lock()
	defer mu.Unlock()
	if n := asked[4]; len(asked) != 11 || n.board != macA || n.n.Characteristic != environmental || string(n.n.Value) != "times" || n.n.Emitted != 104 || n.n.EmittedWall != 204 || n.n.Received == 0 {
		t.Errorf("asked %d times, of %+v", len(asked), n)
	}
	// A board that has gone has no connection.
	if err := kb.Close(); err != nil {
		t.Error(err)
	}
	expect(t, b, "connected", "subscribed true", "disconnected")
}

// A mapper and its connection to the radio end together, whoever begins.
func TestTapEnds(t *testing.T) {
	t.Run("mapper", func(t *testing.T) {
		board := newPeripheral(macA)
		direct, _, _ := open(t, radio.Options{}, board)
		socket, _ := tap(t, direct, nil)
		c := dial(t, socket)
		connect(t, c, macA)
		_ = c.Close()
		expect(t, board, "connected", "disconnected")
		connect(t, dial(t, socket), macA) // the next one
	})
	t.Run("radio", func(t *testing.T) {
		direct, _, stop := open(t, radio.Options{}, newPeripheral(macA))
		socket, _ := tap(t, direct, nil)
		c := dial(t, socket)
		k := connect(t, c, macA)
		stop()
		next(t, c.Done())
		if !errors.Is(k.Err(), radio.ErrDisconnected) {
			t.Errorf("connection: %v", k.Err())
		}
		next(t, dial(t, socket).Done()) // there is no radio any more
	})
	t.Run("tap", func(t *testing.T) {
		board := newPeripheral(macA)
		direct, _, _ := open(t, radio.Options{}, board)
		socket, stop := tap(t, direct, nil)
		c := dial(t, socket)
		connect(t, c, macA)
		stop()
		next(t, c.Done())
		expect(t, board, "connected", "disconnected")
		if _, err := radio.Dial(t.Context(), socket); err == nil {
			t.Error("the socket is still there")
		}
	})
	t.Run("nonsense", func(t *testing.T) {
		direct, _, _ := open(t, radio.Options{}, newPeripheral(macA))
		socket, _ := tap(t, direct, nil)
		nc, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if _, err := io.WriteString(nc, "GET / HTTP/1.1\r\n\r\n"+strings.Repeat("x", 1000)); err != nil {
			t.Fatal(err)
		}
		_ = nc.SetReadDeadline(time.Now().Add(20 * time.Second))
		var ne net.Error
		if _, err := io.ReadAll(nc); errors.As(err, &ne) && ne.Timeout() {
			t.Error("the connection stays")
		}
	})
	t.Run("never run", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "t")
		tap, err := radio.ListenTap(socket, "nowhere", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := radio.ListenTap(socket, "nowhere", nil); err == nil {
			t.Error("two taps on one socket")
		}
		if err := tap.Close(); err != nil {
			t.Error(err)
		}
	})
}
