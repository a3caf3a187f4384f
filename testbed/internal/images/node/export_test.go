package node

import "io"

// What tests look at from outside.
var (
	Reference   = reference
	RuntimeSpec = runtimeSpec
)

// KindVersion is the version of kind whose base files an image has.
const KindVersion = kindVersion

// Files are the paths and modes of what a node has beyond Debian, and the content of those
// that are made here.
func Files(kindFiles, pause string) (map[string]string, map[string]uint32, error) {
	files, err := parts{kind: kindFiles, refs: []string{"registry.k8s.io/etcd:1", pause}}.files()
	content, modes := map[string]string{}, map[string]uint32{}
	for _, f := range files {
		content[f.path], modes[f.path] = string(f.content), uint32(f.mode)
	}
	return content, modes, err
}

// WriteTar writes files of the given contents.
func WriteTar(w io.Writer, content map[string]string) error {
	var files []file
	for path, text := range content {
		files = append(files, file{path: path, content: []byte(text), mode: 0o755})
	}
	return writeTar(w, files)
}
