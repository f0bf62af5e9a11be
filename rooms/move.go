package rooms

import (
	"context"
	"errors"
	"time"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"

	"parlor/rooms/log"
)

// Move takes a participant from one room to another, which is opened if need be: it ends
// there, and its client is a new participant here. The client's connections, what it
// publishes, its subscription permission, and what it is stay. It is told by room_moved
// and gets a token for the new room.
//
// It leaves the first room before it is in the second, so that at no instant it
// is in both; meanwhile a seat is held for it there, and a join under the same
// identity waits, as does what is posted for the client. If the second room does not
// take it after all, it is sent back to join again with the token that it has. A second
// room that is closed meanwhile is opened again, as by any join.
func (rs *Rooms) Move(ctx context.Context, req *livekit.MoveParticipantRequest) error {
	return rs.moveAs(ctx, req, false)
}

// moveAs is Move; host tells that the participant is host by the token of the call.
func (rs *Rooms) moveAs(ctx context.Context, req *livekit.MoveParticipantRequest, host bool) error {
	if err := rs.checkRoomName(req.DestinationRoom); err != nil {
		return err
	}
	if req.DestinationRoom == req.Room {
		return Errorf(Invalid, "the destination is the room that the participant is in")
	}
	if rs.stopping.Load() {
		return ErrStopping
	}
	began := time.Now()
	defer rs.turns.of(req.Identity)()
	place, err := rs.standing(ctx, req.DestinationRoom, req.Identity)
	if err != nil {
		return err
	}
	m, err := askParticipant(ctx, rs, req.Room, req.Identity, func(r *Room, p *Participant, reply answer[*passage]) {
		var err error
		if !dependent(p.info) {
			// A host of another room is no host of this division.
			err = place.refusal(host || p.host && r.division() == place.main)
		}
		reply(&passage{from: p, division: r.division(), place: place, began: began}, err)
	})
	if err != nil {
		return err
	}
	p := m.from
	held, err := rs.hasRoomFor(ctx, req.DestinationRoom, m, true)
	if err != nil {
		return err
	}
	to, failed := rs.move(ctx, m, req)
	held.post(func() { held.release(p.Client) }) // if it has gone, so has the seat
	if to == "" {
		return failed
	}
	// A ban or revocation may have come while it was under way. That the caller has gone is no
	// reason. Within its division it stays, as everybody whose tokens are revoked in a room.
	issued := began
	if m.within {
		issued = time.Now()
	}
	if err := rs.Admissible(context.WithoutCancel(ctx), to, p.identity, NowMs(issued)); err != nil {
		p.Leave(livekit.DisconnectReason_PARTICIPANT_REMOVED)
		return err
	}
	return failed
}

// move is Move once a seat is held. to is the room that took the participant, "" if none did:
// the main room of its division, if it left a breakout room and the other has ended meanwhile.
// The first may have ended, too, and no token opens that again.
func (rs *Rooms) move(ctx context.Context, m *passage, req *livekit.MoveParticipantRequest) (to string, err error) {
	p := m.from
	m.under = p.depart(p)
	if m.under == nil {
		return "", ErrNoParticipant // it is being moved by another call
	}
	defer p.arrive(m.under, p) // if it has arrived nowhere else
	_, err = askParticipant(ctx, rs, req.Room, req.Identity, func(r *Room, now *Participant, reply answer[struct{}]) {
		if now != p || p.peer == nil {
			reply(struct{}{}, ErrNoParticipant)
			return
		}
		r.send(m)
		r.afterWrites(func(err error) { reply(struct{}{}, err) })
	})
	if err == nil {
		_, err = askName(ctx, rs, req.DestinationRoom, func(r *Room, reply answer[struct{}]) { r.receive(m, reply) })
	}
	if err == nil {
		return req.DestinationRoom, nil
	}
	home := m.division.Name
	if m.sent && ErrorCode(err) == NotFound && !errors.Is(err, ErrNoParticipant) && home != "" && home != req.Room && home != req.DestinationRoom {
		m.place = standing{}
		_, lost := askName(ctx, rs, home, func(r *Room, reply answer[struct{}]) { r.receive(m, reply) })
		if lost == nil {
			return home, err
		}
	}
	if m.sent {
		m.sendBack()
	}
	return "", err
}

// What goes along when a participant is moved, and when it is forwarded:
//
//	                                  move                         forward
//	----------------------------------------------------------------------------------------
//	identity, name, metadata          goes along                   as in its own room, always
//	permission                        goes along                   as in its own room, always
//	decided by the API (edits)        goes along                   not: it is decided in its own
//	tracks: SIDs, media               go along, published again    shown, while published there
//	data tracks: SIDs, handles        go along, published again    shown, while published there
//	data blobs                        go along                    shown, while they are stored there
//	muted                             goes along, and more by      as in its own room
//	                                  a hold of the second room
//	announced, unnegotiated tracks    go along                     not
//	subscription permission           goes along                   as in its own room, always
//	its subscriptions and wishes      end; it begins as a joiner   none: it receives nothing
//	connections, client's queue       go along                     none
//	session: SID, time of joining     new                          new, beside its own
//	host, by its token                within its division          not
//	token                             new, of the second room,     none
//	                                  within its division as old
//	                                  as the one before
//	what it is forwarded to           ends                         stays
//	a ban, a lock, max_participants   refuse it                    refuse it
//	a restart                         is as after a join           ends it, after the grace
//
// passage is a move of a participant. It belongs to the goroutine of the room that has
// it sent or received.
type passage struct {
	from    *Participant
	under   chan struct{} // what its client knows the move by
	sent    bool          // it is not in its room any more
	luggage               // what it takes along
	tracks  []*track
	data    []dataReflection
	// The room that it is sent from is division, or a breakout room of that one; zero = neither.
	division MainRoom
	place    standing  // to the room that it is sent to
	began    time.Time // when it was asked for
	within   bool      // the room that took it is of the same division
}

// returns reports whether it comes back to r from a breakout room.
func (m *passage) returns(r *Room) bool { return m.division.SID != "" && m.division.SID == r.rec.SID }

// astray is why r is not the room that the passage is meant for; nil if it is. Who goes to a
// breakout room, or comes back from one, goes to that room and to no other of its name.
func (m *passage) astray(r *Room) error {
	back := m.division.Name == r.name
	switch {
	case m.place.main.Name != "" && !r.rec.isPartOf(m.place.main),
		m.place.main.Name == "" && r.rec.Config.Main != nil,
		back && r.rec.SID != m.division.SID,
		r.rec.SID == "" && isBreakoutName(r.name):
		return Errorf(NotFound, "the room has ended meanwhile, or is another of this name")
	}
	return nil
}

// Arrival is what the token must tell of a participant that was moved to another room.
type Arrival struct {
	Room string
	Info *livekit.ParticipantInfo
	Host bool // it runs the room
	// HostOf is the room that its tokens make it host of, if that holds here, too: the room
	// itself, or the main room of its division. "" = they make it no host here.
	HostOf string
	// Since is the time from which the token is valid: revocations of before do not refuse
	// who was moved here. Zero = it is as old as the token before, because the room is one of
	// the same division, in which they hold.
	Since time.Time
}

// seat is held for a client that is under way from another room.
type seat struct {
	client  *Client
	waiting []letter // joins under the same identity
}

// hasRoomFor reports whether the room of that name would take what is moved, and holds a seat
// for it if asked to, until release on the room that is returned.
func (rs *Rooms) hasRoomFor(ctx context.Context, name string, m *passage, hold bool) (*Room, error) {
	p := m.from
	if err := rs.Admissible(ctx, name, p.identity, NowMs(time.Now())); err != nil {
		return nil, err
	}
	return whereSpace(ctx, rs, name, p.identity, func(r *Room, out bool, reply answer[*Room]) {
		err := r.found()
		if errors.Is(err, ErrNoRoom) {
			err = nil // it will be made
		}
		if err == nil {
			err = m.astray(r)
		}
		if err == nil {
			err = r.takes(m, out)
		}
		if err == nil && hold {
			if r.seats[p.identity] != nil || r.expected[p.identity] != nil {
				err = r.taken(p)
			} else {
				r.seats[p.identity] = &seat{client: p.Client}
			}
		}
		reply(r, err)
	})
}

// whereSpace is askName for what may find the room full. Those who are out in breakout rooms
// count there; out tells f that one of them is the identity itself.
func whereSpace[T any](ctx context.Context, rs *Rooms, name, identity string, f func(r *Room, out bool, reply answer[T])) (T, error) {
	v, err := askName(ctx, rs, name, func(r *Room, reply answer[T]) { f(r, false, reply) })
	if errors.Is(err, ErrRoomFull) && rs.isOut(ctx, name, identity) {
		v, err = askName(ctx, rs, name, func(r *Room, reply answer[T]) { f(r, true, reply) })
	}
	return v, err
}

// takes is why the room does not take a participant of another; nil if it does. Who comes
// back from a breakout room has its place here already. out: see full.
func (r *Room) takes(m *passage, out bool) error {
	p := m.from
	held := r.seats[p.identity]
	switch {
	case r.participants[p.identity] != nil, held != nil && held.client != p.Client:
		return r.taken(p)
	case held != nil, m.returns(r):
		return nil
	case r.rec.Config.Locked:
		return Errorf(Denied, "room %q is locked", r.name)
	case r.full(out):
		return ErrRoomFull
	}
	return nil
}

func (r *Room) taken(p *Participant) error {
	return Errorf(Exists, "participant %q is in room %q already", p.identity, r.name)
}

// full: max_participants is reached, seats that are held and those who are in breakout rooms
// counted in. out: one of these is the identity that asks.
func (r *Room) full(out bool) bool {
	if r.rec.MaxParticipants == 0 {
		return false
	}
	n := r.rec.NumParticipants
	for _, s := range r.seats {
		if p := r.participants[s.client.identity]; p == nil || p.Client != s.client {
			n++
		}
	}
	if d := r.rec.Config.Division; d.someOut() {
		for _, name := range d.names() {
			if b := r.rooms.peek(name); b != nil {
				n += b.people.Load()
			}
		}
	}
	if out && n > 0 {
		n--
	}
	return n >= r.rec.MaxParticipants
}

// release gives the seat of c back, and lets in a join that waits for it.
func (r *Room) release(c *Client) {
	s := r.seats[c.identity]
	if s == nil || s.client != c {
		return
	}
	delete(r.seats, c.identity)
	for _, l := range s.waiting {
		r.deliverLetter(l)
	}
}

// send takes the participant out of r without ending its media.
func (r *Room) send(m *passage) {
	p := m.from
	m.sent, m.luggage = true, p.luggage
	m.division = r.division()
	for _, t := range r.tracks {
		if t.publisher == p {
			m.tracks = append(m.tracks, t)
		}
	}
	for _, t := range p.dataTracks {
		m.data = append(m.data, dataReflection{t.info, t.source})
	}
	s := r.detach(p, livekit.DisconnectReason_MIGRATION)
	if m.peer != nil {
		m.peer.BeginSummary() // what comes from now on belongs to another session
	}
	p.peer = nil // r has it do nothing any more
	for sid := range p.subscribed {
		m.peer.Unsubscribe(sid)
	}
	r.tellGone(s.Info)
}

// receive makes the client that comes from another room a participant here, and brings
// its tracks.
func (r *Room) receive(m *passage, reply answer[struct{}]) {
	if r.stopped {
		reply(struct{}{}, ErrStopping)
		return
	}
	err := r.found()
	if err == nil || errors.Is(err, ErrNoRoom) {
		if astray := m.astray(r); astray != nil {
			err = astray
		}
	}
	if errors.Is(err, ErrNoRoom) {
		r.create(&livekit.CreateRoomRequest{Name: r.name}, func(_ Outcome, err error) {
			if err != nil {
				reply(struct{}{}, err)
				return
			}
			r.receive(m, reply)
		})
		return
	} else if err != nil {
		reply(struct{}{}, err)
		return
	}
	err = r.takes(m, false) // its seat is held
	switch {
	case err != nil:
	case r.expected[m.from.identity] != nil:
		err = r.taken(m.from)
	case r.unwritable():
		err = ErrHeld
	}
	if err != nil {
		reply(struct{}{}, err)
		return
	}
	now := time.Now()
	l := m.luggage
	l.peer, l.info = nil, proto.CloneOf(l.info) // no room has the peer do anything before it is in
	p := r.newParticipant(m.from.Client, l, now)
	if m.place.decided {
		p.host = m.place.host
	}
	m.within = m.returns(r) || m.division.Name != "" && m.division == r.division()
	p.info.Version = 1
	active := p.info.State == livekit.ParticipantInfo_ACTIVE
	if active { // else [Client.Connected] tells that it joined
		p.activeMs = p.joinedMs
	}
	p.blobs, p.blobsAhead = m.from.blobs, m.from.blobs // all is written that its client stored before
	r.participants[p.identity] = p
	r.recount()
	if r.rec.NumParticipants > 0 {
		r.rec.SetOccupied()
	}
	r.watchDeadline()
	sessions := []Session{p.session(r.rec.SID)}
	var events []log.Event
	if active {
		events = append(events, r.participantEvent(log.ParticipantJoined, p.snapshot(), now))
	}
	r.requestChange(&Change{Kind: ChangeUpdate, Sessions: sessions, Blobs: p.blobRows(), Events: events}, func(_ Outcome, err error) {
		here := r.participants[p.identity] == p
		switch {
		case errors.Is(err, ErrEnded) && p.ended.Load(): // it was removed, and then came the room's end
			err = ErrNoParticipant
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
			r.settle(p, m)
		}
		reply(struct{}{}, err)
		successors := p.successors
		p.successors = nil
		for _, l := range successors {
			r.deliverLetter(l)
		}
	})
}

// settle gives p, which has been admitted, its client and its media, publishes its tracks,
// and tells everybody.
func (r *Room) settle(p *Participant, m *passage) {
	p.peer = m.peer
	p.admitted = true
	r.present(p)
	p.arrive(m.under, p)
	r.announceNew(p)
	r.agentJoined(p)
	snap := r.snapshotFor(p)
	token := ""
	if p.token != nil {
		a := Arrival{Room: r.name, Info: snap.Self, Host: p.host}
		if r.hostByToken(p.Client) {
			a.HostOf = p.hostOf
		}
		if !m.within {
			a.Since = m.began
		}
		token = p.token(a)
	}
	p.outlet.Send(NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_RoomMoved{RoomMoved: &livekit.RoomMovedResponse{
		Room: snap.Room, Token: token, Participant: snap.Self, OtherParticipants: snap.Others,
	}}}))
	for _, t := range m.tracks {
		r.publish(p, t.media, t.info)
		if now := r.tracks[t.info.Sid]; now != nil && t.mutedByOther {
			now.mutedByOther = true
		}
	}
	for _, d := range m.data {
		r.publishData(p, d.info, d.source)
	}
	for _, t := range r.tracks {
		r.consider(p, t)
	}
	for _, t := range r.dataTracks {
		r.considerData(p, t)
	}
	if p.lastDataHandle > 0 {
		r.handlesChanged(p) // its subscriptions of before have ended
	}
	r.setAlarm(alarmQuality, time.Now().Add(qualityInterval))
	if p.away {
		r.setAlarm(alarmAway, p.awaySince.Add(r.rooms.cfg.SignalGrace))
	}
	if len(p.queued) > 0 {
		r.setAlarm(alarmQueued, time.Now().Add(queuedFor))
	}
	r.lookForBack()
	r.log.Info("participant moved here", "participant", p.identity, "sid", p.sid, "from", m.from.room.name)
}

// sendBack has a client that no room took join again. It lost its place by no wish of its own,
// so that a lock of the room that it comes back to does not keep it out.
func (m *passage) sendBack() {
	r := m.from.room
	r.post(func() {
		for i := range r.departed {
			if r.departed[i].SID == m.from.sid {
				r.departed[i].Reason = livekit.DisconnectReason_SIGNAL_CLOSE
			}
		}
	})
	m.from.outlet.Leave(&livekit.LeaveRequest{
		CanReconnect: true, Reason: livekit.DisconnectReason_MIGRATION, Action: livekit.LeaveRequest_RECONNECT,
	})
	m.peer.Close()
}
