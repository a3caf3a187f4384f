package cli

import (
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fluidos-edge/testbed/simulators/bluest"
)

func (a *app) boardDecodeCommand() *cobra.Command {
	var characteristic, advertisement string
	cmd := &cobra.Command{
		Use:   "decode --characteristic UUID HEX",
		Short: "Read a BlueST notification frame, or an advertisement",
		Example: `  testbed board decode --characteristic 00140000-0001-11e1-ac36-0002a5d5c51b 3412cd8b0100ea00
  testbed board decode --characteristic 00140000 "34 12 cd 8b 01 00 ea 00"
  testbed board decode --advertisement 0809535457494e42580fff3000020e27010000c0832a102030`,
		Args: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("advertisement") {
				return exactly()(cmd, args)
			}
			return exactly("--characteristic UUID HEX")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("advertisement") {
				if characteristic != "" {
					return usage("give one of the two", "--advertisement and --characteristic exclude each other")
				}
				return a.decodeAdvertisement(advertisement)
			}
			if characteristic == "" {
				return usage("give the characteristic's UUID, such as --characteristic 00140000-0001-11e1-ac36-0002a5d5c51b", "--characteristic is missing")
			}
			return a.decodeFrame(characteristic, args[0])
		},
	}
	cmd.Flags().StringVar(&characteristic, "characteristic", "", "`UUID` of the characteristic, or its first eight digits")
	cmd.Flags().StringVar(&advertisement, "advertisement", "", "advertising data in `HEX`, instead of a frame")
	return cmd
}

func (a *app) decodeFrame(characteristic, text string) error {
	frame, err := unhex("frame", text, "3412cd8b0100ea00")
	if err != nil {
		return err
	}
	f, err := bluest.Decode(characteristic, frame)
	if err != nil {
		return badInput("compare the frame's length with its characteristic: `testbed board decode --help` has an example", "%v", err)
	}
	if a.json() {
		return a.printJSON(f)
	}
	a.printf("characteristic %s, time stamp %d (%d ms each)\n", f.Characteristic, f.TS, f.TSUnitMs)
	rows := make([][]string, len(f.Readings))
	for i, r := range f.Readings {
		rows[i] = []string{r.Quantity, strconv.FormatFloat(r.Value, 'f', -1, 64), r.Unit}
	}
	a.printTable([]string{"QUANTITY", "VALUE", "UNIT"}, rows)
	return nil
}

// unhex reads bytes as people paste them: with spaces, colons or 0x.
func unhex(what, text, example string) ([]byte, error) {
	b, err := hex.DecodeString(strings.NewReplacer(" ", "", ":", "", "\n", "").Replace(strings.TrimPrefix(text, "0x")))
	if err != nil {
		return nil, badInput("give the "+what+" as hex digits, two a byte, such as "+example, "%s %q is not hex: %v", what, text, err)
	}
	return b, nil
}

// advertisement as the command shows it.
type advertisement struct {
	Firmware string `json:"firmware"`
	SDK      int    `json:"sdk"`
	TSUnitMs int    `json:"tsUnitMs"`
	Model    string `json:"model"`
	DeviceID string `json:"deviceID"`
	Name     string `json:"localName"`
	MAC      string `json:"mac"`
	// Of SensorDemo.
	TXPower  *int8    `json:"txPowerDBm,omitempty"`
	Features string   `json:"features,omitempty"`
	Measures []string `json:"measures,omitempty"`
	// Of STWIN.box firmware.
	FirmwareID string `json:"firmwareID,omitempty"`
	Options    string `json:"options,omitempty"`
	Bytes      int    `json:"bytes"`
}

func readAdvertisement(payload []byte) (advertisement, error) {
	ad, err := bluest.DecodeAdvertisement(payload)
	if err != nil {
		return advertisement{}, err
	}
	v := advertisement{
		Firmware: "STWIN.box", SDK: int(ad.Firmware), TSUnitMs: int(ad.Firmware.TSUnit().Milliseconds()),
		Model: ad.Model(), DeviceID: fmt.Sprintf("0x%02x", ad.DeviceID), Name: ad.Name,
		MAC: net.HardwareAddr(ad.MAC[:]).String(), Bytes: len(payload),
	}
	if ad.Firmware == bluest.SensorDemo {
		v.Firmware, v.TXPower, v.Features, v.Measures = "SensorDemo", &ad.TXPower, fmt.Sprintf("%08x", uint32(ad.Features)), measures(ad.Features)
	} else {
		v.FirmwareID, v.Options = fmt.Sprintf("0x%02x", ad.FirmwareID), hex.EncodeToString(ad.Options[:])
	}
	return v, nil
}

// measures names what the features of a mask measure, as far as that is known.
func measures(m bluest.Mask) []string {
	var names []string
	if m&bluest.Microphone != 0 {
		names = append(names, "soundLevel")
	}
	if m&bluest.Battery != 0 {
		names = append(names, "battery")
	}
	const longest = 64 // bytes; no frame of all features together has as many
	for n := range longest {
		f, err := bluest.Decode(fmt.Sprintf("%08x", uint32(m&^(bluest.Microphone|bluest.Battery))), make([]byte, n))
		if err != nil {
			continue
		}
		for _, r := range f.Readings {
			if name, _ := splitAxis(r.Quantity); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// rows of a table of two columns.
func (v advertisement) rows() [][]string {
	model := v.Model
	if model == "" {
		model = "not known"
	}
	rows := [][]string{
		{"firmware", fmt.Sprintf("%s (BlueST SDK %d), time stamps in %d ms", v.Firmware, v.SDK, v.TSUnitMs)},
		{"model", fmt.Sprintf("%s (device id %s)", model, v.DeviceID)},
		{"local name", strconv.Quote(v.Name)},
		{"MAC", v.MAC},
	}
	if v.TXPower != nil {
		rows = append(rows, []string{"TX power", fmt.Sprintf("%d dBm", *v.TXPower)},
			[]string{"features", strings.TrimSuffix(v.Features+": "+strings.Join(v.Measures, ", "), ": ")})
	} else {
		rows = append(rows, []string{"firmware id", v.FirmwareID}, []string{"options", v.Options})
	}
	return rows
}

func (a *app) decodeAdvertisement(text string) error {
	payload, err := unhex("advertisement", text, "0809535457494e42580fff3000020e27010000c0832a102030")
	if err != nil {
		return err
	}
	v, err := readAdvertisement(payload)
	if err != nil {
		return badInput("give the whole advertising data, length bytes included: `"+a.command("board decode --help")+"` has an example", "%v", err)
	}
	if a.json() {
		return a.printJSON(v)
	}
	a.printf("advertisement of %d bytes\n", v.Bytes)
	a.printTable([]string{"FIELD", "VALUE"}, v.rows())
	return nil
}
