package rooms_test

import (
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// issued is a join with a token issued at that time.
func issued(at time.Time) func(*rooms.JoinRequest) {
	return func(r *rooms.JoinRequest) { r.IssuedMs = rooms.NowMs(at) }
}

func (h *house) revokePublishing(room, identity string) {
	h.t.Helper()
	_, err := h.UpdateParticipant(h.t.Context(), &livekit.UpdateParticipantRequest{
		Room: room, Identity: identity, Permission: &livekit.ParticipantPermission{CanSubscribe: true},
	})
	require.NoError(h.t, err)
}

func TestARevokedRightSurvivesComingAgain(t *testing.T) {
	mayPublish := func(c *client) bool { return c.snap.Self.Permission.CanPublish }
	for name, again := range map[string]func(*house, *client){
		"while it is still there": func(*house, *client) {},
		"after it left": func(_ *house, c *client) {
			c.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
			c.Sync()
		},
		"after its media failed": func(_ *house, c *client) {
			c.Disconnected(livekit.DisconnectReason_MEDIA_FAILURE)
			c.Sync()
		},
		"after a restart": func(h *house, _ *client) { h.restart() },
		"after it left, and a restart": func(h *house, c *client) {
			c.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
			c.Sync()
			h.flush("tea")
			h.restart()
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			old, recent := issued(time.Now().Add(-time.Minute)), issued(time.Now().Add(time.Minute))
			h.join("tea", "bob")
			ann := h.join("tea", "ann", old)
			require.True(t, mayPublish(ann))
			h.revokePublishing("tea", "ann")

			again(h, ann)
			ann = h.join("tea", "ann", old)
			require.False(t, mayPublish(ann), "the token is from before the decision")
			again(h, ann)
			ann = h.join("tea", "ann", old)
			require.False(t, mayPublish(ann), "nor does the next try help")
			again(h, ann)
			ann = h.join("tea", "ann", recent)
			require.True(t, mayPublish(ann), "the token is the newer decision")
			again(h, ann)
			narrow := func(r *rooms.JoinRequest) { r.Info.Permission.CanPublish = false }
			ann = h.join("tea", "ann", old, narrow)
			require.True(t, mayPublish(ann), "and stays so")
		})
	}
}

func TestWhatOneIsAndWhatOneMayAreDecidedApart(t *testing.T) {
	old, recent := issued(time.Now().Add(-time.Minute)), issued(time.Now().Add(time.Minute))
	self := func(r *rooms.JoinRequest) { r.Info.Name, r.Info.Permission.CanUpdateMetadata = "Ann", true }
	narrow := func(r *rooms.JoinRequest) { r.Info.Permission.CanPublish = false }
	h := newHouse(t)
	ann := h.join("tea", "ann", old, self)
	ann.UpdateSelf(&livekit.UpdateParticipantMetadata{Name: "Anna", Attributes: map[string]string{"hand": "up"}})
	ann.Sync()
	h.flush("tea")

	h.restart()
	ann = h.join("tea", "ann", old, self, narrow)
	require.Equal(t, "Anna", ann.snap.Self.Name)
	require.Equal(t, "up", ann.snap.Self.Attributes["hand"])
	require.False(t, ann.snap.Self.Permission.CanPublish, "nobody decided on the permission: the token does")

	h.restart()
	ann = h.join("tea", "ann", recent, self)
	require.Equal(t, "Anna", ann.snap.Self.Name, "the session goes on")
	require.True(t, ann.snap.Self.Permission.CanPublish)
	require.Equal(t, "Anna", h.join("tea", "ann", old, self).snap.Self.Name)
	require.Equal(t, "Ann", h.join("tea", "ann", recent, self).snap.Self.Name, "a new session, and the token is newer")

	h.join("tea", "bob", old)
	h.revokePublishing("tea", "bob")
	h.restart()
	bob := h.join("tea", "bob", old, func(r *rooms.JoinRequest) { r.Info.Name = "Bob" })
	require.Equal(t, "Bob", bob.snap.Self.Name, "what a moderator decided was the permission alone")
	require.False(t, bob.snap.Self.Permission.CanPublish)
}

// Whether a session counts as a participant is decided when it begins. A later token
// cannot make the count wrong.
func TestAFreshTokenDoesNotChangeWhoCounts(t *testing.T) {
	h := newHouse(t)
	h.join("tea", "ann")
	h.restart()
	h.join("tea", "ann", issued(time.Now()), func(r *rooms.JoinRequest) {
		r.Info.Permission.Agent = true // the form of old tokens
		r.Info.Kind = livekit.ParticipantInfo_AGENT
	})
	require.EqualValues(t, 1, h.one("tea").NumParticipants)
	h.join("tea", "bob").Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
	h.flush("tea")
	require.EqualValues(t, 1, h.one("tea").NumParticipants)
}
