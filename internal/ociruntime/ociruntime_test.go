package ociruntime_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
			want: `{"capabilities":{"bounding":["CAP_KILL"],"ambient":[],"effective":[]}}`},
		{name: "in all five sets",
			in:   `{"capabilities":{"bounding":["CAP_SYS_TIME"],"effective":["CAP_SYS_TIME"],"inheritable":["CAP_SYS_TIME"],"permitted":["CAP_SYS_TIME"],"ambient":["CAP_SYS_TIME"]}}`,
			want: `{"capabilities":{"bounding":[],"effective":[],"inheritable":[],"permitted":[],"ambient":[]}}`},
		{name: "keeps every other byte", in: "{\"new\": {\"x\": [1, 2.50, 1e400], \"y\":\"<&>\\u2028\"},\n \"capabilities\": {\"later\": 7, \"bounding\": [\"CAP_SYS_TIME\", \"CAP_KILL\"] } }\n",
			want: "{\"new\": {\"x\": [1, 2.50, 1e400], \"y\":\"<&>\\u2028\"},\n \"capabilities\": {\"later\": 7, \"bounding\": [\"CAP_KILL\"] } }\n"},
		{name: "keeps a set that may be had", in: `{"capabilities": {"bounding": [ "CAP_KILL" ]}}`, want: `{"capabilities": {"bounding": [ "CAP_KILL" ]}}`},
		{name: "names in any case, and twice", in: `{"Capabilities":{"Bounding":["CAP_SYS_TIME"],"bounding":["CAP_SYS_TIME"]}}`, want: `{"Capabilities":{"Bounding":[],"bounding":[]}}`},
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
			if diff := cmp.Diff(tc.want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := ociruntime.Process([]byte(`{"capabilities":{"bounding":"all"}}`), lack, 0); err == nil || !strings.Contains(err.Error(), "bounding") {
		t.Errorf("got %v, want the field named", err)
	}
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
		{"flags behind the name", "config.json", `{"process":` + process + `}`, func(dir string) []string {
			return []string{"--systemd-cgroup", "run", "id", "-d", "--bundle", "/nowhere", "--bundle", dir}
		}},
		{"restore", "config.json", `{"process":` + process + `}`, func(dir string) []string {
			return []string{"restore", "--detach", "--image-path", "--bundle", "-bundle=" + dir, "id"}
		}},
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
}

func TestAdaptExecWithoutFile(t *testing.T) {
	for _, tc := range []struct{ args, want string }{
		{"exec --cap CAP_SYS_TIME --cap=CAP_KILL -c CAP_SYS_RESOURCE -t id sh", "exec --cap=CAP_KILL -t id sh"},
		{"exec -e -p=x --user 1 id sh --cap CAP_SYS_TIME -p /no/file", "exec -e -p=x --user 1 id sh --cap CAP_SYS_TIME -p /no/file"},
		{"exec -- id --cap CAP_SYS_TIME", "exec -- id --cap CAP_SYS_TIME"},
		{"exec --cap", "exec --cap"},
	} {
		got, err := ociruntime.Adapt(strings.Fields(tc.args), lack, 0)
		if diff := cmp.Diff(strings.Fields(tc.want), got); err != nil || diff != "" {
			t.Error(diff, err)
		}
	}
}

// A configuration that cannot be read fails with the file and field, and stays.
func TestAdaptBadConfiguration(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.json")
	const text = `{"process":{"capabilities":{"bounding":["CAP_SYS_TIME"],"ambient":{}}}}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := ociruntime.Adapt([]string{"create", "-b", dir, "id"}, lack, 0)
	if err == nil || !strings.Contains(err.Error(), file+": process: capabilities: ambient: ") {
		t.Errorf("got %v, want file and field", err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != text {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := ociruntime.Adapt([]string{"create", "-b", filepath.Join(dir, "none"), "id"}, lack, 0); err == nil {
		t.Error("an absent configuration is accepted")
	}
}

func TestLacking(t *testing.T) {
	for _, tc := range []struct {
		name, status, last string
		want               []string
		err                string
	}{
		{name: "all there", status: "Name:\tx\nCapBnd:\t000001ffffffffff\n", last: "40\n"},
		{name: "without SYS_RESOURCE", status: "CapPrm:\t0\nCapBnd:\t000001fffeffffff\n", last: "40\n", want: []string{"CAP_SYS_RESOURCE"}},
		{name: "a kernel that knows fewer", status: "CapBnd:\t0000003fffffffff\n", last: "37\n"},
		{name: "a kernel that knows more", status: "CapBnd:\t000000ffffffffff\n", last: "70\n", want: []string{"CAP_CHECKPOINT_RESTORE"}},
		{name: "no set", status: "Name:\tx\n", last: "40\n", err: "no CapBnd"},
		{name: "no number", status: "CapBnd:\t0\n", last: "many", err: "cap_last_cap"},
		{name: "no hex", status: "CapBnd:\tall\n", last: "40", err: "CapBnd"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ociruntime.Lacking(tc.status, tc.last)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got %v, want %q", err, tc.err)
			}
		})
	}
}

// It never finds itself, whatever it is called, and runs what it does find with its own pid.
func TestExecBecomesRunc(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	for _, d := range []string{first, second} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(os.Args[0], filepath.Join(first, "runc")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(second, "runc"), []byte("#!/bin/sh\necho \"$$ $*\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, path, variable, want string }{
		{"in PATH, behind ourselves", first + ":" + second, "", "--version x"},
		{"named", "", filepath.Join(second, "runc"), "--version x"},
		{"named, but is ourselves", second, filepath.Join(first, "runc"), "is this program itself"},
		{"named, but absent", second, filepath.Join(dir, "runc"), "no such file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0])
			cmd.Env = []string{"OCIRUNTIME_ARGS=--version x", "PATH=" + tc.path, ociruntime.RuncVariable + "=" + tc.variable}
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			failed := cmd.Wait()
			want := tc.want
			if failed == nil {
				want = fmt.Sprint(cmd.Process.Pid, " ", tc.want)
			}
			if !strings.Contains(out.String(), want) {
				t.Errorf("said %q (%v), want %q", out.String(), failed, want)
			}
		})
	}
}

// TestMain makes this binary the runtime itself.
func TestMain(m *testing.M) {
	if args := os.Getenv("OCIRUNTIME_ARGS"); args != "" {
		fmt.Fprintln(os.Stderr, ociruntime.Exec(strings.Fields(args)))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// FuzzConfig: whatever the bytes, no panic; what runc would read out of what is
// accepted has none of the capabilities left, is otherwise what it was, and adapting it
// again changes nothing.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"process":{"capabilities":{"bounding":["CAP_SYS_RESOURCE"]},"oomScoreAdj":-999}}`))
	f.Add([]byte(`{"mounts":[{"a": 1.50}], "process":{"args":["<"],"Capabilities":{"ambient":["CAP_KILL","CAP_SYS_TIME"]}}}`))
	f.Add([]byte(`{"process":null}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		once, err := ociruntime.Config(text, lack, -500)
		if err != nil {
			return
		}
		if twice, err := ociruntime.Config(once, lack, -500); err != nil || string(once) != string(twice) {
			t.Errorf("%s became %s, %v", once, twice, err)
		}
		var was, is struct {
			Process struct {
				Args         []string
				Capabilities map[string]any
				OOMScoreAdj  *int
			}
			Mounts any
		}
		// Like runc, of a stream the first value counts.
		if json.NewDecoder(bytes.NewReader(text)).Decode(&was) != nil {
			return
		}
		if err := json.NewDecoder(bytes.NewReader(once)).Decode(&is); err != nil {
			t.Fatalf("%s became %s: %v", text, once, err)
		}
		if adj := is.Process.OOMScoreAdj; adj != nil && *adj < -500 {
			t.Errorf("%s leaves the score at %d", once, *adj)
		}
		for name, set := range is.Process.Capabilities {
			names, _ := set.([]any)
			for _, c := range names {
				if slices.Contains([]string{"bounding", "effective", "inheritable", "permitted", "ambient"}, strings.ToLower(name)) && (c == lack[0] || c == lack[1]) {
					t.Errorf("%s still has %v", once, c)
				}
			}
		}
		if diff := cmp.Diff(was.Process.Args, is.Process.Args) + cmp.Diff(was.Mounts, is.Mounts); diff != "" {
			t.Error(diff)
		}
	})
}
