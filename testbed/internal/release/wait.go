package release

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

const (
	// interval between looks at workloads, and between looks at their Pods.
	interval    = 250 * time.Millisecond
	podInterval = time.Second
	// patience with a state that waiting does not mend: an image that is not there.
	patience = 20 * time.Second
	// restarts after which a container that ends again and again is given up.
	restarts = 5
)

// workload is a Deployment or DaemonSet that has to become ready.
type workload struct {
	kind, namespace, name string
}

func (w workload) String() string { return w.kind + " " + w.name }

// workloads finds those of a manifest.
func workloads(manifest, namespace string) ([]workload, error) {
	var all []workload
	for _, doc := range strings.Split(manifest, "\n---\n") {
		var o metav1.PartialObjectMetadata
		if err := yaml.Unmarshal([]byte(strings.TrimPrefix(doc, "---\n")), &o); err != nil {
			return nil, err
		}
		if o.Namespace == "" {
			o.Namespace = namespace
		}
		if o.Kind == "Deployment" || o.Kind == "DaemonSet" {
			all = append(all, workload{o.Kind, o.Namespace, o.Name})
		}
	}
	return all, nil
}

// rollout is how far a workload is.
type rollout struct {
	workload
	done        bool
	ready, want int32
	problem     string // why its controller makes no Pods
	selector    *metav1.LabelSelector
}

func (r rollout) String() string {
	return fmt.Sprintf("%s: %d of %d Pods ready", r.workload, r.ready, r.want)
}

func (h *handle) look(ctx context.Context, w workload) (rollout, error) {
	r := rollout{workload: w}
	if w.kind == "DaemonSet" {
		d, err := h.client.AppsV1().DaemonSets(w.namespace).Get(ctx, w.name, metav1.GetOptions{})
		if err != nil {
			return r, err
		}
		s := d.Status
		r.selector, r.ready, r.want = d.Spec.Selector, min(s.NumberAvailable, s.UpdatedNumberScheduled), s.DesiredNumberScheduled
		r.done = s.ObservedGeneration >= d.Generation && s.UpdatedNumberScheduled == r.want && s.NumberAvailable == r.want
		return r, nil
	}
	d, err := h.client.AppsV1().Deployments(w.namespace).Get(ctx, w.name, metav1.GetOptions{})
	if err != nil {
		return r, err
	}
	s := d.Status
	r.selector, r.ready, r.want = d.Spec.Selector, min(s.AvailableReplicas, s.UpdatedReplicas), 1
	if d.Spec.Replicas != nil {
		r.want = *d.Spec.Replicas
	}
	r.done = s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == r.want && s.Replicas == r.want && s.AvailableReplicas == r.want
	for _, c := range s.Conditions {
		if s.ObservedGeneration >= d.Generation && c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
			r.problem = c.Reason + ": " + c.Message
		}
	}
	return r, nil
}

// await waits until every workload of a release is ready. It gives up early what
// waiting does not mend.
func (h *handle) await(ctx context.Context, r Release, want *rendered, say func(string)) error {
	all, err := workloads(want.manifest, r.Namespace)
	if err != nil {
		return fmt.Errorf("release %s: %w", r.Name, err)
	}
	begin := time.Now()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var (
		missing []rollout
		last    error
		looked  time.Time            // at Pods
		since   map[string]time.Time // when each hopeless state was seen first
	)
	for {
		missing, last = h.missing(ctx, all, missing)
		if len(missing) == 0 && last == nil {
			return nil
		}
		var giveUp bool
		if now := time.Now(); now.Sub(looked) >= podInterval {
			looked = now
			pods := h.pods(ctx, missing)
			say(awaited(missing, pods, last))
			since, giveUp = hopeless(since, missing, pods, now)
		}
		if !giveUp {
			select {
			case <-ticker.C:
				continue
			case <-ctx.Done():
			}
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("release %s: %w while waiting for %s", r.Name, context.Cause(ctx), awaited(missing, nil, last))
			}
		}
		e := h.diagnose(ctx, missing)
		e.Release, e.Namespace, e.After, e.Err = r.Name, r.Namespace, time.Since(begin), context.Cause(ctx)
		if e.Err == nil {
			e.Err = errHopeless
		}
		if len(missing) == 0 {
			e.Err = errors.Join(e.Err, last)
		}
		return e
	}
}

// errHopeless ends a wait before its deadline.
var errHopeless = errors.New("waiting does not mend it")

// missing is what is not ready; if the server does not answer, what was missing before.
func (h *handle) missing(ctx context.Context, all []workload, before []rollout) ([]rollout, error) {
	var now []rollout
	for _, w := range all {
		r, err := h.look(ctx, w)
		if err != nil {
			return before, fmt.Errorf("%s: %w", w, err)
		}
		if !r.done {
			now = append(now, r)
		}
	}
	return now, nil
}

// pods of workloads that are not ready, oldest first. An error is no news: the next look tells.
func (h *handle) pods(ctx context.Context, missing []rollout) map[workload][]corev1.Pod {
	all := map[workload][]corev1.Pod{}
	for _, r := range missing {
		selector, err := metav1.LabelSelectorAsSelector(r.selector)
		if err != nil || selector.Empty() {
			continue
		}
		all[r.workload] = h.selected(ctx, r.namespace, selector)
	}
	return all
}

func (h *handle) selected(ctx context.Context, namespace string, selector labels.Selector) []corev1.Pod {
	list, err := h.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return nil
	}
	slices.SortFunc(list.Items, func(a, b corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return list.Items
}

// awaited says in one short line what is awaited.
func awaited(missing []rollout, pods map[workload][]corev1.Pod, last error) string {
	var parts []string
	for _, r := range missing {
		s := r.String()
		for _, p := range pods[r.workload] {
			if why := glance(&p); why != "" {
				s += " (" + why + ")"
				break
			}
		}
		if reason, _, _ := strings.Cut(r.problem, ":"); reason != "" {
			s += " (" + reason + ")"
		}
		parts = append(parts, s)
	}
	if last != nil {
		parts = append(parts, last.Error())
	}
	return strings.Join(parts, ", ")
}

// hopeless remembers since when states that waiting does not mend are there, and
// tells whether one of them has been for too long.
func hopeless(since map[string]time.Time, missing []rollout, pods map[workload][]corev1.Pod, now time.Time) (map[string]time.Time, bool) {
	next, giveUp := map[string]time.Time{}, false
	mark := func(key string) {
		first, ok := since[key]
		if !ok {
			first = now
		}
		next[key] = first
		giveUp = giveUp || now.Sub(first) >= patience
	}
	for _, r := range missing {
		if r.problem != "" {
			mark(r.String())
		}
		for _, p := range pods[r.workload] {
			for _, s := range statuses(&p) {
				switch w := s.State.Waiting; {
				case p.DeletionTimestamp != nil || w == nil:
				case slices.Contains(unmendable, w.Reason):
					mark(p.Name + "/" + s.Name)
				case w.Reason == "CrashLoopBackOff" && s.RestartCount >= restarts:
					giveUp = true
				}
			}
		}
	}
	return next, giveUp
}

// unmendable are reasons of waiting containers that stay: images are loaded into
// nodes, and Secrets made, before what needs them is installed.
var unmendable = []string{"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "RunContainerError"}

// statuses of a Pod's containers, in the order in which they start.
func statuses(p *corev1.Pod) []corev1.ContainerStatus {
	return slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses)
}
