package process

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	probeStarting = 50 * time.Millisecond // between probes until the first success
	probeRunning  = time.Second           // and after it
	probeTimeout  = 3 * time.Second
	probeMisses   = 2 // failures in a row that make a ready component not ready
	settled       = 200 * time.Millisecond
)

// prober asks one process whether it is ready.
type prober struct {
	Probe
	client *http.Client // of a URL, made at the first probe
}

// ask returns nil if the component is ready, else what was observed.
func (p *prober) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	switch {
	case p.URL != "":
		return p.get(ctx)
	case p.Unix != "":
		return dial(ctx, "unix", p.Unix)
	case p.TCP != "":
		return dial(ctx, "tcp", p.TCP)
	}
	return nil
}

// close gives up the connections.
func (p *prober) close() {
	if p.client != nil {
		p.client.CloseIdleConnections()
	}
}

func dial(ctx context.Context, network, addr string) error {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return err
	}
	return c.Close()
}

func (p *prober) get(ctx context.Context) error {
	if p.client == nil {
		c, err := p.Probe.client()
		if err != nil {
			return err
		}
		p.client = c
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL, nil)
	if err != nil {
		return err
	}
	res, err := p.client.Do(req)
	if err != nil {
		return err // names method and URL
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return fmt.Errorf("GET %s: %w", p.URL, err)
	}
	if res.StatusCode != http.StatusOK {
		text := strings.TrimSpace(string(body))
		if len(text) > 300 {
			text = "..." + strings.ToValidUTF8(text[len(text)-300:], "") // of a list of checks the last line sums up
		}
		return fmt.Errorf("GET %s: %s: %s", p.URL, res.Status, text)
	}
	return nil
}

// client makes a client that trusts CAFile and shows CertFile. Redirects are
// answers, not orders.
func (p Probe) client() (*http.Client, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if p.CAFile != "" {
		pem, err := os.ReadFile(p.CAFile)
		if err != nil {
			return nil, fmt.Errorf("probe: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("probe: %s holds no certificate", p.CAFile)
		}
	}
	if p.CertFile != "" || p.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("probe: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return &http.Client{
		Transport: &http.Transport{TLSClientConfig: conf, MaxIdleConnsPerHost: 1},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}, nil
}
