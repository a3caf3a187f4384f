package scenarios_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"
	"sigs.k8s.io/e2e-framework/pkg/types"

	"github.com/fluidos-edge/testbed/testbed"
)

// isolation shows what a consumer can reach with its credentials, and what it
// cannot. Each refusal has a control beside it that is let in.
func isolation(status *testbed.Status) types.Feature {
	me, other, provider := status.Consumers[0], status.Consumers[1], status.Providers[0]
	kubeconfig := provider.ConsumerKubeconfigs[me.Name]
	assess := func(check func(ctx context.Context, t *testing.T)) types.StepFunc {
		return func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			limited, cancel := context.WithTimeout(ctx, 30*time.Second)
			defer cancel()
			check(limited, t)
			return ctx
		}
	}
	return features.New("isolation").
		Assess("a consumer keeps DataPaths in its own namespace only", assess(func(ctx context.Context, t *testing.T) {
			cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				t.Fatal(err)
			}
			c, err := rest.HTTPClientFor(cfg)
			if err != nil {
				t.Fatal(err)
			}
			for path, want := range map[string]int{
				"/apis/sensors.fluidos.eu/v1alpha1/namespaces/" + me.Name + "/datapaths":           200,
				"/apis/sensors.fluidos.eu/v1alpha1/namespaces/" + other.Name + "/datapaths":        403,
				"/apis/sensors.fluidos.eu/v1alpha1/datapaths":                                      403,
				"/apis/nodecore.fluidos.eu/v1alpha1/namespaces/" + provider.Namespace + "/flavors": 403,
				"/apis/rules.kubeedge.io/v1/namespaces/" + provider.Namespace + "/rules":           403,
				"/api/v1/namespaces/" + me.Name + "/secrets":                                       403,
				"/api/v1/nodes": 403,
			} {
				if got := answer(ctx, t, c, cfg.Host+path, ""); got != want {
					t.Errorf("%s at %s answered %d, want %d", me.Name, path, got, want)
				}
			}
		})).
		Assess("a consumer reads its own InfluxDB only", assess(func(ctx context.Context, t *testing.T) {
			query := "/query?" + url.Values{"q": {"SHOW MEASUREMENTS"}, "db": {"sensors"}}.Encode()
			for _, row := range []struct {
				url, token string
				want       int
			}{
				{me.InfluxDB.URL, me.InfluxDB.Token, 200},
				{other.InfluxDB.URL, me.InfluxDB.Token, 401},
				{me.InfluxDB.URL, "", 401},
			} {
				if got := answer(ctx, t, http.DefaultClient, row.url+query, row.token); got != row.want {
					t.Errorf("%s answered %d, want %d", row.url, got, row.want)
				}
			}
		})).
		Assess("no certificate of a cluster opens its etcd", assess(func(ctx context.Context, t *testing.T) {
			etcd := component(t, status, provider.Name+"/etcd")
			server := component(t, status, provider.Name+"/kube-apiserver")
			ca := argument(t, etcd.Args, "--trusted-ca-file")
			cfg, err := clientcmd.LoadFromFile(kubeconfig)
			if err != nil {
				t.Fatal(err)
			}
			for _, user := range cfg.AuthInfos {
				if err := get(ctx, t, etcd.URL+"/health", ca, user.ClientCertificate, user.ClientKey); err == nil {
					t.Errorf("etcd let %s in", me.Name)
				}
			}
			certFile, keyFile := argument(t, server.Args, "--etcd-certfile"), argument(t, server.Args, "--etcd-keyfile")
			if err := get(ctx, t, etcd.URL+"/health", ca, certFile, keyFile); err != nil {
				t.Errorf("etcd refused its own API server: %v", err)
			}
		})).
		Feature()
}

func answer(ctx context.Context, t *testing.T, c *http.Client, url, token string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Token "+token)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// get with a client certificate from a server that ca has signed.
func get(ctx context.Context, t *testing.T, url, ca, certFile, keyFile string) error {
	t.Helper()
	pem, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}}}
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return nil
}

func component(t *testing.T, status *testbed.Status, name string) testbed.Component {
	t.Helper()
	for _, c := range status.Components {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no component %s", name)
	return testbed.Component{}
}

func argument(t *testing.T, args []string, name string) string {
	t.Helper()
	for _, a := range args {
		if value, ok := strings.CutPrefix(a, name+"="); ok {
			return value
		}
	}
	t.Fatalf("no argument %s", name)
	return ""
}
