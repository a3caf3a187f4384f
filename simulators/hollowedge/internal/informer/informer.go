// Package informer follows the objects of one kind until the process ends.
package informer

import (
	"context"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Follow tells h of the objects of one kind in g, and returns when it has told of
// all that exist. Objects come without annotations and managed fields. of and
// list are of that kind and are not changed.
func Follow(ctx context.Context, g *errgroup.Group, c client.WithWatch, log *slog.Logger, of client.Object, list client.ObjectList, h cache.ResourceEventHandler) error {
	fresh := func() client.ObjectList { return list.DeepCopyObject().(client.ObjectList) }
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			l := fresh()
			err := c.List(ctx, l, &client.ListOptions{Raw: &o})
			return l, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return c.Watch(ctx, fresh(), &client.ListOptions{Raw: &o})
		},
	}
	informer := cache.NewSharedIndexInformer(listThenWatch{lw}, of, 0, cache.Indexers{})
	if err := informer.SetTransform(func(o any) (any, error) {
		if obj, ok := o.(client.Object); ok {
			obj.SetManagedFields(nil)
			obj.SetAnnotations(nil)
		}
		return o, nil
	}); err != nil {
		return err
	}
	if err := informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		log.Warn("watch ended, going on", "of", fmt.Sprintf("%T", of), "err", err)
	}); err != nil {
		return err
	}
	reg, err := informer.AddEventHandler(h)
	if err != nil {
		return err
	}
	g.Go(func() error {
		informer.RunWithContext(ctx)
		return nil
	})
	select {
	case <-reg.HasSyncedChecker().Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// listThenWatch keeps the reflector from streaming lists, which not every
// server and no fake client can do.
type listThenWatch struct{ *cache.ListWatch }

func (listThenWatch) IsWatchListSemanticsUnSupported() bool { return true }
