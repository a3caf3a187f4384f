package sink_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fluidos-edge/testbed/scenarios/ledger"
	"github.com/fluidos-edge/testbed/scenarios/sink"
)

const (
	asPublished = "environmental,device=d,node=edge-1,part=hts221,uid=u1 humidity_percent=47.1,temperature_celsius=23,epoch=7i,seq=3i 1700000000000000001"
	// Telegraf orders tags and fields as it likes, and writes floats otherwise.
	asArrived = "environmental,endpoint=a,uid=u1,device=d,part=hts221,node=edge-1 seq=3i,epoch=7i,temperature_celsius=23.0,humidity_percent=4.71e1 1700000000000000001"
)

func TestParseLine(t *testing.T) {
	want, err := sink.ParseLine([]byte(asPublished))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ledger.Sample{UID: "u1", Category: "environmental", Device: "d", Node: "edge-1", Part: "hts221", Epoch: 7, Seq: 3, Time: 1700000000000000001,
		Values: []ledger.Value{{Field: "humidity_percent", Number: 47.1}, {Field: "temperature_celsius", Number: 23}}}, want, cmpopts.IgnoreFields(ledger.Sample{}, "Body")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	tests := []struct {
		name, line string
		same       bool
		err        string
	}{
		{name: "as Telegraf writes it", line: asArrived, same: true},
		{name: "other reading", line: strings.Replace(asArrived, "4.71e1", "47.2", 1)},
		{name: "other type", line: strings.Replace(asArrived, "23.0", "23i", 1)},
		{name: "other node", line: strings.Replace(asArrived, "edge-1", "edge-2", 1)},
		{name: "other measurement", line: strings.Replace(asArrived, "environmental", "motion", 1)},
		{name: "reading gone", line: strings.Replace(asArrived, ",humidity_percent=4.71e1", "", 1)},
		{name: "no uid", line: strings.Replace(asArrived, "uid=u1,", "", 1), err: "no sample"},
		{name: "no seq", line: strings.Replace(asArrived, "seq=3i,", "", 1), err: "no sample"},
		{name: "seq is no integer", line: strings.Replace(asArrived, "seq=3i", "seq=3", 1), err: "no sample"},
		{name: "no time", line: strings.TrimSuffix(asArrived, " 1700000000000000001"), err: "no time"},
		{name: "field twice", line: strings.Replace(asArrived, "seq=3i", "seq=3i,seq=4i", 1), err: "twice"},
		{name: "torn", line: asArrived[:60], err: "line protocol"},
		{name: "two lines", line: asArrived + "\n" + asArrived, err: "more than one"},
		{name: "nothing", line: "", err: "no line"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := sink.ParseLine([]byte(tt.line))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Endpoint != "a" {
				t.Errorf("endpoint %q", got.Endpoint)
			}
			if same := got.Body == want.Body; same != tt.same {
				t.Errorf("same body: %t, want %t\n%s\n%s", same, tt.same, want.Body, got.Body)
			}
		})
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte(asPublished))
	f.Add([]byte(asArrived))
	f.Add([]byte(`m\ x,uid=a\,b,t=\= s="q\"",b=t,u=1u,epoch=1i,seq=2i 5`))
	f.Add([]byte("# comment\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		s, err := sink.ParseLine(line)
		if err != nil {
			return
		}
		if s.UID == "" {
			t.Errorf("a sample without uid from %q", line)
		}
		again, err := sink.ParseLine(line)
		if err != nil || !cmp.Equal(again, s, cmpopts.EquateNaNs()) {
			t.Errorf("%q: %v and %v, %v", line, s, again, err)
		}
	})
}

// What InfluxDB 1.8 answers, a table for each series and field.
const answer = `#datatype,string,long,dateTime:RFC3339,dateTime:RFC3339,dateTime:RFC3339Nano,%[1]s,string,string,string,string,string,string,string
#group,false,false,true,true,false,false,true,true,true,true,true,true,true
#default,_result,,,,,,,,,,,,
,result,table,_start,_stop,_time,_value,_field,_measurement,device,endpoint,node,part,uid
,,%[2]d,2023-11-14T22:00:00Z,2023-11-21T22:00:00Z,2023-11-14T22:13:20.000000001Z,%[3]s,%[4]s,environmental,d,a,edge-1,hts221,u1

`

func TestStore(t *testing.T) {
	var flux string
	status := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Token reader:secret" {
			t.Errorf("authorization %q", got)
		}
		body := new(strings.Builder)
		_, _ = fmt.Fprint(body, r.URL.Path, " ")
		buf := make([]byte, 4096)
		n, _ := r.Body.Read(buf)
		flux = body.String() + string(buf[:n])
		w.Header().Set("Content-Type", "text/csv")
		w.WriteHeader(status)
		if status != http.StatusOK {
			return
		}
		if strings.Contains(flux, "last()") {
			fmt.Fprintf(w, answer, "long", 0, "3", "seq")
			return
		}
		for i, f := range [][3]string{{"double", "47.1", "humidity_percent"}, {"double", "23", "temperature_celsius"}, {"long", "7", "epoch"}, {"long", "3", "seq"}} {
			fmt.Fprint(w, strings.ReplaceAll(fmt.Sprintf(answer, f[0], i, f[1], f[2]), "\n", "\r\n"))
		}
	}))
	defer srv.Close()
	store := sink.NewStore(srv.URL, "reader:secret", "-", "sensors/autogen")
	defer store.Close()

	got, err := store.Stored(t.Context(), time.Unix(1700000000, 0), "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	want, err := sink.ParseLine([]byte(asArrived))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]ledger.Sample{want}, got); diff != "" {
		t.Errorf("stored and arrived differ (-arrived +stored):\n%s", diff)
	}
	if !strings.Contains(flux, "2023-11-14T22:13:20Z") || !strings.Contains(flux, "sensors/autogen") || !strings.Contains(flux, `r.endpoint == \"a\" or r.endpoint == \"b\"`) {
		t.Errorf("query %s", flux)
	}
	last, err := store.Last(t.Context(), "witness", time.Unix(1700000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int64{"u1": 1700000000000000001}, last); diff != "" {
		t.Errorf("last (-want +got):\n%s", diff)
	}
	status = http.StatusUnauthorized
	if _, err := store.Stored(t.Context(), time.Unix(1, 0)); err == nil {
		t.Error("no error for 401")
	}
	if _, err := sink.ParseLine([]byte("m x=1 1")); !errors.Is(err, sink.ErrNoSample) {
		t.Errorf("error %v", err)
	}
}
