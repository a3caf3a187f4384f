package sensor_test

import (
	"fmt"
	"math"
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

func p(s string) *string { return &s }

func offer(change func(*nodecore.Characteristics)) sensor.Offer {
	o := sensor.Offer{
		Key:  sensor.Key{Namespace: "fluidos", Device: "stwinkt1b-c0832a000001", Part: "hts221"},
		Node: "edge-1", UID: "6c5a3f0e", Category: "Environmental",
		Characteristics: nodecore.Characteristics{
			UID: "6c5a3f0e", Model: "HTS221", Manufacturer: "STMicroelectronics", Name: "hall",
			Type:     nodecore.SensorType{SensorCategory: "Environmental", SensorType: []string{"Humidity", "Temperature"}},
			Accuracy: []string{"3.5", "±0.5 K"}, SamplingRate: "2", Consumption: "2", Latency: "16",
			Properties: nodecore.SensorProperties{Unit: nodecore.SensorUnits{
				Measurement: []string{"%RH", "degC"}, Latency: "ms", SamplingRate: "Hz", Consumption: "uA"}},
		},
	}
	if change != nil {
		change(&o.Characteristics)
	}
	return o
}

func latency(value, unit string) func(*nodecore.Characteristics) {
	return func(c *nodecore.Characteristics) { c.Latency, c.Properties.Unit.Latency = value, unit }
}

// TestSelect judges one requirement at a time; no reason means selected.
func TestSelect(t *testing.T) {
	lt := func(bound string) sensors.Requirement { return sensors.Requirement{Field: "latency", Lt: p(bound)} }
	for _, c := range []struct {
		name   string
		change func(*nodecore.Characteristics)
		req    sensors.Requirement
		reason string
	}{
		{"below", latency("12", "ms"), lt("16ms"), ""},
		{"lt does not hold at the bound", latency("16", "ms"), lt("16ms"), "latency 16 ms is not < 16 ms"},
		{"nor at the bound written otherwise", latency("16.000", "ms"), lt("0.016 s"), "latency 16.000 ms is not < 0.016 s"},
		{"le holds at the bound", latency("16", "ms"), sensors.Requirement{Field: "latency", Le: p("16ms")}, ""},
		{"ge holds at the bound", latency("16", "ms"), sensors.Requirement{Field: "latency", Ge: p("16ms")}, ""},
		{"gt does not", latency("16", "ms"), sensors.Requirement{Field: "latency", Gt: p("16ms")}, "latency 16 ms is not > 16 ms"},
		{"numbers, not text: 9 < 16", latency("9", "ms"), lt("16ms"), ""},
		{"numbers, not text: 100 is not < 25", latency("100", "ms"), lt("25ms"), "latency 100 ms is not < 25 ms"},
		{"another unit", latency("0.015", "s"), lt("16ms"), ""},
		{"fractions", latency("15.9", "ms"), lt("16ms"), ""},
		{"fractions beyond a float", latency("15.99999999999999999999999", "ms"), lt("16ms"), ""},
		{"24.9 < 25", latency("24.9", "ms"), lt("25ms"), ""},
		{"25 is not < 25", latency("25", "ms"), lt("25ms"), "latency 25 ms is not < 25 ms"},
		{"the other micro sign", latency("900", "μs"), lt("1ms"), ""},
		{"and the one on keyboards", latency("900", "µs"), lt("1ms"), ""},
		{"a unit in another case", latency("12", "MSEC"), lt("16ms"), `latency "12" has the unknown unit "MSEC"`},
		{"seconds in upper case", latency("0.012", "S"), lt("16mS"), ""},
		{"no unit", latency("12", ""), lt("16ms"), `latency "12" has no unit`},
		{"the unit behind the number", latency("12 ms", ""), lt("16ms"), ""},
		{"a unit at both places", latency("12 ms", "ms"), lt("16ms"), `latency "12 ms" has a unit of its own beside "ms"`},
		{"not declared", latency("", "ms"), lt("16ms"), "latency is not declared"},
		{"no number", latency("fast", "ms"), lt("16ms"), `latency "fast" is not a number`},
		{"decimal comma", latency("3,5", "ms"), lt("16ms"), `latency "3,5" is not a number`},
		{"no fraction", latency("1/2", "ms"), lt("16ms"), `latency "1/2" has a unit of its own beside "ms"`},
		{"hexadecimal", latency("0x1", "ms"), lt("16ms"), `latency "0x1" has a unit of its own beside "ms"`},
		{"exponent", latency("1.2e1", "ms"), lt("16ms"), ""},
		{"an exponent to count for years", latency("1e999999999", "ms"), lt("16ms"), `latency "1e999999999" is not a number`},
		{"unknown unit", latency("12", "parsec"), lt("16ms"), `latency "12" has the unknown unit "parsec"`},
		{"another dimension", latency("12", "Hz"), lt("16ms"), "latency 12 Hz cannot be compared with 16 ms"},

		{"rate", nil, sensors.Requirement{Field: "samplingRate", Ge: p("2Hz")}, ""},
		{"rate in kHz", nil, sensors.Requirement{Field: "samplingRate", Gt: p("0.002 kHz")}, "samplingRate 2 Hz is not > 0.002 kHz"},
		{"consumption", nil, sensors.Requirement{Field: "consumption", Le: p("0.002mA")}, ""},
		{"accuracy by its measurement's unit", nil, sensors.Requirement{Field: "accuracy[Humidity]", Lt: p("5%")}, ""},
		{"accuracy by a unit of its own", nil, sensors.Requirement{Field: "accuracy[temperature]", Le: p("±0.5degC")}, ""},
		{"accuracy of what is not measured", nil, sensors.Requirement{Field: "accuracy[Pressure]", Lt: p("1hPa")},
			`accuracy[Pressure] is not declared: the sensor does not measure "Pressure"`},
		{"accuracy that is missing in a shorter list", func(c *nodecore.Characteristics) { c.Accuracy = c.Accuracy[:1] },
			sensors.Requirement{Field: "accuracy[Temperature]", Lt: p("1degC")}, "accuracy[Temperature] is not declared"},

		{"equals", nil, sensors.Requirement{Field: "manufacturer", Equals: p("STMicroelectronics")}, ""},
		{"equals ignores case", nil, sensors.Requirement{Field: "manufacturer", Equals: p("stmicroELECTRONICS")}, ""},
		{"upstream's spelling", func(c *nodecore.Characteristics) { c.Manufacturer = "STMicroelecronics" },
			sensors.Requirement{Field: "manufacturer", Equals: p("STMicroelectronics")}, `manufacturer "STMicroelecronics" is not "STMicroelectronics"`},
		{"equals what is not declared", nil, sensors.Requirement{Field: "market", Equals: p("Industrial")}, "market is not declared"},
		{"equals nothing", nil, sensors.Requirement{Field: "market", Equals: p("")}, ""},
		{"equals a quantity as text", nil, sensors.Requirement{Field: "latency", Equals: p("16")}, ""},
		{"equals a quantity", nil, sensors.Requirement{Field: "latency", Equals: p("0.016s")}, ""},
		{"equals another quantity", nil, sensors.Requirement{Field: "latency", Equals: p("12ms")}, `latency 16 ms is not "12ms"`},
		{"in", nil, sensors.Requirement{Field: "type.sensorType", In: []string{"Pressure", "temperature"}}, ""},
		{"not in", nil, sensors.Requirement{Field: "type.sensorType", In: []string{"Pressure", "Sound"}},
			`type.sensorType "Humidity", "Temperature" is none of "Pressure", "Sound"`},
		{"in of quantities", nil, sensors.Requirement{Field: "latency", In: []string{"x", "16 ms"}}, ""},
		{"matches is anchored", nil, sensors.Requirement{Field: "manufacturer", Matches: p("Micro")}, `manufacturer "STMicroelectronics" does not match "Micro"`},
		{"matches", nil, sensors.Requirement{Field: "manufacturer", Matches: p("st.*|x")}, ""},
		{"matches the longer alternative", nil, sensors.Requirement{Field: "part", Matches: p("hts|hts221")}, ""},
		{"matches with a flag", nil, sensors.Requirement{Field: "part", Matches: p("(?-i)HTS221")}, `part "hts221" does not match "(?-i)HTS221"`},
		{"an expression cannot end its anchors", nil, sensors.Requirement{Field: "part", Matches: p(`x|\Qhts`)}, `part "hts221" does not match "x|\\Qhts"`},
		{"device", nil, sensors.Requirement{Field: "device", Matches: p("stwinkt1b-.*")}, ""},
		{"part", nil, sensors.Requirement{Field: "part", Equals: p("HTS221")}, ""},
		{"node", nil, sensors.Requirement{Field: "node", Equals: p("edge-2")}, `node "edge-1" is not "edge-2"`},
		{"uid", nil, sensors.Requirement{Field: "uid", Equals: p("6C5A3F0E")}, ""},
		{"name", nil, sensors.Requirement{Field: "name", Equals: p("hall")}, ""},
		{"model", nil, sensors.Requirement{Field: "model", Equals: p("HTS221")}, ""},
		{"category", nil, sensors.Requirement{Field: "type.sensorCategory", Equals: p("environmental")}, ""},
		{"measurement", nil, sensors.Requirement{Field: "measurement[Humidity]", Equals: p("%rh")}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := sensor.Verdict{Selected: true, Met: 1}
			if c.reason != "" {
				want = sensor.Verdict{Reason: c.reason}
			}
			got, err := sensor.Select([]sensors.Requirement{c.req}, offer(c.change))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got, cmpopts.IgnoreFields(sensor.Verdict{}, "Distance")); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if got.Selected && got.Distance != 0 || got.Distance < 0 {
				t.Errorf("distance %g of %+v", got.Distance, got)
			}
		})
	}
}

// TestDistance has the distances that are documented, and what has none.
func TestDistance(t *testing.T) {
	humidity := sensors.Requirement{Field: "type.sensorType", Equals: p("humidity")}
	pressure := sensors.Requirement{Field: "type.sensorType", Equals: p("pressure")}
	lt := func(bound string) sensors.Requirement { return sensors.Requirement{Field: "latency", Lt: p(bound)} }
	fast := sensors.Requirement{Field: "samplingRate", Ge: p("4Hz")}
	tiny := "0." + strings.Repeat("0", 50) + "1e-99ns"
	for _, c := range []struct {
		name   string
		change func(*nodecore.Characteristics)
		reqs   []sensors.Requirement
		want   float64
	}{
		{"met", latency("15", "ms"), []sensors.Requirement{humidity, lt("16ms")}, 0},
		{"at the bound", latency("16", "ms"), []sensors.Requirement{humidity, lt("16ms")}, 0},
		{"18 ms", latency("18", "ms"), []sensors.Requirement{lt("1ms")}, 17},
		{"9 ms", latency("9", "ms"), []sensors.Requirement{lt("1ms")}, 8},
		{"in another unit", latency("0.009", "s"), []sensors.Requirement{lt("1000us")}, 8},
		{"from below", nil, []sensors.Requirement{fast}, 0.5},
		{"beside a requirement that is met", nil, []sensors.Requirement{humidity, fast}, 0.5},
		{"the sum of two", latency("9", "ms"), []sensors.Requirement{lt("1ms"), fast}, 8.5},
		{"of a negative bound", latency("1", "ms"), []sensors.Requirement{lt("-2ms")}, 1.5},
		{"of the bound 0, in seconds", latency("250", "ms"), []sensors.Requirement{lt("0ms")}, 0.25},
		{"at the bound 0", latency("0", "ms"), []sensors.Requirement{lt("0ms")}, 0},
		{"of what no float can hold", latency(strings.Repeat("9", 60)+"e99", "h"), []sensors.Requirement{lt(tiny), lt(tiny)}, 2e300},

		{"text", nil, []sensors.Requirement{pressure}, math.Inf(1)},
		{"text and a bound that is met", nil, []sensors.Requirement{pressure, lt("17ms")}, math.Inf(1)},
		{"text and a bound that is not met", nil, []sensors.Requirement{lt("1ms"), pressure}, math.Inf(1)},
		{"expression", nil, []sensors.Requirement{{Field: "part", Matches: p("lps.*")}}, math.Inf(1)},
		{"equals of a quantity", nil, []sensors.Requirement{{Field: "latency", Equals: p("15ms")}}, math.Inf(1)},
		{"in of quantities", nil, []sensors.Requirement{{Field: "latency", In: []string{"15ms", "17ms"}}}, math.Inf(1)},
		{"not declared", latency("", "ms"), []sensors.Requirement{lt("16ms")}, math.Inf(1)},
		{"no number", latency("fast", "ms"), []sensors.Requirement{lt("16ms")}, math.Inf(1)},
		{"no unit", latency("17", ""), []sensors.Requirement{lt("16ms")}, math.Inf(1)},
		{"another dimension", latency("17", "Hz"), []sensors.Requirement{lt("16ms")}, math.Inf(1)},
		{"not measured", nil, []sensors.Requirement{{Field: "accuracy[Pressure]", Lt: p("1hPa")}}, math.Inf(1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := sensor.Select(c.reqs, offer(c.change))
			if err != nil {
				t.Fatal(err)
			}
			if got.Distance != c.want {
				t.Errorf("distance %g of %+v, want %g", got.Distance, got, c.want)
			}
		})
	}
}

// TestNearest: of two values that do not meet a bound, the one that is nearer to
// it by exact arithmetic never has the greater distance.
func TestNearest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) (string, *big.Rat) {
			digits := rapid.Int64Range(-1e6, 1e6).Draw(t, label)
			places := rapid.IntRange(0, 6).Draw(t, label+" places")
			n := new(big.Rat).SetFrac(big.NewInt(digits), new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(places)), nil))
			return n.FloatString(places), n
		}
		bound, b := draw("bound")
		bound += "ms"
		req := sensors.Requirement{Field: "latency", Lt: &bound}
		if rapid.Bool().Draw(t, "above") {
			req = sensors.Requirement{Field: "latency", Ge: &bound}
		}
		judge := func(label string) (sensor.Verdict, *big.Rat) {
			text, n := draw(label)
			v, err := sensor.Select([]sensors.Requirement{req}, offer(latency(text, "ms")))
			if err != nil {
				t.Fatal(err)
			}
			d := n.Sub(n, b)
			return v, d.Abs(d)
		}
		one, exactOne := judge("one")
		two, exactTwo := judge("two")
		if one.Selected || two.Selected {
			return
		}
		if c := exactOne.Cmp(exactTwo); c < 0 && one.Distance > two.Distance || c > 0 && one.Distance < two.Distance || c == 0 && one.Distance != two.Distance {
			t.Fatalf("bound %s: distances %g and %g of what is %s and %s from it", bound, one.Distance, two.Distance, exactOne, exactTwo)
		}
	})
}

func TestSelectAll(t *testing.T) {
	o := offer(nil)
	if v, err := sensor.Select(nil, o); err != nil || !v.Selected {
		t.Errorf("no requirement: %+v, %v; want every sensor", v, err)
	}
	got, err := sensor.Select([]sensors.Requirement{
		{Field: "type.sensorType", In: []string{"Humidity"}},
		{Field: "latency", Lt: p("16ms")},
		{Field: "manufacturer", Equals: p("Bosch")},
		{Field: "part", Equals: p("hts221")},
	}, o)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sensor.Verdict{Met: 2, Distance: math.Inf(1), Reason: "latency 16 ms is not < 16 ms"}, got); d != "" {
		t.Error(d)
	}
}

// TestSelectRefuses has requirements that no sensor could ever be judged by.
func TestSelectRefuses(t *testing.T) {
	for _, c := range []struct {
		req  sensors.Requirement
		want string
	}{
		{sensors.Requirement{Field: "colour", Equals: p("red")}, `spec.sensors[1].field: "colour" is not a field of a sensor`},
		{sensors.Requirement{Field: "Latency", Lt: p("1ms")}, `spec.sensors[1].field: "Latency" is not a field of a sensor`},
		{sensors.Requirement{Field: "accuracy", Lt: p("1%")}, `spec.sensors[1].field: "accuracy" needs the type of sensor, like accuracy[Humidity]`},
		{sensors.Requirement{Field: "measurement[]", Equals: p("x")}, `spec.sensors[1].field: "measurement[]" needs the type of sensor, like measurement[Humidity]`},
		{sensors.Requirement{Field: "latency[x]", Lt: p("1ms")}, `spec.sensors[1].field: "latency[x]" is not a field of a sensor`},
		{sensors.Requirement{Field: "latency", Lt: p("16")}, `spec.sensors[1].lt: "16" has no unit; want a number with a unit, like "16ms"`},
		{sensors.Requirement{Field: "latency", Le: p("fast")}, `spec.sensors[1].le: "fast" is not a number; want a number with a unit, like "16ms"`},
		{sensors.Requirement{Field: "latency", Gt: p("3 moons")}, `spec.sensors[1].gt: "3" has the unknown unit "moons"; want a number with a unit, like "16ms"`},
		{sensors.Requirement{Field: "manufacturer", Ge: p("3ms")}, `spec.sensors[1].ge: manufacturer is text and has no order; use equals, in or matches`},
		{sensors.Requirement{Field: "part", Matches: p("(")}, "spec.sensors[1].matches: error parsing regexp: missing closing ): `(`"},
		{sensors.Requirement{Field: "part", Matches: p("x)|(y")}, "spec.sensors[1].matches: error parsing regexp: unexpected ): `x)|(y`"},
		{sensors.Requirement{Field: "part", Matches: p("(abcdefghij){1000}")}, `spec.sensors[1].matches: "(abcdefghij){1000}" is too large`},
		{sensors.Requirement{Field: "part"}, "spec.sensors[1]: 0 operators are set, must be exactly one"},
		{sensors.Requirement{Field: "part", Equals: p("a"), Matches: p("b")}, "spec.sensors[1]: 2 operators are set, must be exactly one"},
	} {
		// The first requirement is unmet, and that does not hide the second.
		v, err := sensor.Select([]sensors.Requirement{{Field: "part", Equals: p("other")}, c.req}, offer(nil))
		if err == nil || !strings.HasPrefix(err.Error(), c.want) || v != (sensor.Verdict{}) {
			t.Errorf("%+v: got %+v, %v; want an error that begins %q", c.req, v, err, c.want)
		}
	}
}

// TestOrder: whatever the numbers and their units, exactly one of <, = and >
// holds, and it is the right one.
func TestOrder(t *testing.T) {
	scale := map[string]int64{"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9, "min": 60e9, "h": 3600e9}
	names := rapid.SampledFrom([]string{"ns", "us", "ms", "s", "min", "h"})
	rapid.Check(t, func(t *rapid.T) {
		number := func(label string) (text, unit string, ns *big.Rat) {
			digits := rapid.Int64Range(-1e6, 1e6).Draw(t, label)
			places := rapid.IntRange(0, 6).Draw(t, label+" places")
			unit = names.Draw(t, label+" unit")
			n := new(big.Rat).SetFrac(big.NewInt(digits), new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(places)), nil))
			return n.FloatString(places), unit, n.Mul(n, new(big.Rat).SetInt64(scale[unit]))
		}
		value, unit, v := number("value")
		bound, boundUnit, b := number("bound")
		o := offer(latency(value, unit))
		text := bound + rapid.SampledFrom([]string{"", " "}).Draw(t, "space") + boundUnit
		holds := func(r sensors.Requirement) bool {
			r.Field = "latency"
			verdict, err := sensor.Select([]sensors.Requirement{r}, o)
			if err != nil {
				t.Fatal(err)
			}
			return verdict.Selected
		}
		c := v.Cmp(b)
		got := fmt.Sprint(holds(sensors.Requirement{Lt: &text}), holds(sensors.Requirement{Le: &text}), holds(sensors.Requirement{Equals: &text}),
			holds(sensors.Requirement{Ge: &text}), holds(sensors.Requirement{Gt: &text}))
		if want := fmt.Sprint(c < 0, c <= 0, c == 0, c >= 0, c > 0); got != want {
			t.Fatalf("%s %s against %s: < <= = >= > are %s, want %s", value, unit, text, got, want)
		}
	})
}

// TestUnits: what is the same quantity is equal in every unit of its dimension.
func TestUnits(t *testing.T) {
	for _, same := range [][]string{
		{"1000ns", "1us", "1µs", "1 usec"}, {"1h", "60min", "3600 s", "3600sec"},
		{"1kHz", "1000Hz", "1000 S/s", "1kS/s", "1000sps", "1000 1/s", "60000 1/min", "0.001MHz", "1000000 mHz"},
		{"1A", "1000mA", "1000000uA", "1e9nA"}, {"1W", "1000mW", "1e6uW"}, {"1J", "1e3mJ"}, {"1V", "1000mV"},
		{"1K", "1degC", "1 °C", "1.8degF", "1000mK"}, {"3%", "3%RH", "3%rH", "3 percent"},
		{"1013.25hPa", "101.325kPa", "101325Pa", "1013.25mbar", "1.01325bar"},
		{"1g", "1000mg", "1e6ug", "9.80665m/s2", "9.80665 m/s^2"}, {"4dps", "4000mdps", "4deg/s", "4°/s"},
		{"1G", "1000mG", "1000mGauss", "0.0001T", "100uT"}, {"75ug/sqrt(Hz)", "0.075mg/√Hz"},
	} {
		for _, a := range same {
			for _, b := range same {
				o := offer(func(c *nodecore.Characteristics) { c.Consumption, c.Properties.Unit.Consumption = a, "" })
				v, err := sensor.Select([]sensors.Requirement{{Field: "consumption", Le: p(b)}, {Field: "consumption", Ge: p(b)}}, o)
				if err != nil || !v.Selected {
					t.Errorf("%s against %s: %+v, %v", a, b, v, err)
				}
			}
		}
	}
	for _, pair := range [][2]string{{"1mg", "1mG"}, {"1g", "1G"}, {"1MHz", "1mHz"}, {"1mg/LSB", "1mG/LSB"}} {
		o := offer(func(c *nodecore.Characteristics) { c.Consumption, c.Properties.Unit.Consumption = pair[0], "" })
		if v, err := sensor.Select([]sensors.Requirement{{Field: "consumption", Equals: p(pair[1])}}, o); err != nil || v.Selected {
			t.Errorf("%s is not %s", pair[0], pair[1])
		}
	}
}

func FuzzSelect(f *testing.F) {
	for _, s := range []string{"16ms", "0.5 degC", "-1e3 uA", "±0.5 K", "1e99s", "1e-99 s", ".5s", "5.s", "+.", "1e", "12 ms ms", "µs", "3,5ms", "(a|b)+", `\Q`, "[[:alpha:]]{9}"} {
		f.Add(s, s, "ms", "latency")
		f.Add(s, s, "", "accuracy[Humidity]")
	}
	f.Fuzz(func(t *testing.T, bound, value, unit, field string) {
		o := offer(func(c *nodecore.Characteristics) {
			c.Latency, c.Properties.Unit.Latency = value, unit
			c.Accuracy = []string{value}
		})
		judge := func(r sensors.Requirement) (sensor.Verdict, error) {
			r.Field = field
			v, err := sensor.Select([]sensors.Requirement{r}, o)
			if err == nil && (v.Selected != (v.Reason == "") || v.Selected && v.Distance != 0 || !(v.Distance >= 0)) {
				t.Fatalf("%+v", v)
			}
			return v, err
		}
		_, _ = judge(sensors.Requirement{Matches: &bound})
		_, _ = judge(sensors.Requirement{Equals: &bound})
		lt, err1 := judge(sensors.Requirement{Lt: &bound})
		ge, err2 := judge(sensors.Requirement{Ge: &bound})
		if (err1 == nil) != (err2 == nil) {
			t.Fatalf("lt %v, ge %v", err1, err2)
		}
		if err1 == nil && lt.Selected && ge.Selected {
			t.Fatalf("%q %q is both < and >= %q", value, unit, bound)
		}
		if err1 == nil && !lt.Selected && !ge.Selected && strings.Contains(lt.Reason, "is not <") {
			t.Fatalf("%q %q is neither < nor >= %q", value, unit, bound)
		}
	})
}
