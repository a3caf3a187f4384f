package topology

import (
	"math"
	"slices"
)

// part of a model. This package imports nothing of ours, so it knows of parts what
// a file needs; a test of simulators/board holds it against the boards' own table.
type part struct {
	name string
	// rate of its characteristic in Hz, 0 for the environmental one, whose rate is
	// the board's.
	rate float64
}

var (
	models = []string{STWINKT1B, STWINBX1}
	common = []part{{"ism330dhcx", 20}, {"iis2mdc", 20}, {"imp34dt05", 2}}
	table  = map[string][]part{
		STWINKT1B: append([]part{{name: "hts221"}, {name: "lps22hh"}, {name: "stts751"}}, common...),
		STWINBX1:  append([]part{{name: "stts22h"}, {name: "ilps22qs"}}, common...),
	}
)

// partsOf a model, by name, in the boards' order; none for an unknown model.
func partsOf(model string) []string {
	var names []string
	for _, p := range table[model] {
		names = append(names, p.name)
	}
	return names
}

// defaultOffers of a model are its environmental parts.
func defaultOffers(model string) []string {
	var names []string
	for _, p := range table[model] {
		if p.rate == 0 {
			names = append(names, p.name)
		}
	}
	return names
}

// load is how many messages a second the board's sensors make, if a sensor gathers
// its lines for so long.
func (b *Board) load(gather Duration) float64 {
	load := 0.0
	for _, p := range table[b.Model] {
		if !slices.Contains(b.Offers, p.name) {
			continue
		}
		rate := p.rate
		if rate == 0 {
			rate = b.Rate
		}
		if seconds := gather.seconds(); seconds > 0 {
			rate = math.Min(rate, 1/seconds)
		}
		load += rate
	}
	return load
}
