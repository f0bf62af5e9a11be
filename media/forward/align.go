package forward

import "parlor/media/forward/packet"

// Bounds of plausible timestamps, in seconds.
const (
	maxBackward = 1  // how far timestamps may go back, as those of pictures out of display order do
	maxForward  = 10 // how far a source may be ahead of the clock
	maxSkew     = 1  // how far sender reports may differ from the clock
)

// timeline relates the forwarded timestamps to the publisher's clock. Receivers play
// sound and picture in sync by that relation, which they average over many sender reports
// (as libwebrtc does), so it must not change when the source does.
//
// A new source whose sender reports are not known yet is aligned by the time between
// arrivals, which differ from the times of capture. When its first report comes, its
// offset is corrected: receivers notice a step in the timestamps less than one in the
// relation.
type timeline struct {
	clock senderReport // the publisher's clock, in outgoing timestamps; invalid: not known yet
	// reported: the offset of the source agrees with its sender reports.
	reported bool
	// due is the offset that frames get as soon as their timestamps are after the last
	// one with it, if unsettled.
	due       uint32
	unsettled bool
	since     int64 // number of the first packet with the present offset
	// strange counts the last reports in a row that do not describe the source's timestamps,
	// the newest of which came at strangeAt.
	strange   int
	strangeAt int64
}

// mostStrange is how many reports in a row are not believed. A publisher whose reports are
// always about other timestamps, such as one that sends long after it has captured, has no
// better ones.
const mostStrange = 5

// align sets the offset with which l, beginning with p, continues the forwarded
// timestamps. mu is held.
//
// If the new source has another clock rate, as a backup codec may (RFC 7160 is about such
// streams), the time since the last packet counts at the former rate.
//
// If the sender reports of both sources are known, the offset puts the new source where
// the old one would be at the same moment of the publisher's clock. Otherwise it follows
// from the time between arrivals.
func (f *Forwarder) align(l *Layer, p *packet.Packet) {
	f.line.since = p.Ext
	if !f.anchor.valid {
		f.offset = 0
		return
	}
	byClock := f.byClock(p)
	out := byClock
	if l == f.current && p.Generation == f.generation {
		out = p.Timestamp + f.dueOffset()
		if !f.plausible(out, byClock) {
			out, f.line.reported = byClock, false
		}
	} else {
		f.followReports()
		if f.codecOf(l).rate() != f.rate {
			f.line.clock = senderReport{}
		}
		f.line.reported = false
		f.line.strange, f.line.strangeAt = 0, 0
		if r := l.senderReport(); f.describes(r, p.Generation, p.Timestamp, p.Arrival) {
			if offset, ok := f.byReport(r); ok && f.near(p.Timestamp+offset, byClock) && f.plausible(p.Timestamp+offset, byClock) {
				out, f.line.reported = p.Timestamp+offset, true
			}
		}
	}
	f.offset, f.line.unsettled = out-p.Timestamp, false
	// Strictly after the last timestamp: two frames must not share one.
	if int32(out-f.anchor.timestamp) <= 0 {
		f.line.due, f.line.unsettled = f.offset, f.video
		f.offset = f.anchor.timestamp + 1 - p.Timestamp
	}
}

// dueOffset is the offset that the present source gets in the end.
func (f *Forwarder) dueOffset() uint32 {
	if f.line.unsettled {
		return f.line.due
	}
	return f.offset
}

// settle gives a new frame the offset that is due, or the smallest one with which its
// timestamp is after the last one. mu is held.
func (f *Forwarder) settle(p *packet.Packet) {
	if !f.line.unsettled || p.Timestamp+f.offset == f.anchor.timestamp {
		return
	}
	f.line.since = p.Ext
	if int32(p.Timestamp+f.line.due-f.anchor.timestamp) > 0 {
		f.offset, f.line.unsettled = f.line.due, false
		return
	}
	f.offset = f.anchor.timestamp + 1 - p.Timestamp
}

// lateOffset is the offset for a late packet with an outgoing number: that of its frame,
// which the packet next to it on one of its sides tells. If its whole frame is late, it is
// that of a frame beside it with which its timestamp is between theirs. mu is held.
func (f *Forwarder) lateOffset(l *Layer, p *packet.Packet, out int64) uint32 {
	if p.Ext >= f.line.since {
		return f.offset
	}
	offset, any := f.offset, false
	for _, step := range [...]int64{-1, 1} {
		s, ok := f.beside(l, p.Generation, out, step)
		if !ok {
			continue
		}
		next := l.get(s.ext, s.generation)
		if next == nil {
			continue
		}
		timestamp := next.Timestamp
		next.Release()
		switch {
		case timestamp == p.Timestamp:
			return s.offset
		case !any, step > 0 && int32(p.Timestamp+offset-timestamp-s.offset) >= 0:
			offset, any = s.offset, true
		}
	}
	return offset
}

// beside is the forwarded packet of a source that is next to an outgoing number in a
// direction. mu is held.
func (f *Forwarder) beside(l *Layer, generation uint32, out, step int64) (s sent, ok bool) {
	for out += step; f.history.reaches(out, f.numbers.LastOut()); out += step {
		if s, ok = f.history.get(uint16(out)); ok && s.layer == l && s.generation == uint16(generation) {
			return s, true
		}
	}
	return sent{}, false
}

// followReports takes the relation to the publisher's clock from the last sender report
// of the current source, and corrects the offset of a source of which it is the first. mu
// is held.
func (f *Forwarder) followReports() {
	if f.current == nil || !f.anchor.valid {
		return
	}
	r := f.current.senderReport()
	offset := f.dueOffset()
	if !r.valid || r.generation != f.generation {
		return
	}
	if f.describes(r, f.generation, f.anchor.timestamp-f.offset, f.anchor.arrival) {
		f.line.strange = 0
	} else {
		if r.at != f.line.strangeAt {
			f.line.strange, f.line.strangeAt = f.line.strange+1, r.at
		}
		if f.line.strange < mostStrange {
			return
		}
	}
	if !f.line.reported && f.video {
		if due, ok := f.byReport(r); ok && due != offset && f.near(due, offset) {
			offset = due
			f.line.due, f.line.unsettled = due, true
		}
	}
	f.line.clock, f.line.reported = r, true
	f.line.clock.rtp += offset
}

// describes reports whether a sender report is about a source's present timestamps, of
// which one is given. It may be of another source, or from before a pause in which the
// timestamps stood still.
func (f *Forwarder) describes(r senderReport, generation, timestamp uint32, arrival int64) bool {
	return r.valid && r.generation == generation &&
		f.near(timestamp, r.rtp+uint32((arrival-r.at)/1000*f.rate/1_000_000))
}

// near reports whether two timestamps differ by no more than sender reports may.
func (f *Forwarder) near(a, b uint32) bool {
	d := int64(int32(a - b))
	return max(d, -d) <= maxSkew*f.rate
}

// rebase keeps the forwarded timestamps steady when those of the current source jump. mu
// is held.
func (f *Forwarder) rebase(p *packet.Packet) {
	if !f.anchor.valid || p.Timestamp+f.offset == f.anchor.timestamp {
		return
	}
	if byClock := f.byClock(p); !f.plausible(p.Timestamp+f.offset, byClock) {
		if int32(byClock-f.anchor.timestamp) <= 0 {
			byClock = f.anchor.timestamp + 1
		}
		f.offset = byClock - p.Timestamp
		f.line.unsettled, f.line.reported, f.line.since = false, false, p.Ext
		f.line.strange, f.line.strangeAt = 0, 0
	}
}

// byClock is the timestamp for p that follows from the time since the last packet.
func (f *Forwarder) byClock(p *packet.Packet) uint32 { return f.clockAt(p.Arrival) }

// clockAt is the timestamp for a packet of now that follows from the time since the last
// packet.
func (f *Forwarder) clockAt(now int64) uint32 {
	elapsed := max(now-f.anchor.arrival, 0)
	return f.anchor.timestamp + uint32(elapsed/1000*f.rate/1_000_000)
}

// plausible reports whether a timestamp may follow the anchor: it is not far behind the
// anchor, and not far ahead of the clock.
func (f *Forwarder) plausible(out, byClock uint32) bool {
	return int32(out-f.anchor.timestamp) >= -maxBackward*int32(f.rate) &&
		int64(int32(out-byClock)) <= maxForward*f.rate
}

// byReport is the offset of a source that follows from its sender report and those of the
// sources before it.
func (f *Forwarder) byReport(r senderReport) (uint32, bool) {
	clock := &f.line.clock
	const hour = int64(3600) << 32
	between := int64(r.ntp - clock.ntp)
	if !clock.valid || between > hour || between < -hour {
		return 0, false
	}
	// Seconds in 32.32 fixed point times Hz would overflow, so whole seconds are
	// multiplied separately.
	ticks := between>>32*f.rate + (between&0xffffffff)*f.rate>>32
	return clock.rtp + uint32(ticks) - r.rtp, true
}
