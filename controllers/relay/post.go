package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/fluidos-edge/testbed/controllers/api/accounts"
)

// bodyTime is how long the rest of an answer may take whose status is known.
const bodyTime = time.Second

// failure is why an endpoint did not take what was posted to it.
//
// Its text reaches the consumer, who chose the URL: it must say nothing that an
// answer holds beyond the status code, or the relay would read for the consumer
// what only the provider can reach. It is also the same for all attempts that
// fail for one cause, so that it does not change a status again and again. It is
// therefore never made from the text of an error.
type failure struct {
	reason string // one of accounts.Reason...
	text   string
}

func (f failure) Error() string { return f.text }

// newTransport returns what posts go through. A RoundTripper does not follow
// redirects: one would send samples to where no DataPath said.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		MaxIdleConnsPerHost: 32,
		IdleConnTimeout:     90 * time.Second,
	}
}

// hideUnsolicited keeps what endpoints send after their answers out of the
// standard logger's output: http.Transport quotes it there, and has no setting
// against that.
func hideUnsolicited() {
	if _, hidden := log.Writer().(unsolicitedFilter); !hidden {
		log.SetOutput(unsolicitedFilter{log.Writer()})
	}
}

// unsolicitedFilter drops the messages of http.Transport about bytes that belong to
// no answer.
type unsolicitedFilter struct{ io.Writer }

func (f unsolicitedFilter) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("Unsolicited response received on idle HTTP channel")) {
		return len(line), nil
	}
	return f.Writer.Write(line)
}

// post a body once. It returns nil if the endpoint took it, and else a failure.
func post(ctx context.Context, transport http.RoundTripper, to string, body []byte) error {
	if u, err := url.Parse(to); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return failure{accounts.ReasonInvalidURL, "its URL is not one that can be posted to"}
	}
	ctx, cancel := context.WithTimeout(ctx, postTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return failure{accounts.ReasonInvalidURL, "its URL is not one that can be posted to"}
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return failureOf(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		// A body that was read lets the connection be used again.
		late := time.AfterFunc(bodyTime, cancel)
		defer late.Stop()
		_, _ = io.CopyN(io.Discard, resp.Body, 16<<10)
	}
	return judge(resp.StatusCode)
}

// judge an answer by its status code: nil if the body was taken.
func judge(code int) error {
	answered := fmt.Sprintf("answered %d", code)
	if text := http.StatusText(code); text != "" {
		answered += " " + text
	}
	switch {
	case code/100 == 2:
		return nil
	case code/100 == 3:
		return failure{accounts.ReasonRedirects, answered + "; redirects are not followed"}
	case code == http.StatusBadRequest, code == http.StatusRequestEntityTooLarge,
		code == http.StatusUnsupportedMediaType, code == http.StatusUnprocessableEntity:
		// Its judgement of the content: sending the same again cannot help.
		return failure{accounts.ReasonRefusesSamples, answered + "; refused samples are dropped"}
	}
	// Everything else is about the endpoint (its credentials, its path, its
	// load), which people and time mend: the samples wait.
	return failure{accounts.ReasonAnswersError, answered}
}

// closedIdle is an error of http.Transport that has no other name: the connection
// was closed before the request was sent.
const closedIdle = "http: server closed idle connection"

// failureOf an attempt that got no answer.
func failureOf(err error) failure {
	var (
		lookup    *net.DNSError
		address   *net.AddrError
		timeout   net.Error
		op        *net.OpError
		errno     syscall.Errno
		alert     tls.AlertError
		record    tls.RecordHeaderError
		untrusted x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &lookup) && lookup.IsNotFound:
		return failure{accounts.ReasonHostNotFound, "no such host"}
	case errors.As(err, &lookup):
		return failure{accounts.ReasonHostNotFound, "its host could not be looked up"}
	case errors.As(err, &address):
		return failure{accounts.ReasonInvalidURL, "its URL is not one that can be posted to"}
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return noAnswer
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record):
		return failure{accounts.ReasonTLS, "does not speak TLS"}
	case errors.As(err, &untrusted):
		return failure{accounts.ReasonTLS, "its certificate is not signed by a trusted authority"}
	case errors.As(err, &host):
		return failure{accounts.ReasonTLS, "its certificate is not valid for the URL's host"}
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return failure{accounts.ReasonTLS, "its certificate has expired or is not valid yet"}
	case errors.As(err, &verify):
		return failure{accounts.ReasonTLS, "its certificate is not valid"}
	case errors.As(err, &alert), errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"):
		return failure{accounts.ReasonTLS, "TLS handshake failed"}
	case errors.Is(err, syscall.ECONNREFUSED):
		return failure{accounts.ReasonConnectionRefused, "connection refused"}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), strings.HasSuffix(err.Error(), closedIdle):
		return failure{accounts.ReasonUnreachable, "connection closed without an answer"}
	case errors.As(err, &errno):
		return failure{accounts.ReasonUnreachable, errno.Error()}
	}
	return failure{accounts.ReasonAnswersError, "no valid HTTP answer"}
}
