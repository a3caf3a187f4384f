package tail_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/scenarios/tail"
)

func line(n int) string { return fmt.Sprintf("line number %d of a journal\n", n) }

func parse(text []byte) (n int, err error) {
	_, err = fmt.Sscanf(string(text), "line number %d of a journal", &n)
	return n, err
}

func TestJournalFollows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.lp")
	write := func(text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	read := func(j *tail.Journal[int], want ...int) {
		t.Helper()
		got, err := j.Read()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	follow := func() *tail.Journal[int] {
		t.Helper()
		j, err := tail.New(path, parse)
		if err != nil {
			t.Fatal(err)
		}
		return j
	}

	fromNothing := follow()
	read(fromNothing)
	write(line(1) + line(2))
	read(fromNothing, 1, 2)
	read(fromNothing)

	late := follow()
	half := line(3)
	write(half[:20])
	read(late)
	inTheMiddle := follow()
	write(half[20:] + line(4))
	read(late, 3, 4)
	read(inTheMiddle, 4) // what is left of 3 is no line
	read(fromNothing, 3, 4)

	write("line nu\nanother line\n" + line(5))
	read(late, 5)
	if got := late.Skipped(); got != 2 {
		t.Errorf("%d lines skipped, want 2", got)
	}
	if err := os.WriteFile(path, []byte(line(1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := late.Read(); err == nil || !strings.Contains(err.Error(), "rewritten") {
		t.Errorf("error %v of a journal that was rewritten", err)
	}
}
