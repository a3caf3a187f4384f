package erm

// For the tests beside.
var (
	Desired       = desired
	NewReconciler = newReconciler
	NewScheme     = newScheme
	IndexDevice   = indexDevice
)

const ByDevice = byDevice
