package relay

import (
	"time"

	"github.com/fluidos-edge/testbed/controllers/api/accounts"
)

const (
	// failingAfter is how long a batch may wait for an endpoint to take it before
	// the endpoint counts as failing, and how long a refusal counts at least. A
	// connection that the endpoint closed while it was idle costs one attempt, and
	// an endpoint that refuses the lines of one sensor takes those of the next:
	// neither may change the health several times a second.
	failingAfter = 5 * time.Second
	// causeEvery is the least time for which a failing batch shows one cause, so
	// that an endpoint that answers 502 and 503 in turn does not change its account
	// with every attempt.
	causeEvery = 10 * time.Second
)

// health is whether an endpoint takes what is posted to its present URL. It is
// judged when an account is asked for: an attempt that hangs makes the endpoint
// fail by the passing of time alone.
type health struct {
	// lastDelivery is when a whole batch of the present generation was taken.
	lastDelivery time.Time

	// attempting is when the body that is posted now was first posted to this URL;
	// zero between two bodies.
	attempting time.Time
	attempt    failure   // of this body, none before the first
	attemptAt  time.Time // since when attempt is shown
	reported   bool      // news of this body's failing was given

	// refusedSince is when samples were first refused, and refusedLast when they
	// last were; zero if none were, or that is over.
	refusedSince, refusedLast time.Time
	refusal                   failure
	tookSince                 bool // a whole batch was taken after refusedLast
}

// failing returns why the endpoint does not take samples and since when; a
// failure without a reason means that nothing is known to be wrong.
func (h *health) failing(now time.Time) (failure, time.Time) {
	switch {
	case h.attemptFails(now) && h.attempt.reason == "":
		return noAnswer, h.attempting
	case h.attemptFails(now):
		return h.attempt, h.attempting
	case h.refuses(now):
		return h.refusal, h.refusedSince
	}
	return failure{}, time.Time{}
}

func (h *health) attemptFails(now time.Time) bool {
	return !h.attempting.IsZero() && now.Sub(h.attempting) >= failingAfter
}

func (h *health) refuses(now time.Time) bool {
	return !h.refusedSince.IsZero() && !(h.tookSince && now.Sub(h.refusedLast) >= failingAfter)
}

// beginAttempt says where to post to now, and returns a channel that is closed
// when that is no longer the endpoint's URL.
func (e *endpoint) beginAttempt() (target, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.health.attempting.IsZero() {
		e.health.attempting = e.clock.Now()
	}
	return target{e.url, e.generation}, e.urlChanged
}

// failedAttempt takes note of an attempt after which the same body is posted
// again.
func (e *endpoint) failedAttempt(to target, f failure) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if to.url != e.url {
		return
	}
	h, now := &e.health, e.clock.Now()
	if h.attempt.reason == "" || now.Sub(h.attemptAt) >= causeEvery {
		h.attempt, h.attemptAt = f, now
	}
	if h.attemptFails(now) && !h.reported {
		h.reported = true
		signal(e.news)
	}
}

// endAttempts takes note that a body was taken or refused.
func (e *endpoint) endAttempts(to target) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if to.url != e.url {
		return
	}
	h := &e.health
	if h.attemptFails(e.clock.Now()) {
		signal(e.news)
	}
	h.attempting, h.attempt, h.reported = time.Time{}, failure{}, false
}

// refused takes note of a line that was dropped because the endpoint refused it.
func (e *endpoint) refused(to target, f failure) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if to.url != e.url {
		return
	}
	h, now := &e.health, e.clock.Now()
	if !h.refuses(now) {
		h.refusedSince, h.refusal = now, f
		signal(e.news)
	}
	h.refusedLast, h.tookSince = now, false
}

// tookBatch takes note of a batch of which no line was dropped. It counts for
// this generation only if its last attempt was made for it.
func (e *endpoint) tookBatch(to target) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if to.url != e.url {
		return
	}
	h := &e.health
	h.tookSince = true
	if to.generation != e.generation {
		return
	}
	if h.lastDelivery.IsZero() {
		signal(e.news)
	}
	h.lastDelivery = e.clock.Now()
}

// noAnswer is the failure of an attempt that is still waiting, and of one that
// has timed out.
var noAnswer = failure{accounts.ReasonNoAnswer, "no answer within " + failingAfter.String()}
