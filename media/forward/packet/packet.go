// Package packet holds received RTP packets. Each is parsed once, kept in a pooled,
// reference-counted buffer, and remembered in a [Ring] for retransmission.
//
// Only the goroutine that received a [Packet] writes it. A packet does not change after
// it was shared. It returns to its [Pool] when its last holder calls [Packet.Release].
package packet

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"

	"parlor/media/forward/dd"
	"parlor/media/forward/vp8"
	"parlor/media/forward/vp9"
)

// MaxSize is the length of the largest accepted RTP packet, in bytes. It is above every
// path MTU that WebRTC uses over UDP. A larger packet can only come over TCP, by malice
// or mistake.
const MaxSize = 1600

// smallSize is the capacity of the smaller class of buffers, which suits most audio.
const smallSize = 384

// Errors of [Pool.Parse].
var (
	ErrTooLarge  = errors.New("RTP packet larger than 1600 bytes")
	ErrMalformed = errors.New("malformed RTP packet")
)

// Extension is a kind of RTP header extension (RFC 8285).
type Extension uint8

// The header extensions that are read or passed on.
const (
	ExtNone Extension = iota
	ExtAudioLevel
	ExtTransportCC
	ExtDependencyDescriptor
	ExtAbsCaptureTime
	ExtPlayoutDelay
	ExtVideoOrientation
	ExtAbsSendTime
	numExtensions
)

// ExtensionMap maps ids to extensions, for one stream.
type ExtensionMap [256]Extension

// Set maps id to e. Id 0 means "not negotiated" and is ignored.
func (m *ExtensionMap) Set(id uint8, e Extension) {
	if id != 0 {
		m[id] = e
	}
}

// Frame is the position of a packet in the stream's frames.
type Frame struct {
	// Key: the packet begins a keyframe, or a receiver can start with it.
	Key bool
	// Start and End: first and last packet of a frame (of one spatial layer).
	Start, End bool
	// Spatial and Temporal are the layer ids; 0 if the codec has none.
	Spatial, Temporal uint8
	// SwitchUp: later frames in higher temporal layers depend on no frame before this one
	// (VP9's U bit). Sync: this frame depends only on the base layer (VP8's Y bit).
	SwitchUp, Sync bool
	// Layered: the packet carried Spatial and Temporal.
	Layered bool
}

// span is a range of Packet.buf.
type span struct{ off, len uint16 }

// Packet is one received RTP packet, parsed.
type Packet struct {
	refs  atomic.Int32
	pool  *Pool
	small bool
	buf   []byte

	payload span
	exts    [numExtensions]span

	SSRC        uint32
	Timestamp   uint32
	Seq         uint16
	PayloadType uint8
	Marker      bool
	// Size is the length of the whole packet on the wire, in bytes.
	Size int
	// Ext is the sequence number, extended beyond 16 bits by the receiving stream.
	Ext int64
	// Generation counts the restarts of the source. Packets of different generations are
	// unrelated.
	Generation uint32
	// Late: it arrived after packets that follow it.
	Late bool
	// Arrival in nanoseconds since the track's epoch.
	Arrival int64

	Frame Frame
	// PrimarySize is the length of the primary block at the end of the payload, if the
	// codec is RED (RFC 2198).
	PrimarySize int
	// VP8 is the payload descriptor when the codec is VP8.
	VP8 vp8.Descriptor
	// VP9 has the picture numbers when the codec is VP9.
	VP9 vp9.Numbers
	// DD is the dependency descriptor; valid when HasDD.
	DD    dd.Frame
	HasDD bool
}

// Payload is the payload without padding. It is shared and must not be written.
func (p *Packet) Payload() []byte {
	return p.buf[p.payload.off : p.payload.off+p.payload.len]
}

// Primary is the primary block of a RED payload.
func (p *Packet) Primary() []byte {
	b := p.Payload()
	return b[len(b)-p.PrimarySize:]
}

// Extension is the value of a header extension; nil if it is absent.
func (p *Packet) Extension(e Extension) []byte {
	s := p.exts[e]
	if s.len == 0 {
		return nil
	}
	return p.buf[s.off : s.off+s.len]
}

// SetExtension adds a header extension to p. Only the sole holder may call it. A value
// for which the buffer has no room is dropped.
func (p *Packet) SetExtension(e Extension, value []byte) {
	if len(p.buf)+len(value) > cap(p.buf) {
		return
	}
	p.exts[e] = span{uint16(len(p.buf)), uint16(len(value))}
	p.buf = append(p.buf, value...)
}

// Picture are the numbers of p's picture in VP8 or VP9; 0 where the codec or the packet
// has none.
func (p *Packet) Picture() vp8.Values {
	if p.VP9 != (vp9.Numbers{}) {
		return vp8.Values{PictureID: p.VP9.PictureID, TL0PicIdx: p.VP9.TL0PicIdx}
	}
	return p.VP8.Values()
}

// HasShortPicture reports whether the picture id has 7 bits on the wire.
func (p *Packet) HasShortPicture() bool {
	return p.VP8.PictureIDOffset != 0 && !p.VP8.LongPictureID || p.VP9.PictureIDOffset != 0 && !p.VP9.LongPictureID
}

// PutPicture replaces the picture numbers in a copy of p's payload, and returns the copy.
// It is a byte longer if p's picture id is short.
func (p *Packet) PutPicture(payload []byte, v vp8.Values) []byte {
	if p.VP9 != (vp9.Numbers{}) {
		return p.VP9.Put(payload, v.PictureID, v.TL0PicIdx)
	}
	return p.VP8.Put(payload, v)
}

// Retain adds a holder.
func (p *Packet) Retain() { p.refs.Add(1) }

// Release removes a holder, which must not use the packet afterwards.
func (p *Packet) Release() {
	if p.refs.Add(-1) == 0 {
		p.pool.put(p)
	}
}

// Pool keeps the buffers of packets without holders. Any number of tracks may share it.
type Pool struct {
	small, large sync.Pool
}

// NewPool makes an empty pool.
func NewPool() *Pool { return &Pool{} }

// Parse copies raw into a packet of the pool, with the caller as its holder. It finds the
// header extensions that are in ids.
func (pl *Pool) Parse(raw []byte, ids *ExtensionMap) (*Packet, error) {
	if len(raw) > MaxSize {
		return nil, ErrTooLarge
	}
	p := pl.get(len(raw))
	p.buf = append(p.buf[:0], raw...)
	if !p.parse(ids) {
		p.Release()
		return nil, ErrMalformed
	}
	return p, nil
}

// Copy returns a packet with the content of p, with the caller as its holder.
func (pl *Pool) Copy(p *Packet) *Packet {
	c := pl.get(len(p.buf))
	c.buf = append(c.buf[:0], p.buf...)
	c.payload, c.exts = p.payload, p.exts
	c.SSRC, c.Timestamp, c.Seq, c.PayloadType, c.Marker, c.Size = p.SSRC, p.Timestamp, p.Seq, p.PayloadType, p.Marker, p.Size
	c.Ext, c.Generation, c.Late, c.Arrival = p.Ext, p.Generation, p.Late, p.Arrival
	c.Frame, c.PrimarySize, c.VP8, c.VP9, c.DD, c.HasDD = p.Frame, p.PrimarySize, p.VP8, p.VP9, p.DD, p.HasDD
	return c
}

func (pl *Pool) get(size int) *Packet {
	from, capacity, small := &pl.large, MaxSize, false
	if size <= smallSize {
		from, capacity, small = &pl.small, smallSize, true
	}
	p, ok := from.Get().(*Packet)
	if !ok {
		p = &Packet{pool: pl, small: small, buf: make([]byte, 0, capacity)}
	}
	p.refs.Store(1)
	return p
}

func (pl *Pool) put(p *Packet) {
	if p.small {
		pl.small.Put(p)
		return
	}
	pl.large.Put(p)
}

// parse reads the header in p.buf (RFC 3550, section 5.1) and resets all other fields.
func (p *Packet) parse(ids *ExtensionMap) bool {
	b := p.buf
	if len(b) < 12 || b[0]>>6 != 2 {
		return false
	}
	p.Size = len(b)
	p.Marker = b[1]&0x80 != 0
	p.PayloadType = b[1] & 0x7f
	p.Seq = binary.BigEndian.Uint16(b[2:])
	p.Timestamp = binary.BigEndian.Uint32(b[4:])
	p.SSRC = binary.BigEndian.Uint32(b[8:])
	p.exts = [numExtensions]span{}
	p.Ext, p.Generation, p.Late, p.Arrival = 0, 0, false, 0
	p.Frame = Frame{}
	p.HasDD, p.PrimarySize = false, 0
	p.VP8, p.VP9 = vp8.Descriptor{}, vp9.Numbers{}

	off := 12 + 4*int(b[0]&0x0f)
	if b[0]&0x10 != 0 {
		if len(b) < off+4 {
			return false
		}
		profile := binary.BigEndian.Uint16(b[off:])
		end := off + 4 + 4*int(binary.BigEndian.Uint16(b[off+2:]))
		if len(b) < end {
			return false
		}
		p.parseExtensions(profile, off+4, end, ids)
		off = end
	}
	end := len(b)
	if b[0]&0x20 != 0 {
		if end <= off {
			return false
		}
		padding := int(b[end-1])
		if padding == 0 || end-padding < off {
			return false
		}
		end -= padding
	}
	if end < off {
		return false
	}
	p.payload = span{uint16(off), uint16(end - off)}
	return true
}

// parseExtensions finds the elements of RFC 8285 in b[off:end]. Elements that it cannot
// parse are skipped: a malformed extension does not make the packet malformed.
func (p *Packet) parseExtensions(profile uint16, off, end int, ids *ExtensionMap) {
	switch {
	case profile == 0xBEDE:
		for off < end {
			id, n := p.buf[off]>>4, int(p.buf[off]&0x0f)+1
			if id == 0 {
				off++
				continue
			}
			if id == 15 || off+1+n > end {
				return
			}
			p.setExtension(ids[id], off+1, n)
			off += 1 + n
		}
	case profile&0xfff0 == 0x1000:
		for off+1 < end {
			id := p.buf[off]
			if id == 0 {
				off++
				continue
			}
			n := int(p.buf[off+1])
			if off+2+n > end {
				return
			}
			p.setExtension(ids[id], off+2, n)
			off += 2 + n
		}
	}
}

func (p *Packet) setExtension(e Extension, off, n int) {
	if e != ExtNone {
		p.exts[e] = span{uint16(off), uint16(n)}
	}
}
