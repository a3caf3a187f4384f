package kind_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fluidos-edge/testbed/testbed/internal/backend/kind"
	"github.com/fluidos-edge/testbed/testbed/internal/state"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

var update = flag.Bool("update", false, "write golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), -update writes it:\n%s", file, diff)
	}
}

// record of a testbed with fixed folders and ports.
func record(t *testing.T, top *topology.Topology) *state.Record {
	t.Helper()
	t.Setenv("XDG_STATE_HOME", "/s")
	rec := &state.Record{ID: "id1", Name: "lab", RunDir: "/r/id1", Topology: top, Ports: map[string]int{}, Secrets: map[string]string{}}
	for i, p := range kind.Ports(top) {
		rec.Ports[p] = 20000 + i
	}
	return rec
}

func TestWhatKindIsAskedFor(t *testing.T) {
	rec := record(t, topology.Default())
	var all strings.Builder
	for n, c := range []string{"provider-1", "consumer-1"} {
		text, err := json.MarshalIndent(kind.ClusterConfig(rec, c, n), "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		// This depends on the host.
		lines := strings.Split(string(text), "\n")
		for _, l := range lines {
			if !strings.Contains(l, "restrict_oom") && !strings.Contains(l, "ontainerdConfigPatches") {
				all.WriteString(l + "\n")
			}
		}
	}
	golden(t, "clusters.golden", all.String())
}

func TestRangesAreDisjoint(t *testing.T) {
	rec := record(t, topology.Custom(16, 16))
	seen := map[string]string{}
	for n, c := range kindClusters(rec) {
		text, err := json.Marshal(kind.ClusterConfig(rec, c, n))
		if err != nil {
			t.Fatal(err)
		}
		var cfg struct {
			Networking struct{ PodSubnet, ServiceSubnet string }
		}
		if err := json.Unmarshal(text, &cfg); err != nil {
			t.Fatal(err)
		}
		for _, r := range []string{cfg.Networking.PodSubnet, cfg.Networking.ServiceSubnet} {
			if other, taken := seen[r]; taken || r == "" {
				t.Errorf("range %q of %s is that of %s too", r, c, other)
			}
			seen[r] = c
		}
	}
}

func kindClusters(rec *state.Record) []string {
	var names []string
	for _, p := range rec.Topology.Providers {
		names = append(names, p.Name)
	}
	for _, c := range rec.Topology.Consumers {
		names = append(names, c.Name)
	}
	return names
}

func TestPodNetwork(t *testing.T) {
	text, err := kind.CNIConfig("10.160.3.7/24")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "conflist.golden", string(text)+"\n")
	if _, err := kind.CNIConfig("here"); err == nil || !strings.Contains(err.Error(), `range of Pods "here"`) {
		t.Errorf("got %v, want the value named", err)
	}
	ranges := map[string]string{"a": "10.160.0.0/24", "b": "10.160.1.0/24", "c": "10.160.2.0/24"}
	addresses := map[string]string{"a": "172.18.0.2", "b": "172.18.0.3", "c": "172.18.0.4"}
	want := [][]string{{"10.160.0.0/24", "via", "172.18.0.2"}, {"10.160.2.0/24", "via", "172.18.0.4"}}
	if diff := cmp.Diff(want, kind.Routes("b", ranges, addresses)); diff != "" {
		t.Error(diff)
	}
}

func TestCheck(t *testing.T) {
	long := topology.Default()
	long.Providers[0].EdgeNodes[0].Name = strings.Repeat("e", 60)
	mapper := topology.Default()
	mapper.Providers[0].Name, mapper.Providers[0].EdgeNodes[0].Name = "p", strings.Repeat("e", 47)
	for _, tc := range []struct {
		name, testbed string
		top           *topology.Topology
		external      []string
		field         string
	}{
		{name: "the default one", testbed: "default", top: topology.Default()},
		{name: "long name of a testbed", testbed: strings.Repeat("n", 40), top: topology.Default(), field: "name"},
		{name: "long name of an edge node", testbed: "lab", top: long, field: "providers[].edgeNodes[].name"},
		{name: "long name of a mapper's release", testbed: "x", top: mapper, field: "providers[].edgeNodes[].name"},
		{name: "more clusters than ranges", testbed: "lab", top: topology.Custom(32, 1), field: "clusters"},
		{name: "external", testbed: "lab", top: topology.Default(), external: []string{"provider-1/erm"}, field: "external"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			field := ""
			if p := kind.Check(tc.testbed, tc.top, tc.external); p != nil {
				field = p.Field
			}
			if field != tc.field {
				t.Errorf("problem in %q, want %q", field, tc.field)
			}
		})
	}
}

func TestReferencesAsContainerdHasThem(t *testing.T) {
	for ref, want := range map[string]string{
		"testbed/components:abc":            "docker.io/testbed/components:abc",
		"telegraf":                          "docker.io/library/telegraf:latest",
		"docker.io/kubeedge/cloudcore:v1":   "docker.io/kubeedge/cloudcore:v1",
		"registry.k8s.io/pause:3.10":        "registry.k8s.io/pause:3.10",
		"docker.io/library/influxdb:1.8":    "docker.io/library/influxdb:1.8",
		"localhost:5000/somebody/thing:tag": "localhost:5000/somebody/thing:tag",
	} {
		if got := kind.FullRef(ref); got != want {
			t.Errorf("%s: got %s, want %s", ref, got, want)
		}
	}
}

func TestLogFolderOfAStaticPod(t *testing.T) {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "uid", Annotations: map[string]string{"kubernetes.io/config.hash": "hash"}}}
	if got := kind.LogID(p); got != "hash" {
		t.Errorf("got %s, want the hash of the manifest", got)
	}
	p.Annotations = nil
	if got := kind.LogID(p); got != "uid" {
		t.Errorf("got %s, want the uid", got)
	}
}

// When a container's present run began, and how the one before ended.
func TestRunsOfAContainer(t *testing.T) {
	rec := record(t, topology.Default())
	at := func(s int) metav1.Time { return metav1.NewTime(time.Date(2026, 1, 2, 3, 4, s, 0, time.UTC)) }
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at(50)}}
	killed := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled", StartedAt: at(1), FinishedAt: at(40)}}
	for _, tt := range []struct {
		name      string
		s         corev1.ContainerStatus
		startedAt time.Time
		lastEnd   string
		reason    string
	}{
		{"first run", corev1.ContainerStatus{Ready: true, State: running}, at(50).Time, "", ""},
		{"second run", corev1.ContainerStatus{Ready: true, State: running, LastTerminationState: killed, RestartCount: 1},
			at(50).Time, "ended with exit status 137 (OOMKilled) after 39s at 2026-01-02T03:04:40Z", ""},
		{"waits", corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 10s"}}, LastTerminationState: killed},
			time.Time{}, "ended with exit status 137 (OOMKilled) after 39s at 2026-01-02T03:04:40Z", "CrashLoopBackOff back-off 10s"},
		{"ended", corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Signal: 9}}, LastTerminationState: killed},
			time.Time{}, "ended with signal 9", "ended with signal 9"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.s.Name = "relay"
			c := kind.Component(rec, "provider-1", corev1.Pod{}, tt.s)
			if c.Name != "provider-1/relay" || !c.StartedAt.Equal(tt.startedAt) || c.LastEnd != tt.lastEnd || c.Reason != tt.reason || c.Restarts != int(tt.s.RestartCount) {
				t.Errorf("got %+v", c)
			}
		})
	}
}

func TestEndpointsAreListeners(t *testing.T) {
	rec := record(t, topology.Default())
	l := kind.New(rec, kind.Config{}).Layout()
	for endpoint, want := range map[string]string{
		"a":                      "http://lab-consumer-1-control-plane:8186/telegraf",
		"b":                      "http://lab-consumer-1-control-plane:8187/telegraf",
		topology.WitnessEndpoint: "http://lab-consumer-1-control-plane:8188/telegraf",
	} {
		if got := l.Endpoint("consumer-1", endpoint); got != want {
			t.Errorf("%s: got %s, want %s", endpoint, got, want)
		}
	}
}
