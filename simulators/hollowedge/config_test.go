package hollowedge_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/simulators/hollowedge"
)

func TestDecodeConfig(t *testing.T) {
	for name, test := range map[string]struct {
		in   string
		want hollowedge.Config
		errs []string // all of these
	}{
		"all": {
			in: `{"nodes": [{"name": "edge-1", "mqtt": "127.0.0.1:1884", "dmi": "/run/dmi.sock"}, {"name": "edge-2"}], "messageQPS": 100, "messageBurst": 200}`,
			want: hollowedge.Config{Nodes: []hollowedge.Node{{Name: "edge-1", MQTT: "127.0.0.1:1884", DMI: "/run/dmi.sock"}, {Name: "edge-2"}},
				MessageQPS: 100, MessageBurst: 200},
		},
		"KubeEdge's throttle by default": {
			in:   `{"nodes": [{"name": "edge-1", "mqtt": "[::1]:0"}, {"name": "edge-2", "mqtt": "[::1]:0"}]}`,
			want: hollowedge.Config{Nodes: []hollowedge.Node{{Name: "edge-1", MQTT: "[::1]:0"}, {Name: "edge-2", MQTT: "[::1]:0"}}, MessageQPS: 30, MessageBurst: 60},
		},
		"no node":       {in: `{}`, errs: []string{"nodes"}},
		"unknown field": {in: `{"nodes": [{"name": "edge-1"}], "messageQps2": 1}`, errs: []string{"messageQps2"}},
		"two objects":   {in: `{"nodes": [{"name": "edge-1"}]} {}`, errs: []string{"follows"}},
		"everything at once": {
			in: `{"nodes": [{"name": "Edge_1", "mqtt": "0.0.0.0:1884"}, {"name": "a", "mqtt": "1884"},
				{"name": "a", "mqtt": "127.0.0.1:7"}, {"name": "b", "mqtt": "127.0.0.1:7"},
				{"name": "c", "dmi": "dmi.sock"}, {"name": "d", "dmi": "/run/dmi.sock"}, {"name": "e", "dmi": "/run//dmi.sock"},
				{"name": "f", "dmi": "/` + strings.Repeat("x", 103) + `"}, {"name": "g", "dmi": "/` + strings.Repeat("x", 104) + `"}], "messageQPS": -1, "messageBurst": -2}`,
			errs: []string{"messageQPS: -1", "messageBurst: -2", `nodes[0].name: "Edge_1"`, `nodes[0].mqtt: "0.0.0.0:1884"`,
				`nodes[1].mqtt: "1884"`, `nodes[2].name: "a"`, `nodes[3].mqtt: "127.0.0.1:7"`,
				`nodes[4].dmi: "dmi.sock"`, `nodes[6].dmi: "/run//dmi.sock"`, "nodes[8].dmi: \"/xxx"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := hollowedge.DecodeConfig(strings.NewReader(test.in))
			if len(test.errs) == 0 {
				if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
					t.Errorf("%v, -want +got:\n%s", err, diff)
				}
				return
			}
			if err != nil && strings.Contains(err.Error(), "nodes[7]") {
				t.Errorf("%v: 104 bytes are not too many", err)
			}
			for _, want := range test.errs {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want an error with %q", err, want)
				}
			}
		})
	}
}

func FuzzDecodeConfig(f *testing.F) {
	f.Add(`{"nodes": [{"name": "edge-1", "mqtt": "127.0.0.1:1884"}], "messageQPS": 30, "messageBurst": 60}`)
	f.Add(`{"nodes": [{"name": "edge-1"}, {"name": "edge-1"}]}`)
	f.Add(`{"nodes": [{"name": "edge-1", "dmi": "/run/dmi.sock"}, {"name": "edge-2", "dmi": "/run/./dmi.sock"}]}`)
	f.Add(`{"nodes": null} x`)
	f.Add(`[`)
	f.Fuzz(func(t *testing.T, in string) {
		c, err := hollowedge.DecodeConfig(strings.NewReader(in))
		if err != nil {
			return
		}
		if len(c.Nodes) == 0 || c.MessageQPS <= 0 || c.MessageBurst <= 0 {
			t.Fatalf("accepted %q as %+v", in, c)
		}
		for _, n := range c.Nodes {
			if n.DMI != "" && (!filepath.IsAbs(n.DMI) || len(n.DMI) > 104) {
				t.Fatalf("accepted %q as %+v", in, c)
			}
		}
		out, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := hollowedge.DecodeConfig(strings.NewReader(string(out)))
		if diff := cmp.Diff(c, again); diff != "" || err != nil {
			t.Fatalf("%q does not come back: %v\n%s", out, err, diff)
		}
	})
}
