package journal_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fluidos-edge/testbed/internal/journal"
)

func open(t *testing.T, path string) *journal.File {
	t.Helper()
	j, err := journal.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// write lines in one life of a journal.
func write(t *testing.T, path string, lines ...string) {
	t.Helper()
	j := open(t, path)
	for _, l := range lines {
		if err := j.Append([]byte(l)); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAppendsAndEndsATornLine(t *testing.T) {
	for _, tt := range []struct{ name, before, want string }{
		{"new", "", "a\nb\nc\n"},
		{"whole", "whole\n", "whole\na\nb\nc\n"},
		{"torn", "whole\ntor", "whole\ntor\na\nb\nc\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "j.lp")
			if tt.before != "" {
				if err := os.WriteFile(path, []byte(tt.before), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(t, path, "a\n", "")
			write(t, path, "b\nc\n")
			text, err := os.ReadFile(path)
			if err != nil || string(text) != tt.want {
				t.Errorf("%q, %v, want %q", text, err, tt.want)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, error %v", info.Mode(), err)
			}
		})
	}
}

func TestWhatRootMadeBelongsToTheFolder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file to somebody else")
	}
	const somebody = 65532
	dir := t.TempDir()
	if err := os.Chown(dir, somebody, somebody); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "j.lp")
	write(t, path)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t); owner.Uid != somebody || owner.Gid != somebody {
		t.Errorf("it belongs to %d:%d", owner.Uid, owner.Gid)
	}
}

func TestErrors(t *testing.T) {
	if _, err := journal.Open(filepath.Join(t.TempDir(), "none", "j.lp")); !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "journal: ") {
		t.Errorf("in no folder: %v", err)
	}
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("this system has no /dev/full")
	}
	j := open(t, "/dev/full")
	if err := j.Append([]byte("a\n")); err == nil || !strings.HasPrefix(err.Error(), "journal: ") {
		t.Errorf("on a full disk: %v", err)
	}
	_ = j.Close() // such a file cannot be synced either
}

func TestNoJournal(t *testing.T) {
	j := open(t, "")
	if err := errors.Join(j.Append([]byte("a\n")), j.Close()); err != nil {
		t.Error(err)
	}
}
