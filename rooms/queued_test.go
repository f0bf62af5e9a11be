package rooms_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
)

// announced is the track that the client was last permitted to send as cid.
func (c *client) announced(cid string) *livekit.TrackInfo {
	return find(c, func(m *livekit.SignalResponse) *livekit.TrackInfo {
		if tp := m.GetTrackPublished(); tp.GetCid() == cid {
			return tp.Track
		}
		return nil
	})
}

var addMic = &livekit.AddTrackRequest{Cid: "mic", Type: livekit.TrackType_AUDIO, Source: microphone}

// TestAQueuedTrackIsAnnouncedWhenTheOldOneEnds: it has the mute state that the client has
// set by then, and is refused if it may not be published by then.
func TestAQueuedTrackIsAnnouncedWhenTheOldOneEnds(t *testing.T) {
	h := newHouse(t)
	ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
	old := ann.publish(t, "mic", microphone)
	ann.AddTrack(addMic)
	ann.Sync()
	require.Equal(t, livekit.RequestResponse_QUEUED, ann.refused().GetReason())
	require.Equal(t, old, ann.announced("mic").Sid)
	_, err := h.MuteTrack(t.Context(), &livekit.MuteRoomTrackRequest{Room: "tea", Identity: "ann", TrackSid: old, Muted: true})
	require.NoError(t, err)
	ann.TrackUnpublished(old)
	ann.Sync()
	again := ann.announced("mic")
	require.NotEqual(t, old, again.Sid)
	require.True(t, again.Muted)
	ann.TrackPublished(fakeTrack(again.Sid), rooms.TrackFacts{})
	ann.Sync()
	require.True(t, bob.isSubscribed(again.Sid))

	ann.AddTrack(addMic)
	_, err = h.UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{
		Room: "tea", Identity: "ann", Permission: &livekit.ParticipantPermission{CanSubscribe: true},
	})
	require.NoError(t, err)
	require.Equal(t, livekit.RequestResponse_NOT_ALLOWED, ann.refused().GetReason())
	require.Equal(t, again.Sid, ann.announced("mic").Sid)
}

func TestAQueuedTrackIsAnsweredAlsoIfTheOldOneDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		ann := h.join("tea", "ann")
		old := ann.publish(t, "mic", microphone)
		ann.AddTrack(addMic)
		time.Sleep(31 * time.Second)
		ann.Sync()
		require.Equal(t, livekit.RequestResponse_UNCLASSIFIED_ERROR, ann.refused().GetReason())
		require.Equal(t, "mic", ann.refused().GetAddTrack().GetCid())
		ann.TrackUnpublished(old)
		ann.Sync()
		require.Equal(t, old, ann.announced("mic").Sid, "nothing waits any more")
	})
}

// TestAnAnnouncedTrackIsAnnouncedAgain to a client that asks again. It may be sent even
// if the section ends that was to carry it first.
func TestAnAnnouncedTrackIsAnnouncedAgain(t *testing.T) {
	h := newHouse(t)
	ann, bob := h.join("tea", "ann"), h.join("tea", "bob")
	count := func() (n int) {
		ann.Sync()
		ann.mu.Lock()
		defer ann.mu.Unlock()
		for _, m := range ann.messages {
			if m.GetTrackPublished() != nil {
				n++
			}
		}
		return n
	}
	ann.AddTrack(addMic)
	ann.AddTrack(addMic)
	require.Equal(t, 2, count())
	require.Nil(t, ann.refused())
	mic := ann.announced("mic")
	ann.TrackUnpublished(mic.Sid)
	ann.TrackPublished(fakeTrack(mic.Sid), rooms.TrackFacts{})
	ann.Sync()
	require.True(t, bob.isSubscribed(mic.Sid))

	ann.AddTrack(&livekit.AddTrackRequest{Cid: "cam", Type: livekit.TrackType_VIDEO, Source: camera})
	ann.AddTrack(&livekit.AddTrackRequest{Cid: "cam", Type: livekit.TrackType_AUDIO, Source: microphone})
	require.Equal(t, 3, count())
	require.Equal(t, livekit.RequestResponse_INVALID_REQUEST, ann.refused().GetReason())
	ann.TrackUnpublished(ann.announced("cam").Sid)
	ann.AddTrack(&livekit.AddTrackRequest{Cid: "cam", Type: livekit.TrackType_AUDIO, Source: microphone})
	require.Equal(t, 4, count(), "the name is free")
}

// TestQueuedTracksAreBounded: they count like announced ones.
func TestQueuedTracksAreBounded(t *testing.T) {
	h := newHouse(t)
	ann := h.join("tea", "ann")
	cids := make([]string, 70)
	for i := range cids {
		cids[i] = "cid" + string(rune('A'+i))
		ann.publish(t, cids[i], microphone)
	}
	for _, cid := range cids {
		ann.AddTrack(&livekit.AddTrackRequest{Cid: cid, Type: livekit.TrackType_AUDIO, Source: microphone})
	}
	ann.Sync()
	require.Equal(t, livekit.RequestResponse_LIMIT_EXCEEDED, ann.refused().GetReason())
}

// TestATrackThatIsAnnouncedCanBeChanged before it is sent: by its publisher, and muted by a
// moderator.
func TestATrackThatIsAnnouncedCanBeChanged(t *testing.T) {
	h := newHouse(t)
	ann := h.join("tea", "ann")
	announce := func(cid string, kind livekit.TrackType, source livekit.TrackSource) string {
		ann.AddTrack(&livekit.AddTrackRequest{Cid: cid, Type: kind, Source: source, Width: 640, Height: 360})
		ann.Sync()
		return ann.announced(cid).GetSid()
	}
	mic := announce("mic", livekit.TrackType_AUDIO, microphone)
	cam := announce("cam", livekit.TrackType_VIDEO, camera)
	ann.UpdateLocalAudioTrack(&livekit.UpdateLocalAudioTrack{TrackSid: mic, Features: []livekit.AudioTrackFeature{livekit.AudioTrackFeature_TF_STEREO}})
	ann.UpdateLocalVideoTrack(&livekit.UpdateLocalVideoTrack{TrackSid: cam, Width: 1280, Height: 720})
	ann.Sync()
	require.Nil(t, ann.refused())
	muted, err := h.MuteTrack(t.Context(), &livekit.MuteRoomTrackRequest{Room: "tea", Identity: "ann", TrackSid: mic, Muted: true})
	require.NoError(t, err)
	require.True(t, muted.GetMuted())
	told := ann.toldMuted(mic)
	require.NotNil(t, told)
	require.True(t, *told)
	require.Contains(t, h.resume("tea", "ann").Mutes, &livekit.MuteTrackRequest{Sid: mic, Muted: true})
	require.Equal(t, mic, announce("mic", livekit.TrackType_AUDIO, microphone), "it asks again, and does not know of the mute")

	ann.TrackPublished(fakeTrack(mic), rooms.TrackFacts{})
	ann.TrackPublished(fakeTrack(cam), rooms.TrackFacts{})
	ann.Sync()
	info := map[string]*livekit.TrackInfo{}
	for _, track := range h.person("tea", "ann").Tracks {
		info[track.Sid] = track
	}
	require.True(t, info[mic].Muted)
	require.Contains(t, h.resume("tea", "ann").Mutes, &livekit.MuteTrackRequest{Sid: mic, Muted: true})
	require.Contains(t, info[mic].AudioFeatures, livekit.AudioTrackFeature_TF_STEREO)
	require.Equal(t, []uint32{1280, 720}, []uint32{info[cam].Width, info[cam].Height})

	_, err = h.MuteTrack(t.Context(), &livekit.MuteRoomTrackRequest{Room: "tea", Identity: "ann", TrackSid: "TR_none", Muted: true})
	require.NoError(t, err)

	// Who may not publish any more is no publisher.
	require.True(t, h.person("tea", "ann").IsPublisher)
	got, err := h.UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{
		Room: "tea", Identity: "ann", Permission: &livekit.ParticipantPermission{CanSubscribe: true},
	})
	require.NoError(t, err)
	require.False(t, got.IsPublisher)
	require.False(t, h.person("tea", "ann").IsPublisher)
}
