package cli

import (
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fluidos-edge/testbed/scenarios"
)

// The elements of a JUnit XML file, as Jenkins, GitLab and GitHub actions read them. A
// failure is an assertion that failed, an error one that could not be judged.
type (
	junitSuites struct {
		XMLName xml.Name `xml:"testsuites"`
		Name    string   `xml:"name,attr"`
		junitCounts
		Suites []junitSuite `xml:"testsuite"`
	}
	// junitSuite is a scenario.
	junitSuite struct {
		Name string `xml:"name,attr"`
		junitCounts
		Properties []junitProperty `xml:"properties>property"`
		Cases      []junitCase     `xml:"testcase"`
	}
	junitCounts struct {
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Time     junitSeconds `xml:"time,attr"`
	}
	junitProperty struct {
		Name  string `xml:"name,attr"`
		Value string `xml:"value,attr"`
	}
	// junitCase is an assertion.
	junitCase struct {
		Name      string       `xml:"name,attr"`
		Class     string       `xml:"classname,attr"`
		Time      junitSeconds `xml:"time,attr"`
		Failure   *junitText   `xml:"failure"`
		Error     *junitText   `xml:"error"`
		Skipped   *junitText   `xml:"skipped"`
		SystemOut *junitOutput `xml:"system-out"`
	}
	junitText struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",cdata"`
	}
	junitOutput struct {
		Text string `xml:",cdata"`
	}
	junitSeconds float64
)

// MarshalText writes seconds as a decimal number without exponent.
func (s junitSeconds) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%.3f", float64(s)), nil }

func (c *junitCounts) add(r scenarios.Result) {
	c.Tests++
	c.Time += junitSeconds(r.Seconds)
	switch r.Status {
	case scenarios.Fail:
		c.Failures++
	case scenarios.Error:
		c.Errors++
	case scenarios.Skip:
		c.Skipped++
	}
}

// junit is a file of results, with a suite for each scenario.
func junit(results []scenarios.Result) ([]byte, error) {
	doc := junitSuites{Name: "testbed"}
	for _, r := range results {
		doc.Name = xmlText("testbed " + r.Testbed)
		doc.add(r)
		i := slices.IndexFunc(doc.Suites, func(s junitSuite) bool { return s.Name == r.Scenario })
		if i < 0 {
			i = len(doc.Suites)
			doc.Suites = append(doc.Suites, junitSuite{Name: r.Scenario, Properties: []junitProperty{
				{"testbed", r.Testbed}, {"backend", r.Backend}, {"edge", r.Edge}, {"run", r.Run}}})
		}
		doc.Suites[i].add(r)
		doc.Suites[i].Cases = append(doc.Suites[i].Cases, junitCaseOf(r))
	}
	b, err := xml.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, err
	}
	return append([]byte(xml.Header), append(b, '\n')...), nil
}

func junitCaseOf(r scenarios.Result) junitCase {
	c := junitCase{
		Name: r.Assertion + " " + r.Title, Class: r.Backend + "." + r.Edge + "." + r.Scenario, Time: junitSeconds(r.Seconds),
	}
	text := &junitText{Message: firstLine(r.Reason), Text: xmlText(strings.Join(slices.Concat(problemGroups(r)...), "\n"))}
	switch r.Status {
	case scenarios.Fail:
		c.Failure = text
	case scenarios.Error:
		c.Error = text
	case scenarios.Skip:
		c.Skipped = text
	}
	if len(r.Notes) > 0 {
		c.SystemOut = &junitOutput{Text: xmlText(strings.Join(r.Notes, "\n"))}
	}
	return c
}

// xmlText replaces what XML 1.0 forbids: encoding/xml does so everywhere but in CDATA.
func xmlText(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t', r == '\n', r >= 0x20 && r <= 0xD7FF, r >= 0xE000 && r <= 0xFFFD, r >= 0x10000:
			return r
		}
		return '\uFFFD'
	}, s)
}

// checkJUnit tells whether a file could be written.
func checkJUnit(path string) error {
	const fix = "name a file to write, such as --junit results.xml, in a folder that exists"
	if path == "" || path == "-" {
		return badInput(fix, "--junit: %q is no file", path)
	}
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return badInput(fix, "--junit: %s is no regular file", path)
	}
	dir := filepath.Dir(path)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return badInput(fix, "--junit: %s: there is no folder %s", path, dir)
	}
	f, err := temporary(path)
	if err == nil {
		err = errors.Join(f.Close(), os.Remove(f.Name()))
	}
	if err != nil {
		return badInput(fix, "--junit: %s cannot be written: %v", path, err)
	}
	return nil
}

// temporary file that can become another.
func temporary(path string) (*os.File, error) {
	return os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
}

// writeJUnit replaces a file as a whole.
func writeJUnit(path string, results []scenarios.Result) error {
	b, err := junit(results)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	f, err := temporary(path)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
