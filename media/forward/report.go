package forward

import (
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"

	record "parlor/media/downlink/sent"
	"parlor/media/forward/packet"
)

// A packet is retransmitted maxAnswers times at most. A request that comes before the last
// answer could have reached the receiver is ignored: one within three quarters of the
// round-trip time, but at least leastIgnored and at most ignoreNACK, also while that time
// is unknown.
const (
	maxAnswers   = 4
	ignoreNACK   = int64(100 * time.Millisecond)
	leastIgnored = int64(10 * time.Millisecond)
)

// idleAfter: a stream that sent no packet for this long sends no reports (RFC 3550,
// section 6.4: a source that has not sent since the second last report is not a sender).
const idleAfter = int64(5 * time.Second)

// HandleRTCP takes the subscriber's RTCP about this stream.
func (f *Forwarder) HandleRTCP(packets []rtcp.Packet) {
	at := time.Now()
	now := f.track.since(at)
	for _, p := range packets {
		switch p := p.(type) {
		case *rtcp.TransportLayerNack:
			if p.MediaSSRC == f.cfg.SSRC {
				f.answer(p.Nacks, at, now)
			}
		case *rtcp.PictureLossIndication:
			if p.MediaSSRC == f.cfg.SSRC {
				f.keyFrameAsked(now)
			}
		case *rtcp.FullIntraRequest:
			for _, e := range p.FIR {
				if e.SSRC == f.cfg.SSRC {
					f.keyFrameAsked(now)
				}
			}
		case *rtcp.ReceiverReport:
			f.receiverReports(p.Reports, at, now)
		case *rtcp.SenderReport:
			f.receiverReports(p.Reports, at, now)
		case *rtcp.ReceiverEstimatedMaximumBitrate:
			f.downlink.Estimated(float64(p.Bitrate), at)
		}
	}
}

// answer retransmits the packets of a NACK that are remembered. If the receiver lacks a
// packet that is forgotten, for example after its network was away, later pictures may
// depend on it, so a keyframe is requested: receivers themselves would ask for one after
// seconds only. There is one such request until the next keyframe is forwarded, so that a
// receiver under lasting loss does not hold the publisher at one keyframe after the other.
// There is none for packets that it asked for while they were remembered: some receivers do
// not take a retransmission for the packet, and ask for it for seconds.
func (f *Forwarder) answer(pairs []rtcp.NackPair, at time.Time, now int64) {
	if f.answerRemembered(pairs, at, now) {
		f.keyFrameNeeded(now)
	}
}

// answerRemembered reports whether the receiver may not go on without a keyframe, and none
// was requested for that since the last one.
func (f *Forwarder) answerRemembered(pairs []rtcp.NackPair, at time.Time, now int64) (stuck bool) {
	sendTime := absSendTime(at)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.now = f.downlink.Since(at)
	for _, pair := range pairs {
		pair.Range(func(number uint16) bool {
			f.stats.NACKs++
			if forgotten := f.answerOne(number, sendTime, now); forgotten && f.video && f.extended(number) >= max(f.keyAt, f.history.asked()+1) && !f.rescued {
				stuck, f.rescued = true, true
				f.stats.Rescues++
			}
			return true
		})
	}
	if f.hasRTX && f.downlink.Lossy() {
		f.answerAgain(pairs, sendTime, now)
	}
	f.over.left()
	f.flushLocked()
	return stuck
}

// answerAgain sends a second copy of what was just retransmitted. On a lossy path an answer
// is lost as often as a packet is, and the receiver asks again a round trip later. The copies
// go behind the answers, because losses come in bursts. A NACK that names a packet many times
// gets one copy. mu is held.
func (f *Forwarder) answerAgain(pairs []rtcp.NackPair, sendTime [3]byte, now int64) {
	for _, pair := range pairs {
		pair.Range(func(number uint16) bool {
			s, ok := f.history.get(number)
			if !ok {
				return true
			}
			r := f.history.repeats(number)
			if r.last != answerTime(now) || !r.once {
				return true
			}
			r.once = false
			if p := s.layer.get(s.ext, s.generation); p != nil {
				f.deliver(p, &s, sendTime, record.Repeat)
				p.Release()
			}
			return true
		})
	}
}

// answerTime is a time in ns as it is kept in little memory: in microseconds, without its
// upper bits.
func answerTime(now int64) uint32 { return uint32(now / int64(time.Microsecond)) }

// sinceAnswer is the time from an answerTime until now, in ns. It goes round after 71 minutes.
func sinceAnswer(now int64, answered uint32) int64 {
	return int64(answerTime(now)-answered) * int64(time.Microsecond)
}

// ignored is how long after an answer requests for the same packet are ignored, in ns.
func (f *Forwarder) ignored() int64 {
	if rtt := int64(f.receipts.get().rtt); rtt > 0 {
		return min(max(rtt*3/4, leastIgnored), ignoreNACK)
	}
	return ignoreNACK
}

// answerCame reports whether the receiver has reported that one of the last retransmissions
// of a packet arrived. mu is held.
func (f *Forwarder) answerCame(r *repeats) bool {
	for _, number := range r.copies {
		if number != 0 && f.downlink.Arrived(number) {
			return true
		}
	}
	return false
}

// answerOne retransmits a packet. It reports whether the packet was sent once and is
// forgotten.
func (f *Forwarder) answerOne(number uint16, sendTime [3]byte, now int64) (forgotten bool) {
	s, ok := f.history.get(number)
	if !ok {
		f.stats.Misses++
		return f.history.forgot(number)
	}
	r := f.history.repeats(number)
	if r.count >= maxAnswers || r.count > 0 && (sinceAnswer(now, r.last) < f.ignored() || f.answerCame(r)) {
		return false
	}
	if !f.hasRTX {
		if f.stampsPackets() && !s.is(sentDeparted) {
			f.stats.Misses++
			return false
		}
		sendTime = s.sendTime // as it left the first time, see stampsPackets
	}
	if s.empty != 0 {
		r.count, r.last = r.count+1, answerTime(now)
		f.emitEmpty(&s, sendTime, record.Repeat)
		return false
	}
	var p *packet.Packet
	if s.layer != nil {
		p = s.layer.get(s.ext, s.generation)
	}
	if p == nil {
		f.stats.Misses++
		return r.count == 0
	}
	r.count, r.last, r.once = r.count+1, answerTime(now), true
	f.deliver(p, &s, sendTime, record.Repeat)
	p.Release()
	return false
}

// keyDoubted is the longest time after a keyframe for which it may be doubted whether it came.
const keyDoubted = int64(2 * time.Second)

// keyFrameAsked passes a subscriber's request on to the layer that it concerns. One that the
// subscriber made before the last keyframe could reach it waits until that is reported: the
// keyframe serves it, unless it was lost.
func (f *Forwarder) keyFrameAsked(now int64) {
	f.mu.Lock()
	f.stats.KeyRequests++
	served := f.inStep && f.keyAt != 0 && sinceAnswer(now, f.keySent) < f.ignored()
	f.doubted = f.doubted || served
	f.mu.Unlock()
	if !served {
		f.keyFrameNeeded(now)
	}
}

// keyMissed is true once the receiver has reported that the first packet of the last keyframe did
// not arrive, unless it asked for that again. The doubt ends with that, with its arrival, or after a
// while: a receiver may report nothing. mu is held.
func (f *Forwarder) keyMissed(now int64) bool {
	numbered := f.keyNumber != 0 // it does not wait for its turn any more
	lost := numbered && f.downlink.Missed(f.keyNumber)
	switch {
	case f.inStep && !lost && !(numbered && f.downlink.Arrived(f.keyNumber)) && sinceAnswer(now, f.keySent) < keyDoubted:
		return false
	case !f.inStep || !lost:
		f.doubted = false
		return false
	}
	f.doubted = false
	r := f.history.repeats(uint16(f.keyAt))
	return r == nil || r.count == 0
}

// keyFrameNeeded requests a keyframe of the layer that is forwarded, or will be.
func (f *Forwarder) keyFrameNeeded(now int64) {
	f.mu.Lock()
	l := f.target
	if f.inStep {
		l = f.current
	}
	if f.closed {
		l = nil
	}
	start := !f.inStep
	f.mu.Unlock()
	f.request(l, now, start)
}

// receiverReports handles the report blocks about this stream (RFC 3550, section 6.4.1). It
// does not wait for packets that are being sent.
func (f *Forwarder) receiverReports(reports []rtcp.ReceptionReport, at time.Time, now int64) {
	for i := range reports {
		if reports[i].SSRC != f.cfg.SSRC {
			continue
		}
		r := f.receipts.take(&reports[i], !f.track.screen.Load(), now) // a screen's frames come as it changes
		f.downlink.Lost(r.fractionLost(), r.rtt, at)
	}
}

// tick does the forwarder's periodic work, once a second.
func (f *Forwarder) tick(at time.Time, now int64) {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return
	}
	f.stats.measure(now)
	f.countLocked()
	report := f.senderReportLocked(now)
	request, start := f.retargetLocked(true), !f.inStep
	f.makeLocked(at, now)
	f.mu.Unlock()
	if report != nil {
		if f.out.WriteRTCP(report) != nil {
			f.mu.Lock()
			f.stats.RTCPErrors++
			f.mu.Unlock()
		}
		f.dirty.Store(true)
	}
	f.request(request, now, start)
	f.downlink.Tick(at)
}

func (s *forwarderState) measure(now int64) {
	if elapsed := now - s.since; elapsed > longestMeasure {
		s.since, s.bytes0, s.frames0 = now, s.Bytes, s.Frames
	} else if elapsed >= int64(time.Second)/2 {
		seconds := float64(elapsed) / float64(time.Second)
		s.Bitrate = uint64(float64(s.Bytes-s.bytes0) * 8 / seconds)
		s.FPS = float64(s.Frames-s.frames0) / seconds
		s.since, s.bytes0, s.frames0 = now, s.Bytes, s.Frames
	}
}

// senderReportLocked is a sender report by the publisher's clock; nil while that is
// unknown. The publisher's clock is the same for all its tracks, which allows a receiver
// to play them in sync. If the source that is forwarded now has no reports, those of the
// source before go on.
func (f *Forwarder) senderReportLocked(now int64) []rtcp.Packet {
	s := &f.stats
	if !f.inStep || !s.started || now-s.lastSent > idleAfter {
		return nil
	}
	f.followReports()
	source := f.line.clock
	if !source.valid {
		return nil
	}
	elapsed := max(now-source.at, 0)
	ntp := source.ntp + uint64(elapsed/1e9)<<32 + uint64(elapsed%1e9)<<32/1e9
	sr := &rtcp.SenderReport{
		SSRC:        f.cfg.SSRC,
		NTPTime:     ntp,
		RTPTime:     source.rtp + uint32(elapsed/1000*f.rate/1_000_000),
		PacketCount: s.packets,
		OctetCount:  s.octets,
	}
	f.receipts.reports(ntp, now)
	return []rtcp.Packet{sr, &rtcp.SourceDescription{Chunks: []rtcp.SourceDescriptionChunk{{
		Source: f.cfg.SSRC,
		Items:  []rtcp.SourceDescriptionItem{{Type: rtcp.SDESCNAME, Text: f.cfg.CNAME}},
	}}}}
}

// Stats returns statistics of the packets that were sent.
func (f *Forwarder) Stats() ForwarderStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stats.ForwarderStats
	r := f.receipts.get()
	s.FractionLost, s.Lost, s.Jitter, s.RTT = r.fractionLost(), uint64(r.lost), r.jitterTime(), r.rtt
	s.SSRC = f.cfg.SSRC
	s.Wanted = f.wantedLocked()
	s.Target, s.Current = f.qualityOf(f.target), f.shownLocked()
	if f.video {
		s.Width, s.Height = f.track.sizes.Load().of(s.Current)
	}
	s.Shortfall = f.shortfallLocked(s.Wanted)
	s.Bandwidth = f.downlink.Bandwidth()
	return s
}

// shownLocked is the quality that is forwarded now. mu is held.
func (f *Forwarder) shownLocked() livekit.VideoQuality {
	if !f.inStep {
		return livekit.VideoQuality_OFF
	}
	if top := f.current.spatialLayers(); top > 1 && f.alone(f.current) {
		return livekit.VideoQuality(min(f.selector.quality(uint8(top-1)), uint8(livekit.VideoQuality_HIGH)))
	}
	return f.qualityOf(f.current)
}

func (f *Forwarder) qualityOf(l *Layer) livekit.VideoQuality {
	if l == nil {
		return livekit.VideoQuality_OFF
	}
	return l.cfg.Quality
}
