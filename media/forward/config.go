package forward

import (
	"log/slog"
	"strings"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"

	"parlor/media/forward/packet"
)

// Codec is a payload format as negotiated on one side.
type Codec struct {
	MimeType       string // as in SDP with its kind, for example "video/VP8"
	ClockRate      uint32 // Hz
	Channels       uint16 // 0 for video
	Fmtp           string // format parameters as in SDP
	PayloadType    uint8
	RTXPayloadType uint8 // 0 = not negotiated
}

// family is what the packet path needs to know of a codec.
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

// opusLike tells Opus and what carries it: RED.
func (f family) opusLike() bool { return f == opus || f == redundant }

// like reports whether packets of codec c count as packets of codec o: RED and Opus
// are turned into one another, so that neither is a backup of the other.
func (c Codec) like(o Codec) bool {
	return strings.EqualFold(c.MimeType, o.MimeType) || c.family().opusLike() && o.family().opusLike()
}

// rate is the clock rate, for arithmetic.
func (c Codec) rate() int64 { return int64(max(c.ClockRate, 1)) }

// redPrimary is the payload type of the primary encoding that a RED codec's
// parameters name ("111/111", RFC 2198 section 5), -1 when unknown.
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

// carries reports whether packets of codec c can be forwarded to a receiver of
// codec to.
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

// Extensions are the ids of the RTP header extensions negotiated on one side
// (RFC 8285); 0 = not negotiated.
type Extensions struct {
	AudioLevel, AbsSendTime, TransportCC, MID, RID, RepairedRID, DependencyDescriptor,
	AbsCaptureTime, PlayoutDelay, VideoOrientation, FrameMarking uint8
}

// known is the part of the extensions that is read from packets.
func (e Extensions) known() (m packet.ExtensionMap) {
	m.Set(e.AudioLevel, packet.ExtAudioLevel)
	m.Set(e.TransportCC, packet.ExtTransportCC)
	m.Set(e.DependencyDescriptor, packet.ExtDependencyDescriptor)
	m.Set(e.AbsCaptureTime, packet.ExtAbsCaptureTime)
	m.Set(e.PlayoutDelay, packet.ExtPlayoutDelay)
	m.Set(e.VideoOrientation, packet.ExtVideoOrientation)
	return m
}

// TrackConfig is what a [Track] is made of.
type TrackConfig struct {
	SID               string
	PublisherIdentity string
	Kind              livekit.TrackType
	// Codec is the preferred one; each layer has its own.
	Codec Codec
	Log   *slog.Logger
	// OnQualities tells which qualities of which codecs anybody wants: raised at
	// once, lowered after 5 s; that nobody wants any, after 10 s. Sound has one
	// quality, HIGH, of each codec, RED counts as Opus, and Codec is wanted always,
	// to judge which participants speak, unless the track has regressed. May be nil.
	OnQualities func([]Wanted)
	// RegressBelow: when the track begins to be sent in a second codec, subscribers
	// that can get either get that one, so that the first need not be sent; but not
	// if the track has this many forwarders or more.
	RegressBelow int

	// Voice is shared by the tracks of one publisher: the video of a speaker comes before
	// that of others where not all fits. Nil: it does not matter.
	Voice *Voice

	// Totals count what goes over the track. Nil: nobody counts.
	Totals *Totals

	// Pool is where packets' buffers come from. Nil: the track has its own.
	Pool *packet.Pool
}

// LayerConfig is what a [Layer] is made of.
type LayerConfig struct {
	RID string
	// SSRC that is expected; 0: that of the first packet. A packet of another
	// one restarts the layer.
	SSRC  uint32
	Codec Codec
	Ext   Extensions
	// Quality orders the layers of a track.
	Quality livekit.VideoQuality
	// WriteRTCP sends to the publisher. It may be called concurrently.
	WriteRTCP func([]rtcp.Packet) error
	// TWCC takes note of arrivals when TransportCC is negotiated; may be nil.
	TWCC *TWCC

	// NoNACK: do not ask for lost packets.
	NoNACK bool
	// FIR: ask for key frames with FIR (RFC 5104 4.3.1) because PLI was not
	// negotiated.
	FIR bool
}

// Repeatable is how many packets back a forwarder sends one again that is asked for:
// some seconds of video, one or two of audio.
func Repeatable(video bool) int {
	if video {
		return 512
	}
	return 64
}

// ForwarderConfig is what a [Forwarder] is made of. The callbacks must not call
// methods of the forwarder or its track.
type ForwarderConfig struct {
	SubscriberSID string
	SSRC          uint32
	RTXSSRC       uint32 // 0: answer NACKs on SSRC
	// Codec as negotiated with this subscriber.
	Codec Codec
	// Backup is another codec that was negotiated, for when the track regresses to
	// it; zero: none. It has RTX if Codec has, and may have another clock rate.
	Backup Codec
	Ext    Extensions
	// Output is where the packets go. Required. With a Downlink it is what that one
	// writes them to.
	Output Output
	// Aside: the output is no subscriber. Nothing is made for it while the track is muted,
	// and the totals do not count it.
	Aside bool
	// OnFirstPacket is called once; may be nil.
	OnFirstPacket func()
	// OnStreamState tells when video starts, and when it is paused for want of bandwidth
	// and goes on; may be nil.
	OnStreamState func(livekit.StreamState)
	// CanPause: video may be paused when not even its lowest layer fits. Else that layer is
	// sent all the same.
	CanPause bool
	// Playout delay bounds in ms; both 0 = what the publisher says.
	MinPlayoutDelay, MaxPlayoutDelay uint32
	CNAME                            string
	// Trailer ends the frames that are made here, by which clients know them in a
	// track that is encrypted end to end; empty if it is not.
	Trailer []byte

	// AdaptiveStream: the client will say which size it shows; until then it
	// gets the lowest quality. Otherwise it begins with the highest.
	AdaptiveStream bool
	// Downlink is shared by all forwarders to one subscriber. Nil: nothing holds the
	// packets back.
	Downlink *Downlink
}

// Settings are what a subscriber wants of a track.
type Settings struct {
	Disabled bool
	// Quality counts when Width and Height are 0.
	Quality livekit.VideoQuality
	// Width and Height in pixels at which the video is shown.
	Width, Height uint32
	// FPS is the highest useful frame rate, 0 = any.
	FPS uint32
	// Priority: where not all fits, a track of more comes first among its like.
	Priority uint32
}
