// Package journal is a file that a component appends lines to while it runs: its own
// record of what it did, which others judge it by.
//
// What holds:
//   - What was appended stands in the order of the appends, and is never rewritten.
//   - A line that a crash or a full disk left torn is ended when the file is next
//     opened, so that no other line becomes part of it.
//   - The file has mode 0600. One that root makes belongs to the owner of its folder,
//     who is to read it.
//
// Whoever keeps a journal ends when it cannot be written: a line that is missing
// would make every judgement on it wrong.
//
// To try it: journal_test.go.
package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// File is an open journal. It is safe for concurrent use.
type File struct {
	mu sync.Mutex
	f  *os.File // nil keeps none
}

// Open opens the journal at path, or makes it; "" keeps none, and what is appended
// then goes nowhere.
func Open(path string) (*File, error) {
	if path == "" {
		return &File{}, nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if err := errors.Join(endLine(f), handOver(f, path)); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("journal: %w", err)
	}
	return &File{f: f}, nil
}

// handOver gives a file that root made to the owner of its folder.
func handOver(f *os.File, path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	folder, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	owner, ok := folder.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return f.Chown(int(owner.Uid), int(owner.Gid))
}

// endLine ends a torn line.
func endLine(f *os.File) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || end == 0 {
		return err
	}
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, end-1); err != nil {
		return err
	}
	if last[0] == '\n' {
		return nil
	}
	_, err = f.Write([]byte{'\n'})
	return err
}

// Append writes lines, each with its line break, in one write.
func (j *File) Append(lines []byte) error {
	if j.f == nil || len(lines) == 0 {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.f.Write(lines); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// Close writes the file to the disk and closes it.
func (j *File) Close() error {
	if j.f == nil {
		return nil
	}
	if err := errors.Join(j.f.Sync(), j.f.Close()); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}
