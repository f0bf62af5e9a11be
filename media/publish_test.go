package media

import (
	"encoding/binary"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/interceptor"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/media/emulator"
	"parlor/media/forward"
	"parlor/rooms"
)

// publishSimulcast announces and offers three layers, and sends them until the test ends.
func (c *client) publishSimulcast(sid string) {
	c.t.Helper()
	var locals []*webrtc.TrackLocalStaticRTP
	var sender *webrtc.RTPSender
	for _, rid := range []string{"q", "h", "f"} {
		local, err := webrtc.NewTrackLocalStaticRTP(vp8, "cid-"+sid, "stream-"+sid, webrtc.WithRTPStreamID(rid))
		require.NoError(c.t, err)
		locals = append(locals, local)
		if sender == nil {
			tr, err := c.pub.AddTransceiverFromTrack(local, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
			require.NoError(c.t, err)
			sender = tr.Sender()
		} else {
			require.NoError(c.t, sender.AddEncoding(local))
		}
	}
	layers := []*livekit.VideoLayer{
		{Quality: livekit.VideoQuality_LOW, Width: 320, Height: 180},
		{Quality: livekit.VideoQuality_MEDIUM, Width: 640, Height: 360},
		{Quality: livekit.VideoQuality_HIGH, Width: 1280, Height: 720},
	}
	if c.claims != nil {
		layers = c.claims
	}
	req := &livekit.AddTrackRequest{
		Cid: "cid-" + sid, Type: livekit.TrackType_VIDEO, Layers: layers,
		SimulcastCodecs: []*livekit.SimulcastCodec{{Codec: "vp8", Cid: "cid-" + sid}},
	}
	c.announce(req, &livekit.TrackInfo{Sid: sid, Type: req.Type, Layers: layers, Width: 1280, Height: 720})
	c.offer(false)
	stop, done := make(chan struct{}), make(chan struct{})
	c.t.Cleanup(func() { close(stop); <-done })
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
			c.sendLayers(sender, locals, i)
		}
	}()
}

// sendLayers sends the i-th frame of each layer, with mid and rid.
func (c *client) sendLayers(sender *webrtc.RTPSender, locals []*webrtc.TrackLocalStaticRTP, i int) {
	params := sender.GetParameters()
	var midID, ridID uint8
	for _, e := range params.HeaderExtensions {
		switch e.URI {
		case uriMID:
			midID = uint8(e.ID)
		case uriRID:
			ridID = uint8(e.ID)
		}
	}
	mid := ""
	for _, tr := range c.pub.GetTransceivers() {
		if tr.Sender() == sender {
			mid = tr.Mid()
		}
	}
	if mid == "" || midID == 0 || ridID == 0 || c.still.Load() {
		return
	}
	for n, local := range locals {
		p := &rtp.Packet{
			Header:  rtp.Header{Version: 2, Marker: true, SequenceNumber: uint16(i), Timestamp: uint32(i * 900)},
			Payload: []byte{0x10, 0x00, 0x00, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00, byte(n)},
		}
		p.Payload = append(p.Payload, make([]byte, max(c.layerSizes[n]-len(p.Payload), 0))...)
		_ = p.SetExtension(midID, []byte(mid))
		_ = p.SetExtension(ridID, []byte(local.RID()))
		_ = local.WriteRTP(p)
	}
}

// published waits until the peer reports the track to the room.
func (c *client) published(sid string) occurrence {
	c.t.Helper()
	for {
		if p := c.events.wait(c.t, "published"); p.sid == sid {
			return p
		}
	}
}

func TestSimulcast(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		a.publishSimulcast("TR_s")
		// The description begins it, and then it is completed layer by layer.
		published := a.events.wait(t, "published")
		require.Equal(t, "video/VP8", published.info.MimeType)
		require.Len(t, published.info.Codecs, 1)
		require.Eventually(t, func() bool {
			published = a.events.wait(t, "published")
			for _, l := range published.info.Layers {
				if l.Ssrc == 0 || l.Rid == "" {
					return false
				}
			}
			return true
		}, patience, time.Millisecond)
		require.Equal(t, "f", published.info.Layers[2].Rid)
		require.Equal(t, livekit.VideoQuality_HIGH, published.info.Layers[2].Quality)
		a.mu.Lock()
		answer := a.answers[len(a.answers)-1].SDP
		a.mu.Unlock()
		require.Contains(t, answer, "a=rid:q recv")
		require.Contains(t, answer, "a=simulcast:recv q;h;f")
		require.NotContains(t, answer, "setup:active", "we are the DTLS server, so that AES-GCM is chosen")

		b := newClient(t, e, clientConfig{sid: "PA_b", single: single})
		b.subscribe("PA_a", published)
		b.join()
		r := b.receives("PA_a", "TR_s")
		layer := make(chan byte, 100000)
		go drain(r.TrackRemote, func(p []byte) { layer <- p[len(p)-1] })
		waitLayer := func(n byte) {
			t.Helper()
			deadline := time.After(patience)
			for {
				select {
				case got := <-layer:
					if got == n {
						return
					}
				case <-deadline:
					require.FailNow(t, "layer did not come", n)
				}
			}
		}
		waitLayer(2)
		b.peer.SetTrackSettings([]string{"TR_s"}, rooms.TrackSettings{Width: 320, Height: 180})
		waitLayer(0)
		b.peer.SetTrackSettings([]string{"TR_s"}, rooms.TrackSettings{Quality: livekit.VideoQuality_MEDIUM})
		waitLayer(1)
		b.mu.Lock()
		require.NotEmpty(t, b.states)
		require.Equal(t, livekit.StreamState_ACTIVE, b.states[0].State)
		b.states = nil // as if the states had been sent between two sockets
		b.mu.Unlock()
		b.peer.Resume()
		require.Eventually(t, func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return len(b.states) == 1 && b.states[0].State == livekit.StreamState_ACTIVE
		}, patience, time.Millisecond)
	})
}

// The client names its track differently in the description and in the announcement.
func TestMatchByExclusion(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	a.join()
	a.publish("TR_a", opus, func(r *livekit.AddTrackRequest) { r.Cid, r.SimulcastCodecs[0].Cid = "other", "other" })
	p := a.events.wait(t, "published")
	require.Equal(t, "TR_a", p.sid)
	require.Equal(t, "cid-TR_a", p.info.Codecs[0].SdpCid)
}

// TestMatchByOrder: of several tracks that a client names differently in the description, none
// is lost. They are taken in the order of their announcements, after those that are named.
func TestMatchByOrder(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	a.join()
	sids := []string{"TR_c", "TR_a", "TR_named", "TR_b"}
	for _, sid := range sids {
		local, err := webrtc.NewTrackLocalStaticRTP(vp8, "cid-"+sid, "stream-"+sid)
		require.NoError(t, err)
		_, err = a.pub.AddTransceiverFromTrack(local, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
		require.NoError(t, err)
		pump(t, local)
	}
	for _, sid := range []string{"TR_named", "TR_c", "TR_a", "TR_b"} {
		cid := "other-" + sid
		if sid == "TR_named" {
			cid = "cid-" + sid
		}
		a.announce(&livekit.AddTrackRequest{Cid: cid, Type: livekit.TrackType_VIDEO}, &livekit.TrackInfo{Sid: sid, Type: livekit.TrackType_VIDEO})
	}
	a.offer(false)
	for range sids {
		p := a.events.wait(t, "published")
		if p.sid != "TR_named" {
			require.Equal(t, "cid-"+p.sid, p.info.Codecs[0].SdpCid)
		}
	}
}

// Media may be offered, and arrive, before it is announced.
func TestMediaBeforeAnnouncement(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		local, err := webrtc.NewTrackLocalStaticRTP(vp8, "early", "early")
		require.NoError(t, err)
		_, err = a.pub.AddTrack(local)
		require.NoError(t, err)
		a.offer(false)
		pump(t, local)
		require.Eventually(t, func() bool { return a.pub.SignalingState() == webrtc.SignalingStateStable }, patience, time.Millisecond)
		a.announce(&livekit.AddTrackRequest{Cid: "early", Type: livekit.TrackType_VIDEO},
			&livekit.TrackInfo{Sid: "TR_e", Type: livekit.TrackType_VIDEO})
		p := a.events.wait(t, "published")
		require.Equal(t, "video/VP8", p.info.MimeType)
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single})
		b.join()
		b.subscribe("PA_a", p)
		b.receives("PA_a", "TR_e")
	})
}

func TestUnpublishAndPublishAgain(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single})
		b.join()
		for i := range 3 {
			sid := "TR_" + string(rune('1'+i))
			local, err := webrtc.NewTrackLocalStaticRTP(vp8, "cid-"+sid, "s")
			require.NoError(t, err)
			if i == 0 { // one-way, so that it is inactive without its track
				_, err = a.pub.AddTransceiverFromTrack(local, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
			} else {
				n := len(a.pub.GetTransceivers())
				_, err = a.pub.AddTrack(local)
				require.Len(t, a.pub.GetTransceivers(), n, "the section is used again")
			}
			require.NoError(t, err)
			senders := a.pub.GetSenders()
			sender := senders[len(senders)-1]
			require.Equal(t, local, sender.Track())
			a.announce(&livekit.AddTrackRequest{Cid: "cid-" + sid, Type: livekit.TrackType_VIDEO,
				SimulcastCodecs: []*livekit.SimulcastCodec{{Codec: "VP8", Cid: "cid-" + sid}}},
				&livekit.TrackInfo{Sid: sid, Type: livekit.TrackType_VIDEO})
			a.offer(false)
			p := a.published(sid)
			pump(t, local)
			b.subscribe("PA_a", p)
			b.receives("PA_a", sid)
			require.NoError(t, a.pub.RemoveTrack(sender))
			a.offer(false)
			require.Equal(t, sid, a.events.wait(t, "unpublished").sid)
			b.peer.Unsubscribe(sid)
			// The section is offered idle repeatedly, and then used again.
			for range i + 1 {
				n := a.answered()
				a.offer(false)
				require.Eventually(t, func() bool { return a.answered() > n }, patience, time.Millisecond)
				b.renegotiate()
			}
			// Pion's state for simulcast is kept.
			closed := make(chan error, 1)
			for _, tr := range a.peer.pub.pc.GetTransceivers() {
				if tr.Sender() == nil && tr.Direction() == webrtc.RTPTransceiverDirectionInactive {
					go func() {
						_, _, err := tr.Receiver().Read(make([]byte, 1500))
						closed <- err
					}()
				}
			}
			select {
			case err := <-closed:
				require.NoError(t, err, "the receiver was stopped for good")
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
}

func (c *client) answered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.answers)
}

// renegotiate makes the server negotiate the client's subscriptions again, without a
// reason.
func (c *client) renegotiate() {
	c.peer.post(func() {
		if c.peer.sub != nil {
			c.peer.sub.dirty = true
		} else {
			c.peer.single.dirty = true
		}
	})
}

// After RemoveTrack, and without permission, no packets are forwarded.
func TestRemovedAndForbiddenMediaIsDropped(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	a.join()
	pump(t, a.publish("TR_1", opus, nil))
	p1 := a.events.wait(t, "published")
	b := newClient(t, e, clientConfig{sid: "PA_b", single: true})
	b.join()
	b.subscribe("PA_a", p1)
	r1 := b.receives("PA_a", "TR_1")
	b.peer.Unsubscribe("TR_1")

	a.peer.RemoveTrack("TR_1")
	silent := func(r remoteTrack) bool {
		require.NoError(t, r.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
		b := make([]byte, 1500)
		for {
			if _, _, err := r.Read(b); err != nil {
				return true
			}
		}
	}
	require.True(t, silent(r1))
	pump(t, a.publish("TR_2", opus, nil))
	p2 := a.published("TR_2")
	b.subscribe("PA_a", p2)
	r2 := b.receives("PA_a", "TR_2")
	a.peer.SetPublisherAllowed(false, true)
	require.True(t, silent(r2))
}

func TestOpusIsShapedByTheAnnouncement(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	a.publish("TR_1", opus, func(r *livekit.AddTrackRequest) { r.Stereo, r.DisableDtx = true, true })
	a.events.wait(t, "published")
	a.publish("TR_2", opus, nil)
	a.events.wait(t, "published")
	var sections []string
	require.Eventually(t, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		sections = strings.Split(a.answers[len(a.answers)-1].SDP, "m=audio")
		return len(sections) == 3
	}, patience, time.Millisecond)
	require.Contains(t, sections[1], "stereo=1;maxaveragebitrate=510000")
	require.NotContains(t, sections[1], "usedtx=1")
	require.Contains(t, sections[2], "usedtx=1")
	require.NotContains(t, sections[2], "stereo=1")
	require.Contains(t, sections[2], "rtcp-fb:111 nack\r\n")
}

// A client that sends another codec than it announced keeps the same track, with other
// media.
func TestAnotherCodecThanAnnounced(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	a.join()
	pcmu := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypePCMU, ClockRate: 8000}
	local := a.publish("TR_1", pcmu, func(r *livekit.AddTrackRequest) { r.SimulcastCodecs = nil })
	guess := a.published("TR_1")
	require.Equal(t, "audio/opus", guess.info.MimeType)
	pump(t, local)
	fact := a.published("TR_1")
	require.Equal(t, "audio/PCMU", fact.info.MimeType)
	require.Len(t, fact.info.Codecs, 1)
	require.NotSame(t, guess.track, fact.track)
	b := newClient(t, e, clientConfig{sid: "PA_b", single: true})
	b.join()
	b.subscribe("PA_a", fact)
	r := b.receives("PA_a", "TR_1")
	require.Equal(t, webrtc.MimeTypePCMU, r.Codec().MimeType)
	require.Never(t, func() bool { return len(a.events.ch) > 1 }, 100*time.Millisecond, 10*time.Millisecond)
}

// A second codec of the same track is announced later with the track's SID.
func TestBackupCodec(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	a.join()
	pump(t, a.publish("TR_v", webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP9, ClockRate: 90000, SDPFmtpLine: "profile-id=0"}, nil))
	p := a.events.wait(t, "published")
	require.Equal(t, "video/VP9", p.info.MimeType)

	backup, err := webrtc.NewTrackLocalStaticRTP(vp8, "backup", "stream")
	require.NoError(t, err)
	_, err = a.pub.AddTransceiverFromTrack(backup, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
	require.NoError(t, err)
	a.announce(&livekit.AddTrackRequest{
		Sid: "TR_v", Cid: "backup", Type: livekit.TrackType_VIDEO,
		SimulcastCodecs: []*livekit.SimulcastCodec{{Codec: "vp8", Cid: "backup"}},
	}, &livekit.TrackInfo{Sid: "TR_v", Type: livekit.TrackType_VIDEO})
	a.offer(false)
	pump(t, backup)
	require.Eventually(t, func() bool {
		p = a.events.wait(t, "published")
		return len(p.info.Codecs) == 2
	}, patience, time.Millisecond)
	require.Equal(t, "video/VP9", p.info.MimeType)
	require.Equal(t, "video/VP8", p.info.Codecs[1].MimeType)

	// A client without VP9 gets VP8.
	b := newClient(t, e, clientConfig{sid: "PA_b", single: true, codecs: func(m *webrtc.MediaEngine) error {
		return m.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: vp8, PayloadType: 96}, webrtc.RTPCodecTypeVideo)
	}, change: func(*PeerConfig) {}})
	b.joinVideoOnly()
	b.subscribe("PA_a", p)
	r := b.receives("PA_a", "TR_v")
	require.Equal(t, webrtc.MimeTypeVP8, r.Codec().MimeType)
}

// joinVideoOnly is join for a client that has only video codecs.
func (c *client) joinVideoOnly() {
	c.t.Helper()
	c.joinWith(webrtc.RTPCodecTypeVideo)
}

// joinWith is join for a client that has only codecs of that kind.
func (c *client) joinWith(kind webrtc.RTPCodecType) {
	c.t.Helper()
	_, err := c.pub.CreateDataChannel("_reliable", nil)
	require.NoError(c.t, err)
	c.mu.Lock()
	if c.single {
		c.addReceiverLocked(kind)
	}
	c.mu.Unlock()
	c.peer.Start()
	c.offer(false)
	c.events.wait(c.t, "connected")
}

func TestSubscriberLacksTheCodec(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		h265 := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeH265, ClockRate: 90000, SDPFmtpLine: ""}
		pump(t, a.publish("TR_v", h265, nil))
		p := a.events.wait(t, "published")
		pump(t, a.publish("TR_8", vp8, nil))
		p8 := a.published("TR_8")
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single, codecs: func(m *webrtc.MediaEngine) error {
			return m.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: vp8, PayloadType: 96}, webrtc.RTPCodecTypeVideo)
		}})
		b.joinVideoOnly()
		b.subscribe("PA_a", p)
		failed := b.events.wait(t, "failed")
		require.Equal(t, "TR_v", failed.sid)
		require.Equal(t, livekit.SubscriptionError_SE_CODEC_UNSUPPORTED, failed.err)
		b.subscribe("PA_a", p8) // other tracks are not affected
		b.receives("PA_a", "TR_8")
	})
}

// Browsers estimate the bandwidth only by our feedback, and accept only feedback that
// names one of their streams.
func TestCongestionFeedback(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a", single: true})
	a.join()
	local := a.publish("TR_1", vp8, nil)
	a.published("TR_1")
	var sender *webrtc.RTPSender
	for _, s := range a.pub.GetSenders() {
		if s.Track() == local {
			sender = s
		}
	}
	var id uint8
	for _, x := range sender.GetParameters().HeaderExtensions {
		if x.URI == uriTransportCC {
			id = uint8(x.ID)
		}
	}
	require.NotZero(t, id)
	feedback := make(chan *rtcp.TransportLayerCC, 1000)
	go func() {
		for {
			packets, _, err := sender.ReadRTCP()
			if err != nil {
				return
			}
			for _, p := range packets {
				if f, ok := p.(*rtcp.TransportLayerCC); ok {
					feedback <- f
				}
			}
		}
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for i := 0; ; i++ {
		p := &rtp.Packet{
			Header:  rtp.Header{Version: 2, Marker: true, SequenceNumber: uint16(i), Timestamp: uint32(i * 900)},
			Payload: []byte{0x10, 0x00, 0x00, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00},
		}
		require.NoError(t, p.SetExtension(id, []byte{byte(i >> 8), byte(i)}))
		require.NoError(t, local.WriteRTP(p))
		select {
		case <-tick.C:
		case f := <-feedback:
			require.EqualValues(t, sender.GetParameters().Encodings[0].SSRC, f.MediaSSRC)
			require.NotEmpty(t, f.RecvDeltas)
			return
		case <-deadline:
			require.FailNow(t, "no feedback")
		}
	}
}

// The codec that was found from the packets is kept, though the client announced none and
// negotiates again: later subscribers get it too.
func TestTheCodecThatCameHoldsAfterTheNextOffer(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single, codecs: func(m *webrtc.MediaEngine) error {
			if err := only(pcmuCodec)(m); err != nil { // pion then sends it, though Opus is negotiated
				return err
			}
			return m.RegisterDefaultCodecs()
		}})
		a.join()
		pump(t, a.publish("TR_a", pcmuCodec, func(r *livekit.AddTrackRequest) { r.SimulcastCodecs = nil }))
		require.Eventually(t, func() bool { return strings.EqualFold(a.published("TR_a").info.MimeType, pcmuCodec.MimeType) }, patience, time.Millisecond)
		pump(t, a.publish("TR_v", vp8, nil))
		a.published("TR_v")
		p := a.peer.pubTrack("TR_a")
		require.Equal(t, webrtc.MimeTypePCMU, (*p.codecs.Load())[0].MimeType)
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single})
		b.join()
		b.peer.Subscribe(rooms.Subscription{Track: p, Info: &livekit.TrackInfo{Sid: "TR_a"}, PublisherSID: "PA_a", PublisherIdentity: "id-PA_a"})
		require.Equal(t, webrtc.MimeTypePCMU, b.receives("PA_a", "TR_a").Codec().MimeType)
	})
}

// A client may repeat packets as they were, with the rid that they had (RFC 8852 wants the
// repaired rid instead). What is repeated belongs to the layer, and does not take its place.
func TestRepeatsWithTheRIDOfTheirLayer(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		relay, reroute := behindRelay(t, e)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single, interceptors: webrtc.ConfigureNack})
		a.reroute = reroute
		a.join()
		a.publishSimulcast("TR_s")
		for _, rid := range []string{"q", "h", "f"} {
			go func() { // until the connection is closed
				for {
					if _, _, err := a.pub.GetSenders()[0].ReadSimulcastRTCP(rid); err != nil { // the interceptors see what is read
						return
					}
				}
			}()
		}
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single})
		w := &watcher{t, make(chan byte, 100000)}
		b.onTrack = w.watch
		b.subscribe("PA_a", a.published("TR_s"))
		b.join()
		a.until("all layers come", func(s *PeerStats) bool { return len(s.Published) == 1 && len(s.Published[0].Layers) == 3 })
		w.until("the highest layer", 2)
		relay.SetUp(emulator.Conditions{Loss: 0.1})
		require.Eventually(t, func() bool {
			for _, l := range a.published("TR_s").info.Layers {
				if l.RepairSsrc == 0 || l.Ssrc == l.RepairSsrc {
					return false
				}
			}
			return true
		}, patience, time.Millisecond, "each layer is repaired by a stream")
		w.until("the highest layer goes on", 2)
		relay.SetUp(emulator.Conditions{})
		b.peer.SetTrackSettings([]string{"TR_s"}, rooms.TrackSettings{Quality: livekit.VideoQuality_LOW})
		w.until("the lowest layer has gone on", 0)
	})
}

// repairer sends what repairs a stream forwards, after the stream has begun: packets of another
// SSRC and payload type, with the rid of the layer that they belong to.
type repairer struct {
	interceptor.NoOp
	pt uint8
	on atomic.Bool
}

func (r *repairer) NewInterceptor(string) (interceptor.Interceptor, error) { return r, nil }

func (r *repairer) BindLocalStream(_ *interceptor.StreamInfo, w interceptor.RTPWriter) interceptor.RTPWriter {
	return interceptor.RTPWriterFunc(func(h *rtp.Header, payload []byte, a interceptor.Attributes) (int, error) {
		if !r.on.Load() {
			return w.Write(h, payload, a)
		}
		repair := h.Clone()
		repair.SSRC, repair.PayloadType = ^h.SSRC, r.pt
		if _, err := w.Write(&repair, payload, a); err != nil {
			return 0, err
		}
		return w.Write(h, payload, a)
	})
}

// A stream that repairs a layer forwards, and comes with the layer's rid, does not take its place,
// though we take no such streams. Nor does one whose payload type is anything but video.
func TestForwardErrorCorrectionWithTheRIDOfItsLayer(t *testing.T) {
	for _, pt := range []uint8{49, 63} {
		bothModes(t, func(t *testing.T, single bool) {
			e := newTestEngine(t, nil)
			r := &repairer{pt: pt}
			fec := func(_ *webrtc.MediaEngine, registry *interceptor.Registry) error {
				registry.Add(r)
				return nil
			}
			a := newClient(t, e, clientConfig{sid: "PA_a", single: single, interceptors: fec})
			a.join()
			a.publishSimulcast("TR_s")
			b := newClient(t, e, clientConfig{sid: "PA_b", single: single})
			w := &watcher{t, make(chan byte, 100000)}
			b.onTrack = w.watch
			b.subscribe("PA_a", a.published("TR_s"))
			b.join()
			w.until("the highest layer", 2)
			r.on.Store(true)
			for _, q := range []livekit.VideoQuality{livekit.VideoQuality_HIGH, livekit.VideoQuality_LOW, livekit.VideoQuality_MEDIUM} {
				b.peer.SetTrackSettings([]string{"TR_s"}, rooms.TrackSettings{Quality: q})
				w.until("the layer comes", byte(q))
			}
		})
	}
}

// repeater sends the first packet of each stream late: its retransmission comes before all others,
// with the rid of the layer.
type repeater struct{ interceptor.NoOp }

func (r *repeater) NewInterceptor(string) (interceptor.Interceptor, error) { return r, nil }

func (r *repeater) BindLocalStream(_ *interceptor.StreamInfo, w interceptor.RTPWriter) interceptor.RTPWriter {
	count := 0
	return interceptor.RTPWriterFunc(func(h *rtp.Header, payload []byte, a interceptor.Attributes) (int, error) {
		count++
		if count > 30 && count%2 != 0 {
			return w.Write(h, payload, a)
		}
		if count > 1 && count <= 30 {
			return len(payload), nil // there is time for the first to be taken
		}
		again := h.Clone()
		again.SSRC, again.PayloadType = ^h.SSRC, h.PayloadType+1
		return w.Write(&again, append(binary.BigEndian.AppendUint16(nil, h.SequenceNumber), payload...), a)
	})
}

// The stream that repairs a layer may come before the layer does, with its rid: where the first
// packets are lost, for one. Its packets are the layer's.
func TestARepairThatComesBeforeItsLayer(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single, interceptors: func(_ *webrtc.MediaEngine, r *interceptor.Registry) error {
			r.Add(&repeater{})
			return nil
		}})
		a.join()
		a.publishSimulcast("TR_s")
		a.until("repairs are taken", func(s *PeerStats) bool {
			return len(s.Published) == 1 && len(s.Published[0].Layers) == 3 &&
				!slices.ContainsFunc(s.Published[0].Layers, func(l forward.LayerStats) bool { return l.Packets < 200 || l.Lost > 60 })
		})
	})
}
