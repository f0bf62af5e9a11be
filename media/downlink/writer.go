package downlink

import (
	"errors"
	"log/slog"
	"net/netip"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"

	"parlor/media/downlink/sent"
	"parlor/media/srtpout"
)

// ErrNotConnected is given while there is no way to the subscriber yet. Such a packet is
// not sent, and is no fault.
var ErrNotConnected = errors.New("the transport is not connected")

// outgoing is how a path's RTP leaves. It is chosen once, when the transport is
// connected, and never changed: both ways have the same keys, and one must not send what
// the other has sent (see package srtpout).
type outgoing struct {
	sender *srtpout.Sender // nil: pion's write streams
}

// Way is where ICE leads. The zero Way is one that is not over UDP, or not known.
type Way struct {
	Socket srtpout.Socket
	Remote netip.AddrPort
}

// Choose has packets leave by our own encryption where that can be: over UDP, and with
// keys that are known. Else they leave by way of pion. What is chosen stays.
func (d *Path) Choose(w Way, keys func() (srtpout.Keys, error), buffers *srtpout.Buffers, log *slog.Logger) {
	out := &outgoing{}
	defer func() { d.out.Store(out) }()
	if w.Socket == nil {
		return
	}
	k, err := keys()
	if err != nil {
		log.Debug("media leaves by way of pion", "reason", err)
		return
	}
	sender, err := srtpout.NewSender(buffers, k)
	if err != nil {
		log.Warn("media leaves by way of pion", "error", err)
		return
	}
	sender.SetPath(w.Socket, w.Remote)
	out.sender = sender
}

// Chosen reports whether Choose was called.
func (d *Path) Chosen() bool { return d.out.Load() != nil }

// Sealed reports whether packets leave by our own encryption.
func (d *Path) Sealed() bool {
	out := d.out.Load()
	return out != nil && out.sender != nil
}

// Follow has packets leave to where ICE leads now. It reports false if they cannot: the
// client has to connect again. Where pion sends it follows by itself.
func (d *Path) Follow(w Way) bool {
	out := d.out.Load()
	if out == nil || out.sender == nil {
		return true
	}
	out.sender.SetPath(w.Socket, w.Remote)
	return w.Socket != nil
}

// Stop has nothing leave until Follow: the client no longer consents (RFC 7675).
func (d *Path) Stop() { d.Follow(Way{}) }

// Remote is where packets leave to by our own encryption, invalid if nowhere.
func (d *Path) Remote() netip.AddrPort {
	if out := d.out.Load(); out != nil && out.sender != nil {
		return out.sender.Remote()
	}
	return netip.AddrPort{}
}

// WriterConfig is what a [Writer] is made of.
type WriterConfig struct {
	SSRC, RTX uint32 // RTX 0: repeats go on SSRC
	// Repeats is how many packets back one may be sent again on SSRC, a power of two.
	Repeats int
	// Pion writes where our own encryption cannot.
	Pion interface {
		WriteRTP(h *rtp.Header, payload []byte) (int, error)
	}
}

// Writer writes the packets of one subscription on a path: a forward.Output. Its SRTP
// streams are its own.
type Writer struct {
	path          *Path
	cfg           WriterConfig
	media, repair *srtpout.Stream
}

// NewWriter makes a writer.
func (d *Path) NewWriter(cfg WriterConfig) *Writer { return &Writer{path: d, cfg: cfg} }

// Write sends a packet of one of the writer's SSRCs.
func (w *Writer) Write(h *rtp.Header, payload []byte, _ sent.Kind) error {
	out := w.path.out.Load()
	switch {
	case out == nil:
		return ErrNotConnected
	case out.sender == nil:
		_, err := w.cfg.Pion.WriteRTP(h, payload)
		return err
	case w.media == nil:
		w.media = out.sender.Stream(w.cfg.SSRC)
		if w.cfg.RTX == 0 {
			w.media.AllowRepeats(w.cfg.Repeats)
		} else {
			w.repair = out.sender.Stream(w.cfg.RTX)
		}
	}
	if h.SSRC == w.cfg.RTX && w.repair != nil {
		return w.repair.Write(h, payload)
	}
	return w.media.Write(h, payload)
}

// Flush sends what was written.
func (w *Writer) Flush() { w.path.transport.Flush() }

// WriteRTCP sends reports.
func (w *Writer) WriteRTCP(packets []rtcp.Packet) error { return w.path.transport.WriteRTCP(packets) }

// End does nothing: the subscription retires its SSRCs when it leaves its section.
func (w *Writer) End() {}

// Retire gives the SSRCs up once nobody writes them. It reports whether the transport
// has had so many that it is to be replaced.
func (w *Writer) Retire() (worn bool) {
	out := w.path.out.Load()
	if out == nil || out.sender == nil {
		return false
	}
	n := out.sender.Retire(w.cfg.SSRC)
	if w.cfg.RTX != 0 {
		n = out.sender.Retire(w.cfg.RTX)
	}
	return n >= srtpout.MaxRetired
}
