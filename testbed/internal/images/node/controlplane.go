package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/gobuild"
	"github.com/fluidos-edge/testbed/testbed/internal/images"
)

const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// parts of an image, all of them files of this host.
type parts struct {
	own, beyond gobuild.Assets // the embedded backend's programs, and a node's
	root        string         // Debian, as a tar
	work        string         // folder that goes when the build ends
	pause       string         // program
	kind        string         // folder of kind's base files
	refs        []string       // images that kubeadm asks for
	archive     string         // those images
}

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
	program := filepath.Base(tag.RepositoryStr())
	file, cfg := "", images.Config{Env: []string{searchPath}}
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
	img, err := images.Assemble([]images.File{
		{Path: "/usr/local/bin/" + program, Source: file, Mode: 0o755},
		{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
	}, cfg)
	if err != nil {
		return nil, err
	}
	var below []v1.Layer
	if program == "kube-proxy" {
		l, err := p.tools()
		if err != nil {
			return nil, err
		}
		below = append(below, l)
	}
	return packed(img, below...)
}

// tools is a layer with what kube-proxy runs: a tenth of the root.
func (p parts) tools() (v1.Layer, error) {
	root, err := os.Open(p.root)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	out, err := os.Create(filepath.Join(p.work, "tools.tar"))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(subset(out, root, proxyPackages), out.Close()); err != nil {
		return nil, err
	}
	return tarball.LayerFromFile(out.Name(), compressed...)
}

// compressed: the engine copies all images of a node whenever it makes one, also for
// nodes that run few of them, and a node unpacks each once. So they are small, by what
// is quickly unpacked.
var compressed = []tarball.LayerOption{tarball.WithCompression(compression.ZStd), tarball.WithMediaType(types.OCILayerZStd)}

// packed is an image with its layers compressed, on top of others.
func packed(img v1.Image, below ...v1.Layer) (v1.Image, error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	for _, l := range layers {
		c, err := tarball.LayerFromOpener(l.Uncompressed, compressed...)
		if err != nil {
			return nil, err
		}
		below = append(below, c)
	}
	out, err := mutate.AppendLayers(empty.Image, below...)
	if err != nil {
		return nil, err
	}
	was, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	now, err := out.ConfigFile()
	if err != nil {
		return nil, err
	}
	now = now.DeepCopy()
	now.OS, now.Architecture, now.Created, now.Config = was.OS, was.Architecture, was.Created, was.Config
	return mutate.ConfigFile(out, now)
}
