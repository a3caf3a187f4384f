package bluest

import (
	"encoding/binary"
	"fmt"
	"math"
)

// ConfigUUID is the configuration's characteristic: Commands are written to it.
const ConfigUUID = "00000002-000f-11e1-ac36-0002a5d5c51b"

// CommandID says what a Command does.
type CommandID uint8

const (
	// CommandDisable stops the notifications of a characteristic, whoever is
	// subscribed; no data.
	CommandDisable CommandID = iota
	// CommandEnable is its opposite; no data.
	CommandEnable
	// CommandRate sets the rate of notifications; data: u16 LE in 0.1 Hz.
	CommandRate
)

const (
	commandHead = 5 // bytes of mask and id
	rateSteps   = 10
)

// Command changes how a board sends one feature characteristic. On the wire it is
// the mask, big endian, the id and the data.
type Command struct {
	Feature Mask
	ID      CommandID
	Data    []byte
}

// RateCommand sets a characteristic to a rate, rounded to 0.1 Hz. What a board
// accepts of the range is its own affair.
func RateCommand(feature Mask, hz float64) (Command, error) {
	steps := math.Round(hz * rateSteps)
	if !(steps >= 1 && steps <= math.MaxUint16) {
		return Command{}, fmt.Errorf("rate: %v Hz, want %v to %v", hz, 1.0/rateSteps, float64(math.MaxUint16)/rateSteps)
	}
	return Command{Feature: feature, ID: CommandRate, Data: binary.LittleEndian.AppendUint16(nil, uint16(steps))}, nil
}

// Rate is that of a CommandRate, in Hz.
func (c Command) Rate() (float64, error) {
	if c.ID != CommandRate || len(c.Data) != 2 {
		return 0, fmt.Errorf("command %d with %d bytes of data: want %d with 2, the rate", c.ID, len(c.Data), CommandRate)
	}
	return float64(binary.LittleEndian.Uint16(c.Data)) / rateSteps, nil
}

// Encode writes the command.
func (c Command) Encode() []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, commandHead+len(c.Data)), uint32(c.Feature))
	return append(append(b, byte(c.ID)), c.Data...)
}

// DecodeCommand reads a command, of which every byte must be accounted for.
func DecodeCommand(b []byte) (Command, error) {
	if len(b) < commandHead {
		return Command{}, fmt.Errorf("command of %d bytes, want at least %d: feature mask and id", len(b), commandHead)
	}
	c := Command{Feature: Mask(binary.BigEndian.Uint32(b)), ID: CommandID(b[4])}
	var want int
	switch c.ID {
	case CommandDisable, CommandEnable:
	case CommandRate:
		want = 2
	default:
		return Command{}, fmt.Errorf("command: id %d, want %d (disable), %d (enable) or %d (rate)", c.ID, CommandDisable, CommandEnable, CommandRate)
	}
	data := b[commandHead:]
	if len(data) != want {
		return Command{}, fmt.Errorf("command %d with %d bytes of data, want %d", c.ID, len(data), want)
	}
	if want > 0 {
		c.Data = append([]byte(nil), data...)
	}
	return c, nil
}
