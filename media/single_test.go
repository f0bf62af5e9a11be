package media

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// Five audio tracks and one video for a client that offers three sections of each kind:
// it is asked for two more, once, and sections that are left are used.
func TestSectionsAreAskedFor(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	a.join()
	var published []occurrence
	for i := range 5 {
		sid := fmt.Sprintf("TR_%d", i)
		pump(t, a.publish(sid, opus, nil))
		published = append(published, a.published(sid))
	}
	pump(t, a.publish("TR_v", vp8, nil))
	published = append(published, a.published("TR_v"))

	b := newClient(t, e, clientConfig{sid: "PA_b", single: true})
	b.join()
	for _, p := range published {
		b.subscribe("PA_a", p)
	}
	got := map[string]bool{}
	for range published {
		r := b.track()
		got[b.trackAt(r.mid)] = true
	}
	require.Len(t, got, 6)
	b.mu.Lock()
	var audios, videos int
	for _, r := range b.requirements {
		audios, videos = audios+r.audios, videos+r.videos
	}
	b.mu.Unlock()
	require.EqualValues(t, 2, audios)
	require.EqualValues(t, 0, videos)
	require.Empty(t, b.offers, "the server never offers")
	require.EqualValues(t, b.answers[0].ID, 1)
}

// From protocol 18 on, both sides open the data channels without announcing them.
func TestNegotiatedDataChannels(t *testing.T) {
	e := newTestEngine(t, func(c *Config) { c.Protocol = 18 })
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true, change: func(c *PeerConfig) { c.Protocol = 18 }})
	yes, id := true, idReliable
	dc, err := a.pub.CreateDataChannel("_reliable", &webrtc.DataChannelInit{Negotiated: &yes, ID: &id})
	require.NoError(t, err)
	a.listen(dc)
	a.offer(false)
	a.events.wait(t, "connected")
	a.channel("_reliable")
	a.peer.SendData(nil, livekit.DataPacket_RELIABLE, []byte("hello"))
	require.Equal(t, "hello", string(a.message().data))
	require.NoError(t, dc.Send([]byte("hello yourself")))
	require.Equal(t, "hello yourself", string(a.events.wait(t, "data").data))
}

// Data on a channel with the client's own label is a message, and data on the channel of
// data tracks is a packet of a data track.
func TestOwnChannels(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		send := map[string]*webrtc.DataChannel{}
		opened := make(chan struct{}, 2)
		for _, label := range []string{"mine", labelDataTrack} {
			dc, err := a.pub.CreateDataChannel(label, nil)
			require.NoError(t, err)
			dc.OnOpen(func() { opened <- struct{}{} })
			send[label] = dc
		}
		a.join()
		for range send {
			select {
			case <-opened:
			case <-time.After(patience):
				require.FailNow(t, "channel did not open")
			}
		}
		require.NoError(t, send["mine"].SendText("words"))
		require.Equal(t, "words", string(a.events.wait(t, "message").data))
		require.NoError(t, send[labelDataTrack].Send([]byte("frame")))
		require.Equal(t, "frame", string(a.events.wait(t, "data track").data))
	})
}

// A client that does not take its reliable data must reconnect, and its lossy data is
// dropped.
func TestSlowClient(t *testing.T) {
	e := newTestEngine(t, nil)
	block := make(chan struct{})
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true, settings: func(s *webrtc.SettingEngine) {
		s.SetSCTPMaxReceiveBufferSize(64 << 10)
	}})
	reliable, err := a.pub.CreateDataChannel("_reliable", nil)
	require.NoError(t, err)
	reliable.OnMessage(func(webrtc.DataChannelMessage) { <-block })
	t.Cleanup(func() { close(block) })
	none := uint16(0)
	lossy, err := a.pub.CreateDataChannel("_lossy", &webrtc.DataChannelInit{MaxRetransmits: &none})
	require.NoError(t, err)
	lossy.OnMessage(func(webrtc.DataChannelMessage) { <-block })
	a.offer(false)
	a.events.wait(t, "connected")
	message := make([]byte, 60000)
	require.Eventually(t, func() bool {
		a.peer.SendData(nil, livekit.DataPacket_LOSSY, message)
		a.peer.SendData(nil, livekit.DataPacket_RELIABLE, message)
		return e.Stats().SlowReliable > 0
	}, patience, time.Microsecond)
	require.Contains(t, a.events.wait(t, "reconnect").label, "reliable")
	require.NotZero(t, e.Stats().LossyDropped)
}

// Tracks that belong together share a media stream, if the client supports that.
func TestStreamIDs(t *testing.T) {
	for _, c := range []struct {
		protocol int
		sync     bool
		browser  string
		want     string
	}{
		{17, false, "", "PA_a|TR_1"},
		{17, true, "", "PA_a|camera"},
		{17, true, "Firefox", "PA_a|TR_1"},
		{9, true, "", "PA_a|TR_1"},
		{0, true, "", "PA_a"},
	} {
		s := &subscription{
			sid: "TR_1",
			p:   &Peer{cfg: PeerConfig{Protocol: c.protocol, Client: &livekit.ClientInfo{Browser: c.browser}}},
			ask: rooms.Subscription{PublisherSID: "PA_a", SyncStreams: c.sync, Info: &livekit.TrackInfo{Stream: "camera"}},
		}
		require.Equal(t, c.want, s.StreamID(), "%+v", c)
	}
}

// RED is preferred if the announcement permits it, and clients without RED get plain
// Opus.
func TestRED(t *testing.T) {
	withRED := func(m *webrtc.MediaEngine) error {
		if err := m.RegisterDefaultCodecs(); err != nil {
			return err
		}
		return m.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: red, PayloadType: 63}, webrtc.RTPCodecTypeAudio)
	}
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a", codecs: withRED})
	a.join()
	local := a.publish("TR_r", red, func(r *livekit.AddTrackRequest) { r.SimulcastCodecs = nil })
	p := a.published("TR_r")
	require.Equal(t, "audio/red", p.info.MimeType)
	require.Eventually(t, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return strings.Contains(a.answers[len(a.answers)-1].SDP, "m=audio 9 UDP/TLS/RTP/SAVPF 63 111")
	}, patience, time.Millisecond)
	pumpPayload(t, local, []byte{111, 0xfc, 1, 2}) // one block, the primary

	b := newClient(t, e, clientConfig{sid: "PA_b"})
	b.join()
	b.subscribe("PA_a", p)
	r := b.receives("PA_a", "TR_r")
	require.True(t, strings.EqualFold(webrtc.MimeTypeOpus, r.Codec().MimeType), r.Codec().MimeType)

	plain := a.publish("TR_p", opus, func(r *livekit.AddTrackRequest) { r.SimulcastCodecs, r.DisableRed = nil, true })
	require.Equal(t, "audio/opus", a.published("TR_p").info.MimeType)
	pump(t, plain)
}

// A client that sends RED may begin with plain Opus.
func TestREDAfterOpus(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a", codecs: func(m *webrtc.MediaEngine) error {
		if err := m.RegisterDefaultCodecs(); err != nil {
			return err
		}
		return m.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: red, PayloadType: 63}, webrtc.RTPCodecTypeAudio)
	}})
	a.join()
	local := a.publishRaw("TR_r", webrtc.RTPCodecTypeAudio, red, func(r *livekit.AddTrackRequest) { r.SimulcastCodecs = nil })
	published := a.published("TR_r")
	b := newClient(t, e, clientConfig{sid: "PA_b"})
	b.join()
	b.subscribe("PA_a", published)
	pumpPackets(t, local, func(i int) *rtp.Packet {
		p := &rtp.Packet{Header: rtp.Header{Timestamp: uint32(i * 480), PayloadType: 111}, Payload: []byte{0xfc, 1}}
		if i >= 20 {
			p.PayloadType, p.Payload = 63, []byte{111, 0xfc, 2}
		}
		return p
	})
	r := b.receives("PA_a", "TR_r")
	require.NoError(t, r.SetReadDeadline(time.Now().Add(patience)))
	for {
		p, _, err := r.ReadRTP()
		require.NoError(t, err)
		if p.Payload[len(p.Payload)-1] == 2 {
			require.Equal(t, []byte{0xfc, 2}, p.Payload)
			return
		}
	}
}
