package mapper_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/mapper"
)

func pieces(size int, text string) (out [][]byte) {
	for b := []byte(text); len(b) > 0; {
		n := min(size, len(b))
		out = append(out, b[:n])
		b = b[n:]
	}
	return out
}

func TestLinesArePutTogetherFromNotifications(t *testing.T) {
	long := strings.Repeat("x", mapper.MaxLine)
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"two lines", "one\r\ntwo\r\n", []string{"one", "two"}},
		{"a line that is not over yet", "one\r\ntw", []string{"one"}},
		{"LF alone", "one\ntwo\n", []string{"one", "two"}},
		{"empty lines", "\r\n\r\n", []string{"", ""}},
		{"CR inside", "a\rb\r\n", []string{"a\rb"}},
		{"as long as may be", long + "\nnext\r\n", []string{long, "next"}},
		{"longer than may be", long + "x\r\nnext\r\n", []string{"next"}},
		{"much longer", long + long + long + "\r\nnext\r\n", []string{"next"}},
		{"bytes that are no text", "\x00\xff\r\n", []string{"\x00\xff"}},
	} {
		for _, size := range []int{1, 7, 20, 1 << 20} {
			t.Run(c.name, func(t *testing.T) {
				if diff := cmp.Diff(c.want, mapper.Assemble(pieces(size, c.text)...)); diff != "" {
					t.Errorf("in pieces of %d (-want +got):\n%s", size, diff)
				}
			})
		}
	}
}

func TestParseUID(t *testing.T) {
	for line, want := range map[string]string{
		"0034003e3137510732393432":  "0034003e3137510732393432",
		"0034003E3137510732393432":  "0034003e3137510732393432",
		"0034003e313751073239343":   "",
		"0034003e31375107323934321": "",
		"0034003e3137510732393g32":  "",
		// as ST's firmware answers
		"0034003E3137510732393432_481": "0034003e3137510732393432",
		"0034003E3137510732393432_":    "",
		"0034003E3137510732393432 481": "",
		"":                             "",
	} {
		got, ok := mapper.ParseUID(line)
		if got = map[bool]string{true: got}[ok]; got != want {
			t.Errorf("ParseUID(%q) = %q, want %q", line, got, want)
		}
	}
}

func TestParseSensors(t *testing.T) {
	for _, c := range []struct {
		name, line string
		models     []string
		problems   []string // what each one contains
		err        string
	}{
		{name: "none", line: "[]"},
		{name: "two", line: `[{"model":"HTS221"},{"model":"LPS22HH"}]`, models: []string{"HTS221", "LPS22HH"}},
		{name: "no array", line: `{"model":"HTS221"}`, err: `answer to "sensors"`},
		{name: "cut off", line: `[{"model":"HTS221"`, err: `answer to "sensors"`},
		{name: "no text", line: "\x00\xff", err: `answer to "sensors"`},
		{name: "too many", line: "[" + strings.Repeat("{},", 64) + "{}]", err: "65 elements, at most 64"},
		{
			name:   "a bad one between two good ones",
			line:   `[{"model":"HTS221"},{"model":"A","latency":12},{"model":"LPS22HH"}]`,
			models: []string{"HTS221", "LPS22HH"}, problems: []string{"[1]: "},
		},
		{name: "no model", line: `[{}]`, problems: []string{`[0].model: ""`}},
		{name: "a topic in a model", line: `[{"model":"a/#"}]`, problems: []string{`[0].model: "a/#"`}},
		{name: "a model twice", line: `[{"model":"HTS221"},{"model":"hts221"}]`, models: []string{"HTS221"}, problems: []string{`[1].model: "hts221" is that of [0] too`}},
		{name: "a line break in a category", line: `[{"model":"a","type":{"sensorCategory":"e\nx v=1"}}]`, problems: []string{`[0].type.sensorCategory`}},
		{name: "too many quantities", line: `[{"model":"a","type":{"sensorType":["1","2","3","4","5","6","7","8","9"]}}]`, problems: []string{`[0].type.sensorType: 9 elements`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sensors, problems, err := mapper.ParseSensors(c.line)
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			var models []string
			for _, s := range sensors {
				models = append(models, s.Model)
			}
			if diff := cmp.Diff(c.models, models); diff != "" {
				t.Errorf("models (-want +got):\n%s", diff)
			}
			if len(problems) != len(c.problems) {
				t.Fatalf("problems %q, want %q", problems, c.problems)
			}
			for i, p := range c.problems {
				if !strings.Contains(problems[i], p) {
					t.Errorf("problem %q, want %q", problems[i], p)
				}
			}
		})
	}
}

// FuzzConsole feeds what a board may send, cut in two anywhere: however it is
// cut the lines are the same, and whatever stands in them can be offered.
func FuzzConsole(f *testing.F) {
	good, _ := json.Marshal(kt1b().Announced)
	f.Add(append(good, "\r\n"...), 20)
	f.Add([]byte("0034003e3137510732393432\r\nsensors changed\r\n"), 5)
	f.Add([]byte("[{\"model\":\"a\",\"type\":{\"sensorType\":[\"Temperature\",\"Temperature\",\"x\"]}}]\n"), 1)
	f.Add([]byte("\r\r\n\n\x00\xff[[[[{{"), 3)
	f.Add([]byte(`[{"model":"ſ"},{"model":"K"},null,1,"x",[],{"uid":"\ud800"}]`+"\r\n"), 0)
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		cut = min(max(cut, 0), len(text))
		whole, cutUp := mapper.Assemble(text), mapper.Assemble(text[:cut], text[cut:])
		if diff := cmp.Diff(whole, cutUp); diff != "" {
			t.Fatalf("cut at %d (-whole +cut):\n%s", cut, diff)
		}
		for _, line := range whole {
			if strings.Contains(line, "\n") || len(line) > mapper.MaxLine {
				t.Fatalf("line %q", line)
			}
			if id, ok := mapper.ParseUID(line); ok && len(id) != 24 {
				t.Fatalf("id %q", id)
			}
			sensors, _, err := mapper.ParseSensors(line)
			if err != nil {
				continue
			}
			b := kt1b()
			b.Announced = sensors
			_, device, err := b.Objects("fluidos")
			if err != nil {
				t.Fatal(err)
			}
			var back []nodecore.Characteristics
			decodeAnnotation(t, device.GetAnnotations()["sensors"], &back)
			if len(back) != len(sensors) {
				t.Fatalf("%d sensors, %d in the annotation", len(sensors), len(back))
			}
			for _, s := range back {
				if topic := s.Access.Resource.Topic; !utf8.ValidString(topic) || strings.Count(topic, "/") != 3 || bytes.ContainsAny([]byte(topic), "#+\x00") {
					t.Fatalf("topic %q", topic)
				}
			}
		}
	})
}
