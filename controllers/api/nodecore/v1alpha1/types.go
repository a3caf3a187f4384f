// Package v1alpha1 holds the part of FLUIDOS's nodecore.fluidos.eu/v1alpha1 API
// that the testbed writes: the Flavor, of type Sensor only.
//
// +kubebuilder:object:generate=true
// +groupName=nodecore.fluidos.eu
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of these types.
var GroupVersion = schema.GroupVersion{Group: "nodecore.fluidos.eu", Version: "v1alpha1"}

// AddToScheme registers these types.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &Flavor{}, &FlavorList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// TypeSensor is the typeIdentifier of a Flavor that offers one sensor.
const TypeSensor = "Sensor"

const (
	// LabelDevice and LabelPart are the sensor key of a Flavor of type Sensor
	// together with its namespace.
	LabelDevice = "sensors.fluidos.eu/device"
	LabelPart   = "sensors.fluidos.eu/part"
	// LabelNode is the edge node that the sensor's data comes from.
	LabelNode = "sensors.fluidos.eu/node"
	// AnnotationLatency is the declared latency with its unit, for people.
	AnnotationLatency = "sensors.fluidos.eu/latency"
)

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=fl
// +kubebuilder:printcolumn:name="Device",type=string,JSONPath=`.metadata.labels.sensors\.fluidos\.eu/device`
// +kubebuilder:printcolumn:name="Sensor",type=string,JSONPath=`.metadata.labels.sensors\.fluidos\.eu/part`
// +kubebuilder:printcolumn:name="Category",type=string,JSONPath=`.spec.flavorType.typeData.characteristics.type.sensorCategory`
// +kubebuilder:printcolumn:name="Latency",type=string,JSONPath=`.metadata.annotations.sensors\.fluidos\.eu/latency`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.metadata.labels.sensors\.fluidos\.eu/node`
// +kubebuilder:printcolumn:name="Available",type=boolean,JSONPath=`.spec.availability`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`

// Flavor is one offer of a FLUIDOS node; of type Sensor, it offers one part of
// one board.
type Flavor struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   FlavorSpec   `json:"spec,omitempty"`
	Status FlavorStatus `json:"status,omitempty"`
}

// FlavorSpec is what is offered, by whom, and at what price.
type FlavorSpec struct {
	ProviderID          string       `json:"providerID"`
	FlavorType          FlavorType   `json:"flavorType"`
	Owner               NodeIdentity `json:"owner"`
	Price               Price        `json:"price"`
	Availability        bool         `json:"availability"`
	NetworkPropertyType string       `json:"networkPropertyType,omitempty"`
	Location            *Location    `json:"location,omitempty"`
}

// FlavorType is a type with its data: for Sensor, a SensorTypeData.
type FlavorType struct {
	TypeIdentifier string `json:"typeIdentifier"`
	// +kubebuilder:pruning:PreserveUnknownFields
	TypeData runtime.RawExtension `json:"typeData"`
}

// SensorTypeData is the typeData of a Flavor of type Sensor.
type SensorTypeData struct {
	Characteristics Characteristics `json:"characteristics"`
}

// Characteristics describe one sensor. All values are strings; units stand
// apart in Properties.Unit. Type.SensorType, Accuracy and
// Properties.Unit.Measurement are parallel.
type Characteristics struct {
	UID          string           `json:"uid"`
	Node         string           `json:"node,omitempty"`
	Name         string           `json:"name,omitempty"`
	Model        string           `json:"model"`
	Manufacturer string           `json:"manufacturer,omitempty"`
	Market       string           `json:"market,omitempty"`
	Type         SensorType       `json:"type"`
	SamplingRate string           `json:"samplingRate,omitempty"`
	Accuracy     []string         `json:"accuracy,omitempty"`
	Consumption  string           `json:"consumption,omitempty"`
	Latency      string           `json:"latency,omitempty"`
	Properties   SensorProperties `json:"properties,omitzero"`
	Access       SensorAccess     `json:"access,omitzero"`
}

// SensorType is the category of a sensor and the quantities that it measures.
type SensorType struct {
	SensorCategory string   `json:"sensorCategory,omitempty"`
	SensorType     []string `json:"sensorType"`
}

// SensorProperties hold the units of Characteristics.
type SensorProperties struct {
	Unit SensorUnits `json:"unit,omitzero"`
}

// SensorUnits are the units of the fields of the same name.
type SensorUnits struct {
	Measurement  []string `json:"measurement,omitempty"`
	Consumption  string   `json:"consumption,omitempty"`
	SamplingRate string   `json:"samplingRate,omitempty"`
	Latency      string   `json:"latency,omitempty"`
}

// SensorAccess is how a sensor's stream is reached on its node.
type SensorAccess struct {
	Type     string         `json:"type,omitempty"`
	Source   string         `json:"source,omitempty"`
	Resource SensorResource `json:"resource,omitzero"`
}

// SensorResource is an MQTT topic on an edge node.
type SensorResource struct {
	Topic string `json:"topic,omitempty"`
	Node  string `json:"node,omitempty"`
}

// NodeIdentity is a FLUIDOS node.
type NodeIdentity struct {
	Domain string `json:"domain"`
	NodeID string `json:"nodeID"`
	IP     string `json:"ip"`
}

// Price of an offer.
type Price struct {
	Amount   string `json:"amount"`
	Currency string `json:"currency"`
	Period   string `json:"period"`
}

// Location of what is offered.
type Location struct {
	Latitude        string `json:"latitude,omitempty"`
	Longitude       string `json:"longitude,omitempty"`
	Country         string `json:"country,omitempty"`
	City            string `json:"city,omitempty"`
	AdditionalNotes string `json:"additionalNotes,omitempty"`
}

// FlavorStatus holds times in RFC 3339; all three or none are set.
type FlavorStatus struct {
	ExpirationTime string `json:"expirationTime,omitempty"`
	CreationTime   string `json:"creationTime,omitempty"`
	LastUpdateTime string `json:"lastUpdateTime,omitempty"`
}

// +kubebuilder:object:root=true

// FlavorList is a list of Flavors.
type FlavorList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Flavor `json:"items"`
}
