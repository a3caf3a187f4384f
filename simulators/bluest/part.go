package bluest

import "slices"

// Part is a sensor component on a board and what it feeds into frames.
type Part struct {
	// Name in lower case: hts221.
	Name           string
	Characteristic Mask
	Feeds          []Feed
}

// Feed is one value of a frame that a part measures.
type Feed struct {
	// Quantity as in Reading.
	Quantity string
	// SensorType is what is measured: Temperature for Temperature2 too.
	SensorType string
	Unit       string
}

// parts of each model, in the order in which a board announces them.
var parts = map[string][]Part{
	"STWINKT1B": {
		{"hts221", EnvironmentalKT1B, []Feed{{Humidity, "Humidity", "%RH"}, {Temperature, "Temperature", "degC"}}},
		{"lps22hh", EnvironmentalKT1B, []Feed{{Pressure, "Pressure", "hPa"}}},
		{"stts751", EnvironmentalKT1B, []Feed{{Temperature2, "Temperature", "degC"}}},
	},
	"STWINBX1": {
		{"stts22h", EnvironmentalBX1, []Feed{{Temperature, "Temperature", "degC"}}},
		{"ilps22qs", EnvironmentalBX1, []Feed{{Pressure, "Pressure", "hPa"}}},
	},
}

// Parts of a model that feed frames, nil for a model that has none here. The
// caller may keep the slice, not write into its Feeds.
func Parts(model string) []Part { return slices.Clone(parts[model]) }
