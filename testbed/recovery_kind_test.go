package testbed_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestNothingIsLeftOnKind ends `up` on kind with SIGKILL at seeded moments and then
// looks at the engine, not at our own records: after `down` there is no
// container, network, volume, process, listener or file that was not there before.
func TestNothingIsLeftOnKind(t *testing.T) {
	if os.Getenv("TESTBED_KIND") == "" {
		t.Skip("TESTBED_KIND is not set: no container engine to use (.ci/run sets it)")
	}
	bin := binaries(t)
	before := engineHas(t)
	h := newHome(t, bin)
	h.up = []string{"up", "--backend", "kind", "--edge", os.Getenv("TESTBED_KIND"), "--consumers", "1", "--name", "kill"}
	h.name = "kill"
	began := time.Now()
	h.run(t, 0, h.up...)
	whole := time.Since(began)
	t.Logf("a whole up takes %.1f s", whole.Seconds())
	h.rememberPorts(t)
	h.run(t, 0, "down", "--name", "kill")
	h.mustBeClean(t)
	mustHave(t, before)

	draw := rand.New(rand.NewPCG(seed, 2))
	for i := range moments {
		after := time.Duration(draw.Int64N(int64(whole)))
		t.Run(fmt.Sprintf("killed %d", i), func(t *testing.T) {
			k := newHome(t, bin)
			k.up, k.name = h.up, h.name
			k.interrupt(t, syscall.SIGKILL, after)
			k.run(t, -1, "down", "--name", "kill") // 0, or 4 where nothing was there yet
			k.mustBeClean(t)
			mustHave(t, before)
		})
	}
}

// engineHas lists what an engine keeps: containers, networks and volumes.
func engineHas(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, what := range [][]string{
		{"ps", "--all", "--format", "container {{.Names}}"}, {"network", "ls", "--format", "network {{.Name}}"}, {"volume", "ls", "--format", "volume {{.Name}}"},
	} {
		out, err := exec.CommandContext(t.Context(), "docker", what...).Output()
		if err != nil {
			t.Fatalf("docker %s: %v", strings.Join(what, " "), err)
		}
		all = append(all, strings.Split(strings.TrimSpace(string(out)), "\n")...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// mustHave fails for everything that the engine has now and had not before.
func mustHave(t *testing.T, before []string) {
	t.Helper()
	for _, now := range engineHas(t) {
		if !slices.Contains(before, now) {
			t.Errorf("left in the engine: %s", now)
		}
	}
}
