package board

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/radio"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// variety is what all boards of a model have in common. It is never written to.
type variety struct {
	parts    []bluest.Part
	channels [channels]channel
	// firmware as the console tells it.
	firmware string
	gatt     []radio.Characteristic
	services []Service
}

// Channels of a board, in the order of its GATT table.
const (
	environmental = iota
	inertial
	battery
	microphone
	channels
)

// channel is a characteristic that notifies readings.
type channel struct {
	mask    bluest.Mask
	uuid    string
	key     string // the mask in hex
	encoder *bluest.Encoder
	gauges  []gauge // in the order of the frame
	parts   []carried
}

const (
	// microphones that a frame has a level of, and how many one could have.
	microphones, maxMicrophones = 1, 4
	// maxValues and maxFrame bytes of any channel.
	maxValues = 9
	maxFrame  = 20
)

var varieties = map[string]*variety{
	topology.STWINKT1B: newVariety(topology.STWINKT1B, bluest.EnvironmentalKT1B, "x-cube-ble2 SensorDemo"),
	topology.STWINBX1:  newVariety(topology.STWINBX1, bluest.EnvironmentalBX1, "fp-sns-stbox1 v2.0.0"),
}

// ST's UUIDs of services.
const (
	featureService = "00000000-0001-11e1-9ab4-0002a5d5c51b"
	consoleService = "00000000-000e-11e1-9ab4-0002a5d5c51b"
	configService  = "00000000-000f-11e1-9ab4-0002a5d5c51b"
)

func newVariety(model string, env bluest.Mask, firmware string) *variety {
	v := &variety{parts: bluest.Parts(model), firmware: "STEVAL-" + model + ", " + firmware}
	features := Service{UUID: featureService, Name: "features"}
	for i, c := range []struct {
		mask bluest.Mask
		name string
	}{{env, "environmental"}, {bluest.Inertial, "inertial"}, {bluest.Battery, "battery"}, {bluest.Microphone, "microphone"}} {
		encoder, err := bluest.NewEncoder(c.mask, microphones)
		if err != nil {
			panic("board: " + err.Error()) // the masks are above
		}
		ch := channel{mask: c.mask, uuid: c.mask.UUID(), key: fmt.Sprintf("%08x", uint32(c.mask)), encoder: encoder}
		for _, quantity := range encoder.Quantities() {
			ch.gauges = append(ch.gauges, v.gauge(quantity))
		}
		for _, p := range v.parts {
			if p.Characteristic == c.mask {
				ch.parts = append(ch.parts, carry(p, encoder.Quantities()))
			}
		}
		v.channels[i] = ch
		v.gatt = append(v.gatt, radio.Characteristic{UUID: ch.uuid, Read: true, Notify: true})
		features.Characteristics = append(features.Characteristics, Characteristic{UUID: ch.uuid, Name: c.name, Properties: []string{"read", "notify"}})
	}
	v.gatt = append(v.gatt,
		radio.Characteristic{UUID: bluest.ConsoleUUID, Write: true, Notify: true},
		radio.Characteristic{UUID: bluest.ConfigUUID, Write: true})
	v.services = []Service{
		features,
		{UUID: consoleService, Name: "console", Characteristics: []Characteristic{{UUID: bluest.ConsoleUUID, Name: "console", Properties: []string{"write", "notify"}}}},
		{UUID: configService, Name: "config", Characteristics: []Characteristic{{UUID: bluest.ConfigUUID, Name: "config", Properties: []string{"write"}}}},
	}
	return v
}

// carry a part in a channel with these quantities.
func carry(p bluest.Part, quantities []string) carried {
	c := carried{Part: p}
	for _, f := range p.Feeds {
		c.gauges = append(c.gauges, slices.Index(quantities, f.Quantity))
	}
	return c
}

// gauge of the part that measures a quantity; that of the battery belongs to no part.
func (v *variety) gauge(quantity string) gauge {
	for _, p := range v.parts {
		for _, f := range p.Feeds {
			if f.Quantity == quantity {
				return newGauge(p.Name, f)
			}
		}
	}
	return gauge{quantity: quantity}
}

// channel by its UUID, -1 if there is none.
func (v *variety) channel(uuid string) int {
	for i := range v.channels {
		if v.channels[i].uuid == uuid {
			return i
		}
	}
	return -1
}

// feature is the only channel that carries all features of a mask, -1 if none does.
func (v *variety) feature(m bluest.Mask) int {
	for i := range v.channels {
		if m != 0 && m&^v.channels[i].mask == 0 {
			return i
		}
	}
	return -1
}

// has tells whether there is a part of that name.
func (v *variety) has(part string) bool {
	return slices.ContainsFunc(v.parts, func(p bluest.Part) bool { return p.Name == part })
}

// known names of parts, for an error.
func (v *variety) known() string {
	names := make([]string, len(v.parts))
	for i, p := range v.parts {
		names[i] = p.Name
	}
	return strings.Join(names, ", ")
}
