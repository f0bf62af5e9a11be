package forward

import (
	"encoding/binary"
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/stretchr/testify/require"
)

// TestTheCaptureTimeIsKnownAfterASwitch: publishers send the capture time of some packets
// only, and a receiver derives those of the others. After a switch, its last capture time
// is of another layer.
func TestTheCaptureTimeIsKnownAfterASwitch(t *testing.T) {
	const id = 4
	codec := vp8Config()
	track := newTestTrack(t, livekit.TrackType_VIDEO, codec)
	layer := func(ssrc uint32, rid string, q livekit.VideoQuality) *sender {
		s := newSender(track, ssrc, codec, rid, q)
		s.layer.Close()
		s.layer = track.AddLayer(LayerConfig{RID: rid, SSRC: ssrc, Codec: codec, Quality: q, WriteRTCP: s.rtcp.write, Ext: Extensions{AbsCaptureTime: id}})
		return s
	}
	low, high := layer(1, "q", livekit.VideoQuality_LOW), layer(2, "f", livekit.VideoQuality_HIGH)
	r := newReceiver(track, codec, func(c *ForwarderConfig) { c.Ext = Extensions{AbsCaptureTime: 9} })
	r.f.SetSettings(Settings{Quality: livekit.VideoQuality_LOW})

	frame := func(s *sender, key bool, told []byte) {
		t.Helper()
		var p rtp.Packet
		require.NoError(t, p.Unmarshal(s.makeFrame(key, 0, 1)[0]))
		if told != nil {
			require.NoError(t, p.SetExtension(id, told))
		}
		raw, err := p.Marshal()
		require.NoError(t, err)
		s.layer.WriteRTP(raw, s.at)
	}
	at := func(seconds float64, offset ...byte) []byte {
		return append(binary.BigEndian.AppendUint64(nil, uint64(seconds*(1<<32))), offset...)
	}
	offset := make([]byte, 8)
	offset[7] = 5 // of the capturer's clock; it is not changed
	frame(low, true, at(100))
	frame(high, true, at(200, offset...))
	for range 15 {
		frame(low, false, nil)
		frame(high, false, nil)
	}
	for i, p := range r.take() {
		require.Equal(t, i == 0, p.GetExtension(9) != nil, "frames that have none get none")
	}
	r.f.SetSettings(Settings{Quality: livekit.VideoQuality_HIGH})
	frame(high, true, nil)
	got := r.take()
	require.Len(t, got, 1)
	told := got[0].GetExtension(9)
	require.Len(t, told, 16)
	require.InDelta(t, 200+16*3000./90000, float64(binary.BigEndian.Uint64(told))/(1<<32), 0.000001)
	require.Equal(t, offset, told[8:])

	r.f.HandleRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{got[0].SequenceNumber})}})
	again := r.take()
	require.Len(t, again, 1)
	require.Equal(t, told, again[0].GetExtension(9), "the same when it is sent again")

	// An old value cannot be used.
	high.ts += 90000 * (captureAge + 1)
	frame(high, true, nil)
	got = r.take()
	require.Len(t, got, 1)
	require.Nil(t, got[0].GetExtension(9))
}
