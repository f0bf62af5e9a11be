// Package program is the whole program: its subcommands, the sources of its
// configuration, and the order in which its parts are built and taken down. Only the main
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

// Environment holds a command's inputs and outputs.
type Environment struct {
	Args    []string         // without the program's name
	Environ []string         // the environment's variables, as of [os.Environ]
	In      io.Reader        // a person's answers; nil = there is no person
	Out     io.Writer        // results
	Err     io.Writer        // logs and errors
	Hangups <-chan os.Signal // SIGHUPs: read the configuration again; nil = never
}

const usage = `Parlor is a WebRTC conference server that speaks LiveKit's protocol.

  parlor [flags]         run the server
  parlor init            write a configuration with a new key; --install for systemd
  parlor token [flags]   make an access token
  parlor check           look whether machine and configuration are fit
  parlor backup FILE     copy the database, also while the server runs
  parlor restore [flags] make a database of what is on a replica
  parlor licenses        show the licences of all that is in it
  parlor version         tell the version
  parlor help            show this

Of a server that runs, each with --help:

  parlor status          how it fares
  parlor rooms           its rooms
  parlor room NAME       who is in a room; close, lock, mute it
  parlor invite ROOM     make a link that lets people into a room; list, revoke them
  parlor events          what happened, and what happens
  parlor webhooks        how its webhooks fare; pause, resume, replay, test them
  parlor admin-link      a link that signs in to its dashboard once

Try it on this machine, with a page to call from:

  parlor --dev

Flags of the server, each over the environment, which is over the file:

`

const usageEnd = `
Every key of the configuration file has an environment variable: rtc.udp_port is
PARLOR_RTC_UDP_PORT. LiveKit's LIVEKIT_KEYS and LIVEKIT_CONFIG are read, too.
`

// errUsage: the command line was wrong, and a message about it was written.
var errUsage = errors.New("wrong usage")

// Run runs the command that the arguments name until it is done or ctx ends, and returns
// the exit status: 0, 1 if it failed, 2 if the arguments were wrong.
func Run(ctx context.Context, env Environment) int {
	command := serve
	if len(env.Args) > 0 {
		name := env.Args[0]
		if named := commandOf(name); named != nil {
			command, env.Args = named, env.Args[1:]
		} else if name == "help" {
			env.Args = []string{"--help"}
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

// commandOf returns the command of that name; nil if there is none.
func commandOf(name string) func(context.Context, Environment) error {
	switch name {
	case "serve":
		return serve
	case "init":
		return initialise
	case "token":
		return token
	case "check":
		return check
	case "backup":
		return backup
	case "restore":
		return restore
	case "status":
		return showStatus
	case "rooms":
		return showRooms
	case "room":
		return showRoom
	case "invite":
		return invite
	case "events":
		return showEvents
	case "webhooks":
		return showWebhooks
	case "admin-link":
		return adminLink
	case "licenses":
		return licenses
	case "version", "--version", "-version":
		return printVersion
	}
	return nil
}

// newFlags returns the flags of a command whose help shows usage, the flags, and then end.
func newFlags(name, usage, end string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.Usage = func() {
		fmt.Fprint(f.Output(), usage)
		printFlags(f)
		fmt.Fprint(f.Output(), end)
	}
	return f
}

// printFlags lists f's flags, one a line, with two dashes.
func printFlags(f *flag.FlagSet) {
	f.VisitAll(func(fl *flag.Flag) {
		value, text := flag.UnquoteUsage(fl)
		name := "--" + fl.Name
		if value != "" {
			name += " " + value
		}
		fmt.Fprintf(f.Output(), "  %-24s %s\n", name, text)
	})
}

// parse parses flags, and refuses other arguments. A usage text that was asked for goes
// to Out.
func parse(f *flag.FlagSet, env Environment) error {
	_, err := parseArguments(f, env, 0)
	return err
}

// parseArguments parses flags and at most that many arguments, in any order. After "--"
// there are only arguments.
func parseArguments(f *flag.FlagSet, env Environment, most int) (arguments []string, err error) {
	help := f.Usage
	f.Usage = func() {}
	f.SetOutput(env.Err)
	for rest := env.Args; ; {
		switch err := f.Parse(rest); {
		case errors.Is(err, flag.ErrHelp):
			f.SetOutput(env.Out)
			help()
			return nil, err
		case err != nil: // package flag has written which
			fmt.Fprintf(env.Err, "see %s --help\n", f.Name())
			return nil, errUsage
		}
		end := len(rest) - f.NArg()
		literal := end > 0 && rest[end-1] == "--"
		rest = f.Args()
		if len(rest) == 0 || literal {
			arguments = append(arguments, rest...)
			break
		}
		arguments, rest = append(arguments, rest[0]), rest[1:]
	}
	if len(arguments) > most {
		fmt.Fprintf(env.Err, "%q is not a command or flag; see %s --help\n", arguments[most], f.Name())
		return nil, errUsage
	}
	return arguments, nil
}
