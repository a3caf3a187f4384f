package node

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
)

const (
	// label is on the container and the image of a build under way, cacheLabel with it
	// for the cache that it works for: an engine may serve several.
	label      = "testbed.fluidos.eu/build"
	cacheLabel = label + ".cache"
	lifetime   = time.Hour
)

// container is where an image is put together.
type container struct {
	engine *engine.Engine
	cache  string
	id     string
}

// clean removes what a build for this cache has in the engine, other than its result.
func (c *container) clean(ctx context.Context) error {
	left, err := c.engine.Containers(ctx, "label="+label+"=node", "label="+cacheLabel+"="+c.cache)
	if err != nil {
		return err
	}
	for _, l := range left {
		if err := c.engine.Remove(ctx, l.ID); err != nil {
			return err
		}
	}
	out, err := c.engine.Output(ctx, "images", "--quiet", "--no-trunc", "--filter", "label="+label+"=node", "--filter", "label="+cacheLabel+"="+c.cache)
	if err != nil {
		return err
	}
	return c.engine.RemoveImages(ctx, strings.Fields(out)...)
}

// start starts a container of a root, in which nothing runs.
func (c *container) start(ctx context.Context, root string) error {
	f, err := os.Open(root)
	if err != nil {
		return err
	}
	defer f.Close()
	res, err := c.engine.Runner.Run(ctx, command.Cmd{Argv: []string{engine.Program, "import",
		"--change", "LABEL " + label + "=node " + cacheLabel + "=" + quoted(c.cache), "-"}, Stdin: f})
	if err != nil {
		return err
	}
	c.id, err = c.engine.Output(ctx, "run", "--detach", "--rm", "--network", "none", "--stop-signal", "SIGRTMIN+3",
		"--label", label+"=node", "--label", cacheLabel+"="+c.cache,
		"--entrypoint", "sleep", strings.TrimSpace(string(res.Stdout)), fmt.Sprint(int(lifetime.Seconds())))
	return err
}

// quoted is a value of a LABEL.
func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`).Replace(s) + `"`
}

// fill puts into the container what the node has beyond Debian.
func (c *container) fill(ctx context.Context, p parts) error {
	// What only makes sense on a machine, as kind's own image leaves it out.
	if _, err := c.engine.Exec(ctx, c.id, "find", "/lib/systemd/system", "/etc/systemd/system", "-mindepth", "2", "(",
		"-path", "*/sysinit.target.wants/systemd-tmpfiles-setup.service", "-o", "-path", "*/multi-user.target.wants/*",
		"-o", "-path", "/etc/systemd/system/*.wants/*", "-o", "-path", "*/local-fs.target.wants/*", "-o", "-path", "*/basic.target.wants/*",
		"-o", "-path", "*/sockets.target.wants/*udev*", "-o", "-path", "*/sockets.target.wants/*initctl*", ")", "-delete"); err != nil {
		return err
	}
	files, err := p.files()
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeTar(w, files)) }()
	_, err = c.engine.Runner.Run(ctx, command.Cmd{Argv: []string{engine.Program, "cp", "-", c.id + ":/"}, Stdin: r})
	r.CloseWithError(errors.New("the engine takes no more"))
	if err != nil {
		return err
	}
	for _, argv := range [][]string{
		{"mkdir", "-p", "/opt/cni/bin", "/etc/kubernetes/manifests"},
		{"cp", "-a", "/usr/lib/cni/.", "/opt/cni/bin/"},
		{"systemctl", "enable", "kubelet.service", "containerd.service", "undo-mount-hacks.service"},
		{"systemctl", "mask", "systemd-binfmt.service"}, // it is the kernel's, which is shared
	} {
		if _, err := c.engine.Exec(ctx, c.id, argv...); err != nil {
			return err
		}
	}
	spec, err := c.engine.Exec(ctx, c.id, "ctr", "oci", "spec")
	if err != nil {
		return err
	}
	text, err := runtimeSpec([]byte(spec))
	if err != nil {
		return err
	}
	return c.engine.WriteFile(ctx, c.id, "/etc/containerd/cri-base.json", "0644", text)
}

// load takes an archive into the containerd of the container, which runs only for
// that: packed, since what is unpacked belongs to a snapshotter of the node.
func (c *container) load(ctx context.Context, archive string) error {
	e, id := c.engine, c.id
	if _, err := e.Output(ctx, "exec", "--detach", id, "containerd"); err != nil {
		return err
	}
	var last error
	if err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		_, last = e.Exec(ctx, id, "ctr", "version")
		return last == nil, nil
	}); err != nil {
		return fmt.Errorf("containerd of the node image does not answer: %w", errors.Join(last, err))
	}
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := e.Pipe(ctx, f, id, "ctr", "--namespace=k8s.io", "images", "import", "--no-unpack", "-"); err != nil {
		return err
	}
	if _, err := e.Exec(ctx, id, "pkill", "-TERM", "-x", "containerd"); err != nil {
		return err
	}
	if err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		out, err := e.Exec(ctx, id, "pgrep", "-c", "-x", "containerd")
		return err != nil && strings.TrimSpace(out) == "0", nil
	}); err != nil {
		return fmt.Errorf("containerd of the node image does not end: %w", err)
	}
	_, err = e.Exec(ctx, id, "rm", "-rf", "/run/containerd")
	return err
}

func (c *container) commit(ctx context.Context, ref string) error {
	_, err := c.engine.Output(ctx, "commit", "--change", `ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]`, "--change", "ENV container=docker",
		"--change", "LABEL "+label+`="" `+cacheLabel+`=""`, c.id, ref)
	return err
}

// storageClass stands for kind's, whose provisioner is an image that is not here.
const storageClass = `apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: standard
  annotations:
    storageclass.kubernetes.io/is-default-class: "true"
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
`

// file is one file of the node: of this host, or its content, or a link.
type file struct {
	path, source, link string
	content            []byte
	mode               fs.FileMode
}

// files are all that the node has beyond Debian, but for /etc/containerd/cri-base.json
// and the links of systemctl.
func (p parts) files() ([]file, error) {
	pause, err := p.pauseRef()
	if err != nil {
		return nil, err
	}
	out := []file{
		{path: "usr/bin/kubelet", source: p.beyond.Path("kubelet"), mode: 0o755},
		{path: "usr/bin/kubeadm", source: p.beyond.Path("kubeadm"), mode: 0o755},
		{path: "usr/bin/kubectl", source: p.own.Path("kubectl"), mode: 0o755},
		// Where kind's units look for them.
		{path: "usr/local/bin/containerd", link: "/usr/bin/containerd"},
		{path: "usr/local/bin/ctr", link: "/usr/bin/ctr"},
		{path: "kind/version", content: []byte(kubernetesVersion()), mode: 0o644},
		{path: "kind/manifests/default-storage.yaml", content: []byte(storageClass), mode: 0o644},
		{path: "etc/systemd/journald.conf.d/10-testbed.conf", content: []byte("[Journal]\nReadKMsg=no\n"), mode: 0o644},
		{path: "etc/apt/sources.list", content: []byte(sources), mode: 0o644},
	}
	err = filepath.WalkDir(p.kind, func(at string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(p.kind, at)
		if err != nil {
			return err
		}
		f := file{path: filepath.ToSlash(rel), source: at, mode: 0o644}
		// The module cache does not keep who may run what.
		if strings.HasPrefix(f.path, "usr/local/bin/") || strings.HasPrefix(f.path, "kind/bin/") {
			f.mode = 0o755
		}
		if f.path == "etc/containerd/config.toml" {
			text, err := os.ReadFile(at)
			if err != nil {
				return err
			}
			if f.source, f.content = "", sandboxImage.ReplaceAll(text, []byte("${1}\""+pause+"\"")); !bytes.Contains(f.content, []byte(pause)) {
				return fmt.Errorf("%s names no sandbox image", at)
			}
		}
		out = append(out, f)
		return nil
	})
	return out, err
}

// String is a line about a file: mode, path, where a link leads, and a hash of what
// is not taken from elsewhere.
func (f file) String() string {
	switch {
	case f.link != "":
		return "link " + f.path + " -> " + f.link
	case f.source != "":
		return fmt.Sprintf("%04o %s", f.mode, f.path)
	}
	sum := sha256.Sum256(f.content)
	return fmt.Sprintf("%04o %s %s", f.mode, f.path, hex.EncodeToString(sum[:6]))
}

var sandboxImage = regexp.MustCompile(`(?m)^(\s*sandbox_image\s*=\s*)"[^"]*"`)

// pauseRef is how kubeadm calls the pause image, so that one is there.
func (p parts) pauseRef() (string, error) {
	for _, ref := range p.refs {
		if strings.Contains(ref, "/pause:") {
			return ref, nil
		}
	}
	return "", errors.New("kubeadm names no pause image")
}

func writeTar(w io.Writer, files []file) error {
	t := tar.NewWriter(w)
	for _, f := range files {
		if err := f.write(t); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
	}
	return t.Close()
}

// write adds a file that root owns.
func (f file) write(t *tar.Writer) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: f.path, Mode: int64(f.mode), Size: int64(len(f.content)), Format: tar.FormatPAX}
	var from io.Reader = bytes.NewReader(f.content)
	switch {
	case f.link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.link, 0o777
	case f.source != "":
		open, err := os.Open(f.source)
		if err != nil {
			return err
		}
		defer open.Close()
		info, err := open.Stat()
		if err != nil {
			return err
		}
		h.Size, from = info.Size(), open
	}
	if err := t.WriteHeader(h); err != nil || f.link != "" {
		return err
	}
	_, err := io.Copy(t, from)
	return err
}

// runtimeSpec is the base of every container of the node: the runtime's own, with
// kind's hook that gives Pods a product uuid, and without limits.
func runtimeSpec(text []byte) ([]byte, error) {
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		return nil, fmt.Errorf("ctr oci spec: %w", err)
	}
	hooks, _ := spec["hooks"].(map[string]any)
	if hooks == nil {
		hooks = map[string]any{}
	}
	list, _ := hooks["createContainer"].([]any)
	hooks["createContainer"] = append(list, map[string]any{"path": "/kind/bin/mount-product-files.sh"})
	spec["hooks"] = hooks
	if process, ok := spec["process"].(map[string]any); ok {
		delete(process, "rlimits")
	}
	return json.MarshalIndent(spec, "", "  ")
}

func hash(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d %s ", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}
