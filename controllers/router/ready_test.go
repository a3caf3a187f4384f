package router_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fluidos-edge/testbed/controllers/api/accounts"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/relay"
	"github.com/fluidos-edge/testbed/controllers/router"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

// soon is within what time `kubectl wait` must see an endpoint that begins or
// ceases to take samples.
const soon = 15 * time.Second

// TestReady is the router with a real relay: a person who waits for Ready with
// kubectl waits for data.
func TestReady(t *testing.T) {
	p := newCluster(t, "../../charts/crds")
	ingest, admin := freeAddress(t), freeAddress(t)
	p.start("relay", func(ctx context.Context, log *slog.Logger) error {
		return relay.Run(ctx, log, func(error) {}, &relay.Options{
			Kubeconfig: filepath.Join(p.dir, "kubeconfig"), Namespace: "fluidos", Ingest: ingest, Admin: admin,
			CapabilityKey: filepath.Join(p.dir, "key"), Queue: 4096, Metrics: prometheus.NewRegistry(),
		})
	})
	p.route("http://"+ingest, "http://"+admin)
	p.node("edge-1", true)
	p.create(router.FlavorOf(1, "hts221", "edge-1", "12"))
	p.start("board", func(ctx context.Context, _ *slog.Logger) error { return samples(ctx, ingest) })

	answer := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "c4n4ry", code) }
	}
	hang := func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }
	good := newSink(t, nil)
	good.set(true)
	rows := []*row{
		{name: "refused", reason: accounts.ReasonConnectionRefused, text: "connection refused", endpoint: newPort(t)},
		{name: "hanging", reason: accounts.ReasonNoAnswer, text: "no answer within 5s", endpoint: newSink(t, hang)},
		{name: "error", reason: accounts.ReasonAnswersError, text: "answered 500 Internal Server Error", endpoint: newSink(t, answer(500))},
		{name: "refuses-samples", reason: accounts.ReasonRefusesSamples, text: "answered 400 Bad Request; refused samples are dropped", endpoint: newSink(t, answer(400))},
		{name: "unresolvable", reason: accounts.ReasonHostNotFound, endpoint: &moving{p: p, good: good.url(), bad: "http://no-such-host.invalid"}},
	}
	for _, r := range rows {
		r.path = router.PathOf("consumer-1", r.name, "", "main", "other")
		r.path.Spec.Endpoints[0].URL, r.path.Spec.Endpoints[1].URL = r.endpoint.url()+"/write?token=s3cret", good.url()
		p.create(r.path)
		if m, ok := r.endpoint.(*moving); ok {
			m.path = r.path
		}
	}
	for i, phase := range []string{"at first", "again"} {
		t.Run("not Ready while an endpoint takes no samples, "+phase, func(t *testing.T) {
			p, began := p.with(t), time.Now()
			for _, r := range rows {
				p.untilFails(r)
				t.Logf("%s is not Ready after %s", r.name, time.Since(began).Round(100*time.Millisecond))
			}
			if took := time.Since(began); took > soon {
				t.Errorf("all are not Ready only after %s", took)
			}
		})
		t.Run("Ready when it takes them, "+phase, func(t *testing.T) {
			p, began := p.with(t), time.Now()
			for _, r := range rows {
				r.endpoint.set(true)
			}
			cmd := exec.CommandContext(p.ctx, filepath.Join(os.Getenv("TESTBED_ASSETS"), "kubectl"), "--kubeconfig", filepath.Join(p.dir, "kubeconfig"),
				"wait", "--for=condition=Ready", "--namespace=consumer-1", "datapath", "--all", "--timeout="+soon.String())
			out, err := cmd.CombinedOutput()
			if took := time.Since(began); err != nil || took > soon {
				var last sensors.DataPathList
				_ = p.client.List(p.ctx, &last)
				t.Errorf("kubectl wait took %s: %v: %s; last seen: %+v", took, err, out, last.Items)
			}
			t.Logf("all are Ready after %s", time.Since(began).Round(100*time.Millisecond))
			for _, r := range rows {
				r.endpoint.set(i > 0)
			}
		})
	}
}

// row is a DataPath with an endpoint "main", which fails in its own way, and an
// endpoint "other", which takes everything.
type row struct {
	name, reason, text string
	endpoint           endpoint
	path               *sensors.DataPath
}

// untilFails waits until Ready and Delivering are False for the row's reason, and
// looks at what else the status says then.
func (p *provider) untilFails(r *row) {
	p.Helper()
	last := p.untilReady(r.path, r.reason)
	for _, c := range last.Status.Conditions {
		switch c.Type {
		case sensors.ConditionReady, sensors.ConditionDelivering:
			begins := "1 of 2 endpoints do not take samples: main (" + r.text
			if c.Status != metav1.ConditionFalse || c.Reason != r.reason || !strings.HasPrefix(c.Message, begins) || !strings.Contains(c.Message, ", since 20") {
				p.Errorf("%s: condition %+v, want a message that begins %q", r.name, c, begins)
			}
		default:
			if c.Status != metav1.ConditionTrue {
				p.Errorf("%s: condition %+v, want True", r.name, c)
			}
		}
	}
	main, other := last.Status.Endpoints[0], last.Status.Endpoints[1]
	if main.FailingSince == nil || !strings.HasPrefix(main.LastError, r.text) || other.FailingSince != nil || other.LastError != "" {
		p.Errorf("%s: endpoints %+v", r.name, last.Status.Endpoints)
	}
	if all := fmt.Sprintf("%+v", last.Status); strings.Contains(all, "c4n4ry") || strings.Contains(all, "s3cret") {
		p.Errorf("%s: the status tells too much: %s", r.name, all)
	}
}

// samples of a board at 2 Hz, as the edge runtime posts them.
func samples(ctx context.Context, ingest string) error {
	key := sensor.Key{Namespace: "fluidos", Device: "d-1", Part: "hts221"}
	uid := sensor.UID(fmt.Sprintf("%024x", 1), fmt.Sprintf("%012X", 1), "hts221")
	url := "http://" + ingest + "/v1/samples/" + key.String() + "?c=" + sensor.Capability([]byte(capabilityKey), key)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		line := fmt.Sprintf("environmental,device=d-1,node=edge-1,part=hts221,uid=%s humidity_percent=47.1,epoch=1i,seq=%di %d", uid, n, time.Now().UnixNano())
		resp, err := http.Post(url, "", strings.NewReader(line))
		if err != nil {
			continue // the relay is not there yet, or not any more
		}
		resp.Body.Close()
	}
}

// endpoint is one that takes samples, or does not.
type endpoint interface {
	url() string
	set(takes bool)
}

// sink answers 204 while it takes samples, and is else bad.
type sink struct {
	server *httptest.Server
	mu     sync.Mutex
	takes  bool
}

func newSink(t *testing.T, bad http.HandlerFunc) *sink {
	s := &sink{}
	s.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		s.mu.Lock()
		takes := s.takes
		s.mu.Unlock()
		if takes {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		bad(w, req)
	}))
	t.Cleanup(func() {
		s.server.CloseClientConnections() // which bad may hold
		s.server.Close()
	})
	return s
}

func (s *sink) url() string { return s.server.URL }

func (s *sink) set(takes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takes = takes
}

// port takes samples while something listens.
type port struct {
	t       *testing.T
	address string
	server  *http.Server
}

func newPort(t *testing.T) endpoint {
	p := &port{t: t, address: freeAddress(t)}
	t.Cleanup(func() { p.set(false) })
	return p
}

func (p *port) url() string { return "http://" + p.address }

func (p *port) set(takes bool) {
	if p.server != nil {
		p.server.Close()
		p.server = nil
	}
	if !takes {
		return
	}
	l, err := net.Listen("tcp", p.address)
	if err != nil {
		p.t.Fatal(err)
	}
	p.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })}
	go func(s *http.Server) { _ = s.Serve(l) }(p.server)
}

// moving is at a host that nobody knows, or at one that takes samples: somebody
// corrects the DataPath's URL, and does so again.
type moving struct {
	p         *provider
	path      *sensors.DataPath
	good, bad string
}

func (m *moving) url() string { return m.bad }

func (m *moving) set(takes bool) {
	m.p.Helper()
	url := m.bad
	if takes {
		url = m.good
	}
	patch := fmt.Sprintf(`[{"op": "replace", "path": "/spec/endpoints/0/url", "value": %q}]`, url+"/write?token=s3cret")
	if err := m.p.client.Patch(m.p.ctx, m.path, client.RawPatch(types.JSONPatchType, []byte(patch))); err != nil {
		m.p.Fatal(err)
	}
}

// freeAddress is below the range of outgoing connections, of which one could take
// it before it is listened on.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 1000 {
		address := fmt.Sprint("127.0.0.1:", 31000+rand.IntN(1000))
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no free port from 31000 to 31999")
	return ""
}
