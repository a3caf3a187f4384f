package kubeedge_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

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
		Token: "t0ken", PauseImage: "registry.k8s.io/pause:3.10.1", DMISocket: "/run/testbed/x/provider-1/edge-1/dmi.sock", MessageQPS: 30, MessageBurst: 60}
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
	broken bool // systemd cannot start EdgeCore
	ends   bool // EdgeCore ends soon after each start
	asked  int  // how often it was looked at
}

func (c *container) answer(_ context.Context, cmd command.Cmd) (command.Result, error) {
	argv := cmd.Argv[1:]
	if i := slices.Index(argv, "lab-provider-1-edge-1"); i >= 0 {
		argv = argv[i+1:]
	}
	failed := errors.New("exit status 1")
	said := func(text string) (command.Result, error) { return command.Result{Stdout: []byte(text + "\n")}, nil }
	switch {
	case argv[0] == "cat":
		text, ok := c.files[argv[1]]
		if !ok {
			return command.Result{}, failed
		}
		return said(text)
	case argv[0] == "rm":
		delete(c.files, argv[2])
	case argv[0] == "install":
		text, err := io.ReadAll(cmd.Stdin)
		c.files[argv[len(argv)-1]] = string(text)
		return command.Result{}, err
	case argv[0] == "journalctl":
		return said("cannot reach CloudCore")
	case slices.Contains(argv, "NRestarts"):
		c.asked++
		if c.ends {
			return said(strconv.Itoa(c.asked))
		}
		return said("0")
	case argv[0] == "test" && (c.ends || c.asked < 2):
		return command.Result{}, failed // no certificate yet
	case argv[0] == "ss" && c.asked < 3:
		return said("")
	case argv[0] == "ss":
		return said("LISTEN 0 4096 127.0.0.1:10350 0.0.0.0:*")
	case slices.Equal(argv, []string{"systemctl", "is-active", "containerd.service"}):
		return said("active")
	case slices.Contains(argv, "is-active") && !c.active:
		return command.Result{Stdout: []byte("inactive\n")}, failed
	case slices.Contains(argv, "is-active"):
		return said("active")
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
	if err := os.WriteFile(n.EdgeCore, []byte("another"), 0o755); err != nil {
		t.Fatal(err)
	}
	join(4) // of the same name and size
	if got := c.files["/usr/local/bin/edgecore"]; got != "another" {
		t.Errorf("the program is %q", got)
	}
}

func TestJoinSaysWhyItFailed(t *testing.T) {
	for _, test := range []struct {
		name      string
		container container
		want      string
	}{
		{"systemd cannot start it", container{broken: true}, "systemctl restart edgecore.service"},
		{"it ends over and over", container{ends: true}, "EdgeCore has ended 5 times"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := test.container
			c.files = map[string]string{}
			n := node(t)
			err := kubeedge.Join(t.Context(), &engine.Engine{Runner: &command.Fake{Answer: c.answer}}, n, func(string) {})
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range []string{"edge node edge-1", test.want, "cannot reach CloudCore"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %v does not hold %q", err, part)
				}
			}
			if strings.Contains(err.Error(), n.Token) {
				t.Error("the error holds the token")
			}
			if len(c.files["/etc/kubeedge/testbed.sha256"]) > 0 {
				t.Error("the next join would take it for joined")
			}
		})
	}
}

func ready(name string, status corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: status, Reason: "KubeletNotReady", Message: "no network"}}}}
}

// unwatched hides that a client can watch.
type unwatched struct{ client.Client }

func TestAwaitReady(t *testing.T) {
	for _, watches := range []bool{true, false} {
		t.Run(fmt.Sprintf("watches=%t", watches), func(t *testing.T) {
			c := fake.NewClientBuilder().WithObjects(ready("a", corev1.ConditionTrue), ready("b", corev1.ConditionFalse)).Build()
			var given client.Client = c
			if !watches {
				given = unwatched{c}
			}
			var said []string
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := kubeedge.AwaitReady(ctx, given, []string{"a", "b"}, func(s string) {
				said = append(said, s)
				if err := c.Status().Update(ctx, ready("b", corev1.ConditionTrue)); err != nil {
					t.Error(err)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"waiting for b (KubeletNotReady: no network)"}, said); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAwaitReadySaysWhatWasLastSeen(t *testing.T) {
	c := fake.NewClientBuilder().WithObjects(ready("b", corev1.ConditionFalse)).Build()
	ctx, cancel := context.WithCancelCause(t.Context())
	err := kubeedge.AwaitReady(ctx, c, []string{"b", "c"}, func(string) { cancel(errors.New("enough")) })
	if err == nil || err.Error() != "edge nodes are not Ready: b (KubeletNotReady: no network), c (not registered): enough" {
		t.Errorf("error is %v", err)
	}
}

func TestToken(t *testing.T) {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kubeedge", Name: "tokensecret"}}
	c := fake.NewClientBuilder().WithObjects(secret).Build()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := kubeedge.Token(ctx, c); err == nil || !strings.Contains(err.Error(), "it has no tokendata") {
		t.Errorf("error is %v", err)
	}
	secret.Data = map[string][]byte{"tokendata": []byte("t0ken")}
	if err := c.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	if got, err := kubeedge.Token(t.Context(), c); err != nil || got != "t0ken" {
		t.Errorf("token is %q, %v", got, err)
	}
}

func TestForget(t *testing.T) {
	pod := func(name, node string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "fluidos", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
	}
	c := fake.NewClientBuilder().WithObjects(ready("a", corev1.ConditionTrue), ready("b", corev1.ConditionTrue),
		pod("of-a", "a"), pod("of-b", "b"), pod("waiting", "")).Build()
	for range 2 { // the second time there is nothing
		if err := kubeedge.Forget(t.Context(), c, "a"); err != nil {
			t.Fatal(err)
		}
	}
	var nodes corev1.NodeList
	var pods corev1.PodList
	if err := errors.Join(c.List(t.Context(), &nodes), c.List(t.Context(), &pods)); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, n := range nodes.Items {
		left = append(left, n.Name)
	}
	for _, p := range pods.Items {
		left = append(left, p.Name)
	}
	if diff := cmp.Diff([]string{"b", "of-b", "waiting"}, left); diff != "" {
		t.Error(diff)
	}
}

func TestNotReady(t *testing.T) {
	got := kubeedge.NotReady([]corev1.Node{*ready("a", corev1.ConditionTrue), *ready("b", corev1.ConditionFalse), {ObjectMeta: metav1.ObjectMeta{Name: "c"}}},
		[]string{"a", "b", "c", "d"})
	if diff := cmp.Diff([]string{"b (KubeletNotReady: no network)", "c (no condition Ready)", "d (not registered)"}, got); diff != "" {
		t.Error(diff)
	}
}
