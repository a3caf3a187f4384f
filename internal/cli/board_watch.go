package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/fleet"
)

const (
	leastInterval = 100 * time.Millisecond
	// maxPoints of a chart; then the oldest go.
	maxPoints = 3600
	// chartLines is how tall a chart grows.
	chartLines = 22
)

// watch is how to look at a board again and again. It is the one thing whose result
// goes out while it runs, a set of readings at a time; only a chart that no terminal
// shows waits for the end.
type watch struct {
	interval time.Duration
	count    int    // readings; 0 without end
	plot     string // quantity to draw, or ""

	screen *screen // nil if there is no terminal
	unit   string  // of the quantity
	points []point
}

func (w *watch) check() error {
	switch {
	case w.interval < leastInterval:
		return usage("use a duration of at least "+leastInterval.String()+", such as --interval 1s", "--interval: %s is too short", w.interval)
	case w.count < 0:
		return usage("use the number of readings, such as --count 10; 0 goes on until Ctrl-C", "--count: %d is negative", w.count)
	}
	return nil
}

// watchBoard takes readings until there are enough of them, or ctx ends.
func (a *app) watchBoard(ctx context.Context, client *fleet.Client, name string, w *watch) error {
	if !a.json() {
		w.screen = newScreen(a.stdout)
	}
	tick := time.NewTicker(w.interval)
	defer tick.Stop()
	for n := 1; ; n++ {
		b, err := client.Board(ctx, name)
		if err != nil && ctx.Err() == nil {
			return a.noBoards(ctx, err)
		}
		if ctx.Err() == nil {
			if err := a.showReadings(w, b, a.now()); err != nil {
				return err
			}
		}
		if n == w.count && ctx.Err() == nil {
			return a.printChart(w, name)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if err := a.printChart(w, name); err != nil {
				return err
			}
			if err := caused(ctx, ctx.Err()); errors.Is(err, errTimeout) {
				return err
			}
			return &verdictError{exit: exitInterrupted} // the usual way out, and no failure
		}
	}
}

// showReadings writes one set of readings, or draws it on the screen.
func (a *app) showReadings(w *watch, b fleet.Board, now time.Time) error {
	if w.plot != "" {
		if err := w.add(b, now); err != nil {
			return err
		}
	}
	var text string
	switch {
	case w.screen != nil && w.plot != "":
		columns, rows := w.screen.size()
		text = headline(b, now) + "\n" + strings.Join(w.chart(b.Name).render(columns-1, min(rows-2, chartLines)), "\n")
	case w.screen != nil:
		a.printTable(readingsHeader, readings(b))
		text = headline(b, now) + "\n\n" + a.take()
	case w.plot != "": // comes at the end
		return nil
	case a.json():
		doc, err := json.Marshal(b)
		if err != nil {
			return fmt.Errorf("write result as JSON: %w", err)
		}
		text = string(doc) + "\n"
	default:
		text = readingsLine(b, now)
	}
	var err error
	if w.screen != nil {
		err = w.screen.draw(text)
	} else {
		_, err = io.WriteString(a.stdout, text)
	}
	if err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// add a point of the quantity to draw. A board that has no reading of it leaves a gap.
func (w *watch) add(b fleet.Board, now time.Time) error {
	known := quantities(b)
	i := slices.IndexFunc(known, func(r bluest.Reading) bool { return r.Quantity == w.plot })
	p := point{At: now, Value: math.NaN()}
	if i >= 0 {
		p.Value, w.unit = known[i].Value, known[i].Unit
	} else if len(w.points) == 0 {
		return badInput("use one of "+strings.Join(quantityNames(b), ", "), "--plot: board %s has no quantity %q", b.Name, w.plot)
	}
	if w.points = append(w.points, p); len(w.points) > maxPoints {
		w.points = slices.Delete(w.points, 0, len(w.points)-maxPoints)
	}
	return nil
}

func (w *watch) chart(board string) plot {
	return plot{title: board + " " + w.plot, unit: w.unit, points: w.points}
}

// printChart is the chart of a watch that no terminal showed.
func (a *app) printChart(w *watch, board string) error {
	switch {
	case w.plot == "" || w.screen != nil:
		return nil
	case a.json():
		doc := struct {
			Board    string  `json:"board"`
			Quantity string  `json:"quantity"`
			Unit     string  `json:"unit"`
			Points   []point `json:"points"`
		}{board, w.plot, w.unit, []point{}}
		for _, p := range w.points {
			if drawable(p.Value) {
				doc.Points = append(doc.Points, p)
			}
		}
		return a.printJSON(doc)
	}
	const columns = 80
	a.printf("%s\n", strings.Join(w.chart(board).render(columns, chartLines-2), "\n"))
	return nil
}

// headline of a screen: what else there is to know about the board.
func headline(b fleet.Board, now time.Time) string {
	s := fmt.Sprintf("%s  %s  %s  battery %.1f %%  up %s", now.Format(time.TimeOnly), b.Name, boardState(b), b.Battery, short(time.Duration(b.Uptime)))
	for _, f := range b.Faults {
		s += "  " + faultName(f.Kind, f.Part)
	}
	return s
}

// readingsLine is a set of readings in a log.
func readingsLine(b fleet.Board, now time.Time) string {
	s := now.Format(time.TimeOnly)
	for _, r := range readings(b) {
		s += "  " + strings.ReplaceAll(strings.Join(r[1:], " "), "  ", " ")
	}
	return s + "\n"
}

// take is what was printed so far and is not the result of the end any more.
func (a *app) take() string {
	s := a.out.String()
	a.out.Reset()
	return s
}

// screen shows text in place on a terminal.
type screen struct {
	w     io.Writer
	size  func() (columns, rows int)
	drawn int // lines
}

// newScreen is nil if stdout is no terminal.
func newScreen(w io.Writer) *screen {
	f := terminal(w, term.IsTerminal)
	if f == nil {
		return nil
	}
	return &screen{w: w, size: func() (int, int) { return terminalSize(f) }}
}

func terminalSize(f *os.File) (columns, rows int) {
	if columns, rows, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 && rows > 0 {
		return columns, rows
	}
	return 80, 24
}

// draw replaces what was drawn before. Lines that the screen has no room for are cut:
// they could not be replaced.
func (s *screen) draw(text string) error {
	columns, rows := s.size()
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	lines = lines[:min(len(lines), max(rows-1, 1))]
	var b strings.Builder
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.drawn)
	}
	b.WriteString("\r\x1b[J")
	for _, l := range lines {
		b.WriteString(cut(l, columns-1) + "\n")
	}
	s.drawn = len(lines)
	_, err := io.WriteString(s.w, b.String())
	return err
}
