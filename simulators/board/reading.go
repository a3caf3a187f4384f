package board

import (
	"math"
	"strings"
	"time"

	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// chance is a board's source of random numbers: each is a function of what it is
// for and of a count, so that none depends on which were drawn before.
type chance uint64

// purpose of a random number.
type purpose uint64

func newPurpose(what string) purpose {
	var x uint64
	for i := range len(what) {
		x = mix(x ^ uint64(what[i]))
	}
	return purpose(x)
}

var (
	forUptime  = newPurpose("uptime")
	forLatency = newPurpose("latency")
	forGarbage = newPurpose("garbage")
	forTilt    = newPurpose("tilt")
	forHeading = newPurpose("heading")
	forDay     = newPurpose("day")
	forBattery = newPurpose("battery")
	forPhase   = newPurpose("phase")
)

// Seconds of a day, and of a quarter of an hour: a bit more, lest they be in step.
const (
	aDay     = 86_400
	aQuarter = 1_020
)

// bits for a purpose.
func (c chance) bits(p purpose, n uint64) uint64 { return mix(mix(uint64(c)^uint64(p)) ^ n) }

// unit is a number in [0, 1).
func (c chance) unit(p purpose, n uint64) float64 { return float64(c.bits(p, n)>>11) / (1 << 53) }

// sign is a number in [-1, 1).
func (c chance) sign(p purpose, n uint64) float64 { return 2*c.unit(p, n) - 1 }

// mix is the finaliser of SplitMix64.
func mix(x uint64) uint64 {
	x += 0x9E3779B97F4A7C15
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}

// nature of what is measured where the board is: a mean that swings by the day and
// by the quarter of an hour (somebody opens a window), and how far a part's single
// reading is off by noise. Noise is wider than the step of the frame's integers, so
// that a part that is well does not send one value for long.
type nature struct{ mean, day, quarter, noise float64 }

var natures = map[string]nature{
	"Temperature":   {22, 2.5, 0.8, 0.2},
	"Humidity":      {46, -7, 2, 0.4}, // warm air is drier
	"Pressure":      {1013.25, 5, 0.2, 0.1},
	"Acceleration":  {0, 0, 0, 4}, // and gravity
	"AngularRate":   {0, 0, 0, 0.3},
	"MagneticField": {0, 0, 0, 6}, // and the earth's
	"SoundLevel":    {41.5, 0, 0.4, 2},
}

const (
	gravity    = 1000 // mg
	maxTilt    = 5    // degrees; boards lie about
	earthField = 480  // mGauss
	inclined   = 60   // degrees, downwards, as in the middle of Europe
	// Of a part's accuracy so much is drift that comes and goes within hours; what
	// noise leaves of the rest is a bias of its own.
	driftShare = 0.2
	driftSteps = time.Hour
)

// gauge is one value that a part measures.
type gauge struct {
	quantity, part string
	vector         vector
	axis           int // of the vector
	nature
	bias, drift                           float64 // at most
	forBias, forNoise, forDrift, forSwing purpose
}

// vector at rest that a gauge shows an axis of.
type vector int

const (
	none vector = iota
	gravitation
	magnetic
)

var vectors = map[string]vector{"Acceleration": gravitation, "MagneticField": magnetic}

func newGauge(part string, f bluest.Feed) gauge {
	n, accuracy := natures[f.SensorType], datasheets[part].accuracy[f.SensorType]
	what := part + " " + f.Quantity
	return gauge{
		quantity: f.Quantity, part: part, vector: vectors[f.SensorType], axis: strings.IndexByte("XYZ", f.Quantity[len(f.Quantity)-1]),
		nature: n, drift: driftShare * accuracy, bias: (1-driftShare)*accuracy - n.noise,
		forBias: newPurpose(what + " bias"), forNoise: newPurpose(what + " noise"), forDrift: newPurpose(what + " drift"),
		forSwing: newPurpose("quarter " + f.SensorType),
	}
}

// place is how a board lies: what its vectors are at rest.
type place struct{ gravity, field [3]float64 }

func newPlace(c chance) place {
	sin, cos := math.Sincos(math.Pi / 180 * maxTilt * c.unit(forTilt, 0))
	s, k := math.Sincos(2 * math.Pi * c.unit(forTilt, 1))
	up := [3]float64{gravity * sin * k, gravity * sin * s, gravity * cos}
	sin, cos = math.Sincos(math.Pi / 180 * inclined)
	s, k = math.Sincos(2 * math.Pi * c.unit(forHeading, 0))
	return place{gravity: up, field: [3]float64{earthField * cos * k, earthField * cos * s, -earthField * sin}}
}

// measure puts what the sensors of a channel show at a time into values, and returns
// those that it has. b.mu is held.
func (b *Board) measure(ch int, at time.Duration, values *[maxValues]float64) []float64 {
	gauges := b.variety.channels[ch].gauges
	out := values[:len(gauges)]
	if ch == battery {
		b.charge(at, out)
	} else {
		nanos := b.origin + int64(at)
		seconds := float64(nanos) / float64(time.Second)
		day := swing(seconds/aDay + b.chance.unit(forDay, 0))
		for i := range gauges {
			out[i] = b.reading(&gauges[i], nanos, seconds, day)
		}
	}
	if b.replay != nil {
		b.replay.apply(ch, at, out)
	}
	if len(b.faults) > 0 {
		b.distort(ch, at, out)
	}
	return out
}

func swing(turns float64) float64 { return math.Sin(2 * math.Pi * (turns - math.Floor(turns))) }

// reading is what a part makes of the truth: off by a bias of its own, by drift and
// by noise, together within the accuracy of its datasheet.
func (b *Board) reading(g *gauge, nanos int64, seconds, day float64) float64 {
	v := g.mean + g.day*day
	if g.quarter != 0 {
		v += g.quarter * swing(seconds/aQuarter+b.chance.unit(g.forSwing, 0))
	}
	switch g.vector {
	case gravitation:
		v += b.place.gravity[g.axis]
	case magnetic:
		v += b.place.field[g.axis]
	}
	step := uint64(nanos / int64(driftSteps))
	within := float64(nanos%int64(driftSteps)) / float64(driftSteps)
	drift := (1-within)*b.chance.sign(g.forDrift, step) + within*b.chance.sign(g.forDrift, step+1)
	return v + g.bias*b.chance.sign(g.forBias, 0) + g.drift*drift + g.noise*b.chance.sign(g.forNoise, uint64(nanos))
}

// The battery goes from full to spare, then it is charged.
const (
	toEmpty  = 20 * time.Hour // from full, at the same pace
	charging = 2 * time.Hour
	spare    = 20.0 // percent
	empty    = 3300 // mV
	perCent  = 9    // mV
	drawn    = -24  // mA
	fed      = 192  // mA
)

// Codes of the battery's status.
const (
	statusLow         = 0
	statusDischarging = 1
	statusCharging    = 3
)

// charge of the battery: level, voltage, current and status.
func (b *Board) charge(at time.Duration, out []float64) {
	const discharging = time.Duration((100 - spare) / 100 * float64(toEmpty))
	level, current, status := 0.0, drawn, statusDischarging
	if in := at % (discharging + charging); in < discharging {
		level = 100 - 100*float64(in)/float64(toEmpty)
	} else {
		level = spare + (100-spare)*float64(in-discharging)/float64(charging)
		current, status = fed, statusCharging
	}
	if b.suffers(topology.FaultBatteryLow, at) {
		level, current, status = 5, drawn, statusLow
	}
	nanos := uint64(b.origin + int64(at))
	out[0] = level
	out[1] = empty + perCent*level + 3*b.chance.sign(forBattery, nanos)
	out[2] = math.NaN()
	if b.unit == bluest.STWINBox.TSUnit() { // SensorDemo does not know
		out[2] = float64(current) + b.chance.sign(forBattery, ^nanos)
	}
	out[3] = float64(status)
}
