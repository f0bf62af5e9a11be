package media

import (
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/interceptor"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/media/emulator"
)

// A NAT gives a client another port in the middle of a call. The client does not notice,
// so ICE does not restart, but the next check of the client's tells where it is: picture,
// feedback and data go on.
func TestAClientThatMovesKeepsItsMedia(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, func(c *Config) { c.ICEDisconnected = time.Hour }) // nothing else may help
		a := newClient(t, e, clientConfig{sid: "PA_a"})
		a.join()
		a.perform("TR_v", vp8, ivfFrames(t, "testdata/picture.ivf"), time.Second/15, 30*time.Millisecond)
		relay, reroute := behindRelay(t, e)
		relay.SetDown(emulator.Conditions{Delay: 5 * time.Millisecond})
		v := &viewer{}
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single, settings: func(s *webrtc.SettingEngine) {
			s.SetICETimeouts(time.Hour, time.Hour, 500*time.Millisecond)
		}, interceptors: func(m *webrtc.MediaEngine, r *interceptor.Registry) error { return webrtc.ConfigureTWCCSender(m, r) }})
		b.reroute, b.onTrack = reroute, v.watch
		b.join()
		b.channel("_reliable")
		b.subscribe("PA_a", a.published("TR_v"))
		shown := func(why string) {
			t.Helper()
			frames, _ := v.seen()
			require.Eventually(t, func() bool { now, _ := v.seen(); return now >= frames+30 }, time.Minute, 10*time.Millisecond, why)
		}
		shown("at first")
		down := b.sub
		if single {
			down = b.pub
		}
		before := ufrag(t, down.CurrentRemoteDescription())
		for range 2 {
			require.NoError(t, relay.Rebind())
			shown("it has moved")
			b.peer.SendData(a.peer, livekit.DataPacket_RELIABLE, []byte("to there"))
			require.Equal(t, "to there", string(b.message().data))
		}
		require.Equal(t, before, ufrag(t, down.CurrentRemoteDescription()), "ICE has not restarted")
	})
}
