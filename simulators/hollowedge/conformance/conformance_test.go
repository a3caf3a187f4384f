package conformance_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	rulesv1 "github.com/fluidos-edge/testbed/controllers/api/rules/v1"
)

const recordingFile = "testdata/kubeedge-v1.23.1.json"

var record = flag.Bool("record", false, "write what KubeEdge on the testbed TESTBED_KUBEEDGE does to "+recordingFile)

// differences are cases in which hollow is known to differ, with the reason. One
// that does not differ is an error.
var differences = map[string]string{}

// recording is what an edge runtime did.
type recording struct {
	Of    string          `json:"of"`
	Cases []*caseRecorded `json:"cases"`
}

type caseRecorded struct {
	Case  string `json:"case"`
	Steps []step `json:"steps"`
}

// step is a stimulus and, if it was looked for, the response.
type step struct {
	Do    string          `json:"do"`
	Got   []delivery      `json:"got,omitzero"`   // nil: nobody looked
	Holds map[string]bool `json:"holds,omitzero"` // what was found true or false
	// Measured is to be read; it is not compared.
	Measured map[string]float64 `json:"measured,omitzero"`
}

// delivery is a request at a Rule's target.
type delivery struct {
	To     string            `json:"to"` // the last element of the path
	Body   string            `json:"body"`
	Method string            `json:"method,omitempty"`
	Header map[string]string `json:"header,omitempty"`
	Length int64             `json:"contentLength,omitempty"`

	at   time.Time
	from string
}

func TestConformance(t *testing.T) {
	testbed := os.Getenv("TESTBED_KUBEEDGE")
	if *record && testbed == "" {
		t.Fatal("-record records KubeEdge: TESTBED_KUBEEDGE has to name a testbed that runs it")
	}
	recorded := map[string]*caseRecorded{}
	if !*record {
		content, err := os.ReadFile(recordingFile)
		if err != nil {
			t.Fatal(err)
		}
		d := json.NewDecoder(bytes.NewReader(content))
		d.DisallowUnknownFields()
		var r recording
		if err := d.Decode(&r); err != nil {
			t.Fatalf("%s: %v", recordingFile, err)
		}
		for _, c := range r.Cases {
			recorded[c.Case] = c
		}
	}
	known := differences
	var b bed
	if testbed == "" {
		b = newHollow(t)
	} else {
		b, known = newKubeEdge(t, testbed), nil
	}
	s := newSuite(t, b)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			want := recorded[c.name]
			if want == nil && !*record {
				t.Fatalf("not in %s; record it with -record", recordingFile)
			}
			got := s.run(t, c.name, want, c.run)
			if *record {
				s.recorded = append(s.recorded, got)
				return
			}
			delete(recorded, c.name)
			diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(delivery{}), cmpopts.IgnoreFields(step{}, "Measured"))
			reason, differs := known[c.name]
			switch {
			case differs && diff == "":
				t.Errorf("listed as different (%s) and is not: take it off the list", reason)
			case differs:
				t.Skipf("known difference: %s", reason)
			case diff != "":
				t.Errorf("-recorded of KubeEdge +observed:\n%s", diff)
			}
		})
	}
	if t.Failed() || flag.Lookup("test.run").Value.String() != "" {
		return // not all is there to be judged or written
	}
	if !*record {
		for name := range recorded {
			t.Errorf("%s has %q, which is no case", recordingFile, name)
		}
		return
	}
	content, err := json.MarshalIndent(recording{Of: "KubeEdge v1.23.1", Cases: s.recorded}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(recordingFile, append(content, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// suite is what all cases of a run share.
type suite struct {
	bed
	names    map[string]string // of namespaces: in cases, in the cluster
	url      string            // of the server of all targets
	clients  map[string]paho.Client
	recorded []*caseRecorded

	mu      sync.Mutex
	got     []delivery
	changed chan struct{}
	serial  int
}

// scene is a case that runs.
type scene struct {
	*testing.T
	*suite
	slug  string
	want  *caseRecorded // nil while recording
	out   *caseRecorded
	rules map[string]*rulesv1.Rule // that exist
	begin int                      // deliveries before this one are not of this case
	seen  int                      // deliveries before this one have been reported
}

func newSuite(t *testing.T, b bed) *suite {
	run := strconv.FormatInt(time.Now().UnixNano(), 36)
	s := &suite{
		bed:     b,
		names:   map[string]string{"conformance": "conformance-" + run, "other": "conformance-other-" + run},
		clients: map[string]paho.Client{},
		changed: make(chan struct{}),
	}
	l, err := b.listen()
	if err != nil {
		t.Fatal(err)
	}
	s.url = "http://" + l.Addr().String()
	server := &http.Server{Handler: s, ReadHeaderTimeout: patience}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })

	c := &scene{T: t, suite: s, slug: "suite", out: &caseRecorded{}, rules: map[string]*rulesv1.Rule{}}
	t.Cleanup(func() {
		c.removeRules()
		for _, ns := range s.names {
			for _, o := range []client.Object{&rulesv1.Rule{}, &rulesv1.RuleEndpoint{}} {
				if err := s.client().DeleteAllOf(context.Background(), o, client.InNamespace(ns)); err != nil {
					t.Error(err)
				}
			}
			if err := s.client().Delete(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil {
				t.Error(err)
			}
		}
		for _, c := range s.clients {
			c.Disconnect(0)
		}
	})
	for ns, name := range s.names {
		c.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
		c.endpoint(ns, "bus", rulesv1.TypeEventBus)
		c.endpoint(ns, "web", rulesv1.TypeREST)
	}
	for _, node := range []string{"edge-1", "edge-2"} {
		c.add("fence-"+node, rule{node: node, topic: "fence"})
	}
	return s
}

// ServeHTTP is all targets: "<case>/<target>". The name of a target may begin
// with what it answers: "500-", or "307-" and "302-", which lead to the rest.
func (s *suite) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	parts := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/"), "/", 2)
	to := parts[len(parts)-1]
	header := map[string]string{}
	for name, values := range r.Header {
		if name != "Content-Length" {
			header[name] = strings.Join(values, ", ")
		}
	}
	d := delivery{To: to, Body: printable(body), Method: r.Method, Header: header, Length: r.ContentLength, at: time.Now(), from: r.RemoteAddr}
	s.mu.Lock()
	s.got = append(s.got, d)
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	status := http.StatusOK
	if prefix, rest, ok := strings.Cut(to, "-"); ok {
		if n, err := strconv.Atoi(prefix); err == nil && !ours(d.Body) {
			status = n
			if n/100 == 3 {
				w.Header().Set("Location", "/"+parts[0]+"/"+rest)
			}
		}
	}
	w.WriteHeader(status)
}

func printable(b []byte) string {
	if utf8.Valid(b) && !bytes.ContainsFunc(b, func(r rune) bool { return r < ' ' }) && len(b) < 100 {
		return string(b)
	}
	if len(b) > 1000 {
		return fmt.Sprintf("%d bytes: base64:%s...", len(b), base64.StdEncoding.EncodeToString(b[:30]))
	}
	return "base64:" + base64.StdEncoding.EncodeToString(b)
}

// ours tells a probe's or a fence's body.
func ours(body string) bool {
	return strings.HasPrefix(body, "probe ") || strings.HasPrefix(body, "fence ")
}

// await waits until holds finds true in what arrived since begin.
func (s *suite) await(begin int, limit time.Duration, holds func([]delivery) bool) bool {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for {
		s.mu.Lock()
		got, changed := s.got[begin:], s.changed
		s.mu.Unlock()
		if holds(got) {
			return true
		}
		select {
		case <-changed:
		case <-deadline.C:
			return false
		}
	}
}

// position is how much has arrived.
func (s *suite) position() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got)
}

func (s *suite) run(t *testing.T, name string, want *caseRecorded, f func(*scene)) *caseRecorded {
	s.serial++
	c := &scene{T: t, suite: s, slug: fmt.Sprintf("c%d", s.serial), want: want, out: &caseRecorded{Case: name},
		rules: map[string]*rulesv1.Rule{}, begin: s.position(), seen: s.position()}
	defer c.removeRules()
	f(c)
	return c.out
}

func (c *scene) removeRules() {
	for _, r := range c.rules {
		if err := c.client().Delete(context.Background(), r); client.IgnoreNotFound(err) != nil {
			c.Error(err)
		}
	}
}

func (c *scene) do(format string, args ...any) *step {
	c.out.Steps = append(c.out.Steps, step{Do: fmt.Sprintf(format, args...)})
	return &c.out.Steps[len(c.out.Steps)-1]
}

func (c *scene) create(o client.Object) {
	c.Helper()
	if err := c.client().Create(context.Background(), o); err != nil {
		c.Fatal(err)
	}
}

// endpoint makes a RuleEndpoint without a word in the recording.
func (c *scene) endpoint(namespace, name, typ string) *rulesv1.RuleEndpoint {
	c.Helper()
	e := &rulesv1.RuleEndpoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.names[namespace], Name: name},
		Spec:       rulesv1.RuleEndpointSpec{RuleEndpointType: typ},
	}
	c.create(e)
	return e
}

// rule is a Rule of a case. Empty fields are namespace "conformance", node
// "edge-1", source "bus", and the Rule's name as last element of the URL.
type rule struct {
	namespace, node, topic, source, target string
	userinfo                               string
	raw                                    bool // the topic is published as it is
}

func (r *rule) complete(name string) {
	set := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	set(&r.namespace, "conformance")
	set(&r.node, "edge-1")
	set(&r.source, "bus")
	set(&r.target, name)
}

func (c *scene) object(name string, r rule) *rulesv1.Rule {
	url := c.url
	if r.userinfo != "" {
		url = strings.Replace(url, "://", "://"+r.userinfo+"@", 1)
	}
	return &rulesv1.Rule{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.names[r.namespace], Name: c.slug + "-" + name},
		Spec: rulesv1.RuleSpec{
			Source: r.source, SourceResource: map[string]string{rulesv1.SourceTopic: c.topic(r.topic, r.raw), rulesv1.SourceNodeName: r.node},
			Target: "web", TargetResource: map[string]string{rulesv1.TargetResource: url + "/" + c.slug + "/" + r.target},
		},
	}
}

// topic keeps the topics of cases apart. A leading slash stays in front.
func (c *scene) topic(t string, raw bool) string {
	if raw || t == "fence" {
		return t
	}
	if rest, ok := strings.CutPrefix(t, "/"); ok {
		return "/" + c.slug + "/" + rest
	}
	return c.slug + "/" + t
}

// put creates a Rule and does not look whether it works.
func (c *scene) put(name string, r rule) {
	c.Helper()
	r.complete(name)
	more := ""
	if r.source != "bus" {
		more = fmt.Sprintf(", source %s", r.source)
	}
	if r.userinfo != "" {
		more += ", userinfo in its URL"
	}
	c.do("create Rule %s in %s: node %s, topic %q, target %s%s", name, r.namespace, r.node, r.topic, r.target, more)
	o := c.object(name, r)
	c.create(o)
	c.rules[name] = o
}

// add creates a Rule and returns when what is published on its topic arrives at
// its target.
func (c *scene) add(name string, r rule) {
	c.Helper()
	c.addOn(name, strings.Trim(r.topic, "/"), r)
}

// addOn is add with another topic for probes.
func (c *scene) addOn(name, topic string, r rule) {
	c.Helper()
	c.put(name, r)
	r.complete(name)
	c.probe(r.node, r.namespace, c.topic(topic, r.raw), r.target)
}

// probe publishes on a topic, which is taken as it is, until something arrives.
func (c *scene) probe(node, namespace, topic, target string) {
	c.Helper()
	begin := c.position()
	tick := 250 * time.Millisecond
	for end := time.Now().Add(patience); time.Now().Before(end); {
		c.sendTo(node, namespace, topic, "probe "+c.slug)
		if c.await(begin, tick, func(got []delivery) bool {
			return slices.ContainsFunc(got, func(d delivery) bool { return d.To == target && d.Body == "probe "+c.slug })
		}) {
			return
		}
	}
	c.Fatalf("no probe published on %s at %s/%s arrived at %s within %s", node, namespace, topic, target, patience)
}

// passed returns when the router has seen all changes made before.
func (c *scene) passed() {
	c.Helper()
	c.serial++
	name := fmt.Sprintf("passed-%d", c.serial)
	r := rule{topic: name}
	r.complete(name)
	o := c.object(name, r)
	c.create(o)
	c.rules[name] = o
	c.probe(r.node, r.namespace, c.topic(name, false), name)
	c.fence(3, r.node)
}

// delete deletes a Rule and returns when the router has seen it.
func (c *scene) delete(name string) {
	c.Helper()
	c.do("delete Rule %s", name)
	if err := c.client().Delete(context.Background(), c.rules[name]); err != nil {
		c.Fatal(err)
	}
	c.passed()
}

// silence returns when nothing that is published on a topic arrives any more, or
// after a while if it still does; what comes then tells.
func (c *scene) silence(node, namespace, topic string) {
	c.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		begin := c.position()
		c.send(node, namespace, topic, "probe silence")
		c.fence(3, node)
		if !c.await(begin, 0, func(got []delivery) bool {
			return slices.ContainsFunc(got, func(d delivery) bool { return d.Body == "probe silence" })
		}) {
			return
		}
	}
}

// fence publishes n messages, each when the one before has arrived.
func (c *scene) fence(n int, node string) {
	c.Helper()
	for range n {
		c.suite.mu.Lock()
		c.suite.serial++
		body := fmt.Sprintf("fence %d", c.suite.serial)
		begin := len(c.suite.got)
		c.suite.mu.Unlock()
		c.send(node, "conformance", "fence", body)
		if !c.await(begin, patience, func(got []delivery) bool {
			return slices.ContainsFunc(got, func(d delivery) bool { return d.Body == body })
		}) {
			c.Fatalf("a fence on %s did not arrive within %s", node, patience)
		}
	}
}

// send publishes and returns when the broker has it.
func (c *scene) send(node, namespace, topic, body string) {
	c.Helper()
	c.sendTo(node, namespace, c.topic(topic, false), body)
}

// sendTo is send with the topic as it is.
func (c *scene) sendTo(node, namespace, topic, body string) {
	c.Helper()
	m := c.clients[node]
	if m == nil {
		var err error
		if m, err = connect(c.bed, node); err != nil {
			c.Fatal(err)
		}
		c.clients[node] = m
	}
	tok := m.Publish(c.names[namespace]+"/"+topic, 1, false, body)
	if !tok.WaitTimeout(patience) || tok.Error() != nil {
		c.Fatalf("publish %s/%s on %s: %v", namespace, topic, node, tok.Error())
	}
}

// message is something to publish. Empty fields are as in rule.
type message struct {
	namespace, node, topic, body string
	raw                          bool
}

// publish publishes and reports what arrived of it, sorted by target and body.
func (c *scene) publish(messages ...message) *step {
	c.Helper()
	var what []string
	nodes := map[string]bool{}
	for i := range messages {
		m := &messages[i]
		if m.namespace == "" {
			m.namespace = "conformance"
		}
		if m.node == "" {
			m.node = "edge-1"
		}
		nodes[m.node] = true
		what = append(what, fmt.Sprintf("%q on %s at %s/%s", printable([]byte(m.body)), m.node, m.namespace, m.topic))
	}
	st := c.do("publish %s", strings.Join(what, ", "))
	for _, m := range messages {
		c.sendTo(m.node, m.namespace, c.topic(m.topic, m.raw), m.body)
	}
	st.Got = c.observe(nodes)
	for i := range st.Got {
		d := &st.Got[i]
		d.Method, d.Header, d.Length = "", nil, 0
	}
	return st
}

// observe waits for as many deliveries as were recorded in this step, and then
// whether more come.
func (c *scene) observe(nodes map[string]bool) []delivery {
	c.Helper()
	fences := 20 // nobody knows how many to wait for
	if i := len(c.out.Steps) - 1; c.want != nil && i < len(c.want.Steps) {
		fences = 5
		n := len(c.want.Steps[i].Got)
		c.await(c.seen, patience, func(got []delivery) bool { return len(foreign(got)) >= n })
	}
	for node := range nodes {
		c.fence(fences, node)
	}
	end := c.position()
	c.suite.mu.Lock()
	got := foreign(c.suite.got[c.seen:end])
	c.suite.mu.Unlock()
	c.seen = end
	slices.SortStableFunc(got, func(a, b delivery) int {
		return strings.Compare(a.To+"\x00"+a.Body, b.To+"\x00"+b.Body)
	})
	return got
}

// foreign are the deliveries of what a case published.
func foreign(got []delivery) []delivery {
	out := []delivery{}
	for _, d := range got {
		if !ours(d.Body) {
			out = append(out, d)
		}
	}
	return out
}
