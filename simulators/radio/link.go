package radio

import (
	"sync/atomic"

	"github.com/google/uuid"
)

// Link is a connection, from the board's side.
type Link struct {
	peer    *peer // nil if nobody is at the other end
	handle  uint32
	station *station
	air     *air // nil if the air loses nothing

	notified atomic.Int64
	ended    string // why it is gone; peer.mu guards it
}

// Discard connects a board with nobody: what it notifies is counted and thrown
// away. It is for measuring what boards cost without a radio.
func Discard(p Peripheral) (*Link, error) {
	l := &Link{}
	return l, p.Connect(l)
}

// Notified is how many notifications the link has taken.
func (l *Link) Notified() int64 { return l.notified.Load() }

// Ended says why the link is gone, as far as the radio knows; "" while it is there.
func (l *Link) Ended() string {
	if l.peer == nil {
		return ""
	}
	l.peer.mu.Lock()
	defer l.peer.mu.Unlock()
	return l.ended
}

// Notify sends a notification without waiting. emitted is when the board emitted it,
// host monotonic ns, and wall the same on the wall clock, Unix ns, 0 if that is not
// known. Notify reports false when the link is gone, also because the client has not
// read enough; the board is told by Disconnected.
func (l *Link) Notify(characteristic string, value []byte, emitted, wall int64) bool {
	id, err := uuid.Parse(characteristic)
	if err != nil || len(value) > maxValue {
		return false
	}
	ok := true
	if l.peer != nil {
		ok = l.send(pdu{kind: kindNotification, conn: l.handle, emitted: emitted, wall: wall, uuid: id, value: value})
	}
	if ok {
		l.notified.Add(1)
	}
	return ok
}

func (l *Link) send(p pdu) bool {
	if l.air != nil {
		return l.peer.s.resend.send(l, p, l.peer.s)
	}
	return l.up() && l.peer.put(p)
}

// Drop ends the connection from the board's side; the client is told why.
func (l *Link) Drop(why string) {
	if l.peer == nil || !l.end(why) {
		return
	}
	l.peer.s.detach(l)
	l.peer.put(pdu{kind: kindDisconnected, conn: l.handle, value: []byte(why)})
}

// lose ends the connection for both sides; the client is told why.
func (l *Link) lose(why string) {
	if !l.end(why) {
		return
	}
	l.peer.s.detach(l)
	l.peer.put(pdu{kind: kindDisconnected, conn: l.handle, value: []byte(why)})
	l.station.Disconnected(l)
}

// end forgets the connection and reports whether it was there.
func (l *Link) end(why string) bool {
	l.peer.mu.Lock()
	defer l.peer.mu.Unlock()
	up := l.peer.links[l.handle] == l
	if up {
		delete(l.peer.links, l.handle)
		l.ended = why
	}
	return up
}

func (l *Link) up() bool {
	l.peer.mu.Lock()
	defer l.peer.mu.Unlock()
	return !l.peer.dropped && l.peer.links[l.handle] == l
}
