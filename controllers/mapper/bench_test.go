package mapper_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/mapper"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/dmi"
	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/radio"
)

// bench is a mapper in a bubble of time, with everything around it in the bubble:
// a radio with boards, a broker that takes everything, an edge runtime and an API
// server. It runs as long as the test, or until stop.
type bench struct {
	*mapper.Mapper
	t       *testing.T
	stop    func()
	start   func()
	air     *ether
	api     client.Client
	metrics *prometheus.Registry

	mu        sync.Mutex
	apiAway   bool
	gets      int                 // from the API server
	reports   []string            // "<device> <state>" and "<device> <twins>", in order
	twins     map[string]dmi.Twin // latest, by "<device>/<property>"
	published []sample
	messages  int
}

// newBench runs one. Its allow list and the like are set by options.
func newBench(t *testing.T, boards []*puppet, options ...func(*mapper.Options)) *bench {
	t.Helper()
	return newBenchWith(t, boards, true, options...)
}

// newBenchWith or without an edge runtime.
func newBenchWith(t *testing.T, boards []*puppet, edge bool, options ...func(*mapper.Options)) *bench {
	t.Helper()
	b := &bench{t: t, air: newEther(boards), twins: map[string]dmi.Twin{}}
	refuse := func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.apiAway {
			return errors.New("connection refused")
		}
		return nil
	}
	b.api, _ = cluster(t, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, k client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			b.mu.Lock()
			b.gets++
			b.mu.Unlock()
			if err := refuse(); err != nil {
				return err
			}
			return c.Get(ctx, k, o, opts...)
		},
		Apply: func(context.Context, client.WithWatch, runtime.ApplyConfiguration, ...client.ApplyOption) error {
			return refuse()
		},
	})
	began := time.Now()
	b.air.monotonic = func() int64 { return int64(time.Hour + time.Since(began)) }
	var reporter mapper.Reporter
	if edge {
		reporter = b
	}
	b.start = func() {
		t.Helper()
		b.metrics = prometheus.NewRegistry()
		o := mapper.Options{
			Node: "edge-1", Namespace: "fluidos", MQTT: "tcp://127.0.0.1:1883", Client: b.api, Registerer: b.metrics,
			Central: func(context.Context) (mapper.Central, error) { return b.air.open() },
		}
		for _, set := range options {
			set(&o)
		}
		var err error
		b.Mapper, err = mapper.NewMapper(o, b, reporter, b.air.monotonic, func(error) {})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		run := b.Run
		go func() { done <- run(ctx) }()
		b.stop = sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		t.Cleanup(b.stop)
		synctest.Wait()
	}
	b.start()
	return b
}

// Await and Publish are a broker's.
func (b *bench) Await(ctx context.Context) error { return ctx.Err() }

func (b *bench) Publish(_ context.Context, _ string, payload []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.messages++
	for line := range strings.Lines(string(payload)) {
		b.published = append(b.published, parse(b.t, line))
	}
	return nil
}

// ReportTwins and ReportState are an edge runtime's.
func (b *bench) ReportTwins(_ context.Context, namespace, name string, all []dmi.Twin) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var values []string
	for _, tw := range all {
		values = append(values, tw.Property+"="+tw.Reported+"/"+tw.Desired)
		b.twins[name+"/"+tw.Property] = tw
	}
	slices.Sort(values)
	b.reports = append(b.reports, name+" "+strings.Join(values, " "))
	return nil
}

func (b *bench) ReportState(_ context.Context, namespace, name, state string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reports = append(b.reports, name+" "+state)
	return nil
}

// states that were reported of a board, in order.
func (b *bench) states(p *puppet) (out []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.reports {
		if state, ok := strings.CutPrefix(r, p.device()+" "); ok && !strings.Contains(state, "=") {
			out = append(out, state)
		}
	}
	return out
}

// reported value of a property and what is desired of it: "2/4".
func (b *bench) reported(p *puppet, property string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, ok := b.twins[p.device()+"/"+property]
	if !ok {
		return "nothing"
	}
	return t.Reported + "/" + t.Desired
}

// events of a board: "<reason> x<count>".
func (b *bench) events(p *puppet) (out []string) {
	b.t.Helper()
	var list corev1.EventList
	if err := b.api.List(b.t.Context(), &list); err != nil {
		b.t.Fatal(err)
	}
	for _, e := range list.Items {
		if e.InvolvedObject.Name == p.device() {
			out = append(out, fmt.Sprintf("%s x%d", e.Reason, e.Count))
		}
	}
	slices.Sort(out)
	return out
}

// problem that the Device of a board says it has.
func (b *bench) problem(p *puppet) string {
	b.t.Helper()
	var d devices.Device
	if err := b.api.Get(b.t.Context(), client.ObjectKey{Namespace: "fluidos", Name: p.device()}, &d); err != nil {
		b.t.Fatal(err)
	}
	return d.Annotations[devices.AnnotationProblem]
}

// wantProblem of a board: the reasons that its Device names, in order.
func (b *bench) wantProblem(when string, p *puppet, reasons ...string) {
	b.t.Helper()
	b.pass(2 * time.Second) // between two writes
	var got []string
	for _, text := range strings.Split(b.problem(p), "; ") {
		if reason, _, _ := strings.Cut(text, ": "); reason != "" {
			got = append(got, reason)
		}
	}
	if diff := cmp.Diff(reasons, got); diff != "" {
		b.t.Errorf("%s: problem of %s is %q (-want +got):\n%s", when, p.device(), b.problem(p), diff)
	}
}

func (b *bench) setAPIAway(away bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.apiAway = away
}

// take has the edge runtime give the mapper the Device that it registered, with
// what is desired of the sampling rate, if anything.
func (b *bench) take(p *puppet, desired string) {
	b.t.Helper()
	var d devices.Device
	if err := b.api.Get(b.t.Context(), client.ObjectKey{Namespace: "fluidos", Name: p.device()}, &d); err != nil {
		b.t.Fatal(err)
	}
	out := dmi.Device{Namespace: d.Namespace, Name: d.Name, Properties: map[string]dmi.Property{}}
	for _, q := range d.Spec.Properties {
		w := dmi.Property{Collect: time.Duration(q.CollectCycle) * time.Millisecond, Report: time.Duration(q.ReportCycle) * time.Millisecond, ToCloud: q.ReportToCloud}
		if q.Name == "sampling-rate" && desired != "" {
			w.Desired, w.HasDesired = desired, true
		}
		out.Properties[q.Name] = w
	}
	b.Changed(out)
	synctest.Wait()
}

// pass lets time go by; boards advertise every second.
func (b *bench) pass(d time.Duration) {
	for end := time.Now().Add(d); ; {
		left := time.Until(end)
		<-time.After(min(left, time.Second))
		synctest.Wait()
		if left <= time.Second {
			return
		}
		b.air.mu.Lock()
		for _, p := range b.air.boards {
			b.air.hear(p)
		}
		b.air.mu.Unlock()
	}
}

func (b *bench) want(p *puppet, events []string, states ...string) {
	b.t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(events, b.events(p)); diff != "" {
		b.t.Errorf("events of %s (-want +got):\n%s", p.device(), diff)
	}
	if diff := cmp.Diff(states, b.states(p)); diff != "" {
		b.t.Errorf("states of %s (-want +got):\n%s", p.device(), diff)
	}
}

// ether is a radio in a bubble of time.
type ether struct {
	monotonic func() int64
	boards    []*puppet

	mu   sync.Mutex
	side *openAir
}

func newEther(boards []*puppet) *ether {
	a := &ether{boards: boards}
	for _, p := range boards {
		p.air = a
	}
	return a
}

// openAir is the mapper's side of it.
type openAir struct {
	a     *ether
	heard chan radio.Advertisement
	done  chan struct{}
	err   error
}

func (a *ether) open() (mapper.Central, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.side = &openAir{a: a, heard: make(chan radio.Advertisement, 1000), done: make(chan struct{})}
	for _, p := range a.boards {
		a.hear(p)
	}
	return a.side, nil
}

// hear an advertisement of a board, if it is on the air. a.mu is held.
func (a *ether) hear(p *puppet) {
	if p.gone || a.side == nil {
		return
	}
	ad, err := bluest.NewAdvertisement(p.model, p.mac)
	if err != nil {
		panic(err)
	}
	payload, err := ad.Encode()
	if err != nil {
		panic(err)
	}
	a.side.heard <- radio.Advertisement{Address: p.mac, Payload: payload, Connectable: p.peer == nil && !p.elsewhere}
}

func (o *openAir) Scan(context.Context) (<-chan radio.Advertisement, error) { return o.heard, nil }
func (o *openAir) Done() <-chan struct{}                                    { return o.done }
func (o *openAir) Err() error                                               { return o.err }
func (o *openAir) Close() error                                             { return nil }

func (o *openAir) Connect(_ context.Context, mac radio.Address) (mapper.Peer, error) {
	o.a.mu.Lock()
	defer o.a.mu.Unlock()
	for _, p := range o.a.boards {
		switch {
		case p.mac != mac || p.gone:
		case p.peer != nil || p.elsewhere:
			return nil, radio.ErrBusy
		default:
			p.connections++
			p.peer = &peer{p: p, subs: map[string]chan radio.Notification{}}
			return p.peer, nil
		}
	}
	return nil, radio.ErrUnknown
}

// puppet is a board that does what a test has it do.
type puppet struct {
	mac             radio.Address
	model, id       string
	characteristics []radio.Characteristic
	// console answers a command; nil says nothing.
	console func(command string) string
	// refuse a rate; nil takes all.
	refuse func(hz float64) error

	air         *ether // its mutex guards what follows
	gone        bool   // off the air
	elsewhere   bool   // connected to somebody else
	peer        *peer
	connections int
	rate        float64
	written     []string
	booted      time.Time
}

// newPuppet is a board with these features, a battery and a configuration, that
// announces its parts.
func newPuppet(t *testing.T, mac, model string, features ...bluest.Mask) *puppet {
	t.Helper()
	a, err := radio.ParseAddress(mac)
	if err != nil {
		t.Fatal(err)
	}
	p := &puppet{mac: a, model: model, id: idBX1, rate: 2, booted: time.Now().Add(-5 * time.Minute)}
	for _, f := range append(features, bluest.Battery) {
		p.characteristics = append(p.characteristics, radio.Characteristic{UUID: f.UUID(), Read: true, Notify: true})
	}
	p.characteristics = append(p.characteristics, radio.Characteristic{UUID: bluest.ConsoleUUID, Write: true, Notify: true}, radio.Characteristic{UUID: bluest.ConfigUUID, Write: true})
	p.console = func(command string) string {
		switch command {
		case "uid":
			return p.id
		case "sensors":
			text, err := json.Marshal(p.sensors(features...))
			if err != nil {
				panic(err)
			}
			return string(text)
		}
		return "?"
	}
	return p
}

// sensors that a board with these features announces.
func (p *puppet) sensors(features ...bluest.Mask) (out []nodecore.Characteristics) {
	for _, part := range bluest.Parts(p.model) {
		if !slices.Contains(features, part.Characteristic) {
			continue
		}
		rate := part.Characteristic.NominalRate()
		if part.Characteristic == features[0] {
			rate = p.rate
		}
		c := nodecore.Characteristics{Model: strings.ToUpper(part.Name), SamplingRate: strconv.FormatFloat(rate, 'f', -1, 64)}
		c.Type.SensorCategory, c.Properties.Unit.SamplingRate = part.Category, "Hz"
		for _, f := range part.Feeds {
			if !slices.Contains(c.Type.SensorType, f.SensorType) {
				c.Type.SensorType = append(c.Type.SensorType, f.SensorType)
			}
		}
		out = append(out, c)
	}
	return out
}

func (p *puppet) device() string { return strings.ToLower(p.model) + "-" + p.mac.Hex() }

func (p *puppet) feature() bluest.Mask {
	m, err := bluest.ParseMask(p.characteristics[0].UUID)
	if err != nil {
		panic(err)
	}
	return m
}

// send a frame of the feature, if somebody is subscribed. What the test does not
// name is 0 and wobbles.
func (p *puppet) send(m bluest.Mask, values map[string]float64) {
	now := p.air.monotonic()
	unit := 10 * time.Millisecond
	if p.model == "STWINKT1B" {
		unit = 8 * time.Millisecond
	}
	wobble := float64(now/int64(100*time.Millisecond)%7) / 10
	f := bluest.Frame{Characteristic: m.UUID(), TS: uint16(time.Since(p.booted) / unit)}
	quantities := map[string]float64{}
	for _, part := range bluest.Parts(p.model) {
		if part.Characteristic == m || m == bluest.Environmental {
			for _, feed := range part.Feeds {
				quantities[feed.Quantity] = 20 + wobble*10
			}
		}
	}
	if m == bluest.Battery {
		quantities = map[string]float64{bluest.Level: 80, bluest.Voltage: 3900, bluest.Status: 1}
	}
	maps.Copy(quantities, values)
	for q, v := range quantities {
		f.Readings = append(f.Readings, bluest.Reading{Quantity: q, Value: v})
	}
	frame, err := bluest.Encode(f)
	if err != nil {
		panic(err)
	}
	p.notify(m.UUID(), frame)
}

func (p *puppet) notify(uuid string, value []byte) {
	p.air.mu.Lock()
	defer p.air.mu.Unlock()
	if p.peer == nil {
		return
	}
	if ch := p.peer.subs[uuid]; ch != nil {
		now := p.air.monotonic()
		ch <- radio.Notification{Characteristic: uuid, Value: value, Emitted: now, Received: now}
	}
}

// stream frames of the board's first feature for a time, at its rate.
func (p *puppet) stream(b *bench, d time.Duration, values map[string]float64) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		p.send(p.feature(), values)
		p.air.mu.Lock()
		period := time.Duration(float64(time.Second) / p.rate)
		p.air.mu.Unlock()
		b.pass(period)
	}
}

// drop the connection, and leave the air with it if gone.
func (p *puppet) drop(why string, gone bool) {
	p.air.mu.Lock()
	defer p.air.mu.Unlock()
	if p.peer != nil {
		p.peer.end(fmt.Errorf("%w: %s", radio.ErrDisconnected, why))
		p.peer = nil
	}
	p.gone = gone
	p.air.hear(p)
}

// appear on the air again.
func (p *puppet) appear() {
	p.air.mu.Lock()
	defer p.air.mu.Unlock()
	p.gone, p.elsewhere = false, false
	p.air.hear(p)
}

// leave for another radio: still heard, but taken.
func (p *puppet) leave() {
	p.air.mu.Lock()
	p.elsewhere = true
	p.air.mu.Unlock()
	p.drop("taken", false)
}

func (p *puppet) setRate(hz float64) {
	p.air.mu.Lock()
	p.rate = hz
	p.air.mu.Unlock()
	p.print("sensors changed")
}

func (p *puppet) print(line string) { p.notify(bluest.ConsoleUUID, []byte(line+"\r\n")) }

func (p *puppet) writes() []string {
	p.air.mu.Lock()
	defer p.air.mu.Unlock()
	out := p.written
	p.written = nil
	return out
}

// subscribed characteristics, sorted.
func (p *puppet) subscribed() (out []string) {
	p.air.mu.Lock()
	defer p.air.mu.Unlock()
	if p.peer == nil {
		return nil
	}
	for uuid := range p.peer.subs {
		out = append(out, uuid[:8]+uuid[8:13])
	}
	slices.Sort(out)
	return out
}

// peer is a connection of a puppet. Its air's mutex guards it.
type peer struct {
	p    *puppet
	err  error
	subs map[string]chan radio.Notification
}

func (k *peer) end(err error) {
	if k.err == nil {
		k.err = err
	}
	for uuid, ch := range k.subs {
		close(ch)
		delete(k.subs, uuid)
	}
}

func (k *peer) Discover(context.Context) ([]radio.Characteristic, error) {
	return k.p.characteristics, nil
}

func (k *peer) Write(_ context.Context, uuid string, value []byte) error {
	switch uuid {
	case bluest.ConsoleUUID:
		if k.p.console == nil {
			return nil
		}
		k.p.air.mu.Lock()
		answer := k.p.console(strings.TrimSpace(string(value)))
		k.p.air.mu.Unlock()
		if answer != "" {
			k.p.notify(uuid, []byte(answer+"\r\n"))
		}
		return nil
	case bluest.ConfigUUID:
		c, err := bluest.DecodeCommand(value)
		if err != nil {
			return err
		}
		hz, err := c.Rate()
		if err != nil {
			return err
		}
		if k.p.refuse != nil {
			if err := k.p.refuse(hz); err != nil {
				return err
			}
		}
		k.p.air.mu.Lock()
		k.p.written = append(k.p.written, fmt.Sprintf("%08x %g", uint32(c.Feature), hz))
		k.p.rate = hz
		k.p.air.mu.Unlock()
		k.p.print("sensors changed")
		return nil
	}
	return radio.ErrUnknown
}

func (k *peer) Subscribe(ctx context.Context, uuid string) (<-chan radio.Notification, error) {
	k.p.air.mu.Lock()
	defer k.p.air.mu.Unlock()
	if k.err != nil {
		return nil, k.err
	}
	if k.subs[uuid] != nil {
		return nil, errors.New("subscribed already")
	}
	ch := make(chan radio.Notification, 256)
	k.subs[uuid] = ch
	context.AfterFunc(ctx, func() {
		k.p.air.mu.Lock()
		defer k.p.air.mu.Unlock()
		if k.subs[uuid] == ch {
			close(ch)
			delete(k.subs, uuid)
		}
	})
	return ch, nil
}

func (k *peer) Err() error {
	k.p.air.mu.Lock()
	defer k.p.air.mu.Unlock()
	return k.err
}

func (k *peer) Close() error {
	k.p.air.mu.Lock()
	defer k.p.air.mu.Unlock()
	k.end(fmt.Errorf("%w: closed", radio.ErrDisconnected))
	if k.p.peer == k {
		k.p.peer = nil
		k.p.air.hear(k.p)
	}
	return nil
}
