package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"
)

// settings are the parameters of a run.
type settings struct {
	subscribers   int
	rounds        int
	window        time.Duration
	fps           float64
	perFrame      int // packets
	payload       int // bytes of RTP payload
	feedback      bool
	floorOnly     bool
	servers       serverFlags // binaries to measure in turns
	serverArgs    string
	url           string
	pid           int
	key, secret   string
	serverLogFile string
}

// serverFlags is a repeatable flag.
type serverFlags []string

func (s *serverFlags) String() string     { return fmt.Sprint([]string(*s)) }
func (s *serverFlags) Set(v string) error { *s = append(*s, v); return nil }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	if len(args) > 0 && args[0] == floorCommand {
		return runFloor(in, out)
	}
	if len(args) > 0 && args[0] == networkCommand {
		return runNetwork(ctx, args[1:], out)
	}
	if len(args) > 0 && args[0] == loadsCommand {
		return runLoads(ctx, args[1:], out)
	}
	if len(args) > 0 && args[0] == profileCommand {
		return runProfile(ctx, args[1:], out)
	}
	if len(args) > 0 && args[0] == joinsCommand {
		return runJoins(ctx, args[1:], out)
	}
	var s settings
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&s.subscribers, "subs", 60, "subscribers")
	f.IntVar(&s.rounds, "rounds", 3, "rounds; each measures every program once")
	f.DurationVar(&s.window, "window", 8*time.Second, "how long each program is measured for")
	f.Float64Var(&s.fps, "fps", 25.7, "video frames a second")
	f.IntVar(&s.perFrame, "packets", 7, "packets a frame")
	f.IntVar(&s.payload, "payload", 1150, "bytes of RTP payload in a packet")
	f.BoolVar(&s.feedback, "feedback", true, "subscribers send NACK, receiver reports and transport-wide feedback")
	f.BoolVar(&s.floorOnly, "floor", false, "measure the floor only")
	f.Var(&s.servers, "server", "[name=]binary of Parlor to measure; repeatable; default: built from this module")
	f.StringVar(&s.serverArgs, "server-args", "", "further arguments for the server, space-separated")
	f.StringVar(&s.url, "url", "", "ws:// address of a LiveKit server that runs already, instead of -server")
	f.IntVar(&s.pid, "pid", 0, "its process id, with -url")
	f.StringVar(&s.key, "key", "devkey", "API key")
	f.StringVar(&s.secret, "secret", "secret", "API secret")
	f.StringVar(&s.serverLogFile, "server-log", "", "file for the server's output; default: thrown away")
	if err := f.Parse(args); err != nil {
		return err
	}
	if s.subscribers < 1 || s.rounds < 1 || s.perFrame < 1 || s.payload < 16 || s.fps <= 0 {
		return errors.New("subs, rounds, packets and fps must be positive, payload at least 16")
	}
	if (s.url == "") != (s.pid == 0) {
		return errors.New("-url and -pid come together")
	}
	return measure(ctx, s, out)
}
