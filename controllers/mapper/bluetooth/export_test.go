//go:build bluetooth

package bluetooth

import (
	"context"
	"log/slog"

	"github.com/fluidos-edge/testbed/simulators/radio"
)

// What a test puts in the place of BlueZ.
type (
	Stack          = stack
	Device         = device
	Characteristic = characteristic
	Sighting       = sighting
)

// OpenStack is Open on another stack; link and gone are its news.
func OpenStack(ctx context.Context, log *slog.Logger, dial func(link func(radio.Address), gone func(error)) (Stack, error)) (*Central, error) {
	return open(ctx, log, func(n news) (stack, error) { return dial(n.link, n.gone) })
}

// Payload puts advertising data together.
var Payload = payload
