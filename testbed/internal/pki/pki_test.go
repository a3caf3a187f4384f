package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/fluidos-edge/testbed/testbed/internal/pki"
)

func ca(t *testing.T, dir, name string) *pki.CA {
	t.Helper()
	c, err := pki.NewCA(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAClientOfAnotherCAIsRefused(t *testing.T) {
	dir := t.TempDir()
	cluster, etcd := ca(t, filepath.Join(dir, "cluster"), "cluster"), ca(t, filepath.Join(dir, "etcd"), "etcd")
	serverPair, err := etcd.Server("server", "etcd")
	if err != nil {
		t.Fatal(err)
	}
	serverCert, err := tls.LoadX509KeyPair(serverPair.CertFile, serverPair.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pem, _ := os.ReadFile(etcd.CertFile)
	pool.AppendCertsFromPEM(pem)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{serverCert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	srv.Config.ErrorLog = nil
	srv.StartTLS()
	defer srv.Close()

	get := func(signer *pki.CA) (string, error) {
		p, err := signer.Client("user", "testbed:consumer:consumer-1")
		if err != nil {
			t.Fatal(err)
		}
		cert, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}}}
		defer c.CloseIdleConnections()
		resp, err := c.Get(srv.URL)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	if who, err := get(etcd); err != nil || who != "testbed:consumer:consumer-1" {
		t.Errorf("own client: %q, %v", who, err)
	}
	if who, err := get(cluster); err == nil {
		t.Errorf("a client that another CA signed was let in as %q", who)
	}
}

func TestFilesAreKeptAndPrivate(t *testing.T) {
	dir := t.TempDir()
	first, err := ca(t, dir, "x").Client("a", "a")
	if err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(first.CertFile)
	again, err := ca(t, dir, "x").Client("a", "a")
	if err != nil {
		t.Fatal(err)
	}
	after, _ := os.ReadFile(again.CertFile)
	if string(before) != string(after) {
		t.Error("the certificate was made anew")
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, _ := e.Info(); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
}
