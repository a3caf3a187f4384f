// Package topology is the file that describes a testbed: its types, strict
// decoding, defaults and validation. It does no I/O. All problems of a file are
// reported at once, each with line, field, value and what would be right.
//
// A Topology that Load returned is complete: every default is filled in, every
// name, address and id is set, so that nobody downstream decides anything again.
package topology

import "time"

// Accepted apiVersion and kind.
const (
	APIVersion = "testbed.fluidos.eu/v1alpha1"
	Kind       = "Testbed"
)

// Topology is a whole testbed.
type Topology struct {
	APIVersion string `json:"apiVersion" yaml:"apiVersion"`
	Kind       string `json:"kind" yaml:"kind"`
	// Seed makes everything that is drawn by chance repeatable: addresses,
	// ids, readings, jitter. Default 1.
	Seed      uint64     `json:"seed" yaml:"seed"`
	Consumers []Consumer `json:"consumers" yaml:"consumers"`
	Providers []Provider `json:"providers" yaml:"providers"`
}

// Consumer is a cluster that asks for sensor data, with a sink.
type Consumer struct {
	// Name, default consumer-<n>.
	Name string `json:"name" yaml:"name"`
	// Endpoints of the sink, each a listener of its own. Default one, "a".
	// Every sink also has an endpoint "witness", which may not be listed: the
	// scenarios use it as their fence.
	Endpoints []Endpoint `json:"endpoints" yaml:"endpoints"`
}

// WitnessEndpoint is the name of the endpoint that every sink has besides its own.
const WitnessEndpoint = "witness"

// Endpoint is one listener of a sink.
type Endpoint struct {
	Name string `json:"name" yaml:"name"`
}

// Provider is a cluster that offers sensors.
type Provider struct {
	// Name, default provider-<n>.
	Name      string     `json:"name" yaml:"name"`
	EdgeNodes []EdgeNode `json:"edgeNodes" yaml:"edgeNodes"`
	Boards    []Board    `json:"boards" yaml:"boards"`
	// MessageQPS and MessageBurst are the throttle from each edge node to the
	// cloud, messages/s and messages; defaults 30 and 60, as in KubeEdge.
	MessageQPS   int `json:"messageQPS" yaml:"messageQPS"`
	MessageBurst int `json:"messageBurst" yaml:"messageBurst"`
	// Gather is how long a mapper collects the lines of one sensor before it
	// publishes them in one message, at most 10s. Default 0: each line at once.
	Gather Duration `json:"gather,omitempty" yaml:"gather,omitempty"`
	// Allow lists the boards that mappers may register: addresses
	// ("c0:83:2a:10:20:30"), beginnings of addresses ("c0:83:2a:*") or models
	// ("STWINKT1B"). Default all.
	Allow []string `json:"allow,omitempty" yaml:"allow,omitempty"`
	// Radio is the air between boards and edge nodes.
	Radio Radio `json:"radio" yaml:"radio"`
	// Faults befall boards by themselves, see ScheduledFault.
	Faults []ScheduledFault `json:"faults,omitempty" yaml:"faults,omitempty"`
	// Price and Location are copied into every Flavor.
	Price    Price    `json:"price" yaml:"price"`
	Location Location `json:"location" yaml:"location"`
}

// Price of an offer; default 0 EUR hourly.
type Price struct {
	Amount   string `json:"amount" yaml:"amount"`
	Currency string `json:"currency" yaml:"currency"`
	Period   string `json:"period" yaml:"period"`
}

// Location of a provider; all optional.
type Location struct {
	Latitude  string `json:"latitude,omitempty" yaml:"latitude,omitempty"`
	Longitude string `json:"longitude,omitempty" yaml:"longitude,omitempty"`
	Country   string `json:"country,omitempty" yaml:"country,omitempty"`
	City      string `json:"city,omitempty" yaml:"city,omitempty"`
}

// EdgeNode is a Kubernetes node of a provider that runs at the edge.
type EdgeNode struct {
	// Name, default edge-<n>; unique in its provider.
	Name string `json:"name" yaml:"name"`
}

// Models of boards.
const (
	STWINKT1B = "STWINKT1B"
	STWINBX1  = "STWINBX1"
)

// Board is one simulated sensor board.
type Board struct {
	// Name is how people call the board (`testbed board set NAME`); unique in the
	// testbed. Default <model in lower case>-<n>, n counted over the testbed.
	Name string `json:"name" yaml:"name"`
	// Model is STWINKT1B or STWINBX1.
	Model string `json:"model" yaml:"model"`
	// MAC is the board's BLE address, "c0:83:2a:..", unique in the testbed.
	// Default drawn from the seed and the name.
	MAC string `json:"mac" yaml:"mac"`
	// ID is the microcontroller's 96-bit unique id, 24 lower-case hex digits.
	// Default drawn from the seed and the name.
	ID string `json:"id" yaml:"id"`
	// Nodes are the edge nodes that hear the board. Default one node, in turn.
	Nodes []string `json:"nodes" yaml:"nodes"`
	// Rate is the notification rate of the environmental characteristic in Hz,
	// 0.1 to 100. Default 2, the board's nominal rate.
	Rate float64 `json:"rate" yaml:"rate"`
	// Latency is how long a reading takes from the board to the mapper. It is
	// behaviour, apart from the latency that a part declares.
	Latency Latency `json:"latency" yaml:"latency"`
	// Offers are the parts that the board declares and its mapper subscribes to,
	// lower case. Default the environmental ones (hts221, lps22hh and stts751 of a
	// STWINKT1B, stts22h and ilps22qs of a STWINBX1); both models have ism330dhcx
	// and iis2mdc (20 Hz each) and imp34dt05 (2 Hz) besides.
	Offers []string `json:"offers,omitempty" yaml:"offers,omitempty"`
	// Replay is a CSV file with the readings that the board sends instead of its
	// model's, relative to the topology file; ReplayCSV is its content, which no
	// file gives. For its form see board.ParseReplay.
	Replay    string `json:"replay,omitempty" yaml:"replay,omitempty"`
	ReplayCSV string `json:"replayCSV,omitempty" yaml:"-"`
	// Parts overrides what the board declares of a part that it offers, by part
	// name in lower case.
	Parts map[string]Declared `json:"parts,omitempty" yaml:"parts,omitempty"`
}

// Latency is a distribution: median plus or minus at most jitter.
type Latency struct {
	Median Duration `json:"median" yaml:"median"`
	Jitter Duration `json:"jitter" yaml:"jitter"`
}

// Radio is how the air between boards and edge nodes behaves.
type Radio struct {
	// Interval between two advertisements of one board, 20ms to 10.24s as in BLE.
	// Default 1s.
	Interval Duration `json:"interval" yaml:"interval"`
	// Loss is the share of advertisements, and of notifications on their first
	// try, that are lost, 0 to 0.9. A lost notification is sent again at the next
	// connection event, as the link layer does: loss costs latency, not data.
	Loss float64 `json:"loss,omitempty" yaml:"loss,omitempty"`
}

// Kinds of faults.
const (
	FaultSilence    = "silence"      // connected, but no notifications
	FaultStuck      = "stuck"        // a part's value does not change any more
	FaultDrift      = "drift"        // a part's value runs away, by Slope a minute
	FaultGarbage    = "garbage"      // frames of the wrong length and content
	FaultBatteryLow = "battery-low"  // the battery reports 5 % and low
	FaultReboot     = "reboot"       // the board restarts, once
	FaultClone      = "clone"        // the board carries the 96-bit id of another
	FaultOutOfRange = "out-of-range" // no radio hears the board
)

// FaultKinds in the order of the documentation.
var FaultKinds = []string{FaultSilence, FaultStuck, FaultDrift, FaultGarbage, FaultBatteryLow, FaultReboot, FaultClone, FaultOutOfRange}

// Fault is something wrong with one board.
type Fault struct {
	// Kind is one of FaultKinds. A board has at most one fault of a kind.
	Kind string `json:"kind" yaml:"kind"`
	// Part that is stuck or drifts; default every part.
	Part string `json:"part,omitempty" yaml:"part,omitempty"`
	// Slope of a drift, in the unit of the reading a minute; default 1.
	Slope float64 `json:"slope,omitempty" yaml:"slope,omitempty"`
	// Of names the board whose id a clone carries.
	Of string `json:"of,omitempty" yaml:"of,omitempty"`
	// For is how long it lasts; 0 until it is cleared. A reboot takes none.
	For Duration `json:"for,omitempty" yaml:"for,omitempty"`
}

// ScheduledFault is a fault that befalls a board by itself.
type ScheduledFault struct {
	Fault `yaml:",inline"`
	// Board by name, one of the provider's, as is Of; default one drawn from the
	// seed, each time.
	Board string `json:"board,omitempty" yaml:"board,omitempty"`
	// At is when it begins, more than 0s after the start of the boards; default
	// drawn from the seed between 30s and 5m.
	At Duration `json:"at,omitempty" yaml:"at,omitempty"`
	// Every repeats it, at least 1s and longer than For; default once.
	Every Duration `json:"every,omitempty" yaml:"every,omitempty"`
}

// Declared overrides what a board declares of one part. Values are the
// strings that go on offer, right or wrong: a board that declares nonsense is
// something to test with. Nil keeps the part's own value; "" clears it.
type Declared struct {
	// Latency is a number without unit, LatencyUnit its unit.
	Latency      *string `json:"latency,omitempty" yaml:"latency,omitempty"`
	LatencyUnit  *string `json:"latencyUnit,omitempty" yaml:"latencyUnit,omitempty"`
	Manufacturer *string `json:"manufacturer,omitempty" yaml:"manufacturer,omitempty"`
	Market       *string `json:"market,omitempty" yaml:"market,omitempty"`
}

// Duration is a time.Duration that is written as "12ms" in JSON and YAML.
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

func (d Duration) seconds() float64 { return time.Duration(d).Seconds() }
