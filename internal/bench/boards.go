package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"runtime"
)

const (
	boardsCount  = 10_000
	boardsFrames = 1_000_000
	// boardAllowance is what a board may take, in bytes.
	boardAllowance = 32 << 10
)

// prepareBoards compares a fleet of boards as it runs with the least that sends the
// same frames, by what the processor does for them and by memory. Both sides are the
// boards program, which measures itself: a side that had to start in the time that
// counts would hide what it costs.
func prepareBoards(_ context.Context, o options) ([]Comparison, func() error, error) {
	if _, err := exec.LookPath(o.boards); err != nil {
		return nil, nil, fmt.Errorf("the boards program: %w (`make build`)", err)
	}
	return boards(o.boards, boardsCount, boardsFrames), nil, nil
}

func boards(prog string, count, frames int) []Comparison {
	cost := func(ctx context.Context, arm string) (cpu, memory float64, err error) {
		out, err := program(ctx, prog, "-measure", fmt.Sprintf("arm=%s,boards=%d,frames=%d", arm, count, frames))
		if err != nil {
			return 0, 0, err
		}
		var v struct{ Sent, CPUSeconds, BytesPerBoard float64 }
		if err := json.Unmarshal(out, &v); err != nil {
			return 0, 0, fmt.Errorf("what %s measured: %w: %.100q", prog, err, out)
		}
		// Where the clock ends a few frames are on their way.
		if v.Sent < 0.95*float64(frames) || v.Sent > 1.05*float64(frames) {
			return 0, 0, fmt.Errorf("%g frames were sent, want %d", v.Sent, frames)
		}
		return v.CPUSeconds * float64(frames) / v.Sent, v.BytesPerBoard, nil
	}
	params := map[string]any{"boards": count, "frames": frames, "cpus": runtime.NumCPU()}
	return []Comparison{{
		Name: "boards", Params: params, Unit: "s",
		Peer: "one loop of model, encode and notify for the same boards at the same times; either into an in-memory radio that discards, CPU time of user and system",
		Op:   "<=", Goal: 2,
		Ours: func(ctx context.Context) (float64, error) {
			cpu, _, err := cost(ctx, "fleet")
			return cpu, err
		},
		Theirs: func(ctx context.Context) (float64, error) {
			cpu, _, err := cost(ctx, "loop")
			return cpu, err
		},
	}, {
		Name: "boards-memory", Params: params, Unit: "B",
		Peer: "what a board may take, 32 KiB; ours is heap and stacks after a garbage collection, by the number of boards",
		Op:   "<=", Goal: 1,
		Ours: func(ctx context.Context) (float64, error) {
			_, memory, err := cost(ctx, "fleet")
			return memory, err
		},
		Theirs: func(context.Context) (float64, error) { return boardAllowance, nil },
	}}
}
