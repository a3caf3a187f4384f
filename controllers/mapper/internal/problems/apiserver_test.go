package problems_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	"github.com/fluidos-edge/testbed/controllers/mapper/internal/problems"
)

// TestAPIServer writes with the rights that are generated for a mapper to a real API
// server, beside a registration by server-side apply. TESTBED_ASSETS is a folder with
// etcd and kube-apiserver.
func TestAPIServer(t *testing.T) {
	assets := os.Getenv("TESTBED_ASSETS")
	if assets == "" {
		t.Skip("TESTBED_ASSETS is not set: not tried against a real API server")
	}
	const charts = "../../../../charts/"
	scheme := runtime.NewScheme()
	if err := errors.Join(devices.AddToScheme(scheme), corev1.AddToScheme(scheme), rbacv1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	crd, err := filepath.Abs(charts + "crds/devices.kubeedge.io_devices.yaml")
	if err != nil {
		t.Fatal(err)
	}
	e := &envtest.Environment{BinaryAssetsDirectory: assets, CRDDirectoryPaths: []string{crd}, ErrorIfCRDPathMissing: true, Scheme: scheme}
	config, err := e.Start()
	if err != nil {
		t.Fatalf("API server of %s: %v", assets, err)
	}
	t.Cleanup(func() {
		if err := e.Stop(); err != nil {
			t.Errorf("stop API server: %v", err)
		}
	})
	admin, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(charts + "rbac/mapper/role.yaml")
	if err != nil {
		t.Fatalf("run make generate: %v", err)
	}
	role := &rbacv1.Role{}
	if err := yaml.Unmarshal([]byte(strings.TrimPrefix(string(text), "---\n")), role); err != nil {
		t.Fatal(err)
	}
	for _, o := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: role.Namespace}}, role,
		&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: role.Name, Namespace: role.Namespace},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "testbed:mapper"}},
		},
	} {
		if err := admin.Create(t.Context(), o); err != nil {
			t.Fatalf("create %T %s: %v", o, o.GetName(), err)
		}
	}
	user, err := e.AddUser(envtest.User{Name: "testbed:mapper"}, &rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	mapper, err := client.New(user.Config(), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}

	// register as the mapper does.
	register := func() {
		t.Helper()
		o := device("a", "")
		o.TypeMeta = metav1.TypeMeta{APIVersion: devices.GroupVersion.String(), Kind: "Device"}
		m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
		if err != nil {
			t.Fatal(err)
		}
		apply := client.ApplyConfigurationFromUnstructured(&unstructured.Unstructured{Object: m})
		if err := mapper.Apply(t.Context(), apply, client.FieldOwner("mapper"), client.ForceOwnership); err != nil {
			t.Fatal(err)
		}
	}
	until := func(what, problem string) *devices.Device {
		t.Helper()
		d := &devices.Device{}
		err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
			if err := admin.Get(ctx, client.ObjectKey{Namespace: "fluidos", Name: "a"}, d); err != nil {
				return false, client.IgnoreNotFound(err)
			}
			is, there := d.Annotations[devices.AnnotationProblem]
			return is == problem && there == (problem != ""), nil
		})
		if err != nil {
			t.Fatalf("%s: %v; last seen %v", what, err, d.Annotations)
		}
		return d
	}
	w := problems.New(problems.Options{Client: mapper, Namespace: "fluidos", Node: "edge-1", Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Pause: 20 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})

	w.Set("a", silent)
	register()
	before := until("after it is registered", silent)
	register()
	if after := until("registered again", silent); after.ResourceVersion != before.ResourceVersion || after.Generation != 1 {
		t.Errorf("registered again: version %s, before %s; generation %d", after.ResourceVersion, before.ResourceVersion, after.Generation)
	}
	w.Set("a", "")
	until("well", "")
	for d := before; ; { // as an earlier mapper, of another version
		d.Annotations[devices.AnnotationProblem] = "BoardLost: long ago"
		err := admin.Update(t.Context(), d)
		if err == nil {
			break
		}
		if !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
		d = until("well", "")
	}
	w.Set("a", "")
	if d := until("somebody else's", ""); d.Annotations[devices.AnnotationSensors] != "W10=" || d.Spec.NodeName != "edge-1" {
		t.Errorf("the rest of the Device: %+v", d)
	}
}
