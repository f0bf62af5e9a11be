package rooms_test

import (
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

func named(name string) func(*rooms.JoinRequest) {
	return func(r *rooms.JoinRequest) { r.Info.Name = name }
}

// occupants asks as somebody who is about to join.
func (h *house) occupants(identity string, anyway bool, names int) (rooms.Occupants, error) {
	return h.Occupants(h.t.Context(), &rooms.JoinRequest{Room: "tea", Info: &livekit.ParticipantInfo{Identity: identity}}, anyway, names)
}

// Occupants are the visible people of a room, in the order of their joins. A restart changes
// nothing of it.
func TestOccupants(t *testing.T) {
	h := newHouse(t)
	empty, err := h.occupants("eve", false, 9)
	require.NoError(t, err)
	require.Equal(t, rooms.Occupants{}, empty)
	h.none("tea")

	h.join("tea", "ann", named("Ann"))
	h.join("tea", "nameless")
	h.join("tea", "bob", named("Bob"))
	h.join("tea", "spy", named("Spy"), func(r *rooms.JoinRequest) { r.Info.Permission.Hidden = true })
	h.join("tea", "bot", named("Bot"), func(r *rooms.JoinRequest) { r.Info.Kind = livekit.ParticipantInfo_AGENT })
	want := rooms.Occupants{Count: 3, Names: []string{"Ann", "Bob"}}
	told := func() {
		t.Helper()
		found, err := h.occupants("eve", false, 9)
		require.NoError(t, err)
		require.Equal(t, want, found)
	}
	told()
	first, err := h.occupants("eve", false, 1)
	require.NoError(t, err)
	require.Equal(t, rooms.Occupants{Count: 3, Names: []string{"Ann"}}, first)
	again, err := h.occupants("ann", false, 9)
	require.NoError(t, err)
	require.Equal(t, rooms.Occupants{Count: 2, Names: []string{"Bob"}}, again, "it would take its own place")

	recorder := h.join("tea", "tape", func(r *rooms.JoinRequest) { r.Info.Kind = livekit.ParticipantInfo_EGRESS })
	want.Recorded = true
	told()
	recorder.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
	recorder.Sync()
	want.Recorded = false
	told()

	h.flush("tea")
	h.restart()
	told()
}

// A caller that the room would not let in gets the error of the join, unless it may know anyway.
func TestOccupantsAreForThoseWhoMayJoin(t *testing.T) {
	h := newHouse(t)
	yes, one := true, uint32(1)
	_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "tea", MaxParticipants: one})
	require.NoError(t, err)
	h.join("tea", "ann", named("Ann"))
	want := rooms.Occupants{Count: 1, Names: []string{"Ann"}}
	for _, c := range []struct {
		code  rooms.Code
		close func()
	}{
		{rooms.Exhausted, func() {}},
		{rooms.Denied, func() {
			_, err := h.Edit(t.Context(), "tea", rooms.RoomEdit{Locked: &yes})
			require.NoError(t, err)
		}},
	} {
		c.close()
		found, err := h.occupants("eve", false, 9)
		require.Equal(t, c.code, rooms.ErrorCode(err))
		require.Equal(t, rooms.Occupants{}, found)
		found, err = h.occupants("eve", true, 9)
		require.NoError(t, err)
		require.Equal(t, want, found)
	}
	back, err := h.occupants("ann", false, 9)
	require.NoError(t, err, "who is there comes back into a locked room")
	require.Equal(t, rooms.Occupants{}, back)
}
