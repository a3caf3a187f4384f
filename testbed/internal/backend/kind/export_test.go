package kind

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/fluidos-edge/testbed/testbed/internal/backend"
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

// Component is what Status says of a container.
func Component(rec *state.Record, cluster string, p corev1.Pod, s corev1.ContainerStatus) backend.Component {
	return New(rec, Config{}).component(cluster, "", p, s)
}

// ClusterConfig is what kind is asked for one cluster.
func ClusterConfig(rec *state.Record, name string, n int) any {
	b := New(rec, Config{})
	b.images.node = images.Found{Ref: "testbed/node:v1"}
	return (&cluster{b: b, name: name, n: n}).config()
}
