package sensor_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

func encode(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

const good = `{"uid":"u1","model":"HTS221","type":{"sensorCategory":"Environmental","sensorType":["Humidity"]}}`

func TestDecode(t *testing.T) {
	fatal := func(path, message string) sensor.Problem {
		return sensor.Problem{Path: path, Message: message, Fatal: true}
	}
	const unknown = "is not a field of a sensor's characteristics"
	for _, c := range []struct {
		name       string
		annotation string
		parts      []string
		problems   []sensor.Problem
	}{
		{name: "one sensor", annotation: encode("[" + good + "]"), parts: []string{"hts221"}},
		{name: "an empty list is a board without sensors", annotation: encode("[]")},
		{name: "wrapped in lines, as base64(1) and YAML do",
			annotation: encode("[" + good + "]")[:40] + "\r\n  " + encode("[" + good + "]")[40:] + "\n", parts: []string{"hts221"}},
		{name: "not base64", annotation: "%%%", problems: []sensor.Problem{fatal("$", "is not base64: illegal base64 data at input byte 0")}},
		{name: "base64 of nothing", annotation: "", problems: []sensor.Problem{fatal("$", "is empty")}},
		{name: "not JSON", annotation: encode("[{"), problems: []sensor.Problem{fatal("$", "is not JSON: unexpected end of JSON input")}},
		{name: "more than one JSON", annotation: encode("[] []"), problems: []sensor.Problem{fatal("$", "is not JSON: invalid character '[' after top-level value")}},
		{name: "not UTF-8", annotation: encode("[\"\xff\"]"), problems: []sensor.Problem{fatal("$", "is not UTF-8")}},
		{name: "an object", annotation: encode(good), problems: []sensor.Problem{fatal("$", "is an object, must be an array")}},
		{name: "null", annotation: encode("null"), problems: []sensor.Problem{fatal("$", "is null, must be an array")}},
		{name: "a bad element does not take the others off offer",
			annotation: encode(`[` + good + `,{"uid":"u2","model":"LPS22HH","type":{"sensorType":"Pressure"}},{"uid":"u3","model":"STTS751","type":{"sensorType":["Temperature"]}}]`),
			parts:      []string{"hts221", "stts751"},
			problems:   []sensor.Problem{fatal("$[1].type.sensorType", "is a string, must be an array of strings")}},
		{name: "what must be there", annotation: encode(`[{}]`), problems: []sensor.Problem{
			fatal("$[0].uid", "is missing"), fatal("$[0].model", "is missing"), fatal("$[0].type.sensorType", "is missing or empty")}},
		{name: "null is the same as absent", annotation: encode(`[{"uid":null,"model":"a","type":{"sensorType":["x"]},"latency":null}]`),
			problems: []sensor.Problem{fatal("$[0].uid", "is missing")}},
		{name: "an empty type", annotation: encode(`[{"uid":"u","model":"a","type":{"sensorType":["Humidity"," "]}}]`),
			problems: []sensor.Problem{fatal("$[0].type.sensorType[1]", "is empty")}},
		{name: "elements that are no objects", annotation: encode(`[null,3,"x",[],true]`), problems: []sensor.Problem{
			fatal("$[0]", "is null, must be an object"), fatal("$[1]", "is a number, must be an object"),
			fatal("$[2]", "is a string, must be an object"), fatal("$[3]", "is an array, must be an object"),
			fatal("$[4]", "is a boolean, must be an object")}},
		{name: "a model twice, whatever the case",
			annotation: encode(`[` + good + `,{"uid":"u2","model":"hts221","type":{"sensorType":["Temperature"]}}]`),
			parts:      []string{"hts221"},
			problems:   []sensor.Problem{fatal("$[1].model", `"hts221" is the model of $[0] already; a model is unique on its board`)}},
		{name: "a bad element does not take a model away", annotation: encode(`[{"uid":"","model":"HTS221","type":{"sensorType":["x"]}},` + good + `]`),
			parts: []string{"hts221"}, problems: []sensor.Problem{fatal("$[0].uid", "is missing")}},
		{name: "a model that cannot be a name", annotation: encode(`[{"uid":"u","model":"HTS 221/b","type":{"sensorType":["x"]}}]`),
			problems: []sensor.Problem{fatal("$[0].model", `"HTS 221/b" is not a part's name: at most 63 letters, digits and dashes, a letter or digit first and last`)}},
		{name: "a number where text belongs", annotation: encode(`[{"uid":"u","model":"a","latency":12,"type":{"sensorType":["x"]}}]`),
			problems: []sensor.Problem{fatal("$[0].latency", "is a number, must be a string")}},
		{name: "unknown fields are kept and told", annotation: encode(`[{"uid":"u","model":"a","colour":"red","the batch":1,"type":{"sensorType":["x"],"Sub":{}},"Latency":"3"}]`),
			parts: []string{"a"},
			problems: []sensor.Problem{{Path: "$[0].Latency", Message: unknown}, {Path: "$[0].colour", Message: unknown},
				{Path: `$[0]["the batch"]`, Message: unknown}, {Path: "$[0].type.Sub", Message: unknown}}},
		{name: "a number that nobody can hold", annotation: encode(`[{"uid":"u","model":"a","type":{"sensorType":["x"]},"n":1e999},` + good + `]`),
			parts:    []string{"hts221"},
			problems: []sensor.Problem{fatal("$[0]", "cannot be read: json: cannot unmarshal number 1e999 into Go value of type float64")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			elements, problems := sensor.Decode(c.annotation)
			var parts []string
			for _, e := range elements {
				parts = append(parts, e.Part())
			}
			if d := cmp.Diff(c.parts, parts); d != "" {
				t.Errorf("parts (-want +got):\n%s", d)
			}
			if d := cmp.Diff(c.problems, problems); d != "" {
				t.Errorf("problems (-want +got):\n%s", d)
			}
		})
	}
}

// TestDecodeKeeps is what goes on offer: every field that is known, and the text as found.
func TestDecodeKeeps(t *testing.T) {
	want := nodecore.Characteristics{
		UID: "u", Node: "n", Name: "hall", Model: "HTS221", Manufacturer: "STMicroelecronics", Market: "Industrial",
		Type:         nodecore.SensorType{SensorCategory: "Environmental", SensorType: []string{"Humidity", "Temperature"}},
		SamplingRate: "2", Accuracy: []string{"3.5", "0.5"}, Consumption: "2", Latency: "12",
		Properties: nodecore.SensorProperties{Unit: nodecore.SensorUnits{Measurement: []string{"%RH", "degC"}, Consumption: "uA", SamplingRate: "Hz", Latency: "ms"}},
		Access:     nodecore.SensorAccess{Type: "mqtt", Source: "ble", Resource: nodecore.SensorResource{Topic: "sensors/x", Node: ""}},
	}
	raw, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	elements, problems := sensor.Decode(encode("[" + string(raw) + "]"))
	if len(problems) != 0 || len(elements) != 1 {
		t.Fatalf("got %d elements, problems %v", len(elements), problems)
	}
	if d := cmp.Diff(sensor.Element{Characteristics: want, Raw: raw, Path: "$[0]"}, elements[0]); d != "" {
		t.Error(d)
	}
}

func FuzzDecode(f *testing.F) {
	for _, text := range []string{"[]", "[" + good + "]", "[" + good + "," + good + "]", `[{"uid":1}]`, `[{"a":{"b":[1e400]}}]`,
		`[null]`, `{}`, `[{"uid":"u","uid":"v","model":"m","type":{"sensorType":["x",null]},"":0}]`, "[\"\xff\"]", strings.Repeat("[", 200)} {
		f.Add(encode(text), true)
		f.Add(text, false)
	}
	f.Fuzz(func(t *testing.T, text string, encoded bool) {
		if encoded {
			text = encode(text)
		}
		elements, problems := sensor.Decode(text)
		if elements == nil && problems == nil {
			if strings.TrimSpace(text) == "" {
				t.Fatal("nothing is not an empty list")
			}
			return
		}
		parts := map[string]bool{}
		for _, e := range elements {
			c := e.Characteristics
			if c.UID == "" || len(c.Type.SensorType) == 0 || parts[e.Part()] || len(e.Part()) > 63 {
				t.Fatalf("on offer: %+v", e)
			}
			parts[e.Part()] = true
			for _, p := range problems {
				if p.Fatal && (p.Path == "$" || strings.HasPrefix(p.Path+".", e.Path+".")) {
					t.Fatalf("%s is on offer in spite of %+v", e.Path, p)
				}
			}
			// What is on offer can be read back from a Flavor.
			flavor := &nodecore.Flavor{}
			flavor.Name, flavor.Namespace = sensor.ObjectName("d", "", c.UID, e.Part()), "n"
			flavor.Labels = map[string]string{nodecore.LabelDevice: "d", nodecore.LabelPart: e.Part()}
			flavor.Spec.FlavorType = nodecore.FlavorType{TypeIdentifier: nodecore.TypeSensor}
			flavor.Spec.FlavorType.TypeData.Raw = []byte(`{"characteristics":` + string(e.Raw) + `}`)
			o, err := sensor.FromFlavor(flavor)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c, o.Characteristics, cmpopts.EquateEmpty()); d != "" {
				t.Fatal(d)
			}
		}
	})
}
