// Package release installs the charts of charts.FS into clusters by Helm's
// library, and waits until what they install is ready. Nothing outside of this
// package knows Helm.
//
// Invariants:
//   - Whatever ran before, a killed process included, Install leads to the same
//     state. If that state is there it changes nothing in the cluster.
//   - No two processes work on one release at a time; the testbed's lock sees to it. So
//     a release found amid a change was left there by a process that is gone.
//   - Clients share nothing: no environment, no settings, no files but the kubeconfig. Any
//     number of them may be used at once, and each by several goroutines.
//   - A release is ready once its Pods are. If they are not, the error says which and
//     why: state, last lines of the log, warnings.
//   - What is done ends with its context, Helm's requests too.
//
// Try it with `go test ./testbed/internal/release`; tests that need an API server
// take it from the folder TESTBED_ASSETS, and say so if it is not set.
package release

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"helm.sh/helm/v3/pkg/action"
	helm "helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"
	"k8s.io/client-go/kubernetes"

	"github.com/fluidos-edge/testbed/charts"
)

// Client installs charts into one cluster.
type Client struct {
	Kubeconfig string       // file
	Log        *slog.Logger // nil logs nothing
}

// Release is one chart with values, under a name.
type Release struct {
	Name      string // at most 53 letters; the name of all its objects
	Namespace string // must exist
	Chart     string // folder in charts.FS
	Values    map[string]any
	Timeout   time.Duration // for all of Install; 0 leaves it to ctx
}

// Install installs a release, or makes the one that is there as described, and
// returns once its Pods are ready. say is told about every second what is awaited; nil tells
// nobody. Values that the chart refuses are an *InvalidValues, Pods that do not become
// ready a *NotReady.
func (c *Client) Install(ctx context.Context, r Release, say func(string)) error {
	if say == nil {
		say = func(string) {}
	}
	want, err := render(charts.FS, r.Chart, r.Values, r.Name, r.Namespace)
	if err != nil {
		return fmt.Errorf("release %s: %w", r.Name, err)
	}
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, r.Timeout, fmt.Errorf("the %s given are over", r.Timeout))
		defer cancel()
	}
	h, err := c.connect(ctx, r.Namespace)
	if err != nil {
		return fmt.Errorf("release %s: %w", r.Name, err)
	}
	say("install")
	if err := h.apply(ctx, r, want, say); err != nil {
		return fmt.Errorf("install release %s: %w", r.Name, ended(ctx, err))
	}
	return h.await(ctx, r, want, say)
}

// Uninstall removes a release. Its Pods may take until the end of their grace
// periods. It is no error if there is no such release.
func (c *Client) Uninstall(ctx context.Context, namespace, name string) error {
	h, err := c.connect(ctx, namespace)
	if err == nil {
		err = h.uninstall(ctx, name)
	}
	if err != nil {
		return fmt.Errorf("uninstall release %s: %w", name, ended(ctx, err))
	}
	return nil
}

// List gives the names of the releases in a namespace, those too that were left amid a
// change.
func (c *Client) List(ctx context.Context, namespace string) ([]string, error) {
	h, err := c.connect(ctx, namespace)
	if err != nil {
		return nil, err
	}
	all, err := h.cfg.Releases.ListReleases()
	if err != nil {
		return nil, fmt.Errorf("releases in %s: %w", namespace, ended(ctx, err))
	}
	names := map[string]bool{}
	for _, r := range all {
		names[r.Name] = true
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// handle is a cluster for the time of one call.
type handle struct {
	cfg    *action.Configuration
	client kubernetes.Interface
	log    *slog.Logger
}

func (c *Client) connect(ctx context.Context, namespace string) (*handle, error) {
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	config, err := restConfig(c.Kubeconfig)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	cfg := &action.Configuration{Capabilities: capabilities()}
	debug := func(format string, args ...any) { log.Debug("helm: " + fmt.Sprintf(format, args...)) }
	if err := cfg.Init(newGetter(ctx, config, c.Kubeconfig, namespace), namespace, "secrets", debug); err != nil {
		return nil, err
	}
	return &handle{cfg: cfg, client: client, log: log}, nil
}

// last is the newest revision of a release; nil if there is none.
func (h *handle) last(name string) (*helm.Release, error) {
	last, err := h.cfg.Releases.Last(name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, nil
	}
	return last, err
}

// ended puts the end of a context before what it brought about.
func ended(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
}
