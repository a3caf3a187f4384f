package topology

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	defaultSeed         = 1
	defaultRate         = 2
	defaultMedian       = Duration(5 * time.Millisecond)
	defaultMessageQPS   = 30
	defaultMessageBurst = 60
	defaultInterval     = Duration(time.Second)
	defaultSlope        = 1
	// A fault begins between these by default.
	defaultAtFirst = Duration(30 * time.Second)
	defaultAtLast  = Duration(5 * time.Minute)
)

// Default is the default testbed: two consumers, of which the first has two
// endpoints, and one provider with two edge nodes, three STWINKT1B and three
// STWINBX1. The humidity sensors declare 12, 16 and 20 ms.
func Default() *Topology { return Custom(2, 1) }

// Custom is a testbed of so many consumers and providers, each like those of the
// default testbed: consumer-1 has two endpoints, every other one. A count below
// one leaves a topology that is not valid.
func Custom(consumers, providers int) *Topology {
	t := &Topology{APIVersion: APIVersion, Kind: Kind}
	for i := range consumers {
		c := Consumer{Endpoints: []Endpoint{{Name: "a"}}}
		if i == 0 {
			c.Endpoints = append(c.Endpoints, Endpoint{Name: "b"})
		}
		t.Consumers = append(t.Consumers, c)
	}
	t.Providers = make([]Provider, max(providers, 0))
	t.setDefaults(func(*field.Path) bool { return false })
	return t
}

// defaultBoards are those of a provider that lists none. They notify a little
// faster than by default, so that a run of the scenarios has its samples sooner: the
// 8 sensors of a node make 24 of the 30 messages a second that KubeEdge lets through.
func defaultBoards() []Board {
	const rate = 3
	var boards []Board
	for _, ms := range []string{"12", "16", "20"} {
		unit := "ms"
		boards = append(boards, Board{Model: STWINKT1B, Rate: rate,
			Parts: map[string]Declared{"hts221": {Latency: &ms, LatencyUnit: &unit}}})
	}
	bx1 := Board{Model: STWINBX1, Rate: rate}
	return append(boards, bx1, bx1, bx1)
}

// setDefaults fills in what the file leaves open. has tells what it does give:
// an explicit 0 or empty list stays, for validate to judge.
func (t *Topology) setDefaults(has func(*field.Path) bool) {
	if t.Seed == 0 && !has(field.NewPath("seed")) {
		t.Seed = defaultSeed
	}
	for i := range t.Consumers {
		at, c := field.NewPath("consumers").Index(i), &t.Consumers[i]
		setText(&c.Name, fmt.Sprintf("consumer-%d", i+1), has(at.Child("name")))
		if c.Endpoints == nil && !has(at.Child("endpoints")) {
			c.Endpoints = []Endpoint{{Name: "a"}}
		}
	}
	count := map[string]int{}
	for i := range t.Providers {
		t.Providers[i].setDefaults(field.NewPath("providers").Index(i), i, t.Seed, count, has)
	}
}

func (p *Provider) setDefaults(at *field.Path, i int, seed uint64, count map[string]int, has func(*field.Path) bool) {
	setText(&p.Name, fmt.Sprintf("provider-%d", i+1), has(at.Child("name")))
	if p.EdgeNodes == nil && !has(at.Child("edgeNodes")) {
		p.EdgeNodes = make([]EdgeNode, 2)
	}
	for j := range p.EdgeNodes {
		setText(&p.EdgeNodes[j].Name, fmt.Sprintf("edge-%d", j+1), has(at.Child("edgeNodes").Index(j).Child("name")))
	}
	if p.MessageQPS == 0 && !has(at.Child("messageQPS")) {
		p.MessageQPS = defaultMessageQPS
	}
	if p.MessageBurst == 0 && !has(at.Child("messageBurst")) {
		p.MessageBurst = defaultMessageBurst
	}
	if p.Radio.Interval == 0 && !has(at.Child("radio", "interval")) {
		p.Radio.Interval = defaultInterval
	}
	for j, a := range p.Allow {
		mac, err := net.ParseMAC(a)
		switch model := strings.ToUpper(a); {
		case slices.Contains(models, model):
			p.Allow[j] = model
		case err == nil:
			p.Allow[j] = mac.String()
		default:
			p.Allow[j] = strings.ToLower(a)
		}
	}
	for j := range p.Faults {
		f, at := &p.Faults[j], at.Child("faults").Index(j)
		if f.Kind == FaultDrift && f.Slope == 0 && !has(at.Child("slope")) {
			f.Slope = defaultSlope
		}
		if f.At == 0 && !has(at.Child("at")) {
			f.At = drawAt(seed, p.Name, j)
		}
	}
	if len(p.Faults) == 0 {
		p.Faults = nil
	}
	price := at.Child("price")
	setText(&p.Price.Amount, "0", has(price.Child("amount")))
	setText(&p.Price.Currency, "EUR", has(price.Child("currency")))
	setText(&p.Price.Period, "hourly", has(price.Child("period")))
	if p.Boards == nil && !has(at.Child("boards")) {
		p.Boards = defaultBoards()
	}
	nodes := make([]string, len(p.EdgeNodes))
	for j, n := range p.EdgeNodes {
		nodes[j] = n.Name
	}
	for j := range p.Boards {
		b, at := &p.Boards[j], at.Child("boards").Index(j)
		count[b.Model]++
		var node []string
		if len(nodes) > 0 {
			node = []string{nodes[j%len(nodes)]}
		}
		b.setDefaults(seed, count[b.Model], node, func(name ...string) bool { return has(at.Child(name[0], name[1:]...)) })
	}
}

// SetDefaults fills in what a board that joins a running testbed leaves open, as
// Load does for one in a file: n counts its model's boards, nodes hear it by
// default. It does not judge what the board gives.
func (b *Board) SetDefaults(seed uint64, n int, nodes ...string) {
	b.setDefaults(seed, n, nodes, func(...string) bool { return false })
}

func (b *Board) setDefaults(seed uint64, n int, nodes []string, has func(name ...string) bool) {
	setText(&b.Name, fmt.Sprintf("%s-%d", strings.ToLower(b.Model), n), has("name"))
	setText(&b.MAC, drawMAC(seed, b.Name), has("mac"))
	setText(&b.ID, drawID(seed, b.Name), has("id"))
	if mac, err := net.ParseMAC(b.MAC); err == nil {
		b.MAC = mac.String()
	}
	b.ID = strings.ToLower(b.ID)
	if b.Nodes == nil && !has("nodes") {
		b.Nodes = nodes
	}
	if b.Rate == 0 && !has("rate") {
		b.Rate = defaultRate
	}
	if b.Latency.Median == 0 && !has("latency", "median") {
		b.Latency.Median = defaultMedian
	}
	if b.Latency.Jitter == 0 && !has("latency", "jitter") {
		b.Latency.Jitter = b.Latency.Median / 5
	}
	if b.Offers == nil && !has("offers") {
		b.Offers = defaultOffers(b.Model)
	}
	if len(b.Parts) == 0 {
		b.Parts = nil
	}
}

func setText(s *string, value string, given bool) {
	if *s == "" && !given {
		*s = value
	}
}

// drawMAC draws a random static BLE address (the two highest bits set).
func drawMAC(seed uint64, name string) string {
	sum := draw("mac", seed, name)
	return net.HardwareAddr(append([]byte{0xc0}, sum[:5]...)).String()
}

// drawID draws a 96-bit id.
func drawID(seed uint64, name string) string {
	sum := draw("id", seed, name)
	return hex.EncodeToString(sum[:12])
}

// drawAt draws when a fault begins, to the second.
func drawAt(seed uint64, provider string, i int) Duration {
	sum := draw("fault", seed, fmt.Sprintf("%s\x00%d", provider, i))
	seconds := uint64((defaultAtLast-defaultAtFirst)/Duration(time.Second)) + 1
	return defaultAtFirst + Duration(binary.BigEndian.Uint64(sum[:])%seconds)*Duration(time.Second)
}

func draw(what string, seed uint64, name string) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%s", what, seed, name))
}
