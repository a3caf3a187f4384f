package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
)

// Client talks to a testbed's supervisor. It is safe for concurrent use and needs
// no closing.
type Client struct {
	dirs Dirs
	id   string
	pid  int
	http *http.Client
}

const (
	startTimeout = 90 * time.Second       // for a new supervisor's first answer; it may have to end a lot
	pingTimeout  = 10 * time.Second       // for a supervisor to say that it is there
	pollEvery    = 25 * time.Millisecond  // while waiting for a supervisor
	waitEvery    = 100 * time.Millisecond // while waiting for components
	logLines     = 15
)

// Connect returns a client of the testbed's running supervisor, or ErrNotRunning.
// A supervisor that is stopping counts as not running.
func Connect(ctx context.Context, d Dirs) (*Client, error) {
	c := &Client{dirs: d, http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", d.socket())
		},
	}}}
	ping, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	var a about
	if err := c.call(ping, http.MethodGet, "/v1/supervisor", nil, &a); err != nil {
		return nil, err
	}
	if a.Stopping {
		return nil, fmt.Errorf("%w at %s: pid %d is stopping", ErrNotRunning, d.socket(), a.PID)
	}
	c.id, c.pid = a.ID, a.PID
	return c, nil
}

// Start connects to the testbed's supervisor, after starting a detached one if
// none runs. argv is the command that calls Serve with the same d and id; it
// runs in d.State, so paths in it are best absolute. Output goes to
// <State>/logs/supervisor.log. Any number of Starts may race: one supervisor
// wins and all get a client of it. On an error no supervisor of this Start is
// left.
func Start(ctx context.Context, d Dirs, id string, argv []string) (*Client, error) {
	if id == "" || len(argv) == 0 {
		return nil, errors.New("start supervisor: an id and a command must be given")
	}
	if err := d.make(); err != nil {
		return nil, err
	}
	c, err := connect(ctx, d, id)
	if !errors.Is(err, ErrNotRunning) {
		return c, err
	}
	logFile := filepath.Join(d.logs(), "supervisor.log")
	exited, child, err := spawn(d, id, argv, logFile)
	if err != nil {
		return nil, fmt.Errorf("start supervisor: %w", err)
	}
	fail := func(reason error) (*Client, error) {
		if child.alive(id) {
			_ = signal(child, id, syscall.SIGTERM)
			t := time.NewTimer(reapGrace)
			defer t.Stop()
			select {
			case <-exited:
			case <-t.C:
				_ = signal(child, id, syscall.SIGKILL)
			}
		}
		return nil, fmt.Errorf("start supervisor: %w; last lines of %s:\n%s", reason, logFile, lastLines(logFile))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("no answer within %s", startTimeout))
	defer cancel()
	var gone error // how ours ended
	ended := exited
	for {
		c, err := connect(ctx, d, id)
		if !errors.Is(err, ErrNotRunning) {
			if err != nil {
				return fail(err)
			}
			return c, nil
		}
		// Ours may have lost against another one, which then holds the lock and
		// will answer. If nobody holds it, nobody will.
		if gone != nil && !d.locked() {
			if c, err := connect(ctx, d, id); err == nil {
				return c, nil
			}
			return fail(gone)
		}
		t := time.NewTimer(pollEvery)
		select {
		case gone = <-ended:
			ended = nil
		case <-ctx.Done():
			t.Stop()
			return fail(fmt.Errorf("%w (last: %w)", context.Cause(ctx), err))
		case <-t.C:
		}
		t.Stop()
	}
}

// connect is Connect for a supervisor of testbed id.
func connect(ctx context.Context, d Dirs, id string) (*Client, error) {
	c, err := Connect(ctx, d)
	if err != nil {
		return nil, err
	}
	if c.id != id {
		return nil, fmt.Errorf("the supervisor at %s (pid %d) is that of %q, not of %q", d.socket(), c.pid, c.id, id)
	}
	return c, nil
}

// locked reports whether a supervisor holds, or is about to hold, the lock.
func (d Dirs) locked() bool {
	l := flock.New(d.lock(), flock.SetPermissions(0o600))
	ok, err := l.TryLock()
	if ok {
		_ = l.Unlock()
	}
	return err == nil && !ok
}

// spawn starts argv detached: a session of its own without a terminal, no input,
// none of our files. The channel tells how it ended, if it does while we run.
func spawn(d Dirs, id string, argv []string, logFile string) (<-chan error, identity, error) {
	path, err := exec.LookPath(argv[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return nil, identity{}, err
	}
	out, err := openLog(logFile, "supervisor")
	if err != nil {
		return nil, identity{}, err
	}
	defer out.Close()
	cmd := exec.Command(path, argv[1:]...)
	cmd.Dir = d.State
	cmd.Env = append(os.Environ(), EnvID+"="+id)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	ownFiles()
	if err := cmd.Start(); err != nil {
		return nil, identity{}, err
	}
	child := identity{pid: cmd.Process.Pid}
	if f, err := inspect(child.pid); err == nil {
		child.start = f.start
	}
	exited := make(chan error, 1)
	go func() { exited <- outcome(cmd.Wait()); close(exited) }()
	return exited, child, nil
}

// Apply makes s run: starts it, restarts it if its hash differs from what runs,
// or keeps it, and reports whether anything was started. It returns when the
// process has been started; Wait waits until it is ready.
func (c *Client) Apply(ctx context.Context, s Spec) (changed bool, err error) {
	body, err := json.Marshal(s)
	if err != nil {
		return false, err
	}
	var a applied
	err = c.call(ctx, http.MethodPost, "/v1/components", body, &a)
	return a.Changed, err
}

// Remove stops components, at the same time, and forgets them; their logs stay.
// It is no error if there are none of these names.
func (c *Client) Remove(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		return nil
	}
	return c.call(ctx, http.MethodDelete, "/v1/components?"+url.Values{"name": names}.Encode(), nil, nil)
}

// List gives all components in the order in which they were first applied.
func (c *Client) List(ctx context.Context) ([]Status, error) {
	var out []Status
	err := c.call(ctx, http.MethodGet, "/v1/components", nil, &out)
	return out, err
}

// Wait waits until the named components, or all if none is named, are ready. When
// ctx ends before, the error names the first that is not, what was last observed
// of it, and the last lines of its log.
func (c *Client) Wait(ctx context.Context, names ...string) error {
	var last *Status
	for {
		all, err := c.List(ctx)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil {
			if last, err = notReady(all, names); err != nil || last == nil {
				return err
			}
		}
		if ctx.Err() == nil && wait(ctx, waitEvery) == nil {
			continue
		}
		if last == nil { // the time was too short for one answer
			if last, err = c.look(ctx, names); err != nil || last == nil {
				return err
			}
		}
		text := fmt.Sprintf("%s is not ready: %s (pid %d, restarts %d)", last.Name, last.Reason, last.PID, last.Restarts)
		if last.Log != "" {
			return fmt.Errorf("%s: %w; last lines of %s:\n%s", text, context.Cause(ctx), last.Log, lastLines(last.Log))
		}
		return fmt.Errorf("%s: %w", text, context.Cause(ctx))
	}
}

// look asks once more after the end of ctx.
func (c *Client) look(ctx context.Context, names []string) (*Status, error) {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
	defer cancel()
	all, err := c.List(late)
	if err != nil {
		return nil, fmt.Errorf("wait for %s: %w (%w)", strings.Join(names, ", "), context.Cause(ctx), err)
	}
	return notReady(all, names)
}

// notReady gives the first component that is not ready, of those named.
func notReady(all []Status, names []string) (*Status, error) {
	wanted := map[string]bool{}
	for _, n := range names {
		wanted[n] = true
	}
	var first *Status
	for i, s := range all {
		if len(names) > 0 && !wanted[s.Name] {
			continue
		}
		delete(wanted, s.Name)
		if first == nil && !s.Ready {
			first = &all[i]
		}
	}
	for _, n := range names {
		if wanted[n] {
			return nil, fmt.Errorf("wait: %w: %s", errUnknown, n)
		}
	}
	return first, nil
}

// Shutdown stops all components, the last applied first, forgets them, and ends the
// supervisor. It returns when the supervisor is gone.
func (c *Client) Shutdown(ctx context.Context) error {
	f, _ := inspect(c.pid)
	if err := c.call(ctx, http.MethodPost, "/v1/shutdown", nil, nil); err != nil {
		return err
	}
	for c.pid != os.Getpid() {
		now, err := inspect(c.pid)
		if err != nil || now.zombie || now.start != f.start {
			break
		}
		if err := wait(ctx, pollEvery); err != nil {
			return fmt.Errorf("shutdown: supervisor %d has stopped all components but still runs: %w", c.pid, err)
		}
	}
	return nil
}

// call makes one request. ErrNotRunning is in the error if nobody listens.
func (c *Client) call(ctx context.Context, method, path string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://supervisor"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) ||
			errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF) {
			return fmt.Errorf("%w at %s: %w", ErrNotRunning, c.dirs.socket(), err)
		}
		return fmt.Errorf("supervisor at %s: %w", c.dirs.socket(), err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		var f failure
		if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&f); err != nil || f.Error == "" {
			return fmt.Errorf("supervisor at %s: %s", c.dirs.socket(), res.Status)
		}
		return fmt.Errorf("supervisor: %s", f.Error)
	}
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		return fmt.Errorf("supervisor at %s: answer: %w", c.dirs.socket(), err)
	}
	return nil
}

// lastLines gives the end of a log.
func lastLines(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	const most = 8 << 10
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, end-most), io.SeekStart)
	}
	b, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-logLines):], "\n")
}
