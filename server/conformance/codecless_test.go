package conformance

import (
	"testing"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/stretchr/testify/require"
)

// A bot with only audio codecs hears a room that has video too, or gets it later. Over a
// single connection the SDK makes no offer for such a bot, with any server: it offers
// video, for which the bot has no codec.
func TestAudioOnlyBot(t *testing.T) {
	room := roomName(t)
	alice := dual.join(t, room, "alice")
	video, audio := alice.publishCamera(t), alice.publishMicrophone(t)
	bot := dual.join(t, room, "bot", lksdk.WithCodecs([]livekit.Codec{{Mime: "audio/opus"}}))
	bot.awaitMedia(t, audio.SID(), 20)
	share := alice.publish(t, newSource(t, vp8), screen)
	said := bot.publishMicrophone(t)
	alice.awaitMedia(t, said.SID(), 20)
	more := alice.publish(t, newSource(t, opus), livekit.TrackSource_SCREEN_SHARE_AUDIO)
	bot.awaitMedia(t, more.SID(), 20)
	bot.awaitMedia(t, audio.SID(), 20)
	require.Nil(t, bot.inbound(video.SID()))
	require.Nil(t, bot.inbound(share.SID()))
	require.NotContains(t, bot.lines(), "reconnecting")
}
