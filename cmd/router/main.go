// Command router turns DataPaths into KubeEdge Rules; see package router.
package main

import (
	"context"
	"log/slog"

	"github.com/fluidos-edge/testbed/controllers/router"
	"github.com/fluidos-edge/testbed/internal/daemon"
)

func main() {
	var opts router.Options
	daemon.Main("router", &opts, func(ctx context.Context, log *slog.Logger, ready func(error)) error {
		return router.Run(ctx, log, ready, &opts)
	})
}
