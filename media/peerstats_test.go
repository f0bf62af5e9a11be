package media

import (
	"fmt"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/interceptor"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/rooms"

	"parlor/media/forward"
)

// until waits until a peer's statistics are right.
func (c *client) until(why string, right func(s *PeerStats) bool) {
	c.t.Helper()
	var last PeerStats
	require.Eventually(c.t, func() bool {
		var err error
		last, err = c.peer.Stats(c.t.Context())
		require.NoError(c.t, err)
		return right(&last)
	}, time.Minute, 20*time.Millisecond, why)
}

// untilShort waits until one subscription has that shortfall.
func (c *client) untilShort(sid string, want forward.Shortfall) {
	c.t.Helper()
	c.until(fmt.Sprintf("%s: %q", sid, want), func(s *PeerStats) bool {
		for _, sub := range s.Subscriptions {
			if sub.SID == sid {
				return sub.Negotiated && sub.Forwarded.Shortfall == want
			}
		}
		return false
	})
}

// The statistics show the packets of each track in both directions while they flow, and
// the reason why a lower quality than wanted is forwarded.
func TestStatsTellTheTruth(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.layerSizes = [3]int{190, 500, 1100} // 150, 400, 880 kbit/s
		a.join()
		a.publishSimulcast("TR_s")
		camera := a.published("TR_s")
		pump(t, a.publish("TR_m", opus, nil))
		microphone := a.published("TR_m")
		b := newClient(t, e, clientConfig{
			sid: "PA_b", single: single, change: func(c *PeerConfig) { c.AllowPause = true },
			interceptors: func(m *webrtc.MediaEngine, r *interceptor.Registry) error { return webrtc.ConfigureTWCCSender(m, r) },
		})
		b.onTrack = func(r *webrtc.TrackRemote) { drain(r, func([]byte) {}) }
		b.join()
		b.subscribe("PA_a", camera)
		b.subscribe("PA_a", microphone)

		a.until("what comes", func(s *PeerStats) bool {
			if len(s.Published) != 2 || len(s.Published[0].Layers) != 1 || len(s.Published[1].Layers) != 3 {
				return false
			}
			low, high := &s.Published[1].Layers[0], &s.Published[1].Layers[2]
			return s.Up == "udp" && s.Published[0].SID == "TR_m" && s.Published[0].Layers[0].MimeType == webrtc.MimeTypeOpus &&
				low.Live && high.Live && low.Width == 320 && high.Height == 720 && high.KeyFrames > 0 &&
				low.Bitrate > 0 && high.Bitrate > 2*low.Bitrate && s.Published[0].Layers[0].Bitrate > 0
		})
		b.until("what goes out", func(s *PeerStats) bool {
			if len(s.Subscriptions) != 2 || len(s.Published) != 0 {
				return false
			}
			video, audio, down := &s.Subscriptions[0].Forwarded, &s.Subscriptions[1].Forwarded, &s.Downlink
			return s.Down == "udp" && s.Subscriptions[0].PublisherSID == "PA_a" &&
				video.Current == livekit.VideoQuality_HIGH && video.Shortfall == "" && video.Height == 720 && video.FPS > 0 && video.Bitrate > 0 &&
				audio.Shortfall == "" && audio.Bitrate > 0 &&
				down.Connected && down.Sent > 0 && down.Acknowledged > 0 && down.RTT > 0
		})
		b.peer.SetTrackSettings([]string{"TR_s"}, rooms.TrackSettings{Disabled: true})
		b.untilShort("TR_s", forward.NotAskedFor)
		b.peer.SetTrackSettings([]string{"TR_s"}, rooms.TrackSettings{Quality: livekit.VideoQuality_HIGH})
		b.untilShort("TR_s", "")
		a.setMuted("TR_s", true)
		b.untilShort("TR_s", forward.Muted)
		a.setMuted("TR_s", false)
		b.untilShort("TR_s", "")
		b.peer.LimitDownlink(700_000)
		b.untilShort("TR_s", forward.Bandwidth)
		b.peer.LimitDownlink(60_000)
		b.untilShort("TR_s", forward.Paused)
		b.until("it is counted", func(s *PeerStats) bool {
			return s.Subscriptions[0].Forwarded.Pauses == 1 && s.Downlink.Paused == 1 && s.Quality == livekit.ConnectionQuality_POOR
		})
		b.peer.LimitDownlink(0)
		b.untilShort("TR_s", "")
		b.close()
		_, err := b.peer.Stats(t.Context())
		require.ErrorIs(t, err, ErrPeerClosed)
	})
}
