// Parlor is a WebRTC conference server in one binary. It speaks LiveKit's
// protocol, keeps its rooms in SQLite, and brings every event to its webhooks.
//
// This package hands arguments and signals to parlor/server/program, and its exit
// status to the system. Nothing imports it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"parlor/server/program"
)

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { // ends with the process
		cancel(fmt.Errorf("received %v", <-signals))
		awaitSecond(signals)
		fmt.Fprintln(os.Stderr, "parlor: stopping at once")
		os.Exit(130)
	}()
	// Supervisors and certbot send SIGHUP out of habit: it must not end calls.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	ignoreFileSizeLimit()
	os.Exit(program.Run(ctx, program.Environment{
		Args: os.Args[1:], Environ: os.Environ(), In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Hangups: hangups,
	}))
}

// awaitSecond returns at a second request to stop. Supervisors and shells signal a
// process and its group at once, so signals within 300 ms of the first count as the same
// request.
func awaitSecond(signals <-chan os.Signal) {
	const same = 300 * time.Millisecond
	first := time.Now()
	for range signals {
		if time.Since(first) > same {
			return
		}
	}
}
