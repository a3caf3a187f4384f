// Package erm is the edge resource manager: it puts each sensor of each Device
// on offer, as one Flavor, for as long as its board announces it.
//
// Invariants:
//   - What is on offer follows from the Devices, the Nodes, the identity and the
//     options alone (desired). A Flavor's name follows from its sensor, so that a
//     restart at any moment neither doubles nor forgets an offer.
//   - The specification of such a Flavor is ERM's: what somebody else writes
//     there is put back, what somebody deletes is made again. Flavors that no
//     Device owns are nobody's business here.
//   - Nothing is written while nothing differs.
//   - A bad sensor costs itself, never the board's others, and its Device gets
//     an Event that names where in the annotation it is bad.
//
// A Flavor is available while the node of its Device is Ready and nothing speaks
// against its board. Two things do: the DeviceStatus says that it is offline,
// unhealthy or disconnected; or another Device had the same board id first, of which
// the later one gets an Event. The Flavor's annotation sensors.fluidos.eu/unavailable
// names what holds, for the consumer, who can read neither Devices nor Events: reason
// and message of that Event, and why the board is in its state as the mapper says in
// the Device's annotation sensors.fluidos.eu/problem. That one is text alone: it takes
// no board off offer, and without it the state is named. Where DeviceStatus is not
// defined, as in KubeEdge up to v1.22, ERM does without until it is.
//
// To try it: erm --kubeconfig FILE, then kubectl get devices,flavors,events -n fluidos.
package erm

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	crconfig "sigs.k8s.io/controller-runtime/pkg/config"
	crlog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
)

// Options of an ERM. The zero value serves namespace fluidos with the
// kubeconfig of the Pod, free of charge.
type Options struct {
	// Kubeconfig is a file; empty means the Pod's own service account.
	Kubeconfig string
	// Namespace of Devices, Flavors and the identity; default fluidos.
	Namespace string
	// Price and Location go into every Flavor.
	Price    nodecore.Price
	Location nodecore.Location
	// Nodes that offer the sensors of a Device, given all Nodes; nil is the
	// Device's own. A sensor's Flavor on any but the first is named after the node
	// too. Any other value is a fault to test with.
	Nodes func(device *devices.Device, all []corev1.Node) []string
}

// AddFlags declares the settings and their defaults.
func (o *Options) AddFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.Kubeconfig, "kubeconfig", "", "`file` that says how to reach the provider's API server; empty uses the Pod's service account")
	fs.StringVar(&o.Namespace, "namespace", "fluidos", "`namespace` of Devices, Flavors and the identity")
	fs.StringVar(&o.Price.Amount, "price-amount", "0", "price of one sensor")
	fs.StringVar(&o.Price.Currency, "price-currency", "EUR", "currency of the price")
	fs.StringVar(&o.Price.Period, "price-period", "hourly", "what the price is paid for")
	fs.StringVar(&o.Location.Latitude, "latitude", "", "where the sensors are, in `degrees`")
	fs.StringVar(&o.Location.Longitude, "longitude", "", "where the sensors are, in `degrees`")
	fs.StringVar(&o.Location.Country, "country", "", "where the sensors are")
	fs.StringVar(&o.Location.City, "city", "", "where the sensors are")
}

func (o Options) withDefaults() Options {
	if o.Namespace == "" {
		o.Namespace = "fluidos"
	}
	if o.Price == (nodecore.Price{}) {
		o.Price = nodecore.Price{Amount: "0", Currency: "EUR", Period: "hourly"}
	}
	return o
}

// Run offers sensors until ctx ends. It is ready once it has seen all Devices,
// Flavors and Nodes there are. Without an identity it is ready too, offers nothing
// new, and goes on when the identity appears.
func Run(ctx context.Context, log *slog.Logger, ready func(error), opts Options) error {
	opts = opts.withDefaults()
	config, err := clientcmd.BuildConfigFromFlags("", opts.Kubeconfig)
	if err != nil {
		return fmt.Errorf("kubeconfig %q: %w", opts.Kubeconfig, err)
	}
	config.UserAgent = "erm"
	config.QPS, config.Burst = 50, 100
	scheme, err := newScheme()
	if err != nil {
		return err
	}
	logger := logr.FromSlogHandler(log.Handler())
	crlog.SetLogger(logger) // else it complains, once and at length
	mgr, err := newManager(ctx, config, ready, manager.Options{
		Scheme: scheme,
		Logger: logger,
		Cache: cache.Options{
			DefaultNamespaces: map[string]cache.Config{opts.Namespace: {}},
			DefaultTransform:  slim,
			ByObject: map[client.Object]cache.ByObject{
				&corev1.ConfigMap{}: {Field: fields.OneTermEqualSelector("metadata.name", identityName)},
				&corev1.Node{}:      {Transform: onlyReadiness},
			},
		},
		Metrics:    metricsserver.Options{BindAddress: "0"},               // internal/daemon has the only listener
		Controller: crconfig.Controller{SkipNameValidation: ptr.To(true)}, // tests run several in a process
	})
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	discover, err := discovery.NewDiscoveryClientForConfigAndClient(config, mgr.GetHTTPClient())
	if err != nil {
		return err
	}
	statuses := func() (bool, error) { return definesStatuses(discover) }
	defined, err := await(ctx, ready, statuses)
	if err != nil {
		return nil // only the end of ctx
	}
	r := newReconciler(mgr.GetClient(), log, opts, time.Now)
	c, err := r.setup(ctx, mgr, defined)
	if err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	tasks := []manager.RunnableFunc{func(ctx context.Context) error {
		return announce(ctx, mgr.GetCache(), opts.Namespace, defined, ready)
	}}
	if !defined {
		tasks = append(tasks, func(ctx context.Context) error { return r.follow(ctx, c, mgr.GetCache(), statuses) })
	}
	for _, task := range tasks {
		if err := mgr.Add(task); err != nil {
			return err
		}
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("stopped: %w", err)
	}
	return nil
}

func newScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, devices.AddToScheme, nodecore.AddToScheme} {
		if err := add(s); err != nil {
			return nil, fmt.Errorf("scheme: %w", err)
		}
	}
	return s, nil
}

// newManager waits until the API server answers.
func newManager(ctx context.Context, config *rest.Config, ready func(error), o manager.Options) (manager.Manager, error) {
	var mgr manager.Manager
	err := wait.PollUntilContextCancel(ctx, time.Second, true, func(context.Context) (bool, error) {
		var err error
		if mgr, err = manager.New(config, o); err != nil {
			ready(fmt.Errorf("waiting for %s: %w", config.Host, err))
			return false, nil
		}
		return true, nil
	})
	return mgr, err
}

// definesStatuses asks an API server whether it has DeviceStatuses.
func definesStatuses(d discovery.DiscoveryInterface) (bool, error) {
	list, err := d.ServerResourcesForGroupVersion(devices.GroupVersion.String())
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("resources of %s: %w", devices.GroupVersion, err)
	}
	return slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Kind == "DeviceStatus" }), nil
}

// await an answer; an error is only the end of ctx.
func await(ctx context.Context, ready func(error), ask func() (bool, error)) (answer bool, err error) {
	err = wait.PollUntilContextCancel(ctx, time.Second, true, func(context.Context) (bool, error) {
		var err error
		if answer, err = ask(); err != nil {
			ready(err)
		}
		return err == nil, nil
	})
	return answer, err
}

// announce readiness once every kind can be read from the cache.
func announce(ctx context.Context, c client.Reader, namespace string, statuses bool, ready func(error)) error {
	kinds := []client.ObjectList{&devices.DeviceList{}, &nodecore.FlavorList{}, &corev1.NodeList{}, &corev1.ConfigMapList{}}
	if statuses {
		kinds = append(kinds, &devices.DeviceStatusList{})
	}
	err := wait.PollUntilContextCancel(ctx, time.Second, true, func(ctx context.Context) (bool, error) {
		for _, list := range kinds {
			if err := c.List(ctx, list, client.InNamespace(namespace)); err != nil {
				ready(fmt.Errorf("list %T: %w", list, err))
				return false, nil
			}
		}
		ready(nil)
		return true, nil
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}
