package devicetwin_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	devicesv1 "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	dmi "github.com/fluidos-edge/testbed/controllers/api/dmi/v1beta1"
	"github.com/fluidos-edge/testbed/simulators/hollowedge/internal/devicetwin"
)

func wrap(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestConvertDevice(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		in   string
		want *dmi.Device
		err  string
	}{
		"nothing": {
			in:   `{"metadata": {"name": "a", "namespace": "n", "annotations": {"a": "b"}, "labels": {"a": "b"}}}`,
			want: &dmi.Device{Name: "a", Namespace: "n", Status: &dmi.DeviceStatus{}, Spec: &dmi.DeviceSpec{Protocol: &dmi.ProtocolConfig{}}},
		},
		"every kind of value": {
			in: `{"spec": {"protocol": {"protocolName": "p", "configData": {"s": "x", "b": true, "i": 7, "f": 0.1, "big": 1e300, "e": ""}}}}`,
			want: &dmi.Device{Status: &dmi.DeviceStatus{}, Spec: &dmi.DeviceSpec{Protocol: &dmi.ProtocolConfig{ProtocolName: "p",
				ConfigData: &dmi.CustomizedValue{Data: map[string]*anypb.Any{
					"s": wrap(t, wrapperspb.String("x")), "b": wrap(t, wrapperspb.Bool(true)), "i": wrap(t, wrapperspb.Float(7)),
					"f": wrap(t, wrapperspb.Float(0.1)), "big": wrap(t, wrapperspb.Float(inf())), "e": wrap(t, wrapperspb.String("")),
				}}}}},
		},
		"a property": {
			in: `{"spec": {"deviceModelRef": {"name": "m"}, "properties": [{"name": "r", "desired": {"value": "1", "metadata": {"type": "float"}},
				"collectCycle": 1, "reportCycle": 2, "reportToCloud": true, "visitors": {"protocolName": "p", "configData": {"s": "x"}}}, {"name": "q"}]}}`,
			want: &dmi.Device{Status: &dmi.DeviceStatus{}, Spec: &dmi.DeviceSpec{DeviceModelReference: "m", Protocol: &dmi.ProtocolConfig{},
				Properties: []*dmi.DeviceProperty{
					{Name: "r", Desired: &dmi.TwinProperty{Value: "1", Metadata: map[string]string{"type": "float"}},
						CollectCycle: 1, ReportCycle: 2, ReportToCloud: true,
						Visitors: &dmi.VisitorConfig{ProtocolName: "p", ConfigData: &dmi.CustomizedValue{Data: map[string]*anypb.Any{"s": wrap(t, wrapperspb.String("x"))}}}},
					{Name: "q", Desired: &dmi.TwinProperty{}, Visitors: &dmi.VisitorConfig{}},
				}}},
		},
		"empty configData": {
			in: `{"spec": {"protocol": {"configData": {}}}}`,
			want: &dmi.Device{Status: &dmi.DeviceStatus{}, Spec: &dmi.DeviceSpec{Protocol: &dmi.ProtocolConfig{
				ConfigData: &dmi.CustomizedValue{}}}},
		},
		"null":            {in: `{"spec": {"protocol": {"configData": {"a": null}}}}`, err: "protocol.configData: a:"},
		"list":            {in: `{"spec": {"protocol": {"configData": {"a": [1]}}}}`, err: "protocol.configData: a:"},
		"object":          {in: `{"spec": {"properties": [{}, {"visitors": {"configData": {"a": {"b": 1}}}}]}}`, err: "properties[1].visitors.configData: a:"},
		"field data":      {in: `{"spec": {"protocol": {"configData": {"DaTa": "x"}}}}`, err: "protocol.configData: DaTa:"},
		"no object":       {in: `{"spec": {"protocol": {"configData": "x"}}}`, err: "protocol.configData: "},
		"no float64":      {in: `{"spec": {"protocol": {"configData": {"a": 1e999}}}}`, err: "protocol.configData: "},
		"null configData": {in: `{"spec": {"protocol": {"configData": null}}}`, want: &dmi.Device{Status: &dmi.DeviceStatus{}, Spec: &dmi.DeviceSpec{Protocol: &dmi.ProtocolConfig{}}}},
	} {
		t.Run(name, func(t *testing.T) {
			var d devicesv1.Device
			if err := json.Unmarshal([]byte(test.in), &d); err != nil {
				t.Fatal(err)
			}
			got, err := devicetwin.ConvertDevice(&d)
			switch {
			case test.err == "" && err != nil:
				t.Error(err)
			case test.err != "" && (err == nil || !strings.HasPrefix(err.Error(), test.err)):
				t.Errorf("got %v, want an error that begins with %q", err, test.err)
			}
			if diff := cmp.Diff(test.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// inf is what a number is that a FloatValue cannot hold.
func inf() float32 {
	huge := 1e300
	return float32(huge)
}

func FuzzConvert(f *testing.F) {
	for _, seed := range []string{
		`{"metadata": {"name": "a"}, "spec": {"protocol": {"protocolName": "bluest", "configData": {"mac": "c0:ff:ee:00:00:01", "rssi": -61.5, "random": true}}}}`,
		`{"spec": {"deviceModelRef": {}, "properties": [{"name": "r", "desired": {"value": "1"}, "visitors": {"configData": {"a": 1e300}}}]}}`,
		`{"spec": {"protocol": {"configData": {"a": null, "data": [], "b": {"c": 1e999}}}}}`,
		"{\"metadata\": {\"name\": \"\xff\"}, \"spec\": {\"protocol\": {\"configData\": {\"\xfe\": \"\xfd\"}}}}",
		`{"spec": {"protocol": {"configData": [1]}, "properties": null}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var d devicesv1.Device
		if json.Unmarshal(in, &d) != nil {
			return
		}
		got, err := devicetwin.ConvertDevice(&d)
		if err != nil {
			if got != nil {
				t.Fatalf("both %v and %v", got, err)
			}
			return
		}
		b, err := proto.Marshal(got)
		if err != nil {
			t.Fatalf("%q cannot be sent: %v", in, err)
		}
		var back dmi.Device
		if err := proto.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		if back.Name != d.Name || len(back.Spec.Properties) != len(d.Spec.Properties) || back.Status == nil {
			t.Fatalf("%q became %v", in, &back)
		}
		values := []*dmi.CustomizedValue{back.Spec.Protocol.ConfigData}
		for _, p := range back.Spec.Properties {
			if p.Desired == nil || p.Visitors == nil {
				t.Fatalf("%q became %v", in, p)
			}
			values = append(values, p.Visitors.ConfigData)
		}
		for _, v := range values {
			for name, a := range v.GetData() {
				m, err := a.UnmarshalNew()
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				switch m.(type) {
				case *wrapperspb.StringValue, *wrapperspb.BoolValue, *wrapperspb.FloatValue:
				default:
					t.Fatalf("%s is a %T", name, m)
				}
			}
		}
	})
}
