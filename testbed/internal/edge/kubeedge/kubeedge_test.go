package kubeedge_test

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/edge/kubeedge"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
)

var update = flag.Bool("update", false, "write golden files")

func node(t *testing.T) kubeedge.Node {
	t.Helper()
	program := filepath.Join(t.TempDir(), "edgecore")
	if err := os.WriteFile(program, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	return kubeedge.Node{Name: "edge-1", Container: "lab-provider-1-edge-1", EdgeCore: program, CloudCore: "172.18.0.2",
		Token: "t0ken", PauseImage: "registry.k8s.io/pause:3.10.1", MessageQPS: 30, MessageBurst: 60}
}

func TestConfig(t *testing.T) {
	got, err := node(t).Config()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "edgecore.golden")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("(-want +got), -update writes it:\n%s", diff)
	}
}

// container plays the commands that Join runs in a container.
type container struct {
	files  map[string]string
	active bool
	broken bool // EdgeCore does not start
}

func (c *container) answer(_ context.Context, cmd command.Cmd) (command.Result, error) {
	argv := cmd.Argv[1:]
	if i := slices.Index(argv, "lab-provider-1-edge-1"); i >= 0 {
		argv = argv[i+1:]
	}
	failed := errors.New("exit status 1")
	switch {
	case argv[0] == "cat":
		text, ok := c.files[argv[1]]
		if !ok {
			return command.Result{}, failed
		}
		return command.Result{Stdout: []byte(text)}, nil
	case argv[0] == "install":
		text, err := io.ReadAll(cmd.Stdin)
		c.files[argv[len(argv)-1]] = string(text)
		return command.Result{}, err
	case argv[0] == "journalctl":
		return command.Result{Stdout: []byte("cannot reach CloudCore")}, nil
	case slices.Equal(argv, []string{"systemctl", "is-active", "containerd.service"}):
		return command.Result{Stdout: []byte("active\n")}, nil
	case slices.Contains(argv, "is-active") && !c.active:
		return command.Result{Stdout: []byte("inactive\n")}, failed
	case slices.Contains(argv, "is-active"):
		return command.Result{Stdout: []byte("active\n")}, nil
	case slices.Contains(argv, "restart"):
		if c.broken {
			return command.Result{Stderr: []byte("Job failed")}, failed
		}
		c.active = true
	}
	return command.Result{}, nil
}

func restarts(f *command.Fake) int {
	n := 0
	for _, c := range f.Calls() {
		if slices.Contains(c.Argv, "restart") {
			n++
		}
	}
	return n
}

func TestJoin(t *testing.T) {
	c := &container{files: map[string]string{}}
	fake := &command.Fake{Answer: c.answer}
	e, n := &engine.Engine{Runner: fake}, node(t)
	join := func(want int) {
		t.Helper()
		if err := kubeedge.Join(t.Context(), e, n, func(string) {}); err != nil {
			t.Fatal(err)
		}
		if got := restarts(fake); got != want {
			t.Errorf("EdgeCore was started %d times, want %d", got, want)
		}
	}
	join(1)
	if c.files["/usr/local/bin/edgecore"] != "program" || !strings.Contains(c.files["/etc/kubeedge/config/edgecore.yaml"], "t0ken") {
		t.Errorf("program or configuration did not arrive: %v", c.files)
	}
	join(1) // nothing differs
	n.Token = "another"
	join(1) // a node with a certificate needs no token
	n.MessageQPS = 100
	join(2)
	c.active = false
	join(3) // it had ended
}

func TestJoinSaysWhyItFailed(t *testing.T) {
	c := &container{files: map[string]string{}, broken: true}
	err := kubeedge.Join(t.Context(), &engine.Engine{Runner: &command.Fake{Answer: c.answer}}, node(t), func(string) {})
	for _, part := range []string{"edge node edge-1", "systemctl restart edgecore.service", "cannot reach CloudCore"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v does not hold %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "t0ken") {
		t.Error("the error holds the token")
	}
}

func TestNotReady(t *testing.T) {
	condition := func(name string, status corev1.ConditionStatus) corev1.Node {
		return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: status, Reason: "KubeletNotReady", Message: "no network"}}}}
	}
	got := kubeedge.NotReady([]corev1.Node{condition("a", corev1.ConditionTrue), condition("b", corev1.ConditionFalse), {ObjectMeta: metav1.ObjectMeta{Name: "c"}}},
		[]string{"a", "b", "c", "d"})
	if diff := cmp.Diff([]string{"b (KubeletNotReady: no network)", "c (no condition Ready)", "d (not registered)"}, got); diff != "" {
		t.Error(diff)
	}
}
