package program

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parlor/rooms/log"
	"parlor/server"
	"parlor/server/admin"
	"parlor/server/api"
	"parlor/server/devices"
	"parlor/server/events"
	"parlor/server/ratelimit"
	"parlor/server/signal"
	"parlor/static"
)

// openServer opens what answers over HTTP: signalling, the API, events and the pages.
func (p *program) openServer(node string) error {
	p.refusals = &admin.Refusals{}
	if err := p.openSignal(node); err != nil {
		return err
	}
	page, err := static.NewHandler(static.Files())
	if err != nil {
		return err
	}
	p.events = events.New(&log.Reader{Store: p.store}, p.log, len(p.cfg.Keys))
	if err := p.openTLS(); err != nil {
		return err
	}
	requests, joins, redeems, looks := p.rateLimits()
	apiConfig := p.apiConfig()
	apiConfig.Dashboard, apiConfig.Requests, apiConfig.Looks = p.dashboard(), requests, looks
	knocks := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "parlor_knocks_refused_total", Help: "Guests who could not wait to be let in, since too many waited already.",
	})
	p.registry.MustRegister(knocks)
	apiConfig.KnockRefused = knocks.Inc
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
		CORSOrigins: p.cfg.CORSOrigins, TrustedProxies: prefixes(p.cfg.TrustedProxies), Joins: joins, Requests: requests,
		Refusals: p.refusals, TLS: p.tls, Plain: toTLS(p.cfg.Domain, p.cfg.Port),
		MetricsUser: p.cfg.Prometheus.Username, MetricsPassword: p.cfg.Prometheus.Password,
	}
	if p.cfg.Development {
		c.DevKey, c.MetricsOnMain = firstKey(p.cfg), true
	}
	if sessions := apiConfig.Dashboard.Sessions; sessions != nil {
		c.Admin, c.Dashboard, c.AdminApart = sessions, page.Dashboard(), p.cfg.AdminPort != 0
	}
	if p.keeper != nil {
		c.Plain = p.keeper.HTTP(c.Plain)
	}
	p.server = server.New(c)
	return nil
}

func (p *program) openSignal(node string) error {
	rules, err := devices.New(p.cfg.Clients)
	if err != nil {
		return err
	}
	c := signal.Config{
		Refusals: p.refusals, Rooms: p.rooms, Media: p.media, Verifier: p.verifier, Log: p.log, Metrics: p.registry,
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
		c.Authorize = p.asks
	}
	p.signal = signal.New(c)
	return nil
}

func (p *program) apiConfig() api.Config {
	return api.Config{
		Rooms: p.rooms, Dispatches: p.rooms, Records: p.store, Moderation: p.store, Hours: p.store, Replies: p.store, Verifier: p.verifier, Log: p.log,
		Presets: p.cfg.Room.RoomConfigurations, MaxBody: p.cfg.Limit.MaxAPIRequestBodySize, Guard: p.guard, Limits: limits(p.cfg),
		Events: p.events, Webhooks: p.hooks, Writer: func() api.Writer { return writerStatus(p.store.Stats()) },
		Check: (&inspection{cfg: p.cfg, server: p}).checks, Certificate: p.certificateStatus,
		Lobby: p.cfg.Room.Lobby, Hooked: p.cfg.Hooks.Authorize != "", Replica: p.replication, Version: version(), Started: time.Now(),
	}
}

// redeemsPerAddress is the number of invitations that one client address may redeem each
// second. The people of a company may share one address and join a meeting at the same time,
// so the burst is large.
const redeemsPerAddress = 10

// looksPerAddress is how often each second one client address may ask who is in a room. A
// page in the lobby asks every ten seconds.
const looksPerAddress = 10

// rateLimits makes the limits of API requests, of joins, of redeemed invitations, and of looks
// into rooms before joining.
func (p *program) rateLimits() (requests, joins, redeems, looks *ratelimit.Limits) {
	l := p.cfg.Limit
	requests = ratelimit.New(ratelimit.Config{
		What: "requests", PerAddress: l.RequestsPerAddress, PerKey: l.RequestsPerKey, Burst: time.Duration(l.Burst),
	})
	joins = ratelimit.New(ratelimit.Config{
		What: "joins", PerAddress: l.JoinsPerAddress, PerKey: l.JoinsPerKey, Burst: time.Duration(l.Burst),
	})
	redeems = ratelimit.New(ratelimit.Config{What: "invitations", PerAddress: redeemsPerAddress, Burst: time.Duration(l.Burst)})
	looks = ratelimit.New(ratelimit.Config{What: "lobby", PerAddress: looksPerAddress, Burst: time.Duration(l.Burst)})
	p.registry.MustRegister(requests, joins, redeems, looks)
	return requests, joins, redeems, looks
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
