package sensor

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
)

// Element is one readable element of a `sensors` annotation.
type Element struct {
	Characteristics nodecore.Characteristics
	// Raw is the element as found, unknown fields kept.
	Raw json.RawMessage
	// Path of the element, "$[2]".
	Path string
}

// Part of the board that the element offers: its model in lower case.
func (e Element) Part() string { return strings.ToLower(e.Characteristics.Model) }

// Problem is something wrong in an annotation.
type Problem struct {
	// Path is a JSON path, like `$[1].type.sensorType`.
	Path    string
	Message string
	// Fatal problems keep their element off offer, or all elements if Path is
	// "$". The others are unknown fields, which are kept.
	Fatal bool
}

// Decode reads a `sensors` annotation: base64 (white space allowed) of a JSON
// array with one object for each sensor. Each must have uid, model (a DNS label in lower
// case, unique on the board) and a non-empty type.sensorType. Names of fields are
// exact, values are strings, null is the same as absent.
//
// A fatal problem of one element does not touch the others: what is returned is
// on offer. Elements and problems are in the order of the annotation.
func Decode(annotation string) ([]Element, []Problem) {
	fatal := func(format string, args ...any) ([]Element, []Problem) {
		return nil, []Problem{{Path: "$", Message: fmt.Sprintf(format, args...), Fatal: true}}
	}
	text, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(annotation), ""))
	switch {
	case err != nil:
		return fatal("is not base64: %v", err)
	case len(bytes.TrimSpace(text)) == 0:
		return fatal("is empty")
	case !utf8.Valid(text):
		return fatal("is not UTF-8")
	}
	var raws []json.RawMessage
	if err := json.Unmarshal(text, &raws); err != nil || raws == nil {
		if got := kindOf(text); json.Valid(text) {
			return fatal("is %s, must be an array", got)
		}
		return fatal("is not JSON: %v", err)
	}
	var elements []Element
	var problems []Problem
	taken := map[string]string{} // path of the element that has a part
	for i, raw := range raws {
		e := Element{Raw: raw, Path: fmt.Sprintf("$[%d]", i)}
		c, found := readCharacteristics(raw, e.Path)
		e.Characteristics = c
		if !slices.ContainsFunc(found, isFatal) {
			found = append(found, check(e, taken)...)
		}
		problems = append(problems, found...)
		if slices.ContainsFunc(found, isFatal) {
			continue
		}
		taken[e.Part()] = e.Path
		elements = append(elements, e)
	}
	return elements, problems
}

func isFatal(p Problem) bool { return p.Fatal }

// check reports what is missing in an element that could be read.
func check(e Element, taken map[string]string) []Problem {
	var out []Problem
	add := func(path, format string, args ...any) {
		out = append(out, Problem{Path: e.Path + path, Message: fmt.Sprintf(format, args...), Fatal: true})
	}
	c := e.Characteristics
	if strings.TrimSpace(c.UID) == "" {
		add(".uid", "is missing")
	}
	switch part := e.Part(); {
	case strings.TrimSpace(c.Model) == "":
		add(".model", "is missing")
	case len(validation.IsDNS1123Label(part)) > 0:
		add(".model", "%s is not a part's name: at most 63 letters, digits and dashes, a letter or digit first and last", quote(c.Model))
	case taken[part] != "":
		add(".model", "%s is the model of %s already; a model is unique on its board", quote(c.Model), taken[part])
	}
	if len(c.Type.SensorType) == 0 {
		add(".type.sensorType", "is missing or empty")
	}
	for i, t := range c.Type.SensorType {
		if strings.TrimSpace(t) == "" {
			add(fmt.Sprintf(".type.sensorType[%d]", i), "is empty")
		}
	}
	return out
}

// readCharacteristics decodes one element. Unlike encoding/json it tells `model`
// from `Model`, and it names every problem by its path.
func readCharacteristics(raw json.RawMessage, path string) (nodecore.Characteristics, []Problem) {
	var c nodecore.Characteristics
	// What a reader of any JSON cannot hold (1e999) no API server accepts.
	var anything any
	if err := json.Unmarshal(raw, &anything); err != nil {
		return c, []Problem{{Path: path, Message: "cannot be read: " + err.Error(), Fatal: true}}
	}
	if anything == nil {
		return c, []Problem{{Path: path, Message: "is null, must be an object", Fatal: true}}
	}
	r := reader{}
	r.read(raw, path, reflect.ValueOf(&c).Elem())
	return c, r.problems
}

// reader fills structs, strings and lists of strings.
type reader struct{ problems []Problem }

func (r *reader) add(fatal bool, path, message string) {
	r.problems = append(r.problems, Problem{Path: path, Message: message, Fatal: fatal})
}

func (r *reader) read(raw json.RawMessage, path string, into reflect.Value) {
	got := kindOf(raw)
	if got == "null" {
		return
	}
	switch into.Kind() {
	case reflect.Struct:
		if got != "an object" {
			r.add(true, path, "is "+got+", must be an object")
			return
		}
		var members map[string]json.RawMessage
		_ = json.Unmarshal(raw, &members) // valid JSON of an object cannot fail
		fields := map[string]int{}
		for i := range into.NumField() {
			name, _, _ := strings.Cut(into.Type().Field(i).Tag.Get("json"), ",")
			fields[name] = i
		}
		for _, name := range slices.Sorted(maps.Keys(members)) {
			if i, ok := fields[name]; ok {
				r.read(members[name], path+"."+name, into.Field(i))
			} else {
				r.add(false, path+member(name), "is not a field of a sensor's characteristics")
			}
		}
	case reflect.Slice:
		if got != "an array" {
			r.add(true, path, "is "+got+", must be an array of strings")
			return
		}
		var items []json.RawMessage
		_ = json.Unmarshal(raw, &items)
		into.Set(reflect.MakeSlice(into.Type(), len(items), len(items)))
		for i, item := range items {
			r.read(item, fmt.Sprintf("%s[%d]", path, i), into.Index(i))
		}
	default:
		var s string
		if got != "a string" {
			r.add(true, path, "is "+got+", must be a string")
			return
		}
		_ = json.Unmarshal(raw, &s)
		into.SetString(s)
	}
}

// kindOf names the kind of a JSON value.
func kindOf(raw []byte) string {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return "nothing"
	}
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// member is the piece of a JSON path that names a member of an object.
func member(name string) string {
	if identifier.MatchString(name) {
		return "." + shorten(name, maxQuote)
	}
	return "[" + quote(name) + "]"
}

// quote puts text that came from outside into a message.
func quote(s string) string { return fmt.Sprintf("%q", shorten(s, maxQuote)) }

// maxQuote is how many characters of somebody's text a message repeats.
const maxQuote = 80

func shorten(s string, most int) string {
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "..."
}
