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
	// Parts overrides what the board declares of a part, by part name
	// (lower case: hts221, lps22hh, stts751; stts22h, ilps22qs).
	Parts map[string]Declared `json:"parts,omitempty" yaml:"parts,omitempty"`
}

// Latency is a distribution: median plus or minus at most jitter.
type Latency struct {
	Median Duration `json:"median" yaml:"median"`
	Jitter Duration `json:"jitter" yaml:"jitter"`
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
