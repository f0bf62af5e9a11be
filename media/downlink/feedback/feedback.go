// Package feedback parses congestion control feedback without allocating.
//
// The nouns: a [Report] is one parsed packet of transport-wide feedback (RTCP 205/15,
// draft-holmer-rmcat-transport-wide-cc-extensions-01). A [StreamReport] is one parsed
// packet of RFC 8888 (RTCP 205/11). Both are reused for the next packet.
package feedback

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/pion/rtcp"
)

// MaxStatuses is the largest number of packets in a report. A report on more packets
// means that seconds of feedback were lost. Without the limit, a few bytes could expand
// to tens of thousands of statuses.
const MaxStatuses = 4096

// NotReceived as an arrival: the packet had not arrived when the report was made.
const NotReceived = math.MinInt32

var (
	// ErrMalformed is the error for an incomplete or inconsistent feedback packet.
	ErrMalformed = errors.New("malformed congestion control feedback")
	// ErrTooLong is the error for a report on more than MaxStatuses packets.
	ErrTooLong = errors.New("congestion control feedback of too many packets")
)

// Report is the receiver's report on consecutive transport-wide numbers. The zero value
// is ready for Parse. It is not safe for concurrent use.
type Report struct {
	Base      uint16  // number of the first packet
	Reference uint32  // 24 bits, in units of 64 ms of the receiver's clock
	Count     uint8   // number of the report
	Arrivals  []int32 // per packet: units of 250 µs after Reference, or NotReceived
}

const (
	headerSize  = 20 // RTCP header, two SSRCs, base, count, reference, report's number
	format      = 15
	packetType  = 205
	smallDelta  = 1
	largeDelta  = 2
	runMask     = 1<<13 - 1
	vectorBit   = 1 << 15
	twoBitsFlag = 1 << 14
)

// Parse parses the RTCP packet at the beginning of raw, and reuses the memory of earlier
// reports. After an error the report is empty.
func (r *Report) Parse(raw []byte) error {
	err := r.parse(raw)
	if err != nil {
		r.Arrivals = r.Arrivals[:0]
	}
	return err
}

func (r *Report) parse(raw []byte) error {
	r.Arrivals = r.Arrivals[:0]
	if len(raw) < headerSize || raw[0]>>6 != 2 || raw[0]&0x1f != format || raw[1] != packetType {
		return ErrMalformed
	}
	size := 4 * (int(binary.BigEndian.Uint16(raw[2:])) + 1)
	if size > len(raw) || size < headerSize {
		return ErrMalformed
	}
	r.Base = binary.BigEndian.Uint16(raw[12:])
	count := int(binary.BigEndian.Uint16(raw[14:]))
	word := binary.BigEndian.Uint32(raw[16:])
	r.Reference, r.Count = word>>8, uint8(word)
	if count > MaxStatuses {
		return ErrTooLong
	}
	rest := raw[headerSize:size]
	rest, err := r.symbols(rest, count)
	if err != nil {
		return err
	}
	return r.deltas(rest)
}

// symbols parses the statuses. Each arrival holds the packet's symbol until deltas
// replaces it.
func (r *Report) symbols(rest []byte, count int) ([]byte, error) {
	for len(r.Arrivals) < count {
		if len(rest) < 2 {
			return nil, ErrMalformed
		}
		chunk := binary.BigEndian.Uint16(rest)
		rest = rest[2:]
		left := count - len(r.Arrivals)
		switch {
		case chunk&vectorBit == 0:
			symbol := int32(chunk >> 13)
			for range min(int(chunk&runMask), left) {
				r.Arrivals = append(r.Arrivals, symbol)
			}
			if chunk&runMask == 0 {
				return nil, ErrMalformed
			}
		case chunk&twoBitsFlag == 0:
			for i := range min(14, left) {
				r.Arrivals = append(r.Arrivals, int32(chunk>>(13-i)&1))
			}
		default:
			for i := range min(7, left) {
				r.Arrivals = append(r.Arrivals, int32(chunk>>(12-2*i)&3))
			}
		}
	}
	return rest, nil
}

func (r *Report) deltas(rest []byte) error {
	at := int32(0)
	for i, symbol := range r.Arrivals {
		switch symbol {
		case smallDelta:
			if len(rest) < 1 {
				return ErrMalformed
			}
			at += int32(rest[0])
			rest = rest[1:]
		case largeDelta:
			if len(rest) < 2 {
				return ErrMalformed
			}
			at += int32(int16(binary.BigEndian.Uint16(rest)))
			rest = rest[2:]
		case 0:
			r.Arrivals[i] = NotReceived
			continue
		default:
			return ErrMalformed // 3 is reserved
		}
		r.Arrivals[i] = at
	}
	return nil
}

// From takes a report that pion has parsed.
func (r *Report) From(fb *rtcp.TransportLayerCC) error {
	r.Arrivals = r.Arrivals[:0]
	if int(fb.PacketStatusCount) > MaxStatuses {
		return ErrTooLong
	}
	r.Base, r.Reference, r.Count = fb.BaseSequenceNumber, fb.ReferenceTime, fb.FbPktCount
	count := int(fb.PacketStatusCount)
	for _, chunk := range fb.PacketChunks {
		switch c := chunk.(type) {
		case *rtcp.RunLengthChunk:
			for range min(int(c.RunLength), count-len(r.Arrivals)) {
				r.Arrivals = append(r.Arrivals, int32(c.PacketStatusSymbol))
			}
		case *rtcp.StatusVectorChunk:
			for _, s := range c.SymbolList[:min(len(c.SymbolList), count-len(r.Arrivals))] {
				r.Arrivals = append(r.Arrivals, int32(s))
			}
		}
	}
	at, next := int32(0), 0
	for i, symbol := range r.Arrivals {
		if symbol == 0 {
			r.Arrivals[i] = NotReceived
			continue
		}
		if next == len(fb.RecvDeltas) {
			r.Arrivals = r.Arrivals[:0]
			return ErrMalformed
		}
		at += int32(fb.RecvDeltas[next].Delta / rtcp.TypeTCCDeltaScaleFactor)
		r.Arrivals[i] = at
		next++
	}
	return nil
}

// Append appends a feedback packet for r, for tests and for receivers. Arrivals whose
// distance from the one before does not fit 16 bits are encoded as not received.
func (r *Report) Append(dst []byte, sender, media uint32) []byte {
	start := len(dst)
	dst = append(dst, 2<<6|format, packetType, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, sender)
	dst = binary.BigEndian.AppendUint32(dst, media)
	dst = binary.BigEndian.AppendUint16(dst, r.Base)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(r.Arrivals)))
	dst = binary.BigEndian.AppendUint32(dst, r.Reference<<8|uint32(r.Count))
	last := int32(0)
	for i := 0; i < len(r.Arrivals); i += 7 {
		chunk := uint16(vectorBit | twoBitsFlag)
		for j, at := range r.Arrivals[i:min(i+7, len(r.Arrivals))] {
			symbol, _ := symbolOf(at, &last)
			chunk |= symbol << (12 - 2*j)
		}
		dst = binary.BigEndian.AppendUint16(dst, chunk)
	}
	last = 0
	for _, at := range r.Arrivals {
		switch symbol, delta := symbolOf(at, &last); symbol {
		case smallDelta:
			dst = append(dst, byte(delta))
		case largeDelta:
			dst = binary.BigEndian.AppendUint16(dst, uint16(int16(delta)))
		}
	}
	for (len(dst)-start)%4 != 0 {
		dst = append(dst, 0)
	}
	binary.BigEndian.PutUint16(dst[start+2:], uint16((len(dst)-start)/4-1))
	return dst
}

// symbolOf encodes an arrival relative to the one at last.
func symbolOf(at int32, last *int32) (symbol uint16, delta int32) {
	if at == NotReceived {
		return 0, 0
	}
	delta = at - *last
	switch {
	case delta >= 0 && delta <= 255:
		symbol = smallDelta
	case delta >= math.MinInt16 && delta <= math.MaxInt16:
		symbol = largeDelta
	default:
		return 0, 0
	}
	*last = at
	return symbol, delta
}
