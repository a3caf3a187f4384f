package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/fluidos-edge/testbed/testbed"
)

// progress shows phases on stderr while they run. On a terminal each running
// phase has a line with its elapsed time and, where known, the time left; a
// finished one stays. Elsewhere there is one line for each finished phase, and
// for a long one a line at most every 30 seconds, so that a CI log moves.
type progress struct {
	w       io.Writer
	now     func() time.Time
	width   func() int // columns; 0 if there is no terminal
	mu      sync.Mutex
	running []*phase
	drawn   int // lines of the running phases on the screen
	frame   int
	stop    chan struct{}
	stopped chan struct{}
}

// phase is a running one.
type phase struct {
	testbed.Event
	started time.Time
	said    float64 // seconds when it last had a line in a log
}

const (
	maxLive     = 12 // lines; more than the terminal has could not be erased
	redrawEvery = 120 * time.Millisecond
	sayEvery    = 30 // seconds
)

// progress starts the display; call end before anything else is written to stderr.
func (a *app) progress() *progress {
	p := &progress{w: a.stderr, now: time.Now, width: func() int { return 0 }}
	if a.quiet {
		p.w = io.Discard
		return p
	}
	if f := terminal(a.stderr, term.IsTerminal); f != nil && !a.verbose { // a log would tear the live lines
		p.width = func() int {
			if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
				return columns
			}
			return 80
		}
		p.stop, p.stopped = make(chan struct{}), make(chan struct{})
		go p.animate()
	}
	return p
}

// whenInterrupted says at once what a first Ctrl-C does.
func (p *progress) whenInterrupted(ctx context.Context, what string) (forget func() bool) {
	return context.AfterFunc(ctx, func() {
		if errors.Is(context.Cause(ctx), errTimeout) {
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.line("interrupted: " + what)
	})
}

// line stays on the screen, above the live ones.
func (p *progress) line(s string) {
	if p.width() > 0 {
		p.draw(s)
		return
	}
	fmt.Fprintln(p.w, s)
}

func (p *progress) animate() {
	defer close(p.stopped)
	tick := time.NewTicker(redrawEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
			p.mu.Lock()
			p.frame++
			p.draw("")
			p.mu.Unlock()
		}
	}
}

// end clears the live lines.
func (p *progress) end() {
	if p.stop != nil {
		close(p.stop)
		<-p.stopped
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = nil
	p.draw("")
}

func (p *progress) tell(e testbed.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := -1
	for i, r := range p.running {
		if r.Phase == e.Phase {
			at = i
		}
	}
	switch e.State {
	case "start", "progress":
		if at < 0 {
			p.running = append(p.running, &phase{Event: e, started: p.now().Add(-seconds(e.Seconds)), said: e.Seconds})
			at = len(p.running) - 1
		}
		r := p.running[at]
		r.Event = e
		if p.width() == 0 && e.Seconds-r.said >= sayEvery {
			r.said = e.Seconds
			fmt.Fprintf(p.w, "     %-28s %7s  %s\n", e.Phase, short(seconds(e.Seconds)), about(e))
			return
		}
		if p.width() > 0 {
			p.draw("")
		}
	case "done", "fail":
		if at >= 0 {
			p.running = append(p.running[:at], p.running[at+1:]...)
		}
		mark := "ok  "
		if e.State == "fail" {
			mark = "FAIL"
		}
		line := strings.TrimRight(fmt.Sprintf("%s %-28s %7s  %s", mark, e.Phase, short(seconds(e.Seconds)), firstLine(e.Detail)), " ")
		p.line(line)
	}
}

// draw replaces the live lines, with a line that stays above them.
func (p *progress) draw(finished string) {
	width := p.width()
	if width == 0 || p.drawn == 0 && len(p.running) == 0 && finished == "" {
		return
	}
	var b strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.drawn)
	}
	b.WriteString("\r\x1b[J")
	if finished != "" {
		b.WriteString(finished + "\n")
	}
	live := p.running[:min(len(p.running), maxLive)]
	for _, r := range live {
		elapsed := p.now().Sub(r.started)
		line := fmt.Sprintf("%c    %-28s %7s  %s", `|/-\`[p.frame%4], r.Phase, short(elapsed), about(r.Event))
		b.WriteString(cut(line, width-1) + "\n")
	}
	p.drawn = len(live)
	_, _ = io.WriteString(p.w, b.String())
}

// about is what is known of a running phase.
func about(e testbed.Event) string {
	var parts []string
	if e.Detail != "" {
		parts = append(parts, firstLine(e.Detail))
	}
	if e.Fraction > 0 {
		parts = append(parts, fmt.Sprintf("%.0f%%", 100*min(e.Fraction, 1)))
	}
	if e.Left > 0 {
		parts = append(parts, "about "+short(e.Left.Round(time.Second))+" left")
	}
	return strings.Join(parts, ", ")
}

// cut shortens a line to n columns; one that wraps could not be erased.
func cut(s string, n int) string {
	r := []rune(strings.TrimRight(s, " "))
	if len(r) > n && n > 3 {
		return string(r[:n-3]) + "..."
	}
	return string(r)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
