package testbed

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/fluidos-edge/testbed/testbed/internal/doctor"
	"github.com/fluidos-edge/testbed/testbed/internal/state"
)

// Check is one thing that testbeds need of their host: what was observed, what is
// wanted, and how to get there.
type Check = doctor.Check

// What a check found.
const (
	CheckOK   = doctor.OK
	CheckWarn = doctor.Warn
	CheckFail = doctor.Fail
)

// NeedsRoot is the error of Doctor when what can be mended takes root.
type NeedsRoot = doctor.NeedsRoot

// DoctorOptions say what Doctor does beside looking.
type DoctorOptions struct {
	// Fix mends what can be mended safely.
	Fix bool
	// RestartEngine lets Fix restart the container engine, which ends its
	// containers, or start it.
	RestartEngine bool
	// BinDir holds our binaries; default the folder of this executable.
	BinDir string
	// Changed is told of everything that was changed; nil tells nobody.
	Changed func(what string)
	// Log is for the curious; nil discards.
	Log *slog.Logger
}

// Doctor looks at this host, and mends it if it is to. What it returns is how things
// are after that, also with an error of mending.
func Doctor(ctx context.Context, o DoctorOptions) ([]Check, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.BinDir == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		o.BinDir = filepath.Dir(self)
	}
	h := doctor.Local()
	h.Cache, h.Ranges, h.Program = state.Cache(), clusterRanges(), filepath.Join(o.BinDir, "ociruntime")
	var failed error
	if o.Fix {
		failed = doctor.Fix(ctx, h, doctor.FixOptions{RestartEngine: o.RestartEngine, Changed: func(what string) {
			o.Log.Info("changed", "what", what)
			if o.Changed != nil {
				o.Changed(what)
			}
		}})
	}
	all := doctor.Run(ctx, h)
	for _, c := range all {
		o.Log.Debug("checked", "check", c.Check, "status", c.Status, "observed", c.Observed)
	}
	if failed == nil {
		failed = ctx.Err()
	}
	return all, failed
}

// Suits tells whether nothing fails that a backend or edge runtime needs.
func Suits(all []Check, by string) bool { return doctor.Ready(all, by) }

// clusterRanges hold the ranges of all clusters of a testbed: cluster n has
// 10.160+n.0.0/16 for Pods and 10.96+n.0.0/16 for Services.
func clusterRanges() []doctor.Range {
	return []doctor.Range{
		{Name: "pods", Prefix: netip.MustParsePrefix("10.160.0.0/11")},
		{Name: "services", Prefix: netip.MustParsePrefix("10.96.0.0/11")},
	}
}
