package sensor

import (
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
)

// Offer is one sensor on offer, as selection sees it.
type Offer struct {
	Key     Key
	BoardID string
	// Node is the edge node that the sensor's data comes from.
	Node string
	// Topic as a Rule names it, without the namespace.
	Topic string
	// Available is false while the sensor's node is not Ready. Select does not look at it.
	Available       bool
	UID             string
	Category        string
	Characteristics nodecore.Characteristics
}

// FromFlavor reads an offer back from its Flavor.
func FromFlavor(f *nodecore.Flavor) (Offer, error) { return Offer{}, nil }

// Verdict on one sensor: Selected, or how many requirements were met and why
// the first unmet one was not.
type Verdict struct {
	Selected bool
	Met      int
	Reason   string
}

// SelectFunc is Select, or a test's mutant of it.
type SelectFunc func([]sensors.Requirement, Offer) (Verdict, error)

// Select judges one offer. An error is a requirement that can never be judged
// (bad RE2, bound without number or unit, unknown field) and names its path
// (`spec.sensors[1].lt`); it does not depend on the offer.
func Select(reqs []sensors.Requirement, o Offer) (Verdict, error) { return Verdict{}, nil }
