package agents

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/prometheus/client_golang/prometheus"

	"parlor/rooms"
	"parlor/server/access"
	"parlor/server/unpack"
)

const (
	registerTimeout = 10 * time.Second // for a worker's registration
	answerTimeout   = 10 * time.Second // for its word on a job
	tokenFor        = time.Hour        // what an agent's token is good for
	// MostWorkers is how many workers of one API key may be connected.
	MostWorkers = 1000
	// mostKinds is the default of [Config.MostKinds].
	mostKinds = 1000
	// mostName bounds an agent's name and a namespace, in bytes.
	mostName = 256
)

// Rooms is what the workers' edge asks of the domain.
type Rooms interface {
	PendingJob(ctx context.Context, room, id string) (*livekit.Job, error)
	AssignJob(ctx context.Context, room, id string, a rooms.JobAnswer) (*livekit.Job, error)
	PostponeJob(ctx context.Context, room, id string, until time.Time) error
	StartJob(ctx context.Context, room string, job *livekit.Job, k rooms.AgentKind, a rooms.JobAnswer) (*livekit.Job, error)
	EndJob(ctx context.Context, room, id, workerID string, status livekit.JobStatus, why string) error
	AdoptJob(ctx context.Context, room, id, workerID string) error
	WorkerLost(ctx context.Context, room, id, workerID string) error
	Reconsider(ctx context.Context, room, agentName string) error
}

// Config is what the workers' edge needs.
type Config struct {
	Records rooms.DispatchRecords
	Known   rooms.AgentKinds
	// Grace is how long workers are expected back whose agents are for every room, after a
	// restart or the loss of the last of a kind.
	Grace time.Duration
	// MostKinds is how many kinds of workers there are at most, those that are expected back
	// included: each has a goroutine, and a new room has jobs for all those whose agents are
	// for every room. 0 = 1000.
	MostKinds int
	Verifier  *access.Verifier
	Log       *slog.Logger
	Metrics   prometheus.Registerer // may be nil
	Guard     *unpack.Guard         // bounds what is decoded at one time; nil = no bound
	// ServerInfo is told to workers that register.
	ServerInfo *livekit.ServerInfo
	// MaxMessage bounds a worker's message in bytes; 0 = no bound but that on what it
	// unpacks to.
	MaxMessage int64
}

// Handler answers /agent, and gives jobs to workers. It implements [rooms.Workers]. Its
// methods may be called concurrently.
type Handler struct {
	cfg     Config
	rooms   Rooms
	log     *slog.Logger
	metrics *metrics
	decoder *decoder

	life    context.Context // ends with Close: of the pools and of every connection
	quit    context.CancelFunc
	running sync.WaitGroup // pools and connections; added to under mu

	mu     sync.Mutex // guards the following
	closed bool
	pools  map[rooms.AgentKind]*pool
	perKey map[string]int     // workers, by API key
	jobs   map[string]*worker // that have them, by the job's id
	// known are kinds without workers whose agents are for every room, and until when their
	// workers are expected back. With pools they are no more than Config.MostKinds.
	known map[rooms.AgentKind]time.Time

	changed chan struct{} // capacity 1: the kinds to be noted have changed
}

var _ rooms.Workers = (*Handler)(nil)

// New makes the handler; no worker is let in before Open.
func New(cfg Config) *Handler {
	if cfg.MostKinds == 0 {
		cfg.MostKinds = mostKinds
	}
	life, quit := context.WithCancel(context.Background())
	return &Handler{
		cfg: cfg, log: cfg.Log, metrics: newMetrics(cfg.Metrics), decoder: newDecoder(cfg.Guard),
		life: life, quit: quit,
		pools: make(map[rooms.AgentKind]*pool), perKey: make(map[string]int), jobs: make(map[string]*worker),
		known: make(map[rooms.AgentKind]time.Time), changed: make(chan struct{}, 1),
	}
}

// Open tells where the rooms are. Workers of before the restart are expected back.
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

// keepNotes keeps for the next start which kinds of workers there are whose agents are for
// every room, until the handler closes. It alone writes them, each time by what there is
// then, so that the last that is written is so. noted is what is on disk.
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

// note writes in what the kinds differ from noted, those first that are no more.
func (h *Handler) note(noted map[rooms.AgentKind]bool) error {
	there := make(map[rooms.AgentKind]bool)
	h.mu.Lock()
	for k := range h.pools {
		if k.AgentName == "" { // rooms that want one by its name say so themselves
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

// renote has keepNotes look at the kinds.
func (h *Handler) renote() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// Close ends every connection, so that workers connect again to the next process, and waits
// for what was under way. Jobs go on.
func (h *Handler) Close(ctx context.Context) error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.quit()
	done := make(chan struct{})
	go func() { // ends with what runs
		h.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
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

// Terminate implements [rooms.Workers].
func (h *Handler) Terminate(jobID string) {
	h.mu.Lock()
	w := h.jobs[jobID]
	delete(h.jobs, jobID)
	h.mu.Unlock()
	if w == nil {
		return
	}
	w.forget(jobID)
	w.send(&livekit.ServerMessage{Message: &livekit.ServerMessage_Termination{
		Termination: &livekit.JobTermination{JobId: jobID},
	}})
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
	// The token of a job's agent has the grant, too, and is for one room alone: a worker
	// is given jobs, and tokens, of every room.
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

// enter counts a worker of a key; it says why not if there are too many. leave counts it
// off.
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
	h.running.Add(1)
	return nil
}

func (h *Handler) leave(key string) {
	h.mu.Lock()
	if h.perKey[key]--; h.perKey[key] == 0 {
		delete(h.perKey, key)
	}
	h.mu.Unlock()
	h.running.Done()
}

// join puts w into the pool of its kind, which is made if need be.
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

// makePlace forgets the kind whose workers were to be back first, if there are more kinds
// than there may be. The caller holds mu.
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

// part takes w out of its pool, and tells the rooms that it is gone.
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
	for id := range had {
		if h.jobs[id] == w {
			delete(h.jobs, id)
		}
	}
	h.mu.Unlock()
	h.metrics.workers.WithLabelValues(h.metrics.name(w.kind), w.kind.Type.String()).Dec()
	if closed {
		return
	}
	for id, room := range had {
		if err := h.rooms.WorkerLost(h.life, room, id, w.id); err != nil && h.life.Err() == nil {
			w.log.Warn("cannot tell a room that a worker is gone", "room", room, "job", id, "error", err)
		}
	}
}

// owns tells that w has the job.
func (h *Handler) owns(w *worker, jobID string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.jobs[jobID] == w
}

// give notes that w has a job. It reports false if another has it.
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

// release notes that w has a job no longer.
func (h *Handler) release(w *worker, jobID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.jobs[jobID] == w {
		delete(h.jobs, jobID)
	}
	w.forget(jobID)
}

// agentName is the attribute by which clients know which agent a participant is.
const agentName = "lk.agent_name"

// token is what the agent of a job joins with.
func (h *Handler) token(w *worker, job *livekit.Job, res *livekit.AvailabilityResponse) (string, error) {
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
	return h.cfg.Verifier.MintFor(w.key, job.Id, g, time.Now(), tokenFor)
}
