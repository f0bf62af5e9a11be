package rooms_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/log"
	"parlor/rooms/sqlite"
)

func anAgent(r *rooms.JoinRequest) { r.Info.Kind = livekit.ParticipantInfo_AGENT }

// TestARestartWithOnlyAnAgent: an agent keeps no room open, before a restart or after it,
// whether it returns or not.
func TestARestartWithOnlyAnAgent(t *testing.T) {
	for name, back := range map[string]bool{"it comes back": true, "it does not": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "tea", EmptyTimeout: 3600, DepartureTimeout: 300})
				require.NoError(t, err)
				h.join("tea", "agent", anAgent)
				ann := h.join("tea", "ann")
				ann.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
				ann.Sync()
				h.flush("tea")
				time.Sleep(100 * time.Second)
				h.restart()
				if back {
					h.join("tea", "agent", anAgent)
				}
				time.Sleep(199 * time.Second)
				h.one("tea")
				time.Sleep(2 * time.Second)
				h.none("tea")
				require.Len(t, h.log(log.RoomFinished), 1)
				h.everybodyLeftOnce()
			})
		})
	}
}

// TestWhatIsOverdueIsNotForgottenForWhatIsNot: rooms whose deadline passed while no
// process ran end right after the start, or when the disk works, whatever rooms are
// created meanwhile.
func TestWhatIsOverdueIsNotForgottenForWhatIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var due atomic.Int64
		h := &house{t: t, path: t.TempDir() + "/parlor.db", allow: func() error {
			if due.Load() > 0 {
				due.Add(-1)
				return errors.New("the disk is full")
			}
			return nil
		}}
		h.open()
		t.Cleanup(h.close)
		for i := range 3 {
			_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: fmt.Sprint("tea", i), EmptyTimeout: 10})
			require.NoError(t, err)
		}
		h.close()
		time.Sleep(time.Minute)
		due.Store(2) // the clock is not written down, and the first attempt to end them fails
		h.open()
		synctest.Wait()
		require.Zero(t, due.Load())
		_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "coffee", EmptyTimeout: 3600})
		require.NoError(t, err)
		time.Sleep(1100 * time.Millisecond)
		require.Len(t, h.log(log.RoomFinished), 3)
	})
}

// present calls between before it reads the participants of a room.
type present struct {
	*sqlite.Store
	between func() error
}

func (s *present) Present(ctx context.Context, sid string) ([]rooms.Session, error) {
	if err := s.between(); err != nil {
		return nil, err
	}
	return s.Store.Present(ctx, sid)
}

func reading(between func() error) option {
	return func(c *rooms.Config) { c.Store = &present{c.Store.(*sqlite.Store), between} }
}

// TestARoomThatCannotBeReadAtFirst: a participant that was in it when the process ended
// is not expected for ever, even if no request asks for the room.
func TestARoomThatCannotBeReadAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.join("tea", "ann")
		h.flush("tea")
		var tries atomic.Int64
		h.restart(reading(func() error {
			if tries.Add(1) <= 3 {
				return errors.New("the disk failed")
			}
			return nil
		}))
		time.Sleep(2 * time.Minute)
		h.none("tea")
		require.Equal(t, []string{"room_started", "participant_joined ann", "participant_left ann", "room_finished"}, h.events("tea"))
	})
}

// TestCreateOfARoomThatHasJustEnded: the returned room is open, though an ended one was
// read just before.
func TestCreateOfARoomThatHasJustEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read := make(chan struct{})
		h := newHouse(t, reading(func() error { <-read; return nil }))
		old, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "tea", EmptyTimeout: 10})
		require.NoError(t, err)
		time.Sleep(9 * time.Second)
		go func() { _, _ = h.Participants(context.Background(), "tea") }() // reads the row; ends before the bubble does
		synctest.Wait()
		time.Sleep(2 * time.Second)
		h.none("tea")
		created := make(chan *livekit.Room, 1)
		go func() { // ends before the bubble does
			room, err := h.Create(context.Background(), &livekit.CreateRoomRequest{Name: "tea", EmptyTimeout: 10})
			if err != nil {
				t.Error(err)
			}
			created <- room
		}()
		synctest.Wait()
		close(read)
		room := <-created
		require.NotEqual(t, old.Sid, room.Sid)
		require.Equal(t, room.Sid, h.one("tea").Sid)
	})
}

// TestADividedRoomIsLookedAtAfterTheClockIsSetBack as before: it is called back soon after
// nobody is left in it.
func TestADividedRoomIsLookedAtAfterTheClockIsSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var step atomic.Int64
		h := newHouse(t, func(c *rooms.Config) {
			c.Wall = func() time.Time { return time.Now().Add(time.Duration(step.Load())) }
		})
		ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
		_, err := h.Divide(t.Context(), "tea", []rooms.Breakout{{Title: "one", Assigned: []string{"bob"}}})
		require.NoError(t, err)
		_, err = h.SendOut(t.Context(), "tea", 4*time.Hour)
		require.NoError(t, err)
		time.Sleep(3 * time.Second)
		step.Store(int64(time.Hour))
		time.Sleep(4 * time.Second) // it is looked at by that clock
		step.Store(0)
		for _, c := range []*client{ann, bob} {
			c.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
			c.Sync()
		}
		time.Sleep(30 * time.Second)
		require.False(t, h.openRoom("tea").Config.Division.Open())
	})
}
