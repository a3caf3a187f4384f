package kind

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/keyutil"

	"github.com/fluidos-edge/testbed/testbed/internal/backend"
	"github.com/fluidos-edge/testbed/testbed/internal/kube"
	"github.com/fluidos-edge/testbed/testbed/internal/pki"
	"github.com/fluidos-edge/testbed/testbed/internal/state"
)

// credentials are a key and a certificate of one user of the cluster, and the CA of its
// API server, as files of this host. The cluster signs: its CA's key stays in it.
type credentials struct{ caFile, certFile, keyFile string }

// user reads or makes a user's credentials.
func (c *cluster) user(ctx context.Context, user string) (credentials, error) {
	dir, name := c.b.Layout().PKI(c.name), backend.UserFile(user)
	cred := credentials{filepath.Join(dir, "ca.crt"), filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")}
	if _, err := os.Stat(cred.certFile); err == nil {
		return cred, nil
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", c.b.Layout().AdminKubeconfig(c.name))
	if err != nil {
		return cred, err
	}
	if err := state.WriteFile(cred.caFile, cfg.CAData); err != nil {
		return cred, err
	}
	if cred.keyFile, _, err = pki.Key(dir, name); err != nil {
		return cred, err
	}
	request, err := signingRequest(cred.keyFile, user)
	if err != nil {
		return cred, err
	}
	set, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return cred, err
	}
	cert, err := sign(ctx, set, name, request)
	if err != nil {
		return cred, fmt.Errorf("certificate of %s at %s: %w", user, c.name, err)
	}
	return cred, state.WriteFile(cred.certFile, cert)
}

func signingRequest(keyFile, user string) ([]byte, error) {
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	key, err := keyutil.ParsePrivateKeyPEM(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: a %T cannot sign", keyFile, key)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: user}}, signer)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// sign has the cluster sign a request, and leaves no request behind.
func sign(ctx context.Context, set kubernetes.Interface, name string, request []byte) (cert []byte, err error) {
	requests := set.CertificatesV1().CertificateSigningRequests()
	r, err := requests.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "testbed-" + name + "-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: request, SignerName: certificatesv1.KubeAPIServerClientSignerName,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err = errors.Join(err, requests.Delete(ctx, r.Name, metav1.DeleteOptions{}))
	}()
	r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Testbed", Message: "made by testbed up",
	})
	if _, err := requests.UpdateApproval(ctx, r.Name, r, metav1.UpdateOptions{}); err != nil {
		return nil, err
	}
	last := "no answer"
	err = wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		now, err := requests.Get(ctx, r.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		cert = now.Status.Certificate
		for _, cond := range now.Status.Conditions {
			last = string(cond.Type) + " " + cond.Message
		}
		return len(cert) > 0, nil
	})
	if err != nil {
		return nil, fmt.Errorf("not signed: %s: %w", last, err)
	}
	return cert, nil
}

// consumerKubeconfig writes what a consumer logs in with from this host.
func (c *cluster) consumerKubeconfig(ctx context.Context, consumer string) error {
	user := kube.ConsumerUser(consumer)
	cred, err := c.user(ctx, user)
	if err != nil {
		return err
	}
	l := c.b.Layout()
	content, err := kube.Kubeconfig(c.name, l.Server(c.name), cred.caFile, user, cred.certFile, cred.keyFile)
	if err != nil {
		return err
	}
	return state.WriteFile(l.ConsumerKubeconfig(consumer, c.name), content)
}

// podKubeconfig is a kubeconfig that holds its credentials, for a Pod of an edge node,
// where there are no Services: it reaches the API server by its node's name.
func (c *cluster) podKubeconfig(ctx context.Context, user string) ([]byte, error) {
	cred, err := c.user(ctx, user)
	if err != nil {
		return nil, err
	}
	var content [3][]byte
	for i, f := range []string{cred.caFile, cred.certFile, cred.keyFile} {
		if content[i], err = os.ReadFile(f); err != nil {
			return nil, err
		}
	}
	k := clientcmdapi.NewConfig()
	k.Clusters[c.name] = &clientcmdapi.Cluster{Server: "https://" + c.b.node(c.name) + ":6443", CertificateAuthorityData: content[0]}
	k.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: content[1], ClientKeyData: content[2]}
	k.Contexts[c.name] = &clientcmdapi.Context{Cluster: c.name, AuthInfo: user}
	k.CurrentContext = c.name
	return clientcmd.Write(*k)
}
