package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fluidos-edge/testbed/scenarios"
	"github.com/fluidos-edge/testbed/simulators/board"
	"github.com/fluidos-edge/testbed/testbed"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

type upFlags struct {
	consumers, providers int
	retain               bool
	external             []string
	backend, edge        string
	images               string
	demo                 bool
	demoFlags            demoFlags
}

func (a *app) upCommand() *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring a testbed up, or make one that runs as described",
		Long: `up brings about what the topology file describes: without -f what runs already, or the
default testbed. What runs as asked is kept. A failed or interrupted up undoes what it
made, unless --retain; what it built stays in the cache. The first one builds etcd,
Kubernetes, Telegraf and InfluxDB from source, which takes some minutes.

On its own it takes kind clusters, and KubeEdge, only where a container engine answers and
has their images; otherwise it runs everything as processes. --backend kind gets what it
needs: images of the engine, of --images, published ones, or built here, in this order.`,
		Example: `  testbed up
  testbed up --consumers 3 --providers 2 --name big
  testbed up -f lab.yaml --demo
  testbed up --backend kind --edge kubeedge
  testbed up --external provider-1/erm    # the ERM is yours to run, in a debugger`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.up(cmd, f) },
	}
	flags := cmd.Flags()
	flags.IntVar(&f.consumers, "consumers", 0, "so many consumers like the default ones, instead of a file")
	flags.IntVar(&f.providers, "providers", 0, "so many providers like the default one, instead of a file")
	flags.BoolVar(&f.retain, "retain", false, "keep what a failed up made, to look at")
	flags.BoolVar(&f.demo, "demo", false, "run the scenarios, then show how to reach everything")
	f.demoFlags.add(cmd)
	flags.StringArrayVar(&f.external, "external", nil, "`component` that somebody else runs, such as provider-1/erm; repeatable")
	flags.StringVar(&f.backend, "backend", testbed.Auto, "what clusters run `on`: auto, embedded (processes) or kind (containers)")
	flags.StringVar(&f.edge, "edge", testbed.Auto, "edge `runtime`: auto, hollow or kubeedge (on kind)")
	flags.StringVar(&f.images, "images", "", "`folder` with archives of images, looked into before any registry (kind)")
	fixedWords(cmd, "backend", testbed.Auto, testbed.BackendEmbedded, testbed.BackendKind)
	fixedWords(cmd, "edge", testbed.Auto, testbed.EdgeHollow, testbed.EdgeKubeEdge)
	if err := cmd.RegisterFlagCompletionFunc("external", a.complete(componentNames)); err != nil {
		panic(err)
	}
	return cmd
}

func (a *app) up(cmd *cobra.Command, f upFlags) error {
	for _, flag := range []string{"strict", "junit"} {
		if cmd.Flags().Changed(flag) && !f.demo {
			return usage("add --demo", "--%s is for --demo", flag)
		}
	}
	if err := f.demoFlags.check(cmd); err != nil {
		return err
	}
	o := a.options()
	o.Retain, o.External = f.retain, f.external
	o.Backend, o.Edge = f.backend, f.edge
	if f.images != "" {
		// The testbed remembers it, and may be continued from another folder.
		dir, err := filepath.Abs(f.images)
		if err != nil {
			return err
		}
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return badInput("name a folder with archives as `docker save` writes them", "--images: %s is no folder", f.images)
		}
		o.Images = dir
	}
	if !a.quiet {
		o.Chosen = a.printChoice
	}
	var err error
	if o.Topology, err = a.topology(cmd, f); err != nil {
		return err
	}
	if o.Topology != nil {
		for _, w := range o.Topology.Warnings() {
			fmt.Fprintf(a.stderr, "warning: %s\n", w)
		}
	}
	ctx, cancel := a.deadline(cmd.Context())
	defer cancel()
	s, err := a.bringUp(ctx, o)
	if err != nil {
		return err
	}
	var results []scenarios.Result
	var verdict error
	if f.demo {
		if results, verdict = a.runDemo(ctx, s, allScenarios, f.demoFlags); results == nil {
			return verdict
		}
	}
	if verdict == nil && s.Phase != testbed.PhaseReady {
		verdict = &verdictError{exit: exitFailed}
	}
	switch {
	case a.json() && f.demo:
		err = a.printJSON(struct {
			Status *testbed.Status    `json:"status"`
			Demo   []scenarios.Result `json:"demo"`
		}{s, results})
	case a.json():
		err = a.printJSON(s)
	default:
		if f.demo {
			a.printResults(results, f.demoFlags)
			a.printf("\n")
		}
		a.printStatus(s)
		a.printExternal(s)
		a.printNext(s, f.demo)
	}
	return cmp.Or(err, verdict)
}

func (a *app) printChoice(c testbed.Choice) {
	fmt.Fprintf(a.stderr, "backend %s, edge %s: %s\n", c.Backend, c.Edge, c.Why)
	if c.Other != "" {
		fmt.Fprintf(a.stderr, "the other choice: `%s`\n", a.command("up "+c.Other))
	}
}

func (a *app) bringUp(ctx context.Context, o testbed.Options) (*testbed.Status, error) {
	p := a.progress()
	defer p.end()
	o.Progress = p.tell
	if !o.Retain {
		defer p.whenInterrupted(ctx, "undoing what was begun; Ctrl-C again leaves that to `"+a.command("down")+"`")()
	}
	s, err := a.engine.up(ctx, o)
	if err = a.notUp(caused(ctx, err), "testbed "+a.name+" could not be brought up",
		"try again with --retain and -v, and read the log that is named; `"+a.command("down")+"` removes what is left"); err != nil {
		return nil, err
	}
	return s, nil
}

// caused adds why ctx ended.
func caused(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errTimeout) && !errors.Is(err, errTimeout) {
		return fmt.Errorf("%w: %w", errTimeout, err)
	}
	return err
}

// topology that the flags ask for; nil leaves it to what runs.
func (a *app) topology(cmd *cobra.Command, f upFlags) (*topology.Topology, error) {
	custom := false
	for _, c := range []struct {
		flag   string
		value  *int
		absent int
	}{{"consumers", &f.consumers, 2}, {"providers", &f.providers, 1}} {
		switch {
		case !cmd.Flags().Changed(c.flag):
			*c.value = c.absent
		case *c.value < 1 || *c.value > maxClusters:
			return nil, usage(fmt.Sprintf("use a number from 1 to %d", maxClusters), "--%s: %d is no number of clusters", c.flag, *c.value)
		default:
			custom = true
		}
	}
	switch {
	case custom && a.file != "":
		return nil, usage("write the clusters into the file, or leave -f out", "-f and --consumers or --providers exclude each other")
	case custom:
		return topology.Custom(f.consumers, f.providers), nil
	case a.file == "":
		return nil, nil
	}
	name, data, err := a.read(a.file)
	if err != nil {
		return nil, err
	}
	t, err := topology.Load(name, data)
	if err != nil {
		return nil, err
	}
	return t, a.readReplays(a.file, t)
}

// readReplays reads the files that boards replay, relative to the topology's.
func (a *app) readReplays(file string, t *topology.Topology) error {
	dir := filepath.Dir(file)
	if file == "-" {
		dir = "."
	}
	for i, p := range t.Providers {
		for j := range p.Boards {
			b := &p.Boards[j]
			if b.Replay == "" {
				continue
			}
			path := b.Replay
			if !filepath.IsAbs(path) {
				path = filepath.Join(dir, path)
			}
			at := fmt.Sprintf("%s: providers[%d].boards[%d].replay", file, i, j)
			text, err := os.ReadFile(path)
			if err != nil {
				return &failure{exit: exitUsage, code: "input", message: at + ": " + err.Error(), fix: "name a CSV file, relative to the folder of " + file, err: err}
			}
			if _, err := board.ParseReplay(b.Model, string(text)); err != nil {
				return badInput("docs/boards.md has the form of such a file", "%s: %s: %v", at, path, err)
			}
			b.ReplayCSV = string(text)
		}
	}
	return nil
}

const (
	// maxClusters of a kind: each one is some processes and 200 MiB.
	maxClusters = 50
	maxInput    = 8 << 20
)

// read a file, or standard input for "-".
func (a *app) read(file string) (name string, data []byte, err error) {
	in, name := a.stdin, "standard input"
	if file != "-" {
		name = file
		f, err := os.Open(file)
		if err != nil {
			return "", nil, &failure{exit: exitUsage, code: "input", message: err.Error(), fix: "name a file that can be read, or - for standard input" + alike(file), err: err}
		}
		defer f.Close()
		in = f
	}
	if data, err = io.ReadAll(io.LimitReader(in, maxInput+1)); err != nil {
		return "", nil, &failure{exit: exitUsage, code: "input", message: "read " + name + ": " + err.Error(), fix: "name a file, not a folder", err: err}
	}
	if len(data) > maxInput {
		return "", nil, badInput("check that this is the file that you mean", "%s is larger than %d MiB", name, maxInput>>20)
	}
	return name, data, nil
}

// alike names files in the same folder that were probably meant.
func alike(file string) string {
	base := strings.TrimSuffix(file, filepath.Ext(file))
	for _, ext := range []string{".yaml", ".yml"} {
		if _, err := os.Stat(base + ext); err == nil {
			return "; there is " + base + ext
		}
	}
	return ""
}

// printNext are the commands for the next minute.
func (a *app) printNext(s *testbed.Status, demoRan bool) {
	a.printf("\nnext:\n")
	if !demoRan {
		a.printf("  %s\n", a.command("demo"))
	}
	for _, p := range s.Providers {
		a.printf("  %s\n", a.command("kubectl "+p.Name+" -- get flavors,datapaths,devices,rules,nodes -A"))
	}
	a.printf("  %s\n", a.command("down"))
}

func (a *app) downCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove a testbed: processes and files, all but caches",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := a.work(cmd.Context(), a.down)
			if errors.Is(err, testbed.ErrAbsent) {
				return &failure{exit: exitAbsent, code: "absent", message: "testbed " + a.name + " is not up", fix: "nothing: there is nothing to remove", err: err}
			}
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(map[string]string{"name": a.name, "phase": testbed.PhaseAbsent})
			}
			a.printf("testbed %s is removed\n", a.name)
			return nil
		},
	}
}

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "What runs and how to reach it",
		Long:  "status shows clusters, components and the time of each phase.\nExit code 0 if the testbed is Ready, 1 if Degraded or still Starting, 4 if there is none.",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.deadline(cmd.Context())
			defer cancel()
			s, err := a.describe(ctx, a.options())
			if errors.Is(err, testbed.ErrAbsent) && a.json() {
				// Absent is an answer, not a failure to answer.
				s, err = &testbed.Status{Name: a.name, Phase: testbed.PhaseAbsent,
					Clusters: []testbed.Cluster{}, Components: []testbed.Component{}, Phases: []testbed.PhaseTime{}}, nil
			}
			if err != nil {
				return caused(ctx, err)
			}
			if a.json() {
				if err := a.printJSON(s); err != nil {
					return err
				}
			} else {
				a.printStatus(s)
				a.printExternal(s)
			}
			switch s.Phase {
			case testbed.PhaseReady:
				return nil
			case testbed.PhaseAbsent:
				return &verdictError{exit: exitAbsent}
			}
			if !a.json() {
				fmt.Fprintf(a.stderr, "fix: `%s` starts what does not run\n", a.command("up"))
			}
			return &verdictError{exit: exitFailed}
		},
	}
}

func (a *app) assetsCommand() *cobra.Command {
	build := &cobra.Command{
		Use:   "build",
		Short: "Build etcd, Kubernetes, Telegraf and InfluxDB into the cache",
		Long: `build makes what the embedded backend runs, from pinned Go modules, unless it is in the
cache. An interrupted build continues where it was; two at once do not disturb each other. The result is the folder.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := a.work(cmd.Context(), a.buildAssets)
			if err := a.notUp(err, "assets could not be built", "read what the compiler says; `testbed assets build` continues"); err != nil {
				return err
			}
			kubectl, err := a.kubectl()
			if err != nil {
				return a.notUp(err, "assets", "`testbed assets build`")
			}
			if a.json() {
				return a.printJSON(struct {
					Folder string            `json:"folder"`
					Pins   map[string]string `json:"pins"`
				}{filepath.Dir(kubectl), testbed.Pins()})
			}
			a.printf("%s\n", filepath.Dir(kubectl))
			return nil
		},
	}
	return group(&cobra.Command{Use: "assets", Short: "What the embedded backend runs"}, build)
}

// createClusterCommand is the child in which kind's library runs.
func (a *app) createClusterCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "create-kind-cluster",
		Short:  "Create one kind cluster; `up` runs it",
		Hidden: true,
		Args:   exactly(),
		RunE: func(*cobra.Command, []string) error {
			return testbed.CreateKindCluster(a.stdin, a.stderr)
		},
	}
}

func (a *app) superviseCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "supervise",
		Short:  "Be the supervisor of a testbed; `up` starts it",
		Hidden: true,
		Args:   exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := a.supervise(cmd.Context(), a.name)
			if cmd.Context().Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
				return nil // a signal is how it ends
			}
			return err
		},
	}
}
