package release_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/fluidos-edge/testbed/charts"
	"github.com/fluidos-edge/testbed/testbed/internal/release"
)

var update = flag.Bool("update", false, "rewrite golden files")

const namespace = "fluidos"

// names of all charts of charts.FS.
func names(t *testing.T) []string {
	t.Helper()
	files, err := fs.Glob(charts.FS, "*/Chart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range files {
		if dir, _, _ := strings.Cut(f, "/"); dir != release.Library {
			all = append(all, dir)
		}
	}
	if len(all) < 8 {
		t.Fatalf("charts.FS holds %v only", all)
	}
	return all
}

// values of a chart in its golden test.
func values(t *testing.T, chart string) map[string]any {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", chart+".values.yaml"))
	if err != nil {
		t.Fatalf("every chart has a file of values: %v", err)
	}
	v := map[string]any{}
	if err := yaml.UnmarshalStrict(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func render(t *testing.T, chart string) string {
	t.Helper()
	text, err := release.Render(chart, values(t, chart), namespace)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestGolden(t *testing.T) {
	for _, chart := range names(t) {
		t.Run(chart, func(t *testing.T) {
			got := render(t, chart)
			golden := filepath.Join("testdata", chart+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("manifests differ (-want +got); run with -update if that is meant:\n%s", d)
			}
			if again := render(t, chart); again != got {
				t.Error("a second rendering differs")
			}
		})
	}
}

// decode reads manifests into types that know every field.
func decode(manifest string) ([]runtime.Object, error) {
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	docs := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(manifest)))
	var all []runtime.Object
	for {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		if len(bytes.TrimSpace(doc)) == 0 {
			continue
		}
		o, _, err := decoder.Decode(doc, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, doc)
		}
		all = append(all, o)
	}
}

// objections are what is wrong with the objects of one chart.
func objections(chart string, objects []runtime.Object) []string {
	var all []string
	object := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	accounts := map[string]bool{}
	for _, o := range objects {
		m, err := meta.Accessor(o)
		if err != nil {
			object("%T has no metadata", o)
			continue
		}
		for k, v := range map[string]string{"name": chart, "instance": chart, "component": chart, "part-of": "testbed"} {
			if got := m.GetLabels()["app.kubernetes.io/"+k]; got != v {
				object("%T: label %s is %q", o, k, got)
			}
		}
		scope := namespace
		switch o.(type) {
		case *rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding:
			scope = ""
		}
		if m.GetNamespace() != scope {
			object("%T is in namespace %q", o, m.GetNamespace())
		}
		switch o := o.(type) {
		case *corev1.ServiceAccount:
			accounts[o.Name] = true
		case *corev1.Secret, *corev1.ConfigMap:
		case *appsv1.Deployment:
		case *rbacv1.ClusterRole:
			all = append(all, wildcards(o.Rules)...)
		case *rbacv1.Role:
			all = append(all, wildcards(o.Rules)...)
		case *rbacv1.ClusterRoleBinding, *rbacv1.RoleBinding:
		default:
			object("%T is not for a chart of ours", o)
		}
	}
	for _, o := range objects {
		d, ok := o.(*appsv1.Deployment)
		if !ok {
			continue
		}
		if d.Spec.Replicas == nil || *d.Spec.Replicas != 1 || d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
			object("not one replica at a time")
		}
		pod := d.Spec.Template.Spec
		if !accounts[pod.ServiceAccountName] {
			object("ServiceAccount %q is not the chart's", pod.ServiceAccountName)
		}
		if pod.AutomountServiceAccountToken == nil {
			object("does not say whether it needs a token")
		}
		if g := pod.TerminationGracePeriodSeconds; g == nil || *g > 30 {
			object("takes long to end")
		}
		if pod.HostNetwork && pod.DNSPolicy != corev1.DNSDefault {
			object("on the node's network with other names")
		}
		if pod.HostPID || pod.HostIPC {
			object("shares the node's processes")
		}
		sum := d.Spec.Template.Annotations["checksum/config"]
		for _, v := range pod.Volumes {
			if v.HostPath != nil && (v.HostPath.Type == nil || *v.HostPath.Type != corev1.HostPathDirectory) {
				object("volume %s makes folders on the node", v.Name)
			}
			if v.Secret != nil && (v.Secret.DefaultMode == nil || *v.Secret.DefaultMode != 0o440) {
				object("volume %s: everybody may read the secret", v.Name)
			}
			own := v.ConfigMap != nil || v.Secret != nil && v.Secret.SecretName == d.Name
			if own && sum == "" {
				object("volume %s: a change does not restart the Pod", v.Name)
			}
		}
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			for _, o := range containerObjections(c, pod) {
				object("container %s: %s", c.Name, o)
			}
		}
	}
	return all
}

func wildcards(rules []rbacv1.PolicyRule) []string {
	for _, r := range rules {
		if slices.Contains(slices.Concat(r.APIGroups, r.Resources, r.Verbs), "*") {
			return []string{"is given a wildcard"}
		}
	}
	return nil
}

func containerObjections(c corev1.Container, pod corev1.PodSpec) []string {
	var all []string
	must := func(ok bool, what string) {
		if !ok {
			all = append(all, what)
		}
	}
	s := c.SecurityContext
	if s == nil {
		s = &corev1.SecurityContext{}
	}
	is := func(b *bool, want bool) bool { return b != nil && *b == want }
	must(is(s.RunAsNonRoot, true), "may be root")
	must(s.RunAsUser != nil && *s.RunAsUser > 0, "no user that is not root")
	must(s.RunAsGroup != nil, "no group")
	must(is(s.ReadOnlyRootFilesystem, true), "may write to its image")
	must(is(s.AllowPrivilegeEscalation, false), "may gain rights")
	must(s.Privileged == nil || !*s.Privileged, "is privileged")
	must(s.Capabilities != nil && slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) && len(s.Capabilities.Add) == 0, "has capabilities")
	must(s.SeccompProfile != nil && s.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault, "may do any system call")
	must(c.ImagePullPolicy == corev1.PullIfNotPresent, "pulls an image that is there")
	must(!c.Resources.Requests.Cpu().IsZero() && !c.Resources.Requests.Memory().IsZero(), "requests nothing")
	must(c.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError, "ends without a word")
	must(len(c.Command) > 0, "leaves its program to the image")
	for name, p := range map[string]*corev1.Probe{"liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
		if p == nil {
			must(false, "no "+name+" probe")
			continue
		}
		host := ""
		switch {
		case p.HTTPGet != nil:
			host = p.HTTPGet.Host
		case p.TCPSocket != nil:
			host = p.TCPSocket.Host
		}
		must(host == "" || host == "127.0.0.1" && pod.HostNetwork, name+" probe goes to "+host)
	}
	slices.Sort(all)
	return all
}

// TestObjects holds every chart to what all Pods of ours are: typed, without
// rights they do not need, with probes, restarted by changes.
func TestObjects(t *testing.T) {
	for _, chart := range names(t) {
		t.Run(chart, func(t *testing.T) {
			objects, err := decode(render(t, chart))
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range objections(chart, objects) {
				t.Error(o)
			}
		})
	}
}

// TestRoot holds that only a mapper can be told to be root, and what that adds to what it
// may: two capabilities, nothing else.
func TestRoot(t *testing.T) {
	for _, chart := range names(t) {
		v := values(t, chart)
		v["root"] = true
		text, err := release.Render(chart, v, namespace)
		if (err == nil) != (chart == "mapper") {
			t.Errorf("chart %s as root: %v", chart, err)
		}
		if err != nil {
			continue
		}
		objects, err := decode(text)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"container mapper: has capabilities", "container mapper: may be root", "container mapper: no user that is not root"}
		if d := cmp.Diff(want, objections(chart, objects)); d != "" {
			t.Error(d)
		}
		for _, o := range objects {
			if deployment, ok := o.(*appsv1.Deployment); ok {
				got := deployment.Spec.Template.Spec.Containers[0].SecurityContext.Capabilities
				if d := cmp.Diff(&corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"CHOWN", "DAC_OVERRIDE"}}, got); d != "" {
					t.Error(d)
				}
			}
		}
	}
}

// TestRights holds that rights are in charts/rbac, but for those of KubeEdge's own
// programs, which have no markers.
func TestRights(t *testing.T) {
	for _, chart := range names(t) {
		if text := render(t, chart); strings.Contains(text, "rbac.authorization.k8s.io") && chart != "cloudcore" {
			t.Errorf("chart %s gives rights", chart)
		}
	}
}

// TestTokens holds who may speak to the API server with the Pod's own token.
func TestTokens(t *testing.T) {
	want := map[string]bool{"erm": true, "router": true, "relay": true, "hollowedge": true, "boards": false, "mapper": false, "influxdb": false, "telegraf": false}
	got := map[string]bool{}
	for chart := range want {
		objects, err := decode(render(t, chart))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects {
			if d, ok := o.(*appsv1.Deployment); ok {
				got[chart] = *d.Spec.Template.Spec.AutomountServiceAccountToken
			}
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestObjectionsAreMade is the negative control of TestObjects.
func TestObjectionsAreMade(t *testing.T) {
	careless := os.DirFS("testdata/charts")
	manifest, err := release.RenderFrom(careless, "careless", nil, namespace)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := decode(manifest)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"*v1.Deployment: label component is \"\"", "*v1.Deployment: label instance is \"\"",
		"*v1.Deployment: label name is \"\"", "*v1.Deployment: label part-of is \"\"",
		`ServiceAccount "" is not the chart's`,
		"container careless: ends without a word", "container careless: has capabilities", "container careless: leaves its program to the image",
		"container careless: may be root", "container careless: may do any system call", "container careless: may gain rights",
		"container careless: may write to its image", "container careless: no group", "container careless: no liveness probe",
		"container careless: no readiness probe", "container careless: no user that is not root", "container careless: pulls an image that is there",
		"container careless: requests nothing",
		"container sealed: leaves its program to the image", "container sealed: no liveness probe", "container sealed: no readiness probe", "container sealed: requests nothing",
		"does not say whether it needs a token", "not one replica at a time", "takes long to end",
	}
	got := objections("careless", objects)
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if manifest, err = release.RenderFrom(careless, "careless", map[string]any{"typo": true}, namespace); err != nil {
		t.Fatal(err)
	}
	if _, err := decode(manifest); err == nil || !strings.Contains(err.Error(), `unknown field "daata"`) {
		t.Errorf("decoding a field that does not exist: %v", err)
	}
}

func TestConfigRestarts(t *testing.T) {
	for _, chart := range []string{"influxdb", "telegraf", "boards", "hollowedge"} {
		v := values(t, chart)
		before := render(t, chart)
		v["config"] = v["config"].(string) + "\n"
		after, err := release.Render(chart, v, namespace)
		if err != nil {
			t.Fatal(err)
		}
		if sum(before) == sum(after) || sum(before) == "" {
			t.Errorf("%s: checksum %q, then %q", chart, sum(before), sum(after))
		}
	}
}

func sum(manifest string) string {
	_, rest, _ := strings.Cut(manifest, "checksum/config: ")
	line, _, _ := strings.Cut(rest, "\n")
	return line
}

func TestValues(t *testing.T) {
	tests := []struct {
		name  string
		chart string
		set   map[string]any // nil removes
		want  []string       // of the problems; nil is valid
	}{
		{"as they are", "erm", nil, nil},
		{"without image", "erm", map[string]any{"image": nil}, []string{"missing property 'image'"}},
		{"image with a space", "erm", map[string]any{"image": "a b"}, []string{"image: 'a b' does not match pattern"}},
		{"unknown", "erm", map[string]any{"prize": 1}, []string{"additional properties 'prize' not allowed"}},
		{"unknown inside", "erm", map[string]any{"location": map[string]any{"contry": "Italy"}}, []string{"location: additional properties 'contry' not allowed"}},
		{"text for a number", "influxdb", map[string]any{"port": "8086"}, []string{"port: got string, want integer"}},
		{"number for text", "erm", map[string]any{"price": map[string]any{"amount": 0.5}}, []string{"price.amount: got number, want string"}},
		{"port of nobody", "boards", map[string]any{"health": 70000}, []string{"health: maximum: got 70,000, want 65,535"}},
		{"root", "relay", map[string]any{"runAs": map[string]any{"user": 0, "group": 0}}, []string{"runAs.user: minimum: got 0, want 1"}},
		{"no relay", "router", map[string]any{"relayAdmin": []string{}}, []string{"relayAdmin: minItems: got 0, want 1"}},
		{"relay without scheme", "router", map[string]any{"relayAdmin": []string{"127.0.0.1:8181"}}, []string{"relayAdmin.0: '127.0.0.1:8181' does not match pattern"}},
		{"folder that moves", "mapper", map[string]any{"journalDir": "journals"}, []string{"journalDir: 'journals' does not match pattern"}},
		{"two at once", "mapper", map[string]any{"mqtt": "127.0.0.1:1884", "node": nil}, []string{"missing property 'node'", "mqtt: '127.0.0.1:1884' does not match pattern"}},
		{"toleration of nothing", "boards", map[string]any{"tolerations": []any{map[string]any{"kye": "a"}}}, []string{"tolerations.0: additional properties 'kye' not allowed"}},
		{"not for the library", "boards", map[string]any{"lib": map[string]any{"x": 1}}, []string{"lib: additional properties 'x' not allowed"}},
		{"large user ids stay exact", "relay", map[string]any{"runAs": map[string]any{"user": 1234567890, "group": int64(1234567890)}}, nil},
		{"without the node's network", "router", map[string]any{"hostNetwork": false}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := values(t, tt.chart)
			for k, val := range tt.set {
				if val == nil {
					delete(v, k)
				} else {
					v[k] = val
				}
			}
			text, err := release.Render(tt.chart, v, namespace)
			if tt.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				if _, err := decode(text); err != nil {
					t.Error(err)
				}
				return
			}
			var invalid *release.InvalidValues
			if !errors.As(err, &invalid) {
				t.Fatalf("got %v, want *InvalidValues", err)
			}
			if invalid.Chart != tt.chart || len(invalid.Problems) != len(tt.want) {
				t.Fatalf("chart %s: %q", invalid.Chart, invalid.Problems)
			}
			for _, w := range tt.want {
				if !slices.ContainsFunc(invalid.Problems, func(p string) bool { return strings.HasPrefix(p, w) }) {
					t.Errorf("got %q, want %q", invalid.Problems, w)
				}
			}
		})
	}
}

func TestRefusesWhatIsNoChart(t *testing.T) {
	for _, chart := range []string{"", "crds", release.Library, "nothing", "../charts"} {
		if _, err := release.Render(chart, nil, namespace); err == nil || !strings.Contains(err.Error(), "there is no chart") {
			t.Errorf("%q: %v", chart, err)
		}
	}
}

// TestLint holds what Helm itself thinks of the charts.
func TestLint(t *testing.T) {
	for _, chart := range names(t) {
		t.Run(chart, func(t *testing.T) {
			dir := t.TempDir()
			if err := release.Unpack(dir, chart); err != nil {
				t.Fatal(err)
			}
			for _, m := range lint.All(filepath.Join(dir, chart), values(t, chart), namespace, true).Messages {
				// An icon is for catalogues.
				if m.Severity > support.InfoSev {
					t.Error(m)
				}
			}
		})
	}
}

// TestSchemas holds that every setting is described, none is let through unseen,
// and what charts have in common is the same in all.
func TestSchemas(t *testing.T) {
	common := map[string]any{}
	for _, chart := range names(t) {
		b, err := fs.ReadFile(charts.FS, chart+"/values.schema.json")
		if err != nil {
			t.Fatal(err)
		}
		schema := map[string]any{}
		if err := json.Unmarshal(b, &schema); err != nil {
			t.Fatal(err)
		}
		strict(t, chart, schema)
		properties := schema["properties"].(map[string]any)
		for _, p := range []string{"image", "runAs", "nodeSelector", "tolerations", "priorityClassName", "resources", "lib"} {
			if common[p] == nil {
				common[p] = properties[p]
			}
			if d := cmp.Diff(common[p], properties[p]); d != "" {
				t.Errorf("%s: %s is not as elsewhere:\n%s", chart, p, d)
			}
		}
	}
}

func strict(t *testing.T, path string, schema map[string]any) {
	t.Helper()
	if schema["type"] == "object" && schema["additionalProperties"] == nil && schema["maxProperties"] == nil {
		t.Errorf("%s: anything may be in it", path)
	}
	properties, _ := schema["properties"].(map[string]any)
	for name, p := range properties {
		p := p.(map[string]any)
		if d, _ := p["description"].(string); !strings.HasSuffix(d, ".") {
			t.Errorf("%s.%s: described as %q", path, name, d)
		}
		if p["type"] == nil && p["enum"] == nil {
			t.Errorf("%s.%s: may be of any type", path, name)
		}
		strict(t, path+"."+name, p)
	}
}

func TestPatience(t *testing.T) {
	pod := func(reason string, restarts int32) corev1.Pod {
		p := corev1.Pod{}
		p.Name = "erm-1"
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "erm", RestartCount: restarts,
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}}
		return p
	}
	tests := []struct {
		name string
		pod  corev1.Pod
		at   []time.Duration
		want bool
	}{
		{"an image that may yet come", pod("ImagePullBackOff", 0), []time.Duration{0, release.Patience - 1}, false},
		{"an image that does not come", pod("ImagePullBackOff", 0), []time.Duration{0, release.Patience}, true},
		{"what takes its time", pod("ContainerCreating", 0), []time.Duration{0, 10 * release.Patience}, false},
		{"a few crashes", pod("CrashLoopBackOff", 2), []time.Duration{0, 10 * release.Patience}, false},
		{"crashes without end", pod("CrashLoopBackOff", 5), []time.Duration{0}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := release.GivesUp([]corev1.Pod{tt.pod}, tt.at...); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
