package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/images"
)

const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// controlPlane makes one archive of all images that kubeadm asks for, under the names
// that it asks for.
func (p parts) controlPlane() (string, error) {
	all := map[name.Tag]v1.Image{}
	for _, ref := range p.refs {
		tag, err := name.NewTag(ref)
		if err != nil {
			return "", err
		}
		if all[tag], err = p.image(tag); err != nil {
			return "", fmt.Errorf("image %s: %w", ref, err)
		}
	}
	archive := filepath.Join(p.work, "images.tar")
	return archive, tarball.MultiWriteToFile(archive, all)
}

// refs are the images that kubeadm asks for.
func (i Image) refs(ctx context.Context, kubeadm string) ([]string, error) {
	res, err := i.Runner.Run(ctx, command.Cmd{Argv: []string{kubeadm, "config", "images", "list", "--kubernetes-version", kubernetesVersion()}})
	return strings.Fields(string(res.Stdout)), err
}

// image of one program, by the name of its repository.
func (p parts) image(tag name.Tag) (v1.Image, error) {
	program := tag.RepositoryStr()[strings.LastIndex(tag.RepositoryStr(), "/")+1:]
	file, cfg := "", images.Config{Env: []string{path}}
	switch program {
	case "kube-apiserver", "kube-controller-manager", "etcd":
		file = p.own.Path(program)
	case "kube-scheduler", "kube-proxy":
		file = p.beyond.Path(program)
	case "coredns":
		file, cfg.Entrypoint = p.beyond.Path(program), []string{"/usr/local/bin/coredns"}
	case "pause":
		file, cfg.Entrypoint = p.pause, []string{"/usr/local/bin/pause"}
	default:
		return nil, fmt.Errorf("kubeadm asks for %s, which nobody here makes", program)
	}
	file, err := filepath.EvalSymlinks(file)
	if err != nil {
		return nil, err
	}
	own, err := images.Assemble([]images.File{
		{Path: "/usr/local/bin/" + program, Source: file, Mode: 0o755},
		{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
	}, cfg)
	if err != nil || program != "kube-proxy" {
		return own, err
	}
	return p.onDebian(own)
}

// onDebian puts an image on the Debian root: kube-proxy runs iptables.
func (p parts) onDebian(top v1.Image) (v1.Image, error) {
	root, err := tarball.LayerFromFile(p.root, tarball.WithCompression(compression.GZip), tarball.WithCompressionLevel(1))
	if err != nil {
		return nil, err
	}
	layers, err := top.Layers()
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, append([]v1.Layer{root}, layers...)...)
	if err != nil {
		return nil, err
	}
	cfg, err := top.ConfigFile()
	if err != nil {
		return nil, err
	}
	now, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	now = now.DeepCopy()
	now.OS, now.Architecture, now.Config = cfg.OS, cfg.Architecture, cfg.Config
	return mutate.ConfigFile(img, now)
}

func hash(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d %s ", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}
