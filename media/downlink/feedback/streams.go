package feedback

import (
	"encoding/binary"
	"math"
)

// Untimed as an arrival: the packet came, but the report does not tell when.
const Untimed = math.MinInt32 + 1

// StreamReport is what a receiver tells of the packets of RTP streams by their SSRC and
// sequence numbers (RTCP 205/11, RFC 8888): congestion control feedback of clients that
// have no transport-wide numbers. What it tells of ECN is not read. The zero value is
// ready for Parse. It is not safe for concurrent use.
type StreamReport struct {
	Timestamp uint32 // when it was made, in units of 1/65536 s of the receiver's clock
	Streams   []Stream
	// Arrivals are those of all streams: units of 1/1024 s before Timestamp, NotReceived or
	// Untimed.
	Arrivals []int32
}

// Stream is the part of a StreamReport that tells of one SSRC.
type Stream struct {
	SSRC     uint32
	Begin    uint16 // the sequence number of the first packet
	From, To int    // its packets' place in Arrivals
}

const (
	streamFormat   = 11
	streamsHeader  = 8 // RTCP header, the sender's SSRC
	streamHeader   = 8 // SSRC, first sequence number, count
	timestampSize  = 4
	receivedBit    = 1 << 15
	offsetMask     = 1<<13 - 1
	untimedOffsets = 0x1ffe // from here on: too long ago to be told, and unknown
)

// IsStreams tells a report of RFC 8888 from transport-wide feedback, by the first two
// bytes of an RTCP packet.
func IsStreams(raw []byte) bool {
	return len(raw) >= 2 && raw[0]&0x1f == streamFormat && raw[1] == packetType
}

// Parse unpacks the RTCP packet that begins raw, and keeps the room that earlier
// reports needed. After an error the report is empty.
func (r *StreamReport) Parse(raw []byte) error {
	err := r.parse(raw)
	if err != nil {
		r.Streams, r.Arrivals = r.Streams[:0], r.Arrivals[:0]
	}
	return err
}

func (r *StreamReport) parse(raw []byte) error {
	r.Streams, r.Arrivals = r.Streams[:0], r.Arrivals[:0]
	if len(raw) < streamsHeader+timestampSize || raw[0]>>6 != 2 || !IsStreams(raw) {
		return ErrMalformed
	}
	size := 4 * (int(binary.BigEndian.Uint16(raw[2:])) + 1)
	if size > len(raw) || size < streamsHeader+timestampSize {
		return ErrMalformed
	}
	if raw[0]&0x20 != 0 { // RFC 3550, 6.4.1: the last byte counts the padding
		padding := int(raw[size-1])
		if padding == 0 || padding%4 != 0 || size-padding < streamsHeader+timestampSize {
			return ErrMalformed
		}
		size -= padding
	}
	end := size - timestampSize
	r.Timestamp = binary.BigEndian.Uint32(raw[end:])
	for rest := raw[streamsHeader:end]; len(rest) > 0; {
		if len(rest) < streamHeader {
			return ErrMalformed
		}
		s := Stream{SSRC: binary.BigEndian.Uint32(rest), Begin: binary.BigEndian.Uint16(rest[4:]), From: len(r.Arrivals)}
		count := int(binary.BigEndian.Uint16(rest[6:]))
		rest = rest[streamHeader:]
		padded := 2 * (count + count%2)
		switch {
		case padded > len(rest):
			return ErrMalformed
		case s.From+count > MaxStatuses:
			return ErrTooLong
		}
		for i := range count {
			r.Arrivals = append(r.Arrivals, arrivalOf(binary.BigEndian.Uint16(rest[2*i:])))
		}
		rest = rest[padded:]
		s.To = len(r.Arrivals)
		r.Streams = append(r.Streams, s)
	}
	return nil
}

func arrivalOf(metric uint16) int32 {
	offset := metric & offsetMask
	switch {
	case metric&receivedBit == 0:
		return NotReceived
	case offset >= untimedOffsets:
		return Untimed
	}
	return int32(offset)
}
