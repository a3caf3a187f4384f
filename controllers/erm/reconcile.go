package erm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/sensor"
)

// identityName is the ConfigMap with the FLUIDOS node's own identity.
const identityName = "fluidos-node-identity"

// lookAgain is how often ERM looks whether DeviceStatuses are defined by now.
const lookAgain = 5 * time.Second

// Reasons of Events about a Device.
const (
	reasonBadSensor    = "BadSensor"    // it, or all sensors of the board, are not on offer
	reasonUnknownField = "UnknownField" // kept as it is
	// reasonDuplicate: another Device had the same board id first.
	reasonDuplicate = "DuplicateBoardID"
)

// Rights of ERM, and no others.
// +kubebuilder:rbac:groups=devices.kubeedge.io,resources=devices;devicestatuses,verbs=get;list;watch,namespace=fluidos
// +kubebuilder:rbac:groups=nodecore.fluidos.eu,resources=flavors,verbs=get;list;watch;create;update;delete,namespace=fluidos
// +kubebuilder:rbac:groups="",resources=configmaps,resourceNames=fluidos-node-identity,verbs=get;list;watch,namespace=fluidos
// +kubebuilder:rbac:groups="",resources=events,verbs=create,namespace=fluidos
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch

// reconciler makes what is on offer of one Device what is desired.
type reconciler struct {
	client client.Client
	log    *slog.Logger
	opts   Options
	now    func() time.Time
	// statuses: DeviceStatuses are in the cache.
	statuses atomic.Bool

	mu sync.Mutex
	// told is what each Device has an Event about. What goes away and comes back
	// is told again.
	told map[types.NamespacedName]map[string]bool
}

func newReconciler(c client.Client, log *slog.Logger, opts Options, now func() time.Time) *reconciler {
	return &reconciler{client: c, log: log, opts: opts.withDefaults(), now: now, told: map[types.NamespacedName]map[string]bool{}}
}

const (
	byDevice = "device" // indexes Flavors by the Device that owns them
	byBoard  = "board"  // indexes Devices by their board id
)

func indexDevice(o client.Object) []string {
	if name := deviceOf(o.(*nodecore.Flavor)); name != "" {
		return []string{name}
	}
	return nil
}

func indexBoard(o client.Object) []string {
	if id := boardID(o.(*devices.Device)); id != "" {
		return []string{id}
	}
	return nil
}

// setup says what leads to a Reconcile: a changed Device, a change of another with
// its board id, any change of a Flavor of its own, its node becoming Ready or not,
// the identity, and, where DeviceStatuses are defined, its board becoming fit or not.
func (r *reconciler) setup(ctx context.Context, mgr manager.Manager, defined bool) (controller.Controller, error) {
	index := mgr.GetFieldIndexer()
	if err := index.IndexField(ctx, &nodecore.Flavor{}, byDevice, indexDevice); err != nil {
		return nil, err
	}
	if err := index.IndexField(ctx, &devices.Device{}, byBoard, indexBoard); err != nil {
		return nil, err
	}
	b := builder.ControllerManagedBy(mgr).Named("erm").
		For(&devices.Device{}, builder.WithPredicates(deviceChanged())).
		Watches(&devices.Device{}, handler.EnqueueRequestsFromMapFunc(r.devicesOfBoard), builder.WithPredicates(deviceChanged())).
		Watches(&nodecore.Flavor{}, handler.EnqueueRequestsFromMapFunc(deviceOfFlavor)).
		Watches(&nodecore.Flavor{}, handler.EnqueueRequestsFromMapFunc(r.sharersOfFlavor), builder.WithPredicates(comeOrGone())).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(r.devicesOfNode), builder.WithPredicates(readinessChanged())).
		Watches(&corev1.ConfigMap{}, handler.EnqueueRequestsFromMapFunc(r.allDevices), builder.WithPredicates(dataChanged()))
	if defined {
		// Before the first Reconcile, else a restart would take every board for fit.
		r.statuses.Store(true)
		b = b.Watches(&devices.DeviceStatus{}, &handler.EnqueueRequestForObject{}, builder.WithPredicates(stateChanged()))
	}
	return b.Build(r)
}

// follow waits for the definition of DeviceStatus, which KubeEdge has since v1.23,
// and has the controller look at them from then on.
func (r *reconciler) follow(ctx context.Context, c controller.Controller, informers cache.Cache, defined func() (bool, error)) error {
	r.log.Info("no DeviceStatuses are defined: what the edge says of boards is not known")
	err := wait.PollUntilContextCancel(ctx, lookAgain, false, func(context.Context) (bool, error) {
		yes, err := defined()
		return yes && err == nil, nil
	})
	if err == nil {
		_, err = informers.GetInformer(ctx, &devices.DeviceStatus{})
	}
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("devicestatuses: %w", err)
	}
	r.statuses.Store(true)
	r.log.Info("DeviceStatuses are defined now")
	return c.Watch(source.Kind[client.Object](informers, &devices.DeviceStatus{}, &handler.EnqueueRequestForObject{}, stateChanged()))
}

// Reconcile brings the Flavors of one Device in line. It reads from the cache;
// where nothing differs it makes no request.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	device := &devices.Device{}
	err := r.client.Get(ctx, req.NamespacedName, device)
	gone := apierrors.IsNotFound(err)
	if err != nil && !gone {
		return ctrl.Result{}, fmt.Errorf("get device: %w", err)
	}
	var nodes corev1.NodeList
	if err := r.client.List(ctx, &nodes); err != nil {
		return ctrl.Result{}, fmt.Errorf("list nodes: %w", err)
	}
	var owned nodecore.FlavorList
	if err := r.client.List(ctx, &owned, client.InNamespace(req.Namespace), client.MatchingFields{byDevice: req.Name}); err != nil {
		return ctrl.Result{}, fmt.Errorf("list flavors: %w", err)
	}
	identity, unknown := r.identity(ctx)
	var wanted []nodecore.Flavor
	var problems []sensor.Problem
	var first *devices.Device // that has the board's id too
	if !gone {
		var fault string
		if fault, first, err = r.judge(ctx, device); err != nil {
			return ctrl.Result{}, err
		}
		wanted, problems = desired(device, nodes.Items, fault, identity, r.opts)
	}
	if unknown != nil && len(wanted) > 0 {
		r.log.Warn("nothing new goes on offer without an identity", "device", req.Name, "err", unknown)
	}

	left := map[string]*nodecore.Flavor{}
	for i := range owned.Items {
		left[owned.Items[i].Name] = &owned.Items[i]
	}
	var errs []error
	for i := range wanted {
		want := &wanted[i]
		found := left[want.Name]
		delete(left, want.Name)
		if unknown == nil {
			err := r.offer(ctx, want, found)
			if errors.Is(err, errTaken) {
				problems = append(problems, sensor.Problem{Path: "flavor " + want.Name, Message: err.Error(), Fatal: true})
				err = nil
			}
			errs = append(errs, err)
		}
	}
	for _, f := range left {
		errs = append(errs, r.withdraw(ctx, f))
	}
	if gone {
		r.forget(req.NamespacedName)
	} else {
		told := notes(problems)
		if first != nil && device.DeletionTimestamp == nil {
			told = append(told, duplicate(device, first))
		}
		errs = append(errs, r.tell(ctx, device, told))
	}
	return settle(errs)
}

// judge a board by all that is in the cache about it.
func (r *reconciler) judge(ctx context.Context, device *devices.Device) (fault string, first *devices.Device, err error) {
	var sharers devices.DeviceList
	since := map[string]metav1.Time{}
	if id := boardID(device); id != "" {
		if err := r.client.List(ctx, &sharers, client.InNamespace(device.Namespace), client.MatchingFields{byBoard: id}); err != nil {
			return "", nil, fmt.Errorf("list devices of board %s: %w", id, err)
		}
	}
	for i := range sharers.Items {
		d := &sharers.Items[i]
		if len(sharers.Items) == 1 {
			break // as a rule
		}
		var flavors nodecore.FlavorList
		if err := r.client.List(ctx, &flavors, client.InNamespace(d.Namespace), client.MatchingFields{byDevice: d.Name}); err != nil {
			return "", nil, fmt.Errorf("list flavors of %s: %w", d.Name, err)
		}
		if t, ok := offersSince(d, flavors.Items); ok {
			since[d.Name] = t
		}
	}
	var status *devices.DeviceStatus
	if r.statuses.Load() {
		status = &devices.DeviceStatus{}
		err := r.client.Get(ctx, client.ObjectKeyFromObject(device), status)
		switch {
		case apierrors.IsNotFound(err):
			status = nil
		case err != nil:
			return "", nil, fmt.Errorf("get devicestatus: %w", err)
		}
	}
	fault, first = judge(device, status, sharers.Items, since)
	return fault, first, nil
}

// settle tells failures from a cache that is behind: what was written or removed
// meanwhile is seen the next time.
func settle(errs []error) (ctrl.Result, error) {
	var result ctrl.Result
	var failed []error
	for _, err := range errs {
		switch {
		case err == nil:
		case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
			result.RequeueAfter = 200 * time.Millisecond
		default:
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		return ctrl.Result{}, errors.Join(failed...)
	}
	return result, nil
}

// identity of the FLUIDOS node that this provider is.
func (r *reconciler) identity(ctx context.Context) (nodecore.NodeIdentity, error) {
	var m corev1.ConfigMap
	if err := r.client.Get(ctx, client.ObjectKey{Namespace: r.opts.Namespace, Name: identityName}, &m); err != nil {
		return nodecore.NodeIdentity{}, fmt.Errorf("identity: %w", err)
	}
	for _, key := range []string{"nodeID", "domain", "ip"} {
		if m.Data[key] == "" {
			return nodecore.NodeIdentity{}, fmt.Errorf("identity: configmap %s/%s has no %s", m.Namespace, m.Name, key)
		}
	}
	return nodecore.NodeIdentity{NodeID: m.Data["nodeID"], Domain: m.Data["domain"], IP: m.Data["ip"]}, nil
}

// errTaken is a Flavor's name that somebody else's Flavor has.
var errTaken = errors.New("exists and belongs to")

// offer makes or corrects one Flavor. found is what the Device owns under that
// name; without, somebody may have taken the owner away.
func (r *reconciler) offer(ctx context.Context, want, found *nodecore.Flavor) error {
	if found == nil {
		found = &nodecore.Flavor{}
		err := r.client.Get(ctx, client.ObjectKeyFromObject(want), found)
		switch {
		case apierrors.IsNotFound(err):
			if err := r.client.Create(ctx, want, client.FieldOwner("erm")); err != nil {
				return fmt.Errorf("create flavor %s: %w", want.Name, err)
			}
			r.log.Info("on offer", "flavor", want.Name, "available", want.Spec.Availability)
			return nil
		case err != nil:
			return fmt.Errorf("get flavor %s: %w", want.Name, err)
		}
		if o := metav1.GetControllerOf(found); o != nil && o.UID != want.OwnerReferences[0].UID { // else it has just come into the cache
			return fmt.Errorf("%w %s %s", errTaken, o.Kind, o.Name)
		}
	}
	next, differs := merged(found, want)
	if !differs || found.DeletionTimestamp != nil {
		return nil
	}
	if err := r.client.Update(ctx, next, client.FieldOwner("erm")); err != nil {
		return fmt.Errorf("update flavor %s: %w", next.Name, err)
	}
	r.log.Info("offer changed", "flavor", next.Name, "available", next.Spec.Availability)
	return nil
}

// withdraw removes the Flavor of a sensor that is gone.
func (r *reconciler) withdraw(ctx context.Context, f *nodecore.Flavor) error {
	if f.DeletionTimestamp != nil {
		return nil
	}
	err := r.client.Delete(ctx, f, client.Preconditions{UID: &f.UID})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete flavor %s: %w", f.Name, err)
	}
	r.log.Info("no longer on offer", "flavor", f.Name)
	return nil
}

// note is one Event to be.
type note struct {
	reason, message string
	version         string // of what it is about besides the Device
}

func duplicate(device, first *devices.Device) note {
	return note{reasonDuplicate, duplicateMessage(device, first), first.ResourceVersion}
}

// notes turn problems into few Events: one for each bad sensor, up to a number, and one for
// all unknown fields together.
func notes(problems []sensor.Problem) []note {
	const most = 20
	var bad, unknown []string
	for _, p := range problems {
		if p.Fatal {
			bad = append(bad, p.Path+" "+p.Message)
		} else {
			unknown = append(unknown, p.Path)
		}
	}
	var out []note
	for i, message := range bad {
		if i == most {
			out = append(out, note{reason: reasonBadSensor, message: fmt.Sprintf("%d more problems of this annotation are not listed", len(bad)-most)})
			break
		}
		out = append(out, note{reason: reasonBadSensor, message: message})
	}
	if len(unknown) > 0 {
		out = append(out, note{reason: reasonUnknownField, message: "kept, but not known: " + strings.Join(unknown, ", ")})
	}
	return out
}

// tell records an Event on the Device for each note that it does not have one
// for. Events are written here and not by a recorder: that of events.k8s.io folds
// two bad sensors of one board into one Event and drops the second path. Their
// names follow from what they say about which version of the Device, so that a
// restart adds none.
func (r *reconciler) tell(ctx context.Context, device *devices.Device, notes []note) error {
	key := client.ObjectKeyFromObject(device)
	r.mu.Lock()
	before := r.told[key]
	r.mu.Unlock()
	now := map[string]bool{}
	var errs []error
	for _, n := range notes {
		id := string(device.UID) + "\x00" + n.reason + "\x00" + n.message
		if !before[id] {
			if err := r.record(ctx, device, n, id); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		now[id] = true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.told[key] = now; len(now) == 0 {
		delete(r.told, key)
	}
	return errors.Join(errs...)
}

func (r *reconciler) record(ctx context.Context, device *devices.Device, n note, id string) error {
	const longest = 1024 // of an Event's message, in bytes
	message := n.message
	if len(message) > longest {
		message = strings.ToValidUTF8(message[:longest-3], "") + "..."
	}
	sum := sha256.Sum256([]byte(device.ResourceVersion + "\x00" + n.version + "\x00" + id))
	at := metav1.NewTime(r.now())
	err := r.client.Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: device.Namespace, Name: device.Name + "." + hex.EncodeToString(sum[:8])},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: devices.GroupVersion.String(), Kind: "Device", Namespace: device.Namespace,
			Name: device.Name, UID: device.UID, ResourceVersion: device.ResourceVersion,
		},
		Type: corev1.EventTypeWarning, Reason: n.reason, Message: message, Count: 1,
		FirstTimestamp: at, LastTimestamp: at,
		Source: corev1.EventSource{Component: "erm"}, ReportingController: "erm", ReportingInstance: "erm", Action: "Offer",
	})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("event on device %s: %w", device.Name, err)
	}
	r.log.Warn("device", "device", device.Name, "reason", n.reason, "message", message)
	return nil
}

func (r *reconciler) forget(device types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.told, device)
}

func deviceOfFlavor(_ context.Context, o client.Object) []reconcile.Request {
	f, ok := o.(*nodecore.Flavor)
	if !ok || deviceOf(f) == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: f.Namespace, Name: deviceOf(f)}}}
}

func (r *reconciler) devicesOfNode(ctx context.Context, o client.Object) []reconcile.Request {
	return r.devicesWhere(ctx, func(d *devices.Device) bool { return r.opts.Nodes != nil || d.Spec.NodeName == o.GetName() })
}

// devicesOfBoard are the others with the board id of a Device.
func (r *reconciler) devicesOfBoard(ctx context.Context, o client.Object) []reconcile.Request {
	d, ok := o.(*devices.Device)
	if !ok || boardID(d) == "" {
		return nil
	}
	return r.devicesWhere(ctx, func(other *devices.Device) bool { return other.Name != d.Name }, client.MatchingFields{byBoard: boardID(d)})
}

// sharersOfFlavor are the others with the board id of the Device that owns a Flavor: who had
// the id first goes by Flavors.
func (r *reconciler) sharersOfFlavor(ctx context.Context, o client.Object) []reconcile.Request {
	f, ok := o.(*nodecore.Flavor)
	if !ok || deviceOf(f) == "" {
		return nil
	}
	d := &devices.Device{}
	if err := r.client.Get(ctx, client.ObjectKey{Namespace: f.Namespace, Name: deviceOf(f)}, d); err != nil {
		return nil // a Device that is gone shares no more
	}
	return r.devicesOfBoard(ctx, d)
}

func (r *reconciler) allDevices(ctx context.Context, _ client.Object) []reconcile.Request {
	return r.devicesWhere(ctx, func(*devices.Device) bool { return true })
}

func (r *reconciler) devicesWhere(ctx context.Context, wanted func(*devices.Device) bool, among ...client.ListOption) []reconcile.Request {
	var all devices.DeviceList
	if err := r.client.List(ctx, &all, append(among, client.InNamespace(r.opts.Namespace))...); err != nil {
		r.log.Error("list devices", "err", err)
		return nil
	}
	var out []reconcile.Request
	for i := range all.Items {
		if wanted(&all.Items[i]) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&all.Items[i])})
		}
	}
	return out
}

// deviceChanged lets pass what judge and desired read of a Device, and another Device
// of the same name.
func deviceChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, after := e.ObjectOld, e.ObjectNew
		return before.GetUID() != after.GetUID() ||
			before.GetGeneration() != after.GetGeneration() ||
			before.GetAnnotations()[devices.AnnotationSensors] != after.GetAnnotations()[devices.AnnotationSensors] ||
			problemOf(before) != problemOf(after) ||
			before.GetLabels()[devices.LabelBoardID] != after.GetLabels()[devices.LabelBoardID] ||
			(before.GetDeletionTimestamp() == nil) != (after.GetDeletionTimestamp() == nil)
	}}
}

// comeOrGone lets no change pass but that something is there or is not.
func comeOrGone() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(event.UpdateEvent) bool { return false }}
}

// readinessChanged lets pass what changes whether a node is Ready: heartbeats do not.
func readinessChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok := e.ObjectOld.(*corev1.Node)
		after, ok2 := e.ObjectNew.(*corev1.Node)
		return ok && ok2 && isReady(before) != isReady(after)
	}}
}

// stateChanged lets pass what changes whether a DeviceStatus speaks against its board:
// twins, of which most writes are, do not.
func stateChanged() predicate.Predicate {
	says := func(o client.Object) (says struct {
		of   types.UID
		word string
	}) {
		if s, ok := o.(*devices.DeviceStatus); ok {
			if owner := metav1.GetControllerOf(s); owner != nil {
				says.of = owner.UID
			}
			says.word = ailing(says.of, s)
		}
		return says
	}
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool { return says(e.ObjectOld) != says(e.ObjectNew) }}
}

func dataChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok := e.ObjectOld.(*corev1.ConfigMap)
		after, ok2 := e.ObjectNew.(*corev1.ConfigMap)
		return ok && ok2 && !reflect.DeepEqual(before.Data, after.Data)
	}}
}

// slim is what the cache keeps of an object: of a DeviceStatus the state and the owner.
func slim(o any) (any, error) {
	s, ok := o.(*devices.DeviceStatus)
	if !ok {
		return cache.TransformStripManagedFields()(o)
	}
	return &devices.DeviceStatus{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name, UID: s.UID, ResourceVersion: s.ResourceVersion, OwnerReferences: s.OwnerReferences},
		Status:     devices.DeviceStatusStatus{State: s.Status.State},
	}, nil
}

// onlyReadiness is all that the cache keeps of a Node.
func onlyReadiness(o any) (any, error) {
	n, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	kept := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion, Labels: n.Labels}}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			kept.Status.Conditions = append(kept.Status.Conditions, c)
		}
	}
	return kept, nil
}
