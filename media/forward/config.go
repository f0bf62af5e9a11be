package forward

import (
	"log/slog"
	"strings"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"

	"parlor/media/downlink"
	"parlor/media/forward/packet"
)

// Codec is a payload format as negotiated on one side.
type Codec struct {
	MimeType       string // with its kind, as in SDP; for example "video/VP8"
	ClockRate      uint32 // Hz
	Channels       uint16 // 0 for video
	Fmtp           string // format parameters as in SDP
	PayloadType    uint8
	RTXPayloadType uint8 // 0 = not negotiated
}

// family is a codec, as far as the packet path distinguishes codecs.
type family uint8

const (
	otherCodec family = iota
	opus
	redundant
	vp8Codec
	vp9Codec
	h264Codec
	h265Codec
	av1Codec
	pcmu
	pcma
)

func (c Codec) family() family {
	switch strings.ToLower(c.MimeType) {
	case "audio/opus":
		return opus
	case "audio/red":
		return redundant
	case "video/vp8":
		return vp8Codec
	case "video/vp9":
		return vp9Codec
	case "video/h264":
		return h264Codec
	case "video/h265":
		return h265Codec
	case "video/av1":
		return av1Codec
	case "audio/pcmu":
		return pcmu
	case "audio/pcma":
		return pcma
	}
	return otherCodec
}

// opusLike reports whether the codec is Opus, or RED, which carries Opus.
func (f family) opusLike() bool { return f == opus || f == redundant }

// like reports whether packets of codec c count as packets of codec o. Opus and RED can
// be turned into each other, so neither is a backup of the other.
func (c Codec) like(o Codec) bool {
	return strings.EqualFold(c.MimeType, o.MimeType) || c.family().opusLike() && o.family().opusLike()
}

// rate is the clock rate, for arithmetic.
func (c Codec) rate() int64 { return int64(max(c.ClockRate, 1)) }

// redPrimary is the payload type of the primary encoding that the parameters of a RED
// codec name ("111/111", RFC 2198, section 5); -1 if unknown.
func (c Codec) redPrimary() int {
	first, _, _ := strings.Cut(c.Fmtp, "/")
	n := 0
	if first == "" || len(first) > 3 {
		return -1
	}
	for _, d := range first {
		if d < '0' || d > '9' {
			return -1
		}
		n = n*10 + int(d-'0')
	}
	if n > 127 {
		return -1
	}
	return n
}

// carries reports whether packets of codec c can be forwarded to a receiver of codec to.
func (c Codec) carries(to Codec) bool {
	if strings.EqualFold(c.MimeType, to.MimeType) {
		return true
	}
	switch from := c.family(); to.family() {
	case opus:
		return from == redundant
	case redundant:
		return from == opus && to.redPrimary() >= 0
	}
	return false
}

// Extensions are the ids of the RTP header extensions that were negotiated on one side
// (RFC 8285); 0 = not negotiated.
type Extensions struct {
	AudioLevel, AbsSendTime, TransportCC, MID, RID, RepairedRID, DependencyDescriptor,
	AbsCaptureTime, PlayoutDelay, VideoOrientation, FrameMarking uint8
}

// known are the ids of the extensions that the packet path reads.
func (e Extensions) known() (m packet.ExtensionMap) {
	m.Set(e.AudioLevel, packet.ExtAudioLevel)
	m.Set(e.TransportCC, packet.ExtTransportCC)
	m.Set(e.DependencyDescriptor, packet.ExtDependencyDescriptor)
	m.Set(e.AbsCaptureTime, packet.ExtAbsCaptureTime)
	m.Set(e.PlayoutDelay, packet.ExtPlayoutDelay)
	m.Set(e.VideoOrientation, packet.ExtVideoOrientation)
	return m
}

// TrackConfig configures a [Track].
type TrackConfig struct {
	SID               string
	PublisherIdentity string
	Kind              livekit.TrackType
	// Codec is the preferred codec. Each layer has its own.
	Codec Codec
	Log   *slog.Logger
	// OnQualities reports which qualities of which codecs have subscribers. A higher
	// demand is reported at once, a lower one when it has lasted 5 s; before the first
	// subscriber the publisher is told after 10 s that there is none. Sound has one
	// quality for each codec, HIGH, and RED counts as Opus. For sound, Codec is always
	// reported as wanted, because its level shows which participants speak, unless the
	// track has regressed. OnQualities may be nil.
	OnQualities func([]Wanted)
	// RegressBelow is the number of forwarders below which a track regresses. When a
	// layer in a second codec is added to a track with fewer forwarders, subscribers that
	// can receive either codec get the second, so that the publisher need not send the
	// first.
	RegressBelow int

	// Voice is shared by the tracks of one publisher: if bandwidth is short, the video of
	// a speaker comes before that of others. Nil disables this.
	Voice *Voice

	// Totals count the traffic of the track; may be nil.
	Totals *Totals

	// Pool provides buffers for packets. If it is nil, the track makes its own.
	Pool *packet.Pool
}

// LayerConfig configures a [Layer].
type LayerConfig struct {
	RID string
	// SSRC is the expected SSRC; 0 takes that of the first packet. A packet with another
	// SSRC restarts the layer.
	SSRC  uint32
	Codec Codec
	Ext   Extensions
	// Quality ranks the layers of a track.
	Quality livekit.VideoQuality
	// WriteRTCP sends RTCP to the publisher. It may be called concurrently.
	WriteRTCP func([]rtcp.Packet) error
	// TWCC records arrivals when TransportCC is negotiated; may be nil.
	TWCC *TWCC
	// REMB records arrivals of a client that takes no TWCC; may be nil.
	REMB *REMB

	// NoNACK: lost packets are not asked for.
	NoNACK bool
	// FIR: ask for key frames with FIR (RFC 5104 4.3.1) because PLI was not
	// negotiated.
	FIR bool
}

// Repeatable is how many of a forwarder's last packets can be retransmitted at most: as many as
// a layer has of video, more than a second of 800 packets a second, and one or two seconds of
// audio. A forwarder remembers as many as two seconds need.
func Repeatable(video bool) int {
	if video {
		return videoCache
	}
	return 64
}

// ForwarderConfig configures a [Forwarder]. The callbacks must not call methods of the
// forwarder or its track.
type ForwarderConfig struct {
	SubscriberSID string
	SSRC          uint32
	RTXSSRC       uint32 // 0: retransmissions use SSRC
	// Codec is the codec that was negotiated with this subscriber.
	Codec Codec
	// Backup is a second negotiated codec, for when the track regresses to it; zero:
	// there is none. It has RTX if Codec has. Its clock rate may differ.
	Backup Codec
	Ext    Extensions
	// StreamFeedback: the subscriber reports on packets by SSRC and sequence number
	// (RFC 8888).
	StreamFeedback bool
	// Aside: the output is not a subscriber. It gets no substitute frames while the track
	// is muted, and the totals do not count it.
	Aside bool
	// CanPause: video may be paused when not even its lowest layer fits. Otherwise that
	// layer is sent all the same.
	CanPause bool
	// AdaptiveStream: the client will say at which size it shows the video, and gets the
	// lowest quality until then. Otherwise it begins with the highest.
	AdaptiveStream bool
	// Output takes the packets. Required. If there is a Downlink, it writes the packets
	// to Output.
	Output Output
	// OnFirstPacket is called once; may be nil.
	OnFirstPacket func()
	// OnStreamState reports that video starts, is paused for want of bandwidth, or
	// resumes; may be nil.
	OnStreamState func(livekit.StreamState)
	// The bounds of the playout delay in ms; if both are 0, the publisher's apply.
	MinPlayoutDelay, MaxPlayoutDelay uint32
	CNAME                            string
	// Trailer is appended to substitute frames in a track that is encrypted end to end,
	// so that clients know that these are not encrypted. It is empty for other tracks.
	Trailer []byte
	// Downlink is shared by all forwarders to one subscriber. If it is nil, packets leave
	// at once.
	Downlink *downlink.Path
}

// Settings are a subscriber's wishes for a track.
type Settings struct {
	Disabled bool
	// Quality applies when Width and Height are 0.
	Quality livekit.VideoQuality
	// Width and Height are the size at which the video is shown, in pixels.
	Width, Height uint32
	// FPS is the highest useful frame rate; 0 = any.
	FPS uint32
	// Priority: if bandwidth is short, tracks with a Priority come before those without,
	// and that of the lowest number first; 0 = none. Screen shares and speakers come before.
	Priority uint32
}
