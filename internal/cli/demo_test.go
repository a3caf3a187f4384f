package cli_test

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fluidos-edge/testbed/internal/cli"
	"github.com/fluidos-edge/testbed/scenarios"
	"github.com/fluidos-edge/testbed/testbed"
)

var humidity = scenarios.SensorName{Sensor: "stwinkt1b-1/hts221", Device: "stwinkt1b-c0832a001122", UID: "uid-1"}

func at(second int) time.Time { return time.Date(2026, 1, 2, 12, 3, second, 123e6, time.UTC) }

// result of one assertion as Run makes it: one stream of 20 readings, of which some are missing.
func result(id, status, reason string, missing ...time.Time) scenarios.Result {
	all, err := scenarios.Select(id)
	if err != nil {
		panic(err)
	}
	side := func(missing []time.Time) scenarios.Observation {
		return scenarios.Observation{Sensors: []scenarios.SensorName{humidity}, Streams: []scenarios.Stream{{Endpoint: "consumer-1/b", SensorName: humidity,
			From: at(5), To: at(24), Count: 20 - len(missing), Missing: append([]time.Time{}, missing...)}}}
	}
	return scenarios.Result{Scenario: all[0].Scenario, Assertion: id, Title: all[0].Title, Status: status, Reason: reason,
		Expected: side(nil), Observed: side(missing), Notes: []string{}, Incidents: []scenarios.Incident{},
		Backend: "embedded", Edge: "hollow", Testbed: "default", Run: "r1", Seconds: 11.5}
}

// results are some that pass, and one of a status.
func results(last string) []scenarios.Result {
	m1, m2, l1 := result("M1", scenarios.Pass, ""), result("M2", scenarios.Pass, ""), result("L1", last, "")
	m2.SharesWindow, m2.Seconds = "M1", 0
	other := "DataPath consumer-1/mine asks for 1 of these streams too: doubles and unasked data are not judged in them"
	m1.Notes, m2.Notes = []string{other}, []string{other, "a figure"}
	switch last {
	case scenarios.Fail:
		l1 = result("L1", last, "consumer-1/b of stwinkt1b-1/hts221 (stwinkt1b-c0832a001122), 12:03:05.123 to 12:03:24.123: 1 lost (emitted at 12:03:07.123)", at(7))
		l1.Incidents = []scenarios.Incident{{Time: at(6), Subject: "provider-1/relay", What: "restarted: its last run was killed"}}
		l1.Notes = []string{"a figure"}
	case scenarios.Error:
		l1.Reason = "waited 90s for DataPaths to be served; last observed: nothing"
	case scenarios.Skip:
		l1.Reason = "no humidity sensor of STMicroelectronics declares a latency below 16ms"
	}
	return []scenarios.Result{m1, m2, l1}
}

// demoOf runs demo with these results.
func demoOf(t *testing.T, columns int, rs []scenarios.Result, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	f := cli.Fake{
		Columns:  columns,
		Describe: func(context.Context, testbed.Options) (*testbed.Status, error) { return ready(), nil },
		Demo: func(context.Context, *testbed.Status, string, func(testbed.Event)) ([]scenarios.Result, error) {
			return rs, nil
		},
	}
	return runFake(t.Context(), f, append([]string{"demo", "-q"}, args...)...)
}

func TestDemo(t *testing.T) {
	ctx := context.Background()
	status := scenarios.Pass
	var asked string
	s := ready()
	f := cli.Fake{
		Describe: func(context.Context, testbed.Options) (*testbed.Status, error) { return s, nil },
		Demo: func(_ context.Context, _ *testbed.Status, scenario string, tell func(testbed.Event)) ([]scenarios.Result, error) {
			asked = scenario
			tell(testbed.Event{Phase: "M1", State: "start"})
			tell(testbed.Event{Phase: "M1", State: "done", Seconds: 11.5})
			return results(status), nil
		},
	}
	for _, c := range []struct {
		status string
		code   int
	}{{scenarios.Pass, 0}, {scenarios.Fail, 1}, {scenarios.Error, 1}, {scenarios.Skip, 0}} {
		status = c.status
		code, out, stderr := runFake(ctx, f, "demo", "multicast")
		golden(t, "demo-"+c.status+".golden", out)
		if code != c.code || asked != "multicast" || stderr != "ok   M1                             11.5s\n" {
			t.Errorf("%s: exit code %d, asked for %s, stderr %q", c.status, code, asked, stderr)
		}
		code, out, stderr = runFake(ctx, f, "demo", "-o", "json", "-q")
		var got []scenarios.Result
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != c.code || stderr != "" || asked != "all" {
			t.Errorf("%s: exit code %d, stderr %q, %v: %s", c.status, code, stderr, err, out)
		}
		if diff := cmp.Diff(results(c.status), got, cmpopts.IgnoreUnexported(scenarios.Result{})); diff != "" {
			t.Error(diff)
		}
		if c.status == scenarios.Fail {
			golden(t, "demo-fail.json", out)
		}
	}
	s = &testbed.Status{Phase: testbed.PhaseDegraded}
	if code, _, stderr := runFake(ctx, f, "demo"); code != 4 || !strings.Contains(stderr, "is dead") {
		t.Errorf("dead: exit code %d, stderr %q", code, stderr)
	}
}

// What is skipped is no pass: a demo that judged nothing fails, and with --strict each skip counts.
func TestDemoVerdict(t *testing.T) {
	const fix = "fix: use a topology that has what they need, such as the default one"
	skip := func(id, reason string) scenarios.Result { return result(id, scenarios.Skip, reason) }
	one, two := "there is only one consumer", "no consumer has two endpoints"
	for _, c := range []struct {
		name    string
		results []scenarios.Result
		args    []string
		code    int
		stderr  string
	}{
		{"passes", results(scenarios.Pass), []string{"--strict"}, 0, ""},
		{"a skip", results(scenarios.Skip), nil, 0, ""},
		{"a skip, strict", results(scenarios.Skip), []string{"--strict"}, 1,
			"error: --strict: 1 of 3 assertions skipped\n  L1: no humidity sensor of STMicroelectronics declares a latency below 16ms\n" + fix + ", or leave --strict out\n"},
		{"nothing but skips", []scenarios.Result{skip("M1", two), skip("M2", one), skip("M3", one)}, nil, 1,
			"error: nothing was judged: 3 of 3 assertions skipped\n  M1: no consumer has two endpoints\n  M2, M3: there is only one consumer\n" + fix + "\n"},
		{"a fail beside a skip, strict", []scenarios.Result{skip("M1", two), result("M2", scenarios.Fail, "lost")}, []string{"--strict"}, 1, ""},
		{"unjudged beside a skip", []scenarios.Result{skip("M1", two), result("M2", scenarios.Error, "gone")}, nil, 1, ""},
		{"no results", nil, nil, 1, "error: nothing was judged: 0 of 0 assertions skipped\n" + fix + "\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, out, stderr := demoOf(t, 0, c.results, c.args...)
			if code != c.code || stderr != c.stderr || !strings.HasPrefix(out, "ASSERTION") {
				t.Errorf("exit code %d, want %d, stdout %q, stderr %q, want %q", code, c.code, out, stderr, c.stderr)
			}
			code, out, stderr = demoOf(t, 0, c.results, append(c.args, "-o", "json")...)
			var got []scenarios.Result
			if err := json.Unmarshal([]byte(out), &got); err != nil || len(got) != len(c.results) || code != c.code || stderr != c.stderr {
				t.Errorf("-o json: exit code %d, want %d, %v: stdout %q, stderr %q, want %q", code, c.code, err, out, stderr, c.stderr)
			}
		})
	}
}

// long is a result with more to say than there are lines.
func long() []scenarios.Result {
	var reason []string
	r := result("M4", scenarios.Fail, "", at(7), at(8))
	for i := range 30 {
		reason = append(reason, fmt.Sprintf("consumer-1/a of stwinkt1b-%d/hts221 (stwinkt1b-c0832a0011%02d), 12:03:05.123 to 12:03:24.123: 2 lost in the relay (emitted at 12:03:07.123, 12:03:08.123)", i, i))
		n := scenarios.SensorName{Sensor: fmt.Sprintf("stwinkt1b-%d/hts221", i), Device: fmt.Sprintf("stwinkt1b-c0832a0011%02d", i)}
		r.Observed.Sensors = append(r.Observed.Sensors, n)
	}
	r.Reason = strings.Join(reason, "\n")
	r.Incidents = []scenarios.Incident{{Time: at(6), Subject: "provider-1/relay", What: "restarted: its last run was killed by signal 9 (killed), after 1h02m"},
		{Time: at(8), Subject: "board stwinkt1b-1", What: "lost its connection: link loss"}}
	gone := "waited 90s for DataPaths to be served; last observed: DataPath consumer-1/m-ab12-s1 at provider-1 has no status yet\nand the testbed went away"
	return []scenarios.Result{r, result("L5", scenarios.Error, gone, at(7)), result("L3", scenarios.Error, gone, at(7))}
}

// A result with much to say is cut, and every kind of what it has to say keeps its share.
func TestDemoLong(t *testing.T) {
	_, out, _ := demoOf(t, 0, long())
	golden(t, "demo-long.golden", out)
	problems := strings.Split(out[strings.Index(out, "\nM4 FAIL: ")+1:], "\n\n")[0]
	if n := strings.Count(problems, "\n") + 1; n != 10 {
		t.Errorf("%d lines about M4, want 10:\n%s", n, problems)
	}
	if n := strings.Count(problems, "meanwhile: "); n != 2 {
		t.Errorf("%d incidents of 2:\n%s", n, problems)
	}
	_, out, _ = demoOf(t, 80, long(), "--name", "lab")
	golden(t, "demo-narrow.golden", out)
	for line := range strings.Lines(out) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	_, out, _ = demoOf(t, 30, long())
	if !strings.Contains(out, "nothing reaches it, and the others lose nothing\n") {
		t.Errorf("a title is wrapped although there is no room for one:\n%s", out)
	}
	const file = "demo.xml"
	t.Chdir(t.TempDir())
	_, out, _ = demoOf(t, 0, long(), "--junit", file)
	if want := "  ... and 24 more lines: in demo.xml, or `testbed demo M4 -o json`\n"; !strings.Contains(out, want) {
		t.Errorf("want %q:\n%s", want, out)
	}
}

func TestShare(t *testing.T) {
	lines := func(n int) []string { return make([]string, n) }
	for _, c := range []struct {
		budget int
		groups [3]int
		want   [3]int
	}{
		{9, [3]int{30, 30, 30}, [3]int{3, 3, 3}},
		{9, [3]int{30, 0, 2}, [3]int{7, 0, 2}},
		{9, [3]int{1, 40, 5}, [3]int{1, 4, 4}},
		{10, [3]int{1, 2, 3}, [3]int{1, 2, 3}},
		{9, [3]int{}, [3]int{}},
		{0, [3]int{1, 1, 1}, [3]int{}},
	} {
		var got [3]int
		for i, g := range cli.Share(c.budget, [][]string{lines(c.groups[0]), lines(c.groups[1]), lines(c.groups[2])}) {
			got[i] = len(g)
		}
		if got != c.want {
			t.Errorf("%d lines for %v: got %v, want %v", c.budget, c.groups, got, c.want)
		}
	}
}

// Everything that demo takes is said in its help and suggested by a shell.
func TestDemoWords(t *testing.T) {
	all, err := scenarios.Select("all")
	if err != nil {
		t.Fatal(err)
	}
	words := append(scenarios.Names(), "all")
	for _, a := range all {
		words = append(words, a.ID)
	}
	_, help, _ := runFake(t.Context(), cli.Fake{}, "demo", "--help")
	_, suggested, _ := runFake(t.Context(), cli.Fake{}, "__complete", "demo", "")
	var got []string
	for line := range strings.Lines(suggested) {
		word, about, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if ok && about != "" {
			got = append(got, word)
		}
	}
	if diff := cmp.Diff(words, got); diff != "" {
		t.Errorf("suggested (-want +got):\n%s", diff)
	}
	for _, w := range words {
		if !strings.Contains(help, w) {
			t.Errorf("the help does not say %s:\n%s", w, help)
		}
	}
	golden(t, "demo-help.golden", help)
}

func TestJUnit(t *testing.T) {
	file := filepath.Join(t.TempDir(), "demo.xml")
	if err := os.WriteFile(file, []byte("an earlier run"), 0o600); err != nil {
		t.Fatal(err)
	}
	rs := append(results(scenarios.Fail), result("L2", scenarios.Error, "not judged: another DataPath of the scenario is not served"),
		result("T1", scenarios.Skip, "three disjoint sets need three sensors; 2 can be had"))
	code, _, stderr := demoOf(t, 0, rs, "--junit", file)
	if code != 1 || stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "demo.xml", string(text))
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(filepath.Dir(file)); len(left) != 1 || err != nil {
		t.Errorf("in the folder: %v, %v", left, err)
	}
}

// junitDoc is what a reader of JUnit XML looks for.
type junitDoc struct {
	Tests    int `xml:"tests,attr"`
	Failures int `xml:"failures,attr"`
	Errors   int `xml:"errors,attr"`
	Skipped  int `xml:"skipped,attr"`
	Suites   []struct {
		Name  string  `xml:"name,attr"`
		Tests int     `xml:"tests,attr"`
		Time  float64 `xml:"time,attr"`
		Cases []struct {
			Name      string  `xml:"name,attr"`
			Class     string  `xml:"classname,attr"`
			Time      float64 `xml:"time,attr"`
			Failure   string  `xml:"failure"`
			SystemOut string  `xml:"system-out"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

// Whatever is in a reason, the file is XML 1.0 and says it.
func TestJUnitText(t *testing.T) {
	var controls strings.Builder
	for c := range rune(0x20) {
		controls.WriteRune(c)
	}
	for _, c := range []struct{ in, want string }{
		{"plain", "plain"},
		{"a < b && c > \"d\" ]]> e", "a < b && c > \"d\" ]]> e"},
		{"\x1b[31mred\x1b[0m", "\uFFFD[31mred\uFFFD[0m"},
		{"<" + controls.String() + ">", "<" + strings.Repeat("\uFFFD", 9) + "\t\n" + strings.Repeat("\uFFFD", 21) + ">"},
		{"half \xff\xfe, \uFFFE, grüße, 🦀", "half \uFFFD\uFFFD, \uFFFD, grüße, 🦀"},
	} {
		file := filepath.Join(t.TempDir(), "demo.xml")
		r := result("M1", scenarios.Fail, c.in)
		r.Notes = []string{c.in}
		demoOf(t, 0, []scenarios.Result{r}, "--junit", file)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var doc junitDoc
		if err := xml.Unmarshal(text, &doc); err != nil {
			t.Errorf("%q: %v:\n%s", c.in, err, text)
			continue
		}
		if got := doc.Suites[0].Cases[0]; got.Failure != c.want || got.SystemOut != c.want {
			t.Errorf("%q: failure %q, system-out %q, want %q", c.in, got.Failure, got.SystemOut, c.want)
		}
	}
}

// Suites are scenarios, in the order in which they come, also where they come in turns.
func TestJUnitSuites(t *testing.T) {
	file := filepath.Join(t.TempDir(), "demo.xml")
	rs := []scenarios.Result{result("T1", scenarios.Pass, ""), result("M1", scenarios.Fail, "lost"), result("T2", scenarios.Error, "gone"), result("M2", scenarios.Skip, "one")}
	demoOf(t, 0, rs, "--junit", file)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var doc junitDoc
	if err := xml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range doc.Suites {
		for _, c := range s.Cases {
			got = append(got, fmt.Sprintf("%s %d %g: %s %.2s %g", s.Name, s.Tests, s.Time, c.Class, c.Name, c.Time))
		}
	}
	want := []string{"truth 2 23: embedded.hollow.truth T1 11.5", "truth 2 23: embedded.hollow.truth T2 11.5",
		"multicast 2 23: embedded.hollow.multicast M1 11.5", "multicast 2 23: embedded.hollow.multicast M2 11.5"}
	if diff := cmp.Diff(want, got); diff != "" || doc.Tests != 4 || doc.Failures != 1 || doc.Errors != 1 || doc.Skipped != 1 {
		t.Errorf("%+v (-want +got):\n%s", doc, diff)
	}
}

// A file that cannot be written is said before anything runs.
func TestJUnitRefused(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/dev/stdout", link); err != nil {
		t.Fatal(err)
	}
	f := cli.Fake{} // anything that runs panics
	const fix = "fix: name a file to write, such as --junit results.xml, in a folder that exists\n"
	for _, c := range []struct{ file, want string }{
		{"", `--junit: "" is no file`},
		{"-", `--junit: "-" is no file`},
		{dir, "--junit: " + dir + " is no regular file"},
		{link, "--junit: " + link + " is no regular file"},
		{dir + "/none/r.xml", "--junit: " + dir + "/none/r.xml: there is no folder " + dir + "/none"},
		{link + "/r.xml", "--junit: " + link + "/r.xml: there is no folder " + link},
		{"/proc/r.xml", "--junit: /proc/r.xml cannot be written: "},
	} {
		for _, command := range [][]string{{"demo"}, {"up", "--demo"}} {
			code, out, stderr := runFake(t.Context(), f, append(command, "--junit", c.file)...)
			if code != 2 || out != "" || !strings.HasPrefix(stderr, "error: "+c.want) || !strings.HasSuffix(stderr, "\n"+fix) {
				t.Errorf("%q --junit %q: exit code %d, stdout %q, stderr %q, want %q", command, c.file, code, out, stderr, c.want)
			}
		}
	}
}

// A folder that goes while the demo runs costs the file and not the verdict.
func TestJUnitLost(t *testing.T) {
	for _, c := range []struct {
		status, sum string
		code        int
	}{{scenarios.Pass, "3 passed", 3}, {scenarios.Fail, "1 failed", 1}} {
		dir := filepath.Join(t.TempDir(), "reports")
		f := cli.Fake{
			Describe: func(context.Context, testbed.Options) (*testbed.Status, error) { return ready(), nil },
			Demo: func(context.Context, *testbed.Status, string, func(testbed.Event)) ([]scenarios.Result, error) {
				return results(c.status), os.Remove(dir)
			},
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		code, out, stderr := runFake(t.Context(), f, "demo", "-q", "--junit", dir+"/r.xml")
		if code != c.code || !strings.Contains(out, c.sum) || !strings.HasPrefix(stderr, "error: --junit: ") || !strings.Contains(stderr, "fix: ") {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", c.status, code, out, stderr)
		}
	}
}

// A run that was cut short has its file: what was judged until then, and what was not.
func TestJUnitInterrupted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "demo.xml")
	f := cli.Fake{
		Describe: func(context.Context, testbed.Options) (*testbed.Status, error) { return ready(), nil },
		Demo: func(ctx context.Context, _ *testbed.Status, _ string, _ func(testbed.Event)) ([]scenarios.Result, error) {
			<-ctx.Done()
			return []scenarios.Result{result("M1", scenarios.Pass, ""), result("M2", scenarios.Error, "interrupted: "+ctx.Err().Error())}, nil
		},
	}
	code, out, stderr := runFake(t.Context(), f, "demo", "-q", "--timeout", "1ms", "--junit", file)
	if code != 1 || out != "" || !strings.Contains(stderr, "not done within --timeout 1ms") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, out, stderr)
	}
	if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), `tests="2" failures="0" errors="1"`) {
		t.Errorf("%v:\n%s", err, text)
	}
}
