package rooms

import (
	"errors"
	"time"

	"github.com/livekit/protocol/livekit"
)

// A change is either a request, which may be refused, or a fact, which has
// happened whatever the disk says: somebody left, a track was published. A
// request that cannot be written fails. A fact that cannot be written is kept,
// and all later facts behind it, until the store takes them; meanwhile requests
// are refused. So running calls go on through a disk that fails, and no event
// of theirs is lost.

// request submits a change that may be refused. The caller has applied it to
// r.rec already; done is called on the room's goroutine.
func (r *Room) request(kind ChangeKind, sessions []Session, events []Event, done func(Outcome, error)) {
	if r.backlog != nil {
		done(Outcome{}, Errorf(Unavailable, "the room's state cannot be written at the moment, try again"))
		return
	}
	r.submit(&Change{Kind: kind, Room: r.row(), Sessions: sessions, Events: events}, done)
}

// fact submits a change that has happened.
func (r *Room) fact(sessions []Session, events []Event) {
	c := &Change{Kind: ChangeUpdate, Room: r.row(), Sessions: sessions, Events: events}
	if r.backlog != nil {
		r.keep(c)
		return
	}
	r.submit(c, func(_ Outcome, err error) {
		// A room that has ended had nobody in it: it is about one whose join came
		// after the end, and is void with that join.
		if err != nil && !errors.Is(err, ErrEnded) {
			r.log.Error("cannot write the room's state, keeping it to try again", "error", err)
			r.keep(c)
		}
	})
}

// keep puts c behind the backlog. Failures of changes that were under way at
// once come in their order, so that the backlog is in order too.
func (r *Room) keep(c *Change) {
	if r.rec.SID != c.Room.SID {
		return
	}
	if r.backlog == nil {
		r.backlog = &Change{Kind: ChangeUpdate}
	}
	r.backlog.Sessions = append(r.backlog.Sessions, c.Sessions...)
	r.backlog.Events = append(r.backlog.Events, c.Events...)
	r.setAlarm(alarmRetry, time.Now().Add(retryInterval))
}

// retry submits the backlog.
func (r *Room) retry() {
	c := r.backlog
	if c == nil {
		return
	}
	if r.pending > 0 { // their failures belong into the backlog first
		r.setAlarm(alarmRetry, time.Now().Add(retryInterval))
		return
	}
	c.Room = r.row()
	sessions, events := len(c.Sessions), len(c.Events)
	r.submit(c, func(_ Outcome, err error) {
		if err == nil {
			// What was added while it was under way is a backlog of its own.
			rest := &Change{Kind: ChangeUpdate, Sessions: c.Sessions[sessions:], Events: c.Events[events:]}
			r.backlog = nil
			if len(rest.Sessions)+len(rest.Events) > 0 {
				r.backlog = rest
				r.setAlarm(alarmRetry, time.Now())
			}
			r.log.Info("the room's state is written again")
			return
		}
		r.setAlarm(alarmRetry, time.Now().Add(retryInterval))
	})
}

// submit hands a copy of c to the store.
func (r *Room) submit(c *Change, done func(Outcome, error)) {
	r.pending++
	copied := *c
	r.rooms.cfg.Store.Submit(&copied, func(out Outcome, err error) {
		if err == nil {
			r.rooms.noteDeadline(out.Room.ExpiresMs)
		}
		r.mail.post(letter{urgent: true, run: func() {
			r.pending--
			if err == nil {
				r.rec.Seq = max(r.rec.Seq, out.Room.Seq)
			}
			done(out, err)
			if errors.Is(err, ErrEnded) && !r.gone {
				r.vanish()
			}
		}})
	})
}

// row is the record as it is to be stored: a room that has any session, even of
// dependents only, has no deadline in the store; the room itself ends it.
func (r *Room) row() Record {
	r.rec.Version++
	row := r.rec
	if len(r.participants)+len(r.expected) > 0 {
		row.ExpiresMs = 0
	}
	return row
}

// create opens the room if no open room bears the name, and then calls done.
func (r *Room) create(req *livekit.CreateRoomRequest, done func(error)) {
	r.creating = append(r.creating, done)
	if len(r.creating) > 1 {
		return
	}
	now := time.Now()
	rec := r.rooms.newRecord(req, now)
	started := NewEvent(&livekit.WebhookEvent{Event: EventRoomStarted, Room: rec.Info()}, now)
	r.submit(&Change{Kind: ChangeCreate, Room: rec, Events: []Event{started}}, func(out Outcome, err error) {
		waiting := r.creating
		r.creating = nil
		if err == nil {
			r.rec = out.Room
			if out.Created {
				r.log.Info("room started", "sid", rec.SID)
			}
		}
		for _, done := range waiting {
			done(err)
		}
	})
}

// end ends the room for reason: its participants' closing events and its own
// are one change. Nobody is sent away before it is on disk.
func (r *Room) end(reason EndReason, why livekit.DisconnectReason, done func(error)) {
	if r.backlog != nil {
		done(Errorf(Unavailable, "the room's state cannot be written at the moment, try again"))
		return
	}
	r.closing = true
	before := r.rec
	now := time.Now()
	var sessions []Session
	var events []Event
	for _, p := range r.participants {
		s, e := r.departure(p, why, now)
		sessions, events = append(sessions, s), append(events, e...)
	}
	for _, s := range r.expected {
		gone, e := r.absence(s, why, now)
		sessions, events = append(sessions, gone), append(events, e...)
	}
	r.rec.EndedMs, r.rec.EndReason, r.rec.ExpiresMs = NowMs(now), reason, 0
	events = append(events, RoomFinished(&r.rec, now))
	c := &Change{Kind: ChangeEnd, Room: r.row(), Sessions: sessions, Events: events}
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
		done(nil)
		r.log.Info("room ended", "sid", before.SID, "reason", reason)
		r.dismiss(why)
		r.vanish()
	})
}

// recount counts anew who is in the room.
func (r *Room) recount() {
	r.rec.NumParticipants, r.rec.NumPublishers = 0, 0
	count := func(info *livekit.ParticipantInfo) {
		if !dependent(info) {
			r.rec.NumParticipants++
		} else if info.GetPermission().GetRecorder() || info.GetKind() == livekit.ParticipantInfo_EGRESS { //nolint:staticcheck // old tokens
			r.rec.ActiveRecording = true
		}
		if len(info.GetTracks()) > 0 {
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

// dismiss sends everybody away for good.
func (r *Room) dismiss(why livekit.DisconnectReason) {
	for _, p := range r.participants {
		if !p.admitted { // its join is answered with the room's end, and tried again
			p.ended.Store(true)
			continue
		}
		p.outlet.Leave(&livekit.LeaveRequest{Reason: why, Action: livekit.LeaveRequest_DISCONNECT})
		p.shut()
		p.dismissShadows(why)
	}
	clear(r.participants)
	clear(r.expected)
	clear(r.tracks)
	r.failRPCs()
}

// vanish makes the room no longer live: its row has ended. Whoever waits for it
// is told to look the name up again.
func (r *Room) vanish() {
	r.gone = true
	r.dismiss(livekit.DisconnectReason_ROOM_CLOSED)
	r.backlog = nil
	for _, done := range r.creating {
		done(errRetired)
	}
	r.creating = nil
	deferred := r.deferred
	r.deferred = nil
	r.rooms.drop(r)
	for _, l := range deferred {
		if l.retired != nil {
			l.retired()
		}
	}
}

// judge looks, after a departure, whether the room is empty now.
func (r *Room) judge(now time.Time) {
	if r.rec.SID == "" {
		return
	}
	if r.rec.NumParticipants > 0 {
		r.alarms[alarmDeadline] = time.Time{}
		return
	}
	if r.rec.EmptySinceMs == 0 {
		r.rec.SetEmpty(NowMs(now))
	}
	r.watchDeadline()
}

// watchDeadline sets the room's own alarm if dependents keep it live while its
// deadline runs.
func (r *Room) watchDeadline() {
	r.alarms[alarmDeadline] = time.Time{}
	if len(r.participants)+len(r.expected) > 0 && r.rec.ExpiresMs != 0 {
		r.alarms[alarmDeadline] = time.UnixMilli(r.rec.ExpiresMs)
	}
}

// deadlineOver ends a room in which only dependents are left.
func (r *Room) deadlineOver(now time.Time) {
	if r.rec.ExpiresMs == 0 || r.rec.NumParticipants > 0 {
		return
	}
	if NowMs(now) < r.rec.ExpiresMs {
		r.watchDeadline()
		return
	}
	r.end(r.rec.DueReason(), livekit.DisconnectReason_ROOM_CLOSED, func(err error) {
		if err != nil {
			r.log.Error("cannot end the room that is due, trying again", "error", err)
			r.alarms[alarmDeadline] = time.Now().Add(retryInterval)
		}
	})
}

// graceOver: who was expected back and is not here has left.
func (r *Room) graceOver() {
	if len(r.expected) == 0 || r.stopped {
		return
	}
	now := time.Now()
	var sessions []Session
	var events []Event
	for id, s := range r.expected {
		delete(r.expected, id)
		gone, e := r.absence(s, livekit.DisconnectReason_CONNECTION_TIMEOUT, now)
		sessions, events = append(sessions, gone), append(events, e...)
		r.log.Info("participant did not come back", "participant", id, "sid", s.SID)
		if !gone.Info.GetPermission().GetHidden() {
			r.tell(updateOf(gone.Info), nil)
		}
	}
	r.judge(now)
	r.fact(sessions, events)
}
