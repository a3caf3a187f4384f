package gobuild

import (
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// meter tells how far a Build is.
type meter struct {
	clock  clock.WithTicker
	report func(Progress) // may be nil

	mu        sync.Mutex
	last      Progress
	total     time.Duration // cost of all jobs
	done      time.Duration // cost of finished jobs
	doneTook  time.Duration // and what they really took
	job       job
	began     time.Time
	packages  int // compiled in this job
	downloads int
}

const (
	almost       = 0.97 // of a job that takes longer than it should
	slow, fast   = 6, 0.02
	modulePrefix = "go: "
)

// plan sets what is to be done.
func (m *meter) plan(jobs []job) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, j := range jobs {
		m.total += j.cost()
		m.last.Total += len(j.missing)
	}
}

// say reports something that is no job.
func (m *meter) say(detail string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last.Asset, m.last.Detail = "", detail
	m.send()
}

// begin starts a job.
func (m *meter) begin(j job) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.job, m.began, m.packages, m.downloads = j, m.clock.Now(), 0, 0
	m.last.Asset, m.last.Detail = j.name, "building "+names(j.missing)
	m.send()
}

// line takes in what go says.
func (m *meter) line(text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if what, ok := strings.CutPrefix(text, modulePrefix); ok { // go: downloading k8s.io/api v0.34.4
		m.downloads++
		m.last.Detail = what
		return
	}
	if text == "" || strings.ContainsAny(text, " \t") {
		return // a message, which is in the error if it matters
	}
	m.packages++
	m.last.Detail = "compiling " + text
	for _, b := range m.job.missing {
		if text == b.pkg {
			m.last.Detail = "linking " + b.name
		}
	}
}

// tick reports every second until stopped.
func (m *meter) tick() (stop func()) {
	t := m.clock.NewTicker(time.Second)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-t.C():
				m.mu.Lock()
				m.send()
				m.mu.Unlock()
			case <-quit:
				return
			}
		}
	}()
	return func() { t.Stop(); close(quit); <-done }
}

// end finishes the job.
func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += m.job.cost()
	m.doneTook += m.clock.Since(m.began)
	m.last.Done += len(m.job.missing)
	m.last.Detail = "built " + names(m.job.missing)
	m.job = job{}
	m.send()
}

// send computes and reports. m.mu is held, so that reports come one by one.
func (m *meter) send() {
	if m.total > 0 {
		var running time.Duration
		if m.job.name != "" {
			running = m.clock.Since(m.began)
		}
		f, left := estimate(m.total, m.done, m.doneTook, m.job.cost(), running, m.packages, m.job.packages)
		m.last.Fraction = max(m.last.Fraction, f)
		m.last.Left = left.Round(time.Second)
	}
	if m.report != nil {
		m.report(m.last)
	}
}

// estimate gives how much is done and what is left. Costs are known from other
// machines; how much faster or slower this one is shows in what the finished jobs
// took, and within a job in the packages that it has compiled.
func estimate(total, done, doneTook, cost, running time.Duration, packages, expected int) (float64, time.Duration) {
	pace := 1.0
	if done > 0 {
		pace = min(max(doneTook.Seconds()/done.Seconds(), fast), slow)
	}
	var part float64
	if cost > 0 {
		part = running.Seconds() / (cost.Seconds() * pace)
		if expected > 0 {
			part = max(part, float64(packages)/float64(expected))
		}
		part = min(part, almost)
	}
	at := done.Seconds() + cost.Seconds()*part
	return at / total.Seconds(), time.Duration((total.Seconds() - at) * pace * float64(time.Second))
}
