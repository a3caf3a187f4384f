// Package events tells users what happened to a board: as Events on its Device.
//
// What holds:
//   - Recording never waits: not for the API server, and not for the Device to be
//     there. What cannot be written yet is written later, unless maxAge has passed.
//   - There is one Event object for each Device and reason, as `kubectl get events`
//     shows it: what happens again raises its count, at most once in interval.
//   - Memory is bounded by maxEntries; what goes over that is counted as dropped.
//
// To try it: events_test.go, or `kubectl get events -n fluidos` beside a testbed.
package events

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
)

// What the recorder may do to the API server.
//
// +kubebuilder:rbac:groups="",resources=events,namespace=fluidos,verbs=create;patch
// +kubebuilder:rbac:groups=devices.kubeedge.io,resources=devices,namespace=fluidos,verbs=get

const (
	// interval between two writes of one Event.
	interval = 10 * time.Second
	// maxAge of what is not written yet.
	maxAge = 10 * time.Minute
	// freshFor is how long an Event object is written to again. API servers keep
	// them for an hour.
	freshFor   = 50 * time.Minute
	maxEntries = 4096
	apiTimeout = 10 * time.Second
	component  = "mapper"
)

// Options of a Recorder.
type Options struct {
	Client    client.Client
	Namespace string
	// Node is named as the source.
	Node string
	Log  *slog.Logger
	// Pause after a first failure, doubled with each further one up to interval.
	Pause time.Duration
	// Written is told of each write, and Dropped of what is given up; nil: nobody cares.
	Written, Dropped func(reason string)
}

// Recorder of Events. It is safe for concurrent use.
type Recorder struct {
	Options
	wake chan struct{}

	last int64 // that made the name of an Event unique

	mu      sync.Mutex
	entries map[key]*entry
}

type key struct{ device, reason string }

// entry is one Event, and what happened since it was written.
type entry struct {
	message     string
	normal      bool
	pending     int32
	first, last time.Time // of what is pending
	next        time.Time // not written before

	name    string // of the object; "" if there is none
	count   int32
	created time.Time
}

// New is a Recorder that writes nothing before Run.
func New(o Options) *Recorder {
	for _, f := range []*func(string){&o.Written, &o.Dropped} {
		if *f == nil {
			*f = func(string) {}
		}
	}
	return &Recorder{Options: o, wake: make(chan struct{}, 1), entries: map[key]*entry{}}
}

// Record that something happened to a Device now. normal is false for what is wrong.
func (r *Recorder) Record(device, reason, message string, normal bool) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	k := key{device, reason}
	e := r.entries[k]
	if e == nil {
		if len(r.entries) >= maxEntries && !r.evict() {
			r.Dropped(reason)
			return
		}
		e = &entry{}
		r.entries[k] = e
	}
	if e.pending == 0 {
		e.first = now
	}
	e.pending++
	e.last, e.message, e.normal = now, message, normal
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// evict an entry that has nothing to write, the one that was written first.
func (r *Recorder) evict() bool {
	var oldest key
	found := false
	for k, e := range r.entries {
		if e.pending == 0 && (!found || e.last.Before(r.entries[oldest].last)) {
			oldest, found = k, true
		}
	}
	delete(r.entries, oldest)
	return found
}

// Run writes Events until ctx ends.
func (r *Recorder) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	pause := r.Pause
	for {
		select {
		case <-r.wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		for {
			k, at := r.due()
			if at.IsZero() {
				timer.Stop()
				break
			}
			if wait := time.Until(at); wait > 0 {
				timer.Reset(wait)
				break
			}
			err := r.write(ctx, k)
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				pause = r.Pause
				continue
			}
			r.Log.Warn("event will be written again", "device", k.device, "reason", k.reason, "err", err, "in", pause)
			r.postpone(k, pause)
			pause = min(2*pause, interval)
		}
	}
}

// due is what is to be written next, and when; the zero time if there is nothing.
func (r *Recorder) due() (next key, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for k, e := range r.entries {
		if e.pending == 0 {
			continue
		}
		if now.Sub(e.last) > maxAge {
			r.Log.Warn("event is given up", "device", k.device, "reason", k.reason, "message", e.message)
			for range e.pending {
				r.Dropped(k.reason)
			}
			e.pending = 0
			continue
		}
		when := e.next
		if when.Before(e.first) {
			when = e.first
		}
		if at.IsZero() || when.Before(at) {
			next, at = k, when
		}
	}
	return next, at
}

func (r *Recorder) postpone(k key, d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.entries[k]; e != nil {
		e.next = time.Now().Add(d)
	}
}

// write what is pending of an entry.
func (r *Recorder) write(ctx context.Context, k key) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	r.mu.Lock()
	e := *r.entries[k]
	r.mu.Unlock()
	now := time.Now()
	wrote := e.pending
	again := e.name != "" && now.Sub(e.created) < freshFor
	if again {
		err := r.count(ctx, &e)
		if apierrors.IsNotFound(err) {
			again = false
		} else if err != nil {
			return err
		}
	}
	if !again {
		if err := r.create(ctx, k, &e); err != nil {
			return err
		}
		e.created = now
	}
	r.Written(k.reason)
	r.mu.Lock()
	defer r.mu.Unlock()
	live := r.entries[k]
	if live == nil {
		return nil
	}
	live.name, live.count, live.created, live.next = e.name, e.count, e.created, now.Add(interval)
	live.pending -= wrote
	live.first = live.last // of what came meanwhile
	return nil
}

// count what is pending in the object that is there.
func (r *Recorder) count(ctx context.Context, e *entry) error {
	count := e.count + e.pending
	patch, err := json.Marshal(map[string]any{
		"count": count, "message": e.message, "type": e.kind(), "lastTimestamp": metav1.NewTime(e.last),
	})
	if err != nil {
		return err
	}
	o := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: e.name}}
	if err := r.Client.Patch(ctx, o, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return fmt.Errorf("patch event %s: %w", e.name, err)
	}
	e.count = count
	return nil
}

// create the object.
func (r *Recorder) create(ctx context.Context, k key, e *entry) error {
	var d devices.Device
	if err := r.Client.Get(ctx, client.ObjectKey{Namespace: r.Namespace, Name: k.device}, &d); err != nil {
		return fmt.Errorf("get Device %s: %w", k.device, err)
	}
	r.last = max(r.last+1, time.Now().UnixNano())
	o := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: fmt.Sprintf("%s.%x", k.device, r.last)},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: devices.GroupVersion.String(), Kind: "Device",
			Namespace: d.Namespace, Name: d.Name, UID: d.UID, ResourceVersion: d.ResourceVersion,
		},
		Reason: k.reason, Message: e.message, Type: e.kind(),
		Source:         corev1.EventSource{Component: component, Host: r.Node},
		FirstTimestamp: metav1.NewTime(e.first), LastTimestamp: metav1.NewTime(e.last), Count: e.pending,
		ReportingController: component, ReportingInstance: r.Node,
	}
	if err := r.Client.Create(ctx, o); err != nil {
		return fmt.Errorf("create event %s of %s: %w", k.reason, k.device, err)
	}
	e.name, e.count = o.Name, o.Count
	return nil
}

func (e *entry) kind() string {
	if e.normal {
		return corev1.EventTypeNormal
	}
	return corev1.EventTypeWarning
}
