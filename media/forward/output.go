package forward

import (
	"errors"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"

	record "parlor/media/downlink/sent"
)

// Output is where a forwarder's packets go: over a [Downlink] to a subscriber, or into
// a file, to another server, to a program that listens. They are one stream, whatever
// layers, codecs or sources they come from: one SSRC, with numbers and timestamps that
// go on.
//
// What an output wants of its track it says to the forwarder: [Forwarder.SetSettings],
// [Forwarder.RequestKeyFrame], and [Forwarder.HandleRTCP] where it receives RTCP.
type Output interface {
	// Write takes a packet, and what it is sent for. h and payload are valid only during
	// the call. There is one call of Write or Flush at a time, with the forwarder's lock
	// held: it must not wait, and not call the forwarder or its track.
	Write(h *rtp.Header, payload []byte, kind record.Kind) error
	// Flush says that a burst of Writes is over.
	Flush()
	// WriteRTCP takes a report about the stream, which relates its timestamps to the
	// publisher's clock (RFC 3550, 6.4.1). It may be called concurrently with Write, and
	// once more after End.
	WriteRTCP(packets []rtcp.Packet) error
	// End is called once, when the forwarder is closed, since its track has ended or since
	// nobody wants it any more. Nothing is written after it.
	End()
}

// ErrNotConnected is what an Output gives while there is no way to the receiver yet.
// Such a packet is not sent, and is no fault.
var ErrNotConnected = errors.New("the transport is not connected")

// overDownlink is the Output of a subscription: it shares its downlink with the others
// of its subscriber. The forwarder's lock is held when it is used, and from the first
// packet of a burst to the last Downlink.leaving too.
type overDownlink struct {
	d      *Downlink
	f      *Forwarder
	next   Output
	leaves bool // leaving is held
	wide   bool // packets have transport-wide numbers
}

// outputOf is where a forwarder writes.
func outputOf(f *Forwarder) (Output, *overDownlink) {
	if f.downlink == nil {
		return f.cfg.Output, nil
	}
	o := &overDownlink{d: f.downlink, f: f, next: f.cfg.Output, wide: f.cfg.Ext.TransportCC != 0}
	return o, o
}

// Write sends the packet under the transport's next number.
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

// left ends a burst: the downlink takes note of what was sent, and others may send.
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
