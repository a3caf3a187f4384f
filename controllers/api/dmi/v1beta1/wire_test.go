package v1beta1_test

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	dmi "github.com/fluidos-edge/testbed/controllers/api/dmi/v1beta1"
)

// interfaces is KubeEdge v1.23.1's api.proto as it is on the wire, but for what
// dmi.proto reserves: each message with its fields' numbers and kinds, each
// method with what it takes and gives.
const interfaces = `
MapperRegisterRequest: withData=1 bool, mapper=2 MapperInfo
MapperRegisterResponse: modelList=1 []DeviceModel, deviceList=2 []Device
MapperInfo: name=1 string, version=2 string, apiVersion=3 string, protocol=4 string, address=5 bytes, state=6 string
DeviceModel: name=1 string, spec=2 DeviceModelSpec, namespace=3 string
DeviceModelSpec: properties=1 []ModelProperty
ModelProperty: name=1 string, description=2 string, type=3 string, accessMode=4 string, minimum=5 string, maximum=6 string, unit=7 string
Device: name=1 string, spec=2 DeviceSpec, status=3 DeviceStatus, namespace=4 string
DeviceSpec: deviceModelReference=1 string, protocol=2 ProtocolConfig, properties=3 []DeviceProperty
DeviceProperty: name=1 string, desired=2 TwinProperty, visitors=3 VisitorConfig, reportCycle=4 int64, collectCycle=5 int64, reportToCloud=6 bool
ProtocolConfig: protocolName=1 string, configData=2 CustomizedValue
VisitorConfig: protocolName=1 string, configData=2 CustomizedValue
CustomizedValue: data=1 map[string]Any
DeviceStatus: twins=1 []Twin, reportToCloud=2 bool, reportCycle=3 int64
Twin: propertyName=1 string, observedDesired=2 TwinProperty, reported=3 TwinProperty
TwinProperty: value=1 string, metadata=2 map[string]string
ReportDeviceStatusRequest: deviceName=1 string, reportedDevice=2 DeviceStatus, deviceNamespace=3 string
ReportDeviceStatusResponse:
ReportDeviceStatesRequest: deviceName=1 string, deviceNamespace=2 string, state=3 string
ReportDeviceStatesResponse:
RegisterDeviceRequest: device=1 Device
RegisterDeviceResponse: deviceName=1 string, deviceNamespace=2 string
RemoveDeviceRequest: deviceName=1 string, deviceNamespace=2 string
RemoveDeviceResponse:
UpdateDeviceRequest: device=1 Device
UpdateDeviceResponse:
CreateDeviceModelRequest: model=1 DeviceModel
CreateDeviceModelResponse: deviceModelName=1 string, deviceModelNamespace=2 string
RemoveDeviceModelRequest: modelName=1 string, modelNamespace=2 string
RemoveDeviceModelResponse:
UpdateDeviceModelRequest: model=1 DeviceModel
UpdateDeviceModelResponse:
GetDeviceRequest: deviceName=1 string, deviceNamespace=2 string
GetDeviceResponse: device=1 Device
/v1beta1.DeviceManagerService/MapperRegister(MapperRegisterRequest) MapperRegisterResponse
/v1beta1.DeviceManagerService/ReportDeviceStatus(ReportDeviceStatusRequest) ReportDeviceStatusResponse
/v1beta1.DeviceManagerService/ReportDeviceStates(ReportDeviceStatesRequest) ReportDeviceStatesResponse
/v1beta1.DeviceMapperService/RegisterDevice(RegisterDeviceRequest) RegisterDeviceResponse
/v1beta1.DeviceMapperService/RemoveDevice(RemoveDeviceRequest) RemoveDeviceResponse
/v1beta1.DeviceMapperService/UpdateDevice(UpdateDeviceRequest) UpdateDeviceResponse
/v1beta1.DeviceMapperService/CreateDeviceModel(CreateDeviceModelRequest) CreateDeviceModelResponse
/v1beta1.DeviceMapperService/RemoveDeviceModel(RemoveDeviceModelRequest) RemoveDeviceModelResponse
/v1beta1.DeviceMapperService/UpdateDeviceModel(UpdateDeviceModelRequest) UpdateDeviceModelResponse
/v1beta1.DeviceMapperService/GetDevice(GetDeviceRequest) GetDeviceResponse
`

func TestNumbersAreKubeEdges(t *testing.T) {
	file := dmi.File_v1beta1_dmi_proto
	var got strings.Builder
	for i := range file.Messages().Len() {
		m := file.Messages().Get(i)
		fmt.Fprintf(&got, "%s:", m.Name())
		for j := range m.Fields().Len() {
			f := m.Fields().Get(j)
			fmt.Fprintf(&got, "%s %s=%d %s", strings.Repeat(",", min(j, 1)), f.JSONName(), f.Number(), kind(f))
		}
		fmt.Fprintln(&got)
	}
	for i := range file.Services().Len() {
		s := file.Services().Get(i)
		for j := range s.Methods().Len() {
			m := s.Methods().Get(j)
			fmt.Fprintf(&got, "/%s/%s(%s) %s\n", s.FullName(), m.Name(), m.Input().Name(), m.Output().Name())
			if m.IsStreamingClient() || m.IsStreamingServer() {
				t.Errorf("%s streams; want one message each way", m.FullName())
			}
		}
	}
	if diff := cmp.Diff(sorted(interfaces), sorted(got.String())); diff != "" {
		t.Errorf("not what KubeEdge has on the wire (-KubeEdge +ours):\n%s", diff)
	}
}

func sorted(text string) map[string]bool {
	lines := map[string]bool{}
	for line := range strings.Lines(strings.TrimSpace(text)) {
		lines[strings.TrimSpace(line)] = true
	}
	return lines
}

func kind(f protoreflect.FieldDescriptor) string {
	name := func(f protoreflect.FieldDescriptor) string {
		if f.Message() != nil {
			return string(f.Message().Name())
		}
		return f.Kind().String()
	}
	switch {
	case f.IsMap():
		return fmt.Sprintf("map[%s]%s", name(f.MapKey()), name(f.MapValue()))
	case f.IsList():
		return "[]" + name(f)
	default:
		return name(f)
	}
}

func TestBytesAreKubeEdges(t *testing.T) {
	for _, tt := range []struct {
		name    string
		message proto.Message
		fields  []byte
		hex     string
	}{
		{
			name: "a mapper registers",
			message: &dmi.MapperRegisterRequest{WithData: true, Mapper: &dmi.MapperInfo{
				Name: "bluest", Version: "v1", ApiVersion: "v1beta1", Protocol: "bluetooth", Address: []byte("/run/m.sock"), State: "ok",
			}},
			fields: join(number(1, 1), message(2,
				text(1, "bluest"), text(2, "v1"), text(3, "v1beta1"), text(4, "bluetooth"), text(5, "/run/m.sock"), text(6, "ok"))),
			hex: "080112310a06626c75657374120276311a07763162657461312209626c7565746f6f74682a0b2f72756e2f6d2e736f63" +
				"6b32026f6b",
		},
		{
			name: "a property is reported",
			message: &dmi.ReportDeviceStatusRequest{DeviceName: "kt1b", DeviceNamespace: "fluidos", ReportedDevice: &dmi.DeviceStatus{
				Twins: []*dmi.Twin{{
					PropertyName:    "rate",
					ObservedDesired: &dmi.TwinProperty{Value: "5"},
					Reported:        &dmi.TwinProperty{Value: "2.5", Metadata: map[string]string{"type": "float"}},
				}},
				ReportToCloud: true, ReportCycle: 10000,
			}},
			fields: join(text(1, "kt1b"), message(2,
				message(1, text(1, "rate"), message(2, text(1, "5")), message(3, text(1, "2.5"), message(2, text(1, "type"), text(2, "float")))),
				number(2, 1), number(3, 10000),
			), text(3, "fluidos")),
			hex: "0a046b74316212280a210a047261746512030a01351a140a03322e35120d0a04747970651205666c6f6174100118904e" +
				"1a07666c7569646f73",
		},
		{
			name: "a Device with settings",
			message: &dmi.Device{Name: "kt1b", Namespace: "fluidos",
				Spec: &dmi.DeviceSpec{
					DeviceModelReference: "model",
					Protocol: &dmi.ProtocolConfig{ProtocolName: "bluetooth", ConfigData: &dmi.CustomizedValue{
						Data: map[string]*anypb.Any{"mac": wrapped(t, wrapperspb.String("c0:1"))},
					}},
					Properties: []*dmi.DeviceProperty{{
						Name: "rate", Desired: &dmi.TwinProperty{Value: "5"}, ReportCycle: 10000, CollectCycle: 1000, ReportToCloud: true,
						Visitors: &dmi.VisitorConfig{ProtocolName: "bluetooth", ConfigData: &dmi.CustomizedValue{
							Data: map[string]*anypb.Any{"at": wrapped(t, wrapperspb.Float(1.5))},
						}},
					}},
				},
				Status: &dmi.DeviceStatus{ReportCycle: 1},
			},
			fields: join(text(1, "kt1b"), message(2,
				text(1, "model"),
				message(2, text(1, "bluetooth"), message(2, message(1, text(1, "mac"), message(2,
					text(1, "type.googleapis.com/google.protobuf.StringValue"), message(2, text(1, "c0:1")))))),
				message(3, text(1, "rate"), message(2, text(1, "5")),
					message(3, text(1, "bluetooth"), message(2, message(1, text(1, "at"), message(2,
						text(1, "type.googleapis.com/google.protobuf.FloatValue"), message(2, float(1, 0x3fc00000)))))),
					number(4, 10000), number(5, 1000), number(6, 1)),
			), message(3, number(3, 1)), text(4, "fluidos")),
			hex: "0a046b74316212bb010a056d6f64656c124f0a09626c7565746f6f746812420a400a036d616312390a2f747970652e67" +
				"6f6f676c65617069732e636f6d2f676f6f676c652e70726f746f6275662e537472696e6756616c756512060a0463303a" +
				"311a610a047261746512030a01351a4c0a09626c7565746f6f7468123f0a3d0a02617412370a2e747970652e676f6f67" +
				"6c65617069732e636f6d2f676f6f676c652e70726f746f6275662e466c6f617456616c756512050d0000c03f20904e28" +
				"e80730011a0218012207666c7569646f73",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(tt.message)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := hex.EncodeToString(b), hex.EncodeToString(tt.fields); got != want {
				t.Errorf("encoded\n%s, and by KubeEdge's field numbers\n%s", got, want)
			}
			if got := hex.EncodeToString(b); got != tt.hex {
				t.Errorf("encoded\n%s, want\n%s", got, tt.hex)
			}
			back := tt.message.ProtoReflect().New().Interface()
			if err := proto.Unmarshal(tt.fields, back); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.message, back, protocmp.Transform()); diff != "" {
				t.Errorf("decoded (-want +got):\n%s", diff)
			}
		})
	}
}

// What KubeEdge sends and dmi.proto reserves is skipped.
func TestUnknownFieldsAreSkipped(t *testing.T) {
	var got dmi.DeviceProperty
	pushMethod := message(7, message(2, text(1, "tcp://127.0.0.1:1883"), text(2, "topic")))
	if err := proto.Unmarshal(join(text(1, "rate"), pushMethod, number(6, 1)), &got); err != nil {
		t.Fatal(err)
	}
	if got.GetName() != "rate" || !got.GetReportToCloud() {
		t.Errorf("decoded %v, want name rate and reportToCloud true", &got)
	}
}

func join(fields ...[]byte) []byte {
	var all []byte
	for _, f := range fields {
		all = append(all, f...)
	}
	return all
}

func number(n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
}

func float(n protowire.Number, bits uint32) []byte {
	return protowire.AppendFixed32(protowire.AppendTag(nil, n, protowire.Fixed32Type), bits)
}

func text(n protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, n, protowire.BytesType), s)
}

func message(n protowire.Number, fields ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), join(fields...))
}

func wrapped(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
