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
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
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
	NodeLabels            map[string]string `json:"nodeLabels"`
	PodSandboxImage       string            `json:"podSandboxImage"`
	RegisterSchedulable   bool              `json:"registerSchedulable"`
	TailoredKubeletConfig kubeletConfig     `json:"tailoredKubeletConfig"`
}

type kubeletConfig struct {
	CgroupDriver string `json:"cgroupDriver"`
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
				HostnameOverride: n.Name, NodeLabels: labels, PodSandboxImage: n.PauseImage, RegisterSchedulable: true,
				// As the node image's containerd has it.
				TailoredKubeletConfig: kubeletConfig{CgroupDriver: "systemd"},
			},
			// 0 is the broker of its own, on loopback, without passwords.
			EventBus:   eventBus{MQTTMode: 0, MQTTServerInternal: "tcp://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(BrokerPort))},
			DeviceTwin: deviceTwin{DMISockPath: "/etc/kubeedge/dmi.sock"},
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
	info, err := os.Stat(n.EdgeCore)
	if err != nil {
		return "", err
	}
	without := n
	without.Token = ""
	config, err := without.Config()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%d", config, service, n.EdgeCore, info.Size()))
	return hex.EncodeToString(sum[:]), nil
}

// Join makes the container an edge node: EdgeCore in the place of the kubelet. It
// returns once systemd says that it runs; whether the node becomes Ready is AwaitReady's.
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
	if _, err := e.Exec(ctx, n.Container, "systemctl", "disable", "--now", "kubelet.service"); err != nil {
		return err
	}
	program, err := os.Open(n.EdgeCore)
	if err != nil {
		return err
	}
	defer program.Close()
	if _, err := e.Pipe(ctx, program, n.Container, "install", "-D", "-m", "0755", "/dev/stdin", EdgeCorePath); err != nil {
		return err
	}
	for file, content := range map[string][]byte{configFile: config, unitFile: []byte(service)} {
		if err := e.WriteFile(ctx, n.Container, file, "0600", content); err != nil {
			return err
		}
	}
	for _, argv := range [][]string{{"daemon-reload"}, {"enable", unit}, {"restart", unit}} {
		if _, err := e.Exec(ctx, n.Container, append([]string{"systemctl"}, argv...)...); err != nil {
			return errors.Join(err, n.journal(ctx, e))
		}
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
	var token string
	var last error
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, 90*time.Second, true, func(ctx context.Context) (bool, error) {
		var s corev1.Secret
		last = c.Get(ctx, client.ObjectKey{Namespace: Namespace, Name: "tokensecret"}, &s)
		token = string(s.Data["tokendata"])
		return last == nil && token != "", nil
	})
	if err != nil {
		return "", fmt.Errorf("CloudCore has made no token (Secret %s/tokensecret): %w", Namespace, errors.Join(last, err))
	}
	return token, nil
}

// AwaitReady waits until all nodes are Ready.
func AwaitReady(ctx context.Context, c client.Client, nodes []string, say func(string)) error {
	var missing []string
	err := wait.PollUntilContextCancel(ctx, 250*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		var list corev1.NodeList
		if err := c.List(ctx, &list); err != nil {
			missing = []string{err.Error()} // it may be about to answer
			return false, nil
		}
		missing = notReady(list.Items, nodes)
		if len(missing) > 0 {
			say("waiting for " + strings.Join(missing, ", "))
		}
		return len(missing) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("edge nodes are not Ready: %s: %w", strings.Join(missing, ", "), context.Cause(ctx))
	}
	return nil
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
