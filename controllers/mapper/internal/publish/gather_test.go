package publish_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/controllers/mapper/internal/publish"
)

// gatherer runs a publisher that gathers until the test ends or stop is called.
func gatherer(t *testing.T, b publish.Broker, journal string, queue int, gather time.Duration) (p *bed, stop func() error) {
	t.Helper()
	p, err := newPublisher(b, journal, queue, gather)
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

// arrived messages so far, each with its lines in brief.
func arrived(t *testing.T, b *fakeBroker) (messages [][]string) {
	t.Helper()
	for len(b.arrived) > 0 {
		var lines []string
		for line := range strings.Lines(<-b.arrived) {
			lines = append(lines, brief(t, line))
		}
		messages = append(messages, lines)
	}
	return messages
}

func TestGatheredLinesAreOneMessage(t *testing.T) {
	const s = time.Second
	type push struct {
		at     time.Duration
		sample publish.Sample
	}
	sample := func(at time.Duration, uid string, epoch int64, celsius float64) push {
		return push{at, newSample(uid, epoch, 100+int64(at/s), celsius)}
	}
	for _, tt := range []struct {
		name   string
		pushes []push
		want   map[string][][]string // by the end of which second
	}{
		{"one by one", []push{sample(0, "u", 5, 1), sample(s, "u", 5, 2), sample(3*s, "u", 5, 3)},
			map[string][][]string{"2s": {{"1 5/1@100", "2 5/2@101"}}, "5s": {{"3 5/3@103"}}}},
		{"what comes at the end of one begins the next", []push{sample(0, "u", 5, 1), sample(2100*time.Millisecond, "u", 5, 2)},
			map[string][][]string{"2s": {{"1 5/1@100"}}, "4s": {{"2 5/2@102"}}}},
		{"a new epoch in the middle", []push{sample(0, "u", 5, 1), sample(s, "u", 6, 2)},
			map[string][][]string{"2s": {{"1 5/1@100", "2 6/1@101"}}}},
		{"every sensor for itself", []push{sample(0, "u", 5, 1), sample(s, "v", 5, 2)},
			map[string][][]string{"2s": {{"1 5/1@100"}}, "3s": {{"2 5/1@101"}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newFakeBroker(nil)
				close(b.up)
				p, stop := gatherer(t, b, "", 100, 2*s)
				began := time.Now()
				got := map[string][][]string{}
				wait := func(until time.Duration) {
					for ; time.Since(began) < until; synctest.Wait() {
						<-time.After(min(100*time.Millisecond, until-time.Since(began)))
						if m := arrived(t, b); m != nil {
							got[time.Since(began).Round(s).String()] = m
						}
					}
				}
				for _, push := range tt.pushes {
					wait(push.at)
					p.Push(push.sample)
				}
				wait(10 * s)
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("published (-want +got):\n%s", diff)
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestAMessageIsBounded(t *testing.T) {
	for _, tt := range []struct {
		name   string
		sample publish.Sample
		full   func(bytes, lines int) bool
	}{
		{"short lines", short(newSampleWithoutLatency("u", "e")), func(_, lines int) bool { return lines == publish.MaxLines }},
		{"long lines", newSampleWithoutLatency(strings.Repeat("u", 4000), "e"), func(bytes, lines int) bool { return bytes+bytes/lines > publish.MaxMessage }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const all = 1500
				b := newFakeBroker(nil)
				close(b.up)
				p, stop := gatherer(t, b, "", all, 10*time.Second)
				for range all {
					p.Push(tt.sample)
				}
				synctest.Wait()
				// Full messages do not wait; the rest does.
				if got := len(b.arrived); got < 2 {
					t.Errorf("%d messages at once", got)
				}
				<-time.After(10 * time.Second)
				synctest.Wait()
				if err := stop(); err != nil {
					t.Error(err)
				}
				n := 0
				for len(b.arrived) > 0 {
					text := <-b.arrived
					lines := strings.Count(text, "\n")
					if len(text) > publish.MaxMessage || lines > publish.MaxLines {
						t.Errorf("message of %d bytes, %d lines", len(text), lines)
					}
					for line := range strings.Lines(text) {
						n++
						if !strings.Contains(line, fmt.Sprintf(",seq=%di ", n)) {
							t.Fatalf("line %d is %q", n, line)
						}
					}
					if len(b.arrived) > 0 && !tt.full(len(text), lines) {
						t.Errorf("message of %d bytes, %d lines, and it is not the last", len(text), lines)
					}
				}
				if n != all {
					t.Errorf("%d lines, want %d", n, all)
				}
			})
		})
	}
}

func TestWhatWasGatheredIsFlushedAtTheEnd(t *testing.T) {
	journal := filepath.Join(t.TempDir(), "published.lp")
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(func(_ context.Context, n int, _ string) error {
			if n < 3 {
				return errors.New("connection lost")
			}
			return nil
		})
		close(b.up)
		p, stop := gatherer(t, b, journal, 100, 10*time.Second)
		for i := range 3 {
			p.Push(newSample("u", 5, int64(100+i), float64(i)))
		}
		synctest.Wait()
		if len(b.arrived) > 0 {
			t.Errorf("published before its time: %q", <-b.arrived)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		want := []string{"0 5/1@100", "1 5/2@101", "2 5/3@102"}
		if diff := cmp.Diff([][]string{want}, arrived(t, b)); diff != "" {
			t.Errorf("published (-want +got):\n%s", diff)
		}
		if len(b.sent) != 3 || b.sent[0] != b.sent[1] || b.sent[0] != b.sent[2] {
			t.Errorf("sent %q", b.sent)
		}
		if diff := cmp.Diff(want, journaled(t, journal)); diff != "" {
			t.Errorf("journal (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]int{}, p.dropped()); diff != "" {
			t.Errorf("dropped (-want +got):\n%s", diff)
		}
	})
}

// While the broker is away nothing is numbered that may still be dropped.
func TestGatheringLeavesNoGapWhereSamplesAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker(nil)
		p, stop := gatherer(t, b, "", 5, time.Second)
		for i := range 20 {
			p.Push(newSample("u", 5, int64(100+i), float64(i)))
		}
		synctest.Wait()
		close(b.up)
		<-time.After(2 * time.Second)
		synctest.Wait()
		if diff := cmp.Diff([][]string{{"15 5/1@115", "16 5/2@116", "17 5/3@117", "18 5/4@118", "19 5/5@119"}}, arrived(t, b)); diff != "" {
			t.Errorf("published (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]int{"overflow": 15}, p.dropped()); diff != "" {
			t.Errorf("dropped (-want +got):\n%s", diff)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}
