package engine_test

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
)

// says is an engine's command line that answers a subcommand with a text, or fails with one.
func says(answers map[string]string, failures map[string]string) *engine.Engine {
	return &engine.Engine{Runner: &command.Fake{Answer: func(_ context.Context, c command.Cmd) (command.Result, error) {
		if text, ok := failures[c.Argv[1]]; ok {
			return command.Result{Stdout: []byte(answers[c.Argv[1]]), Stderr: []byte(text)}, errors.New("exit status 1")
		}
		return command.Result{Stdout: []byte(answers[c.Argv[1]])}, nil
	}}}
}

func TestFind(t *testing.T) {
	for _, tc := range []struct {
		name, out, stderr string
		err               error
		fix               string // in the remedy; empty: found
	}{
		{name: "answers", out: `{"ServerVersion":"20.10","DefaultRuntime":"runc","CgroupVersion":"1"}`},
		{name: "not installed", err: exec.ErrNotFound, fix: "install a container engine"},
		{name: "not running", out: `{"ServerVersion":"","ServerErrors":["Cannot connect to the Docker daemon"]}`, err: errors.New("exit status 1"), fix: "start it"},
		{name: "not running, exit 0", out: `{"ServerVersion":"","ServerErrors":["Cannot connect to the Docker daemon"]}`, fix: "start it"},
		{name: "not ours to use", stderr: "permission denied while trying to connect", err: errors.New("exit status 1"), fix: "join its group"},
		{name: "nonsense", out: "hello", fix: "start it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e, err := engine.Find(t.Context(), &command.Fake{Answer: func(context.Context, command.Cmd) (command.Result, error) {
				return command.Result{Stdout: []byte(tc.out), Stderr: []byte(tc.stderr)}, tc.err
			}})
			if tc.fix == "" {
				if err != nil || e.Info.ServerVersion != "20.10" {
					t.Fatalf("%+v, %v", e, err)
				}
				return
			}
			var gone *engine.Unavailable
			if !errors.As(err, &gone) || !strings.Contains(gone.Fix(), tc.fix) {
				t.Errorf("got %v, want an *Unavailable with remedy %q", err, tc.fix)
			}
		})
	}
}

func TestContainers(t *testing.T) {
	e := says(map[string]string{"ps": "abc\n", "container": `[{"Id":"abc","Name":"/node","RestartCount":1,
		"State":{"Status":"running","StartedAt":"2026-01-01T00:00:00Z"},"Config":{"Labels":{"a":"b"}},
		"NetworkSettings":{"Networks":{"net":{"IPAddress":"172.18.0.2"}}}}]`}, nil)
	got, err := e.Containers(t.Context(), "network=net")
	if err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	if c := got[0]; c.Name != "node" || c.State != "running" || c.Restarts != 1 || c.Labels["a"] != "b" || c.IPs["net"] != "172.18.0.2" {
		t.Errorf("%+v", c)
	}
	// One of the listed has gone since; the others were printed.
	e = says(map[string]string{"ps": "abc\n", "container": `[]`}, map[string]string{"container": "Error: No such container: abc"})
	if got, err := e.Containers(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := says(nil, nil).Containers(t.Context()); err != nil || got != nil {
		t.Errorf("without containers: %v, %v", got, err)
	}
}

func TestWhatIsNotThereIsNoError(t *testing.T) {
	e := says(nil, map[string]string{"rm": "Error: No such container: x", "network": "Error: network x not found", "image": "Error: No such image: x"})
	if err := errors.Join(e.Remove(t.Context(), "x"), e.RemoveNetwork(t.Context(), "x"), e.RemoveImages(t.Context(), "x")); err != nil {
		t.Error(err)
	}
	if _, ok, err := e.Image(t.Context(), "x"); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	e = says(nil, map[string]string{"rm": "device busy", "network": "has active endpoints"})
	if e.Remove(t.Context(), "x") == nil || e.RemoveNetwork(t.Context(), "x") == nil {
		t.Error("a real failure was taken for nothing")
	}
}

func TestMemory(t *testing.T) {
	e := says(map[string]string{"stats": "a 512.5MiB / 23GiB\nb 1.5GiB / 23GiB\nc 0B / 0B\nd nonsense\ne 5kB / 1GB\n"}, nil)
	got, err := e.Memory(t.Context(), "a", "b", "c", "d", "e")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int64{"a": 537395200, "b": 1610612736, "c": 0, "e": 5000}, got); diff != "" {
		t.Error(diff)
	}
}
