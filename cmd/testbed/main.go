// Command testbed brings a cloud-edge-IoT testbed up, shows it and proves it.
// All of it is in internal/cli; `testbed --help` says how to use it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/fluidos-edge/testbed/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first Ctrl-C a command undoes what it began; a second one ends it at once.
	context.AfterFunc(ctx, stop)
	code := cli.Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
