package rooms

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"

	"parlor/rooms/log"
)

// Create opens a room, or returns the open room of that name as it is. The outcome tells
// whether it was this call that opened it: of several at one time it is one.
func (rs *Rooms) Create(ctx context.Context, req *livekit.CreateRoomRequest) (Outcome, error) {
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
			case err == nil && len(r.participants)+len(r.expected) > 0:
				reply(Outcome{Room: r.row()}, nil)
			case err == nil: // nobody is in it, so it may have ended at its deadline
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
				r.create(req, reply)
			}
		})
	}
	// Nobody is in it: a room that is not live is only a row, and the database
	// itself lets no second open room bear the name.
	now := time.Now()
	rec := rs.newRecord(req, now)
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
			rs.noteDeadline(out.Room.ExpiresMs)
		}
		ch <- result{out, err}
	})
	res := <-ch
	if res.err == nil && res.out.Created {
		for i := range jobs {
			rs.cfg.Agents.Workers.Wake(jobs[i].Kind)
		}
	}
	return res.out, res.err
}

func (rs *Rooms) checkMetadata(metadata string) error {
	if n := rs.cfg.Limits.MaxMetadata; n > 0 && len(metadata) > n {
		return Errorf(Invalid, "metadata size exceeds limits: max size %d", n)
	}
	return nil
}

// List returns the open rooms of those names, or all. Unknown names are left out.
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

// Delete closes a room: everybody in it is sent away, and the name is free from
// the moment it is on disk. It fails with [Precondition] unless the condition holds
// for the room as it is; nil demands nothing. The condition must neither change the
// record nor wait.
func (rs *Rooms) Delete(ctx context.Context, name string, condition func(*Record) bool) error {
	_, err := askName(ctx, rs, name, func(r *Room, reply answer[struct{}]) {
		err := r.found()
		if err == nil {
			err = r.holds(condition)
		}
		if err != nil {
			reply(struct{}{}, err)
			return
		}
		r.end(EndClosed, livekit.DisconnectReason_ROOM_DELETED, func(err error) { reply(struct{}{}, err) })
	})
	return err
}

// Participants lists who is in the room, also those expected back after a
// restart. A room that does not exist has nobody in it.
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

// Member is somebody in a room, with what carries its media.
type Member struct {
	Info *livekit.ParticipantInfo
	Peer Peer // nil: there is none, or none yet
}

// Members lists who is in the open room of that name, also those expected back after a
// restart, in no order. A room that does not exist has nobody in it.
func (rs *Rooms) Members(ctx context.Context, room string) ([]Member, error) {
	return askName(ctx, rs, room, func(r *Room, reply answer[[]Member]) {
		if err := r.found(); err != nil && !errors.Is(err, ErrNoRoom) {
			reply(nil, err)
			return
		}
		members := make([]Member, 0, len(r.participants)+len(r.expected))
		for _, p := range r.participants {
			members = append(members, Member{p.snapshot(), p.peer})
		}
		for _, s := range r.expected {
			members = append(members, Member{Info: s.Info})
		}
		reply(members, nil)
	})
}

// Participant returns one participant, also one that is expected back after a
// restart.
func (rs *Rooms) Participant(ctx context.Context, room, identity string) (*livekit.ParticipantInfo, error) {
	return askName(ctx, rs, room, func(r *Room, reply answer[*livekit.ParticipantInfo]) {
		if p := r.participants[identity]; p != nil {
			reply(p.snapshot(), nil)
		} else if s := r.expected[identity]; s != nil {
			reply(s.Info, nil)
		} else {
			reply(nil, ErrNoParticipant)
		}
	})
}

// askParticipant asks the room about a participant that is in it;
// [ErrNoParticipant] at once if there is none. Whose join is on its way to the
// disk is waited for.
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

// Remove sends a participant away. With revoke_token_ts its tokens from before
// that time are worthless afterwards, also those that we refreshed.
func (rs *Rooms) Remove(ctx context.Context, req *livekit.RoomParticipantIdentity) error {
	const noSeconds = 1 << 40 // some 35,000 years hence: milliseconds or less, by mistake
	switch {
	case req.RevokeTokenTs > noSeconds:
		return Errorf(Invalid, "revoke_token_ts is %d: it must be a Unix time in seconds", req.RevokeTokenTs)
	case req.RevokeTokenTs > 0:
		if err := rs.Revoke(ctx, req.Room, req.Identity, req.RevokeTokenTs*1000); err != nil {
			return err
		}
	}
	return rs.remove(ctx, req.Room, req.Identity, func(string) bool { return true })
}

// RemoveSession is Remove of a participant by the SID of its session: a participant
// that has joined under the identity since then stays. No session has the SID "".
func (rs *Rooms) RemoveSession(ctx context.Context, room, identity, sid string) error {
	return rs.remove(ctx, room, identity, func(s string) bool { return s == sid })
}

// remove sends a participant away if it is the one by the SID of its session.
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
			r.judge(now)
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

// afterWrites calls done when all that was submitted so far about a participant
// is on disk: with an error if it is being kept to try again, or if the
// participant never came in, since the room's end was written before its join.
func (r *Room) afterWrites(done func(error)) {
	r.request(ChangeUpdate, nil, nil, func(_ Outcome, err error) {
		if errors.Is(err, ErrEnded) {
			err = ErrNoParticipant
		}
		done(err)
	})
}

// MuteTrack mutes a published track, or unmutes it where that is enabled. An
// unknown track gives an empty answer, as LiveKit does.
func (rs *Rooms) MuteTrack(ctx context.Context, req *livekit.MuteRoomTrackRequest) (*livekit.TrackInfo, error) {
	return askParticipant(ctx, rs, req.Room, req.Identity, func(r *Room, p *Participant, reply answer[*livekit.TrackInfo]) {
		if !req.Muted && !rs.cfg.EnableRemoteUnmute {
			reply(nil, Errorf(Precondition, "remote unmute not enabled"))
			return
		}
		t := r.tracks[req.TrackSid]
		if t == nil || t.publisher != p {
			reply(nil, nil)
			return
		}
		if !req.Muted && r.held(p, t.info) {
			reply(nil, Errorf(Precondition, "the room is held muted: release it, or leave this identity out"))
			return
		}
		r.muteRemotely(t, req.Muted)
		info := t.info
		r.afterWrites(func(err error) { reply(info, err) })
	})
}

// ParticipantEdit is a change of a participant that is in a room.
type ParticipantEdit struct {
	Name, Metadata string            // empty leaves it as it is
	Attributes     map[string]string // set one by one; an empty value deletes
	// Permit changes the permission in the room itself, so that of two changes at
	// once neither undoes the other. nil leaves it as it is.
	Permit func(*livekit.ParticipantPermission)
	// If refuses the change with [Precondition] unless it holds for the participant as
	// it is; nil demands nothing. It must neither change the info nor wait.
	If func(*livekit.ParticipantInfo) bool
}

// EditParticipant changes what a participant is and may do; a permission is enforced at
// once. A participant that is expected back after a restart comes back as changed.
func (rs *Rooms) EditParticipant(ctx context.Context, room, identity string, e ParticipantEdit) (*livekit.ParticipantInfo, error) {
	return askName(ctx, rs, room, func(r *Room, reply answer[*livekit.ParticipantInfo]) {
		if s := r.expected[identity]; s != nil {
			r.editExpected(s, &e, reply)
			return
		}
		withParticipant(r, identity, func(r *Room, p *Participant, reply answer[*livekit.ParticipantInfo]) {
			if err := r.mayEdit(p, &e); err != nil {
				reply(nil, err)
				return
			}
			wasHidden := p.hidden()
			p.edit(&e)
			if e.Permit != nil {
				r.enforce(p, wasHidden)
			}
			r.decided(p)
			info := p.snapshot()
			r.afterWrites(func(err error) { reply(info, err) })
		}, reply)
	})
}

// editExpected is EditParticipant for a participant of which only the row is here.
func (r *Room) editExpected(s *Session, e *ParticipantEdit, reply answer[*livekit.ParticipantInfo]) {
	p := &Participant{
		sid: s.SID, identity: s.Identity, info: proto.CloneOf(s.Info), joinedMs: s.JoinedMs, activeMs: s.ActiveMs,
		permittedMs: s.PermittedMs, editedMs: s.EditedMs,
	}
	if err := r.mayEdit(p, e); err != nil {
		reply(nil, err)
		return
	}
	p.edit(e)
	p.info.Version++
	edited := p.session(r.rec.SID)
	r.expected[s.Identity] = &edited
	r.fact([]Session{edited}, []log.Event{r.participantEvent(log.ParticipantUpdated, edited.Info, time.Now())})
	r.afterWrites(func(err error) { reply(edited.Info, err) })
}

// edit makes p what e says.
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
	// Whether it counts was decided when it joined.
	now.Agent, now.Recorder = before.GetAgent(), before.GetRecorder() // old tokens
	p.info.Permission = now
	p.permittedMs = NowMs(time.Now())
}

// mayEdit holds e against its own conditions and the limits.
func (r *Room) mayEdit(p *Participant, e *ParticipantEdit) error {
	if e.If != nil && !e.If(p.info) {
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

// checkIdentityData holds what a participant is to be against the limits.
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

// merged is p's attributes with a change made; nil for none, which is within
// every limit, so that what is there already stands in nobody's way.
func (p *Participant) merged(change map[string]string) map[string]string {
	if len(change) == 0 {
		return nil
	}
	return mergeAttributes(p.info.Attributes, change)
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

// decided writes and tells a change that no earlier token may undo.
func (r *Room) decided(p *Participant) {
	p.info.Version++
	r.changed(p, r.participantEvent(log.ParticipantUpdated, p.snapshot(), time.Now()))
	if p.onChange != nil {
		p.onChange(p.snapshot())
	}
}

// enforce makes what p publishes and is subscribed to fit its permission.
func (r *Room) enforce(p *Participant, wasHidden bool) {
	r.allowPublisher(p)
	for _, t := range r.tracks {
		switch {
		case t.publisher == p && !mayPublish(p.info.GetPermission(), t.info.Source):
			r.revoke(t)
		case t.publisher != p:
			r.consider(p, t)
		}
	}
	for sid, info := range p.pendingTracks {
		if !mayPublish(p.info.GetPermission(), info.Source) {
			if p.peer != nil {
				p.peer.RemoveTrack(sid)
			}
			r.forgetPending(p, sid)
		}
	}
	if p.hidden() && !wasHidden {
		gone := p.snapshot()
		gone.State = livekit.ParticipantInfo_DISCONNECTED
		gone.Tracks = nil
		r.tell(updateOf(gone), func(q *Participant) bool { return q != p })
	}
}

// UpdateSubscriptions subscribes a participant to tracks or ends that. Unknown
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

// edit changes an open room's record by f if the condition holds, writes it, and tells
// everybody in the room.
func (rs *Rooms) edit(ctx context.Context, name string, condition func(*Record) bool, f func(*Record)) (Record, error) {
	return askName(ctx, rs, name, func(r *Room, reply answer[Record]) {
		err := r.found()
		if err == nil {
			err = r.holds(condition)
		}
		if err != nil {
			reply(Record{}, err)
			return
		}
		hold := r.rec.Config.Hold
		f(&r.rec)
		updated := log.New(&livekit.WebhookEvent{Event: log.RoomUpdated, Room: r.rec.Info()}, time.Now())
		r.request(ChangeUpdate, nil, []log.Event{updated}, func(out Outcome, err error) {
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
			reply(out.Room, nil)
		})
	})
}

// undo takes back what an API call changed of the record and could not write,
// and nothing that happened in the room meanwhile. Whatever else was under way
// has failed or will, so that the settings are those on disk.
func (r *Room) undo() {
	r.rec.Metadata, r.rec.Config, r.rec.MaxParticipants = r.stored.Metadata, r.stored.Config, r.stored.MaxParticipants
	r.rec.EmptyTimeout, r.rec.DepartureTimeout = r.stored.EmptyTimeout, r.stored.DepartureTimeout
	r.rec.SetDeadline()
	r.watchDeadline()
}

// UpdateSelf is the client's change of its own name, metadata and attributes.
func (p *Participant) UpdateSelf(req *livekit.UpdateParticipantMetadata) {
	p.post(func(r *Room) {
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
