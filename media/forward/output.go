package forward

import (
	"errors"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"

	record "parlor/media/downlink/sent"
)

// Output takes a forwarder's packets: over a [Downlink] to a subscriber, into a file, to
// another server, or to a program. The packets are one stream, whatever layers, codecs or
// sources they come from: they have one SSRC, and continuous numbers and timestamps.
//
// An output tells its wishes to the forwarder: [Forwarder.SetSettings],
// [Forwarder.RequestKeyFrame], and [Forwarder.HandleRTCP] for RTCP that it receives.
type Output interface {
	// Write takes a packet, and its kind. h and payload are valid only during the call.
	// There is one call of Write or Flush at a time, with the forwarder's lock held, so
	// Write must not block, nor call the forwarder or its track.
	Write(h *rtp.Header, payload []byte, kind record.Kind) error
	// Flush is called at the end of a burst of Writes.
	Flush()
	// WriteRTCP takes a report about the stream, which relates its timestamps to the
	// publisher's clock (RFC 3550, section 6.4.1). It may be called concurrently with
	// Write, and once more after End.
	WriteRTCP(packets []rtcp.Packet) error
	// End is called once, when the forwarder is closed because its track has ended or is
	// not wanted any more. No packet is written after it.
	End()
}

// ErrNotConnected is the error of an Output that has no path to the receiver yet. The
// packet is not sent, and does not count as a failure.
var ErrNotConnected = errors.New("the transport is not connected")

// overDownlink is the Output of a subscription. All forwarders to a subscriber share its
// downlink. The forwarder's lock is held when overDownlink is used, and Downlink.leaving
// from the first packet of a burst to the last.
type overDownlink struct {
	d      *Downlink
	f      *Forwarder
	next   Output
	leaves bool // leaving is held
	wide   bool // packets have transport-wide numbers
}

// outputOf is the Output to which a forwarder writes.
func outputOf(f *Forwarder) (Output, *overDownlink) {
	if f.downlink == nil {
		return f.cfg.Output, nil
	}
	o := &overDownlink{d: f.downlink, f: f, next: f.cfg.Output, wide: f.cfg.Ext.TransportCC != 0}
	return o, o
}

// Write sends the packet with the transport's next number.
func (o *overDownlink) Write(h *rtp.Header, payload []byte, kind record.Kind) error {
	if !o.leaves {
		o.d.leaving.Lock()
		o.leaves = true
	}
	if n, ok := o.d.leave(o.f.now, o.wide, o.f.headerSize+len(payload)+int(h.PaddingSize), kind); ok {
		o.f.extScratch.transport = [2]byte{byte(n >> 8), byte(n)}
	}
	return o.next.Write(h, payload, kind)
}

// left ends a burst: the downlink records what was sent, and other forwarders may send.
func (o *overDownlink) left() {
	if o == nil || !o.leaves {
		return
	}
	o.d.note(o.f.now)
	o.leaves = false
	o.d.leaving.Unlock()
}

func (o *overDownlink) Flush() { o.next.Flush() }

func (o *overDownlink) WriteRTCP(packets []rtcp.Packet) error { return o.next.WriteRTCP(packets) }

func (o *overDownlink) End() {
	o.d.remove(o.f)
	o.next.End()
}
