package sensor

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
)

// AnnotationUnavailable of a Flavor says what speaks against its board. It is
// there exactly as long as that does, whatever the node is.
const AnnotationUnavailable = "sensors.fluidos.eu/unavailable"

// Offer is one sensor on offer, as selection sees it.
type Offer struct {
	Key Key
	// BoardID is the board's 96-bit id, or what stands in for it: the piece of
	// the Flavor's name that ObjectName made.
	BoardID string
	// Node is the edge node that the sensor's data comes from.
	Node string
	// Topic as a Rule names it, without the namespace before it.
	Topic string
	// Available is false while the sensor's node is not Ready, and while something
	// speaks against its board.
	Available bool
	// Unavailable is what speaks against the board of a sensor that is not
	// available (`its board is offline`), "" if nothing is known to.
	Unavailable     string
	UID             string
	Category        string
	Characteristics nodecore.Characteristics
}

// FromFlavor reads an offer back from its Flavor, which it does not change. An
// error names the part of the Flavor that is not of a sensor.
func FromFlavor(f *nodecore.Flavor) (Offer, error) {
	fail := func(format string, args ...any) (Offer, error) {
		return Offer{}, fmt.Errorf("flavor %s/%s: %w", f.Namespace, f.Name, fmt.Errorf(format, args...))
	}
	if got := f.Spec.FlavorType.TypeIdentifier; got != nodecore.TypeSensor {
		return fail("spec.flavorType.typeIdentifier is %q, not %q", got, nodecore.TypeSensor)
	}
	key := Key{Namespace: f.Namespace, Device: f.Labels[nodecore.LabelDevice], Part: f.Labels[nodecore.LabelPart]}
	if key.Device == "" || key.Part == "" {
		return fail("metadata.labels: %s and %s must both be set", nodecore.LabelDevice, nodecore.LabelPart)
	}
	var data struct {
		Characteristics json.RawMessage `json:"characteristics"`
	}
	if err := json.Unmarshal(f.Spec.FlavorType.TypeData.Raw, &data); err != nil {
		return fail("spec.flavorType.typeData: %w", err)
	}
	const path = "spec.flavorType.typeData.characteristics"
	if len(data.Characteristics) == 0 {
		return fail("%s is missing", path)
	}
	c, problems := readCharacteristics(data.Characteristics, path)
	for _, p := range problems {
		if p.Fatal {
			return fail("%s %s", p.Path, p.Message)
		}
	}
	if c.UID == "" {
		return fail("%s.uid is missing", path)
	}
	o := Offer{
		Key:             key,
		BoardID:         boardID(f.Name, key),
		Node:            or(f.Labels[nodecore.LabelNode], c.Node),
		Topic:           strings.TrimPrefix(c.Access.Resource.Topic, f.Namespace+"/"),
		Available:       f.Spec.Availability,
		UID:             c.UID,
		Category:        c.Type.SensorCategory,
		Characteristics: c,
	}
	if !o.Available {
		o.Unavailable = f.Annotations[AnnotationUnavailable]
	}
	return o, nil
}

// boardID is the middle of a name that ObjectName made, "" if it did not.
func boardID(name string, k Key) string {
	rest, ok := strings.CutPrefix(name, k.Device+"-")
	if !ok || len(rest) < 24 || !strings.HasPrefix(rest[24:], "-"+k.Part) {
		return ""
	}
	if _, err := hex.DecodeString(rest[:24]); err != nil {
		return ""
	}
	return rest[:24]
}
