package srtpout

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/ice/v4"
	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/media/udp"
)

// server is one peer connection over a socket of ours, as package media has it.
type server struct {
	pc      *webrtc.PeerConnection
	conn    *udp.Conn
	capture Capture
}

func newServer(t *testing.T, role webrtc.DTLSRole, change func(*webrtc.SettingEngine)) *server {
	t.Helper()
	conn, err := udp.Listen(udp.Config{Addr: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	mux := ice.NewUDPMuxDefault(ice.UDPMuxParams{UDPConn: conn})
	v := &server{conn: conn}
	e := loopback()
	e.SetICEUDPMux(mux)
	require.NoError(t, e.SetAnsweringDTLSRole(role))
	change(&e)
	v.capture.Install(&e)
	m := &webrtc.MediaEngine{}
	require.NoError(t, m.RegisterDefaultCodecs())
	v.pc, err = webrtc.NewAPI(webrtc.WithSettingEngine(e), webrtc.WithMediaEngine(m)).NewPeerConnection(webrtc.Configuration{})
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = v.pc.Close()
		_ = mux.Close()
	})
	return v
}

func loopback() (e webrtc.SettingEngine) {
	e.SetIncludeLoopbackCandidate(true)
	e.SetInterfaceFilter(func(name string) bool { return name == "lo" })
	e.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	e.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	return e
}

func newClient(t *testing.T, change func(*webrtc.SettingEngine)) *webrtc.PeerConnection {
	t.Helper()
	e := loopback()
	change(&e)
	m := &webrtc.MediaEngine{}
	require.NoError(t, m.RegisterDefaultCodecs())
	pc, err := webrtc.NewAPI(webrtc.WithSettingEngine(e), webrtc.WithMediaEngine(m)).NewPeerConnection(webrtc.Configuration{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = pc.Close() })
	return pc
}

// negotiate connects the two; from makes the offer.
func negotiate(t *testing.T, from, to *webrtc.PeerConnection) {
	t.Helper()
	connected := make(chan struct{}, 2)
	for _, pc := range []*webrtc.PeerConnection{from, to} {
		pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) {
			if s == webrtc.PeerConnectionStateConnected {
				connected <- struct{}{}
			}
		})
	}
	complete := func(pc *webrtc.PeerConnection, d webrtc.SessionDescription, err error) webrtc.SessionDescription {
		require.NoError(t, err)
		done := webrtc.GatheringCompletePromise(pc)
		require.NoError(t, pc.SetLocalDescription(d))
		<-done
		return *pc.LocalDescription()
	}
	d, err := from.CreateOffer(nil)
	require.NoError(t, to.SetRemoteDescription(complete(from, d, err)))
	d, err = to.CreateAnswer(nil)
	require.NoError(t, from.SetRemoteDescription(complete(to, d, err)))
	for range 2 {
		select {
		case <-connected:
		case <-time.After(10 * time.Second):
			require.FailNow(t, "not connected")
		}
	}
}

// bound is a track whose packets are written by the test.
type bound struct {
	webrtc.TrackLocal
	ctx chan webrtc.TrackLocalContext
}

func (b bound) Bind(ctx webrtc.TrackLocalContext) (webrtc.RTPCodecParameters, error) {
	p, err := b.TrackLocal.Bind(ctx)
	b.ctx <- ctx
	return p, err
}

// TestEndToEnd lets a stock pion client receive what a Sender sends, in whichever
// role of the negotiation, with each profile, and pion's own RTCP beside it.
func TestEndToEnd(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		profile dtls.SRTPProtectionProfile
		suites  []dtls.CipherSuiteID
		offers  bool // the server makes the offer
	}{
		{"gcm 128", dtls.SRTP_AEAD_AES_128_GCM, nil, false},
		{"gcm 256, sha384", dtls.SRTP_AEAD_AES_256_GCM, []dtls.CipherSuiteID{dtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}, true},
		{"sha1, chacha", dtls.SRTP_AES128_CM_HMAC_SHA1_80, []dtls.CipherSuiteID{dtls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}, false},
		{"gcm 128, offering, cbc", dtls.SRTP_AEAD_AES_128_GCM, []dtls.CipherSuiteID{dtls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			v := newServer(t, webrtc.DTLSRoleServer, func(e *webrtc.SettingEngine) {
				e.SetSRTPProtectionProfiles(tc.profile)
				if tc.suites != nil {
					e.SetDTLSCipherSuites(tc.suites...)
				}
			})
			_, err := v.capture.Keys()
			require.ErrorIs(t, err, ErrNoKeys, "not before the handshake")
			local, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000}, "v", "s")
			require.NoError(t, err)
			b := bound{local, make(chan webrtc.TrackLocalContext, 1)}
			client := newClient(t, func(*webrtc.SettingEngine) {})
			tracks := make(chan *webrtc.TrackRemote, 1)
			receivers := make(chan *webrtc.RTPReceiver, 1)
			client.OnTrack(func(tr *webrtc.TrackRemote, r *webrtc.RTPReceiver) {
				tracks <- tr
				receivers <- r
			})
			from, to := client, v.pc
			if tc.offers {
				from, to = v.pc, client
			} else {
				_, err = client.AddTransceiverFromKind(webrtc.RTPCodecTypeVideo, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionRecvonly})
				require.NoError(t, err)
			}
			_, err = v.pc.AddTrack(b)
			require.NoError(t, err)
			negotiate(t, from, to)

			keys, err := v.capture.Keys()
			require.NoError(t, err)
			pair, err := v.pc.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
			require.NoError(t, err)
			remote, ok := RemoteOf(pair)
			require.True(t, ok)
			s, err := NewSender(&Buffers{}, keys)
			require.NoError(t, err)
			s.SetPath(v.conn, remote)
			ctx := <-b.ctx
			ssrc := uint32(ctx.SSRC())
			const first, packets = 65500, 100 // over the wrap
			for i := range packets {
				h := header(ssrc, uint16(first+i))
				h.PayloadType = uint8(ctx.CodecParameters()[0].PayloadType)
				require.NoError(t, s.Stream(ssrc).Write(h, []byte{0x90, 0x80, 0x80, byte(i), 1, 2, 3}))
			}
			v.conn.Flush()
			require.NoError(t, v.pc.WriteRTCP([]rtcp.Packet{&rtcp.SenderReport{SSRC: ssrc, PacketCount: packets}}))

			remoteTrack := <-tracks
			require.NoError(t, remoteTrack.SetReadDeadline(time.Now().Add(10*time.Second)))
			for i := range packets {
				p, _, err := remoteTrack.ReadRTP()
				require.NoError(t, err)
				require.EqualValues(t, uint16(first+i), p.SequenceNumber)
				require.Equal(t, []byte{0x90, 0x80, 0x80, byte(i), 1, 2, 3}, p.Payload)
			}
			r := <-receivers
			require.NoError(t, r.SetReadDeadline(time.Now().Add(10*time.Second)))
			got, _, err := r.ReadRTCP()
			require.NoError(t, err)
			require.True(t, slices.ContainsFunc(got, func(p rtcp.Packet) bool {
				sr, ok := p.(*rtcp.SenderReport)
				return ok && sr.PacketCount == packets
			}))
		})
	}
}

// TestAsDTLSClient has no keys, so that the caller writes with pion.
func TestAsDTLSClient(t *testing.T) {
	t.Parallel()
	v := newServer(t, webrtc.DTLSRoleClient, func(*webrtc.SettingEngine) {})
	client := newClient(t, func(*webrtc.SettingEngine) {})
	_, err := client.CreateDataChannel("x", nil)
	require.NoError(t, err)
	negotiate(t, client, v.pc)
	_, err = v.capture.Keys()
	require.ErrorIs(t, err, ErrNoKeys)
}

func TestKeyLogLines(t *testing.T) {
	t.Parallel()
	var c Capture
	for _, line := range []string{"", "SERVER_HANDSHAKE_TRAFFIC_SECRET 00 00\n", "CLIENT_RANDOM 00\n"} {
		n, err := keyLog{&c}.Write([]byte(line))
		require.NoError(t, err)
		require.Len(t, line, n)
	}
	_, err := keyLog{&c}.Write([]byte("CLIENT_RANDOM zz zz\n"))
	require.Error(t, err)
	_, err = c.Keys()
	require.ErrorIs(t, err, ErrNoKeys)
}
