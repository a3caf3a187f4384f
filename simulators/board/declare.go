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
	"github.com/fluidos-edge/testbed/testbed/topology"
)

const (
	minRate, maxRate = 0.1, 100
	maxLatency       = time.Minute
	// maxDeclared bytes in one declared value: it must go over the console.
	maxDeclared = 256

	manufacturer   = "STMicroelectronics"
	market         = "Industrial"
	defaultLatency = "12" // ms
)

// datasheets: accuracy in the unit of the reading, consumption in uA. Accuracy of
// inertial parts is their offset, of the microphone its sensitivity.
var datasheets = map[string]struct {
	what        string
	accuracy    map[string]float64
	consumption string
}{
	"hts221":     {"humidity and temperature sensor", map[string]float64{"Humidity": 3.5, "Temperature": 0.5}, "2"},
	"lps22hh":    {"pressure sensor", map[string]float64{"Pressure": 0.5}, "4"},
	"stts751":    {"temperature sensor", map[string]float64{"Temperature": 0.5}, "50"},
	"stts22h":    {"temperature sensor", map[string]float64{"Temperature": 0.5}, "1.75"},
	"ilps22qs":   {"pressure sensor", map[string]float64{"Pressure": 0.5}, "1.7"},
	"ism330dhcx": {"accelerometer and gyroscope", map[string]float64{"Acceleration": 10, "AngularRate": 1}, "1200"},
	"iis2mdc":    {"magnetometer", map[string]float64{"MagneticField": 60}, "100"},
	"imp34dt05":  {"microphone", map[string]float64{"SoundLevel": 3}, "650"},
}

// declare is what a board announces of the parts that it offers, in the order of its
// part table. The sampling rate is that of the part's characteristic; accuracy is in
// the unit of the measurement.
func (v *variety) declare(spec topology.Board, rates [channels]float64) []nodecore.Characteristics {
	all := make([]nodecore.Characteristics, 0, len(spec.Offers))
	for _, p := range v.parts {
		if !slices.Contains(spec.Offers, p.Name) {
			continue
		}
		sheet := datasheets[p.Name]
		c := nodecore.Characteristics{
			Name:         strings.ToUpper(p.Name) + " " + sheet.what,
			Model:        strings.ToUpper(p.Name),
			Manufacturer: manufacturer,
			Market:       market,
			SamplingRate: strconv.FormatFloat(rates[v.feature(p.Characteristic)], 'f', -1, 64),
			Consumption:  sheet.consumption,
			Latency:      defaultLatency,
		}
		c.Type.SensorCategory = p.Category
		c.Properties.Unit = nodecore.SensorUnits{Consumption: "uA", SamplingRate: "Hz", Latency: "ms"}
		for _, f := range p.Feeds {
			if slices.Contains(c.Type.SensorType, f.SensorType) {
				continue // another axis
			}
			c.Type.SensorType = append(c.Type.SensorType, f.SensorType)
			c.Accuracy = append(c.Accuracy, strconv.FormatFloat(sheet.accuracy[f.SensorType], 'f', -1, 64))
			c.Properties.Unit.Measurement = append(c.Properties.Unit.Measurement, f.Unit)
		}
		d := spec.Parts[p.Name]
		set(&c.Latency, d.Latency)
		set(&c.Properties.Unit.Latency, d.LatencyUnit)
		set(&c.Manufacturer, d.Manufacturer)
		set(&c.Market, d.Market)
		all = append(all, c)
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
	if err := b.variety.check(spec); err != nil {
		b.mu.Unlock()
		return err
	}
	b.redeclare(func() {
		b.spec = spec
		if p.Rate != nil {
			b.setRate(environmental, spec.Rate)
		}
	})
	b.note(b.now(), EventChanged, p.detail())
	b.mu.Unlock()
	b.opts.Wake(b)
	return nil
}

// redeclare tells the console if a change changed what the board declares. b.mu is
// held.
func (b *Board) redeclare(change func()) {
	before := b.declare()
	change()
	if !reflect.DeepEqual(before, b.declare()) {
		b.print("sensors changed")
	}
}

// declare is what the board declares now. b.mu is held.
func (b *Board) declare() []nodecore.Characteristics {
	var rates [channels]float64
	for i := range b.streams {
		rates[i] = b.streams[i].rate
	}
	return b.variety.declare(b.spec, rates)
}

func checkRate(hz float64) error {
	if !(hz >= minRate && hz <= maxRate) {
		return fmt.Errorf("rate: %v Hz, want %v to %v", hz, minRate, maxRate)
	}
	return nil
}

// check judges what a patch can change.
func (v *variety) check(spec topology.Board) error {
	if err := checkRate(spec.Rate); err != nil {
		return err
	}
	median, jitter := time.Duration(spec.Latency.Median), time.Duration(spec.Latency.Jitter)
	if median < 0 || median > maxLatency {
		return fmt.Errorf("latency.median: %s, want 0s to %s", median, maxLatency)
	}
	if jitter < 0 || jitter > median {
		return fmt.Errorf("latency.jitter: %s, want 0s to the median, %s", jitter, median)
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Parts)) {
		if !v.has(name) {
			return fmt.Errorf("parts.%s: no such part on a %s, want one of %s", name, spec.Model, strings.Join(spec.Offers, ", "))
		}
		if !slices.Contains(spec.Offers, name) {
			return fmt.Errorf("parts.%s: not on offer, want one of %s", name, strings.Join(spec.Offers, ", "))
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
