package rooms_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/log"
)

// byToken is a join with a token that has roomAdmin.
func byToken(r *rooms.JoinRequest) { r.Host = true }

func (h *house) setHost(room, identity string, host bool) {
	h.t.Helper()
	require.NoError(h.t, h.SetHost(h.t.Context(), room, identity, host))
}

func (h *house) isHost(room, identity string) bool {
	h.t.Helper()
	m, err := h.Member(h.t.Context(), room, identity)
	require.NoError(h.t, err)
	return m.Host
}

// What was decided of who is host holds for an identity whatever its tokens say, over every
// way of coming again.
func TestWhoIsHostIsTheRoomsToDecide(t *testing.T) {
	for name, again := range map[string]func(*house, *client){
		"while it is still there": func(*house, *client) {},
		"after it left": func(_ *house, c *client) {
			c.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
			c.Sync()
		},
		"after a restart": func(h *house, _ *client) { h.restart() },
		"after it left, and many others, and a restart": func(h *house, c *client) {
			c.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
			c.Sync()
			for range rooms.MostDeparted + 1 {
				h.join("tea", "passer-by")
			}
			h.flush("tea")
			h.restart()
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.join("tea", "bob", byToken)
			ann := h.join("tea", "ann")
			require.True(t, h.isHost("tea", "bob"))
			require.False(t, h.isHost("tea", "ann"))
			h.setHost("tea", "ann", true)
			require.True(t, h.isHost("tea", "ann"))
			again(h, ann)
			ann = h.join("tea", "ann")
			require.True(t, ann.snap.Host, "without a token that says so")
			h.setHost("tea", "ann", false)
			require.False(t, h.isHost("tea", "ann"))
			again(h, ann)
			ann = h.join("tea", "ann", byToken)
			require.False(t, ann.snap.Host, "though the token says so")
			require.False(t, h.isHost("tea", "ann"))
		})
	}
}

// The rows and the log tell who is host, and the decision ends with the room.
func TestADecisionOnWhoIsHostEndsWithTheRoom(t *testing.T) {
	h := newHouse(t)
	ann := h.join("tea", "ann")
	h.setHost("tea", "ann", true)
	h.setHost("tea", "ann", true)
	present, err := h.store.Present(t.Context(), ann.snap.Room.Sid)
	require.NoError(t, err)
	require.True(t, present[0].Host)
	h.restart()
	require.True(t, h.isHost("tea", "ann"), "which is expected back")
	h.setHost("tea", "ann", false)
	require.False(t, h.isHost("tea", "ann"))
	h.setHost("tea", "ann", true)
	var told []string
	for _, e := range h.log(log.HostAdded, log.HostRemoved) {
		told = append(told, e.Type+" "+webhook(t, e).Participant.Identity)
	}
	require.Equal(t, []string{"host_added ann", "host_removed ann", "host_added ann"}, told)

	require.NoError(t, h.Delete(t.Context(), "tea"))
	_, decided, err := h.HostDecided(t.Context(), "tea", "ann")
	require.NoError(t, err)
	require.False(t, decided)
	require.False(t, h.join("tea", "ann").snap.Host, "in the next room of the name")
	left, err := h.store.HostDecisions(t.Context(), ann.snap.Room.Sid)
	require.NoError(t, err)
	require.Empty(t, left)
}

// A client is told at once that it is host, or is none any more, and a move takes the
// decision neither along nor away.
func TestAClientIsToldThatItIsHost(t *testing.T) {
	h := newHouse(t)
	var told, moved []bool
	h.join("side", "dan")
	ann := h.join("tea", "ann", byToken, func(r *rooms.JoinRequest) {
		r.OnChange = func(info *livekit.ParticipantInfo, host bool) { told = append(told, host) }
		r.Token = func(a rooms.Arrival) string { moved = append(moved, a.Host); return "" }
	})
	move := func(from, to string) {
		t.Helper()
		require.NoError(t, h.Move(t.Context(), &livekit.MoveParticipantRequest{Room: from, Identity: "ann", DestinationRoom: to}))
	}
	h.join("tea", "bob")
	move("tea", "side")
	h.setHost("side", "ann", true)
	move("side", "tea")
	h.setHost("tea", "ann", false)
	move("tea", "side")
	move("side", "tea")
	h.setHost("tea", "ann", true)
	ann.Sync()
	require.Equal(t, []bool{false, true, true, false}, moved, "host by token in its own room, and as was decided")
	require.Equal(t, []bool{true, false, true}, told)
}

func TestWhoCannotBeMadeHost(t *testing.T) {
	h := newHouse(t)
	require.ErrorIs(t, h.SetHost(t.Context(), "tea", "ann", true), rooms.ErrNoRoom)
	ann := h.join("tea", "ann")
	h.join("tea", "bob")
	require.ErrorIs(t, h.SetHost(t.Context(), "tea", "stranger", true), rooms.ErrNoParticipant)
	ann.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
	h.setHost("tea", "ann", false) // its tokens outlive its session
	for n := range rooms.MostHostDecisions {
		who := string(rune('a'+n%26)) + string(rune('a'+n/26%26)) + string(rune('a'+n/676))
		c, err := h.try("tea", who)
		require.NoError(t, err)
		err = h.SetHost(t.Context(), "tea", who, true)
		if n == rooms.MostHostDecisions-1 {
			require.Equal(t, rooms.Exhausted, rooms.ErrorCode(err))
		} else {
			require.NoError(t, err)
		}
		c.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
	}
	h.setHost("tea", "ann", true) // it was decided of before
}

// A decision that cannot be written is none.
func TestADecisionThatIsNotWrittenIsNone(t *testing.T) {
	var broken atomic.Bool
	h := &house{t: t, path: t.TempDir() + "/parlor.db", allow: func() error {
		if broken.Load() {
			return errors.New("the disk is full")
		}
		return nil
	}}
	h.open()
	t.Cleanup(h.close)
	h.join("tea", "ann")
	h.flush("tea")
	broken.Store(true)
	require.Error(t, h.SetHost(t.Context(), "tea", "ann", true))
	require.False(t, h.isHost("tea", "ann"))
	broken.Store(false)
	require.Eventually(t, func() bool { return h.SetHost(t.Context(), "tea", "ann", true) == nil }, time.Minute, time.Millisecond)
	require.True(t, h.isHost("tea", "ann"))
}
