package sink

import (
	"github.com/fluidos-edge/testbed/scenarios/ledger"
	"github.com/fluidos-edge/testbed/scenarios/tail"
)

// Journal follows a journal of samples, a mapper's or a sink's.
type Journal = tail.Journal[ledger.Sample]

// Tail follows the journal at path from its present end.
func Tail(path string) (*Journal, error) { return tail.New(path, ParseLine) }
