package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

const (
	backoffMin   = 200 * time.Millisecond
	backoffMax   = 10 * time.Second
	backoffReset = 30 * time.Second // up for so long, it starts from the minimum again
	maxLog       = 8 << 20
)

// nextBackoff is how long to wait before a restart, given the last wait and how
// long the component was up since.
func nextBackoff(last, up time.Duration) time.Duration {
	if last == 0 || up >= backoffReset {
		return backoffMin
	}
	return min(2*last, backoffMax)
}

// component keeps one Spec running. It lives until it is stopped; a changed Spec
// that needs a restart makes a new one.
type component struct {
	dirs   Dirs
	id     string
	order  int
	hasher *hasher
	log    *slog.Logger
	quiet  <-chan struct{} // closed when nothing is to be started any more

	cancel context.CancelFunc
	done   chan struct{} // closed when run has returned
	first  chan error    // gets the outcome of the first start
	kick   chan struct{} // ends a wait for the next start

	mu     sync.Mutex
	spec   Spec
	status Status // PID, Ready, Reason, Restarts, Hash, StartedAt, LastEnd
}

// run starts, watches and restarts until ctx ends; then it stops the process.
func (c *component) run(ctx context.Context) {
	defer close(c.done)
	if c.current().External {
		c.first <- nil
		c.probe(ctx, time.Now())
		return
	}
	var pause time.Duration
	first := true
	for {
		began := time.Now()
		err := c.once(ctx, func(err error) {
			if first {
				c.first <- err
				first = false
			}
		})
		if ctx.Err() != nil {
			c.set(func(s *Status) { s.PID, s.Ready, s.Reason = 0, false, "stopped" })
			return
		}
		pause = nextBackoff(pause, time.Since(began))
		c.set(func(s *Status) {
			s.LastEnd = fmt.Sprintf("%v after %s", err, time.Since(began).Round(time.Millisecond))
			s.PID, s.Ready = 0, false
			s.Reason = fmt.Sprintf("%s; start %d follows within %s", s.LastEnd, s.Restarts+2, pause)
		})
		c.log.Warn("component ended", "name", c.current().Name, "err", err, "restart_in", pause)
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-c.kick:
		case <-ctx.Done():
		}
		t.Stop()
		select {
		case <-c.quiet:
			<-ctx.Done()
		default:
		}
		if ctx.Err() != nil {
			c.set(func(s *Status) { s.Reason = "stopped" })
			return
		}
		c.set(func(s *Status) { s.Restarts++ })
	}
}

// once starts the process and waits for its end, which it brings about itself
// when ctx ends. The error says how it ended.
func (c *component) once(ctx context.Context, started func(error)) error {
	spec := c.current()
	cmd, err := c.start(spec)
	started(err)
	if err != nil {
		return err
	}
	pid := cmd.Process.Pid
	exited := make(chan error, 1)
	go func() {
		// While it is unreaped its pid is its own, and so is its group: whatever
		// the process left behind can be ended without hitting anyone else.
		if ended(pid) {
			_ = syscall.Kill(-pid, syscall.SIGKILL)
		}
		exited <- cmd.Wait()
	}()
	probing, stop := context.WithCancel(ctx)
	probed := make(chan struct{})
	go func() { defer close(probed); c.probe(probing, time.Now()) }()
	defer func() { stop(); <-probed }()

	select {
	case err = <-exited:
		return outcome(err)
	case <-ctx.Done():
	}
	spec = c.current() // its StopTimeout may have changed
	c.set(func(s *Status) { s.Ready, s.Reason = false, "stopping" })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.log.Warn("component cannot be asked to end", "name", spec.Name, "err", err)
	}
	t := time.NewTimer(spec.stopTimeout())
	defer t.Stop()
	select {
	case err = <-exited:
		return outcome(err)
	case <-t.C:
	}
	c.log.Warn("component did not end when asked, killing it", "name", spec.Name, "after", spec.stopTimeout())
	// Its group follows as soon as it has ended.
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.log.Warn("component cannot be killed", "name", spec.Name, "err", err)
	}
	return outcome(<-exited)
}

func outcome(err error) error {
	if err == nil {
		return errors.New("ended with exit status 0")
	}
	return fmt.Errorf("ended with %w", err)
}

// start writes down what will run, starts it, and writes down what runs.
func (c *component) start(spec Spec) (*exec.Cmd, error) {
	hash, err := c.hasher.spec(spec)
	if err != nil {
		return nil, err
	}
	rec := record{ID: c.id, Order: c.order, Spec: spec}
	if err := c.dirs.save(rec); err != nil {
		return nil, fmt.Errorf("write record: %w", err)
	}
	out, err := openLog(c.dirs.log(spec.Name), spec.Name)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(spec.Path, spec.Args...)
	cmd.Dir = spec.Dir
	if cmd.Dir == "" {
		cmd.Dir = c.dirs.State
	}
	cmd.Env = append(append(inherited(), spec.Env...), EnvID+"="+c.id)
	cmd.Stdout, cmd.Stderr = out, out // files, so that they need nobody to read them
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.set(func(s *Status) {
		s.Hash, s.Ready, s.Reason, s.StartedAt = hash, false, c.because("starting"), time.Now()
	})
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c.set(func(s *Status) { s.PID = cmd.Process.Pid })
	rec.PID = cmd.Process.Pid
	if f, err := inspect(rec.PID); err == nil {
		rec.Start = f.start
	}
	if err := c.dirs.save(rec); err != nil {
		c.log.Warn("record is not up to date", "name", spec.Name, "err", err)
	}
	c.log.Info("component started", "name", spec.Name, "pid", rec.PID)
	return cmd, nil
}

// inherited is the part of our environment that components get.
func inherited() []string {
	var out []string
	for _, name := range []string{"PATH", "HOME", "USER", "TMPDIR", "TZ", "LANG"} {
		if v, ok := os.LookupEnv(name); ok {
			out = append(out, name+"="+v)
		}
	}
	return out
}

// openLog opens a log to append to, after putting away one that has grown too long.
func openLog(path, name string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(f, "--- %s: start of %s\n", time.Now().UTC().Format(time.RFC3339), name); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// probe keeps Ready and Reason up to date until ctx ends.
func (c *component) probe(ctx context.Context, since time.Time) {
	p := &prober{Probe: c.current().Probe}
	defer func() { p.close() }()
	ready, misses := false, 0
	for {
		if now := c.current().Probe; now != p.Probe {
			p.close()
			p = &prober{Probe: now}
		}
		err := p.ask(ctx)
		if p.Probe == (Probe{}) && time.Since(since) < settled {
			err = fmt.Errorf("runs for less than %s", settled)
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			ready, misses = true, 0
		} else if misses++; misses >= probeMisses {
			ready = false
		}
		c.set(func(s *Status) {
			s.Ready, s.Reason = ready, ""
			if !ready {
				s.Reason = c.because(err.Error())
			}
		})
		every := probeStarting
		if ready {
			every = probeRunning
		}
		if wait(ctx, every) != nil {
			return
		}
	}
}

// stop ends the component and waits until it is gone.
func (c *component) stop() {
	c.cancel()
	<-c.done
}

// update takes over what needs no restart.
func (c *component) update(s Spec) error {
	c.mu.Lock()
	c.spec = s
	pid := c.status.PID
	c.mu.Unlock()
	rec := record{ID: c.id, Order: c.order, Spec: s, PID: pid}
	if pid > 0 {
		if f, err := inspect(pid); err == nil {
			rec.Start = f.start
		}
	}
	return c.dirs.save(rec)
}

func (c *component) current() Spec {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spec
}

func (c *component) set(f func(*Status)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.status)
}

// because adds to a reason how the last run ended. c.mu is held.
func (c *component) because(reason string) string {
	if c.status.LastEnd != "" {
		reason += "; its last run " + c.status.LastEnd
	}
	return reason
}

// report is the component's status now.
func (c *component) report() Status {
	c.mu.Lock()
	s := c.status
	s.Spec = c.spec
	c.mu.Unlock()
	s.Name = s.Spec.Name
	if !s.Spec.External {
		s.Log = c.dirs.log(s.Name)
	}
	if s.PID > 0 {
		s.RSSBytes = rss(s.PID)
	}
	return s
}
