package agents

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/prometheus/client_golang/prometheus"

	"parlor/rooms"
	"parlor/rooms/goroutines"
	"parlor/server/access"
	"parlor/server/unpack"
)

const (
	registerTimeout = 10 * time.Second // for a worker's registration
	answerTimeout   = 10 * time.Second // for its answer about a job
	tokenFor        = time.Hour        // lifetime of an agent's token
	// MostWorkers is how many workers of one API key may be connected.
	MostWorkers = 1000
	// mostKinds is the default of [Config.MostKinds].
	mostKinds = 1000
	// mostName bounds an agent's name and its namespace, in bytes.
	mostName = 256
)

// Rooms is what this package needs of the domain.
type Rooms interface {
	PendingJob(ctx context.Context, room, id string) (*livekit.Job, error)
	AssignJob(ctx context.Context, room, id string, a rooms.JobAnswer) (*livekit.Job, error)
	PostponeJob(ctx context.Context, room, id string, by time.Duration) error
	StartJob(ctx context.Context, room string, job *livekit.Job, k rooms.AgentKind, a rooms.JobAnswer) (*livekit.Job, error)
	EndJob(ctx context.Context, room, id, workerID string, status livekit.JobStatus, why string) error
	AdoptJob(ctx context.Context, room, id, workerID string) error
	WorkerLost(ctx context.Context, room, id, workerID string) error
	Reconsider(ctx context.Context, room, agentName string) error
	Live() []string
	Now() rooms.Instant
}

// Config is what a [Handler] needs.
type Config struct {
	Records rooms.DispatchRecords
	Known   rooms.AgentKinds
	// Grace is how long workers whose agents go to every room are expected back after a
	// restart or after the last worker of a kind has gone.
	Grace time.Duration
	// MostKinds bounds the kinds of workers, including those that are expected back: each
	// kind has a goroutine, and a new room gets a job for each kind whose agents go to
	// every room. 0 = 1000.
	MostKinds int
	Verifier  *access.Verifier
	Log       *slog.Logger
	Metrics   prometheus.Registerer // may be nil
	Guard     *unpack.Guard         // bounds concurrent decoding; nil = no bound
	// ServerInfo is sent to workers that register.
	ServerInfo *livekit.ServerInfo
	// MaxMessage bounds a worker's message in bytes; 0 = only what it unpacks to is
	// bounded.
	MaxMessage int64
}

// Handler answers /agent and gives jobs to workers. It implements [rooms.Workers]. Its
// methods may be called concurrently.
type Handler struct {
	cfg     Config
	rooms   Rooms
	log     *slog.Logger
	metrics *metrics
	decoder *decoder

	life    context.Context // ends with Close; parent of the pools and connections
	quit    context.CancelFunc
	running goroutines.Group // pools and connections; added to under mu
	turns   turns            // by job

	mu     sync.Mutex // guards the following
	closed bool
	pools  map[rooms.AgentKind]*pool
	perKey map[string]int     // number of workers, by API key
	jobs   map[string]*worker // the worker that has the job, by the job's id
	// known holds, by kind, until when workers are expected back whose agents go to every
	// room. Together with pools it has at most Config.MostKinds entries.
	known map[rooms.AgentKind]time.Time

	changed chan struct{} // capacity 1: the kinds to be stored have changed
}

var _ rooms.Workers = (*Handler)(nil)

// New makes the handler. It refuses workers before Open.
func New(cfg Config) *Handler {
	if cfg.MostKinds == 0 {
		cfg.MostKinds = mostKinds
	}
	life, quit := context.WithCancel(context.Background())
	return &Handler{
		cfg: cfg, log: cfg.Log, metrics: newMetrics(cfg.Metrics), decoder: newDecoder(cfg.Guard),
		life: life, quit: quit, turns: turns{m: make(map[string]*turn)},
		pools: make(map[rooms.AgentKind]*pool), perKey: make(map[string]int), jobs: make(map[string]*worker),
		known: make(map[rooms.AgentKind]time.Time), changed: make(chan struct{}, 1),
	}
}

// Open gives the handler its rooms. Workers of before the restart are expected back.
func (h *Handler) Open(ctx context.Context, r Rooms) error {
	kinds, err := h.cfg.Known.AgentKinds(ctx, h.cfg.MostKinds)
	if err != nil {
		return fmt.Errorf("read the kinds of workers: %w", err)
	}
	noted := make(map[rooms.AgentKind]bool)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rooms = r
	for _, k := range kinds {
		noted[k] = true
		h.known[k] = time.Now().Add(h.cfg.Grace)
	}
	if !h.closed {
		h.running.Go(func() { h.keepNotes(noted) })
	}
	return nil
}

// keepNotes stores, for the next start, the kinds of workers whose agents go to every
// room, until the handler closes. Only this goroutine writes them, each time by the
// present state, so the last write is right. noted is what is on disk.
func (h *Handler) keepNotes(noted map[rooms.AgentKind]bool) {
	again := time.NewTimer(look)
	defer again.Stop()
	for {
		select {
		case <-h.life.Done():
			return
		case <-h.changed:
		case <-again.C:
		}
		if err := h.note(noted); err != nil && h.life.Err() == nil {
			h.log.Error("cannot note the kinds of workers", "error", err)
			again.Reset(look)
		}
	}
}

// note writes the differences between the present kinds and noted; kinds that are gone go
// first.
func (h *Handler) note(noted map[rooms.AgentKind]bool) error {
	there := make(map[rooms.AgentKind]bool)
	h.mu.Lock()
	for k := range h.pools {
		if k.AgentName == "" { // rooms that want a named agent have a dispatch that says so
			there[k] = true
		}
	}
	for k := range h.known {
		there[k] = true
	}
	h.mu.Unlock()
	for k := range noted {
		if there[k] {
			continue
		}
		if err := h.cfg.Known.SetAgentKind(h.life, k, false); err != nil {
			return err
		}
		delete(noted, k)
	}
	for k := range there {
		if noted[k] {
			continue
		}
		if err := h.cfg.Known.SetAgentKind(h.life, k, true); err != nil {
			return err
		}
		noted[k] = true
	}
	return nil
}

// renote wakes keepNotes.
func (h *Handler) renote() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// Close ends every connection, so that workers connect to the next process, and waits for
// the goroutines. Jobs go on.
func (h *Handler) Close(ctx context.Context) error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.quit()
	return h.running.Wait(ctx)
}

// Kinds implements [rooms.Workers].
func (h *Handler) Kinds(agentName, deployment string) (kinds []rooms.AgentKind) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k := range h.pools {
		if k.AgentName == agentName && k.Deployment == deployment {
			kinds = append(kinds, k)
		}
	}
	if agentName != "" {
		return kinds
	}
	now := time.Now()
	for k, until := range h.known {
		switch {
		case now.After(until):
			delete(h.known, k)
			h.renote()
		case k.Deployment == deployment && h.pools[k] == nil:
			kinds = append(kinds, k)
		}
	}
	return kinds
}

// Wake implements [rooms.Workers].
func (h *Handler) Wake(k rooms.AgentKind) {
	h.mu.Lock()
	p := h.pools[k]
	h.mu.Unlock()
	if p != nil {
		p.poke()
	}
}

// Workers returns the connected workers, by agent name and id.
func (h *Handler) Workers() []rooms.AgentWorker {
	var all []*worker
	h.mu.Lock()
	for _, p := range h.pools {
		all = slices.AppendSeq(all, maps.Keys(p.workers))
	}
	h.mu.Unlock()
	slices.SortFunc(all, func(a, b *worker) int {
		return cmp.Or(cmp.Compare(a.kind.AgentName, b.kind.AgentName), cmp.Compare(a.id, b.id))
	})
	out := make([]rooms.AgentWorker, 0, len(all))
	for _, w := range all {
		out = append(out, w.show())
	}
	return out
}

// Terminate implements [rooms.Workers].
func (h *Handler) Terminate(jobID string) {
	h.mu.Lock()
	w := h.jobs[jobID]
	delete(h.jobs, jobID)
	if w != nil {
		w.endClaim(jobID)
	}
	h.mu.Unlock()
	if w == nil {
		return
	}
	w.forget(jobID)
	w.terminate(jobID)
}

// ServeHTTP answers /agent.
func (h *Handler) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		rw.WriteHeader(http.StatusNotFound)
		return
	}
	claims := access.FromContext(r.Context())
	if claims == nil || claims.Grants.Video == nil || !claims.Grants.Video.Agent {
		h.refuse(rw, r, http.StatusUnauthorized, access.ErrDenied.Error())
		return
	}
	// The token of a job's agent has this grant too, but is for one room. A worker gets
	// jobs and tokens for every room, so its token must name none.
	if v := claims.Grants.Video; v.Room != "" || v.RoomJoin {
		h.refuse(rw, r, http.StatusUnauthorized, "the token is for a room, and a worker's must be for none")
		return
	}
	if why := h.enter(claims.APIKey); why != nil {
		rw.Header().Set("Retry-After", "2")
		h.refuse(rw, r, http.StatusServiceUnavailable, why.Error())
		return
	}
	defer h.leave(claims.APIKey)
	conn, err := websocket.Accept(rw, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // any origin, as for LiveKit: the token is the permission
		CompressionMode:    websocket.CompressionNoContextTakeover,
	})
	if err != nil {
		return // Accept has answered
	}
	limit := h.cfg.MaxMessage
	if limit == 0 {
		limit = -1
	}
	conn.SetReadLimit(limit)
	w := newWorker(h, context.WithoutCancel(r.Context()), conn, claims.APIKey)
	stop := context.AfterFunc(h.life, func() { w.finish(websocket.StatusServiceRestart, "the server is restarting") })
	defer stop()
	h.running.Go(w.write)
	w.log = h.log.With("worker", w.id, "address", access.Address(r.RemoteAddr))
	w.run()
}

// refuse answers a worker that is not let in.
func (h *Handler) refuse(rw http.ResponseWriter, r *http.Request, status int, why string) {
	h.metrics.connects.WithLabelValues(strconv.Itoa(status)).Inc()
	h.log.Info("worker refused", "status", status, "why", why, "address", access.Address(r.RemoteAddr))
	http.Error(rw, why, status)
}

// enter counts a worker of a key, or returns why it is refused. leave undoes the count.
func (h *Handler) enter(key string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed || h.rooms == nil:
		return rooms.ErrStopping
	case h.perKey[key] >= MostWorkers:
		return errors.New("this API key has as many workers as it may, " + strconv.Itoa(MostWorkers))
	}
	h.perKey[key]++
	h.running.Begin()
	return nil
}

func (h *Handler) leave(key string) {
	h.mu.Lock()
	if h.perKey[key]--; h.perKey[key] == 0 {
		delete(h.perKey, key)
	}
	h.mu.Unlock()
	h.running.End()
}

// join puts w into the pool of its kind, and makes the pool if need be.
func (h *Handler) join(w *worker) error {
	h.mu.Lock()
	p := h.pools[w.kind]
	if p == nil {
		if len(h.pools) >= h.cfg.MostKinds || h.closed {
			h.mu.Unlock()
			return errors.New("there are as many kinds of workers as there may be, " + strconv.Itoa(h.cfg.MostKinds))
		}
		p = newPool(h, w.kind)
		h.pools[w.kind] = p
		delete(h.known, w.kind)
		h.makePlace()
		h.renote()
		h.running.Go(p.run)
	}
	p.workers[w] = struct{}{}
	w.pool = p
	h.mu.Unlock()
	h.metrics.workers.WithLabelValues(h.metrics.name(w.kind), w.kind.Type.String()).Inc()
	p.poke()
	return nil
}

// makePlace forgets the expected kind with the earliest deadline if there are too many
// kinds. The caller holds mu.
func (h *Handler) makePlace() {
	if len(h.pools)+len(h.known) <= h.cfg.MostKinds {
		return
	}
	var first rooms.AgentKind
	var soonest time.Time
	for k, until := range h.known {
		if soonest.IsZero() || until.Before(soonest) {
			first, soonest = k, until
		}
	}
	delete(h.known, first)
}

// part takes w out of its pool and passes its jobs on.
func (h *Handler) part(w *worker) {
	h.mu.Lock()
	p := w.pool
	delete(p.workers, w)
	if len(p.workers) == 0 {
		delete(h.pools, w.kind)
		if w.kind.AgentName == "" {
			h.known[w.kind] = time.Now().Add(h.cfg.Grace)
		}
		p.stop()
	}
	closed := h.closed
	had := w.leaveJobs()
	h.mu.Unlock()
	h.metrics.workers.WithLabelValues(h.metrics.name(w.kind), w.kind.Type.String()).Dec()
	if !closed {
		h.passAll(w, had)
	}
}

// owns reports whether w has the job.
func (h *Handler) owns(w *worker, jobID string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.jobs[jobID] == w
}

// give notes that w has a job. It reports false if another worker has it, or w has gone.
func (h *Handler) give(w *worker, jobID, room string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if other := h.jobs[jobID]; other != nil && other != w {
		return false
	}
	if !w.take(jobID, room) {
		return false
	}
	h.jobs[jobID] = w
	return true
}

// release notes that w no longer has a job.
func (h *Handler) release(w *worker, jobID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.jobs[jobID] == w {
		delete(h.jobs, jobID)
	}
	w.dropRefused(jobID)
	w.forget(jobID)
}

// agentName is the attribute in which clients find a participant's agent name.
const agentName = "lk.agent_name"

// token makes the token with which the agent of a job joins.
func (h *Handler) token(w *worker, job *livekit.Job, res answer) (string, error) {
	may := w.permissions
	attributes := map[string]string{}
	for k, v := range res.ParticipantAttributes {
		attributes[k] = v
	}
	attributes[agentName] = w.kind.AgentName
	g := &auth.ClaimGrants{
		Identity:   job.State.ParticipantIdentity,
		Name:       res.ParticipantName,
		Metadata:   res.ParticipantMetadata,
		Attributes: attributes,
		Video: &auth.VideoGrant{
			RoomJoin: true, Agent: true, Room: job.Room.Name, Hidden: may.Hidden,
			CanSubscribe: &may.CanSubscribe, CanPublish: &may.CanPublish, CanPublishData: &may.CanPublishData,
			CanUpdateOwnMetadata: &may.CanUpdateMetadata, CanSubscribeMetrics: &may.CanSubscribeMetrics,
		},
	}
	g.SetParticipantKind(livekit.ParticipantInfo_AGENT)
	return h.cfg.Verifier.MintFor(w.key, access.Session{ID: job.Id}, g, time.Now(), tokenFor)
}
