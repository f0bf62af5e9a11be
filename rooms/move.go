package rooms

import (
	"context"
	"errors"
	"time"

	"github.com/livekit/protocol/livekit"
)

// Move takes a participant from one room to another, which is opened if need
// be. Its connections, what it publishes and what it is stay; it is a new
// session there. Its client is told by room_moved and gets a token for the new
// room.
//
// It leaves the first room before it is in the second, so that at no instant it
// is in both. If the second does not take it after all, it is sent back to join
// anew with the token that it has.
func (rs *Rooms) Move(ctx context.Context, req *livekit.MoveParticipantRequest) error {
	if err := rs.checkRoomName(req.DestinationRoom); err != nil {
		return err
	}
	if req.DestinationRoom == req.Room {
		return Errorf(Invalid, "the destination is the room that the participant is in")
	}
	if rs.stopping.Load() {
		return ErrStopping
	}
	p, err := askParticipant(ctx, rs, req.Room, req.Identity, func(_ *Room, p *Participant, reply answer[*Participant]) {
		reply(p, nil)
	})
	if err != nil {
		return err
	}
	if err := rs.hasRoomFor(ctx, req.DestinationRoom, p); err != nil {
		return err
	}
	carried, err := askParticipant(ctx, rs, req.Room, req.Identity, func(r *Room, now *Participant, reply answer[luggage]) {
		if now != p || p.peer == nil {
			reply(luggage{}, ErrNoParticipant)
			return
		}
		l := r.send(p)
		r.afterWrites(func(err error) { reply(l, err) })
	})
	if err == nil {
		_, err = askName(ctx, rs, req.DestinationRoom, func(r *Room, reply answer[struct{}]) { r.receive(p, carried, reply) })
	}
	if err != nil && p.room.Load().name == req.Room && !errors.Is(err, ErrNoParticipant) {
		p.sendBack()
	}
	return err
}

// luggage is what a moved participant takes along.
type luggage struct {
	from   *Room
	tracks []*track
}

// hasRoomFor reports whether the room of that name would take p.
func (rs *Rooms) hasRoomFor(ctx context.Context, name string, p *Participant) error {
	if err := rs.admissible(ctx, name, p.identity, NowMs(time.Now())); err != nil {
		return err
	}
	_, err := askName(ctx, rs, name, func(r *Room, reply answer[struct{}]) {
		err := r.found()
		switch {
		case errors.Is(err, ErrNoRoom):
			err = nil // it will be made
		case err == nil && r.participants[p.identity] != nil:
			err = Errorf(Exists, "participant %q is in room %q already", p.identity, name)
		case err == nil && r.rec.Config.Locked:
			err = Errorf(Denied, "room %q is locked", name)
		case err == nil && r.rec.MaxParticipants > 0 && r.rec.NumParticipants >= r.rec.MaxParticipants:
			err = ErrRoomFull
		}
		reply(struct{}{}, err)
	})
	return err
}

// send takes p out of r without ending its media. What is posted for p from now
// on waits in p.parked.
func (r *Room) send(p *Participant) luggage {
	now := time.Now()
	l := luggage{from: r}
	delete(r.participants, p.identity)
	s, events := r.departure(p, livekit.DisconnectReason_MIGRATION, now)
	for sid, t := range r.tracks {
		if t.publisher == p {
			r.withdraw(t)
			delete(r.tracks, sid)
			l.tracks = append(l.tracks, t)
		}
		delete(t.subscribers, p.identity)
	}
	for sid := range p.subscribed {
		p.peer.Unsubscribe(sid)
	}
	clear(p.subscribed)
	clear(p.wanted)
	p.dismissShadows(livekit.DisconnectReason_MIGRATION)
	p.permissions = nil
	p.awayFrom.Store(r)
	if !p.hidden() {
		r.tell(updateOf(s.Info), nil)
	}
	r.remember(s)
	delete(r.speakers, p.sid)
	delete(r.quality, p.sid)
	r.judge(now)
	r.fact([]Session{s}, events)
	r.setAlarm(alarmUpdate, now.Add(updateDelay))
	return l
}

// receive seats p, who comes from another room with its tracks.
func (r *Room) receive(p *Participant, l luggage, reply answer[struct{}]) {
	if r.stopped || p.ended.Load() {
		reply(struct{}{}, ErrStopping)
		return
	}
	if err := r.found(); errors.Is(err, ErrNoRoom) {
		r.create(&livekit.CreateRoomRequest{Name: r.name}, func(err error) {
			if err != nil {
				reply(struct{}{}, err)
				return
			}
			r.receive(p, l, reply)
		})
		return
	} else if err != nil {
		reply(struct{}{}, err)
		return
	}
	if r.participants[p.identity] != nil {
		reply(struct{}{}, Errorf(Exists, "participant %q is in room %q already", p.identity, r.name))
		return
	}
	now := time.Now()
	before := r.rec
	if !dependent(p.info) {
		r.rec.NumParticipants++
		r.rec.SetOccupied()
	}
	sid := NewID("PA_")
	session := Session{
		SID: sid, RoomSID: r.rec.SID, Identity: p.identity, JoinedMs: NowMs(now), ActiveMs: NowMs(now),
		PermittedMs: p.permittedMs, EditedMs: p.editedMs,
	}
	info := p.snapshot()
	info.Sid, info.Tracks, info.IsPublisher = sid, nil, false
	info.JoinedAt, info.JoinedAtMs = session.JoinedMs/1000, session.JoinedMs
	info.Version = 1
	session.Info = info
	joined := r.participantEvent(EventParticipantJoined, info, now)
	r.request(ChangeUpdate, []Session{session}, []Event{joined}, func(_ Outcome, err error) {
		if err != nil {
			if errors.Is(err, ErrEnded) {
				err = errRetired
			} else if !dependent(info) {
				r.rec.NumParticipants--
				if r.rec.NumParticipants == 0 {
					r.rec.EmptySinceMs, r.rec.ExpiresMs, r.rec.JoinedOnce = before.EmptySinceMs, before.ExpiresMs, before.JoinedOnce
				}
			}
			reply(struct{}{}, err)
			return
		}
		r.settle(p, &session, l)
		reply(struct{}{}, nil)
	})
}

// settle makes p one of r's, publishes its tracks there, and tells everybody.
// From here on p belongs to r's goroutine.
func (r *Room) settle(p *Participant, s *Session, l luggage) {
	p.sid, p.joinedMs, p.activeMs = s.SID, s.JoinedMs, s.ActiveMs
	p.publicSID.Store(&s.SID)
	p.info = s.Info
	r.participants[p.identity] = p
	p.admitted = true
	p.room.Store(r)
	r.announceNew(p)
	snap := r.snapshotFor(p, false)
	token := ""
	if p.token != nil {
		token = p.token(r.name, snap.Self)
	}
	p.outlet.Send(NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_RoomMoved{RoomMoved: &livekit.RoomMovedResponse{
		Room: snap.Room, Token: token, Participant: snap.Self, OtherParticipants: snap.Others,
	}}}))
	for _, t := range l.tracks {
		t.announced = false
		p.pendingTracks[t.info.Sid] = t.info
		r.trackPublished(p, t.media, t.info)
	}
	for _, t := range r.tracks {
		r.consider(p, t)
	}
	r.setAlarm(alarmQuality, time.Now().Add(qualityInterval))
	// Behind all that the old room still has for p.
	if !l.from.post(p.unpark) {
		p.unpark()
	}
	r.log.Info("participant moved here", "participant", p.identity, "sid", p.sid, "from", l.from.name)
}

// sendBack has a participant whom no room took join anew.
func (p *Participant) sendBack() {
	p.ended.Store(true)
	p.outlet.Leave(&livekit.LeaveRequest{
		CanReconnect: true, Reason: livekit.DisconnectReason_MIGRATION, Action: livekit.LeaveRequest_RECONNECT,
	})
	p.peer.Close()
}
