package cli

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fluidos-edge/testbed/simulators/fleet"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

func (a *app) boardCommand() *cobra.Command {
	return group(&cobra.Command{Use: "board", Short: "See and change boards, read their frames"},
		a.boardDecodeCommand(), a.boardListCommand(), a.boardShowCommand(), a.boardSetCommand(),
		a.boardAddCommand(), a.boardRemoveCommand(), a.boardFaultCommand())
}

func (a *app) boardListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "All boards of a testbed",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.deadline(cmd.Context())
			defer cancel()
			sockets, err := a.controls(a.name)
			if err != nil {
				return err
			}
			all := []fleet.Board{}
			for _, s := range sockets {
				boards, err := fleet.NewClient(s).Boards(ctx)
				if err != nil {
					return a.noBoards(ctx, err)
				}
				all = append(all, boards...)
			}
			return a.printBoards(all, all)
		},
	}
}

func (a *app) boardSetCommand() *cobra.Command {
	var part, latency, jitter, manufacturer, market string
	var rate float64
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change a board: how it behaves, or what a part declares",
		Long: `set changes a running board; its mapper notices by itself. With --part it is what that part
declares, right or wrong: --latency "12ms", "0.015 s" or "soon"; "" clears it. Without, it is
how the board behaves: --rate, --latency and --jitter of its readings.`,
		Example: `  testbed board set stwinkt1b-1 --part hts221 --latency 20ms
  testbed board set stwinkt1b-1 --rate 4 --latency 30ms --jitter 5ms`,
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeBoard(),
		RunE: func(cmd *cobra.Command, args []string) error {
			changed := cmd.Flags().Changed
			patch := fleet.Patch{}
			if part != "" {
				var d topology.Declared
				if changed("rate") || changed("jitter") {
					return usage("set --rate and --jitter in a call without --part", "--part: rate and jitter belong to the whole board")
				}
				if changed("latency") {
					value, unit := splitUnit(latency)
					d.Latency, d.LatencyUnit = &value, &unit
				}
				if changed("manufacturer") {
					d.Manufacturer = &manufacturer
				}
				if changed("market") {
					d.Market = &market
				}
				if d == (topology.Declared{}) {
					return usage("add --latency, --manufacturer or --market", "nothing to change in part %s", part)
				}
				patch.Parts = map[string]topology.Declared{part: d}
			} else {
				if changed("manufacturer") || changed("market") {
					return usage("add --part, such as --part hts221", "--manufacturer and --market belong to a part")
				}
				if changed("rate") {
					patch.Rate = &rate
				}
				var err error
				if patch.Latency, err = behaviour(cmd, latency, jitter); err != nil {
					return err
				}
				if patch.Rate == nil && patch.Latency == nil {
					return usage("add --rate, --latency or --jitter, or --part and what it declares", "nothing to change")
				}
			}
			ctx, cancel := a.deadline(cmd.Context())
			defer cancel()
			socket, err := a.boardSocket(ctx, args[0])
			if err != nil {
				return err
			}
			b, err := fleet.NewClient(socket).Patch(ctx, args[0], patch)
			if err != nil {
				return a.noBoards(ctx, err)
			}
			return a.printBoard(b)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&part, "part", "", "`part` whose declaration changes, such as hts221")
	flags.StringVar(&latency, "latency", "", "with --part the declared latency, else the median of the board's readings")
	flags.StringVar(&jitter, "jitter", "", "how far a reading's latency is from the median at most")
	flags.Float64Var(&rate, "rate", 0, "readings per second, 0.1 to 100")
	flags.StringVar(&manufacturer, "manufacturer", "", "what --part declares")
	flags.StringVar(&market, "market", "", "what --part declares")
	completeFlag(cmd, "part", a.completePart)
	return cmd
}

// behaviour reads --latency and --jitter of a whole board.
func behaviour(cmd *cobra.Command, latency, jitter string) (*fleet.LatencyPatch, error) {
	var p fleet.LatencyPatch
	for _, f := range []struct {
		flag, value string
		into        **topology.Duration
	}{{"latency", latency, &p.Median}, {"jitter", jitter, &p.Jitter}} {
		if !cmd.Flags().Changed(f.flag) {
			continue
		}
		d, err := time.ParseDuration(f.value)
		if err != nil {
			return nil, usage("give a duration with its unit, such as --"+f.flag+" 20ms", "--%s: %q is no duration", f.flag, f.value)
		}
		v := topology.Duration(d)
		*f.into = &v
	}
	if p.Median == nil && p.Jitter == nil {
		return nil, nil
	}
	return &p, nil
}

// splitUnit parts "12ms" or "0.015 s" into number and unit; other text is all value.
func splitUnit(s string) (value, unit string) {
	i := strings.IndexFunc(s, func(r rune) bool { return !strings.ContainsRune("0123456789.+-", r) })
	if i <= 0 {
		return s, ""
	}
	return s[:i], strings.TrimSpace(s[i:])
}

// noBoards gives an error of the control socket a remedy: boards does not answer, or
// refuses what was asked.
func (a *app) noBoards(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return caused(ctx, err)
	}
	var dial *net.OpError
	if !errors.As(err, &dial) {
		return badInput("correct the value; `"+a.command("board list")+"` shows what there is", "%s", strings.TrimPrefix(err.Error(), "boards: "))
	}
	return &failure{exit: exitAbsent, code: "absent", message: err.Error(), fix: "`" + a.command("status") + "` shows whether boards runs, `" + a.command("up") + "` starts it", err: err}
}

func (a *app) printBoard(b fleet.Board) error { return a.printBoards(b, []fleet.Board{b}) }

// printBoards is doc as JSON, or a line for each part of each board, its faults below its
// state.
func (a *app) printBoards(doc any, boards []fleet.Board) error {
	if a.json() {
		return a.printJSON(doc)
	}
	var rows [][]string
	for _, b := range boards {
		states := []string{boardState(b)}
		for _, f := range b.Faults {
			states = append(states, "! "+faultName(f.Kind, f.Part))
		}
		for i := range max(len(b.Parts), len(states)) {
			r := []string{" ", " ", " ", " ", " ", " ", " ", " "}
			if i == 0 {
				node := b.ConnectedTo
				if node == "" {
					node = strings.Join(b.Nodes, ",")
				}
				r = []string{b.Name, b.Device, node, " ", hertz(b.Rate), latency(b), " ", " "}
			}
			if i < len(states) {
				r[3] = states[i]
			}
			if i < len(b.Parts) {
				p := b.Parts[i]
				r[6], r[7] = strings.ToLower(p.Model), strings.TrimSpace(p.Latency+" "+p.Properties.Unit.Latency)
			}
			rows = append(rows, r)
		}
	}
	a.printTable([]string{"BOARD", "DEVICE", "NODE", "STATE", "RATE", "LATENCY", "PART", "DECLARED"}, rows)
	return nil
}
