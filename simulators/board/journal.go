package board

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/influxdata/line-protocol/v2/lineprotocol"

	"github.com/fluidos-edge/testbed/simulators/bluest"
)

// Kinds of the journal's events.
const (
	EventStarted      = "started"      // the process; detail: how many boards it has
	EventAdded        = "added"        // a board was put on the air after the start; detail: model and nodes
	EventRemoved      = "removed"      // a board was taken off the air
	EventConnected    = "connected"    // detail: the node
	EventDisconnected = "disconnected" // detail: why, then how many frames under way were lost
	EventFault        = "fault"        // detail: the kind, then part=, of=, slope= and for= where they apply
	EventCleared      = "cleared"      // detail: as of the fault, then ": cleared", ": expired" or ": replaced"
	EventChanged      = "changed"      // detail: the Patch as JSON, or what was set "over the air: "
)

// eventMeasurement is the measurement of events.
const eventMeasurement = "event"

// Journal collects what boards measured and what happened to them, as line protocol,
// until it is taken to a file. It does no I/O and never waits.
//
// A reading is a line for each part on offer of each emission:
//
//	environmental,board=kt,device=stwinkt1b-c0832a001122,node=edge-1,part=hts221 humidity_percent=45.123456789,temperature_celsius=22.0123,latency_ms=5.213,frame="3412cd8b" 1690000000000000000
//
// The measurement is the part's category. The values are those before they were
// encoded: the frame has them rounded to its steps and, beyond what it can hold, the
// nearest that it can (bluest.Limits). latency_ms is the time from the emission until
// the board is to hand the frame to the radio. frame is the frame as emitted, in hex.
// The time is the emission's wall clock in Unix ns, which strictly increases for a
// part. A frame that a fault spoiled has the field garbage=true. A frame under way when
// the connection ends or its characteristic is unsubscribed or disabled has its line,
// but is lost; an event says so.
//
// An event is a line of measurement event with the fields kind and detail; its tags
// board and device are missing if it is about the process.
//
// Journal is safe for concurrent use.
type Journal struct {
	pending func()

	mu  sync.Mutex
	enc lineprotocol.Encoder
}

// NewJournal returns an empty journal. pending is called, possibly with a board's lock
// held, when an event is to be taken; it must not block. Readings come from Step
// alone, after which its caller takes them.
func NewJournal(pending func()) *Journal { return &Journal{pending: pending} }

// Take returns all lines since the last Take, in order, and empties the journal.
// spare is memory for the next lines, which the caller no longer uses; it may be nil.
// An error says that a line could not be encoded and is missing.
func (j *Journal) Take(spare []byte) ([]byte, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	lines, err := j.enc.Bytes(), j.enc.Err()
	j.enc.SetBuffer(spare[:0]) // which clears the error, too
	return lines, err
}

// Event adds an event. board and device are empty if it is about the process.
func (j *Journal) Event(at time.Time, board, device, kind, detail string) {
	if j == nil {
		return
	}
	j.mu.Lock()
	j.enc.StartLine(eventMeasurement)
	j.tag("board", board)
	j.tag("device", device)
	j.text("kind", kind)
	j.text("detail", detail)
	j.enc.EndLine(at)
	j.mu.Unlock()
	j.pending()
}

// tag adds one, unless it is empty, which line protocol does not allow. j.mu is held.
func (j *Journal) tag(key, value string) {
	if value != "" {
		j.enc.AddTag(key, value)
	}
}

// text adds a string field on one line. j.mu is held.
func (j *Journal) text(key, value string) {
	v, ok := lineprotocol.StringValue(oneLine.Replace(strings.ToValidUTF8(value, "?")))
	if ok {
		j.enc.AddField(key, v)
	}
}

var oneLine = strings.NewReplacer("\r", " ", "\n", " ")

// carried is a part whose values a channel carries.
type carried struct {
	bluest.Part
	gauges []int // of its feeds, in their order
}

// readings adds what was measured for one frame. The board's lock is held.
func (j *Journal) readings(b *Board, ch int, values []float64, f *frame, latency time.Duration, garbage bool) {
	if j == nil {
		return
	}
	var text [2 * maxFrame]byte
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range b.variety.channels[ch].parts {
		p := &b.variety.channels[ch].parts[i]
		if !b.offers(p.Name) {
			continue
		}
		j.enc.StartLine(p.Category)
		j.tag("board", b.spec.Name)
		j.tag("device", b.device)
		j.tag("node", b.node)
		j.tag("part", p.Name)
		for i, g := range p.gauges {
			most := math.MaxFloat64 // a drift may leave the numbers
			if v, ok := lineprotocol.FloatValue(min(max(values[g], -most), most)); ok {
				j.enc.AddField(p.Feeds[i].Field, v)
			}
		}
		ms, _ := lineprotocol.FloatValue(float64(latency) / float64(time.Millisecond))
		j.enc.AddField("latency_ms", ms)
		v, _ := lineprotocol.StringValueFromBytes(hex.AppendEncode(text[:0], f.value)) // digits
		j.enc.AddField("frame", v)
		if garbage {
			j.enc.AddField("garbage", lineprotocol.BoolValue(true))
		}
		j.enc.EndLine(time.Unix(0, f.wall))
	}
}

// note adds an event of the board at a time of its own. b.mu is held.
func (b *Board) note(at time.Duration, kind, detail string) {
	if b.opts.Journal == nil {
		return
	}
	_, wall := b.stamps(at)
	b.opts.Journal.Event(time.Unix(0, wall), b.spec.Name, b.device, kind, detail)
}

// lost says how many frames under way will not be handed over, behind other text.
func lost(n int) string {
	switch n {
	case 0:
		return ""
	case 1:
		return "; 1 frame under way was lost"
	}
	return fmt.Sprintf("; %d frames under way were lost", n)
}

// detail is the fault as the journal tells it.
func (f *fault) detail() string {
	d := f.Kind
	if f.Part != "" {
		d += " part=" + f.Part
	}
	if f.Of != "" {
		d += " of=" + f.Of
	}
	if f.Slope != 0 {
		d += fmt.Sprintf(" slope=%v", f.Slope)
	}
	if f.For > 0 {
		d += " for=" + time.Duration(f.For).String()
	}
	return d
}

// detail is the patch as the journal tells it, JSON.
func (p Patch) detail() string {
	text, _ := json.Marshal(p) // numbers and strings
	return string(text)
}
