package rooms

import (
	"strings"

	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"
)

// TrackFacts is what a peer knows of how its client sends a track, as of one moment.
// The room alone knows the rest: what the client announced and what has been changed
// since. So facts never undo a change, however late they come.
type TrackFacts struct {
	// Sections are the media sections that the track is sent in, one for each codec,
	// the first codec's first.
	Sections []SectionFacts
}

// SectionFacts is what is known of a media section in which a track is sent.
type SectionFacts struct {
	MimeType string // of the codec
	MID      string // RFC 8843
	// CID is how the client's session description names the track; "" if it does not.
	CID     string
	Streams []StreamFacts
}

// StreamFacts is what is known of an RTP stream of a section.
type StreamFacts struct {
	Quality livekit.VideoQuality // the layer that it carries
	RID     string               // RFC 8851; "" if it has none
	// The SSRCs of the stream and of its repair stream (RFC 4588); 0 = unknown.
	SSRC, RepairSSRC uint32
}

// Complete is a copy of info in which the facts are.
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

// codecIn is the entry of info for the codec that is sent in s; one is added if the
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
			return c // announced in another codec than it came
		}
	}
	c := &livekit.SimulcastCodecInfo{Cid: s.CID}
	for _, l := range info.Layers {
		c.Layers = append(c.Layers, proto.CloneOf(l))
	}
	info.Codecs = append(info.Codecs, c)
	return c
}

// complete writes the stream into its layer.
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
