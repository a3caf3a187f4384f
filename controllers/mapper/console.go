package mapper

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
)

// Bounds on what a board may announce.
const (
	maxLine     = 64 << 10
	maxSensors  = 64
	maxQuantity = 8
)

// Commands of the console, and the line that a board prints on its own.
const (
	commandUID     = "uid"
	commandSensors = "sensors"
	lineChanged    = "sensors changed"
)

// assembler puts console lines together from notifications. A line ends with
// LF, a CR before it is dropped. A line longer than maxLine is dropped whole.
type assembler struct {
	buf     []byte
	skip    bool
	dropped int
}

// feed takes the bytes of one notification and calls line for each line that
// they complete.
func (a *assembler) feed(b []byte, line func(string)) {
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		piece := b
		if i >= 0 {
			piece = b[:i]
			b = b[i+1:]
		} else {
			b = nil
		}
		switch {
		case a.skip:
		case len(a.buf)+len(piece) > maxLine:
			a.buf, a.skip = nil, true
			a.dropped++
		default:
			a.buf = append(a.buf, piece...)
		}
		if i < 0 {
			return
		}
		if !a.skip {
			line(string(bytes.TrimSuffix(a.buf, []byte("\r"))))
		}
		a.buf, a.skip = a.buf[:0], false
	}
}

// uidPattern is the answer to `uid`: 24 hex digits, to which ST's firmware adds the
// microcontroller's id.
var uidPattern = regexp.MustCompile(`^([0-9a-fA-F]{24})(_[0-9a-zA-Z]{1,16})?$`)

// parseUID reads the answer to `uid`; the 96-bit id is in lower case.
func parseUID(line string) (string, bool) {
	m := uidPattern.FindStringSubmatch(line)
	if m == nil {
		return "", false
	}
	return strings.ToLower(m[1]), true
}

// partPattern is what a part may be called: it becomes a label value, a level
// of a topic and a tag.
var partPattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// categoryPattern is what a category may be: it becomes a measurement.
var categoryPattern = regexp.MustCompile(`^[a-z0-9]([-_a-z0-9]{0,61}[a-z0-9])?$`)

// partOf is the part that characteristics describe.
func partOf(c v1alpha1.Characteristics) string { return strings.ToLower(c.Model) }

// parseSensors reads the answer to `sensors`. problems name the elements that
// were left out; the others stand. err is for an answer that is no array.
func parseSensors(line string) (sensors []v1alpha1.Characteristics, problems []string, err error) {
	var raw []json.RawMessage
	if err := json.Unmarshal([]byte(line), &raw); err != nil {
		return nil, nil, fmt.Errorf("answer to %q: %w", commandSensors, err)
	}
	if len(raw) > maxSensors {
		return nil, nil, fmt.Errorf("answer to %q: %d elements, at most %d", commandSensors, len(raw), maxSensors)
	}
	seen := map[string]int{}
	for i, r := range raw {
		var c v1alpha1.Characteristics
		if err := json.Unmarshal(r, &c); err != nil {
			problems = append(problems, fmt.Sprintf("[%d]: %v", i, err))
			continue
		}
		part := partOf(c)
		if !partPattern.MatchString(part) {
			problems = append(problems, fmt.Sprintf("[%d].model: %q, want letters, digits and inner dashes, at most 63", i, c.Model))
			continue
		}
		if first, ok := seen[part]; ok {
			problems = append(problems, fmt.Sprintf("[%d].model: %q is that of [%d] too", i, c.Model, first))
			continue
		}
		if n := len(c.Type.SensorType); n > maxQuantity {
			problems = append(problems, fmt.Sprintf("[%d].type.sensorType: %d elements, at most %d", i, n, maxQuantity))
			continue
		}
		if cat := c.Type.SensorCategory; cat != "" && !categoryPattern.MatchString(strings.ToLower(cat)) {
			problems = append(problems, fmt.Sprintf("[%d].type.sensorCategory: %q, want letters, digits, inner dashes and underscores, at most 63", i, cat))
			continue
		}
		seen[part] = i
		sensors = append(sensors, c)
	}
	return sensors, problems, nil
}
