package hollowedge_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	rulesv1 "github.com/fluidos-edge/testbed/controllers/api/rules/v1"
	"github.com/fluidos-edge/testbed/simulators/hollowedge"
)

// TestQuirks states what KubeEdge does, each as a requirement. Absence is judged
// behind a fence: a later message of the same publisher that has arrived.
func TestQuirks(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"a message is posted byte for byte, with nothing said about it":                         postedAsIs,
		"bytes that are not UTF-8 are replaced, each by U+FFFD":                                 notUTF8,
		"wildcards in a Rule upload but forward nothing":                                        wildcards,
		"of two Rules with one key the last one wins":                                           lastWins,
		"deleting either of two Rules with one key silences both":                               eitherSilences,
		"Rules of two namespaces do not meet":                                                   namespaces,
		"Rules of two nodes do not meet":                                                        nodes,
		"topics /a and a are one":                                                               slashes,
		"an update of a Rule is ignored":                                                        updateIgnored,
		"an update of a RuleEndpoint is ignored":                                                endpointUpdateIgnored,
		"delete and create within one gap of the watch are ignored":                             oneGap,
		"a Rule whose source endpoint went first keeps forwarding":                              sourceWentFirst,
		"a Rule whose target endpoint went first forwards until it goes, and then no more":      targetWentFirst,
		"a Rule without endpoints is tried at 0, 5, 15 and 30 s and dropped":                    triedFourTimes,
		"a Rule that finds its endpoints late forwards":                                         endpointsLate,
		"a Rule that was deleted while it was tried forwards all the same":                      deletedWhileTried,
		"a Rule made while its node is cut off never subscribes, without an error":              cutOffNeverSubscribes,
		"a Rule for a node that does not exist is added, without an error":                      unknownNode,
		"an unsubscribe that is lost leaves the node uploading":                                 unsubscribeLost,
		"a create that overtakes the delete of its key ends without a listener":                 createOvertakes,
		"a create of the same name that overtakes the delete ends without a listener":           sameNameOvertakes,
		"an answer other than 2xx is a delivery, and nothing is sent again":                     statusIgnored,
		"a target that cannot be reached loses the message, and nothing is sent again":          unreachable,
		"each message has a connection of its own":                                              ownConnection,
		"each message has a goroutine of its own: a slow one holds up no other":                 ownGoroutine,
		"topics that begin with volume/ are not routed, those with user/ are":                   takenTopics,
		"an empty payload is not posted":                                                        emptyPayload,
		"userinfo in the URL is basic authorization":                                            userinfo,
		"other types of RuleEndpoint are refused":                                               otherTypes,
		"a Rule without node_name, topic or resource is refused":                                incomplete,
		"over the throttle messages wait, and none is lost":                                     throttled,
		"while a node is cut off one message is lost and the others wait, and lose their order": cutOff,
		"a message that waits for the throttle at a cut is lost":                                cutWhileThrottled,
		"a full queue drops what comes, and counts it":                                          queueFull,
		"a node that is cut off renews no Lease until EdgeHub tries again, 30 s after the cut":  cutOffLease,
		"a node that is cut again before EdgeHub tries stays away":                              cutAgain,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

func msg(topic, body string) [2]string { return [2]string{topic, body} }

func postedAsIs(t *testing.T) {
	b, s := start(t), newSink(t, 204)
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "a", "edge-1", "sensor/a", s.URL+"/v1/x?c=1&d=%20"))
	body := "environmental,uid=1 t=1,seq=1i 7\n\x00\u00ff"
	b.publish("edge-1", msg("fluidos/sensor/a", body))
	got := s.next()
	got.From = ""
	want := request{Method: "POST", Path: "/v1/x?c=1&d=%20", Body: body, Header: http.Header{
		"Accept-Encoding": {"gzip"}, "User-Agent": {"Go-http-client/1.1"}, "Content-Length": {fmt.Sprint(len(body))},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	eventually(t, func() error {
		if n := b.metric("messages_forwarded_total", "edge-1", ""); n != 1 {
			return fmt.Errorf("forwarded %d, want 1", n)
		}
		return nil
	})
}

func notUTF8(t *testing.T) {
	b, s := start(t), newSink(t, 204)
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "a", "edge-1", "a", s.URL))
	b.publish("edge-1", msg("fluidos/a", "\x00\xfe\xffü\xc3"))
	if got, want := s.next().Body, "\x00\ufffd\ufffdü\ufffd"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func wildcards(t *testing.T) {
	b, s, fence := start(t), newSink(t, 204), newSink(t, 204)
	b.addEndpoints("fluidos")
	b.add(
		rule("fluidos", "hash", "edge-1", "sensor/#", s.URL),
		rule("fluidos", "plus", "edge-1", "sensor/+/temperature", s.URL),
		rule("fluidos", "fence", "edge-1", "fence", fence.URL))
	b.publish("edge-1", msg("fluidos/sensor", "0"), msg("fluidos/sensor/a", "1"), msg("fluidos/sensor/a/temperature", "2"),
		msg("fluidos/other/a/temperature", "3"), msg("other/sensor/a", "4"), msg("fluidos/fence", "end"))
	fence.next()
	s.nothing()
	b.dropped("edge-1", "unrouted", 3)
	b.dropped("edge-1", "unsubscribed", 2)
	b.accounted("edge-1", 6)
}

func lastWins(t *testing.T) {
	b, first, last := start(t), newSink(t, 204), newSink(t, 204)
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "first", "edge-1", "a", first.URL), rule("fluidos", "last", "edge-1", "a", last.URL))
	b.publish("edge-1", msg("fluidos/a", "1"), msg("fluidos/a", "2"))
	got := last.bodies(2)
	slices.Sort(got)
	if diff := cmp.Diff([]string{"1", "2"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	first.nothing()
}

func eitherSilences(t *testing.T) {
	for _, deleted := range []string{"first", "last"} {
		for _, elsewhere := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, subscribed elsewhere %v", deleted, elsewhere), func(t *testing.T) {
				b, s, fence := start(t), newSink(t, 204), newSink(t, 204)
				b.addEndpoints("fluidos")
				b.add(rule("fluidos", "first", "edge-1", "a", s.URL), rule("fluidos", "last", "edge-1", "a", s.URL),
					rule("fluidos", "fence", "edge-1", "fence", fence.URL))
				why := "unsubscribed"
				if elsewhere { // the node uploads, but the cloud has no listener
					b.add(rule("fluidos", "all", "edge-1", "#", s.URL))
					why = "unrouted"
				}
				b.remove(rule("fluidos", deleted, "", "", ""))
				b.publish("edge-1", msg("fluidos/a", "1"), msg("fluidos/fence", "end"))
				fence.next()
				s.nothing()
				b.dropped("edge-1", why, 1)
			})
		}
	}
}

func namespaces(t *testing.T) {
	b, one, two := start(t), newSink(t, 204), newSink(t, 204)
	b.addEndpoints("one")
	b.addEndpoints("two")
	b.add(rule("one", "a", "edge-1", "a", one.URL), rule("two", "a", "edge-1", "a", two.URL))
	b.publish("edge-1", msg("one/a", "for one"), msg("two/a", "for two"))
	if got := one.next().Body; got != "for one" {
		t.Errorf("one got %q", got)
	}
	if got := two.next().Body; got != "for two" {
		t.Errorf("two got %q", got)
	}
	b.remove(rule("one", "a", "", "", ""))
	b.publish("edge-1", msg("one/a", "for one"), msg("two/a", "again for two"))
	if got := two.next().Body; got != "again for two" {
		t.Errorf("two got %q", got)
	}
	one.nothing()
}

func nodes(t *testing.T) {
	b, one, two := start(t), newSink(t, 204), newSink(t, 204)
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "one", "edge-1", "a", one.URL), rule("fluidos", "two", "edge-2", "a", two.URL))
	b.publish("edge-2", msg("fluidos/a", "2"))
	b.publish("edge-1", msg("fluidos/a", "1"))
	if got := one.next().Body; got != "1" {
		t.Errorf("one got %q", got)
	}
	if got := two.next().Body; got != "2" {
		t.Errorf("two got %q", got)
	}
	one.nothing()
	two.nothing()
}

func slashes(t *testing.T) {
	b, first, last := start(t), newSink(t, 204), newSink(t, 204)
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "bare", "edge-1", "a", first.URL), rule("fluidos", "slash", "edge-1", "/a", last.URL))
	b.publish("edge-1", msg("fluidos//a", "never"), msg("fluidos/a", "1"))
	if got := last.next().Body; got != "1" {
		t.Errorf("got %q", got)
	}
	first.nothing()
	last.nothing()
}

func updateIgnored(t *testing.T) {
	b, before, after := start(t), newSink(t, 204), newSink(t, 204)
	b.addEndpoints("fluidos")
	r := rule("fluidos", "a", "edge-1", "a", before.URL)
	b.add(r)
	r.Spec.TargetResource[rulesv1.TargetResource] = after.URL
	r.Spec.SourceResource[rulesv1.SourceTopic] = "b"
	if err := b.client.Update(context.Background(), r); err != nil {
		t.Fatal(err)
	}
	b.add(rule("fluidos", "fence", "edge-1", "fence", before.URL)) // the update has been seen
	b.publish("edge-1", msg("fluidos/b", "never"), msg("fluidos/a", "1"))
	if got := before.next().Body; got != "1" {
		t.Errorf("got %q", got)
	}
	after.nothing()
	// Its delete goes by what was added, not by the update.
	b.remove(r)
	b.publish("edge-1", msg("fluidos/a", "never"), msg("fluidos/fence", "end"))
	if got := before.next().Body; got != "end" {
		t.Errorf("got %q", got)
	}
}

func endpointUpdateIgnored(t *testing.T) {
	b, s := start(t), newSink(t, 204)
	b.addEndpoints("fluidos")
	ep := &rulesv1.RuleEndpoint{}
	if err := b.client.Get(context.Background(), types.NamespacedName{Namespace: "fluidos", Name: "web"}, ep); err != nil {
		t.Fatal(err)
	}
	ep.Spec.RuleEndpointType = rulesv1.TypeServiceBus
	if err := b.client.Update(context.Background(), ep); err != nil {
		t.Fatal(err)
	}
	b.create(endpoint("fluidos", "fence", rulesv1.TypeREST))
	b.awaitLog(1, "rule endpoint added", "endpoint", "fluidos/fence")
	b.add(rule("fluidos", "a", "edge-1", "a", s.URL))
	b.publish("edge-1", msg("fluidos/a", "1"))
	s.next()
}

func oneGap(t *testing.T) {
	w := watch.NewRaceFreeFake()
	b, before, after := start(t, withRuleWatch(w)), newSink(t, 204), newSink(t, 204)
	b.addEndpoints("fluidos")
	seen := func(version string, r *rulesv1.Rule) *rulesv1.Rule {
		r.ResourceVersion, r.UID = version, types.UID(version)
		return r
	}
	w.Add(seen("1", rule("fluidos", "a", "edge-1", "a", before.URL)))
	b.awaitLog(1, "rule added", "rule", "fluidos/a")
	w.Modify(seen("3", rule("fluidos", "a", "edge-1", "a", after.URL)))
	w.Add(seen("4", rule("fluidos", "fence", "edge-1", "fence", before.URL)))
	b.awaitLog(1, "rule added", "rule", "fluidos/fence")
	b.publish("edge-1", msg("fluidos/a", "1"))
	if got := before.next().Body; got != "1" {
		t.Errorf("got %q", got)
	}
	after.nothing()
}

func sourceWentFirst(t *testing.T) {
	b, s := start(t), newSink(t, 204)
	b.addEndpoints("fluidos")
	r := rule("fluidos", "a", "edge-1", "a", s.URL)
	b.add(r)
	b.removeEndpoint("fluidos", "bus")
	b.delete(r)
	b.awaitLog(1, "rule deleted, its listener stays", "rule", "fluidos/a")
	b.publish("edge-1", msg("fluidos/a", "still"))
	if got := s.next().Body; got != "still" {
		t.Errorf("got %q", got)
	}
}

func targetWentFirst(t *testing.T) {
	b, s, fence := start(t), newSink(t, 204), newSink(t, 204)
	b.addEndpoints("fluidos")
	r := rule("fluidos", "a", "edge-1", "a", s.URL)
	b.add(r, rule("fluidos", "fence", "edge-1", "fence", fence.URL))
	b.removeEndpoint("fluidos", "web")
	b.publish("edge-1", msg("fluidos/a", "still"))
	s.next()
	b.remove(r)
	b.publish("edge-1", msg("fluidos/a", "never"), msg("fluidos/fence", "end"))
	fence.next()
	s.nothing()
}

// attempts follows a Rule through so many failed attempts, each after its wait.
func attempts(b *bed, name string, waits ...time.Duration) {
	b.Helper()
	for i, d := range waits {
		if d > 0 {
			b.waiters(2)
			b.clock.Step(d - time.Millisecond)
			b.waiters(2)
			if n := b.log.count("rule not added", "rule", name); n != i {
				b.Fatalf("%d attempts 1 ms before attempt %d was due", n, i+1)
			}
			b.clock.Step(time.Millisecond)
		}
		b.awaitLog(1, "rule not added", "rule", name, "attempt", i+1)
	}
}

func triedFourTimes(t *testing.T) {
	b, s, fence := start(t), newSink(t, 204), newSink(t, 204)
	b.create(rule("fluidos", "a", "edge-1", "a", s.URL))
	attempts(b, "fluidos/a", 0, 5*time.Second, 10*time.Second, 15*time.Second)
	b.awaitLog(1, "rule dropped", "rule", "fluidos/a")
	b.addEndpoints("fluidos")
	b.waiters(2)
	b.clock.Step(20 * time.Second)
	b.waiters(1)
	b.clock.Step(time.Minute)
	b.add(rule("fluidos", "fence", "edge-1", "fence", fence.URL))
	b.publish("edge-1", msg("fluidos/a", "never"), msg("fluidos/fence", "end"))
	fence.next()
	s.nothing()
	if n := b.log.count("rule added", "rule", "fluidos/a"); n != 0 {
		t.Error("added after all")
	}
	if n := b.log.count("rule not added", "rule", "fluidos/a"); n != 4 {
		t.Errorf("%d attempts, want 4", n)
	}
}

func endpointsLate(t *testing.T) {
	b, s := start(t), newSink(t, 204)
	b.create(rule("fluidos", "a", "edge-1", "a", s.URL))
	attempts(b, "fluidos/a", 0, 5*time.Second, 10*time.Second)
	b.addEndpoints("fluidos")
	b.waiters(2)
	b.clock.Step(15 * time.Second)
	b.awaitLog(1, "rule added", "rule", "fluidos/a")
	b.publish("edge-1", msg("fluidos/a", "1"))
	s.next()
}

func deletedWhileTried(t *testing.T) {
	b, s := start(t), newSink(t, 204)
	r := rule("fluidos", "a", "edge-1", "a", s.URL)
	b.create(r)
	attempts(b, "fluidos/a", 0, 5*time.Second)
	b.delete(r)
	b.awaitLog(1, "rule to delete was never added", "rule", "fluidos/a")
	b.addEndpoints("fluidos")
	b.waiters(2)
	b.clock.Step(10 * time.Second)
	b.awaitLog(1, "rule added", "rule", "fluidos/a")
	b.publish("edge-1", msg("fluidos/a", "of a Rule that is no more"))
	s.next()
}

// reconnect mends a node's connection and lets the time pass that EdgeHub takes.
func (b *bed) reconnect(node string) {
	b.Helper()
	if err := b.runtime.Connect(node); err != nil {
		b.Fatal(err)
	}
	b.waiters(2)
	b.clock.Step(30 * time.Second)
	b.connected(node, 1)
}

func (b *bed) connected(node string, want int) {
	b.Helper()
	eventually(b.T, func() error {
		if got := b.metric("node_connected", node, ""); got != want {
			return fmt.Errorf("node %s: connected %d, want %d", node, got, want)
		}
		return nil
	})
}

func (b *bed) cut(node string) {
	b.Helper()
	if err := b.runtime.Disconnect(node); err != nil {
		b.Fatal(err)
	}
	b.connected(node, 0)
}

func cutOffNeverSubscribes(t *testing.T) {
	b, s, fence := start(t), newSink(t, 204), newSink(t, 204)
	b.addEndpoints("fluidos")
	b.cut("edge-1")
	b.add(rule("fluidos", "a", "edge-1", "a", s.URL)) // no error
	b.reconnect("edge-1")
	b.add(rule("fluidos", "fence", "edge-1", "fence", fence.URL))
	b.publish("edge-1", msg("fluidos/a", "never"), msg("fluidos/fence", "end"))
	fence.next()
	s.nothing()
	b.dropped("edge-1", "unsubscribed", 1)
	// Deleted and created again, it works.
	b.remove(rule("fluidos", "a", "", "", ""))
	b.add(rule("fluidos", "a", "edge-1", "a", s.URL))
	b.publish("edge-1", msg("fluidos/a", "1"))
	s.next()
}

func unknownNode(t *testing.T) {
	b, s := start(t), newSink(t, 204)
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "a", "edge-99", "a", s.URL), rule("fluidos", "b", "", "b", s.URL))
	b.remove(rule("fluidos", "a", "", "", ""), rule("fluidos", "b", "", "", ""))
	if err := b.runtime.Disconnect("edge-99"); err == nil {
		t.Error("disconnected a node that is not there")
	}
	if err := b.runtime.Connect("edge-99"); err == nil {
		t.Error("connected a node that is not there")
	}
	if a := b.runtime.BrokerAddr("edge-99"); a != nil {
		t.Errorf("a node that is not there has a broker at %v", a)
	}
}

func unsubscribeLost(t *testing.T) {
	b, s := start(t), newSink(t, 204)
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "a", "edge-1", "a", s.URL))
	b.cut("edge-1")
	b.remove(rule("fluidos", "a", "", "", ""))
	b.reconnect("edge-1")
	b.publish("edge-1", msg("fluidos/a", "to nobody"))
	b.dropped("edge-1", "unrouted", 1)
	s.nothing()
}

// held is an order of events that a test decides on.
type held struct {
	*testing.T
	events chan hollowedge.Event
	kept   []hollowedge.Event
}

func newHeld(t *testing.T) *held { return &held{T: t, events: make(chan hollowedge.Event, 100)} }

// take waits for an event and returns it; others are kept for later.
func (h *held) take(what, key string) hollowedge.Event {
	h.Helper()
	for {
		for i, e := range h.kept {
			if e.What == what && e.Key == key {
				h.kept = slices.Delete(h.kept, i, i+1)
				return e
			}
		}
		select {
		case e := <-h.events:
			h.kept = append(h.kept, e)
		case <-time.After(patience):
			h.Fatalf("no event %q of %s within %s", what, key, patience)
		}
	}
}

func (h *held) handle(what, key string) {
	h.Helper()
	h.take(what, key).Handle()
}

func createOvertakes(t *testing.T) {
	h := newHeld(t)
	b, s, fence := start(t, withOrder(func(e hollowedge.Event) { h.events <- e })), newSink(t, 204), newSink(t, 204)
	b.create(endpoints("fluidos")...)
	h.handle("add RuleEndpoint", "fluidos/bus")
	h.handle("add RuleEndpoint", "fluidos/web")
	before, after := rule("fluidos", "before", "edge-1", "a", s.URL), rule("fluidos", "after", "edge-1", "a", s.URL)
	b.create(before, rule("fluidos", "fence", "edge-1", "fence", fence.URL))
	h.handle("add Rule", "fluidos/fence")
	h.handle("add Rule", "fluidos/before")
	b.delete(before)
	b.create(after)
	h.handle("add Rule", "fluidos/after")
	h.handle("delete Rule", "fluidos/before")
	b.publish("edge-1", msg("fluidos/a", "never"), msg("fluidos/fence", "end"))
	fence.next()
	s.nothing()
}

func sameNameOvertakes(t *testing.T) {
	h := newHeld(t)
	b, s, fence := start(t, withOrder(func(e hollowedge.Event) { h.events <- e })), newSink(t, 204), newSink(t, 204)
	b.create(endpoints("fluidos")...)
	h.handle("add RuleEndpoint", "fluidos/bus")
	h.handle("add RuleEndpoint", "fluidos/web")
	b.create(rule("fluidos", "a", "edge-1", "a", s.URL), rule("fluidos", "fence", "edge-1", "fence", fence.URL))
	h.handle("add Rule", "fluidos/fence")
	h.handle("add Rule", "fluidos/a")
	b.delete(rule("fluidos", "a", "", "", ""))
	b.create(rule("fluidos", "a", "edge-1", "a", s.URL))
	h.handle("add Rule", "fluidos/a")
	h.handle("delete Rule", "fluidos/a")
	b.publish("edge-1", msg("fluidos/a", "never"), msg("fluidos/fence", "end"))
	fence.next()
	s.nothing()
	// In their own order the two would have worked.
	b.delete(rule("fluidos", "a", "", "", ""))
	h.handle("delete Rule", "fluidos/a")
	b.create(rule("fluidos", "a", "edge-1", "a", s.URL))
	h.handle("add Rule", "fluidos/a")
	b.publish("edge-1", msg("fluidos/a", "1"))
	s.next()
	// An event that comes to its turn after the end does nothing.
	b.create(rule("fluidos", "late", "edge-1", "late", s.URL))
	late := h.take("add Rule", "fluidos/late")
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	late.Handle()
	if n := b.log.count("rule added", "rule", "fluidos/late"); n != 0 {
		t.Errorf("added after the end")
	}
}

func statusIgnored(t *testing.T) {
	b, s, fence := start(t), newSink(t, 503), newSink(t, 204)
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "a", "edge-1", "a", s.URL), rule("fluidos", "fence", "edge-1", "fence", fence.URL))
	b.publish("edge-1", msg("fluidos/a", "1"))
	s.next()
	b.publish("edge-1", msg("fluidos/fence", "end"))
	fence.next()
	b.clock.Step(time.Hour)
	eventually(t, func() error {
		if n := b.metric("messages_forwarded_total", "edge-1", ""); n != 2 {
			return fmt.Errorf("forwarded %d, want 2", n)
		}
		return nil
	})
	s.nothing()
}

func unreachable(t *testing.T) {
	b := start(t)
	s := newSink(t, 204)
	b.addEndpoints("fluidos")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := "http://user:hunter2@" + l.Addr().String() + "/x?c=capability"
	l.Close()
	b.add(rule("fluidos", "a", "edge-1", "a", gone),
		rule("fluidos", "b", "edge-1", "b", "http://user:hunter2@127.0.0.1:port/x?c=capability"),
		rule("fluidos", "c", "edge-1", "c", "ftp://user:hunter2@127.0.0.1/x?c=capability"),
		rule("fluidos", "fence", "edge-1", "fence", s.URL))
	b.publish("edge-1", msg("fluidos/a", "1"), msg("fluidos/b", "2"), msg("fluidos/c", "3"), msg("fluidos/fence", "end"))
	s.next()
	b.dropped("edge-1", "refused", 3)
	b.awaitLog(3, "message lost: its target did not answer", "node", "edge-1")
	for _, secret := range []string{"hunter2", "capability"} {
		if strings.Contains(b.log.String(), secret) {
			t.Errorf("%q was logged:\n%s", secret, b.log)
		}
	}
	b.clock.Step(time.Hour)
	b.dropped("edge-1", "refused", 3)
}

func ownConnection(t *testing.T) {
	b, s := start(t), newSink(t, 200)
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "a", "edge-1", "a", s.URL))
	seen := map[string]bool{}
	for range 5 {
		b.publish("edge-1", msg("fluidos/a", "1"))
		r := s.next()
		if r.Header.Get("Connection") != "" {
			t.Errorf("header Connection: %s", r.Header.Get("Connection"))
		}
		seen[r.From] = true
	}
	if len(seen) != 5 {
		t.Errorf("5 messages over %d connections", len(seen))
	}
}

func ownGoroutine(t *testing.T) {
	b, fast := start(t), newSink(t, 204)
	came, release := make(chan struct{}), make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		came <- struct{}{}
		<-release
	}))
	defer slow.Close()
	defer close(release)
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "slow", "edge-1", "slow", slow.URL), rule("fluidos", "fast", "edge-1", "fast", fast.URL))
	b.publish("edge-1", msg("fluidos/slow", "1"), msg("fluidos/slow", "2"), msg("fluidos/fast", "3"))
	<-came
	<-came
	fast.next()
}

func takenTopics(t *testing.T) {
	b, s := start(t), newSink(t, 204)
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "u", "edge-1", "user/a", s.URL), rule("fluidos", "v", "edge-1", "volume/a", s.URL),
		rule("fluidos", "fence", "edge-1", "users", s.URL))
	b.publish("edge-1", msg("fluidos/user/a", "1"), msg("fluidos/volume/a", "2"), msg("fluidos/users", "end"))
	got := s.bodies(2)
	slices.Sort(got)
	if diff := cmp.Diff([]string{"1", "end"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	b.dropped("edge-1", "taken", 1)
}

func emptyPayload(t *testing.T) {
	b, s := start(t), newSink(t, 204)
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "a", "edge-1", "a", s.URL))
	b.publish("edge-1", msg("fluidos/a", ""), msg("fluidos/a", "end"))
	if got := s.next().Body; got != "end" {
		t.Errorf("got %q", got)
	}
	b.dropped("edge-1", "empty", 1)
}

func userinfo(t *testing.T) {
	b, s := start(t), newSink(t, 204)
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "a", "edge-1", "a", strings.Replace(s.URL, "http://", "http://user:hunter2@", 1)))
	b.publish("edge-1", msg("fluidos/a", "1"))
	r := http.Request{Header: s.next().Header}
	user, password, _ := r.BasicAuth()
	if user != "user" || password != "hunter2" {
		t.Errorf("user %q, password %q", user, password)
	}
	if strings.Contains(b.log.String(), "hunter2") {
		t.Errorf("the password was logged:\n%s", b.log)
	}
}

func otherTypes(t *testing.T) {
	for _, typ := range []string{rulesv1.TypeREST, rulesv1.TypeServiceBus, rulesv1.TypeEventBus} {
		source, target := typ, typ
		if typ == rulesv1.TypeEventBus {
			source = rulesv1.TypeREST
		}
		t.Run(source+" to "+target, func(t *testing.T) {
			b := start(t)
			b.create(endpoint("fluidos", "bus", source), endpoint("fluidos", "web", target))
			b.awaitLog(1, "rule endpoint added", "endpoint", "fluidos/bus")
			b.awaitLog(1, "rule endpoint added", "endpoint", "fluidos/web")
			b.create(rule("fluidos", "a", "edge-1", "a", "http://127.0.0.1:1"))
			b.awaitLog(1, "rule not added", "rule", "fluidos/a", "attempt", 1)
		})
	}
}

func incomplete(t *testing.T) {
	b := start(t)
	b.addEndpoints("fluidos")
	for missing, from := range map[string]func(*rulesv1.Rule) map[string]string{
		rulesv1.SourceNodeName: func(r *rulesv1.Rule) map[string]string { return r.Spec.SourceResource },
		rulesv1.SourceTopic:    func(r *rulesv1.Rule) map[string]string { return r.Spec.SourceResource },
		rulesv1.TargetResource: func(r *rulesv1.Rule) map[string]string { return r.Spec.TargetResource },
	} {
		r := rule("fluidos", "without-"+strings.ReplaceAll(missing, "_", "-"), "edge-1", "a", "http://127.0.0.1:1")
		delete(from(r), missing)
		b.create(r)
		b.awaitLog(1, "rule not added", "rule", "fluidos/"+r.Name, "attempt", 1)
	}
}

func throttled(t *testing.T) {
	b, s := start(t), newSink(t, 204)
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "a", "edge-1", "a", s.URL), rule("fluidos", "b", "edge-2", "a", s.URL))
	var want []string
	var sent [][2]string
	for i := range 100 {
		want = append(want, fmt.Sprintf("%03d", i))
		sent = append(sent, msg("fluidos/a", want[i]))
	}
	b.publish("edge-1", sent...)
	var got []string
	for _, step := range []struct{ arrive, queued int }{{60, 40}, {30, 10}, {10, 0}} {
		got = append(got, s.bodies(step.arrive)...)
		eventually(t, func() error {
			if n := b.metric("messages_queued", "edge-1", ""); n != step.queued {
				return fmt.Errorf("%d queued, want %d", n, step.queued)
			}
			return nil
		})
		s.nothing()
		if step.queued > 0 {
			b.waiters(2)
			b.clock.Step(time.Second)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	// Each node has a throttle of its own.
	b.publish("edge-2", msg("fluidos/a", "1"))
	s.next()
}

func cutOff(t *testing.T) {
	b := start(t, withConfig(hollowedge.Config{
		Nodes: []hollowedge.Node{{Name: "edge-1", MQTT: "127.0.0.1:0"}}, MessageQPS: 1, MessageBurst: 1,
	}))
	s := newSink(t, 204)
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "a", "edge-1", "a", s.URL))
	b.cut("edge-1")
	var sent [][2]string
	var want []string
	for i := range 10 {
		sent = append(sent, msg("fluidos/a", fmt.Sprint(i)))
		if i > 0 {
			want = append(want, fmt.Sprint(i))
		}
	}
	b.publish("edge-1", sent...)
	b.dropped("edge-1", "cut", 1)
	if n := b.metric("messages_queued", "edge-1", ""); n != 9 {
		t.Errorf("%d queued, want 9", n)
	}
	b.reconnect("edge-1")
	got := []string{s.next().Body}
	for range 8 {
		b.waiters(2)
		s.nothing()
		b.clock.Step(time.Second)
		got = append(got, s.next().Body)
	}
	b.accounted("edge-1", 10)
	if cmp.Equal(want, got) {
		t.Errorf("came in order: %v", got)
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func queueFull(t *testing.T) {
	b, s := start(t, withQueueLimit(3)), newSink(t, 204)
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "a", "edge-1", "a", s.URL))
	b.cut("edge-1")
	b.publish("edge-1", msg("fluidos/a", "lost in the cut"))
	b.dropped("edge-1", "cut", 1)
	b.publish("edge-1", msg("fluidos/a", "1"), msg("fluidos/a", "2"), msg("fluidos/a", "3"), msg("fluidos/a", "4"), msg("fluidos/a", "5"))
	b.dropped("edge-1", "queue_full", 2)
	b.accounted("edge-1", 6)
	b.reconnect("edge-1")
	got := s.bodies(3)
	slices.Sort(got)
	if diff := cmp.Diff([]string{"1", "2", "3"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	b.accounted("edge-1", 6)
}

func cutWhileThrottled(t *testing.T) {
	b := start(t, withConfig(hollowedge.Config{
		Nodes: []hollowedge.Node{{Name: "edge-1", MQTT: "127.0.0.1:0"}}, MessageQPS: 1, MessageBurst: 1,
	}))
	s := newSink(t, 204)
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "a", "edge-1", "a", s.URL))
	b.publish("edge-1", msg("fluidos/a", "1"), msg("fluidos/a", "2"), msg("fluidos/a", "3"))
	s.next()
	b.waiters(2)
	b.cut("edge-1")
	b.clock.Step(time.Second)
	b.dropped("edge-1", "cut", 1)
	b.waiters(1)
	b.reconnect("edge-1")
	if got := s.next().Body; got != "3" {
		t.Errorf("got %q, want 3", got)
	}
}

func cutOffLease(t *testing.T) {
	b := start(t, withConfig(hollowedge.Config{Nodes: []hollowedge.Node{{Name: "edge-1"}}}))
	renewed := func() time.Time {
		lease := &coordinationv1.Lease{}
		if err := b.client.Get(context.Background(), types.NamespacedName{Namespace: corev1.NamespaceNodeLease, Name: "edge-1"}, lease); err != nil {
			t.Fatal(err)
		}
		return lease.Spec.RenewTime.Time
	}
	is := func(want time.Time) {
		t.Helper()
		eventually(t, func() error {
			if got := renewed(); !got.Equal(want) {
				return fmt.Errorf("renewed at %s, want %s", got, want)
			}
			return nil
		})
	}
	begin := b.clock.Now()
	is(begin)
	b.waiters(1)
	b.clock.Step(10 * time.Second)
	is(begin.Add(10 * time.Second))
	b.cut("edge-1")
	for range 2 {
		b.waiters(1)
		b.clock.Step(10 * time.Second)
	}
	b.waiters(1)
	if err := b.runtime.Connect("edge-1"); err != nil {
		t.Fatal(err)
	}
	b.waiters(2)
	b.clock.Step(10*time.Second - 1)
	b.connected("edge-1", 0)
	is(begin.Add(10 * time.Second))
	b.waiters(2)
	b.clock.Step(1)
	b.connected("edge-1", 1)
	is(begin.Add(40 * time.Second))
}

func cutAgain(t *testing.T) {
	b := start(t, withConfig(hollowedge.Config{Nodes: []hollowedge.Node{{Name: "edge-1"}}}))
	b.cut("edge-1")
	if err := b.runtime.Connect("edge-1"); err != nil {
		t.Fatal(err)
	}
	b.waiters(2)
	b.cut("edge-1")
	b.clock.Step(30 * time.Second)
	b.waiters(1)
	b.connected("edge-1", 0)
	b.reconnect("edge-1")
}

func TestRulesThatExistSubscribeAtStart(t *testing.T) {
	t.Parallel()
	s := newSink(t, 204)
	objects := append(endpoints("fluidos"), rule("fluidos", "a", "edge-1", "a", s.URL))
	b := start(t, withObjects(objects...))
	b.awaitLog(1, "rule added", "rule", "fluidos/a")
	b.publish("edge-1", msg("fluidos/a", "1"))
	s.next()
}

func TestTargetIsVerified(t *testing.T) {
	t.Parallel()
	b := start(t)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("posted to a server nobody vouches for")
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "a", "edge-1", "a", s.URL))
	b.publish("edge-1", msg("fluidos/a", "1"))
	b.dropped("edge-1", "refused", 1)
}

func TestShutdownWaitsForNoClient(t *testing.T) {
	t.Parallel()
	b := start(t)
	silent, err := net.Dial("tcp", b.runtime.BrokerAddr("edge-1").String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c := b.dial("edge-1")
	defer c.Disconnect(0)
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	// Nodes are left, as EdgeCore leaves them.
	for _, name := range []string{"edge-1", "edge-2"} {
		if err := b.client.Get(context.Background(), types.NamespacedName{Name: name}, &corev1.Node{}); err != nil {
			t.Error(err)
		}
	}
	if err := b.runtime.Run(context.Background(), newSlog(), func(error) {}); err == nil {
		t.Error("a Runtime ran twice")
	}
}

func TestBrokerAddressInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = hollowedge.Run(context.Background(), newSlog(), func(error) {}, &hollowedge.Options{
		Config:     &hollowedge.Config{Nodes: []hollowedge.Node{{Name: "edge-1", MQTT: l.Addr().String()}}},
		Client:     newClient(t),
		Registerer: prometheus.NewRegistry(),
	})
	if err == nil || !strings.Contains(err.Error(), "edge-1") || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("got %v, want an error that names the node and the address", err)
	}
}

func TestNewReportsWhatIsMissing(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "edge.json")
	if err := os.WriteFile(file, []byte(`{"nodes": [{"name": "edge-1", "mqtt": "127.0.0.1:1884"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		opts hollowedge.Options
		want string
	}{
		"no config":        {hollowedge.Options{}, "--config"},
		"no such config":   {hollowedge.Options{ConfigFile: file + "x"}, file + "x"},
		"no such cluster":  {hollowedge.Options{ConfigFile: file, Kubeconfig: file + "y"}, file + "y"},
		"no node":          {hollowedge.Options{Config: &hollowedge.Config{}}, "nodes"},
		"nothing is wrong": {hollowedge.Options{ConfigFile: file, Client: newClient(t)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := hollowedge.New(&test.opts)
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
			if name == "no such config" && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%v is not ErrNotExist", err)
			}
		})
	}
}
