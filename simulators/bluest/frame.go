// Package bluest is ST's BlueST protocol as STWIN boards speak it: feature
// characteristics and their frames, advertising data, device ids, time stamps,
// and which part of a board feeds which value of a frame. It is pure: bytes and
// numbers in, bytes and numbers out.
//
// Frames are little endian. They hold scaled integers, so a value survives
// Encode and Decode rounded to the step of its field, and Decode followed by
// Encode is the identity on every frame that Decode accepts.
//
// Sources: ST's firmware fp-sns-stbox1 v2.0.0 and x-cube-ble2 (SensorDemo), the
// BlueSTSDK for Android and Python, and bluestsdkv2/catalog.json.
//
// To try it: `testbed board decode --characteristic 00140000 3412cd8b0100ea00`.
package bluest

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Mask is the set of features in one characteristic; it is the first 32 bits of
// the characteristic's UUID.
type Mask uint32

// The environmental characteristic has three layouts.
const (
	// EnvironmentalBX1 is pressure and temperature: 8 bytes.
	EnvironmentalBX1 Mask = 0x00140000
	// Environmental adds humidity: 10 bytes.
	Environmental Mask = 0x001C0000
	// EnvironmentalKT1B adds a second temperature: 12 bytes.
	EnvironmentalKT1B Mask = 0x001D0000
)

// The other characteristics of STWIN boards.
const (
	// Inertial is acceleration, angular rate and magnetic field: 20 bytes.
	Inertial Mask = 0x00E00000
	// Battery is level, voltage, current and status: 9 bytes.
	Battery Mask = 0x00020000
	// Microphone is a sound level for each microphone, 1 to 4: 3 to 6 bytes.
	Microphone Mask = 0x04000000
)

// NominalRate is how often a board notifies the characteristic by default, in Hz.
func (m Mask) NominalRate() float64 {
	switch m {
	case Inertial:
		return 20
	case Battery:
		return 1
	default: // the environmental ones and the microphone
		return 2
	}
}

// ConsoleUUID is the debug console's characteristic: commands are written to it,
// its output comes as notifications.
const ConsoleUUID = "00000001-000e-11e1-ac36-0002a5d5c51b"

// Quantities of environmental and battery frames. Those of the others are numbered
// or have axes: soundLevel1, accelerationX, angularRateX, magneticFieldX.
const (
	Pressure     = "pressure"     // hPa
	Humidity     = "humidity"     // %RH
	Temperature  = "temperature"  // degC
	Temperature2 = "temperature2" // degC

	Level   = "level"   // %
	Voltage = "voltage" // mV
	Current = "current" // mA
	Status  = "status"  // 0 low, 1 discharging, 2 disconnected, 3 charging
)

const featureSuffix = "-0001-11e1-ac36-0002a5d5c51b"

// UUID of the feature characteristic, lower case with dashes.
func (m Mask) UUID() string { return fmt.Sprintf("%08x%s", uint32(m), featureSuffix) }

// ParseMask reads a feature characteristic: its UUID, with or without dashes, or
// just the mask, 8 hex digits; in any case.
func ParseMask(characteristic string) (Mask, error) {
	s := strings.ToLower(characteristic)
	switch {
	case len(s) == 36 && s[8:] == featureSuffix:
	case len(s) == 32 && s[8:] == strings.ReplaceAll(featureSuffix, "-", ""):
	case len(s) == 8:
	default:
		return 0, fmt.Errorf("characteristic %q: want XXXXXXXX%s, with or without dashes, or the mask XXXXXXXX alone", characteristic, featureSuffix)
	}
	m, err := strconv.ParseUint(s[:8], 16, 32)
	if err != nil {
		return 0, fmt.Errorf("characteristic %q: mask %q is not 8 hex digits", characteristic, s[:8])
	}
	return Mask(m), nil
}

// Reading is one value of a frame.
type Reading struct {
	Quantity string  `json:"quantity"`
	Value    float64 `json:"value"`
	Unit     string  `json:"unit"`
}

// Frame is a decoded notification.
type Frame struct {
	// Characteristic is the UUID, lower case with dashes.
	Characteristic string `json:"characteristic"`
	// TS is the board's time stamp, in units of TSUnitMs; it wraps (see Timeline).
	TS uint16 `json:"ts"`
	// TSUnitMs is the unit of TS in ms. A frame does not tell it, the firmware's
	// advertisement does; Decode assumes the firmware that sends this
	// characteristic in the testbed: SensorDemo for those with humidity, STWIN.box
	// for all others. Encode ignores it.
	TSUnitMs int `json:"tsUnitMs"`
	// Readings in the order of the frame. A value that the board marked as not
	// available is left out.
	Readings []Reading `json:"readings"`
}

// Value of a quantity, and whether the frame has it.
func (f Frame) Value(quantity string) (float64, bool) {
	i := slices.IndexFunc(f.Readings, func(r Reading) bool { return r.Quantity == quantity })
	if i < 0 {
		return 0, false
	}
	return f.Readings[i].Value, true
}

// field is one integer of a frame; the value is the integer / scale.
type field struct {
	quantity, unit string
	bytes          int
	signed         bool
	scale          float64
	// absent: the least integer means that there is no value.
	absent bool
}

const (
	humidity Mask = 0x00080000
	// maxMicrophones and therefore values in a frame of the microphone feature.
	maxMicrophones = 4
)

// features in the order of their values in a frame, the most significant bit of
// the mask first. The microphone, whose frame varies in length, stands apart.
var features = []struct {
	mask   Mask
	fields []field
}{
	{0x00800000, axes("acceleration", "mg", 1)},
	{0x00400000, axes("angularRate", "dps", 10)},
	{0x00200000, axes("magneticField", "mGauss", 1)},
	{0x00100000, []field{{Pressure, "hPa", 4, true, 100, false}}},
	{humidity, []field{{Humidity, "%RH", 2, false, 10, false}}},
	{0x00040000, []field{{Temperature, "degC", 2, true, 10, false}}},
	{0x00020000, []field{
		{Level, "%", 2, false, 10, false},
		{Voltage, "mV", 2, true, 1, false},
		{Current, "mA", 2, true, 1, true},
		{Status, "code", 1, false, 1, false},
	}},
	{0x00010000, []field{{Temperature2, "degC", 2, true, 10, false}}},
}

func axes(quantity, unit string, scale float64) []field {
	return []field{
		{quantity + "X", unit, 2, true, scale, false},
		{quantity + "Y", unit, 2, true, scale, false},
		{quantity + "Z", unit, 2, true, scale, false},
	}
}

// layout of the frames of m, and their length.
func (m Mask) layout() ([]field, int, error) {
	var fields []field
	n, rest := 2, m
	for _, f := range features {
		if m&f.mask == 0 {
			continue
		}
		rest &^= f.mask
		fields = append(fields, f.fields...)
		for _, v := range f.fields {
			n += v.bytes
		}
	}
	if rest != 0 || m == 0 {
		return nil, 0, fmt.Errorf("characteristic %08x: no layout is known for mask %08x", uint32(m), uint32(rest))
	}
	return fields, n, nil
}

func soundLevels(n int) []field {
	fields := make([]field, n)
	for i := range fields {
		fields[i] = field{"soundLevel" + strconv.Itoa(i+1), "dB", 1, false, 1, false}
	}
	return fields
}

// Decode reads a notification of a feature characteristic, given as ParseMask
// takes it. Every byte of the frame must be accounted for.
func Decode(characteristic string, frame []byte) (Frame, error) {
	m, err := ParseMask(characteristic)
	if err != nil {
		return Frame{}, err
	}
	var fields []field
	if m == Microphone {
		if n := len(frame) - 2; n < 1 || n > maxMicrophones {
			return Frame{}, fmt.Errorf("characteristic %08x: frame of %d bytes, want %d to %d", uint32(m), len(frame), 3, 2+maxMicrophones)
		}
		fields = soundLevels(len(frame) - 2)
	} else {
		var want int
		if fields, want, err = m.layout(); err != nil {
			return Frame{}, err
		}
		if len(frame) != want {
			return Frame{}, fmt.Errorf("characteristic %08x: frame of %d bytes, want %d", uint32(m), len(frame), want)
		}
	}
	f := Frame{
		Characteristic: m.UUID(),
		TS:             binary.LittleEndian.Uint16(frame),
		TSUnitMs:       int(STWINBox.TSUnit().Milliseconds()),
		Readings:       make([]Reading, 0, len(fields)),
	}
	if m&humidity != 0 {
		f.TSUnitMs = int(SensorDemo.TSUnit().Milliseconds())
	}
	b := frame[2:]
	for _, v := range fields {
		raw := v.get(b)
		b = b[v.bytes:]
		if least, _ := v.limits(); v.absent && raw == least {
			continue
		}
		f.Readings = append(f.Readings, Reading{v.quantity, float64(raw) / v.scale, v.unit})
	}
	return f, nil
}

// Encoder writes frames of one characteristic from bare values. It is safe for
// concurrent use.
type Encoder struct {
	fields []field
	bytes  int
}

// NewEncoder is for a characteristic; microphones is the number of values in a
// frame of Microphone, 1 to 4, and not looked at for others.
func NewEncoder(m Mask, microphones int) (*Encoder, error) {
	if m == Microphone {
		if microphones < 1 || microphones > maxMicrophones {
			return nil, fmt.Errorf("characteristic %08x: %d microphones, want 1 to %d", uint32(m), microphones, maxMicrophones)
		}
		return &Encoder{fields: soundLevels(microphones), bytes: 2 + microphones}, nil
	}
	fields, n, err := m.layout()
	return &Encoder{fields, n}, err
}

// Quantities of the values that Append takes, in their order.
func (e *Encoder) Quantities() []string {
	names := make([]string, len(e.fields))
	for i, v := range e.fields {
		names[i] = v.quantity
	}
	return names
}

// Bytes is the length of a frame.
func (e *Encoder) Bytes() int { return e.bytes }

// Append writes a frame behind b. values has one value for each quantity, NaN if
// there is none. As in the integers of a board, a value that does not fit becomes
// the nearest that does; one that may not be missing becomes the least.
func (e *Encoder) Append(b []byte, ts uint16, values []float64) []byte {
	b = binary.LittleEndian.AppendUint16(b, ts)
	for i := range e.fields {
		v := &e.fields[i]
		least, most := v.limits()
		scaled := math.Round(values[i] * v.scale)
		raw := least
		switch {
		case scaled > float64(most):
			raw = most
		case scaled > float64(least):
			raw = int64(scaled)
		case v.absent && !math.IsNaN(scaled):
			raw++ // the least stands for no value
		}
		b = v.append(b, raw)
	}
	return b
}

// Limits of what a frame can hold of a quantity; ok is false if no frame has it.
func Limits(quantity string) (least, most float64, ok bool) {
	all := soundLevels(maxMicrophones)
	for _, f := range features {
		all = append(all, f.fields...)
	}
	for _, v := range all {
		if v.quantity == quantity {
			l, m := v.limits()
			if v.absent {
				l++
			}
			return float64(l) / v.scale, float64(m) / v.scale, true
		}
	}
	return 0, 0, false
}

// Encode is the inverse of Decode. f must have a reading for each value of the
// layout, in any order; units are not looked at. Values are rounded to the step
// of their field; one that does not fit is an error.
func Encode(f Frame) ([]byte, error) {
	m, err := ParseMask(f.Characteristic)
	if err != nil {
		return nil, err
	}
	var fields []field
	n := 2 + len(f.Readings)
	if m == Microphone {
		if len(f.Readings) < 1 || len(f.Readings) > maxMicrophones {
			return nil, fmt.Errorf("characteristic %08x: %d readings, want 1 to %d", uint32(m), len(f.Readings), maxMicrophones)
		}
		fields = soundLevels(len(f.Readings))
	} else if fields, n, err = m.layout(); err != nil {
		return nil, err
	}
	b := binary.LittleEndian.AppendUint16(make([]byte, 0, n), f.TS)
	for _, v := range fields {
		least, most := v.limits()
		value, ok := f.Value(v.quantity)
		raw := least
		switch scaled := math.Round(value * v.scale); {
		case !ok && v.absent:
		case !ok:
			return nil, fmt.Errorf("characteristic %08x: no reading of %s", uint32(m), v.quantity)
		case math.IsNaN(scaled) || scaled < float64(least) || scaled > float64(most):
			return nil, fmt.Errorf("characteristic %08x: %s %v does not fit in %d bytes", uint32(m), v.quantity, value, v.bytes)
		default:
			raw = int64(scaled)
		}
		b = v.append(b, raw)
	}
	return b, nil
}

func (v *field) limits() (least, most int64) {
	bits := 8 * v.bytes
	if v.signed {
		return -1 << (bits - 1), 1<<(bits-1) - 1
	}
	return 0, 1<<bits - 1
}

func (v *field) get(b []byte) int64 {
	switch {
	case v.bytes == 1:
		return int64(b[0])
	case v.bytes == 2 && v.signed:
		return int64(int16(binary.LittleEndian.Uint16(b)))
	case v.bytes == 2:
		return int64(binary.LittleEndian.Uint16(b))
	default:
		return int64(int32(binary.LittleEndian.Uint32(b)))
	}
}

func (v *field) append(b []byte, raw int64) []byte {
	switch v.bytes {
	case 1:
		return append(b, byte(raw))
	case 2:
		return binary.LittleEndian.AppendUint16(b, uint16(raw))
	default:
		return binary.LittleEndian.AppendUint32(b, uint32(raw))
	}
}
