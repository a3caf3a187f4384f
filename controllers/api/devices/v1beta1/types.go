// Package v1beta1 holds the part of KubeEdge's devices.kubeedge.io/v1beta1 API
// that the testbed reads or writes. Fields are those of KubeEdge v1.23; what is
// not named here is not written by us, and server-side apply leaves it alone.
//
// +kubebuilder:object:generate=true
// +groupName=devices.kubeedge.io
package v1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of these types.
var GroupVersion = schema.GroupVersion{Group: "devices.kubeedge.io", Version: "v1beta1"}

// AddToScheme registers these types.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &Device{}, &DeviceList{}, &DeviceModel{}, &DeviceModelList{}, &DeviceStatus{}, &DeviceStatusList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

const (
	// AnnotationSensors carries what a board offers: base64 (line breaks
	// allowed) of a JSON array with one element for each sensor.
	AnnotationSensors = "sensors"
	// AnnotationProblem says why the board cannot be relied on, for people: the
	// reasons and messages of the Events that still hold, as
	// `BoardSilent: connected, but no frame for 10s of 001d0000`, with "; " between
	// two of them. The mapper of the Device's node writes it, in the form of
	// Printable and of at most MaxProblem bytes; while nothing is wrong it is not
	// there. Whether the board can be relied on is said by the DeviceStatus alone.
	AnnotationProblem = "sensors.fluidos.eu/problem"
	// LabelBoardID is the board's 96-bit unique id, 24 lower-case hex digits.
	LabelBoardID = "sensors.fluidos.eu/board-id"
)

// +kubebuilder:object:root=true
// +kubebuilder:printcolumn:name="Model",type=string,JSONPath=`.spec.deviceModelRef.name`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.nodeName`
// +kubebuilder:printcolumn:name="Protocol",type=string,JSONPath=`.spec.protocol.protocolName`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`

// Device is a leaf edge device: one board.
type Device struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec DeviceSpec `json:"spec,omitempty"`
}

// DeviceSpec says which model a board is of and which node hears it.
type DeviceSpec struct {
	// DeviceModelRef names the DeviceModel in the same namespace.
	DeviceModelRef *ObjectRef `json:"deviceModelRef,omitempty"`
	// NodeName is the edge node whose mapper speaks to the board.
	NodeName string `json:"nodeName,omitempty"`
	// Protocol is how the mapper reaches the board.
	Protocol ProtocolConfig `json:"protocol,omitempty"`
	// Properties are what can be read, one for each quantity.
	Properties []DeviceProperty `json:"properties,omitempty"`
}

// ObjectRef names an object in the same namespace.
type ObjectRef struct {
	Name string `json:"name,omitempty"`
}

// ProtocolConfig is a protocol with its settings.
type ProtocolConfig struct {
	ProtocolName string `json:"protocolName,omitempty"`
	// +kubebuilder:pruning:PreserveUnknownFields
	ConfigData *runtime.RawExtension `json:"configData,omitempty"`
}

// DeviceProperty is one property of a board.
type DeviceProperty struct {
	Name string `json:"name,omitempty"`
	// Desired is what a writable property should be.
	Desired  *TwinProperty  `json:"desired,omitempty"`
	Visitors ProtocolConfig `json:"visitors,omitempty"`
	// CollectCycle is how often the mapper reads the property, in ms.
	CollectCycle int64 `json:"collectCycle,omitempty"`
	// ReportCycle is how often the mapper reports the property, in ms.
	ReportCycle   int64 `json:"reportCycle,omitempty"`
	ReportToCloud bool  `json:"reportToCloud,omitempty"`
}

// +kubebuilder:object:root=true

// DeviceList is a list of Devices.
type DeviceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Device `json:"items"`
}

// +kubebuilder:object:root=true
// +kubebuilder:printcolumn:name="Protocol",type=string,JSONPath=`.spec.protocol`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`

// DeviceModel is what all boards of one model have in common.
type DeviceModel struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec DeviceModelSpec `json:"spec,omitempty"`
}

// DeviceModelSpec lists the properties of a model.
type DeviceModelSpec struct {
	Protocol   string          `json:"protocol,omitempty"`
	Properties []ModelProperty `json:"properties,omitempty"`
}

// ModelProperty is one property that every board of the model has.
type ModelProperty struct {
	Name        string `json:"name,omitempty"`
	Description string `json:"description,omitempty"`
	// +kubebuilder:validation:Enum=INT;FLOAT;DOUBLE;STRING;BOOLEAN;BYTES;STREAM
	Type string `json:"type,omitempty"`
	// +kubebuilder:validation:Enum=ReadWrite;ReadOnly
	AccessMode string `json:"accessMode,omitempty"`
	Minimum    string `json:"minimum,omitempty"`
	Maximum    string `json:"maximum,omitempty"`
	Unit       string `json:"unit,omitempty"`
}

// +kubebuilder:object:root=true

// DeviceModelList is a list of DeviceModels.
type DeviceModelList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []DeviceModel `json:"items"`
}

// +kubebuilder:object:root=true
// +kubebuilder:resource:path=devicestatuses
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Online",type=string,JSONPath=`.status.lastOnlineTime`

// DeviceStatus is what the edge reports of a Device of the same name, which owns
// it. KubeEdge keeps it apart from the Device since v1.23, without a subresource.
type DeviceStatus struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   DeviceStatusSpec   `json:"spec,omitempty"`
	Status DeviceStatusStatus `json:"status,omitempty"`
}

// DeviceStatusSpec is empty: the owner says which Device it is.
type DeviceStatusSpec struct{}

// States of a DeviceStatus, in KubeEdge's words.
const (
	StateOnline    = "online"
	StateUnhealthy = "unhealthy" // connected, but not to be relied on
	StateOffline   = "offline"
)

// DeviceStatusStatus is the state of a board and of its properties.
type DeviceStatusStatus struct {
	Twins []Twin `json:"twins,omitempty"`
	State string `json:"state,omitempty"`
	// LastOnlineTime as the edge writes it, RFC 3339.
	LastOnlineTime string `json:"lastOnlineTime,omitempty"`
	// +kubebuilder:pruning:PreserveUnknownFields
	Extensions *runtime.RawExtension `json:"extensions,omitempty"`
}

// Twin is one property as it should be and as it was last reported.
type Twin struct {
	PropertyName    string        `json:"propertyName,omitempty"`
	ObservedDesired *TwinProperty `json:"observedDesired,omitempty"`
	Reported        *TwinProperty `json:"reported,omitempty"`
}

// TwinProperty is a value of a property.
type TwinProperty struct {
	Value    string            `json:"value"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

// +kubebuilder:object:root=true

// DeviceStatusList is a list of DeviceStatuses.
type DeviceStatusList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []DeviceStatus `json:"items"`
}
