package release

import (
	"context"
	"io/fs"

	helm "helm.sh/helm/v3/pkg/release"
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

