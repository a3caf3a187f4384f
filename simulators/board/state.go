package board

import (
	"encoding/hex"
	"slices"
	"time"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// State is a board as its control API shows it.
type State struct {
	Name string `json:"name"`
	// Model is STWINKT1B or STWINBX1, MAC has colons, ID is the 96-bit id.
	Model string `json:"model"`
	MAC   string `json:"mac"`
	ID    string `json:"id"`
	// Device is the name that the board's mapper gives it in Kubernetes.
	Device string `json:"device"`
	// Nodes hear the board; ConnectedTo is the one with its connection, or "".
	Nodes       []string         `json:"nodes"`
	ConnectedTo string           `json:"connectedTo"`
	Rate        float64          `json:"rate"`
	Latency     topology.Latency `json:"latency"`
	// Parts is what it declares now of those that it offers, which Offers name.
	Parts  []nodecore.Characteristics `json:"parts"`
	Offers []string                   `json:"offers"`
	// Rates of what notifies, in Hz, by the mask of the characteristic in hex:
	// "00140000". One that was disabled is left out.
	Rates map[string]float64 `json:"rates"`
	// Battery is its level in percent.
	Battery float64 `json:"battery"`
	// Faults that the board has.
	Faults []FaultState `json:"faults"`
	// Uptime since it was switched on or restarted.
	Uptime topology.Duration `json:"uptime"`
	// Advertisement is its advertising data in hex, Services its GATT table.
	Advertisement string    `json:"advertisement"`
	Services      []Service `json:"services"`
	// Readings are what a read of each characteristic would give now, by mask as
	// Rates.
	Readings map[string][]bluest.Reading `json:"readings"`
}

// FaultState is a fault that a board has.
type FaultState struct {
	Kind string `json:"kind"`
	Part string `json:"part,omitempty"`
	// Since it began; Until is when it ends by itself, zero if it does not.
	Since time.Time `json:"since"`
	Until time.Time `json:"until,omitzero"`
}

// Service is a GATT service of a board.
type Service struct {
	UUID            string           `json:"uuid"`
	Name            string           `json:"name"`
	Characteristics []Characteristic `json:"characteristics"`
}

// Characteristic is a GATT characteristic as people see it.
type Characteristic struct {
	UUID string `json:"uuid"`
	Name string `json:"name"`
	// Properties are of read, write and notify.
	Properties []string `json:"properties"`
}

// State of the board now.
func (b *Board) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	s := State{
		Name: b.spec.Name, Model: b.spec.Model, MAC: b.spec.MAC, ID: b.id(now),
		Device: b.device,
		Nodes:  append([]string{}, b.spec.Nodes...), ConnectedTo: b.node,
		Rate: b.streams[environmental].rate, Latency: b.spec.Latency, Offers: slices.Clone(b.spec.Offers), Parts: b.declare(),
		Rates: map[string]float64{}, Faults: []FaultState{}, Uptime: topology.Duration(now - b.booted),
		Advertisement: hex.EncodeToString(b.advert), Services: b.variety.services, Readings: map[string][]bluest.Reading{},
	}
	for i := range b.variety.channels {
		ch := &b.variety.channels[i]
		if !b.streams[i].disabled {
			s.Rates[ch.key] = b.streams[i].rate
		}
		f, err := bluest.Decode(ch.uuid, b.frame(i, now))
		if err != nil {
			panic("board: its own frame: " + err.Error()) // a test has all models
		}
		s.Readings[ch.key] = f.Readings
		if level, ok := f.Value(bluest.Level); ok {
			s.Battery = level
		}
	}
	for i := range b.faults {
		f := &b.faults[i]
		if f.until <= now {
			continue
		}
		state := FaultState{Kind: f.Kind, Part: f.Part, Since: b.made.Add(f.since).UTC()}
		if f.until != never {
			state.Until = b.made.Add(f.until).UTC()
		}
		s.Faults = append(s.Faults, state)
	}
	return s
}

// id that the board answers. b.mu is held.
func (b *Board) id(now time.Duration) string {
	for i := range b.faults {
		if f := &b.faults[i]; f.Kind == topology.FaultClone && now < f.until {
			return f.id
		}
	}
	return b.spec.ID
}
