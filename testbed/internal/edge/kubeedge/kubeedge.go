// Package kubeedge brings up real KubeEdge: the values of CloudCore's chart, and the
// configuration and start of EdgeCore in a container of the kind node image.
//
// Invariants:
//   - A configuration holds only what differs from EdgeCore's defaults, and is written
//     by types: nothing is edited in place.
//   - Join may be called again: the same program and configuration restart nothing.
//   - A wait has a deadline, and its error says what was last observed.
//
// Images and programs are published ones or the user's own; none is built here.
package kubeedge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/fluidos-edge/testbed/testbed/internal/engine"
)

// What KubeEdge is called.
const (
	Version                = "v1.23.1"
	CloudCoreRef           = "docker.io/kubeedge/cloudcore:" + Version
	InstallationPackageRef = "docker.io/kubeedge/installation-package:" + Version
	// EdgeCorePath is where the installation package has EdgeCore.
	EdgeCorePath = "/usr/local/bin/edgecore"

	Namespace      = "kubeedge"
	ServiceAccount = "cloudcore"

	// BrokerPort is where EdgeCore's own broker listens on loopback.
	BrokerPort = 1884

	websocketPort, httpsPort = 10000, 10002
)

const (
	configFile = "/etc/kubeedge/config/edgecore.yaml"
	unitFile   = "/etc/systemd/system/edgecore.service"
	stampFile  = "/etc/kubeedge/testbed.sha256"
	unit       = "edgecore.service"

	// certificateFile and kubeletPort are EdgeCore's defaults.
	certificateFile = "/etc/kubeedge/certs/server.crt"
	kubeletPort     = 10350

	tokenSecret = "tokensecret"

	// upWithin and endings bound how long EdgeCore may take, and how often it may end.
	upWithin = time.Minute
	endings  = 5

	// How long until nodes are looked at again.
	lookWatched, lookUnwatched = 5 * time.Second, 250 * time.Millisecond
)

// CloudCore is what differs among installations of charts/cloudcore.
type CloudCore struct {
	Image string
	// AdvertiseAddress are the addresses that edge nodes dial.
	AdvertiseAddress []string
	// Relay are the values of the relay in CloudCore's Pod.
	Relay map[string]any
}

// Values of charts/cloudcore.
func Values(c CloudCore) map[string]any {
	return map[string]any{
		"image": c.Image, "advertiseAddress": c.AdvertiseAddress, "relay": c.Relay,
		"websocketPort": websocketPort, "httpsPort": httpsPort,
	}
}

// Node is one edge node.
type Node struct {
	Name      string // of the Node object
	Container string // of the kind node image; it runs
	EdgeCore  string // the program, a file of this host
	CloudCore string // address that the node dials
	Token     string // by which it gets its certificate, once
	// PauseImage is in the node already.
	PauseImage string
	// DMISocket is where EdgeCore takes mappers; its folder is there.
	DMISocket string
	// MessageQPS and MessageBurst are EdgeHub's throttle, messages/s and messages.
	MessageQPS, MessageBurst int
}

// config is the part of edgecore.config.kubeedge.io/v1alpha2 that we set.
type config struct {
	APIVersion string  `json:"apiVersion"`
	Kind       string  `json:"kind"`
	Modules    modules `json:"modules"`
}

type modules struct {
	EdgeHub    edgeHub    `json:"edgeHub"`
	Edged      edged      `json:"edged"`
	EventBus   eventBus   `json:"eventBus"`
	DeviceTwin deviceTwin `json:"deviceTwin"`
}

type edgeHub struct {
	HTTPServer   string    `json:"httpServer"`
	Token        string    `json:"token"`
	MessageQPS   int       `json:"messageQPS"`
	MessageBurst int       `json:"messageBurst"`
	WebSocket    websocket `json:"websocket"`
}

type websocket struct {
	Enable           bool   `json:"enable"`
	Server           string `json:"server"`
	HandshakeTimeout int    `json:"handshakeTimeout"`
	ReadDeadline     int    `json:"readDeadline"`
	WriteDeadline    int    `json:"writeDeadline"`
}

type edged struct {
	HostnameOverride      string            `json:"hostnameOverride"`
	ReportEvent           bool              `json:"reportEvent"`
	NodeLabels            map[string]string `json:"nodeLabels"`
	PodSandboxImage       string            `json:"podSandboxImage"`
	RegisterSchedulable   bool              `json:"registerSchedulable"`
	TailoredKubeletConfig kubeletConfig     `json:"tailoredKubeletConfig"`
}

type kubeletConfig struct {
	CgroupDriver                string            `json:"cgroupDriver"`
	EvictionHard                map[string]string `json:"evictionHard"`
	ImageGCHighThresholdPercent int               `json:"imageGCHighThresholdPercent"`
}

type eventBus struct {
	MQTTMode           int    `json:"mqttMode"`
	MQTTServerInternal string `json:"mqttServerInternal"`
}

type deviceTwin struct {
	DMISockPath string `json:"dmiSockPath"`
}

// labels of an edge node in FLUIDOS; EdgeCore adds KubeEdge's own.
var labels = map[string]string{
	"node-role.fluidos.eu/sensors":     "true",
	"node-role.fluidos.eu/edge-worker": "true",
}

// neverForDisk leaves what else a node evicts for, memory, as it is by default.
var neverForDisk = map[string]string{
	"nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%", "imagefs.inodesFree": "0%",
}

// Config is the node's edgecore.yaml.
func (n Node) Config() ([]byte, error) {
	at := func(port int) string { return net.JoinHostPort(n.CloudCore, strconv.Itoa(port)) }
	return yaml.Marshal(config{
		APIVersion: "edgecore.config.kubeedge.io/v1alpha2", Kind: "EdgeCore",
		Modules: modules{
			EdgeHub: edgeHub{
				HTTPServer: "https://" + at(httpsPort), Token: n.Token, MessageQPS: n.MessageQPS, MessageBurst: n.MessageBurst,
				WebSocket: websocket{Enable: true, Server: at(websocketPort), HandshakeTimeout: 30, ReadDeadline: 15, WriteDeadline: 15},
			},
			Edged: edged{
				// Events tell why a Pod does not come up: there are no logs of this node in the API.
				ReportEvent:      true,
				HostnameOverride: n.Name, NodeLabels: labels, PodSandboxImage: n.PauseImage, RegisterSchedulable: true,
				TailoredKubeletConfig: kubeletConfig{
					CgroupDriver: "systemd", // as the node image's containerd has it
					// As kind has it: the disk is the host's. However full it is, no Pod is to be
					// thrown out, nor an image that nobody could pull again.
					EvictionHard:                neverForDisk,
					ImageGCHighThresholdPercent: 100,
				},
			},
			// 0 is the broker of its own, on loopback, without passwords.
			EventBus:   eventBus{MQTTMode: 0, MQTTServerInternal: "tcp://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(BrokerPort))},
			DeviceTwin: deviceTwin{DMISockPath: n.DMISocket},
		},
	})
}

// service is EdgeCore's unit. The variable lets it start where a kubelet is installed.
const service = `[Unit]
Description=KubeEdge EdgeCore
After=containerd.service
StartLimitIntervalSec=0

[Service]
Environment=CHECK_EDGECORE_ENVIRONMENT=false
ExecStart=` + EdgeCorePath + ` --config=` + configFile + `
Restart=always
RestartSec=2

[Install]
WantedBy=multi-user.target
`

// stamp changes whenever EdgeCore has to be started anew. The token does not count:
// CloudCore changes it twice a day, and a node that has its certificate never shows it again.
func (n Node) stamp() (string, error) {
	sum := sha256.New()
	program, err := os.Open(n.EdgeCore)
	if err != nil {
		return "", err
	}
	defer program.Close()
	if _, err := io.Copy(sum, program); err != nil {
		return "", err
	}
	n.Token = ""
	config, err := n.Config()
	if err != nil {
		return "", err
	}
	fmt.Fprintf(sum, "\x00%s\x00%s", config, service)
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// Join makes the container an edge node: EdgeCore in the place of the kubelet. It
// returns once EdgeCore is up and has its certificate; whether the node becomes Ready
// is AwaitReady's.
func Join(ctx context.Context, e *engine.Engine, n Node, say func(string)) error {
	if err := n.join(ctx, e, say); err != nil {
		return fmt.Errorf("edge node %s: %w", n.Name, err)
	}
	return nil
}

func (n Node) join(ctx context.Context, e *engine.Engine, say func(string)) error {
	stamp, err := n.stamp()
	if err != nil {
		return err
	}
	have, _ := e.Exec(ctx, n.Container, "cat", stampFile)
	if active, _ := e.Exec(ctx, n.Container, "systemctl", "is-active", unit); have == stamp && active == "active" {
		return nil
	}
	say(n.Name + ": waiting for systemd")
	if err := AwaitSystemd(ctx, e, n.Container); err != nil {
		return err
	}
	config, err := n.Config()
	if err != nil {
		return err
	}
	say(n.Name + ": EdgeCore")
	for _, argv := range [][]string{
		{"rm", "-f", stampFile}, // what a join that ends halfway leaves is nobody's
		{"systemctl", "disable", "--now", "kubelet.service"},
	} {
		if _, err := e.Exec(ctx, n.Container, argv...); err != nil {
			return err
		}
	}
	program, err := os.Open(n.EdgeCore)
	if err != nil {
		return err
	}
	defer program.Close()
	if _, err := e.Pipe(ctx, program, n.Container, "install", "-D", "-m", "0755", "/dev/stdin", EdgeCorePath); err != nil {
		return err
	}
	if err := e.WriteFile(ctx, n.Container, configFile, "0600", config); err != nil {
		return err
	}
	if err := e.WriteFile(ctx, n.Container, unitFile, "0644", []byte(service)); err != nil {
		return err
	}
	for _, argv := range [][]string{{"daemon-reload"}, {"enable", unit}, {"restart", unit}} {
		if _, err := e.Exec(ctx, n.Container, append([]string{"systemctl"}, argv...)...); err != nil {
			return errors.Join(err, n.journal(ctx, e))
		}
	}
	if err := n.awaitUp(ctx, e); err != nil {
		return errors.Join(err, n.journal(ctx, e))
	}
	return e.WriteFile(ctx, n.Container, stampFile, "0600", []byte(stamp))
}

// AwaitSystemd waits until a container of the node image has come up as far as containerd.
func AwaitSystemd(ctx context.Context, e *engine.Engine, container string) error {
	var last string
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, 90*time.Second, true, func(ctx context.Context) (bool, error) {
		var err error
		if last, err = e.Exec(ctx, container, "systemctl", "is-active", "containerd.service"); err != nil && last == "" {
			last = err.Error()
		}
		return last == "active", nil
	})
	if err != nil {
		return fmt.Errorf("containerd in container %s is %s: %w", container, last, err)
	}
	return nil
}

// awaitUp waits until EdgeCore has its certificate and its kubelet listens: systemd calls
// EdgeCore active before it has read its configuration, and again between two failures.
func (n Node) awaitUp(ctx context.Context, e *engine.Engine) error {
	var last string
	err := wait.PollUntilContextTimeout(ctx, 250*time.Millisecond, upWithin, true, func(ctx context.Context) (bool, error) {
		ended, err := e.Exec(ctx, n.Container, "systemctl", "show", "--property", "NRestarts", "--value", unit)
		if err != nil {
			return false, lastly(ctx, &last, err.Error())
		}
		if times, err := strconv.Atoi(ended); err == nil && times >= endings {
			return false, fmt.Errorf("EdgeCore has ended %d times", times)
		}
		if _, err := e.Exec(ctx, n.Container, "test", "-s", certificateFile); err != nil {
			return false, lastly(ctx, &last, "it has no certificate of CloudCore's")
		}
		listeners, err := e.Exec(ctx, n.Container, "ss", "--no-header", "--listening", "--tcp", "--numeric", "src", "127.0.0.1:"+strconv.Itoa(kubeletPort))
		if err != nil || listeners == "" {
			return false, lastly(ctx, &last, "its kubelet does not listen")
		}
		return true, nil
	})
	if err != nil && last != "" {
		return fmt.Errorf("EdgeCore is not up, %s: %w", last, err)
	}
	return err
}

// lastly keeps what was last seen, unless it was seen because the time was up.
func lastly(ctx context.Context, last *string, seen string) error {
	if ctx.Err() == nil {
		*last = seen
	}
	return nil
}

// journal is the end of EdgeCore's log, as an error.
func (n Node) journal(ctx context.Context, e *engine.Engine) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	out, err := e.Exec(ctx, n.Container, "journalctl", "--unit", unit, "--no-pager", "--output", "cat", "--lines", "20")
	if err != nil {
		return err
	}
	return fmt.Errorf("end of its log:\n%s", out)
}

// Token is what edge nodes get their certificate by; CloudCore makes it.
func Token(ctx context.Context, c client.Client) (string, error) {
	var token, last string
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, 90*time.Second, true, func(ctx context.Context) (bool, error) {
		var s corev1.Secret
		if err := c.Get(ctx, client.ObjectKey{Namespace: Namespace, Name: tokenSecret}, &s); err != nil {
			return false, lastly(ctx, &last, err.Error())
		}
		token = string(s.Data["tokendata"])
		return token != "", lastly(ctx, &last, "it has no tokendata")
	})
	if err != nil {
		return "", fmt.Errorf("CloudCore has made no token in Secret %s/%s (%s): %w", Namespace, tokenSecret, last, err)
	}
	return token, nil
}

// Forget removes what the cluster holds of an edge node whose container is made anew: its
// Node and its Pods. CloudCore takes a node of a known name to have all that it was ever
// sent, so nothing would run there, while the Pods of the lost one seem to.
func Forget(ctx context.Context, c client.Client, node string) error {
	err := c.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("edge node %s: %w", node, err)
	}
	var pods corev1.PodList
	if err := c.List(ctx, &pods); err != nil {
		return fmt.Errorf("list Pods of edge node %s: %w", node, err)
	}
	for _, p := range pods.Items {
		if p.Spec.NodeName != node {
			continue
		}
		// Nobody is left to say that it has ended.
		if err := c.Delete(ctx, &p, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete Pod %s/%s of edge node %s: %w", p.Namespace, p.Name, node, err)
		}
	}
	return nil
}

// AwaitReady waits until all nodes are Ready. It looks whenever a Node changes if the
// client can watch, and after a while all the same: a watch may end, or see nothing.
func AwaitReady(ctx context.Context, c client.Client, nodes []string, say func(string)) error {
	var missing, said string
	var changes <-chan watch.Event
	for {
		if w, ok := c.(client.WithWatch); ok && changes == nil {
			if i, err := w.Watch(ctx, &corev1.NodeList{}); err == nil {
				defer i.Stop()
				changes = i.ResultChan()
			}
		}
		var list corev1.NodeList
		switch err := c.List(ctx, &list); {
		case err == nil:
			missing = strings.Join(notReady(list.Items, nodes), ", ")
			if missing == "" {
				return nil
			}
		case ctx.Err() == nil:
			missing = err.Error() // it may be about to answer
		}
		if missing != said {
			said = missing
			say("waiting for " + missing)
		}
		again := lookUnwatched
		if changes != nil {
			again = lookWatched
		}
		timer := time.NewTimer(again)
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("edge nodes are not Ready: %s: %w", missing, context.Cause(ctx))
		case _, ok := <-changes:
			if !ok {
				changes = nil
			}
		case <-timer.C:
		}
		timer.Stop()
	}
}

// notReady says of each node that is not Ready what it is.
func notReady(have []corev1.Node, wanted []string) []string {
	var out []string
	for _, name := range wanted {
		i := slices.IndexFunc(have, func(n corev1.Node) bool { return n.Name == name })
		if i < 0 {
			out = append(out, name+" (not registered)")
			continue
		}
		why := "no condition Ready"
		for _, cond := range have[i].Status.Conditions {
			if cond.Type == corev1.NodeReady {
				why = cond.Reason + ": " + cond.Message
				if cond.Status == corev1.ConditionTrue {
					why = ""
				}
			}
		}
		if why != "" {
			out = append(out, name+" ("+why+")")
		}
	}
	return out
}
