package sensor

import (
	"encoding/json"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
)

// Element is one readable element of a `sensors` annotation.
type Element struct {
	Characteristics nodecore.Characteristics
	// Raw is the element as found, unknown fields kept.
	Raw json.RawMessage
	// Path of the element, "$[2]".
	Path string
}

// Problem is something wrong in an annotation.
type Problem struct {
	// Path is a JSON path, like `$[1].type.sensorType`.
	Path    string
	Message string
	// Fatal problems keep their element off offer.
	Fatal bool
}

// Decode reads a `sensors` annotation.
func Decode(annotation string) ([]Element, []Problem) { return nil, nil }
