package media

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/sqlite"
	"parlor/rooms/sqlite/sqlitetest"
)

// told is the outlet of a client. It collects the tracks that the client may send.
type told struct{ announced chan *livekit.TrackInfo }

func (o told) Send(m *rooms.Message) bool {
	if tp := m.Response.GetTrackPublished(); tp != nil {
		o.announced <- tp.Track
	}
	return true
}

func (told) Leave(*livekit.LeaveRequest) {}
func (told) Attached() bool              { return true }

// house is a real rooms.Rooms.
func house(t *testing.T) *rooms.Rooms {
	t.Helper()
	store, err := sqlite.Open(context.Background(), sqlite.Config{Path: sqlitetest.Path(t)})
	require.NoError(t, err)
	rs := rooms.New(rooms.Config{Store: store, Log: testLog(t), AutoCreate: true, RestartGrace: time.Minute})
	require.NoError(t, rs.Open(context.Background()))
	t.Cleanup(func() {
		require.NoError(t, rs.Close(context.Background()))
		require.NoError(t, store.Close(context.Background()))
	})
	return rs
}

// enter joins a real room with real media.
func enter(t *testing.T, rs *rooms.Rooms, e *Engine, identity string) (*client, *rooms.Participant, told) {
	t.Helper()
	outlet := told{make(chan *livekit.TrackInfo, 10)}
	p, _, err := rs.Join(t.Context(), rooms.JoinRequest{
		Room: "tea", Protocol: 17, AutoSubscribe: true, Outlet: outlet,
		Info: &livekit.ParticipantInfo{Identity: identity, Permission: &livekit.ParticipantPermission{CanPublish: true, CanSubscribe: true}},
	})
	require.NoError(t, err)
	c := newClient(t, e, clientConfig{sid: p.SID(), change: func(cfg *PeerConfig) { cfg.Events = p }})
	require.NoError(t, p.Enter(c.peer, func(*rooms.Participant, rooms.Snapshot) {}))
	c.begin()
	return c, p, outlet
}

// A client's change of a track lasts, whatever its peer finds before or after it. This
// includes changes before the track exists.
func TestFactsUndoNoChange(t *testing.T) {
	e, rs := newTestEngine(t, nil), house(t)
	ann, p, outlet := enter(t, rs, e, "ann")
	bob, _, _ := enter(t, rs, e, "bob")
	local, err := webrtc.NewTrackLocalStaticRTP(opus, "cid-mic", "stream")
	require.NoError(t, err)
	_, err = ann.pub.AddTransceiverFromTrack(local, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
	require.NoError(t, err)
	p.AddTrack(&livekit.AddTrackRequest{
		Cid: "cid-mic", Type: livekit.TrackType_AUDIO, Source: livekit.TrackSource_MICROPHONE, Stereo: true, Muted: true, DisableRed: true,
	})
	sid := (<-outlet.announced).Sid
	p.Mute(&livekit.MuteTrackRequest{Sid: sid}) // it is not muted
	p.Sync()
	ann.offer(false)
	var shown *livekit.ParticipantInfo
	show := func() *livekit.ParticipantInfo {
		shown, err = rs.Participant(t.Context(), "tea", "ann")
		require.NoError(t, err)
		return shown
	}
	require.Eventually(t, func() bool {
		return show().State == livekit.ParticipantInfo_ACTIVE && len(shown.Tracks) > 0
	}, patience, time.Millisecond)

	p.UpdateLocalAudioTrack(&livekit.UpdateLocalAudioTrack{TrackSid: sid, Features: []livekit.AudioTrackFeature{livekit.AudioTrackFeature_TF_NO_DTX}})
	p.Sync()
	changed := show().Version
	pump(t, local) // the peer reports the track again when its first packet has come
	require.Eventually(t, func() bool { return show().Version > changed }, patience, time.Millisecond)
	track := shown.Tracks[0]
	require.Equal(t, []livekit.AudioTrackFeature{livekit.AudioTrackFeature_TF_NO_DTX}, track.AudioFeatures)
	require.True(t, track.DisableDtx)
	require.False(t, track.Stereo)
	require.False(t, track.Muted)

	n := ann.answered()
	ann.offer(false) // the next negotiation says so too
	require.Eventually(t, func() bool { return ann.answered() > n }, patience, time.Millisecond)
	ann.mu.Lock()
	answer := ann.answers[n].SDP
	ann.mu.Unlock()
	require.NotContains(t, answer, "stereo=1")
	require.NotContains(t, answer, "usedtx=1")

	r := bob.track()
	require.NoError(t, r.SetReadDeadline(time.Now().Add(patience)))
	for heard := false; !heard; {
		packet, _, err := r.ReadRTP()
		require.NoError(t, err)
		heard = bytes.Equal(packet.Payload, []byte{0xfc, 1, 2, 3}) // substitute frames for a muted track differ
	}
}
