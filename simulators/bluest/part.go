package bluest

import "slices"

// Part is a sensor component on a board and what it feeds into frames.
type Part struct {
	// Name in lower case: hts221.
	Name string
	// Characteristic that carries its values.
	Characteristic Mask
	// Category is environmental, inertial or audio.
	Category string
	Feeds    []Feed
}

// Feed is one value of a frame that a part measures.
type Feed struct {
	// Quantity as in Reading.
	Quantity string
	// SensorType is what is measured: Temperature for Temperature2 too, Acceleration
	// for each of its axes.
	SensorType string
	Unit       string
	// Field is the name of the value in line protocol, with its unit:
	// humidity_percent, acceleration_x_mg. It is unique on a part.
	Field string
}

// parts of each model, in the order in which a board announces them. Parts that
// both models have are the same.
var parts = map[string][]Part{
	"STWINKT1B": append([]Part{
		environmental("hts221", EnvironmentalKT1B, humidityFeed, temperatureFeed(Temperature)),
		environmental("lps22hh", EnvironmentalKT1B, pressureFeed),
		environmental("stts751", EnvironmentalKT1B, temperatureFeed(Temperature2)),
	}, common...),
	"STWINBX1": append([]Part{
		environmental("stts22h", EnvironmentalBX1, temperatureFeed(Temperature)),
		environmental("ilps22qs", EnvironmentalBX1, pressureFeed),
	}, common...),
}

var common = []Part{
	{Name: "ism330dhcx", Characteristic: Inertial, Category: "inertial", Feeds: slices.Concat(
		axisFeeds("acceleration", "Acceleration", "mg", "acceleration", "mg"),
		axisFeeds("angularRate", "AngularRate", "dps", "angular_rate", "dps"))},
	{Name: "iis2mdc", Characteristic: Inertial, Category: "inertial", Feeds: axisFeeds("magneticField", "MagneticField", "mGauss", "magnetic_field", "mgauss")},
	{Name: "imp34dt05", Characteristic: Microphone, Category: "audio", Feeds: []Feed{
		{Quantity: "soundLevel1", SensorType: "SoundLevel", Unit: "dB", Field: "sound_level_1_db"}}},
}

var (
	humidityFeed = Feed{Quantity: Humidity, SensorType: "Humidity", Unit: "%RH", Field: "humidity_percent"}
	pressureFeed = Feed{Quantity: Pressure, SensorType: "Pressure", Unit: "hPa", Field: "pressure_hpa"}
)

func temperatureFeed(quantity string) Feed {
	return Feed{Quantity: quantity, SensorType: "Temperature", Unit: "degC", Field: "temperature_celsius"}
}

func environmental(name string, m Mask, feeds ...Feed) Part {
	return Part{Name: name, Characteristic: m, Category: "environmental", Feeds: feeds}
}

func axisFeeds(quantity, sensorType, unit, field, fieldUnit string) []Feed {
	var feeds []Feed
	for _, axis := range []struct{ upper, lower string }{{"X", "x"}, {"Y", "y"}, {"Z", "z"}} {
		feeds = append(feeds, Feed{Quantity: quantity + axis.upper, SensorType: sensorType, Unit: unit, Field: field + "_" + axis.lower + "_" + fieldUnit})
	}
	return feeds
}

// Parts of a model that feed frames, nil for a model that has none here. The
// caller may keep the slice, not write into its Feeds.
func Parts(model string) []Part { return slices.Clone(parts[model]) }
