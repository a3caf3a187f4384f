// Command ociruntime stands before runc on hosts that lack a capability: it takes
// out of what a container asks for what this host does not have, then runs runc.
// `testbed doctor --fix` registers it with the container engine.
package main

import (
	"fmt"
	"os"

	"github.com/fluidos-edge/testbed/internal/ociruntime"
)

func main() {
	err := ociruntime.Exec(os.Args[1:]) // it comes back only if it failed
	fmt.Fprintln(os.Stderr, "ociruntime:", err)
	os.Exit(1)
}
