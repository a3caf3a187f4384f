package cli

import (
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
)

// Version of this program; the linker sets it (-X, see Makefile).
var Version string

type versions struct {
	Version string            `json:"version"`
	Commit  string            `json:"commit"`
	Go      string            `json:"go"`
	Pins    map[string]string `json:"pins"`
}

// buildVersion is what the Go linker recorded; "devel" and "unknown" outside a checkout.
func buildVersion() versions {
	v := versions{Version: "devel", Commit: "unknown", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		v.Version = info.Main.Version
	}
	if Version != "" {
		v.Version = Version
	}
	modified := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			modified = s.Value == "true"
		}
	}
	if modified {
		v.Commit += "-dirty"
	}
	return v
}

func (a *app) printVersion(v versions) {
	rows := [][]string{{"testbed", v.Version}, {"commit", v.Commit}, {"go", v.Go}}
	for _, name := range slices.Sorted(maps.Keys(v.Pins)) {
		rows = append(rows, []string{name, v.Pins[name]})
	}
	a.printTable([]string{"PROGRAM", "VERSION"}, rows)
}
