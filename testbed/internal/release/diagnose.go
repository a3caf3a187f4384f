package release

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

const (
	diagnosisDeadline = 15 * time.Second // of all of it
	logDeadline       = 5 * time.Second  // of one log
	logLines          = 10
	eventLines        = 5
)

// NotReady says which Pods of a release are not ready, and why.
type NotReady struct {
	Release, Namespace string
	After              time.Duration
	Workloads          []Workload
	Err                error // what ended the wait
}

// Workload is a Deployment or DaemonSet that is not ready.
type Workload struct {
	Name    string   // "Deployment erm: 0 of 1 Pods ready"
	Reasons []string // why it has too few Pods, warnings
	Pods    []Pod
}

// Pod is one that is not ready.
type Pod struct {
	Name, Node string
	State      string   // "container erm is waiting: ImagePullBackOff: ..."
	Log        []string // last lines of the container that is at fault
	Warnings   []string // last events, newest last
}

func (e *NotReady) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "release %s in %s is not ready after %s: %v", e.Release, e.Namespace, e.After.Round(time.Second/10), e.Err)
	for _, w := range e.Workloads {
		fmt.Fprintf(&b, "\n%s", w.Name)
		for _, r := range w.Reasons {
			fmt.Fprintf(&b, "\n  %s", r)
		}
		for _, p := range w.Pods {
			fmt.Fprintf(&b, "\n  Pod %s", p.Name)
			if p.Node != "" {
				fmt.Fprintf(&b, " on %s", p.Node)
			}
			fmt.Fprintf(&b, ": %s", p.State)
			for _, l := range p.Log {
				fmt.Fprintf(&b, "\n    | %s", l)
			}
			for _, w := range p.Warnings {
				fmt.Fprintf(&b, "\n    %s", w)
			}
		}
	}
	return b.String()
}

// Unwrap gives what ended the wait.
func (e *NotReady) Unwrap() error { return e.Err }

// diagnose looks closely at what is not ready. The wait may have ended with its
// context, so this has a deadline of its own.
func (h *handle) diagnose(ctx context.Context, missing []rollout) *NotReady {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), diagnosisDeadline)
	defer cancel()
	e := &NotReady{}
	pods := h.pods(ctx, missing)
	for _, r := range missing {
		w := Workload{Name: r.String()}
		if r.problem != "" {
			w.Reasons = append(w.Reasons, r.problem)
		}
		if len(pods[r.workload]) == 0 && r.problem == "" {
			w.Reasons = append(w.Reasons, "there is no Pod of it; the cluster's controller manager makes them")
		}
		w.Reasons = append(w.Reasons, h.warnings(ctx, r.namespace, func(o corev1.ObjectReference) bool {
			// A ReplicaSet's name begins with its Deployment's.
			return o.Kind == r.kind && o.Name == r.name || r.kind == "Deployment" && o.Kind == "ReplicaSet" && strings.HasPrefix(o.Name, r.name+"-")
		})...)
		for _, p := range pods[r.workload] {
			if why := state(&p); why != "" {
				w.Pods = append(w.Pods, h.pod(ctx, &p, why))
			}
		}
		e.Workloads = append(e.Workloads, w)
	}
	return e
}

func (h *handle) pod(ctx context.Context, p *corev1.Pod, why string) Pod {
	d := Pod{Name: p.Name, Node: p.Spec.NodeName, State: why}
	d.Warnings = h.warnings(ctx, p.Namespace, func(o corev1.ObjectReference) bool { return o.Kind == "Pod" && o.UID == p.UID })
	if s := faulty(p); s != nil {
		d.Log = h.log10(ctx, p, s)
	}
	return d
}

// faulty is the first container that is not ready, if it ever ran.
func faulty(p *corev1.Pod) *corev1.ContainerStatus {
	for _, s := range statuses(p) {
		finished := s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
		if !s.Ready && !finished && (s.State.Waiting == nil || s.LastTerminationState.Terminated != nil) {
			return &s
		}
	}
	return nil
}

// state says in one line why a Pod is not ready; empty if it is.
func state(p *corev1.Pod) string {
	if p.DeletionTimestamp != nil {
		return "it is ending"
	}
	for _, s := range statuses(p) {
		if w := s.State.Waiting; w != nil {
			why := "container " + s.Name + " is waiting: " + reason(w.Reason, w.Message)
			if t := s.LastTerminationState.Terminated; t != nil {
				why += "; " + ends(s.RestartCount, t)
			}
			return why
		}
		if t := s.State.Terminated; t != nil && t.ExitCode != 0 {
			return "container " + s.Name + " ended with " + exit(t)
		}
	}
	for _, s := range statuses(p) {
		if !s.Ready && s.State.Running != nil {
			why := "container " + s.Name + " runs and is not ready"
			if t := s.LastTerminationState.Terminated; t != nil {
				why += "; " + ends(s.RestartCount, t)
			}
			return why
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return "no node for it: " + reason(c.Reason, c.Message)
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return ""
		}
	}
	if p.Status.Phase == corev1.PodFailed {
		return "it failed: " + reason(p.Status.Reason, p.Status.Message)
	}
	if p.Spec.NodeName == "" {
		return "the scheduler has not looked at it"
	}
	return "node " + p.Spec.NodeName + " has not begun with it"
}

// glance is state without the messages.
func glance(p *corev1.Pod) string {
	if p.DeletionTimestamp != nil {
		return "one is ending"
	}
	for _, s := range statuses(p) {
		if w := s.State.Waiting; w != nil {
			return s.Name + ": " + w.Reason
		}
	}
	why, _, _ := strings.Cut(state(p), ":")
	return why
}

func reason(reason, message string) string {
	message = strings.Join(strings.Fields(message), " ")
	switch {
	case message == "":
		return reason
	case reason == "":
		return message
	}
	return reason + ": " + message
}

func ends(times int32, t *corev1.ContainerStateTerminated) string {
	if times <= 1 {
		return "it ended once, with " + exit(t)
	}
	return fmt.Sprintf("it ended %d times, last with %s", times, exit(t))
}

func exit(t *corev1.ContainerStateTerminated) string {
	if t.Reason == "" || t.Reason == "Error" {
		return fmt.Sprintf("exit code %d", t.ExitCode)
	}
	return fmt.Sprintf("exit code %d (%s)", t.ExitCode, t.Reason)
}

// log10 is the end of a container's log, of its last life if it does not run. Where logs cannot be
// had, the Pod's status holds the end of one.
func (h *handle) log10(ctx context.Context, p *corev1.Pod, s *corev1.ContainerStatus) []string {
	ctx, cancel := context.WithTimeout(ctx, logDeadline)
	defer cancel()
	lines := int64(logLines)
	limit := int64(1 << 16)
	opts := &corev1.PodLogOptions{Container: s.Name, TailLines: &lines, LimitBytes: &limit}
	opts.Previous = s.State.Waiting != nil
	stream, err := h.client.CoreV1().Pods(p.Namespace).GetLogs(p.Name, opts).Stream(ctx)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(stream)
		stream.Close()
	}
	if len(bytes.TrimSpace(text)) > 0 {
		return tail(string(text))
	}
	for _, t := range []*corev1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
		if t != nil && strings.TrimSpace(t.Message) != "" {
			return tail(t.Message)
		}
	}
	if err != nil {
		return []string{"(its log cannot be had: " + err.Error() + ")"}
	}
	return nil
}

func tail(text string) []string {
	var lines []string
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		if l := strings.TrimRight(s.Text(), " \r\t"); l != "" {
			lines = append(lines, l)
		}
	}
	return lines[max(0, len(lines)-logLines):]
}

// warnings are the last of those that concern an object, newest last.
func (h *handle) warnings(ctx context.Context, namespace string, of func(corev1.ObjectReference) bool) []string {
	list, err := h.client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("type", corev1.EventTypeWarning).String()})
	if err != nil {
		return []string{"(events cannot be had: " + err.Error() + ")"}
	}
	when := func(e corev1.Event) time.Time {
		t := e.LastTimestamp.Time
		for _, other := range []time.Time{e.EventTime.Time, e.CreationTimestamp.Time} {
			if t.IsZero() {
				t = other
			}
		}
		if e.Series != nil {
			t = e.Series.LastObservedTime.Time
		}
		return t
	}
	events := slices.DeleteFunc(list.Items, func(e corev1.Event) bool { return !of(e.InvolvedObject) })
	slices.SortFunc(events, func(a, b corev1.Event) int { return when(a).Compare(when(b)) })
	var lines []string
	for _, e := range events[max(0, len(events)-eventLines):] {
		line := "Warning " + reason(e.Reason, e.Message)
		if n := max(e.Count, seriesCount(e)); n > 1 {
			line += fmt.Sprintf(" (%d times)", n)
		}
		lines = append(lines, line)
	}
	return lines
}

func seriesCount(e corev1.Event) int32 {
	if e.Series == nil {
		return 0
	}
	return e.Series.Count
}
