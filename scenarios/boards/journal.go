// Package boards reads what boards say of themselves: the journal of a boards
// process, which is the truth of what was measured and emitted, and its control API,
// which tells what the boards declare and changes it.
//
// Invariants: what is read is bounded and never trusted to be well-formed; nothing
// that a controller wrote is looked at.
//
// To try it: go test ./scenarios/boards; curl --unix-socket boards.sock
// http://boards/v1/boards.
package boards

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/influxdata/line-protocol/v2/lineprotocol"

	"github.com/fluidos-edge/testbed/scenarios/ledger"
	"github.com/fluidos-edge/testbed/scenarios/tail"
)

// Line is one line of a boards journal: a reading, or an event.
type Line struct {
	// Category is the measurement of a reading. Board, Device, Node and Part are tags; an
	// event has neither Category, Node nor Part, and one of the process itself no Board.
	Category, Board, Device, Node, Part string
	// Time is the wall clock, of the emission or of the event.
	Time time.Time

	// Values before they were encoded, in the order of their fields; Frame as it was
	// sent; Delay in ms from emission to hand-over. A fault spoiled the frame of a
	// reading that is Garbage.
	Values  []ledger.Value
	Frame   []byte
	Delay   float64
	Garbage bool

	// Kind and Detail are of an event; a reading has no Kind.
	Kind, Detail string
}

// Kinds of events.
const (
	Started      = "started" // the process
	Connected    = "connected"
	Disconnected = "disconnected"
	FaultBegan   = "fault"
	FaultEnded   = "cleared"
	Changed      = "changed"
	Added        = "added"
	Removed      = "removed"
)

const measurementEvent = "event"

// Tail follows the journal of a boards process from its present end.
func Tail(path string) (*tail.Journal[Line], error) { return tail.New(path, ParseLine) }

// ParseLine reads one line of a journal.
func ParseLine(line []byte) (Line, error) {
	d := lineprotocol.NewDecoderWithBytes(line)
	if !d.Next() {
		return Line{}, errors.New("boards journal: no line")
	}
	l, err := decode(d)
	if err != nil {
		return Line{}, fmt.Errorf("boards journal: %w", err)
	}
	if d.Next() {
		return Line{}, errors.New("boards journal: more than one line")
	}
	return l, nil
}

func decode(d *lineprotocol.Decoder) (Line, error) {
	var l Line
	measurement, err := d.Measurement()
	if err != nil {
		return l, err
	}
	event := string(measurement) == measurementEvent
	if !event {
		l.Category = string(measurement)
	}
	for {
		k, v, err := d.NextTag()
		if err != nil {
			return l, err
		}
		if k == nil {
			break
		}
		switch string(k) {
		case "board":
			l.Board = string(v)
		case "device":
			l.Device = string(v)
		case "node":
			l.Node = string(v)
		case "part":
			l.Part = string(v)
		}
	}
	for {
		k, v, err := d.NextField()
		if err != nil {
			return l, err
		}
		if k == nil {
			break
		}
		if err := l.set(event, string(k), v.Interface()); err != nil {
			return l, err
		}
	}
	if l.Time, err = d.Time(lineprotocol.Nanosecond, time.Time{}); err != nil {
		return l, err
	}
	switch {
	case l.Time.IsZero():
		return l, errors.New("no time")
	case event && l.Kind == "":
		return l, errors.New("an event without kind")
	case !event && (l.Device == "" || l.Part == "" || len(l.Values) == 0 || len(l.Frame) == 0):
		return l, errors.New("a reading without device, part, values or frame")
	}
	slices.SortFunc(l.Values, func(a, b ledger.Value) int { return strings.Compare(a.Field, b.Field) })
	for i := 1; i < len(l.Values); i++ {
		if l.Values[i].Field == l.Values[i-1].Field {
			return l, fmt.Errorf("field %q twice", l.Values[i].Field)
		}
	}
	return l, nil
}

// set takes up one field of a line.
func (l *Line) set(event bool, field string, value any) error {
	switch v := value.(type) {
	case string:
		switch {
		case event && field == "kind":
			l.Kind = v
		case event && field == "detail":
			l.Detail = v
		case !event && field == "frame":
			var err error
			if l.Frame, err = hex.DecodeString(v); err != nil {
				return fmt.Errorf("frame: %w", err)
			}
		}
	case bool:
		if !event && field == "garbage" {
			l.Garbage = v
		}
	case float64:
		switch {
		case event:
		case field == "latency_ms":
			l.Delay = v
		default:
			l.Values = append(l.Values, ledger.Value{Field: field, Number: v})
		}
	}
	return nil
}
