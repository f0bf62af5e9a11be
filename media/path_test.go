package media

import (
	"log/slog"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/srtp/v3"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink"
	"parlor/media/forward"
	"parlor/media/srtpout"
)

// way is the path by which media is sent to a client.
func (c *client) way() *downlink.Path { return c.peer.down().down }

// TestOutgoing sends media to clients in each possible way: encrypted by srtpout, which
// is the rule, over TCP too, and by pion if the client chooses the DTLS roles.
func TestOutgoing(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		single bool
		client func(*webrtc.SettingEngine)
		ours   bool
	}{
		{"two connections", false, nil, true},
		{"one connection", true, nil, true},
		{"we are DTLS client", false, func(s *webrtc.SettingEngine) {
			_ = s.SetAnsweringDTLSRole(webrtc.DTLSRoleServer)
		}, false},
		{"over TCP", true, func(s *webrtc.SettingEngine) {
			s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeTCP4})
		}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := newTestEngine(t, func(c *Config) { c.TCPPort = TCPEphemeral })
			a := newClient(t, e, clientConfig{sid: "PA_a"})
			a.join()
			pump(t, a.publish("TR_v", vp8, nil))
			p := a.published("TR_v")
			b := newClient(t, e, clientConfig{sid: "PA_b", single: tc.single, settings: tc.client})
			b.join()
			b.subscribe("PA_a", p)
			b.receives("PA_a", "TR_v")
			require.Equal(t, tc.ours, b.way().Sealed())
		})
	}
}

// TestOutgoingFollowsICE restarts ICE: packets then go to the remote address of the new
// pair.
func TestOutgoingFollowsICE(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	pump(t, a.publish("TR_v", vp8, nil))
	p := a.published("TR_v")
	b := newClient(t, e, clientConfig{sid: "PA_b", single: true})
	b.join()
	b.subscribe("PA_a", p)
	r := b.receives("PA_a", "TR_v")
	before := b.way().Remote()
	require.True(t, before.IsValid())

	b.offer(true)
	require.Eventually(t, func() bool {
		to := b.way().Remote()
		return to.IsValid() && to != before
	}, patience, time.Millisecond)
	buf := make([]byte, 1500)
	for range 20 {
		_, _, err := r.Read(buf)
		require.NoError(t, err)
	}
}

// A client behind a NAT, whose candidates the server does not know, waits for the server's
// choice of a pair after each restart of ICE, and nothing reaches it meanwhile. The choice
// does not take the second that pion would wait for something better.
func TestARestartBehindANATIsShort(t *testing.T) {
	e := newTestEngine(t, nil)
	b := newClient(t, e, clientConfig{sid: "PA_b"})
	b.reroute = func(text string) string { return text }
	b.join()
	short := false
	for late := time.Now().Add(patience); !short && time.Now().Before(late); { // a loaded machine may need several attempts
		var before netip.AddrPort
		require.Eventually(t, func() bool {
			before = b.way().Remote()
			return before.IsValid()
		}, patience, time.Millisecond)
		began := time.Now()
		b.peer.Resume()
		require.Eventually(t, func() bool {
			now := b.way().Remote()
			return now.IsValid() && now != before
		}, patience, time.Millisecond)
		short = time.Since(began) < time.Second // with pion's wait none can be, on any machine
	}
	require.True(t, short)
}

// liveHeap is the memory in use.
func liveHeap() float64 {
	runtime.GC()
	runtime.GC() // what finalizers and pools held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// A listener stays for hours while speakers come and go. The memory of its ended
// subscriptions must not grow with their number.
func TestEndedSubscriptionsGiveTheirMemoryBack(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	pump(t, a.publish("TR_a", opus, nil))
	p := a.published("TR_a")
	b := newClient(t, e, clientConfig{sid: "PA_b"})
	got := make(chan struct{}, 100)
	b.onTrack = func(r *webrtc.TrackRemote) {
		drain(r, func([]byte) {
			select {
			case got <- struct{}{}:
			default:
			}
		})
	}
	b.join()
	churn := func(times int) {
		for range times {
			b.subscribe("PA_a", p)
			b.events.wait(t, "subscribed")
			<-got
			b.peer.Unsubscribe("TR_a")
		}
	}
	churn(20)
	const times = 150
	before := liveHeap()
	churn(times)
	// Pion keeps some memory for each, in the server and in the test's client.
	require.Less(t, (liveHeap()-before)/times, 8e3, "bytes for each")
}

// An audio room has a subscription for each ordered pair of participants.
func TestAudioSubscriptionIsSmall(t *testing.T) {
	keys := srtpout.Keys{Profile: srtp.ProtectionProfileAeadAes128Gcm, Key: make([]byte, 16), Salt: make([]byte, 12)}
	down := downlink.New(elsewhere{})
	down.Choose(
		downlink.Way{Socket: nowhere{}, Remote: netip.MustParseAddrPort("192.0.2.7:1234")},
		func() (srtpout.Keys, error) { return keys, nil }, &srtpout.Buffers{}, slog.New(slog.DiscardHandler),
	)
	require.True(t, down.Sealed())
	down.Connected()
	codec := forward.Codec{MimeType: mimeOpus, PayloadType: 111, ClockRate: 48000, Channels: 2}
	const subscriptions = 500
	measure := func() float64 {
		track := forward.NewTrack(forward.TrackConfig{Kind: livekit.TrackType_AUDIO, Codec: codec})
		defer track.Close()
		layer := track.AddLayer(forward.LayerConfig{SSRC: 1, Codec: codec})
		before := liveHeap()
		for i := range uint32(subscriptions) {
			w := down.NewWriter(downlink.WriterConfig{SSRC: 2 + i, Repeats: forward.Repeatable(false)})
			track.AddForwarder(forward.ForwarderConfig{SSRC: 2 + i, Codec: codec, Output: w, Downlink: down})
		}
		for i := range uint16(100) {
			p := rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 111, SSRC: 1, SequenceNumber: i, Timestamp: 960 * uint32(i)}, Payload: make([]byte, 80)}
			raw, err := p.Marshal()
			require.NoError(t, err)
			layer.WriteRTP(raw, time.Now())
		}
		return (liveHeap() - before) / subscriptions
	}
	// What tests before this one leave running may take memory meanwhile, but not each time.
	require.Less(t, min(measure(), measure(), measure()), 4e3, "bytes for each")
	runtime.KeepAlive(down)
}

type elsewhere struct{}

func (elsewhere) Flush()                        {}
func (elsewhere) WriteRTCP([]rtcp.Packet) error { return nil }

type nowhere struct{}

func (nowhere) WriteToAddrPort(p []byte, _ netip.AddrPort) (int, error) { return len(p), nil }

// A client that moves within its network is told from one that moves to another.
func TestNetworksAreToldFromEachOther(t *testing.T) {
	of := func(protocol, addr string) string { return networkOver(protocol, netip.MustParseAddrPort(addr)) }
	home := of("udp", "192.0.2.1:1")
	require.Equal(t, home, of("udp", "192.0.2.1:2"))
	require.NotEqual(t, home, of("udp", "192.0.2.2:1"))
	require.NotEqual(t, home, of("tcp", "192.0.2.1:1"))
	home = of("udp", "[2001:db8::1]:1")
	require.Equal(t, home, of("udp", "[2001:db8::2]:1"), "it may change its address within the network")
	require.NotEqual(t, home, of("udp", "[2001:db8:0:1::1]:1"))
	require.Equal(t, of("udp", "[fe80::1%eth0]:1"), of("udp", "[fe80::2%eth0]:1"))
}
