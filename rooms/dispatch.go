package rooms

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"

	"parlor/rooms/log"
)

// AgentKind is a kind of workers: all its workers take the same jobs. It is comparable.
type AgentKind struct {
	AgentName  string // "" = an agent for every room
	Deployment string
	Namespace  string
	Type       livekit.JobType // whether a job is for a room, a publisher or a participant
}

// Dispatch asks for the agents of a name in a room. It is what the store keeps, and is
// never changed in place.
type Dispatch struct {
	ID        string // AD_…
	RoomSID   string
	AgentName string
	CreatedMs int64
	DeletedMs int64                  // 0 while it is in force
	Info      *livekit.AgentDispatch // without its jobs
}

// Job is one worker's work for a dispatch. It is what the store keeps, and is never
// changed in place. A job that failed may get a successor, which has an id of its own.
type Job struct {
	ID         string // AJ_…
	DispatchID string // "" = no dispatch: the worker simulated the job
	RoomSID    string
	Kind       AgentKind
	APIKey     string // of the worker that has it
	CreatedMs  int64
	DueMs      int64        // when workers may be asked for it, by the steady clock, see [Instant]
	EndedMs    int64        // 0 while it waits or runs
	Info       *livekit.Job // all fields but the room
}

// Status is the job's status.
func (j *Job) Status() livekit.JobStatus { return j.Info.GetState().GetStatus() }

// Agent is the identity of the job's agent; "" while no worker has the job.
func (j *Job) Agent() string { return j.Info.GetState().GetParticipantIdentity() }

// with returns a copy of j whose state is edited.
func (j *Job) with(now time.Time, edit func(*livekit.JobState)) *Job {
	next := *j
	next.Info = proto.CloneOf(j.Info)
	if next.Info.State == nil {
		next.Info.State = &livekit.JobState{}
	}
	next.Info.State.UpdatedAt = now.UnixNano()
	edit(next.Info.State)
	return &next
}

// Ended returns a copy of j that has ended with that status, and the event that tells of
// it.
func (j *Job) Ended(room *livekit.Room, status livekit.JobStatus, why string, reason livekit.JobStateReason, now time.Time) (*Job, log.Event) {
	next := j.with(now, func(s *livekit.JobState) {
		s.Status, s.Error, s.Reason, s.EndedAt = status, why, reason, now.UnixNano()
	})
	next.EndedMs = NowMs(now)
	return next, log.New(&livekit.WebhookEvent{Event: log.JobEnded, Room: room, Job: next.Info}, now)
}

// EndedWithRoom is [Job.Ended] of a job whose room ends.
func (j *Job) EndedWithRoom(room *livekit.Room, now time.Time) (*Job, log.Event) {
	if j.Status() == livekit.JobStatus_JS_PENDING {
		return j.Ended(room, livekit.JobStatus_JS_CANCELLED, "", livekit.JobStateReason_JSR_ROOM_CLOSED, now)
	}
	return j.Ended(room, livekit.JobStatus_JS_SUCCESS, "", livekit.JobStateReason_JSR_UNSPECIFIED, now)
}

// Workers is what the domain needs of the part that keeps the agents' workers
// (server/agents). Its methods never block.
type Workers interface {
	// Kinds returns the kinds of connected workers with that agent name and deployment.
	Kinds(agentName, deployment string) []AgentKind
	// Wake tells that a job for workers of the kind is on disk and waits.
	Wake(k AgentKind)
	// Terminate asks the job's worker to end it: the job is over.
	Terminate(jobID string)
}

// AgentWorker is a connected worker, as those that run the server see it.
type AgentWorker struct {
	ID          string // AW_…
	Kind        AgentKind
	APIKey      string
	Load        float64 // as it says, from 0 to 1
	Full        bool    // it gets no more jobs now
	Jobs        int     // that it has
	ConnectedMs int64
}

// PlacedJob is a job that waits or runs, with the name of its room.
type PlacedJob struct {
	Job
	Room string
}

// PlacedDispatch is a dispatch in force, with the name of its room and the number of its
// jobs that wait or run.
type PlacedDispatch struct {
	Dispatch
	Room     string
	OpenJobs int
}

// JobCursor is where a page of the jobs of all open rooms ended; the zero value is the start.
type JobCursor struct{ RoomSID, ID string }

// DispatchCursor is where a page of the dispatches of all open rooms ended; the zero value is
// the start.
type DispatchCursor struct{ AgentName, RoomSID, ID string }

// DueJob is a job that waits for a worker.
type DueJob struct {
	ID   string
	Room string // its name
}

// DispatchRecords reads dispatches and jobs. It sees what is committed.
type DispatchRecords interface {
	// Dispatches returns a room's dispatches that are not deleted, oldest first.
	Dispatches(ctx context.Context, roomSID string) ([]Dispatch, error)
	// Jobs returns the room's jobs in the order of their creation: all that have not
	// ended, and the newest limit of those that have.
	Jobs(ctx context.Context, roomSID string, limit int) ([]Job, error)
	// FindJob returns a job and the name of its room, which is open; [ErrNoJob] if there
	// is none.
	FindJob(ctx context.Context, id string) (Job, string, error)
	// DueJobs returns jobs that wait for a worker of the kind and are due at nowMs,
	// [Instant.Ms], the longest due first. nextMs is when the next job becomes due; 0 = there
	// is none.
	DueJobs(ctx context.Context, k AgentKind, nowMs int64, limit int) (due []DueJob, nextMs int64, err error)
	// RoomsWanting returns a page of the open rooms with a dispatch of that agent name:
	// their names in the order of their SIDs, after afterSID, and the SID of the last.
	RoomsWanting(ctx context.Context, agentName, afterSID string, limit int) (names []string, lastSID string, err error)
}

// AgentKinds stores which kinds of workers exist whose agents go to every room.
type AgentKinds interface {
	// AgentKinds returns up to most kinds, and deletes the others.
	AgentKinds(ctx context.Context, most int) ([]AgentKind, error)
	// SetAgentKind notes whether there are workers of the kind.
	SetAgentKind(ctx context.Context, k AgentKind, there bool) error
}

// AgentsConfig is what rooms need to have agents.
type AgentsConfig struct {
	Workers Workers
	Records DispatchRecords
	// JoinGrace is how long an agent may take to join after its worker was given the
	// job; 0 = [DefaultAgentJoinGrace].
	JoinGrace time.Duration
	// WorkerGrace is how long a worker that lost its connection may take to come back.
	// After it, those of its agents that are not connected count as gone too; 0 =
	// [DefaultWorkerGrace].
	WorkerGrace time.Duration
}

// The defaults of [AgentsConfig].
const (
	// DefaultAgentJoinGrace leaves time for an agent that loads a model before it joins.
	DefaultAgentJoinGrace = 2 * time.Minute
	DefaultWorkerGrace    = 15 * time.Second
)

const (
	// MostDispatches is how many dispatches a room has at most.
	MostDispatches = 100
	// MostJobs is how many jobs of a room may wait or run, and how many ended ones the
	// room remembers.
	MostJobs = 1000
	// statusGrace is how long the room waits for a job's status after its agent left by
	// itself.
	statusGrace = 5 * time.Second
	// leaveGrace is how long the agent of a terminated job may take to leave.
	leaveGrace = 3 * time.Second
	// Bounds of the wait before a failed job gets a successor. The wait doubles with each
	// successor that fails soon.
	leastBackoff, mostBackoff = time.Second, time.Minute
)

var (
	// ErrNoDispatch: the room has no dispatch of that id.
	ErrNoDispatch = &Error{NotFound, "dispatch ID not found"}
	// ErrNoJob: there is no such job, or it has ended, or another worker has it.
	ErrNoJob    = &Error{NotFound, "there is no such job, or it is over"}
	errNoAgents = &Error{Unavailable, "agents are not dispatched here"}
)

// JobAnswer is what a worker says of its agent when it takes a job.
type JobAnswer struct {
	WorkerID string
	APIKey   string
	Identity string
}

// CreateDispatch makes a dispatch in the open room of that name. If the room does not
// exist it is opened, where joins open rooms (AutoCreate).
func (rs *Rooms) CreateDispatch(ctx context.Context, req *livekit.CreateAgentDispatchRequest) (*livekit.AgentDispatch, error) {
	if rs.cfg.Agents == nil {
		return nil, errNoAgents
	}
	if err := rs.checkRoomName(req.Room); err != nil {
		return nil, err
	}
	wish := &livekit.RoomAgentDispatch{
		AgentName: req.AgentName, Metadata: req.Metadata, RestartPolicy: req.RestartPolicy, Deployment: req.Deployment,
		Attributes: req.Attributes, ThreadId: req.ThreadId,
	}
	if err := rs.checkDispatches([]*livekit.RoomAgentDispatch{wish}); err != nil {
		return nil, err
	}
	if rs.stopping.Load() {
		return nil, ErrStopping
	}
	return askName(ctx, rs, req.Room, func(r *Room, reply answer[*livekit.AgentDispatch]) { r.createDispatch(wish, reply) })
}

func (r *Room) createDispatch(wish *livekit.RoomAgentDispatch, reply answer[*livekit.AgentDispatch]) {
	err := r.found()
	if errors.Is(err, ErrNoRoom) && r.rooms.cfg.AutoCreate {
		r.create(&livekit.CreateRoomRequest{Name: r.name}, func(_ Outcome, err error) {
			if err != nil {
				reply(nil, err)
				return
			}
			r.createDispatch(wish, reply)
		})
		return
	}
	switch {
	case err != nil:
		reply(nil, err)
		return
	case len(r.agents.dispatches) >= MostDispatches:
		reply(nil, Errorf(Exhausted, "a room has at most %d dispatches", MostDispatches))
		return
	}
	now := time.Now()
	d := newDispatch(&r.rec, wish, livekit.AgentDispatchTrigger_ADT_DISPATCH_API, now)
	r.agents.dispatches[d.ID] = d
	jobs := r.reconcile(d, now)
	c := &Change{Kind: ChangeUpdate, Dispatches: []Dispatch{*d}, Jobs: jobs}
	r.requestChange(c, func(_ Outcome, err error) {
		if err != nil {
			delete(r.agents.dispatches, d.ID)
			r.forgetJobs(jobs)
			if errors.Is(err, ErrEnded) {
				err = errRetired
			}
			reply(nil, err)
			return
		}
		r.log.Info("agents are wanted", "agent", d.AgentName, "dispatch", d.ID)
		r.wakeWorkers(jobs)
		r.reconsider(d.AgentName)
		reply(d.show(jobs), nil)
	})
}

// DeleteDispatch deletes a dispatch of the open room of that name. Its jobs end; agents
// that do not leave by themselves are sent away.
func (rs *Rooms) DeleteDispatch(ctx context.Context, req *livekit.DeleteAgentDispatchRequest) (*livekit.AgentDispatch, error) {
	if rs.cfg.Agents == nil {
		return nil, errNoAgents
	}
	return askName(ctx, rs, req.Room, func(r *Room, reply answer[*livekit.AgentDispatch]) {
		if err := r.found(); err != nil {
			reply(nil, err)
			return
		}
		d := r.agents.dispatches[req.DispatchId]
		if d == nil {
			reply(nil, ErrNoDispatch)
			return
		}
		if r.unwritable() {
			reply(nil, ErrHeld)
			return
		}
		now := time.Now()
		gone := *d
		gone.DeletedMs, gone.Info = NowMs(now), proto.CloneOf(d.Info)
		gone.Info.State.DeletedAt = now.UnixNano()
		delete(r.agents.dispatches, d.ID)
		if d.AgentName == "" {
			r.rec.Config.AgentsNamed = true // so that no new dispatch of these is made
			r.rec.Config.Readable()
		}
		c := &Change{Kind: ChangeUpdate, Dispatches: []Dispatch{gone}}
		for _, j := range r.agents.jobs {
			if j.DispatchID != d.ID {
				continue
			}
			status, reason := livekit.JobStatus_JS_SUCCESS, livekit.JobStateReason_JSR_UNSPECIFIED
			if j.Status() == livekit.JobStatus_JS_PENDING {
				status, reason = livekit.JobStatus_JS_CANCELLED, livekit.JobStateReason_JSR_DISPATCH_DELETED
			}
			r.endJob(c, j, status, "", reason, now)
			if id := j.Agent(); id != "" {
				r.dismissLater(id, now)
				r.rooms.cfg.Agents.Workers.Terminate(j.ID)
			}
		}
		r.factChange(c)
		r.log.Info("agents are no longer wanted", "agent", d.AgentName, "dispatch", d.ID)
		r.afterWrites(func(err error) { reply(gone.show(c.Jobs), err) })
	})
}

// ListDispatch returns the dispatches of the open room of that name, with their jobs.
// With a DispatchId it returns only that dispatch.
func (rs *Rooms) ListDispatch(ctx context.Context, req *livekit.ListAgentDispatchRequest) (*livekit.ListAgentDispatchResponse, error) {
	if rs.cfg.Agents == nil {
		return nil, errNoAgents
	}
	rec, err := rs.cfg.Store.FindOpen(ctx, req.Room)
	if err != nil {
		return nil, err
	}
	dispatches, err := rs.cfg.Agents.Records.Dispatches(ctx, rec.SID)
	if err != nil {
		return nil, err
	}
	jobs, err := rs.cfg.Agents.Records.Jobs(ctx, rec.SID, MostJobs)
	if err != nil {
		return nil, err
	}
	res := &livekit.ListAgentDispatchResponse{}
	for i := range dispatches {
		d := &dispatches[i]
		if req.DispatchId != "" && req.DispatchId != d.ID {
			continue
		}
		var own []Job
		for _, j := range jobs {
			if j.DispatchID == d.ID {
				own = append(own, j)
			}
		}
		res.AgentDispatches = append(res.AgentDispatches, d.show(own))
	}
	return res, nil
}

// show returns the dispatch in LiveKit's form, with the jobs.
func (d *Dispatch) show(jobs []Job) *livekit.AgentDispatch {
	out := proto.CloneOf(d.Info)
	for i := range jobs {
		out.State.Jobs = append(out.State.Jobs, jobs[i].Info)
	}
	return out
}

// Reconsider makes the jobs that are missing in a room: those of its dispatches of that
// agent name for which there are workers now. "" is the name of the agents for every room.
func (rs *Rooms) Reconsider(ctx context.Context, room, agentName string) error {
	_, err := askName(ctx, rs, room, func(r *Room, reply answer[struct{}]) {
		if err := r.found(); err != nil {
			reply(struct{}{}, err)
			return
		}
		r.reconsider(agentName)
		reply(struct{}{}, nil)
	})
	return err
}

// PendingJob returns a job for a worker to judge; [ErrNoJob] if the job does not wait.
func (rs *Rooms) PendingJob(ctx context.Context, room, id string) (*livekit.Job, error) {
	return askPending(ctx, rs, room, id, func(r *Room, j *Job, reply answer[*livekit.Job]) { reply(r.showJob(j), nil) })
}

// askPending asks the room about a job that waits for a worker; [ErrNoJob] at once if it
// waits for none.
func askPending[T any](ctx context.Context, rs *Rooms, room, id string, f func(*Room, *Job, answer[T])) (T, error) {
	return askName(ctx, rs, room, func(r *Room, reply answer[T]) {
		var zero T
		if err := r.found(); err != nil {
			reply(zero, err)
			return
		}
		j := r.agents.jobs[id]
		if j == nil || j.Status() != livekit.JobStatus_JS_PENDING {
			reply(zero, ErrNoJob)
			return
		}
		f(r, j, reply)
	})
}

// showJob returns the job as a worker gets it, with its room and participant.
func (r *Room) showJob(j *Job) *livekit.Job {
	out := proto.CloneOf(j.Info)
	out.Room = r.rec.Info()
	if p := r.participants[j.Info.GetParticipant().GetIdentity()]; p != nil {
		out.Participant = p.snapshot()
	}
	return out
}

// AssignJob gives a waiting job to a worker, and returns when that is on disk. It fails
// with [ErrNoJob] if the job does not wait any more.
func (rs *Rooms) AssignJob(ctx context.Context, room, id string, a JobAnswer) (*livekit.Job, error) {
	if err := rs.checkIdentity(a.Identity); err != nil {
		return nil, err
	}
	return askPending(ctx, rs, room, id, func(r *Room, j *Job, reply answer[*livekit.Job]) { r.assign(j, a, reply) })
}

// PostponeJob puts off a waiting job that no worker took.
func (rs *Rooms) PostponeJob(ctx context.Context, room, id string, by time.Duration) error {
	_, err := askPending(ctx, rs, room, id, func(r *Room, j *Job, reply answer[struct{}]) {
		now := time.Now()
		next := j.with(now, func(s *livekit.JobState) { s.Reason = livekit.JobStateReason_JSR_NO_CAPACITY })
		next.DueMs = rs.Now().Ms + by.Milliseconds()
		r.agents.jobs[id] = next
		c := &Change{Kind: ChangeUpdate, Jobs: []Job{*next}}
		if j.Info.GetState().GetReason() != livekit.JobStateReason_JSR_NO_CAPACITY { // the first refusal is an event, later ones are not
			c.Events = []log.Event{log.New(&livekit.WebhookEvent{Event: log.JobPending, Room: r.rec.Info(), Job: next.Info}, now)}
		}
		r.factChange(c)
		r.afterWrites(func(err error) { reply(struct{}{}, err) })
	})
	return err
}

// StartJob makes a job without a dispatch and gives it to the worker that asked for it,
// which simulates a job.
func (rs *Rooms) StartJob(ctx context.Context, room string, job *livekit.Job, k AgentKind, a JobAnswer) (*livekit.Job, error) {
	if err := rs.checkIdentity(a.Identity); err != nil {
		return nil, err
	}
	return askName(ctx, rs, room, func(r *Room, reply answer[*livekit.Job]) {
		if err := r.found(); err != nil {
			reply(nil, err)
			return
		}
		if len(r.agents.jobs) >= MostJobs {
			reply(nil, Errorf(Exhausted, "a room has at most %d jobs at a time", MostJobs))
			return
		}
		info := proto.CloneOf(job)
		info.Room, info.State = nil, &livekit.JobState{}
		r.assign(&Job{ID: job.Id, RoomSID: r.rec.SID, Kind: k, CreatedMs: NowMs(time.Now()), Info: info}, a, reply)
	})
}

// assign writes that the job runs, and answers when that is on disk.
func (r *Room) assign(j *Job, a JobAnswer, reply answer[*livekit.Job]) {
	if r.here(a.Identity) && !r.agentHere(a.Identity) || r.agentJob(a.Identity) != nil {
		reply(nil, Errorf(Exists, "the identity %q is taken in this room", a.Identity))
		return
	}
	now := time.Now()
	running := j.with(now, func(s *livekit.JobState) {
		ns := now.UnixNano()
		s.Status, s.Reason, s.Error = livekit.JobStatus_JS_RUNNING, livekit.JobStateReason_JSR_UNSPECIFIED, ""
		s.WorkerId, s.ParticipantIdentity = a.WorkerID, a.Identity
		s.StartedAt, s.AcceptedAt, s.AssignedAt = ns, ns, ns
		s.Attempts++
		if s.FirstStartedAt == 0 {
			s.FirstStartedAt = ns
		}
	})
	running.APIKey = a.APIKey
	r.agents.jobs[j.ID] = running
	started := log.New(&livekit.WebhookEvent{Event: log.JobStarted, Room: r.rec.Info(), Job: running.Info}, now)
	c := &Change{Kind: ChangeUpdate, Jobs: []Job{*running}, Events: []log.Event{started}}
	r.requestChange(c, func(_ Outcome, err error) {
		switch {
		case err != nil && errors.Is(err, ErrEnded):
			reply(nil, ErrNoJob)
		case err != nil:
			if r.agents.jobs[j.ID] == running {
				delete(r.agents.jobs, j.ID)
				if j.DispatchID != "" {
					r.agents.jobs[j.ID] = j
				}
			}
			reply(nil, err)
		case r.agents.jobs[j.ID] != running: // it ended meanwhile
			reply(nil, ErrNoJob)
		default:
			r.await(running, time.Now().Add(r.rooms.agentJoinGrace()), livekit.JobStatus_JS_FAILED, "the agent did not join")
			r.log.Info("job started", "job", j.ID, "agent", j.Kind.AgentName, "worker", a.WorkerID, "participant", a.Identity)
			reply(r.showJob(running), nil)
		}
	})
}

// EndJob ends a job on its worker's word. With workerID "" it ends a waiting job.
func (rs *Rooms) EndJob(ctx context.Context, room, id, workerID string, status livekit.JobStatus, why string) error {
	_, err := askName(ctx, rs, room, func(r *Room, reply answer[struct{}]) {
		if err := r.found(); err != nil {
			reply(struct{}{}, err)
			return
		}
		j := r.agents.jobs[id]
		if j == nil || j.Info.GetState().GetWorkerId() != workerID {
			// It may have ended by an earlier call, which could not be written yet.
			r.afterWrites(func(err error) { reply(struct{}{}, cmp.Or(err, error(ErrNoJob))) })
			return
		}
		r.finish(j, status, why, false, time.Now())
		r.afterWrites(func(err error) { reply(struct{}{}, err) })
	})
	return err
}

// AdoptJob gives a running job back to its worker, which has connected again.
func (rs *Rooms) AdoptJob(ctx context.Context, room, id, workerID string) error {
	_, err := askName(ctx, rs, room, func(r *Room, reply answer[struct{}]) {
		if err := r.found(); err != nil {
			reply(struct{}{}, err)
			return
		}
		j := r.agents.jobs[id]
		if j == nil || j.Status() != livekit.JobStatus_JS_RUNNING {
			reply(struct{}{}, ErrNoJob)
			return
		}
		next := j.with(time.Now(), func(s *livekit.JobState) { s.WorkerId = workerID })
		r.agents.jobs[id] = next
		if w, ok := r.agents.awaited[id]; ok && w.orphan {
			delete(r.agents.awaited, id)
			if !r.agentHere(j.Agent()) {
				r.await(next, time.Now().Add(r.rooms.agentJoinGrace()), livekit.JobStatus_JS_FAILED, "the agent did not join")
			}
		}
		r.factChange(&Change{Kind: ChangeUpdate, Jobs: []Job{*next}})
		reply(struct{}{}, nil)
	})
	return err
}

// WorkerLost tells that a job's worker lost its connection. Its agent may still be
// connected.
func (rs *Rooms) WorkerLost(ctx context.Context, room, id, workerID string) error {
	_, err := askName(ctx, rs, room, func(r *Room, reply answer[struct{}]) {
		defer reply(struct{}{}, nil)
		if r.found() != nil {
			return
		}
		j := r.agents.jobs[id]
		if j == nil || j.Info.GetState().GetWorkerId() != workerID {
			return
		}
		if w, ok := r.agents.awaited[id]; ok && w.status == livekit.JobStatus_JS_SUCCESS {
			return // the agent has left of its own will, and its status is waited for already
		}
		grace := r.rooms.cfg.Agents.WorkerGrace
		if grace == 0 {
			grace = DefaultWorkerGrace
		}
		r.await(j, time.Now().Add(grace), livekit.JobStatus_JS_FAILED, "the worker is gone")
		w := r.agents.awaited[id]
		w.orphan, w.lost = true, true
		r.agents.awaited[id] = w
	})
	return err
}

func (rs *Rooms) agentJoinGrace() time.Duration {
	if d := rs.cfg.Agents.JoinGrace; d != 0 {
		return d
	}
	return DefaultAgentJoinGrace
}

// checkDispatches checks the agents that a request names against the limits.
func (rs *Rooms) checkDispatches(all []*livekit.RoomAgentDispatch) error {
	switch {
	case len(all) == 0:
		return nil
	case rs.cfg.Agents == nil:
		return errNoAgents
	case len(all) > MostDispatches:
		return Errorf(Invalid, "a room has at most %d dispatches", MostDispatches)
	}
	for _, d := range all {
		if n := rs.cfg.Limits.MaxIdentity; n > 0 && len(d.GetAgentName()) > n {
			return Errorf(Invalid, "agent name length exceeds limits: max length %d", n)
		}
		if err := CheckDeployment(d.GetDeployment()); err != nil {
			return err
		}
		if err := rs.checkIdentityData("", d.GetMetadata(), d.GetAttributes()); err != nil {
			return err
		}
	}
	return nil
}

// CheckDeployment checks a deployment's name by LiveKit's rule.
func CheckDeployment(name string) error {
	const most = 64 // bytes
	if len(name) > most {
		return Errorf(Invalid, "the deployment has more than %d bytes", most)
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c == 0x7f || c == '_' {
			return Errorf(Invalid, "the deployment must not have spaces, control characters or underscores")
		}
	}
	return nil
}
