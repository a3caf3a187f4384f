package router

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

// Reasons of the conditions. Delivering has those of accounts, too; Ready has
// reasonServed, or the reason of the first condition that is not True.
const (
	reasonMatched   = "SensorsMatched"
	reasonNoSensors = "NoSensors"
	reasonInvalid   = "InvalidSelection"

	reasonSourced          = "SensorsArrive"
	reasonRelayUnreachable = "RelayUnreachable"
	reasonRelayNotSynced   = "RelayNotSynced"
	reasonRelayBehind      = "RelayBehind"
	reasonConflict         = "RuleConflict"
	reasonNoSource         = "NoSource"
	reasonNodeNotReady     = "NodeNotReady"
	reasonUnavailable      = "SensorUnavailable" // because of its board
	reasonNotArrived       = "SensorsNotArrived"
	reasonSilent           = "SensorsSilent"

	reasonDelivered        = "SamplesDelivered"
	reasonNothingDelivered = "NothingDelivered"
	reasonEndpointFailing  = "EndpointFailing" // for a reason that this router does not know

	reasonServed = "Served"
)

const (
	maxNames  = 20 // sensors named in a status
	maxMisses = 5
	maxListed = 5 // sensors or endpoints named in a message

	maxMessage = 2000 // characters of a condition's message, of which the API takes 32768
	maxError   = 200  // ... of an endpoint's error
)

// pathMemory is what is known of one DataPath, of its generation, and what was
// last written to it.
type pathMemory struct {
	generation int64
	verdicts   map[string]sensor.Verdict // by offer.id
	health     endpointHealth
	totalsAt   time.Time
	written    *sensors.DataPathStatus // not yet in the cache, whose version is still from
	from       string
	heard      bool // a relay has told of its endpoints
}

// selection of one DataPath.
type selection struct {
	path    *sensors.DataPath
	err     error // a requirement that can never be judged
	matched []sensor.Key
	misses  []sensors.Miss
	offered int
}

// selectAll judges every sensor on offer for every DataPath.
func (p *planner) selectAll(paths []sensors.DataPath, offers map[sensor.Key]offer) []selection {
	keys := slices.SortedFunc(maps.Keys(offers), compareKeys)
	known := map[types.UID]*pathMemory{}
	var out []selection
	for i := range paths {
		dp := &paths[i]
		if dp.DeletionTimestamp != nil {
			continue
		}
		m := p.paths[dp.UID]
		if m == nil {
			m = &pathMemory{generation: dp.Generation, health: newEndpointHealth(dp)}
		}
		if m.generation != dp.Generation {
			m.generation, m.verdicts, m.health = dp.Generation, nil, newEndpointHealth(dp)
		}
		known[dp.UID] = m
		cached := m.verdicts
		m.verdicts = make(map[string]sensor.Verdict, len(offers))
		s := selection{path: dp, offered: len(offers)}
		// An error depends on the requirements alone, so that any offer shows it.
		if _, s.err = p.choose(dp.Spec.Sensors, sensor.Offer{}); s.err != nil {
			out = append(out, s)
			continue
		}
		type near struct {
			sensors.Miss
			sensor.Verdict
		}
		var misses []near
		for _, k := range keys {
			o := offers[k]
			v, ok := cached[o.id]
			if !ok {
				if v, s.err = p.choose(dp.Spec.Sensors, o.Offer); s.err != nil {
					break
				}
			}
			m.verdicts[o.id] = v
			if v.Selected {
				s.matched = append(s.matched, k)
			} else {
				misses = append(misses, near{sensors.Miss{Sensor: name(k), Reason: v.Reason}, v})
			}
		}
		if s.err != nil {
			s.matched = nil
			out = append(out, s)
			continue
		}
		slices.SortStableFunc(misses, func(a, b near) int {
			return cmp.Or(cmp.Compare(b.Met, a.Met), cmp.Compare(a.Distance, b.Distance), cmp.Compare(a.Sensor, b.Sensor))
		})
		for _, miss := range misses[:min(len(misses), maxMisses)] {
			s.misses = append(s.misses, miss.Miss)
		}
		out = append(out, s)
	}
	p.paths = known
	return out
}

// planStatuses writes each status that changed: conditions at once, totals
// alone at most every totalsEvery.
func (p *planner) planStatuses(w world, selections []selection, waits map[sensor.Key]wait, a *actions) {
	asked := true
	for _, r := range w.relays {
		asked = asked && r.asked()
	}
	unready := false
	for _, s := range selections {
		m := p.paths[s.path.UID]
		base := s.path.Status
		if m.written != nil && m.from == s.path.ResourceVersion {
			base = *m.written
		}
		next := *base.DeepCopy()
		m.health.observe(w.relays, s.path)
		ready := p.judge(w, s, m, waits, &next)
		p.total(w, s, m, base, &next)
		unready = unready || ready != reasonServed && ready != reasonNoSensors && ready != reasonInvalid
		if !asked && ready == reasonRelayUnreachable {
			continue // nothing is known yet: leave what a router before this one wrote
		}
		news := !equality.Semantic.DeepEqual(base.Conditions, next.Conditions) || base.Matched != next.Matched ||
			!slices.Equal(base.Sensors, next.Sensors) || !slices.Equal(base.Misses, next.Misses)
		counts := !equality.Semantic.DeepEqual(base.Endpoints, next.Endpoints) || base.Total != next.Total
		due := totalsEvery - w.now.Sub(m.totalsAt)
		switch {
		case news || counts && due <= 0:
			a.statuses = append(a.statuses, statusWrite{*s.path, next})
		case counts:
			a.in(due)
		}
		if news {
			p.active = w.now
		}
	}
	if len(a.createRules)+len(a.deleteRules)+len(a.createEndpoints) > 0 {
		p.active = w.now
	}
	// What arrived through a Rule that has just gone must be known before its
	// successor is made.
	left := p.pauseLeft(w.now)
	if unready {
		left = max(left, longPollAfterChange-w.now.Sub(p.active))
	}
	if a.urgent = left > 0 || len(a.deleteRules) > 0; left > 0 {
		a.in(left)
	}
}

// wrote tells the planner that a status reached the API server.
func (p *planner) wrote(s statusWrite, now time.Time) {
	if m := p.paths[s.path.UID]; m != nil {
		m.written, m.from, m.totalsAt = &s.status, s.path.ResourceVersion, now
	}
}

// judge fills in everything but totals and returns the reason of Ready.
func (p *planner) judge(w world, s selection, m *pathMemory, waits map[sensor.Key]wait, st *sensors.DataPathStatus) string {
	st.Matched, st.Sensors, st.Misses = len(s.matched), nil, s.misses
	for _, k := range s.matched[:min(len(s.matched), maxNames)] {
		st.Sensors = append(st.Sensors, name(k))
	}
	delivering := m.health.delivering(w.relays, s.path, conditionOf(*st, sensors.ConditionDelivering, s.path.Generation))
	conditions := []metav1.Condition{matched(s), sourced(w, s, waits), delivering}
	ready := metav1.Condition{Type: sensors.ConditionReady, Status: metav1.ConditionTrue, Reason: reasonServed,
		Message: fmt.Sprintf("%d sensors arrive, %d endpoints are served", len(s.matched), len(s.path.Spec.Endpoints))}
	if i := slices.IndexFunc(conditions, func(c metav1.Condition) bool { return c.Status != metav1.ConditionTrue }); i >= 0 {
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, conditions[i].Reason, conditions[i].Message
	}
	for _, c := range append(conditions, ready) {
		c.ObservedGeneration, c.LastTransitionTime = s.path.Generation, metav1.NewTime(w.now)
		c.Message = shorten(c.Message, maxMessage)
		apimeta.SetStatusCondition(&st.Conditions, c)
	}
	return ready.Reason
}

// matched judges the condition Matched.
func matched(s selection) metav1.Condition {
	c := metav1.Condition{Type: sensors.ConditionMatched, Status: metav1.ConditionFalse}
	switch {
	case s.err != nil:
		c.Reason, c.Message = reasonInvalid, s.err.Error()
	case len(s.matched) == 0:
		c.Reason, c.Message = reasonNoSensors, fmt.Sprintf("none of the %d sensors on offer meets every requirement", s.offered)
		if s.offered == 0 {
			c.Message = "no sensor is on offer"
		}
		if len(s.misses) > 0 {
			c.Message += fmt.Sprintf("; nearest: %s: %s", s.misses[0].Sensor, s.misses[0].Reason)
		}
	default:
		c.Status, c.Reason = metav1.ConditionTrue, reasonMatched
		c.Message = fmt.Sprintf("%d of %d sensors on offer", len(s.matched), s.offered)
	}
	return c
}

// sourced judges the condition Sourced.
func sourced(w world, s selection, waits map[sensor.Key]wait) metav1.Condition {
	c := metav1.Condition{Type: sensors.ConditionSourced, Status: metav1.ConditionFalse}
	if len(s.matched) == 0 {
		c.Reason, c.Message = matched(s).Reason, "no sensor is selected"
		return c
	}
	if c.Reason, c.Message = missing(w, s, waits); c.Reason == "" {
		c.Status, c.Reason = metav1.ConditionTrue, reasonSourced
		c.Message = fmt.Sprintf("%d sensors arrive", len(s.matched))
	}
	return c
}

// missing says what Sourced waits for, as reason and message; "" for nothing.
func missing(w world, s selection, waits map[sensor.Key]wait) (reason, message string) {
	for _, r := range w.relays {
		switch {
		case r.err != nil:
			return reasonRelayUnreachable, fmt.Sprintf("relay %s: %v", r.url, r.err)
		case r.accounts == nil:
			return reasonRelayUnreachable, fmt.Sprintf("relay %s has not answered yet", r.url)
		case !r.accounts.Synced:
			return reasonRelayNotSynced, fmt.Sprintf("relay %s has not seen all DataPaths and Flavors yet", r.url)
		}
	}
	if reason, message = missingSensors(s.matched, waits); reason != "" {
		return reason, message
	}
	for _, r := range w.relays {
		behind := fmt.Sprintf("relay %s does not serve generation %d yet", r.url, s.path.Generation)
		for _, d := range r.accounts.DataPaths {
			if d.UID != string(s.path.UID) || d.Generation != s.path.Generation {
				continue
			}
			if behind = ""; d.Matched != len(s.matched) {
				behind = fmt.Sprintf("relay %s selects %d sensors, the router %d", r.url, d.Matched, len(s.matched))
			}
		}
		if behind != "" {
			return reasonRelayBehind, behind
		}
	}
	return "", ""
}

// missingSensors names those that do not arrive. The reason that needs a person
// most comes first.
func missingSensors(matched []sensor.Key, waits map[sensor.Key]wait) (reason, message string) {
	severity := []string{reasonConflict, reasonNoSource, reasonNodeNotReady, reasonUnavailable, reasonNotArrived, reasonSilent}
	rank := func(k sensor.Key) int { return slices.Index(severity, waits[k].reason) }
	var late []sensor.Key
	for _, k := range matched {
		if _, ok := waits[k]; ok {
			late = append(late, k)
		}
	}
	if len(late) == 0 {
		return "", ""
	}
	slices.SortStableFunc(late, func(a, b sensor.Key) int { return cmp.Compare(rank(a), rank(b)) })
	reason = waits[late[0]].reason
	verb, after := "have not arrived yet", ""
	switch reason {
	case reasonUnavailable: // samples may come all the same
		verb = "are not available"
		if n := slices.IndexFunc(late, func(k sensor.Key) bool { return waits[k].reason != reason }); n > 0 {
			late, after = late[:n], fmt.Sprintf("; %d more do not arrive", len(late)-n)
		}
	case reasonSilent:
		verb = "no longer arrive"
	}
	var names []string
	for _, k := range late[:min(len(late), maxListed)] {
		text := name(k)
		if why := waits[k].why; why != "" {
			text += " (" + why + ")"
		}
		names = append(names, text)
	}
	return reason, fmt.Sprintf("%d of %d sensors %s: %s%s", len(late), len(matched), verb, list(names, len(late)), after)
}

// total adds up the accounts of all relays, of each its present instance: a
// relay that restarted counts from 0 again. Of a relay that does not answer, the
// last answer counts; before the first, what the status already says.
func (p *planner) total(w world, s selection, m *pathMemory, base sensors.DataPathStatus, st *sensors.DataPathStatus) {
	before := map[string]sensors.EndpointStatus{}
	for _, e := range base.Endpoints {
		before[e.Name] = e
	}
	// As with the condition Delivering, what an earlier router wrote stays while
	// nothing is known.
	keepHealth := m.health.empty() && conditionOf(base, sensors.ConditionDelivering, s.path.Generation) != nil
	sums := map[string]*sensors.EndpointStatus{}
	for _, r := range w.relays {
		if r.accounts == nil {
			continue
		}
		for _, d := range r.accounts.DataPaths {
			if d.UID != string(s.path.UID) {
				continue
			}
			m.heard = true
			for _, e := range d.Endpoints {
				sum := sums[e.Name]
				if sum == nil {
					sum = &sensors.EndpointStatus{Name: e.Name}
					sums[e.Name] = sum
				}
				sum.Accepted += e.Accepted
				sum.Delivered += e.Delivered
				sum.Queued += e.Queued
				for why, n := range e.Dropped {
					if n == 0 {
						continue
					}
					if sum.Dropped == nil {
						sum.Dropped = map[string]int64{}
					}
					sum.Dropped[why] += n
				}
				sum.LastError = cmp.Or(sum.LastError, shorten(e.LastError, maxError))
			}
		}
	}
	st.Endpoints, st.Total = nil, sensors.Total{Endpoints: len(s.path.Spec.Endpoints)}
	for _, spec := range s.path.Spec.Endpoints {
		e := sensors.EndpointStatus{Name: spec.Name}
		if sum := sums[spec.Name]; sum != nil {
			e = *sum
		} else if old, ok := before[spec.Name]; ok && !m.heard {
			e = old
		}
		e.FailingSince = nil
		if h, _ := m.health.combined(w.relays, spec.Name); h.fails() {
			since := metav1.NewTime(h.failingSince).Rfc3339Copy()
			e.FailingSince, e.LastError = &since, h.text
		} else if keepHealth {
			old := before[spec.Name]
			e.FailingSince, e.LastError = old.FailingSince, cmp.Or(e.LastError, old.LastError)
		}
		st.Endpoints = append(st.Endpoints, e)
		st.Total.Delivered += e.Delivered
		for _, n := range e.Dropped {
			st.Total.Dropped += n
		}
	}
}

// name of a sensor in a status.
func name(k sensor.Key) string { return k.Device + "/" + k.Part }

// shorten a text to a number of bytes that people read and the API takes.
func shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
