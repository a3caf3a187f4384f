package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fluidos-edge/testbed/testbed"
)

func (a *app) doctorCommand() *cobra.Command {
	var o testbed.DoctorOptions
	var backend string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "What this host lacks for a testbed, and how to mend it",
		Long: `doctor looks at this host: programs, disk, memory, the container engine, and what the
kernel allows. It changes nothing unless --fix is given.

--fix, as root, raises the limits of inotify, and, where the host lacks a capability that
privileged containers ask for, registers an OCI runtime with the engine that takes away
from them what the host does not have, and then runs runc. An engine that runs is stopped
only with --restart-engine, which ends its containers; one that does not run is started.

Exit code 1 if something fails that --backend needs; auto needs what embedded needs.`,
		Example: `  testbed doctor
  sudo testbed doctor --fix --restart-engine
  testbed doctor --backend kind -o json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			needs := backend
			switch backend {
			case testbed.Auto:
				needs = testbed.BackendEmbedded
			case testbed.BackendEmbedded, testbed.BackendKind:
			default:
				return usage("use --backend auto, embedded or kind", "--backend: no such backend %q", backend)
			}
			if o.RestartEngine && !o.Fix {
				return usage("add --fix", "--restart-engine is a part of --fix")
			}
			ctx, cancel := a.deadline(cmd.Context())
			defer cancel()
			o.Log = a.options().Log
			o.Changed = func(what string) {
				if !a.quiet {
					fmt.Fprintf(a.stderr, "changed: %s\n", what)
				}
			}
			checks, err := a.doctor(ctx, o)
			if err != nil && !a.json() && len(checks) > 0 {
				a.printChecks(checks)
			}
			if root := (*testbed.NeedsRoot)(nil); errors.As(err, &root) {
				return &failure{exit: exitFailed, code: "rights", message: err.Error(), fix: "`sudo " + strings.Join(quoted(doctorArgs(o, backend)), " ") + "`", err: err}
			}
			if err != nil {
				return mending(caused(ctx, err), o.Fix)
			}
			if a.json() {
				if err := a.printJSON(checks); err != nil {
					return err
				}
			} else {
				a.printChecks(checks)
			}
			if !testbed.Suits(checks, needs) {
				return &verdictError{exit: exitFailed}
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.Fix, "fix", false, "mend what can be mended safely; takes root")
	flags.BoolVar(&o.RestartEngine, "restart-engine", false, "with --fix: restart the container engine if that is needed, which ends its containers, or start it")
	flags.StringVar(&backend, "backend", testbed.Auto, "what the exit code speaks `of`: auto, embedded or kind")
	fixedWords(cmd, "backend", testbed.Auto, testbed.BackendEmbedded, testbed.BackendKind)
	return cmd
}

// doctorArgs are this command with the path of this program: root has another PATH.
func doctorArgs(o testbed.DoctorOptions, backend string) []string {
	args := []string{"testbed", "doctor", "--fix"}
	if self, err := os.Executable(); err == nil {
		args[0] = self
	}
	if o.RestartEngine {
		args = append(args, "--restart-engine")
	}
	if backend != testbed.Auto {
		args = append(args, "--backend", backend)
	}
	return args
}

func mending(err error, fix bool) error {
	if !fix {
		return err
	}
	return &failure{exit: exitFailed, code: "failed", message: "not all could be mended: " + err.Error(),
		fix: "do what is said, then run it again: what was mended stays", err: err}
}

// printChecks is one row for each check, then what to do about those that are not ok.
func (a *app) printChecks(checks []testbed.Check) {
	colours := map[string]int{testbed.CheckOK: green, testbed.CheckWarn: yellow, testbed.CheckFail: red}
	var rows, fixes [][]string
	for _, c := range checks {
		rows = append(rows, []string{c.Check, a.colour(colours[c.Status], c.Status), strings.Join(c.NeededBy, ","), c.Observed})
		if c.Fix != "" {
			fixes = append(fixes, []string{c.Check, c.Want, c.Fix})
		}
	}
	a.printTable([]string{"CHECK", "STATUS", "NEEDED BY", "OBSERVED"}, rows)
	if len(fixes) > 0 {
		a.printf("\n")
		a.printTable([]string{"CHECK", "WANT", "FIX"}, fixes)
	}
}
