package erm

// For the tests beside.
var (
	Judge         = judge
	Desired       = desired
	NewReconciler = newReconciler
	NewScheme     = newScheme
	IndexDevice   = indexDevice
	IndexBoard    = indexBoard
	StateChanged  = stateChanged
	DeviceChanged = deviceChanged
	Slim          = slim
)

const (
	ByDevice = byDevice
	ByBoard  = byBoard
)

// SeeStatuses tells a reconciler whether DeviceStatuses are defined.
func SeeStatuses(r *reconciler, yes bool) { r.statuses.Store(yes) }
