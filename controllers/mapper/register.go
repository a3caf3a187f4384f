package mapper

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
)

const (
	// fieldManager of what the mappers apply. All mappers share it, so that a
	// Device follows its board from node to node without a conflict.
	fieldManager = "mapper"
	// resync is how often a registration is compared with what the API server has.
	resync     = 30 * time.Second
	apiTimeout = 10 * time.Second
	// maxRetry is the longest pause between two tries to register.
	maxRetry = 30 * time.Second
)

// newClient for the two kinds that the mapper writes. It asks the API server
// nothing yet, discovery neither, so that the mapper starts without it.
func newClient(kubeconfig string) (client.Client, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	config.Timeout = apiTimeout
	scheme := runtime.NewScheme()
	if err := devices.AddToScheme(scheme); err != nil {
		return nil, err
	}
	mapping := meta.NewDefaultRESTMapper(nil)
	for _, kind := range []string{"Device", "DeviceModel"} {
		mapping.Add(devices.GroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	c, err := client.New(config, client.Options{Scheme: scheme, Mapper: mapping})
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	return c, nil
}

// registrar keeps one board registered for as long as it is connected.
type registrar struct {
	client    client.Client
	namespace string
	pause     time.Duration
	log       *slog.Logger
}

// run registers the latest of what comes in, and again whenever the API server
// has something else, until ctx ends. Failures are logged and tried again; the
// board's data does not wait for them.
func (r registrar) run(ctx context.Context, declarations <-chan declaration) {
	retry := backoff{first: r.pause, max: maxRetry}
	var want declaration
	next := time.NewTimer(0)
	defer next.Stop()
	<-next.C
	for {
		select {
		case want = <-declarations:
		case <-next.C:
		case <-ctx.Done():
			return
		}
		changed, err := r.register(ctx, want)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			pause := retry.pause()
			r.log.Warn("registration will be tried again", "err", err, "in", pause)
			next.Reset(pause)
			continue
		case changed:
			r.log.Info("registered", "device", want.device(), "sensors", len(want.parts))
		}
		retry.reset()
		next.Reset(resync)
	}
}

// register applies the board's DeviceModel and Device where they differ.
func (r registrar) register(ctx context.Context, d declaration) (changed bool, err error) {
	model, err := d.modelObject(r.namespace)
	if err != nil {
		return false, err
	}
	device, err := d.deviceObject(r.namespace)
	if err != nil {
		return false, err
	}
	if changed, err = r.apply(ctx, model); err != nil {
		return false, err
	}
	also, err := r.apply(ctx, device)
	return changed || also, err
}

// apply want if the API server does not have all of it.
func (r registrar) apply(ctx context.Context, want *unstructured.Unstructured) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	name := want.GetKind() + " " + want.GetName()
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(want.GroupVersionKind())
	switch err := r.client.Get(ctx, client.ObjectKeyFromObject(want), live); {
	case err == nil:
		if covers(live.Object, want.Object) {
			return false, nil
		}
	case !apierrors.IsNotFound(err):
		return false, fmt.Errorf("get %s: %w", name, err)
	}
	if err := r.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(want), client.FieldOwner(fieldManager), client.ForceOwnership); err != nil {
		return false, fmt.Errorf("apply %s: %w", name, err)
	}
	return true, nil
}

// covers reports whether live holds all of want: fields that others have added
// do not count, but lists have equal lengths.
func covers(live, want any) bool {
	switch w := want.(type) {
	case map[string]any:
		l, ok := live.(map[string]any)
		if !ok {
			return len(w) == 0 && live == nil
		}
		for k, v := range w {
			if !covers(l[k], v) {
				return false
			}
		}
		return true
	case []any:
		l, ok := live.([]any)
		if !ok || len(l) != len(w) {
			return len(w) == 0 && live == nil
		}
		for i := range w {
			if !covers(l[i], w[i]) {
				return false
			}
		}
		return true
	default:
		return live == want
	}
}
