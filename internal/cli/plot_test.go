package cli_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/fluidos-edge/testbed/internal/cli"
)

// series has a value for each second.
func series(n int, value func(i int) float64) []cli.Point {
	points := make([]cli.Point, n)
	for i := range points {
		points[i] = cli.Point{At: noon.Add(time.Duration(i) * time.Second), Value: value(i)}
	}
	return points
}

func TestPlot(t *testing.T) {
	var b strings.Builder
	for _, c := range []struct {
		name          string
		points        []cli.Point
		columns, rows int
	}{
		{"a wave in 80 columns", series(90, func(i int) float64 { return 21.5 + 0.7*math.Sin(float64(i)/9) }), 80, 18},
		{"steps of 0.1", series(40, func(i int) float64 { return 21.5 + float64(i/10)/10 }), 60, 12},
		{"a gap", series(40, func(i int) float64 {
			if i >= 10 && i < 20 {
				return math.NaN()
			}
			return float64(i)
		}), 60, 12},
		{"always the same", series(10, func(int) float64 { return -0.5 }), 40, 8},
		{"always 0", series(10, func(int) float64 { return 0 }), 40, 8},
		{"one value", series(1, func(int) float64 { return 1013.25 }), 40, 8},
		{"one infinite value", series(1, func(int) float64 { return math.Inf(1) }), 40, 8},
		{"nothing", nil, 40, 8},
		{"below and above zero", series(30, func(i int) float64 { return float64(i%2)*65535 - 32768 }), 50, 10},
		{"less room than there must be", series(5, func(i int) float64 { return float64(i) }), 3, 1},
	} {
		fmt.Fprintf(&b, "# %s\n%s\n\n", c.name, strings.Join(cli.RenderPlot("board temperature", "degC", c.points, c.columns, c.rows), "\n"))
	}
	golden(t, "board-plots.golden", b.String())
}

// Whatever the values are, a chart keeps to its size and has its line.
func TestPlotKeepsToItsSize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64(), 1, 50).Draw(t, "values")
		if rapid.Bool().Draw(t, "close to each other") {
			base := rapid.Float64Range(-1e12, 1e12).Draw(t, "base")
			for i := range values {
				values[i] = base + math.Mod(values[i], 1)
			}
		}
		columns, rows := rapid.IntRange(40, 200).Draw(t, "columns"), rapid.IntRange(8, 60).Draw(t, "rows")
		lines := cli.RenderPlot("board quantity", "unit", series(len(values), func(i int) float64 { return values[i] }), columns, rows)
		if len(lines) > rows {
			t.Errorf("%d lines, want at most %d", len(lines), rows)
		}
		dots := false
		for _, l := range lines {
			if n := utf8.RuneCountInString(l); n > columns {
				t.Errorf("line of %d columns, want at most %d: %s", n, columns, l)
			}
			dots = dots || strings.ContainsFunc(l, func(r rune) bool { return r > 0x2800 && r <= 0x28ff })
		}
		if len(lines) > 1 != dots {
			t.Errorf("dots: %t in\n%s", dots, strings.Join(lines, "\n"))
		}
	})
}
