package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// NeedsRoot says that there is something to mend, but not by this user.
type NeedsRoot struct {
	Checks []string // that would be mended
}

func (e *NeedsRoot) Error() string {
	return "mending " + strings.Join(e.Checks, ", ") + " takes root"
}

// FixOptions say how far Fix goes.
type FixOptions struct {
	// RestartEngine restarts the engine, and with it its containers, if that is
	// needed, or starts it.
	RestartEngine bool
	// Changed is told of everything that was changed.
	Changed func(what string)
}

// Fix mends what is fixable and fails, and nothing else; call Run to see the state
// after. What cannot be mended does not keep it from mending the rest.
func Fix(ctx context.Context, h Host, o FixOptions) error {
	var fixable []string
	for _, c := range Run(ctx, h) {
		if c.Fixable {
			fixable = append(fixable, c.Check)
		}
	}
	if o.Changed == nil {
		o.Changed = func(string) {}
	}
	v := look(ctx, h)
	switch {
	case len(fixable) == 0 && v.UID == 0 && v.active() && v.registered():
		return v.update(o.Changed)
	case len(fixable) == 0:
		return nil
	case h.UID != 0:
		return &NeedsRoot{fixable}
	}
	var errs []error
	if slices.Contains(fixable, "inotify") {
		errs = append(errs, h.raiseLimits(o.Changed))
	}
	registered := true
	if slices.Contains(fixable, "capabilities") {
		if err := v.register(o.Changed); err != nil {
			errs, registered = append(errs, err), false
		}
	}
	if o.RestartEngine && registered && (slices.Contains(fixable, "capabilities") || slices.Contains(fixable, "engine")) {
		errs = append(errs, v.restart(ctx, len(v.lack) > 0, o.Changed))
	}
	return errors.Join(errs...)
}

const sysctlFile = "etc/sysctl.d/99-testbed.conf"

// raiseLimits of inotify, now and after the next boot.
func (h Host) raiseLimits(changed func(string)) error {
	kept := "# Limits that Kubernetes nodes in containers need; written by `testbed doctor --fix`.\n"
	for _, l := range limits() {
		n, err := h.number(h.sysctl(l.key))
		if err != nil {
			return err
		}
		if n < l.want {
			if err := os.WriteFile(h.path(h.sysctl(l.key)), fmt.Appendln(nil, l.want), 0o644); err != nil {
				return fmt.Errorf("set %s: %w", l.key, err)
			}
			changed(fmt.Sprintf("%s: %d is now %d", l.key, n, l.want))
		}
		kept += fmt.Sprintf("%s = %d\n", l.key, max(n, l.want))
	}
	wrote, err := replace(h.path(sysctlFile), []byte(kept), 0o644)
	if err == nil && wrote {
		changed("/" + sysctlFile + " keeps them")
	}
	return err
}

// configFile of the engine.
func (v *view) configFile() string {
	if v.daemon.config != "" {
		return v.daemon.config
	}
	return v.Config
}

// settings of the engine's configuration; none if there is no such file.
func (v *view) settings() (map[string]json.RawMessage, error) {
	all := map[string]json.RawMessage{}
	text, err := os.ReadFile(v.path(v.configFile()))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(bytes.TrimSpace(text)) == 0 {
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	if err := object(text, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", v.configFile(), err)
	}
	return all, nil
}

// object decodes a JSON object, and nothing else.
func object(text []byte, into *map[string]json.RawMessage) error {
	if err := json.Unmarshal(text, into); err != nil {
		return err
	}
	if *into == nil {
		return errors.New("null is no object")
	}
	return nil
}

// plain is JSON that leaves texts as they are.
func plain(v any) ([]byte, error) {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(v)
	return text.Bytes(), err
}

// runtimeEntry is a runtime in the engine's configuration.
type runtimeEntry struct {
	Path string `json:"path"`
}

// registered tells whether the engine takes our runtime when it starts next.
func (v *view) registered() bool {
	all, err := v.settings()
	if err != nil {
		return false
	}
	var name string
	var runtimes map[string]runtimeEntry
	return json.Unmarshal(all["default-runtime"], &name) == nil && name == Runtime &&
		json.Unmarshal(all["runtimes"], &runtimes) == nil && runtimes[Runtime].Path == v.Installed && v.exists(v.Installed)
}

// register installs our OCI runtime and makes it the engine's default.
func (v *view) register(changed func(string)) error {
	for _, arg := range v.daemon.args {
		if arg == "--default-runtime" || strings.HasPrefix(arg, "--default-runtime=") {
			return fmt.Errorf("the engine was started with %s, which %s must not contradict: register %s there", arg, v.configFile(), v.Installed)
		}
	}
	program, err := os.ReadFile(v.Program)
	if err != nil {
		return fmt.Errorf("the OCI runtime: %w; `make build` makes it", err)
	}
	all, err := v.settings()
	if err != nil {
		return err
	}
	var before string
	if raw, ok := all["default-runtime"]; ok {
		if err := json.Unmarshal(raw, &before); err != nil {
			return fmt.Errorf("%s: default-runtime: %w", v.configFile(), err)
		}
	}
	if before != "" && before != "runc" && before != Runtime {
		return fmt.Errorf("%s: the default runtime is %s, which ours would replace: nothing was changed", v.configFile(), before)
	}
	runtimes := map[string]json.RawMessage{}
	if raw, ok := all["runtimes"]; ok {
		if err := object(raw, &runtimes); err != nil {
			return fmt.Errorf("%s: runtimes: %w", v.configFile(), err)
		}
	}
	if err := v.install(program, changed); err != nil || v.registered() {
		return err
	}
	for _, f := range []struct {
		in    map[string]json.RawMessage
		name  string
		value any
	}{{runtimes, Runtime, runtimeEntry{v.Installed}}, {all, "runtimes", runtimes}, {all, "default-runtime", Runtime}} {
		if f.in[f.name], err = plain(f.value); err != nil {
			return err
		}
	}
	text, err := plain(all)
	if err != nil {
		return err
	}
	if err := v.backup(changed); err != nil {
		return err
	}
	if _, err := replace(v.path(v.configFile()), text, 0o644); err != nil {
		return err
	}
	changed(v.configFile() + ": default runtime " + Runtime)
	return nil
}

// install our OCI runtime. The engine starts the new one from then on.
func (v *view) install(program []byte, changed func(string)) error {
	wrote, err := replace(v.path(v.Installed), program, 0o755)
	if wrote {
		changed("installed " + v.Installed)
	}
	return err
}

// update the OCI runtime that is in use, if there is one to take its place.
func (v *view) update(changed func(string)) error {
	program, err := os.ReadFile(v.Program)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return v.install(program, changed)
}

// backup keeps the engine's configuration as it was before us.
func (v *view) backup(changed func(string)) error {
	name := v.configFile() + ".before-testbed"
	text, err := os.ReadFile(v.path(v.configFile()))
	if errors.Is(err, fs.ErrNotExist) || err == nil && v.exists(name) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := replace(v.path(name), text, 0o600); err != nil {
		return err
	}
	changed("kept " + name)
	return nil
}

// replace writes a file whole or not at all, in its folder, which is made. A file
// that is there keeps its owner, and its mode unless it is a program; a link stays
// one. False if the content and mode were there already.
func replace(file string, content []byte, mode fs.FileMode) (bool, error) {
	if real, err := filepath.EvalSymlinks(file); err == nil {
		file = real
	}
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, err
	}
	uid, gid := -1, -1
	if info, err := os.Stat(file); err == nil {
		if mode&0o111 == 0 {
			mode = info.Mode().Perm()
		}
		old, err := os.ReadFile(file)
		if err == nil && bytes.Equal(old, content) && info.Mode().Perm() == mode {
			return false, nil
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); ok {
			uid, gid = int(owner.Uid), int(owner.Gid)
		}
	}
	tmp, err := os.CreateTemp(dir, ".testbed-")
	if err != nil {
		return false, err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil && uid >= 0 {
		err = os.Chown(tmp.Name(), uid, gid)
	}
	if err == nil {
		err = os.Chmod(tmp.Name(), mode) // after chown, which takes bits away
	}
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	return err == nil, err
}
