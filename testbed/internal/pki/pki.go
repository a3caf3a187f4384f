// Package pki makes the certificates of a testbed: a CA for each cluster and
// one for each etcd, with what they sign. Files are written once and kept:
// a second call with the same names reads them back, so that what runs goes on
// with the keys that it has. Keys are ECDSA P-256, files 0600.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// validity of everything: a testbed that is older is brought up anew.
const validity = 5 * 365 * 24 * time.Hour

// Pair is a certificate with its key, as files.
type Pair struct {
	CertFile, KeyFile string
}

// CA signs certificates. It keeps its files in one folder.
type CA struct {
	Pair
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA reads or makes the CA in dir/ca.crt and dir/ca.key.
func NewCA(dir, name string) (*CA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	p := pair(dir, "ca")
	cert, key, err := read(p)
	if errors.Is(err, fs.ErrNotExist) {
		t, terr := template(pkix.Name{CommonName: name})
		if terr != nil {
			return nil, terr
		}
		t.IsCA, t.BasicConstraintsValid = true, true
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
		cert, key, err = sign(p, t, nil, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate authority %s: %w", name, err)
	}
	return &CA{Pair: p, dir: dir, cert: cert, key: key}, nil
}

// Server reads or makes a certificate for loopback listeners, also good as a
// client's (etcd peers are both).
func (c *CA) Server(file, commonName string, dnsNames ...string) (Pair, error) {
	return c.issue(file, pkix.Name{CommonName: commonName}, func(t *x509.Certificate) {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		t.DNSNames = append([]string{"localhost"}, dnsNames...)
		t.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	})
}

// Client reads or makes a client's certificate: user is its common name, groups
// its organizations.
func (c *CA) Client(file, user string, groups ...string) (Pair, error) {
	return c.issue(file, pkix.Name{CommonName: user, Organization: groups}, func(t *x509.Certificate) {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
}

// Key reads or makes a key without a certificate, for signing tokens; the
// public half is beside it in <file>.pub.
func Key(dir, file string) (private, public string, err error) {
	private, public = filepath.Join(dir, file+".key"), filepath.Join(dir, file+".pub")
	if _, err := os.Stat(public); err == nil {
		return private, public, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	if err := writeKey(private, key); err != nil {
		return "", "", err
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return "", "", err
	}
	return private, public, writePEM(public, "PUBLIC KEY", der)
}

func (c *CA) issue(file string, subject pkix.Name, edit func(*x509.Certificate)) (Pair, error) {
	p := pair(c.dir, file)
	if _, _, err := read(p); err == nil {
		return p, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Pair{}, fmt.Errorf("certificate %s: %w", p.CertFile, err)
	}
	t, err := template(subject)
	if err != nil {
		return Pair{}, err
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	edit(t)
	if _, _, err := sign(p, t, c.cert, c.key); err != nil {
		return Pair{}, fmt.Errorf("certificate %s: %w", p.CertFile, err)
	}
	return p, nil
}

func pair(dir, file string) Pair {
	return Pair{CertFile: filepath.Join(dir, file+".crt"), KeyFile: filepath.Join(dir, file+".key")}
}

func template(subject pkix.Name) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{SerialNumber: serial, Subject: subject, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(validity)}, nil
}

// sign makes a key and has it certified by parent, or by itself. The
// certificate is written last: where it is, the key is too.
func sign(p Pair, t, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if parent == nil {
		parent, parentKey = t, key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, parentKey)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	if err := writeKey(p.KeyFile, key); err != nil {
		return nil, nil, err
	}
	return cert, key, writePEM(p.CertFile, "CERTIFICATE", der)
}

func writeKey(file string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(file, "EC PRIVATE KEY", der)
}

func writePEM(file, kind string, der []byte) error {
	tmp := file + ".new"
	if err := os.WriteFile(tmp, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}

func read(p Pair) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	certPEM, err := os.ReadFile(p.CertFile)
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err := os.ReadFile(p.KeyFile)
	if err != nil {
		return nil, nil, err
	}
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return nil, nil, fmt.Errorf("%s or %s is not PEM; take the testbed down and bring it up again", p.CertFile, p.KeyFile)
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, nil, err
	}
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	return cert, key, err
}
