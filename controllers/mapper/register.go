package mapper

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/backoff"
)

const (
	// fieldManager of what the mappers apply. All mappers share it, so that a
	// Device follows its board from node to node without a conflict.
	fieldManager = "mapper"
	// resync is how often a registration is compared with what the API server has.
	resync     = 30 * time.Second
	apiTimeout = 10 * time.Second
	// apiQPS bounds the requests to the API server: each board costs two a resync, and
	// a third while something is wrong with it.
	apiQPS = 2 * 2 * maxBoards * float32(time.Second) / float32(resync)
	// maxRetry is the longest pause between two tries to register.
	maxRetry = 30 * time.Second
)

// newClient for the kinds that the mapper writes. It asks the API server
// nothing yet, discovery neither, so that the mapper starts without it.
func newClient(kubeconfig string) (client.Client, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	config.Timeout, config.QPS, config.Burst = apiTimeout, apiQPS, maxBoards
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{devices.AddToScheme, corev1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	mapping := meta.NewDefaultRESTMapper(nil)
	mapping.Add(corev1.SchemeGroupVersion.WithKind("Event"), meta.RESTScopeNamespace)
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
	retry := backoff.Backoff{First: r.pause, Max: maxRetry}
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
			pause := retry.Pause()
			r.log.Warn("registration will be tried again", "err", err, "in", pause)
			next.Reset(pause)
			continue
		case changed:
			r.log.Info("registered", "device", want.device(), "sensors", len(want.parts))
		}
		retry.Reset()
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
	if changed, err = r.apply(ctx, model, nil); err != nil {
		return false, err
	}
	also, err := r.apply(ctx, device, keepWishes)
	return changed || also, err
}

// apply want if the API server does not have all of it. merge, if there is one,
// first takes over into want what is others' in the live object; then it is
// applied only onto the version that was looked at.
func (r registrar) apply(ctx context.Context, want *unstructured.Unstructured, merge func(want, live *unstructured.Unstructured)) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	name := want.GetKind() + " " + want.GetName()
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(want.GroupVersionKind())
	switch err := r.client.Get(ctx, client.ObjectKeyFromObject(want), live); {
	case err == nil:
		if merge != nil {
			merge(want, live)
		}
		if covers(live.Object, want.Object) {
			return false, nil
		}
		if merge != nil {
			want.SetResourceVersion(live.GetResourceVersion())
		}
	case !apierrors.IsNotFound(err):
		return false, fmt.Errorf("get %s: %w", name, err)
	}
	if err := r.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(want), client.FieldOwner(fieldManager), client.ForceOwnership); err != nil {
		return false, fmt.Errorf("apply %s: %w", name, err)
	}
	return true, nil
}

// wishes are the fields of a property that are the users'; cycles are those of them
// that a property always has.
var (
	wishes = []string{"desired", "collectCycle", "reportCycle", "reportToCloud", "pushMethod"}
	cycles = []string{"collectCycle", "reportCycle"}
)

// keepWishes has want wish of each property what users wish of it in the live Device.
// A property with any wish of theirs is theirs to switch off: then a missing one is
// false, and does not get its default. The list is atomic, so what is not taken
// over here is lost.
func keepWishes(want, live *unstructured.Unstructured) {
	theirs := map[string]map[string]any{}
	for _, p := range properties(live) {
		name, _ := p["name"].(string)
		theirs[name] = p
	}
	for _, p := range properties(want) {
		name, _ := p["name"].(string)
		kept := map[string]any{}
		for _, field := range wishes {
			if v, ok := theirs[name][field]; ok {
				kept[field] = v
			}
		}
		if len(kept) == 0 {
			continue
		}
		for _, field := range wishes {
			if v, ok := kept[field]; ok {
				p[field] = runtime.DeepCopyJSONValue(v)
			} else if !slices.Contains(cycles, field) {
				delete(p, field)
			}
		}
	}
}

// properties of a Device, each to be changed in place.
func properties(device *unstructured.Unstructured) (out []map[string]any) {
	list, _, _ := unstructured.NestedFieldNoCopy(device.Object, "spec", "properties")
	all, _ := list.([]any)
	for _, p := range all {
		if m, ok := p.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
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
