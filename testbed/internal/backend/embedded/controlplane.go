package embedded

import (
	"fmt"

	"github.com/fluidos-edge/testbed/testbed/internal/backend"
	"github.com/fluidos-edge/testbed/testbed/internal/kube"
	"github.com/fluidos-edge/testbed/testbed/internal/pki"
	"github.com/fluidos-edge/testbed/testbed/internal/process"
	"github.com/fluidos-edge/testbed/testbed/internal/state"
)

// controllers that a cluster without kubelets of its own needs.
const controllers = "clusterrole-aggregation-controller,garbage-collector-controller,namespace-controller," +
	"node-lifecycle-controller,root-ca-certificate-publisher-controller,serviceaccount-controller,serviceaccount-token-controller"

// controlPlane writes what one cluster's control plane reads, and specifies its processes.
func (b *Backend) controlPlane(cluster string, n int) ([]process.Spec, error) {
	l := b.layout
	etcdCA, err := pki.NewCA(l.EtcdPKI(cluster), "etcd of "+cluster)
	if err != nil {
		return nil, err
	}
	etcdServer, err := etcdCA.Server("server", "etcd")
	if err != nil {
		return nil, err
	}
	etcdClient, err := etcdCA.Client("apiserver", "kube-apiserver")
	if err != nil {
		return nil, err
	}
	ca, err := pki.NewCA(l.PKI(cluster), cluster)
	if err != nil {
		return nil, err
	}
	server, err := ca.Server("apiserver", "kube-apiserver", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
	if err != nil {
		return nil, err
	}
	managerServer, err := ca.Server("manager-server", "kube-controller-manager")
	if err != nil {
		return nil, err
	}
	tokenKey, tokenPub, err := pki.Key(l.PKI(cluster), "service-accounts")
	if err != nil {
		return nil, err
	}
	admin, err := b.kubeconfig(ca, cluster, l.AdminKubeconfig(cluster), "testbed:admin", "system:masters")
	if err != nil {
		return nil, err
	}
	if _, err := b.kubeconfig(ca, cluster, l.ComponentKubeconfig(cluster, manager), "system:kube-controller-manager"); err != nil {
		return nil, err
	}
	etcdURL, peerURL := "https://"+l.Addr(cluster, etcd, ""), "https://"+l.Addr(cluster, etcd, "peer")
	return []process.Spec{
		{
			Name: cluster + "/" + etcd, Path: b.assets.Path("etcd"), URL: etcdURL,
			Args: []string{
				"--name=" + cluster, "--data-dir=" + l.Data(cluster, etcd), "--log-level=warn",
				"--listen-client-urls=" + etcdURL, "--advertise-client-urls=" + etcdURL,
				"--listen-peer-urls=" + peerURL, "--initial-advertise-peer-urls=" + peerURL,
				"--initial-cluster=" + cluster + "=" + peerURL,
				"--cert-file=" + etcdServer.CertFile, "--key-file=" + etcdServer.KeyFile,
				"--client-cert-auth", "--trusted-ca-file=" + etcdCA.CertFile,
				"--peer-cert-file=" + etcdServer.CertFile, "--peer-key-file=" + etcdServer.KeyFile,
				"--peer-client-cert-auth", "--peer-trusted-ca-file=" + etcdCA.CertFile,
				// A testbed that loses power is brought up anew.
				"--unsafe-no-fsync",
			},
			Probe: process.Probe{URL: etcdURL + "/health", CAFile: etcdCA.CertFile, CertFile: etcdClient.CertFile, KeyFile: etcdClient.KeyFile},
		},
		{
			Name: cluster + "/" + apiserver, Path: b.assets.Path("kube-apiserver"), URL: l.Server(cluster),
			Args: []string{
				"--etcd-servers=" + etcdURL, "--etcd-cafile=" + etcdCA.CertFile,
				"--etcd-certfile=" + etcdClient.CertFile, "--etcd-keyfile=" + etcdClient.KeyFile,
				"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
				fmt.Sprintf("--secure-port=%d", l.Rec.Ports[backend.Port(cluster, apiserver, "")]),
				"--tls-cert-file=" + server.CertFile, "--tls-private-key-file=" + server.KeyFile,
				"--client-ca-file=" + ca.CertFile, "--anonymous-auth=false", "--authorization-mode=RBAC",
				"--service-account-issuer=https://kubernetes.default.svc",
				"--service-account-key-file=" + tokenPub, "--service-account-signing-key-file=" + tokenKey,
				"--service-cluster-ip-range=" + serviceRange(n),
				"--enable-priority-and-fairness=false", "--profiling=false", "--v=0",
			},
			Probe: process.Probe{URL: l.Server(cluster) + "/readyz", CAFile: ca.CertFile, CertFile: admin.CertFile, KeyFile: admin.KeyFile},
		},
		{
			Name: cluster + "/" + manager, Path: b.assets.Path("kube-controller-manager"),
			URL: "https://" + l.Addr(cluster, manager, ""),
			Args: []string{
				"--kubeconfig=" + l.ComponentKubeconfig(cluster, manager), "--controllers=" + controllers,
				"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", l.Rec.Ports[backend.Port(cluster, manager, "")]),
				"--tls-cert-file=" + managerServer.CertFile, "--tls-private-key-file=" + managerServer.KeyFile,
				"--service-account-private-key-file=" + tokenKey, "--root-ca-file=" + ca.CertFile,
				"--leader-elect=false", "--profiling=false", "--v=0",
				// Leases are renewed every 10 s; two may be missed.
				"--node-monitor-grace-period=30s", "--node-monitor-period=2s",
			},
			Probe: process.Probe{URL: "https://" + l.Addr(cluster, manager, "") + "/healthz", CAFile: ca.CertFile},
		},
	}, nil
}

// kubeconfig writes a kubeconfig for a user of a cluster, with a certificate of its own.
func (b *Backend) kubeconfig(ca *pki.CA, cluster, file, user string, groups ...string) (pki.Pair, error) {
	pair, err := ca.Client(backend.UserFile(user), user, groups...)
	if err != nil {
		return pki.Pair{}, err
	}
	content, err := kube.Kubeconfig(cluster, b.layout.Server(cluster), ca.CertFile, user, pair.CertFile, pair.KeyFile)
	if err != nil {
		return pki.Pair{}, err
	}
	return pair, state.WriteFile(file, content)
}
