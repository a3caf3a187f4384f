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

// Reasons of the conditions.
const (
	reasonMatched   = "SensorsMatched"
	reasonNoSensors = "NoSensors"
	reasonInvalid   = "InvalidSelection"

	reasonServed           = "Served"
	reasonRelayUnreachable = "RelayUnreachable"
	reasonRelayNotSynced   = "RelayNotSynced"
	reasonRelayBehind      = "RelayBehind"
	reasonConflict         = "RuleConflict"
	reasonNoSource         = "NoSource"
	reasonNodeNotReady     = "NodeNotReady"
	reasonUnavailable      = "SensorUnavailable" // because of its board
	reasonNotArrived       = "SensorsNotArrived"
	reasonSilent           = "SensorsSilent"
)

const (
	maxNames  = 20 // sensors named in a status
	maxMisses = 5
	maxListed = 5 // sensors named in a message
)

// pathMemory is what one DataPath selects, and what was last written to it.
type pathMemory struct {
	generation int64
	verdicts   map[string]sensor.Verdict // by offer.id
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
			m = &pathMemory{}
		}
		known[dp.UID] = m
		cached := m.verdicts
		if m.generation != dp.Generation {
			cached = nil
		}
		m.generation, m.verdicts = dp.Generation, make(map[string]sensor.Verdict, len(offers))
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
		ready := p.judge(w, s, waits, &next)
		p.total(w, s, m, &next)
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
		left = max(left, eager-w.now.Sub(p.active))
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
func (p *planner) judge(w world, s selection, waits map[sensor.Key]wait, st *sensors.DataPathStatus) string {
	st.Matched, st.Sensors, st.Misses = len(s.matched), nil, s.misses
	for _, k := range s.matched[:min(len(s.matched), maxNames)] {
		st.Sensors = append(st.Sensors, name(k))
	}
	matched := metav1.Condition{Type: sensors.ConditionMatched, Status: metav1.ConditionFalse}
	ready := metav1.Condition{Type: sensors.ConditionReady, Status: metav1.ConditionFalse}
	switch {
	case s.err != nil:
		matched.Reason, matched.Message = reasonInvalid, s.err.Error()
		ready.Reason, ready.Message = reasonInvalid, s.err.Error()
	case len(s.matched) == 0:
		text := fmt.Sprintf("none of the %d sensors on offer meets every requirement", s.offered)
		if s.offered == 0 {
			text = "no sensor is on offer"
		}
		if len(s.misses) > 0 {
			text += fmt.Sprintf("; nearest: %s: %s", s.misses[0].Sensor, s.misses[0].Reason)
		}
		matched.Reason, matched.Message = reasonNoSensors, text
		ready.Reason, ready.Message = reasonNoSensors, text
	default:
		matched.Status, matched.Reason = metav1.ConditionTrue, reasonMatched
		matched.Message = fmt.Sprintf("%d of %d sensors on offer", len(s.matched), s.offered)
		if ready.Reason, ready.Message = missing(w, s, waits); ready.Reason == "" {
			ready.Status, ready.Reason = metav1.ConditionTrue, reasonServed
			ready.Message = fmt.Sprintf("%d sensors arrive, %d endpoints are served", len(s.matched), len(s.path.Spec.Endpoints))
		}
	}
	for _, c := range []metav1.Condition{matched, ready} {
		c.ObservedGeneration, c.LastTransitionTime = s.path.Generation, metav1.NewTime(w.now)
		c.Message = shorten(c.Message)
		apimeta.SetStatusCondition(&st.Conditions, c)
	}
	return ready.Reason
}

// missing says what Ready waits for, as reason and message; "" for nothing.
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
	if more := len(late) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return reason, fmt.Sprintf("%d of %d sensors %s: %s%s", len(late), len(matched), verb, strings.Join(names, ", "), after)
}

// total adds up the accounts of all relays, of each its present instance: a
// relay that restarted counts from 0 again. Of a relay that does not answer, the
// last answer counts; before the first, what the status already says.
func (p *planner) total(w world, s selection, m *pathMemory, st *sensors.DataPathStatus) {
	before := map[string]sensors.EndpointStatus{}
	for _, e := range st.Endpoints {
		before[e.Name] = e
	}
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
				sum.LastError = cmp.Or(sum.LastError, e.LastError)
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
		st.Endpoints = append(st.Endpoints, e)
		st.Total.Delivered += e.Delivered
		for _, n := range e.Dropped {
			st.Total.Dropped += n
		}
	}
}

// name of a sensor in a status.
func name(k sensor.Key) string { return k.Device + "/" + k.Part }

// shorten a message to what people read and the API takes.
func shorten(s string) string {
	const most = 2000
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
