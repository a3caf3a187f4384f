package bluest_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
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
		})
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
	for model, n := range map[string]int{"STWINKT1B": 4, "STWINBX1": 2} {
		parts := bluest.Parts(model)
		fed := map[string]string{}
		for _, p := range parts {
			if p.Characteristic != parts[0].Characteristic {
				t.Errorf("%s: parts of more than one characteristic", model)
			}
			for _, f := range p.Feeds {
				fed[f.Quantity] = f.Unit
			}
		}
		// every value of the board's frame is fed by exactly one part, in its unit
		frame := make([]byte, map[string]int{"STWINKT1B": 12, "STWINBX1": 8}[model])
		f, err := bluest.Decode(parts[0].Characteristic.UUID(), frame)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		for _, r := range f.Readings {
			want[r.Quantity] = r.Unit
		}
		if d := cmp.Diff(want, fed); d != "" || len(fed) != n {
			t.Errorf("%s: %s", model, d)
		}
	}
	if bluest.Parts("toaster") != nil {
		t.Error("a toaster has parts")
	}
}
