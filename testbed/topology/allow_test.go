package topology_test

import (
	"testing"

	"github.com/fluidos-edge/testbed/testbed/topology"
)

func TestAllowed(t *testing.T) {
	const mac = "c0:83:2a:10:20:30"
	for _, tt := range []struct {
		list []string
		want bool
	}{
		{nil, true},
		{[]string{"C0:83:2A:10:20:30"}, true},
		{[]string{"c0:83:2a:10:20:31"}, false},
		{[]string{"c0:83:2b:*", "c0:83:2a:*"}, true},
		{[]string{"c0:83:2b:*"}, false},
		{[]string{"*"}, true},
		{[]string{"stwinkt1b"}, true},
		{[]string{"STWINBX1"}, false},
		{[]string{"c0:83:2a"}, false},
	} {
		if got := topology.Allowed(tt.list, topology.STWINKT1B, mac); got != tt.want {
			t.Errorf("%q allows a STWINKT1B at %s: %v, want %v", tt.list, mac, got, tt.want)
		}
	}
}
