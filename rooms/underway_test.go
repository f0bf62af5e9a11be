package rooms_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

func moveOf(identity, from, to string) *livekit.MoveParticipantRequest {
	return &livekit.MoveParticipantRequest{Room: from, Identity: identity, DestinationRoom: to}
}

// TestWhatAClientAsksWhileItIsMovedIsDoneInOrder: before the move, on the way and after
// it, and all of it once.
func TestWhatAClientAsksWhileItIsMovedIsDoneInOrder(t *testing.T) {
	h := newHouse(t)
	ann := h.join("tea", "ann")
	var over atomic.Bool
	var asked int
	var done []int // by the goroutines of the two rooms, never both
	var asking sync.WaitGroup
	asking.Go(func() {
		for ; !over.Load(); asked++ {
			n := asked
			ann.After(func() { done = append(done, n) })
			if n%32 == 0 {
				ann.Sync()
			}
		}
	})
	names := []string{"tea", "coffee"}
	for n := range 40 {
		require.NoError(t, h.Move(t.Context(), moveOf("ann", names[n%2], names[(n+1)%2])))
	}
	over.Store(true)
	asking.Wait()
	ann.Sync()
	require.Len(t, done, asked)
	for n, was := range done {
		require.Equal(t, n, was)
	}
}

// TestOfTwoMovesAtOnceOneIsDone, wherever the two lead.
func TestOfTwoMovesAtOnceOneIsDone(t *testing.T) {
	h := newHouse(t)
	for n := range 10 {
		room := fmt.Sprint("room", n)
		ann := h.join(room, "ann")
		var errs [2]error
		var moves sync.WaitGroup
		for i := range errs {
			moves.Go(func() { errs[i] = h.Move(context.Background(), moveOf("ann", room, fmt.Sprint(room, "-", i))) })
		}
		moves.Wait()
		require.Nil(t, ann.leave())
		won := 0
		if errs[0] != nil {
			won = 1
		}
		require.NoError(t, errs[won])
		require.ErrorIs(t, errs[1-won], rooms.ErrNoParticipant)
		ann.publish(t, "mic", microphone)
		h.flush(fmt.Sprint(room, "-", won))
		require.EqualValues(t, 1, h.one(fmt.Sprint(room, "-", won)).NumPublishers)
	}
}

// TestAClientMovedAgainAndAgainIsWhereItsRoomSays, by calls that know nothing of each other.
func TestAClientMovedAgainAndAgainIsWhereItsRoomSays(t *testing.T) {
	h := newHouse(t)
	ann := h.join("0", "ann")
	var moves sync.WaitGroup
	for room := range 3 {
		moves.Go(func() {
			for range 100 {
				err := h.Move(context.Background(), moveOf("ann", fmt.Sprint(room), fmt.Sprint((room+1)%3)))
				if err != nil && !errors.Is(err, rooms.ErrNoParticipant) && rooms.ErrorCode(err) != rooms.Exists {
					t.Error(err)
				}
			}
		})
	}
	moves.Wait()
	var at []string
	for room := range 3 {
		there, err := h.Participants(t.Context(), fmt.Sprint(room))
		require.NoError(t, err)
		for _, p := range there {
			at = append(at, p.Sid)
		}
	}
	require.Equal(t, []string{ann.SID()}, at)
	require.False(t, ann.Ended())
	ann.publish(t, "mic", microphone)
}

// heldStore keeps what is submitted of a room, until it is let go.
type heldStore struct {
	rooms.Store
	mu   sync.Mutex // guards the following
	room string     // "" = nothing is kept
	kept []func()
}

func (s *heldStore) Submit(c *rooms.Change, done func(rooms.Outcome, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Room.Name == s.room {
		s.kept = append(s.kept, func() { s.Store.Submit(c, done) })
		return
	}
	s.Store.Submit(c, done)
}

func (s *heldStore) hold(room string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room = room
}

func (s *heldStore) letGo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room = ""
	for _, submit := range s.kept {
		submit()
	}
	s.kept = nil
}

// underWay has ann on her way from tea, where bob is, to coffee, which is open, while what
// is written of one of the two waits. meanwhile is called then, with outlets of bob and of
// eve, who is in coffee if there is somebody, that can be armed.
func underWay(t *testing.T, waits string, host bool, meanwhile func(h *house, s *heldStore, bob, eve *mine), then func(h *house, ann *client, err error)) {
	synctest.Test(t, func(t *testing.T) {
		s := &heldStore{}
		h := newHouse(t, func(c *rooms.Config) { s.Store, c.Store = c.Store, s })
		lay := func(room, identity string) (m *mine) {
			h.join(room, identity, func(req *rooms.JoinRequest) {
				m = &mine{client: req.Outlet.(*client)}
				req.Outlet = m
			})
			return m
		}
		var eve *mine
		if host {
			eve = lay("coffee", "eve")
		} else {
			_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "coffee"})
			require.NoError(t, err)
		}
		ann, bob := h.join("tea", "ann"), lay("tea", "bob")
		synctest.Wait()
		s.hold(waits)
		var others sync.WaitGroup
		if !host { // somebody has it written that nobody is there
			others.Go(func() {
				_, err := h.UpdateMetadata(context.Background(), &livekit.UpdateRoomMetadataRequest{Room: "coffee", Metadata: "news"})
				require.ErrorIs(t, err, rooms.ErrNoRoom)
			})
			synctest.Wait()
		}
		var err error
		var move sync.WaitGroup
		move.Go(func() { err = h.Move(context.Background(), moveOf("ann", "tea", "coffee")) })
		synctest.Wait()
		meanwhile(h, s, bob, eve)
		s.letGo()
		move.Wait()
		others.Wait()
		synctest.Wait()
		then(h, ann, err)
	})
}

func endDue(t *testing.T, s *heldStore) {
	t.Helper()
	ended, err := s.EndDue(context.Background(), rooms.InstantOf(rooms.NowMs(time.Now().Add(time.Hour))), 10)
	require.NoError(t, err)
	require.Len(t, ended, 1)
}

func sentBack(t *testing.T, ann *client) {
	t.Helper()
	require.Equal(t, livekit.LeaveRequest_RECONNECT, ann.leave().GetAction())
	require.True(t, ann.closed, "her media has ended")
	require.True(t, ann.Ended())
	ann.Sync()
}

func TestTheRoomThatIsMovedToEndsBeforeTheArrivalIsWritten(t *testing.T) {
	underWay(t, "coffee", false, func(_ *house, s *heldStore, _, _ *mine) { endDue(t, s) }, func(h *house, ann *client, err error) {
		require.NoError(t, err)
		require.Nil(t, ann.leave())
		ann.publish(t, "cam", camera)
		h.flush("coffee")
		require.EqualValues(t, 1, h.one("coffee").NumPublishers, "she is in a new room of that name")
	})
}

func TestWhoIsRemovedBeforeTheArrivalIsWrittenDoesNotArrive(t *testing.T) {
	underWay(t, "coffee", false, func(h *house, s *heldStore, _, _ *mine) {
		go func() { // ends with what is kept
			_ = h.Remove(context.Background(), &livekit.RoomParticipantIdentity{Room: "coffee", Identity: "ann"})
		}()
		synctest.Wait()
		endDue(t, s)
	}, func(h *house, ann *client, err error) {
		require.ErrorIs(t, err, rooms.ErrNoParticipant)
		require.Equal(t, livekit.DisconnectReason_PARTICIPANT_REMOVED, ann.leave().GetReason())
		require.True(t, ann.closed)
		there, err := h.Participants(context.Background(), "coffee")
		require.NoError(t, err)
		require.Empty(t, there)
	})
}

// TestARoomFailsWhileAParticipantIsMoved, the one or the other: the client comes again.
func TestARoomFailsWhileAParticipantIsMoved(t *testing.T) {
	for _, fails := range []string{"tea", "coffee"} {
		underWay(t, fails, true, func(_ *house, _ *heldStore, bob, eve *mine) {
			at := map[string]*mine{"tea": bob, "coffee": eve}[fails]
			at.arm()
			at.UpdateSelf(&livekit.UpdateParticipantMetadata{}) // the answer finds the mine
			synctest.Wait()
		}, func(h *house, ann *client, err error) {
			require.ErrorIs(t, err, rooms.ErrFailed)
			sentBack(t, ann)
			require.EqualValues(t, 1, h.Stats().Failures)
			if fails == "coffee" {
				locked := true
				_, err = h.Edit(context.Background(), "tea", rooms.RoomEdit{Locked: &locked})
				require.NoError(t, err)
				_, err = h.try("tea", "ann")
				require.Equal(t, rooms.Denied, rooms.ErrorCode(err), "without the token of her session")
			}
			h.again("tea", ann).publish(t, "mic", microphone)
		})
	}
}
