package mapper_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/mapper"
	"github.com/fluidos-edge/testbed/controllers/sensor"
	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/radio"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// take the next of ch, or fail with what was waited for.
func take[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(time.Minute):
		t.Fatalf("no %s within a minute", what)
		panic("unreachable")
	}
}

// stub is a board that sends what a test tells it to.
type stub struct {
	mac        radio.Address
	model      string
	stream     string
	answers    func(command string) []byte
	subscribed chan struct{} // gets one for each subscription of the stream
	asked      chan string   // gets every command, if there is room

	mu   sync.Mutex
	link *radio.Link
	ts   uint16
}

func newStub(t *testing.T, mac, model string, answers func(string) []byte) *stub {
	t.Helper()
	a, err := radio.ParseAddress(mac)
	if err != nil {
		t.Fatal(err)
	}
	return &stub{
		mac: a, model: model, stream: bluest.Parts(model)[0].Characteristic.UUID(), answers: answers,
		subscribed: make(chan struct{}, 100), asked: make(chan string, 100),
	}
}

// honest answers as a board that announces what sensors returns.
func honest(id string, sensors func() []nodecore.Characteristics) func(string) []byte {
	return func(command string) []byte {
		switch command {
		case "uid":
			return []byte(id + "\r\n")
		case "sensors":
			text, _ := json.Marshal(sensors())
			return append(text, "\r\n"...)
		}
		return []byte("?\r\n")
	}
}

func (b *stub) Address() radio.Address { return b.mac }

func (b *stub) Advertise() ([]byte, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a, err := bluest.NewAdvertisement(b.model, b.mac)
	if err != nil {
		return []byte{2, 1, 6}, true
	}
	payload, _ := a.Encode()
	return payload, b.link == nil
}

func (b *stub) Connect(l *radio.Link) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.link != nil {
		return radio.ErrBusy
	}
	b.link = l
	return nil
}

func (b *stub) Disconnected(l *radio.Link) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.link == l {
		b.link = nil
	}
}

func (b *stub) Characteristics() []radio.Characteristic {
	return []radio.Characteristic{{UUID: b.stream, Notify: true}, {UUID: bluest.ConsoleUUID, Write: true, Notify: true}}
}

func (b *stub) Read(string) ([]byte, error) { return nil, radio.ErrUnknown }

func (b *stub) Write(l *radio.Link, c string, v []byte) error {
	command := strings.TrimSpace(string(v))
	select {
	case b.asked <- command:
	default:
	}
	if b.answers != nil {
		say(l, b.answers(command))
	}
	return nil
}

// say prints text on the console.
func say(l *radio.Link, text []byte) {
	for piece := range slices.Chunk(text, 20) {
		l.Notify(bluest.ConsoleUUID, piece, radio.Now(), 0)
	}
}

func (b *stub) print(line string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	say(b.link, []byte(line+"\r\n"))
}

func (b *stub) Subscribe(_ *radio.Link, c string, on bool) error {
	if on && c == b.stream {
		b.subscribed <- struct{}{}
	}
	return nil
}

// drop the connection.
func (b *stub) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.link.Drop("battery")
	b.link = nil
}

// send a frame; a board without humidity leaves it out.
func (b *stub) send(t *testing.T, celsius float64) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ts++
	f := bluest.Frame{Characteristic: b.stream, TS: b.ts, Readings: []bluest.Reading{
		{Quantity: bluest.Pressure, Value: 1013.25}, {Quantity: bluest.Temperature, Value: celsius},
	}}
	if b.model == "STWINKT1B" {
		f.Readings = append(f.Readings, bluest.Reading{Quantity: bluest.Humidity, Value: 47.1}, bluest.Reading{Quantity: bluest.Temperature2, Value: celsius + 1})
	}
	frame, err := bluest.Encode(f)
	if err != nil {
		t.Fatal(err)
	}
	const ago = int64(5 * time.Millisecond)
	if !b.link.Notify(b.stream, frame, radio.Now()-ago, time.Now().UnixNano()-ago) {
		t.Fatal("the board is not connected")
	}
}

// message on the broker.
type message struct{ topic, line string }

// testBroker is a real broker whose address stays while it comes and goes.
type testBroker struct {
	url      string
	messages chan message
	listener net.Listener
	accept   sync.WaitGroup
	serving  sync.WaitGroup

	mu      sync.Mutex
	server  *mqtt.Server
	clients map[net.Conn]bool
}

func newTestBroker(t *testing.T) *testBroker {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &testBroker{url: "tcp://" + l.Addr().String(), messages: make(chan message, 10000), listener: l, clients: map[net.Conn]bool{}}
	b.accept.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			server := b.server
			if server == nil {
				_ = c.Close()
			} else {
				b.clients[c] = true
				b.serving.Go(func() {
					_ = server.EstablishConnection("test", c)
					b.mu.Lock()
					defer b.mu.Unlock()
					delete(b.clients, c)
				})
			}
			b.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		b.accept.Wait()
		b.stop(t)
	})
	return b
}

func (b *testBroker) start(t *testing.T) {
	t.Helper()
	s := mqtt.New(&mqtt.Options{InlineClient: true, Logger: slog.New(slog.DiscardHandler)})
	err := errors.Join(
		s.AddHook(new(auth.AllowHook), nil),
		s.Serve(),
		s.Subscribe("fluidos/#", 1, func(_ *mqtt.Client, _ packets.Subscription, pk packets.Packet) {
			b.messages <- message{pk.TopicName, string(pk.Payload)}
		}))
	if err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.server = s
}

func (b *testBroker) stop(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	s := b.server
	b.server = nil
	for c := range b.clients {
		_ = c.Close()
	}
	b.mu.Unlock()
	b.serving.Wait() // no message of this server comes later
	if s != nil {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// air runs a radio until the test ends or stop is called.
func air(t *testing.T, socket string, boards ...*stub) (stop func()) {
	t.Helper()
	var heard []radio.Heard
	for _, b := range boards {
		heard = append(heard, radio.Heard{Peripheral: b, RSSI: -40})
	}
	s, err := radio.Listen(socket, heard, radio.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// running is a mapper in this process.
type running struct {
	journal string
	metrics *prometheus.Registry
	states  chan error // of readiness
	stop    func()
}

// run a mapper until the test ends or stop is called.
func run(t *testing.T, socket string, b *testBroker, c client.Client, options ...func(*mapper.Options)) *running {
	t.Helper()
	r := &running{journal: filepath.Join(t.TempDir(), "published.lp"), metrics: prometheus.NewRegistry(), states: make(chan error, 1000)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	o := mapper.Options{
		Node: "edge-1", Namespace: "fluidos", Radio: socket, MQTT: b.url, Journal: r.journal,
		Pause: 5 * time.Millisecond, Client: c, Registerer: r.metrics,
	}
	for _, set := range options {
		set(&o)
	}
	go func() {
		done <- mapper.Run(ctx, slog.New(slog.NewTextHandler(io.Discard, nil)), func(err error) { r.states <- err }, o)
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// until readiness says what.
func (r *running) until(t *testing.T, what string) {
	t.Helper()
	for {
		err := take(t, r.states, "readiness "+what)
		if (err == nil && what == "") || (err != nil && what != "" && strings.Contains(err.Error(), what)) {
			return
		}
	}
}

// sample is a line taken apart.
type sample struct {
	head    string // measurement and tags
	values  string
	latency float64
	epoch   int64
	seq     int64
	at      int64
}

var lineForm = regexp.MustCompile(`^(\S+) (\S+),sensor_latency_ms=([0-9.e+]+),epoch=(\d+)i,seq=(\d+)i (\d+)\n$`)

func parse(t *testing.T, line string) (s sample) {
	t.Helper()
	m := lineForm.FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("line %q", line)
	}
	s.head, s.values = m[1], m[2]
	var errs [4]error
	s.latency, errs[0] = strconv.ParseFloat(m[3], 64)
	s.epoch, errs[1] = strconv.ParseInt(m[4], 10, 64)
	s.seq, errs[2] = strconv.ParseInt(m[5], 10, 64)
	s.at, errs[3] = strconv.ParseInt(m[6], 10, 64)
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	return s
}

// next n messages of the part.
func (b *testBroker) next(t *testing.T, n int, part string) (out []sample) {
	t.Helper()
	for len(out) < n {
		m := take(t, b.messages, fmt.Sprintf("sample %d of %d of %s", len(out)+1, n, part))
		if strings.HasSuffix(m.topic, "/"+part) {
			out = append(out, parse(t, m.line))
		}
	}
	return out
}

func temperatureOnly(manufacturer string) []nodecore.Characteristics {
	return []nodecore.Characteristics{{Model: "STTS22H", Manufacturer: manufacturer, Type: nodecore.SensorType{SensorCategory: "Environmental", SensorType: []string{"Temperature"}}}}
}

const (
	macBX1 = "c0:83:2a:00:00:01"
	idBX1  = "00aa00bb00cc00dd00ee00ff"
)

func honestBX1(t *testing.T) *stub {
	return newStub(t, macBX1, "STWINBX1", honest(idBX1, func() []nodecore.Characteristics { return temperatureOnly("STMicroelectronics") }))
}

// contiguous checks that samples are of one epoch, number from 1 on, and later
// each; celsius of sample i is i/10.
func contiguous(t *testing.T, got []sample) {
	t.Helper()
	last := int64(0)
	for i, s := range got {
		if s.epoch != got[0].epoch || s.seq != int64(i+1) || s.at <= last {
			t.Fatalf("sample %d is %+v, after time %d", i+1, s, last)
		}
		if want := fmt.Sprintf("temperature_celsius=%g", float64(i+1)/10); s.values != want {
			t.Fatalf("sample %d has %s, want %s", i+1, s.values, want)
		}
		last = s.at
	}
}

func TestFramesInLinesOut(t *testing.T) {
	sensors := append(kt1b().Announced, nodecore.Characteristics{Model: "STTS751", Type: nodecore.SensorType{SensorType: []string{"Temperature"}}})
	board := newStub(t, macKT1B, "STWINKT1B", honest(idKT1B, func() []nodecore.Characteristics { return sensors }))
	b := newTestBroker(t)
	b.start(t)
	socket := filepath.Join(t.TempDir(), "r")
	air(t, socket, board)
	c, applied := cluster(t, interceptor.Funcs{})
	before := time.Now().UnixNano()
	r := run(t, socket, b, c)
	r.until(t, "")
	take(t, board.subscribed, "subscription")
	take(t, applied, "DeviceModel")
	if got := take(t, applied, "Device"); got != "Device fluidos/stwinkt1b-c0832a001122" {
		t.Errorf("applied %s", got)
	}
	board.send(t, 23.4)
	var topics, heads []string
	published := map[string]bool{}
	for range 3 {
		m := take(t, b.messages, "message")
		published[m.line] = true
		s := parse(t, m.line)
		topics, heads = append(topics, m.topic), append(heads, s.head+" "+s.values)
		if s.seq != 1 || s.epoch < before || s.epoch > time.Now().UnixNano() {
			t.Errorf("epoch %d, seq %d", s.epoch, s.seq)
		}
		if s.at < before-int64(5*time.Millisecond) || s.at > time.Now().UnixNano()-int64(5*time.Millisecond) {
			t.Errorf("time %d is not that of the emission", s.at)
		}
		if s.latency < 5 || s.latency > 60000 {
			t.Errorf("latency %v ms, want at least 5", s.latency)
		}
	}
	slices.Sort(topics)
	slices.Sort(heads)
	if diff := cmp.Diff([]string{"fluidos/" + topicKT1B + "hts221", "fluidos/" + topicKT1B + "lps22hh", "fluidos/" + topicKT1B + "stts751"}, topics); diff != "" {
		t.Errorf("topics (-want +got):\n%s", diff)
	}
	line := func(part, values string) string {
		return "environmental,device=stwinkt1b-c0832a001122,node=edge-1,part=" + part + ",uid=" + sensor.UID(idKT1B, macKT1B, part) + " " + values
	}
	if diff := cmp.Diff([]string{
		line("hts221", "humidity_percent=47.1,temperature_celsius=23.4"),
		line("lps22hh", "pressure_hpa=1013.25"),
		line("stts751", "temperature_celsius=24.4"),
	}, heads); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	r.stop()
	text, err := os.ReadFile(r.journal)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	for _, l := range lines[:len(lines)-1] {
		if !published[l] {
			t.Errorf("in the journal, but not published: %q", l)
		}
		delete(published, l)
	}
	if len(published) > 0 {
		t.Errorf("published, but not in the journal: %v", published)
	}
}

func TestSamplesOutliveTheBroker(t *testing.T) {
	board, b := honestBX1(t), newTestBroker(t)
	b.start(t)
	socket := filepath.Join(t.TempDir(), "r")
	air(t, socket, board)
	c, _ := cluster(t, interceptor.Funcs{})
	r := run(t, socket, b, c)
	take(t, board.subscribed, "subscription")
	r.until(t, "")
	n := 0
	send := func(k int) {
		for range k {
			n++
			board.send(t, float64(n)/10)
		}
	}
	send(5)
	got := b.next(t, 5, "stts22h")
	for range 3 {
		b.stop(t)
		r.until(t, "broker "+b.url)
		send(20)
		b.start(t)
		r.until(t, "")
		send(1)
		for len(got) < n {
			s := b.next(t, 1, "stts22h")[0]
			if len(got) > 0 && s == got[len(got)-1] {
				continue // its acknowledgement was lost
			}
			got = append(got, s)
		}
	}
	contiguous(t, got)
	r.stop()
	text, err := os.ReadFile(r.journal)
	if err != nil {
		t.Fatal(err)
	}
	var journal []sample
	for l := range strings.Lines(string(text)) {
		journal = append(journal, parse(t, l))
	}
	if diff := cmp.Diff(got, journal, cmp.AllowUnexported(sample{})); diff != "" {
		t.Errorf("journal (-published +journaled):\n%s", diff)
	}
}

func TestEachConnectionIsAnEpoch(t *testing.T) {
	for _, c := range []struct {
		name  string
		again func(t *testing.T, b *stub, restart func())
	}{
		{"the board drops the connection", func(t *testing.T, b *stub, _ func()) {
			b.drop()
			take(t, b.subscribed, "subscription")
		}},
		{"the radio restarts", func(t *testing.T, b *stub, restart func()) {
			restart()
			take(t, b.subscribed, "subscription")
		}},
		{"the board restarts without a word", func(_ *testing.T, b *stub, _ func()) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.ts = 0
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			board, b := honestBX1(t), newTestBroker(t)
			b.start(t)
			socket := filepath.Join(t.TempDir(), "r")
			stop := air(t, socket, board)
			api, _ := cluster(t, interceptor.Funcs{})
			r := run(t, socket, b, api)
			take(t, board.subscribed, "subscription")
			board.mu.Lock()
			board.ts = 1000
			board.mu.Unlock()
			board.send(t, 0.1)
			board.send(t, 0.2)
			first := b.next(t, 2, "stts22h")
			c.again(t, board, func() {
				stop()
				r.until(t, "radio "+socket)
				air(t, socket, board)
			})
			board.send(t, 0.1)
			board.send(t, 0.2)
			second := b.next(t, 2, "stts22h")
			contiguous(t, first)
			contiguous(t, second)
			if second[0].epoch <= first[0].epoch || second[0].at <= first[1].at {
				t.Errorf("epoch %d after %d, time %d after %d", second[0].epoch, first[0].epoch, second[0].at, first[1].at)
			}
		})
	}
}

func TestTheAnnotationFollowsTheBoard(t *testing.T) {
	var manufacturer atomic.Value
	manufacturer.Store("STMicroelectronics")
	board := newStub(t, macBX1, "STWINBX1", honest(idBX1, func() []nodecore.Characteristics {
		return temperatureOnly(manufacturer.Load().(string))
	}))
	b := newTestBroker(t)
	b.start(t)
	socket := filepath.Join(t.TempDir(), "r")
	air(t, socket, board)
	// The board was on another node before.
	c, applied := cluster(t, interceptor.Funcs{}, &devices.Device{
		ObjectMeta: objectMeta("stwinbx1-c0832a000001"), Spec: devices.DeviceSpec{NodeName: "edge-2"},
	})
	run(t, socket, b, c)
	offer := func() (node string, made string) {
		var d devices.Device
		if err := c.Get(t.Context(), client.ObjectKey{Namespace: "fluidos", Name: "stwinbx1-c0832a000001"}, &d); err != nil {
			t.Fatal(err)
		}
		var s []nodecore.Characteristics
		decodeAnnotation(t, d.Annotations[devices.AnnotationSensors], &s)
		return d.Spec.NodeName, s[0].Manufacturer
	}
	take(t, applied, "DeviceModel")
	take(t, applied, "Device")
	if node, made := offer(); node != "edge-1" || made != "STMicroelectronics" {
		t.Errorf("node %q, manufacturer %q", node, made)
	}
	take(t, board.subscribed, "subscription")
	board.send(t, 0.1)
	manufacturer.Store("STMicroelecronics")
	board.print("sensors changed")
	take(t, applied, "Device")
	if node, made := offer(); node != "edge-1" || made != "STMicroelecronics" {
		t.Errorf("node %q, manufacturer %q", node, made)
	}
	board.send(t, 0.2)
	contiguous(t, b.next(t, 2, "stts22h")) // a change is no new stream
}

func TestABoardThatTalksNonsenseDisturbsNobody(t *testing.T) {
	noise := func(string) []byte { return []byte(strings.Repeat("\x00\xff[{\r\r\n{}\r\n", 20)) }
	good := honestBX1(t)
	boards := []*stub{
		newStub(t, "c0:83:2a:00:00:02", "STWINBX1", noise),
		newStub(t, "c0:83:2a:00:00:03", "STWINBX1", func(string) []byte { return []byte(strings.Repeat("x", 5000)) }),
		newStub(t, "c0:83:2a:00:00:04", "STWINBX1", nil), // says nothing
		newStub(t, "c0:83:2a:00:00:05", "STWINBX1", func(c string) []byte {
			if c == "uid" {
				return []byte(idBX1 + "\r\n")
			}
			return []byte("[{\"model\":\r\n")
		}),
		{mac: radio.Address{0xc0, 0x83, 0x2a, 0, 0, 6}, model: "headphones", stream: "0000110b-0000-1000-8000-00805f9b34fb"},
		good,
	}
	b := newTestBroker(t)
	b.start(t)
	socket := filepath.Join(t.TempDir(), "r")
	air(t, socket, boards...)
	c, applied := cluster(t, interceptor.Funcs{})
	run(t, socket, b, c)
	for _, bad := range boards[:4] {
		take(t, bad.asked, "command to "+bad.mac.String())
	}
	take(t, good.subscribed, "subscription")
	take(t, applied, "DeviceModel")
	if got := take(t, applied, "Device"); got != "Device fluidos/stwinbx1-c0832a000001" {
		t.Errorf("applied %s", got)
	}
	for i := range 50 {
		if i == 25 { // a frame that is none, in between
			good.mu.Lock()
			good.link.Notify(good.stream, []byte{1, 2, 3}, radio.Now(), 0)
			good.mu.Unlock()
		}
		good.send(t, float64(i+1)/10)
	}
	contiguous(t, b.next(t, 50, "stts22h"))
	if len(applied) > 0 {
		t.Errorf("applied too: %s", <-applied)
	}
}

func TestDataDoesNotWaitForTheAPIServer(t *testing.T) {
	board, b := honestBX1(t), newTestBroker(t)
	b.start(t)
	socket := filepath.Join(t.TempDir(), "r")
	air(t, socket, board)
	var away atomic.Bool
	away.Store(true)
	tried := make(chan struct{}, 1000)
	c, applied := cluster(t, interceptor.Funcs{Apply: func(context.Context, client.WithWatch, runtime.ApplyConfiguration, ...client.ApplyOption) error {
		if away.Load() {
			tried <- struct{}{}
			return errors.New("connection refused")
		}
		return nil
	}})
	run(t, socket, b, c)
	take(t, board.subscribed, "subscription")
	take(t, tried, "first try")
	take(t, tried, "second try")
	board.send(t, 0.1)
	contiguous(t, b.next(t, 1, "stts22h"))
	away.Store(false)
	take(t, applied, "DeviceModel")
	take(t, applied, "Device")
}

func TestReadinessNamesWhatIsMissing(t *testing.T) {
	b := newTestBroker(t)
	socket := filepath.Join(t.TempDir(), "r")
	c, _ := cluster(t, interceptor.Funcs{})
	r := run(t, socket, b, c)
	r.until(t, "radio "+socket)
	r.until(t, "broker "+b.url)
	air(t, socket)
	b.start(t)
	r.until(t, "")
}

func TestOptions(t *testing.T) {
	good := func() mapper.Options {
		return mapper.Options{Node: "edge-1", Namespace: "fluidos", Radio: "r", MQTT: "tcp://127.0.0.1:1883"}
	}
	for _, c := range []struct {
		name string
		set  func(*mapper.Options)
		want []string
	}{
		{"nothing set", func(o *mapper.Options) { *o = mapper.Options{} }, []string{"--node: missing", "--namespace: missing", "--radio: missing", "--mqtt: missing"}},
		{"a node that is none", func(o *mapper.Options) { o.Node = "Edge 1" }, []string{`--node "Edge 1"`}},
		{"no port", func(o *mapper.Options) { o.MQTT = "tcp://127.0.0.1" }, []string{`--mqtt "tcp://127.0.0.1": want tcp://HOST:PORT`}},
		{"another scheme", func(o *mapper.Options) { o.MQTT = "ssl://127.0.0.1:8883" }, []string{"--mqtt"}},
		{"no queue", func(o *mapper.Options) { o.Queue = -1 }, []string{"--queue -1"}},
		{"gathers for too long", func(o *mapper.Options) { o.Gather = 11 * time.Second }, []string{"--gather 11s: want 0 to 10s"}},
		{"gathers backwards", func(o *mapper.Options) { o.Gather = -1 }, []string{"--gather -1ns"}},
		{"half of DMI", func(o *mapper.Options) { o.DMISocket = "/s" }, []string{`--dmi-socket "/s" and --dmi-listen "": want both or neither`}},
		{"a board that cannot be", func(o *mapper.Options) { o.Allow = []string{"STWINBX1", "toaster"} }, []string{`--allow "toaster": want an address`}},
		{"a relative socket", func(o *mapper.Options) {
			o.DMISocket, o.DMIListen = "/s", "mapper.sock"
			o.Client, _ = cluster(t, interceptor.Funcs{})
		}, []string{`own socket "mapper.sock"`}},
		{"no kubeconfig there", func(o *mapper.Options) { o.Kubeconfig = "/nonexistent" }, []string{"kubeconfig: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := good()
			c.set(&o)
			err := mapper.Run(t.Context(), slog.New(slog.DiscardHandler), func(error) {}, o)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q, want %q", err, w)
				}
			}
		})
	}
}

func TestFlags(t *testing.T) {
	var o mapper.Options
	fs := flag.NewFlagSet("mapper", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	o.AddFlags(fs)
	if err := fs.Parse([]string{"--gather", "250ms", "--allow", "c0:83:2a:*, STWINBX1", "--dmi-socket", "/a", "--dmi-listen", "/b"}); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%v %v %v %v", o.Gather, o.Allow, o.DMISocket, o.DMIListen)
	if want := "250ms [c0:83:2a:* STWINBX1] /a /b"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if err := fs.Parse([]string{"--allow", "STWINBX1,toaster"}); err == nil || !strings.Contains(err.Error(), `--allow "toaster"`) {
		t.Errorf("error %v", err)
	}
	if err := fs.Parse([]string{"--allow="}); err != nil || len(o.Allow) > 0 {
		t.Errorf("%q, %v; want all", o.Allow, err)
	}
}
