//go:build !bluetooth

package mapper

import (
	"context"
	"errors"
	"log/slog"
)

// adapterOpener says how to get what this build lacks.
func adapterOpener(string, *slog.Logger) (func(context.Context) (Central, error), error) {
	return nil, errors.New("this mapper was built without Bluetooth; build it with `go build -tags bluetooth ./cmd/mapper`")
}
