package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"parlor/rooms"
	"parlor/rooms/log"
	"parlor/server/access"
	"parlor/server/admin"
	"parlor/server/events"
	"parlor/server/problem"
)

const (
	// overviewLives is how long an overview is given to others who ask for one.
	overviewLives = time.Second
	// overviewEvery is the time between two overviews of a stream.
	overviewEvery = 2 * time.Second
)

// overview is how the server fares, what is wrong with it, and how it fared.
type overview struct {
	At      *timestamp `json:"at"`
	Status  status     `json:"status"`
	Lamps   []lamp     `json:"lamps"`
	Alerts  []alert    `json:"alerts" doc:"What is wrong, by the rules for Prometheus of the documentation; the worst first."`
	Now     *sample    `json:"now" doc:"The newest sample; null until there is one."`
	Refused uint64     `json:"refused" doc:"Joins, calls and tries to sign in that were refused since the start."`
	Hour    []sample   `json:"hour,omitempty" doc:"The samples of the last hour, the oldest first; not in a stream."`
}

// lamp is the state of one part.
type lamp struct {
	Name  string `json:"name" enum:"database,replica,webhooks,certificate"`
	State string `json:"state" enum:"ok,warning,failed,off" doc:"off: there is none."`
	Found string `json:"found" doc:"What was seen, in a sentence."`
}

// alert is something that a person has to look at.
type alert struct {
	Name  string `json:"name" doc:"Of the rule."`
	State string `json:"state" enum:"warning,failed"`
	Found string `json:"found"`
	Do    string `json:"do"`
}

// sample is how the server fared for some seconds.
type sample struct {
	At           *timestamp `json:"at"`
	Live         int        `json:"live" doc:"Rooms with something going on."`
	Participants int        `json:"participants"`
	In           int64      `json:"in" doc:"Media, bits a second."`
	Out          int64      `json:"out"`
	Loss         float64    `json:"loss" doc:"Share of packets to subscribers, 0 to 1."`
	CPU          float64    `json:"cpu" doc:"Cores."`
	Memory       int64      `json:"memory" doc:"Bytes."`
	DiskFree     int64      `json:"disk_free" doc:"Bytes for the database; -1: not known."`
	WAL          int64      `json:"wal" doc:"Bytes of the write-ahead log."`
	Lag          float64    `json:"lag" doc:"Of the replica, seconds."`
}

func showSample(s *admin.Sample) sample {
	return sample{
		At: at(rooms.NowMs(s.At)), Live: s.Live, Participants: s.Participants, In: int64(s.In), Out: int64(s.Out),
		Loss: s.Loss, CPU: s.CPU, Memory: s.Memory, DiskFree: s.DiskFree, WAL: s.WAL, Lag: s.Lag,
	}
}

// lastOverview is shared by all who watch at a time.
type lastOverview struct {
	mu   sync.Mutex // guards the following; one asks, others wait for it
	at   time.Time
	last overview
}

// overview is the newest, without its hour.
func (s *rest) overview(ctx context.Context) (overview, error) {
	s.newest.mu.Lock()
	defer s.newest.mu.Unlock()
	if time.Since(s.newest.at) < overviewLives {
		return s.newest.last, nil
	}
	now := time.Now()
	out := overview{At: at(rooms.NowMs(now))}
	var err error
	if out.Status, err = s.status(ctx, now); err != nil {
		return out, err
	}
	var endpoints []endpoint
	if out.Status.Webhooks != nil { // else the database cannot be read, which is told
		if endpoints, err = s.endpoints(ctx); err != nil {
			return out, err
		}
	}
	var certificate []Check
	if s.Dashboard.Certificate != nil {
		certificate = s.Dashboard.Certificate(ctx)
	}
	var hour []admin.Sample
	if s.Dashboard.Ring != nil {
		hour = s.Dashboard.Ring.Hour()
		if n := len(hour); n > 0 {
			newest := showSample(&hour[n-1])
			out.Now = &newest
		}
	}
	out.Refused = s.Dashboard.Refusals.Total()
	out.Lamps = lamps(&out.Status, certificate)
	out.Alerts = alerts(&out.Status, endpoints, certificate, hour)
	s.newest.at, s.newest.last = now, out
	return out, nil
}

func (s *rest) getOverview(w http.ResponseWriter, r *http.Request) error {
	out, err := s.overview(r.Context())
	if err != nil {
		return err
	}
	out.Hour = []sample{}
	if s.Dashboard.Ring != nil {
		hour := s.Dashboard.Ring.Hour()
		for i := range hour {
			out.Hour = append(out.Hour, showSample(&hour[i]))
		}
	}
	return sendJSON(w, http.StatusOK, out)
}

// watch is the event log as a stream for people, with an overview every few seconds.
func (s *rest) watch(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	ctx = events.Beside(ctx, "overview", overviewEvery, func() []byte {
		out, err := s.overview(r.Context())
		if err != nil {
			return nil // the next one may come through
		}
		body, err := json.Marshal(out)
		if err != nil {
			return nil // our own type: only a bug gets here
		}
		return body
	})
	r = r.WithContext(events.While(events.Gathered(ctx), s.stillGood))
	r.Header.Set("Accept", "text/event-stream")
	s.Events.ServeHTTP(w, r)
	return nil
}

// sessionGood is why the request's session of the dashboard is good no more.
func (s *rest) sessionGood(c *access.Claims) error {
	if s.Dashboard.Sessions == nil {
		return nil
	}
	if _, ok := s.Dashboard.Sessions.Find(c.Session); !ok {
		return problem.New(http.StatusUnauthorized, "unauthenticated", "the session is over: sign in again")
	}
	return nil
}

func lamps(s *status, certificate []Check) []lamp {
	all := []lamp{{"database", "ok", "it is written"}}
	if d := s.Database; d != nil {
		all[0].Found = fmt.Sprintf("99 of 100 commits within %g ms", d.P99Ms)
		if d.Failing != "" {
			all[0] = lamp{"database", "failed", d.Failing}
		}
	}
	switch r := s.Replication; {
	case r == nil:
		all = append(all, lamp{"replica", "off", "there is none"})
	case r.State == LeaseLost:
		all = append(all, lamp{"replica", "failed", "the lease is lost"})
	case r.State != LeaseHeld || r.Stage != "" || r.LagSeconds > lagTooLong:
		all = append(all, lamp{"replica", "warning", fmt.Sprintf("%.0f s behind; lease %s; %s", r.LagSeconds, r.State, r.LastError)})
	default:
		all = append(all, lamp{"replica", "ok", fmt.Sprintf("%.1f s behind; lease held, epoch %d", r.LagSeconds, r.Epoch)})
	}
	switch w := s.Webhooks; {
	case w == nil:
		all = append(all, lamp{"webhooks", "failed", "the database cannot be read"})
	case w.Endpoints == 0:
		all = append(all, lamp{"webhooks", "off", "there are none"})
	case w.Failing > 0 || w.Dead > 0:
		all = append(all, lamp{"webhooks", "warning", fmt.Sprintf("%d of %d fail; %d pending, %d dead", w.Failing, w.Endpoints, w.Pending, w.Dead)})
	default:
		all = append(all, lamp{"webhooks", "ok", fmt.Sprintf("%d pending", w.Pending)})
	}
	if len(certificate) == 0 {
		return append(all, lamp{"certificate", "off", "there is none"})
	}
	return append(all, lamp{"certificate", Worst(certificate), certificate[0].Found})
}

// The bounds of the rules for Prometheus in the documentation.
const (
	lagTooLong     = 30 // seconds
	notBackAfter   = 2 * time.Minute
	slowCommitMs   = 500
	bigWAL         = 1e9
	webhooksLate   = 5 * time.Minute
	littleDiskFree = 1 << 30
	muchLoss       = 0.05
	lossFor        = 6 // samples
)

// alerts holds how the server fares against the documentation's rules.
func alerts(s *status, endpoints []endpoint, certificate []Check, hour []admin.Sample) []alert {
	failed, warned := []alert{}, []alert{}
	fail := func(name, do, found string, args ...any) {
		failed = append(failed, alert{name, CheckFailed, fmt.Sprintf(found, args...), do})
	}
	warn := func(name, do, found string, args ...any) {
		warned = append(warned, alert{name, CheckWarning, fmt.Sprintf(found, args...), do})
	}
	if d := s.Database; d != nil {
		if d.Failing != "" {
			fail("ParlorCannotWrite", "See whether the disk is full or broken: calls go on, joins are refused.", "The database fails: %s", d.Failing)
		}
		if d.P99Ms > slowCommitMs {
			warn("ParlorWritesSlowly", "Put the database on a faster disk: each join waits for it.", "One of 100 commits takes longer than %d ms.", slowCommitMs)
		}
		if d.Damaged > 0 {
			warn("ParlorRowsDamaged", "See the log, which names them: the disk may be broken. Rooms with damaged settings are locked until a setting is set.",
				"A part of %d rows of the database cannot be read.", d.Damaged)
		}
		if d.WALBytes > bigWAL {
			warn("ParlorLogGrows", "See what reads the database for long, or why the replica is behind.", "The write-ahead log has %d MB.", d.WALBytes/1e6)
		}
	}
	if n := s.Rooms.Overdue; n != nil && *n > 0 {
		fail("ParlorRoomsOverdue", "This is a fault of the server: report it with its log.", "%d rooms should have ended.", *n)
	}
	if n := s.Rooms.Stuck; n > 0 {
		fail("ParlorRoomsStuck", "This is a fault of the server: report it with its log and /debug/pprof/goroutine?debug=2, and restart it.", "%d rooms do not answer.", n)
	}
	if n := s.Rooms.ExpectedBack; n > 0 && time.Duration(s.UptimeSeconds)*time.Second > notBackAfter {
		warn("ParlorNotBack", "See whether restart_grace is longer than you want.", "%d people are still expected back after the restart.", n)
	}
	if r := s.Replication; r != nil {
		if r.State != LeaseHeld {
			fail("ParlorLeaseNotHeld", "See whether the replica can be reached, and whether another machine has taken over.", "The lease on the replica is %s.", r.State)
		}
		if r.Stage != "" {
			fail("ParlorReplicaFails", "Do what the failure says; replication goes on by itself then.", "%s fails: %s", r.Stage, r.LastError)
		}
		if r.LagSeconds > lagTooLong {
			warn("ParlorReplicaBehind", "See the network to the replica.", "The replica is %.0f s behind.", r.LagSeconds)
		}
		if len(hour) > 0 && hour[0].Epoch != 0 && hour[0].Epoch != r.Epoch {
			warn("ParlorTakenOver", "Find out what removed or damaged files, or which machine took over.", "The epoch grew from %d to %d in the last hour.", hour[0].Epoch, r.Epoch)
		}
	}
	for i := range endpoints {
		endpointAlerts(&endpoints[i], warn)
	}
	for _, c := range certificate {
		if c.State != CheckOK && c.Do != "" {
			warn("Certificate", c.Do, "Certificate: %s", c.Found)
		}
	}
	if n := len(hour); n > 0 {
		if free := hour[n-1].DiskFree; free >= 0 && free < littleDiskFree {
			warn("Disk", "Make room: a full disk refuses joins.", "%d MB are free for the database.", free/1e6)
		}
		bad := 0
		for i := max(0, n-lossFor); i < n; i++ {
			if hour[i].Loss > muchLoss {
				bad++
			}
		}
		if bad == lossFor {
			warn("Loss", "Many subscribers have bad networks, or this machine has: see rooms with poor quality.", "%.0f %% of the packets to subscribers are lost.", 100*hour[n-1].Loss)
		}
	}
	return append(failed, warned...)
}

func endpointAlerts(e *endpoint, warn func(name, do, found string, args ...any)) {
	name := e.Name
	if name == "" {
		name = e.URL
	}
	removed := e.Reason == log.ReasonRemoved
	if e.Dead > 0 {
		warn("ParlorWebhooksGivenUp", "See why under Webhooks, and replay them.", "%d deliveries to %s were given up.", e.Dead, name)
	}
	if removed {
		return
	}
	if e.waits > webhooksLate {
		warn("ParlorWebhooksLate", "See its last error under Webhooks.", "Deliveries to %s wait for %.0f minutes.", name, e.waits.Minutes())
	}
	switch {
	case e.State != string(log.EndpointOn):
		warn("ParlorEndpointNotOn", "Resume it under Webhooks when its receiver is ready.", "%s is %s: %s", name, e.State, e.Reason)
	case e.Down:
		warn("ParlorEndpointNotOn", "See its last error under Webhooks: it is only probed until it answers.", "%s is down: %s", name, e.LastError)
	}
}
