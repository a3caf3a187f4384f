package ociruntime_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/internal/ociruntime"
)

var lack = []string{"CAP_SYS_RESOURCE", "CAP_SYS_TIME"}

func TestProcess(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{name: "takes out what the host lacks",
			in:   `{"capabilities":{"bounding":["CAP_KILL","CAP_SYS_RESOURCE"],"ambient":[],"effective":["CAP_SYS_TIME"]}}`,
			want: `{"capabilities":{"ambient":[],"bounding":["CAP_KILL"],"effective":[]}}`},
		{name: "keeps what it does not know", in: `{"new": {"x": [1, 2.50]}, "capabilities": {"bounding": ["CAP_KILL"]}}`,
			want: `{"new": {"x": [1, 2.50]}, "capabilities": {"bounding": ["CAP_KILL"]}}`},
		{name: "raises a score that may not be set", in: `{"oomScoreAdj":-999}`, want: `{"oomScoreAdj":-500}`},
		{name: "keeps a score that may", in: `{"oomScoreAdj":100}`, want: `{"oomScoreAdj":100}`},
		{name: "null", in: `{"capabilities":null,"oomScoreAdj":null}`, want: `{"capabilities":null,"oomScoreAdj":null}`},
		{name: "neither", in: `{"args":["sh"]}`, want: `{"args":["sh"]}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ociruntime.Process([]byte(tc.in), lack, -500)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(canonical(t, tc.want), canonical(t, string(got))); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := ociruntime.Process([]byte(`{"capabilities":{"bounding":"all"}}`), lack, 0); err == nil || !strings.Contains(err.Error(), "bounding") {
		t.Errorf("got %v, want the field named", err)
	}
}

// canonical has the keys in order; numbers stay as they were written.
func canonical(t *testing.T, text string) string {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestAdaptFindsTheConfiguration(t *testing.T) {
	const process = `{"capabilities":{"bounding":["CAP_SYS_RESOURCE"]}}`
	for _, tc := range []struct {
		name, file, text string
		args             func(dir string) []string
	}{
		{"as containerd's shim calls it", "config.json", `{"process":` + process + `}`, func(dir string) []string {
			return []string{"--root", "/run/runc", "--log", "/l", "--log-format", "json", "create", "--bundle", dir, "--pid-file", dir + "/pid", "id"}
		}},
		{"run, short flag", "config.json", `{"process":` + process + `}`, func(dir string) []string { return []string{"run", "-b", dir, "id"} }},
		{"with =", "config.json", `{"process":` + process + `}`, func(dir string) []string { return []string{"--root=/run", "create", "--bundle=" + dir, "id"} }},
		{"exec", "p", process, func(dir string) []string { return []string{"exec", "--process", dir + "/p", "--detach", "id"} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, tc.file)
			if err := os.WriteFile(file, []byte(tc.text), 0o640); err != nil {
				t.Fatal(err)
			}
			args, err := ociruntime.Adapt(tc.args(dir), lack, 0)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.args(dir), args); diff != "" {
				t.Error(diff)
			}
			got, err := os.ReadFile(file)
			if err != nil || strings.Contains(string(got), "CAP_SYS_RESOURCE") {
				t.Errorf("%s, %v: the capability is still there", got, err)
			}
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("mode %v, %v: want 0640", info.Mode(), err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, ".config-*")); len(left) > 0 {
				t.Errorf("left %v", left)
			}
		})
	}
}

func TestAdaptLeavesOtherCommandsAlone(t *testing.T) {
	for _, args := range [][]string{{"--version"}, {"--root", "create", "state", "id"}, {"delete", "--force", "id"}, {}} {
		got, err := ociruntime.Adapt(args, lack, 0)
		if err != nil || !cmp.Equal(args, got) {
			t.Errorf("%q became %q, %v", args, got, err)
		}
	}
	got, err := ociruntime.Adapt([]string{"exec", "--cap", "CAP_SYS_TIME", "--cap=CAP_KILL", "id", "sh"}, lack, 0)
	if diff := cmp.Diff([]string{"exec", "--cap=CAP_KILL", "id", "sh"}, got); err != nil || diff != "" {
		t.Error(diff, err)
	}
}

func TestLacking(t *testing.T) {
	got, err := ociruntime.Lacking()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("this host lacks %v", got)
	for _, c := range got {
		if !strings.HasPrefix(c, "CAP_") {
			t.Errorf("%q is no capability", c)
		}
	}
}

// FuzzConfig: whatever the bytes, no panic; what is accepted has none of the
// capabilities left, and adapting it again changes nothing.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"process":{"capabilities":{"bounding":["CAP_SYS_RESOURCE"]},"oomScoreAdj":-999}}`))
	f.Add([]byte(`{"process":null}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		once, err := ociruntime.Config(text, lack, -500)
		if err != nil {
			return
		}
		twice, err := ociruntime.Config(once, lack, -500)
		if err != nil || string(once) != string(twice) {
			t.Errorf("%s became %s, %v", once, twice, err)
		}
	})
}
