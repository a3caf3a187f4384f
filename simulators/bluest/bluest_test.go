package bluest_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/simulators/bluest"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDecode(t *testing.T) {
	bx1 := []bluest.Reading{{Quantity: "pressure", Value: 1013.25, Unit: "hPa"}, {Quantity: "temperature", Value: 23.4, Unit: "degC"}}
	for _, tt := range []struct {
		name, characteristic, frame string
		want                        bluest.Frame
	}{
		{"ST's vector", "00140000-0001-11e1-ac36-0002a5d5c51b", "34 12 cd 8b 01 00 ea 00",
			bluest.Frame{TS: 0x1234, TSUnitMs: 10, Readings: bx1}},
		{"without dashes, upper case", "00140000000111E1AC360002A5D5C51B", "34 12 cd 8b 01 00 ea 00",
			bluest.Frame{TS: 0x1234, TSUnitMs: 10, Readings: bx1}},
		{"with humidity", "001C0000", "ff ff cd 8b 01 00 d7 01 ea 00",
			bluest.Frame{TS: 0xffff, TSUnitMs: 8, Readings: []bluest.Reading{
				{Quantity: "pressure", Value: 1013.25, Unit: "hPa"},
				{Quantity: "humidity", Value: 47.1, Unit: "%RH"},
				{Quantity: "temperature", Value: 23.4, Unit: "degC"}}}},
		{"two temperatures, below zero", "001d0000", "00 00 cd 8b 01 00 d7 01 fb ff 0c fe",
			bluest.Frame{TS: 0, TSUnitMs: 8, Readings: []bluest.Reading{
				{Quantity: "pressure", Value: 1013.25, Unit: "hPa"},
				{Quantity: "humidity", Value: 47.1, Unit: "%RH"},
				{Quantity: "temperature", Value: -0.5, Unit: "degC"},
				{Quantity: "temperature2", Value: -50, Unit: "degC"}}}},
		{"inertial", "00e00000", "01 00 e8 03 18 fc 00 00 0a 00 f6 ff 00 00 2c 01 d4 fe 01 00",
			bluest.Frame{TS: 1, TSUnitMs: 10, Readings: []bluest.Reading{
				{Quantity: "accelerationX", Value: 1000, Unit: "mg"}, {Quantity: "accelerationY", Value: -1000, Unit: "mg"}, {Quantity: "accelerationZ", Value: 0, Unit: "mg"},
				{Quantity: "angularRateX", Value: 1, Unit: "dps"}, {Quantity: "angularRateY", Value: -1, Unit: "dps"}, {Quantity: "angularRateZ", Value: 0, Unit: "dps"},
				{Quantity: "magneticFieldX", Value: 300, Unit: "mGauss"}, {Quantity: "magneticFieldY", Value: -300, Unit: "mGauss"}, {Quantity: "magneticFieldZ", Value: 1, Unit: "mGauss"}}}},
		{"battery without current", "00020000", "01 00 e8 03 74 0e 00 80 03",
			bluest.Frame{TS: 1, TSUnitMs: 10, Readings: []bluest.Reading{
				{Quantity: "level", Value: 100, Unit: "%"}, {Quantity: "voltage", Value: 3700, Unit: "mV"}, {Quantity: "status", Value: 3, Unit: "code"}}}},
		{"battery that gives current", "00020000", "ff ff 32 00 e4 0c e8 ff 00",
			bluest.Frame{TS: 0xffff, TSUnitMs: 10, Readings: []bluest.Reading{
				{Quantity: bluest.Level, Value: 5, Unit: "%"}, {Quantity: bluest.Voltage, Value: 3300, Unit: "mV"},
				{Quantity: bluest.Current, Value: -24, Unit: "mA"}, {Quantity: bluest.Status, Value: 0, Unit: "code"}}}},
		{"every integer at its least", "00e00000", "00 00 00 80 ff 7f 00 80 ff 7f 00 80 ff 7f 00 80 ff 7f 00 80",
			bluest.Frame{TS: 0, TSUnitMs: 10, Readings: []bluest.Reading{
				{Quantity: "accelerationX", Value: -32768, Unit: "mg"}, {Quantity: "accelerationY", Value: 32767, Unit: "mg"}, {Quantity: "accelerationZ", Value: -32768, Unit: "mg"},
				{Quantity: "angularRateX", Value: 3276.7, Unit: "dps"}, {Quantity: "angularRateY", Value: -3276.8, Unit: "dps"}, {Quantity: "angularRateZ", Value: 3276.7, Unit: "dps"},
				{Quantity: "magneticFieldX", Value: -32768, Unit: "mGauss"}, {Quantity: "magneticFieldY", Value: 32767, Unit: "mGauss"}, {Quantity: "magneticFieldZ", Value: -32768, Unit: "mGauss"}}}},
		{"one microphone", "04000000", "00 01 26",
			bluest.Frame{TS: 0x100, TSUnitMs: 10, Readings: []bluest.Reading{{Quantity: "soundLevel1", Value: 38, Unit: "dB"}}}},
		{"four microphones", "04000000", "01 00 00 01 80 ff",
			bluest.Frame{TS: 1, TSUnitMs: 10, Readings: []bluest.Reading{
				{Quantity: "soundLevel1", Value: 0, Unit: "dB"}, {Quantity: "soundLevel2", Value: 1, Unit: "dB"},
				{Quantity: "soundLevel3", Value: 128, Unit: "dB"}, {Quantity: "soundLevel4", Value: 255, Unit: "dB"}}}},
		{"microphones", "04000000", "01 00 28 29",
			bluest.Frame{TS: 1, TSUnitMs: 10, Readings: []bluest.Reading{
				{Quantity: "soundLevel1", Value: 40, Unit: "dB"}, {Quantity: "soundLevel2", Value: 41, Unit: "dB"}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := bluest.Decode(tt.characteristic, unhex(t, tt.frame))
			if err != nil {
				t.Fatal(err)
			}
			m, err := bluest.ParseMask(tt.characteristic)
			if err != nil {
				t.Fatal(err)
			}
			tt.want.Characteristic = m.UUID()
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
			back, err := bluest.Encode(got)
			if err != nil {
				t.Fatal(err)
			}
			if want := unhex(t, tt.frame); !bytes.Equal(back, want) {
				t.Errorf("encoded again: % x, want % x", back, want)
			}
			if by := encode(t, m, got); !bytes.Equal(by, back) {
				t.Errorf("by an Encoder: % x, want % x", by, back)
			}
		})
	}
}

// encode a frame by an Encoder.
func encode(t testing.TB, m bluest.Mask, f bluest.Frame) []byte {
	t.Helper()
	e, err := bluest.NewEncoder(m, len(f.Readings))
	if err != nil {
		t.Fatal(err)
	}
	var values []float64
	for _, q := range e.Quantities() {
		v, ok := f.Value(q)
		if !ok {
			v = math.NaN()
		}
		values = append(values, v)
	}
	b := e.Append([]byte("before"), f.TS, values)
	if len(b) != len("before")+e.Bytes() || string(b[:6]) != "before" {
		t.Errorf("%d bytes behind what was there, want %d", len(b)-6, e.Bytes())
	}
	return b[6:]
}

func TestEncoder(t *testing.T) {
	e, err := bluest.NewEncoder(bluest.Battery, 0)
	if err != nil {
		t.Fatal(err)
	}
	nan, inf := math.NaN(), math.Inf(1)
	for _, tt := range []struct {
		name   string
		values []float64
		want   string
	}{
		{"as it is", []float64{99.94, 4199.6, -24, 1}, "02 01 e7 03 68 10 e8 ff 01"},
		{"too much", []float64{1e9, inf, 40000, 256}, "02 01 ff ff ff 7f ff 7f ff"},
		{"too little: no current is not the least one", []float64{-1, -inf, -40000, -1}, "02 01 00 00 00 80 01 80 00"},
		{"nothing", []float64{nan, nan, nan, nan}, "02 01 00 00 00 80 00 80 00"},
	} {
		if got := e.Append(nil, 0x102, tt.values); !bytes.Equal(got, unhex(t, tt.want)) {
			t.Errorf("%s: % x, want %s", tt.name, got, tt.want)
		}
	}
	buffer := make([]byte, 0, e.Bytes())
	if n := testing.AllocsPerRun(100, func() { buffer = e.Append(buffer[:0], 1, []float64{50, 3700, nan, 1}) }); n != 0 {
		t.Errorf("%v allocations a frame", n)
	}
	for _, tt := range []struct {
		m           bluest.Mask
		microphones int
		want        string
	}{
		{0x00008000, 0, "no layout is known for mask 00008000"},
		{bluest.Microphone, 0, "0 microphones, want 1 to 4"},
		{bluest.Microphone, 5, "5 microphones, want 1 to 4"},
	} {
		if _, err := bluest.NewEncoder(tt.m, tt.microphones); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want an error with %q", tt.m.UUID(), err, tt.want)
		}
	}
}

func TestLimits(t *testing.T) {
	for q, want := range map[string][2]float64{
		bluest.Temperature2: {-3276.8, 3276.7}, bluest.Humidity: {0, 6553.5}, bluest.Pressure: {-21474836.48, 21474836.47},
		bluest.Current: {-32767, 32767}, bluest.Status: {0, 255}, "soundLevel4": {0, 255}, "accelerationZ": {-32768, 32767},
	} {
		if least, most, ok := bluest.Limits(q); !ok || least != want[0] || most != want[1] {
			t.Errorf("%s: %v to %v, %v; want %v", q, least, most, ok, want)
		}
	}
	if _, _, ok := bluest.Limits("soundLevel5"); ok {
		t.Error("a frame has a fifth microphone")
	}
}

func TestCommand(t *testing.T) {
	rate := func(m bluest.Mask, hz float64) bluest.Command {
		c, err := bluest.RateCommand(m, hz)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, tt := range []struct {
		name, hex string
		want      bluest.Command
		hz        float64 // of a rate
	}{
		{"disable", "00 14 00 00 00", bluest.Command{Feature: bluest.EnvironmentalBX1, ID: bluest.CommandDisable}, 0},
		{"enable", "04 00 00 00 01", bluest.Command{Feature: bluest.Microphone, ID: bluest.CommandEnable}, 0},
		{"4 Hz", "00 1d 00 00 02 28 00", rate(bluest.EnvironmentalKT1B, 4), 4},
		{"the least rate", "00 e0 00 00 02 01 00", rate(bluest.Inertial, 0.06), 0.1},
		{"the most", "00 e0 00 00 02 ff ff", rate(bluest.Inertial, 6553.5), 6553.5},
		{"a rate of nothing is a rate", "00 02 00 00 02 00 00", bluest.Command{Feature: bluest.Battery, ID: bluest.CommandRate, Data: []byte{0, 0}}, 0},
	} {
		b := unhex(t, tt.hex)
		if got := tt.want.Encode(); !bytes.Equal(got, b) {
			t.Errorf("%s: % x, want %s", tt.name, got, tt.hex)
		}
		got, err := bluest.DecodeCommand(b)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
		if hz, err := got.Rate(); (err == nil) != (got.ID == bluest.CommandRate) || hz != tt.hz {
			t.Errorf("%s: rate %v, %v", tt.name, hz, err)
		}
	}
	for _, hz := range []float64{0, 0.04, -1, 6553.6, math.NaN(), math.Inf(1)} {
		if c, err := bluest.RateCommand(bluest.Battery, hz); err == nil || !strings.Contains(err.Error(), "Hz, want 0.1 to 6553.5") {
			t.Errorf("%v Hz: %v, %v", hz, c, err)
		}
	}
	for hex, want := range map[string]string{
		"":                 "command of 0 bytes, want at least 5",
		"00140000":         "command of 4 bytes, want at least 5",
		"0014000003":       "id 3, want 0 (disable), 1 (enable) or 2 (rate)",
		"0014000002":       "command 2 with 0 bytes of data, want 2",
		"001400000228":     "command 2 with 1 bytes of data, want 2",
		"0014000001 00":    "command 1 with 1 bytes of data, want 0",
		"00140000022800ff": "command 2 with 3 bytes of data, want 2",
	} {
		if _, err := bluest.DecodeCommand(unhex(t, hex)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", hex, err, want)
		}
	}
}

func FuzzCommand(f *testing.F) {
	for _, hex := range []string{"0014000000", "0400000001", "001d0000022800", "00020000020000", "00e00000", "0014000003aabb"} {
		f.Add(unhex(f, hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := bluest.DecodeCommand(b)
		if err != nil {
			return
		}
		if back := c.Encode(); !bytes.Equal(back, b) {
			t.Fatalf("% x became % x", b, back)
		}
		hz, err := c.Rate()
		if err != nil || hz == 0 {
			return
		}
		again, err := bluest.RateCommand(c.Feature, hz)
		if err != nil || !bytes.Equal(again.Encode(), b) {
			t.Fatalf("% x is %v Hz, which is % x, %v", b, hz, again.Encode(), err)
		}
	})
}

func TestNominalRate(t *testing.T) {
	for m, want := range map[bluest.Mask]float64{
		bluest.EnvironmentalBX1: 2, bluest.Environmental: 2, bluest.EnvironmentalKT1B: 2, bluest.Inertial: 20, bluest.Battery: 1, bluest.Microphone: 2,
	} {
		if got := m.NominalRate(); got != want {
			t.Errorf("%s: %v Hz, want %v", m.UUID(), got, want)
		}
	}
}

func TestDecodeJSON(t *testing.T) {
	f, err := bluest.Decode("00140000", unhex(t, "3412cd8b0100ea00"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"characteristic":"00140000-0001-11e1-ac36-0002a5d5c51b","ts":4660,"tsUnitMs":10,"readings":[{"quantity":"pressure","value":1013.25,"unit":"hPa"},{"quantity":"temperature","value":23.4,"unit":"degC"}]}`
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Error(d)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, tt := range []struct{ characteristic, frame, want string }{
		{"00140000", "3412cd8b0100ea", "frame of 7 bytes, want 8"},
		{"00140000", "3412cd8b0100ea0000", "frame of 9 bytes, want 8"},
		{"001c0000", "3412cd8b0100ea00", "frame of 8 bytes, want 10"},
		{"001d0000", "", "frame of 0 bytes, want 12"},
		{"04000000", "3412", "frame of 2 bytes, want 3 to 6"},
		{"04000000", "34120102030405", "frame of 7 bytes, want 3 to 6"},
		{"00008000", "34120102", "no layout is known for mask 00008000"},
		{"04100000", "34120102", "no layout is known for mask 04000000"},
		{"00000000", "3412", "no layout is known"},
		{"0014000g", "3412", "not 8 hex digits"},
		{"+0140000", "3412", "not 8 hex digits"},
		{"00140000-000e-11e1-ac36-0002a5d5c51b", "3412", "want XXXXXXXX-0001-11e1-ac36-0002a5d5c51b"},
		{"", "3412", "want XXXXXXXX"},
	} {
		_, err := bluest.Decode(tt.characteristic, unhex(t, tt.frame))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Decode(%q, %s) = %v, want an error with %q", tt.characteristic, tt.frame, err, tt.want)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	bx1 := func(p, c float64) []bluest.Reading {
		return []bluest.Reading{{Quantity: bluest.Pressure, Value: p}, {Quantity: bluest.Temperature, Value: c}}
	}
	for _, tt := range []struct {
		name string
		f    bluest.Frame
		want string
	}{
		{"too hot", bluest.Frame{Characteristic: "00140000", Readings: bx1(1013, 3276.8)}, "temperature 3276.8 does not fit in 2 bytes"},
		{"missing", bluest.Frame{Characteristic: "00140000", Readings: bx1(1013, 20)[:1]}, "no reading of temperature"},
		{"negative humidity", bluest.Frame{Characteristic: "001c0000", Readings: append(bx1(1013, 20), bluest.Reading{Quantity: bluest.Humidity, Value: -1})}, "humidity -1 does not fit"},
		{"no microphone", bluest.Frame{Characteristic: "04000000"}, "0 readings, want 1 to 4"},
	} {
		if _, err := bluest.Encode(tt.f); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want an error with %q", tt.name, err, tt.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for c, frame := range map[string]string{
		"00140000": "3412cd8b0100ea00", "001c0000": "ffffcd8b0100d701ea00", "001d0000": "0000cd8b0100d701fbff0cfe",
		"00020000": "0100e803740e008003", "04000000": "01002829", "00e00000": "0100e80318fc00000a00f6ff00002c01d4fe0100",
	} {
		f.Add(c, unhex(f, frame))
	}
	f.Fuzz(func(t *testing.T, characteristic string, frame []byte) {
		got, err := bluest.Decode(characteristic, frame)
		if err != nil {
			return
		}
		back, err := bluest.Encode(got)
		if err != nil {
			t.Fatalf("decoded %+v, which cannot be encoded: %v", got, err)
		}
		if !bytes.Equal(back, frame) {
			t.Fatalf("% x became % x", frame, back)
		}
	})
}

func TestAdvertisement(t *testing.T) {
	mac := [6]byte{0xc0, 0x83, 0x2a, 0x01, 0x02, 0x03}
	for _, tt := range []struct {
		name, hex, model string
		unit             time.Duration
		want             bluest.Advertisement
	}{
		{"SensorDemo on a Nucleo", "020A00 0809" + hex.EncodeToString([]byte("BlueNRG")) + "0DFF0180 001D0000 c0832a010203", "Nucleo", 8 * time.Millisecond,
			bluest.Advertisement{Firmware: bluest.SensorDemo, DeviceID: 0x80, Name: "BlueNRG", Features: 0x001D0000, MAC: mac}},
		{"STWIN.box", "0809" + hex.EncodeToString([]byte("STWINBX")) + "0FFF3000020E27010000 c0832a010203", "STWINBX1", 10 * time.Millisecond,
			bluest.Advertisement{Firmware: bluest.STWINBox, DeviceID: 0x0E, Name: "STWINBX", FirmwareID: 0x27, Options: [3]byte{1}, MAC: mac}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			payload := unhex(t, tt.hex)
			got, err := bluest.DecodeAdvertisement(payload)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
			if got.Model() != tt.model || got.Firmware.TSUnit() != tt.unit {
				t.Errorf("model %s, unit %s; want %s, %s", got.Model(), got.Firmware.TSUnit(), tt.model, tt.unit)
			}
			back, err := got.Encode()
			if err != nil || !bytes.Equal(back, payload) {
				t.Errorf("encoded again: % x, %v; want % x", back, err, payload)
			}
		})
	}
	for model, want := range map[string]int{"STWINKT1B": 26, "STWINBX1": 25} {
		a, err := bluest.NewAdvertisement(model, mac)
		if err != nil {
			t.Fatal(err)
		}
		b, err := a.Encode()
		if err != nil || len(b) != want || a.Model() != model {
			t.Errorf("%s: %d bytes, model %s, %v; want %d bytes", model, len(b), a.Model(), err, want)
		}
	}
	if _, err := bluest.NewAdvertisement("toaster", mac); err == nil {
		t.Error("a toaster advertises")
	}
}

func TestDecodeAdvertisementRefuses(t *testing.T) {
	for _, tt := range []struct{ hex, want string }{
		{"", "no manufacturer data"},
		{"0206", "structure of 2 bytes at byte 0, only 1 left"},
		{"020106 03FF4C00", "no manufacturer data"},
		{"0DFF0280001D0000c0832a010203", "no manufacturer data"},
		{strings.Repeat("00", 32), "32 bytes, at most 31"},
	} {
		if _, err := bluest.DecodeAdvertisement(unhex(t, tt.hex)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want an error with %q", tt.hex, err, tt.want)
		}
	}
}

func FuzzDecodeAdvertisement(f *testing.F) {
	f.Add(unhex(f, "020A00 0809426c75654e5247 0DFF0180 001D0000 c0832a010203"))
	f.Add(unhex(f, "0809535457494e4258 0FFF3000020E27010000 c0832a010203"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		a, err := bluest.DecodeAdvertisement(payload)
		if err != nil {
			return
		}
		b, err := a.Encode()
		if err != nil {
			return // structures in another number than ours need not fit again
		}
		again, err := bluest.DecodeAdvertisement(b)
		if err != nil {
			t.Fatalf("%+v encoded to % x: %v", a, b, err)
		}
		if a.Firmware == bluest.STWINBox {
			a.TXPower, a.Features = 0, 0
		} else {
			a.FirmwareID, a.Options = 0, [3]byte{}
		}
		if again != a {
			t.Fatalf("%+v became %+v", a, again)
		}
	})
}

func TestTimeline(t *testing.T) {
	const s = time.Second
	type step struct {
		ts            uint16
		after         time.Duration // on the receiver's clock, since the step before
		want          time.Duration
		wantRestarted bool
	}
	for _, tt := range []struct {
		name  string
		unit  time.Duration
		steps []step
	}{
		{"within a period", 10 * time.Millisecond, []step{{100, 0, s, false}, {150, s / 2, 1500 * time.Millisecond, false}}},
		{"wrap at 1 Hz, which the SDK's rule misses", 10 * time.Millisecond,
			[]step{{65400, 0, 654 * s, false}, {65500, s, 655 * s, false}, {64, s, 656 * s, false}}},
		{"three wraps in silence", 10 * time.Millisecond,
			[]step{{0, 0, 0, false}, {100, 3*655360*time.Millisecond + s, 1967080 * time.Millisecond, false}}},
		{"late by seconds, then on time", 8 * time.Millisecond,
			[]step{{0, 0, 0, false}, {125, 31 * s, s, false}, {250, 0, 2 * s, false}}},
		{"wrap in 8 ms", 8 * time.Millisecond, []step{{65535, 0, 524280 * time.Millisecond, false}, {0, 8 * time.Millisecond, 524288 * time.Millisecond, false}}},
		{"restart: backwards", 10 * time.Millisecond, []step{{6000, 0, 60 * s, false}, {10, s, 100 * time.Millisecond, true}, {110, s, 1100 * time.Millisecond, false}}},
		{"restart: far ahead", 10 * time.Millisecond, []step{{50000, 0, 500 * s, false}, {10, s, 100 * time.Millisecond, true}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			line := bluest.NewTimeline(tt.unit)
			clock := 42 * time.Hour
			for i, st := range tt.steps {
				clock += st.after
				got, restarted := line.Uptime(st.ts, clock)
				if got != st.want || restarted != st.wantRestarted {
					t.Errorf("step %d: %s, restarted %v; want %s, %v", i, got, restarted, st.want, st.wantRestarted)
				}
			}
		})
	}
}

func TestParts(t *testing.T) {
	for model, masks := range map[string][]bluest.Mask{
		"STWINKT1B": {bluest.EnvironmentalKT1B, bluest.Inertial, bluest.Microphone},
		"STWINBX1":  {bluest.EnvironmentalBX1, bluest.Inertial, bluest.Microphone},
	} {
		// every value of the board's frames is fed by exactly one part, in its unit
		fed := map[bluest.Mask]map[string]string{}
		names := map[string]bool{}
		for _, p := range bluest.Parts(model) {
			if names[p.Name] || p.Name != strings.ToLower(p.Name) {
				t.Errorf("%s: part %q twice, or not in lower case", model, p.Name)
			}
			names[p.Name] = true
			if want := map[bluest.Mask]string{bluest.Inertial: "inertial", bluest.Microphone: "audio"}[p.Characteristic]; want != p.Category && (want != "" || p.Category != "environmental") {
				t.Errorf("%s: %s is of category %q, want %q", model, p.Name, p.Category, want)
			}
			if fed[p.Characteristic] == nil {
				fed[p.Characteristic] = map[string]string{}
			}
			fields := map[string]bool{}
			for _, f := range p.Feeds {
				if fed[p.Characteristic][f.Quantity] != "" || fields[f.Field] {
					t.Errorf("%s: quantity %s or field %s twice", model, f.Quantity, f.Field)
				}
				fed[p.Characteristic][f.Quantity] = f.Unit
				fields[f.Field] = true
			}
		}
		for _, m := range masks {
			e, err := bluest.NewEncoder(m, 1)
			if err != nil {
				t.Fatal(err)
			}
			f, err := bluest.Decode(m.UUID(), make([]byte, e.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{}
			for _, r := range f.Readings {
				want[r.Quantity] = r.Unit
			}
			if d := cmp.Diff(want, fed[m]); d != "" {
				t.Errorf("%s: %s", model, d)
			}
			delete(fed, m)
		}
		if len(fed) > 0 {
			t.Errorf("%s: parts of further characteristics: %v", model, fed)
		}
	}
	var fields []string
	for _, p := range bluest.Parts("STWINKT1B") {
		for _, f := range p.Feeds {
			fields = append(fields, p.Name+" "+f.SensorType+" "+f.Field)
		}
	}
	if d := cmp.Diff([]string{
		"hts221 Humidity humidity_percent", "hts221 Temperature temperature_celsius", "lps22hh Pressure pressure_hpa", "stts751 Temperature temperature_celsius",
		"ism330dhcx Acceleration acceleration_x_mg", "ism330dhcx Acceleration acceleration_y_mg", "ism330dhcx Acceleration acceleration_z_mg",
		"ism330dhcx AngularRate angular_rate_x_dps", "ism330dhcx AngularRate angular_rate_y_dps", "ism330dhcx AngularRate angular_rate_z_dps",
		"iis2mdc MagneticField magnetic_field_x_mgauss", "iis2mdc MagneticField magnetic_field_y_mgauss", "iis2mdc MagneticField magnetic_field_z_mgauss",
		"imp34dt05 SoundLevel sound_level_1_db",
	}, fields); d != "" {
		t.Error(d)
	}
	if bluest.Parts("toaster") != nil {
		t.Error("a toaster has parts")
	}
}
