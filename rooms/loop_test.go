package rooms_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// TestWhatCameFromAnotherIsNotSentOn: a packet that names another sender comes back
// from a client that was told it, and would go round for ever.
func TestWhatCameFromAnotherIsNotSentOn(t *testing.T) {
	h := newHouse(t)
	ann, bob, eve := h.join("tea", "ann"), h.join("tea", "bob"), h.join("tea", "eve")
	send := func(from *client, dp *livekit.DataPacket) {
		from.Data(livekit.DataPacket_RELIABLE, mustMarshal(dp))
	}
	user := func(u *livekit.UserPacket) *livekit.DataPacket {
		return &livekit.DataPacket{Value: &livekit.DataPacket_User{User: u}}
	}
	send(ann, user(&livekit.UserPacket{Payload: []byte("hi")}))
	require.Len(t, eve.packets(), 1)
	send(bob, bob.packets()[0]) // as it was told
	echo := user(&livekit.UserPacket{Payload: []byte("hi")})
	echo.ParticipantIdentity = "ann"
	send(bob, echo)
	send(bob, user(&livekit.UserPacket{ParticipantSid: ann.SID()}))  //nolint:staticcheck // older clients
	send(bob, user(&livekit.UserPacket{ParticipantIdentity: "ann"})) //nolint:staticcheck // older clients
	require.Len(t, eve.packets(), 1)
	require.Empty(t, ann.packets())
	require.EqualValues(t, 4, h.Stats().DataRefused)

	own := user(&livekit.UserPacket{ParticipantSid: bob.SID(), ParticipantIdentity: "bob"}) //nolint:staticcheck // older clients
	own.ParticipantSid, own.ParticipantIdentity = bob.SID(), "bob"
	send(bob, own)
	require.Len(t, eve.packets(), 2)

	was := bob.SID()
	require.NoError(t, h.Move(t.Context(), &livekit.MoveParticipantRequest{Room: "tea", Identity: "bob", DestinationRoom: "hall"}))
	bob.Sync()
	host := h.join("hall", "host")
	own = user(&livekit.UserPacket{})
	own.ParticipantSid = was // it has not read of the move yet
	send(bob, own)
	require.Len(t, host.packets(), 1)
	require.Equal(t, bob.SID(), host.packets()[0].ParticipantSid)
}

// TestWithoutSignallingNobodyStays, whether its media lives or not, unless it
// resumes in time; also in another room.
func TestWithoutSignallingNobodyStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		here := func(room string) (all []string) {
			list, err := h.Participants(t.Context(), room)
			require.NoError(t, err)
			for _, p := range list {
				all = append(all, p.Identity)
			}
			return all
		}
		ann, bob, eve := h.join("tea", "ann"), h.join("tea", "bob"), h.join("tea", "eve")
		h.join("tea", "host")
		ann.SignalLost()
		bob.SignalLost()
		eve.SignalLost()
		time.Sleep(rooms.DefaultSignalGrace - time.Second)
		require.Len(t, here("tea"), 4)
		require.NoError(t, h.Resume(t.Context(), "tea", "bob", nil, func(*rooms.Participant, rooms.Snapshot) {}))
		require.NoError(t, h.Move(t.Context(), &livekit.MoveParticipantRequest{Room: "tea", Identity: "eve", DestinationRoom: "hall"}))
		time.Sleep(2 * time.Second)
		require.ElementsMatch(t, []string{"bob", "host"}, here("tea"))
		require.Empty(t, here("hall"))
		require.True(t, ann.closed)
		require.True(t, eve.closed)
		bob.SignalLost()
		time.Sleep(time.Minute)
		require.ElementsMatch(t, []string{"bob", "host"}, here("tea"), "counted from its last loss")
		time.Sleep(61 * time.Second)
		require.Equal(t, []string{"host"}, here("tea"))
	})
}
