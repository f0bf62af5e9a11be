package conformance

import (
	"testing"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/stretchr/testify/require"
)

// A publisher of PCMU with Opus as its backup, and of VP9 with VP8, is received by
// subscribers with only one codec of each kind. It sends the backups only when a
// subscriber needs them, even if it resumed before, and again after it reconnected or was
// moved.
func TestBackupCodecs(t *testing.T) {
	parlorOnly(t)
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		alice := m.join(t, room, "alice")
		publish := func(first, backup codec, kind livekit.TrackSource) *lksdk.LocalTrackPublication {
			t.Helper()
			second := newLayerSource(t, backup, 'q')
			pub, err := alice.LocalParticipant.PublishTrack(newLayerSource(t, first, 'f').track, &lksdk.TrackPublicationOptions{
				Source: kind, VideoWidth: 320, VideoHeight: 180, BackupCodecPolicy: livekit.BackupCodecPolicy_SIMULCAST,
			}, lksdk.WithBackupCodec(second.track))
			require.NoError(t, err)
			return pub
		}
		audio, video := publish(pcmu, opus, mic), publish(vp9, vp8, camera)
		takes := func(room, identity string, codecs ...codec) *peer {
			t.Helper()
			var only []livekit.Codec
			for _, c := range codecs {
				only = append(only, livekit.Codec{Mime: c.capability.MimeType, FmtpLine: c.capability.SDPFmtpLine})
			}
			return m.join(t, room, identity, lksdk.WithCodecs(only))
		}
		gets := func(p *peer, kind livekit.TrackSource, c codec, layer byte) {
			t.Helper()
			sid := p.remote(t, "alice", kind).SID()
			p.awaitMedia(t, sid, 20)
			in := p.inbound(sid)
			require.Equal(t, c.capability.MimeType, in.codec)
			for _, packet := range in.all() {
				require.Equal(t, layer, packet.stamp.layer)
			}
		}
		older := takes(room, "older", pcmu, vp9)
		gets(older, mic, pcmu, 'f')
		gets(older, camera, vp9, 'f')
		for _, kind := range []livekit.TrackSource{mic, camera} {
			require.Empty(t, older.remote(t, "alice", kind).TrackInfo().Codecs[1].Mid, "the backup is not sent yet")
		}

		alice.Simulate(lksdk.SimulateSignalReconnect)
		alice.await(t, "reconnected")
		require.Equal(t, audio.SID(), older.remote(t, "alice", mic).SID(), "it was a resume")
		newer := takes(room, "newer", opus, vp8)
		check := func() {
			t.Helper()
			gets(newer, mic, opus, 'q')
			gets(newer, camera, vp8, 'q')
			gets(older, mic, pcmu, 'f')
			gets(older, camera, vp9, 'f')
		}
		check()
		require.Len(t, newer.remote(t, "alice", mic).TrackInfo().Codecs, 2)

		alice.Simulate(lksdk.SimulateNodeFailure)
		alice.awaitCount(t, "reconnected", 2)
		for _, p := range []*peer{older, newer} {
			eventually(t, "the tracks are published again", func() bool {
				a, v := p.find("alice", mic), p.find("alice", camera)
				return a != nil && v != nil && a.SID() != audio.SID() && v.SID() != video.SID()
			})
		}
		check()

		to := room + "-to"
		older, newer = takes(to, "older", pcmu, vp9), takes(to, "newer", opus, vp8)
		_, err := roomService(env.server).MoveParticipant(t.Context(), &livekit.MoveParticipantRequest{
			Room: room, Identity: "alice", DestinationRoom: to,
		})
		require.NoError(t, err)
		check()
	})
}
