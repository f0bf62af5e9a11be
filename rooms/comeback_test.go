package rooms_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
)

// TestComingBackTakesSeveralTries: a participant that rejoins after a restart and is lost
// again before its media connects may try again, as often as the grace period allows.
func TestComingBackTakesSeveralTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
		ann.publish(t, "cam", livekit.TrackSource_CAMERA)
		h.restart()

		first, err := h.try("tea", "ann")
		require.NoError(t, err)
		first.publish(t, "cam", livekit.TrackSource_CAMERA) // negotiated, not connected
		first.SignalLost()
		second, err := h.try("tea", "ann")
		require.NoError(t, err)
		third := h.join("tea", "ann") // the server still holds the second for connected
		require.Equal(t, livekit.DisconnectReason_DUPLICATE_IDENTITY, second.leave().Reason)
		for _, c := range []*client{first, second, third} {
			require.Equal(t, ann.SID(), c.SID())
			require.True(t, c.snap.Resumed)
			// Other participants may know versions that were never written.
			require.Greater(t, c.snap.Self.Version, ann.snap.Self.Version+100)
		}
		lost, err := h.try("tea", "bob")
		require.NoError(t, err)
		require.Equal(t, bob.SID(), lost.SID())
		lost.SignalLost() // and bob is not seen again
		require.EqualValues(t, 2, h.one("tea").NumParticipants)

		time.Sleep(61 * time.Second)
		require.EqualValues(t, 1, h.one("tea").NumParticipants)
		require.Zero(t, h.one("tea").NumPublishers)
		require.Equal(t, []string{
			"room_started", "participant_joined ann", "participant_joined bob",
			"track_published ann", "track_unpublished ann",
			"track_published ann", "track_unpublished ann",
			"participant_left bob",
		}, h.events("tea"))

		// After the grace period the usual rule applies.
		third.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
		again, err := h.try("tea", "ann")
		require.NoError(t, err)
		require.NotEqual(t, ann.SID(), again.SID())
	})
}
