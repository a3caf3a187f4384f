package testbed

import (
	"context"
	"errors"
	"fmt"

	"github.com/fluidos-edge/testbed/testbed/internal/backend/kind"
	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/state"
)

// Backends and edge runtimes.
const (
	Auto = "auto"

	BackendEmbedded = "embedded"
	BackendKind     = "kind"

	EdgeHollow   = "hollow"
	EdgeKubeEdge = "kubeedge"
)

// Choice is a backend with an edge runtime, and why it was taken.
type Choice struct {
	Backend, Edge string
	Why           string
	// Other is the choice that was not made, as arguments of up; empty if there was none.
	Other string
}

// auto leaves the choice to us.
func auto(s string) bool { return s == "" || s == Auto }

// checkPair judges what is asked for by itself.
func (o *Options) checkPair() error {
	switch {
	case !auto(o.Backend) && o.Backend != BackendEmbedded && o.Backend != BackendKind:
		return &InputError{Field: "backend", Value: o.Backend, Want: "auto, embedded or kind"}
	case !auto(o.Edge) && o.Edge != EdgeHollow && o.Edge != EdgeKubeEdge:
		return &InputError{Field: "edge", Value: o.Edge, Want: "auto, hollow or kubeedge"}
	case o.Backend == BackendEmbedded && o.Edge == EdgeKubeEdge:
		return &InputError{Field: "edge", Value: o.Edge, Want: "hollow on the embedded backend, which has no containers, or --backend kind"}
	}
	return nil
}

// Choose says which backend and edge runtime Up takes: those that are asked for,
// or those that the testbed has. Otherwise kind, and KubeEdge, only where an engine
// answers, can run nodes, and has the images already: nothing is built or
// pulled that was not asked for.
func Choose(ctx context.Context, o Options) (Choice, error) {
	if err := o.normalize(); err != nil {
		return Choice{}, err
	}
	if err := o.checkPair(); err != nil {
		return Choice{}, err
	}
	if rec, err := state.Load(o.Name); err == nil && rec.Backend != "" {
		c := Choice{Backend: rec.Backend, Edge: rec.Edge, Why: "testbed " + o.Name + " has them"}
		for _, f := range []struct{ field, asked, has string }{{"backend", o.Backend, rec.Backend}, {"edge", o.Edge, rec.Edge}} {
			if !auto(f.asked) && f.asked != f.has {
				return Choice{}, &InputError{Field: f.field, Value: f.asked,
					Want: fmt.Sprintf("%s, which testbed %s runs on, or `testbed down --name %s` first", f.has, o.Name, o.Name)}
			}
		}
		return c, nil
	}
	look := func() (kind.Host, error) {
		return kind.Look(ctx, command.Local{}, kind.Images{Archives: o.Images, Cache: state.Cache(), Edge: o.Edge, BinDir: o.BinDir})
	}
	switch {
	case o.Backend == BackendEmbedded:
		return Choice{Backend: BackendEmbedded, Edge: EdgeHollow, Why: "asked for"}, nil
	case o.Backend == BackendKind && !auto(o.Edge):
		return Choice{Backend: BackendKind, Edge: o.Edge, Why: "asked for"}, nil
	case o.Backend == BackendKind:
		host, err := look()
		if err != nil {
			return Choice{}, err
		}
		if host.KubeEdge {
			return Choice{Backend: BackendKind, Edge: EdgeKubeEdge, Why: "KubeEdge's images are here", Other: "--backend kind --edge hollow"}, nil
		}
		return Choice{Backend: BackendKind, Edge: EdgeHollow, Why: host.WhyNotKubeEdge, Other: "--backend kind --edge kubeedge"}, nil
	}
	host, err := look()
	var missing kind.Missing
	switch {
	case errors.As(err, &missing):
		c := Choice{Backend: BackendEmbedded, Edge: EdgeHollow, Why: missing.Error(), Other: "--backend kind"}
		if o.Edge == EdgeKubeEdge {
			return Choice{}, &InputError{Field: "edge", Value: o.Edge, Want: "hollow, or --backend kind as well: " + missing.Error()}
		}
		return c, nil
	case err != nil:
		return Choice{}, err
	case !host.Node:
		if o.Edge == EdgeKubeEdge {
			return Choice{}, &InputError{Field: "edge", Value: o.Edge, Want: "hollow, or --backend kind as well, which gets the node image that is not here"}
		}
		return Choice{Backend: BackendEmbedded, Edge: EdgeHollow, Why: "an engine answers, but has no node image", Other: "--backend kind"}, nil
	}
	c := Choice{Backend: BackendKind, Edge: EdgeHollow, Why: "an engine answers and has the node image", Other: "--backend embedded"}
	switch {
	case o.Edge == EdgeKubeEdge || auto(o.Edge) && host.KubeEdge:
		c.Edge = EdgeKubeEdge
	case auto(o.Edge):
		c.Why += "; " + host.WhyNotKubeEdge
	}
	return c, nil
}
