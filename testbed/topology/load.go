package topology

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Problem is one thing that is wrong with a topology file.
type Problem struct {
	File  string `json:"file"`
	Line  int    `json:"line"`
	Field string `json:"field"`
	Value string `json:"value"`
	Want  string `json:"want"`
}

// String is one line: where, what, and what would be right.
func (p Problem) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d: ", p.File, p.Line)
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	if p.Value != "" {
		fmt.Fprintf(&b, "value %q: ", p.Value)
	}
	return b.String() + "want " + p.Want
}

// Problems is every problem of a file, in the order of its lines. It is the only
// kind of error that Load returns.
type Problems []Problem

// Error lists the problems, one a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// maxBytes bounds a file: a testbed of a thousand boards is a tenth of it.
const maxBytes = 4 << 20

// Load reads a topology. name is the file's name, for messages only. Unknown
// fields are refused, defaults are filled in. The error is of type Problems and
// holds everything that is wrong, not the first thing.
func Load(name string, data []byte) (*Topology, error) {
	if len(data) > maxBytes {
		return nil, Problems{{File: name, Line: 1, Want: fmt.Sprintf("at most %d bytes, not %d", maxBytes, len(data))}}
	}
	root, problem := parse(name, data)
	if problem != nil {
		return nil, Problems{*problem}
	}
	d := &decoder{lines: map[string]int{}}
	t := &Topology{}
	switch root.(type) {
	case nil, *ast.MappingNode, *ast.MappingValueNode:
	default:
		return nil, Problems{{File: name, Line: lineOf(root), Value: text(root), Want: "fields (name: value), first of all apiVersion: " + APIVersion}}
	}
	if root != nil {
		d.decode(nil, root, reflect.ValueOf(t).Elem())
	}
	t.setDefaults(d.has)
	// What the decoder refused has been said; it is not judged a second time.
	said := map[string]bool{}
	for _, e := range d.errs {
		said[e.Field] = true
	}
	for _, e := range t.validate(d.has) {
		if !said[e.Field] {
			d.errs = append(d.errs, e)
		}
	}
	if len(d.errs) == 0 {
		return t, nil
	}
	out := make(Problems, len(d.errs))
	for i, e := range d.errs {
		out[i] = Problem{File: name, Line: d.line(e.Field), Field: e.Field, Value: show(e.BadValue), Want: e.Detail}
	}
	slices.SortStableFunc(out, func(a, b Problem) int { return a.Line - b.Line })
	return nil, out
}

// Marshal writes the topology as YAML that Load reads back to the same topology.
func (t *Topology) Marshal() ([]byte, error) {
	b, err := yaml.MarshalWithOptions(t, yaml.Indent(2), yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("write topology: %w", err)
	}
	return b, nil
}

// parse returns the body of the only document; nil if the file is empty.
func parse(name string, data []byte) (body ast.Node, problem *Problem) {
	// The parser panics on some broken input; a user's file may never end a testbed.
	defer func() {
		if r := recover(); r != nil {
			body, problem = nil, &Problem{File: name, Line: 1, Want: fmt.Sprintf("YAML; the parser gave up: %v", r)}
		}
	}()
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		p := &Problem{File: name, Line: 1, Want: "YAML: " + firstLine(err.Error())}
		var e yaml.Error
		if errors.As(err, &e) {
			p.Want = "YAML: " + firstLine(e.GetMessage())
			if tk := e.GetToken(); tk != nil && tk.Position != nil {
				p.Line = tk.Position.Line
			}
		}
		return nil, p
	}
	for _, doc := range file.Docs {
		if doc.Body == nil || isNull(doc.Body) {
			continue
		}
		if _, ok := doc.Body.(*ast.CommentGroupNode); ok {
			continue
		}
		if body != nil {
			return nil, &Problem{File: name, Line: lineOf(doc.Body), Want: "one YAML document in a file"}
		}
		body = doc.Body
	}
	return body, nil
}

// decoder fills a value from YAML nodes and goes on after an error. The lines
// of all fields that the file has are kept by their path.
type decoder struct {
	lines map[string]int
	errs  field.ErrorList
}

// has tells whether the file gives the field a value.
func (d *decoder) has(p *field.Path) bool { _, ok := d.lines[p.String()]; return ok }

// line of a field or of the nearest one around it.
func (d *decoder) line(path string) int {
	for path != "" {
		if n, ok := d.lines[path]; ok {
			return n
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return 1
}

func (d *decoder) refuse(p *field.Path, n ast.Node, want string) {
	path := p.String()
	if p == nil {
		path = ""
	}
	if _, ok := d.lines[path]; !ok {
		d.lines[path] = lineOf(n)
	}
	d.errs = append(d.errs, &field.Error{Type: field.ErrorTypeInvalid, Field: path, BadValue: text(n), Detail: want})
}

func (d *decoder) decode(p *field.Path, n ast.Node, v reflect.Value) {
	if t, ok := n.(*ast.TagNode); ok {
		d.refuse(p, t, "the value without a tag")
		return
	}
	if isNull(n) {
		return
	}
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode:
		d.refuse(p, n, "the value itself; anchors and aliases are not supported")
		return
	}
	if p != nil {
		d.lines[p.String()] = lineOf(n)
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	if _, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.duration(p, n, v)
		return
	}
	switch v.Kind() {
	case reflect.Struct, reflect.Map:
		d.mapping(p, n, v)
	case reflect.Slice:
		seq, ok := n.(*ast.SequenceNode)
		if !ok {
			d.refuse(p, n, "a list")
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values)))
		for i, item := range seq.Values {
			at := p.Index(i)
			d.lines[at.String()] = lineOf(item)
			d.decode(at, item, v.Index(i))
		}
	case reflect.String:
		if s, ok := scalar(n); ok {
			v.SetString(s)
		} else {
			d.refuse(p, n, "text; put it in quotes")
		}
	default:
		if err := yaml.NodeToValue(n, v.Addr().Interface(), yaml.Strict()); err != nil {
			v.SetZero()
			d.refuse(p, n, map[reflect.Kind]string{
				reflect.Int: "a whole number", reflect.Uint64: "a whole number from 0 to 18446744073709551615", reflect.Float64: "a number",
			}[v.Kind()])
		}
	}
}

func (d *decoder) duration(p *field.Path, n ast.Node, v reflect.Value) {
	const want = `a duration with its unit, such as "5ms"`
	s, ok := scalar(n)
	if !ok || v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)) != nil {
		d.refuse(p, n, want)
	}
}

func (d *decoder) mapping(p *field.Path, n ast.Node, v reflect.Value) {
	var values []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		values = m.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{m}
	default:
		d.refuse(p, n, "fields (name: value)")
		return
	}
	var fields map[string][]int
	if v.Kind() == reflect.Struct {
		fields = fieldsOf(v.Type())
	} else {
		v.Set(reflect.MakeMap(v.Type()))
	}
	seen := map[string]bool{}
	for _, kv := range values {
		key, ok := scalar(kv.Key)
		if !ok {
			d.refuse(p, kv.Key, "a field's name as plain text")
			continue
		}
		at := p.Child(key)
		if p == nil {
			at = field.NewPath(key)
		}
		if v.Kind() == reflect.Map {
			at = p.Key(key)
		}
		if seen[key] {
			d.errs = append(d.errs, &field.Error{Type: field.ErrorTypeDuplicate, Field: at.String(), BadValue: text(kv.Value),
				Detail: "this field once; it is given again in line " + fmt.Sprint(lineOf(kv.Key))})
			continue
		}
		seen[key] = true
		if v.Kind() == reflect.Map {
			d.lines[at.String()] = lineOf(kv.Key)
			item := reflect.New(v.Type().Elem()).Elem()
			d.decode(at, kv.Value, item)
			v.SetMapIndex(reflect.ValueOf(key), item)
			continue
		}
		index, ok := fields[key]
		if !ok {
			d.lines[at.String()] = lineOf(kv.Key)
			d.refuse(at, kv.Value, "one of the fields "+strings.Join(sortedKeys(fields), ", ")+nearest(key, sortedKeys(fields)))
			continue
		}
		d.decode(at, kv.Value, v.FieldByIndex(index))
	}
}

// fieldsOf a struct that a file can give, by their names; those of an inlined
// struct are its own.
func fieldsOf(t reflect.Type) map[string][]int {
	fields := map[string][]int{}
	for i := range t.NumField() {
		switch name, options, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ","); {
		case name == "-":
		case options == "inline":
			for name, index := range fieldsOf(t.Field(i).Type) {
				fields[name] = append([]int{i}, index...)
			}
		default:
			fields[name] = []int{i}
		}
	}
	return fields
}

// scalar is the text of a node as it is written in the file: 12.0 stays "12.0".
func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// text of a node for a message.
func text(n ast.Node) string {
	if s, ok := scalar(n); ok {
		return s
	}
	switch n := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode, *ast.SequenceNode:
		return ""
	default:
		if tk := n.GetToken(); tk != nil {
			return tk.Value
		}
	}
	return ""
}

func show(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	}
	return fmt.Sprint(v)
}

func isNull(n ast.Node) bool { return n == nil || n.Type() == ast.NullType }

func lineOf(n ast.Node) int {
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	if m, ok := n.(*ast.MappingValueNode); ok {
		n = m.Key
	}
	if tk := n.GetToken(); tk != nil && tk.Position != nil {
		return tk.Position.Line
	}
	return 1
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}
