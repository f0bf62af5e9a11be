package rooms_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

const (
	microphone = livekit.TrackSource_MICROPHONE
	camera     = livekit.TrackSource_CAMERA
)

// muted reports whether a published track is muted, according to the API.
func (h *house) muted(identity, sid string) bool {
	h.t.Helper()
	info, err := h.Participant(h.t.Context(), "tea", identity)
	require.NoError(h.t, err)
	for _, track := range info.Tracks {
		if track.Sid == sid {
			return track.Muted
		}
	}
	require.FailNow(h.t, "no track "+sid)
	return false
}

// toldMuted is the last message to the client about muting its track; nil if there was
// none.
func (c *client) toldMuted(sid string) *bool {
	return find(c, func(m *livekit.SignalResponse) *bool {
		if mute := m.GetMute(); mute.GetSid() == sid {
			return &mute.Muted
		}
		return nil
	})
}

func TestMuteAllOnce(t *testing.T) {
	h := newHouse(t)
	ann, bob, host := h.join("tea", "ann"), h.join("tea", "bob"), h.join("tea", "host")
	mic, cam := ann.publish(t, "mic", microphone), ann.publish(t, "cam", camera)
	bobs, hosts := bob.publish(t, "mic", microphone), host.publish(t, "mic", microphone)

	all, err := h.MuteAll(t.Context(), "tea", rooms.Hold{Except: []string{"host"}}, false)
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, []string{"ann", "bob"}, []string{all[0].Identity, all[1].Identity})
	require.True(t, all[0].Track.Muted)
	require.True(t, h.muted("ann", mic) && h.muted("bob", bobs))
	require.False(t, h.muted("host", hosts) || h.muted("ann", cam))
	require.True(t, *ann.toldMuted(mic))
	require.Nil(t, host.toldMuted(hosts))

	ann.Mute(&livekit.MuteTrackRequest{Sid: mic})
	ann.Sync()
	require.False(t, h.muted("ann", mic), "nothing holds it")

	all, err = h.MuteAll(t.Context(), "tea", rooms.Hold{Sources: []livekit.TrackSource{camera}}, false)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, cam, all[0].Track.Sid)
	_, err = h.MuteAll(t.Context(), "nowhere", rooms.Hold{}, true)
	require.ErrorIs(t, err, rooms.ErrNoRoom)
}

// TestHeldTracksStayMuted: earlier and later tracks stay muted, through a restart, until
// the hold is released.
func TestHeldTracksStayMuted(t *testing.T) {
	h := newHouse(t, func(c *rooms.Config) { c.EnableRemoteUnmute = true })
	ann := h.join("tea", "ann")
	mic := ann.publish(t, "mic", microphone)
	_, err := h.MuteAll(t.Context(), "tea", rooms.Hold{Except: []string{"host"}}, true)
	require.NoError(t, err)

	held := func(c *client, sid string) {
		t.Helper()
		c.Mute(&livekit.MuteTrackRequest{Sid: sid})
		c.Sync()
		require.True(t, h.muted(c.Identity(), sid))
		require.True(t, *c.toldMuted(sid))
		refused := find(c, func(m *livekit.SignalResponse) *livekit.RequestResponse { return m.GetRequestResponse() })
		require.Equal(t, livekit.RequestResponse_NOT_ALLOWED, refused.GetReason())
		_, err := h.MuteTrack(t.Context(), &livekit.MuteRoomTrackRequest{Room: "tea", Identity: c.Identity(), TrackSid: sid})
		require.Equal(t, rooms.Precondition, rooms.ErrorCode(err))
	}
	held(ann, mic)
	bob, host := h.join("tea", "bob"), h.join("tea", "host")
	held(bob, bob.publish(t, "mic", microphone))
	require.False(t, h.muted("bob", bob.publish(t, "cam", camera)))
	require.False(t, h.muted("host", host.publish(t, "mic", microphone)))

	h.flush("tea")
	h.restart(func(c *rooms.Config) { c.EnableRemoteUnmute = true })
	ann, host = h.join("tea", "ann"), h.join("tea", "host")
	mic = ann.publish(t, "mic", microphone)
	held(ann, mic)
	require.False(t, h.muted("host", host.publish(t, "mic", microphone)))

	require.NoError(t, h.Release(t.Context(), "tea"))
	require.True(t, h.muted("ann", mic), "only its publisher lets itself be heard")
	ann.Mute(&livekit.MuteTrackRequest{Sid: mic})
	ann.Sync()
	require.False(t, h.muted("ann", mic))
	require.False(t, h.muted("ann", ann.publish(t, "second", microphone)))
}

// TestWhoIsMovedIntoAHeldRoomIsMuted: a participant that is moved into a held room is
// muted there. One that is forwarded there is not muted in its own room.
func TestWhoIsMovedIntoAHeldRoomIsMuted(t *testing.T) {
	h := newHouse(t)
	h.join("tea", "host")
	_, err := h.MuteAll(t.Context(), "tea", rooms.Hold{}, true)
	require.NoError(t, err)
	ann := h.join("hall", "ann")
	mic := ann.publish(t, "mic", microphone)
	require.NoError(t, h.Forward(t.Context(), &livekit.ForwardParticipantRequest{Room: "hall", Identity: "ann", DestinationRoom: "tea"}))
	ann.Sync()
	require.Nil(t, ann.toldMuted(mic))
	require.NoError(t, h.Remove(t.Context(), &livekit.RoomParticipantIdentity{Room: "tea", Identity: "ann"}))
	require.NoError(t, h.Move(t.Context(), &livekit.MoveParticipantRequest{Room: "hall", Identity: "ann", DestinationRoom: "tea"}))
	ann.Sync()
	require.True(t, h.muted("ann", mic))
	require.True(t, *ann.toldMuted(mic))
}

// TestPermissionsAreMergedInTheRoom: two moderators who change different permissions at
// the same time do not undo each other's change.
func TestPermissionsAreMergedInTheRoom(t *testing.T) {
	h := newHouse(t)
	h.join("tea", "ann")
	permit := func(f func(*livekit.ParticipantPermission)) {
		_, err := h.EditParticipant(t.Context(), "tea", "ann", rooms.ParticipantEdit{Permit: f})
		require.NoError(t, err)
	}
	for i := range 20 {
		on := i%2 == 0
		var wg sync.WaitGroup
		wg.Go(func() { permit(func(p *livekit.ParticipantPermission) { p.CanPublish = on }) })
		wg.Go(func() { permit(func(p *livekit.ParticipantPermission) { p.CanSubscribe = on }) })
		wg.Go(func() { permit(func(p *livekit.ParticipantPermission) { p.CanPublishData = on }) })
		wg.Wait()
		info, err := h.Participant(t.Context(), "tea", "ann")
		require.NoError(t, err)
		got := []bool{info.Permission.CanPublish, info.Permission.CanSubscribe, info.Permission.CanPublishData}
		require.Equal(t, fmt.Sprint([]bool{on, on, on}), fmt.Sprint(got))
	}
}

func TestConditionalEditsOfParticipants(t *testing.T) {
	h := newHouse(t)
	ann := h.join("tea", "ann")
	edit := func(e rooms.ParticipantEdit) (rooms.Member, error) {
		return h.EditParticipant(t.Context(), "tea", "ann", e)
	}
	named := func(name string) func(rooms.Member) bool {
		return func(m rooms.Member) bool { return m.Info.Sid == ann.SID() && m.Info.Name == name }
	}
	_, err := edit(rooms.ParticipantEdit{Name: "Anna", If: named("")})
	require.NoError(t, err)
	_, err = edit(rooms.ParticipantEdit{Name: "Annette", If: named("")})
	require.Equal(t, rooms.Precondition, rooms.ErrorCode(err))
	info, err := h.Participant(t.Context(), "tea", "ann")
	require.NoError(t, err)
	require.Equal(t, "Anna", info.Name)
}
