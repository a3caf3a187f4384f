package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fluidos-edge/testbed/controllers/api/accounts"
)

// The tests of failures are inside the package: not each can be had from a real
// endpoint in little time.

func TestFailureOf(t *testing.T) {
	const canary = "c4n4ry"
	dial := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 40001}, Err: err}
	}
	errno := func(n syscall.Errno) error { return dial(os.NewSyscallError("connect", n)) }
	verify := func(err error) error { return &tls.CertificateVerificationError{Err: err} }
	certificate := &x509.Certificate{DNSNames: []string{canary}}
	for _, tc := range []struct {
		err          error
		reason, text string
	}{
		{errno(syscall.ECONNREFUSED), accounts.ReasonConnectionRefused, "connection refused"},
		{errno(syscall.EHOSTUNREACH), accounts.ReasonUnreachable, "no route to host"},
		{errno(syscall.ENETUNREACH), accounts.ReasonUnreachable, "network is unreachable"},
		{errno(syscall.EMFILE), accounts.ReasonUnreachable, "too many open files"},
		{errno(syscall.ETIMEDOUT), accounts.ReasonNoAnswer, "no answer within 5s"},
		{&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, accounts.ReasonUnreachable, "connection closed without an answer"},
		{&net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EPIPE)}, accounts.ReasonUnreachable, "connection closed without an answer"},
		{errors.New("http: server closed idle connection"), accounts.ReasonUnreachable, "connection closed without an answer"},
		{io.EOF, accounts.ReasonUnreachable, "connection closed without an answer"},
		{fmt.Errorf("transport connection broken: %w", io.ErrUnexpectedEOF), accounts.ReasonUnreachable, "connection closed without an answer"},
		{context.DeadlineExceeded, accounts.ReasonNoAnswer, "no answer within 5s"},
		{dial(os.ErrDeadlineExceeded), accounts.ReasonNoAnswer, "no answer within 5s"},
		{dial(&net.DNSError{Err: "no such host", Name: "h", Server: "192.0.2.1:53", IsNotFound: true}), accounts.ReasonHostNotFound, "no such host"},
		{dial(&net.DNSError{Err: "i/o timeout", Name: "h", Server: "192.0.2.1:53", IsTimeout: true}), accounts.ReasonHostNotFound, "its host could not be looked up"},
		{dial(&net.DNSError{UnwrapErr: syscall.ECONNREFUSED, Err: "read udp 192.0.2.1:40001->192.0.2.1:53: connection refused"}),
			accounts.ReasonHostNotFound, "its host could not be looked up"},
		{verify(x509.UnknownAuthorityError{Cert: certificate}), accounts.ReasonTLS, "its certificate is not signed by a trusted authority"},
		{verify(x509.HostnameError{Certificate: certificate, Host: "h"}), accounts.ReasonTLS, "its certificate is not valid for the URL's host"},
		{verify(x509.CertificateInvalidError{Cert: certificate, Reason: x509.Expired, Detail: canary}), accounts.ReasonTLS, "its certificate has expired or is not valid yet"},
		{verify(x509.CertificateInvalidError{Cert: certificate, Reason: x509.TooManyConstraints, Detail: canary}), accounts.ReasonTLS, "its certificate is not valid"},
		{verify(x509.UnhandledCriticalExtension{}), accounts.ReasonTLS, "its certificate is not valid"},
		{&net.OpError{Op: "remote error", Err: tls.AlertError(40)}, accounts.ReasonTLS, "TLS handshake failed"},
		{&net.OpError{Op: "local error", Err: errors.New(canary)}, accounts.ReasonTLS, "TLS handshake failed"},
		{tls.RecordHeaderError{Msg: canary}, accounts.ReasonTLS, "does not speak TLS"},
		{http.ErrSchemeMismatch, accounts.ReasonTLS, "does not speak TLS"},
		{errors.New("malformed HTTP response " + canary), accounts.ReasonAnswersError, "no valid HTTP answer"},
	} {
		for _, err := range []error{tc.err, fmt.Errorf(canary+": %w", tc.err)} {
			if got, want := failureOf(err), (failure{tc.reason, tc.text}); got != want {
				t.Errorf("%T %v: %+v, want %+v", tc.err, err, got, want)
			}
		}
	}
}

// An attempt that times out says the same as one that is still unanswered.
func TestPostTimesOut(t *testing.T) {
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		<-req.Context().Done()
	}))
	defer hanging.Close()
	noRoute := newTransport()
	noRoute.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	for name, transport := range map[string]http.RoundTripper{"answer": newTransport(), "connection": noRoute} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := post(ctx, transport, hanging.URL, []byte("x")); err != noAnswer {
			t.Errorf("%s: %v, want %v", name, err, noAnswer)
		}
		cancel()
	}
}

// The status decides: an answer whose body never ends does not hold up the next
// batch.
func TestPostEndlessBody(t *testing.T) {
	for code, want := range map[int]error{200: nil, 500: failure{accounts.ReasonAnswersError, "answered 500 Internal Server Error"}} {
		endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			_, _ = io.Copy(io.Discard, req.Body)
			w.WriteHeader(code)
			_ = http.NewResponseController(w).Flush()
			<-req.Context().Done()
		}))
		began := time.Now()
		if err := post(t.Context(), newTransport(), endless.URL, []byte("x")); err != want {
			t.Errorf("%d: %v, want %v", code, err, want)
		}
		if took := time.Since(began); took > failingAfter {
			t.Errorf("%d: took %s", code, took)
		}
		endless.Close()
	}
}

// FuzzAnswer sends anything as an answer: what is said of it is one of few
// phrases.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{"HTTP/1.1 204 x\r\n\r\n", "HTTP/1.1 500 x\r\nContent-Length: 1\r\n\r\ny", "HTTP/1.1 302 x\r\nLocation: :\r\n\r\n",
		"HTTP/1.1 103 x\r\n\r\nHTTP/1.1 404 x\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 -12 x\r\n\r\n", "x", "", "\x15\x03\x01\x00\x02\x02\x28"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		transport := newTransport()
		transport.DisableKeepAlives = true
		transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() { // ends with the connection
				defer theirs.Close()
				got := make([]byte, 4096)
				for n := 0; !strings.Contains(string(got[:n]), "\r\n\r\nx"); {
					m, err := theirs.Read(got[n:])
					if n += m; err != nil {
						return
					}
				}
				go func() { _, _ = io.Copy(io.Discard, theirs) }()
				_, _ = theirs.Write(answer)
			}()
			return ours, nil
		}
		err := post(t.Context(), transport, "http://endpoint/", []byte("x"))
		if err == nil {
			return
		}
		fail, ok := err.(failure)
		if !ok {
			t.Fatalf("%T %v, want a failure", err, err)
		}
		text, _, _ := strings.Cut(fail.text, ";")
		var code int
		if n, _ := fmt.Sscanf(text, "answered %d", &code); n == 1 {
			text = strings.TrimSpace(strings.TrimSuffix(text, http.StatusText(code)))
			if text != fmt.Sprintf("answered %d", code) || code > 999 || code < 0 {
				t.Fatalf("text %q", fail.text)
			}
			return
		}
		switch text {
		case "no valid HTTP answer", "connection closed without an answer":
		default:
			t.Fatalf("text %q", fail.text)
		}
	})
}
