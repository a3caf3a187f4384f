package process

import "syscall"

var (
	NextBackoff = nextBackoff
	ErrRunning  = errRunning
)

// DecodeRecord says what a record would start, or why it would not.
func DecodeRecord(b []byte) (Spec, error) {
	r, err := decodeRecord(b)
	return r.Spec, err
}

// StartOf gives the start time of a process.
func StartOf(pid int) (string, error) {
	f, err := inspect(pid)
	return f.start, err
}

// SignalIf signals the process that has pid and start and belongs to id, if there is one.
func SignalIf(pid int, start, id string, sig syscall.Signal) error {
	return signal(identity{pid: pid, start: start}, id, sig)
}

const BackoffMin, BackoffMax, BackoffReset, MaxLog = backoffMin, backoffMax, backoffReset, int64(maxLog)
