// Parlor is a WebRTC conference server in one binary. It speaks LiveKit's
// protocol, keeps its rooms in SQLite, and brings every event to its webhooks.
//
// This package is the program: its subcommands, its configuration's sources,
// the order in which the parts are built and taken down. Nothing imports it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
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
	// Supervisors and certbot send SIGHUP as a matter of habit: it must not end calls.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	// A file that may not grow any more, by the process's limits, is a full disk: an
	// error of the write, and no reason to die.
	signal.Ignore(syscall.SIGXFSZ)
	os.Exit(run(ctx, environment{os.Args[1:], os.Environ(), os.Stdout, os.Stderr, hangups}))
}

// awaitSecond returns when somebody asks again to stop. Supervisors and shells
// signal a process and its group in one go: what comes with the first signal is
// the same request.
func awaitSecond(signals <-chan os.Signal) {
	const same = 300 * time.Millisecond
	first := time.Now()
	for range signals {
		if time.Since(first) > same {
			return
		}
	}
}

// environment is what a command is run with.
type environment struct {
	args    []string
	environ []string
	out     io.Writer        // what was asked for
	err     io.Writer        // logs, and what went wrong
	hangups <-chan os.Signal // SIGHUP: read the configuration again; nil = never
}

const usage = `Parlor is a WebRTC conference server that speaks LiveKit's protocol.

  parlor [flags]         run the server
  parlor token [flags]   make an access token
  parlor restore [flags] make a database of what is on a replica
  parlor licenses        show the licences of all that is in it
  parlor version         tell the version
  parlor help            show this

Try it on this machine, with a page to call from:

  parlor --dev

Flags of the server, each over the environment, which is over the file:

`

const usageEnd = `
Every key of the configuration file has an environment variable: rtc.udp_port is
PARLOR_RTC_UDP_PORT. LiveKit's LIVEKIT_KEYS and LIVEKIT_CONFIG are read, too.
`

// errUsage tells that the command line was wrong; what and how was written.
var errUsage = errors.New("wrong usage")

// run runs the command that the arguments name, and returns the exit status.
func run(ctx context.Context, env environment) int {
	command := serve
	if len(env.args) > 0 {
		switch env.args[0] {
		case "token":
			command, env.args = token, env.args[1:]
		case "restore":
			command, env.args = restore, env.args[1:]
		case "licenses":
			command, env.args = licenses, env.args[1:]
		case "version", "--version", "-version":
			command, env.args = printVersion, env.args[1:]
		case "help":
			env.args = []string{"--help"}
		case "serve":
			env.args = env.args[1:]
		}
	}
	switch err := command(ctx, env); {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	default:
		fmt.Fprintf(env.err, "parlor: %v\n", err)
		return 1
	}
}

// parse parses flags, and refuses arguments that are none. Usage that was asked
// for goes where results go.
func parse(f *flag.FlagSet, env environment) error {
	help := f.Usage
	f.Usage = func() {}
	f.SetOutput(env.err)
	switch err := f.Parse(env.args); {
	case errors.Is(err, flag.ErrHelp):
		f.SetOutput(env.out)
		help()
		return err
	case err != nil: // flag has said which
		fmt.Fprintf(env.err, "see %s --help\n", f.Name())
		return errUsage
	}
	if f.NArg() > 0 {
		fmt.Fprintf(env.err, "%q is not a command or flag; see %s --help\n", f.Arg(0), f.Name())
		return errUsage
	}
	return nil
}

func printVersion(_ context.Context, env environment) error {
	_, err := fmt.Fprintf(env.out, "parlor %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// version is the module's, or the commit that was built.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	revision, dirty := "devel", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			revision = s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+changes"
		}
	}
	return revision + dirty
}
