//go:build bluetooth

package bluetooth_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/controllers/mapper/bluetooth"
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

func TestPayload(t *testing.T) {
	mac := [6]byte{0xc0, 0x83, 0x2a, 0x01, 0x02, 0x03}
	for _, tt := range []struct {
		name, local  string
		manufacturer map[uint16]string
		want         string // hex
		said         bluest.Advertisement
	}{
		{"SensorDemo on a Nucleo", "BlueNRG", map[uint16]string{0x8001: "001D0000 c0832a010203"},
			"0809 426c75654e5247 0DFF 0180 001D0000 c0832a010203",
			bluest.Advertisement{Firmware: bluest.SensorDemo, DeviceID: 0x80, Name: "BlueNRG", Features: 0x001D0000, MAC: mac}},
		{"SensorDemo on a KT1B", "STWINKT", map[uint16]string{0x0901: "001D0000 c0832a010203"},
			"0809 535457494e4b54 0DFF 0109 001D0000 c0832a010203",
			bluest.Advertisement{Firmware: bluest.SensorDemo, DeviceID: 0x09, Name: "STWINKT", Features: 0x001D0000, MAC: mac}},
		{"STWIN.box", "STWINBX", map[uint16]string{0x0030: "020E27010000 c0832a010203"},
			"0809 535457494e4258 0FFF 3000 020E27010000 c0832a010203",
			bluest.Advertisement{Firmware: bluest.STWINBox, DeviceID: 0x0E, Name: "STWINBX", FirmwareID: 0x27, Options: [3]byte{1}, MAC: mac}},
		{"without a name", "", map[uint16]string{0x0030: "020E27010000 c0832a010203"},
			"0FFF 3000 020E27010000 c0832a010203",
			bluest.Advertisement{Firmware: bluest.STWINBox, DeviceID: 0x0E, FirmwareID: 0x27, Options: [3]byte{1}, MAC: mac}},
		{"a name that fills it", "STWINBX_0102", map[uint16]string{0x0030: "020E27010000 c0832a010203"},
			"0D09 535457494e42585f30313032 0FFF 3000 020E27010000 c0832a010203",
			bluest.Advertisement{Firmware: bluest.STWINBox, DeviceID: 0x0E, Name: "STWINBX_0102", FirmwareID: 0x27, Options: [3]byte{1}, MAC: mac}},
		{"a name from the board's GAP service, too long", "STWINBX of room 12", map[uint16]string{0x0030: "020E27010000 c0832a010203"},
			"0E08 535457494e4258206f6620726f 0FFF 3000 020E27010000 c0832a010203",
			bluest.Advertisement{Firmware: bluest.STWINBox, DeviceID: 0x0E, FirmwareID: 0x27, Options: [3]byte{1}, MAC: mac}},
		{"BlueST first, then what fits", "STWINBX", map[uint16]string{0x0001: "ff", 0x0030: "020E27010000 c0832a010203", 0x004c: "0215" + strings.Repeat("00", 21)},
			"0809 535457494e4258 0FFF 3000 020E27010000 c0832a010203 04FF 0100 ff",
			bluest.Advertisement{Firmware: bluest.STWINBox, DeviceID: 0x0E, Name: "STWINBX", FirmwareID: 0x27, Options: [3]byte{1}, MAC: mac}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			manufacturer := map[uint16][]byte{}
			for company, data := range tt.manufacturer {
				manufacturer[company] = unhex(t, data)
			}
			got := bluetooth.Payload(tt.local, manufacturer)
			if d := cmp.Diff(unhex(t, tt.want), got); d != "" {
				t.Error(d)
			}
			said, err := bluest.DecodeAdvertisement(got)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.said, said); d != "" {
				t.Error(d)
			}
		})
	}
	if got := bluetooth.Payload("", nil); len(got) != 0 {
		t.Errorf("of nothing: % x", got)
	}
}

// What is on the air comes from anybody: whatever it is, it fits an
// advertisement, and does not hide the board that it came with.
func FuzzPayload(f *testing.F) {
	f.Add("STWINBX", uint16(0x0030), []byte("\x02\x0E\x27\x01\x00\x00\xc0\x83\x2a\x01\x02\x03"))
	f.Add("", uint16(0x8001), []byte{})
	f.Add(strings.Repeat("n", 300), uint16(0xffff), make([]byte, 300))
	f.Fuzz(func(t *testing.T, name string, company uint16, data []byte) {
		board := map[uint16][]byte{0x0901: unhex(t, "001D0000 c0832a010203")}
		if company != 0x0901 {
			board[company] = data
		}
		got := bluetooth.Payload(name, board)
		if len(got) > 31 {
			t.Fatalf("%d bytes", len(got))
		}
		if _, err := bluest.DecodeAdvertisement(got); err != nil {
			t.Fatal(err)
		}
		bluetooth.Payload(name, map[uint16][]byte{company: data})
	})
}
