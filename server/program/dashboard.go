package program

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"parlor/server/admin"
	"parlor/server/api"
	"parlor/server/ratelimit"
)

// signInBurst and one a second after it are the tries to sign in of one address.
const signInBurst = 10 * time.Second

// dashboard is what the API has for the dashboard.
func (p *program) dashboard() api.Dashboard {
	p.ring = admin.NewRing(p.figures())
	d := api.Dashboard{
		Ring: p.ring, Refusals: p.refusals, Audit: p.store, Settings: p.cfg.Show, Certificate: p.certificateChecks(),
		Starts: p.store, StartID: func() int64 { return p.startID }, Addresses: p.media.Addresses, Workers: p.agents.Workers, Lines: p.lines, Backups: &copies{store: p.store},
	}
	if p.replica != nil {
		d.Generations = p.generations
	}
	if p.cfg.Admin {
		limits := ratelimit.New(ratelimit.Config{What: "sign-in", PerAddress: 1, Burst: signInBurst})
		p.registry.MustRegister(limits)
		d.Sessions = admin.NewSessions(p.verifier, limits, p.tls != nil, p.log)
	}
	return d
}

// figures reads the counts that the dashboard's charts are made of.
func (p *program) figures() func() admin.Figures {
	process := prometheus.NewRegistry() // of the process alone: the whole costs more
	process.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return func() admin.Figures {
		live, m, store := p.rooms.Stats(), p.media.Stats(), p.store.Stats()
		f := admin.Figures{
			Live: live.Live, Participants: live.Participants,
			BytesIn: m.Audio.Received.Bytes + m.Video.Received.Bytes, BytesOut: m.Audio.Sent.Bytes + m.Video.Sent.Bytes,
			PacketsOut: m.Audio.Sent.Packets + m.Video.Sent.Packets, LostOut: m.Audio.Sent.Lost + m.Video.Sent.Lost,
			WAL: store.WALBytes, DiskFree: -1,
		}
		if free, err := freeBytes(filepath.Dir(p.cfg.Database)); err == nil {
			f.DiskFree = free
		}
		if p.replication != nil {
			s := p.replication.Status()
			f.Lag, f.Epoch = s.LagSeconds, s.Epoch
		}
		families, err := process.Gather()
		if err != nil {
			return f // what the system does not tell is 0
		}
		for _, family := range families {
			if len(family.GetMetric()) == 0 {
				continue
			}
			one := family.GetMetric()[0]
			switch family.GetName() {
			case "process_cpu_seconds_total":
				f.CPU = one.GetCounter().GetValue()
			case "process_resident_memory_bytes":
				f.Memory = int64(one.GetGauge().GetValue())
			}
		}
		return f
	}
}

// certificateChecks tells how long the certificate holds, looked at once a minute.
func (p *program) certificateChecks() func(context.Context) []api.Check {
	const every = time.Minute
	var (
		mu   sync.Mutex // guards the following
		last []api.Check
		at   time.Time
	)
	look := &inspection{cfg: p.cfg, server: p}
	return func(ctx context.Context) []api.Check {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(at) > every {
			last, at = look.checkCertificate(ctx), time.Now()
		}
		return last
	}
}

const adminLinkUsage = `Make a link that signs in to the dashboard of a server that runs, once.

  parlor admin-link
  parlor admin-link --role look --valid 1h

Roles: look sees everything, moderate acts on rooms and people, all does what the key may.

`

// adminLink prints a link that signs in to the dashboard once.
func adminLink(ctx context.Context, env Environment) error {
	var c clientFlags
	f := newFlags("parlor admin-link", adminLinkUsage, clientUsage)
	role := f.String("role", "all", "`role`: look, moderate or all")
	valid := f.Duration("valid", admin.LinkLife, "how `long` it can be used, such as 30m (10m)")
	c.register(f)
	if err := parse(f, env); err != nil {
		return err
	}
	if *valid < time.Second || *valid > admin.MaxLinkLife {
		return fmt.Errorf("--valid must be from 1s to %s", admin.MaxLinkLife)
	}
	server, err := c.connect(env)
	if err != nil {
		return err
	}
	body := struct {
		Role string `json:"role"`
		TTL  int64  `json:"ttl"`
	}{*role, int64(valid.Seconds())}
	var answer struct{ Path string }
	raw, err := server.call(ctx, http.MethodPost, "/admin/links", nil, body, &answer)
	if err != nil {
		return err
	}
	if c.json {
		return writeJSONLine(env.Out, raw)
	}
	_, err = fmt.Fprintln(env.Out, c.dashboardURL(env, server)+printable(answer.Path, 8*lineWidth))
	return err
}

// dashboardURL is where people reach the dashboard of a server, as far as the configuration
// tells.
func (c *clientFlags) dashboardURL(env Environment, server *client) string {
	if c.url != "" {
		return server.base
	}
	cfg, err := c.load(env)
	if err != nil {
		return server.base // where it was asked
	}
	scheme, host, port := "http", localHost(cfg.BindAddresses), cfg.Port
	if cfg.SpeaksTLS() {
		scheme = "https"
	}
	if cfg.Domain != "" {
		host = cfg.Domain
	} else if strings.HasPrefix(host, "127.") || host == "::1" {
		host = "localhost"
	}
	if cfg.AdminPort != 0 {
		port = cfg.AdminPort
	}
	if scheme == "https" && port == 443 {
		return scheme + "://" + host
	}
	return scheme + "://" + net.JoinHostPort(host, strconv.Itoa(port))
}
