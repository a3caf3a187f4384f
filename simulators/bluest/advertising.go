package bluest

import (
	"encoding/binary"
	"fmt"
	"time"
)

// Firmware is the family of firmware on a board. It decides the form of the
// advertisement and the unit of time stamps.
type Firmware uint8

const (
	// SensorDemo advertises SDK version 1 and counts in 8 ms.
	SensorDemo Firmware = 1
	// STWINBox advertises SDK version 2 and counts in 10 ms.
	STWINBox Firmware = 2
)

// TSUnit is the unit of time stamps.
func (f Firmware) TSUnit() time.Duration {
	if f == SensorDemo {
		return 8 * time.Millisecond
	}
	return 10 * time.Millisecond
}

// AD types and identifiers.
const (
	adTXPower      = 0x0A
	adName         = 0x09
	adManufacturer = 0xFF
	companyST      = 0x0030
	stwinBoxID     = 0x27 // firmware id of STWIN.box' default firmware
	maxPayload     = 31
)

// Advertisement is what a BlueST board says of itself before a connection.
type Advertisement struct {
	Firmware Firmware
	// DeviceID is the kind of board, see Model.
	DeviceID byte
	// Name is the complete local name; boards use 7 characters.
	Name string
	// TXPower in dBm and Features: of SensorDemo only.
	TXPower  int8
	Features Mask
	// FirmwareID and Options (the first is the flash bank): of STWINBox only.
	FirmwareID byte
	Options    [3]byte
	// MAC, most significant byte first.
	MAC [6]byte
}

// models by device id.
var models = map[byte]string{
	0x08: "STWINKT1",
	0x09: "STWINKT1B",
	0x0E: "STWINBX1",
	0x12: "STWINBX1B",
	0x80: "Nucleo",
}

// Model is the name of the kind of board, "" if it is not known.
func (a Advertisement) Model() string { return models[a.DeviceID] }

// NewAdvertisement is what a board of the model sends out by default: a STWINKT1B
// runs SensorDemo, all others STWIN.box firmware.
func NewAdvertisement(model string, mac [6]byte) (Advertisement, error) {
	for id, name := range models {
		switch {
		case name != model:
		case model == "STWINKT1B":
			return Advertisement{Firmware: SensorDemo, DeviceID: id, Name: "STWINKT", Features: EnvironmentalKT1B | Inertial | Battery | Microphone, MAC: mac}, nil
		default:
			return Advertisement{Firmware: STWINBox, DeviceID: id, Name: "STWINBX", FirmwareID: stwinBoxID, Options: [3]byte{1}, MAC: mac}, nil
		}
	}
	return Advertisement{}, fmt.Errorf("model %q: no BlueST device id is known for it", model)
}

// Encode writes the advertising data.
func (a Advertisement) Encode() ([]byte, error) {
	var b []byte
	if a.Firmware == SensorDemo {
		b = append(b, 2, adTXPower, byte(a.TXPower))
	}
	b = append(b, byte(1+len(a.Name)), adName)
	b = append(b, a.Name...)
	switch a.Firmware {
	case SensorDemo:
		b = append(b, 13, adManufacturer, byte(SensorDemo), a.DeviceID)
		b = binary.BigEndian.AppendUint32(b, uint32(a.Features))
	case STWINBox:
		b = append(b, 15, adManufacturer, companyST&0xFF, companyST>>8, byte(STWINBox), a.DeviceID, a.FirmwareID)
		b = append(b, a.Options[:]...)
	default:
		return nil, fmt.Errorf("advertisement: unknown firmware %d", a.Firmware)
	}
	b = append(b, a.MAC[:]...)
	if len(b) > maxPayload {
		return nil, fmt.Errorf("advertisement of %d bytes, at most %d: name %q is too long", len(b), maxPayload, a.Name)
	}
	return b, nil
}

// DecodeAdvertisement reads advertising data. What is not BlueST is an error;
// AD structures that BlueST does not use are passed over.
func DecodeAdvertisement(payload []byte) (Advertisement, error) {
	var a Advertisement
	if len(payload) > maxPayload {
		return a, fmt.Errorf("advertisement of %d bytes, at most %d", len(payload), maxPayload)
	}
	for b := payload; len(b) > 0 && b[0] != 0; { // a zero length ends early
		n := int(b[0])
		if n >= len(b) {
			return a, fmt.Errorf("advertisement: structure of %d bytes at byte %d, only %d left", n, len(payload)-len(b), len(b)-1)
		}
		kind, data := b[1], b[2:1+n]
		b = b[1+n:]
		switch {
		case kind == adTXPower && len(data) == 1:
			a.TXPower = int8(data[0])
		case kind == adName:
			a.Name = string(data)
		case kind == adManufacturer && len(data) == 12 && data[0] == byte(SensorDemo):
			a.Firmware, a.DeviceID = SensorDemo, data[1]
			a.Features = Mask(binary.BigEndian.Uint32(data[2:]))
			a.MAC = [6]byte(data[6:])
		case kind == adManufacturer && len(data) == 14 && binary.LittleEndian.Uint16(data) == companyST && data[2] == byte(STWINBox):
			a.Firmware, a.DeviceID, a.FirmwareID = STWINBox, data[3], data[4]
			a.Options = [3]byte(data[5:])
			a.MAC = [6]byte(data[8:])
		}
	}
	if a.Firmware == 0 {
		return a, fmt.Errorf("advertisement of %d bytes: no manufacturer data of BlueST version 1 (12 bytes) or 2 (14 bytes)", len(payload))
	}
	return a, nil
}
