package images

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// user is whom programs run as in what we assemble. It has no name on most hosts,
// and no rights on any.
const user = "65532"

// packing is how long it takes to assemble an image of programs that are there.
const packing = 5 * time.Second

// programs are those of this project that run in clusters.
var programs = []string{"boards", "erm", "hollowedge", "mapper", "relay", "router"}

// authorities is where hosts keep whom they trust, as Debian, Fedora and SUSE have it.
var authorities = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"}

// Components is the image with all programs of this project, each at /usr/bin/<name>.
// Its tag is a hash of all that is in it.
func Components(binDir string) (Wanted, error) {
	var files []string
	for _, p := range programs {
		files = append(files, filepath.Join(binDir, p))
	}
	img, pin, err := pack(files, nil, "CGO_ENABLED=0 make build")
	if err != nil {
		return Wanted{}, err
	}
	return Wanted{Name: "components", Build: &Build{Ref: "testbed/components:" + pin, Estimate: packing, Image: given(img)}}, nil
}

// Program is an image with one static program, at /usr/bin/<the file's name>, for
// where the published one cannot be had. The tag is the program's version and a hash
// of all that is in it.
func Program(name, upstreamRef, file, version string) (Wanted, error) {
	img, pin, err := pack([]string{file}, []string{path.Join("/usr/bin", filepath.Base(file))}, "build it with CGO_ENABLED=0")
	if err != nil {
		return Wanted{}, err
	}
	return Wanted{Name: name, Ref: upstreamRef, Build: &Build{Ref: "testbed/" + name + ":" + version + "-" + pin, Estimate: packing, Image: given(img)}}, nil
}

// Pinned is Program for a program that is not built yet: file is called when no
// other source has the image, and takes estimate. The pin must change whenever what
// it builds does; the tag is the program's version and the pin.
func Pinned(name, upstreamRef, version, pin string, estimate time.Duration, file func(ctx context.Context, say func(string)) (string, error)) Wanted {
	return Wanted{Name: name, Ref: upstreamRef, Build: &Build{
		Ref: "testbed/" + name + ":" + version + "-" + pin, Estimate: estimate + packing,
		Image: func(ctx context.Context, say func(string)) (v1.Image, error) {
			at, err := file(ctx, say)
			if err != nil {
				return nil, err
			}
			img, _, err := pack([]string{at}, []string{path.Join("/usr/bin", filepath.Base(at))}, "build it with CGO_ENABLED=0")
			return img, err
		},
	}}
}

func given(img v1.Image) func(context.Context, func(string)) (v1.Image, error) {
	return func(context.Context, func(string)) (v1.Image, error) { return img, nil }
}

// pack assembles programs with what every one of them may need, and gives a pin: 12
// digits of the image's digest.
func pack(files, entrypoint []string, fix string) (v1.Image, string, error) {
	var bad []error
	var dynamic []string
	content := []File{
		{Path: "/etc/passwd", Mode: 0o644, Content: []byte("root:x:0:0:root:/:/sbin/nologin\ntestbed:x:" + user + ":" + user + ":testbed:/tmp:/sbin/nologin\n")},
		{Path: "/etc/group", Mode: 0o644, Content: []byte("root:x:0:\ntestbed:x:" + user + ":\n")},
		{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
	}
	for _, f := range files {
		switch err := static(f); {
		case err == errDynamic:
			dynamic = append(dynamic, filepath.Base(f))
		case err != nil:
			bad = append(bad, err)
		}
		content = append(content, File{Path: path.Join("/usr/bin", filepath.Base(f)), Source: f, Mode: 0o755})
	}
	if dynamic != nil {
		bad = append(bad, fmt.Errorf("%s in %s: %w", strings.Join(dynamic, ", "), filepath.Dir(files[0]), errDynamic))
	}
	if bad != nil {
		return nil, "", &Error{What: "cannot be put into an image", Causes: bad, Remedy: fix}
	}
	for _, a := range authorities {
		if b, err := os.ReadFile(a); err == nil {
			content = append(content, File{Path: authorities[0], Mode: 0o644, Content: b})
			break
		}
	}
	img, err := Assemble(content, Config{Entrypoint: entrypoint, User: user + ":" + user})
	if err != nil {
		return nil, "", err
	}
	h, err := img.ConfigName()
	if err != nil {
		return nil, "", err
	}
	return img, h.Hex[:12], nil
}

var errDynamic = errors.New("dynamically linked, to libraries that the image does not have")

// static tells why a program cannot run where there is nothing but itself.
func static(file string) error {
	f, err := elf.Open(file)
	var at *fs.PathError
	var format *elf.FormatError
	switch {
	case errors.As(err, &at):
		return fmt.Errorf("%s: %w", file, at.Err)
	case errors.As(err, &format), err != nil && strings.Contains(err.Error(), "EOF"):
		return fmt.Errorf("%s is no program for Linux", file)
	case err != nil:
		return fmt.Errorf("%s: %w", file, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errDynamic
		}
	}
	return nil
}
