package scenarios

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/fluidos-edge/testbed/scenarios/boards"
)

// changedBoard is what a run has set on a board, written down before it is set, so that
// the next run can set it back if this one is killed.
type changedBoard struct {
	Provider string `json:"provider"`
	Board    string `json:"board"`
	Part     string `json:"part"`
	// Latency and LatencyUnit as the board declared them before.
	Latency     string `json:"latency"`
	LatencyUnit string `json:"latencyUnit"`
}

// undoFile is where a run writes down what it has set; "" for a testbed without a lock.
func (e *Env) undoFile() string {
	if e.LockFile == "" {
		return ""
	}
	return e.LockFile + ".undo"
}

// change what a sensor declares; undo sets it back, also when ctx has ended.
func (e *Env) change(ctx context.Context, control BoardControl, s Sensor, latency, unit string) (undo func() error, err error) {
	was := changedBoard{Provider: s.Provider, Board: s.Board, Part: s.Part, Latency: s.Latency, LatencyUnit: s.LatencyUnit}
	if file := e.undoFile(); file != "" {
		text, err := json.Marshal(was)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return nil, fmt.Errorf("write down what %s declares: %w", s, err)
		}
	}
	undo = func() error {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeDeadline)
		defer cancel()
		if err := e.setBack(end, control, was); err != nil {
			return fmt.Errorf("%s still declares %s %s: %w", s, latency, unit, err)
		}
		return nil
	}
	if err := control.Declare(ctx, s.Board, s.Part, boards.Declared{Latency: &latency, LatencyUnit: &unit}); err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

func (e *Env) setBack(ctx context.Context, control BoardControl, was changedBoard) error {
	if err := control.Declare(ctx, was.Board, was.Part, boards.Declared{Latency: &was.Latency, LatencyUnit: &was.LatencyUnit}); err != nil {
		return err
	}
	if file := e.undoFile(); file != "" {
		return os.Remove(file)
	}
	return nil
}

// undoKilledRun sets back what a run that was killed had set on a board. The run's lock
// is held: no other run is under way.
func (e *Env) undoKilledRun(ctx context.Context) error {
	file := e.undoFile()
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var was changedBoard
	if err := json.Unmarshal(text, &was); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", file, err), os.Remove(file))
	}
	control := e.providerNamed(was.Provider).Boards
	if control == nil {
		return os.Remove(file) // the testbed has another topology now
	}
	if err := e.setBack(ctx, control, was); err != nil {
		return fmt.Errorf("board %s, which a run that was killed has changed, could not be set back: %w", was.Board, err)
	}
	return nil
}
