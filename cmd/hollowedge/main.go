// Command hollowedge is the hollow edge runtime as a process: see package
// simulators/hollowedge.
package main

import (
	"context"
	"log/slog"

	"github.com/fluidos-edge/testbed/internal/daemon"
	"github.com/fluidos-edge/testbed/simulators/hollowedge"
)

func main() {
	opts := &hollowedge.Options{}
	daemon.Main("hollowedge", opts, func(ctx context.Context, log *slog.Logger, ready func(error)) error {
		return hollowedge.Run(ctx, log, ready, opts)
	})
}
