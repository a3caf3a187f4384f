package publish

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/influxdata/line-protocol/v2/lineprotocol"
)

// Sample is one reading of one sensor, complete but for its number.
type Sample struct {
	// Category becomes the measurement; the others of these are tags.
	Category, Device, Node, Part, UID string
	// Topic without the namespace before it.
	Topic  string
	Values []Value
	// Latency from the board's emission to the mapper; unknown if negative.
	Latency time.Duration
	// Epoch is the start of the sensor's stream, ns.
	Epoch int64
	// At is the time of the sample, ns.
	At int64
}

// Value is one field of a line.
type Value struct {
	Field string
	Value float64
}

// Encode writes the sample as one line of line protocol, line break included.
func (s Sample) Encode(seq, at int64) ([]byte, error) {
	var e lineprotocol.Encoder
	e.StartLine(s.Category)
	e.AddTag("device", s.Device)
	e.AddTag("node", s.Node)
	e.AddTag("part", s.Part)
	e.AddTag("uid", s.UID)
	if len(s.Values) == 0 {
		return nil, errors.New(s.Part + ": no readings")
	}
	for _, v := range s.Values {
		f, ok := lineprotocol.FloatValue(v.Value)
		if !ok {
			return nil, fmt.Errorf("%s: %s %v is no number", s.Part, v.Field, v.Value)
		}
		e.AddField(v.Field, f)
	}
	if s.Latency >= 0 {
		ms := math.Round(float64(s.Latency)/float64(time.Microsecond)) / 1000
		e.AddField("sensor_latency_ms", lineprotocol.MustNewValue(ms))
	}
	e.AddField("epoch", lineprotocol.IntValue(s.Epoch))
	e.AddField("seq", lineprotocol.IntValue(seq))
	e.EndLine(time.Unix(0, at))
	if err := e.Err(); err != nil {
		return nil, fmt.Errorf("line of %s/%s: %w", s.Device, s.Part, err)
	}
	return e.Bytes(), nil
}
