package media

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/dtls/v3"
	"github.com/pion/rtcp"
	piontransport "github.com/pion/transport/v5"
	"github.com/pion/transport/v5/stdnet"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

// rawNet is the real network, but loses chosen packets, and lets a test write any bytes
// from a client's own socket.
type rawNet struct {
	piontransport.Net
	loses atomic.Pointer[func(b []byte) bool]

	mu   sync.Mutex // guards the following
	conn piontransport.UDPConn
	to   net.Addr // destination of conn's last write
}

type rawConn struct {
	piontransport.UDPConn
	n *rawNet
}

func newRawNet(t *testing.T) *rawNet {
	t.Helper()
	n, err := stdnet.NewNet()
	require.NoError(t, err)
	return &rawNet{Net: n}
}

func (n *rawNet) ListenUDP(network string, a *net.UDPAddr) (piontransport.UDPConn, error) {
	c, err := n.Net.ListenUDP(network, a)
	if err != nil {
		return nil, err
	}
	return &rawConn{c, n}, nil
}

func (c *rawConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if loses := c.n.loses.Load(); loses != nil && (*loses)(b) {
		return len(b), nil
	}
	c.n.mu.Lock()
	c.n.conn, c.n.to = c.UDPConn, to
	c.n.mu.Unlock()
	return c.UDPConn.WriteTo(b, to)
}

// lose makes the packets lost for which f returns true.
func (n *rawNet) lose(f func(b []byte) bool) { n.loses.Store(&f) }

// write sends b from the client's socket to its last destination.
func (n *rawNet) write(b []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, _ = n.conn.WriteTo(b, n.to) // an error counts as a loss
}

func (n *rawNet) settings(s *webrtc.SettingEngine) {
	s.SetNet(n)
	s.SetICETimeouts(time.Hour, time.Hour, 50*time.Millisecond)
}

func everything([]byte) bool { return true }

// isDTLS distinguishes DTLS from other packets of the socket (RFC 7983).
func isDTLS(b []byte) bool { return len(b) > 0 && b[0] >= 20 && b[0] <= 63 }

// random is n random bytes that begin with first.
func random(n int, first ...byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	copy(b, first)
	return b
}

// A client that vanishes, at any stage of joining, leaves no state behind.
func TestVanishingAtEachStage(t *testing.T) {
	e := newTestEngine(t, func(c *Config) {
		c.ICEDisconnected, c.ICEFailed, c.ReconnectGrace = 3*time.Second, 2*time.Second, time.Second
	})
	w := newWitness(t, e)
	peers, before := e.Stats().Peers, runtime.NumGoroutine()
	silent := func(c *client, _ *rawNet) {
		c.mu.Lock()
		c.mute = true
		c.mu.Unlock()
		c.peer.Start()
	}
	offered := func(c *client, n *rawNet) { n.lose(everything); c.begin() }
	pinged := func(c *client, n *rawNet) { n.lose(isDTLS); c.begin() }
	for _, v := range []struct {
		stage  string
		single bool
		early  bool // never connected
		join   func(c *client, n *rawNet)
	}{
		{"signalling alone, dual", false, true, silent},
		{"signalling alone, single", true, true, silent},
		{"offer, dual", false, true, offered},
		{"offer, single", true, true, offered},
		{"ICE, dual", false, true, pinged},
		{"ICE, single", true, true, pinged},
		{"connected, dual", false, false, func(c *client, n *rawNet) { c.join(); n.lose(everything) }},
		{"publishing, single", true, false, func(c *client, n *rawNet) {
			c.join()
			c.publish("TR_1", opus, nil)
			c.published("TR_1")
			n.lose(everything)
		}},
	} {
		t.Run(v.stage, func(t *testing.T) {
			s := e.Stats()
			n := newRawNet(t)
			c := newClient(t, e, clientConfig{sid: "PA_v", single: v.single, settings: n.settings})
			v.join(c, n)
			if v.early {
				c.peer.post(func() { c.peer.joinTimer.Reset(100 * time.Millisecond) }) // it is a minute by default
				require.Equal(t, livekit.DisconnectReason_JOIN_FAILURE, c.events.wait(t, "disconnected").why)
				require.Equal(t, s.JoinFailures+1, e.Stats().JoinFailures)
			} else {
				require.Equal(t, livekit.DisconnectReason_CONNECTION_TIMEOUT, c.events.wait(t, "disconnected").why)
				require.Equal(t, s.Timeouts+1, e.Stats().Timeouts)
			}
			c.close()
		})
	}
	require.Eventually(t, func() bool { return e.Stats().Peers == peers && runtime.NumGoroutine() <= before+5 },
		2*patience, 10*time.Millisecond, "what vanished clients left")
	w.isWell()
}

// Packets of a connected client that look like STUN, RTP, RTCP or DTLS but are malformed
// do no harm, not even to that client.
func TestGarbageOverUDP(t *testing.T) {
	e := newTestEngine(t, nil)
	w := newWitness(t, e)
	n := newRawNet(t)
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true, settings: n.settings})
	a.join()
	raw := a.publishRaw("TR_a", webrtc.RTPCodecTypeAudio, opus, nil)
	a.published("TR_a")
	stun := func() []byte {
		b := random(20+4*rand.IntN(20), 0, byte(rand.IntN(2)))
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)-20))
		binary.BigEndian.PutUint32(b[4:], 0x2112a442) // the magic cookie, RFC 8489
		return b
	}
	n.mu.Lock()
	server := n.to.String()
	n.mu.Unlock()
	stranger, err := net.Dial("udp", server)
	require.NoError(t, err)
	defer stranger.Close()
	for i := range 2000 {
		size := 1 + rand.IntN(1400)
		for _, b := range [][]byte{
			random(size), stun(), random(size, 22, 0xfe, 0xfd), random(size, 0x80, 111), random(size, 0x80, 200),
			random(size, 0x90, 96, 0, 1), random(size, 0x8f, 0xc9, 0, byte(i)),
		} {
			n.write(b)
			_, _ = stranger.Write(b) // an error counts as a loss
		}
		_ = a.pub.WriteRTCP([]rtcp.Packet{rawRTCP(random(4*(1+rand.IntN(20)), 0x80|byte(i%32), byte(200+i%8)))})
		_, _ = raw.WriteStream().Write(random(12+rand.IntN(400), 0x80|byte(i%64), 111)) // pion may refuse it
		if i%50 == 0 {
			time.Sleep(time.Millisecond) // so that the socket accepts most of them
		}
	}
	w.isWell()
	a.peer.SendData(nil, livekit.DataPacket_RELIABLE, []byte("well"))
	require.Equal(t, "well", string(a.message().data))
}

// rawRTCP is a packet of arbitrary bytes, with a correct length.
type rawRTCP []byte

func (r rawRTCP) Marshal() ([]byte, error) {
	binary.BigEndian.PutUint16(r[2:], uint16(len(r)/4-1))
	return r, nil
}
func (r rawRTCP) Unmarshal([]byte) error    { return nil }
func (r rawRTCP) DestinationSSRC() []uint32 { return nil }
func (r rawRTCP) MarshalSize() int          { return len(r) }

// Whatever a client sends over DTLS that is not SCTP, the others are not affected.
func TestGarbageForSCTP(t *testing.T) {
	e := newTestEngine(t, nil)
	w := newWitness(t, e)
	for i := range 3 {
		a := newClient(t, e, clientConfig{sid: fmt.Sprint("PA_", i), single: true})
		a.join()
		a.channel("_reliable")
		conn := dtlsOf(a.pub)
		for n := range 1000 {
			b := random(12 + 4*rand.IntN(100))
			if n%2 == 0 { // chunks that are parsed: with a checksum, a length, and an INIT's tag or an old one
				chunk := byte(n / 2 % 16)
				if n%32 >= 16 {
					chunk = []byte{130, 192, 193, 64}[n/2%4] // RECONFIG, FORWARD-TSN, ASCONF, I-DATA
				}
				b[0], b[1], b[2], b[3] = 5000>>8, 5000&0xff, 5000>>8, 5000&0xff
				if chunk == 1 || i == 0 {
					clear(b[4:8])
				}
				if len(b) >= 16 {
					b[12] = chunk
					binary.BigEndian.PutUint16(b[14:], uint16(len(b)-12))
				}
				clear(b[8:12])
				binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
			}
			if _, err := conn.Write(b); err != nil {
				break // the server has closed the connection
			}
		}
		w.isWell()
		a.close()
	}
	w.isWell()
}

// dtlsOf is the DTLS connection of a peer connection, which pion does not expose.
func dtlsOf(pc *webrtc.PeerConnection) *dtls.Conn {
	field := reflect.ValueOf(pc.SCTP().Transport()).Elem().FieldByName("conn")
	return *(**dtls.Conn)(unsafe.Pointer(field.UnsafeAddr()))
}

// A client that opens too many channels must reconnect.
func TestChannelFlood(t *testing.T) {
	e := newTestEngine(t, nil)
	w := newWitness(t, e)
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	a.join()
	a.channel("_reliable")
	for i := range 2 * maxOpened {
		_, err := a.pub.CreateDataChannel(fmt.Sprint("label", i), nil)
		require.NoError(t, err)
	}
	require.Contains(t, a.events.wait(t, "reconnect").label, "channels")
	require.NotZero(t, e.Stats().ChannelFloods)
	a.peer.data.mu.Lock()
	require.LessOrEqual(t, len(a.peer.data.opened), maxOpened)
	a.peer.data.mu.Unlock()
	w.isWell()
}

// Channels that a client closed make room for others.
func TestChannelsComeAndGo(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	for i := range 2 * maxOpened {
		dc, err := a.pub.CreateDataChannel("label", nil)
		require.NoError(t, err)
		opened := make(chan struct{})
		dc.OnOpen(func() { close(opened) })
		select {
		case <-opened:
		case <-time.After(patience):
			require.FailNow(t, "not opened", i)
		}
		require.NoError(t, dc.Close())
		require.Eventually(t, func() bool {
			a.peer.data.mu.Lock()
			defer a.peer.data.mu.Unlock()
			return a.peer.data.ever > i && len(a.peer.data.opened) < 10
		}, patience, time.Millisecond)
	}
	require.Zero(t, e.Stats().ChannelFloods)
}

// A client that sends offers faster than they can be answered delays only itself.
func TestOfferFlood(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		w := newWitness(t, e)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		sdp := a.pub.LocalDescription().SDP
		for i := range 500 {
			a.peer.HandleOffer(Description{SDP: sdp, ID: uint32(100 + i)})
		}
		w.isWell()
		done := make(chan struct{})
		a.peer.post(func() { close(done) })
		select {
		case <-done:
		case <-time.After(2 * patience):
			require.FailNow(t, "the flood was not worked off")
		}
		require.LessOrEqual(t, a.peer.describing.Load(), int64(maxDescriptionsWaiting))
		w.isWell()
	})
}
