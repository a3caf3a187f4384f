package scenarios_test

import (
	"context"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/scenarios"
	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/fleet"
	"github.com/fluidos-edge/testbed/simulators/radio"
	"github.com/fluidos-edge/testbed/testbed"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// mapperRow is a mapper that lies, or a board that behaves otherwise than it declares: a
// tap between the radio and the mapper makes of it what a mutant of the mapper would.
type mapperRow struct {
	name string
	// alter a notification that carries readings; n counts those of its board.
	alter func(t *taps, board radio.Address, n int, one radio.Notification) []radio.TappedNotification
	// latency is what every board behaves as while the row runs; 0 changes nothing.
	latency time.Duration
	// samples of each window, if the row needs more.
	samples int
	// attached rows are those that TestTamperAttached has time for.
	attached bool
	want     []string
}

var (
	deliveries  = []string{"M1", "M2", "M3", "M4", "M5", "L1", "L2", "L5"}
	andTheTruth = append(slices.Clone(deliveries), "T1")
	mapperRows  = slices.Concat(valueRows, frameRows, latencyRows)
)

// valueRows change what is measured, and nothing else.
var valueRows = []mapperRow{
	{name: "scaled value", attached: true, alter: decoded(func(f *bluest.Frame) {
		for i := range f.Readings {
			f.Readings[i].Value *= 1.5
		}
	}), want: []string{"T1"}},
	// Temperatures where there are two: others would be told by the mapper's own judgement.
	{name: "two values swapped", alter: decoded(func(f *bluest.Frame) {
		other := bluest.Temperature2
		if _, ok := f.Value(other); !ok {
			other = bluest.Pressure
		}
		x, isX := f.Value(bluest.Temperature)
		if y, isY := f.Value(other); isX && isY {
			set(f, bluest.Temperature, y)
			set(f, other, x)
		}
	}), want: []string{"T1"}},
	{name: "Fahrenheit", alter: decoded(func(f *bluest.Frame) {
		for i := range f.Readings {
			if r := &f.Readings[i]; strings.HasPrefix(r.Quantity, bluest.Temperature) {
				r.Value = r.Value*9/5 + 32
			}
		}
	}), want: []string{"T1"}},
	{name: "temperature for temperature2", alter: decoded(func(f *bluest.Frame) {
		if v, ok := f.Value(bluest.Temperature); ok {
			set(f, bluest.Temperature2, v)
		}
	}), want: []string{"T1"}},
	{name: "a repeated last value", attached: true, alter: func(t *taps, board radio.Address, n int, one radio.Notification) []radio.TappedNotification {
		if last := t.last[board]; n%7 == 0 && last != nil {
			one.Value = append(slices.Clone(one.Value[:2]), last[2:]...)
		}
		return same(board, one)
	}, want: []string{"T1"}},
}

// frameRows change which frames there are.
var frameRows = []mapperRow{
	{name: "one in five frames dropped before counting", attached: true, alter: dropOneIn(5), want: andTheTruth},
	{name: "one in fifty frames dropped before counting", alter: dropOneIn(50), samples: 60, want: andTheTruth},
	{name: "a frame counted twice", attached: true, alter: func(_ *taps, board radio.Address, n int, one radio.Notification) []radio.TappedNotification {
		if n%7 == 0 {
			return append(same(board, one), same(board, one)...)
		}
		return same(board, one)
	}, want: andTheTruth},
	{name: "another board's identity", attached: true, alter: func(t *taps, board radio.Address, n int, one radio.Notification) []radio.TappedNotification {
		other, last := t.alike(board, len(one.Value))
		if n%7 != 0 || last == nil {
			return same(board, one)
		}
		one.Value = append(slices.Clone(last[:2]), one.Value[2:]...) // what counts on that connection
		return same(other, one)
	}, want: andTheTruth},
}

// latencyRows change when things happen, or are said to.
var latencyRows = []mapperRow{
	{name: "a latency that is said to be shorter", attached: true, alter: later(3 * time.Millisecond), want: []string{"T2"}},
	{name: "a latency that is said to be longer", alter: later(-3 * time.Millisecond), want: []string{"T2"}},
	{name: "boards that declare 12 ms and take 40", latency: 40 * time.Millisecond, want: []string{"L3"}},
}

func same(board radio.Address, one radio.Notification) []radio.TappedNotification {
	return []radio.TappedNotification{{Board: board, Notification: one}}
}

// later moves the emission, on the clock that latencies are told by.
func later(by time.Duration) func(*taps, radio.Address, int, radio.Notification) []radio.TappedNotification {
	return func(_ *taps, board radio.Address, _ int, one radio.Notification) []radio.TappedNotification {
		one.Emitted += int64(by)
		return same(board, one)
	}
}

func dropOneIn(many int) func(*taps, radio.Address, int, radio.Notification) []radio.TappedNotification {
	return func(_ *taps, board radio.Address, n int, one radio.Notification) []radio.TappedNotification {
		if n%many == 0 {
			return nil
		}
		return same(board, one)
	}
}

// decoded changes every frame.
func decoded(change func(*bluest.Frame)) func(*taps, radio.Address, int, radio.Notification) []radio.TappedNotification {
	return func(t *taps, board radio.Address, _ int, one radio.Notification) []radio.TappedNotification {
		f, err := bluest.Decode(one.Characteristic, one.Value)
		if err != nil {
			t.fail(err)
			return same(board, one)
		}
		change(&f)
		for i, r := range f.Readings { // what does not fit is cut off, as by a mapper's variable
			if least, most, ok := bluest.Limits(r.Quantity); ok {
				f.Readings[i].Value = math.Min(math.Max(r.Value, least), most)
			}
		}
		if one.Value, err = bluest.Encode(f); err != nil {
			t.fail(err)
		}
		return same(board, one)
	}
}

func set(f *bluest.Frame, quantity string, value float64) {
	for i := range f.Readings {
		if f.Readings[i].Quantity == quantity {
			f.Readings[i].Value = value
		}
	}
}

// taps stand between the radios of a testbed's first provider and its mappers.
type taps struct {
	row atomic.Pointer[mapperRow]

	mu    sync.Mutex
	count map[radio.Address]int
	last  map[radio.Address][]byte // value by board
	err   error
}

func (t *taps) fail(err error) { t.err = errors.Join(t.err, err) }

// alike is another board whose last value had a length, and that value.
func (t *taps) alike(board radio.Address, length int) (radio.Address, []byte) {
	var others []radio.Address
	for b, v := range t.last {
		if b != board && len(v) == length {
			others = append(others, b)
		}
	}
	if len(others) == 0 {
		return radio.Address{}, nil
	}
	other := slices.MinFunc(others, func(a, b radio.Address) int { return strings.Compare(a.String(), b.String()) })
	return other, t.last[other]
}

func (t *taps) alter(board radio.Address, one radio.Notification) []radio.TappedNotification {
	m, err := bluest.ParseMask(one.Characteristic)
	if err != nil || m == bluest.Battery {
		return same(board, one)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count[board]++
	out := same(board, one)
	if row := t.row.Load(); row != nil && row.alter != nil {
		out = row.alter(t, board, t.count[board], one)
	}
	t.last[board] = one.Value
	return out
}

// tapRadios puts taps where the mappers of a testbed look for their radios, and has the
// mappers connect to them. Everything is as before when the test ends.
func tapRadios(t *testing.T, status *testbed.Status) *taps {
	t.Helper()
	p := status.Providers[0]
	tp := &taps{count: map[radio.Address]int{}, last: map[radio.Address][]byte{}}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	var restore []func()
	for _, m := range p.Mappers {
		socket := filepath.Join(filepath.Dir(p.BoardsControl), m.Node, "radio.sock")
		aside := filepath.Join(filepath.Dir(socket), "r")
		owner, err := os.Stat(socket)
		if err == nil {
			err = os.Rename(socket, aside)
		}
		if err != nil {
			t.Fatal(err)
		}
		tap, err := radio.ListenTap(socket, aside, tp.alter)
		if err != nil {
			t.Fatal(errors.Join(err, os.Rename(aside, socket)))
		}
		restore = append(restore, func() {
			if err := os.Rename(aside, socket); err != nil {
				t.Errorf("the radio of %s is not back: %v", m.Node, err)
			}
		})
		if st, ok := owner.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
			if err := os.Chown(socket, int(st.Uid), int(st.Gid)); err != nil {
				t.Fatalf("the tap is not the mapper's to use: %v", err)
			}
		}
		running.Go(func() {
			if err := tap.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	killMappers(t, status)
	t.Cleanup(func() {
		cancel()
		running.Wait()
		for _, f := range restore {
			f()
		}
		if *attach != "" {
			killMappers(t, status)
		}
		if tp.err != nil {
			t.Error(tp.err)
		}
	})
	return tp
}

// killMappers of the first provider; they are started again.
func killMappers(t *testing.T, status *testbed.Status) {
	t.Helper()
	now, err := testbed.Describe(t.Context(), testbed.Options{Name: status.Name})
	if t.Context().Err() != nil {
		now, err = testbed.Describe(context.Background(), testbed.Options{Name: status.Name})
	}
	if err != nil {
		t.Fatal(err)
	}
	killed := false
	for _, c := range now.Components {
		if strings.HasPrefix(c.Name, status.Providers[0].Name+"/mapper/") && c.PID > 0 {
			if err := syscall.Kill(c.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			killed = true
		}
	}
	if killed {
		return
	}
	node := status.Name + "-" + status.Providers[0].Name + "-control-plane"
	if out, err := exec.Command("docker", "exec", node, "pkill", "-KILL", "-x", "mapper").CombinedOutput(); err != nil {
		t.Fatalf("kill the mappers in %s: %v: %s", node, err, out)
	}
}

// run the assertions while a row holds.
func (t *taps) run(ctx context.Context, tt *testing.T, env *scenarios.Env, status *testbed.Status, row mapperRow, as []scenarios.Assertion) {
	tt.Helper()
	if row.latency > 0 {
		for _, b := range behaveAs(ctx, tt, status, row.latency) {
			defer b()
		}
	}
	if row.samples > 0 {
		defer func(before int) { env.Samples = before }(env.Samples)
		env.Samples = row.samples
	}
	t.row.Store(&row)
	defer t.row.Store(nil)
	want := map[string]string{}
	for _, a := range as {
		if slices.Contains(row.want, a.ID) {
			want[a.ID] = scenarios.Fail
		}
	}
	start := time.Now()
	results := scenarios.Run(ctx, env, as, scenarios.Observer{})
	tt.Logf("%.1f s", time.Since(start).Seconds())
	if diff := cmp.Diff(want, statuses(results)); diff != "" {
		tt.Errorf("statuses (-want +got):\n%s\n%s", diff, reasons(results))
	}
}

// behaveAs has every board of the first provider take so long, and returns what sets
// each back.
func behaveAs(ctx context.Context, t *testing.T, status *testbed.Status, latency time.Duration) (restore []func()) {
	t.Helper()
	c := fleet.NewClient(status.Providers[0].BoardsControl)
	all, err := c.Boards(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range all {
		median := topology.Duration(latency)
		if _, err := c.Patch(ctx, b.Name, fleet.Patch{Latency: &fleet.LatencyPatch{Median: &median}}); err != nil {
			t.Fatal(err)
		}
		before := b.Latency
		restore = append(restore, func() {
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			if _, err := c.Patch(end, b.Name, fleet.Patch{Latency: &fleet.LatencyPatch{Median: &before.Median, Jitter: &before.Jitter}}); err != nil {
				t.Error(err)
			}
		})
	}
	return restore
}

// TestTamperAttached shows on an attached testbed, kind's say, that the assertions see a
// mapper that lies. For time it runs the assertions of one window only.
func TestTamperAttached(t *testing.T) {
	switch {
	case *attach == "":
		t.Skip("TestTamper does the same on a testbed of its own: add -testbed to have it on that one")
	case !*leaf:
		t.Skip("it kills the mappers and changes boards: add -leaf if testbed " + *attach + " is there for that")
	}
	status, err := testbed.Describe(t.Context(), testbed.Options{Name: *attach})
	if err != nil {
		t.Fatal(err)
	}
	env, err := scenarios.NewEnv(status)
	if err != nil {
		t.Fatal(err)
	}
	env.Patience = 2 * time.Second
	ctx, cancel := withDeadline(t)
	defer cancel()
	tp := tapRadios(t, status)
	var as []scenarios.Assertion
	var ids []string
	for _, a := range scenarios.All() {
		if slices.Contains([]string{"M1", "M2", "M3", "T1", "T2"}, a.ID) {
			as, ids = append(as, a), append(ids, a.ID)
		}
	}
	rows := slices.DeleteFunc(slices.Clone(mapperRows), func(r mapperRow) bool { return !r.attached })
	t.Logf("for time, a subset: assertions %s, %d of %d rows about a mapper that lies, none about selection, endpoints or slow boards", strings.Join(ids, ", "), len(rows), len(mapperRows))
	rows = append(rows, mapperRow{name: "nothing in the end"})
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) { tp.run(ctx, t, env, status, row, as) })
	}
}
