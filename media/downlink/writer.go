package downlink

import (
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"

	"parlor/media/downlink/sent"
	"parlor/media/srtpout"
)

// ErrNotConnected is the error before there is a path to the subscriber. The packet is
// not sent, and does not count as a failure.
var ErrNotConnected = errors.New("the transport is not connected")

// outgoing is how the RTP of a path is sent. It is chosen once, when the transport is
// connected, and does not change: our encryption and pion's have the same keys, so one
// must not send the indices of the other (see package srtpout).
type outgoing struct {
	sender *srtpout.Sender // nil: pion's write streams
}

// Way is the socket and the remote address that ICE has selected, over UDP or TCP. The zero
// Way is not known.
type Way struct {
	Socket srtpout.Socket
	Remote netip.AddrPort
	// Network names the client's network and the protocol, as far as the server can tell
	// networks from each other.
	Network string
}

// Choose makes packets leave by our own encryption if the way and the keys are known,
// otherwise by pion. The choice is final.
func (d *Path) Choose(w Way, keys func() (srtpout.Keys, error), buffers *srtpout.Buffers, log *slog.Logger) {
	out := &outgoing{}
	defer func() { d.out.Store(out) }()
	d.leaving.Lock()
	d.way = w
	d.leaving.Unlock()
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

// Follow sends packets to the present destination of ICE. It returns false if that is
// impossible, and the client has to reconnect. Pion follows ICE by itself. What was
// measured on the way to another destination does not hold any more.
func (d *Path) Follow(w Way) bool {
	out := d.out.Load()
	if out == nil {
		return true
	}
	d.leaving.Lock() // no burst is on both ways
	defer d.leaving.Unlock()
	if out.sender != nil {
		out.sender.SetPath(w.Socket, w.Remote)
	}
	if former := d.way; w.Socket != nil && (w.Remote != former.Remote || w.Network != former.Network) {
		d.way = w
		d.moved(d.Since(time.Now()), w.Network != former.Network)
	}
	return w.Socket != nil || out.sender == nil
}

// moved starts a new estimate, and divides the bandwidth again.
func (d *Path) moved(now int64, elsewhere bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.control.Moved(now, elsewhere)
	d.judgedLocked()
	if len(d.streams) > 0 {
		d.due = true
		d.wakeLocked(now)
	}
}

// SendRTCP sends a compound packet by our own encryption; false if packets leave by pion.
// While ICE restarts it takes the former way, as media does.
func (d *Path) SendRTCP(packet []byte) (ours bool, err error) {
	out := d.out.Load()
	if out == nil || out.sender == nil {
		return false, nil
	}
	return true, out.sender.WriteRTCP(packet)
}

// Stop sends no packets until Follow, because the client does not consent any more (RFC
// 7675).
func (d *Path) Stop() { d.Follow(Way{}) }

// Remote is the destination of our own encryption; invalid if there is none.
func (d *Path) Remote() netip.AddrPort {
	if out := d.out.Load(); out != nil && out.sender != nil {
		return out.sender.Remote()
	}
	return netip.AddrPort{}
}

// WriterConfig configures a [Writer].
type WriterConfig struct {
	SSRC, RTX uint32 // RTX 0: retransmissions use SSRC
	// Repeats is how many of the last packets can be sent again on SSRC; a power of two.
	Repeats int
	// Pion sends packets if our own encryption cannot.
	Pion interface {
		WriteRTP(h *rtp.Header, payload []byte) (int, error)
	}
}

// Writer writes the packets of one subscription on a path. It is a forward.Output. No
// other writer uses its SRTP streams.
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

// Flush sends the written packets.
func (w *Writer) Flush() { w.path.transport.Flush() }

// WriteRTCP takes RTCP reports, which leave with the next Flush.
func (w *Writer) WriteRTCP(packets []rtcp.Packet) error { return w.path.transport.WriteRTCP(packets) }

// End does nothing: the subscription retires its SSRCs when it leaves its section.
func (w *Writer) End() {}

// Retire gives up the SSRCs after their last packet. It reports whether the transport has
// given up so many that it must be replaced.
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
