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

	// posting is when the body in flight was first posted to this URL; zero between
	// two bodies.
	posting  time.Time
	cause    failure   // why an attempt with this body failed; none before the first
	causeAt  time.Time // when cause was set
	reported bool      // news was given that this body is not taken

	// stuckSince is when a body of the batch in flight was first posted that was not
	// taken for failingAfter; zero if there was none. It counts until the last body
	// of the batch is settled: before, nothing better is known.
	stuckSince time.Time
	stuck      failure

	// refusedSince is when samples were first refused, and refusedLast when they
	// last were; zero if none were.
	refusedSince, refusedLast time.Time
	refusal                   failure
	tookSince                 bool // a whole batch was taken after refusedLast
}

// failing returns why the endpoint does not take samples and since when; a
// failure without a reason means that nothing is known to be wrong.
func (h *health) failing(now time.Time) (failure, time.Time) {
	since := h.posting
	if !h.stuckSince.IsZero() {
		since = h.stuckSince
	}
	switch {
	case h.waits(now) && h.cause.reason == "":
		return noAnswer, since
	case h.waits(now):
		return h.cause, since
	case !h.stuckSince.IsZero():
		return h.stuck, since
	case h.refuses(now):
		return h.refusal, h.refusedSince
	}
	return failure{}, time.Time{}
}

// waits is true if the body in flight was not taken for too long.
func (h *health) waits(now time.Time) bool {
	return !h.posting.IsZero() && now.Sub(h.posting) >= failingAfter
}

// refuses is true while a refusal counts.
func (h *health) refuses(now time.Time) bool {
	return !h.refusedSince.IsZero() && !(h.tookSince && now.Sub(h.refusedLast) >= failingAfter)
}

// beginAttempt says where to post to now, and returns a channel that is closed
// when that is no longer the endpoint's URL.
func (e *endpoint) beginAttempt() (target, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.health.posting.IsZero() {
		e.health.posting = e.clock.Now()
	}
	return target{e.url, e.generation}, e.urlChanged
}

// failedAttempt records an attempt after which the same body is posted again.
func (e *endpoint) failedAttempt(to target, f failure) {
	e.record(to, func(h *health, now time.Time) {
		if h.cause.reason == "" || now.Sub(h.causeAt) >= causeEvery {
			h.cause, h.causeAt = f, now
		}
		if h.waits(now) && !h.reported {
			h.reported = true
			signal(e.news)
		}
	})
}

// endBody records that a body was taken, or refused as a whole.
func (e *endpoint) endBody(to target) {
	e.record(to, func(h *health, now time.Time) {
		if h.waits(now) {
			h.stuck, h.stuckSince = h.failing(now)
		}
		h.posting, h.cause, h.reported = time.Time{}, failure{}, false
	})
}

// refused records a line that was dropped because the endpoint refused it.
func (e *endpoint) refused(to target, f failure) {
	e.record(to, func(h *health, now time.Time) {
		if !h.refuses(now) {
			h.refusedSince, h.refusal = now, f
			signal(e.news)
		}
		h.refusedLast, h.tookSince = now, false
	})
}

// endBatch records that all lines of a batch are settled, and whether none was
// refused. It counts as a delivery of this generation only if its last attempt was
// made for it.
func (e *endpoint) endBatch(to target, whole bool) {
	e.record(to, func(h *health, now time.Time) {
		if !h.stuckSince.IsZero() || whole && to.generation == e.generation && h.lastDelivery.IsZero() {
			signal(e.news)
		}
		h.stuck, h.stuckSince = failure{}, time.Time{}
		h.tookSince = h.tookSince || whole
		if whole && to.generation == e.generation {
			h.lastDelivery = now
		}
	})
}

// record changes the health by what an attempt showed, unless the endpoint has
// another URL since.
func (e *endpoint) record(to target, change func(*health, time.Time)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if to.url == e.url {
		change(&e.health, e.clock.Now())
	}
}

// noAnswer is the failure of an attempt that is still waiting, and of one that
// has timed out.
var noAnswer = failure{accounts.ReasonNoAnswer, "no answer within " + failingAfter.String()}
