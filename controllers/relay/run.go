package relay

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

// +kubebuilder:rbac:groups=sensors.fluidos.eu,resources=datapaths,verbs=get;list;watch
// +kubebuilder:rbac:groups=nodecore.fluidos.eu,namespace=fluidos,resources=flavors,verbs=get;list;watch

// Options are the relay's settings.
type Options struct {
	Kubeconfig    string
	Namespace     string // of the Flavors
	Ingest        string // address that edge runtimes post to
	Admin         string // address that the router reads accounts from
	CapabilityKey string // file
	Queue         int    // samples an endpoint
	// Select is sensor.Select unless a test says otherwise.
	Select sensor.SelectFunc
	// Metrics is where the relay registers its metrics while it runs; default
	// prometheus.DefaultRegisterer.
	Metrics prometheus.Registerer
}

// AddFlags implements daemon.Options.
func (o *Options) AddFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.Kubeconfig, "kubeconfig", "", "`file` of the provider's API server; empty: that of the Pod")
	fs.StringVar(&o.Namespace, "namespace", "fluidos", "`namespace` of the Flavors")
	fs.StringVar(&o.Ingest, "ingest", "127.0.0.1:8180", "`address` that samples are posted to")
	fs.StringVar(&o.Admin, "admin", "127.0.0.1:8181", "`address` of the accounts")
	fs.StringVar(&o.CapabilityKey, "capability-key", "", "`file` with the key of capabilities, the router's too; space around it is ignored")
	fs.IntVar(&o.Queue, "queue", 4096, "how many `samples` may wait for one endpoint")
}

// Run serves until ctx ends.
func Run(ctx context.Context, log *slog.Logger, ready func(error), opts *Options) error {
	ready(errNotSynced)
	key, err := os.ReadFile(opts.CapabilityKey)
	if err != nil {
		return fmt.Errorf("--capability-key: %w", err)
	}
	if key = bytes.TrimSpace(key); len(key) < 16 {
		return fmt.Errorf("--capability-key: %s holds %d bytes, want at least 16", opts.CapabilityKey, len(key))
	}
	if opts.Queue < 1 {
		return fmt.Errorf("--queue is %d, want at least 1", opts.Queue)
	}
	config, err := clientcmd.BuildConfigFromFlags("", opts.Kubeconfig)
	if err != nil {
		return fmt.Errorf("--kubeconfig: %w", err)
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(sensors.AddToScheme(scheme), nodecore.AddToScheme(scheme)); err != nil {
		return err
	}
	objects, err := cache.New(config, cache.Options{
		Scheme: scheme,
		ByObject: map[client.Object]cache.ByObject{
			&nodecore.Flavor{}: {Namespaces: map[string]cache.Config{opts.Namespace: {}}},
		},
	})
	if err != nil {
		return err
	}
	relay := New(Config{Key: key, Queue: opts.Queue, Select: opts.Select, Log: log})
	metrics := opts.Metrics
	if metrics == nil {
		metrics = prometheus.DefaultRegisterer
	}
	if err := metrics.Register(relay); err != nil {
		log.Warn("no metrics: another relay of this process has them", "err", err)
	} else {
		defer metrics.Unregister(relay)
	}
	ingest, err := net.Listen("tcp", opts.Ingest)
	if err != nil {
		return fmt.Errorf("--ingest: %w", err)
	}
	defer ingest.Close()
	admin, err := net.Listen("tcp", opts.Admin)
	if err != nil {
		return fmt.Errorf("--admin: %w", err)
	}
	defer admin.Close()
	log.Info("relay listens", "ingest", ingest.Addr().String(), "admin", admin.Addr().String(), "instance", relay.instance)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return ended(ctx, "informers", objects.Start(ctx)) })
	group.Go(func() error { return follow(ctx, objects, relay, func() { ready(nil) }) })
	// Listeners outlive ctx: while the queues empty themselves, requests get
	// 503 and the router can still read the accounts.
	served := make(chan struct{})
	group.Go(func() error { defer close(served); return relay.Run(ctx) })
	serve := func(l net.Listener, h http.Handler) {
		srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
			ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
		group.Go(func() error {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("listener %s: %w", l.Addr(), err)
			}
			return nil
		})
		group.Go(func() error { <-served; return srv.Close() })
	}
	serve(ingest, relay.Ingest())
	serve(admin, relay.Admin())
	group.Go(func() error { <-ctx.Done(); ready(errors.New("stopping")); return nil })
	return group.Wait()
}

// follow gives the relay all DataPaths and Flavors after each change of one.
func follow(ctx context.Context, objects cache.Cache, relay *Relay, synced func()) error {
	changed := make(chan struct{}, 1)
	changed <- struct{}{}
	for _, kind := range []client.Object{&sensors.DataPath{}, &nodecore.Flavor{}} {
		informer, err := objects.GetInformer(ctx, kind)
		if err != nil {
			return ended(ctx, "informers", err)
		}
		if _, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { signal(changed) },
			UpdateFunc: func(any, any) { signal(changed) },
			DeleteFunc: func(any) { signal(changed) },
		}); err != nil {
			return ended(ctx, "informers", err)
		}
	}
	if !objects.WaitForCacheSync(ctx) {
		return ended(ctx, "informers", errNotSynced)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		var paths sensors.DataPathList
		var flavors nodecore.FlavorList
		if err := errors.Join(objects.List(ctx, &paths), objects.List(ctx, &flavors)); err != nil {
			return ended(ctx, "informers", err)
		}
		relay.Set(paths.Items, flavors.Items)
		synced()
	}
}

// ended is nil for an error that is only the end of ctx.
func ended(ctx context.Context, what string, err error) error {
	if err == nil || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
