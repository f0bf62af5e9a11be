package forward

import (
	"github.com/pion/rtcp"
	"github.com/pion/rtp"

	record "parlor/media/downlink/sent"
)

// Output takes a forwarder's packets: over a downlink to a subscriber, into a file, to
// another server, or to a program. The packets are one stream, whatever layers, codecs or
// sources they come from: they have one SSRC, and continuous numbers and timestamps.
//
// An output tells its wishes to the forwarder: [Forwarder.SetSettings],
// [Forwarder.RequestKeyFrame], and [Forwarder.HandleRTCP] for RTCP that it receives.
type Output interface {
	// Write takes a packet, and its kind. h and payload are valid only during the call.
	// There is one call of Write or Flush at a time, with the forwarder's lock held, so
	// Write must not block, nor call the forwarder or its track. One goroutine writes to all
	// outputs of a layer in turn: each delays the others by the time that it takes.
	// It gives downlink.ErrNotConnected while there is no path to the receiver yet.
	Write(h *rtp.Header, payload []byte, kind record.Kind) error
	// Flush is called at the end of a burst of Writes, and after WriteRTCP.
	Flush()
	// WriteRTCP takes a report about the stream, which relates its timestamps to the
	// publisher's clock (RFC 3550, section 6.4.1). It may be called concurrently with
	// Write, and once more after End.
	WriteRTCP(packets []rtcp.Packet) error
	// End is called once, when the forwarder is closed because its track has ended or is
	// not wanted any more. No packet is written after it.
	End()
}
