package rooms_test

import (
	"context"
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
			synctest.Wait() // a room tallies when it has done what was asked
			require.Equal(t, want, h.Stats())
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
		time.Sleep(2 * time.Minute) // cy does not come back
		is(rooms.Stats{Live: 1, Participants: 1})
		require.NoError(t, h.Delete(t.Context(), "tea"))
		is(rooms.Stats{})
	})
}

func TestConditionalClose(t *testing.T) {
	h := newHouse(t)
	first, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "tea"})
	require.NoError(t, err)
	rec, err := h.store.FindOpen(t.Context(), "tea")
	require.NoError(t, err)
	old := rec.Version
	metadata := "changed"
	rec, err = h.Edit(t.Context(), "tea", rooms.RoomEdit{Metadata: &metadata, IfSID: first.Sid, IfVersion: &old})
	require.NoError(t, err)

	require.Equal(t, rooms.Precondition, rooms.ErrorCode(h.DeleteIf(t.Context(), "tea", first.Sid, &old)))
	require.Equal(t, rooms.Precondition, rooms.ErrorCode(h.DeleteIf(t.Context(), "tea", "RM_other", nil)))
	_, err = h.Edit(t.Context(), "tea", rooms.RoomEdit{Metadata: &metadata, IfSID: "RM_other"})
	require.Equal(t, rooms.Precondition, rooms.ErrorCode(err))
	_, err = h.Edit(t.Context(), "tea", rooms.RoomEdit{Metadata: &metadata, IfVersion: &old})
	require.Equal(t, rooms.Precondition, rooms.ErrorCode(err))
	require.NoError(t, h.DeleteIf(context.Background(), "tea", first.Sid, &rec.Version))
	require.Equal(t, rooms.NotFound, rooms.ErrorCode(h.DeleteIf(t.Context(), "tea", first.Sid, nil)))
}
