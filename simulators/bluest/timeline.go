package bluest

import "time"

// Timeline tells from wrapping time stamps how long a board has been counting.
//
// The number of wraps is the one that agrees best with the receiver's own clock,
// so neither a low rate nor lost frames can hide a wrap, however long the
// silence, as long as the two clocks stay within an eighth of a period of each
// other between two frames. A stamp that is further off, or behind its
// predecessor (frames of a board never overtake each other), is a restart.
//
// It is not safe for concurrent use: one Timeline for one characteristic of one
// connection.
type Timeline struct {
	unit     time.Duration
	started  bool
	ticks    int64         // of the last stamp, unwrapped
	received time.Duration // receiver's clock at the last stamp
}

const (
	tsPeriod  = 1 << 16
	tolerance = tsPeriod / 8
)

// NewTimeline starts with the first stamp that it is given.
func NewTimeline(unit time.Duration) *Timeline { return &Timeline{unit: unit} }

// Uptime is the board's time at a stamp, up to a whole number of periods that
// went by before the first one. received is when the frame arrived on any clock
// of the receiver that never steps. After a restart, counting begins anew.
func (t *Timeline) Uptime(ts uint16, received time.Duration) (uptime time.Duration, restarted bool) {
	ticks := int64(ts)
	if t.started {
		expected := t.ticks + int64((received-t.received)/t.unit)
		nearest := ticks + floorDiv(expected-ticks+tsPeriod/2, tsPeriod)*tsPeriod
		off := nearest - expected
		if restarted = nearest < t.ticks || off > tolerance || off < -tolerance; !restarted {
			ticks = nearest
		}
	}
	t.started, t.ticks, t.received = true, ticks, received
	return time.Duration(ticks) * t.unit, restarted
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
