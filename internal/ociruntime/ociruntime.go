// Package ociruntime is an OCI runtime that is runc, but for what this host cannot
// give: capabilities that are not in its bounding set, and a lower OOM score than
// this process may set. With them `docker run --privileged`, and so kind, fails
// with "unable to apply caps: operation not permitted".
//
// Invariants:
//   - Nothing is added, and on a host that lacks nothing nothing is changed.
//   - What it does not know in a configuration stays as it is, byte for byte.
//   - A configuration is written whole or not at all, with its mode and owner.
//   - It becomes runc (exec), so that pids, signals and exit codes are runc's.
//
// It is started several times for each container, so it takes the standard
// library only. Try it with `go test ./internal/ociruntime`.
package ociruntime

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Program is what the runtime becomes; the variable RUNC names another.
const Program, Variable = "runc", "TESTBED_RUNC"

// Exec adapts what the command line of an OCI runtime refers to, then becomes runc.
// It returns only on failure.
func Exec(args []string) error {
	lack, err := Lacking()
	if err != nil {
		return err
	}
	runc, err := find()
	if err != nil {
		return err
	}
	if len(lack) > 0 {
		score, err := oomScore()
		if err != nil {
			return err
		}
		if args, err = Adapt(args, lack, score); err != nil {
			return err
		}
	}
	return fmt.Errorf("exec %s: %w", runc, syscall.Exec(runc, append([]string{runc}, args...), os.Environ()))
}

// find looks for runc, and never finds this program.
func find() (string, error) {
	name := os.Getenv(Variable)
	if name == "" {
		name = Program
	}
	file, err := exec.LookPath(name)
	if err != nil {
		// Engines start runtimes with a short PATH.
		for _, dir := range []string{"/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"} {
			if file, err = exec.LookPath(filepath.Join(dir, name)); err == nil {
				break
			}
		}
	}
	if err != nil {
		return "", fmt.Errorf("%s is not installed: %w", name, err)
	}
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", err
	}
	if other, err := os.Stat(file); err == nil && os.SameFile(self, other) {
		return "", fmt.Errorf("%s is this program itself; name the real one by %s", file, Variable)
	}
	return file, nil
}

// Adapt takes the capabilities in lack out of the configuration that the arguments of
// `create`, `run` or `exec` name, and raises its OOM score to score. It returns the
// arguments to go on with.
func Adapt(args, lack []string, score int) ([]string, error) {
	command, at := "", 0
	for i := 0; i < len(args) && command == ""; i++ {
		switch a := args[i]; {
		case !strings.HasPrefix(a, "-"):
			command, at = a, i
		case slices.Contains([]string{"--log", "--log-format", "--root", "--criu", "--rootless"}, a):
			i++ // its value
		}
	}
	switch command {
	case "create", "run", "restore":
		bundle := value(args[at+1:], "--bundle", "-b")
		if bundle == "" {
			bundle = "."
		}
		return args, rewrite(filepath.Join(bundle, "config.json"), func(text []byte) ([]byte, error) {
			return Config(text, lack, score)
		})
	case "exec":
		if file := value(args[at+1:], "--process", "-p"); file != "" {
			return args, rewrite(file, func(text []byte) ([]byte, error) { return Process(text, lack, score) })
		}
		return withoutCaps(args, at+1, lack), nil
	}
	return args, nil
}

// value of a flag that has one, in either form.
func value(args []string, names ...string) string {
	for i, a := range args {
		for _, n := range names {
			for _, form := range []string{n, strings.TrimPrefix(n, "-")} {
				if a == form && strings.HasPrefix(form, "-") && i+1 < len(args) {
					return args[i+1]
				}
				if v, ok := strings.CutPrefix(a, form+"="); ok && strings.HasPrefix(form, "-") {
					return v
				}
			}
		}
	}
	return ""
}

// withoutCaps removes --cap flags that ask for what the host lacks.
func withoutCaps(args []string, from int, lack []string) []string {
	out := slices.Clone(args[:from])
	for i := from; i < len(args); i++ {
		name, ok := strings.CutPrefix(args[i], "--cap=")
		skip := 1
		if args[i] == "--cap" && i+1 < len(args) {
			name, ok, skip = args[i+1], true, 2
		}
		if ok && slices.Contains(lack, strings.ToUpper(name)) {
			i += skip - 1
			continue
		}
		out = append(out, args[i])
	}
	return out
}

// Config adapts a bundle's config.json.
func Config(text []byte, lack []string, score int) ([]byte, error) {
	return field(text, "process", func(process []byte) ([]byte, error) { return Process(process, lack, score) })
}

// Process adapts the process of a configuration.
func Process(text []byte, lack []string, score int) ([]byte, error) {
	text, err := field(text, "capabilities", func(sets []byte) ([]byte, error) {
		var all map[string]json.RawMessage
		if err := json.Unmarshal(sets, &all); err != nil || all == nil {
			return sets, err
		}
		for name, raw := range all {
			var set []string
			if err := json.Unmarshal(raw, &set); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			left := slices.DeleteFunc(slices.Clone(set), func(c string) bool { return slices.Contains(lack, c) })
			if len(left) == len(set) {
				continue
			}
			raw, err := json.Marshal(left)
			if err != nil {
				return nil, err
			}
			all[name] = raw
		}
		return json.Marshal(all)
	})
	if err != nil {
		return nil, err
	}
	return field(text, "oomScoreAdj", func(value []byte) ([]byte, error) {
		n, err := strconv.Atoi(strings.TrimSpace(string(value)))
		if err != nil || n >= score {
			return value, nil
		}
		return []byte(strconv.Itoa(score)), nil
	})
}

// field rewrites one field of a JSON object, if it is there; all others stay as they are.
func field(text []byte, name string, change func([]byte) ([]byte, error)) ([]byte, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(text, &object); err != nil {
		return nil, err
	}
	old, ok := object[name]
	if !ok {
		return text, nil
	}
	now, err := change(old)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if string(now) == string(old) {
		return text, nil
	}
	object[name] = now
	return json.Marshal(object)
}

// rewrite changes a file, whole or not at all.
func rewrite(file string, change func([]byte) ([]byte, error)) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	now, err := change(text)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if string(now) == string(text) {
		return nil
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".config-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(now)
	err = errors.Join(err, tmp.Chmod(info.Mode().Perm()), tmp.Close())
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && err == nil {
		err = os.Chown(tmp.Name(), int(owner.Uid), int(owner.Gid))
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

func oomScore() (int, error) {
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// Lacking are the capabilities that this host's kernel knows and this process can
// never give to anybody, in the order of their numbers.
func Lacking() ([]string, error) {
	status, err := os.Open("/proc/self/status")
	if err != nil {
		return nil, err
	}
	defer status.Close()
	last := len(names) - 1
	if text, err := os.ReadFile("/proc/sys/kernel/cap_last_cap"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && n < last {
			last = n
		}
	}
	lines := bufio.NewScanner(status)
	for lines.Scan() {
		if set, ok := strings.CutPrefix(lines.Text(), "CapBnd:"); ok {
			bounding, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
			if err != nil {
				return nil, fmt.Errorf("CapBnd of /proc/self/status: %w", err)
			}
			return missing(bounding, last), nil
		}
	}
	return nil, errors.Join(errors.New("/proc/self/status has no CapBnd"), lines.Err())
}

func missing(bounding uint64, last int) []string {
	var out []string
	for n, name := range names[:last+1] {
		if bounding>>n&1 == 0 {
			out = append(out, "CAP_"+name)
		}
	}
	return out
}

// names of capabilities by number, capabilities(7).
var names = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE",
	"NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT",
	"SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE",
	"AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ",
	"PERFMON", "BPF", "CHECKPOINT_RESTORE",
}
