// Command wispgate keeps a tower in business when the backhaul is dead: the node's daemon, the NOC's relay and their client in one.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version is the release; commit is set at build time by scripts/build.
var (
	version = "0.1.0"
	commit  = "unknown"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr})
	stop()
	os.Exit(code)
}
