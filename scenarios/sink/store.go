package sink

import (
	"context"
	"fmt"
	"strings"
	"time"

	influxdb2 "github.com/influxdata/influxdb-client-go/v2"
	"github.com/influxdata/influxdb-client-go/v2/api"
	"github.com/influxdata/influxdb-client-go/v2/api/query"

	"github.com/fluidos-edge/testbed/scenarios/ledger"
)

// Store reads an InfluxDB, of version 1.8 or 2, by Flux.
type Store struct {
	client influxdb2.Client
	query  api.QueryAPI
	bucket string
}

// NewStore reads a bucket with a token; "user:password" is one for version 1.8.
func NewStore(url, token, org, bucket string) *Store {
	c := influxdb2.NewClientWithOptions(url, token, influxdb2.DefaultOptions().SetHTTPRequestTimeout(20).SetLogLevel(0))
	return &Store{client: c, query: c.QueryAPI(org), bucket: bucket}
}

// Close lets idle connections go.
func (s *Store) Close() { s.client.Close() }

// Stored returns all samples at some endpoints with a time from since on, in no
// order; those at all endpoints if none is named. Rows that are no samples are
// left out.
func (s *Store) Stored(ctx context.Context, since time.Time, endpoints ...string) ([]ledger.Sample, error) {
	filter := "exists r." + tagUID
	if len(endpoints) > 0 {
		var any []string
		for _, e := range endpoints {
			any = append(any, fmt.Sprintf("r.%s == %q", tagEndpoint, e))
		}
		filter = strings.Join(any, " or ")
	}
	// Rows come a field at a time, and are put together here: what InfluxDB 1.8
	// pivots depends on which series happen to have which fields.
	type row struct {
		series string
		time   int64
	}
	points := map[row]*point{}
	err := s.each(ctx, since, filter, "", func(r *query.FluxRecord) error {
		tags := tagsOf(r)
		key := row{(point{measurement: r.Measurement(), tags: tags}).body() + tags[tagUID] + "@" + tags[tagEndpoint], r.Time().UnixNano()}
		p := points[key]
		if p == nil {
			p = &point{measurement: r.Measurement(), tags: tags, fields: map[string]any{}, time: r.Time()}
			points[key] = p
		}
		p.fields[r.Field()] = r.Value()
		return nil
	})
	if err != nil {
		return nil, err
	}
	var samples []ledger.Sample
	for _, p := range points {
		if sample, err := p.sample(); err == nil {
			samples = append(samples, sample)
		}
	}
	return samples, nil
}

// Last returns for each sensor the time of its last sample at an endpoint, ns, of
// those with a time from since on.
func (s *Store) Last(ctx context.Context, endpoint string, since time.Time) (map[string]int64, error) {
	last := map[string]int64{}
	filter := fmt.Sprintf("r.%s == %q and r._field == %q", tagEndpoint, endpoint, fieldSeq)
	err := s.each(ctx, since, filter, "|> last()", func(r *query.FluxRecord) error {
		if uid, _ := r.ValueByKey(tagUID).(string); uid != "" {
			last[uid] = max(last[uid], r.Time().UnixNano())
		}
		return nil
	})
	return last, err
}

// each calls f with every record of a query.
func (s *Store) each(ctx context.Context, since time.Time, filter, then string, f func(*query.FluxRecord) error) error {
	flux := fmt.Sprintf("from(bucket: %q) |> range(start: %s, stop: %s) |> filter(fn: (r) => %s) %s", s.bucket,
		since.UTC().Format(time.RFC3339Nano), since.AddDate(0, 0, 7).UTC().Format(time.RFC3339Nano), filter, then)
	result, err := s.query.Query(ctx, flux)
	if err != nil {
		return fmt.Errorf("query InfluxDB: %w", err)
	}
	defer result.Close()
	for result.Next() {
		if err := f(result.Record()); err != nil {
			return err
		}
	}
	if err := result.Err(); err != nil {
		return fmt.Errorf("read from InfluxDB: %w", err)
	}
	return nil
}

// tagsOf are the columns of a record that neither Flux nor InfluxDB adds.
func tagsOf(r *query.FluxRecord) map[string]string {
	tags := map[string]string{}
	for k, v := range r.Values() {
		if text, ok := v.(string); ok && text != "" && k != "result" && !strings.HasPrefix(k, "_") {
			tags[k] = text
		}
	}
	return tags
}
