package media

import (
	"fmt"
	"slices"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"
)

// HandleOffer takes the client's offer for its publishing connection, or for its only
// one.
func (p *Peer) HandleOffer(d Description) {
	p.postDescription("offer", d, p.answerOffer)
}

// HandleAnswer takes the client's answer to our offer (two peer connections).
func (p *Peer) HandleAnswer(d Description) {
	p.postDescription("answer", d, p.takeAnswer)
}

// maxDescriptionsWaiting bounds the bytes of a client's session descriptions that wait
// for its peer's loop: descriptions are long, and applying one takes longer than sending
// one.
const maxDescriptionsWaiting = 4 * maxDescription

// postDescription queues f, which applies d if d passes the screen. A client must
// reconnect if it sends descriptions faster than its loop applies them, or if a
// description does not pass.
func (p *Peer) postDescription(what string, d Description, f func(Description)) {
	size := int64(len(d.SDP))
	if p.describing.Add(size) > maxDescriptionsWaiting {
		p.describing.Add(-size)
		p.post(func() { p.needsReconnect("too many session descriptions") })
		return
	}
	p.postFromClient(func() {
		p.describing.Add(-size)
		t := p.pub
		if what == "answer" {
			t = p.sub
		}
		screened, err := p.screen(t, d)
		if err != nil {
			p.engine.counters.badOffers.Add(1)
			p.log.Info(what+" refused", "error", err)
			p.needsReconnect(err.Error())
			return
		}
		f(screened)
	})
}

// HandleCandidate takes an ICE candidate of the client.
func (p *Peer) HandleCandidate(c Candidate) {
	p.postFromClient(func() { p.trickle(c) })
}

// Resume is called when the client's signalling is back. It repeats what the client may
// have missed, among it which qualities of its tracks are wanted and which videos are
// paused. A client with two peer connections gets an offer that restarts ICE; a client
// with one restarts ICE itself by its own offer.
func (p *Peer) Resume() {
	p.post(func() {
		for _, pub := range p.pubs {
			if pub.track != nil {
				pub.track.RepeatQualities()
			}
		}
		for _, s := range p.subOrder {
			if s.forwarder != nil {
				s.forwarder.RepeatState()
			}
		}
		if p.sub == nil {
			p.single.asked = false // the client may have missed the request
			p.single.requested = sectionCount{}
			p.single.dirty = p.single.dirty || p.unplaced() != (sectionCount{})
			return
		}
		if p.sub.offered {
			// We cannot know whether our offer or the client's answer was lost. Repeating
			// the offer mends both. The offer that restarts ICE follows after the answer.
			p.sub.restartNext = true
			p.sendOffer(*p.sub.lastOffer)
			return
		}
		if p.sub.offerID > 0 {
			p.sub.restartNext = true
		}
	})
}

// negotiate does what the tasks before it made necessary. The loop calls it each time
// that its queue is empty, so that several requests become one offer.
func (p *Peer) negotiate() {
	for len(p.deferred) > 0 {
		f := p.deferred[0]
		p.deferred = p.deferred[1:]
		f()
	}
	if p.ended {
		return
	}
	if p.sub == nil {
		p.requestSections()
		return
	}
	t := p.sub
	if !p.started || t.offered || (!t.dirty && !t.restartNext) {
		return
	}
	if len(t.pc.GetTransceivers()) == 0 && !p.cfg.SubscriberPrimary {
		t.dirty = false
		return // an empty offer
	}
	if err := p.offer(t); err != nil {
		p.log.Error("offer not made", "error", err)
		p.needsReconnect("our offer could not be made")
	}
}

func (p *Peer) offer(t *transport) error {
	var options *webrtc.OfferOptions
	t.restarting = t.restartNext && t.state != webrtc.PeerConnectionStateNew
	if t.restarting {
		options = &webrtc.OfferOptions{ICERestart: true}
	}
	t.dirty, t.restartNext = false, false
	offer, err := t.pc.CreateOffer(options)
	if err != nil {
		return fmt.Errorf("create offer: %w", err)
	}
	if err := t.pc.SetLocalDescription(offer); err != nil {
		return fmt.Errorf("set our offer: %w", err)
	}
	text, mids := shapeOffer(offer.SDP, p.downShapes(t), p.mayBePion())
	t.mids = mids
	t.retirementOffered()
	t.offerID++
	t.offered = true
	t.lastOffer = &Description{SDP: text, ID: t.offerID, Tracks: t.midToTrack()}
	p.sendOffer(*t.lastOffer)
	return nil
}

// mayBePion reports whether the client may use pion for WebRTC, as the Go SDK does.
func (p *Peer) mayBePion() bool {
	sdk := p.cfg.Client.GetSdk()
	return sdk == livekit.ClientInfo_GO || sdk == livekit.ClientInfo_UNKNOWN
}

func (p *Peer) sendOffer(d Description) {
	if p.connected { // before it connects, JoinTimeout bounds the wait
		p.answerTimer.Reset(p.engine.cfg.NegotiationTimeout)
	}
	p.cfg.Signals.Offer(d)
}

func (p *Peer) takeAnswer(d Description) {
	t := p.sub
	if t == nil || !t.offered {
		p.log.Debug("answer without an offer", "id", d.ID)
		return
	}
	if d.ID != 0 && d.ID != t.offerID {
		p.log.Debug("answer to another offer", "id", d.ID, "want", t.offerID)
		return
	}
	sections, err := parseOffer(d.SDP, t.mids)
	if err != nil {
		p.refuse("answer", err)
		return
	}
	// Not all clients number their answers. If we sent an offer twice, the client may
	// answer it twice. The second answer must not count as the answer to our next offer:
	// that one restarts ICE, so its answer has new credentials.
	if remote := t.pc.CurrentRemoteDescription(); t.restarting && remote != nil && iceUfrag(remote.SDP) == iceUfrag(d.SDP) {
		p.log.Debug("answer to an offer before the last")
		return
	}
	t.offered = false
	p.answerTimer.Stop()
	t.noteClientCodecs(sections)
	p.failRejected(sections)
	text, err := asInactive(d.SDP, t.lastOffer.SDP, sections)
	t.lastOffer = nil
	if err == nil {
		err = t.takeIn(text)
	}
	if err != nil {
		p.refuse("answer", err)
		return
	}
	t.retirementAgreed()
	p.flushCandidates(t, d.SDP)
}

// takeIn gives pion the client's answer, without the codecs that it has read before in other
// sections, and without what these repeat about the transport. Pion would compare each codec
// with all of ours again, for every section of every answer, and would keep the text; it has
// one list of negotiated codecs for a kind, which only grows.
func (t *transport) takeIn(answer string) error {
	sections := withoutTransport(cutSections(answer))
	var now []uint64
	for i, s := range sections[1:] {
		list := s.codecList()
		if slices.Contains(t.codecLists, list) || slices.Contains(now, list) {
			sections[1+i] = s.withFirstCodec()
		} else if list != 0 {
			now = append(now, list)
		}
	}
	err := t.describe(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: joinSections(sections)})
	if err == nil && len(t.codecLists)+len(now) <= mostCodecLists {
		t.codecLists = append(t.codecLists, now...)
	}
	return err
}

// mostCodecLists bounds the lists of codecs that are remembered of a client's answers. Clients
// have one for each kind.
const mostCodecLists = 16

// failRejected fails the subscriptions whose sections the client rejects in its answer,
// because it has no codec for them.
func (p *Peer) failRejected(answered []offeredSection) {
	for i := range answered {
		if !answered[i].rejected {
			continue
		}
		for _, s := range slices.Clone(p.subOrder) {
			if s.transceiver != nil && s.transceiver.Mid() == answered[i].mid {
				p.failSubscription(s, livekit.SubscriptionError_SE_CODEC_UNSUPPORTED)
			}
		}
	}
}

// refuse makes a client reconnect whose description cannot be applied: without an answer
// it would wait in vain.
func (p *Peer) refuse(what string, err error) {
	p.engine.counters.badOffers.Add(1)
	p.log.Info(what+" refused", "error", err)
	p.needsReconnect("the client's " + what + " cannot be used")
}

// answerOffer answers the client's offer. It rejects sections that are of no use by port
// 0.
func (p *Peer) answerOffer(d Description) {
	t := p.pub
	sections, err := parseOffer(d.SDP, t.mids)
	if err != nil {
		p.refuse("offer", err)
		return
	}
	p.rejectUnusable(sections)
	if p.sub == nil {
		p.unplace(sections)
	}
	_, nothing := anyRejected(sections)
	if !nothing {
		if err := p.applyOffer(t, d.SDP, sections); err != nil {
			p.refuse("offer", err)
			return
		}
	}
	t.mids = mids(sections)
	p.matchSections(sections)
	if p.sub == nil {
		p.placeSubscriptions(sections)
	}
	var text string
	if nothing {
		text, err = rejectAll(sections, p.mayBePion())
	} else {
		text, err = p.answer(t, sections)
	}
	if err != nil {
		p.log.Warn("offer not answered", "error", err)
		p.needsReconnect("the offer cannot be answered")
		return
	}
	p.cfg.Signals.Answer(Description{SDP: text, ID: d.ID, Tracks: t.midToTrack()})
	p.flushCandidates(t, d.SDP)
	p.sectionsNegotiated()
}

// applyOffer gives pion the client's offer without the rejected sections, and without what
// the others repeat about the transport.
func (p *Peer) applyOffer(t *transport, text string, sections []offeredSection) error {
	text, err := withoutRejected(text, sections)
	if err != nil {
		return err
	}
	if text, err = t.keepReceivers(text, sections); err != nil {
		return err
	}
	cut := withoutTransport(cutSections(text))
	if t.role == rolePublisher {
		cut = slices.Clone(cut)
		for i := range cut {
			cut[i] = withoutEstimate(cut[i])
		}
	}
	text = joinSections(cut)
	if err := t.describe(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: text}); err != nil {
		return fmt.Errorf("apply the offer: %w", err)
	}
	return nil
}

// answer makes our answer, in the form that the client gets, to an offer with those
// sections.
func (p *Peer) answer(t *transport, sections []offeredSection) (string, error) {
	p.preferCodecs(t)
	answer, err := t.pc.CreateAnswer(nil)
	if err != nil {
		return "", fmt.Errorf("create answer: %w", err)
	}
	if err := t.pc.SetLocalDescription(answer); err != nil {
		return "", fmt.Errorf("set our answer: %w", err)
	}
	clear(t.retired)
	return withRejected(shapeAnswer(answer.SDP, p.answerShapes(t)), sections, p.mayBePion())
}

// answerShapes lists the format parameters of audio in our answer, for the audio that the
// client sends and for the audio that it receives.
func (p *Peer) answerShapes(t *transport) map[string]audioShape {
	shapes := p.downShapes(t)
	for mid, s := range p.sections {
		if s.pub != nil && s.kind == webrtc.RTPCodecTypeAudio && s.sends {
			shapes[mid] = s.pub.audioShape()
		}
	}
	return shapes
}

// keepReceivers changes a client's offer before pion gets it, so that inactive sections
// stay usable. If a section is offered as inactive twice, pion stops its receiver for
// good. If the offer says that we send in the section, pion makes a new receiver, and
// still answers inactive because it has nothing to send.
func (t *transport) keepReceivers(text string, sections []offeredSection) (string, error) {
	var inactive []string
	for _, s := range sections {
		if s.kind != 0 && !s.sends && !s.receives && !s.rejected && t.transceiver(s.mid) != nil {
			inactive = append(inactive, s.mid)
		}
	}
	return reactivate(text, inactive)
}

// transceiver finds the transceiver of a section; nil if there is none.
func (t *transport) transceiver(mid string) *webrtc.RTPTransceiver {
	for _, tr := range t.pc.GetTransceivers() {
		if tr.Mid() == mid {
			return tr
		}
	}
	return nil
}

// sectionCount counts sections by kind.
type sectionCount struct{ audios, videos int }

func (c *sectionCount) add(kind webrtc.RTPCodecType, n int) {
	if kind == webrtc.RTPCodecTypeAudio {
		c.audios += n
	} else {
		c.videos += n
	}
}

// singleState is the negotiation of a single peer connection, where only the client
// offers and we can only ask it for an offer.
type singleState struct {
	offers    int                            // how many the client has made
	dirty     bool                           // we need a new offer of the client
	asked     bool                           // we asked for one since its last offer
	requested sectionCount                   // sections that we asked for since its last offer
	free      map[string]webrtc.RTPCodecType // by mid, as of its last offer
	lacks     map[webrtc.RTPCodecType]bool   // kinds of media for which it has no codec, as of its last offer
}

// placeSubscriptions gives each subscription without a section one in which the client
// receives media, and notes the sections that stay free.
func (p *Peer) placeSubscriptions(sections []offeredSection) {
	p.single.offers++
	p.single.asked, p.single.dirty, p.single.requested = false, false, sectionCount{}
	p.single.free = map[string]webrtc.RTPCodecType{}
	for _, onlyTakes := range []bool{true, false} { // first the sections in which the client sends nothing
		for i := range sections {
			s := &sections[i]
			if !s.receives || s.sends == onlyTakes {
				continue
			}
			tr := p.pub.transceiver(s.mid)
			if tr == nil || tr.Sender() != nil {
				continue
			}
			if !p.pub.free(tr) || !p.placeOne(s, tr) {
				p.single.free[s.mid] = s.kind
			}
		}
	}
	p.single.lacks = p.codecs.lacks(sections)
}

// placeOne gives a section to the subscription of its kind that has waited longest and
// whose track the client can receive in it. Subscriptions before that one fail, so that
// they do not keep the section from being used.
func (p *Peer) placeOne(s *offeredSection, tr *webrtc.RTPTransceiver) bool {
	codecs := p.codecs.supported(s)
	for {
		sub := p.nextUnplaced(s.kind)
		if sub == nil {
			return false
		}
		if _, has := pickDownstream(*sub.track.codecs.Load(), codecs); has {
			return p.place(sub, tr)
		}
		p.failSubscription(sub, livekit.SubscriptionError_SE_CODEC_UNSUPPORTED)
	}
}

// unplaced counts subscriptions without a section.
func (p *Peer) unplaced() (n sectionCount) {
	for _, s := range p.subOrder {
		if s.transceiver == nil {
			n.add(s.kind, 1)
		}
	}
	return n
}

// requestSections asks the client for an offer with as many more sections as
// subscriptions lack, less those that we already asked for.
func (p *Peer) requestSections() {
	for kind := range p.single.lacks {
		for s := p.nextUnplaced(kind); s != nil; s = p.nextUnplaced(kind) {
			p.failSubscription(s, livekit.SubscriptionError_SE_CODEC_UNSUPPORTED)
		}
	}
	missing := p.unplaced()
	if missing == (sectionCount{}) && !p.single.dirty {
		return
	}
	if p.single.offers == 0 {
		return // the client's first offer comes by itself
	}
	for _, kind := range p.single.free {
		missing.add(kind, -1)
	}
	more := sectionCount{
		audios: max(0, missing.audios-p.single.requested.audios),
		videos: max(0, missing.videos-p.single.requested.videos),
	}
	if p.single.asked && more == (sectionCount{}) {
		return
	}
	p.single.asked = true
	p.single.requested.audios += more.audios
	p.single.requested.videos += more.videos
	p.cfg.Signals.WantSections(more.audios, more.videos)
}
