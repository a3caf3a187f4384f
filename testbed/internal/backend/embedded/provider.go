package embedded

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"time"

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
	if err := os.MkdirAll(l.Journals(p.Name), 0o700); err != nil {
		return nil, err
	}
	ca, err := pki.NewCA(l.PKI(p.Name), p.Name)
	if err != nil {
		return nil, err
	}
	for _, component := range []string{hollowedge, mapper, erm, router, relay} {
		file := l.ComponentKubeconfig(p.Name, component)
		if _, err := b.kubeconfig(ca, p.Name, file, kube.User(component)); err != nil {
			return nil, err
		}
	}
	for _, c := range consumers {
		file := l.ConsumerKubeconfig(c.Name, p.Name)
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
	relayURL, relayAdmin := "http://"+l.Addr(p.Name, relay, ""), "http://"+l.Addr(p.Name, relay, "admin")
	specs := []process.Spec{
		edge,
		boardsSpec,
		b.component(p.Name, erm, "", "--kubeconfig", l.ComponentKubeconfig(p.Name, erm), "--namespace", kube.Namespace,
			"--price-amount", p.Price.Amount, "--price-currency", p.Price.Currency, "--price-period", p.Price.Period,
			"--latitude", p.Location.Latitude, "--longitude", p.Location.Longitude,
			"--country", p.Location.Country, "--city", p.Location.City),
		b.component(p.Name, relay, "", "--kubeconfig", l.ComponentKubeconfig(p.Name, relay), "--namespace", kube.Namespace,
			"--ingest", l.Addr(p.Name, relay, ""), "--admin", l.Addr(p.Name, relay, "admin"), "--capability-key", keyFile),
		b.component(p.Name, router, "", "--kubeconfig", l.ComponentKubeconfig(p.Name, router), "--namespace", kube.Namespace,
			"--relay-url", relayURL, "--relay-admin", relayAdmin, "--capability-key", keyFile),
	}
	specs[3].URL = relayURL
	for _, n := range p.EdgeNodes {
		specs = append(specs, b.component(p.Name, mapper, n.Name, "--node", n.Name,
			"--kubeconfig", l.ComponentKubeconfig(p.Name, mapper), "--namespace", kube.Namespace,
			"--radio", l.RadioSocket(p.Name, n.Name), "--mqtt", "tcp://"+l.Addr(p.Name, hollowedge, "mqtt/"+n.Name),
			"--dmi-socket", l.DMISocket(p.Name, n.Name), "--dmi-listen", l.MapperSocket(p.Name, n.Name),
			"--gather", time.Duration(p.Gather).String(), "--allow", strings.Join(p.Allow, ","),
			"--journal", l.MapperJournal(p.Name, n.Name)))
	}
	return specs, nil
}

// component specifies one of our own programs: they share their health listener.
func (b *Backend) component(cluster, name, node string, args ...string) process.Spec {
	full := name
	if node != "" {
		full += "/" + node
	}
	health := b.layout.Addr(cluster, full, "health")
	return process.Spec{
		Name: cluster + "/" + full, Path: filepath.Join(b.layout.Rec.BinDir, name),
		Args: append([]string{"--health", health}, args...), URL: "http://" + health,
		Probe: process.Probe{URL: "http://" + health + "/readyz"},
	}
}

// hollowEdge is all edge nodes of a provider in one process.
func (b *Backend) hollowEdge(p topology.Provider) (process.Spec, error) {
	config, err := b.layout.HollowEdgeConfig(p, func(node string) string { return b.layout.Addr(p.Name, hollowedge, "mqtt/"+node) })
	if err != nil {
		return process.Spec{}, err
	}
	file, hash, err := b.configFile(p.Name, hollowedge+".json", string(config))
	s := b.component(p.Name, hollowedge, "", "--kubeconfig", b.layout.ComponentKubeconfig(p.Name, hollowedge), "--config", file)
	s.ConfigHash = hash
	return s, err
}

// boards are all boards of a provider in one process, with a radio for each node.
func (b *Backend) boards(p topology.Provider) (process.Spec, error) {
	for _, n := range p.EdgeNodes {
		if err := os.MkdirAll(filepath.Dir(b.layout.RadioSocket(p.Name, n.Name)), 0o700); err != nil {
			return process.Spec{}, err
		}
	}
	config, err := b.layout.BoardsConfig(p)
	if err != nil {
		return process.Spec{}, err
	}
	file, hash, err := b.configFile(p.Name, boards+".json", string(config))
	s := b.component(p.Name, boards, "", "--config", file, "--control", b.layout.BoardsSocket(p.Name), "--journal", b.layout.BoardsJournal(p.Name))
	s.ConfigHash = hash
	return s, err
}

// capabilityKey is the file with the key that a provider's router and relay share.
func (b *Backend) capabilityKey(provider string) (string, error) {
	key, err := b.layout.CapabilityKey(provider)
	if err != nil {
		return "", err
	}
	raw, err := hex.DecodeString(key)
	if err != nil {
		return "", err
	}
	file := b.layout.Dir("pki", provider, "capability.key")
	return file, state.WriteFile(file, raw)
}

// configFile writes a configuration of a cluster and returns its file and hash.
func (b *Backend) configFile(cluster, name, content string) (file, hash string, err error) {
	file = b.layout.Config(cluster, name)
	sum := sha256.Sum256([]byte(content))
	return file, hex.EncodeToString(sum[:]), state.WriteFile(file, []byte(content))
}
