// Package devicetwin is what EdgeCore (v1.23) knows of one node's Devices: its
// DeviceTwin with the Device Mapper Interface.
//
// The cloud tells a Node of Devices and DeviceModels, one after the other; the
// Node keeps them and tells the mapper of their protocol, with 10 s for each
// call and no second try. A mapper reports twins and states; what they are about
// goes on to the cloud, one message for each twin. What KubeEdge does there:
//   - A mapper gets the Devices of its protocol, and for each its model again,
//     when it registers with data. From then on it is called, in place of the one
//     before it. One that registers without data is kept and not called.
//   - A Device whose model has not come, or whose configData cannot be converted,
//     is kept and not told of.
//   - A Device or model that its mapper could not be told the end of stays, and is
//     among what the next mapper gets.
//   - One request/s is served, 100 at once; more are refused.
//   - A report is answered before anybody has looked at it. If it is of a Device
//     that is no member of the node, or has a name or a value with other letters
//     than a-z A-Z 0-9 - _ . , : / @ #, it is dropped without a word; so is a state
//     other than online, offline, ok, unknown and unhealthy.
//   - A twin's own metadata counts for nothing.
//
// A request that takes EdgeCore down (no mapper, a twin without observedDesired
// or reported) is answered with an error that says so.
package devicetwin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"k8s.io/utils/clock"

	devicesv1 "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	dmi "github.com/fluidos-edge/testbed/controllers/api/dmi/v1beta1"
)

// Report is one message to the cloud: of a twin, or of a Device's state.
type Report struct {
	// Device is "<namespace>/<name>".
	Device string
	// At is when EdgeCore got it.
	At time.Time
	// Property of a twin; empty for a state.
	Property          string
	Reported, Desired string
	// State as it was reported; LastOnline is empty if that is not online or ok.
	State, LastOnline string
}

// Drop is why a report goes nowhere.
type Drop int

const (
	DropUnknown Drop = iota // no such Device on this node
	DropInvalid             // letters or states that KubeEdge does not take
)

// Owner is who a Node is a part of. Its methods do not block.
type Owner interface {
	// Report takes what goes to the cloud.
	Report(Report)
	// Drop counts what does not, Refuse a request that came too soon.
	Drop(Drop)
	Refuse()
	// Spawn runs a function in a goroutine, unless the process ends.
	Spawn(func(context.Context)) bool
}

// Operation is what has happened to an object in the cloud.
type Operation int

const (
	Insert Operation = iota
	Update
	Delete
)

// Node is the DeviceTwin of one node. It has a goroutine only while a mapper is
// being called, and one that accepts from Serve to Close.
type Node struct {
	owner    Owner
	clock    clock.PassiveClock
	log      *slog.Logger
	limiter  *rate.Limiter
	server   *grpc.Server
	listener net.Listener
	serving  sync.WaitGroup

	mu      sync.Mutex
	members map[string]struct{} // Devices that may be reported, by namespace/name
	devices map[string]*devicesv1.Device
	models  map[string]*devicesv1.DeviceModel
	mappers map[string]string // their sockets by protocol
	events  []event           // that mappers have not been told of
	telling bool              // a goroutine is at it
}

type event struct {
	op     Operation
	device *devicesv1.Device
	model  *devicesv1.DeviceModel
}

// New starts nothing.
func New(owner Owner, clk clock.PassiveClock, log *slog.Logger) *Node {
	n := &Node{
		owner: owner, clock: clk, log: log,
		limiter: rate.NewLimiter(1, 100),
		server:  grpc.NewServer(),
		members: map[string]struct{}{},
		devices: map[string]*devicesv1.Device{},
		models:  map[string]*devicesv1.DeviceModel{},
		mappers: map[string]string{},
	}
	n.register()
	return n
}

func key(namespace, name string) string { return namespace + "/" + name }

// Load puts a Device that is no news into what the node knows, and its model if
// that exists.
func (n *Node) Load(d *devicesv1.Device, m *devicesv1.DeviceModel) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.members[key(d.Namespace, d.Name)] = struct{}{}
	n.devices[key(d.Namespace, d.Name)] = d
	if m != nil {
		n.models[key(m.Namespace, m.Name)] = m
	}
}

// Join makes a Device a member, one that may be reported.
func (n *Node) Join(device string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.members[device] = struct{}{}
}

// Leave is the end of a membership.
func (n *Node) Leave(device string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.members, device)
}

// Device takes what has happened to a Device and returns at once.
func (n *Node) Device(op Operation, d *devicesv1.Device) { n.push(event{op: op, device: d}) }

// Model takes what has happened to a DeviceModel and returns at once.
func (n *Node) Model(op Operation, m *devicesv1.DeviceModel) { n.push(event{op: op, model: m}) }

func (n *Node) push(e event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
	if !n.telling {
		n.telling = n.owner.Spawn(n.tell)
	}
}

// tell handles events, one after the other, until there are none.
func (n *Node) tell(ctx context.Context) {
	for {
		n.mu.Lock()
		if len(n.events) == 0 || ctx.Err() != nil {
			n.events, n.telling = nil, false
			n.mu.Unlock()
			return
		}
		e := n.events[0]
		n.events = n.events[1:]
		n.mu.Unlock()
		if e.device != nil {
			id := key(e.device.Namespace, e.device.Name)
			n.untold("device", id, n.tellDevice(ctx, e.op, id, e.device))
		} else {
			id := key(e.model.Namespace, e.model.Name)
			n.untold("model", id, n.tellModel(ctx, e.op, id, e.model))
		}
	}
}

// untold logs why a mapper was not told. That there is none yet is no surprise.
func (n *Node) untold(what, id string, err error) {
	if err == nil {
		return
	}
	level := slog.LevelWarn
	if errors.Is(err, errNoMapper) {
		level = slog.LevelDebug
	}
	n.log.Log(context.Background(), level, "mapper not told", what, id, "err", err)
}

func (n *Node) tellDevice(ctx context.Context, op Operation, id string, d *devicesv1.Device) error {
	if op == Delete {
		socket, err := n.mapper(d.Spec.Protocol.ProtocolName)
		if err != nil {
			return err
		}
		if err := call(ctx, socket, func(ctx context.Context, c dmi.DeviceMapperServiceClient) error {
			_, err := c.RemoveDevice(ctx, &dmi.RemoveDeviceRequest{DeviceName: d.Name, DeviceNamespace: d.Namespace})
			return err
		}); err != nil {
			return err
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.devices, id)
		return nil
	}
	n.mu.Lock()
	if before := n.devices[id]; op == Update && before != nil && sameSpec(before, d) {
		n.mu.Unlock()
		return nil
	}
	n.devices[id] = d
	device, _, err := n.convert(d)
	socket := n.mappers[d.Spec.Protocol.ProtocolName]
	n.mu.Unlock()
	switch {
	case err != nil:
		return err
	case socket == "":
		return noMapper(d.Spec.Protocol.ProtocolName)
	}
	return call(ctx, socket, func(ctx context.Context, c dmi.DeviceMapperServiceClient) error {
		var err error
		if op == Insert {
			_, err = c.RegisterDevice(ctx, &dmi.RegisterDeviceRequest{Device: device})
		} else {
			_, err = c.UpdateDevice(ctx, &dmi.UpdateDeviceRequest{Device: device})
		}
		return err
	})
}

func (n *Node) tellModel(ctx context.Context, op Operation, id string, m *devicesv1.DeviceModel) error {
	if op != Delete {
		n.mu.Lock()
		n.models[id] = m
		n.mu.Unlock()
	}
	socket, err := n.mapper(m.Spec.Protocol)
	if err != nil {
		return err
	}
	err = call(ctx, socket, func(ctx context.Context, c dmi.DeviceMapperServiceClient) error {
		var err error
		switch op {
		case Insert:
			_, err = c.CreateDeviceModel(ctx, &dmi.CreateDeviceModelRequest{Model: ConvertModel(m)})
		case Update:
			_, err = c.UpdateDeviceModel(ctx, &dmi.UpdateDeviceModelRequest{Model: ConvertModel(m)})
		case Delete:
			_, err = c.RemoveDeviceModel(ctx, &dmi.RemoveDeviceModelRequest{ModelName: m.Name, ModelNamespace: m.Namespace})
		}
		return err
	})
	if err == nil && op == Delete {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.models, id)
	}
	return err
}

// sameSpec tells whether two versions of a Device differ at most in the order of
// their properties.
func sameSpec(a, b *devicesv1.Device) bool {
	sorted := func(d *devicesv1.Device) devicesv1.DeviceSpec {
		spec := d.Spec
		spec.Properties = slices.SortedStableFunc(slices.Values(spec.Properties), func(a, b devicesv1.DeviceProperty) int {
			return strings.Compare(a.Name, b.Name)
		})
		return spec
	}
	return reflect.DeepEqual(sorted(a), sorted(b))
}

func (n *Node) mapper(protocol string) (socket string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if socket, ok := n.mappers[protocol]; ok {
		return socket, nil
	}
	return "", noMapper(protocol)
}

var errNoMapper = errors.New("no mapper has registered")

func noMapper(protocol string) error { return fmt.Errorf("protocol %q: %w", protocol, errNoMapper) }

// convert needs the Device's model. Called with mu.
func (n *Node) convert(d *devicesv1.Device) (*dmi.Device, *dmi.DeviceModel, error) {
	if d.Spec.DeviceModelRef == nil {
		return nil, nil, errors.New("it has no deviceModelRef")
	}
	m := n.models[key(d.Namespace, d.Spec.DeviceModelRef.Name)]
	if m == nil {
		return nil, nil, fmt.Errorf("DeviceModel %s has not come to this node", d.Spec.DeviceModelRef.Name)
	}
	device, err := ConvertDevice(d)
	if err != nil {
		return nil, nil, err
	}
	return device, ConvertModel(m), nil
}

// enrol makes socket the one of a protocol's mapper and returns what that mapper
// has to serve.
func (n *Node) enrol(protocol, socket string) *dmi.MapperRegisterResponse {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mappers[protocol] = socket
	out := &dmi.MapperRegisterResponse{}
	for _, id := range slices.Sorted(maps.Keys(n.devices)) {
		d := n.devices[id]
		if d.Spec.Protocol.ProtocolName != protocol {
			continue
		}
		device, model, err := n.convert(d)
		if err != nil {
			n.untold("device", id, err)
			continue
		}
		out.DeviceList = append(out.DeviceList, device)
		out.ModelList = append(out.ModelList, model)
	}
	return out
}

var (
	twinKey   = regexp.MustCompile(`^[a-zA-Z0-9_.,:/@#-]{1,128}$`)
	twinValue = regexp.MustCompile(`^[a-zA-Z0-9_.,:/@#-]{0,512}$`)
)

// reportTwin passes a twin on if KubeEdge would.
func (n *Node) reportTwin(device string, t *dmi.Twin) {
	reported, desired := t.Reported.Value, t.ObservedDesired.Value
	if !twinKey.MatchString(t.PropertyName) || !twinValue.MatchString(reported) || !twinValue.MatchString(desired) {
		n.log.Debug("report dropped: KubeEdge does not take such a value", "device", device, "property", t.PropertyName)
		n.owner.Drop(DropInvalid)
		return
	}
	n.report(Report{Device: device, Property: t.PropertyName, Reported: reported, Desired: desired})
}

// reportState passes a state on if KubeEdge would.
func (n *Node) reportState(device, state string) {
	r := Report{Device: device, State: state}
	switch strings.ToLower(state) {
	case devicesv1.StateOnline, "ok":
		r.LastOnline = n.clock.Now().UTC().Format(time.RFC3339)
	case devicesv1.StateOffline, devicesv1.StateUnhealthy, "unknown":
	default:
		n.log.Debug("report dropped: KubeEdge does not know this state", "device", device, "state", state)
		n.owner.Drop(DropInvalid)
		return
	}
	n.report(r)
}

func (n *Node) report(r Report) {
	n.mu.Lock()
	_, member := n.members[r.Device]
	n.mu.Unlock()
	if !member {
		n.log.Debug("report dropped: no such device on this node", "device", r.Device)
		n.owner.Drop(DropUnknown)
		return
	}
	r.At = n.clock.Now()
	n.owner.Report(r)
}
