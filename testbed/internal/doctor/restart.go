package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fluidos-edge/testbed/testbed/internal/command"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
)

// daemonProgram is the engine's server.
const daemonProgram = "dockerd"

const (
	endWithin    = time.Minute // containers are given 10 s to end
	answerWithin = 90 * time.Second
	lookEvery    = 200 * time.Millisecond
)

// daemon is the process of an engine that runs; its pid is 0 if there is none.
type daemon struct {
	pid    int
	args   []string
	config string // that it was told to read
	unit   string // of systemd that it runs in, if any
}

// findDaemon by its pid file, which an engine that was killed leaves behind.
func (h Host) findDaemon() daemon {
	pid, err := h.number(h.PIDFile)
	if err != nil || pid <= 0 {
		return daemon{}
	}
	d := daemon{pid: int(pid)}
	if name, err := h.read(d.proc("comm")); err != nil || name != daemonProgram || h.ended(d) {
		return daemon{}
	}
	text, err := h.read(d.proc("cmdline"))
	if err != nil {
		return daemon{}
	}
	d.args = strings.Split(strings.TrimRight(text, "\x00"), "\x00")
	for i, a := range d.args {
		if v, ok := strings.CutPrefix(a, "--config-file="); ok {
			d.config = v
		} else if a == "--config-file" && i+1 < len(d.args) {
			d.config = d.args[i+1]
		}
	}
	cgroups, _ := h.read(d.proc("cgroup")) // without it, it is nobody's
	for line := range strings.Lines(cgroups) {
		if unit := path.Base(strings.TrimSpace(line)); strings.HasSuffix(unit, ".service") && h.exists("run/systemd/system") {
			d.unit = unit
		}
	}
	return d
}

func (d daemon) proc(name string) string {
	return filepath.Join("proc", strconv.Itoa(d.pid), name)
}

// ended tells whether the process is gone, but for what its parent has not yet read.
func (h Host) ended(d daemon) bool {
	stat, err := h.read(d.proc("stat"))
	return err != nil || strings.Contains(stat, ") Z ")
}

// restart the engine, or start it, and wait until it answers, by our runtime if it has to.
func (v *view) restart(ctx context.Context, wantRuntime bool, changed func(string)) error {
	if where := os.Getenv("DOCKER_HOST"); where != "" && !strings.HasPrefix(where, "unix://") {
		return fmt.Errorf("the engine is elsewhere, at %s: restart it there", where)
	}
	var died <-chan error
	switch {
	case v.daemon.unit != "" || v.daemon.pid == 0 && v.engine == nil && v.exists("run/systemd/system"):
		unit := cmp.Or(v.daemon.unit, "docker.service")
		if _, err := v.Runner.Run(ctx, command.Cmd{Argv: []string{"systemctl", "restart", unit}}); err != nil {
			return fmt.Errorf("restart the engine: %w; `journalctl -u %s` has its log", err, unit)
		}
		changed("restarted " + unit)
	case v.daemon.pid > 0:
		cmd, err := v.again()
		if err != nil {
			return err
		}
		// Whoever interrupts us must not be left without an engine.
		if err := v.end(context.WithoutCancel(ctx)); err != nil {
			return err
		}
		if died, err = v.start(cmd); err != nil {
			return err
		}
		changed("restarted the engine as `" + strings.Join(v.daemon.args, " ") + "`, log " + v.Log)
	case v.engine != nil:
		return fmt.Errorf("the engine answers, but %s does not say what its process is: restart it by hand", v.PIDFile)
	default:
		file, err := v.LookPath(daemonProgram)
		if err != nil {
			return err
		}
		// What an engine that was killed left: its number may be somebody else's by now.
		if err := os.Remove(v.path(v.PIDFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		cmd := exec.Command(file)
		cmd.Dir = "/"
		if died, err = v.start(cmd); err != nil {
			return err
		}
		changed("started the engine as `" + file + "`, log " + v.Log)
	}
	return v.await(ctx, wantRuntime, died)
}

// again is the command that the engine was started by.
func (v *view) again() (*exec.Cmd, error) {
	file, err := os.Readlink(v.path(v.daemon.proc("exe")))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(strings.TrimSuffix(file, " (deleted)")) // an upgrade replaces it
	cmd.Args = slices.Clone(v.daemon.args)
	if cmd.Dir, err = os.Readlink(v.path(v.daemon.proc("cwd"))); err != nil {
		return nil, err
	}
	env, err := os.ReadFile(v.path(v.daemon.proc("environ")))
	if err != nil {
		return nil, err
	}
	cmd.Env = strings.Split(strings.TrimRight(string(env), "\x00"), "\x00")
	return cmd, nil
}

// end asks the engine to end, and waits for it.
func (v *view) end(ctx context.Context) error {
	if err := syscall.Kill(v.daemon.pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end the engine, process %d: %w", v.daemon.pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, endWithin)
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for !v.ended(v.daemon) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the engine, process %d, was asked to end and still runs: %w", v.daemon.pid, context.Cause(ctx))
		}
	}
	return nil
}

// start runs an engine that outlives us. The channel says how it ended, if it does before us.
func (v *view) start(cmd *exec.Cmd) (<-chan error, error) {
	if err := os.MkdirAll(filepath.Dir(v.path(v.Log)), 0o755); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(v.path(v.Log), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the engine: %w", err)
	}
	died := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		if err == nil {
			err = errors.New("it ended by itself")
		}
		died <- err
	}()
	return died, nil
}

// await an answer of the engine.
func (v *view) await(ctx context.Context, wantRuntime bool, died <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		e, err := engine.Find(ctx, v.Runner)
		if err == nil && (!wantRuntime || e.Info.DefaultRuntime == Runtime) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("it answers, but its default runtime is %s, not %s", e.Info.DefaultRuntime, Runtime)
		}
		select {
		case <-tick.C:
		case end := <-died:
			return fmt.Errorf("the engine did not stay up: %w; log %s:\n%s", end, v.Log, v.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("the engine was started, but not as wanted within %s: %w", answerWithin, err)
		}
	}
}

func (v *view) lastWords() string {
	text, _ := os.ReadFile(v.path(v.Log))
	return command.Tail(text, 10)
}
