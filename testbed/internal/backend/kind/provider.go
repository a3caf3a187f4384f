package kind

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/fluidos-edge/testbed/testbed/internal/backend"
	"github.com/fluidos-edge/testbed/testbed/internal/edge/kubeedge"
	"github.com/fluidos-edge/testbed/testbed/internal/kube"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// Secrets of a provider, in namespace fluidos and, the first, in KubeEdge's too.
const (
	secretCapability = "capability"
	secretMapper     = "mapper-kubeconfig"
)

// upProvider brings up everything of a provider on its cluster.
func (c *cluster) upProvider(ctx context.Context, p topology.Provider, step backend.Step) error {
	t := c.b.rec.Topology
	err := step(ctx, "definitions of "+p.Name, func(func(string)) error {
		ctx, cancel := context.WithTimeout(ctx, componentDeadline)
		defer cancel()
		return c.define(ctx, p)
	})
	if err != nil {
		return err
	}
	edge := func(ctx context.Context) error {
		return step(ctx, "edge of "+p.Name, func(say func(string)) error {
			ctx, cancel := context.WithTimeout(ctx, componentDeadline)
			defer cancel()
			if c.b.kubeEdge() {
				return c.joinKubeEdge(ctx, p, say)
			}
			return c.hollow(ctx, p, say)
		})
	}
	components := func(ctx context.Context) error {
		return step(ctx, "components of "+p.Name, func(say func(string)) error {
			ctx, cancel := context.WithTimeout(ctx, componentDeadline)
			defer cancel()
			return c.components(ctx, p, say)
		})
	}
	if c.b.kubeEdge() { // mappers run on the edge nodes
		if err := edge(ctx); err != nil {
			return err
		}
		err = components(ctx)
	} else { // they wait for one another by themselves
		g, coming := errgroup.WithContext(ctx)
		g.Go(func() error { return edge(coming) })
		g.Go(func() error { return components(coming) })
		err = g.Wait()
	}
	if err != nil {
		return err
	}
	return step(ctx, "sensors of "+p.Name, func(say func(string)) error {
		return errors.Join(backend.RemoveUndescribed(ctx, c.client, t, p), backend.AwaitOffers(ctx, c.client, p, say))
	})
}

// subjects are the Pods of components, and the mappers, which log in with a
// certificate: an edge node has no tokens for its Pods.
func (c *cluster) subjects(component string) []rbacv1.Subject {
	switch {
	case component == backend.Mapper:
		return kube.Users(component)
	case component == backend.Relay && c.b.kubeEdge():
		return []rbacv1.Subject{kube.ServiceAccount(kubeedge.Namespace, kubeedge.ServiceAccount)}
	}
	return []rbacv1.Subject{kube.ServiceAccount(kube.Namespace, component)}
}

// define installs definitions, rights, secrets and consumers.
func (c *cluster) define(ctx context.Context, p topology.Provider) error {
	var consumers []string
	for _, consumer := range c.b.rec.Topology.Consumers {
		consumers = append(consumers, consumer.Name)
	}
	l := c.b.Layout()
	if err := kube.InstallProvider(ctx, c.client, l.Identity(p.Name), consumers, c.subjects); err != nil {
		return err
	}
	key, err := l.CapabilityKey(p.Name)
	if err != nil {
		return err
	}
	raw, err := hex.DecodeString(key)
	if err != nil {
		return err
	}
	namespaces := []string{kube.Namespace}
	if c.b.kubeEdge() {
		namespaces = append(namespaces, kubeedge.Namespace)
		if err := kube.Namespaces(ctx, c.client, kubeedge.Namespace); err != nil {
			return err
		}
	}
	for _, ns := range namespaces {
		if err := kube.PutSecret(ctx, c.client, ns, secretCapability, map[string][]byte{"key": raw}); err != nil {
			return err
		}
	}
	content, err := c.podKubeconfig(ctx, kube.User(backend.Mapper))
	if err != nil {
		return err
	}
	if err := kube.PutSecret(ctx, c.client, kube.Namespace, secretMapper, map[string][]byte{"kubeconfig": content}); err != nil {
		return err
	}
	for _, consumer := range consumers {
		if err := c.consumerKubeconfig(ctx, consumer); err != nil {
			return err
		}
	}
	return c.etcdAccess(ctx)
}

// etcdAccess copies what the API server opens etcd with, for those who may do
// everything on this host anyway: to look into etcd, and to show who cannot.
func (c *cluster) etcdAccess(ctx context.Context) error {
	dir := c.b.Layout().EtcdPKI(c.name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for file, from := range map[string]string{etcdCA: "etcd/ca.crt", etcdCert: "apiserver-etcd-client.crt", etcdKey: "apiserver-etcd-client.key"} {
		text, err := c.b.engine.Exec(ctx, c.b.node(c.name), "cat", "/etc/kubernetes/pki/"+from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(dir+"/"+file, []byte(text+"\n"), 0o600); err != nil {
			return err
		}
	}
	return nil
}

const etcdCA, etcdCert, etcdKey = "ca.crt", "apiserver.crt", "apiserver.key"

// relayURL is where the edge runtime posts to, on the node that CloudCore and the relay share.
func relayURL() string { return fmt.Sprintf("http://127.0.0.1:%d", portRelay) }

func relayAdminURL() string { return fmt.Sprintf("http://127.0.0.1:%d", portRelayAdmin) }

// relayValues are of the relay, wherever it runs.
func (c *cluster) relayValues() map[string]any {
	return map[string]any{
		"image":     fullRef(c.b.images.components.Ref),
		"namespace": kube.Namespace, "capabilitySecret": secretCapability,
		"ingest": fmt.Sprintf("127.0.0.1:%d", portRelay), "admin": fmt.Sprintf("127.0.0.1:%d", portRelayAdmin), "health": portRelayHealth,
	}
}

// hollow is the edge without KubeEdge: all edge nodes in one Pod, and the relay in another.
func (c *cluster) hollow(ctx context.Context, p topology.Provider, say func(string)) error {
	config, err := c.b.Layout().HollowEdgeConfig(p, func(node string) string {
		return fmt.Sprintf("127.0.0.1:%d", portBroker+nodeIndex(p, node))
	})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.install(ctx, backend.Relay, backend.Relay, c.relayValues(), say) })
	g.Go(func() error {
		return c.install(ctx, backend.HollowEdge, backend.HollowEdge, map[string]any{
			"image": fullRef(c.b.images.components.Ref), "config": string(config), "runDir": c.b.Layout().RunDir(p.Name), "health": portHollow,
		}, say)
	})
	return g.Wait()
}

// components are ERM, router, boards and a mapper for each edge node.
func (c *cluster) components(ctx context.Context, p topology.Provider, say func(string)) error {
	l, image := c.b.Layout(), fullRef(c.b.images.components.Ref)
	boards, err := l.BoardsConfig(p)
	if err != nil {
		return err
	}
	g, installing := errgroup.WithContext(ctx)
	g.Go(func() error {
		return c.install(installing, backend.ERM, backend.ERM, map[string]any{
			"image": image, "namespace": kube.Namespace,
			"price":    map[string]any{"amount": p.Price.Amount, "currency": p.Price.Currency, "period": p.Price.Period},
			"location": map[string]any{"latitude": p.Location.Latitude, "longitude": p.Location.Longitude, "country": p.Location.Country, "city": p.Location.City},
		}, say)
	})
	g.Go(func() error {
		return c.install(installing, backend.Router, backend.Router, map[string]any{
			"image": image, "namespace": kube.Namespace, "relayURL": relayURL(), "relayAdmin": []any{relayAdminURL()},
			"capabilitySecret": secretCapability, "health": portRouter,
		}, say)
	})
	g.Go(func() error {
		return c.install(installing, backend.Boards, backend.Boards, map[string]any{
			"image": image, "config": string(boards), "runDir": l.RunDir(p.Name), "control": l.BoardsSocket(p.Name),
			"journal": l.BoardsJournal(p.Name), "journalDir": l.Journals(p.Name), "health": portBoards,
		}, say)
	})
	for i, n := range p.EdgeNodes {
		node, broker := c.b.node(c.name), portBroker+i
		if c.b.kubeEdge() {
			node, broker = n.Name, portKubeEdge
		}
		g.Go(func() error {
			return c.installOn(installing, node, kube.Namespace, backend.Mapper+"-"+n.Name, backend.Mapper, map[string]any{
				"image": image, "node": n.Name, "namespace": kube.Namespace, "kubeconfigSecret": secretMapper,
				"radio": l.RadioSocket(p.Name, n.Name), "runDir": l.RunDir(p.Name), "mqtt": fmt.Sprintf("tcp://127.0.0.1:%d", broker),
				"dmiSocket": l.DMISocket(p.Name, n.Name), "dmiListen": l.MapperSocket(p.Name, n.Name), "root": c.b.kubeEdge(),
				"gather": time.Duration(p.Gather).String(), "allow": strings.Join(p.Allow, ","),
				"journal": l.MapperJournal(p.Name, n.Name), "journalDir": l.Journals(p.Name), "health": portMapper + i,
			}, say)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return c.removeMappers(ctx, p)
}

// removeMappers removes those of edge nodes that are no longer described.
func (c *cluster) removeMappers(ctx context.Context, p topology.Provider) error {
	names, err := c.releases.List(ctx, kube.Namespace)
	if err != nil {
		return err
	}
	for _, name := range names {
		node, ok := strings.CutPrefix(name, backend.Mapper+"-")
		if !ok || nodeIndex(p, node) >= 0 {
			continue
		}
		if err := c.releases.Uninstall(ctx, kube.Namespace, name); err != nil {
			return err
		}
	}
	return nil
}

// nodeIndex is an edge node's place among those of its provider; -1 if it is none.
func nodeIndex(p topology.Provider, node string) int {
	for i, n := range p.EdgeNodes {
		if n.Name == node {
			return i
		}
	}
	return -1
}
