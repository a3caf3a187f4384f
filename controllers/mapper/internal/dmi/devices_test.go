package dmi_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	kubeedge "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	api "github.com/fluidos-edge/testbed/controllers/api/dmi/v1beta1"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/dmi"
)

var start = time.Date(2026, 11, 28, 8, 0, 0, 0, time.UTC)

func device(name string, properties ...string) dmi.Device {
	d := dmi.Device{Namespace: "fluidos", Name: name, Config: map[string]string{}, Properties: map[string]dmi.Property{}}
	for _, p := range properties {
		d.Properties[p] = dmi.Property{ToCloud: true}
	}
	return d
}

func nothing() {}

// values of the twins in a report: property=reported/desired.
func values(r *dmi.Report) string {
	var out []string
	for _, t := range r.Twins {
		out = append(out, fmt.Sprintf("%s=%s/%s", t.GetPropertyName(), t.GetReported().GetValue(), t.GetObservedDesired().GetValue()))
	}
	return strings.Join(out, " ")
}

// drain gives all reports that may be sent now.
func drain(b dmi.Book, now time.Time) (reports []string, wait time.Duration) {
	for {
		r, wait := b.Next(now)
		if r == nil {
			return reports, wait
		}
		reports = append(reports, r.Name+" "+r.State+values(r))
	}
}

func check(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestNewerReportReplacesOneThatWaits(t *testing.T) {
	b := dmi.NewBook()
	b.Put(device("a", "x", "y", "z"), "")
	must(t, b.Report("a", start, dmi.Twin{Property: "x", Reported: "1"}, dmi.Twin{Property: "y", Reported: "1"}))
	must(t, b.Report("a", start, dmi.Twin{Property: "z", Reported: "3", Desired: "4"}, dmi.Twin{Property: "y", Reported: "2"}))
	reports, _ := drain(b, start)
	check(t, "sent", reports, []string{"a x=1/ y=2/ z=3/4"})
}

func TestRateStaysBelowTheEdgeRuntimes(t *testing.T) {
	b := dmi.NewBook()
	for i := range 200 {
		name := fmt.Sprintf("d%03d", i)
		b.Put(device(name, "x"), "")
		must(t, b.Report(name, start, dmi.Twin{Property: "x", Reported: "1"}))
	}
	reports, wait := drain(b, start)
	if len(reports) != 50 {
		t.Fatalf("%d reports at once, want 50", len(reports))
	}
	check(t, "first and last of the burst", []string{reports[0], reports[49]}, []string{"d000 x=1/", "d049 x=1/"})
	if wait <= 0 || wait > 1200*time.Millisecond {
		t.Errorf("then a wait of %v, want up to 1.2s", wait)
	}
	now, sent := start, 0
	for end := start.Add(100 * time.Second); now.Before(end); now = now.Add(100 * time.Millisecond) {
		more, _ := drain(b, now)
		sent += len(more)
	}
	if sent < 89 || sent > 91 {
		t.Errorf("%d reports in the 100 s after, want 90", sent)
	}
}

func TestWaitsForAToken(t *testing.T) {
	b := dmi.NewBook()
	b.Put(device("a", "x"), "")
	for i := range 50 {
		must(t, b.Report("a", start, dmi.Twin{Property: "x", Reported: fmt.Sprint(i)}))
		drain(b, start)
	}
	must(t, b.Report("a", start, dmi.Twin{Property: "x", Reported: "50"}))
	_, wait := drain(b, start)
	must(t, b.Report("a", start, dmi.Twin{Property: "x", Reported: "51"}))
	if reports, _ := drain(b, start.Add(wait-time.Millisecond)); len(reports) != 0 {
		t.Errorf("sent %v before its time", reports)
	}
	reports, _ := drain(b, start.Add(wait))
	check(t, "sent once there was a token", reports, []string{"a x=51/"})
}

func TestChangedStatesGoFirst(t *testing.T) {
	b := dmi.NewBook()
	b.Put(device("a", "x"), "")
	b.Put(device("b", "x"), "")
	must(t, b.Report("a", start, dmi.Twin{Property: "x", Reported: "1"}))
	must(t, b.Report("b", start, dmi.Twin{Property: "x", Reported: "1"}))
	must(t, b.State("b", kubeedge.StateUnhealthy))
	must(t, b.State("b", kubeedge.StateOnline))
	reports, _ := drain(b, start)
	check(t, "sent", reports, []string{"b online", "a x=1/", "b x=1/"})
}

func TestStateIsReportedAgain(t *testing.T) {
	b := dmi.NewBook()
	b.Put(device("a", "x"), "")
	must(t, b.State("a", kubeedge.StateOnline))
	reports, wait := drain(b, start)
	check(t, "sent", reports, []string{"a online"})
	check(t, "wait", wait, time.Minute)
	reports, wait = drain(b, start.Add(59*time.Second))
	check(t, "sent early", reports, []string(nil))
	check(t, "wait", wait, time.Second)
	reports, _ = drain(b, start.Add(time.Minute))
	check(t, "sent again", reports, []string{"a online"})

	b.Register(false, nothing, device("a", "x"))
	reports, _ = drain(b, start.Add(61*time.Second))
	check(t, "sent after a registration on the same connection", reports, []string(nil))
	b.Register(true, nothing, device("a", "x"))
	reports, _ = drain(b, start.Add(61*time.Second))
	check(t, "sent on a new connection", reports, []string{"a online"})
}

func TestReportsWaitForTheirDevice(t *testing.T) {
	b := dmi.NewBook()
	must(t, b.Report("a", start, dmi.Twin{Property: "x", Reported: "1"}))
	must(t, b.State("a", kubeedge.StateOnline))
	reports, _ := drain(b, start)
	check(t, "sent without a Device", reports, []string(nil))
	b.Put(device("a", "x"), "")
	reports, _ = drain(b, start)
	check(t, "sent with it", reports, []string{"a online", "a x=1/"})

	b.Remove("fluidos", "a")
	must(t, b.Report("a", start, dmi.Twin{Property: "x", Reported: "2"}))
	reports, _ = drain(b, start)
	check(t, "sent when it was gone", reports, []string(nil))
	b.Put(device("a", "x"), "")
	reports, _ = drain(b, start)
	check(t, "sent when it was back", reports, []string{"a x=2/", "a online"})
}

func TestOnlyWhatTheDeviceWantsIsReported(t *testing.T) {
	b := dmi.NewBook()
	d := device("a", "x")
	d.Properties["quiet"] = dmi.Property{}
	b.Put(d, "")
	must(t, b.Report("a", start, dmi.Twin{Property: "quiet", Reported: "1"}, dmi.Twin{Property: "strange", Reported: "1"}))
	reports, _ := drain(b, start)
	check(t, "sent", reports, []string(nil))
	must(t, b.Report("a", start, dmi.Twin{Property: "quiet", Reported: "2"}, dmi.Twin{Property: "x", Reported: "2"}))
	reports, _ = drain(b, start)
	check(t, "sent", reports, []string{"a x=2/"})
}

func TestRefusedReportWaitsAgain(t *testing.T) {
	b := dmi.NewBook()
	b.Put(device("a", "x", "y"), "")
	must(t, b.Report("a", start, dmi.Twin{Property: "x", Reported: "1"}, dmi.Twin{Property: "y", Reported: "1"}))
	r, _ := b.Next(start)
	must(t, b.Report("a", start, dmi.Twin{Property: "y", Reported: "2"}))
	b.Back(r)
	reports, _ := drain(b, start)
	check(t, "sent", reports, []string{"a x=1/ y=2/"})

	must(t, b.State("a", kubeedge.StateOnline))
	r, _ = b.Next(start)
	must(t, b.State("a", kubeedge.StateOffline))
	b.Back(r)
	reports, _ = drain(b, start)
	check(t, "sent", reports, []string{"a offline"})
	must(t, b.State("a", kubeedge.StateOnline))
	r, _ = b.Next(start)
	b.Back(r)
	reports, _ = drain(b, start)
	check(t, "sent", reports, []string{"a online"})
}

func TestTwinsAreWhole(t *testing.T) {
	b := dmi.NewBook()
	b.Put(device("a", "x", "y", "z"), "model")
	b.PutModel(&api.DeviceModel{Namespace: "fluidos", Name: "model", Spec: &api.DeviceModelSpec{Properties: []*api.ModelProperty{
		{Name: "x", Type: "FLOAT"},
	}}})
	at := start.Add(-1500 * time.Millisecond)
	must(t, b.Report("a", start, dmi.Twin{Property: "x"}, dmi.Twin{Property: "y", Reported: "1", At: at, Type: "int"}, dmi.Twin{Property: "z"}))
	r, _ := b.Next(start)
	got := map[string]map[string]string{}
	for _, twin := range r.Twins {
		if twin.GetObservedDesired() == nil || twin.GetReported() == nil {
			t.Fatalf("twin %s is %v, want both values", twin.GetPropertyName(), twin)
		}
		check(t, "metadata of the wish for "+twin.GetPropertyName(), twin.GetObservedDesired().GetMetadata(), twin.GetReported().GetMetadata())
		got[twin.GetPropertyName()] = twin.GetReported().GetMetadata()
	}
	check(t, "metadata", got, map[string]map[string]string{
		"x": {"timestamp": "1795852800000", "type": "float"},
		"y": {"timestamp": "1795852798500", "type": "int"},
		"z": {"timestamp": "1795852800000", "type": "string"},
	})
}

func TestWhatTheEdgeRuntimeWouldDropIsRefused(t *testing.T) {
	b := dmi.NewBook()
	for _, tt := range []struct {
		twin dmi.Twin
		want string
	}{
		{dmi.Twin{Property: "x", Reported: "-1.5"}, ""},
		{dmi.Twin{Property: "x", Reported: ""}, ""},
		{dmi.Twin{Property: "x", Reported: strings.Repeat("1", 512)}, ""},
		{dmi.Twin{Property: "", Reported: "1"}, `property ""`},
		{dmi.Twin{Property: "x y", Reported: "1"}, `property "x y"`},
		{dmi.Twin{Property: "x", Reported: "1e+06"}, `property x: value "1e+06"`},
		{dmi.Twin{Property: "x", Reported: "1", Desired: "5 Hz"}, `property x: value "5 Hz"`},
		{dmi.Twin{Property: "x", Reported: strings.Repeat("1", 513)}, "at most 512"},
		{dmi.Twin{Property: "x", Reported: "1\n"}, `value "1\n"`},
	} {
		err := b.Report("a", start, tt.twin)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("report of %+v: %v, want an error with %q", tt.twin, err, tt.want)
		}
	}
	for _, state := range []string{"", "ok", "Online", "gone"} {
		if err := b.State("a", state); err == nil || !strings.Contains(err.Error(), "want online, unhealthy or offline") {
			t.Errorf("state %q: %v, want an error that names the states", state, err)
		}
	}
	if err := b.State("", kubeedge.StateOnline); err == nil {
		t.Error("state of no Device: no error")
	}
}

func TestChangesAreToldOnce(t *testing.T) {
	b := dmi.NewBook()
	b.Put(device("a", "x"), "")
	b.Put(device("b"), "")
	b.Put(device("a", "x"), "")
	b.Put(device("b", "y"), "")
	b.Remove("fluidos", "a")
	b.Remove("fluidos", "a")
	b.Remove("fluidos", "never")
	b.Put(device("a", "x"), "")
	check(t, "told", b.Told(), []string{"+a", "+b", "+b", "-a", "+a"})
	check(t, "told again", b.Told(), []string(nil))
}

func TestRegistrationIsTheWholeTruthButForWhatIsNewer(t *testing.T) {
	b := dmi.NewBook()
	b.Put(device("gone"), "")
	b.Put(device("same"), "")
	b.Put(device("other"), "")
	b.Told()
	b.Register(true, nothing, device("same"), device("other", "x"), device("new"))
	check(t, "told", b.Told(), []string{"+other", "+new", "-gone"})

	b.Register(false, func() {
		b.Put(device("late"), "")
		b.Remove("fluidos", "same")
		b.Put(device("new", "x"), "")
	}, device("same"), device("other", "x"), device("new"))
	check(t, "told", b.Told(), []string{"+late", "-same", "+new"})
	b.Register(false, nothing, device("late"), device("other", "x"), device("new", "x"))
	check(t, "told", b.Told(), []string(nil))
}

func TestDevicesThatNobodyHasAreBounded(t *testing.T) {
	b := dmi.NewBook()
	b.Put(device("known"), "")
	for i := range dmi.MaxUnknown + 10 {
		must(t, b.State(fmt.Sprintf("d%d", i), kubeedge.StateOnline))
	}
	check(t, "Devices kept", b.Known(), dmi.MaxUnknown+1)
	b.Put(device("d9", "x"), "")
	b.Put(device("d10", "x"), "")
	reports, _ := drain(b, start)
	check(t, "sent of those that were forgotten and kept", reports, []string{"d10 online"})
}
