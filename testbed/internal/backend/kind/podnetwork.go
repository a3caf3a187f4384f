package kind

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const conflist = "/etc/cni/net.d/10-testbed.conflist"

// podNetwork gives nodes their Pods' network: point-to-point links with addresses
// out of the node's own range, and a route to the ranges of the other nodes of the
// cluster. It takes no DaemonSet, which an edge node could not run. nodes are
// containers by node name.
func (c *cluster) podNetwork(ctx context.Context, nodes map[string]string) error {
	ranges := map[string]string{}
	err := c.await(ctx, func(string) {}, func(ctx context.Context) (string, error) {
		for name := range nodes {
			var n corev1.Node
			if err := c.client.Get(ctx, client.ObjectKey{Name: name}, &n); err != nil {
				return "node " + name, client.IgnoreNotFound(err)
			}
			if n.Spec.PodCIDR == "" {
				return "Pod range of node " + name, nil
			}
			ranges[name] = n.Spec.PodCIDR
		}
		return "", nil
	})
	if err != nil {
		return err
	}
	addresses := map[string]string{}
	for name, container := range nodes {
		found, ok, err := c.b.containerOf(ctx, container)
		if err != nil {
			return err
		}
		if !ok || found.IPs[c.b.network()] == "" {
			return fmt.Errorf("node %s has no address on network %s", name, c.b.network())
		}
		addresses[name] = found.IPs[c.b.network()]
	}
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		list, err := cniConfig(ranges[name])
		if err != nil {
			return fmt.Errorf("node %s: %w", name, err)
		}
		if err := c.b.engine.WriteFile(ctx, nodes[name], conflist, "0644", list); err != nil {
			return fmt.Errorf("network of Pods on node %s: %w", name, err)
		}
		for _, r := range routes(name, ranges, addresses) {
			if _, err := c.b.engine.Exec(ctx, nodes[name], append([]string{"ip", "route", "replace"}, r...)...); err != nil {
				return fmt.Errorf("route of node %s: %w", name, err)
			}
		}
	}
	return nil
}

// routes of one node to the Pods of all others, as arguments of `ip route replace`.
func routes(node string, ranges, addresses map[string]string) [][]string {
	var all [][]string
	for _, other := range slices.Sorted(maps.Keys(ranges)) {
		if other != node {
			all = append(all, []string{ranges[other], "via", addresses[other]})
		}
	}
	return all
}

// cniConfig is the list of CNI plugins for a node with a Pod range.
func cniConfig(podCIDR string) ([]byte, error) {
	prefix, err := netip.ParsePrefix(podCIDR)
	if err != nil {
		return nil, fmt.Errorf("range of Pods %q: %w", podCIDR, err)
	}
	type object = map[string]any
	return json.MarshalIndent(object{
		"cniVersion": "0.4.0",
		"name":       "testbed",
		"plugins": []object{
			{
				"type": "ptp", "ipMasq": true,
				"ipam": object{
					"type": "host-local", "dataDir": "/run/cni-ipam-state",
					"ranges": [][]object{{{"subnet": prefix.Masked().String()}}},
					"routes": []object{{"dst": "0.0.0.0/0"}},
				},
			},
			{"type": "portmap", "capabilities": object{"portMappings": true}},
		},
	}, "", "  ")
}
