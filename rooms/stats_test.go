package rooms_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

func TestStatsFollowWhatHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		is := func(want rooms.Stats) {
			t.Helper()
			synctest.Wait() // a room updates its counts after it has done its tasks
			got := h.Stats()
			got.Scores, got.ScoreSum = 0, 0 // of connections, which go on while time passes
			require.Equal(t, want, got)
		}
		is(rooms.Stats{})
		h.join("tea", "ann")
		bob := h.join("tea", "bob")
		h.join("coffee", "cy")
		is(rooms.Stats{Live: 2, Participants: 3})
		bob.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
		is(rooms.Stats{Live: 2, Participants: 2})

		h.restart()
		is(rooms.Stats{Live: 2, ExpectedBack: 2})
		h.join("tea", "ann")
		is(rooms.Stats{Live: 2, Participants: 1, ExpectedBack: 1})
		time.Sleep(2 * time.Minute) // cy does not return
		is(rooms.Stats{Live: 1, Participants: 1})
		require.NoError(t, h.Delete(t.Context(), "tea"))
		is(rooms.Stats{})
	})
}

func TestConditionalClose(t *testing.T) {
	h := newHouse(t)
	first, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "tea"})
	require.NoError(t, err)
	with := func(metadata string) func(*rooms.Record) bool {
		return func(r *rooms.Record) bool { return r.SID == first.Sid && r.Metadata == metadata }
	}
	metadata := "changed"
	_, err = h.Edit(t.Context(), "tea", rooms.RoomEdit{Metadata: &metadata, If: with("")})
	require.NoError(t, err)

	require.Equal(t, rooms.Precondition, rooms.ErrorCode(h.Rooms.Delete(t.Context(), "tea", with(""))))
	_, err = h.Edit(t.Context(), "tea", rooms.RoomEdit{Metadata: &metadata, If: with("")})
	require.Equal(t, rooms.Precondition, rooms.ErrorCode(err))
	require.NoError(t, h.Rooms.Delete(t.Context(), "tea", with("changed")))
	require.Equal(t, rooms.NotFound, rooms.ErrorCode(h.Rooms.Delete(t.Context(), "tea", nil)))
}

// TestARoomThatHangsIsCounted, and none that only waits.
func TestARoomThatHangsIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.join("stuck", "ada")
		h.join("well", "bob")
		release, held := make(chan struct{}), make(chan error, 1)
		go func() {
			held <- h.Rooms.Delete(t.Context(), "stuck", func(*rooms.Record) bool {
				<-release
				return false
			})
		}()
		synctest.Wait()
		time.Sleep(9 * time.Second)
		require.Zero(t, h.Stats().Stuck)
		time.Sleep(2 * time.Second)
		require.Equal(t, 1, h.Stats().Stuck)
		close(release)
		require.Error(t, <-held)
		synctest.Wait()
		require.Zero(t, h.Stats().Stuck)
	})
}
