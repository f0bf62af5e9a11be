package rooms_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/sqlite"
)

// TestWhatCameFromAnotherIsNotSentOn: a packet that names another's session comes from a
// client that repeats what it received, and would circulate for ever. One that names an
// identity was made by the client.
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
	send(bob, bob.packets()[0])                                     // as the client received it
	send(bob, user(&livekit.UserPacket{ParticipantSid: ann.SID()})) // older clients
	require.Len(t, eve.packets(), 1)
	require.Empty(t, ann.packets())
	require.EqualValues(t, 2, h.Stats().DataRefused)

	about := user(&livekit.UserPacket{Payload: []byte("ann says hi"), ParticipantIdentity: "ann"})
	about.ParticipantIdentity = "ann"
	send(bob, about)
	require.Len(t, eve.packets(), 2)
	got := eve.packets()[1]
	require.Equal(t, []string{"bob", bob.SID()}, []string{got.ParticipantIdentity, got.ParticipantSid})
	require.Equal(t, []string{"bob", bob.SID()}, []string{got.GetUser().ParticipantIdentity, got.GetUser().ParticipantSid})

	own := user(&livekit.UserPacket{ParticipantSid: bob.SID(), ParticipantIdentity: "bob"}) // older clients
	own.ParticipantSid, own.ParticipantIdentity = bob.SID(), "bob"
	send(bob, own)
	require.Len(t, eve.packets(), 3)

	earlier := bob.SID()
	require.NoError(t, h.Move(t.Context(), &livekit.MoveParticipantRequest{Room: "tea", Identity: "bob", DestinationRoom: "hall"}))
	bob.Sync()
	host := h.join("hall", "host")
	own = user(&livekit.UserPacket{})
	own.ParticipantSid = earlier // the client does not know of the move yet
	send(bob, own)
	require.Len(t, host.packets(), 1)
	require.Equal(t, bob.SID(), host.packets()[0].ParticipantSid)
}

// TestWithoutSignallingNobodyStays: a participant leaves, whether its media lives or not,
// unless it resumes in time; also in another room.
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

// TestDataOfALabelOfItsOwn: data on a channel with the client's own label reaches the
// others as a user packet with its sender.
func TestDataOfALabelOfItsOwn(t *testing.T) {
	h := newHouse(t)
	ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
	ann.Message([]byte("line"))
	ann.Sync()
	require.Len(t, bob.packets(), 1)
	dp := bob.packets()[0]
	require.Equal(t, "line", string(dp.GetUser().GetPayload()))
	require.Equal(t, []string{"ann", ann.SID()}, []string{dp.ParticipantIdentity, dp.ParticipantSid})
	require.Empty(t, ann.packets())
	ann.Message(make([]byte, rooms.MaxDataPacket))
	ann.Sync()
	require.Len(t, bob.packets(), 1)
	require.EqualValues(t, 1, h.Stats().DataRefused)
}

// TestATokenOfTheSameSecond: a token of the same second as a decision about its bearer
// undoes the decision only if it is known to be later.
func TestATokenOfTheSameSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the bubble begins at a full second
		h := newHouse(t)
		second := rooms.NowMs(time.Now())
		at := func(ms int64) func(*rooms.JoinRequest) {
			return func(req *rooms.JoinRequest) { req.IssuedMs = second + ms }
		}
		h.join("tea", "ann", at(0))
		time.Sleep(500 * time.Millisecond)
		_, err := h.UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{
			Room: "tea", Identity: "ann", Permission: &livekit.ParticipantPermission{CanSubscribe: true},
		})
		require.NoError(t, err)
		time.Sleep(200 * time.Millisecond)
		require.False(t, h.join("tea", "ann", at(0)).snap.Self.Permission.CanPublish, "it may be of before")
		require.False(t, h.join("tea", "ann", at(499)).snap.Self.Permission.CanPublish, "it is of before")
		require.True(t, h.join("tea", "ann", at(600)).snap.Self.Permission.CanPublish, "it is the newer decision")
	})
}

// TestATokenWithoutATime may be newer than a decision or older. It is obeyed when its bearer
// comes after it had left, and not when it replaces itself or was cut off.
func TestATokenWithoutATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(c *rooms.Config) { c.Moderation = c.Store.(*sqlite.Store) })
		timeless := func(req *rooms.JoinRequest) { req.IssuedMs = 0 }
		h.join("tea", "bob")
		h.join("tea", "ann", timeless)
		_, err := h.UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{
			Room: "tea", Identity: "ann", Permission: &livekit.ParticipantPermission{CanSubscribe: true},
		})
		require.NoError(t, err)
		again := h.join("tea", "ann", timeless)
		require.False(t, again.snap.Self.Permission.CanPublish, "it replaces itself")
		again.SignalLost()
		time.Sleep(2 * time.Minute)
		again = h.join("tea", "ann", timeless)
		require.False(t, again.snap.Self.Permission.CanPublish, "it was cut off")
		again.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
		again.Sync()
		again = h.join("tea", "ann", timeless)
		require.True(t, again.snap.Self.Permission.CanPublish, "it had left")
		require.NoError(t, h.Expel(t.Context(), "tea", "ann", rooms.NowMs(time.Now())))
		_, err = h.try("tea", "ann", timeless)
		require.ErrorIs(t, err, rooms.ErrRevoked, "it may be the one that is revoked")
	})
}
