#!/usr/bin/env bash
# Writes what is generated from markers: deep copies, definitions, rights.
set -euo pipefail
cd "$(dirname "$0")/.."
gen() { go tool controller-gen "$@"; }
gen object:headerFile=hack/boilerplate.go.txt paths=./controllers/api/...
rm -rf charts/crds charts/rbac
gen crd paths=./controllers/api/... output:crd:dir=charts/crds
for component in erm router relay mapper; do
  gen "rbac:roleName=$component" "paths=./controllers/$component/..." "output:rbac:dir=charts/rbac/$component"
done
gen rbac:roleName=hollowedge paths=./simulators/hollowedge/... output:rbac:dir=charts/rbac/hollowedge
