package forward

import (
	"bytes"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink"
	"parlor/media/forward/vp8"
)

// muted makes a forwarder of a muted track, and records its packets.
func muted(t *testing.T, kind livekit.TrackType, codec Codec, trailer []byte) (*Track, *Forwarder, *[]rtp.Packet) {
	track := newTestTrack(t, kind, codec)
	track.SetMuted(true)
	var out []rtp.Packet
	f := track.AddForwarder(ForwarderConfig{
		SSRC: 7, RTXSSRC: 8, Codec: codec, Trailer: trailer,
		Output: writes(func(h *rtp.Header, payload []byte) error {
			out = append(out, rtp.Packet{Header: h.Clone(), Payload: bytes.Clone(payload)})
			return nil
		}),
	})
	return track, f, &out
}

// tickOnce runs the forwarder's periodic work, n seconds after the track was made.
func tickOnce(t *Track, f *Forwarder, n int) {
	at := t.epoch.Add(time.Duration(n) * time.Second)
	f.tick(at, t.since(at))
}

func TestMadeFramesByCodec(t *testing.T) {
	trailer := []byte("trailer")
	for _, c := range []struct {
		codec   Codec
		packets [][]byte // the end of each packet
	}{
		{opusConfig(), [][]byte{opusSilence}},
		{Codec{MimeType: "audio/red", ClockRate: 48000, PayloadType: 63, Fmtp: "111/111"}, [][]byte{opusSilence}},
		{Codec{MimeType: "audio/PCMU", ClockRate: 8000, PayloadType: 1}, [][]byte{muLawSilence}},
		{Codec{MimeType: "audio/PCMA", ClockRate: 8000, PayloadType: 8}, [][]byte{aLawSilence}},
		{vp8Config(), [][]byte{blackVP8}},
		{Codec{MimeType: "video/H264", ClockRate: 90000, PayloadType: 102}, blackH264},
		{Codec{MimeType: "video/AV1", ClockRate: 90000, PayloadType: 35}, nil},
		{Codec{MimeType: "video/VP9", ClockRate: 90000, PayloadType: 98}, nil},
	} {
		t.Run(c.codec.MimeType, func(t *testing.T) {
			kind := livekit.TrackType_AUDIO
			if c.codec.ClockRate == 90000 {
				kind = livekit.TrackType_VIDEO
			}
			track, f, out := muted(t, kind, c.codec, trailer)
			for n := range 20 {
				tickOnce(track, f, n)
			}
			each := max(len(c.packets), 1)
			require.Len(t, *out, madeFrames*each, "a few, not for ever")
			for i, p := range *out {
				if i > 0 {
					earlier := (*out)[i-1]
					require.Equal(t, earlier.SequenceNumber+1, p.SequenceNumber)
					require.Equal(t, i%each != 0, p.Timestamp == earlier.Timestamp, "packets of one frame share it")
					require.LessOrEqual(t, p.Timestamp-earlier.Timestamp, c.codec.ClockRate)
				}
				if c.packets == nil {
					require.Empty(t, p.Payload)
					require.True(t, p.Padding)
					require.NotZero(t, p.Header.PaddingSize)
					continue
				}
				require.False(t, p.Padding)
				want := c.packets[i%each]
				if last := i%each == each-1; last {
					require.Equal(t, kind == livekit.TrackType_VIDEO, p.Marker)
					want = append(bytes.Clone(want), trailer...)
				}
				require.True(t, bytes.HasSuffix(p.Payload, want))
				if c.codec.MimeType == "audio/red" {
					require.EqualValues(t, 111, p.PayloadType)
				} else {
					require.Equal(t, c.codec.PayloadType, p.PayloadType)
				}
			}
		})
	}
}

// A subscriber that has real frames gets no substitute frames, even when the track is
// muted.
func TestNoneAreMadeAfterRealFrames(t *testing.T) {
	track, f, out := muted(t, livekit.TrackType_VIDEO, vp8Config(), nil)
	tickOnce(track, f, 1)
	require.Len(t, *out, 1)
	track.SetMuted(false)
	s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
	s.at = track.epoch.Add(3 * time.Second)
	s.frame(true, 1)
	require.Len(t, *out, 2)
	black, real := (*out)[0], (*out)[1]
	require.Equal(t, black.SequenceNumber+1, real.SequenceNumber)
	require.InDelta(t, 2*90000, real.Timestamp-black.Timestamp, 9000, "as far apart as they were sent")
	before, ok := vp8.Parse(black.Payload)
	require.True(t, ok)
	require.True(t, before.Key && before.Start)
	after, ok := vp8.Parse(real.Payload)
	require.True(t, ok)
	require.Equal(t, before.PictureID+1, after.PictureID)
	require.Equal(t, before.TL0PicIdx+1, after.TL0PicIdx)
	require.Equal(t, before.KeyIdx+1, after.KeyIdx)
	track.SetMuted(true)
	for n := range 5 {
		tickOnce(track, f, 4+n)
	}
	require.Len(t, *out, 2)
}

// Before the subscriber is connected, no packet counts as sent or failed. Substitute
// frames are sent once it is connected.
func TestNoFramesAreMadeBeforeConnected(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	track.SetMuted(true)
	connected, written := false, 0
	f := track.AddForwarder(ForwarderConfig{SSRC: 7, Codec: vp8Config(), Output: writes(func(*rtp.Header, []byte) error {
		if !connected {
			return downlink.ErrNotConnected
		}
		written++
		return nil
	})})
	for n := range 20 {
		tickOnce(track, f, n)
	}
	stats := f.Stats()
	require.Zero(t, stats.WriteErrors)
	require.Zero(t, stats.Packets)
	connected = true
	for n := range 20 {
		tickOnce(track, f, 20+n)
	}
	require.Equal(t, madeFrames, written)
	require.EqualValues(t, madeFrames, f.Stats().Packets)
}

// A NACK for a substitute frame is ignored: another one follows.
func TestMadeFramesAreNotSentAgain(t *testing.T) {
	track, f, out := muted(t, livekit.TrackType_VIDEO, vp8Config(), nil)
	tickOnce(track, f, 1)
	require.Len(t, *out, 1)
	f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{
		MediaSSRC: 7, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{(*out)[0].SequenceNumber}),
	}})
	require.Len(t, *out, 1)
	tickOnce(track, f, 2)
	require.Len(t, *out, 2)
}
