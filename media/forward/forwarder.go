package forward

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtp"

	"parlor/media/downlink"
	record "parlor/media/downlink/sent"
	"parlor/media/forward/packet"
	"parlor/media/forward/red"
	"parlor/media/forward/sequence"
	"parlor/media/forward/vp8"
)

// burst is the packets of a layer that are forwarded together.
type burst struct {
	layer    *Layer
	packets  []*packet.Packet
	at       time.Time // when it is sent
	sendTime [3]byte   // abs-send-time
}

// absSendTime is a send time in the form of the header extension: NTP seconds in 6.18
// fixed point.
func absSendTime(t time.Time) [3]byte {
	v := ntpTime(t) >> 14
	return [3]byte{byte(v >> 16), byte(v >> 8), byte(v)}
}

// ntpTime is t in NTP's 32.32 fixed point seconds since 1900.
func ntpTime(t time.Time) uint64 {
	ns := uint64(t.UnixNano())
	seconds, rest := ns/1e9, ns%1e9
	return (seconds+2208988800)<<32 | rest<<32/1e9
}

// Forwarder is one subscription of a track. All methods may be called concurrently.
type Forwarder struct {
	track    *Track
	cfg      ForwarderConfig
	family   family
	backup   family // of cfg.Backup; otherCodec: there is none
	plainPT  uint8  // payload type of Opus when the codec, or its backup, is RED
	video    bool
	hasRTX   bool
	out      Output
	over     overDownlink   // out, if there is a downlink
	downlink *downlink.Path // the downlink of out; nil: none

	// listens has the bits of the layers whose packets the forwarder needs now.
	listens atomic.Uint32
	// dirty: packets were written since the last Flush. It is set under mu.
	dirty atomic.Bool
	// heldBack: its sound is not sent, because others are louder. It is set under mu.
	heldBack atomic.Bool

	// telling is held while the stream's state is reported, so that the last report is
	// the present state.
	telling sync.Mutex

	receipts receipts // by a lock of its own

	mu sync.Mutex // guards the following; held while out's Write and Flush are called
	// beginning has the bits of the layers of which a packet is about to be forwarded. It may
	// belong to a keyframe, so none is requested.
	beginning uint32

	// What is wanted:
	settings Settings
	limit    limit
	target   *Layer
	selector selector

	// What is forwarded:
	rate           int64  // clock rate of the last forwarded packet, Hz
	current        *Layer // the last source; nil before the first
	generation     uint32 // of current
	closed         bool   // nothing is, any more
	inStep         bool   // the next packet of current continues the forwarded stream
	broken         bool   // current lost a descriptor structure, and continues with its next keyframe
	numbered       bool   // header has a transport-wide number
	brokenAt       int64
	left           *Layer // the source before current
	leftAt         int64  // number of the last forwarded packet of left
	leftGeneration uint32
	offset         uint32 // from incoming to outgoing timestamps of current
	numbers        sequence.Map
	described      descriptors
	line           timeline
	anchor         anchor // the last forwarded packet
	history        history
	made           int32 // number of substitute frames that were sent
	notices        notices
	rtxNumber      uint16
	header         rtp.Header
	extBytes       int32 // length of the values of header's extensions, as written
	headerSize     int32 // of header, in bytes
	scratch        []byte
	now            int64 // send time of the packet being written, by the downlink's clock
	padded         int64 // number of the packet that a probe retransmitted last
	extScratch     extScratch
	stats          forwarderState
	counted        Traffic // the part of stats that is in the totals
	waiting        *Layer  // the layer of which a keyframe must be requested
	keyAt          int64   // number of the first packet of the last keyframe; 0 = none yet
	keySent        uint32  // when it was sent, as answerTime says
	keyNumber      uint16  // the transport-wide number with which that packet left; 0 = none
	doubted        bool    // the receiver asked for another before it can have reported it
	rescued        bool    // another was requested since, because of forgotten packets
	queue          queue   // of packets that wait in the downlink's pacer

	state, stateTold livekit.StreamState // of video
}

// kind is the downlink's kind for the forwarder's media.
func (f *Forwarder) kind() record.Kind {
	if f.video {
		return record.Video
	}
	return record.Audio
}

// anchor is the last forwarded packet in the order of the stream.
type anchor struct {
	valid     bool
	timestamp uint32 // outgoing
	arrival   int64
}

// notices are callbacks to make after the lock is released.
type notices struct{ firstPacket, active bool }

// forwarderState is the state behind ForwarderStats.
type forwarderState struct {
	ForwarderStats
	since           int64
	bytes0, frames0 uint64
	lastSent        int64  // when the last packet was written
	packets, octets uint32 // of SSRC, for sender reports
	started         bool
}

func newForwarder(t *Track, cfg ForwarderConfig) *Forwarder {
	f := &Forwarder{
		track:    t,
		cfg:      cfg,
		family:   cfg.Codec.family(),
		backup:   cfg.Backup.family(),
		video:    t.video,
		rate:     cfg.Codec.rate(),
		downlink: cfg.Downlink,
		hasRTX:   cfg.RTXSSRC != 0 && cfg.Codec.RTXPayloadType != 0,
		limit:    noLimit(),
		state:    untoldState, stateTold: untoldState,
	}
	f.receipts.rate.Store(f.rate)
	f.setOutput()
	f.history.begin(f.video)
	f.numbers.Start(uint16(rand.Uint32()) & 0x7fff)
	f.rtxNumber = uint16(rand.Uint32()) & 0x7fff
	f.header.Extensions = make([]rtp.Extension, 0, 4)
	if f.video {
		f.header.Extensions = make([]rtp.Extension, 0, 8)
	}
	f.plainPT = plainPayloadType(cfg.Codec)
	if f.backup == redundant {
		f.plainPT = plainPayloadType(cfg.Backup)
	}
	f.settings.Quality = livekit.VideoQuality_HIGH
	if cfg.AdaptiveStream {
		f.settings.Quality = livekit.VideoQuality_LOW
	}
	if cfg.Ext.PlayoutDelay != 0 {
		f.receipts.playout = newPlayout(cfg.MinPlayoutDelay, cfg.MaxPlayoutDelay)
	}
	f.selector.reset()
	return f
}

// plainPayloadType is the subscriber's payload type for Opus that is not wrapped in RED,
// where c is the RED codec.
func plainPayloadType(c Codec) uint8 {
	if pt := c.redPrimary(); c.family() == redundant && pt >= 0 {
		return uint8(pt)
	}
	return c.PayloadType
}

// SetSettings sets the subscriber's wishes.
func (f *Forwarder) SetSettings(s Settings) {
	f.mu.Lock()
	hidden := f.wantedLocked() == livekit.VideoQuality_OFF
	f.settings = s
	shown := f.video && hidden && f.wantedLocked() != livekit.VideoQuality_OFF
	f.mu.Unlock()
	now := time.Now()
	if shown {
		f.downlink.Resume(now)
	} else { // a probe shows whether there is room for more, while there is a picture
		f.downlink.Reallocate(now)
	}
	f.retarget(f.track.since(now))
	f.track.updateQualities(now)
}

// RequestKeyFrame asks the publisher for a keyframe of the forwarded layer. Requests in
// quick succession count as one.
func (f *Forwarder) RequestKeyFrame() { f.keyFrameAsked(f.track.since(time.Now())) }

// Format is the codec in which the packets are written.
func (f *Forwarder) Format() Codec { return f.cfg.Codec }

// Close ends the subscription and its output. No packet is written after it.
func (f *Forwarder) Close() {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return
	}
	f.closed = true
	f.countLocked()
	f.listens.Store(0)
	f.mu.Unlock()
	f.out.End()
	f.track.removeForwarder(f)
}

// wanted is the quality that the settings ask for; OFF for none.
func (f *Forwarder) wanted() livekit.VideoQuality {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wantedLocked()
}

func (f *Forwarder) wantedLocked() livekit.VideoQuality {
	s := &f.settings
	switch {
	case s.Disabled || f.closed:
		return livekit.VideoQuality_OFF
	case s.Width != 0 || s.Height != 0:
		return f.track.sizes.Load().fit(s.Width, s.Height)
	case s.Quality < livekit.VideoQuality_LOW || s.Quality > livekit.VideoQuality_HIGH:
		return livekit.VideoQuality_OFF
	}
	return s.Quality
}

// stop stops forwarding the current source. mu is held.
func (f *Forwarder) stop() { f.inStep, f.broken = false, false }

// resync starts the source again: after a pause the next packets neither continue the
// numbers nor can be decoded without a keyframe.
func (f *Forwarder) resync(now int64) {
	f.mu.Lock()
	f.stop()
	f.mu.Unlock()
	f.retarget(now)
}

// writeBurst forwards the packets of a burst that the subscriber needs.
func (f *Forwarder) writeBurst(b *burst) {
	if !f.downlink.Ready() {
		return // what begins now would not have begun at the receiver
	}
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return
	}
	f.now = f.downlink.Since(b.at)
	for _, p := range b.packets {
		f.write(b, p)
	}
	f.over.left()
	now := b.packets[len(b.packets)-1].Arrival
	if f.doubted && f.keyMissed(now) && f.waiting == nil {
		f.waiting = f.current
	}
	due, waiting, start := f.notices, f.waiting, !f.inStep
	f.notices, f.waiting = notices{}, nil
	f.mu.Unlock()
	if due.firstPacket && f.cfg.OnFirstPacket != nil {
		f.cfg.OnFirstPacket()
	}
	if due.active {
		f.tellState()
	}
	f.request(waiting, now, start)
}

// flush tells the output that a burst is over, if the forwarder wrote packets of it.
func (f *Forwarder) flush() {
	if !f.dirty.Load() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flushLocked()
}

func (f *Forwarder) flushLocked() {
	if f.dirty.Swap(false) && !f.closed {
		f.out.Flush()
	}
}

// write forwards p if the subscriber needs it. mu is held.
func (f *Forwarder) write(b *burst, p *packet.Packet) {
	l := b.layer
	if f.inStep && !p.Late && l == f.current && f.selector.unreadable(p) {
		f.inStep, f.broken, f.brokenAt = false, true, p.Arrival
		f.listen()
	}
	if l != f.current || p.Generation != f.generation || !f.inStep {
		if !f.takeUp(l, p) {
			return
		}
	}
	if p.Late && p.Ext <= f.numbers.Last() {
		f.writeLate(b, p)
		return
	}
	if p.Ext <= f.numbers.Last() {
		return // p came before the forwarder switched to the layer
	}
	f.writeNext(b, p)
	if p.Late {
		f.catchUp(b, p)
	}
}

// catchUp forwards the packets that follow p but arrived before it, and that could not be
// forwarded without it. mu is held.
func (f *Forwarder) catchUp(b *burst, p *packet.Packet) {
	f.waiting = nil
	for ext, newest := p.Ext+1, b.layer.newest(); ext <= newest; ext++ {
		if next := b.layer.get(uint32(ext), uint16(p.Generation)); next != nil {
			f.writeNext(b, next)
			next.Release()
		}
	}
}

// writeNext forwards a packet that follows all forwarded ones. mu is held.
func (f *Forwarder) writeNext(b *burst, p *packet.Packet) {
	l := b.layer
	if l.family == redundant && f.familyOf(l) == opus {
		f.repair(b, p)
	}
	pass, marker := f.selector.pass(p)
	if !pass || len(f.body(p, l)) == 0 {
		f.leaveOut(p)
		return
	}
	f.rebase(p)
	f.settle(p)
	out, off := f.numbers.Pass(p.Ext, p.Picture())
	f.described.follow(p)
	least, said := f.receipts.next(uint16(out), p.Arrival)
	s := sent{kept{
		out: uint16(out), layer: l, ext: uint32(p.Ext), generation: uint16(p.Generation),
		offset: f.offset, sendTime: b.sendTime,
		flags: flag(sentMarker, marker) | flag(sentTold, f.described.told) | flag(sentPlayout, said),
	}, framing{picture: off, mask: f.selector.mask(p), playout: least, described: f.described.shift}}
	f.history.put(out, &s)
	if beginsKey(p) {
		f.keyAt, f.keySent, f.keyNumber, f.doubted, f.rescued = out, answerTime(p.Arrival), 0, false, false
	}
	f.anchor = anchor{valid: true, timestamp: p.Timestamp + f.offset, arrival: p.Arrival}
	f.deliver(p, &s, b.sendTime, f.kind())
	if !f.stats.started {
		f.stats.started, f.notices.firstPacket = true, true
	}
	if f.video && f.state != livekit.StreamState_ACTIVE {
		f.state, f.notices.active = livekit.StreamState_ACTIVE, true
	}
	if marker && f.video {
		f.stats.Frames++
	}
	f.stats.lastSent = p.Arrival
}

// repair sends packets that were lost before p, from the redundant blocks of p (RFC
// 2198). A subscriber without RED cannot repair them itself. mu is held.
func (f *Forwarder) repair(b *burst, p *packet.Packet) {
	gap := p.Ext - f.numbers.Last() - 1
	if gap <= 0 || gap > red.MaxBlocks {
		return
	}
	var payload red.Payload
	if int(p.PayloadType) == b.layer.plain || !payload.Parse(p.Payload()) {
		return
	}
	for back := min(gap, int64(payload.N)); back > 0; back-- {
		block := &payload.Redundant[payload.N-int(back)]
		timestamp := p.Timestamp - block.TimestampOffset + f.offset
		if len(block.Payload) == 0 || int32(timestamp-f.anchor.timestamp) <= 0 {
			continue
		}
		out, _ := f.numbers.Pass(p.Ext-back, vp8.Values{})
		f.history.put(out, &sent{kept: kept{sendTime: b.sendTime}})
		f.anchor = anchor{valid: true, timestamp: timestamp, arrival: p.Arrival}
		f.emitBlock(uint16(out), timestamp, f.codecOf(b.layer).PayloadType, block.Payload, b.sendTime)
	}
}

// leaveOut drops p, and closes the gap in the numbers.
func (f *Forwarder) leaveOut(p *packet.Packet) {
	picture := int32(-1)
	if len(p.Payload()) > 0 {
		f.stats.Dropped++
		if p.VP8.PictureIDOffset != 0 {
			picture = int32(p.VP8.PictureID)
		}
	}
	f.numbers.Drop(p.Ext, picture)
}

// writeLate forwards a packet that fills a gap in the forwarded stream.
func (f *Forwarder) writeLate(b *burst, p *packet.Packet) {
	if len(f.body(p, b.layer)) == 0 {
		return
	}
	out, off, ok := f.numbers.Late(p.Ext)
	if !ok || !f.history.reaches(out, f.numbers.LastOut()) {
		f.stats.TooLate++
		return
	}
	offset := f.lateOffset(b.layer, p, out)
	timestamp := p.Timestamp + offset
	// Its timestamp may be from the other side of a jump, for which the offset is wrong.
	if !f.plausible(timestamp, f.byClock(p)) {
		f.stats.TooLate++
		return
	}
	if f.history.has(uint16(out)) {
		return // the packet was rebuilt already
	}
	pass, marker := f.selector.passLate(p)
	if !pass {
		f.stats.Dropped++
		f.fill(out, timestamp, b.sendTime)
		return
	}
	f.numbers.Follow(p.Picture().Sub(off))
	f.described.follow(p)
	if int32(timestamp-f.anchor.timestamp) > 0 {
		f.anchor = anchor{valid: true, timestamp: timestamp, arrival: p.Arrival}
	}
	// A report of what came before must not count as one of this packet.
	least, said := f.receipts.next(uint16(f.numbers.LastOut()+1), p.Arrival)
	s := sent{kept{
		out: uint16(out), layer: b.layer, ext: uint32(p.Ext), generation: uint16(p.Generation),
		offset: offset, sendTime: b.sendTime,
		flags: flag(sentMarker, marker) | flag(sentTold, f.described.told) | flag(sentPlayout, said),
	}, framing{picture: off, mask: f.selector.mask(p), playout: least, described: f.described.shift}}
	f.history.put(out, &s)
	f.deliver(p, &s, b.sendTime, f.kind())
}

// fill sends an empty packet with the number that was reserved for a late packet, if that
// packet is left out: receivers would wait for it and ask for it repeatedly. mu is held.
func (f *Forwarder) fill(number int64, timestamp uint32, sendTime [3]byte) {
	s := sent{kept{offset: timestamp, sendTime: sendTime}, framing{empty: f.codecOf(f.current).PayloadType}}
	f.history.put(number, &s)
	f.emitEmpty(&s, sendTime, f.kind())
}

// emitEmpty writes the packet that fill remembered. If kind is Repeat and the subscriber
// has RTX, it is written as a retransmission with nothing after the original number (RFC
// 4588, section 4). mu is held.
func (f *Forwarder) emitEmpty(s *sent, sendTime [3]byte, kind record.Kind) {
	h := f.plainHeader(s.out, s.offset, sendTime, kind, s)
	h.Marker, h.PayloadType = false, s.empty
	if kind == record.Repeat {
		f.stats.Retransmitted++
		f.stats.RetransmittedBytes += 12
		if f.hasRTX {
			f.rtxNumber++
			h.SequenceNumber, h.SSRC, h.PayloadType = f.rtxNumber, f.cfg.RTXSSRC, f.codecOf(f.current).RTXPayloadType
			f.send(f.withOriginal(nil, s.out), kind)
			return
		}
	}
	h.Padding, h.PaddingSize = true, 1
	f.send(nil, kind)
	h.Padding, h.PaddingSize = false, 0
}

// takeUp starts to forward l with p if that is possible, and reports whether p is
// forwarded. mu is held.
func (f *Forwarder) takeUp(l *Layer, p *packet.Packet) bool {
	mayTake := l == f.target || l == f.current && (f.inStep || f.broken)
	if !mayTake || len(p.Payload()) == 0 || p.Late && !f.mayTakeLate(l, p) {
		return false
	}
	if f.video && !(p.Frame.Key && p.Frame.Start) {
		if !f.broken || l != f.current || p.Arrival-f.brokenAt > structureWait {
			f.waiting = l
		}
		return false
	}
	f.align(l, p)
	f.rate = f.codecOf(l).rate()
	f.receipts.rate.Store(f.rate)
	if f.current != l {
		f.stats.Switches++
		f.left, f.leftGeneration, f.leftAt = f.current, f.generation, f.numbers.Last()
	}
	f.current, f.generation, f.inStep, f.broken = l, p.Generation, true, false
	if f.video && l == f.target {
		f.selector.want(f.bounds(l, false))
	}
	f.selector.begin()
	f.numbers.Begin(p.Ext, p.Picture())
	f.described.begin(p)
	f.listen()
	return true
}

// structureWait is how long to wait for a lost structure to arrive again before a
// keyframe is requested.
const structureWait = int64(100 * time.Millisecond)

// maxCatchUp is how many packets may have overtaken the packet with which a layer starts.
const maxCatchUp = 128

// mayTakeLate reports whether l may start with p although other packets overtook it: p
// begins a keyframe, and no packet from p on was forwarded.
func (f *Forwarder) mayTakeLate(l *Layer, p *packet.Packet) bool {
	switch {
	case !f.video || !p.Frame.Key || !p.Frame.Start || l.newest()-p.Ext > maxCatchUp:
		return false
	case l == f.current && p.Generation == f.generation:
		return p.Ext > f.numbers.Last()
	case l == f.left && p.Generation == f.leftGeneration:
		return p.Ext > f.leftAt
	}
	return true
}

// listen recomputes which layers' packets the forwarder needs. mu is held.
func (f *Forwarder) listen() {
	var mask uint32
	if f.target != nil {
		mask |= 1 << f.target.index
		if f.current != nil && (f.inStep || f.broken) {
			mask |= 1 << f.current.index
		}
	}
	f.listens.Store(mask)
}
