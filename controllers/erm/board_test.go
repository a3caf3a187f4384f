package erm_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/erm"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

// status as KubeEdge writes it: named as its Device, which owns it.
func status(of *devices.Device, state string) *devices.DeviceStatus {
	return &devices.DeviceStatus{
		ObjectMeta: metav1.ObjectMeta{Namespace: of.Namespace, Name: of.Name, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: devices.GroupVersion.String(), Kind: "Device", Name: of.Name, UID: of.UID, Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true)},
		}},
		Status: devices.DeviceStatusStatus{State: state},
	}
}

// aged is a Device with the board id of b1.
func aged(name string, seconds int64) *devices.Device {
	d := device(name, "edge-1", hts221)
	d.Labels[devices.LabelBoardID] = boardID
	d.CreationTimestamp = metav1.Unix(1e9+seconds, 0)
	return d
}

const (
	silent = "BoardSilent: connected, but no frame for 10s of 001d0000 (due every 500ms)"
	lost   = "BoardLost: no connection: supervision timeout"
)

// duplicateOf is the fault of a Device with the board id of b1, which another one had first.
func duplicateOf(first string) string { return duplicateID(boardID, first) }

func duplicateID(id, first string) string {
	return "DuplicateBoardID: board id " + id + " is that of Device " + first + " too, which had it first: the sensors of this Device are not available"
}

func TestJudge(t *testing.T) {
	mine := aged("b1", 10)
	leaving := aged("b2", 1)
	leaving.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	orphan := status(mine, "offline")
	orphan.OwnerReferences = nil
	for _, c := range []struct {
		name    string
		status  *devices.DeviceStatus
		sharers []*devices.Device
		since   map[string]metav1.Time
		problem string // the annotation
		fault   string
		first   string
	}{
		{name: "the edge has said nothing"},
		{name: "no state yet", status: status(mine, "")},
		{name: "online", status: status(mine, "online")},
		{name: "ok, as a mapper that KubeEdge generates", status: status(mine, "ok")},
		{name: "a mapper that cannot tell", status: status(mine, "unknown")},
		{name: "a word that KubeEdge does not have", status: status(mine, "sleeping")},
		{name: "offline", status: status(mine, "offline"), fault: "its board is offline"},
		{name: "unhealthy", status: status(mine, "unhealthy"), fault: "its board is unhealthy"},
		{name: "disconnected", status: status(mine, "disconnected"), fault: "its board is disconnected"},
		{name: "in other letters", status: status(mine, "OffLine"), fault: "its board is offline"},
		{name: "offline, and nobody's", status: orphan, fault: "its board is offline"},
		{name: "of an earlier Device of the name", status: status(&devices.Device{ObjectMeta: metav1.ObjectMeta{UID: "other"}}, "offline")},
		{name: "alone with its id", sharers: []*devices.Device{mine}},
		{name: "a younger one", sharers: []*devices.Device{mine, aged("a", 11)}},
		{name: "an older one", sharers: []*devices.Device{mine, aged("c", 9)}, fault: duplicateOf("c"), first: "c"},
		{name: "of the same second, earlier by name", sharers: []*devices.Device{aged("a", 10), mine}, fault: duplicateOf("a"), first: "a"},
		{name: "of the same second, later by name", sharers: []*devices.Device{aged("c", 10), mine}},
		{name: "the oldest of three", sharers: []*devices.Device{aged("c", 9), aged("d", 1), mine, aged("e", 2)}, fault: duplicateOf("d"), first: "d"},
		{name: "an older one, which does not offer yet", sharers: []*devices.Device{mine, aged("c", 9)}, since: map[string]metav1.Time{"b1": {}}},
		{name: "a younger one, which offered first", sharers: []*devices.Device{mine, aged("a", 11)},
			since: map[string]metav1.Time{"b1": metav1.Unix(30, 0), "a": metav1.Unix(20, 0)}, fault: duplicateOf("a"), first: "a"},
		{name: "an older one, which offered later", sharers: []*devices.Device{mine, aged("c", 9)},
			since: map[string]metav1.Time{"b1": metav1.Unix(20, 0), "c": metav1.Unix(30, 0)}},
		{name: "an older one that is being deleted", sharers: []*devices.Device{mine, leaving}},
		{name: "both", status: status(mine, "offline"), sharers: []*devices.Device{aged("c", 9)}, fault: duplicateOf("c") + "; its board is offline", first: "c"},

		{name: "offline, and why", status: status(mine, "offline"), problem: lost, fault: lost},
		{name: "unhealthy, and why", status: status(mine, "unhealthy"), problem: silent, fault: silent},
		{name: "unhealthy for two reasons", status: status(mine, "unhealthy"), problem: silent + "; " + lost, fault: silent + "; " + lost},
		{name: "both, and why", status: status(mine, "offline"), problem: lost, sharers: []*devices.Device{aged("c", 9)}, fault: duplicateOf("c") + "; " + lost, first: "c"},
		{name: "a reason, and no state", problem: silent},
		{name: "a reason, and online", status: status(mine, "online"), problem: silent},
		{name: "a reason, and the state of an earlier Device", status: status(&devices.Device{ObjectMeta: metav1.ObjectMeta{UID: "other"}}, "offline"), problem: lost},
		{name: "nothing but white space", status: status(mine, "offline"), problem: " \n\t", fault: "its board is offline"},
		{name: "control characters", status: status(mine, "offline"), problem: "\x1b[2JBoardLost:\r\nno\x00 connection\u202e", fault: "[2JBoardLost: no connection"},
		{name: "invalid UTF-8", status: status(mine, "offline"), problem: "BoardLost\xff: gone", fault: "BoardLost : gone"},
		{name: "very long", status: status(mine, "offline"), problem: strings.Repeat("x", 200_000), fault: strings.Repeat("x", devices.MaxProblem-3) + "..."},
		{name: "what only ERM says", status: status(mine, "offline"), problem: duplicateOf("c"), fault: "its board is offline"},
		{name: "what only ERM says, hidden", status: status(mine, "offline"), problem: "\u200b DuplicateBoardID\n:\tof c", fault: "its board is offline"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var sharers []devices.Device
			for _, d := range c.sharers {
				sharers = append(sharers, *d)
			}
			d := mine.DeepCopy()
			if c.problem != "" {
				d.Annotations[devices.AnnotationProblem] = c.problem
			}
			fault, first := erm.Judge(d, c.status, sharers, c.since)
			same(t, "fault", c.fault, fault)
			name := ""
			if first != nil {
				name = first.Name
			}
			same(t, "first", c.first, name)
		})
	}
}

// What speaks against a board takes all its sensors, and nothing but their availability.
func TestDesiredOfAFaultyBoard(t *testing.T) {
	d := device("b1", "edge-1", hts221, lps22hh)
	for _, ready := range []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse} {
		nodes := []corev1.Node{*node("edge-1", ready)}
		good, _ := erm.Desired(d, nodes, "", nodecore.NodeIdentity{}, erm.Options{})
		bad, _ := erm.Desired(d, nodes, "its board is offline", nodecore.NodeIdentity{}, erm.Options{})
		same(t, "sensors", 2, len(bad))
		for i := range bad {
			same(t, "available", []bool{ready == corev1.ConditionTrue, false}, []bool{good[i].Spec.Availability, bad[i].Spec.Availability})
			o, err := sensor.FromFlavor(&bad[i])
			if err != nil {
				t.Fatal(err)
			}
			same(t, "why", "its board is offline", o.Unavailable)
			delete(bad[i].Annotations, sensor.AnnotationUnavailable)
			bad[i].Spec.Availability = good[i].Spec.Availability
		}
		same(t, "the rest", good, bad)
	}
}

// available says of each Flavor whether it is, and else why not.
func (c *cluster) available() map[string]string {
	c.t.Helper()
	out := map[string]string{}
	for name, f := range c.flavors() {
		out[name] = fmt.Sprint(f.Spec.Availability, " ", f.Annotations[sensor.AnnotationUnavailable])
	}
	return out
}

func TestAvailabilityFollowsTheBoard(t *testing.T) {
	b1 := device("b1", "edge-1", hts221, lps22hh)
	c := newCluster(t, erm.Options{}, identity(), node("edge-1", corev1.ConditionTrue), b1, device("b2", "edge-1", hts221))
	c.reconcile("b1", "b2")
	all := func(b1 string) map[string]string {
		return map[string]string{offerHTS: b1, offerLPS: b1, offerOf("b2", "hts221"): "true "}
	}
	both := []string{"update *v1alpha1.Flavor " + offerHTS, "update *v1alpha1.Flavor " + offerLPS}
	same(t, "no DeviceStatus", all("true "), c.available())
	if err := c.Create(t.Context(), status(b1, "")); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		state, want string
		writes      []string
	}{
		{"", "true ", nil},
		{"online", "true ", nil},
		{"offline", "false its board is offline", both},
		{"offline", "false its board is offline", nil},
		{"unhealthy", "false its board is unhealthy", both},
		{"online", "true ", both},
		{"ok", "true ", nil},
	} {
		change(c, status(b1, ""), func(s *devices.DeviceStatus) {
			s.Status.State = step.state
			s.Status.Twins = append(s.Status.Twins, devices.Twin{PropertyName: "hts221-humidity"})
		})
		writes := c.reconcile("b1", "b2")
		same(t, "writes at "+step.state, step.writes, writes)
		same(t, "available at "+step.state, all(step.want), c.available())
	}
	same(t, "events", []string(nil), c.events())

	change(c, status(b1, ""), func(s *devices.DeviceStatus) { s.Status.State = "offline" })
	c.reconcile("b1")
	change(c, &nodecore.Flavor{ObjectMeta: metav1.ObjectMeta{Namespace: "fluidos", Name: offerHTS}}, func(f *nodecore.Flavor) {
		f.Spec.Availability, f.Annotations = true, nil
	})
	same(t, "somebody else makes it available", both[:1], c.reconcile("b1"))
	c.restart()
	same(t, "writes after a restart", []string(nil), c.reconcile("b1", "b2"))

	if err := c.Delete(t.Context(), status(b1, "")); err != nil {
		t.Fatal(err)
	}
	c.reconcile("b1")
	same(t, "the DeviceStatus is gone", all("true "), c.available())

	t.Run("none is defined", func(t *testing.T) {
		c := newCluster(t, erm.Options{}, identity(), node("edge-1", corev1.ConditionTrue), b1.DeepCopy())
		c.blind = true
		c.restart()
		c.fail = func(verb string, o any) error {
			if _, ok := o.(*devices.DeviceStatus); ok {
				t.Error("it is asked for")
			}
			return nil
		}
		c.reconcile("b1")
		same(t, "available", map[string]string{offerHTS: "true ", offerLPS: "true "}, c.available())
	})
}

// State and reasons come from different writers, in any order: the state alone decides
// on availability, and each step is written once.
func TestReasonsOfTheBoard(t *testing.T) {
	type step struct {
		what, want string
		how        func(c *cluster)
	}
	b1 := device("b1", "edge-1", hts221)
	state := func(s string) func(*cluster) {
		return func(c *cluster) {
			change(c, status(b1, ""), func(d *devices.DeviceStatus) { d.Status.State = s })
		}
	}
	problem := func(text string) func(*cluster) {
		return func(c *cluster) {
			change(c, device("b1", ""), func(d *devices.Device) {
				if d.Annotations[devices.AnnotationProblem] = text; text == "" {
					delete(d.Annotations, devices.AnnotationProblem)
				}
			})
		}
	}
	for _, o := range []struct {
		name  string
		steps []step
	}{
		{"state first", []step{
			{"unhealthy", "false its board is unhealthy", state("unhealthy")},
			{"its reason", "false " + silent, problem(silent)},
			{"another state", "false " + silent, state("offline")},
			{"its reason", "false " + lost, problem(lost)},
			{"online", "true ", state("online")},
			{"no reason", "true ", problem("")},
		}},
		{"reason first", []step{
			{"a reason", "true ", problem(silent)},
			{"unhealthy", "false " + silent, state("unhealthy")},
			{"another reason", "false " + lost, problem(lost)},
			{"its state", "false " + lost, state("offline")},
			{"no reason", "false its board is offline", problem("")},
			{"online", "true ", state("online")},
		}},
		{"a reason that nobody takes away", []step{
			{"unhealthy", "false its board is unhealthy", state("unhealthy")},
			{"its reason", "false " + silent, problem(silent)},
			{"online", "true ", state("online")},
		}},
		{"the reasons change as a second one comes and the first one goes", []step{
			{"unhealthy", "false its board is unhealthy", state("unhealthy")},
			{"its reason", "false " + silent, problem(silent)},
			{"another one", "false " + silent + "; ReadingsDisagree: x", problem(silent + "; ReadingsDisagree: x")},
			{"only that", "false ReadingsDisagree: x", problem("ReadingsDisagree: x")},
		}},
	} {
		t.Run(o.name, func(t *testing.T) {
			c := newCluster(t, erm.Options{}, identity(), node("edge-1", corev1.ConditionTrue), b1.DeepCopy(), status(b1, "online"))
			c.reconcile("b1")
			last := "true "
			for _, s := range o.steps {
				s.how(c)
				var want []string
				if s.want != last {
					want = []string{"update *v1alpha1.Flavor " + offerHTS}
				}
				same(t, s.what+": writes", want, c.reconcile("b1"))
				same(t, s.what, map[string]string{offerHTS: s.want}, c.available())
				c.restart()
				same(t, s.what+": writes after a restart", []string(nil), c.reconcile("b1"))
				last = s.want
			}
			same(t, "events", []string(nil), c.events())
		})
	}
}

// A Device that claims to be a duplicate does not give its id away by that.
func TestAFaultThatPassesForAnother(t *testing.T) {
	liar, second := aged("b1", 10), aged("b2", 20)
	liar.Annotations[devices.AnnotationProblem] = duplicateOf("b2")
	c := newCluster(t, erm.Options{}, identity(), node("edge-1", corev1.ConditionTrue), liar, status(liar, "unhealthy"))
	c.reconcile("b1")
	if err := c.Create(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	c.reconcile("b2", "b1")
	same(t, "available", map[string]string{offerHTS: "false its board is unhealthy", "b2-" + boardID + "-hts221": "false " + duplicateOf("b1")}, c.available())
}

func TestDuplicateBoardID(t *testing.T) {
	second := aged("b2", 20)
	second.Annotations = annotation(hts221, lps22hh)
	c := newCluster(t, erm.Options{}, identity(), node("edge-1", corev1.ConditionTrue), aged("b1", 10), second)
	first, hts, lps := offerHTS, "b2-"+boardID+"-hts221", "b2-"+boardID+"-lps22hh"
	dup := "false " + duplicateOf("b1")
	event := "Warning b2 DuplicateBoardID: board id " + boardID + " is that of Device b1 too, which had it first: the sensors of this Device are not available"
	c.reconcile("b1", "b2")
	same(t, "available", map[string]string{first: "true ", hts: dup, lps: dup}, c.available())
	same(t, "events", []string{event}, c.events())
	same(t, "writes when nothing changed", []string(nil), c.reconcile("b1", "b2"))
	c.restart()
	same(t, "writes after a restart, but for an Event that is there", []string(nil),
		except(c.reconcile("b1", "b2"), "create *v1.Event b2."))
	same(t, "events after a restart", []string{event}, c.events())

	// An id that is none is nobody's.
	change(c, device("b1", ""), func(d *devices.Device) { d.Labels[devices.LabelBoardID] = "unknown" })
	change(c, device("b2", ""), func(d *devices.Device) { d.Labels[devices.LabelBoardID] = "unknown" })
	c.reconcile("b1", "b2")
	for name, available := range c.available() {
		same(t, "available: "+name, "true ", available)
	}

	// The label is back: so is the fault, and it is told again.
	change(c, device("b1", ""), func(d *devices.Device) { d.Labels[devices.LabelBoardID] = boardID })
	change(c, device("b2", ""), func(d *devices.Device) { d.Labels[devices.LabelBoardID] = boardID })
	c.reconcile("b1", "b2")
	same(t, "available again", map[string]string{first: "true ", hts: dup, lps: dup}, c.available())
	same(t, "events, told again", []string{event, event}, c.events())

	// So is the first Device with another one in its place, while the second stays as it is.
	if err := c.Delete(t.Context(), device("b1", "")); err != nil {
		t.Fatal(err)
	}
	c.reconcile("b1", "b2")
	same(t, "the first one is gone", map[string]string{hts: "true ", lps: "true "}, c.available())
	old := aged("b1", 5)
	old.UID = "another"
	if err := c.Create(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	c.reconcile("b1", "b2")
	late := "Warning b1 DuplicateBoardID: board id " + boardID + " is that of Device b2 too, which had it first: the sensors of this Device are not available"
	same(t, "it is back, and now the later one", map[string]string{first: "false " + duplicateOf("b2"), hts: "true ", lps: "true "}, c.available())
	same(t, "events, of the other", []string{late, event, event}, c.events())
}

func except(writes []string, prefix string) (out []string) {
	for _, w := range writes {
		if !strings.HasPrefix(w, prefix) {
			out = append(out, w)
		}
	}
	return out
}

// Of all that is written to a DeviceStatus, few things lead to a Reconcile.
func TestStateChanged(t *testing.T) {
	is := func(from string, how func(*devices.DeviceStatus)) bool {
		before := status(device("b1", "edge-1"), from)
		after := before.DeepCopy()
		how(after)
		return erm.StateChanged().Update(event.UpdateEvent{ObjectOld: before, ObjectNew: after})
	}
	to := func(state string) func(*devices.DeviceStatus) {
		return func(s *devices.DeviceStatus) { s.Status.State = state }
	}
	for _, c := range []struct {
		what string
		got  bool
		want bool
	}{
		{"twins", is("offline", func(s *devices.DeviceStatus) {
			s.Status.Twins, s.Status.LastOnlineTime = []devices.Twin{{PropertyName: "p"}}, "now"
		}), false},
		{"online to ok", is("online", to("ok")), false},
		{"nothing to online", is("", to("online")), false},
		{"online to offline", is("online", to("offline")), true},
		{"offline to unhealthy", is("offline", to("unhealthy")), true},
		{"offline to OFFLINE", is("offline", to("OFFLINE")), false},
		{"unhealthy to online", is("unhealthy", to("online")), true},
		{"of another Device", is("offline", func(s *devices.DeviceStatus) { s.OwnerReferences[0].UID = "other" }), true},
		{"of no Device", is("offline", func(s *devices.DeviceStatus) { s.OwnerReferences = nil }), true},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", c.what, c.got, c.want)
		}
	}
	if !erm.StateChanged().Create(event.CreateEvent{Object: status(device("b1", ""), "offline")}) ||
		!erm.StateChanged().Delete(event.DeleteEvent{Object: status(device("b1", ""), "offline")}) {
		t.Error("a DeviceStatus that appears or goes leads to no Reconcile")
	}
}

// What nothing here reads of a Device leads to no Reconcile.
func TestDeviceChanged(t *testing.T) {
	d := device("b1", "edge-1", hts221)
	d.Annotations[devices.AnnotationProblem] = silent
	for _, c := range []struct {
		what string
		how  func(*devices.Device)
		want bool
	}{
		{"managed fields", func(d *devices.Device) { d.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "mapper"}} }, false},
		{"another annotation", func(d *devices.Device) { d.Annotations["note"] = "a" }, false},
		{"another label", func(d *devices.Device) { d.Labels["note"] = "a" }, false},
		{"the same problem in other bytes", func(d *devices.Device) { d.Annotations[devices.AnnotationProblem] = silent + "\n\x00" }, false},
		{"another problem", func(d *devices.Device) { d.Annotations[devices.AnnotationProblem] = lost }, true},
		{"no problem", func(d *devices.Device) { delete(d.Annotations, devices.AnnotationProblem) }, true},
		{"the sensors", func(d *devices.Device) { d.Annotations[devices.AnnotationSensors] = "W10=" }, true},
		{"the board id", func(d *devices.Device) { d.Labels[devices.LabelBoardID] = idOf("b2") }, true},
		{"the specification", func(d *devices.Device) { d.Generation++ }, true},
		{"its deletion", func(d *devices.Device) { d.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }, true},
		{"another Device of the name", func(d *devices.Device) { d.UID = "other" }, true},
	} {
		after := d.DeepCopy()
		c.how(after)
		if got := erm.DeviceChanged().Update(event.UpdateEvent{ObjectOld: d, ObjectNew: after}); got != c.want {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}

// The cache keeps of a DeviceStatus what decides, and of other objects all but the managed fields.
func TestSlim(t *testing.T) {
	s := status(device("b1", "edge-1"), "offline")
	s.UID, s.ResourceVersion = "u", "7"
	want := s.DeepCopy()
	s.Status.Twins, s.Status.LastOnlineTime = []devices.Twin{{PropertyName: "p"}}, "now"
	s.Labels, s.ManagedFields = map[string]string{"a": "b"}, []metav1.ManagedFieldsEntry{{Manager: "cloudcore"}}
	d := device("b1", "edge-1", hts221)
	plain := d.DeepCopy()
	d.ManagedFields = s.ManagedFields
	for _, c := range []struct{ in, want client.Object }{{s, want}, {want.DeepCopy(), want}, {d, plain}} {
		got, err := erm.Slim(c.in)
		if err != nil {
			t.Fatal(err)
		}
		same(t, fmt.Sprintf("%T", c.in), any(c.want), got)
	}
}
