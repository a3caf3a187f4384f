package backend

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/testbed/internal/kube"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// offersDeadline bounds the wait for sensors: a mapper connects its boards in seconds.
const offersDeadline = 2 * time.Minute

// RemoveUndescribed removes nodes, boards and consumers that an earlier
// topology described and this one does not.
func RemoveUndescribed(ctx context.Context, c client.Client, t *topology.Topology, p topology.Provider) error {
	wanted := map[string]bool{}
	for _, n := range p.EdgeNodes {
		wanted["node/"+n.Name] = true
	}
	for _, board := range p.Boards {
		wanted["device/"+DeviceName(board)] = true
	}
	for _, consumer := range t.Consumers {
		wanted["consumer/"+consumer.Name] = true
	}
	var nodes corev1.NodeList
	if err := c.List(ctx, &nodes, client.MatchingLabels{"node-role.fluidos.eu/sensors": "true"}); err != nil {
		return err
	}
	for i := range nodes.Items {
		if !wanted["node/"+nodes.Items[i].Name] {
			if err := c.Delete(ctx, &nodes.Items[i]); client.IgnoreNotFound(err) != nil {
				return err
			}
		}
	}
	var devs devices.DeviceList
	if err := c.List(ctx, &devs, client.InNamespace(kube.Namespace)); err != nil {
		return err
	}
	for i := range devs.Items {
		d := &devs.Items[i]
		// Only what a mapper registered has this label: other people's Devices stay.
		if d.Labels[devices.LabelBoardID] != "" && !wanted["device/"+d.Name] {
			if err := c.Delete(ctx, d); client.IgnoreNotFound(err) != nil {
				return err
			}
		}
	}
	var spaces corev1.NamespaceList
	if err := c.List(ctx, &spaces, client.HasLabels{sensors.LabelConsumer}); err != nil {
		return err
	}
	for _, ns := range spaces.Items {
		if consumer := ns.Labels[sensors.LabelConsumer]; !wanted["consumer/"+consumer] {
			if err := kube.RemoveConsumer(ctx, c, consumer); err != nil {
				return err
			}
		}
	}
	return nil
}

// AwaitOffers waits until every edge node is Ready and every board that may be
// registered has at least one available Flavor.
func AwaitOffers(ctx context.Context, c client.Client, p topology.Provider, say func(string)) error {
	var missing []string
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, offersDeadline, true, func(ctx context.Context) (bool, error) {
		var nodes corev1.NodeList
		var flavors nodecore.FlavorList
		if err := c.List(ctx, &nodes); err != nil {
			return false, err
		}
		if err := c.List(ctx, &flavors, client.InNamespace(kube.Namespace)); err != nil {
			return false, err
		}
		ready := map[string]bool{}
		for _, n := range nodes.Items {
			for _, cond := range n.Status.Conditions {
				ready[n.Name] = ready[n.Name] || cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue
			}
		}
		offered := map[string]bool{}
		for _, f := range flavors.Items {
			offered[f.Labels[nodecore.LabelDevice]] = offered[f.Labels[nodecore.LabelDevice]] || f.Spec.Availability
		}
		missing = missing[:0]
		for _, n := range p.EdgeNodes {
			if !ready[n.Name] {
				missing = append(missing, "node "+n.Name)
			}
		}
		for _, board := range p.Boards {
			if topology.Allowed(p.Allow, board.Model, board.MAC) && !offered[DeviceName(board)] {
				missing = append(missing, "board "+board.Name)
			}
		}
		sort.Strings(missing)
		say(fmt.Sprintf("%d flavors; waiting for %s", len(flavors.Items), strings.Join(missing, ", ")))
		return len(missing) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("not on offer: %s: %w", strings.Join(missing, ", "), err)
	}
	return nil
}

// DeviceName is the Device that a mapper registers for a board.
func DeviceName(b topology.Board) string {
	return strings.ToLower(b.Model) + "-" + strings.ToLower(strings.ReplaceAll(b.MAC, ":", ""))
}
