package hollowedge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	rulesv1 "github.com/fluidos-edge/testbed/controllers/api/rules/v1"
	"github.com/fluidos-edge/testbed/simulators/hollowedge/internal/informer"
)

// Event is something that happened to a Rule or a RuleEndpoint and that the
// router has not handled yet.
type Event struct {
	// What is "add Rule", "delete Rule", "add RuleEndpoint" or "delete RuleEndpoint".
	What string
	// Key is "<namespace>/<name>".
	Key string
	// Handle does it. Of a Rule whose endpoints are missing it takes up to 50 s.
	// It does nothing once the Runtime has stopped.
	Handle func()
}

// retries are the waits after each attempt to add a Rule.
var retries = [...]time.Duration{5 * time.Second, 10 * time.Second, 15 * time.Second, 20 * time.Second}

// router is CloudCore's router. Its maps are never changed together: what
// events do to each other in between is part of its behaviour.
type router struct {
	r   *Runtime
	log *slog.Logger

	mu        sync.Mutex
	endpoints map[string]*rulesv1.RuleEndpoint // by namespace/name
	rules     map[string]*rulesv1.Rule         // by namespace/name
	listeners map[string]target                // by listenerKey
}

// target is a Rule's rest target.
type target struct {
	rule string // namespace/name, to log
	url  string // with a capability; never logged
}

func newRouter(r *Runtime, log *slog.Logger) *router {
	return &router{
		r: r, log: log,
		endpoints: map[string]*rulesv1.RuleEndpoint{},
		rules:     map[string]*rulesv1.Rule{},
		listeners: map[string]target{},
	}
}

// run follows RuleEndpoints and Rules in g and returns when those that exist
// have been taken in.
func (ro *router) run(ctx context.Context, g *errgroup.Group, ready func(error)) error {
	endpoints := ro.handlers("RuleEndpoint", func(ctx context.Context, o client.Object) {
		ep := o.(*rulesv1.RuleEndpoint)
		ro.locked(func() { ro.endpoints[key(ep)] = ep })
		ro.log.Info("rule endpoint added", "endpoint", key(ep))
	}, func(_ context.Context, o client.Object) {
		ro.locked(func() { delete(ro.endpoints, key(o)) })
		ro.log.Info("rule endpoint deleted", "endpoint", key(o))
	})
	rules := ro.handlers("Rule", func(ctx context.Context, o client.Object) {
		ro.addRule(ctx, o.(*rulesv1.Rule))
	}, func(_ context.Context, o client.Object) {
		ro.deleteRule(o)
	})
	ready(errors.New("reading RuleEndpoints"))
	if err := informer.Follow(ctx, g, ro.r.client, ro.log, &rulesv1.RuleEndpoint{}, &rulesv1.RuleEndpointList{}, endpoints); err != nil {
		return err
	}
	ready(errors.New("reading Rules"))
	return informer.Follow(ctx, g, ro.r.client, ro.log, &rulesv1.Rule{}, &rulesv1.RuleList{}, rules)
}

// handlers turn what an informer says into Events. Updates are ignored.
func (ro *router) handlers(kind string, add, del func(context.Context, client.Object)) cache.ResourceEventHandler {
	event := func(what string, o any, f func(context.Context, client.Object)) {
		if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = gone.Obj
		}
		obj, ok := o.(client.Object)
		if !ok {
			return
		}
		ro.r.order(Event{What: what + " " + kind, Key: key(obj), Handle: func() {
			if ctx, ok := ro.r.tasks.begin(); ok {
				defer ro.r.tasks.done()
				f(ctx, obj)
			}
		}})
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { event("add", o, add) },
		DeleteFunc: func(o any) { event("delete", o, del) },
	}
}

func key(o client.Object) string { return o.GetNamespace() + "/" + o.GetName() }

func (ro *router) locked(f func()) {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	f()
}

// addRule tries until the Rule's endpoints are there, or gives up with a log
// line. It does not ask whether the Rule still exists.
func (ro *router) addRule(ctx context.Context, rule *rulesv1.Rule) {
	for i, pause := range retries {
		err := ro.tryAddRule(rule)
		if err == nil {
			ro.log.Info("rule added", "rule", key(rule))
			return
		}
		ro.log.Warn("rule not added", "rule", key(rule), "attempt", i+1, "of", len(retries), "err", err)
		if i == len(retries)-1 {
			ro.log.Error("rule dropped", "rule", key(rule), "err", err)
		}
		if wait(ctx, ro.r, pause) != nil {
			return
		}
	}
}

func (ro *router) tryAddRule(rule *rulesv1.Rule) error {
	src, err := ro.source(rule)
	if err != nil {
		return err
	}
	t, err := ro.target(rule)
	if err != nil {
		return err
	}
	ro.locked(func() { ro.listeners[src.listener()] = t })
	if e, filter := ro.subscription(src); e != nil {
		e.subscribe(filter)
	}
	ro.locked(func() { ro.rules[key(rule)] = rule })
	return nil
}

// deleteRule takes the listener of the Rule's key away, whoever registered it.
func (ro *router) deleteRule(o client.Object) {
	var rule *rulesv1.Rule
	ro.locked(func() { rule = ro.rules[key(o)] })
	if rule == nil {
		ro.log.Warn("rule to delete was never added", "rule", key(o))
		return
	}
	src, err := ro.source(rule)
	if err != nil {
		ro.log.Warn("rule deleted, its listener stays", "rule", key(rule), "err", err)
	} else {
		if e, filter := ro.subscription(src); e != nil {
			e.unsubscribe(filter)
		}
		ro.locked(func() { delete(ro.listeners, src.listener()) })
		ro.log.Info("rule deleted", "rule", key(rule))
	}
	ro.locked(func() { delete(ro.rules, key(rule)) })
}

// source is what a Rule listens to.
type source struct{ node, namespace, topic string }

// listener is the key under which the cloud finds a message's target.
func (s source) listener() string { return path.Join("bus/node", s.node, s.namespace, s.topic) }

// subscription is the node that the router's subscribe goes to and the filter in
// it; no node if it reaches none of ours.
func (ro *router) subscription(s source) (*edge, string) {
	parts := strings.SplitN(path.Join("node", s.node, s.namespace, s.topic), "/", 3)
	if len(parts) < 3 {
		return nil, ""
	}
	return ro.r.edges[parts[1]], parts[2]
}

func (ro *router) source(rule *rulesv1.Rule) (source, error) {
	if err := ro.endpoint(rule, "source", rule.Spec.Source, rulesv1.TypeEventBus); err != nil {
		return source{}, err
	}
	topic, ok := rule.Spec.SourceResource[rulesv1.SourceTopic]
	if !ok {
		return source{}, fmt.Errorf("sourceResource has no %q", rulesv1.SourceTopic)
	}
	node, ok := rule.Spec.SourceResource[rulesv1.SourceNodeName]
	if !ok {
		return source{}, fmt.Errorf("sourceResource has no %q", rulesv1.SourceNodeName)
	}
	return source{node: node, namespace: rule.Namespace, topic: topic}, nil
}

func (ro *router) target(rule *rulesv1.Rule) (target, error) {
	if err := ro.endpoint(rule, "target", rule.Spec.Target, rulesv1.TypeREST); err != nil {
		return target{}, err
	}
	url, ok := rule.Spec.TargetResource[rulesv1.TargetResource]
	if !ok {
		return target{}, fmt.Errorf("targetResource has no %q", rulesv1.TargetResource)
	}
	return target{rule: key(rule), url: url}, nil
}

// endpoint checks that a RuleEndpoint of the Rule is there and of that type.
func (ro *router) endpoint(rule *rulesv1.Rule, role, name, typ string) error {
	var ep *rulesv1.RuleEndpoint
	ro.locked(func() { ep = ro.endpoints[rule.Namespace+"/"+name] })
	switch {
	case ep == nil:
		return fmt.Errorf("%s RuleEndpoint %s/%s does not exist", role, rule.Namespace, name)
	case ep.Spec.RuleEndpointType != typ:
		return fmt.Errorf("%s RuleEndpoint %s/%s has type %q; a hollow edge runtime knows %q as %s only",
			role, rule.Namespace, name, ep.Spec.RuleEndpointType, typ, role)
	}
	return nil
}

// message takes what a node uploaded. Which target it goes to is decided here
// and now; the rest is a goroutine of its own.
func (ro *router) message(e *edge, m message) {
	if taken(m.topic) {
		e.counts.drop(dropTaken)
		return
	}
	var t target
	var ok bool
	ro.locked(func() { t, ok = ro.listeners["bus/node/"+e.node.Name+"/"+m.topic] })
	if !ok {
		e.counts.drop(dropUnrouted)
		return
	}
	if len(m.payload) == 0 {
		e.counts.drop(dropEmpty)
		return
	}
	started := ro.r.tasks.spawn(func(ctx context.Context) {
		if err := post(ctx, t.url, m.payload); err != nil {
			e.counts.drop(dropRefused)
			ro.log.Warn("message lost: its target did not answer", "node", e.node.Name, "rule", t.rule, "err", err)
			return
		}
		e.counts.forwarded.Add(1)
	})
	if !started {
		e.counts.drop(dropStopped)
	}
}

// taken tells whether a topic "<namespace>/volume/..." is for another part of
// KubeEdge.
func taken(topic string) bool {
	_, rest, _ := strings.Cut(topic, "/")
	return strings.HasPrefix(rest, "volume/")
}
