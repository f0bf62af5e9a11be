package forward

import (
	"errors"

	"github.com/pion/rtp"

	"parlor/media/downlink"
	record "parlor/media/downlink/sent"
	"parlor/media/forward/dd"
	"parlor/media/forward/packet"
	"parlor/media/forward/red"
	"parlor/media/forward/vp8"
)

// sent is a forwarded packet as it is remembered for retransmission.
type sent struct {
	kept
	framing
}

// kept is what is remembered of every packet; see slot.
type kept struct {
	layer      *Layer
	ext        uint32 // lower bits of the layer's extended sequence number
	offset     uint32 // of the timestamp
	out        uint16
	generation uint16  // lower bits of the layer's
	sendTime   [3]byte // its abs-send-time
	flags      sentFlags
}

// framing is what is remembered of a packet whose frame is told otherwise than the publisher
// told it. Most sound has none.
type framing struct {
	mask      uint32     // active decode targets to write into the descriptor; 0 = as the packet has them
	picture   vp8.Values // subtracted from the packet's VP8 numbers
	described dd.Shift   // added to the dependency descriptor, with sentTold
	playout   uint16     // the room's least playout delay as it was sent, in 10 ms, with sentPlayout; a retransmission has the same
	empty     uint8      // payload type of a packet of only padding, whose timestamp is offset; 0: a packet with payload
}

// repeats are the retransmissions of a packet.
type repeats struct {
	last   uint32    // time of the last one, see answerTime
	copies [2]uint16 // the transport-wide numbers of the last ones; 0 = none
	count  uint8
	once   bool // the last one was not copied
}

// sentFlags are what is true of a remembered packet.
type sentFlags uint8

const (
	sentUsed     sentFlags = 1 << iota // the slot is not empty
	sentTold                           // described applies
	sentMarker                         // it has the marker
	sentPlayout                        // playout applies
	sentDeparted                       // it has left, where that is noted, see stampsPackets
	sentNumbered                       // it has left with a transport-wide number, where that is noted
)

func (s *kept) is(f sentFlags) bool { return s.flags&f != 0 }

// flag is f if it applies.
func flag(f sentFlags, applies bool) sentFlags {
	if applies {
		return f
	}
	return 0
}

// extScratch holds the values of header extensions while they are written.
type extScratch struct {
	sendTime  [3]byte
	transport [2]byte
	playout   [3]byte
	dd        []byte // nil before the first
}

// body is the part of the payload of a layer's packet that is forwarded.
func (f *Forwarder) body(p *packet.Packet, from *Layer) []byte {
	if p.PrimarySize != 0 && f.familyOf(from) == opus {
		return p.Primary()
	}
	return p.Payload()
}

// emit writes p as s says. Kinds other than media are written as a retransmission (RFC
// 4588). mu is held.
func (f *Forwarder) emit(p *packet.Packet, s *sent, sendTime [3]byte, kind record.Kind) {
	h, again := &f.header, kind == record.Repeat || kind == record.Padding
	h.Version = 2
	h.Marker = s.is(sentMarker)
	h.SequenceNumber = s.out
	h.Timestamp = p.Timestamp + s.offset
	h.SSRC = f.cfg.SSRC
	h.PayloadType = f.payloadType(p, s.layer)
	payload := f.rewrite(p, s)
	if again && f.hasRTX {
		// rewrite left room for the original sequence number.
		payload = f.withOriginal(payload, s.out)
		f.rtxNumber++
		h.SequenceNumber, h.SSRC, h.PayloadType = f.rtxNumber, f.cfg.RTXSSRC, f.codecOf(s.layer).RTXPayloadType
	}
	f.numbered = f.takesNumber(kind, s)
	f.putExtensions(h, p, s, sendTime)
	f.send(payload, kind)
	if kind == record.Video && beginsKey(p) {
		f.keyNumber = f.over.number
	}
	if again {
		if r := f.history.repeats(s.out); r != nil {
			r.copies = [2]uint16{r.copies[1], f.over.number}
		}
		f.stats.Retransmitted++
		f.stats.RetransmittedBytes += uint64(len(payload) + 12)
	}
}

// stampsPackets reports whether packets are repeated on their own SSRC that carry what is
// known only as they leave. A repeat is encrypted with the same nonce as the packet, so it has
// to be the same in every byte: if one differed, the two would give the key away (RFC 7714,
// section 8). So it is remembered with what number a packet left, and none is repeated before
// it has left.
func (f *Forwarder) stampsPackets() bool {
	return !f.hasRTX && (f.cfg.Ext.TransportCC != 0 || f.cfg.Ext.AbsSendTime != 0)
}

// takesNumber reports whether a packet that is written now has a transport-wide number. Sound has
// one where there are pictures whose bitrate is estimated. s is what is remembered of a packet
// that is repeated. mu is held.
func (f *Forwarder) takesNumber(kind record.Kind, s *sent) bool {
	switch {
	case f.cfg.Ext.TransportCC == 0:
		return false
	case f.repeatsItself(kind):
		return s.is(sentNumbered) // as it left the first time, see stampsPackets
	}
	return f.video || f.downlink.Estimates()
}

// repeatsItself reports whether a packet of that kind is one that was sent before.
func (f *Forwarder) repeatsItself(kind record.Kind) bool {
	return kind == record.Repeat && !f.hasRTX
}

// errForgotten: a packet to be repeated has waited until its number was forgotten.
var errForgotten = errors.New("the number of the packet is not known any more")

// emitBlock writes a packet that was rebuilt from redundancy. mu is held.
func (f *Forwarder) emitBlock(number uint16, timestamp uint32, pt uint8, payload []byte, sendTime [3]byte) {
	h := f.plainHeader(number, timestamp, sendTime, record.Audio, nil)
	h.Marker, h.PayloadType = false, pt
	f.send(payload, record.Audio)
	f.stats.Rebuilt++
}

// plainHeader is the header of a packet that corresponds to no received one. Its only
// extensions are those about the path. s is what is remembered of a packet that is repeated. mu
// is held.
func (f *Forwarder) plainHeader(number uint16, timestamp uint32, sendTime [3]byte, kind record.Kind, s *sent) *rtp.Header {
	h := &f.header
	h.Version = 2
	h.SequenceNumber, h.Timestamp, h.SSRC = number, timestamp, f.cfg.SSRC
	h.Extension, h.Extensions = false, h.Extensions[:0]
	f.extBytes = 0
	h.ExtensionProfile = rtp.ExtensionProfileOneByte
	if f.cfg.Ext.wide() {
		h.ExtensionProfile = rtp.ExtensionProfileTwoByte
	}
	f.numbered = f.takesNumber(kind, s)
	f.putTransport(sendTime)
	return h
}

// emitPadding writes a packet of only padding (RFC 3550, section 5.1). mu is held.
func (f *Forwarder) emitPadding(size int, sendTime [3]byte) {
	f.rtxNumber++
	h := f.plainHeader(f.rtxNumber, f.anchor.timestamp, sendTime, record.Padding, nil)
	h.Marker, h.SSRC, h.PayloadType = false, f.cfg.RTXSSRC, f.codec().RTXPayloadType
	h.Padding, h.PaddingSize = true, byte(size)
	f.send(nil, record.Padding)
	h.Padding, h.PaddingSize = false, 0
}

// send writes a packet whose header is complete, and reports whether that succeeded. mu
// is held.
func (f *Forwarder) send(payload []byte, kind record.Kind) bool {
	f.headerSize = 12
	if f.extBytes > 0 {
		f.headerSize += 4 + (f.extBytes+3)&^3
	}
	err := f.out.Write(&f.header, payload, kind)
	if err == downlink.ErrNotConnected {
		return false
	}
	if f.stampsPackets() && !f.repeatsItself(kind) {
		f.history.departed(f.header.SequenceNumber, f.numbered, f.extScratch.transport)
	}
	failed := err != nil
	if failed {
		f.stats.WriteErrors++
	}
	f.dirty.Store(true)
	f.stats.Packets++
	f.stats.Bytes += uint64(len(payload) + 12)
	if f.header.SSRC == f.cfg.SSRC {
		f.stats.packets++
		f.stats.octets += uint32(len(payload))
	}
	return !failed
}

// payloadType is the subscriber's payload type for p.
func (f *Forwarder) payloadType(p *packet.Packet, from *Layer) uint8 {
	if f.familyOf(from) == redundant && (from.family == opus || int(p.PayloadType) == from.plain) {
		return f.plainPT
	}
	return f.codecOf(from).PayloadType
}

// codecOf is the subscriber's codec for the packets of a layer.
func (f *Forwarder) codecOf(from *Layer) *Codec {
	if f.takesBackup(from) {
		return &f.cfg.Backup
	}
	return &f.cfg.Codec
}

// familyOf is the family of codecOf.
func (f *Forwarder) familyOf(from *Layer) family {
	if f.takesBackup(from) {
		return f.backup
	}
	return f.family
}

// takesBackup reports whether a layer's packets are sent in the backup codec.
func (f *Forwarder) takesBackup(from *Layer) bool {
	return f.backup != otherCodec && (from.family == f.backup || from.family.opusLike() && f.backup.opusLike())
}

// codec is the subscriber's codec for the packets that it should get now.
func (f *Forwarder) codec() *Codec {
	if f.backup != otherCodec && f.track.regressed.Load() {
		return &f.cfg.Backup
	}
	return &f.cfg.Codec
}

// rewrite is the payload with the numbers of the subscriber's stream. It is the shared
// payload if no number changes, else a copy in scratch, after rtxRoom bytes.
func (f *Forwarder) rewrite(p *packet.Packet, s *sent) []byte {
	body := f.body(p, s.layer)
	switch {
	case s.picture != (vp8.Values{}), p.HasShortPicture():
		b := p.PutPicture(f.copyOf(body), p.Picture().Sub(s.picture))
		f.scratch = f.scratch[:rtxRoom+len(b)] // the copy fits, because received packets have headers
		return b
	case s.layer.family == redundant && f.familyOf(s.layer) == redundant && int(p.PayloadType) != s.layer.plain &&
		s.layer.plain >= 0 && s.layer.plain != int(f.plainPT):
		b := f.copyOf(body)
		red.SetPayloadType(b, f.plainPT)
		return b
	}
	return body
}

// rtxRoom is the length of the original sequence number (RFC 4588, section 4), in bytes.
const rtxRoom = 2

func (f *Forwarder) copyOf(body []byte) []byte {
	if f.scratch == nil { // most audio subscriptions never need it
		f.scratch = make([]byte, 0, rtxRoom+packet.MaxSize)
	}
	f.scratch = append(f.scratch[:rtxRoom], body...)
	return f.scratch[rtxRoom:]
}

// withOriginal prepends the original sequence number to a payload.
func (f *Forwarder) withOriginal(payload []byte, number uint16) []byte {
	if len(f.scratch) != rtxRoom+len(payload) || len(payload) == 0 || &f.scratch[rtxRoom] != &payload[0] {
		f.copyOf(payload)
	}
	f.scratch[0], f.scratch[1] = byte(number>>8), byte(number)
	return f.scratch
}

// putExtensions fills in the header extensions that the subscriber negotiated.
func (f *Forwarder) putExtensions(h *rtp.Header, p *packet.Packet, s *sent, sendTime [3]byte) {
	h.Extension, h.Extensions = false, h.Extensions[:0]
	f.extBytes = 0
	ids, x := &f.cfg.Ext, &f.extScratch
	// The one-byte form allows ids up to 14 and values up to 16 bytes (RFC 8285, section
	// 4.2).
	h.ExtensionProfile = rtp.ExtensionProfileOneByte
	var descriptor []byte
	if ids.DependencyDescriptor != 0 && s.is(sentTold) {
		if descriptor = x.descriptor(p, s); len(descriptor) > 16 {
			h.ExtensionProfile = rtp.ExtensionProfileTwoByte
		}
	}
	if ids.wide() {
		h.ExtensionProfile = rtp.ExtensionProfileTwoByte
	}
	f.put(ids.DependencyDescriptor, descriptor)
	f.put(ids.AbsCaptureTime, p.Extension(packet.ExtAbsCaptureTime))
	f.put(ids.VideoOrientation, p.Extension(packet.ExtVideoOrientation))
	f.put(ids.AudioLevel, p.Extension(packet.ExtAudioLevel))
	if ids.PlayoutDelay != 0 {
		f.put(ids.PlayoutDelay, f.playoutDelay(p, s))
	}
	f.putTransport(sendTime)
}

// putTransport fills in the extensions that describe the path and not the media.
func (f *Forwarder) putTransport(sendTime [3]byte) {
	ids, x := &f.cfg.Ext, &f.extScratch
	if ids.AbsSendTime != 0 {
		x.sendTime = sendTime
		f.put(ids.AbsSendTime, x.sendTime[:])
	}
	if f.numbered {
		f.put(ids.TransportCC, x.transport[:]) // the number is assigned when the packet leaves
	}
}

// put adds an extension, unless the header's form cannot carry it.
func (f *Forwarder) put(id uint8, value []byte) {
	if id == 0 || len(value) == 0 {
		return
	}
	if len(f.header.Extensions) == 0 {
		f.header.Extension = true
	}
	if f.header.SetExtension(id, value) != nil {
		f.stats.Malformed++
	} else {
		f.extBytes += int32(len(value)) + 1
		if f.header.ExtensionProfile == rtp.ExtensionProfileTwoByte {
			f.extBytes++
		}
	}
	if len(f.header.Extensions) == 0 {
		f.header.Extension = false
	}
}

// wide reports whether some id needs the two-byte form.
func (e *Extensions) wide() bool {
	return max(e.AudioLevel, e.AbsSendTime, e.TransportCC, e.DependencyDescriptor,
		e.AbsCaptureTime, e.PlayoutDelay, e.VideoOrientation) > 14
}

// playoutDelay is the room's bounds of the playout delay for a packet that is to tell
// them. If the room has none, it is the publisher's.
func (f *Forwarder) playoutDelay(p *packet.Packet, s *sent) []byte {
	if !f.receipts.playout.given {
		return p.Extension(packet.ExtPlayoutDelay)
	}
	if !s.is(sentPlayout) {
		return nil
	}
	lo, hi := s.playout, f.receipts.playout.highest // 12 bits each
	f.extScratch.playout = [3]byte{byte(lo >> 4), byte(lo<<4) | byte(hi>>8), byte(hi)}
	return f.extScratch.playout[:]
}
