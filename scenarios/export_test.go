package scenarios

// For tests that make an Env without a testbed.
var (
	SensorsOf = sensorsOf
	Disjoint  = func(e *Env) (s1, s2, s3 []Sensor) {
		s := disjoint(e.Topology, e.Sensors)
		return s.s1, s.s2, s.s3
	}
	Filtered = Sensor.filtered
	Name     = Sensor.name
)
