// Package node builds the image of kind's nodes where no registry has one for us:
// a root of Debian packages, the files that kind's own image has, Kubernetes from
// Go modules, and the images of a control plane, made of those programs alone, in
// the containerd of the image.
//
// Invariants:
//   - The tag holds a hash of all that we decide of the image. What we do not: the
//     versions of Debian's packages, which are those of the day its root was made,
//     and times in dpkg's, systemd's and containerd's own files. So two builds
//     do the same, but are not byte for byte the same.
//   - One build at a time works in a cache. What a killed one left is removed by the
//     next: its container and image have labels, its files another name. The
//     container ends by itself after an hour.
//   - It takes an engine, mmdebstrap and go, and no privileged container.
//
// Layout: <cache>/node/debian-<hash>.tar is the root. Try it with
// `bin/testbed images build node`.
package node

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
	"github.com/fluidos-edge/testbed/testbed/internal/gobuild"
)

// Estimate is how long a build from nothing takes on two cores, about.
const Estimate = 20 * time.Minute

const (
	// installing packages of Debian, and assembling an image, take that of it.
	installing = 140 * time.Second
	assembling = 45 * time.Second

	// kindVersion is that of the module whose base files the image has, kindSum its
	// checksum as in go.sum.
	kindVersion = "v0.33.0"
	kindSum     = "h1:AjvDv3vOygb/VKLVQW87lfktIBzkxR8Ump9DjxC8+Lk="
	// recipe changes whenever this package makes something else of the same parts,
	// rootRecipe when that is so for the Debian root.
	recipe     = "2"
	rootRecipe = "2"
)

//go:embed pause/main.go
var pauseSource []byte

// Image is the node image of a cache.
type Image struct {
	Cache string // absolute
	Log   *slog.Logger
	// Runner is command.Local unless a test says otherwise.
	Runner command.Runner
}

// Error is a failure that the user can mend.
type Error struct {
	Err    error
	Remedy string
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Fix is the remedy alone.
func (e *Error) Fix() string { return e.Remedy }

// Estimate is how long a build takes on two cores, with what is in the cache.
func (i Image) Estimate() time.Duration {
	d := Estimate
	own, err := gobuild.Embedded.Estimate(i.Cache)
	if err != nil {
		return d
	}
	beyond, err := gobuild.Node.Estimate(i.Cache)
	if err != nil {
		return d
	}
	d = own + beyond + assembling
	if _, err := os.Stat(rootOf(filepath.Join(i.Cache, "node"))); err != nil {
		d += installing
	}
	return d
}

// Ref is the image's reference.
func (i Image) Ref() (string, error) {
	own, _, err := gobuild.Embedded.Locate(i.Cache)
	if err != nil {
		return "", err
	}
	beyond, _, err := gobuild.Node.Locate(i.Cache)
	if err != nil {
		return "", err
	}
	return reference(inputs{
		recipe: recipe, root: filepath.Base(rootOf("")), kind: kindSum, own: filepath.Base(own.Dir), beyond: filepath.Base(beyond.Dir),
		pause: string(pauseSource), proxy: strings.Join(proxyPackages, " "),
	}), nil
}

// inputs are all that decides what is in an image.
type inputs struct{ recipe, root, kind, own, beyond, pause, proxy string }

func reference(in inputs) string {
	return "testbed/node:" + kubernetesVersion() + "-" + hash(in.recipe, in.root, in.kind, in.own, in.beyond, in.pause, in.proxy)
}

func kubernetesVersion() string { return gobuild.Versions()["kubernetes"] }

// Missing are the programs that a build takes and this host does not have.
func (i Image) Missing() []string {
	var out []string
	for _, p := range []string{"mmdebstrap", "go"} {
		if _, err := exec.LookPath(p); err != nil {
			out = append(out, p)
		}
	}
	return out
}

func (i Image) check() error {
	missing := i.Missing()
	if len(missing) == 0 {
		return nil
	}
	remedy := "have an image of kind's nodes in the engine or in a folder given by --images"
	if slices.Contains(missing, "go") {
		remedy = "install Go (https://go.dev/dl), or " + remedy
	}
	if slices.Contains(missing, "mmdebstrap") {
		remedy = "`apt-get install mmdebstrap`, or " + remedy
	}
	return &Error{Err: fmt.Errorf("the node image is built of Debian packages and Go modules: no %s here", strings.Join(missing, ", ")), Remedy: remedy}
}

// Make leaves the image in the engine under Ref. Cancelled, it keeps what it finished of
// the parts, and leaves nothing in the engine.
func (i Image) Make(ctx context.Context, e *engine.Engine, say func(string)) (err error) {
	if i.Runner == nil {
		i.Runner = command.Local{}
	}
	if i.Log == nil {
		i.Log = slog.New(slog.DiscardHandler)
	}
	if err := i.check(); err != nil {
		return err
	}
	ref, err := i.Ref()
	if err != nil {
		return err
	}
	dir := filepath.Join(i.Cache, "node")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	unlock, err := lock(ctx, dir, say)
	if err != nil {
		return err
	}
	defer unlock()
	c := &container{engine: e, cache: i.Cache}
	if err := errors.Join(clean(dir), c.clean(ctx)); err != nil {
		return err
	}
	undo := context.WithoutCancel(ctx)
	defer func() {
		ctx, cancel := context.WithTimeout(undo, time.Minute)
		defer cancel()
		err = errors.Join(err, clean(dir), c.clean(ctx))
	}()
	p := parts{}
	if p.work, err = os.MkdirTemp(dir, ".build-"); err != nil {
		return err
	}
	s := steps{Image: i, tell: say, began: time.Now()}
	for n, step := range []struct {
		what string
		do   func(ctx context.Context) error
	}{
		{"programs of the control plane", func(ctx context.Context) (err error) {
			p.own, err = s.programs(ctx, gobuild.Embedded)
			return err
		}},
		{"programs of a node", func(ctx context.Context) (err error) {
			p.beyond, err = s.programs(ctx, gobuild.Node)
			return err
		}},
		{"packages of Debian", func(ctx context.Context) (err error) {
			p.root, err = i.debian(ctx, dir, s.say)
			return err
		}},
		{"files of kind", func(ctx context.Context) (err error) {
			p.kind, err = i.kindFiles(ctx)
			return err
		}},
		{"images of the control plane", func(ctx context.Context) (err error) {
			if p.pause, err = i.buildPause(ctx, p.work); err != nil {
				return err
			}
			if p.refs, err = i.refs(ctx, p.beyond.Path("kubeadm")); err != nil {
				return err
			}
			p.archive, err = p.controlPlane()
			return err
		}},
		{"root of the node", func(ctx context.Context) error { return c.start(ctx, p.root) }},
		{"files of the node", func(ctx context.Context) error { return c.fill(ctx, p) }},
		{"images into the node", func(ctx context.Context) error { return c.load(ctx, p.archive) }},
		{"image of the node", func(ctx context.Context) error { return c.commit(ctx, ref) }},
	} {
		if err := s.run(ctx, n+1, step.what, step.do); err != nil {
			return err
		}
	}
	return nil
}

// steps tells how far a build is.
type steps struct {
	Image
	tell  func(string)
	began time.Time
	now   string
}

// say adds where we are to what is going on.
func (s *steps) say(detail string) { s.tell(s.now + ": " + detail) }

func (s *steps) run(ctx context.Context, n int, what string, do func(context.Context) error) error {
	began := time.Now()
	s.now = fmt.Sprintf("step %d of 9, %s", n, what)
	s.tell(fmt.Sprintf("%s, after %s", s.now, began.Sub(s.began).Round(time.Second)))
	err := do(ctx)
	s.Log.Info("node image", "step", what, "took", time.Since(began).Round(10*time.Millisecond), "err", err)
	return err
}

func (s *steps) programs(ctx context.Context, g gobuild.Group) (gobuild.Assets, error) {
	b := gobuild.Builder{Group: g, Cache: s.Cache, Log: s.Log, Runner: s.Runner, Progress: func(p gobuild.Progress) {
		s.say(fmt.Sprintf("%s (%d of %d) %s, about %s left", p.Asset, min(p.Done+1, p.Total), p.Total, p.Detail, p.Left))
	}}
	return b.Build(ctx)
}

// lock makes us the only build in this cache.
func lock(ctx context.Context, dir string, say func(string)) (unlock func(), err error) {
	path := filepath.Join(dir, ".lock")
	l := flock.New(path)
	ok, err := l.TryLock()
	if err == nil && !ok {
		say("waiting for another build, which holds " + path)
		_, err = l.TryLockContext(ctx, time.Second)
	}
	if err != nil {
		return nil, fmt.Errorf("node image: lock %s: %w", path, err)
	}
	return func() { _ = l.Unlock() }, nil
}

// clean removes the files of builds that are no more.
func clean(dir string) error {
	old, err := filepath.Glob(filepath.Join(dir, ".build-*"))
	for _, o := range old {
		err = errors.Join(err, os.RemoveAll(o))
	}
	return err
}

// buildPause builds the program that holds a Pod's namespaces.
func (i Image) buildPause(ctx context.Context, work string) (string, error) {
	source := filepath.Join(work, "main.go")
	if err := os.WriteFile(source, pauseSource, 0o644); err != nil {
		return "", err
	}
	out := filepath.Join(work, "pause")
	_, err := i.Runner.Run(ctx, command.Cmd{
		Argv: []string{"go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, source}, Dir: work,
		Env: []string{"CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off", "GO111MODULE=off"},
	})
	return out, err
}

// kindFiles is the folder of the files that kind's own image has.
func (i Image) kindFiles(ctx context.Context) (string, error) {
	res, err := i.Runner.Run(ctx, command.Cmd{
		Argv: []string{"go", "mod", "download", "-json", "sigs.k8s.io/kind@" + kindVersion}, Dir: os.TempDir(),
		// We hold it against our own checksum, and need to ask nobody.
		Env: []string{"GOFLAGS=-mod=mod", "GOWORK=off", "GO111MODULE=on", "GONOSUMDB=sigs.k8s.io/kind"},
	})
	var module struct{ Dir, Sum, Error string }
	if jerr := json.Unmarshal(res.Stdout, &module); err == nil && jerr != nil {
		err = jerr
	}
	switch {
	case module.Error != "":
		err = errors.New(module.Error)
	case err == nil && module.Sum != kindSum:
		err = fmt.Errorf("checksum is %s, want %s", module.Sum, kindSum)
	}
	if err != nil {
		return "", fmt.Errorf("files of kind %s: %w", kindVersion, err)
	}
	return filepath.Join(module.Dir, "images", "base", "files"), nil
}
