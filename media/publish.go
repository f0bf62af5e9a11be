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

// Bounds of what a client may have announced at a time.
// Its room refuses less.
const (
	maxPublications = 300
	maxAsks         = 8 // of a track
)

// track is a published track as the room holds it: its media, and in which codecs
// it can be had, the first preferred: those that are sent, then those that its
// client has announced and sends once somebody wants them.
type track struct {
	*forward.Track
	codecs atomic.Pointer[[]forward.Codec] // replaced as a whole by the publisher's loop
}

// publication is a track that the client announced. It belongs to the loop.
type publication struct {
	sid     string
	kind    webrtc.RTPCodecType
	asks    []rooms.Announcement // the first announces the track, others more codecs
	info    *livekit.TrackInfo   // as the room has it; never changed here
	track   *track               // nil until its codec is known
	told    bool                 // TrackPublished was called
	main    *upSection           // where the first codec is sent; nil until offered
	backups []*upSection         // where other codecs are sent
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
		pub = &publication{sid: info.GetSid(), kind: webrtc.RTPCodecTypeAudio}
		if info.GetType() == livekit.TrackType_VIDEO {
			pub.kind = webrtc.RTPCodecTypeVideo
		}
		p.pubs[pub.sid] = pub
	}
	pub.update(info)
	if len(pub.asks) >= maxAsks {
		p.log.Warn("a track is announced again and again", "track", pub.sid, "limit", maxAsks)
		return
	}
	pub.asks = append(pub.asks, a)
	pub.listCodecs()
	// Media may have been offered before it was announced.
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
			s.refused = true // until the client offers something else in it
		}
		p.endPublication(pub)
	})
}

// UpdateTrack implements rooms.Peer. Most changes of a track are its client's wish.
func (p *Peer) UpdateTrack(t *livekit.TrackInfo) {
	p.postFromClient(func() {
		if pub := p.pubs[t.GetSid()]; pub != nil {
			pub.update(t)
		}
	})
}

// update takes over what the room now says of the track.
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

// cids are the client's names of the track: by codec, if it has several.
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

// wants is the mime type that the client announced for the section with that cid;
// "" if it named none.
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

// announcedCodecs are those that the client can send besides the first, which it
// announces first. Their formats are not known before they are sent; what browsers
// send is assumed.
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

// fewSubscribers is how many subscribers a track may have for the server to have all
// of them take its backup codec, by the default policy: with the publisher they are
// fewer than 5 participants. With more, sending both codecs costs the publisher less
// than the worse of them costs its audience.
const fewSubscribers = 4

// regressBelow is forward.TrackConfig's, as the client's policy has it. By default the
// codecs of sound are sent side by side, since sound costs little.
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

// fullMime is a codec's mime type: clients say "vp8" or "video/VP8".
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

// endPublication ends the media of a track. Nobody is told.
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

// qualitiesWanted tells the publisher of video which layers somebody watches.
func (p *Peer) qualitiesWanted(sid string, wanted []Wanted) {
	p.cfg.Signals.WantQualities(sid, livekit.TrackType_VIDEO, wanted)
}

// audioCodecsWanted tells the publisher of sound which of the codecs that it announced
// somebody gets. Of its first alone it is told nothing: it sends that unasked.
func (p *Peer) audioCodecsWanted(sid string, announced []forward.Codec, wanted []Wanted) {
	if len(wanted) < 2 {
		return
	}
	named := slices.Clone(wanted)
	for i := range named {
		for _, a := range announced {
			if interchangeable(a.MimeType, fullMime(named[i].Codec, webrtc.RTPCodecTypeAudio)) { // RED, as it named it
				_, named[i].Codec, _ = strings.Cut(strings.ToLower(a.MimeType), "/")
			}
		}
	}
	p.cfg.Signals.WantQualities(sid, livekit.TrackType_AUDIO, named)
}
