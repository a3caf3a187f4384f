package mapper_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/simulators/fleet"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// boards runs the boards of a testbed until the test ends. They are heard on
// socket; offers are those of the first, a STWINKT1B.
func boards(t *testing.T, socket string, hz float64, offers ...string) *fleet.Client {
	t.Helper()
	board := func(name, model, mac, id string) topology.Board {
		return topology.Board{
			Name: name, Model: model, MAC: mac, ID: id, Nodes: []string{"edge-1"}, Rate: hz,
			Latency: topology.Latency{Median: topology.Duration(5 * time.Millisecond), Jitter: topology.Duration(2 * time.Millisecond)},
		}
	}
	kt1b := board("kt1b", topology.STWINKT1B, "c0:83:2a:00:11:22", idKT1B)
	kt1b.Offers = offers
	config, err := json.Marshal(fleet.Config{
		Seed:   1,
		Boards: []topology.Board{kt1b, board("bx1", topology.STWINBX1, macBX1, idBX1)},
		Radios: map[string]string{"edge-1": socket},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, control := filepath.Join(dir, "boards.json"), filepath.Join(dir, "c")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, ready := make(chan error, 1), make(chan error, 100)
	go func() {
		done <- fleet.Run(ctx, slog.New(slog.DiscardHandler), func(err error) { ready <- err }, &fleet.Options{Config: file, Control: control})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for take(t, ready, "fleet") != nil {
	}
	return fleet.NewClient(control)
}

// With the boards of a testbed: every part's samples are published, and a Device
// offers what its board declares, also after that was changed.
func TestWithTheSimulatedBoards(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "r")
	control := boards(t, socket, 50)
	b := newTestBroker(t)
	b.start(t)
	c, applied := cluster(t, interceptor.Funcs{})
	run(t, socket, b, c)

	const each = 20
	streams := map[string][]sample{}
	for full := 0; full < 5; {
		s := parse(t, take(t, b.messages, "sample").line)
		streams[s.head] = append(streams[s.head], s)
		if len(streams[s.head]) == each {
			full++
		}
	}
	if len(streams) != 5 {
		t.Errorf("%d streams, want 5", len(streams))
	}
	for head, got := range streams {
		for i, s := range got {
			if s.seq != int64(i+1) || s.epoch != got[0].epoch || i > 0 && s.at <= got[i-1].at {
				t.Fatalf("%s: sample %d is %+v", head, i+1, s)
			}
		}
	}

	const device = "stwinkt1b-c0832a001122"
	follow := func() {
		t.Helper()
		for take(t, applied, "Device "+device) != "Device fluidos/"+device {
		}
		state, err := control.Board(t.Context(), "kt1b")
		if err != nil {
			t.Fatal(err)
		}
		var d devices.Device
		if err := c.Get(t.Context(), client.ObjectKey{Namespace: "fluidos", Name: device}, &d); err != nil {
			t.Fatal(err)
		}
		var got []nodecore.Characteristics
		decodeAnnotation(t, d.Annotations[devices.AnnotationSensors], &got)
		for i := range got {
			got[i].UID, got[i].Node, got[i].Access = "", "", nodecore.SensorAccess{}
		}
		if diff := cmp.Diff(state.Parts, got); diff != "" {
			t.Errorf("annotation (-board +Device):\n%s", diff)
		}
		if state.Device != device || state.ConnectedTo != "edge-1" {
			t.Errorf("device %q, connected to %q", state.Device, state.ConnectedTo)
		}
	}
	follow()
	latency := "20"
	if _, err := control.Patch(t.Context(), "kt1b", fleet.Patch{Parts: map[string]topology.Declared{"hts221": {Latency: &latency}}}); err != nil {
		t.Fatal(err)
	}
	follow()
}
