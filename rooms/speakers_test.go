package rooms_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// A simulated speaker is shown to itself and to its subscribers, for the requested time.
func TestSimulatedSpeaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		alice, bob := h.join("r", "alice"), h.join("r", "bob")
		deaf := h.join("r", "deaf", func(r *rooms.JoinRequest) { r.AutoSubscribe = false })
		alice.publish(t, "mic", livekit.TrackSource_MICROPHONE)
		shown := func(c *client) *livekit.SpeakerInfo {
			changed := find(c, (*livekit.SignalResponse).GetSpeakersChanged)
			if changed == nil {
				return nil
			}
			require.Len(t, changed.Speakers, 1)
			return changed.Speakers[0]
		}
		alice.SimulateSpeaker(3 * time.Second)
		alice.SimulateSpeaker(3 * time.Second) // requested again, and not announced again
		for at := range 3 {
			synctest.Wait()
			for _, c := range []*client{alice, bob} {
				require.NotNil(t, shown(c), "after %d s", at)
				require.Equal(t, alice.SID(), shown(c).Sid)
				require.True(t, shown(c).Active)
				require.Positive(t, shown(c).Level)
			}
			time.Sleep(900 * time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for _, c := range []*client{alice, bob} {
			require.False(t, shown(c).Active)
			require.Zero(t, shown(c).Level)
		}
		require.Nil(t, shown(deaf))

		// A participant that sends nothing is shown only to itself, also in a room
		// without audio.
		dan := h.join("silent", "dan")
		dan.SimulateSpeaker(time.Second)
		synctest.Wait()
		require.True(t, shown(dan).Active)
		dan.SimulateSpeaker(0)
		time.Sleep(time.Second)
		synctest.Wait()
		require.False(t, shown(dan).Active)
	})
}
