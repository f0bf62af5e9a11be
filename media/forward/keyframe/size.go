package keyframe

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// H264Size is the size of the pictures that begin with a payload of H.264, in whole
// macroblocks, by its sequence parameter set (ITU-T H.264, section 7.3.2.1.1); 0 if it has
// none, or one with scaling matrices, which WebRTC's encoders do not send.
func H264Size(b []byte) (width, height uint32) {
	if len(b) == 0 {
		return 0, 0
	}
	switch b[0] & 0x1f {
	case 7:
		return spsSize(b)
	case 24: // STAP-A
		for b = b[1:]; len(b) > 2; {
			n := int(binary.BigEndian.Uint16(b))
			b = b[2:]
			if n == 0 || n > len(b) {
				return 0, 0
			}
			if b[0]&0x1f == 7 {
				return spsSize(b[:n])
			}
			b = b[n:]
		}
	}
	return 0, 0
}

// highProfiles are the profiles whose parameter sets tell the format of colours.
var highProfiles = []uint32{100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}

// mostSPS is the longest part of a parameter set that is read.
const mostSPS = 128

// mostMacroblocks is the longest side of a picture: 16384 pixels.
const mostMacroblocks = 1024

func spsSize(nal []byte) (width, height uint32) {
	nal = nal[:min(len(nal), mostSPS)]
	r := bitReader{b: bytes.ReplaceAll(nal, []byte{0, 0, 3}, []byte{0, 0})} // emulation prevention
	r.bits(8)
	profile := r.bits(8)
	r.bits(16)
	r.golomb()
	if slices.Contains(highProfiles, profile) {
		if r.golomb() == 3 {
			r.bits(1)
		}
		r.golomb()
		r.golomb()
		r.bits(1)
		if r.bits(1) == 1 {
			return 0, 0
		}
	}
	r.golomb()
	switch r.golomb() {
	case 0:
		r.golomb()
	case 1:
		r.bits(1)
		r.golomb()
		r.golomb()
		for n := r.golomb(); n > 0 && !r.failed; n-- {
			r.golomb()
		}
	}
	r.golomb()
	r.bits(1)
	columns, rows := r.golomb(), r.golomb()
	if r.bits(1) == 0 { // fields
		rows = 2*min(rows, mostMacroblocks) + 1
	}
	if r.failed || columns >= mostMacroblocks || rows >= mostMacroblocks {
		return 0, 0
	}
	return 16 * (columns + 1), 16 * (rows + 1)
}

// bitReader reads bits; past the end it fails, and they are 0.
type bitReader struct {
	b      []byte
	at     int // in bits
	failed bool
}

func (r *bitReader) bits(n int) (v uint32) {
	for ; n > 0; n-- {
		if r.at >= 8*len(r.b) {
			r.failed = true
			return 0
		}
		v = v<<1 | uint32(r.b[r.at/8]>>(7-r.at%8)&1)
		r.at++
	}
	return v
}

// golomb reads an Exp-Golomb code (section 9.1).
func (r *bitReader) golomb() uint32 {
	zeros := 0
	for r.bits(1) == 0 {
		if zeros++; zeros > 31 || r.failed {
			r.failed = true
			return 0
		}
	}
	return 1<<zeros - 1 + r.bits(zeros)
}
