package cli

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/board"
	"github.com/fluidos-edge/testbed/simulators/fleet"
	"github.com/fluidos-edge/testbed/testbed"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

func (a *app) boardAddCommand() *cobra.Command {
	var b topology.Board
	var provider, replay string
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Switch another board on",
		Long: `add switches another board on in a running testbed. The mappers of the nodes that hear it
register it by themselves. It is there until it is removed, or the provider's boards start
anew: what is to stay belongs into the topology file.`,
		Example: `  testbed board add extra-1
  testbed board add extra-2 --model STWINBX1 --node edge-1 --rate 10 --offers stts22h,iis2mdc
  testbed board add cellar --replay cellar.csv`,
		Args:              exactly("NAME"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			b.Name = args[0]
			if b.Model = strings.ToUpper(b.Model); len(bluest.Parts(b.Model)) == 0 {
				return usage("use --model "+topology.STWINKT1B+" or "+topology.STWINBX1, "--model: %q is not simulated", b.Model)
			}
			if replay != "" {
				var err error
				if b.ReplayCSV, err = readReplay(b.Model, replay); err != nil {
					return err
				}
			}
			ctx, cancel := a.deadline(cmd.Context())
			defer cancel()
			socket, err := a.providerSocket(ctx, provider, b.Nodes)
			if err != nil {
				return err
			}
			added, err := fleet.NewClient(socket).Add(ctx, b)
			if err != nil {
				return a.noBoards(ctx, err)
			}
			return a.printBoard(added)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&b.Model, "model", topology.STWINKT1B, "`model` of the board: "+topology.STWINKT1B+" or "+topology.STWINBX1)
	flags.StringSliceVar(&b.Nodes, "node", nil, "edge `node` that hears it; repeatable; default one of the provider's")
	flags.Float64Var(&b.Rate, "rate", 0, "environmental readings per second, 0.1 to 100; default 2")
	flags.StringSliceVar(&b.Offers, "offers", nil, "`parts` on offer, such as hts221,iis2mdc; default the environmental ones")
	flags.StringVar(&b.MAC, "mac", "", "BLE `address`, such as c0:83:2a:10:20:30; default drawn from seed and name")
	flags.StringVar(&b.ID, "id", "", "96-bit `id`, 24 hex digits; default drawn from seed and name")
	flags.StringVar(&replay, "replay", "", "CSV `file` with readings to send instead of its model's")
	flags.StringVar(&provider, "provider", "", "`provider` that gets the board; default the only one, or the one with --node")
	fixedWords(cmd, "model", topology.STWINKT1B, topology.STWINBX1)
	completeFlag(cmd, "offers", func(cmd *cobra.Command, _ []string, given string) []string {
		before := given[:strings.LastIndexByte(given, ',')+1]
		var words []string
		for _, p := range partNames(b.Model) {
			words = append(words, before+p)
		}
		return words
	})
	completeFlag(cmd, "provider", a.completeTopology(func(t *topology.Topology) (names []string) {
		for _, p := range t.Providers {
			names = append(names, p.Name)
		}
		return names
	}))
	completeFlag(cmd, "node", a.completeTopology(func(t *topology.Topology) (names []string) {
		for _, p := range t.Providers {
			for _, n := range p.EdgeNodes {
				if !slices.Contains(names, n.Name) && (provider == "" || provider == p.Name) {
					names = append(names, n.Name)
				}
			}
		}
		return names
	}))
	return cmd
}

func readReplay(model, path string) (string, error) {
	const fix = "name a CSV file as docs/boards.md describes it: its first line is seconds,QUANTITY,..."
	text, err := os.ReadFile(path)
	if err != nil {
		return "", badInput(fix, "--replay: %v", err)
	}
	if _, err := board.ParseReplay(model, string(text)); err != nil {
		return "", badInput(fix, "--replay: %s: %v", path, err)
	}
	return string(text), nil
}

// providerSocket is the control socket of the boards of a provider: of the one with the
// name; else of the first that has the nodes; else of the only one.
func (a *app) providerSocket(ctx context.Context, name string, nodes []string) (string, error) {
	sockets, err := a.controls(a.name) // in the order of the topology
	if err != nil {
		return "", err
	}
	if name == "" && len(sockets) == 1 {
		return sockets[0], nil
	}
	s, err := a.describe(ctx, testbed.Options{Name: a.name})
	if err != nil {
		return "", err
	}
	if s.Topology == nil {
		return "", badInput("bring it up first: `"+a.command("up")+"`", "testbed %s has no topology yet", a.name)
	}
	var providers []string
	for i, p := range s.Topology.Providers {
		providers = append(providers, p.Name)
		has := len(nodes) > 0 && !slices.ContainsFunc(nodes, func(n string) bool { return !slices.Contains(p.EdgeNodes, topology.EdgeNode{Name: n}) })
		if i < len(sockets) && (p.Name == name || name == "" && has) {
			return sockets[i], nil
		}
	}
	known := strings.Join(providers, ", ")
	switch {
	case name != "":
		return "", badInput("use one of "+known, "--provider: there is no %q", name)
	case len(nodes) > 0:
		return "", badInput("use edge nodes of one provider: `"+a.command("status -o json")+"` has the topology", "--node: no provider has %s", strings.Join(nodes, " and "))
	}
	return "", usage("add --provider, one of "+known, "which provider gets the board?")
}

func (a *app) boardRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Switch a board off for good",
		Long: `remove switches a board off and forgets it. Its Device stays in Kubernetes, offline, until
somebody deletes it; a board of the topology file is back when the boards start anew.`,
		Example: `  testbed board remove extra-1
  testbed kubectl provider-1 -- delete device -n fluidos stwinkt1b-c0832a102030`,
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeBoard(),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := a.deadline(cmd.Context())
			defer cancel()
			socket, err := a.boardSocket(ctx, args[0])
			if err != nil {
				return err
			}
			client := fleet.NewClient(socket)
			b, err := client.Board(ctx, args[0])
			if err == nil {
				err = client.Remove(ctx, args[0])
			}
			if err != nil {
				return a.noBoards(ctx, err)
			}
			if a.json() {
				return a.printJSON(b)
			}
			a.printf("board %s is removed; Device %s stays, offline, until it is deleted\n", b.Name, b.Device)
			return nil
		},
	}
}

func (a *app) boardFaultCommand() *cobra.Command {
	var f topology.Fault
	var clearing bool
	var lasts time.Duration
	cmd := &cobra.Command{
		Use:   "fault NAME KIND",
		Short: "Make something go wrong with a board, or well again",
		Long: `fault makes something go wrong with a board, until it is cleared or --for is over:

  silence       connected, but sends nothing
  stuck         the values of --part, or of all parts, do not change any more
  drift         the values of --part, or of all parts, run away by --slope a minute
  garbage       frames of the wrong length and content
  battery-low   the battery reports 5 % and low
  reboot        restarts, once: 2 s off the air, uptime from 0
  clone         carries the 96-bit id of board --of
  out-of-range  no radio hears it

A board has at most one fault of a kind; a second one replaces the first. What one sees of
each - Events, DeviceStatus, Flavors, DataPaths - is in docs/boards.md.`,
		Example: `  testbed board fault stwinkt1b-1 silence --for 1m
  testbed board fault stwinkt1b-1 drift --part hts221 --slope 2
  testbed board fault stwinkt1b-2 clone --of stwinkt1b-1
  testbed board fault stwinkt1b-1 drift --clear
  testbed board fault stwinkt1b-1 --clear`,
		Args: func(cmd *cobra.Command, args []string) error {
			if clearing && len(args) == 1 {
				return nil
			}
			return exactly("NAME", "KIND")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				if f.Kind = args[1]; !slices.Contains(topology.FaultKinds, f.Kind) {
					return usage("use one of "+strings.Join(topology.FaultKinds, ", "), "there is no kind of fault %q", f.Kind)
				}
			}
			for _, flag := range []string{"part", "slope", "of", "for"} {
				if clearing && cmd.Flags().Changed(flag) {
					return usage("leave one of them out", "--clear and --%s exclude each other", flag)
				}
			}
			if f.For = topology.Duration(lasts); lasts < 0 {
				return usage("use a duration such as --for 1m", "--for: %s is negative", lasts)
			}
			ctx, cancel := a.deadline(cmd.Context())
			defer cancel()
			socket, err := a.boardSocket(ctx, args[0])
			if err != nil {
				return err
			}
			client := fleet.NewClient(socket)
			var b fleet.Board
			if clearing {
				b, err = client.Clear(ctx, args[0], f.Kind)
			} else {
				b, err = client.Fault(ctx, args[0], f)
			}
			if err != nil {
				return a.noBoards(ctx, err)
			}
			return a.printBoard(b)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, given string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return topology.FaultKinds, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeBoard()(cmd, args, given)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.Part, "part", "", "`part` that is stuck or drifts; default every one")
	flags.Float64Var(&f.Slope, "slope", 0, "how far a drift goes in a minute, in the unit of the reading; default 1")
	flags.StringVar(&f.Of, "of", "", "`board` whose id a clone carries")
	flags.DurationVar(&lasts, "for", 0, "how long it lasts; default until it is cleared")
	flags.BoolVar(&clearing, "clear", false, "end the fault of KIND, or all faults")
	completeFlag(cmd, "part", a.completePart)
	completeFlag(cmd, "of", func(cmd *cobra.Command, args []string, _ string) []string {
		return slices.DeleteFunc(a.liveBoards(cmd.Context()), func(n string) bool { return slices.Contains(args, n) })
	})
	return cmd
}

// boardSocket is the control socket of the process that has a board: by the topology, or,
// for a board that was added since, by asking.
func (a *app) boardSocket(ctx context.Context, name string) (string, error) {
	socket, err := a.control(a.name, name)
	if !errors.As(err, new(*testbed.InputError)) {
		return socket, err
	}
	sockets, otherErr := a.controls(a.name)
	if otherErr != nil {
		return "", otherErr
	}
	for _, s := range sockets {
		if _, otherErr := fleet.NewClient(s).Board(ctx, name); otherErr == nil {
			return s, nil
		}
	}
	return "", caused(ctx, err)
}

// completionTime bounds what a shell waits for.
const completionTime = 3 * time.Second

// liveBoards are the names of all boards that answer.
func (a *app) liveBoards(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	sockets, err := a.controls(a.name)
	if err != nil {
		return nil
	}
	var names []string
	for _, s := range sockets {
		boards, err := fleet.NewClient(s).Boards(ctx)
		if err != nil {
			continue
		}
		for _, b := range boards {
			names = append(names, b.Name)
		}
	}
	return names
}

// completeBoard suggests boards for the first argument.
func (a *app) completeBoard() cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.liveBoards(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
	}
}

// named is the board of the first argument, if it answers.
func (a *app) named(cmd *cobra.Command, args []string) (b fleet.Board, ok bool) {
	if len(args) == 0 {
		return b, false
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	socket, err := a.boardSocket(ctx, args[0])
	if err != nil {
		return b, false
	}
	b, err = fleet.NewClient(socket).Board(ctx, args[0])
	return b, err == nil
}

// completePart suggests the parts of the board, or of all models.
func (a *app) completePart(cmd *cobra.Command, args []string, _ string) []string {
	if b, ok := a.named(cmd, args); ok {
		return partNames(b.Model)
	}
	return partNames(topology.STWINKT1B, topology.STWINBX1)
}

func (a *app) completeQuantity(cmd *cobra.Command, args []string, _ string) []string {
	b, _ := a.named(cmd, args)
	return quantityNames(b)
}

// completeTopology suggests words of what the testbed was made from.
func (a *app) completeTopology(words func(*topology.Topology) []string) func(*cobra.Command, []string, string) []string {
	return func(cmd *cobra.Command, _ []string, _ string) []string {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		s, err := a.describe(ctx, testbed.Options{Name: a.name})
		if err != nil || s.Topology == nil {
			return nil
		}
		return words(s.Topology)
	}
}

// completeFlag suggests words for a flag. It fails only for a flag that does not exist.
func completeFlag(cmd *cobra.Command, flag string, words func(cmd *cobra.Command, args []string, given string) []string) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, args []string, given string) ([]string, cobra.ShellCompDirective) {
		return words(cmd, args, given), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err)
	}
}

// partNames are the parts of models, each once.
func partNames(models ...string) []string {
	var names []string
	for _, m := range models {
		for _, p := range bluest.Parts(m) {
			if !slices.Contains(names, p.Name) {
				names = append(names, p.Name)
			}
		}
	}
	return names
}
