package mapper

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/dmi"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/health"
	"github.com/fluidos-edge/testbed/simulators/radio"
)

const (
	// absence is how long a board may be away that the mapper has not heard since it
	// started, or that has its connection elsewhere.
	absence = 30 * time.Second
	// ownerTimeout bounds the question whose a board is.
	ownerTimeout = 3 * time.Second
	maxLeaves    = 4 * maxBoards
)

// reporter is where states and properties of boards go. It does not wait for the
// edge runtime.
type reporter interface {
	ReportTwins(ctx context.Context, namespace, name string, twins []dmi.Twin) error
	ReportState(ctx context.Context, namespace, name, state string) error
}

// leaves are all boards that the mapper knows of, connected or not: those that it
// heard, and those that the edge runtime told it of.
type leaves struct {
	node, namespace string
	log             *slog.Logger
	// record an Event on a Device.
	record func(device, reason, message string, normal bool)
	// setProblem of a Device, "" for a board that is well, and dropProblem once its
	// board is not ours. Neither waits.
	setProblem  func(device, problem string)
	dropProblem func(device string)
	// report is nil without DMI.
	report reporter
	// owner is the node that a Device belongs to.
	owner func(ctx context.Context, device string) (string, error)

	wake chan struct{}

	mu  sync.Mutex
	all map[string]*leaf
	// devices of the edge runtime, whether there is a leaf to them or not.
	devices map[string]dmi.Device
}

// leaf is one board across its connections: whether it is well, and what is
// reported of it.
type leaf struct {
	of     *leaves
	device string
	// wished gets something when what is desired of the board may have changed.
	wished chan struct{}

	mu     sync.Mutex
	health *health.Board
	shadow shadow
	state  string // that was reported last
	// problems that were set last; judged says that they were, none being a value.
	problems []health.Event
	judged   bool
	linked   bool
	asking   bool            // whose it is
	busy     time.Time       // when it was last heard with a connection elsewhere
	waited   bool            // for it to come back from there
	gone     bool            // not ours any more
	booted   map[string]boot // by characteristic, of one start
	told     string          // the desired value that was refused, as users were told
	asked    uint64          // questions for its sensors so far
}

func newLeaves(node, namespace string, log *slog.Logger) *leaves {
	return &leaves{node: node, namespace: namespace, log: log, wake: make(chan struct{}, 1), all: map[string]*leaf{}, devices: map[string]dmi.Device{}}
}

// get a board by the name of its Device, made if it is new; nil if there are too many.
// l.mu is held.
func (l *leaves) get(device string) *leaf {
	b := l.all[device]
	if b == nil && len(l.all) < maxLeaves {
		b = &leaf{
			of: l, device: device, wished: make(chan struct{}, 1),
			health: health.New(time.Now(), absence), booted: map[string]boot{},
		}
		if d, ok := l.devices[device]; ok {
			b.shadow.take(d, time.Now())
		}
		l.all[device] = b
		notify(l.wake)
	}
	return b
}

// join says that a board has a connection of this mapper's, until its unlink.
func (l *leaves) join(device string) (*leaf, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.get(device)
	if b == nil {
		return nil, fmt.Errorf("%d boards and Devices are known, at most %d", len(l.all), maxLeaves)
	}
	b.do(func(now time.Time) {
		b.linked, b.waited, b.busy = true, false, time.Time{}
		b.health.Link(now)
	})
	return b, nil
}

// heardElsewhere says that a board was heard with a connection that is not ours.
func (l *leaves) heardElsewhere(device string) {
	l.mu.Lock()
	b := l.all[device]
	l.mu.Unlock()
	if b != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		if !b.linked {
			b.busy = time.Now()
		}
	}
}

// forget a board that is not ours any more.
func (l *leaves) forget(b *leaf) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.linked || b.gone {
		return
	}
	b.gone = true
	delete(l.all, b.device)
	l.dropProblem(b.device)
	l.log.Info("board is not this node's any more", "device", b.device)
}

// changed takes a Device from the edge runtime.
func (l *leaves) changed(d dmi.Device) {
	if d.Namespace != l.namespace {
		l.log.Warn("device of another namespace is not served", "device", d.Name, "namespace", d.Namespace, "want", l.namespace)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.get(d.Name)
	if b == nil {
		l.log.Warn("too many devices, this one is not served", "device", d.Name)
		return
	}
	l.devices[d.Name] = d
	b.do(func(now time.Time) {
		if b.shadow.device == nil {
			b.state = "" // to be reported once more
		}
		b.shadow.take(d, now)
	})
	notify(b.wished)
	notify(l.wake)
}

// removed says that the edge runtime has a Device no longer.
func (l *leaves) removed(namespace, name string) {
	if namespace != l.namespace {
		return
	}
	l.mu.Lock()
	delete(l.devices, name)
	b := l.all[name]
	l.mu.Unlock()
	if b == nil {
		return
	}
	b.mu.Lock()
	b.shadow.drop()
	linked := b.linked
	b.mu.Unlock()
	notify(b.wished)
	if !linked {
		l.forget(b)
	}
}

// run watches over the boards until ctx ends.
func (l *leaves) run(ctx context.Context) {
	var asking sync.WaitGroup
	defer asking.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-l.wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		l.mu.Lock()
		all := make([]*leaf, 0, len(l.all))
		for _, b := range l.all {
			all = append(all, b)
		}
		l.mu.Unlock()
		var next time.Time
		for _, b := range all {
			at, ask := b.tick(ctx)
			if ask {
				asking.Go(func() { b.confirm(ctx) })
			}
			if !at.IsZero() && (next.IsZero() || at.Before(next)) {
				next = at
			}
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// do something to a board, and tell what came of it.
func (b *leaf) do(f func(now time.Time)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	due := b.next()
	f(now)
	b.tell(now)
	if at := b.next(); !at.IsZero() && (due.IsZero() || at.Before(due)) {
		notify(b.of.wake)
	}
}

// next is when something is due of the board, the zero time if nothing is. b.mu is held.
func (b *leaf) next() time.Time {
	var at time.Time
	if !b.asking {
		at = b.health.Next()
	}
	if due := b.shadow.next(); b.of.report != nil && !due.IsZero() && (at.IsZero() || due.Before(at)) {
		at = due
	}
	return at
}

// tell what the board's health has to say. b.mu is held.
func (b *leaf) tell(now time.Time) {
	for _, e := range b.health.Take() {
		if b.gone {
			continue
		}
		level := slog.LevelWarn
		if e.Normal {
			level = slog.LevelInfo
		}
		b.of.log.Log(context.Background(), level, "board", "device", b.device, "reason", e.Reason, "message", e.Message)
		b.of.record(b.device, e.Reason, e.Message, e.Normal)
	}
	state := b.health.State()
	// As long as nothing is known of the board, what an earlier mapper wrote stays.
	if problems := b.health.Problems(); !b.gone && state != "" && (!b.judged || !slices.Equal(problems, b.problems)) {
		b.judged, b.problems = true, problems
		b.of.setProblem(b.device, problemText(problems))
	}
	if b.of.report == nil || b.shadow.device == nil || b.gone || state == b.state {
		return
	}
	if err := b.of.report.ReportState(context.Background(), b.of.namespace, b.device, state); err != nil {
		b.of.log.Warn("state is not reported", "device", b.device, "state", state, "err", err)
		return
	}
	b.state = state
	b.shadow.hurry(now)
}

// problemText is problems as the Device's annotation has them. Each may be equally
// long, so that the reason of none is cut off.
func problemText(problems []health.Event) string {
	const between = "; "
	texts := make([]string, len(problems))
	for i, p := range problems {
		texts[i] = devices.Printable(p.Reason+": "+p.Message, devices.MaxProblem/len(problems)-len(between))
	}
	return strings.Join(texts, between)
}

// tick does what is due, and returns when to come again. ask says that it is to be
// found out first whose the board is.
func (b *leaf) tick(ctx context.Context) (next time.Time, ask bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if at := b.health.Next(); !b.asking && !at.IsZero() && !now.Before(at) {
		if b.linked {
			b.health.Check(now)
			b.tell(now)
		} else {
			b.asking, ask = true, true
		}
	}
	if b.of.report != nil && !b.gone {
		if due := b.shadow.twins(now); len(due) > 0 {
			if err := b.of.report.ReportTwins(ctx, b.of.namespace, b.device, due); err != nil && ctx.Err() == nil {
				b.of.log.Warn("properties are not reported", "device", b.device, "err", err)
			}
		}
	}
	return b.next(), ask
}

// confirm that a board whose time is up is ours, before it is said to be lost: one
// that another node's mapper serves is not.
func (b *leaf) confirm(ctx context.Context) {
	ownerCtx, cancel := context.WithTimeout(ctx, ownerTimeout)
	defer cancel()
	node, err := b.of.owner(ownerCtx, b.device)
	if ctx.Err() != nil {
		return
	}
	if apierrors.IsNotFound(err) || err == nil && node != b.of.node {
		b.of.forget(b)
	} else if err != nil {
		b.of.log.Debug("whose a board is could not be found out", "device", b.device, "err", err)
	}
	b.do(func(now time.Time) {
		b.asking = false
		switch {
		case b.linked || b.gone:
		case !b.waited && !b.busy.IsZero():
			b.waited = true
			b.health.Wait(now.Add(absence))
		default:
			b.health.Check(now)
		}
	})
	notify(b.of.wake)
}

// asks counts a question for the board's sensors, and returns its number.
func (b *leaf) asks() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	return b.asked
}

// questions returns how often the board was asked for its sensors.
func (b *leaf) questions() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked
}

// unlink says that the board has no connection any more, and why.
func (b *leaf) unlink(err error) {
	b.do(func(now time.Time) {
		b.linked = false
		b.health.Unlink(now, err.Error())
	})
}

// refuse tells users of a desired value that cannot be, once for each.
func (b *leaf) refuse(desired, why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.told == desired {
		return
	}
	b.told = desired
	b.of.log.Warn("desired value is refused", "device", b.device, "property", propertyRate, "desired", desired, "why", why)
	b.of.record(b.device, reasonInvalidDesired, propertyRate+" "+plain(desired)+": "+why, false)
}

// boot tells from a stamp of a board's frames when it began to count, up to a
// whole number of periods, on the host's monotonic clock.
type boot struct {
	at    time.Duration // within a period
	seen  time.Duration // when the frame was sent, or received
	up    time.Duration // what the stamp says
	exact bool          // it was sent then
}

// restarted reports whether a board counts anew, judged by the first frame of a
// connection: within one, bluest.Timeline does. Clocks drift apart while it is
// away, and without a time of emission a frame may be late. A board that says that
// it has been up for no longer than it was away has probably restarted, unless it
// was away for so long that its stamps have wrapped.
func (b boot) restarted(now boot, period time.Duration) bool {
	const drift = 10_000 // 100 ppm
	away := max(now.seen-b.seen, 0)
	slack := time.Second
	if !b.exact || !now.exact {
		slack = 5 * time.Second
	}
	if away < period && now.up <= away {
		slack /= 20
	}
	slack += away / drift
	d := (now.at - b.at + period) % period
	return min(d, period-d) > slack
}

func bootAt(n radio.Notification, ts uint16, unit, period time.Duration) boot {
	b := boot{seen: time.Duration(n.Received), up: time.Duration(ts) * unit}
	if b.exact = n.Emitted > 0; b.exact {
		b.seen = time.Duration(n.Emitted)
	}
	b.at = ((b.seen-b.up)%period + period) % period
	return b
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
