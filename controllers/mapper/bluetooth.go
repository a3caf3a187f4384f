//go:build bluetooth

package mapper

import (
	"context"
	"log/slog"

	"github.com/fluidos-edge/testbed/controllers/mapper/bluetooth"
)

// adapterOpener opens a real adapter.
func adapterOpener(adapter string, log *slog.Logger) (func(context.Context) (Central, error), error) {
	return func(ctx context.Context) (Central, error) {
		c, err := bluetooth.Open(ctx, adapter, log)
		if err != nil {
			return nil, err
		}
		return central[*bluetooth.Peer]{c}, nil
	}, nil
}
