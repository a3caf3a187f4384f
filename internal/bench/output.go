package bench

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Table renders rows for people.
func Table(rows []Row) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "ROW\tOURS\tPEER\tRATIO\tRANGE\tGOAL\tVERDICT\tPAIRS")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s %s\t%s %s\t%s\t%s..%s\t%s %s\t%s\t%d\n", r.Name, figures(r.Value), r.Unit, figures(r.PeerValue), r.Unit,
			figures(r.Ratio), figures(r.RatioMin), figures(r.RatioMax), r.Op, figures(r.Goal), verdict(r), r.N)
	}
	w.Flush() // a strings.Builder takes everything
	for _, r := range rows {
		fmt.Fprintf(&text, "\n%s: peer: %s;%s; commit %s\n", r.Name, r.Peer, params(r.Params), r.Commit)
	}
	return text.String()
}

func verdict(r Row) string {
	switch {
	case r.Met == nil:
		return fmt.Sprintf("undecided: fewer than %d pairs", MinPairs)
	case *r.Met:
		return "met"
	}
	return "missed"
}

func params(p map[string]any) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(p)) {
		fmt.Fprintf(&b, " %s=%v", k, p[k])
	}
	return b.String()
}

// figures prints three significant figures, or all that stand before the point.
func figures(v float64) string {
	if v >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// WriteFile writes rows as JSON, all or nothing.
func WriteFile(file string, rows []Row) error {
	if rows == nil {
		rows = []Row{}
	}
	b, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".bench-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}
