// Command boards is all sensor boards of a provider as a process: see package
// simulators/fleet.
package main

import (
	"context"
	"log/slog"

	"github.com/fluidos-edge/testbed/internal/daemon"
	"github.com/fluidos-edge/testbed/simulators/fleet"
)

func main() {
	opts := &fleet.Options{}
	daemon.Main("boards", opts, func(ctx context.Context, log *slog.Logger, ready func(error)) error {
		return fleet.Run(ctx, log, ready, opts)
	})
}
