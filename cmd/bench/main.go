// Command bench measures what the project promises; see package bench.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/fluidos-edge/testbed/internal/bench"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first Ctrl-C it removes what it made; a second one ends it at once.
	context.AfterFunc(ctx, stop)
	code := bench.Run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
