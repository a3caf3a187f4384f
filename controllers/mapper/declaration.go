package mapper

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/sensor"
	"github.com/fluidos-edge/testbed/simulators/bluest"
)

// protocolName names this mapper's protocol in a Device; one mapper serves it
// on a node.
const protocolName = "ble-bluest"

// fields of a line by what is measured, with the unit in the name.
var fields = map[string]string{
	"Humidity":    "humidity_percent",
	"Temperature": "temperature_celsius",
	"Pressure":    "pressure_hpa",
}

// identity is a board as seen on one node.
type identity struct {
	model  string // "STWINKT1B"
	mac    string // 12 upper-case hex digits
	id     string // 24 lower-case hex digits
	node   string
	stream string // UUID of the environmental characteristic
}

// device is the name of the board's Device.
func (b identity) device() string { return strings.ToLower(b.model) + "-" + strings.ToLower(b.mac) }

// part is one sensor of a board.
type part struct {
	name     string
	uid      string
	category string
	topic    string
	// feeds are the part's values in a frame, none if the mapper does not know it.
	feeds []bluest.Feed
}

// value is one field of a line.
type value struct {
	field string
	value float64
}

// values of the part in a frame.
func (p part) values(f bluest.Frame) (values []value) {
	for _, feed := range p.feeds {
		field, known := fields[feed.SensorType]
		if v, ok := f.Value(feed.Quantity); ok && known {
			values = append(values, value{field, v})
		}
	}
	return values
}

// declaration is what a board offers at one time.
type declaration struct {
	identity
	parts   []part
	sensors []nodecore.Characteristics
}

// declare completes what a board announced with what only its mapper knows: uid,
// node and access. Which values of a frame a part feeds is known by the model
// (bluest.Parts), whatever the board declares of the part.
func declare(b identity, announced []nodecore.Characteristics) declaration {
	d := declaration{identity: b, sensors: []nodecore.Characteristics{}}
	for _, c := range announced {
		p := part{name: partOf(c), category: strings.ToLower(c.Type.SensorCategory)}
		if p.category == "" {
			p.category = "environmental"
		}
		p.uid = sensor.UID(b.id, b.mac, p.name)
		p.topic = sensor.Topic(b.mac, b.stream, p.name)
		for _, known := range bluest.Parts(b.model) {
			if known.Name == p.name {
				p.feeds = known.Feeds
			}
		}
		c.UID, c.Node = p.uid, b.node
		c.Access = nodecore.SensorAccess{
			Type: "mqtt", Source: protocolName,
			Resource: nodecore.SensorResource{Topic: p.topic, Node: b.node},
		}
		d.parts = append(d.parts, p)
		d.sensors = append(d.sensors, c)
	}
	return d
}

// deviceObject is the Device that the mapper applies.
func (d declaration) deviceObject(namespace string) (*unstructured.Unstructured, error) {
	text, err := json.Marshal(d.sensors)
	if err != nil {
		return nil, fmt.Errorf("sensors of %s: %w", d.device(), err)
	}
	config, err := json.Marshal(map[string]string{"macAddress": colons(d.mac)})
	if err != nil {
		return nil, err
	}
	o := &devices.Device{
		TypeMeta: metav1.TypeMeta{APIVersion: devices.GroupVersion.String(), Kind: "Device"},
		ObjectMeta: metav1.ObjectMeta{
			Name: d.device(), Namespace: namespace,
			Labels:      map[string]string{devices.LabelBoardID: d.id},
			Annotations: map[string]string{devices.AnnotationSensors: base64.StdEncoding.EncodeToString(text)},
		},
		Spec: devices.DeviceSpec{
			DeviceModelRef: &devices.ObjectRef{Name: strings.ToLower(d.model)},
			NodeName:       d.node,
			Protocol:       devices.ProtocolConfig{ProtocolName: protocolName, ConfigData: &runtime.RawExtension{Raw: config}},
		},
	}
	for _, p := range d.parts {
		for _, feed := range p.feeds {
			visitor, err := json.Marshal(map[string]string{"characteristicUUID": d.stream, "quantity": feed.Quantity})
			if err != nil {
				return nil, err
			}
			o.Spec.Properties = append(o.Spec.Properties, devices.DeviceProperty{
				Name:     property(p.name, feed),
				Visitors: devices.ProtocolConfig{ProtocolName: protocolName, ConfigData: &runtime.RawExtension{Raw: visitor}},
			})
		}
	}
	return toApply(o)
}

// property is the name of a part's property: "hts221-humidity".
func property(part string, f bluest.Feed) string { return part + "-" + strings.ToLower(f.SensorType) }

// modelObject is the DeviceModel of the board's model. It holds only what all
// boards of a model have in common, nothing that one board declares: so mappers
// never disagree about it.
func (d declaration) modelObject(namespace string) (*unstructured.Unstructured, error) {
	o := &devices.DeviceModel{
		TypeMeta:   metav1.TypeMeta{APIVersion: devices.GroupVersion.String(), Kind: "DeviceModel"},
		ObjectMeta: metav1.ObjectMeta{Name: strings.ToLower(d.model), Namespace: namespace},
		Spec:       devices.DeviceModelSpec{Protocol: protocolName},
	}
	for _, p := range bluest.Parts(d.model) {
		for _, feed := range p.Feeds {
			o.Spec.Properties = append(o.Spec.Properties, devices.ModelProperty{
				Name: property(p.Name, feed), Type: "FLOAT", AccessMode: "ReadOnly", Unit: feed.Unit,
			})
		}
	}
	return toApply(o)
}

// toApply is o without the fields that only a server sets.
func toApply(o runtime.Object) (*unstructured.Unstructured, error) {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, fmt.Errorf("object to apply: %w", err)
	}
	u := &unstructured.Unstructured{Object: m}
	unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
	return u, nil
}

// colons writes a MAC of 12 hex digits as "c0:83:2a:...".
func colons(mac string) string {
	mac = strings.ToLower(mac)
	pairs := make([]string, 0, 6)
	for i := 0; i+2 <= len(mac); i += 2 {
		pairs = append(pairs, mac[i:i+2])
	}
	return strings.Join(pairs, ":")
}
