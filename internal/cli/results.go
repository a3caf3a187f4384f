package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fluidos-edge/testbed/scenarios"
)

const (
	// maxProblemLines is how many lines are printed of what speaks against an assertion.
	maxProblemLines = 10
	// minTitleColumns is the narrowest column that titles are wrapped into.
	minTitleColumns = 20
)

// printResults adds the table of verdicts, then what speaks against each that is no pass,
// then all notes.
func (a *app) printResults(results []scenarios.Result, f demoFlags) {
	a.printVerdicts(results)
	for _, same := range fold(results, func(r scenarios.Result) []string {
		if r.Status == scenarios.Pass {
			return nil
		}
		return []string{strings.Join(problemLines(r), "\n")}
	}) {
		a.printProblem(same.ids, same.first, f)
	}
	notes := fold(results, func(r scenarios.Result) []string { return r.Notes })
	if len(notes) > 0 {
		a.printf("\nnotes:\n")
	}
	for _, n := range notes {
		a.printWrapped("  ", "    ", n.String())
	}
	a.printSum(results)
}

func (a *app) printVerdicts(results []scenarios.Result) {
	header := []string{"ASSERTION", "VERDICT", "SECONDS", "SCENARIO", "TITLE"}
	rows := make([][]string, len(results))
	for i, r := range results {
		took := r.Window()
		if took == "" {
			took = strconv.FormatFloat(r.Seconds, 'f', 1, 64)
		}
		rows[i] = []string{r.Assertion, strings.ToUpper(r.Status), took, r.Scenario, r.Title}
	}
	wrapLastColumn(header, rows, a.columns(a.stdout))
	for i, r := range results {
		code := red
		switch r.Status {
		case scenarios.Pass:
			code = green
		case scenarios.Skip:
			code = yellow
		}
		rows[i][1] = a.colour(code, rows[i][1])
	}
	a.printTable(header, rows)
}

// wrapLastColumn makes a table fit into some columns, if that can be read.
func wrapLastColumn(header []string, rows [][]string, columns int) {
	last := len(header) - 1
	for i := range last {
		width := len(header[i])
		for _, r := range rows {
			width = max(width, utf8.RuneCountInString(r[i]))
		}
		columns -= width + tableGap
	}
	if columns < minTitleColumns {
		return
	}
	for _, r := range rows {
		r[last] = strings.Join(wrap(r[last], columns), "\n")
	}
}

// printProblem adds what speaks against an assertion, and against others alike.
func (a *app) printProblem(ids []string, r scenarios.Result, f demoFlags) {
	groups := problemGroups(r)
	total := len(slices.Concat(groups...))
	budget := maxProblemLines
	if total > budget {
		budget-- // for the line that says so
	}
	lines := slices.Concat(share(budget, groups)...)
	heading := strings.Join(ids, ", ") + " " + strings.ToUpper(r.Status)
	if len(groups[0]) > 0 { // of a reason the first line is always among those
		heading, lines = heading+": "+lines[0], lines[1:]
	}
	a.printf("\n")
	a.printWrapped("", "    ", heading)
	for _, l := range lines {
		a.printWrapped("  ", "    ", l)
	}
	if more := total - budget; more > 0 {
		all := "`" + a.command("demo "+ids[0]+" -o json") + "`"
		if f.junit != "" {
			all = "in " + f.junit + ", or " + all
		}
		a.printf("  ... and %s: %s\n", count(more, "more line"), all)
	}
}

// problemGroups are the lines that speak against an assertion, in the order in which they
// are read: the reason, what differs, and what happened meanwhile.
func problemGroups(r scenarios.Result) [][]string {
	groups := [][]string{nil, r.Differences(), nil}
	if reason := strings.TrimSpace(r.Reason); reason != "" {
		groups[0] = strings.Split(reason, "\n")
	}
	for _, i := range r.Incidents {
		groups[2] = append(groups[2], "meanwhile: "+i.String())
	}
	return groups
}

func problemLines(r scenarios.Result) []string {
	return append([]string{r.Status}, slices.Concat(problemGroups(r)...)...)
}

// share gives each group one line of a budget in turn, until it is spent or all lines are
// given. The groups are cut to what they got.
func share(budget int, groups [][]string) [][]string {
	got := make([]int, len(groups))
	for given := true; given; {
		given = false
		for i, g := range groups {
			if budget > 0 && got[i] < len(g) {
				got[i]++
				budget--
				given = true
			}
		}
	}
	out := make([][]string, len(groups))
	for i, g := range groups {
		out[i] = g[:got[i]]
	}
	return out
}

func (a *app) printSum(results []scenarios.Result) {
	if len(results) == 0 {
		return
	}
	counts := map[string]int{}
	total := 0.0
	for _, r := range results {
		counts[r.Status]++
		total += r.Seconds
	}
	var sum []string
	for _, s := range []struct{ status, word string }{
		{scenarios.Pass, "passed"}, {scenarios.Fail, "failed"}, {scenarios.Error, "not judged"}, {scenarios.Skip, "skipped"},
	} {
		if n := counts[s.status]; n > 0 {
			sum = append(sum, fmt.Sprintf("%d %s", n, s.word))
		}
	}
	a.printf("\n%s in %s (%s, %s)\n", strings.Join(sum, ", "), short(time.Duration(total*float64(time.Second))), results[0].Backend, results[0].Edge)
}

// folded is a text and the assertions that it is true of.
type folded struct {
	text  string
	ids   []string
	first scenarios.Result
}

func (f folded) String() string { return strings.Join(f.ids, ", ") + ": " + f.text }

// fold brings equal texts of several results together, in the order in which they come.
func fold(results []scenarios.Result, texts func(scenarios.Result) []string) []folded {
	var out []folded
	for _, r := range results {
		for _, text := range texts(r) {
			text = strings.TrimSpace(text)
			i := slices.IndexFunc(out, func(f folded) bool { return f.text == text })
			if i < 0 {
				i = len(out)
				out = append(out, folded{text: text, first: r})
			}
			if !slices.Contains(out[i].ids, r.Assertion) {
				out[i].ids = append(out[i].ids, r.Assertion)
			}
		}
	}
	return out
}

// printWrapped adds a text, its first line behind one indent and all others behind
// another. On a terminal it is wrapped.
func (a *app) printWrapped(first, others, text string) {
	var lines []string
	for _, l := range strings.Split(text, "\n") {
		lines = append(lines, wrap(l, a.columns(a.stdout)-len(others))...)
	}
	a.printf("%s%s\n", first, strings.Join(lines, "\n"+others))
}

// wrap breaks a text between words into lines of some columns, if that is a number of
// columns at all. A longer word has a line of its own.
func wrap(text string, columns int) []string {
	if columns <= 0 {
		return []string{text}
	}
	lines := []string{""}
	for _, word := range strings.Fields(text) {
		line := &lines[len(lines)-1]
		switch {
		case *line == "":
			*line = word
		case utf8.RuneCountInString(*line)+1+utf8.RuneCountInString(word) <= columns:
			*line += " " + word
		default:
			lines = append(lines, word)
		}
	}
	return lines
}
