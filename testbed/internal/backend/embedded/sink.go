package embedded

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/fluidos-edge/testbed/testbed/internal/process"
	"github.com/fluidos-edge/testbed/testbed/internal/state"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// Users of a sink's InfluxDB. The consumer's own is named as the consumer and
// may only read.
const (
	database     = "sensors"
	bucket       = database + "/autogen"
	adminUser    = "admin"
	telegrafUser = "telegraf"
)

var influxConfig = template.Must(template.New("influxdb.conf").Parse(`# Made by testbed; changes are lost.
reporting-disabled = true
bind-address = {{printf "%q" .RPC}}

[meta]
  dir = {{printf "%q" .Meta}}
[data]
  dir = {{printf "%q" .Data}}
  wal-dir = {{printf "%q" .WAL}}
  query-log-enabled = false
[http]
  bind-address = {{printf "%q" .HTTP}}
  auth-enabled = true
  flux-enabled = true
  log-enabled = false
[monitor]
  store-enabled = false
[continuous_queries]
  enabled = false
[logging]
  level = "warn"
`))

var telegrafConfig = template.Must(template.New("telegraf.conf").Parse(`# Made by testbed; changes are lost.
[agent]
  interval = "10s"
  flush_interval = "200ms"
  flush_jitter = "0s"
  metric_batch_size = 1000
  metric_buffer_limit = 100000
  omit_hostname = true
{{range .Listeners}}
[[inputs.http_listener_v2]]
  service_address = {{printf "tcp://%s" .Addr | printf "%q"}}
  paths = ["/telegraf"]
  methods = ["POST"]
  data_format = "influx"
  [inputs.http_listener_v2.tags]
    endpoint = {{printf "%q" .Endpoint}}
{{end}}
[[outputs.influxdb_v2]]
  urls = [{{printf "%q" .InfluxDB}}]
  token = {{printf "%q" .Token}}
  organization = "-"
  bucket = {{printf "%q" .Bucket}}

# The journal: a line for each arrival, doubles too.
[[outputs.file]]
  files = [{{printf "%q" .Journal}}]
  data_format = "influx"
`))

// sink writes the configuration of one consumer's InfluxDB and Telegraf, and specifies their processes.
func (b *Backend) sink(c topology.Consumer) ([]process.Spec, error) {
	l := b.layout
	data := l.data(c.Name, influxdb)
	influxFile, influxHash, err := b.configFile(c.Name, influxConfig, map[string]string{
		"RPC": l.addr(c.Name, influxdb, "rpc"), "HTTP": l.addr(c.Name, influxdb, ""),
		"Meta": filepath.Join(data, "meta"), "Data": filepath.Join(data, "data"), "WAL": filepath.Join(data, "wal"),
	})
	if err != nil {
		return nil, err
	}
	type listener struct{ Addr, Endpoint string }
	var listeners []listener
	for _, e := range endpoints(c) {
		listeners = append(listeners, listener{l.addr(c.Name, telegraf, e), e})
	}
	token, err := b.token(c.Name, telegrafUser)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(l.sinkJournal(c.Name)), 0o700); err != nil {
		return nil, err
	}
	influxURL := "http://" + l.addr(c.Name, influxdb, "")
	telegrafFile, telegrafHash, err := b.configFile(c.Name, telegrafConfig, map[string]any{
		"Listeners": listeners, "InfluxDB": influxURL, "Token": token, "Bucket": bucket, "Journal": l.sinkJournal(c.Name),
	})
	if err != nil {
		return nil, err
	}
	return []process.Spec{
		{
			Name: c.Name + "/" + influxdb, Path: b.assets.Path("influxd"), Args: []string{"-config", influxFile},
			ConfigHash: influxHash, URL: influxURL, Probe: process.Probe{URL: influxURL + "/health"},
		},
		{
			Name: c.Name + "/" + telegraf, Path: b.assets.Path("telegraf"), Args: []string{"--config", telegrafFile},
			ConfigHash: telegrafHash, URL: l.endpointURL(c.Name, listeners[0].Endpoint),
			Probe: process.Probe{TCP: listeners[0].Addr},
		},
	}, nil
}

// token of a user of a consumer's InfluxDB, "user:password" as its v2 API takes it.
func (b *Backend) token(consumer, user string) (string, error) {
	password, err := b.layout.rec.Secret("influxdb/"+consumer+"/"+user, 16)
	return user + ":" + password, err
}

// setUpInflux makes the database and its users. It may be called again.
func (b *Backend) setUpInflux(ctx context.Context, consumer string) error {
	base := "http://" + b.layout.addr(consumer, influxdb, "")
	admin, err := b.token(consumer, adminUser)
	if err != nil {
		return err
	}
	password := func(token string) string { _, p, _ := strings.Cut(token, ":"); return p }
	if err := influxQuery(ctx, base, admin, "SHOW DATABASES"); err != nil {
		// The first user may be made without credentials, and must be an admin.
		q := fmt.Sprintf("CREATE USER %s WITH PASSWORD '%s' WITH ALL PRIVILEGES", adminUser, password(admin))
		if err := influxQuery(ctx, base, "", q); err != nil {
			return fmt.Errorf("set up InfluxDB of %s: %w", consumer, err)
		}
	}
	statements := []string{"CREATE DATABASE " + database}
	for user, right := range map[string]string{telegrafUser: "WRITE", consumer: "READ"} {
		token, err := b.token(consumer, user)
		if err != nil {
			return err
		}
		statements = append(statements,
			fmt.Sprintf("CREATE USER %q WITH PASSWORD '%s'", user, password(token)),
			fmt.Sprintf("GRANT %s ON %s TO %q", right, database, user))
	}
	for _, s := range statements {
		if err := influxQuery(ctx, base, admin, s); err != nil {
			return fmt.Errorf("set up InfluxDB of %s: %w", consumer, err)
		}
	}
	return nil
}

// influxQuery runs one statement of InfluxQL; InfluxDB 1.8 has no API for users
// and databases but this one. Its errors never hold the statement: that may hold a password.
func influxQuery(ctx context.Context, base, token, statement string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	body := strings.NewReader(url.Values{"q": {statement}}.Encode())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/query", body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if token != "" {
		req.Header.Set("Authorization", "Token "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	var result struct {
		Error   string
		Results []struct{ Error string }
	}
	_ = json.Unmarshal(answer, &result)
	for _, r := range result.Results {
		if result.Error == "" {
			result.Error = r.Error
		}
	}
	if resp.StatusCode != http.StatusOK || result.Error != "" {
		return fmt.Errorf("InfluxDB answered %s: %s", resp.Status, result.Error)
	}
	return nil
}

// configFile renders a configuration of a cluster and returns its file and hash.
func (b *Backend) configFile(cluster string, t *template.Template, data any) (file, hash string, err error) {
	var text strings.Builder
	if err := t.Execute(&text, data); err != nil {
		return "", "", err
	}
	file = b.layout.config(cluster, t.Name())
	return file, hashOf(text.String()), state.WriteFile(file, []byte(text.String()))
}
