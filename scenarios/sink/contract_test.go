package sink_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	influxhttp "github.com/influxdata/influxdb-client-go/v2/api/http"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"

	"github.com/fluidos-edge/testbed/scenarios/ledger"
	"github.com/fluidos-edge/testbed/scenarios/sink"
)

// registryVariable, set to 1, makes images that cannot be pulled an error.
const registryVariable = "TESTBED_REGISTRY"

const (
	bucket = "sensors/autogen"
	// Within this a sample is in the journal and stored, and a sink answers.
	sinkDeadline = time.Minute
)

// TestContract holds what the scenarios and the relay take for granted of a sink
// against every sink that can be had here: those of published images, those of the
// images that are built where there is no registry, and plain processes.
func TestContract(t *testing.T) {
	t.Run("InfluxDB 2.7 and Telegraf 1.37 as published", func(t *testing.T) {
		contract(t, startContainers(t, "docker.io/library/influxdb:2.7", "docker.io/library/telegraf:1.37", influx2))
	})
	t.Run("InfluxDB 1.8 and Telegraf 1.37 as published", func(t *testing.T) {
		contract(t, startContainers(t, "docker.io/library/influxdb:1.8", "docker.io/library/telegraf:1.37", influx1))
	})
	t.Run("images that were built for kind", func(t *testing.T) {
		contract(t, startContainers(t, built(t, "testbed/influxdb"), built(t, "testbed/telegraf"), influx1))
	})
	t.Run("processes", func(t *testing.T) {
		contract(t, startProcesses(t))
	})
}

// running is a sink with endpoints a and b, and an InfluxDB that has what Telegraf writes.
type running struct {
	endpoints map[string]string // URL by name
	influx    string            // URL
	reader    string            // token
	journal   string            // file
	// refresh brings the file up to date, where it is a copy.
	refresh func(context.Context) error
}

func contract(t *testing.T, s running) {
	ctx := t.Context()
	now := time.Now()
	line := func(seq int) string {
		return fmt.Sprintf("environmental,device=d,node=edge-1,part=hts221,uid=u1 humidity_percent=%d.5,temperature_celsius=23,epoch=%di,seq=%di %d\n",
			40+seq, now.UnixNano(), seq, now.UnixNano()+int64(seq))
	}
	want := func(endpoint string, seq int) ledger.Sample {
		t.Helper()
		sample, err := sink.ParseLine([]byte(line(seq)))
		if err != nil {
			t.Fatal(err)
		}
		sample.Endpoint = endpoint
		return sample
	}
	post := func(endpoint, body string, want int) {
		t.Helper()
		resp, err := send(ctx, http.MethodPost, s.endpoints[endpoint], "", "text/plain; charset=utf-8", body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.status != want {
			t.Fatalf("endpoint %s answered %d %s, want %d", endpoint, resp.status, resp.body, want)
		}
	}
	journal, err := sink.Tail(s.journal)
	if err != nil {
		t.Fatal(err)
	}
	store := sink.NewStore(s.influx, s.reader, "-", bucket)
	defer store.Close()

	// Four POSTs of three samples; one comes twice, as after an answer that was lost.
	post("a", line(1), http.StatusNoContent)
	post("a", line(2), http.StatusNoContent)
	post("a", line(2), http.StatusNoContent)
	// One bad line takes all lines of its POST with it, which is why the relay bisects.
	post("a", line(4)+"no line protocol\n", http.StatusBadRequest)
	post("b", line(3), http.StatusNoContent)

	var arrived, stored []ledger.Sample
	await(t, "four arrivals and three points", func() error {
		if s.refresh != nil {
			if err := s.refresh(ctx); err != nil {
				return err
			}
		}
		more, err := journal.Read()
		if err != nil {
			return err
		}
		arrived = append(arrived, more...)
		if stored, err = store.Stored(ctx, now.Add(-time.Minute)); err != nil {
			return err
		}
		if len(arrived) < 4 || len(stored) < 3 {
			return fmt.Errorf("%d arrivals, %d points", len(arrived), len(stored))
		}
		return nil
	})
	ordered := func(samples []ledger.Sample) []ledger.Sample {
		return slices.SortedFunc(slices.Values(samples), func(a, b ledger.Sample) int {
			return cmp.Or(strings.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Seq, b.Seq))
		})
	}
	if diff := gocmp.Diff([]ledger.Sample{want("a", 1), want("a", 2), want("a", 2), want("b", 3)}, ordered(arrived)); diff != "" {
		t.Errorf("journal (-want +got):\n%s", diff)
	}
	if diff := gocmp.Diff([]ledger.Sample{want("a", 1), want("a", 2), want("b", 3)}, ordered(stored)); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
	if n := journal.Skipped(); n > 0 {
		t.Errorf("%d lines of the journal are no samples", n)
	}
	only, err := store.Stored(ctx, now.Add(-time.Minute), "b")
	if diff := gocmp.Diff([]ledger.Sample{want("b", 3)}, only); err != nil || diff != "" {
		t.Errorf("stored of endpoint b: %v (-want +got):\n%s", err, diff)
	}
	last, err := store.Last(ctx, "a", now.Add(-time.Minute))
	if diff := gocmp.Diff(map[string]int64{"u1": now.UnixNano() + 2}, last); err != nil || diff != "" {
		t.Errorf("last of endpoint a: %v (-want +got):\n%s", err, diff)
	}

	for _, token := range []string{"", "admin:wrong", "wrong"} {
		resp, err := send(ctx, http.MethodPost, s.influx+"/api/v2/write?org=-&bucket="+url.QueryEscape(bucket), token, "text/plain; charset=utf-8", line(5))
		if err != nil || resp.status != http.StatusUnauthorized {
			t.Errorf("write with token %q: %d, %v; want 401", token, resp.status, err)
		}
		if token == "" {
			continue
		}
		other := sink.NewStore(s.influx, token, "-", bucket)
		_, err = other.Stored(ctx, now)
		other.Close()
		var answer *influxhttp.Error
		if !errors.As(err, &answer) || answer.StatusCode != http.StatusUnauthorized {
			t.Errorf("query with token %q: %v; want 401", token, err)
		}
	}
}

// influxKind is what differs between the versions of InfluxDB.
type influxKind struct {
	// entrypoint is nil where the image has its own way to start.
	entrypoint []string
	config     bool
	// setUp makes the bucket and gives tokens that write and read.
	setUp func(t *testing.T, base string) (writer, reader string)
}

var (
	influx1 = influxKind{entrypoint: []string{"/usr/bin/influxd", "-config", "/influxdb.conf"}, config: true, setUp: setUp1}
	influx2 = influxKind{setUp: setUp2}
)

// setUp1 makes users as a testbed does.
func setUp1(t *testing.T, base string) (writer, reader string) {
	admin := "admin:" + rand.Text()
	writer, reader = "telegraf:"+rand.Text(), "consumer-1:"+rand.Text()
	password := func(token string) string { _, p, _ := strings.Cut(token, ":"); return p }
	for _, q := range []struct{ token, statement string }{
		{"", fmt.Sprintf("CREATE USER admin WITH PASSWORD '%s' WITH ALL PRIVILEGES", password(admin))},
		{admin, "CREATE DATABASE sensors"},
		{admin, fmt.Sprintf("CREATE USER telegraf WITH PASSWORD '%s'", password(writer))},
		{admin, fmt.Sprintf(`CREATE USER "consumer-1" WITH PASSWORD '%s'`, password(reader))},
		{admin, "GRANT WRITE ON sensors TO telegraf"},
		{admin, `GRANT READ ON sensors TO "consumer-1"`},
	} {
		resp, err := send(t.Context(), http.MethodPost, base+"/query", q.token, "application/x-www-form-urlencoded", url.Values{"q": {q.statement}}.Encode())
		if err != nil || resp.status != http.StatusOK || strings.Contains(resp.body, "error") {
			t.Fatalf("set up InfluxDB 1: %d %s, %v", resp.status, resp.body, err)
		}
	}
	return writer, reader
}

// setUp2 makes an organization and a bucket of the same names, by the onboarding API.
func setUp2(t *testing.T, base string) (writer, reader string) {
	body, err := json.Marshal(map[string]any{"username": "admin", "password": rand.Text(), "org": "-", "bucket": bucket, "retentionPeriodSeconds": 0})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := send(t.Context(), http.MethodPost, base+"/api/v2/setup", "", "application/json", string(body))
	var answer struct{ Auth struct{ Token string } }
	if err == nil {
		err = json.Unmarshal([]byte(resp.body), &answer)
	}
	if err != nil || resp.status != http.StatusCreated || answer.Auth.Token == "" {
		t.Fatalf("set up InfluxDB 2: %d, %v", resp.status, err)
	}
	return answer.Auth.Token, answer.Auth.Token
}

// listener is one endpoint of a Telegraf, as its template takes it.
type listener struct{ Addr, Endpoint string }

// config renders a configuration as a testbed does. Its templates are read out of
// the source, since their package may not be imported from here, and a contract
// about a copy of them would say nothing.
func config(t *testing.T, variable string, values map[string]any) string {
	t.Helper()
	const source = "../../testbed/internal/backend/sink.go"
	file, err := parser.ParseFile(token.NewFileSet(), source, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Names[0].Name != variable {
			return true
		}
		ast.Inspect(spec, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && strings.Contains(lit.Value, "\n") {
				text, err = strconv.Unquote(lit.Value)
			}
			return true
		})
		return false
	})
	if err != nil || text == "" {
		t.Fatalf("%s has no template %s: %v", source, variable, err)
	}
	var b strings.Builder
	if err := template.Must(template.New(variable).Option("missingkey=error").Parse(text)).Execute(&b, values); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func influxConfig(t *testing.T, addr, rpc, dir string) string {
	t.Helper()
	return config(t, "influxConfig", map[string]any{"HTTP": addr, "RPC": rpc, "Meta": dir + "/meta", "Data": dir + "/data", "WAL": dir + "/wal"})
}

func telegrafConfig(t *testing.T, influx, writer, journal string, listeners ...listener) string {
	t.Helper()
	return config(t, "telegrafConfig", map[string]any{"Listeners": listeners, "InfluxDB": influx, "Token": writer, "Bucket": bucket, "Journal": journal})
}

// startProcesses runs what the embedded backend runs.
func startProcesses(t *testing.T) running {
	assets := os.Getenv("TESTBED_ASSETS")
	if assets == "" {
		t.Skip("TESTBED_ASSETS is not set: `bin/testbed assets build` prints the folder with influxd and telegraf")
	}
	dir := t.TempDir()
	influx, rpc, a, b := freeAddr(t), freeAddr(t), freeAddr(t), freeAddr(t)
	s := running{
		influx: "http://" + influx, journal: filepath.Join(dir, "journal.lp"),
		endpoints: map[string]string{"a": "http://" + a + "/telegraf", "b": "http://" + b + "/telegraf"},
	}
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	run := func(argv ...string) {
		cmd := exec.Command(filepath.Join(assets, argv[0]), argv[1:]...)
		output := new(bytes.Buffer)
		cmd.Stdout, cmd.Stderr = output, output
		cmd.WaitDelay = 10 * time.Second
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // nothing of it is kept
			_ = cmd.Wait()
			if t.Failed() {
				t.Logf("%s:\n%s", argv[0], output)
			}
		})
	}
	run("influxd", "-config", file("influxdb.conf", influxConfig(t, influx, rpc, dir)))
	awaitAnswer(t, s.influx+"/health")
	writer, reader := setUp1(t, s.influx)
	s.reader = reader
	run("telegraf", "--config", file("telegraf.conf", telegrafConfig(t, s.influx, writer, s.journal, listener{a, "a"}, listener{b, "b"})))
	awaitAnswer(t, s.endpoints["b"])
	return s
}

// startContainers runs a sink of two images as the kind backend does: both on
// one network, where they find each other on loopback.
func startContainers(t *testing.T, influxImage, telegrafImage string, kind influxKind) running {
	engine := findEngine(t)
	ensureImage(t, engine, influxImage)
	ensureImage(t, engine, telegrafImage)
	const (
		journal               = "/journal.lp"
		portInflux            = "8086/tcp"
		portA, portB          = "8186/tcp", "8187/tcp"
		listensA, listensB    = "0.0.0.0:8186", "0.0.0.0:8187"
		influxHTTP, influxRPC = "0.0.0.0:8086", "127.0.0.1:8088"
	)
	start := func(request testcontainers.ContainerRequest) testcontainers.Container {
		c, err := testcontainers.GenericContainer(t.Context(), testcontainers.GenericContainerRequest{ContainerRequest: request, Started: true})
		testcontainers.CleanupContainer(t, c)
		if c != nil {
			t.Cleanup(func() { logOutput(t, request.Image, c) })
		}
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	text := func(path, content string, mode int64) testcontainers.ContainerFile {
		return testcontainers.ContainerFile{Reader: strings.NewReader(content), ContainerFilePath: path, FileMode: mode}
	}

	request := testcontainers.ContainerRequest{
		Image: influxImage, Entrypoint: kind.entrypoint, ExposedPorts: []string{portInflux, portA, portB},
		HostConfigModifier: func(h *container.HostConfig) {
			h.PortBindings = network.PortMap{}
			for _, p := range []string{portInflux, portA, portB} {
				h.PortBindings[network.MustParsePort(p)] = []network.PortBinding{{HostIP: netip.MustParseAddr("127.0.0.1")}}
			}
		},
	}
	if kind.config {
		request.Files = []testcontainers.ContainerFile{text("/influxdb.conf", influxConfig(t, influxHTTP, influxRPC, "/data"), 0o644)}
		request.Tmpfs = map[string]string{"/data": "mode=1777"}
	}
	influx := start(request)
	at := func(port string) string {
		mapped, err := influx.MappedPort(t.Context(), port)
		if err != nil {
			t.Fatal(err)
		}
		return "http://127.0.0.1:" + mapped.Port()
	}
	s := running{
		influx: at(portInflux), journal: filepath.Join(t.TempDir(), "journal.lp"),
		endpoints: map[string]string{"a": at(portA) + "/telegraf", "b": at(portB) + "/telegraf"},
	}
	awaitAnswer(t, s.influx+"/health")
	writer, reader := kind.setUp(t, s.influx)
	s.reader = reader
	telegraf := start(testcontainers.ContainerRequest{
		Image: telegrafImage, Entrypoint: []string{"/usr/bin/telegraf", "--config", "/telegraf.conf"},
		Files: []testcontainers.ContainerFile{
			text("/telegraf.conf", telegrafConfig(t, "http://127.0.0.1:8086", writer, journal, listener{listensA, "a"}, listener{listensB, "b"}), 0o644),
			text(journal, "", 0o666),
		},
		HostConfigModifier: func(h *container.HostConfig) {
			h.NetworkMode = container.NetworkMode("container:" + influx.GetContainerID())
		},
	})
	awaitAnswer(t, s.endpoints["b"])
	s.refresh = func(ctx context.Context) error {
		r, err := telegraf.CopyFileFromContainer(ctx, journal)
		if err != nil {
			return err
		}
		defer r.Close()
		content, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		return os.WriteFile(s.journal, content, 0o600)
	}
	return s
}

// logOutput tells what a container wrote, if the test failed.
func logOutput(t *testing.T, image string, c testcontainers.Container) {
	if !t.Failed() {
		return
	}
	r, err := c.Logs(context.Background())
	if err != nil {
		t.Logf("logs of %s: %v", image, err)
		return
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, 64<<10))
	t.Logf("%s: %v\n%s", image, err, text)
}

// must skips where a host may lack what is missing, and fails where it may not.
func must(t *testing.T, reason string, args ...any) {
	t.Helper()
	if os.Getenv(registryVariable) == "1" {
		t.Fatalf(reason, args...)
	}
	t.Skipf(reason, args...)
}

// findEngine gives the engine that testcontainers finds, or skips.
func findEngine(t *testing.T) *testcontainers.DockerProvider {
	t.Helper()
	// The containers are removed by the test; the library's own remover would be one more image to pull.
	t.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
	log.SetDefault(log.NewNoopLogger())
	engine, err := func() (p *testcontainers.DockerProvider, err error) {
		defer func() { // it panics where it finds no socket
			if r := recover(); r != nil {
				err = fmt.Errorf("%v", r)
			}
		}()
		return testcontainers.NewDockerProvider()
	}()
	if err != nil {
		must(t, "no container engine: %v", err)
	}
	t.Cleanup(func() { _ = engine.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := engine.Health(ctx); err != nil {
		must(t, "no container engine that this library can talk to: %v", err)
	}
	return engine
}

// ensureImage pulls an image, unless the engine has it.
func ensureImage(t *testing.T, engine *testcontainers.DockerProvider, ref string) {
	t.Helper()
	if _, err := engine.Client().ImageInspect(t.Context(), ref); err == nil {
		return
	}
	if os.Getenv(registryVariable) != "1" {
		parsed, err := name.ParseReference(ref)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := remote.Head(parsed, remote.WithContext(ctx)); err != nil {
			t.Skipf("image %s is not in the engine, and no registry has it: %v", ref, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := engine.PullImage(ctx, ref); err != nil {
		must(t, "pull image %s: %v", ref, err)
	}
}

// built is the newest image of a repository that is ours, or skips. No registry has it.
func built(t *testing.T, repository string) string {
	t.Helper()
	if os.Getenv(registryVariable) == "1" {
		t.Skip("with a registry none are built")
	}
	images, err := findEngine(t).ListImages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range images {
		if strings.HasPrefix(i.Name, repository+":") {
			return i.Name
		}
	}
	t.Skipf("the engine has no image %s; one is built where `testbed up --backend kind` finds no registry", repository)
	return ""
}

type response struct {
	status int
	body   string
}

func send(ctx context.Context, method, url, token, contentType, body string) (response, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return response{}, err
	}
	req.Header.Set("Content-Type", contentType)
	if token != "" {
		req.Header.Set("Authorization", "Token "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return response{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return response{resp.StatusCode, string(text)}, err
}

// awaitAnswer waits for any answer: the engine takes connections for what does not listen yet.
func awaitAnswer(t *testing.T, url string) {
	t.Helper()
	await(t, url, func() error {
		_, err := send(t.Context(), http.MethodGet, url, "", "", "")
		return err
	})
}

func await(t *testing.T, what string, f func() error) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(sinkDeadline)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within %s: %v", what, sinkDeadline, err)
		}
	}
}

// freeAddr is an address on loopback that nobody has now.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
