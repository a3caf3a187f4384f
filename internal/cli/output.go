package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"

	"github.com/fluidos-edge/testbed/testbed"
)

// printJSON makes v the result.
func (a *app) printJSON(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write result as JSON: %w", err)
	}
	a.out.Write(append(b, '\n'))
	return nil
}

func (a *app) printf(format string, args ...any) { fmt.Fprintf(&a.out, format, args...) }

// tableGap is the space between two columns.
const tableGap = 3

// printTable adds a table without borders, as kubectl's.
func (a *app) printTable(header []string, rows [][]string) {
	w := table.NewWriter()
	style := table.StyleDefault
	style.Box = table.BoxStyle{PaddingRight: strings.Repeat(" ", tableGap)}
	style.Options = table.OptionsNoBordersAndSeparators
	style.Format.Header = text.FormatDefault
	w.SetStyle(style)
	w.AppendHeader(row(header))
	for _, r := range rows {
		w.AppendRow(row(r))
	}
	for line := range strings.Lines(w.Render()) {
		a.out.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
}

func row(cells []string) table.Row {
	r := make(table.Row, len(cells))
	for i, c := range cells {
		if c == "" {
			c = "-"
		}
		r[i] = c
	}
	return r
}

// colour wraps a word in an ANSI colour if stdout shows it and NO_COLOR does not forbid it.
func (a *app) colour(code int, s string) string {
	if os.Getenv("NO_COLOR") != "" || terminal(a.stdout, term.IsTerminal) == nil {
		return s
	}
	return "\x1b[" + strconv.Itoa(code) + "m" + s + "\x1b[0m"
}

const (
	red    = 31
	green  = 32
	yellow = 33
)

// printStatus is the table of what runs and how to reach it.
func (a *app) printStatus(s *testbed.Status) {
	a.printf("testbed %s: %s", s.Name, s.Phase)
	if s.Backend != "" {
		a.printf(" (%s, %s)", s.Backend, s.Edge)
	}
	a.printf("\n")
	if len(s.Clusters) > 0 {
		rows := make([][]string, len(s.Clusters))
		for i, c := range s.Clusters {
			rows[i] = []string{c.Name, c.Role, yesNo(c.Ready), c.Server, c.Kubeconfig}
		}
		a.printf("\n")
		a.printTable([]string{"CLUSTER", "ROLE", "READY", "SERVER", "KUBECONFIG"}, rows)
	}
	if len(s.Components) > 0 {
		rows := make([][]string, len(s.Components))
		for i, c := range s.Components {
			ready := yesNo(c.Ready)
			if c.External {
				ready = "external"
			}
			pid, rss := "", ""
			if c.PID > 0 {
				pid = strconv.Itoa(c.PID)
			}
			if c.RSSBytes > 0 {
				rss = size(c.RSSBytes)
			}
			reason := firstLine(c.Reason)
			if c.Restarts > 0 {
				reason = strings.TrimPrefix(reason+"; restarted "+strconv.Itoa(c.Restarts)+"x", "; ")
			}
			if reason != "" && c.Log != "" {
				reason += "; see " + c.Log
			}
			rows[i] = []string{c.Name, ready, pid, rss, c.URL, reason}
		}
		a.printf("\n")
		a.printTable([]string{"COMPONENT", "READY", "PID", "RSS", "URL", "REASON"}, rows)
		// Whole paths would make every line too long for a terminal.
		switch log := s.Components[0].Log; {
		case s.StateDir != "":
			a.printf("\nlogs: %s\n", filepath.Join(s.StateDir, "logs"))
		case log != "":
			a.printf("\nlogs: %s\n", filepath.Dir(log))
		}
	}
	if len(s.Phases) > 0 {
		rows := make([][]string, len(s.Phases))
		for i, p := range s.Phases {
			rows[i] = []string{p.Name, strconv.FormatFloat(p.Seconds, 'f', 1, 64)}
		}
		a.printf("\n")
		a.printTable([]string{"PHASE", "SECONDS"}, rows)
	}
}

// printExternal says how to start what somebody else runs.
func (a *app) printExternal(s *testbed.Status) {
	for _, c := range s.Components {
		if c.External {
			a.printf("\n%s is yours to run:\n  %s\n", c.Name, strings.Join(quoted(c.Args), " "))
		}
	}
}

// quoted arguments can be pasted into a shell.
func quoted(args []string) []string {
	out := make([]string, len(args))
	for i, arg := range args {
		if arg == "" || strings.ContainsFunc(arg, func(r rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+./:,@%", r)
		}) {
			arg = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
		out[i] = arg
	}
	return out
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func size(bytes int64) string {
	if bytes <= 0 {
		return ""
	}
	return strconv.FormatInt((bytes+1<<19)>>20, 10) + " MiB"
}

// short is a duration for people: 8.3s, 2m05s.
func short(d time.Duration) string {
	if d < time.Minute {
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	}
	d = d.Round(time.Second)
	if d < time.Hour {
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}
