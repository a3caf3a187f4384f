package images

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// File is one file, or with fs.ModeDir one folder, of an image that we assemble.
type File struct {
	Path    string // absolute, in the image
	Source  string // a file on disk; or
	Content []byte // what it holds
	Mode    fs.FileMode
}

// Config says how an image that we assemble is run.
type Config struct {
	Entrypoint []string
	Env        []string
	User       string
}

// epoch is the time of everything that we assemble.
var epoch = time.Unix(0, 0).UTC()

// Assemble makes an image of files, in one layer, for the platform that we run on.
// The same files give the same digest: names are sorted, times and owners fixed, and
// nothing is compressed. Folders above files need not be given. Files on disk are
// read once now and again when the image is written; it cannot be written if they
// changed between.
func Assemble(files []File, cfg Config) (v1.Image, error) {
	l := &layer{}
	seen := map[string]bool{}
	for _, f := range files {
		if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "/" {
			return nil, fmt.Errorf("assemble: path %q is not absolute and clean", f.Path)
		}
		if seen[f.Path] {
			return nil, fmt.Errorf("assemble: %s is there twice", f.Path)
		}
		seen[f.Path] = true
		l.files = append(l.files, f)
	}
	for _, f := range files {
		for dir := path.Dir(f.Path); dir != "/" && !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			l.files = append(l.files, File{Path: dir, Mode: fs.ModeDir | 0o755})
		}
	}
	slices.SortFunc(l.files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	sum := sha256.New()
	size := &counting{w: sum}
	if err := l.write(size); err != nil {
		return nil, fmt.Errorf("assemble: %w", err)
	}
	l.size, l.hash = size.n, digest(sum)

	img, err := mutate.Append(empty.Image, mutate.Addendum{Layer: l, History: v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "testbed"}})
	if err != nil {
		return nil, fmt.Errorf("assemble: %w", err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("assemble: %w", err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", runtime.GOARCH
	c.Created = v1.Time{Time: epoch}
	c.Config = v1.Config{Entrypoint: cfg.Entrypoint, Env: cfg.Env, User: cfg.User}
	if len(cfg.Env) == 0 {
		c.Config.Env = []string{"PATH=/usr/bin"}
	}
	if img, err = mutate.ConfigFile(img, c); err != nil {
		return nil, fmt.Errorf("assemble: %w", err)
	}
	return img, nil
}

func digest(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

// layer is an uncompressed layer that is read from its files each time. (It goes to
// an engine of this machine: compressing it would cost more than it saves, and make
// the digest depend on the compressor.)
type layer struct {
	files []File // sorted
	size  int64
	hash  v1.Hash
}

func (l *layer) Digest() (v1.Hash, error)             { return l.hash, nil }
func (l *layer) DiffID() (v1.Hash, error)             { return l.hash, nil }
func (l *layer) Size() (int64, error)                 { return l.size, nil }
func (l *layer) MediaType() (types.MediaType, error)  { return types.DockerUncompressedLayer, nil }
func (l *layer) Uncompressed() (io.ReadCloser, error) { return l.Compressed() }

// Compressed gives the layer, and an error at its end if it is not what it was when
// it was assembled.
func (l *layer) Compressed() (io.ReadCloser, error) {
	out, in := io.Pipe()
	go func() {
		sum := sha256.New()
		err := l.write(io.MultiWriter(in, sum))
		if err == nil && digest(sum) != l.hash {
			err = errors.New("files changed while they were packed: run it again")
		}
		in.CloseWithError(err)
	}()
	return out, nil
}

func (l *layer) write(w io.Writer) error {
	t := tar.NewWriter(w)
	for _, f := range l.files {
		if err := f.write(t); err != nil {
			return err
		}
	}
	return t.Close()
}

func (f File) write(t *tar.Writer) error {
	h := &tar.Header{Name: strings.TrimPrefix(f.Path, "/"), Mode: int64(f.Mode.Perm()), ModTime: epoch, Typeflag: tar.TypeReg}
	if f.Mode&fs.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	if f.Mode.IsDir() {
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		return t.WriteHeader(h)
	}
	var content io.Reader = bytes.NewReader(f.Content)
	h.Size = int64(len(f.Content))
	if f.Source != "" {
		file, err := os.Open(f.Source)
		if err != nil {
			return err
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is no regular file", f.Source)
		}
		content, h.Size = file, info.Size()
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	if _, err := io.Copy(t, content); err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	return nil
}

type counting struct {
	w io.Writer
	n int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
