package forward

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/rtcp"
	"github.com/stretchr/testify/require"

	"parlor/media/downlink"
)

// TestTotalsCountWhatHasEndedToo: tracks and subscriptions may end between two scrapes.
func TestTotalsCountWhatHasEndedToo(t *testing.T) {
	var totals Totals
	var sent, sentBytes uint64
	for range 2 {
		track := NewTrack(TrackConfig{SID: "TR_x", Kind: livekit.TrackType_VIDEO, Codec: vp8Config(), Totals: &totals})
		s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
		receivers := []*receiver{newReceiver(track, vp8Config(), nil), newReceiver(track, vp8Config(), nil)}
		s.frame(true, 3)
		s.frame(false, 2)
		s.seq += 4 // lost
		s.frame(false, 1)
		r := receivers[0]
		r.f.HandleRTCP([]rtcp.Packet{
			&rtcp.TransportLayerNack{MediaSSRC: 5000, Nacks: rtcp.NackPairsFromSequenceNumbers([]uint16{r.take()[1].SequenceNumber})},
			&rtcp.PictureLossIndication{MediaSSRC: 5000},
			// It claims more losses than packets.
			&rtcp.ReceiverReport{Reports: []rtcp.ReceptionReport{{SSRC: 5000, TotalLost: 1<<23 - 1}}},
		})
		for _, r := range receivers {
			stats := r.f.Stats()
			sent, sentBytes = sent+stats.Packets, sentBytes+stats.Bytes
		}
		receivers[1].f.Close()
		track.Close()
	}
	_, in := totals.Received()
	require.EqualValues(t, 12, in.Packets)
	require.Greater(t, in.Bytes, uint64(1200))
	require.EqualValues(t, 8, in.Lost)
	require.Positive(t, in.KeyRequests)
	_, out := totals.Sent()
	require.Equal(t, sent, out.Packets)
	require.Equal(t, sentBytes, out.Bytes)
	require.EqualValues(t, 2, out.NACKs)
	require.EqualValues(t, 2, out.Repeats)
	require.EqualValues(t, 2, out.KeyRequests)
	require.LessOrEqual(t, out.Lost, out.Packets)
	audioIn, _ := totals.Received()
	audioOut, _ := totals.Sent()
	require.Zero(t, audioIn)
	require.Zero(t, audioOut)
}

// A receiver to which packets came twice reports fewer than no losses: it has lost none. What
// it reported before stays in the totals, and later losses count.
func TestAReportOfFewerThanNoLossesCountsNone(t *testing.T) {
	var totals Totals
	track := NewTrack(TrackConfig{SID: "TR_x", Kind: livekit.TrackType_VIDEO, Codec: vp8Config(), Totals: &totals})
	defer track.Close()
	s := newSender(track, 1, vp8Config(), "", livekit.VideoQuality_HIGH)
	r := newReceiver(track, vp8Config(), nil)
	for n := range 10 {
		s.frame(n == 0, 1)
	}
	for _, c := range []struct {
		field uint32
		lost  uint64
	}{{0xffffff, 0}, {0x800000, 0}, {3, 3}, {0xfffff0, 0}, {0x7fffff, 0x7fffff}} {
		raw, err := rtcp.Marshal([]rtcp.Packet{&rtcp.ReceiverReport{Reports: []rtcp.ReceptionReport{{SSRC: 5000, TotalLost: c.field}}}})
		require.NoError(t, err)
		packets, err := rtcp.Unmarshal(raw)
		require.NoError(t, err)
		r.f.HandleRTCP(packets)
		require.Equal(t, c.lost, r.f.Stats().Lost, "%#x", c.field)
		require.Equal(t, min(c.lost, 10), r.f.Account().Traffic.Lost, "%#x", c.field)
	}
}

// TestTotalsGrowWhileTracksLast: they are at most a second behind, and each packet counts
// once.
func TestTotalsGrowWhileTracksLast(t *testing.T) {
	var totals Totals
	track := NewTrack(TrackConfig{SID: "TR_x", Kind: livekit.TrackType_AUDIO, Codec: opusConfig(), Totals: &totals})
	t.Cleanup(track.Close)
	s := newSender(track, 1, opusConfig(), "", livekit.VideoQuality_HIGH)
	r := newReceiver(track, opusConfig(), nil)
	for range 10 {
		s.layer.WriteRTP(s.packet(false, []byte{1, 2, 3}), s.at)
		s.next()
	}
	require.Len(t, r.take(), 10)
	require.Eventually(t, func() bool {
		in, _ := totals.Received()
		out, _ := totals.Sent()
		return in.Packets == 10 && out.Packets == 10
	}, time.Minute, 50*time.Millisecond)
	track.Close()
	in, _ := totals.Received()
	out, _ := totals.Sent()
	require.EqualValues(t, 10, in.Packets)
	require.EqualValues(t, 10, out.Packets)
}

// Each path is measured about once a second, and the measurement counts in its bucket.
func TestPathsAreMeasured(t *testing.T) {
	var totals downlink.Totals
	synctest.Test(t, func(t *testing.T) {
		n := newNarrow(t)
		n.video.f.downlink.CountIn(&totals)
		n.frame(true, 2)
		require.Zero(t, totals.Paths().RTT.Count, "nothing is known")
		n.video.f.downlink.Lost(0.03, 70*time.Millisecond, time.Now())
		for range 10 * 30 {
			n.frame(false, 2)
			time.Sleep(frame)
		}
	})
	p := totals.Paths()
	require.InDelta(t, 10, p.RTT.Count, 3)
	require.Equal(t, p.RTT.Count, p.Loss.Count)
	require.InDelta(t, 0.07*float64(p.RTT.Count), p.RTT.Sum, 0.001)
	require.Zero(t, p.RTT.Counts[2], "none up to 50 ms")
	require.Equal(t, p.RTT.Count, p.RTT.Counts[3], "all up to 100 ms")
}
