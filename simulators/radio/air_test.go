package radio_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/simulators/radio"
)

// inAir runs a radio without a socket until f ends, in a bubble of its own time.
func inAir(t *testing.T, o radio.Options, boards []*peripheral, f func(*testing.T, *radio.Server, *radio.Client)) {
	synctest.Test(t, func(t *testing.T) {
		heard := make([]radio.Heard, len(boards))
		for i, b := range boards {
			heard[i] = radio.Heard{Peripheral: b, RSSI: -40}
		}
		s, dial, err := radio.Pipe(heard, o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		c := dial()
		defer func() {
			_ = c.Close()
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}()
		f(t, s, c)
	})
}

// heardAt is when each board was heard, since the scan began, until ctx ends.
func heardAt(t *testing.T, c *radio.Client, within time.Duration) map[radio.Address][]time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	began := time.Now()
	adverts, err := c.Scan(ctx)
	if err != nil {
		t.Fatal(err)
	}
	at := map[radio.Address][]time.Duration{}
	for a := range adverts {
		at[a.Address] = append(at[a.Address], time.Since(began))
	}
	return at
}

func TestAdvertisingInterval(t *testing.T) {
	const interval = 100 * time.Millisecond
	inAir(t, radio.Options{Quality: radio.Quality{Interval: interval}}, []*peripheral{newPeripheral(macA), newPeripheral(macB)},
		func(t *testing.T, _ *radio.Server, c *radio.Client) {
			heard := heardAt(t, c, 10*time.Second)
			if len(heard) != 2 || slices.Equal(heard[macA], heard[macB]) {
				t.Errorf("heard %d boards, at the same times or not at all", len(heard))
			}
			for mac, at := range heard {
				if at[0] != 0 || at[1] > interval+5*time.Millisecond {
					t.Errorf("%s was heard first after %s and %s", mac, at[0], at[1])
				}
				distinct := map[time.Duration]bool{}
				for i := 2; i < len(at); i++ {
					gap := at[i] - at[i-1]
					distinct[gap] = true
					if gap < interval || gap > interval+15*time.Millisecond {
						t.Errorf("%s: %s between two advertisements", mac, gap)
					}
				}
				if n := len(at); n < 90 || n > 101 || len(distinct) < 2 {
					t.Errorf("%s was heard %d times in 100 intervals, with %d different gaps", mac, n, len(distinct))
				}
			}
		})
}

func TestLostAdvertisements(t *testing.T) {
	heard := func(seed uint64) (at map[radio.Address][]time.Duration) {
		o := radio.Options{Quality: radio.Quality{Interval: 100 * time.Millisecond, Loss: 0.3}, Seed: seed}
		inAir(t, o, []*peripheral{newPeripheral(macA), newPeripheral(macB)}, func(t *testing.T, _ *radio.Server, c *radio.Client) {
			at = heardAt(t, c, 100*time.Second)
		})
		return at
	}
	first := heard(1)
	for mac, at := range first {
		if share := float64(len(at)) / 955; math.Abs(share-0.7) > 0.05 {
			t.Errorf("%s: %.2f of the advertisements were heard, want about 0.7", mac, share)
		}
	}
	if d := cmp.Diff(first, heard(1)); d != "" {
		t.Errorf("the same seed gave other losses: %s", d)
	}
	if cmp.Equal(first, heard(2)) {
		t.Error("another seed gave the same losses")
	}
}

// What is lost on the way comes later: nothing is missing, and nothing overtakes.
func TestLostNotifications(t *testing.T) {
	const n, period = 1000, 50 * time.Millisecond
	delays := func(seed uint64) (all [2][]time.Duration) {
		boards := []*peripheral{newPeripheral(macA), newPeripheral(macB)}
		inAir(t, radio.Options{Quality: radio.Quality{Loss: 0.4}, Seed: seed}, boards, func(t *testing.T, _ *radio.Server, c *radio.Client) {
			var streams [2]<-chan radio.Notification
			for i, b := range boards {
				ch, err := connect(t, c, b.mac).Subscribe(t.Context(), environmental)
				if err != nil {
					t.Fatal(err)
				}
				streams[i] = ch
				expect(t, b, "connected", "subscribed true")
			}
			began := time.Now()
			var readers sync.WaitGroup
			for i, ch := range streams {
				readers.Go(func() {
					for sent := range n {
						got, ok := <-ch
						if !ok || got.Emitted != int64(sent) || int(got.Value[0])|int(got.Value[1])<<8 != sent {
							t.Errorf("board %d: notification %d: %+v", i, sent, got)
							return
						}
						all[i] = append(all[i], time.Since(began)-time.Duration(sent)*period)
					}
				})
			}
			tick := time.NewTicker(period)
			defer tick.Stop()
			for i := range n {
				for _, b := range boards {
					b.current().Notify(environmental, []byte{byte(i), byte(i >> 8)}, int64(i), 0)
				}
				<-tick.C
			}
			readers.Wait()
		})
		return all
	}
	first := delays(1)
	atOnce := 0
	for i, d := range first[0] {
		if d == 0 {
			atOnce++
		} else if d < 7500*time.Microsecond && (i == 0 || d != first[0][i-1]-period) {
			t.Errorf("notification %d came after %s, want at once, at least 7.5ms later, or with the one before", i, d)
		}
	}
	if atOnce < n/3 || atOnce > n*2/3 {
		t.Errorf("%d of %d came at once", atOnce, n)
	}
	if worst := slices.Max(first[0]); worst < 30*time.Millisecond || worst > time.Second {
		t.Errorf("the last came after %s", worst)
	}
	if d := cmp.Diff(first, delays(1)); d != "" {
		t.Errorf("the same seed gave other delays: %s", d)
	}
	if cmp.Equal(first, delays(2)) {
		t.Error("another seed gave the same delays")
	}
}

// What waited for another try is not heard by who unsubscribed.
func TestUnsubscribeForgets(t *testing.T) {
	board := newPeripheral(macA)
	inAir(t, radio.Options{Quality: radio.Quality{Loss: 0.9}}, []*peripheral{board}, func(t *testing.T, _ *radio.Server, c *radio.Client) {
		k := connect(t, c, macA)
		subscribed, unsubscribe := context.WithCancel(t.Context())
		if _, err := k.Subscribe(subscribed, environmental); err != nil {
			t.Fatal(err)
		}
		consoled, err := k.Subscribe(t.Context(), console)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, board, "connected", "subscribed true", "subscribed true")
		for i := range 100 {
			board.current().Notify(environmental, []byte("old"), 0, 0)
			board.current().Notify(console, []byte{byte(i)}, 0, 0)
		}
		unsubscribe()
		expect(t, board, "subscribed false")
		ch, err := k.Subscribe(t.Context(), environmental)
		if err != nil {
			t.Fatal(err)
		}
		board.current().Notify(environmental, []byte("new"), 0, 0)
		if n, _ := next(t, ch); string(n.Value) != "new" {
			t.Errorf("heard %q", n.Value)
		}
		for i := range 100 {
			if n, _ := next(t, consoled); n.Value[0] != byte(i) {
				t.Fatalf("console: %d, want %d", n.Value[0], i)
			}
		}
	})
}

// A connection that is held up cannot hold any number of notifications.
func TestResendIsBounded(t *testing.T) {
	board := newPeripheral(macA)
	inAir(t, radio.Options{Quality: radio.Quality{Loss: 0.9}}, []*peripheral{board}, func(t *testing.T, s *radio.Server, c *radio.Client) {
		connect(t, c, macA)
		l, sent := board.current(), 0
		for l.Notify(environmental, []byte("x"), 0, 0) {
			sent++
		}
		next(t, c.Done())
		if s.Overflows() != 1 || sent < 1024 || sent > 3000 {
			t.Errorf("%d overflows after %d notifications", s.Overflows(), sent)
		}
	})
}

func TestReach(t *testing.T) {
	for _, loss := range []float64{0, 0.5} {
		far, near := newPeripheral(macA), newPeripheral(macB)
		inAir(t, radio.Options{Quality: radio.Quality{Loss: loss}}, []*peripheral{far, near}, func(t *testing.T, s *radio.Server, c *radio.Client) {
			k, k2 := connect(t, c, macA), connect(t, c, macB)
			ch, err := k.Subscribe(t.Context(), environmental)
			if err != nil {
				t.Fatal(err)
			}
			l := far.current()
			s.SetReach(macA, false)
			s.SetReach(macA, false) // it is so already
			expect(t, far, "connected", "subscribed true", "disconnected")
			next(t, k.Done())
			if err := k.Err(); !errors.Is(err, radio.ErrDisconnected) || !strings.Contains(err.Error(), "supervision timeout") {
				t.Errorf("err %v", err)
			}
			for range ch {
			}
			if l.Notify(environmental, nil, 0, 0) {
				t.Error("notified over a link that is gone")
			}
			if _, err := c.Connect(t.Context(), macA); !errors.Is(err, radio.ErrUnknown) {
				t.Errorf("connect to a board out of range: %v", err)
			}
			if heard := heardAt(t, c, 10*time.Second); len(heard[macA]) > 0 || len(heard[macB]) == 0 {
				t.Errorf("heard %v", heard)
			}
			if k2.Err() != nil {
				t.Errorf("the other board: %v", k2.Err())
			}

			adverts, err := c.Scan(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // the first round is over
			for len(adverts) > 0 {
				<-adverts
			}
			s.SetReach(macA, true)
			synctest.Wait()
			if loss == 0 {
				select {
				case a := <-adverts:
					if a.Address != macA || !a.Connectable {
						t.Errorf("heard %+v", a)
					}
				default:
					t.Error("in range again, and not advertised at once")
				}
			}
			connect(t, c, macA)
			expect(t, far, "connected")
			s.SetReach(radio.Address{}, false) // nobody
		})
	}
}

func TestAddAndRemove(t *testing.T) {
	first, second := newPeripheral(macA), newPeripheral(macB)
	inAir(t, radio.Options{}, []*peripheral{first}, func(t *testing.T, s *radio.Server, c *radio.Client) {
		ctx, cancel := context.WithCancel(t.Context())
		adverts, err := c.Scan(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if a, _ := next(t, adverts); a.Address != macA {
			t.Errorf("heard %+v", a)
		}
		if err := s.Add(radio.Heard{Peripheral: second, RSSI: -50}); err != nil {
			t.Fatal(err)
		}
		if err := s.Add(radio.Heard{Peripheral: newPeripheral(macB)}); err == nil || !strings.Contains(err.Error(), macB.String()) {
			t.Errorf("the same address twice: %v", err)
		}
		synctest.Wait()
		select {
		case a := <-adverts:
			if a.Address != macB || a.RSSI != -50 {
				t.Errorf("heard %+v", a)
			}
		default:
			t.Error("added, and not advertised at once")
		}
		cancel()
		for range adverts {
		}
		if heard := heardAt(t, c, 10*time.Second); len(heard[macB]) < 10 {
			t.Errorf("heard %v", heard)
		}
		k := connect(t, c, macB)
		s.Remove(macB)
		s.Remove(macB)
		expect(t, second, "connected", "disconnected")
		next(t, k.Done())
		if err := k.Err(); !errors.Is(err, radio.ErrDisconnected) || !strings.Contains(err.Error(), "the board is gone") {
			t.Errorf("err %v", err)
		}
		if _, err := c.Connect(t.Context(), macB); !errors.Is(err, radio.ErrUnknown) {
			t.Errorf("connect to a board that is gone: %v", err)
		}
		if heard := heardAt(t, c, 10*time.Second); len(heard[macB]) > 0 {
			t.Errorf("heard %v", heard)
		}
		if err := s.Add(radio.Heard{Peripheral: second}); err != nil {
			t.Errorf("added again: %v", err)
		}
		connect(t, c, macB)
	})
}

// Removed in the middle of a scan, a board is heard no more in it.
func TestRemoveWhileScanning(t *testing.T) {
	inAir(t, radio.Options{}, []*peripheral{newPeripheral(macA), newPeripheral(macB)}, func(t *testing.T, s *radio.Server, c *radio.Client) {
		time.AfterFunc(5*time.Second, func() { s.Remove(macB) })
		heard := heardAt(t, c, 20*time.Second)
		if last := slices.Max(heard[macB]); last > 5*time.Second || len(heard[macB]) < 4 {
			t.Errorf("heard until %s", last)
		}
		if len(heard[macA]) < 19 {
			t.Errorf("heard the other %d times", len(heard[macA]))
		}
	})
}

// Boards cost no goroutines, and all get their turn.
func TestManyOnAir(t *testing.T) {
	boards := make([]*peripheral, 10_000)
	for i := range boards {
		boards[i] = newPeripheral(radio.Address{0xc0, 0, 0, 0, byte(i >> 8), byte(i)})
	}
	inAir(t, radio.Options{}, boards, func(t *testing.T, _ *radio.Server, c *radio.Client) {
		heard := heardAt(t, c, 5500*time.Millisecond)
		least := 1000
		for _, at := range heard {
			least = min(least, len(at))
		}
		if len(heard) != len(boards) || least < 4 {
			t.Errorf("heard %d of %d boards, the one with the least %d times", len(heard), len(boards), least)
		}
	})
}

func TestDiscard(t *testing.T) {
	board := newPeripheral(macA)
	l, err := radio.Discard(board)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := radio.Discard(board); !errors.Is(err, radio.ErrBusy) {
		t.Errorf("a second connection: %v", err)
	}
	for range 3 {
		if !board.current().Notify(environmental, []byte("x"), 0, 0) {
			t.Error("not taken")
		}
	}
	if l.Notify("nonsense", nil, 0, 0) || l.Notify(environmental, make([]byte, 513), 0, 0) {
		t.Error("took what no radio takes")
	}
	if l.Notified() != 3 {
		t.Errorf("%d notified, want 3", l.Notified())
	}
}

func TestQuality(t *testing.T) {
	for _, tt := range []struct {
		quality radio.Quality
		want    string
	}{
		{radio.Quality{Interval: 19 * time.Millisecond}, "interval: 19ms, want 20ms to 10.24s"},
		{radio.Quality{Interval: 11 * time.Second}, "interval: 11s, want"},
		{radio.Quality{Loss: -0.1}, "loss: -0.1, want 0 to 0.9"},
		{radio.Quality{Loss: 0.95}, "loss: 0.95, want"},
		{radio.Quality{Loss: math.NaN()}, "loss: NaN, want"},
	} {
		if _, err := radio.Listen(t.TempDir()+"/r", nil, radio.Options{Quality: tt.quality}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %s", tt.quality, err, tt.want)
		}
	}
}
