package sensor_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

func flavor(change func(*nodecore.Flavor)) *nodecore.Flavor {
	f := &nodecore.Flavor{}
	f.Namespace, f.Name = "fluidos", "stwinkt1b-c0832a000001-0123456789abcdef01234567-hts221"
	f.Labels = map[string]string{nodecore.LabelDevice: "stwinkt1b-c0832a000001", nodecore.LabelPart: "hts221", nodecore.LabelNode: "edge-1"}
	f.Spec.Availability = true
	f.Spec.FlavorType.TypeIdentifier = nodecore.TypeSensor
	f.Spec.FlavorType.TypeData.Raw = []byte(`{"characteristics":{"uid":"u1","model":"HTS221","batch":7,
		"type":{"sensorCategory":"Environmental","sensorType":["Humidity"]},"access":{"resource":{"topic":"sensor/C0832A000001/001c/hts221"}}}}`)
	if change != nil {
		change(f)
	}
	return f
}

func TestFromFlavor(t *testing.T) {
	want := sensor.Offer{
		Key:     sensor.Key{Namespace: "fluidos", Device: "stwinkt1b-c0832a000001", Part: "hts221"},
		BoardID: "0123456789abcdef01234567", Node: "edge-1", Topic: "sensor/C0832A000001/001c/hts221", Available: true,
		UID: "u1", Category: "Environmental",
	}
	for _, c := range []struct {
		name   string
		change func(*nodecore.Flavor)
		want   func(*sensor.Offer)
	}{
		{"as written", nil, func(*sensor.Offer) {}},
		{"a topic with the namespace", func(f *nodecore.Flavor) {
			raw := string(f.Spec.FlavorType.TypeData.Raw)
			f.Spec.FlavorType.TypeData.Raw = []byte(strings.Replace(raw, "sensor/C0", "fluidos/sensor/C0", 1))
		}, func(*sensor.Offer) {}},
		{"a name of another make", func(f *nodecore.Flavor) { f.Name = "mine" }, func(o *sensor.Offer) { o.BoardID = "" }},
		{"a name with no id", func(f *nodecore.Flavor) { f.Name = strings.Replace(f.Name, "0123456789", "x123456789", 1) }, func(o *sensor.Offer) { o.BoardID = "" }},
		{"one more node offers it", func(f *nodecore.Flavor) { f.Name += "-edge-2" }, func(*sensor.Offer) {}},
		{"not available", func(f *nodecore.Flavor) { f.Spec.Availability = false }, func(o *sensor.Offer) { o.Available = false }},
		{"not available because of its board", func(f *nodecore.Flavor) {
			f.Spec.Availability, f.Annotations = false, map[string]string{sensor.AnnotationUnavailable: "its board is offline"}
		}, func(o *sensor.Offer) { o.Available, o.Unavailable = false, "its board is offline" }},
		{"available against its annotation", func(f *nodecore.Flavor) {
			f.Annotations = map[string]string{sensor.AnnotationUnavailable: "its board is offline"}
		}, func(*sensor.Offer) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := want
			c.want(&o)
			got, err := sensor.FromFlavor(flavor(c.change))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(o, got, cmpopts.IgnoreFields(sensor.Offer{}, "Characteristics")); d != "" {
				t.Error(d)
			}
			if got.BoardID != "" && sensor.ObjectName(got.Key.Device, got.BoardID, got.UID, got.Key.Part) != strings.TrimSuffix(flavor(c.change).Name, "-edge-2") {
				t.Error("a Rule would have another name than its Flavor")
			}
		})
	}
}

func TestFromFlavorRefuses(t *testing.T) {
	data := func(s string) func(*nodecore.Flavor) {
		return func(f *nodecore.Flavor) { f.Spec.FlavorType.TypeData.Raw = []byte(s) }
	}
	for _, c := range []struct {
		name   string
		change func(*nodecore.Flavor)
		want   string
	}{
		{"another type", func(f *nodecore.Flavor) { f.Spec.FlavorType.TypeIdentifier = "K8Slice" }, `typeIdentifier is "K8Slice"`},
		{"no labels", func(f *nodecore.Flavor) { f.Labels = nil }, "metadata.labels"},
		{"no data", data(""), "typeData"},
		{"no characteristics", data("{}"), "characteristics is missing"},
		{"null characteristics", data(`{"characteristics":null}`), "characteristics is null"},
		{"a list", data(`{"characteristics":[]}`), "must be an object"},
		{"no uid", data(`{"characteristics":{"model":"x"}}`), "uid is missing"},
		{"a number for text", data(`{"characteristics":{"uid":"x","latency":1}}`), "characteristics.latency is a number"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if o, err := sensor.FromFlavor(flavor(c.change)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %+v, %v; want an error with %q", o, err, c.want)
			}
		})
	}
}
