package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/fluidos-edge/testbed/testbed"
)

func (a *app) kubeconfigCommand() *cobra.Command {
	var raw bool
	cmd := &cobra.Command{
		Use:   "kubeconfig NAME",
		Short: "Path of a kubeconfig: of a cluster, or of a consumer at a provider",
		Example: `  export KUBECONFIG=$(testbed kubeconfig provider-1)
  testbed kubeconfig consumer-1@provider-1    # can keep DataPaths and nothing else
  testbed kubeconfig provider-1/erm --raw     # a component's own rights`,
		Args:              exactly("NAME"),
		ValidArgsFunction: a.complete(kubeconfigNames),
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := a.kubeconfig(a.name, args[0])
			if err != nil {
				return err
			}
			if raw {
				b, err := os.ReadFile(path)
				if err != nil {
					return fmt.Errorf("read kubeconfig: %w", err)
				}
				if a.json() {
					return a.printJSON(string(b))
				}
				a.out.Write(b)
				return nil
			}
			if a.json() {
				return a.printJSON(path)
			}
			a.printf("%s\n", path)
			return nil
		},
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "print the kubeconfig itself; it holds a private key")
	return cmd
}

func (a *app) kubectlCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kubectl NAME [--] ARGUMENT...",
		Short: "Run the kubectl that fits, against a cluster",
		Long: `kubectl runs the kubectl that was built with the testbed, with the kubeconfig of NAME: a
cluster, or a consumer at a provider. Flags after NAME are kubectl's. The exit code is kubectl's.`,
		Example: `  testbed kubectl provider-1 -- get flavors,datapaths,devices,rules,nodes -A
  testbed kubectl consumer-1@provider-1 -- get datapaths -n consumer-1`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || args[0] == "--" {
				return usage("run `"+cmd.CommandPath()+" provider-1 -- get nodes`", "%s: NAME is missing", cmd.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: a.complete(kubeconfigNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := a.kubeconfig(a.name, args[0])
			if err != nil {
				return err
			}
			program, err := a.kubectl()
			if err != nil {
				return a.notUp(err, "kubectl", "`testbed assets build`")
			}
			args = args[1:]
			if len(args) > 0 && args[0] == "--" {
				args = args[1:]
			}
			ctx, cancel := a.deadline(cmd.Context())
			defer cancel()
			c := exec.CommandContext(ctx, program, args...)
			c.Env = append(os.Environ(), "KUBECONFIG="+config)
			c.Stdin, c.Stdout, c.Stderr = a.stdin, a.stdout, a.stderr
			if l, ok := a.stderr.(*lockedWriter); ok {
				c.Stderr = l.w // the file itself, so that kubectl sees a terminal
			}
			c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
			c.WaitDelay = 10 * time.Second
			err = c.Run()
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() >= 0 && ctx.Err() == nil {
				return &verdictError{exit: exit.ExitCode()}
			}
			if err != nil {
				return caused(ctx, fmt.Errorf("kubectl: %w", err))
			}
			return nil
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows NAME belongs to kubectl
	return cmd
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Versions of this program and of what it runs",
		Args:  exactly(),
		RunE: func(*cobra.Command, []string) error {
			v := buildVersion()
			v.Pins = testbed.Pins()
			if a.json() {
				return a.printJSON(v)
			}
			a.printVersion(v)
			return nil
		},
	}
}
