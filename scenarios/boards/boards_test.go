package boards_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fluidos-edge/testbed/scenarios/boards"
	"github.com/fluidos-edge/testbed/scenarios/ledger"
)

const (
	reading = `environmental,board=stwinkt1b-1,device=stwinkt1b-c0832a001122,node=edge-1,part=hts221 temperature_celsius=22.0123,humidity_percent=45.123456789,latency_ms=5.213,frame="3412cd8b" 1690000000000000001`
	event   = `event,board=stwinkt1b-1,device=stwinkt1b-c0832a001122 kind="fault",detail="stuck hts221" 1690000000000000002`
)

func TestParseLine(t *testing.T) {
	for _, tt := range []struct {
		name, line string
		want       boards.Line
		err        string
	}{
		{name: "a reading", line: reading, want: boards.Line{
			Category: "environmental", Board: "stwinkt1b-1", Device: "stwinkt1b-c0832a001122", Node: "edge-1", Part: "hts221", Time: time.Unix(0, 1690000000000000001),
			Values: []ledger.Value{{Field: "humidity_percent", Number: 45.123456789}, {Field: "temperature_celsius", Number: 22.0123}},
			Frame:  []byte{0x34, 0x12, 0xcd, 0x8b}, Delay: 5.213,
		}},
		{name: "a frame that a fault spoiled", line: strings.Replace(reading, ",frame=", ",garbage=true,frame=", 1), want: boards.Line{
			Category: "environmental", Board: "stwinkt1b-1", Device: "stwinkt1b-c0832a001122", Node: "edge-1", Part: "hts221", Time: time.Unix(0, 1690000000000000001),
			Values: []ledger.Value{{Field: "humidity_percent", Number: 45.123456789}, {Field: "temperature_celsius", Number: 22.0123}},
			Frame:  []byte{0x34, 0x12, 0xcd, 0x8b}, Delay: 5.213, Garbage: true,
		}},
		{name: "an event", line: event, want: boards.Line{
			Board: "stwinkt1b-1", Device: "stwinkt1b-c0832a001122", Time: time.Unix(0, 1690000000000000002), Kind: boards.FaultBegan, Detail: "stuck hts221",
		}},
		{name: "of the process", line: `event kind="started",detail="6 boards" 7`, want: boards.Line{Time: time.Unix(0, 7), Kind: boards.Started, Detail: "6 boards"}},
		{name: "an event without kind", line: `event detail="6 boards" 7`, err: "without kind"},
		{name: "no part", line: strings.Replace(reading, ",part=hts221", "", 1), err: "without device, part"},
		{name: "no frame", line: strings.Replace(reading, `,frame="3412cd8b"`, "", 1), err: "or frame"},
		{name: "no values", line: `environmental,device=d,part=p frame="00" 7`, err: "values"},
		{name: "frame is no hex", line: strings.Replace(reading, "3412cd8b", "3412cd8", 1), err: "frame"},
		{name: "field twice", line: strings.Replace(reading, "humidity_percent", "temperature_celsius", 1), err: "twice"},
		{name: "no time", line: strings.TrimSuffix(reading, " 1690000000000000001"), err: "no time"},
		{name: "torn", line: reading[:70], err: "boards journal"},
		{name: "two lines", line: reading + "\n" + event, err: "more than one"},
		{name: "nothing", line: "", err: "no line"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := boards.ParseLine([]byte(tt.line))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte(reading))
	f.Add([]byte(event))
	f.Fuzz(func(t *testing.T, line []byte) {
		l, err := boards.ParseLine(line)
		if err != nil {
			return
		}
		if l.Kind == "" && (l.Device == "" || l.Part == "" || len(l.Values) == 0 || len(l.Frame) == 0) {
			t.Errorf("an incomplete reading from %q", line)
		}
		if again, err := boards.ParseLine(line); err != nil || !cmp.Equal(l, again, cmpopts.EquateNaNs()) {
			t.Errorf("%q: %v, then %v, %v", line, l, again, err)
		}
	})
}

func TestControl(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "boards.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var asked string
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = r.Method + " " + r.URL.EscapedPath() + " " + string(body)
		if strings.Contains(r.URL.Path, "nobody") {
			http.Error(w, `{"error":"no board \"nobody\""}`, http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode([]boards.State{{Name: "b", Model: "STWINKT1B", Rate: 3, Offers: []string{"hts221"}}})
	})}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	c := boards.NewControl(socket)
	all, err := c.Boards(t.Context())
	if err != nil || len(all) != 1 || all[0].Rate != 3 || asked != "GET /v1/boards " {
		t.Errorf("%+v, %v after %q", all, err, asked)
	}
	latency := "20"
	if err := c.Declare(t.Context(), "a board", "hts221", boards.Declared{Latency: &latency}); err != nil {
		t.Fatal(err)
	}
	if want := `PATCH /v1/boards/a%20board {"parts":{"hts221":{"latency":"20"}}}`; asked != want {
		t.Errorf("asked %s, want %s", asked, want)
	}
	if err := c.Declare(t.Context(), "nobody", "hts221", boards.Declared{}); err == nil || !strings.Contains(err.Error(), "no board") {
		t.Errorf("error %v", err)
	}
	_ = srv.Close()
	if _, err := c.Boards(t.Context()); err == nil || !strings.Contains(err.Error(), socket) {
		t.Errorf("error %v of a process that is gone", err)
	}
}
