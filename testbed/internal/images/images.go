// Package images finds every image that a testbed needs: in the container engine,
// in archives that the user gave, in its cache, in a registry, or built by us, in
// this order.
//
// Invariants:
//   - Looking writes nothing, pulls nothing and builds nothing.
//   - What lies in the cache under its name is whole: it is written under another
//     name and renamed. Processes that share a cache wait for one another, image by
//     image.
//   - An archive that is handed out holds one image, for one platform, under one
//     reference, as `docker save` writes it: engines and containerd take it alike.
//   - References are tags. A digest is refused, as archives do not keep it.
//   - What we build carries its pin in its tag, so that a name never means two
//     things.
//
// Layout: <cache>/images/{archive,registry,built}/<reference>@<digest>.tar, with the
// slashes of the reference as + and its colons as =. Try it with
// `go test ./testbed/internal/images`; the test that needs an engine says so when
// there is none.
package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/fluidos-edge/testbed/testbed/internal/engine"
)

// Source is where an image was found.
type Source string

// The sources, in the order in which they are asked.
const (
	FromEngine   Source = "engine"
	FromArchive  Source = "archive"
	FromRegistry Source = "registry"
	FromBuild    Source = "built"
)

// Wanted is an image that a testbed needs.
type Wanted struct {
	Name  string // for people: "telegraf"
	Ref   string // upstream, with a tag: "docker.io/library/telegraf:1.37"; empty if only we make it
	Build *Build // nil if we do not make it
}

// Build is how we make an image. Exactly one of Image and Make is set.
type Build struct {
	Ref      string        // under which it goes, with its pin in the tag
	Estimate time.Duration // of a build from nothing

	// Image assembles it, to be kept in the cache.
	Image func(ctx context.Context, say func(string)) (v1.Image, error)
	// Make puts it into the engine under Ref.
	Make func(ctx context.Context, say func(string)) error
}

// Found is an image and where it is.
type Found struct {
	Name   string
	Ref    string // as wanted: Wanted.Ref or Build.Ref
	Digest string // of its configuration, "sha256:..."; in the engine, what the engine calls it
	Source Source
	Bytes  int64 // unpacked in the engine, packed elsewhere

	// Archive holds it and nothing else; empty as long as there is none:
	// Resolver.Archive makes it.
	Archive string
}

// Resolver finds images. It may be used by several goroutines, and not be copied.
type Resolver struct {
	Engine   *engine.Engine // nil if there is none
	Archives string         // folder with archives of the user; empty for none
	Registry bool           // whether registries may be asked
	Cache    string         // absolute

	// Patience with a registry until it has shown what the image is made of; a
	// pull itself may take its time. 0 is 10 s.
	Patience time.Duration
	// Remote is added to what registries are asked with.
	Remote []remote.Option

	mu    sync.Mutex
	hosts map[string]*host
	read  map[string]shelved
}

// Error is a failure of images that the user can mend.
type Error struct {
	What   string  // "image telegraf (docker.io/library/telegraf:1.37)"
	Causes []error // one for each source
	Remedy string
}

func (e *Error) Error() string {
	said := make([]string, len(e.Causes))
	for i, c := range e.Causes {
		said[i] = c.Error()
	}
	return e.What + ": " + strings.Join(said, "; ")
}

// Unwrap gives the causes.
func (e *Error) Unwrap() []error { return e.Causes }

// Fix is the remedy alone.
func (e *Error) Fix() string { return e.Remedy }

// refs are the references under which an image may be there, best first.
func (w Wanted) refs() []string {
	var out []string
	if w.Ref != "" {
		out = append(out, w.Ref)
	}
	if w.Build != nil {
		out = append(out, w.Build.Ref)
	}
	return out
}

func (w Wanted) what() string {
	return fmt.Sprintf("image %s (%s)", w.Name, strings.Join(w.refs(), ", "))
}

func (w Wanted) check() error {
	if len(w.refs()) == 0 {
		return fmt.Errorf("image %s: neither a reference nor a way to build it is known", w.Name)
	}
	for _, ref := range w.refs() {
		if _, err := tag(ref); err != nil {
			return fmt.Errorf("image %s: %w", w.Name, err)
		}
	}
	return nil
}

// tag reads a reference.
func tag(ref string) (name.Tag, error) {
	if strings.Contains(ref, "@") {
		return name.Tag{}, fmt.Errorf("%s: name it by its tag, without a digest: archives do not keep one", ref)
	}
	return name.NewTag(ref, name.WeakValidation)
}

// same tells whether two references mean the same: docker.io/library/ and :latest
// may be left out.
func same(a, b string) bool {
	x, err := tag(a)
	if err != nil {
		return false
	}
	y, err := tag(b)
	return err == nil && x.Name() == y.Name()
}

// platform is what images must be for: that of the engine, or ours.
func (r *Resolver) platform() v1.Platform {
	arch := runtime.GOARCH
	if r.Engine != nil && r.Engine.Info.Architecture != "" {
		arch = r.Engine.Info.Architecture
		for said, is := range map[string]string{"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"} {
			if arch == said {
				arch = is
			}
		}
	}
	return v1.Platform{OS: "linux", Architecture: arch}
}

func (r *Resolver) fits(platform string) error {
	if want := r.platform().String(); platform != want {
		return fmt.Errorf("for %s, not %s", platform, want)
	}
	return nil
}

// Look says whether an image is there already, without pulling or building: in the
// engine, in the user's archives, or in the cache. It writes nothing.
func (r *Resolver) Look(ctx context.Context, w Wanted) (Found, bool, error) {
	if err := w.check(); err != nil {
		return Found{}, false, err
	}
	shelf, err := r.shelf(ctx)
	if err != nil {
		return Found{}, false, err
	}
	f, ok, _, err := r.find(ctx, w, shelf)
	return f, ok, err
}

// find looks for an image. If it is not there the causes say so place by place, and
// the error is what kept us from looking properly.
func (r *Resolver) find(ctx context.Context, w Wanted, shelf []archive) (Found, bool, []error, error) {
	f, ok, causes, broken := r.inEngine(ctx, w)
	if ok || ctx.Err() != nil {
		return f, ok, nil, context.Cause(ctx)
	}
	f, ok, more := r.onShelf(w, shelf)
	if ok {
		return f, true, nil, nil
	}
	causes = append(causes, more...)
	for _, ref := range w.refs() {
		if f, ok := r.cached(ref); ok {
			f.Name = w.Name
			return f, true, nil, nil
		}
	}
	return Found{}, false, causes, broken
}

func (r *Resolver) inEngine(ctx context.Context, w Wanted) (f Found, ok bool, causes []error, broken error) {
	if r.Engine == nil {
		return Found{}, false, []error{errors.New("no container engine to look in")}, nil
	}
	for _, ref := range w.refs() {
		img, ok, err := r.Engine.Image(ctx, ref)
		if err != nil {
			return Found{}, false, []error{fmt.Errorf("the engine does not say: %w", err)}, fmt.Errorf("image %s: %w", w.Name, err)
		}
		if !ok {
			continue
		}
		if err := r.fits(img.Platform); err != nil {
			causes = append(causes, fmt.Errorf("in the engine is one %w", err))
			continue
		}
		f := Found{Name: w.Name, Ref: ref, Digest: img.ID, Source: FromEngine, Bytes: img.Bytes}
		f.Archive, _ = r.kept(f)
		return f, true, nil, nil
	}
	if causes == nil {
		causes = []error{errors.New("not in the engine")}
	}
	return Found{}, false, causes, nil
}

// onShelf looks into the user's archives.
func (r *Resolver) onShelf(w Wanted, shelf []archive) (Found, bool, []error) {
	if r.Archives == "" {
		return Found{}, false, nil
	}
	var causes []error
	for _, ref := range w.refs() {
		for _, a := range shelf {
			for _, p := range a.named(ref) {
				if err := r.fits(p.platform); err != nil {
					causes = append(causes, fmt.Errorf("in %s is one %w", a.path, err))
					continue
				}
				f := Found{Name: w.Name, Ref: ref, Digest: p.digest, Source: FromArchive, Bytes: p.bytes}
				if a.only(ref) {
					f.Archive = a.path
				} else {
					f.Archive, _ = r.kept(f)
				}
				return f, true, nil
			}
		}
	}
	if causes == nil {
		causes = []error{fmt.Errorf("not in %s (what is there: %s)", r.Archives, contents(shelf))}
	}
	return Found{}, false, causes
}

// Resolve finds an image, or pulls or builds it. What takes time is told by say,
// which may be nil. The error is an *Error if no source had it.
func (r *Resolver) Resolve(ctx context.Context, w Wanted, say func(string)) (Found, error) {
	if say == nil {
		say = func(string) {}
	}
	if err := w.check(); err != nil {
		return Found{}, err
	}
	shelf, err := r.shelf(ctx)
	if err != nil {
		return Found{}, err
	}
	f, ok, causes, _ := r.find(ctx, w, shelf)
	if ok {
		if f.Source == FromArchive {
			f.Archive, err = r.Archive(ctx, f)
		}
		return f, err
	}
	for _, source := range []func(context.Context, Wanted, func(string)) (Found, error){r.pull, r.build} {
		if ctx.Err() != nil {
			return Found{}, fmt.Errorf("image %s: %w", w.Name, context.Cause(ctx))
		}
		f, err := source(ctx, w, say)
		if err == nil {
			return f, nil
		}
		causes = append(causes, err)
	}
	if ctx.Err() != nil {
		return Found{}, fmt.Errorf("image %s: %w", w.Name, context.Cause(ctx))
	}
	return Found{}, &Error{What: w.what(), Causes: causes, Remedy: r.remedy(w, causes)}
}

// remedy says what the user can do about an image that no source has.
func (r *Resolver) remedy(w Wanted, causes []error) string {
	var do []string
	for _, c := range causes {
		var f interface{ Fix() string }
		if errors.As(c, &f) && f.Fix() != "" {
			do = append(do, f.Fix())
		}
	}
	if w.Build != nil && w.Build.Make != nil && r.Engine == nil {
		do = append(do, "start a container engine")
	}
	if w.Ref != "" {
		if r.Registry {
			do = append(do, "see that its registry can be reached")
		} else {
			do = append(do, "let registries be asked")
		}
		do = append(do, fmt.Sprintf("where it is at hand, `%s save -o %s.tar %s`, and give the folder by --images", engine.Program, cmp.Or(w.Name, "image"), w.Ref))
	}
	return strings.Join(do, "; or ")
}

// build makes an image by ourselves.
func (r *Resolver) build(ctx context.Context, w Wanted, say func(string)) (Found, error) {
	b := w.Build
	switch {
	case b == nil:
		return Found{}, errors.New("cannot be built here: we have no recipe for it")
	case b.Image == nil && b.Make == nil:
		return Found{}, fmt.Errorf("cannot be built here: %s has no recipe", b.Ref)
	case b.Make != nil && r.Engine == nil:
		return Found{}, errors.New("cannot be built here: that needs a container engine")
	}
	unlock, err := r.lock(ctx, b.Ref, say)
	if err != nil {
		return Found{}, err
	}
	defer unlock()
	// Another process may have built it while we waited.
	ours := Wanted{Name: w.Name, Ref: b.Ref}
	if f, ok, _, err := r.find(ctx, ours, nil); ok || ctx.Err() != nil {
		return f, err
	}
	say(fmt.Sprintf("building %s, which takes about %s", b.Ref, b.Estimate.Round(time.Second)))
	if b.Make != nil {
		if err := b.Make(ctx, say); err != nil {
			return Found{}, fmt.Errorf("building it: %w", err)
		}
		f, ok, causes, err := r.inEngine(ctx, ours)
		if err == nil && !ok {
			err = errors.Join(causes...)
		}
		if err != nil {
			return Found{}, fmt.Errorf("built, but: %w", err)
		}
		f.Source = FromBuild
		return f, nil
	}
	img, err := b.Image(ctx, say)
	if err != nil {
		return Found{}, fmt.Errorf("building it: %w", err)
	}
	f, err := r.keepImage(ctx, FromBuild, b.Ref, img, nil)
	if err != nil {
		return Found{}, fmt.Errorf("building it: %w", err)
	}
	f.Name = w.Name
	return f, nil
}

// keepImage writes an image into the cache. The lock of its reference is held.
func (r *Resolver) keepImage(ctx context.Context, source Source, ref string, img v1.Image, progress func(done int64)) (Found, error) {
	digest, err := img.ConfigName()
	if err != nil {
		return Found{}, err
	}
	t, err := tag(ref)
	if err != nil {
		return Found{}, err
	}
	f := Found{Ref: ref, Digest: digest.String(), Source: source}
	f.Archive, err = r.store(ctx, f, func(w io.Writer) error {
		return tarball.Write(t, img, &counted{ctx: ctx, w: w, progress: progress})
	})
	if err != nil {
		return Found{}, err
	}
	info, err := os.Stat(f.Archive)
	if err != nil {
		return Found{}, err
	}
	f.Bytes = info.Size()
	return f, nil
}

// EnsureInEngine loads an image into the engine, unless it has it.
func (r *Resolver) EnsureInEngine(ctx context.Context, f Found) error {
	if r.Engine == nil {
		return fmt.Errorf("image %s: no container engine to load it into", f.Name)
	}
	there := func() (bool, error) {
		img, ok, err := r.Engine.Image(ctx, f.Ref)
		return ok && r.fits(img.Platform) == nil, err
	}
	if ok, err := there(); ok || err != nil {
		return err
	}
	path, err := r.Archive(ctx, f)
	if err != nil {
		return err
	}
	if err := r.Engine.Load(ctx, path); err != nil {
		return fmt.Errorf("image %s: load %s: %w", f.Name, path, err)
	}
	ok, err := there()
	if err == nil && !ok {
		err = fmt.Errorf("image %s: loaded %s, but the engine has no %s", f.Name, path, f.Ref)
	}
	return err
}

// counted writes until its context ends, and tells how much.
type counted struct {
	ctx      context.Context
	w        io.Writer
	done     int64
	progress func(int64) // may be nil
}

func (c *counted) Write(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.w.Write(p)
	c.done += int64(n)
	if c.progress != nil {
		c.progress(c.done)
	}
	return n, err
}

// megabytes renders a size for people.
func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
