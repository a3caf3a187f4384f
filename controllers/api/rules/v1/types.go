// Package v1 holds KubeEdge's rules.kubeedge.io/v1 API: Rule and RuleEndpoint.
// A Rule's status counters never move in KubeEdge (kubeedge#7313), so they are
// not here.
//
// +kubebuilder:object:generate=true
// +groupName=rules.kubeedge.io
package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of these types.
var GroupVersion = schema.GroupVersion{Group: "rules.kubeedge.io", Version: "v1"}

// AddToScheme registers these types.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &Rule{}, &RuleList{}, &RuleEndpoint{}, &RuleEndpointList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// Keys of Rule.spec.sourceResource and targetResource.
const (
	SourceTopic    = "topic"
	SourceNodeName = "node_name"
	TargetResource = "resource"
)

// Types of RuleEndpoint.
const (
	TypeREST       = "rest"
	TypeEventBus   = "eventbus"
	TypeServiceBus = "servicebus"
)

// +kubebuilder:object:root=true
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.sourceResource.node_name`
// +kubebuilder:printcolumn:name="Topic",type=string,JSONPath=`.spec.sourceResource.topic`
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.target`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`

// Rule sends what is published on one topic of one edge node to one target.
// KubeEdge ignores updates of a Rule: change it by delete and create.
type Rule struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec RuleSpec `json:"spec"`
}

// RuleSpec names both RuleEndpoints and what to take from and give to them.
type RuleSpec struct {
	// Source names the RuleEndpoint that messages come from.
	Source string `json:"source"`
	// SourceResource is {"topic", "node_name"} for an eventbus source.
	SourceResource map[string]string `json:"sourceResource"`
	// Target names the RuleEndpoint that messages go to.
	Target string `json:"target"`
	// TargetResource is {"resource": URL} for a rest target.
	TargetResource map[string]string `json:"targetResource"`
}

// +kubebuilder:object:root=true

// RuleList is a list of Rules.
type RuleList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Rule `json:"items"`
}

// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName=re
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.ruleEndpointType`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`

// RuleEndpoint is where a Rule takes messages from or sends them to.
type RuleEndpoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec RuleEndpointSpec `json:"spec"`
}

// RuleEndpointSpec is a type with its properties.
type RuleEndpointSpec struct {
	// +kubebuilder:validation:Enum=rest;eventbus;servicebus
	RuleEndpointType string            `json:"ruleEndpointType"`
	Properties       map[string]string `json:"properties,omitempty"`
}

// +kubebuilder:object:root=true

// RuleEndpointList is a list of RuleEndpoints.
type RuleEndpointList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []RuleEndpoint `json:"items"`
}
