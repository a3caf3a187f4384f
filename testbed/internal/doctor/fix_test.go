package doctor_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/doctor"
)

// fix mends h and returns what was changed.
func fix(t *testing.T, h doctor.Host, restart bool) ([]string, error) {
	t.Helper()
	changed := []string{}
	err := doctor.Fix(t.Context(), h, doctor.FixOptions{RestartEngine: restart, Changed: func(what string) { changed = append(changed, what) }})
	return changed, err
}

// newRuntime is what an engine says after a restart if it reads its configuration.
func newRuntime(t *testing.T) func(doctor.Host, *machine) {
	return func(h doctor.Host, m *machine) {
		if strings.Contains(text(t, h, "etc/docker/daemon.json"), `"default-runtime": "testbed"`) {
			fresh := fine().info
			fresh["DefaultRuntime"] = doctor.Runtime
			m.info = fresh
		}
	}
}

func TestFixEverything(t *testing.T) {
	m := fine().restrict()
	m.files["proc/sys/fs/inotify/max_user_instances"] = "128\n"
	m.files["etc/docker/daemon.json"] = `{"runtimes": {"gpu": {"path": "/usr/bin/gpu", "runtimeArgs": ["<x>"]}}, "log-opts": {"max-size": "10m"}, "mtu": 1400}`
	m.restarted = newRuntime(t)
	h := m.host(t)

	changed, err := fix(t, h, true)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{
		"fs.inotify.max_user_instances: 128 is now 512", "/etc/sysctl.d/99-testbed.conf keeps them",
		"installed /usr/local/libexec/testbed/ociruntime", "kept /etc/docker/daemon.json.before-testbed",
		"/etc/docker/daemon.json: default runtime testbed", "restarted docker.service",
	}, changed); diff != "" {
		t.Error(diff)
	}
	all := doctor.Run(t.Context(), h)
	if left := troubles(all); len(left) > 0 {
		t.Errorf("after: %v", left)
	}
	for name, want := range map[string]string{
		"proc/sys/fs/inotify/max_user_instances": "512\n",
		"proc/sys/fs/inotify/max_user_watches":   "1048576\n", // never lowered
		"etc/docker/daemon.json.before-testbed":  m.files["etc/docker/daemon.json"],
		"usr/local/libexec/testbed/ociruntime":   "a program",
		"etc/sysctl.d/99-testbed.conf": "# Limits that Kubernetes nodes in containers need; written by `testbed doctor --fix`.\n" +
			"fs.inotify.max_user_instances = 512\nfs.inotify.max_user_watches = 1048576\n",
		"etc/docker/daemon.json": `{
  "default-runtime": "testbed",
  "log-opts": {
    "max-size": "10m"
  },
  "mtu": 1400,
  "runtimes": {
    "gpu": {
      "path": "/usr/bin/gpu",
      "runtimeArgs": [
        "<x>"
      ]
    },
    "testbed": {
      "path": "/usr/local/libexec/testbed/ociruntime"
    }
  }
}
`,
	} {
		if diff := cmp.Diff(want, text(t, h, name)); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
	if info, err := os.Stat(filepath.Join(h.Root, "usr/local/libexec/testbed/ociruntime")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}

	before := tree(t, h.Root)
	if changed, err := fix(t, h, true); err != nil || len(changed) > 0 {
		t.Errorf("again: %q, %v", changed, err)
	}
	if diff := cmp.Diff(before, tree(t, h.Root)); diff != "" {
		t.Errorf("again:\n%s", diff)
	}
}

// A newer runtime takes the place of the one in use, without a restart.
func TestFixUpdatesTheRuntime(t *testing.T) {
	m := fine().restrict()
	m.restarted = newRuntime(t)
	h := m.host(t)
	if _, err := fix(t, h, true); err != nil {
		t.Fatal(err)
	}
	write(t, h, "build/ociruntime", "a better program")
	if changed, err := fix(t, h, true); err != nil || !slices.Equal(changed, []string{"installed /usr/local/libexec/testbed/ociruntime"}) {
		t.Errorf("%q, %v", changed, err)
	}
	if got := text(t, h, "usr/local/libexec/testbed/ociruntime"); got != "a better program" {
		t.Errorf("installed %q", got)
	}
	if err := os.Remove(h.Program); err != nil {
		t.Fatal(err)
	}
	if changed, err := fix(t, h, true); err != nil || len(changed) > 0 {
		t.Errorf("nothing to take its place: %q, %v", changed, err)
	}
}

// Nothing stops an engine that was not said to be stopped.
func TestFixWithoutRestart(t *testing.T) {
	m := fine().restrict()
	h := m.host(t)
	changed, err := fix(t, h, false)
	if diff := cmp.Diff([]string{"installed /usr/local/libexec/testbed/ociruntime", "/etc/docker/daemon.json: default runtime testbed"}, changed); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for _, c := range h.Runner.(*command.Fake).Calls() {
		if c.Argv[0] == "systemctl" {
			t.Errorf("ran %q", c.Argv)
		}
	}
	for _, c := range doctor.Run(t.Context(), h) {
		if c.Check == "capabilities" && (c.Status != doctor.Fail || !strings.Contains(c.Observed, "is registered") || !strings.Contains(c.Fix, "--restart-engine")) {
			t.Errorf("after: %+v", c)
		}
	}
	m.restarted = newRuntime(t)
	if changed, err := fix(t, h, true); err != nil || !slices.Equal(changed, []string{"restarted docker.service"}) {
		t.Errorf("%q, %v", changed, err)
	}
}

// An engine that is not running is started, after it was prepared.
func TestFixStartsTheEngine(t *testing.T) {
	m := fine().restrict().noEngine()
	m.restarted = newRuntime(t)
	h := m.host(t)
	if _, err := fix(t, h, true); err != nil {
		t.Fatal(err)
	}
	if m.info == nil {
		t.Error("no engine answers")
	}
}

func TestFixNeedsRoot(t *testing.T) {
	m := fine().restrict()
	m.uid = 1000
	h := m.host(t)
	before := tree(t, h.Root)
	changed, err := fix(t, h, true)
	var root *doctor.NeedsRoot
	if !errors.As(err, &root) || len(changed) > 0 {
		t.Errorf("%q, %v: want a *NeedsRoot", changed, err)
	} else if diff := cmp.Diff([]string{"capabilities"}, root.Checks); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(before, tree(t, h.Root)); diff != "" {
		t.Error(diff)
	}
	m = fine()
	m.uid = 1000
	if _, err := fix(t, m.host(t), true); err != nil {
		t.Errorf("nothing to mend: %v", err)
	}
}

// What cannot be mended is left as it is, and keeps nothing else from being mended.
func TestFixRefuses(t *testing.T) {
	const config = "etc/docker/daemon.json"
	for _, tc := range []struct {
		name   string
		change func(m *machine)
		err    string
	}{
		{"another default", func(m *machine) { m.files[config] = `{"default-runtime": "nvidia"}` }, "the default runtime is nvidia"},
		{"a default by flag", func(m *machine) { m.files["proc/"+enginePID+"/cmdline"] = "dockerd\x00--default-runtime=crun\x00" }, "was started with --default-runtime=crun"},
		{"strange runtimes", func(m *machine) { m.files[config] = `{"runtimes": null}` }, "runtimes: null is no object"},
		{"strange default", func(m *machine) { m.files[config] = `{"default-runtime": 1}` }, "default-runtime: "},
		{"no program", func(m *machine) { delete(m.files, "build/ociruntime") }, "`make build` makes it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := fine().restrict()
			m.files["proc/sys/fs/inotify/max_user_watches"] = "8192\n"
			tc.change(m)
			h := m.host(t)
			changed, err := fix(t, h, true)
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got %v, want %q", err, tc.err)
			}
			if diff := cmp.Diff([]string{"fs.inotify.max_user_watches: 8192 is now 524288", "/etc/sysctl.d/99-testbed.conf keeps them"}, changed); diff != "" {
				t.Error(diff)
			}
			now, _ := os.ReadFile(filepath.Join(h.Root, config))
			if diff := cmp.Diff(m.files[config], string(now)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The engine says where its configuration is; a link to it stays one, and it keeps its mode.
func TestFixConfigurationElsewhere(t *testing.T) {
	m := fine().restrict()
	m.files["proc/"+enginePID+"/cmdline"] = "dockerd\x00--config-file\x00/opt/engine.json\x00"
	m.files["opt/real.json"] = `{"mtu":1400}`
	h := m.host(t)
	real, link := filepath.Join(h.Root, "opt/real.json"), filepath.Join(h.Root, "opt/engine.json")
	if err := errors.Join(os.Symlink("real.json", link), os.Chmod(real, 0o640)); err != nil {
		t.Fatal(err)
	}
	if _, err := fix(t, h, false); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(link); err != nil || to != "real.json" {
		t.Errorf("%s, %v: the link is gone", to, err)
	}
	if info, err := os.Stat(real); err != nil || info.Mode().Perm() != 0o640 || !strings.Contains(text(t, h, "opt/real.json"), doctor.Runtime) {
		t.Errorf("%v, %v", info, err)
	}
	if got := text(t, h, "opt/engine.json.before-testbed"); got != `{"mtu":1400}` {
		t.Errorf("kept %s", got)
	}
	if _, err := os.Stat(filepath.Join(h.Root, "etc/docker/daemon.json")); err == nil {
		t.Error("wrote the file that the engine does not read")
	}
}
