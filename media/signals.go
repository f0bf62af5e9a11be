package media

import (
	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"

	"parlor/media/forward"
)

// Signals is the interface by which a peer speaks to its client. Implementations use
// LiveKit's signalling over a WebSocket (server/signal), or WHIP and WHEP over HTTP (RFC
// 9725). Messages in the other direction are calls of the peer's methods.
//
// The calls must not block. The peer's loop makes them, in order, except for
// WantQualities and StreamState: the forwarding goroutines make those two, possibly at
// the same time as others.
type Signals interface {
	// Offer sends our offer for the subscribing connection. The client's answer arrives
	// by [Peer.HandleAnswer]. After [Peer.Resume] the same offer may be sent again with
	// the same ID.
	Offer(d Description)
	// Answer sends our answer to the client's offer of the same ID. It contains no
	// candidates of ours.
	Answer(d Description)
	// Candidate sends an ICE candidate of ours (trickle ICE, RFC 8838).
	Candidate(c Candidate)
	// WantSections asks for an offer for the only connection, with that many more
	// sections in which the client receives media; 0, 0 asks for an offer with the
	// present sections.
	WantSections(audios, videos int)
	// WantQualities says which qualities of a published track have subscribers: the
	// client need not send the others. It is called for sound only if the client has
	// announced it in several codecs, and then uses the client's names of the codecs.
	WantQualities(trackSID string, kind livekit.TrackType, wanted []Wanted)
	// StreamState says that a track which is forwarded to the client is now active or
	// paused.
	StreamState(publisherSID, trackSID string, state livekit.StreamState)
	// AskResume asks a client whose transports have failed to reconnect its signalling
	// and to restart ICE.
	AskResume()
}

// Wanted lists the qualities of a codec of a track that have subscribers.
type Wanted = forward.Wanted

// Description is a session description (RFC 8866).
type Description struct {
	SDP string
	// ID matches an answer to its offer; 0 if the client does not number its offers and
	// answers.
	ID uint32
	// Tracks are the SIDs of the tracks that we send, by the mid of their sections.
	// Descriptions of clients have none.
	Tracks map[string]string
}

// Connection is one of a peer's peer connections.
type Connection int

const (
	// Publishing is the connection for which the client makes the offers. In single mode
	// it is the only one.
	Publishing Connection = iota
	// Subscribing is the connection for which we make the offers.
	Subscribing
)

// String is the connection's name in the log.
func (c Connection) String() string {
	if c == Subscribing {
		return "SUBSCRIBER"
	}
	return "PUBLISHER"
}

// Candidate is an ICE candidate of one of the connections. Its JSON is
// RTCIceCandidateInit (W3C WebRTC, section 4.8.2).
type Candidate struct {
	webrtc.ICECandidateInit
	Connection Connection `json:"-"`
	// Final says that no more candidates follow until ICE restarts. A final Candidate may
	// be empty and say only that.
	Final bool `json:"-"`
}
