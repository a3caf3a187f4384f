package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/internal/cli"
	"github.com/fluidos-edge/testbed/testbed"
)

// checks of a host where embedded works, and kind does if capabilities is ok.
func checks(capabilities string) []testbed.Check {
	c := testbed.Check{Check: "capabilities", Status: capabilities, Observed: "lacks CAP_SYS_RESOURCE", Want: "all, or the runtime", NeededBy: []string{"kind", "kubeedge"}}
	if capabilities != testbed.CheckOK {
		c.Fix, c.Fixable = "as root: `testbed doctor --fix --restart-engine`", true
	}
	return []testbed.Check{
		{Check: "system", Status: testbed.CheckOK, Observed: "linux", Want: "linux", NeededBy: []string{"embedded", "kind"}},
		c,
		{Check: "cgroup", Status: testbed.CheckWarn, Observed: "version 1", Want: "version 2", Fix: "stay below Kubernetes 1.35", NeededBy: []string{"kind"}},
	}
}

func TestDoctor(t *testing.T) {
	ctx := context.Background()
	var got testbed.DoctorOptions
	var fail error
	status := testbed.CheckFail
	f := cli.Fake{Doctor: func(_ context.Context, o testbed.DoctorOptions) ([]testbed.Check, error) {
		got = o
		if o.Fix && fail == nil {
			o.Changed("a limit: 1 is now 2")
			status = testbed.CheckOK
		}
		return checks(status), fail
	}}

	code, table, stderr := runFake(ctx, f, "doctor")
	golden(t, "doctor.golden", table)
	if code != 0 || stderr != "" || got.Fix || got.RestartEngine {
		t.Errorf("exit code %d, stderr %q, options %+v", code, stderr, got)
	}
	code, out, stderr := runFake(ctx, f, "doctor", "-o", "json", "--backend", "kind")
	golden(t, "doctor.json", out)
	if code != 1 || stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	var rows []testbed.Check
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(checks(status), rows); diff != "" {
		t.Error(diff)
	}
	if code, _, _ = runFake(ctx, f, "doctor", "--backend", "embedded"); code != 0 {
		t.Errorf("exit code %d of embedded", code)
	}

	// What failed is said with the table, and not as JSON.
	fail = errors.New("daemon.json: the default runtime is nvidia")
	code, out, stderr = runFake(ctx, f, "doctor", "--fix")
	if want := "error: not all could be mended: daemon.json: the default runtime is nvidia\nfix: do what is said, then run it again: what was mended stays\n"; code != 1 || out != table || stderr != want {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, out, stderr)
	}
	if code, out, stderr = runFake(ctx, f, "doctor", "--fix", "-o", "json"); code != 1 || out != "" || !strings.HasPrefix(stderr, `{"error":{"code":"failed"`) {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, out, stderr)
	}
	fail = &testbed.NeedsRoot{Checks: []string{"capabilities", "inotify"}}
	code, _, stderr = runFake(ctx, f, "doctor", "--fix", "--restart-engine", "--backend", "kind")
	if !strings.HasPrefix(stderr, "error: mending capabilities, inotify takes root\nfix: `sudo /") || !strings.HasSuffix(stderr, " doctor --fix --restart-engine --backend kind`\n") || code != 1 {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}

	fail = nil
	code, _, stderr = runFake(ctx, f, "doctor", "--fix", "--restart-engine", "--backend", "kind")
	if code != 0 || stderr != "changed: a limit: 1 is now 2\n" || !got.Fix || !got.RestartEngine {
		t.Errorf("exit code %d, stderr %q, options %+v", code, stderr, got)
	}
}
