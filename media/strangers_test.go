package media

import (
	"crypto/sha1" // a hash that clients may use for fingerprints
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/media/forward"
)

// lacksNothing reads n packets, and fails if one before the last is missing.
func (w *witness) lacksNothing(n int) {
	w.t.Helper()
	require.NoError(w.t, w.r.SetReadDeadline(time.Now().Add(patience)))
	var last uint16
	for i := range n {
		p, _, err := w.r.ReadRTP()
		require.NoError(w.t, err)
		if i > 0 {
			require.Equal(w.t, last+1, p.SequenceNumber, "packets were lost")
		}
		last = p.SequenceNumber
	}
}

// remoteOf is a client's address, as the server sees it.
func remoteOf(t *testing.T, pc *webrtc.PeerConnection) (host string, port uint16) {
	t.Helper()
	pair, err := pc.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	require.NoError(t, err)
	return pair.Local.Address, pair.Local.Port
}

// host is a host candidate for a client's publishing connection.
func host(address string, port uint16) Candidate {
	mid, line := "0", uint16(0)
	return Candidate{ICECandidateInit: webrtc.ICECandidateInit{
		Candidate: fmt.Sprintf("candidate:1 1 udp 2130706431 %s %d typ host", address, port), SDPMid: &mid, SDPMLineIndex: &line,
	}}
}

// A client that presents the server's own transports as its own must reconnect, and the
// server does not talk to itself.
func TestOurOwnTransportAsAClients(t *testing.T) {
	e := newTestEngine(t, nil)
	w := newWitness(t, e)
	silent := func(sid string) *client {
		c := newClient(t, e, clientConfig{sid: sid})
		c.mu.Lock()
		c.mute = true
		c.mu.Unlock()
		c.peer.Start()
		require.Eventually(t, func() bool { return c.offered() == 1 }, patience, time.Millisecond)
		return c
	}
	offerOf := func(c *client) string {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.offers[0].SDP
	}
	line := func(text, name string) string {
		_, after, ok := strings.Cut(text, name)
		require.True(t, ok)
		l, _, _ := strings.Cut(after, "\r\n")
		return l
	}
	ours := offerOf(silent("PA_o")) // of the attacker's second participant
	foreign := "AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99"
	digest := sha1.Sum(e.x509.Raw)
	sha1Text := strings.ReplaceAll(strings.TrimSpace(fmt.Sprintf("% x", digest)), " ", ":")
	fingerprint := "sha-256 " + line(ours, "a=fingerprint:sha-256 ")
	for what, text := range map[string]string{
		"all of it":      ours,
		"another ufrag":  strings.ReplaceAll(ours, "a=ice-ufrag:"+line(ours, "a=ice-ufrag:"), "a=ice-ufrag:abcdefgh"),
		"another hash":   strings.NewReplacer(fingerprint, "SHA-1 "+sha1Text, line(ours, "a=ice-ufrag:"), "abcdefgh").Replace(ours),
		"the ufrag only": strings.ReplaceAll(ours, fingerprint, "sha-256 "+foreign),
	} {
		t.Run(what, func(t *testing.T) {
			before := e.Stats().OwnTransports
			c := silent("PA_c")
			c.peer.HandleOffer(Description{SDP: text})
			require.Contains(t, c.events.wait(t, "reconnect").label, "own transports")
			require.Equal(t, before+1, e.Stats().OwnTransports)
			d := silent("PA_d")
			d.peer.HandleAnswer(Description{SDP: text})
			require.Contains(t, d.events.wait(t, "reconnect").label, "own transports")
		})
	}
	before := e.Stats().OwnTransports
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	a.join()
	a.peer.HandleCandidate(host("127.0.0.1", e.net.sockets[0].port))
	require.Eventually(t, func() bool { return e.Stats().OwnTransports == before+1 }, patience, time.Millisecond)
	w.isWell()
}

// A client that names others' addresses as its own silences no client, however often it
// restarts ICE to make the server send there.
func TestOthersAddressesAsCandidates(t *testing.T) {
	e := newTestEngine(t, nil)
	publisher := newClient(t, e, clientConfig{sid: "PA_w"})
	publisher.join()
	pump(t, publisher.publish("TR_w", opus, nil))
	watcher := newClient(t, e, clientConfig{sid: "PA_x", single: true})
	watcher.join()
	watcher.subscribe("PA_w", publisher.published("TR_w"))
	w := &witness{t, watcher.receives("PA_w", "TR_w")}
	w.lacksNothing(20)
	attacker := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	attacker.join()
	for range 4 {
		for _, pc := range []*webrtc.PeerConnection{publisher.pub, publisher.sub, watcher.pub} {
			address, port := remoteOf(t, pc)
			attacker.peer.HandleCandidate(host(address, port))
		}
		w.lacksNothing(50)
		n := attacker.answered()
		attacker.offer(true)
		require.Eventually(t, func() bool { return attacker.answered() > n }, patience, time.Millisecond)
	}
	// RTCP and data of the others arrive too.
	watcher.peer.SendData(nil, livekit.DataPacket_RELIABLE, []byte("well"))
	require.Equal(t, "well", string(watcher.message().data))
}

// A client that restarts ICE repeatedly must reconnect.
func TestICERestartFlood(t *testing.T) {
	e := newTestEngine(t, nil)
	w := newWitness(t, e)
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	a.join()
	text := a.pub.LocalDescription().SDP
	earlier := "a=ice-ufrag:" + ufrag(t, a.pub.LocalDescription())
	for i := range restartBurst + 2 {
		a.peer.HandleOffer(Description{
			ID: uint32(100 + i), SDP: strings.ReplaceAll(text, earlier, fmt.Sprintf("a=ice-ufrag:restart%d", i)),
		})
	}
	require.Contains(t, a.events.wait(t, "reconnect").label, "ICE restarts")
	require.NotZero(t, e.Stats().ICERestarts)
	w.isWell()
}

// The server sends nothing to addresses that no client can have.
func TestCandidatesWithoutAClient(t *testing.T) {
	n := &network{}
	for text, want := range map[string]candidateVerdict{
		"candidate:1 1 udp 1 192.0.2.1 5000 typ host":                                  candidateGood,
		"1 1 udp 1 10.0.0.1 5000 typ srflx raddr 0.0.0.0 rport 0":                      candidateGood,
		"candidate:1 1 udp 1 2001:db8::1 5000 typ host":                                candidateGood,
		"candidate:1 1 udp 1 6ba7b810-9dad-11d1-80b4-00c04fd430c8.local 5000 typ host": candidateUseless,
		"candidate:1 1 tcp 1 192.0.2.1 9 typ host tcptype active":                      candidateUseless,
		"candidate:1 1 tcp 1 192.0.2.1 22 typ host tcptype passive":                    candidateUseless,
		"candidate:1 1 udp 1 example.com 5000 typ host":                                candidateBad,
		"candidate:1 1 udp 1 0.0.0.0 5000 typ host":                                    candidateBad,
		"candidate:1 1 udp 1 :: 5000 typ host":                                         candidateBad,
		"candidate:1 1 udp 1 127.0.0.1 5000 typ host":                                  candidateBad,
		"candidate:1 1 udp 1 ::ffff:127.0.0.1 5000 typ host":                           candidateBad,
		"candidate:1 1 udp 1 ::1 5000 typ host":                                        candidateBad,
		"candidate:1 1 udp 1 169.254.169.254 5000 typ host":                            candidateBad,
		"candidate:1 1 udp 1 fe80::1 5000 typ host":                                    candidateBad,
		"candidate:1 1 udp 1 224.0.0.251 5353 typ host":                                candidateBad,
		"candidate:1 1 udp 1 ff02::fb 5353 typ host":                                   candidateBad,
		"candidate:1 1 udp 1 255.255.255.255 5000 typ host":                            candidateBad,
		"candidate:1 1 udp 1 192.0.2.1 0 typ host":                                     candidateBad,
		"candidate:1 1 udp 1 192.0.2.1 70000 typ host":                                 candidateBad,
		"nonsense": candidateBad,
	} {
		require.Equal(t, want, n.judgeCandidate(text, false), text)
	}
	require.Equal(t, candidateGood, n.judgeCandidate("candidate:1 1 udp 1 127.0.0.1 5000 typ host", true))
}

// Valid credentials from many ports cost no more than from a few: the server answers few
// of them, with fewer bytes than it received.
func TestManySources(t *testing.T) {
	e := newTestEngine(t, nil)
	w := newWitness(t, e)
	n := newRawNet(t)
	var mu sync.Mutex
	var request []byte
	n.lose(func(b []byte) bool {
		if len(b) > 20 && b[0] == 0 && b[1] == 1 { // a Binding request
			mu.Lock()
			request = append(request[:0], b...)
			mu.Unlock()
		}
		return false
	})
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true, settings: n.settings})
	a.join()
	mu.Lock()
	check := append([]byte(nil), request...)
	mu.Unlock()
	n.mu.Lock()
	server := n.to
	n.mu.Unlock()
	const ports = 600
	var sockets []net.PacketConn
	t.Cleanup(func() {
		for _, s := range sockets {
			_ = s.Close()
		}
	})
	for range ports {
		s, err := net.ListenPacket("udp4", "127.0.0.1:0")
		require.NoError(t, err)
		sockets = append(sockets, s)
		_, err = s.WriteTo(check, server)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return e.Stats().UDPSources >= ports/2 }, patience, time.Millisecond)
	w.lacksNothing(100)
	answered, bytes := 0, 0
	until := time.Now().Add(100 * time.Millisecond)
	for _, s := range sockets {
		require.NoError(t, s.SetReadDeadline(until))
		buf, got := make([]byte, 1500), 0
		for {
			n, _, err := s.ReadFrom(buf)
			if err != nil {
				break
			}
			got += n
		}
		if got > 0 {
			answered++
		}
		bytes += got
	}
	require.LessOrEqual(t, answered, 16)
	require.Less(t, bytes, ports*len(check), "amplified")
	w.isWell()
	a.peer.SendData(nil, livekit.DataPacket_RELIABLE, []byte("well"))
	require.Equal(t, "well", string(a.message().data))
}

// A packet that was sent before and is sent again by another host is not forwarded again,
// however old it is, and is not taken for a restart.
func TestReplayedPackets(t *testing.T) {
	e := newTestEngine(t, nil)
	n := newRawNet(t)
	var mu sync.Mutex
	var sent [][]byte
	n.lose(func(b []byte) bool {
		if len(b) > 12 && b[0]&0xc0 == 0x80 && b[1]&0x7f == 96 {
			mu.Lock()
			sent = append(sent, append([]byte(nil), b...))
			mu.Unlock()
		}
		return false
	})
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true, settings: n.settings})
	a.join()
	local := a.publish("TR_1", vp8, nil)
	a.published("TR_1")
	const packets = 3000
	frame := []byte{0x10, 0x00, 0x00, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00}
	carried := func() int { mu.Lock(); defer mu.Unlock(); return len(sent) }
	i := 0
	for ; carried() < packets; i++ { // the first may come before the connection
		require.NoError(t, local.WriteRTP(&rtp.Packet{
			Header: rtp.Header{Version: 2, Marker: true, SequenceNumber: uint16(i), Timestamp: uint32(i * 900)}, Payload: frame,
		}))
		if i%50 == 0 { // keeps buffers from overflowing
			n := carried()
			require.Eventually(t, func() bool { return n == 0 || layerStats(a).Packets+50 > uint64(n) }, patience, time.Millisecond)
		}
	}
	require.Eventually(t, func() bool { return layerStats(a).Packets > packets*9/10 }, patience, 10*time.Millisecond)
	var before forward.LayerStats
	require.Eventually(t, func() bool { // packets under way arrive
		earlier := before.Packets
		before = layerStats(a)
		return before.Packets == earlier
	}, patience, 200*time.Millisecond)
	mu.Lock()
	old := append([][]byte(nil), sent...)
	mu.Unlock()
	require.Greater(t, len(old), packets*9/10)
	for _, from := range []int{len(old) - 10, len(old) - 400, len(old) - 700, len(old) - 1910, 10} {
		for _, b := range old[from : from+10] {
			n.write(b)
		}
	}
	require.NoError(t, local.WriteRTP(&rtp.Packet{ // a packet after all of them
		Header: rtp.Header{Version: 2, Marker: true, SequenceNumber: uint16(i), Timestamp: uint32(i * 900)}, Payload: frame,
	}))
	require.Eventually(t, func() bool { return layerStats(a).Packets > before.Packets }, patience, time.Millisecond)
	after := layerStats(a)
	require.Equal(t, before.Packets+1, after.Packets)
	require.Equal(t, before.Restarts, after.Restarts)
	require.Equal(t, before.Late, after.Late)
}

// A replayed RTCP packet has no effect: a request for a key frame counts once.
func TestReplayedReports(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	a.join()
	pump(t, a.publish("TR_v", vp8, nil))
	published := a.published("TR_v")
	n := newRawNet(t)
	var mu sync.Mutex
	var sent [][]byte
	n.lose(func(b []byte) bool {
		if len(b) > 8 && b[0]&0xc0 == 0x80 && rtcp.PacketType(b[1]) == rtcp.TypePayloadSpecificFeedback {
			mu.Lock()
			sent = append(sent, append([]byte(nil), b...))
			mu.Unlock()
		}
		return false
	})
	b := newClient(t, e, clientConfig{sid: "PA_b", single: true, settings: n.settings})
	b.join()
	b.subscribe("PA_a", published)
	r := b.receives("PA_a", "TR_v")
	ask := func() {
		require.NoError(t, b.pub.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: uint32(r.SSRC())}}))
	}
	asked := func() uint64 {
		_, video := e.totals.Sent()
		return video.KeyRequests
	}
	ask()
	require.Eventually(t, func() bool { return asked() > 0 }, patience, time.Millisecond)
	mu.Lock()
	old := append([][]byte(nil), sent...)
	mu.Unlock()
	require.Len(t, old, 1)
	for range 10 {
		n.write(old[0])
	}
	ask() // comes after all of them
	require.Eventually(t, func() bool { return asked() > 1 }, patience, time.Millisecond)
	require.EqualValues(t, 2, asked())
}

// Clients can join for as long as the process runs.
func TestCertificateOutlivesTheProcess(t *testing.T) {
	e := newTestEngine(t, nil)
	require.Greater(t, time.Until(e.certificate.Expires()), 10*365*24*time.Hour)
}
