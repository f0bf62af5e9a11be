package media

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/pion/webrtc/v4"

	"parlor/media/forward"
)

// maxPacket is the length of the largest RTP packet that is accepted, in bytes.
const maxPacket = 1500

// remoteStream is called when pion has found the section of an RTP stream.
func (p *Peer) remoteStream(t *transport, ssrc uint32, rid string, receiver *webrtc.RTPReceiver) {
	if t != p.pub {
		t.ingress.detach(ssrc) // the client may not publish on this transport
		return
	}
	tr := receiver.RTPTransceiver()
	if tr == nil {
		return
	}
	s := p.sections[tr.Mid()]
	if s == nil {
		p.engine.counters.unknownSections.Add(1)
		return
	}
	if s.isRepair(ssrc) {
		s.repairedBy(rid, ssrc)
		return
	}
	if s.isForeign(ssrc, rid) {
		t.ingress.detach(ssrc)
		return
	}
	p.startStream(s.stream(ssrc, rid))
}

// isRepair reports whether the first packet of a new stream is a retransmission (RFC 4588). A
// client that repeats packets as they were, with their rid in place of the repaired rid of RFC
// 8852, is understood by this: such a stream must not take the place of the one that it repairs.
func (s *upSection) isRepair(ssrc uint32) bool {
	for _, u := range s.streams {
		if u.ssrc == ssrc || u.repair == ssrc {
			return u.repair == ssrc
		}
	}
	pt, ok := s.t.ingress.firstType(ssrc)
	return ok && slices.ContainsFunc(s.negotiatedCodecs(), func(c webrtc.RTPCodecParameters) bool {
		return uint8(c.PayloadType) == pt && strings.EqualFold(c.MimeType, mimeRTX)
	})
}

// isForeign reports whether a new stream with the rid of a layer that comes already begins with a
// payload type that was not negotiated for the section. It may repair the layer forwards, which we
// do not take, and must not take its place.
func (s *upSection) isForeign(ssrc uint32, rid string) bool {
	if !slices.ContainsFunc(s.streams, func(u *upStream) bool { return u.rid == rid && u.ssrc != ssrc && u.layer != nil }) {
		return false
	}
	pt, ok := s.t.ingress.firstType(ssrc)
	return ok && !slices.ContainsFunc(s.negotiatedCodecs(), func(c webrtc.RTPCodecParameters) bool { return uint8(c.PayloadType) == pt })
}

// floodedWithStreams makes a client reconnect that begins too many streams.
func (p *Peer) floodedWithStreams() {
	p.engine.counters.streamFloods.Add(1)
	p.needsReconnect("too many RTP streams")
}

// startStream connects a stream to its track as soon as the stream's section is claimed
// and its first packet has told its codec.
func (p *Peer) startStream(u *upStream) {
	if u.s.pub == nil || u.layer != nil {
		return
	}
	in := u.s.t.ingress
	in.whenFirst(u.ssrc, func(pt uint8) { p.post(func() { p.openLayer(u, pt) }) })
}

// openLayer makes the layer of a stream whose first packet has payload type pt.
func (p *Peer) openLayer(u *upStream, pt uint8) {
	s := u.s
	if s.pub == nil || u.layer != nil || !slices.Contains(s.streams, u) {
		return
	}
	all := s.negotiatedCodecs()
	i := slices.IndexFunc(all, func(c webrtc.RTPCodecParameters) bool { return uint8(c.PayloadType) == pt })
	if i < 0 || !isPrimary(all[i].MimeType) {
		// The packet is padding before the media, or its codec was not negotiated: look
		// at the next.
		s.t.ingress.skipFirst(u.ssrc)
		p.startStream(u)
		return
	}
	fc := forwardCodec(all[i], all)
	pub := s.pub
	if pub.track != nil && pub.main == s && !interchangeable(fc.MimeType, s.codec.MimeType) {
		p.replaceTrack(pub)
	}
	p.publish(s, all[i])
	if pub.track == nil {
		return
	}
	ext := s.extensions()
	twcc := s.t.feedback(s.kind, ext)
	if twcc != nil {
		twcc.SetMediaSSRC(u.ssrc) // libwebrtc ignores feedback that names a stream of another client
	}
	u.layer = pub.track.AddLayer(forward.LayerConfig{
		RID: u.rid, SSRC: u.ssrc, Codec: fc, Ext: ext, Quality: u.quality(),
		WriteRTCP: s.t.writeRTCP, TWCC: twcc, REMB: s.t.estimate(all),
		NoNACK: pub.kind == webrtc.RTPCodecTypeVideo && !hasFeedback(all[i], "nack", ""),
		FIR:    !hasFeedback(all[i], "nack", "pli") && hasFeedback(all[i], "ccm", "fir"),
	})
	if rtt := s.t.roundTrip(); rtt > 0 {
		u.layer.SetRTT(rtt)
	}
	p.follow(u.layer)
	u.pt, u.redPT, u.reopening = pt, 0, false
	if strings.EqualFold(fc.MimeType, mimeOpus) {
		if c, ok := pickCodec(forward.Codec{MimeType: mimeRED}, all); ok {
			u.redPT = uint8(c.PayloadType)
		}
	}
	in := s.t.ingress
	in.onRTCP(u.ssrc, u.layer.HandleRTCP)
	mid, ssrc, rid := s.mid, u.ssrc, u.rid
	in.attach(u.ssrc, u.taker(u.sink, func() { p.streamAgain(ssrc, mid, rid) }))
	u.attachRepair()
	p.tellSoon(pub)
}

// replaceTrack ends a publication's media so that it can begin again: the client sends
// another codec than announced, which the track's forwarders cannot send. The next
// publish under the same SID brings the new media.
func (p *Peer) replaceTrack(pub *publication) {
	pub.track.Close()
	pub.track, pub.told = nil, false
	for _, s := range pub.parts() {
		for _, u := range s.streams {
			if u.layer != nil {
				u.end()
				p.startStream(u)
			}
		}
	}
}

// interchangeable reports whether forwarders can turn one codec into the other.
func interchangeable(a, b string) bool {
	isOpus := func(m string) bool { return strings.EqualFold(m, mimeOpus) || strings.EqualFold(m, mimeRED) }
	return strings.EqualFold(a, b) || (isOpus(a) && isOpus(b))
}

func hasFeedback(c webrtc.RTPCodecParameters, kind, parameter string) bool {
	return slices.Contains(c.RTCPFeedback, webrtc.RTCPFeedback{Type: kind, Parameter: parameter})
}

// extensions are the header extensions that the client may use in this section.
func (s *upSection) extensions() forward.Extensions {
	tr := s.t.transceiver(s.mid)
	if tr == nil || tr.Receiver() == nil {
		return forward.Extensions{}
	}
	return extensionIDs(tr.Receiver().GetParameters().HeaderExtensions)
}

// repairStream is called by the ingress for a stream that retransmits the packets of
// another. It runs on a reading goroutine.
func (p *Peer) repairStream(ssrc uint32, mid, rid string) {
	p.post(func() {
		if s := p.sections[mid]; s != nil {
			s.repairedBy(rid, ssrc)
		}
	})
}

// repairedBy gives a stream the packets of the one that repairs it. If the latter comes first, it
// is remembered.
func (s *upSection) repairedBy(rid string, ssrc uint32) {
	found := false
	for _, u := range s.streams {
		if u.rid != rid {
			continue
		}
		if found = true; u.repair == ssrc {
			continue
		}
		if u.repair != 0 {
			s.t.ingress.detach(u.repair)
		}
		u.repair = ssrc
		if u.layer != nil {
			u.attachRepair()
			s.p.tellSoon(s.pub)
		}
	}
	if !found && slices.Contains(s.rids, rid) {
		if s.early == nil {
			s.early = map[string]uint32{}
		}
		s.early[rid] = ssrc
	}
}

func (u *upStream) attachRepair() {
	if u.repair == 0 {
		return
	}
	if u.scratch == nil {
		u.scratch = make([]byte, maxPacket)
	}
	mid, rid, repair := u.s.mid, u.rid, u.repair
	u.s.t.ingress.attach(repair, u.taker(u.repairSink, func() { u.s.p.repairStream(repair, mid, rid) }))
}

// taker takes the packets of the stream, or of the one that repairs it.
func (u *upStream) taker(sink rtpSink, again func()) taker {
	layer := u.layer
	return taker{sink: sink, wide: func() bool { return layer.Forwarders() > fewForwarders }, again: again}
}

// streamAgain is called by the ingress when packets arrive for a stream that pion has
// closed, as when a client sends in a section again. It runs on a reading goroutine.
func (p *Peer) streamAgain(ssrc uint32, mid, rid string) {
	p.post(func() {
		if s := p.sections[mid]; s != nil && s.sends {
			p.startStream(s.stream(ssrc, rid))
		}
	})
}

// sink takes the stream's packets on a reading goroutine.
func (u *upStream) sink(packet []byte, arrival time.Time) {
	if len(packet) < 2 || !u.allowed.Load() {
		return
	}
	if pt := packet[1] & 0x7f; pt == u.redPT && pt != 0 && !u.reopening {
		u.reopening = true
		u.s.p.post(func() { u.reopen() })
	}
	u.layer.WriteRTP(packet, arrival)
}

// reopen makes a stream's layer again. A client that sends RED may begin with plain Opus,
// so the first packet did not show that RED follows.
func (u *upStream) reopen() {
	if u.layer != nil && slices.Contains(u.s.streams, u) {
		u.end()
		u.s.p.startStream(u)
	}
}

// repairSink takes the packets of the stream that repairs this one, unwraps them, and
// gives the original packets to the layer.
func (u *upStream) repairSink(packet []byte, arrival time.Time) {
	if !u.allowed.Load() {
		return
	}
	if n := unwrapRTX(u.scratch, packet, u.ssrc, u.pt); n > 0 {
		u.layer.WriteRTP(u.scratch[:n], arrival)
		return
	}
	u.s.t.ingress.noteArrival(packet, arrival)
}

// unwrapRTX writes into dst the original packet of a retransmission (RFC 4588, section
// 4). The first two bytes of the retransmission's payload are the original sequence
// number. It returns the length; 0 for a packet without an original (padding) or a
// malformed packet.
func unwrapRTX(dst, packet []byte, ssrc uint32, pt uint8) int {
	if len(packet) < 12 || len(packet) > len(dst) {
		return 0
	}
	header := 12 + 4*int(packet[0]&0x0f)
	if packet[0]&0x10 != 0 {
		if len(packet) < header+4 {
			return 0
		}
		header += 4 + 4*int(binary.BigEndian.Uint16(packet[header+2:]))
	}
	padding := 0
	if packet[0]&0x20 != 0 {
		padding = int(packet[len(packet)-1])
	}
	if len(packet) < header+2+padding || len(packet) == header+2 {
		return 0
	}
	if len(packet) == header+2+padding {
		return 0 // only padding
	}
	n := copy(dst, packet[:header])
	n += copy(dst[n:], packet[header+2:])
	dst[1] = dst[1]&0x80 | pt
	copy(dst[2:4], packet[header:header+2])
	binary.BigEndian.PutUint32(dst[8:], ssrc)
	return n
}

// release ends the section's layers; packets that the client still sends are dropped. The
// streams stay known, because another track may follow in the same section.
func (s *upSection) release() {
	for _, u := range s.streams {
		u.end()
	}
	s.pub, s.codec = nil, forward.Codec{}
}

func (u *upStream) end() {
	in := u.s.t.ingress
	in.detach(u.ssrc)
	in.onRTCP(u.ssrc, nil)
	if u.repair != 0 {
		in.detach(u.repair)
	}
	if u.layer != nil {
		u.layer.Close()
		u.s.p.unfollow(u.layer)
		u.layer = nil
	}
}
