#!/usr/bin/env bash
# Writes what is generated: Go from the DMI's proto file; deep copies, definitions and
# rights from markers.
set -euo pipefail
cd "$(dirname "$0")/.."

# buf takes minutes to compile, so it runs only if a file named in dmi.sum has changed.
buf() { go run github.com/bufbuild/buf/cmd/buf@v1.75.0 "$@"; }
pushd controllers/api/dmi >/dev/null
if ! sha256sum --check --strict --status dmi.sum; then
  buf lint
  buf generate
  sha256sum buf.yaml buf.gen.yaml v1beta1/dmi.proto v1beta1/dmi.pb.go v1beta1/dmi_grpc.pb.go >dmi.sum
fi
popd >/dev/null

gen() { go tool controller-gen "$@"; }
gen object:headerFile=hack/boilerplate.go.txt paths=./controllers/api/...
rm -rf charts/crds charts/rbac
gen crd paths=./controllers/api/... output:crd:dir=charts/crds
for component in erm router relay mapper; do
  gen "rbac:roleName=$component" "paths=./controllers/$component/..." "output:rbac:dir=charts/rbac/$component"
done
gen rbac:roleName=hollowedge paths=./simulators/hollowedge/... output:rbac:dir=charts/rbac/hollowedge
