package rooms_test

import (
	"database/sql"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/log"
)

// damage changes what is on disk while no process runs.
func (h *house) damage(statement string) {
	h.t.Helper()
	h.close()
	db, err := sql.Open("sqlite", h.path)
	require.NoError(h.t, err)
	_, err = db.Exec(statement)
	require.NoError(h.t, err)
	require.NoError(h.t, db.Close())
}

// settings is the text that the database has as a room's settings.
func (h *house) settings(name string) (text string) {
	h.t.Helper()
	db, err := sql.Open("sqlite", h.path)
	require.NoError(h.t, err)
	require.NoError(h.t, db.QueryRow(`SELECT config FROM room WHERE name = ? AND ended_ms = 0`, name).Scan(&text))
	require.NoError(h.t, db.Close())
	return text
}

const damagedSettings = `UPDATE room SET config = '{"tags": 7}' WHERE name = 'bad'`

// TestSettingsThatCannotBeRead: other rooms do not wait for them. Their own room keeps its
// people and ends at its deadline, and nothing is written over them until somebody sets a
// setting.
func TestSettingsThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.join("bad", "ann")
		_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "good", EmptyTimeout: 10})
		require.NoError(t, err)
		h.flush("bad")
		h.damage(damagedSettings)
		h.open()
		require.EqualValues(t, 1, h.store.Stats().Damaged)
		open, err := h.store.ListOpen(t.Context(), nil)
		require.NoError(t, err)
		require.Len(t, open, 2)
		time.Sleep(11 * time.Second)
		h.none("good")

		h.join("bad", "ann")
		_, err = h.try("bad", "eve")
		require.Equal(t, rooms.Denied, rooms.ErrorCode(err), "it may have been locked")
		more := uint32(9)
		_, err = h.Edit(t.Context(), "bad", rooms.RoomEdit{MaxParticipants: &more})
		require.NoError(t, err)
		require.Equal(t, `{"tags": 7}`, h.settings("bad"))

		locked := true
		_, err = h.Edit(t.Context(), "bad", rooms.RoomEdit{Locked: &locked})
		require.NoError(t, err)
		require.Equal(t, `{"locked":true}`, h.settings("bad"))
		locked = false
		_, err = h.Edit(t.Context(), "bad", rooms.RoomEdit{Locked: &locked})
		require.NoError(t, err)
		h.join("bad", "eve")
		h.one("bad")
		require.Zero(t, h.store.Stats().Damaged)
	})
}

// TestARoomWhoseSettingsCannotBeReadEnds at its deadline, or when it is closed.
func TestARoomWhoseSettingsCannotBeReadEnds(t *testing.T) {
	for _, by := range []string{"its timeout", "a close", "its timeout, after it was divided"} {
		t.Run(by, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "bad", EmptyTimeout: 10})
				require.NoError(t, err)
				if by == "its timeout, after it was divided" {
					h.damage(`UPDATE room SET config = '{"tags": 7, "division": {}}', expires_ms = 0 WHERE name = 'bad'`)
				} else {
					h.damage(damagedSettings)
				}
				h.open()
				if by == "a close" {
					require.NoError(t, h.Delete(t.Context(), "bad"))
				}
				time.Sleep(12 * time.Second)
				h.none("bad")
				require.Len(t, h.log(log.RoomFinished), 1)
			})
		})
	}
}

// TestAParticipantWhoseRowCannotBeRead: its room can be joined and closed, and counts it as
// before.
func TestAParticipantWhoseRowCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.join("bad", "agent", anAgent)
		h.join("bad", "ann")
		h.join("bad", "bob")
		h.join("good", "ann")
		h.flush("bad")
		h.flush("good")
		h.damage(`UPDATE session SET info = x'ffffff' WHERE identity IN ('bob', 'agent')`)
		h.open()
		present, err := h.store.ListPresent(t.Context(), rooms.PresenceQuery{Limit: 10})
		require.NoError(t, err)
		require.Len(t, present, 4)
		require.EqualValues(t, 2, h.store.Stats().Damaged)
		h.join("bad", "eve")
		require.EqualValues(t, 3, h.one("bad").NumParticipants)
		h.join("bad", "bob")
		require.EqualValues(t, 3, h.one("bad").NumParticipants)
		time.Sleep(2 * time.Minute) // ann and the agent do not come back
		require.EqualValues(t, 2, h.one("bad").NumParticipants)
		require.NoError(t, h.Delete(t.Context(), "bad"))
		h.none("bad")
	})
}

// TestAnAgentWhoseRowCannotBeRead keeps no room open, as one whose row can be read.
func TestAnAgentWhoseRowCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "bad", EmptyTimeout: 90})
		require.NoError(t, err)
		h.join("bad", "agent", anAgent)
		h.flush("bad")
		h.damage(`UPDATE session SET info = x'ffffff'`)
		h.open()
		h.join("bad", "agent", anAgent)
		require.Zero(t, h.one("bad").NumParticipants)
		time.Sleep(95 * time.Second)
		h.none("bad")
	})
}
