package events_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/events"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bed is an API server that counts what is written to it, with some Devices.
type bed struct {
	*events.Recorder
	api     client.Client
	mu      sync.Mutex
	away    bool
	writes  int
	dropped []string
	written []string
}

func device(name string) *devices.Device {
	return &devices.Device{ObjectMeta: metav1.ObjectMeta{Namespace: "fluidos", Name: name, UID: types.UID("uid-of-" + name)}}
}

// newBed runs a recorder until the test ends.
func newBed(t *testing.T, objects ...client.Object) *bed {
	t.Helper()
	b := &bed{}
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), devices.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	refuse := func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.writes++
		if b.away {
			return errors.New("connection refused")
		}
		return nil
	}
	b.api = fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if err := refuse(); err != nil {
				return err
			}
			return c.Create(ctx, o, opts...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			if err := refuse(); err != nil {
				return err
			}
			return c.Patch(ctx, o, p, opts...)
		},
	}).Build()
	b.Recorder = events.New(events.Options{
		Client: b.api, Namespace: "fluidos", Node: "edge-1", Log: slog.New(slog.DiscardHandler), Pause: 500 * time.Millisecond,
		Written: func(reason string) { b.written = append(b.written, reason) },
		Dropped: func(reason string) { b.dropped = append(b.dropped, reason) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return b
}

func (b *bed) setAway(away bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away = away
}

// events that are there: "<device> <type> <reason> x<count>: <message>".
func (b *bed) events(t *testing.T) (out []string) {
	t.Helper()
	var list corev1.EventList
	if err := b.api.List(t.Context(), &list, client.InNamespace("fluidos")); err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Items {
		out = append(out, fmt.Sprintf("%s %s %s x%d: %s", e.InvolvedObject.Name, e.Type, e.Reason, e.Count, e.Message))
	}
	slices.Sort(out)
	return out
}

func (b *bed) want(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(want, b.events(t)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// later is when everything that was due until then is done.
func later(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestAnEventIsCompleteAndComesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, device("a"))
		now := metav1.NewTime(time.Now())
		b.Record("a", "BoardSilent", "no frame", false)
		synctest.Wait()
		var list corev1.EventList
		if err := b.api.List(t.Context(), &list); err != nil || len(list.Items) != 1 {
			t.Fatalf("%d events, %v", len(list.Items), err)
		}
		e := list.Items[0]
		e.Name, e.ResourceVersion, e.InvolvedObject.ResourceVersion = "", "", ""
		want := corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Namespace: "fluidos"},
			InvolvedObject: corev1.ObjectReference{Kind: "Device", APIVersion: "devices.kubeedge.io/v1beta1", Namespace: "fluidos", Name: "a", UID: "uid-of-a"},
			Reason:         "BoardSilent", Message: "no frame", Type: "Warning", Count: 1,
			Source: corev1.EventSource{Component: "mapper", Host: "edge-1"}, ReportingController: "mapper", ReportingInstance: "edge-1",
			FirstTimestamp: now, LastTimestamp: now,
		}
		if diff := cmp.Diff(want, e, cmp.Comparer(func(a, b metav1.Time) bool { return a.Unix() == b.Unix() })); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestWhatHappensAgainIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, device("a"), device("b"))
		for i := range 90 {
			b.Record("a", "BoardSilent", fmt.Sprintf("message %d", i), false)
			b.Record("a", "BoardRecovered", "back", true)
			b.Record("b", "BoardSilent", "other board", false)
			later(100 * time.Millisecond)
		}
		b.want(t, "a Normal BoardRecovered x1: back", "a Warning BoardSilent x1: message 0", "b Warning BoardSilent x1: other board")
		later(2 * time.Second)
		b.want(t, "a Normal BoardRecovered x90: back", "a Warning BoardSilent x90: message 89", "b Warning BoardSilent x90: other board")
		if b.writes != 6 {
			t.Errorf("%d writes, want 6", b.writes)
		}
		later(20 * time.Second)
		b.Record("a", "BoardSilent", "much later", false)
		b.want(t, "a Normal BoardRecovered x90: back", "a Warning BoardSilent x91: much later", "b Warning BoardSilent x90: other board")
	})
}

func TestWhatTheAPIServerForgotIsMadeAnew(t *testing.T) {
	for _, gone := range []bool{true, false} {
		t.Run(fmt.Sprintf("gone %v", gone), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, device("a"))
				b.Record("a", "BoardSilent", "first", false)
				synctest.Wait()
				if gone {
					if err := b.api.DeleteAllOf(t.Context(), &corev1.Event{}, client.InNamespace("fluidos")); err != nil {
						t.Fatal(err)
					}
				} else {
					later(time.Hour) // it may be gone any moment
				}
				later(10 * time.Second)
				b.Record("a", "BoardSilent", "second", false)
				want := []string{"a Warning BoardSilent x1: second"}
				if !gone {
					want = []string{"a Warning BoardSilent x1: first", "a Warning BoardSilent x1: second"}
				}
				b.want(t, want...)
			})
		})
	}
}

func TestEventsWaitForTheAPIServerAndForTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, device("a"))
		b.setAway(true)
		b.Record("a", "BoardLost", "one", false)
		b.Record("new", "BoardSilent", "two", false)
		later(30 * time.Second)
		b.Record("a", "BoardLost", "three", false)
		b.want(t)
		if b.writes > 30 {
			t.Errorf("%d tries within 30 s", b.writes)
		}
		b.setAway(false)
		later(10 * time.Second)
		b.want(t, "a Warning BoardLost x2: three")
		if err := b.api.Create(t.Context(), device("new")); err != nil {
			t.Fatal(err)
		}
		later(10 * time.Second)
		b.want(t, "a Warning BoardLost x2: three", "new Warning BoardSilent x1: two")
		if len(b.dropped) > 0 {
			t.Errorf("dropped %q", b.dropped)
		}
	})
}

func TestWhatIsTooOldIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		b.Record("never", "BoardSilent", "no such Device", false)
		later(11 * time.Minute)
		tries := b.writes
		later(time.Hour)
		if b.writes != tries {
			t.Errorf("tried %d times more", b.writes-tries)
		}
		if diff := cmp.Diff([]string{"BoardSilent"}, b.dropped); diff != "" {
			t.Errorf("dropped (-want +got):\n%s", diff)
		}
		if err := b.api.Create(t.Context(), device("never")); err != nil {
			t.Fatal(err)
		}
		b.Record("never", "BoardSilent", "there now", false)
		b.want(t, "never Warning BoardSilent x1: there now")
	})
}

// Many boards that talk all the time cost a bounded number of entries.
func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t)
		for i := range 5000 {
			b.Record(fmt.Sprintf("d%d", i), "BoardSilent", "no such Device", false)
		}
		if len(b.dropped) != 5000-4096 {
			t.Errorf("%d dropped, want %d", len(b.dropped), 5000-4096)
		}
	})
}
