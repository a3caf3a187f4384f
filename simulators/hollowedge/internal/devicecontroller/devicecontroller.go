// Package devicecontroller is CloudCore's (v1.23) device controller, with what
// its CloudHub and its sync do to it: it tells nodes of their Devices, and writes
// what nodes report into DeviceStatuses.
//
// What KubeEdge does and so does this:
//   - Events of Devices are handled one after the other. A Device joins its node;
//     its DeviceModel goes before it unless another Device of that node has the
//     same; it goes last, and its model before it if no other Device needs it.
//   - A change of spec goes to the node, with the model if that has changed too; a
//     change of nodeName is an end there and a beginning here; a change of anything
//     else, and of a DeviceModel alone, goes nowhere.
//   - A Device whose DeviceModel does not exist holds up all others for 9 s, each
//     time something happens to it, and goes without.
//   - What is sent to a node that is cut off is lost: a Device of that time is no
//     member of its node, and nothing that is reported of it counts. What CloudCore
//     sends later than 5 s after the change is lost too: by then its sync has put it
//     into EdgeCore's database, where nobody looks before EdgeCore starts again.
//   - A Device that was deleted in a gap of the watch stays known; one that was
//     deleted and made again in one is an update.
//   - Every Device, with a node or without, has a DeviceStatus with its name that it
//     owns. One that somebody deletes comes back with the next report.
//   - The first report of a property leaves an empty twin; its values are lost.
//     reportToCloud plays no part. A property that the Device does not have is
//     ignored; one that it has no longer goes with the next report.
//   - lastOnlineTime stays when a Device goes offline.
//
// Deliberate differences: DeviceStatuses are written one request for all that was
// reported meanwhile, the latest winning, and again if the API server refused
// (CloudCore writes each twin once); a Device whose DeviceStatus could not be made
// goes to its node all the same; a Device without deviceModelRef is ignored (it
// takes CloudCore down).
package devicecontroller

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	devicesv1 "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	"github.com/fluidos-edge/testbed/simulators/hollowedge/internal/devicetwin"
	"github.com/fluidos-edge/testbed/simulators/hollowedge/internal/informer"
)

const (
	// syncEvery is how often CloudCore compares what nodes have with what there is.
	syncEvery = 5 * time.Second
	// modelAttempts and modelPause are how CloudCore looks for a DeviceModel.
	modelAttempts = 10
	modelPause    = time.Second
)

// Controller follows Devices. Its methods may be called by any goroutine.
type Controller struct {
	client client.WithWatch
	clock  clock.Clock
	log    *slog.Logger
	node   func(name string) (twin *devicetwin.Node, connected bool)
	due    workqueue.TypedInterface[string] // DeviceStatuses to write

	mu       sync.Mutex
	devices  map[string]*devicesv1.Device // by namespace/name
	models   map[string]model             // by namespace/name
	sent     map[string]map[string]string // resourceVersions of models that a node has, by node and model
	statuses map[string]*status           // by namespace/name
	failing  map[string]struct{}          // statuses whose last write was refused
	events   []event
	woken    chan struct{}
}

type model struct {
	*devicesv1.DeviceModel
	since time.Time // of its last change
}

// event is something that happened to a Device.
type event struct {
	handle func(ctx context.Context, d *devicesv1.Device, at time.Time)
	device *devicesv1.Device
	at     time.Time
}

// New starts nothing. node finds the DeviceTwin of a node, which is nil if there
// is none, and says whether it can be reached.
func New(c client.WithWatch, clk clock.Clock, log *slog.Logger, node func(name string) (*devicetwin.Node, bool)) *Controller {
	return &Controller{
		client: c, clock: clk, log: log, node: node,
		due:      workqueue.NewTyped[string](),
		devices:  map[string]*devicesv1.Device{},
		models:   map[string]model{},
		sent:     map[string]map[string]string{},
		statuses: map[string]*status{},
		failing:  map[string]struct{}{},
		woken:    make(chan struct{}, 1),
	}
}

func key(o client.Object) string { return o.GetNamespace() + "/" + o.GetName() }

// Run works in g until ctx ends, and returns when the Devices and DeviceModels
// that exist are known to their nodes, as if EdgeCore had had them on disk.
func (c *Controller) Run(ctx context.Context, g *errgroup.Group, ready func(error)) error {
	context.AfterFunc(ctx, c.due.ShutDown)
	for range writers {
		g.Go(func() error {
			c.write(ctx)
			return nil
		})
	}
	g.Go(func() error {
		c.handle(ctx)
		return nil
	})
	ready(errors.New("reading DeviceModels"))
	if err := informer.Follow(ctx, g, c.client, c.log, &devicesv1.DeviceModel{}, &devicesv1.DeviceModelList{}, cache.ResourceEventHandlerFuncs{
		AddFunc:    c.storeModel,
		UpdateFunc: func(_, o any) { c.storeModel(o) },
		DeleteFunc: c.forgetModel,
	}); err != nil {
		return err
	}
	ready(errors.New("reading DeviceStatuses"))
	if err := informer.Follow(ctx, g, c.client, c.log, &devicesv1.DeviceStatus{}, &devicesv1.DeviceStatusList{}, cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { c.observe(o, false) },
		UpdateFunc: func(_, o any) { c.observe(o, true) },
		DeleteFunc: c.observeEnd,
	}); err != nil {
		return err
	}
	ready(errors.New("reading Devices"))
	if err := informer.Follow(ctx, g, c.client, c.log, &devicesv1.Device{}, &devicesv1.DeviceList{}, cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(o any, initial bool) {
			if initial {
				c.push(o, c.loaded)
			} else {
				c.push(o, c.added)
			}
		},
		UpdateFunc: func(_, o any) { c.push(o, c.updated) },
		DeleteFunc: func(o any) { c.push(o, c.deleted) }, // a tombstone is no Device, and goes unseen
	}); err != nil {
		return err
	}
	passed := make(chan struct{})
	c.enqueue(nil, func(context.Context, *devicesv1.Device, time.Time) { close(passed) })
	select {
	case <-passed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Controller) push(o any, handle func(context.Context, *devicesv1.Device, time.Time)) {
	if d, ok := o.(*devicesv1.Device); ok {
		c.enqueue(d, handle)
		c.log.Debug("device seen", "device", key(d))
	}
}

func (c *Controller) enqueue(d *devicesv1.Device, handle func(context.Context, *devicesv1.Device, time.Time)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, event{handle: handle, device: d, at: c.clock.Now()})
	select {
	case c.woken <- struct{}{}:
	default:
	}
}

// handle handles events, one after the other.
func (c *Controller) handle(ctx context.Context) {
	for {
		c.mu.Lock()
		events := c.events
		c.events = nil
		c.mu.Unlock()
		for _, e := range events {
			e.handle(ctx, e.device, e.at)
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-c.woken:
		case <-ctx.Done():
			return
		}
	}
}

func (c *Controller) storeModel(o any) {
	m, ok := o.(*devicesv1.DeviceModel)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.models[key(m)] = model{DeviceModel: m, since: c.clock.Now()}
	c.log.Debug("device model seen", "model", key(m))
}

func (c *Controller) forgetModel(o any) {
	m, ok := o.(*devicesv1.DeviceModel)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.models, key(m))
	c.log.Debug("device model gone", "model", key(m))
}

// loaded takes a Device that was there before.
func (c *Controller) loaded(_ context.Context, d *devicesv1.Device, _ time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.store(d)
	twin, _ := c.node(d.Spec.NodeName)
	if twin == nil || !usable(d, c.log) {
		return
	}
	id := modelKey(d)
	m := c.models[id]
	twin.Load(d, m.DeviceModel)
	if m.DeviceModel != nil {
		c.sentTo(d.Spec.NodeName)[id] = m.ResourceVersion
	}
}

// store makes a Device known and sees to it that it has a DeviceStatus. Called
// with mu.
func (c *Controller) store(d *devicesv1.Device) {
	id := key(d)
	c.devices[id] = d
	if c.statuses[id] == nil {
		c.statuses[id] = &status{}
	}
	if !c.statuses[id].exists {
		c.due.Add(id)
	}
}

// usable tells whether a Device does not take CloudCore down.
func usable(d *devicesv1.Device, log *slog.Logger) bool {
	if d.Spec.DeviceModelRef == nil {
		log.Error("device ignored: it has no deviceModelRef, which takes CloudCore down", "device", key(d))
		return false
	}
	return true
}

func modelKey(d *devicesv1.Device) string { return d.Namespace + "/" + d.Spec.DeviceModelRef.Name }

// sentTo is called with mu.
func (c *Controller) sentTo(node string) map[string]string {
	if c.sent[node] == nil {
		c.sent[node] = map[string]string{}
	}
	return c.sent[node]
}

func (c *Controller) added(ctx context.Context, d *devicesv1.Device, _ time.Time) {
	c.mu.Lock()
	c.store(d)
	c.mu.Unlock()
	if d.Spec.NodeName == "" || !usable(d, c.log) {
		return
	}
	if twin, connected := c.node(d.Spec.NodeName); twin != nil && connected {
		twin.Join(key(d))
	}
	if !c.modelInUse(d) {
		c.sendModel(ctx, devicetwin.Insert, d)
	}
	c.send(devicetwin.Insert, d)
}

func (c *Controller) updated(ctx context.Context, d *devicesv1.Device, at time.Time) {
	c.mu.Lock()
	before := c.devices[key(d)]
	if before != nil {
		c.devices[key(d)] = d
	}
	c.mu.Unlock()
	switch {
	case before == nil:
		c.added(ctx, d, at)
	case reflect.DeepEqual(before.Spec, d.Spec):
	case before.Spec.NodeName != d.Spec.NodeName:
		c.deleted(ctx, before, at)
		c.added(ctx, d, at)
	case usable(d, c.log):
		c.sendModel(ctx, devicetwin.Update, d)
		if c.clock.Since(at) < syncEvery {
			c.send(devicetwin.Update, d)
		} else {
			c.lost("device", key(d), d.Spec.NodeName)
		}
	}
}

func (c *Controller) deleted(ctx context.Context, d *devicesv1.Device, _ time.Time) {
	c.mu.Lock()
	delete(c.devices, key(d))
	c.mu.Unlock()
	if d.Spec.NodeName == "" || !usable(d, c.log) {
		return
	}
	if twin, connected := c.node(d.Spec.NodeName); twin != nil && connected {
		twin.Leave(key(d))
	}
	if !c.modelInUse(d) {
		c.sendModel(ctx, devicetwin.Delete, d)
	}
	c.send(devicetwin.Delete, d)
}

// modelInUse tells whether another Device on the same node has the same model.
func (c *Controller) modelInUse(d *devicesv1.Device) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, other := range c.devices {
		if id != key(d) && other.Spec.NodeName == d.Spec.NodeName && other.Spec.DeviceModelRef != nil && modelKey(other) == modelKey(d) {
			return true
		}
	}
	return false
}

func (c *Controller) send(op devicetwin.Operation, d *devicesv1.Device) {
	twin, connected := c.node(d.Spec.NodeName)
	switch {
	case twin == nil:
	case !connected:
		c.lost("device", key(d), d.Spec.NodeName)
	default:
		twin.Device(op, d)
	}
}

// sendModel sends a Device's model, once it exists. It does not send again what
// the node has.
func (c *Controller) sendModel(ctx context.Context, op devicetwin.Operation, d *devicesv1.Device) {
	id, node := modelKey(d), d.Spec.NodeName
	m, ok := c.findModel(ctx, id)
	if !ok {
		c.log.Warn("device goes without its model, which does not exist", "device", key(d), "model", id)
		return
	}
	twin, connected := c.node(node)
	if twin == nil {
		return
	}
	c.mu.Lock()
	sent := c.sentTo(node)
	version, has := sent[id]
	switch {
	case op != devicetwin.Delete:
		sent[id] = m.ResourceVersion
	case connected:
		delete(sent, id)
	}
	c.mu.Unlock()
	switch {
	case op != devicetwin.Delete && version == m.ResourceVersion:
	case !connected, op != devicetwin.Delete && has && c.clock.Since(m.since) >= syncEvery:
		c.lost("model", id, node)
	default:
		twin.Model(op, m.DeviceModel)
	}
}

func (c *Controller) findModel(ctx context.Context, id string) (model, bool) {
	for i := range modelAttempts {
		c.mu.Lock()
		m, ok := c.models[id]
		c.mu.Unlock()
		if ok {
			return m, true
		}
		if i == modelAttempts-1 || c.wait(ctx, modelPause) != nil {
			break
		}
	}
	return model{}, false
}

func (c *Controller) lost(what, id, node string) {
	c.log.Warn("change did not reach the node's mapper", what, id, "node", node)
}

func (c *Controller) wait(ctx context.Context, d time.Duration) error {
	t := c.clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
