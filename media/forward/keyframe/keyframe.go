// Package keyframe finds the beginning of keyframes in RTP payloads of H.264 (RFC 6184),
// H.265 (RFC 7798) and AV1 (RTP payload format for AV1). The payload descriptors of VP8
// and VP9 mark keyframes themselves. Of H.264 it reads the size, too.
package keyframe

import "encoding/binary"

// NAL is the kinds of NAL units found in a payload.
type NAL uint8

const (
	// ParameterSets: the payload has an SPS (or VPS), with which a keyframe begins.
	ParameterSets NAL = 1 << iota
	// Picture: the payload has the first bytes of a picture at which a decoder can start.
	Picture
)

// H264 inspects a payload of H.264: single NAL units, STAP-A, and the first fragment of
// FU-A.
func H264(b []byte) (found NAL) {
	if len(b) == 0 {
		return 0
	}
	switch t := b[0] & 0x1f; t {
	case 24: // STAP-A
		for b = b[1:]; len(b) > 2; {
			n := int(binary.BigEndian.Uint16(b))
			b = b[2:]
			if n == 0 || n > len(b) {
				return found
			}
			found |= h264Unit(b[0] & 0x1f)
			b = b[n:]
		}
		return found
	case 28, 29: // FU-A, FU-B
		if len(b) < 2 || b[1]&0x80 == 0 {
			return 0
		}
		return h264Unit(b[1] & 0x1f)
	default:
		return h264Unit(t)
	}
}

func h264Unit(t byte) NAL {
	switch t {
	case 7:
		return ParameterSets
	case 5:
		return Picture
	}
	return 0
}

// H265 inspects a payload of H.265: single NAL units, aggregation packets, and the first
// fragment of fragmentation units (without DONL fields).
func H265(b []byte) (found NAL) {
	if len(b) < 2 {
		return 0
	}
	switch t := b[0] >> 1 & 0x3f; t {
	case 48: // AP
		for b = b[2:]; len(b) > 2; {
			n := int(binary.BigEndian.Uint16(b))
			b = b[2:]
			if n == 0 || n > len(b) {
				return found
			}
			found |= h265Unit(b[0] >> 1 & 0x3f)
			b = b[n:]
		}
		return found
	case 49: // FU
		if len(b) < 3 || b[2]&0x80 == 0 {
			return 0
		}
		return h265Unit(b[2] & 0x3f)
	default:
		return h265Unit(t)
	}
}

func h265Unit(t byte) NAL {
	switch {
	case t == 32 || t == 33: // VPS, SPS
		return ParameterSets
	case t >= 16 && t <= 21: // BLA, IDR, CRA
		return Picture
	}
	return 0
}

// AV1 reports whether a coded video sequence begins in the payload: by the N bit of the
// aggregation header, or by a sequence header OBU that starts in it.
func AV1(b []byte) bool {
	if len(b) < 2 {
		return false
	}
	// Z: the first element continues an OBU of the packet before.
	continued, count, fresh := b[0]&0x80 != 0, int(b[0]>>4&3), b[0]&0x08 != 0
	if fresh && !continued {
		return true
	}
	b = b[1:]
	for i := 0; len(b) > 0; i++ {
		n := len(b)
		if count == 0 || i < count-1 {
			size, used := leb128(b)
			if used == 0 || size > len(b)-used {
				return false
			}
			b, n = b[used:], size
		}
		if n > 0 && !(i == 0 && continued) && b[0]>>3&0x0f == 1 {
			return true
		}
		b = b[n:]
		if count != 0 && i == count-1 {
			return false
		}
	}
	return false
}

// leb128 reads a size. used is 0 if the size is malformed or larger than a packet.
func leb128(b []byte) (v, used int) {
	for i := 0; i < len(b) && i < 4; i++ {
		v |= int(b[i]&0x7f) << (7 * i)
		if b[i]&0x80 == 0 {
			return v, i + 1
		}
	}
	return 0, 0
}
