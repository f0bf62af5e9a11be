package media

import (
	"cmp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"

	"parlor/media/forward"
	"parlor/rooms"
)

// upSection is a section in which the client sends media or has sent it. It belongs to
// the loop.
type upSection struct {
	offeredSection
	p       *Peer
	t       *transport
	pub     *publication  // nil until claimed
	refused bool          // the server removed its track
	codec   forward.Codec // codec that is sent; zero until published
	streams []*upStream
	// early has the SSRCs of streams that came before those that they repair, by rid.
	early map[string]uint32
}

// upStream is one RTP stream of a section. Its fields belong to the loop, except for
// those that the sinks read.
type upStream struct {
	s      *upSection
	ssrc   uint32
	repair uint32 // 0 until known
	rid    string
	layer  *forward.Layer // nil until its codec is known

	// The following are for the sinks, and set before they run.
	allowed   *atomic.Bool
	pt        uint8
	redPT     uint8 // payload type of the RED to which an Opus stream may turn; 0 if there is none
	reopening bool  // RED has been seen; belongs to the reading goroutine
	scratch   []byte
}

// sectionOrder lists the known mids in order, numbers by their value, so that results do not
// depend on the order of a map.
func (p *Peer) sectionOrder() []string {
	mids := make([]string, 0, len(p.sections))
	for mid := range p.sections {
		mids = append(mids, mid)
	}
	slices.SortFunc(mids, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	return mids
}

// matchSections compares the client's new offer with its former one.
func (p *Peer) matchSections(offered []offeredSection) {
	for _, o := range offered {
		if o.kind == 0 {
			continue
		}
		s := p.sections[o.mid]
		if s == nil {
			if !o.sends {
				continue
			}
			s = &upSection{p: p, t: p.pub}
			p.sections[o.mid] = s
		}
		p.updateSection(s, o)
	}
	// First the sections that name their track, then the others by exclusion: a section
	// with an unknown name must not take the track that another section names.
	for _, exact := range []bool{true, false} {
		for _, mid := range p.sectionOrder() {
			s := p.sections[mid]
			if s.pub != nil || !s.sends || s.refused {
				continue
			}
			if pub := p.claim(s); pub != nil && (!exact || pub.has(s.trackID) || pub.has(s.streamID)) {
				p.bind(s, pub)
			}
		}
	}
}

// updateSection takes the offer's new state of a section, and ends its publication if the
// client stopped sending it.
func (p *Peer) updateSection(s *upSection, o offeredSection) {
	ended := s.pub != nil && (!o.sends || (o.trackID != s.trackID && p.announced(o) != nil && p.announced(o) != s.pub))
	if o.trackID != s.trackID || !o.sends {
		s.refused = false
	}
	s.stopUnannounced(o)
	s.offeredSection = o
	if ended {
		p.sectionEnded(s)
	}
	if !o.sends {
		for _, u := range s.streams {
			u.end()
		}
		s.streams, s.early = nil, nil // pion stops their receivers
	}
}

// stopUnannounced stops the layers of streams that the new offer no longer announces.
// They may be sent again, after another offer or without one: clients pause and resume
// layers at will.
func (s *upSection) stopUnannounced(o offeredSection) {
	for _, u := range s.streams {
		if u.layer != nil && s.announces(u.ssrc, u.rid) && !o.announces(u.ssrc, u.rid) {
			u.layer.Stop()
		}
	}
}

// sectionEnded ends a publication, or one of its additional codecs.
func (p *Peer) sectionEnded(s *upSection) {
	pub := s.pub
	if pub.main != s {
		s.release()
		pub.backups = slices.DeleteFunc(pub.backups, func(b *upSection) bool { return b == s })
		pub.listCodecs()
		return
	}
	p.endPublication(pub)
	p.cfg.Events.TrackUnpublished(pub.sid) // also for a track that is only announced so far
}

// announced is the publication that the section names; nil if it names none.
func (p *Peer) announced(o offeredSection) *publication {
	for _, name := range []string{o.trackID, o.streamID} {
		for _, pub := range p.pubs {
			if pub.kind == o.kind && pub.has(name) {
				return pub
			}
		}
	}
	return nil
}

// claim finds the publication of a section: the one that it names, else the one of its kind
// without a section that was announced first. Browsers may rename a track when they send it.
func (p *Peer) claim(s *upSection) *publication {
	if pub := p.announced(s.offeredSection); pub != nil {
		return pub
	}
	var first *publication
	for _, pub := range p.pubs {
		if pub.kind == s.kind && pub.main == nil && (first == nil || pub.nth < first.nth) {
			first = pub
		}
	}
	return first
}

// bind makes s a section of pub.
func (p *Peer) bind(s *upSection, pub *publication) {
	s.pub = pub
	if pub.main == nil {
		pub.main = s
	} else {
		pub.backups = append(pub.backups, s)
	}
}

// preferCodecs orders the codecs of our answer as the tracks' announcements ask, and leaves
// out those that the client may not publish.
func (p *Peer) preferCodecs(t *transport) {
	for mid, s := range p.sections {
		if s.pub == nil || !s.sends {
			continue
		}
		tr := t.transceiver(mid)
		if tr == nil || tr.Receiver() == nil || tr.Sender() != nil {
			continue // the subscription decides the order
		}
		if err := tr.SetCodecPreferences(nil); err != nil {
			p.log.Debug("codec order not reset", "mid", mid, "error", err)
			continue
		}
		codecs := p.publishable(s.common(tr.Receiver().GetParameters().Codecs))
		if err := tr.SetCodecPreferences(preferCodec(codecs, s.wantedMime())); err != nil {
			p.log.Debug("codec order not set", "mid", mid, "error", err)
		}
	}
}

// common is the negotiated codecs that this section offers.
func (s *upSection) common(negotiated []webrtc.RTPCodecParameters) []webrtc.RTPCodecParameters {
	return slices.DeleteFunc(slices.Clone(negotiated), func(c webrtc.RTPCodecParameters) bool {
		return !slices.ContainsFunc(s.codecs, func(o offeredCodec) bool {
			return o.pt == uint8(c.PayloadType) && strings.EqualFold(o.mime, c.MimeType)
		})
	})
}

// wantedMime is the codec in which the client should send the section; "" if any.
func (s *upSection) wantedMime() string {
	want := s.pub.wants(s.trackID)
	if strings.EqualFold(want, mimeRED) && !s.has(mimeRED) {
		return mimeOpus
	}
	return want
}

// negotiatedCodecs are the codecs of our answer.
func (s *upSection) negotiatedCodecs() []webrtc.RTPCodecParameters {
	tr := s.t.transceiver(s.mid)
	if tr == nil || tr.Receiver() == nil {
		return nil
	}
	return tr.Receiver().GetParameters().Codecs
}

// expected is the codec that the client will send, if it can be known in advance.
func (s *upSection) expected() (webrtc.RTPCodecParameters, bool) {
	all := s.negotiatedCodecs()
	if want := s.wantedMime(); want != "" {
		for _, c := range all {
			if strings.EqualFold(c.MimeType, want) {
				return c, true
			}
		}
	}
	var only webrtc.RTPCodecParameters
	n := 0
	for _, c := range all {
		if isPrimary(c.MimeType) {
			only, n = c, n+1
		}
	}
	return only, n == 1
}

// heard reports whether packets have shown in which codec the section is sent. From then
// on the expectation does not count.
func (s *upSection) heard() bool {
	return slices.ContainsFunc(s.streams, func(u *upStream) bool { return u.layer != nil })
}

// sectionsNegotiated is called after each answer: tracks whose sections are negotiated
// exist from then on.
func (p *Peer) sectionsNegotiated() {
	for _, mid := range p.sectionOrder() {
		s := p.sections[mid]
		if !s.sends {
			continue
		}
		// Most sound has no numbers, and where it has, they are those of the pictures, if there are any.
		ext := s.extensions()
		if s.kind == webrtc.RTPCodecTypeVideo || ext.TransportCC != 0 && s.t.ingress.facts.Load() == nil {
			twcc := s.t.feedback(s.kind, ext)
			s.t.ingress.facts.Store(&ingressFacts{ext: ext, twcc: twcc, remb: s.t.estimate(s.negotiatedCodecs()), repair: p.repairStream})
		}
		s.addDeclared()
		if s.pub == nil {
			continue
		}
		if c, ok := s.expected(); ok && !s.heard() {
			p.publish(s, c)
		}
		for _, u := range s.streams {
			p.startStream(u)
		}
	}
	for _, s := range p.subOrder {
		if s.forwarder != nil {
			s.forwarder.SetStreamFeedback(s.reportsStreams())
		}
	}
}

// addDeclared notes the streams whose SSRCs the offer declares.
func (s *upSection) addDeclared() {
	if len(s.rids) > 0 {
		return // their SSRCs are known when packets come
	}
	for _, ssrc := range s.ssrcs {
		s.stream(ssrc, "").repair = s.repairs[ssrc]
	}
}

// maxSectionStreams bounds the streams of a section over all offers. If a client names
// new SSRCs with each offer, the first are forgotten.
const maxSectionStreams = 32

// stream is the section's stream with that SSRC. A new SSRC of a known rid takes the
// place of the former one.
func (s *upSection) stream(ssrc uint32, rid string) *upStream {
	for _, u := range s.streams {
		if u.ssrc == ssrc {
			return u
		}
	}
	if rid != "" {
		s.streams = slices.DeleteFunc(s.streams, func(u *upStream) bool {
			if u.rid == rid {
				u.end()
			}
			return u.rid == rid
		})
	}
	if len(s.streams) == maxSectionStreams { // the client has offered others since
		s.streams[0].end()
		s.streams = slices.Delete(s.streams, 0, 1)
	}
	u := &upStream{s: s, ssrc: ssrc, rid: rid, repair: s.early[rid], allowed: &s.p.mediaAllowed}
	delete(s.early, rid)
	s.streams = append(s.streams, u)
	return u
}

// publish makes the section's track, or adds its codec to it, and tells the room.
func (p *Peer) publish(s *upSection, c webrtc.RTPCodecParameters) {
	pub := s.pub
	fc := forwardCodec(c, s.negotiatedCodecs())
	if pub.track == nil {
		if pub.main != s {
			return // a further codec, but the track does not exist yet
		}
		kind := livekit.TrackType_AUDIO
		if pub.kind == webrtc.RTPCodecTypeVideo {
			kind = livekit.TrackType_VIDEO
		}
		sid := pub.sid
		made := &track{}
		made.codecs.Store(&[]forward.Codec{fc})
		wanted := func(q []Wanted) { p.qualitiesWanted(sid, q) }
		if kind == livekit.TrackType_AUDIO {
			wanted = func(q []Wanted) { p.audioCodecsWanted(sid, *made.codecs.Load(), q) }
		}
		made.Track = forward.NewTrack(forward.TrackConfig{
			SID: sid, PublisherIdentity: p.cfg.Identity, Kind: kind, Codec: fc, Log: p.log,
			OnQualities:  wanted,
			RegressBelow: pub.regressBelow(),
			Pool:         p.engine.pool, Totals: &p.engine.totals,
			Voice: p.voice,
		})
		pub.track = made
	}
	pub.setCodec(s, fc)
	pub.update(pub.info)
	if !pub.told {
		pub.told = true
		p.tell(pub)
	}
}

// factsDelay is how long facts of a track are collected before the room is told again,
// because the SSRCs of its layers become known one after the other.
const factsDelay = 200 * time.Millisecond

// tellSoon tells the room, after factsDelay, the new facts of a track that it knows.
func (p *Peer) tellSoon(pub *publication) {
	if len(p.untold) == 0 {
		p.factsTimer.Reset(factsDelay)
	}
	p.untold[pub] = struct{}{}
}

func (p *Peer) tellFacts() {
	for pub := range p.untold {
		if p.pubs[pub.sid] == pub && pub.told {
			p.tell(pub)
		}
	}
	clear(p.untold)
}

func (p *Peer) tell(pub *publication) {
	delete(p.untold, pub)
	p.cfg.Events.TrackPublished(pub.track, pub.facts())
}

// setCodec notes that the section of the track is sent in fc.
func (pub *publication) setCodec(s *upSection, fc forward.Codec) {
	s.codec = fc
	pub.listCodecs()
}

func (pub *publication) listCodecs() {
	if pub.track == nil {
		return
	}
	var list []forward.Codec
	for _, s := range append([]*upSection{pub.main}, pub.backups...) {
		if s != nil && s.codec.MimeType != "" {
			list = append(list, s.codec)
		}
	}
	for _, c := range pub.announcedCodecs() {
		if !slices.ContainsFunc(list, func(have forward.Codec) bool { return interchangeable(have.MimeType, c.MimeType) }) {
			list = append(list, c)
		}
	}
	pub.track.codecs.Store(&list)
}

// facts is how the client sends the track, as far as known.
func (pub *publication) facts() (f rooms.TrackFacts) {
	for _, s := range append([]*upSection{pub.main}, pub.backups...) {
		if s != nil && s.codec.MimeType != "" {
			f.Sections = append(f.Sections, s.facts())
		}
	}
	return f
}

func (s *upSection) facts() rooms.SectionFacts {
	f := rooms.SectionFacts{MimeType: s.codec.MimeType, MID: s.mid, CID: s.trackID}
	for _, u := range s.streams {
		f.Streams = append(f.Streams, rooms.StreamFacts{Quality: u.quality(), RID: u.rid, SSRC: u.ssrc, RepairSSRC: u.repair})
	}
	return f
}

// quality is the rank of the layer: by the client's announcement, else by LiveKit's rids,
// else by its place in the offer, which begins with the lowest.
func (u *upStream) quality() livekit.VideoQuality {
	if u.rid == "" {
		return livekit.VideoQuality_HIGH
	}
	if u.s.pub != nil {
		for _, l := range u.s.pub.info.GetLayers() {
			if q := l.GetQuality(); l.GetRid() == u.rid && q >= livekit.VideoQuality_LOW && q <= livekit.VideoQuality_HIGH {
				return q
			}
		}
	}
	switch u.rid {
	case "q":
		return livekit.VideoQuality_LOW
	case "h":
		return livekit.VideoQuality_MEDIUM
	case "f":
		return livekit.VideoQuality_HIGH
	}
	i := slices.Index(u.s.rids, u.rid)
	return livekit.VideoQuality(min(max(i, 0), int(livekit.VideoQuality_HIGH)))
}
