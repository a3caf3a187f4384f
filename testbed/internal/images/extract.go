package images

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// hops bounds how many links a path in an image may go through.
const hops = 16

// Extract writes one file of an image to a file of ours, with its permissions, whole
// or not at all. Links in the image are followed within it.
func (r *Resolver) Extract(ctx context.Context, f Found, file, to string) error {
	archive, err := r.Archive(ctx, f)
	if err != nil {
		return err
	}
	img, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", archive, err)
	}
	at := inside(file)
	for range hops {
		ok, links, err := pick(ctx, img, at, to)
		if err != nil {
			return fmt.Errorf("image %s: %s: %w", f.Ref, file, err)
		}
		if ok {
			return nil
		}
		next, ok := follow(links, at)
		if !ok {
			return fmt.Errorf("image %s: there is no file %s in it", f.Ref, file)
		}
		at = next
	}
	return fmt.Errorf("image %s: %s goes through more than %d links", f.Ref, file, hops)
}

// inside is a path as archives name it; it never leaves the image.
func inside(file string) string { return strings.TrimPrefix(path.Clean("/"+file), "/") }

// pick writes the regular file at a path, if it is there. If not, the image's links
// are told.
func pick(ctx context.Context, img v1.Image, at, to string) (bool, map[string]string, error) {
	files := mutate.Extract(img)
	defer files.Close()
	links := map[string]string{}
	t := tar.NewReader(files)
	for {
		h, err := t.Next()
		if err == io.EOF {
			return false, links, nil
		}
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return false, nil, err
		}
		name := inside(h.Name)
		switch h.Typeflag {
		case tar.TypeSymlink:
			links[name] = inside(h.Linkname)
			if !path.IsAbs(h.Linkname) {
				links[name] = inside(path.Join(path.Dir(name), h.Linkname))
			}
		case tar.TypeLink:
			links[name] = inside(h.Linkname)
		case tar.TypeReg:
			if name == at {
				return true, nil, place(ctx, t, h, to)
			}
		default:
			if name == at {
				return false, nil, errors.New("it is no file")
			}
		}
	}
}

// follow replaces the first link in a path by what it points to.
func follow(links map[string]string, at string) (string, bool) {
	for end := 0; end < len(at); {
		next := strings.IndexByte(at[end:], '/')
		if next < 0 {
			next = len(at) - end
		}
		end += next
		if to, ok := links[at[:end]]; ok {
			return path.Join(to, at[end:]), true
		}
		end++
	}
	return "", false
}

// place writes a file beside its place and renames it.
func place(ctx context.Context, content io.Reader, h *tar.Header, to string) (err error) {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+".*.part")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // nothing is there if all went well
	_, err = io.Copy(&counted{ctx: ctx, w: tmp}, content)
	err = errors.Join(err, tmp.Chmod(h.FileInfo().Mode().Perm()), tmp.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), to)
}
