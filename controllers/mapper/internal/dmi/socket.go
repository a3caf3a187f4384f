package dmi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"time"

	"google.golang.org/grpc"

	api "github.com/fluidos-edge/testbed/controllers/api/dmi/v1beta1"
)

// look is how often the agent looks whether its socket is still there.
const look = 2 * time.Second

// listen serves the own socket until ctx ends, and makes it anew if somebody else
// removed it. It closes listening when it is there for the first time.
func (a *Agent) listen(ctx context.Context, listening chan<- struct{}) {
	s := grpc.NewServer(grpc.MaxConcurrentStreams(16))
	api.RegisterDeviceMapperServiceServer(s, server{Agent: a})
	defer s.Stop()
	wait := a.options.Pause
	var said string
	for ctx.Err() == nil {
		l, mine, err := listenOn(ctx, a.options.Listen)
		if err != nil {
			err = fmt.Errorf("own socket: %w", err)
			if said != err.Error() {
				a.options.Log.Warn("cannot listen", "error", err)
			}
			said = err.Error()
			a.state.set(&a.state.socket, err)
			pause(ctx, wait)
			wait = min(2*wait, maxPause)
			continue
		}
		wait, said = a.options.Pause, ""
		a.state.set(&a.state.socket, nil)
		done := make(chan struct{})
		go func() {
			defer close(done)
			// It ends with the listener; the calls on its connections go on.
			_ = s.Serve(l)
		}()
		if listening != nil {
			close(listening)
			listening = nil
		} else {
			notify(a.remade)
		}
		if a.watch(ctx, mine, done) {
			pause(ctx, a.options.Pause)
		}
		if isMine(a.options.Listen, mine) {
			os.Remove(a.options.Listen)
		}
		l.Close()
		<-done
	}
}

// watch returns when the own socket is no longer there, or ctx has ended, or, true, when
// nobody serves it any more.
func (a *Agent) watch(ctx context.Context, mine fs.FileInfo, served <-chan struct{}) (ended bool) {
	t := time.NewTicker(look)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if !isMine(a.options.Listen, mine) {
				a.options.Log.Warn("own socket is gone; making it anew", "socket", a.options.Listen)
				return false
			}
		case <-served:
			a.options.Log.Warn("own socket takes no more calls; making it anew", "socket", a.options.Listen)
			return true
		case <-ctx.Done():
			return false
		}
	}
}

func isMine(path string, mine fs.FileInfo) bool {
	is, err := os.Lstat(path)
	return err == nil && os.SameFile(is, mine)
}

// listenOn a unix socket that only this user may connect to. One that is there
// already is replaced if nobody answers on it, and anything that is no socket is
// left alone. The socket appears ready to use: it is made under another name.
func listenOn(ctx context.Context, path string) (l *net.UnixListener, mine fs.FileInfo, err error) {
	switch is, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, nil, err
	case is.Mode().Type() != fs.ModeSocket:
		return nil, nil, fmt.Errorf("%s: is there and no socket", path)
	default:
		if conn, err := (&net.Dialer{Timeout: look}).DialContext(ctx, "unix", path); err == nil {
			conn.Close()
			return nil, nil, fmt.Errorf("%s: somebody else serves it", path)
		} else if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, nil, err
		}
	}
	made := fmt.Sprintf("%s.%04x", path, rand.N(1<<16))
	if l, err = net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"}); err != nil {
		return nil, nil, err
	}
	l.SetUnlinkOnClose(false)
	defer func() {
		if err != nil {
			l.Close()
			os.Remove(made)
		}
	}()
	if err = os.Chmod(made, 0o600); err != nil {
		return nil, nil, err
	}
	if mine, err = os.Lstat(made); err != nil {
		return nil, nil, err
	}
	if err = os.Rename(made, path); err != nil {
		return nil, nil, err
	}
	return l, mine, nil
}
