// Package gobuild builds what testbeds run and this project does not write, from
// pinned Go modules, into a cache: for the embedded backend etcd, the Kubernetes
// control plane and kubectl, Telegraf and InfluxDB; for the image of kind's nodes
// kubelet, kubeadm and what is beside them.
//
// The pins are pins/*.mod and *.sum, a module of its own for each set. (They are
// not named go.mod, or go:embed would leave them out.) To move one, run `go get`
// in a folder with both files under their usual names and copy them back; the
// version is repeated in sets, which a test holds against the pins.
//
// Invariants:
//   - A set's folder is named by a hash of its pins, flags and platform; what lies
//     in it is whole, as binaries are built elsewhere and renamed. A cancelled
//     or killed Build keeps what it finished.
//   - One Build at a time works in a cache; others wait, and say so.
//   - The result depends on the pins alone, not on GOFLAGS or a go.work around.
//
// Layout: <cache>/assets/<set>-<key>/<binary>, and <cache>/assets/<key of all
// sets>/<binary>, which is a link. Try it with `bin/testbed assets build`.
package gobuild

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

//go:embed pins
var pins embed.FS

// set is what one pinned module gives.
type set struct {
	name     string
	module   string
	version  string
	args     []string // of go build
	binaries []binary
	packages int // that one build of all of it compiles, to tell how far it is
}

// binary is one program.
type binary struct {
	name string
	pkg  string
	cost time.Duration // of a build from nothing on two cores
}

// Group is what is built together: one backend's programs.
type Group int

const (
	// Embedded is what the embedded backend runs, and sinks on every backend.
	Embedded Group = iota
	// Node is what the image of kind's nodes has beyond that.
	Node
)

// sets of a group, in the order in which they are built: what is quickly done first.
func (g Group) sets() []set {
	if g == Node {
		return nodeSets()
	}
	return embeddedSets()
}

// kubernetes builds its programs; two sets of pins have the same version.
func kubernetes(name string, packages int, binaries ...binary) set {
	return set{
		name: name, module: "k8s.io/kubernetes", version: "v1.34.4",
		args: []string{"-mod=readonly", "-ldflags", "-s -w" +
			" -X k8s.io/component-base/version.gitVersion=v1.34.4" +
			" -X k8s.io/component-base/version.gitMajor=1" +
			" -X k8s.io/component-base/version.gitMinor=34"},
		binaries: binaries, packages: packages,
	}
}

func nodeSets() []set {
	return []set{
		{
			name: "coredns", module: "github.com/coredns/coredns", version: "v1.14.3",
			args:     []string{"-mod=readonly", "-ldflags", "-s -w"},
			binaries: []binary{{"coredns", "github.com/coredns/coredns", 169 * time.Second}},
			packages: 1338,
		},
		kubernetes("node", 1939,
			binary{"kubelet", "k8s.io/kubernetes/cmd/kubelet", 154 * time.Second},
			binary{"kubeadm", "k8s.io/kubernetes/cmd/kubeadm", 47 * time.Second},
			binary{"kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy", 13 * time.Second},
			binary{"kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", 11 * time.Second}),
	}
}

func embeddedSets() []set {
	return []set{
		{
			name: "telegraf", module: "github.com/influxdata/telegraf", version: "v1.37.2",
			args: []string{
				"-mod=mod", // its pins hold no more than what the build with these tags needs
				"-tags", "custom,inputs.http_listener_v2,outputs.influxdb_v2,outputs.file,parsers.influx,serializers.influx",
				"-ldflags", "-s -w -X github.com/influxdata/telegraf/internal.Version=1.37.2",
			},
			binaries: []binary{{"telegraf", "github.com/influxdata/telegraf/cmd/telegraf", 32 * time.Second}},
			packages: 447,
		},
		{
			name: "etcd", module: "go.etcd.io/etcd/server/v3", version: "v3.6.8",
			args:     []string{"-mod=readonly", "-ldflags", "-s -w"},
			binaries: []binary{{"etcd", "go.etcd.io/etcd/server/v3", 40 * time.Second}},
			packages: 565,
		},
		{
			name: "influxdb", module: "github.com/influxdata/influxdb", version: "v1.8.3",
			args:     []string{"-mod=readonly", "-ldflags", "-s -w -X main.version=1.8.3"},
			binaries: []binary{{"influxd", "github.com/influxdata/influxdb/cmd/influxd", 58 * time.Second}},
			packages: 584,
		},
		kubernetes("kubernetes", 2525,
			binary{"kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", 374 * time.Second},
			binary{"kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", 63 * time.Second},
			binary{"kubectl", "k8s.io/kubernetes/cmd/kubectl", 55 * time.Second}),
	}
}

// Versions gives the pinned version of each set: kubernetes, etcd, ...
func Versions() map[string]string {
	out := map[string]string{}
	for _, s := range append(Embedded.sets(), Node.sets()...) {
		out[s.name] = s.version
	}
	return out
}

// pin reads a set's go.mod and go.sum.
func (s set) pin() (mod, sum []byte, err error) {
	mod, err = pins.ReadFile(path.Join("pins", s.name+".mod"))
	if err != nil {
		return nil, nil, err
	}
	sum, err = pins.ReadFile(path.Join("pins", s.name+".sum"))
	return mod, sum, err
}

// key is all that decides what a set's binaries are.
func (s set) key() (string, error) {
	mod, sum, err := s.pin()
	if err != nil {
		return "", err
	}
	return s.keyOf(mod, sum, runtime.GOOS+"/"+runtime.GOARCH), nil
}

func (s set) keyOf(mod, sum []byte, platform string) string {
	parts := []string{s.name, platform, string(mod), string(sum)}
	for _, b := range s.binaries {
		parts = append(parts, b.name, b.pkg)
	}
	return hash(append(parts, s.args...)...)
}

func hash(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d %s ", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Assets is a folder with all binaries of a group. Embedded: etcd, kube-apiserver,
// kube-controller-manager, kubectl, telegraf and influxd. Node: kubelet, kubeadm,
// kube-proxy, kube-scheduler and coredns.
type Assets struct {
	Dir string
}

// Path is where the binary of this name is.
func (a Assets) Path(name string) string { return filepath.Join(a.Dir, name) }

// place is where everything of a group lies in a cache.
type place struct {
	group Group
	root  string            // <cache>/assets
	sets  map[string]string // folder of each set
	all   Assets
}

func (g Group) locate(cache string) (place, error) {
	if !filepath.IsAbs(cache) {
		return place{}, fmt.Errorf("assets: cache %q must be an absolute path", cache)
	}
	p := place{group: g, root: filepath.Join(cache, "assets"), sets: map[string]string{}}
	var keys []string
	for _, s := range g.sets() {
		k, err := s.key()
		if err != nil {
			return place{}, fmt.Errorf("assets: pins of %s: %w", s.name, err)
		}
		keys = append(keys, k)
		p.sets[s.name] = filepath.Join(p.root, s.name+"-"+k)
	}
	p.all = Assets{Dir: filepath.Join(p.root, hash(keys...))}
	return p, nil
}

// Locate is Group.Locate of Embedded.
func Locate(cache string) (Assets, []string, error) { return Embedded.Locate(cache) }

// Locate says where this version's binaries are in a cache, and which are missing
// there. It writes nothing.
func (g Group) Locate(cache string) (Assets, []string, error) {
	p, err := g.locate(cache)
	if err != nil {
		return Assets{}, nil, err
	}
	missing, err := p.missing()
	return p.all, missing, err
}

// Estimate is how long it takes to build from nothing, on two cores, what is missing
// in a cache.
func (g Group) Estimate(cache string) (time.Duration, error) {
	p, err := g.locate(cache)
	if err != nil {
		return 0, err
	}
	missing, err := p.missing()
	var d time.Duration
	for _, s := range g.sets() {
		for _, b := range s.binaries {
			if slices.Contains(missing, b.name) {
				d += b.cost
			}
		}
	}
	return d, err
}

// missing gives the names that are not in the folder of all.
func (p place) missing() ([]string, error) {
	var out []string
	for _, s := range p.group.sets() {
		for _, b := range s.binaries {
			ok, err := built(p.all.Path(b.name))
			if err != nil {
				return nil, err
			}
			if !ok {
				out = append(out, b.name)
			}
		}
	}
	return out, nil
}

// built reports whether path is a program.
func built(path string) (bool, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("assets: %w", err)
	}
	return info.Mode().IsRegular() && info.Mode().Perm()&0o100 != 0 && info.Size() > 0, nil
}

// link makes the folder of all, or what it lacks.
func (p place) link() error {
	if err := os.MkdirAll(p.all.Dir, 0o755); err != nil {
		return fmt.Errorf("assets: %w", err)
	}
	for _, s := range p.group.sets() {
		for _, b := range s.binaries {
			to := filepath.Join("..", filepath.Base(p.sets[s.name]), b.name)
			at := p.all.Path(b.name)
			if old, err := os.Readlink(at); err == nil && old == to {
				continue
			}
			if err := os.RemoveAll(at); err != nil {
				return fmt.Errorf("assets: %w", err)
			}
			if err := os.Symlink(to, at); err != nil {
				return fmt.Errorf("assets: %w", err)
			}
		}
	}
	return nil
}

// names joins binaries for people.
func names(bs []binary) string {
	out := make([]string, len(bs))
	for i, b := range bs {
		out[i] = b.name
	}
	return strings.Join(out, ", ")
}
