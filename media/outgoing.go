package media

import (
	"net"
	"net/netip"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"

	"parlor/media/downlink/sent"
	"parlor/media/forward"
	"parlor/media/srtpin"
	"parlor/media/srtpout"
)

// outgoing is how a transport's RTP leaves. It is chosen once, when the transport
// is connected, and never changed: both ways have the same keys, and one must not
// send what the other has sent (see package srtpout).
type outgoing struct {
	sender *srtpout.Sender // nil: pion's write streams
}

// followPath has media leave to where ICE now leads. It runs on the loop, with
// each change of a transport's state or path.
func (p *Peer) followPath(t *transport) {
	out := t.out.Load()
	switch t.state {
	case webrtc.PeerConnectionStateConnected:
	case webrtc.PeerConnectionStateFailed, webrtc.PeerConnectionStateClosed:
		if out != nil && out.sender != nil {
			out.sender.SetPath(nil, netip.AddrPort{}) // the client no longer consents (RFC 7675)
		}
		return
	default:
		return // while ICE restarts, the old path serves
	}
	pair, err := t.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return // it is about to change again
	}
	if out == nil {
		t.out.Store(t.chooseOutgoing(pair))
		t.down.Connected()
		t.watchPath()
		return
	}
	t.watchPath()
	if out.sender == nil {
		return // pion follows by itself
	}
	conn, remote, ok := t.udpPath(pair)
	out.sender.SetPath(conn, remote)
	if !ok {
		p.needsReconnect("media can no longer go over UDP")
	}
}

// watchPath has the downlink know what happens where ICE now leads: what a TCP connection
// drops, and the client's transport-wide feedback straight from the UDP socket. Where that
// cannot be it comes through pion.
func (t *transport) watchPath() {
	ice, err := t.pc.SCTP().Transport().ICETransport().GetLocalParameters()
	if err != nil {
		return // it has ended
	}
	if tcp := t.sock.net.tcp; tcp != nil {
		tcp.Watch(ice.UsernameFragment, t.down)
	}
	if t.opener == nil {
		keys, err := t.capture.ClientKeys()
		if err != nil {
			return
		}
		if t.opener, err = srtpin.NewFeedback(keys.Profile, keys.Key, keys.Salt, t.excess); err != nil {
			t.log.Warn("feedback comes by way of pion", "error", err)
			return
		}
	}
	opener, feedback := t.opener, t.down.Feedback
	t.sock.mux.Handle(ice.UsernameFragment, func(packet []byte, _ netip.AddrPort) bool {
		return opener.Take(packet, feedback)
	})
}

// udpPath is the conn and the address that a pair sends from and to; false if it is
// not over UDP, or if the conn is not known.
func (t *transport) udpPath(pair *webrtc.ICECandidatePair) (srtpout.Socket, netip.AddrPort, bool) {
	remote, ok := srtpout.RemoteOf(pair)
	if !ok {
		return nil, netip.AddrPort{}, false
	}
	conn := t.sock.local(pair.Local)
	if conn == nil {
		return nil, netip.AddrPort{}, false
	}
	if n := t.sock.net; n.turn != nil {
		if path := n.turn.Path(n.asKnown(conn.LocalAddr().(*net.UDPAddr).AddrPort()), remote); path != nil {
			return path, remote, true
		}
	}
	return conn, remote, true
}

// chooseOutgoing has our own encryption send where that can be: over UDP, and with
// keys that are known.
func (t *transport) chooseOutgoing(pair *webrtc.ICECandidatePair) *outgoing {
	conn, remote, ok := t.udpPath(pair)
	if !ok {
		return &outgoing{}
	}
	keys, err := t.capture.Keys()
	if err != nil {
		t.log.Debug("media leaves by way of pion", "reason", err)
		return &outgoing{}
	}
	sender, err := srtpout.NewSender(&t.sock.buffers, keys)
	if err != nil {
		t.log.Warn("media leaves by way of pion", "error", err)
		return &outgoing{}
	}
	sender.SetPath(conn, remote)
	return &outgoing{sender: sender}
}

// downWriter is the forward.Output of one subscription.
type downWriter struct {
	t             *transport
	video         bool
	pion          webrtc.TrackLocalWriter
	ssrc, rtx     uint32 // rtx 0: repeats go on ssrc
	media, repair *srtpout.Stream
}

func (w *downWriter) Write(h *rtp.Header, payload []byte, _ sent.Kind) error {
	out := w.t.out.Load()
	switch {
	case out == nil:
		return forward.ErrNotConnected
	case out.sender == nil:
		_, err := w.pion.WriteRTP(h, payload)
		return err
	case w.media == nil:
		w.media = out.sender.Stream(w.ssrc)
		if w.rtx == 0 {
			w.media.AllowRepeats(forward.Repeatable(w.video))
		} else {
			w.repair = out.sender.Stream(w.rtx)
		}
	}
	if h.SSRC == w.rtx && w.repair != nil {
		return w.repair.Write(h, payload)
	}
	return w.media.Write(h, payload)
}

func (w *downWriter) Flush() { w.t.sock.flush() }

func (w *downWriter) WriteRTCP(packets []rtcp.Packet) error { return w.t.writeRTCP(packets) }

// End does nothing: the subscription retires its SSRCs when it leaves its section.
func (w *downWriter) End() {}

// retire gives the SSRCs up once nobody writes them. It reports whether the transport
// has had so many that it is to be replaced.
func (w *downWriter) retire() (worn bool) {
	out := w.t.out.Load()
	if out == nil || out.sender == nil {
		return false
	}
	n := out.sender.Retire(w.ssrc)
	if w.rtx != 0 {
		n = out.sender.Retire(w.rtx)
	}
	return n >= srtpout.MaxRetired
}
