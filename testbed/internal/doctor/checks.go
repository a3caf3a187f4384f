package doctor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
)

const (
	fixCommand     = "as root: `testbed doctor --fix`"
	restartCommand = "as root: `testbed doctor --fix --restart-engine`"

	gb = 1e9
)

const (
	embedded = "embedded"
	kind     = "kind"
	kubeEdge = "kubeedge"
)

func byAll() []string      { return []string{embedded, kind} }
func byEmbedded() []string { return []string{embedded} }
func byKind() []string     { return []string{kind} }
func byKubeEdge() []string { return []string{kind, kubeEdge} }

// unknown is what could not be looked at.
func (c Check) unknown(err error) Check {
	c.Status, c.Observed = Warn, "not known: "+inShort(err)
	return c
}

func (c Check) ok(format string, args ...any) Check {
	c.Status, c.Observed = OK, fmt.Sprintf(format, args...)
	return c
}

func (c Check) bad(status, fix, format string, args ...any) Check {
	c.Status, c.Fix, c.Observed = status, fix, fmt.Sprintf(format, args...)
	return c
}

// inShort is the first line of an error; of a command, its last words.
func inShort(err error) string {
	if e := (*command.Error)(nil); errors.As(err, &e) && e.Tail != "" {
		return command.Tail([]byte(e.Tail), 1)
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

var errNoEngine = errors.New("no container engine answers")

func system(_ context.Context, v *view) Check {
	c := Check{Check: "system", Want: "linux", NeededBy: byAll()}
	if v.OS == "linux" {
		return c.ok("linux")
	}
	return c.bad(Fail, "run the testbed in a virtual machine with Linux", "%s", v.OS)
}

func goToolchain(ctx context.Context, v *view) Check {
	c := Check{Check: "go", Want: "Go 1.21 or newer, which gets the version that it needs", NeededBy: byEmbedded()}
	const fix = "install Go (https://go.dev/dl) and put it into PATH; kind needs it only where nothing is published"
	res, err := v.Runner.Run(ctx, command.Cmd{Argv: []string{"go", "version"}})
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return c.bad(Fail, fix, "not in PATH")
	case err != nil:
		return c.unknown(err)
	}
	said := strings.TrimSpace(string(res.Stdout))
	for _, word := range strings.Fields(said) {
		var major, minor int
		if n, _ := fmt.Sscanf(word, "go%d.%d", &major, &minor); n == 2 && major == 1 && minor < 21 {
			return c.bad(Fail, fix, "%s", word)
		} else if n == 2 {
			return c.ok("%s", word)
		}
	}
	return c.bad(Warn, fix, "%q", said)
}

func cacheSpace(_ context.Context, v *view) Check {
	const want = 4 * gb
	c := Check{Check: "cache-space", Want: "4 GB free at " + v.Cache, NeededBy: byEmbedded()}
	n, err := v.Free(v.Cache)
	switch {
	case err != nil:
		return c.unknown(err)
	case n >= want:
		return c.ok("%.1f GB free", float64(n)/gb)
	}
	const fix = "make room, or set XDG_CACHE_HOME to a folder on a larger disk"
	if held, err := os.ReadDir(v.Cache); err == nil && len(held) > 0 {
		return c.bad(Warn, fix, "%.1f GB free; the cache is there already, so that less may do", float64(n)/gb)
	}
	return c.bad(Fail, fix, "%.1f GB free", float64(n)/gb)
}

func memory(_ context.Context, v *view) Check {
	c := Check{Check: "memory", Want: "2 GiB available for embedded, 4 GiB for kind", NeededBy: byAll()}
	text, err := v.read("proc/meminfo")
	if err != nil {
		return c.unknown(err)
	}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "MemAvailable:" {
			continue
		}
		kib, err := strconv.ParseFloat(f[1], 64)
		if err != nil {
			return c.unknown(err)
		}
		gib := kib / (1 << 20)
		const fix = "end other programs, or give the machine more memory"
		switch {
		case gib < 2:
			return c.bad(Fail, fix, "%.1f GiB available", gib)
		case gib < 4:
			return c.bad(Warn, fix, "%.1f GiB available", gib)
		}
		return c.ok("%.1f GiB available", gib)
	}
	return c.unknown(errors.New("/proc/meminfo has no MemAvailable"))
}

func rights(_ context.Context, v *view) Check {
	c := Check{Check: "rights", Want: "root, or a user whom the engine lets in", NeededBy: byKind()}
	switch {
	case v.UID == 0:
		return c.ok("root")
	case v.engine != nil:
		return c.ok("user %d; the engine lets it in", v.UID)
	}
	return c.bad(Warn, "run `testbed doctor` as root to see what it can mend", "user %d", v.UID)
}

func engineAnswers(_ context.Context, v *view) Check {
	c := Check{Check: "engine", Want: "a container engine that answers", NeededBy: byKind()}
	if v.engine != nil {
		return c.ok("%s %s", engine.Program, v.engine.Info.ServerVersion)
	}
	why, fix := v.engineErr, "use --backend embedded, which needs none"
	if u := (*engine.Unavailable)(nil); errors.As(v.engineErr, &u) {
		why, fix = u.Err, u.Fix()
	}
	c = c.bad(Fail, fix, "%s", inShort(why))
	// One that refuses us runs.
	if v.installedEngine() && !strings.Contains(v.engineErr.Error(), "permission denied") {
		c.Fix, c.Fixable = restartCommand+" starts it", true
	}
	return c
}

// indispensable are capabilities without which no engine runs a node, whatever takes them out.
var indispensable = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_MKNOD", "CAP_NET_ADMIN", "CAP_SETGID", "CAP_SETUID",
	"CAP_SYS_ADMIN", "CAP_SYS_CHROOT"}

func capabilities(_ context.Context, v *view) Check {
	c := Check{Check: "capabilities", Want: "all, or the OCI runtime " + Runtime + " as the engine's default", NeededBy: byKubeEdge()}
	if v.lackErr != nil {
		return c.unknown(v.lackErr)
	}
	if len(v.lack) == 0 {
		return c.ok("all; privileged containers start")
	}
	lack := "lacks " + strings.Join(v.lack, ", ")
	if v.engine != nil && v.daemon.pid == 0 && !v.active() {
		return c.unknown(fmt.Errorf("%s names no engine that runs on this machine; this program %s", v.PIDFile, lack))
	}
	if never := slices.DeleteFunc(slices.Clone(v.lack), func(s string) bool { return !slices.Contains(indispensable, s) }); len(never) > 0 {
		return c.bad(Fail, "take a host that has "+strings.Join(never, ", ")+", or --backend embedded", "%s", lack)
	}
	if v.active() {
		return c.ok("%s; containers start by the runtime %s without", lack, Runtime)
	}
	switch _, err := v.settings(); {
	case err != nil:
		return c.bad(Fail, "correct it; then "+restartCommand, "%s; %s", lack, inShort(err))
	case v.registered() && v.engine == nil && v.daemon.pid > 0:
		return c.unknown(fmt.Errorf("%s; the runtime %s is registered, the engine refuses to say what it uses", lack, Runtime))
	case v.registered() && v.engine == nil:
		c = c.bad(Fail, restartCommand+" starts the engine", "%s; the runtime %s is registered, no engine answers", lack, Runtime)
	case v.registered():
		c = c.bad(Fail, "restart the engine, which ends its containers; "+restartCommand, "%s; the runtime %s is registered, the engine runs without it", lack, Runtime)
	default:
		c = c.bad(Fail, restartCommand, "%s: privileged containers do not start", lack)
	}
	c.Fixable = v.engine != nil || v.installedEngine()
	if !c.Fixable {
		c.Fix = "install an engine; then " + restartCommand
	}
	return c
}

func storage(_ context.Context, v *view) Check {
	c := Check{Check: "storage", Want: "a storage driver that shares layers", NeededBy: byKind()}
	if v.engine == nil {
		return c.unknown(errNoEngine)
	}
	switch d := v.engine.Info.Driver; d {
	case "vfs", "devicemapper", "aufs":
		return c.bad(Warn, `set "storage-driver": "overlay2" in the engine's configuration, if the kernel has overlay`, "%s: slow, and wasteful of space", d)
	default:
		return c.ok("%s", d)
	}
}

func engineSpace(ctx context.Context, v *view) Check {
	c := Check{Check: "engine-space", Want: "10 GB free where the engine keeps images", NeededBy: byKind()}
	if v.engine == nil {
		return c.unknown(errNoEngine)
	}
	dir := v.engine.Info.DockerRootDir
	if dir == "" || !v.exists(dir) {
		return c.unknown(fmt.Errorf("the engine's folder %s is not on this machine", dir))
	}
	n, err := v.Free(v.path(dir))
	if err != nil {
		return c.unknown(err)
	}
	nodes, err := v.engine.Images(ctx, "*/node")
	if err != nil {
		return c.unknown(err)
	}
	const fix = "make room (`docker system df` says where it went), or set \"data-root\" to a larger disk"
	switch {
	case n < 10*gb && n >= 3*gb && len(nodes) > 0:
		return c.bad(Warn, fix, "%.1f GB free at %s; an image of nodes is there already, so that less may do", float64(n)/gb, dir)
	case n < 10*gb:
		return c.bad(Fail, fix, "%.1f GB free at %s", float64(n)/gb, dir)
	}
	return c.ok("%.1f GB free at %s", float64(n)/gb, dir)
}

// limit of inotify: every node's systemd, kubelet and containerd watch files of the same user.
type limit struct {
	key  string
	want int64
}

func limits() []limit {
	return []limit{{"fs.inotify.max_user_instances", 512}, {"fs.inotify.max_user_watches", 524288}}
}

// sysctl is the file of a key.
func (h Host) sysctl(key string) string {
	return filepath.Join(h.Sys, strings.ReplaceAll(key, ".", "/"))
}

func inotify(_ context.Context, v *view) Check {
	c := Check{Check: "inotify", NeededBy: byKubeEdge()}
	var want, seen []string
	low := false
	for _, l := range limits() {
		n, err := v.number(v.sysctl(l.key))
		if err != nil {
			return c.unknown(err)
		}
		name := l.key[strings.LastIndex(l.key, ".")+1:]
		want = append(want, fmt.Sprintf("%s >= %d", name, l.want))
		seen = append(seen, fmt.Sprintf("%s %d", name, n))
		low = low || n < l.want
	}
	c.Want = strings.Join(want, ", ")
	if !low {
		return c.ok("%s", strings.Join(seen, ", "))
	}
	c = c.bad(Fail, fixCommand, "%s", strings.Join(seen, ", "))
	c.Fixable = true
	return c
}

func cgroup(_ context.Context, v *view) Check {
	c := Check{Check: "cgroup", Want: "version 2", NeededBy: byKubeEdge()}
	switch {
	case v.exists("sys/fs/cgroup/cgroup.controllers"):
		return c.ok("version 2")
	case v.exists("sys/fs/cgroup/memory"):
		return c.bad(Warn, "boot with systemd.unified_cgroup_hierarchy=1, or stay below Kubernetes 1.35", "version 1, which kubelet refuses from 1.35 on")
	}
	return c.bad(Fail, "mount cgroups at /sys/fs/cgroup", "no cgroups at /sys/fs/cgroup")
}

func overlay(_ context.Context, v *view) Check {
	c := Check{Check: "overlay", Want: "overlay in /proc/filesystems", NeededBy: byKind()}
	text, err := v.read("proc/filesystems")
	if err != nil {
		return c.unknown(err)
	}
	if slices.Contains(strings.Fields(text), "overlay") {
		return c.ok("there")
	}
	return c.bad(Fail, "as root: `modprobe overlay`", "not there, or not loaded")
}

func forwarding(_ context.Context, v *view) Check {
	c := Check{Check: "forwarding", Want: "net.ipv4.ip_forward = 1", NeededBy: byKind()}
	n, err := v.number(v.sysctl("net.ipv4.ip_forward"))
	switch {
	case err != nil:
		return c.unknown(err)
	case n == 1:
		return c.ok("1")
	case v.engine == nil:
		return c.bad(Warn, "nothing yet: the engine sets it when it starts", "%d", n)
	}
	return c.bad(Fail, "as root: `sysctl -w net.ipv4.ip_forward=1`", "%d", n)
}

// subnets: what clusters use among themselves cannot be reached from Pods; where
// nodes get their own addresses from it, nothing works.
func subnets(ctx context.Context, v *view) Check {
	var want []string
	for _, r := range v.Ranges {
		want = append(want, r.Name+" "+r.Prefix.String())
	}
	c := Check{Check: "subnets", Want: "nothing else in " + strings.Join(want, ", "), NeededBy: byKubeEdge()}
	text, err := v.read("proc/net/route")
	if err != nil {
		return c.unknown(err)
	}
	var clashes []string
	status := OK
	taken := map[netip.Prefix]bool{}
	if v.engine != nil {
		networks, err := v.networks(ctx)
		if err != nil {
			return c.unknown(err)
		}
		for _, n := range networks {
			taken[n.Prefix] = true
			if r, ok := v.clash(n.Prefix); ok {
				status = Fail
				clashes = append(clashes, fmt.Sprintf("network %s has %s of %s", n.Name, n.Prefix, r.Name))
			}
		}
	}
	for _, route := range routes(text) {
		if r, ok := v.clash(route.Prefix); ok && !taken[route.Prefix] {
			if status == OK {
				status = Warn
			}
			clashes = append(clashes, fmt.Sprintf("route %s by %s is in %s", route.Prefix, route.Name, r.Name))
		}
	}
	switch status {
	case Fail:
		return c.bad(Fail, "remove the network, or give the engine other \"default-address-pools\", such as 172.20.0.0/14 by size 24", "%s", strings.Join(clashes, "; "))
	case Warn:
		return c.bad(Warn, "nothing, unless Pods have to reach what is there", "%s", strings.Join(clashes, "; "))
	}
	return c.ok("free")
}

func (v *view) clash(p netip.Prefix) (Range, bool) {
	for _, r := range v.Ranges {
		if r.Prefix.Overlaps(p) {
			return r, true
		}
	}
	return Range{}, false
}

// networks of the engine, by name, with what they have of IPv4.
func (v *view) networks(ctx context.Context) ([]Range, error) {
	names, err := v.engine.Networks(ctx)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	// One that has gone since makes this fail, after all others are printed.
	out, err := v.engine.Output(ctx, append([]string{"network", "inspect", "--format", "{{.Name}}{{range .IPAM.Config}} {{.Subnet}}{{end}}"}, names...)...)
	if out == "" && err != nil {
		return nil, err
	}
	var all []Range
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		for _, s := range f[min(1, len(f)):] {
			if p, err := netip.ParsePrefix(s); err == nil && p.Addr().Is4() {
				all = append(all, Range{f[0], p.Masked()})
			}
		}
	}
	return all, nil
}

// routes of /proc/net/route that are up, but for the default one, by interface.
func routes(text string) []Range {
	const up, destination, flags, mask = 1, 1, 3, 7
	var all []Range
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) <= mask {
			continue
		}
		to, err1 := strconv.ParseUint(f[destination], 16, 32)
		set, err2 := strconv.ParseUint(f[flags], 16, 32)
		bits, err3 := strconv.ParseUint(f[mask], 16, 32)
		if err1 != nil || err2 != nil || err3 != nil || set&up == 0 || bits == 0 {
			continue
		}
		var addr, ones [4]byte // the kernel prints them in its own order
		binary.NativeEndian.PutUint32(addr[:], uint32(to))
		binary.NativeEndian.PutUint32(ones[:], uint32(bits))
		n := 0
		for b := binary.BigEndian.Uint32(ones[:]); b != 0; b <<= 1 {
			n++
		}
		all = append(all, Range{f[0], netip.PrefixFrom(netip.AddrFrom4(addr), n).Masked()})
	}
	return all
}

func builder(_ context.Context, v *view) Check {
	c := Check{Check: "build-tools", Want: "mmdebstrap and iptables, where the node image has to be built", NeededBy: byKind()}
	var missing []string
	for _, p := range []string{"mmdebstrap", "iptables"} {
		if _, err := v.LookPath(p); err != nil {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		return c.bad(Warn, "as root: `apt-get install "+strings.Join(missing, " ")+"`, unless an image of kind's nodes can be had", "no %s", strings.Join(missing, ", "))
	}
	return c.ok("there")
}
