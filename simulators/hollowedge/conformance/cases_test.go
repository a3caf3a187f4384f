package conformance_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	rulesv1 "github.com/fluidos-edge/testbed/controllers/api/rules/v1"
)

var cases = []struct {
	name string
	run  func(*scene)
}{
	{"a message is posted as UTF-8", func(c *scene) {
		c.add("r", rule{topic: "a"})
		c.publish(message{topic: "a", body: "temperature=21.5 über alles"})
		c.publish(message{topic: "a", body: "\x00\x01\xfe\xff\r\n\x80"})
		c.publish(message{topic: "a", body: `{"a": [1, "<&>"]}` + "\n\n"})
		c.publish(message{topic: "a", body: strings.Repeat("0123456789abcdef", 4000)})
	}},
	{"an empty payload", func(c *scene) {
		c.add("r", rule{topic: "a"})
		c.publish(message{topic: "a", body: ""})
	}},
	{"method and headers", func(c *scene) {
		c.add("r", rule{topic: "a"})
		c.full(message{topic: "a", body: "hello"})
	}},
	{"userinfo in the URL", func(c *scene) {
		c.add("r", rule{topic: "a", userinfo: "user:password"})
		c.full(message{topic: "a", body: "hello"})
	}},
	{"a connection for each message", func(c *scene) {
		c.add("r", rule{topic: "a"})
		seen := map[string]bool{}
		for range 5 {
			for _, d := range c.publish(message{topic: "a", body: "hello"}).Got {
				seen[d.from] = true
			}
		}
		c.out.Steps[len(c.out.Steps)-1].Holds = map[string]bool{"5 messages came over 5 connections": len(seen) == 5}
	}},
	{"only the exact topic", func(c *scene) {
		c.add("r", rule{topic: "a/b"})
		c.publish(message{topic: "a/b", body: "1"}, message{topic: "a", body: "2"}, message{topic: "a/b/c", body: "3"}, message{topic: "A/b", body: "4"})
	}},
	{"wildcards get nothing", func(c *scene) {
		c.put("hash", rule{topic: "a/#"})
		c.put("plus", rule{topic: "b/+"})
		c.passed()
		c.publish(message{topic: "a/x", body: "1"}, message{topic: "a", body: "2"}, message{topic: "b/x", body: "3"})
	}},
	{"a wildcard does not disturb an exact topic", func(c *scene) {
		c.put("hash", rule{topic: "a/#"})
		c.passed()
		c.add("exact", rule{topic: "a/b"})
		c.publish(message{topic: "a/b", body: "1"}, message{topic: "a/c", body: "2"})
	}},
	{"namespaces do not meet", func(c *scene) {
		c.add("r", rule{topic: "a"})
		c.publish(message{topic: "a", body: "1"}, message{topic: "a", namespace: "other", body: "2"})
		c.add("o", rule{topic: "a", namespace: "other"})
		c.publish(message{topic: "a", body: "3"}, message{topic: "a", namespace: "other", body: "4"})
		c.delete("r")
		c.silence("edge-1", "conformance", "a")
		c.publish(message{topic: "a", body: "5"}, message{topic: "a", namespace: "other", body: "6"})
	}},
	{"nodes do not meet", func(c *scene) {
		c.add("r", rule{topic: "a"})
		c.publish(message{topic: "a", body: "1"}, message{topic: "a", node: "edge-2", body: "2"})
		c.add("two", rule{topic: "a", node: "edge-2"})
		c.publish(message{topic: "a", body: "3"}, message{topic: "a", node: "edge-2", body: "4"})
	}},
	{"of two Rules with one key the last wins", func(c *scene) {
		c.add("first", rule{topic: "a"})
		c.publish(message{topic: "a", body: "1"})
		c.add("last", rule{topic: "a"})
		c.publish(message{topic: "a", body: "2"})
	}},
	{"deleting the first of two Rules with one key", func(c *scene) {
		c.add("first", rule{topic: "a"})
		c.add("last", rule{topic: "a"})
		c.delete("first")
		c.silence("edge-1", "conformance", "a")
		c.publish(message{topic: "a", body: "1"})
	}},
	{"deleting the last of two Rules with one key", func(c *scene) {
		c.add("first", rule{topic: "a"})
		c.add("last", rule{topic: "a"})
		c.delete("last")
		c.silence("edge-1", "conformance", "a")
		c.publish(message{topic: "a", body: "1"})
	}},
	{"delete and create again", func(c *scene) {
		c.add("r", rule{topic: "a"})
		c.delete("r")
		c.silence("edge-1", "conformance", "a")
		c.publish(message{topic: "a", body: "1"})
		c.add("again", rule{topic: "a"})
		c.publish(message{topic: "a", body: "2"})
	}},
	{"/a and a are one", func(c *scene) {
		c.add("plain", rule{topic: "a"})
		c.add("slash", rule{topic: "/a"})
		c.publish(message{topic: "a", body: "1"}, message{topic: "/a", body: "2"})
		c.delete("plain")
		c.silence("edge-1", "conformance", "a")
		c.publish(message{topic: "a", body: "3"}, message{topic: "/a", body: "4"})
	}},
	{"slashes that are too many", func(c *scene) {
		c.add("trailing", rule{topic: "a/"})
		c.addOn("double", "b/c", rule{topic: "b//c"})
		c.publish(message{topic: "a", body: "1"}, message{topic: "a/", body: "2"}, message{topic: "b/c", body: "3"}, message{topic: "b//c", body: "4"})
	}},
	{"an update of a Rule is ignored", func(c *scene) {
		c.add("r", rule{topic: "a"})
		o := c.rules["r"]
		patched := o.DeepCopy()
		patched.Spec.TargetResource[rulesv1.TargetResource] = c.url + "/" + c.slug + "/new"
		patched.Spec.SourceResource[rulesv1.SourceTopic] = c.topic("b", false)
		c.do(`update Rule r: topic "b", target new`)
		if err := c.client().Patch(context.Background(), patched, client.MergeFrom(o)); err != nil {
			c.Fatal(err)
		}
		c.passed()
		c.publish(message{topic: "a", body: "1"}, message{topic: "b", body: "2"})
		c.delete("r")
		c.silence("edge-1", "conformance", "a")
		c.publish(message{topic: "a", body: "3"}, message{topic: "b", body: "4"})
	}},
	{"an answer of 500 is not retried", func(c *scene) {
		c.add("500-r", rule{topic: "a"})
		c.publish(message{topic: "a", body: "1"})
		c.publish(message{topic: "a", body: "2"}, message{topic: "a", body: "3"})
	}},
	{"redirects", func(c *scene) {
		c.add("307-temporary", rule{topic: "a"})
		c.add("302-found", rule{topic: "b"})
		c.publish(message{topic: "a", body: "1"}, message{topic: "b", body: "2"})
	}},
	{"topics with words that KubeEdge uses", func(c *scene) {
		var all []message
		for i, topic := range []string{"user/a", "volume/a", "volume", "x/user/a", "x/volume/a",
			"device/a", "membership/a", "twin/a", "node/a", "pod/a", "lease/a", "bus/a", "rule/a"} {
			create := c.add
			if topic == "volume/a" { // gets nothing, so no probe either
				create = c.put
			}
			create(fmt.Sprintf("r%02d", i), rule{topic: topic, raw: true})
			all = append(all, message{topic: topic, body: topic, raw: true})
		}
		c.passed()
		c.publish(all...)
	}},
	{"a Rule whose source endpoint is missing", func(c *scene) {
		c.put("r", rule{topic: "a", source: "missing"})
		c.passed()
		c.publish(message{topic: "a", body: "1"})
	}},
	{"a Rule whose source endpoint comes late", func(c *scene) {
		c.put("r", rule{topic: "a", source: "late"})
		c.passed()
		c.publish(message{topic: "a", body: "1"})
		c.do("create RuleEndpoint late")
		c.endpoint("conformance", "late", rulesv1.TypeEventBus)
		c.probe("edge-1", "conformance", c.topic("a", false), "r")
		c.publish(message{topic: "a", body: "2"})
	}},
	{"a Rule whose source endpoint goes first keeps forwarding", func(c *scene) {
		c.do("create RuleEndpoint first")
		e := c.endpoint("conformance", "first", rulesv1.TypeEventBus)
		c.add("r", rule{topic: "a", source: "first"})
		c.do("delete RuleEndpoint first")
		if err := c.client().Delete(context.Background(), e); err != nil {
			c.Fatal(err)
		}
		c.passed()
		c.publish(message{topic: "a", body: "1"})
		c.delete("r")
		c.publish(message{topic: "a", body: "2"})
		// Nothing else takes the listener away.
		c.add("heir", rule{topic: "a"})
		c.delete("heir")
		c.silence("edge-1", "conformance", "a")
		c.publish(message{topic: "a", body: "3"})
	}},
	{"the throttle from edge to cloud", throttle},
	{"a restart of the edge runtime", func(c *scene) {
		c.add("r", rule{topic: "a"})
		c.publish(message{topic: "a", body: "1"})
		c.do("restart the edge runtime of edge-1")
		for _, m := range c.clients {
			m.Disconnect(0)
		}
		clear(c.clients)
		if err := c.restart(); err != nil {
			c.Fatal(err)
		}
		c.probe("edge-1", "conformance", "fence", "fence-edge-1")
		c.probe("edge-2", "conformance", "fence", "fence-edge-2")
		c.probe("edge-1", "conformance", c.topic("a", false), "r")
		c.publish(message{topic: "a", body: "2"})
		c.delete("r")
		c.silence("edge-1", "conformance", "a")
		c.publish(message{topic: "a", body: "3"})
	}},
	{"messages wait while the edge is cut off", offline},
}

// full publishes one message and reports the whole request.
func (c *scene) full(m message) {
	c.Helper()
	st := c.do("publish %q on edge-1 at conformance/%s", m.body, m.topic)
	c.send("edge-1", "conformance", m.topic, m.body)
	st.Got = c.observe(map[string]bool{"edge-1": true})
}

// throttle judges the hard limit at each try: by the time t after the first was
// published, no more than burst + rate*t have arrived. That a burst passes at
// once is about being quick, which a busy machine may not be; once is enough.
func throttle(c *scene) {
	const burst, perSecond, n = 60, 30, 200
	c.add("r", rule{topic: "a", node: "edge-2"})
	st := c.do("publish %d messages on edge-2 at conformance/a, as fast as the broker takes them", n)
	within, all, quick := true, true, false
	for try := 0; try < 5 && !quick; try++ {
		c.refill(burst, perSecond)
		begin, start := c.position(), time.Now()
		prefix := fmt.Sprintf("try %d ", try)
		for i := range n {
			c.send("edge-2", "conformance", "a", fmt.Sprintf("%s%03d", prefix, i))
		}
		var at []time.Duration
		c.await(begin, patience, func(got []delivery) bool {
			at = at[:0]
			seen := map[string]bool{}
			for _, d := range got {
				if strings.HasPrefix(d.Body, prefix) && !seen[d.Body] {
					seen[d.Body] = true
					at = append(at, d.at.Sub(start))
				}
			}
			return len(at) >= n
		})
		slices.Sort(at)
		if all = all && len(at) == n; !all {
			break
		}
		for i, t := range at {
			within = within && float64(i+1) <= burst+1+perSecond*t.Seconds()
		}
		quick = at[burst/2-1] < (at[n-1]-at[burst+burst/2-1])/4
		st.Measured = map[string]float64{
			"seconds until message 60":         round(at[burst-1]),
			"seconds until message 200":        round(at[n-1]),
			"messages/s from 100 on":           float64(int(100/(at[n-1]-at[n-101]).Seconds()*10)) / 10,
			"messages within the first second": float64(len(slices.DeleteFunc(slices.Clone(at), func(t time.Duration) bool { return t > time.Second }))),
		}
	}
	c.fence(3, "edge-2")
	c.seen = c.position()
	st.Holds = map[string]bool{
		"all arrive":                  all,
		"never more than 60 and 30/s": within,
		"the first 30 take less than 1/4 of the last 110": quick,
	}
}

func round(d time.Duration) float64 {
	return float64(d.Round(10*time.Millisecond)) / float64(time.Second)
}

// refill returns when a bucket that nobody takes from is full.
func (c *scene) refill(burst, perSecond int) {
	<-time.After(time.Duration(burst) * time.Second / time.Duration(perSecond))
}

// offline cuts edge-1 off. What is sent before the edge notices is lost: one or
// two messages, as TCP has it. The others wait.
func offline(c *scene) {
	const n = 10
	c.add("r", rule{topic: "a"})
	c.do("cut edge-1 off the cloud")
	if err := c.cut(); err != nil {
		c.Fatal(err)
	}
	mended := false
	defer func() {
		if !mended {
			_ = c.mend()
		}
	}()
	st := c.do("publish %d messages on edge-1 at conformance/a", n)
	begin := c.position()
	for i := range n {
		c.send("edge-1", "conformance", "a", fmt.Sprintf("offline %d", i))
	}
	c.fence(10, "edge-2")
	during := c.arrived(begin, "offline ")
	st.Holds = map[string]bool{"none arrives while it is cut off": during == 0}
	st = c.do("mend the connection")
	if err := c.mend(); err != nil {
		c.Fatal(err)
	}
	mended = true
	c.probe("edge-1", "conformance", c.topic("a", false), "r")
	c.await(begin, patience, func([]delivery) bool { return c.arrived(begin, "offline ") >= n/2 })
	c.fence(5, "edge-1")
	after := c.arrived(begin, "offline ")
	st.Holds = map[string]bool{"most arrive afterwards": after >= n/2}
	st.Measured = map[string]float64{"arrived": float64(after), "of": n}
	c.seen = c.position()
}

// arrived counts the different bodies with a prefix.
func (c *scene) arrived(begin int, prefix string) int {
	c.suite.mu.Lock()
	defer c.suite.mu.Unlock()
	seen := map[string]bool{}
	for _, d := range c.suite.got[begin:] {
		if strings.HasPrefix(d.Body, prefix) {
			seen[d.Body] = true
		}
	}
	return len(seen)
}
