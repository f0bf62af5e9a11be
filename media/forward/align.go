package forward

import "parlor/media/forward/packet"

// Bounds of belief in timestamps, in seconds.
const (
	maxBackward = 1  // pictures out of display order may go back that far
	maxForward  = 10 // a source may be ahead of the clock that far
	maxSkew     = 1  // reports may differ from the clock that much
)

// align sets the offset with which l, beginning with p, continues what was
// forwarded. mu is held.
//
// Where the new source has another clock rate (a backup codec; RFC 7160 is about such
// streams) the time since the last packet counts at the rate before.
//
// If both sources' sender reports are known the offset puts the new one where
// the old one would be at the same moment of the publisher's clock; otherwise
// the time that went by between arrivals is taken.
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
	// Strictly after what was sent: two frames must not share a timestamp.
	if int32(out-f.anchor.timestamp) <= 0 {
		out = f.anchor.timestamp + 1
	}
	f.offset = out - p.Timestamp
}

// rebase keeps the timestamps going when the current source jumps. mu is held.
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

// byClock is the timestamp for p by the time since the last packet.
func (f *Forwarder) byClock(p *packet.Packet) uint32 { return f.clockAt(p.Arrival) }

// clockAt is the timestamp for what comes now, by the time since the last packet.
func (f *Forwarder) clockAt(now int64) uint32 {
	elapsed := max(now-f.anchor.arrival, 0)
	return f.anchor.timestamp + uint32(elapsed/1000*f.rate/1_000_000)
}

// plausible reports whether a timestamp can follow the anchor: not much behind
// it, not much ahead of the clock.
func (f *Forwarder) plausible(out, byClock uint32) bool {
	return int32(out-f.anchor.timestamp) >= -maxBackward*int32(f.rate) &&
		int64(int32(out-byClock)) <= maxForward*f.rate
}

// byReports is the timestamp for p by the sender reports of l and of the source
// before.
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
	// 32.32 seconds times Hz would overflow: split off the seconds.
	ticks := between>>32*f.rate + (between&0xffffffff)*f.rate>>32
	return from.rtp + f.offset + uint32(ticks) + (p.Timestamp - to.rtp), true
}
