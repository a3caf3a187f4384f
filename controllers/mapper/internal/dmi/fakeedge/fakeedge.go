// Package fakeedge is an edge runtime for the tests of a mapper: KubeEdge's side of the
// Device Mapper Interface as v1.23.1 does it, on a real socket, with a cloud that
// always listens.
//
// It keeps its mappers, Devices and models over a Stop and Start, as KubeEdge
// does on disk. It dials a mapper anew for each call. A call that fails is not
// repeated, and a Device whose removal failed stays.
package fakeedge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	dmi "github.com/fluidos-edge/testbed/controllers/api/dmi/v1beta1"
)

// Device is what a mapper reported of one Device.
type Device struct {
	// Twins by property, the newest of each.
	Twins map[string]*dmi.Twin
	State string
	// Reports and States count the calls.
	Reports, States int
}

// Edge is one edge runtime.
type Edge struct {
	socket string

	mu            sync.Mutex
	server        *grpc.Server
	served        chan struct{}
	limiter       *rate.Limiter
	mappers       map[string]*dmi.MapperInfo // by protocol
	devices       []*dmi.Device
	models        []*dmi.DeviceModel
	reported      map[string]Device
	registrations int
	refused       int
	fatal         error
	changed       chan struct{} // closed and made anew at each change
}

// New is an edge runtime on this socket, not started.
func New(socket string) *Edge {
	return &Edge{
		socket:   socket,
		limiter:  rate.NewLimiter(1, 100),
		mappers:  make(map[string]*dmi.MapperInfo),
		reported: make(map[string]Device),
		changed:  make(chan struct{}),
	}
}

// Start serves on a socket made anew.
func (e *Edge) Start() error {
	if err := os.Remove(e.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: e.socket, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	s := grpc.NewServer()
	dmi.RegisterDeviceManagerServiceServer(s, server{edge: e})
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l)
	}()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.server, e.served = s, served
	return nil
}

// Stop ends it as a kill does: connections break and the socket's file stays.
func (e *Edge) Stop() {
	e.mu.Lock()
	s, served := e.server, e.served
	e.server = nil
	e.mu.Unlock()
	if s != nil {
		s.Stop()
		<-served
	}
}

// Limit replaces the limit of 1 call a second and 100 at once.
func (e *Edge) Limit(perSecond rate.Limit, burst int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.limiter = rate.NewLimiter(perSecond, burst)
}

// PutModel adds or replaces a DeviceModel, which must be there before its
// Devices. The mapper of the protocol is told.
func (e *Edge) PutModel(ctx context.Context, protocol string, m *dmi.DeviceModel) error {
	e.mu.Lock()
	i := slices.IndexFunc(e.models, func(o *dmi.DeviceModel) bool {
		return o.GetName() == m.GetName() && o.GetNamespace() == m.GetNamespace()
	})
	if i < 0 {
		e.models = append(e.models, m)
	} else {
		e.models[i] = m
	}
	e.mu.Unlock()
	return e.call(ctx, protocol, func(ctx context.Context, mapper dmi.DeviceMapperServiceClient) error {
		if i < 0 {
			_, err := mapper.CreateDeviceModel(ctx, &dmi.CreateDeviceModelRequest{Model: m})
			return err
		}
		_, err := mapper.UpdateDeviceModel(ctx, &dmi.UpdateDeviceModelRequest{Model: m})
		return err
	})
}

// Put adds or replaces a Device. The mapper of its protocol is told; the Device is
// there even if that fails, or if no such mapper has registered.
func (e *Edge) Put(ctx context.Context, d *dmi.Device) error {
	e.mu.Lock()
	i := e.index(d.GetNamespace(), d.GetName())
	if i < 0 {
		e.devices = append(e.devices, d)
	} else {
		e.devices[i] = d
	}
	e.mu.Unlock()
	return e.call(ctx, d.GetSpec().GetProtocol().GetProtocolName(), func(ctx context.Context, mapper dmi.DeviceMapperServiceClient) error {
		if i < 0 {
			_, err := mapper.RegisterDevice(ctx, &dmi.RegisterDeviceRequest{Device: d})
			return err
		}
		_, err := mapper.UpdateDevice(ctx, &dmi.UpdateDeviceRequest{Device: d})
		return err
	})
}

// Remove a Device, of which the mapper is told first. If that fails, it stays.
func (e *Edge) Remove(ctx context.Context, namespace, name string) error {
	e.mu.Lock()
	i := e.index(namespace, name)
	if i < 0 {
		e.mu.Unlock()
		return fmt.Errorf("no device %s in namespace %s", name, namespace)
	}
	protocol := e.devices[i].GetSpec().GetProtocol().GetProtocolName()
	e.mu.Unlock()
	if err := e.call(ctx, protocol, func(ctx context.Context, mapper dmi.DeviceMapperServiceClient) error {
		_, err := mapper.RemoveDevice(ctx, &dmi.RemoveDeviceRequest{DeviceName: name, DeviceNamespace: namespace})
		return err
	}); err != nil {
		return err
	}
	e.Forget(namespace, name)
	return nil
}

// Forget a Device of which nobody is told, as if it had been removed while this
// edge runtime was down.
func (e *Edge) Forget(namespace, name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.devices = slices.DeleteFunc(e.devices, func(d *dmi.Device) bool {
		return d.GetNamespace() == namespace && d.GetName() == name
	})
	delete(e.reported, namespace+"/"+name)
}

// Get asks the mapper of a protocol for a Device.
func (e *Edge) Get(ctx context.Context, protocol, namespace, name string) (d *dmi.Device, err error) {
	err = e.call(ctx, protocol, func(ctx context.Context, mapper dmi.DeviceMapperServiceClient) error {
		answer, err := mapper.GetDevice(ctx, &dmi.GetDeviceRequest{DeviceName: name, DeviceNamespace: namespace})
		d = answer.GetDevice()
		return err
	})
	return d, err
}

// Reported is what a mapper reported of a Device.
func (e *Edge) Reported(namespace, name string) Device {
	e.mu.Lock()
	defer e.mu.Unlock()
	d := e.reported[namespace+"/"+name]
	twins := make(map[string]*dmi.Twin)
	for p, t := range d.Twins {
		twins[p] = t
	}
	d.Twins = twins
	return d
}

// Mapper that has registered for a protocol, nil if none has.
func (e *Edge) Mapper(protocol string) *dmi.MapperInfo {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mappers[protocol]
}

// Calls counts the registrations that were served, and all calls that were
// refused.
func (e *Edge) Calls() (registrations, refused int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.registrations, e.refused
}

// Await waits until ok, which it asks anew whenever a mapper has called. The error
// says what did not happen, or what would have crashed a real edge runtime.
func (e *Edge) Await(ctx context.Context, what string, ok func() bool) error {
	for {
		e.mu.Lock()
		changed, fatal := e.changed, e.fatal
		e.mu.Unlock()
		if fatal != nil {
			return fatal
		}
		if ok() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s: did not happen: %w", what, ctx.Err())
		}
	}
}

func (e *Edge) index(namespace, name string) int {
	return slices.IndexFunc(e.devices, func(d *dmi.Device) bool {
		return d.GetNamespace() == namespace && d.GetName() == name
	})
}

// call the mapper of a protocol, if one has registered.
func (e *Edge) call(ctx context.Context, protocol string, call func(context.Context, dmi.DeviceMapperServiceClient) error) error {
	mapper := e.Mapper(protocol)
	if mapper == nil {
		return nil
	}
	conn, err := grpc.NewClient("unix://"+string(mapper.GetAddress()), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return call(ctx, dmi.NewDeviceMapperServiceClient(conn))
}

// server is what mappers call.
type server struct {
	dmi.UnimplementedDeviceManagerServiceServer
	edge *Edge
}

// begin a call: the lock is held afterwards, unless it is refused.
func (s server) begin(refusal, name string) error {
	e := s.edge
	e.mu.Lock()
	close(e.changed)
	e.changed = make(chan struct{})
	if !e.limiter.Allow() {
		e.refused++
		e.mu.Unlock()
		return fmt.Errorf("fail to %s because of too many request: %s", refusal, name)
	}
	return nil
}

func (s server) MapperRegister(_ context.Context, r *dmi.MapperRegisterRequest) (*dmi.MapperRegisterResponse, error) {
	if err := s.begin("register mapper", r.GetMapper().GetName()); err != nil {
		return nil, err
	}
	e := s.edge
	defer e.mu.Unlock()
	protocol := r.GetMapper().GetProtocol()
	if protocol == "" {
		return nil, fmt.Errorf("fail to register mapper %s because the protocol is nil", r.GetMapper().GetName())
	}
	e.registrations++
	e.mappers[protocol] = r.GetMapper()
	answer := &dmi.MapperRegisterResponse{}
	if !r.GetWithData() {
		return answer, nil
	}
	for _, d := range e.devices {
		if d.GetSpec().GetProtocol().GetProtocolName() != protocol {
			continue
		}
		for _, m := range e.models {
			if m.GetNamespace() == d.GetNamespace() && m.GetName() == d.GetSpec().GetDeviceModelReference() {
				answer.DeviceList = append(answer.DeviceList, proto.CloneOf(d))
				answer.ModelList = append(answer.ModelList, proto.CloneOf(m))
			}
		}
	}
	return answer, nil
}

func (s server) ReportDeviceStatus(_ context.Context, r *dmi.ReportDeviceStatusRequest) (*dmi.ReportDeviceStatusResponse, error) {
	if err := s.begin("report device status", r.GetDeviceName()); err != nil {
		return nil, err
	}
	e := s.edge
	defer e.mu.Unlock()
	if len(r.GetReportedDevice().GetTwins()) == 0 {
		return nil, errors.New("ReportDeviceStatusRequest does not have twin data")
	}
	k := r.GetDeviceNamespace() + "/" + r.GetDeviceName()
	d := e.reported[k]
	d.Reports++
	if d.Twins == nil {
		d.Twins = make(map[string]*dmi.Twin)
	}
	for _, t := range r.GetReportedDevice().GetTwins() {
		if t.GetObservedDesired() == nil || t.GetReported() == nil {
			e.fatal = fmt.Errorf("twin %s of %s lacks observedDesired or reported, which takes a real edge runtime down", t.GetPropertyName(), k)
		}
		d.Twins[t.GetPropertyName()] = t
	}
	if e.index(r.GetDeviceNamespace(), r.GetDeviceName()) >= 0 {
		e.reported[k] = d
	}
	return &dmi.ReportDeviceStatusResponse{}, nil
}

func (s server) ReportDeviceStates(_ context.Context, r *dmi.ReportDeviceStatesRequest) (*dmi.ReportDeviceStatesResponse, error) {
	if err := s.begin("report device states", r.GetDeviceName()); err != nil {
		return nil, err
	}
	e := s.edge
	defer e.mu.Unlock()
	if r.GetState() == "" || r.GetDeviceName() == "" {
		return nil, errors.New("ReportDeviceStatesRequest is invalid data")
	}
	if e.index(r.GetDeviceNamespace(), r.GetDeviceName()) >= 0 {
		k := r.GetDeviceNamespace() + "/" + r.GetDeviceName()
		d := e.reported[k]
		d.State, d.States = r.GetState(), d.States+1
		e.reported[k] = d
	}
	return &dmi.ReportDeviceStatesResponse{}, nil
}
