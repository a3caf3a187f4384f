package relay_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/relay"
)

// TestRun is the whole relay against a real API server.
func TestRun(t *testing.T) {
	assets := os.Getenv("TESTBED_ASSETS")
	if assets == "" {
		t.Skip("skipped: TESTBED_ASSETS does not point to a folder with etcd and kube-apiserver")
	}
	env := &envtest.Environment{BinaryAssetsDirectory: assets, CRDDirectoryPaths: []string{"../../charts/crds"}, ErrorIfCRDPathMissing: true,
		ControlPlaneStartTimeout: time.Minute}
	config, err := env.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = env.Stop() })
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), sensors.AddToScheme(scheme), nodecore.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	create := func(o client.Object) {
		t.Helper()
		o.SetUID("")
		o.SetResourceVersion("")
		if err := c.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	for _, ns := range []string{"fluidos", "consumer-1"} {
		create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
	}
	f := flavor("d1", "12")
	create(&f)

	dir := t.TempDir()
	for name, content := range map[string][]byte{"kubeconfig": env.KubeConfig, "key": append(key, '\n')} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ingest, admin := freeAddress(t), freeAddress(t)
	b := &bed{T: t, ingest: "http://" + ingest, admin: "http://" + admin}
	ctx, cancel := context.WithCancel(context.Background())
	done, ready := make(chan error, 1), make(chan error, 10)
	go func() {
		done <- relay.Run(ctx, slog.New(slog.NewTextHandler(t.Output(), nil)), func(reason error) {
			select {
			case ready <- reason:
			default: // the test has seen enough
			}
		}, &relay.Options{
			Kubeconfig: filepath.Join(dir, "kubeconfig"), Namespace: "fluidos", Ingest: ingest, Admin: admin,
			CapabilityKey: filepath.Join(dir, "key"), Queue: 4096, Metrics: prometheus.NewRegistry(),
		})
	}()
	for reason := range ready {
		if reason == nil {
			break
		}
	}
	b.send("d1", line("d1", 1))

	s := newSink(t, nil)
	dp := path("p", s.URL)
	create(&dp)
	b.until(func() string {
		if a, _ := b.poll(""); !a.Synced || len(a.DataPaths) != 1 || a.DataPaths[0].UID != string(dp.UID) || a.DataPaths[0].Matched != 1 {
			return fmt.Sprintf("%+v", a)
		}
		return ""
	})
	b.send("d1", lines("d1", 2, 5))
	b.untilKept(s, lines("d1", 2, 5))
	if err := c.Delete(t.Context(), &f); err != nil {
		t.Fatal(err)
	}
	b.until(func() string {
		if code := b.post(b.urlOf("d1"), line("d1", 6)); code != http.StatusNotFound {
			return fmt.Sprintf("%d for a sensor that is not on offer any more", code)
		}
		return ""
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Run says which setting is wrong.
func TestRunSettings(t *testing.T) {
	dir := t.TempDir()
	short, good := filepath.Join(dir, "short"), filepath.Join(dir, "good")
	for name, content := range map[string]string{short: "  short \n", good: "0123456789abcdef"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		opts relay.Options
		want string
	}{
		{relay.Options{CapabilityKey: filepath.Join(dir, "none"), Queue: 1}, "--capability-key: "},
		{relay.Options{CapabilityKey: short, Queue: 1}, "holds 5 bytes, want at least 16"},
		{relay.Options{CapabilityKey: good}, "--queue is 0"},
		{relay.Options{CapabilityKey: good, Queue: 1, Kubeconfig: filepath.Join(dir, "none")}, "--kubeconfig: "},
	} {
		err := relay.Run(t.Context(), slog.New(slog.DiscardHandler), func(error) {}, &tc.opts)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("error %v, want %q", err, tc.want)
		}
	}
}
