package relay

import (
	"cmp"
	"crypto/hmac"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fluidos-edge/testbed/controllers/api/accounts"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

// HeaderRevision of an answer of GET /v1/accounts is what `after` takes.
const HeaderRevision = "X-Revision"

// maxWait is the longest that a request for accounts may ask to wait.
const maxWait = 30 * time.Second

// Admin serves GET /v1/accounts to whoever has the admin token (401 else).
//
// With `?after=REVISION&wait=2s` it answers when the revision is another one
// or the time is over. The revision, an opaque text, changes when the relay
// syncs, when it takes up a DataPath, a generation or another set of sensors,
// when it begins to stop, when samples arrive and when an endpoint begins or
// ceases to take samples, for the last two at most every 100 ms. An account
// may say that an endpoint is failing, or no longer is, before the revision
// changes: the passing of time alone decides some of it.
func (r *Relay) Admin() http.Handler {
	mux := http.NewServeMux()
	token := []byte("Bearer " + sensor.AdminToken(r.cfg.Key))
	mux.HandleFunc("GET /v1/accounts", func(w http.ResponseWriter, req *http.Request) {
		if !hmac.Equal([]byte(req.Header.Get("Authorization")), token) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "the admin token is required", http.StatusUnauthorized)
			return
		}
		if after := req.URL.Query().Get("after"); after != "" {
			wait, err := time.ParseDuration(req.URL.Query().Get("wait"))
			if err != nil || wait < 0 || wait > maxWait {
				http.Error(w, fmt.Sprintf("wait: a duration from 0s to %s is required with after", maxWait), http.StatusBadRequest)
				return
			}
			r.await(req, after, wait)
		}
		a, revision := r.accounts()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set(HeaderRevision, revision)
		_ = json.NewEncoder(w).Encode(a) // the client has gone
	})
	return mux
}

// await returns when the revision is not after, or wait is over.
func (r *Relay) await(req *http.Request, after string, wait time.Duration) {
	r.mu.Lock()
	now, changed := r.revisionText(), r.changed
	r.mu.Unlock()
	if now != after {
		return
	}
	timer := r.cfg.Clock.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C():
	case <-req.Context().Done():
	}
}

func (r *Relay) revisionText() string { return fmt.Sprintf("%s.%d", r.instance, r.revision) }

func (r *Relay) accounts() (accounts.Accounts, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := accounts.Accounts{
		Instance: r.instance, Synced: r.synced && !r.stopping,
		Sensors: []accounts.Sensor{}, DataPaths: []accounts.DataPath{}, Refused: maps.Clone(r.refused),
	}
	for _, c := range r.counts {
		a.Sensors = append(a.Sensors, *c)
	}
	slices.SortFunc(a.Sensors, func(x, y accounts.Sensor) int {
		return cmp.Or(strings.Compare(x.Namespace, y.Namespace), strings.Compare(x.Device, y.Device), strings.Compare(x.Part, y.Part))
	})
	for _, p := range r.paths {
		d := p.DataPath
		d.Endpoints = []accounts.Endpoint{}
		for _, name := range p.order {
			d.Endpoints = append(d.Endpoints, p.endpoints[name].account())
		}
		a.DataPaths = append(a.DataPaths, d)
	}
	slices.SortFunc(a.DataPaths, func(x, y accounts.DataPath) int {
		return cmp.Or(strings.Compare(x.Namespace, y.Namespace), strings.Compare(x.Name, y.Name), strings.Compare(x.UID, y.UID))
	})
	return a, r.revisionText()
}

// Describe implements prometheus.Collector.
func (r *Relay) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descAccepted, descDelivered, descQueued, descDropped, descRefused, descArrivals, descSamples} {
		out <- d
	}
}

// Collect implements prometheus.Collector: the accounts as metrics.
func (r *Relay) Collect(out chan<- prometheus.Metric) {
	a, _ := r.accounts()
	send := func(d *prometheus.Desc, t prometheus.ValueType, v int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, t, float64(v), labels...)
	}
	for _, p := range a.DataPaths {
		for _, e := range p.Endpoints {
			send(descAccepted, prometheus.CounterValue, e.Accepted, p.Namespace, p.Name, p.UID, e.Name)
			send(descDelivered, prometheus.CounterValue, e.Delivered, p.Namespace, p.Name, p.UID, e.Name)
			send(descQueued, prometheus.GaugeValue, e.Queued, p.Namespace, p.Name, p.UID, e.Name)
			for reason, n := range e.Dropped {
				send(descDropped, prometheus.CounterValue, n, p.Namespace, p.Name, p.UID, e.Name, reason)
			}
		}
	}
	for reason, n := range a.Refused {
		send(descRefused, prometheus.CounterValue, n, reason)
	}
	var arrivals, samples int64
	for _, s := range a.Sensors {
		arrivals, samples = arrivals+s.Arrivals, samples+s.Samples
	}
	send(descArrivals, prometheus.CounterValue, arrivals)
	send(descSamples, prometheus.CounterValue, samples)
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("testbed_relay_"+name, help, labels, nil)
}

var (
	descAccepted  = desc("accepted_samples_total", "Samples put on an endpoint's queue.", "namespace", "datapath", "uid", "endpoint")
	descDelivered = desc("delivered_samples_total", "Samples that an endpoint answered with 2xx.", "namespace", "datapath", "uid", "endpoint")
	descQueued    = desc("queued_samples", "Samples that wait for an endpoint.", "namespace", "datapath", "uid", "endpoint")
	descDropped   = desc("dropped_samples_total", "Samples dropped, by reason.", "namespace", "datapath", "uid", "endpoint", "reason")
	descRefused   = desc("refused_requests_total", "Requests that were not accepted, by reason.", "reason")
	descArrivals  = desc("arrived_requests_total", "Requests that were accepted.")
	descSamples   = desc("arrived_samples_total", "Samples in accepted requests.")
)
