package topology_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/testbed/topology"
)

var update = flag.Bool("update", false, "write golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got), -update writes it:\n%s", path, diff)
	}
}

func TestDefault(t *testing.T) {
	d := topology.Default()
	b, err := d.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "default.yaml", b)
	back, err := topology.Load("default.yaml", b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d, back); diff != "" {
		t.Errorf("Load(Marshal(Default())) differs (-want +got):\n%s", diff)
	}
	if w := d.Warnings(); len(w) > 0 {
		t.Errorf("the default testbed warns: %q", w)
	}
	if diff := cmp.Diff(d, topology.Default()); diff != "" {
		t.Errorf("two calls of Default differ:\n%s", diff)
	}
}

func TestCustom(t *testing.T) {
	for _, n := range [][2]int{{1, 1}, {3, 2}, {2, 5}} {
		c := topology.Custom(n[0], n[1])
		b, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		back, err := topology.Load("custom.yaml", b)
		if err != nil {
			t.Fatalf("%v: %v", n, err)
		}
		if diff := cmp.Diff(c, back); diff != "" {
			t.Errorf("%v: %s", n, diff)
		}
		if len(c.Consumers) != n[0] || len(c.Providers) != n[1] {
			t.Errorf("%v: got %d consumers and %d providers", n, len(c.Consumers), len(c.Providers))
		}
		for i, consumer := range c.Consumers {
			want := 1
			if i == 0 {
				want = 2
			}
			if len(consumer.Endpoints) != want {
				t.Errorf("%v: %s has %d endpoints, want %d", n, consumer.Name, len(consumer.Endpoints), want)
			}
		}
	}
	for _, n := range [][2]int{{0, 1}, {1, 0}, {-1, -1}} {
		b, err := topology.Custom(n[0], n[1]).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := topology.Load("custom.yaml", b); err == nil {
			t.Errorf("%v is accepted", n)
		}
	}
}

const head = "apiVersion: testbed.fluidos.eu/v1alpha1\nkind: Testbed\n"

// The shortest file is the smallest testbed, complete.
func TestDefaults(t *testing.T) {
	got, err := topology.Load("t.yaml", []byte(head+"consumers:\n  - {}\nproviders:\n  -\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := topology.Custom(1, 1)
	want.Consumers[0].Endpoints = []topology.Endpoint{{Name: "a"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestExplicit(t *testing.T) {
	got, err := topology.Load("t.yaml", []byte(head+`seed: 18446744073709551615
consumers: [{name: rome, endpoints: [{name: x}, {name: y}]}]
providers:
  - name: turin
    messageQPS: 100
    messageBurst: 200
    gather: 1500ms
    allow: [stwinbx1, C0-83-2A-10-20-30, "C0:83:*"]
    radio: {interval: 100ms, loss: 0.25}
    faults:
      - kind: drift
        board: kt
        part: hts221
        at: 40s
        for: 1m
        every: 5m
      - {kind: clone, of: kt}
      - {kind: stuck, part: iis2mdc, board: kt}
    price: {amount: 1.50, currency: CHF, period: monthly}
    location: {latitude: "45.07", longitude: 7.69, country: Italy, city: Torino}
    edgeNodes: [{}, {name: roof}]
    boards:
      - model: STWINBX1
        mac: C0-83-2A-10-20-30
        id: 00112233445566778899AABB
        nodes: [edge-1, roof]
        rate: 0.5
        latency: {median: 40ms, jitter: 0s}
        offers: [iis2mdc, stts22h]
        replay: roof.csv
        parts:
          stts22h: {latency: 015.0, latencyUnit: s, manufacturer: "", market: ~}
      - {model: STWINKT1B, name: kt}
      - {model: STWINKT1B}
`))
	if err != nil {
		t.Fatal(err)
	}
	latency, unit, empty := "015.0", "s", ""
	b := got.Providers[0].Boards
	want := topology.Board{
		Name: "stwinbx1-1", Model: topology.STWINBX1, MAC: "c0:83:2a:10:20:30", ID: "00112233445566778899aabb",
		Nodes: []string{"edge-1", "roof"}, Rate: 0.5, Latency: topology.Latency{Median: topology.Duration(40 * time.Millisecond)},
		Offers: []string{"iis2mdc", "stts22h"}, Replay: "roof.csv",
		Parts: map[string]topology.Declared{"stts22h": {Latency: &latency, LatencyUnit: &unit, Manufacturer: &empty}},
	}
	if diff := cmp.Diff(want, b[0]); diff != "" {
		t.Error(diff)
	}
	p := got.Providers[0]
	if d := cmp.Diff([]string{"STWINBX1", "c0:83:2a:10:20:30", "c0:83:*"}, p.Allow); d != "" || p.Gather != topology.Duration(1500*time.Millisecond) {
		t.Errorf("gathers for %v, allows %s", p.Gather, d)
	}
	if d := cmp.Diff(topology.Radio{Interval: topology.Duration(100 * time.Millisecond), Loss: 0.25}, p.Radio); d != "" {
		t.Error(d)
	}
	const s = topology.Duration(time.Second)
	drawn := [2]topology.Duration{p.Faults[1].At, p.Faults[2].At}
	faults := []topology.ScheduledFault{
		{Fault: topology.Fault{Kind: topology.FaultDrift, Part: "hts221", Slope: 1, For: 60 * s}, Board: "kt", At: 40 * s, Every: 300 * s},
		{Fault: topology.Fault{Kind: topology.FaultClone, Of: "kt"}, At: drawn[0]},
		{Fault: topology.Fault{Kind: topology.FaultStuck, Part: "iis2mdc"}, Board: "kt", At: drawn[1]},
	}
	if d := cmp.Diff(faults, p.Faults); d != "" {
		t.Error(d)
	}
	for _, at := range drawn {
		if at < 30*s || at > 300*s || at%s != 0 || drawn[0] == drawn[1] {
			t.Errorf("drawn to begin at %v", drawn)
		}
	}
	if got.Seed != 18446744073709551615 || got.Providers[0].Price.Amount != "1.50" || b[2].Name != "stwinkt1b-2" || b[1].Nodes[0] != "roof" {
		t.Errorf("seed %d, amount %s, third board %s, second board's nodes %v", got.Seed, got.Providers[0].Price.Amount, b[2].Name, b[1].Nodes)
	}
	if b[1].MAC == b[2].MAC || b[1].ID == b[2].ID || !strings.HasPrefix(b[1].MAC, "c0:") {
		t.Errorf("drawn addresses and ids: %+v", b)
	}
}

func TestWarnings(t *testing.T) {
	got, err := topology.Load("t.yaml", []byte(head+`consumers: [{}]
providers: [{edgeNodes: [{}, {}], boards: [{model: STWINKT1B, rate: 10.5}, {model: STWINBX1, rate: 1, nodes: [edge-1, edge-2]}]}]
`))
	if err != nil {
		t.Fatal(err)
	}
	const much = "provider-1/edge-1: 2 boards can send %s messages/s through a throttle of 30: samples are lost; " +
		"raise messageQPS to %s, gather for longer, offer less, lower rates or spread the boards over more nodes"
	if diff := cmp.Diff([]string{fmt.Sprintf(much, "33.5", "34")}, got.Warnings()); diff != "" {
		t.Error(diff)
	}
	p := &got.Providers[0]
	p.Boards[0].Offers = []string{"hts221", "ism330dhcx", "imp34dt05"} // 10.5, 20 and 2 Hz
	p.Boards[1].Rate = 0.3
	if diff := cmp.Diff([]string{fmt.Sprintf(much, "33.1", "34")}, got.Warnings()); diff != "" {
		t.Error(diff)
	}
	p.MessageQPS, p.Gather = 5, topology.Duration(600*time.Millisecond) // 3 x 1/0.6 s, and 2 x 0.3 Hz
	if diff := cmp.Diff([]string{strings.Replace(fmt.Sprintf(much, "5.6", "6"), "of 30", "of 5", 1)}, got.Warnings()); diff != "" {
		t.Error(diff)
	}
	p.Gather = topology.Duration(time.Second)
	if w := got.Warnings(); len(w) > 0 {
		t.Errorf("3.6 messages/s through a throttle of 5: %q", w)
	}
}

func TestProblems(t *testing.T) {
	ok := head + "consumers: [{}]\nproviders: [{}]\n"
	board := func(b string) string { return head + "consumers: [{}]\nproviders: [{boards: [" + b + "]}]\n" }
	for name, c := range map[string]struct {
		in   string
		want []string
	}{
		"empty": {"", []string{
			`t.yaml:1: apiVersion: want "testbed.fluidos.eu/v1alpha1"`, `t.yaml:1: kind: want "Testbed"`,
			"t.yaml:1: consumers: want at least one consumer; `- {}` is one with every default",
			"t.yaml:1: providers: want at least one provider; `- {}` is one with every default"}},
		"another version": {strings.Replace(ok, "v1alpha1", "v2", 1), []string{`t.yaml:1: apiVersion: value "testbed.fluidos.eu/v2": want "testbed.fluidos.eu/v1alpha1"`}},
		"no yaml":         {"a: [", []string{`t.yaml:1: want YAML: sequence end token ']' not found`}},
		"two documents":   {ok + "---\n" + ok, []string{"t.yaml:6: want one YAML document in a file"}},
		"a list":          {"- a\n", []string{"t.yaml:1: want fields (name: value), first of all apiVersion: testbed.fluidos.eu/v1alpha1"}},
		"unknown field": {ok + "consumer: 1\nprovider: []\n", []string{
			`t.yaml:5: consumer: value "1": want one of the fields apiVersion, consumers, kind, providers, seed; did you mean consumers?`,
			`t.yaml:6: provider: want one of the fields apiVersion, consumers, kind, providers, seed; did you mean providers?`}},
		"twice":  {ok + "seed: 1\nseed: 2\n", []string{`t.yaml:5: seed: value "2": want this field once; it is given again in line 6`}},
		"anchor": {ok + "seed: &x 1\n", []string{`t.yaml:5: seed: value "&": want the value itself; anchors and aliases are not supported`}},
		"types": {head + "seed: -1\nconsumers: 3\nproviders: [{edgeNodes: {name: x}, messageQPS: many, boards: [{model: [a], rate: fast, latency: {median: 5}}]}]\n", []string{
			`t.yaml:3: seed: value "-1": want a whole number from 0 to 18446744073709551615`,
			`t.yaml:4: consumers: value "3": want a list`,
			`t.yaml:5: providers[0].edgeNodes: want a list`,
			`t.yaml:5: providers[0].messageQPS: value "many": want a whole number`,
			`t.yaml:5: providers[0].boards[0].model: want text; put it in quotes`,
			`t.yaml:5: providers[0].boards[0].rate: value "fast": want a number`,
			`t.yaml:5: providers[0].boards[0].latency.median: value "5": want a duration with its unit, such as "5ms"`}},
		"consumers": {head + "consumers:\n  - name: Rome_1\n    endpoints: [{name: witness}, {name: a}, {name: a}]\n  - name: kube-system\n    endpoints: []\n  - name: p\nproviders:\n  - name: p\n", []string{
			`t.yaml:4: consumers[0].name: value "Rome_1": want 1 to 63 of a-z, 0-9 and "-", with a letter or digit first and last, such as "rome-1"`,
			`t.yaml:5: consumers[0].endpoints[0].name: value "witness": want another name: every sink has the endpoint "witness" by itself`,
			`t.yaml:5: consumers[0].endpoints[2].name: value "a": want another value: consumers[0].endpoints[1].name has this one`,
			`t.yaml:6: consumers[1].name: value "kube-system": want a name that is no namespace of Kubernetes or the testbed: each provider has a namespace of this name`,
			`t.yaml:7: consumers[1].endpoints: want at least one endpoint, or no field endpoints for one named a`,
			`t.yaml:10: providers[0].name: value "p": want another value: consumers[2].name has this one`}},
		"provider": {head + "consumers: [{}]\nproviders:\n  - edgeNodes: []\n    boards: []\n    messageQPS: 0\n    messageBurst: -1\n    price: {amount: free}\n    location: {latitude: 91, longitude: -181, city: \"a\\nb\"}\n", []string{
			`t.yaml:5: providers[0].edgeNodes: want at least one edge node, or no field edgeNodes for edge-1 and edge-2`,
			`t.yaml:7: providers[0].messageQPS: value "0": want a whole number from 1 to 1000000`,
			`t.yaml:8: providers[0].messageBurst: value "-1": want a whole number from 1 to 1000000`,
			`t.yaml:9: providers[0].price.amount: value "free": want a decimal number of at least 0`,
			`t.yaml:10: providers[0].location.latitude: value "91": want a decimal number from -90 to 90`,
			`t.yaml:10: providers[0].location.longitude: value "-181": want a decimal number from -180 to 180`,
			`t.yaml:10: providers[0].location.city: value "a\nb": want at most 256 bytes of printable text in one line`}},
		"model": {board("{model: STWINBX}, {}"), []string{
			`t.yaml:4: providers[0].boards[0].model: value "STWINBX": want STWINKT1B or STWINBX1; did you mean STWINBX1?`,
			`t.yaml:4: providers[0].boards[1].model: want STWINKT1B or STWINBX1`}},
		"board": {board("{model: STWINBX1, name: x, mac: 'c0:83', id: 12, nodes: [edge-3, edge-1, edge-1], rate: 0, latency: {median: -1ms}, parts: {hts221: {latency: 1}, stts22: {}}}, " +
			"{model: STWINBX1, name: x, mac: 'c0:83:2a:00:00:01', id: 00112233445566778899aabb, nodes: []}, {model: STWINBX1, mac: 'C0:83:2A:00:00:01', id: 00112233445566778899AABB, rate: .nan, latency: {median: 1ms, jitter: 2ms}}"), []string{
			`t.yaml:4: providers[0].boards[0].mac: value "c0:83": want six bytes in hex with colons, such as "c0:83:2a:10:20:30"`,
			`t.yaml:4: providers[0].boards[0].id: value "12": want 96 bits: 24 hex digits`,
			`t.yaml:4: providers[0].boards[0].nodes[0]: value "edge-3": want one of the provider's edge nodes: edge-1, edge-2; did you mean edge-1?`,
			`t.yaml:4: providers[0].boards[0].nodes[2]: value "edge-1": want another value: providers[0].boards[0].nodes[1] has this one`,
			`t.yaml:4: providers[0].boards[0].rate: value "0": want 0.1 to 100 Hz`,
			`t.yaml:4: providers[0].boards[0].latency.median: value "-1ms": want 0s to 1m0s`,
			`t.yaml:4: providers[0].boards[0].parts[hts221]: value "hts221": want a part that the board offers: stts22h, ilps22qs`,
			`t.yaml:4: providers[0].boards[0].parts[stts22]: value "stts22": want a part that the board offers: stts22h, ilps22qs; did you mean stts22h?`,
			`t.yaml:4: providers[0].boards[1].name: value "x": want another value: providers[0].boards[0].name has this one`,
			`t.yaml:4: providers[0].boards[1].nodes: want at least one of the provider's edge nodes, or no field nodes for one in turn`,
			`t.yaml:4: providers[0].boards[2].mac: value "c0:83:2a:00:00:01": want another value: providers[0].boards[1].mac has this one`,
			`t.yaml:4: providers[0].boards[2].id: value "00112233445566778899aabb": want another value: providers[0].boards[1].id has this one`,
			`t.yaml:4: providers[0].boards[2].rate: value "NaN": want 0.1 to 100 Hz`,
			`t.yaml:4: providers[0].boards[2].latency.jitter: value "2ms": want 0s to the median, 1ms: a reading cannot arrive before it was taken`}},
		"offers": {board("{model: STWINBX1, offers: [hts221, iis2md, stts22h, stts22h], parts: {ilps22qs: {}}, replay: '', ReplayCSV: x, '-': x}, {model: STWINKT1B, offers: []}"), []string{
			`t.yaml:4: providers[0].boards[0].ReplayCSV: value "x": want one of the fields id, latency, mac, model, name, nodes, offers, parts, rate, replay`,
			`t.yaml:4: providers[0].boards[0].-: value "x": want one of the fields id, latency, mac, model, name, nodes, offers, parts, rate, replay`,
			`t.yaml:4: providers[0].boards[0].offers[0]: value "hts221": want a part of STWINBX1: stts22h, ilps22qs, ism330dhcx, iis2mdc, imp34dt05`,
			`t.yaml:4: providers[0].boards[0].offers[1]: value "iis2md": want a part of STWINBX1: stts22h, ilps22qs, ism330dhcx, iis2mdc, imp34dt05; did you mean iis2mdc?`,
			`t.yaml:4: providers[0].boards[0].offers[3]: value "stts22h": want another value: providers[0].boards[0].offers[2] has this one`,
			`t.yaml:4: providers[0].boards[0].replay: want the path of a CSV file, or no field replay`,
			`t.yaml:4: providers[0].boards[0].parts[ilps22qs]: value "ilps22qs": want a part that the board offers: hts221, iis2md, stts22h, stts22h`,
			`t.yaml:4: providers[0].boards[1].offers: want at least one part, or no field offers for the environmental ones`}},
		"air": {head + "consumers: [{}]\nproviders:\n  - gather: 11s\n    allow: ['c0:83', 'STWINKT1', 'c0:8*', '*', '*']\n    radio:\n      interval: 10ms\n      loss: 1\n  - gather: -1ms\n    allow: []\n    radio: {interval: 11s, loss: .nan}\n", []string{
			`t.yaml:5: providers[0].gather: value "11s": want 0s to 10s`,
			`t.yaml:6: providers[0].allow[0]: value "c0:83": want an address ("c0:83:2a:10:20:30"), the beginning of one ("c0:83:2a:*") or a model (STWINKT1B, STWINBX1)`,
			`t.yaml:6: providers[0].allow[1]: value "stwinkt1": want an address ("c0:83:2a:10:20:30"), the beginning of one ("c0:83:2a:*") or a model (STWINKT1B, STWINBX1); did you mean STWINKT1B?`,
			`t.yaml:6: providers[0].allow[2]: value "c0:8*": want an address ("c0:83:2a:10:20:30"), the beginning of one ("c0:83:2a:*") or a model (STWINKT1B, STWINBX1)`,
			`t.yaml:6: providers[0].allow[4]: value "*": want another value: providers[0].allow[3] has this one`,
			`t.yaml:8: providers[0].radio.interval: value "10ms": want 20ms to 10.24s`,
			`t.yaml:9: providers[0].radio.loss: value "1": want 0 to 0.9, the share that is lost`,
			`t.yaml:10: providers[1].gather: value "-1ms": want 0s to 10s`,
			`t.yaml:11: providers[1].allow: want at least one address or model, or no field allow for all boards`,
			`t.yaml:12: providers[1].radio.interval: value "11s": want 20ms to 10.24s`,
			`t.yaml:12: providers[1].radio.loss: value "NaN": want 0 to 0.9, the share that is lost`}},
		"faults": {head + `consumers: [{}]
providers:
  - boards: [{model: STWINBX1}, {model: STWINKT1B, name: kt}]
    faults:
      - {}
      - kind: silense
        part: x
      - {kind: silence, part: hts221, slope: 1, of: kt, board: k, at: 0s, every: 1ms}
      - kind: stuck
        part: hts221
      - {kind: stuck, part: hts222, board: kt}
      - {kind: drift, slope: 0, for: -1s}
      - {kind: drift, slope: .inf, at: -1s}
      - {kind: clone}
      - {kind: clone, of: kt, board: kt}
      - {kind: clone, of: kr}
      - kind: reboot
        for: 1s
      - kind: battery-low
        for: 10s
        every: 10s
        wy: 1
  - boards: []
    faults: [{kind: silence}]
  - boards: [{model: STWINBX1, name: one}]
    faults: [{kind: clone, of: one}, {kind: clone, of: kt}]
`, []string{
			`t.yaml:7: providers[0].faults[0].kind: want one of silence, stuck, drift, garbage, battery-low, reboot, clone, out-of-range`,
			`t.yaml:8: providers[0].faults[1].kind: value "silense": want one of silence, stuck, drift, garbage, battery-low, reboot, clone, out-of-range; did you mean silence?`,
			`t.yaml:10: providers[0].faults[2].board: value "k": want one of the provider's boards: stwinbx1-1, kt; did you mean kt?, or no field board for one drawn`,
			`t.yaml:10: providers[0].faults[2].part: value "hts221": want no such field for a fault of kind silence: the kinds stuck and drift have one`,
			`t.yaml:10: providers[0].faults[2].slope: value "1": want no such field for a fault of kind silence: the kind drift has one`,
			`t.yaml:10: providers[0].faults[2].of: value "kt": want no such field for a fault of kind silence: the kind clone has one`,
			`t.yaml:10: providers[0].faults[2].at: value "0s": want a time after the start of the boards, such as 1s, or no field at for one drawn between 30s and 5m0s`,
			`t.yaml:10: providers[0].faults[2].every: value "1ms": want at least 1s, or no field every for once`,
			`t.yaml:12: providers[0].faults[3].part: value "hts221": want a part of STWINBX1 and STWINKT1B: ism330dhcx, iis2mdc, imp34dt05, or no field part for every part`,
			`t.yaml:13: providers[0].faults[4].part: value "hts222": want a part of STWINKT1B: hts221, lps22hh, stts751, ism330dhcx, iis2mdc, imp34dt05; did you mean hts221?, or no field part for every part`,
			`t.yaml:14: providers[0].faults[5].slope: value "0": want a number other than 0, in the unit of the reading a minute`,
			`t.yaml:14: providers[0].faults[5].for: value "-1s": want at least 0s, which is until it is cleared`,
			`t.yaml:15: providers[0].faults[6].slope: value "+Inf": want a number other than 0, in the unit of the reading a minute`,
			`t.yaml:15: providers[0].faults[6].at: value "-1s": want a time after the start of the boards, such as 1s, or no field at for one drawn between 30s and 5m0s`,
			`t.yaml:16: providers[0].faults[7].of: want the board whose id the clone carries`,
			`t.yaml:17: providers[0].faults[8].of: value "kt": want another board than the one that becomes its clone`,
			`t.yaml:18: providers[0].faults[9].of: value "kr": want one of the provider's boards: stwinbx1-1, kt; did you mean kt?`,
			`t.yaml:20: providers[0].faults[10].for: value "1s": want no such field for a fault of kind reboot: a reboot takes as long as it takes`,
			`t.yaml:23: providers[0].faults[11].every: value "10s": want more than the 10s for which it lasts`,
			`t.yaml:24: providers[0].faults[11].wy: value "1": want one of the fields at, board, every, for, kind, of, part, slope`,
			`t.yaml:26: providers[1].faults[0]: want no faults, for the provider has no boards`,
			`t.yaml:28: providers[2].faults[0].of: value "one": want a provider with a second board, which becomes its clone`,
			`t.yaml:28: providers[2].faults[1].of: value "kt": want one of the provider's boards: one`}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := topology.Load("t.yaml", []byte(c.in))
			if err == nil {
				t.Fatalf("accepted: %+v", got)
			}
			if !errors.As(err, new(topology.Problems)) {
				t.Fatalf("error is a %T", err)
			}
			if diff := cmp.Diff(c.want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestFaultCheck(t *testing.T) {
	const minute = topology.Duration(time.Minute)
	for _, tt := range []struct {
		model string
		fault topology.Fault
		want  string
	}{
		{topology.STWINBX1, topology.Fault{Kind: topology.FaultDrift, Part: "stts22h", Slope: -2, For: minute}, ""},
		{topology.STWINBX1, topology.Fault{Kind: topology.FaultDrift}, ""},
		{topology.STWINKT1B, topology.Fault{Kind: topology.FaultClone, Of: "a"}, ""},
		{topology.STWINKT1B, topology.Fault{Kind: topology.FaultClone}, "of: want the board whose id the clone carries"},
		{topology.STWINKT1B, topology.Fault{Kind: "quiet"}, `kind: value "quiet": want one of silence, stuck, drift, garbage, battery-low, reboot, clone, out-of-range`},
		{topology.STWINBX1, topology.Fault{Kind: topology.FaultStuck, Part: "hts221"},
			`part: value "hts221": want a part of STWINBX1: stts22h, ilps22qs, ism330dhcx, iis2mdc, imp34dt05, or no field part for every part`},
		{topology.STWINBX1, topology.Fault{Kind: topology.FaultReboot, For: minute},
			`for: value "1m0s": want no such field for a fault of kind reboot: a reboot takes as long as it takes`},
	} {
		got := ""
		if err := tt.fault.Check(tt.model); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%+v of a %s: %q, want %q", tt.fault, tt.model, got, tt.want)
		}
	}
}

// A board that joins later is like one of the file.
func TestBoardSetDefaults(t *testing.T) {
	for i, want := range topology.Default().Providers[0].Boards {
		got := topology.Board{Model: want.Model, Rate: want.Rate, Parts: want.Parts}
		got.SetDefaults(1, i%3+1, want.Nodes...)
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
}

func TestTooLarge(t *testing.T) {
	if _, err := topology.Load("t.yaml", []byte(strings.Repeat("#", 5<<20))); err == nil {
		t.Error("5 MiB are accepted")
	}
}

// FuzzLoad: nothing that a file holds ends the process, every problem has a
// line and a remedy, and what is accepted survives a round trip.
func FuzzLoad(f *testing.F) {
	b, err := topology.Default().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(head + "consumers: [{}]\nproviders: [{}]\n"))
	f.Add([]byte(head + "consumers: [{}]\nproviders: [{boards: [{model: STWINKT1B, rate: 1e1, parts: {hts221: {latency: '0.015', latencyUnit: ' #:'}}}]}]\n"))
	f.Add([]byte(head + "consumers: [{}]\nproviders: [{gather: 1s, allow: ['c0:*'], radio: {loss: 0.1}, faults: [{kind: drift, slope: -.5, for: 1s, every: 1m}, {kind: clone, of: a}], boards: [{model: STWINKT1B, name: a, offers: [iis2mdc], replay: x, parts: {}}, {model: STWINBX1}]}]\n"))
	f.Add([]byte(head + "consumers: [{}]\nproviders: [{faults: [], boards: [{model: STWINKT1B, parts: {}, nodes: []}]}]\n"))
	f.Add([]byte("a: &x [*x]\n"))
	f.Add([]byte("? [a]\n: !!int x\n<<: {b: |\n  c\n}\n"))
	f.Add([]byte(" \t- :"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := topology.Load("f", data)
		if err != nil {
			var problems topology.Problems
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("error %T %v", err, err)
			}
			for _, p := range problems {
				if p.Line < 1 || p.Want == "" {
					t.Errorf("problem without line or remedy: %+v", p)
				}
			}
			return
		}
		out, err := got.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		back, err := topology.Load("f", out)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if diff := cmp.Diff(got, back); diff != "" {
			t.Errorf("round trip: %s\n%s", diff, out)
		}
		_ = got.Warnings()
	})
}
