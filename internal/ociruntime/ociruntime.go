// Package ociruntime is an OCI runtime that is runc, but for what this host cannot
// give: capabilities that are not in its bounding set, and a lower OOM score than
// this process may set. With them `docker run --privileged`, and so kind, fails
// with "unable to apply caps: operation not permitted".
//
// Invariants:
//   - Nothing is added, and on a host that lacks nothing nothing is changed.
//   - All else in a configuration stays as it is, byte for byte.
//   - A configuration is written whole or not at all, with its mode and owner.
//   - It becomes runc (exec), so that pids, signals and exit codes are runc's.
//
// It is started several times for each container, so it takes the standard
// library only. Try it with `go test ./internal/ociruntime`.
package ociruntime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Program is what the runtime becomes, the first in PATH that is not this program
// itself; the variable RuncVariable names another by its path.
const (
	Program      = "runc"
	RuncVariable = "TESTBED_RUNC"
)

// lowestScore is what oom_score_adj may be at least, proc(5).
const lowestScore = -1000

// Exec adapts what the command line of an OCI runtime refers to, then becomes runc.
// It returns only on failure.
func Exec(args []string) error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	last, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return err
	}
	lack, err := Lacking(string(status), string(last))
	if err != nil {
		return err
	}
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return err
	}
	runc, err := find(os.Getenv(RuncVariable), os.Getenv("PATH"), self)
	if err != nil {
		return err
	}
	if len(lack) > 0 {
		score := lowestScore
		if slices.Contains(lack, "CAP_SYS_RESOURCE") {
			if score, err = oomScore(); err != nil {
				return err
			}
		}
		if args, err = Adapt(args, lack, score); err != nil {
			return err
		}
	}
	return fmt.Errorf("exec %s: %w", runc, syscall.Exec(runc, append([]string{runc}, args...), os.Environ()))
}

// find looks for runc, and never finds this program, self.
func find(named, path string, self fs.FileInfo) (string, error) {
	if named != "" {
		other, err := os.Stat(named)
		switch {
		case err != nil:
			return "", fmt.Errorf("%s: %w", RuncVariable, err)
		case os.SameFile(self, other):
			return "", fmt.Errorf("%s: %s is this program itself", RuncVariable, named)
		}
		return named, nil
	}
	// Engines start runtimes with a short PATH.
	dirs := append(filepath.SplitList(path), "/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin")
	for _, dir := range dirs {
		file := filepath.Join(dir, Program)
		other, err := os.Stat(file)
		if filepath.IsAbs(file) && err == nil && other.Mode().IsRegular() && other.Mode()&0o111 != 0 && !os.SameFile(self, other) {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: looked in %s; %s can name it", Program, strings.Join(dirs, ", "), RuncVariable)
}

// Adapt takes the capabilities in lack out of the configuration that the arguments of
// `create`, `run`, `restore` or `exec` name, and raises its OOM score to score. It
// returns the arguments to go on with.
func Adapt(args, lack []string, score int) ([]string, error) {
	_, at := parse(args, 0, false)
	if at == len(args) {
		return args, nil
	}
	switch args[at] {
	case "create", "run", "restore":
		bundle := "."
		given, _ := parse(args, at+1, true)
		for _, f := range given {
			if f.name == "bundle" || f.name == "b" {
				bundle = f.value
			}
		}
		return args, rewrite(filepath.Join(bundle, "config.json"), func(text []byte) ([]byte, error) {
			return Config(text, lack, score)
		})
	case "exec":
		given, _ := parse(args, at+1, false)
		process := ""
		left := slices.Clone(args)
		for _, f := range slices.Backward(given) {
			switch {
			case process == "" && (f.name == "process" || f.name == "p"):
				process = f.value
			case (f.name == "cap" || f.name == "c") && slices.Contains(lack, f.value):
				left = slices.Delete(left, f.from, f.to)
			}
		}
		if process == "" {
			return left, nil
		}
		return left, rewrite(process, func(text []byte) ([]byte, error) { return Process(text, lack, score) })
	}
	return args, nil
}

// flag is a flag among arguments, which are its own from..to.
type flag struct {
	name, value string
	from, to    int
}

// switches are the flags of runc that take no value.
var switches = []string{"auto-dedup", "d", "debug", "detach", "ext-unix-sk", "file-locks", "h", "help", "ignore-paused", "keep", "lazy-pages",
	"no-new-keyring", "no-new-privs", "no-pivot", "no-subreaper", "shell-job", "systemd-cgroup", "t", "tcp-established", "tty", "v", "version"}

// parse finds the flags from args[i] on and where they end. Flags after the first
// other argument belong to somebody else, unless they may be anywhere.
func parse(args []string, i int, anywhere bool) (flags []flag, end int) {
	for i < len(args) {
		name, isFlag := strings.CutPrefix(args[i], "-")
		switch {
		case args[i] == "--":
			return flags, i + 1
		case !isFlag && !anywhere:
			return flags, i
		case !isFlag:
			i++
			continue
		}
		f := flag{from: i, to: i + 1}
		given := false
		f.name, f.value, given = strings.Cut(strings.TrimPrefix(name, "-"), "=")
		if !given && !slices.Contains(switches, f.name) && f.to < len(args) {
			f.value = args[f.to]
			f.to++
		}
		flags, i = append(flags, f), f.to
	}
	return flags, len(args)
}

// Config adapts a bundle's config.json.
func Config(text []byte, lack []string, score int) ([]byte, error) {
	return fields(text, func(name string, value []byte) ([]byte, error) {
		if name != "process" {
			return value, nil
		}
		return Process(value, lack, score)
	})
}

// Process adapts the process of a configuration.
func Process(text []byte, lack []string, score int) ([]byte, error) {
	return fields(text, func(name string, value []byte) ([]byte, error) {
		switch name {
		case "capabilities":
			return fields(value, func(set string, names []byte) ([]byte, error) { return capabilities(set, names, lack) })
		case "oomscoreadj":
			if n, err := strconv.Atoi(string(value)); err == nil && n < score {
				return strconv.AppendInt(nil, int64(score), 10), nil
			}
		}
		return value, nil
	})
}

// capabilities takes those in lack out of one set; what is no set is left alone.
func capabilities(set string, text []byte, lack []string) ([]byte, error) {
	if !slices.Contains([]string{"bounding", "effective", "inheritable", "permitted", "ambient"}, set) {
		return text, nil
	}
	var all []string
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	left := slices.DeleteFunc(slices.Clone(all), func(c string) bool { return slices.Contains(lack, c) })
	if len(left) == len(all) {
		return text, nil
	}
	return json.Marshal(left)
}

// fields gives every field of a JSON object to change and puts in what that returns;
// all other bytes stay. Names are in lower case: runc takes them in any. What
// is null has no fields.
func fields(text []byte, change func(name string, value []byte) ([]byte, error)) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	token, err := d.Token()
	if err != nil || token == nil {
		return text, err
	}
	if token != json.Delim('{') {
		return nil, fmt.Errorf("%.20v is no object", token)
	}
	var out []byte
	copied := 0
	for d.More() {
		if token, err = d.Token(); err != nil {
			return nil, err
		}
		name, _ := token.(string) // the decoder takes nothing else here
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		now, err := change(strings.ToLower(name), value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		end := int(d.InputOffset())
		out = append(append(out, text[copied:end-len(value)]...), now...)
		copied = end
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	return append(out, text[copied:]...), nil
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

// Lacking are the capabilities that the kernel knows and a process can never give to
// anybody, in the order of their numbers: those that are not in its bounding set.
// status is the process's /proc/<pid>/status, last is /proc/sys/kernel/cap_last_cap.
func Lacking(status, last string) ([]string, error) {
	n, err := strconv.Atoi(strings.TrimSpace(last))
	if err != nil || n < 0 {
		return nil, fmt.Errorf("cap_last_cap: %q is no number", last)
	}
	for line := range strings.Lines(status) {
		set, ok := strings.CutPrefix(line, "CapBnd:")
		if !ok {
			continue
		}
		bounding, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("CapBnd: %w", err)
		}
		var lack []string
		for i, name := range names[:min(n+1, len(names))] {
			if bounding>>i&1 == 0 {
				lack = append(lack, "CAP_"+name)
			}
		}
		return lack, nil
	}
	return nil, errors.New("the status of the process has no CapBnd")
}

// names of capabilities by number, capabilities(7).
var names = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE",
	"NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT",
	"SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE",
	"AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ",
	"PERFMON", "BPF", "CHECKPOINT_RESTORE",
}
