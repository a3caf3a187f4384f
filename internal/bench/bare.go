package bench

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	kindconfig "sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	kindcluster "sigs.k8s.io/kind/pkg/cluster"
	kindexec "sigs.k8s.io/kind/pkg/exec"
	kindlog "sigs.k8s.io/kind/pkg/log"
)

// bareNetwork is the engine's network that bare clusters are on, and how they are found.
const bareNetwork = "testbed-bench-b"

// networkVariable tells kind's library which network to use.
const networkVariable = "KIND_EXPERIMENTAL_DOCKER_NETWORK"

// bare makes the peer's clusters, by kind's library and with nothing in them
// but what kind puts there and a Pod network.
type bare struct {
	image      string
	dir        string
	restricted bool
	restore    []func() error
}

// newBare readies the peer; close undoes it, also after an error.
func newBare(image, dir string) (*bare, error) {
	b := &bare{image: image, dir: dir, restricted: lacksResource()}
	// kind's library takes these from nowhere but the environment; with
	// KUBECONFIG set it would lock and merge that file too.
	return b, errors.Join(b.setenv(networkVariable, bareNetwork), b.setenv("KUBECONFIG", ""))
}

func (b *bare) setenv(name, value string) error {
	before, was := os.LookupEnv(name)
	b.restore = append(b.restore, func() error {
		if was {
			return os.Setenv(name, before)
		}
		return os.Unsetenv(name)
	})
	if value == "" {
		return os.Unsetenv(name)
	}
	return os.Setenv(name, value)
}

func (b *bare) close() error {
	var errs []error
	for _, r := range b.restore {
		errs = append(errs, r())
	}
	return errors.Join(errs...)
}

// up makes both clusters and says after how many seconds both were ready. They
// are gone when it returns.
func (b *bare) up(ctx context.Context) (seconds float64, err error) {
	defer func() { err = errors.Join(err, b.remove(ctx)) }()
	ctx, cancel := context.WithTimeoutCause(ctx, upWithin, fmt.Errorf("not ready within %s", upWithin))
	defer cancel()
	began := time.Now()
	if _, err := engine(ctx, "network", "create", "--driver", "bridge", bareNetwork); err != nil {
		return 0, err
	}
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for n := range errs {
		wg.Go(func() {
			if errs[n] = b.cluster(ctx, n); errs[n] != nil {
				cancel() // the other one has no use any more
			}
		})
	}
	ready := make(chan struct{})
	go func() { wg.Wait(); close(ready) }()
	select {
	case <-ready:
		seconds = time.Since(began).Seconds()
	case <-ctx.Done():
		// kind's library takes no context: it ends when its nodes are gone, and it
		// may just be making one.
		if err := b.drain(ctx, ready); err != nil {
			return 0, err
		}
	}
	return seconds, errors.Join(errs...)
}

// drain removes nodes until the library has given up on them.
func (b *bare) drain(ctx context.Context, done <-chan struct{}) error {
	cause := context.Cause(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWithin)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		err := b.removeNodes(ctx)
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return errors.Join(cause, fmt.Errorf("kind still makes clusters %s after their nodes were removed", undoWithin), err)
		case <-tick.C:
		}
	}
}

// cluster makes the nth cluster and waits until it is ready.
func (b *bare) cluster(ctx context.Context, n int) error {
	name := "bench-b-" + strconv.Itoa(n+1)
	kubeconfig := filepath.Join(b.dir, name+".kubeconfig")
	cfg, err := b.config(name, n)
	if err != nil {
		return err
	}
	log := &lastLine{}
	p := kindcluster.NewProvider(kindcluster.ProviderWithDocker(), kindcluster.ProviderWithLogger(log))
	err = p.Create(name,
		kindcluster.CreateWithV1Alpha4Config(cfg), kindcluster.CreateWithKubeconfigPath(kubeconfig),
		kindcluster.CreateWithRetain(true), // remove does it
		kindcluster.CreateWithDisplayUsage(false), kindcluster.CreateWithDisplaySalutation(false))
	if ctx.Err() != nil {
		return fmt.Errorf("cluster %s: %w", name, context.Cause(ctx))
	}
	if err != nil {
		output := ""
		if run := kindexec.RunErrorForError(err); run != nil {
			output = tail(string(run.Output))
		}
		return fmt.Errorf("cluster %s: after %q: %w%s", name, log.get(), err, output)
	}
	if err := awaitBare(ctx, kubeconfig); err != nil {
		return fmt.Errorf("cluster %s: %w", name, err)
	}
	return nil
}

func (b *bare) config(name string, n int) (*kindconfig.Cluster, error) {
	// The first node of a cluster gets the first of the ranges. The network is
	// there from the start, which is the best that the peer could do.
	list := filepath.Join(b.dir, name+".conflist")
	if err := os.WriteFile(list, fmt.Appendf(nil, conflist, 160+n), 0o644); err != nil {
		return nil, err
	}
	cfg := &kindconfig.Cluster{
		TypeMeta: kindconfig.TypeMeta{Kind: "Cluster", APIVersion: "kind.x-k8s.io/v1alpha4"},
		Name:     name,
		Nodes: []kindconfig.Node{{Role: kindconfig.ControlPlaneRole, Image: b.image,
			ExtraMounts: []kindconfig.Mount{{HostPath: list, ContainerPath: "/etc/cni/net.d/10-bench.conflist", Readonly: true}}}},
		Networking: kindconfig.Networking{DisableDefaultCNI: true, APIServerAddress: "127.0.0.1",
			PodSubnet: fmt.Sprintf("10.%d.0.0/16", 160+n), ServiceSubnet: fmt.Sprintf("10.%d.0.0/16", 96+n)},
	}
	if b.restricted {
		cfg.ContainerdConfigPatches = []string{restrictOOM}
	}
	return cfg, nil
}

// conflist is the Pod network of a node whose range is 10.%d.0.0/24.
const conflist = `{
  "cniVersion": "0.4.0",
  "name": "bench",
  "plugins": [
    {
      "type": "ptp",
      "ipMasq": true,
      "ipam": {
        "type": "host-local",
        "dataDir": "/run/cni-ipam-state",
        "ranges": [[{"subnet": "10.%d.0.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`

// restrictOOM is for both versions of containerd's configuration: it may not
// lower what it may not raise again.
const restrictOOM = `[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
`

// lacksResource says whether this host is without CAP_SYS_RESOURCE.
func lacksResource() bool {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range bytes.Lines(status) {
		if bound, ok := bytes.CutPrefix(line, []byte("CapBnd:")); ok {
			bits, err := strconv.ParseUint(string(bytes.TrimSpace(bound)), 16, 64)
			return err == nil && bits&(1<<24) == 0
		}
	}
	return false
}

// awaitBare waits until the node is Ready and CoreDNS Available.
func awaitBare(ctx context.Context, kubeconfig string) error {
	rest, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return err
	}
	missing := "API server"
	err = wait.PollUntilContextCancel(ctx, 250*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			missing = err.Error()
			return false, nil
		}
		dns, err := client.AppsV1().Deployments("kube-system").Get(ctx, "coredns", metav1.GetOptions{})
		if err != nil {
			missing = err.Error()
			return false, nil
		}
		missing = missingOf(nodes.Items, dns)
		return missing == "", nil
	})
	if err != nil {
		return fmt.Errorf("not ready: %s: %w", missing, cmp.Or(context.Cause(ctx), err))
	}
	return nil
}

func missingOf(nodes []corev1.Node, dns *appsv1.Deployment) string {
	var missing []string
	if len(nodes) == 0 {
		missing = append(missing, "node")
	}
	for _, n := range nodes {
		state := "unknown"
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				state = string(c.Status) + " " + c.Message
			}
		}
		if !strings.HasPrefix(state, string(corev1.ConditionTrue)) {
			missing = append(missing, "node "+n.Name+" Ready: "+state)
		}
	}
	state := "unknown"
	for _, c := range dns.Status.Conditions {
		if c.Type == appsv1.DeploymentAvailable {
			state = string(c.Status) + " " + c.Message
		}
	}
	if !strings.HasPrefix(state, string(corev1.ConditionTrue)) {
		missing = append(missing, "coredns Available: "+state)
	}
	return strings.Join(missing, ", ")
}

// remove removes everything that up makes, also when ctx has ended.
func (b *bare) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWithin)
	defer cancel()
	var last error
	err := wait.PollUntilContextCancel(ctx, time.Second, true, func(ctx context.Context) (bool, error) {
		last = b.removeNodes(ctx)
		if last == nil {
			last = removeNetwork(ctx)
		}
		return last == nil, nil // a removal may be in progress already
	})
	if err != nil {
		return fmt.Errorf("remove the peer's clusters: %w", cmp.Or(last, err))
	}
	return nil
}

func (b *bare) removeNodes(ctx context.Context) error {
	have, err := engine(ctx, "ps", "--all", "--quiet", "--filter", "network="+bareNetwork)
	if err != nil || have == "" {
		return err
	}
	_, err = engine(ctx, append([]string{"rm", "--force", "--volumes"}, strings.Fields(have)...)...)
	return err
}

func removeNetwork(ctx context.Context) error {
	have, err := engine(ctx, "network", "ls", "--quiet", "--filter", "name=^"+bareNetwork+"$")
	if err != nil || have == "" {
		return err
	}
	_, err = engine(ctx, "network", "rm", bareNetwork)
	return err
}

// lastLine keeps the last message of kind's library.
type lastLine struct {
	mu   sync.Mutex
	line string
}

func (l *lastLine) get() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.line
}

func (l *lastLine) Info(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s = strings.TrimSpace(s); s != "" {
		l.line = s
	}
}
func (l *lastLine) Infof(f string, a ...any)  { l.Info(fmt.Sprintf(f, a...)) }
func (l *lastLine) Warn(s string)             { l.Info(s) }
func (l *lastLine) Warnf(f string, a ...any)  { l.Infof(f, a...) }
func (l *lastLine) Error(s string)            { l.Info(s) }
func (l *lastLine) Errorf(f string, a ...any) { l.Infof(f, a...) }
func (l *lastLine) Enabled() bool             { return true }
func (l *lastLine) V(level kindlog.Level) kindlog.InfoLogger {
	if level > 0 {
		return kindlog.NoopInfoLogger{}
	}
	return l
}
