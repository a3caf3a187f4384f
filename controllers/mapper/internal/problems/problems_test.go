package problems_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/problems"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const silent = "BoardSilent: no frame"

// bed is a writer with an API server that counts requests.
type bed struct {
	*problems.Writer
	t   *testing.T
	api client.WithWatch

	mu            sync.Mutex
	away          bool
	before        func() // the next patch
	gets, patches int
}

// device is of edge-1 and says that problem, if any.
func device(name, problem string) *devices.Device {
	d := &devices.Device{ObjectMeta: metav1.ObjectMeta{Namespace: "fluidos", Name: name, Annotations: map[string]string{devices.AnnotationSensors: "W10="}}}
	if d.Spec.NodeName = "edge-1"; problem != "" {
		d.Annotations[devices.AnnotationProblem] = problem
	}
	return d
}

// newBed runs a writer of edge-1 until the test ends.
func newBed(t *testing.T, objects ...client.Object) *bed {
	t.Helper()
	b := &bed{t: t}
	scheme := runtime.NewScheme()
	if err := devices.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	b.api = fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithReturnManagedFields().Build()
	request := func(count *int) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		*count++
		if b.away {
			return errors.New("connection refused")
		}
		return nil
	}
	b.Writer = problems.New(problems.Options{
		Client: interceptor.NewClient(b.api, interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, k client.ObjectKey, o client.Object, opts ...client.GetOption) error {
				if err := request(&b.gets); err != nil {
					return err
				}
				return c.Get(ctx, k, o, opts...)
			},
			Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
				if err := request(&b.patches); err != nil {
					return err
				}
				b.mu.Lock()
				before := b.before
				b.before = nil
				b.mu.Unlock()
				if before != nil {
					before()
				}
				return c.Patch(ctx, o, p, opts...)
			},
		}),
		Namespace: "fluidos", Node: "edge-1", Log: slog.New(slog.DiscardHandler), Pause: 500 * time.Millisecond,
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

func (b *bed) get(name string) *devices.Device {
	b.t.Helper()
	d := &devices.Device{}
	if err := b.api.Get(b.t.Context(), client.ObjectKey{Namespace: "fluidos", Name: name}, d); err != nil {
		b.t.Fatal(err)
	}
	return d
}

// edit a Device as somebody else.
func (b *bed) edit(name string, how func(*devices.Device)) {
	b.t.Helper()
	d := b.get(name)
	how(d)
	if err := b.api.Update(b.t.Context(), d); err != nil {
		b.t.Fatal(err)
	}
}

// want of a Device, once everything that is due now is done.
func (b *bed) want(when, name, problem string) {
	b.t.Helper()
	synctest.Wait()
	want := map[string]string{devices.AnnotationSensors: "W10="}
	if problem != "" {
		want[devices.AnnotationProblem] = problem
	}
	if diff := cmp.Diff(want, b.get(name).Annotations); diff != "" {
		b.t.Errorf("%s: annotations of %s (-want +got):\n%s", when, name, diff)
	}
}

// requests since the last call.
func (b *bed) requests() (gets, patches int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	gets, patches = b.gets, b.patches
	b.gets, b.patches = 0, 0
	return gets, patches
}

func (b *bed) setAway(away bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away = away
}

func later(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestAProblemComesAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, device("a", ""), device("b", ""))
		b.Set("a", silent)
		b.want("at once", "a", silent)
		b.want("at once", "b", "")
		fields := b.get("a").ManagedFields
		if len(fields) != 1 || fields[0].Manager != "mapper-problem" || !strings.Contains(fields[0].FieldsV1.GetRawString(), devices.AnnotationProblem) {
			t.Errorf("managed fields %+v", fields)
		}
		b.requests()
		b.Set("a", "BoardLost: gone")
		b.want("not faster than every 2 s", "a", silent)
		later(2 * time.Second)
		b.want("then", "a", "BoardLost: gone")
		for range 100 { // only the last counts
			b.Set("a", silent)
			b.Set("a", "")
		}
		later(2 * time.Second)
		b.want("over", "a", "")
		if gets, patches := b.requests(); gets != 2 || patches != 2 {
			t.Errorf("%d looks and %d writes, want 2 and 2", gets, patches)
		}
		later(time.Hour)
		if gets, patches := b.requests(); gets != 0 || patches != 0 {
			t.Errorf("%d looks and %d writes at a board that is well", gets, patches)
		}
	})
}

func TestTextIsMadePrintable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, device("a", ""))
		b.Set("a", "BoardLost: \x1b[31m"+strings.Repeat("x", 1000)+"\n")
		synctest.Wait()
		got := b.get("a").Annotations[devices.AnnotationProblem]
		if len(got) != devices.MaxProblem || got != devices.Printable(got, devices.MaxProblem) {
			t.Errorf("%d bytes: %q", len(got), got)
		}
		later(time.Minute)
		if _, patches := b.requests(); patches != 1 {
			t.Errorf("%d writes, want 1", patches)
		}
	})
}

// What an earlier mapper left is compared with what is so now.
func TestAnEarlierMappersAnnotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, device("well", silent), device("ill", "BoardLost: gone"), device("as before", silent), device("never ill", ""), device("unknown", silent))
		b.edit("never ill", func(d *devices.Device) { d.Annotations[devices.AnnotationProblem] = "" })
		b.Set("well", "")
		b.Set("ill", silent)
		b.Set("as before", silent)
		b.Set("never ill", "")
		b.want("of a board that is well", "well", "")
		b.want("of a board that is not", "ill", silent)
		b.want("of a board that is as before", "as before", silent)
		b.want("an empty one", "never ill", "")
		b.want("of a board that nothing is known of", "unknown", silent)
		if gets, patches := b.requests(); gets != 4 || patches != 3 {
			t.Errorf("%d looks and %d writes, want 4 and 3", gets, patches)
		}
	})
}

// An annotation that somebody removes or changes is put back, a Device that is made anew has it.
func TestAProblemIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, device("a", ""))
		b.Set("a", silent)
		synctest.Wait()
		for name, how := range map[string]func(*devices.Device){
			"removed": func(d *devices.Device) { delete(d.Annotations, devices.AnnotationProblem) },
			"changed": func(d *devices.Device) { d.Annotations[devices.AnnotationProblem] = "all is well" },
		} {
			b.edit("a", how)
			later(30 * time.Second)
			b.want(name, "a", silent)
		}
		if err := b.api.Delete(t.Context(), device("a", "")); err != nil {
			t.Fatal(err)
		}
		later(time.Minute)
		if err := b.api.Create(t.Context(), device("a", "")); err != nil {
			t.Fatal(err)
		}
		later(30 * time.Second)
		b.want("made anew", "a", silent)
	})
}

// Only the Device's own node writes to it, also when it moves meanwhile.
func TestAnotherNodesDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		theirs := device("a", "BoardLost: of edge-2")
		theirs.Spec.NodeName = "edge-2"
		b := newBed(t, theirs, device("b", ""))
		b.Set("a", "")
		b.Set("b", silent)
		b.want("of another node", "a", "BoardLost: of edge-2")
		b.want("of this node meanwhile", "b", silent)
		b.edit("a", func(d *devices.Device) { d.Spec.NodeName = "edge-1" })
		later(2 * time.Second)
		b.want("of this node now", "a", "")

		b.before = func() {
			b.edit("a", func(d *devices.Device) {
				d.Spec.NodeName, d.Annotations[devices.AnnotationProblem] = "edge-2", "ValueStuck: of edge-2"
			})
		}
		b.Set("a", silent)
		later(time.Minute)
		b.want("moved before the write", "a", "ValueStuck: of edge-2")

		b.requests()
		b.Drop("a")
		b.Drop("b")
		b.Drop("never set")
		later(time.Hour)
		if gets, patches := b.requests(); gets != 0 || patches != 0 {
			t.Errorf("%d looks and %d writes at what was dropped", gets, patches)
		}
		b.want("dropped", "b", silent)
	})
}

// A write that somebody else's came before is tried again.
func TestAConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, device("a", ""))
		b.before = func() { b.edit("a", func(d *devices.Device) { d.Labels = map[string]string{"mine": "1"} }) }
		b.Set("a", silent)
		later(time.Second)
		b.want("at the second try", "a", silent)
		if b.get("a").Labels["mine"] != "1" {
			t.Error("another's label is gone")
		}
	})
}

// What is set while a write is under way is written after it.
func TestAProblemThatChangesDuringItsWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, next := range []string{"BoardLost: gone", ""} {
			b := newBed(t, device("a", ""))
			b.before = func() { b.Set("a", next) }
			b.Set("a", silent)
			b.want("the first", "a", silent)
			later(2 * time.Second)
			b.want("the second", "a", next)
		}
	})
}

func TestDevicesAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, device("there", ""))
		b.Set("new", silent)
		b.Set("new and well", "")
		b.Set("there", silent)
		b.want("beside one that is not there", "there", silent)
		later(10 * time.Minute)
		if gets, _ := b.requests(); gets > 60 {
			t.Errorf("%d looks in 10 minutes", gets)
		}
		if err := b.api.Create(t.Context(), device("new", "")); err != nil {
			t.Fatal(err)
		}
		later(30 * time.Second)
		b.want("once it is there", "new", silent)
	})
}

// Boards that fail together while the API server is away cost one try a pause, and
// each one write when it is back.
func TestManyBoardsAndNoAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const boards = 256
		var objects []client.Object
		for i := range boards {
			objects = append(objects, device(fmt.Sprint("d", i), ""))
		}
		b := newBed(t, objects...)
		b.setAway(true)
		for i := range boards {
			b.Set(fmt.Sprint("d", i), silent)
		}
		later(5 * time.Minute)
		if gets, patches := b.requests(); gets < 10 || gets > 40 || patches != 0 {
			t.Errorf("%d looks and %d writes within 5 minutes", gets, patches)
		}
		b.setAway(false)
		later(30 * time.Second)
		for i := range boards {
			b.want("back", fmt.Sprint("d", i), silent)
		}
		if gets, patches := b.requests(); gets > 2*boards || patches != boards {
			t.Errorf("%d looks and %d writes, want %d", gets, patches, boards)
		}
		later(time.Minute)
		if gets, patches := b.requests(); gets > 2*boards || patches != 0 {
			t.Errorf("%d looks and %d writes within a minute, for nothing", gets, patches)
		}
	})
}
