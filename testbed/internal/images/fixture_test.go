package images_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
	"github.com/fluidos-edge/testbed/testbed/internal/images"
)

// image is a small image that says what it is.
func image(t testing.TB, text string) v1.Image {
	t.Helper()
	img, err := images.Assemble([]images.File{{Path: "/etc/text", Content: []byte(text), Mode: 0o640}}, images.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// foreign is the same image, for a platform that nobody has.
func foreign(t testing.TB, img v1.Image) v1.Image {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.Architecture = "vax"
	out, err := mutate.ConfigFile(img, c)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func id(t testing.TB, img v1.Image) string {
	t.Helper()
	h, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

// save writes an archive as `docker save` does.
func save(t testing.TB, file string, all map[string]v1.Image) {
	t.Helper()
	refs := map[name.Tag]v1.Image{}
	for ref, img := range all {
		tag, err := name.NewTag(ref)
		if err != nil {
			t.Fatal(err)
		}
		refs[tag] = img
	}
	var b bytes.Buffer
	if err := tarball.MultiWrite(refs, &b); err != nil {
		t.Fatal(err)
	}
	write(t, file, b.Bytes())
}

// saveOCI writes an archive with an OCI index alone.
func saveOCI(t testing.TB, file, ref string, index v1.ImageIndex) {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, mutate.AppendManifests(emptyIndex(t)))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": ref})); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, file, b.Bytes())
}

func write(t testing.TB, file string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func zip(t testing.TB, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, file+".gz", z.Bytes())
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}

// files lists a folder, whatever it holds, without locks.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Ext(p) != ".lock" {
			rel, _ := filepath.Rel(dir, p)
			out = append(out, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// engineOf is an engine of archives: it knows inspect, save and load.
type engineOf struct {
	t      testing.TB
	mu     sync.Mutex
	images map[string]v1.Image
	runs   command.Fake
}

func newEngine(t testing.TB, all map[string]v1.Image) *engineOf {
	e := &engineOf{t: t, images: map[string]v1.Image{}}
	for ref, img := range all {
		e.images[canonical(t, ref)] = img
	}
	e.runs.Answer = e.answer
	return e
}

func (e *engineOf) engine() *engine.Engine {
	return &engine.Engine{Runner: &e.runs, Info: engine.Info{Architecture: runtime.GOARCH}}
}

func canonical(t testing.TB, ref string) string {
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	return tag.Name()
}

func (e *engineOf) answer(_ context.Context, c command.Cmd) (command.Result, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	last := c.Argv[len(c.Argv)-1]
	switch c.Argv[1] {
	case "image":
		img, ok := e.images[canonical(e.t, last)]
		if !ok {
			return command.Result{Stderr: []byte("Error: No such image: " + last)}, errors.New("exit status 1")
		}
		f, err := img.ConfigFile()
		if err != nil {
			return command.Result{}, err
		}
		b, err := json.Marshal([]map[string]any{{"Id": id(e.t, img), "Size": 7, "Os": f.OS, "Architecture": f.Architecture}})
		return command.Result{Stdout: b}, err
	case "save":
		tag, err := name.NewTag(last)
		if err != nil {
			return command.Result{}, err
		}
		return command.Result{}, tarball.Write(tag, e.images[tag.Name()], c.Stdout)
	case "load":
		m, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(last) })
		if err != nil || len(m) != 1 || len(m[0].RepoTags) != 1 {
			return command.Result{}, errors.Join(errors.New("not one image under one reference"), err)
		}
		img, err := tarball.ImageFromPath(last, nil)
		if err != nil {
			return command.Result{}, err
		}
		e.images[canonical(e.t, m[0].RepoTags[0])] = img
		return command.Result{}, nil
	}
	return command.Result{}, errors.New("unknown: " + strings.Join(c.Argv, " "))
}

// layerOf is a layer of these entries.
func layerOf(t testing.TB, all ...tar.Header) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range all {
		text := []byte(h.Name)
		if h.Typeflag == tar.TypeReg || h.Typeflag == 0 {
			h.Size = int64(len(text))
		} else {
			text = nil
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return static.NewLayer(b.Bytes(), types.DockerUncompressedLayer)
}

// program is the head of an ELF file, with an interpreter or without.
func program(t testing.TB, file string, dynamic bool) {
	t.Helper()
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	b[16], b[18], b[20] = 2, 62, 1 // executable, x86-64, version
	b[32] = 64                     // program headers begin here,
	b[52], b[54], b[56] = 64, 56, 1
	b[58] = 64
	b[64] = 1 // PT_LOAD
	if dynamic {
		b[64] = 3 // PT_INTERP
	}
	write(t, file, append(b, file...))
}
