// Command mapper is the agent on one edge node: it registers the boards that the
// node's radio hears and publishes what they measure. See package mapper.
package main

import (
	"context"
	"log/slog"

	"github.com/fluidos-edge/testbed/controllers/mapper"
	"github.com/fluidos-edge/testbed/internal/daemon"
)

func main() {
	var o mapper.Options
	daemon.Main("mapper", &o, func(ctx context.Context, log *slog.Logger, ready func(error)) error {
		return mapper.Run(ctx, log, ready, o)
	})
}
