package images_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
	"github.com/fluidos-edge/testbed/testbed/internal/images"
)

// TestRealEngine takes images in and out of the engine of this machine.
func TestRealEngine(t *testing.T) {
	e, err := engine.Find(t.Context(), command.Local{})
	if err != nil {
		t.Skip(err)
	}
	suffix := ":test-" + strconv.Itoa(os.Getpid())
	refs := []string{"testbed/images" + suffix, "testbed/images-two" + suffix}
	t.Cleanup(func() {
		if err := e.RemoveImages(context.Background(), refs...); err != nil {
			t.Error(err)
		}
	})
	// Two layers, one of which both images have: docker saves a shared one as a link.
	one := image(t, "shared")
	layers, err := image(t, "own").Layers()
	if err != nil {
		t.Fatal(err)
	}
	two, err := mutate.AppendLayers(one, layers...)
	if err != nil {
		t.Fatal(err)
	}
	made := &images.Resolver{Engine: e, Cache: t.TempDir()}
	for i, img := range []v1.Image{one, two} {
		w := images.Wanted{Name: "test", Build: built(img)}
		w.Build.Ref = refs[i]
		if _, ok, err := made.Look(t.Context(), w); ok || err != nil {
			t.Fatalf("before: %v, %v", ok, err)
		}
		f, err := made.Resolve(t.Context(), w, nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := made.EnsureInEngine(t.Context(), f); err != nil {
				t.Fatal(err)
			}
		}
		out := &images.Resolver{Engine: e, Cache: t.TempDir()}
		there, ok, err := out.Look(t.Context(), w)
		if err != nil || !ok {
			t.Fatalf("after: %v, %v", ok, err)
		}
		if there.Source != images.FromEngine || there.Digest != f.Digest || there.Archive != "" {
			t.Errorf("found %+v, loaded %+v", there, f)
		}
		at, err := out.Archive(t.Context(), there)
		if err != nil {
			t.Fatal(err)
		}
		alone(t, at, refs[i], f.Digest)
		to := filepath.Join(t.TempDir(), "text")
		if err := out.Extract(t.Context(), there, "/etc/text", to); err != nil {
			t.Fatal(err)
		}
		if got := string(readFile(t, to)); got != []string{"shared", "own"}[i] {
			t.Errorf("extracted %q", got)
		}
	}

	// An archive of both, as the engine writes it, is a source like any other.
	shelf := t.TempDir()
	file, err := os.Create(filepath.Join(shelf, "both.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := e.Save(t.Context(), file, refs...); err != nil {
		t.Fatal(err)
	}
	if err := e.RemoveImages(t.Context(), refs...); err != nil {
		t.Fatal(err)
	}
	for _, ref := range refs {
		r := &images.Resolver{Engine: e, Archives: shelf, Cache: t.TempDir()}
		f, err := r.Resolve(t.Context(), images.Wanted{Name: "test", Ref: "docker.io/" + ref}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if f.Source != images.FromArchive || !strings.HasPrefix(f.Archive, r.Cache) {
			t.Errorf("found %+v", f)
		}
		alone(t, f.Archive, f.Ref, f.Digest)
		if err := r.EnsureInEngine(t.Context(), f); err != nil {
			t.Error(err)
		}
	}
}
