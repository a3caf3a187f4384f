package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// plot is a line chart of one quantity over time, in characters: each cell of
// braille holds 2 by 4 dots.
type plot struct {
	title, unit string
	points      []point // in order of time
}

// point is one value; one that cannot be drawn (see drawable) leaves a gap in the line.
type point struct {
	At    time.Time `json:"at"`
	Value float64   `json:"value"`
}

// Bounds of a chart: below the least nothing could be read.
const (
	leastColumns, leastRows = 30, 4
	dotColumns, dotRows     = 2, 4
)

// render draws the chart in columns by rows cells, title and axes included.
func (p plot) render(columns, rows int) []string {
	columns, rows = max(columns, leastColumns), max(rows-3, leastRows)
	low, high, n := math.Inf(1), math.Inf(-1), 0
	last := math.NaN()
	for _, v := range p.points {
		if drawable(v.Value) {
			low, high, last = min(low, v.Value), max(high, v.Value), v.Value
			n++
		}
	}
	if n == 0 {
		return []string{cut(p.title+": no values yet", columns)}
	}
	first, end := p.points[0].At, p.points[len(p.points)-1].At
	axis := newScale(low, high, rows)
	lines := []string{cut(fmt.Sprintf("%s   last %s, min %s, max %s%s", p.title, decimal(last), decimal(low), decimal(high), spaced(p.unit)), columns)}
	labels := axis.labels(rows)
	margin := 0
	for _, l := range labels {
		margin = max(margin, len(l))
	}
	cells := newCells(columns-margin-2, rows)
	p.draw(cells, first, end, axis)
	for i, row := range cells {
		mark := "│"
		if labels[i] != "" {
			mark = "┤"
		}
		lines = append(lines, strings.TrimRight(fmt.Sprintf("%*s %s%s", margin, labels[i], mark, row.text()), " "))
	}
	return append(lines, strings.Repeat(" ", margin+1)+"└"+strings.Repeat("─", len(cells[0])),
		strings.Repeat(" ", margin+2)+timeAxis(first, end, count(n, "value")+" in "+short(end.Sub(first)), len(cells[0])))
}

// timeAxis has the time at both ends and text between them, where there is room.
func timeAxis(first, end time.Time, text string, columns int) string {
	from, to := first.Format(time.TimeOnly), end.Format(time.TimeOnly)
	room := columns - len(from) - len(to)
	switch {
	case first.Equal(end):
		return from
	case room < len(text)+2:
		return from + strings.Repeat(" ", max(room, 1)) + to
	}
	left := (room - len(text)) / 2
	return from + strings.Repeat(" ", left) + text + strings.Repeat(" ", room-len(text)-left) + to
}

// draw the line into cells.
func (p plot) draw(cells []cellRow, first, end time.Time, axis scale) {
	width, height := dotColumns*len(cells[0])-1, dotRows*len(cells)-1
	fromX, fromY, connected := 0, 0, false
	for _, v := range p.points {
		if !drawable(v.Value) {
			connected = false
			continue
		}
		x := 0
		if span := end.Sub(first); span > 0 {
			x = int(math.Round(float64(width) * float64(v.At.Sub(first)) / float64(span)))
		}
		y := int(math.Round(float64(height) * axis.share(v.Value)))
		if !connected {
			fromX, fromY = x, y
		}
		line(fromX, fromY, x, y, func(x, y int) { dot(cells, x, height-y) })
		fromX, fromY, connected = x, y, true
	}
}

// line calls set for each dot from one to another.
func line(x0, y0, x1, y1 int, set func(x, y int)) {
	steps := max(abs(x1-x0), abs(y1-y0))
	set(x0, y0)
	for i := 1; i <= steps; i++ {
		t := float64(i) / float64(steps)
		set(x0+int(math.Round(t*float64(x1-x0))), y0+int(math.Round(t*float64(y1-y0))))
	}
}

// cellRow is one line of braille cells, a bit for each dot.
type cellRow []byte

func newCells(columns, rows int) []cellRow {
	cells := make([]cellRow, rows)
	for i := range cells {
		cells[i] = make(cellRow, columns)
	}
	return cells
}

// dot sets the dot at (x, y), counted from the top left corner.
func dot(cells []cellRow, x, y int) {
	bits := [dotRows][dotColumns]byte{{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}}
	if row, column := y/dotRows, x/dotColumns; x >= 0 && y >= 0 && row < len(cells) && column < len(cells[row]) {
		cells[row][column] |= bits[y%dotRows][x%dotColumns]
	}
}

// text of a row; an empty cell is a space, not an empty braille cell.
func (r cellRow) text() string {
	const braille = 0x2800
	var b strings.Builder
	for _, bits := range r {
		if bits == 0 {
			b.WriteByte(' ')
		} else {
			b.WriteRune(braille + rune(bits))
		}
	}
	return b.String()
}

// scale of values: from low to high in round steps.
type scale struct {
	low, high, step float64
}

// newScale holds all values from low to high, with a step for about every third row.
func newScale(low, high float64, rows int) scale {
	span := high - low
	if span <= 1e-9*max(math.Abs(low), math.Abs(high), 1) {
		// One value, or values that differ by less than anybody reads.
		pad := max(math.Abs(high)/1000, 1e-3)
		low, high = low-pad, high+pad
		span = high - low
	}
	step := span / float64(max(rows/3, 2))
	power := math.Pow(10, math.Floor(math.Log10(step)))
	for _, m := range []float64{1, 2, 5, 10} {
		if step = m * power; step >= span/float64(max(rows/3, 2))*(1-1e-9) {
			break
		}
	}
	return scale{low: math.Floor(low/step+1e-9) * step, high: math.Ceil(high/step-1e-9) * step, step: step}
}

// share of the way from low to high.
func (s scale) share(v float64) float64 {
	if !(s.high > s.low) {
		return 0.5
	}
	return min(max((v-s.low)/(s.high-s.low), 0), 1)
}

// labels of rows, from the top; "" for a row without one.
func (s scale) labels(rows int) []string {
	labels := make([]string, rows)
	decimals := max(0, -int(math.Floor(math.Log10(s.step)+1e-9)))
	steps := int(math.Round((s.high - s.low) / s.step))
	for i := range steps + 1 {
		v := s.low + float64(i)*s.step
		at := rows - 1 - int(math.Round(s.share(v)*float64(rows-1)))
		labels[at] = strconv.FormatFloat(v, 'f', decimals, 64)
	}
	return labels
}

// decimal is a value to four decimals, as far as they say something.
func decimal(v float64) string { return strconv.FormatFloat(math.Round(v*1e4)/1e4, 'f', -1, 64) }

func spaced(unit string) string {
	if unit == "" {
		return ""
	}
	return " " + unit
}

// drawable values have labels that fit beside a chart; all of BlueST's are.
func drawable(v float64) bool { return math.Abs(v) < 1e12 }

func abs(n int) int {
	if n < 0 {
		return -n
	}
	return n
}
