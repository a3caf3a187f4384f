package devicetwin

import (
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"k8s.io/apimachinery/pkg/runtime"

	devicesv1 "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	dmi "github.com/fluidos-edge/testbed/controllers/api/dmi/v1beta1"
)

// ConvertDevice makes of a Device what EdgeCore gives to a mapper: no labels, no
// annotations; desired, visitors and status are always there, if only empty. Of
// configData, strings and booleans are wrapped, every number becomes a
// FloatValue of 32 bits, and anything else (null, lists, objects) is an error, as
// is a field "data", however its letters are written.
func ConvertDevice(d *devicesv1.Device) (*dmi.Device, error) {
	out := &dmi.Device{
		Name:      d.Name,
		Namespace: d.Namespace,
		Spec:      &dmi.DeviceSpec{Protocol: &dmi.ProtocolConfig{ProtocolName: d.Spec.Protocol.ProtocolName}},
		Status:    &dmi.DeviceStatus{},
	}
	if d.Spec.DeviceModelRef != nil {
		out.Spec.DeviceModelReference = d.Spec.DeviceModelRef.Name
	}
	var err error
	if out.Spec.Protocol.ConfigData, err = convertConfig(d.Spec.Protocol.ConfigData); err != nil {
		return nil, fmt.Errorf("protocol.configData: %w", err)
	}
	for i, p := range d.Spec.Properties {
		property := &dmi.DeviceProperty{
			Name:          p.Name,
			Desired:       &dmi.TwinProperty{},
			Visitors:      &dmi.VisitorConfig{ProtocolName: p.Visitors.ProtocolName},
			ReportCycle:   p.ReportCycle,
			CollectCycle:  p.CollectCycle,
			ReportToCloud: p.ReportToCloud,
		}
		if p.Desired != nil {
			property.Desired.Value, property.Desired.Metadata = p.Desired.Value, p.Desired.Metadata
		}
		if property.Visitors.ConfigData, err = convertConfig(p.Visitors.ConfigData); err != nil {
			return nil, fmt.Errorf("properties[%d].visitors.configData: %w", i, err)
		}
		out.Spec.Properties = append(out.Spec.Properties, property)
	}
	return out, nil
}

// ConvertModel makes of a DeviceModel what EdgeCore gives to a mapper.
func ConvertModel(m *devicesv1.DeviceModel) *dmi.DeviceModel {
	out := &dmi.DeviceModel{Name: m.Name, Namespace: m.Namespace, Spec: &dmi.DeviceModelSpec{}}
	for _, p := range m.Spec.Properties {
		out.Spec.Properties = append(out.Spec.Properties, &dmi.ModelProperty{
			Name: p.Name, Description: p.Description, Type: p.Type, AccessMode: p.AccessMode,
			Minimum: p.Minimum, Maximum: p.Maximum, Unit: p.Unit,
		})
	}
	return out
}

func convertConfig(raw *runtime.RawExtension) (*dmi.CustomizedValue, error) {
	if raw == nil || len(raw.Raw) == 0 {
		return nil, nil
	}
	var fields map[string]any
	if err := json.Unmarshal(raw.Raw, &fields); err != nil {
		return nil, err
	}
	if fields == nil {
		return nil, nil
	}
	out := &dmi.CustomizedValue{Data: map[string]*anypb.Any{}}
	for name, value := range fields {
		var wrapped proto.Message
		switch v := value.(type) {
		case string:
			wrapped = wrapperspb.String(v)
		case bool:
			wrapped = wrapperspb.Bool(v)
		case float64:
			wrapped = wrapperspb.Float(float32(v))
		}
		if wrapped == nil || strings.EqualFold(name, "data") {
			return nil, fmt.Errorf("%s: %v is nothing that EdgeCore can convert", name, value)
		}
		a, err := anypb.New(wrapped)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out.Data[name] = a
	}
	return out, nil
}
