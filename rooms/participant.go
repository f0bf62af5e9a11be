package rooms

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"

	"parlor/rooms/log"
)

// Participant is one session in a live room: the room's record of it. It is in that room
// alone, and belongs to the room's goroutine: what is exported of it is its [Client]'s,
// but for Enter.
type Participant struct {
	*Client
	room *Room
	sid  string

	ended    atomic.Bool              // nothing more is done for it: it has left, or was moved away
	presence atomic.Pointer[presence] // what data needs of it; nil = it neither sends nor receives any
	chat     chatSender               // of the goroutine that reads its reliable data

	// The rest belongs to the room's goroutine.

	luggage
	joinedMs    int64
	activeMs    int64
	admitted    bool                   // its join is on disk and was answered
	successors  []letter               // until then: joins under the same identity
	mediaBefore *MediaSummary          // how the session's media fared before a restart
	host        bool                   // it runs the room
	resumed     bool                   // it took up a session of before a restart
	wanted      map[string]bool        // by track SID: the client asked for the track, or asked not to have it
	subscribed  map[string]*track      // by track SID: forwarded to it
	dataTracks  map[uint16]*dataTrack  // that it publishes, by its own handles
	dataSources map[uint16]*dataSource // of those; replaced, never changed
	dataHandles map[uint16]*dataTrack  // that it is subscribed to, by the handles that it was given
	speaksUntil time.Time              // it is shown as speaking; see SimulateSpeaker
	unrated     bool                   // it subscribed to another participant since it was last told of qualities
	blobs       dataBlobs              // that it has stored and are on disk
	blobsAhead  dataBlobs              // as blobs will be when what is on its way to the disk is there
	shadows     []*Client              // its sessions in the rooms that it is forwarded to
}

// luggage is what a participant has that a move hands on to its successor.
type luggage struct {
	peer          Peer                                // nil before Enter
	info          *livekit.ParticipantInfo            // the working copy; what leaves is a clone of it
	permittedMs   int64                               // as in Session
	editedMs      int64                               // as in Session
	away          bool                                // its client's connection is lost and may be resumed
	awaySince     time.Time                           // since when its client has been away
	pendingTracks map[string]*livekit.TrackInfo       // by SID: announced, not negotiated
	pendingCIDs   map[string]string                   // cid → SID of the announced track
	askedAgain    map[string]*livekit.AddTrackRequest // by SID: announced a second time before it was negotiated
	mutedEarly    map[string]bool                     // by SID: what others decided of it before it was negotiated
	queued        map[string]queuedTrack              // by cid
	permissions   *audience                           // its subscription permission, as others are checked against it

	lastDataHandle uint16 // the newest handle that its client was given for a data track
}

// isAgent reports whether the participant is an agent by its token.
func isAgent(info *livekit.ParticipantInfo) bool {
	return info.GetKind() == livekit.ParticipantInfo_AGENT
}

// dependent reports whether the participant keeps no room open and is not counted.
func dependent(info *livekit.ParticipantInfo) bool {
	agent := info.GetKind() == livekit.ParticipantInfo_AGENT || info.GetPermission().GetAgent() // old tokens say it this way
	return agent || recorder(info)
}

// recorder reports whether a participant records the room.
func recorder(info *livekit.ParticipantInfo) bool {
	return info.GetKind() == livekit.ParticipantInfo_EGRESS || info.GetPermission().GetRecorder() // old tokens say it this way
}

// recorded notes that so many more recorders are in the room, or expected back.
func (r *Room) recorded(more int) {
	r.recorders += more
	r.rec.ActiveRecording = r.recorders > 0
}

func (p *Participant) hidden() bool { return p.info.GetPermission().GetHidden() }

// snapshot is a copy of p's info as of now. It must not be changed.
func (p *Participant) snapshot() *livekit.ParticipantInfo {
	return proto.CloneOf(p.info)
}

// session is p's row.
func (p *Participant) session(roomSID string) Session {
	return Session{
		SID:         p.sid,
		RoomSID:     roomSID,
		Identity:    p.identity,
		JoinedMs:    p.joinedMs,
		ActiveMs:    p.activeMs,
		Info:        p.snapshot(),
		PermittedMs: p.permittedMs,
		EditedMs:    p.editedMs,
		Host:        p.host,
		Media:       p.mediaSoFar(),
		blobs:       p.blobs,
	}
}

// shut closes p's media and marks the session as over.
func (p *Participant) shut() {
	p.ended.Store(true)
	p.presence.Store(nil)
	if p.peer != nil {
		p.peer.Close()
	}
}

// updateOf is the update that tells of participants.
func updateOf(infos ...*livekit.ParticipantInfo) *livekit.SignalResponse {
	return &livekit.SignalResponse{Message: &livekit.SignalResponse_Update{
		Update: &livekit.ParticipantUpdate{Participants: infos},
	}}
}

// announce sends p's new state to the room, p included; a hidden p's only to p.
func (r *Room) announce(p *Participant) {
	p.info.Version++
	if p.hidden() {
		p.outlet.Send(NewMessage(updateOf(p.snapshot())))
		return
	}
	r.tell(updateOf(p.snapshot()), nil)
}

// changed announces p's change and writes it as a fact.
func (r *Room) changed(p *Participant, events ...log.Event) {
	p.pay(time.Now())
	r.announce(p)
	r.fact([]Session{p.session(r.rec.SID)}, events)
	r.mirror(p)
}

// departure makes what is written when p leaves: its closed row and the closing events,
// each with the room's counts at that point. It changes nothing but those counts.
func (r *Room) departure(p *Participant, why livekit.DisconnectReason, now time.Time) (Session, []log.Event) {
	s := p.session(r.rec.SID)
	return r.absence(&s, why, now)
}

// absence is departure for a session that has only a row.
func (r *Room) absence(s *Session, why livekit.DisconnectReason, now time.Time) (Session, []log.Event) {
	gone := *s
	gone.LeftMs, gone.left, gone.Reason = NowMs(now), r.rooms.Now().Ms, why
	info := proto.CloneOf(s.Info)
	if info == nil { // only a damaged row has no info
		info = &livekit.ParticipantInfo{Sid: s.SID, Identity: s.Identity}
	}
	var events []log.Event
	if publishes(info) {
		r.rec.NumPublishers--
	}
	for _, t := range info.Tracks {
		events = append(events, r.trackEvent(log.TrackUnpublished, info, t, now))
	}
	if !dependent(info) {
		r.rec.NumParticipants--
	} else if recorder(info) {
		r.recorded(-1)
	}
	info.Tracks, info.DataTracks = nil, nil
	info.State = livekit.ParticipantInfo_DISCONNECTED
	info.DisconnectReason = why
	info.Version++
	gone.Info = info
	typ := log.ParticipantLeft
	if s.ActiveMs == 0 {
		typ = log.ParticipantAborted
	}
	return gone, append(events, r.participantEvent(typ, info, now))
}

func (r *Room) participantEvent(typ string, info *livekit.ParticipantInfo, now time.Time) log.Event {
	return log.New(&livekit.WebhookEvent{Event: typ, Room: r.rec.Info(), Participant: info}, now)
}

func (r *Room) trackEvent(typ string, info *livekit.ParticipantInfo, t *livekit.TrackInfo, now time.Time) log.Event {
	room := &livekit.Room{Sid: r.rec.SID, Name: r.rec.Name}
	if r.rooms.cfg.FullRoomInEvents {
		room = r.rec.Info()
	}
	return log.New(&livekit.WebhookEvent{
		Event:       typ,
		Room:        room,
		Participant: &livekit.ParticipantInfo{Sid: info.Sid, Identity: info.Identity},
		Track:       t,
	}, now)
}

// leave takes p out of the room: p's tracks are withdrawn, the others are told, p's row
// is closed. p's client gets say; nil if it cannot be reached.
func (r *Room) leave(p *Participant, why livekit.DisconnectReason, say *livekit.LeaveRequest) {
	if s, ok := r.remove(p, why, say); ok {
		r.tellGone(s.Info)
	}
}

// tellGone tells everybody that a participant has left.
func (r *Room) tellGone(info *livekit.ParticipantInfo) {
	if !info.GetPermission().GetHidden() {
		r.tell(updateOf(info), nil)
	}
}

// remove is leave without telling the others. It returns the closed row; false if p is
// not in the room.
func (r *Room) remove(p *Participant, why livekit.DisconnectReason, say *livekit.LeaveRequest) (Session, bool) {
	if r.participants[p.identity] != p {
		return Session{}, false
	}
	s := r.detach(p, why)
	if say != nil {
		p.outlet.Leave(say)
	}
	p.shut()
	r.log.Info("participant left", "participant", p.identity, "sid", p.sid, "reason", why,
		"after", time.Since(time.UnixMilli(p.joinedMs)).Round(time.Millisecond), slog.Group("client", p.attrs...))
	return s, true
}

// detach ends p's session: its subscribers lose its tracks, its row is closed. The others
// are yet to be told.
func (r *Room) detach(p *Participant, why livekit.DisconnectReason) Session {
	now := time.Now()
	p.ended.Store(true)
	p.presence.Store(nil)
	delete(r.participants, p.identity)
	s, events := r.departure(p, why, now)
	r.withdrawAll(p)
	r.calls.failFor(p)
	p.dismissShadows(why)
	r.remember(s)
	delete(r.speakers, p.sid)
	delete(r.quality, p.sid)
	r.judge()
	r.fact([]Session{s}, events)
	r.agentLeft(s.Info, why, now)
	r.setAlarm(alarmUpdate, now.Add(updateDelay))
	return s
}

// remember keeps s among the newest sessions that left.
func (r *Room) remember(s Session) {
	if !s.lost() {
		s.blobs = nil
	}
	r.departed = append(r.departed[max(0, len(r.departed)-MostDeparted+1):], s)
}

// withdrawAll ends p's tracks and p's subscriptions.
func (r *Room) withdrawAll(p *Participant) {
	had := make(map[*Participant]struct{}) // each may have had several
	for sid, t := range r.tracks {
		if t.publisher == p {
			for _, q := range r.withdraw(t) {
				had[q] = struct{}{}
			}
			delete(r.tracks, sid)
		}
		delete(t.subscribers, p.identity)
		delete(t.denied, p.identity)
	}
	r.withdrawDataOf(p)
	for q := range had {
		r.considerWaiting(q)
	}
}

// Leave ends the session: its client leaves, or the server sends it away.
func (c *Client) Leave(why livekit.DisconnectReason) {
	c.post(func(r *Room, p *Participant) {
		r.leave(p, why, &livekit.LeaveRequest{Reason: why, Action: livekit.LeaveRequest_DISCONNECT})
	})
}

// DefaultSignalGrace is longer than any LiveKit SDK tries to resume: the Go SDK tries for
// 86 s.
const DefaultSignalGrace = 2 * time.Minute

// SignalLost tells that the client's WebSocket is gone. A participant whose media was
// connected stays until [Config.SignalGrace] is over, whether its media still flows or
// not, and its client may resume. A participant without media is removed at once, unless
// a restart's grace still allows it to come back.
func (c *Client) SignalLost() {
	c.post(func(r *Room, p *Participant) {
		if p.outlet.Attached() { // it was quicker to come back than the news of its loss
			return
		}
		p.away, p.awaySince = true, time.Now()
		r.setAlarm(alarmAway, p.awaySince.Add(r.rooms.cfg.SignalGrace))
		if p.info.State != livekit.ParticipantInfo_ACTIVE && !r.expectAgain(p) {
			r.leave(p, livekit.DisconnectReason_SIGNAL_CLOSE, nil)
		}
	})
}

// endAway removes the participants that have been without signalling for too long.
func (r *Room) endAway(now time.Time) {
	for _, p := range r.participants {
		if !p.away || !p.admitted {
			continue
		}
		if until := p.awaySince.Add(r.rooms.cfg.SignalGrace); now.Before(until) {
			r.setAlarm(alarmAway, until)
			continue
		}
		r.leave(p, livekit.DisconnectReason_SIGNAL_CLOSE, nil)
	}
}

// allowPublisher tells the peer what its client may send.
func (r *Room) allowPublisher(p *Participant) {
	if p.peer != nil {
		perm := p.info.GetPermission()
		p.peer.SetPublisherAllowed(perm.GetCanPublish(), perm.GetCanPublishData())
		r.present(p)
	}
}

// Connected is called by the peer: the primary transport is up.
func (c *Client) Connected() {
	c.post(func(r *Room, p *Participant) {
		if p.info.State == livekit.ParticipantInfo_ACTIVE {
			return
		}
		now := time.Now()
		p.info.State = livekit.ParticipantInfo_ACTIVE
		r.setAlarm(alarmQuality, now.Add(qualityInterval))
		if p.activeMs != 0 { // taken up after a restart: participant_joined was written long ago
			r.changed(p, r.participantEvent(log.ParticipantResumed, p.snapshot(), now))
			return
		}
		p.activeMs = NowMs(now)
		r.announce(p)
		r.fact([]Session{p.session(r.rec.SID)}, []log.Event{r.participantEvent(log.ParticipantJoined, p.snapshot(), now)})
		r.setAlarm(alarmUpdate, now.Add(updateDelay))
	})
}

// Disconnected is called by the peer: the transports failed for good.
func (c *Client) Disconnected(why livekit.DisconnectReason) {
	c.post(func(r *Room, p *Participant) {
		r.leave(p, why, &livekit.LeaveRequest{Reason: why, Action: livekit.LeaveRequest_DISCONNECT})
	})
}

// NeedsReconnect is called by the peer: only a full reconnect helps this client.
func (c *Client) NeedsReconnect(why string) {
	c.post(func(r *Room, p *Participant) {
		r.log.Warn("participant must reconnect", "participant", p.identity, "why", why)
		r.leave(p, livekit.DisconnectReason_MEDIA_FAILURE, &livekit.LeaveRequest{
			CanReconnect: true,
			Reason:       livekit.DisconnectReason_MEDIA_FAILURE,
			Action:       livekit.LeaveRequest_RECONNECT,
		})
	})
}

// SyncState takes a resumed client's view of its state. Its subscriptions hold. If it
// publishes a track that the room does not know, it must reconnect in full.
func (c *Client) SyncState(s *livekit.SyncState) {
	c.post(func(r *Room, p *Participant) {
		for _, published := range s.GetPublishTracks() {
			sid := published.GetTrack().GetSid()
			if t := r.tracks[sid]; (t == nil || t.publisher != p) && p.pendingTracks[sid] == nil {
				p.NeedsReconnect(fmt.Sprintf("the client publishes a track that is not known: %.64q", sid))
				return
			}
		}
		for _, published := range s.GetPublishDataTracks() {
			if t := r.dataTracks[published.GetInfo().GetSid()]; t == nil || t.publisher != p {
				p.NeedsReconnect(fmt.Sprintf("the client publishes a data track that is not known: %.64q", published.GetInfo().GetSid()))
				return
			}
		}
		sub := s.GetSubscription()
		r.payAsked(p, len(sub.GetTrackSids()), 0)
		r.wantData(p, s.GetDataSubscription())
		// The client's list of unsubscribed tracks is ignored. SDKs list tracks there
		// that were published while the client was away, and the room already knows the
		// tracks that the client asked not to have.
		if sub.GetSubscribe() {
			r.payAsked(p, 0, r.want(p, sub.TrackSids, true))
		}
	})
}
