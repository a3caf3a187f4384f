package board

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/fluidos-edge/testbed/simulators/bluest"
)

// Replay is readings that a board sends instead of its model's. It is never
// written to.
type Replay struct {
	// columns that are replayed: by channel and gauge, -1 for the model's.
	columns [channels][]int
	seconds []float64   // ascending
	values  [][]float64 // by column, then by row
}

const (
	maxReplay     = 4 << 20 // bytes
	secondsColumn = "seconds"
)

// ParseReplay reads a CSV for a board of a model. Its header is
// "seconds,<quantity>,...", with quantities that the board has ("temperature",
// "accelerationX", "level"); further rows are numbers, ordered by time. Lines that
// begin with # are passed over.
//
// Replayed are the times between the first row and the last, over and over, from
// when the board is made; between two rows on a straight line, without the noise of
// the model. A single row stands for ever. Errors name line and column.
func ParseReplay(model, text string) (*Replay, error) {
	v, ok := varieties[model]
	if !ok {
		return nil, fmt.Errorf("model %q: not simulated", model)
	}
	if len(text) > maxReplay {
		return nil, fmt.Errorf("%d bytes, want at most %d", len(text), maxReplay)
	}
	in := csv.NewReader(strings.NewReader(text))
	in.Comment, in.TrimLeadingSpace, in.ReuseRecord = '#', true, true
	header, err := in.Read()
	if err != nil {
		return nil, broken(err)
	}
	at := func(i int) string {
		line, column := in.FieldPos(i)
		return fmt.Sprintf("line %d, column %d", line, column)
	}
	if header[0] != secondsColumn || len(header) < 2 {
		return nil, fmt.Errorf("%s: header %q, want %s, then the quantities", at(0), strings.Join(header, ","), secondsColumn)
	}
	r := &Replay{values: make([][]float64, len(header)-1)}
	limits := make([][2]float64, len(header))
	limits[0] = [2]float64{0, math.MaxInt32}
	for ch := range v.channels {
		r.columns[ch] = make([]int, len(v.channels[ch].gauges))
		for i, g := range v.channels[ch].gauges {
			r.columns[ch][i] = slices.Index(header, g.quantity) - 1
		}
	}
	header, quantities := slices.Clone(header), v.quantities()
	for i, quantity := range header[1:] {
		if slices.Index(header, quantity) != i+1 {
			return nil, fmt.Errorf("%s: %q twice", at(i+1), quantity)
		}
		if !slices.Contains(quantities, quantity) {
			return nil, fmt.Errorf("%s: %q is nothing that a %s sends, want one of %s", at(i+1), quantity, model, strings.Join(quantities, ", "))
		}
		limits[i+1][0], limits[i+1][1], _ = bluest.Limits(quantity)
	}
	for {
		row, err := in.Read()
		if err == io.EOF && len(r.seconds) > 0 {
			return r, nil
		}
		if err != nil {
			return nil, broken(err)
		}
		for i, text := range row {
			x, err := strconv.ParseFloat(text, 64)
			if low, high := limits[i][0], limits[i][1]; err != nil || !(x >= low && x <= high) {
				return nil, fmt.Errorf("%s (%s): %.40q, want a number from %v to %v", at(i), header[i], text, low, high)
			}
			if i > 0 {
				r.values[i-1] = append(r.values[i-1], x)
				continue
			}
			if n := len(r.seconds); n > 0 && x <= r.seconds[n-1] {
				return nil, fmt.Errorf("%s (%s): %v, want more than in the row before, %v", at(i), header[i], x, r.seconds[n-1])
			}
			r.seconds = append(r.seconds, x)
		}
	}
}

// broken makes one form of what the CSV reader says.
func broken(err error) error {
	var e *csv.ParseError
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("line 1, column 1: want a header and at least one row")
	case errors.Is(err, csv.ErrFieldCount) && errors.As(err, &e):
		return fmt.Errorf("line %d, column %d: want as many fields as in the header", e.Line, e.Column)
	case errors.As(err, &e):
		return fmt.Errorf("line %d, column %d: %w", e.Line, e.Column, e.Err)
	}
	return err
}

// apply puts what is replayed in place of the model's values.
func (r *Replay) apply(ch int, at time.Duration, values []float64) {
	row, share := 0, 0.0
	if n := len(r.seconds); n > 1 {
		first := r.seconds[0]
		now := first + math.Mod(at.Seconds(), r.seconds[n-1]-first)
		// the first row behind now, or the last
		next := min(sort.Search(n, func(i int) bool { return r.seconds[i] > now }), n-1)
		row = next - 1
		share = (now - r.seconds[row]) / (r.seconds[next] - r.seconds[row])
	}
	for i, column := range r.columns[ch] {
		if column < 0 {
			continue
		}
		v := r.values[column][row]
		if share > 0 {
			v += share * (r.values[column][row+1] - v)
		}
		values[i] = v
	}
}

// quantities that a board of the variety sends.
func (v *variety) quantities() []string {
	var all []string
	for _, ch := range v.channels {
		for _, g := range ch.gauges {
			all = append(all, g.quantity)
		}
	}
	return all
}
