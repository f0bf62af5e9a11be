package program

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"parlor/media"
	"parlor/rooms"
	"parlor/rooms/guid"
	"parlor/rooms/log"
	"parlor/rooms/replica"
	"parlor/rooms/sqlite"
	"parlor/server"
	"parlor/server/access"
	"parlor/server/acme"
	"parlor/server/admin"
	"parlor/server/agents"
	"parlor/server/api"
	"parlor/server/authorize"
	"parlor/server/config"
	"parlor/server/devices"
	"parlor/server/door"
	"parlor/server/events"
	"parlor/server/signal"
	"parlor/server/unpack"
	"parlor/static"
	"parlor/webhooks"
)

// Shares of [stopBound] for the steps of a stop.
const (
	// clientsBound is for clients to hang up after they were told to reconnect. Most do
	// so within a round trip. A client that waits for the others would delay its next
	// try.
	clientsBound  = 1500 * time.Millisecond
	requestsBound = 2 * time.Second // for running requests
	outboxBound   = 2 * time.Second // for webhooks that are due
)

// program is the server's parts, built by [open] in the order of the fields and taken
// down by close.
type program struct {
	cfg *config.Config
	log *slog.Logger

	store            *sqlite.Store
	media            *media.Engine
	rooms            *rooms.Rooms
	agents           *agents.Handler
	hooks            *webhooks.Dispatcher
	asks             *authorize.Hook // nil = there is no authorization hook
	events           *events.Handler // the event log over HTTP
	signal           *signal.Handler
	server           *server.Server
	listeners        []net.Listener // HTTP and WebSocket
	front            *door.Door     // accepts connections for HTTP and others; nil = the listeners do
	plainListeners   []net.Listener // of plain HTTP, which redirects to TLS
	metricsListeners []net.Listener // on the metrics' own port
	adminListeners   []net.Listener // on the dashboard's own port
	turn             *door.Door     // nil: the TURN server has no TCP port
	verifier         *access.Verifier
	registry         *prometheus.Registry
	guard            *unpack.Guard    // bounds everything that the server decodes
	ring             *admin.Ring      // figures of the last hour
	replica          *replica.Replica // nil = the database is not replicated
	replication      api.Replica      // the replica in the API's form; nil too
	lost             chan error       // the lease on the replica was lost: stop serving

	tls             *tls.Config  // of the main port; nil = no TLS
	certificate     *certificate // from files; nil = there is none
	keeper          *acme.Keeper // keeps certificates by ACME; nil = there are none
	turnCertificate *certificate // of the TURN server alone; nil = it uses the main port's, or none
	supervisor      *supervisor  // nil = there is no supervisor

	upkeep     sync.WaitGroup // goroutines of upkeep; stopUpkeep ends them, close waits
	stopUpkeep context.CancelFunc
	requests   context.CancelFunc // ends every request's context; set by run
}

// open builds the program. When it returns, the database is open, rooms that were
// occupied expect their participants back, and the ports are bound. inherited are
// listeners for HTTP to use instead of the port, if there are any.
func open(ctx context.Context, cfg *config.Config, log *slog.Logger, inherited ...net.Listener) (_ *program, err error) {
	p := &program{cfg: cfg, listeners: inherited, log: log, registry: prometheus.NewRegistry(), lost: make(chan error, 1)}
	defer func() {
		if err != nil {
			bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopBound)
			defer cancel()
			err = errors.Join(err, p.close(bounded))
		}
	}()
	p.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := p.openStore(ctx); err != nil {
		return nil, err
	}
	if p.media, err = media.NewEngine(mediaConfig(cfg, p.present(cfg.RTC.BindAddresses), log)); err != nil {
		return nil, portHint(err, "--udp-port and --tcp-port")
	}
	hooks := webhooksConfig(cfg, p.store, log)
	hooks.Barrier = p.barrier()
	if p.replica != nil {
		hooks.Allow = p.replica.Check
	}
	p.hooks = webhooks.New(hooks)
	if err := p.openServer(); err != nil {
		return nil, err
	}
	p.registry.MustRegister(&partsCollector{p.store, p.media, p.rooms, p.replication}, p.hooks.Collector())
	if err := p.listen(ctx); err != nil {
		return nil, err
	}
	// The endpoints of webhooks must be known before the first event is written.
	if err := p.hooks.Start(ctx); err != nil {
		return nil, err
	}
	if err := p.rooms.Open(ctx); err != nil {
		return nil, err
	}
	p.startUpkeep()
	return p, nil
}

func (p *program) openServer() error {
	p.guard = unpack.NewGuard()
	p.registry.MustRegister(p.guard)
	p.verifier = access.NewVerifier(p.cfg.Keys)
	p.verifier.Guard = p.guard
	node := guid.New("ND_")
	p.agents = agents.New(agents.Config{
		Records: p.store, Known: p.store, Grace: time.Duration(p.cfg.RestartGrace), Verifier: p.verifier, Log: p.log, Metrics: p.registry, Guard: p.guard,
		ServerInfo: signal.ServerInfo(version(), node, p.cfg.Region), MaxMessage: p.cfg.Limit.AgentSignalMessageSizeLimit,
	})
	domain := roomsConfig(p.cfg, p.store, p.log)
	domain.Agents = &rooms.AgentsConfig{Workers: p.agents, Records: p.store}
	p.rooms = rooms.New(domain)
	if err := p.agents.Open(context.Background(), p.rooms); err != nil {
		return err
	}
	rules, err := devices.New(p.cfg.Clients)
	if err != nil {
		return err
	}
	refusals := &admin.Refusals{}
	signals := signal.Config{
		Refusals: refusals,
		Rooms:    p.rooms, Media: p.media, Verifier: p.verifier, Log: p.log, Metrics: p.registry,
		Version: version(), NodeID: node, Region: p.cfg.Region,
		EnabledCodecs: codecs(p.cfg), Presets: p.cfg.Room.RoomConfigurations,
		MaxConnections: p.cfg.Limit.MaxConnections, Guard: p.guard,
		AllowPause: p.cfg.RTC.CongestionControl.AllowPause,
		MaxMessage: p.cfg.Limit.SignalMessageSizeLimit, Devices: rules,
	}
	if p.cfg.Hooks.Authorize != "" {
		if err := p.openAuthorize(); err != nil {
			return err
		}
		signals.Authorize = p.asks
	}
	p.signal = signal.New(signals)
	page, err := static.NewHandler(static.Files())
	if err != nil {
		return err
	}
	p.events = events.New(&log.Reader{Store: p.store}, p.log, len(p.cfg.Keys))
	apiConfig := api.Config{
		Rooms: p.rooms, Dispatches: p.rooms, Records: p.store, Moderation: p.store, Replies: p.store, Verifier: p.verifier, Log: p.log,
		Presets: p.cfg.Room.RoomConfigurations, MaxBody: p.cfg.Limit.MaxAPIRequestBodySize, Guard: p.guard, Limits: limits(p.cfg),
		Events: p.events, Webhooks: p.hooks, Writer: func() api.Writer { return writerStatus(p.store.Stats()) },
		Check: (&inspection{cfg: p.cfg, server: p}).checks, Certificate: p.certificateStatus,
		Replica: p.replication, Version: version(), Started: time.Now(),
	}
	if err := p.openTLS(); err != nil {
		return err
	}
	requests, joins, redeems := p.rateLimits()
	apiConfig.Dashboard = p.dashboard(refusals)
	apiConfig.Requests = requests
	if p.cfg.Invitations {
		apiConfig.Invitations, apiConfig.Redeem, apiConfig.Page = p.store, redeems, pageOf(p.cfg)
	}
	documents, err := api.Documents(version())
	if err != nil {
		return err
	}
	c := server.Config{
		Verifier: p.verifier, Log: p.log, Metrics: p.registry, Ready: p.ready, Ails: p.ails,
		Page: page, RTC: p.signal.RTC(), RTCv1: p.signal.RTCv1(), Agents: p.agents,
		Validate: p.signal.Validate(false), ValidateV1: p.signal.Validate(true),
		Twirp: api.Twirp(apiConfig), REST: api.REST(apiConfig), Documents: documents,
		CORSOrigins: p.cfg.CORSOrigins, TrustedProxies: trustedProxies(p.cfg), Joins: joins, Requests: requests,
		Refusals:    refusals,
		MetricsUser: p.cfg.Prometheus.Username, MetricsPassword: p.cfg.Prometheus.Password,
	}
	if p.cfg.Development {
		c.DevKey, c.MetricsOnMain = firstKey(p.cfg), true
	}
	if sessions := apiConfig.Dashboard.Sessions; sessions != nil {
		c.Admin, c.Dashboard, c.AdminApart = sessions, page.Dashboard(), p.cfg.AdminPort != 0
	}
	c.TLS = p.tls
	if p.keeper != nil {
		c.Plain = p.keeper.HTTP(toTLS(p.cfg.Domain, p.cfg.Port))
	} else {
		c.Plain = toTLS(p.cfg.Domain, p.cfg.Port)
	}
	p.server = server.New(c)
	return nil
}

// ready reports whether the server takes work. It does not while it stops, so that a load
// balancer looks elsewhere.
func (p *program) ready(context.Context) error {
	if err := p.rooms.Accepts(); err != nil {
		return err
	}
	if p.replica != nil {
		if err := p.replica.Check(); err != nil {
			return err
		}
	}
	if why := p.store.Stats().Failing; why != "" {
		return fmt.Errorf("the database cannot be written: %s", why)
	}
	return nil
}

// ails reports faults of the certificate and the replica that do not keep the server from
// taking work: if a load balancer sent work elsewhere because of them, calls would end
// that have no fault.
func (p *program) ails() string {
	if p.keeper != nil {
		if why := p.keeper.Problem(); why != "" {
			return why
		}
	}
	if p.replication == nil {
		return ""
	}
	s := p.replication.Status()
	if s.Stage == "" {
		return ""
	}
	return fmt.Sprintf("the replica is %.0f s behind: %s fails: %s", s.LagSeconds, s.Stage, s.LastError)
}

// listen binds the ports of HTTP and metrics.
func (p *program) listen(ctx context.Context) (err error) {
	hosts := p.present(p.cfg.BindAddresses)
	if len(p.listeners) == 0 { // none was handed over
		if p.listeners, err = listenOn(ctx, hosts, p.cfg.Port); err != nil {
			return portHint(err, "--port")
		}
	}
	if p.cfg.OneDoor() {
		if err := p.openFront(); err != nil {
			return err
		}
	}
	if p.cfg.TLS.HTTPPort != 0 {
		if p.plainListeners, err = listenOn(ctx, hosts, p.cfg.TLS.HTTPPort); err != nil {
			p.log.Warn("nobody is sent from plain HTTP to TLS, and the certificate authority can ask on the TLS port alone",
				"error", portHint(err, "tls.http_port"))
		}
	}
	if p.cfg.Prometheus.Port != 0 {
		if p.metricsListeners, err = listenOn(ctx, hosts, p.cfg.Prometheus.Port); err != nil {
			return portHint(err, "prometheus.port")
		}
	}
	if p.cfg.Admin && p.cfg.AdminPort != 0 {
		if p.adminListeners, err = listenOn(ctx, hosts, p.cfg.AdminPort); err != nil {
			return portHint(err, "admin_port")
		}
	}
	if p.cfg.TURN.Enabled && p.cfg.TURN.TLSPort != 0 && p.cfg.TURN.TLSPort != p.cfg.Port {
		return p.listenForTURN(ctx)
	}
	return nil
}

func (p *program) serveTURN(conn net.Conn) {
	_ = p.media.ServeTURN(conn) // a client that is not served is disconnected
}

// openFront opens one door for HTTP and for the other parts that share its port.
func (p *program) openFront() error {
	c := door.Config{TLS: p.tls, HTTP: true, Trusted: trustedProxies(p.cfg), Log: p.log}
	if p.cfg.TURN.Enabled && p.cfg.TURN.TLSPort == p.cfg.Port {
		c.TURN = p.serveTURN
		if p.cfg.TURN.Domain != p.cfg.Domain {
			c.TURNName = p.cfg.TURN.Domain
		}
	}
	if p.cfg.RTC.TCPPort == p.cfg.Port {
		c.ICE = func(conn net.Conn) {
			_ = p.media.ServeICE(conn) // who is not served is gone
		}
	}
	p.front = door.New(c)
	var errs []error
	for _, l := range p.listeners {
		errs = append(errs, p.front.Listen(l))
	}
	return errors.Join(errs...)
}

// serveOn are the listeners for the server.
func (p *program) serveOn() server.Listeners {
	on := server.Listeners{Main: p.listeners, Metrics: p.metricsListeners, Plain: p.plainListeners, Admin: p.adminListeners}
	if p.front != nil {
		on.Main, on.Decrypted = p.front.HTTP()
	}
	return on
}

// listenForTURN binds the port of TURN over TLS, on the addresses of media.
func (p *program) listenForTURN(ctx context.Context) error {
	c := door.Config{Trusted: trustedProxies(p.cfg), Log: p.log, TURN: p.serveTURN}
	switch {
	case p.cfg.TURN.ExternalTLS: // all come from the load balancer
		c.Trusted = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	case p.cfg.TURN.CertFile != "":
		var err error
		if p.turnCertificate, err = newCertificate(p.cfg.TURN.CertFile, p.cfg.TURN.KeyFile, p.log); err != nil {
			return err
		}
		c.TLS = p.turnCertificate.config()
	default:
		c.TLS = p.tls
	}
	p.turn = door.New(c)
	listeners, err := listenOn(ctx, p.present(p.cfg.RTC.BindAddresses), p.cfg.TURN.TLSPort)
	for _, l := range listeners {
		err = errors.Join(err, p.turn.Listen(l))
	}
	return portHint(err, "turn.tls_port")
}

// run serves until ctx ends, and then returns nil; or until serving fails.
func (p *program) run(ctx context.Context) error {
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.requests = cancel
	failed := make(chan error, 1)
	p.upkeep.Go(func() { failed <- p.server.Serve(requests, p.serveOn()) }) // ends by close
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	case err := <-p.lost:
		if errors.Is(err, replica.ErrRemoved) {
			return fmt.Errorf("stopping: %w", err)
		}
		return fmt.Errorf("stopping, another machine may have the rooms: %w", err)
	}
}

// close stops in order the parts that were opened: clients are told to reconnect,
// requests finish, rooms are written, due webhooks are sent, the database closes. Rooms
// stay open. ctx bounds the waits.
func (p *program) close(ctx context.Context) error {
	var errs []error
	if p.rooms != nil {
		p.rooms.Stop()
	}
	if p.events != nil {
		p.events.Close()
	}
	if p.agents != nil {
		_ = within(ctx, clientsBound, p.agents.Close) // the rest is cut off
	}
	if p.signal != nil {
		// A client that has not hung up by then is cut off with its request's context.
		_ = within(ctx, clientsBound, p.signal.Wait)
	}
	if p.requests != nil {
		p.requests()
	}
	if p.server != nil {
		errs = append(errs, within(ctx, requestsBound, p.server.Shutdown))
	}
	for _, l := range slices.Concat(p.listeners, p.metricsListeners, p.plainListeners, p.adminListeners) {
		_ = l.Close() // if nothing was served; else it is closed already
	}
	for _, d := range []*door.Door{p.front, p.turn} {
		if d != nil {
			_ = d.Close() // its listeners may be closed by now
		}
	}
	if p.asks != nil {
		p.asks.Close()
	}
	if p.stopUpkeep != nil {
		p.stopUpkeep()
	}
	p.upkeep.Wait()
	if p.rooms != nil {
		errs = append(errs, p.rooms.Close(ctx))
	}
	if p.hooks != nil {
		if err := within(ctx, outboxBound, p.hooks.Drain); err != nil {
			p.log.Info("webhooks that are due are sent after the next start", "error", err)
		}
		p.hooks.Close()
	}
	if p.media != nil {
		errs = append(errs, p.media.Close())
	}
	if p.store != nil {
		errs = append(errs, p.store.Close(ctx))
	}
	if p.replica != nil {
		errs = append(errs, p.replica.Close(ctx))
	}
	return errors.Join(errs...)
}

func within(ctx context.Context, bound time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	return f(ctx)
}

// startUpkeep starts the goroutines that prune data, renew certificates and read their
// files again.
func (p *program) startUpkeep() {
	ctx, cancel := context.WithCancel(context.Background())
	p.stopUpkeep = cancel
	kept := log.Retention{Store: p.store, Logger: p.log, MaxAge: time.Duration(p.cfg.Events.MaxAge), MaxEvents: p.cfg.Events.MaxCount}
	if kept.MaxEvents == 0 {
		kept.MaxEvents = -1 // no bound; 0 would be its default
	}
	p.upkeep.Go(func() { kept.Run(ctx) })
	if keep := p.cfg.History; keep != config.Forever {
		p.upkeep.Go(func() { pruneHistory(ctx, p.store, time.Duration(keep), p.log) })
		p.upkeep.Go(func() { pruneSessions(ctx, p.store, time.Duration(keep), p.log) })
	}
	p.upkeep.Go(func() { pruneAgents(ctx, p.store, p.log) })
	p.upkeep.Go(func() { p.ring.Run(ctx) })
	p.upkeep.Go(func() { pruneModeration(ctx, p.store, p.log) })
	p.upkeep.Go(func() { pruneInvitations(ctx, p.store, p.log) })
	if p.keeper != nil {
		p.upkeep.Go(func() { p.keeper.Run(ctx) })
	}
	for _, c := range []*certificate{p.certificate, p.turnCertificate} {
		if c != nil {
			p.upkeep.Go(func() { c.watch(ctx) })
		}
	}
}

// pruneModeration deletes expired bans, and revocations older than any sensible token,
// until ctx ends. Neither is urgent: an expired ban keeps nobody away.
func pruneModeration(ctx context.Context, m rooms.Moderation, log *slog.Logger) {
	const (
		longestToken = 10 * 366 * 24 * time.Hour
		every        = time.Hour
	)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-timer.C:
			if _, err := m.PruneModeration(ctx, rooms.NowMs(now), rooms.NowMs(now.Add(-longestToken))); err != nil && ctx.Err() == nil {
				log.Error("cannot forget bans that have run out", "error", err)
			}
			timer.Reset(every)
		}
	}
}

// pruneInvitations deletes invitations that could not be used for a month, until ctx ends.
func pruneInvitations(ctx context.Context, s *sqlite.Store, log *slog.Logger) {
	const keep = 30 * 24 * time.Hour
	prune(ctx, time.Hour, log, "cannot forget old invitations", func() (more bool, err error) {
		_, err = s.PruneInvitations(ctx, rooms.NowMs(time.Now().Add(-keep)))
		return false, err
	})
}

// pruneHistory deletes old ended rooms until ctx ends.
func pruneHistory(ctx context.Context, h rooms.History, keep time.Duration, log *slog.Logger) {
	prune(ctx, 10*time.Minute, log, "cannot forget old rooms", func() (more bool, err error) {
		n, err := h.PruneHistory(ctx, rooms.NowMs(time.Now().Add(-keep)), pruneBatch)
		return n == pruneBatch, err
	})
}

// pruneSessions deletes old sessions of open rooms, which may never end, until ctx ends.
// It runs seldom, because it looks at every open room.
func pruneSessions(ctx context.Context, h rooms.History, keep time.Duration, log *slog.Logger) {
	var at rooms.RoomCursor
	prune(ctx, time.Hour, log, "cannot forget old sessions", func() (more bool, err error) {
		n, next, err := h.PruneSessions(ctx, rooms.NowMs(time.Now().Add(-keep)), at, pruneBatch)
		at = next
		return n == pruneBatch || next != rooms.RoomCursor{}, err
	})
}

// pruneAgents deletes old dispatches and jobs of open rooms until ctx ends. It runs
// seldom, because it looks at every open room.
func pruneAgents(ctx context.Context, h rooms.History, log *slog.Logger) {
	var at rooms.RoomCursor
	prune(ctx, time.Hour, log, "cannot forget old jobs of agents", func() (more bool, err error) {
		n, next, err := h.PruneAgents(ctx, at, pruneBatch)
		at = next
		return n == pruneBatch || next != rooms.RoomCursor{}, err
	})
}

// pruneBatch is how many rows are deleted at a time, so that nobody waits long for it.
const pruneBatch = 500

// prune calls step until nothing is left to delete, and again after every, also after a
// failure. It returns when ctx ends.
func prune(ctx context.Context, every time.Duration, log *slog.Logger, failure string, step func() (more bool, err error)) {
	const pause = 50 * time.Millisecond // between two batches
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		more, err := step()
		if err != nil && ctx.Err() == nil {
			log.Error(failure, "error", err)
		}
		if more && err == nil {
			timer.Reset(pause)
		} else {
			timer.Reset(every)
		}
	}
}

func mediaConfig(cfg *config.Config, addresses []string, log *slog.Logger) media.Config {
	ports := cfg.RTC.UDPPorts()
	c := media.Config{
		UDPPort:           [2]int{ports[0], ports[len(ports)-1]},
		TCPPort:           cfg.RTC.TCPPort,
		TCPHanded:         cfg.OneDoor() && cfg.RTC.TCPPort == cfg.Port,
		BindAddresses:     addresses,
		UseExternalIP:     cfg.RTC.UseExternalIP,
		DiscoverySTUN:     cfg.RTC.DiscoverySTUN(),
		STUNServers:       cfg.RTC.STUNServers,
		ICEServerList:     turnServers(cfg),
		LoopbackCandidate: cfg.RTC.EnableLoopbackCandidate,
		IncludeInterfaces: cfg.RTC.Interfaces.Includes,
		ExcludeInterfaces: cfg.RTC.Interfaces.Excludes,
		IncludeIPs:        cfg.RTC.IPs.Includes,
		ExcludeIPs:        cfg.RTC.IPs.Excludes,
		EnabledCodecs:     codecs(cfg),
		LossyLatency:      time.Duration(cfg.RTC.DatachannelLossyTargetLatency),
		DataTrackLatency:  time.Duration(cfg.RTC.DatachannelDataTrackTargetLatency),
		MaxForwardedAudio: cfg.Audio.MaxForwarded,
		TURN:              turnConfig(cfg),
		Log:               log,
	}
	for _, ip := range []netip.Addr{cfg.RTC.NodeIP.V4, cfg.RTC.NodeIP.V6} {
		if ip.IsValid() {
			c.NodeIPs = append(c.NodeIPs, ip.String())
		}
	}
	return c
}

// turnConfig configures the built-in TURN server; nil if there is none.
func turnConfig(cfg *config.Config) *media.TURNConfig {
	t := &cfg.TURN
	if !t.Enabled {
		return nil
	}
	c := &media.TURNConfig{
		Secret:     func(apiKey string) string { return cfg.Keys[apiKey] },
		UDPPort:    t.UDPPort,
		ForceRelay: t.ForceRelay,
		TTL:        time.Duration(t.TTLSeconds) * time.Second,
		Allow:      prefixes(t.Relay.Allow),
		Deny:       prefixes(slices.Concat(t.Relay.Deny, t.DenyPeerCIDRs)),
		FirstPort:  uint16(t.RelayRangeStart), LastPort: uint16(t.RelayRangeEnd),
		PerSession: orNone(t.MaxAllocationsPerParticipant), PerNetwork: orNone(t.MaxAllocationsPerAddress), All: orNone(t.MaxAllocations),
	}
	if t.ExternalTLS {
		c.PerNetwork = -1 // all connections come from the load balancer
	}
	if cfg.Domain != "" && cfg.OneDoor() {
		c.Name = cfg.Domain
	}
	if t.TLSPort != 0 && t.TLSPort == cfg.Port {
		// One door: TURN over plain TCP comes through it as well.
		c.URLs = append(c.URLs, "turn:"+net.JoinHostPort(t.Domain, strconv.Itoa(t.TLSPort))+"?transport=tcp", turnsURL(t.Domain, t.TLSPort))
	} else if t.TLSPort != 0 {
		const usual = 443 // LiveKit's clients are told of this port, whatever the true one is
		c.URLs = append(c.URLs, turnsURL(t.Domain, usual))
		if t.TLSPort != usual && !t.ExternalTLS {
			c.URLs = append(c.URLs, turnsURL(t.Domain, t.TLSPort))
		}
	}
	return c
}

func turnsURL(host string, port int) string {
	return "turns:" + net.JoinHostPort(host, strconv.Itoa(port)) + "?transport=tcp"
}

// orNone is a configured limit in the parts' form, where 0 means their default.
func orNone(limit int) int {
	if limit == 0 {
		return -1
	}
	return limit
}

func prefixes(cidrs []string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range cidrs {
		if p, err := netip.ParsePrefix(text); err == nil { // the configuration's check has reported the others
			all = append(all, p.Masked())
		}
	}
	return all
}

// turnServers are the configured TURN servers in the form for clients (RFC 7065).
func turnServers(cfg *config.Config) []*livekit.ICEServer {
	var all []*livekit.ICEServer
	for _, t := range cfg.RTC.TURNServers {
		if t.Username == "" || t.Credential == "" {
			continue
		}
		scheme, transport := "turn", t.Protocol
		if t.Protocol == "tls" {
			scheme, transport = "turns", "tcp"
		}
		all = append(all, &livekit.ICEServer{
			Urls:     []string{fmt.Sprintf("%s:%s?transport=%s", scheme, net.JoinHostPort(t.Host, strconv.Itoa(t.Port)), transport)},
			Username: t.Username, Credential: t.Credential,
		})
	}
	return all
}

// codecs are the mime types that may be published, video first.
func codecs(cfg *config.Config) []string {
	if len(cfg.Room.EnabledCodecs) == 0 {
		return rooms.Codecs()
	}
	var video, audio []string
	for _, c := range cfg.Room.EnabledCodecs {
		if c.Mime[0] == 'v' || c.Mime[0] == 'V' {
			video = append(video, c.Mime)
		} else {
			audio = append(audio, c.Mime)
		}
	}
	return append(video, audio...)
}

func roomsConfig(cfg *config.Config, store *sqlite.Store, log *slog.Logger) rooms.Config {
	c := rooms.Config{
		Store: store, Moderation: store, Log: log,
		AutoCreate:         cfg.Room.AutoCreate,
		EmptyTimeout:       roomTimeout(cfg.Room.EmptyTimeout),
		DepartureTimeout:   roomTimeout(cfg.Room.DepartureTimeout),
		MaxParticipants:    cfg.Room.MaxParticipants,
		Room:               rooms.RoomConfig{SyncStreams: cfg.Room.SyncStreams, EnabledCodecs: codecs(cfg)},
		EnableRemoteUnmute: cfg.Room.EnableRemoteUnmute,
		NoDataTracks:       !cfg.EnableDataTracks,
		RejectDuplicates:   cfg.Room.OnDuplicateIdentity == "reject",
		Limits:             limits(cfg),
		RestartGrace:       time.Duration(cfg.RestartGrace),
	}
	if d := cfg.Room.PlayoutDelay; d.Enabled {
		c.Room.MinPlayoutDelay, c.Room.MaxPlayoutDelay = d.Min, d.Max
	}
	return c
}

func limits(cfg *config.Config) rooms.Limits {
	return rooms.Limits{
		MaxMetadata:        cfg.Limit.MaxMetadataSize,
		MaxAttributes:      cfg.Limit.MaxAttributesSize,
		MaxRoomName:        cfg.Limit.MaxRoomNameLength,
		MaxIdentity:        cfg.Limit.MaxParticipantIdentityLength,
		MaxParticipantName: cfg.Limit.MaxParticipantNameLength,
		MaxCustomEncoding:  cfg.Limit.MaxDataTrackCustomEncodingLength,
	}
}

// roomTimeout is a configured timeout in the domain's form. A configured 0 ends an empty
// room at once, but in the domain's configuration 0 would mean the default.
func roomTimeout(s config.Seconds) rooms.Timeout {
	switch s {
	case config.Never:
		return rooms.Never
	case 0:
		return 1
	}
	return rooms.Timeout(s) * 1000
}

func webhooksConfig(cfg *config.Config, store *sqlite.Store, log *slog.Logger) webhooks.Config {
	c := webhooks.Config{
		Store: store, Keys: cfg.Keys, Key: cfg.Webhook.APIKey, Logger: log,
		UserAgent: "Parlor/" + version(), Ordering: webhooks.Ordering(cfg.Webhook.Ordering),
		MaxPending: cfg.Webhook.MaxPending,
	}
	if c.MaxPending == 0 { // no limit
		c.MaxPending = -1
	}
	for _, url := range cfg.Webhook.URLs {
		c.Endpoints = append(c.Endpoints, webhooks.Endpoint{
			URL:     url,
			Include: cfg.Webhook.FilterParams.IncludeEvents,
			Exclude: cfg.Webhook.FilterParams.ExcludeEvents,
		})
	}
	for _, e := range cfg.Webhook.Endpoints {
		filter := e.FilterParams
		if filter.Empty() {
			filter = cfg.Webhook.FilterParams
		}
		c.Endpoints = append(c.Endpoints, webhooks.Endpoint{
			URL: e.URL, Name: e.Name, Key: e.APIKey, Include: filter.IncludeEvents, Exclude: filter.ExcludeEvents,
			Ordering: webhooks.Ordering(e.Ordering), Secrets: e.Secrets,
			RetryFor: time.Duration(e.RetryFor), Concurrency: e.Concurrency,
		})
	}
	return c
}

var (
	_ api.Rooms    = (*rooms.Rooms)(nil)
	_ api.Records  = (*sqlite.Store)(nil)
	_ http.Handler = (*static.Handler)(nil)
)
