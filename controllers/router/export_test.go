package router

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

// FlavorOf a sensor at 2 Hz, as ERM makes it; device d-<board>, MAC and 96-bit id
// made from the board's number.
func FlavorOf(board int, part, node, latency string) *nodecore.Flavor {
	id := fmt.Sprintf("%024x", board)
	mac := fmt.Sprintf("%012X", board)
	device := fmt.Sprintf("d-%d", board)
	uid := sensor.UID(id, mac, part)
	return &nodecore.Flavor{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "fluidos", Name: sensor.ObjectName(device, id, uid, part), UID: types.UID("flavor-" + uid), ResourceVersion: "1",
			Labels: map[string]string{nodecore.LabelDevice: device, nodecore.LabelPart: part, nodecore.LabelNode: node},
		},
		Spec: nodecore.FlavorSpec{
			ProviderID: "p", Availability: true,
			Price: nodecore.Price{Amount: "0", Currency: "EUR", Period: "hourly"},
			FlavorType: nodecore.FlavorType{
				TypeIdentifier: nodecore.TypeSensor,
				TypeData: runtime.RawExtension{Raw: fmt.Appendf(nil, `{"characteristics": {"uid": %q, "node": %q, "model": %q,
					"type": {"sensorCategory": "Environmental", "sensorType": ["Humidity"]}, "samplingRate": "2", "latency": %q,
					"properties": {"unit": {"samplingRate": "Hz", "latency": "ms"}},
					"access": {"type": "mqtt", "resource": {"topic": "fluidos/%s", "node": %q}}}}`,
					uid, node, part, latency, sensor.Topic(mac, "00140000000111e1ac360002a5d5c51b", part), node)},
			},
		},
	}
}

// SetFault is what ERM does to a Flavor when something speaks against its board;
// fault "" when nothing does any more.
func SetFault(f *nodecore.Flavor, fault string) {
	f.Spec.Availability = fault == ""
	f.Annotations = nil
	if fault != "" {
		f.Annotations = map[string]string{sensor.AnnotationUnavailable: fault}
	}
}

// PathOf selects by latency; bound "" selects all.
func PathOf(namespace, name, bound string, endpoints ...string) *sensors.DataPath {
	dp := &sensors.DataPath{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, UID: types.UID("path-" + namespace + "-" + name), Generation: 1, ResourceVersion: "1",
	}}
	if bound != "" {
		dp.Spec.Sensors = []sensors.Requirement{{Field: "latency", Lt: &bound}}
	}
	for _, e := range endpoints {
		dp.Spec.Endpoints = append(dp.Spec.Endpoints, sensors.Endpoint{Name: e, URL: "http://127.0.0.1:9/" + e})
	}
	return dp
}
