package bench

import (
	"context"
	_ "embed" // the topology
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// onePlusOne is one consumer and one provider with an edge node.
//
//go:embed testdata/one.yaml
var onePlusOne []byte

// testbedName is that of our testbed while kind-up is measured.
const testbedName = "bench-a"

// upWithin bounds one run of either side.
const upWithin = 15 * time.Minute

// prepareKindUp compares a whole testbed with the bare clusters that it runs on:
// what is above 1 is the price of everything that makes clusters a testbed.
func prepareKindUp(ctx context.Context, o options) ([]Comparison, func() error, error) {
	if err := engineAnswers(ctx); err != nil {
		return nil, nil, err
	}
	image, err := nodeImage(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "testbed-bench-")
	if err != nil {
		return nil, nil, err
	}
	file := filepath.Join(dir, "topology.yaml")
	b, err := newBare(image, dir)
	undo := func() error { return errors.Join(b.close(), os.RemoveAll(dir)) }
	if err == nil {
		err = os.WriteFile(file, onePlusOne, 0o600)
	}
	// A bench that was killed may have left something.
	if err = errors.Join(err, down(ctx, o), b.remove(ctx)); err != nil {
		return nil, undo, err
	}
	return []Comparison{{
		Name: "kind-up",
		Params: map[string]any{
			"consumers": 1, "providers": 1, "edgeNodes": 1, "edge": o.edge, "image": image, "cpus": runtime.NumCPU(),
		},
		Unit: "s", Peer: "two bare kind clusters of the same node image, made in parallel, nodes Ready and CoreDNS Available",
		Op: "<=", Goal: 1.5,
		Ours: func(ctx context.Context) (seconds float64, err error) {
			defer func() { err = errors.Join(err, down(ctx, o)) }()
			ctx, cancel := context.WithTimeoutCause(ctx, upWithin, fmt.Errorf("not up within %s", upWithin))
			defer cancel()
			began := time.Now()
			_, err = program(ctx, o.testbed, "up", "--backend", "kind", "--edge", o.edge, "-f", file, "--name", testbedName, "-q")
			return time.Since(began).Seconds(), err
		},
		Theirs: b.up,
	}}, undo, nil
}

// down removes our testbed, also when ctx has ended.
func down(ctx context.Context, o options) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWithin)
	defer cancel()
	_, err := program(ctx, o.testbed, "down", "--name", testbedName, "-q")
	if exitCode(err) == 4 { // there is none
		return nil
	}
	return err
}

// nodeImage is the one that our program takes, so that the peer takes it too.
func nodeImage(ctx context.Context, o options) (string, error) {
	out, err := program(ctx, o.testbed, "images", "list", "-o", "json")
	if err != nil {
		return "", err
	}
	chosen, _, _ := strings.Cut(os.Getenv("TESTBED_NODE_IMAGE"), "@")
	return pickNodeImage(out, chosen, o.edge)
}

// pickNodeImage finds it in what `images list` prints: one that was chosen, ours or
// kind's. Nothing is built or pulled for a measurement: what is not in the engine
// makes a skip.
func pickNodeImage(list []byte, chosen, edge string) (string, error) {
	var all []struct{ Ref, Source string }
	if err := json.Unmarshal(list, &all); err != nil {
		return "", fmt.Errorf("list of images: %w", err)
	}
	node := ""
	for _, i := range all {
		isNode := i.Ref == chosen
		if chosen == "" {
			isNode = strings.HasPrefix(i.Ref, "testbed/node:") || strings.HasPrefix(strings.TrimPrefix(i.Ref, "docker.io/"), "kindest/node:")
		}
		switch {
		case isNode && i.Source != "engine":
			return "", skip{"node image " + i.Ref + " is not in the container engine (`testbed images build node`, or `testbed up --backend kind` once)"}
		case isNode && node == "":
			node = i.Ref
		case edge == "kubeedge" && i.Source == "" && strings.Contains(i.Ref, "kubeedge/"):
			return "", skip{"image " + i.Ref + " is not here"}
		}
	}
	if node == "" {
		return "", errors.New("list of images: no node image")
	}
	return node, nil
}
