package rooms

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"

	"parlor/rooms/log"
)

// Create opens a room, or returns the open room of that name as it is. Outcome.Created
// tells whether this call opened the room: of several concurrent calls only one did. The
// settings are those of a new room.
func (rs *Rooms) Create(ctx context.Context, req *livekit.CreateRoomRequest, settings ...Setting) (Outcome, error) {
	if err := rs.checkRoomName(req.Name); err != nil {
		return Outcome{}, err
	}
	if err := rs.checkMetadata(req.Metadata); err != nil {
		return Outcome{}, err
	}
	if err := rs.checkTags(req.Tags); err != nil {
		return Outcome{}, err
	}
	if err := rs.checkDispatches(req.Agents); err != nil {
		return Outcome{}, err
	}
	if rs.stopping.Load() {
		return Outcome{}, ErrStopping
	}
	if rs.peek(req.Name) != nil {
		return askName(ctx, rs, req.Name, func(r *Room, reply answer[Outcome]) {
			err := r.found()
			switch {
			case err == nil && r.occupiedOnDisk():
				reply(Outcome{Room: r.row()}, nil)
			case err == nil: // the room may have ended at its deadline: the write tells
				r.request(ChangeUpdate, nil, nil, func(out Outcome, err error) {
					switch {
					case errors.Is(err, ErrEnded):
						reply(Outcome{}, errRetired)
					case err != nil:
						reply(Outcome{}, err)
					default:
						reply(Outcome{Room: out.Room}, nil)
					}
				})
			case !errors.Is(err, ErrNoRoom):
				reply(Outcome{}, err)
			default:
				r.create(req, reply, settings...)
			}
		})
	}
	// The room is not live, so it is only a row. The database itself lets no second open
	// room bear the name.
	now := time.Now()
	rec := rs.newRecord(req, now, settings...)
	dispatches, jobs := rs.startAgents(req, &rec, livekit.AgentDispatchTrigger_ADT_ROOM_API, now)
	started := log.New(&livekit.WebhookEvent{Event: log.RoomStarted, Room: rec.Info()}, now)
	c := &Change{Kind: ChangeCreate, Room: rec, Dispatches: dispatches, Jobs: jobs, Events: []log.Event{started}}
	type result struct {
		out Outcome
		err error
	}
	ch := make(chan result, 1)
	rs.cfg.Store.Submit(c, func(out Outcome, err error) {
		if err == nil {
			rs.noteDeadline(&out.Room)
		}
		if err == nil && out.Created {
			for i := range jobs {
				rs.cfg.Agents.Workers.Wake(jobs[i].Kind)
			}
			rs.remind(rec.Name, dispatches, jobs)
		}
		ch <- result{out, err}
	})
	select {
	case res := <-ch:
		return res.out, res.err
	case <-ctx.Done(): // it may be written all the same
		return Outcome{}, ctx.Err()
	}
}

// occupiedOnDisk reports whether the store knows of somebody in the room, so that the room
// cannot have ended at its deadline. It knows nothing yet of those who are coming in.
func (r *Room) occupiedOnDisk() bool {
	for _, p := range r.participants {
		if p.admitted {
			return true
		}
	}
	return len(r.expected) > 0
}

func (rs *Rooms) checkMetadata(metadata string) error {
	if n := rs.cfg.Limits.MaxMetadata; n > 0 && len(metadata) > n {
		return Errorf(Invalid, "metadata size exceeds limits: max size %d", n)
	}
	return nil
}

// List returns the open rooms with the given names; no names mean all. Unknown names are
// left out.
func (rs *Rooms) List(ctx context.Context, names []string) ([]*livekit.Room, error) {
	recs, err := rs.cfg.Store.ListOpen(ctx, names)
	if err != nil {
		return nil, err
	}
	infos := make([]*livekit.Room, len(recs))
	for i := range recs {
		infos[i] = recs[i].Info()
	}
	return infos, nil
}

// Delete closes a room: its participants are sent away, and the name is free as soon as
// the end is on disk. Its breakout rooms are closed after it, whatever becomes of ctx. It
// fails with [Precondition] unless the condition holds for the room as it is; nil demands
// nothing. The condition must neither change the record nor wait.
func (rs *Rooms) Delete(ctx context.Context, name string, condition func(*Record) bool) error {
	before, err := askName(ctx, rs, name, func(r *Room, reply answer[Record]) {
		err := r.found()
		if err == nil {
			err = r.holds(condition)
		}
		if err != nil {
			reply(Record{}, err)
			return
		}
		before := r.rec
		r.end(EndClosed, livekit.DisconnectReason_ROOM_DELETED, func(err error) { reply(before, err) })
	})
	if err != nil || before.Config.Division == nil {
		return err
	}
	// The room has ended, whatever becomes of these: they are tried again, and by the next
	// process if this one stops.
	tried := make(chan struct{})
	if !rs.spawn(func() { rs.endBreakouts(&before, tried) }) {
		return nil
	}
	select {
	case <-tried:
	case <-ctx.Done():
	}
	return nil
}

// Participants lists the participants of the room, and also those that are expected back
// after a restart. A room that does not exist gives an empty list.
func (rs *Rooms) Participants(ctx context.Context, room string) ([]*livekit.ParticipantInfo, error) {
	return askName(ctx, rs, room, func(r *Room, reply answer[[]*livekit.ParticipantInfo]) {
		if err := r.found(); err != nil && !errors.Is(err, ErrNoRoom) {
			reply(nil, err)
			return
		}
		infos := make([]*livekit.ParticipantInfo, 0, len(r.participants)+len(r.expected))
		for _, p := range r.participants {
			infos = append(infos, p.snapshot())
		}
		for _, s := range r.expected {
			infos = append(infos, s.Info)
		}
		reply(infos, nil)
	})
}

// Member is a participant of a room, with its media.
type Member struct {
	Info *livekit.ParticipantInfo
	Host bool // it runs the room
	Peer Peer // nil: the participant has none, or none yet
}

func (p *Participant) member() Member { return Member{p.snapshot(), p.host, p.peer} }

func (s *Session) member() Member { return Member{Info: s.Info, Host: s.Host} }

// Members lists the participants of the open room of that name in no order, and also
// those that are expected back after a restart. A room that does not exist gives an empty
// list.
func (rs *Rooms) Members(ctx context.Context, room string) ([]Member, error) {
	return askName(ctx, rs, room, func(r *Room, reply answer[[]Member]) {
		if err := r.found(); err != nil && !errors.Is(err, ErrNoRoom) {
			reply(nil, err)
			return
		}
		members := make([]Member, 0, len(r.participants)+len(r.expected))
		for _, p := range r.participants {
			members = append(members, p.member())
		}
		for _, s := range r.expected {
			members = append(members, s.member())
		}
		reply(members, nil)
	})
}

// Participant returns one participant, also one that is expected back after a
// restart.
func (rs *Rooms) Participant(ctx context.Context, room, identity string) (*livekit.ParticipantInfo, error) {
	m, err := rs.Member(ctx, room, identity)
	return m.Info, err
}

// Member is Participant with its media, and whether it is host.
func (rs *Rooms) Member(ctx context.Context, room, identity string) (Member, error) {
	return askName(ctx, rs, room, func(r *Room, reply answer[Member]) {
		if p := r.participants[identity]; p != nil {
			reply(p.member(), nil)
		} else if s := r.expected[identity]; s != nil {
			reply(s.member(), nil)
		} else {
			reply(Member{}, ErrNoParticipant)
		}
	})
}

// askParticipant asks the room about a participant that is in it, and fails with
// [ErrNoParticipant] if there is none. If the participant's join is not yet on disk, it
// waits for that.
func askParticipant[T any](ctx context.Context, rs *Rooms, room, identity string, f func(*Room, *Participant, answer[T])) (T, error) {
	return askName(ctx, rs, room, func(r *Room, reply answer[T]) { withParticipant(r, identity, f, reply) })
}

func withParticipant[T any](r *Room, identity string, f func(*Room, *Participant, answer[T]), reply answer[T]) {
	var zero T
	switch p := r.participants[identity]; {
	case p == nil || p.ended.Load():
		reply(zero, ErrNoParticipant)
	case !p.admitted:
		p.successors = append(p.successors, letter{
			run:     func() { withParticipant(r, identity, f, reply) },
			retired: func() { reply(zero, errRetired) },
		})
	default:
		f(r, p, reply)
	}
}

// Remove sends a participant away. With revoke_token_ts the tokens of this identity from
// before that time are refused afterwards, also the refreshed tokens that the server gave
// out, and it is sent away from all rooms of the division.
func (rs *Rooms) Remove(ctx context.Context, req *livekit.RoomParticipantIdentity) error {
	const noSeconds = 1 << 40 // the year 36812 or so: a larger number is milliseconds, by mistake
	switch {
	case req.RevokeTokenTs > noSeconds:
		return Errorf(Invalid, "revoke_token_ts is %d: it must be a Unix time in seconds", req.RevokeTokenTs)
	case req.RevokeTokenTs > 0:
		return rs.Expel(ctx, req.Room, req.Identity, req.RevokeTokenTs*1000)
	}
	return rs.remove(ctx, req.Room, req.Identity, func(string) bool { return true })
}

// RemoveSession is Remove of a participant by the SID of its session: a participant
// that has joined under the identity since then stays. No session has the SID "".
func (rs *Rooms) RemoveSession(ctx context.Context, room, identity, sid string) error {
	return rs.remove(ctx, room, identity, func(s string) bool { return s == sid })
}

// remove sends the participant of that identity away if its session's SID is the one that
// is meant.
func (rs *Rooms) remove(ctx context.Context, room, identity string, is func(sid string) bool) error {
	_, err := askName(ctx, rs, room, func(r *Room, reply answer[struct{}]) {
		why := livekit.DisconnectReason_PARTICIPANT_REMOVED
		if p := r.participants[identity]; p != nil && is(p.sid) {
			r.leave(p, why, &livekit.LeaveRequest{Reason: why, Action: livekit.LeaveRequest_DISCONNECT})
		} else if s := r.expected[identity]; s != nil && is(s.SID) {
			now := time.Now()
			delete(r.expected, identity)
			gone, events := r.absence(s, why, now)
			r.remember(gone)
			r.tellGone(gone.Info) // it may have come back for a moment, and been announced
			r.judge()
			r.fact([]Session{gone}, events)
			r.agentLeft(gone.Info, why, now)
		} else {
			reply(struct{}{}, ErrNoParticipant)
			return
		}
		r.afterWrites(func(err error) { reply(struct{}{}, err) })
	})
	return err
}

// afterWrites calls done when everything that was submitted so far is on disk. done gets
// an error if the store cannot write at the moment (the room tries again), or if the
// room's end was written first, so that the participant never came in.
func (r *Room) afterWrites(done func(error)) {
	r.request(ChangeUpdate, nil, nil, func(_ Outcome, err error) {
		if errors.Is(err, ErrEnded) {
			err = ErrNoParticipant
		}
		done(err)
	})
}

// MuteTrack mutes a published track. It unmutes one only where EnableRemoteUnmute allows
// it. An unknown track gives an empty answer, as in LiveKit.
func (rs *Rooms) MuteTrack(ctx context.Context, req *livekit.MuteRoomTrackRequest) (*livekit.TrackInfo, error) {
	return askParticipant(ctx, rs, req.Room, req.Identity, func(r *Room, p *Participant, reply answer[*livekit.TrackInfo]) {
		if !req.Muted && !rs.cfg.EnableRemoteUnmute {
			reply(nil, Errorf(Precondition, "remote unmute not enabled"))
			return
		}
		t, info := r.tracks[req.TrackSid], p.pendingTracks[req.TrackSid]
		if t != nil && t.publisher == p {
			info = t.info
		}
		if info == nil {
			reply(nil, nil)
			return
		}
		if !req.Muted && r.held(p, info) {
			reply(nil, Errorf(Precondition, "the room is held muted: release it, or leave this identity out"))
			return
		}
		if t != nil {
			r.muteRemotely(t, req.Muted)
			info = t.info
		} else { // announced, and not sent yet
			info = proto.CloneOf(info)
			info.Muted = req.Muted
			p.tellMuted(info.Sid, info.Muted)
			p.mutedEarly[info.Sid] = info.Muted
			p.setPending(info)
		}
		r.afterWrites(func(err error) { reply(info, err) })
	})
}

// ParticipantEdit is a change of a participant that is in a room.
type ParticipantEdit struct {
	Name, Metadata string            // empty leaves it as it is
	Attributes     map[string]string // set one by one; an empty value deletes
	// Permit changes the permission on the room's goroutine, so that two concurrent
	// changes do not undo each other. nil leaves the permission as it is.
	Permit func(*livekit.ParticipantPermission)
	// If refuses the change with [Precondition] unless it holds for the participant as
	// it is; nil demands nothing. It must neither change the member nor wait.
	If func(Member) bool
}

// EditParticipant changes a participant's data and permission, and enforces the
// permission at once. A participant that is expected back after a restart comes back as
// changed.
func (rs *Rooms) EditParticipant(ctx context.Context, room, identity string, e ParticipantEdit) (Member, error) {
	return askName(ctx, rs, room, func(r *Room, reply answer[Member]) {
		if s := r.expected[identity]; s != nil {
			r.editExpected(s, &e, reply)
			return
		}
		withParticipant(r, identity, func(r *Room, p *Participant, reply answer[Member]) {
			if err := r.mayEdit(p, &e); err != nil {
				reply(Member{}, err)
				return
			}
			wasHidden := p.hidden()
			p.edit(&e)
			if e.Permit != nil {
				r.enforce(p, wasHidden)
			}
			r.decided(p)
			m := p.member()
			r.afterWrites(func(err error) { reply(m, err) })
		}, reply)
	})
}

// editExpected is EditParticipant for an expected participant, which has only a row.
func (r *Room) editExpected(s *Session, e *ParticipantEdit, reply answer[Member]) {
	p := &Participant{
		Client: &Client{identity: s.Identity}, sid: s.SID, joinedMs: s.JoinedMs, activeMs: s.ActiveMs, host: s.Host, mediaBefore: s.Media, blobs: s.blobs,
		luggage: luggage{info: proto.CloneOf(s.Info), permittedMs: s.PermittedMs, editedMs: s.EditedMs},
	}
	if err := r.mayEdit(p, e); err != nil {
		reply(Member{}, err)
		return
	}
	p.edit(e)
	p.info.Version++
	edited := p.session(r.rec.SID)
	r.expected[s.Identity] = &edited
	r.fact([]Session{edited}, []log.Event{r.participantEvent(log.ParticipantUpdated, edited.Info, time.Now())})
	r.afterWrites(func(err error) { reply(edited.member(), err) })
}

// edit applies e to p.
func (p *Participant) edit(e *ParticipantEdit) {
	p.setIdentityData(e.Name, e.Metadata, e.Attributes)
	if e.Permit == nil {
		return
	}
	before := p.info.GetPermission()
	now := proto.CloneOf(before)
	if now == nil {
		now = &livekit.ParticipantPermission{}
	}
	e.Permit(now)
	// The room counted p, or not, by these fields when it joined.
	now.Agent, now.Recorder = before.GetAgent(), before.GetRecorder() // old tokens
	p.info.Permission = now
	p.permittedMs = NowMs(time.Now())
}

// mayEdit checks e against its condition and the limits.
func (r *Room) mayEdit(p *Participant, e *ParticipantEdit) error {
	if e.If != nil && !e.If(Member{p.info, p.host, p.peer}) {
		return Errorf(Precondition, "the participant has changed, or is another of this identity")
	}
	if err := r.rooms.checkIdentityData(e.Name, e.Metadata, p.merged(e.Attributes)); err != nil {
		return err
	}
	if r.unwritable() {
		return ErrHeld
	}
	return nil
}

// checkIdentityData checks a participant's name, metadata and attributes against the
// limits.
func (rs *Rooms) checkIdentityData(name, metadata string, attributes map[string]string) error {
	l := rs.cfg.Limits
	if l.MaxParticipantName > 0 && len(name) > l.MaxParticipantName {
		return Errorf(Invalid, "exceeds name length limit")
	}
	if strings.ContainsRune(name, 0) {
		return Errorf(Invalid, "participant name must not hold a NUL")
	}
	if err := rs.checkMetadata(metadata); err != nil {
		return err
	}
	n := 0
	for k, v := range attributes {
		n += len(k) + len(v)
	}
	if l.MaxAttributes > 0 && n > l.MaxAttributes {
		return Errorf(Invalid, "attributes size exceeds limits: max size %d", l.MaxAttributes)
	}
	return nil
}

// merged is p's attributes after the change, or nil if the change is empty: attributes
// that are over a limit already must not stop a change of something else.
func (p *Participant) merged(change map[string]string) map[string]string {
	if len(change) == 0 {
		return nil
	}
	return mergeAttributes(p.info.Attributes, change)
}

// mergeAttributes returns have with the change applied: an empty value deletes its key.
func mergeAttributes(have, change map[string]string) map[string]string {
	out := maps.Clone(have)
	if out == nil {
		out = make(map[string]string, len(change))
	}
	for k, v := range change {
		if v == "" {
			delete(out, k)
		} else {
			out[k] = v
		}
	}
	return out
}

func (p *Participant) setIdentityData(name, metadata string, attributes map[string]string) {
	if name != "" {
		p.info.Name = name
	}
	if metadata != "" {
		p.info.Metadata = metadata
	}
	if len(attributes) > 0 {
		p.info.Attributes = mergeAttributes(p.info.Attributes, attributes)
	}
	if name != "" || metadata != "" || len(attributes) > 0 {
		p.editedMs = NowMs(time.Now())
	}
}

// decided writes and announces a change that no token from before may undo.
func (r *Room) decided(p *Participant) {
	p.info.Version++
	r.changed(p, r.participantEvent(log.ParticipantUpdated, p.snapshot(), time.Now()))
	if p.onChange != nil {
		p.onChange(p.snapshot(), p.host)
	}
}

// enforce fits p's published tracks and its subscriptions to its permission.
func (r *Room) enforce(p *Participant, wasHidden bool) {
	r.allowPublisher(p)
	for _, t := range r.tracks {
		switch {
		case t.publisher == p && !mayPublish(p.info.GetPermission(), t.info.Source, t.info.Type):
			r.revoke(t)
		case t.publisher != p:
			r.consider(p, t)
		}
	}
	for _, t := range r.dataTracks {
		switch {
		case t.publisher == p && !p.info.GetPermission().GetCanPublishData():
			r.unpublishData(t)
		case t.publisher != p:
			r.considerData(p, t)
		}
	}
	for sid, info := range p.pendingTracks {
		if !mayPublish(p.info.GetPermission(), info.Source, info.Type) {
			if p.peer != nil {
				p.peer.RemoveTrack(sid)
			}
			r.forgetPending(p, sid)
		}
	}
	if !p.info.GetPermission().GetCanPublish() && !publishes(p.info) {
		p.info.IsPublisher = false
	}
	if p.hidden() && !wasHidden {
		gone := p.snapshot()
		gone.State = livekit.ParticipantInfo_DISCONNECTED
		gone.Tracks, gone.DataTracks = nil, nil
		r.tell(updateOf(gone), func(q *Participant) bool { return q != p })
	}
}

// UpdateSubscriptions subscribes a participant to tracks, or unsubscribes it. Unknown
// tracks are no error.
func (rs *Rooms) UpdateSubscriptions(ctx context.Context, req *livekit.UpdateSubscriptionsRequest) error {
	_, err := askParticipant(ctx, rs, req.Room, req.Identity, func(r *Room, p *Participant, reply answer[struct{}]) {
		sids := append([]string(nil), req.TrackSids...)
		for _, pt := range req.ParticipantTracks {
			sids = append(sids, pt.TrackSids...)
		}
		r.want(p, sids, req.Subscribe)
		reply(struct{}{}, nil)
	})
	return err
}

// edit changes an open room's record by f if the condition holds, writes it, and sends
// the new state to the participants.
func (rs *Rooms) edit(ctx context.Context, name string, condition func(*Record) bool, f func(*Record)) (Record, error) {
	return rs.editIf(ctx, name, condition, func(rec *Record) error {
		f(rec)
		return nil
	})
}

// editIf is edit with a change that may refuse: then it must have changed nothing.
func (rs *Rooms) editIf(ctx context.Context, name string, condition func(*Record) bool, f func(*Record) error) (Record, error) {
	return askName(ctx, rs, name, func(r *Room, reply answer[Record]) {
		err := r.found()
		if err == nil {
			err = r.holds(condition)
		}
		hold, kept := r.rec.Config.Hold, r.rec.Config.KeepChat
		if err == nil {
			err = f(&r.rec)
		}
		if err != nil {
			reply(Record{}, err)
			return
		}
		updated := log.New(&livekit.WebhookEvent{Event: log.RoomUpdated, Room: r.rec.Info()}, time.Now())
		c := &Change{Kind: ChangeUpdate, NoChat: kept && !r.rec.Config.KeepChat, Events: []log.Event{updated}}
		r.requestChange(c, func(out Outcome, err error) {
			if err != nil {
				r.undo()
				if errors.Is(err, ErrEnded) {
					err = errRetired
				}
				reply(Record{}, err)
				return
			}
			r.watchDeadline()
			r.tellRoom()
			if hold != r.rec.Config.Hold {
				for _, p := range r.participants {
					r.tellHeld(p)
				}
			}
			if kept != out.Room.Config.KeepChat {
				r.tellChat(out.Room.Config.KeepChat, nil)
			}
			reply(out.Room, nil)
		})
	})
}

// undo puts the settings of the record back to those on disk after an API call could not
// write its change. Counts and times, which events in the room may have changed
// meanwhile, stay. All other edits that are under way fail too, so that the settings on
// disk are the right ones.
func (r *Room) undo() {
	r.rec.Metadata, r.rec.Config, r.rec.MaxParticipants = r.stored.Metadata, r.stored.Config, r.stored.MaxParticipants
	r.rec.EmptyTimeout, r.rec.DepartureTimeout = r.stored.EmptyTimeout, r.stored.DepartureTimeout
	r.rec.SetDeadline()
	r.watchDeadline()
}

// UpdateSelf is the client's change of its own name, metadata and attributes.
func (c *Client) UpdateSelf(req *livekit.UpdateParticipantMetadata) {
	c.post(func(r *Room, p *Participant) {
		resp := &livekit.RequestResponse{
			RequestId: req.RequestId,
			Request:   &livekit.RequestResponse_UpdateMetadata{UpdateMetadata: req},
		}
		err := r.rooms.checkIdentityData(req.Name, req.Metadata, p.merged(req.Attributes))
		switch {
		case !p.info.GetPermission().GetCanUpdateMetadata():
			resp.Reason, resp.Message = livekit.RequestResponse_NOT_ALLOWED, "does not have permission to update own metadata"
		case err != nil:
			resp.Reason, resp.Message = livekit.RequestResponse_LIMIT_EXCEEDED, err.Error()
		default:
			p.setIdentityData(req.Name, req.Metadata, req.Attributes)
			r.decided(p)
		}
		if resp.Reason != livekit.RequestResponse_OK || p.protocol > 14 {
			p.outlet.Send(NewMessage(requestResponse(resp)))
		}
	})
}
