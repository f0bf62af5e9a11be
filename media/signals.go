package media

import (
	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"

	"parlor/media/forward"
)

// Signals is how a peer speaks to its client, whatever signalling the client has:
// LiveKit's over a WebSocket (server/signal), or WHIP and WHEP over HTTP (RFC 9725).
// A peer is told by methods of its own what the client says.
//
// The calls must not block. They come from the peer's loop, in order, but for
// WantQualities and StreamState, which come from where packets are forwarded and may
// come at the same time as others.
type Signals interface {
	// Offer says our offer of the subscribing connection. The client answers it by
	// [Peer.HandleAnswer]. The same offer may come again, with the same ID, after
	// [Peer.Resume].
	Offer(d Description)
	// Answer says our answer to the client's offer of the same ID. Candidates of ours
	// are not in it.
	Answer(d Description)
	// Candidate says an ICE candidate of ours (trickle ICE, RFC 8838).
	Candidate(c Candidate)
	// WantSections asks for an offer of the only connection, with so many more sections
	// that take media; 0, 0 asks for an offer as it is.
	WantSections(audios, videos int)
	// WantQualities says which qualities of a track that the client publishes anybody
	// wants: the client need not send the others. Sound is told of if the client has
	// announced it in several codecs, by the names under which it announced them.
	WantQualities(trackSID string, kind livekit.TrackType, wanted []Wanted)
	// StreamState says that a track which is forwarded to the client begins to flow, or
	// stops.
	StreamState(publisherSID, trackSID string, state livekit.StreamState)
	// AskResume asks a client whose transports have failed to connect again and to
	// restart ICE.
	AskResume()
}

// Wanted is which qualities of a codec of a track anybody wants.
type Wanted = forward.Wanted

// Description is a session description (RFC 8866).
type Description struct {
	SDP string
	// ID tells which offer an answer belongs to; 0 if the client does not number its
	// own.
	ID uint32
	// Tracks are the SIDs of the tracks that we send, by the mid of their sections.
	// Clients' descriptions have none.
	Tracks map[string]string
}

// Connection is one of a peer's peer connections.
type Connection int

const (
	// Publishing is the connection that the client offers. In single mode it is the
	// only one.
	Publishing Connection = iota
	// Subscribing is the connection that we offer.
	Subscribing
)

// String is the connection's name in the log.
func (c Connection) String() string {
	if c == Subscribing {
		return "SUBSCRIBER"
	}
	return "PUBLISHER"
}

// Candidate is an ICE candidate of one of the connections. As JSON it is
// RTCIceCandidateInit (W3C WebRTC, 4.8.2).
type Candidate struct {
	webrtc.ICECandidateInit
	Connection Connection `json:"-"`
	// Final tells that no more candidates follow, until ICE restarts. What is final
	// without a candidate tells that alone.
	Final bool `json:"-"`
}
