package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const (
	// What describes an image is small; what is larger than this is a layer.
	smallEntry = 1 << 20
	// And this is more than any archive of a testbed has of it.
	smallTotal = 64 << 20
	// Indexes may hold indexes.
	nesting = 3
)

// archive is what the index of an archive says.
type archive struct {
	path string
	// plain: as `docker save` writes it, neither compressed nor with an OCI index
	// beside, which may speak of platforms that are not there.
	plain  bool
	images []packed
	err    error // why it cannot be used
}

// packed is one image in an archive. Its entries are named as they are found, links
// followed.
type packed struct {
	refs     []string
	digest   string
	platform string
	config   string
	layers   []string
	bytes    int64
}

// named are the images of a reference: one for each platform.
func (a archive) named(ref string) []packed {
	var out []packed
	for _, p := range a.images {
		if slices.ContainsFunc(p.refs, func(have string) bool { return same(have, ref) }) {
			out = append(out, p)
		}
	}
	return out
}

// only tells whether an archive may be handed out as that of ref.
func (a archive) only(ref string) bool {
	return a.err == nil && a.plain && len(a.images) == 1 && len(a.images[0].refs) == 1 && same(a.images[0].refs[0], ref)
}

// shelved is an archive as it was when it was read.
type shelved struct {
	archive
	size    int64
	changed time.Time
}

// shelf reads the index of every archive in the user's folder, once as long as the
// file stays what it is.
func (r *Resolver) shelf(ctx context.Context) ([]archive, error) {
	if r.Archives == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(r.Archives)
	if err != nil {
		var at *fs.PathError
		if errors.As(err, &at) {
			err = at.Err // "open", "fdopendir": not what the user did
		}
		return nil, &Error{What: "--images " + r.Archives, Causes: []error{err},
			Remedy: "name a folder that holds archives of images (*.tar, *.tar.gz) as `docker save` writes them"}
	}
	var out []archive
	for _, e := range entries {
		if !slices.ContainsFunc([]string{".tar", ".tar.gz", ".tgz"}, func(s string) bool { return strings.HasSuffix(e.Name(), s) }) {
			continue
		}
		file := filepath.Join(r.Archives, e.Name())
		info, err := os.Stat(file)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		r.mu.Lock()
		s, ok := r.read[file]
		r.mu.Unlock()
		if !ok || s.size != info.Size() || !s.changed.Equal(info.ModTime()) {
			s = shelved{archive: readArchive(ctx, file), size: info.Size(), changed: info.ModTime()}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			r.mu.Lock()
			if r.read == nil {
				r.read = map[string]shelved{}
			}
			r.read[file] = s
			r.mu.Unlock()
		}
		out = append(out, s.archive)
	}
	return out, nil
}

// contents says what is on a shelf, for people.
func contents(shelf []archive) string {
	const most = 8
	var all []string
	for _, a := range shelf {
		if a.err != nil {
			all = append(all, fmt.Sprintf("%s, unusable: %v", filepath.Base(a.path), a.err))
		}
		for _, p := range a.images {
			if len(p.refs) == 0 {
				all = append(all, filepath.Base(a.path)+", an image without a name")
			}
			all = append(all, p.refs...)
		}
	}
	if len(all) == 0 {
		return "no archive"
	}
	if n := len(all); n > most {
		all = append(all[:most], fmt.Sprintf("%d more", n-most))
	}
	return strings.Join(all, ", ")
}

// entries hands out the entries of an archive, compressed or not.
func entries(ctx context.Context, file string, each func(h *tar.Header, r io.Reader) error) (compressed bool, err error) {
	f, err := os.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	magic := make([]byte, 2)
	if _, err := io.ReadFull(f, magic); err != nil {
		return false, errors.New("it is empty")
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	var in io.Reader = f // the tar reader seeks over what is not read
	if compressed = magic[0] == 0x1f && magic[1] == 0x8b; compressed {
		z, err := gzip.NewReader(bufio.NewReaderSize(f, 1<<20))
		if err != nil {
			return true, err
		}
		defer z.Close()
		in = z
	}
	t := tar.NewReader(in)
	for {
		h, err := t.Next()
		if err == io.EOF {
			return compressed, nil
		}
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err == nil {
			err = each(h, t)
		}
		if err != nil {
			return compressed, err
		}
	}
}

// index is what was gathered of an archive on the way through.
type index struct {
	small map[string][]byte // content of what may describe an image
	sizes map[string]int64
	links map[string]string
}

// readArchive reads what an archive holds, by docker's manifest.json and by OCI's
// index.json. It reads an uncompressed one in no time, whatever its size.
func readArchive(ctx context.Context, file string) archive {
	a := archive{path: file}
	i := index{small: map[string][]byte{}, sizes: map[string]int64{}, links: map[string]string{}}
	total := 0
	compressed, err := entries(ctx, file, func(h *tar.Header, r io.Reader) error {
		at := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeSymlink:
			i.links[at] = path.Join(path.Dir(at), h.Linkname)
		case tar.TypeLink:
			i.links[at] = path.Clean(h.Linkname)
		case tar.TypeReg:
			i.sizes[at] = h.Size
			if h.Size > smallEntry || total > smallTotal {
				return nil
			}
			b, err := io.ReadAll(r)
			if err != nil {
				return err
			}
			if text := bytes.TrimSpace(b); len(text) > 0 && (text[0] == '{' || text[0] == '[') {
				i.small[at] = b
				total += len(b)
			}
		}
		return nil
	})
	if err != nil {
		a.err = err
		return a
	}
	docker, hasDocker := i.small["manifest.json"]
	oci, hasOCI := i.small["index.json"]
	_, hasLayout := i.sizes["oci-layout"]
	a.plain = hasDocker && !hasOCI && !hasLayout && !compressed
	if hasDocker {
		a.images, a.err = i.docker(docker)
	}
	if hasOCI && a.err == nil {
		var more []packed
		more, a.err = i.oci(oci)
		for _, p := range more {
			if !slices.ContainsFunc(a.images, func(have packed) bool { return have.digest == p.digest }) {
				a.images = append(a.images, p)
			}
		}
	}
	if !hasDocker && !hasOCI {
		a.err = errors.New("it holds no image: neither manifest.json nor index.json")
	}
	if a.err != nil {
		a.images = nil
	}
	return a
}

// entry follows links to what is really there.
func (i index) entry(name string) (string, bool) {
	at := path.Clean(name)
	for range 8 {
		if _, ok := i.sizes[at]; ok {
			return at, true
		}
		next, ok := i.links[at]
		if !ok {
			break
		}
		at = next
	}
	return "", false
}

// pack describes an image of these entries.
func (i index) pack(refs []string, config string, layers []string) (packed, error) {
	at, ok := i.entry(config)
	if !ok || i.small[at] == nil {
		return packed{}, fmt.Errorf("it lacks the configuration %s", config)
	}
	sum := sha256.Sum256(i.small[at])
	var c struct{ OS, Architecture, Variant string }
	if err := json.Unmarshal(i.small[at], &c); err != nil {
		return packed{}, fmt.Errorf("configuration %s: %w", config, err)
	}
	p := packed{refs: refs, digest: "sha256:" + hex.EncodeToString(sum[:]), platform: c.OS + "/" + c.Architecture, config: at, bytes: i.sizes[at]}
	for _, l := range layers {
		at, ok := i.entry(l)
		if !ok {
			return packed{}, fmt.Errorf("it lacks the layer %s", l)
		}
		p.layers = append(p.layers, at)
		p.bytes += i.sizes[at]
	}
	return p, nil
}

// docker reads manifest.json.
func (i index) docker(b []byte) ([]packed, error) {
	var m tarball.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	var out []packed
	for _, d := range m {
		p, err := i.pack(d.RepoTags, d.Config, d.Layers)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// oci reads index.json. Images that are not there whole are left out: an index
// often speaks of platforms that were not saved.
func (i index) oci(b []byte) ([]packed, error) {
	m, err := v1.ParseIndexManifest(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	return i.walk(m, nil, nesting), nil
}

func (i index) walk(m *v1.IndexManifest, inherited []string, depth int) []packed {
	var out []packed
	for _, d := range m.Manifests {
		refs := inherited
		if ref := annotated(d.Annotations); ref != "" {
			refs = []string{ref}
		}
		b := i.small[blob(d.Digest)]
		switch {
		case b == nil:
		case d.MediaType.IsIndex():
			if inner, err := v1.ParseIndexManifest(bytes.NewReader(b)); err == nil && depth > 0 {
				out = append(out, i.walk(inner, refs, depth-1)...)
			}
		case d.MediaType.IsImage():
			inner, err := v1.ParseManifest(bytes.NewReader(b))
			if err != nil || !inner.Config.MediaType.IsConfig() {
				continue
			}
			var layers []string
			for _, l := range inner.Layers {
				layers = append(layers, blob(l.Digest))
			}
			if p, err := i.pack(refs, blob(inner.Config.Digest), layers); err == nil && p.platform != "unknown/unknown" {
				out = append(out, p)
			}
		}
	}
	return out
}

// annotated is an image's reference in an OCI index. Some tools give the tag alone,
// which names nothing.
func annotated(annotations map[string]string) string {
	if ref := annotations["io.containerd.image.name"]; ref != "" {
		return ref
	}
	if ref := annotations["org.opencontainers.image.ref.name"]; strings.ContainsAny(ref, "/:") {
		return ref
	}
	return ""
}

func blob(h v1.Hash) string { return path.Join("blobs", h.Algorithm, h.Hex) }

// copyImage writes an archive that holds one image of another alone, under one
// reference.
func copyImage(ctx context.Context, w io.Writer, from string, p packed, ref string) error {
	left := map[string]bool{p.config: true}
	for _, l := range p.layers {
		left[l] = true
	}
	out := tar.NewWriter(&counted{ctx: ctx, w: w})
	_, err := entries(ctx, from, func(h *tar.Header, r io.Reader) error {
		at := path.Clean(h.Name)
		if h.Typeflag != tar.TypeReg || !left[at] {
			return nil
		}
		delete(left, at)
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: at, Mode: 0o644, Size: h.Size}); err != nil {
			return err
		}
		_, err := io.Copy(out, r)
		return err
	})
	if err == nil && len(left) > 0 {
		err = errors.New("it changed while it was read")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	t, err := tag(ref)
	if err != nil {
		return err
	}
	if !strings.HasSuffix(ref, ":"+t.TagStr()) {
		ref += ":" + t.TagStr() // engines load no image without a tag
	}
	b, err := json.Marshal(tarball.Manifest{{Config: p.config, RepoTags: []string{ref}, Layers: p.layers}})
	if err != nil {
		return err
	}
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "manifest.json", Mode: 0o644, Size: int64(len(b))}); err != nil {
		return err
	}
	if _, err := out.Write(b); err != nil {
		return err
	}
	return out.Close()
}
