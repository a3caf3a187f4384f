// Package dmi is a mapper's side of KubeEdge's Device Mapper Interface: it takes
// Devices from the edge runtime of its node and reports their properties and
// states to it, over two unix sockets.
//
// What holds:
//   - Edge runtime and mapper may be started, killed and started again in any order.
//     The agent registers anew whenever the connection was lost, and now and then
//     besides, for the edge runtime does not repeat a call that failed.
//   - Changed and Removed are called one at a time, in the order of what happened,
//     and no lock is held meanwhile. A Device that a registration no longer names
//     is removed; one that is as before is not changed.
//   - The edge runtime is asked no more than 0.9 times a second and 50 times at once, so
//     it has no reason to refuse: it serves 1 and 100, and drops the rest. What
//     waits is at most one report of properties and one of the state for each
//     Device: the newest of each property, and the newest state.
//   - A Device's state is reported once more each minute, and after each new
//     connection, for the edge runtime drops what it is told while the cloud is away.
//   - Both values of a twin are always there: KubeEdge's edge runtime crashes on one that
//     lacks either.
//
// To try it: agent_test.go runs it against package fakeedge, a whole edge runtime
// in one process.
package dmi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Device is one leaf device that the edge runtime has for this mapper.
type Device struct {
	Namespace, Name string
	// Config is the protocol's settings as text: numbers in decimal, true and false.
	// What is not text, number or truth value is left out.
	Config     map[string]string
	Properties map[string]Property
}

// Property is what is wished of one property of a Device.
type Property struct {
	// Collect is how often to read it, Report how often to report it; 0 if not said.
	Collect, Report time.Duration
	// ToCloud says whether it is reported at all.
	ToCloud bool
	// Desired is its value as somebody wishes it, if HasDesired.
	Desired    string
	HasDesired bool
}

// Twin is a property as it is and as it should be.
type Twin struct {
	Property string
	// Reported is the value, Desired the wish that the mapper took up, or empty.
	// The edge runtime takes at most 512 letters, digits and -_.,:/@# in either: a
	// number must not be written with a plus, as 1e+06 is.
	Reported, Desired string
	// At is when the value was measured; zero means now.
	At time.Time
	// Type is float, string and so on; empty means the DeviceModel's.
	Type string
}

// Options of an agent.
type Options struct {
	// Protocol is the protocolName of the mapper's Devices.
	Protocol string
	// Node is the edge node's name. With Protocol it is the mapper's name, which
	// must be the same after a restart.
	Node string
	// Edge is the edge runtime's socket.
	Edge string
	// Listen is the agent's own socket. The edge runtime must reach it at the same path.
	Listen string
	// Pause after a first failure, doubled with each further one up to 10 s;
	// default 500 ms.
	Pause time.Duration
	Log   *slog.Logger

	// Changed is told of a Device that is new, or that differs from what it was told
	// before.
	Changed func(Device)
	// Removed is told of a Device that is gone.
	Removed func(namespace, name string)
	// State is told nil whenever the agent has registered, else why the edge runtime
	// and the mapper do not reach each other. It must not block.
	State func(error)
}

// maxListen leaves room in a socket's address, 107 bytes, for the name under
// which it is made.
const maxListen = 100

// complete fills in defaults and says everything that is wrong at once.
func (o *Options) complete() error {
	if o.Pause <= 0 {
		o.Pause = 500 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func(Device) {}
	}
	if o.Removed == nil {
		o.Removed = func(string, string) {}
	}
	if o.State == nil {
		o.State = func(error) {}
	}
	var errs []error
	for _, f := range []struct{ name, value string }{{"protocol", o.Protocol}, {"node", o.Node}, {"the edge runtime's socket", o.Edge}, {"own socket", o.Listen}} {
		if f.value == "" {
			errs = append(errs, fmt.Errorf("dmi: %s: missing", f.name))
		}
	}
	if !filepath.IsAbs(o.Listen) || len(o.Listen) > maxListen {
		errs = append(errs, fmt.Errorf("dmi: own socket %q: want an absolute path of at most %d bytes", o.Listen, maxListen))
	}
	return errors.Join(errs...)
}

// Agent is a mapper's side of the interface. Its methods may be called at any time
// and from any goroutine, also before Run and from Changed and Removed.
type Agent struct {
	options Options
	invalid error
	devices *devices
	state   state
	reports chan struct{} // holds something when there is a new report
	events  chan struct{} // holds something when there is a new event
	remade  chan struct{} // holds something when the own socket was made anew
}

// New makes an agent of these options. It does nothing until Run.
func New(o Options) *Agent {
	invalid := o.complete()
	return &Agent{
		options: o,
		invalid: invalid,
		devices: newDevices(),
		state:   state{tell: o.State, session: errors.New("not registered yet")},
		reports: make(chan struct{}, 1),
		events:  make(chan struct{}, 1),
		remade:  make(chan struct{}, 1),
	}
}

// Run, once, serves the own socket, and keeps the mapper registered and the edge runtime
// told, until ctx ends; then it removes the socket and returns nil. It gives up
// only on wrong options.
func (a *Agent) Run(ctx context.Context) error {
	if a.invalid != nil {
		return a.invalid
	}
	g, ctx := errgroup.WithContext(ctx)
	listening := make(chan struct{})
	g.Go(func() error { a.listen(ctx, listening); return nil })
	g.Go(func() error { a.dispatch(ctx); return nil })
	g.Go(func() error {
		// An edge runtime that knows the mapper calls it at once.
		select {
		case <-listening:
			a.stayRegistered(ctx)
		case <-ctx.Done():
		}
		return nil
	})
	return g.Wait()
}

// ReportTwins has properties of a Device reported, in place of those of the same
// properties that still wait. It does not wait for the edge runtime: the report
// goes out when there is one that has this Device, if the Device has the property and says
// that it is to be reported.
func (a *Agent) ReportTwins(ctx context.Context, namespace, name string, twins []Twin) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := a.devices.report(key{namespace, name}, twins, time.Now()); err != nil {
		return fmt.Errorf("report of %s/%s: %w", namespace, name, err)
	}
	notify(a.reports)
	return nil
}

// ReportState has the state of a Device reported, which is StateOnline,
// StateUnhealthy or StateOffline of the devices API, in place of one that still
// waits. It does not wait for the edge runtime: the report goes out when there is
// one that has this Device.
func (a *Agent) ReportState(ctx context.Context, namespace, name, state string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := a.devices.setState(key{namespace, name}, state); err != nil {
		return fmt.Errorf("state of %s/%s: %w", namespace, name, err)
	}
	notify(a.reports)
	return nil
}

// dispatch calls Changed and Removed until ctx ends.
func (a *Agent) dispatch(ctx context.Context) {
	for {
		for _, e := range a.devices.takeEvents() {
			switch {
			case ctx.Err() != nil:
				return
			case e.changed != nil:
				a.options.Changed(*e.changed)
			default:
				a.options.Removed(e.removed.namespace, e.removed.name)
			}
		}
		select {
		case <-a.events:
		case <-ctx.Done():
			return
		}
	}
}

// state is why edge runtime and mapper do not reach each other: nil and nil if they do.
type state struct {
	mu      sync.Mutex
	tell    func(error)
	socket  error // mine
	session error // the edge runtime's
}

// set one of the two, and tell what comes out unless the socket was there before
// as well.
func (s *state) set(which *error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if which == &s.socket && *which == nil && err == nil {
		return
	}
	*which = err
	s.tell(errors.Join(s.socket, s.session))
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pause waits for d, or for ctx to end.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
