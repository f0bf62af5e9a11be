package media

import (
	"time"

	"github.com/pion/webrtc/v4"
)

// slowConnect is how long a client has tried before an operator should know that its
// media does not connect; one that leaves earlier has merely left.
const slowConnect = 5 * time.Second

// protocol is what media of t goes over: udp, tcp, or "" if nothing is chosen.
func (t *transport) protocol() string {
	pair, err := t.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return ""
	}
	return pair.Local.Protocol.String()
}

// warnUnconnected writes a line of a client that ends without its media having
// connected, with the likely cause. It runs on the loop, before transports close.
func (p *Peer) warnUnconnected() {
	if tried := time.Since(p.born); !p.connected && tried >= min(slowConnect, p.engine.cfg.JoinTimeout) {
		t := p.primary()
		p.log.Warn("media did not connect", "after", tried.Round(time.Millisecond), "likely", likelyCause(
			t.pc.RemoteDescription() != nil, t.trickled, t.pc.ICEConnectionState()))
	}
}

// likelyCause says in words why a transport did not connect: by whether the client has
// described its side, how many candidates it told, and how far ICE came.
func likelyCause(described bool, candidates int, ice webrtc.ICEConnectionState) string {
	switch {
	case ice == webrtc.ICEConnectionStateConnected || ice == webrtc.ICEConnectionStateCompleted:
		return "packets go both ways, but the DTLS handshake did not end: something on the way may drop large packets"
	case !described:
		return "the client never described its media: it may lack WebRTC, or have been stopped"
	case candidates == 0:
		return "the client told no address: WebRTC may be blocked in it, or its network has no way out"
	}
	return "nothing of the client reached the media ports: a firewall may block rtc.udp_port and rtc.tcp_port, " +
		"or rtc.node_ip is not the address of this machine that clients reach"
}
