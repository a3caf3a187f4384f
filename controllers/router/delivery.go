package router

import (
	"fmt"
	"slices"
	"strings"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fluidos-edge/testbed/controllers/api/accounts"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
)

// endpointReasons are the reasons that a relay may give; any other becomes
// reasonEndpointFailing.
var endpointReasons = []string{
	accounts.ReasonInvalidURL, accounts.ReasonHostNotFound, accounts.ReasonConnectionRefused, accounts.ReasonUnreachable, accounts.ReasonTLS,
	accounts.ReasonNoAnswer, accounts.ReasonRedirects, accounts.ReasonAnswersError, accounts.ReasonRefusesSamples,
}

// health is what a relay last reported of an endpoint: that it took its last
// batch, or why not.
type health struct {
	failingSince time.Time // zero if it took its last batch
	reason, text string
}

func (h health) fails() bool { return !h.failingSince.IsZero() }

// healthKey is an endpoint of one DataPath, as one relay sees it.
type healthKey struct{ relay, endpoint string }

// endpointHealth is what is known of a DataPath's endpoints, for one generation.
//
// What a relay reported of an endpoint last stays valid while the relay reports
// nothing: while it has no samples for the endpoint, does not answer, or has
// restarted and not posted yet. A new generation begins with nothing known, so
// that its delivery must be earned.
//
// A new router learns it from the relays. What they do not report because they
// restarted too, it takes from the status: the endpoints of a DataPath that was
// Delivering are presumed to take samples until a relay reports otherwise, and a
// condition that was not True stays as it is until the first report.
type endpointHealth struct {
	reported map[healthKey]health
	// presumed is true if the status said Delivering of this generation when this
	// planner first saw it.
	presumed bool
}

func newEndpointHealth(dp *sensors.DataPath) endpointHealth {
	c := conditionOf(dp.Status, sensors.ConditionDelivering, dp.Generation)
	return endpointHealth{reported: map[healthKey]health{}, presumed: c != nil && c.Status == metav1.ConditionTrue}
}

// conditionOf a generation, or nil.
func conditionOf(st sensors.DataPathStatus, name string, generation int64) *metav1.Condition {
	c := apimeta.FindStatusCondition(st.Conditions, name)
	if c == nil || c.ObservedGeneration != generation {
		return nil
	}
	return c
}

// observe records what the relays report of the endpoints of this generation.
func (eh endpointHealth) observe(relays []replica, dp *sensors.DataPath) {
	for _, r := range relays {
		if r.accounts == nil {
			continue
		}
		for _, d := range r.accounts.DataPaths {
			if d.UID != string(dp.UID) || d.Generation != dp.Generation {
				continue
			}
			for _, e := range d.Endpoints {
				key := healthKey{r.url, e.Name}
				switch {
				case !slices.Contains(dp.Spec.Endpoints, sensors.Endpoint{Name: e.Name, URL: e.URL}):
				case !e.FailingSince.IsZero():
					h := health{failingSince: e.FailingSince, reason: e.Reason, text: shorten(e.LastError, maxError)}
					if !slices.Contains(endpointReasons, h.reason) {
						h.reason = reasonEndpointFailing
					}
					eh.reported[key] = h
				case !e.LastDelivery.IsZero():
					eh.reported[key] = health{}
				}
			}
		}
	}
}

// combined is the health of an endpoint over all relays: it fails if it does for
// one of them, since the earliest time. It is not known if none has posted to it.
func (eh endpointHealth) combined(relays []replica, endpoint string) (worst health, known bool) {
	known = eh.presumed
	for _, r := range relays {
		h, ok := eh.reported[healthKey{r.url, endpoint}]
		known = known || ok
		if h.fails() && (!worst.fails() || h.failingSince.Before(worst.failingSince)) {
			worst = h
		}
	}
	return worst, known
}

// empty is true if nothing is known of any endpoint.
func (eh endpointHealth) empty() bool { return len(eh.reported) == 0 && !eh.presumed }

// delivering judges the condition Delivering. before is the one that this
// generation has already, or nil.
func (eh endpointHealth) delivering(relays []replica, dp *sensors.DataPath, before *metav1.Condition) metav1.Condition {
	if before != nil && eh.empty() {
		return *before
	}
	var failing, awaited []string
	reason := reasonNothingDelivered
	for _, e := range dp.Spec.Endpoints {
		switch h, known := eh.combined(relays, e.Name); {
		case !known:
			awaited = append(awaited, e.Name)
		case h.fails():
			if len(failing) == 0 {
				reason = h.reason
			}
			failing = append(failing, fmt.Sprintf("%s (%s, since %s)", e.Name, h.text, h.failingSince.UTC().Format(time.RFC3339)))
		}
	}
	all, missing := len(dp.Spec.Endpoints), len(failing)+len(awaited)
	c := metav1.Condition{Type: sensors.ConditionDelivering, Status: metav1.ConditionFalse, Reason: reason}
	switch {
	case missing == 0:
		c.Status, c.Reason = metav1.ConditionTrue, reasonDelivered
		c.Message = fmt.Sprintf("%d endpoints took their last batch", all)
	case len(failing) == 0:
		c.Message = fmt.Sprintf("%d of %d endpoints have taken no samples yet: %s", missing, all, list(awaited, missing))
	default:
		for _, name := range awaited {
			failing = append(failing, name+" (nothing taken yet)")
		}
		c.Message = fmt.Sprintf("%d of %d endpoints do not take samples: %s", missing, all, list(failing, missing))
	}
	return c
}

// list names the first few of a number of things, and counts the rest.
func list(names []string, of int) string {
	names = slices.Clip(names[:min(len(names), maxListed)])
	if more := of - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, ", ")
}
