package rooms

import (
	"context"
	"crypto/sha256"
	"slices"
	"time"

	"github.com/livekit/protocol/livekit"
)

// Snapshot is a room as one participant may see it.
type Snapshot struct {
	Room   *livekit.Room
	Self   *livekit.ParticipantInfo
	Host   bool // it runs the room
	Others []*livekit.ParticipantInfo
	// SIFTrailer marks frames that the server made, so that an end-to-end encrypted
	// client does not try to decrypt them. It is a secret of the room that the
	// participant joined first.
	SIFTrailer []byte
	// Departed are the newest sessions that left: a client that resumes may not know it.
	Departed []*livekit.ParticipantInfo
	// Mutes are the mutes and unmutes that others decided of the participant's own
	// tracks: a client that resumes may not know them. They must be sent before Self: a
	// client that has not muted a track of its own, and finds it muted in Self, unmutes
	// it.
	Mutes []*livekit.MuteTrackRequest
	// Resumed tells that the participant took up its session of before a restart.
	Resumed bool
}

// Attach connects a participant's client. All that the room says from now on goes to the
// client, and what it said before is in the snapshot. It is called on the room's
// goroutine and must not block.
type Attach func(*Participant, Snapshot)

// Enter is the second half of a join. It attaches the participant's client and takes its
// peer, which the room then subscribes to the published tracks. When Enter returns, the
// peer has been asked for all of them. It fails if the session is over; then the caller
// closes the peer.
func (p *Participant) Enter(peer Peer, attach Attach) error {
	r := p.room
	_, err := ask(r, func(reply answer[struct{}]) {
		if p.ended.Load() {
			reply(struct{}{}, ErrNoParticipant)
			return
		}
		attach(p, r.snapshotFor(p))
		p.peer = peer
		r.allowPublisher(p)
		for _, t := range r.tracks {
			r.consider(p, t)
		}
		for _, t := range r.dataTracks {
			r.considerData(p, t)
		}
		reply(struct{}{}, nil)
	})
	if err != nil {
		return ErrNoParticipant
	}
	return nil
}

// Resume finds the participant of that identity for a client whose connection was lost,
// and attaches the client again. [ErrNoParticipant] means that only a full join helps.
//
// sessions are the SIDs by which the client names its session, in its request and in its
// token; "" counts as none. A client that names sessions other than the present one gets
// [ErrReplaced] if another client took the place of one of them, else
// [ErrNoParticipant]; the present session is left alone. A client that names none is
// known by its identity.
func (rs *Rooms) Resume(ctx context.Context, room, identity string, sessions []string, attach Attach) error {
	if rs.stopping.Load() {
		return ErrStopping
	}
	sessions = slices.DeleteFunc(slices.Clone(sessions), func(sid string) bool { return sid == "" })
	_, err := askParticipant(ctx, rs, room, identity, func(r *Room, p *Participant, reply answer[struct{}]) {
		if len(sessions) > 0 && !slices.Contains(sessions, p.sid) {
			reply(struct{}{}, r.whyNot(identity, sessions))
			return
		}
		if r.stopped || p.info.State != livekit.ParticipantInfo_ACTIVE {
			reply(struct{}{}, ErrNoParticipant)
			return
		}
		snap := r.snapshotFor(p)
		for _, gone := range r.departed {
			if r.participants[gone.Identity] == nil && !gone.Info.GetPermission().GetHidden() {
				snap.Departed = append(snap.Departed, gone.Info)
			}
		}
		snap.Mutes = r.mutesByOthers(p)
		p.away = false
		attach(p, snap)
		r.repeat(p)
		reply(struct{}{}, nil)
	})
	return err
}

// repeat tells p's client, which has resumed, what it may have missed and is not in the
// snapshot.
func (r *Room) repeat(p *Participant) {
	for sid, t := range r.tracks {
		if t.denied[p.identity] == p {
			allowed := p.info.GetPermission().GetCanSubscribe() && t.publisher.permissions.permit(p, sid)
			r.tellPermission(p, t.publisher, sid, allowed)
		}
	}
	r.repeatData(p)
	r.repeatSpeakers(p)
	p.unrated = true
	r.setAlarm(alarmQuality, time.Now())
}

// whyNot returns the error for a client of those sessions that asks for the present
// session of its identity.
func (r *Room) whyNot(identity string, sessions []string) error {
	for _, gone := range r.departed {
		if gone.Identity == identity && gone.Reason == livekit.DisconnectReason_DUPLICATE_IDENTITY && slices.Contains(sessions, gone.SID) {
			return ErrReplaced
		}
	}
	return ErrNoParticipant
}

// snapshotFor returns the room as p may see it.
func (r *Room) snapshotFor(p *Participant) Snapshot {
	s := Snapshot{Room: r.rec.Info(), Self: p.snapshot(), Host: p.host, SIFTrailer: p.sifTrailer, Resumed: p.resumed}
	for _, q := range r.participants {
		if q != p && q.admitted && !q.hidden() {
			s.Others = append(s.Others, q.snapshot())
		}
	}
	return s
}

// sifTrailer is derived from the room's stored secret, so that it is the same after a
// restart.
func (r *Room) sifTrailer() []byte {
	sum := sha256.Sum256([]byte("sif " + r.rec.SID + " " + r.rec.TurnPassword))
	return sum[:16]
}
