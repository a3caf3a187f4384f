package board

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

const (
	minRate, maxRate = 0.1, 100
	maxLatency       = time.Minute
	// maxDeclared bytes in one declared value: it must go over the console.
	maxDeclared = 256

	category       = "environmental"
	manufacturer   = "STMicroelectronics"
	market         = "Industrial"
	defaultLatency = "12" // ms
)

// datasheets: accuracy in the unit of the reading, consumption in uA.
var datasheets = map[string]struct {
	what        string
	accuracy    map[string]float64
	consumption string
}{
	"hts221":   {"humidity and temperature sensor", map[string]float64{"Humidity": 3.5, "Temperature": 0.5}, "2"},
	"lps22hh":  {"pressure sensor", map[string]float64{"Pressure": 0.5}, "4"},
	"stts751":  {"temperature sensor", map[string]float64{"Temperature": 0.5}, "50"},
	"stts22h":  {"temperature sensor", map[string]float64{"Temperature": 0.5}, "1.75"},
	"ilps22qs": {"pressure sensor", map[string]float64{"Pressure": 0.5}, "1.7"},
}

// declare is what a board announces of its parts. The sampling rate is the rate
// at which samples come; accuracy is in the unit of the measurement.
func declare(spec topology.Board, parts []bluest.Part) []nodecore.Characteristics {
	all := make([]nodecore.Characteristics, len(parts))
	for i, p := range parts {
		sheet := datasheets[p.Name]
		c := nodecore.Characteristics{
			Name:         strings.ToUpper(p.Name) + " " + sheet.what,
			Model:        strings.ToUpper(p.Name),
			Manufacturer: manufacturer,
			Market:       market,
			SamplingRate: strconv.FormatFloat(spec.Rate, 'f', -1, 64),
			Consumption:  sheet.consumption,
			Latency:      defaultLatency,
		}
		c.Type.SensorCategory = category
		c.Properties.Unit = nodecore.SensorUnits{Consumption: "uA", SamplingRate: "Hz", Latency: "ms"}
		for _, f := range p.Feeds {
			c.Type.SensorType = append(c.Type.SensorType, f.SensorType)
			c.Accuracy = append(c.Accuracy, strconv.FormatFloat(sheet.accuracy[f.SensorType], 'f', -1, 64))
			c.Properties.Unit.Measurement = append(c.Properties.Unit.Measurement, f.Unit)
		}
		d := spec.Parts[p.Name]
		set(&c.Latency, d.Latency)
		set(&c.Properties.Unit.Latency, d.LatencyUnit)
		set(&c.Manufacturer, d.Manufacturer)
		set(&c.Market, d.Market)
		all[i] = c
	}
	return all
}

func set(field, value *string) {
	if value != nil {
		*field = *value
	}
}

// Patch changes a running board; what is nil stays.
type Patch struct {
	// Rate in Hz, 0.1 to 100.
	Rate    *float64      `json:"rate,omitempty"`
	Latency *LatencyPatch `json:"latency,omitempty"`
	// Parts by part name. What is nil in a Declared stays as it was set before;
	// "" clears it.
	Parts map[string]topology.Declared `json:"parts,omitempty"`
}

// LatencyPatch changes how a board behaves.
type LatencyPatch struct {
	Median *topology.Duration `json:"median,omitempty"`
	Jitter *topology.Duration `json:"jitter,omitempty"`
}

// Set applies a patch, all of it or, with an error that names the field, nothing.
// If the board then declares something else, it prints "sensors changed".
func (b *Board) Set(p Patch) error {
	b.mu.Lock()
	spec := b.spec
	if p.Rate != nil {
		spec.Rate = *p.Rate
	}
	if l := p.Latency; l != nil {
		if l.Median != nil {
			spec.Latency.Median = *l.Median
		}
		if l.Jitter != nil {
			spec.Latency.Jitter = *l.Jitter
		}
	}
	if len(p.Parts) > 0 {
		spec.Parts = maps.Clone(spec.Parts)
		if spec.Parts == nil {
			spec.Parts = map[string]topology.Declared{}
		}
		for name, d := range p.Parts {
			old := spec.Parts[name]
			for _, f := range []struct{ into, from **string }{
				{&old.Latency, &d.Latency}, {&old.LatencyUnit, &d.LatencyUnit},
				{&old.Manufacturer, &d.Manufacturer}, {&old.Market, &d.Market},
			} {
				if *f.from != nil {
					*f.into = *f.from
				}
			}
			spec.Parts[name] = old
		}
	}
	if err := check(spec, b.parts); err != nil {
		b.mu.Unlock()
		return err
	}
	changed := !reflect.DeepEqual(declare(b.spec, b.parts), declare(spec, b.parts))
	b.spec = spec
	if b.sampling {
		b.due = b.next(b.opts.Clock.Now())
	}
	if changed {
		b.print("sensors changed")
	}
	b.mu.Unlock()
	b.opts.Wake(b)
	return nil
}

// check judges what a patch can change.
func check(spec topology.Board, parts []bluest.Part) error {
	if !(spec.Rate >= minRate && spec.Rate <= maxRate) {
		return fmt.Errorf("rate: %v Hz, want %v to %v", spec.Rate, minRate, maxRate)
	}
	median, jitter := time.Duration(spec.Latency.Median), time.Duration(spec.Latency.Jitter)
	if median < 0 || median > maxLatency {
		return fmt.Errorf("latency.median: %s, want 0s to %s", median, maxLatency)
	}
	if jitter < 0 || jitter > median {
		return fmt.Errorf("latency.jitter: %s, want 0s to the median, %s", jitter, median)
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Parts)) {
		if !slices.ContainsFunc(parts, func(p bluest.Part) bool { return p.Name == name }) {
			known := make([]string, len(parts))
			for i, p := range parts {
				known[i] = p.Name
			}
			return fmt.Errorf("parts.%s: no such part on a %s, want one of %s", name, spec.Model, strings.Join(known, ", "))
		}
		d := spec.Parts[name]
		for _, f := range []struct {
			name  string
			value *string
		}{{"latency", d.Latency}, {"latencyUnit", d.LatencyUnit}, {"manufacturer", d.Manufacturer}, {"market", d.Market}} {
			if f.value != nil && len(*f.value) > maxDeclared {
				return fmt.Errorf("parts.%s.%s: %d bytes, at most %d", name, f.name, len(*f.value), maxDeclared)
			}
		}
	}
	return nil
}
