package forward

import (
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/stretchr/testify/require"
)

func TestForwardsFromKeyFrame(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
	r := newReceiver(track, vp8Config(), nil)
	s.frame(false, 2)
	require.Empty(t, r.take(), "a receiver cannot start without a key frame")
	require.Equal(t, 1, count[*rtcp.PictureLossIndication](s.rtcp.take()))
	s.frame(true, 3)
	s.frame(false, 2)
	got := r.take()
	require.Len(t, got, 5)
	requireContiguous(t, got)
	require.Equal(t, []bool{false, false, true, false, true}, []bool{got[0].Marker, got[1].Marker, got[2].Marker, got[3].Marker, got[4].Marker})
	require.Equal(t, uint32(5000), got[0].SSRC)
	require.Equal(t, 2, r.flushes, "one a frame")
	require.Equal(t, 1, r.first)
	require.Equal(t, []livekit.StreamState{livekit.StreamState_ACTIVE}, r.states)
}

func TestAnswersNACKWithRTX(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
	r := newReceiver(track, vp8Config(), nil)
	s.frame(true, 3)
	got := r.take()
	lost := got[1]
	r.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{lost.SequenceNumber, lost.SequenceNumber + 100})}})
	again := r.take()
	require.Len(t, again, 1)
	require.Equal(t, uint32(5001), again[0].SSRC)
	require.Equal(t, uint8(97), again[0].PayloadType)
	require.Equal(t, lost.Timestamp, again[0].Timestamp)
	require.Equal(t, []byte{byte(lost.SequenceNumber >> 8), byte(lost.SequenceNumber)}, again[0].Payload[:2])
	require.Equal(t, lost.Payload, again[0].Payload[2:])
	stats := r.f.Stats()
	require.Equal(t, uint64(2), stats.NACKs)
	require.Equal(t, uint64(1), stats.Misses)
	r.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{lost.SequenceNumber})}})
	require.Empty(t, r.take(), "asked again within the ignore window")
}

func TestSwitchesOnKeyFrameOnly(t *testing.T) {
	track := newTestTrack(t, livekit.TrackType_VIDEO, vp8Config())
	low := newSender(track, 1, vp8Config(), "q", livekit.VideoQuality_LOW)
	high := newSender(track, 2, vp8Config(), "f", livekit.VideoQuality_HIGH)
	r := newReceiver(track, vp8Config(), nil)
	low.frame(true, 1)
	high.frame(false, 2)
	low.frame(false, 1)
	require.Len(t, r.take(), 2, "low goes on until high has a key frame")
	require.Equal(t, 1, count[*rtcp.PictureLossIndication](high.rtcp.take()))
	high.frame(true, 2)
	low.frame(false, 1)
	high.frame(false, 2)
	got := r.take()
	require.Len(t, got, 4)
	requireContiguous(t, got)
	require.Equal(t, livekit.VideoQuality_HIGH, r.f.Stats().Current)
}
