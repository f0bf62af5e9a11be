package rooms_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// Who is removed with its tokens, or ceases to be host, while it is on its way from one room of
// a division to another is met where it arrives.
func TestWhatIsDecidedOfWhoIsOnItsWayFollows(t *testing.T) {
	for _, way := range []string{"out", "back"} {
		for _, decision := range []string{"removed", "dismissed"} {
			t.Run(decision+" on the way "+way, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := &heldStore{}
					h := newHouse(t, func(c *rooms.Config) { s.Store, c.Store = c.Store, s }, func(c *rooms.Config) { c.Moderation = s.Store.(rooms.Moderation) })
					one, _, hana, _, _ := divided(h)
					ctx := context.Background()
					_, err := h.SendOut(ctx, "all", 0)
					require.NoError(t, err)
					from, to := "all", one
					if way == "back" {
						require.NoError(t, h.GoTo(ctx, "all", "hana", one, true))
						from, to = one, "all"
					}
					synctest.Wait()
					s.hold(from) // she has left it, and is nowhere
					var calls sync.WaitGroup
					calls.Go(func() { _ = h.GoTo(ctx, from, "hana", to, true) })
					synctest.Wait()
					calls.Go(func() {
						if decision == "removed" {
							err = h.Expel(ctx, "all", "hana", 1000)
						} else {
							err = h.SetHost(ctx, "all", "hana", false)
						}
					})
					synctest.Wait()
					s.letGo()
					calls.Wait()
					synctest.Wait()
					require.NoError(t, err)
					if decision == "removed" {
						require.Equal(t, livekit.DisconnectReason_PARTICIPANT_REMOVED, hana.gone())
						require.NotContains(t, h.of(to), "hana")
						return
					}
					require.Nil(t, hana.leave())
					if !slices.Contains(h.of(to), "hana") {
						to = "all" // the next look has brought her back: she is not assigned, and no host
					}
					require.False(t, isHost(h, to, "hana"))
				})
			})
		}
	}
}

// A decision in the main room meets also who just joins a breakout room.
func TestWhatIsDecidedOfWhoJoinsABreakoutRoomHoldsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &heldStore{}
		h := newHouse(t, func(c *rooms.Config) { s.Store, c.Store = c.Store, s })
		one, _, _, _, _ := divided(h)
		ctx := context.Background()
		_, err := h.SendOut(ctx, "all", 0)
		require.NoError(t, err)
		s.hold("all")
		var calls sync.WaitGroup
		var decided, joined error
		calls.Go(func() { decided = h.SetHost(ctx, "all", "hana", false) })
		synctest.Wait()
		calls.Go(func() { _, joined = h.try(one, "hana", asHost) })
		synctest.Wait()
		s.letGo()
		calls.Wait()
		require.NoError(t, decided)
		require.Equal(t, rooms.Denied, rooms.ErrorCode(joined), "she is not assigned, and no host")
	})
}

// The tokens of a division are as old as the first of them, so that a revocation of that one
// holds for all. One for another room is as old as the wish to move there.
func TestTheTokensOfADivisionAreAsOldAsTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &heldStore{}
		h := newHouse(t, func(c *rooms.Config) { s.Store, c.Store = c.Store, s }, func(c *rooms.Config) { c.Moderation = s.Store.(rooms.Moderation) })
		var got []rooms.Arrival
		h.join("all", "ann", asHost, func(r *rooms.JoinRequest) {
			r.Token = func(a rooms.Arrival) string { got = append(got, a); return "" }
		})
		ctx := context.Background()
		rec, err := h.Divide(ctx, "all", []rooms.Breakout{{Title: "One", Assigned: []string{"ann"}}, {Title: "Two"}})
		require.NoError(t, err)
		one, two := rec.Config.Division.Breakouts[0].Name, rec.Config.Division.Breakouts[1].Name
		_, err = h.SendOut(ctx, "all", 0)
		require.NoError(t, err)
		require.NoError(t, h.GoTo(ctx, one, "ann", two, true))
		_, err = h.CallBack(ctx, "all")
		require.NoError(t, err)
		require.Len(t, got, 3)
		for i, room := range []string{one, two, "all"} {
			require.Equal(t, room, got[i].Room)
			require.Zero(t, got[i].Since)
			require.Equal(t, "all", got[i].HostOf)
		}
		began := time.Now()
		s.hold("all")
		var move sync.WaitGroup
		move.Go(func() { err = h.Move(ctx, moveOf("ann", "all", "elsewhere")) })
		synctest.Wait()
		time.Sleep(time.Second)
		revoked := rooms.NowMs(time.Now())
		require.NoError(t, h.Revoke(ctx, "elsewhere", "ann", revoked))
		time.Sleep(time.Second)
		s.letGo()
		move.Wait()
		require.ErrorIs(t, err, rooms.ErrRevoked)
		require.Len(t, got, 4)
		require.Equal(t, began, got[3].Since)
		require.Empty(t, got[3].HostOf)
	})
}

// Who is host of a division by its token is that no longer than by its token.
func TestTheRightOfAHostEndsWithItsToken(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	hana := h.join("all", "hana", asHost)
	rec, err := h.Divide(ctx, "all", []rooms.Breakout{{Title: "One", Assigned: []string{"hana", "ann"}}})
	require.NoError(t, err)
	one := rec.Config.Division.Breakouts[0].Name
	_, err = h.SendOut(ctx, "all", 0)
	require.NoError(t, err)
	require.True(t, isHost(h, one, "hana"))
	for _, room := range []string{one, "all"} {
		_, decided, err := h.HostDecided(ctx, room, "hana")
		require.NoError(t, err)
		require.False(t, decided, room)
	}
	hana.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
	hana.Sync()
	h.join("all", "hana") // by another token
	require.NoError(t, h.GoTo(ctx, "all", "hana", one, false))
	require.False(t, isHost(h, one, "hana"))

	// The token of a host that reconnects in the breakout room is one for the main room; one
	// for the breakout room alone is not.
	hana = h.join(one, "hana", asHost, func(r *rooms.JoinRequest) { r.HostOf = "all" })
	ann := h.join(one, "ann", asHost)
	require.True(t, isHost(h, one, "hana"))
	require.True(t, isHost(h, one, "ann"))
	_, err = h.CallBack(ctx, "all")
	require.NoError(t, err)
	require.True(t, isHost(h, "all", "hana"))
	require.False(t, isHost(h, "all", "ann"))
	require.Nil(t, ann.leave())
	hana.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
	hana.Sync()
	require.False(t, h.join("all", "hana").snap.Host)
}

// Who is out does not take its own place in a full main room.
func TestWhoIsOutJoinsAFullMainRoom(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	divided(h)
	_, err := h.SendOut(ctx, "all", 0)
	require.NoError(t, err)
	most := uint32(3)
	_, err = h.Edit(ctx, "all", rooms.RoomEdit{MaxParticipants: &most})
	require.NoError(t, err)
	_, err = h.CanJoin(ctx, &rooms.JoinRequest{Room: "all", Info: &livekit.ParticipantInfo{Identity: "ann"}})
	require.NoError(t, err)
	h.join("all", "ann")
	_, err = h.try("all", "eve")
	require.ErrorIs(t, err, rooms.ErrRoomFull)
	most = 4 // her first client is out still
	_, err = h.Edit(ctx, "all", rooms.RoomEdit{MaxParticipants: &most})
	require.NoError(t, err)
	_, err = h.try("all", "eve")
	require.ErrorIs(t, err, rooms.ErrRoomFull)
	h.join("elsewhere", "bob")
	require.NoError(t, h.Move(ctx, moveOf("bob", "elsewhere", "all")))
}

// A participant that is forwarded into a breakout room is shown there until that is over, and
// keeps nothing open.
func TestAForwardedParticipantKeepsNoDivision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{t: t, path: t.TempDir() + "/parlor.db"}
		h.open()
		t.Cleanup(h.close)
		one, two, _, _, _ := divided(h)
		ctx := context.Background()
		h.join("stage", "sam")
		_, err := h.SendOut(ctx, "all", 0)
		require.NoError(t, err)
		for _, room := range []string{one, two} {
			require.NoError(t, h.Forward(ctx, &livekit.ForwardParticipantRequest{Room: "stage", Identity: "sam", DestinationRoom: room}))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		require.ElementsMatch(t, []string{"ann", "sam"}, h.of(one))
		_, err = h.Divide(ctx, "all", []rooms.Breakout{{Name: one, Title: "One", Assigned: []string{"ann"}}})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		synctest.Wait()
		open, err := h.List(ctx, []string{two})
		require.NoError(t, err)
		require.Empty(t, open)
		_, err = h.CallBack(ctx, "all")
		require.NoError(t, err)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Empty(t, h.of(one))
		require.False(t, h.openRoom("all").Config.Division.Back)
		require.ElementsMatch(t, []string{"hana", "ann", "bob"}, h.of("all"))
	})
}

// Who is shown in the main room from its breakout room comes back itself, by its own wish and
// when it is called.
func TestWhoIsForwardedToTheMainRoomComesBack(t *testing.T) {
	h := newHouse(t)
	one, two, _, _, _ := divided(h)
	ctx := t.Context()
	_, err := h.SendOut(ctx, "all", 0)
	require.NoError(t, err)
	for identity, from := range map[string]string{"ann": one, "bob": two} {
		require.NoError(t, h.Forward(ctx, &livekit.ForwardParticipantRequest{Room: from, Identity: identity, DestinationRoom: "all"}))
	}
	require.ElementsMatch(t, []string{"hana", "ann", "bob"}, h.of("all"))
	require.NoError(t, h.GoTo(ctx, two, "bob", "", false))
	require.Empty(t, h.of(two))
	_, err = h.CallBack(ctx, "all")
	require.NoError(t, err)
	require.Empty(t, h.of(one))
	require.ElementsMatch(t, []string{"hana", "ann", "bob"}, h.of("all"))
}

// Breakout rooms that an earlier version opened have names without a checksum.
func TestTheBreakoutRoomsOfAnEarlierVersion(t *testing.T) {
	h := newHouse(t)
	h.join("all", "hana", asHost)
	main := h.openRoom("all")
	_, err := h.Rooms.Create(t.Context(), &livekit.CreateRoomRequest{Name: "breakout-0123456789ab"}, func(c *rooms.RoomConfig) {
		c.Main = &rooms.MainRoom{Name: "all", SID: main.SID}
	})
	require.NoError(t, err)
	governing, err := h.Governing(t.Context(), "breakout-0123456789ab")
	require.NoError(t, err)
	require.Equal(t, "all", governing)
}

// Nobody comes through a lock by a session that was lost long ago, or that is not its newest.
func TestALockLetsBackWhoWasLostJustNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{t: t, path: t.TempDir() + "/parlor.db"}
		h.open()
		t.Cleanup(h.close)
		ctx := context.Background()
		h.join("tea", "bob")
		loses := func() string {
			ann := h.join("tea", "ann")
			ann.Participant.Leave(livekit.DisconnectReason_CONNECTION_TIMEOUT)
			ann.Sync()
			return ann.SID()
		}
		back := func(sid string) error {
			_, err := h.try("tea", "ann", func(r *rooms.JoinRequest) { r.Session = sid })
			return err
		}
		lock := func(locked bool) {
			_, err := h.Edit(ctx, "tea", rooms.RoomEdit{Locked: &locked})
			require.NoError(t, err)
		}
		sid := loses()
		lock(true)
		require.NoError(t, back(sid))
		require.NoError(t, h.Remove(ctx, &livekit.RoomParticipantIdentity{Room: "tea", Identity: "ann"}))
		require.Equal(t, rooms.Denied, rooms.ErrorCode(back(sid)), "she was removed since")
		lock(false)
		sid = loses()
		lock(true)
		time.Sleep(time.Hour)
		require.Equal(t, rooms.Denied, rooms.ErrorCode(back(sid)))
	})
}

// A division that is as long as it may be is opened and closed as any other.
func TestALongDivisionIsOpenedAndClosed(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	h.join("all", "hana")
	long := func(last int) []rooms.Breakout {
		b := rooms.Breakout{Title: "One"}
		for n := range 400 {
			b.Assigned = append(b.Assigned, fmt.Sprintf("%0150d", n))
		}
		b.Assigned = append(b.Assigned, strings.Repeat("x", last))
		return []rooms.Breakout{b}
	}
	fits, fails := 1, 1<<16
	for fails-fits > 1 {
		if _, err := h.Divide(ctx, "all", long((fits+fails)/2)); err == nil {
			fits = (fits + fails) / 2
		} else {
			require.Equal(t, rooms.Exhausted, rooms.ErrorCode(err))
			fails = (fits + fails) / 2
		}
		_, err := h.Divide(ctx, "all", nil) // its rooms are none to wait for
		require.NoError(t, err)
		require.Eventually(t, func() bool { return h.openRoom("all").Config.Division == nil }, time.Minute, time.Millisecond)
	}
	_, err := h.Divide(ctx, "all", long(fits))
	require.NoError(t, err)
	_, err = h.SendOut(ctx, "all", time.Minute)
	require.NoError(t, err)
	_, err = h.CallBack(ctx, "all")
	require.NoError(t, err)
}

// No breakout rooms for a room that has none are no division.
func TestNoBreakoutRoomsAreNoDivision(t *testing.T) {
	h := newHouse(t)
	h.join("all", "hana")
	rec, err := h.Divide(t.Context(), "all", nil)
	require.NoError(t, err)
	require.Nil(t, rec.Config.Division)
}

// Of two hosts who change what they have seen the second is told.
func TestADivisionIsChangedAsItWasSeen(t *testing.T) {
	h := newHouse(t)
	one, _, _, _, _ := divided(h)
	seen := func(before []rooms.Breakout) bool { return len(before) == 2 && before[0].Name == one }
	_, err := h.Rooms.Divide(t.Context(), "all", []rooms.Breakout{{Name: one, Title: "One"}}, seen)
	require.NoError(t, err)
	_, err = h.Rooms.Divide(t.Context(), "all", []rooms.Breakout{{Title: "Two"}}, seen)
	require.Equal(t, rooms.Precondition, rooms.ErrorCode(err))
	require.Equal(t, "One", h.openRoom("all").Config.Division.Breakouts[0].Title)
}

// An app's own rooms are no breakout rooms, whatever letters follow.
func TestAnAppNamesItsRoomsBreakout(t *testing.T) {
	h := newHouse(t)
	h.join("breakout-"+strings.Repeat("a", 19), "ann")
	h.join("breakout-1", "ann")
}

// failingStore fails what is asked of the rooms of that beginning of a name, that many times.
type failingStore struct {
	rooms.Store
	mu     sync.Mutex // guards the following
	prefix string
	times  int
}

func (s *failingStore) fails(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.times == 0 || !strings.HasPrefix(name, s.prefix) {
		return false
	}
	s.times--
	return true
}

func (s *failingStore) set(prefix string, times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prefix, s.times = prefix, times
}

func (s *failingStore) Submit(c *rooms.Change, done func(rooms.Outcome, error)) {
	if c.Kind == rooms.ChangeEnd && s.fails(c.Room.Name) {
		go done(rooms.Outcome{}, errors.New("the disk is full"))
		return
	}
	s.Store.Submit(c, done)
}

func (s *failingStore) FindOpen(ctx context.Context, name string) (rooms.Record, error) {
	if s.fails(name) {
		return rooms.Record{}, errors.New("the disk is slow")
	}
	return s.Store.FindOpen(ctx, name)
}

// A room that was closed is closed, also if its breakout rooms cannot be yet. They follow.
func TestARoomIsClosedBeforeItsBreakoutRooms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &failingStore{}
		h := newHouse(t, func(c *rooms.Config) { s.Store, c.Store = c.Store, s })
		divided(h)
		ctx := context.Background()
		_, err := h.SendOut(ctx, "all", 0)
		require.NoError(t, err)
		synctest.Wait()
		s.set("breakout-", 2)
		require.NoError(t, h.Delete(ctx, "all"))
		time.Sleep(time.Minute)
		synctest.Wait()
		open, err := h.List(ctx, nil)
		require.NoError(t, err)
		require.Empty(t, open)
	})
}

// A breakout room whose main room ended while no server ran is ended, also if that cannot be
// read at once.
func TestAnOrphanIsEndedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{t: t, path: t.TempDir() + "/parlor.db"}
		h.open()
		t.Cleanup(h.close)
		one, _, _, _, _ := divided(h)
		ctx := context.Background()
		_, err := h.SendOut(ctx, "all", 0)
		require.NoError(t, err)
		synctest.Wait()
		main := h.openRoom("all")
		require.NoError(t, h.Rooms.Close(ctx))
		main.EndedMs, main.EndReason = rooms.NowMs(time.Now()), rooms.EndClosed
		ended := make(chan error, 1)
		h.store.Submit(&rooms.Change{Kind: rooms.ChangeEnd, Room: main}, func(_ rooms.Outcome, err error) { ended <- err })
		require.NoError(t, <-ended)
		require.NoError(t, h.store.Close(ctx))
		h.store = nil
		s := &failingStore{}
		s.set("all", 3)
		h.open(func(c *rooms.Config) { s.Store, c.Store = c.Store, s })
		time.Sleep(30 * time.Second) // less than the restart's grace
		synctest.Wait()
		open, err := h.List(ctx, []string{one})
		require.NoError(t, err)
		require.Empty(t, open)
	})
}

// A participant on the way from one breakout room to another while the division ends comes to
// the main room: both breakout rooms may have ended before it arrives.
func TestBothBreakoutRoomsEndOnTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &heldStore{}
		h := newHouse(t, func(c *rooms.Config) { s.Store, c.Store = c.Store, s }, func(c *rooms.Config) { c.Moderation = s.Store.(rooms.Moderation) })
		one, two, hana, ann, bob := divided(h)
		ctx := context.Background()
		_, err := h.SendOut(ctx, "all", 0)
		require.NoError(t, err)
		require.NoError(t, h.GoTo(ctx, "all", "hana", two, true))
		for _, c := range []*client{ann, bob} {
			c.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
		}
		synctest.Wait()
		s.hold(two) // she has left it, and is nowhere
		var way sync.WaitGroup
		var failed error
		way.Go(func() { failed = h.GoTo(ctx, two, "hana", one, true) })
		synctest.Wait()
		way.Go(func() { _, err = h.Divide(ctx, "all", nil) })
		synctest.Wait()
		time.Sleep(5 * time.Second) // the first room has been forgotten
		s.letGo()
		way.Wait()
		synctest.Wait()
		require.NoError(t, err)
		require.Equal(t, rooms.NotFound, rooms.ErrorCode(failed))
		require.Nil(t, hana.leave(), "she is not sent back to where nothing is")
		require.Contains(t, h.of("all"), "hana")
		require.True(t, isHost(h, "all", "hana"))
		hana.publish(t, "cam", livekit.TrackSource_CAMERA)
		time.Sleep(time.Minute)
		synctest.Wait()
		open, err := h.List(ctx, []string{one, two})
		require.NoError(t, err)
		require.Empty(t, open)
	})
}

// A host of another room is no host of a division, and is moved to none of its breakout rooms
// by that right.
func TestAHostOfAnotherRoomIsMovedToNoBreakoutRoom(t *testing.T) {
	h := newHouse(t)
	one, _, _, _, _ := divided(h)
	_, err := h.SendOut(t.Context(), "all", 0)
	require.NoError(t, err)
	eve := h.join("other", "eve", asHost)
	to := func(room, identity, destination string) error {
		return h.Move(t.Context(), &livekit.MoveParticipantRequest{Room: room, Identity: identity, DestinationRoom: destination})
	}
	require.Equal(t, rooms.Denied, rooms.ErrorCode(to("other", "eve", one)))
	require.Nil(t, eve.leave())
	require.Equal(t, []string{"eve"}, h.of("other"))
	require.NoError(t, to("all", "hana", one), "a host of the division may go to any of its rooms")
	require.True(t, isHost(h, one, "hana"))
}
