package images_test

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/fluidos-edge/testbed/testbed/internal/images"
)

func TestAssembleIsReproducible(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	write(t, file, []byte("on disk"))
	contents := []images.File{
		{Path: "/usr/bin/x", Source: file, Mode: 0o755},
		{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "/etc/a/b", Content: []byte("given"), Mode: 0o600},
	}
	cfg := images.Config{Entrypoint: []string{"/usr/bin/x"}, Env: []string{"A=b"}, User: "65532"}
	one, err := images.Assemble(contents, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	contents[0], contents[2] = contents[2], contents[0]
	two, err := images.Assemble(contents, cfg)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := one.Digest()
	b, _ := two.Digest()
	if a != b {
		t.Errorf("digest is %s, then %s", a, b)
	}
	var got []string
	flat := mutate.Extract(one)
	defer flat.Close()
	for r := tar.NewReader(flat); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || !h.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s: owner %d:%d %q, time %s", h.Name, h.Uid, h.Gid, h.Uname, h.ModTime)
		}
		got = append(got, h.FileInfo().Mode().String()+" "+h.Name)
	}
	want := []string{"drwxr-xr-x etc", "drwxr-xr-x etc/a", "-rw------- etc/a/b", "dtrwxrwxrwx tmp", "drwxr-xr-x usr", "drwxr-xr-x usr/bin", "-rwxr-xr-x usr/bin/x"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}

	// What changes after it was assembled is not packed under the old name.
	write(t, file, []byte("changed"))
	r := &images.Resolver{Cache: t.TempDir()}
	_, err = r.Resolve(t.Context(), images.Wanted{Name: "x", Build: built(two)}, nil)
	if err == nil || !strings.Contains(err.Error(), "files changed while they were packed") {
		t.Errorf("got %v", err)
	}
	if left := files(t, r.Cache); left != nil {
		t.Errorf("left %v", left)
	}
}

func TestAssembleRefuses(t *testing.T) {
	for name, files := range map[string][]images.File{
		"relative": {{Path: "x"}}, "unclean": {{Path: "/a/../x"}}, "root": {{Path: "/"}},
		"twice": {{Path: "/x"}, {Path: "/x"}}, "no source": {{Path: "/x", Source: "/does/not/exist"}}, "a folder": {{Path: "/x", Source: "/"}},
	} {
		if _, err := images.Assemble(files, images.Config{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestExtract(t *testing.T) {
	img, err := mutate.AppendLayers(empty.Image,
		layerOf(t, tar.Header{Name: "usr/bin/tool", Mode: 0o751}, tar.Header{Name: "usr/bin/old", Mode: 0o644}, tar.Header{Name: "opt/dir/gone", Mode: 0o644},
			tar.Header{Name: "bin", Linkname: "usr/bin", Typeflag: tar.TypeSymlink}, tar.Header{Name: "usr/local", Typeflag: tar.TypeDir, Mode: 0o755}),
		layerOf(t, tar.Header{Name: "usr/bin/.wh.old"}, tar.Header{Name: "opt/dir/.wh..wh..opq"}, tar.Header{Name: "./opt/dir/kept", Mode: 0o600},
			tar.Header{Name: "usr/local/tool", Linkname: "/bin/tool", Typeflag: tar.TypeSymlink},
			tar.Header{Name: "usr/local/hard", Linkname: "usr/bin/tool", Typeflag: tar.TypeLink},
			tar.Header{Name: "usr/local/loop", Linkname: "loop", Typeflag: tar.TypeSymlink},
			tar.Header{Name: "usr/local/out", Linkname: "/../../../etc/hostname", Typeflag: tar.TypeSymlink}))
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	base, err := image(t, "").ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c.OS, c.Architecture = base.OS, base.Architecture
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	r := &images.Resolver{Archives: t.TempDir(), Cache: t.TempDir()}
	save(t, filepath.Join(r.Archives, "x.tar"), map[string]v1.Image{"thing:1": img})
	f, err := r.Resolve(t.Context(), images.Wanted{Name: "thing", Ref: "thing:1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]struct {
		content string
		mode    fs.FileMode
		err     string
	}{
		"/usr/bin/tool":   {content: "usr/bin/tool", mode: 0o751},
		"bin/tool":        {content: "usr/bin/tool", mode: 0o751},
		"/usr/local/tool": {content: "usr/bin/tool", mode: 0o751},
		"/usr/local/hard": {content: "usr/bin/tool", mode: 0o751},
		"/opt/dir/kept":   {content: "./opt/dir/kept", mode: 0o600},
		"/usr/bin/old":    {err: "there is no file /usr/bin/old"},
		"/opt/dir/gone":   {err: "there is no file /opt/dir/gone"},
		"/nowhere":        {err: "there is no file /nowhere"},
		"/usr/local":      {err: "it is no file"},
		"/usr/local/loop": {err: "more than 16 links"},
		"/usr/local/out":  {err: "there is no file"}, // and never our own
	} {
		dir := t.TempDir()
		to := filepath.Join(dir, "sub", "got")
		err := r.Extract(t.Context(), f, path, to)
		if want.err != "" {
			if err == nil || !strings.Contains(err.Error(), want.err) || files(t, dir) != nil {
				t.Errorf("%s: got %v, %v, want %q", path, err, files(t, dir), want.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		b, err := os.ReadFile(to)
		info, serr := os.Stat(to)
		if err != nil || serr != nil {
			t.Fatal(err, serr)
		}
		if string(b) != want.content || info.Mode() != want.mode || len(files(t, dir)) != 1 {
			t.Errorf("%s: %q, %s, %v", path, b, info.Mode(), files(t, dir))
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if err := r.Extract(ctx, f, "/usr/bin/tool", filepath.Join(dir, "x")); !errors.Is(err, context.Canceled) || files(t, dir) != nil {
		t.Errorf("cancelled: %v, %v", err, files(t, dir))
	}
}

func TestComponents(t *testing.T) {
	dir := t.TempDir()
	names := []string{"boards", "erm", "hollowedge", "mapper", "relay", "router"}
	for _, n := range names {
		program(t, filepath.Join(dir, n), false)
	}
	w, err := images.Components(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := &images.Resolver{Cache: t.TempDir()}
	f, err := r.Resolve(t.Context(), w, nil)
	if err != nil {
		t.Fatal(err)
	}
	if rest, ok := strings.CutPrefix(f.Ref, "testbed/components:"); !ok || len(rest) != 12 || !strings.HasPrefix(f.Digest, "sha256:"+rest) {
		t.Errorf("%+v", f)
	}
	got := filepath.Join(t.TempDir(), "got")
	for _, n := range names {
		if err := r.Extract(t.Context(), f, "/usr/bin/"+n, got); err != nil {
			t.Error(err)
		}
		a, _ := os.ReadFile(got)
		b, _ := os.ReadFile(filepath.Join(dir, n))
		if string(a) != string(b) {
			t.Errorf("%s is another in the image", n)
		}
	}
	if err := r.Extract(t.Context(), f, "/etc/passwd", got); err != nil {
		t.Error(err)
	}
	if again, err := images.Components(dir); err != nil || again.Build.Ref != w.Build.Ref {
		t.Errorf("again: %v, %v", again.Build, err)
	}
	write(t, filepath.Join(dir, "erm"), append([]byte{}, readFile(t, filepath.Join(dir, "boards"))...))
	if other, err := images.Components(dir); err != nil || other.Build.Ref == w.Build.Ref {
		t.Errorf("another program, but %v, %v", other.Build, err)
	}

	program(t, filepath.Join(dir, "erm"), true)
	program(t, filepath.Join(dir, "relay"), true)
	write(t, filepath.Join(dir, "mapper"), []byte("#!/bin/sh"))
	if err := os.Remove(filepath.Join(dir, "router")); err != nil {
		t.Fatal(err)
	}
	_, err = images.Components(dir)
	var known *images.Error
	if !errors.As(err, &known) || known.Fix() != "CGO_ENABLED=0 make build" {
		t.Fatalf("got %v", err)
	}
	want := "cannot be put into an image: " + dir + "/mapper is no program for Linux; " + dir + "/router: no such file or directory; erm, relay in " + dir + ": dynamically linked, to libraries that the image does not have"
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func readFile(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestProgram(t *testing.T) {
	file := filepath.Join(t.TempDir(), "influxd")
	program(t, file, false)
	w, err := images.Program("influxdb", "docker.io/library/influxdb:1.8", file, "v1.8.3")
	if err != nil {
		t.Fatal(err)
	}
	if w.Name != "influxdb" || w.Ref != "docker.io/library/influxdb:1.8" || !strings.HasPrefix(w.Build.Ref, "testbed/influxdb:v1.8.3-") {
		t.Errorf("%+v, %+v", w, w.Build)
	}
	calls := 0
	later := images.Pinned("influxdb", "", "v1.8.3", "abcd", time.Minute, func(context.Context, func(string)) (string, error) {
		calls++
		return file, nil
	})
	r := &images.Resolver{Cache: t.TempDir()}
	for range 2 {
		f, err := r.Resolve(t.Context(), later, nil)
		if err != nil {
			t.Fatal(err)
		}
		if f.Ref != "testbed/influxdb:v1.8.3-abcd" || calls != 1 {
			t.Errorf("%+v, built %d times", f, calls)
		}
		if err := r.Extract(t.Context(), f, "/usr/bin/influxd", filepath.Join(t.TempDir(), "x")); err != nil {
			t.Error(err)
		}
	}
	program(t, file, true)
	if _, err := images.Program("influxdb", "", file, "v1.8.3"); err == nil || !strings.Contains(err.Error(), "dynamically linked") {
		t.Errorf("got %v", err)
	}
}
