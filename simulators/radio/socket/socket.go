// Package socket listens on unix sockets that only their owner may use. A file
// that a dead process left behind is replaced, a live one is not.
package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
)

// Listen on path with mode 0600. The file appears when connections are accepted
// already, and Close removes it.
func Listen(path string) (net.Listener, error) {
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("socket %s: there is a file that is not a socket (%s)", path, info.Mode())
	default:
		if c, err := net.Dial("unix", path); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("socket %s: another process listens on it", path)
		}
	}
	// Bound beside, restricted, then moved into place: at no time may anyone else
	// connect, and whoever finds the file can connect at once.
	beside := path + "~"
	if err := os.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: beside, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(beside, 0o600); err == nil {
		err = os.Rename(beside, path)
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(beside)
		return nil, fmt.Errorf("socket: %w", err)
	}
	return &listener{UnixListener: l, path: path}, nil
}

type listener struct {
	*net.UnixListener
	path string
	once sync.Once
}

func (l *listener) Close() error {
	err := net.ErrClosed
	l.once.Do(func() { err = errors.Join(os.Remove(l.path), l.UnixListener.Close()) })
	return err
}
