package media

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtp"
	"github.com/pion/stun/v3"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink/sent"
	"parlor/media/forward/modelreceiver"
)

func overTCP(s *webrtc.SettingEngine) {
	s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeTCP4})
}

// tcpAddr is the address at which the engine accepts ICE-TCP connections.
func tcpAddr(t *testing.T, e *Engine) *net.TCPAddr {
	t.Helper()
	_, tcp := e.Addrs()
	require.Len(t, tcp, 1)
	return net.TCPAddrFromAddrPort(tcp[0])
}

// dialFrom connects from a loopback address.
func dialFrom(t *testing.T, from string, to *net.TCPAddr) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp4", &net.TCPAddr{IP: net.ParseIP(from)}, to)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func echoes(c *client, text string) {
	c.t.Helper()
	c.peer.SendData(nil, livekit.DataPacket_RELIABLE, []byte(text))
	require.Equal(c.t, text, string(c.message().data))
}

// While an attacker opens silent connections without end, clients can join over TCP, and
// connected clients stay, even from the attacker's address. The server keeps few of the
// attacker's connections.
func TestJoiningOverTCPAmongStrangers(t *testing.T) {
	e := newTestEngine(t, func(c *Config) { c.TCPPort = TCPEphemeral })
	before := newClient(t, e, clientConfig{sid: "PA_b", settings: overTCP})
	before.join()
	to := tcpAddr(t, e)
	for range 600 {
		dialFrom(t, "127.0.0.1", to)
	}
	stop := make(chan struct{})
	var attack sync.WaitGroup
	attack.Go(func() {
		var held []net.Conn
		defer func() {
			for _, c := range held {
				_ = c.Close()
			}
		}()
		for {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
			if c, err := net.DialTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, to); err == nil {
				held = append(held, c)
			}
		}
	})
	defer func() { close(stop); attack.Wait() }()
	for _, single := range []bool{true, false} {
		c := newClient(t, e, clientConfig{sid: "PA_c", single: single, settings: overTCP})
		c.join()
		echoes(c, "over TCP")
	}
	echoes(before, "still there")
	require.LessOrEqual(t, e.Stats().TCPStrangers, int64(64))
	require.LessOrEqual(t, e.Stats().TCPConns, int64(100))
	require.GreaterOrEqual(t, e.Stats().TCPRefused, uint64(500))
}

// An attacker that has seen a participant's ufrag, which is sent in the clear, can
// connect and name it. It can neither silence the participant nor see its data.
func TestAStrangerWhoKnowsTheUfragOverTCP(t *testing.T) {
	e := newTestEngine(t, func(c *Config) { c.TCPPort = TCPEphemeral })
	victim := newClient(t, e, clientConfig{sid: "PA_v", single: true, settings: overTCP})
	to := tcpAddr(t, e)
	victim.join()
	up := victim.channel("_reliable")
	echoes(victim, "before")
	server := ufrag(t, victim.pub.RemoteDescription())
	request := func() []byte {
		m, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.NewUsername(server+":"+ufrag(t, victim.pub.LocalDescription())),
			stun.NewShortTermIntegrity("a password that it does not know"), stun.Fingerprint)
		require.NoError(t, err)
		return append(binary.BigEndian.AppendUint16(nil, uint16(len(m.Raw))), m.Raw...)
	}
	for i := range 20 {
		c := dialFrom(t, "127.0.0.2", to)
		_, err := c.Write(request())
		require.NoError(t, err)
		switch i % 4 {
		case 0: // a packet longer than any agent reads
			_, err := c.Write([]byte{0xff, 0xff})
			require.NoError(t, err)
		case 1: // a reset
			require.NoError(t, c.SetLinger(0))
			require.NoError(t, c.Close())
		case 2: // a packet that looks like the victim's media
			_, err := c.Write(append([]byte{0, 100, 0x80, 96}, make([]byte, 98)...))
			require.NoError(t, err)
		}
		echoes(victim, "meanwhile")
		require.NoError(t, up.Send([]byte("and back")))
		require.Equal(t, "and back", string(victim.events.wait(t, "data").data))
	}
	require.Zero(t, e.Stats().NeedsReconnect)
}

// slowTCP is a relay between a client and the server. It reads the server's data no
// faster than the set rate.
type slowTCP struct {
	listener net.Listener
	rate     atomic.Int64 // bytes/s; 0 = unlimited
	work     sync.WaitGroup
	mu       sync.Mutex // guards conns
	conns    []net.Conn
}

// smallBuffers keeps the kernel's buffers of received data small.
func smallBuffers() *net.Dialer {
	return &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		if err := c.Control(func(fd uintptr) { set = setReceiveBuffer(fd, 8<<10) }); err != nil {
			return err
		}
		return set
	}}
}

func newSlowTCP(t *testing.T, server *net.TCPAddr) *slowTCP {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	s := &slowTCP{listener: l}
	dialer := smallBuffers()
	s.work.Go(func() {
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
			s.mu.Lock()
			s.conns = append(s.conns, client, up)
			s.mu.Unlock()
			s.work.Go(func() { _, _ = io.Copy(up, client); _ = up.Close() })
			s.work.Go(func() { s.pass(client, up); _ = client.Close() })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			_ = c.Close()
		}
		s.mu.Unlock()
		s.work.Wait()
	})
	return s
}

func (s *slowTCP) pass(to, from net.Conn) {
	b := make([]byte, 1024)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if rate := s.rate.Load(); rate > 0 {
			time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

// viewer records what a subscriber sees and hears.
type viewer struct {
	mu    sync.Mutex // guards the following
	model *modelreceiver.Receiver
	ages  []time.Duration // of audio packets, at arrival
}

func (v *viewer) watch(r *webrtc.TrackRemote) {
	v.mu.Lock()
	if r.Kind() == webrtc.RTPCodecTypeVideo {
		v.model = modelreceiver.New(modelreceiver.Config{
			SSRC: uint32(r.SSRC()), Codecs: map[uint8]string{uint8(r.PayloadType()): r.Codec().MimeType}, Now: time.Now,
		})
	}
	v.mu.Unlock()
	drain(r, func(raw []byte) {
		var h rtp.Header
		n, err := h.Unmarshal(raw)
		if err != nil {
			return
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		switch payload := raw[n:]; {
		case r.Kind() == webrtc.RTPCodecTypeVideo:
			if h.Padding && len(payload) > 0 {
				payload = payload[:len(payload)-int(payload[len(payload)-1])]
			}
			_ = v.model.Write(&h, payload, sent.Video)
		case len(payload) > 8:
			v.ages = append(v.ages, time.Since(time.Unix(0, int64(binary.BigEndian.Uint64(payload[1:])))))
		}
	})
}

// seen is the number of decoded frames and of received audio packets.
func (v *viewer) seen() (frames, heard int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.model == nil {
		return 0, len(v.ages)
	}
	v.model.Tick()
	for _, f := range v.model.Frames() {
		if !f.Decoded.IsZero() {
			frames++
		}
	}
	return frames, len(v.ages)
}

// A subscriber over TCP whose network becomes narrow hears current audio, and not audio
// from long ago. All video that it is sent can be decoded, and the video continues.
func TestANarrowPathOverTCP(t *testing.T) {
	e := newTestEngine(t, func(c *Config) { c.TCPPort = TCPEphemeral })
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	a.perform("TR_v", vp8, ivfFrames(t, "testdata/picture.ivf"), time.Second/15, 15*time.Millisecond) // about 80 kB/s
	voice := a.publish("TR_a", opus, nil)
	stop, done := make(chan struct{}), make(chan struct{})
	defer func() { close(stop); <-done }()
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			payload := binary.BigEndian.AppendUint64([]byte{0xfc}, uint64(time.Now().UnixNano()))
			_ = voice.WriteRTP(&rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: uint16(i), Timestamp: uint32(i * 960)}, Payload: payload})
		}
	}()

	server := tcpAddr(t, e)
	relay := newSlowTCP(t, server)
	v := &viewer{}
	b := newClient(t, e, clientConfig{sid: "PA_b", settings: overTCP})
	b.onTrack = v.watch
	b.reroute = func(text string) string {
		return strings.ReplaceAll(text, fmt.Sprintf("127.0.0.1 %d ", server.Port), fmt.Sprintf("127.0.0.1 %d ", relay.listener.Addr().(*net.TCPAddr).Port))
	}
	b.join()
	b.subscribe("PA_a", a.published("TR_v"))
	b.subscribe("PA_a", a.published("TR_a"))
	until := func(frames, heard int, why string) {
		t.Helper()
		moreFrames, more := v.seen()
		moreFrames, more = moreFrames+frames, more+heard
		require.Eventually(t, func() bool {
			f, h := v.seen()
			return f >= moreFrames && h >= more
		}, 2*patience, 10*time.Millisecond, why)
	}
	until(30, 30, "where there is room")
	relay.rate.Store(30_000)
	until(1, 200, "where there is not")
	v.mu.Lock()
	late := slices.Sorted(slices.Values(v.ages[len(v.ages)-50:]))
	v.mu.Unlock()
	require.Less(t, late[len(late)/2], 2500*time.Millisecond, "the age of sound; the kernel's buffers hold a second of it")
	require.NotZero(t, e.Stats().TCPOverdue)
	relay.rate.Store(0)
	until(60, 60, "where there is room again")

	v.mu.Lock()
	defer v.mu.Unlock()
	for i, f := range v.model.Frames() {
		if time.Since(f.Complete) > time.Second { // otherwise it may wait for an earlier one
			require.False(t, f.Decoded.IsZero(), "frame %d: %s", i, f.Why)
		}
	}
}

// TestICEOverHandedConnections: ICE over TCP works if another part of the program accepts
// the connections, as on a port that is shared with HTTP.
func TestICEOverHandedConnections(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	e := newTestEngine(t, func(c *Config) { c.TCPPort, c.TCPHanded = l.Addr().(*net.TCPAddr).Port, true })
	require.Equal(t, l.Addr().String(), tcpAddr(t, e).String())
	accepting := make(chan struct{})
	go func() { // ends with the listener
		defer close(accepting)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = e.ServeICE(conn) // there is ICE over TCP
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-accepting })
	c := newClient(t, e, clientConfig{sid: "PA_c", settings: overTCP})
	c.join()
	echoes(c, "over TCP")
}
