// Package charts holds what is installed into clusters, as files: the
// definitions (crds) and each component's rights (rbac), both generated from
// markers in controllers/ and simulators/. Every backend installs from here.
package charts

import "embed"

// FS holds crds/*.yaml and rbac/<component>/role.yaml.
//
//go:embed crds rbac
var FS embed.FS
