package scenarios

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fluidos-edge/testbed/controllers/sensor"
	"github.com/fluidos-edge/testbed/scenarios/boards"
	"github.com/fluidos-edge/testbed/scenarios/ledger"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// Sensor is one part of one board, as the board itself says, or else the topology. It
// is worked out without looking at anything that a controller wrote.
type Sensor struct {
	UID      string
	Provider string
	Board    string
	// Device and Part are the sensor's name in Kubernetes: "<device>/<part>".
	Device, Part string
	// Nodes that hear the board; the first one has its data.
	Nodes []string
	// Rate in Hz.
	Rate         float64
	Types        []string
	Manufacturer string
	// Latency and LatencyUnit as declared, right or wrong.
	Latency, LatencyUnit string
}

// name as Kubernetes objects have it.
func (s Sensor) name() string { return s.Device + "/" + s.Part }

// String is how people are told of a sensor: by the board's name, and the Device behind.
func (s Sensor) String() string { return s.Board + "/" + s.Part + " (" + s.Device + ")" }

// parts that the boards of a model can offer, and what they declare unless the
// topology says otherwise. One without a rate comes at the board's.
var parts = map[string][]Sensor{
	topology.STWINKT1B: {
		{Part: "hts221", Types: []string{"Humidity", "Temperature"}},
		{Part: "lps22hh", Types: []string{"Pressure"}},
		{Part: "stts751", Types: []string{"Temperature"}},
		accelerometer, magnetometer, microphone,
	},
	topology.STWINBX1: {
		{Part: "stts22h", Types: []string{"Temperature"}},
		{Part: "ilps22qs", Types: []string{"Pressure"}},
		accelerometer, magnetometer, microphone,
	},
}

var (
	accelerometer = Sensor{Part: "ism330dhcx", Types: []string{"Acceleration", "AngularRate"}, Rate: 20}
	magnetometer  = Sensor{Part: "iis2mdc", Types: []string{"MagneticField"}, Rate: 20}
	microphone    = Sensor{Part: "imp34dt05", Types: []string{"SoundLevel"}, Rate: 2}
)

// sensorsOf a topology, in the order of provider, node, board and part.
func sensorsOf(t *topology.Topology) []Sensor {
	var all []Sensor
	for _, p := range t.Providers {
		for _, b := range p.Boards {
			all = append(all, sensorsOn(p, b)...)
		}
	}
	return inOrder(all)
}

func inOrder(all []Sensor) []Sensor {
	slices.SortStableFunc(all, func(a, b Sensor) int {
		return cmp.Or(cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Nodes[0], b.Nodes[0]))
	})
	return all
}

// sensorsOn a board of a provider, none if its mappers may not connect it.
func sensorsOn(p topology.Provider, b topology.Board) []Sensor {
	if !topology.Allowed(p.Allow, b.Model, b.MAC) || len(b.Nodes) == 0 {
		return nil
	}
	var all []Sensor
	mac := strings.ReplaceAll(b.MAC, ":", "")
	for _, s := range parts[b.Model] {
		if !slices.Contains(b.Offers, s.Part) {
			continue
		}
		s.Provider, s.Board, s.Nodes, s.Rate = p.Name, b.Name, b.Nodes, cmp.Or(s.Rate, b.Rate)
		s.Device = strings.ToLower(b.Model) + "-" + strings.ToLower(mac)
		s.UID = sensor.UID(b.ID, strings.ToUpper(mac), s.Part)
		s.Manufacturer, s.Latency, s.LatencyUnit = "STMicroelectronics", defaultLatency, "ms"
		declared := b.Parts[s.Part]
		set(&s.Manufacturer, declared.Manufacturer)
		set(&s.Latency, declared.Latency)
		set(&s.LatencyUnit, declared.LatencyUnit)
		all = append(all, s)
	}
	return all
}

// sensorsAsTold are the sensors of a provider's boards as the boards tell of
// themselves: also of boards that joined since the topology was written, and with
// what somebody has set.
func sensorsAsTold(p topology.Provider, told []boards.State) []Sensor {
	var all []Sensor
	for _, b := range told {
		spec := topology.Board{Name: b.Name, Model: b.Model, MAC: b.MAC, ID: b.ID, Nodes: slices.Clone(b.Nodes), Rate: b.Rate, Offers: b.Offers}
		// The node with the connection is the one that has the board's data.
		slices.SortStableFunc(spec.Nodes, func(x, y string) int {
			return cmp.Compare(boolInt(y == b.ConnectedTo), boolInt(x == b.ConnectedTo))
		})
		for _, s := range sensorsOn(p, spec) {
			for _, c := range b.Parts {
				if !strings.EqualFold(c.Model, s.Part) {
					continue
				}
				if rate, err := strconv.ParseFloat(c.SamplingRate, 64); err == nil && rate > 0 {
					s.Rate = rate
				}
				s.Manufacturer, s.Latency, s.LatencyUnit = c.Manufacturer, c.Latency, c.Properties.Unit.Latency
			}
			all = append(all, s)
		}
	}
	return all
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Steps and ranges of a BlueST frame's integers; from ST's firmware, and not from the
// codec that boards and mapper share.
var (
	temperatureStep = ledger.Step{Size: 0.1, Least: -3276.8, Most: 3276.7}
	humidityStep    = ledger.Step{Size: 0.1, Least: 0, Most: 6553.5}
	pressureStep    = ledger.Step{Size: 0.01, Least: -21474836.48, Most: 21474836.47}
	wholeStep       = ledger.Step{Size: 1, Least: -32768, Most: 32767}
	rateStep        = ledger.Step{Size: 0.1, Least: -3276.8, Most: 3276.7}
	levelStep       = ledger.Step{Size: 1, Least: 0, Most: 255}
)

// steps of the fields of each part.
var steps = map[string]map[string]ledger.Step{
	"hts221":   {"humidity_percent": humidityStep, "temperature_celsius": temperatureStep},
	"stts751":  {"temperature_celsius": temperatureStep},
	"stts22h":  {"temperature_celsius": temperatureStep},
	"lps22hh":  {"pressure_hpa": pressureStep},
	"ilps22qs": {"pressure_hpa": pressureStep},
	"ism330dhcx": {"acceleration_x_mg": wholeStep, "acceleration_y_mg": wholeStep, "acceleration_z_mg": wholeStep,
		"angular_rate_x_dps": rateStep, "angular_rate_y_dps": rateStep, "angular_rate_z_dps": rateStep},
	"iis2mdc":   {"magnetic_field_x_mgauss": wholeStep, "magnetic_field_y_mgauss": wholeStep, "magnetic_field_z_mgauss": wholeStep},
	"imp34dt05": {"sound_level_1_db": levelStep},
}

// stepOf a field of a part.
func stepOf(part, field string) (ledger.Step, bool) {
	step, ok := steps[part][field]
	return step, ok
}

// defaultLatency is what the simulated boards declare.
const defaultLatency = "12"

func set(s *string, value *string) {
	if value != nil {
		*s = *value
	}
}

func (s Sensor) measures(quantity string) bool {
	return slices.ContainsFunc(s.Types, func(t string) bool { return strings.EqualFold(t, quantity) })
}

// latency that the sensor declares; false without a usable number and unit.
func (s Sensor) latency() (time.Duration, bool) {
	d, err := time.ParseDuration(strings.TrimSpace(s.Latency) + strings.TrimSpace(s.LatencyUnit))
	return d, err == nil && strings.TrimSpace(s.LatencyUnit) != ""
}

// filtered is what the latency filter selects: humidity of one manufacturer
// with a latency below a bound.
func (s Sensor) filtered(bound time.Duration) bool {
	d, ok := s.latency()
	return s.candidate() && ok && d < bound
}

// candidate meets all of the latency filter but its bound.
func (s Sensor) candidate() bool {
	return s.measures("Humidity") && strings.EqualFold(s.Manufacturer, manufacturer)
}

const manufacturer = "STMicroelectronics"

// perNode is how many sensors of one node the multicast scenario takes for each
// of its sets; more show nothing else.
const perNode = 4

// sets are the disjoint sets of the multicast scenario, over all nodes.
type sets struct{ s1, s2, s3 []Sensor }

func (s sets) all() []Sensor { return slices.Concat(s.s1, s.s2, s.s3) }

// disjoint deals out the sensors of each provider in turn, as many as the
// throttle of each node can carry.
func disjoint(t *topology.Topology, all []Sensor) sets {
	var out sets
	c, dealt, perSet := carrier(t), map[string]int{}, map[string]int{}
	for _, s := range all {
		if perSet[s.node()] >= 3*perNode || !c.takes(s) {
			continue
		}
		perSet[s.node()]++
		set := []*[]Sensor{&out.s1, &out.s2, &out.s3}[dealt[s.Provider]%3]
		dealt[s.Provider]++
		*set = append(*set, s)
	}
	return out
}

// node whose throttle a sensor counts against, with its provider.
func (s Sensor) node() string { return s.Provider + "/" + s.Nodes[0] }

// load of each node, against what of its throttle the scenarios may use.
type load struct{ used, limit map[string]float64 }

func carrier(t *topology.Topology) load {
	const share = 0.95
	l := load{used: map[string]float64{}, limit: map[string]float64{}}
	for _, p := range t.Providers {
		for _, n := range p.EdgeNodes {
			l.limit[p.Name+"/"+n.Name] = share * float64(p.MessageQPS)
		}
	}
	return l
}

// takes a sensor if its node can carry it.
func (l load) takes(s Sensor) bool {
	if l.used[s.node()]+s.Rate > l.limit[s.node()] {
		return false
	}
	l.used[s.node()] += s.Rate
	return true
}

// watched are all sensors that can be watched at once: those that are needed,
// and of the others as many as go. The error names a node that cannot carry even
// the needed ones.
func watched(t *topology.Topology, all []Sensor, needed func(Sensor) bool) ([]Sensor, error) {
	c := carrier(t)
	var out []Sensor
	for _, s := range where(all, needed) {
		if !c.takes(s) {
			return nil, fmt.Errorf("node %s cannot carry the sensors that the filter is about (%s at %g Hz is one too many): raise messageQPS or lower rates",
				s.node(), s, s.Rate)
		}
		out = append(out, s)
	}
	for _, s := range all {
		if !needed(s) && c.takes(s) {
			out = append(out, s)
		}
	}
	return out, nil
}

func uids(sensors []Sensor) []string {
	out := make([]string, len(sensors))
	for i, s := range sensors {
		out[i] = s.UID
	}
	slices.Sort(out)
	return out
}

func where(sensors []Sensor, keep func(Sensor) bool) []Sensor {
	var out []Sensor
	for _, s := range sensors {
		if keep(s) {
			out = append(out, s)
		}
	}
	return out
}

func of(provider string) func(Sensor) bool {
	return func(s Sensor) bool { return s.Provider == provider }
}
