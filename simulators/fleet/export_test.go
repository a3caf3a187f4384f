package fleet

import (
	"context"
	"time"

	"k8s.io/utils/clock"

	"github.com/fluidos-edge/testbed/testbed/topology"
)

// What tests see of the parsers.
var (
	ParsePatch = parsePatch
	ParseBoard = parseBoard
	ParseFault = parseFault
)

// Befall runs a schedule.
func Befall(ctx context.Context, seed uint64, faults []topology.ScheduledFault, boards []string, befall func(board string, f topology.Fault)) {
	newSchedule(seed, faults, boards).run(ctx, clock.RealClock{}, time.Now(), befall)
}
