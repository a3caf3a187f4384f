package doctor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/doctor"
)

const (
	allCaps    = "000001ffffffffff"
	restricted = "000001fffeffffff" // without SYS_RESOURCE
)

// machine is a host made of files, whose engine is a few words.
type machine struct {
	files    map[string]string
	info     map[string]any // of the engine; nil: none answers
	nodes    string         // images of nodes
	networks string         // as `docker network inspect` prints them
	missing  []string       // programs
	free     int64
	goSays   string
	refuses  string // what the engine says instead of answering
	uid      int
	os       string
	// restarted is what systemctl does.
	restarted func(h doctor.Host, m *machine)
}

const enginePID = "77"

// fine is a machine that has everything.
func fine() *machine {
	return &machine{
		files: map[string]string{
			"proc/sys/kernel/cap_last_cap":           "40\n",
			"proc/self/status":                       "Name:\ttestbed\nCapBnd:\t" + allCaps + "\n",
			"proc/sys/fs/inotify/max_user_instances": "512\n",
			"proc/sys/fs/inotify/max_user_watches":   "1048576\n",
			"proc/sys/net/ipv4/ip_forward":           "1\n",
			"proc/meminfo":                           "MemTotal: 24000000 kB\nMemAvailable:   16777216 kB\n",
			"proc/filesystems":                       "nodev\tproc\nnodev\toverlay\n\text4\n",
			"proc/net/route":                         routeTable("eth0 00000000 010200C0 0003 00000000", "eth0 000200C0 00000000 0001 00FFFFFF"),
			"sys/fs/cgroup/cgroup.controllers":       "cpu memory\n",
			"var/lib/docker/.keep":                   "",
			"var/run/docker.pid":                     enginePID + "\n",
			"proc/" + enginePID + "/comm":            "dockerd\n",
			"proc/" + enginePID + "/cmdline":         "dockerd\x00",
			"proc/" + enginePID + "/cgroup":          "1:name=systemd:/system.slice/docker.service\n0::/system.slice/docker.service\n",
			"proc/" + enginePID + "/stat":            enginePID + " (dockerd) S 1",
			"proc/" + enginePID + "/status":          "Name:\tdockerd\nCapBnd:\t" + allCaps + "\n",
			"build/ociruntime":                       "a program",
			"run/systemd/system/.keep":               "",
			"home/cache/.keep":                       "",
		},
		info:     map[string]any{"ServerVersion": "28.1.0", "Driver": "overlay2", "DefaultRuntime": "runc", "DockerRootDir": "/var/lib/docker"},
		networks: "bridge 172.17.0.0/16\nhost\nnone\ndual 172.18.0.0/16 fd00::/64",
		free:     50e9, goSays: "go version go1.26.1 linux/amd64", os: "linux",
	}
}

func routeTable(routes ...string) string {
	text := "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
	for _, r := range routes {
		f := strings.Fields(r)
		text += strings.Join([]string{f[0], f[1], f[2], f[3], "0", "0", "0", f[4], "0", "0", "0"}, "\t") + "\n"
	}
	return text
}

func (m *machine) restrict() *machine {
	m.files["proc/self/status"] = "CapBnd:\t" + restricted + "\n"
	m.files["proc/"+enginePID+"/status"] = "CapBnd:\t" + restricted + "\n"
	return m
}

func (m *machine) noEngine() *machine {
	m.info = nil
	delete(m.files, "var/run/docker.pid")
	return m
}

// host writes the machine into a folder.
func (m *machine) host(t *testing.T) doctor.Host {
	t.Helper()
	h := doctor.Local()
	h.Root, h.OS, h.UID = t.TempDir(), m.os, m.uid
	h.Cache, h.Program = filepath.Join(h.Root, "home/cache"), filepath.Join(h.Root, "build/ociruntime")
	h.Ranges = []doctor.Range{
		{Name: "pods", Prefix: netip.MustParsePrefix("10.160.0.0/11")},
		{Name: "services", Prefix: netip.MustParsePrefix("10.96.0.0/11")},
	}
	for name, text := range m.files {
		write(t, h, name, text)
	}
	h.Free = func(string) (int64, error) { return m.free, nil }
	h.LookPath = func(p string) (string, error) {
		for _, missing := range m.missing {
			if p == missing {
				return "", exec.ErrNotFound
			}
		}
		return "/usr/bin/" + p, nil
	}
	h.Runner = &command.Fake{Answer: func(_ context.Context, c command.Cmd) (command.Result, error) {
		switch line := strings.Join(c.Argv, " "); {
		case line == "go version" && m.goSays == "":
			return command.Result{}, exec.ErrNotFound
		case line == "go version":
			return command.Result{Stdout: []byte(m.goSays)}, nil
		case line == "systemctl restart docker.service" && m.restarted != nil:
			m.restarted(h, m)
			return command.Result{}, nil
		case m.refuses != "":
			return command.Result{Stderr: []byte(m.refuses)}, errors.New("exit status 1")
		case m.info == nil:
			return command.Result{}, errors.New("Cannot connect to the Docker daemon")
		case strings.HasPrefix(line, "docker info "):
			b, err := json.Marshal(m.info)
			return command.Result{Stdout: b}, err
		case strings.HasPrefix(line, "docker images "):
			return command.Result{Stdout: []byte(m.nodes)}, nil
		case strings.HasPrefix(line, "docker network ls "):
			var names []string
			for l := range strings.Lines(m.networks) {
				names = append(names, strings.Fields(l)[0])
			}
			return command.Result{Stdout: []byte(strings.Join(names, "\n"))}, nil
		case strings.HasPrefix(line, "docker network inspect "):
			return command.Result{Stdout: []byte(m.networks)}, nil
		}
		return command.Result{}, fmt.Errorf("unexpected: %q", c.Argv)
	}}
	return h
}

func write(t *testing.T, h doctor.Host, name, text string) {
	t.Helper()
	file := filepath.Join(h.Root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func text(t *testing.T, h doctor.Host, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(h.Root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// troubles are the rows that are not ok, as "check status: observed".
func troubles(all []doctor.Check) map[string]string {
	out := map[string]string{}
	for _, c := range all {
		if c.Status != doctor.OK {
			out[c.Check] = c.Status + ": " + c.Observed
		}
	}
	return out
}

func TestRun(t *testing.T) {
	for _, tc := range []struct {
		name    string
		change  func(m *machine)
		want    map[string]string
		fixable []string
		kind    bool // what kind needs is there
		embeds  bool // what embedded needs is there
	}{
		{name: "fine", change: func(*machine) {}, kind: true, embeds: true},
		{name: "restricted", change: func(m *machine) { m.restrict() },
			want:    map[string]string{"capabilities": "fail: lacks CAP_SYS_RESOURCE: privileged containers do not start"},
			fixable: []string{"capabilities"}, embeds: true},
		{name: "restricted, runtime in use", change: func(m *machine) { m.restrict().info["DefaultRuntime"] = doctor.Runtime }, kind: true, embeds: true},
		{name: "restricted, runtime registered", change: func(m *machine) {
			m.restrict().files["etc/docker/daemon.json"] = `{"default-runtime":"testbed","runtimes":{"testbed":{"path":"/usr/local/libexec/testbed/ociruntime"}}}`
			m.files["usr/local/libexec/testbed/ociruntime"] = ""
		}, want: map[string]string{"capabilities": "fail: lacks CAP_SYS_RESOURCE; the runtime testbed is registered, the engine runs without it"},
			fixable: []string{"capabilities"}, embeds: true},
		{name: "restricted, runtime registered, engine refuses", change: func(m *machine) {
			m.restrict().files["etc/docker/daemon.json"] = `{"default-runtime":"testbed","runtimes":{"testbed":{"path":"/usr/local/libexec/testbed/ociruntime"}}}`
			m.files["usr/local/libexec/testbed/ociruntime"] = ""
			m.info, m.uid, m.refuses = nil, 1000, "Got permission denied\npermission denied while trying to connect"
		}, want: map[string]string{
			"engine": "fail: permission denied while trying to connect", "rights": "warn: user 1000",
			"capabilities": "warn: not known: lacks CAP_SYS_RESOURCE; the runtime testbed is registered, the engine refuses to say what it uses",
			"storage":      "warn: not known: no container engine answers", "engine-space": "warn: not known: no container engine answers",
		}, embeds: true},
		{name: "restricted, bad configuration", change: func(m *machine) { m.restrict().files["etc/docker/daemon.json"] = `{"a":` },
			want:   map[string]string{"capabilities": "fail: lacks CAP_SYS_RESOURCE; /etc/docker/daemon.json: unexpected end of JSON input"},
			embeds: true},
		{name: "only we are restricted", change: func(m *machine) { m.files["proc/self/status"] = "CapBnd:\t0\n" }, kind: true, embeds: true},
		{name: "engine elsewhere", change: func(m *machine) {
			m.files["proc/self/status"] = "CapBnd:\t" + restricted + "\n"
			delete(m.files, "var/run/docker.pid")
		}, want: map[string]string{"capabilities": "warn: not known: /var/run/docker.pid names no engine that runs on this machine; this program lacks CAP_SYS_RESOURCE"},
			kind: true, embeds: true},
		{name: "hopeless", change: func(m *machine) { m.files["proc/"+enginePID+"/status"] = "CapBnd:\t000001ffffdfffff\n" },
			want: map[string]string{"capabilities": "fail: lacks CAP_SYS_ADMIN"}, embeds: true},
		{name: "engine does not run", change: func(m *machine) { m.restrict().noEngine() },
			want: map[string]string{
				"engine":       "fail: docker info --format \"{{json .}}\": Cannot connect to the Docker daemon",
				"capabilities": "fail: lacks CAP_SYS_RESOURCE: privileged containers do not start",
				"storage":      "warn: not known: no container engine answers", "engine-space": "warn: not known: no container engine answers",
			}, fixable: []string{"engine", "capabilities"}, embeds: true},
		{name: "engine not installed", change: func(m *machine) {
			m.restrict().noEngine().missing = []string{"dockerd", "docker", "iptables", "mmdebstrap"}
			m.files["proc/sys/net/ipv4/ip_forward"] = "0\n"
		},
			want: map[string]string{
				"engine":       "fail: docker info --format \"{{json .}}\": Cannot connect to the Docker daemon",
				"capabilities": "fail: lacks CAP_SYS_RESOURCE: privileged containers do not start",
				"storage":      "warn: not known: no container engine answers", "engine-space": "warn: not known: no container engine answers",
				"forwarding": "warn: 0", "build-tools": "warn: no mmdebstrap, iptables",
			}, embeds: true},
		{name: "clash", change: func(m *machine) {
			m.networks += "\nlab 10.160.0.0/24"
			m.files["proc/net/route"] = routeTable("eth0 00000000 010200C0 0003 00000000", "br-1 0000A00A 00000000 0001 00FFFFFF", "vpn 0000600A 00000000 0001 0000FFFF", "off 0000600A 00000000 0000 0000FFFF")
		}, want: map[string]string{"subnets": "fail: network lab has 10.160.0.0/24 of pods; route 10.96.0.0/16 by vpn is in services"}, embeds: true},
		{name: "wide route", change: func(m *machine) { m.files["proc/net/route"] = routeTable("vpn 0000000A 00000000 0001 000000FF") },
			want: map[string]string{"subnets": "warn: route 10.0.0.0/8 by vpn is in pods"}, kind: true, embeds: true},
		{name: "low limits", change: func(m *machine) { m.files["proc/sys/fs/inotify/max_user_instances"] = "128\n" },
			want: map[string]string{"inotify": "fail: max_user_instances 128, max_user_watches 1048576"}, fixable: []string{"inotify"}, embeds: true},
		{name: "cgroup v1", change: func(m *machine) {
			delete(m.files, "sys/fs/cgroup/cgroup.controllers")
			m.files["sys/fs/cgroup/memory/tasks"] = ""
		}, want: map[string]string{"cgroup": "warn: version 1, which kubelet refuses from 1.35 on"}, kind: true, embeds: true},
		{name: "no cgroups, no overlay", change: func(m *machine) {
			delete(m.files, "sys/fs/cgroup/cgroup.controllers")
			m.files["proc/filesystems"] = "nodev\tproc\n"
			m.info["Driver"] = "vfs"
		}, want: map[string]string{"cgroup": "fail: no cgroups at /sys/fs/cgroup", "overlay": "fail: not there, or not loaded", "storage": "warn: vfs: slow, and wasteful of space"}, embeds: true},
		{name: "small", change: func(m *machine) {
			m.free = 3.5e9
			delete(m.files, "home/cache/.keep")
			m.files["proc/meminfo"] = "MemAvailable: 1048576 kB\n"
			m.files["proc/sys/net/ipv4/ip_forward"] = "0\n"
		}, want: map[string]string{"cache-space": "fail: 3.5 GB free", "engine-space": "fail: 3.5 GB free at /var/lib/docker", "memory": "fail: 1.0 GiB available", "forwarding": "fail: 0"}},
		{name: "small, with a cache", change: func(m *machine) {
			m.free = 3.5e9
			m.files["proc/meminfo"] = "MemAvailable: 3145728 kB\n"
		}, want: map[string]string{"cache-space": "warn: 3.5 GB free; the cache is there already, so that less may do", "engine-space": "fail: 3.5 GB free at /var/lib/docker", "memory": "warn: 3.0 GiB available"}, embeds: true},
		{name: "small, with all images", change: func(m *machine) { m.free, m.nodes = 5e9, "kindest/node:v1.34.3\n" },
			want: map[string]string{"engine-space": "warn: 5.0 GB free at /var/lib/docker; an image of nodes is there already, so that less may do"}, kind: true, embeds: true},
		{name: "no go", change: func(m *machine) { m.goSays = "" }, want: map[string]string{"go": "fail: not in PATH"}, kind: true},
		{name: "old go", change: func(m *machine) { m.goSays = "go version go1.19.8 linux/amd64" }, want: map[string]string{"go": "fail: go1.19.8"}, kind: true},
		{name: "development go", change: func(m *machine) { m.goSays = "go version devel +abc linux/amd64" }, want: map[string]string{"go": `warn: "go version devel +abc linux/amd64"`}, kind: true, embeds: true},
		{name: "another user", change: func(m *machine) { m.uid = 1000 }, kind: true, embeds: true},
		{name: "another user without engine", change: func(m *machine) { m.noEngine().uid = 1000 }, want: map[string]string{
			"rights": "warn: user 1000", "engine": "fail: docker info --format \"{{json .}}\": Cannot connect to the Docker daemon",
			"storage": "warn: not known: no container engine answers", "engine-space": "warn: not known: no container engine answers",
		}, fixable: []string{"engine"}, embeds: true},
		{name: "nothing to see", change: func(m *machine) {
			m.os = "darwin"
			m.noEngine().files = map[string]string{}
		}, want: map[string]string{
			"system": "fail: darwin", "memory": "warn: not known", "capabilities": "warn: not known", "inotify": "warn: not known", "overlay": "warn: not known",
			"forwarding": "warn: not known", "subnets": "warn: not known", "cgroup": "fail: no cgroups at /sys/fs/cgroup",
			"engine":  "fail: docker info --format \"{{json .}}\": Cannot connect to the Docker daemon",
			"storage": "warn: not known: no container engine answers", "engine-space": "warn: not known: no container engine answers",
		}, fixable: []string{"engine"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := fine()
			tc.change(m)
			all := doctor.Run(t.Context(), m.host(t))
			got := troubles(all)
			for name, what := range got { // paths of this test
				if before, _, ok := strings.Cut(what, ": open "); ok {
					got[name] = before
				}
			}
			if tc.want == nil {
				tc.want = map[string]string{}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("what is not ok (-want +got):\n%s", diff)
			}
			var fixable []string
			for _, c := range all {
				if c.Fixable {
					fixable = append(fixable, c.Check)
				}
				if c.Check == "" || c.Want == "" && c.Check != "inotify" || len(c.NeededBy) == 0 || (c.Status == doctor.Fail) && c.Fix == "" || c.Status == doctor.OK && c.Fix != "" {
					t.Errorf("incomplete: %+v", c)
				}
			}
			if diff := cmp.Diff(tc.fixable, fixable); diff != "" {
				t.Errorf("fixable (-want +got):\n%s", diff)
			}
			if got := doctor.Ready(all, "kind"); got != tc.kind {
				t.Errorf("ready for kind: %v", got)
			}
			if got := doctor.Ready(all, "embedded"); got != tc.embeds {
				t.Errorf("ready for embedded: %v", got)
			}
		})
	}
}

// Looking writes nothing.
func TestRunChangesNothing(t *testing.T) {
	h := fine().restrict().host(t)
	before := tree(t, h.Root)
	doctor.Run(t.Context(), h)
	if diff := cmp.Diff(before, tree(t, h.Root)); diff != "" {
		t.Error(diff)
	}
}

// tree is what is in a folder, with modes.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		out[name] = info.Mode().String() + " " + string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
