package node

import (
	"bytes"
	"context"
	"io"
	"log/slog"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
)

// What tests look at from outside.
var (
	RuntimeSpec      = runtimeSpec
	WithDependencies = withDependencies
)

// The version of kind whose base files an image has, and its checksum.
const (
	KindVersion = kindVersion
	KindSum     = kindSum
)

// References are those of an image as it is, and with each of its inputs changed.
func References() map[string]string {
	base := inputs{recipe: "1", root: "r", kind: "k", own: "o", beyond: "b", pause: "p", proxy: "x"}
	out := map[string]string{"as it is": reference(base)}
	for name, change := range map[string]func(*inputs){
		"recipe":         func(i *inputs) { i.recipe = "2" },
		"root":           func(i *inputs) { i.root = "q" },
		"kind":           func(i *inputs) { i.kind = "q" },
		"own":            func(i *inputs) { i.own = "q" },
		"beyond":         func(i *inputs) { i.beyond = "q" },
		"pause":          func(i *inputs) { i.pause = "q" },
		"proxy packages": func(i *inputs) { i.proxy = "q" },
	} {
		in := base
		change(&in)
		out[name] = reference(in)
	}
	return out
}

// RootOf is the file of a root of packages, with some of its files left out.
func RootOf(of, without []string) string {
	defer func(p, e []string) { packages, excluded = p, e }(packages, excluded)
	packages, excluded = of, without
	return rootOf("")
}

// Files are what a node has beyond Debian, and the content of what is made here.
func Files(kindFiles string, refs ...string) (lines []string, content map[string]string, err error) {
	files, err := parts{kind: kindFiles, refs: refs}.files()
	content = map[string]string{}
	for _, f := range files {
		lines = append(lines, f.String())
		content[f.path] = string(f.content)
	}
	return lines, content, err
}

// WriteTar writes files of the given contents.
func WriteTar(w io.Writer, content map[string]string) error {
	var files []file
	for path, text := range content {
		files = append(files, file{path: path, content: []byte(text), mode: 0o755})
	}
	return writeTar(w, files)
}

// Subset is what of a root belongs to packages and what they depend on.
func Subset(root []byte, packages ...string) ([]byte, error) {
	var out bytes.Buffer
	err := subset(&out, bytes.NewReader(root), packages)
	return out.Bytes(), err
}

// Mirrors are where a host gets packages from of which apt says this.
func Mirrors(ctx context.Context, r command.Runner) []string {
	return Image{Runner: r, Log: slog.New(slog.DiscardHandler)}.mirrors(ctx)
}

// Debian makes the root in a folder.
func Debian(ctx context.Context, r command.Runner, dir string, say func(string)) (string, error) {
	return Image{Runner: r, Log: slog.New(slog.DiscardHandler)}.debian(ctx, dir, say)
}

// Clean removes what a build for a cache left in the engine.
func Clean(ctx context.Context, e *engine.Engine, cache string) error {
	return (&container{engine: e, cache: cache}).clean(ctx)
}
