// Package kube installs what a cluster of a testbed holds before any component
// starts: definitions, namespaces, and for each component and consumer exactly
// the rights that charts/rbac gives it. Everything is server-side applied, so a
// second run changes nothing.
package kube

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/yaml"

	"github.com/fluidos-edge/testbed/charts"
	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	rules "github.com/fluidos-edge/testbed/controllers/api/rules/v1"
	sensors "github.com/fluidos-edge/testbed/controllers/api/sensors/v1alpha1"
)

// Namespace holds Devices, Flavors and Rules in a provider.
const Namespace = "fluidos"

const fieldManager = client.FieldOwner("testbed")

// NewScheme knows every type that the testbed reads or writes.
func NewScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, corev1.AddToScheme, rbacv1.AddToScheme, apiextensionsv1.AddToScheme,
		devices.AddToScheme, rules.AddToScheme, nodecore.AddToScheme, sensors.AddToScheme,
	} {
		if err := add(s); err != nil {
			panic(err) // two types of one name: a mistake in this program
		}
	}
	return s
}

// User names of components and consumers in a provider.
func User(component string) string { return "testbed:" + component }

// ConsumerUser is a consumer's name at a provider.
func ConsumerUser(consumer string) string { return "testbed:consumer:" + consumer }

// Kubeconfig is a kubeconfig file's content: it refers to files, and holds no secret.
func Kubeconfig(cluster, server, caFile, user, certFile, keyFile string) ([]byte, error) {
	c := clientcmdapi.NewConfig()
	c.Clusters[cluster] = &clientcmdapi.Cluster{Server: server, CertificateAuthority: caFile}
	c.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificate: certFile, ClientKey: keyFile}
	c.Contexts[cluster] = &clientcmdapi.Context{Cluster: cluster, AuthInfo: user}
	c.CurrentContext = cluster
	return clientcmd.Write(*c)
}

// Client for a kubeconfig file.
func Client(kubeconfig string) (client.Client, error) {
	// controller-runtime complains on stderr unless told where to log; the
	// first caller in a process wins, and what is used here has nothing to say.
	ctrllog.SetLogger(logr.Discard())
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = 200, 400
	cfg.Timeout = 30 * time.Second
	// The server's deprecation warnings concern developers, not users.
	cfg.WarningHandler = rest.NoWarnings{}
	return client.NewWithWatch(cfg, client.Options{Scheme: NewScheme()})
}

// Identity of a provider as a FLUIDOS node.
type Identity struct {
	NodeID, Domain, IP, Port string
}

// Subjects says who a component is in a cluster: those that get its rights.
type Subjects func(component string) []rbacv1.Subject

// Users are components that log in with a certificate.
func Users(component string) []rbacv1.Subject {
	return []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: User(component)}}
}

// ServiceAccount is a component that runs as a Pod.
func ServiceAccount(namespace, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}
}

// Namespaces makes namespaces.
func Namespaces(ctx context.Context, c client.Client, names ...string) error {
	for _, n := range names {
		if err := apply(ctx, c, namespace(n, nil)); err != nil {
			return err
		}
	}
	return nil
}

// PutSecret makes a Secret, or makes it hold what is given.
func PutSecret(ctx context.Context, c client.Client, ns, name string, data map[string][]byte) error {
	return apply(ctx, c, &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Type: corev1.SecretTypeOpaque, Data: data,
	})
}

// InstallProvider makes a cluster ready for the components of a provider.
func InstallProvider(ctx context.Context, c client.Client, id Identity, consumers []string, subjects Subjects) error {
	crds, err := load(charts.FS, "crds")
	if err != nil {
		return err
	}
	roles, err := load(charts.FS, "rbac")
	if err != nil {
		return err
	}
	objects := append([]client.Object{}, crds...)
	objects = append(objects, namespace(Namespace, nil))
	objects = append(objects, roles...)
	for _, r := range roles {
		objects = append(objects, binding(r, subjects))
	}
	objects = append(objects, &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: "fluidos-node-identity"},
		Data:       map[string]string{"nodeID": id.NodeID, "domain": id.Domain, "ip": id.IP, "port": id.Port},
	})
	for _, consumer := range consumers {
		objects = append(objects, consumerObjects(consumer)...)
	}
	for _, o := range objects {
		if err := apply(ctx, c, o); err != nil {
			return err
		}
	}
	return established(ctx, c, crds)
}

// RemoveConsumer removes a consumer's namespace, with its DataPaths and rights.
func RemoveConsumer(ctx context.Context, c client.Client, consumer string) error {
	return client.IgnoreNotFound(c.Delete(ctx, namespace(consumer, nil)))
}

func consumerObjects(consumer string) []client.Object {
	const role = "datapaths"
	return []client.Object{
		namespace(consumer, map[string]string{sensors.LabelConsumer: consumer}),
		&rbacv1.Role{
			TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "Role"},
			ObjectMeta: metav1.ObjectMeta{Namespace: consumer, Name: role},
			Rules: []rbacv1.PolicyRule{{
				APIGroups: []string{sensors.GroupVersion.Group}, Resources: []string{"datapaths"},
				Verbs: []string{"get", "list", "watch", "create", "update", "patch", "delete"},
			}},
		},
		&rbacv1.RoleBinding{
			TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"},
			ObjectMeta: metav1.ObjectMeta{Namespace: consumer, Name: role},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: ConsumerUser(consumer)}},
		},
	}
}

func namespace(name string, labels map[string]string) *corev1.Namespace {
	return &corev1.Namespace{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
	}
}

// binding gives a generated role, which is named for its component, to that component.
func binding(role client.Object, subjectsOf Subjects) client.Object {
	kind := role.GetObjectKind().GroupVersionKind().Kind
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role.GetName()}
	subjects := subjectsOf(role.GetName())
	meta := metav1.ObjectMeta{Namespace: role.GetNamespace(), Name: role.GetName()}
	if kind == "ClusterRole" {
		return &rbacv1.ClusterRoleBinding{
			TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRoleBinding"},
			ObjectMeta: meta, RoleRef: ref, Subjects: subjects,
		}
	}
	return &rbacv1.RoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"},
		ObjectMeta: meta, RoleRef: ref, Subjects: subjects,
	}
}

// load reads all objects of a folder, in the order of their file names.
func load(fsys fs.FS, dir string) ([]client.Object, error) {
	var files []string
	err := fs.WalkDir(fsys, dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && path.Ext(p) == ".yaml" {
			files = append(files, p)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	sort.Strings(files)
	var objects []client.Object
	for _, file := range files {
		b, err := fs.ReadFile(fsys, file)
		if err != nil {
			return nil, err
		}
		docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(b)))
		for {
			doc, err := docs.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			u := &unstructured.Unstructured{}
			if err == nil {
				err = yaml.UnmarshalStrict(doc, &u.Object)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			if len(u.Object) > 0 {
				objects = append(objects, u)
			}
		}
	}
	return objects, nil
}

func apply(ctx context.Context, c client.Client, o client.Object) error {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return err
	}
	u := &unstructured.Unstructured{Object: content}
	delete(u.Object, "status")
	unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
	if err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), fieldManager, client.ForceOwnership); err != nil {
		return fmt.Errorf("install %s %s: %w", u.GetKind(), client.ObjectKeyFromObject(u), err)
	}
	return nil
}

// established waits until the API server serves every definition.
func established(ctx context.Context, c client.Client, crds []client.Object) error {
	var waiting string
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		for _, o := range crds {
			var crd apiextensionsv1.CustomResourceDefinition
			if err := c.Get(ctx, client.ObjectKeyFromObject(o), &crd); err != nil {
				return false, err
			}
			waiting = crd.Name
			ok := false
			for _, cond := range crd.Status.Conditions {
				ok = ok || cond.Type == apiextensionsv1.Established && cond.Status == apiextensionsv1.ConditionTrue
			}
			if !ok {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("definition %s is not served: %w", waiting, err)
	}
	return nil
}
