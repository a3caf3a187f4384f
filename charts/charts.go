// Package charts holds what is installed into clusters, as files: the
// definitions (crds) and each component's rights (rbac), both generated from
// markers in controllers/ and simulators/, and a Helm chart for each component. Every
// backend installs from here.
//
// Every chart depends on the library chart lib, by which all Pods are alike.
// Package release adds it when it loads a chart; for Helm's own command line
// `helm dependency build charts/<component>` does.
package charts

import "embed"

// FS holds crds/*.yaml, rbac/<component>/role.yaml and <component>/{Chart.yaml,...}.
//
//go:embed crds rbac */Chart.yaml */values.yaml */values.schema.json all:*/templates cloudcore/crds
var FS embed.FS
