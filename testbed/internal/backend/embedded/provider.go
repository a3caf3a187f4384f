package embedded

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/fluidos-edge/testbed/testbed/internal/kube"
	"github.com/fluidos-edge/testbed/testbed/internal/pki"
	"github.com/fluidos-edge/testbed/testbed/internal/process"
	"github.com/fluidos-edge/testbed/testbed/internal/state"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// provider writes what the components of one provider read, and specifies
// their processes, in the order in which they start.
func (b *Backend) provider(p topology.Provider, consumers []topology.Consumer) ([]process.Spec, error) {
	l := b.layout
	ca, err := pki.NewCA(l.clusterPKI(p.Name), p.Name)
	if err != nil {
		return nil, err
	}
	for _, component := range []string{hollowedge, mapper, erm, router, relay} {
		file := l.componentKubeconfig(p.Name, component)
		if _, err := b.kubeconfig(ca, p.Name, file, kube.User(component)); err != nil {
			return nil, err
		}
	}
	for _, c := range consumers {
		file := l.consumerKubeconfig(c.Name, p.Name)
		if _, err := b.kubeconfig(ca, p.Name, file, kube.ConsumerUser(c.Name)); err != nil {
			return nil, err
		}
	}
	keyFile, err := b.capabilityKey(p.Name)
	if err != nil {
		return nil, err
	}
	edge, err := b.hollowEdge(p)
	if err != nil {
		return nil, err
	}
	boardsSpec, err := b.boards(p)
	if err != nil {
		return nil, err
	}
	relayURL, relayAdmin := "http://"+l.addr(p.Name, relay, ""), "http://"+l.addr(p.Name, relay, "admin")
	specs := []process.Spec{
		edge,
		boardsSpec,
		b.component(p.Name, erm, "", "--kubeconfig", l.componentKubeconfig(p.Name, erm), "--namespace", kube.Namespace,
			"--price-amount", p.Price.Amount, "--price-currency", p.Price.Currency, "--price-period", p.Price.Period,
			"--latitude", p.Location.Latitude, "--longitude", p.Location.Longitude,
			"--country", p.Location.Country, "--city", p.Location.City),
		b.component(p.Name, relay, "", "--kubeconfig", l.componentKubeconfig(p.Name, relay), "--namespace", kube.Namespace,
			"--ingest", l.addr(p.Name, relay, ""), "--admin", l.addr(p.Name, relay, "admin"), "--capability-key", keyFile),
		b.component(p.Name, router, "", "--kubeconfig", l.componentKubeconfig(p.Name, router), "--namespace", kube.Namespace,
			"--relay-url", relayURL, "--relay-admin", relayAdmin, "--capability-key", keyFile),
	}
	specs[3].URL = relayURL
	for _, n := range p.EdgeNodes {
		journal := l.mapperJournal(p.Name, n.Name)
		if err := os.MkdirAll(filepath.Dir(journal), 0o700); err != nil {
			return nil, err
		}
		specs = append(specs, b.component(p.Name, mapper, n.Name, "--node", n.Name,
			"--kubeconfig", l.componentKubeconfig(p.Name, mapper), "--namespace", kube.Namespace,
			"--radio", l.radioSocket(p.Name, n.Name), "--mqtt", "tcp://"+l.addr(p.Name, hollowedge, "mqtt/"+n.Name),
			"--journal", journal))
	}
	return specs, nil
}

// component specifies one of our own programs: they share their health listener.
func (b *Backend) component(cluster, name, node string, args ...string) process.Spec {
	full := name
	if node != "" {
		full += "/" + node
	}
	health := b.layout.addr(cluster, full, "health")
	return process.Spec{
		Name: cluster + "/" + full, Path: filepath.Join(b.layout.rec.BinDir, name),
		Args: append([]string{"--health", health}, args...), URL: "http://" + health,
		Probe: process.Probe{URL: "http://" + health + "/readyz"},
	}
}

// hollowEdge is all edge nodes of a provider in one process.
func (b *Backend) hollowEdge(p topology.Provider) (process.Spec, error) {
	type node struct {
		Name string `json:"name"`
		MQTT string `json:"mqtt"`
	}
	nodes := []node{}
	for _, n := range p.EdgeNodes {
		nodes = append(nodes, node{n.Name, b.layout.addr(p.Name, hollowedge, "mqtt/"+n.Name)})
	}
	file, hash, err := b.jsonFile(p.Name, hollowedge+".json", map[string]any{
		"nodes": nodes, "messageQPS": p.MessageQPS, "messageBurst": p.MessageBurst,
	})
	s := b.component(p.Name, hollowedge, "", "--kubeconfig", b.layout.componentKubeconfig(p.Name, hollowedge), "--config", file)
	s.ConfigHash = hash
	return s, err
}

// boards are all boards of a provider in one process, with a radio for each node.
func (b *Backend) boards(p topology.Provider) (process.Spec, error) {
	radios := map[string]string{}
	for _, n := range p.EdgeNodes {
		socket := b.layout.radioSocket(p.Name, n.Name)
		if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
			return process.Spec{}, err
		}
		radios[n.Name] = socket
	}
	file, hash, err := b.jsonFile(p.Name, boards+".json", map[string]any{
		"seed": b.layout.rec.Topology.Seed, "boards": p.Boards, "radios": radios,
	})
	s := b.component(p.Name, boards, "", "--config", file, "--control", b.layout.boardsSocket(p.Name))
	s.ConfigHash = hash
	return s, err
}

// capabilityKey is shared by a provider's router and relay.
func (b *Backend) capabilityKey(provider string) (string, error) {
	key, err := b.layout.rec.Secret("capability/"+provider, 32)
	if err != nil {
		return "", err
	}
	raw, err := hex.DecodeString(key)
	if err != nil {
		return "", err
	}
	file := b.layout.dir("pki", provider, "capability.key")
	return file, state.WriteFile(file, raw)
}

func (b *Backend) jsonFile(cluster, name string, v any) (file, hash string, err error) {
	content, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return "", "", err
	}
	file = b.layout.config(cluster, name)
	return file, hashOf(string(content)), state.WriteFile(file, content)
}
