package dmi_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	api "github.com/fluidos-edge/testbed/controllers/api/dmi/v1beta1"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/dmi"
)

func wrap(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestConvert(t *testing.T) {
	got, model, err := dmi.Convert(&api.Device{
		Namespace: "fluidos", Name: "kt1b",
		Spec: &api.DeviceSpec{
			DeviceModelReference: "stwinkt1b",
			Protocol: &api.ProtocolConfig{ProtocolName: "bluetooth", ConfigData: &api.CustomizedValue{Data: map[string]*anypb.Any{
				"string": wrap(t, wrapperspb.String("c0:83:2a")),
				"float":  wrap(t, wrapperspb.Float(2.1)),
				"whole":  wrap(t, wrapperspb.Float(12)),
				"double": wrap(t, wrapperspb.Double(1e21)),
				"int32":  wrap(t, wrapperspb.Int32(-3)),
				"int64":  wrap(t, wrapperspb.Int64(math.MinInt64)),
				"uint32": wrap(t, wrapperspb.UInt32(3)),
				"uint64": wrap(t, wrapperspb.UInt64(math.MaxUint64)),
				"bool":   wrap(t, wrapperspb.Bool(true)),
				"bytes":  wrap(t, wrapperspb.Bytes([]byte("abc"))),
				"nil":    nil,
				"struct": wrap(t, &structpb.Struct{}),
				"none":   {TypeUrl: "google.com/"},
				"broken": {TypeUrl: "type.googleapis.com/google.protobuf.StringValue", Value: []byte{0x0a, 0xff}},
			}}},
			Properties: []*api.DeviceProperty{
				{Name: "rate", Desired: &api.TwinProperty{Value: "5"}, CollectCycle: 1000, ReportCycle: 10000, ReportToCloud: true},
				{Name: "temperature", Desired: &api.TwinProperty{}, CollectCycle: -1, ReportCycle: math.MaxInt64},
				{Name: "bare"},
				{},
				nil,
			},
		},
	})
	check(t, "Device", got, dmi.Device{
		Namespace: "fluidos", Name: "kt1b",
		Config: map[string]string{
			"string": "c0:83:2a", "float": "2.1", "whole": "12", "double": "1000000000000000000000", "int32": "-3",
			"int64": "-9223372036854775808", "uint32": "3", "uint64": "18446744073709551615", "bool": "true", "bytes": "abc",
		},
		Properties: map[string]dmi.Property{
			"rate":        {Collect: time.Second, Report: 10 * time.Second, ToCloud: true, Desired: "5", HasDesired: true},
			"temperature": {Report: math.MaxInt64 / time.Millisecond * time.Millisecond},
			"bare":        {},
		},
	})
	check(t, "model", model, "stwinkt1b")
	for _, part := range []string{
		`setting "broken": google.protobuf.StringValue:`,
		`setting "nil": type ""`,
		`setting "none": type "google.com/"`,
		`setting "struct": type google.protobuf.Struct: want a wrapped string, number or truth value`,
	} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v, want one with %s", err, part)
		}
	}
}

func TestConvertWantsAName(t *testing.T) {
	for _, d := range []*api.Device{nil, {}, {Name: "kt1b"}, {Namespace: "fluidos"}} {
		if _, _, err := dmi.Convert(d); err == nil || !strings.Contains(err.Error(), "want both") {
			t.Errorf("%v: %v, want an error that wants both names", d, err)
		}
	}
}

// Whatever the edge runtime sends, a Device comes out of it that has names, times
// that are none below zero, and settings, or an error.
func FuzzConvert(f *testing.F) {
	for _, d := range []*api.Device{
		{},
		{Namespace: "fluidos", Name: "kt1b", Spec: &api.DeviceSpec{
			Protocol: &api.ProtocolConfig{ConfigData: &api.CustomizedValue{Data: map[string]*anypb.Any{
				"mac": wrap(f, wrapperspb.String("c0:83:2a")), "rate": wrap(f, wrapperspb.Float(1.5)), "nil": nil,
				"broken": {TypeUrl: "x/google.protobuf.Int64Value", Value: []byte{0x08}},
			}}},
			Properties: []*api.DeviceProperty{{Name: "rate", Desired: &api.TwinProperty{Value: "5"}, ReportCycle: -5}},
		}},
	} {
		b, err := proto.Marshal(d)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("\x12\x02\x12\x00\n\x01a\x22\x01b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var d api.Device
		if proto.Unmarshal(b, &d) != nil {
			return
		}
		got, _, err := dmi.Convert(&d)
		if err == nil && (got.Name == "" || got.Namespace == "") {
			t.Fatalf("no name and no error: %+v", got)
		}
		if n := len(d.GetSpec().GetProtocol().GetConfigData().GetData()); err == nil && len(got.Config) != n {
			t.Fatalf("%d settings of %d, and no error", len(got.Config), n)
		}
		for name, p := range got.Properties {
			if p.Collect < 0 || p.Report < 0 || p.HasDesired != (p.Desired != "") {
				t.Fatalf("property %q: %+v", name, p)
			}
		}
	})
}
