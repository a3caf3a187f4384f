package mapper

import (
	"regexp"
	"strings"
	"time"

	"github.com/fluidos-edge/testbed/controllers/mapper/internal/dmi"
)

// What a Device that does not say otherwise gets.
const (
	defaultCollect = collectCycle * time.Millisecond
	defaultReport  = reportCycle * time.Millisecond
)

// shadow is what is reported of one board's properties: which values are taken from
// its stream, and when they are due. It is told the time and does no I/O. Values
// stay numbers until they are reported.
type shadow struct {
	// device as the edge runtime gave it to this mapper, nil if it did not: then
	// nothing is reported.
	device   *dmi.Device
	since    time.Time // of the device; reports keep to its beat
	readings map[string]*reading
}

// reading is the value of one property that was collected last.
type reading struct {
	value   float64
	at      time.Time
	fresh   bool      // not reported yet
	collect time.Time // no other value before
	due     time.Time // not reported before
}

// take a Device. The first time everything known is due at once, later what
// something else is desired of; other cycles hold from a property's next value on.
func (s *shadow) take(d dmi.Device, now time.Time) {
	before := s.device
	if before == nil {
		s.since = now
	}
	s.device = &d
	for name, r := range s.readings {
		if before == nil || before.Properties[name].Desired != d.Properties[name].Desired {
			r.due, r.fresh = now, true
		}
	}
}

// drop the Device: nothing is reported of it any more.
func (s *shadow) drop() { s.device = nil }

// desired value of a property, if somebody wishes one.
func (s *shadow) desired(property string) (string, bool) {
	if s.device == nil {
		return "", false
	}
	p := s.device.Properties[property]
	return p.Desired, p.HasDesired
}

func (s *shadow) cycles(property string) (collect, report time.Duration) {
	collect, report = defaultCollect, defaultReport
	if s.device == nil {
		return collect, report
	}
	p := s.device.Properties[property]
	if p.Collect > 0 {
		collect = p.Collect
	}
	if p.Report > 0 {
		report = p.Report
	}
	return collect, report
}

// collect a value of a property, unless one was within its collect cycle. It
// reports whether it is the property's first, which is due at once.
func (s *shadow) collect(property string, value float64, now time.Time) (first bool) {
	r := s.readings[property]
	if r == nil {
		r = &reading{due: now}
		if s.readings == nil {
			s.readings = map[string]*reading{}
		}
		s.readings[property] = r
		first = true
	}
	if now.Before(r.collect) {
		return false
	}
	collect, _ := s.cycles(property)
	r.value, r.at, r.fresh, r.collect = value, now, true, now.Add(collect)
	return first
}

// hurry makes everything that was collected since its last report due at once.
func (s *shadow) hurry(now time.Time) {
	for _, r := range s.readings {
		if r.due.After(now) {
			r.due = now
		}
	}
}

// state is a property that changes by itself and not with a frame: it is collected
// and due at once.
func (s *shadow) state(property string, value float64, now time.Time) {
	if r := s.readings[property]; r != nil && r.value != value {
		r.collect, r.due = now, now
	}
	s.collect(property, value, now)
}

// next is when a report is due, the zero time if none is. A property of which
// nothing new was collected has none.
func (s *shadow) next() (at time.Time) {
	if s.device == nil {
		return at
	}
	for name, r := range s.readings {
		if s.wanted(name) && r.fresh && (at.IsZero() || r.due.Before(at)) {
			at = r.due
		}
	}
	return at
}

// wanted reports whether the Device has the property and wants it in the cloud.
func (s *shadow) wanted(property string) bool { return s.device.Properties[property].ToCloud }

// twins that are due. They are due again at the next beat of their report cycle.
func (s *shadow) twins(now time.Time) (due []dmi.Twin) {
	if s.device == nil {
		return nil
	}
	for name, r := range s.readings {
		if !s.wanted(name) || !r.fresh || r.due.After(now) {
			continue
		}
		desired, _ := s.desired(name)
		due = append(due, dmi.Twin{Property: name, Reported: number(r.value), Desired: plain(desired), At: r.at, Type: "float"})
		_, report := s.cycles(name)
		r.fresh, r.due = false, s.since.Add((now.Sub(s.since)/report+1)*report)
	}
	return due
}

// strange is what the edge runtime does not take in a value.
var strange = regexp.MustCompile(`[^a-zA-Z0-9\-_.,:/@#]`)

// plain is a wish as the edge runtime takes it back.
func plain(wish string) string {
	const longest = 512
	wish = strange.ReplaceAllString(strings.TrimSpace(wish), "_")
	return wish[:min(len(wish), longest)]
}
