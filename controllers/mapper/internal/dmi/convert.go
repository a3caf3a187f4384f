package dmi

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	api "github.com/fluidos-edge/testbed/controllers/api/dmi/v1beta1"
)

// convert is a Device of the edge runtime as this package gives it, with the name of its
// model. If the error is not nil, the Device is of use only if it has a name:
// then some of its settings could not be read, and are not in it.
func convert(d *api.Device) (Device, string, error) {
	out := Device{
		Namespace:  d.GetNamespace(),
		Name:       d.GetName(),
		Properties: make(map[string]Property),
	}
	if out.Namespace == "" || out.Name == "" {
		return Device{}, "", fmt.Errorf("device %q in namespace %q: want both", d.GetName(), d.GetNamespace())
	}
	for _, p := range d.GetSpec().GetProperties() {
		if p.GetName() == "" {
			continue
		}
		out.Properties[p.GetName()] = Property{
			Collect: milliseconds(p.GetCollectCycle()),
			Report:  milliseconds(p.GetReportCycle()),
			ToCloud: p.GetReportToCloud(),
			Desired: p.GetDesired().GetValue(),
			// KubeEdge has an empty value where nobody wishes anything.
			HasDesired: p.GetDesired().GetValue() != "",
		}
	}
	var err error
	out.Config, err = settings(d.GetSpec().GetProtocol().GetConfigData())
	return out, d.GetSpec().GetDeviceModelReference(), err
}

// milliseconds as a duration, kept within what one can be.
func milliseconds(ms int64) time.Duration {
	const most = math.MaxInt64 / int64(time.Millisecond)
	return time.Duration(min(max(ms, 0), most)) * time.Millisecond
}

// settings as text, and an error that names those that are left out.
func settings(v *api.CustomizedValue) (map[string]string, error) {
	out := make(map[string]string)
	var errs []error
	for _, k := range slices.Sorted(maps.Keys(v.GetData())) {
		text, err := text(v.GetData()[k])
		if err != nil {
			errs = append(errs, fmt.Errorf("setting %q: %w", k, err))
			continue
		}
		out[k] = text
	}
	return out, errors.Join(errs...)
}

// text of a wrapped value.
func text(v *anypb.Any) (string, error) {
	switch name := v.MessageName(); name {
	case "google.protobuf.StringValue":
		return unwrap(v, &wrapperspb.StringValue{}, func(s string) string { return s })
	case "google.protobuf.BytesValue":
		return unwrap(v, &wrapperspb.BytesValue{}, func(b []byte) string { return string(b) })
	case "google.protobuf.BoolValue":
		return unwrap(v, &wrapperspb.BoolValue{}, strconv.FormatBool)
	case "google.protobuf.Int32Value":
		return unwrap(v, &wrapperspb.Int32Value{}, func(i int32) string { return strconv.FormatInt(int64(i), 10) })
	case "google.protobuf.Int64Value":
		return unwrap(v, &wrapperspb.Int64Value{}, func(i int64) string { return strconv.FormatInt(i, 10) })
	case "google.protobuf.UInt32Value":
		return unwrap(v, &wrapperspb.UInt32Value{}, func(i uint32) string { return strconv.FormatUint(uint64(i), 10) })
	case "google.protobuf.UInt64Value":
		return unwrap(v, &wrapperspb.UInt64Value{}, func(i uint64) string { return strconv.FormatUint(i, 10) })
	case "google.protobuf.FloatValue":
		return unwrap(v, &wrapperspb.FloatValue{}, func(f float32) string { return strconv.FormatFloat(float64(f), 'f', -1, 32) })
	case "google.protobuf.DoubleValue":
		return unwrap(v, &wrapperspb.DoubleValue{}, func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) })
	case "":
		return "", fmt.Errorf("type %q: want that of a wrapped value", v.GetTypeUrl())
	default:
		return "", fmt.Errorf("type %s: want a wrapped string, number or truth value", name)
	}
}

func unwrap[V any, W interface {
	proto.Message
	GetValue() V
}](v *anypb.Any, w W, format func(V) string) (string, error) {
	if err := proto.Unmarshal(v.GetValue(), w); err != nil {
		return "", fmt.Errorf("%s: %w", v.MessageName(), err)
	}
	return format(w.GetValue()), nil
}
