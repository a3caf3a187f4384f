package relay_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/fluidos-edge/testbed/controllers/api/accounts"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/relay"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// clocked is a relay that delivers, with a clock that the test moves.
type clocked struct {
	*bed
	clock *clocktesting.FakeClock
	sent  int
}

func newClocked(t *testing.T, urls ...string) *clocked {
	clk := clocktesting.NewFakeClock(epoch)
	c := &clocked{bed: newBed(t, relay.Config{Clock: clk}).start(), clock: clk}
	t.Cleanup(c.end)
	c.serve(1, urls...)
	return c
}

// end stops the relay, which gives its queues time to empty themselves.
func (c *clocked) end() {
	c.stop()
	c.until(func() string {
		select {
		case <-c.stopped:
			return ""
		default:
			c.clock.Step(time.Second)
			return "the relay has not stopped"
		}
	})
}

// serve a generation of the DataPath.
func (c *clocked) serve(generation int64, urls ...string) {
	p := path("p", urls...)
	p.Generation = generation
	c.Set([]sensors.DataPath{p}, []nodecore.Flavor{flavor("d1", "12")})
}

func (c *clocked) sample() {
	c.Helper()
	c.sent++
	c.send("d1", line("d1", c.sent))
}

// untilHealth waits for a reason of the i-th endpoint, for its first delivery, or
// for an end of both; with steps it lets time pass meanwhile.
func (c *clocked) untilHealth(i int, step time.Duration, reason string, delivered bool) accounts.Endpoint {
	c.Helper()
	var e accounts.Endpoint
	c.until(func() string {
		e = c.endpoint(0, i)
		if e.Reason == reason && e.LastDelivery.IsZero() != delivered {
			return ""
		}
		c.clock.Step(step)
		return fmt.Sprintf("%+v", e)
	})
	return e
}

// untilWaiting waits until an attempt has failed and the pause after it runs.
func (c *clocked) untilWaiting() {
	c.Helper()
	c.until(func() string {
		if e := c.endpoint(0, 0); e.LastError == "" {
			return fmt.Sprintf("no attempt has failed: %+v", e)
		}
		return ""
	})
}

// rawServer returns the URL of a listener that does what serve does with each
// connection.
func rawServer(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			end := context.AfterFunc(ctx, func() { conn.Close() })
			running.Go(func() { defer conn.Close(); defer end(); serve(conn) })
		}
	})
	t.Cleanup(func() { stop(); l.Close(); running.Wait() })
	return "http://" + l.Addr().String()
}

// readRequest reads one request of a connection; false at its end.
func readRequest(conn net.Conn) bool {
	var got []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(got, []byte("seq=")) || !bytes.HasSuffix(got, []byte("\n")) {
		n, err := conn.Read(buf)
		if err != nil {
			return false
		}
		got = append(got, buf[:n]...)
	}
	return true
}

// closedPort returns the URL of a port that nothing listens on, nor can until the
// test ends: it is the near end of a connection.
func closedPort(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(nil)
	t.Cleanup(s.Close)
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return "http://" + conn.LocalAddr().String()
}

func answering(t *testing.T, code int) string {
	return newSink(t, func(*http.Request, string) int { return code }).URL
}

func tlsServer(t *testing.T, config *tls.Config) string {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.TLS = config
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

// Each way of not taking samples has a reason and a phrase, the same for every
// attempt, which name nothing of the URL and no port of ours.
func TestEndpointFailures(t *testing.T) {
	withScheme := func(url string) string { return strings.Replace(url, "http://", "https://", 1) }
	for _, tc := range []struct {
		name, url string
		reason    string
		text      string // alternatives are separated by "|"
	}{
		{"closed port", closedPort(t), accounts.ReasonConnectionRefused, "connection refused"},
		{"unresolvable", "http://no-such-host.invalid/", accounts.ReasonHostNotFound, "no such host|its host could not be looked up"},
		{"hangs", hangingSink(t), accounts.ReasonNoAnswer, "no answer within 5s"},
		{"hangs before HTTP", rawServer(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }), accounts.ReasonNoAnswer, "no answer within 5s"},
		{"closes", rawServer(t, func(net.Conn) {}), accounts.ReasonUnreachable, "connection closed without an answer"},
		{"closes after the request", rawServer(t, func(c net.Conn) { readRequest(c) }), accounts.ReasonUnreachable, "connection closed without an answer"},
		{"is not HTTP", rawServer(t, func(c net.Conn) { readRequest(c); _, _ = io.WriteString(c, "canary\r\n\r\n") }), accounts.ReasonAnswersError, "no valid HTTP answer"},
		{"is not HTTPS but HTTP", withScheme(answering(t, 204)), accounts.ReasonTLS, "does not speak TLS"},
		{"is not HTTPS", withScheme(rawServer(t, func(c net.Conn) { _, _ = io.WriteString(c, "canary canary") })), accounts.ReasonTLS, "does not speak TLS"},
		{"unknown authority", tlsServer(t, nil), accounts.ReasonTLS, "its certificate is not signed by a trusted authority"},
		{"no common TLS version", tlsServer(t, &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}), accounts.ReasonTLS, "TLS handshake failed"},
		{"500", answering(t, 500), accounts.ReasonAnswersError, "answered 500 Internal Server Error"},
		{"503", answering(t, 503), accounts.ReasonAnswersError, "answered 503 Service Unavailable"},
		{"401", answering(t, 401), accounts.ReasonAnswersError, "answered 401 Unauthorized"},
		{"404", answering(t, 404), accounts.ReasonAnswersError, "answered 404 Not Found"},
		{"no code that Go knows", answering(t, 599), accounts.ReasonAnswersError, "answered 599"},
		{"switches protocols", rawServer(t, func(c net.Conn) {
			for readRequest(c) {
				_, _ = io.WriteString(c, "HTTP/1.1 101 Canary\r\nConnection: upgrade\r\nUpgrade: canary\r\n\r\n")
			}
		}), accounts.ReasonAnswersError, "answered 101 Switching Protocols"},
		{"302", answering(t, 302), accounts.ReasonRedirects, "answered 302 Found; redirects are not followed"},
		{"307", answering(t, 307), accounts.ReasonRedirects, "answered 307 Temporary Redirect; redirects are not followed"},
		{"400", answering(t, 400), accounts.ReasonRefusesSamples, "answered 400 Bad Request; refused samples are dropped"},
		{"413", answering(t, 413), accounts.ReasonRefusesSamples, "answered 413 Request Entity Too Large; refused samples are dropped"},
		{"415", answering(t, 415), accounts.ReasonRefusesSamples, "answered 415 Unsupported Media Type; refused samples are dropped"},
		{"422", answering(t, 422), accounts.ReasonRefusesSamples, "answered 422 Unprocessable Entity; refused samples are dropped"},
		{"no URL", "http://[::1", accounts.ReasonInvalidURL, "its URL is not one that can be posted to"},
		{"no host", "http:///write", accounts.ReasonInvalidURL, "its URL is not one that can be posted to"},
		{"no port", "http://127.0.0.1:99999/", accounts.ReasonInvalidURL, "its URL is not one that can be posted to"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			url := tc.url
			if !strings.HasPrefix(url, "http:///") && strings.Count(url, "/") == 2 {
				url += "/write?token=s3cret"
			}
			c := newClocked(t, url)
			c.sample()
			e := c.untilHealth(0, time.Second, tc.reason, false)
			if !slices.Contains(strings.Split(tc.text, "|"), e.LastError) {
				t.Errorf("LastError is %q, want %q", e.LastError, tc.text)
			}
			if e.FailingSince.Before(epoch) || e.FailingSince.After(c.clock.Now()) || !e.LastDelivery.IsZero() || e.Delivered != 0 {
				t.Errorf("%+v", e)
			}
			// More attempts do not change what is said.
			seconds := 0
			c.until(func() string {
				again := c.endpoint(0, 0)
				if again.Reason != e.Reason || again.LastError != e.LastError || !again.FailingSince.Equal(e.FailingSince) {
					t.Fatalf("another account without a change at the endpoint: %+v, then %+v", e, again)
				}
				if seconds++; seconds > 30 {
					return ""
				}
				c.clock.Step(time.Second)
				return "time passes"
			})
		})
	}
}

// hangingSink answers nothing until the test ends.
func hangingSink(t *testing.T) string {
	return newSink(t, func(req *http.Request, _ string) int { <-req.Context().Done(); return 500 }).URL
}

// What counts as failing is a batch that was not taken for 5 seconds, whether it
// was refused a connection or is unanswered; and everything is well with the batch
// that is taken.
func TestEndpointHealth(t *testing.T) {
	for _, tc := range []struct {
		name    string
		fail    func(req *http.Request, release <-chan struct{}) int
		attempt string // LastError within the 5 seconds
		reason  string
	}{
		{"errors", func(*http.Request, <-chan struct{}) int { return 500 }, "answered 500 Internal Server Error", accounts.ReasonAnswersError},
		{"hangs", func(req *http.Request, release <-chan struct{}) int {
			select {
			case <-req.Context().Done():
			case <-release:
			}
			return 204
		}, "", accounts.ReasonNoAnswer},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var broken atomic.Bool
			release, entered := make(chan struct{}), make(chan struct{}, 100)
			s := newSink(t, func(req *http.Request, _ string) int {
				if !broken.Load() {
					return 204
				}
				entered <- struct{}{}
				return tc.fail(req, release)
			})
			c := newClocked(t, s.URL)
			if e := c.endpoint(0, 0); !e.LastDelivery.IsZero() || !e.FailingSince.IsZero() {
				t.Errorf("before the first sample: %+v", e)
			}
			c.clock.Step(time.Hour)
			c.sample()
			e := c.untilHealth(0, 0, "", true)
			if want := epoch.Add(time.Hour); !e.LastDelivery.Equal(want) {
				t.Errorf("last delivery at %s, want %s", e.LastDelivery, want)
			}
			c.clock.Step(time.Hour) // silence is not a failure
			if e := c.endpoint(0, 0); e.LastDelivery.IsZero() || !e.FailingSince.IsZero() {
				t.Errorf("after an hour of silence: %+v", e)
			}

			broken.Store(true)
			began := c.clock.Now()
			c.sample()
			<-entered
			if tc.attempt != "" {
				c.untilWaiting()
			}
			c.clock.Step(5*time.Second - 1)
			if e := c.endpoint(0, 0); !e.FailingSince.IsZero() || e.LastError != tc.attempt {
				t.Errorf("after less than 5 s: %+v", e)
			}
			c.clock.Step(1)
			if e := c.endpoint(0, 0); !e.FailingSince.Equal(began) || e.Reason != tc.reason || e.LastDelivery.IsZero() {
				t.Errorf("after 5 s: %+v, want failing since %s", e, began)
			}

			broken.Store(false)
			close(release)
			if tc.attempt != "" { // the pause is over within backoffMax
				c.untilHealth(0, 2*time.Second, "", true)
			}
			e = c.untilHealth(0, 0, "", true)
			if e.LastError != "" || !e.FailingSince.IsZero() {
				t.Errorf("after it was taken: %+v", e)
			}
			c.until(func() string {
				e := c.endpoint(0, 0)
				return cmp.Diff(int64(c.sent), e.Delivered)
			})
			if since := c.clock.Now().Sub(began); since > 15*time.Second {
				t.Errorf("delivering again only %s after it began to fail", since)
			}
		})
	}
}

// A refusal counts until a whole batch is taken, and for 5 seconds: an endpoint
// that refuses the lines of one sensor does not flap with those of another.
func TestEndpointRefuses(t *testing.T) {
	var posts atomic.Int64
	s := newSink(t, func(_ *http.Request, body string) int {
		defer posts.Add(1)
		if strings.Contains(body, "device=d2") {
			return 400
		}
		return 204
	})
	c := newClocked(t, s.URL)
	c.Set([]sensors.DataPath{path("p", s.URL)}, []nodecore.Flavor{flavor("d1", "12"), flavor("d2", "12")})
	send := func(device string) accounts.Endpoint {
		t.Helper()
		n := posts.Load()
		c.send(device, line(device, 1))
		c.until(func() string {
			if e := c.endpoint(0, 0); posts.Load() == n || e.Queued > 0 {
				return "not settled"
			}
			return ""
		})
		return c.endpoint(0, 0)
	}
	if e := send("d1"); e.Reason != "" {
		t.Errorf("%+v", e)
	}
	since := c.clock.Now()
	for range 10 {
		for _, device := range []string{"d2", "d1"} {
			e := send(device)
			if e.Reason != accounts.ReasonRefusesSamples || !e.FailingSince.Equal(since) {
				t.Errorf("after a sample of %s: %+v", device, e)
			}
			c.clock.Step(time.Second)
		}
	}
	c.clock.Step(3*time.Second - 1) // the last refusal was 5 s less 1 ns ago
	if e := c.endpoint(0, 0); e.Reason == "" || e.LastError == "" {
		t.Errorf("%+v", e)
	}
	c.clock.Step(1)
	if e := c.endpoint(0, 0); e.Reason != "" || e.LastError != "" || e.Dropped["refused"] != 10 {
		t.Errorf("5 s after the last refusal: %+v", e)
	}
	// Silence after a refusal keeps the verdict.
	since = c.clock.Now()
	send("d2")
	c.clock.Step(time.Hour)
	if e := c.endpoint(0, 0); e.Reason == "" || !e.FailingSince.Equal(since) {
		t.Errorf("an hour after a refusal, with nothing taken since: %+v", e)
	}
	if e := send("d1"); e.Reason != "" {
		t.Errorf("a batch was taken: %+v", e)
	}
}

// A batch that is too large is no refusal if its parts are taken.
func TestEndpointTakesHalves(t *testing.T) {
	s := newSink(t, func(_ *http.Request, body string) int {
		if strings.Count(body, "\n") > 10 {
			return 413
		}
		return 204
	})
	c := newClocked(t, s.URL)
	c.send("d1", lines("d1", 1, 100))
	c.untilKept(s, lines("d1", 1, 100))
	if e := c.untilHealth(0, 0, "", true); e.LastError != "" || e.Delivered != 100 {
		t.Errorf("%+v", e)
	}
}

// An endpoint that failed is not known to take samples before its batch is settled:
// parts that it takes or refuses say nothing of the rest.
func TestEndpointSettles(t *testing.T) {
	for _, last := range []int{204, 400} {
		t.Run(fmt.Sprint(last), func(t *testing.T) {
			var broken atomic.Bool
			entered, release := make(chan struct{}, 10), make(chan struct{})
			s := newSink(t, func(req *http.Request, body string) int {
				switch {
				case strings.Contains(body, "seq=1i"):
					return 204
				case broken.Load():
					return 500
				case strings.Count(body, "\n") > 1:
					return 400
				case strings.Contains(body, "seq=3i"):
					entered <- struct{}{}
					select {
					case <-release:
					case <-req.Context().Done():
					}
					return last
				}
				return 204
			})
			c := newClocked(t, s.URL)
			c.sample()
			c.untilHealth(0, 0, "", true)
			broken.Store(true)
			c.send("d1", lines("d1", 2, 3))
			e := c.untilHealth(0, time.Second, accounts.ReasonAnswersError, true)
			broken.Store(false)
			c.until(func() string {
				select {
				case <-entered:
					return ""
				default:
					c.clock.Step(time.Second)
					return "the last line was not posted"
				}
			})
			if now := c.endpoint(0, 0); now.Delivered != 2 || now.Reason != e.Reason || !now.FailingSince.Equal(e.FailingSince) || now.LastError != e.LastError {
				t.Errorf("%+v while the last line is posted, want it failing as in %+v", now, e)
			}
			close(release)
			want := map[int]string{204: "", 400: accounts.ReasonRefusesSamples}[last]
			c.untilHealth(0, 0, want, true)
		})
	}
}

// A generation and a URL must earn their delivery; what is wrong with a URL stays
// known as long as the URL.
func TestEndpointGeneration(t *testing.T) {
	one, two := newSink(t, nil), newSink(t, nil)
	dead := closedPort(t)
	c := newClocked(t, one.URL)
	c.sample()
	c.untilHealth(0, 0, "", true)
	c.serve(2, one.URL)
	if e := c.endpoint(0, 0); !e.LastDelivery.IsZero() || e.Delivered != 1 {
		t.Errorf("a new generation: %+v", e)
	}
	c.sample()
	c.untilHealth(0, 0, "", true)
	c.serve(3, two.URL)
	if e := c.endpoint(0, 0); !e.LastDelivery.IsZero() {
		t.Errorf("a new URL: %+v", e)
	}
	c.sample()
	c.untilHealth(0, 0, "", true)

	c.serve(4, dead)
	since := c.clock.Now()
	c.sample()
	c.untilWaiting()
	c.clock.Step(5 * time.Second)
	for generation := int64(4); generation < 7; generation++ {
		c.serve(generation, dead)
		if e := c.endpoint(0, 0); e.Reason != accounts.ReasonConnectionRefused || !e.FailingSince.Equal(since) {
			t.Errorf("generation %d: %+v", generation, e)
		}
	}
	c.serve(7, two.URL)
	if e := c.endpoint(0, 0); e.Reason != "" || e.LastError != "" {
		t.Errorf("failing although its URL is another: %+v", e)
	}
	e := c.untilHealth(0, 0, "", true) // what waited goes there
	if e.Delivered != int64(c.sent) {
		t.Errorf("%+v, want %d delivered", e, c.sent)
	}
}

// What was posted before a change says nothing about what is there after it.
func TestEndpointLateAnswer(t *testing.T) {
	entered, release := make(chan struct{}, 10), make(chan struct{})
	var first atomic.Bool
	slow := newSink(t, func(req *http.Request, _ string) int {
		if !first.CompareAndSwap(false, true) {
			return 204
		}
		entered <- struct{}{}
		select {
		case <-release:
		case <-req.Context().Done():
		}
		return 204
	})
	for _, tc := range []struct {
		name  string
		after string
	}{{"another generation", slow.URL}, {"another URL", newSink(t, nil).URL}} {
		t.Run(tc.name, func(t *testing.T) {
			first.Store(false)
			release = make(chan struct{})
			c := newClocked(t, slow.URL)
			c.sample()
			<-entered
			c.clock.Step(time.Minute)
			c.serve(2, tc.after)
			if e := c.endpoint(0, 0); (e.Reason != "") != (tc.after == slow.URL) {
				t.Errorf("%+v", e)
			}
			close(release)
			c.until(func() string { return cmp.Diff(int64(1), c.endpoint(0, 0).Delivered) })
			if e := c.endpoint(0, 0); !e.LastDelivery.IsZero() || e.Reason != "" {
				t.Errorf("the old post was taken: %+v", e)
			}
			c.sample()
			c.untilHealth(0, 0, "", true)
		})
	}
}

// One cause is shown for 10 seconds, so that an endpoint with two kinds of errors
// does not change its account with each attempt.
func TestEndpointAlternates(t *testing.T) {
	var n atomic.Int64
	s := newSink(t, func(*http.Request, string) int { return 502 + int(n.Add(1)%2) })
	c := newClocked(t, s.URL)
	c.sample()
	c.untilWaiting()
	changes, last := 0, c.endpoint(0, 0).LastError
	for range 40 {
		before := n.Load()
		c.until(func() string {
			if n.Load() > before {
				return ""
			}
			c.clock.Step(500 * time.Millisecond)
			return "no attempt"
		})
		if now := c.endpoint(0, 0).LastError; now != last {
			changes, last = changes+1, now
		}
	}
	passed := c.clock.Now().Sub(epoch)
	if most := int(passed/(10*time.Second)) + 1; changes > most {
		t.Errorf("LastError changed %d times in %s, want at most %d", changes, passed, most)
	}
}

// The revision tells of each change of health, so that the router hears of it
// while it waits.
func TestHealthRevision(t *testing.T) {
	var code atomic.Int64
	code.Store(204)
	s := newSink(t, func(*http.Request, string) int { return int(code.Load()) })
	c := newClocked(t, s.URL)
	_, revision := c.poll("")
	// until asks again and again, each time waiting for a change, until the account
	// is as wanted. Time passes, but not as much as ends the wait for a change.
	until := func(what string, want func(accounts.Endpoint) bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		type answer struct {
			a        accounts.Accounts
			revision string
		}
		for changed := false; ; {
			got := make(chan answer, 1)
			go func() {
				a, r := c.poll("?after=" + revision + "&wait=30s")
				got <- answer{a, r}
			}()
			var now answer
			for waited := time.Duration(0); now.revision == ""; {
				tick := time.NewTimer(5 * time.Millisecond)
				select {
				case now = <-got:
				case <-ctx.Done():
					t.Fatalf("%s: no change of the revision", what)
				case <-tick.C:
					if waited < 20*time.Second {
						waited += 500 * time.Millisecond
						c.clock.Step(500 * time.Millisecond)
					}
				}
				tick.Stop()
			}
			changed = changed || now.revision != revision
			revision = now.revision
			if want(now.a.DataPaths[0].Endpoints[0]) {
				if !changed {
					t.Errorf("%s: it was so before the revision changed", what)
				}
				return
			}
		}
	}
	c.sample()
	until("first delivery", func(e accounts.Endpoint) bool { return !e.LastDelivery.IsZero() })
	code.Store(500)
	c.sample()
	until("failing", func(e accounts.Endpoint) bool { return e.Reason == accounts.ReasonAnswersError })
	code.Store(204)
	until("recovered", func(e accounts.Endpoint) bool { return e.Reason == "" })
	code.Store(422)
	c.sample()
	until("refuses", func(e accounts.Endpoint) bool { return e.Reason == accounts.ReasonRefusesSamples })
}

// Nothing of an answer is in the accounts, the metrics or the logs, and nothing of
// the URL's query in what is said of an error.
func TestSecrecy(t *testing.T) {
	const canary = "c4n4ry"
	answers := map[string]string{
		"body":          "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 6\r\n\r\n" + canary,
		"status text":   "HTTP/1.1 500 " + canary + "\r\nContent-Length: 0\r\n\r\n",
		"header":        "HTTP/1.1 403 Forbidden\r\n" + canary + ": " + canary + "\r\nContent-Length: 0\r\n\r\n",
		"refusal":       "HTTP/1.1 400 " + canary + "\r\nX: " + canary + "\r\nContent-Length: 6\r\n\r\n" + canary,
		"redirect":      "HTTP/1.1 302 " + canary + "\r\nLocation: http://" + canary + ".invalid/\r\nContent-Length: 0\r\n\r\n",
		"bad redirect":  "HTTP/1.1 302 Found\r\nLocation: http://[" + canary + "\r\nContent-Length: 0\r\n\r\n",
		"not HTTP":      canary + "\r\n\r\n",
		"bad code":      "HTTP/1.1 " + canary + " OK\r\n\r\n",
		"bad header":    "HTTP/1.1 204 OK\r\n" + canary + "\r\n\r\n",
		"bad length":    "HTTP/1.1 200 OK\r\nContent-Length: " + canary + "\r\n\r\n",
		"bad encoding":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + canary + "\r\n\r\n",
		"switch":        "HTTP/1.1 101 " + canary + "\r\nUpgrade: " + canary + "\r\nConnection: upgrade\r\n\r\n" + canary,
		"early hints":   "HTTP/1.1 103 " + canary + "\r\nLink: " + canary + "\r\n\r\nHTTP/1.1 500 " + canary + "\r\nContent-Length: 0\r\n\r\n",
		"after a taken": "HTTP/1.1 204 " + canary + "\r\n\r\n" + canary + " " + canary + "\r\n\r\n",
		"after a 500":   "HTTP/1.1 500 " + canary + "\r\nContent-Length: 0\r\n\r\n" + canary + " " + canary + "\r\n\r\n",
	}
	var logs lockedBuffer
	before := log.Writer()
	log.SetOutput(&logs)
	t.Cleanup(func() { log.SetOutput(before) })
	clk := clocktesting.NewFakeClock(epoch)
	b := &clocked{clock: clk, bed: newBed(t, relay.Config{
		Clock: clk, Log: slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}).start()}
	log.Print("logged")

	var served sync.Map
	var p sensors.DataPath
	for name, answer := range answers {
		url := rawServer(t, func(conn net.Conn) {
			for readRequest(conn) {
				if _, err := io.WriteString(conn, answer); err != nil {
					return
				}
				n, _ := served.LoadOrStore(name, new(atomic.Int64))
				n.(*atomic.Int64).Add(1)
				if strings.Contains(name, "bad") || name == "not HTTP" {
					return
				}
			}
		})
		p.Spec.Endpoints = append(p.Spec.Endpoints, sensors.Endpoint{Name: strings.ReplaceAll(name, " ", "-"), URL: url + "/?token=s3cret"})
	}
	certificate := tlsServer(t, nil)
	p.Spec.Endpoints = append(p.Spec.Endpoints, sensors.Endpoint{Name: "certificate", URL: certificate + "/?token=s3cret"})
	q := path("p")
	q.Spec.Endpoints = p.Spec.Endpoints
	b.Set([]sensors.DataPath{q}, []nodecore.Flavor{flavor("d1", "12")})
	seq := 0
	b.until(func() string {
		seq++
		b.send("d1", line("d1", seq))
		clk.Step(time.Second)
		for name := range answers {
			if n, ok := served.Load(name); !ok || n.(*atomic.Int64).Load() < 3 {
				return name + " was not answered three times yet"
			}
		}
		if e := b.endpoint(0, len(answers)); e.Reason == "" {
			return "certificate is not failing yet"
		}
		return ""
	})
	a := b.get("")
	if bytes.Contains(a, []byte(canary)) {
		t.Errorf("accounts: %s", a)
	}
	all, _ := b.poll("")
	for _, e := range all.DataPaths[0].Endpoints {
		if strings.Contains(e.LastError+e.Reason, "s3cret") || strings.Contains(e.LastError, "127.0.0.1") {
			t.Errorf("LastError of %s: %q", e.Name, e.LastError)
		}
		if e.Name != "after-a-taken" && e.Reason == "" {
			t.Errorf("%s is not failing: %+v", e.Name, e)
		}
	}
	b.end()
	if text := logs.String(); strings.Contains(text, canary) || strings.Contains(text, "s3cret") || !strings.Contains(text, "logged") {
		t.Errorf("logs: %s", text)
	}
}

// get the accounts as they are on the wire.
func (b *bed) get(query string) []byte {
	b.Helper()
	req, err := http.NewRequest(http.MethodGet, b.admin+"/v1/accounts"+query, nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+sensor.AdminToken(key))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.Fatal(err)
	}
	return body
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
