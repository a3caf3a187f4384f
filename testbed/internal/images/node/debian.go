package node

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
)

const suite = "bookworm"

// packages of Debian: what kind's own image has, containerd and the CNI plugins.
var packages = []string{
	"systemd", "systemd-sysv", "dbus", "containerd", "runc", "containernetworking-plugins",
	"iptables", "nftables", "conntrack", "iproute2", "ethtool", "socat", "util-linux", "mount", "kmod",
	"jq", "procps", "hostname", "ca-certificates", "libseccomp2",
}

// proxyPackages are those that kube-proxy runs programs of.
var proxyPackages = []string{"iptables", "nftables", "conntrack", "kmod"}

// sources is what apt in the node would ask, whatever mirror its root came from.
const sources = `deb http://deb.debian.org/debian ` + suite + ` main
deb http://deb.debian.org/debian ` + suite + `-updates main
deb http://deb.debian.org/debian-security ` + suite + `-security main
`

// excluded are files of packages that no node needs.
var excluded = []string{"/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"}

// rootOf is where the root is, or will be.
func rootOf(dir string) string {
	return filepath.Join(dir, "debian-"+hash(slices.Concat([]string{rootRecipe, suite, strings.Join(packages, " ")}, excluded)...)+".tar")
}

// debian is a root of Debian packages, as a tar in the cache. Two made on one day are
// the same: mmdebstrap sorts, and fixes times; what it takes over from this host is
// left out here.
func (i Image) debian(ctx context.Context, dir string, say func(string)) (string, error) {
	file := rootOf(dir)
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	argv := []string{"mmdebstrap", "--variant=minbase", "--include=" + strings.Join(packages, ",")}
	for _, e := range excluded {
		argv = append(argv, "--dpkgopt=path-exclude="+e)
	}
	argv = append(append(argv, suite, "-"), i.mirrors(ctx)...)
	partial := filepath.Join(dir, ".build-debian.tar")
	out, err := os.Create(partial)
	if err != nil {
		return "", err
	}
	defer os.Remove(partial)
	defer out.Close()
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := copyTar(out, r, func(h *tar.Header) bool {
			return !slices.Contains([]string{"etc/resolv.conf", "etc/hostname", "etc/apt/sources.list"}, inRoot(h))
		})
		_, rest := io.Copy(io.Discard, r) // tar pads its end
		err = errors.Join(err, rest)
		r.CloseWithError(err)
		written <- err
	}()
	_, err = i.Runner.Run(ctx, command.Cmd{Argv: argv, Env: []string{"SOURCE_DATE_EPOCH=0", "LC_ALL=C"}, Stdout: w,
		Stderr: &command.Lines{Each: func(l string) {
			if l, ok := strings.CutPrefix(l, "I: "); ok {
				say(l)
			}
		}}})
	w.CloseWithError(err)
	if werr := <-written; err == nil {
		err = werr
	}
	if err != nil {
		return "", explain(fmt.Errorf("packages of Debian: %w", err))
	}
	if err := out.Close(); err != nil {
		return "", err
	}
	return file, os.Rename(partial, file)
}

// explain adds the remedy.
func explain(err error) error {
	remedy := "see that a Debian mirror can be reached, and that its keys are here (`apt-get install debian-archive-keyring`)"
	for sign, r := range map[string]string{
		"unshare":                 "run it as root, or let users have namespaces (`apt-get install uidmap`)",
		"subuid":                  "run it as root, or let users have namespaces (`apt-get install uidmap`)",
		"No space left on device": "free 2 GB in $TMPDIR and in the cache, and run it again: what is built stays",
	} {
		if strings.Contains(err.Error(), sign) {
			remedy = r
		}
	}
	return &Error{Err: err, Remedy: remedy}
}

// mirrors are where apt of this host gets the suite from, for one that can reach no
// other. None if this host is of another, or says it in a way that we do not know:
// mmdebstrap's default serves then.
func (i Image) mirrors(ctx context.Context) []string {
	res, err := i.Runner.Run(ctx, command.Cmd{Argv: []string{"apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)", "Created-By: Packages"}})
	if err != nil {
		i.Log.Debug("apt does not say where it gets packages from", "err", err)
		return nil
	}
	signed := ""
	if _, err := os.Stat(keyring); err == nil {
		signed = "[signed-by=" + keyring + "] "
	}
	var out []string
	whole := false
	for line := range strings.Lines(string(res.Stdout)) {
		f := strings.Fields(line)
		if len(f) != 4 || f[2] != "main" {
			continue
		}
		at, err := url.Parse(f[0])
		if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.User != nil {
			continue // a password would be in the image
		}
		// Others have suites of this name too; before the first `apt-get update` the origin is not known.
		if base := path.Base(at.Path); f[3] != "Debian" && base != "debian" && base != "debian-security" {
			continue
		}
		switch f[1] {
		case suite:
			whole = true
		case suite + "-updates", suite + "-security":
		default:
			continue
		}
		if l := "deb " + signed + f[0] + " " + f[1] + " main"; !slices.Contains(out, l) {
			out = append(out, l)
		}
	}
	if !whole {
		return nil
	}
	return out
}

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// inRoot is the path of an entry of a root, without / or ./ before it, where it is now
// that /bin, /lib and /sbin are links to /usr.
func inRoot(h *tar.Header) string { return merged(h.Name) }

func merged(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if top, _, below := strings.Cut(p, "/"); below && (top == "bin" || top == "sbin" || strings.HasPrefix(top, "lib")) {
		return "usr/" + p
	}
	return p
}

// copyTar copies the entries that are to be kept.
func copyTar(to io.Writer, from io.Reader, keep func(*tar.Header) bool) error {
	out := tar.NewWriter(to)
	err := eachFile(from, func(h *tar.Header, content io.Reader) error {
		if !keep(h) {
			return nil
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(out, content)
		return err
	})
	return errors.Join(err, out.Close())
}

func eachFile(from io.Reader, do func(*tar.Header, io.Reader) error) error {
	in := tar.NewReader(from)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := do(h, in); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

// subset writes what of a root belongs to some packages and all that they depend on.
func subset(to io.Writer, root io.ReadSeeker, packages []string) error {
	var status []byte
	lists, links := map[string][]byte{}, map[string]string{}
	err := eachFile(root, func(h *tar.Header, content io.Reader) (err error) {
		at := inRoot(h)
		dir, name := path.Split(at)
		switch {
		case at == "var/lib/dpkg/status":
			status, err = io.ReadAll(content)
		case dir == "var/lib/dpkg/info/" && strings.HasSuffix(name, ".list"):
			name, _, _ = strings.Cut(strings.TrimSuffix(name, ".list"), ":") // libc6:amd64.list
			lists[name], err = io.ReadAll(content)
		case h.Typeflag == tar.TypeSymlink:
			links[at] = merged(h.Linkname)
		}
		return err
	})
	if err != nil {
		return err
	}
	names, err := withDependencies(status, packages)
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, n := range names {
		for line := range strings.Lines(string(lists[n])) {
			keep[merged(strings.TrimSpace(line))] = true
		}
	}
	// What update-alternatives chose, and the names under which it is called.
	for _, dir := range []string{"etc/alternatives", ""} {
		for at, target := range links {
			if dir == "" && path.Dir(target) != "etc/alternatives" || dir != "" && path.Dir(at) != dir {
				continue
			}
			keep[at] = keep[at] || keep[target]
		}
	}
	if _, err := root.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return copyTar(to, root, func(h *tar.Header) bool {
		at := inRoot(h)
		return keep[at] || h.Typeflag == tar.TypeSymlink && !strings.Contains(at, "/") && strings.HasPrefix(links[at], "usr/")
	})
}

// withDependencies adds to packages all that they depend on, by dpkg's status.
func withDependencies(status []byte, packages []string) ([]string, error) {
	needs, provided := map[string][]string{}, map[string]string{}
	of := ""
	lines := bufio.NewScanner(bytes.NewReader(status))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "":
			of = ""
		case "Package":
			of = value
			needs[value] = []string{}
		case "Depends", "Pre-Depends":
			needs[of] = append(needs[of], alternatives(value)...)
		case "Provides":
			for _, v := range alternatives(value) {
				provided[v] = of
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("status of dpkg: %w", err)
	}
	var out []string
	for todo := slices.Clone(packages); len(todo) > 0; todo = todo[1:] {
		name := todo[0]
		if needs[name] == nil {
			name = provided[name]
		}
		if slices.Contains(out, name) {
			continue
		}
		if needs[name] == nil {
			if slices.Contains(packages, todo[0]) {
				return nil, fmt.Errorf("package %s is not in the root", todo[0])
			}
			continue // another alternative is there, or dpkg would not have installed it
		}
		out = append(out, name)
		todo = append(todo, needs[name]...)
	}
	slices.Sort(out)
	return out, nil
}

// alternatives are the names in a relation of packages, such as "a (>= 1) | b, c:any".
func alternatives(relation string) []string {
	var out []string
	for n := range strings.FieldsFuncSeq(relation, func(r rune) bool { return r == ',' || r == '|' }) {
		n = strings.TrimSpace(n)
		if end := strings.IndexAny(n, " (:"); end > 0 {
			n = n[:end]
		}
		out = append(out, n)
	}
	return out
}
