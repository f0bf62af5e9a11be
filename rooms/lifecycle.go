package rooms

import (
	"errors"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms/log"
)

// create opens the room if no open room bears the name, and then calls done. Callers that
// wait for the same opening share it, and Created is true for the first alone.
func (r *Room) create(req *livekit.CreateRoomRequest, done func(Outcome, error), settings ...Setting) {
	r.creating = append(r.creating, done)
	if len(r.creating) > 1 {
		return
	}
	now := time.Now()
	rec := r.rooms.newRecord(req, now, settings...)
	dispatches, jobs := r.rooms.startAgents(req, &rec, livekit.AgentDispatchTrigger_ADT_JOIN, now)
	started := log.New(&livekit.WebhookEvent{Event: log.RoomStarted, Room: rec.Info()}, now)
	c := &Change{Kind: ChangeCreate, Room: rec, Dispatches: dispatches, Jobs: jobs, Events: []log.Event{started}}
	r.submit(c, func(out Outcome, err error) {
		waiting := r.creating
		r.creating = nil
		switch {
		case err != nil:
		case out.Created:
			r.rec = out.Room
			r.setAgents(dispatches, jobs)
			r.log.Info("room started", "sid", rec.SID)
			r.wakeWorkers(jobs)
			r.reconsiderAll()
		default: // it was opened meanwhile
			r.rec = out.Room
			if err = r.loadHosts(r.rooms.life, r.rec.SID, nil); err == nil {
				err = r.loadAgents(r.rooms.life)
			}
			if err != nil {
				r.rec = Record{}
			}
		}
		for _, done := range waiting {
			done(out, err)
			out.Created = false
		}
	})
}

// end ends the room for reason: the closing events of its participants and its own end
// are one change. Nobody is sent away before the change is on disk.
func (r *Room) end(reason EndReason, why livekit.DisconnectReason, done func(error)) {
	if r.unwritable() {
		done(ErrHeld)
		return
	}
	r.closing = true
	before := r.rec
	now := time.Now()
	var sessions []Session
	var events []log.Event
	for _, p := range r.participants {
		s, e := r.departure(p, why, now)
		sessions, events = append(sessions, s), append(events, e...)
	}
	for _, s := range r.expected {
		gone, e := r.absence(s, why, now)
		sessions, events = append(sessions, gone), append(events, e...)
	}
	jobs, ended := r.jobsEndWithRoom(now)
	events = append(events, ended...)
	r.rec.EndedMs, r.rec.EndReason, r.rec.ExpiresMs = NowMs(now), reason, 0
	events = append(events, RoomFinished(&r.rec, now))
	row := r.row()
	row.EmptySinceMs = r.rooms.Now().Shown(row.EmptySinceMs, row.EmptySinceMs)
	c := &Change{Kind: ChangeEnd, Room: row, Sessions: sessions, Jobs: jobs, Events: events}
	r.submit(c, func(_ Outcome, err error) {
		r.closing = false
		if err != nil && !errors.Is(err, ErrEnded) {
			r.rec.EndedMs, r.rec.EndReason = 0, ""
			r.recount()
			r.rec.SetDeadline()
			r.watchDeadline()
			done(err)
			deferred := r.deferred
			r.deferred = nil
			for _, l := range deferred {
				r.deliverLetter(l)
			}
			return
		}
		r.log.Info("room ended", "sid", before.SID, "reason", reason)
		r.dismiss(why)
		r.vanish()
		done(nil) // the outlets are closed: nothing is sent to them any more
	})
}

// recount counts the participants, publishers and recorders again.
func (r *Room) recount() {
	r.rec.NumParticipants, r.rec.NumPublishers = 0, 0
	r.recorded(-r.recorders)
	count := func(info *livekit.ParticipantInfo) {
		if !dependent(info) {
			r.rec.NumParticipants++
		} else if recorder(info) {
			r.recorded(1)
		}
		if publishes(info) {
			r.rec.NumPublishers++
		}
	}
	for _, p := range r.participants {
		count(p.info)
	}
	for _, s := range r.expected {
		count(s.Info)
	}
}

// dismiss sends all participants away for good.
func (r *Room) dismiss(why livekit.DisconnectReason) {
	for _, p := range r.participants {
		if !p.admitted { // its join, or move, is answered with the room's end, and tried again
			continue
		}
		p.outlet.Leave(&livekit.LeaveRequest{Reason: why, Action: livekit.LeaveRequest_DISCONNECT})
		p.shut()
		p.dismissShadows(why)
	}
	clear(r.participants)
	clear(r.expected)
	clear(r.tracks)
	for _, t := range r.dataTracks { // some come from participants of other rooms
		t.source.drop(r, nil)
	}
	clear(r.dataTracks)
	r.calls.fail()
}

// vanish takes the room, whose row has ended, out of the live ones. Callers that wait for
// it are told to look the name up again.
func (r *Room) vanish() {
	r.gone = true
	r.dismiss(livekit.DisconnectReason_ROOM_CLOSED)
	r.dismissAgents()
	r.backlog = nil
	for _, done := range r.creating {
		done(Outcome{}, errRetired)
	}
	r.creating = nil
	deferred := r.deferred
	r.deferred = nil
	r.rooms.drop(r)
	for _, s := range r.seats {
		deferred = append(deferred, s.waiting...)
	}
	clear(r.seats)
	for _, l := range deferred {
		if l.retired != nil {
			l.retired()
		}
	}
}

// judge checks, after a departure, whether the room is empty now.
func (r *Room) judge() {
	if r.rec.SID == "" {
		return
	}
	if r.rec.NumParticipants > 0 {
		r.alarms[alarmDeadline] = time.Time{}
		return
	}
	if r.rec.EmptySinceMs == 0 {
		r.rec.SetEmpty(r.rooms.Now().Ms)
	}
	r.watchDeadline()
}

// watchDeadline sets the room's own alarm while dependents keep it live and its deadline
// runs.
func (r *Room) watchDeadline() {
	r.alarms[alarmDeadline] = time.Time{}
	if len(r.participants)+len(r.expected) > 0 && r.rec.ExpiresMs != 0 {
		r.alarms[alarmDeadline] = time.UnixMilli(r.rec.ExpiresMs)
	}
}

// deadlineOver ends a room in which only dependents are left and whose deadline has come.
func (r *Room) deadlineOver(now time.Time) {
	if r.rec.ExpiresMs == 0 || r.rec.NumParticipants > 0 {
		return
	}
	if NowMs(now) < r.rec.ExpiresMs {
		r.watchDeadline()
		return
	}
	before := r.rec
	r.end(r.rec.DueReason(), livekit.DisconnectReason_ROOM_CLOSED, func(err error) {
		if err != nil {
			r.overdue.Failed(r.log, "cannot end the room that is due, trying again", err)
			r.alarms[alarmDeadline] = r.now(alarmDeadline).Add(retryInterval)
			return
		}
		r.overdue.Over(r.log, "the room that was due has ended")
		if before.Config.Division != nil {
			r.rooms.spawn(func() { r.rooms.endBreakouts(&before, nil) }) // else the next process ends them
		}
	})
}

// graceOver ends the sessions whose participants were expected back and did not come.
func (r *Room) graceOver() {
	if len(r.expected) == 0 || r.stopped {
		return
	}
	now := time.Now()
	var sessions []Session
	var events []log.Event
	for id, s := range r.expected {
		delete(r.expected, id)
		gone, e := r.absence(s, livekit.DisconnectReason_CONNECTION_TIMEOUT, now)
		sessions, events = append(sessions, gone), append(events, e...)
		r.remember(gone)
		r.log.Info("participant did not come back", "participant", id, "sid", s.SID)
		r.tellGone(gone.Info)
	}
	r.judge()
	r.fact(sessions, events)
	for i := range sessions {
		r.agentLeft(sessions[i].Info, sessions[i].Reason, now)
	}
}
