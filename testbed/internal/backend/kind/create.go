package kind

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	kindconfig "sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	kindcluster "sigs.k8s.io/kind/pkg/cluster"
	kindlog "sigs.k8s.io/kind/pkg/log"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/process"
)

// networkVariable is how kind's library is told which network its nodes are on.
const networkVariable = "KIND_EXPERIMENTAL_DOCKER_NETWORK"

// request is what the child that creates a cluster reads from its standard input.
type request struct {
	Name       string              `json:"name"`
	Config     *kindconfig.Cluster `json:"config"`
	Kubeconfig string              `json:"kubeconfig"`
}

// Create creates one cluster with kind's library, which takes no context: it is
// the body of a child process of our own program. It reads a request and tells
// on stderr, a line each, how far it is.
func Create(stdin io.Reader, stderr io.Writer) error {
	var r request
	d := json.NewDecoder(stdin)
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return fmt.Errorf("request of create: %w", err)
	}
	if os.Getenv(networkVariable) == "" {
		return errors.New(networkVariable + " is not set; `testbed up --backend kind` sets it")
	}
	// With KUBECONFIG set kind would lock and merge that file too.
	if err := os.Unsetenv("KUBECONFIG"); err != nil {
		return err
	}
	p := kindcluster.NewProvider(kindcluster.ProviderWithDocker(), kindcluster.ProviderWithLogger(lineLogger{stderr}))
	return p.Create(r.Name,
		kindcluster.CreateWithV1Alpha4Config(r.Config), kindcluster.CreateWithKubeconfigPath(r.Kubeconfig),
		kindcluster.CreateWithRetain(true), // whoever asked removes what is there
		kindcluster.CreateWithDisplayUsage(false), kindcluster.CreateWithDisplaySalutation(false))
}

// create runs Create in a child that ends with ctx, and with us.
func (c *cluster) create(ctx context.Context, cfg *kindconfig.Cluster, kubeconfig string, say func(string)) error {
	ctx, cancel := context.WithTimeout(ctx, createDeadline)
	defer cancel()
	body, err := json.Marshal(request{Name: cfg.Name, Config: cfg, Kubeconfig: kubeconfig})
	if err != nil {
		return err
	}
	_, err = c.b.cfg.Runner.Run(ctx, command.Cmd{
		Argv:   []string{c.b.rec.BinDir + "/testbed", "create-kind-cluster"},
		Env:    []string{networkVariable + "=" + c.b.network(), process.EnvID + "=" + c.b.rec.ID},
		Stdin:  bytes.NewReader(body),
		Stderr: &command.Lines{Each: func(line string) { say(strings.TrimSpace(line)) }},
	})
	if err != nil {
		return fmt.Errorf("create cluster %s: %w", cfg.Name, c.b.explain(err))
	}
	return nil
}

// explain adds the remedy to failures of kind whose cause is known.
func (b *Backend) explain(err error) error {
	text := err.Error()
	for _, k := range []struct{ sign, cause, remedy string }{
		{"unable to apply caps", "this host lacks a capability that privileged containers want", "`testbed doctor --fix --restart-engine`"},
		{"too many open files", "the limits of inotify are too low for so many nodes", "`testbed doctor --fix`"},
		{"inotify", "the limits of inotify are too low for so many nodes", "`testbed doctor --fix`"},
		{"no space left on device", "the disk is full", "free disk space; `testbed cache prune` removes what can be built again"},
		{"could not find a log line that matches", "systemd did not come up in the node", "`testbed doctor` says what this host lacks"},
		{"Pool overlaps with other one", "the engine has no free address range for a network", "remove networks that are not used: `docker network prune`"},
	} {
		if strings.Contains(text, k.sign) {
			return &Error{Err: fmt.Errorf("%s: %w", k.cause, err), Remedy: k.remedy}
		}
	}
	return err
}

// Error is a failure that the user can mend.
type Error struct {
	Err    error
	Remedy string
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Fix is the remedy alone.
func (e *Error) Fix() string { return e.Remedy }

// lineLogger writes kind's messages, a line each.
type lineLogger struct{ w io.Writer }

func (l lineLogger) line(s string) {
	if s = strings.TrimSpace(s); s != "" {
		fmt.Fprintln(l.w, s)
	}
}
func (l lineLogger) Warn(s string)             { l.line(s) }
func (l lineLogger) Warnf(f string, a ...any)  { l.line(fmt.Sprintf(f, a...)) }
func (l lineLogger) Error(s string)            { l.line(s) }
func (l lineLogger) Errorf(f string, a ...any) { l.line(fmt.Sprintf(f, a...)) }
func (l lineLogger) V(level kindlog.Level) kindlog.InfoLogger {
	return infoLogger{l, level <= 0}
}

type infoLogger struct {
	lineLogger
	on bool
}

func (l infoLogger) Enabled() bool { return l.on }
func (l infoLogger) Info(s string) {
	if l.on {
		l.line(s)
	}
}
func (l infoLogger) Infof(f string, a ...any) { l.Info(fmt.Sprintf(f, a...)) }
