// Package radio is the simulated Bluetooth Low Energy radio between boards and
// the mapper of one edge node: GATT reduced to what a BlueST central uses, as
// length-prefixed PDUs over a unix socket.
//
// The side of the boards listens ([Listen], [Server.Run]) and sees each board as
// a [Peripheral]; the mapper dials ([Dial]), scans, connects, and reads, writes
// and subscribes on a [Conn]. A [Tap] stands between both, to watch or to alter what
// boards notify.
//
// What holds:
//   - A notification carries the board's emission time, as host monotonic
//     nanoseconds ([Now]) and on the host's wall clock, beside the frame, never in it.
//   - Notifications of one connection arrive in the order in which the board
//     handed them over, without gaps, until the connection ends. Air that loses
//     some ([Quality]) makes them late, as the link layer's retransmissions do.
//   - No peer can hold up the other: what a client does not read within a bounded
//     buffer costs it its connection, as a supervision timeout does in the air.
//     Advertisements are different: they may be lost at any time.
//   - A peer that goes away, with or without a word, ends every connection over
//     its socket; both sides are told, and no goroutine stays behind.
//   - Boards come, go and leave the range while clients are served ([Server.Add],
//     [Server.Remove], [Server.SetReach]), and cost neither goroutine nor timer.
//   - What is drawn by chance depends on the seed, the board and how often, and not
//     on other boards.
//
// To try it: `boards --config boards.json --control control.sock`, then Dial one
// of the config's radios; client_test.go is the shortest complete example.
package radio

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// ErrBusy says that a board has a connection already, over this radio or
	// over another.
	ErrBusy = errors.New("board is connected already")
	// ErrDisconnected says that a connection, or the whole radio, is gone. The
	// error around it says why.
	ErrDisconnected = errors.New("disconnected")
	// ErrUnknown says that the radio hears no such board, or that a board has no
	// such characteristic.
	ErrUnknown = errors.New("not found")
)

// Address is a board's MAC, most significant byte first.
type Address [6]byte

// ParseAddress reads 12 hex digits, with or without colons, in any case.
func ParseAddress(s string) (Address, error) {
	digits := s
	if len(s) == 17 {
		if _, err := net.ParseMAC(s); err != nil {
			return Address{}, fmt.Errorf("address %q: want 12 hex digits, with or without colons", s)
		}
		digits = strings.NewReplacer(":", "", "-", "").Replace(s)
	}
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != len(Address{}) {
		return Address{}, fmt.Errorf("address %q: want 12 hex digits, with or without colons", s)
	}
	return Address(b), nil
}

// String is "c0:83:2a:00:11:22".
func (a Address) String() string { return net.HardwareAddr(a[:]).String() }

// Hex is "c0832a001122".
func (a Address) Hex() string { return hex.EncodeToString(a[:]) }

// Characteristic is a GATT characteristic and what can be done with it.
type Characteristic struct {
	// UUID in lower case with dashes.
	UUID                string
	Read, Write, Notify bool
}

// Now is the host's CLOCK_MONOTONIC in nanoseconds, the same for every process
// on the host.
func Now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic("radio: CLOCK_MONOTONIC: " + err.Error()) // every Linux has it
	}
	return t.Nano()
}
