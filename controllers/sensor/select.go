package sensor

import (
	"fmt"
	"math"
	"math/big"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
)

// Verdict is what a selection says about one sensor.
type Verdict struct {
	// Selected is true if every requirement is met.
	Selected bool
	// Met is the number of requirements that are met.
	Met int
	// Distance is how far the sensor is from meeting the other requirements: the
	// sum over all unmet bounds of |value-bound|/|bound|. It has no unit: 18 ms is
	// 17 from `< 1ms`, and 16 ms is 0 from `< 16ms`. From a bound of 0 it is |value|
	// in the base unit of its dimension (s, Hz, A, ...). It is +Inf if an unmet
	// requirement is not a bound, or its value has no usable number and unit.
	Distance float64
	// Reason is why the first unmet requirement is not met, as a sentence for a
	// person: `latency 16 ms is not < 16 ms`. It is empty if Selected.
	Reason string
}

// SelectFunc is Select, or a test's mutant of it.
type SelectFunc func([]sensors.Requirement, Offer) (Verdict, error)

// Select judges one offer; no requirement selects it. It does not look at
// Available. An error is a requirement that can never be judged (bad RE2, bound
// without number or unit, unknown field) and names its path
// (`spec.sensors[1].lt`); it depends on the requirements alone.
//
// Text ignores case, and what is not declared is empty text. A list
// (type.sensorType) meets a requirement if one element does. latency,
// samplingRate, consumption and accuracy[...] are quantities: bounds compare
// them as exact numbers with units converted, and so do equals and in where both
// sides have a number and a unit. The unit of a value stands in properties.unit;
// only if that is empty may it follow the number ("12 ms"), except in an
// accuracy, whose own unit goes before that of the measurement. A value without a
// usable number or unit never meets a bound.
func Select(reqs []sensors.Requirement, o Offer) (Verdict, error) {
	judges := make([]judge, len(reqs))
	for i, r := range reqs {
		c, err := compile(r)
		if err != nil {
			return Verdict{}, fmt.Errorf("spec.sensors[%d]%w", i, err)
		}
		judges[i] = c
	}
	v := Verdict{}
	for _, c := range judges {
		reason, distance := c(o)
		if reason == "" {
			v.Met++
			continue
		}
		if v.Reason == "" {
			v.Reason = reason
		}
		v.Distance += distance
	}
	v.Selected = v.Met == len(reqs)
	return v, nil
}

// judge returns why an offer does not meet one requirement and how far it is
// from that; see Verdict.Distance. The reason is "" if the offer meets it.
type judge func(Offer) (reason string, distance float64)

// farthest is the distance of an unmet requirement that is not a bound, or whose
// value cannot be compared with the bound.
var farthest = math.Inf(1)

// compile makes a requirement ready to judge. An error begins with the rest of
// the requirement's path.
func compile(r sensors.Requirement) (judge, error) {
	f, err := fieldNamed(r.Field)
	if err != nil {
		return nil, fmt.Errorf(".field: %w", err)
	}
	set := 0
	var c judge
	if r.Equals != nil {
		set++
		c = f.oneOf("is not", []string{*r.Equals})
	}
	if r.In != nil {
		set++
		c = f.oneOf("is none of", r.In)
	}
	if r.Matches != nil {
		set++
		re, err := anchored(*r.Matches)
		if err != nil {
			return nil, fmt.Errorf(".matches: %w", err)
		}
		c = f.anyText(re.MatchString, "does not match "+quote(*r.Matches))
	}
	for _, b := range []struct {
		name, sign string
		bound      *string
		holds      func(cmp int) bool
	}{
		{"lt", "<", r.Lt, func(cmp int) bool { return cmp < 0 }},
		{"le", "<=", r.Le, func(cmp int) bool { return cmp <= 0 }},
		{"gt", ">", r.Gt, func(cmp int) bool { return cmp > 0 }},
		{"ge", ">=", r.Ge, func(cmp int) bool { return cmp >= 0 }},
	} {
		if b.bound == nil {
			continue
		}
		set++
		if f.quantity == nil {
			return nil, fmt.Errorf(".%s: %s is text and has no order; use equals, in or matches", b.name, r.Field)
		}
		bound, reason := f.parse(*b.bound, "")
		if reason != "" {
			return nil, fmt.Errorf(".%s: %s; want a number with a unit, like \"16ms\"", b.name, reason)
		}
		c = f.compare(bound, b.sign, b.holds)
	}
	if set != 1 {
		return nil, fmt.Errorf(": %d operators are set, must be exactly one of equals, in, matches, lt, le, gt, ge", set)
	}
	return c, nil
}

// field is one field of a sensor's characteristics.
type field struct {
	name string
	// texts are the field's values: one, or those of a list.
	texts func(Offer) []string
	// quantity is the field's value and the unit beside it; nil for text. A
	// reason says why there is none.
	quantity func(Offer) (value, unit, reason string)
	accuracy bool
}

func fieldNamed(name string) (field, error) {
	text := func(get func(Offer) string) (field, error) {
		return field{name: name, texts: func(o Offer) []string { return []string{get(o)} }}, nil
	}
	quantity := func(get func(Offer) (value, unit string)) (field, error) {
		return field{
			name:     name,
			texts:    func(o Offer) []string { v, _ := get(o); return []string{v} },
			quantity: func(o Offer) (string, string, string) { v, u := get(o); return v, u, "" },
		}, nil
	}
	switch name {
	case "device":
		return text(func(o Offer) string { return o.Key.Device })
	case "part":
		return text(func(o Offer) string { return o.Key.Part })
	case "uid":
		return text(func(o Offer) string { return or(o.UID, o.Characteristics.UID) })
	case "node":
		return text(func(o Offer) string { return or(o.Node, o.Characteristics.Node) })
	case "name":
		return text(func(o Offer) string { return o.Characteristics.Name })
	case "model":
		return text(func(o Offer) string { return o.Characteristics.Model })
	case "manufacturer":
		return text(func(o Offer) string { return o.Characteristics.Manufacturer })
	case "market":
		return text(func(o Offer) string { return o.Characteristics.Market })
	case "type.sensorCategory":
		return text(func(o Offer) string { return or(o.Category, o.Characteristics.Type.SensorCategory) })
	case "type.sensorType":
		return field{name: name, texts: func(o Offer) []string { return o.Characteristics.Type.SensorType }}, nil
	case "latency":
		return quantity(func(o Offer) (string, string) {
			return o.Characteristics.Latency, o.Characteristics.Properties.Unit.Latency
		})
	case "samplingRate":
		return quantity(func(o Offer) (string, string) {
			return o.Characteristics.SamplingRate, o.Characteristics.Properties.Unit.SamplingRate
		})
	case "consumption":
		return quantity(func(o Offer) (string, string) {
			return o.Characteristics.Consumption, o.Characteristics.Properties.Unit.Consumption
		})
	}
	list, rest, found := strings.Cut(name, "[")
	measured, closed := strings.CutSuffix(rest, "]")
	if (list == "accuracy" || list == "measurement") && (!found || !closed || measured == "") {
		return field{}, fmt.Errorf("%s needs the type of sensor, like %s[Humidity]", quote(name), list)
	}
	// at is the element of a list that is parallel to type.sensorType.
	at := func(o Offer, list []string) (value string, measures bool) {
		i := slices.IndexFunc(o.Characteristics.Type.SensorType, func(t string) bool { return strings.EqualFold(t, measured) })
		if i < 0 || i >= len(list) {
			return "", i >= 0
		}
		return list[i], true
	}
	switch list {
	case "measurement":
		return text(func(o Offer) string { v, _ := at(o, o.Characteristics.Properties.Unit.Measurement); return v })
	case "accuracy":
		return field{
			name:     name,
			accuracy: true,
			texts:    func(o Offer) []string { v, _ := at(o, o.Characteristics.Accuracy); return []string{v} },
			quantity: func(o Offer) (string, string, string) {
				v, measures := at(o, o.Characteristics.Accuracy)
				u, _ := at(o, o.Characteristics.Properties.Unit.Measurement)
				if !measures {
					return "", "", "is not declared: the sensor does not measure " + quote(measured)
				}
				return v, u, ""
			},
		}, nil
	}
	return field{}, fmt.Errorf("%s is not a field of a sensor", quote(name))
}

// parse a value or a bound of this field.
func (f field) parse(s, beside string) (quantity, string) {
	if f.accuracy {
		return parseQuantity(tolerance(s), beside, true)
	}
	return parseQuantity(s, beside, false)
}

// value of this field in an offer, or the reason why it has none.
func (f field) value(o Offer) (quantity, string) {
	v, u, reason := f.quantity(o)
	if reason != "" {
		return quantity{}, reason
	}
	if strings.TrimSpace(v) == "" {
		return quantity{}, "is not declared"
	}
	return f.parse(v, u)
}

func (f field) compare(bound quantity, sign string, holds func(int) bool) judge {
	return func(o Offer) (string, float64) {
		v, reason := f.value(o)
		switch {
		case reason != "":
			return f.name + " " + reason, farthest
		case v.dim != bound.dim:
			return fmt.Sprintf("%s %s cannot be compared with %s", f.name, v.text, bound.text), farthest
		case !holds(v.n.Cmp(bound.n)):
			return fmt.Sprintf("%s %s is not %s %s", f.name, v.text, sign, bound.text), distance(v.n, bound.n)
		}
		return "", 0
	}
}

// distance between a value and a bound; see Verdict.Distance. It is at most
// 1e300, so that sums of it stay finite: a value that can be compared is always
// nearer than one that cannot.
func distance(value, bound *big.Rat) float64 {
	d := new(big.Rat).Sub(value, bound)
	if bound.Sign() != 0 {
		d.Quo(d, bound)
	}
	f, _ := d.Abs(d).Float64()
	return min(f, 1e300)
}

// oneOf holds if the field is one of the wanted.
func (f field) oneOf(verb string, wanted []string) judge {
	quoted := make([]string, len(wanted))
	quantities := make([]quantity, len(wanted))
	for i, w := range wanted {
		quoted[i] = quote(w)
		if f.quantity != nil {
			quantities[i], _ = f.parse(w, "")
		}
	}
	complaint := verb + " " + strings.Join(quoted, ", ")
	asText := f.anyText(func(s string) bool {
		return slices.ContainsFunc(wanted, func(w string) bool { return strings.EqualFold(s, w) })
	}, complaint)
	return func(o Offer) (string, float64) {
		if f.quantity == nil {
			return asText(o)
		}
		v, unusable := f.value(o)
		if unusable != "" {
			return asText(o)
		}
		text := f.texts(o)[0]
		for i, w := range quantities {
			if w.n == nil && strings.EqualFold(text, wanted[i]) || w.n != nil && w.dim == v.dim && w.n.Cmp(v.n) == 0 {
				return "", 0
			}
		}
		return shorten(f.name+" "+v.text+" "+complaint, maxReason), farthest
	}
}

// anyText holds if it does for one of the field's texts.
func (f field) anyText(holds func(string) bool, complaint string) judge {
	return func(o Offer) (string, float64) {
		texts := f.texts(o)
		if slices.ContainsFunc(texts, holds) {
			return "", 0
		}
		if len(texts) == 0 || len(texts) == 1 && texts[0] == "" {
			return f.name + " is not declared", farthest
		}
		quoted := make([]string, len(texts))
		for i, t := range texts {
			quoted[i] = quote(t)
		}
		return shorten(f.name+" "+strings.Join(quoted, ", ")+" "+complaint, maxReason), farthest
	}
}

// maxReason is how many characters of a reason a status can show.
const maxReason = 400

// maxExpression is how large an expression may become when its repetitions are
// written out. RE2 matches in linear time, but x{1000} costs as much as a
// thousand x, for each sensor that is judged.
const maxExpression = 4096

// anchored compiles an RE2 expression that ignores case and must match all of
// the text. It is wrapped as a syntax tree, so that nothing in it can end the
// wrapping.
func anchored(expr string) (*regexp.Regexp, error) {
	tree, err := syntax.Parse(expr, syntax.Perl|syntax.FoldCase)
	if err != nil {
		return nil, err
	}
	if n := size(tree); n > maxExpression {
		return nil, fmt.Errorf("%s is too large: %d of at most %d", quote(expr), n, maxExpression)
	}
	return regexp.Compile(`\A(?:` + tree.String() + `)\z`)
}

// size of an expression with its repetitions written out, at least.
func size(re *syntax.Regexp) int {
	n := 1
	if re.Op == syntax.OpLiteral {
		n = len(re.Rune)
	}
	for _, sub := range re.Sub {
		n += size(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(1, re.Min, re.Max)
	}
	return min(n, 1<<20) // so that no product overflows
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
