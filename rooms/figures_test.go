package rooms_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms/log"
)

// TestARoomsFigures: the numbers of joins and of simultaneous participants are exact,
// through restarts and all ways of joining and leaving.
func TestARoomsFigures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		figures := func(sid string, joined, peak int) {
			t.Helper()
			synctest.Wait() // all changes are on disk
			rec, err := h.store.GetBySID(t.Context(), sid)
			require.NoError(t, err)
			require.Equal(t, [2]int{joined, peak}, [2]int{int(rec.NumJoined), int(rec.PeakParticipants)})
			require.Len(t, h.log(log.ParticipantJoined), joined)
		}
		leaves := func(c *client) {
			c.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
			c.Sync()
		}
		ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
		sid := h.one("tea").Sid
		figures(sid, 2, 2)
		leaves(bob)
		h.join("tea", "cas")
		figures(sid, 3, 2)
		h.join("tea", "ann") // replaces the first
		require.NotNil(t, ann.leave())
		figures(sid, 4, 2)

		h.restart()
		ann = h.join("tea", "ann") // returns, which is not a new join
		figures(sid, 4, 2)
		leaves(h.join("tea", "dan"))
		figures(sid, 5, 3)
		_, err := h.try("tea", "eve") // she does not complete the join, but counts as present
		require.NoError(t, err)
		time.Sleep(2 * time.Minute) // neither she nor cas returns
		figures(sid, 5, 3)
		leaves(ann)
		time.Sleep(time.Minute)
		figures(sid, 5, 3)
	})
}
