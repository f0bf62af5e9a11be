package rooms_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/assert"
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

// A participant that is assigned elsewhere while people are sent out goes there at once; whose room is
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

// Who is being sent out while people are called back comes back, too.
func TestPeopleAreCalledBackWhileTheyAreSentOut(t *testing.T) {
	h := newHouse(t)
	const people = 24
	h.join("all", "hana", asHost)
	all, assigned := []string{"hana"}, []string{}
	for i := range people {
		who := fmt.Sprintf("guest-%d", i)
		h.join("all", who)
		all, assigned = append(all, who), append(assigned, who)
	}
	main, err := h.Divide(t.Context(), "all", []rooms.Breakout{{Title: "One", Assigned: assigned}})
	require.NoError(t, err)
	one := main.Config.Division.Breakouts[0].Name
	var sending sync.WaitGroup
	sending.Go(func() {
		_, err := h.SendOut(context.Background(), "all", 0)
		assert.NoError(t, err)
	})
	require.Eventually(t, func() bool {
		in, err := h.Participants(t.Context(), one)
		return err == nil && len(in) > 0
	}, 10*time.Second, time.Millisecond)
	_, err = h.CallBack(t.Context(), "all")
	require.NoError(t, err)
	require.ElementsMatch(t, all, h.of("all"))
	sending.Wait()
	require.ElementsMatch(t, all, h.of("all"))
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

// openRoom is the open room of that name.
func (h *house) openRoom(name string) rooms.Record {
	h.t.Helper()
	rec, err := h.store.FindOpen(context.Background(), name)
	require.NoError(h.t, err)
	return rec
}

// gone is why a client was sent away.
func (c *client) gone() livekit.DisconnectReason { return c.leave().GetReason() }

// Neither a lock of the main room nor its limit keeps its own people out of it, and nobody
// takes their places.
func TestTheMainRoomTakesItsPeopleBack(t *testing.T) {
	h := newHouse(t)
	one, _, _, ann, bob := divided(h)
	ctx := t.Context()
	_, err := h.SendOut(ctx, "all", 0)
	require.NoError(t, err)
	most, locked := uint32(3), true
	_, err = h.Edit(ctx, "all", rooms.RoomEdit{MaxParticipants: &most})
	require.NoError(t, err)
	_, err = h.try("all", "eve")
	require.ErrorIs(t, err, rooms.ErrRoomFull)
	most = 1
	_, err = h.Edit(ctx, "all", rooms.RoomEdit{Locked: &locked, MaxParticipants: &most})
	require.NoError(t, err)
	require.NoError(t, h.GoTo(ctx, one, "ann", "", false))
	_, err = h.CallBack(ctx, "all")
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"hana", "ann", "bob"}, h.of("all"))
	require.Nil(t, ann.leave())
	require.Nil(t, bob.leave())
}

// Who has come to the main room by a second client is back; the first client goes.
func TestASecondClientIsBack(t *testing.T) {
	h := newHouse(t)
	one, _, _, ann, _ := divided(h)
	_, err := h.SendOut(t.Context(), "all", 0)
	require.NoError(t, err)
	second := h.join("all", "ann")
	_, err = h.CallBack(t.Context(), "all")
	require.NoError(t, err)
	require.Empty(t, h.of(one))
	require.NotNil(t, ann.leave())
	require.Nil(t, second.leave())
}

// The time may be over while no server runs: the same main room is there for those who come
// back to their breakout rooms, and they are brought to it.
func TestPeopleAreBroughtBackAfterALongOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{t: t, path: t.TempDir() + "/parlor.db"}
		h.open()
		t.Cleanup(h.close)
		one, _, _, _, _ := divided(h)
		_, err := h.SendOut(context.Background(), "all", 10*time.Minute)
		require.NoError(t, err)
		require.NoError(t, h.GoTo(context.Background(), "all", "hana", one, true))
		sid := h.openRoom("all").SID
		h.close()
		time.Sleep(time.Hour)
		h.open()
		time.Sleep(40 * time.Second) // longer than the main room's departure timeout
		ann, hana := h.join(one, "ann"), h.join(one, "hana", asHost)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Equal(t, sid, h.openRoom("all").SID)
		require.ElementsMatch(t, []string{"hana", "ann"}, h.of("all"))
		require.Nil(t, ann.leave())
		require.Nil(t, hana.leave())
	})
}

// A host who has reconnected in a breakout room, and so with a token for that room, is host of
// the main room still.
func TestAHostComesBackAsHost(t *testing.T) {
	h := newHouse(t)
	one, _, _, _, _ := divided(h)
	_, err := h.SendOut(t.Context(), "all", 0)
	require.NoError(t, err)
	require.NoError(t, h.GoTo(t.Context(), "all", "hana", one, true))
	h.flush(one)
	h.restart()
	h.join(one, "hana", asHost, func(r *rooms.JoinRequest) { r.HostOf = "all" })
	_, err = h.CallBack(t.Context(), "all")
	require.NoError(t, err)
	require.True(t, isHost(h, "all", "hana"))
}

// The end of the division does not end the room that has stood empty meanwhile.
func TestTheEndOfADivisionEndsNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{t: t, path: t.TempDir() + "/parlor.db"}
		h.open()
		t.Cleanup(h.close)
		one, two, hana, _, _ := divided(h)
		_, err := h.SendOut(context.Background(), "all", 0)
		require.NoError(t, err)
		sid := h.openRoom("all").SID
		hana.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
		time.Sleep(time.Hour)
		_, err = h.Divide(context.Background(), "all", nil)
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"ann", "bob"}, h.of("all"))
		require.Equal(t, sid, h.openRoom("all").SID)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.Nil(t, h.openRoom("all").Config.Division)
		open, err := h.List(context.Background(), []string{one, two})
		require.NoError(t, err)
		require.Empty(t, open, "empty rooms of before end at once")
	})
}

// Who cannot be moved when people are called back is moved as soon as it can be, and the
// main room is there.
func TestACallBackGoesOnUntilNobodyIsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{t: t, path: t.TempDir() + "/parlor.db"}
		h.open()
		t.Cleanup(h.close)
		one, _, hana, _, bob := divided(h)
		ctx := context.Background()
		_, err := h.SendOut(ctx, "all", 0)
		require.NoError(t, err)
		sid := h.openRoom("all").SID
		c := &client{subscribed: make(map[string]bool), trailers: make(map[string]string)}
		c.Participant, _, err = h.Join(ctx, rooms.JoinRequest{
			Room: one, Info: &livekit.ParticipantInfo{Identity: "ann", Permission: anyone()}, Protocol: 17, Outlet: c,
		})
		require.NoError(t, err)
		for _, c := range []*client{hana, bob} {
			c.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
		}
		_, err = h.CallBack(ctx, "all")
		require.NoError(t, err)
		require.Equal(t, []string{"ann"}, h.of(one), "her client is not there yet")
		time.Sleep(time.Minute)
		require.NoError(t, c.Enter(fakePeer{c}, func(*rooms.Participant, rooms.Snapshot) {}))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{"ann"}, h.of("all"))
		require.Equal(t, sid, h.openRoom("all").SID)
	})
}

// A main room whose breakout rooms were closed one by one, or which everybody left just before
// a restart, is not held open.
func TestAnEmptyMainRoomIsNotHeldOpen(t *testing.T) {
	for _, how := range []string{"closed", "restarted"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &house{t: t, path: t.TempDir() + "/parlor.db"}
				h.open()
				t.Cleanup(h.close)
				one, two, hana, ann, bob := divided(h)
				ctx := context.Background()
				_, err := h.SendOut(ctx, "all", 0)
				require.NoError(t, err)
				time.Sleep(time.Minute)
				hana.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
				if how == "closed" {
					require.NoError(t, h.Delete(ctx, one))
					require.NoError(t, h.Delete(ctx, two))
				} else {
					ann.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
					bob.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
					synctest.Wait()
					h.restart()
				}
				time.Sleep(5 * time.Minute)
				synctest.Wait()
				open, err := h.List(ctx, []string{"all"})
				require.NoError(t, err)
				require.Empty(t, open)
			})
		})
	}
}

// A ban, or a removal with its tokens, holds in all rooms of a division, wherever it was made
// and wherever the person is.
func TestRestrictionsHoldInAllRoomsOfADivision(t *testing.T) {
	h := newHouse(t, moderated)
	one, two, _, ann, bob := divided(h)
	ctx := t.Context()
	_, err := h.SendOut(ctx, "all", 0)
	require.NoError(t, err)

	require.NoError(t, h.Ban(ctx, rooms.Ban{RoomName: "all", Identity: "ann", CreatedMs: 1}))
	require.Equal(t, livekit.DisconnectReason_PARTICIPANT_REMOVED, ann.gone())
	_, err = h.try(one, "ann")
	require.ErrorIs(t, err, rooms.ErrBanned)

	require.NoError(t, h.Remove(ctx, &livekit.RoomParticipantIdentity{Room: two, Identity: "bob", RevokeTokenTs: 1000}))
	require.Equal(t, livekit.DisconnectReason_PARTICIPANT_REMOVED, bob.gone())
	for _, room := range []string{"all", two} {
		_, err = h.try(room, "bob", func(r *rooms.JoinRequest) { r.IssuedMs = 999_000 })
		require.ErrorIs(t, err, rooms.ErrRevoked)
	}
	bob = h.join(two, "bob", func(r *rooms.JoinRequest) { r.IssuedMs = 2_000_000 })
	require.NoError(t, h.Remove(ctx, &livekit.RoomParticipantIdentity{Room: "all", Identity: "bob", RevokeTokenTs: 3000}))
	require.Equal(t, livekit.DisconnectReason_PARTICIPANT_REMOVED, bob.gone())
	require.ErrorIs(t, h.Admissible(ctx, two, "bob", 2_000_000), rooms.ErrRevoked)

	eve := h.join("all", "eve")
	require.NoError(t, h.Ban(ctx, rooms.Ban{RoomName: two, Identity: "eve", CreatedMs: 1}))
	require.Equal(t, livekit.DisconnectReason_PARTICIPANT_REMOVED, eve.gone())
	_, err = h.try("all", "eve")
	require.ErrorIs(t, err, rooms.ErrBanned)
}

// Who is host is decided for all rooms of a division at once.
func TestAHostIsDismissedInAllRoomsOfADivision(t *testing.T) {
	h := newHouse(t)
	one, two, _, _, _ := divided(h)
	ctx := t.Context()
	_, err := h.SendOut(ctx, "all", 0)
	require.NoError(t, err)
	require.NoError(t, h.GoTo(ctx, "all", "hana", one, true))
	require.True(t, isHost(h, one, "hana"))
	decided := func(room, identity string, want bool) {
		t.Helper()
		host, is, err := h.HostDecided(ctx, room, identity)
		require.NoError(t, err)
		require.True(t, is)
		require.Equal(t, want, host)
	}
	require.NoError(t, h.SetHost(ctx, "all", "hana", false))
	require.False(t, isHost(h, one, "hana"))
	decided(one, "hana", false)
	_, err = h.try(two, "hana", asHost)
	require.Equal(t, rooms.Denied, rooms.ErrorCode(err), "she is not assigned to it")

	require.NoError(t, h.SetHost(ctx, one, "ann", true))
	require.True(t, isHost(h, one, "ann"))
	decided("all", "ann", true)
	require.NoError(t, h.GoTo(ctx, one, "ann", two, true))
	require.True(t, isHost(h, two, "ann"))
	require.NoError(t, h.GoTo(ctx, two, "ann", one, true))
	require.NoError(t, h.SetHost(ctx, "all", "ann", false))
	require.False(t, isHost(h, one, "ann"))
	decided(one, "ann", false)
	ann := h.join(one, "ann", asHost)
	require.False(t, isHost(h, one, "ann"))
	require.Nil(t, ann.leave())
}

// Only who is assigned comes into a breakout room, only while people are sent out, and no
// other room passes for one.
func TestABreakoutRoomIsForThoseWhoAreAssigned(t *testing.T) {
	h := newHouse(t)
	one, two, _, ann, _ := divided(h)
	ctx := t.Context()
	_, err := h.try(one, "eve")
	require.Equal(t, rooms.NotFound, rooms.ErrorCode(err), "a guest does not open it")
	_, err = h.Create(ctx, &livekit.CreateRoomRequest{Name: one})
	require.NoError(t, err)
	eve := h.join(one, "eve")
	_, err = h.SendOut(ctx, "all", 0)
	require.NoError(t, err)
	require.Equal(t, livekit.DisconnectReason_ROOM_DELETED, eve.gone())
	require.Equal(t, []string{"ann"}, h.of(one))
	require.NotNil(t, h.openRoom(one).Config.Main)

	for _, room := range []string{one, two} {
		_, err = h.try(room, "eve")
		require.Equal(t, rooms.Denied, rooms.ErrorCode(err))
	}
	h.join("all", "eve")
	require.Equal(t, rooms.Denied, rooms.ErrorCode(h.Move(ctx, &livekit.MoveParticipantRequest{Room: "all", Identity: "eve", DestinationRoom: one})))
	_, err = h.CallBack(ctx, "all")
	require.NoError(t, err)
	_, err = h.try(one, "ann")
	require.Equal(t, rooms.Precondition, rooms.ErrorCode(err), "its time is over")
	require.Nil(t, ann.leave())
}

// Breakout rooms are opened for people, and a division stays small.
func TestTheBoundsOfADivision(t *testing.T) {
	h := newHouse(t, func(c *rooms.Config) { c.Limits.MaxIdentity = 200 })
	divided(h)
	ctx := t.Context()
	_, err := h.Divide(ctx, "all", []rooms.Breakout{{Title: "a", Assigned: []string{strings.Repeat("x", 201)}}})
	require.Equal(t, rooms.Invalid, rooms.ErrorCode(err))
	many := make([]string, rooms.MostAssigned)
	for i := range many {
		many[i] = fmt.Sprintf("%0200d", i)
	}
	_, err = h.Divide(ctx, "all", []rooms.Breakout{{Title: "a", Assigned: many}})
	require.Equal(t, rooms.Exhausted, rooms.ErrorCode(err))
	rec, err := h.Divide(ctx, "all", []rooms.Breakout{{Title: "a", Assigned: []string{"nobody"}}, {Title: "b", Assigned: []string{"ann"}}})
	require.NoError(t, err)
	_, err = h.SendOut(ctx, "all", 0)
	require.NoError(t, err)
	b := rec.Config.Division.Breakouts
	open, err := h.List(ctx, []string{b[0].Name, b[1].Name})
	require.NoError(t, err)
	require.Len(t, open, 1)
}
