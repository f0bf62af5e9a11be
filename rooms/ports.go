package rooms

import (
	"sync"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"
)

// Message is a signalling message for one or many participants. It is immutable, and is
// marshalled once for all its receivers.
type Message struct {
	Response *livekit.SignalResponse

	once   sync.Once
	binary []byte
}

// NewMessage wraps r, which must not be changed afterwards.
func NewMessage(r *livekit.SignalResponse) *Message { return &Message{Response: r} }

// Binary is the message, marshalled as protobuf.
func (m *Message) Binary() []byte {
	m.once.Do(func() { m.binary, _ = proto.Marshal(m.Response) }) // our own message, valid by construction
	return m.binary
}

// Outlet is a participant's way to its client. It outlives the client's connections:
// while none is attached, messages are dropped, because each new connection begins with
// the whole state (see [Attach] and [Rooms.Resume]). Its methods never block and may be
// called concurrently. Messages leave in the order in which they were sent.
type Outlet interface {
	// Send queues m. A client that reads too slowly for its bounded queue is cut off, and
	// resumes; so a false result needs no action.
	Send(m *Message) bool
	// Leave sends the leave message and closes the connection for good.
	Leave(l *livekit.LeaveRequest)
	// Attached reports whether the client is connected now.
	Attached() bool
}

// MediaTrack is a published track's media, as the domain sees it. Package media makes it,
// and gets it back in a [Subscription].
type MediaTrack interface {
	// SID is the track's TR_… id.
	SID() string
	// AudioLevel is the smoothed level, 0 (silence) to 1, and whether it counts as
	// speaking by LiveKit's rule. Always 0, false for video.
	AudioLevel() (level float32, speaking bool)
}

// Subscription asks a subscriber's [Peer] to forward a track.
type Subscription struct {
	Track             MediaTrack
	Info              *livekit.TrackInfo // snapshot at the time of subscribing
	PublisherSID      string
	PublisherIdentity string
	// SyncStreams: the publisher's tracks with the same TrackInfo.stream share a media
	// stream id.
	SyncStreams bool
	// Playout delay bounds in ms for the subscriber; both 0 = none.
	MinPlayoutDelay, MaxPlayoutDelay uint32
	// Trailer ends the frames that the server makes in an end-to-end encrypted track
	// (JoinResponse.sif_trailer).
	Trailer []byte
}

// Announcement is what a client says of a track before it sends it. The peer needs it to
// find the track's media section and to negotiate the codecs.
type Announcement struct {
	CID string // the client's id of the track, by which its SDP names the section; "" if it gives none
	// Codecs are the codecs that the client will send, the primary one first; none = not
	// said.
	Codecs     []AnnouncedCodec
	DisableRED bool
	Backup     livekit.BackupCodecPolicy
}

// AnnouncedCodec is a codec of an [Announcement].
type AnnouncedCodec struct {
	Codec string // "vp8" or "video/VP8"
	CID   string // of the section in which it is sent; "" until then
}

// TrackSettings tells how a subscriber shows a track.
type TrackSettings struct {
	Disabled bool // not at all
	// Quality counts when Width and Height are 0.
	Quality livekit.VideoQuality
	// Width and Height in pixels at which the video is shown.
	Width, Height uint32
	// FPS is the highest useful frame rate, 0 = any.
	FPS uint32
	// Priority: where bandwidth is short, 1 comes first among tracks of the same kind, and
	// 0, which is none, last.
	Priority uint32
}

// Peer is what a room asks of a participant's media: its transports, its tracks, and its
// subscriptions. Package media implements it. Its methods never block, and take effect in
// the order of the calls.
type Peer interface {
	// AddTrack announces a track that the client may now publish, or a further codec of
	// one. The peer finds the media section by the cids in a. When the section is
	// negotiated the peer calls [PeerEvents.TrackPublished].
	AddTrack(a Announcement, t *livekit.TrackInfo)
	// UpdateTrack tells the present state of an announced or published track. A muted
	// track is not forwarded.
	UpdateTrack(t *livekit.TrackInfo)
	// RemoveTrack stops a published or announced track for good. Packets that the client
	// still sends are dropped. No TrackUnpublished follows.
	RemoveTrack(trackSID string)
	// SetPublisherAllowed sets whether media and data from the client are accepted from
	// now on.
	SetPublisherAllowed(media, data bool)

	// Subscribe begins to forward s.Track to this peer; a second call for the same track
	// does nothing. Forwarding ends with Unsubscribe, or with the track.
	Subscribe(s Subscription)
	// Unsubscribe ends forwarding of the track to this peer.
	Unsubscribe(trackSID string)
	// SetTrackSettings says how the client shows tracks that are forwarded to it.
	SetTrackSettings(trackSIDs []string, s TrackSettings)

	// SendData sends an encoded livekit.DataPacket on the channel of that kind. The
	// receivers share the bytes. from is the sender's peer, and is slowed down while too
	// much of its reliable data waits; nil is the server. A packet that cannot be sent in
	// time is dropped by the channel's rule and counted.
	SendData(from Peer, kind livekit.DataPacket_Kind, packet []byte)
	// SendDataTrack sends a packet of a data track, which is the caller's again when the
	// call returns. What cannot be sent in time is dropped and counted.
	SendDataTrack(packet []byte)

	// Quality is the connection's quality over the last seconds, and its score
	// (LiveKit's, up to 5).
	Quality() (livekit.ConnectionQuality, float32)
	// Summary is how the media has fared since it was connected, or since BeginSummary;
	// nil while that is not known.
	Summary() *MediaSummary
	// BeginSummary: what comes from now on belongs to another session.
	BeginSummary()

	// Close closes the transports without waiting.
	Close()
}

// PeerEvents is what a peer tells its room. The calls never block; Data, Message and
// DataTrack deliver to the receivers on the caller's goroutine.
type PeerEvents interface {
	// Connected: the primary transport is up (ICE and DTLS), for the first time.
	Connected()
	// Disconnected: the transports failed for good, since ICE failed and no restart came.
	Disconnected(reason livekit.DisconnectReason)
	// NeedsReconnect: negotiation failed or timed out; only a full reconnect helps.
	NeedsReconnect(why string)
	// TrackPublished: the client's section for an announced track is negotiated. It is
	// called again with the same t when more is known (the layers' SSRCs), and with
	// another t when the track turns out to have another codec. The facts are complete
	// each time.
	TrackPublished(t MediaTrack, facts TrackFacts)
	// TrackUnpublished: the section of a published or announced track has ended. The
	// client must announce the track again before it sends it.
	TrackUnpublished(trackSID string)
	// Subscribed: the subscription's section is negotiated, or its first packet is on its
	// way.
	Subscribed(trackSID string)
	// SubscriptionFailed: the track cannot be forwarded to this peer.
	SubscriptionFailed(trackSID string, why livekit.SubscriptionError)
	// Data: the client sent an encoded DataPacket on a channel of that kind. The callee
	// may keep the bytes. Calls of one kind come one after another.
	Data(kind livekit.DataPacket_Kind, packet []byte)
	// Message: the client sent on a channel with a label of its own.
	Message(payload []byte)
	// DataTrack: the client sent a packet on the channel of data tracks. The bytes are
	// the callee's until it returns.
	DataTrack(packet []byte)
}
