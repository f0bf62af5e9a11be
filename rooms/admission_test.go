package rooms_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// canJoin reports whether a join would succeed.
func (h *house) canJoin(room, identity string, edit ...func(*rooms.JoinRequest)) error {
	req := &rooms.JoinRequest{Room: room, Info: &livekit.ParticipantInfo{Identity: identity, Permission: anyone()}}
	for _, e := range edit {
		e(req)
	}
	_, err := h.CanJoin(h.t.Context(), req)
	return err
}

// refused checks that a join and CanJoin fail with the same code.
func (h *house) refused(want rooms.Code, room, identity string, edit ...func(*rooms.JoinRequest)) {
	h.t.Helper()
	asked := h.canJoin(room, identity, edit...)
	require.Equal(h.t, want, rooms.ErrorCode(asked), "%v", asked)
	_, err := h.try(room, identity, edit...)
	require.Equal(h.t, asked, err)
}

func reject(c *rooms.Config) { c.RejectDuplicates = true }

func session(sid string) func(*rooms.JoinRequest) {
	return func(r *rooms.JoinRequest) { r.Session = sid }
}

func TestDuplicatesAreRejected(t *testing.T) {
	h := newHouse(t, reject)
	first := h.join("tea", "ann")
	h.refused(rooms.Exists, "tea", "ann")
	h.refused(rooms.Exists, "tea", "ann", session("PA_another"))
	require.Nil(t, first.leave())
	h.join("tea", "bob")

	// The same client reconnects before the server has noticed that its connection is
	// lost.
	second := h.join("tea", "ann", session(first.SID()))
	require.Equal(t, livekit.DisconnectReason_DUPLICATE_IDENTITY, first.leave().Reason)

	// The connection is known to be lost: any client with a token may join.
	second.SignalLost()
	second.Sync()
	require.NoError(t, h.canJoin("tea", "ann"))
	require.NoError(t, h.Resume(t.Context(), "tea", "ann", nil, func(*rooms.Participant, rooms.Snapshot) {}))
	h.refused(rooms.Exists, "tea", "ann") // the client is back
	second.SignalLost()
	third := h.join("tea", "ann")

	third.Participant.Leave(livekit.DisconnectReason_CLIENT_INITIATED)
	third.Sync()
	h.join("tea", "ann")
}

func TestWhoIsExpectedBackIsNoDuplicate(t *testing.T) {
	h := newHouse(t, reject)
	ann := h.join("tea", "ann")
	h.flush("tea")
	h.restart(reject)
	back := h.join("tea", "ann")
	require.Equal(t, ann.SID(), back.SID())
	h.refused(rooms.Exists, "tea", "ann")
}

func TestOfManyDuplicatesOneGetsIn(t *testing.T) {
	h := newHouse(t, reject)
	var in atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := h.try("tea", "ann"); err == nil {
				in.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, in.Load())
}

func TestJoinsAreHeldAgainstTheLimits(t *testing.T) {
	h := newHouse(t, func(c *rooms.Config) {
		c.Limits = rooms.Limits{MaxMetadata: 10, MaxAttributes: 10, MaxRoomName: 10, MaxIdentity: 10, MaxParticipantName: 10}
	})
	long := strings.Repeat("x", 11)
	h.refused(rooms.Invalid, long, "ann")
	h.refused(rooms.Invalid, "tea", long)
	h.refused(rooms.Invalid, "tea", "ann", func(r *rooms.JoinRequest) { r.Info.Name = long })
	h.refused(rooms.Invalid, "tea", "ann", func(r *rooms.JoinRequest) { r.Info.Metadata = long })
	h.refused(rooms.Invalid, "tea", "ann", func(r *rooms.JoinRequest) { r.Info.Attributes = map[string]string{"key": "a values"} })
	h.refused(rooms.Invalid, "tea", "ann", func(r *rooms.JoinRequest) { r.Create = &livekit.CreateRoomRequest{Metadata: long} })
	h.none("tea")
	h.join("0123456789", "0123456789", func(r *rooms.JoinRequest) {
		r.Info.Name, r.Info.Metadata, r.Info.Attributes = "0123456789", "0123456789", map[string]string{"key": "a value"}
	})
}

func TestAskingWhetherAJoinWouldSucceed(t *testing.T) {
	h := newHouse(t)
	ask := &rooms.JoinRequest{Room: "tea", Info: &livekit.ParticipantInfo{Identity: "ann", Permission: anyone()}}
	sid, err := h.CanJoin(t.Context(), ask)
	require.NoError(t, err)
	require.Empty(t, sid)
	h.none("tea")
	room, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "tea", MaxParticipants: 1})
	require.NoError(t, err)
	sid, err = h.CanJoin(t.Context(), ask)
	require.NoError(t, err)
	require.Equal(t, room.Sid, sid)
	h.join("tea", "ann")
	h.refused(rooms.Exhausted, "tea", "bob")
}

// TestALockedRoomLetsBackWhoWasInIt: a locked room admits no new participant, also after
// a restart.
func TestALockedRoomLetsBackWhoWasInIt(t *testing.T) {
	h := newHouse(t)
	ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
	locked := true
	_, err := h.Edit(t.Context(), "tea", rooms.RoomEdit{Locked: &locked})
	require.NoError(t, err)
	h.refused(rooms.Denied, "tea", "eve")

	h.restart()
	h.refused(rooms.Denied, "tea", "eve")
	require.Equal(t, ann.SID(), h.join("tea", "ann").SID())
	back := h.join("tea", "bob")

	// A client that the server itself asks to reconnect is admitted again ...
	back.NeedsReconnect("its media failed")
	back.Sync()
	h.refused(rooms.Denied, "tea", "bob", session("PA_another"))
	again := h.join("tea", "bob", session(bob.SID()))

	// ... and one that was removed is not.
	require.NoError(t, h.Remove(t.Context(), &livekit.RoomParticipantIdentity{Room: "tea", Identity: "bob"}))
	h.refused(rooms.Denied, "tea", "bob", session(again.SID()))
}
