package mapper

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/health"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/publish"
	"github.com/fluidos-edge/testbed/controllers/sensor"
	"github.com/fluidos-edge/testbed/simulators/bluest"
)

// protocolName names this mapper's protocol in a Device; one mapper serves it
// on a node.
const protocolName = "ble-bluest"

// Properties of a board besides those of its parts.
const (
	propertyBattery = "battery-level" // %
	propertyRate    = "sampling-rate" // Hz, of the environmental characteristic; writable
)

// Limits of a desired sampling rate, Hz.
const minRate, maxRate = 0.1, 100.0

// What a Device says of a property unless somebody wishes otherwise, ms.
const (
	collectCycle = 1000
	reportCycle  = 10000
)

// defaultAccuracy of a temperature that a board says nothing of, degC.
const defaultAccuracy = 0.5

// identity is a board as seen on one node.
type identity struct {
	model string // "STWINKT1B"
	mac   string // 12 upper-case hex digits
	id    string // 24 lower-case hex digits; "" for a board without a console
	node  string
	// features are the UUIDs of the characteristics that carry values of parts, the
	// environmental one first.
	features []string
	battery  string // its characteristic, "" if there is none
	config   bool   // whether its rate can be set
}

// device is the name of the board's Device.
func (b identity) device() string { return deviceName(b.model, b.mac) }

func deviceName(model, mac string) string { return strings.ToLower(model) + "-" + strings.ToLower(mac) }

// environmental reports whether a characteristic carries environmental frames.
func environmental(m bluest.Mask) bool {
	return m == bluest.EnvironmentalBX1 || m == bluest.Environmental || m == bluest.EnvironmentalKT1B
}

// carrier is the characteristic of the board that carries a part's values. Boards
// differ in the layout of the environmental one.
func (b identity) carrier(p bluest.Part) (string, bool) {
	for _, uuid := range b.features {
		m, err := bluest.ParseMask(uuid)
		if err == nil && (m == p.Characteristic || environmental(m) && environmental(p.Characteristic)) {
			return uuid, true
		}
	}
	return "", false
}

// rateFeature is the characteristic that the board's sampling rate is of.
func (b identity) rateFeature() (bluest.Mask, bool) {
	if len(b.features) == 0 {
		return 0, false
	}
	m, err := bluest.ParseMask(b.features[0])
	return m, err == nil && environmental(m)
}

// part is one sensor of a board.
type part struct {
	name     string
	uid      string
	category string
	topic    string
	// stream is the characteristic that carries the part's values.
	stream string
	// rate of its samples as declared, Hz; 0 if it is not.
	rate float64
	// accuracy of its temperature, degC.
	accuracy float64
	// feeds are the part's values in a frame, none if the mapper does not know it.
	feeds []feed
}

// feed is one value of a frame that a part measures, and its property.
type feed struct {
	bluest.Feed
	property string
}

// values of the part in a frame.
func (p part) values(f bluest.Frame) (values []publish.Value) {
	for _, feed := range p.feeds {
		if v, ok := f.Value(feed.Quantity); ok {
			values = append(values, publish.Value{Field: feed.Field, Value: v})
		}
	}
	return values
}

// declaration is what a board offers at one time.
type declaration struct {
	identity
	parts   []part
	sensors []nodecore.Characteristics
	// question is the number of the one that the board was asked for it; see leaf.asks.
	question uint64
}

// declare completes what a board announced with what only its mapper knows: uid,
// node and access. Which values of a frame a part feeds is known by the model
// (bluest.Parts), whatever the board declares of the part.
func declare(b identity, announced []nodecore.Characteristics) declaration {
	d := declaration{identity: b, sensors: []nodecore.Characteristics{}}
	known := bluest.Parts(b.model)
	for _, c := range announced {
		p := part{
			name: partOf(c), category: strings.ToLower(c.Type.SensorCategory), stream: b.features[0],
			rate: rateOf(c), accuracy: temperatureAccuracy(c),
		}
		if i := slices.IndexFunc(known, func(k bluest.Part) bool { return k.Name == p.name }); i >= 0 {
			if p.category == "" {
				p.category = known[i].Category
			}
			if uuid, ok := b.carrier(known[i]); ok {
				p.stream, p.feeds = uuid, feeds(known[i])
			}
		}
		if p.category == "" {
			p.category = "environmental"
		}
		p.uid = sensor.UID(b.id, b.mac, p.name)
		p.topic = sensor.Topic(b.mac, p.stream, p.name)
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

// rateOf is the declared sampling rate in Hz, 0 if it is none.
func rateOf(c nodecore.Characteristics) float64 {
	if u := c.Properties.Unit.SamplingRate; u != "" && !strings.EqualFold(u, "Hz") {
		return 0
	}
	hz, err := strconv.ParseFloat(c.SamplingRate, 64)
	if err != nil || !(hz > 0 && hz < math.MaxFloat32) {
		return 0
	}
	return hz
}

// temperatureAccuracy is the declared one, degC.
func temperatureAccuracy(c nodecore.Characteristics) float64 {
	i := slices.IndexFunc(c.Type.SensorType, func(s string) bool { return strings.EqualFold(s, "Temperature") })
	if i < 0 || i >= len(c.Accuracy) {
		return defaultAccuracy
	}
	a, err := strconv.ParseFloat(c.Accuracy[i], 64)
	if err != nil || !(a >= 0 && a < 100) {
		return defaultAccuracy
	}
	return a
}

// rate of the environmental characteristic as the board declares it, 0 if it does not.
func (d declaration) rate() float64 {
	if _, ok := d.rateFeature(); !ok {
		return 0
	}
	for _, p := range d.parts {
		if p.stream == d.features[0] && len(p.feeds) > 0 && p.rate > 0 {
			return p.rate
		}
	}
	return 0
}

// announcement stands in for that of a board which announces nothing: the parts of
// its model that its characteristics carry, at a rate (0: the nominal one).
func announcement(b identity, rate float64) (sensors []nodecore.Characteristics) {
	for _, p := range bluest.Parts(b.model) {
		uuid, ok := b.carrier(p)
		if !ok {
			continue
		}
		m, err := bluest.ParseMask(uuid)
		if err != nil || !carries(m, p) {
			continue
		}
		hz := m.NominalRate()
		if rate > 0 && uuid == b.features[0] {
			hz = rate
		}
		c := nodecore.Characteristics{
			Name: strings.ToUpper(p.Name), Model: strings.ToUpper(p.Name), Manufacturer: "STMicroelectronics",
			Type:         nodecore.SensorType{SensorCategory: p.Category},
			SamplingRate: number(hz),
			Properties:   nodecore.SensorProperties{Unit: nodecore.SensorUnits{SamplingRate: "Hz"}},
		}
		for _, f := range p.Feeds {
			if !slices.Contains(c.Type.SensorType, f.SensorType) {
				c.Type.SensorType = append(c.Type.SensorType, f.SensorType)
				c.Properties.Unit.Measurement = append(c.Properties.Unit.Measurement, f.Unit)
			}
		}
		sensors = append(sensors, c)
	}
	return sensors
}

// optional quantities of environmental frames, and the bit of the layouts that
// have them.
var optional = map[string]bluest.Mask{
	bluest.Humidity:     bluest.Environmental &^ bluest.EnvironmentalBX1,
	bluest.Temperature2: bluest.EnvironmentalKT1B &^ bluest.Environmental,
}

// carries reports whether frames of a characteristic have all values of a part.
func carries(m bluest.Mask, p bluest.Part) bool {
	return !slices.ContainsFunc(p.Feeds, func(f bluest.Feed) bool { return m&optional[f.Quantity] != optional[f.Quantity] })
}

// number for people and for the API: never with an exponent.
func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// feeds of a part, with their properties: "hts221-humidity" after what is measured
// or, where that has axes, after the quantity: "ism330dhcx-accelerationx".
func feeds(p bluest.Part) []feed {
	out := make([]feed, len(p.Feeds))
	for i, f := range p.Feeds {
		name := f.SensorType
		for j, other := range p.Feeds {
			if i != j && other.SensorType == f.SensorType {
				name = f.Quantity
			}
		}
		out[i] = feed{f, p.Name + "-" + strings.ToLower(name)}
	}
	return out
}

// deviceObject is the Device that the mapper applies, before what users wish in
// the live one is kept (see keepWishes).
func (d declaration) deviceObject(namespace string) (*unstructured.Unstructured, error) {
	text, err := json.Marshal(d.sensors)
	if err != nil {
		return nil, fmt.Errorf("sensors of %s: %w", d.device(), err)
	}
	o := &devices.Device{
		TypeMeta: metav1.TypeMeta{APIVersion: devices.GroupVersion.String(), Kind: "Device"},
		ObjectMeta: metav1.ObjectMeta{
			Name: d.device(), Namespace: namespace,
			Annotations: map[string]string{devices.AnnotationSensors: base64.StdEncoding.EncodeToString(text)},
		},
		Spec: devices.DeviceSpec{
			DeviceModelRef: &devices.ObjectRef{Name: strings.ToLower(d.model)},
			NodeName:       d.node,
		},
	}
	if d.id != "" {
		o.Labels = map[string]string{devices.LabelBoardID: d.id}
	}
	if o.Spec.Protocol, err = protocol(map[string]string{"macAddress": colons(d.mac)}); err != nil {
		return nil, err
	}
	add := func(name string, visitor map[string]string) error {
		visitors, err := protocol(visitor)
		o.Spec.Properties = append(o.Spec.Properties, devices.DeviceProperty{
			Name: name, Visitors: visitors, CollectCycle: collectCycle, ReportCycle: reportCycle, ReportToCloud: true,
		})
		return err
	}
	for _, p := range d.parts {
		for _, f := range p.feeds {
			if err := add(f.property, map[string]string{"characteristicUUID": p.stream, "quantity": f.Quantity}); err != nil {
				return nil, err
			}
		}
	}
	if d.battery != "" {
		if err := add(propertyBattery, map[string]string{"characteristicUUID": d.battery, "quantity": "level"}); err != nil {
			return nil, err
		}
	}
	if m, ok := d.rateFeature(); ok && d.config {
		if err := add(propertyRate, map[string]string{"characteristicUUID": bluest.ConfigUUID, "feature": fmt.Sprintf("%08x", uint32(m))}); err != nil {
			return nil, err
		}
	}
	return toApply(o)
}

// protocol with its settings.
func protocol(settings map[string]string) (devices.ProtocolConfig, error) {
	raw, err := json.Marshal(settings)
	return devices.ProtocolConfig{ProtocolName: protocolName, ConfigData: &runtime.RawExtension{Raw: raw}}, err
}

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
		for _, f := range feeds(p) {
			o.Spec.Properties = append(o.Spec.Properties, devices.ModelProperty{
				Name: f.property, Type: "FLOAT", AccessMode: "ReadOnly", Unit: f.Unit,
			})
		}
	}
	o.Spec.Properties = append(o.Spec.Properties,
		devices.ModelProperty{Name: propertyBattery, Type: "FLOAT", AccessMode: "ReadOnly", Unit: "%"},
		devices.ModelProperty{
			Name: propertyRate, Description: "notifications a second of the environmental characteristic", Type: "FLOAT", AccessMode: "ReadWrite", Unit: "Hz",
			Minimum: number(minRate), Maximum: number(maxRate),
		})
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

// measured is what the part measured in a frame, for its health.
func (p part) measured(f bluest.Frame) health.Sample {
	m := health.Sample{Part: p.name}
	for _, feed := range p.feeds {
		v, ok := f.Value(feed.Quantity)
		if !ok {
			continue
		}
		m.Values = append(m.Values, v)
		if feed.SensorType == "Temperature" {
			m.Temperature, m.HasTemperature = v, true
		}
	}
	return m
}
