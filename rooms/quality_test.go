package rooms_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
)

// Whoever subscribes when nobody's connection changes any more is told how those
// are that it hears.
func TestALateSubscriberIsToldOfQualities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		alice, bob := h.join("r", "alice"), h.join("r", "bob")
		told := func() map[string]bool {
			time.Sleep(6 * time.Second)
			synctest.Wait()
			update := find(bob, (*livekit.SignalResponse).GetConnectionQuality)
			require.NotNil(t, update)
			sids := map[string]bool{}
			for _, info := range update.Updates {
				sids[info.ParticipantSid] = true
			}
			return sids
		}
		require.Equal(t, map[string]bool{bob.SID(): true}, told())
		alice.publish(t, "mic", livekit.TrackSource_MICROPHONE)
		require.Equal(t, map[string]bool{alice.SID(): true, bob.SID(): true}, told())

		before := len(bob.messages)
		require.Equal(t, map[string]bool{alice.SID(): true, bob.SID(): true}, told())
		require.Len(t, bob.messages, before, "and not again")
	})
}
