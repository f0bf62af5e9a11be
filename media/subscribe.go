package media

import (
	"slices"
	"strings"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"

	"parlor/media/downlink"
	"parlor/media/forward"
	"parlor/rooms"
)

// subscription is a track that is forwarded to this peer's client. It belongs to the
// loop. Pion calls Bind and Unbind on the loop too, while it applies a description or
// removes a sender.
type subscription struct {
	p        *Peer
	ask      rooms.Subscription
	sid      string // of the track
	kind     webrtc.RTPCodecType
	track    *track
	settings *forward.Settings // the client's settings; nil before the first

	transceiver *webrtc.RTPTransceiver // nil until it has a section
	sender      *webrtc.RTPSender
	forwarder   *forward.Forwarder // nil until its section is negotiated
	writer      *downlink.Writer   // of the forwarder
	ssrc, rtx   uint32
	bound       int  // counts calls of Bind and Unbind
	byStream    bool // the client can report on the packets by their streams alone
}

// Subscribe implements rooms.Peer.
func (p *Peer) Subscribe(s rooms.Subscription) { p.ask(s.Track.SID(), &s) }

// Unsubscribe implements rooms.Peer.
func (p *Peer) Unsubscribe(trackSID string) { p.ask(trackSID, nil) }

// wish is what the room last asked of a track while the loop was busy.
type wish struct {
	subscribe *rooms.Subscription // nil: no subscription
	ended     bool                // what was before it has ended
}

// ask queues a wish for the loop. One task waits for each track, however often it is asked for.
func (p *Peer) ask(sid string, s *rooms.Subscription) {
	p.wishesMu.Lock()
	before, waits := p.wishes[sid]
	p.wishes[sid] = wish{s, before.ended || s == nil}
	p.wishesMu.Unlock()
	if !waits {
		p.post(func() { p.heed(sid) })
	}
}

func (p *Peer) heed(sid string) {
	p.wishesMu.Lock()
	w := p.wishes[sid]
	delete(p.wishes, sid)
	p.wishesMu.Unlock()
	if w.ended {
		p.unsubscribe(sid)
	}
	if w.subscribe != nil {
		p.subscribe(*w.subscribe)
	}
}

func (p *Peer) subscribe(ask rooms.Subscription) {
	sid := ask.Track.SID()
	if p.subs[sid] != nil {
		return
	}
	source, ok := ask.Track.(*track)
	if !ok {
		p.log.Error("a track that this package did not make", "track", sid)
		p.cfg.Events.SubscriptionFailed(sid, livekit.SubscriptionError_SE_UNKNOWN)
		return
	}
	s := &subscription{p: p, ask: ask, sid: sid, track: source, kind: webrtc.RTPCodecTypeAudio}
	if ask.Info.GetType() == livekit.TrackType_VIDEO {
		s.kind = webrtc.RTPCodecTypeVideo
	}
	p.subs[sid] = s
	p.subOrder = append(p.subOrder, s)
	if p.sub == nil {
		return // requestSections finds it
	}
	if known, ok := p.sub.clientCodecs[s.kind]; ok {
		if _, has := pickDownstream(*source.codecs.Load(), known); !has {
			p.failSubscription(s, livekit.SubscriptionError_SE_CODEC_UNSUPPORTED)
			return
		}
	}
	if err := p.addToOffer(s); err != nil {
		p.log.Error("subscription without a section", "track", sid, "error", err)
		p.failSubscription(s, livekit.SubscriptionError_SE_UNKNOWN)
	}
}

// mostSections bounds the sections of media of a transport for which we make the offers: answers of
// maxSections are taken, and one of them is for data.
const mostSections = maxSections - 1

// addToOffer gives s a section of the transport for which we make the offers: a free one
// of its kind, or a new one.
func (p *Peer) addToOffer(s *subscription) error {
	t := p.sub
	all := t.pc.GetTransceivers()
	tr := p.freeTransceiver(t, all, s.kind)
	if tr == nil && len(all) >= mostSections {
		if len(p.subs) > mostSections { // it would not be better off with new transports
			p.failSubscription(s, livekit.SubscriptionError_SE_UNKNOWN)
		} else {
			p.needsReconnect("too many sections that its subscriptions have left")
		}
		return nil
	}
	if tr == nil {
		// The section goes both ways, though we expect no media back. When its sender is
		// removed, it is then offered recvonly, where a one-way section would be offered
		// inactive. Clients built on pion cannot reuse a section that was inactive twice.
		var err error
		init := webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendrecv}
		if tr, err = t.pc.AddTransceiverFromTrack(s, init); err != nil {
			return err
		}
	} else {
		sender, err := t.api.NewRTPSender(s, t.pc.SCTP().Transport())
		if err != nil {
			return err
		}
		if err := tr.SetSender(sender, s); err != nil {
			return err
		}
	}
	s.transceiver, s.sender = tr, tr.Sender()
	t.dirty = true
	if !s.orderCodecs() {
		p.failSubscription(s, livekit.SubscriptionError_SE_CODEC_UNSUPPORTED)
	}
	return nil
}

// orderCodecs puts the track's codec first in its section. It returns false if the client
// is known to lack the codec.
func (s *subscription) orderCodecs() bool {
	if err := s.transceiver.SetCodecPreferences(nil); err != nil {
		return false
	}
	codecs := s.sender.GetParameters().Codecs
	found, ok := pickDownstream(*s.track.codecs.Load(), codecs)
	if !ok {
		return false
	}
	return s.transceiver.SetCodecPreferences(preferCodec(codecs, found.MimeType)) == nil
}

// pickDownstream finds the first codec of a track that was negotiated too. RED can be
// sent as Opus.
func pickDownstream(source []forward.Codec, negotiated []webrtc.RTPCodecParameters) (webrtc.RTPCodecParameters, bool) {
	for _, want := range source {
		if c, ok := pickCodec(want, negotiated); ok {
			return c, true
		}
		if strings.EqualFold(want.MimeType, mimeRED) {
			if c, ok := pickCodec(forward.Codec{MimeType: mimeOpus}, negotiated); ok {
				return c, true
			}
		}
	}
	return webrtc.RTPCodecParameters{}, false
}

// freeTransceiver is a section of ours that an ended subscription left, or nil. For
// Safari it is always one that Safari does not know yet, because it shows nothing in a
// section that is reused.
func (p *Peer) freeTransceiver(t *transport, all []*webrtc.RTPTransceiver, kind webrtc.RTPCodecType) *webrtc.RTPTransceiver {
	safari := strings.EqualFold(p.cfg.Client.GetBrowser(), "safari")
	for _, tr := range all {
		if tr.Kind() == kind && t.free(tr) && (!safari || tr.Mid() == "") {
			return tr
		}
	}
	return nil
}

// nextUnplaced is the subscription of that kind that has waited longest for a section;
// nil if none waits.
func (p *Peer) nextUnplaced(kind webrtc.RTPCodecType) *subscription {
	for _, s := range p.subOrder {
		if s.transceiver == nil && s.kind == kind {
			return s
		}
	}
	return nil
}

// place puts s into a section that the client offered. Our answer then negotiates the
// section.
func (p *Peer) place(s *subscription, tr *webrtc.RTPTransceiver) bool {
	sender, err := p.pub.api.NewRTPSender(s, p.pub.pc.SCTP().Transport())
	if err == nil {
		err = tr.SetSender(sender, s)
	}
	if err != nil {
		p.log.Error("subscription without a section", "track", s.sid, "error", err)
		return false
	}
	s.transceiver, s.sender = tr, sender
	if !s.orderCodecs() {
		p.failSubscription(s, livekit.SubscriptionError_SE_CODEC_UNSUPPORTED)
		return false
	}
	return true
}

// unplace takes subscriptions out of sections in which the client no longer receives
// media. They wait for other sections.
func (p *Peer) unplace(sections []offeredSection) {
	for _, o := range sections {
		if o.kind == 0 || o.receives {
			continue
		}
		for _, s := range p.subOrder {
			if s.transceiver != nil && s.transceiver.Mid() == o.mid {
				p.leaveSection(s)
			}
		}
	}
}

// leaveSection stops sending s and gives up its section.
func (p *Peer) leaveSection(s *subscription) {
	t := p.down()
	if err := t.pc.RemoveTrack(s.sender); err != nil {
		p.log.Debug("sender not removed", "track", s.sid, "error", err)
	}
	s.unbind()
	t.retire(s.transceiver)
	s.transceiver, s.sender = nil, nil
}

func (p *Peer) unsubscribe(sid string) {
	s := p.subs[sid]
	if s == nil {
		return
	}
	delete(p.subs, sid)
	p.subOrder = slices.DeleteFunc(p.subOrder, func(o *subscription) bool { return o == s })
	if s.transceiver == nil {
		return
	}
	p.leaveSection(s)
	if p.sub != nil {
		p.sub.dirty = true
	} else {
		p.single.dirty = true
	}
}

func (p *Peer) failSubscription(s *subscription, why livekit.SubscriptionError) {
	if p.subs[s.sid] != s {
		return
	}
	p.unsubscribe(s.sid)
	p.engine.counters.subscriptionsFailed.Add(1)
	p.cfg.Events.SubscriptionFailed(s.sid, why)
}

// downShapes lists the audio parameters, in our descriptions, of the audio that we send.
func (p *Peer) downShapes(t *transport) map[string]audioShape {
	shapes := map[string]audioShape{}
	for _, s := range p.subOrder {
		if s.transceiver == nil || s.kind != webrtc.RTPCodecTypeAudio || s.transceiver.Mid() == "" {
			continue
		}
		red := strings.EqualFold((*s.track.codecs.Load())[0].MimeType, mimeRED)
		shapes[s.transceiver.Mid()] = audioShape{
			stereo: slices.Contains(s.ask.Info.GetAudioFeatures(), livekit.AudioTrackFeature_TF_STEREO),
			nack:   !red,
			sends:  true,
		}
	}
	return shapes
}

// SetTrackSettings implements rooms.Peer.
func (p *Peer) SetTrackSettings(trackSIDs []string, shown rooms.TrackSettings) {
	p.postFromClient(func() {
		settings := forward.Settings(shown)
		for _, sid := range trackSIDs {
			s := p.subs[sid]
			if s == nil || s.settings != nil && *s.settings == settings {
				continue // each change divides the path, and asks all that see the track
			}
			s.settings = &settings
			if s.forwarder != nil {
				s.forwarder.SetSettings(settings)
			}
		}
	})
}

// ID implements webrtc.TrackLocal. It is the second half of the msid.
func (s *subscription) ID() string { return s.sid }

// RID implements webrtc.TrackLocal.
func (s *subscription) RID() string { return "" }

// Kind implements webrtc.TrackLocal.
func (s *subscription) Kind() webrtc.RTPCodecType { return s.kind }

// StreamID implements webrtc.TrackLocal. It is the first half of the msid, by which
// clients know the publisher and the track, or the stream whose tracks are synchronised.
func (s *subscription) StreamID() string {
	switch {
	case s.p.cfg.Protocol < 1:
		return s.ask.PublisherSID
	case s.ask.SyncStreams && s.p.cfg.Protocol > 9 && s.ask.Info.GetStream() != "" && !s.p.isFirefox():
		return s.ask.PublisherSID + "|" + s.ask.Info.GetStream()
	}
	return s.ask.PublisherSID + "|" + s.sid
}

func (p *Peer) isFirefox() bool {
	b := strings.ToLower(p.cfg.Client.GetBrowser())
	return strings.HasPrefix(b, "firefox")
}

// Bind implements webrtc.TrackLocal. The section is negotiated, so media may flow. It
// never returns an error to pion, which would undo the negotiation of all other sections
// too.
func (s *subscription) Bind(ctx webrtc.TrackLocalContext) (webrtc.RTPCodecParameters, error) {
	all := ctx.CodecParameters()
	codec, ok := pickDownstream(*s.track.codecs.Load(), all)
	if !ok {
		s.p.later(func() { s.p.failSubscription(s, livekit.SubscriptionError_SE_CODEC_UNSUPPORTED) })
		return webrtc.RTPCodecParameters{}, nil
	}
	t := s.p.down()
	s.ssrc, s.rtx = uint32(ctx.SSRC()), uint32(ctx.SSRCRetransmission())
	fc := forwardCodec(codec, all)
	if fc.RTXPayloadType == 0 {
		s.rtx = 0
	}
	backup := s.backup(fc, all)
	s.byStream = hasFeedback(codec, streamFeedback.Type, streamFeedback.Parameter) && !hasFeedback(codec, "transport-cc", "")
	s.writer = t.down.NewWriter(downlink.WriterConfig{
		SSRC: s.ssrc, RTX: s.rtx, Repeats: forward.Repeatable(s.kind == webrtc.RTPCodecTypeVideo), Pion: ctx.WriteStream(),
	})
	cfg := forward.ForwarderConfig{
		SubscriberSID:   s.p.cfg.SID,
		SSRC:            s.ssrc,
		RTXSSRC:         s.rtx,
		Codec:           fc,
		Backup:          backup,
		Ext:             extensionIDs(ctx.HeaderExtensions()),
		Output:          s.writer,
		OnStreamState:   s.streamState,
		MinPlayoutDelay: s.ask.MinPlayoutDelay,
		MaxPlayoutDelay: s.ask.MaxPlayoutDelay,
		CNAME:           s.StreamID(),
		AdaptiveStream:  s.p.cfg.AdaptiveStream,
		CanPause:        s.p.cfg.AllowPause,
		Downlink:        t.down,
	}
	if s.kind == webrtc.RTPCodecTypeAudio && !reportsSound(codec, all) {
		cfg.Ext.TransportCC = 0 // the client would be taken for one that loses all sound
	}
	if s.ask.SyncStreams && s.p.isFirefox() {
		// Firefox delays a stream's sound and picture apart from each other.
		cfg.Ext.PlayoutDelay = 0
	}
	if s.ask.Info.GetEncryption() != livekit.Encryption_NONE {
		cfg.Trailer = s.ask.Trailer
	}
	s.bound++
	if s.p.sub != nil || !s.p.mayBePion() {
		s.start(&cfg)
		return codec, nil
	}
	bound := s.bound
	time.AfterFunc(earlyMedia, func() { // a closed peer refuses the post
		s.p.post(func() {
			if s.bound == bound {
				s.start(&cfg)
			}
		})
	})
	return codec, nil
}

// reportsStreams reports whether the client tells of the packets by their streams. Of pion's
// answer, which says so, chooseFeedback leaves that out where the client sends, too.
func (s *subscription) reportsStreams() bool {
	if s.p.sub == nil {
		if section := s.p.sections[s.transceiver.Mid()]; section != nil && section.sends {
			return false
		}
	}
	return s.byStream
}

// reportsSound reports whether the client tells of the transport-wide numbers of sound in a codec.
// For RED that is said of the Opus in it.
func reportsSound(codec webrtc.RTPCodecParameters, negotiated []webrtc.RTPCodecParameters) bool {
	return slices.ContainsFunc(negotiated, func(c webrtc.RTPCodecParameters) bool {
		return interchangeable(c.MimeType, codec.MimeType) && hasFeedback(c, "transport-cc", "")
	})
}

// backup is the codec in which the client can also receive the track, if it gets the
// track's first codec; zero if there is none.
func (s *subscription) backup(sent forward.Codec, negotiated []webrtc.RTPCodecParameters) forward.Codec {
	list := *s.track.codecs.Load()
	if !interchangeable(list[0].MimeType, sent.MimeType) {
		return forward.Codec{}
	}
	c, ok := pickDownstream(list[1:], negotiated)
	if !ok || interchangeable(c.MimeType, sent.MimeType) {
		return forward.Codec{}
	}
	fc := forwardCodec(c, negotiated)
	if (fc.RTXPayloadType == 0) != (sent.RTXPayloadType == 0) {
		return forward.Codec{}
	}
	return fc
}

// earlyMedia is how long media waits after our answer, on a single peer connection, for
// clients built on pion. If packets arrive before such a client has read the answer, it
// takes them for an unknown stream of its own: it consumes the first ten, competes with
// the track's own reader, and ends the track's reports.
const earlyMedia = 150 * time.Millisecond

// start begins forwarding.
func (s *subscription) start(cfg *forward.ForwarderConfig) {
	t := s.p.down()
	cfg.StreamFeedback = s.reportsStreams()
	s.forwarder = s.track.AddForwarder(*cfg)
	if s.settings != nil {
		s.forwarder.SetSettings(*s.settings)
	}
	s.p.follow(s.forwarder)
	t.ingress.onRTCP(s.ssrc, s.forwarder.HandleRTCP)
	if s.rtx != 0 {
		t.ingress.onRTCP(s.rtx, s.forwarder.HandleRTCP)
	}
	s.p.later(func() {
		if s.p.subs[s.sid] == s {
			s.p.cfg.Events.Subscribed(s.sid)
		}
	})
}

// Unbind implements webrtc.TrackLocal.
func (s *subscription) Unbind(webrtc.TrackLocalContext) error {
	s.unbind()
	return nil
}

func (s *subscription) unbind() {
	s.bound++
	if s.forwarder == nil {
		return
	}
	in := s.p.down().ingress
	in.onRTCP(s.ssrc, nil)
	if s.rtx != 0 {
		in.onRTCP(s.rtx, nil)
	}
	s.forwarder.Close()
	if s.writer.Retire() {
		s.p.needsReconnect("its media needs new keys")
	}
	s.p.unfollow(s.forwarder)
	s.forwarder = nil
}

// streamState tells the client that a video starts, pauses or continues.
func (s *subscription) streamState(state livekit.StreamState) {
	s.p.cfg.Signals.StreamState(s.ask.PublisherSID, s.sid, state)
}
