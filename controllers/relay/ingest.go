package relay

import (
	"bytes"
	"crypto/hmac"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/influxdata/line-protocol/v2/lineprotocol"

	"github.com/fluidos-edge/testbed/controllers/sensor"
)

// maxBody is the largest request that is read.
const maxBody = 1 << 20

var newline = []byte{'\n'}

// Why a request was refused; see accounts.Accounts.Refused.
const (
	refusedCapability = "capability"
	refusedUnknown    = "unknown"
	refusedTooLarge   = "too-large"
	refusedMalformed  = "malformed"
	refusedNotSynced  = "not-synced" // or no longer serving
)

// Ingest serves POST /v1/samples/{namespace}/{device}/{part}?c=CAPABILITY.
//
// 204 every selecting endpoint has queued, or dropped and counted, each sample;
// 400 the body is not line protocol of this sensor; 404 unknown sensor or wrong
// capability (the same answer, so that nobody can ask which sensors exist);
// 413 more than 1 MiB; 503 before the first sync and while the relay shuts down.
func (r *Relay) Ingest() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/samples/{namespace}/{device}/{part}", func(w http.ResponseWriter, req *http.Request) {
		code, reason, err := r.ingest(w, req)
		if err != nil {
			r.refuse(reason)
			r.log.Debug("request refused", "path", req.URL.Path, "reason", reason, "err", err)
			http.Error(w, err.Error(), code)
			return
		}
		w.WriteHeader(code)
	})
	return mux
}

func (r *Relay) ingest(w http.ResponseWriter, req *http.Request) (int, string, error) {
	key := sensor.Key{Namespace: req.PathValue("namespace"), Device: req.PathValue("device"), Part: req.PathValue("part")}
	if !r.serving() {
		return http.StatusServiceUnavailable, refusedNotSynced, errors.New("not serving: starting or stopping")
	}
	unknown := errors.New("no such sensor, or not its capability")
	if !hmac.Equal([]byte(req.URL.Query().Get("c")), []byte(sensor.Capability(r.cfg.Key, key))) {
		return http.StatusNotFound, refusedCapability, unknown
	}
	way, ok := r.routes.Load().byKey[key]
	if !ok {
		return http.StatusNotFound, refusedUnknown, unknown
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return http.StatusRequestEntityTooLarge, refusedTooLarge, fmt.Errorf("more than %d bytes", maxBody)
		}
		return http.StatusBadRequest, refusedMalformed, fmt.Errorf("reading the body: %w", err)
	}
	lines, err := split(body, key, way.uid)
	if err != nil {
		return http.StatusBadRequest, refusedMalformed, err
	}
	// Shutting down waits for requests that came this far.
	if !r.begin() {
		return http.StatusServiceUnavailable, refusedNotSynced, errors.New("not serving: stopping")
	}
	defer r.end()
	r.arrived(key, len(lines))
	for _, e := range way.endpoints {
		e.push(lines)
	}
	return http.StatusNoContent, "", nil
}

// split returns the lines of a body, each a complete sample of this sensor by
// itself, with its own timestamp: without one a retry would not be the same
// sample again. The lines share the body's memory.
func split(body []byte, key sensor.Key, uid string) ([][]byte, error) {
	var lines [][]byte
	for n := 1; len(body) > 0; n++ {
		var line []byte
		line, body, _ = bytes.Cut(body, newline)
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		if err := check(line, key, uid); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		lines = append(lines, line[:len(line):len(line)])
	}
	if len(lines) == 0 {
		return nil, errors.New("no line")
	}
	return lines, nil
}

// check that a line is one sample of the sensor.
func check(line []byte, key sensor.Key, uid string) error {
	d := lineprotocol.NewDecoderWithBytes(line)
	if !d.Next() {
		return errors.New("not a sample")
	}
	if _, err := d.Measurement(); err != nil {
		return err
	}
	want := map[string]string{"uid": uid, "device": key.Device, "part": key.Part}
	seen := map[string]bool{}
	for {
		name, value, err := d.NextTag()
		if err != nil {
			return err
		}
		if name == nil {
			break
		}
		tag := string(name)
		if seen[tag] {
			return fmt.Errorf("tag %q twice", tag)
		}
		seen[tag] = true
		if w, ok := want[tag]; ok && string(value) != w {
			return fmt.Errorf("tag %s is %q, this sensor's is %q", tag, value, w)
		}
	}
	for _, tag := range []string{"uid", "device", "part"} {
		if !seen[tag] {
			return fmt.Errorf("no tag %s", tag)
		}
	}
	for {
		name, _, err := d.NextField()
		if err != nil {
			return err
		}
		if name == nil {
			break
		}
	}
	stamp, err := d.TimeBytes()
	if err != nil {
		return err
	}
	if len(stamp) == 0 {
		return errors.New("no timestamp")
	}
	if _, err := strconv.ParseInt(string(stamp), 10, 64); err != nil {
		return fmt.Errorf("timestamp: %w", err)
	}
	if d.Next() {
		return errors.New("more than one sample")
	}
	return nil
}
