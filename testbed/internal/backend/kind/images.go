package kind

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/edge/kubeedge"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
	"github.com/fluidos-edge/testbed/testbed/internal/gobuild"
	"github.com/fluidos-edge/testbed/testbed/internal/images"
	"github.com/fluidos-edge/testbed/testbed/internal/images/node"
)

// Published images that are taken where they can be had.
const (
	// nodeRef is kind's image of the Kubernetes version that the embedded backend has too.
	nodeRef     = "docker.io/kindest/node:v1.34.3"
	influxdbRef = "docker.io/library/influxdb:1.8"
	telegrafRef = "docker.io/library/telegraf:1.37"
)

// NodeImageVariable names another node image, such as one of another Kubernetes version.
const NodeImageVariable = "TESTBED_NODE_IMAGE"

// pods are the images of one testbed.
type pods struct {
	resolver                                                  *images.Resolver
	node, components, influxdb, telegraf, cloudcore, edgecore images.Found
	edgecoreProgram                                           string // file of this host
}

// loadable is an image on its way into a node.
type loadable struct {
	found    images.Found
	resolver *images.Resolver
}

func (l loadable) archive(ctx context.Context) (string, error) {
	return l.resolver.Archive(ctx, l.found)
}

// of gives what a cluster's own node needs.
func (p pods) of(provider, kubeEdge bool) []loadable {
	switch {
	case provider && kubeEdge:
		return p.loadables(p.components, p.cloudcore)
	case provider:
		return p.loadables(p.components)
	}
	return p.loadables(p.influxdb, p.telegraf)
}

func (p pods) loadables(all ...images.Found) []loadable {
	var out []loadable
	for _, f := range all {
		out = append(out, loadable{f, p.resolver})
	}
	return out
}

// fullRef is a reference as containerd has it: registry and tag included.
func fullRef(ref string) string {
	t, err := name.NewTag(ref)
	if err != nil {
		return ref
	}
	// The library gives the default registry its old name.
	return strings.Replace(t.Name(), "index.docker.io/", "docker.io/", 1)
}

// Images says where a testbed's images may come from.
type Images struct {
	Archives, Cache, Edge, BinDir string
	Log                           *slog.Logger
	Assets                        func(ctx context.Context, progress func(gobuild.Progress)) (gobuild.Assets, error)
}

func (i Images) resolver(e *engine.Engine) *images.Resolver {
	return &images.Resolver{Engine: e, Archives: i.Archives, Registry: true, Cache: i.Cache}
}

// node is the node image, published or built by us.
func (i Images) node(e *engine.Engine) (images.Wanted, error) {
	w := images.Wanted{Name: "node", Ref: nodeRef}
	if other := os.Getenv(NodeImageVariable); other != "" {
		w.Ref, _, _ = strings.Cut(other, "@") // the tag is what archives and engines keep
		return w, nil
	}
	build := node.Image{Cache: i.Cache, Log: i.Log}
	ref, err := build.Ref()
	if err != nil {
		return w, err
	}
	w.Build = &images.Build{Ref: ref, Estimate: build.Estimate(), Make: func(ctx context.Context, say func(string)) error {
		return build.Make(ctx, e, say)
	}}
	return w, nil
}

func kubeEdgeWanted() []images.Wanted {
	return []images.Wanted{
		{Name: "cloudcore", Ref: kubeedge.CloudCoreRef},
		{Name: "edgecore", Ref: kubeedge.InstallationPackageRef},
	}
}

// Missing says why this host cannot run kind clusters now.
type Missing struct{ Reason string }

func (m Missing) Error() string { return m.Reason }

// Host is what Look found.
type Host struct {
	// Node: the node image is here.
	Node bool
	// KubeEdge: its images are here; else why not.
	KubeEdge       bool
	WhyNotKubeEdge string
}

// Look says what this host could run without building or pulling anything. The
// error is a Missing if no engine answers, or it cannot run nodes.
func Look(ctx context.Context, r command.Runner, i Images) (Host, error) {
	e, err := engine.Find(ctx, r)
	var unavailable *engine.Unavailable
	if errors.As(err, &unavailable) {
		return Host{}, Missing{unavailable.Error()}
	}
	if err != nil {
		return Host{}, err
	}
	if restricted() && !wrapped(e) {
		return Host{}, Missing{"an engine answers, but cannot run privileged containers here (`testbed doctor`)"}
	}
	res := i.resolver(e)
	here := func(w images.Wanted) (bool, error) {
		_, ok, err := res.Look(ctx, w)
		return ok, err
	}
	var h Host
	w, err := i.node(e)
	if err != nil {
		return h, err
	}
	if h.Node, err = here(w); err != nil {
		return h, err
	}
	h.KubeEdge = true
	for _, w := range kubeEdgeWanted() {
		ok, err := here(w)
		if err != nil {
			return h, err
		}
		if !ok && h.KubeEdge {
			h.KubeEdge, h.WhyNotKubeEdge = false, "image "+w.Ref+" is not here"
		}
	}
	return h, nil
}

// resolve finds every image of the testbed, and leaves in the engine what the engine runs.
func (b *Backend) resolve(ctx context.Context, say func(string)) (pods, error) {
	i := Images{Archives: b.rec.Images, Cache: b.cfg.Cache, Edge: b.rec.Edge, BinDir: b.rec.BinDir, Assets: b.cfg.Assets}
	p := pods{resolver: i.resolver(b.engine)}
	w, err := i.node(b.engine)
	if err != nil {
		return p, err
	}
	if p.node, err = i.resolveNode(ctx, p.resolver, w, say); err != nil {
		return p, err
	}
	if w, err = images.Components(i.BinDir); err != nil {
		return p, err
	}
	if p.components, err = p.resolver.Resolve(ctx, w, say); err != nil {
		return p, err
	}
	sinks, err := i.sinks()
	if err != nil {
		return p, err
	}
	for n, found := range []*images.Found{&p.influxdb, &p.telegraf} {
		if *found, err = p.resolver.Resolve(ctx, sinks[n], say); err != nil {
			return p, err
		}
	}
	if !b.kubeEdge() {
		return p, nil
	}
	for n, w := range kubeEdgeWanted() {
		found, err := p.resolver.Resolve(ctx, w, say)
		if err != nil {
			return p, &Error{Err: err, Remedy: "load KubeEdge's images into the engine, give a folder with their archives (--images DIR), or use --edge hollow"}
		}
		if n == 0 {
			p.cloudcore = found
		} else {
			p.edgecore = found
		}
	}
	p.edgecoreProgram = filepath.Join(i.Cache, "images", "edgecore-"+strings.TrimPrefix(p.edgecore.Digest, "sha256:"))
	if _, err := os.Stat(p.edgecoreProgram); err == nil {
		return p, nil
	}
	say("EdgeCore out of " + p.edgecore.Ref)
	return p, p.resolver.Extract(ctx, p.edgecore, "/usr/local/bin/edgecore", p.edgecoreProgram)
}

func (i Images) resolveNode(ctx context.Context, r *images.Resolver, w images.Wanted, say func(string)) (images.Found, error) {
	f, err := r.Resolve(ctx, w, say)
	if err == nil {
		err = r.EnsureInEngine(ctx, f)
	}
	return f, err
}

// sinks are the images of what a sink runs: published, or assembled out of what
// the embedded backend builds for itself.
func (i Images) sinks() ([]images.Wanted, error) {
	a, missing, err := gobuild.Locate(i.Cache)
	if err != nil {
		return nil, err
	}
	estimate := assetsEstimate
	if len(missing) == 0 {
		estimate = 0
	}
	var out []images.Wanted
	for _, s := range []struct{ name, ref, program string }{{"influxdb", influxdbRef, "influxd"}, {"telegraf", telegrafRef, "telegraf"}} {
		out = append(out, images.Pinned(s.name, s.ref, gobuild.Versions()[s.name], filepath.Base(a.Dir), estimate,
			func(ctx context.Context, say func(string)) (string, error) {
				a, err := i.Assets(ctx, func(g gobuild.Progress) {
					say(fmt.Sprintf("%s (%d of %d) %s, about %s left", g.Asset, g.Done+1, g.Total, g.Detail, g.Left.Round(time.Second)))
				})
				return a.Path(s.program), err
			}))
	}
	return out, nil
}

// assetsEstimate is what a build of the embedded backend's programs takes on two cores.
const assetsEstimate = 12 * time.Minute

// OurImages is the pattern of what we build, as the engine lists it.
const OurImages = "testbed/*"

// List says of each image of a testbed where it is; Source is empty if it is not here.
func (i Images) List(ctx context.Context, e *engine.Engine) ([]images.Found, error) {
	nodeImage, err := i.node(e)
	if err != nil {
		return nil, err
	}
	components, err := images.Components(i.BinDir)
	if err != nil {
		return nil, err
	}
	sinks, err := i.sinks()
	if err != nil {
		return nil, err
	}
	wanted := slices.Concat([]images.Wanted{nodeImage, components}, sinks, kubeEdgeWanted())
	r := i.resolver(e)
	var out []images.Found
	for _, w := range wanted {
		f, ok, err := r.Look(ctx, w)
		if err != nil {
			return out, err
		}
		if !ok {
			f = images.Found{Name: w.Name, Ref: cmp.Or(w.Ref, w.Name)}
			if w.Ref == "" && w.Build != nil {
				f.Ref = w.Build.Ref
			}
		}
		out = append(out, f)
	}
	return out, nil
}

// BuildNode builds the node image, unless the engine has it.
func (i Images) BuildNode(ctx context.Context, e *engine.Engine, say func(string)) (images.Found, error) {
	w, err := i.node(e)
	if err != nil {
		return images.Found{}, err
	}
	if w.Build == nil {
		return images.Found{}, fmt.Errorf("%s names a node image, which is not ours to build", NodeImageVariable)
	}
	r := i.resolver(e)
	r.Registry = false
	return i.resolveNode(ctx, r, images.Wanted{Name: w.Name, Build: w.Build}, say)
}
