// Package tail follows a journal: a file of lines that is appended to and never
// rewritten.
//
// Invariants: it only reads; a line that is still being written is read once it is
// whole; a file that became shorter is an error.
//
// To try it: go test ./scenarios/tail.
package tail

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Journal follows one file from one moment on. It is not for concurrent use.
type Journal[T any] struct {
	path   string
	parse  func(line []byte) (T, error)
	offset int64
	// skip is true until the line that was being written at that moment has ended.
	skip    bool
	skipped int
}

// New follows the journal at path from its present end: lines that end later are
// read, the one that is being written now is not. A file that is not there yet is
// followed from its start. parse reads one line, its line break included.
func New[T any](path string, parse func(line []byte) (T, error)) (*Journal[T], error) {
	j := &Journal[T]{path: path, parse: parse}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	defer f.Close()
	if j.offset, err = f.Seek(0, io.SeekEnd); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if j.offset > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, j.offset-1); err != nil {
			return nil, fmt.Errorf("journal: %w", err)
		}
		j.skip = last[0] != '\n'
	}
	return j, nil
}

// Read returns what stands in all lines that have ended since the last Read. Lines
// that parse refuses are counted (Skipped) and left out.
func (j *Journal[T]) Read() ([]T, error) {
	f, err := os.Open(j.path)
	if errors.Is(err, fs.ErrNotExist) && j.offset == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if info.Size() < j.offset {
		return nil, fmt.Errorf("journal %s was rewritten: %d bytes, %d were read", j.path, info.Size(), j.offset)
	}
	text, err := io.ReadAll(io.NewSectionReader(f, j.offset, info.Size()-j.offset))
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	end := bytes.LastIndexByte(text, '\n') + 1
	j.offset += int64(end)
	var out []T
	for line := range bytes.Lines(text[:end]) {
		if j.skip {
			j.skip = false
			continue
		}
		if v, err := j.parse(line); err == nil {
			out = append(out, v)
		} else {
			j.skipped++
		}
	}
	return out, nil
}

// Skipped is how many lines could not be read.
func (j *Journal[T]) Skipped() int { return j.skipped }
