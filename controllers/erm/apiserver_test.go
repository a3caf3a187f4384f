package erm_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/erm"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

// TestAPIServer runs ERM, with no more rights than are generated for it, against a real
// API server and our definitions. TESTBED_ASSETS is a folder with etcd and
// kube-apiserver.
func TestAPIServer(t *testing.T) {
	s := startServer(t, "../../charts/crds")
	s.run(t)
}

// TestConformance is the same with the definitions of KubeEdge and FLUIDOS
// themselves: what we write is what they accept. TESTBED_CONFORMANCE is a folder
// with kubeedge and fluidos.
func TestConformance(t *testing.T) {
	dir := os.Getenv("TESTBED_CONFORMANCE")
	if dir == "" {
		t.Skip("TESTBED_CONFORMANCE is not set: not tried against the real definitions")
	}
	s := startServer(t, filepath.Join(dir, "kubeedge"), filepath.Join(dir, "fluidos"))
	s.run(t)
}

// TestWithoutDeviceStatus: ERM works where KubeEdge is older than DeviceStatus, and
// takes them up when KubeEdge is not any more.
func TestWithoutDeviceStatus(t *testing.T) {
	const crds = "../../charts/crds/"
	s := startServer(t, crds+"devices.kubeedge.io_devices.yaml", crds+"nodecore.fluidos.eu_flavors.yaml")
	s.create(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "edge-1"}})
	s.ready(t, "edge-1", corev1.ConditionTrue)
	s.create(t, identity())
	first := s.device(t, device("b1", "edge-1", hts221))
	s.start(t)
	s.unavailable(t, "without DeviceStatuses", offerHTS, "")
	s.device(t, aged("b2", 0))
	s.unavailable(t, "of two boards with one id, without DeviceStatuses", "b2-"+boardID+"-hts221", duplicateOf("b1"))
	s.ready(t, "edge-1", corev1.ConditionFalse)
	s.offer(t, "its node is not Ready", offerHTS, func(o sensor.Offer, _ *nodecore.Flavor) bool { return !o.Available })
	s.ready(t, "edge-1", corev1.ConditionTrue)
	s.unavailable(t, "its node is Ready again", offerHTS, "")

	path, err := filepath.Abs(crds + "devices.kubeedge.io_devicestatuses.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := envtest.InstallCRDs(s.config, envtest.CRDInstallOptions{Paths: []string{path}, ErrorIfPathMissing: true}); err != nil {
		t.Fatal(err)
	}
	s.create(t, status(first, "offline"))
	s.unavailable(t, "DeviceStatuses are there", offerHTS, "its board is offline")
	s.state(t, "b1", "online")
	s.unavailable(t, "online", offerHTS, "")
}

// server is a real API server with an ERM.
type server struct {
	client.Client              // of an administrator; unknown fields are refused
	config        *rest.Config // an administrator's
	kubeconfig    string
	discovery     *discovery.DiscoveryClient
}

func startServer(t *testing.T, definitions ...string) *server {
	t.Helper()
	assets := os.Getenv("TESTBED_ASSETS")
	if assets == "" {
		t.Skip("TESTBED_ASSETS is not set: not tried against a real API server")
	}
	for i, d := range definitions {
		abs, err := filepath.Abs(d)
		if err != nil {
			t.Fatal(err)
		}
		definitions[i] = abs
	}
	scheme, err := erm.NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	if err := rbacv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	e := &envtest.Environment{
		BinaryAssetsDirectory: assets,
		CRDDirectoryPaths:     definitions,
		ErrorIfCRDPathMissing: true,
		Scheme:                scheme,
	}
	config, err := e.Start()
	if err != nil {
		t.Fatalf("API server of %s: %v", assets, err)
	}
	t.Cleanup(func() {
		if err := e.Stop(); err != nil {
			t.Errorf("stop API server: %v", err)
		}
	})
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	d, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Client: client.WithFieldValidation(c, metav1.FieldValidationStrict), config: config, discovery: d}
	s.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "fluidos"}})
	s.rights(t)
	user, err := e.AddUser(envtest.User{Name: "testbed:erm"}, &rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := user.KubeConfig()
	if err != nil {
		t.Fatal(err)
	}
	s.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(s.kubeconfig, kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// rights that `make generate` wrote, given to ERM's user.
func (s *server) rights(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile("../../charts/rbac/erm/role.yaml")
	if err != nil {
		t.Fatalf("run make generate: %v", err)
	}
	for document := range strings.SplitSeq(string(text), "---\n") {
		role := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document), &role.Object); err != nil {
			t.Fatal(err)
		}
		if len(role.Object) == 0 {
			continue
		}
		s.create(t, role)
		meta := metav1.ObjectMeta{Name: role.GetName(), Namespace: role.GetNamespace()}
		subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "testbed:erm"}}
		ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: role.GetKind(), Name: role.GetName()}
		if role.GetNamespace() == "" {
			s.create(t, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, Subjects: subjects, RoleRef: ref})
		} else {
			s.create(t, &rbacv1.RoleBinding{ObjectMeta: meta, Subjects: subjects, RoleRef: ref})
		}
	}
}

func (s *server) create(t *testing.T, o client.Object) {
	t.Helper()
	if err := s.Create(t.Context(), o); err != nil {
		t.Fatalf("create %T %s: %v", o, o.GetName(), err)
	}
}

// start an ERM; stop ends it and waits for its end.
func (s *server) start(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	ready := make(chan error, 16)
	go func() {
		ended <- erm.Run(ctx, slog.New(slog.NewTextHandler(t.Output(), nil)), func(err error) { ready <- err },
			erm.Options{Kubeconfig: s.kubeconfig, Namespace: "fluidos"})
	}()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("erm ended with %v", err)
		}
	}
	t.Cleanup(stop)
	timeout := time.NewTimer(time.Minute)
	defer timeout.Stop()
	for last := error(nil); ; {
		select {
		case last = <-ready:
			if last == nil {
				return stop
			}
		case err := <-ended:
			t.Fatalf("erm ended with %v before it was ready", err)
		case <-timeout.C:
			t.Fatalf("not ready within a minute, last: %v", last)
		}
	}
}

// eventually waits until check returns nothing.
func (s *server) eventually(t *testing.T, what string, check func() string) {
	t.Helper()
	last := ""
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		last = check()
		return last == "", nil
	})
	if err != nil {
		t.Fatalf("%s: %s", what, last)
	}
}

func (s *server) get(t *testing.T, o client.Object, name string) bool {
	t.Helper()
	err := s.Get(t.Context(), client.ObjectKey{Namespace: "fluidos", Name: name}, o)
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

// offer waits until a Flavor is as the check wants it.
func (s *server) offer(t *testing.T, what, name string, check func(sensor.Offer, *nodecore.Flavor) bool) *nodecore.Flavor {
	t.Helper()
	f := &nodecore.Flavor{}
	s.eventually(t, what, func() string {
		*f = nodecore.Flavor{}
		if !s.get(t, f, name) {
			return "no flavor " + name
		}
		o, err := sensor.FromFlavor(f)
		if err != nil {
			return err.Error()
		}
		if !check(o, f) {
			return fmt.Sprintf("last seen %+v", o)
		}
		return ""
	})
	return f
}

// unavailable waits until something speaks against the board of a Flavor, or nothing.
func (s *server) unavailable(t *testing.T, what, name, why string) {
	t.Helper()
	s.offer(t, what, name, func(o sensor.Offer, _ *nodecore.Flavor) bool {
		return o.Available == (why == "") && o.Unavailable == why
	})
}

// device is created as one of this API server's own.
func (s *server) device(t *testing.T, d *devices.Device) *devices.Device {
	t.Helper()
	d.UID, d.CreationTimestamp = "", metav1.Time{}
	s.create(t, d)
	return d
}

// state as the edge reports it.
func (s *server) state(t *testing.T, name, state string) {
	t.Helper()
	edit(t, s, &devices.DeviceStatus{}, name, func(d *devices.DeviceStatus) { d.Status.State = state })
}

// problem as the board's mapper writes it, "" for none.
func (s *server) problem(t *testing.T, name, problem string) {
	t.Helper()
	edit(t, s, &devices.Device{}, name, func(d *devices.Device) {
		if d.Annotations[devices.AnnotationProblem] = problem; problem == "" {
			delete(d.Annotations, devices.AnnotationProblem)
		}
	})
}

func (s *server) withdrawn(t *testing.T, what, name string) {
	t.Helper()
	s.eventually(t, what, func() string {
		if s.get(t, &nodecore.Flavor{}, name) {
			return name + " is still on offer"
		}
		return ""
	})
}

// edit as somebody else, as often as ERM is quicker.
func edit[T client.Object](t *testing.T, s *server, o T, name string, how func(T)) {
	t.Helper()
	s.eventually(t, "edit "+name, func() string {
		if !s.get(t, o, name) {
			return "it is not there"
		}
		how(o)
		err := s.Update(t.Context(), o)
		if err != nil && !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
		if err != nil {
			return err.Error()
		}
		return ""
	})
}

func (s *server) ready(t *testing.T, name string, status corev1.ConditionStatus) {
	t.Helper()
	n := &corev1.Node{}
	if err := s.Get(t.Context(), client.ObjectKey{Name: name}, n); err != nil {
		t.Fatal(err)
	}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status, LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}
	if err := s.Status().Update(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

func (s *server) run(t *testing.T) {
	found := func(sensor.Offer, *nodecore.Flavor) bool { return true }
	odd := strings.Replace(lps22hh, `"uid"`, `"batch":1.50,"big":12345678901234567890,"none":null,"html":"<&>","list":[1e3,null,{"a":null}],"uid"`, 1)
	s.create(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "edge-1"}})
	s.create(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "edge-2"}})
	s.ready(t, "edge-1", corev1.ConditionTrue)
	first := device("b1", "edge-1", hts221, `{"uid":"x","model":"STTS751","type":{"sensorType":[]}}`, odd)
	first.UID = ""
	s.create(t, first)
	stop := s.start(t)

	// Ready without an identity; it offers once there is one.
	s.create(t, identity())
	f := s.offer(t, "the first sensor", offerHTS, func(o sensor.Offer, _ *nodecore.Flavor) bool { return o.Available })
	if o := f.OwnerReferences; len(o) != 1 || o[0].UID != first.UID || o[0].Kind != "Device" {
		t.Errorf("owners: %+v", o)
	}
	s.offer(t, "the sensor after a bad one", offerLPS, found)
	s.eventually(t, "events", func() string {
		var list corev1.EventList
		if err := s.List(t.Context(), &list, client.InNamespace("fluidos")); err != nil {
			t.Fatal(err)
		}
		seen := map[string]string{}
		for _, e := range list.Items {
			seen[e.Reason] += e.Message
		}
		if len(list.Items) != 2 || !strings.HasPrefix(seen["BadSensor"], "$[1].type.sensorType ") || !strings.Contains(seen["UnknownField"], "$[2].batch") {
			return fmt.Sprint(seen)
		}
		return ""
	})

	s.ready(t, "edge-1", corev1.ConditionFalse)
	s.offer(t, "its node is not Ready", offerHTS, func(o sensor.Offer, _ *nodecore.Flavor) bool { return !o.Available })
	s.ready(t, "edge-1", corev1.ConditionTrue)
	s.offer(t, "its node is Ready again", offerHTS, func(o sensor.Offer, _ *nodecore.Flavor) bool { return o.Available })

	edit(t, s, &nodecore.Flavor{}, offerHTS, func(f *nodecore.Flavor) { f.Spec.Price.Amount, f.OwnerReferences = "1000", nil })
	s.offer(t, "an edit is put back", offerHTS, func(_ sensor.Offer, f *nodecore.Flavor) bool {
		return f.Spec.Price.Amount == "0" && len(f.OwnerReferences) == 1
	})
	f = s.offer(t, "before the deletion", offerHTS, found)
	if err := s.Delete(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	s.offer(t, "a deletion is made good", offerHTS, func(_ sensor.Offer, now *nodecore.Flavor) bool { return now.UID != f.UID })

	edit(t, s, &devices.Device{}, "b1", func(d *devices.Device) { d.Spec.NodeName = "edge-2" })
	s.offer(t, "moved", offerLPS, func(o sensor.Offer, _ *nodecore.Flavor) bool { return o.Node == "edge-2" && !o.Available })
	s.offer(t, "moved", offerHTS, func(o sensor.Offer, _ *nodecore.Flavor) bool { return o.Node == "edge-2" && !o.Available })

	edit(t, s, &corev1.ConfigMap{}, "fluidos-node-identity", func(m *corev1.ConfigMap) { m.Data["nodeID"] = "provider-2" })
	for _, name := range []string{offerHTS, offerLPS} {
		s.offer(t, "another identity", name, func(_ sensor.Offer, f *nodecore.Flavor) bool { return f.Spec.ProviderID == "provider-2" })
	}

	// A restart sees all of it again, what the API server made of unknown fields
	// included, and writes nothing: all that is written after it is the one change.
	s.settled(t) // a write that is cut off may be counted later
	stop()
	before := s.settled(t)
	stop = s.start(t)
	edit(t, s, &devices.Device{}, "b1", func(d *devices.Device) {
		d.Annotations = annotation(strings.Replace(hts221, `"12"`, `"20"`, 1), odd)
	})
	s.offer(t, "another latency", offerHTS, func(o sensor.Offer, _ *nodecore.Flavor) bool { return o.Characteristics.Latency == "20" })
	s.eventually(t, "writes after the restart", func() string {
		if n := s.written(t) - before; n != 1 {
			return fmt.Sprintf("%d, want 1", n)
		}
		return ""
	})

	next := s.device(t, device("b2", "edge-1", lps22hh))
	s.offer(t, "a Device added later", offerOf("b2", "lps22hh"), found)

	edit(t, s, &devices.Device{}, "b1", func(d *devices.Device) { d.Annotations = annotation(odd) })
	s.withdrawn(t, "a sensor removed", offerHTS)
	s.offer(t, "the other sensor", offerLPS, found)

	// Availability follows the board, also over a restart.
	name := offerOf("b2", "lps22hh")
	s.create(t, status(next, "online"))
	began := time.Now()
	s.state(t, "b2", "unhealthy")
	s.unavailable(t, "unhealthy", name, "its board is unhealthy")
	t.Logf("state of a board to availability of its Flavor in %s", time.Since(began))
	began = time.Now()
	s.problem(t, "b2", silent)
	s.unavailable(t, "unhealthy, and why", name, silent)
	t.Logf("problem of a board to its Flavor in %s", time.Since(began))
	s.settled(t)
	stop()
	before = s.settled(t)
	stop = s.start(t)
	edit(t, s, &devices.DeviceStatus{}, "b2", func(d *devices.DeviceStatus) {
		value := &devices.TwinProperty{Value: "1"}
		d.Status.Twins = []devices.Twin{{PropertyName: "p", Reported: value, ObservedDesired: value}}
	})
	s.state(t, "b2", "online")
	s.unavailable(t, "online again", name, "")
	s.eventually(t, "writes of Flavors for one change of state", func() string {
		if n := s.written(t) - before; n != 1 {
			return fmt.Sprintf("%d, want 1", n)
		}
		return ""
	})
	// The reason is still there, and the next one before its state.
	s.problem(t, "b2", lost)
	s.state(t, "b2", "offline")
	s.unavailable(t, "offline, and why", name, lost)
	s.problem(t, "b2", "")
	s.unavailable(t, "offline, and nobody knows why", name, "its board is offline")
	s.state(t, "b2", "online")
	s.unavailable(t, "online for good", name, "")

	// Of two boards with one id the later one is not available, until the first goes.
	clone := device("b3", "edge-1", hts221)
	clone.Labels = next.Labels
	s.device(t, clone)
	copied := "b3-" + idOf("b2") + "-hts221"
	s.unavailable(t, "a second board with the id", copied, duplicateID(idOf("b2"), "b2"))
	s.unavailable(t, "the first board with the id", name, "")
	duplicates := func() string {
		var list corev1.EventList
		if err := s.List(t.Context(), &list, client.InNamespace("fluidos"), client.MatchingFields{"reason": "DuplicateBoardID"}); err != nil {
			t.Fatal(err)
		}
		var of []string
		for _, e := range list.Items {
			of = append(of, e.InvolvedObject.Name)
		}
		if got := strings.Join(of, " "); got != "b3" {
			return fmt.Sprintf("Events DuplicateBoardID of %q, want b3", got)
		}
		return ""
	}
	s.eventually(t, "events", duplicates)
	edit(t, s, &devices.Device{}, "b2", func(d *devices.Device) { delete(d.Labels, devices.LabelBoardID) })
	s.unavailable(t, "the first has another id", copied, "")
	s.withdrawn(t, "what the first offered under the id", name)
	s.settled(t) // and ERM has seen that
	edit(t, s, &devices.Device{}, "b2", func(d *devices.Device) { d.Labels = clone.Labels })
	s.unavailable(t, "it has the id again, but later", name, duplicateID(idOf("b2"), "b3"))
	edit(t, s, &devices.Device{}, "b3", func(d *devices.Device) { d.Annotations = nil })
	s.unavailable(t, "the other offers nothing any more", name, "")
	if err := s.Delete(t.Context(), clone); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	next = s.device(t, device("b2", "edge-1", lps22hh))
	s.offer(t, "the Device made anew", name, func(o sensor.Offer, f *nodecore.Flavor) bool { return f.OwnerReferences[0].UID == next.UID })

	// Removed while nobody looks.
	stop()
	if err := s.Delete(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	s.withdrawn(t, "its Device is gone", name)
}

// settled is how many writes there were once no more come.
func (s *server) settled(t *testing.T) int {
	t.Helper()
	last, since := s.written(t), time.Now()
	s.eventually(t, "no more writes", func() string {
		if now := s.written(t); now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) < 2*time.Second {
			return fmt.Sprintf("%d so far", last)
		}
		return ""
	})
	return last
}

// written are the requests that wrote Flavors, as the API server counts them.
func (s *server) written(t *testing.T) int {
	t.Helper()
	text, err := s.discovery.RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "apiserver_request_total{") || !strings.Contains(line, `resource="flavors"`) {
			continue
		}
		for _, verb := range []string{"POST", "PUT", "PATCH", "APPLY", "DELETE"} {
			if strings.Contains(line, `verb="`+verb+`"`) {
				n, err := strconv.Atoi(strings.TrimSpace(line[strings.LastIndex(line, " ")+1:]))
				if err != nil {
					t.Fatal(err)
				}
				total += n
			}
		}
	}
	if total == 0 {
		t.Fatal("the API server counted no write of a Flavor so far")
	}
	return total
}
