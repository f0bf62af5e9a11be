package media

import (
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"

	"parlor/media/forward"
	"parlor/rooms"
)

// Bounds of a client's announcements. They are a second line: the room allows fewer.
const (
	maxPublications = 300
	maxAsks         = 8 // announcements of one track
)

// track is a published track as the room holds it: its media, and the codecs in which
// subscribers can get it, the preferred one first. The codecs that are sent stand before
// those that the client has announced and sends only on demand.
type track struct {
	*forward.Track
	codecs atomic.Pointer[[]forward.Codec] // the publisher's loop replaces the whole list
}

// publication is a track that the client announced. It belongs to the loop.
type publication struct {
	sid     string
	nth     int // in the order announced
	kind    webrtc.RTPCodecType
	asks    []rooms.Announcement // the first announces the track, the others announce more codecs
	info    *livekit.TrackInfo   // as the room has it; the peer does not change it
	track   *track               // nil until its codec is known
	told    bool                 // TrackPublished was called
	excess  bool                 // it was announced more often than maxAsks
	main    *upSection           // section of the first codec; nil until offered
	backups []*upSection         // sections of the other codecs
}

// AddTrack implements rooms.Peer.
func (p *Peer) AddTrack(a rooms.Announcement, t *livekit.TrackInfo) {
	p.post(func() { p.addTrack(a, t) })
}

func (p *Peer) addTrack(a rooms.Announcement, info *livekit.TrackInfo) {
	pub := p.pubs[info.GetSid()]
	if pub == nil {
		if len(p.pubs) >= maxPublications {
			p.log.Warn("too many tracks announced", "track", info.GetSid(), "limit", maxPublications)
			return
		}
		p.announcements++
		pub = &publication{sid: info.GetSid(), nth: p.announcements, kind: webrtc.RTPCodecTypeAudio}
		if info.GetType() == livekit.TrackType_VIDEO {
			pub.kind = webrtc.RTPCodecTypeVideo
		}
		p.pubs[pub.sid] = pub
	}
	pub.update(info)
	if len(pub.asks) >= maxAsks {
		if !pub.excess {
			p.log.Warn("a track is announced again and again", "track", pub.sid, "limit", maxAsks)
		}
		pub.excess = true
		return
	}
	pub.asks = append(pub.asks, a)
	pub.listCodecs()
	// The client may have offered the media before the room announced the track.
	for _, mid := range p.sectionOrder() {
		s := p.sections[mid]
		if s.pub == nil && s.sends && !s.refused && p.claim(s) == pub {
			p.bind(s, pub)
		}
	}
	p.sectionsNegotiated()
}

// RemoveTrack implements rooms.Peer.
func (p *Peer) RemoveTrack(sid string) {
	p.post(func() {
		pub := p.pubs[sid]
		if pub == nil {
			return
		}
		for _, s := range pub.parts() {
			s.refused = true // until the client offers another track in the section
		}
		p.endPublication(pub)
	})
}

// UpdateTrack implements rooms.Peer. Most changes of a track come from its client.
func (p *Peer) UpdateTrack(t *livekit.TrackInfo) {
	p.postFromClient(func() {
		if pub := p.pubs[t.GetSid()]; pub != nil {
			pub.update(t)
		}
	})
}

// update takes the room's new state of the track.
func (pub *publication) update(info *livekit.TrackInfo) {
	pub.info = info
	if pub.track != nil {
		pub.track.SetMuted(info.GetMuted())
		pub.track.SetInfo(info)
	}
}

func (pub *publication) parts() []*upSection {
	out := slices.Clone(pub.backups)
	if pub.main != nil {
		out = append(out, pub.main)
	}
	return out
}

// has reports whether cid is one of the client's names of the track. A track in several
// codecs has a name for each.
func (pub *publication) has(cid string) bool {
	if cid == "" {
		return false
	}
	for _, ask := range pub.asks {
		if ask.CID == cid {
			return true
		}
		for _, c := range ask.Codecs {
			if c.CID == cid {
				return true
			}
		}
	}
	return false
}

// wants is the mime type that the client announced for the section with that cid; "" if
// it announced none.
func (pub *publication) wants(cid string) string {
	named := ""
	for _, ask := range pub.asks {
		for _, c := range ask.Codecs {
			mime := fullMime(c.Codec, pub.kind)
			if c.CID == cid && cid != "" {
				return mime
			}
			if named == "" {
				named = mime
			}
		}
	}
	if pub.kind == webrtc.RTPCodecTypeAudio {
		if pub.asks[0].DisableRED || (named != "" && !strings.EqualFold(named, mimeRED)) {
			if named == "" || strings.EqualFold(named, mimeRED) {
				return mimeOpus
			}
			return named
		}
		return mimeRED
	}
	return named
}

// announcedCodecs are the codecs that the client can send besides the first one. Their
// format parameters are known only when they are sent, so those of browsers are assumed.
func (pub *publication) announcedCodecs() (list []forward.Codec) {
	for i, ask := range pub.asks {
		for j, c := range ask.Codecs {
			mime := canonicalMime(fullMime(c.Codec, pub.kind))
			if i == 0 && j == 0 || mime == "" || !isPrimary(mime) {
				continue
			}
			fc := forward.Codec{MimeType: mime}
			if mime == mimeH264 {
				fc.Fmtp = h264ConstrainedPrefix + "1;profile-level-id=42e01f"
			}
			list = append(list, fc)
		}
	}
	return list
}

// fewSubscribers is the largest number of subscribers for which, by the default policy,
// all subscribers are moved to the backup codec. With the publisher that makes fewer than
// 5 participants. With more subscribers, sending both codecs costs the publisher less
// than the worse codec costs its audience.
const fewSubscribers = 4

// regressBelow is forward.TrackConfig.RegressBelow according to the client's policy. By
// default the codecs of sound are sent side by side, because sound costs little.
func (pub *publication) regressBelow() int {
	switch policy := pub.asks[0].Backup; {
	case policy == livekit.BackupCodecPolicy_REGRESSION:
		return math.MaxInt
	case policy == livekit.BackupCodecPolicy_SIMULCAST || pub.kind == webrtc.RTPCodecTypeAudio:
		return 0
	default:
		return fewSubscribers
	}
}

// fullMime is a codec's mime type. Clients say either "vp8" or "video/VP8".
func fullMime(codec string, kind webrtc.RTPCodecType) string {
	if codec == "" || strings.Contains(codec, "/") {
		return codec
	}
	return kind.String() + "/" + codec
}

func (pub *publication) audioShape() audioShape {
	features := pub.info.GetAudioFeatures()
	return audioShape{
		dtx:    !slices.Contains(features, livekit.AudioTrackFeature_TF_NO_DTX),
		stereo: slices.Contains(features, livekit.AudioTrackFeature_TF_STEREO),
		nack:   true,
	}
}

// endPublication ends the media of a track. It tells neither the room nor the client.
func (p *Peer) endPublication(pub *publication) {
	delete(p.pubs, pub.sid)
	for _, s := range pub.parts() {
		s.release()
	}
	pub.main, pub.backups = nil, nil
	if pub.track != nil {
		pub.track.Close()
	}
}

// qualitiesWanted tells the publisher of a video which layers have subscribers.
func (p *Peer) qualitiesWanted(sid string, wanted []Wanted) {
	p.cfg.Signals.WantQualities(sid, livekit.TrackType_VIDEO, wanted)
}

// audioCodecsWanted tells the publisher of sound which of its announced codecs have
// subscribers. A publisher with one codec is not told, since it sends that codec unasked.
func (p *Peer) audioCodecsWanted(sid string, announced []forward.Codec, wanted []Wanted) {
	if len(wanted) < 2 {
		return
	}
	named := slices.Clone(wanted)
	for i := range named {
		for _, a := range announced {
			if interchangeable(a.MimeType, fullMime(named[i].Codec, webrtc.RTPCodecTypeAudio)) { // by the publisher's own name, which for RED is "red"
				_, named[i].Codec, _ = strings.Cut(strings.ToLower(a.MimeType), "/")
			}
		}
	}
	p.cfg.Signals.WantQualities(sid, livekit.TrackType_AUDIO, named)
}
