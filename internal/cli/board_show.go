package cli

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/fleet"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

func (a *app) boardShowCommand() *cobra.Command {
	var w watch
	var on bool
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "One board as a phone app shows it: advertisement, services, readings",
		Long: `show prints what an app on a phone would: the board's advertisement, its identity, its
services and characteristics, a reading of each, and what it declares on offer. It asks the
board itself, not its mapper, and takes no connection away.

With --watch the readings are taken again and again: in place on a terminal, elsewhere one
line each (-o json: one document a line). --plot draws one quantity as a chart; not on a
terminal the chart comes once, at the end. --interval, --count and --plot imply --watch.
Ctrl-C ends it with exit code 130, --count with 0.`,
		Example: `  testbed board show stwinkt1b-1
  testbed board show stwinkt1b-1 --watch
  testbed board show stwinkt1b-1 --plot temperature --interval 500ms
  testbed board show stwinkt1b-1 --count 10 -o json | jq .battery`,
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeBoard(),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, f := range []string{"interval", "count", "plot"} {
				on = on || cmd.Flags().Changed(f)
			}
			if err := w.check(); err != nil {
				return err
			}
			ctx, cancel := a.deadline(cmd.Context())
			defer cancel()
			socket, err := a.boardSocket(ctx, args[0])
			if err != nil {
				return err
			}
			client := fleet.NewClient(socket)
			if on {
				return a.watchBoard(ctx, client, args[0], &w)
			}
			b, err := client.Board(ctx, args[0])
			if err != nil {
				return a.noBoards(ctx, err)
			}
			if a.json() {
				return a.printJSON(b)
			}
			a.printPage(b)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&on, "watch", false, "read again and again")
	flags.DurationVar(&w.interval, "interval", time.Second, "`time` between two readings, at least "+leastInterval.String())
	flags.IntVar(&w.count, "count", 0, "end after so many readings; 0: with Ctrl-C")
	flags.StringVar(&w.plot, "plot", "", "draw this `quantity`, such as temperature")
	completeFlag(cmd, "plot", a.completeQuantity)
	return cmd
}

// printPage is all of a board.
func (a *app) printPage(b fleet.Board) {
	pair := func(name, value string) { a.printf("%-12s %s\n", name, value) }
	pair("board", b.Name)
	pair("model", b.Model)
	pair("MAC", b.MAC)
	pair("96-bit id", b.ID)
	pair("Device", b.Device)
	pair("connection", connection(b))
	pair("latency", latency(b))
	pair("up", short(time.Duration(b.Uptime)))
	pair("battery", fmt.Sprintf("%.1f %%", b.Battery))
	for i, f := range faults(b) {
		pair([]string{"faults", ""}[min(i, 1)], f)
	}

	a.printAdvertisement(b.Advertisement)

	a.printf("\n")
	var rows [][]string
	for _, s := range b.Services {
		rows = append(rows, []string{s.UUID, s.Name, " ", " "})
		for _, c := range s.Characteristics {
			rows = append(rows, []string{"  " + c.UUID, c.Name, strings.Join(c.Properties, ", "), rate(b, c.UUID)})
		}
	}
	a.printTable([]string{"SERVICE, CHARACTERISTIC", "NAME", "PROPERTIES", "RATE"}, rows)

	a.printf("\n")
	a.printTable(readingsHeader, readings(b))

	a.printf("\n")
	rows = nil
	for _, p := range b.Parts {
		unit := p.Properties.Unit
		for i, t := range p.Type.SensorType {
			r := []string{" ", t, at(p.Accuracy, i, "±") + spaced(at(unit.Measurement, i, "")), " ", " ", " ", " ", " "}
			if i == 0 {
				r[0] = strings.ToLower(p.Model)
				copy(r[3:], []string{p.SamplingRate + spaced(unit.SamplingRate), strings.TrimSpace(p.Latency + " " + unit.Latency),
					strings.TrimSpace(p.Consumption + " " + unit.Consumption), p.Manufacturer, p.Market})
			}
			rows = append(rows, r)
		}
	}
	a.printTable([]string{"ON OFFER", "TYPE", "ACCURACY", "SAMPLING", "LATENCY", "POWER", "MANUFACTURER", "MARKET"}, rows)
}

// printAdvertisement in bytes and what they say.
func (a *app) printAdvertisement(text string) {
	payload, err := hex.DecodeString(text)
	if err != nil {
		a.printf("\nadvertisement %q\n", text) // nothing that this program could read
		return
	}
	a.printf("\nadvertisement of %d bytes: % x\n", len(payload), payload)
	v, err := readAdvertisement(payload)
	if err != nil {
		a.printf("%v\n", err)
		return
	}
	for _, r := range v.rows() {
		a.printf("%-12s %s\n", r[0], r[1])
	}
}

// at is the i-th of what is parallel to something else, or "".
func at(list []string, i int, prefix string) string {
	if i >= len(list) {
		return ""
	}
	return prefix + list[i]
}

func connection(b fleet.Board) string {
	switch {
	case b.ConnectedTo != "":
		return "with " + b.ConnectedTo
	case offAir(b):
		return "none, off the air"
	}
	return "none, advertising to " + strings.Join(b.Nodes, ", ")
}

// boardState is connection in a word.
func boardState(b fleet.Board) string {
	switch {
	case b.ConnectedTo != "":
		return "connected"
	case offAir(b):
		return "off the air"
	}
	return "advertising"
}

// offAir tells whether a fault keeps every radio from hearing the board.
func offAir(b fleet.Board) bool {
	for _, f := range b.Faults {
		if f.Kind == topology.FaultOutOfRange || f.Kind == topology.FaultReboot {
			return true
		}
	}
	return false
}

func latency(b fleet.Board) string {
	return time.Duration(b.Latency.Median).String() + " ± " + time.Duration(b.Latency.Jitter).String()
}

func hertz(hz float64) string { return strconv.FormatFloat(hz, 'g', -1, 64) + " Hz" }

// rate of a characteristic, " " for one that sends none by itself.
func rate(b fleet.Board, uuid string) string {
	m, err := bluest.ParseMask(uuid)
	if err != nil {
		return " "
	}
	hz, ok := b.Rates[fmt.Sprintf("%08x", uint32(m))]
	if !ok {
		return "off"
	}
	return hertz(hz)
}

// faults in words, at least one.
func faults(b fleet.Board) []string {
	var all []string
	for _, f := range b.Faults {
		s := faultName(f.Kind, f.Part) + " since " + f.Since.Local().Format(time.DateTime)
		if f.Until.IsZero() {
			s += ", until it is cleared"
		} else {
			s += ", until " + f.Until.Local().Format(time.DateTime)
		}
		all = append(all, s)
	}
	if all == nil {
		return []string{"none"}
	}
	return all
}

func faultName(kind, part string) string {
	return strings.TrimSpace(kind + " " + part)
}

// readingSets are the readings of a board by characteristic, in the order of its services.
func readingSets(b fleet.Board) [][]bluest.Reading {
	byMask := map[bluest.Mask][]bluest.Reading{}
	var masks []bluest.Mask
	for key, set := range b.Readings {
		if m, err := bluest.ParseMask(key); err == nil {
			byMask[m] = set
			masks = append(masks, m)
		}
	}
	var order []bluest.Mask
	for _, s := range b.Services {
		for _, c := range s.Characteristics {
			if m, err := bluest.ParseMask(c.UUID); err == nil && byMask[m] != nil {
				order = append(order, m)
			}
		}
	}
	slices.Sort(masks)
	for _, m := range masks {
		if !slices.Contains(order, m) {
			order = append(order, m)
		}
	}
	sets := make([][]bluest.Reading, len(order))
	for i, m := range order {
		sets[i] = byMask[m]
	}
	return sets
}

var readingsHeader = []string{"PART", "QUANTITY", "VALUE", "UNIT"}

// readings are rows of a table; the axes of one quantity share a row.
func readings(b fleet.Board) [][]string {
	parts := map[string]string{}
	for _, p := range bluest.Parts(b.Model) {
		for _, f := range p.Feeds {
			parts[f.Quantity] = p.Name
		}
	}
	var rows [][]string
	for _, set := range readingSets(b) {
		axisOf := ""
		for _, r := range set {
			part := parts[r.Quantity]
			if part == "" {
				part = "battery" // no other feature has no part
			}
			value := strconv.FormatFloat(r.Value, 'f', -1, 64)
			if word := status(r); word != "" {
				value += " (" + word + ")"
			}
			name, axis := splitAxis(r.Quantity)
			if axis != "" && name == axisOf {
				last := rows[len(rows)-1]
				last[2] += "  " + axis + " " + value
				continue
			}
			if axisOf = ""; axis != "" {
				axisOf, value = name, axis+" "+value
			}
			rows = append(rows, []string{part, name, value, r.Unit})
		}
	}
	return rows
}

// status of a battery in a word, "" for other readings.
func status(r bluest.Reading) string {
	words := []string{"low", "discharging", "disconnected", "charging"}
	if i := int(r.Value); r.Quantity == "status" && i >= 0 && i < len(words) {
		return words[i]
	}
	return ""
}

// splitAxis parts accelerationX into acceleration and x.
func splitAxis(quantity string) (name, axis string) {
	if n := len(quantity) - 1; n > 0 && strings.ContainsRune("XYZ", rune(quantity[n])) {
		return quantity[:n], strings.ToLower(quantity[n:])
	}
	return quantity, ""
}

// quantities of a board that have a reading.
func quantities(b fleet.Board) []bluest.Reading { return slices.Concat(readingSets(b)...) }

func quantityNames(b fleet.Board) []string {
	var names []string
	for _, r := range quantities(b) {
		names = append(names, r.Quantity)
	}
	return names
}
