package mapper_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/line-protocol/v2/lineprotocol"
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/mapper"
	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/fleet"
	"github.com/fluidos-edge/testbed/simulators/radio"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// simulated are the boards of a testbed.
type simulated struct {
	*fleet.Client        // of their control API
	journal       string // of what they measured
	stop          func()
}

// boards runs the boards of a testbed until the test ends. They are heard on
// socket; offers are those of the first, a STWINKT1B.
func boards(t *testing.T, socket string, hz float64, offers ...string) simulated {
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
	s := simulated{Client: fleet.NewClient(control), journal: filepath.Join(dir, "boards.lp")}
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, ready := make(chan error, 1), make(chan error, 100)
	go func() {
		done <- fleet.Run(ctx, slog.New(slog.DiscardHandler), func(err error) { ready <- err }, &fleet.Options{
			Config: file, Control: control, Journal: s.journal, Metrics: prometheus.NewRegistry(),
		})
	}()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.stop)
	for take(t, ready, "fleet") != nil {
	}
	return s
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

// reading of a part, by what mapper and boards both write of it.
type reading struct {
	device, part string
	at           int64
}

// readings of a journal, with their fields.
func readings(t *testing.T, path string) map[reading]map[string]any {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := map[reading]map[string]any{}
	for d := lineprotocol.NewDecoderWithBytes(text); d.Next(); {
		name, err := d.Measurement()
		var r reading
		for {
			k, v, more := d.NextTag()
			if err = errors.Join(err, more); k == nil || err != nil {
				break
			}
			switch string(k) {
			case "device":
				r.device = string(v)
			case "part":
				r.part = string(v)
			}
		}
		fields := map[string]any{}
		for {
			k, v, more := d.NextField()
			if err = errors.Join(err, more); k == nil || err != nil {
				break
			}
			fields[string(k)] = v.Interface()
		}
		at, end := d.Time(lineprotocol.Nanosecond, time.Time{})
		if err = errors.Join(err, end); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if r.at = at.UnixNano(); string(name) == "event" {
			continue
		}
		if all[r] != nil {
			t.Errorf("%s: %v twice", path, r)
		}
		all[r] = fields
	}
	return all
}

// What the mapper published and what the boards measured meet in device, part and
// time, without a gap while a board was followed; the values are those of the frames.
func TestTimesAreTheBoards(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "r")
	boards := boards(t, socket, 50, "hts221", "lps22hh", "stts751", "ism330dhcx", "iis2mdc", "imp34dt05")
	b := newTestBroker(t)
	b.start(t)
	c, _ := cluster(t, interceptor.Funcs{})
	r := run(t, socket, b, c)
	for range 1000 {
		take(t, b.messages, "sample")
	}
	r.stop()
	boards.stop()

	measured, published := readings(t, boards.journal), readings(t, r.journal)
	first, last := map[reading]int64{}, map[reading]int64{} // published, by part
	for p, fields := range published {
		stream := reading{device: p.device, part: p.part}
		if first[stream] == 0 || p.at < first[stream] {
			first[stream] = p.at
		}
		last[stream] = max(last[stream], p.at)
		m := measured[p]
		if m == nil {
			t.Errorf("%v was published, but not measured", p)
			continue
		}
		frame, err := hex.DecodeString(m["frame"].(string))
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range bluest.Parts(strings.ToUpper(strings.Split(p.device, "-")[0])) {
			if part.Name != p.part {
				continue
			}
			f, err := bluest.Decode(part.Characteristic.UUID(), frame)
			if err != nil {
				t.Fatal(err)
			}
			for _, feed := range part.Feeds {
				if sent, ok := f.Value(feed.Quantity); !ok || sent != fields[feed.Field] {
					t.Errorf("%v: %s was sent as %v and published as %v", p, feed.Field, sent, fields[feed.Field])
				}
			}
		}
		if got, least := fields["sensor_latency_ms"].(float64), m["latency_ms"].(float64); got < least-0.001 { // it is rounded
			t.Errorf("%v: published after %v ms, but handed over after %v ms", p, got, least)
		}
	}
	if len(first) != 6+2 {
		t.Errorf("%d streams, want 8", len(first))
	}
	for m := range measured {
		stream := reading{device: m.device, part: m.part}
		if m.at >= first[stream] && m.at <= last[stream] && published[m] == nil {
			t.Errorf("%v was measured, but not published", m)
		}
	}
}

// Which time a sample has, and which latency.
func TestTimes(t *testing.T) {
	const ms, now, monotonic = int64(time.Millisecond), int64(1_700_000_000_000_000_000), int64(90_000_000_000_000)
	const received = monotonic - 3*ms
	for name, tt := range map[string]struct {
		n       radio.Notification
		at      int64
		latency time.Duration
	}{
		"as the board says":                   {radio.Notification{Emitted: received - 5*ms, EmittedWall: now - 8*ms + 77, Received: received}, now - 8*ms + 77, 5 * time.Millisecond},
		"the wall clock was set back a bit":   {radio.Notification{Emitted: received - 5*ms, EmittedWall: now + 900*ms, Received: received}, now + 900*ms, 5 * time.Millisecond},
		"set back far":                        {radio.Notification{Emitted: received - 5*ms, EmittedWall: now + 1001*ms, Received: received}, now - 3*ms, 5 * time.Millisecond},
		"set forward far":                     {radio.Notification{Emitted: received - 5*ms, EmittedWall: now - 600_001*ms, Received: received}, now - 3*ms, 5 * time.Millisecond},
		"the host slept":                      {radio.Notification{Emitted: received - 5*ms, EmittedWall: now - 300_000*ms, Received: received}, now - 300_000*ms, 5 * time.Millisecond},
		"only the monotonic one is plausible": {radio.Notification{Emitted: received - 5*ms, Received: received}, now - 3*ms, 5 * time.Millisecond},
		"only the wall clock is plausible":    {radio.Notification{Emitted: received + ms, EmittedWall: now - 8*ms, Received: received}, now - 8*ms, -1},
		"a real adapter":                      {radio.Notification{Received: received}, now - 3*ms, -1},
		"nothing is known":                    {radio.Notification{}, now, -1},
		"received in the future":              {radio.Notification{Received: monotonic + 1}, now, -1},
		"received long ago":                   {radio.Notification{Received: monotonic - 600_001*ms}, now, -1},
	} {
		if at, latency := mapper.Times(tt.n, now, monotonic); at != tt.at || latency != tt.latency {
			t.Errorf("%s: %v, %s, want %v, %s", name, at-now, latency, tt.at-now, tt.latency)
		}
	}
}
