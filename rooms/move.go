package rooms

import (
	"context"
	"errors"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms/guid"
	"parlor/rooms/log"
)

// Move takes a participant from one room to another, which is opened if need be. Its
// connections, what it publishes, its subscription permission, and what it is stay; it
// is a new session there. Its client is told by room_moved and gets a token for the new
// room.
//
// It leaves the first room before it is in the second, so that at no instant it
// is in both; meanwhile a seat is held for it there, and a join under the same
// identity waits. If the second room does not take it after all, it is sent back
// to join again with the token that it has. A second room that is closed meanwhile
// is opened again, as by any join.
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
	held, err := rs.hasRoomFor(ctx, req.DestinationRoom, p, true)
	if err != nil {
		return err
	}
	l, err := askParticipant(ctx, rs, req.Room, req.Identity, func(r *Room, now *Participant, reply answer[*luggage]) {
		if now != p || p.peer == nil {
			reply(nil, ErrNoParticipant)
			return
		}
		l := r.send(p)
		r.afterWrites(func(err error) { reply(l, err) })
	})
	if err == nil {
		_, err = askName(ctx, rs, req.DestinationRoom, func(r *Room, reply answer[struct{}]) { r.receive(p, l, reply) })
	}
	held.post(func() { held.release(p) }) // if it has gone, so has the seat
	if err != nil {
		if l != nil {
			l.sendBack(p)
		}
		return err
	}
	// A ban may have come while it was under way.
	if err := rs.Admissible(ctx, req.DestinationRoom, p.identity, NowMs(time.Now())); err != nil {
		p.Leave(livekit.DisconnectReason_PARTICIPANT_REMOVED)
		return err
	}
	return nil
}

// What goes along when a participant is moved, and when it is forwarded:
//
//	                                  move                         forward
//	----------------------------------------------------------------------------------------
//	identity, name, metadata          goes along                   as in its own room, always
//	permission                        goes along                   as in its own room, always
//	decided by the API (edits)        goes along                   not: it is decided in its own
//	tracks: SIDs, media               go along, published again    shown, while published there
//	muted                             goes along, and more by      as in its own room
//	                                  a hold of the second room
//	announced, unnegotiated tracks    go along                     not
//	subscription permission           goes along                   as in its own room, always
//	its subscriptions and wishes      end; it begins as a joiner   none: it receives nothing
//	connections, client's queue       go along                     none
//	session: SID, time of joining     new                          new, beside its own
//	token                             new, of the second room      none
//	what it is forwarded to           ends                         stays
//	a ban, a lock, max_participants   refuse it                    refuse it
//	a restart                         is as after a join           ends it, after the grace
//
// luggage is what a moved participant takes along.
type luggage struct {
	from   *Room
	peer   Peer
	tracks []*track
}

// seat is held for a participant that is under way from another room.
type seat struct {
	p       *Participant
	waiting []letter // joins under the same identity
}

// hasRoomFor reports whether the room of that name would take p, and holds a seat
// for it if asked to, until release on the room that is returned.
func (rs *Rooms) hasRoomFor(ctx context.Context, name string, p *Participant, hold bool) (*Room, error) {
	if err := rs.Admissible(ctx, name, p.identity, NowMs(time.Now())); err != nil {
		return nil, err
	}
	return askName(ctx, rs, name, func(r *Room, reply answer[*Room]) {
		err := r.found()
		if errors.Is(err, ErrNoRoom) {
			err = nil // it will be made
		}
		if err == nil {
			err = r.takes(p)
		}
		if err == nil && hold {
			if r.seats[p.identity] != nil || r.expected[p.identity] != nil {
				err = r.taken(p)
			} else {
				r.seats[p.identity] = &seat{p: p}
			}
		}
		reply(r, err)
	})
}

// takes is why the room does not take p, which is in another; nil if it does.
func (r *Room) takes(p *Participant) error {
	held := r.seats[p.identity]
	switch {
	case r.participants[p.identity] != nil, held != nil && held.p != p:
		return r.taken(p)
	case held != nil:
		return nil
	case r.rec.Config.Locked:
		return Errorf(Denied, "room %q is locked", r.name)
	case r.full():
		return ErrRoomFull
	}
	return nil
}

func (r *Room) taken(p *Participant) error {
	return Errorf(Exists, "participant %q is in room %q already", p.identity, r.name)
}

// full: max_participants is reached, seats that are held counted in.
func (r *Room) full() bool {
	if r.rec.MaxParticipants == 0 {
		return false
	}
	n := r.rec.NumParticipants
	for _, s := range r.seats {
		if r.participants[s.p.identity] != s.p {
			n++
		}
	}
	return n >= r.rec.MaxParticipants
}

// release gives the seat of p back, and lets in a join that waits for it.
func (r *Room) release(p *Participant) {
	s := r.seats[p.identity]
	if s == nil || s.p != p {
		return
	}
	delete(r.seats, p.identity)
	for _, l := range s.waiting {
		r.deliverLetter(l)
	}
}

// send takes p out of r without ending its media. What is posted for p from now
// on waits in p.inTransit.
func (r *Room) send(p *Participant) *luggage {
	now := time.Now()
	l := &luggage{from: r, peer: p.peer}
	delete(r.participants, p.identity)
	s, events := r.departure(p, livekit.DisconnectReason_MIGRATION, now)
	for sid, t := range r.tracks {
		if t.publisher == p {
			r.withdraw(t)
			delete(r.tracks, sid)
			l.tracks = append(l.tracks, t)
		}
		delete(t.subscribers, p.identity)
		delete(t.denied, p.identity)
	}
	for sid := range p.subscribed {
		p.peer.Unsubscribe(sid)
	}
	clear(p.subscribed)
	clear(p.wanted)
	p.dismissShadows(livekit.DisconnectReason_MIGRATION)
	p.peer = nil // no room has it do anything while it is under way
	p.presence.Store(nil)
	r.calls.failFor(p)
	p.awayFrom.Store(r)
	if !p.hidden() {
		r.tell(updateOf(s.Info), nil)
	}
	r.remember(s)
	delete(r.speakers, p.sid)
	delete(r.quality, p.sid)
	r.judge(now)
	r.fact([]Session{s}, events)
	r.agentLeft(s.Info, livekit.DisconnectReason_MIGRATION, now)
	r.setAlarm(alarmUpdate, now.Add(updateDelay))
	return l
}

// receive seats p, which comes from another room with its tracks. From here on p
// belongs to r's goroutine, but that what is posted for it waits until it is in.
func (r *Room) receive(p *Participant, l *luggage, reply answer[struct{}]) {
	if r.stopped || p.ended.Load() {
		reply(struct{}{}, ErrStopping)
		return
	}
	if err := r.found(); errors.Is(err, ErrNoRoom) {
		r.create(&livekit.CreateRoomRequest{Name: r.name}, func(_ Outcome, err error) {
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
	err := r.takes(p)
	switch {
	case err != nil:
	case r.expected[p.identity] != nil:
		err = r.taken(p)
	case r.unwritable():
		err = ErrHeld
	}
	if err != nil {
		reply(struct{}{}, err)
		return
	}
	now := time.Now()
	p.sid, p.joinedMs, p.activeMs, p.admitted = guid.New("PA_"), NowMs(now), NowMs(now), false
	p.info.Sid, p.info.Tracks, p.info.IsPublisher = p.sid, nil, false
	p.info.JoinedAt, p.info.JoinedAtMs = p.joinedMs/1000, p.joinedMs
	p.info.Version = 1
	r.participants[p.identity] = p
	r.recount()
	if r.rec.NumParticipants > 0 {
		r.rec.SetOccupied()
	}
	r.watchDeadline()
	sessions := []Session{p.session(r.rec.SID)}
	events := []log.Event{r.participantEvent(log.ParticipantJoined, p.snapshot(), now)}
	r.request(ChangeUpdate, sessions, events, func(_ Outcome, err error) {
		here := r.participants[p.identity] == p
		switch {
		case errors.Is(err, ErrEnded): // the room's end was first: the name is free, look again
			if here {
				delete(r.participants, p.identity)
			}
			err = errRetired
		case err != nil && here:
			r.vacate(p)
		case err != nil: // it was removed meanwhile, and so has been here
			r.keep(&Change{Room: r.rec, Sessions: sessions, Events: events})
		case !here || p.ended.Load():
			err = ErrNoParticipant
		default:
			r.settle(p, l)
		}
		reply(struct{}{}, err)
		successors := p.successors
		p.successors = nil
		for _, l := range successors {
			r.deliverLetter(l)
		}
	})
}

// settle makes p one of r's, publishes its tracks there, and tells everybody.
func (r *Room) settle(p *Participant, l *luggage) {
	sid := p.sid
	p.publicSID.Store(&sid)
	p.peer = l.peer
	p.admitted = true
	p.room.Store(r)
	r.present(p)
	r.announceNew(p)
	r.agentJoined(p)
	snap := r.snapshotFor(p)
	token := ""
	if p.token != nil {
		token = p.token(r.name, snap.Self)
	}
	p.outlet.Send(NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_RoomMoved{RoomMoved: &livekit.RoomMovedResponse{
		Room: snap.Room, Token: token, Participant: snap.Self, OtherParticipants: snap.Others,
	}}}))
	for _, t := range l.tracks {
		t.announced = false
		r.publish(p, t.media, t.info)
		if now := r.tracks[t.info.Sid]; now != nil && t.mutedByOther {
			now.mutedByOther = true
		}
	}
	for _, t := range r.tracks {
		r.consider(p, t)
	}
	r.setAlarm(alarmQuality, time.Now().Add(qualityInterval))
	if p.away {
		r.setAlarm(alarmAway, p.awaySince.Add(r.rooms.cfg.SignalGrace))
	}
	if len(p.queued) > 0 {
		r.setAlarm(alarmQueued, time.Now().Add(queuedFor))
	}
	// Behind all that the old room still has for p.
	if !l.from.mail.post(letter{run: p.repost, retired: p.repost}) {
		p.repost()
	}
	r.log.Info("participant moved here", "participant", p.identity, "sid", p.sid, "from", l.from.name)
}

// sendBack has a participant that no room took join again.
func (l *luggage) sendBack(p *Participant) {
	p.ended.Store(true)
	p.outlet.Leave(&livekit.LeaveRequest{
		CanReconnect: true, Reason: livekit.DisconnectReason_MIGRATION, Action: livekit.LeaveRequest_RECONNECT,
	})
	l.peer.Close()
}
