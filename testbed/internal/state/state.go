// Package state is what a testbed keeps on disk: where, and the record from
// which it is found again. The record is written before what it speaks of is
// made, so that what a killed run left can always be removed.
package state

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"syscall"
	"time"

	"github.com/adrg/xdg"
	"github.com/gofrs/flock"

	"github.com/fluidos-edge/testbed/testbed/topology"
)

// Ports are chosen from below the range that kernels draw ephemeral ports from,
// so that no outgoing connection can take one that a stopped component keeps.
const portFirst, portLast = 20000, 32000

// Record is what a testbed is.
type Record struct {
	// ID is in the environment of every process of the testbed.
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Backend  string    `json:"backend"`
	Edge     string    `json:"edge"`
	Created  time.Time `json:"created"`
	BinDir   string    `json:"binDir"`
	External []string  `json:"external,omitempty"`
	// Images is the folder with archives of images that Up was given.
	Images   string             `json:"images,omitempty"`
	RunDir   string             `json:"runDir"`
	Topology *topology.Topology `json:"topology"`
	// Ports by purpose, "<component>#<port>"; once chosen they are kept.
	Ports map[string]int `json:"ports"`
	// Secrets by purpose: passwords, keys in hex.
	Secrets map[string]string `json:"secrets"`
	// Complete is true after an Up that ended well.
	Complete bool `json:"complete"`
	// Phases of the last Up.
	Phases []Phase `json:"phases,omitempty"`
}

// Phase is how long a part of Up took.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// Root holds the state of all testbeds of this user.
func Root() string { return filepath.Join(stateHome(), "testbed") }

// Dir holds the state of one testbed.
func Dir(name string) string { return filepath.Join(Root(), name) }

// Cache holds what is kept when testbeds go.
func Cache() string {
	if d := os.Getenv("XDG_CACHE_HOME"); d != "" {
		return filepath.Join(d, "testbed")
	}
	return filepath.Join(xdg.CacheHome, "testbed")
}

func stateHome() string {
	if d := os.Getenv("XDG_STATE_HOME"); d != "" {
		return d
	}
	return xdg.StateHome
}

// runRoot holds sockets: their paths are limited to 104 bytes on some systems.
func runRoot() string {
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" && len(d) < 30 {
		if info, err := os.Stat(d); err == nil && info.IsDir() {
			return filepath.Join(d, "testbed")
		}
	}
	return filepath.Join(os.TempDir(), "testbed-"+strconv.Itoa(os.Getuid()))
}

// Lock keeps other commands from changing this testbed; waiting is told once if
// somebody else has it. The lock is the folder itself, so it leaves nothing behind.
func Lock(ctx context.Context, name string, waiting func()) (unlock func(), err error) {
	for {
		if err := os.MkdirAll(Dir(name), 0o700); err != nil {
			return nil, err
		}
		l := flock.New(Dir(name), flock.SetFlag(os.O_RDONLY))
		ok, err := l.TryLock()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed between the two lines above
		}
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", Dir(name), err)
		}
		if !ok {
			if waiting != nil {
				waiting()
				waiting = nil
			}
			_, err := l.TryLockContext(ctx, 100*time.Millisecond)
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed by the one that had it
			}
			if err != nil {
				return nil, fmt.Errorf("another command is changing testbed %s: %w", name, err)
			}
		}
		// The folder may have been removed, and made again, while we waited.
		now, err := os.Stat(Dir(name))
		held, herr := l.Stat()
		if err == nil && herr == nil && os.SameFile(now, held) {
			return func() { _ = l.Close() }, nil
		}
		_ = l.Close()
	}
}

// New makes a record, with an id and a run folder of its own.
func New(name string) (*Record, error) {
	id, err := randomHex(8)
	if err != nil {
		return nil, err
	}
	return &Record{
		ID: id, Name: name, Created: time.Now().UTC(), RunDir: filepath.Join(runRoot(), id),
		Ports: map[string]int{}, Secrets: map[string]string{},
	}, nil
}

// Load reads a testbed's record; the error is fs.ErrNotExist if there is none.
func Load(name string) (*Record, error) {
	b, err := os.ReadFile(filepath.Join(Dir(name), "testbed.json"))
	if err != nil {
		return nil, err
	}
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(Dir(name), "testbed.json"), err)
	}
	return &r, nil
}

// Save writes the record, whole or not at all.
func (r *Record) Save() error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(filepath.Join(Dir(r.Name), "testbed.json"), b)
}

// Remove removes all that a testbed keeps on disk, and folders that are empty then.
func Remove(name string) error {
	if r, err := Load(name); err == nil {
		if err := os.RemoveAll(r.RunDir); err != nil {
			return err
		}
		_ = os.Remove(filepath.Dir(r.RunDir))
	}
	if err := os.RemoveAll(Dir(name)); err != nil {
		return err
	}
	_ = os.Remove(Root())
	return nil
}

// Names of all testbeds of this user.
func Names() []string {
	entries, _ := os.ReadDir(Root())
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	sort.Strings(names)
	return names
}

// Secret returns the secret for a purpose, made on first use: n random bytes in hex.
func (r *Record) Secret(purpose string, n int) (string, error) {
	if s := r.Secrets[purpose]; s != "" {
		return s, nil
	}
	s, err := randomHex(n)
	if err == nil {
		r.Secrets[purpose] = s
	}
	return s, err
}

// ChoosePorts gives every purpose a port that is free now and that no other
// testbed of this user keeps; those chosen before stay.
func (r *Record) ChoosePorts(purposes []string) error {
	lock := flock.New(Root(), flock.SetFlag(os.O_RDONLY))
	if err := lock.Lock(); err != nil {
		return err
	}
	defer lock.Close()
	taken := map[int]bool{}
	for _, p := range r.Ports {
		taken[p] = true
	}
	for _, name := range Names() {
		other, err := Load(name)
		if err != nil || name == r.Name {
			continue
		}
		for _, p := range other.Ports {
			taken[p] = true
		}
	}
	next := portFirst
	for _, purpose := range purposes {
		if r.Ports[purpose] != 0 {
			continue
		}
		for ; ; next++ {
			if next > portLast {
				return fmt.Errorf("no free port for %s between %d and %d on 127.0.0.1", purpose, portFirst, portLast)
			}
			if !taken[next] && free(next) {
				r.Ports[purpose] = next
				taken[next] = true
				break
			}
		}
	}
	return r.Save() // before the lock goes: the next one sees our ports
}

func free(port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}

// WriteFile writes a file of ours, 0600, whole or not at all.
func WriteFile(file string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	tmp := file + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}

// Absent tells whether an error of Load means that there is no such testbed.
func Absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

func randomHex(n int) (string, error) {
	b := make([]byte, n)
	_, err := rand.Read(b)
	return hex.EncodeToString(b), err
}
