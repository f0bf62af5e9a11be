// Package program is the whole program: its subcommands, its configuration's
// sources, the order in which the parts are built and taken down. Only the main
// package imports it; tests run it in their own process.
package program

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

// Environment is what a command is run with.
type Environment struct {
	Args    []string         // without the program's name
	Environ []string         // the environment's variables, as of [os.Environ]
	Out     io.Writer        // what was asked for
	Err     io.Writer        // logs, and what went wrong
	Hangups <-chan os.Signal // SIGHUP: read the configuration again; nil = never
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

// Run runs the command that the arguments name until it is done or ctx ends, and
// returns the exit status: 0, 1 if it failed, 2 if the arguments were wrong.
func Run(ctx context.Context, env Environment) int {
	command := serve
	if len(env.Args) > 0 {
		switch env.Args[0] {
		case "token":
			command, env.Args = token, env.Args[1:]
		case "restore":
			command, env.Args = restore, env.Args[1:]
		case "licenses":
			command, env.Args = licenses, env.Args[1:]
		case "version", "--version", "-version":
			command, env.Args = printVersion, env.Args[1:]
		case "help":
			env.Args = []string{"--help"}
		case "serve":
			env.Args = env.Args[1:]
		}
	}
	switch err := command(ctx, env); {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	default:
		fmt.Fprintf(env.Err, "parlor: %v\n", err)
		return 1
	}
}

// parse parses flags, and refuses arguments that are none. Usage that was asked
// for goes where results go.
func parse(f *flag.FlagSet, env Environment) error {
	help := f.Usage
	f.Usage = func() {}
	f.SetOutput(env.Err)
	switch err := f.Parse(env.Args); {
	case errors.Is(err, flag.ErrHelp):
		f.SetOutput(env.Out)
		help()
		return err
	case err != nil: // flag has said which
		fmt.Fprintf(env.Err, "see %s --help\n", f.Name())
		return errUsage
	}
	if f.NArg() > 0 {
		fmt.Fprintf(env.Err, "%q is not a command or flag; see %s --help\n", f.Arg(0), f.Name())
		return errUsage
	}
	return nil
}
