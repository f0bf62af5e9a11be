package rooms

import (
	"sync"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"
)

// Message is a signalling message for one or many participants. It is immutable
// once made; it is marshalled once for all who receive it.
type Message struct {
	Response *livekit.SignalResponse

	once   sync.Once
	binary []byte
}

// NewMessage wraps r, which must not be changed afterwards.
func NewMessage(r *livekit.SignalResponse) *Message { return &Message{Response: r} }

// Binary is the message as protobuf.
func (m *Message) Binary() []byte {
	m.once.Do(func() { m.binary, _ = proto.Marshal(m.Response) }) // our own message, valid by construction
	return m.binary
}

// Outlet is a participant's way to its client. It outlives the client's
// connections: while none is attached, what is sent is dropped, since each begins with
// the whole state (see [Attach] and [Rooms.Resume]). Its methods never block and may be called
// concurrently; messages leave in the order in which they were sent.
type Outlet interface {
	// Send queues m. A client that is too slow for its bounded queue is cut off
	// (it resumes), so a false result needs no action.
	Send(m *Message) bool
	// Leave sends the leave message and closes the connection for good.
	Leave(l *livekit.LeaveRequest)
	// Attached reports whether the client is connected now.
	Attached() bool
}

// MediaTrack is a published track's media, as the domain sees it. The media
// package makes them and is given them back in [Subscription].
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
	// SyncStreams: tracks of one TrackInfo.stream share a media stream id.
	SyncStreams bool
	// Playout delay bounds in ms to send to the subscriber; both 0 = none.
	MinPlayoutDelay, MaxPlayoutDelay uint32
	// Trailer ends the frames that the server makes in a track that is encrypted end
	// to end (JoinResponse.sif_trailer).
	Trailer []byte
}

// Announcement is what a client says of a track before it sends it, as its peer has to
// know it to find the track's media section and to negotiate it.
type Announcement struct {
	CID string // the client's name of the section; "" if it says none
	// Codecs are those that it will send, the first first; none = it has not said.
	Codecs     []AnnouncedCodec
	DisableRED bool
	Backup     livekit.BackupCodecPolicy
}

// AnnouncedCodec is a codec of an [Announcement].
type AnnouncedCodec struct {
	Codec string // "vp8" or "video/VP8"
	CID   string // of the section that it is sent in; "" until it is sent
}

// TrackSettings is how a subscriber shows a track.
type TrackSettings struct {
	Disabled bool // not at all
	// Quality counts when Width and Height are 0.
	Quality livekit.VideoQuality
	// Width and Height in pixels at which the video is shown.
	Width, Height uint32
	// FPS is the highest useful frame rate, 0 = any.
	FPS uint32
	// Priority: where not all fits, a track of more comes first among its like.
	Priority uint32
}

// Peer is what a room asks of a participant's media: of its transports, of what
// it publishes, and of what is forwarded to it. The media package implements
// it. Its methods never block; what they ask for happens in the order asked.
type Peer interface {
	// AddTrack announces a track that the client may now publish, or a further codec
	// of it: the peer matches it with a media section by the cids in a. When the
	// section is negotiated the peer calls [PeerEvents.TrackPublished].
	AddTrack(a Announcement, t *livekit.TrackInfo)
	// UpdateTrack tells what an announced or published track is now. The peer stops
	// or resumes forwarding of it as it is muted or not.
	UpdateTrack(t *livekit.TrackInfo)
	// RemoveTrack stops a published or announced track for good: whatever its
	// client still sends is dropped. No TrackUnpublished follows.
	RemoveTrack(trackSID string)
	// SetPublisherAllowed refuses (false) whatever media or data channel the
	// client sends from now on.
	SetPublisherAllowed(media, data bool)

	// Subscribe begins to forward s.Track to this peer; a second call for the
	// same track does nothing. It ends with Unsubscribe, or when the track ends.
	Subscribe(s Subscription)
	// Unsubscribe ends forwarding of the track to this peer.
	Unsubscribe(trackSID string)
	// SetTrackSettings says how the client shows tracks that are forwarded to it.
	SetTrackSettings(trackSIDs []string, s TrackSettings)

	// SendData sends an encoded livekit.DataPacket on the channel of that kind;
	// its receivers share the bytes. from is the peer of the sender, which is made
	// to wait while too much of its reliable data has not been taken; nil is the
	// server. What cannot be sent in time is dropped by the channel's rule and
	// counted.
	SendData(from Peer, kind livekit.DataPacket_Kind, packet []byte)
	// SendDataTrack sends a packet of a data track; its receivers share the bytes.
	// What cannot be sent at once is dropped and counted.
	SendDataTrack(packet []byte)

	// Quality is the connection's quality as of the last seconds.
	Quality() (livekit.ConnectionQuality, float32)

	// Close ends the transports and waits for nothing.
	Close()
}

// PeerEvents is what a peer tells its room. The calls never block: Data, Message and
// DataTrack bring what came to its receivers on the caller's goroutine.
type PeerEvents interface {
	// Connected: the primary transport is up (ICE and DTLS), for the first time.
	Connected()
	// Disconnected: the transports failed for good (ICE failed and no restart
	// came). reason tells which.
	Disconnected(reason livekit.DisconnectReason)
	// NeedsReconnect: negotiation failed or timed out; only a full reconnect helps.
	NeedsReconnect(why string)
	// TrackPublished: the client's section for an announced track is negotiated. It
	// comes again, with the same t, when more is known (layers' SSRCs), and with
	// another when the track turns out to be of another codec. The facts are all that
	// is known then.
	TrackPublished(t MediaTrack, facts TrackFacts)
	// TrackUnpublished: the client's section ended, that of an announced track too;
	// what is sent next needs another AddTrack.
	TrackUnpublished(trackSID string)
	// Subscribed: the first packet, or the negotiated section, of a subscription
	// is on its way to this peer.
	Subscribed(trackSID string)
	// SubscriptionFailed: the track cannot be forwarded to this peer.
	SubscriptionFailed(trackSID string, why livekit.SubscriptionError)
	// Data: the client sent an encoded DataPacket on a channel of that kind. The
	// bytes are the callee's. Calls of one kind come one after another.
	Data(kind livekit.DataPacket_Kind, packet []byte)
	// Message: the client sent on a channel with a label of its own.
	Message(payload []byte)
	// DataTrack: the client sent a packet on the channel of data tracks.
	DataTrack(packet []byte)
}
