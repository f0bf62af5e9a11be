package rooms

import (
	"strings"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"
)

// TrackFacts is what a peer has found out about how its client sends a track, at one
// moment. The room alone knows the rest: what the client announced, and what was changed
// since. So facts that arrive late undo no change.
type TrackFacts struct {
	// Sections are the media sections in which the track is sent: one for each codec, the
	// first codec first.
	Sections []SectionFacts
}

// SectionFacts describes a media section in which a track is sent.
type SectionFacts struct {
	MimeType string // of the codec
	MID      string // RFC 8843
	// CID is the track's name in the client's session description; "" if it has none.
	CID     string
	Streams []StreamFacts
}

// StreamFacts describes an RTP stream of a section.
type StreamFacts struct {
	Quality livekit.VideoQuality // the layer that it carries
	RID     string               // RFC 8851; "" if it has none
	// The SSRCs of the stream and of its repair stream (RFC 4588); 0 = unknown.
	SSRC, RepairSSRC uint32
}

// Complete returns a copy of info with the facts filled in.
func (f TrackFacts) Complete(info *livekit.TrackInfo) *livekit.TrackInfo {
	info = proto.CloneOf(info)
	f.complete(info)
	return info
}

func (f TrackFacts) complete(info *livekit.TrackInfo) {
	for i := range f.Sections {
		f.Sections[i].complete(info, i == 0)
	}
}

func (s *SectionFacts) complete(info *livekit.TrackInfo, first bool) {
	entry := s.codecIn(info, first)
	entry.MimeType, entry.Mid = s.MimeType, s.MID
	if entry.Cid == "" {
		entry.Cid = s.CID
	}
	if s.CID != "" && s.CID != entry.Cid {
		entry.SdpCid = s.CID
	}
	if first {
		info.MimeType, info.Mid = s.MimeType, s.MID
	}
	if info.Type == livekit.TrackType_VIDEO && len(entry.Layers) == 0 && len(info.Layers) == 0 {
		entry.Layers = []*livekit.VideoLayer{{Quality: livekit.VideoQuality_HIGH, Width: info.Width, Height: info.Height}}
		info.Layers = []*livekit.VideoLayer{proto.CloneOf(entry.Layers[0])}
	}
	for _, stream := range s.Streams {
		stream.complete(entry.Layers)
		if first {
			stream.complete(info.Layers)
		}
	}
}

// codecIn returns info's entry for the codec that is sent in s, and adds one if the
// announcement named none.
func (s *SectionFacts) codecIn(info *livekit.TrackInfo, first bool) *livekit.SimulcastCodecInfo {
	for _, c := range info.Codecs {
		if c.Mid == s.MID || (c.Cid != "" && c.Cid == s.CID) {
			return c
		}
	}
	for _, c := range info.Codecs {
		if c.Mid == "" && (c.MimeType == "" || strings.EqualFold(c.MimeType, s.MimeType)) {
			return c
		}
	}
	for _, c := range info.Codecs {
		if c.Mid == "" && first {
			return c // the client announced another codec than it sends
		}
	}
	c := &livekit.SimulcastCodecInfo{Cid: s.CID}
	for _, l := range info.Layers {
		c.Layers = append(c.Layers, proto.CloneOf(l))
	}
	info.Codecs = append(info.Codecs, c)
	return c
}

// complete writes the stream's facts into its layer.
func (s *StreamFacts) complete(layers []*livekit.VideoLayer) {
	for _, l := range layers {
		if l.Quality == s.Quality || len(layers) == 1 {
			l.Ssrc, l.RepairSsrc = s.SSRC, s.RepairSSRC
			if l.Rid == "" {
				l.Rid = s.RID
			}
			return
		}
	}
}
