package kind

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/fluidos-edge/testbed/testbed/internal/backend"
	"github.com/fluidos-edge/testbed/testbed/internal/kube"
	"github.com/fluidos-edge/testbed/testbed/internal/release"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// upSink brings up a consumer's InfluxDB, its users and database, and its Telegraf.
func (c *cluster) upSink(ctx context.Context, consumer topology.Consumer, step backend.Step) error {
	return step(ctx, "sink of "+c.name, func(say func(string)) error {
		ctx, cancel := context.WithTimeout(ctx, componentDeadline)
		defer cancel()
		if err := kube.Namespaces(ctx, c.client, kube.Namespace); err != nil {
			return err
		}
		l := c.b.Layout()
		config, err := backend.InfluxConfig(fmt.Sprintf("0.0.0.0:%d", portInfluxDB), fmt.Sprintf("127.0.0.1:%d", portInfluxRPC), "/var/lib/influxdb")
		if err != nil {
			return err
		}
		err = c.install(ctx, backend.InfluxDB, backend.InfluxDB, map[string]any{
			"image": fullRef(c.b.images.influxdb.Ref), "config": config, "port": portInfluxDB,
		}, say)
		if err != nil {
			return err
		}
		say("users and database")
		// The engine's port of this host may take a moment to lead there.
		var last error
		err = wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
			last = l.SetUpInflux(ctx, c.name)
			return last == nil, nil
		})
		if err != nil {
			return errors.Join(last, err)
		}
		var listeners []backend.Listener
		for i, e := range backend.Endpoints(consumer) {
			listeners = append(listeners, backend.Listener{Addr: fmt.Sprintf("0.0.0.0:%d", portTelegraf+i), Endpoint: e})
		}
		if config, err = l.TelegrafConfig(c.name, fmt.Sprintf("http://127.0.0.1:%d", portInfluxDB), listeners); err != nil {
			return err
		}
		return c.install(ctx, backend.Telegraf, backend.Telegraf, map[string]any{
			"image": fullRef(c.b.images.telegraf.Ref), "config": config, "journalDir": l.Journals(c.name), "port": portTelegraf,
		}, say)
	})
}

// install installs one chart of ours on the cluster's own node.
func (c *cluster) install(ctx context.Context, name, chart string, values map[string]any, say func(string)) error {
	return c.installOn(ctx, c.b.node(c.name), kube.Namespace, name, chart, values, say)
}

func (c *cluster) installOn(ctx context.Context, node, namespace, name, chart string, values map[string]any, say func(string)) error {
	user, group := runAs()
	all := map[string]any{
		"runAs":        map[string]any{"user": user, "group": group},
		"nodeSelector": map[string]any{"kubernetes.io/hostname": node},
	}
	for k, v := range values {
		all[k] = v
	}
	return c.releases.Install(ctx, release.Release{Name: name, Namespace: namespace, Chart: chart, Values: all, Timeout: componentDeadline},
		func(what string) { say(name + ": " + what) })
}
