package router

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fluidos-edge/testbed/controllers/api/accounts"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	rules "github.com/fluidos-edge/testbed/controllers/api/rules/v1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

const (
	// Names of the RuleEndpoints of every Rule.
	endpointEventBus = "eventbus-fluidos"
	endpointRelay    = "relay"

	// labelManagedBy with its value marks what the router made.
	labelManagedBy = "app.kubernetes.io/managed-by"
	managedBy      = "router.sensors.fluidos.eu"

	// The node that a Rule was made for, by UID and by the time since which it
	// was Ready, as that node's own clock told it: compared for equality only.
	annotationNodeUID    = "sensors.fluidos.eu/node-uid"
	annotationReadySince = "sensors.fluidos.eu/node-ready-since"
)

const (
	// pause between the end of a Rule (or the beginning of a RuleEndpoint) and a
	// new Rule of the same key: KubeEdge handles such events in any order.
	pause = time.Second
	// window in which the first sample must arrive; never shorter than five
	// sampling periods, doubled after each try that failed.
	window    = 30 * time.Second
	windowMax = 30 * time.Minute
	// unseen is how long a Rule that was created may be missing from the cache.
	unseen = 10 * time.Second
	// totalsEvery is the least time between two writes of totals alone.
	totalsEvery = 10 * time.Second
	// longPollAfterChange is how long after the last change the relays are asked
	// without pause.
	longPollAfterChange = 30 * time.Second
)

// world is all that a plan looks at.
type world struct {
	now       time.Time
	paths     []sensors.DataPath
	flavors   []nodecore.Flavor
	nodes     []corev1.Node
	rules     []rules.Rule // of the namespace, whoever made them
	endpoints []rules.RuleEndpoint
	relays    []replica
}

// replica is what one relay last said about itself.
type replica struct {
	url      string
	accounts *accounts.Accounts // the last that it answered; nil before
	err      error              // why the last request got no answer
}

func (r replica) asked() bool { return r.accounts != nil || r.err != nil }

// actions are done in the order of the fields.
type actions struct {
	createEndpoints []rules.RuleEndpoint
	deleteRules     []deletion
	createRules     []rules.Rule
	deleteEndpoints []rules.RuleEndpoint
	statuses        []statusWrite
	// urgent: ask the relays without pause.
	urgent bool
	// after is when to plan again at the latest; 0 means at the next event.
	after time.Duration
}

func (a *actions) in(d time.Duration) {
	if d = max(d, time.Millisecond); a.after == 0 || d < a.after {
		a.after = d
	}
}

type deletion struct {
	rule rules.Rule
	why  string
	// unconfirmed: the Rule was made and no sample came.
	unconfirmed bool
}

type statusWrite struct {
	path   sensors.DataPath
	status sensors.DataPathStatus
}

// topicKey is what KubeEdge keys its listeners by, in one namespace.
type topicKey struct{ node, topic string }

func keyOf(r rules.Rule) topicKey {
	return topicKey{r.Spec.SourceResource[rules.SourceNodeName], strings.TrimLeft(r.Spec.SourceResource[rules.SourceTopic], "/")}
}

func ours(o metav1.Object) bool { return o.GetLabels()[labelManagedBy] == managedBy }

// planner decides. What it remembers between two plans is never needed to be
// right, only to be quick and to wait: a new planner comes to the same Rules.
type planner struct {
	namespace string // of Rules and RuleEndpoints
	relayURL  string // without a slash at the end
	key       []byte
	choose    sensor.SelectFunc

	offers      map[string]offer // by offer.id
	paths       map[types.UID]*pathMemory
	rules       map[types.UID]*ruleMemory
	gone        map[topicKey]time.Time // when the last Rule of this key was seen to be gone
	failures    map[sensor.Key]int     // Rules in a row that were not confirmed
	started     bool
	endpointsAt time.Time          // since when both RuleEndpoints are there
	dropped     map[types.UID]bool // RuleEndpoints that were deleted and may still be in the cache
	active      time.Time          // of the last change
}

// ruleMemory is one Rule as it was last seen.
type ruleMemory struct {
	rule       rules.Rule
	sensor     sensor.Key
	created    time.Time        // by this planner, not yet seen in the cache; else zero
	arrivals   map[string]int64 // by instance of the relay
	confirmed  bool
	quietSince time.Time // no arrival since, although one could have been seen
	board      presence
	conflict   bool // another Rule had the same key
}

// presence of a board, as the last plan saw it.
type presence int

const (
	present presence = iota
	away             // something speaks against it
	back             // nothing any more, and no sample has come since
)

// offer is a Flavor as selection sees it.
type offer struct {
	sensor.Offer
	id      string // UID and resourceVersion of the Flavor
	flavor  string
	labels  map[string]string
	problem bool
}

func newPlanner(namespace, relayURL string, key []byte, choose sensor.SelectFunc) *planner {
	return &planner{
		namespace: namespace, relayURL: strings.TrimRight(relayURL, "/"), key: key, choose: choose,
		offers:   map[string]offer{},
		paths:    map[types.UID]*pathMemory{},
		rules:    map[types.UID]*ruleMemory{},
		gone:     map[topicKey]time.Time{},
		failures: map[sensor.Key]int{},
		dropped:  map[types.UID]bool{},
	}
}

// plan compares the world with what it should be.
func (p *planner) plan(w world) actions {
	var a actions
	offers := p.readOffers(w.flavors)
	selections := p.selectAll(w.paths, offers)
	wanted := map[sensor.Key]bool{}
	for _, s := range selections {
		for _, k := range s.matched {
			wanted[k] = true
		}
	}
	nodes := map[string]*corev1.Node{}
	for i := range w.nodes {
		nodes[w.nodes[i].Name] = &w.nodes[i]
	}
	there := p.observe(w, nodes)
	for _, m := range there {
		if !m.created.IsZero() {
			a.in(unseen - w.now.Sub(m.created))
		}
	}
	blocked := p.planEndpoints(w, there, len(offers) > 0 || len(selections) > 0, &a)
	waits := p.planRules(w, offers, wanted, nodes, there, blocked, &a)
	p.planStatuses(w, selections, waits, &a)
	p.started = true
	return a
}

// readOffers returns the sensors on offer. Of two Flavors of one sensor the
// available one counts, then the one whose name sorts first; the relay decides
// the same.
func (p *planner) readOffers(flavors []nodecore.Flavor) map[sensor.Key]offer {
	known := make(map[string]offer, len(flavors))
	byKey := make(map[sensor.Key]offer, len(flavors))
	for i := range flavors {
		f := &flavors[i]
		if f.DeletionTimestamp != nil || f.Spec.FlavorType.TypeIdentifier != nodecore.TypeSensor {
			continue
		}
		id := string(f.UID) + "/" + f.ResourceVersion
		o, ok := p.offers[id]
		if !ok {
			read, err := sensor.FromFlavor(f)
			o = offer{Offer: read, id: id, flavor: f.Name, labels: f.Labels, problem: err != nil}
		}
		known[id] = o
		if o.problem {
			continue
		}
		if other, ok := byKey[o.Key]; ok && precedence(other, o) <= 0 {
			continue
		}
		byKey[o.Key] = o
	}
	p.offers = known
	return byKey
}

func precedence(a, b offer) int {
	if a.Available != b.Available {
		if a.Available {
			return -1
		}
		return 1
	}
	return cmp.Compare(a.flavor, b.flavor)
}

// observe brings the memory of Rules up to date and returns every Rule that is
// there: those in the cache, and those created that the cache does not show yet.
func (p *planner) observe(w world, nodes map[string]*corev1.Node) []*ruleMemory {
	listed := map[types.UID]bool{}
	for _, r := range w.rules {
		listed[r.UID] = true
		m := p.rules[r.UID]
		if m == nil {
			m = p.remember(r, w.now)
		}
		m.rule, m.created = r, time.Time{}
	}
	for uid, m := range p.rules {
		if !listed[uid] && w.now.Sub(m.created) >= unseen {
			p.gone[keyOf(m.rule)] = w.now
			delete(p.rules, uid)
		}
	}
	for k, at := range p.gone {
		if w.now.Sub(at) > 10*pause {
			delete(p.gone, k)
		}
	}
	arrivals, healthy := countArrivals(w.relays)
	there := slices.SortedFunc(maps.Values(p.rules), func(a, b *ruleMemory) int {
		return cmp.Or(cmp.Compare(a.rule.Name, b.rule.Name), cmp.Compare(a.rule.UID, b.rule.UID))
	})
	for _, m := range there {
		grown := false
		for instance, count := range arrivals {
			n := count[m.sensor]
			before, known := m.arrivals[instance]
			grown = grown || known && n > before
			m.arrivals[instance] = max(n, before) // answers may overtake one another
		}
		if grown {
			m.confirmed = true
			delete(p.failures, m.sensor)
			if m.board == back {
				m.board = present
			}
		}
		if _, why := readiness(nodes, m.rule.Spec.SourceResource[rules.SourceNodeName]); grown || !healthy || why != "" {
			m.quietSince = w.now
		}
	}
	return there
}

// remember a Rule that is seen for the first time.
func (p *planner) remember(r rules.Rule, now time.Time) *ruleMemory {
	m := &ruleMemory{
		rule: r, quietSince: now, arrivals: map[string]int64{},
		sensor: sensor.Key{Namespace: r.Namespace, Device: r.Labels[nodecore.LabelDevice], Part: r.Labels[nodecore.LabelPart]},
	}
	p.rules[r.UID] = m
	return m
}

// created tells the planner about a Rule that was made just after the relays of this
// world were asked: what arrived before does not confirm it.
func (p *planner) created(r rules.Rule, w world) {
	m := p.remember(r, w.now)
	m.created = w.now
	arrivals, _ := countArrivals(w.relays)
	for instance, count := range arrivals {
		m.arrivals[instance] = count[m.sensor]
	}
}

// countArrivals by instance of those relays that answer; healthy if all do, and
// have synced.
func countArrivals(relays []replica) (_ map[string]map[sensor.Key]int64, healthy bool) {
	out, healthy := map[string]map[sensor.Key]int64{}, true
	for _, r := range relays {
		if r.err != nil || r.accounts == nil {
			healthy = false
			continue
		}
		healthy = healthy && r.accounts.Synced
		count := make(map[sensor.Key]int64, len(r.accounts.Sensors))
		for _, s := range r.accounts.Sensors {
			count[sensor.Key{Namespace: s.Namespace, Device: s.Device, Part: s.Part}] = s.Arrivals
		}
		out[r.accounts.Instance] = count
	}
	return out, healthy
}

// readiness of a node: since when it is Ready, or why it is not.
func readiness(nodes map[string]*corev1.Node, name string) (since, why string) {
	n := nodes[name]
	if n == nil {
		return "", "node " + name + " does not exist"
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.UTC().Format(time.RFC3339), ""
		}
	}
	return "", "node " + name + " is not ready"
}

// planEndpoints keeps both RuleEndpoints while there may be Rules: earlier than
// any Rule, and longer. It returns why no Rule may be created yet.
func (p *planner) planEndpoints(w world, there []*ruleMemory, needed bool, a *actions) string {
	for _, m := range there {
		for _, name := range []string{m.rule.Spec.Source, m.rule.Spec.Target} {
			needed = needed || name == endpointEventBus || name == endpointRelay
		}
	}
	blocked, missing := "", false
	cached := map[types.UID]bool{}
	for _, e := range w.endpoints {
		cached[e.UID] = true
	}
	maps.DeleteFunc(p.dropped, func(uid types.UID, _ bool) bool { return !cached[uid] })
	for _, want := range []struct{ name, kind string }{{endpointEventBus, rules.TypeEventBus}, {endpointRelay, rules.TypeREST}} {
		i := slices.IndexFunc(w.endpoints, func(e rules.RuleEndpoint) bool { return e.Name == want.name && !p.dropped[e.UID] })
		switch {
		case i < 0 && needed:
			missing = true
			a.createEndpoints = append(a.createEndpoints, rules.RuleEndpoint{
				ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: want.name, Labels: map[string]string{labelManagedBy: managedBy}},
				Spec:       rules.RuleEndpointSpec{RuleEndpointType: want.kind},
			})
		case i < 0:
			missing = true
		case w.endpoints[i].DeletionTimestamp != nil:
			missing = true
		case !needed && ours(&w.endpoints[i]):
			if wait := p.pauseLeft(w.now); wait > 0 {
				a.in(wait)
			} else {
				a.deleteEndpoints = append(a.deleteEndpoints, w.endpoints[i])
			}
		case w.endpoints[i].Spec.RuleEndpointType != want.kind:
			blocked = fmt.Sprintf("RuleEndpoint %s is of type %s, not %s", want.name, w.endpoints[i].Spec.RuleEndpointType, want.kind)
		}
	}
	switch {
	case missing:
		p.endpointsAt = time.Time{}
		return "its RuleEndpoints are being made"
	case p.endpointsAt.IsZero() && p.started:
		p.endpointsAt = w.now
	case p.endpointsAt.IsZero(): // there before this planner was
		p.endpointsAt = w.now.Add(-pause)
	}
	if left := pause - w.now.Sub(p.endpointsAt); left > 0 && blocked == "" {
		a.in(left)
		return "its RuleEndpoints are being made"
	}
	return blocked
}

// pauseLeft is how long after the end of the last Rule to wait.
func (p *planner) pauseLeft(now time.Time) time.Duration {
	var left time.Duration
	for _, at := range p.gone {
		left = max(left, pause-now.Sub(at))
	}
	return left
}

// wait is why a selected sensor's data is not known to arrive.
type wait struct {
	reason string // of the condition Sourced
	why    string // "" for a sensor that simply has not arrived
}

// planRules decides on every Rule and says of each wanted sensor what is waited
// for; a sensor without an entry arrives.
func (p *planner) planRules(w world, offers map[sensor.Key]offer, wanted map[sensor.Key]bool, nodes map[string]*corev1.Node,
	there []*ruleMemory, blocked string, a *actions) map[sensor.Key]wait {

	waits := map[sensor.Key]wait{}
	byName := map[string]*ruleMemory{}
	byKey := map[topicKey][]*ruleMemory{}
	for _, m := range there {
		byName[m.rule.Name] = m
		byKey[keyOf(m.rule)] = append(byKey[keyOf(m.rule)], m)
	}
	keep := map[string]bool{}
	taken := map[topicKey]string{} // by a Rule of this plan
	remove := func(m *ruleMemory, why string) {
		if m.rule.DeletionTimestamp == nil {
			a.deleteRules = append(a.deleteRules, deletion{rule: m.rule, why: why})
		}
	}
	// one decides on the Rule of a sensor; no reason to wait means that it arrives.
	one := func(key sensor.Key, o offer) wait {
		if o.Node == "" || o.Topic == "" {
			return wait{reasonNoSource, "its Flavor names no node or no topic"}
		}
		since, notReady := readiness(nodes, o.Node)
		want := p.rule(o, nodes[o.Node], since)
		tk := keyOf(want)
		m := byName[want.Name]
		if m != nil && !ours(&m.rule) {
			return wait{reasonConflict, "Rule " + m.rule.Name + " is not the router's"}
		}
		keep[want.Name] = true
		if m != nil {
			if why := differs(m.rule, want, notReady == ""); why != "" {
				remove(m, why)
				return wait{reasonNotArrived, ""}
			}
			if m.rule.DeletionTimestamp != nil {
				return wait{reasonNotArrived, "its old Rule is being deleted"}
			}
			if other := otherThan(byKey[tk], m); other != nil {
				m.conflict, m.confirmed = true, false
				m.quietSince = w.now
				return wait{reasonConflict, "Rule " + other.rule.Name + " has the same node and topic"}
			}
			if m.conflict {
				// Whichever of the two ended, KubeEdge has no listener left.
				remove(m, "another Rule had its node and topic")
				return wait{reasonNotArrived, ""}
			}
			// The silence of a board that is away says nothing of its Rule.
			switch {
			case o.Unavailable != "":
				m.board, m.quietSince = away, w.now
			case m.board == away:
				m.board, m.quietSince = back, w.now
			}
			quiet, patience := w.now.Sub(m.quietSince), patience(o.Offer, 0)
			switch {
			case notReady != "":
				return wait{reasonNodeNotReady, notReady}
			case m.board == away:
				return wait{reasonUnavailable, o.Unavailable}
			case m.confirmed && quiet >= patience:
				return wait{reasonSilent, "silent for more than " + patience.String()}
			case m.confirmed:
				a.in(patience - quiet)
				if m.board == back {
					return wait{reasonNotArrived, ""}
				}
				return wait{}
			}
			if left := p.patience(o.Offer) - quiet; left > 0 {
				a.in(left)
			} else {
				p.failures[key]++
				a.deleteRules = append(a.deleteRules, deletion{rule: m.rule, why: "no sample arrived", unconfirmed: true})
			}
			return wait{reasonNotArrived, ""}
		}
		switch left := pause - w.now.Sub(p.gone[tk]); {
		case len(byKey[tk]) > 0:
			other := byKey[tk][0]
			if ours(&other.rule) {
				return wait{reasonNotArrived, "Rule " + other.rule.Name + " still has its node and topic"}
			}
			return wait{reasonConflict, "Rule " + other.rule.Name + ", which is not the router's, has its node and topic"}
		case taken[tk] != "":
			return wait{reasonConflict, "Rule " + taken[tk] + " has the same node and topic"}
		case notReady != "":
			return wait{reasonNodeNotReady, notReady}
		case blocked != "":
			return wait{reasonNotArrived, blocked}
		case left > 0:
			a.in(left)
		default:
			taken[tk] = want.Name
			a.createRules = append(a.createRules, want)
		}
		return wait{reasonNotArrived, ""}
	}
	for _, key := range slices.SortedFunc(maps.Keys(wanted), compareKeys) {
		o := offers[key]
		why := one(key, o)
		if why.reason == reasonNotArrived && o.Unavailable != "" {
			why = wait{reasonUnavailable, o.Unavailable}
		}
		if why.reason != "" {
			waits[key] = why
		}
	}
	for _, m := range there {
		if ours(&m.rule) && !keep[m.rule.Name] {
			remove(m, "no DataPath selects its sensor")
		}
	}
	for key := range p.failures {
		if !wanted[key] {
			delete(p.failures, key)
		}
	}
	return waits
}

func otherThan(list []*ruleMemory, m *ruleMemory) *ruleMemory {
	for _, other := range list {
		if other != m {
			return other
		}
	}
	return nil
}

// rule of an offer. Its node may be unknown.
func (p *planner) rule(o offer, node *corev1.Node, since string) rules.Rule {
	labels := map[string]string{labelManagedBy: managedBy}
	for _, name := range []string{nodecore.LabelDevice, nodecore.LabelPart, nodecore.LabelNode} {
		if v, ok := o.labels[name]; ok {
			labels[name] = v
		}
	}
	annotations := map[string]string{}
	if node != nil {
		annotations[annotationNodeUID] = string(node.UID)
		annotations[annotationReadySince] = since
	}
	return rules.Rule{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   p.namespace,
			Name:        sensor.ObjectName(o.Key.Device, o.BoardID, o.UID, o.Key.Part),
			Labels:      labels,
			Annotations: annotations,
		},
		Spec: rules.RuleSpec{
			Source:         endpointEventBus,
			SourceResource: map[string]string{rules.SourceTopic: o.Topic, rules.SourceNodeName: o.Node},
			Target:         endpointRelay,
			TargetResource: map[string]string{rules.TargetResource: fmt.Sprintf("%s/v1/samples/%s?c=%s",
				p.relayURL, o.Key, sensor.Capability(p.key, o.Key))},
		},
	}
}

// differs says why a Rule must be made again. The node counts while it is
// Ready: before, nothing could be made.
func differs(is, want rules.Rule, ready bool) string {
	node := func(r rules.Rule) string { return r.Spec.SourceResource[rules.SourceNodeName] }
	switch {
	case node(is) != node(want):
		return "the sensor's node changed"
	case is.Spec.SourceResource[rules.SourceTopic] != want.Spec.SourceResource[rules.SourceTopic]:
		return "the sensor's topic changed"
	case is.Spec.Source != want.Spec.Source || is.Spec.Target != want.Spec.Target ||
		!maps.Equal(is.Spec.TargetResource, want.Spec.TargetResource) || !maps.Equal(is.Spec.SourceResource, want.Spec.SourceResource):
		return "its target changed"
	case ready && is.Annotations[annotationNodeUID] != want.Annotations[annotationNodeUID]:
		return "its node is a new one"
	case ready && is.Annotations[annotationReadySince] != want.Annotations[annotationReadySince]:
		return "its node came back"
	}
	return ""
}

// patience with a sensor's Rule after the failures so far.
func (p *planner) patience(o sensor.Offer) time.Duration { return patience(o, p.failures[o.Key]) }

func patience(o sensor.Offer, failures int) time.Duration {
	d := max(window, 5*period(o))
	for ; failures > 0 && d < windowMax; failures-- {
		d *= 2
	}
	return min(d, max(windowMax, 5*period(o)))
}

// period between two samples as the sensor declares it; 0 if it does not.
func period(o sensor.Offer) time.Duration {
	text, unit := strings.TrimSpace(o.Characteristics.SamplingRate), strings.TrimSpace(o.Characteristics.Properties.Unit.SamplingRate)
	if n := strings.TrimRight(text, "hHzZ "); unit == "" && n != text {
		text, unit = n, "Hz"
	}
	rate, err := strconv.ParseFloat(text, 64)
	if err != nil || !strings.EqualFold(unit, "Hz") || rate < 1e-4 || rate > 1e6 {
		return 0
	}
	return time.Duration(float64(time.Second) / rate)
}

func compareKeys(a, b sensor.Key) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Device, b.Device), cmp.Compare(a.Part, b.Part))
}
