package devicecontroller

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	devicesv1 "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	"github.com/fluidos-edge/testbed/simulators/hollowedge/internal/devicetwin"
)

const (
	// writers talk to the API server at the same time.
	writers = 4
	// retryAfter is a writer's pause after a request that was refused.
	retryAfter = 2 * time.Second
	// requestTimeout is for one request.
	requestTimeout = 15 * time.Second
)

// status is one DeviceStatus as it is or shall be. The Controller's mutex guards it.
type status struct {
	exists  bool   // as far as known
	version string // of our last write
	twins   []devicesv1.Twin
	due     change
	busy    bool // a writer is at it
}

// change is what of a status is not written yet.
type change struct {
	twins             bool
	state, lastOnline string
}

// over is what is due if both changes are, after which c came.
func (c change) over(earlier change) change {
	if c.state == "" {
		c.state = earlier.state
	}
	if c.lastOnline == "" {
		c.lastOnline = earlier.lastOnline
	}
	c.twins = c.twins || earlier.twins
	return c
}

// Report takes what a node reports.
func (c *Controller) Report(r devicetwin.Report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.devices[r.Device]
	if d == nil {
		c.log.Debug("report of a device that does not exist", "device", r.Device)
		return
	}
	s := c.statuses[r.Device]
	if s == nil {
		s = &status{}
		c.statuses[r.Device] = s
	}
	if r.Property != "" {
		s.due.twins = s.report(d, r) || s.due.twins
	} else {
		s.due = change{state: r.State, lastOnline: r.LastOnline}.over(s.due)
	}
	c.due.Add(r.Device)
}

// report puts a reported property into the twins, unless the Device has no such
// property. A twin that was not there comes empty.
func (s *status) report(d *devicesv1.Device, r devicetwin.Report) bool {
	if !slices.ContainsFunc(d.Spec.Properties, func(p devicesv1.DeviceProperty) bool { return p.Name == r.Property }) {
		return false
	}
	i := slices.IndexFunc(s.twins, func(t devicesv1.Twin) bool { return t.PropertyName == r.Property })
	if i < 0 {
		s.twins = append(s.twins, devicesv1.Twin{
			PropertyName: r.Property, ObservedDesired: &devicesv1.TwinProperty{}, Reported: &devicesv1.TwinProperty{},
		})
		return true
	}
	value := func(v string) *devicesv1.TwinProperty {
		return &devicesv1.TwinProperty{Value: v, Metadata: map[string]string{
			"timestamp": strconv.FormatInt(r.At.UnixMilli(), 10), "type": "string",
		}}
	}
	s.twins[i].Reported, s.twins[i].ObservedDesired = value(r.Reported), value(r.Desired)
	return true
}

// observe takes a DeviceStatus as it is in the API server.
func (c *Controller) observe(o any, update bool) {
	got, ok := o.(*devicesv1.DeviceStatus)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.statuses[key(got)]
	if s == nil {
		s = &status{}
		c.statuses[key(got)] = s
	}
	s.exists = true
	// While something is on its way, or this is older than what was written, we know better.
	if order, err := resourceversion.CompareResourceVersion(got.ResourceVersion, s.version); !s.busy && !s.due.twins && (err != nil || order >= 0) {
		s.twins = got.DeepCopy().Status.Twins
	}
	if d := c.devices[key(got)]; update && d != nil {
		s.twins = slices.DeleteFunc(s.twins, func(t devicesv1.Twin) bool {
			return !slices.ContainsFunc(d.Spec.Properties, func(p devicesv1.DeviceProperty) bool { return p.Name == t.PropertyName })
		})
	}
	c.log.Debug("device status seen", "device", key(got))
}

func (c *Controller) observeEnd(o any) {
	var id string
	switch o := o.(type) {
	case *devicesv1.DeviceStatus:
		id = key(o)
	case cache.DeletedFinalStateUnknown:
		id = o.Key
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.statuses[id]; s != nil && s.due != (change{}) {
		s.exists = false
		return
	}
	delete(c.statuses, id)
}

// write writes what is due until the queue is shut down.
func (c *Controller) write(ctx context.Context) {
	for {
		id, shutdown := c.due.Get()
		if shutdown {
			return
		}
		err := c.writeOne(ctx, id)
		c.due.Done(id)
		if ctx.Err() != nil {
			return
		}
		c.tell(id, err)
		if err == nil {
			continue
		}
		if c.wait(ctx, retryAfter) != nil {
			return
		}
		c.due.Add(id)
	}
}

// tell logs when writing begins and ceases to fail, not each time it does.
func (c *Controller) tell(id string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch before := len(c.failing); {
	case err != nil:
		c.failing[id] = struct{}{}
		level := slog.LevelDebug
		if before == 0 {
			level = slog.LevelWarn
		}
		c.log.Log(context.Background(), level, "device status not written, trying again", "device", id, "err", err)
	case before > 0:
		delete(c.failing, id)
		if len(c.failing) == 0 {
			c.log.Info("device statuses are written again")
		}
	}
}

// writeOne writes what is due of one DeviceStatus; it makes it if it is not there.
func (c *Controller) writeOne(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	c.mu.Lock()
	s, d := c.statuses[id], c.devices[id]
	if d == nil || s == nil || s.exists && s.due == (change{}) {
		if s != nil {
			s.due = change{}
			if !s.exists {
				delete(c.statuses, id)
			}
		}
		c.mu.Unlock()
		return nil
	}
	exists, doing := s.exists, s.due
	content := devicesv1.DeviceStatusStatus{State: doing.state, LastOnlineTime: doing.lastOnline}
	if doing.twins || !exists {
		content.Twins = slices.Clone(s.twins)
	}
	s.due, s.busy = change{}, true
	c.mu.Unlock()

	version, err := c.put(ctx, d, exists, content)
	c.mu.Lock()
	defer c.mu.Unlock()
	s.busy = false
	switch {
	case err == nil:
		s.exists, s.version = true, version
		return nil
	case !exists && apierrors.IsAlreadyExists(err), exists && apierrors.IsNotFound(err):
		s.exists, err = !exists, nil
		c.due.Add(id)
	}
	s.due = s.due.over(doing)
	return err
}

func (c *Controller) put(ctx context.Context, d *devicesv1.Device, exists bool, content devicesv1.DeviceStatusStatus) (version string, err error) {
	o := &devicesv1.DeviceStatus{ObjectMeta: metav1.ObjectMeta{Namespace: d.Namespace, Name: d.Name}}
	if !exists {
		o.Status = content
		if err := controllerutil.SetControllerReference(d, o, c.client.Scheme()); err != nil {
			return "", err
		}
		if err := c.client.Create(ctx, o); err != nil {
			return "", fmt.Errorf("create DeviceStatus %s: %w", key(o), err)
		}
		return o.ResourceVersion, nil
	}
	patch, err := json.Marshal(map[string]any{"status": content})
	if err != nil {
		return "", err
	}
	if err := c.client.Patch(ctx, o, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return "", fmt.Errorf("patch DeviceStatus %s: %w", key(o), err)
	}
	return o.ResourceVersion, nil
}
