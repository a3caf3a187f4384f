package command

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// Fake is a Runner that records and answers. Its zero value answers every
// command with success and no output. It is safe for concurrent use.
type Fake struct {
	// Answer, if set, plays the command. An error that is no *Error is
	// wrapped into one, as Local does.
	Answer func(ctx context.Context, c Cmd) (Result, error)

	mu    sync.Mutex
	calls []Cmd
}

// Run records c and answers it.
func (f *Fake) Run(ctx context.Context, c Cmd) (Result, error) {
	f.mu.Lock()
	f.calls = append(f.calls, c)
	f.mu.Unlock()
	if ctx.Err() != nil {
		return Result{}, &Error{Argv: c.Argv, Dir: c.Dir, Code: -1, Err: context.Cause(ctx)}
	}
	if f.Answer == nil {
		return Result{}, nil
	}
	res, err := f.Answer(ctx, c)
	var known *Error
	if err != nil && !errors.As(err, &known) {
		err = &Error{Argv: c.Argv, Dir: c.Dir, Code: -1, Tail: Tail(res.Stderr, tailLines), Err: err}
	}
	return res, err
}

// Calls gives the commands so far, in order.
func (f *Fake) Calls() []Cmd {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}
