package topology

import (
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	minRate, maxRate = 0.1, 100
	maxLatency       = Duration(time.Minute)
	maxText          = 256
	maxGather        = Duration(10 * time.Second)
	// as in BLE
	minInterval, maxInterval = Duration(20 * time.Millisecond), Duration(10240 * time.Millisecond)
	maxLoss                  = 0.9
)

// Warnings name what is allowed but will not do what one may expect: an edge
// node whose boards can send more than its throttle lets through, so that
// samples are lost there.
func (t *Topology) Warnings() []string {
	var out []string
	for _, p := range t.Providers {
		for _, n := range p.EdgeNodes {
			load, boards := 0.0, 0
			for _, b := range p.Boards {
				if slices.Contains(b.Nodes, n.Name) {
					load += b.load(p.Gather)
					boards++
				}
			}
			if load > float64(p.MessageQPS) {
				out = append(out, fmt.Sprintf("%s/%s: %d boards can send %s messages/s through a throttle of %d: "+
					"samples are lost; raise messageQPS to %d, gather for longer, offer less, lower rates or spread the boards over more nodes",
					p.Name, n.Name, boards, strconv.FormatFloat(math.Round(load*100)/100, 'f', -1, 64), p.MessageQPS, int(math.Ceil(load))))
			}
		}
	}
	return out
}

// validator collects what is wrong. Names are unique over the whole testbed
// where a user names them without saying whose they are.
type validator struct {
	has  func(*field.Path) bool
	errs field.ErrorList
}

func (v *validator) want(p *field.Path, value any, want string, args ...any) {
	v.errs = append(v.errs, field.Invalid(p, value, fmt.Sprintf(want, args...)))
}

// once reports a value that another field has already.
func (v *validator) once(seen map[string]string, p *field.Path, value string) {
	if value == "" {
		return
	}
	if first, ok := seen[value]; ok {
		v.want(p, value, "another value: %s has this one", first)
		return
	}
	seen[value] = p.String()
}

func (v *validator) label(p *field.Path, value string) {
	if len(validation.IsDNS1123Label(value)) > 0 {
		v.want(p, value, `1 to 63 of a-z, 0-9 and "-", with a letter or digit first and last, such as "%s"`, example(value))
	}
}

// text is what goes into objects and tags as it is.
func (v *validator) text(p *field.Path, value string) {
	if len(value) > maxText || strings.ContainsFunc(value, func(r rune) bool { return !unicode.IsPrint(r) }) {
		v.want(p, value, "at most %d bytes of printable text in one line", maxText)
	}
}

func (v *validator) positive(p *field.Path, value int) {
	if value < 1 || value > 1_000_000 {
		v.want(p, value, "a whole number from 1 to 1000000")
	}
}

func (v *validator) number(p *field.Path, value string, low, high float64) {
	f, err := strconv.ParseFloat(value, 64)
	if err != nil || !(f >= low && f <= high) {
		if math.IsInf(high, 1) {
			v.want(p, value, "a decimal number of at least %g", low)
			return
		}
		v.want(p, value, "a decimal number from %g to %g", low, high)
	}
}

func (t *Topology) validate(has func(*field.Path) bool) field.ErrorList {
	v := &validator{has: has}
	if t.APIVersion != APIVersion {
		v.want(field.NewPath("apiVersion"), t.APIVersion, "%q", APIVersion)
	}
	if t.Kind != Kind {
		v.want(field.NewPath("kind"), t.Kind, "%q", Kind)
	}
	clusters := map[string]string{}
	consumers := field.NewPath("consumers")
	if len(t.Consumers) == 0 {
		v.want(consumers, nil, "at least one consumer; `- {}` is one with every default")
	}
	for i, c := range t.Consumers {
		at := consumers.Index(i)
		v.label(at.Child("name"), c.Name)
		v.once(clusters, at.Child("name"), c.Name)
		if c.Name == "fluidos" || c.Name == "default" || strings.HasPrefix(c.Name, "kube-") {
			v.want(at.Child("name"), c.Name, "a name that is no namespace of Kubernetes or the testbed: each provider has a namespace of this name")
		}
		v.endpoints(at.Child("endpoints"), c.Endpoints)
	}
	providers := field.NewPath("providers")
	if len(t.Providers) == 0 {
		v.want(providers, nil, "at least one provider; `- {}` is one with every default")
	}
	boards := seen{names: map[string]string{}, macs: map[string]string{}, ids: map[string]string{}}
	for i := range t.Providers {
		at := providers.Index(i)
		v.label(at.Child("name"), t.Providers[i].Name)
		v.once(clusters, at.Child("name"), t.Providers[i].Name)
		v.provider(at, &t.Providers[i], boards)
	}
	return v.errs
}

func (v *validator) endpoints(at *field.Path, endpoints []Endpoint) {
	if len(endpoints) == 0 {
		v.want(at, nil, "at least one endpoint, or no field endpoints for one named a")
	}
	names := map[string]string{}
	for i, e := range endpoints {
		at := at.Index(i).Child("name")
		v.label(at, e.Name)
		v.once(names, at, e.Name)
		if e.Name == WitnessEndpoint {
			v.want(at, e.Name, "another name: every sink has the endpoint %q by itself", WitnessEndpoint)
		}
	}
}

func (v *validator) provider(at *field.Path, p *Provider, boards seen) {
	if len(p.EdgeNodes) == 0 {
		v.want(at.Child("edgeNodes"), nil, "at least one edge node, or no field edgeNodes for edge-1 and edge-2")
	}
	nodes := map[string]string{}
	for i, n := range p.EdgeNodes {
		at := at.Child("edgeNodes").Index(i).Child("name")
		v.label(at, n.Name)
		v.once(nodes, at, n.Name)
	}
	v.positive(at.Child("messageQPS"), p.MessageQPS)
	v.positive(at.Child("messageBurst"), p.MessageBurst)
	v.air(at, p)
	price := at.Child("price")
	v.number(price.Child("amount"), p.Price.Amount, 0, math.Inf(1))
	v.text(price.Child("currency"), p.Price.Currency)
	v.text(price.Child("period"), p.Price.Period)
	loc := at.Child("location")
	if p.Location.Latitude != "" {
		v.number(loc.Child("latitude"), p.Location.Latitude, -90, 90)
	}
	if p.Location.Longitude != "" {
		v.number(loc.Child("longitude"), p.Location.Longitude, -180, 180)
	}
	v.text(loc.Child("country"), p.Location.Country)
	v.text(loc.Child("city"), p.Location.City)
	for i := range p.Boards {
		v.board(at.Child("boards").Index(i), &p.Boards[i], slices.Collect(maps.Keys(nodes)), boards)
	}
	for i := range p.Faults {
		v.scheduled(at.Child("faults").Index(i), &p.Faults[i], p.Boards)
	}
}

// air is what lies between the boards and the mappers of a provider, and in the
// mappers.
func (v *validator) air(at *field.Path, p *Provider) {
	if p.Gather < 0 || p.Gather > maxGather {
		v.want(at.Child("gather"), time.Duration(p.Gather), "0s to %s", time.Duration(maxGather))
	}
	allow := at.Child("allow")
	if p.Allow != nil && len(p.Allow) == 0 {
		v.want(allow, nil, "at least one address or model, or no field allow for all boards")
	}
	seen := map[string]string{}
	for i, a := range p.Allow {
		v.once(seen, allow.Index(i), a)
		if !allowed.MatchString(a) && !slices.Contains(models, a) {
			v.want(allow.Index(i), a, `an address ("c0:83:2a:10:20:30"), the beginning of one ("c0:83:2a:*") or a model (%s)%s`,
				strings.Join(models, ", "), nearest(a, models))
		}
	}
	radio := at.Child("radio")
	if i := p.Radio.Interval; i < minInterval || i > maxInterval {
		v.want(radio.Child("interval"), time.Duration(i), "%s to %s", time.Duration(minInterval), time.Duration(maxInterval))
	}
	if !(p.Radio.Loss >= 0 && p.Radio.Loss <= maxLoss) {
		v.want(radio.Child("loss"), p.Radio.Loss, "0 to %g, the share that is lost", maxLoss)
	}
}

// allowed are an address and the beginning of one.
var allowed = regexp.MustCompile(`^([0-9a-f]{2}:){5}[0-9a-f]{2}$|^([0-9a-f]{2}:){0,5}\*$`)

// seen is what is unique over the boards of a testbed.
type seen struct{ names, macs, ids map[string]string }

func (v *validator) board(at *field.Path, b *Board, nodes []string, boards seen) {
	known := partsOf(b.Model)
	ok := known != nil
	if !ok {
		v.want(at.Child("model"), b.Model, "%s%s", strings.Join(models, " or "), nearest(b.Model, models))
	}
	if ok || v.has(at.Child("name")) { // the default name follows from the model
		v.label(at.Child("name"), b.Name)
	}
	v.once(boards.names, at.Child("name"), b.Name)
	if mac, err := net.ParseMAC(b.MAC); err != nil || len(mac) != 6 || mac.String() != b.MAC {
		v.want(at.Child("mac"), b.MAC, `six bytes in hex with colons, such as "c0:83:2a:10:20:30"`)
	}
	v.once(boards.macs, at.Child("mac"), b.MAC)
	if id, err := hex.DecodeString(b.ID); err != nil || len(id) != 12 {
		v.want(at.Child("id"), b.ID, "96 bits: 24 hex digits")
	}
	v.once(boards.ids, at.Child("id"), b.ID)
	v.nodes(at.Child("nodes"), b.Nodes, nodes)
	if !(b.Rate >= minRate && b.Rate <= maxRate) {
		v.want(at.Child("rate"), b.Rate, "%g to %d Hz", minRate, maxRate)
	}
	latency := at.Child("latency")
	if m := b.Latency.Median; m < 0 || m > maxLatency {
		v.want(latency.Child("median"), time.Duration(m), "0s to %s", time.Duration(maxLatency))
	} else if j := b.Latency.Jitter; j < 0 || j > m {
		v.want(latency.Child("jitter"), time.Duration(j), "0s to the median, %s: a reading cannot arrive before it was taken", time.Duration(m))
	}
	offers := at.Child("offers")
	if b.Offers != nil && len(b.Offers) == 0 {
		v.want(offers, nil, "at least one part, or no field offers for the environmental ones")
	}
	offered := map[string]string{}
	for i, name := range b.Offers {
		v.once(offered, offers.Index(i), name)
		if ok && !slices.Contains(known, name) {
			v.want(offers.Index(i), name, "a part of %s: %s%s", b.Model, strings.Join(known, ", "), nearest(name, known))
		}
	}
	if replay := at.Child("replay"); b.Replay == "" && v.has(replay) {
		v.want(replay, b.Replay, "the path of a CSV file, or no field replay")
	}
	for _, name := range sortedKeys(b.Parts) {
		at := at.Child("parts").Key(name)
		if ok && !slices.Contains(b.Offers, name) {
			v.want(at, name, "a part that the board offers: %s%s", strings.Join(b.Offers, ", "), nearest(name, b.Offers))
		}
		declared := b.Parts[name]
		v.declared(at.Child("latency"), declared.Latency)
		v.declared(at.Child("latencyUnit"), declared.LatencyUnit)
		v.declared(at.Child("manufacturer"), declared.Manufacturer)
		v.declared(at.Child("market"), declared.Market)
	}
}

func (v *validator) declared(at *field.Path, value *string) {
	if value != nil {
		v.text(at, *value)
	}
}

func (v *validator) nodes(at *field.Path, hear, nodes []string) {
	slices.Sort(nodes)
	if len(hear) == 0 && len(nodes) > 0 {
		v.want(at, nil, "at least one of the provider's edge nodes, or no field nodes for one in turn")
	}
	names := map[string]string{}
	for i, n := range hear {
		v.once(names, at.Index(i), n)
		if !slices.Contains(nodes, n) {
			v.want(at.Index(i), n, "one of the provider's edge nodes: %s%s", strings.Join(nodes, ", "), nearest(n, nodes))
		}
	}
}

// example turns a name into one that is a label, as far as that is possible.
func example(name string) string {
	s := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, name)
	s = strings.Trim(s[:min(len(s), validation.DNS1123LabelMaxLength)], "-")
	if s == "" {
		return "lab-1"
	}
	return s
}

// nearest is a hint for a word that is one or two letters off, or empty.
func nearest(word string, known []string) string {
	best, found := 3, ""
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d < best && d < len(k) {
			best, found = d, k
		}
	}
	if found == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", found)
}

// distance is the number of letters to insert, delete or replace.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
