// Package vp8 reads and rewrites the VP8 RTP payload descriptor (RFC 7741 4.2).
package vp8

// Descriptor is a VP8 payload descriptor. The offsets are positions in the
// payload, 0 when the field is absent.
type Descriptor struct {
	// Size of the descriptor in bytes.
	Size uint8
	// Start: S is set and the partition index is 0, that is, a frame begins here.
	Start bool
	// Key: the frame that begins here is a key frame.
	Key bool
	// NonReference: no other frame depends on this one.
	NonReference bool

	PictureIDOffset uint8
	// LongPictureID: the picture id has 15 bits, else 7.
	LongPictureID bool
	PictureID     uint16

	TL0PicIdxOffset uint8
	TL0PicIdx       uint8

	// HasTID: TID and Sync are there.
	HasTID bool
	TID    uint8
	Sync   bool

	// KeyIdxOffset is the offset of the byte that carries TID, Y and KEYIDX; 0
	// when KEYIDX is absent.
	KeyIdxOffset uint8
	KeyIdx       uint8
}

// Parse reads the descriptor at the start of payload. It reports false when the
// payload is too short for what it announces, or holds nothing else.
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
	// The P bit of the VP8 frame header: 0 says key frame (RFC 7741 4.3).
	d.Key = d.Start && payload[n]&0x01 == 0
	return d, true
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

// Values are what a forwarder renumbers when it drops frames or changes the
// source.
type Values struct {
	PictureID uint16
	TL0PicIdx uint8
	KeyIdx    uint8
}

// Values are the descriptor's own numbers.
func (d *Descriptor) Values() Values {
	return Values{d.PictureID, d.TL0PicIdx, d.KeyIdx}
}

// Sub subtracts o's numbers modulo their sizes on the wire.
func (v Values) Sub(o Values) Values {
	return Values{(v.PictureID - o.PictureID) & 0x7fff, v.TL0PicIdx - o.TL0PicIdx, (v.KeyIdx - o.KeyIdx) & 0x1f}
}

// Put writes v into the descriptor at the start of payload, which must be the one d was
// parsed from (or a copy), and returns the payload, which may have other bytes then. A
// picture id of 7 bits becomes one of 15, for which the payload grows by a byte: receivers
// compare ids modulo 2^15, and a source may change from one size to the other.
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
