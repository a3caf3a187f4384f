package backend

import (
	"encoding/json"

	"github.com/fluidos-edge/testbed/testbed/topology"
)

// BoardsConfig is what the boards of a provider read: each board, and a radio for each edge node.
func (l Layout) BoardsConfig(p topology.Provider) ([]byte, error) {
	radios := map[string]string{}
	for _, n := range p.EdgeNodes {
		radios[n.Name] = l.RadioSocket(p.Name, n.Name)
	}
	return json.MarshalIndent(map[string]any{
		"seed": l.Rec.Topology.Seed, "boards": p.Boards, "radios": radios, "radio": p.Radio, "faults": p.Faults,
	}, "", "  ")
}

// HollowEdgeConfig is what the hollow edge of a provider reads; broker says where the
// MQTT broker of a node listens.
func (l Layout) HollowEdgeConfig(p topology.Provider, broker func(node string) string) ([]byte, error) {
	type node struct {
		Name string `json:"name"`
		MQTT string `json:"mqtt"`
		DMI  string `json:"dmi"`
	}
	nodes := []node{}
	for _, n := range p.EdgeNodes {
		nodes = append(nodes, node{n.Name, broker(n.Name), l.DMISocket(p.Name, n.Name)})
	}
	return json.MarshalIndent(map[string]any{"nodes": nodes, "messageQPS": p.MessageQPS, "messageBurst": p.MessageBurst}, "", "  ")
}

// CapabilityKey is shared by a provider's router and relay: 32 bytes in hex.
func (l Layout) CapabilityKey(provider string) (string, error) {
	return l.Rec.Secret("capability/"+provider, 32)
}
