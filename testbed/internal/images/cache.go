package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// kinds are the folders of the cache. What was saved from the engine is an archive
// like those that a user gives.
var kinds = []Source{FromRegistry, FromBuild, FromArchive}

// lockEvery is how often a lock that another process holds is tried.
const lockEvery = 100 * time.Millisecond

func (r *Resolver) folder(s Source) string {
	if s == FromEngine {
		s = FromArchive
	}
	return filepath.Join(r.Cache, "images", string(s))
}

// stem is how the names of all of a reference's files in the cache begin. No
// reference holds the @ that ends it, so no stem begins another.
func stem(ref string) (string, error) {
	t, err := tag(ref)
	if err != nil {
		return "", err
	}
	return strings.NewReplacer("/", "+", ":", "=").Replace(t.Name()) + "@", nil
}

// place is where the archive of an image goes.
func (r *Resolver) place(f Found) (string, error) {
	s, err := stem(f.Ref)
	if err != nil {
		return "", err
	}
	if r.Cache == "" {
		return "", errors.New("no cache to keep images in")
	}
	_, hex, ok := strings.Cut(f.Digest, ":")
	if !ok || strings.ContainsAny(hex, "/\x00") {
		return "", fmt.Errorf("image %s: digest %q", f.Ref, f.Digest)
	}
	return filepath.Join(r.folder(f.Source), s+hex+".tar"), nil
}

// kept finds the archive of an image in the cache, wherever it came from.
func (r *Resolver) kept(f Found) (string, bool) {
	for _, f.Source = range kinds {
		if at, err := r.place(f); err == nil && r.usable(at, f.Ref) {
			return at, true
		}
	}
	return "", false
}

// usable tells whether a file is a whole archive of ref.
func (r *Resolver) usable(file, ref string) bool {
	if _, err := os.Stat(file); err != nil {
		return false
	}
	a := readArchive(context.Background(), file) // our own are uncompressed: read at once
	return a.only(ref) && r.fits(a.images[0].platform) == nil
}

// cached finds the newest archive of a reference in the cache.
func (r *Resolver) cached(ref string) (Found, bool) {
	s, err := stem(ref)
	if err != nil || r.Cache == "" {
		return Found{}, false
	}
	var best Found
	var when time.Time
	for _, source := range kinds {
		all, _ := os.ReadDir(r.folder(source))
		for _, e := range all {
			hex, ok := strings.CutSuffix(e.Name(), ".tar")
			if ok {
				hex, ok = strings.CutPrefix(hex, s)
			}
			info, err := e.Info()
			if !ok || err != nil || best.Ref != "" && !info.ModTime().After(when) {
				continue
			}
			if at := filepath.Join(r.folder(source), e.Name()); r.usable(at, ref) {
				best = Found{Ref: ref, Digest: "sha256:" + hex, Source: source, Bytes: info.Size(), Archive: at}
				when = info.ModTime()
			}
		}
	}
	return best, best.Ref != ""
}

// lock makes us the only one that gets this image into the cache, and removes what
// killed ones left half done.
func (r *Resolver) lock(ctx context.Context, ref string, say func(string)) (unlock func(), err error) {
	s, err := stem(ref)
	if err != nil {
		return nil, err
	}
	if r.Cache == "" {
		return nil, errors.New("no cache to keep images in")
	}
	root := filepath.Join(r.Cache, "images")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	l := flock.New(filepath.Join(root, s+".lock"))
	ok, err := l.TryLock()
	if err == nil && !ok {
		say("waiting for another process that gets " + ref)
		_, err = l.TryLockContext(ctx, lockEvery)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", l.Path(), err)
	}
	for _, source := range kinds {
		all, _ := os.ReadDir(r.folder(source))
		for _, e := range all {
			if strings.HasPrefix(e.Name(), s) && strings.HasSuffix(e.Name(), ".part") {
				_ = os.Remove(filepath.Join(r.folder(source), e.Name()))
			}
		}
	}
	return func() { _ = l.Unlock() }, nil
}

// store keeps an archive that write writes, whole or not at all, and as one that can
// be handed out. The lock of its reference is held.
func (r *Resolver) store(ctx context.Context, f Found, write func(io.Writer) error) (string, error) {
	final, err := r.place(f)
	if err != nil {
		return "", err
	}
	part, err := r.part(final, write)
	if part != "" {
		defer os.Remove(part) // nothing is there if all went well
	}
	if err != nil {
		return "", err
	}
	a := readArchive(ctx, part)
	if a.err != nil {
		return "", fmt.Errorf("what came of it: %w", a.err)
	}
	if !a.only(f.Ref) {
		// An engine may save more than was asked for: an index, other platforms.
		var one packed
		for _, p := range a.named(f.Ref) {
			if r.fits(p.platform) == nil {
				one = p
			}
		}
		if one.config == "" {
			return "", fmt.Errorf("what came of it holds no %s %w, but: %s", f.Ref, r.fits(""), contents([]archive{a}))
		}
		whole := part
		part, err = r.part(final, func(w io.Writer) error { return copyImage(ctx, w, whole, one, f.Ref) })
		if part != "" {
			defer os.Remove(part)
		}
		if err != nil {
			return "", err
		}
	}
	return final, os.Rename(part, final)
}

// part writes a file beside its final place. If it gives a name, there is a file.
func (r *Resolver) part(final string, write func(io.Writer) error) (string, error) {
	if err := os.MkdirAll(filepath.Dir(final), 0o700); err != nil {
		return "", err
	}
	t, err := os.CreateTemp(filepath.Dir(final), filepath.Base(final)+".*.part")
	if err != nil {
		return "", err
	}
	err = write(t)
	return t.Name(), errors.Join(err, t.Close())
}

// Archive gives an archive that holds exactly this image under f.Ref, and makes it
// if there is none: out of the engine, or of an archive that holds more.
func (r *Resolver) Archive(ctx context.Context, f Found) (string, error) {
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("image %s (%s): %w", f.Name, f.Ref, err)
	}
	if f.Archive != "" && r.usable(f.Archive, f.Ref) {
		return f.Archive, nil
	}
	if at, ok := r.kept(f); ok {
		return at, nil
	}
	unlock, err := r.lock(ctx, f.Ref, func(string) {})
	if err != nil {
		return fail(err)
	}
	defer unlock()
	if at, ok := r.kept(f); ok {
		return at, nil
	}
	shelf, err := r.shelf(ctx)
	if err != nil {
		return "", err
	}
	if f.Source == FromArchive {
		for _, a := range shelf {
			for _, p := range a.named(f.Ref) {
				if p.digest != f.Digest {
					continue
				}
				at, err := r.store(ctx, f, func(w io.Writer) error { return copyImage(ctx, w, a.path, p, f.Ref) })
				if err != nil {
					return fail(err)
				}
				return at, nil
			}
		}
	}
	if r.Engine != nil {
		img, ok, err := r.Engine.Image(ctx, f.Ref)
		if err != nil {
			return fail(err)
		}
		if ok && img.ID == f.Digest {
			at, err := r.store(ctx, f, func(w io.Writer) error { return r.Engine.Save(ctx, w, f.Ref) })
			if err == nil {
				// The name may have moved to another image meanwhile.
				var now, ok = img, true
				if now, ok, err = r.Engine.Image(ctx, f.Ref); err == nil && (!ok || now.ID != img.ID) {
					err = errors.Join(errors.New("it changed in the engine while it was saved"), os.Remove(at))
				}
			}
			if err != nil {
				return fail(err)
			}
			return at, nil
		}
	}
	return "", &Error{What: fmt.Sprintf("image %s (%s)", f.Name, f.Ref),
		Causes: []error{fmt.Errorf("it was found (%s, %s), and is gone since", f.Source, f.Digest)}, Remedy: "run it again"}
}
