// Package engine drives a container engine by its command line: docker today;
// podman and nerdctl take the same words.
//
// Invariants:
//   - Every call ends with its context.
//   - What a testbed makes is found by its network and labels, never by
//     guessing names.
//   - It keeps no state: what it says is what the engine said just now.
//
// Try it with `go test ./testbed/internal/engine`; the tests that need an engine
// say so when there is none.
package engine

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
)

// Program is the command line that is looked for.
const Program = "docker"

// answerWithin bounds how long an engine may take to say that it is there.
const answerWithin = 20 * time.Second

// Unavailable says that no engine answers, and what to do.
type Unavailable struct {
	Err    error
	Remedy string
}

func (e *Unavailable) Error() string { return "no container engine answers: " + e.Err.Error() }

// Unwrap gives the cause.
func (e *Unavailable) Unwrap() error { return e.Err }

// Fix is the remedy alone.
func (e *Unavailable) Fix() string { return e.Remedy }

// Engine is a container engine that answered once.
type Engine struct {
	Runner command.Runner
	Info   Info
}

// Info is what an engine says of itself.
type Info struct {
	ServerVersion   string
	OSType          string
	Architecture    string // as `uname -m` has it
	Driver          string // of storage
	CgroupVersion   string // "1" or "2"
	CgroupDriver    string
	DockerRootDir   string
	DefaultRuntime  string
	SecurityOptions []string
	MemTotal        int64
}

// Find asks the engine of this machine; the error is an *Unavailable if none answers.
func Find(ctx context.Context, r command.Runner) (*Engine, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	res, err := r.Run(ctx, command.Cmd{Argv: []string{Program, "info", "--format", "{{json .}}"}})
	if errors.Is(err, exec.ErrNotFound) {
		return nil, &Unavailable{Err: errors.New(Program + " is not installed"), Remedy: "install a container engine (`apt-get install docker.io`), or use --backend embedded, which needs none"}
	}
	var said struct {
		Info
		ServerErrors []string
	}
	if len(res.Stdout) > 0 {
		if jerr := json.Unmarshal(bytes.TrimSpace(res.Stdout), &said); jerr != nil && err == nil {
			err = fmt.Errorf("%s info: %w", Program, jerr)
		}
	}
	switch {
	case len(said.ServerErrors) > 0:
		err = errors.New(said.ServerErrors[0])
	case err == nil && said.ServerVersion == "":
		err = errors.New(Program + " info names no server")
	}
	if err != nil {
		remedy := "start it (`systemctl start docker`, or `dockerd &` where there is no systemd), or use --backend embedded, which needs none"
		if strings.Contains(err.Error(), "permission denied") {
			remedy = "join its group (`usermod -aG docker $USER`, then log in again), or use --backend embedded, which needs no engine"
		}
		return nil, &Unavailable{Err: err, Remedy: remedy}
	}
	return &Engine{Runner: r, Info: said.Info}, nil
}

// Output runs the engine's command line and gives what it wrote.
func (e *Engine) Output(ctx context.Context, args ...string) (string, error) {
	res, err := e.Runner.Run(ctx, command.Cmd{Argv: append([]string{Program}, args...)})
	return strings.TrimSpace(string(res.Stdout)), err
}

// Image is an image in the engine.
type Image struct {
	ID       string   `json:"Id"`
	Refs     []string `json:"RepoTags"`
	Bytes    int64    `json:"Size"`
	Platform string   `json:"-"` // linux/amd64
}

// Image finds an image by its reference; false if the engine does not have it.
func (e *Engine) Image(ctx context.Context, ref string) (Image, bool, error) {
	out, err := e.Output(ctx, "image", "inspect", ref)
	if err != nil {
		if strings.Contains(strings.ToLower(err.Error()), "no such image") {
			err = nil
		}
		return Image{}, false, err
	}
	var all []struct {
		Image
		Os, Architecture string
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 {
		return Image{}, false, fmt.Errorf("image inspect %s: %d images: %w", ref, len(all), err)
	}
	all[0].Image.Platform = all[0].Os + "/" + all[0].Architecture
	return all[0].Image, true, nil
}

// Images are the references of all images whose reference matches, such as "testbed/*".
func (e *Engine) Images(ctx context.Context, pattern string) ([]string, error) {
	out, err := e.Output(ctx, "images", "--filter", "reference="+pattern, "--format", "{{.Repository}}:{{.Tag}}")
	return strings.Fields(out), err
}

// Load takes the images of an archive (as `docker save` writes them) in.
func (e *Engine) Load(ctx context.Context, archive string) error {
	_, err := e.Output(ctx, "load", "-q", "-i", archive)
	return err
}

// Save writes images as an archive.
func (e *Engine) Save(ctx context.Context, w io.Writer, refs ...string) error {
	_, err := e.Runner.Run(ctx, command.Cmd{Argv: append([]string{Program, "save"}, refs...), Stdout: w})
	return err
}

// RemoveImages removes images; one that is not there is no error.
func (e *Engine) RemoveImages(ctx context.Context, refs ...string) error {
	for _, ref := range refs {
		if _, err := e.Output(ctx, "image", "rm", ref); err != nil && !strings.Contains(strings.ToLower(err.Error()), "no such image") {
			return err
		}
	}
	return nil
}

// Exec runs a command in a container.
func (e *Engine) Exec(ctx context.Context, container string, argv ...string) (string, error) {
	return e.Output(ctx, append([]string{"exec", container}, argv...)...)
}

// Pipe runs a command in a container that reads from stdin.
func (e *Engine) Pipe(ctx context.Context, stdin io.Reader, container string, argv ...string) (string, error) {
	res, err := e.Runner.Run(ctx, command.Cmd{Argv: append([]string{Program, "exec", "-i", container}, argv...), Stdin: stdin})
	return strings.TrimSpace(string(res.Stdout)), err
}

// WriteFile writes a file of a running container, 0600 or as mode says.
func (e *Engine) WriteFile(ctx context.Context, container, file, mode string, content []byte) error {
	_, err := e.Pipe(ctx, bytes.NewReader(content), container, "install", "-D", "-m", cmp.Or(mode, "0600"), "/dev/stdin", file)
	return err
}

// Container is a container, running or not.
type Container struct {
	ID, Name, State string
	Labels          map[string]string
	Restarts        int
	Started         time.Time
	// IPs by network.
	IPs map[string]string
}

// Containers that pass all filters ("network=x", "label=k=v").
func (e *Engine) Containers(ctx context.Context, filters ...string) ([]Container, error) {
	args := []string{"ps", "--all", "--quiet", "--no-trunc"}
	for _, f := range filters {
		args = append(args, "--filter", f)
	}
	out, err := e.Output(ctx, args...)
	if err != nil || out == "" {
		return nil, err
	}
	out, err = e.Output(ctx, append([]string{"container", "inspect"}, strings.Fields(out)...)...)
	if err != nil {
		// One of them may have gone since it was listed; those that are left were printed.
		if !strings.Contains(strings.ToLower(err.Error()), "no such container") {
			return nil, err
		}
	}
	var all []struct {
		ID           string `json:"Id"`
		Name         string
		RestartCount int
		State        struct {
			Status    string
			StartedAt time.Time
		}
		Config          struct{ Labels map[string]string }
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress string }
		}
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return nil, fmt.Errorf("container inspect: %w", err)
	}
	var containers []Container
	for _, a := range all {
		c := Container{ID: a.ID, Name: strings.TrimPrefix(a.Name, "/"), State: a.State.Status, Labels: a.Config.Labels,
			Restarts: a.RestartCount, Started: a.State.StartedAt, IPs: map[string]string{}}
		for n, s := range a.NetworkSettings.Networks {
			c.IPs[n] = s.IPAddress
		}
		containers = append(containers, c)
	}
	return containers, nil
}

// Remove removes containers with their volumes, running or not; one that is not there is no error.
func (e *Engine) Remove(ctx context.Context, containers ...string) error {
	if len(containers) == 0 {
		return nil
	}
	_, err := e.Output(ctx, append([]string{"rm", "--force", "--volumes"}, containers...)...)
	if err != nil {
		said := strings.ToLower(err.Error())
		if strings.Contains(said, "no such container") || strings.Contains(said, "already in progress") {
			return nil
		}
	}
	return err
}

// CreateNetwork makes a bridge network with labels, unless it is there.
func (e *Engine) CreateNetwork(ctx context.Context, name string, labels map[string]string) error {
	if have, err := e.Networks(ctx, "name=^"+name+"$"); err != nil || len(have) > 0 {
		return err
	}
	args := []string{"network", "create", "--driver", "bridge"}
	for k, v := range labels {
		args = append(args, "--label", k+"="+v)
	}
	_, err := e.Output(ctx, append(args, name)...)
	return err
}

// Networks are the names of all networks that pass all filters ("label=k=v").
func (e *Engine) Networks(ctx context.Context, filters ...string) ([]string, error) {
	args := []string{"network", "ls", "--format", "{{.Name}}"}
	for _, f := range filters {
		args = append(args, "--filter", f)
	}
	out, err := e.Output(ctx, args...)
	return strings.Fields(out), err
}

// RemoveNetwork removes a network; one that is not there is no error.
func (e *Engine) RemoveNetwork(ctx context.Context, name string) error {
	_, err := e.Output(ctx, "network", "rm", name)
	if err != nil && (strings.Contains(err.Error(), "not found") || strings.Contains(strings.ToLower(err.Error()), "no such network")) {
		return nil
	}
	return err
}

// Memory is what containers use now, in bytes by container id; those that do not run are left out.
func (e *Engine) Memory(ctx context.Context, ids ...string) (map[string]int64, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	out, err := e.Output(ctx, append([]string{"stats", "--no-stream", "--no-trunc", "--format", "{{.ID}} {{.MemUsage}}"}, ids...)...)
	if err != nil {
		return nil, err
	}
	used := map[string]int64{}
	for line := range strings.Lines(out) {
		id, usage, _ := strings.Cut(strings.TrimSpace(line), " ")
		usage, _, _ = strings.Cut(usage, " /")
		if n, ok := bytesOf(usage); ok {
			used[id] = n
		}
	}
	return used, nil
}

// bytesOf reads sizes as the engine prints them: "512.3MiB".
func bytesOf(s string) (int64, bool) {
	s = strings.TrimSpace(s)
	number := strings.TrimRight(s, "kKMGTiB")
	var n float64
	if _, err := fmt.Sscanf(number, "%g", &n); err != nil {
		return 0, false
	}
	unit, ok := map[string]float64{"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
		"kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9}[s[len(number):]]
	return int64(n * unit), ok
}
