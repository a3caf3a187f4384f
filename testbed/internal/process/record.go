package process

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// record is what is known of a component when nobody else is left to ask. It is
// written twice for each start: without a process before it, with one after.
type record struct {
	ID    string `json:"id"`    // of the testbed
	Order int    `json:"order"` // of its first Apply
	Spec  Spec   `json:"spec"`
	PID   int    `json:"pid,omitempty"`
	Start string `json:"start,omitempty"` // the process' start time, as inspect tells it
}

// decodeRecord reads a record, and refuses one that nothing could be started from.
func decodeRecord(b []byte) (record, error) {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, err
	}
	if r.ID == "" || r.Order < 0 || r.PID < 0 {
		return record{}, fmt.Errorf("id %q, order %d, pid %d make no record", r.ID, r.Order, r.PID)
	}
	return r, r.Spec.check()
}

// save writes a record at once or not at all.
func (d Dirs) save(r record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(d.components(), ".new-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), d.record(r.Spec.Name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// forget removes a record.
func (d Dirs) forget(name string) error {
	if err := os.Remove(d.record(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// forgetAll removes all records, readable or not.
func (d Dirs) forgetAll() error {
	files, err := os.ReadDir(d.components())
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		errs = append(errs, os.Remove(filepath.Join(d.components(), f.Name())))
	}
	return errors.Join(errs...)
}

// records reads all records of testbed id in their order, and says what could not be
// read. Half-written files of a killed supervisor are removed.
func (d Dirs) records(id string) ([]record, error) {
	files, err := os.ReadDir(d.components())
	if err != nil {
		return nil, err
	}
	var out []record
	var errs []error
	for _, f := range files {
		path := filepath.Join(d.components(), f.Name())
		if strings.HasPrefix(f.Name(), ".new-") {
			errs = append(errs, os.Remove(path))
			continue
		}
		if filepath.Ext(path) != ".json" {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		r, err := decodeRecord(b)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", path, err))
		case r.ID != id:
			errs = append(errs, fmt.Errorf("%s: belongs to testbed %q", path, r.ID))
		default:
			out = append(out, r)
		}
	}
	slices.SortStableFunc(out, func(a, b record) int { return cmp.Compare(a.Order, b.Order) })
	return out, errors.Join(errs...)
}
