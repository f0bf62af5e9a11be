package rooms

import (
	"context"
	"slices"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"
)

// Forward shows a participant and its tracks in a second room too, until the participant
// leaves its own room. The second room is opened if need be. There the participant is a
// session of the same identity without a client: it receives nothing, and API calls in
// the second room do not reach the client. A restart ends the forwarding; the session
// then leaves when the restart's grace is over.
func (rs *Rooms) Forward(ctx context.Context, req *livekit.ForwardParticipantRequest) error {
	if err := rs.checkRoomName(req.DestinationRoom); err != nil {
		return err
	}
	if req.DestinationRoom == req.Room {
		return Errorf(Invalid, "the destination is the room that the participant is in")
	}
	p, err := askParticipant(ctx, rs, req.Room, req.Identity, func(_ *Room, p *Participant, reply answer[*Participant]) {
		reply(p, nil)
	})
	if err != nil {
		return err
	}
	place, err := rs.standing(ctx, req.DestinationRoom, req.Identity)
	if err != nil {
		return err
	}
	if _, err := rs.hasRoomFor(ctx, req.DestinationRoom, &passage{from: p, place: place}, false); err != nil {
		return err
	}
	info, err := rs.Participant(ctx, req.Room, req.Identity)
	if err != nil {
		return err
	}
	info = proto.CloneOf(info)
	info.KindDetails = append(info.KindDetails, livekit.ParticipantInfo_FORWARDED)
	shadow, _, err := rs.Join(ctx, JoinRequest{
		Room: req.DestinationRoom, Info: info, MayCreate: true, IssuedMs: info.JoinedAtMs, Outlet: nowhere{},
	})
	if err != nil {
		return err
	}
	if err := shadow.Enter(absent{}, func(*Participant, Snapshot) {}); err != nil {
		return err
	}
	shadow.Connected()
	_, err = askParticipant(ctx, rs, req.Room, req.Identity, func(r *Room, now *Participant, reply answer[struct{}]) {
		if now != p {
			reply(struct{}{}, ErrNoParticipant)
			return
		}
		p.shadows = append(p.shadows, shadow.Client)
		r.mirror(p)
		reply(struct{}{}, nil)
	})
	if err != nil {
		shadow.Leave(livekit.DisconnectReason_PARTICIPANT_REMOVED)
	}
	return err
}

// mirror brings p's shadows in other rooms up to date with p.
func (r *Room) mirror(p *Participant) {
	if len(p.shadows) == 0 {
		return
	}
	p.shadows = slices.DeleteFunc(p.shadows, (*Client).Ended)
	var tracks []reflection
	for _, t := range r.tracks {
		if t.publisher == p {
			tracks = append(tracks, reflection{t.media, t.info})
		}
	}
	var data []dataReflection
	for _, t := range p.dataTracks {
		data = append(data, dataReflection{t.info, t.source})
	}
	info, may, blobs := p.snapshot(), p.permissions, p.blobs
	for _, s := range p.shadows {
		s.post(func(d *Room, s *Participant) {
			d.permit(s, may) // before the tracks, so that nobody is subscribed without permission
			d.reflect(s, info, tracks)
			d.reflectData(s, data)
			s.blobs = blobs
		})
	}
}

// dismissShadows ends p's shadows, because p has left.
func (p *Participant) dismissShadows(why livekit.DisconnectReason) {
	for _, s := range p.shadows {
		s.Leave(why)
	}
	p.shadows = nil
}

// reflection is a track of another room.
type reflection struct {
	media MediaTrack
	info  *livekit.TrackInfo
}

// reflect updates s, a shadow in r, from info and tracks: the participant that s shows,
// and what that participant publishes in its own room.
func (r *Room) reflect(s *Participant, info *livekit.ParticipantInfo, tracks []reflection) {
	wasHidden := s.hidden()
	may := proto.CloneOf(info.GetPermission())
	if may == nil {
		may = &livekit.ParticipantPermission{}
	}
	// The room counted s, or not, by these fields when it was forwarded.
	may.Agent, may.Recorder = s.info.GetPermission().GetAgent(), s.info.GetPermission().GetRecorder() // old tokens
	s.info.Permission = may
	r.enforce(s, wasHidden)
	for _, t := range r.tracks {
		if t.publisher == s && !slices.ContainsFunc(tracks, func(k reflection) bool { return k.info.Sid == t.info.Sid }) {
			r.unpublish(t)
		}
	}
	for _, k := range tracks {
		if t := r.tracks[k.info.Sid]; t == nil {
			r.publish(s, k.media, k.info)
		} else if t.publisher == s {
			r.setInfo(t, k.info)
			if t.media != k.media {
				r.replaceMedia(t, k.media)
			}
		}
	}
	s.info.Name, s.info.Metadata, s.info.Attributes = info.Name, info.Metadata, info.Attributes
	r.changed(s)
}

// nowhere is the outlet of a shadow. A shadow has no client.
type nowhere struct{}

func (nowhere) Send(*Message) bool          { return true }
func (nowhere) Leave(*livekit.LeaveRequest) {}
func (nowhere) Attached() bool              { return true }

// absent is the peer of a shadow. A shadow has no media of its own.
type absent struct{}

func (absent) AddTrack(Announcement, *livekit.TrackInfo)      {}
func (absent) UpdateTrack(*livekit.TrackInfo)                 {}
func (absent) RemoveTrack(string)                             {}
func (absent) SetTrackSettings([]string, TrackSettings)       {}
func (absent) SetPublisherAllowed(bool, bool)                 {}
func (absent) Subscribe(Subscription)                         {}
func (absent) Unsubscribe(string)                             {}
func (absent) SendData(Peer, livekit.DataPacket_Kind, []byte) {}
func (absent) SendDataTrack([]byte)                           {}
func (absent) Close()                                         {}
func (absent) Quality() (livekit.ConnectionQuality, float32) {
	return livekit.ConnectionQuality_EXCELLENT, 5
}
func (absent) Summary() *MediaSummary { return nil }
func (absent) BeginSummary()          {}
