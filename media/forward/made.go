package forward

import (
	"bytes"
	"math/rand/v2"
	"time"
)

// A subscriber gets no packets of a track that is muted, paused for want of bandwidth, or
// held back because others are louder. Clients learn of a track by its first packet, so
// they would not have the track until then. So the forwarder sends substitute frames:
// silence, or a black keyframe, or, where it can make neither (VP9, AV1, H.265), a packet
// of only padding. They are numbered in one series with the publisher's packets, and sent
// under the forwarder's lock like those. They have no dependency descriptor. If the
// packets that follow have descriptors, they begin with a keyframe, which has a structure
// and counts on from the substitute frames.

// madeFrames is how many substitute frames one subscriber gets: one a second, because the
// first may be lost.
const madeFrames = 5

var (
	// opusSilence is 20 ms in CELT's fullband mode, mono (RFC 6716).
	opusSilence = []byte{0xf8, 0xff, 0xfe}
	// Silence is 20 ms at 8 kHz of the value that stands for zero amplitude (G.711).
	muLawSilence = bytes.Repeat([]byte{0xff}, 160)
	aLawSilence  = bytes.Repeat([]byte{0xd5}, 160)

	// blackVP8 is a key frame of 16×16 black pixels (RFC 6386), without the payload
	// descriptor.
	blackVP8 = []byte{
		0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x10, 0x00, 0x10, 0x00, 0x00, 0x47, 0x08, 0x85, 0x85, 0x88,
		0x99, 0x84, 0x88, 0x02, 0x02, 0x00, 0x0c, 0x0d, 0x60, 0x00, 0xfe, 0xff, 0xab, 0x50, 0x80,
	}
	// blackH264 is such a frame in H.264's constrained baseline profile: the parameter
	// sets and an IDR slice, one per packet, as every packetization mode allows.
	blackH264 = [][]byte{
		{
			0x67, 0x42, 0xc0, 0x0a, 0xd9, 0x1e, 0xc0, 0x44, 0x00, 0x00, 0x03, 0x00, 0x04, 0x00, 0x00, 0x03,
			0x00, 0x08, 0x3c, 0x48, 0x99, 0x20,
		},
		{0x68, 0xcb, 0x83, 0xcb, 0x20},
		{0x65, 0x88, 0x84, 0x05, 0x7f, 0xff, 0xff, 0x0f, 0x45, 0x00, 0x01, 0x42, 0xdf, 0x80},
	}
)

// isOwed reports whether the subscriber should get a substitute frame now.
func (f *Forwarder) isOwed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.owedLocked()
}

func (f *Forwarder) owedLocked() bool {
	return !f.closed && !f.cfg.Aside && !f.stats.started && f.made < madeFrames &&
		(f.track.muted.Load() || f.paused() || f.heldBack.Load())
}

// makeLocked sends a substitute frame if the subscriber should get one now. mu is held.
func (f *Forwarder) makeLocked(at time.Time, now int64) {
	if !f.owedLocked() {
		return
	}
	timestamp := rand.Uint32()
	if f.anchor.valid {
		if timestamp = f.clockAt(now); int32(timestamp-f.anchor.timestamp) <= 0 {
			timestamp = f.anchor.timestamp + 1
		}
	}
	defer f.over.left()
	f.rate = f.codec().rate()
	f.receipts.rate.Store(f.rate)
	f.now = f.downlink.Since(at)
	sendTime := absSendTime(at)
	ok := true
	frame := func(payload []byte) {
		ok = f.sendMade(timestamp, f.codec().PayloadType, f.video, 0, f.withTrailer(payload), sendTime)
	}
	switch f.codec().family() {
	case opus:
		frame(opusSilence)
	case redundant:
		ok = f.sendMade(timestamp, f.plainPT, false, 0, f.withTrailer(opusSilence), sendTime)
	case pcmu:
		frame(muLawSilence)
	case pcma:
		frame(aLawSilence)
	case vp8Codec:
		v := f.numbers.NextPicture()
		// The descriptor has all fields, because the descriptors that follow may have
		// them (RFC 7741, section 4.2). It says that the frame is of the base layer and
		// depends on no other.
		frame(append([]byte{
			0x90, 0xf0, 0x80 | byte(v.PictureID>>8), byte(v.PictureID), v.TL0PicIdx, 0x20 | v.KeyIdx,
		}, blackVP8...))
		f.described.after(v.PictureID)
	case h264Codec:
		last := len(blackH264) - 1
		for _, unit := range blackH264[:last] {
			ok = ok && f.sendMade(timestamp, f.codec().PayloadType, false, 0, unit, sendTime)
		}
		if ok {
			frame(blackH264[last])
		}
		f.described.after(uint16(f.numbers.LastOut()))
	default:
		ok = f.sendMade(timestamp, f.codec().PayloadType, f.video, 1, nil, sendTime)
	}
	if !ok {
		return // not connected yet
	}
	f.made++
	f.anchor = anchor{valid: true, timestamp: timestamp, arrival: now}
	f.flushLocked()
}

// sendMade sends one packet of a substitute frame.
func (f *Forwarder) sendMade(timestamp uint32, pt uint8, marker bool, padding uint8, payload []byte, sendTime [3]byte) bool {
	h := f.plainHeader(uint16(f.numbers.LastOut()+1), timestamp, sendTime, f.kind(), nil)
	h.PayloadType, h.Marker = pt, marker
	h.Padding, h.PaddingSize = padding > 0, padding
	ok := f.send(payload, f.kind())
	h.Padding, h.PaddingSize = false, 0
	if ok {
		f.numbers.Insert()
	}
	return ok
}

// withTrailer appends the trailer to a substitute frame, if the track is encrypted end to
// end: then clients do not decrypt the frame.
func (f *Forwarder) withTrailer(frame []byte) []byte {
	if len(f.cfg.Trailer) == 0 {
		return frame
	}
	return append(append(make([]byte, 0, len(frame)+len(f.cfg.Trailer)), frame...), f.cfg.Trailer...)
}
