package forward

import "parlor/media/forward/packet"

// Bounds of plausible timestamps, in seconds.
const (
	maxBackward = 1  // how far timestamps may go back, as those of pictures out of display order do
	maxForward  = 10 // how far a source may be ahead of the clock
	maxSkew     = 1  // how far sender reports may differ from the clock
)

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
	if !f.anchor.valid {
		f.offset = 0
		return
	}
	byClock := f.byClock(p)
	out := byClock
	switch {
	case l == f.current && p.Generation == f.generation:
		out = p.Timestamp + f.offset
	default:
		if t, ok := f.byReports(l, p); ok && int64(max(int32(t-byClock), int32(byClock-t))) <= maxSkew*f.rate {
			out = t
		}
	}
	if !f.plausible(out, byClock) {
		out = byClock
	}
	// Strictly after the last timestamp: two frames must not share one.
	if int32(out-f.anchor.timestamp) <= 0 {
		out = f.anchor.timestamp + 1
	}
	f.offset = out - p.Timestamp
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

// byReports is the timestamp for p that follows from the sender reports of l and of the
// former source.
func (f *Forwarder) byReports(l *Layer, p *packet.Packet) (uint32, bool) {
	if f.current == nil || f.current == l || f.current.rate != l.rate {
		return 0, false
	}
	from, to := f.current.senderReport(), l.senderReport()
	if !from.valid || !to.valid {
		return 0, false
	}
	const hour = int64(3600) << 32
	between := int64(to.ntp - from.ntp)
	if between > hour || between < -hour {
		return 0, false
	}
	// Seconds in 32.32 fixed point times Hz would overflow, so whole seconds are
	// multiplied separately.
	ticks := between>>32*f.rate + (between&0xffffffff)*f.rate>>32
	return from.rtp + f.offset + uint32(ticks) + (p.Timestamp - to.rtp), true
}
