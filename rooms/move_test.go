package rooms_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// slowDisk blocks transactions from hold until free.
type slowDisk struct {
	held atomic.Bool
	free chan struct{}
}

func (d *slowDisk) allow() error {
	if d.held.Load() {
		<-d.free
	}
	return nil
}

func (d *slowDisk) release() {
	d.held.Store(false)
	d.free <- struct{}{}
}

// midMove moves ann from tea to coffee, where eve is, and blocks the disk during the
// move. It calls meanwhile, unblocks the disk, and calls then.
func midMove(t *testing.T, meanwhile func(h *house, ann *client), then func(h *house, ann *client, err error)) {
	synctest.Test(t, func(t *testing.T) {
		d := &slowDisk{free: make(chan struct{})}
		h := &house{t: t, path: t.TempDir() + "/parlor.db", allow: d.allow}
		h.open()
		t.Cleanup(h.close)
		ann, _ := h.join("tea", "ann"), h.join("coffee", "eve")
		ann.publish(t, "mic", livekit.TrackSource_MICROPHONE)
		synctest.Wait()
		d.held.Store(true)
		var err error
		var wg sync.WaitGroup
		wg.Go(func() {
			err = h.Move(context.Background(), &livekit.MoveParticipantRequest{Room: "tea", Identity: "ann", DestinationRoom: "coffee"})
		})
		synctest.Wait() // she has left tea, and her leaving is being written
		meanwhile(h, ann)
		synctest.Wait()
		d.release()
		wg.Wait()
		synctest.Wait()
		then(h, ann, err)
		for _, room := range []string{"tea", "coffee"} {
			if err := h.Delete(t.Context(), room); err != nil {
				require.ErrorIs(t, err, rooms.ErrNoRoom)
			}
		}
		h.everybodyLeftOnce()
	})
}

func TestWhoJoinsAsTheOneThatIsMovedComesAfterIt(t *testing.T) {
	var second *client
	midMove(t, func(h *house, _ *client) {
		go func() { // ends with the join, which synctest waits for
			second, _ = h.try("coffee", "ann")
		}()
	}, func(h *house, ann *client, err error) {
		require.NoError(t, err)
		require.NotNil(t, second)
		require.Equal(t, livekit.DisconnectReason_DUPLICATE_IDENTITY, ann.leave().GetReason())
		require.EqualValues(t, 2, h.one("coffee").NumParticipants)
	})
}

func TestTheRoomThatIsMovedToIsClosedMeanwhile(t *testing.T) {
	midMove(t, func(h *house, _ *client) {
		go func() { _ = h.Delete(context.Background(), "coffee") }() // ends before the bubble does
	}, func(h *house, ann *client, err error) {
		require.NoError(t, err)
		require.Nil(t, ann.leave())
		ann.publish(t, "cam", livekit.TrackSource_CAMERA)
		require.EqualValues(t, 1, h.one("coffee").NumParticipants, "she is in a new room of that name")
	})
}

func TestTheRoomThatIsMovedFromIsClosedMeanwhile(t *testing.T) {
	midMove(t, func(h *house, ann *client) {
		go func() { _ = h.Delete(context.Background(), "tea") }() // ends before the bubble does
		synctest.Wait()
		ann.AddTrack(&livekit.AddTrackRequest{Cid: "cam", Type: livekit.TrackType_VIDEO})
	}, func(h *house, ann *client, err error) {
		require.NoError(t, err)
		require.Nil(t, ann.leave())
		ann.Sync()
		require.NotNil(t, find(ann, func(m *livekit.SignalResponse) *livekit.TrackPublishedResponse {
			if tp := m.GetTrackPublished(); tp.GetCid() == "cam" {
				return tp
			}
			return nil
		}), "what she asked for on the way is done in the new room")
	})
}

func TestNobodyIsMovedOntoWhoIsExpectedBack(t *testing.T) {
	h := newHouse(t)
	h.join("coffee", "ann")
	h.restart()
	ann := h.join("tea", "ann")
	err := h.Move(t.Context(), &livekit.MoveParticipantRequest{Room: "tea", Identity: "ann", DestinationRoom: "coffee"})
	require.Equal(t, rooms.Exists, rooms.ErrorCode(err))
	require.Nil(t, ann.leave())
	ann.publish(t, "mic", livekit.TrackSource_MICROPHONE)
}

// TestMovesRaceWithEverything moves, joins, removes and closes concurrently. Whatever
// happens, each session is opened and closed once.
func TestMovesRaceWithEverything(t *testing.T) {
	h := newHouse(t, func(c *rooms.Config) { c.EmptyTimeout, c.DepartureTimeout = 5, 5 }) // ms
	names := []string{"a", "b", "c"}
	var moved atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 5))
			for range 60 {
				from, to, id := names[rnd.IntN(3)], names[rnd.IntN(3)], fmt.Sprint("p", rnd.IntN(4))
				switch n := rnd.IntN(10); {
				case n < 4:
					if c, err := h.try(from, id); err == nil {
						c.Connected()
						c.AddTrack(&livekit.AddTrackRequest{Cid: "c", Type: livekit.TrackType_VIDEO})
					}
				case n < 8:
					if h.Move(context.Background(), &livekit.MoveParticipantRequest{Room: from, Identity: id, DestinationRoom: to}) == nil {
						moved.Add(1)
					}
				case n == 8:
					_ = h.Remove(context.Background(), &livekit.RoomParticipantIdentity{Room: from, Identity: id})
				default:
					_ = h.Delete(context.Background(), from)
				}
			}
		})
	}
	wg.Wait()
	require.Positive(t, moved.Load())
	for _, name := range names {
		if err := h.Delete(t.Context(), name); err != nil {
			require.ErrorIs(t, err, rooms.ErrNoRoom)
		}
	}
	h.everybodyLeftOnce()
}

func TestAForwardedParticipantIsShownAsItIs(t *testing.T) {
	h := newHouse(t)
	ann, eve := h.join("stage", "ann"), h.join("hall", "eve")
	cam := ann.publish(t, "cam", livekit.TrackSource_CAMERA)
	require.NoError(t, h.Forward(t.Context(), &livekit.ForwardParticipantRequest{Room: "stage", Identity: "ann", DestinationRoom: "hall"}))
	seen := func() *livekit.ParticipantInfo {
		h.flush("hall")
		return find(eve, func(m *livekit.SignalResponse) *livekit.ParticipantInfo {
			for _, p := range m.GetUpdate().GetParticipants() {
				if p.Identity == "ann" {
					return p
				}
			}
			return nil
		})
	}
	hide := func(hidden bool) {
		t.Helper()
		_, err := h.UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{Room: "stage", Identity: "ann", Permission: &livekit.ParticipantPermission{
			CanPublish: true, CanSubscribe: true, Hidden: hidden,
		}})
		require.NoError(t, err)
	}
	require.Equal(t, livekit.ParticipantInfo_ACTIVE, seen().State)
	hide(true)
	require.Equal(t, livekit.ParticipantInfo_DISCONNECTED, seen().State)
	require.Empty(t, h.join("hall", "bob").snap.Others[1:], "bob sees eve alone")
	hide(false)
	require.Equal(t, livekit.ParticipantInfo_ACTIVE, seen().State)
	ann.Mute(&livekit.MuteTrackRequest{Sid: cam, Muted: true})
	ann.Sync()
	require.True(t, seen().Tracks[0].Muted)

	_, err := h.UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{
		Room: "stage", Identity: "ann", Permission: &livekit.ParticipantPermission{CanSubscribe: true},
	})
	require.NoError(t, err)
	require.Empty(t, seen().Tracks)
	require.False(t, eve.isSubscribed(cam))
	hide(false)
	cam = ann.publish(t, "cam2", livekit.TrackSource_CAMERA)
	h.flush("hall")
	require.True(t, eve.isSubscribed(cam), "it may publish again, there too")
}

// TestFramesOfTheServerEndAsTheClientWasTold: their trailer is that of the client's join,
// also after a move.
func TestFramesOfTheServerEndAsTheClientWasTold(t *testing.T) {
	h := newHouse(t)
	ann, bob := h.join("tea", "ann"), h.join("coffee", "bob")
	eve := h.join("tea", "eve")
	trailer := func(of *client, sid string) string {
		h.flush("coffee")
		of.Sync()
		of.mu.Lock()
		defer of.mu.Unlock()
		return of.trailers[sid]
	}
	cam := ann.publish(t, "cam", camera)
	require.NotEmpty(t, eve.snap.SIFTrailer)
	require.Equal(t, string(eve.snap.SIFTrailer), trailer(eve, cam))
	require.NotEqual(t, eve.snap.SIFTrailer, bob.snap.SIFTrailer, "every room has its own")
	require.NoError(t, h.Move(t.Context(), &livekit.MoveParticipantRequest{Room: "tea", Identity: "eve", DestinationRoom: "coffee"}))
	mic := bob.publish(t, "mic", microphone)
	require.Equal(t, string(eve.snap.SIFTrailer), trailer(eve, mic))
}
