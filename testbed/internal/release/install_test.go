package release_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/fluidos-edge/testbed/testbed/internal/release"
)

// cluster is an API server without controllers and nodes: a test says itself
// what becomes of Deployments and Pods.
type cluster struct {
	config     *rest.Config
	kubeconfig string
	kube       kubernetes.Interface
}

func start(t *testing.T) *cluster {
	t.Helper()
	assets := os.Getenv("TESTBED_ASSETS")
	if assets == "" {
		t.Skip("TESTBED_ASSETS names no folder with etcd and kube-apiserver; `make test` sets it")
	}
	log.SetLogger(logr.Discard())
	env := &envtest.Environment{BinaryAssetsDirectory: assets}
	config, err := env.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	c := &cluster{config: config, kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	if err := os.WriteFile(c.kubeconfig, env.KubeConfig, 0o600); err != nil {
		t.Fatal(err)
	}
	if c.kube, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	return c
}

// bed is one namespace of a cluster.
type bed struct {
	*cluster
	*release.Client
	t  *testing.T
	ns string
}

func (c *cluster) bed(t *testing.T, ns string) *bed {
	t.Helper()
	_, err := c.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{c, &release.Client{Kubeconfig: c.kubeconfig}, t, ns}
	t.Cleanup(func() {
		// Some charts have objects of the whole cluster, under a name that the next one needs.
		ctx := context.WithoutCancel(t.Context())
		names, err := b.List(ctx, ns)
		for _, name := range names {
			err = errors.Join(err, b.Uninstall(ctx, ns, name))
		}
		if err != nil {
			t.Error(err)
		}
	})
	return b
}

// ready keeps every Deployment of the namespace as ready as it wants to be, until the test ends.
func (b *bed) ready() {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.t.Context()))
	w, err := b.kube.AppsV1().Deployments(b.ns).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for e := range w.ResultChan() {
			if d, ok := e.Object.(*appsv1.Deployment); ok && d.Status.ObservedGeneration != d.Generation {
				n := *d.Spec.Replicas
				d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n}
				// One that was changed meanwhile comes by again.
				_, _ = b.kube.AppsV1().Deployments(b.ns).UpdateStatus(ctx, d, metav1.UpdateOptions{})
			}
		}
	})
	b.t.Cleanup(func() {
		cancel()
		w.Stop()
		wg.Wait()
	})
}

func (b *bed) release(chart string) release.Release {
	return release.Release{Name: chart, Namespace: b.ns, Chart: chart, Values: values(b.t, chart), Timeout: 20 * time.Second}
}

func (b *bed) install(r release.Release) {
	b.t.Helper()
	if err := b.Install(b.t.Context(), r, nil); err != nil {
		b.t.Fatal(err)
	}
}

// objects are the versions of all that is in the namespace.
func (b *bed) objects() map[string]string {
	b.t.Helper()
	ctx, all := b.t.Context(), map[string]string{}
	ds, err1 := b.kube.AppsV1().Deployments(b.ns).List(ctx, metav1.ListOptions{})
	ss, err2 := b.kube.CoreV1().Secrets(b.ns).List(ctx, metav1.ListOptions{})
	as, err3 := b.kube.CoreV1().ServiceAccounts(b.ns).List(ctx, metav1.ListOptions{})
	ms, err4 := b.kube.CoreV1().ConfigMaps(b.ns).List(ctx, metav1.ListOptions{})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		b.t.Fatal(err)
	}
	for _, o := range ds.Items {
		all["Deployment/"+o.Name] = o.ResourceVersion
	}
	for _, o := range ss.Items {
		all["Secret/"+o.Name] = o.ResourceVersion
	}
	for _, o := range as.Items {
		all["ServiceAccount/"+o.Name] = o.ResourceVersion
	}
	for _, o := range ms.Items {
		all["ConfigMap/"+o.Name] = o.ResourceVersion
	}
	return all
}

func (b *bed) deployment(name string) *appsv1.Deployment {
	b.t.Helper()
	d, err := b.kube.AppsV1().Deployments(b.ns).Get(b.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	return d
}

func (b *bed) last(name string) release.Revision {
	b.t.Helper()
	r, err := b.Last(b.t.Context(), b.ns, name)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func TestInstall(t *testing.T) {
	c := start(t)

	t.Run("a second time changes nothing", func(t *testing.T) {
		b := c.bed(t, "twice")
		b.ready()
		for _, chart := range names(t) {
			b.install(b.release(chart))
		}
		before := b.objects()
		for _, chart := range names(t) {
			b.install(b.release(chart))
		}
		if d := cmp.Diff(before, b.objects()); d != "" {
			t.Errorf("-before +after:\n%s", d)
		}
	})

	t.Run("an upgrade changes what differs", func(t *testing.T) {
		b := c.bed(t, "upgrade")
		b.ready()
		r := b.release("boards")
		b.install(r)
		before := b.deployment("boards")
		r.Values["config"] = `{"seed": 2}`
		r.Values["nodeSelector"] = map[string]any{"a": "b"}
		b.install(r)
		after := b.deployment("boards")
		if before.UID != after.UID || before.Spec.Template.Annotations["checksum/config"] == after.Spec.Template.Annotations["checksum/config"] {
			t.Error("it was not upgraded in place")
		}
		m, err := b.kube.CoreV1().ConfigMaps(b.ns).Get(t.Context(), "boards", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Data["boards.json"]; got != `{"seed": 2}` {
			t.Errorf("config is %s", got)
		}
		delete(r.Values, "nodeSelector")
		for range 4 {
			r.Values["config"] = r.Values["config"].(string) + " "
			b.install(r)
		}
		if s := b.deployment("boards").Spec.Template.Spec.NodeSelector; len(s) != 0 {
			t.Errorf("nodes are still selected by %v", s)
		}
		kept := 0
		for o := range b.objects() {
			if strings.HasPrefix(o, "Secret/sh.helm.release.v1.boards.") {
				kept++
			}
		}
		if got := b.last("boards"); got != (release.Revision{Number: 6, Status: "deployed"}) || kept != 3 {
			t.Errorf("last is %v, %d are kept", got, kept)
		}
	})

	t.Run("what somebody changed is put back", func(t *testing.T) {
		b := c.bed(t, "drift")
		b.ready()
		r := b.release("relay")
		b.install(r)
		scale := []byte(`{"spec":{"replicas":0,"template":{"spec":{"containers":[{"name":"relay","image":"other"}]}}}}`)
		if _, err := b.kube.AppsV1().Deployments(b.ns).Patch(t.Context(), "relay", types.StrategicMergePatchType, scale, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		b.install(r)
		if d := b.deployment("relay"); *d.Spec.Replicas != 1 || d.Spec.Template.Spec.Containers[0].Image == "other" {
			t.Errorf("%d replicas of %s", *d.Spec.Replicas, d.Spec.Template.Spec.Containers[0].Image)
		}
		if err := b.kube.CoreV1().ServiceAccounts(b.ns).Delete(t.Context(), "relay", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		b.install(r)
		if _, ok := b.objects()["ServiceAccount/relay"]; !ok {
			t.Error("the ServiceAccount is missing")
		}
	})

	for _, status := range []string{"pending-install", "pending-upgrade", "pending-rollback", "failed", "uninstalling", "uninstalled", "superseded"} {
		t.Run("mends a release left "+status, func(t *testing.T) {
			b := c.bed(t, "left-"+status)
			b.ready()
			r := b.release("router")
			b.install(r)
			if status == "pending-upgrade" {
				r.Values["namespace"] = "other"
				b.install(r)
			}
			if err := b.Leave(t.Context(), b.ns, "router", status); err != nil {
				t.Fatal(err)
			}
			if err := b.kube.AppsV1().Deployments(b.ns).Delete(t.Context(), "router", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			b.install(r)
			if got := b.last("router").Status; got != "deployed" {
				t.Errorf("it is %s", got)
			}
			b.deployment("router")
		})
	}

	t.Run("a run killed at any moment ends at once and is mended", func(t *testing.T) {
		b := c.bed(t, "killed")
		b.ready()
		moments := 0
		for _, task := range []string{"install", "upgrade", "uninstall"} {
			for n := 1; ; n++ {
				r := b.release("boards")
				before := func() error { return b.Uninstall(t.Context(), b.ns, "boards") }
				if task != "install" {
					before = func() error { return b.Install(t.Context(), r, nil) }
				}
				if err := before(); err != nil {
					t.Fatal(err)
				}
				way, held := hold(t, c.config, n)
				killed := &release.Client{Kubeconfig: way}
				if task == "upgrade" {
					r.Values["config"] = fmt.Sprintf(`{"seed": %d}`, n)
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() {
					if task == "uninstall" {
						done <- killed.Uninstall(ctx, b.ns, "boards")
					} else {
						done <- killed.Install(ctx, r, nil)
					}
				}()
				var err error
				select {
				case <-held:
					cancel()
					select {
					case err = <-done:
					case <-time.After(5 * time.Second):
						t.Fatalf("%s at request %d: it does not end", task, n)
					}
					if !errors.Is(err, context.Canceled) {
						t.Errorf("%s at request %d: got %v", task, n, err)
					}
				case err = <-done:
					cancel()
					if err != nil {
						t.Fatalf("%s, not killed: %v", task, err)
					}
					n = 0 // all moments are through
				}
				if n == 0 {
					break
				}
				moments++
				b.install(r)
				m, err := b.kube.CoreV1().ConfigMaps(b.ns).Get(t.Context(), "boards", metav1.GetOptions{})
				if err != nil {
					t.Fatalf("%s at request %d: %v", task, n, err)
				}
				if got := b.last("boards").Status; got != "deployed" || m.Data["boards.json"] != r.Values["config"] {
					t.Errorf("%s at request %d: then it is %s with config %s", task, n, got, m.Data["boards.json"])
				}
				b.deployment("boards")
			}
		}
		if moments < 12 {
			t.Errorf("killed at %d moments only", moments)
		}
		t.Logf("killed at %d moments", moments)
	})

	t.Run("uninstall", func(t *testing.T) {
		b := c.bed(t, "uninstall")
		b.ready()
		none := b.objects()
		b.install(b.release("telegraf"))
		other := b.release("mapper")
		other.Name = "mapper-edge-1"
		b.install(other)
		if got, err := b.List(t.Context(), b.ns); err != nil || !cmp.Equal(got, []string{"mapper-edge-1", "telegraf"}) {
			t.Errorf("got %v, %v", got, err)
		}
		for range 2 {
			for _, name := range []string{"telegraf", "mapper-edge-1"} {
				if err := b.Uninstall(t.Context(), b.ns, name); err != nil {
					t.Fatal(err)
				}
			}
		}
		if d := cmp.Diff(none, b.objects()); d != "" {
			t.Errorf("-before +after:\n%s", d)
		}
		if got, err := b.List(t.Context(), b.ns); err != nil || len(got) != 0 {
			t.Errorf("got %v, %v", got, err)
		}
	})

	t.Run("all at once", func(t *testing.T) {
		b := c.bed(t, "all")
		b.ready()
		g, ctx := errgroup.WithContext(t.Context())
		for _, chart := range names(t) {
			g.Go(func() error { return b.Install(ctx, b.release(chart), nil) })
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if got, err := b.List(t.Context(), b.ns); err != nil || len(got) != len(names(t)) {
			t.Errorf("got %v, %v", got, err)
		}
	})

	t.Run("Pods of an earlier release end first", func(t *testing.T) {
		b := c.bed(t, "earlier")
		b.ready()
		b.pod(corev1.PodStatus{Phase: corev1.PodRunning}, "", "")
		var once sync.Once
		err := b.Install(t.Context(), b.release("erm"), func(s string) {
			if strings.Contains(s, "erm-1") {
				once.Do(func() {
					if ds, err := b.kube.AppsV1().Deployments(b.ns).List(t.Context(), metav1.ListOptions{}); err != nil || len(ds.Items) > 0 {
						t.Errorf("installed beside them: %v", err)
					}
					if err := b.kube.CoreV1().Pods(b.ns).Delete(t.Context(), "erm-1", metav1.DeleteOptions{}); err != nil {
						t.Error(err)
					}
				})
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		once.Do(func() { t.Error("it did not wait") })
	})

	t.Run("two clusters at once", func(t *testing.T) {
		beds := []*bed{c.bed(t, "both"), start(t).bed(t, "both")}
		var g errgroup.Group
		for i, b := range beds {
			b.ready()
			r := b.release("erm")
			r.Values["image"] = fmt.Sprintf("image:%d", i)
			g.Go(func() error { return b.Install(t.Context(), r, nil) })
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		for i, b := range beds {
			if got, want := b.deployment("erm").Spec.Template.Spec.Containers[0].Image, fmt.Sprintf("image:%d", i); got != want {
				t.Errorf("cluster %d runs %s", i, got)
			}
		}
	})

	t.Run("no namespace", func(t *testing.T) {
		r := release.Release{Name: "erm", Namespace: "nowhere", Chart: "erm", Values: values(t, "erm"), Timeout: 10 * time.Second}
		err := (&release.Client{Kubeconfig: c.kubeconfig}).Install(t.Context(), r, nil)
		if err == nil || !strings.Contains(err.Error(), `install release erm`) || !strings.Contains(err.Error(), `namespaces "nowhere" not found`) {
			t.Errorf("got %v", err)
		}
	})

	t.Run("not ready", func(t *testing.T) { notReady(t, c) })
}

// notReady holds what the error says of Pods that do not become ready.
func notReady(t *testing.T, c *cluster) {
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error",
		Message: "first line\nlevel=ERROR msg=\"erm stopped\" err=\"--kubeconfig: no such file\"\n"}}
	waiting := func(reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
	tests := []struct {
		name    string
		timeout time.Duration
		pod     *corev1.PodStatus // nil: there is none
		node    string
		warning string
		early   bool
		want    []string
		said    string
	}{
		{"no-pod", 2 * time.Second, nil, "", "", false,
			[]string{"Deployment erm: 0 of 1 Pods ready", "there is no Pod of it"}, "Deployment erm: 0 of 1 Pods ready"},
		{"no-image", 3 * time.Second, &corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{Name: "erm", State: waiting("ImagePullBackOff", "Back-off pulling image \"x\"")}}},
			"edge-1", "pull access denied", false,
			[]string{"Pod erm-1 on edge-1: container erm is waiting: ImagePullBackOff: Back-off pulling image \"x\"", "\n    Warning Failed: pull access denied (3 times)"},
			"(erm: ImagePullBackOff)"},
		{"crashes", 15 * time.Second, &corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "erm", RestartCount: 5, State: waiting("CrashLoopBackOff", "back-off 5m0s"), LastTerminationState: ended}}},
			"edge-1", "", true,
			[]string{"waiting does not mend it", "container erm is waiting: CrashLoopBackOff: back-off 5m0s; it ended 5 times, last with exit code 1", "\n    | first line\n    | level=ERROR msg=\"erm stopped\" err=\"--kubeconfig: no such file\""},
			"(erm: CrashLoopBackOff)"},
		{"unready", 3 * time.Second, &corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "erm", State: running}}},
			"edge-1", "Readiness probe failed: waiting for Flavors", false,
			[]string{"container erm runs and is not ready", "Warning Failed: Readiness probe failed: waiting for Flavors", "(its log cannot be had: "}, "(container erm runs and is not ready)"},
		{"no-node", 3 * time.Second, &corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/1 nodes are available"}}},
			"", "", false, []string{"Pod erm-1: no node for it: Unschedulable: 0/1 nodes are available"}, "(no node for it)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := c.bed(t, "unready-"+tt.name)
			r := b.release("erm")
			r.Timeout = tt.timeout
			var said []string
			begin := time.Now()
			err := b.Install(t.Context(), r, func(s string) {
				said = append(said, s)
				if tt.pod != nil && strings.HasPrefix(s, "Deployment erm") {
					b.pod(*tt.pod, tt.node, tt.warning)
					tt.pod = nil
				}
			})
			var failed *release.NotReady
			if !errors.As(err, &failed) {
				t.Fatalf("got %v, want *NotReady", err)
			}
			if took := time.Since(begin); (took < tt.timeout) != tt.early || took > tt.timeout+10*time.Second {
				t.Errorf("it took %s", took)
			}
			for _, w := range append(tt.want, "release erm in unready-"+tt.name+" is not ready after ") {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("the error does not say %q:\n%v", w, err)
				}
			}
			if !strings.Contains(strings.Join(said, "\n"), tt.said) {
				t.Errorf("said %q, want %q", said, tt.said)
			}
			if t.Failed() || testing.Verbose() {
				t.Log(err)
			}
			// Once it can be, a second time is all that is needed.
			b.ready()
			b.install(r)
		})
	}

	t.Run("cancelled", func(t *testing.T) {
		b := c.bed(t, "unready-cancelled")
		ctx, cancel := context.WithCancel(t.Context())
		awaits := make(chan struct{}, 1)
		done := make(chan error, 1)
		go func() {
			done <- b.Install(ctx, b.release("erm"), func(s string) {
				if strings.Contains(s, "0 of 1") {
					select {
					case awaits <- struct{}{}:
					default:
					}
				}
			})
		}()
		await(t, awaits, "the wait for Pods")
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) || errors.As(err, new(*release.NotReady)) {
				t.Errorf("got %v", err)
			}
		case <-time.After(2 * time.Second):
			t.Fatal("it does not end")
		}
	})
}

// pod makes a Pod of release erm, as its controllers and a node would.
func (b *bed) pod(status corev1.PodStatus, node, warning string) {
	b.t.Helper()
	ctx := b.t.Context()
	no := false
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "erm-1", Labels: map[string]string{"app.kubernetes.io/name": "erm", "app.kubernetes.io/instance": "erm"}},
		Spec:       corev1.PodSpec{NodeName: node, AutomountServiceAccountToken: &no, Containers: []corev1.Container{{Name: "erm", Image: "x"}}},
	}
	// The default account is made by a controller too.
	_, err := b.kube.CoreV1().ServiceAccounts(b.ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	if p, err = b.kube.CoreV1().Pods(b.ns).Create(ctx, p, metav1.CreateOptions{}); err != nil {
		b.t.Fatal(err)
	}
	p.Status = status
	if p, err = b.kube.CoreV1().Pods(b.ns).UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
		b.t.Fatal(err)
	}
	if warning == "" {
		return
	}
	e := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: "erm-1.1"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: b.ns, Name: p.Name, UID: p.UID},
		Type:           corev1.EventTypeWarning, Reason: "Failed", Message: warning, Count: 3, LastTimestamp: metav1.Now(),
	}
	if _, err := b.kube.CoreV1().Events(b.ns).Create(ctx, e, metav1.CreateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

// hold is a way to a cluster on which the nth request that changes something is
// never answered, and none after it gets through.
func hold(t *testing.T, config *rest.Config, n int) (kubeconfig string, held chan struct{}) {
	t.Helper()
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(u)
	proxy.Transport = transport
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
		http.Error(w, err.Error(), http.StatusBadGateway)
	}
	held = make(chan struct{})
	var count atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && int(count.Add(1)) >= n {
			// A server notices that its client has gone once it has read what that sent.
			_, _ = io.Copy(io.Discard, r.Body)
			if int(count.Load()) == n {
				close(held)
			}
			<-r.Context().Done()
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return kubeconfigFor(t, srv.URL), held
}

func kubeconfigFor(t *testing.T, server string) string {
	t.Helper()
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["c"] = &clientcmdapi.Cluster{Server: server}
	cfg.Contexts["c"] = &clientcmdapi.Context{Cluster: "c"}
	cfg.CurrentContext = "c"
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*cfg, file); err != nil {
		t.Fatal(err)
	}
	return file
}

func await(t *testing.T, ch <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(20 * time.Second):
		t.Fatalf("waited in vain for %s", what)
	}
}

// TestSilentServer holds that every call ends with its context though the server never answers.
func TestSilentServer(t *testing.T) {
	asked := make(chan struct{}, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	defer srv.Close()
	c := &release.Client{Kubeconfig: kubeconfigFor(t, srv.URL)}
	calls := map[string]func(context.Context) error{
		"Install": func(ctx context.Context) error {
			return c.Install(ctx, release.Release{Name: "erm", Namespace: "x", Chart: "erm", Values: values(t, "erm")}, nil)
		},
		"Uninstall": func(ctx context.Context) error { return c.Uninstall(ctx, "x", "erm") },
		"List":      func(ctx context.Context) error { _, err := c.List(ctx, "x"); return err },
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- call(ctx) }()
			await(t, asked, "a request")
			cancel()
			select {
			case err := <-done:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
			case <-time.After(2 * time.Second):
				t.Fatal("it does not end")
			}
		})
	}
	t.Run("Timeout", func(t *testing.T) {
		err := c.Install(t.Context(), release.Release{Name: "erm", Namespace: "x", Chart: "erm", Values: values(t, "erm"), Timeout: 100 * time.Millisecond}, nil)
		if err == nil || !strings.Contains(err.Error(), "the 100ms given are over") {
			t.Errorf("got %v", err)
		}
	})
}
