package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	devicesv1 "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	rulesv1 "github.com/fluidos-edge/testbed/controllers/api/rules/v1"
	"github.com/fluidos-edge/testbed/simulators/hollowedge"
)

// patience is how long a test waits for what must come.
const patience = 2 * time.Minute

// bed is an edge runtime with the nodes edge-1 and edge-2, 30 messages/s and a
// burst of 60.
type bed interface {
	// client is an administrator's.
	client() client.WithWatch
	// listen opens a socket that targets of Rules can be at.
	listen() (net.Listener, error)
	// dial connects to the MQTT broker of a node.
	dial(node string) (net.Conn, error)
	// restart ends the edge runtime of edge-1 and starts it again.
	restart() error
	// cut and mend are of the connection between edge-1 and the cloud.
	cut() error
	mend() error
}

func newScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	return s, errors.Join(corev1.AddToScheme(s), coordinationv1.AddToScheme(s), rulesv1.AddToScheme(s), devicesv1.AddToScheme(s))
}

func newClient(c *rest.Config) (client.WithWatch, error) {
	s, err := newScheme()
	if err != nil {
		return nil, err
	}
	c = rest.CopyConfig(c)
	c.QPS, c.Burst = 100, 200
	return client.NewWithWatch(c, client.Options{Scheme: s})
}

// hollow is a hollow edge runtime in this process at an API server of its own.
type hollow struct {
	t       *testing.T
	c       client.WithWatch
	runtime *hollowedge.Runtime
	stop    func() error
}

func newHollow(t *testing.T) *hollow {
	assets := os.Getenv("TESTBED_ASSETS")
	if assets == "" {
		t.Skip("TESTBED_ASSETS names no folder with etcd and kube-apiserver; `make test` sets it")
	}
	env := &envtest.Environment{
		BinaryAssetsDirectory:    assets,
		CRDDirectoryPaths:        []string{filepath.Join("..", "..", "..", "charts", "crds")},
		ErrorIfCRDPathMissing:    true,
		ControlPlaneStartTimeout: patience,
	}
	config, err := env.Start()
	if err != nil {
		t.Fatalf("API server of %s: %v", assets, err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Errorf("stop API server: %v", err)
		}
	})
	c, err := newClient(config)
	if err != nil {
		t.Fatal(err)
	}
	h := &hollow{t: t, c: c}
	if err := h.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.stop(); err != nil {
			t.Errorf("hollow edge runtime: %v", err)
		}
	})
	return h
}

func (h *hollow) start() error {
	r, err := hollowedge.New(&hollowedge.Options{
		Config:     &hollowedge.Config{Nodes: []hollowedge.Node{{Name: "edge-1", MQTT: "127.0.0.1:0"}, {Name: "edge-2", MQTT: "127.0.0.1:0"}}},
		Client:     h.c,
		Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, ready := make(chan error, 1), make(chan struct{}, 1)
	go func() {
		done <- r.Run(ctx, slog.New(slog.NewTextHandler(h.t.Output(), nil)), func(reason error) {
			if reason == nil {
				ready <- struct{}{}
			}
		})
	}()
	h.runtime = r
	h.stop = func() error {
		cancel()
		return <-done
	}
	select {
	case <-ready:
		return nil
	case err := <-done:
		done <- nil
		cancel()
		return fmt.Errorf("hollow edge runtime ended: %w", err)
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("hollow edge runtime is not ready after %s", patience), h.stop())
	}
}

func (h *hollow) client() client.WithWatch      { return h.c }
func (h *hollow) listen() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }
func (h *hollow) cut() error                    { return h.runtime.Disconnect("edge-1") }
func (h *hollow) mend() error                   { return h.runtime.Connect("edge-1") }

func (h *hollow) dial(node string) (net.Conn, error) {
	addr := h.runtime.BrokerAddr(node)
	if addr == nil {
		return nil, fmt.Errorf("node %s has no broker", node)
	}
	return net.DialTimeout("tcp", addr.String(), patience)
}

func (h *hollow) restart() error {
	if err := h.stop(); err != nil {
		return err
	}
	return h.start()
}

// kubeedge is KubeEdge on provider-1 of a testbed that is up.
type kubeedge struct {
	testbed, gateway string
	c                client.WithWatch
}

func newKubeEdge(t *testing.T, testbed string) *kubeedge {
	k := &kubeedge{testbed: testbed}
	state := os.Getenv("XDG_STATE_HOME")
	if state == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			t.Fatal(err)
		}
		state = filepath.Join(home, ".local", "state")
	}
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(state, "testbed", testbed, "kubeconfigs", "provider-1.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if k.c, err = newClient(config); err != nil {
		t.Fatal(err)
	}
	out, err := k.docker("inspect", testbed+"-provider-1-control-plane",
		"--format", "{{range $name, $n := .NetworkSettings.Networks}}{{$name}} {{$n.Gateway}}\n{{end}}")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 2 && strings.HasPrefix(f[0], "testbed-") {
			k.gateway = f[1]
		}
	}
	if k.gateway == "" {
		t.Fatalf("testbed %s has no network with a gateway: %q", testbed, out)
	}
	return k
}

func (k *kubeedge) docker(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

func (k *kubeedge) edge(node string) string       { return k.testbed + "-provider-1-" + node }
func (k *kubeedge) client() client.WithWatch      { return k.c }
func (k *kubeedge) listen() (net.Listener, error) { return net.Listen("tcp", k.gateway+":0") }

// dial goes through the node's container, as the broker listens on loopback only.
func (k *kubeedge) dial(node string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	cmd := exec.Command("docker", "exec", "-i", k.edge(node), "socat", "-", "TCP:127.0.0.1:1884")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, io.Discard
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = cmd.Wait() // the MQTT client sees the end of the connection
		theirs.Close()
	}()
	return ours, nil
}

func (k *kubeedge) restart() error {
	_, err := k.docker("exec", k.edge("edge-1"), "systemctl", "restart", "edgecore")
	return err
}

// cut resets the connection to CloudCore's ports and refuses new ones.
func (k *kubeedge) cut() error { return k.reject("-I") }

func (k *kubeedge) mend() error { return k.reject("-D") }

func (k *kubeedge) reject(action string) error {
	_, err := k.docker("exec", k.edge("edge-1"), "iptables", action, "OUTPUT", "-p", "tcp", "-m", "multiport", "--dports", "10000,10002",
		"-j", "REJECT", "--reject-with", "tcp-reset")
	return err
}

// connect makes an MQTT client at a node's broker. It tries until the broker is
// there.
func connect(b bed, node string) (paho.Client, error) {
	deadline := time.Now().Add(patience)
	for {
		c := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + node + ":1884").SetAutoReconnect(false).
			SetClientID("conformance").SetConnectTimeout(10 * time.Second).
			SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) { return b.dial(node) }))
		tok := c.Connect()
		tok.Wait()
		if tok.Error() == nil {
			return c, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("broker of %s: %w", node, tok.Error())
		}
	}
}
