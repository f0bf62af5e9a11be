package forward

import (
	"encoding/binary"

	"parlor/media/forward/packet"
)

// captureAge is how old a capture time may be for others to be derived from it, in
// seconds. Senders send one a second.
const captureAge = 5

// captureTime is the last absolute capture time of a layer
// (http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time).
type captureTime struct {
	size      int // of the value; 0 = no capture time is known
	value     [16]byte
	timestamp uint32 // of the packet with the capture time
}

// follow notes p's capture time. If p begins a keyframe and has no capture time, it gets
// one, interpolated as receivers do: if the forwarder switches to this layer at p, the
// subscriber's last capture time is of another source. p keeps it, so that a
// retransmission has the same.
func (c *captureTime) follow(p *packet.Packet, rate int64) {
	if e := p.Extension(packet.ExtAbsCaptureTime); len(e) == 8 || len(e) == 16 {
		if !p.Late {
			c.size, c.timestamp = copy(c.value[:], e), p.Timestamp
		}
		return
	}
	if c.size == 0 || p.Late || !p.Frame.Key || !p.Frame.Start {
		return
	}
	since := int64(int32(p.Timestamp - c.timestamp))
	if since < 0 || since > captureAge*rate {
		return
	}
	value := c.value
	ntp := binary.BigEndian.Uint64(value[:]) // seconds in 32.32 fixed point
	binary.BigEndian.PutUint64(value[:], ntp+uint64(since)<<32/uint64(rate))
	p.SetExtension(packet.ExtAbsCaptureTime, value[:c.size])
}
