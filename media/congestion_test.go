package media

import (
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
)

// Layers follow the bandwidth of a client that tells of packets by their streams
// (RFC 8888), as they do by transport-wide feedback.
func TestLayersFollowFeedbackByStreams(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a"})
		a.layerSizes = [3]int{190, 500, 1100} // 150, 400, 880 kbit/s
		a.join()
		a.publishSimulcast("TR_s")
		published := a.published("TR_s")

		relay, reroute := behindRelay(t, e)
		way := func(rate float64) {
			relay.SetDown(emulator.Conditions{Rate: rate, Queue: 300 * time.Millisecond, Delay: 20 * time.Millisecond})
		}
		relay.SetUp(emulator.Conditions{Delay: 20 * time.Millisecond})
		way(20e6)
		w := &watcher{t, make(chan byte, 1000)}
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single, interceptors: func(m *webrtc.MediaEngine, r *interceptor.Registry) error {
			return webrtc.ConfigureCongestionControlFeedback(m, r)
		}})
		b.reroute, b.onTrack = reroute, w.watch
		b.join()
		b.subscribe("PA_a", published)
		w.until("20 Mbit/s", 2)
		down := b.sub
		if single {
			down = b.pub
		}
		require.Contains(t, down.RemoteDescription().SDP, "a=rtcp-fb:* ack ccfb\r\n")
		b.until("it is judged by it", func(s *PeerStats) bool { return s.Downlink.Acknowledged > 0 && s.Downlink.RTT > 0 })
		way(600e3)
		w.until("600 kbit/s", 0, 1)
		relay.TakeDown()
		require.Less(t, w.share(2, 300), 0.2, "it is not tried again and again what does not fit")
		require.Less(t, relay.TakeDown().Dropped, 30, "the queue does not overflow")
		way(20e6)
		w.until("20 Mbit/s again", 2)
	})
}

// In a section in which the client sends, too, our answer refuses feedback by streams. None is
// waited for then: what the path carries would be guessed, and nothing would confirm the guess.
func TestNoFeedbackByStreamsWhereTheClientSends(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	pump(t, a.publish("TR_v", vp8, nil))
	b := newClient(t, e, clientConfig{sid: "PA_b", single: true, interceptors: func(m *webrtc.MediaEngine, r *interceptor.Registry) error {
		return webrtc.ConfigureCongestionControlFeedback(m, r)
	}})
	b.reword = func(offer string) string {
		return withoutLines(offer, func(line string) bool { return strings.Contains(line, uriTransportCC) })
	}
	_, err := b.pub.CreateDataChannel("_reliable", nil)
	require.NoError(t, err)
	local, err := webrtc.NewTrackLocalStaticRTP(vp8, "cid-TR_w", "stream")
	require.NoError(t, err)
	_, err = b.pub.AddTransceiverFromTrack(local)
	require.NoError(t, err)
	b.announce(&livekit.AddTrackRequest{Cid: local.ID(), Type: livekit.TrackType_VIDEO}, &livekit.TrackInfo{Sid: "TR_w", Type: livekit.TrackType_VIDEO})
	b.subscribe("PA_a", a.published("TR_v"))
	b.peer.Start()
	b.offer(false)
	b.events.wait(t, "connected")
	require.Contains(t, b.pub.LocalDescription().SDP, "ack ccfb")
	require.Contains(t, b.pub.RemoteDescription().SDP, "a=sendrecv")
	require.NotContains(t, b.pub.RemoteDescription().SDP, "ccfb")
	b.until("it flows", func(s *PeerStats) bool {
		require.Zero(t, s.Downlink.Estimate, s.Downlink.Cause)
		return s.Subscriptions[0].Forwarded.Packets > 100
	})
}

// Whether feedback by streams is taken follows each negotiation: a client that begins to send in a
// section is believed no longer, whatever it reports, and again when it has stopped. The bandwidth
// is not held to what was reported until then.
func TestFeedbackByStreamsFollowsTheNegotiation(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.join()
	pump(t, a.publish("TR_v", vp8, nil))
	b := newClient(t, e, clientConfig{sid: "PA_b", single: true, interceptors: func(m *webrtc.MediaEngine, r *interceptor.Registry) error {
		return webrtc.ConfigureCongestionControlFeedback(m, r)
	}})
	b.reword = func(offer string) string {
		return withoutLines(offer, func(line string) bool { return strings.Contains(line, uriTransportCC) })
	}
	b.onTrack = func(r *webrtc.TrackRemote) { drain(r, func([]byte) {}) }
	b.join()
	b.subscribe("PA_a", a.published("TR_v"))
	believed := func(s *PeerStats) bool { return s.Downlink.Estimate > 0 && s.Downlink.Acknowledged > 0 }
	b.until("it is told of", believed)
	var ours *webrtc.RTPTransceiver
	for _, tr := range b.pub.GetTransceivers() {
		if r := tr.Receiver(); r != nil && r.Track() != nil && r.Track().ID() == "TR_v" {
			ours = tr
		}
	}
	require.NotNil(t, ours)
	local, err := webrtc.NewTrackLocalStaticRTP(vp8, "cid-TR_w", "stream")
	require.NoError(t, err)
	sender, err := b.pub.AddTrack(local)
	require.NoError(t, err)
	require.Same(t, sender, ours.Sender(), "it sends in the section in which it receives")
	b.announce(&livekit.AddTrackRequest{Cid: local.ID(), Type: livekit.TrackType_VIDEO}, &livekit.TrackInfo{Sid: "TR_w", Type: livekit.TrackType_VIDEO})
	b.offer(false)
	b.until("the negotiation is over", func(s *PeerStats) bool { return s.Downlink.Estimate == 0 })
	var packets uint64
	b.until("it flows", func(s *PeerStats) bool {
		require.Zero(t, s.Downlink.Estimate, s.Downlink.Cause)
		if packets == 0 {
			packets = s.Subscriptions[0].Forwarded.Packets
		}
		return s.Subscriptions[0].Forwarded.Packets > packets+100
	})
	require.NoError(t, b.pub.RemoveTrack(sender))
	b.offer(false)
	b.until("it is told of again", believed)
}

// Feedback tells of sound, too, where there is a picture on the path: here it tells of nothing
// else, since the camera sends nothing.
func TestFeedbackTellsOfSound(t *testing.T) {
	t.Parallel()
	for name, takes := range map[string]func(*webrtc.MediaEngine, *interceptor.Registry) error{
		"numbers": webrtc.ConfigureTWCCSender,
		"streams": func(m *webrtc.MediaEngine, r *interceptor.Registry) error {
			m.RegisterFeedback(webrtc.RTCPFeedback{Type: "ack", Parameter: "ccfb"}, webrtc.RTPCodecTypeAudio)
			return webrtc.ConfigureCongestionControlFeedback(m, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bothModes(t, func(t *testing.T, single bool) {
				e := newTestEngine(t, nil)
				a := newClient(t, e, clientConfig{sid: "PA_a"})
				a.join()
				pump(t, a.publish("TR_s", opus, nil))
				a.publish("TR_v", vp8, nil)
				b := newClient(t, e, clientConfig{sid: "PA_b", single: single, interceptors: takes})
				b.onTrack = func(r *webrtc.TrackRemote) { drain(r, func([]byte) {}) }
				b.join()
				b.subscribe("PA_a", a.published("TR_s"))
				b.subscribe("PA_a", a.published("TR_v"))
				b.until("it is told of", func(s *PeerStats) bool { return s.Downlink.Acknowledged > 0 && s.Downlink.RTT > 0 })
			})
		})
	}
}

// A client that takes transport-wide feedback for pictures alone gets sound without numbers: it
// would be taken for one that loses all sound. Its pictures are as others'.
func TestSoundThatIsNotReportedOnHasNoNumbers(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a"})
		a.join()
		pump(t, a.publish("TR_s", opus, nil))
		pump(t, a.publish("TR_v", vp8, nil))
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single, interceptors: func(m *webrtc.MediaEngine, r *interceptor.Registry) error {
			return webrtc.ConfigureTWCCSender(m, r)
		}})
		b.reword = func(text string) string { // the extension itself is not refused
			sections := cutSections(text)
			for i, s := range sections {
				if strings.HasPrefix(s[0], "m=audio") {
					sections[i] = s.without(func(line string) bool { return isFeedbackLine(line, "transport-cc") })
				}
			}
			return joinSections(sections)
		}
		b.reanswer = b.reword
		var numbered, plain [2]atomic.Int64 // packets of sound, and of pictures
		b.onTrack = func(r *webrtc.TrackRemote) {
			of := int(r.Kind() - webrtc.RTPCodecTypeAudio)
			drain(r, func(raw []byte) {
				var h rtp.Header
				if _, err := h.Unmarshal(raw); err != nil {
					return
				}
				if len(h.GetExtension(numberOf(b, r))) == 2 {
					numbered[of].Add(1)
				} else {
					plain[of].Add(1)
				}
			})
		}
		b.join()
		b.subscribe("PA_a", a.published("TR_s"))
		b.subscribe("PA_a", a.published("TR_v"))
		b.until("both come, and pictures are told of", func(s *PeerStats) bool {
			return plain[0].Load() > 150 && numbered[1].Load() > 150 && s.Downlink.Acknowledged > 0
		})
		require.Zero(t, numbered[0].Load())
		require.Zero(t, plain[1].Load())
		s, err := b.peer.Stats(t.Context())
		require.NoError(t, err)
		require.Zero(t, s.Downlink.Loss)
		require.Zero(t, s.Downlink.Paused)
	})
}

// numberOf is the id of the transport-wide number in the packets of a track.
func numberOf(c *client, r *webrtc.TrackRemote) uint8 {
	pc := c.pub
	if !c.single {
		pc = c.sub
	}
	for _, receiver := range pc.GetReceivers() {
		if receiver.Track() == r {
			return extensionIDs(receiver.GetParameters().HeaderExtensions).TransportCC
		}
	}
	return 0
}

// A client that has nothing but an estimate of its own (REMB) is gone by that.
func TestLayersFollowTheReceiversEstimate(t *testing.T) {
	e := newTestEngine(t, nil)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.layerSizes = [3]int{190, 500, 1100}
	a.join()
	a.publishSimulcast("TR_s")
	b := newClient(t, e, clientConfig{sid: "PA_b"})
	w := &watcher{t, make(chan byte, 1000)}
	b.onTrack = w.watch
	b.join()
	b.subscribe("PA_a", a.published("TR_s"))
	w.until("nothing is said", 2)
	require.NotContains(t, b.sub.LocalDescription().SDP, "transport-cc")
	stop, done := make(chan struct{}), make(chan struct{})
	defer func() { close(stop); <-done }()
	go func() {
		defer close(done)
		for tick := time.NewTicker(200 * time.Millisecond); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
			}
			_ = b.sub.WriteRTCP([]rtcp.Packet{&rtcp.ReceiverEstimatedMaximumBitrate{ // fails at the end
				Bitrate: 300e3, SSRCs: []uint32{uint32(b.sub.GetReceivers()[0].Track().SSRC())},
			}})
		}
	}()
	w.until("300 kbit/s", 0)
	b.until("it is named", func(s *PeerStats) bool { return s.Downlink.Cause == "receiver" })
}

// A publisher whose uplink narrows is told so by its connection's quality, and when it is
// wide again.
func TestANarrowUplinkIsTold(t *testing.T) {
	e := newTestEngine(t, nil)
	relay, reroute := behindRelay(t, e)
	a := newClient(t, e, clientConfig{sid: "PA_a"})
	a.reroute = reroute
	a.layerSizes = [3]int{190, 500, 1100}
	a.join()
	a.publishSimulcast("TR_s")
	a.published("TR_s")
	told := func(why string, want livekit.ConnectionQuality) {
		t.Helper()
		require.Eventually(t, func() bool {
			q, _ := a.peer.Quality()
			return q == want
		}, time.Minute, 20*time.Millisecond, why)
	}
	a.until("all layers come", func(s *PeerStats) bool { return len(s.Published) == 1 && len(s.Published[0].Layers) == 3 })
	told("there is room", livekit.ConnectionQuality_EXCELLENT)
	relay.SetUp(emulator.Conditions{Rate: 500e3, Queue: 300 * time.Millisecond})
	told("there is not", livekit.ConnectionQuality_POOR)
	relay.SetUp(emulator.Conditions{})
	told("there is room again", livekit.ConnectionQuality_EXCELLENT)
	require.False(t, strings.Contains(a.pub.RemoteDescription().SDP, "ccfb"), "nobody here makes reports of that kind")
}
