package images_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
	"github.com/fluidos-edge/testbed/testbed/internal/images"
)

const upstream = "docker.io/library/thing:1.0"

func emptyIndex(testing.TB) v1.ImageIndex { return empty.Index }

// built is a way to build an image.
func built(img v1.Image) *images.Build {
	return &images.Build{Ref: "testbed/thing:0123", Estimate: 90 * time.Second,
		Image: func(context.Context, func(string)) (v1.Image, error) { return img, nil }}
}

// Every source is taken only if those before it have nothing.
func TestOrder(t *testing.T) {
	up, ours := image(t, "upstream"), image(t, "ours")
	shelf := t.TempDir()
	save(t, filepath.Join(shelf, "thing.tar"), map[string]v1.Image{"thing:1.0": up})
	reg := serve(t)
	published := reg.push(t, "library/thing:1.0", up)

	for _, tc := range []struct {
		name    string
		engine  map[string]v1.Image
		shelf   string
		ref     string
		ask     bool
		build   *images.Build
		cached  bool // a second Resolver, without any source, finds it
		look    bool
		want    images.Found
		said    string
		archive string
	}{
		{name: "engine", engine: map[string]v1.Image{upstream: up, "testbed/thing:0123": ours}, shelf: shelf, ref: upstream, build: built(ours), look: true,
			want: images.Found{Ref: upstream, Source: images.FromEngine, Digest: id(t, up)}},
		{name: "engine, ours", engine: map[string]v1.Image{"testbed/thing:0123": ours}, shelf: shelf, ref: upstream, build: built(ours), look: true,
			want: images.Found{Ref: "testbed/thing:0123", Source: images.FromEngine, Digest: id(t, ours)}},
		{name: "archive", engine: map[string]v1.Image{"other": ours}, shelf: shelf, ref: upstream, build: built(ours), look: true,
			want: images.Found{Ref: upstream, Source: images.FromArchive, Digest: id(t, up)}},
		{name: "engine for another platform", engine: map[string]v1.Image{upstream: foreign(t, up)}, shelf: shelf, ref: upstream, look: true,
			want: images.Found{Ref: upstream, Source: images.FromArchive, Digest: id(t, up)}},
		{name: "registry", engine: map[string]v1.Image{}, ref: published, ask: true, build: built(ours), cached: true,
			want: images.Found{Ref: published, Source: images.FromRegistry, Digest: id(t, up)}, said: "pulling " + published},
		{name: "built", engine: map[string]v1.Image{}, ref: published, build: built(ours), cached: true,
			want: images.Found{Ref: "testbed/thing:0123", Source: images.FromBuild, Digest: id(t, ours)}, said: "building testbed/thing:0123, which takes about 1m30s"},
		{name: "built, without an engine", build: built(ours), cached: true,
			want: images.Found{Ref: "testbed/thing:0123", Source: images.FromBuild, Digest: id(t, ours)}, said: "building"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &images.Resolver{Archives: tc.shelf, Registry: tc.ask, Cache: t.TempDir()}
			if tc.engine != nil {
				r.Engine = newEngine(t, tc.engine).engine()
			}
			w := images.Wanted{Name: "thing", Ref: tc.ref, Build: tc.build}
			tc.want.Name = "thing"

			before, ok, err := r.Look(t.Context(), w)
			if err != nil || ok != tc.look {
				t.Fatalf("look: %v, %v", ok, err)
			}
			if left := files(t, r.Cache); left != nil {
				t.Errorf("look wrote %v", left)
			}
			var said []string
			got, err := r.Resolve(t.Context(), w, func(s string) { said = append(said, s) })
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(strings.Join(said, "\n"), tc.said) || tc.said == "" && said != nil {
				t.Errorf("said %q, want %q", said, tc.said)
			}
			ignore := cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "Archive" || p.String() == "Bytes" }, cmp.Ignore())
			if diff := cmp.Diff(tc.want, got, ignore); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if got.Bytes == 0 {
				t.Error("no size")
			}
			if tc.look && before.Digest != got.Digest {
				t.Errorf("look found %v", before)
			}

			// Whatever the source, it can be had as an archive, and be loaded.
			at, err := r.Archive(t.Context(), got)
			if err != nil {
				t.Fatal(err)
			}
			alone(t, at, got.Ref, got.Digest)
			if got.Archive != "" && at != got.Archive {
				t.Errorf("archive is %s, then %s", got.Archive, at)
			}
			other := &images.Resolver{Engine: newEngine(t, nil).engine(), Cache: r.Cache}
			if err := other.EnsureInEngine(t.Context(), images.Found{Name: got.Name, Ref: got.Ref, Digest: got.Digest, Source: got.Source, Archive: at}); err != nil {
				t.Error(err)
			}
			if f, ok, err := other.Look(t.Context(), w); err != nil || !ok || f.Source != images.FromEngine || f.Digest != got.Digest {
				t.Errorf("after loading: %+v, %v, %v", f, ok, err)
			}
			if !tc.cached {
				return
			}
			again, ok, err := (&images.Resolver{Cache: r.Cache}).Look(t.Context(), w)
			if err != nil || !ok {
				t.Fatalf("not in the cache: %v", err)
			}
			if diff := cmp.Diff(got, again); diff != "" {
				t.Errorf("from the cache (-first +then):\n%s", diff)
			}
		})
	}
}

// alone checks that an archive holds one image under one reference.
func alone(t *testing.T, file, ref, digest string) {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tarball.ImageFromPath(file, &tag); err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(file, nil) // fails for more than one
	if err != nil {
		t.Fatal(err)
	}
	if got := id(t, img); got != digest {
		t.Errorf("%s holds %s, want %s", file, got, digest)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		want, err := l.DiffID()
		if err != nil {
			t.Fatal(err)
		}
		content, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := v1.SHA256(content)
		if err = errors.Join(err, content.Close()); err != nil || got != want {
			t.Errorf("a layer is %s, want %s: %v", got, want, err)
		}
	}
}

// A node image is made in the engine.
func TestMadeInTheEngine(t *testing.T) {
	img := image(t, "node")
	e := newEngine(t, nil)
	r := &images.Resolver{Engine: e.engine(), Cache: t.TempDir()}
	made := 0
	w := images.Wanted{Name: "node", Build: &images.Build{Ref: "testbed/node:v1-0123", Make: func(_ context.Context, say func(string)) error {
		made++
		say("half way")
		e.mu.Lock()
		defer e.mu.Unlock()
		e.images[canonical(t, "testbed/node:v1-0123")] = img
		return nil
	}}}
	f, err := r.Resolve(t.Context(), w, nil)
	if err != nil {
		t.Fatal(err)
	}
	if f.Source != images.FromBuild || f.Digest != id(t, img) || f.Archive != "" {
		t.Errorf("%+v", f)
	}
	if f, err = r.Resolve(t.Context(), w, nil); err != nil || f.Source != images.FromEngine || made != 1 {
		t.Errorf("again: %+v, %v, made %d times", f, err, made)
	}
	at, err := r.Archive(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	alone(t, at, f.Ref, f.Digest)
	// It is saved once.
	before := len(e.runs.Calls())
	if again, err := r.Archive(t.Context(), f); err != nil || again != at || len(e.runs.Calls()) != before {
		t.Errorf("again: %s, %v, %v", again, err, e.runs.Calls()[before:])
	}
	// If the name moves, what was found is not there.
	e.images[canonical(t, f.Ref)] = image(t, "another")
	if err := os.Remove(at); err != nil {
		t.Fatal(err)
	}
	var known *images.Error
	if _, err := r.Archive(t.Context(), f); !errors.As(err, &known) || !strings.Contains(err.Error(), "gone since") {
		t.Errorf("another image is taken for it: %v", err)
	}
}

func TestErrors(t *testing.T) {
	shelf := t.TempDir()
	save(t, filepath.Join(shelf, "a.tar"), map[string]v1.Image{"influxdb:1.8": image(t, "a")})
	save(t, filepath.Join(shelf, "b.tar"), map[string]v1.Image{"thing:1.0": foreign(t, image(t, "b")), "other": image(t, "c")})
	write(t, filepath.Join(shelf, "c.tar"), []byte("not an archive"))
	write(t, filepath.Join(shelf, "notes.txt"), []byte("not looked at"))
	none := t.TempDir()
	platform := "linux/" + runtime.GOARCH

	broken := &engine.Engine{Runner: &command.Fake{Answer: func(context.Context, command.Cmd) (command.Result, error) {
		return command.Result{}, errors.New("it fell over")
	}}}
	failing := &images.Build{Ref: "testbed/thing:0123", Image: func(context.Context, func(string)) (v1.Image, error) {
		return nil, &images.Error{What: "go", Causes: []error{errors.New("not installed")}, Remedy: "install Go"}
	}}
	for _, tc := range []struct {
		name      string
		r         *images.Resolver
		w         images.Wanted
		want, fix string
	}{
		{name: "nowhere", r: &images.Resolver{Engine: newEngine(t, nil).engine(), Archives: none},
			w:    images.Wanted{Name: "thing", Ref: upstream},
			want: "image thing (docker.io/library/thing:1.0): not in the engine; not in " + none + " (what is there: no archive); registry: not to be asked; cannot be built here: we have no recipe for it",
			fix:  "let registries be asked; or where it is at hand, `docker save -o thing.tar docker.io/library/thing:1.0`, and give the folder by --images"},
		{name: "others there", r: &images.Resolver{Archives: shelf},
			w: images.Wanted{Name: "telegraf", Ref: "telegraf:1.37", Build: failing},
			want: "image telegraf (telegraf:1.37, testbed/thing:0123): no container engine to look in; not in " + shelf + " (what is there: influxdb:1.8, other:latest, thing:1.0, c.tar, unusable: unexpected EOF); " +
				"registry: not to be asked; building it: go: not installed",
			fix: "install Go; or let registries be asked; or where it is at hand, `docker save -o telegraf.tar telegraf:1.37`, and give the folder by --images"},
		{name: "another platform", r: &images.Resolver{Engine: newEngine(t, map[string]v1.Image{upstream: foreign(t, image(t, "x"))}).engine(), Archives: shelf},
			w: images.Wanted{Name: "thing", Ref: upstream},
			want: "image thing (docker.io/library/thing:1.0): in the engine is one for linux/vax, not " + platform + "; in " + shelf + "/b.tar is one for linux/vax, not " + platform +
				"; registry: not to be asked; cannot be built here: we have no recipe for it",
			fix: "let registries be asked; or where it is at hand, `docker save -o thing.tar docker.io/library/thing:1.0`, and give the folder by --images"},
		{name: "broken engine", r: &images.Resolver{Engine: broken},
			w:    images.Wanted{Name: "node", Build: &images.Build{Ref: "testbed/node:1", Make: func(context.Context, func(string)) error { return errors.New("no space left") }}},
			want: "image node (testbed/node:1): the engine does not say: docker image inspect testbed/node:1: it fell over; in no registry; building it: no space left"},
		{name: "needs an engine",
			w:    images.Wanted{Name: "node", Build: &images.Build{Ref: "testbed/node:1", Make: func(context.Context, func(string)) error { return nil }}},
			want: "image node (testbed/node:1): no container engine to look in; in no registry; cannot be built here: that needs a container engine",
			fix:  "start a container engine"},
		{name: "no such folder", r: &images.Resolver{Archives: filepath.Join(none, "x")}, w: images.Wanted{Name: "thing", Ref: upstream},
			want: "--images " + none + "/x: no such file or directory",
			fix:  "name a folder that holds archives of images (*.tar, *.tar.gz) as `docker save` writes them"},
		{name: "a file", r: &images.Resolver{Archives: filepath.Join(shelf, "notes.txt")}, w: images.Wanted{Name: "thing", Ref: upstream},
			want: "--images " + shelf + "/notes.txt: not a directory",
			fix:  "name a folder that holds archives of images (*.tar, *.tar.gz) as `docker save` writes them"},
		{name: "a digest", w: images.Wanted{Name: "thing", Ref: "thing@sha256:" + strings.Repeat("0", 64)},
			want: "image thing: thing@sha256:" + strings.Repeat("0", 64) + ": name it by its tag, without a digest: archives do not keep one"},
		{name: "nothing", w: images.Wanted{Name: "thing"}, want: "image thing: neither a reference nor a way to build it is known"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.r == nil {
				tc.r = &images.Resolver{}
			}
			tc.r.Cache = t.TempDir()
			_, err := tc.r.Resolve(t.Context(), tc.w, nil)
			if err == nil {
				t.Fatal("it was found")
			}
			if diff := cmp.Diff(tc.want, err.Error()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			var known *images.Error
			got := ""
			if errors.As(err, &known) {
				got = known.Fix()
			}
			if diff := cmp.Diff(tc.fix, got); diff != "" {
				t.Errorf("fix, -want +got:\n%s", diff)
			}
			if left := files(t, tc.r.Cache); left != nil {
				t.Errorf("left %v", left)
			}
		})
	}
}

func TestArchives(t *testing.T) {
	a, b := image(t, "a"), image(t, "b")
	index := mutate.AppendManifests(emptyIndex(t),
		mutate.IndexAddendum{Add: foreign(t, a), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "vax"}}},
		mutate.IndexAddendum{Add: a, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}})
	for _, tc := range []struct {
		name    string
		write   func(file string)
		ref     string
		want    v1.Image
		inPlace bool
	}{
		{name: "alone", write: func(f string) { save(t, f, map[string]v1.Image{"thing:1": a}) }, ref: "docker.io/library/thing:1", want: a, inPlace: true},
		{name: "the tag left out", write: func(f string) { save(t, f, map[string]v1.Image{"thing": a}) }, ref: "docker.io/thing", want: a, inPlace: true},
		{name: "among others", write: func(f string) { save(t, f, map[string]v1.Image{"thing:1": a, "thing:2": b}) }, ref: "thing:2", want: b},
		{name: "under two names", write: func(f string) { save(t, f, map[string]v1.Image{"thing:1": a, "example.org/other:2": a}) }, ref: "example.org/other:2", want: a},
		{name: "compressed", write: func(f string) { save(t, f, map[string]v1.Image{"thing:1": a}); zip(t, f) }, ref: "thing:1", want: a},
		{name: "OCI, two platforms", write: func(f string) { saveOCI(t, f, "docker.io/library/thing:1", index) }, ref: "thing:1", want: a},
		{name: "OCI, compressed", write: func(f string) { saveOCI(t, f, "docker.io/library/thing:1", index); zip(t, f) }, ref: "thing:1", want: a},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &images.Resolver{Archives: t.TempDir(), Cache: t.TempDir()}
			tc.write(filepath.Join(r.Archives, "x.tar"))
			w := images.Wanted{Name: "thing", Ref: tc.ref}
			f, ok, err := r.Look(t.Context(), w)
			if err != nil || !ok {
				t.Fatalf("look: %v, %v", ok, err)
			}
			if (f.Archive != "") != tc.inPlace {
				t.Errorf("archive is %q", f.Archive)
			}
			if f, err = r.Resolve(t.Context(), w, nil); err != nil {
				t.Fatal(err)
			}
			if f.Source != images.FromArchive || f.Digest != id(t, tc.want) || f.Bytes == 0 {
				t.Errorf("%+v", f)
			}
			alone(t, f.Archive, tc.ref, f.Digest)
			if tc.inPlace != strings.HasPrefix(f.Archive, r.Archives) {
				t.Errorf("archive is %s", f.Archive)
			}
			// Nothing is unpacked twice.
			if again, ok, err := r.Look(t.Context(), w); err != nil || !ok || again.Archive != f.Archive {
				t.Errorf("again: %+v, %v, %v", again, ok, err)
			}
			// What it needs remains when the folder goes.
			if !tc.inPlace {
				if again, ok, err := (&images.Resolver{Cache: r.Cache}).Look(t.Context(), w); err != nil || !ok || again.Archive != f.Archive {
					t.Errorf("without the folder: %+v, %v, %v", again, ok, err)
				}
			}
		})
	}
}

// A file that was put into the folder since is seen.
func TestArchiveChanges(t *testing.T) {
	r := &images.Resolver{Archives: t.TempDir(), Cache: t.TempDir()}
	w := images.Wanted{Name: "thing", Ref: "thing:1"}
	file := filepath.Join(r.Archives, "x.tar")
	for _, img := range []v1.Image{image(t, "a"), image(t, "longer")} {
		save(t, file, map[string]v1.Image{"thing:1": img})
		if f, ok, err := r.Look(t.Context(), w); err != nil || !ok || f.Digest != id(t, img) {
			t.Errorf("%+v, %v, %v", f, ok, err)
		}
		save(t, file, map[string]v1.Image{"thing:2": img})
		if _, ok, err := r.Look(t.Context(), w); ok || err != nil {
			t.Errorf("%v, %v", ok, err)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzArchive(f *testing.F) {
	dir := f.TempDir()
	save(f, filepath.Join(dir, "a.tar"), map[string]v1.Image{"thing:1": image(f, "a")})
	saveOCI(f, filepath.Join(dir, "b.tar"), "thing:1", mutate.AppendManifests(emptyIndex(f), mutate.IndexAddendum{Add: image(f, "b")}))
	for _, n := range []string{"a.tar", "b.tar"} {
		b, err := os.ReadFile(filepath.Join(dir, n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &images.Resolver{Archives: t.TempDir(), Cache: t.TempDir()}
		write(t, filepath.Join(r.Archives, "x.tar"), b)
		w := images.Wanted{Name: "thing", Ref: "thing:1"}
		_, there, err := r.Look(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		found, err := r.Resolve(t.Context(), w, nil)
		if err == nil && !there {
			t.Error("found what is not there")
		}
		if err == nil && found.Archive == "" {
			t.Error("no archive")
		}
	})
}
