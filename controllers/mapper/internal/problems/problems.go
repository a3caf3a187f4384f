// Package problems keeps on each Device, as devices.AnnotationProblem, what speaks
// against its board: for as long as it does, while Events expire.
//
// What holds:
//   - Set never waits. What cannot be written yet is written later, for as long as it
//     is the latest; only Drop gives it up.
//   - Only a Device of this node is written to, and only in the version that was
//     looked at: a board that moves is the other node's from the moment on in which
//     its Device says so.
//   - The first Set of a Device compares, whatever it says: an annotation that an
//     earlier mapper left is removed when the board is well.
//   - Requests come one after another. A Device costs a look and a write for each
//     change, at most one each interval, and a look each resync while something is
//     wrong with it. When the API server does not answer there is one try a pause, for
//     all Devices together.
//
// To try it: problems_test.go, or `kubectl get devices -n fluidos -o yaml` beside a
// testbed with a fault.
package problems

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/backoff"
)

// What the writer may do to the API server.
//
// +kubebuilder:rbac:groups=devices.kubeedge.io,resources=devices,namespace=fluidos,verbs=get;patch

const (
	// fieldManager is not that of the mapper's registrations: they own the rest of a
	// Device, and apply it without this annotation.
	fieldManager = "mapper-problem"
	// interval is the shortest time between two writes to one Device.
	interval = 2 * time.Second
	// resync is how often an annotation that should be there is compared.
	resync = 30 * time.Second
	// maxPause is the longest while the API server does not answer, and
	// maxDevicePause that of a Device that is not there, or not this node's.
	maxPause       = 10 * time.Second
	maxDevicePause = 30 * time.Second
	apiTimeout     = 10 * time.Second
)

// Options of a Writer.
type Options struct {
	Client    client.Client
	Namespace string
	// Node is the edge node whose Devices are written to.
	Node string
	Log  *slog.Logger
	// Pause is the first after a failure, doubled with each further one.
	Pause time.Duration
}

// Writer of what speaks against boards. It is safe for concurrent use.
type Writer struct {
	Options
	wake chan struct{}

	mu      sync.Mutex
	entries map[string]*entry
}

// entry is one Device.
type entry struct {
	problem string
	// due is when to compare the Device with problem, zero if there is no need to.
	due time.Time
	// earliest is when the Device may be asked for or written to again.
	earliest time.Time
	retry    backoff.Backoff
}

// New returns a Writer that writes nothing before Run.
func New(o Options) *Writer {
	return &Writer{Options: o, wake: make(chan struct{}, 1), entries: map[string]*entry{}}
}

// Set says what speaks against the board of a Device from now on, "" if nothing
// does. It should be called again only when that changes.
func (w *Writer) Set(device, problem string) {
	now := time.Now()
	w.mu.Lock()
	e := w.entries[device]
	if e == nil {
		e = &entry{retry: backoff.Backoff{First: w.Pause, Max: maxDevicePause}}
		w.entries[device] = e
	}
	e.problem = devices.Printable(problem, devices.MaxProblem)
	e.due = later(now, e.earliest)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Drop forgets a Device: what its annotation says is no longer this node's business.
func (w *Writer) Drop(device string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.entries, device)
}

// Run writes until ctx ends.
func (w *Writer) Run(ctx context.Context) {
	retry := backoff.Backoff{First: w.Pause, Max: maxPause}
	var resume time.Time // no request before
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-w.wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		for {
			device, problem, due := w.next()
			if due.IsZero() {
				timer.Stop()
				break
			}
			if wait := time.Until(later(due, resume)); wait > 0 {
				timer.Reset(wait)
				break
			}
			wrote, err := w.write(ctx, device, problem)
			if ctx.Err() != nil {
				return
			}
			pause := w.done(device, problem, wrote, err)
			switch {
			case err == nil:
				retry.Reset()
			case aboutDevice(err):
				w.Log.Debug("problem of a board will be written again", "device", device, "err", err, "in", pause)
			default:
				all := retry.Pause()
				resume = time.Now().Add(all)
				w.Log.Warn("problem of a board will be written again", "device", device, "err", err, "in", max(all, pause))
			}
		}
	}
}

// next returns the Device that is due first, and when; the zero time if none is.
func (w *Writer) next() (device, problem string, due time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, e := range w.entries {
		if !e.due.IsZero() && (due.IsZero() || e.due.Before(due)) {
			device, problem, due = name, e.problem, e.due
		}
	}
	return device, problem, due
}

// done notes what came of a try, and returns the pause after a failure.
func (w *Writer) done(device, problem string, wrote bool, err error) (pause time.Duration) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.entries[device]
	if e == nil {
		return 0
	}
	if err != nil {
		pause = e.retry.Pause()
		e.earliest = now.Add(pause)
		e.due = e.earliest
		return pause
	}
	e.retry.Reset()
	if wrote {
		e.earliest = now.Add(interval)
	}
	switch {
	case e.problem != problem: // it changed meanwhile
		e.due = later(now, e.earliest)
	case problem != "":
		e.due = now.Add(resync)
	default:
		e.due = time.Time{}
	}
	return 0
}

// errOtherNode says that a Device is not, or not yet, of this node.
var errOtherNode = errors.New("the Device is of node")

// aboutDevice reports whether a failure says nothing about other Devices.
func aboutDevice(err error) bool {
	return errors.Is(err, errOtherNode) || apierrors.IsNotFound(err) || apierrors.IsConflict(err)
}

// write has a Device say what speaks against its board, if it says something else.
func (w *Writer) write(ctx context.Context, device, problem string) (wrote bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	d := &devices.Device{}
	err = w.Client.Get(ctx, client.ObjectKey{Namespace: w.Namespace, Name: device}, d)
	switch {
	case apierrors.IsNotFound(err) && problem == "":
		return false, nil // one that is made later will not have the annotation
	case err != nil:
		return false, fmt.Errorf("get Device %s: %w", device, err)
	case d.Spec.NodeName != w.Node:
		return false, fmt.Errorf("%w %q", errOtherNode, d.Spec.NodeName)
	}
	if is, there := d.Annotations[devices.AnnotationProblem]; is == problem && there == (problem != "") {
		return false, nil
	}
	var value any // null removes it
	if problem != "" {
		value = problem
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"resourceVersion": d.ResourceVersion,
		"annotations":     map[string]any{devices.AnnotationProblem: value},
	}})
	if err != nil {
		return false, err
	}
	if err := w.Client.Patch(ctx, d, client.RawPatch(types.MergePatchType, patch), client.FieldOwner(fieldManager)); err != nil {
		return false, fmt.Errorf("patch Device %s: %w", device, err)
	}
	return true, nil
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
