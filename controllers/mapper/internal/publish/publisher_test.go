package publish_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/fluidos-edge/testbed/controllers/mapper/internal/publish"
	"github.com/fluidos-edge/testbed/internal/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newSample of a temperature.
func newSample(uid string, epoch, at int64, celsius float64) publish.Sample {
	return publish.Sample{
		Category: "environmental", Device: "stwinkt1b-c0832a001122", Node: "edge-1", Part: "hts221", UID: uid, Topic: "sensor/" + uid,
		Values:  []publish.Value{{Field: "temperature_celsius", Value: celsius}},
		Latency: 12*time.Millisecond + 345678*time.Nanosecond, Epoch: epoch, At: at,
	}
}

// newSampleWithoutLatency has two fields and another category.
func newSampleWithoutLatency(uid, category string) publish.Sample {
	s := newSample(uid, 7, 0, 0)
	s.Category, s.Latency = category, -1
	s.Values = []publish.Value{{Field: "humidity_percent", Value: 47}, {Field: "temperature_celsius", Value: 23.4}}
	return s
}

// short is the sample with less to write.
func short(s publish.Sample) publish.Sample {
	s.Device, s.Values = "d", s.Values[:1]
	return s
}

// bed is a publisher with what it counts.
type bed struct {
	*publish.Publisher
	journal *journal.File

	mu        sync.Mutex
	published int
	drops     map[string]int
}

// newPublisher to b, with a journal at path.
func newPublisher(b publish.Broker, path string, queue int, gather time.Duration) (*bed, error) {
	j, err := journal.Open(path)
	if err != nil {
		return nil, err
	}
	p := &bed{journal: j, drops: map[string]int{}}
	p.Publisher = publish.New(publish.Options{
		Broker: b, Journal: j, Log: slog.New(slog.DiscardHandler), Namespace: "fluidos", Queue: queue, Gather: gather,
		Published: func(n int) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.published += n
		},
		Dropped: func(reason string, n int) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.drops[reason] += n
		},
	})
	return p, nil
}

func (p *bed) Close() error { return p.journal.Close() }

func (p *bed) dropped() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.drops)
}

func TestLine(t *testing.T) {
	for _, c := range []struct {
		name   string
		sample publish.Sample
		want   string
	}{
		{
			"with latency", newSample("u-1", 1700000000000000001, 0, 23.4),
			"environmental,device=stwinkt1b-c0832a001122,node=edge-1,part=hts221,uid=u-1 temperature_celsius=23.4,sensor_latency_ms=12.346,epoch=1700000000000000001i,seq=5i 1700000000000000009\n",
		},
		{
			"without latency", newSampleWithoutLatency("u-1", "environmental"),
			"environmental,device=stwinkt1b-c0832a001122,node=edge-1,part=hts221,uid=u-1 humidity_percent=47,temperature_celsius=23.4,epoch=7i,seq=5i 1700000000000000009\n",
		},
		{"a measurement that is none", newSampleWithoutLatency("u-1", "a\nb"), ""},
		{"a reading that is no number", newSample("u-1", 1, 0, math.NaN()), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			line, err := c.sample.Encode(5, 1700000000000000009)
			if (err == nil) != (c.want != "") {
				t.Fatalf("error %v", err)
			}
			if diff := cmp.Diff(c.want, string(line)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// fakeBroker answers as a test says.
type fakeBroker struct {
	up      chan struct{} // closed once connected
	answer  func(ctx context.Context, n int, line string) error
	mu      sync.Mutex
	sent    []string
	arrived chan string
}

func newFakeBroker(answer func(ctx context.Context, n int, line string) error) *fakeBroker {
	return &fakeBroker{up: make(chan struct{}), answer: answer, arrived: make(chan string, 1000)}
}

func (b *fakeBroker) Await(ctx context.Context) error {
	select {
	case <-b.up:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *fakeBroker) Publish(ctx context.Context, topic string, line []byte) error {
	b.mu.Lock()
	b.sent = append(b.sent, string(line))
	n := len(b.sent)
	b.mu.Unlock()
	if !strings.HasPrefix(topic, "fluidos/sensor/") {
		return fmt.Errorf("topic %q", topic)
	}
	if b.answer != nil {
		if err := b.answer(ctx, n, string(line)); err != nil {
			return err
		}
	}
	b.arrived <- string(line)
	return nil
}

// publisher runs one until the test ends or stop is called.
func publisher(t *testing.T, b publish.Broker, journal string, queue int) (p *bed, stop func() error) {
	t.Helper()
	p, err := newPublisher(b, journal, queue, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return errors.Join(<-done, p.Close())
	})
	t.Cleanup(func() { _ = stop() })
	return p, stop
}

// brief is "<temperature> <epoch>/<seq>@<time>" of a line of NewSample.
func brief(t *testing.T, line string) string {
	t.Helper()
	var celsius float64
	var epoch, seq, at int64
	_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	if _, err := fmt.Sscanf(rest, "temperature_celsius=%g,sensor_latency_ms=12.346,epoch=%di,seq=%di %d", &celsius, &epoch, &seq, &at); err != nil {
		t.Fatalf("line %q: %v", line, err)
	}
	return fmt.Sprintf("%g %d/%d@%d", celsius, epoch, seq, at)
}

func receive(t *testing.T, b *fakeBroker, n int) (got []string) {
	t.Helper()
	for range n {
		got = append(got, brief(t, <-b.arrived))
	}
	return got
}

func TestNumbersAreGivenAtHandOver(t *testing.T) {
	for _, c := range []struct {
		name    string
		queue   int
		samples []publish.Sample
		want    []string
		dropped map[string]int
	}{
		{
			name: "from 1, without gaps", queue: 9,
			samples: []publish.Sample{newSample("u", 5, 100, 1), newSample("u", 5, 200, 2), newSample("u", 5, 300, 3)},
			want:    []string{"1 5/1@100", "2 5/2@200", "3 5/3@300"},
		},
		{
			name: "a full queue drops the oldest and leaves no gap", queue: 2,
			samples: []publish.Sample{newSample("u", 5, 100, 1), newSample("u", 5, 200, 2), newSample("u", 5, 300, 3), newSample("u", 5, 400, 4)},
			want:    []string{"3 5/1@300", "4 5/2@400"},
			dropped: map[string]int{"overflow": 2},
		},
		{
			name: "what cannot be encoded takes no number", queue: 9,
			samples: []publish.Sample{newSample("u", 5, 100, 1), newSample("u", 5, 200, math.Inf(1)), newSample("u", 5, 300, 3)},
			want:    []string{"1 5/1@100", "3 5/2@300"},
			dropped: map[string]int{"malformed": 1},
		},
		{
			name: "a new epoch starts at 1, after what is left of the old one", queue: 9,
			samples: []publish.Sample{newSample("u", 5, 100, 1), newSample("u", 5, 200, 2), newSample("u", 6, 300, 3), newSample("u", 6, 400, 4)},
			want:    []string{"1 5/1@100", "2 5/2@200", "3 6/1@300", "4 6/2@400"},
		},
		{
			name: "time only grows, also when the clock goes back", queue: 9,
			samples: []publish.Sample{newSample("u", 5, 100, 1), newSample("u", 5, 100, 2), newSample("u", 6, 50, 3), newSample("u", 6, 400, 4)},
			want:    []string{"1 5/1@100", "2 5/2@101", "3 6/1@102", "4 6/2@400"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newFakeBroker(nil)
			p, stop := publisher(t, b, "", c.queue)
			for _, s := range c.samples {
				p.Push(s)
			}
			close(b.up)
			if diff := cmp.Diff(c.want, receive(t, b, len(c.want))); diff != "" {
				t.Errorf("published (-want +got):\n%s", diff)
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
			want := c.dropped
			if want == nil {
				want = map[string]int{}
			}
			if diff := cmp.Diff(want, p.dropped()); diff != "" {
				t.Errorf("dropped (-want +got):\n%s", diff)
			}
			if len(b.arrived) > 0 {
				t.Errorf("published too: %q", <-b.arrived)
			}
		})
	}
}

func TestALineIsSentUntilItIsAcknowledgedAndThenJournaled(t *testing.T) {
	journal := filepath.Join(t.TempDir(), "published.lp")
	b := newFakeBroker(func(_ context.Context, n int, _ string) error {
		if n%3 != 0 {
			return errors.New("connection lost")
		}
		return nil
	})
	close(b.up)
	p, stop := publisher(t, b, journal, 100)
	var want []string
	for i := range 20 {
		p.Push(newSample("u", 5, int64(100+i), float64(i)))
		want = append(want, fmt.Sprintf("%d 5/%d@%d", i, i+1, 100+i))
	}
	if diff := cmp.Diff(want, receive(t, b, 20)); diff != "" {
		t.Errorf("published (-want +got):\n%s", diff)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(b.sent); i += 3 {
		if b.sent[i] != b.sent[i+1] || b.sent[i] != b.sent[i+2] {
			t.Fatalf("line %d was sent again with a difference:\n%s%s%s", i/3+1, b.sent[i], b.sent[i+1], b.sent[i+2])
		}
	}
	if diff := cmp.Diff(want, journaled(t, journal)); diff != "" {
		t.Errorf("journal (-want +got):\n%s", diff)
	}
}

func journaled(t *testing.T, path string) (out []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		out = append(out, brief(t, line))
	}
	return out
}

func TestOneSensorDoesNotDelayAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(func(ctx context.Context, _ int, line string) error {
			if strings.Contains(line, "uid=stuck") {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		close(b.up)
		p, stop := publisher(t, b, "", 10)
		p.Push(newSample("stuck", 5, 100, 1))
		p.Push(newSample("free", 5, 100, 2))
		if diff := cmp.Diff([]string{"2 5/1@100"}, receive(t, b, 1)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatIsUnderWayAtTheEndIsWaitedForAndJournaled(t *testing.T) {
	for _, c := range []struct {
		name  string
		after time.Duration
		want  []string
	}{
		{"acknowledged soon", time.Second, []string{"1 5/1@100"}},
		{"acknowledged never", time.Hour, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			journal := filepath.Join(t.TempDir(), "published.lp")
			synctest.Test(t, func(t *testing.T) {
				b := newFakeBroker(func(ctx context.Context, _ int, _ string) error {
					select {
					case <-time.After(c.after):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				})
				close(b.up)
				p, stop := publisher(t, b, journal, 10)
				p.Push(newSample("u", 5, 100, 1))
				p.Push(newSample("u", 5, 200, 2))
				synctest.Wait()
				start := time.Now()
				if err := stop(); err != nil {
					t.Error(err)
				}
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("it took %v to stop", took)
				}
				if diff := cmp.Diff(map[string]int{"stopped": 1}, p.dropped()); diff != "" {
					t.Errorf("dropped (-want +got):\n%s", diff)
				}
			})
			if diff := cmp.Diff(c.want, journaled(t, journal)); diff != "" {
				t.Errorf("journal (-want +got):\n%s", diff)
			}
		})
	}
}

func TestJournalIsAppendedTo(t *testing.T) {
	journal := filepath.Join(t.TempDir(), "published.lp")
	for i := range 2 {
		b := newFakeBroker(nil)
		close(b.up)
		p, stop := publisher(t, b, journal, 10)
		p.Push(newSample("u", int64(5+i), 100, 1))
		receive(t, b, 1)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"1 5/1@100", "1 6/1@100"}, journaled(t, journal)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if info, err := os.Stat(journal); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
}

func TestAJournalThatCannotBeWrittenEndsThePublisher(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("this system has no /dev/full")
	}
	b := newFakeBroker(nil)
	close(b.up)
	p, err := newPublisher(b, "/dev/full", 10, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(t.Context()) }()
	p.Push(newSample("u", 5, 100, 1))
	if err := <-done; err == nil || !strings.Contains(err.Error(), "after sample 1 of u: journal: ") {
		t.Errorf("error %v", err)
	}
}
