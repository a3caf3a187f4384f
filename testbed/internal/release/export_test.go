package release

import (
	"context"
	"io/fs"
	"time"

	"helm.sh/helm/v3/pkg/chartutil"
	helm "helm.sh/helm/v3/pkg/release"
	corev1 "k8s.io/api/core/v1"

	"github.com/fluidos-edge/testbed/charts"
)

// Library is not a chart of its own.
const Library = library

// Patience with what waiting does not mend.
const Patience = patience

// RenderFrom is Render of a chart from elsewhere.
func RenderFrom(fsys fs.FS, chart string, values map[string]any, namespace string) (string, error) {
	r, err := render(fsys, chart, values, chart, namespace)
	if err != nil {
		return "", err
	}
	return r.manifest, nil
}

// Revision is a release as the cluster holds it.
type Revision struct {
	Number int
	Status string
}

// Last is the newest revision.
func (c *Client) Last(ctx context.Context, namespace, name string) (Revision, error) {
	h, err := c.connect(ctx, namespace)
	if err != nil {
		return Revision{}, err
	}
	r, err := h.last(name)
	if err != nil || r == nil {
		return Revision{}, err
	}
	return Revision{r.Version, string(r.Info.Status)}, nil
}

// Leave makes a release look as a killed process leaves it.
func (c *Client) Leave(ctx context.Context, namespace, name, status string) error {
	h, err := c.connect(ctx, namespace)
	if err != nil {
		return err
	}
	r, err := h.last(name)
	if err != nil {
		return err
	}
	r.SetStatus(helm.Status(status), "")
	return h.cfg.Releases.Update(r)
}

// Unpack writes a chart with its library into a folder, as people have charts.
func Unpack(dir, chart string) error {
	ch, err := load(charts.FS, chart)
	if err != nil {
		return err
	}
	return chartutil.SaveDir(ch, dir)
}

// GivesUp tells whether a wait gives up if it sees the same Pods at each of these times.
func GivesUp(pods []corev1.Pod, at ...time.Duration) bool {
	w := workload{"Deployment", "x", "erm"}
	var since map[string]time.Time
	var giveUp bool
	for _, d := range at {
		since, giveUp = hopeless(since, []rollout{{workload: w}}, map[workload][]corev1.Pod{w: pods}, time.Unix(0, 0).Add(d))
	}
	return giveUp
}
