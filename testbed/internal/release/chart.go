package release

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"

	"github.com/fluidos-edge/testbed/charts"
)

// library is the chart that all others depend on.
const library = "lib"

// InvalidValues are values that a chart's schema refuses.
type InvalidValues struct {
	Chart    string
	Problems []string // "runAs.user: got string, want integer"
}

func (e *InvalidValues) Error() string {
	return fmt.Sprintf("values of chart %s: %s", e.Chart, strings.Join(e.Problems, "; "))
}

// Render gives what a chart installs, as one text of manifests, under a release
// named as the chart.
func Render(chart string, values map[string]any, namespace string) (string, error) {
	r, err := render(charts.FS, chart, values, chart, namespace)
	if err != nil {
		return "", err
	}
	return r.manifest, nil
}

// rendered is a chart with its values, and what they come to.
type rendered struct {
	chart    *chart.Chart
	values   map[string]any
	manifest string
}

func render(fsys fs.FS, name string, values map[string]any, release, namespace string) (*rendered, error) {
	ch, err := load(fsys, name)
	if err != nil {
		return nil, err
	}
	vals, err := plain(values)
	if err != nil {
		return nil, fmt.Errorf("values of chart %s: %w", name, err)
	}
	if err := validate(ch, vals); err != nil {
		return nil, err
	}
	in := action.NewInstall(&action.Configuration{Log: func(string, ...any) {}})
	in.ClientOnly, in.DryRun = true, true
	in.ReleaseName, in.Namespace = release, namespace
	in.DisableHooks = true
	rel, err := in.Run(ch, vals)
	if err != nil {
		return nil, fmt.Errorf("render chart %s: %w", name, err)
	}
	return &rendered{chart: ch, values: vals, manifest: rel.Manifest}, nil
}

// load reads a chart, with the library as a dependency that is there.
func load(fsys fs.FS, name string) (*chart.Chart, error) {
	if _, err := fs.Stat(fsys, path.Join(name, "Chart.yaml")); err != nil || name == library {
		return nil, fmt.Errorf("there is no chart %q", name)
	}
	var files []*loader.BufferedFile
	add := func(from fs.FS, dir, prefix string) error {
		return fs.WalkDir(from, dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := fs.ReadFile(from, p)
			files = append(files, &loader.BufferedFile{Name: path.Join(prefix, strings.TrimPrefix(p, dir+"/")), Data: b})
			return err
		})
	}
	if err := errors.Join(add(fsys, name, ""), add(charts.FS, library, "charts/"+library)); err != nil {
		return nil, fmt.Errorf("chart %s: %w", name, err)
	}
	ch, err := loader.LoadFiles(files)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", name, err)
	}
	return ch, nil
}

// plain turns values of any Go type into those that Helm reads from a file;
// numbers stay exact.
func plain(values map[string]any) (map[string]any, error) {
	b, err := json.Marshal(values)
	if err != nil {
		return nil, err
	}
	return chartutil.ReadValues(b)
}

// problem is a line of Helm's report: - at '/runAs/user': got string, want integer
var problem = regexp.MustCompile(`(?m)^ *- at '([^']*)': (.*)$`)

// validate says everything that is wrong with values at once.
func validate(ch *chart.Chart, values map[string]any) error {
	all, err := chartutil.CoalesceValues(ch, values)
	if err != nil {
		return fmt.Errorf("values of chart %s: %w", ch.Name(), err)
	}
	if err = chartutil.ValidateAgainstSchema(ch, all); err == nil {
		return nil
	}
	invalid := &InvalidValues{Chart: ch.Name()}
	for _, m := range problem.FindAllStringSubmatch(err.Error(), -1) {
		field := strings.ReplaceAll(strings.TrimPrefix(m[1], "/"), "/", ".")
		if field != "" {
			field += ": "
		}
		invalid.Problems = append(invalid.Problems, field+m[2])
	}
	if len(invalid.Problems) == 0 {
		invalid.Problems = []string{err.Error()}
	}
	return invalid
}

// capabilities are the same for rendering and installing; our charts ask for none.
func capabilities() *chartutil.Capabilities { return chartutil.DefaultCapabilities.Copy() }
