package sink

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/fluidos-edge/testbed/scenarios/ledger"
)

// Journal follows a journal from one moment on. It is not for concurrent use.
type Journal struct {
	path   string
	offset int64
	// skip is true until the line that was being written at that moment has ended.
	skip    bool
	skipped int
}

// Tail follows the journal at path from its present end: lines that end later
// are read, the one that is being written now is not. A file that is not there
// yet is followed from its start.
func Tail(path string) (*Journal, error) {
	j := &Journal{path: path}
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

// Read returns the samples of all lines that have ended since the last Read.
// Lines that are no samples are counted (Skipped) and left out.
func (j *Journal) Read() ([]ledger.Sample, error) {
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
	var samples []ledger.Sample
	for line := range bytes.Lines(text[:end]) {
		if j.skip {
			j.skip = false
			continue
		}
		if s, err := ParseLine(line); err == nil {
			samples = append(samples, s)
		} else {
			j.skipped++
		}
	}
	return samples, nil
}

// Skipped is how many lines were no samples.
func (j *Journal) Skipped() int { return j.skipped }
