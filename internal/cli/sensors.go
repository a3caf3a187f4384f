package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fluidos-edge/testbed/controllers/sensor"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

func (a *app) sensorsCommand() *cobra.Command {
	decode := &cobra.Command{
		Use:   "decode FILE|-",
		Short: "Read a sensors annotation",
		Long: `decode reads the value of a Device's sensors annotation, base64 of a JSON array or the array
itself, and shows the sensors as they go on offer. Everything that is wrong is listed with its
JSON path; a sensor that cannot be offered makes the exit code 2 and does not hide the others.`,
		Example: `  testbed kubectl provider-1 -- get devices -n fluidos -o jsonpath='{.items[0].metadata.annotations.sensors}' |
    testbed sensors decode -`,
		Args: exactly("FILE|-"),
		RunE: func(_ *cobra.Command, args []string) error {
			name, data, err := a.read(args[0])
			if err != nil {
				return err
			}
			return a.decodeSensors(name, data)
		},
	}
	return group(&cobra.Command{Use: "sensors", Short: "What boards offer"}, decode)
}

func (a *app) decodeSensors(name string, data []byte) error {
	annotation := string(data)
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) {
		annotation = base64.StdEncoding.EncodeToString(data)
	}
	elements, problems := sensor.Decode(annotation)
	var fatal []topology.Problem
	var lines []string
	for _, p := range problems {
		if p.Fatal {
			fatal = append(fatal, topology.Problem{File: name, Line: 1, Field: p.Path, Value: p.Message, Want: "a value that can be offered"})
			lines = append(lines, p.Path+" "+p.Message)
			continue
		}
		if !a.quiet {
			fmt.Fprintf(a.stderr, "warning: %s %s\n", p.Path, p.Message)
		}
	}
	if len(fatal) > 0 {
		a.printSensors(elements)
		return &failure{exit: exitUsage, code: "input", message: fmt.Sprintf("%s: %s; %s on offer", name, count(len(fatal), "problem"), count(len(elements), "sensor")),
			causes: fatal, lines: lines, fix: "correct what the board declares; an element needs uid, model and type.sensorType"}
	}
	if a.json() {
		raw := make([]json.RawMessage, len(elements))
		for i, e := range elements {
			raw[i] = e.Raw
		}
		return a.printJSON(raw)
	}
	a.printSensors(elements)
	return nil
}

func (a *app) printSensors(elements []sensor.Element) {
	if len(elements) == 0 {
		return
	}
	rows := make([][]string, len(elements))
	for i, e := range elements {
		c := e.Characteristics
		latency := strings.TrimSpace(c.Latency + " " + c.Properties.Unit.Latency)
		rows[i] = []string{e.Part(), c.Manufacturer, c.Type.SensorCategory, strings.Join(c.Type.SensorType, ","),
			strings.Join(c.Properties.Unit.Measurement, ","), latency, c.UID}
	}
	a.printTable([]string{"PART", "MANUFACTURER", "CATEGORY", "TYPES", "UNITS", "LATENCY", "UID"}, rows)
}
