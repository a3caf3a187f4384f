// Command erm is the edge resource manager; see controllers/erm.
package main

import (
	"context"
	"log/slog"

	"github.com/fluidos-edge/testbed/controllers/erm"
	"github.com/fluidos-edge/testbed/internal/daemon"
)

func main() {
	var opts erm.Options
	daemon.Main("erm", &opts, func(ctx context.Context, log *slog.Logger, ready func(error)) error {
		return erm.Run(ctx, log, ready, opts)
	})
}
