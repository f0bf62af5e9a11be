package media

import (
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/stun/v4"
	"github.com/pion/webrtc/v4"

	"parlor/media/downlink"
	"parlor/media/srtpout"
)

// followPath tells a transport's downlink the present path of ICE. It runs on the loop,
// with each change of a transport's state or path.
func (p *Peer) followPath(t *transport) {
	switch t.state {
	case webrtc.PeerConnectionStateConnected:
	case webrtc.PeerConnectionStateFailed, webrtc.PeerConnectionStateClosed:
		t.down.Stop()
		return
	default:
		return // while ICE restarts, the former path is used
	}
	pair, err := t.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return // another change follows soon
	}
	defer t.selected()
	if !t.down.Chosen() {
		t.down.Choose(t.way(pair), t.capture.Keys, &t.sock.buffers, t.log)
		t.down.Connected()
		t.watchPath()
		return
	}
	t.watchPath()
	way := t.way(pair)
	if to := t.moved.Load(); to != nil {
		way = t.wayTo(pair, *to)
	}
	if !t.down.Follow(way) {
		p.needsReconnect("media can no longer go where ICE leads")
	}
}

// measureRoundTrip tells the layers that the client sends the round trip to it.
func (p *Peer) measureRoundTrip() {
	rtt := p.pub.roundTrip()
	if rtt == 0 {
		return
	}
	for _, s := range p.sections {
		for _, u := range s.streams {
			if u.layer != nil {
				u.layer.SetRTT(rtt)
			}
		}
	}
}

// roundTrip is the round trip to the client, as ICE measures it with the checks that go on while
// the transport lives, whatever it carries and by whichever path; 0 = unknown. A check may meet a
// queue, so the shorter of the last two counts. The agent is shown one each ten seconds at least,
// and the next one, which comes within two, that is clearly shorter (package icemux).
func (t *transport) roundTrip() time.Duration {
	if pair := t.checked.Load(); pair != nil {
		if trip := time.Duration(pair.CurrentRoundTripTime() * float64(time.Second)); trip > 0 && trip != t.trips[0] {
			t.trips = [2]time.Duration{trip, t.trips[0]}
		}
	}
	if t.trips[1] == 0 {
		return t.trips[0]
	}
	return min(t.trips[0], t.trips[1])
}

// clientMoved follows a client whose packets come from another address, because a NAT or a
// network has given it that: the client itself does not know, so ICE does not restart.
// Media goes there at once, and all else once ICE has selected the pair, with the client's
// next check.
func (p *Peer) clientMoved(t *transport, to, local netip.AddrPort) {
	pair, err := t.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return // ICE has not begun
	}
	now, ok := srtpout.RemoteOf(pair)
	if !ok || now.Addr().Is4() != to.Addr().Is4() {
		return
	}
	conn := t.sock.local(pair.Local)
	if conn == nil {
		return
	}
	if a := conn.LocalAddr().(*net.UDPAddr).AddrPort(); netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) != local {
		return
	}
	if t.moved.Store(&to); now == to {
		t.moved.Store(nil)
	}
	if t.down.Chosen() {
		p.followPath(t)
	}
}

// describe gives pion the client's description, whose ICE password is in force if pion
// takes it. ICE may begin during the call.
func (t *transport) describe(d webrtc.SessionDescription) error {
	before := t.password.Load()
	if password := firstAttribute(d.SDP, "ice-pwd"); password != "" {
		t.password.Store(&password)
	}
	err := t.pc.SetRemoteDescription(d)
	if err != nil {
		t.password.Store(before)
	}
	return err
}

// authentic reports whether a STUN response bears the integrity of the client's password.
func (t *transport) authentic(response []byte) bool {
	password := t.password.Load()
	if password == nil {
		return false
	}
	m := stun.Message{Raw: slices.Clone(response)} // the check changes it
	return m.Decode() == nil && stun.NewShortTermIntegrity(*password).Check(&m) == nil
}

// movedTo reports whether a remote candidate of ICE is where the client has moved. It runs
// when a request from there has been authenticated.
func (t *transport) movedTo(remote ice.Candidate) bool {
	to := t.moved.Load()
	if to == nil || !remote.NetworkType().IsUDP() || remote.Port() != int(to.Port()) {
		return false
	}
	addr, err := netip.ParseAddr(remote.Address())
	return err == nil && addr.Unmap() == to.Addr()
}

// watchPath tells the downlink of packets that a TCP connection drops on the present path,
// and has the intake begin to decrypt. If that is impossible, packets come through pion.
func (t *transport) watchPath() {
	ice, err := t.pc.SCTP().Transport().ICETransport().GetLocalParameters()
	if err != nil {
		return // the transport has ended
	}
	if tcp := t.sock.net.tcp; tcp != nil {
		tcp.Watch(ice.UsernameFragment, t.down)
	}
	if t.intake.opened() {
		return
	}
	keys, err := t.capture.ClientKeys()
	if err == nil {
		err = t.intake.open(keys)
	}
	if err != nil {
		t.log.Debug("packets come through pion", "reason", err)
	}
}

// way is the conn and the remote address of a candidate pair; zero if the conn is not
// known.
func (t *transport) way(pair *webrtc.ICECandidatePair) downlink.Way {
	if pair.Local.Protocol == webrtc.ICEProtocolTCP {
		return t.wayOverTCP(pair)
	}
	remote, ok := srtpout.RemoteOf(pair)
	if !ok {
		return downlink.Way{}
	}
	return t.wayTo(pair, remote)
}

// wayTo is the conn of a candidate pair over UDP, and another remote address.
func (t *transport) wayTo(pair *webrtc.ICECandidatePair, remote netip.AddrPort) downlink.Way {
	conn := t.sock.local(pair.Local)
	if conn == nil {
		return downlink.Way{}
	}
	if n := t.sock.net; n.turn != nil {
		if path := n.turn.Path(n.asKnown(conn.LocalAddr().(*net.UDPAddr).AddrPort()), remote); path != nil {
			return downlink.Way{Socket: path, Remote: remote, Network: "relay " + remote.String()} // the client's is not known
		}
	}
	return downlink.Way{Socket: conn, Remote: remote, Network: networkOver("udp", remote)}
}

// wayOverTCP is way for a pair over TCP, on which clients connect to us.
func (t *transport) wayOverTCP(pair *webrtc.ICECandidatePair) downlink.Way {
	ice, err := t.pc.SCTP().Transport().ICETransport().GetLocalParameters()
	tcp := t.sock.net.tcp
	if err != nil || tcp == nil {
		return downlink.Way{}
	}
	addr, err := netip.ParseAddr(pair.Remote.Address)
	if err != nil {
		return downlink.Way{} // a name
	}
	remote := netip.AddrPortFrom(addr, pair.Remote.Port)
	socket, ok := tcp.Socket(ice.UsernameFragment, remote)
	if !ok {
		return downlink.Way{}
	}
	return downlink.Way{Socket: socket, Remote: remote, Network: networkOver("tcp", remote)}
}

// networkOver names a client's network: its address, or an IPv6 network, in which a client
// may change its address at any time.
func networkOver(protocol string, client netip.AddrPort) string {
	bits := client.Addr().BitLen()
	if client.Addr().Is6() {
		bits = 64
	}
	prefix, err := client.Addr().WithZone("").Prefix(bits)
	if err != nil {
		return protocol + " " + client.String()
	}
	return protocol + " " + prefix.String()
}
