package rooms_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// has sets the counts of the client's media.
func (c *client) has(bytes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.media = &rooms.MediaSummary{
		ConnectedMs: 1000, Up: rooms.MediaFlow{FlowingMs: 1000, Bytes: bytes, Packets: 10, Lost: 1},
		RTTMs: 10, RTTKnownMs: 1000, Worst: rooms.MediaMinute{FromMs: 1, ToMs: 2, Score: 4 - float64(bytes)/1000},
	}
}

// session is the row of the newest session of an identity in a room, open or ended.
func (h *house) session(roomSID, identity string) (found rooms.Session) {
	h.t.Helper()
	list, err := h.store.ListSessions(h.t.Context(), rooms.SessionQuery{RoomSID: roomSID, Limit: 100})
	require.NoError(h.t, err)
	for _, s := range list {
		if s.Identity == identity {
			found = s
		}
	}
	return found
}

// The media summary of a session is on disk within a minute, and later at each stop of
// the process, across restarts, and when the session ends.
func TestTheHistoryKeepsHowMediaFared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		ann := h.join("r", "ann")
		sid := h.one("r").Sid
		require.Nil(t, h.session(sid, "ann").Media)
		ann.has(100)
		synctest.Wait()
		written := h.store.Stats().Commit.Count
		time.Sleep(70 * time.Second)
		synctest.Wait()
		require.EqualValues(t, 100, h.session(sid, "ann").Media.Up.Bytes, "as after a crash")
		require.LessOrEqual(t, h.store.Stats().Commit.Count-written, uint64(2), "and it is written once a minute")

		ann.has(150)
		h.restart()
		require.EqualValues(t, 150, h.session(sid, "ann").Media.Up.Bytes, "a stop writes what came since")
		ann = h.join("r", "ann")
		ann.has(30)
		time.Sleep(70 * time.Second)
		synctest.Wait()
		m := h.session(sid, "ann").Media
		require.EqualValues(t, 180, m.Up.Bytes, "the session goes on")
		require.EqualValues(t, 2000, m.ConnectedMs)
		require.InDelta(t, 0.1, m.Up.Loss(), 1e-9)
		require.InDelta(t, 720, m.Up.Bitrate(), 1e-9)
		require.InDelta(t, 10, m.RTTMs, 1e-9)
		require.InDelta(t, 3.85, m.Worst.Score, 1e-9, "that of before the restart")

		h.restart()
		time.Sleep(2 * time.Minute) // no client returns
		synctest.Wait()
		gone := h.session(sid, "ann")
		require.NotZero(t, gone.LeftMs)
		require.EqualValues(t, 180, gone.Media.Up.Bytes)
	})
}

// The row of a session that ended has its final summary. After a move, counts belong to
// the session in the other room.
func TestAMoveBeginsAnotherSummary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		ann := h.join("tea", "ann")
		h.join("tea", "bob")
		h.join("coffee", "eve")
		tea, coffee := h.one("tea").Sid, h.one("coffee").Sid
		ann.has(100)
		require.NoError(t, h.Move(t.Context(), &livekit.MoveParticipantRequest{Room: "tea", Identity: "ann", DestinationRoom: "coffee"}))
		require.EqualValues(t, 100, h.session(tea, "ann").Media.Up.Bytes)
		require.Nil(t, h.session(coffee, "ann").Media)
		ann.has(7)
		require.NoError(t, h.Remove(t.Context(), &livekit.RoomParticipantIdentity{Room: "coffee", Identity: "ann"}))
		require.EqualValues(t, 7, h.session(coffee, "ann").Media.Up.Bytes)
		require.EqualValues(t, 100, h.session(tea, "ann").Media.Up.Bytes)
	})
}
