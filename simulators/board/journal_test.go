package board_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/line-protocol/v2/lineprotocol"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/board"
	"github.com/fluidos-edge/testbed/simulators/radio"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// entry is a line of a journal.
type entry struct {
	measurement string
	tags        map[string]string
	fields      map[string]any
	at          int64
}

func parseJournal(t *testing.T, text []byte) (all []entry) {
	t.Helper()
	fail := func(err error) {
		if err != nil {
			t.Fatalf("line %d: %v", len(all)+1, err)
		}
	}
	for d := lineprotocol.NewDecoderWithBytes(text); d.Next(); {
		m, err := d.Measurement()
		fail(err)
		e := entry{measurement: string(m), tags: map[string]string{}, fields: map[string]any{}}
		for {
			k, v, err := d.NextTag()
			fail(err)
			if k == nil {
				break
			}
			e.tags[string(k)] = string(v)
		}
		for {
			k, v, err := d.NextField()
			fail(err)
			if k == nil {
				break
			}
			e.fields[string(k)] = v.Interface()
		}
		at, err := d.Time(lineprotocol.Nanosecond, time.Time{})
		fail(err)
		e.at = at.UnixNano()
		all = append(all, e)
	}
	return all
}

// events of a journal, "<kind> <detail>", and its other lines.
func events(all []entry) (told []string, readings []entry) {
	for _, e := range all {
		if e.measurement != "event" {
			readings = append(readings, e)
			continue
		}
		told = append(told, strings.TrimSpace(fmt.Sprintf("%s %s", e.fields["kind"], e.fields["detail"])))
	}
	return told, readings
}

// steps of the frames' integers, by unit.
var steps = map[string]float64{"hPa": 0.01, "%RH": 0.1, "degC": 0.1, "mg": 1, "dps": 0.1, "mGauss": 1, "dB": 1}

// judge the readings of one board's journal against what a radio got from it.
func judge(spec topology.Board, readings []entry, got map[bluest.Mask][]radio.Notification) error {
	var all []error
	bad := func(format string, args ...any) { all = append(all, fmt.Errorf(format, args...)) }
	lines := map[string][]entry{} // by part
	for _, e := range readings {
		part := e.tags["part"]
		if before := lines[part]; len(before) > 0 && e.at <= before[len(before)-1].at {
			bad("%s: %d comes after %d", part, e.at, before[len(before)-1].at)
		}
		lines[part] = append(lines[part], e)
	}
	for _, p := range bluest.Parts(spec.Model) {
		if !slices.Contains(spec.Offers, p.Name) {
			if len(lines[p.Name]) > 0 {
				bad("%s is not on offer", p.Name)
			}
			continue
		}
		at := 0
		for i, n := range got[p.Characteristic] {
			for at < len(lines[p.Name]) && (lines[p.Name][at].fields["frame"] != hex.EncodeToString(n.Value) || lines[p.Name][at].at != n.EmittedWall) {
				at++
			}
			if at == len(lines[p.Name]) {
				bad("%s: no line for notification %d, % x of %d", p.Name, i, n.Value, n.EmittedWall)
				break
			}
			at++
		}
		for _, e := range lines[p.Name] {
			tags := map[string]string{"board": spec.Name, "device": strings.ToLower(spec.Model) + "-" + strings.ReplaceAll(spec.MAC, ":", ""), "node": "edge-1", "part": p.Name}
			if d := cmp.Diff(tags, e.tags); d != "" || e.measurement != p.Category {
				bad("%s of %s", e.measurement, d)
			}
			raw, err := hex.DecodeString(fmt.Sprint(e.fields["frame"]))
			if err != nil {
				bad("%s: frame: %v", p.Name, err)
				continue
			}
			f, err := bluest.Decode(p.Characteristic.UUID(), raw)
			if _, marked := e.fields["garbage"]; marked != (err != nil) {
				bad("%s: marked as garbage: %v, but %v", p.Name, marked, err)
			}
			for _, feed := range p.Feeds {
				measured, ok := e.fields[feed.Field].(float64)
				if !ok {
					bad("%s: no %s", p.Name, feed.Field)
				}
				least, most, _ := bluest.Limits(feed.Quantity)
				fits := min(max(measured, least), most)
				if sent, ok := f.Value(feed.Quantity); err == nil && (!ok || math.Abs(sent-fits) > steps[feed.Unit]/2+1e-9) {
					bad("%s: %s was measured as %v and sent as %v", p.Name, feed.Field, measured, sent)
				}
			}
			if ms, ok := e.fields["latency_ms"].(float64); !ok || ms < 4 || ms > 6 {
				bad("%s: latency %v", p.Name, e.fields["latency_ms"])
			}
		}
	}
	return errors.Join(all...)
}

// Every frame that reaches a radio has a line for each part on offer, with what was
// measured; and what makes it otherwise is seen.
func TestJournal(t *testing.T) {
	for _, spec := range []topology.Board{kt1b(), bx1()} {
		t.Run(spec.Model, func(t *testing.T) {
			for _, p := range bluest.Parts(spec.Model) {
				if p.Name != "iis2mdc" {
					spec.Offers = append(spec.Offers, p.Name)
				}
			}
			j := board.NewJournal(func() {})
			s := newJournaled(t, spec, j)
			streams := map[bluest.Mask]<-chan radio.Notification{}
			for _, m := range masks(spec) {
				streams[m] = s.subscribe(m.UUID())
			}
			got := map[bluest.Mask][]radio.Notification{}
			collect := func(d time.Duration) {
				s.run(d)
				for m, ch := range streams {
					got[m] = append(got[m], s.waiting(ch)...)
				}
			}
			fault := func(f topology.Fault) {
				t.Helper()
				if err := s.board.Fault(f, ""); err != nil {
					t.Fatal(err)
				}
			}
			collect(5 * time.Second)
			fault(topology.Fault{Kind: topology.FaultDrift, Slope: -2000, For: 5 * second})
			fault(topology.Fault{Kind: topology.FaultStuck, Part: spec.Offers[0], For: 5 * second})
			collect(5 * time.Second)
			fault(topology.Fault{Kind: topology.FaultGarbage, For: 3 * second})
			collect(5 * time.Second)
			fault(topology.Fault{Kind: topology.FaultSilence, For: 2 * second})
			collect(4*time.Second + 20*time.Millisecond)
			before := s.clk.Now()
			s.clk.SetTime(before.Add(-10 * time.Second)) // nothing is under way
			rate := 5.0
			if err := s.board.Set(board.Patch{Rate: &rate}); err != nil {
				t.Fatal(err)
			}
			collect(5 * time.Second)

			text, err := j.Take(nil)
			if err != nil {
				t.Fatal(err)
			}
			_, readings := events(parseJournal(t, text))
			if err := judge(spec, readings, got); err != nil {
				t.Fatal(err)
			}
			env := masks(spec)[0]
			garbage, late := 0, 0
			for _, e := range readings {
				if e.tags["part"] != spec.Offers[0] {
					continue
				}
				if e.fields["garbage"] == true {
					garbage++
				}
				if e.at > before.UnixNano()-int64(time.Second) {
					late++
				}
			}
			if n := len(got[env]); n != 10+10+10+4+25 || garbage != 6 || late != 2+25 {
				t.Errorf("%d frames, %d of them garbage, %d not before the clock was set back", n, garbage, late)
			}
			if rest, err := j.Take(text); len(rest) != 0 || err != nil {
				t.Errorf("taken twice: %d bytes, %v", len(rest), err)
			}

			first := func(e entry) bool { return e.tags["part"] == spec.Offers[0] }
			for name, tamper := range map[string]func([]entry) []entry{
				"a line is missing":  func(all []entry) []entry { return slices.Delete(all, 40, 41) },
				"a line comes twice": func(all []entry) []entry { return slices.Insert(all, 40, all[40]) },
				"another value": func(all []entry) []entry {
					all[slices.IndexFunc(all, first)].fields[bluest.Parts(spec.Model)[0].Feeds[0].Field] = 0.0
					return all
				},
				"another frame":       func(all []entry) []entry { all[0].fields["frame"] = "00" + all[0].fields["frame"].(string); return all },
				"garbage not marked":  func(all []entry) []entry { delete(all[slices.IndexFunc(all, spoiled)].fields, "garbage"); return all },
				"marked for no cause": func(all []entry) []entry { all[0].fields["garbage"] = true; return all },
				"another time":        func(all []entry) []entry { all[0].at++; return all },
				"another node":        func(all []entry) []entry { all[0].tags["node"] = "edge-2"; return all },
			} {
				if err := judge(spec, tamper(parseReadings(t, text)), got); err == nil {
					t.Errorf("%s, and nobody notices", name)
				}
			}
		})
	}
}

func spoiled(e entry) bool { return e.fields["garbage"] == true }

func parseReadings(t *testing.T, text []byte) []entry {
	t.Helper()
	_, readings := events(parseJournal(t, text))
	return readings
}

// The journal tells what happened to a board, when and why.
func TestJournalOfEvents(t *testing.T) {
	woken := 0
	j := board.NewJournal(func() { woken++ })
	s := newJournaled(t, kt1b(), j)
	s.subscribe(bluest.EnvironmentalKT1B.UUID())
	write := func(c bluest.Command, err error) {
		t.Helper()
		if err == nil {
			err = s.conn.Write(t.Context(), bluest.ConfigUUID, c.Encode())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(s.board.Fault(topology.Fault{Kind: topology.FaultDrift, Part: "hts221", For: 10 * second}, ""))
	s.run(5 * time.Second)
	do(s.board.Fault(topology.Fault{Kind: topology.FaultDrift, Slope: -2, For: 10 * second}, ""))
	s.run(15 * time.Second)
	do(s.board.Fault(topology.Fault{Kind: topology.FaultSilence}, ""))
	do(s.board.Clear(topology.FaultSilence))
	rate, median, latency := 4.0, topology.Duration(7*time.Millisecond), "20"
	do(s.board.Set(board.Patch{Rate: &rate, Latency: &board.LatencyPatch{Median: &median}, Parts: map[string]topology.Declared{"hts221": {Latency: &latency}}}))
	if s.board.Set(board.Patch{Rate: new(float64)}) == nil {
		t.Error("a rate of 0 was set")
	}
	write(bluest.RateCommand(bluest.EnvironmentalKT1B, 2.5))
	s.clk.SetTime(s.board.Step()) // to the next emission
	s.board.Step()
	write(bluest.Command{Feature: bluest.EnvironmentalKT1B, ID: bluest.CommandDisable}, nil)
	write(bluest.Command{Feature: bluest.EnvironmentalKT1B, ID: bluest.CommandEnable}, nil)
	do(s.board.Fault(topology.Fault{Kind: topology.FaultReboot}, ""))
	s.run(3 * time.Second)

	text, err := j.Take(nil)
	do(err)
	all := parseJournal(t, text)
	told, _ := events(all)
	want := []string{
		"connected edge-1",
		"fault drift part=hts221 slope=1 for=10s",
		"cleared drift part=hts221 slope=1 for=10s: replaced",
		"fault drift slope=-2 for=10s",
		"cleared drift slope=-2 for=10s: expired",
		"fault silence",
		"cleared silence: cleared",
		`changed {"rate":4,"latency":{"median":"7ms"},"parts":{"hts221":{"latency":"20"}}}`,
		"changed over the air: 001d0000 rate=2.5",
		"changed over the air: 001d0000 disabled; 1 frame under way was lost",
		"changed over the air: 001d0000 enabled",
		"fault reboot for=2s",
		"disconnected the board is gone: reboot",
		"cleared reboot for=2s: expired",
	}
	if d := cmp.Diff(want, told); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if woken != len(want) {
		t.Errorf("%d times told that something is to be taken, of %d events", woken, len(want))
	}
	for _, e := range all {
		if e.fields["kind"] == board.EventCleared && strings.HasPrefix(fmt.Sprint(e.fields["detail"]), "drift slope=-2") && e.at != start.Add(15*time.Second).UnixNano() {
			t.Errorf("it expired at %s", time.Unix(0, e.at).UTC())
		}
		if e.tags["board"] != "kt" || e.tags["device"] != "stwinkt1b-c0832a000001" {
			t.Errorf("tags %v", e.tags)
		}
	}
}

// A connection's end is told with the radio's reason.
func TestJournalOfDisconnection(t *testing.T) {
	pending := make(chan struct{}, 2)
	j := board.NewJournal(func() { pending <- struct{}{} })
	_ = connect(t, newBoard(t, kt1b(), board.Options{Clock: testingclock.NewFakeClock(start), Journal: j})).Close()
	for range 2 {
		select {
		case <-pending:
		case <-time.After(20 * time.Second):
			t.Fatal("no event within 20 s")
		}
	}
	text, err := j.Take(nil)
	if err != nil {
		t.Fatal(err)
	}
	told, _ := events(parseJournal(t, text))
	if d := cmp.Diff([]string{"connected edge-1", "disconnected the central disconnected"}, told); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// Whatever is measured, the journal has a number.
func TestJournalOfADriftWithoutEnd(t *testing.T) {
	j := board.NewJournal(func() {})
	s := newJournaled(t, kt1b(), j)
	s.subscribe(bluest.EnvironmentalKT1B.UUID())
	if err := s.board.Fault(topology.Fault{Kind: topology.FaultDrift, Slope: -math.MaxFloat64}, ""); err != nil {
		t.Fatal(err)
	}
	s.run(100 * time.Second)
	text, err := j.Take(nil)
	if err != nil {
		t.Fatal(err)
	}
	readings := parseReadings(t, text)
	last := readings[len(readings)-1]
	if v := last.fields["temperature_celsius"]; len(readings) != 3*2*100 || v != -math.MaxFloat64 {
		t.Errorf("%d lines, the last with %v", len(readings), v)
	}
}

// Values that are text are on one line, whatever is in them.
func TestJournalIsOneLineEach(t *testing.T) {
	j := board.NewJournal(func() {})
	j.Event(start, "", "", board.EventStarted, "2 boards")
	j.Event(start, "a board, b=c", "d", board.EventDisconnected, "says \"no\"\r\nback\\slash\xff")
	text, err := j.Take(nil)
	if err != nil || bytes.Count(text, []byte("\n")) != 2 {
		t.Fatalf("%q, %v", text, err)
	}
	all := parseJournal(t, text)
	want := []entry{
		{"event", map[string]string{}, map[string]any{"kind": "started", "detail": "2 boards"}, start.UnixNano()},
		{"event", map[string]string{"board": "a board, b=c", "device": "d"}, map[string]any{"kind": "disconnected", "detail": `says "no"  back\slash?`}, start.UnixNano()},
	}
	if d := cmp.Diff(want, all, cmp.AllowUnexported(entry{})); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	var none *board.Journal
	none.Event(start, "", "", board.EventStarted, "")
}
