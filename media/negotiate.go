package media

import (
	"fmt"
	"slices"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"
)

// HandleOffer takes the client's offer: of its publishing connection, or of the
// only one.
func (p *Peer) HandleOffer(d Description) {
	p.postDescription("offer", d, p.answerOffer)
}

// HandleAnswer takes the client's answer to our offer (two peer connections).
func (p *Peer) HandleAnswer(d Description) {
	p.postDescription("answer", d, p.takeAnswer)
}

// maxDescriptionsWaiting bounds the bytes of a client's descriptions that wait for
// its peer's loop: they are long, and take longer to apply than to send.
const maxDescriptionsWaiting = 4 * maxDescription

// postDescription queues f, which applies d, if d passes the screen. A client that
// describes more than its loop gets done, or that does not pass, has to start again.
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

// HandleCandidate takes a candidate of the client.
func (p *Peer) HandleCandidate(c Candidate) {
	p.postFromClient(func() { p.trickle(c) })
}

// Resume is called when the client's signalling is back: it repeats what the client may
// have missed, also what is wanted of its tracks and which videos are paused. With two
// peer connections it gets an offer that restarts ICE; with one it restarts ICE itself,
// by its own offer.
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
			p.single.asked = false // it may never have heard
			p.single.requested = sectionCount{}
			p.single.dirty = p.single.dirty || p.unplaced() != (sectionCount{})
			return
		}
		if p.sub.offered {
			// Whether the offer or its answer was lost we cannot know; both are
			// mended by the same offer again. The restart follows its answer.
			p.sub.restartNext = true
			p.sendOffer(*p.sub.lastOffer)
			return
		}
		if p.sub.lastOffer != nil {
			p.sub.restartNext = true
		}
	})
}

// negotiate does what the tasks before it made necessary. The loop calls it each
// time that its queue is empty, so that what was asked together is one offer.
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
	text, err := shapeOffer(offer.SDP, p.downShapes(t), p.mayBePion())
	if err != nil {
		return err
	}
	sections, err := parseOffer(text, nil)
	if err != nil {
		return fmt.Errorf("read our own offer: %w", err)
	}
	t.mids = mids(sections)
	t.retirementOffered()
	t.offerID++
	t.offered = true
	t.lastOffer = &Description{SDP: text, ID: t.offerID, Tracks: t.midToTrack()}
	p.sendOffer(*t.lastOffer)
	return nil
}

// mayBePion reports whether the client's WebRTC may be pion: the Go SDK's is.
func (p *Peer) mayBePion() bool {
	sdk := p.cfg.Client.GetSdk()
	return sdk == livekit.ClientInfo_GO || sdk == livekit.ClientInfo_UNKNOWN
}

func (p *Peer) sendOffer(d Description) {
	if p.connected { // a client that never connected has JoinTimeout
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
	// Not all clients number their answers. One that answers an offer twice, since
	// it was sent twice, must not have the second taken for the answer to the next,
	// which restarts ICE: then it has new credentials.
	if remote := t.pc.CurrentRemoteDescription(); t.restarting && remote != nil && iceUfrag(remote.SDP) == iceUfrag(d.SDP) {
		p.log.Debug("answer to an offer before the last")
		return
	}
	t.offered = false
	p.answerTimer.Stop()
	t.noteClientCodecs(sections)
	p.failRejected(sections)
	text, err := asInactive(d.SDP, t.lastOffer.SDP, sections)
	if err == nil {
		err = t.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: text})
	}
	if err != nil {
		p.refuse("answer", err)
		return
	}
	t.retirementAgreed()
	p.flushCandidates(t, d.SDP)
}

// failRejected fails the subscriptions whose sections the client rejects in its
// answer: it has no codec for them.
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

// refuse ends a session in which the client's description cannot be taken: without
// an answer the client would wait in vain, so it has to start again.
func (p *Peer) refuse(what string, err error) {
	p.engine.counters.badOffers.Add(1)
	p.log.Info(what+" refused", "error", err)
	p.needsReconnect("the client's " + what + " cannot be used")
}

// answerOffer negotiates what the client offers. Sections that are of no use are
// answered with port 0.
func (p *Peer) answerOffer(d Description) {
	t := p.pub
	sections, err := parseOffer(d.SDP, t.mids)
	if err != nil {
		p.refuse("offer", err)
		return
	}
	p.engine.codecs.rejectUnusable(sections)
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

// applyOffer gives pion the client's offer, without what is rejected of it.
func (p *Peer) applyOffer(t *transport, text string, sections []offeredSection) error {
	text, err := withoutRejected(text, sections)
	if err != nil {
		return err
	}
	if text, err = t.keepReceivers(text, sections); err != nil {
		return err
	}
	if err := t.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: text}); err != nil {
		return fmt.Errorf("apply the offer: %w", err)
	}
	return nil
}

// answer is our answer to an offer with those sections, as the client gets it.
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
	text, err := shapeAudio(answer.SDP, p.answerShapes(t))
	if err != nil {
		return "", err
	}
	return withRejected(text, sections, p.mayBePion())
}

// answerShapes is what our answer says of audio: both of what the client sends and
// of what it gets.
func (p *Peer) answerShapes(t *transport) map[string]audioShape {
	shapes := p.downShapes(t)
	for mid, s := range p.sections {
		if s.pub != nil && s.kind == webrtc.RTPCodecTypeAudio && s.sends {
			shapes[mid] = s.pub.audioShape()
		}
	}
	return shapes
}

// keepReceivers changes a client's offer, for pion, so that sections that are
// inactive stay usable: pion stops the receiver of an inactive section for good, if
// it is offered twice. Of a section that only takes media it makes a new receiver,
// and having nothing to send it answers inactive all the same.
func (t *transport) keepReceivers(text string, sections []offeredSection) (string, error) {
	var inactive []string
	for _, s := range sections {
		if s.kind != 0 && !s.sends && !s.receives && !s.rejected && t.transceiver(s.mid) != nil {
			inactive = append(inactive, s.mid)
		}
	}
	return reactivate(text, inactive)
}

// transceiver finds a section's transceiver.
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

// singleState is the negotiation of a single peer connection, where the client
// alone offers and we can only ask it to.
type singleState struct {
	offers    int                            // of the client
	dirty     bool                           // a new offer of the client is wanted
	asked     bool                           // it was asked since its last offer
	requested sectionCount                   // sections asked for since its last offer
	free      map[string]webrtc.RTPCodecType // by mid, as of its last offer
	lacks     map[webrtc.RTPCodecType]bool   // kinds that it has no codec for, as of its last offer
}

// placeSubscriptions gives subscriptions that have none a section in which the
// client takes media, and counts what is left.
func (p *Peer) placeSubscriptions(sections []offeredSection) {
	p.single.offers++
	p.single.asked, p.single.dirty, p.single.requested = false, false, sectionCount{}
	p.single.free = map[string]webrtc.RTPCodecType{}
	for _, onlyTakes := range []bool{true, false} { // those with nothing else in them first
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
	p.single.lacks = p.engine.codecs.lacks(sections)
}

// placeOne gives a section to the subscription of its kind that has waited longest
// and whose track the client can take in it. Those before it, which it cannot take,
// fail: the section is not to be lost with them.
func (p *Peer) placeOne(s *offeredSection, tr *webrtc.RTPTransceiver) bool {
	codecs := p.engine.codecs.supported(s)
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

// requestSections asks the client for an offer with as many free sections as are
// missing, minus those that it has been asked for.
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
