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

// of are the identities in a room.
func (h *house) of(room string) []string {
	h.t.Helper()
	all, err := h.Participants(h.t.Context(), room)
	require.NoError(h.t, err)
	out := []string{}
	for _, info := range all {
		out = append(out, info.Identity)
	}
	return out
}

func asHost(r *rooms.JoinRequest) { r.Host = true }

// divided is a room "all" with hana, who is host, ann and bob, and two breakout rooms, to
// which ann and bob are assigned.
func divided(h *house) (first, second string, hana, ann, bob *client) {
	h.t.Helper()
	hana, ann, bob = h.join("all", "hana", asHost), h.join("all", "ann"), h.join("all", "bob")
	rec, err := h.Divide(h.t.Context(), "all", []rooms.Breakout{{Title: "One", Assigned: []string{"ann"}}, {Title: "Two", Assigned: []string{"bob"}}})
	require.NoError(h.t, err)
	b := rec.Config.Division.Breakouts
	return b[0].Name, b[1].Name, hana, ann, bob
}

func isHost(h *house, room, identity string) bool {
	h.t.Helper()
	m, err := h.Member(h.t.Context(), room, identity)
	require.NoError(h.t, err)
	return m.Host
}

func TestPeopleAreSentOutAndCalledBack(t *testing.T) {
	h := newHouse(t)
	one, two, _, ann, _ := divided(h)
	ctx := t.Context()
	require.NotEqual(t, one, two)
	require.Len(t, h.of("all"), 3, "a division alone moves nobody")
	require.Equal(t, rooms.Precondition, rooms.ErrorCode(h.GoTo(ctx, "all", "ann", one, false)), "they are not open")

	_, err := h.SendOut(ctx, "all", 0)
	require.NoError(t, err)
	require.Equal(t, []string{"hana"}, h.of("all"))
	require.Equal(t, []string{"ann"}, h.of(one))
	require.Equal(t, []string{"bob"}, h.of(two))
	ann.publish(t, "mic", livekit.TrackSource_MICROPHONE)

	// A host goes anywhere and stays host; others between their room and the main room.
	require.Equal(t, rooms.Denied, rooms.ErrorCode(h.GoTo(ctx, one, "ann", two, false)))
	require.NoError(t, h.GoTo(ctx, one, "ann", "", false))
	require.Len(t, h.of("all"), 2)
	require.NoError(t, h.GoTo(ctx, "all", "ann", one, false))
	require.NoError(t, h.GoTo(ctx, "all", "hana", one, true))
	require.True(t, isHost(h, one, "hana"))
	require.NoError(t, h.GoTo(ctx, one, "hana", two, true))
	require.True(t, isHost(h, two, "hana"))
	host, decided, err := h.HostDecided(ctx, two, "hana")
	require.NoError(t, err)
	require.True(t, host && decided, "the API believes it")
	require.False(t, isHost(h, one, "ann"))
	require.Empty(t, h.of("all"))

	// Everybody is told, wherever one is.
	before := len(ann.packets())
	require.NoError(t, h.TellAll(ctx, two, "parlor.message", []byte("five minutes left")))
	require.Equal(t, "five minutes left", string(ann.packets()[before].GetUser().GetPayload()))

	_, err = h.CallBack(ctx, two) // from where the host is
	require.NoError(t, err)
	require.Len(t, h.of("all"), 3)
	require.True(t, isHost(h, "all", "hana"))
	main, err := h.MainRoom(ctx, "all")
	require.NoError(t, err)
	require.False(t, main.Config.Division.Open())
	require.Equal(t, []string{"ann"}, main.Config.Division.Breakouts[0].Assigned, "they can be sent out again")
	require.Nil(t, ann.leave())
}

// Whoever is assigned elsewhere while people are sent out goes there at once; whose room is
// gone comes back.
func TestADivisionIsChangedWhilePeopleAreSentOut(t *testing.T) {
	h := newHouse(t)
	one, two, _, _, _ := divided(h)
	eve := h.join("all", "eve")
	ctx := t.Context()
	_, err := h.SendOut(ctx, "all", 0)
	require.NoError(t, err)
	require.NoError(t, h.GoTo(ctx, two, "bob", "", false))
	_, err = h.Divide(ctx, one, []rooms.Breakout{{Name: two, Title: "Both", Assigned: []string{"ann", "bob"}}, {Title: "New", Assigned: []string{"eve"}}})
	require.NoError(t, err)
	require.Equal(t, []string{"ann"}, h.of(two), "bob had come back by himself")
	require.ElementsMatch(t, []string{"hana", "bob"}, h.of("all"))
	rec, err := h.MainRoom(ctx, two)
	require.NoError(t, err)
	require.Equal(t, []string{"eve"}, h.of(rec.Config.Division.Breakouts[1].Name))
	require.NotEqual(t, one, rec.Config.Division.Breakouts[1].Name)
	_, err = h.Divide(ctx, "all", nil)
	require.NoError(t, err)
	require.Len(t, h.of("all"), 4)
	require.Nil(t, eve.leave())

	for why, bad := range map[string][]rooms.Breakout{
		"twice":     {{Title: "a", Assigned: []string{"ann"}}, {Title: "b", Assigned: []string{"ann"}}},
		"no title":  {{}},
		"unknown":   {{Name: "lobby", Title: "a"}},
		"too many":  make([]rooms.Breakout, rooms.MostBreakouts+1),
		"no person": {{Title: "a", Assigned: []string{""}}},
	} {
		_, err = h.Divide(ctx, "all", bad)
		require.Equal(t, rooms.Invalid, rooms.ErrorCode(err), why)
	}
}

// A restart forgets nothing, also when it is longer than the limit.
func TestADivisionSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{t: t, path: t.TempDir() + "/parlor.db"}
		h.open()
		t.Cleanup(h.close)
		one, _, _, _, _ := divided(h)
		_, err := h.SendOut(context.Background(), "all", 10*time.Minute)
		require.NoError(t, err)
		h.restart()
		require.Equal(t, []string{"ann"}, h.of(one))
		ann := h.join(one, "ann")
		hana := h.join("all", "hana", asHost)
		rec, err := h.MainRoom(context.Background(), one)
		require.NoError(t, err)
		require.True(t, rec.Config.Division.Open())
		require.True(t, rec.Config.Division.Limited)
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		require.ElementsMatch(t, []string{"hana", "ann"}, h.of("all"), "the time is over")
		require.Nil(t, ann.leave())
		require.Nil(t, hana.leave())
	})
}

// The main room stays open while its people are in breakout rooms, and not longer.
func TestTheMainRoomWaitsForItsPeople(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{t: t, path: t.TempDir() + "/parlor.db"}
		h.open()
		t.Cleanup(h.close)
		one, two, hana, ann, bob := divided(h)
		_, err := h.SendOut(context.Background(), "all", 0)
		require.NoError(t, err)
		require.NoError(t, h.GoTo(context.Background(), "all", "hana", one, true))
		time.Sleep(time.Hour)
		synctest.Wait()
		require.EqualValues(t, 2, h.one(one).NumParticipants)
		require.NotNil(t, h.one("all"))
		for _, c := range []*client{hana, ann, bob} {
			c.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		open, err := h.List(context.Background(), nil)
		require.NoError(t, err)
		require.Empty(t, open, "nobody is in any of them: %s, %s", one, two)
	})
}

func TestBreakoutRoomsAreClosedWithTheirRoom(t *testing.T) {
	h := newHouse(t)
	one, two, _, ann, bob := divided(h)
	_, err := h.SendOut(t.Context(), "all", 0)
	require.NoError(t, err)
	require.NoError(t, h.Delete(t.Context(), "all"))
	for _, c := range []*client{ann, bob} {
		require.Equal(t, livekit.DisconnectReason_ROOM_DELETED, c.leave().GetReason())
	}
	open, err := h.List(t.Context(), []string{one, two})
	require.NoError(t, err)
	require.Empty(t, open)
}
