package media

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

var vp9Codec = webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP9, ClockRate: 90000, SDPFmtpLine: "profile-id=0"}

// vp9Key is a keyframe: picture id, begin and end, not predicted.
var vp9Key = []byte{0x8c, 0x01, 0xee}

// only makes a client with a single codec.
func only(codec webrtc.RTPCodecCapability) func(*webrtc.MediaEngine) error {
	kind, _, _ := strings.Cut(codec.MimeType, "/")
	pt, ok := map[string]webrtc.PayloadType{webrtc.MimeTypePCMU: 0, webrtc.MimeTypeOpus: 111}[codec.MimeType]
	if !ok {
		pt = 96
	}
	return func(m *webrtc.MediaEngine) error {
		return m.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: codec, PayloadType: pt}, webrtc.NewRTPCodecType(kind))
	}
}

// withBackup announces a second codec of the track.
func withBackup(codec string, policy livekit.BackupCodecPolicy) func(*livekit.AddTrackRequest) {
	return func(r *livekit.AddTrackRequest) {
		r.SimulcastCodecs = append(r.SimulcastCodecs, &livekit.SimulcastCodec{Codec: codec})
		r.BackupCodecPolicy = policy
	}
}

// wanted are the codecs of the last request to c for a track's video, the first codec
// first.
func (c *client) wanted() (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.qualities) == 0 {
		return nil
	}
	for _, codec := range c.qualities[len(c.qualities)-1] {
		if codec.Highest != livekit.VideoQuality_OFF {
			names = append(names, codec.Codec)
		}
	}
	return names
}

// publishBackup does what clients do when the announced codec is wanted.
func (c *client) publishBackup(sid string, codec webrtc.RTPCodecCapability) {
	c.t.Helper()
	backup, err := webrtc.NewTrackLocalStaticRTP(codec, "backup-"+sid, "stream")
	require.NoError(c.t, err)
	c.publishLocal(sid, backup, codec, func(r *livekit.AddTrackRequest) { r.Sid = sid })
	pump(c.t, backup)
}

// heard are the codecs of the last request to c for audio. A codec that is not wanted any
// more has "no" before it.
func (c *client) heard() (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.sounds) == 0 {
		return nil
	}
	for _, codec := range c.sounds[len(c.sounds)-1] {
		if name := codec.Codec; codec.Highest != livekit.VideoQuality_OFF {
			names = append(names, name)
		} else {
			names = append(names, "no "+name)
		}
	}
	return names
}

// A subscriber that cannot decode what is sent gets the other codec that the publisher
// announced, and the publisher is asked to send it. Other subscribers are not affected.
func TestBackupCodecOnDemand(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		pumpPayload(t, a.publish("TR_v", vp9Codec, withBackup("vp8", livekit.BackupCodecPolicy_SIMULCAST)), vp9Key)
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
		a.publishBackup("TR_v", vp8)
		for _, c := range waiting {
			require.Equal(t, webrtc.MimeTypeVP8, c.receives("PA_a", "TR_v").Codec().MimeType)
		}
		_, _, err := rb.ReadRTP()
		require.NoError(t, err)
		require.Eventually(t, func() bool { return len(a.published("TR_v").info.Codecs) == 2 }, patience, time.Millisecond)
	})
}

// By the default policy, subscribers that could decode the first codec also switch to the
// backup codec once it is sent, within their stream.
func TestAllTakeTheBackupCodec(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		pumpPayload(t, a.publish("TR_v", vp9Codec, withBackup("vp8", livekit.BackupCodecPolicy_PREFER_REGRESSION)), vp9Key)
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
		a.publishBackup("TR_v", vp8)
		c.receives("PA_a", "TR_v")
		until(t, r, 10, func(p, before *rtp.Packet) bool {
			return r.Codec().MimeType == webrtc.MimeTypeVP8 && before != nil && p.SequenceNumber == before.SequenceNumber+1
		})
	})
}

var pcmuCodec = webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypePCMU, ClockRate: 8000}

// Audio too reaches a subscriber in a codec that it has. The publisher sends the second
// codec only when a subscriber needs it, and by the default policy beside the first.
func TestBackupCodecOfSound(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		first, backup webrtc.RTPCodecCapability
		asked         []string
	}{
		{"PCMU, then Opus", pcmuCodec, opus, []string{"pcmu", "opus"}},
		{"RED, then PCMU", red, pcmuCodec, []string{"red", "pcmu"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bothModes(t, func(t *testing.T, single bool) {
				e := newTestEngine(t, nil)
				a := newClient(t, e, clientConfig{sid: "PA_a", single: single, codecs: func(m *webrtc.MediaEngine) error {
					if err := m.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: red, PayloadType: 63}, webrtc.RTPCodecTypeAudio); err != nil {
						return err
					}
					return m.RegisterDefaultCodecs()
				}})
				a.join()
				const defaultPolicy = livekit.BackupCodecPolicy_PREFER_REGRESSION
				payload := []byte{111, 0xfc, 1, 2, 3} // RED of one block; as PCMU any bytes are valid
				pumpPayload(t, a.publish("TR_a", c.first, withBackup(c.backup.MimeType, defaultPolicy)), payload)
				p := a.published("TR_a")
				require.True(t, strings.EqualFold(c.first.MimeType, p.info.MimeType))

				both := newClient(t, e, clientConfig{sid: "PA_b", single: single})
				both.join()
				both.subscribe("PA_a", p)
				heard := both.receives("PA_a", "TR_a")
				require.Nil(t, a.heard(), "the first is sent unasked")

				choosy := newClient(t, e, clientConfig{sid: "PA_c", single: single, codecs: only(c.backup)})
				choosy.joinWith(webrtc.RTPCodecTypeAudio)
				choosy.subscribe("PA_a", p)
				require.Equal(t, "TR_a", choosy.events.wait(t, "subscribed").sid)
				require.Eventually(t, func() bool { return a.heard() != nil }, patience, time.Millisecond)
				require.Equal(t, c.asked, a.heard())
				a.publishBackup("TR_a", c.backup)
				r := choosy.receives("PA_a", "TR_a")
				require.Equal(t, c.backup.MimeType, r.Codec().MimeType)

				was := heard.Codec().MimeType
				until(t, heard, 10, func(p, before *rtp.Packet) bool {
					return before == nil || p.SequenceNumber == before.SequenceNumber+1
				})
				require.Equal(t, was, heard.Codec().MimeType, "a subscriber of the first keeps it")
				require.Eventually(t, func() bool { return len(a.published("TR_a").info.Codecs) == 2 }, patience, time.Millisecond)
			})
		})
	}
}

// By the regression policy, all subscribers that can receive the backup codec get it,
// within their stream.
func TestSoundRegresses(t *testing.T) {
	t.Parallel()
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		pump(t, a.publish("TR_a", pcmuCodec, withBackup("opus", livekit.BackupCodecPolicy_REGRESSION)))
		p := a.published("TR_a")
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single})
		b.join()
		b.subscribe("PA_a", p)
		r := b.receives("PA_a", "TR_a")
		require.Equal(t, webrtc.MimeTypePCMU, r.Codec().MimeType)
		c := newClient(t, e, clientConfig{sid: "PA_c", single: single, codecs: only(opus)})
		c.joinWith(webrtc.RTPCodecTypeAudio)
		c.subscribe("PA_a", p)
		require.Eventually(t, func() bool { return a.heard() != nil }, patience, time.Millisecond)
		a.publishBackup("TR_a", opus)
		c.receives("PA_a", "TR_a")
		until(t, r, 10, func(p, before *rtp.Packet) bool {
			return r.Codec().MimeType == webrtc.MimeTypeOpus && before != nil && p.SequenceNumber == before.SequenceNumber+1
		})
	})
}

// RED and Opus count as one codec if both are announced, because each can be made of the
// other.
func TestOpusIsNoBackupOfRED(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		pump(t, a.publish("TR_a", opus, withBackup("red", livekit.BackupCodecPolicy_REGRESSION)))
		p := a.published("TR_a")
		require.Len(t, *a.peer.pubTrack("TR_a").codecs.Load(), 1)
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single, codecs: only(pcmuCodec)})
		b.joinWith(webrtc.RTPCodecTypeAudio)
		b.subscribe("PA_a", p)
		require.Equal(t, livekit.SubscriptionError_SE_CODEC_UNSUPPORTED, b.events.wait(t, "failed").err)
		require.Nil(t, a.heard())
	})
}

// A demand may be reported while a client's WebSocket is lost, so it is repeated when the
// client resumes.
func TestWantedIsToldAgainAfterAResume(t *testing.T) {
	bothModes(t, func(t *testing.T, single bool) {
		e := newTestEngine(t, nil)
		a := newClient(t, e, clientConfig{sid: "PA_a", single: single})
		a.join()
		pump(t, a.publish("TR_a", pcmuCodec, withBackup("opus", livekit.BackupCodecPolicy_SIMULCAST)))
		audio := a.published("TR_a")
		pumpPayload(t, a.publish("TR_v", vp9Codec, withBackup("vp8", livekit.BackupCodecPolicy_SIMULCAST)), vp9Key)
		video := a.published("TR_v")
		b := newClient(t, e, clientConfig{sid: "PA_b", single: single, codecs: func(m *webrtc.MediaEngine) error {
			if err := only(opus)(m); err != nil {
				return err
			}
			return only(vp8)(m)
		}})
		b.join()
		b.subscribe("PA_a", audio)
		b.subscribe("PA_a", video)
		told := func() bool { return slices.Contains(a.heard(), "opus") && slices.Contains(a.wanted(), "vp8") }
		require.Eventually(t, told, patience, time.Millisecond)
		a.mu.Lock()
		a.sounds, a.qualities = nil, nil
		a.mu.Unlock()
		a.peer.Resume()
		require.Eventually(t, told, patience, time.Millisecond)
	})
}
