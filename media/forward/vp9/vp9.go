// Package vp9 parses the VP9 RTP payload descriptor (RFC 9628, section 4.2).
package vp9

import "encoding/binary"

// Size is the size of a spatial layer in pixels.
type Size struct{ Width, Height uint16 }

// MaxSpatial is the largest number of spatial layers in the format.
const MaxSpatial = 8

// Descriptor is a VP9 payload descriptor.
type Descriptor struct {
	// Length is the length of the descriptor in bytes.
	Length int
	// InterPredicted (P): the frame depends on an earlier picture.
	InterPredicted bool
	// Start (B) and End (E) mark the first and last packet of a frame, which is one
	// spatial layer of a picture.
	Start, End bool
	// NotReference (Z): no higher spatial layer depends on this frame.
	NotReference bool

	// HasLayers: the descriptor has the four fields that follow.
	HasLayers         bool
	Temporal, Spatial uint8
	// SwitchUp (U): later pictures in higher temporal layers depend on no picture before
	// this one.
	SwitchUp bool
	// InterLayer (D): the frame depends on the spatial layer below.
	InterLayer bool

	HasPictureID    bool
	LongPictureID   bool
	PictureIDOffset int
	PictureID       uint16
	HasTL0PicIdx    bool
	TL0PicIdxOffset int
	TL0PicIdx       uint8

	// SpatialLayers is from a scalability structure; 0 if the packet has none.
	SpatialLayers int
	Sizes         [MaxSpatial]Size // valid when HasSizes
	HasSizes      bool
}

// Key reports whether a receiver can start with this packet.
func (d *Descriptor) Key() bool {
	return d.Start && !d.InterPredicted && d.Spatial == 0
}

// Parse parses the descriptor at the start of b; false if b is too short for the
// announced fields.
func (d *Descriptor) Parse(b []byte) bool {
	*d = Descriptor{}
	if len(b) < 1 {
		return false
	}
	first := b[0]
	d.InterPredicted = first&0x40 != 0
	flexible := first&0x10 != 0
	d.Start, d.End = first&0x08 != 0, first&0x04 != 0
	d.NotReference = first&0x01 != 0
	n := 1
	if first&0x80 != 0 {
		if len(b) < n+1 {
			return false
		}
		d.HasPictureID, d.PictureIDOffset = true, n
		d.PictureID = uint16(b[n] & 0x7f)
		n++
		if b[n-1]&0x80 != 0 {
			if len(b) < n+1 {
				return false
			}
			d.LongPictureID = true
			d.PictureID = d.PictureID<<8 | uint16(b[n])
			n++
		}
	}
	if first&0x20 != 0 {
		if n = d.parseLayers(b, n, flexible); n < 0 {
			return false
		}
	}
	if flexible && d.InterPredicted {
		for more, i := true, 0; more; i++ {
			if i == 3 || len(b) < n+1 {
				return false
			}
			more = b[n]&0x01 != 0
			n++
		}
	}
	if first&0x02 != 0 {
		if n = d.parseStructure(b, n); n < 0 {
			return false
		}
	}
	d.Length = n
	return n < len(b)
}

func (d *Descriptor) parseLayers(b []byte, n int, flexible bool) int {
	if len(b) < n+1 {
		return -1
	}
	d.HasLayers = true
	d.Temporal, d.Spatial = b[n]>>5, b[n]>>1&0x07
	d.SwitchUp, d.InterLayer = b[n]&0x10 != 0, b[n]&0x01 != 0
	n++
	if flexible {
		return n
	}
	if len(b) < n+1 {
		return -1
	}
	d.HasTL0PicIdx, d.TL0PicIdxOffset, d.TL0PicIdx = true, n, b[n]
	return n + 1
}

// parseStructure parses the scalability structure (RFC 9628, section 4.2.1).
func (d *Descriptor) parseStructure(b []byte, n int) int {
	if len(b) < n+1 {
		return -1
	}
	d.SpatialLayers = int(b[n]>>5) + 1
	sizes, groups := b[n]&0x10 != 0, b[n]&0x08 != 0
	n++
	if sizes {
		if len(b) < n+4*d.SpatialLayers {
			return -1
		}
		d.HasSizes = true
		for i := range d.SpatialLayers {
			d.Sizes[i] = Size{binary.BigEndian.Uint16(b[n:]), binary.BigEndian.Uint16(b[n+2:])}
			n += 4
		}
	}
	if groups {
		if len(b) < n+1 {
			return -1
		}
		count := int(b[n])
		n++
		for range count {
			if len(b) < n+1 {
				return -1
			}
			n += 1 + int(b[n]>>2&0x03)
		}
	}
	if n > len(b) {
		return -1
	}
	return n
}

// Numbers are the picture numbers of a descriptor and their positions. The offsets are
// positions in the payload; 0 if the field is absent.
type Numbers struct {
	PictureIDOffset, TL0PicIdxOffset uint8
	LongPictureID                    bool
	PictureID                        uint16
	TL0PicIdx                        uint8
}

// Numbers are the picture numbers of the descriptor.
func (d *Descriptor) Numbers() Numbers {
	return Numbers{
		PictureIDOffset: uint8(d.PictureIDOffset), TL0PicIdxOffset: uint8(d.TL0PicIdxOffset),
		LongPictureID: d.LongPictureID, PictureID: d.PictureID, TL0PicIdx: d.TL0PicIdx,
	}
}

// Put writes other numbers into the payload that n was parsed from, or into a copy, and
// returns the payload. A picture id of 7 bits becomes one of 15, as in package vp8, which
// makes the payload a byte longer.
func (n *Numbers) Put(payload []byte, pictureID uint16, tl0PicIdx uint8) []byte {
	grown := uint8(0)
	if o := n.PictureIDOffset; o != 0 {
		if !n.LongPictureID {
			payload = append(payload, 0)
			copy(payload[o+2:], payload[o+1:])
			grown = 1
		}
		payload[o], payload[o+1] = 0x80|byte(pictureID>>8)&0x7f, byte(pictureID)
	}
	if o := n.TL0PicIdxOffset; o != 0 {
		payload[o+grown] = tl0PicIdx
	}
	return payload
}
