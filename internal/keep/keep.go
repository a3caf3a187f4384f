//go:build never

// Package keep holds requirements of go.mod until their users are there.
package keep

import (
	_ "github.com/google/go-containerregistry/pkg/registry"
	_ "github.com/google/go-containerregistry/pkg/v1/tarball"
	_ "github.com/testcontainers/testcontainers-go"
	_ "helm.sh/helm/v3/pkg/action"
	_ "sigs.k8s.io/kind/pkg/cluster"
)
