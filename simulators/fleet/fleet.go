// Package fleet is all simulated boards of a provider in one process: a radio for
// each edge node that hears them, faults that befall them, and an API to watch and
// change them.
//
// One goroutine and one timer drive all boards. A board costs nothing while
// nobody is subscribed to it.
//
// With a journal, what boards measure and what happens to them is appended to a file
// of line protocol ([board.Journal] has its form). It is written once a turn of the
// driver, not once a line: a frame's lines are in the file before a radio gets the
// frame, unless its latency is shorter than a turn. A journal that cannot be written
// ends the process.
//
// To try it, with a file boards.json of the form of [Config], or without:
//
//	boards --config boards.json --control /tmp/boards.sock
//	boards --count 10000 --radio /tmp/radio.sock --control /tmp/boards.sock
//	curl --unix-socket /tmp/boards.sock http://boards/v1/boards
package fleet

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"

	"github.com/fluidos-edge/testbed/internal/journal"
	"github.com/fluidos-edge/testbed/simulators/board"
	"github.com/fluidos-edge/testbed/simulators/radio"
	"github.com/fluidos-edge/testbed/simulators/radio/socket"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// Options of the process.
type Options struct {
	// Config is the path of the configuration, JSON.
	Config string
	// Count adds so many boards of the default models, Radio a radio that hears
	// those of Count if the configuration names no radio.
	Count int
	Radio string
	// Control is the socket of the API.
	Control string
	// Journal is the file that what boards measured and what happened to them is
	// appended to; empty keeps none.
	Journal string
	// Measure has Run only measure what boards cost, and write that to Output; nil
	// means the standard output.
	Measure Measurement
	Output  io.Writer
	// Metrics takes the process's metrics; nil means prometheus.DefaultRegisterer.
	Metrics prometheus.Registerer
	// Clock of boards and radios; nil means the host's.
	Clock clock.WithTicker
}

// AddFlags declares one flag for each setting.
func (o *Options) AddFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.Config, "config", "", "`file` that describes boards and radios, JSON")
	fs.IntVar(&o.Count, "count", 0, "add so many boards, STWINKT1B and STWINBX1 in turn")
	fs.StringVar(&o.Radio, "radio", "", "unix `socket` of one radio that hears all boards of -count; a configuration names its own")
	fs.StringVar(&o.Control, "control", "", "unix `socket` to serve the control API on")
	fs.StringVar(&o.Journal, "journal", "", "`file` to append every board's readings and events to, line protocol; empty keeps none")
	fs.Var(&o.Measure, "measure", "only measure, `arm=fleet|loop,boards=N,frames=N`, and print JSON")
}

// Run simulates the boards until ctx ends. It is ready when every socket takes
// connections; at the end no socket is left, and every line is in the journal.
func Run(ctx context.Context, log *slog.Logger, ready func(error), o *Options) (err error) {
	if o.Measure != (Measurement{}) {
		if o.Output == nil {
			return o.Measure.run(ctx, os.Stdout)
		}
		return o.Measure.run(ctx, o.Output)
	}
	cfg, err := configure(o)
	if err != nil {
		return err
	}
	clk := o.Clock
	if clk == nil {
		clk = clock.RealClock{}
	}
	file, err := journal.Open(o.Journal)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	f := newFleet(cfg.Seed, clk, log)
	defer f.close()
	if o.Journal != "" {
		f.keep(file)
	}
	if err := f.open(cfg); err != nil {
		if o.Config != "" {
			err = fmt.Errorf("config %s: %w", o.Config, err)
		}
		return err
	}
	var control net.Listener
	if o.Control != "" {
		if control, err = socket.Listen(o.Control); err != nil {
			return fmt.Errorf("control: %w", err)
		}
		defer control.Close()
	}
	metrics := o.Metrics
	if metrics == nil {
		metrics = prometheus.DefaultRegisterer
	}
	if err := metrics.Register(f); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	defer metrics.Unregister(f)

	f.started()
	if err := f.drive.turned(); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, r := range f.radios {
		g.Go(func() error { return r.Run(ctx) })
	}
	g.Go(func() error { return f.drive.run(ctx) })
	if len(cfg.Faults) > 0 {
		s, start := newSchedule(cfg.Seed, cfg.Faults, f.list()), clk.Now()
		g.Go(func() error {
			s.run(ctx, clk, start, f.befall)
			return nil
		})
	}
	if control != nil {
		api := &http.Server{Handler: f.handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
		g.Go(func() error {
			if err := api.Serve(control); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("control: %w", err)
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			return api.Close()
		})
	}
	log.Info("boards are up", "boards", len(f.list()), "radios", len(f.radios), "faults", len(cfg.Faults), "control", o.Control)
	ready(nil)
	if err := g.Wait(); err != nil {
		return err
	}
	return f.drive.turned() // connections ended after the last turn
}

// fleet is what Run runs.
type fleet struct {
	seed   uint64
	clock  clock.WithTicker
	log    *slog.Logger
	drive  *driver
	record *board.Journal           // nil for none
	radios map[string]*radio.Server // by node; does not change once open

	joining sync.Mutex // before mu; keeps two from taking the same free name

	mu     sync.RWMutex
	names  []string // in the order in which the boards came
	boards map[string]*member
	taken  map[string]string // addresses and ids, and whose they are
	sent   map[string]int64  // notifications by model, of boards that are gone
	up     bool              // a board that is added from now on comes later than the others
}

// member is a board of the fleet.
type member struct {
	*board.Board
	name, model, id string
	address         radio.Address
	nodes           []string // that hear it
	removed         atomic.Bool

	counting sync.Mutex
	link     *radio.Link // the last one
	sent     int64       // notifications over those before
}

func newFleet(seed uint64, clk clock.WithTicker, log *slog.Logger) *fleet {
	return &fleet{seed: seed, clock: clk, log: log, drive: newDriver(clk),
		radios: map[string]*radio.Server{}, boards: map[string]*member{}, taken: map[string]string{}, sent: map[string]int64{}}
}

// keep a journal in a file.
func (f *fleet) keep(file *journal.File) {
	f.record = board.NewJournal(f.drive.nudge)
	var spare []byte
	f.drive.turned = func() error {
		lines, err := f.record.Take(spare)
		spare = lines
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		return file.Append(lines)
	}
}

// started says so in the journal.
func (f *fleet) started() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.up = true
	f.record.Event(f.clock.Now(), "", "", board.EventStarted, fmt.Sprintf("%d boards", len(f.names)))
}

// open the radios of a configuration and switch its boards on.
func (f *fleet) open(cfg Config) error {
	for _, node := range slices.Sorted(maps.Keys(cfg.Radios)) {
		r, err := radio.Listen(cfg.Radios[node], nil, radio.Options{
			Clock: f.clock, Log: f.log.With("node", node), Seed: f.seed ^ hash(node),
			Quality: radio.Quality{Interval: time.Duration(cfg.Radio.Interval), Loss: cfg.Radio.Loss},
		})
		if err != nil {
			return fmt.Errorf("node %s: %w", node, err)
		}
		f.radios[node] = r
	}
	var all []error
	for i, spec := range cfg.Boards {
		if _, err := f.add(spec); err != nil {
			all = append(all, fmt.Errorf("boards[%d] (%s): %w", i, spec.Name, err))
		}
	}
	for i, s := range cfg.Faults {
		if err := f.check(s); err != nil {
			all = append(all, fmt.Errorf("faults[%d]: %w", i, err))
		}
	}
	return errors.Join(all...)
}

// close removes sockets of radios that were not run; for others it has no effect.
func (f *fleet) close() {
	for _, r := range f.radios {
		_ = r.Close()
	}
}

// list is the names of all boards.
func (f *fleet) list() []string {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return slices.Clone(f.names)
}

// all boards, in the order of list.
func (f *fleet) all() []*member {
	f.mu.RLock()
	defer f.mu.RUnlock()
	all := make([]*member, len(f.names))
	for i, name := range f.names {
		all[i] = f.boards[name]
	}
	return all
}

// board by its name. The error names some that there are.
func (f *fleet) board(name string) (*member, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if m := f.boards[name]; m != nil {
		return m, nil
	}
	const n = 10
	some := strings.Join(f.names[:min(n, len(f.names))], ", ")
	if more := len(f.names) - n; more > 0 {
		some += fmt.Sprintf(" and %d more", more)
	}
	return nil, fmt.Errorf("no board %q; there are %s", name, cmp.Or(some, "none"))
}

// errTaken says that another board has this name, address or id.
var errTaken = errors.New("another board has it")

// add a complete board and put it on the air.
func (f *fleet) add(spec topology.Board) (*member, error) {
	m := &member{name: spec.Name, model: spec.Model, id: strings.ToLower(spec.ID), nodes: slices.Clone(spec.Nodes)}
	for i, n := range m.nodes {
		if f.radios[n] == nil {
			return nil, fmt.Errorf("nodes: there is no radio for %q", n)
		}
		if slices.Contains(m.nodes[:i], n) {
			return nil, fmt.Errorf("nodes: %q twice", n)
		}
	}
	b, err := board.New(spec, board.Options{
		Seed: f.seed, Clock: f.clock, Journal: f.record, Wake: f.drive.wake,
		// Every radio in reach hears what becomes of the board.
		Announce: func(*board.Board) { f.tell(m, func(r *radio.Server) { r.Announce(m.address) }) },
		InRange:  func(_ *board.Board, ok bool) { f.tell(m, func(r *radio.Server) { r.SetReach(m.address, ok) }) },
	})
	if err != nil {
		return nil, err
	}
	m.Board, m.address = b, b.Via("").Address()

	f.mu.Lock()
	defer f.mu.Unlock()
	if m.name == "" {
		return nil, errors.New("name: want one")
	}
	if f.boards[m.name] != nil {
		return nil, fmt.Errorf("name: %q: %w", m.name, errTaken)
	}
	for _, unique := range [][2]string{{"mac", m.address.String()}, {"id", m.id}} {
		if owner, ok := f.taken[unique[1]]; ok {
			return nil, fmt.Errorf("%s: %s: %w, %s", unique[0], unique[1], errTaken, owner)
		}
	}
	if f.up {
		f.note(m, board.EventAdded, m.model+" at "+strings.Join(m.nodes, ","))
	}
	for _, n := range m.nodes {
		if err := f.radios[n].Add(radio.Heard{Peripheral: counted{b.Via(n), m}, RSSI: rssi(n, m.address)}); err != nil {
			return nil, fmt.Errorf("node %s: %w", n, err) // nobody else adds any
		}
	}
	f.names = append(f.names, m.name)
	f.boards[m.name] = m
	f.taken[m.address.String()], f.taken[m.id] = m.name, m.name
	return m, nil
}

// tell the radios that hear a board something about it.
func (f *fleet) tell(m *member, what func(*radio.Server)) {
	if m.removed.Load() {
		return // its address may be another's
	}
	for _, n := range m.nodes {
		what(f.radios[n])
	}
}

// remove takes a board off the air, with its connection, and switches it off.
func (f *fleet) remove(name string) error {
	m, err := f.board(name)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.removed.Swap(true) {
		return fmt.Errorf("no board %q any more", name)
	}
	for _, n := range m.nodes {
		f.radios[n].Remove(m.address)
	}
	f.names = slices.DeleteFunc(f.names, func(n string) bool { return n == name })
	delete(f.boards, name)
	delete(f.taken, m.address.String())
	delete(f.taken, m.id)
	f.sent[m.model] += m.notifications()
	_ = m.Clear("") // so that nothing wakes it any more
	f.note(m, board.EventRemoved, "")
	return nil
}

// note an event of a board in the journal.
func (f *fleet) note(m *member, kind, detail string) {
	f.record.Event(f.clock.Now(), m.name, m.Device(), kind, detail)
}

// fault makes something go wrong with a board.
func (f *fleet) fault(name string, fault topology.Fault) (*member, error) {
	m, err := f.board(name)
	if err != nil {
		return nil, err
	}
	if fault.Kind == topology.FaultDrift && fault.Slope == 0 {
		fault.Slope = 1
	}
	if err := fault.Check(m.model); err != nil {
		return m, err
	}
	of := ""
	if fault.Of != "" {
		other, err := f.board(fault.Of)
		switch {
		case err != nil:
			return m, fmt.Errorf("of: %w", err)
		case other == m:
			return m, fmt.Errorf("of: %q: want another board than the one that becomes its clone", fault.Of)
		}
		of = other.id
	}
	return m, m.Fault(fault, of)
}

// rssi is between -40 and -89 dBm, the same each time: boards and nodes do not move.
func rssi(node string, mac radio.Address) int8 {
	h := fnv.New32a()
	_, _ = h.Write(append(mac[:], node...))
	return int8(-40 - int(h.Sum32()%50))
}

func hash(s string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s))
	return h.Sum64()
}
