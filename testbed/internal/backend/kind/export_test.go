package kind

import (
	"github.com/fluidos-edge/testbed/testbed/internal/images"
	"github.com/fluidos-edge/testbed/testbed/internal/state"
)

// What tests look at from outside.
var (
	CNIConfig = cniConfig
	Routes    = routes
	FullRef   = fullRef
	Sign      = sign
	LogID     = logID
)

// ClusterConfig is what kind is asked for one cluster.
func ClusterConfig(rec *state.Record, name string, n int) any {
	b := New(rec, Config{})
	b.images.node = images.Found{Ref: "testbed/node:v1"}
	return (&cluster{b: b, name: name, n: n}).config()
}
