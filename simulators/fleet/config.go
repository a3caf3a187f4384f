package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/fluidos-edge/testbed/testbed/topology"
)

// Config is the content of the file of --config. Boards must be complete, as
// topology.Load leaves them.
type Config struct {
	Seed   uint64           `json:"seed"`
	Boards []topology.Board `json:"boards"`
	// Radios are the sockets of edge nodes by node name.
	Radios map[string]string `json:"radios"`
	// Radio is the quality of the air; its zero value is good air.
	Radio topology.Radio `json:"radio"`
	// Faults befall the boards by themselves.
	Faults []topology.ScheduledFault `json:"faults,omitempty"`
}

const (
	maxCount = 100_000
	// lonely is the node of the one radio of boards without a configuration.
	lonely = "edge-1"
)

// configure reads the configuration and adds what flags ask for.
func configure(o *Options) (Config, error) {
	switch {
	case o.Config != "" && o.Control == "":
		return Config{}, errors.New("--config and --control are both needed")
	case o.Config == "" && (o.Count == 0 || o.Radio == ""):
		return Config{}, errors.New("--config and --control are needed, or --count and --radio")
	case o.Config != "" && o.Radio != "":
		return Config{}, errors.New("--radio: the configuration names the radios; leave one of both out")
	case o.Count < 0 || o.Count > maxCount:
		return Config{}, fmt.Errorf("--count: %d, want 1 to %d", o.Count, maxCount)
	}
	cfg := Config{Seed: 1, Radios: map[string]string{lonely: o.Radio}}
	if o.Config != "" {
		var err error
		if cfg, err = load(o.Config); err != nil {
			return Config{}, err
		}
	}
	if o.Count == 0 {
		return cfg, nil
	}
	nodes := slices.Sorted(maps.Keys(cfg.Radios))
	if len(nodes) == 0 {
		return Config{}, fmt.Errorf("--count: config %s has no radios", o.Config)
	}
	for i := range o.Count {
		cfg.Boards = append(cfg.Boards, nth(cfg.Seed, i, nodes[i%len(nodes)]))
	}
	return cfg, nil
}

// nth board of --count, from 0.
func nth(seed uint64, i int, nodes ...string) topology.Board {
	models := []string{topology.STWINKT1B, topology.STWINBX1}
	b := topology.Board{Model: models[i%len(models)]}
	b.SetDefaults(seed, i/len(models)+1, nodes...)
	return b
}

func load(path string) (Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("config: %w", err)
	}
	var cfg Config
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&cfg); err != nil {
		return Config{}, fmt.Errorf("config %s: %w", path, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Config{}, fmt.Errorf("config %s: more after the first value", path)
	}
	return cfg, nil
}
