// Package boundaries holds the import direction of docs/design/layout.md: a
// test that fails on any other edge, and says why.
package boundaries

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/fluidos-edge/testbed/"

// rule says what the packages of a room may import of ours. The first rule
// whose room is the package's, or holds it, counts.
type rule struct {
	room string
	may  []string
	why  string
}

var rules = []rule{
	{"testbed/topology", nil, "everybody may import the file's types, so they import nobody"},
	{"testbed/internal/command", nil, "running programs knows nothing of testbeds"},
	{"simulators/bluest", nil, "frames are pure"},
	{"charts", nil, "files only"},
	{"controllers/api", nil, "types only"},
	{"internal/daemon", nil, "the process around a component knows no component"},
	{"internal/journal", nil, "a file of lines knows none of those who write it, so that what is judged and what it is judged by keep it alike"},
	{"controllers/sensor", []string{"controllers/api"}, "pure, shared by ERM, router and relay"},
	{"controllers/mapper", []string{"controllers/api", "controllers/sensor", "simulators/radio", "simulators/bluest", "testbed/topology", "internal/journal"}, "reconcilers never import each other; a mapper speaks BLE and keeps a journal"},
	{"controllers", []string{"controllers/api", "controllers/sensor", "testbed/topology"}, "reconcilers never import each other"},
	{"simulators/radio", []string{"simulators/bluest"}, "the radio carries bytes; it knows no board"},
	{"simulators/fleet", []string{"simulators", "testbed/topology", "internal/journal"}, "the boards process keeps a journal; a board itself does no I/O"},
	{"simulators", []string{"simulators", "controllers/api", "testbed/topology"}, "simulators stand in for hardware and for KubeEdge; they know no controller"},
	{"testbed/internal/backend/kind", []string{"testbed", "charts", "controllers/api", "internal/ociruntime"}, "what a host lacks is the OCI runtime's knowledge"},
	{"testbed/internal/doctor", []string{"testbed/internal", "internal/ociruntime"}, "it registers the OCI runtime, which says what a host lacks"},
	{"testbed", []string{"testbed", "charts", "controllers/api"}, "the testbed deploys controllers and simulators and imports none of them"},
	{"scenarios", []string{"scenarios", "testbed", "controllers/api", "controllers/sensor"}, "scenarios judge from outside"},
	{"internal/cli", []string{"testbed", "scenarios", "simulators", "controllers", "charts"}, "the command line may import anything but cmd"},
	{"internal/bench", nil, "measures from outside, as a user would"},
	{"internal/ociruntime", nil, "it is started several times for each container, so the standard library is all it takes"},
	{"cmd/testbed", []string{"internal/cli"}, "main only"},
	{"cmd/bench", []string{"internal/bench"}, "main only"},
	{"cmd/ociruntime", []string{"internal/ociruntime"}, "main only"},
	{"cmd", []string{"internal/daemon", "controllers", "simulators"}, "main only"},
	{"internal", nil, ""},
}

type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
}

func TestImportDirection(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		r := ruleOf(t, name)
		for _, i := range p.Imports {
			if i == "testing" || strings.HasPrefix(i, "testing/") {
				t.Errorf("%s imports %s outside of a test", name, i)
			}
			imported, ours := strings.CutPrefix(i, module)
			if !ours || within(imported, r.room) && r.room != "cmd" && r.room != "controllers" {
				continue
			}
			allowed := false
			for _, m := range r.may {
				allowed = allowed || within(imported, m)
			}
			if !allowed {
				t.Errorf("%s imports %s; it may import %v: %s", name, imported, r.may, r.why)
			}
		}
	}
}

func TestMainsAreThin(t *testing.T) {
	for _, p := range list(t) {
		if !strings.HasPrefix(p.ImportPath, module+"cmd/") {
			continue
		}
		for _, f := range p.GoFiles {
			b, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(b), "\n"); f != "main.go" || n > 30 {
				t.Errorf("%s/%s has %d lines; cmd holds main.go only, of 30 at most", p.ImportPath, f, n)
			}
		}
	}
}

func ruleOf(t *testing.T, name string) rule {
	for _, r := range rules {
		if within(name, r.room) {
			return r
		}
	}
	t.Errorf("package %s is in no room; name its room and what it may import here", name)
	return rule{room: name}
}

func within(name, room string) bool { return name == room || strings.HasPrefix(name, room+"/") }

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports", module+"...")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("go list: %s", exit.Stderr)
	} else if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
