package media

import (
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

var vp9Codec = webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP9, ClockRate: 90000, SDPFmtpLine: "profile-id=0"}

// vp9Key is a key frame: picture id, begin and end, not predicted.
var vp9Key = []byte{0x8c, 0x01, 0xee}

// only makes a client that has one codec.
func only(codec webrtc.RTPCodecCapability) func(*webrtc.MediaEngine) error {
	return func(m *webrtc.MediaEngine) error {
		return m.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: codec, PayloadType: 96}, webrtc.RTPCodecTypeVideo)
	}
}

// withBackup announces VP8 as what the track can be had in too.
func withBackup(policy livekit.BackupCodecPolicy) func(*livekit.AddTrackRequest) {
	return func(r *livekit.AddTrackRequest) {
		r.SimulcastCodecs = append(r.SimulcastCodecs, &livekit.SimulcastCodec{Codec: "vp8"})
		r.BackupCodecPolicy = policy
	}
}

// wanted are the codecs that c was last asked to send of its track, the first of
// them first.
func (c *client) wanted() (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.qualities) == 0 {
		return nil
	}
	for _, codec := range c.qualities[len(c.qualities)-1].SubscribedCodecs {
		for _, q := range codec.Qualities {
			if q.Enabled {
				names = append(names, codec.Codec)
				break
			}
		}
	}
	return names
}

// publishBackup does what livekit-client does when the announced codec is wanted.
func (c *client) publishBackup(sid string) {
	c.t.Helper()
	backup, err := webrtc.NewTrackLocalStaticRTP(vp8, "backup", "stream")
	require.NoError(c.t, err)
	c.publishLocal(sid, backup, vp8, func(r *livekit.AddTrackRequest) { r.Sid = sid })
	pump(c.t, backup)
}

// Who cannot decode what is sent gets what the publisher announced besides, and for
// that it is asked to send it. Nobody else is harmed.
func TestBackupCodecOnDemand(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		pumpPayload(t, a.publish("TR_v", vp9Codec, withBackup(livekit.BackupCodecPolicy_SIMULCAST)), vp9Key)
		p := a.published("TR_v")
		require.Equal(t, "video/VP9", p.info.MimeType)

		b := newClient(t, e, clientConfig{sid: "PA_b", single: single})
		b.join()
		b.subscribe("PA_a", p)
		rb := b.receives("PA_a", "TR_v")
		require.Equal(t, webrtc.MimeTypeVP9, rb.Codec().MimeType)
		require.Equal(t, []string{"vp9"}, a.wanted())

		var waiting []*client
		for _, sid := range []string{"PA_c", "PA_d"} {
			c := newClient(t, e, clientConfig{sid: sid, single: single, codecs: only(vp8)})
			c.joinVideoOnly()
			c.subscribe("PA_a", p)
			require.Equal(t, "TR_v", c.events.wait(t, "subscribed").sid)
			waiting = append(waiting, c)
		}
		none := newClient(t, e, clientConfig{sid: "PA_n", single: single, codecs: only(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeH265, ClockRate: 90000})})
		none.joinVideoOnly()
		none.subscribe("PA_a", p)
		require.Equal(t, livekit.SubscriptionError_SE_CODEC_UNSUPPORTED, none.events.wait(t, "failed").err)

		require.Eventually(t, func() bool { return len(a.wanted()) == 2 }, patience, time.Millisecond)
		require.Equal(t, []string{"vp9", "vp8"}, a.wanted())
		a.publishBackup("TR_v")
		for _, c := range waiting {
			require.Equal(t, webrtc.MimeTypeVP8, c.receives("PA_a", "TR_v").Codec().MimeType)
		}
		_, _, err := rb.ReadRTP()
		require.NoError(t, err)
		require.Eventually(t, func() bool { return len(a.published("TR_v").info.Codecs) == 2 }, patience, time.Millisecond)
	})
}

// By the default policy those who could decode what was sent take the backup codec
// too, once it comes, in the stream that they have.
func TestAllTakeTheBackupCodec(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		pumpPayload(t, a.publish("TR_v", vp9Codec, withBackup(livekit.BackupCodecPolicy_PREFER_REGRESSION)), vp9Key)
		p := a.published("TR_v")
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single})
		b.join()
		b.subscribe("PA_a", p)
		r := b.receives("PA_a", "TR_v")
		require.Equal(t, webrtc.MimeTypeVP9, r.Codec().MimeType)
		c := newClient(t, e, clientConfig{sid: "PA_c", single: single, codecs: only(vp8)})
		c.joinVideoOnly()
		c.subscribe("PA_a", p)
		require.Eventually(t, func() bool { return len(a.wanted()) == 2 }, patience, time.Millisecond)
		a.publishBackup("TR_v")
		c.receives("PA_a", "TR_v")
		until(t, r, 10, func(p, before *rtp.Packet) bool {
			return r.Codec().MimeType == webrtc.MimeTypeVP8 && before != nil && p.SequenceNumber == before.SequenceNumber+1
		})
	})
}
