// Package vp8 parses and rewrites the VP8 RTP payload descriptor (RFC 7741, section 4.2).
package vp8

import "encoding/binary"

// Descriptor is a VP8 payload descriptor. The offsets are positions in the payload; 0 if
// the field is absent.
type Descriptor struct {
	// Size is the length of the descriptor in bytes.
	Size uint8
	// Start: a frame begins here (S is set and the partition index is 0).
	Start bool
	// Key: the frame that begins here is a keyframe.
	Key bool
	// NonReference: no other frame depends on this one.
	NonReference bool

	PictureIDOffset uint8
	// LongPictureID: the picture id has 15 bits, and not 7.
	LongPictureID bool
	PictureID     uint16

	TL0PicIdxOffset uint8
	TL0PicIdx       uint8

	// HasTID: the descriptor has TID and Sync.
	HasTID bool
	TID    uint8
	Sync   bool

	// KeyIdxOffset is the offset of the byte with TID, Y and KEYIDX; 0 if KEYIDX is
	// absent.
	KeyIdxOffset uint8
	KeyIdx       uint8
}

// Parse parses the descriptor at the start of payload. It returns false if the payload is
// too short for the announced fields, or has nothing else.
func Parse(payload []byte) (d Descriptor, ok bool) {
	if len(payload) < 2 {
		return d, false
	}
	first := payload[0]
	n := 1
	d.NonReference = first&0x20 != 0
	d.Start = first&0x10 != 0 && first&0x07 == 0
	if first&0x80 != 0 {
		if n, ok = d.parseExtended(payload); !ok {
			return Descriptor{}, false
		}
	}
	if n >= len(payload) {
		return Descriptor{}, false
	}
	d.Size = uint8(n)
	// In the VP8 frame header, P = 0 marks a keyframe (RFC 7741, section 4.3).
	d.Key = d.Start && payload[n]&0x01 == 0
	return d, true
}

// KeySize is the size of a keyframe in pixels, by its header (RFC 6386, section 9.1); 0 if b is
// not the start of one. End-to-end encryption leaves the header as it is.
func KeySize(b []byte) (width, height uint16) {
	if len(b) < 10 || b[0]&0x01 != 0 || b[3] != 0x9d || b[4] != 0x01 || b[5] != 0x2a {
		return 0, 0
	}
	const scale = 0xc000 // the upper two bits
	return binary.LittleEndian.Uint16(b[6:]) &^ scale, binary.LittleEndian.Uint16(b[8:]) &^ scale
}

func (d *Descriptor) parseExtended(b []byte) (n int, ok bool) {
	x := b[1]
	n = 2
	if x&0x80 != 0 {
		if len(b) <= n {
			return 0, false
		}
		d.PictureIDOffset = uint8(n)
		d.PictureID = uint16(b[n] & 0x7f)
		n++
		if b[n-1]&0x80 != 0 {
			if len(b) <= n {
				return 0, false
			}
			d.LongPictureID = true
			d.PictureID = d.PictureID<<8 | uint16(b[n])
			n++
		}
	}
	if x&0x40 != 0 {
		if len(b) <= n {
			return 0, false
		}
		d.TL0PicIdxOffset, d.TL0PicIdx = uint8(n), b[n]
		n++
	}
	if x&0x30 != 0 {
		if len(b) <= n {
			return 0, false
		}
		if x&0x20 != 0 {
			d.HasTID, d.TID, d.Sync = true, b[n]>>6, b[n]&0x20 != 0
		}
		if x&0x10 != 0 {
			d.KeyIdxOffset, d.KeyIdx = uint8(n), b[n]&0x1f
		}
		n++
	}
	return n, true
}

// Values are the numbers that a forwarder changes when it drops frames or changes the
// source.
type Values struct {
	PictureID uint16
	TL0PicIdx uint8
	KeyIdx    uint8
}

// Values are the numbers of the descriptor.
func (d *Descriptor) Values() Values {
	return Values{d.PictureID, d.TL0PicIdx, d.KeyIdx}
}

// Sub subtracts o's numbers modulo their sizes on the wire.
func (v Values) Sub(o Values) Values {
	return Values{(v.PictureID - o.PictureID) & 0x7fff, v.TL0PicIdx - o.TL0PicIdx, (v.KeyIdx - o.KeyIdx) & 0x1f}
}

// Put writes v into the descriptor at the start of payload, and returns the payload,
// perhaps in another slice. The payload must be the one that d was parsed from, or a
// copy. A picture id of 7 bits becomes one of 15, which makes the payload a byte longer:
// receivers compare ids modulo 2^15, and a source may change between the sizes.
func (d *Descriptor) Put(payload []byte, v Values) []byte {
	grown := uint8(0)
	if o := d.PictureIDOffset; o != 0 {
		if !d.LongPictureID {
			payload = append(payload, 0)
			copy(payload[o+2:], payload[o+1:])
			grown = 1
		}
		payload[o] = 0x80 | byte(v.PictureID>>8)&0x7f
		payload[o+1] = byte(v.PictureID)
	}
	if o := d.TL0PicIdxOffset; o != 0 {
		payload[o+grown] = v.TL0PicIdx
	}
	if o := d.KeyIdxOffset; o != 0 {
		payload[o+grown] = payload[o+grown]&0xe0 | v.KeyIdx&0x1f
	}
	return payload
}
