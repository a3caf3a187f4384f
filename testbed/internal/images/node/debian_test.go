package node_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/images/node"
)

func TestMirrors(t *testing.T) {
	for name, tc := range map[string]struct {
		says string
		want []string
	}{
		"bookworm": {says: `http://mirror.example/debian/ bookworm main Debian
http://mirror.example/debian/ bookworm main Debian
http://mirror.example/debian/ bookworm contrib Debian
http://mirror.example/debian/ bookworm-updates main Debian
http://mirror.example/debian/ bookworm-backports main Debian
https://mirror.example/debian-security bookworm-security main $(ORIGIN)
https://packages.example/ bookworm main Example
`, want: []string{"http://mirror.example/debian/ bookworm main", "http://mirror.example/debian/ bookworm-updates main", "https://mirror.example/debian-security bookworm-security main"}},
		"another name":         {says: "http://cache.example/remote bookworm main Debian\n", want: []string{"http://cache.example/remote bookworm main"}},
		"other suite":          {says: "http://archive.example/ubuntu/ noble main Ubuntu\n"},
		"without the suite":    {says: "http://mirror.example/debian/ bookworm-updates main Debian\n"},
		"with a password":      {says: "http://me:secret@mirror.example/debian/ bookworm main Debian\n"},
		"of another way":       {says: "mirror+file:///etc/apt/mirrors/debian.list bookworm main Debian\n"},
		"nothing that we know": {says: "E: Invalid operation\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got := node.Mirrors(t.Context(), &command.Fake{Answer: func(context.Context, command.Cmd) (command.Result, error) {
				return command.Result{Stdout: []byte(tc.says)}, nil
			}})
			for n := range got { // how keys are found depends on the host
				got[n] = strings.TrimPrefix(got[n], "deb ")
				if strings.HasPrefix(got[n], "[signed-by=") {
					_, got[n], _ = strings.Cut(got[n], "] ")
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if got := node.Mirrors(t.Context(), &command.Fake{Answer: func(context.Context, command.Cmd) (command.Result, error) {
		return command.Result{}, errors.New("no apt-get")
	}}); got != nil {
		t.Errorf("got %v of a host without apt", got)
	}
}

// entries makes a tar: names that end in / are folders, values that begin with -> links.
func entries(t *testing.T, pairs ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for n := 0; n < len(pairs); n += 2 {
		h := &tar.Header{Name: pairs[n], Mode: 0o755, Typeflag: tar.TypeReg, Size: int64(len(pairs[n+1]))}
		content := pairs[n+1]
		if link, ok := strings.CutPrefix(content, "-> "); ok {
			h.Typeflag, h.Linkname, h.Size, content = tar.TypeSymlink, link, 0, ""
		} else if strings.HasSuffix(h.Name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func namesIn(t *testing.T, text []byte) []string {
	t.Helper()
	var out []string
	r := tar.NewReader(bytes.NewReader(text))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, h.Name)
	}
}

const status = `Package: iptables
Status: install ok installed
Depends: libc6 (>= 2.36), libxtables12 (= 1.8.9-2) | libxtables11
Pre-Depends: netbase:any

Package: libc6
Depends: libgcc-s1
Description: a library
 Depends: not-a-field

Package: libgcc-s1
Depends: libc6, gone | not-there

Package: libxtables12t64
Provides: libxtables12 (= 1.8.9-2), other

Package: netbase

Package: perl
Depends: libc6
`

func TestWithDependencies(t *testing.T) {
	got, err := node.WithDependencies([]byte(status), []string{"iptables"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"iptables", "libc6", "libgcc-s1", "libxtables12t64", "netbase"}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := node.WithDependencies([]byte(status), []string{"conntrack"}); err == nil || !strings.Contains(err.Error(), "conntrack is not in the root") {
		t.Errorf("got %v, want an error for a package that is not there", err)
	}
}

func FuzzWithDependencies(f *testing.F) {
	f.Add([]byte(status), "iptables")
	f.Add([]byte("Package: a\nDepends: a, (|:\n"), "a")
	f.Fuzz(func(t *testing.T, text []byte, name string) {
		got, err := node.WithDependencies(text, []string{name})
		if err == nil && len(got) == 0 {
			t.Error("neither a package nor an error")
		}
	})
}

func TestSubset(t *testing.T) {
	root := entries(t,
		"./", "", "./bin", "-> usr/bin", "./lib", "-> usr/lib", "./sbin", "-> usr/sbin", "./vmlinuz", "-> boot/vmlinuz",
		"./etc/", "", "./etc/alternatives/", "", "./etc/alternatives/iptables", "-> /usr/sbin/iptables-nft", "./etc/alternatives/pager", "-> /usr/bin/less",
		"./usr/", "", "./usr/lib/", "", "./usr/lib/libc.so.6", "c", "./usr/bin/", "", "./usr/bin/perl", "p", "./usr/bin/less", "l", "./usr/bin/pager", "-> /etc/alternatives/pager",
		"./usr/sbin/", "", "./usr/sbin/iptables", "-> /etc/alternatives/iptables", "./usr/sbin/iptables-nft", "-> xtables-nft-multi", "./usr/sbin/xtables-nft-multi", "x",
		"./var/lib/dpkg/status", status,
		"./var/lib/dpkg/info/iptables.list", "/.\n/usr\n/usr/sbin\n/usr/sbin/iptables-nft\n/usr/sbin/xtables-nft-multi\n/usr/share/doc/iptables\n",
		"./var/lib/dpkg/info/libc6:amd64.list", "/.\n/lib\n/lib/libc.so.6\n",
		"./var/lib/dpkg/info/perl.list", "/usr/bin/perl\n",
	)
	got, err := node.Subset(root, "iptables")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"./", "./bin", "./lib", "./sbin", "./etc/alternatives/iptables", "./usr/", "./usr/lib/libc.so.6",
		"./usr/sbin/", "./usr/sbin/iptables", "./usr/sbin/iptables-nft", "./usr/sbin/xtables-nft-multi"}
	if diff := cmp.Diff(want, namesIn(t, got)); diff != "" {
		t.Error(diff)
	}
	if _, err := node.Subset(root[:len(root)/2], "iptables"); err == nil {
		t.Error("half a root is accepted")
	}
}

func TestDebian(t *testing.T) {
	dir := t.TempDir()
	root := entries(t, "./etc/hostname", "mine", "./etc/resolv.conf", "nameserver 192.0.2.1", "./etc/apt/sources.list", "deb http://mirror.example/", "./bin", "-> usr/bin")
	half := false
	run := &command.Fake{Answer: func(_ context.Context, c command.Cmd) (command.Result, error) {
		if c.Argv[0] != "mmdebstrap" {
			return command.Result{Stdout: []byte("http://mirror.example/debian/ bookworm main Debian\n")}, nil
		}
		if _, err := io.WriteString(c.Stderr, "I: installing packages...\nW: hm\n"); err != nil {
			return command.Result{}, err
		}
		if half {
			_, _ = c.Stdout.Write(root[:len(root)/2])
			return command.Result{Stderr: []byte("E: mmdebstrap failed to run: unshare")}, errors.New("exit status 1")
		}
		_, err := c.Stdout.Write(append(root, make([]byte, 1<<16)...)) // more padding than it needs
		return command.Result{}, err
	}}

	half = true
	_, err := node.Debian(t.Context(), run, dir, func(string) {})
	var fix interface{ Fix() string }
	if !errors.As(err, &fix) || !strings.Contains(fix.Fix(), "as root") || !strings.Contains(err.Error(), "failed to run: unshare") {
		t.Errorf("got %v, want what mmdebstrap said and a fix", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}

	half = false
	var said []string
	at, err := node.Debian(t.Context(), run, dir, func(s string) { said = append(said, s) })
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"./bin"}, namesIn(t, text)); diff != "" {
		t.Errorf("what is this host's own is in the root:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"installing packages..."}, said); diff != "" {
		t.Error(diff)
	}
	argv := run.Calls()[len(run.Calls())-1].Argv
	if last := argv[len(argv)-1]; !strings.HasSuffix(last, "http://mirror.example/debian/ bookworm main") {
		t.Errorf("asks %q, not the host's mirror", last)
	}
	calls := len(run.Calls())
	if again, err := node.Debian(t.Context(), run, dir, func(string) {}); err != nil || again != at || len(run.Calls()) != calls {
		t.Errorf("a second build got %s, %v after %d commands", again, err, len(run.Calls())-calls)
	}
}
