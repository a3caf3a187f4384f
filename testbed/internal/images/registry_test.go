package images_test

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/fluidos-edge/testbed/testbed/internal/images"
)

// served is a registry in this process.
type served struct {
	*httptest.Server
	host   string
	blobs  atomic.Int32 // that were asked for
	before func(*http.Request)
}

func serve(t *testing.T) *served {
	t.Helper()
	s := &served{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			s.blobs.Add(1)
			if s.before != nil {
				s.before(r)
			}
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	s.host = strings.TrimPrefix(s.URL, "http://")
	return s
}

func (s *served) push(t *testing.T, repo string, what remote.Taggable) string {
	t.Helper()
	ref := s.host + "/" + repo
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	switch what := what.(type) {
	case v1.Image:
		err = remote.Write(tag, what)
	case v1.ImageIndex:
		err = remote.WriteIndex(tag, what)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func TestRegistryPlatforms(t *testing.T) {
	s := serve(t)
	a := image(t, "a")
	ours := mutate.IndexAddendum{Add: a, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}}
	theirs := mutate.IndexAddendum{Add: foreign(t, a), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "vax"}}}
	for ref, want := range map[string]string{
		s.push(t, "both:1", mutate.AppendManifests(emptyIndex(t), theirs, ours)): "",
		s.push(t, "index:1", mutate.AppendManifests(emptyIndex(t), theirs)):      "no child with platform linux/" + runtime.GOARCH,
		s.push(t, "image:1", foreign(t, a)):                                      "for linux/vax, not linux/" + runtime.GOARCH,
		s.host + "/absent:1":                                                     "NAME_UNKNOWN",
	} {
		r := &images.Resolver{Registry: true, Cache: t.TempDir()}
		f, err := r.Resolve(t.Context(), images.Wanted{Name: "thing", Ref: ref}, nil)
		switch {
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want %q", ref, err, want)
		case want == "" && err != nil:
			t.Errorf("%s: %v", ref, err)
		case want == "":
			alone(t, f.Archive, ref, id(t, a))
		}
	}
}

// A registry that accepts and says nothing is waited for once.
func TestSilentRegistry(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepted atomic.Int32
	stop, stopped := context.WithCancel(context.Background())
	var conns sync.WaitGroup
	t.Cleanup(func() { stopped(); _ = l.Close(); conns.Wait() })
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			context.AfterFunc(stop, func() { _ = c.Close() })
		}
	})
	r := &images.Resolver{Registry: true, Cache: t.TempDir(), Patience: 50 * time.Millisecond}
	began := time.Now()
	var all sync.WaitGroup
	var mu sync.Mutex
	said := map[bool]int{}
	for _, n := range []string{"a", "b", "c", "d"} {
		all.Go(func() {
			_, err := r.Resolve(t.Context(), images.Wanted{Name: n, Ref: l.Addr().String() + "/" + n + ":1"}, nil)
			mu.Lock()
			defer mu.Unlock()
			if err == nil || !strings.Contains(err.Error(), "no answer from "+l.Addr().String()+" within 50ms") {
				t.Errorf("%s: %v", n, err)
				return
			}
			said[strings.Contains(err.Error(), "was tried before")]++
		})
	}
	all.Wait()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	// One asks (by https, then by http), the others take its word.
	if said[false] != 1 || said[true] != 3 || accepted.Load() > 2 {
		t.Errorf("said %v, %d connections", said, accepted.Load())
	}
}

// Whoever cancels is not told that the registry is at fault, and nothing is left.
func TestCancelledPull(t *testing.T) {
	s := serve(t)
	img := image(t, "a")
	ref := s.push(t, "thing:1", img)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	s.before = func(r *http.Request) {
		if strings.HasSuffix(r.URL.Path, layer.Hex) && ctx.Err() == nil {
			cancel()
			<-r.Context().Done() // the client has gone
		}
	}
	r := &images.Resolver{Registry: true, Cache: t.TempDir()}
	w := images.Wanted{Name: "thing", Ref: ref, Build: built(image(t, "ours"))}
	_, err = r.Resolve(ctx, w, nil)
	var known *images.Error
	if !errors.Is(err, context.Canceled) || errors.As(err, &known) {
		t.Errorf("got %v", err)
	}
	if left := files(t, r.Cache); left != nil {
		t.Errorf("left %v", left)
	}
	if f, err := r.Resolve(t.Context(), w, nil); err != nil || f.Source != images.FromRegistry {
		t.Errorf("then: %+v, %v", f, err)
	}
}

// Two that want the same image at once get it once.
func TestPullOnce(t *testing.T) {
	s := serve(t)
	ref := s.push(t, "thing:1", image(t, "a"))
	s.blobs.Store(0)
	cache := t.TempDir()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			r := &images.Resolver{Registry: true, Cache: cache} // as another process would
			if _, err := r.Resolve(t.Context(), images.Wanted{Name: "thing", Ref: ref}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := s.blobs.Load(); n != 2 {
		t.Errorf("%d blobs were fetched, want a configuration and a layer", n)
	}
	if left := files(t, cache); len(left) != 1 {
		t.Errorf("the cache holds %v", left)
	}
}

// What a killed process left is neither used nor kept, and neither is a damaged file.
func TestHalfWritten(t *testing.T) {
	s := serve(t)
	ref := s.push(t, "thing:1", image(t, "a"))
	r := &images.Resolver{Registry: true, Cache: t.TempDir()}
	w := images.Wanted{Name: "thing", Ref: ref}
	f, err := r.Resolve(t.Context(), w, nil)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(f.Archive)
	if err != nil {
		t.Fatal(err)
	}
	half := whole[:len(whole)/2]
	write(t, f.Archive, half)
	write(t, f.Archive+".123.part", half)
	others := filepath.Join(filepath.Dir(f.Archive), strings.Replace(filepath.Base(f.Archive), "=1@", "=1.1@", 1)+".123.part")
	write(t, others, half)
	if _, ok, err := r.Look(t.Context(), w); ok || err != nil {
		t.Fatalf("half an archive is taken: %v, %v", ok, err)
	}
	if f, err = r.Resolve(t.Context(), w, nil); err != nil {
		t.Fatal(err)
	}
	alone(t, f.Archive, ref, f.Digest)
	left := files(t, filepath.Dir(f.Archive))
	if len(left) != 2 || left[0] != filepath.Base(others) && left[1] != filepath.Base(others) {
		t.Errorf("left %v, want the archive and what belongs to another image", left)
	}
}
