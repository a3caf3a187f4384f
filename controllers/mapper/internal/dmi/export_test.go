package dmi

import (
	"time"

	api "github.com/fluidos-edge/testbed/controllers/api/dmi/v1beta1"
)

// What the tests, which are outside the package, see of its inside.

// Convert a Device of the edge runtime.
var Convert = convert

// MaxUnknown Devices are kept that only the mapper knows.
const MaxUnknown = maxUnknown

// Book is what is known of Devices, and what waits to be sent, on a clock of the
// caller.
type Book struct{ d *devices }

// NewBook knows nothing.
func NewBook() Book { return Book{newDevices()} }

// Put a Device as the edge runtime does.
func (b Book) Put(d Device, model string) { b.d.put(d, model) }

// PutModel as the edge runtime does.
func (b Book) PutModel(m *api.DeviceModel) { b.d.putModel(m) }

// Remove a Device as the edge runtime does.
func (b Book) Remove(namespace, name string) { b.d.remove(key{namespace, name}) }

// Register with this as the answer; meanwhile happens between question and
// answer.
func (b Book) Register(anew bool, meanwhile func(), all ...Device) {
	b.d.registering()
	meanwhile()
	b.d.registered(all, make([]string, len(all)), nil, anew)
}

// Told is what Changed and Removed were told since it was last asked: +NAME and
// -NAME.
func (b Book) Told() (told []string) {
	for _, e := range b.d.takeEvents() {
		if e.changed != nil {
			told = append(told, "+"+e.changed.Name)
		} else {
			told = append(told, "-"+e.removed.name)
		}
	}
	return told
}

// Report properties.
func (b Book) Report(name string, now time.Time, twins ...Twin) error {
	return b.d.report(key{"fluidos", name}, twins, now)
}

// State is reported.
func (b Book) State(name, state string) error { return b.d.setState(key{"fluidos", name}, state) }

// Report is one call of the edge runtime.
type Report struct {
	Name  string
	Twins []*api.Twin
	State string

	r *report
}

// Next report, or nil and how long to wait.
func (b Book) Next(now time.Time) (*Report, time.Duration) {
	r, wait := b.d.next(now)
	if r == nil {
		return nil, wait
	}
	out := &Report{Name: r.of.name, State: r.state, r: r}
	if r.state == "" {
		out.Twins = b.d.wire(r.of, r.twins)
	}
	return out, 0
}

// Back a report that was not taken.
func (b Book) Back(r *Report) { b.d.back(r.r) }

// Known is how many Devices are kept.
func (b Book) Known() int { return len(b.d.entries) }
