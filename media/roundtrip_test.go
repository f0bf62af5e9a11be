package media

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/media/emulator"
)

// The layers of a publisher know the round trip to it from the beginning, and follow it,
// whether or not a packet was lost.
func TestLayersKnowTheRoundTripToTheirPublisher(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		relay, reroute := behindRelay(t, e)
		far := func(delay time.Duration) {
			relay.SetUp(emulator.Conditions{Delay: delay})
			relay.SetDown(emulator.Conditions{Delay: delay})
		}
		far(100 * time.Millisecond)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.reroute = reroute
		a.join()
		pump(t, a.publish("TR_s", opus, nil))
		a.published("TR_s")
		var first time.Duration
		a.until("it is sent", func(s *PeerStats) bool {
			l := s.Published[0].Layers
			if len(l) > 0 {
				first = l[0].RTT
			}
			return len(l) > 0
		})
		require.GreaterOrEqual(t, first, 200*time.Millisecond)
		far(10 * time.Millisecond)
		a.until("it is near", func(s *PeerStats) bool { return s.Published[0].Layers[0].RTT < 180*time.Millisecond })
	})
}
