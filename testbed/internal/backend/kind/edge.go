package kind

import (
	"context"
	"fmt"
	"os"
	"regexp"

	"golang.org/x/sync/errgroup"

	"github.com/fluidos-edge/testbed/testbed/internal/edge/kubeedge"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// joinKubeEdge brings up CloudCore with the relay beside it, and the edge nodes: a
// container each, all at once.
func (c *cluster) joinKubeEdge(ctx context.Context, p topology.Provider, say func(string)) error {
	node, ok, err := c.b.containerOf(ctx, c.b.node(c.name))
	if err != nil || !ok {
		return fmt.Errorf("node of %s is gone: %w", c.name, err)
	}
	g, joining := errgroup.WithContext(ctx)
	g.Go(func() error {
		values := kubeedge.Values(kubeedge.CloudCore{
			Image: fullRef(c.b.images.cloudcore.Ref), AdvertiseAddress: []string{node.IPs[c.b.network()]}, Relay: c.relayValues(),
		})
		return c.installOn(joining, c.b.node(c.name), kubeedge.Namespace, "cloudcore", "cloudcore", values, say)
	})
	containers := map[string]string{}
	for _, n := range p.EdgeNodes {
		name := edgeContainer(c.b.rec.Name, c.name, n.Name)
		containers[n.Name] = name
		g.Go(func() error {
			if err := c.edgeContainer(joining, n.Name, name); err != nil {
				return err
			}
			if err := c.containerdAlike(joining, name); err != nil {
				return fmt.Errorf("containerd of edge node %s: %w", n.Name, err)
			}
			return c.load(joining, name, c.b.images.loadables(c.b.images.components), say)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	say("token")
	token, err := kubeedge.Token(ctx, c.client)
	if err != nil {
		return err
	}
	pause, err := c.pauseImage(ctx)
	if err != nil {
		return err
	}
	g, joining = errgroup.WithContext(ctx)
	for _, n := range p.EdgeNodes {
		g.Go(func() error {
			return kubeedge.Join(joining, c.b.engine, kubeedge.Node{
				Name: n.Name, Container: containers[n.Name], EdgeCore: c.b.images.edgecoreProgram,
				CloudCore: node.IPs[c.b.network()], Token: token, PauseImage: pause, DMISocket: c.b.Layout().DMISocket(p.Name, n.Name),
				MessageQPS: p.MessageQPS, MessageBurst: p.MessageBurst,
			}, say)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	nodes := map[string]string{c.b.node(c.name): c.b.node(c.name)}
	var names []string
	for _, n := range p.EdgeNodes {
		nodes[n.Name] = containers[n.Name]
		names = append(names, n.Name)
	}
	say("Pod network of edge nodes")
	if err := c.podNetwork(ctx, nodes); err != nil {
		return err
	}
	return kubeedge.AwaitReady(ctx, c.client, names, say)
}

// edgeContainer makes the container of one edge node, or starts the one that is
// there: the same as kind makes of a worker, which is not joined by kubeadm.
func (c *cluster) edgeContainer(ctx context.Context, node, name string) error {
	have, ok, err := c.b.containerOf(ctx, name)
	if err != nil {
		return err
	}
	if ok {
		if have.State != "running" {
			_, err = c.b.engine.Output(ctx, "start", have.ID)
		}
		return err
	}
	if err := kubeedge.Forget(ctx, c.client, node); err != nil {
		return err
	}
	l := c.b.Layout()
	logs := c.b.podLogs(c.name, node)
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return err
	}
	args := []string{"run", "--detach", "--tty", "--privileged", "--name", name, "--hostname", name,
		"--label", labelKindCluster + "=" + clusterName(c.b.rec.Name, c.name), "--label", labelKindRole + "=worker", "--label", labelNode + "=" + node,
		"--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
		"--tmpfs", "/tmp", "--tmpfs", "/run", "--volume", "/var", "--volume", "/lib/modules:/lib/modules:ro",
		"--restart=on-failure:1", "--init=false", "--cgroupns=private", "--network", c.b.network()}
	for _, dir := range []string{l.Journals(c.name), l.RunDir(c.name)} {
		args = append(args, "--volume", dir+":"+dir)
	}
	args = append(args, "--volume", logs+":/var/log/pods", c.b.images.node.Ref)
	if _, err := c.b.engine.Output(ctx, args...); err != nil {
		return fmt.Errorf("container of edge node %s: %w", node, c.b.explain(err))
	}
	return nil
}

const containerdConfig = "/etc/containerd/config.toml"

// containerdAlike gives an edge node's containerd the configuration of the cluster's own
// node, which kind has fitted to this host.
func (c *cluster) containerdAlike(ctx context.Context, container string) error {
	want, err := c.b.engine.Exec(ctx, c.b.node(c.name), "cat", containerdConfig)
	if err != nil {
		return err
	}
	have, err := c.b.engine.Exec(ctx, container, "cat", containerdConfig)
	if err != nil || have == want {
		return err
	}
	if err := kubeedge.AwaitSystemd(ctx, c.b.engine, container); err != nil {
		return err
	}
	if err := c.b.engine.WriteFile(ctx, container, containerdConfig, "0644", []byte(want+"\n")); err != nil {
		return err
	}
	_, err = c.b.engine.Exec(ctx, container, "systemctl", "restart", "containerd.service")
	return err
}

var sandboxImage = regexp.MustCompile(`(?m)^\s*(?:sandbox_image|sandbox)\s*=\s*['"]([^'"]+)['"]`)

// pauseImage is the one that the node image brings along.
func (c *cluster) pauseImage(ctx context.Context) (string, error) {
	text, err := c.b.engine.Exec(ctx, c.b.node(c.name), "cat", containerdConfig)
	if err != nil {
		return "", err
	}
	m := sandboxImage.FindStringSubmatch(text)
	if m == nil {
		return "", fmt.Errorf("%s of the node image names no sandbox image", containerdConfig)
	}
	return m[1], nil
}
