package sensor

import (
	"math/big"
	"strconv"
	"strings"
)

// quantity is an exact number with its unit.
type quantity struct {
	n    *big.Rat // in the base unit of the dimension
	dim  dimension
	text string // "16 ms"
}

// dimension is what units can be converted within.
type dimension string

type unit struct {
	dim    dimension
	factor *big.Rat // to the base unit
}

// units are what the testbed can compare. Temperatures are differences (an
// accuracy is one), so degC and K are the same; % is % of relative humidity too.
var units, foldedUnits = unitTable(map[dimension]map[string]string{
	"time": {"ns": "1e-9", "us": "1e-6", "usec": "1e-6", "ms": "1e-3", "msec": "1e-3",
		"s": "1", "sec": "1", "min": "60", "h": "3600"},
	"frequency": {"mHz": "1e-3", "Hz": "1", "kHz": "1e3", "MHz": "1e6", "1/s": "1", "1/min": "1/60",
		"S/s": "1", "kS/s": "1e3", "sps": "1"},
	"current": {"nA": "1e-9", "uA": "1e-6", "mA": "1e-3", "A": "1"},
	"power":   {"nW": "1e-9", "uW": "1e-6", "mW": "1e-3", "W": "1"},
	"energy":  {"nJ": "1e-9", "uJ": "1e-6", "mJ": "1e-3", "J": "1"},
	"voltage": {"uV": "1e-6", "mV": "1e-3", "V": "1"},
	"temperature": {"K": "1", "mK": "1e-3", "degC": "1", "°C": "1", "C": "1", "Celsius": "1",
		"degF": "5/9", "°F": "5/9", "F": "5/9"},
	"ratio":    {"%": "1", "%RH": "1", "RH%": "1", "percent": "1"},
	"pressure": {"Pa": "1", "hPa": "100", "kPa": "1e3", "mbar": "100", "bar": "1e5"},
	"acceleration": {"ug": "9.80665e-6", "mg": "9.80665e-3", "g": "9.80665",
		"m/s2": "1", "m/s^2": "1", "m/s²": "1"},
	"rotation":          {"mdps": "1e-3", "dps": "1", "deg/s": "1", "°/s": "1"},
	"magnetic field":    {"nT": "1e-9", "uT": "1e-6", "mT": "1e-3", "T": "1", "mG": "1e-7", "mGauss": "1e-7", "G": "1e-4", "Gauss": "1e-4"},
	"sound level":       {"dB": "1"},
	"noise density":     {"ug/sqrt(Hz)": "1e-6", "ug/√Hz": "1e-6", "mg/sqrt(Hz)": "1e-3", "mg/√Hz": "1e-3"},
	"magnetic step":     {"mG/LSB": "1", "mGauss/LSB": "1"},
	"acceleration step": {"ug/LSB": "1e-3", "mg/LSB": "1"},
})

// unitTable returns the units by name and by name in lower case; a name in lower
// case that could mean two units is in neither.
func unitTable(table map[dimension]map[string]string) (exact, folded map[string]unit) {
	exact, folded = map[string]unit{}, map[string]unit{}
	ambiguous := map[string]bool{}
	for dim, names := range table {
		for name, factor := range names {
			f, ok := new(big.Rat).SetString(factor)
			if !ok {
				panic("sensor: unit " + name + " has factor " + factor)
			}
			u := unit{dim, f}
			exact[name] = u
			low := strings.ToLower(name)
			if o, ok := folded[low]; ok && (o.dim != dim || o.factor.Cmp(f) != 0) {
				ambiguous[low] = true
			}
			folded[low] = u
		}
	}
	for low := range ambiguous {
		delete(folded, low)
	}
	return exact, folded
}

// micro signs are two code points in Unicode; the table has neither.
var micro = strings.NewReplacer("µ", "u", "μ", "u")

// unitNamed finds a unit. Case is ignored where no other unit could be meant; a
// capital M is mega, never milli.
func unitNamed(name string) (unit, bool) {
	name = micro.Replace(strings.TrimSpace(name))
	if u, ok := units[name]; ok {
		return u, true
	}
	if strings.HasPrefix(name, "M") {
		return unit{}, false
	}
	u, ok := foldedUnits[strings.ToLower(name)]
	return u, ok
}

// leadingNumber splits decimal text into a number and what follows it, trimmed.
// Numbers are decimal, with an optional sign, fraction and exponent of at most
// two digits; at most 64 characters, so that nobody makes us count to 1e999999.
func leadingNumber(s string) (n *big.Rat, digits, rest string, ok bool) {
	s = strings.TrimSpace(s)
	i, count := 0, 0
	if i < len(s) && (s[i] == '+' || s[i] == '-') {
		i++
	}
	run := func() {
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			i, count = i+1, count+1
		}
	}
	run()
	if i < len(s) && s[i] == '.' {
		i++
		run()
	}
	if count == 0 {
		return nil, "", "", false
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		j := i + 1
		if j < len(s) && (s[j] == '+' || s[j] == '-') {
			j++
		}
		k := j
		for k < len(s) && s[k] >= '0' && s[k] <= '9' {
			k++
		}
		if k > j {
			if _, err := strconv.ParseUint(s[j:k], 10, 64); err != nil || k-j > 2 {
				return nil, "", "", false
			}
			i = k
		}
	}
	if i > 64 {
		return nil, "", "", false
	}
	n, ok = new(big.Rat).SetString(s[:i])
	rest = strings.TrimSpace(s[i:])
	if !ok || strings.HasPrefix(rest, ",") || strings.HasPrefix(rest, ".") {
		return nil, "", "", false // 3,5 or 1.2.3: no number that two readers agree on
	}
	return n, s[:i], rest, true
}

// parseQuantity reads text like "16ms" or "0.5 degC". beside is the unit of a
// number that has none of its own, and own says that a number may have one
// nevertheless. A reason says what is wrong, to follow the name of the field.
func parseQuantity(s, beside string, own bool) (q quantity, reason string) {
	n, digits, unitText, ok := leadingNumber(s)
	if !ok {
		return q, quote(s) + " is not a number"
	}
	beside = strings.TrimSpace(beside)
	switch {
	case unitText == "":
		unitText = beside
	case beside != "" && !own:
		return q, quote(s) + " has a unit of its own beside " + quote(beside)
	}
	if unitText == "" {
		return q, quote(s) + " has no unit"
	}
	u, ok := unitNamed(unitText)
	if !ok {
		return q, quote(digits) + " has the unknown unit " + quote(unitText)
	}
	return quantity{n: n.Mul(n, u.factor), dim: u.dim, text: digits + " " + unitText}, ""
}

// tolerance removes the plus-minus before an accuracy.
func tolerance(s string) string {
	s = strings.TrimSpace(s)
	for _, sign := range []string{"±", "+/-", "+-"} {
		if rest, ok := strings.CutPrefix(s, sign); ok {
			return rest
		}
	}
	return s
}
