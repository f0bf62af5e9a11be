package conformance

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/stretchr/testify/require"
)

// A participant that joins while microphones and cameras are muted gets their tracks,
// though the SDK reports a track only with its first packet: it gets silence and black,
// marked if the track is encrypted end to end. Once unmuted, the tracks play at once.
func TestMutedBeforeSubscribed(t *testing.T) {
	parlorOnly(t)
	inBothModes(t, func(t *testing.T, m mode) {
		room := roomName(t)
		alice, bob := m.join(t, room, "alice"), m.join(t, room, "bob")
		var pubs []*lksdk.LocalTrackPublication
		for _, c := range []struct {
			codec      codec
			kind       livekit.TrackSource
			encryption livekit.Encryption_Type
		}{
			{opus, mic, livekit.Encryption_NONE},
			{pcmu, livekit.TrackSource_SCREEN_SHARE_AUDIO, livekit.Encryption_GCM},
			{vp8, camera, livekit.Encryption_NONE},
			{h264, screen, livekit.Encryption_GCM},
		} {
			pub, err := alice.LocalParticipant.PublishTrack(newSource(t, c.codec).track, &lksdk.TrackPublicationOptions{
				Source: c.kind, VideoWidth: 320, VideoHeight: 180, Encryption: c.encryption,
			})
			require.NoError(t, err)
			bob.awaitMedia(t, pub.SID(), 5)
			pubs = append(pubs, pub)
		}
		for _, pub := range pubs {
			pub.SetMuted(true)
			bob.await(t, "muted alice "+pub.Source().String())
		}
		late := m.join(t, room, "late")
		for _, pub := range pubs {
			late.await(t, "subscribed alice "+pub.Source().String())
			require.True(t, late.remote(t, "alice", pub.Source()).IsMuted())
			eventually(t, "a frame that the server made", func() bool { return late.inbound(pub.SID()).unstamped() != nil })
			encrypted := late.remote(t, "alice", pub.Source()).TrackInfo().Encryption != livekit.Encryption_NONE
			require.NotEmpty(t, late.SifTrailer())
			// In H.264 only the last packet is marked, so the newest packet may not be.
			eventually(t, "a frame marked as the server's, if it is encrypted", func() bool {
				return bytes.HasSuffix(late.inbound(pub.SID()).unstamped(), late.SifTrailer()) == encrypted
			})
			require.Empty(t, late.inbound(pub.SID()).all(), "nothing of hers")
		}
		for _, pub := range pubs {
			seen := len(bob.inbound(pub.SID()).all())
			pub.SetMuted(false)
			late.awaitMedia(t, pub.SID(), 50)
			numbers := func(packets []packet) (all []uint32) {
				for _, p := range packets {
					all = append(all, p.stamp.number)
				}
				slices.Sort(all)
				return slices.Compact(all)
			}
			mine, bobs := numbers(late.inbound(pub.SID()).all()), numbers(bob.inbound(pub.SID()).all()[seen:])
			interval := opus.interval
			if pub.Kind() == lksdk.TrackKindVideo {
				interval = vp8.interval
			}
			allowed := uint32(500 * time.Millisecond / interval)
			require.LessOrEqual(t, mine[0], bobs[0]+allowed, "it begins with what others get first")
			for i := 1; i < len(mine); i++ {
				require.LessOrEqual(t, mine[i]-mine[i-1], allowed, "frames are missing")
			}
		}
	})
}
