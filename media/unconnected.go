package media

import (
	"time"

	"github.com/pion/webrtc/v4"
)

// slowConnect is how long a client must have tried to connect its media before a failure
// is logged for operators. A client that ends earlier has merely left.
const slowConnect = 5 * time.Second

// protocol is the protocol that carries the media of t: udp, tcp, or "" if no candidate
// pair is selected. It runs on the loop.
func (t *transport) protocol() string {
	if t.carrier != "" {
		return t.carrier
	}
	pair, err := t.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return ""
	}
	t.carrier = pair.Local.Protocol.String()
	return t.carrier
}

// warnUnconnected logs a client that ends before its media has connected, with the likely
// cause. It runs on the loop, before the transports close.
func (p *Peer) warnUnconnected() {
	if tried := time.Since(p.born); !p.connected && tried >= min(slowConnect, p.engine.cfg.JoinTimeout) {
		t := p.primary()
		p.log.Warn("media did not connect", "after", tried.Round(time.Millisecond), "likely", likelyCause(
			t.pc.RemoteDescription() != nil, t.trickled, t.pc.ICEConnectionState()))
	}
}

// likelyCause says why a transport probably did not connect, from whether the client has
// sent a description, how many candidates it has sent, and the state of ICE.
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
