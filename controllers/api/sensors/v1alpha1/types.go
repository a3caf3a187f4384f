// Package v1alpha1 is our own API: the DataPath, with which a consumer asks a
// provider for the data of the sensors that it selects.
//
// +kubebuilder:object:generate=true
// +groupName=sensors.fluidos.eu
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of these types.
var GroupVersion = schema.GroupVersion{Group: "sensors.fluidos.eu", Version: "v1alpha1"}

// AddToScheme registers these types.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &DataPath{}, &DataPathList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

const (
	// LabelRun is the run of the scenarios that made a DataPath.
	LabelRun = "sensors.fluidos.eu/run"
	// LabelConsumer marks the namespace of a consumer, in a provider; its value is the consumer's name.
	LabelConsumer = "sensors.fluidos.eu/consumer"
)

// Conditions of a DataPath. Each has the generation that it was judged for.
const (
	// ConditionMatched is True when at least one sensor on offer is selected.
	ConditionMatched = "Matched"
	// ConditionSourced is True when the data of every selected sensor arrives at
	// a relay and every relay serves this generation of the DataPath. It is False
	// when no sensor is selected.
	ConditionSourced = "Sourced"
	// ConditionDelivering is True when each endpoint took the last batch of
	// samples that was posted to it, and has taken one of this generation. It is
	// False when an endpoint has not taken a batch for 5 seconds, and when it
	// refused samples of its last batch; the message names the endpoint, the
	// cause, and since when. An endpoint that gets no samples keeps what was said
	// of it last.
	ConditionDelivering = "Delivering"
	// ConditionReady is True when Matched, Sourced and Delivering are: data
	// arrives at every endpoint. Otherwise it has the reason and the message of
	// the first of them that is not True.
	ConditionReady = "Ready"
)

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=dp
// +kubebuilder:printcolumn:name="Matched",type=integer,JSONPath=`.status.matched`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Endpoints",type=integer,JSONPath=`.status.total.endpoints`
// +kubebuilder:printcolumn:name="Delivered",type=integer,JSONPath=`.status.total.delivered`
// +kubebuilder:printcolumn:name="Dropped",type=integer,JSONPath=`.status.total.dropped`
// +kubebuilder:printcolumn:name="Sourced",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Sourced")].status`
// +kubebuilder:printcolumn:name="Delivering",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Delivering")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`

// DataPath asks for the data of all sensors that meet its requirements, at each
// of its endpoints.
type DataPath struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   DataPathSpec   `json:"spec"`
	Status DataPathStatus `json:"status,omitempty"`
}

// DataPathSpec is a selection and where its data goes.
type DataPathSpec struct {
	// Sensors are requirements that a sensor must all meet; none selects every
	// sensor on offer.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	Sensors []Requirement `json:"sensors,omitempty"`
	// Endpoints each receive every sample of every selected sensor.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	Endpoints []Endpoint `json:"endpoints"`
}

// Requirement compares one field of a sensor's characteristics. Exactly one
// operator is set. Text ignores case; a list field matches if one element does.
// Bounds are numbers with a unit ("16ms", "0.5 degC") and compare exactly.
// +kubebuilder:validation:XValidation:rule="[has(self.equals), has(self.__in__), has(self.matches), has(self.lt), has(self.le), has(self.gt), has(self.ge)].exists_one(o, o)",message="exactly one of equals, in, matches, lt, le, gt, ge must be set"
type Requirement struct {
	// Field of the characteristics: uid, node, name, model, manufacturer,
	// market, type.sensorCategory, type.sensorType, samplingRate, consumption,
	// latency, accuracy[<sensorType>] or measurement[<sensorType>]; device and
	// part are the sensor's key.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Field string `json:"field"`
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Equals *string `json:"equals,omitempty"`
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=256
	// +listType=atomic
	In []string `json:"in,omitempty"`
	// Matches is an RE2 expression that must match the whole value.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Matches *string `json:"matches,omitempty"`
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Lt *string `json:"lt,omitempty"`
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Le *string `json:"le,omitempty"`
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Gt *string `json:"gt,omitempty"`
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Ge *string `json:"ge,omitempty"`
}

// Endpoint receives samples by HTTP POST of line protocol.
type Endpoint struct {
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`
	Name string `json:"name"`
	// URL is http or https, without userinfo.
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^https?://[^@]+$`
	URL string `json:"url"`
}

// DataPathStatus says what was selected and what was delivered.
type DataPathStatus struct {
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Matched is the number of selected sensors.
	Matched int `json:"matched"`
	// Sensors are the first 20 selected sensors, "<device>/<part>".
	// +listType=atomic
	Sensors []string `json:"sensors,omitempty"`
	// Misses are up to 5 sensors that came nearest without being selected: those
	// that miss the fewest requirements first; of these, those whose values are
	// nearest to the bounds that they miss.
	// +listType=atomic
	Misses []Miss `json:"misses,omitempty"`
	// Endpoints hold totals, in the order of the spec.
	// +listType=map
	// +listMapKey=name
	Endpoints []EndpointStatus `json:"endpoints,omitempty"`
	Total     Total            `json:"total,omitempty"`
}

// Miss is a sensor that was not selected.
type Miss struct {
	// Sensor is "<device>/<part>".
	Sensor string `json:"sensor"`
	// Reason names the field, its value and the requirement that it does not meet.
	Reason string `json:"reason"`
}

// EndpointStatus counts samples at one endpoint since the relay started.
type EndpointStatus struct {
	Name string `json:"name"`
	// Accepted samples were put on this endpoint's queue.
	Accepted int64 `json:"accepted"`
	// Delivered samples were answered with 2xx by the endpoint.
	Delivered int64 `json:"delivered"`
	// Queued samples wait.
	Queued int64 `json:"queued"`
	// Dropped samples by reason: overflow (queue full, oldest first), refused
	// (the endpoint answered 400, 413, 415 or 422 for this sample alone), removed
	// (the endpoint was removed while they waited).
	Dropped map[string]int64 `json:"dropped,omitempty"`
	// FailingSince is when the batch was first posted that the endpoint has not
	// taken, or when it first refused samples. It is not set while the endpoint is
	// not failing; see the condition Delivering.
	// +optional
	FailingSince *metav1.Time `json:"failingSince,omitempty"`
	// LastError is why the last attempt to deliver failed, without a byte of the
	// endpoint's answer and without the query of its URL. It is empty after a
	// success.
	LastError string `json:"lastError,omitempty"`
}

// Total sums up all endpoints.
type Total struct {
	Endpoints int   `json:"endpoints"`
	Delivered int64 `json:"delivered"`
	Dropped   int64 `json:"dropped"`
}

// +kubebuilder:object:root=true

// DataPathList is a list of DataPaths.
type DataPathList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []DataPath `json:"items"`
}
