package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"parlor/server/admin"
	"parlor/server/config"
)

// stopBound is how long an orderly stop may take before the process ends anyway.
const stopBound = 10 * time.Second

// serve runs the server until ctx ends or it fails.
func serve(ctx context.Context, env Environment) error {
	sources, err := serveFlags(env)
	if err != nil {
		return err
	}
	cfg, warnings, err := config.Load(sources)
	sources.MakeKeys = false // for those who read it again
	if err != nil {
		return fmt.Errorf("the configuration cannot be used:\n%w", err)
	}
	if cfg.DebugHandler.Port == 0 {
		unprofiled() // nobody can ask for the profile
	}
	level := new(slog.LevelVar)
	level.Set(logLevel(cfg.Logging.Level))
	log := newLogger(env.Err, cfg, level)
	for _, w := range warnings {
		log.Warn(w)
	}
	watching := newSupervisor(env.Environ, os.Getpid(), log)
	inherited, err := watching.listeners()
	if err != nil {
		return err
	}
	p, err := open(ctx, cfg, log, inherited...)
	if err != nil {
		return err
	}
	p.supervisor = watching
	if cfg.Development {
		_, _ = io.WriteString(env.Out, p.banner())
	}
	log.Info("serving", "version", version(), "addresses", strings.Join(addressesOf(p.listeners), " "),
		"metrics", strings.Join(addressesOf(p.metricsListeners), " "), "plain", strings.Join(addressesOf(p.plainListeners), " "), "media", p.mediaAddresses(), "database", p.store.Path())
	var reloading sync.WaitGroup
	reloads, stopReloading := context.WithCancel(ctx)
	reloading.Go(func() { p.reload(reloads, env.Hangups, sources, level) })
	reloading.Go(func() { watching.watch(reloads, p.alive) })
	reloading.Go(func() { keepSmall(reloads, log) })
	watching.tell("READY=1")
	failure := p.run(ctx)
	watching.tell("STOPPING=1")
	stopReloading()
	reloading.Wait()
	if failure == nil {
		log.Info("stopping", "reason", context.Cause(ctx))
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopBound)
	defer cancel()
	err = errors.Join(failure, p.close(bounded))
	if err == nil {
		log.Info("stopped")
	}
	return err
}

// serveFlags reads the command line: each flag sets one key of the configuration.
func serveFlags(env Environment) (config.Sources, error) {
	s := config.Sources{Environ: env.Environ, MakeKeys: true}
	f := newFlags("parlor", usage, usageEnd)
	var bind []string
	setting := func(name, path string) func(string) error {
		return func(v string) error {
			s.Flags = append(s.Flags, config.Setting{Path: path, Value: v, From: "--" + name})
			return nil
		}
	}
	set := func(name, path, usage string) { f.Func(name, usage, setting(name, path)) }
	on := func(name, path, usage string) { f.BoolFunc(name, usage, setting(name, path)) }
	f.StringVar(&s.File, "config", "", "YAML `file`, with LiveKit's keys")
	on("dev", "development", "development: keys devkey and secret, loopback only, the page open to everyone")
	f.Func("bind", "`address` to listen on; may be given more than once", func(v string) error {
		bind = append(bind, v)
		return nil
	})
	set("domain", "domain", "`name` that leads to this server: get a certificate for it, serve all on port 443")
	on("tls", "tls.self_signed", "speak TLS with a certificate that the server signs itself")
	on("invitations", "invitations", "let people in by links; parlor invite makes them")
	set("port", "port", "TCP `port` of HTTP and WebSocket (7880)")
	set("udp-port", "rtc.udp_port", "UDP `port` of media, or a range such as 7882-7885 (7882)")
	set("tcp-port", "rtc.tcp_port", "TCP `port` of media where UDP is blocked, 0 for none (7881)")
	set("node-ip", "rtc.node_ip", "`address` of this machine that clients can reach")
	set("database", "database", "SQLite `file` (parlor.db)")
	set("replica", "replica", "`URL` that the database is replicated to")
	on("expect-replica", "expect_replica", "refuse to start if there is nothing on the replica")
	on("adopt-database", "adopt_database", "the database here is right, whatever the replica has")
	set("keys", "keys", "API keys and secrets, `key:secret,…`")
	set("key-file", "key_file", "`file` with one \"key: secret\" a line")
	set("log-level", "logging.level", "`level`: debug, info, warn or error (info)")
	if err := parse(f, env); err != nil {
		return s, err
	}
	if len(bind) > 0 {
		s.Flags = append(s.Flags, config.Setting{Path: "bind_addresses", Value: strings.Join(bind, ","), From: "--bind"})
	}
	return s, nil
}

// logLevel is the level of that name in the configuration.
func logLevel(name string) slog.Level {
	switch name {
	case "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}

func newLogger(w io.Writer, cfg *config.Config, level slog.Leveler) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: shortened}
	var h slog.Handler = slog.NewTextHandler(w, opts)
	if cfg.Logging.JSON {
		h = slog.NewJSONHandler(w, opts)
	}
	return slog.New(new(admin.Lines).Handler(h))
}

// longestValue bounds a value of a log line, in bytes: paths, names of programs and much else are a
// stranger's to choose.
const longestValue = 2 << 10

// shortened is a without what is beyond longestValue. A stack is ours.
func shortened(_ []string, a slog.Attr) slog.Attr {
	if kind := a.Value.Kind(); kind != slog.KindString && kind != slog.KindAny {
		return a
	}
	text := a.Value.String()
	if b, ok := a.Value.Any().([]byte); ok {
		text = string(b)
	}
	if len(text) > longestValue && a.Key != "stack" {
		return slog.String(a.Key, admin.Clip(text, longestValue))
	}
	return a
}

// linesOf is what is kept of the log that a logger writes; nil = nothing is.
func linesOf(log *slog.Logger) *admin.Lines {
	if h, ok := log.Handler().(interface{ Lines() *admin.Lines }); ok {
		return h.Lines()
	}
	return nil
}

// banner tells a developer what to do next.
func (p *program) banner() string {
	host := p.listeners[0].Addr().String()
	// Browsers allow camera and microphone over plain HTTP for localhost alone.
	if ip := p.listeners[0].Addr().(*net.TCPAddr).IP; ip.IsUnspecified() || ip.Equal(net.IPv4(127, 0, 0, 1)) || ip.Equal(net.IPv6loopback) {
		host = "localhost:" + strconv.Itoa(p.port())
	}
	http, ws := "http://", "ws://"
	if p.tls != nil {
		http, ws = "https://", "wss://"
	}
	key := firstKey(p.cfg)
	database, err := filepath.Abs(p.cfg.Database)
	if err != nil {
		database = p.cfg.Database // the working directory is gone; the relative path must do
	}
	return fmt.Sprintf(`
  Parlor is running, for development.

    page       %[1]s%[2]s/
    API        %[1]s%[2]s      for LiveKit's SDKs and clients: %[3]s%[2]s
    listens on %[7]s
    media on   %[8]s
    API key    %[4]s
    secret     %[5]s
    database   %[6]s

  Ctrl-C stops it. Rooms are still there when it starts again.

`, http, host, ws, key, p.cfg.Keys[key], database, strings.Join(append(addressesOf(p.listeners), addressesOf(p.metricsListeners)...), " "), p.mediaAddresses())
}

// firstKey is the API key that is used if none is named: the first by name.
func firstKey(cfg *config.Config) string {
	names := slices.Sorted(maps.Keys(cfg.Keys))
	return names[0] // the configuration has at least one
}

// port is the port of HTTP.
func (p *program) port() int { return p.listeners[0].Addr().(*net.TCPAddr).Port }

func addressesOf(listeners []net.Listener) []string {
	var all []string
	for _, l := range listeners {
		all = append(all, l.Addr().String())
	}
	return all
}

// mediaAddresses lists the addresses of media for people.
func (p *program) mediaAddresses() string {
	udp, tcp := p.media.Addrs()
	text := "UDP " + join(udp)
	if len(tcp) > 0 {
		text += ", TCP " + join(tcp)
	}
	if relays := p.media.TURNAddrs(); len(relays) > 0 {
		text += ", TURN " + join(relays)
	}
	if p.turn != nil {
		for _, a := range p.turn.Addrs() {
			text += ", TURN over TCP " + a.String()
		}
	}
	return text
}

func join(addrs []netip.AddrPort) string {
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return strings.Join(texts, " ")
}
