package media

import (
	"fmt"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"parlor/media/forward"
	"parlor/rooms"
)

// bothModes runs a test with two peer connections and with one.
func bothModes(t *testing.T, f func(t *testing.T, single bool)) {
	for _, single := range []bool{false, true} {
		t.Run(fmt.Sprintf("single=%v", single), func(t *testing.T) { f(t, single) })
	}
}

func TestJoinAndData(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		c := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		// Reliable messages that are sent before the channel opens are not lost.
		c.peer.SendData(nil, livekit.DataPacket_RELIABLE, []byte("early"))
		c.join()
		require.Equal(t, occurrence{label: "_reliable", data: []byte("early")}, c.message())

		reliable, lossy := c.channel("_reliable"), c.channel("_lossy")
		if !single { // the client sends on the connection for which it makes the offers
			reliable, lossy = nil, nil
			for range 3 {
				switch dc := c.channel("own"); dc.Label() {
				case "_reliable":
					reliable = dc
				case "_lossy":
					lossy = dc
				}
			}
		}
		for i := range 50 {
			packet, err := proto.Marshal(&livekit.DataPacket{Sequence: uint32(i + 1), Value: &livekit.DataPacket_User{
				User: &livekit.UserPacket{Payload: make([]byte, 1000)},
			}})
			require.NoError(t, err)
			require.NoError(t, reliable.Send(packet))
		}
		for i := range 50 {
			got := c.events.wait(t, "data")
			require.Equal(t, livekit.DataPacket_RELIABLE, got.kind)
			require.EqualValues(t, i+1, packetSequence(got.data))
		}
		require.EqualValues(t, 50, c.peer.LastMessageSeq())
		require.NoError(t, lossy.Send([]byte("quick")))
		got := c.events.wait(t, "data")
		require.Equal(t, livekit.DataPacket_LOSSY, got.kind)

		c.peer.SendData(nil, livekit.DataPacket_LOSSY, []byte("l"))
		require.Equal(t, occurrence{label: "_lossy", data: []byte("l")}, c.message())
		c.peer.SendDataTrack([]byte("d"))
		require.Equal(t, occurrence{label: "_data_track", data: []byte("d")}, c.message())

		c.peer.SetPublisherAllowed(true, false)
		require.NoError(t, reliable.Send([]byte("refused")))
		require.Eventually(t, func() bool { return e.counters.dataRefused.Load() == 1 }, patience, time.Millisecond)
	})
}

// publish announces and offers a track of the client.
func (c *client) publish(sid string, codec webrtc.RTPCodecCapability, change func(*livekit.AddTrackRequest)) *webrtc.TrackLocalStaticRTP {
	c.t.Helper()
	local, err := webrtc.NewTrackLocalStaticRTP(codec, "cid-"+sid, "stream-"+sid)
	require.NoError(c.t, err)
	c.publishLocal(sid, local, codec, change)
	return local
}

func (c *client) publishLocal(sid string, local webrtc.TrackLocal, codec webrtc.RTPCodecCapability, change func(*livekit.AddTrackRequest)) {
	c.t.Helper()
	_, err := c.pub.AddTransceiverFromTrack(local, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
	require.NoError(c.t, err)
	req := &livekit.AddTrackRequest{Cid: local.ID(), Type: livekit.TrackType_AUDIO}
	if local.Kind() == webrtc.RTPCodecTypeVideo {
		req.Type = livekit.TrackType_VIDEO
	}
	req.SimulcastCodecs = []*livekit.SimulcastCodec{{Codec: codec.MimeType, Cid: req.Cid}}
	if change != nil {
		change(req)
	}
	c.announce(req, &livekit.TrackInfo{Sid: sid, Type: req.Type, Layers: req.Layers, Muted: req.Muted, Width: req.Width, Height: req.Height})
	c.offer(false)
}

// rawTrack is a track whose packets the test writes itself.
type rawTrack struct {
	id    string
	kind  webrtc.RTPCodecType
	codec webrtc.RTPCodecCapability
	bound chan boundTrack // holds one element once the track is negotiated
}

// boundTrack is the negotiated state of a rawTrack.
type boundTrack struct {
	webrtc.TrackLocalContext
	codecs     []webrtc.RTPCodecParameters
	extensions forward.Extensions
}

func newRawTrack(sid string, kind webrtc.RTPCodecType, codec webrtc.RTPCodecCapability) *rawTrack {
	return &rawTrack{"cid-" + sid, kind, codec, make(chan boundTrack, 1)}
}

func (r *rawTrack) ID() string                            { return r.id }
func (r *rawTrack) RID() string                           { return "" }
func (r *rawTrack) StreamID() string                      { return r.id }
func (r *rawTrack) Kind() webrtc.RTPCodecType             { return r.kind }
func (r *rawTrack) Unbind(webrtc.TrackLocalContext) error { return nil }

func (r *rawTrack) Bind(ctx webrtc.TrackLocalContext) (webrtc.RTPCodecParameters, error) {
	r.bound <- boundTrack{ctx, ctx.CodecParameters(), extensionIDs(ctx.HeaderExtensions())} // pion changes them later
	c, _ := pickCodec(forward.Codec{MimeType: r.codec.MimeType, Fmtp: r.codec.SDPFmtpLine}, ctx.CodecParameters())
	return c, nil
}

// publishRaw is publish for a track whose packets the test writes itself. They can be
// written once it returns.
func (c *client) publishRaw(sid string, kind webrtc.RTPCodecType, codec webrtc.RTPCodecCapability, change func(*livekit.AddTrackRequest)) boundTrack {
	c.t.Helper()
	raw := newRawTrack(sid, kind, codec)
	c.publishLocal(sid, raw, codec, change)
	select {
	case ctx := <-raw.bound:
		return ctx
	case <-time.After(patience):
		require.FailNow(c.t, "not negotiated", sid)
		return boundTrack{}
	}
}

// pumpPackets writes the packets that next makes, until the test ends.
func pumpPackets(t *testing.T, ctx boundTrack, next func(i int) *rtp.Packet) {
	stop, done := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-done })
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			p := next(i)
			p.Version, p.SequenceNumber, p.SSRC = 2, uint16(i), uint32(ctx.SSRC())
			_, _ = ctx.WriteStream().WriteRTP(&p.Header, p.Payload) // fails before the connection is up
		}
	}()
}

// pump writes packets until the test ends: small VP8 keyframes, or anything audio.
func pump(t *testing.T, local *webrtc.TrackLocalStaticRTP) {
	payload := []byte{0x10, 0x00, 0x00, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00, 1, 2, 3}
	if local.Kind() == webrtc.RTPCodecTypeAudio {
		payload = []byte{0xfc, 1, 2, 3}
	}
	pumpPayload(t, local, payload)
}

// pumpPayload writes the same frame until the test ends.
func pumpPayload(t *testing.T, local *webrtc.TrackLocalStaticRTP, payload []byte) {
	stop, done := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-done })
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			_ = local.WriteRTP(&rtp.Packet{
				Header:  rtp.Header{Version: 2, Marker: true, SequenceNumber: uint16(i), Timestamp: uint32(i * 900)},
				Payload: payload,
			})
		}
	}()
}

var (
	vp8  = webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000}
	opus = webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}
	red  = webrtc.RTPCodecCapability{MimeType: mimeRED, ClockRate: 48000, Channels: 2, SDPFmtpLine: "111/111"}
)

// subscribe makes c's peer forward the published track.
func (c *client) subscribe(publisher string, published occurrence) {
	c.peer.Subscribe(rooms.Subscription{
		Track: published.track, Info: published.info, PublisherSID: publisher, PublisherIdentity: "id-" + publisher,
	})
}

func (c *client) trackAt(mid string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.midToTrack[mid]
}

// receives checks that a track of that SID arrives with its packets.
func (c *client) receives(publisher, sid string) remoteTrack {
	c.t.Helper()
	r := c.track()
	require.Equal(c.t, sid, c.trackAt(r.mid))
	require.Equal(c.t, publisher+"|"+sid, r.StreamID())
	require.Equal(c.t, sid, r.ID())
	b := make([]byte, 1500)
	for range 5 {
		_, _, err := r.Read(b)
		require.NoError(c.t, err)
	}
	return r
}

func TestPublishAndSubscribe(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		audio := a.publish("TR_a", opus, nil)
		pa := a.events.wait(t, "published")
		require.Equal(t, "TR_a", pa.sid)
		require.Equal(t, "audio/opus", pa.info.MimeType)
		video := a.publish("TR_v", vp8, nil)
		pv := a.events.wait(t, "published")
		require.Equal(t, "TR_v", pv.sid)
		require.Equal(t, "video/VP8", pv.info.MimeType)
		require.NotEmpty(t, pv.info.Mid)
		pump(t, audio)
		pump(t, video)

		// One client subscribes before it joins, the other after.
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single})
		b.subscribe("PA_a", pa)
		b.join()
		require.Equal(t, "TR_a", b.events.wait(t, "subscribed").sid)
		b.receives("PA_a", "TR_a")
		b.subscribe("PA_a", pv)
		require.Equal(t, "TR_v", b.events.wait(t, "subscribed").sid)
		b.receives("PA_a", "TR_v")

		// After the unsubscribing no packets come. Subscribed again, a new track comes.
		b.peer.Unsubscribe("TR_v")
		b.subscribe("PA_a", pv)
		require.Equal(t, "TR_v", b.events.wait(t, "subscribed").sid)
		b.receives("PA_a", "TR_v")

		require.Eventually(t, func() bool {
			s := e.Stats()
			for _, t := range []forward.Traffic{s.Audio.Received, s.Audio.Sent, s.Video.Received, s.Video.Sent} {
				if t.Packets == 0 || t.Bytes == 0 {
					return false
				}
			}
			return true
		}, patience, 10*time.Millisecond, "what flows is counted")
	})
}
