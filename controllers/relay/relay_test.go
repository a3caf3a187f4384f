package relay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/influxdata/line-protocol/v2/lineprotocol"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fluidos-edge/testbed/controllers/api/accounts"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/relay"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

var key = []byte("0123456789abcdef")

func keyOf(device string) sensor.Key {
	return sensor.Key{Namespace: "fluidos", Device: device, Part: "hts221"}
}

func flavor(device, latency string) nodecore.Flavor {
	return nodecore.Flavor{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "fluidos", Name: device, UID: types.UID(device + latency), ResourceVersion: "1",
			Labels: map[string]string{nodecore.LabelDevice: device, nodecore.LabelPart: "hts221"},
		},
		Spec: nodecore.FlavorSpec{Availability: true, FlavorType: nodecore.FlavorType{
			TypeIdentifier: nodecore.TypeSensor,
			TypeData: runtime.RawExtension{Raw: fmt.Appendf(nil, `{"characteristics": {"uid": "uid-%s", "model": "HTS221",
				"type": {"sensorType": ["Humidity"]}, "latency": %q, "properties": {"unit": {"latency": "ms"}}}}`, device, latency)},
		}},
	}
}

func path(name string, endpoints ...string) sensors.DataPath {
	dp := sensors.DataPath{ObjectMeta: metav1.ObjectMeta{Namespace: "consumer-1", Name: name, UID: types.UID(name), Generation: 1}}
	for i, url := range endpoints {
		dp.Spec.Endpoints = append(dp.Spec.Endpoints, sensors.Endpoint{Name: string(rune('a' + i)), URL: url})
	}
	return dp
}

// line is the n-th sample of a sensor.
func line(device string, n int) string {
	return fmt.Sprintf("environmental,device=%s,node=edge-1,part=hts221,uid=uid-%s humidity_percent=47.1,epoch=1i,seq=%di %d", device, device, n, 1700000000000000000+n)
}

func lines(device string, from, to int) string {
	var b strings.Builder
	for n := from; n <= to; n++ {
		b.WriteString(line(device, n) + "\n")
	}
	return b.String()
}

// bed is a relay with its two listeners.
type bed struct {
	*testing.T
	*relay.Relay
	ingest, admin string
	stop          func()
	stopped       chan struct{}
}

// newBed does not let the relay deliver; start does.
func newBed(t *testing.T, cfg relay.Config) *bed {
	cfg.Key = key
	b := &bed{T: t, Relay: relay.New(cfg), stopped: make(chan struct{})}
	ingest, admin := httptest.NewServer(b.Ingest()), httptest.NewServer(b.Admin())
	t.Cleanup(ingest.Close)
	t.Cleanup(admin.Close)
	b.ingest, b.admin = ingest.URL, admin.URL
	return b
}

func (b *bed) start() *bed {
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	go func() {
		defer close(b.stopped)
		if err := b.Relay.Run(ctx); err != nil {
			b.Error(err)
		}
	}()
	b.Cleanup(func() { cancel(); <-b.stopped })
	return b
}

func (b *bed) urlOf(device string) string {
	k := keyOf(device)
	return b.ingest + "/v1/samples/" + k.String() + "?c=" + sensor.Capability(key, k)
}

func (b *bed) post(url, body string) int {
	b.Helper()
	resp, err := http.Post(url, "", strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

func (b *bed) send(device, body string) {
	b.Helper()
	if code := b.post(b.urlOf(device), body); code != http.StatusNoContent {
		b.Fatalf("relay answered %d, want 204", code)
	}
}

// poll asks for accounts; query begins with "?" or is empty.
func (b *bed) poll(query string) (accounts.Accounts, string) {
	b.Helper()
	req, err := http.NewRequest(http.MethodGet, b.admin+"/v1/accounts"+query, nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+sensor.AdminToken(key))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	var a accounts.Accounts
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		b.Fatal(err)
	}
	return a, resp.Header.Get(relay.HeaderRevision)
}

// endpoint's account, in the order of DataPaths and endpoints.
func (b *bed) endpoint(path, i int) accounts.Endpoint {
	b.Helper()
	a, _ := b.poll("")
	return a.DataPaths[path].Endpoints[i]
}

// ignoreTimes compares accounts of an endpoint but for when it last took something,
// and since when it fails.
var ignoreTimes = cmpopts.IgnoreFields(accounts.Endpoint{}, "LastDelivery", "FailingSince")

func (b *bed) until(see func() string) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.Context()), 30*time.Second) // also in a cleanup
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		last := see()
		if last == "" {
			return
		}
		select {
		case <-ctx.Done():
			b.Fatalf("waited 30s; last seen: %s", last)
		case <-tick.C:
		}
	}
}

// sink is an endpoint; answer decides on a body.
type sink struct {
	*httptest.Server
	mu     sync.Mutex
	bodies []string
	kept   []string // lines of bodies that were answered with 2xx
}

func newSink(t *testing.T, answer func(req *http.Request, body string) int) *sink {
	s := &sink{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		s.mu.Lock()
		s.bodies = append(s.bodies, string(body))
		s.mu.Unlock()
		code := http.StatusNoContent
		if answer != nil {
			code = answer(req, string(body))
		}
		if code/100 == 2 {
			s.mu.Lock()
			s.kept = append(s.kept, strings.Split(strings.TrimSuffix(string(body), "\n"), "\n")...)
			s.mu.Unlock()
		}
		w.WriteHeader(code)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *sink) got() (bodies, kept []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bodies), slices.Clone(s.kept)
}

func (b *bed) untilKept(s *sink, want string) {
	b.Helper()
	b.until(func() string {
		_, kept := s.got()
		return cmp.Diff(strings.Split(strings.TrimSuffix(want, "\n"), "\n"), kept)
	})
}

func TestIngestCodes(t *testing.T) {
	b := newBed(t, relay.Config{})
	b.Set(nil, []nodecore.Flavor{flavor("d1", "12"), flavor("d2", "12")})
	unsynced := newBed(t, relay.Config{})
	stopped := newBed(t, relay.Config{}).start()
	stopped.Set(nil, []nodecore.Flavor{flavor("d1", "12")})
	stopped.stop()
	<-stopped.stopped
	with := func(old, new string) string { return strings.Replace(line("d1", 1), old, new, 1) }
	other := func(name string) string {
		return b.ingest + "/v1/samples/fluidos/" + name + "/hts221?c=" + sensor.Capability(key, keyOf("d1"))
	}
	for _, tc := range []struct {
		name, url, body string
		code            int
		refused         string
	}{
		{"a sample", b.urlOf("d1"), line("d1", 1), 204, ""},
		{"several, with line ends of all kinds", b.urlOf("d1"), line("d1", 2) + "\r\n\n" + line("d1", 3) + "\n", 204, ""},
		{"before the first sync", unsynced.urlOf("d1"), line("d1", 1), 503, ""},
		{"after the end", stopped.urlOf("d1"), line("d1", 1), 503, ""},
		{"unknown sensor", b.urlOf("d3"), line("d3", 1), 404, "unknown"},
		{"no capability", strings.Split(b.urlOf("d1"), "?")[0], line("d1", 1), 404, "capability"},
		{"wrong capability", b.urlOf("d1") + "0", line("d1", 1), 404, "capability"},
		{"capability of another sensor", other("d2"), line("d2", 1), 404, "capability"},
		{"admin token as capability", strings.Split(b.urlOf("d1"), "?")[0] + "?c=" + sensor.AdminToken(key), line("d1", 1), 404, "capability"},
		{"body of another sensor", b.urlOf("d1"), line("d2", 1), 400, "malformed"},
		{"one line of another sensor", b.urlOf("d1"), lines("d1", 1, 3) + line("d2", 1), 400, "malformed"},
		{"uid of another", b.urlOf("d1"), with("uid-d1", "uid-d2"), 400, "malformed"},
		{"device of another", b.urlOf("d1"), with("device=d1", "device=d2"), 400, "malformed"},
		{"part of another", b.urlOf("d1"), with("part=hts221", "part=lps22hh"), 400, "malformed"},
		{"no uid", b.urlOf("d1"), with(",uid=uid-d1", ""), 400, "malformed"},
		{"uid twice", b.urlOf("d1"), with("uid=uid-d1", "uid=uid-d2,uid=uid-d1"), 400, "malformed"},
		{"no timestamp", b.urlOf("d1"), with(" 1700000000000000001", ""), 400, "malformed"},
		{"timestamp too large", b.urlOf("d1"), with(" 1700000000000000001", " 17000000000000000010"), 400, "malformed"},
		{"no fields", b.urlOf("d1"), "environmental,device=d1,part=hts221,uid=uid-d1 1700000000000000001", 400, "malformed"},
		{"a field that is no value", b.urlOf("d1"), with("47.1", "4x7"), 400, "malformed"},
		{"not line protocol", b.urlOf("d1"), `{"humidity": 47}`, 400, "malformed"},
		{"a comment", b.urlOf("d1"), "# nothing", 400, "malformed"},
		{"text over two lines", b.urlOf("d1"), with("humidity_percent=47.1", "note=\"a\nb\""), 400, "malformed"},
		{"nothing", b.urlOf("d1"), "", 400, "malformed"},
		{"1 MiB", b.urlOf("d1"), line("d1", 1) + strings.Repeat("\n", 1<<20-len(line("d1", 1))), 204, ""},
		{"more than 1 MiB", b.urlOf("d1"), line("d1", 1) + strings.Repeat("\n", 1<<20-len(line("d1", 1))+1), 413, "too-large"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before, _ := b.poll("")
			code := b.post(tc.url, tc.body)
			if code != tc.code {
				t.Errorf("answered %d, want %d", code, tc.code)
			}
			after, _ := b.poll("")
			want := maps.Clone(before.Refused)
			if tc.refused != "" {
				if want == nil {
					want = map[string]int64{}
				}
				want[tc.refused]++
			}
			if d := cmp.Diff(want, after.Refused, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("refused: %s", d)
			}
		})
	}
	resp, err := http.Get(b.urlOf("d1"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET answered %d, want 405", resp.StatusCode)
	}

	// Arrivals are told although nobody selects.
	a, _ := b.poll("")
	want := []accounts.Sensor{{Namespace: "fluidos", Device: "d1", Part: "hts221", Arrivals: 3, Samples: 4}}
	if d := cmp.Diff(want, a.Sensors, cmpopts.IgnoreFields(accounts.Sensor{}, "LastArrival")); d != "" {
		t.Error(d)
	}
	for _, r := range []*bed{unsynced, stopped} {
		if a, _ := r.poll(""); a.Synced || a.Refused["not-synced"] != 1 {
			t.Errorf("synced %v, refused %v", a.Synced, a.Refused)
		}
	}
}

func TestFanOut(t *testing.T) {
	typed := func(req *http.Request, _ string) int {
		if req.Method != http.MethodPost || req.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
			return http.StatusTeapot
		}
		return http.StatusNoContent
	}
	one, two, three := newSink(t, typed), newSink(t, typed), newSink(t, typed)
	b := newBed(t, relay.Config{}).start()
	p, q := path("p", one.URL, two.URL), path("q", three.URL)
	q.Spec.Sensors = []sensors.Requirement{{Field: "latency", Lt: new("16ms")}}
	away := flavor("d2", "16")
	away.Spec.Availability = false
	bad := path("bad", three.URL)
	bad.Spec.Sensors = []sensors.Requirement{{Field: "latency", Lt: new("16")}}
	gone := path("gone", three.URL)
	gone.DeletionTimestamp = &metav1.Time{}
	b.Set([]sensors.DataPath{p, q, bad, gone}, []nodecore.Flavor{flavor("d1", "12"), away})

	b.send("d1", lines("d1", 1, 50))
	b.untilKept(one, lines("d1", 1, 50))
	b.send("d2", lines("d2", 1, 50)) // is not available, but its data comes
	both := lines("d1", 1, 50) + lines("d2", 1, 50)
	b.untilKept(one, both)
	b.untilKept(two, both)
	b.untilKept(three, lines("d1", 1, 50))

	var a accounts.Accounts
	b.until(func() string {
		a, _ = b.poll("")
		return cmp.Diff(int64(100), a.DataPaths[1].Endpoints[0].Delivered)
	})
	want := []accounts.DataPath{
		{Namespace: "consumer-1", Name: "bad", UID: "bad", Generation: 1, Endpoints: []accounts.Endpoint{{Name: "a", URL: three.URL}}},
		{Namespace: "consumer-1", Name: "p", UID: "p", Generation: 1, Matched: 2, Endpoints: []accounts.Endpoint{
			{Name: "a", URL: one.URL, Accepted: 100, Delivered: 100}, {Name: "b", URL: two.URL, Accepted: 100, Delivered: 100},
		}},
		{Namespace: "consumer-1", Name: "q", UID: "q", Generation: 1, Matched: 1, Endpoints: []accounts.Endpoint{
			{Name: "a", URL: three.URL, Accepted: 50, Delivered: 50},
		}},
	}
	if d := cmp.Diff(want, a.DataPaths, ignoreTimes); d != "" {
		t.Error(d)
	}

	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(b)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			got[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	wantMetrics := map[string]float64{
		"testbed_relay_accepted_samples_total": 250, "testbed_relay_delivered_samples_total": 250, "testbed_relay_queued_samples": 0,
		"testbed_relay_arrived_requests_total": 2, "testbed_relay_arrived_samples_total": 100,
	}
	if d := cmp.Diff(wantMetrics, got); d != "" {
		t.Error(d)
	}
}

// Selection follows Flavors and DataPaths, and is whatever function is given.
func TestSelection(t *testing.T) {
	b := newBed(t, relay.Config{})
	p := path("p", "http://127.0.0.1:9")
	p.Spec.Sensors = []sensors.Requirement{{Field: "latency", Lt: new("16ms")}}
	matched := func(want int) {
		t.Helper()
		if a, _ := b.poll(""); a.DataPaths[0].Matched != want || a.DataPaths[0].Generation != p.Generation {
			t.Errorf("generation %d, %d sensors, want %d", a.DataPaths[0].Generation, a.DataPaths[0].Matched, want)
		}
	}
	b.Set([]sensors.DataPath{p}, []nodecore.Flavor{flavor("d1", "12"), flavor("d2", "16")})
	matched(1)
	b.Set([]sensors.DataPath{p}, []nodecore.Flavor{flavor("d1", "17"), flavor("d2", "16")})
	matched(0)
	p.Generation, p.Spec.Sensors[0].Lt = 2, new("20ms")
	b.Set([]sensors.DataPath{p}, []nodecore.Flavor{flavor("d1", "17"), flavor("d2", "16")})
	matched(2)
	other := flavor("d1", "40") // an older Flavor of the same sensor, of another name
	other.Name, other.Spec.Availability = "0", false
	k8s := flavor("d3", "1")
	k8s.Spec.FlavorType.TypeIdentifier = "K8Slice"
	broken := flavor("d4", "1")
	broken.Spec.FlavorType.TypeData.Raw = []byte(`[]`)
	b.Set([]sensors.DataPath{p}, []nodecore.Flavor{other, flavor("d1", "17"), k8s, broken})
	matched(1)

	b = newBed(t, relay.Config{Select: func([]sensors.Requirement, sensor.Offer) (sensor.Verdict, error) {
		return sensor.Verdict{Selected: true}, nil
	}})
	b.Set([]sensors.DataPath{p}, []nodecore.Flavor{flavor("d1", "99"), flavor("d2", "99")})
	matched(2)
}

// A full queue drops the oldest; an endpoint that does not answer delays no other.
func TestOverflowAndIsolation(t *testing.T) {
	release := make(chan struct{})
	entered := make(chan struct{}, 100)
	stuck := newSink(t, func(req *http.Request, _ string) int {
		entered <- struct{}{}
		select {
		case <-release:
		case <-req.Context().Done():
		}
		return http.StatusNoContent
	})
	quick := newSink(t, nil)
	b := newBed(t, relay.Config{Queue: 4}).start()
	b.Set([]sensors.DataPath{path("p", stuck.URL, quick.URL)}, []nodecore.Flavor{flavor("d1", "12")})
	b.send("d1", line("d1", 1))
	<-entered
	for n := 2; n <= 11; n++ {
		b.send("d1", line("d1", n))
		b.untilKept(quick, lines("d1", 1, n))
	}
	want := accounts.Endpoint{Name: "a", URL: stuck.URL, Accepted: 11, Queued: 5, Dropped: map[string]int64{"overflow": 6}}
	if d := cmp.Diff(want, b.endpoint(0, 0)); d != "" {
		t.Error(d)
	}
	close(release)
	b.untilKept(stuck, line("d1", 1)+"\n"+lines("d1", 8, 11))
	bodies, _ := stuck.got()
	if want := []string{line("d1", 1) + "\n", lines("d1", 8, 11)}; !slices.Equal(bodies, want) {
		t.Errorf("what waited was not gathered: %q", bodies)
	}
}

// A batch is bounded by lines and by bytes.
func TestBatches(t *testing.T) {
	s := newSink(t, nil)
	b := newBed(t, relay.Config{})
	b.Set([]sensors.DataPath{path("p", s.URL)}, []nodecore.Flavor{flavor("d1", "12")})
	b.send("d1", lines("d1", 1, 1200))
	big := strings.Replace(line("d1", 1201), "humidity", "note=\""+strings.Repeat("x", 300<<10)+"\",humidity", 1)
	b.send("d1", big+"\n"+line("d1", 1202))
	b.start()
	b.untilKept(s, lines("d1", 1, 1200)+big+"\n"+line("d1", 1202))
	bodies, _ := s.got()
	var sizes []int
	for _, body := range bodies {
		sizes = append(sizes, strings.Count(body, "\n"))
	}
	if d := cmp.Diff([]int{500, 500, 200, 1, 1}, sizes); d != "" {
		t.Error(d)
	}
}

// One line that the endpoint refuses costs one line.
func TestBisect(t *testing.T) {
	for _, code := range []int{400, 413, 415, 422} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			s := newSink(t, func(_ *http.Request, body string) int {
				if strings.Contains(body, "seq=3i") || strings.Contains(body, "seq=70i") {
					return code
				}
				return http.StatusNoContent
			})
			b := newBed(t, relay.Config{})
			b.Set([]sensors.DataPath{path("p", s.URL)}, []nodecore.Flavor{flavor("d1", "12")})
			b.send("d1", lines("d1", 1, 100))
			b.start()
			b.untilKept(s, lines("d1", 1, 2)+lines("d1", 4, 69)+lines("d1", 71, 100))
			b.until(func() string {
				return cmp.Diff(accounts.Endpoint{
					Name: "a", URL: s.URL, Accepted: 100, Delivered: 98, Dropped: map[string]int64{"refused": 2}, Reason: accounts.ReasonRefusesSamples,
					LastError: fmt.Sprintf("answered %d %s; refused samples are dropped", code, http.StatusText(code)),
				}, b.endpoint(0, 0), ignoreTimes)
			})
			if bodies, _ := s.got(); len(bodies) > 40 {
				t.Errorf("%d requests for two bad lines of 100", len(bodies))
			}
		})
	}
}

// A retry is the same bytes, whatever has come meanwhile, and the order is kept.
func TestRetry(t *testing.T) {
	var mu sync.Mutex
	codes := []int{500, 429, 404, 302}
	more := make(chan struct{}, len(codes))
	s := newSink(t, func(*http.Request, string) int {
		mu.Lock()
		defer mu.Unlock()
		if len(codes) == 0 {
			return http.StatusOK
		}
		code := codes[0]
		codes = codes[1:]
		more <- struct{}{}
		return code
	})
	b := newBed(t, relay.Config{}).start()
	b.Set([]sensors.DataPath{path("p", s.URL)}, []nodecore.Flavor{flavor("d1", "12")})
	b.send("d1", lines("d1", 1, 3))
	<-more
	b.send("d1", lines("d1", 4, 6))
	b.untilKept(s, lines("d1", 1, 6))
	bodies, _ := s.got()
	want := append(slices.Repeat([]string{lines("d1", 1, 3)}, 5), lines("d1", 4, 6))
	if d := cmp.Diff(want, bodies); d != "" {
		t.Error(d)
	}
	b.until(func() string {
		return cmp.Diff(accounts.Endpoint{Name: "a", URL: s.URL, Accepted: 6, Delivered: 6}, b.endpoint(0, 0), ignoreTimes)
	})
}

// What waits for an endpoint goes to its new URL, on the same account.
func TestURLChange(t *testing.T) {
	s := newSink(t, nil)
	b := newBed(t, relay.Config{}).start()
	p := path("p", closedPort(t))
	flavors := []nodecore.Flavor{flavor("d1", "12")}
	b.Set([]sensors.DataPath{p}, flavors)
	b.send("d1", lines("d1", 1, 3))
	b.until(func() string {
		if e := b.endpoint(0, 0); e.LastError == "" {
			return "no error yet"
		}
		return ""
	})
	b.send("d1", lines("d1", 4, 5))
	p = path("p", s.URL)
	p.Generation = 2
	b.Set([]sensors.DataPath{p}, flavors)
	b.untilKept(s, lines("d1", 1, 5))
	b.until(func() string {
		return cmp.Diff(accounts.Endpoint{Name: "a", URL: s.URL, Accepted: 5, Delivered: 5}, b.endpoint(0, 0), ignoreTimes)
	})
}

// An endpoint that is removed drops what waits, and continues its account when
// it comes back; a DataPath that is made again begins a new one.
func TestRemove(t *testing.T) {
	s := newSink(t, nil)
	b := newBed(t, relay.Config{})
	flavors := []nodecore.Flavor{flavor("d1", "12")}
	p := path("p", s.URL, s.URL)
	b.Set([]sensors.DataPath{p}, flavors)
	b.send("d1", lines("d1", 1, 3))
	only := path("p", s.URL)
	only.Generation = 2
	b.Set([]sensors.DataPath{only}, flavors)
	b.send("d1", line("d1", 4))
	p.Generation = 3
	b.Set([]sensors.DataPath{p}, flavors)
	b.send("d1", line("d1", 5))
	if d := cmp.Diff(accounts.Endpoint{Name: "a", URL: s.URL, Accepted: 5, Queued: 5}, b.endpoint(0, 0)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(accounts.Endpoint{Name: "b", URL: s.URL, Accepted: 4, Queued: 1, Dropped: map[string]int64{"removed": 3}}, b.endpoint(0, 1)); d != "" {
		t.Error(d)
	}
	p.UID = "another"
	b.Set([]sensors.DataPath{p}, flavors)
	if d := cmp.Diff(accounts.Endpoint{Name: "a", URL: s.URL}, b.endpoint(0, 0)); d != "" {
		t.Error(d)
	}
	b.Set(nil, flavors)
	b.send("d1", line("d1", 6))
	if a, _ := b.poll(""); len(a.DataPaths) != 0 {
		t.Errorf("DataPaths %+v, want none", a.DataPaths)
	}
	b.start()
	b.stop()
	<-b.stopped
	if bodies, _ := s.got(); len(bodies) != 0 {
		t.Errorf("delivered after the end: %q", bodies)
	}
}

func TestShutdown(t *testing.T) {
	t.Run("queues empty themselves", func(t *testing.T) {
		s := newSink(t, nil)
		b := newBed(t, relay.Config{})
		b.Set([]sensors.DataPath{path("p", s.URL)}, []nodecore.Flavor{flavor("d1", "12")})
		b.send("d1", lines("d1", 1, 1000))
		b.start().stop()
		<-b.stopped
		if _, kept := s.got(); len(kept) != 1000 {
			t.Errorf("%d samples delivered, want 1000", len(kept))
		}
	})
	t.Run("for two seconds at most", func(t *testing.T) {
		s := newSink(t, func(req *http.Request, _ string) int { <-req.Context().Done(); return 500 })
		b := newBed(t, relay.Config{})
		b.Set([]sensors.DataPath{path("p", s.URL)}, []nodecore.Flavor{flavor("d1", "12")})
		b.send("d1", line("d1", 1))
		began := time.Now()
		b.start().stop()
		<-b.stopped
		if took := time.Since(began); took < 1900*time.Millisecond {
			t.Errorf("gave up after %s", took)
		}
		if e := b.endpoint(0, 0); e.Queued != 1 {
			t.Errorf("%+v, want one sample queued", e)
		}
	})
}

func TestAdmin(t *testing.T) {
	b := newBed(t, relay.Config{}).start()
	for _, tc := range []struct {
		token, query string
		want         int
	}{
		{"", "", 401}, {"Bearer x", "", 401}, {"Bearer " + sensor.Capability(key, keyOf("d1")), "", 401},
		{"Bearer " + sensor.AdminToken([]byte("other")), "", 401}, {"Basic " + sensor.AdminToken(key), "", 401},
		{"Bearer " + sensor.AdminToken(key), "", 200}, {"Bearer " + sensor.AdminToken(key), "?after=x&wait=1s", 200},
		{"Bearer " + sensor.AdminToken(key), "?after=x", 400}, {"Bearer " + sensor.AdminToken(key), "?after=x&wait=1h", 400},
		{"Bearer " + sensor.AdminToken(key), "?after=x&wait=-1s", 400},
	} {
		req, err := http.NewRequest(http.MethodGet, b.admin+"/v1/accounts"+tc.query, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", tc.token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tc.want {
			t.Errorf("%s %s: %d, want %d", tc.token, tc.query, resp.StatusCode, tc.want)
		}
	}

	a, revision := b.poll("")
	if a.Synced || a.Instance == "" {
		t.Errorf("accounts before the first sync: %+v", a)
	}
	// next waits for a change that do makes, and says whether the answer is one.
	next := func(what string, do func()) accounts.Accounts {
		t.Helper()
		type answer struct {
			a        accounts.Accounts
			revision string
		}
		got := make(chan answer)
		go func() {
			a, r := b.poll("?after=" + revision + "&wait=20s")
			got <- answer{a, r}
		}()
		do()
		n := <-got
		if n.revision == revision {
			t.Errorf("%s: the revision did not change", what)
		}
		revision = n.revision
		return n.a
	}
	flavors := []nodecore.Flavor{flavor("d1", "12")}
	if a := next("sync", func() { b.Set(nil, flavors) }); !a.Synced {
		t.Error("not synced")
	}
	if a := next("arrival", func() { b.send("d1", line("d1", 1)) }); a.Sensors[0].Arrivals != 1 {
		t.Errorf("%+v", a.Sensors)
	}
	if a := next("second arrival", func() { b.send("d1", line("d1", 2)) }); a.Sensors[0].Arrivals != 2 {
		t.Errorf("%+v", a.Sensors)
	}
	p := path("p", "http://127.0.0.1:9")
	if a := next("DataPath", func() { b.Set([]sensors.DataPath{p}, flavors) }); len(a.DataPaths) != 1 || a.DataPaths[0].Matched != 1 {
		t.Errorf("%+v", a.DataPaths)
	}
	p.Generation = 2
	if a := next("generation", func() { b.Set([]sensors.DataPath{p}, flavors) }); a.DataPaths[0].Generation != 2 {
		t.Errorf("%+v", a.DataPaths)
	}
	b.Set([]sensors.DataPath{p}, flavors)
	if _, r := b.poll("?after=" + revision + "&wait=1ms"); r != revision {
		t.Error("the revision changed for nothing")
	}
	next("end", func() { b.stop() })
}

func FuzzIngest(f *testing.F) {
	for _, s := range []string{
		line("d1", 1), lines("d1", 1, 3), line("d2", 1), line("d1", 1) + "\r\n" + line("d1", 2), "", "\n\n", "#x\n" + line("d1", 1),
		`environmental,device=d1,part=hts221,uid=uid-d1 note="a\"b\\" 1`, "environmental,device=d1,part=hts221,uid=uid-d1 note=\"a\n" + line("d1", 1) + "\" 1",
		`m,device=d\1,part=hts221,uid=uid-d1 f=1 1`, `m,device=d1,part=hts221,uid=uid\=d1 f=1 1`, "m,device=d1,part=hts221,uid=uid-d1 f=1 -1", "m,device=d1,part=hts221,uid=uid-d1 f=1u,g=t 1",
		"m,device=d1,part=hts221,uid=uid-d1 f=1 1\x00", "\xff\xfe", "m,device=d1,part=hts221,uid=uid-d1,é=ü f=\"é\" 1",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var got []byte
		delivered := make(chan struct{})
		r := relay.New(relay.Config{Key: key})
		sink := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
			got, _ = io.ReadAll(req.Body)
			close(delivered)
		}))
		defer sink.Close()
		r.Set([]sensors.DataPath{path("p", sink.URL)}, []nodecore.Flavor{flavor("d1", "12")})
		w := httptest.NewRecorder()
		url := "/v1/samples/" + keyOf("d1").String() + "?c=" + sensor.Capability(key, keyOf("d1"))
		r.Ingest().ServeHTTP(w, httptest.NewRequest(http.MethodPost, url, bytes.NewReader(body)))
		switch w.Code {
		case http.StatusBadRequest:
			return
		case http.StatusNoContent:
		default:
			t.Fatalf("answered %d", w.Code)
		}
		if bytes.Count(body, []byte("\n")) >= 400 {
			return // perhaps more than one batch
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = r.Run(ctx) }()
		<-delivered
		cancel()
		<-done
		// What is delivered is line protocol of this sensor, each sample dated.
		d := lineprotocol.NewDecoderWithBytes(got)
		n := 0
		for ; d.Next(); n++ {
			tags := map[string]string{}
			for {
				k, v, err := d.NextTag()
				if err != nil {
					t.Fatalf("%q: %v", got, err)
				}
				if k == nil {
					break
				}
				tags[string(k)] = string(v)
			}
			if tags["uid"] != "uid-d1" || tags["device"] != "d1" || tags["part"] != "hts221" {
				t.Fatalf("%q: sample of another sensor: %v", got, tags)
			}
			if stamp, err := d.TimeBytes(); err != nil || len(stamp) == 0 {
				t.Fatalf("%q: timestamp %q: %v", got, stamp, err)
			}
		}
		if want := bytes.Count(got, []byte("\n")); n != want || n == 0 {
			t.Fatalf("%q: %d samples in %d lines", got, n, want)
		}
	})
}
