package state_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/fluidos-edge/testbed/testbed/internal/state"
)

func home(t *testing.T) {
	t.Helper()
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("TMPDIR", t.TempDir())
}

func TestPortsAreKeptAndNeverShared(t *testing.T) {
	home(t)
	purposes := []string{"a/etcd", "a/etcd#peer", "a/kube-apiserver"}
	seen := map[int]string{}
	for _, name := range []string{"one", "two"} {
		if err := os.MkdirAll(state.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		r, err := state.New(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.ChoosePorts(purposes); err != nil {
			t.Fatal(err)
		}
		first := r.Ports["a/etcd"]
		if err := r.ChoosePorts(append(purposes, "a/new")); err != nil {
			t.Fatal(err)
		}
		if r.Ports["a/etcd"] != first {
			t.Errorf("port of a/etcd changed from %d to %d", first, r.Ports["a/etcd"])
		}
		for purpose, p := range r.Ports {
			if other := seen[p]; other != "" {
				t.Errorf("%s/%s and %s share port %d", name, purpose, other, p)
			}
			seen[p] = name + "/" + purpose
		}
	}
}

func TestRecordSurvivesAndRemoveLeavesNothing(t *testing.T) {
	home(t)
	unlock, err := state.Lock(t.Context(), "one", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	r, err := state.New("one")
	if err != nil {
		t.Fatal(err)
	}
	secret, err := r.Secret("key", 16)
	if err != nil || len(secret) != 32 {
		t.Fatalf("secret %q, %v", secret, err)
	}
	if err := os.MkdirAll(r.RunDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := r.Save(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(state.Dir("one"), "testbed.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("record: %v, %v; it holds secrets and must be 0600", info, err)
	}
	loaded, err := state.Load("one")
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := loaded.Secret("key", 16); again != secret || loaded.ID != r.ID {
		t.Error("the record was not read back as it was saved")
	}
	if err := state.Remove("one"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{state.Root(), r.RunDir, filepath.Dir(r.RunDir)} {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is left (%v)", dir, err)
		}
	}
	if _, err := state.Load("one"); !state.Absent(err) {
		t.Errorf("load after remove: %v", err)
	}
}

func TestLockWaitsForTheOther(t *testing.T) {
	home(t)
	unlock, err := state.Lock(t.Context(), "one", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := state.Lock(ctx, "one", cancel); !errors.Is(err, context.Canceled) {
		t.Fatalf("a held lock was given: %v", err)
	}
	// The folder is removed under the lock, as Down does: the next one gets a new folder.
	got := make(chan error, 1)
	waiting := make(chan struct{})
	go func() {
		unlock, err := state.Lock(t.Context(), "one", func() { close(waiting) })
		if err == nil {
			_, err = os.Stat(state.Dir("one"))
			unlock()
		}
		got <- err
	}()
	<-waiting
	if err := state.Remove("one"); err != nil {
		t.Fatal(err)
	}
	unlock()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}
