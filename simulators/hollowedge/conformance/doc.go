// Package conformance holds hollow edge runtimes to what KubeEdge was observed
// to do. It has no code but its tests.
//
// The same cases run on two beds: KubeEdge on a testbed of kind, and a hollow
// edge runtime in the test's process. A case is a list of stimuli (a Rule is
// created, a message is published, the edge runtime is restarted) and, for some
// of them, what arrived at the Rules' targets. What KubeEdge did is in
// testdata/kubeedge-v1.23.1.json. A difference is a bug of hollow.
//
// Invariants:
//   - That nothing arrives is judged behind fences: later messages of the same
//     node, one after the other, that have arrived. That something arrives is
//     waited for, as often as the recording says.
//   - A Rule counts once a probe published to it has reached its target.
//   - Recordings name no host, no time and no path; what was measured is there
//     to be read and is not compared.
//   - On KubeEdge the suite works in namespaces of its own and removes them. It
//     restarts and cuts off edge-1.
//
// Try it:
//
//	TESTBED_ASSETS=$(testbed assets build) go test ./simulators/hollowedge/conformance
//	testbed up --name ke --backend kind --edge kubeedge
//	TESTBED_KUBEEDGE=ke go test ./simulators/hollowedge/conformance           # KubeEdge still does what was recorded
//	TESTBED_KUBEEDGE=ke go test ./simulators/hollowedge/conformance -record   # record it anew
package conformance
