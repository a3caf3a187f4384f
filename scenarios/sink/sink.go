// Package sink reads what a testbed keeps of its samples: InfluxDB's rows, the
// arrivals in Telegraf's journal and the lines in a mapper's journal. All three
// become ledger.Sample, with bodies that are equal wherever a sample is.
//
// Invariants: it only reads; what is no sample (no uid, epoch or seq) is left out
// and counted.
//
// To try it: go test ./scenarios/sink.
package sink

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/influxdata/line-protocol/v2/lineprotocol"

	"github.com/fluidos-edge/testbed/scenarios/ledger"
)

// Tags and fields that make a sample.
const (
	tagUID       = "uid"
	tagDevice    = "device"
	tagNode      = "node"
	tagPart      = "part"
	tagEndpoint  = "endpoint"
	fieldEpoch   = "epoch"
	fieldSeq     = "seq"
	fieldLatency = "sensor_latency_ms"
)

// ErrNoSample says that a line or row is well-formed, but no sample.
var ErrNoSample = errors.New("no sample: uid, epoch or seq is not there")

// ParseLine reads one line of line protocol.
func ParseLine(line []byte) (ledger.Sample, error) {
	d := lineprotocol.NewDecoderWithBytes(line)
	if !d.Next() {
		return ledger.Sample{}, errors.New("line protocol: no line")
	}
	p, err := decode(d)
	if err != nil {
		return ledger.Sample{}, fmt.Errorf("line protocol: %w", err)
	}
	if d.Next() {
		return ledger.Sample{}, errors.New("line protocol: more than one line")
	}
	return p.sample()
}

// point is a line or row as it is.
type point struct {
	measurement string
	tags        map[string]string
	fields      map[string]any // float64, int64, uint64, bool or string
	time        time.Time
}

func decode(d *lineprotocol.Decoder) (point, error) {
	p := point{tags: map[string]string{}, fields: map[string]any{}}
	measurement, err := d.Measurement()
	if err != nil {
		return p, err
	}
	p.measurement = string(measurement)
	for {
		k, v, err := d.NextTag()
		if err != nil {
			return p, err
		}
		if k == nil {
			break
		}
		if _, twice := p.tags[string(k)]; twice {
			return p, fmt.Errorf("tag %q twice", k)
		}
		p.tags[string(k)] = string(v)
	}
	for {
		k, v, err := d.NextField()
		if err != nil {
			return p, err
		}
		if k == nil {
			break
		}
		if _, twice := p.fields[string(k)]; twice {
			return p, fmt.Errorf("field %q twice", k)
		}
		p.fields[string(k)] = v.Interface()
	}
	p.time, err = d.Time(lineprotocol.Nanosecond, time.Time{})
	if err == nil && p.time.IsZero() {
		err = errors.New("no time")
	}
	return p, err
}

// sample is the point as the ledger knows it.
func (p point) sample() (ledger.Sample, error) {
	epoch, hasEpoch := p.fields[fieldEpoch].(int64)
	seq, hasSeq := p.fields[fieldSeq].(int64)
	if p.tags[tagUID] == "" || !hasEpoch || !hasSeq {
		return ledger.Sample{}, ErrNoSample
	}
	s := ledger.Sample{
		Endpoint: p.tags[tagEndpoint], UID: p.tags[tagUID], Category: p.measurement, Device: p.tags[tagDevice], Node: p.tags[tagNode], Part: p.tags[tagPart],
		Epoch: epoch, Seq: seq, Time: p.time.UnixNano(), Body: p.body(),
	}
	s.Latency, s.HasLatency = p.fields[fieldLatency].(float64)
	for _, k := range slices.Sorted(maps.Keys(p.fields)) {
		if v, ok := p.fields[k].(float64); ok && k != fieldLatency {
			s.Values = append(s.Values, ledger.Value{Field: k, Number: v})
		}
	}
	return s, nil
}

// body is everything that the sample's identity, time and endpoint leave, in an
// order of its own.
func (p point) body() string {
	var b strings.Builder
	b.WriteString(strconv.Quote(p.measurement))
	for _, k := range slices.Sorted(maps.Keys(p.tags)) {
		if k != tagUID && k != tagEndpoint {
			fmt.Fprintf(&b, ",%q=%q", k, p.tags[k])
		}
	}
	separator := " "
	for _, k := range slices.Sorted(maps.Keys(p.fields)) {
		if k == fieldEpoch || k == fieldSeq {
			continue
		}
		value := ""
		switch v := p.fields[k].(type) {
		case float64:
			value = strconv.FormatFloat(v, 'g', -1, 64)
		case int64:
			value = strconv.FormatInt(v, 10) + "i"
		case uint64:
			value = strconv.FormatUint(v, 10) + "u"
		case bool:
			value = strconv.FormatBool(v)
		default:
			value = fmt.Sprintf("%q", v)
		}
		fmt.Fprintf(&b, "%s%q=%s", separator, k, value)
		separator = ","
	}
	return b.String()
}
