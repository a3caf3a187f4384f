package dmi

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	kubeedge "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	api "github.com/fluidos-edge/testbed/controllers/api/dmi/v1beta1"
)

const (
	// perSecond and burst keep below the 1 and 100 that KubeEdge's edge runtime serves.
	perSecond = 0.9
	burst     = 50
	// again is how often a state is reported anew.
	again = time.Minute
	// maxUnknown bounds the Devices that were reported and that the edge runtime does
	// not have; past it the one that was reported least recently is forgotten.
	maxUnknown = 1024
)

// What KubeEdge's edge runtime takes as the name and as the value of a twin.
var (
	validProperty = regexp.MustCompile(`^[a-zA-Z0-9\-_.,:/@#]{1,128}$`)
	validValue    = regexp.MustCompile(`^[a-zA-Z0-9\-_.,:/@#]{0,512}$`)
)

type key struct{ namespace, name string }

// entry is one Device. It is known if the edge runtime has it; what is reported
// of one that is not waits for that.
type entry struct {
	known  bool
	device Device
	model  string

	// What was last reported, and when: larger is later.
	twins map[string]Twin
	state string
	last  uint64

	// What waits to be sent, and since when: smaller has waited longer. 0 is not
	// waiting.
	waiting      map[string]Twin
	waitingSince uint64
	stateSince   uint64
	urgent       bool      // the state is another one than was sent
	stateSent    time.Time // when it was last sent
}

// event is one call of Changed or Removed.
type event struct {
	changed *Device
	removed key
}

// devices is what is known of Devices and models, and what waits to be sent and
// told of them. It does no input or output, and is told the time.
type devices struct {
	mu      sync.Mutex
	entries map[key]*entry
	models  map[key]map[string]string // type by property
	events  []event
	// touched has the Devices that the edge runtime told of since a registration
	// began: that is newer than what the registration answers.
	touched map[key]bool
	limiter *rate.Limiter
	counter uint64
}

func newDevices() *devices {
	return &devices{
		entries: make(map[key]*entry),
		models:  make(map[key]map[string]string),
		touched: make(map[key]bool),
		limiter: rate.NewLimiter(perSecond, burst),
	}
}

// put takes a Device that the edge runtime tells of.
func (d *devices) put(device Device, model string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := key{device.Namespace, device.Name}
	d.touched[k] = true
	d.set(k, device, model)
}

func (d *devices) set(k key, device Device, model string) {
	e := d.entry(k)
	e.model = model
	if e.known && reflect.DeepEqual(e.device, device) {
		return
	}
	e.known, e.device = true, device
	told := device
	told.Config, told.Properties = maps.Clone(device.Config), maps.Clone(device.Properties)
	d.events = append(d.events, event{changed: &told})
}

// remove takes it that the edge runtime no longer has a Device. What was reported
// is kept for when it is back.
func (d *devices) remove(k key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.touched[k] = true
	d.forget(k)
}

func (d *devices) forget(k key) {
	if e := d.entries[k]; e != nil && e.known {
		e.known, e.stateSent = false, time.Time{}
		d.events = append(d.events, event{removed: k})
		if len(e.twins) == 0 && e.state == "" {
			delete(d.entries, k)
		}
	}
}

func (d *devices) putModel(m *api.DeviceModel) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.setModel(m)
}

func (d *devices) setModel(m *api.DeviceModel) {
	types := make(map[string]string)
	for _, p := range m.GetSpec().GetProperties() {
		types[p.GetName()] = strings.ToLower(p.GetType())
	}
	d.models[key{m.GetNamespace(), m.GetName()}] = types
}

func (d *devices) removeModel(k key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.models, k)
}

// registering begins a registration, which ends with registered or fails.
func (d *devices) registering() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.touched)
}

// registered takes all Devices and models that there are, and gives how many
// Devices that is. Those that the edge runtime told of meanwhile stay as it told.
// On a new connection every state is sent again.
func (d *devices) registered(all []Device, models []string, described []*api.DeviceModel, anew bool) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range described {
		d.setModel(m)
	}
	there := make(map[key]bool)
	for i, device := range all {
		k := key{device.Namespace, device.Name}
		there[k] = true
		if !d.touched[k] {
			d.set(k, device, models[i])
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(d.entries), compare) {
		if !there[k] && !d.touched[k] {
			d.forget(k)
		}
	}
	n := 0
	for _, e := range d.entries {
		if e.known {
			n++
		}
		if anew {
			e.stateSent = time.Time{}
		}
	}
	return n
}

func compare(a, b key) int {
	return strings.Compare(a.namespace+"/"+a.name, b.namespace+"/"+b.name)
}

// takeEvents gives what is to be told, once.
func (d *devices) takeEvents() []event {
	d.mu.Lock()
	defer d.mu.Unlock()
	events := d.events
	d.events = nil
	return events
}

// entry of a Device, made if there is none.
func (d *devices) entry(k key) *entry {
	e := d.entries[k]
	if e == nil {
		e = &entry{twins: make(map[string]Twin), waiting: make(map[string]Twin)}
		d.entries[k] = e
	}
	return e
}

// reported is the entry of a Device that the mapper reports now.
func (d *devices) reported(k key) (*entry, error) {
	if k.namespace == "" || k.name == "" {
		return nil, errors.New("want a namespace and a name")
	}
	if d.entries[k] == nil {
		unknown := 0
		var least key
		for k, e := range d.entries {
			if e.known {
				continue
			}
			if unknown == 0 || e.last < d.entries[least].last {
				least = k
			}
			unknown++
		}
		if unknown >= maxUnknown {
			delete(d.entries, least)
		}
	}
	e := d.entry(k)
	d.counter++
	e.last = d.counter
	return e, nil
}

func (d *devices) since(v *uint64) {
	if *v == 0 {
		d.counter++
		*v = d.counter
	}
}

// report has properties wait to be sent.
func (d *devices) report(k key, twins []Twin, now time.Time) error {
	for _, t := range twins {
		if !validProperty.MatchString(t.Property) {
			return fmt.Errorf("property %q: want 1 to 128 letters, digits and -_.,:/@#", t.Property)
		}
		for _, v := range []string{t.Reported, t.Desired} {
			if !validValue.MatchString(v) {
				return fmt.Errorf("property %s: value %q: want at most 512 letters, digits and -_.,:/@#", t.Property, v)
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	e, err := d.reported(k)
	if err != nil {
		return err
	}
	for _, t := range twins {
		if t.At.IsZero() {
			t.At = now
		}
		e.twins[t.Property] = t
		e.waiting[t.Property] = t
		d.since(&e.waitingSince)
	}
	return nil
}

// setState has a state wait to be sent.
func (d *devices) setState(k key, state string) error {
	switch state {
	case kubeedge.StateOnline, kubeedge.StateUnhealthy, kubeedge.StateOffline:
	default:
		return fmt.Errorf("%q: want %s, %s or %s", state, kubeedge.StateOnline, kubeedge.StateUnhealthy, kubeedge.StateOffline)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	e, err := d.reported(k)
	if err != nil {
		return err
	}
	e.urgent = e.urgent || e.state != state
	e.state = state
	d.since(&e.stateSince)
	return nil
}

// report is one call of the edge runtime: of properties, or of the state.
type report struct {
	of    key
	twins map[string]Twin
	state string
}

// next is the report that is to be sent now, which no longer waits then; or nil
// and how long until there may be one, if nobody reports anything meanwhile.
// States that have changed go first, then what has waited longest. Every report
// takes one of the limiter's tokens.
func (d *devices) next(now time.Time) (*report, time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var first *entry
	var next report
	var urgent bool
	var oldest uint64
	rest := again
	consider := func(e *entry, r report, u bool, since uint64) {
		if first == nil || u && !urgent || u == urgent && since < oldest {
			first, next, urgent, oldest = e, r, u, since
		}
	}
	for k, e := range d.entries {
		if !e.known {
			continue
		}
		if e.waitingSince != 0 {
			// The Device may have changed since.
			maps.DeleteFunc(e.waiting, func(property string, _ Twin) bool { return !e.device.Properties[property].ToCloud })
			if len(e.waiting) == 0 {
				e.waitingSince = 0
			} else {
				consider(e, report{of: k, twins: e.waiting}, false, e.waitingSince)
			}
		}
		if e.state == "" {
			continue
		}
		if due := again - now.Sub(e.stateSent); e.stateSince == 0 && due > 0 {
			rest = min(rest, due)
			continue
		}
		d.since(&e.stateSince)
		consider(e, report{of: k, state: e.state}, e.urgent, e.stateSince)
	}
	if first == nil {
		return nil, rest
	}
	if wait := d.token(now); wait > 0 {
		return nil, wait
	}
	if next.state != "" {
		first.stateSince, first.urgent, first.stateSent = 0, false, now
	} else {
		first.waiting, first.waitingSince = make(map[string]Twin), 0
	}
	return &next, 0
}

// reserve takes one of the limiter's tokens, or says how long there is none.
func (d *devices) reserve(now time.Time) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.token(now)
}

func (d *devices) token(now time.Time) time.Duration {
	r := d.limiter.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// back has a report that was not taken wait again, unless its Device is gone or
// something newer waits.
func (d *devices) back(r *report) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.entries[r.of]
	if e == nil {
		return
	}
	if r.state != "" && e.stateSince == 0 {
		e.urgent = true
		d.since(&e.stateSince)
	}
	for property, t := range r.twins {
		if _, newer := e.waiting[property]; !newer {
			e.waiting[property] = t
			d.since(&e.waitingSince)
		}
	}
}

// wire is these twins of a Device as the edge runtime takes them, by name.
func (d *devices) wire(k key, twins map[string]Twin) []*api.Twin {
	d.mu.Lock()
	defer d.mu.Unlock()
	var model string
	if e := d.entries[k]; e != nil {
		model = e.model
	}
	types := d.models[key{k.namespace, model}]
	out := make([]*api.Twin, 0, len(twins))
	for _, property := range slices.Sorted(maps.Keys(twins)) {
		t := twins[property]
		kind := t.Type
		if kind == "" {
			kind = types[property]
		}
		if kind == "" {
			kind = "string"
		}
		value := func(v string) *api.TwinProperty {
			return &api.TwinProperty{Value: v, Metadata: map[string]string{
				"timestamp": strconv.FormatInt(t.At.UnixMilli(), 10),
				"type":      kind,
			}}
		}
		out = append(out, &api.Twin{PropertyName: property, ObservedDesired: value(t.Desired), Reported: value(t.Reported)})
	}
	return out
}

// lastTwins that the mapper reported of a Device, whether they were sent or not;
// false if the edge runtime has no such Device.
func (d *devices) lastTwins(k key) (map[string]Twin, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.entries[k]
	if e == nil || !e.known {
		return nil, false
	}
	return maps.Clone(e.twins), true
}
