package cli

import (
	"context"
	"io"
	"time"

	"github.com/fluidos-edge/testbed/scenarios"
	"github.com/fluidos-edge/testbed/testbed"
)

// Fake stands in for testbeds: tests give what each command drives.
type Fake struct {
	Up          func(context.Context, testbed.Options) (*testbed.Status, error)
	Down        func(context.Context, testbed.Options) error
	Describe    func(context.Context, testbed.Options) (*testbed.Status, error)
	BuildAssets func(context.Context, testbed.Options) error
	Supervise   func(context.Context, string) error
	Kubeconfig  func(name, which string) (string, error)
	Kubectl     func() (string, error)
	Controls    func(name string) ([]string, error)
	Control     func(name, board string) (string, error)
	Doctor      func(context.Context, testbed.DoctorOptions) ([]testbed.Check, error)
	Now         func() time.Time // default time.Now
	Columns     int              // of the terminal; 0: there is none
	Demo        func(context.Context, *testbed.Status, string, func(testbed.Event)) ([]scenarios.Result, error)
}

// RunFake is Run on a fake.
func RunFake(ctx context.Context, f Fake, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if f.Now == nil {
		f.Now = time.Now
	}
	return run(ctx, engine{up: f.Up, down: f.Down, describe: f.Describe, buildAssets: f.BuildAssets, supervise: f.Supervise,
		kubeconfig: f.Kubeconfig, kubectl: f.Kubectl, controls: f.Controls, control: f.Control, demo: f.Demo, doctor: f.Doctor, now: f.Now,
		columns: func(io.Writer) int { return f.Columns }}, args, stdin, stdout, stderr)
}

// NewProgress is a display of so many columns, 0 for a log, that does not move by itself.
func NewProgress(w io.Writer, now func() time.Time, columns int) (tell func(testbed.Event), end func()) {
	p := &progress{w: w, now: now, width: func() int { return columns }}
	return p.tell, p.end
}

// SplitUnit is splitUnit.
var SplitUnit = splitUnit

// Point is a point of a chart.
type Point = point

// RenderPlot is a chart in so many columns and lines.
func RenderPlot(title, unit string, points []Point, columns, rows int) []string {
	return plot{title: title, unit: unit, points: points}.render(columns, rows)
}

// NewScreen is a terminal of a size.
func NewScreen(w io.Writer, size func() (columns, rows int)) (draw func(string) error) {
	s := &screen{w: w, size: size}
	return s.draw
}

// Share is share.
var Share = share
