package board

import (
	"math"
	"time"
)

// chance is a board's source of random numbers: each is a function of what it is
// for and of a count, so that none depends on which were drawn before.
type chance uint64

// unit is a number in [0, 1).
func (c chance) unit(what string, n uint64) float64 {
	x := uint64(c)
	for i := range len(what) {
		x = mix(x ^ uint64(what[i]))
	}
	return float64(mix(x^n)>>11) / (1 << 53)
}

// mix is the finaliser of SplitMix64.
func mix(x uint64) uint64 {
	x += 0x9E3779B97F4A7C15
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}

// climate of a room: a quantity swings slowly, by the day and by the quarter of
// an hour (somebody opens a window).
var climate = map[string]struct {
	mean, day, quarter float64
}{
	"Temperature": {22, 2.5, 0.8},
	"Humidity":    {46, -7, 2}, // warm air is drier
	"Pressure":    {1013.25, 5, 0.2},
}

// truth is what there is to measure where the board is.
func (b *Board) truth(sensorType string, t time.Time) float64 {
	c := climate[sensorType]
	at := float64(t.UnixMilli()) / 1000
	swing := func(what string, period float64) float64 {
		return math.Sin(2 * math.Pi * (at/period + b.chance.unit(what, 0)))
	}
	return c.mean + c.day*swing("day", 86_400) + c.quarter*swing("quarter "+sensorType, 1020)
}

// reading is what a part makes of it: off by a bias of its own and by noise,
// together within the accuracy of its datasheet.
func (b *Board) reading(part, sensorType string, t time.Time) float64 {
	accuracy := datasheets[part].accuracy[sensorType]
	what := part + " " + sensorType
	bias := 2*b.chance.unit(what+" bias", 0) - 1
	noise := b.chance.unit(what, uint64(t.UnixNano())) + b.chance.unit(what+"'", uint64(t.UnixNano())) - 1
	return b.truth(sensorType, t) + accuracy*(0.6*bias+0.1*noise)
}
