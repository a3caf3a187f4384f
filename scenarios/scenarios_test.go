package scenarios_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/e2e-framework/pkg/env"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"

	"github.com/fluidos-edge/testbed/scenarios"
	"github.com/fluidos-edge/testbed/testbed"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

var attach = flag.String("testbed", "", "`name` of a running testbed to attach to; without it tests bring up their own and remove it")

// TestScenarios runs every assertion on a testbed.
func TestScenarios(t *testing.T) {
	var status *testbed.Status
	if *attach != "" {
		var err error
		if status, err = testbed.Describe(t.Context(), testbed.Options{Name: *attach}); err != nil {
			t.Fatalf("%v; `bin/testbed up --name %s` brings it up", err, *attach)
		}
	} else {
		status = bringUp(t, "scenarios", extended(t, "extended.yaml"))
	}
	e, err := scenarios.NewEnv(status)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := withDeadline(t)
	defer cancel()
	results := map[string]scenarios.Result{}
	scenarios.Run(ctx, e, scenarios.All(), scenarios.Observer{End: func(r scenarios.Result) {
		results[r.Assertion] = r
		t.Logf("%s %s in %.1f s %s: %d sensors, %d streams %s", r.Assertion, r.Status, r.Seconds, r.Window(), len(r.Expected.Sensors), len(r.Expected.Streams), strings.Join(r.Notes, "; "))
	}})
	testenv := env.New().WithContext(ctx)
	for _, name := range scenarios.Names() {
		as, err := scenarios.Select(name)
		if err != nil {
			t.Fatal(err)
		}
		f := features.New(name).WithLabel("backend", status.Backend).WithLabel("edge", status.Edge)
		for _, a := range as {
			f = f.Assess(a.ID+": "+a.Title, func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
				switch r := results[a.ID]; r.Status {
				case scenarios.Pass:
				case scenarios.Skip:
					t.Skip(r.Reason)
				default:
					t.Errorf("%s: %s\n%s\nmeanwhile: %v", r.Status, r.Reason, strings.Join(r.Differences(), "\n"), r.Incidents)
				}
				return ctx
			})
		}
		testenv.Test(t, f.Feature())
	}
	if len(status.Consumers) > 1 {
		testenv.Test(t, isolation(status))
	}
}

// TestIsolation shows the last part of TestScenarios alone, on an attached testbed.
func TestIsolation(t *testing.T) {
	if *attach == "" {
		t.Skip("TestScenarios does the same on a testbed of its own: add -testbed to have it on that one")
	}
	status, err := testbed.Describe(t.Context(), testbed.Options{Name: *attach})
	if err != nil {
		t.Fatalf("%v; `bin/testbed up --name %s` brings it up", err, *attach)
	}
	if len(status.Consumers) < 2 {
		t.Skip("testbed " + *attach + " has only one consumer")
	}
	ctx, cancel := withDeadline(t)
	defer cancel()
	env.New().WithContext(ctx).Test(t, isolation(status))
}

// withDeadline leaves time to remove things before the test binary is killed.
func withDeadline(t *testing.T) (context.Context, context.CancelFunc) {
	if d, ok := t.Deadline(); ok {
		return context.WithDeadline(t.Context(), d.Add(-time.Minute))
	}
	return context.WithCancel(t.Context())
}

// bringUp builds our programs and brings up a testbed of this test's own, which
// goes when the test ends. Those of tests that were killed go first.
func bringUp(t *testing.T, kind string, top *topology.Topology, external ...string) *testbed.Status {
	t.Helper()
	ctx, cancel := withDeadline(t)
	defer cancel()
	for _, name := range testbed.Names() {
		pid, err := strconv.Atoi(strings.TrimPrefix(name, kind+"-"))
		if err != nil || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			continue
		}
		if err := testbed.Down(ctx, testbed.Options{Name: name}); err != nil {
			t.Errorf("remove testbed %s of a test that was killed: %v", name, err)
		}
	}
	dir := t.TempDir()
	build := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", "../cmd/...")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		t.Fatalf("build our programs: %v", err)
	}
	o := testbed.Options{
		Name: fmt.Sprintf("%s-%d", kind, os.Getpid()), Backend: testbed.BackendEmbedded, Topology: top, BinDir: dir, External: external,
		Progress: func(e testbed.Event) {
			switch e.State {
			case "done", "fail":
				t.Logf("%s: %s in %.1f s %s", e.Phase, e.State, e.Seconds, e.Detail)
			}
		},
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := testbed.Down(ctx, testbed.Options{Name: o.Name}); err != nil && !errors.Is(err, testbed.ErrAbsent) {
			t.Errorf("down: %v", err)
		}
	})
	status, err := testbed.Up(ctx, o)
	if err != nil {
		t.Fatalf("%v\nif programs of the testbed are missing: `bin/testbed assets build` builds them", err)
	}
	return status
}
