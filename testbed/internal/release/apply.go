package release

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/action"
	helm "helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/cli-runtime/pkg/resource"
)

// history is how many revisions of a release a cluster keeps.
const history = 3

// goneDeadline is for Pods to end, whose grace period is 10 s.
const goneDeadline = 30 * time.Second

// definitionDeadline is for one definition to be served.
const definitionDeadline = 30 * time.Second

// apply brings the objects of a release about, from whatever was left.
func (h *handle) apply(ctx context.Context, r Release, want *rendered, say func(string)) error {
	if err := h.define(ctx, want); err != nil {
		return err
	}
	last, err := h.last(r.Name)
	if err != nil {
		return err
	}
	switch {
	case last == nil:
		return h.install(ctx, r, want, say)
	case last.Info.Status == helm.StatusUninstalling || last.Info.Status == helm.StatusUninstalled:
		h.log.Info("release was left while it was removed; removing it first", "release", r.Name)
		if err := h.uninstall(ctx, r.Name); err != nil {
			return err
		}
		return h.install(ctx, r, want, say)
	case last.Info.Status == helm.StatusDeployed && last.Manifest == want.manifest:
		same, err := h.holds(want.manifest)
		if err != nil || same {
			return err
		}
		h.log.Info("objects of a release were changed by somebody else; putting them back", "release", r.Name)
	case last.Info.Status.IsPending():
		h.log.Info("release was left amid a change; doing that again", "release", r.Name, "status", last.Info.Status)
		last.SetStatus(helm.StatusFailed, "left by a process that is gone")
		if err := h.cfg.Releases.Update(last); err != nil {
			return err
		}
	}
	return h.upgrade(r, want)
}

// install, as upgrade, gives Helm no context: cancelled by one, Helm returns while
// its goroutines go on. It ends when its requests do.
func (h *handle) install(ctx context.Context, r Release, want *rendered, say func(string)) error {
	h.gone(ctx, r, say)
	in := action.NewInstall(h.cfg)
	in.ReleaseName, in.Namespace = r.Name, r.Namespace
	// Charts are checked against the types in this package's tests; asking each server for
	// its schema costs more than all the rest.
	in.DisableOpenAPIValidation = true
	in.DisableHooks, in.SkipCRDs = true, true
	_, err := in.Run(want.chart, want.values)
	return err
}

// gone waits until Pods of an earlier release of that name have ended: two would have the
// same ports, and count double. Those on a node that is cut off do not end, so it does
// not wait for ever.
func (h *handle) gone(ctx context.Context, r Release, say func(string)) {
	selector := labels.SelectorFromSet(labels.Set{"app.kubernetes.io/name": r.Chart, "app.kubernetes.io/instance": r.Name})
	_ = wait.PollUntilContextTimeout(ctx, interval, goneDeadline, true, func(ctx context.Context) (bool, error) {
		left := h.selected(ctx, r.Namespace, selector)
		if len(left) > 0 {
			say("waiting for the end of Pod " + left[0].Name)
		}
		return len(left) == 0, nil
	})
}

// upgrade also mends what is missing or was changed: Helm compares with what is there.
func (h *handle) upgrade(r Release, want *rendered) error {
	up := action.NewUpgrade(h.cfg)
	up.Namespace = r.Namespace
	up.DisableOpenAPIValidation = true
	up.DisableHooks, up.SkipCRDs = true, true
	up.ResetValues = true
	up.MaxHistory = history
	_, err := up.Run(r.Name, want.chart, want.values)
	return err
}

func (h *handle) uninstall(ctx context.Context, name string) error {
	if last, err := h.last(name); last == nil || err != nil {
		return err
	}
	un := action.NewUninstall(h.cfg)
	un.DisableHooks = true
	_, err := un.Run(name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil
	}
	return errors.Join(err, context.Cause(ctx))
}

// define makes the definitions that come with a chart, and waits until they are served.
// Those that are there stay as they are, and uninstalling leaves them: others may use them.
func (h *handle) define(ctx context.Context, want *rendered) error {
	for _, file := range want.chart.CRDObjects() {
		list, err := h.cfg.KubeClient.Build(bytes.NewReader(file.File.Data), false)
		if err != nil {
			return fmt.Errorf("definitions %s: %w", file.Filename, err)
		}
		for _, info := range list {
			if err := h.defineOne(ctx, info); err != nil {
				return fmt.Errorf("definition %s: %w", info.Name, err)
			}
		}
	}
	return nil
}

func (h *handle) defineOne(ctx context.Context, info *resource.Info) error {
	helper := resource.NewHelper(info.Client, info.Mapping)
	missing := false
	return wait.PollUntilContextTimeout(ctx, interval, definitionDeadline, true, func(context.Context) (bool, error) {
		live, err := helper.Get("", info.Name)
		if apierrors.IsNotFound(err) && !missing {
			missing = true
			_, err = helper.Create("", false, info.Object)
			if apierrors.IsAlreadyExists(err) {
				err = nil // another release was quicker
			}
			return false, err
		}
		u, ok := live.(*unstructured.Unstructured)
		if err != nil || !ok {
			return false, err
		}
		conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions") // null at first
		for _, c := range conditions {
			if c, ok := c.(map[string]any); ok && c["type"] == "Established" && c["status"] == "True" {
				return true, nil
			}
		}
		return false, nil
	})
}

// holds tells whether every object of a manifest is in the cluster with all that
// the manifest says of it. What else it has, by default or by others, does not matter.
func (h *handle) holds(manifest string) (bool, error) {
	list, err := h.cfg.KubeClient.Build(strings.NewReader(manifest), false)
	if err != nil {
		return false, err
	}
	same := true
	err = list.Visit(func(info *resource.Info, err error) error {
		if err != nil || !same {
			return err
		}
		live, err := resource.NewHelper(info.Client, info.Mapping).Get(info.Namespace, info.Name)
		if apierrors.IsNotFound(err) {
			same = false
			return nil
		} else if err != nil {
			return err
		}
		w, ok1 := info.Object.(*unstructured.Unstructured)
		l, ok2 := live.(*unstructured.Unstructured)
		same = ok1 && ok2 && within(w.Object, l.Object)
		return nil
	})
	return same, err
}

// within tells whether have says everything that want says.
func within(want, have any) bool {
	switch w := want.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		for k, v := range w {
			ok = ok && (v == nil || within(v, h[k]))
		}
		// Servers leave out empty objects.
		return ok || have == nil && len(w) == 0
	case []any:
		h, ok := have.([]any)
		ok = ok && len(h) == len(w)
		for i := 0; ok && i < len(w); i++ {
			ok = within(w[i], h[i])
		}
		return ok || have == nil && len(w) == 0
	}
	return text(want) == text(have)
}

// text makes 1 and 1.0 the same.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}
