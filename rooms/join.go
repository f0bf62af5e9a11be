package rooms

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"

	"parlor/rooms/guid"
	"parlor/rooms/log"
)

// JoinRequest is what the edge knows of a client that joins.
type JoinRequest struct {
	Room string
	// Info describes the participant by its token and its own request: identity, name,
	// kind, metadata, attributes, permission, client protocol, capabilities.
	Info *livekit.ParticipantInfo
	// MayCreate: the token has the roomCreate grant.
	MayCreate bool
	// MustExist: the join must not create the room, whatever the configuration says.
	MustExist bool
	// Host: the token makes its bearer host of the room, until it is decided otherwise.
	Host bool
	// HostOf is the main room if it was a token for that which made the client host of a
	// breakout room, as told by [Arrival]; "" = the room itself.
	HostOf string
	// Create has the settings of the room if this join creates it; may be nil.
	Create *livekit.CreateRoomRequest
	// IssuedMs is the token's not-before time, or when it was issued; 0 if it tells neither.
	IssuedMs int64
	// Session is the SID of the client's earlier session, as named by a refreshed token
	// of that session; "" = the token names none.
	Session string
	// Job is the id of the token's job: the client is let in only as the agent of that
	// job. "" = the token is not for a job.
	Job           string
	Protocol      int
	AutoSubscribe bool
	// AutoData: it gets data tracks without asking for them.
	AutoData bool
	// Client describes the client in the log: pairs as of slog.
	Client []any
	Outlet Outlet
	// OnChange is called after a change of name, metadata, attributes or permission, or of
	// who is host, so that the edge gives the client a fresh token. It must not block.
	OnChange func(info *livekit.ParticipantInfo, host bool)
	// Token makes a token for the participant after a move to another room. It must not
	// block; nil = no token is made.
	Token func(Arrival) string

	place standing // to the room; checkJoin finds it
	out   bool     // the identity is in a breakout room of the room
}

type joined struct {
	p    *Participant
	info *livekit.ParticipantInfo
}

// Join lets a participant into the open room of that name, and creates the room if need
// be and allowed. It returns when the join is on disk, with the participant's info of
// that moment. A participant in the room under the same identity is replaced. A
// participant that was in the room when the last process ended takes up its session. The
// caller goes on with [Participant.Enter]; until then the room sends nothing to the
// client.
//
// A join that races with the room's end either comes first, and the end does not happen,
// or opens a new room.
func (rs *Rooms) Join(ctx context.Context, req JoinRequest) (*Participant, *livekit.ParticipantInfo, error) {
	if rs.stopping.Load() {
		return nil, nil, ErrStopping
	}
	if mayBeBreakout(req.Room) { // what its main room decides meanwhile holds there
		defer rs.turns.of(req.Info.Identity)()
	}
	if err := rs.checkJoin(ctx, &req); err != nil {
		return nil, nil, err
	}
	j, err := whereSpace(ctx, rs, req.Room, req.Info.Identity, func(r *Room, out bool, reply answer[joined]) {
		req.out = out
		r.join(&req, reply)
	})
	if err == nil {
		// A ban may have been set between the first check and the join.
		if err = rs.Admissible(ctx, req.Room, req.Info.Identity, req.IssuedMs); err != nil {
			j.p.Leave(livekit.DisconnectReason_PARTICIPANT_REMOVED)
			return nil, nil, err
		}
	}
	return j.p, j.info, err
}

// Accepts fails with [ErrStopping] if the server lets nobody in any more.
func (rs *Rooms) Accepts() error {
	if rs.stopping.Load() {
		return ErrStopping
	}
	return nil
}

// CanJoin fails as such a join would fail now, without joining. It returns the SID of the
// room that the join would enter; "" if it would create one.
func (rs *Rooms) CanJoin(ctx context.Context, req *JoinRequest) (roomSID string, err error) {
	if err := rs.Accepts(); err != nil {
		return "", err
	}
	if err := rs.checkJoin(ctx, req); err != nil {
		return "", err
	}
	return whereSpace(ctx, rs, req.Room, req.Info.Identity, func(r *Room, out bool, reply answer[string]) {
		req.out = out
		err := r.refuses(req)
		reply(r.rec.SID, err)
	})
}

// refuses returns why such a join would fail now, whether the room is open or not; nil if it
// would not.
func (r *Room) refuses(req *JoinRequest) error {
	err := r.found()
	switch {
	case r.stopped:
		return ErrStopping
	case err == nil:
		return r.refusal(req)
	case errors.Is(err, ErrNoRoom) && req.Job == "" && (r.rooms.cfg.AutoCreate || req.MayCreate) && !isBreakoutName(req.Room):
		return nil
	}
	return err
}

// checkJoin checks a join against the limits, bans and revocations.
func (rs *Rooms) checkJoin(ctx context.Context, req *JoinRequest) error {
	if err := rs.checkRoomName(req.Room); err != nil {
		return err
	}
	info := req.Info
	if err := rs.checkIdentity(info.Identity); err != nil {
		return err
	}
	if err := rs.checkIdentityData(info.Name, info.Metadata, info.Attributes); err != nil {
		return err
	}
	if err := rs.checkMetadata(req.Create.GetMetadata()); err != nil {
		return err
	}
	if err := rs.checkDispatches(req.Create.GetAgents()); err != nil {
		return err
	}
	if err := rs.Admissible(ctx, req.Room, info.Identity, req.IssuedMs); err != nil {
		return err
	}
	var err error
	req.place, err = rs.standing(ctx, req.Room, info.Identity)
	return err
}

func (rs *Rooms) checkIdentity(identity string) error {
	if strings.ContainsRune(identity, 0) {
		return Errorf(Invalid, "participant identity must not hold a NUL")
	}
	if n := rs.cfg.Limits.MaxIdentity; n > 0 && len(identity) > n {
		return Errorf(Invalid, "participant identity length exceeds limits: max length %d", n)
	}
	return nil
}

func (rs *Rooms) checkRoomName(name string) error {
	return CheckRoomName(name, rs.cfg.Limits.MaxRoomName)
}

// CheckRoomName returns what is wrong with the name of a room, as an error of code
// [Invalid]; most is its greatest length in bytes, 0 = any.
func CheckRoomName(name string, most int) error {
	switch {
	case name == "":
		return Errorf(Invalid, "no room name")
	case strings.ContainsRune(name, 0):
		return Errorf(Invalid, "room name must not hold a NUL")
	case most > 0 && len(name) > most:
		return Errorf(Invalid, "room name length exceeds limits: max length %d", most)
	}
	return nil
}

func (r *Room) join(req *JoinRequest, reply answer[joined]) {
	if r.stopped || r.rooms.stopping.Load() {
		reply(joined{}, ErrStopping)
		return
	}
	if err := r.found(); errors.Is(err, ErrNoRoom) {
		if req.MustExist || req.Job != "" || (!r.rooms.cfg.AutoCreate && !req.MayCreate) || isBreakoutName(r.name) {
			reply(joined{}, ErrNoRoom)
			return
		}
		create := proto.CloneOf(req.Create)
		if create == nil {
			create = &livekit.CreateRoomRequest{}
		}
		create.Name = r.name
		r.create(create, func(_ Outcome, err error) {
			if err != nil {
				reply(joined{}, err)
				return
			}
			r.join(req, reply)
		})
		return
	} else if err != nil {
		reply(joined{}, err)
		return
	}
	r.admit(req, reply)
}

// admit lets a participant into the open room.
func (r *Room) admit(req *JoinRequest, reply answer[joined]) {
	identity := req.Info.Identity
	old, back := r.participants[identity], r.expected[identity]
	again := letter{run: func() { r.join(req, reply) }, retired: func() { reply(joined{}, errRetired) }}
	if s := r.seats[identity]; s != nil { // joins of one identity are served in their order
		s.waiting = append(s.waiting, again)
		return
	}
	if old != nil && !old.admitted {
		old.successors = append(old.successors, again)
		return
	}
	if err := r.refusal(req); err != nil {
		reply(joined{}, err)
		return
	}
	if old != nil && r.expectAgain(old) {
		old.outlet.Leave(&livekit.LeaveRequest{
			Reason: livekit.DisconnectReason_DUPLICATE_IDENTITY, Action: livekit.LeaveRequest_DISCONNECT,
		})
		old, back = nil, r.expected[identity]
	}
	// The replaced participant goes even if the new join fails. Most often its client is
	// gone and comes back with this join. If it stayed until the join is on disk, it
	// could publish while it is being replaced. The others see a change of session; they
	// are told that it left only if no successor takes its place.
	previous := back
	replaced := func() {}
	if old != nil {
		s := old.session(r.rec.SID)
		previous = &s
		gone, _ := r.remove(old, livekit.DisconnectReason_DUPLICATE_IDENTITY, &livekit.LeaveRequest{
			Reason: livekit.DisconnectReason_DUPLICATE_IDENTITY, Action: livekit.LeaveRequest_DISCONNECT,
		})
		replaced = func() { r.tellGone(gone.Info) }
	}
	now := time.Now()
	p, events := r.seat(req, back, previous, now)
	r.participants[identity] = p
	delete(r.expected, identity)
	if r.rec.NumParticipants > 0 {
		r.rec.SetOccupied()
	}
	r.watchDeadline()
	sessions := []Session{p.session(r.rec.SID)}
	c := &Change{Kind: ChangeUpdate, Sessions: sessions, Events: events}
	if back == nil {
		c.Blobs = p.blobRows()
	}
	r.requestChange(c, func(_ Outcome, err error) {
		switch {
		case errors.Is(err, ErrEnded): // the reaper ended the room first: the name is free, look it up again
			if r.participants[identity] == p {
				delete(r.participants, identity)
			}
			reply(joined{}, errRetired)
		case err != nil && r.participants[identity] == p:
			r.unseat(p, back)
			replaced()
			reply(joined{}, err)
		case err != nil: // it was removed meanwhile, which is in the books already
			r.keep(&Change{Room: r.rec, Sessions: sessions, Events: events})
			replaced()
			reply(joined{}, err)
		case p.ended.Load(): // removed while the disk was busy
			replaced()
			reply(joined{}, ErrNoParticipant)
		default:
			p.admitted, p.resumed, p.sifTrailer = true, back != nil, r.sifTrailer()
			if p.hidden() {
				replaced()
			}
			r.announceNew(p)
			r.agentJoined(p)
			r.lookForBack()
			r.log.Info("participant joined", "participant", identity, "sid", p.sid, "resumed", back != nil, slog.Group("client", p.attrs...))
			reply(joined{p, p.snapshot()}, nil)
		}
		successors := p.successors
		p.successors = nil
		for _, l := range successors {
			r.deliverLetter(l)
		}
	})
}

// refusal returns why the open room does not let req in; nil if it does.
func (r *Room) refusal(req *JoinRequest) error {
	old, back := r.participants[req.Info.Identity], r.expected[req.Info.Identity]
	known := old != nil || back != nil
	// Who was here comes back also after it was called away, and is brought to the main room.
	if m := r.rec.Config.Main; m != nil && !known && !dependent(req.Info) && !req.forwarded() && !r.returns(req) {
		if req.place.main != *m {
			return Errorf(Unavailable, "the breakout room was only just opened, try again")
		}
		if err := req.place.refusal(r.isHost(req.Info.Identity, r.isTokenOf(req.hostOf()))); err != nil {
			return err
		}
	}
	switch {
	case req.forwarded() && old != nil: // it came since Forward looked, and is not replaced by its own shadow
		return r.taken(old)
	case r.rec.Config.Locked && !known && !r.returns(req):
		return Errorf(Denied, "room %q is locked", r.name)
	case !known && !dependent(req.Info) && r.full(req.out):
		return ErrRoomFull
	case old != nil && r.rooms.cfg.RejectDuplicates && !old.away && old.sid != req.Session:
		return r.taken(old)
	case r.unwritable():
		return ErrHeld
	}
	return r.refusedAgent(req)
}

// forwarded reports whether it is the join of a participant that is forwarded.
func (req *JoinRequest) forwarded() bool {
	_, is := req.Outlet.(nowhere)
	return is
}

// hostOf is the room that the token makes its bearer host of; "" = none.
func (req *JoinRequest) hostOf() string {
	if !req.Host {
		return ""
	}
	return cmp.Or(req.HostOf, req.Room)
}

// returnsWithin is how long ago a client lost its connection at most to be taken for one that
// returns.
const returnsWithin = 15 * time.Minute

// returns reports whether req's client was in the room a moment ago and lost its connection:
// in the newest session of its identity, so that nobody comes back by an older one after it
// has left, or was removed.
func (r *Room) returns(req *JoinRequest) bool {
	gone := r.lately(req.Info.Identity)
	return gone != nil && gone.SID == req.Session && gone.lost() && gone.ago(r.rooms.Now()) <= returnsWithin
}

// ago is how long ago the session ended: by the wall clock if that was in an earlier process,
// else however the wall clock was set since.
func (s *Session) ago(now Instant) time.Duration {
	if s.left != 0 {
		return time.Duration(now.Ms-s.left) * time.Millisecond
	}
	return time.Duration(now.WallMs-s.LeftMs) * time.Millisecond
}

// lost reports whether the session ended because its connection was lost.
func (s *Session) lost() bool {
	switch s.Reason {
	case livekit.DisconnectReason_MEDIA_FAILURE, livekit.DisconnectReason_SIGNAL_CLOSE, livekit.DisconnectReason_CONNECTION_TIMEOUT:
		return true
	}
	return false
}

// seat makes the participant: with a new session, or with back, its session of before a
// restart. previous is the last session of its identity; nil = there was none.
func (r *Room) seat(req *JoinRequest, back, previous *Session, now time.Time) (*Participant, []log.Event) {
	c := &Client{
		identity:      req.Info.Identity,
		attrs:         req.Client,
		outlet:        req.Outlet,
		protocol:      req.Protocol,
		autoSubscribe: req.AutoSubscribe,
		autoData:      req.AutoData,
		onChange:      req.OnChange,
		token:         req.Token,
		hostOf:        req.hostOf(),
	}
	p := r.newParticipant(c, luggage{
		info:          proto.CloneOf(req.Info),
		pendingTracks: make(map[string]*livekit.TrackInfo),
		pendingCIDs:   make(map[string]string),
		askedAgain:    make(map[string]*livekit.AddTrackRequest),
		mutedEarly:    make(map[string]bool),
		queued:        make(map[string]queuedTrack),
	}, now)
	if req.place.decided {
		p.host = req.place.host
	}
	p.at.Store(p)
	if previous == nil {
		previous = r.lately(p.identity)
	}
	if previous != nil {
		p.inherit(previous, previous == back, req.IssuedMs)
	}
	var events []log.Event
	if back != nil {
		events = r.takeUp(p, back, now)
	} else if !dependent(p.info) {
		r.rec.NumParticipants++
	} else if recorder(p.info) {
		r.recorded(1)
	}
	p.info.State = livekit.ParticipantInfo_JOINED
	return p, events
}

// newParticipant makes one of r's: a new session.
func (r *Room) newParticipant(c *Client, l luggage, now time.Time) *Participant {
	p := &Participant{
		Client: c, luggage: l, room: r,
		wanted: make(map[string]bool), subscribed: make(map[string]*track),
	}
	p.host = r.isHost(p.identity, r.hostByToken(c))
	p.info.Tracks, p.info.DataTracks, p.info.IsPublisher = nil, nil, false
	p.beSession(guid.New("PA_"), NowMs(now))
	return p
}

// beSession makes p the session of that SID.
func (p *Participant) beSession(sid string, joinedMs int64) {
	p.sid, p.joinedMs = sid, joinedMs
	p.info.Sid, p.info.JoinedAt, p.info.JoinedAtMs = sid, joinedMs/1000, joinedMs
}

// inherit gives p the decisions that were made in the previous session of its identity.
// p continues that session, replaces it, or joins after it left.
//
// A token from before a change of permission does not undo the change; a later token is
// a newer decision. A token's time in whole seconds may lie anywhere in its second: in
// the second of the change the change wins, unless the token's time has a fraction and
// is later. The same holds for name, metadata and attributes in a new session, but a
// participant that left by itself comes back as its token says. A session that goes on
// after a restart keeps them, because an app may make a new token for each connection
// without looking at them.
//
// Of a token that tells no time it is not known whether it is newer. It is a decision of its
// own only if its bearer had left.
//
// Data blobs go along with what goes on after a lost connection.
func (p *Participant) inherit(previous *Session, goesOn bool, issuedMs int64) {
	info := proto.CloneOf(previous.Info)
	if goesOn {
		p.blobs, p.blobsAhead = previous.blobs, previous.blobs
	} else if previous.LeftMs == 0 || previous.lost() {
		p.inheritBlobs(previous.blobs)
	}
	follows := goesOn || previous.LeftMs == 0 || previous.lost()
	if previous.PermittedMs > 0 && (issuedMs > 0 || follows) {
		p.permittedMs = max(previous.PermittedMs, issuedMs)
		if issuedMs <= previous.PermittedMs {
			p.info.Permission = info.GetPermission()
		}
	}
	if previous.EditedMs > 0 && follows {
		p.editedMs = previous.EditedMs
		if goesOn || issuedMs <= previous.EditedMs {
			p.info.Name, p.info.Metadata, p.info.Attributes = info.GetName(), info.GetMetadata(), info.GetAttributes()
		}
	}
}

// lately returns the newest session of that identity among the newest that left; nil if
// there is none.
func (r *Room) lately(identity string) *Session {
	for i := range slices.Backward(r.departed) {
		if r.departed[i].Identity == identity {
			return &r.departed[i]
		}
	}
	return nil
}

// unwritten is more than the changes of a participant that a process announces before one
// of them is on disk.
const unwritten = 1000

// takeUp continues the session back: its SID and times. The tracks of before the restart
// are gone. The room counted the session, or not, when it joined, and keeps to that.
func (r *Room) takeUp(p *Participant, back *Session, now time.Time) []log.Event {
	p.beSession(back.SID, back.JoinedMs)
	p.activeMs, p.mediaBefore = back.ActiveMs, back.Media
	// The clients may know of versions that the last process announced and did not write.
	// They ignore an info whose version seems older, so the version jumps ahead.
	p.info.Version = back.Info.GetVersion() + unwritten
	if back.Damaged { // its row does not tell what it is, and the token does
		r.miscounted(p.identity, back.Info, p.info)
	} else {
		p.info.Kind = back.Info.GetKind()
		before := back.Info.GetPermission()
		if p.info.Permission == nil {
			p.info.Permission = &livekit.ParticipantPermission{}
		}
		p.info.Permission.Agent, p.info.Permission.Recorder = before.GetAgent(), before.GetRecorder() // old tokens
	}
	var events []log.Event
	if publishes(back.Info) {
		r.rec.NumPublishers--
	}
	for _, t := range back.Info.GetTracks() {
		events = append(events, r.trackEvent(log.TrackUnpublished, back.Info, t, now))
	}
	return events
}

// miscounted counts a participant as what it is, and not as what it was taken for. If it was
// taken for an agent, or for a person, by mistake, then so was another one for the contrary.
func (r *Room) miscounted(identity string, taken, is *livekit.ParticipantInfo) {
	if dependent(taken) != dependent(is) {
		for _, s := range r.expected {
			if s.Damaged && s.Identity != identity && dependent(s.Info) == dependent(is) {
				s.Info.Kind = taken.Kind
				if recorder(is) {
					r.recorded(1)
				}
				return
			}
		}
	}
	if !dependent(taken) {
		r.rec.NumParticipants--
	}
	if !dependent(is) {
		r.rec.NumParticipants++
	} else if recorder(is) {
		r.recorded(1)
	}
}

// expectAgain puts p back among the expected: a participant that came back after a
// restart and was lost again before its media connected. That happens while a network or
// a busy machine recovers. It reports false if p has had media, or the grace is over.
func (r *Room) expectAgain(p *Participant) bool {
	if p.activeMs == 0 || p.info.State == livekit.ParticipantInfo_ACTIVE || r.alarms[alarmGrace].IsZero() {
		return false
	}
	s := p.session(r.rec.SID)
	r.expected[p.identity] = &s
	delete(r.participants, p.identity)
	r.withdrawAll(p)
	p.shut()
	r.calls.failFor(p)
	p.dismissShadows(livekit.DisconnectReason_SIGNAL_CLOSE)
	return true
}

// unseat takes back a join that could not be written.
func (r *Room) unseat(p *Participant, back *Session) {
	p.ended.Store(true)
	if back != nil {
		r.expected[p.identity] = back
		if r.alarms[alarmGrace].IsZero() { // the grace ran out meanwhile
			r.setAlarm(alarmGrace, time.Now().Add(r.rooms.cfg.RestartGrace))
		}
	}
	r.vacate(p)
}

// vacate removes p as if it had never come.
func (r *Room) vacate(p *Participant) {
	delete(r.participants, p.identity)
	r.recount()
	if r.rec.NumParticipants > 0 {
		return
	}
	r.rec.JoinedOnce = r.stored.JoinedOnce
	if r.rec.EmptySinceMs == 0 {
		r.rec.EmptySinceMs = r.stored.EmptySinceMs
		r.rec.SetDeadline()
	}
	r.judge()
}

// announceNew tells the others of p.
func (r *Room) announceNew(p *Participant) {
	if p.hidden() {
		return
	}
	r.tell(updateOf(p.snapshot()), func(q *Participant) bool { return q != p })
	r.setAlarm(alarmUpdate, time.Now().Add(updateDelay))
}
