package agents

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/livekit"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"parlor/rooms"
	"parlor/rooms/guid"
)

const (
	// queueLength bounds the messages that wait for a worker to read; a worker that falls
	// further behind is cut off.
	queueLength  = 1024
	writeTimeout = 10 * time.Second
	pingInterval = 10 * time.Second
	pingTimeout  = 20 * time.Second
	// A worker that sends faster is read more slowly.
	messagesPerSecond, messagesBurst = 100, 1000
	// endAgain is how long after a failure the end of a job is written again.
	endAgain = time.Second
	// mostJobs is how many jobs a worker may have.
	mostJobs = 10_000
	// silence is how long a worker that did not answer is asked only after the others.
	silence = 30 * time.Second
)

// worker is one connection. Its request's goroutine reads (run), a second one writes
// (write), and the pool's goroutines call ask.
type worker struct {
	h      *Handler
	id     string // AW_…
	key    string // API key
	since  time.Time
	log    *slog.Logger
	conn   *websocket.Conn
	done   context.Context // ends with the connection
	cut    context.CancelFunc
	queue  chan *livekit.ServerMessage
	closed chan closing // capacity 1: how the writer is to close the connection
	pool   *pool        // set by Handler.join

	// Set by register, before the worker is in its pool.
	kind        rooms.AgentKind
	permissions *livekit.ParticipantPermission

	// Guarded by Handler.mu.
	claims map[string]*claim // by job, those of other workers on its jobs; nil once it has gone
	probed bool              // probe runs

	mu          sync.Mutex // guards the following
	waits       time.Time  // since when the reader waits for a message; zero = it does not
	json        bool       // it sends JSON in text frames
	full        bool       // it does not want more jobs
	load        float32
	silentUntil time.Time           // until then it counts as silent
	jobs        map[string]string   // names of the rooms, by job; nil once the worker has gone
	ended       map[string]struct{} // jobs whose end is being written
}

// closing tells how a connection is closed.
type closing struct {
	status websocket.StatusCode
	why    string
}

func newWorker(h *Handler, ctx context.Context, conn *websocket.Conn, key string) *worker {
	done, cut := context.WithCancel(ctx)
	return &worker{
		h: h, id: guid.New("AW_"), key: key, since: time.Now(), conn: conn, done: done, cut: cut,
		queue: make(chan *livekit.ServerMessage, queueLength), closed: make(chan closing, 1),
		jobs: make(map[string]string), ended: make(map[string]struct{}),
		claims: make(map[string]*claim),
	}
}

// run reads until the connection ends.
func (w *worker) run() {
	defer w.cut()
	if !w.register() {
		return
	}
	if err := w.h.join(w); err != nil {
		w.log.Warn("worker refused", "why", err)
		w.end(websocket.StatusTryAgainLater, err.Error())
		return
	}
	w.log.Info("worker registered", "agent", w.kind.AgentName, "type", w.kind.Type, "namespace", w.kind.Namespace, "deployment", w.kind.Deployment)
	defer func() {
		w.cut() // so that ask stops waiting
		w.h.part(w)
		w.log.Info("worker gone", "agent", w.kind.AgentName)
	}()
	pace := rate.NewLimiter(messagesPerSecond, messagesBurst)
	for {
		msg, err := w.next(w.done)
		if err != nil {
			return
		}
		if !w.handle(msg) {
			w.h.metrics.bad.WithLabelValues("unknown").Inc()
			w.end(websocket.StatusPolicyViolation, "unknown or repeated message")
			return
		}
		if pace.Wait(w.done) != nil {
			return
		}
	}
}

// register reads until the worker has registered; false if it does not do so in time.
func (w *worker) register() bool {
	ctx, cancel := context.WithTimeout(w.done, registerTimeout)
	defer cancel()
	for range messagesBurst {
		msg, err := w.next(ctx)
		if err != nil {
			return false
		}
		switch m := msg.Message.(type) {
		case *livekit.WorkerMessage_Ping:
			w.pong(m.Ping)
			continue
		case *livekit.WorkerMessage_Register:
			why := w.become(m.Register)
			if why == nil {
				w.send(&livekit.ServerMessage{Message: &livekit.ServerMessage_Register{
					Register: &livekit.RegisterWorkerResponse{WorkerId: w.id, ServerInfo: w.h.cfg.ServerInfo},
				}})
				return true
			}
			w.log.Warn("worker refused", "why", why)
			w.h.metrics.bad.WithLabelValues("register").Inc()
			w.end(websocket.StatusPolicyViolation, why.Error())
			return false
		}
		break
	}
	w.h.metrics.bad.WithLabelValues("register").Inc()
	w.end(websocket.StatusPolicyViolation, "a worker registers first")
	return false
}

// become takes over what a worker registers as.
func (w *worker) become(req *livekit.RegisterWorkerRequest) error {
	if _, known := livekit.JobType_name[int32(req.Type)]; !known {
		return errors.New("unknown job type")
	}
	if len(req.AgentName) > mostName || len(req.GetNamespace()) > mostName {
		return errors.New("the agent's name or namespace is too long")
	}
	if err := rooms.CheckDeployment(req.Deployment); err != nil {
		return err
	}
	w.kind = rooms.AgentKind{AgentName: req.AgentName, Deployment: req.Deployment, Namespace: req.GetNamespace(), Type: req.Type}
	w.permissions = req.AllowedPermissions
	if w.permissions == nil {
		w.permissions = &livekit.ParticipantPermission{CanSubscribe: true, CanPublish: true, CanPublishData: true, CanUpdateMetadata: true}
	}
	w.log = w.log.With("version", req.Version)
	return nil
}

// next reads one message.
func (w *worker) next(ctx context.Context) (*livekit.WorkerMessage, error) {
	w.mu.Lock()
	w.waits = time.Now()
	w.mu.Unlock()
	typ, data, err := w.conn.Read(ctx)
	if err != nil {
		if websocket.CloseStatus(err) == websocket.StatusMessageTooBig || errors.Is(err, websocket.ErrMessageTooBig) {
			w.h.metrics.bad.WithLabelValues("too_big").Inc()
		}
		return nil, err
	}
	text := typ == websocket.MessageText
	w.mu.Lock()
	w.waits, w.json = time.Time{}, text
	w.mu.Unlock()
	msg, err := w.h.decoder.message(ctx, data, text)
	switch {
	case err != nil && excessive(err):
		w.h.metrics.bad.WithLabelValues("too_much").Inc()
		w.end(websocket.StatusMessageTooBig, err.Error())
	case err != nil:
		w.h.metrics.bad.WithLabelValues("garbage").Inc()
		w.end(websocket.StatusInvalidFramePayloadData, "the message cannot be read")
	}
	return msg, err
}

// handle does what a registered worker's message asks; false if the message is not
// allowed.
func (w *worker) handle(msg *livekit.WorkerMessage) bool {
	switch m := msg.Message.(type) {
	case *livekit.WorkerMessage_Availability:
		w.answered(m.Availability)
	case *livekit.WorkerMessage_UpdateWorker:
		w.update(m.UpdateWorker)
	case *livekit.WorkerMessage_UpdateJob:
		w.updateJob(m.UpdateJob)
	case *livekit.WorkerMessage_Ping:
		w.pong(m.Ping)
	case *livekit.WorkerMessage_SimulateJob:
		w.simulate(m.SimulateJob)
	case *livekit.WorkerMessage_MigrateJob:
		w.migrate(m.MigrateJob)
	case *livekit.WorkerMessage_CreateJobToken:
		w.send(&livekit.ServerMessage{Message: &livekit.ServerMessage_CreateJobToken{CreateJobToken: &livekit.CreateJobTokenResponse{
			RequestId: m.CreateJobToken.RequestId, Error: "tokens of jobs are not made here: ask the application for one",
		}}})
	default:
		return false
	}
	return true
}

func (w *worker) pong(p *livekit.WorkerPing) {
	w.send(&livekit.ServerMessage{Message: &livekit.ServerMessage_Pong{
		Pong: &livekit.WorkerPong{LastTimestamp: p.Timestamp, Timestamp: time.Now().UnixMilli()},
	}})
}

func (w *worker) update(u *livekit.UpdateWorkerStatus) {
	w.mu.Lock()
	if u.Status != nil {
		w.full = *u.Status != livekit.WorkerStatus_WS_AVAILABLE
	}
	w.full = w.full || u.Draining
	w.load = u.Load
	free := !w.full && w.load < 1
	w.mu.Unlock()
	if free {
		w.pool.freed()
	}
}

// capacity is the free part of the worker; 0 = it gets no jobs.
func (w *worker) capacity(now time.Time) float32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.full || w.done.Err() != nil || len(w.jobs) >= mostJobs || !(w.load < 1): // the negation also catches NaN
		return 0
	case now.Before(w.silentUntil):
		return 1e-6 // after all other workers
	}
	return 1 - max(w.load, 0)
}

// show returns the worker as those that run the server see it. Its load is what it says, and
// may be no number: then it takes no jobs, as if it were full.
func (w *worker) show() rooms.AgentWorker {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := rooms.AgentWorker{
		ID: w.id, Kind: w.kind, APIKey: w.key, Load: 1, Jobs: len(w.jobs), ConnectedMs: rooms.NowMs(w.since),
		Full: w.full || len(w.jobs) >= mostJobs || !(w.load < 1),
	}
	if w.load < 1 {
		out.Load = max(float64(w.load), 0)
	}
	return out
}

// offer is a job that a worker is asked to take.
type offer struct {
	to      *worker
	answers chan answer // capacity 1
}

// answer is a worker's to an offer.
type answer struct {
	from *worker
	*livekit.AvailabilityResponse
}

// answered takes the worker's answer to an offer. If it has lost the connection on which it
// was asked it answers on its next one.
func (w *worker) answered(res *livekit.AvailabilityResponse) {
	silent := w.silent() // whose answer may be a late one, to an offer of its own
	w.pool.mu.Lock()
	o := w.pool.offers[res.JobId]
	its := o != nil && (o.to == w || o.to.key == w.key && w.since.After(o.to.since) && !silent)
	if its {
		delete(w.pool.offers, res.JobId)
		o.answers <- answer{w, res} // under the lock: see await
	}
	w.pool.mu.Unlock()
	if !its {
		w.h.metrics.bad.WithLabelValues("foreign").Inc()
	}
}

// The reasons why a worker does not take a job.
var (
	errRefused = errors.New("the worker refused")
	errSilent  = errors.New("the worker did not answer")
	errGone    = errors.New("the worker is gone")
)

// ask offers a job to the worker and waits for the answer. The answer's worker is to get
// the job.
func (w *worker) ask(ctx context.Context, job *livekit.Job, resuming bool) (answer, error) {
	o := &offer{to: w, answers: make(chan answer, 1)}
	w.pool.mu.Lock()
	w.pool.offers[job.Id] = o
	w.pool.mu.Unlock()
	w.send(&livekit.ServerMessage{Message: &livekit.ServerMessage_Availability{
		Availability: &livekit.AvailabilityRequest{Job: job, Resuming: resuming},
	}})
	return w.answerTo(ctx, o, job.Id)
}

// answerTo waits for the answer to an offer, and tells whether its worker takes the job.
func (w *worker) answerTo(ctx context.Context, o *offer, jobID string) (answer, error) {
	res, err := w.await(ctx, o, jobID)
	switch {
	case err != nil:
		return answer{}, err
	case res.from != w:
		w.keepsSilent()
	}
	switch {
	case res.Terminate:
	case res.from.done.Err() != nil:
		return answer{}, errGone
	case !res.Available:
		return answer{}, errRefused
	}
	if res.ParticipantIdentity == "" {
		res.ParticipantIdentity = "agent-" + jobID
	}
	return res, nil
}

// await waits for the answer to an offer. One that has come by the end of the wait counts: the
// worker that gave it may be there on its next connection, and waits for the job.
func (w *worker) await(ctx context.Context, o *offer, jobID string) (answer, error) {
	timer := time.NewTimer(answerTimeout)
	defer timer.Stop()
	var why error
	select {
	case res := <-o.answers:
		return res, nil
	case <-timer.C:
		why = errSilent
	case <-w.done.Done():
		why = errGone
	case <-ctx.Done():
		why = ctx.Err()
	}
	w.pool.mu.Lock()
	delete(w.pool.offers, jobID)
	w.pool.mu.Unlock()
	select {
	case res := <-o.answers: // no more can come
		return res, nil
	default:
	}
	if why == errSilent {
		w.keepsSilent()
	}
	return answer{}, why
}

// silent reports whether the worker has not answered lately.
func (w *worker) silent() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Before(w.silentUntil)
}

// keepsSilent has the worker asked only after the others for a while.
func (w *worker) keepsSilent() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silentUntil = time.Now().Add(silence)
}

// take notes a job of the worker; false if the worker has gone.
func (w *worker) take(jobID, room string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.jobs == nil {
		return false
	}
	w.jobs[jobID] = room
	return true
}

func (w *worker) forget(jobID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.jobs, jobID)
	delete(w.ended, jobID)
}

// leaveJobs returns the worker's jobs as it goes, and takes no more.
func (w *worker) leaveJobs() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	had := maps.Clone(w.jobs)
	w.jobs = nil
	return had
}

// updateJob takes the worker's report on one of its jobs.
func (w *worker) updateJob(u *livekit.UpdateJobStatus) {
	switch w.adopt(u.JobId, u) {
	case foreign:
		w.h.metrics.bad.WithLabelValues("foreign").Inc()
	case owned:
		if room, has := w.roomOf(u.JobId); has {
			w.reported(u, room)
		}
	}
}

// isEnd reports whether a worker's report, which may be nil, is that a job is over.
func isEnd(u *livekit.UpdateJobStatus) bool {
	return u != nil && (u.Status == livekit.JobStatus_JS_SUCCESS || u.Status == livekit.JobStatus_JS_FAILED)
}

// reported ends a job of the worker if that is what the worker reports.
func (w *worker) reported(u *livekit.UpdateJobStatus, room string) {
	if !isEnd(u) {
		return // the job goes on
	}
	const mostWhy = 1024
	why := u.Error
	if len(why) > mostWhy {
		why = string([]rune(why[:mostWhy]))
	}
	if !w.beginEnd(u.JobId) {
		return
	}
	end := func(ctx context.Context) error {
		err := w.h.rooms.EndJob(ctx, room, u.JobId, w.id, u.Status, why)
		if err != nil && !errors.Is(err, rooms.ErrNoJob) && !errors.Is(err, rooms.ErrNoRoom) {
			return err
		}
		w.h.release(w, u.JobId)
		w.h.metrics.ended(u.Status)
		w.pool.freed()
		return nil
	}
	if err := end(w.done); err != nil {
		w.log.Warn("cannot end a job, trying again", "job", u.JobId, "error", err)
		w.h.goes(func() { w.h.again(end) })
	}
}

// again calls f once in endAgain until it succeeds, or until the handler closes.
func (h *Handler) again(f func(context.Context) error) {
	tick := time.NewTicker(endAgain)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-h.life.Done():
			return
		}
		if f(h.life) == nil {
			return
		}
	}
}

// beginEnd notes that the end of one of the worker's jobs is to be written; false if that
// was noted before.
func (w *worker) beginEnd(jobID string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, twice := w.ended[jobID]
	w.ended[jobID] = struct{}{}
	return !twice
}

// ends reports whether the end of one of the worker's jobs is being written.
func (w *worker) ends(jobID string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, is := w.ended[jobID]
	return is
}

// roomOf is the name of the room of one of the worker's jobs.
func (w *worker) roomOf(jobID string) (room string, has bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	room, has = w.jobs[jobID]
	return room, has
}

// migrate adopts the jobs of the worker's earlier connection that it still has.
func (w *worker) migrate(req *livekit.MigrateJobRequest) {
	ids := req.JobIds
	for _, j := range req.Jobs {
		ids = append(ids, j.GetId())
	}
	for _, id := range ids[:min(len(ids), mostJobs)] {
		if w.adopt(id, nil) == foreign {
			w.h.metrics.bad.WithLabelValues("foreign").Inc()
		}
	}
}

// adopt takes over a job that the worker says it has, unless it has it already. The job must
// run, and must have been given to a worker of that kind and API key. If another worker has
// it, the job is claimed. If it is over the worker is told so: its agent is not to go on beside
// that of the job which came after it. end is what the worker reports of the job; nil = nothing.
func (w *worker) adopt(jobID string, end *livekit.UpdateJobStatus) verdict {
	defer w.h.turns.take(jobID)()
	if w.h.owns(w, jobID) {
		return owned
	}
	job, room, err := w.h.cfg.Records.FindJob(w.done, jobID)
	if err != nil && w.done.Err() != nil {
		return gone
	}
	if err != nil && !errors.Is(err, rooms.ErrNoJob) {
		w.log.Warn("cannot look a job up", "job", jobID, "error", err)
	}
	if err != nil || job.Kind != w.kind || job.APIKey != w.key {
		return foreign
	}
	switch job.Status() {
	case livekit.JobStatus_JS_RUNNING:
	case livekit.JobStatus_JS_SUCCESS, livekit.JobStatus_JS_FAILED:
		if !isEnd(end) {
			w.terminate(jobID)
		}
		return foreign
	default:
		return foreign
	}
	is := w.h.claim(w, jobID, room, end)
	if is != owned {
		return is
	}
	// Even if the worker goes meanwhile: then the room is told that it has lost the job.
	if err := w.h.rooms.AdoptJob(w.h.life, room, jobID, w.id); err != nil {
		w.h.release(w, jobID)
		if rooms.ErrorCode(err) == rooms.NotFound && !isEnd(end) {
			w.terminate(jobID)
		}
		return foreign
	}
	w.log.Info("worker goes on with a job", "job", jobID, "room", room)
	return owned
}

// terminate tells the worker that a job is over.
func (w *worker) terminate(jobID string) {
	w.send(&livekit.ServerMessage{Message: &livekit.ServerMessage_Termination{
		Termination: &livekit.JobTermination{JobId: jobID},
	}})
}

// simulate gives the worker a job without a dispatch in an open room. Of the job's
// participant only the identity and SID are used; the room knows the rest.
func (w *worker) simulate(req *livekit.SimulateJobRequest) {
	var target *livekit.ParticipantInfo
	if p := req.Participant; p != nil {
		if len(p.Identity) > mostName || len(p.Sid) > mostName {
			w.h.metrics.bad.WithLabelValues("simulate").Inc()
			w.log.Info("a job is not simulated: the participant's identity or SID is too long")
			return
		}
		target = &livekit.ParticipantInfo{Identity: p.Identity, Sid: p.Sid}
	}
	job := &livekit.Job{
		Id: guid.New("AJ_"), Type: req.Type, Room: req.Room, Participant: target,
		Namespace: w.kind.Namespace, AgentName: w.kind.AgentName, Deployment: w.kind.Deployment,
		CreatedAt: time.Now().UnixNano(), State: &livekit.JobState{},
	}
	if target != nil && req.Type == livekit.JobType_JT_ROOM {
		job.Type = livekit.JobType_JT_PUBLISHER // old workers mean this
	}
	select {
	case w.pool.places <- struct{}{}:
	default:
		w.log.Info("a job is not simulated: too much is under way")
		return
	}
	w.h.goes(func() {
		defer func() { <-w.pool.places }()
		res, err := w.ask(w.h.life, job, false)
		if err != nil || res.Terminate {
			return
		}
		room := req.Room.GetName()
		started, err := w.h.rooms.StartJob(w.h.life, room, job, w.kind, rooms.JobAnswer{WorkerID: res.from.id, APIKey: w.key, Identity: res.ParticipantIdentity})
		if err != nil {
			w.log.Info("a job is not simulated", "room", room, "why", err)
			return
		}
		w.h.assigned(started, res)
	})
}

// send queues a message. A worker that does not read is cut off.
func (w *worker) send(m *livekit.ServerMessage) {
	select {
	case w.queue <- m:
	default:
		w.h.metrics.bad.WithLabelValues("slow").Inc()
		w.cut()
	}
}

// finish closes the connection after the queued messages.
func (w *worker) finish(status websocket.StatusCode, why string) {
	select {
	case w.closed <- closing{status, why}:
	default:
	}
}

// end is finish for the reader. It waits for the writer.
func (w *worker) end(status websocket.StatusCode, why string) {
	w.finish(status, why)
	<-w.done.Done()
}

// write sends the queued messages, and pings, until the connection ends.
func (w *worker) write() {
	var pings sync.WaitGroup
	defer pings.Wait()
	defer w.conn.CloseNow()
	defer w.cut()
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	for {
		select {
		case <-w.done.Done():
			return
		case <-ping.C:
			pings.Go(w.ping) // ends by its timeout or with the connection
		case m := <-w.queue:
			if w.put(m) != nil {
				return
			}
		case c := <-w.closed:
			for len(w.queue) > 0 {
				if w.put(<-w.queue) != nil {
					return
				}
			}
			if len(c.why) > 120 {
				c.why = c.why[:120] // a close frame has 125 bytes
			}
			_ = w.conn.Close(c.status, c.why) // the worker may have gone already
			return
		}
	}
}

// ping ends the connection if the worker does not answer.
func (w *worker) ping() {
	if err := w.there(pingTimeout); err != nil && !errors.Is(err, errBusy) {
		w.cut()
	}
}

// errBusy means that a worker's answer may have come and was not read: the server was busy
// with its earlier messages.
var errBusy = errors.New("the worker's earlier messages are not read yet")

// there asks the worker whether it is still there. The error tells that it did not answer
// in time, or is errBusy.
func (w *worker) there(timeout time.Duration) error {
	asked := time.Now()
	ctx, cancel := context.WithTimeout(w.done, timeout)
	defer cancel()
	err := w.conn.Ping(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waits.IsZero() || w.waits.After(asked) {
		return errBusy
	}
	return err
}

func (w *worker) put(m *livekit.ServerMessage) error {
	ctx, cancel := context.WithTimeout(w.done, writeTimeout)
	defer cancel()
	w.mu.Lock()
	text := w.json
	w.mu.Unlock()
	kind, marshal := websocket.MessageBinary, proto.Marshal
	if text {
		kind, marshal = websocket.MessageText, protojson.Marshal
	}
	b, err := marshal(m)
	if err != nil {
		return err
	}
	return w.conn.Write(ctx, kind, b)
}
