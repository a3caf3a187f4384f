package kind

import (
	"os"
	"slices"

	"github.com/fluidos-edge/testbed/internal/ociruntime"
	"github.com/fluidos-edge/testbed/testbed/internal/doctor"
	"github.com/fluidos-edge/testbed/testbed/internal/engine"
)

// restricted tells whether this host lacks what privileged containers, and containerd in
// them, want by default.
func restricted() bool {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	last, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return false
	}
	lack, err := ociruntime.Lacking(string(status), string(last))
	return err == nil && slices.Contains(lack, "CAP_SYS_RESOURCE")
}

// wrapped tells whether the engine's containers go through our runtime.
func wrapped(e *engine.Engine) bool { return e.Info.DefaultRuntime == doctor.Runtime }
