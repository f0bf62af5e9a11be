package rooms_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/log"
	"parlor/rooms/sqlite"
)

// TestACreatedRoomIsThereAlthoughAJoinIsUnderWay: somebody who is coming in does not keep a
// room open, and is no reason to answer without the disk.
func TestACreatedRoomIsThereAlthoughAJoinIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards gate
		var gate chan struct{}
		hold := func(g chan struct{}) { mu.Lock(); defer mu.Unlock(); gate = g }
		h := &house{t: t, path: t.TempDir() + "/parlor.db", allow: func() error {
			mu.Lock()
			g := gate
			mu.Unlock()
			if g != nil {
				<-g
			}
			return nil
		}}
		h.open(func(c *rooms.Config) { c.AutoCreate = false })
		t.Cleanup(h.close)
		req := &livekit.CreateRoomRequest{Name: "tea", EmptyTimeout: 10}
		old, err := h.Create(t.Context(), req)
		require.NoError(t, err)

		time.Sleep(9900 * time.Millisecond)
		busy := make(chan struct{})
		hold(busy)
		time.Sleep(200 * time.Millisecond) // the room's end is in the writer's hand
		synctest.Wait()
		joined := make(chan error, 1)
		go func() { _, err := h.try("tea", "ann"); joined <- err }()
		synctest.Wait()
		made := make(chan *livekit.Room, 1)
		go func() {
			room, err := h.Create(context.Background(), req)
			if err != nil {
				t.Error(err)
			}
			made <- room
		}()
		synctest.Wait()
		hold(nil)
		close(busy)

		room := <-made
		<-joined // refused, or into the new room
		require.NotEqual(t, old.Sid, room.Sid)
		rec, err := h.store.FindOpen(context.Background(), "tea")
		require.NoError(t, err)
		require.Equal(t, room.Sid, rec.SID, "what was acknowledged is there")
	})
}

// moderation tells of each look at whether an identity may come in.
type moderation struct {
	*sqlite.Store
	looked func(room string)
}

func (m *moderation) Admission(ctx context.Context, room, identity string) (bool, int64, error) {
	if m.looked != nil {
		m.looked(room)
	}
	return m.Store.Admission(ctx, room, identity)
}

// TestAShadowReplacesNobody: a participant that joins the destination while it is forwarded
// there stays.
func TestAShadowReplacesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &moderation{}
		h := newHouse(t, func(c *rooms.Config) { m.Store = c.Store.(*sqlite.Store); c.Moderation = m })
		h.join("a", "ann")
		h.join("b", "bob")
		var inPerson *client
		looks := 0
		m.looked = func(room string) {
			if room == "b" {
				looks++
			}
			if looks == 2 && inPerson == nil { // of the shadow's own join
				m.looked = nil
				inPerson = h.join("b", "ann")
			}
		}
		err := h.Forward(t.Context(), &livekit.ForwardParticipantRequest{Room: "a", Identity: "ann", DestinationRoom: "b"})
		require.NotNil(t, inPerson)
		require.Equal(t, rooms.Exists, rooms.ErrorCode(err), err)
		h.flush("b")
		require.Nil(t, inPerson.leave())
	})
}

// TestWhoIsRemovedAfterComingBackForAMomentIsGone for the others, too.
func TestWhoIsRemovedAfterComingBackForAMomentIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.join("tea", "ann")
		h.join("tea", "bob")
		h.flush("tea")
		h.restart()
		bob := h.join("tea", "bob")
		ann, err := h.try("tea", "ann")
		require.NoError(t, err)
		h.flush("tea")
		require.NotNil(t, bob.sees("ann"))
		ann.SignalLost() // before its media connected
		h.flush("tea")
		require.NoError(t, h.Remove(t.Context(), &livekit.RoomParticipantIdentity{Room: "tea", Identity: "ann"}))
		h.flush("tea")
		time.Sleep(time.Second)
		seen := bob.sees("ann")
		require.NotNil(t, seen)
		require.Equal(t, livekit.ParticipantInfo_DISCONNECTED, seen.State)
	})
}

// TestAMoveBeforeTheMediaConnects: who was never in the first room has joined the second one
// when it connects, and not before.
func TestAMoveBeforeTheMediaConnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.join("b", "bob")
		ann, err := h.try("a", "ann")
		require.NoError(t, err)
		require.NoError(t, h.Move(t.Context(), &livekit.MoveParticipantRequest{Room: "a", Identity: "ann", DestinationRoom: "b"}))
		h.flush("b")
		of := func(room string) (types []string) {
			for _, e := range h.log() {
				if e.RoomName == room && webhook(t, e).GetParticipant().GetIdentity() == "ann" {
					types = append(types, e.Type)
				}
			}
			return types
		}
		require.Equal(t, []string{log.ParticipantAborted}, of("a"))
		require.Empty(t, of("b"))
		ann.Connected()
		h.flush("b")
		require.Equal(t, []string{log.ParticipantJoined}, of("b"))
		ann.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
		h.flush("b")
		require.Equal(t, []string{log.ParticipantJoined, log.ParticipantLeft}, of("b"))
	})
}
