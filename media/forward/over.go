package forward

import (
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"

	"parlor/media/downlink"
	"parlor/media/downlink/allocate"
	"parlor/media/downlink/pacer"
	record "parlor/media/downlink/sent"
	"parlor/media/forward/packet"
)

// overDownlink is a forwarder as its downlink knows it, if it has one: the [Output] that
// gives its packets their numbers, a [downlink.Stream] of whose packets some may wait, and
// a [downlink.Voice] if it is one.
type overDownlink struct {
	f     *Forwarder
	burst downlink.Burst // of what is written with f.mu held
	// number is the transport-wide number of the last written packet; 0 = it has none. f.mu
	// guards it.
	number uint16
}

// Write sends the packet under the transport's next number, a repeat of the same bytes under
// the packet's own.
func (o *overDownlink) Write(h *rtp.Header, payload []byte, kind record.Kind) error {
	f := o.f
	p := downlink.Departing{
		Size: int(f.headerSize) + len(payload) + int(h.PaddingSize), Kind: kind, Wide: f.numbered,
		Named: f.cfg.StreamFeedback && (f.video || f.downlink.Estimates()), SSRC: h.SSRC, Sequence: h.SequenceNumber,
	}
	if p.Wide && f.repeatsItself(kind) {
		former, ok := f.history.transport(h.SequenceNumber)
		if !ok {
			return errForgotten
		}
		f.extScratch.transport = former
		p.Wide, p.Named, p.Again = false, false, uint16(former[0])<<8|uint16(former[1])
		o.burst.Leave(f.now, p)
		o.number = p.Again
		return f.cfg.Output.Write(h, payload, kind)
	}
	n, wide := o.burst.Leave(f.now, p)
	if wide {
		f.extScratch.transport = [2]byte{byte(n >> 8), byte(n)}
	}
	o.number = n
	return f.cfg.Output.Write(h, payload, kind)
}

// Flush implements Output.
func (o *overDownlink) Flush() { o.f.cfg.Output.Flush() }

// WriteRTCP implements Output.
func (o *overDownlink) WriteRTCP(packets []rtcp.Packet) error {
	return o.f.cfg.Output.WriteRTCP(packets)
}

// End implements Output.
func (o *overDownlink) End() {
	o.f.downlink.Remove(o, o)
	o.f.cfg.Output.End()
}

// left ends a burst: the downlink, if there is one, takes note of what was sent, and others
// may send. f.mu is held.
func (o *overDownlink) left() {
	if o.f != nil {
		o.burst.End(o.f.now)
	}
}

// SSRC implements downlink.Stream.
func (o *overDownlink) SSRC() uint32 { return o.f.cfg.SSRC }

// Repair implements downlink.Stream.
func (o *overDownlink) Repair() uint32 {
	if o.f.hasRTX {
		return o.f.cfg.RTXSSRC
	}
	return o.f.cfg.SSRC
}

// Video implements downlink.Stream.
func (o *overDownlink) Video() bool { return o.f.video }

// Probes implements downlink.Stream.
func (o *overDownlink) Probes() bool { return o.f.probes() }

// Describe implements downlink.Stream.
func (o *overDownlink) Describe(at time.Time) allocate.Track { return o.f.describe(at) }

// Decide implements downlink.Stream.
func (o *overDownlink) Decide(t *allocate.Track, d *allocate.Decision) {
	if o.f.video {
		o.f.setLimit(limitOf(t, d, o.f.oneStream()))
	}
}

// Release implements downlink.Stream.
func (o *overDownlink) Release(ticket int32, verdict pacer.Verdict, at time.Time) {
	o.f.release(ticket, verdict, at)
}

// Pad implements downlink.Stream.
func (o *overDownlink) Pad(size int, at time.Time) bool { return o.f.pad(size, at) }

// Over implements downlink.Stream.
func (o *overDownlink) Over() { o.f.flush() }

// Begin implements downlink.Stream.
func (o *overDownlink) Begin(at time.Time) { o.f.retarget(o.f.track.since(at)) }

// Speaker implements downlink.Voice.
func (o *overDownlink) Speaker() any {
	if v := o.f.track.cfg.Voice; v != nil {
		return v
	}
	return o
}

// Heard implements downlink.Voice.
func (o *overDownlink) Heard(at time.Time) int64 { return o.f.heard(at) }

// Hold implements downlink.Voice.
func (o *overDownlink) Hold(back bool) bool { return o.f.hold(back) }

// setOutput says where the forwarder writes. It is called once, before it does.
func (f *Forwarder) setOutput() {
	f.out = f.cfg.Output
	if f.downlink != nil {
		f.over = overDownlink{f: f, burst: f.downlink.NewBurst()}
		f.out = &f.over
	}
}

// addToDownlink adds f to its downlink, unless f is closed: its track may end meanwhile.
func (f *Forwarder) addToDownlink(at time.Time) {
	if f.downlink == nil {
		return
	}
	var voice downlink.Voice
	if f.isVoice() {
		voice = &f.over
	}
	f.downlink.Add(&f.over, voice, at)
	f.mu.Lock()
	closed := f.closed
	f.mu.Unlock()
	if closed { // Close may have removed it before it was added
		f.downlink.Remove(&f.over, &f.over)
	}
}

// SetStreamFeedback sets [ForwarderConfig.StreamFeedback], which may change with each negotiation.
// It must not be called concurrently with itself.
func (f *Forwarder) SetStreamFeedback(reports bool) {
	f.mu.Lock()
	same, moves := f.cfg.StreamFeedback == reports, f.video && f.downlink != nil
	f.mu.Unlock()
	if same {
		return
	}
	if moves { // the downlink counts the streams that are reported on as they are added
		f.downlink.SetAside(&f.over)
	}
	f.mu.Lock()
	f.cfg.StreamFeedback = reports
	f.mu.Unlock()
	if moves {
		now := time.Now()
		f.addToDownlink(now)
		if !reports {
			f.downlink.Unreported(now)
		}
	}
}

// queue is the packets of a forwarder that wait for their turn on the downlink, by
// ticket.
type queue struct {
	packets []queued
	free    []int32 // tickets of packets that are there no more
}

// queued is a packet that waits. p is held for it.
type queued struct {
	p    *packet.Packet
	s    sent
	kind record.Kind
}

// put gives a packet that waits its ticket.
func (q *queue) put(p queued) (ticket int32) {
	p.p.Retain()
	if n := len(q.free); n > 0 {
		ticket, q.free = q.free[n-1], q.free[:n-1]
		q.packets[ticket] = p
		return ticket
	}
	q.packets = append(q.packets, p)
	return int32(len(q.packets) - 1)
}

// take gives a packet back, which is to be released.
func (q *queue) take(ticket int32) queued {
	p := q.packets[ticket]
	q.packets[ticket] = queued{}
	if q.free = append(q.free, ticket); len(q.free) == len(q.packets) {
		q.packets, q.free = q.packets[:0], q.free[:0]
	}
	return p
}

// deliver sends a packet now or, where the path is narrow, in its turn. mu is held.
func (f *Forwarder) deliver(p *packet.Packet, s *sent, sendTime [3]byte, kind record.Kind) {
	if !f.downlink.Paces() || f.offer(p, s, kind) {
		f.emit(p, s, sendTime, kind)
	}
}

// offer asks whether a packet may leave now. If not it waits, or is dropped. mu is held.
func (f *Forwarder) offer(p *packet.Packet, s *sent, kind record.Kind) (now bool) {
	described := pacer.Packet{
		Stream: f.cfg.SSRC, Size: p.Size, Kind: kind, KeyStart: beginsKey(p) && kind == record.Video,
		Start: p.Frame.Start, End: s.is(sentMarker),
		Needless: kind == record.Repeat && f.extended(s.out) < f.keyAt, Disposable: f.disposable(p),
	}
	ticket := f.queue.put(queued{p, *s, kind})
	verdict := f.downlink.Offer(f.now, described, &f.over, ticket)
	if verdict == pacer.Queued {
		return false // mu keeps its turn from coming before it has its ticket
	}
	f.queue.take(ticket).p.Release()
	switch verdict {
	case pacer.Send:
		return true
	case pacer.Drop, pacer.DropAndAsk:
		f.overdue(s, kind, verdict == pacer.DropAndAsk)
		if verdict == pacer.DropAndAsk {
			f.waiting = s.layer // which the end of the burst asks: mu is held here, and not in release
		}
	}
	return false
}

// disposable reports whether no other frame that is forwarded needs p's, and the receiver can
// tell that from the frames after it. One that goes by the numbers of packets, or by those of
// the base layer to which the frame belongs, would wait for what is missing. mu is held.
func (f *Forwarder) disposable(p *packet.Packet) bool {
	d := &p.VP8
	return d.NonReference && d.TL0PicIdxOffset != 0 && d.HasTID && d.TID > 0
}

// extended is the number that a packet of the last ones left with, unwrapped. mu is held.
func (f *Forwarder) extended(number uint16) int64 {
	last := f.numbers.LastOut()
	return last - int64(uint16(last)-number)
}

// beginsKey reports whether a picture begins with p that needs no other: in SVC its lowest
// layer.
func beginsKey(p *packet.Packet) bool { return p.Frame.Key && p.Frame.Start && p.Frame.Spatial == 0 }

// release does with a packet that has waited what was decided.
func (f *Forwarder) release(ticket int32, verdict pacer.Verdict, at time.Time) {
	f.mu.Lock()
	q := f.queue.take(ticket)
	f.releaseLocked(&q, verdict, at)
	f.mu.Unlock()
	if verdict == pacer.DropAndAsk {
		f.request(q.s.layer, f.track.since(at), false)
	}
	q.p.Release()
}

func (f *Forwarder) releaseLocked(q *queued, verdict pacer.Verdict, at time.Time) {
	defer f.over.left()
	switch {
	case f.closed:
	case verdict == pacer.Send:
		sendTime := absSendTime(at)
		f.now = f.downlink.Since(at)
		if q.kind != record.Repeat {
			f.history.left(q.s.out, sendTime)
		} else if !f.hasRTX {
			sendTime = q.s.sendTime // as it left the first time, see stampsPackets
		}
		f.emit(q.p, &q.s, sendTime, q.kind)
	default:
		f.overdue(&q.s, q.kind, verdict == pacer.DropAndAsk)
	}
}

// overdue follows a packet that is not sent since it waited for too long. broken: what
// comes until the next key frame depends on it. mu is held.
func (f *Forwarder) overdue(s *sent, kind record.Kind, broken bool) {
	f.stats.Overdue++
	if kind == record.Repeat {
		return
	}
	f.history.forget(s.out) // it is not repeated either
	if !broken {
		f.history.declined(f.extended(s.out))
		return
	}
	f.inStep = false
	// What the path dropped is not repeated either.
	first, ok := f.downlink.GapOf(f.cfg.SSRC)
	for last := uint16(f.numbers.LastOut()); ok && int16(last-first) >= 0; first++ {
		f.history.forget(first)
	}
}

// probes reports whether the forwarder can send packets that nobody asked for, and is
// told what becomes of them.
func (f *Forwarder) probes() bool {
	return f.video && f.hasRTX && (f.cfg.Ext.TransportCC != 0 || f.cfg.StreamFeedback)
}

// recent is how many packets back a probe repeats.
const recent = 64

// pad sends a packet that nobody asked for: a recent one again, of at most size bytes
// or little more, or one that is empty but for padding. It reports false when the
// forwarder is closed.
func (f *Forwarder) pad(size int, at time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.over.left()
	if f.closed {
		return false
	}
	f.now = f.downlink.Since(at)
	sendTime := absSendTime(at)
	last := f.numbers.LastOut()
	if f.padded > last || f.padded <= last-recent {
		f.padded = last - recent/2
	}
	for range recent / 2 {
		f.padded++
		if f.padded > last {
			f.padded = last - recent/2
		}
		s, ok := f.history.get(uint16(f.padded))
		if !ok || s.layer == nil {
			continue
		}
		p := s.layer.get(s.ext, s.generation)
		if p == nil {
			continue
		}
		fits := p.Size <= size+size/4
		if fits {
			f.emit(p, &s, sendTime, record.Padding)
		}
		p.Release()
		if fits {
			return true
		}
	}
	f.emitPadding(min(size, 255), sendTime)
	return true
}
