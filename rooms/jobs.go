package rooms

import (
	"context"
	"slices"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms/guid"
	"parlor/rooms/log"
)

// agents is what a live room knows of the agents that are wanted in it. A room
// has at most one job that waits or runs for each dispatch, kind of worker and, where the
// kind is one for participants, identity; and it lets in only agents whose jobs run.
type agents struct {
	dispatches map[string]*Dispatch // by id, those that hold
	jobs       map[string]*Job      // by id, those that wait or run
	ended      []*Job               // the newest, oldest first
	// awaited are running jobs whose agent is not there, by id, and until when.
	awaited map[string]awaited
	// dismissed are agents that have been told to leave, by identity, and until when.
	dismissed map[string]time.Time
}

// awaited is what becomes of a job whose agent has not come by a time.
type awaited struct {
	until  time.Time
	status livekit.JobStatus
	why    string
	orphan bool // its worker has no connection
	lost   bool // by no fault of its own
}

func newAgents() agents {
	return agents{
		dispatches: make(map[string]*Dispatch),
		jobs:       make(map[string]*Job),
		awaited:    make(map[string]awaited),
		dismissed:  make(map[string]time.Time),
	}
}

// startAgents is who is wanted in a room that is about to start: those that req names;
// if it names none, the agents for every room that there are workers of. They are no more
// than a room may have; a room makes the other jobs when there is place for them.
func (rs *Rooms) startAgents(req *livekit.CreateRoomRequest, rec *Record, trigger livekit.AgentDispatchTrigger, now time.Time) (ds []Dispatch, jobs []Job) {
	if rs.cfg.Agents == nil {
		return nil, nil
	}
	wishes := req.GetAgents()
	rec.Config.AgentsNamed = len(wishes) > 0
	if len(wishes) == 0 {
		if len(rs.cfg.Agents.Workers.Kinds("", "")) == 0 {
			return nil, nil
		}
		wishes = []*livekit.RoomAgentDispatch{{}}
	}
	crowded := false
	for _, wish := range wishes[:min(len(wishes), MostDispatches)] {
		d := newDispatch(rec, wish, trigger, now)
		ds = append(ds, *d)
		for _, k := range rs.cfg.Agents.Workers.Kinds(d.AgentName, d.Info.Deployment) {
			if k.Type != livekit.JobType_JT_ROOM {
				continue
			}
			if crowded = len(jobs) >= MostJobs; crowded {
				break
			}
			jobs = append(jobs, *newJob(d, k, nil, now))
		}
	}
	if crowded {
		rs.cfg.Log.Warn("the room has as many jobs as it may", "room", rec.Name, "most", MostJobs)
	}
	return ds, jobs
}

func newDispatch(rec *Record, wish *livekit.RoomAgentDispatch, trigger livekit.AgentDispatchTrigger, now time.Time) *Dispatch {
	d := &Dispatch{ID: guid.New("AD_"), RoomSID: rec.SID, AgentName: wish.GetAgentName(), CreatedMs: NowMs(now)}
	d.Info = &livekit.AgentDispatch{
		Id: d.ID, AgentName: wish.GetAgentName(), Room: rec.Name, Metadata: wish.GetMetadata(),
		RestartPolicy: wish.GetRestartPolicy(), Deployment: wish.GetDeployment(), Attributes: wish.GetAttributes(),
		ThreadId: wish.GetThreadId(),
		State:    &livekit.AgentDispatchState{CreatedAt: now.UnixNano(), Trigger: trigger},
	}
	return d
}

func newJob(d *Dispatch, k AgentKind, target *livekit.ParticipantInfo, now time.Time) *Job {
	j := &Job{ID: guid.New("AJ_"), DispatchID: d.ID, RoomSID: d.RoomSID, Kind: k, CreatedMs: NowMs(now), DueMs: NowMs(now)}
	j.Info = &livekit.Job{
		Id: j.ID, DispatchId: d.ID, Type: k.Type, Participant: target, Metadata: d.Info.Metadata, AgentName: k.AgentName,
		Deployment: k.Deployment, Attributes: d.Info.Attributes, ThreadId: d.Info.ThreadId, CreatedAt: now.UnixNano(),
		Namespace: k.Namespace, // workers still go by it
		State:     &livekit.JobState{UpdatedAt: now.UnixNano()},
	}
	return j
}

// loadAgents reads who is wanted in the room that r.rec is.
func (r *Room) loadAgents(ctx context.Context) error {
	if r.rooms.cfg.Agents == nil {
		return nil
	}
	dispatches, err := r.rooms.cfg.Agents.Records.Dispatches(ctx, r.rec.SID)
	if err != nil {
		return err
	}
	jobs, err := r.rooms.cfg.Agents.Records.Jobs(ctx, r.rec.SID, MostJobs)
	if err != nil {
		return err
	}
	r.setAgents(dispatches, jobs)
	return nil
}

// setAgents makes dispatches and jobs those of the room.
func (r *Room) setAgents(dispatches []Dispatch, jobs []Job) {
	r.agents = newAgents()
	for i := range dispatches {
		r.agents.dispatches[dispatches[i].ID] = &dispatches[i]
	}
	for i := range jobs {
		if j := &jobs[i]; j.EndedMs == 0 {
			r.agents.jobs[j.ID] = j
		} else {
			r.agents.ended = append(r.agents.ended, j)
		}
	}
}

// awaitAgents has the agents of jobs that run, and that are not expected back, come within
// the restart's grace; after it their jobs have failed.
func (r *Room) awaitAgents() {
	now := time.Now()
	for _, j := range r.agents.jobs {
		id := j.Agent()
		if j.Status() != livekit.JobStatus_JS_RUNNING || r.agentHere(id) {
			continue
		}
		status, why := livekit.JobStatus_JS_FAILED, "the agent did not come back"
		until := now.Add(r.rooms.cfg.RestartGrace)
		if last := r.lately(id); last != nil && isAgent(last.Info) && last.Reason == livekit.DisconnectReason_CLIENT_INITIATED && last.LeftMs >= j.Info.State.StartedAt/1e6 {
			status, why, until = livekit.JobStatus_JS_SUCCESS, "", now.Add(statusGrace)
		}
		r.await(j, until, status, why)
		r.lose(j)
	}
}

// lose notes of a job that is awaited that it is no fault of its own.
func (r *Room) lose(j *Job) {
	w := r.agents.awaited[j.ID]
	w.lost = true
	r.agents.awaited[j.ID] = w
}

// await ends j with status unless its agent is there by then.
func (r *Room) await(j *Job, until time.Time, status livekit.JobStatus, why string) {
	r.agents.awaited[j.ID] = awaited{until: until, status: status, why: why}
	r.setAlarm(alarmAgents, until)
}

// here tells that a participant of that identity is in the room, or expected back.
func (r *Room) here(identity string) bool {
	return r.participants[identity] != nil || r.expected[identity] != nil
}

// agentHere is here of an agent: a person may come by the identity that a worker chose.
func (r *Room) agentHere(identity string) bool {
	if p := r.participants[identity]; p != nil {
		return isAgent(p.info)
	}
	s := r.expected[identity]
	return s != nil && isAgent(s.Info)
}

// agentJob is the running job whose agent has the identity; nil if there is none.
func (r *Room) agentJob(identity string) *Job {
	for _, j := range r.agents.jobs {
		if j.Status() == livekit.JobStatus_JS_RUNNING && j.Agent() == identity {
			return j
		}
	}
	return nil
}

// refusedAgent is why an agent is not let in: its job is over, and its successor is another
// agent's; nil if it is. An agent that comes without a job is let in.
func (r *Room) refusedAgent(req *JoinRequest) error {
	over := Errorf(Denied, "the job of this agent is over")
	switch {
	case req.Job != "":
		if j := r.agents.jobs[req.Job]; j == nil || j.Agent() != req.Info.Identity {
			return over
		}
	case isAgent(req.Info) && r.agentJob(req.Info.Identity) == nil:
		for _, j := range r.agents.ended {
			if j.Agent() == req.Info.Identity {
				return over
			}
		}
	}
	return nil
}

// agentJoined is called of every participant whose join is on disk. A person who has come
// by the identity of a job's agent keeps it: the agent must have another.
func (r *Room) agentJoined(p *Participant) {
	switch j := r.agentJob(p.identity); {
	case j == nil:
	case isAgent(p.info):
		delete(r.agents.awaited, j.ID)
		delete(r.agents.dismissed, p.identity)
		return
	default:
		r.finish(j, livekit.JobStatus_JS_FAILED, "its identity was taken", false, time.Now())
		r.rooms.cfg.Agents.Workers.Terminate(j.ID)
	}
	r.wantForTarget(p, livekit.JobType_JT_PARTICIPANT)
}

// wantForTarget makes the jobs of a type that are for p.
func (r *Room) wantForTarget(p *Participant, typ livekit.JobType) {
	if r.rooms.cfg.Agents == nil || dependent(p.info) {
		return
	}
	now := time.Now()
	c := &Change{Kind: ChangeUpdate}
	// The agents for every room are wanted in a room that began without workers, too.
	if !r.rec.Config.AgentsNamed && !r.implicit() && slices.ContainsFunc(r.rooms.cfg.Agents.Workers.Kinds("", ""), func(k AgentKind) bool { return k.Type == typ }) &&
		len(r.agents.dispatches) < MostDispatches {
		d := newDispatch(&r.rec, &livekit.RoomAgentDispatch{}, livekit.AgentDispatchTrigger_ADT_UNSPECIFIED, now)
		r.agents.dispatches[d.ID] = d
		c.Dispatches = append(c.Dispatches, *d)
	}
	for _, d := range r.agents.dispatches {
		for _, k := range r.rooms.cfg.Agents.Workers.Kinds(d.AgentName, d.Info.Deployment) {
			if k.Type == typ {
				c.Jobs = r.wantJob(c.Jobs, d, k, p.snapshot(), now)
			}
		}
	}
	r.addJobs(c)
}

// implicit tells that the room has a dispatch of the agents for every room.
func (r *Room) implicit() bool {
	for _, d := range r.agents.dispatches {
		if d.AgentName == "" {
			return true
		}
	}
	return false
}

// reconcile makes the jobs that the workers there are could do for d, and that are not
// there yet.
func (r *Room) reconcile(d *Dispatch, now time.Time) (jobs []Job) {
	for _, k := range r.rooms.cfg.Agents.Workers.Kinds(d.AgentName, d.Info.Deployment) {
		if k.Type == livekit.JobType_JT_ROOM {
			jobs = r.wantJob(jobs, d, k, nil, now)
			continue
		}
		for _, p := range r.participants {
			if p.admitted && !dependent(p.info) && (k.Type == livekit.JobType_JT_PARTICIPANT || p.info.IsPublisher) {
				jobs = r.wantJob(jobs, d, k, p.snapshot(), now)
			}
		}
	}
	return jobs
}

// wantJob adds to jobs that of a dispatch, kind and target, unless one waits or runs, or has
// done its work. A target that comes again in a new session has it done again.
func (r *Room) wantJob(jobs []Job, d *Dispatch, k AgentKind, target *livekit.ParticipantInfo, now time.Time) []Job {
	same := func(j *Job) bool {
		return j.DispatchID == d.ID && j.Kind == k && j.Info.GetParticipant().GetIdentity() == target.GetIdentity()
	}
	for _, j := range r.agents.jobs {
		if same(j) {
			return jobs
		}
	}
	for _, j := range r.agents.ended {
		if same(j) && j.Info.GetParticipant().GetSid() == target.GetSid() {
			return jobs // done, or its restart policy says that it is not to be done again
		}
	}
	if len(r.agents.jobs) >= MostJobs {
		r.log.Warn("the room has as many jobs as it may", "most", MostJobs)
		return jobs
	}
	j := newJob(d, k, target, now)
	r.agents.jobs[j.ID] = j
	return append(jobs, *j)
}

// addJobs writes jobs that wait, and calls their workers when they are on disk.
func (r *Room) addJobs(c *Change) {
	if len(c.Jobs)+len(c.Dispatches) == 0 {
		return
	}
	r.factChange(c)
	r.afterWrites(func(error) { r.wakeWorkers(c.Jobs) }) // what could not be written yet is found by the next look
}

func (r *Room) wakeWorkers(jobs []Job) {
	for i := range jobs {
		if jobs[i].EndedMs == 0 {
			r.rooms.cfg.Agents.Workers.Wake(jobs[i].Kind)
		}
	}
}

// forgetJobs takes back jobs that could not be written.
func (r *Room) forgetJobs(jobs []Job) {
	for i := range jobs {
		delete(r.agents.jobs, jobs[i].ID)
	}
}

// endJob adds to c that j is over.
func (r *Room) endJob(c *Change, j *Job, status livekit.JobStatus, why string, reason livekit.JobStateReason, now time.Time) {
	over, event := j.Ended(r.rec.Info(), status, why, reason, now)
	delete(r.agents.jobs, j.ID)
	delete(r.agents.awaited, j.ID)
	r.agents.ended = append(r.agents.ended[max(0, len(r.agents.ended)-MostJobs+1):], over)
	c.Jobs, c.Events = append(c.Jobs, *over), append(c.Events, event)
	r.log.Info("job ended", "job", j.ID, "agent", j.Kind.AgentName, "participant", j.Agent(), "status", status, "why", why)
}

// finish ends j. One that failed has a successor, where its dispatch says so; then its agent
// is sent away first, so that the room never has both. One that was lost with its machine
// is followed at once, one that fails again and again more and more slowly.
func (r *Room) finish(j *Job, status livekit.JobStatus, why string, lost bool, now time.Time) {
	c := &Change{Kind: ChangeUpdate}
	d := r.agents.dispatches[j.DispatchID]
	again := status == livekit.JobStatus_JS_FAILED && d != nil && d.Info.RestartPolicy == livekit.JobRestartPolicy_JRP_ON_FAILURE &&
		r.targetHere(j)
	reason := livekit.JobStateReason_JSR_UNSPECIFIED
	if again {
		reason = livekit.JobStateReason_JSR_RETRYING
	}
	r.endJob(c, j, status, why, reason, now)
	if again {
		next := newJob(d, j.Kind, j.Info.GetParticipant(), now)
		before := j.Info.GetState()
		next.Info.State.Attempts, next.Info.State.FirstStartedAt = before.GetAttempts(), before.GetFirstStartedAt()
		next.Info.State.Reason = reason
		next.DueMs = NowMs(now.Add(backoff(before, now)))
		if lost || backoff(before, now) == 0 && before.GetAttempts() > 1 { // a new beginning
			next.Info.State.Attempts, next.DueMs = 0, NowMs(now)
		}
		r.agents.jobs[next.ID] = next
		c.Jobs = append(c.Jobs, *next)
	}
	p := r.participants[j.Agent()]
	switch {
	case p == nil || !p.admitted || !isAgent(p.info):
	case !again: // it leaves by itself
		r.dismissLater(j.Agent(), now)
	default:
		r.leave(p, livekit.DisconnectReason_AGENT_ERROR, &livekit.LeaveRequest{
			Reason: livekit.DisconnectReason_AGENT_ERROR, Action: livekit.LeaveRequest_DISCONNECT,
		})
	}
	r.addJobs(c)
}

// dismissLater sends an agent away if it does not leave by itself.
func (r *Room) dismissLater(identity string, now time.Time) {
	r.agents.dismissed[identity] = now.Add(leaveGrace)
	r.setAlarm(alarmAgents, now.Add(leaveGrace))
}

// targetHere tells that the participant that j is for is there; true if it is for none.
func (r *Room) targetHere(j *Job) bool {
	identity := j.Info.GetParticipant().GetIdentity()
	return identity == "" || r.here(identity)
}

// backoff is the wait before the successor of a job that failed. One that has gone on for
// long enough is followed at once.
func backoff(s *livekit.JobState, now time.Time) time.Duration {
	if s.GetStartedAt() == 0 || now.Sub(time.Unix(0, s.GetStartedAt())) >= mostBackoff || s.GetAttempts() <= 1 {
		return 0
	}
	return min(leastBackoff<<min(s.GetAttempts()-2, 10), mostBackoff)
}

// agentLeft is called of every participant that has left for that reason.
func (r *Room) agentLeft(info *livekit.ParticipantInfo, why livekit.DisconnectReason, now time.Time) {
	j := r.agentJob(info.Identity)
	if j == nil || !isAgent(info) {
		r.cancelFor(info.Identity, now)
		return
	}
	switch why {
	case livekit.DisconnectReason_CLIENT_INITIATED:
		// Whether it has done its work, its worker tells in a moment.
		r.await(j, now.Add(statusGrace), livekit.JobStatus_JS_SUCCESS, "")
	case livekit.DisconnectReason_DUPLICATE_IDENTITY:
		r.await(j, now.Add(r.rooms.agentJoinGrace()), livekit.JobStatus_JS_FAILED, "the agent was replaced and did not join")
	case livekit.DisconnectReason_MEDIA_FAILURE: // it was told to join again
		r.await(j, now.Add(r.rooms.agentJoinGrace()), livekit.JobStatus_JS_FAILED, "the agent lost its media and did not join again")
		r.lose(j)
	case livekit.DisconnectReason_MIGRATION: // it goes on in another room
		r.finish(j, livekit.JobStatus_JS_SUCCESS, "", false, now)
	case livekit.DisconnectReason_PARTICIPANT_REMOVED, livekit.DisconnectReason_ROOM_DELETED, livekit.DisconnectReason_ROOM_CLOSED:
		r.finish(j, livekit.JobStatus_JS_SUCCESS, "", false, now)
		r.rooms.cfg.Agents.Workers.Terminate(j.ID)
	default:
		r.finish(j, livekit.JobStatus_JS_FAILED, "agent worker left the room", true, now)
		r.rooms.cfg.Agents.Workers.Terminate(j.ID)
	}
}

// cancelFor ends the jobs that wait for a worker and are for a participant that has left.
func (r *Room) cancelFor(identity string, now time.Time) {
	c := &Change{Kind: ChangeUpdate}
	for _, j := range r.agents.jobs {
		if j.Status() == livekit.JobStatus_JS_PENDING && j.Info.GetParticipant().GetIdentity() == identity {
			r.endJob(c, j, livekit.JobStatus_JS_CANCELLED, "", livekit.JobStateReason_JSR_UNSPECIFIED, now)
		}
	}
	if len(c.Jobs) > 0 {
		r.factChange(c)
	}
}

// agentsOver ends the jobs whose agents have not come in time, and sends away the agents
// that have not gone in time.
func (r *Room) agentsOver(now time.Time) {
	for id, until := range r.agents.dismissed {
		if now.Before(until) {
			r.setAlarm(alarmAgents, until)
			continue
		}
		delete(r.agents.dismissed, id)
		if p := r.participants[id]; p != nil && p.admitted && isAgent(p.info) {
			r.leave(p, livekit.DisconnectReason_PARTICIPANT_REMOVED, &livekit.LeaveRequest{
				Reason: livekit.DisconnectReason_PARTICIPANT_REMOVED, Action: livekit.LeaveRequest_DISCONNECT,
			})
		}
	}
	for id, w := range r.agents.awaited {
		if now.Before(w.until) {
			r.setAlarm(alarmAgents, w.until)
			continue
		}
		delete(r.agents.awaited, id)
		j := r.agents.jobs[id]
		if j == nil {
			continue
		}
		p := r.participants[j.Agent()]
		if p != nil && isAgent(p.info) && w.orphan && p.away { // worker and agent are gone, most likely with their machine
			r.leave(p, livekit.DisconnectReason_CONNECTION_TIMEOUT, nil)
			continue // which ends the job
		}
		if !r.agentHere(j.Agent()) {
			r.finish(j, w.status, w.why, w.lost, now)
			r.rooms.cfg.Agents.Workers.Terminate(j.ID)
		}
	}
}

// jobsEndWithRoom are the jobs of a room that ends, over, and the events of that.
func (r *Room) jobsEndWithRoom(now time.Time) (jobs []Job, events []log.Event) {
	for _, j := range r.agents.jobs {
		over, e := j.EndedWithRoom(r.rec.Info(), now)
		jobs, events = append(jobs, *over), append(events, e)
	}
	return jobs, events
}

// dismissAgents has workers end what they do in a room that has ended.
func (r *Room) dismissAgents() {
	for id, j := range r.agents.jobs {
		if j.Status() == livekit.JobStatus_JS_RUNNING {
			r.rooms.cfg.Agents.Workers.Terminate(id)
		}
	}
	r.agents = newAgents()
}

// keepJob adds j, in the place of an older state of it.
func (c *Change) keepJob(j Job) {
	for i := range c.Jobs {
		if c.Jobs[i].ID == j.ID {
			c.Jobs[i] = j
			return
		}
	}
	c.Jobs = append(c.Jobs, j)
}

// keepDispatch adds d, in the place of an older state of it.
func (c *Change) keepDispatch(d Dispatch) {
	for i := range c.Dispatches {
		if c.Dispatches[i].ID == d.ID {
			c.Dispatches[i] = d
			return
		}
	}
	c.Dispatches = append(c.Dispatches, d)
}
