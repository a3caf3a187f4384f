// Package node builds the image of kind's nodes where no registry has one for us:
// a root of Debian packages, the files that kind's own image has, Kubernetes from
// Go modules, and the images of a control plane, made of those programs alone, in
// the containerd of the image.
//
// Invariants:
//   - The tag holds a hash of all that decides what is in the image but for the
//     versions of Debian's packages, which are those of the day it is built.
//   - One build at a time works in a cache. What a killed one left is removed by the
//     next: its container has a label, its files another name.
//   - It takes an engine and mmdebstrap, and no privileged container.
//
// Try it with `bin/testbed images build node`.
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
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
	"github.com/fluidos-edge/testbed/testbed/internal/gobuild"
)

// Estimate is how long a build from nothing takes on two cores.
const Estimate = 15 * time.Minute

const (
	// kindVersion is that of the module whose base files the image has.
	kindVersion = "v0.33.0"
	// recipe changes whenever this package makes something else of the same parts.
	recipe = "1"
	suite  = "bookworm"
	// label is on the container of a build.
	label = "testbed.fluidos.eu/build"
)

// packages of Debian: what kind's own image has, containerd and the CNI plugins.
var packages = []string{
	"systemd", "systemd-sysv", "dbus", "containerd", "runc", "containernetworking-plugins",
	"iptables", "nftables", "conntrack", "iproute2", "ethtool", "socat", "util-linux", "mount", "kmod",
	"jq", "procps", "hostname", "ca-certificates", "libseccomp2",
}

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
	return reference(filepath.Base(own.Dir), filepath.Base(beyond.Dir), packages), nil
}

func reference(own, beyond string, packages []string) string {
	return fmt.Sprintf("testbed/node:%s-%s", kubernetesVersion(), hash(recipe, suite, kindVersion, own, beyond, string(pauseSource), strings.Join(packages, " ")))
}

func kubernetesVersion() string { return gobuild.Versions()["kubernetes"] }

// Make leaves the image in the engine under Ref. Cancelled, it keeps what it finished of
// the parts, and leaves nothing in the engine.
func (i Image) Make(ctx context.Context, e *engine.Engine, say func(string)) (err error) {
	if i.Runner == nil {
		i.Runner = command.Local{}
	}
	if i.Log == nil {
		i.Log = slog.New(slog.DiscardHandler)
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return &Error{Err: fmt.Errorf("the node image is built of Debian packages: %w", err), Remedy: "`apt-get install mmdebstrap`, or have " +
			"an image of kind's nodes in the engine or in a folder given by --images"}
	}
	ref, err := i.Ref()
	if err != nil {
		return err
	}
	dir := filepath.Join(i.Cache, "node")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(dir, ".lock"))
	say("waiting for another build, if there is one")
	if _, err := lock.TryLockContext(ctx, time.Second); err != nil {
		return err
	}
	defer lock.Close()
	if err := i.clean(ctx, e, dir); err != nil {
		return err
	}
	own, err := i.programs(ctx, gobuild.Embedded, say)
	if err != nil {
		return err
	}
	beyond, err := i.programs(ctx, gobuild.Node, say)
	if err != nil {
		return err
	}
	root, err := i.debian(ctx, dir, say)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(dir, ".build-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	say("images of the control plane")
	p := parts{own: own, beyond: beyond, root: root, work: work}
	if p.pause, err = i.buildPause(ctx, work); err != nil {
		return err
	}
	if p.refs, err = i.refs(ctx, beyond.Path("kubeadm")); err != nil {
		return err
	}
	archive, err := p.controlPlane()
	if err != nil {
		return err
	}
	if p.kind, err = i.kindFiles(ctx); err != nil {
		return err
	}
	return i.assemble(ctx, e, ref, p, archive, say)
}

// parts of an image.
type parts struct {
	own, beyond       gobuild.Assets
	root, work, pause string
	kind              string   // folder of kind's base files
	refs              []string // images that kubeadm asks for
}

// clean removes what killed builds left.
func (i Image) clean(ctx context.Context, e *engine.Engine, dir string) error {
	left, err := e.Containers(ctx, "label="+label+"=node")
	if err != nil {
		return err
	}
	for _, c := range left {
		if err := e.Remove(ctx, c.ID); err != nil {
			return err
		}
	}
	old, err := filepath.Glob(filepath.Join(dir, ".build-*"))
	for _, o := range old {
		err = errors.Join(err, os.RemoveAll(o))
	}
	return err
}

func (i Image) programs(ctx context.Context, g gobuild.Group, say func(string)) (gobuild.Assets, error) {
	b := gobuild.Builder{Group: g, Cache: i.Cache, Log: i.Log, Progress: func(p gobuild.Progress) {
		say(fmt.Sprintf("%s (%d of %d) %s, about %s left", p.Asset, p.Done+1, p.Total, p.Detail, p.Left.Round(time.Second)))
	}}
	return b.Build(ctx)
}

// debian is a root of Debian packages, as a tar in the cache.
func (i Image) debian(ctx context.Context, dir string, say func(string)) (string, error) {
	file := filepath.Join(dir, "debian-"+hash(recipe, suite, strings.Join(packages, " "))+".tar")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	say("Debian packages")
	tmp := filepath.Join(dir, ".build-debian.tar")
	_, err := i.Runner.Run(ctx, command.Cmd{
		Argv: []string{"mmdebstrap", "--variant=minbase", "--include=" + strings.Join(packages, ","),
			"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
			suite, tmp},
		Env: []string{"SOURCE_DATE_EPOCH=0", "LC_ALL=C"},
		Stderr: &command.Lines{Each: func(l string) {
			if l, ok := strings.CutPrefix(l, "I: "); ok {
				say("Debian packages: " + l)
			}
		}},
	})
	if err != nil {
		return "", &Error{Err: fmt.Errorf("packages of Debian: %w", err), Remedy: "see that a Debian mirror can be reached, and that its keys are here (`apt-get install debian-archive-keyring`)"}
	}
	return file, os.Rename(tmp, file)
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
		Env: []string{"GOFLAGS=-mod=mod", "GOWORK=off", "GO111MODULE=on"},
	})
	if err != nil {
		return "", fmt.Errorf("files of kind %s: %w", kindVersion, err)
	}
	var module struct{ Dir, Error string }
	if err := json.Unmarshal(res.Stdout, &module); err != nil || module.Error != "" {
		return "", fmt.Errorf("files of kind %s: %s: %w", kindVersion, module.Error, err)
	}
	dir := filepath.Join(module.Dir, "images", "base", "files")
	if _, err := os.Stat(filepath.Join(dir, "usr", "local", "bin", "entrypoint")); err != nil {
		return "", fmt.Errorf("files of kind %s: %w", kindVersion, err)
	}
	return dir, nil
}
