package media

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/srtp/v3"
	piontransport "github.com/pion/transport/v5"
	"github.com/pion/transport/v5/stdnet"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/media/emulator"
)

// keptNet is the real network. The test can still send from a UDP socket that pion has
// closed, as libwebrtc does while ICE restarts.
type keptNet struct {
	piontransport.Net
	mu    sync.Mutex // guards conns
	conns map[int]*keptConn
}

type keptConn struct {
	piontransport.UDPConn
	closed atomic.Bool
}

func newKeptNet(t *testing.T) *keptNet {
	t.Helper()
	n, err := stdnet.NewNet()
	require.NoError(t, err)
	kept := &keptNet{Net: n, conns: map[int]*keptConn{}}
	t.Cleanup(func() {
		kept.mu.Lock()
		defer kept.mu.Unlock()
		for _, c := range kept.conns {
			_ = c.UDPConn.Close()
		}
	})
	return kept
}

func (n *keptNet) ListenUDP(network string, a *net.UDPAddr) (piontransport.UDPConn, error) {
	c, err := n.Net.ListenUDP(network, a)
	if err != nil {
		return nil, err
	}
	kept := &keptConn{UDPConn: c}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns[c.LocalAddr().(*net.UDPAddr).Port] = kept
	return kept, nil
}

func (n *keptNet) conn(port uint16) *keptConn {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.conns[int(port)]
}

func (c *keptConn) ReadFrom(p []byte) (int, net.Addr, error) {
	n, from, err := c.UDPConn.ReadFrom(p)
	if c.closed.Load() {
		return 0, nil, net.ErrClosed
	}
	return n, from, err
}

// SetDeadline concerns pion's reads alone.
func (c *keptConn) SetDeadline(at time.Time) error { return c.SetReadDeadline(at) }

func (c *keptConn) Close() error {
	c.closed.Store(true)
	return c.SetReadDeadline(time.Unix(1, 0))
}

// tcpRelay is a relay between clients and the server's TCP port. A connection of its to the
// server stays open when the client closes its own, as if the client had not.
type tcpRelay struct {
	listener net.Listener
	work     sync.WaitGroup
	mu       sync.Mutex // guards conns
	conns    []*relayedTCP
}

type relayedTCP struct {
	client, server *net.TCPConn
	silent         atomic.Bool   // passes nothing, in neither direction, and reads nothing
	over           chan struct{} // closed at the end
	writing        sync.Mutex    // held while a packet is written to the server
}

// behindTCPRelay is a relay, and the change of the server's candidates that leads to it.
func behindTCPRelay(t *testing.T, e *Engine) (*tcpRelay, func(string) string) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	r, server := &tcpRelay{listener: l}, tcpAddr(t, e)
	dialer := smallBuffers()
	r.work.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			up, err := dialer.Dial("tcp4", server.String())
			if err != nil {
				_ = client.Close()
				continue
			}
			c := &relayedTCP{client: client.(*net.TCPConn), server: up.(*net.TCPConn), over: make(chan struct{})}
			r.mu.Lock()
			r.conns = append(r.conns, c)
			r.mu.Unlock()
			r.work.Go(func() { pass(c.client, c.send) })
			r.work.Go(func() {
				pass(c.server, c.receive)
				_ = c.client.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		for _, c := range r.all() {
			_ = c.client.Close()
			_ = c.server.Close()
			close(c.over)
		}
		r.work.Wait()
	})
	return r, func(text string) string {
		return strings.ReplaceAll(text, fmt.Sprintf("127.0.0.1 %d ", server.Port), fmt.Sprintf("127.0.0.1 %d ", l.Addr().(*net.TCPAddr).Port))
	}
}

// pass reads packets with their lengths until the connection ends.
func pass(from net.Conn, to func(packet []byte)) {
	for {
		var head [2]byte
		if _, err := io.ReadFull(from, head[:]); err != nil {
			return
		}
		packet := make([]byte, binary.BigEndian.Uint16(head[:]))
		if _, err := io.ReadFull(from, packet); err != nil {
			return
		}
		to(packet)
	}
}

func (r *tcpRelay) all() []*relayedTCP {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*relayedTCP(nil), r.conns...)
}

func (r *tcpRelay) newest() *relayedTCP {
	all := r.all()
	if len(all) == 0 {
		return nil
	}
	return all[len(all)-1]
}

// send sends a packet to the server.
func (c *relayedTCP) send(packet []byte) {
	if c.silent.Load() {
		<-c.over
		return
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	_, _ = c.server.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...))
}

func (c *relayedTCP) receive(packet []byte) {
	if c.silent.Load() {
		<-c.over
		return
	}
	_, _ = c.client.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...))
}

// reset ends both connections as a middlebox does that has forgotten them.
func (c *relayedTCP) reset() {
	for _, conn := range []*net.TCPConn{c.client, c.server} {
		_ = conn.SetLinger(0)
		_ = conn.Close()
	}
}

// speaker sends numbered packets of sound, 50 a second, as libwebrtc does: it encrypts them
// itself, and while ICE restarts it goes on on the former path until another is selected.
type speaker struct {
	c      *client
	way    func(pair *webrtc.ICECandidatePair) (send func([]byte)) // where the selected pair leads
	sent   atomic.Int64
	moved  atomic.Int64 // number of paths
	stop   chan struct{}
	done   chan struct{}
	header rtp.Header
}

func (c *client) speak(sid string, way func(*webrtc.ICECandidatePair) func([]byte)) *speaker {
	c.t.Helper()
	track := c.publishRaw(sid, webrtc.RTPCodecTypeAudio, opus, nil)
	s := &speaker{c: c, way: way, stop: make(chan struct{}), done: make(chan struct{}), header: rtp.Header{
		Version: 2, PayloadType: uint8(track.codecs[0].PayloadType), SSRC: uint32(track.SSRC()),
	}}
	for _, codec := range track.codecs {
		if strings.EqualFold(codec.MimeType, opus.MimeType) {
			s.header.PayloadType = uint8(codec.PayloadType)
		}
	}
	keys, err := c.peer.pub.capture.ClientKeys()
	require.NoError(c.t, err)
	encrypt, err := srtp.CreateContext(keys.Key, keys.Salt, keys.Profile)
	require.NoError(c.t, err)
	go s.run(encrypt)
	c.t.Cleanup(s.end)
	return s
}

func (s *speaker) run(encrypt *srtp.Context) {
	defer close(s.done)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var former string
	var send func([]byte)
	for i := uint32(0); ; i++ {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		pair, err := s.c.pub.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
		if err == nil && pair != nil && pair.String() != former {
			former, send = pair.String(), s.way(pair)
			s.moved.Add(1)
		}
		s.header.SequenceNumber, s.header.Timestamp = uint16(i), 960*i
		packet, err := (&rtp.Packet{Header: s.header, Payload: binary.BigEndian.AppendUint32([]byte{0xfc}, i)}).Marshal()
		if err == nil {
			packet, err = encrypt.EncryptRTP(nil, packet, nil)
		}
		if err != nil {
			s.c.t.Errorf("make a packet: %v", err)
			return
		}
		send(packet)
		s.sent.Store(int64(i) + 1)
	}
}

func (s *speaker) end() {
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	<-s.done
}

// listener notes the numbers of a speaker's packets.
type listener struct {
	mu   sync.Mutex // guards the following
	came map[uint32]bool
	from uint32 // number of the first
	last uint32
}

func (l *listener) listen(r *webrtc.TrackRemote) {
	drain(r, func(raw []byte) {
		var p rtp.Packet
		if p.Unmarshal(raw) != nil || len(p.Payload) != 5 {
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		number := binary.BigEndian.Uint32(p.Payload[1:])
		if len(l.came) == 0 {
			l.came, l.from = map[uint32]bool{}, number
		}
		l.came[number], l.last = true, max(l.last, number)
	})
}

func (l *listener) heard() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.came)
}

// missing are the numbers that have not come, between the first and the last.
func (l *listener) missing() (numbers []uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := l.from; n <= l.last; n++ {
		if !l.came[n] {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// A client that restarts ICE sends on its former path until ICE has selected another one,
// and what is then under way arrives later still. None of it is lost on the server.
func TestNothingIsLostOnTheWayUpWhileICERestarts(t *testing.T) {
	t.Parallel()
	for name, over := range map[string]struct {
		types []webrtc.NetworkType
		begin func(t *testing.T, e *Engine) (way func(*webrtc.ICECandidatePair) func([]byte), settings func(*webrtc.SettingEngine), reroute func(string) string)
	}{
		"udp": {begin: func(t *testing.T, e *Engine) (func(*webrtc.ICECandidatePair) func([]byte), func(*webrtc.SettingEngine), func(string) string) {
			relay, reroute := behindRelay(t, e)
			relay.SetUp(emulator.Conditions{Delay: 80 * time.Millisecond})
			relay.SetDown(emulator.Conditions{Delay: 20 * time.Millisecond})
			to, kept := net.UDPAddrFromAddrPort(relay.Addr()), newKeptNet(t)
			way := func(pair *webrtc.ICECandidatePair) func([]byte) {
				conn := kept.conn(pair.Local.Port)
				return func(p []byte) { _, _ = conn.WriteTo(p, to) }
			}
			return way, func(s *webrtc.SettingEngine) { s.SetNet(kept) }, reroute
		}},
		"tcp": {begin: func(t *testing.T, e *Engine) (func(*webrtc.ICECandidatePair) func([]byte), func(*webrtc.SettingEngine), func(string) string) {
			relay, reroute := behindTCPRelay(t, e)
			return func(*webrtc.ICECandidatePair) func([]byte) { return relay.newest().send }, overTCP, reroute
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bothModes(t, func(t *testing.T, single bool) {
				e := newTestEngine(t, func(c *Config) { c.TCPPort = TCPEphemeral })
				way, settings, reroute := over.begin(t, e)
				a := newClient(t, e, clientConfig{sid: "PA_a", single: single, settings: settings, change: func(c *PeerConfig) { c.SubscriberPrimary = false }})
				a.reroute = reroute
				a.slow = func() time.Duration { return 100 * time.Millisecond } // the way of its signalling
				a.join()
				require.Eventually(t, func() bool { return a.pub.ConnectionState() == webrtc.PeerConnectionStateConnected }, patience, time.Millisecond)
				s := a.speak("TR_a", way)
				l := &listener{}
				b := newClient(t, e, clientConfig{sid: "PA_b"})
				b.onTrack = l.listen
				b.join()
				b.subscribe("PA_a", a.published("TR_a"))
				more := func(n int) {
					t.Helper()
					before := l.heard()
					require.Eventually(t, func() bool { return l.heard() >= before+n }, patience, time.Millisecond)
				}
				more(20)
				for i := range 3 {
					before := ufrag(t, a.pub.CurrentRemoteDescription())
					a.offer(true)
					require.Eventually(t, func() bool { return ufrag(t, a.pub.CurrentRemoteDescription()) != before }, patience, time.Millisecond)
					require.Eventually(t, func() bool { return s.moved.Load() == int64(i)+2 }, patience, time.Millisecond)
					more(20)
				}
				s.end()
				require.Empty(t, l.missing(), "of %d packets", s.sent.Load())
			})
		})
	}
}

// What is asked of a publisher while ICE restarts, such as a lost packet or a key frame,
// leaves on the former path.
func TestFeedbackLeavesWhileICERestarts(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		kept := newKeptNet(t)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single, settings: func(s *webrtc.SettingEngine) { s.SetNet(kept) },
			change: func(c *PeerConfig) { c.SubscriberPrimary = false }})
		var wait atomic.Bool
		release := make(chan struct{})
		a.slow = func() time.Duration {
			if wait.Load() {
				<-release
			}
			return 0
		}
		a.join()
		ice := a.peer.pub.pc.SCTP().Transport().ICETransport()
		pair, err := ice.GetSelectedCandidatePair()
		require.NoError(t, err)
		former := kept.conn(pair.Remote.Port)
		require.NotNil(t, former)
		keys, err := a.peer.pub.capture.Keys()
		require.NoError(t, err)
		decrypt, err := srtp.CreateContext(keys.Key, keys.Salt, keys.Profile)
		require.NoError(t, err)

		wait.Store(true)
		defer close(release)
		a.offer(true)
		require.Eventually(t, func() bool {
			pair, err := ice.GetSelectedCandidatePair()
			return err == nil && pair == nil && former.closed.Load()
		}, patience, time.Millisecond)
		asked := []rtcp.Packet{&rtcp.PictureLossIndication{SenderSSRC: 1, MediaSSRC: 2}}
		require.NoError(t, a.peer.pub.writeRTCP(asked))
		require.NoError(t, former.UDPConn.SetReadDeadline(time.Now().Add(patience)))
		for b := make([]byte, 1500); ; {
			n, _, err := former.UDPConn.ReadFrom(b)
			require.NoError(t, err)
			if plain, err := decrypt.DecryptRTCP(nil, b[:n], nil); err == nil {
				got, err := rtcp.Unmarshal(plain)
				require.NoError(t, err)
				require.Equal(t, asked, got)
				return
			}
		}
	})
}

// restart has both of a client's transports restart ICE.
func (c *client) restart() {
	c.t.Helper()
	before := ufrag(c.t, c.pub.CurrentRemoteDescription())
	c.offer(true)
	if !c.single {
		c.peer.Resume()
	}
	require.Eventually(c.t, func() bool { return ufrag(c.t, c.pub.CurrentRemoteDescription()) != before }, patience, time.Millisecond)
}

// goesOn has a client b watch a, speak to it, and exchange data. It returns a function that
// checks that all of this works now.
func goesOn(t *testing.T, e *Engine, b *client) func(why string) {
	t.Helper()
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	l, v := &listener{}, &viewer{}
	a.onTrack = l.listen
	a.join()
	a.perform("TR_v", vp8, ivfFrames(t, "testdata/picture.ivf"), time.Second/15, 30*time.Millisecond)
	b.onTrack = v.watch
	b.join()
	up := b.channel("_reliable")
	for !b.single { // what it receives on is not what it sends on
		if up = b.channel("own"); up.Label() == "_reliable" {
			break
		}
	}
	voice := b.publish("TR_b", opus, nil)
	stop, done := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-done })
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := uint32(0); ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			_ = voice.WriteRTP(&rtp.Packet{
				Header: rtp.Header{Version: 2, SequenceNumber: uint16(i), Timestamp: 960 * i}, Payload: binary.BigEndian.AppendUint32([]byte{0xfc}, i),
			})
		}
	}()
	b.subscribe("PA_a", a.published("TR_v"))
	a.subscribe("PA_b", b.published("TR_b"))
	return func(why string) {
		t.Helper()
		frames, _ := v.seen()
		heard := l.heard()
		require.Eventually(t, func() bool {
			now, _ := v.seen()
			return now >= frames+30 && l.heard() >= heard+30
		}, time.Minute, 10*time.Millisecond, why)
		echoes(b, why)
		require.NoError(t, up.Send([]byte(why)))
		require.Equal(t, why, string(b.events.wait(t, "data").data))
		require.Zero(t, e.Stats().NeedsReconnect)
	}
}

// A client's network forgets its TCP connections, and tells so or not. The client restarts
// ICE, and picture, sound and data go on over new connections.
func TestAClientThatLosesItsConnectionsRestartsICE(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*relayedTCP){
		"with a reset": (*relayedTCP).reset,
		"in silence":   func(c *relayedTCP) { c.silent.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			bothModes(t, func(t *testing.T, single bool) {
				e := newTestEngine(t, func(c *Config) { c.TCPPort = TCPEphemeral })
				relay, reroute := behindTCPRelay(t, e)
				b := newClient(t, e, clientConfig{sid: "PA_b", single: single, settings: overTCP})
				b.reroute = reroute
				works := goesOn(t, e, b)
				works("at first")
				for i := range 2 {
					overdue := e.Stats().TCPOverdue
					for _, c := range relay.all() {
						lose(c)
					}
					if name == "in silence" { // until the server has noticed that its packets do not leave
						require.Eventually(t, func() bool { return e.Stats().TCPOverdue > overdue }, patience, time.Millisecond)
					}
					b.restart()
					works(fmt.Sprint("after restart ", i))
				}
			})
		})
	}
}

// A client's relay is lost, since its network gives it another address, at which the TURN
// server does not know it. The client makes another relay and restarts ICE, and picture,
// sound and data go on.
func TestAClientThatLosesItsRelayRestartsICE(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, single bool) {
		e, _ := newRelayingEngine(t, nil)
		network, err := emulator.New(e.TURNAddrs()[0])
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, network.Close()) })
		config := byRelay("PA_b", e, "udp", single)
		for i, url := range config.configuration.ICEServers[0].URLs {
			config.configuration.ICEServers[0].URLs[i] = strings.ReplaceAll(url, e.TURNAddrs()[0].String(), network.Addr().String())
		}
		b := newClient(t, e, config)
		works := goesOn(t, e, b)
		works("at first")
		for i := range 2 {
			require.NoError(t, network.Rebind())
			up, down := e.TURN().ToMedia.Load(), e.TURN().ToClients.Load()
			b.restart()
			works(fmt.Sprint("after restart ", i))
			require.Greater(t, e.TURN().ToMedia.Load(), up+30)
			require.Greater(t, e.TURN().ToClients.Load(), down+30)
		}
	})
}
