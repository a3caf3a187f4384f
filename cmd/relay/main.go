// Command relay fans the samples of sensors out to the endpoints that asked for
// them; see package relay.
package main

import (
	"context"
	"log/slog"

	"github.com/fluidos-edge/testbed/controllers/relay"
	"github.com/fluidos-edge/testbed/internal/daemon"
)

func main() {
	var opts relay.Options
	daemon.Main("relay", &opts, func(ctx context.Context, log *slog.Logger, ready func(error)) error {
		return relay.Run(ctx, log, ready, &opts)
	})
}
