package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"text/template"
	"time"
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

// token of a user of a consumer's InfluxDB, "user:password" as its v2 API takes it.
func (l Layout) token(consumer, user string) (string, error) {
	password, err := l.Rec.Secret("influxdb/"+consumer+"/"+user, 16)
	return user + ":" + password, err
}

// InfluxDB is how a consumer reads its own InfluxDB: URL, token and bucket.
func (l Layout) InfluxDB(consumer string) (url, token, bucketName string) {
	return "http://" + l.Addr(consumer, InfluxDB, ""), consumer + ":" + l.Rec.Secrets["influxdb/"+consumer+"/"+consumer], bucket
}

// InfluxConfig is the configuration of an InfluxDB that keeps its data in a folder.
func InfluxConfig(http, rpc, data string) (string, error) {
	return render(influxConfig, map[string]string{"HTTP": http, "RPC": rpc,
		"Meta": filepath.Join(data, "meta"), "Data": filepath.Join(data, "data"), "WAL": filepath.Join(data, "wal")})
}

// Listener is one endpoint of a sink, and the address that Telegraf listens on for it.
type Listener struct{ Addr, Endpoint string }

// TelegrafConfig is the configuration of a consumer's Telegraf, which holds a token.
func (l Layout) TelegrafConfig(consumer, influxURL string, listeners []Listener) (string, error) {
	token, err := l.token(consumer, telegrafUser)
	if err != nil {
		return "", err
	}
	return render(telegrafConfig, map[string]any{
		"Listeners": listeners, "InfluxDB": influxURL, "Token": token, "Bucket": bucket, "Journal": l.SinkJournal(consumer),
	})
}

func render(t *template.Template, data any) (string, error) {
	var text strings.Builder
	err := t.Execute(&text, data)
	return text.String(), err
}

// MakeSecrets makes the passwords of a consumer's InfluxDB, unless they are there;
// the record has to be saved before they are used.
func (l Layout) MakeSecrets(consumer string) error {
	for _, user := range []string{adminUser, telegrafUser, consumer} {
		if _, err := l.token(consumer, user); err != nil {
			return err
		}
	}
	return nil
}

// SetUpInflux makes the database and its users. It may be called again.
func (l Layout) SetUpInflux(ctx context.Context, consumer string) error {
	base := "http://" + l.Addr(consumer, InfluxDB, "")
	admin, err := l.token(consumer, adminUser)
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
		token, err := l.token(consumer, user)
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
