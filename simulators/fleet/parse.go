package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/fluidos-edge/testbed/testbed/topology"
)

// readers of an object's fields, by name. Everything that the control API takes is
// read by them: strictly, and with errors that name the field.
type readers map[string]func(at string, raw []byte) error

// parsePatch reads a Patch.
func parsePatch(body []byte) (Patch, error) {
	var p Patch
	err := fields("", body, readers{
		"rate": value(&p.Rate, "a number of Hz"),
		"latency": func(at string, raw []byte) error {
			p.Latency = &LatencyPatch{}
			return fields(at, raw, readers{
				"median": value(&p.Latency.Median, `a duration such as "5ms"`),
				"jitter": value(&p.Latency.Jitter, `a duration such as "1ms"`),
			})
		},
		"parts": declared(&p.Parts),
	})
	return p, err
}

// parseBoard reads a board, which may leave open what SetDefaults fills in.
func parseBoard(body []byte) (topology.Board, error) {
	var b topology.Board
	err := fields("", body, readers{
		"name": value(&b.Name, "a string"), "model": value(&b.Model, "a string"),
		"mac": value(&b.MAC, "a string"), "id": value(&b.ID, "a string"),
		"nodes": value(&b.Nodes, "a list of strings"), "rate": value(&b.Rate, "a number of Hz"),
		"latency": func(at string, raw []byte) error {
			return fields(at, raw, readers{
				"median": value(&b.Latency.Median, `a duration such as "5ms"`),
				"jitter": value(&b.Latency.Jitter, `a duration such as "1ms"`),
			})
		},
		"offers": value(&b.Offers, "a list of strings"), "replayCSV": value(&b.ReplayCSV, "a string"),
		"replay": func(at string, _ []byte) error {
			return fmt.Errorf("%s: want the content as replayCSV, this process reads no such files", at)
		},
		"parts": declared(&b.Parts),
	})
	switch {
	case err != nil:
		return b, err
	case b.Model == "":
		return b, fmt.Errorf("model: want %s or %s", topology.STWINKT1B, topology.STWINBX1)
	}
	if b.Nodes != nil && len(b.Nodes) == 0 {
		return b, errors.New("nodes: none, want at least one, or no field nodes for one in turn")
	}
	if b.Name != "" {
		if wrong := validation.IsDNS1123Label(b.Name); len(wrong) > 0 {
			return b, fmt.Errorf("name: %.100q: %s", b.Name, strings.Join(wrong, "; "))
		}
	}
	return b, nil
}

// parseFault reads a fault. Whether a board can have it is not judged.
func parseFault(body []byte) (topology.Fault, error) {
	var f topology.Fault
	err := fields("", body, readers{
		"kind": value(&f.Kind, "a string"), "part": value(&f.Part, "a string"), "of": value(&f.Of, "a string"),
		"slope": value(&f.Slope, "a number"), "for": value(&f.For, `a duration such as "30s"`),
	})
	if err == nil && f.Kind == "" {
		err = errors.New("kind: want one of " + strings.Join(topology.FaultKinds, ", "))
	}
	return f, err
}

// declared reads what parts declare.
func declared(into *map[string]topology.Declared) func(string, []byte) error {
	return func(at string, raw []byte) error {
		var parts map[string]json.RawMessage
		if err := json.Unmarshal(raw, &parts); err != nil {
			return fmt.Errorf("%s: want an object: %w", at, err)
		}
		*into = map[string]topology.Declared{}
		for name, raw := range parts {
			var d topology.Declared
			if err := fields(at+"."+name, raw, readers{
				"latency": value(&d.Latency, "a string"), "latencyUnit": value(&d.LatencyUnit, "a string"),
				"manufacturer": value(&d.Manufacturer, "a string"), "market": value(&d.Market, "a string"),
			}); err != nil {
				return err
			}
			(*into)[name] = d
		}
		return nil
	}
}

// fields hands each field of an object to its reader; null is as if it were not
// there.
func fields(at string, raw []byte, known readers) error {
	prefix := at
	if at != "" {
		prefix, at = at+": ", at+"."
	}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(raw, &given); err != nil {
		return fmt.Errorf("%swant an object: %w", prefix, err)
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		raw := given[name]
		read, ok := known[name]
		if !ok {
			return fmt.Errorf("%s%.100s: unknown field, want one of %s", at, name, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		if string(raw) == "null" {
			continue
		}
		if err := read(at+name, raw); err != nil {
			return err
		}
	}
	return nil
}

func value[T any](into *T, want string) func(string, []byte) error {
	return func(at string, raw []byte) error {
		if err := json.Unmarshal(raw, into); err != nil {
			return fmt.Errorf("%s: %.100s, want %s: %w", at, raw, want, err)
		}
		return nil
	}
}
