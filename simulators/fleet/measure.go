package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"

	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/board"
	"github.com/fluidos-edge/testbed/simulators/radio"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// What Measurement.Arm can be.
const (
	armFleet = "fleet"
	armLoop  = "loop"
)

// Measurement is what a number of frames of a number of boards costs, on a clock
// that is stepped to whatever comes next and with notifications that nobody gets.
// The arm fleet is the fleet as it runs. The arm loop is the least that sends the
// same readings at the same times: model, encode, notify, and a board's turn comes
// round as often as its period.
type Measurement struct {
	Arm    string `json:"arm"`
	Boards int    `json:"boards"`
	Frames int    `json:"frames"`
}

// String is what Set takes.
func (m *Measurement) String() string {
	if *m == (Measurement{}) {
		return ""
	}
	return fmt.Sprintf("arm=%s,boards=%d,frames=%d", m.Arm, m.Boards, m.Frames)
}

// Set implements flag.Value.
func (m *Measurement) Set(s string) error {
	v := Measurement{Arm: armFleet, Boards: 10_000, Frames: 1_000_000}
	for part := range strings.SplitSeq(s, ",") {
		var err error
		switch name, value, _ := strings.Cut(part, "="); name {
		case "arm":
			if v.Arm = value; value != armFleet && value != armLoop {
				err = fmt.Errorf("arm: %q, want %s or %s", value, armFleet, armLoop)
			}
		case "boards":
			v.Boards, err = strconv.Atoi(value)
		case "frames":
			v.Frames, err = strconv.Atoi(value)
		default:
			err = fmt.Errorf("%q: want arm, boards and frames", part)
		}
		if err != nil {
			return err
		}
	}
	if v.Boards < 1 || v.Boards > maxCount || v.Frames < v.Boards {
		return fmt.Errorf("%d frames of %d boards: want 1 to %d boards and a frame of each", v.Frames, v.Boards, maxCount)
	}
	*m = v
	return nil
}

// cost is what run prints.
type cost struct {
	Measurement
	// Sent is how many frames there were.
	Sent int64 `json:"sent"`
	// CPUSeconds is what the process spent on them, in user and kernel mode.
	CPUSeconds float64 `json:"cpuSeconds"`
	// BytesPerBoard is heap and stacks after them and a garbage collection.
	BytesPerBoard float64 `json:"bytesPerBoard"`
}

func (m Measurement) run(ctx context.Context, w io.Writer) error {
	clk := &steppedClock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	f := newFleet(1, clk, slog.New(slog.DiscardHandler))
	masks := map[string]bluest.Mask{topology.STWINKT1B: bluest.EnvironmentalKT1B, topology.STWINBX1: bluest.EnvironmentalBX1}
	all := make([]sender, m.Boards)
	period := time.Duration(0)
	for i := range all {
		spec := nth(f.seed, i)
		period = time.Duration(float64(time.Second) / spec.Rate)
		b, err := m.board(f, spec)
		if err != nil {
			return err
		}
		s := sender{Peripheral: b.Via(""), board: b, characteristic: masks[spec.Model].UUID()}
		if s.link, err = radio.Discard(s); err != nil {
			return err
		}
		all[i] = s
	}
	before := cpu()
	for i := range all {
		if err := all[i].Subscribe(all[i].link, all[i].characteristic, true); err != nil {
			return err
		}
	}
	if m.Arm == armLoop {
		if err := m.loop(clk, all, period); err != nil {
			return err
		}
	} else {
		measured, cancel := context.WithCancel(ctx)
		defer cancel()
		clk.end, clk.ended = clk.now.Add(time.Duration(m.Frames/m.Boards)*period), cancel
		if err := f.drive.run(measured); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c := cost{Measurement: m, CPUSeconds: cpu() - before}
	runtime.GC()
	runtime.GC() // what the first one found in pools
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	c.BytesPerBoard = float64(mem.HeapAlloc+mem.StackInuse) / float64(m.Boards)
	for _, s := range all {
		c.Sent += s.link.Notified()
	}
	runtime.KeepAlive(f)
	return json.NewEncoder(w).Encode(c)
}

// board of the fleet, or one that no fleet knows.
func (m Measurement) board(f *fleet, spec topology.Board) (*board.Board, error) {
	if m.Arm == armLoop {
		return board.New(spec, board.Options{Seed: f.seed, Clock: f.clock})
	}
	added, err := f.add(spec)
	if err != nil {
		return nil, err
	}
	return added.Board, nil
}

// sender is a board that is connected with nobody.
type sender struct {
	radio.Peripheral
	board          *board.Board
	characteristic string
	link           *radio.Link
	due            time.Time // its first frame
}

func (m Measurement) loop(clk *steppedClock, all []sender, period time.Duration) error {
	for i := range all {
		all[i].due = all[i].board.Step()
	}
	slices.SortFunc(all, func(a, b sender) int { return a.due.Compare(b.due) })
	for round := range m.Frames / m.Boards {
		for i := range all {
			s := &all[i]
			clk.now = s.due.Add(time.Duration(round) * period)
			v, err := s.Read(s.characteristic)
			if err != nil {
				return err
			}
			s.link.Notify(s.characteristic, v, radio.Now(), clk.now.UnixNano())
		}
	}
	return nil
}

// cpu seconds of this process, user and kernel.
func cpu() float64 {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		panic("fleet: getrusage: " + err.Error()) // every Linux has it
	}
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
}

// steppedClock goes on to whatever its one timer waits for, at once. Only the
// goroutine that waits may use it.
type steppedClock struct {
	clock.WithTicker
	now, end time.Time
	ended    func() // called when it is
	fires    chan time.Time
}

func (c *steppedClock) Now() time.Time                  { return c.now }
func (c *steppedClock) Since(t time.Time) time.Duration { return c.now.Sub(t) }

func (c *steppedClock) NewTimer(time.Duration) clock.Timer {
	c.fires = make(chan time.Time, 1)
	return c
}

func (c *steppedClock) C() <-chan time.Time { return c.fires }
func (c *steppedClock) Stop() bool          { return false }

func (c *steppedClock) Reset(d time.Duration) bool {
	if c.now = c.now.Add(d); !c.now.Before(c.end) {
		c.ended()
	}
	c.fires <- c.now
	return true
}
