package signal

import (
	"encoding/json"

	"github.com/livekit/protocol/livekit"

	"parlor/media"
	"parlor/rooms"
)

// speaker sends the messages of a participant's media to its client, in LiveKit's
// protocol. It implements [media.Signals].
type speaker struct {
	outlet   *outlet
	protocol int // the client's
}

var _ media.Signals = speaker{}

func (s speaker) send(resp *livekit.SignalResponse) { s.outlet.Send(rooms.NewMessage(resp)) }

// Offer implements [media.Signals].
func (s speaker) Offer(d media.Description) {
	s.send(&livekit.SignalResponse{Message: &livekit.SignalResponse_Offer{Offer: spoken("offer", d)}})
}

// Answer implements [media.Signals].
func (s speaker) Answer(d media.Description) {
	s.send(&livekit.SignalResponse{Message: &livekit.SignalResponse_Answer{Answer: spoken("answer", d)}})
}

func spoken(kind string, d media.Description) *livekit.SessionDescription {
	return &livekit.SessionDescription{Type: kind, Sdp: d.SDP, Id: d.ID, MidToTrackId: d.Tracks}
}

// heard is a client's session description; nil gives an empty one.
func heard(d *livekit.SessionDescription) media.Description {
	return media.Description{SDP: d.GetSdp(), ID: d.GetId()}
}

// Candidate implements [media.Signals].
func (s speaker) Candidate(c media.Candidate) {
	init, _ := json.Marshal(c) // strings and numbers can always be marshalled
	target := livekit.SignalTarget_PUBLISHER
	if c.Connection == media.Subscribing {
		target = livekit.SignalTarget_SUBSCRIBER
	}
	s.send(&livekit.SignalResponse{Message: &livekit.SignalResponse_Trickle{Trickle: &livekit.TrickleRequest{
		CandidateInit: string(init), Target: target, Final: c.Final,
	}}})
}

// heardCandidate is a client's ICE candidate. Malformed JSON is passed on as the
// candidate itself, which the peer refuses and counts.
func heardCandidate(r *livekit.TrickleRequest) media.Candidate {
	c := media.Candidate{Final: r.GetFinal()}
	if r.GetTarget() == livekit.SignalTarget_SUBSCRIBER {
		c.Connection = media.Subscribing
	}
	if err := json.Unmarshal([]byte(r.GetCandidateInit()), &c); err != nil && r.GetCandidateInit() != "" {
		c.ICECandidateInit.Candidate = r.GetCandidateInit()
	}
	return c
}

// WantSections implements [media.Signals].
func (s speaker) WantSections(audios, videos int) {
	s.send(&livekit.SignalResponse{Message: &livekit.SignalResponse_MediaSectionsRequirement{
		MediaSectionsRequirement: &livekit.MediaSectionsRequirement{NumAudios: uint32(audios), NumVideos: uint32(videos)},
	}})
}

// WantQualities implements [media.Signals].
func (s speaker) WantQualities(trackSID string, kind livekit.TrackType, wanted []media.Wanted) {
	if kind == livekit.TrackType_AUDIO {
		u := &livekit.SubscribedAudioCodecUpdate{TrackSid: trackSID}
		for _, w := range wanted {
			u.SubscribedAudioCodecs = append(u.SubscribedAudioCodecs, &livekit.SubscribedAudioCodec{
				Codec: w.Codec, Enabled: w.Highest != livekit.VideoQuality_OFF,
			})
		}
		s.send(&livekit.SignalResponse{Message: &livekit.SignalResponse_SubscribedAudioCodecUpdate{SubscribedAudioCodecUpdate: u}})
		return
	}
	u := &livekit.SubscribedQualityUpdate{TrackSid: trackSID}
	for _, w := range wanted {
		c := &livekit.SubscribedCodec{Codec: w.Codec}
		for q := livekit.VideoQuality_LOW; q <= livekit.VideoQuality_HIGH; q++ {
			c.Qualities = append(c.Qualities, &livekit.SubscribedQuality{Quality: q, Enabled: w.Has(q)})
		}
		u.SubscribedCodecs = append(u.SubscribedCodecs, c)
	}
	if len(u.SubscribedCodecs) > 0 {
		u.SubscribedQualities = u.SubscribedCodecs[0].Qualities // for older clients
	}
	s.send(&livekit.SignalResponse{Message: &livekit.SignalResponse_SubscribedQualityUpdate{SubscribedQualityUpdate: u}})
}

// StreamState implements [media.Signals].
func (s speaker) StreamState(publisherSID, trackSID string, state livekit.StreamState) {
	s.send(&livekit.SignalResponse{Message: &livekit.SignalResponse_StreamStateUpdate{
		StreamStateUpdate: &livekit.StreamStateUpdate{StreamStates: []*livekit.StreamStateInfo{{
			ParticipantSid: publisherSID, TrackSid: trackSID, State: state,
		}}},
	}})
}

// AskResume implements [media.Signals]. Clients before protocol 13 do not know the
// message.
func (s speaker) AskResume() {
	if s.protocol > 12 {
		s.send(&livekit.SignalResponse{Message: &livekit.SignalResponse_Leave{Leave: &livekit.LeaveRequest{
			Action: livekit.LeaveRequest_RESUME,
		}}})
	}
}
