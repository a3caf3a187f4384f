package testbed

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/fluidos-edge/testbed/testbed/internal/backend/kind"
	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
	"github.com/fluidos-edge/testbed/testbed/internal/gobuild"
	"github.com/fluidos-edge/testbed/testbed/internal/state"
)

// Image is an image that testbeds on kind need, and where it is.
type Image struct {
	Ref    string `json:"ref"`
	Digest string `json:"digest"`
	// Source is engine, archive, registry or built; empty if it is not here yet.
	Source string `json:"source"`
	Bytes  int64  `json:"bytes"`
}

// Images lists what a testbed on kind needs, and what of it is here. It writes nothing.
func Images(ctx context.Context, o Options) ([]Image, error) {
	i, e, err := imagesOf(ctx, &o)
	if err != nil {
		return nil, err
	}
	found, err := i.List(ctx, e)
	var out []Image
	for _, f := range found {
		out = append(out, Image{Ref: f.Ref, Digest: f.Digest, Source: string(f.Source), Bytes: f.Bytes})
	}
	return out, err
}

// BuildNodeImage builds the image of kind's nodes, unless the engine has it.
func BuildNodeImage(ctx context.Context, o Options) (*Image, error) {
	i, e, err := imagesOf(ctx, &o)
	if err != nil {
		return nil, err
	}
	var image *Image
	ph := newPhases(o.Progress)
	err = ph.step(ctx, "node image", func(say func(string)) error {
		f, err := i.BuildNode(ctx, e, say)
		image = &Image{Ref: f.Ref, Digest: f.Digest, Source: string(f.Source), Bytes: f.Bytes}
		return err
	})
	return image, err
}

// imagesOf is where images may come from, and the engine that is there.
func imagesOf(ctx context.Context, o *Options) (kind.Images, *engine.Engine, error) {
	if err := o.normalize(); err != nil {
		return kind.Images{}, nil, err
	}
	var err error
	if o.BinDir, err = findBinaries(o.BinDir); err != nil {
		return kind.Images{}, nil, err
	}
	e, err := engine.Find(ctx, command.Local{})
	return kind.Images{Archives: o.Images, Cache: state.Cache(), Log: o.Log, Edge: o.Edge, BinDir: o.BinDir, Assets: buildAssets(*o)}, e, err
}

func buildAssets(o Options) func(context.Context, func(gobuild.Progress)) (gobuild.Assets, error) {
	return func(ctx context.Context, progress func(gobuild.Progress)) (gobuild.Assets, error) {
		return gobuild.Build(ctx, state.Cache(), o.Log, progress)
	}
}

// PruneCache removes what was built or pulled for testbeds: the cache, and our images in
// the engine, if one answers. It refuses while a testbed is there. It returns the
// size of the files that went.
func PruneCache(ctx context.Context, o Options) (int64, error) {
	if err := o.normalize(); err != nil {
		return 0, err
	}
	if names := Names(); len(names) > 0 {
		return 0, &InputError{Field: "cache", Value: state.Cache(), Want: "to go when no testbed uses it; `testbed down` " + strings.Join(names, ", ") + " first"}
	}
	var bytes int64
	_ = filepath.WalkDir(state.Cache(), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				bytes += info.Size()
			}
		}
		return nil
	})
	err := newPhases(o.Progress).step(ctx, "cache", func(say func(string)) error {
		say(state.Cache())
		if err := os.RemoveAll(state.Cache()); err != nil {
			return err
		}
		e, err := engine.Find(ctx, command.Local{})
		if err != nil {
			o.Log.Info("no engine to remove images from", "err", err)
			return nil
		}
		refs, err := e.Images(ctx, kind.OurImages)
		if err != nil {
			return err
		}
		say(fmt.Sprintf("%d images in the engine", len(refs)))
		return e.RemoveImages(ctx, refs...)
	})
	return bytes, err
}
