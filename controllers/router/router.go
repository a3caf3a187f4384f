// Package router turns DataPaths into KubeEdge Rules, and reports.
//
// Invariants:
//   - There is exactly one Rule for each sensor that any DataPath selects, in the
//     namespace of its Flavor, with the relay as its target. KubeEdge lets only
//     one Rule take a topic of a node; the relay does the rest.
//   - Never two Rules of one node and topic. A Rule is never updated: one that
//     must change is deleted, and made again a pause after it was seen to be
//     gone.
//   - A Rule is made only for a node that is Ready, and made again when the node
//     is another one (UID) or came back. Its annotations say which node it was
//     made for, so that a restarted router knows.
//   - Both RuleEndpoints are there before and after every Rule: while a sensor
//     is on offer, or a DataPath or Rule exists.
//   - A Rule is believed when a sample of its sensor arrived at a relay after it
//     was made. If none does although the node is Ready and all relays answer,
//     the Rule is made again, with ever more patience. A restart of a relay does
//     not take the belief away.
//   - Other people's Rules are not touched; where one is in the way, the
//     DataPath's condition names it.
//   - A DataPath is Matched if it selects a sensor; Sourced if every selected
//     sensor arrives and every relay serves this generation with the same number
//     of sensors; Delivering if every endpoint took its last batch, of this
//     generation; and Ready if it is all of them. Ready has the reason and the
//     message of the first that is not True.
//   - Delivering changes only by what a relay says of this generation, never by
//     silence or by a restart of a relay or of the router; see endpointHealth.
//
// Availability of a Flavor does not decide selection: a sensor of a node or of a board
// that is away stays selected and keeps its Rule, and Sourced says what is awaited. Rules
// depend on the node alone: one for a board that is away costs KubeEdge nothing, and is
// there when the board returns. Until then silence is not held against the Rule, and
// after that Sourced waits for a sample.
// Totals are sums over the relays' present instances: they count from 0 again
// for a relay that restarted.
//
// All decisions are in plan, which does no I/O. To try it against an API server:
// TESTBED_ASSETS=<folder with etcd and kube-apiserver> go test ./controllers/router
package router

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	crlog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	rules "github.com/fluidos-edge/testbed/controllers/api/rules/v1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

// +kubebuilder:rbac:groups=rules.kubeedge.io,namespace=fluidos,resources=rules;ruleendpoints,verbs=get;list;watch;create;delete
// +kubebuilder:rbac:groups=nodecore.fluidos.eu,namespace=fluidos,resources=flavors,verbs=get;list;watch
// +kubebuilder:rbac:groups=events.k8s.io,namespace=fluidos,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=sensors.fluidos.eu,resources=datapaths,verbs=get;list;watch
// +kubebuilder:rbac:groups=sensors.fluidos.eu,resources=datapaths/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch

// Options are the router's settings.
type Options struct {
	Kubeconfig    string
	Namespace     string   // of Flavors, Rules and RuleEndpoints
	RelayURL      string   // as edge runtimes reach it, goes into Rules
	RelayAdmin    []string // one for each replica
	CapabilityKey string   // file
	// Select is sensor.Select unless a test says otherwise.
	Select sensor.SelectFunc
	// Clock is the real one unless a test says otherwise.
	Clock clock.WithTicker
}

// AddFlags implements daemon.Options.
func (o *Options) AddFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.Kubeconfig, "kubeconfig", "", "`file` of the provider's API server; empty: that of the Pod")
	fs.StringVar(&o.Namespace, "namespace", "fluidos", "`namespace` of Flavors, Rules and RuleEndpoints")
	fs.StringVar(&o.RelayURL, "relay-url", "", "`URL` of the relay as edge runtimes reach it, http://HOST:PORT")
	fs.Func("relay-admin", "`URL` of a relay's accounts; repeat it for each replica", func(s string) error {
		o.RelayAdmin = append(o.RelayAdmin, s)
		return checkURL(s)
	})
	fs.StringVar(&o.CapabilityKey, "capability-key", "", "`file` with the key of capabilities, the relay's too; space around it is ignored")
}

func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil {
		return err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return fmt.Errorf("%q is not http://HOST:PORT", u.Redacted())
	}
	return nil
}

// Run routes until ctx ends. It is ready while every relay answers.
func Run(ctx context.Context, log *slog.Logger, ready func(error), opts *Options) error {
	ready(errors.New("waiting for DataPaths, Flavors, Rules and Nodes"))
	r, err := newReconciler(log, ready, opts)
	if err != nil {
		return err
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", opts.Kubeconfig)
	if err != nil {
		return fmt.Errorf("--kubeconfig: %w", err)
	}
	cfg.UserAgent = "router"
	cfg.QPS, cfg.Burst = 200, 400 // a Rule for each of many sensors at once
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), sensors.AddToScheme(scheme), nodecore.AddToScheme(scheme), rules.AddToScheme(scheme)); err != nil {
		return err
	}
	logger := logr.FromSlogHandler(log.Handler())
	crlog.SetLogger(logger) // else it complains, once and at length
	skip, here := true, cache.ByObject{Namespaces: map[string]cache.Config{opts.Namespace: {}}}
	mgr, err := manager.New(cfg, manager.Options{
		Scheme: scheme,
		Logger: logger,
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject: map[client.Object]cache.ByObject{
				&nodecore.Flavor{}: here, &rules.Rule{}: here, &rules.RuleEndpoint{}: here,
			},
		},
		Metrics:    metricsserver.Options{BindAddress: "0"}, // internal/daemon has the only listener
		Controller: config.Controller{SkipNameValidation: &skip},
	})
	if err != nil {
		return stopped(ctx, err)
	}
	r.client, r.recorder = mgr.GetClient(), mgr.GetEventRecorder("router")
	if err := r.setup(mgr); err != nil {
		return stopped(ctx, err)
	}
	return stopped(ctx, mgr.Start(ctx))
}

// stopped is nil for an error that is only the end of ctx.
func stopped(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("manager: %w", err)
}

// reconciler carries out what the planner decides; there is one request for
// the whole provider.
type reconciler struct {
	namespace string
	client    client.Client
	recorder  events.EventRecorder
	clock     clock.WithTicker
	log       *slog.Logger
	ready     func(error)
	planner   *planner
	pollers   []*poller
	answers   chan event.GenericEvent // a relay's answer is another one
}

func newReconciler(log *slog.Logger, ready func(error), opts *Options) (*reconciler, error) {
	if err := checkURL(opts.RelayURL); err != nil {
		return nil, fmt.Errorf("--relay-url: %w", err)
	}
	if len(opts.RelayAdmin) == 0 {
		return nil, errors.New("--relay-admin: at least one is required")
	}
	key, err := os.ReadFile(opts.CapabilityKey)
	if err != nil {
		return nil, fmt.Errorf("--capability-key: %w", err)
	}
	if key = bytes.TrimSpace(key); len(key) < 16 {
		return nil, fmt.Errorf("--capability-key: %s holds %d bytes, want at least 16", opts.CapabilityKey, len(key))
	}
	r := &reconciler{
		namespace: opts.Namespace, log: log, ready: ready, clock: opts.Clock,
		answers: make(chan event.GenericEvent, 1),
	}
	if r.clock == nil {
		r.clock = clock.RealClock{}
	}
	choose := opts.Select
	if choose == nil {
		choose = sensor.Select
	}
	r.planner = newPlanner(opts.Namespace, opts.RelayURL, key, choose)
	for _, admin := range opts.RelayAdmin {
		if err := checkURL(admin); err != nil {
			return nil, fmt.Errorf("--relay-admin: %w", err)
		}
		r.pollers = append(r.pollers, newPoller(admin, sensor.AdminToken(key), &http.Client{}, r.clock, func() {
			select {
			case r.answers <- event.GenericEvent{Object: &corev1.Node{}}:
			default: // an event waits already
			}
		}))
	}
	return r, nil
}

// setup adds the controller and the pollers to the manager.
func (r *reconciler) setup(mgr ctrl.Manager) error {
	all := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: "all"}}}
	})
	for _, p := range r.pollers {
		if err := mgr.Add(manager.RunnableFunc(func(ctx context.Context) error { p.run(ctx); return nil })); err != nil {
			return err
		}
	}
	return builder.ControllerManagedBy(mgr).Named("router").
		Watches(&sensors.DataPath{}, all).
		Watches(&nodecore.Flavor{}, all).
		Watches(&rules.Rule{}, all).
		Watches(&rules.RuleEndpoint{}, all).
		Watches(&corev1.Node{}, all, builder.WithPredicates(predicate.Funcs{UpdateFunc: readinessChanged})).
		WatchesRawSource(source.Channel(r.answers, all)).
		WithOptions(controller.Options{
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](50*time.Millisecond, 10*time.Second),
		}).
		Complete(r)
}

// readinessChanged leaves out heartbeats.
func readinessChanged(e event.UpdateEvent) bool {
	state := func(o client.Object) (s string) {
		if n, ok := o.(*corev1.Node); ok {
			since, _ := readiness(map[string]*corev1.Node{n.Name: n}, n.Name)
			return string(n.UID) + since
		}
		return ""
	}
	return state(e.ObjectOld) != state(e.ObjectNew)
}

// Reconcile plans for the whole provider and does what was planned.
func (r *reconciler) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	w, err := r.look(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	a := r.planner.plan(w)
	for _, p := range r.pollers {
		p.setUrgent(a.urgent)
	}
	r.ready(nil)
	for _, relay := range w.relays {
		if relay.err != nil {
			r.ready(fmt.Errorf("relay %s: %w", relay.url, relay.err))
		} else if relay.accounts == nil {
			r.ready(fmt.Errorf("relay %s has not answered yet", relay.url))
		}
	}
	if err := r.do(ctx, w, a); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: a.after}, nil
}

// look at everything that a plan needs.
func (r *reconciler) look(ctx context.Context) (world, error) {
	var paths sensors.DataPathList
	var flavors nodecore.FlavorList
	var nodes corev1.NodeList
	var list rules.RuleList
	var endpoints rules.RuleEndpointList
	here := client.InNamespace(r.namespace)
	if err := errors.Join(
		r.client.List(ctx, &paths), r.client.List(ctx, &flavors, here), r.client.List(ctx, &nodes),
		r.client.List(ctx, &list, here), r.client.List(ctx, &endpoints, here),
	); err != nil {
		return world{}, err
	}
	w := world{now: r.clock.Now(), paths: paths.Items, flavors: flavors.Items, nodes: nodes.Items, rules: list.Items, endpoints: endpoints.Items}
	for _, p := range r.pollers {
		w.relays = append(w.relays, p.state())
	}
	return w, nil
}

// do what was planned. Each action may be repeated: the cache can lag behind.
func (r *reconciler) do(ctx context.Context, w world, a actions) error {
	var errs []error
	for i := range a.createEndpoints {
		e := &a.createEndpoints[i]
		if err := r.client.Create(ctx, e); err != nil && !apierrors.IsAlreadyExists(err) {
			errs = append(errs, fmt.Errorf("create RuleEndpoint %s: %w", e.Name, err))
		}
	}
	for _, d := range a.deleteRules {
		err := r.client.Delete(ctx, &d.rule, client.Preconditions{UID: &d.rule.UID})
		switch {
		case err == nil:
			r.log.Info("rule deleted", "rule", d.rule.Name, "why", d.why)
			if d.unconfirmed {
				r.recorder.Eventf(&d.rule, nil, corev1.EventTypeWarning, "NoSample", "Recreate",
					"no sample of %s/%s arrived at the relay; the Rule is made again", d.rule.Labels[nodecore.LabelDevice], d.rule.Labels[nodecore.LabelPart])
			}
		case !apierrors.IsNotFound(err) && !apierrors.IsConflict(err):
			errs = append(errs, fmt.Errorf("delete Rule %s: %w", d.rule.Name, err))
		}
	}
	if len(a.createRules) > 0 {
		// The last samples of an earlier Rule, which may have come since the relays
		// were asked, must not confirm the one that is made now.
		w.relays = w.relays[:0]
		for _, p := range r.pollers {
			w.relays = append(w.relays, p.refresh(ctx))
		}
	}
	for i := range a.createRules {
		rule := &a.createRules[i]
		switch err := r.client.Create(ctx, rule); {
		case err == nil:
			r.planner.created(*rule, w)
			r.log.Info("rule created", "rule", rule.Name, "node", rule.Spec.SourceResource[rules.SourceNodeName])
		case !apierrors.IsAlreadyExists(err):
			errs = append(errs, fmt.Errorf("create Rule %s: %w", rule.Name, err))
		}
	}
	for i := range a.deleteEndpoints {
		e := &a.deleteEndpoints[i]
		if err := r.client.Delete(ctx, e, client.Preconditions{UID: &e.UID}); client.IgnoreNotFound(err) != nil {
			errs = append(errs, fmt.Errorf("delete RuleEndpoint %s: %w", e.Name, err))
			continue
		}
		r.planner.dropped[e.UID] = true
	}
	for _, s := range a.statuses {
		if err := r.write(ctx, s); err != nil {
			errs = append(errs, fmt.Errorf("status of DataPath %s/%s: %w", s.path.Namespace, s.path.Name, err))
			continue
		}
		r.planner.wrote(s, w.now)
	}
	return errors.Join(errs...)
}

// write a whole status, of this very DataPath, in one patch.
func (r *reconciler) write(ctx context.Context, s statusWrite) error {
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": s.path.UID},
		{"op": "add", "path": "/status", "value": s.status},
	})
	if err != nil {
		return err
	}
	err = r.client.Status().Patch(ctx, &s.path, client.RawPatch(types.JSONPatchType, patch))
	return client.IgnoreNotFound(err)
}
