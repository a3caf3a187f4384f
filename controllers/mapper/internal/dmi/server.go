package dmi

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/fluidos-edge/testbed/controllers/api/dmi/v1beta1"
)

// server is what the edge runtime calls. No call waits for anything, and only one that
// makes no sense fails: the edge runtime does not repeat it, and goes on naming a
// Device whose removal failed.
type server struct {
	api.UnimplementedDeviceMapperServiceServer
	*Agent
}

func (s server) RegisterDevice(_ context.Context, r *api.RegisterDeviceRequest) (*api.RegisterDeviceResponse, error) {
	if err := s.put(r.GetDevice()); err != nil {
		return nil, err
	}
	return &api.RegisterDeviceResponse{DeviceName: r.GetDevice().GetName(), DeviceNamespace: r.GetDevice().GetNamespace()}, nil
}

func (s server) UpdateDevice(_ context.Context, r *api.UpdateDeviceRequest) (*api.UpdateDeviceResponse, error) {
	if err := s.put(r.GetDevice()); err != nil {
		return nil, err
	}
	return &api.UpdateDeviceResponse{}, nil
}

func (s server) put(d *api.Device) error {
	device, model, ok := s.take(d)
	if !ok {
		return status.Errorf(codes.InvalidArgument, "device %q in namespace %q of protocol %q: want both names and protocol %q",
			d.GetName(), d.GetNamespace(), d.GetSpec().GetProtocol().GetProtocolName(), s.options.Protocol)
	}
	s.devices.put(device, model)
	notify(s.events)
	notify(s.reports)
	return nil
}

func (s server) RemoveDevice(_ context.Context, r *api.RemoveDeviceRequest) (*api.RemoveDeviceResponse, error) {
	s.devices.remove(key{r.GetDeviceNamespace(), r.GetDeviceName()})
	notify(s.events)
	return &api.RemoveDeviceResponse{}, nil
}

func (s server) CreateDeviceModel(_ context.Context, r *api.CreateDeviceModelRequest) (*api.CreateDeviceModelResponse, error) {
	s.devices.putModel(r.GetModel())
	return &api.CreateDeviceModelResponse{DeviceModelName: r.GetModel().GetName(), DeviceModelNamespace: r.GetModel().GetNamespace()}, nil
}

func (s server) UpdateDeviceModel(_ context.Context, r *api.UpdateDeviceModelRequest) (*api.UpdateDeviceModelResponse, error) {
	s.devices.putModel(r.GetModel())
	return &api.UpdateDeviceModelResponse{}, nil
}

func (s server) RemoveDeviceModel(_ context.Context, r *api.RemoveDeviceModelRequest) (*api.RemoveDeviceModelResponse, error) {
	s.devices.removeModel(key{r.GetModelNamespace(), r.GetModelName()})
	return &api.RemoveDeviceModelResponse{}, nil
}

func (s server) GetDevice(_ context.Context, r *api.GetDeviceRequest) (*api.GetDeviceResponse, error) {
	k := key{r.GetDeviceNamespace(), r.GetDeviceName()}
	twins, ok := s.devices.lastTwins(k)
	if !ok {
		return nil, status.Errorf(codes.NotFound, "no device %s in namespace %s", k.name, k.namespace)
	}
	return &api.GetDeviceResponse{Device: &api.Device{
		Name:      k.name,
		Namespace: k.namespace,
		Status:    &api.DeviceStatus{Twins: s.devices.wire(k, twins)},
	}}, nil
}

// take reads a Device, and says what of it is left out. It is false for one that
// has no name or is of another protocol.
func (a *Agent) take(d *api.Device) (Device, string, bool) {
	device, model, err := convert(d)
	if err != nil {
		a.options.Log.Warn("Device of the edge runtime", "namespace", d.GetNamespace(), "name", d.GetName(), "error", err)
	}
	return device, model, device.Name != "" && d.GetSpec().GetProtocol().GetProtocolName() == a.options.Protocol
}
