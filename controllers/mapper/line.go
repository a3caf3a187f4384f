package mapper

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/influxdata/line-protocol/v2/lineprotocol"
)

// sample is one reading of one sensor, complete but for its number.
type sample struct {
	part
	device string
	node   string
	values []value
	// latency from the board's emission to the mapper; unknown if negative.
	latency time.Duration
	// epoch is the start of the sensor's stream, ns.
	epoch int64
	// at is the time of the sample, ns.
	at int64
}

// encode writes the sample as one line of line protocol, line break included.
func (s sample) encode(seq, at int64) ([]byte, error) {
	var e lineprotocol.Encoder
	e.StartLine(s.category)
	e.AddTag("device", s.device)
	e.AddTag("node", s.node)
	e.AddTag("part", s.name)
	e.AddTag("uid", s.uid)
	if len(s.values) == 0 {
		return nil, errors.New(s.name + ": no readings")
	}
	for _, v := range s.values {
		f, ok := lineprotocol.FloatValue(v.value)
		if !ok {
			return nil, fmt.Errorf("%s: %s %v is no number", s.name, v.field, v.value)
		}
		e.AddField(v.field, f)
	}
	if s.latency >= 0 {
		ms := math.Round(float64(s.latency)/float64(time.Microsecond)) / 1000
		e.AddField("sensor_latency_ms", lineprotocol.MustNewValue(ms))
	}
	e.AddField("epoch", lineprotocol.IntValue(s.epoch))
	e.AddField("seq", lineprotocol.IntValue(seq))
	e.EndLine(time.Unix(0, at))
	if err := e.Err(); err != nil {
		return nil, fmt.Errorf("line of %s/%s: %w", s.device, s.name, err)
	}
	return e.Bytes(), nil
}
