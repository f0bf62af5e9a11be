package rooms

import (
	"context"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms/guid"
	"parlor/rooms/log"
)

// agents is what a live room knows of its agents. For each dispatch, kind of worker and
// (where the kind serves participants) identity, at most one job waits or runs. The room
// lets in only agents whose jobs run.
type agents struct {
	dispatches map[string]*Dispatch // by id, those in force
	jobs       map[string]*Job      // by id, those that wait or run
	ended      []*Job               // the newest, oldest first
	// awaited holds, by id, running jobs whose agent is not in the room.
	awaited map[string]awaited
	// dismissed holds, by identity, until when agents may leave by themselves.
	dismissed map[string]time.Time
}

// awaited says what a job ends with if its agent has not come by then.
type awaited struct {
	until  time.Time
	status livekit.JobStatus
	why    string
	orphan bool // its worker has no connection
	lost   bool // the job fails by no fault of its own, so its successor starts at once
}

func newAgents() agents {
	return agents{
		dispatches: make(map[string]*Dispatch),
		jobs:       make(map[string]*Job),
		awaited:    make(map[string]awaited),
		dismissed:  make(map[string]time.Time),
	}
}

// startAgents makes the dispatches and jobs of a new room: for the agents that req names,
// or else for the agents for every room, if there are workers of such agents. It makes no
// more jobs than a room may have; the room makes the others when older ones have ended.
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
			jobs = append(jobs, *newJob(d, k, nil, now, rs.Now().Ms))
		}
	}
	if crowded {
		rs.cfg.Log.Warn("the room has as many jobs as it may", "room", rec.Name, "most", MostJobs)
	}
	return ds, jobs
}

// remind makes a new room consider its dispatches again, if workers have come while it was
// written: these did not find the room.
func (rs *Rooms) remind(name string, ds []Dispatch, jobs []Job) {
	for i := range ds {
		n := 0
		for _, k := range rs.cfg.Agents.Workers.Kinds(ds[i].AgentName, ds[i].Info.Deployment) {
			if k.Type == livekit.JobType_JT_ROOM {
				n++
			}
		}
		for j := range jobs {
			if jobs[j].DispatchID == ds[i].ID {
				n--
			}
		}
		if n <= 0 {
			continue
		}
		for {
			r, err := rs.room(name)
			if err != nil || r.post(func() {
				if r.found() == nil {
					r.reconsiderAll()
				}
			}) {
				return
			}
		}
	}
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

func newJob(d *Dispatch, k AgentKind, target *livekit.ParticipantInfo, now time.Time, dueMs int64) *Job {
	j := &Job{ID: guid.New("AJ_"), DispatchID: d.ID, RoomSID: d.RoomSID, Kind: k, CreatedMs: NowMs(now), DueMs: dueMs}
	j.Info = &livekit.Job{
		Id: j.ID, DispatchId: d.ID, Type: k.Type, Participant: target, Metadata: d.Info.Metadata, AgentName: k.AgentName,
		Deployment: k.Deployment, Attributes: d.Info.Attributes, ThreadId: d.Info.ThreadId, CreatedAt: now.UnixNano(),
		Namespace: k.Namespace, // workers still read it
		State:     &livekit.JobState{UpdatedAt: now.UnixNano()},
	}
	return j
}

// loadAgents reads the dispatches and jobs of the room r.rec.
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

// setAgents replaces the room's dispatches and jobs.
func (r *Room) setAgents(dispatches []Dispatch, jobs []Job) {
	r.agents = newAgents()
	for i := range dispatches {
		if info := dispatches[i].Info; info.Room == "" { // its row is damaged
			info.Room = r.name
		}
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

// awaitAgents gives agents whose jobs run, and which are not expected back, the restart's
// grace to come. A job whose agent does not come has failed.
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

// lose notes that an awaited job is not to blame if its agent does not come.
func (r *Room) lose(j *Job) {
	w := r.agents.awaited[j.ID]
	w.lost = true
	r.agents.awaited[j.ID] = w
}

// await ends j with status unless its agent is in the room by until.
func (r *Room) await(j *Job, until time.Time, status livekit.JobStatus, why string) {
	r.agents.awaited[j.ID] = awaited{until: until, status: status, why: why}
	r.setAlarm(alarmAgents, until)
}

// here reports whether a participant of that identity is in the room or expected back.
func (r *Room) here(identity string) bool {
	return r.participants[identity] != nil || r.expected[identity] != nil
}

// agentHere is here for agents alone: a person may join under the identity that a worker
// chose.
func (r *Room) agentHere(identity string) bool {
	if p := r.participants[identity]; p != nil {
		return isAgent(p.info)
	}
	s := r.expected[identity]
	return s != nil && isAgent(s.Info)
}

// agentJob returns the running job whose agent has the identity; nil if there is none.
func (r *Room) agentJob(identity string) *Job {
	for _, j := range r.agents.jobs {
		if j.Status() == livekit.JobStatus_JS_RUNNING && j.Agent() == identity {
			return j
		}
	}
	return nil
}

// refusedAgent returns why an agent is not let in: its job is over, and a successor may
// have another agent already. nil lets it in. An agent without any job is let in.
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

// agentJoined is called for every participant whose join is on disk. A person that has
// joined under the identity of a job's agent keeps it: the job fails, and its successor
// takes another identity.
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
	r.wantForEveryRoom(c, now)
	for _, d := range r.agents.dispatches {
		for _, k := range r.rooms.cfg.Agents.Workers.Kinds(d.AgentName, d.Info.Deployment) {
			if k.Type == typ {
				c.Jobs = r.wantJob(c.Jobs, d, k, p.snapshot(), now)
			}
		}
	}
	r.addJobs(c)
}

// wantForEveryRoom makes the dispatch of the agents for every room, and its jobs, if the
// room is occupied and began before those had workers.
func (r *Room) wantForEveryRoom(c *Change, now time.Time) {
	switch {
	case r.rec.Config.AgentsNamed, r.implicit(), len(r.agents.dispatches) >= MostDispatches,
		r.rec.NumParticipants == 0, len(r.rooms.cfg.Agents.Workers.Kinds("", "")) == 0:
		return
	}
	d := newDispatch(&r.rec, &livekit.RoomAgentDispatch{}, livekit.AgentDispatchTrigger_ADT_UNSPECIFIED, now)
	r.agents.dispatches[d.ID] = d
	c.Dispatches, c.Jobs = append(c.Dispatches, *d), append(c.Jobs, r.reconcile(d, now)...)
}

// implicit reports whether the room has a dispatch of the agents for every room.
func (r *Room) implicit() bool {
	for _, d := range r.agents.dispatches {
		if d.AgentName == "" {
			return true
		}
	}
	return false
}

// reconsider makes the missing jobs for agents of that name. It is called when such
// workers have come, and after a dispatch is on disk, since workers that came while it was
// written did not find it.
func (r *Room) reconsider(agentName string) {
	now := time.Now()
	c := &Change{Kind: ChangeUpdate}
	if agentName == "" {
		r.wantForEveryRoom(c, now)
	}
	for _, d := range r.agents.dispatches {
		if d.AgentName == agentName {
			c.Jobs = append(c.Jobs, r.reconcile(d, now)...)
		}
	}
	r.addJobs(c)
}

// reconsiderAll is reconsider for the names of all dispatches.
func (r *Room) reconsiderAll() {
	names := make(map[string]bool)
	for _, d := range r.agents.dispatches {
		names[d.AgentName] = true
	}
	for name := range names {
		r.reconsider(name)
	}
}

// reconcile makes the missing jobs of d, for which there are workers.
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

// wantJob adds the job of a dispatch, kind and target to jobs, unless such a job waits or
// runs, or has ended in the target's present session.
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
			return jobs // it has succeeded, or its restart policy forbids another try
		}
	}
	if len(r.agents.jobs) >= MostJobs {
		r.log.Warn("the room has as many jobs as it may", "most", MostJobs)
		return jobs
	}
	j := newJob(d, k, target, now, r.rooms.Now().Ms)
	r.agents.jobs[j.ID] = j
	return append(jobs, *j)
}

// addJobs writes waiting jobs, and wakes their workers when the jobs are on disk.
func (r *Room) addJobs(c *Change) {
	if len(c.Jobs)+len(c.Dispatches) == 0 {
		return
	}
	r.factChange(c)
	r.afterWrites(func(error) { r.wakeWorkers(c.Jobs) }) // on an error too: workers also look from time to time
}

func (r *Room) wakeWorkers(jobs []Job) {
	for i := range jobs {
		if jobs[i].EndedMs == 0 {
			r.rooms.cfg.Agents.Workers.Wake(jobs[i].Kind)
		}
	}
}

// forgetJobs removes jobs that could not be written.
func (r *Room) forgetJobs(jobs []Job) {
	for i := range jobs {
		delete(r.agents.jobs, jobs[i].ID)
	}
}

// endJob adds the end of j to c.
func (r *Room) endJob(c *Change, j *Job, status livekit.JobStatus, why string, reason livekit.JobStateReason, now time.Time) {
	over, event := j.Ended(r.rec.Info(), status, why, reason, now)
	delete(r.agents.jobs, j.ID)
	delete(r.agents.awaited, j.ID)
	r.agents.ended = append(r.agents.ended[max(0, len(r.agents.ended)-MostJobs+1):], over)
	c.Jobs, c.Events = append(c.Jobs, *over), append(c.Events, event)
	r.log.Info("job ended", "job", j.ID, "agent", j.Kind.AgentName, "participant", j.Agent(), "status", status, "why", why)
}

// finish ends j. If it failed and its dispatch says so, it gets a successor. Then its
// agent is sent away first, so that two agents of one job are never in the room together.
// The successor of a job that was lost with its machine is due at once; a job that fails
// again and again waits longer each time.
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
		due := r.rooms.Now().Ms
		next := newJob(d, j.Kind, j.Info.GetParticipant(), now, due)
		before := j.Info.GetState()
		next.Info.State.Attempts, next.Info.State.FirstStartedAt = before.GetAttempts(), before.GetFirstStartedAt()
		next.Info.State.Reason = reason
		next.DueMs = due + backoff(before, now).Milliseconds()
		if lost || backoff(before, now) == 0 && before.GetAttempts() > 1 { // it did not fail soon after its start: count from the beginning
			next.Info.State.Attempts, next.DueMs = 0, due
		}
		r.agents.jobs[next.ID] = next
		c.Jobs = append(c.Jobs, *next)
	}
	p := r.participants[j.Agent()]
	switch {
	case p == nil || !p.admitted || !isAgent(p.info):
	case !again: // the agent leaves by itself
		r.dismissLater(j.Agent(), now)
	default:
		r.leave(p, livekit.DisconnectReason_AGENT_ERROR, &livekit.LeaveRequest{
			Reason: livekit.DisconnectReason_AGENT_ERROR, Action: livekit.LeaveRequest_DISCONNECT,
		})
	}
	r.addJobs(c)
}

// dismissLater sends an agent away if it has not left by itself within leaveGrace.
func (r *Room) dismissLater(identity string, now time.Time) {
	r.agents.dismissed[identity] = now.Add(leaveGrace)
	r.setAlarm(alarmAgents, now.Add(leaveGrace))
}

// targetHere reports whether j's participant is in the room; true for a job without one.
func (r *Room) targetHere(j *Job) bool {
	identity := j.Info.GetParticipant().GetIdentity()
	return identity == "" || r.here(identity)
}

// backoff is the wait before the successor of a failed job. It is 0 after a first
// failure, and after a job that ran for a minute or more.
func backoff(s *livekit.JobState, now time.Time) time.Duration {
	if s.GetStartedAt() == 0 || now.Sub(time.Unix(0, s.GetStartedAt())) >= mostBackoff || s.GetAttempts() <= 1 {
		return 0
	}
	return min(leastBackoff<<min(s.GetAttempts()-2, 10), mostBackoff)
}

// agentLeft is called for every participant that has left, with its reason.
func (r *Room) agentLeft(info *livekit.ParticipantInfo, why livekit.DisconnectReason, now time.Time) {
	j := r.agentJob(info.Identity)
	if j == nil || !isAgent(info) {
		r.cancelFor(info.Identity, now)
		return
	}
	switch why {
	case livekit.DisconnectReason_CLIENT_INITIATED:
		// The worker's report, which comes in a moment, says whether the work is done.
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

// cancelFor ends the waiting jobs for a participant that has left.
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
// that have not left in time.
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
		if p != nil && isAgent(p.info) && w.orphan && p.away { // worker and agent are both gone, most likely with their machine
			r.leave(p, livekit.DisconnectReason_CONNECTION_TIMEOUT, nil)
			continue // leave ends the job
		}
		if !r.agentHere(j.Agent()) {
			r.finish(j, w.status, w.why, w.lost, now)
			r.rooms.cfg.Agents.Workers.Terminate(j.ID)
		}
	}
}

// jobsEndWithRoom returns the room's jobs as ended with the room, and their events.
func (r *Room) jobsEndWithRoom(now time.Time) (jobs []Job, events []log.Event) {
	for _, j := range r.agents.jobs {
		over, e := j.EndedWithRoom(r.rec.Info(), now)
		jobs, events = append(jobs, *over), append(events, e)
	}
	return jobs, events
}

// dismissAgents terminates the running jobs of a room that has ended.
func (r *Room) dismissAgents() {
	for id, j := range r.agents.jobs {
		if j.Status() == livekit.JobStatus_JS_RUNNING {
			r.rooms.cfg.Agents.Workers.Terminate(id)
		}
	}
	r.agents = newAgents()
}
