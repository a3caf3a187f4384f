package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
	"github.com/fluidos-edge/testbed/scenarios/ledger"
)

const (
	// lookEvery is how often DataPaths and journals are looked at.
	lookEvery = 100 * time.Millisecond
	// servedDeadline: a Rule that KubeEdge lost is made again after 30 s.
	servedDeadline = 90 * time.Second
	// removeDeadline bounds the removal of DataPaths, also after an interrupt.
	removeDeadline = 15 * time.Second
	// maxIn is how many values one requirement may list.
	maxIn = 64
)

// wish is one DataPath of a run, and what it should select.
type wish struct {
	// part that it plays in its scenario: "s1", "l2", "witness".
	part string

	name, provider, consumer string
	endpoints                []Endpoint
	requirements             []sensors.Requirement
	want                     []Sensor

	// What was last seen of it.
	seen    *sensors.DataPath
	problem string // how its selection is wrong, "" if it is not or not yet known
}

func (w *wish) String() string { return w.consumer + "/" + w.name + " at " + w.provider }

func (w *wish) is(part string) bool { return w.part == part }

// streams that it should bring about.
func (w *wish) streams() []ledger.Stream {
	var out []ledger.Stream
	for _, e := range w.endpoints {
		for _, s := range w.want {
			out = append(out, ledger.Stream{Endpoint: w.consumer + "/" + e.Name, UID: s.UID})
		}
	}
	return out
}

// condition of the generation that was asked for.
func (w *wish) condition(name string) (metav1.Condition, bool) {
	if w.seen == nil {
		return metav1.Condition{}, false
	}
	c := apimeta.FindStatusCondition(w.seen.Status.Conditions, name)
	if c == nil || c.ObservedGeneration != w.seen.Generation {
		return metav1.Condition{}, false
	}
	return *c, true
}

// served: the data of all that it should select arrives at its endpoints; or, if that
// is nothing, its status says so.
func (w *wish) served() bool {
	matched, ok := w.condition(sensors.ConditionMatched)
	if len(w.want) == 0 {
		return ok && matched.Status == metav1.ConditionFalse
	}
	ready, isKnown := w.condition(sensors.ConditionReady)
	return ok && isKnown && matched.Status == metav1.ConditionTrue && ready.Status == metav1.ConditionTrue
}

// describe what was last seen.
func (w *wish) describe() string {
	ready, ok := w.condition(sensors.ConditionReady)
	switch {
	case w.seen == nil:
		return fmt.Sprintf("DataPath %s is not there", w)
	case !ok:
		return fmt.Sprintf("DataPath %s has no status yet", w)
	}
	return fmt.Sprintf("DataPath %s: Ready is %s: %s: %s", w, ready.Status, ready.Reason, ready.Message)
}

// compare what a DataPath selects with what it should, and where that is on offer.
func (e *Env) compare(w *wish, offers map[string][]string) string {
	if _, ok := w.condition(sensors.ConditionMatched); !ok {
		return ""
	}
	st := w.seen.Status
	want := map[string]bool{}
	for _, s := range w.want {
		want[s.name()] = true
	}
	var extra, absent []string
	for _, name := range st.Sensors {
		if !want[name] {
			extra = append(extra, e.labelName(w.provider, name))
		}
	}
	if st.Matched == len(st.Sensors) { // else the list is cut off
		for _, s := range w.want {
			if !slices.Contains(st.Sensors, s.name()) {
				absent = append(absent, s.String())
			}
		}
	}
	if st.Matched != len(want) || len(extra)+len(absent) > 0 {
		text := fmt.Sprintf("DataPath %s selects %d sensors, %d expected", w, st.Matched, len(want))
		if len(extra) > 0 {
			text += "; too many: " + strings.Join(extra, ", ")
		}
		if len(absent) > 0 {
			text += "; missing: " + strings.Join(absent, ", ")
		}
		return text
	}
	for _, s := range w.want {
		if on := offers[w.provider+"/"+s.name()]; len(on) != 1 || !slices.Contains(s.Nodes, on[0]) {
			return fmt.Sprintf("%s offers %s on nodes [%s]; its board is heard by [%s] and is one offer",
				w.provider, s, strings.Join(on, ", "), strings.Join(s.Nodes, ", "))
		}
	}
	return ""
}

// object to create.
func (w *wish) object(run string) *sensors.DataPath {
	dp := &sensors.DataPath{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.consumer, Name: w.name, Labels: map[string]string{sensors.LabelRun: run}},
		Spec:       sensors.DataPathSpec{Sensors: w.requirements},
	}
	for _, e := range w.endpoints {
		dp.Spec.Endpoints = append(dp.Spec.Endpoints, sensors.Endpoint{Name: e.Name, URL: e.URL})
	}
	return dp
}

// byUID wishes for sensors one by one, so many DataPaths as that takes.
func byUID(part, name, consumer string, endpoints []Endpoint, want []Sensor) []*wish {
	var out []*wish
	for _, provider := range providersOf(want) {
		own := where(want, of(provider))
		for i, chunk := 0, 1; i < len(own); i, chunk = i+maxIn, chunk+1 {
			some := own[i:min(i+maxIn, len(own))]
			w := &wish{part: part, name: name, provider: provider, consumer: consumer, endpoints: endpoints, want: some,
				requirements: []sensors.Requirement{{Field: "uid", In: uids(some)}}}
			if chunk > 1 {
				w.name = fmt.Sprintf("%s-%d", name, chunk)
			}
			out = append(out, w)
		}
	}
	return out
}

func providersOf(all []Sensor) []string {
	var out []string
	for _, s := range all {
		if !slices.Contains(out, s.Provider) {
			out = append(out, s.Provider)
		}
	}
	return out
}

// lock keeps other runs out of this testbed.
func (e *Env) lock(ctx context.Context) (unlock func(), err error) {
	if e.LockFile == "" {
		return func() {}, nil
	}
	l := flock.New(e.LockFile)
	if _, err := l.TryLockContext(ctx, lookEvery); err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("lock %s: %w", e.LockFile, err)
	} else if err != nil {
		return nil, fmt.Errorf("another run of the scenarios is under way on testbed %s (lock %s): %w", e.Testbed, e.LockFile, err)
	}
	return func() { _ = l.Close() }, nil
}

// eachNamespace calls f with every consumer's namespace in every provider.
func (e *Env) eachNamespace(f func(p Provider, consumer string, c client.Client) error) error {
	for _, p := range e.Providers {
		for _, consumer := range e.Consumers {
			c := p.DataPaths[consumer.Name]
			if c == nil {
				return fmt.Errorf("no credentials of %s at %s", consumer.Name, p.Name)
			}
			if err := f(p, consumer.Name, c); err != nil {
				return fmt.Errorf("DataPaths of %s at %s: %w", consumer.Name, p.Name, err)
			}
		}
	}
	return nil
}

// removeRuns removes the DataPaths of this and, as the lock is ours, of all
// earlier runs, and waits until they are gone.
func (e *Env) removeRuns(ctx context.Context) error {
	return poll(ctx, lookEvery, removeDeadline, "DataPaths of runs to be gone", func(ctx context.Context) (bool, string, error) {
		left := ""
		err := e.eachNamespace(func(p Provider, consumer string, c client.Client) error {
			var list sensors.DataPathList
			if err := c.List(ctx, &list, client.InNamespace(consumer), client.HasLabels{sensors.LabelRun}); err != nil {
				return err
			}
			for i := range list.Items {
				left = fmt.Sprintf("%s/%s at %s is there", consumer, list.Items[i].Name, p.Name)
				if list.Items[i].DeletionTimestamp != nil {
					continue
				}
				if err := c.Delete(ctx, &list.Items[i]); client.IgnoreNotFound(err) != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return false, err.Error(), nil
		}
		return left == "", left, nil
	})
}

func (e *Env) create(ctx context.Context, wishes []*wish) error {
	for _, w := range wishes {
		c := e.providerNamed(w.provider).DataPaths[w.consumer]
		if c == nil {
			return fmt.Errorf("no credentials of %s at %s", w.consumer, w.provider)
		}
		w.seen, w.problem = nil, ""
		if err := c.Create(ctx, w.object(e.Run)); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create DataPath %s: %w", w, err)
		}
	}
	return nil
}

// remove the DataPaths of some wishes, and wait until they are gone.
func (e *Env) remove(ctx context.Context, wishes []*wish) error {
	return poll(ctx, lookEvery, removeDeadline, "DataPaths to be gone", func(ctx context.Context) (bool, string, error) {
		left := ""
		for _, w := range wishes {
			c := e.providerNamed(w.provider).DataPaths[w.consumer]
			dp := w.object(e.Run)
			err := c.Get(ctx, client.ObjectKeyFromObject(dp), dp)
			switch {
			case apierrors.IsNotFound(err):
				continue
			case err == nil && dp.DeletionTimestamp == nil:
				err = client.IgnoreNotFound(c.Delete(ctx, dp))
			}
			if left = w.String() + " is there"; err != nil {
				left = fmt.Sprintf("%s: %v", w, err)
			}
		}
		return left == "", left, nil
	})
}

// providerNamed is a provider by its name; its zero value if there is none.
func (e *Env) providerNamed(name string) Provider {
	i := slices.IndexFunc(e.Providers, func(p Provider) bool { return p.Name == name })
	if i < 0 {
		return Provider{}
	}
	return e.Providers[i]
}

// look at what became of the wishes.
func (e *Env) lookAt(ctx context.Context, wishes []*wish) error {
	return e.eachNamespace(func(p Provider, consumer string, c client.Client) error {
		var list sensors.DataPathList
		if err := c.List(ctx, &list, client.InNamespace(consumer), client.MatchingLabels{sensors.LabelRun: e.Run}); err != nil {
			return err
		}
		for _, w := range wishes {
			if w.provider != p.Name || w.consumer != consumer {
				continue
			}
			w.seen = nil
			for i := range list.Items {
				if list.Items[i].Name == w.name {
					w.seen = &list.Items[i]
				}
			}
		}
		return nil
	})
}

// offers are the nodes that each sensor is on offer on, by
// "<provider>/<device>/<part>".
func (e *Env) offers(ctx context.Context) (map[string][]string, error) {
	out := map[string][]string{}
	for _, p := range e.Providers {
		var list nodecore.FlavorList
		if err := p.Admin.List(ctx, &list, client.InNamespace(p.Namespace)); err != nil {
			return nil, fmt.Errorf("flavors of %s: %w", p.Name, err)
		}
		for _, f := range list.Items {
			if f.Spec.FlavorType.TypeIdentifier == nodecore.TypeSensor && f.DeletionTimestamp == nil {
				key := p.Name + "/" + f.Labels[nodecore.LabelDevice] + "/" + f.Labels[nodecore.LabelPart]
				out[key] = append(out[key], f.Labels[nodecore.LabelNode])
			}
		}
	}
	return out, nil
}

// await until all wishes are served. If some select what they should not, their
// problem is set, and it returns without an error once that has lasted, served or
// not: it may have been about to be corrected. Everything else is an error.
func (e *Env) await(ctx context.Context, wishes []*wish) error {
	var wrongSince, offersAt time.Time
	var offers map[string][]string
	return poll(ctx, lookEvery, servedDeadline, "DataPaths to be served", func(ctx context.Context) (bool, string, error) {
		now := time.Now()
		if err := e.lookAt(ctx, wishes); err != nil {
			return false, err.Error(), nil
		}
		if now.Sub(offersAt) > 10*lookEvery {
			var err error
			if offers, err = e.offers(ctx); err != nil {
				return false, err.Error(), nil
			}
			offersAt = now
		}
		waiting, problem, stuck := "", "", true
		for _, w := range wishes {
			if w.problem = e.compare(w, offers); w.problem != "" {
				problem = w.problem
			}
			if !w.served() {
				waiting, stuck = w.describe(), stuck && w.problem != ""
			}
		}
		if problem == "" {
			wrongSince = time.Time{}
			return waiting == "", waiting, nil
		}
		if wrongSince.IsZero() {
			wrongSince = now
		}
		lasts := now.Sub(wrongSince)
		return waiting == "" && lasts >= e.Patience || stuck && lasts >= 2*e.Patience, problem + "; " + waiting, nil
	})
}

// others tells which of other people's DataPaths ("<namespace>/<name>") deliver to the
// sinks of this testbed, by stream. What they select is taken from their status; where
// that does not tell, everything at their endpoints counts as theirs: a stream without
// uid.
func (e *Env) others(ctx context.Context) (map[ledger.Stream][]string, error) {
	uidOf := map[string]string{}
	for _, s := range e.Sensors {
		uidOf[s.Provider+"/"+s.name()] = s.UID
	}
	endpointsAt := map[string]string{}
	for _, c := range e.Consumers {
		for _, ep := range c.Endpoints {
			endpointsAt[ep.URL] = c.Name + "/" + ep.Name
		}
	}
	out := map[ledger.Stream][]string{}
	err := e.eachOther(ctx, func(p Provider, dp *sensors.DataPath) {
		var selected []string
		all := len(dp.Status.Conditions) == 0 || dp.Status.Matched != len(dp.Status.Sensors)
		for _, name := range dp.Status.Sensors {
			uid := uidOf[p.Name+"/"+name]
			selected, all = append(selected, uid), all || uid == ""
		}
		if all {
			selected = append(selected, "")
		}
		for _, ep := range dp.Spec.Endpoints {
			at, ours := endpointsAt[ep.URL]
			if !ours {
				continue
			}
			for _, uid := range selected {
				stream := ledger.Stream{Endpoint: at, UID: uid}
				out[stream] = append(out[stream], dp.Namespace+"/"+dp.Name)
			}
		}
	})
	return out, err
}

// eachOther calls f with every DataPath that is no run's.
func (e *Env) eachOther(ctx context.Context, f func(p Provider, dp *sensors.DataPath)) error {
	return e.eachNamespace(func(p Provider, consumer string, c client.Client) error {
		var list sensors.DataPathList
		if err := c.List(ctx, &list, client.InNamespace(consumer)); err != nil {
			return err
		}
		for i := range list.Items {
			if list.Items[i].Labels[sensors.LabelRun] == "" {
				f(p, &list.Items[i])
			}
		}
		return nil
	})
}

// selectedByOthers are the sensors ("<provider>/<device>/<part>") that other people's
// DataPaths select; unlisted is a DataPath whose status does not tell all of them.
func (e *Env) selectedByOthers(ctx context.Context) (selected map[string]bool, unlisted string, err error) {
	selected = map[string]bool{}
	err = e.eachOther(ctx, func(p Provider, dp *sensors.DataPath) {
		if dp.Status.Matched != len(dp.Status.Sensors) || len(dp.Status.Conditions) == 0 {
			unlisted = dp.Namespace + "/" + dp.Name
		}
		for _, name := range dp.Status.Sensors {
			selected[p.Name+"/"+name] = true
		}
	})
	return selected, unlisted, err
}

// poll calls f until it is done. Its error after the deadline says what was
// waited for and what was last observed.
func poll(ctx context.Context, every, deadline time.Duration, what string, f func(context.Context) (done bool, observed string, err error)) error {
	observed := "nothing"
	var failed error
	err := wait.PollUntilContextTimeout(ctx, every, deadline, true, func(ctx context.Context) (bool, error) {
		done, now, err := f(ctx)
		if now != "" && ctx.Err() == nil { // else it tells of the deadline only
			observed = now
		}
		failed = err
		return done, err
	})
	switch {
	case err == nil:
		return nil
	case failed != nil && errors.Is(err, failed):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("%w while waiting for %s; last observed: %s", ctx.Err(), what, observed)
	}
	return fmt.Errorf("waited %s for %s; last observed: %s", deadline, what, observed)
}
