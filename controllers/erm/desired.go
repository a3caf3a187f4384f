package erm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

// duplicatePrefix begins the fault of a board whose id another Device had first. No
// other fault begins with it: offersSince relies on that.
const duplicatePrefix = reasonDuplicate + ": "

// judge says what speaks against a board, "" if nothing does: another Device, which
// it then returns, had the same id first, or the edge says so in the DeviceStatus, or
// both. sharers are Devices with the same id, itself among them or not; since says
// from when on they offer under it, those that do; status is nil if there is none. It
// is a pure function.
func judge(device *devices.Device, status *devices.DeviceStatus, sharers []devices.Device, since map[string]metav1.Time) (fault string, first *devices.Device) {
	for i := range sharers {
		// One that is being deleted has nothing on offer any more.
		if d := &sharers[i]; d.DeletionTimestamp == nil && before(d, device, since) && (first == nil || before(d, first, since)) {
			first = d
		}
	}
	var faults []string
	if first != nil {
		faults = append(faults, duplicatePrefix+duplicateMessage(device, first))
	}
	if state := ailing(device.UID, status); state != "" {
		faults = append(faults, boardFault(device, state))
	}
	return strings.Join(faults, "; "), first
}

// duplicateMessage is said of a Device whose board's id another one had first.
func duplicateMessage(device, first *devices.Device) string {
	return fmt.Sprintf("board id %s is that of Device %s too, which had it first: the sensors of this Device are not available", boardID(device), first.Name)
}

// boardFault says why a board is in a state in which it cannot be relied on. The
// reasons are in an annotation of its mapper's, which may come before the state or
// after it, or not at all; as whoever may write Devices may write it, it is bounded
// and cannot pass for a fault that ERM judges.
func boardFault(device *devices.Device, state string) string {
	problem := problemOf(device)
	if problem == "" || strings.HasPrefix(problem, reasonDuplicate) {
		return "its board is " + state
	}
	return problem
}

// problemOf is what the annotation of a board's mapper says, "" if it says nothing.
func problemOf(device client.Object) string {
	return devices.Printable(device.GetAnnotations()[devices.AnnotationProblem], devices.MaxProblem)
}

// before orders Devices by who had their id first: those that offer under it by when
// they began to, then others; by age where that does not tell, and by name those of one second.
func before(a, b *devices.Device, since map[string]metav1.Time) bool {
	s, offersA := since[a.Name]
	t, offersB := since[b.Name]
	if offersA != offersB {
		return offersA
	}
	if offersA && !s.Equal(&t) {
		return s.Before(&t)
	}
	if s, t := a.CreationTimestamp, b.CreationTimestamp; !s.Equal(&t) {
		return s.Before(&t)
	}
	return a.Name < b.Name
}

// offersSince says since when a Device offers sensors under its board's id, among its Flavors; false
// if it does not. What is not available because another one had the id first does not count.
func offersSince(device *devices.Device, flavors []nodecore.Flavor) (since metav1.Time, ok bool) {
	prefix := device.Name + "-" + boardID(device) + "-"
	for _, f := range flavors {
		if !strings.HasPrefix(f.Name, prefix) || strings.HasPrefix(f.Annotations[sensor.AnnotationUnavailable], duplicatePrefix) {
			continue
		}
		if t := f.CreationTimestamp; !ok || t.Before(&since) {
			since, ok = t, true
		}
	}
	return since, ok
}

// stateDisconnected is a state that mappers of KubeEdge know besides those of EdgeCore.
const stateDisconnected = "disconnected"

// ailing is the state of a board that cannot be relied on, "" for any other. What
// KubeEdge calls online and ok is good; no DeviceStatus, no state, "unknown" and words
// that KubeEdge does not have say nothing, and whether data arrives is not for ERM to
// judge. EdgeCore passes on a mapper's words in the mapper's letters. A DeviceStatus
// that another Device owns is of an earlier one of the same name.
func ailing(device types.UID, status *devices.DeviceStatus) string {
	if status == nil {
		return ""
	}
	if o := metav1.GetControllerOf(status); o != nil && o.UID != device {
		return ""
	}
	switch word := strings.ToLower(status.Status.State); word {
	case devices.StateOffline, devices.StateUnhealthy, stateDisconnected:
		return word
	}
	return ""
}

// desired is what a Device has on offer, and what is wrong with the rest; fault is
// what speaks against its board. A Device without annotation or node, or that is being
// deleted, has nothing on offer. It is a pure function: same input, same Flavors in
// the same order.
func desired(device *devices.Device, nodes []corev1.Node, fault string, owner nodecore.NodeIdentity, opts Options) ([]nodecore.Flavor, []sensor.Problem) {
	annotation := device.Annotations[devices.AnnotationSensors]
	if annotation == "" || device.DeletionTimestamp != nil {
		return nil, nil
	}
	elements, problems := sensor.Decode(annotation)
	offering := ownNode(device)
	if opts.Nodes != nil {
		offering = opts.Nodes(device, nodes)
	}
	unfit := func(path, value string) []sensor.Problem {
		wrong := validation.IsValidLabelValue(value)
		if len(wrong) == 0 {
			return nil
		}
		return []sensor.Problem{{Path: path, Fatal: true, Message: fmt.Sprintf("%q cannot be a label of a Flavor: %s", value, wrong[0])}}
	}
	wrong := unfit("metadata.name", device.Name)
	for _, node := range offering {
		wrong = append(wrong, unfit("spec.nodeName", node)...)
	}
	if len(wrong) > 0 {
		return nil, append(problems, wrong...)
	}
	var flavors []nodecore.Flavor
	for _, e := range elements {
		for i, node := range offering {
			f, err := flavor(device, e, node, owner, opts)
			if err != nil {
				problems = append(problems, sensor.Problem{Path: e.Path, Message: err.Error(), Fatal: true})
				break
			}
			if i > 0 {
				f.Name += "-" + node
			}
			f.Spec.Availability = fault == "" && slices.ContainsFunc(nodes, func(n corev1.Node) bool { return n.Name == node && isReady(&n) })
			if fault != "" {
				f.Annotations[sensor.AnnotationUnavailable] = fault
			}
			flavors = append(flavors, f)
		}
	}
	return flavors, problems
}

func ownNode(device *devices.Device) []string {
	if device.Spec.NodeName == "" {
		return nil
	}
	return []string{device.Spec.NodeName}
}

var hex96 = regexp.MustCompile(`^[0-9a-f]{24}$`)

// boardID of a Device, "" if it has none that is one.
func boardID(device *devices.Device) string {
	if id := device.Labels[devices.LabelBoardID]; hex96.MatchString(id) {
		return id
	}
	return ""
}

// flavor offers one sensor on a node.
func flavor(device *devices.Device, e sensor.Element, node string, owner nodecore.NodeIdentity, opts Options) (nodecore.Flavor, error) {
	data, err := typeData(e.Raw, node)
	if err != nil {
		return nodecore.Flavor{}, err
	}
	c := e.Characteristics
	f := nodecore.Flavor{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   device.Namespace,
			Name:        sensor.ObjectName(device.Name, boardID(device), c.UID, e.Part()),
			Annotations: map[string]string{},
			Labels: map[string]string{
				nodecore.LabelDevice: device.Name,
				nodecore.LabelPart:   e.Part(),
				nodecore.LabelNode:   node,
			},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: devices.GroupVersion.String(), Kind: "Device", Name: device.Name, UID: device.UID,
				Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(false),
			}},
		},
		Spec: nodecore.FlavorSpec{
			ProviderID: owner.NodeID,
			FlavorType: nodecore.FlavorType{TypeIdentifier: nodecore.TypeSensor, TypeData: runtime.RawExtension{Raw: data}},
			Owner:      owner,
			Price:      opts.Price,
		},
	}
	if opts.Location != (nodecore.Location{}) {
		f.Spec.Location = ptr.To(opts.Location)
	}
	if latency := strings.TrimSpace(c.Latency); latency != "" {
		f.Annotations[nodecore.AnnotationLatency] = strings.TrimSpace(latency + " " + c.Properties.Unit.Latency)
	}
	return f, nil
}

// typeData is an element as found, but for the node: that is where the Device is,
// not what the board says. The topic stays what the annotation says.
func typeData(raw json.RawMessage, node string) ([]byte, error) {
	var element map[string]any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&element); err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	element["node"] = node
	access, ok := element["access"].(map[string]any)
	if !ok {
		access = map[string]any{}
		element["access"] = access
	}
	resource, ok := access["resource"].(map[string]any)
	if !ok {
		resource = map[string]any{}
		access["resource"] = resource
	}
	resource["node"] = node
	return json.Marshal(map[string]any{"characteristics": element})
}

// isReady says whether a Node's condition Ready is True.
func isReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// deviceOf names the Device that owns a Flavor, "" if none does.
func deviceOf(f *nodecore.Flavor) string {
	o := metav1.GetControllerOf(f)
	if o == nil || o.Kind != "Device" || !strings.HasPrefix(o.APIVersion, devices.GroupVersion.Group+"/") {
		return ""
	}
	return o.Name
}

// merged is found with all that ERM decides as wanted, and whether that differs
// from found. The specification is ERM's as a whole; labels, annotations,
// owners and finalizers of others stay.
func merged(found, want *nodecore.Flavor) (next *nodecore.Flavor, differs bool) {
	next = found.DeepCopy()
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	maps.Copy(next.Labels, want.Labels)
	delete(next.Annotations, nodecore.AnnotationLatency)
	delete(next.Annotations, sensor.AnnotationUnavailable)
	if len(want.Annotations) > 0 {
		if next.Annotations == nil {
			next.Annotations = map[string]string{}
		}
		maps.Copy(next.Annotations, want.Annotations)
	}
	others := slices.DeleteFunc(slices.Clone(found.OwnerReferences), func(o metav1.OwnerReference) bool {
		return ptr.Deref(o.Controller, false) || o.UID == want.OwnerReferences[0].UID
	})
	next.OwnerReferences = append(slices.Clone(want.OwnerReferences), others...)
	if !sameSpec(found.Spec, want.Spec) {
		want.Spec.DeepCopyInto(&next.Spec)
	}
	sameOwners := len(next.OwnerReferences) == len(found.OwnerReferences)
	for _, o := range next.OwnerReferences {
		sameOwners = sameOwners && slices.ContainsFunc(found.OwnerReferences, func(p metav1.OwnerReference) bool {
			return reflect.DeepEqual(o, p)
		})
	}
	return next, !sameOwners ||
		!equality.Semantic.DeepEqual(found.Labels, next.Labels) ||
		!equality.Semantic.DeepEqual(found.Annotations, next.Annotations) ||
		!sameSpec(found.Spec, want.Spec)
}

// sameSpec compares typeData as JSON: an API server writes it in its own way.
func sameSpec(a, b nodecore.FlavorSpec) bool {
	x, y := a.FlavorType.TypeData.Raw, b.FlavorType.TypeData.Raw
	a.FlavorType.TypeData, b.FlavorType.TypeData = runtime.RawExtension{}, runtime.RawExtension{}
	if !equality.Semantic.DeepEqual(a, b) {
		return false
	}
	var v, w any
	if json.Unmarshal(x, &v) != nil || json.Unmarshal(y, &w) != nil {
		return bytes.Equal(x, y)
	}
	return reflect.DeepEqual(v, w)
}
