package release

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

// restConfig reads one kubeconfig file and nothing else.
func restConfig(kubeconfig string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 100, 200
	config.Timeout = 30 * time.Second
	// The server's deprecation warnings concern developers, not users.
	config.WarningHandler = rest.NoWarnings{}
	return config, nil
}

// getter is how Helm reaches a cluster. It serves one call: its requests end with
// that call's context, of which Helm's actions know nothing.
type getter struct {
	config     *rest.Config
	kubeconfig string
	namespace  string

	mu     sync.Mutex
	mapper meta.RESTMapper
}

func newGetter(ctx context.Context, config *rest.Config, kubeconfig, namespace string) *getter {
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return bound{ctx, next} })
	return &getter{config: config, kubeconfig: kubeconfig, namespace: namespace}
}

func (g *getter) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(g.config), nil }

func (g *getter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	d, err := discovery.NewDiscoveryClientForConfig(g.config)
	return uncached{d}, err
}

// ToRESTMapper asks the server once.
func (g *getter) ToRESTMapper() (meta.RESTMapper, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mapper == nil {
		d, err := discovery.NewDiscoveryClientForConfig(g.config)
		if err != nil {
			return nil, err
		}
		resources, err := restmapper.GetAPIGroupResources(d)
		if err != nil {
			return nil, err
		}
		g.mapper = restmapper.NewDiscoveryRESTMapper(resources)
	}
	return g.mapper, nil
}

// uncached is what the server says now; client-go's caches write errors to stderr.
type uncached struct{ discovery.DiscoveryInterface }

func (uncached) Fresh() bool { return true }
func (uncached) Invalidate() {}

func (g *getter) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: g.kubeconfig}
	overrides := &clientcmd.ConfigOverrides{}
	overrides.Context.Namespace = g.namespace
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
}

// bound ends requests with a context besides their own. It keeps that context
// because Helm's actions, which make the requests, take none.
type bound struct {
	ctx  context.Context
	next http.RoundTripper
}

func (b bound) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	stop := context.AfterFunc(b.ctx, func() { cancel(context.Cause(b.ctx)) })
	done := func() { stop(); cancel(nil) }
	resp, err := b.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		done()
		return nil, err
	}
	resp.Body = body{resp.Body, done}
	return resp, nil
}

type body struct {
	io.ReadCloser
	done func()
}

func (b body) Close() error {
	defer b.done()
	return b.ReadCloser.Close()
}
