package bench

import (
	"context"
	"errors"
)

// What tests see of the rows.
var (
	PickNodeImage = pickNodeImage
	Boards        = boards
)

// PeerUp measures the peer of kind-up once.
func PeerUp(ctx context.Context, image, dir string) (float64, error) {
	b, err := newBare(image, dir)
	var seconds float64
	if err == nil {
		seconds, err = b.up(ctx)
	}
	return seconds, errors.Join(err, b.close())
}
